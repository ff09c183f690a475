//! Where a digest is in the bucket (design 8 b): the only place that turns one into a key.
//!
//! Today every chunk is an object of its own, under the key that the [layout](crate::layout) gives it. A chunk inside a
//! larger object would be a second kind of [`ChunkLocation`]; insert, fill, set-aside, sweep and reconcile take the kind
//! apart without a way out, so none of them compiles before it knows what to do with such a chunk.

use s3_client::ObjectKey;

use crate::layout::Place;
use crate::{BucketLayout, Digest};

/// Where the bytes of one chunk are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ChunkLocation {
    /// A whole object under this key.
    Object(ObjectKey),
}

/// Where the chunk is, or is to be put.
pub(crate) fn locate(layout: &BucketLayout, digest: &Digest) -> ChunkLocation {
    ChunkLocation::Object(layout.key(&Place::Chunk(*digest)))
}
