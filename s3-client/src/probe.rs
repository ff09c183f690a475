//! What a bucket can do, found out by doing it.
//!
//! Providers differ where it hurts: some ignore conditions without a word, some want tags unquoted, some have no batch
//! delete. So nothing is believed: every capability is tried with a request that must succeed *and* one that must not.
//! What is learnt is stored with the datastore as [`Capabilities`]; the [`Report`] says what to do about the rest.
//!
//! The probe writes below `{prefix}.holdfast/probe/{id}/` only and deletes what it wrote at the end, also after failures.
//! A crash leaves a few small objects there, which any later probe with the same id removes.

mod checks;
mod report;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use self::report::{Check, Finding, Report, State};
use crate::{
    Answer, DeleteRequest, Error, ErrorKind, KeyPrefix, KeyRange, ObjectKey, ObjectStore, Op,
    WallClock, delete_all, list_all,
};

/// Whether and how `If-Match` works for writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IfMatch {
    /// Not at all, or ignored.
    #[default]
    Unsupported,
    /// With the tag in quotes.
    Quoted,
    /// With the bare tag.
    Unquoted,
}

/// What a bucket can do. Everything is off until a probe has seen it work. Field names are in kebab case.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct Capabilities {
    /// `If-None-Match: *` is obeyed.
    pub conditional_create: bool,
    /// `If-Match` of writes.
    pub conditional_replace: IfMatch,
    /// `If-Match` of single deletes is obeyed.
    pub conditional_delete: bool,
    /// A tag per key is obeyed in batch deletes.
    pub conditional_batch_delete: bool,
    /// Several keys can be deleted by one call (which the adapter turns into many where the server has no batches).
    pub batch_delete: bool,
    /// Ranges of objects can be read.
    pub ranges: bool,
    /// User metadata is kept.
    pub metadata: bool,
    /// Tags of simple objects are the MD5 of their content.
    pub etag_is_md5: bool,
    /// Objects can be copied within the bucket.
    pub copy: bool,
    /// `If-None-Match: *` of copies is obeyed.
    pub conditional_copy: bool,
    /// Multipart uploads work.
    pub multipart: bool,
    /// Old versions of objects are kept.
    pub versioned: bool,
    /// Object lock is configured.
    pub object_lock: bool,
    /// A signature of this age in seconds was refused, a somewhat younger one accepted. `None`: not probed, or even a
    /// day was accepted.
    pub signature_window_seconds: Option<u64>,
}

/// How to probe.
#[derive(Clone)]
pub struct ProbeOptions {
    /// Names the scratch folder: 1 to 64 letters, digits and dashes, different for probes at the same time.
    pub id: String,
    /// Our wall clock, to compare with the server's.
    pub clock: WallClock,
    /// The adapter's switch ([`AwsStore::if_match_quoted`](crate::AwsStore::if_match_quoted)). The probe leaves it as
    /// it found it to work. Without a switch only the form in use is tried, and called quoted.
    pub if_match_quoted: Option<Arc<AtomicBool>>,
    /// Whether to try out how old a signature may be (four small requests).
    pub signature_window: bool,
}

impl std::fmt::Debug for ProbeOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProbeOptions")
            .field("id", &self.id)
            .field("signature_window", &self.signature_window)
            .finish_non_exhaustive()
    }
}

/// Result of one check: how it went, and a sentence.
type Checked = Result<(State, String), Error>;

struct Probe<'a> {
    store: &'a dyn ObjectStore,
    options: &'a ProbeOptions,
    scratch: KeyPrefix,
    capabilities: Capabilities,
    findings: Vec<Finding>,
    denied: BTreeSet<Op>,
    /// The server's clock at its latest answer.
    date: Option<Timestamp>,
    /// Seconds by which the server's clock is ahead of ours.
    ahead_seconds: Option<i64>,
}

/// Finds out what the bucket of `store` can do below `prefix`. Never fails: what fails is a finding.
pub async fn probe(store: &dyn ObjectStore, prefix: &KeyPrefix, options: &ProbeOptions) -> Report {
    let scratch = prefix
        .child(".holdfast")
        .and_then(|folder| folder.child("probe"))
        .and_then(|folder| folder.child(&options.id));
    let scratch = match scratch {
        Ok(scratch) => scratch,
        Err(error) => {
            let detail = format!("the scratch folder has no valid name: {error}");
            return Report {
                capabilities: Capabilities::default(),
                findings: vec![Finding::new(Check::Bucket, State::Failed, detail)],
            };
        }
    };
    let mut probe = Probe {
        store,
        options,
        scratch,
        capabilities: Capabilities::default(),
        findings: Vec::new(),
        denied: BTreeSet::new(),
        date: None,
        ahead_seconds: None,
    };
    probe.run().await;
    probe.findings.sort_by_key(|finding| finding.check);
    Report {
        capabilities: probe.capabilities,
        findings: probe.findings,
    }
}

impl Probe<'_> {
    async fn run(&mut self) {
        let found = self.bucket().await;
        if !self.note(Check::Bucket, found) {
            return self.skip_from(Check::Write);
        }
        let found = self.write().await;
        if !self.note(Check::Write, found) {
            self.permissions();
            return self.skip_from(Check::Read);
        }
        let found = self.read().await;
        self.note(Check::Read, found);
        self.clock();
        let found = self.ranges().await;
        self.note(Check::Ranges, found);
        let found = self.conditional_create().await;
        self.note(Check::ConditionalCreate, found);
        let found = self.conditional_replace().await;
        self.note(Check::ConditionalReplace, found);
        let found = self.listing().await;
        self.note(Check::Listing, found);
        let found = self.copy().await;
        self.note(Check::Copy, found);
        let found = self.conditional_copy().await;
        self.note(Check::ConditionalCopy, found);
        let found = self.multipart().await;
        self.note(Check::Multipart, found);
        let found = self.conditional_delete().await;
        self.note(Check::ConditionalDelete, found);
        let found = self.batch_delete().await;
        self.note(Check::BatchDelete, found);
        self.settings().await;
        if self.options.signature_window {
            let found = self.signature_window().await;
            self.note(Check::SignatureWindow, found);
        } else {
            self.skip(Check::SignatureWindow, "not asked for");
        }
        let found = self.clean_up().await;
        self.note(Check::CleanUp, found);
        self.permissions();
    }

    /// Records a finding; false if it failed.
    fn note(&mut self, check: Check, found: Checked) -> bool {
        let (state, detail) = found.unwrap_or_else(|error| {
            if error.kind == ErrorKind::Unauthorized {
                self.denied.insert(error.op);
            }
            (State::Failed, advice(&error))
        });
        self.findings.push(Finding::new(check, state, detail));
        state != State::Failed
    }

    fn skip(&mut self, check: Check, why: &str) {
        self.findings
            .push(Finding::new(check, State::Skipped, why.to_owned()));
    }

    fn skip_from(&mut self, first: Check) {
        let noted: Vec<_> = self.findings.iter().map(|finding| finding.check).collect();
        for check in Check::ALL {
            if check >= first && !noted.contains(&check) {
                self.skip(check, "an earlier check failed");
            }
        }
    }

    /// Takes the date of an answer.
    fn seen<T>(&mut self, asked_at: Timestamp, answer: Answer<T>) -> T {
        if let Some(date) = answer.date {
            self.date = Some(date);
            let ahead = date.as_second() - asked_at.as_second();
            // The quickest answer tells most; each can only make the difference look larger.
            if self
                .ahead_seconds
                .is_none_or(|known| ahead.abs() < known.abs())
            {
                self.ahead_seconds = Some(ahead);
            }
        }
        answer.value
    }

    fn now(&self) -> Timestamp {
        (self.options.clock)()
    }

    fn key(&self, name: &str) -> ObjectKey {
        self.scratch
            .key(name)
            .expect("the names of the probe are short and printable")
    }

    fn set_quoted(&self, quoted: bool) {
        if let Some(switch) = &self.options.if_match_quoted {
            switch.store(quoted, Ordering::Relaxed);
        }
    }

    fn clock(&mut self) {
        let found = match self.ahead_seconds {
            None => (
                State::Warning,
                "the server sends no Date; check its clock by other means".to_owned(),
            ),
            Some(ahead) if ahead.abs() > 300 => (
                State::Failed,
                format!(
                    "the server's clock differs from ours by {ahead} seconds: set up NTP on both sides"
                ),
            ),
            Some(ahead) if ahead.abs() > 30 => (
                State::Warning,
                format!("the server's clock differs from ours by {ahead} seconds: check NTP"),
            ),
            Some(ahead) => (State::Ok, format!("{ahead} seconds apart")),
        };
        self.note(Check::Clock, Ok(found));
    }

    fn state(&self, check: Check) -> Option<State> {
        let found = self.findings.iter().find(|finding| finding.check == check);
        found.map(|finding| finding.state)
    }

    /// Which rights there are and which are missing, as far as requests that a datastore makes have shown.
    fn permissions(&mut self) {
        let found = if !self.denied.is_empty() {
            let shown = [
                (Check::Write, Op::Put),
                (Check::Read, Op::Get),
                (Check::Listing, Op::List),
                (Check::CleanUp, Op::Delete),
            ];
            let shown = shown.into_iter().filter(|(check, op)| {
                self.state(*check) == Some(State::Ok) && !self.denied.contains(op)
            });
            let allowed = actions(shown.map(|(_, op)| op));
            let denied = actions(self.denied.iter().copied());
            let detail = match allowed.as_str() {
                "" => format!("denied: allow the keys {denied}"),
                allowed => format!("{allowed} work; denied: allow the keys {denied}"),
            };
            (State::Failed, detail)
        } else if self.state(Check::Bucket) == Some(State::Warning) {
            let detail =
                "all that a datastore needs works; denied is HeadBucket, which only a check asks";
            (State::Warning, detail.to_owned())
        } else {
            (State::Ok, "nothing was denied".to_owned())
        };
        self.note(Check::Permissions, Ok(found));
    }

    /// Deletes whatever lies in the scratch folder.
    async fn clean_up(&mut self) -> Checked {
        let mut requests: Vec<DeleteRequest> = Vec::new();
        let everything = vec![KeyRange::all()];
        list_all(self.store, &self.scratch, everything, 1, |page| {
            requests.extend(page.entries.into_iter().map(|entry| entry.key.into()));
            std::future::ready(Ok::<_, Error>(()))
        })
        .await?;
        if let Some(error) = delete_all(self.store, &requests, None).await.error {
            return Err(error);
        }
        let mut left = 0;
        list_all(
            self.store,
            &self.scratch,
            vec![KeyRange::all()],
            1,
            |page| {
                left += page.entries.len();
                std::future::ready(Ok::<_, Error>(()))
            },
        )
        .await?;
        if left > 0 {
            let detail = format!(
                "{left} objects are still below '{}': delete them",
                self.scratch
            );
            return Ok((State::Warning, detail));
        }
        Ok((State::Ok, "nothing is left behind".into()))
    }
}

/// The permission that an operation needs, in the words of a bucket policy.
fn action(op: Op) -> &'static str {
    match op {
        Op::Put | Op::CreateMultipart | Op::UploadPart | Op::CompleteMultipart | Op::Copy => {
            "s3:PutObject"
        }
        Op::Get | Op::Head => "s3:GetObject",
        Op::Delete => "s3:DeleteObject",
        Op::List | Op::Bucket => "s3:ListBucket",
        Op::AbortMultipart => "s3:AbortMultipartUpload",
        Op::CreateBucket => "s3:CreateBucket",
    }
}

/// The permissions that operations need, each once.
fn actions(ops: impl Iterator<Item = Op>) -> String {
    let actions: BTreeSet<_> = ops.map(action).collect();
    actions.into_iter().collect::<Vec<_>>().join(", ")
}

/// What to do about an error.
fn advice(error: &Error) -> String {
    let hint = match error.kind {
        ErrorKind::BucketMissing => "create the bucket, or correct its name",
        ErrorKind::Unauthorized => "correct the keys, or allow them what was denied",
        ErrorKind::ClockSkewed => "set up NTP on this machine",
        ErrorKind::Unavailable | ErrorKind::Timeout => {
            "check endpoint, network and certificate, then probe again"
        }
        ErrorKind::Throttled => "lower the limits of this endpoint, then probe again",
        ErrorKind::Unsupported => "this server cannot do it",
        _ => "see the server's message",
    };
    format!("{error}: {hint}")
}
