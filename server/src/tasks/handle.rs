//! A running task in the hands of those who do its work.

use std::fmt::Display;
use std::sync::Arc;

use tokio::sync::watch;

use super::append::run_blocking;
use super::outcome::Outcome;
use super::registry::{ActiveTask, TaskRegistry};
use super::upid::Upid;
use crate::clock::Clock;

/// A running task. Dropped without [`finish`](Self::finish) it ends with an error.
#[derive(Debug)]
#[must_use = "a task that is dropped ends with an error"]
pub(crate) struct Task {
    active: Arc<ActiveTask>,
    registry: TaskRegistry,
    ended: bool,
}

impl Task {
    pub(super) fn new(active: Arc<ActiveTask>, registry: TaskRegistry) -> Self {
        Self {
            active,
            registry,
            ended: false,
        }
    }

    /// The task's name.
    pub(crate) fn upid(&self) -> &Upid {
        &self.active.upid
    }

    /// A handle that writes to the log.
    pub(crate) fn logger(&self) -> TaskLogger {
        TaskLogger {
            active: self.active.clone(),
            clock: self.registry.clock().clone(),
        }
    }

    /// Adds a line to the log.
    pub(crate) fn log(&self, message: impl Display) {
        self.logger().log(message);
    }

    /// Adds a line to the log that counts as a warning.
    pub(crate) fn warn(&self, message: impl Display) {
        self.logger().warn(message);
    }

    /// The request to stop.
    pub(crate) fn abort_signal(&self) -> AbortSignal {
        AbortSignal(self.active.abort.subscribe())
    }

    /// How the task will end with `result`, if nothing more is logged.
    pub(crate) fn outcome(&self, result: &Result<(), String>) -> Outcome {
        self.active.log.outcome(result)
    }

    /// Ends the task: `OK`, `WARNINGS: n` if there were any, or the error. Returns when log and index are written.
    pub(crate) async fn finish(mut self, result: Result<(), String>) -> Outcome {
        self.ended = true;
        let end = self.active.log.end(self.registry.clock().now(), result);
        let (registry, active) = (self.registry.clone(), self.active.clone());
        let outcome = end.outcome.clone();
        let written = tokio::task::spawn_blocking(move || registry.retire(&active, end)).await;
        if let Err(error) = written {
            tracing::error!(%error, upid = %self.active.upid, "a task could not be recorded");
        }
        outcome
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let result = Err("the task was cut off".to_owned());
        let end = self.active.log.end(self.registry.clock().now(), result);
        let (registry, active) = (self.registry.clone(), self.active.clone());
        run_blocking(move || registry.retire(&active, end));
    }
}

/// Writes to the log of a task; lines after its end are dropped.
#[derive(Debug, Clone)]
pub(crate) struct TaskLogger {
    active: Arc<ActiveTask>,
    clock: Clock,
}

impl TaskLogger {
    /// Adds a line, or several if the message has several. Never waits for the disk.
    pub(crate) fn log(&self, message: impl Display) {
        self.active.log.add(self.clock.now(), &message);
    }

    /// Adds a line that counts as a warning.
    pub(crate) fn warn(&self, message: impl Display) {
        self.active.log.warn(self.clock.now(), &message);
    }
}

/// The request to stop a task, for those who do its work.
#[derive(Debug, Clone)]
pub(crate) struct AbortSignal(watch::Receiver<bool>);

impl AbortSignal {
    /// Whether the task was asked to stop.
    #[cfg(test)]
    pub(crate) fn is_aborted(&self) -> bool {
        *self.0.borrow()
    }

    /// Returns once the task is asked to stop; never if it ends without.
    pub(crate) async fn aborted(&mut self) {
        if self.0.wait_for(|aborted| *aborted).await.is_err() {
            // The task is gone, so nobody can ask any more.
            std::future::pending::<()>().await;
        }
    }
}
