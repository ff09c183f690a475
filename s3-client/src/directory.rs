//! A directory used as a bucket, for those who have a disk and no S3: data survives restarts.
//!
//! Below the directory:
//! - `lock`, held while the bucket is open, so that two processes do not both take the index for theirs;
//! - `bucket.json`, the format, and a refusal of formats of later versions;
//! - `objects/<2 hex>/<62 hex>`, one file per object, named by the SHA-256 of its key (keys may be longer than file
//!   names and may have another key for a folder) with a header in front of the content ([`mod@file`]);
//! - `staging/`, temporary files, emptied at open;
//! - `uploads/<id>/`, unfinished multipart uploads.
//!
//! Order of a write:
//! 1. The file is written in `staging/` and synced.
//! 2. Under the lock of its folder the condition is decided against the index.
//! 3. The file is renamed to its place (A4) and the folder is synced.
//! 4. The index shows it; the lock is released; the put is answered.
//!
//! After a crash in 1 or 2 a temporary file is left, which the next open removes; after 3 the object is there, unanswered,
//! which is what an unknown outcome means. A deletion unlinks and drops the index entry under the lock, and syncs the
//! folders before it is answered.
//!
//! The index (keys, sizes, tags, times, metadata) is in memory, about 200 bytes and the key for each object, and is read
//! from the headers at open. Listings and HEAD touch no file. A file whose header is damaged makes open fail: leaving it
//! out would be a listing that proves an absence it should not (I10).
//!
//! Not promised: that content is verified on reading (readers of chunks do that themselves), versions, object lock.

mod file;
mod index;
#[cfg(test)]
mod tests;
mod tree;
mod upload;

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;

use crate::clock::{Clock, wall_clock, whole_seconds};
use crate::decide::{
    Decision, check_batch, clip, decide, decide_delete, etag_of, page, range_error, stored_metadata,
};
use crate::store::{
    Answer, Body, BucketSettings, ByteRange, Copy, DeleteRequest, ListPage, ListRequest, Metadata,
    Object, ObjectMeta, ObjectStore, Part, PartOutcome, Put, Setting, UploadId, Validity,
    Versioning,
};
use crate::{DeleteOutcome, Error, ErrorKind, ObjectKey, Op, Precondition, PutOutcome};

use file::{Header, ObjectFile};
use index::Index;
use tree::{Slot, Staged, Tree, failed};

/// How a directory bucket works. The default is durable and takes the time of this machine.
#[derive(Clone)]
pub struct DirectoryOptions {
    /// What time it is for LastModified, Date and validity.
    pub clock: Clock,
    /// Whether writes and deletions are synced to disk before they are answered. Without it a crash of the machine
    /// (not of the process) may undo what was answered.
    pub sync: bool,
}

impl Default for DirectoryOptions {
    fn default() -> Self {
        Self {
            clock: wall_clock(),
            sync: true,
        }
    }
}

impl fmt::Debug for DirectoryOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DirectoryOptions")
            .field("sync", &self.sync)
            .finish_non_exhaustive()
    }
}

/// A directory used as a bucket. Clones are the same open bucket. See the module page.
#[derive(Clone)]
pub struct DirectoryStore(Arc<Inner>);

impl fmt::Debug for DirectoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DirectoryStore")
            .field(&self.0.tree.root())
            .finish()
    }
}

struct Inner {
    tree: Tree,
    index: Index,
    clock: Clock,
}

impl DirectoryStore {
    /// Opens the bucket in `path`, which is created if it does not exist. Reads the header of every object. Fails if
    /// another process has it open, if it is of a later format, or if an object's file is damaged.
    pub async fn open(path: impl Into<PathBuf>) -> Result<Self, Error> {
        Self::open_with(path, DirectoryOptions::default()).await
    }

    /// The same with options.
    pub async fn open_with(
        path: impl Into<PathBuf>,
        options: DirectoryOptions,
    ) -> Result<Self, Error> {
        let path = path.into();
        blocking(Op::Bucket, move || {
            let tree = Tree::open(&path, options.sync)?;
            let index = Index::new(tree.read_headers()?);
            Ok(Self(Arc::new(Inner {
                tree,
                index,
                clock: options.clock,
            })))
        })
        .await
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        self.0.tree.root()
    }

    /// How many objects there are.
    pub fn objects(&self) -> usize {
        self.0.index.read().len()
    }

    /// Runs file work on the blocking pool. It goes on to its end when the caller is gone.
    async fn run<T: Send + 'static>(
        &self,
        op: Op,
        work: impl FnOnce(&Inner) -> Result<T, Error> + Send + 'static,
    ) -> Result<Answer<T>, Error> {
        let inner = Arc::clone(&self.0);
        let value = blocking(op, move || work(&inner)).await?;
        Ok(self.0.answer(value))
    }
}

async fn blocking<T: Send + 'static>(
    op: Op,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => {
            Err(Error::new(ErrorKind::Other, op, "", "file work was aborted").with_source(error))
        }
    }
}

impl Inner {
    fn answer<T>(&self, value: T) -> Answer<T> {
        Answer::new(value, Some(whole_seconds((self.clock)())))
    }

    fn expired(&self, validity: Option<Validity>) -> bool {
        validity.is_some_and(|validity| (self.clock)() >= validity.expires)
    }

    fn header(&self, key: &ObjectKey, etag: crate::ETag, size: u64, metadata: Metadata) -> Header {
        Header {
            key: key.clone(),
            size,
            etag,
            last_modified: whole_seconds((self.clock)()),
            metadata,
        }
    }

    fn put(&self, put: Put) -> Result<PutOutcome, Error> {
        let metadata = stored_metadata(Op::Put, &put.key, put.metadata, put.put_id)?;
        // A creation of what is there is refused before any byte is written; step 2 decides for good.
        if self.refuses(&put.key, &put.precondition) {
            return Ok(PutOutcome::Exists);
        }
        let header = self.header(&put.key, etag_of(&put.body), put.body.len(), metadata);
        let io = |error| failed(Op::Put, put.key.as_str(), error);
        let mut staged = self.tree.stage().map_err(io)?;
        staged.write(&header.encode()).map_err(io)?;
        for part in put.body.parts() {
            staged.write(part).map_err(io)?;
        }
        self.commit(Op::Put, staged, header, &put.precondition, put.validity)
    }

    fn refuses(&self, key: &ObjectKey, precondition: &Precondition) -> bool {
        let index = self.index.read();
        let current = index.get(key).map(|entry| &entry.etag);
        decide(precondition, current) == Decision::Refuse
    }

    /// Steps 1 (its end) to 4 of a write.
    fn commit(
        &self,
        op: Op,
        staged: Staged<'_>,
        header: Header,
        precondition: &Precondition,
        validity: Option<Validity>,
    ) -> Result<PutOutcome, Error> {
        let io = |error| failed(op, header.key.as_str(), error);
        let finished = staged.finish().map_err(io)?;
        let slot = Slot::of(&header.key);
        let folder = self.tree.lock(&slot);
        if self.expired(validity) {
            return Ok(PutOutcome::Expired);
        }
        if self.refuses(&header.key, precondition) {
            return Ok(PutOutcome::Exists);
        }
        finished.rename(&slot).map_err(io)?;
        let synced = self.tree.sync_folder(&slot).map_err(|error| {
            let mut error = io(error);
            error.maybe_applied = true;
            error
        });
        let outcome = PutOutcome::Created {
            etag: header.etag.clone(),
            version: None,
        };
        self.index.insert(header);
        drop(folder);
        synced.map(|()| outcome)
    }

    fn get(&self, key: &ObjectKey, range: Option<ByteRange>) -> Result<Object, Error> {
        let mut file = self.open_object(Op::Get, key)?;
        let size = file.header.size;
        let Some((start, end)) = clip(range, size) else {
            let range = range.unwrap_or(ByteRange { start: 0, end: 0 });
            return Err(range_error(key, range, size));
        };
        let io = |error| failed(Op::Get, key.as_str(), error);
        let content = file.read(start, end).map_err(io)?;
        Ok(Object {
            meta: file.header.into_meta(),
            body: Body::from(content),
        })
    }

    /// The object as the index has it or, if it is being replaced, as it will have it.
    fn open_object(&self, op: Op, key: &ObjectKey) -> Result<ObjectFile, Error> {
        if !self.index.read().contains_key(key) {
            return Err(Error::not_found(op, key));
        }
        match ObjectFile::open(&self.tree.path(&Slot::of(key))) {
            Ok(file) if file.header.key == *key => Ok(file),
            Ok(_) => Err(Error::new(
                ErrorKind::Corrupt,
                op,
                key.as_str(),
                "the object's file is that of another key",
            )),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Err(Error::not_found(op, key))
            }
            Err(error) => Err(failed(op, key.as_str(), error)),
        }
    }

    fn delete(
        &self,
        requests: &[DeleteRequest],
        validity: Option<Validity>,
    ) -> Result<Vec<DeleteOutcome>, Error> {
        let mut outcomes = Vec::with_capacity(requests.len());
        let mut dirty = BTreeSet::new();
        for request in requests {
            let slot = Slot::of(&request.key);
            let outcome = self.delete_one(&slot, request, validity);
            if outcome == DeleteOutcome::Deleted {
                dirty.insert(slot.folder());
            }
            outcomes.push(outcome);
        }
        for folder in dirty {
            self.tree.sync_folder_number(folder).map_err(|error| {
                let mut error = failed(Op::Delete, "", error);
                error.maybe_applied = true;
                error
            })?;
        }
        Ok(outcomes)
    }

    fn delete_one(
        &self,
        slot: &Slot,
        request: &DeleteRequest,
        validity: Option<Validity>,
    ) -> DeleteOutcome {
        if request.version.is_some() {
            return DeleteOutcome::Refused("a directory bucket has no versions".to_owned());
        }
        let _folder = self.tree.lock(slot);
        if self.expired(validity) {
            return DeleteOutcome::Expired;
        }
        let current = self.index.etag(&request.key);
        if decide_delete(request.if_match.as_ref(), current.as_ref()) == Decision::Refuse {
            return DeleteOutcome::PreconditionFailed;
        }
        if current.is_none() {
            return DeleteOutcome::NotFound;
        }
        match self.tree.unlink(slot) {
            Ok(()) => {
                self.index.remove(&request.key);
                DeleteOutcome::Deleted
            }
            Err(error) => DeleteOutcome::Refused(error.to_string()),
        }
    }

    fn copy(&self, copy: Copy) -> Result<PutOutcome, Error> {
        if copy.bucket.is_some() {
            let (kind, key) = (ErrorKind::Unsupported, copy.source.as_str());
            let message = "a directory is one bucket and knows no other";
            return Err(Error::new(kind, Op::Copy, key, message));
        }
        let metadata = stored_metadata(Op::Copy, &copy.target, copy.metadata, None)?;
        let mut source = self.open_object(Op::Copy, &copy.source)?;
        if self.refuses(&copy.target, &copy.precondition) {
            return Ok(PutOutcome::Exists);
        }
        let etag = source.header.etag.clone();
        let header = self.header(&copy.target, etag, source.header.size, metadata);
        let io = |error| failed(Op::Copy, copy.target.as_str(), error);
        let mut staged = self.tree.stage().map_err(io)?;
        staged.write(&header.encode()).map_err(io)?;
        let content = source.content().map_err(io)?;
        staged.append(content, header.size).map_err(io)?;
        self.commit(Op::Copy, staged, header, &copy.precondition, copy.validity)
    }
}

#[async_trait]
impl ObjectStore for DirectoryStore {
    async fn put(&self, put: Put) -> Result<Answer<PutOutcome>, Error> {
        self.run(Op::Put, move |inner| inner.put(put)).await
    }

    async fn get(
        &self,
        key: &ObjectKey,
        range: Option<ByteRange>,
    ) -> Result<Answer<Object>, Error> {
        let key = key.clone();
        self.run(Op::Get, move |inner| inner.get(&key, range)).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<Answer<ObjectMeta>, Error> {
        match self.0.index.read().get(key) {
            Some(entry) => Ok(self.0.answer(entry.meta())),
            None => Err(Error::not_found(Op::Head, key)),
        }
    }

    async fn delete(
        &self,
        requests: &[DeleteRequest],
        validity: Option<Validity>,
    ) -> Result<Answer<Vec<DeleteOutcome>>, Error> {
        check_batch(requests)?;
        let requests = requests.to_vec();
        self.run(Op::Delete, move |inner| inner.delete(&requests, validity))
            .await
    }

    async fn list(&self, request: &ListRequest) -> Result<Answer<ListPage>, Error> {
        let index = self.0.index.read();
        let after = request.start_after.as_deref();
        let found = page(&index, request.prefix.as_str(), after, request.keys_max);
        let entries = found.entries.into_iter();
        Ok(self.0.answer(ListPage {
            entries: entries.map(|(key, entry)| entry.listed(key)).collect(),
            truncated: found.truncated,
        }))
    }

    async fn copy(&self, copy: Copy) -> Result<Answer<PutOutcome>, Error> {
        self.run(Op::Copy, move |inner| inner.copy(copy)).await
    }

    async fn create_multipart(
        &self,
        key: &ObjectKey,
        metadata: Metadata,
    ) -> Result<Answer<UploadId>, Error> {
        let key = key.clone();
        self.run(Op::CreateMultipart, move |inner| {
            inner.create_multipart(key, metadata)
        })
        .await
    }

    async fn upload_part(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
        number: u16,
        body: Body,
    ) -> Result<Answer<PartOutcome>, Error> {
        let (key, upload) = (key.clone(), upload.clone());
        self.run(Op::UploadPart, move |inner| {
            inner.upload_part(&key, &upload, number, &body)
        })
        .await
    }

    async fn complete_multipart(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
        parts: &[Part],
        precondition: Precondition,
    ) -> Result<Answer<PutOutcome>, Error> {
        let (key, upload, parts) = (key.clone(), upload.clone(), parts.to_vec());
        self.run(Op::CompleteMultipart, move |inner| {
            inner.complete_multipart(&key, &upload, &parts, &precondition)
        })
        .await
    }

    async fn abort_multipart(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
    ) -> Result<Answer<()>, Error> {
        let (key, upload) = (key.clone(), upload.clone());
        self.run(Op::AbortMultipart, move |inner| {
            inner.abort_multipart(&key, &upload)
        })
        .await
    }

    async fn head_bucket(&self) -> Result<Answer<()>, Error> {
        self.run(Op::Bucket, |inner| {
            let there = inner.tree.is_there();
            there.map_err(|error| failed(Op::Bucket, "", error))
        })
        .await
    }

    async fn bucket_settings(&self) -> Result<Answer<BucketSettings>, Error> {
        Ok(self.0.answer(BucketSettings {
            versioning: Setting::Known(Versioning::Off),
            lifecycle: Setting::Known(Vec::new()),
            object_lock: Setting::Known(false),
        }))
    }
}
