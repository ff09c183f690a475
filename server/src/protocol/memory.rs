//! Memory of the two protocols: connection windows, and bodies on their way in (design 10; the proof that nothing can
//! wait for ever is `docs/decisions/0007-flow-control.md`).
//!
//! All of it comes from one [`MemoryBudget`].
//! 1. A session reserves its connection window before it is admitted: what a client sends and nobody has looked at yet
//!    fits into it. Windows take at most three quarters of the budget.
//! 2. A body is read into memory only under a [`Claim`] for *all* of it: whoever has begun can finish. Claims of a
//!    session are granted in order of arrival, and no session holds more than its share, so that a slow client with
//!    many bodies under way does not keep others from writing. Who holds a claim asks for no second one.
//! 3. The bodies of calls that are no uploads come from a small reserve of the session.
//! 4. Files on their way out are read under a claim, of at most that of the longest body: long indexes are beside it.
//! 5. Chunks on their way out were granted their memory by the datastore. Here they count against the session's share
//!    only, so that a slow reader with many chunks under way does not keep others from their turn.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pbs_datastore::{CHUNK_ENCODED_BYTES_MAX, MemoryBudget, MemoryPermit};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::flow::{READER_BODY_BYTES_MAX, STREAMS_MAX};
use crate::api::BODY_BYTES_MAX;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
/// Smallest connection window of a session that uploads. Below [`WINDOW_BYTES_FULL`] it has fewer streams.
const WINDOW_BYTES_MIN: u64 = 2 * MIB;
/// From this connection window on, all [`STREAMS_MAX`] streams have a window of at least 16 KiB each.
const WINDOW_BYTES_FULL: u64 = 4 * MIB;
/// Streams of a session with a smaller window, so that each has 16 KiB too.
const STREAMS_FEW: u32 = 100;
/// Largest connection window of a session that uploads.
const WINDOW_BYTES_MAX: u64 = 32 * MIB;
/// Connection window of a session that sends requests with small bodies or none.
const READER_WINDOW_BYTES: u64 = 256 * KIB;
/// What the small bodies of such a session may add up to.
const READER_CALL_BYTES: u64 = STREAMS_MAX as u64 * READER_BODY_BYTES_MAX as u64;
/// The session's reserve for the bodies of calls that are no uploads.
const CALL_BYTES: u64 = BODY_BYTES_MAX as u64;
/// Which part of the windows that are left a new session gets.
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
    /// What is left for windows, in KiB.
    windows: Arc<Semaphore>,
    windows_bytes_max: u64,
    /// Open sessions.
    sessions: AtomicUsize,
}

impl ProtocolMemory {
    /// Takes everything from `budget`, which others use too; at least 64 MiB.
    pub(crate) fn new(budget: MemoryBudget) -> Arc<Self> {
        let whole = budget.bytes_max();
        let windows_bytes_max = (whole - whole / 4).min(whole.saturating_sub(BODIES_BYTES_MIN));
        Arc::new(Self {
            windows: Arc::new(Semaphore::new((windows_bytes_max / KIB) as usize)),
            windows_bytes_max,
            sessions: AtomicUsize::new(0),
            budget,
        })
    }

    fn windows_bytes_free(&self) -> u64 {
        self.windows.available_permits() as u64 * KIB
    }

    /// The memory of a session that uploads: a sixth of the windows that are left, within bounds. `None` if even the
    /// smallest window does not become free in time.
    pub(crate) async fn open_writer(self: &Arc<Self>) -> Option<WriterMemory> {
        let share = self.windows_bytes_free() / WINDOW_SHARE / MIB * MIB;
        let wanted = share.clamp(WINDOW_BYTES_MIN, WINDOW_BYTES_MAX);
        let mut window = self.reserve(wanted, CALL_BYTES).await;
        if window.is_none() && wanted > WINDOW_BYTES_MIN {
            window = self.reserve(WINDOW_BYTES_MIN, CALL_BYTES).await;
        }
        Some(WriterMemory {
            window: window?,
            claims: self.claims(),
            calls: CallMemory(Arc::new(Semaphore::new(CALL_BYTES as usize))),
        })
    }

    /// The memory of a session that only reads.
    pub(crate) async fn open_reader(self: &Arc<Self>) -> Option<ReaderMemory> {
        let window = self.reserve(READER_WINDOW_BYTES, READER_CALL_BYTES).await?;
        Some(ReaderMemory {
            window,
            claims: self.claims(),
        })
    }

    fn claims(self: &Arc<Self>) -> Claims {
        self.sessions.fetch_add(1, Ordering::Relaxed);
        Claims(Arc::new(Gate {
            memory: Arc::clone(self),
            state: Mutex::default(),
        }))
    }

    async fn reserve(&self, window_bytes: u64, call_bytes: u64) -> Option<Window> {
        let windows = Arc::clone(&self.windows);
        let bytes = window_bytes + call_bytes;
        let kib = u32::try_from(bytes.div_ceil(KIB)).ok()?;
        let reserve = async {
            let share = windows.acquire_many_owned(kib).await.ok()?;
            let permit = self.budget.take(bytes, WINDOW_WAIT_MAX).await?;
            Some((share, permit))
        };
        let (share, permit) = tokio::time::timeout(WINDOW_WAIT_MAX, reserve)
            .await
            .ok()??;
        Some(Window {
            bytes: u32::try_from(window_bytes).ok()?,
            streams: if (WINDOW_BYTES_MIN..WINDOW_BYTES_FULL).contains(&window_bytes) {
                STREAMS_FEW
            } else {
                STREAMS_MAX
            },
            _share: share,
            _permit: permit,
        })
    }

    /// What one session may claim: an equal part, with one part left for the next session.
    fn session_bytes_max(&self) -> u64 {
        let windows =
            self.windows_bytes_max - self.windows_bytes_free().min(self.windows_bytes_max);
        let sessions = self.sessions.load(Ordering::Relaxed) as u64;
        let share = self.budget.bytes_max().saturating_sub(windows) / (1 + sessions);
        share.max(CHUNK_ENCODED_BYTES_MAX as u64)
    }
}

/// A reserved connection window; dropped when the connection has ended.
#[derive(Debug)]
pub(crate) struct Window {
    bytes: u32,
    streams: u32,
    _share: OwnedSemaphorePermit,
    _permit: MemoryPermit,
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
    /// Where the bodies of calls that are no uploads get theirs.
    pub(crate) calls: CallMemory,
}

/// The memory of a session that only reads.
#[derive(Debug)]
pub(crate) struct ReaderMemory {
    /// Its connection window.
    pub(crate) window: Window,
    /// Its share for what is on its way out.
    pub(crate) claims: Claims,
}

/// Memory for the bodies of calls that are no uploads.
#[derive(Debug, Clone)]
pub(crate) struct CallMemory(Arc<Semaphore>);

impl CallMemory {
    /// Takes what a body of `announced` bytes needs, or the longest one if its length is not known.
    pub(crate) async fn take(&self, announced: Option<u64>) -> Option<OwnedSemaphorePermit> {
        let longest = BODY_BYTES_MAX as u64;
        let bytes = announced.unwrap_or(longest).min(longest) as u32;
        Arc::clone(&self.0).acquire_many_owned(bytes).await.ok()
    }
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

#[derive(Debug)]
struct Gate {
    memory: Arc<ProtocolMemory>,
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
        self.bytes = bytes;
        self.gate.admit();
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.gate.lock().held -= self.bytes;
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

    /// A session that holds nothing may always claim one body.
    fn fits(&self, held: u64, bytes: u64) -> bool {
        held == 0 || held + bytes <= self.memory.session_bytes_max()
    }

    async fn enter(self: &Arc<Self>, bytes: u64) -> Option<Grant> {
        let granted = {
            let mut state = self.lock();
            if state.queue.is_empty() && self.fits(state.held, bytes) {
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
                if !gone && !self.fits(state.held, head.bytes) {
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
mod tests {
    use futures_util::poll;

    use super::super::flow::stream_window_bytes;
    use super::*;

    fn memory(mib: u64) -> Arc<ProtocolMemory> {
        ProtocolMemory::new(MemoryBudget::new(mib * MIB))
    }

    #[tokio::test(start_paused = true)]
    async fn windows_shrink_as_sessions_come_and_the_last_are_refused() {
        let memory = memory(256);
        let mut sessions = Vec::new();
        while let Some(session) = memory.open_writer().await {
            sessions.push(session);
        }
        let windows: Vec<u64> = sessions
            .iter()
            .map(|session| u64::from(session.window.bytes()) / MIB)
            .collect();
        assert_eq!(windows[0], 32);
        assert_eq!(windows.last(), Some(&2));
        assert!(windows.is_sorted_by(|a, b| a >= b), "{windows:?}");
        assert!(windows.len() >= 18, "{windows:?}");
        assert!(memory.budget.bytes_free() >= 64 * MIB);
        for session in &sessions {
            let window = &session.window;
            let stream = stream_window_bytes(window.bytes(), window.streams());
            assert!(stream >= 16 * 1024, "a frame of the default size fits");
        }
        sessions.pop();
        assert!(memory.open_writer().await.is_some(), "one has left");
    }

    #[tokio::test(start_paused = true)]
    async fn claims_are_granted_in_order_within_the_share() {
        let memory = memory(64);
        let session = memory.open_writer().await.expect("room");
        let claims = session.claims.clone();
        let share = memory.session_bytes_max();
        let longest = CHUNK_ENCODED_BYTES_MAX as u64;
        assert!(share >= longest && share <= 31 * MIB);
        let first = claims.take(longest).await.expect("granted");
        let large = claims.take(longest);
        let small = claims.take(1);
        tokio::pin!(large, small);
        assert!(poll!(&mut large).is_pending(), "beyond the share");
        assert!(poll!(&mut small).is_pending(), "waits for its turn");
        let other = memory.open_writer().await.expect("room");
        let elsewhere = other.claims.take(longest).await;
        assert!(elsewhere.is_some(), "another session has its own share");
        drop(first);
        assert!(large.await.is_some());
        assert!(small.await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn waiters_that_leave_are_passed_over() {
        let memory = memory(64);
        let session = memory.open_writer().await.expect("room");
        let claims = session.claims.clone();
        let longest = CHUNK_ENCODED_BYTES_MAX as u64;
        let first = claims.take(longest).await.expect("granted");
        {
            let gone = claims.take(longest);
            tokio::pin!(gone);
            assert!(poll!(&mut gone).is_pending());
        }
        {
            let next = claims.take(longest);
            tokio::pin!(next);
            assert!(poll!(&mut next).is_pending());
            drop(first);
            assert!(next.await.is_some());
        }
        assert_eq!(claims.0.lock().held, 0);
        drop((session, claims));
        assert_eq!(memory.budget.bytes_free(), 64 * MIB);
    }

    #[tokio::test(start_paused = true)]
    async fn answers_count_against_the_share_with_their_real_size() {
        let memory = memory(64);
        let session = memory.open_reader().await.expect("room");
        let share = memory.session_bytes_max();
        let mut answers = Vec::new();
        for _ in 0..share / ANSWER_BYTES_LIKELY {
            answers.push(session.claims.answer().await.expect("room"));
        }
        let one_more = session.claims.answer();
        tokio::pin!(one_more);
        assert!(poll!(&mut one_more).is_pending());
        answers[0].resize(1000);
        assert!(one_more.await.is_some());
        answers[1].resize(16 * MIB);
        drop(answers);
        assert_eq!(session.claims.0.lock().held, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn calls_take_turns() {
        let memory = memory(64);
        let session = memory.open_writer().await.expect("room");
        let calls = session.calls.clone();
        let short = calls.take(Some(100)).await.expect("room");
        {
            let long = calls.take(Some(BODY_BYTES_MAX as u64 * 10));
            tokio::pin!(long);
            assert!(poll!(&mut long).is_pending());
        }
        drop(short);
        let first = calls.take(None).await;
        assert!(first.is_some());
        let next = calls.take(Some(100));
        tokio::pin!(next);
        assert!(poll!(&mut next).is_pending());
        drop(first);
        assert!(next.await.is_some());
    }
}
