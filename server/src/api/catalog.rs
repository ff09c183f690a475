//! `GET /admin/datastore/{store}/catalog`: what is in one directory of a snapshot, by the catalog that its client sent.
//!
//! A catalog is whatever a client made it. One request reads one directory, within the bounds of [`CatalogReader`], and answers
//! at most [`ANSWER_BYTES_MAX`]; few are answered at once, as they take turns with downloads.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use pbs_datastore::{ArchiveName, CatalogEntry, CatalogKind, CatalogReader};
use serde::Serialize;

use super::call::{Call, CallResult, data};
use super::download::open_to_read;
use super::error::ApiError;
use super::parameter::{Parameter, text};
use super::shape::{Shape, always, maybe};
use crate::daemon::Daemon;
use crate::protocol::missing;

/// The catalog of directory backups.
const CATALOG: &str = "catalog.pcat1.didx";
/// Longest answer, in bytes, about.
const ANSWER_BYTES_MAX: usize = 8 << 20;
/// What is asked of the memory for one request: a table, a chunk, and the answer.
const MEMORY_BYTES: u64 = 16 << 20;

/// Which directory of which catalog.
pub(super) const WHERE: &[Parameter] = &[
    text(
        "filepath",
        "The path of the directory in base64, beginning with the archive; root or / for the list of archives",
    )
    .required(),
    text("archive-name", "The catalog; catalog.pcat1.didx if it is left out"),
];

/// [`Entry`] on the wire.
pub(super) const ENTRY: Shape = Shape::Object(&[&[
    always("filepath", Shape::Text),
    always("text", Shape::Text),
    always("type", Shape::Text),
    always("leaf", Shape::Flag),
    maybe("size", Shape::Integer),
    maybe("mtime", Shape::Integer),
]]);

/// An entry of a directory as clients see it.
#[derive(Serialize)]
struct Entry {
    filepath: String,
    text: String,
    r#type: char,
    leaf: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mtime: Option<i64>,
}

impl Entry {
    fn of(directory: &[u8], entry: &CatalogEntry) -> Self {
        let path = [directory, b"/", &entry.name].concat();
        let (size, mtime) = match entry.kind {
            CatalogKind::File { size, mtime } => (Some(size), Some(mtime)),
            _ => (None, None),
        };
        let is_directory = matches!(entry.kind, CatalogKind::Directory(_));
        Self {
            filepath: STANDARD.encode(path),
            text: String::from_utf8_lossy(&entry.name).into_owned(),
            // Archives are directories of no file system.
            r#type: match entry.kind {
                CatalogKind::Directory(_) if directory.is_empty() => 'v',
                kind => kind.letter(),
            },
            leaf: !is_directory,
            size,
            mtime,
        }
    }

    /// About how many bytes it has in an answer.
    fn bytes(&self) -> usize {
        100 + self.filepath.len() + self.text.len()
    }
}

/// The path that is meant; empty for the root.
fn path_of(given: &str) -> Result<Vec<u8>, ApiError> {
    if ["root", "/"].contains(&given) {
        return Ok(Vec::new());
    }
    STANDARD.decode(given).map_err(|_| {
        ApiError::bad_request(
            "parameter verification failed: 'filepath' is neither 'root' nor a path in base64",
        )
    })
}

/// `GET …/catalog`
pub(crate) async fn list(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let path: String = call.params.required("filepath")?;
    let path = path_of(&path)?;
    let name: Option<ArchiveName> = call.params.optional("archive-name")?;
    let catalog: ArchiveName = CATALOG.parse().expect("it is a name of an archive");
    let name = name.unwrap_or_else(|| catalog.clone());
    let opened = open_to_read(&daemon, call).await?;
    if name != catalog {
        return Err(ApiError::bad_request(format!(
            "'{name}' is no catalog: only '{CATALOG}' can be listed, which clients make in the detection mode 'legacy'"
        )));
    }
    if opened.reader().is_encrypted(&name).await? {
        return Err(ApiError::bad_request(
            "the catalog is encrypted: only a client that has the key can read it",
        ));
    }
    let (index, _index_memory) = opened.index(&name).await?;
    let (_turn, _memory) = opened.turn(MEMORY_BYTES).await?;
    let mut reader = CatalogReader::new(Arc::clone(opened.reader().chunks()), index);
    let names: Vec<&[u8]> = path
        .split(|byte| *byte == b'/')
        .filter(|name| !name.is_empty())
        .collect();
    let directory = reader.directory(&names).await.map_err(missing)?;
    let place: Vec<u8> = names
        .iter()
        .flat_map(|name| [b"/", *name].concat())
        .collect();
    let place = Bytes::from(place);
    let listing = move || {
        let mut bytes = 0;
        let mut list = Vec::new();
        for entry in directory.entries()? {
            let entry = Entry::of(&place, &entry?);
            bytes += entry.bytes();
            if bytes > ANSWER_BYTES_MAX {
                return Err(pbs_datastore::Error::Invalid(format!(
                    "the directory has too many entries for one answer ({ANSWER_BYTES_MAX} bytes); download the catalog instead"
                )));
            }
            list.push(entry);
        }
        Ok(list)
    };
    data(&daemon.env.compute(listing).await?)
}
