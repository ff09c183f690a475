//! Verification of new snapshots (`verify-new`): each is read back in the background once its session has ended
//! (`pbs-interface.md` 1.6, 7.4).
//!
//! At most [`TURNS`] snapshots are read at once; the others wait, and their tasks say so. A stop of the task or of the
//! daemon ends it without a result.

use std::sync::Arc;

use pbs_datastore::{Datastore, SnapshotRef, Verifier, VerifyOutcome};
use tokio::sync::Semaphore;

use super::{stop_asked, supervise};
use crate::api::ApiError;
use crate::daemon::Daemon;
use crate::protocol::SessionSubject;
use crate::shutdown::WorkGuard;
use crate::tasks::{Task, TaskStart};

/// The worker type of the task.
const KIND: &str = "verify";
/// Snapshots that are read at once: more would only slow down each other and the backups.
pub(super) const TURNS: usize = 2;

/// Who may read now.
#[derive(Debug, Clone)]
pub(super) struct Turns(Arc<Semaphore>);

impl Default for Turns {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(TURNS)))
    }
}

/// Begins to verify the snapshot of a session that has ended, if its datastore is set to `verify-new`.
pub(crate) fn verify_new(daemon: &Arc<Daemon>, subject: &SessionSubject) {
    let name = subject.store.as_str();
    let settings = daemon.config.read();
    let wanted = settings.datastores.get(name);
    if !wanted.is_some_and(|settings| settings.verify_new) {
        return;
    }
    // A daemon that stops leaves the snapshot as it is: not verified.
    let Some(work) = daemon.shutdown.begin_work() else {
        return;
    };
    if let Err(error) = begin(daemon, subject, work) {
        let snapshot = &subject.snapshot;
        tracing::error!(datastore = name, %snapshot, %error, "the new snapshot cannot be verified");
    }
}

fn begin(daemon: &Arc<Daemon>, subject: &SessionSubject, work: WorkGuard) -> Result<(), ApiError> {
    let store = daemon.stores.get_writable(subject.store.as_str())?;
    let id = SnapshotRef::new(subject.namespace.clone(), subject.snapshot.clone());
    let task = daemon.tasks.start(&TaskStart {
        kind: KIND,
        worker_id: &subject.worker_id(),
        user: subject.author.clone(),
        store: Some(subject.store.as_str()),
    })?;
    let daemon = Arc::clone(daemon);
    let env = daemon.env.clone();
    drop(env.spawn(async move {
        let _work = work;
        let result = run(&daemon, &task, store, &id).await;
        task.finish(result).await;
    }));
    Ok(())
}

async fn run(
    daemon: &Daemon,
    task: &Task,
    store: Arc<Datastore>,
    id: &SnapshotRef,
) -> Result<(), String> {
    let turns = Arc::clone(&daemon.jobs.turns().0);
    if turns.available_permits() == 0 {
        task.log("waiting for other verifications");
    }
    let _turn = tokio::select! {
        turn = turns.acquire() => turn,
        () = stop_asked(task, &daemon.shutdown) => {
            return Err("stopped before its turn came".to_owned());
        }
    };
    let upid = task.upid().to_string();
    let work = |job| async move { Verifier::new(store).verify(id, &upid, &job).await };
    match supervise(task, &daemon.shutdown, work).await {
        Ok(VerifyOutcome::Ok) => Ok(()),
        Ok(VerifyOutcome::Failed) => Err(format!("verification of snapshot {id} failed")),
        Err(error) => Err(error.to_string()),
    }
}
