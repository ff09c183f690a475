//! Reads of chunks: from the cache, from the bucket, or from a directory of chunk files.
//!
//! From a bucket's datastore
//! 1. The cached chunk, if its CRC is right (I7). A disk that does not answer in time counts as a miss (I6).
//! 2. A cached chunk that is damaged, emptied or removed behind our back, or cannot be read is dropped, under the guard:
//!    its marker stays, empty, and the account forgets it, so that the fill may cache it again.
//! 3. A miss is filled ([`crate::cache::fill`]).
//!
//! From a directory every read checks the CRC (I7), as one from the cache does; digest and length were checked when the
//! chunk came. A damaged file is read a second time before it is called corrupt. What is missing or corrupt is also told
//! to whoever asked to be told.

use std::fmt;
use std::io;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;

use super::guard::ChunkTable;
use super::marker::Markers;
use super::stream::ChunkStream;
use crate::cache::fill::{Damage, DamageHook, Fills, Flight, MEMORY_WAIT_MAX, no_memory};
use crate::error::About as _;
use crate::metrics::{CacheMetrics, count};
use crate::{
    CHUNK_BYTES_MAX, CHUNK_ENCODED_BYTES_MAX, DataBlob, Digest, Env, Error, Index, IndexChunk,
    MemoryBudget, MemoryPermit, Result,
};

/// A cached chunk that takes longer comes faster from the bucket.
const CACHE_READ_MAX: Duration = Duration::from_secs(10);
/// How long a reader waits so that a damaged cached file can be dropped before the chunk is fetched.
const DROP_WAIT_MAX: Duration = Duration::from_secs(1);
/// What a blob has besides its contents, at most.
pub const HEADER_BYTES_MAX: u64 = 44;

/// A verified chunk in memory, with the memory it was granted: who sends it keeps it until it is sent.
#[derive(Debug)]
pub struct Chunk {
    blob: DataBlob,
    _permit: Option<MemoryPermit>,
}

impl Chunk {
    /// A chunk with the memory that was taken for it.
    pub fn new(blob: DataBlob, permit: Option<MemoryPermit>) -> Self {
        Self {
            blob,
            _permit: permit,
        }
    }

    /// The contents of the unencrypted chunk that an index enters as `entry`, unpacked and checked against it (I7);
    /// `bytes_max` is what the index allows. Takes the time and the memory of unpacking, so it is a job of
    /// [`Env::compute`]. Its CRC was checked when it was read.
    pub fn contents(&self, entry: &IndexChunk, bytes_max: u64) -> Result<Bytes> {
        let digest = entry.digest;
        let corrupt = |fault: String| Error::ChunkCorrupt { digest, fault };
        if self.blob.is_encrypted() {
            return Err(Error::Invalid(format!(
                "chunk {digest} is encrypted: only a client that has the key can read it"
            )));
        }
        let limit = usize::try_from(bytes_max).unwrap_or(CHUNK_BYTES_MAX);
        let decoded = self.blob.decode(limit.min(CHUNK_BYTES_MAX), None);
        let contents = decoded.map_err(|error| corrupt(error.to_string()))?;
        let actual = Digest::of(&contents);
        if actual != digest {
            return Err(corrupt(format!("its contents have the digest {actual}")));
        }
        // The last chunk of an image may be longer than the image.
        let bytes = usize::try_from(entry.len()).unwrap_or(usize::MAX);
        if contents.len() < bytes {
            return Err(corrupt("it is shorter than the index says".to_owned()));
        }
        Ok(contents.slice(..bytes))
    }
}

impl Deref for Chunk {
    type Target = DataBlob;

    fn deref(&self) -> &DataBlob {
        &self.blob
    }
}

/// What a file turned out to be.
enum Local {
    Good(DataBlob),
    Absent,
    Damaged(String),
    Unreadable(io::Error),
}

/// Where chunks are read from.
enum Source {
    Bucket {
        table: Arc<ChunkTable>,
        fills: Fills,
    },
    Directory {
        damage: OnceLock<DamageHook>,
    },
}

/// Reads the chunks of one datastore.
pub struct ChunkReader {
    env: Env,
    markers: Markers,
    budget: MemoryBudget,
    metrics: Arc<CacheMetrics>,
    ahead_bytes_max: u64,
    source: Source,
}

impl fmt::Debug for ChunkReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = match &self.source {
            Source::Bucket { fills, .. } => format!("{fills:?}"),
            Source::Directory { .. } => self.markers.chunks().display().to_string(),
        };
        write!(f, "ChunkReader({place})")
    }
}

impl ChunkReader {
    /// Reads a bucket's chunks through `fills` and its cache, whose files are `markers`. `ahead_bytes_max` bounds what
    /// is read ahead of one reader; 0 switches that off.
    pub(crate) fn bucket(
        env: Env,
        markers: Markers,
        table: Arc<ChunkTable>,
        fills: Fills,
        budget: MemoryBudget,
        metrics: Arc<CacheMetrics>,
        ahead_bytes_max: u64,
    ) -> Arc<Self> {
        Arc::new(Self {
            env,
            markers,
            budget,
            metrics,
            ahead_bytes_max,
            source: Source::Bucket { table, fills },
        })
    }

    /// Reads the chunk files of a filesystem datastore.
    pub(crate) fn directory(
        env: Env,
        markers: Markers,
        budget: MemoryBudget,
        metrics: Arc<CacheMetrics>,
        ahead_bytes_max: u64,
    ) -> Arc<Self> {
        let damage = OnceLock::new();
        Arc::new(Self {
            env,
            markers,
            budget,
            metrics,
            ahead_bytes_max,
            source: Source::Directory { damage },
        })
    }

    /// Who is told of missing and corrupt chunks; the first call counts. The hook should hold its datastore weakly.
    pub(crate) fn on_damage(&self, hook: DamageHook) {
        match &self.source {
            Source::Bucket { fills, .. } => fills.on_damage(hook),
            Source::Directory { damage } => {
                damage.set(hook).ok();
            }
        }
    }

    /// Counters of cache and reads.
    pub fn metrics(&self) -> &Arc<CacheMetrics> {
        &self.metrics
    }

    pub(crate) fn budget(&self) -> &MemoryBudget {
        &self.budget
    }

    pub(crate) fn env(&self) -> &Env {
        &self.env
    }

    /// Bound of what is read ahead of one reader.
    pub(crate) fn ahead_bytes_max(&self) -> u64 {
        self.ahead_bytes_max
    }

    /// Reads a chunk. `bytes` is its length before encoding, if an index tells: it only helps to ask for no more memory
    /// than needed. [`Error::ChunkMissing`] and [`Error::ChunkCorrupt`] are about the chunk, [`Error::Store`] and
    /// [`Error::File`] about the way to it, [`Error::Busy`] means that memory was short for too long.
    pub async fn read(&self, digest: &Digest, bytes: Option<u64>) -> Result<Arc<Chunk>> {
        let bytes_max = bytes.map(|bytes| bytes + HEADER_BYTES_MAX);
        match &self.source {
            Source::Bucket { table, fills } => {
                self.read_bucket(table, fills, *digest, bytes_max).await
            }
            Source::Directory { damage } => self.read_directory(damage, *digest, bytes_max).await,
        }
    }

    /// Reads a chunk from where it is kept for good, past the cache and without entering it, and checks its digest if it
    /// is not encrypted. For verification; errors as of [`read`](Self::read).
    pub(crate) async fn read_stored(
        &self,
        digest: &Digest,
        bytes: Option<u64>,
    ) -> Result<Arc<Chunk>> {
        let bytes_max = bytes.map(|bytes| bytes + HEADER_BYTES_MAX);
        match &self.source {
            Source::Bucket { fills, .. } => fills.read_stored(*digest, bytes_max).await,
            Source::Directory { damage } => {
                let chunk = self.read_directory(damage, *digest, bytes_max).await?;
                let (checked, name) = (Arc::clone(&chunk), *digest);
                let check = move || checked.verify_chunk(&name, None);
                let Err(error) = self.env.compute(check).await else {
                    return Ok(chunk);
                };
                let fault = error.to_string();
                if let Some(hook) = damage.get() {
                    hook(*digest, &Damage::Corrupt(fault.clone()));
                }
                let digest = *digest;
                Err(Error::ChunkCorrupt { digest, fault })
            }
        }
    }

    /// Reads a chunk for a copy of it elsewhere: from the cache if it is there, and without entering it otherwise. Errors as of
    /// [`read`](Self::read).
    pub(crate) async fn read_for_copy(&self, digest: &Digest, bytes: u64) -> Result<Arc<Chunk>> {
        match &self.source {
            Source::Bucket { fills, .. } if !fills.cache().contains(digest) => {
                fills
                    .read_stored(*digest, Some(bytes + HEADER_BYTES_MAX))
                    .await
            }
            _ => self.read(digest, Some(bytes)).await,
        }
    }

    /// The chunks that hold the bytes `range` of an archive, in order, read ahead.
    pub fn stream(self: &Arc<Self>, index: Index, range: std::ops::Range<u64>) -> ChunkStream {
        ChunkStream::new(Arc::clone(self), index, range)
    }

    /// Begins to fetch a chunk that nobody asks for yet; `None` if it is cached, or kept on a local disk anyway.
    pub(crate) fn start_ahead(&self, digest: Digest, permit: MemoryPermit) -> Option<Flight> {
        match &self.source {
            Source::Bucket { fills, .. } if !fills.cache().contains(&digest) => {
                Some(fills.start(digest, None, Some(permit)))
            }
            _ => None,
        }
    }

    /// Whether reading ahead helps: chunks on a local disk are near enough.
    pub(crate) fn gains_from_ahead(&self, digest: &Digest) -> bool {
        match &self.source {
            Source::Bucket { fills, .. } => !fills.cache().contains(digest),
            Source::Directory { .. } => false,
        }
    }

    async fn read_bucket(
        &self,
        table: &Arc<ChunkTable>,
        fills: &Fills,
        digest: Digest,
        bytes_max: Option<u64>,
    ) -> Result<Arc<Chunk>> {
        let cache = fills.cache();
        let expected = cache.size(&digest).or(bytes_max);
        let mut permit = self.memory(expected).await?;
        let local = tokio::time::timeout(CACHE_READ_MAX, self.read_file(digest)).await;
        match local.unwrap_or_else(|late| Local::Unreadable(late.into())) {
            Local::Good(blob) => {
                count(&self.metrics.hits);
                cache.touch(&digest);
                permit.shrink_to(blob.encoded_len() as u64);
                return Ok(Arc::new(Chunk::new(blob, Some(permit))));
            }
            Local::Absent if !cache.contains(&digest) => {}
            // Evicted at this moment, or lost: `drop_damaged` looks again.
            Local::Absent => self.drop_damaged(table, fills, digest).await,
            Local::Damaged(fault) => {
                count(&self.metrics.cached_corrupt);
                tracing::warn!(%digest, "dropping a damaged chunk from the cache: {fault}");
                self.drop_damaged(table, fills, digest).await;
            }
            Local::Unreadable(error) => {
                tracing::warn!(%digest, "cannot read a cached chunk, fetching it: {error}");
                // A slow disk may be faster tomorrow; a bad sector stays bad.
                if error.raw_os_error().is_some() {
                    self.drop_damaged(table, fills, digest).await;
                }
            }
        }
        count(&self.metrics.misses);
        let flight = fills.start(digest, bytes_max, Some(permit));
        let joined = flight.joined;
        match flight.wait().await {
            // An upload that ended before we asked may have mended it after that fill had looked.
            Err(Error::ChunkMissing { .. } | Error::ChunkCorrupt { .. }) if joined => {
                fills.start(digest, bytes_max, None).wait().await
            }
            read => read,
        }
    }

    /// Drops the cached chunk if it is still damaged once the guard is had; in a task, which the reader does not wait
    /// for longer than a moment.
    async fn drop_damaged(&self, table: &Arc<ChunkTable>, fills: &Fills, digest: Digest) {
        let (table, cache) = (Arc::clone(table), Arc::clone(fills.cache()));
        let (env, markers) = (self.env.clone(), self.markers.clone());
        let metrics = Arc::clone(&self.metrics);
        let dropping = self.env.spawn(async move {
            let guard = table.guard(digest).await;
            let again = env.io(move |files| check(markers.read(files, &digest)));
            match again.await {
                _ if guard.is_condemned() => return,
                Local::Good(_) => return,
                Local::Absent if !cache.contains(&digest) => return,
                Local::Absent => {
                    count(&metrics.cached_corrupt);
                    tracing::warn!(%digest, "a cached chunk was emptied or removed by somebody else");
                }
                Local::Damaged(_) | Local::Unreadable(_) => {}
            }
            if let (_, Err(error)) = cache.drop_content(guard).await {
                tracing::warn!(%digest, "cannot drop a damaged chunk from the cache: {error}");
            }
        });
        tokio::time::timeout(DROP_WAIT_MAX, dropping).await.ok();
    }

    async fn read_directory(
        &self,
        hook: &OnceLock<DamageHook>,
        digest: Digest,
        bytes_max: Option<u64>,
    ) -> Result<Arc<Chunk>> {
        let mut permit = self.memory(bytes_max).await?;
        let mut local = self.read_file(digest).await;
        if matches!(local, Local::Damaged(_)) {
            local = self.read_file(digest).await;
        }
        let damage = match local {
            Local::Good(blob) => {
                permit.shrink_to(blob.encoded_len() as u64);
                return Ok(Arc::new(Chunk::new(blob, Some(permit))));
            }
            Local::Absent => Damage::Missing,
            Local::Damaged(fault) => Damage::Corrupt(fault),
            Local::Unreadable(error) => return Err(error).about(self.markers.path(&digest)),
        };
        if let Some(hook) = hook.get() {
            hook(digest, &damage);
        }
        Err(match damage {
            Damage::Missing => Error::ChunkMissing { digest },
            Damage::Corrupt(fault) => Error::ChunkCorrupt { digest, fault },
        })
    }

    async fn memory(&self, bytes: Option<u64>) -> Result<MemoryPermit> {
        let longest = CHUNK_ENCODED_BYTES_MAX as u64;
        let bytes = bytes.map_or(longest, |bytes| bytes.min(longest));
        let permit = self.budget.take(bytes, MEMORY_WAIT_MAX).await;
        permit.ok_or_else(no_memory)
    }

    async fn read_file(&self, digest: Digest) -> Local {
        let markers = self.markers.clone();
        let read = self
            .env
            .io(move |files| check(markers.read(files, &digest)));
        read.await
    }
}

fn check(read: io::Result<Option<Bytes>>) -> Local {
    let data = match read {
        Ok(Some(data)) => data,
        Ok(None) => return Local::Absent,
        Err(error) => return Local::Unreadable(error),
    };
    let blob = DataBlob::parse(data).and_then(|blob| blob.verify_crc().map(|()| blob));
    match blob {
        Ok(blob) => Local::Good(blob),
        Err(error) => Local::Damaged(error.to_string()),
    }
}

#[cfg(test)]
mod tests;
