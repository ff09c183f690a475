//! A rate: units per second, in bursts of at most one second's worth.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Keeps the moment at which everything handed out so far is paid for. Takers are served in the order they came.
pub(super) struct Pace {
    per_second: u64,
    paid_at: Mutex<Instant>,
}

const BURST: Duration = Duration::from_secs(1);

impl Pace {
    pub(super) fn new(per_second: u64) -> Self {
        Self {
            per_second,
            paid_at: Mutex::new(Instant::now()),
        }
    }

    /// Adds `units` to what is to be paid, without waiting.
    pub(super) fn charge(&self, units: u64) {
        self.advance(units);
    }

    /// Waits for `units`. More than a second's worth is let through when all before it is paid for.
    pub(super) async fn take(&self, units: u64) {
        let (before, after) = self.advance(units);
        let may_start = if units > self.per_second {
            before
        } else {
            after.checked_sub(BURST).unwrap_or(before)
        };
        sleep_until(may_start).await;
    }

    /// When everything is paid for without and with `units`.
    fn advance(&self, units: u64) -> (Instant, Instant) {
        let nanos = u128::from(units) * 1_000_000_000 / u128::from(self.per_second);
        let cost = Duration::from_nanos(nanos.try_into().unwrap_or(u64::MAX >> 8));
        let mut paid_at = self.paid_at.lock().unwrap_or_else(PoisonError::into_inner);
        let before = (*paid_at).max(Instant::now());
        *paid_at = before + cost;
        (before, *paid_at)
    }
}
