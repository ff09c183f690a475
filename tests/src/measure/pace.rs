//! A rate limit shared by many streams: a bucket that fills steadily and holds little.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// How much may pass at once after a pause, in time at the full rate. Long enough to make up for late timers, short
/// enough to be nothing beside a chunk.
const BURST: Duration = Duration::from_millis(10);

/// Bytes per second, for everybody together, first come first served.
#[derive(Debug)]
pub struct Pace {
    bytes_per_second: u64,
    /// When everything that was taken so far will have passed.
    passed: Mutex<Option<Instant>>,
}

impl Pace {
    /// A limit of so many bytes per second, at least 1.
    pub fn new(bytes_per_second: u64) -> Self {
        Self {
            bytes_per_second: bytes_per_second.max(1),
            passed: Mutex::new(None),
        }
    }

    /// Waits until `bytes` more may have passed.
    pub async fn take(&self, bytes: usize) {
        let until = self.book(bytes);
        if until > Instant::now() {
            sleep_until(until).await;
        }
    }

    fn book(&self, bytes: usize) -> Instant {
        let now = Instant::now();
        let mut passed = self.passed.lock().unwrap_or_else(PoisonError::into_inner);
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let start = passed.map_or(earliest, |passed| passed.max(earliest));
        let until = start + Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        *passed = Some(until);
        until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn streams_share_the_rate() {
        let pace = Pace::new(1_000_000);
        let began = Instant::now();
        let stream = || async {
            for _ in 0..50 {
                pace.take(10_000).await;
            }
        };
        tokio::join!(stream(), stream());
        let taken = began.elapsed();
        assert!(taken >= Duration::from_millis(985), "{taken:?}");
        assert!(taken <= Duration::from_secs(1), "{taken:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_saves_up_no_more_than_the_burst() {
        let pace = Pace::new(1_000_000);
        pace.take(1).await;
        tokio::time::sleep(Duration::from_mins(1)).await;
        let began = Instant::now();
        pace.take(110_000).await;
        assert!(began.elapsed() >= Duration::from_millis(99));
    }
}
