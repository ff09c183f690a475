//! What a task will ask of a bucket, said before it begins, and what it did ask, said at its end (decision 0016).
//!
//! Estimates ask the bucket nothing: they are made from what the last collection counted, and from the sizes in manifests.

use pbs_datastore::{Datastore, SnapshotInfo, VerifyLimits};
use s3_client::Tally;

use crate::config::{Config, SAMPLE_MAX};
use crate::daemon::Daemon;
use crate::price::{Demand, PriceList};
use crate::tasks::Task;

/// Keys of one page of a listing, and of one request that deletes.
const PAGE: u64 = 1000;
/// Listings of all chunks are made in so many parts side by side, each with a page that is not full.
const PARTS: u64 = 8;
/// Mean size of a stored chunk as long as no collection has counted any.
const CHUNK_BYTES: u64 = 2 << 20;

/// Chunks that are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stored {
    bytes: u64,
    chunks: u64,
    /// What no snapshot needed when they were counted.
    unused: u64,
}

impl Stored {
    /// As far as they were counted; how many were added since is taken from the mean size.
    fn of(store: &Datastore) -> Self {
        let status = store.gc_status().unwrap_or_default();
        let counted = status.disk_bytes.saturating_add(status.pending_bytes);
        let chunks = status.disk_chunks.saturating_add(status.pending_chunks);
        let bytes = store.usage().stored;
        let mean = counted
            .checked_div(chunks)
            .filter(|mean| *mean > 0)
            .unwrap_or(CHUNK_BYTES);
        Self {
            bytes,
            chunks: chunks.saturating_add(bytes.saturating_sub(counted).div_ceil(mean)),
            unused: status.pending_chunks,
        }
    }

    /// How many of them have so many bytes together.
    fn chunks_of(self, bytes: u64) -> u64 {
        self.chunks_for(bytes).min(self.chunks)
    }

    /// How many chunks like them have so many bytes together.
    fn chunks_for(self, bytes: u64) -> u64 {
        if self.chunks == 0 || self.bytes == 0 {
            return bytes.div_ceil(CHUNK_BYTES);
        }
        let share = u128::from(self.chunks) * u128::from(bytes);
        let share = share.div_ceil(u128::from(self.bytes));
        u64::try_from(share).unwrap_or(u64::MAX)
    }

    /// Requests that list all of them.
    fn pages(self) -> u64 {
        self.chunks / PAGE + PARTS
    }
}

/// What a verification asks for, of so many files and the chunks of content of so many bytes.
fn verification(
    stored: Stored,
    (files, logical): (u64, u64),
    sample: u64,
    limits: VerifyLimits,
) -> Demand {
    let bytes = logical.min(stored.bytes);
    let part =
        |of: u64| (u128::from(of) * u128::from(sample)).div_ceil(u128::from(SAMPLE_MAX)) as u64;
    let (mut bytes, mut chunks) = (part(bytes), part(stored.chunks_of(bytes)));
    if let Some(max) = limits.bytes_max.filter(|max| *max < bytes) {
        chunks = stored.chunks_of(max).min(chunks);
        bytes = max;
    }
    if let Some(max) = limits.chunks_max.filter(|max| *max < chunks) {
        let share = u128::from(bytes) * u128::from(max) / u128::from(chunks);
        bytes = u64::try_from(share).unwrap_or(u64::MAX);
        chunks = max;
    }
    Demand {
        writes: if sample < SAMPLE_MAX {
            stored.pages()
        } else {
            0
        },
        reads: files.saturating_add(chunks),
        received: bytes,
        ..Demand::default()
    }
}

/// What a collection asks for.
fn collection(stored: Stored) -> Demand {
    Demand {
        writes: stored.pages(),
        deletes: stored.unused.div_ceil(PAGE),
        ..Demand::default()
    }
}

/// Says what the verification of these snapshots will ask for. Nothing of a datastore without a bucket.
pub(super) fn say_verification(
    daemon: &Daemon,
    task: &Task,
    store: &Datastore,
    snapshots: &[SnapshotInfo],
    (sample, limits): (u64, VerifyLimits),
) {
    let logical = snapshots.iter().filter_map(|info| info.size);
    let logical = logical.fold(0, u64::saturating_add);
    let files = snapshots.iter().map(|info| info.files.len() as u64).sum();
    say(daemon, task, store, |stored| {
        verification(stored, (files, logical), sample, limits)
    });
}

/// Says what a collection will ask for. Nothing of a datastore without a bucket.
pub(super) fn say_collection(daemon: &Daemon, task: &Task, store: &Datastore) {
    say(daemon, task, store, collection);
}

fn say(daemon: &Daemon, task: &Task, store: &Datastore, estimate: impl FnOnce(Stored) -> Demand) {
    let (config, name) = (daemon.config.read(), store.name().as_str());
    if config.endpoint_of(name).is_some() {
        let demand = estimate(Stored::of(store));
        let price = priced(&config, name, &demand);
        task.log(format!(
            "to be asked of the bucket of '{name}', about, at most: {demand}{price}"
        ));
    }
}

/// Says what copying so much from one datastore to another will ask for; `None` is elsewhere.
pub(super) fn say_copy(
    daemon: &Daemon,
    task: &Task,
    (source, target): (Option<&Datastore>, Option<&Datastore>),
    bytes: u64,
) {
    // More than there is does not come; what the target has already does not either.
    let stored = source.map(Stored::of);
    let bytes = stored.map_or(bytes, |stored| bytes.min(stored.bytes));
    let chunks = |side: Stored| stored.unwrap_or(side).chunks_for(bytes);
    let by_server = matches!((source, target), (Some(from), Some(into)) if into.copies_from(from));
    // Of a chunk that the server copies its first bytes are read, and nothing is sent.
    let through_here = if by_server { 0 } else { bytes };
    if let Some(store) = source {
        say(daemon, task, store, |side| Demand {
            reads: chunks(side),
            received: through_here,
            ..Demand::default()
        });
    }
    if let Some(store) = target {
        say(daemon, task, store, |side| Demand {
            writes: chunks(side),
            sent: through_here,
            ..Demand::default()
        });
    }
}

/// Says what a task has asked of each bucket.
pub(super) fn say_asked(daemon: &Daemon, task: &Task, tally: &Tally) {
    let config = daemon.config.read();
    for (name, meters) in daemon.stores.asked(tally) {
        let demand = Demand::of(&meters);
        if demand != Demand::default() {
            let price = priced(&config, &name, &demand);
            task.log(format!("asked of the bucket of '{name}': {demand}{price}"));
        }
    }
}

fn priced(config: &Config, store: &str, demand: &Demand) -> String {
    let list = config.endpoint_of(store).and_then(PriceList::of);
    list.map_or_else(String::new, |list| format!("; {}", list.said(demand)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORED: Stored = Stored {
        bytes: 1_000_000,
        chunks: 10_000,
        unused: 2_500,
    };
    const NO_LIMITS: VerifyLimits = VerifyLimits {
        bytes_max: None,
        chunks_max: None,
    };

    #[test]
    fn a_verification_reads_what_is_stored_at_most() {
        let reads = |logical, sample, limits| {
            let demand = verification(STORED, (7, logical), sample, limits);
            (demand.writes, demand.reads, demand.received)
        };
        assert_eq!(reads(u64::MAX, 100, NO_LIMITS), (0, 10_007, 1_000_000));
        assert_eq!(reads(500_000, 100, NO_LIMITS), (0, 5_007, 500_000));
        assert_eq!(reads(u64::MAX, 10, NO_LIMITS), (18, 1_007, 100_000));
        assert_eq!(reads(u64::MAX, 0, NO_LIMITS), (18, 7, 0));
        let bytes = VerifyLimits {
            bytes_max: Some(1_000),
            ..NO_LIMITS
        };
        assert_eq!(reads(u64::MAX, 100, bytes), (0, 17, 1_000));
        let chunks = VerifyLimits {
            chunks_max: Some(100),
            ..NO_LIMITS
        };
        assert_eq!(reads(u64::MAX, 100, chunks), (0, 107, 10_000));
        assert_eq!(reads(0, 100, chunks), (0, 7, 0));
    }

    #[test]
    fn a_collection_lists_and_deletes_a_thousand_at_a_time() {
        let demand = collection(STORED);
        assert_eq!((demand.writes, demand.deletes, demand.reads), (18, 3, 0));
    }
}
