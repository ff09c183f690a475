//! Garbage collection of one datastore.

use std::sync::Arc;

use pbs_datastore::{Datastore, GcOptions, GcStatus};

use super::estimate::say_collection;
use super::run::begin;
use super::{JobKey, JobKind, launch, supervise};
use crate::api::ApiError;
use crate::auth::AuthId;
use crate::daemon::Daemon;
use crate::tasks::{Task, TaskStart, Upid};

/// The worker type of the task.
const KIND: &str = "garbage_collection";

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GcKind {
    /// Garbage is collected.
    Whole,
    /// All but the deletes. Not recorded as a run of the job.
    Dry,
    /// It is said what would be asked of the bucket. Not recorded either.
    Estimate,
}

/// Starts a collection; refused while one runs. An estimate is made at any time.
pub(crate) fn start(
    daemon: &Arc<Daemon>,
    name: &str,
    user: &AuthId,
    kind: GcKind,
) -> Result<Upid, ApiError> {
    let store = daemon.stores.get_writable(name)?;
    let key = JobKey::new(JobKind::Gc, name);
    let start = TaskStart {
        kind: KIND,
        worker_id: name,
        user: user.clone(),
        store: Some(name),
    };
    let (recorded, kept) = match kind {
        GcKind::Whole => (Some(begin(daemon, &key)?), None),
        GcKind::Dry => (None, Some(begin(daemon, &key)?)),
        GcKind::Estimate => (None, None),
    };
    let launched = launch(daemon, &start, recorded, move |daemon, task| {
        Box::pin(async move {
            let _kept = kept;
            say_collection(daemon, task, &store);
            match kind {
                GcKind::Estimate => Ok(()),
                GcKind::Whole | GcKind::Dry => {
                    let dry_run = kind == GcKind::Dry;
                    collect(&store, dry_run, task, daemon).await
                }
            }
        })
    })?;
    Ok(launched.upid)
}

/// Runs the collection; a stop of the task or of the daemon ends it between two batches.
async fn collect(
    store: &Arc<Datastore>,
    dry_run: bool,
    task: &Task,
    daemon: &Daemon,
) -> Result<(), String> {
    let upid = task.upid().to_string();
    let work = |job| async move { store.collect(GcOptions { dry_run }, &upid, &job).await };
    let status = supervise(task, &daemon.shutdown, work).await;
    let status = status.map_err(|error| error.to_string())?;
    for line in summary(&status) {
        task.log(line);
    }
    let faults = [
        (
            status.missing_chunks,
            "chunks are missing; verify the snapshots that need them",
        ),
        (
            status.refused_chunks,
            "chunks could not be deleted: the server refused",
        ),
    ];
    for (count, what) in faults.into_iter().filter(|(count, _)| *count > 0) {
        task.warn(format!("{count} {what}"));
    }
    Ok(())
}

/// What is worth saying besides what the collection itself has logged.
fn summary(status: &GcStatus) -> Vec<String> {
    let mut lines = Vec::new();
    if status.rescued_chunks > 0 {
        lines.push(format!(
            "in use again before they were deleted: {} chunks",
            status.rescued_chunks
        ));
    }
    if status.unknown_chunks > 0 {
        lines.push(format!(
            "no answer whether deleted: {} chunks; they stay locked until it cannot matter",
            status.unknown_chunks
        ));
    }
    if status.disk_bytes > 0 {
        let factor = status.index_data_bytes as f64 / status.disk_bytes as f64;
        lines.push(format!("deduplication factor: {factor:.2}"));
    }
    lines
}
