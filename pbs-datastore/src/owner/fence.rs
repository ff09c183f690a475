//! The question asked before everything that cannot be undone: are we still the owner?
//!
//! A [`FencePass`] says that we were when S3 answered at `server_date`. Requests made with it are signed with that date
//! ([`FencePass::validity`]), so a process that was paused between check and request is refused by S3 once the
//! signature window has passed, and a take-over that has waited for window and late requests is safe from it.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use s3_client::{ErrorKind, ObjectKey, ObjectStore, Validity};
use tokio::time::Instant;

use super::record::Record;
use crate::Env;
use crate::error::{Error, Result};
use crate::sabotage::{self, Rule};

/// Proof of ownership at one moment. Neither cloned nor kept: who acts again asks again.
#[derive(Debug)]
pub struct FencePass {
    counter: u64,
    server_date: Timestamp,
    window: Duration,
}

impl FencePass {
    /// The ownership counter it was given under.
    pub fn counter(&self) -> u64 {
        self.counter
    }

    /// S3's clock at the check.
    pub fn server_date(&self) -> Timestamp {
        self.server_date
    }

    /// With which date requests under this pass are signed, and until when they may take effect.
    pub fn validity(&self) -> Validity {
        let window = SignedDuration::try_from(self.window).unwrap_or(SignedDuration::MAX);
        Validity {
            signed_at: self.server_date,
            expires: self
                .server_date
                .saturating_add(window)
                .unwrap_or(Timestamp::MAX),
        }
    }
}

/// What ownership is compared with.
pub(super) enum Held {
    /// The record in the bucket.
    Record {
        store: Arc<dyn ObjectStore>,
        key: ObjectKey,
        instance: String,
        start: String,
    },
    /// A lock of the operating system, which nobody can take from a living process.
    Lock,
}

struct Inner {
    env: Env,
    held: Held,
    counter: u64,
    window: Duration,
    /// Why we are not the owner any more.
    lost: Mutex<Option<String>>,
    /// The server's clock and ours at the same moment.
    seen: Mutex<(Timestamp, Instant)>,
}

/// Answers whether this process is still the owner. Cheap to clone.
#[derive(Clone)]
pub struct Fence(Arc<Inner>);

impl fmt::Debug for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fence")
            .field("counter", &self.0.counter)
            .finish_non_exhaustive()
    }
}

impl Fence {
    pub(super) fn new(
        env: Env,
        held: Held,
        counter: u64,
        window: Duration,
        date: Option<Timestamp>,
    ) -> Self {
        let seen = (date.unwrap_or_else(|| env.now()), env.instant());
        Self(Arc::new(Inner {
            env,
            held,
            counter,
            window,
            lost: Mutex::new(None),
            seen: Mutex::new(seen),
        }))
    }

    /// Asks the bucket. [`Error::NotOwner`] is final: every later check fails too.
    pub async fn check(&self) -> Result<FencePass> {
        self.still_held()?;
        if sabotage::is_off(Rule::FenceChecked) {
            return Ok(self.pass());
        }
        let Held::Record {
            store,
            key,
            instance,
            start,
        } = &self.0.held
        else {
            return Ok(self.pass());
        };
        let asked = self.0.env.instant();
        let answer = match store.get(key, None).await {
            Err(error) if error.kind == ErrorKind::NotFound => {
                return Err(self.lose(format!("'{key}' has been removed")));
            }
            answer => answer?,
        };
        let bytes = answer.value.body.into_bytes();
        let record = serde_json::from_slice::<Record>(&bytes);
        match record {
            Ok(record) if record.is_of(instance, start, self.0.counter) => {}
            Ok(record) => {
                return Err(self.lose(format!("{} has taken it over", record.holder())));
            }
            Err(error) => return Err(self.lose(format!("'{key}' was replaced ({error})"))),
        }
        // The pass is dated before the request was sent: time that the answer took counts as passed.
        let date = answer.date.unwrap_or_else(|| self.0.env.now());
        *self.0.seen.lock().unwrap_or_else(PoisonError::into_inner) = (date, asked);
        self.still_held()?;
        Ok(FencePass {
            counter: self.0.counter,
            server_date: date,
            window: self.0.window,
        })
    }

    /// Without a request: what was last known. For writes that a condition protects by itself.
    pub fn cheap(&self) -> Result<FencePass> {
        self.still_held()?;
        Ok(self.pass())
    }

    /// The process knows that it is the owner no more, or has stopped being one.
    pub(super) fn lose(&self, reason: String) -> Error {
        let mut lost = self.0.lost.lock().unwrap_or_else(PoisonError::into_inner);
        let reason = lost.get_or_insert(reason);
        Error::NotOwner(format!(
            "this process does not own the datastore any more: {reason}"
        ))
    }

    /// Why we are not the owner any more, if we know.
    pub(crate) fn lost(&self) -> Option<String> {
        let lost = self.0.lost.lock().unwrap_or_else(PoisonError::into_inner);
        lost.clone()
    }

    fn still_held(&self) -> Result<()> {
        match self.lost() {
            None => Ok(()),
            Some(reason) => Err(Error::NotOwner(format!(
                "this process does not own the datastore any more: {reason}"
            ))),
        }
    }

    fn pass(&self) -> FencePass {
        let (date, at) = *self.0.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let elapsed = self.0.env.instant().saturating_duration_since(at);
        let elapsed = SignedDuration::try_from(elapsed).unwrap_or(SignedDuration::ZERO);
        FencePass {
            counter: self.0.counter,
            server_date: date.saturating_add(elapsed).unwrap_or(date),
            window: self.0.window,
        }
    }
}
