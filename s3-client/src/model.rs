//! S3 in memory: what every other store is measured against, and what tests and simulations run on.
//!
//! - One lock: a condition and its write are one step, and a read sees every write that was answered before it (A2).
//! - Tags are the MD5 of the content (of the MD5s of the parts for multipart uploads), times those of an injected clock.
//! - [`ModelOptions`] makes it behave like servers that do less, or that do it wrongly.
//! - Nothing here is random and nothing waits, so a run with a virtual clock can be replayed.
//!
//! Not promised: signatures, access rules, storage classes other than the standard one.

mod bucket;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};

use crate::clock::{Clock, virtual_clock, whole_seconds};
use crate::decide::{
    Decision, PART_BYTES_MIN, check_batch, check_part_number, check_parts, clip, decide,
    decide_delete, etag_of, etag_of_parts, invalid_part, page, part_too_small, range_error, slice,
    stored_metadata,
};
use crate::store::{
    Answer, Body, BucketSettings, ByteRange, Copy, DeleteRequest, ListPage, ListRequest, Metadata,
    Object, ObjectMeta, ObjectStore, PAGE_KEYS_MAX, Part, PartOutcome, Put, Setting, UploadId,
    Validity, Versioning,
};
use crate::{DeleteOutcome, Error, ErrorKind, ObjectKey, Op, Precondition, PutOutcome, VersionId};

use bucket::{Bucket, Stored};

/// How a server treats a feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// As promised.
    Works,
    /// It takes the request and does as if the feature had not been asked for.
    Ignored,
    /// It refuses the request as not implemented, without effect.
    Refused,
}

/// What kind of server the model is. The default does everything right.
#[derive(Clone)]
pub struct ModelOptions {
    /// The server's clock; [`virtual_clock`] by default.
    pub clock: Clock,
    /// What the bucket says of itself. Versions are kept if versioning is known to be on.
    pub settings: BucketSettings,
    /// `If-None-Match: *` on puts.
    pub conditional_create: Support,
    /// `If-Match` on puts.
    pub conditional_overwrite: Support,
    /// `If-Match` on deletions.
    pub conditional_delete: Support,
    /// Deletion of more than one key at a time. *Ignored* is the same as *works*.
    pub batch_delete: Support,
    /// Server-side copies. *Ignored* is the same as *works*.
    pub copies: Support,
    /// Conditions of copies.
    pub conditional_copy: Support,
    /// Multipart uploads. *Ignored* is the same as *works*.
    pub multipart: Support,
    /// User metadata; a server that ignores it loses the put-id too.
    pub metadata: Support,
    /// Longest page of a listing, whatever was asked for; 1 to [`PAGE_KEYS_MAX`].
    pub page_keys_max: usize,
    /// How long a new object stays out of listings. Anything but zero breaks A2.
    pub list_lag: Duration,
    /// Whether a deletion of an absent key is answered with *not found*.
    pub tells_absent: bool,
    /// Whether answers carry the server's date.
    pub dates: bool,
}

impl Default for ModelOptions {
    fn default() -> Self {
        Self {
            clock: virtual_clock(),
            settings: BucketSettings {
                versioning: Setting::Known(Versioning::Off),
                lifecycle: Setting::Known(Vec::new()),
                object_lock: Setting::Known(false),
            },
            conditional_create: Support::Works,
            conditional_overwrite: Support::Works,
            conditional_delete: Support::Works,
            batch_delete: Support::Works,
            copies: Support::Works,
            conditional_copy: Support::Works,
            multipart: Support::Works,
            metadata: Support::Works,
            page_keys_max: PAGE_KEYS_MAX,
            list_lag: Duration::ZERO,
            tells_absent: false,
            dates: true,
        }
    }
}

impl fmt::Debug for ModelOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelOptions")
            .field("settings", &self.settings)
            .field("conditional_create", &self.conditional_create)
            .field("conditional_overwrite", &self.conditional_overwrite)
            .field("batch_delete", &self.batch_delete)
            .field("page_keys_max", &self.page_keys_max)
            .finish_non_exhaustive()
    }
}

/// S3 in memory. See the module page.
pub struct ModelStore {
    options: ModelOptions,
    bucket: Mutex<Bucket>,
    neighbours: Mutex<BTreeMap<String, Arc<ModelStore>>>,
}

impl fmt::Debug for ModelStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ModelStore({} objects)", self.bucket().current.len())
    }
}

impl Default for ModelStore {
    fn default() -> Self {
        Self::new(ModelOptions::default())
    }
}

impl ModelStore {
    /// An empty bucket of a server that behaves as `options` says.
    pub fn new(options: ModelOptions) -> Self {
        let versioned = options.settings.versioning == Setting::Known(Versioning::On);
        Self {
            options,
            bucket: Mutex::new(Bucket::new(versioned)),
            neighbours: Mutex::default(),
        }
    }

    /// Makes `other` a bucket of the same server, of this name: copies may come from there.
    pub fn add_neighbour(&self, name: impl Into<String>, other: Arc<ModelStore>) {
        let neighbours = self.neighbours.lock();
        let mut neighbours = neighbours.unwrap_or_else(PoisonError::into_inner);
        neighbours.insert(name.into(), other);
    }

    /// The server's clock.
    pub fn now(&self) -> Timestamp {
        (self.options.clock)()
    }

    /// Every object there is, by key.
    pub fn objects(&self) -> BTreeMap<ObjectKey, Object> {
        let bucket = self.bucket();
        let objects = bucket.current.iter();
        objects
            .map(|(key, stored)| (key.clone(), stored.object()))
            .collect()
    }

    /// The object under `key`, without a request.
    pub fn object(&self, key: &ObjectKey) -> Option<Object> {
        self.bucket().current.get(key).map(Stored::object)
    }

    /// Puts an object there behind everybody's back. `last_modified` is now unless given.
    pub fn insert_raw(
        &self,
        key: ObjectKey,
        body: impl Into<Body>,
        metadata: Metadata,
        last_modified: Option<Timestamp>,
    ) {
        let body = body.into();
        let written = last_modified.unwrap_or_else(|| self.now());
        let etag = etag_of(&body);
        self.bucket()
            .insert(key, Stored::new(body, etag, metadata, written));
    }

    /// Takes an object away behind everybody's back, with all its versions; tells whether there was one.
    pub fn remove_raw(&self, key: &ObjectKey) -> bool {
        self.bucket().purge(key)
    }

    /// Changes the content under `key` without changing its tag or its times, as a failing disk does. Tells whether
    /// there was an object.
    pub fn corrupt_raw(&self, key: &ObjectKey, body: impl Into<Body>) -> bool {
        match self.bucket().current.get_mut(key) {
            Some(stored) => {
                stored.body = body.into();
                true
            }
            None => false,
        }
    }

    /// Puts `key` under object lock, or releases it. Deletions of a locked key are refused.
    pub fn set_locked(&self, key: &ObjectKey, locked: bool) {
        let mut bucket = self.bucket();
        if locked {
            bucket.locked.insert(key.clone());
        } else {
            bucket.locked.remove(key);
        }
    }

    /// Multipart uploads that were neither completed nor aborted.
    pub fn open_uploads(&self) -> Vec<(ObjectKey, UploadId)> {
        let bucket = self.bucket();
        let uploads = bucket.uploads.iter();
        uploads
            .map(|(id, upload)| (upload.key.clone(), UploadId(id.clone())))
            .collect()
    }

    /// Versions kept of `key`, oldest first; a delete marker is `None`. Empty in a bucket without versions.
    pub fn versions(&self, key: &ObjectKey) -> Vec<(VersionId, Option<Object>)> {
        let bucket = self.bucket();
        let kept = bucket.versions.get(key).map_or(&[][..], Vec::as_slice);
        kept.iter()
            .map(|version| (version.id(), version.stored.as_ref().map(Stored::object)))
            .collect()
    }

    /// How many requests of each kind were answered since the start or the last [`reset_counts`](Self::reset_counts).
    pub fn counts(&self) -> BTreeMap<Op, u64> {
        self.bucket().counts.clone()
    }

    /// How many requests of one kind were answered.
    pub fn count(&self, op: Op) -> u64 {
        self.bucket().counts.get(&op).copied().unwrap_or(0)
    }

    /// Starts counting anew.
    pub fn reset_counts(&self) {
        self.bucket().counts.clear();
    }

    /// The bucket, also after a test has panicked while it held the lock.
    fn bucket(&self) -> MutexGuard<'_, Bucket> {
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bucket for one request, which is counted.
    fn request(&self, op: Op) -> MutexGuard<'_, Bucket> {
        let mut bucket = self.bucket();
        *bucket.counts.entry(op).or_insert(0) += 1;
        bucket
    }

    fn answer<T>(&self, value: T) -> Answer<T> {
        let date = self.options.dates.then(|| whole_seconds(self.now()));
        Answer::new(value, date)
    }

    fn expired(&self, validity: Option<Validity>) -> bool {
        validity.is_some_and(|validity| self.now() >= validity.expires)
    }

    /// The condition as this server understands it.
    fn understood(
        &self,
        op: Op,
        key: &ObjectKey,
        precondition: Precondition,
    ) -> Result<Precondition, Error> {
        let support = match precondition {
            Precondition::None => Support::Works,
            Precondition::Absent => self.options.conditional_create,
            Precondition::Matches(_) => self.options.conditional_overwrite,
        };
        match support {
            Support::Works => Ok(precondition),
            Support::Ignored => Ok(Precondition::None),
            Support::Refused => Err(unsupported(op, key.as_str(), "conditional writes")),
        }
    }

    /// The object that a copy from another bucket copies; read before this bucket is locked.
    fn neighbours_object(&self, copy: &Copy) -> Result<Option<Object>, Error> {
        let Some(name) = &copy.bucket else {
            return Ok(None);
        };
        let neighbours = self.neighbours.lock();
        let neighbours = neighbours.unwrap_or_else(PoisonError::into_inner);
        let other = neighbours.get(name).ok_or_else(|| {
            let (kind, key) = (ErrorKind::BucketMissing, copy.source.as_str());
            let message = format!("there is no bucket '{name}'");
            Error::new(kind, Op::Copy, key, message)
        })?;
        Ok(other.object(&copy.source))
    }

    /// The metadata as this server keeps it.
    fn kept(&self, metadata: Metadata) -> Metadata {
        match self.options.metadata {
            Support::Works => metadata,
            Support::Ignored | Support::Refused => Metadata::new(),
        }
    }

    fn delete_one(&self, bucket: &mut Bucket, request: &DeleteRequest) -> DeleteOutcome {
        let if_match = match self.options.conditional_delete {
            Support::Ignored => None,
            Support::Works | Support::Refused => request.if_match.as_ref(),
        };
        if bucket.locked.contains(&request.key) {
            return DeleteOutcome::Locked;
        }
        let current = bucket.current.get(&request.key).map(|stored| &stored.etag);
        if decide_delete(if_match, current) == Decision::Refuse {
            return DeleteOutcome::PreconditionFailed;
        }
        let removed = match &request.version {
            None => bucket.remove(&request.key),
            Some(version) => bucket.remove_version(&request.key, version),
        };
        if removed || !self.options.tells_absent {
            DeleteOutcome::Deleted
        } else {
            DeleteOutcome::NotFound
        }
    }
}

fn list_page(
    objects: &BTreeMap<ObjectKey, Stored>,
    prefix: &str,
    start_after: Option<&str>,
    keys_max: usize,
) -> ListPage {
    let found = page(objects, prefix, start_after, keys_max);
    let entries = found.entries.into_iter();
    ListPage {
        entries: entries.map(|(key, stored)| stored.entry(key)).collect(),
        truncated: found.truncated,
    }
}

fn unsupported(op: Op, key: &str, what: &str) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        op,
        key,
        format!("{what} are not implemented"),
    )
}

#[async_trait]
impl ObjectStore for ModelStore {
    async fn put(&self, put: Put) -> Result<Answer<PutOutcome>, Error> {
        let mut bucket = self.request(Op::Put);
        if self.expired(put.validity) {
            return Ok(self.answer(PutOutcome::Expired));
        }
        let metadata = stored_metadata(Op::Put, &put.key, put.metadata, put.put_id)?;
        let precondition = self.understood(Op::Put, &put.key, put.precondition)?;
        let current = bucket.current.get(&put.key).map(|stored| &stored.etag);
        if decide(&precondition, current) == Decision::Refuse {
            return Ok(self.answer(PutOutcome::Exists));
        }
        let etag = etag_of(&put.body);
        let stored = Stored::new(put.body, etag.clone(), self.kept(metadata), self.now());
        let version = bucket.insert(put.key, stored);
        Ok(self.answer(PutOutcome::Created { etag, version }))
    }

    async fn get(
        &self,
        key: &ObjectKey,
        range: Option<ByteRange>,
    ) -> Result<Answer<Object>, Error> {
        let bucket = self.request(Op::Get);
        let stored = bucket.current.get(key);
        let stored = stored.ok_or_else(|| Error::not_found(Op::Get, key))?;
        let mut object = stored.object();
        if let Some(range) = range {
            let (start, end) = clip(Some(range), object.meta.size)
                .ok_or_else(|| range_error(key, range, object.meta.size))?;
            object.body = slice(&object.body, start, end);
        }
        Ok(self.answer(object))
    }

    async fn head(&self, key: &ObjectKey) -> Result<Answer<ObjectMeta>, Error> {
        let bucket = self.request(Op::Head);
        match bucket.current.get(key) {
            Some(stored) => Ok(self.answer(stored.meta())),
            None => Err(Error::not_found(Op::Head, key)),
        }
    }

    async fn delete(
        &self,
        requests: &[DeleteRequest],
        validity: Option<Validity>,
    ) -> Result<Answer<Vec<DeleteOutcome>>, Error> {
        let mut bucket = self.request(Op::Delete);
        check_batch(requests)?;
        let key = requests[0].key.as_str();
        if requests.len() > 1 && self.options.batch_delete == Support::Refused {
            return Err(unsupported(Op::Delete, key, "batch deletions"));
        }
        let conditional = requests.iter().any(|request| request.if_match.is_some());
        if conditional && self.options.conditional_delete == Support::Refused {
            return Err(unsupported(Op::Delete, key, "conditional deletions"));
        }
        if self.expired(validity) {
            return Ok(self.answer(vec![DeleteOutcome::Expired; requests.len()]));
        }
        let outcomes = requests
            .iter()
            .map(|request| self.delete_one(&mut bucket, request))
            .collect();
        Ok(self.answer(outcomes))
    }

    async fn list(&self, request: &ListRequest) -> Result<Answer<ListPage>, Error> {
        let bucket = self.request(Op::List);
        let keys_max = request.keys_max.min(self.options.page_keys_max);
        let after = request.start_after.as_deref();
        let prefix = request.prefix.as_str();
        let page = if self.options.list_lag.is_zero() {
            list_page(&bucket.current, prefix, after, keys_max)
        } else {
            let lag = SignedDuration::try_from(self.options.list_lag).unwrap_or_default();
            let newest = self.now().saturating_sub(lag).unwrap_or(Timestamp::MIN);
            let mut visible = bucket.current.clone();
            visible.retain(|_, stored| stored.written <= newest);
            list_page(&visible, prefix, after, keys_max)
        };
        Ok(self.answer(page))
    }

    async fn copy(&self, copy: Copy) -> Result<Answer<PutOutcome>, Error> {
        let elsewhere = self.neighbours_object(&copy);
        let mut bucket = self.request(Op::Copy);
        if self.options.copies == Support::Refused {
            return Err(unsupported(Op::Copy, copy.source.as_str(), "copies"));
        }
        if self.expired(copy.validity) {
            return Ok(self.answer(PutOutcome::Expired));
        }
        let metadata = stored_metadata(Op::Copy, &copy.target, copy.metadata, None)?;
        let precondition = match (copy.precondition, self.options.conditional_copy) {
            (Precondition::None, _) | (_, Support::Ignored) => Precondition::None,
            (precondition, Support::Works) => precondition,
            (_, Support::Refused) => {
                let what = "conditions of copies";
                return Err(unsupported(Op::Copy, copy.target.as_str(), what));
            }
        };
        let source = match copy.bucket {
            None => bucket.current.get(&copy.source).map(Stored::object),
            Some(_) => elsewhere?,
        };
        let source = source.ok_or_else(|| Error::not_found(Op::Copy, &copy.source))?;
        let current = bucket.current.get(&copy.target).map(|stored| &stored.etag);
        if decide(&precondition, current) == Decision::Refuse {
            return Ok(self.answer(PutOutcome::Exists));
        }
        let body = source.body;
        let etag = etag_of(&body);
        let stored = Stored::new(body, etag.clone(), self.kept(metadata), self.now());
        let version = bucket.insert(copy.target, stored);
        Ok(self.answer(PutOutcome::Created { etag, version }))
    }

    async fn create_multipart(
        &self,
        key: &ObjectKey,
        metadata: Metadata,
    ) -> Result<Answer<UploadId>, Error> {
        let mut bucket = self.request(Op::CreateMultipart);
        if self.options.multipart == Support::Refused {
            let what = "multipart uploads";
            return Err(unsupported(Op::CreateMultipart, key.as_str(), what));
        }
        let metadata = stored_metadata(Op::CreateMultipart, key, metadata, None)?;
        let id = bucket.begin_upload(key.clone(), self.kept(metadata));
        Ok(self.answer(id))
    }

    async fn upload_part(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
        number: u16,
        body: Body,
    ) -> Result<Answer<PartOutcome>, Error> {
        let mut bucket = self.request(Op::UploadPart);
        check_part_number(key, number)?;
        let parts = bucket.parts(Op::UploadPart, key, upload)?;
        let etag = etag_of(&body);
        parts.insert(number, (etag.clone(), body));
        Ok(self.answer(PartOutcome::Stored(Part { number, etag })))
    }

    async fn complete_multipart(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
        parts: &[Part],
        precondition: Precondition,
    ) -> Result<Answer<PutOutcome>, Error> {
        let mut bucket = self.request(Op::CompleteMultipart);
        check_parts(key, parts)?;
        let precondition = self.understood(Op::CompleteMultipart, key, precondition)?;
        let uploaded = bucket.parts(Op::CompleteMultipart, key, upload)?;
        let mut body = Body::empty();
        for (position, part) in parts.iter().enumerate() {
            match uploaded.get(&part.number) {
                Some((etag, content)) if *etag == part.etag => {
                    if position + 1 < parts.len() && content.len() < PART_BYTES_MIN {
                        return Err(part_too_small(key, part.number));
                    }
                    content.parts().iter().for_each(|p| body.push(p.clone()));
                }
                _ => return Err(invalid_part(key, part.number)),
            }
        }
        let current = bucket.current.get(key).map(|stored| &stored.etag);
        if decide(&precondition, current) == Decision::Refuse {
            return Ok(self.answer(PutOutcome::Exists));
        }
        let upload = bucket.uploads.remove(&upload.0);
        let metadata = upload.map(|upload| upload.metadata).unwrap_or_default();
        let etag = etag_of_parts(parts.iter().map(|part| &part.etag));
        let stored = Stored::new(body, etag.clone(), metadata, self.now());
        let version = bucket.insert(key.clone(), stored);
        Ok(self.answer(PutOutcome::Created { etag, version }))
    }

    async fn abort_multipart(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
    ) -> Result<Answer<()>, Error> {
        let mut bucket = self.request(Op::AbortMultipart);
        if bucket.parts(Op::AbortMultipart, key, upload).is_ok() {
            bucket.uploads.remove(&upload.0);
        }
        Ok(self.answer(()))
    }

    async fn head_bucket(&self) -> Result<Answer<()>, Error> {
        drop(self.request(Op::Bucket));
        Ok(self.answer(()))
    }

    async fn bucket_settings(&self) -> Result<Answer<BucketSettings>, Error> {
        drop(self.request(Op::Bucket));
        Ok(self.answer(self.options.settings.clone()))
    }
}
