//! What all runs have in common.
//!
//! 1. The job is registered as running: there is one run of it at a time, whoever starts it.
//! 2. A task is started, and the record says so.
//! 3. The work.
//! 4. The record gets the end.
//! 5. The job counts as ended, and then the task: whoever sees its end may start the next.
//!
//! A crash before 2 leaves nothing; from 2 to 4 a run without an end ([`super::record`]).

use std::sync::Arc;

use futures_util::future::BoxFuture;
use s3_client::{Tally, attributed};
use tokio::task::JoinHandle;

use super::estimate::say_asked;
use super::gc::GcKind;
use super::{JobGuard, JobKey, JobKind, gc, prune, sync, verify};
use crate::api::ApiError;
use crate::auth::{AuthId, Principal};
use crate::daemon::Daemon;
use crate::tasks::{Task, TaskStart, Upid};

/// A task that runs.
#[derive(Debug)]
pub(crate) struct Launched<T> {
    /// Its name.
    pub(crate) upid: Upid,
    running: JoinHandle<Result<T, String>>,
}

impl<T> Launched<T> {
    /// Waits for the end of the task; the error is the one it ended with.
    pub(crate) async fn result(self) -> Result<T, ApiError> {
        match self.running.await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(fault)) => Err(ApiError::bad_request(fault)),
            Err(_) => Err(ApiError::bad_request("the task was cut off")),
        }
    }
}

/// Starts a task that does `work`. With `job` it is a run of that job, and recorded as such.
pub(crate) fn launch<T: Send + 'static>(
    daemon: &Arc<Daemon>,
    start: &TaskStart<'_>,
    mut job: Option<JobGuard>,
    work: impl for<'a> FnOnce(&'a Arc<Daemon>, &'a Task) -> BoxFuture<'a, Result<T, String>>
    + Send
    + 'static,
) -> Result<Launched<T>, ApiError> {
    let working = daemon.shutdown.begin_work();
    let working = working.ok_or_else(|| ApiError::unavailable("the daemon is stopping"))?;
    let user = start.store.map(|store| {
        let user = daemon.jobs.use_store(store);
        user.ok_or_else(|| {
            ApiError::unavailable(format!(
                "datastore '{store}' is being closed; try again in a moment"
            ))
        })
    });
    let user = user.transpose()?;
    let task = daemon.tasks.start(start)?;
    if let Some(job) = &mut job {
        job.begun = true;
    }
    let upid = task.upid().clone();
    let daemon = Arc::clone(daemon);
    let env = daemon.env.clone();
    let running = env.spawn(async move {
        let _working = working;
        if let Some(job) = &job {
            let (jobs, key, upid) = (daemon.jobs.clone(), job.key().clone(), task.upid().clone());
            let now = daemon.env.wall();
            let note = daemon
                .env
                .io(move |_| jobs.0.records.begin(&key, &upid, now));
            note.await;
        }
        let tally = Arc::new(Tally::default());
        let result = attributed(Arc::clone(&tally), work(&daemon, &task)).await;
        say_asked(&daemon, &task, &tally);
        let (value, result) = match result {
            Ok(value) => (Ok(value), Ok(())),
            Err(fault) => (Err(fault.clone()), Err(fault)),
        };
        if let Some(job) = job {
            let outcome = task.outcome(&result);
            let (jobs, key, upid) = (daemon.jobs.clone(), job.key().clone(), task.upid().clone());
            let now = daemon.env.wall();
            let note = daemon
                .env
                .io(move |_| jobs.0.records.end(&key, &upid, now, &outcome));
            note.await;
            drop(job);
        }
        drop(user);
        task.finish(result).await;
        value
    });
    Ok(Launched { upid, running })
}

/// Registers a run of a job.
pub(super) fn begin(daemon: &Daemon, key: &JobKey) -> Result<JobGuard, ApiError> {
    let guard = daemon.jobs.begin(key);
    guard.ok_or_else(|| match key.kind {
        JobKind::Gc => ApiError::bad_request(format!(
            "garbage collection of datastore '{}' is running already",
            key.id
        )),
        JobKind::Prune | JobKind::Verify | JobKind::Sync => {
            ApiError::bad_request(format!("{key} is running already"))
        }
    })
}

/// Starts a run of a configured job: as the superuser when the schedule does, otherwise within the rights of whoever asks. An `estimate`
/// only says what a verification or a sync would ask of buckets.
pub(crate) fn start(
    daemon: &Arc<Daemon>,
    key: &JobKey,
    who: Option<&Principal>,
    estimate: bool,
) -> Result<Upid, ApiError> {
    let user = who.map_or_else(AuthId::root, |who| who.id().clone());
    match key.kind {
        JobKind::Gc => gc::start(daemon, &key.id, &user, GcKind::Whole),
        JobKind::Prune => prune::start_job(daemon, key, user, who),
        JobKind::Verify => verify::start_job(daemon, key, user, who, estimate),
        JobKind::Sync => sync::start_job(daemon, key, user, estimate),
    }
}
