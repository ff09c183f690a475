//! Formats, chunk store, cache, garbage collection and seals. Knows no HTTP.

mod archive_name;
mod auth_id;
mod blob;
mod budget;
mod cache;
mod chunk_store;
mod config;
mod crypt;
mod digest;
mod env;
mod error;
pub mod files;
pub mod index;
mod metrics;
mod namespace;
#[cfg(feature = "sabotage")]
pub mod sabotage;
mod safe_id;
mod session;
mod snapshot;
mod zstd_frame;

pub use archive_name::{ArchiveKind, ArchiveName};
pub use auth_id::{AuthId, TOKEN_NAME_BYTES_MAX, TokenId, UserId};
pub use blob::{BlobError, BlobKind, CHUNK_BYTES_MAX, CHUNK_ENCODED_BYTES_MAX, DataBlob};
pub use budget::{MemoryBudget, MemoryPermit};
pub use cache::ReadAhead;
pub use chunk_store::{Chunk, ChunkReader, ChunkStream};
pub use config::{DatastoreConfig, Place, SyncLevel};
pub use crypt::{CryptKey, CryptMode, Fingerprint, IV_BYTES, TAG_BYTES, WrongKey};
pub use digest::{Digest, DigestError};
pub use env::Env;
pub use error::{Error, Result};
pub use index::{DynamicIndex, FixedIndex, Index, IndexChecksum, IndexChunk, IndexError};
pub use metrics::{CacheCounts, CacheMetrics};
pub use namespace::{
    NAMESPACE_BYTES_MAX, NAMESPACE_COMPONENT_BYTES_MAX, NAMESPACE_DEPTH_MAX, Namespace,
};
pub use safe_id::{BackupId, DatastoreName, NameError, SAFE_ID_BYTES_MAX};
pub use session::{
    Lease, SessionEnded, SessionId, SessionInfo, SessionState, Sessions, Told, WriterSession,
};
pub use snapshot::{BackupGroup, BackupTime, BackupType, Snapshot};
