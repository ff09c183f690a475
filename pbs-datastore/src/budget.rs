//! Memory for chunk bodies: one budget for fills, read-ahead and the protocol (design 10).
//!
//! Who holds a body in memory holds a [`MemoryPermit`] for it. What somebody waits for is taken with
//! [`MemoryBudget::take`], which waits for a bounded time. What nobody waits for yet is taken with
//! [`MemoryBudget::try_take_spare`], which leaves half of the budget alone: bytes read ahead for a client that has gone
//! to sleep must not keep another one from reading.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The budget is counted in units of this size, so that a large one fits the semaphore.
const UNIT_BYTES: u64 = 1024;

/// Memory for bodies in both directions; clones share it.
#[derive(Clone, Debug)]
pub struct MemoryBudget {
    free: Arc<Semaphore>,
    units_max: u32,
}

/// Memory taken from the budget; dropping it gives it back.
#[derive(Debug)]
pub struct MemoryPermit(OwnedSemaphorePermit);

impl MemoryBudget {
    /// A budget of `bytes`, at least 1 KiB and at most 4 TiB.
    pub fn new(bytes: u64) -> Self {
        let units_max = u32::try_from(bytes / UNIT_BYTES).unwrap_or(u32::MAX).max(1);
        // The semaphore's own bound is 2^61 on the platforms we build for, and 2^29 on those of 32 bits.
        let units_max = units_max.min(u32::try_from(Semaphore::MAX_PERMITS).unwrap_or(u32::MAX));
        Self {
            free: Arc::new(Semaphore::new(units_max as usize)),
            units_max,
        }
    }

    /// Bytes that nobody holds.
    pub fn bytes_free(&self) -> u64 {
        self.free.available_permits() as u64 * UNIT_BYTES
    }

    /// Bytes of the whole budget.
    pub fn bytes_max(&self) -> u64 {
        u64::from(self.units_max) * UNIT_BYTES
    }

    /// A request for more than there is at all is one for everything: a single body is never refused for good.
    fn units(&self, bytes: u64) -> u32 {
        let units = bytes.div_ceil(UNIT_BYTES).min(u64::from(self.units_max));
        u32::try_from(units).unwrap_or(self.units_max)
    }

    /// Takes `bytes` if they are free and nobody is waiting.
    pub fn try_take(&self, bytes: u64) -> Option<MemoryPermit> {
        let free = Arc::clone(&self.free);
        let permit = free.try_acquire_many_owned(self.units(bytes)).ok()?;
        Some(MemoryPermit(permit))
    }

    /// Takes `bytes` if half of the budget stays free after that.
    pub fn try_take_spare(&self, bytes: u64) -> Option<MemoryPermit> {
        if self.bytes_free() < bytes.saturating_add(self.bytes_max() / 2) {
            return None;
        }
        self.try_take(bytes)
    }

    /// Takes `bytes`, waiting at most `limit` for them, first come first served; `None` when the time is over.
    pub async fn take(&self, bytes: u64, limit: Duration) -> Option<MemoryPermit> {
        let free = Arc::clone(&self.free);
        let acquire = free.acquire_many_owned(self.units(bytes));
        let permit = tokio::time::timeout(limit, acquire).await.ok()?.ok()?;
        Some(MemoryPermit(permit))
    }
}

impl MemoryPermit {
    /// Bytes it stands for, rounded up to whole KiB.
    pub fn bytes(&self) -> u64 {
        self.0.num_permits() as u64 * UNIT_BYTES
    }

    /// Gives back what `bytes` does not need.
    pub fn shrink_to(&mut self, bytes: u64) {
        let needed = usize::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(usize::MAX);
        let surplus = self.0.num_permits().saturating_sub(needed);
        drop(self.0.split(surplus));
    }

    /// Gives back what `bytes` does not need, or takes what is free of what it lacks: a body that is in memory already
    /// is not waited for.
    pub(crate) fn fit_to(&mut self, budget: &MemoryBudget, bytes: u64) {
        self.shrink_to(bytes);
        let lacking = bytes.saturating_sub(self.bytes());
        if lacking > 0
            && let Some(more) = budget.try_take(lacking)
        {
            self.0.merge(more.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_wait_for_memory_is_bounded() {
        let budget = MemoryBudget::new(10 << 10);
        let held = budget.take(8 << 10, Duration::ZERO).await.unwrap();
        assert!(budget.take(4 << 10, Duration::from_secs(1)).await.is_none());
        drop(held);
        assert!(budget.take(4 << 10, Duration::from_secs(1)).await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn more_than_everything_is_everything() {
        let budget = MemoryBudget::new(10 << 10);
        let mut all = budget.take(1 << 40, Duration::ZERO).await.unwrap();
        assert_eq!((all.bytes(), budget.bytes_free()), (10 << 10, 0));
        all.shrink_to(1);
        assert_eq!((all.bytes(), budget.bytes_free()), (1 << 10, 9 << 10));
    }

    #[test]
    fn spare_memory_ends_at_one_half() {
        let budget = MemoryBudget::new(10 << 10);
        let held = budget.try_take_spare(5 << 10);
        assert!(held.is_some());
        assert!(budget.try_take_spare(1).is_none());
        assert!(budget.try_take(5 << 10).is_some());
    }
}
