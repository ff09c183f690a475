//! What may be sent with a call: name, kind and meaning of each parameter, and the lists that many calls share.
//!
//! The table of calls names these; the OpenAPI document is made from them, settings of sections are taken by them, and debug
//! builds hold every taker of a parameter against them ([`Declared`](super::declared::Declared)).

use pbs_datastore::{BackupType, NAMESPACE_DEPTH_MAX};
use serde_json::{Value, json};

use crate::config::KEEP_MAX;

/// A parameter of a call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parameter {
    /// Its name in path, query, form or JSON body.
    pub(crate) name: &'static str,
    /// What it holds.
    pub(crate) kind: Kind,
    /// Whether the call is refused without it.
    pub(crate) required: bool,
    /// What it means, without a full stop.
    pub(crate) about: &'static str,
}

/// What a parameter holds.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    /// A text.
    Text,
    /// One of these words.
    Word(fn() -> Vec<&'static str>),
    /// A number of bytes, such as `10 GiB`.
    Size,
    /// An integer, from the first to the second.
    Integer(i64, i64),
    /// Yes or no.
    Flag,
    /// At most so many texts.
    List(usize),
    /// It is accepted and means nothing here.
    Ignored,
}

impl Kind {
    /// Whether it is taken as a text.
    pub(crate) fn is_text(self) -> bool {
        matches!(self, Self::Text | Self::Word(_) | Self::Size)
    }

    /// The JSON schema of what is sent.
    pub(crate) fn schema(self) -> Value {
        match self {
            Self::Text => json!({ "type": "string" }),
            Self::Word(words) => json!({ "type": "string", "enum": words() }),
            Self::Size => json!({ "type": "string", "examples": ["1048576", "10 GiB"] }),
            Self::Integer(least, most) => {
                json!({ "type": "integer", "format": "int64", "minimum": least, "maximum": most })
            }
            Self::Flag => json!({ "type": "boolean" }),
            Self::List(most) => {
                json!({ "type": "array", "items": { "type": "string" }, "maxItems": most })
            }
            Self::Ignored => json!({ "type": ["string", "integer", "boolean"] }),
        }
    }
}

impl Parameter {
    const fn new(name: &'static str, kind: Kind, about: &'static str) -> Self {
        Self {
            name,
            kind,
            required: false,
            about,
        }
    }

    /// The same, and the call is refused without it.
    pub(crate) const fn required(mut self) -> Self {
        self.required = true;
        self
    }
}

pub(crate) const fn text(name: &'static str, about: &'static str) -> Parameter {
    Parameter::new(name, Kind::Text, about)
}

pub(crate) const fn word(
    name: &'static str,
    words: fn() -> Vec<&'static str>,
    about: &'static str,
) -> Parameter {
    Parameter::new(name, Kind::Word(words), about)
}

pub(crate) const fn size(name: &'static str, about: &'static str) -> Parameter {
    Parameter::new(name, Kind::Size, about)
}

pub(crate) const fn integer(
    name: &'static str,
    least: i64,
    most: i64,
    about: &'static str,
) -> Parameter {
    Parameter::new(name, Kind::Integer(least, most), about)
}

/// An integer that is not negative.
pub(crate) const fn count(name: &'static str, about: &'static str) -> Parameter {
    integer(name, 0, i64::MAX, about)
}

pub(crate) const fn flag(name: &'static str, about: &'static str) -> Parameter {
    Parameter::new(name, Kind::Flag, about)
}

pub(crate) const fn texts(name: &'static str, most: usize, about: &'static str) -> Parameter {
    Parameter::new(name, Kind::List(most), about)
}

pub(crate) const fn ignored(name: &'static str) -> Parameter {
    Parameter::new(name, Kind::Ignored, "Accepted, and means nothing here")
}

/// Names of settings that are to have their defaults again.
pub(crate) const fn delete(most: usize) -> Parameter {
    texts("delete", most, "Settings that get their defaults again")
}

fn backup_types() -> Vec<&'static str> {
    BackupType::ALL.map(BackupType::as_str).to_vec()
}

pub(crate) const STORE: Parameter = text("store", "The datastore").required();
/// Of a list that can be of one datastore.
pub(crate) const OF_STORE: Parameter = text("store", "Only of this datastore");
pub(crate) const NS: Parameter = text("ns", "The namespace; the root if it is left out");
pub(crate) const NODE: Parameter = Parameter::new(
    "node",
    Kind::Ignored,
    "Any name of a node: there is one, this machine",
)
.required();
pub(crate) const BACKUP_TYPE: Parameter =
    word("backup-type", backup_types, "The type of the group");
pub(crate) const BACKUP_ID: Parameter = text("backup-id", "The id of the group");
pub(crate) const BACKUP_TIME: Parameter = integer(
    "backup-time",
    1,
    i64::MAX,
    "The snapshot's time, in Unix seconds",
);
pub(crate) const MAX_DEPTH: Parameter = integer(
    "max-depth",
    0,
    NAMESPACE_DEPTH_MAX as i64,
    "How many levels of namespaces below it are meant too; all if it is left out",
);
pub(crate) const DIGEST: Parameter = text(
    "digest",
    "The digest of the configuration that the caller has seen; another one is refused",
);
pub(crate) const DRY_RUN: Parameter = flag("dry-run", "Nothing is removed");
pub(crate) const ESTIMATE: Parameter = flag(
    "estimate",
    "The task's log says what would be asked of buckets, and that is all",
);
pub(crate) const NOTES: Parameter = text("notes", "The notes").required();

/// What names a group.
pub(crate) const GROUP: &[Parameter] = &[NS, BACKUP_TYPE.required(), BACKUP_ID.required()];
/// What names a snapshot, beside its group.
pub(crate) const TIME: &[Parameter] = &[BACKUP_TIME.required()];

const fn keep(name: &'static str, about: &'static str) -> Parameter {
    integer(name, 1, KEEP_MAX as i64, about)
}

/// Which snapshots a prune keeps.
pub(crate) const KEEP: &[Parameter] = &[
    keep("keep-last", "How many of the newest stay"),
    keep("keep-hourly", "Of how many hours the newest stays"),
    keep("keep-daily", "Of how many days the newest stays"),
    keep("keep-weekly", "Of how many weeks the newest stays"),
    keep("keep-monthly", "Of how many months the newest stays"),
    keep("keep-yearly", "Of how many years the newest stays"),
];
