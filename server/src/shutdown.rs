//! The orderly end of the daemon: everybody hears of it, everybody is waited for, but not for ever.
//!
//! Whoever does work holds a [`WorkGuard`]; whoever waits listens to [`Shutdown::requested`]. [`Shutdown::drain`] waits
//! until the last guard is gone or the time is up, and says how much work was cut off: a stop that cut something off is
//! not a clean one.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

/// How the wait for running work ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Drained {
    /// All work has ended.
    Clean,
    /// The time was up while this much work was still running.
    CutOff(usize),
}

#[derive(Debug)]
struct Shared {
    requested: watch::Sender<bool>,
    working: watch::Sender<usize>,
}

/// The request to stop and the count of running work; clones share both.
#[derive(Debug, Clone)]
pub(crate) struct Shutdown(Arc<Shared>);

impl Shutdown {
    /// Nothing requested, nothing running.
    pub(crate) fn new() -> Self {
        Self(Arc::new(Shared {
            requested: watch::Sender::new(false),
            working: watch::Sender::new(0),
        }))
    }

    /// Asks everybody to stop. Later calls change nothing.
    pub(crate) fn request(&self) {
        self.0.requested.send_replace(true);
    }

    /// Whether a stop was requested.
    pub(crate) fn is_requested(&self) -> bool {
        *self.0.requested.borrow()
    }

    /// Returns once a stop is requested.
    pub(crate) async fn requested(&self) {
        let mut receiver = self.0.requested.subscribe();
        // The sender lives in `self`, so the wait ends by a request only.
        let _ = receiver.wait_for(|requested| *requested).await;
    }

    /// Registers work; `None` once a stop was requested.
    pub(crate) fn begin_work(&self) -> Option<WorkGuard> {
        // Counted before the look at the request, so that a drain that has begun meanwhile sees the guard.
        self.0.working.send_modify(|count| *count += 1);
        let guard = WorkGuard(self.0.clone());
        (!self.is_requested()).then_some(guard)
    }

    /// Runs `work` as counted work; `None` without starting it once a stop was requested.
    #[cfg(test)]
    pub(crate) async fn track<F: Future>(&self, work: F) -> Option<F::Output> {
        let _guard = self.begin_work()?;
        Some(work.await)
    }

    /// Requests the stop and waits until all work has ended, but no longer than `limit`.
    pub(crate) async fn drain(&self, limit: Duration) -> Drained {
        self.request();
        let mut working = self.0.working.subscribe();
        let idle = working.wait_for(|count| *count == 0);
        if tokio::time::timeout(limit, idle).await.is_ok() {
            return Drained::Clean;
        }
        match *self.0.working.borrow() {
            0 => Drained::Clean,
            count => Drained::CutOff(count),
        }
    }
}

/// Work that a stop waits for, as long as this lives.
#[derive(Debug)]
pub(crate) struct WorkGuard(Arc<Shared>);

impl Drop for WorkGuard {
    fn drop(&mut self) {
        self.0.working.send_modify(|count| *count -= 1);
    }
}

/// Returns at the first SIGTERM or SIGINT; the error is the refusal of the operating system to report signals.
pub(crate) async fn stop_signal() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_drain_waits_for_work_and_admits_no_more() {
        let shutdown = Shutdown::new();
        let guard = shutdown.begin_work().expect("no stop requested");
        let drain = shutdown.drain(Duration::from_mins(1));
        tokio::pin!(drain);
        assert!(futures_util::poll!(&mut drain).is_pending());
        assert!(shutdown.begin_work().is_none());
        assert_eq!(shutdown.track(async { 1 }).await, None);
        drop(guard);
        assert_eq!(drain.await, Drained::Clean);
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_is_bounded() {
        let shutdown = Shutdown::new();
        let _guard = shutdown.begin_work().expect("no stop requested");
        assert_eq!(
            shutdown.drain(Duration::from_secs(5)).await,
            Drained::CutOff(1)
        );
    }
}
