//! The encoding of every chunk and every `.blob` file.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | magic: which of the four kinds |
//! | 8 | 4 | CRC-32 (IEEE) of everything after the header, little-endian |
//! | 12 | 16 | IV, encrypted kinds only |
//! | 28 | 16 | authentication tag, encrypted kinds only |
//! | 12 or 44 | … | payload: contents, perhaps as one zstd frame, perhaps encrypted after that |
//!
//! A [`DataBlob`] is bytes of somebody else that have the right shape: [`DataBlob::parse`] checks magic and length,
//! nothing more. Before it is stored or served, [`DataBlob::verify_crc`] and, where the contents can be read,
//! [`DataBlob::verify_chunk`] decide whether it is what it claims to be (I7). The CRC covers neither IV nor tag.
//!
//! Payloads are shared, never copied: cloning, a new CRC and the way to S3 all keep the buffer that was received.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use s3_client::Body;

use crate::crypt::{CryptKey, IV_BYTES};
use crate::{Digest, zstd_frame};

/// Most bytes of a chunk before encoding: 16 MiB.
pub const CHUNK_BYTES_MAX: usize = 16 << 20;
/// Most bytes of an encoded chunk or blob: 16 MiB and the longest header.
pub const CHUNK_ENCODED_BYTES_MAX: usize = CHUNK_BYTES_MAX + ENCRYPTED_HEADER_BYTES;

const PLAIN_HEADER_BYTES: usize = 12;
const ENCRYPTED_HEADER_BYTES: usize = 44;

/// Compression level of what we encode; more costs time that a backup does not have.
const ZSTD_LEVEL: i32 = 1;

/// Which of the four encodings a blob has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BlobKind {
    /// The contents as they are.
    Plain,
    /// One zstd frame.
    Zstd,
    /// Encrypted contents.
    Encrypted,
    /// An encrypted zstd frame.
    EncryptedZstd,
}

impl BlobKind {
    /// All kinds.
    pub const ALL: [Self; 4] = [
        Self::Plain,
        Self::Zstd,
        Self::Encrypted,
        Self::EncryptedZstd,
    ];

    /// The first eight bytes of a blob of this kind.
    pub fn magic(self) -> [u8; 8] {
        match self {
            Self::Plain => [0x42, 0xab, 0x38, 0x07, 0xbe, 0x83, 0x70, 0xa1],
            Self::Zstd => [0x31, 0xb9, 0x58, 0x42, 0x6f, 0xb6, 0xa3, 0x7f],
            Self::Encrypted => [0x7b, 0x67, 0x85, 0xbe, 0x22, 0x2d, 0x4c, 0xf0],
            Self::EncryptedZstd => [0xe6, 0x59, 0x1b, 0xbf, 0x0b, 0xbf, 0xd8, 0x0b],
        }
    }

    /// The kind of a blob that starts like this; `None` if no blob does.
    pub fn of(start: &[u8]) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|kind| start.starts_with(&kind.magic()))
    }

    /// Whether the contents can be read with the key only.
    pub fn is_encrypted(self) -> bool {
        matches!(self, Self::Encrypted | Self::EncryptedZstd)
    }

    /// Whether the contents are compressed.
    pub fn is_compressed(self) -> bool {
        matches!(self, Self::Zstd | Self::EncryptedZstd)
    }

    /// Bytes before the payload: 12, or 44 if encrypted.
    pub fn header_len(self) -> usize {
        if self.is_encrypted() {
            ENCRYPTED_HEADER_BYTES
        } else {
            PLAIN_HEADER_BYTES
        }
    }

    fn with(encrypted: bool, compressed: bool) -> Self {
        match (encrypted, compressed) {
            (false, false) => Self::Plain,
            (false, true) => Self::Zstd,
            (true, false) => Self::Encrypted,
            (true, true) => Self::EncryptedZstd,
        }
    }
}

/// What is wrong with a blob.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlobError {
    /// Fewer bytes than its header has.
    #[error("a blob of {0} bytes is too short for its header")]
    TooShort(usize),
    /// More bytes than [`CHUNK_ENCODED_BYTES_MAX`].
    #[error("a blob of {0} bytes is longer than the {CHUNK_ENCODED_BYTES_MAX} that are allowed")]
    TooLong(usize),
    /// It starts like none of the four kinds.
    #[error("the data is no blob: its first bytes are those of no known kind")]
    UnknownMagic,
    /// Payload and CRC do not belong together.
    #[error(
        "the blob is damaged: its checksum is {stored:08x}, that of its contents {computed:08x}"
    )]
    CrcMismatch {
        /// What the header says.
        stored: u32,
        /// What the payload says.
        computed: u32,
    },
    /// The payload is not exactly one zstd frame.
    #[error("the blob's compressed contents cannot be read: {0}")]
    Zstd(&'static str),
    /// The contents exceed the caller's bound.
    #[error("the blob's contents exceed {0} bytes")]
    ContentsTooLong(usize),
    /// Encrypted, and no key was given.
    #[error("the blob is encrypted, and no key was given")]
    KeyMissing,
    /// Encrypted with another key, or damaged where the CRC does not reach.
    #[error("the blob was encrypted with another key, or is damaged")]
    WrongKey,
    /// The contents are those of another chunk.
    #[error("the chunk is not {expected}: its contents have the digest {actual}")]
    DigestMismatch {
        /// The name it came under.
        expected: Digest,
        /// The name its contents have.
        actual: Digest,
    },
    /// The contents are longer or shorter than announced.
    #[error("the chunk has {actual} bytes, announced were {expected}")]
    SizeMismatch {
        /// What was announced.
        expected: u64,
        /// What there is.
        actual: u64,
    },
}

/// An encoded blob: known kind, complete header, bounded length; nothing else is known of it. Clones share the bytes.
#[derive(Clone)]
pub struct DataBlob {
    kind: BlobKind,
    header: Bytes,
    payload: Bytes,
    /// Header and payload in one buffer, if they came so.
    whole: Option<Bytes>,
}

impl DataBlob {
    /// Recognises a blob; copies nothing. Checks magic and length, not the CRC.
    pub fn parse(encoded: Bytes) -> Result<Self, BlobError> {
        if encoded.len() > CHUNK_ENCODED_BYTES_MAX {
            return Err(BlobError::TooLong(encoded.len()));
        }
        if encoded.len() < 8 {
            return Err(BlobError::TooShort(encoded.len()));
        }
        let kind = BlobKind::of(&encoded).ok_or(BlobError::UnknownMagic)?;
        if encoded.len() < kind.header_len() {
            return Err(BlobError::TooShort(encoded.len()));
        }
        Ok(Self {
            kind,
            header: encoded.slice(..kind.header_len()),
            payload: encoded.slice(kind.header_len()..),
            whole: Some(encoded),
        })
    }

    /// Recognises the stored chunk `digest`; copies nothing. Checks all that can be checked without its key (I7).
    pub fn parse_chunk(encoded: Bytes, digest: &Digest) -> Result<Self, BlobError> {
        let blob = Self::parse(encoded)?;
        blob.verify_crc()?;
        blob.verify_chunk(digest, None)?;
        Ok(blob)
    }

    /// Encodes without compression or encryption; `data` is not copied and at most [`CHUNK_BYTES_MAX`] long.
    pub fn encode_plain(data: Bytes) -> Result<Self, BlobError> {
        Self::encode(data, false, None, [0; IV_BYTES])
    }

    /// Encodes at most [`CHUNK_BYTES_MAX`] bytes. Compression is kept only where it makes the data smaller. `iv` is used
    /// with a key only and must then be random: one IV must never serve twice.
    pub fn encode(
        data: Bytes,
        compress: bool,
        key: Option<&CryptKey>,
        iv: [u8; IV_BYTES],
    ) -> Result<Self, BlobError> {
        if data.len() > CHUNK_BYTES_MAX {
            return Err(BlobError::ContentsTooLong(CHUNK_BYTES_MAX));
        }
        let smaller = if compress {
            zstd_frame::compress(&data, ZSTD_LEVEL)
        } else {
            None
        };
        let kind = BlobKind::with(key.is_some(), smaller.is_some());
        let mut payload = smaller.map_or(data, Bytes::from);
        let mut sealing = None;
        if let Some(key) = key {
            let mut buffer = BytesMut::from(payload);
            sealing = Some((iv, key.encrypt(&iv, &mut buffer)));
            payload = buffer.freeze();
        }
        let mut header = BytesMut::with_capacity(kind.header_len());
        header.put_slice(&kind.magic());
        header.put_u32_le(crc32fast::hash(&payload));
        if let Some((iv, tag)) = sealing {
            header.put_slice(&iv);
            header.put_slice(&tag);
        }
        Ok(Self {
            kind,
            header: header.freeze(),
            payload,
            whole: None,
        })
    }

    /// Which encoding it has.
    pub fn kind(&self) -> BlobKind {
        self.kind
    }

    /// Whether the contents can be read with the key only.
    pub fn is_encrypted(&self) -> bool {
        self.kind.is_encrypted()
    }

    /// Bytes before the payload: 12 or 44.
    pub fn header_len(&self) -> usize {
        self.header.len()
    }

    /// Bytes of header and payload.
    pub fn encoded_len(&self) -> usize {
        self.header.len() + self.payload.len()
    }

    /// The CRC that the header holds.
    pub fn crc(&self) -> u32 {
        let field = self.header[8..].first_chunk::<4>();
        u32::from_le_bytes(*field.expect("a header has at least 12 bytes"))
    }

    /// The CRC of the payload.
    pub fn computed_crc(&self) -> u32 {
        crc32fast::hash(&self.payload)
    }

    /// Fails unless the payload has the CRC of the header.
    pub fn verify_crc(&self) -> Result<(), BlobError> {
        let (stored, computed) = (self.crc(), self.computed_crc());
        if stored == computed {
            return Ok(());
        }
        Err(BlobError::CrcMismatch { stored, computed })
    }

    /// The same blob with the right CRC, whatever its sender put there. The payload is not copied.
    #[must_use]
    pub fn with_computed_crc(mut self) -> Self {
        let crc = self.computed_crc();
        if crc != self.crc() {
            let mut header = BytesMut::from(self.header);
            header[8..12].copy_from_slice(&crc.to_le_bytes());
            self.header = header.freeze();
            self.whole = None;
        }
        self
    }

    /// Header and payload, sharing this blob's buffers.
    pub fn parts(&self) -> (Bytes, Bytes) {
        (self.header.clone(), self.payload.clone())
    }

    /// The encoded bytes as parts of a request; nothing is copied.
    pub fn to_body(&self) -> Body {
        match &self.whole {
            Some(whole) => whole.clone().into(),
            None => [self.header.clone(), self.payload.clone()]
                .into_iter()
                .collect(),
        }
    }

    /// The encoded bytes in one buffer; copied only if header and payload are apart.
    pub fn encoded(&self) -> Bytes {
        self.to_body().into_bytes()
    }

    /// The contents, at most `limit` bytes of them. Plain contents are a slice of the blob. The CRC is not checked; the
    /// authentication of encrypted blobs is.
    pub fn decode(&self, limit: usize, key: Option<&CryptKey>) -> Result<Bytes, BlobError> {
        let data = if self.is_encrypted() {
            self.decrypt(limit, key.ok_or(BlobError::KeyMissing)?)?
        } else {
            self.payload.clone()
        };
        if self.kind.is_compressed() {
            return zstd_frame::decompress(&data, limit).map(Bytes::from);
        }
        if data.len() > limit {
            return Err(BlobError::ContentsTooLong(limit));
        }
        Ok(data)
    }

    /// The payload without its encryption, still compressed if it was.
    fn decrypt(&self, limit: usize, key: &CryptKey) -> Result<Bytes, BlobError> {
        if !self.kind.is_compressed() && self.payload.len() > limit {
            return Err(BlobError::ContentsTooLong(limit));
        }
        let field = |at: usize| self.header[at..].first_chunk::<16>();
        let (Some(iv), Some(tag)) = (field(12), field(12 + IV_BYTES)) else {
            return Err(BlobError::TooShort(self.encoded_len()));
        };
        let mut buffer = BytesMut::from(&self.payload[..]);
        key.decrypt(iv, tag, &mut buffer)
            .map_err(|_| BlobError::WrongKey)?;
        Ok(buffer.freeze())
    }

    /// Fails unless this is the chunk `digest`, and has `size` bytes before encoding if that is known. Of encrypted
    /// chunks nothing can be told but that header and payload are there; who needs more checks the CRC.
    pub fn verify_chunk(&self, digest: &Digest, size: Option<u64>) -> Result<(), BlobError> {
        let (actual_digest, actual) = match self.kind {
            BlobKind::Plain => (Digest::of(&self.payload), self.payload.len() as u64),
            BlobKind::Zstd => zstd_frame::digest(&self.payload, CHUNK_BYTES_MAX)?,
            BlobKind::Encrypted | BlobKind::EncryptedZstd => return Ok(()),
        };
        if let Some(expected) = size.filter(|expected| *expected != actual) {
            return Err(BlobError::SizeMismatch { expected, actual });
        }
        if actual > CHUNK_BYTES_MAX as u64 {
            return Err(BlobError::ContentsTooLong(CHUNK_BYTES_MAX));
        }
        if actual_digest != *digest {
            return Err(BlobError::DigestMismatch {
                expected: *digest,
                actual: actual_digest,
            });
        }
        Ok(())
    }
}

impl fmt::Debug for DataBlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DataBlob({:?}, {} bytes)", self.kind, self.encoded_len())
    }
}

#[cfg(test)]
mod tests;
