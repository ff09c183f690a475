//! Which jobs there are: their kinds, their names, and what the configuration says of when they run.

use std::fmt;

use crate::calendar::CalendarEvent;
use crate::config::{Config, JobTarget};

/// What a job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum JobKind {
    /// Collects the garbage of a datastore.
    Gc,
    /// Removes snapshots that no rule keeps.
    Prune,
    /// Reads snapshots back.
    Verify,
    /// Copies snapshots from or to another datastore.
    Sync,
}

impl JobKind {
    /// All of them.
    pub(crate) const ALL: [Self; 4] = [Self::Gc, Self::Prune, Self::Verify, Self::Sync];

    /// The name, as in paths of calls and sections of the configuration.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Gc => "gc",
            Self::Prune => "prune",
            Self::Verify => "verify",
            Self::Sync => "sync",
        }
    }
}

/// One job. Garbage collection has one for each datastore, named like it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct JobKey {
    /// What it does.
    pub(crate) kind: JobKind,
    /// A safe id.
    pub(crate) id: String,
}

impl JobKey {
    /// A job.
    pub(crate) fn new(kind: JobKind, id: &str) -> Self {
        let id = id.to_owned();
        Self { kind, id }
    }
}

impl fmt::Display for JobKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} job '{}'", self.kind.name(), self.id)
    }
}

/// What the configuration says of when a job runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PlannedJob {
    /// Which.
    pub(crate) key: JobKey,
    /// The datastore that it needs.
    pub(crate) store: String,
    /// When; `None` for not by itself.
    pub(crate) schedule: Option<CalendarEvent>,
    /// How much later at most, in seconds.
    pub(crate) jitter_seconds: u64,
}

impl PlannedJob {
    fn of(kind: JobKind, id: &str, target: &JobTarget) -> Self {
        Self {
            key: JobKey::new(kind, id),
            store: target.store.clone(),
            schedule: target.active_schedule().cloned(),
            jitter_seconds: target.jitter_seconds,
        }
    }

    /// The jobs of one kind, in the order of their names.
    pub(crate) fn of_kind(config: &Config, kind: JobKind) -> Vec<Self> {
        match kind {
            JobKind::Gc => config
                .datastores
                .iter()
                .map(|(name, datastore)| Self {
                    key: JobKey::new(kind, name),
                    store: name.clone(),
                    schedule: datastore.gc_schedule.clone(),
                    jitter_seconds: datastore.gc_jitter_seconds,
                })
                .collect(),
            JobKind::Prune => config
                .prune
                .iter()
                .map(|(id, job)| Self::of(kind, id, &job.target))
                .collect(),
            JobKind::Verify => config
                .verify
                .iter()
                .map(|(id, job)| Self::of(kind, id, &job.target))
                .collect(),
            JobKind::Sync => config
                .sync
                .iter()
                .map(|(id, job)| Self::of(kind, id, &job.target))
                .collect(),
        }
    }

    /// All jobs.
    pub(crate) fn all(config: &Config) -> Vec<Self> {
        JobKind::ALL
            .into_iter()
            .flat_map(|kind| Self::of_kind(config, kind))
            .collect()
    }
}
