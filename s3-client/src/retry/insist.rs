//! A put that insists, for content that its key determines.
//!
//! 1. Attempts with `If-None-Match: *`, as many as the policy allows but one, or until its deadline.
//! 2. Where overwriting is not harmless: HEAD, and go on only if nothing is there.
//! 3. The last attempt without a condition: a backup must not fail because a stranger holds a conditional write of the
//!    key open (409) for as long as we are ready to wait.
//!
//! A crash after any step leaves the object absent or complete. The last attempt, if its answer is lost, may still
//! overwrite within the late-request bound, which `lost_at` tells (I8); nature and content of the key stay (I11).

use tokio::time::Instant;

use super::{Attempts, Retry};
use crate::{
    Answer, ETag, Error, ObjectMeta, ObjectStore, Op, Optional, Precondition, Put, PutOutcome,
    VersionId,
};

/// Whether the last attempt may replace an object that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overwrite {
    /// Yes: the content was verified against the key.
    Harmless,
    /// Only if a HEAD just before says that nothing is there: the content cannot be verified.
    OnlyIfAbsent,
}

/// What an insisting put came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InsistOutcome {
    /// The object is stored and durable.
    Created {
        /// Tag of the stored object.
        etag: ETag,
        /// Its version, in a versioned bucket.
        version: Option<VersionId>,
        /// Whether it took the last, unconditional attempt.
        unconditional: bool,
    },
    /// 412: something is there, which says nothing of its content. After an attempt whose answer was lost it may be our
    /// own.
    Exists,
    /// The HEAD before the last attempt found this object, so there was no last attempt.
    Occupied(ObjectMeta),
    /// 409 to all attempts, the unconditional one included. Nothing was written.
    Conflict,
    /// The answer of an attempt was lost, and no later one settled it.
    Unknown {
        /// Whether the unconditional attempt was sent, which overwrites if it takes effect late.
        unconditional: bool,
    },
    /// The request came after its validity had ended; it has no effect and will have none.
    Expired,
}

impl<S: ObjectStore + ?Sized> Retry<S> {
    /// Puts an object whose content its key determines; `put.precondition` is not looked at. See the module page for
    /// the steps and [`InsistOutcome`] for the results. With a policy of a single attempt there are two, one of each
    /// kind.
    ///
    /// Errors: of the last attempt, or of the HEAD, if no attempt was lost.
    pub async fn put_insisting(
        &self,
        mut put: Put,
        overwrite: Overwrite,
    ) -> Result<Answer<InsistOutcome>, Error> {
        // 1.
        put.precondition = Precondition::Absent;
        let mut attempts = self.attempts(Op::Put);
        loop {
            let result = self.inner.put(put.clone()).await;
            let Some(kind) = attempts.note_write(&result) else {
                let result = self.settle_write((&put).into(), &attempts, result).await;
                return result.map(|answer| insisted(answer, false));
            };
            let waited = attempts.again(kind).await;
            if !waited {
                attempts.count();
            }
            if !waited || attempts.made >= self.policy.attempts_max {
                break;
            }
        }
        // 2.
        if overwrite == Overwrite::OnlyIfAbsent {
            match self.head(&put.key).await.optional() {
                Ok(None) => {}
                Ok(Some(found)) => return Ok(occupied(&put, &attempts, found)),
                Err(error) if attempts.lost_at.is_none() => return attempts.merged(Err(error)),
                Err(_) => {
                    let unknown = InsistOutcome::Unknown {
                        unconditional: false,
                    };
                    return Ok(with_loss(unknown, &attempts));
                }
            }
        }
        // 3.
        put.precondition = Precondition::None;
        let result = self.inner.put(put).await;
        attempts.note_write(&result);
        attempts
            .settled(result)
            .map(|answer| insisted(answer, true))
    }
}

fn occupied(
    put: &Put,
    attempts: &Attempts<'_>,
    found: Answer<ObjectMeta>,
) -> Answer<InsistOutcome> {
    let is_ours = put.put_id.is_some() && found.value.put_id() == put.put_id;
    let mut answer = found.map(|meta| {
        if is_ours {
            InsistOutcome::Created {
                etag: meta.etag,
                version: meta.version,
                unconditional: false,
            }
        } else {
            InsistOutcome::Occupied(meta)
        }
    });
    answer.lost_at = attempts.lost_at;
    answer
}

fn with_loss(outcome: InsistOutcome, attempts: &Attempts<'_>) -> Answer<InsistOutcome> {
    let mut answer = Answer::new(outcome, None);
    answer.lost_at = attempts.lost_at.or_else(|| Some(Instant::now()));
    answer
}

fn insisted(answer: Answer<PutOutcome>, unconditional: bool) -> Answer<InsistOutcome> {
    answer.map(|outcome| match outcome {
        PutOutcome::Created { etag, version } => InsistOutcome::Created {
            etag,
            version,
            unconditional,
        },
        PutOutcome::Exists => InsistOutcome::Exists,
        PutOutcome::Conflict => InsistOutcome::Conflict,
        PutOutcome::Unknown => InsistOutcome::Unknown { unconditional },
        PutOutcome::Expired => InsistOutcome::Expired,
    })
}
