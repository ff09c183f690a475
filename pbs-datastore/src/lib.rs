//! Formats, chunk store, cache, garbage collection and seals. Knows no HTTP.

mod digest;

pub use digest::{Digest, DigestError};
