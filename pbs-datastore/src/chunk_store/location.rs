//! Where a digest is (design 8 b).
//!
//! Today every chunk is an object of its own, under the key that the [layout](crate::layout) gives it; a chunk inside a
//! larger object would be a second kind of [`ChunkLocation`], and only who asks here would have to learn of it.

use s3_client::ObjectKey;

use crate::{BucketLayout, Digest};

/// Where the bytes of one chunk are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ChunkLocation {
    /// A whole object under this key.
    Object(ObjectKey),
}

/// Where the chunk is, or is to be put.
pub(crate) fn locate(layout: &BucketLayout, digest: &Digest) -> ChunkLocation {
    ChunkLocation::Object(layout.chunk(digest))
}
