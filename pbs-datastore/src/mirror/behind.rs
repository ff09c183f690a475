//! Objects that are in the bucket and whose copy could not be written, as on a full disk.
//!
//! Whoever looks at the mirror next has them fetched, however many look at most once in [`PAUSE`]. A refresh brings them
//! too, so nothing of this outlives the process.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// From one attempt to the next.
const PAUSE: Duration = Duration::from_secs(10);

/// The names the mirror is behind with.
#[derive(Debug, Default)]
pub(super) struct Behind {
    /// Spares everybody the lock as long as there are none.
    any: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    names: BTreeSet<String>,
    not_before: Option<Instant>,
}

impl Behind {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, name: &str) {
        self.state().names.insert(name.to_owned());
        self.any.store(true, Ordering::Release);
    }

    /// The copy is there, or the object is gone.
    pub(super) fn remove(&self, name: &str) {
        if !self.any.load(Ordering::Acquire) {
            return;
        }
        let mut state = self.state();
        state.names.remove(name);
        self.any.store(!state.names.is_empty(), Ordering::Release);
    }

    /// What is to be fetched now; nothing for a while after that.
    pub(super) fn due(&self, now: Instant) -> Vec<String> {
        if !self.any.load(Ordering::Acquire) {
            return Vec::new();
        }
        let mut state = self.state();
        if state.not_before.is_some_and(|time| now < time) {
            return Vec::new();
        }
        state.not_before = Some(now + PAUSE);
        state.names.iter().cloned().collect()
    }
}
