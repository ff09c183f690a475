//! The two sides of a sync.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::{
    ArchiveName, AuthId, BackupGroup, BackupTime, CHUNK_BYTES_MAX, Chunk, CryptMode, Datastore,
    DeleteStats, Digest, Error, FileInfo, GroupRef, JobContext, MemoryBudget, MemoryPermit,
    Namespace, Result, SnapshotInfo, SnapshotRef, SnapshotState, SyncStep, VerifyOutcome,
};

/// A group, as a side lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncGroup {
    /// Which.
    pub group: BackupGroup,
    /// Whose; `None` if that cannot be read.
    pub owner: Option<AuthId>,
}

/// A snapshot, as a side lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncSnapshot {
    /// Which of its group.
    pub time: BackupTime,
    /// It is not being written any more.
    pub finished: bool,
    /// Its manifest can be read.
    pub readable: bool,
    /// It must not be removed.
    pub protected: bool,
    /// What its last verification came to.
    pub verified: Option<VerifyOutcome>,
    /// All its archives are encrypted.
    pub encrypted: bool,
    /// Bytes of what its files hold; 0 if that is not known.
    pub size: u64,
}

impl SyncSnapshot {
    /// Whether all archives among these files are encrypted, and there is one.
    pub fn all_encrypted(files: &[FileInfo]) -> bool {
        let own = [ArchiveName::manifest(), ArchiveName::client_log()];
        let mut archives = files
            .iter()
            .filter(|file| own.iter().all(|own| file.name != own.as_str()))
            .peekable();
        archives.peek().is_some()
            && archives.all(|file| file.crypt_mode == Some(CryptMode::Encrypt))
    }
}

impl From<&SnapshotInfo> for SyncSnapshot {
    fn from(info: &SnapshotInfo) -> Self {
        Self {
            time: info.id.snapshot.time,
            finished: info.state.is_root(),
            readable: matches!(&*info.state, SnapshotState::Sealed(_)),
            protected: info.protected,
            verified: info.verification.as_ref().map(|state| state.state),
            encrypted: Self::all_encrypted(&info.files),
            size: info.size.unwrap_or(0),
        }
    }
}

/// How much a run has on its way at once: many small chunks, so that they fill a far line, and few large ones. One for all groups
/// of a run, for all of them take from the daemon's one budget.
#[derive(Debug)]
pub struct InFlight {
    bytes: Semaphore,
}

impl InFlight {
    /// Chunks that one archive has on its way at most.
    pub const CHUNKS_MAX: usize = 64;
    /// Bytes of them all, before encoding, unless a quarter of the memory is less.
    const BYTES_MAX: u64 = 64 << 20;

    /// Room within a budget.
    pub fn within(budget: &MemoryBudget) -> Self {
        let least = CHUNK_BYTES_MAX as u64;
        let bytes = Self::BYTES_MAX.min(budget.bytes_max() / 4).max(least);
        Self {
            bytes: Semaphore::new(bytes as usize),
        }
    }

    /// Waits for room for a chunk of so many bytes, as long as it takes: whoever has it will be done.
    pub async fn room(&self, bytes: u64) -> Result<SemaphorePermit<'_>> {
        let bytes = bytes.min(CHUNK_BYTES_MAX as u64) as u32;
        let room = self.bytes.acquire_many(bytes).await;
        room.map_err(|_| Error::Stopped)
    }
}

/// A file as it is stored, with the memory it takes: of a long one as much as of the longest chunk, for more may never be free at once.
#[derive(Debug)]
pub struct SyncFile {
    /// The whole of it.
    pub bytes: Bytes,
    /// Given back with it.
    pub permit: Option<MemoryPermit>,
}

/// What came of one snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// The source does not have it any more.
    pub gone: bool,
    /// Nothing had to be done.
    pub unchanged: bool,
    /// Chunks that were brought, and their bytes as stored.
    pub chunks: u64,
    /// See `chunks`.
    pub bytes: u64,
    /// Of these chunks, those that the S3 server has copied, past this machine.
    pub by_server: u64,
    /// Chunks that the target had.
    pub known: u64,
}

/// Where snapshots come from.
#[async_trait]
pub trait SyncSource: fmt::Debug + Send + Sync {
    /// Where it is, in words.
    fn name(&self) -> String;

    /// A namespace and those below it, so many levels deep, outer ones first. An error if there is no such namespace.
    async fn namespaces(&self, below: &Namespace, depth: usize) -> Result<Vec<Namespace>>;

    /// The groups of a namespace.
    async fn groups(&self, namespace: &Namespace) -> Result<Vec<BackupGroup>>;

    /// The snapshots of a group, in any order.
    async fn snapshots(&self, group: &GroupRef) -> Result<Vec<SyncSnapshot>>;

    /// Begins to read a snapshot; `None` if there is none any more.
    async fn open(&self, id: &SnapshotRef) -> Result<Option<Arc<dyn SnapshotSource>>>;
}

/// A snapshot that is being read, and not removed meanwhile.
#[async_trait]
pub trait SnapshotSource: fmt::Debug + Send + Sync {
    /// A file as it is stored; `None` if there is none. The chunks of an index can be read after that.
    async fn file(&self, name: &ArchiveName) -> Result<Option<SyncFile>>;

    /// A chunk as it is stored, of so many bytes before encoding at most. Not verified.
    async fn chunk(&self, digest: &Digest, bytes: u64) -> Result<Arc<Chunk>>;

    /// The datastore of this process that it is in, if it is in one: an S3 server may copy its chunks.
    fn local(&self) -> Option<&Arc<Datastore>> {
        None
    }
}

/// Where snapshots go.
#[async_trait]
pub trait SyncTarget: fmt::Debug + Send + Sync {
    /// Where it is, in words.
    fn name(&self) -> String;

    /// A namespace and those below it, so many levels deep, outer ones first; none if there is no such namespace.
    async fn namespaces(&self, below: &Namespace, depth: usize) -> Result<Vec<Namespace>>;

    /// Makes a namespace, whose parent is there.
    async fn create_namespace(&self, namespace: &Namespace) -> Result<()>;

    /// The groups of a namespace.
    async fn groups(&self, namespace: &Namespace) -> Result<Vec<SyncGroup>>;

    /// Whether groups of this owner are ours to write to.
    fn is_ours(&self, owner: &AuthId) -> bool;

    /// The snapshots of a group, in any order; none if there is no such group.
    async fn snapshots(&self, group: &GroupRef) -> Result<Vec<SyncSnapshot>>;

    /// Brings a snapshot here. Whatever fails, no snapshot becomes visible that is not whole. May be dropped at any moment.
    async fn copy(
        &self,
        source: &dyn SnapshotSource,
        id: &SnapshotRef,
        step: SyncStep,
        job: &JobContext,
    ) -> Result<Copied>;

    /// Removes a snapshot.
    async fn remove_snapshot(&self, id: &SnapshotRef) -> Result<()>;

    /// Removes these snapshots of a group but for protected ones, and the group if no other is left.
    async fn remove_group(&self, group: &GroupRef, seen: &[BackupTime]) -> Result<DeleteStats>;

    /// Removes a namespace if nothing is left in it; whether it went.
    async fn remove_namespace(&self, namespace: &Namespace) -> Result<bool>;
}
