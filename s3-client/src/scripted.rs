//! A bucket in memory for the tests of the decorators and the probe: what happens to the next requests can be scripted,
//! and it can have the faults of real servers.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use md5::{Digest, Md5};
use tokio::time::{Instant, sleep};

use crate::{
    Answer, Body, BucketSettings, ByteRange, Copy, DeleteOutcome, DeleteRequest, ETag, Error,
    ErrorKind, LifecycleRule, ListEntry, ListPage, ListRequest, Metadata, Object, ObjectKey,
    ObjectMeta, ObjectStore, Op, PUT_ID_METADATA, Part, PartOutcome, Precondition, Put, PutOutcome,
    Setting, UploadId, Validity, Versioning,
};

pub(crate) fn key(name: &str) -> ObjectKey {
    ObjectKey::new(name).expect("a valid key")
}

/// The server's clock, which stands still.
pub(crate) fn date() -> Timestamp {
    "2026-11-20T12:00:00Z".parse().expect("a timestamp")
}

/// What happens to one request.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// It is carried out and answered.
    Pass,
    /// It is refused without effect.
    Fail(ErrorKind),
    /// It is carried out and answered with 500.
    FailApplied,
    /// Its answer is lost, and it has no effect.
    Lose,
    /// It is carried out and its answer is lost.
    LoseApplied,
    /// It is answered with 409.
    Conflict,
    /// It is refused after a while.
    Delay(Duration, ErrorKind),
    /// All keys of a delete are refused with these words.
    RefuseKeys(&'static str),
    /// It is answered as too late.
    Expire,
}

/// Faults of real servers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults {
    pub(crate) ignores_if_none_match: bool,
    pub(crate) ignores_if_match: bool,
    pub(crate) ignores_if_match_of_deletes: bool,
    pub(crate) ignores_conditions_of_copies: bool,
    pub(crate) ignores_start_after: bool,
    pub(crate) refuses_multipart: bool,
    pub(crate) hides_new_keys: bool,
    pub(crate) denies: Vec<Op>,
    pub(crate) keys_per_page: Option<usize>,
    /// Tags are compared as sent, and the switch says how they are sent.
    pub(crate) wants_unquoted: Option<Arc<AtomicBool>>,
    pub(crate) signature_minutes: Option<i64>,
    pub(crate) settings: Option<BucketSettings>,
    pub(crate) drops_metadata: bool,
}

#[derive(Clone, Debug)]
struct Stored {
    body: Body,
    etag: ETag,
    metadata: Metadata,
}

/// Metadata and parts.
type Upload = (Metadata, BTreeMap<u16, Body>);

/// The bucket.
#[derive(Debug, Default)]
pub(crate) struct Scripted {
    pub(crate) faults: Faults,
    objects: Mutex<BTreeMap<String, Stored>>,
    uploads: Mutex<BTreeMap<String, Upload>>,
    script: Mutex<VecDeque<Step>>,
    log: Mutex<Vec<(Op, String)>>,
    under_way: AtomicUsize,
    most_under_way: AtomicUsize,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no test panics while it holds a lock")
}

impl Scripted {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn with(faults: Faults) -> Self {
        Self {
            faults,
            ..Self::default()
        }
    }

    /// Appends to the script; requests after its end pass.
    pub(crate) fn then(&self, steps: impl IntoIterator<Item = Step>) {
        lock(&self.script).extend(steps);
    }

    /// The requests so far.
    pub(crate) fn log(&self) -> Vec<(Op, String)> {
        lock(&self.log).clone()
    }

    pub(crate) fn most_under_way(&self) -> usize {
        self.most_under_way.load(Ordering::SeqCst)
    }

    pub(crate) fn keys(&self) -> Vec<String> {
        lock(&self.objects).keys().cloned().collect()
    }

    /// Stores an object as a stranger would.
    pub(crate) fn place(&self, name: &str, body: &'static str) {
        self.store(name, body.into(), Metadata::new());
    }

    fn store(&self, name: &str, body: Body, metadata: Metadata) -> ETag {
        let bytes = body.clone().into_bytes();
        let etag = ETag::new(&hex::encode(Md5::digest(&bytes)));
        let stored = Stored {
            body,
            etag: etag.clone(),
            metadata: if self.faults.drops_metadata {
                Metadata::new()
            } else {
                metadata
            },
        };
        lock(&self.objects).insert(name.to_owned(), stored);
        etag
    }

    async fn step(&self, op: Op, name: &str) -> Result<Step, Error> {
        lock(&self.log).push((op, name.to_owned()));
        let step = lock(&self.script).pop_front().unwrap_or(Step::Pass);
        if self.faults.denies.contains(&op) {
            return Err(Error::new(ErrorKind::Unauthorized, op, name, "denied"));
        }
        match step {
            Step::Fail(kind) => Err(Error::new(kind, op, name, "scripted")),
            Step::Delay(time, kind) => {
                let now = self.under_way.fetch_add(1, Ordering::SeqCst) + 1;
                self.most_under_way.fetch_max(now, Ordering::SeqCst);
                sleep(time).await;
                self.under_way.fetch_sub(1, Ordering::SeqCst);
                Err(Error::new(kind, op, name, "scripted"))
            }
            step => Ok(step),
        }
    }

    fn holds(&self, name: &str, precondition: &Precondition) -> bool {
        let objects = lock(&self.objects);
        match precondition {
            Precondition::None => true,
            Precondition::Absent => {
                self.faults.ignores_if_none_match || !objects.contains_key(name)
            }
            Precondition::Matches(etag) => {
                let sent_right = self
                    .faults
                    .wants_unquoted
                    .as_ref()
                    .is_none_or(|quoted| !quoted.load(Ordering::SeqCst));
                self.faults.ignores_if_match
                    || (sent_right && objects.get(name).is_some_and(|it| it.etag == *etag))
            }
        }
    }

    fn find(&self, op: Op, key: &ObjectKey) -> Result<Stored, Error> {
        let found = lock(&self.objects).get(key.as_str()).cloned();
        found.ok_or_else(|| Error::not_found(op, key))
    }

    fn is_expired(&self, validity: Option<Validity>) -> bool {
        let window = self.faults.signature_minutes.map(|minutes| minutes * 60);
        validity.is_some_and(|it| {
            let age = date().duration_since(it.signed_at).as_secs();
            it.expires <= date() || window.is_some_and(|window| age >= window)
        })
    }

    fn write(
        &self,
        step: &Step,
        name: &str,
        precondition: &Precondition,
        op: Op,
        effect: impl FnOnce() -> ETag,
    ) -> Result<Answer<PutOutcome>, Error> {
        match step {
            Step::Lose => return Ok(lost(PutOutcome::Unknown)),
            Step::Conflict => return Ok(answer(PutOutcome::Conflict)),
            Step::Expire => return Ok(answer(PutOutcome::Expired)),
            _ => {}
        }
        let outcome = if self.holds(name, precondition) {
            PutOutcome::Created {
                etag: effect(),
                version: None,
            }
        } else {
            PutOutcome::Exists
        };
        match step {
            Step::LoseApplied => Ok(lost(PutOutcome::Unknown)),
            Step::FailApplied => {
                let mut error = Error::new(ErrorKind::Unavailable, op, name, "scripted 500");
                error.maybe_applied = true;
                Err(error)
            }
            _ => Ok(answer(outcome)),
        }
    }

    fn delete_one(&self, request: &DeleteRequest) -> DeleteOutcome {
        let mut objects = lock(&self.objects);
        let found = objects.get(request.key.as_str()).map(|it| it.etag.clone());
        match (&request.if_match, found) {
            (Some(etag), found)
                if !self.faults.ignores_if_match_of_deletes && found.as_ref() != Some(etag) =>
            {
                DeleteOutcome::PreconditionFailed
            }
            (_, None) => DeleteOutcome::NotFound,
            (_, Some(_)) => {
                objects.remove(request.key.as_str());
                DeleteOutcome::Deleted
            }
        }
    }
}

fn answer<T>(value: T) -> Answer<T> {
    Answer::new(value, Some(date()))
}

fn lost<T>(value: T) -> Answer<T> {
    let mut answer = Answer::new(value, None);
    answer.lost_at = Some(Instant::now());
    answer
}

fn meta(stored: &Stored) -> ObjectMeta {
    ObjectMeta {
        size: stored.body.len(),
        etag: stored.etag.clone(),
        version: None,
        last_modified: date(),
        storage_class: None,
        metadata: stored.metadata.clone(),
    }
}

#[async_trait]
impl ObjectStore for Scripted {
    async fn put(&self, put: Put) -> Result<Answer<PutOutcome>, Error> {
        let step = self.step(Op::Put, put.key.as_str()).await?;
        if self.is_expired(put.validity) {
            return Ok(answer(PutOutcome::Expired));
        }
        let mut metadata = put.metadata.clone();
        if let Some(id) = &put.put_id {
            metadata.insert(PUT_ID_METADATA.into(), id.0.clone());
        }
        self.write(&step, put.key.as_str(), &put.precondition, Op::Put, || {
            self.store(put.key.as_str(), put.body.clone(), metadata)
        })
    }

    async fn get(
        &self,
        key: &ObjectKey,
        range: Option<ByteRange>,
    ) -> Result<Answer<Object>, Error> {
        self.step(Op::Get, key.as_str()).await?;
        let stored = self.find(Op::Get, key)?;
        let bytes = stored.body.clone().into_bytes();
        let body = match range {
            Some(range) => bytes.slice(range.start as usize..bytes.len().min(range.end as usize)),
            None => bytes,
        };
        Ok(answer(Object {
            meta: meta(&stored),
            body: body.into(),
        }))
    }

    async fn head(&self, key: &ObjectKey) -> Result<Answer<ObjectMeta>, Error> {
        self.step(Op::Head, key.as_str()).await?;
        Ok(answer(meta(&self.find(Op::Head, key)?)))
    }

    async fn delete(
        &self,
        requests: &[DeleteRequest],
        validity: Option<Validity>,
    ) -> Result<Answer<Vec<DeleteOutcome>>, Error> {
        let names: Vec<_> = requests.iter().map(|it| it.key.as_str()).collect();
        let step = self.step(Op::Delete, &names.join(" ")).await?;
        let all = |outcome: DeleteOutcome| vec![outcome; requests.len()];
        match step {
            Step::Lose => return Ok(lost(all(DeleteOutcome::Unknown))),
            Step::RefuseKeys(words) => {
                return Ok(answer(all(DeleteOutcome::Refused(words.into()))));
            }
            Step::Expire => return Ok(answer(all(DeleteOutcome::Expired))),
            _ if self.is_expired(validity) => return Ok(answer(all(DeleteOutcome::Expired))),
            _ => {}
        }
        let outcomes = requests.iter().map(|it| self.delete_one(it)).collect();
        match step {
            Step::LoseApplied => Ok(lost(all(DeleteOutcome::Unknown))),
            _ => Ok(answer(outcomes)),
        }
    }

    async fn list(&self, request: &ListRequest) -> Result<Answer<ListPage>, Error> {
        let from = request.start_after.clone().unwrap_or_default();
        self.step(Op::List, &from).await?;
        let objects = lock(&self.objects);
        let mut entries: Vec<_> = objects
            .iter()
            .filter(|(name, _)| name.starts_with(request.prefix.as_str()))
            .filter(|(name, _)| self.faults.ignores_start_after || name.as_str() > from.as_str())
            .filter(|_| !self.faults.hides_new_keys)
            .map(|(name, stored)| ListEntry {
                key: key(name),
                size: stored.body.len(),
                etag: stored.etag.clone(),
                last_modified: date(),
                storage_class: None,
            })
            .collect();
        let keys_max = self.faults.keys_per_page.unwrap_or(request.keys_max);
        let truncated = entries.len() > keys_max;
        entries.truncate(keys_max);
        Ok(answer(ListPage { entries, truncated }))
    }

    async fn copy(&self, copy: Copy) -> Result<Answer<PutOutcome>, Error> {
        let name = copy.target.as_str();
        let step = self.step(Op::Copy, name).await?;
        let source = self.find(Op::Copy, &copy.source)?;
        let ignored = &Precondition::None;
        let precondition = if self.faults.ignores_conditions_of_copies {
            ignored
        } else {
            &copy.precondition
        };
        self.write(&step, name, precondition, Op::Copy, || {
            self.store(name, source.body.clone(), copy.metadata.clone())
        })
    }

    async fn create_multipart(
        &self,
        key: &ObjectKey,
        metadata: Metadata,
    ) -> Result<Answer<UploadId>, Error> {
        self.step(Op::CreateMultipart, key.as_str()).await?;
        if self.faults.refuses_multipart {
            return Err(Error::new(
                ErrorKind::Unsupported,
                Op::CreateMultipart,
                "",
                "",
            ));
        }
        let mut uploads = lock(&self.uploads);
        let id = format!("upload-{}", uploads.len());
        uploads.insert(id.clone(), (metadata, BTreeMap::new()));
        Ok(answer(UploadId(id)))
    }

    async fn upload_part(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
        number: u16,
        body: Body,
    ) -> Result<Answer<PartOutcome>, Error> {
        let step = self.step(Op::UploadPart, key.as_str()).await?;
        if matches!(step, Step::Lose) {
            return Ok(lost(PartOutcome::Unknown));
        }
        let etag = ETag::new(&hex::encode(Md5::digest(body.clone().into_bytes())));
        let mut uploads = lock(&self.uploads);
        let (_, parts) = uploads
            .get_mut(&upload.0)
            .ok_or_else(|| Error::not_found(Op::UploadPart, key))?;
        parts.insert(number, body);
        Ok(answer(PartOutcome::Stored(Part { number, etag })))
    }

    async fn complete_multipart(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
        parts: &[Part],
        precondition: Precondition,
    ) -> Result<Answer<PutOutcome>, Error> {
        let name = key.as_str();
        let step = self.step(Op::CompleteMultipart, name).await?;
        let (metadata, bodies) = lock(&self.uploads)
            .get(&upload.0)
            .cloned()
            .ok_or_else(|| Error::not_found(Op::CompleteMultipart, key))?;
        self.write(&step, name, &precondition, Op::CompleteMultipart, || {
            let body: Body = bodies
                .values()
                .flat_map(|part| part.parts().to_vec())
                .collect();
            self.store(name, body, metadata);
            let digests: Vec<u8> = parts
                .iter()
                .flat_map(|part| part.etag.as_md5().expect("our own tags"))
                .collect();
            let tag = format!("{}-{}", hex::encode(Md5::digest(digests)), parts.len());
            let mut objects = lock(&self.objects);
            let stored = objects.get_mut(name).expect("just stored");
            stored.etag = ETag::new(&tag);
            lock(&self.uploads).remove(&upload.0);
            stored.etag.clone()
        })
    }

    async fn abort_multipart(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
    ) -> Result<Answer<()>, Error> {
        self.step(Op::AbortMultipart, key.as_str()).await?;
        lock(&self.uploads).remove(&upload.0);
        Ok(answer(()))
    }

    async fn head_bucket(&self) -> Result<Answer<()>, Error> {
        self.step(Op::Bucket, "").await?;
        Ok(answer(()))
    }

    async fn bucket_settings(&self) -> Result<Answer<BucketSettings>, Error> {
        self.step(Op::Bucket, "").await?;
        let settings = self.faults.settings.clone();
        Ok(answer(settings.unwrap_or(BucketSettings {
            versioning: Setting::Known(Versioning::Off),
            lifecycle: Setting::Known(Vec::<LifecycleRule>::new()),
            object_lock: Setting::Known(false),
        })))
    }
}
