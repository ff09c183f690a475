//! Inserting a chunk by a copy that the S3 server makes of another datastore's object (decision 0018).
//!
//! It is an insert ([`super::insert`]) whose content does not pass through the daemon, so with the same steps, and what a crash leaves after
//! each is the same:
//! 0. The source: the first bytes of its object tell that it is there, how long it is and of which nature. Both must be as the index says.
//! 1. to 3. Guard, marker, upload marker.
//! 4. `CopyObject If-None-Match: *`, settled like a put: *created* is new; where something is there, or the answer was lost, a look decides.
//! 5. An empty marker: there is no content to cache.
//! 6. As of an insert.
//!
//! Whatever is neither *created* nor *there already* is no failure: the caller brings the chunk itself. A copy is tried twice at most.
//!
//! **Late.** A copy that was given up may arrive within T. Under its condition it replaces nothing: all it can leave is an object nobody
//! asked for, as a late put. Without the condition a late copy of a damaged source would replace the good chunk that was brought instead.
//!
//! **The source.** Its reader holds the snapshot, so no collection takes the chunk. It may turn out to be damaged while it is copied: the look
//! is registered like that of a fill before it begins, and a chunk that is condemned before the answer is called doubtful. No guard of the source
//! is held: nobody waits for a second one.
//!
//! Not promised: that the content is right (I7). It was verified on its way into the source, and a verification of the copy reads it.

use std::sync::Arc;

use s3_client::{Copy, ErrorKind, ObjectKey, Precondition, PutOutcome};

use super::guard::{FillTicket, Guard};
use super::insert::{ChunkBucket, ChunkStore, Inserted, Known};
use super::location::{ChunkLocation, locate};
use super::marker::Nature;
use super::object::{ObjectStart, read_start};
use crate::sabotage::{self, Rule};
use crate::session::SessionHandle;
use crate::step::Step;
use crate::{Digest, Error, Result, WriterSession};

/// How often a copy is asked for whose answer is lost or that cannot be made at the moment.
const ATTEMPTS_MAX: u32 = 2;

/// Where a bucket is, and what its server was found to do with copies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketPlace {
    /// The server with the keys it is asked with: buckets of the same one can be copied between.
    pub server: String,
    /// The bucket's name.
    pub bucket: String,
    /// A copy onto an object is refused if it is asked for under that condition.
    pub conditional_copy: bool,
}

/// A chunk that is to be copied.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CopyRequest {
    pub(crate) digest: Digest,
    /// Length before encoding, by the index.
    pub(crate) length: u64,
    /// Length that it has at most; more than `length` for the last chunk of an image.
    pub(crate) longest: u64,
    pub(crate) nature: Nature,
}

impl CopyRequest {
    /// Whether an object that begins like this can be the chunk.
    fn fits(&self, start: &ObjectStart) -> bool {
        let Some(kind) = start
            .kind
            .filter(|kind| Nature::of(kind.is_encrypted()) == self.nature)
        else {
            return false;
        };
        match start.size.checked_sub(kind.header_len() as u64) {
            Some(payload) if kind.is_compressed() => (1..=self.longest).contains(&payload),
            Some(payload) => (self.length..=self.longest).contains(&payload),
            None => false,
        }
    }
}

/// What a copy came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ServerCopy {
    /// The chunk is there and the session was told, with its bytes as stored.
    There(Inserted, u64),
    /// This chunk has to be brought.
    Bring(String),
    /// Likewise; and it was found damaged at the source meanwhile, so what the server has copied is not to be believed.
    Doubtful,
    /// The server makes no copies, or not for these keys: all have to be brought.
    Refused(String),
}

/// Step 4.
struct Copying<'a> {
    store: &'a ChunkStore,
    bucket: &'a ChunkBucket,
    copy: Copy,
    /// The source's object.
    start: ObjectStart,
}

impl ChunkStore {
    /// Whether the server can copy chunks of `source` here.
    pub(crate) fn copies_from(&self, source: &Self) -> bool {
        let (Some(ours), Some(theirs)) = (&self.bucket, &source.bucket) else {
            return false;
        };
        let (Some(here), Some(there)) = (&ours.place, &theirs.place) else {
            return false;
        };
        let one_and_the_same = here.bucket == there.bucket && ours.layout == theirs.layout;
        here.conditional_copy && here.server == there.server && !one_and_the_same
    }

    /// Inserts a chunk by a copy of the source's object, where [`copies_from`](Self::copies_from) says that this can be done. When this
    /// answers [`ServerCopy::There`], the chunk is in the backend (I1) and protected like one that was inserted (I2). Other answers leave nothing
    /// that an insert does not. Runs to its end whatever becomes of the caller.
    pub(crate) async fn insert_copy(
        self: &Arc<Self>,
        session: &WriterSession,
        source: &Self,
        request: CopyRequest,
    ) -> Result<ServerCopy> {
        let digest = request.digest;
        let (Some(_), Some(from)) = (&self.bucket, &source.bucket) else {
            return Ok(ServerCopy::Refused("there is no bucket".to_owned()));
        };
        // 0.
        let ticket = source.table.register_fill(digest);
        let ChunkLocation::Object(key) = locate(&from.layout, &digest);
        let start = match read_start(&*from.store, &key).await {
            Ok(Some(start)) if request.fits(&start) => start,
            Ok(Some(start)) => return Ok(bring(format!("at the source it is {start:?}"))),
            Ok(None) => return Ok(bring("the source does not have it".to_owned())),
            Err(error) => return Ok(bring(error.to_string())),
        };
        self.ready().await;
        session.alive()?;
        let handle = session.handle();
        // 1.
        let guard = self.table.guard_for_use(digest).await?;
        Step::InsertGuarded.passed();
        // 2.
        match self.touch(&guard, request.nature).await? {
            Known::No => {}
            Known::Yes => {
                Step::InsertTouched.passed();
                handle.tell(digest, told(request.length))?;
                return Ok(ServerCopy::There(Inserted::Duplicate, start.size));
            }
            Known::OfUnknownNature => {
                return Ok(bring(
                    "something is there that has to be looked at".to_owned(),
                ));
            }
        }
        let bucket = from.place.as_ref().map(|place| place.bucket.clone());
        let source = Source {
            bucket,
            key,
            start,
            ticket,
        };
        let this = Arc::clone(self);
        let rest = async move { this.copy_object(request, source, guard, handle).await };
        let task = self.env.spawn(rest);
        task.await
            .map_err(|_| Error::Refused("a copy has panicked".to_owned()))?
    }

    /// Steps 3 to 6.
    async fn copy_object(
        &self,
        request: CopyRequest,
        source: Source,
        guard: Guard,
        session: SessionHandle,
    ) -> Result<ServerCopy> {
        let Some(bucket) = &self.bucket else {
            return Ok(ServerCopy::Refused("there is no bucket".to_owned()));
        };
        // 3.
        let guard = self.touch_upload(guard).await?;
        Step::InsertMarked.passed();
        // 4.
        let ChunkLocation::Object(target) = locate(&bucket.layout, &request.digest);
        let copying = Copying {
            store: self,
            bucket,
            copy: Copy {
                bucket: source.bucket,
                ..Copy::new(source.key, target).when(precondition())
            },
            start: source.start,
        };
        let inserted = match copying.run().await {
            ServerCopy::There(inserted, _) => inserted,
            other => return Ok(other),
        };
        Step::InsertPut.passed();
        if source.ticket.is_overtaken() && !sabotage::is_off(Rule::CopySourceWatched) {
            return Ok(ServerCopy::Doubtful);
        }
        // 5. and 6.
        let (length, nature) = (told(request.length), request.nature);
        self.record_insert(bucket, guard, (&[], nature), length, session)
            .await?;
        let bytes = copying.start.size;
        if inserted == Inserted::New {
            self.added.add(bytes);
        }
        Ok(ServerCopy::There(inserted, bytes))
    }
}

/// What is copied.
struct Source {
    bucket: Option<String>,
    key: ObjectKey,
    start: ObjectStart,
    ticket: FillTicket,
}

fn bring(why: String) -> ServerCopy {
    ServerCopy::Bring(why)
}

/// A length as sessions are told it.
fn told(length: u64) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

fn precondition() -> Precondition {
    if sabotage::is_off(Rule::CopyConditional) {
        return Precondition::None;
    }
    Precondition::Absent
}

impl Copying<'_> {
    async fn run(&self) -> ServerCopy {
        let new = ServerCopy::There(Inserted::New, self.start.size);
        let mut why = String::new();
        for attempt in 1..=ATTEMPTS_MAX {
            if attempt > 1 {
                self.store.pause(attempt - 1).await;
            }
            let outcome = self.bucket.once.copy(self.copy.clone()).await;
            why = match outcome.map(|answer| answer.value) {
                Ok(PutOutcome::Created { .. }) => return new,
                Ok(outcome @ (PutOutcome::Exists | PutOutcome::Unknown)) => {
                    match self.look().await {
                        Some(there) => return there,
                        None => format!("{outcome:?}, and nothing is there"),
                    }
                }
                Ok(PutOutcome::Conflict) => "somebody else is writing it".to_owned(),
                Ok(PutOutcome::Expired) => return bring("the copy came too late".to_owned()),
                Err(error) if error.maybe_applied => match self.look().await {
                    Some(there) => return there,
                    None => error.to_string(),
                },
                Err(error) => match error.kind {
                    ErrorKind::Unauthorized
                    | ErrorKind::Unsupported
                    | ErrorKind::BucketMissing
                    | ErrorKind::Other => return ServerCopy::Refused(error.to_string()),
                    kind if kind.is_transient() => error.to_string(),
                    _ => return bring(error.to_string()),
                },
            };
        }
        bring(why)
    }

    /// What is under the target's key: the chunk, something that has to be looked at closer, or nothing.
    async fn look(&self) -> Option<ServerCopy> {
        match read_start(&*self.bucket.store, &self.copy.target).await {
            Ok(there) => there.map(|there| {
                if there.size == self.start.size && there.is_of_nature_of(&self.start) {
                    ServerCopy::There(Inserted::Duplicate, there.size)
                } else {
                    bring(format!("the target has {there:?}"))
                }
            }),
            Err(error) => Some(bring(error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BlobKind;

    #[test]
    fn what_cannot_be_the_chunk_is_not_copied() {
        let request = |length, longest, nature| CopyRequest {
            digest: Digest::of(b"a"),
            length,
            longest,
            nature,
        };
        let plain = request(100, 100, Nature::Plain);
        let tail = request(60, 100, Nature::Plain);
        let encrypted = request(100, 100, Nature::Encrypted);
        let table = [
            (plain, Some(BlobKind::Plain), 112, true),
            (plain, Some(BlobKind::Plain), 111, false),
            (plain, Some(BlobKind::Plain), 113, false),
            (plain, Some(BlobKind::Zstd), 50, true),
            (plain, Some(BlobKind::Zstd), 12, false),
            (plain, Some(BlobKind::Zstd), 113, false),
            (plain, Some(BlobKind::Encrypted), 144, false),
            (plain, None, 112, false),
            (plain, Some(BlobKind::Plain), 4, false),
            (tail, Some(BlobKind::Plain), 71, false),
            (tail, Some(BlobKind::Plain), 72, true),
            (tail, Some(BlobKind::Plain), 112, true),
            (tail, Some(BlobKind::Plain), 113, false),
            (encrypted, Some(BlobKind::Encrypted), 144, true),
            (encrypted, Some(BlobKind::EncryptedZstd), 60, true),
            (encrypted, Some(BlobKind::Zstd), 60, false),
        ];
        for (request, kind, size, expected) in table {
            let start = ObjectStart { kind, size };
            assert_eq!(request.fits(&start), expected, "{request:?} {start:?}");
        }
    }
}
