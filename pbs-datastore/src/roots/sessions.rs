//! Open sessions as roots: they hold the cutoff back, so nothing they were told since they began is deleted (I2).

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;

use super::{MarkSink, MarkStats, Needer, RootProvider};
use crate::{Digest, Result, Sessions};

/// The open sessions of a datastore.
#[derive(Debug)]
pub struct SessionRoots(Arc<Sessions>);

impl SessionRoots {
    /// Of these sessions.
    pub fn new(sessions: Arc<Sessions>) -> Self {
        Self(sessions)
    }
}

#[async_trait]
impl RootProvider for SessionRoots {
    fn name(&self) -> &'static str {
        "sessions"
    }

    /// A session is in the registry before anything is done in its name.
    async fn settle(&self) -> Result<()> {
        Ok(())
    }

    fn oldest_open(&self) -> Option<(String, Timestamp)> {
        self.0.oldest_open()
    }

    /// Every chunk a session was told of was touched after the session's start, and the cutoff lies before that.
    async fn mark(&self, _sink: &mut dyn MarkSink) -> Result<MarkStats> {
        Ok(MarkStats::default())
    }

    /// Whoever finds a chunk missing announces it to the sessions under the chunk's guard.
    async fn damaged(&self, _missing: &[(Digest, Vec<Needer>)]) -> Result<()> {
        Ok(())
    }
}
