//! Where the stores that answer for S3 take the time from.
//!
//! Real servers have clocks of their own. The stores that stand in for one take theirs as a parameter, so that a test
//! decides what time it is for the server, independently of what the client believes.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// A server's clock.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// The first reading of [`virtual_clock`]: 2025-01-01T00:00:00Z.
const VIRTUAL_START_SECONDS: i64 = 1_735_689_600;

/// The clock of this machine.
pub fn wall_clock() -> Clock {
    #[expect(
        clippy::disallowed_methods,
        reason = "a store that serves others is where their time comes from"
    )]
    let read = Timestamp::now;
    Arc::new(read)
}

/// A clock that starts at a fixed time and goes on with tokio's, so that a test with paused time also pauses the server.
pub fn virtual_clock() -> Clock {
    let start = Timestamp::from_second(VIRTUAL_START_SECONDS).expect("a constant within range");
    let began = Instant::now();
    Arc::new(move || {
        let elapsed = SignedDuration::try_from(began.elapsed()).unwrap_or(SignedDuration::MAX);
        start.saturating_add(elapsed).unwrap_or(Timestamp::MAX)
    })
}

/// Cut down to whole seconds, as `Last-Modified` and `Date` travel.
pub(crate) fn whole_seconds(time: Timestamp) -> Timestamp {
    let seconds = time.as_nanosecond().div_euclid(1_000_000_000) as i64;
    Timestamp::from_second(seconds).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_lose_their_fraction_downwards() {
        let time: Timestamp = "2025-06-01T10:00:00.999Z".parse().expect("a timestamp");
        assert_eq!(whole_seconds(time).to_string(), "2025-06-01T10:00:00Z");
        let before: Timestamp = "1969-12-31T23:59:59.5Z".parse().expect("a timestamp");
        assert_eq!(whole_seconds(before).to_string(), "1969-12-31T23:59:59Z");
    }

    #[tokio::test(start_paused = true)]
    async fn the_virtual_clock_follows_paused_time() {
        let clock = virtual_clock();
        let first = clock();
        tokio::time::advance(std::time::Duration::from_secs(90)).await;
        assert_eq!(clock().duration_since(first).as_secs(), 90);
    }
}
