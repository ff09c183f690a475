//! An open datastore as the source of a sync.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::{SnapshotSource, SyncFile, SyncSnapshot, SyncSource};
use crate::cache::fill::no_memory;
use crate::snapshots::Lock;
use crate::{
    ArchiveName, BackupGroup, CHUNK_ENCODED_BYTES_MAX, Chunk, Datastore, Digest, Error, GroupRef,
    Namespace, Result, SnapshotRef,
};

/// How long a file waits for memory.
const MEMORY_WAIT_MAX: Duration = Duration::from_mins(1);

/// Reads from an open datastore.
#[derive(Debug)]
pub struct DatastoreSource(Arc<Datastore>);

impl DatastoreSource {
    /// Reads everything; what may be read is decided before.
    pub fn new(datastore: Arc<Datastore>) -> Self {
        Self(datastore)
    }
}

#[async_trait]
impl SyncSource for DatastoreSource {
    fn name(&self) -> String {
        format!("datastore '{}'", self.0.name())
    }

    async fn namespaces(&self, below: &Namespace, depth: usize) -> Result<Vec<Namespace>> {
        let snapshots = self.0.snapshots();
        if !snapshots.has_namespace(below).await? {
            return Err(Error::NotFound(format!("namespace '{below}'")));
        }
        snapshots.namespaces(below, depth).await
    }

    async fn groups(&self, namespace: &Namespace) -> Result<Vec<BackupGroup>> {
        let groups = self.0.snapshots().groups_in_use(namespace).await?;
        Ok(groups.into_iter().map(|id| id.group).collect())
    }

    async fn snapshots(&self, group: &GroupRef) -> Result<Vec<SyncSnapshot>> {
        let infos = self.0.snapshots().group_snapshots(group).await?;
        Ok(infos.iter().map(SyncSnapshot::from).collect())
    }

    async fn open(&self, id: &SnapshotRef) -> Result<Option<Arc<dyn SnapshotSource>>> {
        let held = self.0.snapshots().hold(id)?;
        match self.0.snapshots().state(id).await {
            Ok(state) if state.is_root() => {}
            Ok(_) | Err(Error::NotFound(_)) => return Ok(None),
            Err(error) => return Err(error),
        }
        Ok(Some(Arc::new(Snapshot {
            datastore: Arc::clone(&self.0),
            id: id.clone(),
            _held: held,
        })))
    }
}

/// A snapshot of it.
#[derive(Debug)]
struct Snapshot {
    datastore: Arc<Datastore>,
    id: SnapshotRef,
    _held: Lock,
}

#[async_trait]
impl SnapshotSource for Snapshot {
    async fn file(&self, name: &ArchiveName) -> Result<Option<SyncFile>> {
        let snapshots = self.datastore.snapshots();
        let size = snapshots.file_bytes(&self.id, name).await?;
        let budget = self.datastore.reader().budget();
        let size = size.min(CHUNK_ENCODED_BYTES_MAX as u64);
        let permit = budget.take(size, MEMORY_WAIT_MAX).await;
        let permit = Some(permit.ok_or_else(no_memory)?);
        match snapshots.file(&self.id, name).await {
            Ok(bytes) => Ok(Some(SyncFile { bytes, permit })),
            Err(Error::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn chunk(&self, digest: &Digest, bytes: u64) -> Result<Arc<Chunk>> {
        self.datastore.reader().read_for_copy(digest, bytes).await
    }

    fn local(&self) -> Option<&Arc<Datastore>> {
        Some(&self.datastore)
    }
}
