//! What a running job is given: a place for its log lines and a way to be stopped.

use std::fmt;
use std::sync::Arc;

use tokio::sync::watch;

use crate::{Error, Result};

/// The surroundings of one run of a job.
#[derive(Clone)]
pub struct JobContext {
    log: Arc<dyn Fn(String) + Send + Sync>,
    stop: watch::Receiver<bool>,
}

impl fmt::Debug for JobContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobContext")
            .field("stopped", &*self.stop.borrow())
            .finish_non_exhaustive()
    }
}

impl JobContext {
    /// Log lines go to `log`; the job stops at its next safe point once `stop` holds `true`.
    pub fn new(log: Arc<dyn Fn(String) + Send + Sync>, stop: watch::Receiver<bool>) -> Self {
        Self { log, stop }
    }

    /// Log lines go to the program's own log; never stopped.
    pub fn detached() -> Self {
        let (_, stop) = watch::channel(false);
        Self::new(Arc::new(|line| tracing::info!("{line}")), stop)
    }

    /// Writes a line for the person who reads the job's log.
    pub fn log(&self, line: impl Into<String>) {
        (self.log)(line.into());
    }

    /// Returns once the job is to stop; waits for ever where nobody can ask for it.
    pub async fn stopped(&self) {
        if self.stop.clone().wait_for(|stop| *stop).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// An error once the job is to stop.
    pub fn check(&self) -> Result<()> {
        if *self.stop.borrow() {
            Err(Error::Stopped)
        } else {
            Ok(())
        }
    }
}
