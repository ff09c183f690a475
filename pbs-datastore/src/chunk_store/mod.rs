//! Where chunks are: markers, guards, insert, reads.

pub(crate) mod adopt;
pub(crate) mod copy;
pub(crate) mod guard;
pub(crate) mod insert;
pub(crate) mod location;
pub(crate) mod marker;
pub(crate) mod object;
pub(crate) mod protection;
mod read;
mod stream;
mod upload;

pub use copy::BucketPlace;
pub use insert::{InsertOptions, Inserted, VerifiedChunk};
pub use read::HEADER_BYTES_MAX;
pub use read::{Chunk, ChunkReader};
pub use stream::ChunkStream;
