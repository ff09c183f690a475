//! Deletes, tried again key by key.

use jiff::Timestamp;
use tokio::time::Instant;

use super::{Attempts, Retry};
use crate::{
    Answer, DeleteOutcome, DeleteRequest, Error, ErrorKind, ObjectStore, Op, Optional, Validity,
};

/// Codes of S3 that say *not now* of a single key, at the beginning of a refusal's text.
const TRANSIENT_CODES: [&str; 6] = [
    "InternalError",
    "SlowDown",
    "ServiceUnavailable",
    "RequestTimeout",
    "OperationAborted",
    "409 ",
];

fn is_transient(refusal: &str) -> bool {
    TRANSIENT_CODES.iter().any(|code| refusal.starts_with(code))
}

fn asks_to_slow_down(refusal: &str) -> bool {
    refusal.starts_with("SlowDown")
}

/// One key of the batch.
struct Open<'a> {
    request: &'a DeleteRequest,
    outcome: Option<DeleteOutcome>,
    /// An earlier attempt at this key may have deleted it, or may yet.
    in_doubt: bool,
}

impl Open<'_> {
    fn is_open(&self) -> bool {
        match &self.outcome {
            None | Some(DeleteOutcome::Unknown) => true,
            Some(DeleteOutcome::Refused(words)) => is_transient(words),
            Some(_) => false,
        }
    }

    /// What is known at the end. Answers that speak of the last attempt only do not undo a doubt. A key without any
    /// answer is refused with `words`.
    fn settled(self, words: &str) -> DeleteOutcome {
        match self.outcome {
            Some(DeleteOutcome::Refused(_) | DeleteOutcome::Expired) | None if self.in_doubt => {
                DeleteOutcome::Unknown
            }
            Some(outcome) => outcome,
            None => DeleteOutcome::Refused(words.to_owned()),
        }
    }
}

/// All outcomes, or the error of the last attempt.
fn conclude(
    keys: Vec<Open<'_>>,
    attempts: &Attempts<'_>,
    date: Option<Timestamp>,
    error: Option<Error>,
) -> Result<Answer<Vec<DeleteOutcome>>, Error> {
    let is_blank = keys.iter().all(|key| key.outcome.is_none());
    let words = match error {
        // Nothing is known of any key: the error says it all.
        Some(error) if is_blank && (attempts.lost_at.is_none() || !error.kind.is_transient()) => {
            return attempts.merged(Err(error));
        }
        Some(error) => error.to_string(),
        None => "not tried".to_owned(),
    };
    let outcomes: Vec<_> = keys.into_iter().map(|key| key.settled(&words)).collect();
    let mut lost_at = attempts.lost_at;
    if lost_at.is_none() && outcomes.contains(&DeleteOutcome::Unknown) {
        lost_at = Some(Instant::now());
    }
    Ok(Answer {
        value: outcomes,
        date,
        lost_at,
    })
}

impl<S: ObjectStore + ?Sized> Retry<S> {
    pub(super) async fn delete_until_settled(
        &self,
        requests: &[DeleteRequest],
        validity: Option<Validity>,
    ) -> Result<Answer<Vec<DeleteOutcome>>, Error> {
        let mut attempts = self.attempts(Op::Delete);
        let mut keys: Vec<Open<'_>> = requests
            .iter()
            .map(|request| Open {
                request,
                outcome: None,
                in_doubt: false,
            })
            .collect();
        let mut date = None;
        let error = loop {
            let open: Vec<usize> = (0..keys.len()).filter(|&i| keys[i].is_open()).collect();
            if open.is_empty() && !requests.is_empty() {
                break None;
            }
            let batch: Vec<_> = open.iter().map(|&i| keys[i].request.clone()).collect();
            let result = self.inner.delete(&batch, validity).await;
            attempts.note(&result);
            let (after, error) = match result {
                Ok(answer) if answer.value.len() == batch.len() => {
                    date = answer.date;
                    let outcomes = open.into_iter().zip(answer.value);
                    (self.take(&mut keys, outcomes).await, None)
                }
                Ok(answer) => {
                    let message = format!("{} outcomes for {}", answer.value.len(), batch.len());
                    let key = batch.first().map_or("", |request| request.key.as_str());
                    for i in open {
                        keys[i].in_doubt = true;
                    }
                    attempts.note_lost();
                    break Some(Error::new(ErrorKind::Corrupt, Op::Delete, key, message));
                }
                Err(error) => {
                    for i in open {
                        keys[i].in_doubt |= error.maybe_applied || error.lost_at.is_some();
                    }
                    if !error.kind.is_transient() {
                        break Some(error);
                    }
                    (Some(error.kind), Some(error))
                }
            };
            match after {
                Some(kind) if attempts.again(kind).await => {}
                _ => break error,
            }
        };
        conclude(keys, &attempts, date, error)
    }

    /// Takes over the outcomes of a batch; tells why to try again, if some keys are still open.
    async fn take(
        &self,
        keys: &mut [Open<'_>],
        outcomes: impl Iterator<Item = (usize, DeleteOutcome)> + Send,
    ) -> Option<ErrorKind> {
        let mut after = None;
        for (i, outcome) in outcomes {
            let key = &mut keys[i];
            let outcome = if key.in_doubt {
                self.reconsidered(key.request, outcome).await
            } else {
                outcome
            };
            key.in_doubt |= outcome == DeleteOutcome::Unknown;
            let kind = match &outcome {
                DeleteOutcome::Refused(words) if asks_to_slow_down(words) => ErrorKind::Throttled,
                _ => ErrorKind::Unavailable,
            };
            key.outcome = Some(outcome);
            if key.is_open() && after != Some(ErrorKind::Throttled) {
                after = Some(kind);
            }
        }
        after
    }

    /// What an outcome means after an attempt at the same key that may have deleted it.
    async fn reconsidered(&self, request: &DeleteRequest, outcome: DeleteOutcome) -> DeleteOutcome {
        match (&outcome, &request.if_match) {
            (DeleteOutcome::NotFound, _) => DeleteOutcome::Deleted,
            (DeleteOutcome::PreconditionFailed, Some(etag)) if request.version.is_none() => {
                match self.head(&request.key).await.optional() {
                    Ok(None) => DeleteOutcome::Deleted,
                    Ok(Some(found)) if found.value.etag != *etag => {
                        DeleteOutcome::PreconditionFailed
                    }
                    Ok(Some(_)) | Err(_) => DeleteOutcome::Unknown,
                }
            }
            _ => outcome,
        }
    }
}
