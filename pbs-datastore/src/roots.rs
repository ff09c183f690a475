//! Who needs chunks: the roots of garbage collection (design 8 c).
//!
//! Roots are streamed, so that they can be many and need not fit in memory. Reports name a [`Needer`], not a snapshot:
//! later there are needers that are none.

mod sessions;
mod snapshots;

use async_trait::async_trait;
use jiff::Timestamp;

use crate::{Digest, Result};

pub use sessions::SessionRoots;
pub use snapshots::SnapshotRoots;

/// Something that needs chunks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Needer {
    /// The provider's name.
    pub provider: &'static str,
    /// What needs the chunk, in the provider's own words (a snapshot's path).
    pub name: String,
}

/// Counts of one provider's mark.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MarkStats {
    /// Indexes read.
    pub index_files: u64,
    /// Logical bytes they describe.
    pub index_bytes: u64,
}

/// Takes the digests that a provider streams.
#[async_trait]
pub trait MarkSink: Send {
    /// `digests` are in use by `needer`. Any error ends the collection (I10).
    async fn mark(&mut self, needer: &Needer, digests: &[Digest]) -> Result<()>;
}

/// A kind of root.
#[async_trait]
pub trait RootProvider: Send + Sync + std::fmt::Debug {
    /// Its name in reports.
    fn name(&self) -> &'static str;

    /// Waits until what began before now and is not seen by [`RootProvider::oldest_open`] is visible to
    /// [`RootProvider::mark`].
    async fn settle(&self) -> Result<()>;

    /// The oldest writer whose chunks no index names yet: what it is, and since when it writes.
    fn oldest_open(&self) -> Option<(String, Timestamp)>;

    /// Streams every digest in use. An unreadable index or an incomplete listing is an error (I10).
    async fn mark(&self, sink: &mut dyn MarkSink) -> Result<MarkStats>;

    /// Learns which chunks are missing and who needs them.
    async fn damaged(&self, missing: &[(Digest, Vec<Needer>)]) -> Result<()>;
}
