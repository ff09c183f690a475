//! A value that many wait for. They wake in the order in which they began to wait, so that a simulated run can be replayed;
//! tokio's `watch` wakes them in an order that it draws.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The value, and who waits.
#[derive(Debug, Default)]
pub(crate) struct Board<T> {
    value: Mutex<T>,
    changed: Notify,
}

impl<T: Clone> Board<T> {
    /// A board that says `value`.
    pub(crate) fn new(value: T) -> Self {
        Self {
            value: Mutex::new(value),
            changed: Notify::new(),
        }
    }

    fn value(&self) -> MutexGuard<'_, T> {
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks something about the value.
    pub(crate) fn ask<U>(&self, question: impl FnOnce(&T) -> U) -> U {
        question(&self.value())
    }

    /// Puts another value there; everybody who waits looks at it.
    pub(crate) fn put(&self, value: T) {
        *self.value() = value;
        self.changed.notify_waiters();
    }

    /// Waits until the value is as wanted, and gives it. May be cancelled at will.
    pub(crate) async fn wait_for(&self, wanted: impl Fn(&T) -> bool) -> T {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // Counts from here, or a change between the look and the wait would be missed.
            changed.as_mut().enable();
            {
                let value = self.value();
                if wanted(&value) {
                    return value.clone();
                }
            }
            changed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn who_waits_first_wakes_first() {
        let board = Arc::new(Board::new(0));
        let order = Arc::new(Mutex::new(Vec::new()));
        let local = tokio::task::LocalSet::new();
        for number in 0..20 {
            let (board, order) = (Arc::clone(&board), Arc::clone(&order));
            local.spawn_local(async move {
                board.wait_for(|value| *value == 2).await;
                order.lock().unwrap().push(number);
            });
        }
        let teller = Arc::clone(&board);
        local
            .run_until(async move {
                tokio::task::yield_now().await;
                teller.put(1);
                tokio::task::yield_now().await;
                teller.put(2);
            })
            .await;
        local.await;
        assert_eq!(*order.lock().unwrap(), (0..20).collect::<Vec<_>>());
        assert_eq!(board.wait_for(|value| *value == 2).await, 2);
    }
}
