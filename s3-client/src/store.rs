//! The one seam to S3: [`ObjectStore`], small and mirroring what S3 offers.
//!
//! Rules for implementors
//! - *Read-after-write and list-after-write* consistency (A2).
//! - A condition and its write are one step: of any number of concurrent [`Precondition::Absent`] puts of one key at
//!   most one is [`PutOutcome::Created`].
//! - A mutation that was sent and whose answer did not arrive is [`PutOutcome::Unknown`] (or the like), never `Err`,
//!   and sets [`Answer::lost_at`]. `Err` means that the request had no effect and will have none, except where
//!   [`Error::maybe_applied`] says that it may have had its effect; in no case does it have one later.
//! - Listings are in byte order of the keys. A page that may be incomplete is an error, never a short page (I10).
//! - User metadata (lower-case names, printable ASCII values) is kept by every implementation.

use std::collections::BTreeMap;
use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use tokio::time::Instant;

use crate::{
    DeleteOutcome, ETag, Error, ErrorKind, KeyPrefix, ObjectKey, Op, Precondition, PutId,
    PutOutcome, VersionId,
};

/// Most keys S3 returns in one page and deletes in one batch.
pub const PAGE_KEYS_MAX: usize = 1000;

/// Metadata name under which a put carries its [`PutId`].
pub const PUT_ID_METADATA: &str = "holdfast-put-id";

/// User metadata: lower-case names, printable ASCII values.
pub type Metadata = BTreeMap<String, String>;

/// An object's content as a list of parts, so that a header and a payload need not be copied into one buffer.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Body(Vec<Bytes>);

impl Body {
    /// No bytes.
    pub fn empty() -> Self {
        Self::default()
    }

    /// The parts, in order, none of them empty.
    pub fn parts(&self) -> &[Bytes] {
        &self.0
    }

    /// Adds a part; empty ones are dropped.
    pub fn push(&mut self, part: Bytes) {
        if !part.is_empty() {
            self.0.push(part);
        }
    }

    /// Total length in bytes.
    pub fn len(&self) -> u64 {
        self.0.iter().map(|part| part.len() as u64).sum()
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The content as one buffer; copies only if there are several parts.
    pub fn into_bytes(mut self) -> Bytes {
        match self.0.len() {
            0 => Bytes::new(),
            1 => self.0.remove(0),
            _ => self.0.concat().into(),
        }
    }
}

impl From<Bytes> for Body {
    fn from(part: Bytes) -> Self {
        let mut body = Self::default();
        body.push(part);
        body
    }
}

impl From<Vec<u8>> for Body {
    fn from(part: Vec<u8>) -> Self {
        Bytes::from(part).into()
    }
}

impl From<&'static str> for Body {
    fn from(part: &'static str) -> Self {
        Bytes::from_static(part.as_bytes()).into()
    }
}

impl FromIterator<Bytes> for Body {
    fn from_iter<I: IntoIterator<Item = Bytes>>(parts: I) -> Self {
        let mut body = Self::default();
        parts.into_iter().for_each(|part| body.push(part));
        body
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Body({} bytes)", self.len())
    }
}

/// An answer, with what every answer tells besides.
#[derive(Clone, Debug)]
pub struct Answer<T> {
    /// What was asked for.
    pub value: T,
    /// The server's clock when it answered (its `Date` header), whole seconds. `None` only if it sent none.
    pub date: Option<Timestamp>,
    /// When the last attempt whose answer was lost was given up, whatever came of later attempts (I8). Until the
    /// late-request bound after it, that attempt may still take effect.
    pub lost_at: Option<Instant>,
}

impl<T> Answer<T> {
    /// An answer without any lost attempt.
    pub fn new(value: T, date: Option<Timestamp>) -> Self {
        Self {
            value,
            date,
            lost_at: None,
        }
    }

    /// The same answer about something else, unless that is an error.
    pub fn try_map<U, E>(self, change: impl FnOnce(T) -> Result<U, E>) -> Result<Answer<U>, E> {
        Ok(Answer {
            value: change(self.value)?,
            date: self.date,
            lost_at: self.lost_at,
        })
    }

    /// The same answer about something else.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Answer<U> {
        Answer {
            value: f(self.value),
            date: self.date,
            lost_at: self.lost_at,
        }
    }
}

/// For how long a server may accept a mutation. Requests are signed with `signed_at` instead of the local clock, so that
/// a process that was paused after a check cannot act on it long after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// The date the request is signed with; S3's own, from an answer.
    pub signed_at: Timestamp,
    /// From when on the implementation itself refuses to send (or to apply) the request.
    pub expires: Timestamp,
}

/// A put of a whole object.
#[derive(Clone, Debug)]
pub struct Put {
    /// Where to.
    pub key: ObjectKey,
    /// What; at most 5 GiB.
    pub body: Body,
    /// When it may take effect.
    pub precondition: Precondition,
    /// Recognises the author's own write after a lost answer; needed for every conditional put whose content is not
    /// determined by its key. Stored as metadata [`PUT_ID_METADATA`].
    pub put_id: Option<PutId>,
    /// User metadata.
    pub metadata: Metadata,
    /// Until when it may take effect; `None` leaves it to the server's signature window.
    pub validity: Option<Validity>,
}

impl Put {
    /// An unconditional put.
    pub fn new(key: ObjectKey, body: impl Into<Body>) -> Self {
        Self {
            key,
            body: body.into(),
            precondition: Precondition::None,
            put_id: None,
            metadata: Metadata::new(),
            validity: None,
        }
    }

    /// The same put under a condition.
    #[must_use]
    pub fn when(mut self, precondition: Precondition) -> Self {
        self.precondition = precondition;
        self
    }
}

/// A half-open range of bytes, `start..end`, not empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRange {
    /// First byte.
    pub start: u64,
    /// First byte not wanted.
    pub end: u64,
}

/// What a store tells about an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Length of the whole object in bytes.
    pub size: u64,
    /// Its tag.
    pub etag: ETag,
    /// Its version, in a versioned bucket.
    pub version: Option<VersionId>,
    /// When it was written, by the server's clock; whole seconds on most servers.
    pub last_modified: Timestamp,
    /// `None` for the standard class.
    pub storage_class: Option<String>,
    /// User metadata.
    pub metadata: Metadata,
}

impl ObjectMeta {
    /// The put-id the object was written with.
    pub fn put_id(&self) -> Option<PutId> {
        self.metadata.get(PUT_ID_METADATA).cloned().map(PutId)
    }
}

/// An object or a range of it.
#[derive(Clone, Debug)]
pub struct Object {
    /// What the store tells about it; `size` is that of the whole object.
    pub meta: ObjectMeta,
    /// The content asked for.
    pub body: Body,
}

impl Object {
    /// The object, if its body is as long as the server says that the object, or its part, is. One that is not was cut
    /// short on its way: [`ErrorKind::Corrupt`], worth another request.
    pub fn whole(self, key: &ObjectKey, range: Option<ByteRange>) -> Result<Self, Error> {
        let size = self.meta.size;
        let expected = range.map_or(size, |range| {
            size.min(range.end).saturating_sub(range.start)
        });
        let came = self.body.len();
        if came == expected {
            return Ok(self);
        }
        let words = format!("{came} bytes came of {expected}");
        Err(Error::new(ErrorKind::Corrupt, Op::Get, key.as_str(), words))
    }
}

/// Deletion of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeleteRequest {
    /// Which.
    pub key: ObjectKey,
    /// Only if the object has this tag.
    pub if_match: Option<ETag>,
    /// Only this version; in a versioned bucket a deletion without it leaves a delete marker.
    pub version: Option<VersionId>,
}

impl From<ObjectKey> for DeleteRequest {
    fn from(key: ObjectKey) -> Self {
        Self {
            key,
            if_match: None,
            version: None,
        }
    }
}

/// A question for one page of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListRequest {
    /// Only keys below it.
    pub prefix: KeyPrefix,
    /// Only keys that sort after this one; need not exist.
    pub start_after: Option<String>,
    /// At most so many entries, 1 to [`PAGE_KEYS_MAX`]; a server may return fewer and still have more.
    pub keys_max: usize,
}

impl ListRequest {
    /// The first full page below `prefix`.
    pub fn new(prefix: KeyPrefix) -> Self {
        Self {
            prefix,
            start_after: None,
            keys_max: PAGE_KEYS_MAX,
        }
    }
}

/// One object of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListEntry {
    /// Its key.
    pub key: ObjectKey,
    /// Its length in bytes.
    pub size: u64,
    /// Its tag.
    pub etag: ETag,
    /// When it was written, by the server's clock.
    pub last_modified: Timestamp,
    /// `None` for the standard class.
    pub storage_class: Option<String>,
}

/// One page of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListPage {
    /// In byte order of the keys.
    pub entries: Vec<ListEntry>,
    /// Whether more follow after the last entry (ask again with `start_after` = its key).
    pub truncated: bool,
}

/// A server-side copy into the bucket; metadata is replaced.
#[derive(Clone, Debug)]
pub struct Copy {
    /// The bucket of the same server that the source is in; `None` is the bucket itself.
    pub bucket: Option<String>,
    /// From.
    pub source: ObjectKey,
    /// To.
    pub target: ObjectKey,
    /// When it may take effect: what has to be under the target's key.
    pub precondition: Precondition,
    /// Metadata of the copy.
    pub metadata: Metadata,
    /// Until when it may take effect.
    pub validity: Option<Validity>,
}

impl Copy {
    /// An unconditional copy within the bucket, without metadata.
    pub fn new(source: ObjectKey, target: ObjectKey) -> Self {
        Self {
            bucket: None,
            source,
            target,
            precondition: Precondition::None,
            metadata: Metadata::new(),
            validity: None,
        }
    }

    /// The same copy under a condition.
    #[must_use]
    pub fn when(mut self, precondition: Precondition) -> Self {
        self.precondition = precondition;
        self
    }

    /// The same copy out of this bucket.
    #[must_use]
    pub fn out_of(mut self, bucket: impl Into<String>) -> Self {
        self.bucket = Some(bucket.into());
        self
    }
}

/// The server's name for a multipart upload.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UploadId(pub String);

/// A part that was uploaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// From 1 to 10,000.
    pub number: u16,
    /// Its tag.
    pub etag: ETag,
}

/// What a part upload came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartOutcome {
    /// Stored with the upload.
    Stored(Part),
    /// The answer was lost; sending the same number again replaces it.
    Unknown,
}

/// A setting of the bucket that a server may not know, or may not let these keys read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Setting<T> {
    /// The server told.
    Known(T),
    /// The server does not implement the question.
    Unsupported,
    /// The keys may not ask.
    Denied,
}

/// One rule of the bucket's lifecycle that touches objects by age.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LifecycleRule {
    /// The rule's own name.
    pub id: String,
    /// The prefix it applies to; empty for all.
    pub prefix: String,
    /// It deletes current objects.
    pub expires: bool,
    /// It moves objects to these storage classes.
    pub transitions: Vec<String>,
    /// It removes old versions.
    pub expires_old_versions: bool,
    /// It ends unfinished multipart uploads.
    pub aborts_uploads: bool,
}

/// The state of object versioning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Versioning {
    /// Deleted and overwritten objects are gone.
    Off,
    /// Deleted and overwritten objects are kept and paid for.
    On,
    /// No new versions, old ones are kept.
    Suspended,
}

/// What a bucket says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketSettings {
    /// Versioning.
    pub versioning: Setting<Versioning>,
    /// Lifecycle rules that are switched on.
    pub lifecycle: Setting<Vec<LifecycleRule>>,
    /// Whether object lock is configured.
    pub object_lock: Setting<bool>,
}

/// A bucket. See the module page for the rules.
#[async_trait]
pub trait ObjectStore: Send + Sync + fmt::Debug + 'static {
    /// Writes an object.
    async fn put(&self, put: Put) -> Result<Answer<PutOutcome>, Error>;

    /// Reads an object, or a range of it (cut at the object's end; a start behind the end is an error).
    async fn get(&self, key: &ObjectKey, range: Option<ByteRange>)
    -> Result<Answer<Object>, Error>;

    /// Asks about an object.
    async fn head(&self, key: &ObjectKey) -> Result<Answer<ObjectMeta>, Error>;

    /// Deletes 1 to [`PAGE_KEYS_MAX`] objects; one outcome per request, in the same order.
    async fn delete(
        &self,
        requests: &[DeleteRequest],
        validity: Option<Validity>,
    ) -> Result<Answer<Vec<DeleteOutcome>>, Error>;

    /// Lists one page.
    async fn list(&self, request: &ListRequest) -> Result<Answer<ListPage>, Error>;

    /// Copies an object (up to 5 GiB) into the bucket: from it, or from another one of the same server. *Not found* is
    /// about the source.
    async fn copy(&self, copy: Copy) -> Result<Answer<PutOutcome>, Error>;

    /// Starts a multipart upload. A lost answer leaves an upload nobody knows, so this is an error like any other.
    async fn create_multipart(
        &self,
        key: &ObjectKey,
        metadata: Metadata,
    ) -> Result<Answer<UploadId>, Error>;

    /// Uploads part `number` (1 to 10,000) of at least 5 MiB, the last one excepted.
    async fn upload_part(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
        number: u16,
        body: Body,
    ) -> Result<Answer<PartOutcome>, Error>;

    /// Makes the parts one object. `NotFound` after an attempt whose answer was lost means that HEAD must decide.
    async fn complete_multipart(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
        parts: &[Part],
        precondition: Precondition,
    ) -> Result<Answer<PutOutcome>, Error>;

    /// Drops an upload and its parts; dropping an unknown one is no error.
    async fn abort_multipart(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
    ) -> Result<Answer<()>, Error>;

    /// Asks whether the bucket is there and may be used.
    async fn head_bucket(&self) -> Result<Answer<()>, Error>;

    /// Reads the bucket's settings that matter to a chunk store.
    async fn bucket_settings(&self) -> Result<Answer<BucketSettings>, Error>;
}
