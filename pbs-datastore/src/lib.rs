//! Formats, chunk store, cache, garbage collection and seals. Knows no HTTP.

mod chunk_store;
mod config;
mod digest;
mod env;
mod error;
pub mod files;
#[cfg(feature = "sabotage")]
pub mod sabotage;
mod session;

pub use config::{DatastoreConfig, Place, SyncLevel};
pub use digest::{Digest, DigestError};
pub use env::Env;
pub use error::{Error, Result};
pub use session::{
    Lease, SessionEnded, SessionId, SessionInfo, SessionState, Sessions, Told, WriterSession,
};
