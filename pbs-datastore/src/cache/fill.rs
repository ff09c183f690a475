//! Fills: chunks read from the bucket, once however many ask, for whoever waits and on the side for the cache.
//!
//! One fill, in a task of its own, so that a reader who goes away stops nothing
//! 1. Take memory for the body, bounded wait.
//! 2. Register with the chunk table ([`ChunkTable::register_fill`]): before the GET is sent.
//! 3. GET. Not found: the chunk is missing. A transport error is reported as what it is, never as corruption.
//! 4. Verify (I7): kind, CRC, and digest and length if unencrypted, otherwise the body's MD5 where the tag is one.
//!    What fails is read again, and only what two reads in a row bring alike is called corrupt; anything else is a fault
//!    of the line. It is served to nobody. A tag alone never makes a chunk corrupt: when a bucket's encryption is
//!    changed, its tags go on looking like MD5s and are none any more, and intact chunks would be set aside one after
//!    the other. The key's owner has the cipher's own tag to go by.
//! 5. Hand it to everybody who waits. Who asks from here to the end of 6 gets it too.
//! 6. Under the guard, unless the registration was spoiled meanwhile: insert into the cache. Few at a time; when the
//!    disk does not keep up, not at all.
//!
//! A crash leaves nothing that an insert does not (see [`super`]).

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use md5::{Digest as _, Md5};
use s3_client::{ETag, ObjectStore};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Cache;
use crate::board::Board;
use crate::chunk_store::Chunk;
use crate::chunk_store::guard::{ChunkTable, FillTicket};
use crate::chunk_store::location::{ChunkLocation, locate};
use crate::chunk_store::marker::Nature;
use crate::chunk_store::object::{READS_MAX, StoredObject, differing_reads, read_object};
use crate::metrics::{CacheMetrics, count};
use crate::sabotage::{self, Rule};
use crate::step::Step;
use crate::{
    BucketLayout, CHUNK_ENCODED_BYTES_MAX, DataBlob, Digest, Env, Error, MemoryBudget,
    MemoryPermit, Result,
};

/// How long a read waits for memory. Longer than a client needs to take the bodies that are on their way to it, shorter
/// than its own patience.
pub(crate) const MEMORY_WAIT_MAX: Duration = Duration::from_mins(1);
/// Chunks that wait to be cached or are being written; their memory is held as long.
const INSERTS_QUEUED_MAX: usize = 16;
/// Chunks that are being written: enough for the bandwidth of a disk.
const INSERTS_RUNNING_MAX: usize = 4;
/// How long a cache insert waits for the guard: who holds it may be waiting for S3.
const GUARD_WAIT_MAX: Duration = Duration::from_secs(5);

/// What is wrong with a chunk in the bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Damage {
    /// There is no object.
    Missing,
    /// Two reads have brought something that is not the chunk: this is wrong with it.
    Corrupt(String),
}

/// Is told of damage, to set the chunk aside and to make it known; must not block.
pub(crate) type DamageHook = Box<dyn Fn(Digest, &Damage) + Send + Sync>;

/// Why there is no chunk; shared by all who wait.
#[derive(Clone, Debug)]
enum Failure {
    Damage(Damage),
    Store(Arc<s3_client::Error>),
    NoMemory,
    /// The task that fetched it has panicked, or was ended.
    Ended,
}

impl Failure {
    fn into_error(self, digest: Digest) -> Error {
        match self {
            Self::Damage(Damage::Missing) => Error::ChunkMissing { digest },
            Self::Damage(Damage::Corrupt(fault)) => Error::ChunkCorrupt { digest, fault },
            Self::Store(error) => Error::Store(s3_client::Error {
                kind: error.kind,
                op: error.op,
                key: error.key.clone(),
                message: error.message.clone(),
                maybe_applied: error.maybe_applied,
                lost_at: error.lost_at,
                source: Some(Box::new(error)),
            }),
            Self::NoMemory => no_memory(),
            Self::Ended => Error::Refused(format!(
                "the read of chunk {digest} has failed inside of the daemon, or was ended by its shutdown"
            )),
        }
    }
}

/// The error of a read that got no memory in time.
pub(crate) fn no_memory() -> Error {
    Error::Busy("no memory for a chunk was free in time: too many slow readers at once".to_owned())
}

type Landed = Option<std::result::Result<Arc<Chunk>, Failure>>;

/// A fill under way; clones wait for the same one. Holds the chunk once it is there.
#[derive(Clone, Debug)]
pub(crate) struct Flight {
    digest: Digest,
    landed: Arc<Board<Landed>>,
    /// It was under way before the caller asked: what it found wrong may have been mended since.
    pub(crate) joined: bool,
}

impl Flight {
    /// Waits for the chunk. May be cancelled at will.
    pub(crate) async fn wait(self) -> Result<Arc<Chunk>> {
        match self.landed.wait_for(Option::is_some).await {
            Some(Ok(chunk)) => Ok(chunk),
            Some(Err(failure)) => Err(failure.into_error(self.digest)),
            None => unreachable!("it was waited for"),
        }
    }

    /// Length of the encoded chunk, if it is there.
    pub(crate) fn landed_bytes(&self) -> Option<u64> {
        self.landed.ask(|landed| match landed {
            Some(Ok(chunk)) => Some(chunk.encoded_len() as u64),
            _ => None,
        })
    }
}

/// What has been learned of the tags of the bucket: servers are free to use something else than the MD5, and with some
/// kinds of encryption it even looks like one.
#[derive(Debug, Default)]
struct Tags(AtomicU8);

impl Tags {
    const MD5: u8 = 1;
    const OTHER: u8 = 2;

    /// The tag of a body that is known to be good.
    fn learn(&self, is_md5: bool) {
        if is_md5 {
            let (unknown, md5) = (0, Self::MD5);
            self.0
                .compare_exchange(unknown, md5, Ordering::AcqRel, Ordering::Acquire)
                .ok();
        } else {
            self.0.store(Self::OTHER, Ordering::Release);
        }
    }

    fn is_unknown(&self) -> bool {
        self.0.load(Ordering::Acquire) == 0
    }

    fn are_md5(&self) -> bool {
        self.0.load(Ordering::Acquire) == Self::MD5
    }

    /// Compares, and learns what can be learned; `false` if tags are known to be MD5s and this one is another's.
    fn agree(&self, blob: &DataBlob, body: &[u8], etag: &ETag) -> bool {
        let wanted = blob.is_encrypted() && !self.0.load(Ordering::Acquire).eq(&Self::OTHER);
        if !wanted && !self.is_unknown() {
            return true;
        }
        let Some(expected) = etag.as_md5() else {
            return true;
        };
        let is_md5 = Md5::digest(body)[..] == expected;
        if is_md5 || !blob.is_encrypted() {
            self.learn(is_md5);
            return true;
        }
        !self.are_md5()
    }
}

struct Inner {
    env: Env,
    store: Arc<dyn ObjectStore>,
    layout: BucketLayout,
    table: Arc<ChunkTable>,
    cache: Arc<Cache>,
    budget: MemoryBudget,
    metrics: Arc<CacheMetrics>,
    flights: Mutex<HashMap<Digest, Arc<Board<Landed>>>>,
    tags: Tags,
    inserting: AtomicBool,
    queued: Arc<Semaphore>,
    running: Semaphore,
    damage: OnceLock<DamageHook>,
}

/// Reads from the bucket; clones share what is under way.
#[derive(Clone)]
pub(crate) struct Fills(Arc<Inner>);

impl fmt::Debug for Fills {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fills({} under way)", self.0.flights().len())
    }
}

/// Ends a flight for those who would join it, also if its task panics.
struct Landing {
    inner: Arc<Inner>,
    digest: Digest,
    landed: Arc<Board<Landed>>,
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.close();
        if self.landed.ask(Option::is_none) {
            self.landed.put(Some(Err(Failure::Ended)));
        }
    }
}

impl Landing {
    /// Who asks from now on tries anew.
    fn close(&self) {
        let mut flights = self.inner.flights();
        let ours = |flight: &Arc<Board<Landed>>| Arc::ptr_eq(flight, &self.landed);
        if flights.get(&self.digest).is_some_and(ours) {
            flights.remove(&self.digest);
        }
    }

    fn failed(&self, failure: Failure) {
        self.close();
        self.landed.put(Some(Err(failure)));
    }
}

impl Fills {
    /// Reads of the chunks that `layout` places in `store`, cached in `cache`.
    pub(crate) fn new(
        env: Env,
        store: Arc<dyn ObjectStore>,
        layout: BucketLayout,
        table: Arc<ChunkTable>,
        cache: Arc<Cache>,
        budget: MemoryBudget,
        metrics: Arc<CacheMetrics>,
    ) -> Self {
        Self(Arc::new(Inner {
            env,
            store,
            layout,
            table,
            cache,
            budget,
            metrics,
            flights: Mutex::default(),
            tags: Tags::default(),
            inserting: AtomicBool::new(true),
            queued: Arc::new(Semaphore::new(INSERTS_QUEUED_MAX)),
            running: Semaphore::new(INSERTS_RUNNING_MAX),
            damage: OnceLock::new(),
        }))
    }

    /// Who is told of damaged chunks; the first call counts. The hook should hold its datastore weakly.
    pub(crate) fn on_damage(&self, hook: DamageHook) {
        self.0.damage.set(hook).ok();
    }

    /// Whether chunks read from now on may enter the cache; not so until T after an unclean stop (I3).
    pub(crate) fn set_inserting(&self, inserting: bool) {
        self.0.inserting.store(inserting, Ordering::Release);
    }

    /// The cache that is filled.
    pub(crate) fn cache(&self) -> &Arc<Cache> {
        &self.0.cache
    }

    /// Reads a chunk from the bucket, be it cached or not, and leaves the cache as it is: steps 1, 3 and 4 alone.
    pub(crate) async fn read_stored(
        &self,
        digest: Digest,
        bytes_max: Option<u64>,
    ) -> Result<Arc<Chunk>> {
        let inner = &self.0;
        let longest = CHUNK_ENCODED_BYTES_MAX as u64;
        let bytes = bytes_max.map_or(longest, |bytes| bytes.min(longest));
        let permit = inner.budget.take(bytes, MEMORY_WAIT_MAX).await;
        let mut permit = permit.ok_or_else(no_memory)?;
        match inner.fetch(digest).await {
            Ok(blob) => {
                permit.fit_to(&inner.budget, blob.encoded_len() as u64);
                Ok(Arc::new(Chunk::new(blob, Some(permit))))
            }
            Err(failure) => {
                inner.tell(digest, &failure);
                Err(failure.into_error(digest))
            }
        }
    }

    /// Begins to read a chunk, or joins who does. `bytes_max` is the longest the encoded chunk is expected to be, if
    /// something is known of it; `permit` is memory the caller has for it already.
    pub(crate) fn start(
        &self,
        digest: Digest,
        bytes_max: Option<u64>,
        permit: Option<MemoryPermit>,
    ) -> Flight {
        let inner = &self.0;
        let mut flights = inner.flights();
        if let Some(landed) = flights.get(&digest) {
            count(&inner.metrics.fills_joined);
            return Flight {
                digest,
                landed: Arc::clone(landed),
                joined: true,
            };
        }
        let landed = Arc::new(Board::new(None));
        flights.insert(digest, Arc::clone(&landed));
        drop(flights);
        let landing = Landing {
            inner: Arc::clone(inner),
            digest,
            landed: Arc::clone(&landed),
        };
        let run = Arc::clone(inner).run(landing, bytes_max, permit);
        inner.env.spawn(run);
        Flight {
            digest,
            landed,
            joined: false,
        }
    }
}

/// A read that did not bring the chunk.
struct Wrong {
    /// SHA-256 of what it brought.
    sum: Digest,
    fault: String,
}

impl Inner {
    fn flights(&self) -> MutexGuard<'_, HashMap<Digest, Arc<Board<Landed>>>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run(
        self: Arc<Self>,
        landing: Landing,
        bytes_max: Option<u64>,
        permit: Option<MemoryPermit>,
    ) {
        let digest = landing.digest;
        let longest = CHUNK_ENCODED_BYTES_MAX as u64;
        let bytes = bytes_max.map_or(longest, |bytes| bytes.min(longest));
        let permit = match permit {
            Some(permit) => Some(permit),
            None => self.budget.take(bytes, MEMORY_WAIT_MAX).await,
        };
        let Some(mut permit) = permit else {
            landing.failed(Failure::NoMemory);
            return;
        };
        let inserting = self.inserting.load(Ordering::Acquire);
        let ticket = inserting.then(|| self.table.register_fill(digest));
        Step::FillRegistered.passed();
        let asked = self.env.now();
        match self.fetch(digest).await {
            Ok(blob) => {
                Step::FillFetched.passed();
                count(&self.metrics.fills);
                permit.fit_to(&self.budget, blob.encoded_len() as u64);
                let chunk = Arc::new(Chunk::new(blob, Some(permit)));
                landing.landed.put(Some(Ok(Arc::clone(&chunk))));
                if let Some(ticket) = ticket {
                    self.insert(&chunk, ticket, digest, asked).await;
                }
                drop(landing);
            }
            Err(failure) => {
                self.tell(digest, &failure);
                landing.failed(failure);
            }
        }
    }

    /// Tells of damage whoever asked to be told.
    fn tell(&self, digest: Digest, failure: &Failure) {
        if let (Failure::Damage(damage), Some(hook)) = (failure, self.damage.get()) {
            hook(digest, damage);
        }
    }

    /// Steps 3 and 4. What two reads bring in the same way is in the bucket; anything else is a fault of the line.
    async fn fetch(self: &Arc<Self>, digest: Digest) -> std::result::Result<DataBlob, Failure> {
        let ChunkLocation::Object(key) = locate(&self.layout, &digest);
        let mut before: Option<Wrong> = None;
        for _ in 0..READS_MAX {
            let read = read_object(&*self.store, &key).await;
            let Some(read) = read.map_err(|error| Failure::Store(Arc::new(error)))? else {
                return Err(Failure::Damage(Damage::Missing));
            };
            let inner = Arc::clone(self);
            let known = before.as_ref().map(|wrong| wrong.sum);
            let verify = move || inner.verify(&digest, read, known);
            match self.env.compute(verify).await {
                Ok(blob) => {
                    if let Some(Wrong { fault, .. }) = before {
                        count(&self.metrics.corrupt_once);
                        tracing::warn!(%digest, "a read of the chunk was damaged, the next was not: {fault}");
                    }
                    return Ok(blob);
                }
                Err(Wrong { sum, fault }) if known == Some(sum) => {
                    tracing::error!(%digest, "the chunk in the bucket is corrupt: {fault}");
                    return Err(Failure::Damage(Damage::Corrupt(fault)));
                }
                Err(wrong) => before = Some(wrong),
            }
        }
        Err(Failure::Store(Arc::new(differing_reads(&key))))
    }

    /// `before` is the sum of the read before this one, if that was wrong.
    fn verify(
        &self,
        digest: &Digest,
        read: StoredObject,
        before: Option<Digest>,
    ) -> std::result::Result<DataBlob, Wrong> {
        let wrong = |fault| Wrong {
            sum: Digest::of(&read.body),
            fault,
        };
        let blob = DataBlob::parse_chunk(read.body.clone(), digest)
            .map_err(|error| wrong(error.to_string()))?;
        if !self.tags.agree(&blob, &read.body, &read.etag) {
            let words = "its contents are not those that its tag was made for";
            let wrong = wrong(words.to_owned());
            if before != Some(wrong.sum) {
                return Err(wrong);
            }
            self.tags.learn(false);
            tracing::warn!(
                %digest,
                "{words}, though its sum is right: either it is damaged in the few bytes that the sum does not cover, or \
                 the bucket's tags are not MD5s any more, as after a change of its encryption; tags are not compared from \
                 now on"
            );
        }
        Ok(blob)
    }

    /// Step 6.
    async fn insert(&self, chunk: &Chunk, ticket: FillTicket, digest: Digest, asked: Timestamp) {
        let Some(_queued) = self.queue() else {
            count(&self.metrics.fills_dropped);
            return;
        };
        let Ok(_running) = self.running.acquire().await else {
            return;
        };
        let wait = tokio::time::timeout(GUARD_WAIT_MAX, self.table.guard(digest));
        let Ok(guard) = wait.await else {
            count(&self.metrics.fills_dropped);
            return;
        };
        if ticket.is_spoiled(&guard) {
            count(&self.metrics.fills_spoiled);
            return;
        }
        let guard = if sabotage::is_off(Rule::FillGuarded) {
            drop(guard);
            self.table.unguarded(digest).await
        } else {
            guard
        };
        let (header, payload) = chunk.parts();
        let parts = [header, payload];
        let nature = Nature::of(chunk.is_encrypted());
        let (_guard, kept) = self.cache.insert_read(guard, &parts, nature, asked).await;
        if let Err(error) = kept {
            tracing::debug!(%digest, "the chunk was read and not cached: {error}");
        } else {
            Step::FillInserted.passed();
        }
    }

    fn queue(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.queued).try_acquire_owned().ok()
    }
}

#[cfg(test)]
mod tests;
