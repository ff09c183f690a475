//! The copier: a sync into another namespace of the same datastore, again and again, as a writer beside all others. What it says is copied must
//! stay and be readable, like what a client was told is sealed. It also reads snapshots back and mends what has failed.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pbs_datastore::{
    AuthId, BackupTime, Copied, DatastoreSource, DatastoreTarget, DeleteStats, GroupRef,
    JobContext, Namespace, Result, SnapshotRef, SnapshotSource, SyncGroup, SyncOptions,
    SyncSnapshot, SyncStep, SyncTarget, Verifier, sync,
};
use rand::RngExt as _;
use tokio::sync::watch;

use crate::client::kind_of;
use crate::operator::Operator;
use crate::world::World;

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
            target: DatastoreTarget::new(
                Arc::clone(&self.datastore),
                OWNER.parse().expect("a valid user"),
                NODE,
            ),
        };
        let source = DatastoreSource::new(Arc::clone(&self.datastore));
        let (stop, stopped) = watch::channel(false);
        let job = JobContext::new(Arc::new(|_| {}), stopped);
        let env = self.datastore.env().clone();
        let running = sync(&source, &target, &options, &env, &job);
        let patience = self.rng.random_bool(0.3).then(|| {
            let millis = self.rng.random_range(0..STOP_AFTER_MAX.as_millis() as u64);
            Duration::from_millis(millis)
        });
        let world = Arc::clone(&self.world);
        let stopping = async {
            match patience {
                Some(patience) => tokio::time::sleep(patience).await,
                None => world.wait_stopping().await,
            }
            stop.send_replace(true);
            std::future::pending::<()>().await;
        };
        tokio::select! {
            biased;
            result = running => match result {
                Ok(counts) => format!(
                    "added {}, mended {}, chunks {}, known {}, removed {}, failures {}",
                    counts.added,
                    counts.mended,
                    counts.chunks,
                    counts.known,
                    counts.removed_snapshots,
                    counts.failures.len()
                ),
                Err(error) => kind_of(&error),
            },
            () = stopping => unreachable!("it never ends"),
        }
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

/// A target that tells the oracle.
struct Told {
    world: Arc<World>,
    target: DatastoreTarget,
}

impl std::fmt::Debug for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Told({:?})", self.target)
    }
}

/// The snapshot at the source.
fn original(id: &SnapshotRef) -> SnapshotRef {
    SnapshotRef::new(Namespace::root(), id.snapshot.clone())
}

#[async_trait]
impl SyncTarget for Told {
    fn name(&self) -> String {
        self.target.name()
    }

    async fn namespaces(&self, below: &Namespace, depth: usize) -> Result<Vec<Namespace>> {
        self.target.namespaces(below, depth).await
    }

    async fn create_namespace(&self, namespace: &Namespace) -> Result<()> {
        self.target.create_namespace(namespace).await
    }

    async fn groups(&self, namespace: &Namespace) -> Result<Vec<SyncGroup>> {
        self.target.groups(namespace).await
    }

    fn is_ours(&self, owner: &AuthId) -> bool {
        self.target.is_ours(owner)
    }

    async fn snapshots(&self, group: &GroupRef) -> Result<Vec<SyncSnapshot>> {
        self.target.snapshots(group).await
    }

    async fn copy(
        &self,
        source: &dyn SnapshotSource,
        id: &SnapshotRef,
        step: SyncStep,
        job: &JobContext,
    ) -> Result<Copied> {
        let oracle = &self.world.oracle;
        let known = oracle.copy_begins(&original(id), id);
        let copied = self.target.copy(source, id, step, job).await?;
        if known && step == SyncStep::Add && !copied.gone {
            oracle.finished(0, id);
        }
        Ok(copied)
    }

    async fn remove_snapshot(&self, id: &SnapshotRef) -> Result<()> {
        self.world.oracle.deletion_begins(id);
        self.target.remove_snapshot(id).await
    }

    async fn remove_group(&self, group: &GroupRef, seen: &[BackupTime]) -> Result<DeleteStats> {
        for time in seen {
            self.world.oracle.deletion_begins(&group.at(*time));
        }
        self.target.remove_group(group, seen).await
    }

    async fn remove_namespace(&self, namespace: &Namespace) -> Result<bool> {
        self.target.remove_namespace(namespace).await
    }
}
