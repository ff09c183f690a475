//! Retries. This is the only place that sends a request again.
//!
//! What may be sent again, and what a second answer means, depends on the operation:
//! - Reads are idempotent.
//! - An unconditional put or copy, a part: sending it again stores the same once more.
//! - A conditional put or copy: sending it again is safe, but *412* then has two meanings, since an earlier attempt whose answer
//!   was lost (or was 5xx) may have been the winner. With a put-id the stored object tells; without one the content is
//!   determined by the key, and *exists* is what the caller wants to know.
//! - A delete: only the keys whose outcome is open are sent again. *Not found* after an attempt in doubt is our success.
//! - The end of a multipart upload: *no such upload* after an attempt in doubt is settled by the object's tag.
//!
//! Invariants: I8 — an attempt whose answer was lost is never forgotten: its time is merged into the final answer or
//! error whatever came of later attempts, and a definite-sounding answer that holds only for the last attempt becomes
//! `Unknown`. I9 — attempts, waits and the total time are bounded; waits have full jitter from a seeded source.

mod delete;
mod insist;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use md5::{Digest, Md5};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

pub use self::insist::{InsistOutcome, Overwrite};
use crate::{
    Answer, Body, BucketSettings, ByteRange, Copy, DeleteOutcome, DeleteRequest, ETag, Error,
    ErrorKind, ListPage, ListRequest, Metadata, Meter, Object, ObjectKey, ObjectMeta, ObjectStore,
    Op, Optional, Part, PartOutcome, Precondition, Put, PutId, PutOutcome, UploadId, Validity,
};

/// How often and how long requests are tried. Field names are in kebab case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct RetryPolicy {
    /// Attempts, the first one included: 1 to 100. Default: 8.
    pub attempts_max: u32,
    /// Milliseconds of the longest wait before the second attempt; it doubles with each further one. 1 to 60,000.
    /// Default: 200.
    pub backoff_base_ms: u64,
    /// The same when the server asks to slow down. 1 to 60,000. Default: 2000.
    pub throttle_base_ms: u64,
    /// Milliseconds no single wait exceeds: `backoff-base-ms` and `throttle-base-ms` to 600,000. Default: 20,000.
    pub backoff_max_ms: u64,
    /// Milliseconds after the first attempt began, after which no further one begins: 1000 to 3,600,000.
    /// Default: 180,000.
    pub deadline_ms: u64,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts_max: 8,
            backoff_base_ms: 200,
            throttle_base_ms: 2000,
            backoff_max_ms: 20_000,
            deadline_ms: 180_000,
        }
    }
}

impl RetryPolicy {
    /// Everything that is wrong with it, one sentence each; empty if it can be used.
    pub fn validate(&self) -> Vec<String> {
        let base = self.backoff_base_ms.max(self.throttle_base_ms).max(1);
        [
            ("attempts-max", u64::from(self.attempts_max), 1, 100),
            ("backoff-base-ms", self.backoff_base_ms, 1, 60_000),
            ("throttle-base-ms", self.throttle_base_ms, 1, 60_000),
            ("backoff-max-ms", self.backoff_max_ms, base, 600_000),
            ("deadline-ms", self.deadline_ms, 1000, 3_600_000),
        ]
        .into_iter()
        .filter(|(_, value, least, most)| value < least || value > most)
        .map(|(name, value, least, most)| format!("{name} must be {least} to {most}, not {value}"))
        .collect()
    }

    /// The longest wait before attempt `number` (from 2).
    fn wait_max(&self, number: u32, throttled: bool) -> Duration {
        let base = if throttled {
            self.throttle_base_ms
        } else {
            self.backoff_base_ms
        };
        let doubled = base.saturating_mul(1 << (number - 2).min(30));
        Duration::from_millis(doubled.min(self.backoff_max_ms))
    }
}

/// A store that tries again.
pub struct Retry<S: ?Sized> {
    policy: RetryPolicy,
    random: Mutex<StdRng>,
    meter: Option<Arc<Meter>>,
    inner: Arc<S>,
}

impl<S: ?Sized> fmt::Debug for Retry<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retry")
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

impl<S: ObjectStore + ?Sized> Retry<S> {
    /// Wraps a store. The waits come from `seed`, so that a simulation can replay them.
    pub fn new(inner: Arc<S>, policy: RetryPolicy, seed: u64) -> Self {
        Self {
            policy,
            random: Mutex::new(StdRng::seed_from_u64(seed)),
            meter: None,
            inner,
        }
    }

    /// Counts retries there.
    #[must_use]
    pub fn metered(mut self, meter: Arc<Meter>) -> Self {
        self.meter = Some(meter);
        self
    }

    fn attempts(&self, op: Op) -> Attempts<'_> {
        Attempts {
            policy: &self.policy,
            random: &self.random,
            meter: self.meter.as_deref(),
            op,
            began: Instant::now(),
            made: 1,
            lost_at: None,
            in_doubt: false,
        }
    }

    /// Repeats a request that may be sent any number of times.
    async fn repeat<T, F, Fut>(&self, op: Op, call: F) -> Result<Answer<T>, Error>
    where
        T: Send,
        F: Fn() -> Fut + Send,
        Fut: Future<Output = Result<Answer<T>, Error>> + Send,
    {
        let mut attempts = self.attempts(op);
        loop {
            let result = call().await;
            attempts.note(&result);
            match &result {
                Err(error) if error.kind.is_transient() && attempts.again(error.kind).await => {}
                _ => return attempts.merged(result),
            }
        }
    }

    /// What the last answer to a put or a copy means after all the attempts before it.
    async fn settle_write(
        &self,
        written: Written<'_>,
        attempts: &Attempts<'_>,
        result: Result<Answer<PutOutcome>, Error>,
    ) -> Result<Answer<PutOutcome>, Error> {
        let settled = attempts.settled(result)?;
        if settled.value != PutOutcome::Exists || !attempts.in_doubt {
            return Ok(settled);
        }
        let outcome = match (written.put_id, written.precondition) {
            (Some(id), _) => match self.head(written.key).await.optional() {
                Ok(Some(found)) if found.value.put_id().as_ref() == Some(id) => {
                    PutOutcome::Created {
                        etag: found.value.etag,
                        version: found.value.version,
                    }
                }
                Ok(_) => PutOutcome::Exists,
                Err(_) => PutOutcome::Unknown,
            },
            (None, Precondition::Matches(_)) => PutOutcome::Unknown,
            (None, _) => PutOutcome::Exists,
        };
        Ok(attempts.unknown_if(outcome, settled))
    }

    /// Repeats a write until its outcome is more than *unknown* or *conflict*.
    async fn write<F, Fut>(
        &self,
        attempts: &mut Attempts<'_>,
        call: F,
    ) -> Result<Answer<PutOutcome>, Error>
    where
        F: Fn() -> Fut + Send,
        Fut: Future<Output = Result<Answer<PutOutcome>, Error>> + Send,
    {
        loop {
            let result = call().await;
            let again = attempts.note_write(&result);
            match again {
                Some(kind) if attempts.again(kind).await => {}
                _ => return result,
            }
        }
    }
}

/// A put or a copy, as far as it matters to what its answers mean.
struct Written<'a> {
    key: &'a ObjectKey,
    put_id: Option<&'a PutId>,
    precondition: &'a Precondition,
}

impl<'a> From<&'a Put> for Written<'a> {
    fn from(put: &'a Put) -> Self {
        Self {
            key: &put.key,
            put_id: put.put_id.as_ref(),
            precondition: &put.precondition,
        }
    }
}

impl<'a> From<&'a Copy> for Written<'a> {
    fn from(copy: &'a Copy) -> Self {
        Self {
            key: &copy.target,
            put_id: None,
            precondition: &copy.precondition,
        }
    }
}

/// The attempts at one request so far.
struct Attempts<'a> {
    policy: &'a RetryPolicy,
    random: &'a Mutex<StdRng>,
    meter: Option<&'a Meter>,
    op: Op,
    began: Instant,
    made: u32,
    /// When the last attempt without an answer was given up.
    lost_at: Option<Instant>,
    /// An attempt may have had its effect although nobody said so.
    in_doubt: bool,
}

impl Attempts<'_> {
    fn note<T>(&mut self, result: &Result<Answer<T>, Error>) {
        let lost_at = match result {
            Ok(answer) => answer.lost_at,
            Err(error) => {
                self.in_doubt |= error.maybe_applied;
                error.lost_at
            }
        };
        self.in_doubt |= lost_at.is_some();
        self.lost_at = self.lost_at.max(lost_at);
    }

    fn note_lost(&mut self) {
        self.in_doubt = true;
        self.lost_at = Some(self.lost_at.unwrap_or_else(Instant::now));
    }

    /// The same for a write; tells why it should be tried again, if it should.
    fn note_write(&mut self, result: &Result<Answer<PutOutcome>, Error>) -> Option<ErrorKind> {
        self.note(result);
        match result {
            Ok(answer) => match answer.value {
                PutOutcome::Unknown => {
                    if answer.lost_at.is_none() {
                        self.note_lost();
                    }
                    Some(ErrorKind::Timeout)
                }
                PutOutcome::Conflict => Some(ErrorKind::Unavailable),
                PutOutcome::Created { .. } | PutOutcome::Exists | PutOutcome::Expired => None,
            },
            Err(error) => Some(error.kind).filter(|kind| kind.is_transient()),
        }
    }

    /// Waits for the next attempt; false if there is none.
    async fn again(&mut self, after: ErrorKind) -> bool {
        if self.made >= self.policy.attempts_max {
            return false;
        }
        let wait_max = self
            .policy
            .wait_max(self.made + 1, after == ErrorKind::Throttled);
        let wait = {
            let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
            Duration::from_micros(random.random_range(0..=wait_max.as_micros() as u64))
        };
        if self.began.elapsed() + wait >= Duration::from_millis(self.policy.deadline_ms) {
            return false;
        }
        tracing::debug!(
            op = self.op.name(),
            attempt = self.made + 1,
            ?wait,
            ?after,
            "again"
        );
        sleep(wait).await;
        self.count();
        true
    }

    /// Counts a further attempt.
    fn count(&mut self) {
        self.made += 1;
        if let Some(meter) = self.meter {
            meter.count_retry(self.op);
        }
    }

    /// The last result with the memory of all attempts.
    fn merged<T>(&self, result: Result<Answer<T>, Error>) -> Result<Answer<T>, Error> {
        match result {
            Ok(mut answer) => {
                answer.lost_at = self.lost_at;
                Ok(answer)
            }
            Err(mut error) => {
                error.lost_at = self.lost_at;
                error.maybe_applied |= self.in_doubt;
                Err(error)
            }
        }
    }

    /// The last result of a write as what is known of all its attempts: *conflict*, *expired* and passing errors speak
    /// of the last one only.
    fn settled(
        &self,
        result: Result<Answer<PutOutcome>, Error>,
    ) -> Result<Answer<PutOutcome>, Error> {
        let result = self.merged(result);
        match result {
            Ok(answer)
                if self.in_doubt
                    && matches!(answer.value, PutOutcome::Conflict | PutOutcome::Expired) =>
            {
                Ok(self.unknown_if(PutOutcome::Unknown, answer))
            }
            Err(error) if self.lost_at.is_some() && error.kind.is_transient() => Ok(Answer {
                value: PutOutcome::Unknown,
                date: None,
                lost_at: self.lost_at,
            }),
            result => result,
        }
    }

    /// `answer` with another outcome; an unknown one gets a time.
    fn unknown_if(&self, outcome: PutOutcome, answer: Answer<PutOutcome>) -> Answer<PutOutcome> {
        let mut answer = answer.map(|_| outcome);
        answer.lost_at = self.lost_at;
        if answer.value == PutOutcome::Unknown && answer.lost_at.is_none() {
            answer.lost_at = Some(Instant::now());
        }
        answer
    }
}

/// The tag of a multipart object: the MD5 of its parts' MD5s and their number. `None` where tags are something else.
fn multipart_tag(parts: &[Part]) -> Option<ETag> {
    let mut hash = Md5::new();
    for part in parts {
        hash.update(part.etag.as_md5()?);
    }
    let digest = hex::encode(hash.finalize());
    Some(ETag::new(&format!("{digest}-{}", parts.len())))
}

#[async_trait]
impl<S: ObjectStore + ?Sized> ObjectStore for Retry<S> {
    async fn put(&self, put: Put) -> Result<Answer<PutOutcome>, Error> {
        let mut attempts = self.attempts(Op::Put);
        let result = self
            .write(&mut attempts, || self.inner.put(put.clone()))
            .await;
        self.settle_write(Written::from(&put), &attempts, result)
            .await
    }

    async fn get(
        &self,
        key: &ObjectKey,
        range: Option<ByteRange>,
    ) -> Result<Answer<Object>, Error> {
        let read = || async move {
            let answer = self.inner.get(key, range).await?;
            answer.try_map(|object| object.whole(key, range))
        };
        self.repeat(Op::Get, read).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<Answer<ObjectMeta>, Error> {
        self.repeat(Op::Head, || self.inner.head(key)).await
    }

    async fn delete(
        &self,
        requests: &[DeleteRequest],
        validity: Option<Validity>,
    ) -> Result<Answer<Vec<DeleteOutcome>>, Error> {
        self.delete_until_settled(requests, validity).await
    }

    async fn list(&self, request: &ListRequest) -> Result<Answer<ListPage>, Error> {
        self.repeat(Op::List, || self.inner.list(request)).await
    }

    async fn copy(&self, copy: Copy) -> Result<Answer<PutOutcome>, Error> {
        let mut attempts = self.attempts(Op::Copy);
        let result = self
            .write(&mut attempts, || self.inner.copy(copy.clone()))
            .await;
        self.settle_write(Written::from(&copy), &attempts, result)
            .await
    }

    async fn create_multipart(
        &self,
        key: &ObjectKey,
        metadata: Metadata,
    ) -> Result<Answer<UploadId>, Error> {
        self.repeat(Op::CreateMultipart, || {
            self.inner.create_multipart(key, metadata.clone())
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
        let mut attempts = self.attempts(Op::UploadPart);
        loop {
            let sent = self.inner.upload_part(key, upload, number, body.clone());
            let result = sent.await;
            attempts.note(&result);
            let again = match &result {
                Ok(answer) if answer.value == PartOutcome::Unknown => Some(ErrorKind::Timeout),
                Err(error) if error.kind.is_transient() => Some(error.kind),
                _ => None,
            };
            match again {
                Some(kind) if attempts.again(kind).await => {}
                _ => return attempts.merged(result),
            }
        }
    }

    async fn complete_multipart(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
        parts: &[Part],
        precondition: Precondition,
    ) -> Result<Answer<PutOutcome>, Error> {
        let mut attempts = self.attempts(Op::CompleteMultipart);
        let result = self
            .write(&mut attempts, || {
                self.inner
                    .complete_multipart(key, upload, parts, precondition.clone())
            })
            .await;
        let ambiguous = match &result {
            Ok(answer) => answer.value == PutOutcome::Exists,
            Err(error) => error.kind == ErrorKind::NotFound,
        };
        if !ambiguous || !attempts.in_doubt {
            return attempts.settled(result);
        }
        let expected = multipart_tag(parts);
        let outcome = match self.head(key).await {
            Ok(found) if expected.as_ref() == Some(&found.value.etag) => PutOutcome::Created {
                etag: found.value.etag,
                version: found.value.version,
            },
            _ => PutOutcome::Unknown,
        };
        let date = result.ok().and_then(|answer| answer.date);
        Ok(attempts.unknown_if(outcome, Answer::new(PutOutcome::Unknown, date)))
    }

    async fn abort_multipart(
        &self,
        key: &ObjectKey,
        upload: &UploadId,
    ) -> Result<Answer<()>, Error> {
        self.repeat(Op::AbortMultipart, || {
            self.inner.abort_multipart(key, upload)
        })
        .await
    }

    async fn head_bucket(&self) -> Result<Answer<()>, Error> {
        self.repeat(Op::Bucket, || self.inner.head_bucket()).await
    }

    async fn bucket_settings(&self) -> Result<Answer<BucketSettings>, Error> {
        self.repeat(Op::Bucket, || self.inner.bucket_settings())
            .await
    }
}
