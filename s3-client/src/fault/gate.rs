//! Stopping a request at a known point, so that a race can be played out step by step instead of hoped for.

use std::fmt;
use std::sync::Arc;

use tokio::sync::watch;

/// Stops requests until it is released. Clones are the same gate.
#[derive(Clone)]
pub struct Gate(Arc<watch::Sender<Progress>>);

#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    arrived: u64,
    released: bool,
}

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let progress = *self.0.borrow();
        f.debug_tuple("Gate").field(&progress).finish()
    }
}

impl Gate {
    /// A closed gate.
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(Progress::default())))
    }

    /// Waits until a request stands at the gate, or has passed it.
    pub async fn reached(&self) {
        self.reached_by(1).await;
    }

    /// Waits until `count` requests have come to the gate.
    pub async fn reached_by(&self, count: u64) {
        self.wait(|progress| progress.arrived >= count).await;
    }

    /// How many requests have come to the gate so far.
    pub fn arrived(&self) -> u64 {
        self.0.borrow().arrived
    }

    /// Lets all requests pass, those to come included.
    pub fn release(&self) {
        self.0.send_modify(|progress| progress.released = true);
    }

    /// A request arrives and waits. One that is cancelled while it waits is gone.
    pub(super) async fn pass(&self) {
        self.0.send_modify(|progress| progress.arrived += 1);
        self.wait(|progress| progress.released).await;
    }

    async fn wait(&self, until: impl FnMut(&Progress) -> bool) {
        let mut receiver = self.0.subscribe();
        let held = receiver.wait_for(until).await;
        debug_assert!(held.is_ok(), "the sender lives in self");
    }
}
