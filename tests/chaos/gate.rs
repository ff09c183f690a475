//! Lets backups begin, or holds them back for a moment.
//!
//! While a backup session is open, a collection spares what is younger than five minutes. For a collection to remove
//! anything in a run of minutes it must begin while none is open. So the collector closes the gate, waits until the open
//! ones have ended, begins, and opens the gate as soon as the cutoff has been read: every backup that begins then races
//! with the marking and sweeping.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

#[derive(Clone, Copy, Debug, Default)]
struct Inside {
    closed: bool,
    open_sessions: u64,
}

/// The gate.
#[derive(Debug)]
pub(crate) struct Gate(watch::Sender<Inside>);

impl Gate {
    /// An open one.
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(Inside::default()))
    }

    /// Closes it, or opens it, for whoever is no task.
    pub(crate) fn set_closed(&self, closed: bool) {
        self.0.send_modify(|inside| inside.closed = closed);
    }

    /// How many are inside.
    pub(crate) fn open_sessions(&self) -> u64 {
        self.0.borrow().open_sessions
    }

    /// Waits until it is open, and goes in until the pass is dropped.
    pub(crate) async fn enter(&self) -> Pass<'_> {
        let mut seen = self.0.subscribe();
        loop {
            // The gate lives as long as this borrow, so the wait cannot fail.
            drop(seen.wait_for(|inside| !inside.closed).await);
            let entered = self.0.send_if_modified(|inside| {
                if !inside.closed {
                    inside.open_sessions += 1;
                }
                !inside.closed
            });
            if entered {
                return Pass(self);
            }
        }
    }

    /// Waits for `time`, or until somebody waits for those inside.
    pub(crate) async fn linger(&self, time: Duration) {
        let mut seen = self.0.subscribe();
        drop(timeout(time, seen.wait_for(|inside| inside.closed)).await);
    }

    /// Closes it and waits until nobody is inside, for `time` at most. It is open again when the result is dropped.
    pub(crate) async fn close(&self, time: Duration) -> Closed<'_> {
        self.0.send_modify(|inside| inside.closed = true);
        let closed = Closed(self);
        let mut seen = self.0.subscribe();
        drop(timeout(time, seen.wait_for(|inside| inside.open_sessions == 0)).await);
        closed
    }
}

/// Somebody is inside.
#[derive(Debug)]
pub(crate) struct Pass<'a>(&'a Gate);

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.0.0.send_modify(|inside| inside.open_sessions -= 1);
    }
}

/// The gate is closed.
#[derive(Debug)]
pub(crate) struct Closed<'a>(&'a Gate);

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        self.0.0.send_modify(|inside| inside.closed = false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_is_inside_is_waited_for_and_nobody_else_enters() {
        let gate = Gate::new();
        let pass = gate.enter().await;
        let closed = gate.close(Duration::from_secs(1)).await;
        assert!(timeout(Duration::from_secs(1), gate.enter()).await.is_err());
        gate.linger(Duration::from_hours(1)).await;
        drop(closed);
        let second = gate.enter().await;
        drop((pass, second));
        let closed = gate.close(Duration::from_hours(1));
        timeout(Duration::from_secs(1), closed)
            .await
            .expect("at once");
    }
}
