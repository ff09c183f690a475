//! Step 4 of an insert: uploading one chunk until an answer settles it, and judging what is there already (I11).

use std::time::Duration;

use bytes::Bytes;
use s3_client::{ETag, ErrorKind, Precondition, Put, PutOutcome};
use tokio::time::Instant;

use super::insert::{ChunkBucket, ChunkStore, Inserted, VerifiedChunk, nature_conflict};
use super::location::{ChunkLocation, locate};
use super::marker::Nature;
use super::object::{ObjectStart, read_object, read_object_surely, read_start};
use crate::sabotage::{self, Rule};
use crate::{BlobKind, DataBlob, Digest, Error, Result};

/// First pause between attempts of an upload; doubled each time, with full jitter.
const BACKOFF_BASE: Duration = Duration::from_millis(100);
/// Longest pause between attempts.
const BACKOFF_MAX: Duration = Duration::from_secs(20);
/// What a look at the object under our key tells.
enum Existing {
    /// Nothing is there (any more): start over.
    Absent,
    /// It is good: ours is a duplicate.
    Good,
    /// It is damaged and may be replaced.
    Replaceable(ETag),
}

/// Step 4 of one insert.
pub(super) struct Upload<'a> {
    pub(super) store: &'a ChunkStore,
    pub(super) bucket: &'a ChunkBucket,
    pub(super) chunk: &'a VerifiedChunk,
    /// Something is known to be there, and not of which nature it is.
    pub(super) look_first: bool,
}

impl Upload<'_> {
    /// Uploads until an answer settles it:
    /// - *created* → new.
    /// - *exists* (412) → [`Upload::existing`] decides; nothing there → the next attempt.
    /// - *conflict* (409), throttling, 5xx, no answer → the next attempt after a pause with full jitter.
    /// - the last attempt is unconditional, after a look: what is uploaded is right for its key, and a backup must not
    ///   fail because a stranger holds a conditional write open. If it arrives late, all it can replace is the same content,
    ///   or encrypted content that its digest proves to be another's forgery. Encrypted content, which may be wrong for its
    ///   key, is never put without the condition: given up, it could arrive after another has put the true chunk there (I11).
    /// - where a marker says that something is there and not of which nature, a look comes first.
    /// - without conditional writes every attempt is a look and an unconditional put (under A3; and for encrypted content
    ///   that arrives late, I11 then rests on the writers).
    pub(super) async fn run(&self) -> Result<Inserted> {
        let config = &self.store.config;
        let deadline = Instant::now() + config.upload_deadline;
        let mut unconditional = !self.bucket.conditional_create;
        let mut replace = None;
        for attempt in 1.. {
            let last = attempt >= config.upload_attempts_max || Instant::now() >= deadline;
            unconditional |= last && self.chunk.nature() != Nature::Encrypted;
            if last && sabotage::is_off(Rule::EncryptedStaysConditional) {
                unconditional = true;
            }
            let look = unconditional || (self.look_first && attempt == 1);
            if look && replace.is_none() {
                match self.existing().await? {
                    Existing::Good => return Ok(Inserted::Duplicate),
                    Existing::Absent => {}
                    Existing::Replaceable(etag) => replace = Some(etag),
                }
            }
            let precondition = match replace.take() {
                Some(etag) if self.bucket.conditional_overwrite => Precondition::Matches(etag),
                Some(_) => Precondition::None,
                None if unconditional => Precondition::None,
                None => Precondition::Absent,
            };
            let failure = match self
                .bucket
                .once
                .put(self.put(precondition))
                .await
                .map(|answer| answer.value)
            {
                Ok(PutOutcome::Created { .. }) => return Ok(Inserted::New),
                Ok(PutOutcome::Exists) => {
                    if sabotage::is_off(Rule::CheckAfterExists) {
                        return Ok(Inserted::Duplicate);
                    }
                    match self.existing().await? {
                        Existing::Good => return Ok(Inserted::Duplicate),
                        Existing::Absent => {}
                        Existing::Replaceable(etag) => replace = Some(etag),
                    }
                    self.unknown()
                }
                Ok(PutOutcome::Conflict | PutOutcome::Unknown | PutOutcome::Expired) => {
                    self.unknown()
                }
                Err(error) if error.kind == ErrorKind::NotFound => self.unknown(),
                Err(error) if error.kind.is_transient() => error.into(),
                Err(error) => return Err(error.into()),
            };
            if last {
                return Err(failure);
            }
            tracing::debug!(digest = %self.chunk.digest, attempt, %failure, "chunk upload repeated");
            self.store.pause(attempt).await;
        }
        Err(self.unknown())
    }

    fn unknown(&self) -> Error {
        Error::OutcomeUnknown {
            what: format!("the upload of chunk {}", self.chunk.digest),
        }
    }

    fn put(&self, precondition: Precondition) -> Put {
        let ChunkLocation::Object(key) = locate(&self.bucket.layout, &self.chunk.digest);
        Put::new(key, self.chunk.blob.to_body()).when(precondition)
    }

    /// Looks at what is under our key and decides by I11.
    async fn existing(&self) -> Result<Existing> {
        let (digest, nature) = (self.chunk.digest, self.chunk.nature());
        let ChunkLocation::Object(key) = locate(&self.bucket.layout, &digest);
        let Some(start) = read_start(&*self.bucket.store, &key).await? else {
            return Ok(Existing::Absent);
        };
        let ours = ObjectStart {
            kind: Some(self.chunk.blob.kind()),
            size: self.chunk.blob.encoded_len() as u64,
        };
        if start.size == ours.size && start.is_of_nature_of(&ours) {
            return Ok(Existing::Good);
        }
        // Another size: one digest may be stored plain or compressed. Or another nature.
        let Some(read) = read_object(&*self.bucket.store, &key).await? else {
            return Ok(Existing::Absent);
        };
        let mut etag = read.etag;
        let mut verdict = self.judge(read.body).await;
        if verdict != Verdict::Good {
            let Some(read) = read_object_surely(&*self.bucket.store, &key).await? else {
                return Ok(Existing::Absent);
            };
            etag = read.etag;
            verdict = self.judge(read.body).await;
        }
        match verdict {
            Verdict::Good => Ok(Existing::Good),
            Verdict::Damaged => {
                tracing::warn!(%digest, "the object of this chunk is damaged and is replaced by a verified upload");
                Ok(Existing::Replaceable(etag))
            }
            Verdict::Conflict => Err(nature_conflict(digest, nature)),
        }
    }

    async fn judge(&self, stored: Bytes) -> Verdict {
        let (digest, ours) = (self.chunk.digest, self.chunk.blob.kind());
        let judged = move || judge(&stored, &digest, ours);
        self.store.env.compute(judged).await
    }
}

impl ChunkStore {
    /// Waits after so many attempts, with full jitter.
    pub(super) async fn pause(&self, attempts: u32) {
        let longest = BACKOFF_BASE
            .saturating_mul(1 << (attempts - 1).min(16))
            .min(BACKOFF_MAX);
        let share = self.env.seed() % 1000;
        self.env.sleep(longest.mul_f64(share as f64 / 1000.0)).await;
    }
}

/// Whether stored bytes that start like this are, like a blob of kind `ours`, encrypted or not. Where the size is the
/// same too, this is all that is asked: a plain chunk that is intact has the content of its digest. Without it, a forged
/// encrypted blob of the right length would make the true chunk a duplicate (I11).
pub(super) fn same_nature(start: &[u8], ours: BlobKind) -> bool {
    BlobKind::of(start).is_some_and(|theirs| theirs.is_encrypted() == ours.is_encrypted())
}

/// What to do about a stored object of another size or nature than ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Good,
    Damaged,
    Conflict,
}

/// Judges stored bytes beside a blob of kind `ours` for the same digest (I11; interface 6.5).
pub(super) fn judge(stored: &Bytes, digest: &Digest, ours: BlobKind) -> Verdict {
    let parsed = DataBlob::parse(stored.clone()).ok();
    let theirs = parsed.as_ref().map(DataBlob::kind);
    let intact = parsed
        .as_ref()
        .is_some_and(|blob| blob.verify_crc().is_ok());
    match (theirs, ours.is_encrypted()) {
        // Both unencrypted: the digest tells.
        (Some(kind), false) if !kind.is_encrypted() => {
            let right = parsed.is_some_and(|blob| blob.verify_chunk(digest, None).is_ok());
            if right && intact {
                Verdict::Good
            } else {
                Verdict::Damaged
            }
        }
        // Both encrypted, and neither can be verified: whoever came first stays.
        (Some(kind), true) if kind.is_encrypted() => match intact {
            true if kind == BlobKind::Encrypted && ours == BlobKind::Encrypted => Verdict::Conflict,
            true => Verdict::Good,
            false => Verdict::Damaged,
        },
        // Of different nature.
        (Some(kind), true) if !kind.is_encrypted() => Verdict::Conflict,
        (Some(_), _) if intact => Verdict::Conflict,
        _ => Verdict::Damaged,
    }
}
