//! Counters of cache and reads.

use std::sync::atomic::{AtomicU64, Ordering};

/// Declares the counters once, for the atomics and for their copy.
macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters of one datastore's cache and reads, since the process started.
        #[derive(Debug, Default)]
        pub struct CacheMetrics {
            $($(#[$doc])* pub(crate) $name: AtomicU64,)*
        }

        /// The counters at one moment.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
        #[serde(rename_all = "kebab-case")]
        pub struct CacheCounts {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl CacheMetrics {
            /// All counters; each is exact, together they are not of one instant.
            pub fn counts(&self) -> CacheCounts {
                CacheCounts { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counters! {
    /// Reads served from the cache.
    hits,
    /// Reads that the cache could not serve.
    misses,
    /// Chunks fetched from the bucket.
    fills,
    /// Reads that joined a fetch of the same chunk.
    fills_joined,
    /// Chunks fetched and not cached because they were condemned or set aside meanwhile.
    fills_spoiled,
    /// Chunks fetched and not cached because the disk did not keep up.
    fills_dropped,
    /// Cached chunks that failed their checksum, or were gone, and were dropped.
    cached_corrupt,
    /// Objects whose first read was corrupt and whose second was good.
    corrupt_once,
    /// Chunks whose content was replaced by an empty marker to make room.
    evictions,
    /// Chunks that were in use when they were to be evicted.
    evictions_skipped,
    /// Chunks not cached for want of room.
    inserts_without_room,
    /// Failed writes and evictions in the cache directory.
    disk_errors,
    /// Bytes read ahead and served.
    ahead_bytes_used,
    /// Bytes read ahead and never asked for.
    ahead_bytes_unused,
}

/// Adds one.
pub(crate) fn count(counter: &AtomicU64) {
    add(counter, 1);
}

/// Adds `n`.
pub(crate) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}
