//! The copier: a sync into another namespace of the same datastore, again and again, as a writer beside all others. What it says is copied must
//! stay and be readable, like what a client was told is sealed. It also reads snapshots back and mends what has failed.

use std::sync::Arc;
use std::time::Duration;

use pbs_datastore::{
    DatastoreSource, DatastoreTarget, Env, JobContext, Namespace, Result, SyncCounts, SyncOptions,
    SyncSource, Verifier, sync,
};
use rand::RngExt as _;
use tokio::sync::watch;

use crate::client::kind_of;
use crate::operator::Operator;
use crate::told::Told;

/// Longest time between two runs.
const PAUSE_MAX: Duration = Duration::from_mins(6);
/// Longest time until a run that is to be stopped is.
const STOP_AFTER_MAX: Duration = Duration::from_mins(2);
const NODE: &str = "sim";
const OWNER: &str = "root@pam";

fn place() -> Namespace {
    "copies".parse().expect("a valid namespace")
}

impl Operator {
    /// Copies, verifies and mends.
    pub(crate) async fn copy(mut self) {
        while !self.world.is_stopping() {
            let world = Arc::clone(&self.world);
            world.think(&mut self.rng, PAUSE_MAX).await;
            if world.is_stopping() {
                return;
            }
            let came = if self.rng.random_bool(0.7) {
                self.sync_once().await
            } else {
                self.verify_once().await
            };
            world.note(&format!("copier: {came}"));
        }
    }

    async fn sync_once(&mut self) -> String {
        let snapshots = self.datastore.snapshots();
        let made = snapshots
            .create_namespace(&Namespace::root(), "copies")
            .await;
        if let Err(error) = made {
            return kind_of(&error);
        }
        let options = SyncOptions {
            target: place(),
            depth: 0,
            transfer_last: self.rng.random_bool(0.3).then_some(2),
            resync_corrupt: self.rng.random_bool(0.5),
            remove_vanished: self.rng.random_bool(0.3),
            workers: self.rng.random_range(1..=2),
            ..SyncOptions::default()
        };
        let target = Told {
            world: Arc::clone(&self.world),
            originals: Arc::clone(&self.world.oracle),
            origin: Namespace::root(),
            target: DatastoreTarget::new(
                Arc::clone(&self.datastore),
                OWNER.parse().expect("a valid user"),
                NODE,
            ),
        };
        let source = DatastoreSource::new(Arc::clone(&self.datastore));
        let env = self.datastore.env().clone();
        let patience = self.rng.random_bool(0.3).then(|| {
            let millis = self.rng.random_range(0..STOP_AFTER_MAX.as_millis() as u64);
            Duration::from_millis(millis)
        });
        let world = Arc::clone(&self.world);
        let stop = async {
            match patience {
                Some(patience) => tokio::time::sleep(patience).await,
                None => world.wait_stopping().await,
            }
        };
        let result = sync_until(&source, &target, &options, &env, stop).await;
        result.as_ref().map_or_else(kind_of, counted)
    }

    async fn verify_once(&mut self) -> String {
        let acknowledged = self.world.oracle.acknowledged();
        if acknowledged.is_empty() {
            return "nothing to verify".to_owned();
        }
        let (id, _) = &acknowledged[self.rng.random_range(0..acknowledged.len())];
        let mut verifier = Verifier::new(Arc::clone(&self.datastore));
        let upid = format!("UPID:{NODE}:00000001:00000002:00000003:6A000000:verify:s:{OWNER}:");
        let (stop, stopped) = watch::channel(false);
        let job = JobContext::new(Arc::new(|_| {}), stopped);
        let verified = verifier.verify(id, &upid, &job).await;
        drop(stop);
        match verified {
            Ok(verified) => format!("{verified:?}"),
            Err(error) => kind_of(&error),
        }
    }
}

/// A sync that is told to stop when `stop` ends.
pub(crate) async fn sync_until(
    source: &dyn SyncSource,
    target: &Told,
    options: &SyncOptions,
    env: &Env,
    stop: impl Future<Output = ()>,
) -> Result<SyncCounts> {
    let (sender, stopped) = watch::channel(false);
    let job = JobContext::new(Arc::new(|_| {}), stopped);
    let stopping = async {
        stop.await;
        sender.send_replace(true);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        biased;
        result = sync(source, target, options, env, &job) => result,
        () = stopping => unreachable!("it never ends"),
    }
}

/// What a sync did, for the history.
pub(crate) fn counted(counts: &SyncCounts) -> String {
    format!(
        "added {}, mended {}, chunks {}, known {}, removed {}, failures {}",
        counts.added,
        counts.mended,
        counts.chunks,
        counts.known,
        counts.removed_snapshots,
        counts.failures.len()
    )
}
