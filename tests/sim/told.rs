//! A target of a sync that tells the oracle: what it says is copied must stay and be readable, like what a client was told is sealed.

use std::sync::Arc;

use async_trait::async_trait;
use pbs_datastore::{
    AuthId, BackupTime, Copied, DatastoreTarget, DeleteStats, GroupRef, JobContext, Namespace,
    Result, SnapshotRef, SnapshotSource, SyncGroup, SyncSnapshot, SyncStep, SyncTarget,
};

use crate::oracle::Oracle;
use crate::world::World;

/// A datastore as a target; each snapshot comes from the namespace `origin` of a source whose oracle is `originals`.
pub(crate) struct Told {
    pub(crate) world: Arc<World>,
    pub(crate) originals: Arc<Oracle>,
    pub(crate) origin: Namespace,
    pub(crate) target: DatastoreTarget,
}

impl std::fmt::Debug for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Told({:?})", self.target)
    }
}

impl Told {
    /// The snapshot at the source.
    fn original(&self, id: &SnapshotRef) -> SnapshotRef {
        SnapshotRef::new(self.origin.clone(), id.snapshot.clone())
    }
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
        let digests = self.originals.digests_of(&self.original(id));
        let known = digests.is_some();
        if let Some(digests) = digests {
            oracle.copy_begins(id, digests);
        }
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
