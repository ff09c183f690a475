//! Sync: snapshots of one datastore brought to another, again and again (interface 8; decision 0013).
//!
//! | file | what |
//! |---|---|
//! | `filter.rs`, `plan.rs` | which groups are meant, and what is to be done with the snapshots of one: pure functions |
//! | `sides.rs` | the two traits: where snapshots come from, and where they go |
//! | `run.rs`, `vanish.rs` | the driver: namespaces, groups side by side, retries, the log; what has vanished |
//! | `from.rs`, `into.rs` | an open datastore as source and as target |
//! | `chunks.rs` | the chunks of one index on their way into a datastore |
//! | `moving.rs` | groups and namespaces moved within a datastore: a copy and a removal |
//!
//! Servers elsewhere implement the same traits outside of this crate.
//!
//! One snapshot into a datastore
//! 1. The manifest at the source; if there is none, the snapshot is gone. Nothing is written yet.
//! 2. A writer session is opened and the snapshot claimed as that of a backup is.
//! 3. Each file, checked against the manifest: blobs are stored; the chunks of an index are touched or fetched, checked and inserted,
//!    then the index is stored. Then the client's log, if there is one.
//! 4. Seal, with the manifest as it came.
//!
//! A crash, a broken line or a stop before 4 leaves an unfinished folder that nobody sees, and chunks with fresh markers that the next
//! run finds (I1, I2: the session is open until the seal). After 4 the snapshot is finished.

mod chunks;
mod filter;
mod from;
mod into;
mod moving;
mod plan;
mod run;
mod sides;
#[cfg(test)]
mod tests;
mod vanish;

pub use filter::{GroupFilter, GroupFilterError};
pub use from::DatastoreSource;
pub use into::DatastoreTarget;
pub use moving::Mover;
pub use plan::SyncStep;
pub use run::{SyncCounts, sync};
pub use sides::{
    Copied, InFlight, SnapshotSource, SyncFile, SyncGroup, SyncSnapshot, SyncSource, SyncTarget,
};

use crate::{NAMESPACE_DEPTH_MAX, Namespace};

/// What a sync concerns, and how it is done.
#[derive(Clone, Debug)]
pub struct SyncOptions {
    /// Where at the source.
    pub source: Namespace,
    /// Where at the target.
    pub target: Namespace,
    /// Levels below them.
    pub depth: usize,
    /// Which groups.
    pub groups: Vec<GroupFilter>,
    /// Only so many of the newest snapshots of each group.
    pub transfer_last: Option<usize>,
    /// Bring again what is damaged at the target.
    pub resync_corrupt: bool,
    /// Only snapshots whose archives are all encrypted.
    pub encrypted_only: bool,
    /// Only snapshots whose last verification at the source found nothing wrong.
    pub verified_only: bool,
    /// Remove from the target what the source does not have any more.
    pub remove_vanished: bool,
    /// Groups side by side, at least 1.
    pub workers: usize,
    /// Only count what would be copied: nothing is changed.
    pub estimate: bool,
}

impl Default for SyncOptions {
    /// Everything, one group after the other.
    fn default() -> Self {
        Self {
            source: Namespace::root(),
            target: Namespace::root(),
            depth: NAMESPACE_DEPTH_MAX,
            groups: Vec::new(),
            transfer_last: None,
            resync_corrupt: false,
            encrypted_only: false,
            verified_only: false,
            remove_vanished: false,
            workers: 1,
            estimate: false,
        }
    }
}
