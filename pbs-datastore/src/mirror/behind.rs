//! Objects that are in the bucket and whose copy could not be written, as on a full disk.
//!
//! Whoever looks at the mirror next has them fetched: in one round at a time, and at most one in [`PAUSE`], however
//! many look. A refresh brings them too, so nothing of this outlives the process.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// From the begin of one round to the next.
const PAUSE: Duration = Duration::from_secs(10);

/// The names the mirror is behind with. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Behind(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Spares everybody the lock as long as there are none.
    any: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// With their sizes in bytes.
    names: BTreeMap<String, u64>,
    not_before: Option<Instant>,
    /// A round is under way.
    busy: bool,
    /// Where the next round begins.
    after: String,
}

impl Behind {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, name: &str, size: u64) {
        self.state().names.insert(name.to_owned(), size);
        self.0.any.store(true, Ordering::Release);
    }

    /// The copy is there, or the object is gone.
    pub(super) fn remove(&self, name: &str) {
        if !self.0.any.load(Ordering::Acquire) {
            return;
        }
        let mut state = self.state();
        state.names.remove(name);
        self.0.any.store(!state.names.is_empty(), Ordering::Release);
    }

    /// A round, if there is anything to fetch, nobody is at it, and the last one began long enough ago.
    pub(super) fn begin(&self, now: Instant) -> Option<Round> {
        if !self.0.any.load(Ordering::Acquire) {
            return None;
        }
        let mut state = self.state();
        if state.busy || state.not_before.is_some_and(|time| now < time) {
            return None;
        }
        state.busy = true;
        state.not_before = Some(now + PAUSE);
        drop(state);
        Some(Round(self.clone()))
    }
}

/// A round under way, as long as this lives.
#[derive(Debug)]
pub(super) struct Round(Behind);

impl Round {
    /// All names, from where the last round left off.
    pub(super) fn names(&self) -> Vec<(String, u64)> {
        let state = self.0.state();
        let own = |(name, size): (&String, &u64)| (name.clone(), *size);
        let (before, behind): (Vec<_>, Vec<_>) = state
            .names
            .iter()
            .map(own)
            .partition(|(name, _)| *name <= state.after);
        behind.into_iter().chain(before).collect()
    }

    /// The next round begins behind this name.
    pub(super) fn go_on_after(&self, name: &str) {
        name.clone_into(&mut self.0.state().after);
    }
}

impl Drop for Round {
    fn drop(&mut self) {
        self.0.state().busy = false;
    }
}
