//! Concurrency that adapts: halved when the server asks to slow down, raised slowly by success.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

struct State {
    limit: usize,
    /// Permits that are still handed out although the limit no longer has them; they end with their requests.
    excess: usize,
    /// Of the last change.
    changed_at: Option<Instant>,
}

pub(super) struct Gate {
    limit_max: usize,
    recovery: Duration,
    permits: Semaphore,
    state: Mutex<State>,
}

impl Gate {
    pub(super) fn new(limit_max: usize, recovery: Duration) -> Self {
        Self {
            limit_max,
            recovery,
            permits: Semaphore::new(limit_max),
            state: Mutex::new(State {
                limit: limit_max,
                excess: 0,
                changed_at: None,
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn limit(&self) -> usize {
        self.state().limit
    }

    /// Waits for a place; the place is free again when the pass is dropped.
    pub(super) async fn enter(&self) -> Pass<'_> {
        let permit = self
            .permits
            .acquire()
            .await
            .expect("the semaphore is never closed");
        Pass {
            gate: self,
            permit: Some(permit),
            began: Instant::now(),
        }
    }
}

/// A place inside.
pub(super) struct Pass<'a> {
    gate: &'a Gate,
    permit: Option<SemaphorePermit<'a>>,
    began: Instant,
}

impl Pass<'_> {
    /// The server asked to slow down.
    pub(super) fn throttled(&self) {
        let mut state = self.gate.state();
        // Sent before the last change: it says nothing of the limit of today.
        if state.changed_at.is_some_and(|at| self.began < at) {
            return;
        }
        let lowered = (state.limit / 2).max(1);
        let taken = state.limit - lowered;
        state.limit = lowered;
        state.excess += taken - self.gate.permits.forget_permits(taken);
        state.changed_at = Some(Instant::now());
        tracing::debug!(concurrency = lowered, "the server asks to slow down");
    }

    /// The server answered well.
    pub(super) fn succeeded(&self) {
        let mut state = self.gate.state();
        let is_due = state
            .changed_at
            .is_some_and(|at| at.elapsed() >= self.gate.recovery);
        if state.limit == self.gate.limit_max || !is_due {
            return;
        }
        state.limit += 1;
        state.changed_at = Some(Instant::now());
        if state.excess > 0 {
            state.excess -= 1;
        } else {
            self.gate.permits.add_permits(1);
        }
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        let mut state = self.gate.state();
        if state.excess > 0 {
            state.excess -= 1;
            if let Some(permit) = self.permit.take() {
                permit.forget();
            }
        }
    }
}
