//! The kinds of jobs that are sections of the configuration, and their settings.

use serde_json::Value;

use super::RUN;
use super::entry::entry;
use super::rights::{self, Extent};
use crate::api::call::Call;
use crate::api::error::ApiError;
use crate::api::parameter::{
    KEEP, MAX_DEPTH, NS, Parameter, count, flag, ignored, size, text, texts, word,
};
use crate::api::settings::Settings;
use crate::api::shape::{Member, Shape, always};
use crate::api::verify::LIMITS;
use crate::auth::Principal;
use crate::config::{Config, SyncDirection};
use crate::daemon::Daemon;
use crate::jobs::{JobKey, JobKind};

/// Most elements of a list.
const LIST_MAX: usize = 128;

/// A kind of jobs.
pub(super) struct Section {
    pub(super) kind: JobKind,
    /// `/config/KIND`, `/config/KIND/{id}`, `/admin/KIND`, `/admin/KIND/{id}/run`.
    pub(super) paths: [&'static str; 4],
    /// All settings of a job.
    pub(super) settings: &'static [&'static [Parameter]],
    /// A job as it is configured.
    pub(super) entry: Shape,
    /// The same with how it stands.
    pub(super) state: Shape,
}

/// All of them.
pub(super) static ALL: &[Section] = &[PRUNE, VERIFY, SYNC];

const ID: &[Member] = &[always("id", Shape::Text)];

/// What all kinds have, but for the namespace.
const JOB: &[Parameter] = &[
    STORE_HERE,
    NS,
    MAX_DEPTH,
    text(
        "schedule",
        "When it runs by itself, a calendar event; never if it is left out",
    ),
    count("jitter-seconds", "How many seconds later it may run"),
    flag("disable", "It does not run by itself"),
    text("comment", "One line for people"),
];

const PRUNE: Section = Section {
    kind: JobKind::Prune,
    paths: [
        "config/prune",
        "config/prune/{id}",
        "admin/prune",
        "admin/prune/{id}/run",
    ],
    settings: &[JOB, KEEP],
    entry: Shape::Section(&[JOB, KEEP], &[ID]),
    state: Shape::Section(&[JOB, KEEP], &[ID, RUN]),
};

const VERIFY: Section = Section {
    kind: JobKind::Verify,
    paths: [
        "config/verify",
        "config/verify/{id}",
        "admin/verify",
        "admin/verify/{id}/run",
    ],
    settings: &[JOB, LIMITS],
    entry: Shape::Section(&[JOB, LIMITS], &[ID]),
    state: Shape::Section(&[JOB, LIMITS], &[ID, RUN]),
};

const SYNC: Section = Section {
    kind: JobKind::Sync,
    paths: [
        "config/sync",
        "config/sync/{id}",
        "admin/sync",
        "admin/sync/{id}/run",
    ],
    settings: SYNC_SETTINGS,
    entry: Shape::Section(SYNC_SETTINGS, &[ID]),
    state: Shape::Section(SYNC_SETTINGS, &[ID, RUN]),
};

const SYNC_SETTINGS: &[&[Parameter]] = &[
    JOB,
    &[
        text(
            "owner",
            "Whose groups are written, and whose new ones become",
        ),
        word("sync-direction", directions, "Which way snapshots go"),
        ignored("run-on-mount"),
        ignored("unmount-on-done"),
    ],
    COPY,
];

/// What is copied, and how: what a sync that is no job has too.
pub(in crate::api) const COPY: &[Parameter] = &[
    text(
        "remote",
        "The other server; this daemon itself if it is left out",
    ),
    text("remote-store", "The datastore there"),
    text(
        "remote-ns",
        "The namespace there; the root if it is left out",
    ),
    texts(
        "group-filter",
        LIST_MAX,
        "Which groups, such as `type:vm`, `exclude:group:vm/100`, `regex:^host/web`",
    ),
    count(
        "transfer-last",
        "Only so many of the newest snapshots of each group",
    ),
    count("worker-threads", "How many groups side by side"),
    size(
        "rate-in",
        "Bytes per second from the remote at most; 0 for no limit",
    ),
    size("burst-in", "How many bytes may come at once after a pause"),
    size(
        "rate-out",
        "Bytes per second to the remote at most; 0 for no limit",
    ),
    size("burst-out", "How many bytes may go at once after a pause"),
    flag("remove-vanished", "Remove what is gone where it came from"),
    flag("resync-corrupt", "Bring again what failed its verification"),
    flag("encrypted-only", "Only snapshots that are all encrypted"),
    flag(
        "verified-only",
        "Only snapshots that were verified and found good",
    ),
];

/// Of what here, for a sync that is no job: it has all of a job's settings but for when it runs, and which way.
pub(in crate::api) const HERE: &[Parameter] = &[STORE_HERE, NS, MAX_DEPTH];

const STORE_HERE: Parameter = text("store", "The datastore here");

fn directions() -> Vec<&'static str> {
    [SyncDirection::Pull, SyncDirection::Push]
        .map(SyncDirection::name)
        .to_vec()
}

impl Section {
    pub(super) fn name(&self) -> &'static str {
        self.kind.name()
    }

    pub(super) fn none(&self, id: &str) -> ApiError {
        ApiError::bad_request(format!("there is no {}", JobKey::new(self.kind, id)))
    }

    pub(super) fn take(&self, call: &mut Call) -> Result<Settings, ApiError> {
        Settings::take(&mut call.params, self.settings)
    }

    /// A job as it is configured.
    pub(super) fn find(&self, config: &Config, id: &str) -> Result<Value, ApiError> {
        let there = match self.kind {
            JobKind::Gc => false,
            JobKind::Prune => config.prune.contains_key(id),
            JobKind::Verify => config.verify.contains_key(id),
            JobKind::Sync => config.sync.contains_key(id),
        };
        if there {
            Ok(entry(config, self.kind, id))
        } else {
            Err(self.none(id))
        }
    }

    /// A job that the caller may change and run: what is below its namespace does not count, for it may be made
    /// smaller, and run as far as the own rights go. To whoever does not even see it there is no such job.
    pub(super) fn demand_job(
        &self,
        daemon: &Daemon,
        who: &Principal,
        config: &Config,
        id: &str,
    ) -> Result<Value, ApiError> {
        let job = self.find(config, id)?;
        match rights::demand(daemon, who, self.kind, &job, Extent::Top) {
            Ok(()) => Ok(job),
            Err(refusal) if rights::sees(daemon, who, &job) => Err(refusal),
            Err(_) => Err(self.none(id)),
        }
    }
}
