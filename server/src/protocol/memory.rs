//! Memory of the two protocols: connection windows, and bodies on their way in (design 10; the proof that nothing can
//! wait for ever is `docs/decisions/0007-flow-control.md`).
//!
//! 1. A session has its connection window before it is admitted: what a client sends and nobody has looked at yet fits
//!    into it. The smallest windows of the first [`SESSIONS_SURE`] sessions of each sort are set aside from the start
//!    ([`WINDOWS_BYTES_SET_ASIDE`]) and no part of the [`MemoryBudget`]: these sessions are admitted whatever the others
//!    hold. A window is larger, and further sessions are admitted, where the budget has something left; such windows take
//!    at most three quarters of it.
//! 2. A body is read into memory only under a [`Claim`] for *all* of it: whoever has begun can finish. Claims of a
//!    session are granted in order of arrival, and no session holds more than its share, so that a slow client with
//!    many bodies under way does not keep others from writing. Who holds a claim asks for no second one. Bodies of calls
//!    that are no uploads are claimed in the same way; the tiny ones of a reader session are covered by its window.
//!    All sessions of one user together leave the longest body to others, or as much as the windows leave: one user whose
//!    bodies stall, in however many sessions, does not keep other users from writing.
//! 3. Files on their way out are read under a claim, of at most that of the longest body: long indexes are beside it.
//! 4. Chunks on their way out were granted their memory by the datastore. Here they count against the session's share
//!    only, so that a slow reader with many chunks under way does not keep others from their turn.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use pbs_datastore::{CHUNK_ENCODED_BYTES_MAX, MemoryBudget, MemoryPermit};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::auth::UserId;

use super::flow::{READER_BODY_BYTES_MAX, STREAMS_MAX, stream_window_bytes};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
/// Smallest connection window of a session that uploads.
const WRITER_WINDOW_BYTES_MIN: u64 = 160 * KIB;
/// From this connection window on, all [`STREAMS_MAX`] streams have a window of at least 16 KiB each. The first sessions
/// get at least so much.
const WRITER_WINDOW_BYTES_FULL: u64 = 4 * MIB;
/// Largest connection window of a session that uploads.
const WRITER_WINDOW_BYTES_MAX: u64 = 32 * MIB;
/// Connection window of a session that sends requests with small bodies or none.
const READER_WINDOW_BYTES: u64 = 96 * KIB;
/// Streams of such a session.
const READER_STREAMS: u32 = 64;
/// What such a session holds: its window, and the small bodies of all its streams. Where there is neither, in a session of one
/// request, a short index is held in it.
pub(super) const READER_BYTES: u64 =
    READER_WINDOW_BYTES + READER_STREAMS as u64 * READER_BODY_BYTES_MAX as u64;
/// Backup sessions, and reader sessions, that are admitted whatever else is held.
pub(crate) const SESSIONS_SURE: usize = 64;
/// What is set aside for them: 20 MiB of the configured memory.
pub(crate) const WINDOWS_BYTES_SET_ASIDE: u64 =
    SESSIONS_SURE as u64 * (WRITER_WINDOW_BYTES_MIN + READER_BYTES);
/// Which part of what is left for windows a new session gets, until half of it is gone.
const WINDOW_SHARE: u64 = 6;
/// What windows always leave for bodies: the longest one, and room for a few more.
const BODIES_BYTES_MIN: u64 = 24 * MIB;
/// What a chunk on its way out is taken for until it is there: the chunk of an image with its header.
const ANSWER_BYTES_LIKELY: u64 = 4 * MIB + 64;
/// How long an admission waits for a window.
const WINDOW_WAIT_MAX: Duration = Duration::from_secs(10);
/// How long a body waits for memory. Clients wait for an answer as long as the connection lives.
const CLAIM_WAIT_MAX: Duration = Duration::from_mins(15);

/// The memory of all sessions.
#[derive(Debug)]
pub(crate) struct ProtocolMemory {
    budget: MemoryBudget,
    /// The windows that are set aside.
    writers: Arc<Semaphore>,
    readers: Arc<Semaphore>,
    /// What is left of the budget for windows, in KiB.
    windows: Arc<Semaphore>,
    windows_bytes_max: u64,
    /// Open sessions.
    sessions: AtomicUsize,
    /// Who has sessions.
    users: Mutex<BTreeMap<UserId, Weak<UserShare>>>,
}

impl ProtocolMemory {
    /// Takes what is not set aside from `budget`, which others use too: the configured memory, at least 64 MiB, without
    /// [`WINDOWS_BYTES_SET_ASIDE`].
    pub(crate) fn new(budget: MemoryBudget) -> Arc<Self> {
        let whole = budget.bytes_max();
        let windows_bytes_max = (whole - whole / 4).min(whole.saturating_sub(BODIES_BYTES_MIN));
        Arc::new(Self {
            writers: Arc::new(Semaphore::new(SESSIONS_SURE)),
            readers: Arc::new(Semaphore::new(SESSIONS_SURE)),
            windows: Arc::new(Semaphore::new((windows_bytes_max / KIB) as usize)),
            windows_bytes_max,
            sessions: AtomicUsize::new(0),
            users: Mutex::default(),
            budget,
        })
    }

    fn windows_bytes_free(&self) -> u64 {
        self.windows.available_permits() as u64 * KIB
    }

    /// The memory of a session that uploads. `None` if it is one too many and even the smallest window does not become
    /// free in time.
    pub(crate) async fn open_writer(self: &Arc<Self>, user: &UserId) -> Option<WriterMemory> {
        let least = self.place(&self.writers, WRITER_WINDOW_BYTES_MIN).await?;
        let more = self.more();
        let bytes = WRITER_WINDOW_BYTES_MIN + more.as_ref().map_or(0, Room::bytes);
        Some(WriterMemory {
            window: Window {
                bytes: u32::try_from(bytes).ok()?,
                streams: streams_of(bytes),
                _room: [Some(least), more],
            },
            claims: self.claims(user),
        })
    }

    /// The memory of a session that only reads; `None` as above.
    pub(crate) async fn open_reader(self: &Arc<Self>, user: &UserId) -> Option<ReaderMemory> {
        let room = self.place(&self.readers, READER_BYTES).await?;
        Some(ReaderMemory {
            window: Window {
                bytes: READER_WINDOW_BYTES as u32,
                streams: READER_STREAMS,
                _room: [Some(room), None],
            },
            claims: self.claims(user),
        })
    }

    fn claims(self: &Arc<Self>, user: &UserId) -> Claims {
        self.sessions.fetch_add(1, Ordering::Relaxed);
        let user = self.user(user);
        let gate = Arc::new(Gate {
            memory: Arc::clone(self),
            user: Arc::clone(&user),
            state: Mutex::default(),
        });
        {
            let mut state = user.lock();
            state.gates.retain(|gate| gate.strong_count() > 0);
            state.gates.push_back(Arc::downgrade(&gate));
        }
        Claims(gate)
    }

    /// What the sessions of a user share.
    fn user(&self, user: &UserId) -> Arc<UserShare> {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = users.get(user).and_then(Weak::upgrade) {
            return share;
        }
        users.retain(|_, share| share.strong_count() > 0);
        let share = Arc::<UserShare>::default();
        users.insert(user.clone(), Arc::downgrade(&share));
        share
    }

    fn windows_bytes_held(&self) -> u64 {
        self.windows_bytes_max - self.windows_bytes_free().min(self.windows_bytes_max)
    }

    /// Room that is set aside, or room in the budget.
    async fn place(&self, set_aside: &Arc<Semaphore>, bytes: u64) -> Option<Room> {
        if let Ok(place) = Arc::clone(set_aside).try_acquire_owned() {
            return Some(Room::SetAside { _place: place });
        }
        let windows = Arc::clone(&self.windows);
        let kib = u32::try_from(bytes.div_ceil(KIB)).ok()?;
        let reserve = async {
            let share = windows.acquire_many_owned(kib).await.ok()?;
            let permit = self.budget.take(bytes, WINDOW_WAIT_MAX).await?;
            Some(Room::Budget { share, permit })
        };
        tokio::time::timeout(WINDOW_WAIT_MAX, reserve).await.ok()?
    }

    /// By how much the window of a new session is larger than the smallest. The first sessions get a sixth of what is
    /// left for windows, and enough for all streams; the second half of it is for the others in equal parts. Nobody waits
    /// for it, and what one user's bodies leave to others is left to them.
    fn more(&self) -> Option<Room> {
        let free = self.windows_bytes_free();
        let full = WRITER_WINDOW_BYTES_FULL - WRITER_WINDOW_BYTES_MIN;
        let most = WRITER_WINDOW_BYTES_MAX - WRITER_WINDOW_BYTES_MIN;
        let others = self.writers.available_permits() as u64;
        let wanted = if free > self.windows_bytes_max / 2 {
            (free / WINDOW_SHARE).max(full.min(free))
        } else {
            free / (1 + others)
        };
        let spare = self.budget.bytes_free();
        let spare = spare.saturating_sub(CHUNK_ENCODED_BYTES_MAX as u64);
        let wanted = wanted.min(most).min(spare);
        let kib = u32::try_from(wanted / KIB).ok().filter(|kib| *kib > 0)?;
        let share = Arc::clone(&self.windows).try_acquire_many_owned(kib).ok()?;
        let permit = self.budget.try_take(u64::from(kib) * KIB)?;
        Some(Room::Budget { share, permit })
    }

    /// What one session may claim: an equal part, with one part left for the next session.
    fn session_bytes_max(&self) -> u64 {
        let sessions = self.sessions.load(Ordering::Relaxed) as u64;
        let all = self.budget.bytes_max();
        let share = all.saturating_sub(self.windows_bytes_held()) / (1 + sessions);
        share.max(CHUNK_ENCODED_BYTES_MAX as u64)
    }

    /// What the sessions of one user may claim: all but the longest body.
    fn user_bytes_max(&self) -> u64 {
        let longest = CHUNK_ENCODED_BYTES_MAX as u64;
        let others = self.windows_bytes_held() + longest;
        self.budget.bytes_max().saturating_sub(others).max(longest)
    }
}

/// How many streams can share a connection window so that each has 16 KiB; at least a few.
fn streams_of(window_bytes: u64) -> u32 {
    const STREAM_BYTES: u32 = 16 * KIB as u32;
    const STREAMS_MIN: u32 = 16;
    let all = stream_window_bytes(u32::try_from(window_bytes).unwrap_or(u32::MAX), 1);
    (all / STREAM_BYTES).clamp(STREAMS_MIN, STREAMS_MAX)
}

/// Room for a window, or a part of one.
#[derive(Debug)]
enum Room {
    SetAside {
        _place: OwnedSemaphorePermit,
    },
    Budget {
        share: OwnedSemaphorePermit,
        #[expect(dead_code, reason = "held, never read")]
        permit: MemoryPermit,
    },
}

impl Room {
    /// What it takes from the budget.
    fn bytes(&self) -> u64 {
        match self {
            Self::SetAside { .. } => 0,
            Self::Budget { share, .. } => share.num_permits() as u64 * KIB,
        }
    }
}

/// A reserved connection window; dropped when the connection has ended.
#[derive(Debug)]
pub(crate) struct Window {
    bytes: u32,
    streams: u32,
    _room: [Option<Room>; 2],
}

impl Window {
    /// Its size.
    pub(crate) fn bytes(&self) -> u32 {
        self.bytes
    }

    /// How many streams share it.
    pub(crate) fn streams(&self) -> u32 {
        self.streams
    }
}

/// The memory of a session that uploads.
#[derive(Debug)]
pub(crate) struct WriterMemory {
    /// Its connection window.
    pub(crate) window: Window,
    /// Where bodies get their memory.
    pub(crate) claims: Claims,
}

/// The memory of a session that only reads.
#[derive(Debug)]
pub(crate) struct ReaderMemory {
    /// Its connection window.
    pub(crate) window: Window,
    /// Its share for what is on its way out.
    pub(crate) claims: Claims,
}

/// Grants claims to the bodies of one session, in order of arrival.
#[derive(Debug, Clone)]
pub(crate) struct Claims(Arc<Gate>);

impl Claims {
    /// Memory for a body of `bytes`, at most [`CHUNK_ENCODED_BYTES_MAX`]; `None` if there is none for a long time.
    pub(crate) async fn take(&self, bytes: u64) -> Option<Claim> {
        let grant = self.0.enter(bytes).await?;
        let permit = self.0.memory.budget.take(bytes, CLAIM_WAIT_MAX).await?;
        Some(Claim {
            _permit: permit,
            _grant: grant,
        })
    }
}

impl Claims {
    /// Memory for a file on its way out, to be taken before the file is read. For a longer one than the longest body it
    /// is that of a body: more may never be free at once, and who waits for it would hold up all others.
    pub(crate) async fn file(&self, bytes: u64) -> Option<Claim> {
        self.take(bytes.min(CHUNK_ENCODED_BYTES_MAX as u64)).await
    }

    /// The session's leave for a chunk that the datastore answers with memory of its own.
    pub(crate) async fn answer(&self) -> Option<Grant> {
        self.0.enter(ANSWER_BYTES_LIKELY).await
    }
}

/// Memory for one whole body; given back when dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    _permit: MemoryPermit,
    _grant: Grant,
}

/// What all sessions of one user hold.
#[derive(Debug, Default)]
struct UserShare(Mutex<UserState>);

#[derive(Debug, Default)]
struct UserState {
    /// Bytes granted and not given back.
    held: u64,
    /// A gate was refused since the last time that something was given back.
    waiting: bool,
    /// Those of the open sessions.
    gates: VecDeque<Weak<Gate>>,
}

impl UserShare {
    fn lock(&self) -> MutexGuard<'_, UserState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes `bytes` if they are within the user's share. A user who holds nothing may always claim one body.
    fn try_take(&self, bytes: u64, bytes_max: u64) -> bool {
        let mut state = self.lock();
        let fits = state.held == 0 || state.held + bytes <= bytes_max;
        if fits {
            state.held += bytes;
        } else {
            state.waiting = true;
        }
        fits
    }

    /// Holds `now` instead of `before`, and lets those in who waited for it, each time beginning with another session.
    fn change(&self, before: u64, now: u64) {
        let gates = {
            let mut state = self.lock();
            state.held = state.held - before + now;
            if now >= before || !std::mem::take(&mut state.waiting) {
                return;
            }
            if !state.gates.is_empty() {
                state.gates.rotate_left(1);
            }
            state.gates.retain(|gate| gate.strong_count() > 0);
            state.gates.clone()
        };
        for gate in gates.iter().filter_map(Weak::upgrade) {
            gate.admit();
        }
    }
}

#[derive(Debug)]
struct Gate {
    memory: Arc<ProtocolMemory>,
    user: Arc<UserShare>,
    state: Mutex<GateState>,
}

#[derive(Debug, Default)]
struct GateState {
    /// Bytes granted and not given back.
    held: u64,
    queue: VecDeque<Waiter>,
}

#[derive(Debug)]
struct Waiter {
    bytes: u64,
    granted: oneshot::Sender<Grant>,
}

/// A session's leave to hold so much; given back when dropped.
#[derive(Debug)]
pub(crate) struct Grant {
    gate: Arc<Gate>,
    bytes: u64,
}

impl Grant {
    /// Counts for `bytes` from now on.
    pub(crate) fn resize(&mut self, bytes: u64) {
        {
            let mut state = self.gate.lock();
            state.held = state.held - self.bytes + bytes;
        }
        self.gate.user.change(self.bytes, bytes);
        self.bytes = bytes;
        self.gate.admit();
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.gate.lock().held -= self.bytes;
        self.gate.user.change(self.bytes, 0);
        self.gate.admit();
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.memory.sessions.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, GateState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes `bytes` for a session that holds `held`, if they are within its share and its user's. As far as it goes by
    /// the session, one that holds nothing may always claim one body.
    fn try_take(&self, held: u64, bytes: u64) -> bool {
        let fits = held == 0 || held + bytes <= self.memory.session_bytes_max();
        fits && self.user.try_take(bytes, self.memory.user_bytes_max())
    }

    async fn enter(self: &Arc<Self>, bytes: u64) -> Option<Grant> {
        let granted = {
            let mut state = self.lock();
            if state.queue.is_empty() && self.try_take(state.held, bytes) {
                state.held += bytes;
                None
            } else {
                let (granted, receiver) = oneshot::channel();
                state.queue.push_back(Waiter { bytes, granted });
                Some(receiver)
            }
        };
        match granted {
            Some(receiver) => receiver.await.ok(),
            None => Some(Grant {
                gate: Arc::clone(self),
                bytes,
            }),
        }
    }

    /// Grants the queue's head as long as it fits. Grants are sent, and those of waiters that have gone dropped, without
    /// the lock.
    fn admit(self: &Arc<Self>) {
        loop {
            let waiter = {
                let mut state = self.lock();
                let Some(head) = state.queue.front() else {
                    return;
                };
                let gone = head.granted.is_closed();
                if !gone && !self.try_take(state.held, head.bytes) {
                    return;
                }
                let Some(waiter) = state.queue.pop_front() else {
                    return;
                };
                if gone {
                    continue;
                }
                state.held += waiter.bytes;
                waiter
            };
            let grant = Grant {
                gate: Arc::clone(self),
                bytes: waiter.bytes,
            };
            drop(waiter.granted.send(grant));
        }
    }
}

#[cfg(test)]
mod tests;
