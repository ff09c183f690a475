//! A datastore of another server as the source of a sync: lists over REST, snapshots over the reader protocol.

use std::sync::Arc;

use async_trait::async_trait;
use http::{Method, StatusCode};
use pbs_datastore::index::INDEX_BYTES_MAX;
use pbs_datastore::{
    ArchiveName, BackupGroup, CHUNK_ENCODED_BYTES_MAX, Chunk, DataBlob, Digest, Error, GroupRef,
    HEADER_BYTES_MAX, MemoryBudget, NAMESPACE_DEPTH_MAX, Namespace, Result, SnapshotRef,
    SnapshotSource, SyncFile, SyncSnapshot, SyncSource,
};

use super::{MEMORY_WAIT_MAX, NAMESPACES_SINCE, RemoteStore};
use crate::client::http::{H2, Parts, RequestError, query};
use crate::client::session::Upgrade;

/// See the module page.
#[derive(Debug)]
pub(crate) struct RemoteSource(pub(crate) Arc<RemoteStore>);

#[async_trait]
impl SyncSource for RemoteSource {
    fn name(&self) -> String {
        self.0.name()
    }

    async fn namespaces(&self, below: &Namespace, depth: usize) -> Result<Vec<Namespace>> {
        match self.0.namespaces(below, depth).await {
            Ok(found) => Ok(found),
            // A server from before namespaces: it has the root, and nobody asked for less than everything.
            Err(error)
                if error.status() == Some(StatusCode::NOT_FOUND)
                    && below.is_root()
                    && depth >= NAMESPACE_DEPTH_MAX
                    && self.0.version().await? < NAMESPACES_SINCE =>
            {
                Ok(vec![Namespace::root()])
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn groups(&self, namespace: &Namespace) -> Result<Vec<BackupGroup>> {
        let groups = self.0.groups(namespace).await?;
        Ok(groups.into_iter().map(|group| group.group).collect())
    }

    async fn snapshots(&self, group: &GroupRef) -> Result<Vec<SyncSnapshot>> {
        self.0.snapshots(group).await
    }

    async fn open(&self, id: &SnapshotRef) -> Result<Option<Arc<dyn SnapshotSource>>> {
        let session = self.0.connect().await?;
        let upgraded = session.upgrade(Upgrade::Reader, &id.namespace, &id.snapshot);
        let refusal = match upgraded.await {
            Ok(h2) => {
                return Ok(Some(Arc::new(Reader {
                    h2,
                    budget: self.0.budget.clone(),
                })));
            }
            Err(error) if error.status().is_some() => error,
            Err(error) => return Err(error.into()),
        };
        // All refusals have the same status: whether the snapshot is gone, the list tells.
        let listed = self.0.snapshots(&id.group()).await?;
        if listed.iter().any(|other| other.time == id.snapshot.time) {
            return Err(refusal.into());
        }
        Ok(None)
    }
}

/// A reader session.
struct Reader {
    h2: H2,
    budget: MemoryBudget,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reader")
    }
}

#[async_trait]
impl SnapshotSource for Reader {
    async fn file(&self, name: &ArchiveName) -> Result<Option<SyncFile>> {
        let target = format!("/download?{}", query(&[("file-name", name.to_string())]));
        let bytes_max = if name.kind().is_index() {
            INDEX_BYTES_MAX
        } else {
            CHUNK_ENCODED_BYTES_MAX
        };
        match self.h2.fetch(&target, bytes_max, &self.budget).await {
            Ok((bytes, permit)) => Ok(Some(SyncFile {
                bytes,
                permit: Some(permit),
            })),
            Err(RequestError::Refused { status, .. }) if is_absent(name, status) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn chunk(&self, digest: &Digest, bytes: u64) -> Result<Arc<Chunk>> {
        let longest = (bytes + HEADER_BYTES_MAX).min(CHUNK_ENCODED_BYTES_MAX as u64);
        let permit = self.budget.take(longest, MEMORY_WAIT_MAX).await;
        let mut permit = permit
            .ok_or_else(|| Error::Busy("no memory for a chunk was free in time".to_owned()))?;
        let target = format!("/chunk?{}", query(&[("digest", digest.to_string())]));
        let bytes_max = longest as usize;
        let answer = self
            .h2
            .send(Method::GET, &target, Parts::empty(), bytes_max);
        let encoded = answer.await.map_err(|error| match Error::from(error) {
            Error::Remote { why, transient } => Error::Remote {
                why: format!("chunk {digest}: {why}"),
                transient,
            },
            error => error,
        })?;
        permit.shrink_to(encoded.len() as u64);
        let blob = DataBlob::parse(encoded).map_err(|fault| Error::ChunkCorrupt {
            digest: *digest,
            fault: format!("as the other server sent it: {fault}"),
        })?;
        Ok(Arc::new(Chunk::new(blob, Some(permit))))
    }
}

/// Whether a refusal means that there is no such file. Of the log, which need not be there, any does.
fn is_absent(name: &ArchiveName, status: StatusCode) -> bool {
    *name == ArchiveName::client_log()
        || (status == StatusCode::NOT_FOUND && !name.kind().is_index())
}
