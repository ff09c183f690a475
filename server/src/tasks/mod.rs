//! Long work: each piece has a name, a log on disk, an outcome, and can be asked to stop.
//!
//! Files in the task directory: `index`, one JSON line when a task starts and one when it ends; `log/XX/NAME.log` the
//! logs. Nothing waits for the disk ([`append`]). Order of an end: 1. last log line and outcome, in one step for readers;
//! 2. the log is written; 3. the task counts as finished; 4. the index says so. A crash before 4 leaves a task that the
//! next start finds without an end, and reports as unknown. Nothing is synced: a power loss may cost the newest log
//! lines, never a backup.
//!
//! Memory is bounded: at most [`ACTIVE_MAX`] running tasks, of the finished ones the newest [`FINISHED_MAX`]; older ones
//! go with their logs.

mod append;
mod handle;
mod index;
mod list;
mod log;
mod outcome;
mod registry;
#[cfg(test)]
mod tests;
mod upid;

use std::sync::Arc;

#[cfg(feature = "fuzz")]
pub(crate) use self::index::read_index;
#[expect(unused_imports, reason = "the surface for jobs and endpoints")]
pub(crate) use self::{
    handle::{AbortSignal, Task, TaskLogger},
    index::FINISHED_MAX,
    list::{
        BESIDE_LOG, LISTED_TASK, LOG_LINE, TASK_FILTER, TASK_STATUS, TaskFilter, download_name,
        list_reply, log_reply, status_reply,
    },
    log::LogPage,
    outcome::{Outcome, OutcomeKind},
    registry::{ACTIVE_MAX, TaskError, TaskRegistry, TaskStart},
    upid::{Upid, UpidError},
};

/// A task as it is at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TaskInfo {
    /// Its name.
    pub(crate) upid: Arc<Upid>,
    /// The datastore it is listed under.
    pub(crate) store: Option<String>,
    /// When, in Unix seconds, and how it ended; `None` while it runs.
    pub(crate) end: Option<(i64, Outcome)>,
}
