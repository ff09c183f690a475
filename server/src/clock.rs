//! The wall clock, passed in so that tests and simulation decide what time it is.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;

/// A wall clock that can be cloned and shared.
#[derive(Clone)]
pub(crate) struct Clock(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl Clock {
    /// A clock that asks `now` whenever it is read.
    pub(crate) fn new(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// The time.
    pub(crate) fn now(&self) -> Timestamp {
        (self.0)()
    }

    /// The time in Unix seconds.
    pub(crate) fn unix_seconds(&self) -> i64 {
        self.now().as_second()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

/// A clock that stands still until it is set.
#[cfg(test)]
#[derive(Clone)]
pub(crate) struct TestClock(Arc<std::sync::atomic::AtomicI64>);

#[cfg(test)]
impl TestClock {
    /// A clock that shows `seconds` since 1970.
    pub(crate) fn at(seconds: i64) -> Self {
        Self(Arc::new(std::sync::atomic::AtomicI64::new(seconds)))
    }

    /// Moves the clock; negative values move it back.
    pub(crate) fn advance(&self, seconds: i64) {
        self.0
            .fetch_add(seconds, std::sync::atomic::Ordering::SeqCst);
    }

    /// The clock as the code under test sees it.
    pub(crate) fn clock(&self) -> Clock {
        let cell = self.0.clone();
        Clock::new(move || {
            Timestamp::from_second(cell.load(std::sync::atomic::Ordering::SeqCst))
                .expect("a test's time lies in range")
        })
    }
}
