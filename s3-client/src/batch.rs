//! Deletion of any number of keys.

use jiff::Timestamp;
use tokio::time::Instant;

use crate::{DeleteOutcome, DeleteRequest, Error, ObjectStore, PAGE_KEYS_MAX, Validity};

/// What the deletion of many keys came to.
#[derive(Debug)]
pub struct Deleted {
    /// One per request, in the same order.
    pub outcomes: Vec<DeleteOutcome>,
    /// The server's clock at its last answer.
    pub date: Option<Timestamp>,
    /// When the last attempt whose answer was lost was given up (I8).
    pub lost_at: Option<Instant>,
    /// Why it ended early. The keys of the failed batch are `Unknown` where the server may have deleted them, else
    /// `Refused`, and so are all keys after it, which were not sent.
    pub error: Option<Error>,
}

/// Deletes in batches of at most [`PAGE_KEYS_MAX`] keys, one after the other. The first batch that fails ends it.
pub async fn delete_all(
    store: &dyn ObjectStore,
    requests: &[DeleteRequest],
    validity: Option<Validity>,
) -> Deleted {
    let mut deleted = Deleted {
        outcomes: Vec::with_capacity(requests.len()),
        date: None,
        lost_at: None,
        error: None,
    };
    for batch in requests.chunks(PAGE_KEYS_MAX) {
        match store.delete(batch, validity).await {
            Ok(answer) => {
                deleted.outcomes.extend(answer.value);
                deleted.date = answer.date.or(deleted.date);
                deleted.lost_at = deleted.lost_at.max(answer.lost_at);
            }
            Err(error) => {
                let outcome = if error.maybe_applied {
                    deleted.lost_at = error.lost_at.or_else(|| Some(Instant::now()));
                    DeleteOutcome::Unknown
                } else {
                    DeleteOutcome::Refused(error.to_string())
                };
                let tried = deleted.outcomes.len() + batch.len();
                deleted.outcomes.resize(tried, outcome);
                let unsent = DeleteOutcome::Refused("not sent after an earlier error".into());
                deleted.outcomes.resize(requests.len(), unsent);
                deleted.error = Some(error);
                break;
            }
        }
    }
    deleted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use crate::scripted::{Scripted, Step, key};

    #[tokio::test]
    async fn batches_have_a_thousand_keys_and_an_error_ends_them() {
        let store = Scripted::new();
        store.place("k0", "x");
        let requests: Vec<DeleteRequest> =
            (0..2500).map(|i| key(&format!("k{i}")).into()).collect();
        let deleted = delete_all(&store, &requests, None).await;
        assert_eq!(deleted.outcomes.len(), 2500);
        assert_eq!(deleted.outcomes[0], DeleteOutcome::Deleted);
        assert_eq!(deleted.outcomes[2499], DeleteOutcome::NotFound);
        assert!(deleted.error.is_none());
        assert_eq!(store.log().len(), 3);

        store.then([Step::LoseApplied, Step::Fail(ErrorKind::Unauthorized)]);
        let deleted = delete_all(&store, &requests, None).await;
        assert_eq!(deleted.outcomes.len(), 2500);
        assert_eq!(deleted.outcomes[999], DeleteOutcome::Unknown);
        assert!(matches!(deleted.outcomes[1000], DeleteOutcome::Refused(_)));
        assert!(matches!(deleted.outcomes[2499], DeleteOutcome::Refused(_)));
        assert!(deleted.lost_at.is_some() && deleted.error.is_some());
        assert_eq!(store.log().len(), 5);
    }
}
