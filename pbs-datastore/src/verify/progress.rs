//! How far a run has come, in figures.

use std::time::Duration;

use tokio::time::Instant;

use super::VerifyCounts;
use crate::{Env, JobContext};

/// How often a line of progress is logged.
const EVERY: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Progress {
    env: Env,
    begun: Instant,
    told: Instant,
    counts: VerifyCounts,
}

impl Progress {
    pub(super) fn new(env: &Env) -> Self {
        let now = env.instant();
        Self {
            env: env.clone(),
            begun: now,
            told: now,
            counts: VerifyCounts::default(),
        }
    }

    pub(super) fn counts(&self) -> VerifyCounts {
        self.counts
    }

    /// So many chunks need not be read.
    pub(super) fn trust(&mut self, chunks: usize) {
        self.counts.trusted += chunks as u64;
    }

    /// A chunk of so many stored bytes was read: `done` of `total` of one file. Says so now and then.
    pub(super) fn read(&mut self, bytes: u64, done: usize, total: usize, job: &JobContext) {
        self.counts.chunks += 1;
        self.counts.bytes += bytes;
        let now = self.env.instant();
        let since = now.duration_since(self.told);
        if since < EVERY {
            return;
        }
        self.told = now;
        let seconds = now.duration_since(self.begun).as_secs_f64();
        let mib = |bytes: f64| bytes / f64::from(1 << 20);
        job.log(format!(
            "{done} of {total} chunks of this file; in all {} chunks, {:.0} MiB, {:.1} MiB/s",
            self.counts.chunks,
            mib(self.counts.bytes as f64),
            mib(self.counts.bytes as f64 / seconds),
        ));
    }
}
