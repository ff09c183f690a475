//! Reading the object of a chunk, for those who judge what is stored.
//!
//! A body of another length than the server says is a failed request, never a damaged chunk. And one damaged read is no
//! damaged chunk either: whoever is about to replace an object or to set it aside asks for two reads in a row that bring
//! the same ([`read_object_surely`]), or a good chunk would go for a fault of the line.

use bytes::Bytes;
use s3_client::{ByteRange, ETag, Error, ErrorKind, ObjectKey, ObjectStore, Op, Optional as _};

use crate::sabotage::{self, Rule};
use crate::{BlobKind, CHUNK_ENCODED_BYTES_MAX};

/// Reads until two in a row bring the same, before the line is called bad.
pub(crate) const READS_MAX: usize = 4;

/// What one GET of a chunk's object brought.
#[derive(Clone, Debug)]
pub(crate) struct StoredObject {
    /// At most one byte more than a chunk can have; so much of a longer object is enough to see that it is none.
    pub(crate) body: Bytes,
    pub(crate) etag: ETag,
    /// Of the whole object.
    pub(crate) size: u64,
}

/// What the first bytes of an object tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ObjectStart {
    /// `None` if it does not begin like a chunk.
    pub(crate) kind: Option<BlobKind>,
    /// Of the whole object.
    pub(crate) size: u64,
}

impl ObjectStart {
    /// Whether both are chunks that are encrypted, or both chunks that are not.
    pub(crate) fn is_of_nature_of(&self, other: &Self) -> bool {
        let encrypted = |start: &Self| start.kind.map(BlobKind::is_encrypted);
        self.kind.is_some() && encrypted(self) == encrypted(other)
    }
}

/// One GET of eight bytes; `None` if there is no object.
pub(crate) async fn read_start(
    store: &dyn ObjectStore,
    key: &ObjectKey,
) -> Result<Option<ObjectStart>, Error> {
    let magic = Some(ByteRange { start: 0, end: 8 });
    match store.get(key, magic).await.optional() {
        Ok(found) => Ok(found.map(|found| ObjectStart {
            kind: BlobKind::of(&found.value.body.into_bytes()),
            size: found.value.meta.size,
        })),
        // An empty object has no range.
        Err(error) if error.kind == ErrorKind::Other => Ok(Some(ObjectStart {
            kind: None,
            size: 0,
        })),
        Err(error) => Err(error),
    }
}

/// One GET; `None` if there is no object. [`ErrorKind::Corrupt`] if fewer or more bytes came than the server announced.
pub(crate) async fn read_object(
    store: &dyn ObjectStore,
    key: &ObjectKey,
) -> Result<Option<StoredObject>, Error> {
    let end = CHUNK_ENCODED_BYTES_MAX as u64 + 1;
    let range = Some(ByteRange { start: 0, end });
    let object = match store.get(key, range).await.optional() {
        Ok(Some(answer)) => answer.value.whole(key, range)?,
        Ok(None) => return Ok(None),
        // An empty object has no range.
        Err(error) if error.kind == ErrorKind::Other => {
            return match store.head(key).await.optional() {
                Ok(Some(head)) if head.value.size == 0 => Ok(Some(StoredObject {
                    body: Bytes::new(),
                    etag: head.value.etag,
                    size: 0,
                })),
                Ok(None) => Ok(None),
                _ => Err(error),
            };
        }
        Err(error) => return Err(error),
    };
    Ok(Some(StoredObject {
        body: object.body.into_bytes(),
        etag: object.meta.etag,
        size: object.meta.size,
    }))
}

/// Reads until two reads in a row bring the same. [`ErrorKind::Corrupt`] if none do.
pub(crate) async fn read_object_surely(
    store: &dyn ObjectStore,
    key: &ObjectKey,
) -> Result<Option<StoredObject>, Error> {
    let mut last: Option<StoredObject> = None;
    for _ in 0..READS_MAX {
        let Some(read) = read_object(store, key).await? else {
            return Ok(None);
        };
        if sabotage::is_off(Rule::DamageReadTwice) {
            return Ok(Some(read));
        }
        if last.is_some_and(|last| last.body == read.body) {
            return Ok(Some(read));
        }
        last = Some(read);
    }
    Err(differing_reads(key))
}

/// The line, or the server, garbles what it brings.
pub(crate) fn differing_reads(key: &ObjectKey) -> Error {
    let words = "no two reads bring the same";
    Error::new(ErrorKind::Corrupt, Op::Get, key.as_str(), words)
}
