//! Starts the jobs that are due, as long as the daemon runs.
//!
//! One look: 1. take note of jobs and schedules that are new or gone; 2. start what is due and can be started; 3. sleep until
//! the next job is due, a job ends, a job's settings are changed by a call, or [`LOOK_EVERY`] has passed, in which the
//! configuration may have been changed by hand. A job that cannot be started, because its datastore is not open or too much
//! runs, stays due.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::due::next_run;
use super::key::{JobKey, PlannedJob};
use super::run::start;
use crate::api::ApiError;
use crate::daemon::Daemon;

/// The longest sleep.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// The shortest sleep after a job could not be started.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Runs until the daemon is asked to stop.
pub(crate) async fn run_scheduler(daemon: Arc<Daemon>) {
    let mut delayed = BTreeMap::new();
    while !daemon.shutdown.is_requested() {
        let pause = look(&daemon, &TimeZone::system(), &mut delayed).await;
        tokio::select! {
            biased;
            () = daemon.shutdown.requested() => return,
            () = daemon.jobs.changed() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// One look; answers how long to sleep. `delayed` are the jobs that could not be started, with the time at which they were
/// due, so that each is reported once.
async fn look(
    daemon: &Arc<Daemon>,
    zone: &TimeZone,
    delayed: &mut BTreeMap<JobKey, Timestamp>,
) -> Duration {
    let jobs = PlannedJob::all(&daemon.config.read());
    daemon.jobs.reconcile(daemon, &jobs).await;
    let mut pause = LOOK_EVERY;
    for job in jobs {
        let now = daemon.env.wall();
        // Asked in this order: a run that ends in between has its end in the record.
        let running = daemon.jobs.is_running(&job.key);
        let due = next_run(&job, &daemon.jobs.record(&job.key), zone);
        let Some(due) = due.filter(|_| !running) else {
            continue;
        };
        if let Ok(wait) = Duration::try_from(due.duration_since(now))
            && !wait.is_zero()
        {
            pause = pause.min(wait);
            continue;
        }
        match begin(daemon, &job) {
            Ok(()) => {
                delayed.remove(&job.key);
            }
            Err(error) => {
                pause = pause.min(RETRY_AFTER);
                if delayed.insert(job.key.clone(), due) != Some(due) {
                    tracing::warn!(job = %job.key, %error, "a job is due and cannot be started; it is tried again");
                }
            }
        }
    }
    pause
}

fn begin(daemon: &Arc<Daemon>, job: &PlannedJob) -> Result<(), ApiError> {
    start(daemon, &job.key, None, false).map(drop)
}
