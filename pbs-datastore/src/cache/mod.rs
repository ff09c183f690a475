//! The local cache of a datastore in a bucket: disposable (I3), bounded by bytes (I9), never in a reader's way (I6).
//!
//! A chunk is cached as the content of its marker. Content and the entry in [`lru::Lru`] change in one piece of file
//! work that holds the digest's guard and runs to its end whatever becomes of its caller.
//!
//! Insert of an accepted or verified chunk
//! 1. Reserve room. None in time, or caching is paused: go to 4.
//! 2. Write a temporary file, set its times, rename it to the marker.
//! 3. Account for it.
//! 4. Without room, or if 2 fails: an empty marker, which protects as well. Only if that fails too the insert fails.
//!
//! Crash in 2: a temporary file, removed by [`Cache::open`]. After 2: a cached chunk that start-up accounting finds.
//!
//! A disk that is full or fails costs cache hits: inserts still make their empty markers, which need an inode and no room,
//! and fail where not even that is possible. Caching pauses, for longer each time, with one
//! warning; a full disk also lowers the bound for as long as the pause lasts, so that the evictor makes room.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::chunk_store::guard::{ChunkTable, Guard};
use crate::chunk_store::marker::{Marker, Markers, Nature};
use crate::error::About as _;
use crate::files::Files;
use crate::metrics::{CacheMetrics, count};
use crate::step::Step;
use crate::{Digest, Env, Result};

mod account;
mod ahead;
mod evict;
pub(crate) mod fill;
pub(crate) mod lru;

use self::lru::{Lru, Reservation};
pub(crate) use ahead::AHEAD_CHUNKS_MAX;
pub use ahead::ReadAhead;

/// How long an insert waits for the evictor. Longer would show in the speed of a backup; with its low mark the evictor
/// is usually ahead of what arrives.
const ROOM_WAIT_MAX: Duration = Duration::from_millis(100);
/// First and longest pause after a failed write: short enough to use a disk soon that works again, long enough not to
/// fill the log.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_mins(5);
/// How long writing must go well until that is worth a line.
const WORKS_FOR: Duration = Duration::from_secs(10);

/// What an insert left in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    /// The chunk.
    Content,
    /// An empty marker: same protection, no data.
    Marker,
}

/// Whether content may be written at the moment.
#[derive(Debug, Default)]
struct Pause {
    until: Option<Instant>,
    /// Length of the last pause; zero after a success.
    length: Duration,
    /// The last failure that began a pause.
    failed: Option<Instant>,
    /// When that was last said, until it is over.
    warned: Option<Instant>,
}

/// State that the cache shares with its own tasks.
#[derive(Debug)]
struct Inner {
    env: Env,
    markers: Markers,
    table: Arc<ChunkTable>,
    lru: Arc<Lru>,
    pause: Mutex<Pause>,
    metrics: Arc<CacheMetrics>,
    stop: watch::Sender<bool>,
}

/// The cache. Dropping it stops its tasks.
#[derive(Debug)]
pub(crate) struct Cache(Arc<Inner>);

impl Drop for Cache {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Cache {
    /// Opens the cache below the markers' directory: prepares the directories ([`Markers::prepare`]; nothing may be
    /// inserted before), then starts the accounting of what is there and the evictor. `bytes_max` bounds cached plus
    /// temporary bytes; 0 keeps no chunk.
    pub(crate) async fn open(
        env: Env,
        markers: Markers,
        table: Arc<ChunkTable>,
        bytes_max: u64,
        metrics: Arc<CacheMetrics>,
    ) -> Result<Arc<Self>> {
        let inner = Arc::new(Inner {
            env: env.clone(),
            markers,
            table,
            lru: Lru::new(bytes_max),
            pause: Mutex::default(),
            metrics,
            stop: watch::Sender::new(false),
        });
        let (markers, clock) = (inner.markers.clone(), env.clone());
        let stranded = env.io(move |files| markers.prepare(&clock, files)).await?;
        inner.lru.add_stranded(stranded);
        env.spawn(account::run(Arc::clone(&inner)));
        env.spawn(evict::run(Arc::clone(&inner)));
        Ok(Arc::new(Self(inner)))
    }

    /// Stops accounting and eviction, for shutdown: inserts go on without waiting for room.
    pub(crate) fn stop(&self) {
        self.0.stop.send_replace(true);
    }

    /// Inserts a chunk that the backend has accepted, replacing whatever the marker holds: step 5 of an insert. The
    /// guard comes back with the result; an error means that not even an empty marker could be created.
    pub(crate) async fn insert(
        &self,
        guard: Guard,
        parts: &[Bytes],
        nature: Nature,
        used: Timestamp,
        born: Timestamp,
    ) -> (Guard, Result<Kept>) {
        let room = self.room_for(parts).await;
        let marker = Marker {
            size: 0,
            used,
            born,
            nature,
        };
        self.write(guard, room, parts, move |inner, files, guard, parts| {
            let unique = inner.env.new_id();
            let put = inner.markers.put(files, guard, parts, marker, &unique);
            put.map(|()| true)
        })
        .await
    }

    /// As [`Cache::insert`], without the content: for writers that ask not to be cached.
    #[cfg(test)]
    pub(crate) async fn insert_marker(
        &self,
        guard: Guard,
        nature: Nature,
        used: Timestamp,
        born: Timestamp,
    ) -> (Guard, Result<Kept>) {
        self.insert(guard, &[], nature, used, born).await
    }

    /// Inserts a chunk that was read from the bucket, unless it is cached. A marker that is there keeps its times; one
    /// that is not is created with `asked`, the moment before the GET was sent, as evidence and use.
    async fn insert_read(
        &self,
        guard: Guard,
        parts: &[Bytes],
        nature: Nature,
        asked: Timestamp,
    ) -> (Guard, Result<Kept>) {
        if self.0.lru.contains(&guard.digest()) {
            return (guard, Ok(Kept::Content));
        }
        let room = self.room_for(parts).await;
        let marker = Marker {
            size: 0,
            used: asked,
            born: asked,
            nature,
        };
        self.write(guard, room, parts, move |inner, files, guard, parts| {
            let unique = inner.env.new_id();
            let markers = &inner.markers;
            if parts.is_empty() && markers.get(files, &guard.digest())?.is_some() {
                return Ok(false);
            }
            let replaced = markers.replace(files, guard, parts, nature, &unique)?;
            if replaced.is_none() {
                markers.put(files, guard, parts, marker, &unique)?;
            }
            Ok(true)
        })
        .await
    }

    /// Drops a cached chunk that turned out to be damaged: its marker stays, empty. The guard comes back.
    pub(crate) async fn drop_content(&self, guard: Guard) -> (Guard, Result<()>) {
        let inner = Arc::clone(&self.0);
        self.0
            .env
            .io(move |files| {
                let dropped = inner.empty(files, &guard).map(|_| ());
                let path = inner.markers.path(&guard.digest());
                (guard, dropped.about(path))
            })
            .await
    }

    /// The chunk's marker was removed by whoever condemned the digest.
    pub(crate) fn forget_condemned(&self, digest: &Digest) {
        self.0.lru.forget(digest);
    }

    /// A read was served from the cache.
    pub(crate) fn touch(&self, digest: &Digest) {
        self.0.lru.touch(digest);
    }

    /// Whether the chunk is cached, as far as known.
    pub(crate) fn contains(&self, digest: &Digest) -> bool {
        self.0.lru.contains(digest)
    }

    /// Length of the cached chunk in bytes, as far as known.
    pub(crate) fn size(&self, digest: &Digest) -> Option<u64> {
        self.0.lru.size(digest)
    }

    /// Cached plus temporary bytes.
    pub(crate) fn bytes_used(&self) -> u64 {
        self.0.lru.used()
    }

    /// How many chunks are cached.
    #[cfg(test)]
    pub(crate) fn chunks(&self) -> usize {
        self.0.lru.len()
    }

    /// Whether start-up accounting has ended; to be watched.
    #[cfg(test)]
    pub(crate) fn accounted(&self) -> watch::Receiver<bool> {
        self.0.lru.accounted()
    }

    /// Room for the content, if there is any to be cached.
    async fn room_for(&self, parts: &[Bytes]) -> Option<Reservation> {
        let inner = &self.0;
        let bytes = parts.iter().map(|part| part.len() as u64).sum();
        if bytes == 0 || inner.is_paused() {
            return None;
        }
        let wait = if *inner.stop.borrow() {
            Duration::ZERO
        } else {
            ROOM_WAIT_MAX
        };
        let room = inner.lru.reserve_within(bytes, wait).await;
        if room.is_none() {
            count(&inner.metrics.inserts_without_room);
        }
        room
    }

    /// Steps 2 to 4 of an insert; `put` writes the parts it is given, or none, as the marker's content, and tells whether
    /// it has changed anything.
    async fn write(
        &self,
        guard: Guard,
        room: Option<Reservation>,
        parts: &[Bytes],
        put: impl Fn(&Inner, &dyn Files, &Guard, &[Bytes]) -> io::Result<bool> + Send + 'static,
    ) -> (Guard, Result<Kept>) {
        let inner = Arc::clone(&self.0);
        let parts = parts.to_vec();
        self.0
            .env
            .io(move |files| {
                let digest = guard.digest();
                if let Some(room) = room {
                    Step::CacheReserved.passed();
                    match put(&inner, files, &guard, &parts) {
                        Ok(_) => {
                            inner.lru.commit(room, digest);
                            inner.worked();
                            return (guard, Ok(Kept::Content));
                        }
                        Err(error) => inner.failed_writing(files, &digest, room, &error),
                    }
                }
                let empty = put(&inner, files, &guard, &[]);
                if matches!(empty, Ok(true)) {
                    inner.lru.forget(&digest);
                }
                let path = inner.markers.path(&digest);
                (guard, empty.map(|_| Kept::Marker).about(path))
            })
            .await
    }
}

impl Inner {
    fn pause(&self) -> MutexGuard<'_, Pause> {
        self.pause.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When content may be written again, if not now. The end of a pause restores the bound.
    fn paused_until(&self) -> Option<Instant> {
        let mut pause = self.pause();
        let until = pause.until?;
        if self.env.instant() < until {
            return Some(until);
        }
        pause.until = None;
        drop(pause);
        self.lru.restore_limit();
        None
    }

    fn is_paused(&self) -> bool {
        self.paused_until().is_some()
    }

    /// Content was written. That it can be is said when it lasts: on a disk that is too small every pause makes some room.
    fn worked(&self) {
        let mut pause = self.pause();
        if pause.until.is_some() {
            return;
        }
        pause.length = Duration::ZERO;
        let now = self.env.instant();
        let lasts = |failed| now.saturating_duration_since(failed) >= WORKS_FOR;
        if pause.warned.is_some() && pause.failed.is_none_or(lasts) {
            pause.warned = None;
            tracing::info!("the cache directory can be written again; caching goes on");
        }
    }

    /// Writing into the cache directory failed: pauses it.
    fn failed(&self, error: &io::Error) {
        count(&self.metrics.disk_errors);
        let full = matches!(
            error.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        );
        let mut pause = self.pause();
        let running = pause.until.is_some_and(|until| self.env.instant() < until);
        if running {
            return;
        }
        let now = self.env.instant();
        pause.length = (pause.length * 2).clamp(PAUSE_MIN, PAUSE_MAX);
        (pause.until, pause.failed) = (Some(now + pause.length), Some(now));
        let first = pause.warned.is_none_or(|warned| now >= warned + PAUSE_MAX);
        if first {
            pause.warned = Some(now);
        }
        drop(pause);
        if full {
            self.lru.lower_limit();
        }
        if first {
            tracing::warn!(
                directory = %self.markers.chunks().display(),
                "cannot write into the cache directory ({error}); caching pauses, backups and restores go on"
            );
        } else {
            tracing::debug!("still cannot write into the cache directory: {error}");
        }
    }

    /// A chunk could not be written. Its temporary file is normally gone; if not, it goes on to take room.
    fn failed_writing(
        &self,
        files: &dyn Files,
        digest: &Digest,
        room: Reservation,
        error: &io::Error,
    ) {
        let prefix = format!("{digest}.");
        match files.list(self.markers.temporary()) {
            Ok(left) if !left.iter().any(|file| file.name.starts_with(&prefix)) => drop(room),
            Err(gone) if gone.kind() == io::ErrorKind::NotFound => drop(room),
            _ => room.strand(),
        }
        self.failed(error);
    }

    /// Replaces a marker's content by nothing; whether there was a marker. Under the digest's guard.
    fn empty(&self, files: &dyn Files, guard: &Guard) -> io::Result<bool> {
        let unique = self.env.new_id();
        let replaced = self
            .markers
            .replace(files, guard, &[], Nature::Unknown, &unique)?;
        self.lru.forget(&guard.digest());
        Ok(replaced.is_some())
    }

    /// Waits, unless the cache is stopped meanwhile; whether it goes on.
    async fn goes_on(&self, wait: impl Future<Output = ()>) -> bool {
        let mut stop = self.stop.subscribe();
        tokio::select! {
            biased;
            // An error would mean that the sender is gone, which `self` keeps.
            _ = stop.wait_for(|stop| *stop) => false,
            () = wait => true,
        }
    }
}

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;
