//! What the daemon does by itself, or is asked to do, besides serving: jobs, their runs, and when they run.
//!
//! | file | what |
//! |---|---|
//! | `key.rs` | which jobs there are |
//! | `due.rs`, `record.rs`, `scheduler.rs` | when each is due, what is known of its past, and who starts it |
//! | `run.rs` | what all runs have in common: one at a time, a task with a log, an end that is recorded |
//! | `estimate.rs` | what a run will ask of a bucket, and what it did |
//! | `gc.rs`, `prune.rs`, `verify.rs`, `sync.rs` | the kinds |
//! | `refresh.rs`, `moving.rs` | tasks that are no jobs |
//!
//! Decision 0012 says why.

mod due;
mod estimate;
pub(crate) mod gc;
mod key;
pub(crate) mod moving;
pub(crate) mod prune;
mod record;
pub(crate) mod refresh;
mod run;
mod scheduler;
pub(crate) mod scope;
pub(crate) mod sync;
#[cfg(test)]
mod tests;
pub(crate) mod verify;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pbs_datastore::JobContext;
use tokio::sync::{Notify, watch};

use self::record::JobRecords;
use self::verify::Turns;
pub(crate) use self::{
    due::next_run,
    key::{JobKey, JobKind, PlannedJob},
    record::JobRecord,
    run::{Launched, launch, start},
    scheduler::run_scheduler,
    scope::Scope,
};
use crate::daemon::Daemon;
use crate::shutdown::Shutdown;
use crate::tasks::Task;

#[derive(Debug)]
struct Shared {
    running: Mutex<BTreeSet<JobKey>>,
    users: Mutex<BTreeMap<String, StoreUse>>,
    records: JobRecords,
    changed: Notify,
    turns: Turns,
}

impl Shared {
    fn users(&self) -> MutexGuard<'_, BTreeMap<String, StoreUse>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn running(&self) -> MutexGuard<'_, BTreeSet<JobKey>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The jobs; clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Jobs(Arc<Shared>);

impl Jobs {
    /// The jobs whose records are kept in `dir`; none runs. Blocks.
    pub(crate) fn open(dir: &Path) -> Self {
        Self(Arc::new(Shared {
            running: Mutex::default(),
            users: Mutex::default(),
            records: JobRecords::open(dir),
            changed: Notify::new(),
            turns: Turns::default(),
        }))
    }

    /// Registers a run; `None` if the job runs already.
    pub(crate) fn begin(&self, key: &JobKey) -> Option<JobGuard> {
        self.0.running().insert(key.clone()).then(|| JobGuard {
            jobs: self.clone(),
            key: key.clone(),
            begun: false,
        })
    }

    /// Whether the job runs.
    pub(crate) fn is_running(&self, key: &JobKey) -> bool {
        self.0.running().contains(key)
    }

    /// Registers a task that works with a datastore; `None` while the datastore is kept free of them.
    pub(crate) fn use_store(&self, store: &str) -> Option<StoreUser> {
        let mut users = self.0.users();
        match users.entry(store.to_owned()).or_default() {
            StoreUse::KeptFree => return None,
            StoreUse::Tasks(count) => *count += 1,
        }
        drop(users);
        Some(StoreUser {
            jobs: self.clone(),
            store: store.to_owned(),
        })
    }

    /// Keeps tasks away from a datastore that is to be closed; `None` if one works with it.
    pub(crate) fn keep_free(&self, store: &str) -> Option<StoreUser> {
        let mut users = self.0.users();
        match users.entry(store.to_owned()).or_default() {
            free @ StoreUse::Tasks(0) => *free = StoreUse::KeptFree,
            StoreUse::Tasks(_) | StoreUse::KeptFree => return None,
        }
        drop(users);
        Some(StoreUser {
            jobs: self.clone(),
            store: store.to_owned(),
        })
    }

    /// What is known of the job's past.
    pub(crate) fn record(&self, key: &JobKey) -> JobRecord {
        self.0.records.get(key)
    }

    /// Lets the scheduler look again at once.
    pub(crate) fn look_again(&self) {
        self.0.changed.notify_one();
    }

    /// Returns when there is something to look at.
    async fn changed(&self) {
        self.0.changed.notified().await;
    }

    /// Takes note of the jobs that the configuration names.
    pub(crate) async fn reconcile(&self, daemon: &Daemon, jobs: &[PlannedJob]) {
        let (shared, jobs, now) = (Arc::clone(&self.0), jobs.to_vec(), daemon.env.wall());
        let note = daemon.env.io(move |_| {
            let running = || shared.running().clone();
            shared.records.reconcile(&jobs, running, now);
        });
        note.await;
    }

    /// Who verifies now.
    fn turns(&self) -> &Turns {
        &self.0.turns
    }
}

/// Who works with a datastore.
#[derive(Debug)]
enum StoreUse {
    /// So many tasks.
    Tasks(usize),
    /// Nobody may.
    KeptFree,
}

impl Default for StoreUse {
    fn default() -> Self {
        Self::Tasks(0)
    }
}

/// A task that works with a datastore, or whoever keeps them away; as long as this lives.
#[derive(Debug)]
pub(crate) struct StoreUser {
    jobs: Jobs,
    store: String,
}

impl Drop for StoreUser {
    fn drop(&mut self) {
        let mut users = self.jobs.0.users();
        let left = match users.get(&self.store) {
            Some(StoreUse::Tasks(count)) => count.saturating_sub(1),
            Some(StoreUse::KeptFree) | None => 0,
        };
        if left == 0 {
            users.remove(&self.store);
        } else {
            users.insert(self.store.clone(), StoreUse::Tasks(left));
        }
    }
}

/// A running job, as long as this lives.
#[derive(Debug)]
pub(crate) struct JobGuard {
    jobs: Jobs,
    key: JobKey,
    /// Its task was started.
    begun: bool,
}

impl JobGuard {
    /// Which job.
    pub(crate) fn key(&self) -> &JobKey {
        &self.key
    }
}

impl Drop for JobGuard {
    fn drop(&mut self) {
        self.jobs.0.running().remove(&self.key);
        // One that could not be started is tried again when its time has come.
        if self.begun {
            self.jobs.look_again();
        }
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
