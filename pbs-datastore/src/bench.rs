//! Parts of this crate that nobody else sees, as the micro benchmarks measure them (`tests/benches/micro.rs`). Not for use:
//! hidden from the documentation, and no feature, so that the benchmarks build nothing anew.

use std::sync::Arc;

use crate::cache::lru::Lru;
use crate::chunk_store::guard::ChunkTable;
use crate::{Digest, Result};

/// The chunk table.
#[derive(Clone, Debug)]
pub struct Guards(Arc<ChunkTable>);

impl Default for Guards {
    fn default() -> Self {
        Self(ChunkTable::new())
    }
}

impl Guards {
    /// The guard of a digest as inserts take it, held until it is dropped.
    pub async fn take(&self, digest: Digest) -> Result<impl Send + use<>> {
        self.0.guard_for_use(digest).await
    }
}

/// The order in which cached chunks go.
#[derive(Clone, Debug)]
pub struct CacheOrder(Arc<Lru>);

impl CacheOrder {
    /// Of an empty cache of `bytes_max` bytes.
    pub fn new(bytes_max: u64) -> Self {
        let lru = Lru::new(bytes_max);
        lru.end_accounting();
        Self(lru)
    }

    /// Reserves room for a chunk and accounts for it; `false` if there is no room.
    pub fn insert(&self, digest: Digest, bytes: u64) -> bool {
        let Some(reservation) = self.0.reserve(bytes) else {
            return false;
        };
        self.0.commit(reservation, digest);
        true
    }

    /// Makes a chunk the newest one.
    pub fn touch(&self, digest: &Digest) {
        self.0.touch(digest);
    }

    /// Takes the oldest chunk out.
    pub fn evict(&self) -> Option<Digest> {
        let oldest = self.0.oldest()?;
        self.0.forget(&oldest);
        Some(oldest)
    }
}
