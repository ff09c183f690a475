//! What the cache holds and in which order it is to go: accounting by bytes.
//!
//! Space is reserved before it is written, so cached plus temporary bytes never exceed the bound (I9). Counted are the
//! lengths of the files; empty markers count nothing. An entry costs about 100 bytes of memory.
//!
//! While start-up accounting runs nobody gets a reservation: what lies in the directory is not known yet. An entry may
//! name a chunk whose file has gone meanwhile (its eviction finds out and forgets it); a file with content that has no
//! entry does not occur, for content and entry change in one piece of file work under the digest's guard.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lru::LruCache;
use tokio::sync::{Notify, watch};

use crate::Digest;

/// Room that starts the evictor, as a share of the bound: enough for what arrives while it works …
const ROOM_SHARE_LOW: u64 = 16;
/// … but of a large cache not more than 1 GiB, about ten seconds of a fast network.
const ROOM_BYTES_LOW_MAX: u64 = 1 << 30;
/// An evictor that has started goes on to this multiple of the low mark, so that it does not run for every chunk.
const ROOM_HIGH: u64 = 2;

#[derive(Debug)]
struct State {
    entries: LruCache<Digest, u32>,
    /// Bytes of all entries.
    cached: u64,
    /// Bytes reserved for files that are being written.
    reserved: u64,
    /// Bytes of files that could neither be finished nor removed; given back by the next start.
    stranded: u64,
    /// Bytes that somebody waits for.
    wanted: u64,
    /// The bound in force: the configured one, or less while the disk is full.
    limit: u64,
}

impl State {
    fn used(&self) -> u64 {
        self.cached + self.reserved + self.stranded
    }

    fn remove(&mut self, digest: &Digest) -> bool {
        let size = self.entries.pop(digest);
        self.cached -= size.map_or(0, u64::from);
        size.is_some()
    }
}

/// The accounting of one cache directory.
#[derive(Debug)]
pub(crate) struct Lru {
    state: Mutex<State>,
    bytes_max: u64,
    accounted: watch::Sender<bool>,
    /// Wakes the evictor.
    pressed: Notify,
    /// Wakes those who wait for room.
    freed: Notify,
}

/// Room for a file that is about to be written; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    lru: Arc<Lru>,
    bytes: u64,
}

impl Reservation {
    /// Keeps the room for good: the file could neither be finished nor removed.
    pub(crate) fn strand(mut self) {
        let mut state = self.lru.state();
        state.reserved -= self.bytes;
        state.stranded += self.bytes;
        drop(state);
        self.bytes = 0;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.lru.state().reserved -= self.bytes;
            self.lru.freed.notify_waiters();
        }
    }
}

/// A wish for room that the evictor works on.
struct Wanted<'a>(&'a Lru, u64);

impl<'a> Wanted<'a> {
    fn new(lru: &'a Lru, bytes: u64) -> Self {
        lru.state().wanted += bytes;
        lru.pressed.notify_one();
        Self(lru, bytes)
    }
}

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        self.0.state().wanted -= self.1;
    }
}

impl Lru {
    /// Accounting that knows nothing yet, for at most `bytes_max` bytes.
    pub(crate) fn new(bytes_max: u64) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                entries: LruCache::unbounded(),
                cached: 0,
                reserved: 0,
                stranded: 0,
                wanted: 0,
                limit: bytes_max,
            }),
            bytes_max,
            accounted: watch::Sender::new(false),
            pressed: Notify::new(),
            freed: Notify::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cached plus temporary bytes.
    pub(crate) fn used(&self) -> u64 {
        self.state().used()
    }

    /// How many chunks are cached.
    pub(crate) fn len(&self) -> usize {
        self.state().entries.len()
    }

    /// Whether start-up accounting has ended; to be watched.
    pub(crate) fn accounted(&self) -> watch::Receiver<bool> {
        self.accounted.subscribe()
    }

    fn is_accounted(&self) -> bool {
        *self.accounted.borrow()
    }

    /// Reserves room for a file of `bytes`, if there is room at this moment and accounting has ended.
    pub(crate) fn reserve(self: &Arc<Self>, bytes: u64) -> Option<Reservation> {
        if !self.is_accounted() {
            return None;
        }
        let mut state = self.state();
        let fits = u32::try_from(bytes).is_ok() && state.used() + bytes <= state.limit;
        if fits {
            state.reserved += bytes;
        }
        drop(state);
        if !fits || self.is_short(1) {
            self.pressed.notify_one();
        }
        fits.then(|| Reservation {
            lru: Arc::clone(self),
            bytes,
        })
    }

    /// Reserves room, waiting at most `limit` for the evictor. The evictor waits for nobody's guard, so this may be
    /// called by who holds one.
    pub(crate) async fn reserve_within(
        self: &Arc<Self>,
        bytes: u64,
        limit: Duration,
    ) -> Option<Reservation> {
        if let Some(reservation) = self.reserve(bytes) {
            return Some(reservation);
        }
        if !self.is_accounted() || bytes > self.state().limit {
            return None;
        }
        let _wanted = Wanted::new(self, bytes);
        let wait = async {
            loop {
                let mut freed = pin!(self.freed.notified());
                freed.as_mut().enable();
                if let Some(reservation) = self.reserve(bytes) {
                    return reservation;
                }
                freed.await;
            }
        };
        tokio::time::timeout(limit, wait).await.ok()
    }

    /// The file is in its place: its room is now that of a cached chunk, and the newest one.
    pub(crate) fn commit(&self, mut reservation: Reservation, digest: Digest) {
        let bytes = std::mem::take(&mut reservation.bytes);
        let size = u32::try_from(bytes).expect("`reserve` gives out no more");
        let mut state = self.state();
        state.reserved -= bytes;
        let replaced = state.entries.put(digest, size);
        state.cached += bytes;
        state.cached -= replaced.map_or(0, u64::from);
    }

    /// Makes a cached chunk the newest one.
    pub(crate) fn touch(&self, digest: &Digest) {
        self.state().entries.promote(digest);
    }

    /// Whether the chunk is cached, as far as known.
    pub(crate) fn contains(&self, digest: &Digest) -> bool {
        self.state().entries.contains(digest)
    }

    /// Bytes of the chunk, if it is cached, as far as known.
    pub(crate) fn size(&self, digest: &Digest) -> Option<u64> {
        self.state()
            .entries
            .peek(digest)
            .map(|size| u64::from(*size))
    }

    /// The chunk is not cached any more.
    pub(crate) fn forget(&self, digest: &Digest) {
        if self.state().remove(digest) {
            self.freed.notify_waiters();
        }
    }

    /// The chunk that is to go first.
    pub(crate) fn oldest(&self) -> Option<Digest> {
        self.state().entries.peek_lru().map(|(digest, _)| *digest)
    }

    /// Whether there is less room than `marks` times the low mark, or than somebody waits for.
    fn is_short(&self, marks: u64) -> bool {
        let state = self.state();
        let low = (state.limit / ROOM_SHARE_LOW).min(ROOM_BYTES_LOW_MAX);
        let room = (low * marks).max(state.wanted).min(state.limit);
        state.cached > 0 && state.used() + room > state.limit
    }

    /// Whether an evictor that has started should go on.
    pub(crate) fn wants_eviction(&self) -> bool {
        self.is_accounted() && self.is_short(ROOM_HIGH)
    }

    /// Waits until room is short.
    pub(crate) async fn pressed(&self) {
        loop {
            let mut pressed = pin!(self.pressed.notified());
            pressed.as_mut().enable();
            if self.is_accounted() && self.is_short(1) {
                return;
            }
            pressed.await;
        }
    }

    /// The disk is full before the bound is reached: for now the bound is a sixteenth below what is there.
    pub(crate) fn lower_limit(&self) {
        let mut state = self.state();
        state.limit = state.used().min(state.limit) / 16 * 15;
        drop(state);
        self.pressed.notify_one();
    }

    /// The configured bound is in force again.
    pub(crate) fn restore_limit(&self) {
        self.state().limit = self.bytes_max;
        self.freed.notify_waiters();
    }

    /// Start-up: adds chunks found in the directory, the oldest first.
    pub(crate) fn add_found(&self, found: &[(Digest, u32)]) {
        let mut state = self.state();
        for (digest, size) in found {
            let replaced = state.entries.put(*digest, *size);
            state.cached += u64::from(*size);
            state.cached -= replaced.map_or(0, u64::from);
        }
    }

    /// Start-up: bytes of temporary files that could not be removed.
    pub(crate) fn add_stranded(&self, bytes: u64) {
        self.state().stranded += bytes;
    }

    /// Start-up: everything has been added.
    pub(crate) fn end_accounting(&self) {
        self.accounted.send_replace(true);
        self.pressed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(n: u8) -> Digest {
        Digest([n; 32])
    }

    fn accounted(bytes_max: u64) -> Arc<Lru> {
        let lru = Lru::new(bytes_max);
        lru.end_accounting();
        lru
    }

    #[test]
    fn nothing_is_reserved_before_accounting_has_ended() {
        let lru = Lru::new(100);
        assert!(lru.reserve(1).is_none());
        lru.add_found(&[(digest(1), 60)]);
        lru.end_accounting();
        assert!(lru.reserve(41).is_none());
        assert!(lru.reserve(40).is_some());
        assert_eq!(lru.used(), 60);
    }

    #[test]
    fn both_files_count_while_one_replaces_the_other() {
        let lru = accounted(100);
        lru.commit(lru.reserve(60).unwrap(), digest(1));
        assert!(lru.reserve(50).is_none());
        let reservation = lru.reserve(40).unwrap();
        assert_eq!(lru.used(), 100);
        lru.commit(reservation, digest(1));
        assert_eq!((lru.used(), lru.len()), (40, 1));
    }

    #[test]
    fn the_oldest_goes_first_and_a_touch_makes_young() {
        let lru = accounted(100);
        for n in 1..=3 {
            lru.commit(lru.reserve(10).unwrap(), digest(n));
        }
        lru.touch(&digest(1));
        assert_eq!(lru.oldest(), Some(digest(2)));
        lru.forget(&digest(2));
        assert_eq!(lru.oldest(), Some(digest(3)));
        assert_eq!(lru.used(), 20);
    }

    #[test]
    fn stranded_bytes_stay_counted() {
        let lru = accounted(100);
        lru.reserve(70).unwrap().strand();
        assert_eq!(lru.used(), 70);
        assert!(lru.reserve(31).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_room_is_woken_by_it_and_not_kept_for_long() {
        let lru = accounted(100);
        lru.commit(lru.reserve(100).unwrap(), digest(1));
        let wait = Duration::from_secs(1);
        assert!(lru.reserve_within(10, wait).await.is_none());
        let (reservation, ()) = tokio::join!(lru.reserve_within(10, wait), async {
            lru.pressed().await;
            assert!(lru.wants_eviction());
            lru.forget(&digest(1));
        });
        assert!(reservation.is_some());
        assert_eq!(lru.state().wanted, 0);
    }

    #[test]
    fn a_full_disk_lowers_the_bound() {
        let lru = accounted(1600);
        lru.commit(lru.reserve(800).unwrap(), digest(1));
        lru.lower_limit();
        assert!(lru.wants_eviction());
        assert!(lru.reserve(1).is_none());
        lru.restore_limit();
        assert!(lru.reserve(800).is_some());
    }
}
