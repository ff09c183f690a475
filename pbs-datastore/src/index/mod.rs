//! Indexes: which chunks, in which order, make up an archive.
//!
//! An index is read from its bytes alone and keeps them; digests and ranges are taken from the buffer as they are asked
//! for. Readers trust nothing of the header but what they can compute again: the checksum and the size are those of the
//! entries, to be compared with the manifest. UUID and creation time are shown, never relied upon.
//!
//! Writers need no type: [`fixed::header`] and [`dynamic::header`] make the first 4096 bytes, [`IndexChecksum`] runs
//! along with the entries, and `encode` does both for lists.

pub mod dynamic;
pub mod fixed;
pub mod writer;

use std::ops::Range;

use bytes::Bytes;

use crate::blob::CHUNK_BYTES_MAX;
use crate::digest::Digester;
use crate::{ArchiveKind, Digest};
pub use dynamic::DynamicIndex;
pub use fixed::FixedIndex;

/// Bytes before the entries of either kind.
pub const INDEX_HEADER_BYTES: usize = 4096;
/// Longest index that is read, header included: 1 GiB, the index of more than 100 TiB in chunks of 4 MiB.
pub const INDEX_BYTES_MAX: usize = 1 << 30;

/// Why bytes are no index, or entries make none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    /// Shorter than a header.
    #[error("an index of {0} bytes is too short for its header")]
    TooShort(usize),
    /// Longer than [`INDEX_BYTES_MAX`].
    #[error("an index of {0} bytes is longer than the {INDEX_BYTES_MAX} that are allowed")]
    TooLong(usize),
    /// It does not start like an index of the wanted kind.
    #[error("the data is no index of this kind: its first bytes are wrong")]
    WrongMagic,
    /// The name of the file is not that of an index.
    #[error("the name of the file is not that of an index")]
    NotAnIndex,
    /// The entries end in the middle of one, or their number does not fit the size.
    #[error("the index has {actual} bytes where {expected} are needed")]
    WrongLength {
        /// Bytes that header and entries need.
        expected: u64,
        /// Bytes there are.
        actual: u64,
    },
    /// The chunk size of a fixed index is no power of two up to 16 MiB.
    #[error("{0} is no chunk size: it must be a power of two, at most {CHUNK_BYTES_MAX}")]
    ChunkSize(u64),
    /// The image is larger than numbers go.
    #[error("an image of {0} bytes is too large")]
    ImageSize(u64),
    /// The end of a dynamic entry does not lie after the end of the one before.
    #[error("entry {0} of the index does not end after the one before")]
    NotAscending(usize),
    /// The chunk of a dynamic entry is longer than a chunk can be.
    #[error("entry {0} of the index is longer than a chunk can be")]
    ChunkTooLong(usize),
}

/// One chunk of an archive, and which part of the archive it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexChunk {
    /// The name of the chunk.
    pub digest: Digest,
    /// First byte of the archive that is in the chunk.
    pub start: u64,
    /// First byte of the archive after the chunk. The chunk itself may be longer than `end - start` where it is the last
    /// of a fixed index: some clients store full chunks of zeros even for the short end of an image.
    pub end: u64,
}

impl IndexChunk {
    /// Bytes of the archive that are in the chunk, at least 1 and at most 16 MiB.
    #[expect(
        clippy::len_without_is_empty,
        reason = "a chunk of an index is never empty"
    )]
    pub fn len(&self) -> u64 {
        self.end - self.start
    }
}

/// The checksum of an index while its entries are written: SHA-256 over the entries in file order.
#[derive(Clone)]
pub struct IndexChecksum(Digester);

impl Default for IndexChecksum {
    fn default() -> Self {
        Self::new()
    }
}

impl IndexChecksum {
    /// Nothing yet.
    pub fn new() -> Self {
        Self(Digester::new())
    }

    /// Adds the next entry of a fixed index.
    pub fn push_fixed(&mut self, digest: &Digest) {
        self.0.update(digest.as_bytes());
    }

    /// Adds the next entry of a dynamic index.
    pub fn push_dynamic(&mut self, end: u64, digest: &Digest) {
        self.0.update(&dynamic::entry(end, digest));
    }

    /// Adds entries as they are in the file.
    pub fn push_raw(&mut self, entries: &[u8]) {
        self.0.update(entries);
    }

    /// The checksum of all entries so far.
    pub fn finish(self) -> Digest {
        self.0.finish()
    }
}

/// An index of either kind. Clones share the bytes.
#[derive(Debug, Clone)]
pub enum Index {
    /// Chunks of one size.
    Fixed(FixedIndex),
    /// Chunks of any size.
    Dynamic(DynamicIndex),
}

impl Index {
    /// Reads an index of `kind`, checking all that can be checked without its manifest.
    pub fn parse(kind: ArchiveKind, bytes: Bytes) -> Result<Self, IndexError> {
        match kind {
            ArchiveKind::Fixed => FixedIndex::parse(bytes).map(Self::Fixed),
            ArchiveKind::Dynamic => DynamicIndex::parse(bytes).map(Self::Dynamic),
            ArchiveKind::Blob => Err(IndexError::NotAnIndex),
        }
    }

    /// The checksum over the entries: what the manifest calls `csum`.
    pub fn csum(&self) -> Digest {
        match self {
            Self::Fixed(index) => index.csum(),
            Self::Dynamic(index) => index.csum(),
        }
    }

    /// Bytes of the archive.
    pub fn size(&self) -> u64 {
        match self {
            Self::Fixed(index) => index.size(),
            Self::Dynamic(index) => index.size(),
        }
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        match self {
            Self::Fixed(index) => index.len(),
            Self::Dynamic(index) => index.len(),
        }
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Entry `i`, or `None` from [`len`](Self::len) on.
    pub fn chunk(&self, i: usize) -> Option<IndexChunk> {
        match self {
            Self::Fixed(index) => index.chunk(i),
            Self::Dynamic(index) => index.chunk(i),
        }
    }

    /// The digest of entry `i`.
    pub fn digest(&self, i: usize) -> Option<Digest> {
        self.chunk(i).map(|chunk| chunk.digest)
    }

    /// Which bytes of the archive entry `i` holds.
    pub fn range(&self, i: usize) -> Option<Range<u64>> {
        self.chunk(i).map(|chunk| chunk.start..chunk.end)
    }

    /// The number of the entry that holds byte `offset` of the archive, or `None` from its end on.
    pub fn chunk_at(&self, offset: u64) -> Option<usize> {
        match self {
            Self::Fixed(index) => index.chunk_at(offset),
            Self::Dynamic(index) => index.chunk_at(offset),
        }
    }

    /// All entries in order.
    pub fn chunks(&self) -> impl ExactSizeIterator<Item = IndexChunk> + '_ {
        (0..self.len()).map(|i| self.chunk(i).expect("i is below the number of entries"))
    }

    /// The numbers of the entries that hold the bytes `range` of the archive; what lies after its end is left out.
    pub fn covering(&self, range: Range<u64>) -> Range<usize> {
        let Some(first) = self
            .chunk_at(range.start)
            .filter(|_| range.start < range.end)
        else {
            return 0..0;
        };
        let last = self.chunk_at(range.end.min(self.size()) - 1);
        first..last.map_or(first, |last| last + 1)
    }

    /// How many bytes the contents of one of its chunks may have: the last chunk of an image may be longer than what is
    /// left of the image.
    pub fn content_bytes_max(&self, chunk: &IndexChunk) -> u64 {
        match self {
            Self::Fixed(index) => index.chunk_size(),
            Self::Dynamic(_) => chunk.len(),
        }
    }

    /// The bytes of the file, as they were read.
    pub fn as_bytes(&self) -> &Bytes {
        match self {
            Self::Fixed(index) => index.as_bytes(),
            Self::Dynamic(index) => index.as_bytes(),
        }
    }
}

impl From<FixedIndex> for Index {
    fn from(index: FixedIndex) -> Self {
        Self::Fixed(index)
    }
}

impl From<DynamicIndex> for Index {
    fn from(index: DynamicIndex) -> Self {
        Self::Dynamic(index)
    }
}

/// The header of a file, after checking magic and bounds.
fn check_header(bytes: &Bytes, magic: [u8; 8]) -> Result<&[u8; INDEX_HEADER_BYTES], IndexError> {
    if bytes.len() > INDEX_BYTES_MAX {
        return Err(IndexError::TooLong(bytes.len()));
    }
    let header = bytes.first_chunk::<INDEX_HEADER_BYTES>();
    let header = header.ok_or(IndexError::TooShort(bytes.len()))?;
    if header[..8] == magic {
        Ok(header)
    } else {
        Err(IndexError::WrongMagic)
    }
}

/// `N` bytes at a place that is known to be there.
fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let field = bytes[at..].first_chunk::<N>();
    *field.expect("fields lie within header and entries, whose lengths were checked")
}

/// What both headers start with: magic, UUID, creation time in Unix seconds, checksum.
fn common_header(
    magic: [u8; 8],
    uuid: &uuid::Uuid,
    ctime: i64,
    csum: &Digest,
) -> [u8; INDEX_HEADER_BYTES] {
    let mut header = [0; INDEX_HEADER_BYTES];
    header[..8].copy_from_slice(&magic);
    header[8..24].copy_from_slice(uuid.as_bytes());
    header[24..32].copy_from_slice(&ctime.to_le_bytes());
    header[32..64].copy_from_slice(csum.as_bytes());
    header
}

#[cfg(test)]
mod tests;
