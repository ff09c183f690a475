//! Deletion of one object or of a batch.
//!
//! A single key goes by DeleteObject, several by DeleteObjects. Where the server does not implement batches, which is
//! remembered, they go one by one, [`SINGLE_DELETES_MAX`] at a time.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use aws_sdk_s3::types::{Delete, ObjectIdentifier};
use futures_util::{StreamExt, stream};
use tokio::time::Instant;

use super::AwsStore;
use super::answer::{Asked, Failure, failure, refusal};
use crate::{
    Answer, DeleteOutcome, DeleteRequest, Error, ErrorKind, ObjectKey, Op, PAGE_KEYS_MAX, Validity,
};

/// Most single deletes under way at a time in place of one batch.
const SINGLE_DELETES_MAX: usize = 8;

impl AwsStore {
    pub(super) async fn delete_objects(
        &self,
        requests: &[DeleteRequest],
        validity: Option<Validity>,
    ) -> Result<Answer<Vec<DeleteOutcome>>, Error> {
        let key = requests.first().map_or("", |request| request.key.as_str());
        let asked = Asked::new(Op::Delete, key);
        if requests.is_empty() || requests.len() > PAGE_KEYS_MAX {
            let message = format!("a batch of {} keys", requests.len());
            return Err(asked.error(ErrorKind::Other, message));
        }
        if self.is_expired(validity) {
            let outcomes = vec![DeleteOutcome::Expired; requests.len()];
            return Ok(Answer::new(outcomes, None));
        }
        if let [request] = requests {
            let answer = self.delete_one(request, validity).await?;
            return Ok(answer.map(|outcome| vec![outcome]));
        }
        if self.batch_delete.load(Ordering::Relaxed) {
            match self.delete_batch(requests, validity).await {
                Err(error) if error.kind == ErrorKind::Unsupported => {
                    tracing::info!("the server has no batch delete, deleting one by one");
                    self.batch_delete.store(false, Ordering::Relaxed);
                }
                answered => return answered,
            }
        }
        self.delete_singly(requests, validity).await
    }

    async fn delete_one(
        &self,
        request: &DeleteRequest,
        validity: Option<Validity>,
    ) -> Result<Answer<DeleteOutcome>, Error> {
        let asked = Asked::new(Op::Delete, request.key.as_str());
        let ask = self.ask();
        let operation = self
            .client
            .delete_object()
            .bucket(&self.bucket)
            .key(request.key.as_str())
            .set_if_match(request.if_match.as_ref().map(|etag| self.tag_text(etag)))
            .set_version_id(request.version.as_ref().map(|version| version.0.clone()))
            .customize();
        let outcome = match ask.attach(operation, validity).send().await {
            Ok(_) => DeleteOutcome::Deleted,
            Err(error) => match failure(&error, asked) {
                Failure::PreconditionFailed => DeleteOutcome::PreconditionFailed,
                Failure::Conflict(message) => DeleteOutcome::Refused(message),
                Failure::Lost { at, .. } => {
                    let mut answer = self.answer(&ask, DeleteOutcome::Unknown);
                    answer.lost_at = Some(at);
                    return Ok(answer);
                }
                Failure::Answered(error) => match error.kind {
                    ErrorKind::NotFound => DeleteOutcome::NotFound,
                    ErrorKind::ClockSkewed if validity.is_some() => DeleteOutcome::Expired,
                    ErrorKind::Unauthorized if speaks_of_a_lock(&error.message) => {
                        DeleteOutcome::Locked
                    }
                    _ => return Err(error),
                },
            },
        };
        Ok(self.answer(&ask, outcome))
    }

    async fn delete_batch(
        &self,
        requests: &[DeleteRequest],
        validity: Option<Validity>,
    ) -> Result<Answer<Vec<DeleteOutcome>>, Error> {
        let asked = Asked::new(Op::Delete, requests[0].key.as_str());
        let ask = self.ask().with_content_md5();
        let identifiers = requests.iter().map(|request| {
            ObjectIdentifier::builder()
                .key(request.key.as_str())
                .set_version_id(request.version.as_ref().map(|version| version.0.clone()))
                .set_e_tag(request.if_match.as_ref().map(|etag| self.tag_text(etag)))
                .build()
                .expect("the key is set")
        });
        let delete = Delete::builder()
            .set_objects(Some(identifiers.collect()))
            .build()
            .expect("the objects are set");
        let operation = self
            .client
            .delete_objects()
            .bucket(&self.bucket)
            .delete(delete)
            .customize();
        let output = match ask.attach(operation, validity).send().await {
            Ok(output) => output,
            Err(error) => {
                let outcome = match failure(&error, asked) {
                    Failure::Lost { reason, at, .. } => {
                        tracing::debug!(reason, keys = requests.len(), "answer to delete lost");
                        let outcomes = vec![DeleteOutcome::Unknown; requests.len()];
                        let mut answer = self.answer(&ask, outcomes);
                        answer.lost_at = Some(at);
                        return Ok(answer);
                    }
                    Failure::Answered(error)
                        if validity.is_some() && error.kind == ErrorKind::ClockSkewed =>
                    {
                        DeleteOutcome::Expired
                    }
                    Failure::Conflict(message) => DeleteOutcome::Refused(message),
                    other => return Err(other.into_error(asked)),
                };
                return Ok(self.answer(&ask, vec![outcome; requests.len()]));
            }
        };
        let mut told: HashMap<(&str, Option<&str>), DeleteOutcome> = HashMap::new();
        for deleted in output.deleted() {
            let key = deleted.key().unwrap_or_default();
            told.insert((key, deleted.version_id()), DeleteOutcome::Deleted);
        }
        for error in output.errors() {
            let outcome = refused(error.code(), error.message());
            told.insert(
                (error.key().unwrap_or_default(), error.version_id()),
                outcome,
            );
        }
        let outcomes: Vec<_> = requests
            .iter()
            .map(|request| outcome_of(&told, request))
            .collect();
        let is_silent = outcomes.contains(&DeleteOutcome::Unknown);
        let mut answer = self.answer(&ask, outcomes);
        if is_silent {
            answer.lost_at = Some(Instant::now());
        }
        Ok(answer)
    }

    async fn delete_singly(
        &self,
        requests: &[DeleteRequest],
        validity: Option<Validity>,
    ) -> Result<Answer<Vec<DeleteOutcome>>, Error> {
        let deletes: Vec<_> = requests
            .iter()
            .map(|request| self.delete_one(request, validity))
            .collect();
        let answers: Vec<_> = stream::iter(deletes)
            .buffered(SINGLE_DELETES_MAX)
            .collect()
            .await;
        let mut merged = Answer::new(Vec::with_capacity(requests.len()), None);
        for answer in answers {
            let outcome = match answer {
                Ok(answer) => {
                    merged.date = merged.date.max(answer.date);
                    merged.lost_at = merged.lost_at.max(answer.lost_at);
                    answer.value
                }
                // A 5xx may have deleted the object, which the batch's caller learns like a lost answer.
                Err(error) if error.maybe_applied => {
                    merged.lost_at = merged.lost_at.max(Some(Instant::now()));
                    DeleteOutcome::Unknown
                }
                Err(error) => DeleteOutcome::Refused(single_refusal(&error)),
            };
            merged.value.push(outcome);
        }
        Ok(merged)
    }
}

/// The outcome the server told for a key. With a version asked for, some servers repeat it and some do not.
fn outcome_of(
    told: &HashMap<(&str, Option<&str>), DeleteOutcome>,
    request: &DeleteRequest,
) -> DeleteOutcome {
    let key: &ObjectKey = &request.key;
    let version = request.version.as_ref().map(|version| version.0.as_str());
    told.get(&(key.as_str(), version))
        .or_else(|| told.get(&(key.as_str(), None)))
        .cloned()
        // A key that the answer does not mention may be gone or not.
        .unwrap_or(DeleteOutcome::Unknown)
}

fn refused(code: Option<&str>, message: Option<&str>) -> DeleteOutcome {
    let words = refusal(code, message);
    match code {
        Some("PreconditionFailed") => DeleteOutcome::PreconditionFailed,
        Some("NoSuchKey" | "NoSuchVersion") => DeleteOutcome::NotFound,
        Some("AccessDenied" | "InvalidRequest" | "ObjectLocked") if speaks_of_a_lock(&words) => {
            DeleteOutcome::Locked
        }
        _ => DeleteOutcome::Refused(words),
    }
}

/// The text of a single delete that failed, in the form of a batch's refusal.
fn single_refusal(error: &Error) -> String {
    let code = match error.kind {
        ErrorKind::Throttled => "SlowDown",
        ErrorKind::Unavailable | ErrorKind::Timeout => "ServiceUnavailable",
        ErrorKind::Unauthorized => "AccessDenied",
        _ => "Error",
    };
    refusal(Some(code), Some(&error.to_string()))
}

fn speaks_of_a_lock(message: &str) -> bool {
    let words = message.to_lowercase();
    [
        "object lock",
        "objectlock",
        "retention",
        "legal hold",
        "worm",
    ]
    .iter()
    .any(|sign| words.contains(sign))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::VersionId;

    #[test]
    fn keys_find_their_outcome_with_and_without_version() {
        let mut request = DeleteRequest::from(ObjectKey::new("a").expect("a key"));
        let told = HashMap::from([(("a", None), DeleteOutcome::Deleted)]);
        assert_eq!(outcome_of(&told, &request), DeleteOutcome::Deleted);
        request.version = Some(VersionId("1".into()));
        assert_eq!(outcome_of(&told, &request), DeleteOutcome::Deleted);
        let told = HashMap::from([(("b", None), DeleteOutcome::Deleted)]);
        assert_eq!(outcome_of(&told, &request), DeleteOutcome::Unknown);
    }

    #[test]
    fn refusals_are_told_apart() {
        assert_eq!(
            refused(Some("PreconditionFailed"), None),
            DeleteOutcome::PreconditionFailed
        );
        let locked = "Access Denied because object protected by object lock.";
        assert_eq!(
            refused(Some("AccessDenied"), Some(locked)),
            DeleteOutcome::Locked
        );
        assert_eq!(
            refused(Some("InternalError"), Some("try again")),
            DeleteOutcome::Refused("InternalError: try again".into())
        );
    }
}
