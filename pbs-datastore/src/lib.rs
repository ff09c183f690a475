#![doc = include_str!("../../docs/architecture.md")]

mod archive_name;
mod auth_id;
mod backup;
#[doc(hidden)]
pub mod bench;
mod blob;
mod board;
mod budget;
mod cache;
mod catalog;
mod chunk_store;
mod chunker;
mod config;
mod contents;
mod crypt;
mod datastore;
mod digest;
mod env;
mod error;
pub mod files;
#[cfg(test)]
mod fixture;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod gc;
pub mod index;
mod job;
mod json;
mod key_file;
pub mod layout;
mod manifest;
mod metrics;
mod mirror;
mod namespace;
mod owner;
mod progress;
mod prune;
#[cfg(test)]
mod races;
mod roots;
pub mod sabotage;
mod safe_id;
mod seal;
mod session;
mod snapshot;
mod snapshots;
mod step;
mod sync;
mod usage;
mod verify;
mod zstd_frame;

pub use archive_name::{ArchiveKind, ArchiveName};
pub use auth_id::{AuthId, TOKEN_NAME_BYTES_MAX, TokenId, UserId};
pub use backup::{Backup, BackupRequest, IndexKind, SnapshotReader};
pub use blob::{BlobError, BlobKind, CHUNK_BYTES_MAX, CHUNK_ENCODED_BYTES_MAX, DataBlob};
pub use budget::{MemoryBudget, MemoryPermit};
pub use cache::ReadAhead;
pub use catalog::{
    CATALOG_MAGIC, CATALOG_NAME_BYTES_MAX, Catalog, CatalogDirectory, CatalogEntries, CatalogEntry,
    CatalogError, CatalogKind, CatalogReader, CatalogTable,
};
pub use chunk_store::{
    BucketPlace, Chunk, ChunkReader, ChunkStream, HEADER_BYTES_MAX, InsertOptions, Inserted,
    VerifiedChunk,
};
pub use chunker::{AVERAGE_BYTES, AVERAGE_BYTES_MIN, AverageError, Chunker};
pub use config::{Backend, DatastoreConfig, SyncLevel};
pub use contents::Contents;
pub use crypt::{CryptKey, CryptMode, Fingerprint, IV_BYTES, TAG_BYTES, WrongKey};
pub use datastore::{BucketAccess, Datastore, DatastoreSpace, OpenOptions};
pub use digest::{Digest, DigestError};
pub use env::Env;
pub use error::{Error, Result};
pub use gc::{GcOptions, GcStatus, TouchCounts};
pub use index::{DynamicIndex, FixedIndex, Index, IndexChecksum, IndexChunk, IndexError};
pub use job::JobContext;
pub use json::json_values_at_most;
pub use key_file::{KEY_FILE_BYTES_MAX, KeyFile, KeyFileError, KeyLock, PASSPHRASE_BYTES_MIN};
pub use layout::{
    AREAS, BadNumber, BucketLayout, Folder, HoldfastFile, LocalLayout, Place, SnapshotFile,
};
pub use manifest::{
    ChunkUploadStats, MANIFEST_BYTES_MAX, Manifest, ManifestError, ManifestFile, SignatureCheck,
    VerifyOutcome, VerifyState,
};
pub use metrics::{CacheCounts, CacheMetrics};
pub use mirror::RefreshStats;
pub use namespace::{
    NAMESPACE_BYTES_MAX, NAMESPACE_COMPONENT_BYTES_MAX, NAMESPACE_DEPTH_MAX, Namespace,
};
pub use owner::{Capabilities, Fence, FencePass, Owner, OwnerConfig, Released, StartReport};
pub use prune::{KeepOptions, PruneCandidate, PruneMark, plan as plan_prune};
pub use roots::{MarkSink, MarkStats, Needer, RootProvider, SessionRoots, SnapshotRoots};
pub use safe_id::{
    BUCKET_PREFIX_BYTES_MAX, BackupId, BucketPrefix, DatastoreName, NameError, SAFE_ID_BYTES_MAX,
};
pub use seal::SnapshotWriter;
pub use session::{
    Lease, SessionEnded, SessionId, SessionInfo, SessionState, Sessions, Told, WriterSession,
    writer_label,
};
pub use snapshot::{BackupGroup, BackupTime, BackupType, Snapshot};
pub use snapshots::{
    DeleteOptions, DeleteStats, FileInfo, GroupInfo, GroupLock, GroupRef, Lock, SnapshotFilter,
    SnapshotInfo, SnapshotRef, SnapshotState, Snapshots, UnsealedStats,
};
pub use step::{Step, watch as watch_steps};
pub use sync::{
    Copied, DatastoreSource, DatastoreTarget, GroupFilter, GroupFilterError, InFlight, Mover,
    SnapshotSource, SyncCounts, SyncFile, SyncGroup, SyncOptions, SyncSnapshot, SyncSource,
    SyncStep, SyncTarget, sync,
};
pub use usage::DatastoreUsage;
pub use verify::{Verified, Verifier, VerifyCounts, VerifyFilter, VerifyLimits, is_benchmark};
