//! Manifests as last read, so that a listing does not read all of them again.
//!
//! Bounded by number and by memory (I9): a manifest may have 4 MiB of text, and somebody may have made many such. The
//! least recently used go first.

use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;

use super::SnapshotRef;
use super::state::{SnapshotState, Validator};

/// Manifests kept, some KiB each.
const COUNT_MAX: NonZeroUsize = NonZeroUsize::new(32 * 1024).expect("not zero");

/// Memory for them, of one datastore.
const BYTES_MAX: usize = 64 << 20;

#[derive(Debug)]
struct Summary {
    validator: Validator,
    state: Arc<SnapshotState>,
    bytes: usize,
}

/// What snapshots were found to be, with what told whether the file is still the same.
#[derive(Debug)]
pub(super) struct Summaries {
    cache: LruCache<SnapshotRef, Summary>,
    bytes: usize,
    bytes_max: usize,
    era: u64,
}

impl Summaries {
    pub(super) fn new() -> Self {
        Self {
            cache: LruCache::new(COUNT_MAX),
            bytes: 0,
            bytes_max: BYTES_MAX,
            era: 0,
        }
    }

    /// What is known of a file that `validator` describes; otherwise the era in which it is going to be read.
    pub(super) fn get(
        &mut self,
        id: &SnapshotRef,
        validator: Validator,
    ) -> Result<Arc<SnapshotState>, u64> {
        match self.cache.get(id) {
            Some(known) if known.validator == validator => Ok(Arc::clone(&known.state)),
            _ => Err(self.era),
        }
    }

    /// Remembers what was read in `era`, unless something was changed since.
    pub(super) fn put(
        &mut self,
        id: &SnapshotRef,
        validator: Validator,
        state: &Arc<SnapshotState>,
        era: u64,
    ) {
        if self.era != era {
            return;
        }
        let bytes = size_of::<Summary>() + state.memory_bytes();
        let summary = Summary {
            validator,
            state: Arc::clone(state),
            bytes,
        };
        self.bytes += bytes;
        // The entry before, or the one that had to go for the number.
        if let Some((_, gone)) = self.cache.push(id.clone(), summary) {
            self.bytes -= gone.bytes;
        }
        while self.bytes > self.bytes_max
            && let Some((_, gone)) = self.cache.pop_lru()
        {
            self.bytes -= gone.bytes;
        }
    }

    /// Forgets a snapshot that was changed, and what is being read of others at this moment.
    pub(super) fn forget(&mut self, id: &SnapshotRef) {
        self.era += 1;
        if let Some(gone) = self.cache.pop(id) {
            self.bytes -= gone.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::files::FileStat;

    fn id(day: u8) -> SnapshotRef {
        format!("host/a/2026-01-{day:02}T00:00:00Z")
            .parse()
            .unwrap()
    }

    fn validator(size: u64) -> Validator {
        let time = Timestamp::UNIX_EPOCH;
        let stat = FileStat {
            size,
            atime: time,
            mtime: time,
            mode: 0o644,
            is_dir: false,
        };
        (&stat).into()
    }

    fn unreadable(bytes: usize) -> Arc<SnapshotState> {
        Arc::new(SnapshotState::Unreadable("x".repeat(bytes)))
    }

    #[test]
    fn memory_is_bounded_and_the_least_used_go_first() {
        let mut summaries = Summaries {
            bytes_max: 10_000,
            ..Summaries::new()
        };
        for day in 1..=3 {
            summaries.put(&id(day), validator(1), &unreadable(3000), 0);
        }
        assert!(summaries.get(&id(1), validator(1)).is_ok());
        summaries.put(&id(4), validator(1), &unreadable(3000), 0);
        assert!(summaries.get(&id(1), validator(1)).is_ok());
        assert!(summaries.get(&id(2), validator(1)).is_err());
        // The same once more takes the place of its predecessor only.
        summaries.put(&id(4), validator(1), &unreadable(3000), 0);
        assert!(summaries.get(&id(3), validator(1)).is_ok());
        // What alone is too much is not kept, and no remainder is left in the account.
        summaries.put(&id(5), validator(1), &unreadable(20_000), 0);
        assert!(summaries.get(&id(5), validator(1)).is_err());
        assert_eq!((summaries.bytes, summaries.cache.len()), (0, 0));
    }

    #[test]
    fn what_was_read_before_a_change_is_not_remembered() {
        let mut summaries = Summaries::new();
        let era = summaries.get(&id(1), validator(1)).unwrap_err();
        summaries.forget(&id(1));
        summaries.put(&id(1), validator(1), &unreadable(1), era);
        let era = summaries.get(&id(1), validator(1)).unwrap_err();
        summaries.put(&id(1), validator(1), &unreadable(1), era);
        assert!(summaries.get(&id(1), validator(1)).is_ok());
        assert!(summaries.get(&id(1), validator(2)).is_err());
        summaries.forget(&id(1));
        assert_eq!((summaries.bytes, summaries.cache.len()), (0, 0));
    }
}
