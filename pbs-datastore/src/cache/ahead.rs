//! Read-ahead of one reader: who has opened an index will ask for its chunks in order, and one at a time.
//!
//! - A *cursor* is a place in an index from where chunks are asked for in order. A request that fits no cursor starts
//!   one; there are a few per reader, so that several archives, or several places of an image, can be read in turn. Small
//!   skips (chunks that the client knows, runs of the zero chunk) and small disorder do not break the order.
//! - From the second request in order on, chunks ahead of a cursor are fetched and held in memory until they are asked
//!   for, each once. What is cached on disk is near enough and not fetched.
//! - Cursors that are in use share the window.
//! - The window starts small, doubles with every chunk that is served from it, up to the configured bound, and halves
//!   when something was fetched in vain.
//! - **Waste is bounded**: what is in flight or waiting never exceeds one window plus 5 % of all that was asked for, less
//!   what was wasted before. Wasted bytes thus stay under 5 % of a long read, whatever its pattern.
//! - Memory is taken from the shared budget, and only what is to spare; without it nothing is read ahead.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use super::fill::Flight;
use crate::chunk_store::{Chunk, ChunkReader, HEADER_BYTES_MAX};
use crate::metrics::add;
use crate::{Digest, Index, MemoryPermit, Result};

/// Requests in order after which reading ahead begins.
const HITS_MIN: u32 = 2;
/// Places of one reader that are followed: archives of a snapshot or readers of an image that take turns.
const CURSORS_MAX: usize = 8;
/// Indexes of one reader that are followed; a snapshot rarely has more archives.
const INDEXES_MAX: usize = 16;
/// Different chunks that may be skipped, or come late, without breaking the order.
const SKIP_MAX: usize = 8;
/// Entries of a run of equal chunks that are looked at, at most: 256 GiB of zeros.
const WALK_MAX: usize = 1 << 16;
/// Entries ahead of a cursor that are considered.
const LOOK_MAX: usize = 256;
/// Chunks in flight or waiting, at most: small ones should not become a flood of requests.
pub(crate) const AHEAD_CHUNKS_MAX: usize = 64;
/// First window: two chunks of the usual size.
const WINDOW_BYTES_MIN: u64 = 8 << 20;
/// Requests after which a cursor that was not used does not count any more …
const ACTIVE_REQUESTS: u64 = 64;
/// … and after which what was fetched ahead of it is given up.
const IDLE_REQUESTS: u64 = 256;
/// Chunks asked for, or fetched in vain, lately: asking for them again, or not, says nothing about the order.
const RECENT_MAX: NonZeroUsize = NonZeroUsize::new(256).expect("it is not zero");
/// Part of what is asked for that may be wasted.
const WASTE_SHARE: u64 = 20;

/// An index and where its digests are: sorted pairs of the digest's first 32 bits and the entry's number.
struct Opened {
    index: Index,
    places: Vec<u64>,
    _memory: MemoryPermit,
}

fn place(digest: &Digest, entry: usize) -> u64 {
    let [a, b, c, d, ..] = digest.0;
    u64::from(u32::from_be_bytes([a, b, c, d])) << 32 | entry as u64
}

impl Opened {
    fn new(index: Index, memory: MemoryPermit) -> Self {
        let mut places: Vec<_> = index
            .chunks()
            .enumerate()
            .map(|(entry, chunk)| place(&chunk.digest, entry))
            .collect();
        places.sort_unstable();
        Self {
            index,
            places,
            _memory: memory,
        }
    }

    /// The first entry from `from` on that is this chunk.
    fn find(&self, digest: &Digest, from: usize) -> Option<usize> {
        let first = place(digest, from);
        let start = self.places.partition_point(|place| *place < first);
        // Few digests share their first 32 bits, so few tries decide.
        self.places[start..]
            .iter()
            .take(SKIP_MAX)
            .take_while(|place| **place >> 32 == first >> 32)
            .map(|place| (*place & u64::from(u32::MAX)) as usize)
            .find(|entry| self.index.digest(*entry).as_ref() == Some(digest))
    }

    /// Whether from `from` to `to` there are only few different chunks.
    fn is_near(&self, from: usize, to: usize) -> bool {
        if to - from > WALK_MAX {
            return false;
        }
        let mut runs = 0;
        let mut last = None;
        (from..to).all(|entry| {
            let digest = self.index.digest(entry);
            runs += usize::from(digest != last);
            last = digest;
            runs <= SKIP_MAX
        })
    }
}

/// A chunk fetched ahead.
struct Ahead {
    entry: usize,
    digest: Digest,
    bytes: u64,
    flight: Flight,
}

struct Cursor {
    opened: Arc<Opened>,
    /// The entry expected next.
    position: usize,
    /// Requests in order so far.
    hits: u32,
    /// Number of the last request that belonged to it.
    used: u64,
    /// The first entry not yet considered for reading ahead.
    considered: usize,
    ahead: VecDeque<Ahead>,
}

impl Cursor {
    /// Bytes in flight or waiting to be asked for.
    fn bytes_ahead(&self) -> u64 {
        self.ahead.iter().map(|ahead| ahead.bytes).sum()
    }
}

struct State {
    opened: VecDeque<Arc<Opened>>,
    /// The one used last comes first.
    cursors: VecDeque<Cursor>,
    recent: LruCache<Digest, ()>,
    window: u64,
    /// Number of requests.
    requests: u64,
    /// Bytes asked for.
    asked: u64,
    /// Bytes fetched in vain.
    wasted: u64,
}

/// How a request fits what was asked before.
enum Fit {
    /// Fetched ahead, by this cursor, as this element.
    Ahead(usize, usize),
    /// The next one of this cursor, or nearly: this entry.
    Next(usize, usize),
    /// Out of turn, without saying anything about the order.
    Late,
    /// At this entry of this index, far from all cursors.
    Jump(Arc<Opened>, usize),
    /// In no index that is followed.
    Unknown,
}

/// Reads chunks for one reader session and fetches ahead what it will ask for next.
pub struct ReadAhead {
    reader: Arc<ChunkReader>,
    state: Mutex<State>,
}

impl std::fmt::Debug for ReadAhead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.state();
        f.debug_struct("ReadAhead")
            .field("indexes", &state.opened.len())
            .field("cursors", &state.cursors.len())
            .field("bytes_ahead", &state.outstanding())
            .finish_non_exhaustive()
    }
}

impl Drop for ReadAhead {
    fn drop(&mut self) {
        let cursors = std::mem::take(&mut self.state().cursors);
        for cursor in cursors {
            self.waste(&mut self.state(), cursor.ahead);
        }
    }
}

impl ReadAhead {
    /// Nothing opened yet.
    pub fn new(reader: Arc<ChunkReader>) -> Self {
        let window = WINDOW_BYTES_MIN.min(reader.ahead_bytes_max());
        Self {
            reader,
            state: Mutex::new(State {
                opened: VecDeque::new(),
                cursors: VecDeque::new(),
                recent: LruCache::new(RECENT_MAX),
                window,
                requests: 0,
                asked: 0,
                wasted: 0,
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The reader has opened an index: its chunks will be asked for, probably from the beginning. An index too large for
    /// the memory that is to spare is not followed; reads of its chunks work all the same.
    pub async fn open(&self, index: Index) {
        let bytes = index.as_bytes().len() as u64 + 8 * index.len() as u64;
        if self.reader.ahead_bytes_max() == 0 {
            return;
        }
        let Some(memory) = self.reader.budget().try_take_spare(bytes) else {
            tracing::debug!("no memory to follow an index of {} chunks", index.len());
            return;
        };
        let env = self.reader.env();
        let sort = env.compute(move || Arc::new(Opened::new(index, memory)));
        let opened = sort.await;
        let mut state = self.state();
        state.opened.push_front(Arc::clone(&opened));
        state.opened.truncate(INDEXES_MAX);
        let dropped = state.start(opened, 0);
        self.waste(&mut state, dropped);
    }

    /// Reads a chunk; errors as of [`ChunkReader::read`]. Dropping the future stops nothing that others wait for.
    pub async fn read(&self, digest: &Digest) -> Result<Arc<Chunk>> {
        let (flight, bytes) = self.ask(digest);
        if let Some(flight) = flight {
            match flight.wait().await {
                Ok(chunk) => {
                    let used = chunk.encoded_len() as u64;
                    add(&self.reader.metrics().ahead_bytes_used, used);
                    return Ok(chunk);
                }
                // The reader itself asked only now, and may be luckier.
                Err(error) => tracing::debug!(%digest, "reading ahead failed: {error}"),
            }
        }
        self.reader.read(digest, bytes).await
    }

    /// Notes a request and goes on fetching ahead. Gives the chunk on its way if it was fetched ahead, and its length
    /// before encoding if it is known.
    fn ask(&self, digest: &Digest) -> (Option<Flight>, Option<u64>) {
        let mut state = self.state();
        let state = &mut *state;
        state.requests += 1;
        let (mut flight, mut found) = (None, None);
        match state.fit(digest) {
            Fit::Ahead(cursor, element) => {
                let ahead = state.cursors[cursor].ahead.remove(element);
                let ahead = ahead.expect("`fit` has just found it");
                found = Some((Arc::clone(&state.cursors[cursor].opened), ahead.entry));
                flight = Some(ahead.flight);
                state.window = (state.window * 2).min(self.reader.ahead_bytes_max());
                let skipped = state.advance(cursor, ahead.entry);
                self.waste(state, skipped);
            }
            Fit::Next(cursor, entry) => {
                found = Some((Arc::clone(&state.cursors[cursor].opened), entry));
                let skipped = state.advance(cursor, entry);
                self.waste(state, skipped);
            }
            Fit::Jump(opened, entry) => {
                found = Some((Arc::clone(&opened), entry));
                let dropped = state.start(opened, entry + 1);
                self.waste(state, dropped);
            }
            Fit::Late | Fit::Unknown => {}
        }
        state.recent.put(*digest, ());
        let chunk = found.and_then(|(opened, entry)| opened.index.chunk(entry));
        let bytes = chunk.map(|chunk| chunk.len());
        state.asked += bytes.unwrap_or(0);
        let idle = state.idle();
        self.waste(state, idle);
        self.fetch(state);
        (flight, bytes)
    }

    /// Fetches ahead of the cursor used last, as far as the window reaches.
    fn fetch(&self, state: &mut State) {
        let ahead_bytes_max = self.reader.ahead_bytes_max();
        let allowed = state.asked / WASTE_SHARE + ahead_bytes_max;
        let window = state.window.min(allowed.saturating_sub(state.wasted));
        let share = window / state.active().max(1);
        let Some(mut cursor) = state.cursors.pop_front() else {
            return;
        };
        let mut outstanding = state.outstanding();
        let mut chunks: usize = state.cursors.iter().map(|c| c.ahead.len()).sum();
        let mut own = cursor.bytes_ahead();
        outstanding += own;
        chunks += cursor.ahead.len();
        let end = cursor.position.saturating_add(LOOK_MAX);
        let mut entry = cursor.considered.max(cursor.position);
        let mut repeats = 0;
        while cursor.hits >= HITS_MIN && chunks < AHEAD_CHUNKS_MAX && entry < end + repeats {
            let Some(chunk) = cursor.opened.index.chunk(entry) else {
                break;
            };
            let last = entry.checked_sub(1);
            let last = last.and_then(|last| cursor.opened.index.digest(last));
            if last == Some(chunk.digest) {
                repeats += usize::from(repeats < WALK_MAX);
            } else if !state.recent.promote(&chunk.digest)
                && !state.is_ahead(&cursor, &chunk.digest)
                && self.reader.gains_from_ahead(&chunk.digest)
            {
                let bytes = chunk.len() + HEADER_BYTES_MAX;
                if outstanding + bytes > window || own + bytes > share {
                    break;
                }
                let Some(permit) = self.reader.budget().try_take_spare(bytes) else {
                    break;
                };
                if let Some(flight) = self.reader.start_ahead(chunk.digest, permit) {
                    let digest = chunk.digest;
                    outstanding += bytes;
                    own += bytes;
                    chunks += 1;
                    cursor.ahead.push_back(Ahead {
                        entry,
                        digest,
                        bytes,
                        flight,
                    });
                }
            }
            entry += 1;
        }
        cursor.considered = entry;
        state.cursors.push_front(cursor);
    }

    /// Meters what was fetched in vain.
    fn waste(&self, state: &mut State, ahead: impl IntoIterator<Item = Ahead>) {
        for ahead in ahead {
            state.wasted += ahead.bytes;
            state.recent.put(ahead.digest, ());
            state.window = (state.window / 2).max(WINDOW_BYTES_MIN.min(state.window));
            let bytes = ahead.flight.landed_bytes().unwrap_or(ahead.bytes);
            add(&self.reader.metrics().ahead_bytes_unused, bytes);
        }
    }
}

impl State {
    /// Bytes in flight or waiting to be asked for.
    fn outstanding(&self) -> u64 {
        self.cursors.iter().map(Cursor::bytes_ahead).sum()
    }

    /// How many cursors want a share of the window.
    fn active(&self) -> u64 {
        let active = |cursor: &&Cursor| {
            cursor.hits >= HITS_MIN
                && cursor.position < cursor.opened.index.len()
                && self.requests - cursor.used <= ACTIVE_REQUESTS
        };
        self.cursors.iter().filter(active).count() as u64
    }

    /// What was fetched ahead of a cursor that nobody uses any more.
    fn idle(&mut self) -> VecDeque<Ahead> {
        let requests = self.requests;
        let idle = |cursor: &&mut Cursor| {
            requests - cursor.used > IDLE_REQUESTS && !cursor.ahead.is_empty()
        };
        let idle = self.cursors.iter_mut().rfind(idle);
        idle.map(|cursor| std::mem::take(&mut cursor.ahead))
            .unwrap_or_default()
    }

    fn is_ahead(&self, current: &Cursor, digest: &Digest) -> bool {
        let all = self.cursors.iter().chain([current]);
        all.flat_map(|cursor| &cursor.ahead)
            .any(|ahead| ahead.digest == *digest)
    }

    fn fit(&self, digest: &Digest) -> Fit {
        for (at, cursor) in self.cursors.iter().enumerate() {
            let mut ahead = cursor.ahead.iter();
            if let Some(element) = ahead.position(|ahead| ahead.digest == *digest) {
                return Fit::Ahead(at, element);
            }
        }
        for (at, cursor) in self.cursors.iter().enumerate() {
            let next = cursor.opened.find(digest, cursor.position);
            if let Some(entry) = next.filter(|e| cursor.opened.is_near(cursor.position, *e)) {
                return Fit::Next(at, entry);
            }
        }
        let late = |cursor: &Cursor| {
            let from = cursor.position.saturating_sub(SKIP_MAX);
            let entry = cursor.opened.find(digest, from);
            entry.is_some_and(|entry| entry < cursor.position)
        };
        if self.recent.contains(digest) || self.cursors.iter().any(late) {
            return Fit::Late;
        }
        for opened in &self.opened {
            if let Some(entry) = opened.find(digest, 0) {
                return Fit::Jump(Arc::clone(opened), entry);
            }
        }
        Fit::Unknown
    }

    /// Entry `entry` of the cursor was asked for. Returns what was fetched ahead and skipped for good.
    fn advance(&mut self, cursor: usize, entry: usize) -> Vec<Ahead> {
        let Some(mut cursor) = self.cursors.remove(cursor) else {
            return Vec::new();
        };
        cursor.position = cursor.position.max(entry + 1);
        cursor.hits = cursor.hits.saturating_add(1);
        cursor.used = self.requests;
        let late = cursor.position.saturating_sub(SKIP_MAX);
        let mut skipped = Vec::new();
        while let Some(ahead) = cursor.ahead.pop_front_if(|ahead| ahead.entry < late) {
            skipped.push(ahead);
        }
        self.cursors.push_front(cursor);
        skipped
    }

    /// Starts a cursor. Returns what was fetched ahead of the one that has to give way.
    fn start(&mut self, opened: Arc<Opened>, position: usize) -> VecDeque<Ahead> {
        self.cursors.push_front(Cursor {
            opened,
            position,
            hits: 0,
            used: self.requests,
            considered: position,
            ahead: VecDeque::new(),
        });
        if self.cursors.len() <= CURSORS_MAX {
            return VecDeque::new();
        }
        let oldest = self.cursors.pop_back();
        oldest.map(|cursor| cursor.ahead).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
