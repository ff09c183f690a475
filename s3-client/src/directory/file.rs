//! The file of one object: a header, then the content as it is.
//!
//! | bytes | content |
//! |---|---|
//! | 8 | magic `HFOBJ`, two zero bytes, format 1 |
//! | 4 | length of the header, little-endian, at most 64 KiB |
//! | 16 | MD5 of the header |
//! | … | header: JSON with key, size, tag, LastModified in seconds since 1970, metadata |
//! | … | content, exactly as long as the header says |

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

use jiff::Timestamp;
use md5::{Digest as _, Md5};
use serde::{Deserialize, Serialize};

use crate::store::{Metadata, ObjectMeta};
use crate::{ETag, ObjectKey};

const MAGIC: [u8; 8] = *b"HFOBJ\0\0\x01";
const FIXED_BYTES: usize = 28;
const HEADER_BYTES_MAX: usize = 64 << 10;
/// Holds the whole header of most objects, so that one read is enough.
const FIRST_READ_BYTES: usize = 2048;

/// What is known of an object besides its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) key: ObjectKey,
    pub(super) size: u64,
    pub(super) etag: ETag,
    pub(super) last_modified: Timestamp,
    pub(super) metadata: Metadata,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    key: String,
    size: u64,
    etag: String,
    last_modified: i64,
    #[serde(default, skip_serializing_if = "Metadata::is_empty")]
    metadata: Metadata,
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl Header {
    /// The bytes in front of the content.
    pub(super) fn encode(&self) -> Vec<u8> {
        let fields = Fields {
            key: self.key.as_str().to_owned(),
            size: self.size,
            etag: self.etag.as_str().to_owned(),
            last_modified: self.last_modified.as_second(),
            metadata: self.metadata.clone(),
        };
        let json = serde_json::to_vec(&fields).expect("texts and numbers can be written as JSON");
        let mut bytes = Vec::with_capacity(FIXED_BYTES + json.len());
        bytes.extend(MAGIC);
        bytes.extend((json.len() as u32).to_le_bytes());
        bytes.extend(Md5::digest(&json));
        bytes.extend(json);
        bytes
    }

    /// The header, and where the content begins.
    fn decode(file: &File) -> io::Result<(Self, u64)> {
        let mut bytes = vec![0; FIRST_READ_BYTES];
        let mut filled = 0;
        while filled < bytes.len() {
            match file.read_at(&mut bytes[filled..], filled as u64)? {
                0 => break,
                count => filled += count,
            }
        }
        bytes.truncate(filled);
        if filled < FIXED_BYTES || bytes[..8] != MAGIC {
            return Err(damaged("it does not begin like an object's file"));
        }
        let length = u32::from_le_bytes(bytes[8..12].try_into().expect("four bytes")) as usize;
        if length > HEADER_BYTES_MAX {
            return Err(damaged("its header is too long"));
        }
        let end = FIXED_BYTES + length;
        if end > filled {
            bytes.resize(end, 0);
            file.read_exact_at(&mut bytes[filled..], filled as u64)?;
        }
        let json = &bytes[FIXED_BYTES..end];
        if Md5::digest(json)[..] != bytes[12..FIXED_BYTES] {
            return Err(damaged("its header does not have the MD5 it should"));
        }
        Ok((Self::parse(json)?, end as u64))
    }

    fn parse(json: &[u8]) -> io::Result<Self> {
        let fields: Fields =
            serde_json::from_slice(json).map_err(|_| damaged("its header is not as expected"))?;
        Ok(Self {
            key: ObjectKey::new(fields.key).map_err(|_| damaged("its key is not one"))?,
            size: fields.size,
            etag: ETag::new(&fields.etag),
            last_modified: Timestamp::from_second(fields.last_modified)
                .map_err(|_| damaged("its time is not one"))?,
            metadata: fields.metadata,
        })
    }

    pub(super) fn into_meta(self) -> ObjectMeta {
        ObjectMeta {
            size: self.size,
            etag: self.etag,
            version: None,
            last_modified: self.last_modified,
            storage_class: None,
            metadata: self.metadata,
        }
    }
}

/// An object's file, open for reading. It stays what it is when the object is replaced or deleted meanwhile.
#[derive(Debug)]
pub(super) struct ObjectFile {
    pub(super) header: Header,
    file: File,
    content_at: u64,
}

impl ObjectFile {
    /// Opens a file and reads its header; its length has to be what the header says.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let (header, content_at) = Header::decode(&file)?;
        if file.metadata()?.len() != content_at.saturating_add(header.size) {
            return Err(damaged("its length is not the one in its header"));
        }
        Ok(Self {
            header,
            file,
            content_at,
        })
    }

    /// The bytes `start..end` of the content, which have to be in it.
    pub(super) fn read(&mut self, start: u64, end: u64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; (end - start) as usize];
        self.file
            .read_exact_at(&mut bytes, self.content_at + start)?;
        Ok(bytes)
    }

    /// The content from its beginning.
    pub(super) fn content(&mut self) -> io::Result<impl Read + '_> {
        self.file.seek(SeekFrom::Start(self.content_at))?;
        Ok(&mut self.file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            key: ObjectKey::new("a/ü \"b\"").expect("a key"),
            size: 3,
            etag: ETag::new("0123"),
            last_modified: Timestamp::from_second(1_700_000_000).expect("a time"),
            metadata: [("k".to_owned(), "v".repeat(5000))].into(),
        }
    }

    #[test]
    fn a_header_longer_than_the_first_read_comes_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("object");
        let bytes = [&header().encode()[..], b"abc"].concat();
        std::fs::write(&path, bytes).expect("a file");
        let mut file = ObjectFile::open(&path).expect("an object's file");
        assert_eq!(file.header, header());
        assert_eq!(file.read(1, 3).expect("content"), b"bc");
    }

    #[test]
    fn a_damaged_file_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("object");
        let whole = [&header().encode()[..], b"abc"].concat();
        let mut cases = vec![
            Vec::new(),
            whole[..20].to_vec(),
            whole[..whole.len() - 1].to_vec(),
            [&whole[..], b"x"].concat(),
        ];
        for position in [0, 8, 11, 12, 30, 2100] {
            let mut flipped = whole.clone();
            flipped[position] ^= 1;
            cases.push(flipped);
        }
        for (number, bytes) in cases.into_iter().enumerate() {
            std::fs::write(&path, bytes).expect("a file");
            assert!(ObjectFile::open(&path).is_err(), "case {number}");
        }
    }
}
