//! The chunk table: guards, condemnation and fills, per digest.
//!
//! Everything that creates or drops trust in a chunk's existence does it under the digest's [`Guard`]. An entry exists
//! only while somebody uses the digest, so the table holds as many entries as there are requests and condemned chunks.
//!
//! **Lock order.** A guard first; then, for single moments and never across an await, the locks of sessions and of the
//! cache's accounting. Nobody who holds a guard *waits* for a second one. Guards are held over S3 requests of their own
//! chunk and over nothing else.
//!
//! **Condemnation** (I5). The sweep takes a guard without waiting (busy means in use), checks the markers and condemns,
//! in one step. Until the release nobody gets a guard through [`ChunkTable::guard_for_use`], so nobody is told that the
//! chunk exists. A [`Condemnation`] that is dropped without [`Condemnation::release`] keeps its digests condemned for
//! as long as the process lives: after a failure or a panic in the sweep nobody knows what became of the delete request
//! (I8). There is no release to wait for then, so whoever waits or comes later is refused.
//!
//! **Fills** (I6). Who reads a chunk from S3 in order to cache it registers first. Condemning and releasing both spoil
//! the registration, for the content that arrives may be older than the delete.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::OwnedMutexGuard;

use crate::board::Board;
use crate::sabotage::{self, Rule};
use crate::{Digest, Error, Result};

/// Enough that two requests rarely meet on one shard's lock.
const SHARDS: usize = 64;

/// Whether a digest is condemned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sentence {
    Free,
    /// Until the batch that it is in releases it.
    Condemned,
    /// Until the process ends: whoever condemned it is gone.
    Abandoned,
}

#[derive(Debug)]
struct Slot {
    exclusive: Arc<tokio::sync::Mutex<()>>,
    sentence: Board<Sentence>,
    /// Raised by every condemnation and every release.
    era: AtomicU64,
}

#[derive(Debug)]
struct Entry {
    slot: Arc<Slot>,
    users: usize,
}

impl Slot {
    fn is_condemned(&self) -> bool {
        self.sentence.ask(|sentence| *sentence != Sentence::Free)
    }
}

type Shard = Mutex<HashMap<Digest, Entry>>;

/// All digests somebody uses at the moment.
#[derive(Debug)]
pub(crate) struct ChunkTable {
    shards: Vec<Shard>,
    /// Uses that met a condemned digest and waited, for status and tests.
    waits: AtomicU64,
}

/// A use of a digest's entry; the last one removes it.
#[derive(Debug)]
struct SlotRef {
    table: Arc<ChunkTable>,
    digest: Digest,
    slot: Arc<Slot>,
}

impl Drop for SlotRef {
    fn drop(&mut self) {
        let mut shard = self.table.shard(&self.digest);
        let last = shard.get_mut(&self.digest).is_some_and(|entry| {
            entry.users -= 1;
            entry.users == 0
        });
        if last {
            shard.remove(&self.digest);
        }
    }
}

/// The exclusive right to change what is believed about one digest.
#[derive(Debug)]
pub(crate) struct Guard {
    // Unlocked before the entry is given up.
    _exclusive: OwnedMutexGuard<()>,
    slot: SlotRef,
}

impl Guard {
    /// The digest it guards.
    pub(crate) fn digest(&self) -> Digest {
        self.slot.digest
    }

    /// Whether a running delete batch has condemned the digest.
    pub(crate) fn is_condemned(&self) -> bool {
        self.slot.slot.is_condemned()
    }
}

/// A registration made before a GET whose content may go into the cache, or a look whose object is to be copied.
#[derive(Debug)]
pub(crate) struct FillTicket {
    slot: SlotRef,
    era: Option<u64>,
}

impl FillTicket {
    /// Whether the content read under this ticket must not be inserted any more. To be asked under the guard.
    pub(crate) fn is_spoiled(&self, guard: &Guard) -> bool {
        debug_assert_eq!(self.slot.digest, guard.digest());
        if sabotage::is_off(Rule::FillRegistered) {
            return false;
        }
        self.is_overtaken()
    }

    /// The same without the guard, of this moment.
    pub(crate) fn is_overtaken(&self) -> bool {
        self.era != Some(self.slot.slot.era.load(Ordering::Acquire))
    }
}

/// The digests of one delete batch.
#[derive(Debug, Default)]
pub(crate) struct Condemnation {
    slots: Vec<SlotRef>,
}

impl Condemnation {
    /// Condemns the guarded digest, and gives the guard up. The caller has checked under it that nothing uses the digest.
    pub(crate) fn add(&mut self, guard: Guard) {
        let Guard { _exclusive, slot } = guard;
        slot.slot.era.fetch_add(1, Ordering::AcqRel);
        slot.slot.sentence.put(Sentence::Condemned);
        self.slots.push(slot);
    }

    /// Takes over what another one has condemned.
    pub(crate) fn join(&mut self, mut other: Self) {
        self.slots.append(&mut other.slots);
    }

    /// How many digests are condemned.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Which digests are condemned.
    pub(crate) fn digests(&self) -> impl Iterator<Item = Digest> {
        self.slots.iter().map(|slot| slot.digest)
    }

    /// Lets everybody use the digests again. Only after the requests can have no effect any more and the journal has
    /// been cleared.
    pub(crate) fn release(mut self) {
        for slot in std::mem::take(&mut self.slots) {
            slot.slot.era.fetch_add(1, Ordering::AcqRel);
            slot.slot.sentence.put(Sentence::Free);
        }
    }
}

impl Drop for Condemnation {
    fn drop(&mut self) {
        for slot in std::mem::take(&mut self.slots) {
            if sabotage::is_off(Rule::FailureNeverReleases) {
                slot.slot.sentence.put(Sentence::Free);
                continue;
            }
            slot.slot.sentence.put(Sentence::Abandoned);
            // Its entry stays, and with it the sentence.
            std::mem::forget(slot);
        }
    }
}

impl ChunkTable {
    /// An empty table.
    pub(crate) fn new() -> Arc<Self> {
        let shards = (0..SHARDS).map(|_| Shard::default()).collect();
        Arc::new(Self {
            shards,
            waits: AtomicU64::new(0),
        })
    }

    fn shard(&self, digest: &Digest) -> MutexGuard<'_, HashMap<Digest, Entry>> {
        self.shards[usize::from(digest.0[31]) % SHARDS]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn slot(self: &Arc<Self>, digest: Digest) -> SlotRef {
        let mut shard = self.shard(&digest);
        let entry = shard.entry(digest).or_insert_with(|| Entry {
            slot: Arc::new(Slot {
                exclusive: Arc::default(),
                sentence: Board::new(Sentence::Free),
                era: AtomicU64::new(0),
            }),
            users: 0,
        });
        entry.users += 1;
        SlotRef {
            table: Arc::clone(self),
            digest,
            slot: Arc::clone(&entry.slot),
        }
    }

    /// The guard, condemned or not. Waits for its holder.
    pub(crate) async fn guard(self: &Arc<Self>, digest: Digest) -> Guard {
        let slot = self.slot(digest);
        let exclusive = Arc::clone(&slot.slot.exclusive).lock_owned().await;
        Guard {
            _exclusive: exclusive,
            slot,
        }
    }

    /// The guard of a digest that is not condemned: who wants to insert or touch waits for the release (I5), and is
    /// refused if there will be none.
    pub(crate) async fn guard_for_use(self: &Arc<Self>, digest: Digest) -> Result<Guard> {
        loop {
            let guard = self.guard(digest).await;
            if !guard.is_condemned() {
                return Ok(guard);
            }
            if sabotage::is_off(Rule::WaitForRelease) {
                return Ok(guard);
            }
            self.waits.fetch_add(1, Ordering::Relaxed);
            // Its entry stays while it is condemned, so this is the slot that is released.
            let slot = Arc::clone(&guard.slot.slot);
            drop(guard);
            let end = slot
                .sentence
                .wait_for(|now| *now != Sentence::Condemned)
                .await;
            if end == Sentence::Abandoned {
                return Err(Error::Refused(format!(
                    "chunk {digest} was being deleted when that failed, and nobody knows whether it is still there; \
                     restart the daemon"
                )));
            }
        }
    }

    /// The guard, if nobody holds it and nobody waits for it.
    pub(crate) fn try_guard(self: &Arc<Self>, digest: Digest) -> Option<Guard> {
        let slot = self.slot(digest);
        let exclusive = Arc::clone(&slot.slot.exclusive).try_lock_owned().ok()?;
        Some(Guard {
            _exclusive: exclusive,
            slot,
        })
    }

    /// What a guard would be that keeps nobody out.
    pub(crate) async fn unguarded(self: &Arc<Self>, digest: Digest) -> Guard {
        Guard {
            _exclusive: Arc::new(tokio::sync::Mutex::new(())).lock_owned().await,
            slot: self.slot(digest),
        }
    }

    /// Registers a fill; to be called before the GET is sent.
    pub(crate) fn register_fill(self: &Arc<Self>, digest: Digest) -> FillTicket {
        let slot = self.slot(digest);
        let era = slot.slot.era.load(Ordering::Acquire);
        let condemned = slot.slot.is_condemned();
        FillTicket {
            slot,
            era: (!condemned).then_some(era),
        }
    }

    /// How many uses have waited for a release so far.
    pub(crate) fn waits(&self) -> u64 {
        self.waits.load(Ordering::Relaxed)
    }

    /// How many digests have an entry.
    #[cfg(test)]
    fn entries(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| shard.lock().unwrap().len())
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn poll<T>(future: std::pin::Pin<&mut impl Future<Output = T>>) -> Poll<T> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[tokio::test]
    async fn entries_vanish_with_their_last_user() {
        let table = ChunkTable::new();
        let digest = Digest::of(b"a");
        let guard = table.guard(digest).await;
        assert!(table.try_guard(digest).is_none());
        let ticket = table.register_fill(digest);
        drop(guard);
        assert_eq!(table.entries(), 1);
        drop(ticket);
        assert_eq!(table.entries(), 0);
    }

    #[tokio::test]
    async fn a_use_waits_for_the_release() {
        let table = ChunkTable::new();
        let digest = Digest::of(b"a");
        let mut condemnation = Condemnation::default();
        condemnation.add(table.try_guard(digest).unwrap());
        let mut using = pin!(table.guard_for_use(digest));
        assert!(poll(using.as_mut()).is_pending());
        assert!(
            table.try_guard(digest).is_some(),
            "who waits for a release holds no guard"
        );
        condemnation.release();
        assert!(!using.await.unwrap().is_condemned());
        assert_eq!(table.waits(), 1);
        assert_eq!(table.entries(), 0);
    }

    #[tokio::test]
    async fn a_dropped_condemnation_is_never_released_and_nobody_waits_for_it() {
        let table = ChunkTable::new();
        let digest = Digest::of(b"a");
        let mut condemnation = Condemnation::default();
        condemnation.add(table.try_guard(digest).unwrap());
        let mut waiting = pin!(table.guard_for_use(digest));
        assert!(poll(waiting.as_mut()).is_pending());
        // As in a task that panics.
        drop(condemnation);
        for refused in [waiting.await, table.guard_for_use(digest).await] {
            assert!(matches!(refused, Err(Error::Refused(_))), "{refused:?}");
        }
        assert!(table.try_guard(digest).unwrap().is_condemned());
    }

    #[tokio::test]
    async fn condemning_spoils_fills_before_during_and_not_after() {
        let table = ChunkTable::new();
        let digest = Digest::of(b"a");
        let before = table.register_fill(digest);
        let mut condemnation = Condemnation::default();
        condemnation.add(table.try_guard(digest).unwrap());
        let during = table.register_fill(digest);
        condemnation.release();
        let after = table.register_fill(digest);
        let guard = table.guard_for_use(digest).await.unwrap();
        assert!(before.is_spoiled(&guard));
        assert!(during.is_spoiled(&guard));
        assert!(!after.is_spoiled(&guard));
    }
}
