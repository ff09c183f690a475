//! `.fidx`: an image cut into chunks of one size.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | magic |
//! | 8 | 16 | UUID |
//! | 24 | 8 | creation time, signed Unix seconds |
//! | 32 | 32 | checksum: SHA-256 over all digests |
//! | 64 | 8 | size of the image |
//! | 72 | 8 | size of a chunk, a power of two |
//! | 80 | 4016 | zero |
//! | 4096 | 32 each | digests |
//!
//! Entry *i* covers `[i · chunk size, min((i + 1) · chunk size, size))`, so the size decides the number of entries. A slot
//! that nobody wrote is zero. Numbers are little-endian.

use bytes::{BufMut, Bytes, BytesMut};
use uuid::Uuid;

use super::{
    INDEX_HEADER_BYTES, IndexChecksum, IndexChunk, IndexError, check_header, common_header, field,
};
use crate::Digest;
use crate::blob::CHUNK_BYTES_MAX;

/// The first bytes of a fixed index.
pub const MAGIC: [u8; 8] = [0x2f, 0x7f, 0x41, 0xed, 0x91, 0xfd, 0x0f, 0xcd];
/// The chunk size of every index that a backup session writes: 4 MiB.
pub const CHUNK_SIZE: u64 = 4 << 20;
/// Bytes of an entry.
pub const ENTRY_BYTES: usize = 32;

/// The first 4096 bytes of a fixed index. `ctime` is in Unix seconds, `size` and `chunk_size` are in bytes.
pub fn header(
    uuid: &Uuid,
    ctime: i64,
    csum: &Digest,
    size: u64,
    chunk_size: u64,
) -> [u8; INDEX_HEADER_BYTES] {
    let mut header = common_header(MAGIC, uuid, ctime, csum);
    header[64..72].copy_from_slice(&size.to_le_bytes());
    header[72..80].copy_from_slice(&chunk_size.to_le_bytes());
    header
}

/// Number of entries of an index for an image of `size` bytes. Fails for chunk sizes that are no power of two up to
/// 16 MiB and for images whose last chunk would end beyond the largest number.
pub fn entries(size: u64, chunk_size: u64) -> Result<u64, IndexError> {
    if !chunk_size.is_power_of_two() || chunk_size > CHUNK_BYTES_MAX as u64 {
        return Err(IndexError::ChunkSize(chunk_size));
    }
    if size.checked_next_multiple_of(chunk_size).is_none() {
        return Err(IndexError::ImageSize(size));
    }
    Ok(size.div_ceil(chunk_size))
}

/// A fixed index, over the bytes of its file.
#[derive(Debug, Clone)]
pub struct FixedIndex {
    bytes: Bytes,
    csum: Digest,
    size: u64,
    chunk_size: u64,
}

impl FixedIndex {
    /// Checks the bytes and computes their checksum.
    pub fn parse(bytes: Bytes) -> Result<Self, IndexError> {
        let header = check_header(&bytes, MAGIC)?;
        let size = u64::from_le_bytes(field(header, 64));
        let chunk_size = u64::from_le_bytes(field(header, 72));
        let needed = u128::from(entries(size, chunk_size)?) * ENTRY_BYTES as u128;
        let expected = needed + INDEX_HEADER_BYTES as u128;
        if expected != bytes.len() as u128 {
            return Err(IndexError::WrongLength {
                expected: expected.try_into().unwrap_or(u64::MAX),
                actual: bytes.len() as u64,
            });
        }
        let csum = Digest::of(&bytes[INDEX_HEADER_BYTES..]);
        Ok(Self {
            bytes,
            csum,
            size,
            chunk_size,
        })
    }

    /// The file for an image of `size` bytes, from one digest for each chunk.
    pub fn encode(
        uuid: &Uuid,
        ctime: i64,
        size: u64,
        chunk_size: u64,
        digests: &[Digest],
    ) -> Result<Bytes, IndexError> {
        let needed = entries(size, chunk_size)?;
        if needed != digests.len() as u64 {
            let bytes = |n: u64| {
                n.saturating_mul(ENTRY_BYTES as u64)
                    .saturating_add(INDEX_HEADER_BYTES as u64)
            };
            return Err(IndexError::WrongLength {
                expected: bytes(needed),
                actual: bytes(digests.len() as u64),
            });
        }
        let mut csum = IndexChecksum::new();
        let mut bytes = BytesMut::with_capacity(INDEX_HEADER_BYTES + ENTRY_BYTES * digests.len());
        bytes.put_bytes(0, INDEX_HEADER_BYTES);
        for digest in digests {
            csum.push_fixed(digest);
            bytes.put_slice(digest.as_bytes());
        }
        let header = header(uuid, ctime, &csum.finish(), size, chunk_size);
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

    /// Bytes of the image.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes of every chunk but perhaps the last.
    pub fn chunk_size(&self) -> u64 {
        self.chunk_size
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        (self.bytes.len() - INDEX_HEADER_BYTES) / ENTRY_BYTES
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Entry `i`, or `None` from [`len`](Self::len) on.
    pub fn chunk(&self, i: usize) -> Option<IndexChunk> {
        if i >= self.len() {
            return None;
        }
        let start = i as u64 * self.chunk_size;
        Some(IndexChunk {
            digest: Digest(field(&self.bytes, INDEX_HEADER_BYTES + i * ENTRY_BYTES)),
            start,
            end: (start + self.chunk_size).min(self.size),
        })
    }

    /// The number of the entry that holds byte `offset` of the image, or `None` from its end on.
    pub fn chunk_at(&self, offset: u64) -> Option<usize> {
        (offset < self.size).then(|| (offset / self.chunk_size) as usize)
    }

    /// The bytes of the file.
    pub fn as_bytes(&self) -> &Bytes {
        &self.bytes
    }
}
