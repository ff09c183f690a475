//! What a run has read, in figures.

use super::VerifyCounts;
use crate::progress::Pace;
use crate::{Env, JobContext};

#[derive(Debug)]
pub(super) struct Progress {
    pace: Pace,
    counts: VerifyCounts,
}

impl Progress {
    pub(super) fn new(env: &Env) -> Self {
        Self {
            pace: Pace::new(env),
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

    /// So many chunks are there and are not read.
    pub(super) fn pass(&mut self, chunks: usize) {
        self.counts.present += chunks as u64;
    }

    /// A chunk of so many stored bytes was read: `done` of `total` of one file. Says so now and then.
    pub(super) fn read(&mut self, bytes: u64, done: usize, total: usize, job: &JobContext) {
        self.counts.chunks += 1;
        self.counts.bytes += bytes;
        let Some(taken) = self.pace.due() else {
            return;
        };
        let mib = self.counts.bytes as f64 / f64::from(1 << 20);
        job.log(format!(
            "{done} of {total} chunks of this file; in all {} chunks, {mib:.0} MiB, {:.1} MiB/s",
            self.counts.chunks,
            mib / taken.as_secs_f64(),
        ));
    }
}
