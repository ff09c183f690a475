//! Which jobs run, so that no job runs twice at once on one datastore; and how the work of a task is run.

mod verify;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pbs_datastore::JobContext;
use tokio::sync::watch;

use self::verify::Turns;
pub(crate) use self::verify::verify_new;
use crate::shutdown::Shutdown;
use crate::tasks::Task;

type Running = Mutex<BTreeSet<(&'static str, String)>>;

fn locked(running: &Running) -> MutexGuard<'_, BTreeSet<(&'static str, String)>> {
    running.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The running jobs; clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Jobs {
    running: Arc<Running>,
    turns: Turns,
}

impl Jobs {
    /// Registers a job of this kind on this datastore; `None` if there is one already.
    pub(crate) fn begin(&self, kind: &'static str, store: &str) -> Option<JobGuard> {
        let key = (kind, store.to_owned());
        locked(&self.running).insert(key.clone()).then(|| JobGuard {
            running: self.running.clone(),
            key,
        })
    }

    /// Who verifies now.
    fn turns(&self) -> &Turns {
        &self.turns
    }
}

/// A running job, as long as this lives.
#[derive(Debug)]
pub(crate) struct JobGuard {
    running: Arc<Running>,
    key: (&'static str, String),
}

impl Drop for JobGuard {
    fn drop(&mut self) {
        locked(&self.running).remove(&self.key);
    }
}

/// Runs the work of a task: what it logs goes to the task's log, and when the task or the daemon is to stop, so is the
/// work, at its next safe point.
pub(crate) async fn supervise<T, F: Future<Output = T>>(
    task: &Task,
    shutdown: &Shutdown,
    work: impl FnOnce(JobContext) -> F,
) -> T {
    let (stop, stopped) = watch::channel(false);
    let logger = task.logger();
    let work = work(JobContext::new(
        Arc::new(move |line| logger.log(line)),
        stopped,
    ));
    tokio::pin!(work);
    tokio::select! {
        biased;
        result = &mut work => result,
        () = stop_asked(task, shutdown) => {
            stop.send_replace(true);
            work.await
        }
    }
}

async fn stop_asked(task: &Task, shutdown: &Shutdown) {
    let mut abort = task.abort_signal();
    tokio::select! {
        biased;
        () = abort.aborted() => {}
        () = shutdown.requested() => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_runs_once_at_a_time() {
        let jobs = Jobs::default();
        let first = jobs.begin("gc", "a").expect("none runs");
        assert!(jobs.begin("gc", "a").is_none());
        assert!(jobs.begin("gc", "b").is_some());
        drop(first);
        assert!(jobs.begin("gc", "a").is_some());
    }
}
