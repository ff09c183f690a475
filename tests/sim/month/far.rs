//! A datastore of another process as the source of a sync. Each call is work of that process: if it dies, the call fails as a
//! broken line does, and so does each one until a new process runs. Calls are lost now and then.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use pbs_datastore::{
    ArchiveName, BackupGroup, Chunk, DatastoreSource, Digest, Error, GroupRef, Namespace, Result,
    SnapshotRef, SnapshotSource, SyncFile, SyncSnapshot, SyncSource,
};
use rand::RngExt as _;
use rand::rngs::StdRng;

use super::side::{Side, Up};

/// See the page of this module.
#[derive(Clone)]
pub(super) struct Far {
    side: Arc<Side>,
    rng: Arc<Mutex<StdRng>>,
    break_odds: f64,
}

impl std::fmt::Debug for Far {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Far({})", self.side.name)
    }
}

fn broken() -> Error {
    Error::Remote {
        why: "the other daemon does not answer".to_owned(),
        transient: true,
    }
}

impl Far {
    pub(super) fn new(side: &Arc<Side>, rng: StdRng, break_odds: f64) -> Self {
        Self {
            side: Arc::clone(side),
            rng: Arc::new(Mutex::new(rng)),
            break_odds,
        }
    }

    fn breaks(&self) -> bool {
        let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
        rng.random_bool(self.break_odds)
    }

    /// A call to this life.
    async fn call<T, W>(&self, up: &Up, work: W) -> Result<T>
    where
        T: Send + 'static,
        W: Future<Output = Result<T>> + Send + 'static,
    {
        if self.breaks() {
            return Err(broken());
        }
        let answer = up.life.env().spawn(work).await;
        answer.unwrap_or_else(|_| Err(broken()))
    }

    fn source(&self) -> Result<(Up, DatastoreSource)> {
        let up = self.side.up_now().ok_or_else(broken)?;
        let source = DatastoreSource::new(Arc::clone(&up.datastore));
        Ok((up, source))
    }
}

#[async_trait]
impl SyncSource for Far {
    fn name(&self) -> String {
        self.side.name.to_owned()
    }

    async fn namespaces(&self, below: &Namespace, depth: usize) -> Result<Vec<Namespace>> {
        let ((up, source), below) = (self.source()?, below.clone());
        let work = async move { source.namespaces(&below, depth).await };
        self.call(&up, work).await
    }

    async fn groups(&self, namespace: &Namespace) -> Result<Vec<BackupGroup>> {
        let ((up, source), namespace) = (self.source()?, namespace.clone());
        let work = async move { source.groups(&namespace).await };
        self.call(&up, work).await
    }

    async fn snapshots(&self, group: &GroupRef) -> Result<Vec<SyncSnapshot>> {
        let ((up, source), group) = (self.source()?, group.clone());
        let work = async move { source.snapshots(&group).await };
        self.call(&up, work).await
    }

    async fn open(&self, id: &SnapshotRef) -> Result<Option<Arc<dyn SnapshotSource>>> {
        let ((up, source), id) = (self.source()?, id.clone());
        let work = async move { source.open(&id).await };
        let opened = self.call(&up, work).await?;
        Ok(opened.map(|snapshot| {
            let far = self.clone();
            Arc::new(FarSnapshot { far, up, snapshot }) as Arc<dyn SnapshotSource>
        }))
    }
}

/// A snapshot that a life of the other process holds.
struct FarSnapshot {
    far: Far,
    up: Up,
    snapshot: Arc<dyn SnapshotSource>,
}

impl std::fmt::Debug for FarSnapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FarSnapshot")
    }
}

#[async_trait]
impl SnapshotSource for FarSnapshot {
    async fn file(&self, name: &ArchiveName) -> Result<Option<SyncFile>> {
        let (snapshot, name) = (Arc::clone(&self.snapshot), name.clone());
        let work = async move { snapshot.file(&name).await };
        self.far.call(&self.up, work).await
    }

    async fn chunk(&self, digest: &Digest, bytes: u64) -> Result<Arc<Chunk>> {
        let (snapshot, digest) = (Arc::clone(&self.snapshot), *digest);
        let work = async move { snapshot.chunk(&digest, bytes).await };
        self.far.call(&self.up, work).await
    }
}
