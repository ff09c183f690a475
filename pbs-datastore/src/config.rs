//! Settings of one datastore, with defaults, units and bounds.

use std::path::PathBuf;
use std::time::Duration;

/// How durable a filesystem datastore makes its files before it answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SyncLevel {
    /// Leaves it to the kernel; a power loss may take the newest backups.
    None,
    /// Every chunk on its own.
    File,
    /// The whole file system, once per finished backup.
    #[default]
    Filesystem,
}

/// Where the chunks are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backend {
    /// A directory of chunk files, laid out as interface 6.5 and 6.6.
    Directory(PathBuf),
    /// A bucket behind a cache.
    Bucket {
        /// The datastore's own prefix, a [`BucketPrefix`](crate::BucketPrefix); normally its name.
        prefix: String,
        /// The cache directory; it is disposable (I3).
        cache_dir: PathBuf,
        /// Bound of cached plus temporary chunk bytes. 0 keeps no chunk.
        cache_bytes_max: u64,
    },
}

/// Settings of one datastore.
#[derive(Clone, Debug)]
pub struct DatastoreConfig {
    /// Its name, 3 to 32 characters.
    pub name: String,
    /// Where its chunks are.
    pub backend: Backend,
    /// Durability of a filesystem datastore.
    pub sync_level: SyncLevel,
    /// How many bytes of chunks may be stored; no backup begins beyond it. Default: any number, as is 0.
    pub quota_bytes: Option<u64>,
    /// Unused chunks are kept at least this long: 0 to 48 h, default 24 h 5 min.
    pub gc_atime_cutoff: Duration,
    /// T: how long a request that was given up may still take effect (A1). Default 15 min.
    pub late_request_max: Duration,
    /// Attempts of one chunk upload, the last one unconditional; 2 to 20, default 8.
    pub upload_attempts_max: u32,
    /// When an upload starts no further attempt but the last; default 10 min.
    pub upload_deadline: Duration,
    /// Chunk bytes in flight ahead of one reader; default 32 MiB, 0 switches read-ahead off.
    pub read_ahead_bytes_max: u64,
    /// Keys of one delete request, 1 to 1000, which is the default.
    pub delete_request_keys_max: usize,
    /// Delete requests of one batch, sent side by side: 1 to 64, default 16. A batch of files has the keys of one request.
    pub delete_requests_max: usize,
    /// Parallel ranges of one listing of the chunks; 1 to 64, default 8.
    pub list_ranges: usize,
    /// Digests whose touches GC remembers, so that a chunk used by many snapshots is touched once; default 1 Mi
    /// (40 MiB of memory).
    pub gc_touched_max: usize,
    /// Chunks that an index names which GC remembers until it ends, so that they stay even if their marks are lost; four to eight
    /// bytes each. Default 64 Mi.
    pub gc_named_max: usize,
}

impl DatastoreConfig {
    /// The defaults for a datastore.
    pub fn new(name: impl Into<String>, backend: Backend) -> Self {
        Self {
            name: name.into(),
            backend,
            sync_level: SyncLevel::default(),
            quota_bytes: None,
            gc_atime_cutoff: Duration::from_mins(1445),
            late_request_max: Duration::from_mins(15),
            upload_attempts_max: 8,
            upload_deadline: Duration::from_mins(10),
            read_ahead_bytes_max: 32 << 20,
            delete_request_keys_max: 1000,
            delete_requests_max: 16,
            list_ranges: 8,
            gc_touched_max: 1 << 20,
            gc_named_max: 64 << 20,
        }
    }

    /// All faults of the settings, each in a sentence; empty if there are none.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut check = |good: bool, fault: &str| {
            if !good {
                faults.push(fault.to_owned());
            }
        };
        check(
            self.gc_atime_cutoff <= Duration::from_hours(48),
            "gc-atime-cutoff is at most 48 hours",
        );
        check(
            self.late_request_max <= Duration::from_hours(24),
            "late-request-max is at most 24 hours",
        );
        check(
            (2..=20).contains(&self.upload_attempts_max),
            "upload-attempts-max is between 2 and 20",
        );
        check(
            (1..=1000).contains(&self.delete_request_keys_max),
            "delete-request-keys-max is between 1 and 1000",
        );
        check(
            (1..=64).contains(&self.delete_requests_max),
            "delete-requests-max is between 1 and 64",
        );
        check(
            (1..=64).contains(&self.list_ranges),
            "list-ranges is between 1 and 64",
        );
        faults
    }
}
