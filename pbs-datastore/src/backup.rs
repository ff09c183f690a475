//! A backup session and a reader session as the protocol sees them (interface 3.2 and 4), without HTTP.
//!
//! [`Backup`] joins a [`WriterSession`], which chunks are inserted for, with the [`SnapshotWriter`] that has claimed the
//! snapshot. The order matters: the session is opened first, so that its start lies before everything it is told (I2).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;

use crate::cache::ReadAhead;
use crate::chunk_store::{Chunk, ChunkReader, InsertOptions, Inserted, VerifiedChunk};
use crate::seal::SnapshotWriter;
use crate::snapshots::Lock;
use crate::{
    ArchiveKind, ArchiveName, AuthId, BackupTime, ChunkUploadStats, CryptMode, DataBlob, Datastore,
    Digest, Error, Index, Namespace, Result, SessionId, SessionState, Snapshot, SnapshotRef,
    WriterSession, writer_label,
};

/// How long the end of a session waits for its cleanup.
const GIVE_UP_MAX: Duration = Duration::from_secs(10);

/// Known chunks that are registered in one go, so that those of a large index need no memory beside it.
const ADOPT_BATCH: usize = 4096;

/// What is kept of the digest of a chunk that may be read: half of a hash of it, so that nobody finds another digest
/// with the same. A half of the digest itself would not do: the digests of encrypted chunks are whatever their owner says.
type Allowed = [u8; 16];

/// Which kind of index a writer makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndexKind {
    /// `.didx`: chunks of any size, appended.
    Dynamic,
    /// `.fidx`: chunks of 4 MiB, in any order.
    Fixed,
}

impl IndexKind {
    fn archive(self) -> ArchiveKind {
        match self {
            Self::Dynamic => ArchiveKind::Dynamic,
            Self::Fixed => ArchiveKind::Fixed,
        }
    }
}

/// What a client wants to back up.
#[derive(Clone, Debug)]
pub struct BackupRequest {
    /// Must exist.
    pub namespace: Namespace,
    /// Group and time; the time must be later than that of the group's last backup.
    pub snapshot: Snapshot,
    /// Becomes the owner of a new group, must be the owner of an old one.
    pub author: AuthId,
    /// A benchmark: anybody's, and removed at the end.
    pub benchmark: bool,
    /// Leave no content in the cache.
    pub no_cache: bool,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn kept(digest: &Digest) -> Allowed {
    let mut half = Allowed::default();
    half.copy_from_slice(&Digest::of(digest.as_bytes()).as_bytes()[..size_of::<Allowed>()]);
    half
}

/// A running backup. All calls may come at the same time.
#[derive(Debug)]
pub struct Backup {
    datastore: Arc<Datastore>,
    session: Arc<WriterSession>,
    writer: SnapshotWriter,
    base_time: Option<BackupTime>,
    options: InsertOptions,
    benchmark: bool,
    stats: Mutex<ChunkUploadStats>,
}

impl Backup {
    pub(crate) async fn begin(
        datastore: Arc<Datastore>,
        request: BackupRequest,
    ) -> Result<Arc<Self>> {
        let id = SnapshotRef::new(request.namespace, request.snapshot);
        let session = Arc::new(
            datastore
                .sessions()
                .open(writer_label(&id, &request.author)),
        );
        let writer = datastore
            .snapshots()
            .begin(
                &id,
                &request.author,
                !request.benchmark,
                Arc::clone(&session),
            )
            .await?;
        Ok(Arc::new(Self {
            base_time: writer.base().map(|base| base.snapshot.time),
            datastore,
            session,
            writer,
            options: InsertOptions {
                no_cache: request.no_cache,
            },
            benchmark: request.benchmark,
            stats: Mutex::default(),
        }))
    }

    /// The snapshot.
    pub fn snapshot(&self) -> &SnapshotRef {
        self.writer.id()
    }

    /// Its state, to be watched: an administrator may kill it.
    pub fn state(&self) -> watch::Receiver<SessionState> {
        self.session.state()
    }

    /// Ends it from outside; one that is being sealed goes on.
    pub fn kill(&self, reason: &str) {
        self.session.kill(reason);
    }

    /// The session's id.
    pub fn id(&self) -> &SessionId {
        self.session.id()
    }

    /// Whether it is sealed.
    pub fn is_finished(&self) -> bool {
        *self.session.state().borrow() == SessionState::Sealed
    }

    /// The time of the backup it builds on, chosen at admission.
    pub fn previous_time(&self) -> Option<BackupTime> {
        self.base_time
    }

    /// How many bytes [`Self::previous`] would answer; 0 if it would fail.
    pub async fn previous_bytes(&self, name: &ArchiveName) -> Result<u64> {
        match self.writer.base() {
            Some(base) => self.datastore.snapshots().file_bytes(&base, name).await,
            None => Ok(0),
        }
    }

    /// A file of the backup it builds on. The chunks of an index are registered as known, each touched under its guard;
    /// if one is missing the request fails, and the client backs up in full. [`Error::NotFound`] only for blobs.
    pub async fn previous(&self, name: &ArchiveName) -> Result<Bytes> {
        let bytes = match self.writer.base_file(name).await {
            Err(Error::NotFound(what)) if name.kind() != ArchiveKind::Blob => {
                return Err(Error::Invalid(format!("{what} does not exist")));
            }
            result => result?,
        };
        if name.kind() == ArchiveKind::Blob {
            return Ok(bytes);
        }
        let (kind, data) = (name.kind(), bytes.clone());
        let index = self
            .datastore
            .env()
            .compute(move || Index::parse(kind, data))
            .await;
        let index = index
            .map_err(|error| Error::Invalid(format!("'{name}' of the previous backup: {error}")))?;
        self.adopt(&index).await?;
        Ok(bytes)
    }

    async fn adopt(&self, index: &Index) -> Result<()> {
        let size = |start: u64, end: u64| u32::try_from(end - start).unwrap_or(u32::MAX);
        let mut chunks = index
            .chunks()
            .map(|chunk| (chunk.digest, size(chunk.start, chunk.end)));
        loop {
            let batch: Vec<_> = chunks.by_ref().take(ADOPT_BATCH).collect();
            if batch.is_empty() {
                return Ok(());
            }
            self.datastore.chunks().adopt(&self.session, &batch).await?;
        }
    }

    /// Opens a dynamic index; answers its id.
    pub async fn create_dynamic(&self, name: &ArchiveName) -> Result<u16> {
        self.writer.open_dynamic(name).await
    }

    /// Opens a fixed index; with `reuse` as a copy of the previous one, whose chunks are registered as known.
    pub async fn create_fixed(
        &self,
        name: &ArchiveName,
        size: Option<u64>,
        reuse: Option<Digest>,
    ) -> Result<u16> {
        // First of all: if a chunk is missing the client never hears of the index, and nobody would close it.
        if reuse.is_some() && self.base_time.is_some() {
            self.previous(name).await?;
        }
        self.writer.open_fixed(name, size, reuse).await
    }

    /// Whether an index of `kind` is open under this id; to be asked before a chunk's body is read.
    pub fn check_writer(&self, wid: u16, kind: IndexKind) -> Result<()> {
        self.writer.check_writer(wid, kind.archive())
    }

    /// Takes an uploaded chunk for an open index: verifies it off the runtime's threads, then inserts it.
    pub async fn upload(
        &self,
        wid: u16,
        kind: IndexKind,
        digest: Digest,
        size: u32,
        encoded: Bytes,
    ) -> Result<Inserted> {
        let encoded_len = encoded.len() as u64;
        let verify = move || {
            let blob = DataBlob::parse(encoded).map_err(|error| Error::ChunkCorrupt {
                digest,
                fault: error.to_string(),
            })?;
            VerifiedChunk::check(blob, digest, size)
        };
        let chunk = self.datastore.env().compute(verify).await?;
        self.writer
            .admit_chunk(wid, kind.archive(), u64::from(size))
            .await?;
        let inserted = self
            .datastore
            .chunks()
            .insert(&self.session, chunk, self.options)
            .await?;
        let mut stats = locked(&self.stats);
        stats.count += 1;
        stats.size += u64::from(size);
        stats.compressed_size += encoded_len;
        stats.duplicates += u64::from(inserted == Inserted::Duplicate);
        Ok(inserted)
    }

    /// Enters chunks into an open index: digest and start offset.
    pub async fn append(&self, wid: u16, kind: IndexKind, chunks: &[(Digest, u64)]) -> Result<()> {
        self.writer.append(wid, kind.archive(), chunks).await
    }

    /// Closes an index and stores it.
    pub async fn close(
        &self,
        wid: u16,
        kind: IndexKind,
        chunk_count: u64,
        size: u64,
        csum: Digest,
    ) -> Result<()> {
        self.writer
            .close(wid, kind.archive(), chunk_count, size, csum)
            .await
    }

    /// Stores a blob.
    pub async fn blob(&self, name: &ArchiveName, encoded: Bytes) -> Result<()> {
        let size = encoded.len() as u64;
        self.writer.put_blob(name, encoded).await?;
        locked(&self.stats).size += size;
        Ok(())
    }

    /// Seals the snapshot (I1). Runs to its end even if the caller goes away.
    pub async fn finish(&self) -> Result<()> {
        let stats = *locked(&self.stats);
        self.writer.finish(stats).await
    }

    /// The connection is over: an unfinished snapshot is removed as soon as nothing of it can arrive any more, a
    /// benchmark in any case. Returns whether it was finished.
    pub async fn end(&self, reason: &str) -> bool {
        self.session.kill(reason);
        let finished = self.is_finished();
        // A client that comes back at once finds its group free.
        self.writer.give_up(GIVE_UP_MAX).await;
        self.datastore.save_usage().await;
        if finished
            && self.benchmark
            && let Err(error) = self.datastore.snapshots().delete(self.writer.id()).await
        {
            tracing::warn!(snapshot = %self.writer.id(), %error, "the snapshot of a benchmark was not removed");
        }
        finished
    }
}

/// A snapshot that is being read; it cannot be deleted meanwhile.
#[derive(Debug)]
pub struct SnapshotReader {
    datastore: Arc<Datastore>,
    id: SnapshotRef,
    _held: Lock,
    ahead: ReadAhead,
    /// The chunks of the indexes that were opened, sorted.
    allowed: Mutex<BTreeMap<ArchiveName, Vec<Allowed>>>,
}

impl SnapshotReader {
    pub(crate) async fn begin(
        datastore: &Arc<Datastore>,
        namespace: &Namespace,
        snapshot: &Snapshot,
        who: Option<&AuthId>,
    ) -> Result<Arc<Self>> {
        let id = SnapshotRef::new(namespace.clone(), snapshot.clone());
        let snapshots = datastore.snapshots();
        if let Some(who) = who {
            let owner = snapshots.owner(&id.group()).await?;
            if !owner.as_ref().is_some_and(|owner| who.owns_as(owner)) {
                return Err(Error::Refused(format!(
                    "group {} does not belong to {who}",
                    id.group()
                )));
            }
        }
        let held = snapshots.hold(&id)?;
        if !snapshots.state(&id).await?.is_root() {
            return Err(Error::Refused(format!("snapshot {id} is not finished")));
        }
        Ok(Arc::new(Self {
            datastore: Arc::clone(datastore),
            ahead: ReadAhead::new(Arc::clone(datastore.reader())),
            id,
            _held: held,
            allowed: Mutex::default(),
        }))
    }

    /// The snapshot.
    pub fn snapshot(&self) -> &SnapshotRef {
        &self.id
    }

    /// How many bytes [`Self::download`] would answer; 0 if it would fail.
    pub async fn file_bytes(&self, name: &ArchiveName) -> Result<u64> {
        self.datastore.snapshots().file_bytes(&self.id, name).await
    }

    /// A file of the snapshot as it is stored; [`Error::NotFound`] if there is none of that name.
    pub async fn file(&self, name: &ArchiveName) -> Result<Bytes> {
        self.datastore.snapshots().file(&self.id, name).await
    }

    /// The index of an archive; errors as of [`Self::file`].
    pub async fn index(&self, name: &ArchiveName) -> Result<Index> {
        let (kind, bytes) = (name.kind(), self.file(name).await?);
        let env = self.datastore.env();
        let parsed = env.compute(move || Index::parse(kind, bytes)).await;
        parsed.map_err(|error| Error::Invalid(format!("'{name}': {error}")))
    }

    /// Whether the manifest lists a file as encrypted.
    pub async fn is_encrypted(&self, name: &ArchiveName) -> Result<bool> {
        let state = self.datastore.snapshots().state(&self.id).await?;
        let listed = state.manifest().and_then(|manifest| manifest.file(name));
        Ok(listed.is_some_and(|file| file.crypt_mode == CryptMode::Encrypt))
    }

    /// What the snapshot's chunks are read with.
    pub fn chunks(&self) -> &Arc<ChunkReader> {
        self.datastore.reader()
    }

    /// A file of the snapshot. The chunks of an index may be read from now on. [`Error::NotFound`] only for blobs.
    pub async fn download(&self, name: &ArchiveName) -> Result<Bytes> {
        let bytes = match self.datastore.snapshots().file(&self.id, name).await {
            Err(Error::NotFound(what)) if name.kind() != ArchiveKind::Blob => {
                return Err(Error::Invalid(format!("{what} does not exist")));
            }
            result => result?,
        };
        if name.kind() == ArchiveKind::Blob {
            return Ok(bytes);
        }
        let (kind, data) = (name.kind(), bytes.clone());
        let parse = move || {
            let index = Index::parse(kind, data)?;
            let mut digests: Vec<_> = index.chunks().map(|chunk| kept(&chunk.digest)).collect();
            digests.sort_unstable();
            digests.dedup();
            digests.shrink_to_fit();
            Ok::<_, crate::IndexError>((index, digests))
        };
        let parsed = self.datastore.env().compute(parse).await;
        let (index, digests) =
            parsed.map_err(|error| Error::Invalid(format!("'{name}': {error}")))?;
        locked(&self.allowed).insert(name.clone(), digests);
        self.ahead.open(index).await;
        Ok(bytes)
    }

    /// A chunk; `None` if no index that was opened here names it.
    pub async fn chunk(&self, digest: &Digest) -> Result<Option<Arc<Chunk>>> {
        let wanted = kept(digest);
        let allowed = locked(&self.allowed)
            .values()
            .any(|known| known.binary_search(&wanted).is_ok());
        if !allowed {
            return Ok(None);
        }
        self.ahead.read(digest).await.map(Some)
    }
}
