//! `.didx`: a stream cut into chunks of any size.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | magic |
//! | 8 | 16 | UUID |
//! | 24 | 8 | creation time, signed Unix seconds |
//! | 32 | 32 | checksum: SHA-256 over all entries |
//! | 64 | 4032 | zero |
//! | 4096 | 40 each | entries: end of the chunk in the stream (8), digest (32) |
//!
//! Entry *i* covers `[end(i-1), end(i))`, the first one starting at 0; ends strictly ascend, and the last one is the size of
//! the archive. Numbers are little-endian.

use bytes::{BufMut, Bytes, BytesMut};
use uuid::Uuid;

use super::{
    INDEX_HEADER_BYTES, IndexChecksum, IndexChunk, IndexError, check_header, common_header, field,
};
use crate::Digest;
use crate::blob::CHUNK_BYTES_MAX;

/// The first bytes of a dynamic index.
pub const MAGIC: [u8; 8] = [0x1c, 0x91, 0x4e, 0xa5, 0x19, 0xba, 0xb3, 0xcd];
/// Bytes of an entry.
pub const ENTRY_BYTES: usize = 40;

/// The first 4096 bytes of a dynamic index. `ctime` is in Unix seconds.
pub fn header(uuid: &Uuid, ctime: i64, csum: &Digest) -> [u8; INDEX_HEADER_BYTES] {
    common_header(MAGIC, uuid, ctime, csum)
}

/// One entry: the chunk `digest` ends at byte `end` of the stream.
pub fn entry(end: u64, digest: &Digest) -> [u8; ENTRY_BYTES] {
    let mut entry = [0; ENTRY_BYTES];
    entry[..8].copy_from_slice(&end.to_le_bytes());
    entry[8..].copy_from_slice(digest.as_bytes());
    entry
}

/// Fails unless a chunk can reach from `start` to `end`; `i` is its number.
fn check_range(i: usize, start: u64, end: u64) -> Result<(), IndexError> {
    if end <= start {
        return Err(IndexError::NotAscending(i));
    }
    if end - start > CHUNK_BYTES_MAX as u64 {
        return Err(IndexError::ChunkTooLong(i));
    }
    Ok(())
}

/// A dynamic index, over the bytes of its file.
#[derive(Debug, Clone)]
pub struct DynamicIndex {
    bytes: Bytes,
    csum: Digest,
    size: u64,
}

impl DynamicIndex {
    /// Checks the bytes, every end among them, and computes their checksum.
    pub fn parse(bytes: Bytes) -> Result<Self, IndexError> {
        check_header(&bytes, MAGIC)?;
        let entries = &bytes[INDEX_HEADER_BYTES..];
        if !entries.len().is_multiple_of(ENTRY_BYTES) {
            return Err(IndexError::WrongLength {
                expected: (INDEX_HEADER_BYTES + entries.len().next_multiple_of(ENTRY_BYTES)) as u64,
                actual: bytes.len() as u64,
            });
        }
        let mut size = 0;
        for (i, entry) in entries.chunks_exact(ENTRY_BYTES).enumerate() {
            let end = u64::from_le_bytes(field(entry, 0));
            check_range(i, size, end)?;
            size = end;
        }
        let csum = Digest::of(entries);
        Ok(Self { bytes, csum, size })
    }

    /// The file for a stream, from the end and the digest of each chunk in order.
    pub fn encode(uuid: &Uuid, ctime: i64, entries: &[(u64, Digest)]) -> Result<Bytes, IndexError> {
        let mut csum = IndexChecksum::new();
        let mut bytes = BytesMut::with_capacity(INDEX_HEADER_BYTES + ENTRY_BYTES * entries.len());
        bytes.put_bytes(0, INDEX_HEADER_BYTES);
        let mut start = 0;
        for (i, (end, digest)) in entries.iter().enumerate() {
            check_range(i, start, *end)?;
            csum.push_dynamic(*end, digest);
            bytes.put_slice(&entry(*end, digest));
            start = *end;
        }
        let header = header(uuid, ctime, &csum.finish());
        bytes[..INDEX_HEADER_BYTES].copy_from_slice(&header);
        Ok(bytes.freeze())
    }

    /// The UUID of the header; random, not checked.
    pub fn uuid(&self) -> Uuid {
        Uuid::from_bytes(field(&self.bytes, 8))
    }

    /// The creation time of the header in Unix seconds; not checked.
    pub fn ctime(&self) -> i64 {
        i64::from_le_bytes(field(&self.bytes, 24))
    }

    /// The checksum over the entries.
    pub fn csum(&self) -> Digest {
        self.csum
    }

    /// The checksum that the header claims; nothing depends on it.
    pub fn header_csum(&self) -> Digest {
        Digest(field(&self.bytes, 32))
    }

    /// Bytes of the stream.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        (self.bytes.len() - INDEX_HEADER_BYTES) / ENTRY_BYTES
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The end of entry `i`, which is there.
    fn end(&self, i: usize) -> u64 {
        u64::from_le_bytes(field(&self.bytes, INDEX_HEADER_BYTES + i * ENTRY_BYTES))
    }

    /// Entry `i`, or `None` from [`len`](Self::len) on.
    pub fn chunk(&self, i: usize) -> Option<IndexChunk> {
        if i >= self.len() {
            return None;
        }
        Some(IndexChunk {
            digest: Digest(field(&self.bytes, INDEX_HEADER_BYTES + i * ENTRY_BYTES + 8)),
            start: i.checked_sub(1).map_or(0, |before| self.end(before)),
            end: self.end(i),
        })
    }

    /// The number of the entry that holds byte `offset` of the stream, or `None` from its end on.
    pub fn chunk_at(&self, offset: u64) -> Option<usize> {
        // The first entry that ends after the offset, by halving [low, high).
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low + (high - low) / 2;
            if self.end(middle) > offset {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        (low < self.len()).then_some(low)
    }

    /// The bytes of the file.
    pub fn as_bytes(&self) -> &Bytes {
        &self.bytes
    }
}
