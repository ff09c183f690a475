//! `/admin/datastore/{store}/gc`: start garbage collection, and see what the last one did.

use std::sync::Arc;

use pbs_datastore::{Datastore, GcOptions, GcStatus, Namespace};
use serde_json::{Value, json};

use super::call::{Call, CallResult, data};
use super::error::ApiError;
use super::rule::{AUDIT, MODIFY};
use super::target::{Opened, open};
use crate::daemon::Daemon;
use crate::jobs::supervise;
use crate::shutdown::Shutdown;
use crate::tasks::{Task, TaskStart, Upid};

/// The worker type of the task.
pub(super) const KIND: &str = "garbage_collection";

/// `POST …/gc`: answers the task's id; the collection goes on in the background. With `dry-run` nothing is deleted.
pub(crate) async fn start(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let dry_run = call.params.flag("dry-run")?.unwrap_or(false);
    let Opened { store, .. } = open(&daemon, &mut call, MODIFY, &Namespace::root())?;
    let user = call.who()?.id().clone();
    call.params.finish()?;
    let name = store.name().as_str().to_owned();
    let guard = daemon.jobs.begin(KIND, &name).ok_or_else(|| {
        ApiError::bad_request(format!(
            "garbage collection of datastore '{name}' is running already"
        ))
    })?;
    let work = daemon.shutdown.begin_work();
    let work = work.ok_or_else(|| ApiError::unavailable("the daemon is stopping"))?;
    let task = daemon.tasks.start(&TaskStart {
        kind: KIND,
        worker_id: &name,
        user,
        store: Some(&name),
    })?;
    let upid = task.upid().to_string();
    let shutdown = daemon.shutdown.clone();
    drop(daemon.env.spawn(async move {
        let _work = work;
        let result = collect(&store, dry_run, &task, &shutdown).await;
        // Whoever sees the end may start the next one.
        drop(guard);
        task.finish(result).await;
    }));
    data(&upid)
}

/// Runs the collection; a stop of the task or of the daemon ends it between two batches.
async fn collect(
    store: &Arc<Datastore>,
    dry_run: bool,
    task: &Task,
    shutdown: &Shutdown,
) -> Result<(), String> {
    let upid = task.upid().to_string();
    let work = |job| async move { store.collect(GcOptions { dry_run }, &upid, &job).await };
    let status = supervise(task, shutdown, work).await;
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

/// `GET …/gc`: the last status, with how its task ended beside it.
pub(crate) async fn status(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let Opened { store, .. } = open(&daemon, &mut call, AUDIT, &Namespace::root())?;
    call.params.finish()?;
    let status = store.gc_status().unwrap_or_default();
    let mut body = to_json(&status)?;
    body["store"] = json!(store.name().as_str());
    let task = status
        .upid
        .as_deref()
        .and_then(|upid| upid.parse::<Upid>().ok())
        .and_then(|upid| daemon.tasks.find(&upid).ok());
    if let Some(task) = task
        && let Some((time, outcome)) = &task.end
    {
        body["last-run-endtime"] = json!(time);
        body["last-run-state"] = json!(outcome.to_string());
        body["duration"] = json!((time - task.upid.start_time()).max(0));
    }
    data(&body)
}

/// The status as clients know it.
pub(crate) fn to_json(status: &GcStatus) -> Result<Value, ApiError> {
    serde_json::to_value(status).map_err(|error| {
        tracing::error!(%error, "a status cannot be written as JSON");
        ApiError::internal("the status cannot be written as JSON")
    })
}
