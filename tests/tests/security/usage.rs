//! What a process holds, and the proof that it gave back what an attack took.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use holdfast_tests::measure::usage::Memory;
use holdfast_tests::process::wait_for;

/// How long what an attack took may take to come back. Threads that wait for work end after ten seconds.
const SETTLE_MAX: Duration = Duration::from_secs(25);
/// What a process may hold more after an attack than before it: what the allocator keeps, and caches.
const RESIDENT_MORE_MAX: u64 = 48 << 20;
/// Open files more than before: a connection that has just ended.
const FILES_MORE_MAX: usize = 6;
/// Threads more than before: those that wait for disks are kept a little for the next.
const THREADS_MORE_MAX: usize = 8;

/// What a process holds at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Bytes in memory.
    pub(crate) resident: u64,
    /// The most there were since [`Usage::forget_peak`].
    pub(crate) peak: u64,
    /// Open files and sockets.
    pub(crate) files: usize,
    /// Threads.
    pub(crate) threads: usize,
}

impl Usage {
    /// Of the process `pid`.
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let count = |what: &str| -> Result<usize> {
            let entries = fs::read_dir(format!("/proc/{pid}/{what}"));
            Ok(entries.context("the process is gone")?.count())
        };
        let memory = Memory::of(pid)?;
        Ok(Self {
            resident: memory.resident,
            peak: memory.peak,
            files: count("fd")?,
            threads: count("task")?,
        })
    }

    /// Lets the peak begin anew.
    pub(crate) fn forget_peak(pid: u32) -> Result<()> {
        fs::write(PathBuf::from(format!("/proc/{pid}/clear_refs")), "5")?;
        Ok(())
    }

    /// Waits until the process holds as much as here again, and answers what it holds then; an error tells what stays
    /// taken.
    pub(crate) fn comes_back(&self, pid: u32) -> Result<Self> {
        let mut last = *self;
        let settled = wait_for(SETTLE_MAX, || match Self::of(pid) {
            Err(error) => Some(Err(error)),
            Ok(now) => {
                last = now;
                self.is_like(&now).then_some(Ok(now))
            }
        });
        settled.with_context(|| format!("not all comes back: before {self:?}, now {last:?}"))?
    }

    fn is_like(&self, now: &Self) -> bool {
        now.resident <= self.resident + RESIDENT_MORE_MAX
            && now.files <= self.files + FILES_MORE_MAX
            && now.threads <= self.threads + THREADS_MORE_MAX
    }

    /// Fails if the peak since then was more than `bytes` above what was held here.
    pub(crate) fn peak_at_most(&self, after: &Self, bytes: u64) -> Result<()> {
        let grown = after.peak.saturating_sub(self.resident);
        ensure!(
            grown <= bytes,
            "the attack took {} MiB, more than the {} MiB it may",
            grown >> 20,
            bytes >> 20
        );
        Ok(())
    }
}
