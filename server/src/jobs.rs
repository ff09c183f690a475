//! Which jobs run, so that no job runs twice at once on one datastore.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

type Running = Mutex<BTreeSet<(&'static str, String)>>;

fn locked(running: &Running) -> MutexGuard<'_, BTreeSet<(&'static str, String)>> {
    running.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The running jobs; clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Jobs(Arc<Running>);

impl Jobs {
    /// Registers a job of this kind on this datastore; `None` if there is one already.
    pub(crate) fn begin(&self, kind: &'static str, store: &str) -> Option<JobGuard> {
        let key = (kind, store.to_owned());
        locked(&self.0).insert(key.clone()).then(|| JobGuard {
            running: self.0.clone(),
            key,
        })
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
