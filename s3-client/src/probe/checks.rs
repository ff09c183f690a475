//! The single checks. Each says what it saw in one sentence; errors of the store become findings in the caller.

use jiff::SignedDuration;
use md5::{Digest, Md5};

use super::{Check, Checked, IfMatch, Probe, State};
use crate::{
    Body, ByteRange, Copy, DeleteOutcome, DeleteRequest, ETag, Error, ErrorKind, LifecycleRule,
    ListRequest, Metadata, Object, ObjectKey, Op, Optional, Part, PartOutcome, Precondition, Put,
    PutOutcome, Setting, Validity, Versioning,
};

/// Needs form encoding in listings, percent encoding in paths and escaping in XML.
const ODD_NAME: &str = "odd/a b+c%20\u{fc}&<'";

const CONTENT: &str = "0123456789";

const METADATA: (&str, &str) = ("holdfast-probe", "kept");

/// A tag no object of the probe has.
const WRONG_TAG: &str = "ffffffffffffffffffffffffffffffff";

/// Ages of signatures that are tried, in minutes.
const SIGNATURE_AGES: [i64; 4] = [14, 16, 31, 1441];

#[expect(clippy::unnecessary_wraps, reason = "what the checks return")]
fn ok(detail: impl Into<String>) -> Checked {
    Ok((State::Ok, detail.into()))
}

#[expect(clippy::unnecessary_wraps, reason = "what the checks return")]
fn warning(detail: impl Into<String>) -> Checked {
    Ok((State::Warning, detail.into()))
}

#[expect(clippy::unnecessary_wraps, reason = "what the checks return")]
fn failed(detail: impl Into<String>) -> Checked {
    Ok((State::Failed, detail.into()))
}

/// A refusal to do what was asked, as opposed to trouble on the way.
fn is_refusal(error: &Error) -> bool {
    matches!(error.kind, ErrorKind::Unsupported | ErrorKind::Other)
}

impl Probe<'_> {
    pub(super) async fn bucket(&mut self) -> Checked {
        let asked_at = self.now();
        match self.store.head_bucket().await {
            Ok(answer) => {
                self.seen(asked_at, answer);
                ok("there")
            }
            // Nobody but this check asks; the others tell what a datastore may.
            Err(error) if error.kind == ErrorKind::Unauthorized => warning(format!(
                "{error}: whether it is there, the other checks tell"
            )),
            Err(error) => Err(error),
        }
    }

    async fn put(&mut self, put: Put) -> Result<PutOutcome, Error> {
        let asked_at = self.now();
        let answer = self.store.put(put).await?;
        Ok(self.seen(asked_at, answer))
    }

    /// Writes an object unconditionally and returns its tag.
    async fn place(&mut self, key: &ObjectKey, body: &'static str) -> Result<ETag, Error> {
        match self.put(Put::new(key.clone(), body)).await? {
            PutOutcome::Created { etag, .. } if !etag.as_str().is_empty() => Ok(etag),
            PutOutcome::Created { .. } => Ok(self.store.head(key).await?.value.etag),
            other => Err(Error::new(
                ErrorKind::Unavailable,
                Op::Put,
                key.as_str(),
                format!("an unconditional write came to {other:?}"),
            )),
        }
    }

    async fn fetch(&mut self, key: &ObjectKey, range: Option<ByteRange>) -> Result<Object, Error> {
        let asked_at = self.now();
        let answer = self.store.get(key, range).await?;
        Ok(self.seen(asked_at, answer))
    }

    async fn content(&mut self, key: &ObjectKey) -> Result<Option<Body>, Error> {
        let found = self.fetch(key, None).await.optional()?;
        Ok(found.map(|object| object.body))
    }

    pub(super) async fn write(&mut self) -> Checked {
        for name in ["object", ODD_NAME] {
            let mut put = Put::new(self.key(name), CONTENT);
            put.metadata = Metadata::from([(METADATA.0.to_owned(), METADATA.1.to_owned())]);
            match self.put(put).await? {
                PutOutcome::Created { .. } => {}
                other => return failed(format!("a plain write came to {other:?}")),
            }
        }
        ok("objects can be written")
    }

    pub(super) async fn read(&mut self) -> Checked {
        for name in ["object", ODD_NAME] {
            let object = self.fetch(&self.key(name), None).await?;
            if object.body != Body::from(CONTENT) {
                return failed(format!("'{name}' was not read back as it was written"));
            }
        }
        match self.content(&self.key("absent")).await {
            Ok(None) => {}
            Ok(Some(_)) => return failed("an object that nobody wrote can be read"),
            Err(error) if error.kind == ErrorKind::Unauthorized => {
                self.denied.insert(Op::List);
                return failed(format!(
                    "an object that is absent is called forbidden ({error}): allow the keys s3:ListBucket on the bucket, without conditions"
                ));
            }
            Err(error) => return Err(error),
        }
        let key = self.key("object");
        let meta = self.store.head(&key).await?.value;
        if meta.size != CONTENT.len() as u64 {
            return failed("HEAD does not tell the size of an object");
        }
        self.capabilities.metadata =
            meta.metadata.get(METADATA.0).map(String::as_str) == Some(METADATA.1);
        self.capabilities.etag_is_md5 =
            meta.etag.as_md5() == Some(Md5::digest(CONTENT.as_bytes()).into());
        self.storage_class(meta.storage_class.as_deref());
        if self.capabilities.metadata {
            ok("objects and metadata are read back as written")
        } else {
            failed("user metadata is not kept: lost answers of writes could not be settled")
        }
    }

    fn storage_class(&mut self, class: Option<&str>) {
        let found = match class {
            None => ok("standard"),
            Some(class) => warning(format!(
                "new objects get the class '{class}': reading, verifying and garbage collection may cost extra or wait; \
                 make the standard class the bucket's default"
            )),
        };
        self.note(Check::StorageClass, found);
    }

    pub(super) async fn ranges(&mut self) -> Checked {
        let range = ByteRange { start: 3, end: 6 };
        let object = self.fetch(&self.key("object"), Some(range)).await?;
        if object.body != Body::from("345") || object.meta.size != CONTENT.len() as u64 {
            return failed("a range of an object came back wrong");
        }
        self.capabilities.ranges = true;
        ok("parts of objects can be read")
    }

    pub(super) async fn conditional_create(&mut self) -> Checked {
        const WITHOUT: &str = "two writers of one key are told apart by this daemon alone; never use the bucket from \
                               two daemons";
        let key = self.key("create");
        let create = |body: &'static str| Put::new(key.clone(), body).when(Precondition::Absent);
        let first = match self.put(create("first")).await {
            Ok(outcome) => outcome,
            Err(error) if is_refusal(&error) => {
                return warning(format!(
                    "If-None-Match is refused ({}); {WITHOUT}",
                    error.message
                ));
            }
            Err(error) => return Err(error),
        };
        if !matches!(first, PutOutcome::Created { .. }) {
            return warning(format!(
                "If-None-Match on a new key came to {first:?}: it is understood the wrong way round; {WITHOUT}"
            ));
        }
        let second = self.put(create("second")).await?;
        if second != PutOutcome::Exists {
            return warning(format!(
                "If-None-Match is ignored: a second write came to {second:?}; {WITHOUT}"
            ));
        }
        if self.content(&key).await? != Some("first".into()) {
            return warning(format!(
                "If-None-Match is answered with 412, but the object was overwritten; {WITHOUT}"
            ));
        }
        self.capabilities.conditional_create = true;
        ok("If-None-Match is obeyed")
    }

    pub(super) async fn conditional_replace(&mut self) -> Checked {
        const WITHOUT: &str = "changes of manifests are guarded by this daemon alone";
        let forms: &[IfMatch] = if self.options.if_match_quoted.is_some() {
            &[IfMatch::Quoted, IfMatch::Unquoted]
        } else {
            &[IfMatch::Quoted]
        };
        let mut seen = String::new();
        for &form in forms {
            self.set_quoted(form == IfMatch::Quoted);
            match self.replace_as().await {
                Ok(None) => {
                    self.capabilities.conditional_replace = form;
                    let form = if form == IfMatch::Quoted {
                        "quoted"
                    } else {
                        "unquoted"
                    };
                    return ok(format!("If-Match is obeyed with {form} tags"));
                }
                Ok(Some(what)) => seen = what,
                Err(error) if is_refusal(&error) => seen = error.message,
                Err(error) => {
                    self.set_quoted(true);
                    return Err(error);
                }
            }
        }
        self.set_quoted(true);
        warning(format!(
            "If-Match of writes does not work ({seen}); {WITHOUT}"
        ))
    }

    /// Tries a wrong and the right tag in the form that is set; tells what went wrong.
    async fn replace_as(&mut self) -> Result<Option<String>, Error> {
        let key = self.key("replace");
        let etag = self.place(&key, "first").await?;
        let replace = |etag: ETag| Put::new(key.clone(), "next").when(Precondition::Matches(etag));
        let wrong = self.put(replace(ETag::new(WRONG_TAG))).await?;
        if wrong != PutOutcome::Exists || self.content(&key).await? != Some("first".into()) {
            return Ok(Some(format!("a write with a wrong tag came to {wrong:?}")));
        }
        let right = self.put(replace(etag)).await?;
        if !matches!(right, PutOutcome::Created { .. }) {
            return Ok(Some(format!(
                "a write with the right tag came to {right:?}"
            )));
        }
        Ok(None)
    }

    pub(super) async fn listing(&mut self) -> Checked {
        // Whatever the checks before have left.
        self.place(&self.key("listed"), "listed").await?;
        let mut request = ListRequest::new(self.scratch.clone());
        let asked_at = self.now();
        let answer = self.store.list(&request).await?;
        let page = self.seen(asked_at, answer);
        let names: Vec<_> = page.entries.iter().map(|entry| &entry.key).collect();
        for name in ["object", ODD_NAME, "listed"] {
            if !names.contains(&&self.key(name)) {
                return failed(format!(
                    "'{name}' was written and is not listed: listings are late or wrong, no datastore is safe here"
                ));
            }
        }
        if !names.is_sorted() {
            return failed("the listing is not in byte order");
        }
        let first = names[0].clone();
        request.start_after = Some(first.as_str().to_owned());
        request.keys_max = 1;
        let rest = self.store.list(&request).await?.value;
        if rest.entries.first().map(|entry| &entry.key) != names.get(1).copied() || !rest.truncated
        {
            return failed("the listing does not go on after a given key");
        }
        ok("what is written is listed at once, in order, from any key on")
    }

    pub(super) async fn copy(&mut self) -> Checked {
        let copy = Copy::new(self.key(ODD_NAME), self.key("copy"));
        let outcome = match self.store.copy(copy).await {
            Ok(answer) => answer.value,
            Err(error) if is_refusal(&error) => {
                return warning(format!(
                    "copies are refused ({}): damaged objects cannot be set aside",
                    error.message
                ));
            }
            Err(error) => return Err(error),
        };
        if !matches!(outcome, PutOutcome::Created { .. })
            || self.content(&self.key("copy")).await? != Some(CONTENT.into())
        {
            return warning(format!(
                "a copy came to {outcome:?}: damaged objects cannot be set aside"
            ));
        }
        self.capabilities.copy = true;
        ok("objects can be copied")
    }

    /// Servers may pass over a condition that they know of puts only, and then a copy overwrites what is there.
    pub(super) async fn conditional_copy(&mut self) -> Checked {
        const WITHOUT: &str =
            "syncs between datastores of this endpoint bring chunks through the daemon";
        if !self.capabilities.copy {
            return Ok((State::Skipped, format!("there are no copies; {WITHOUT}")));
        }
        let (source, target) = (self.key(ODD_NAME), self.key("copied"));
        self.place(&target, "first").await?;
        let copy = Copy::new(source, target.clone()).when(Precondition::Absent);
        let onto = match self.store.copy(copy.clone()).await {
            Ok(answer) => answer.value,
            Err(error) if is_refusal(&error) => {
                return warning(format!(
                    "If-None-Match of copies is refused ({}): {WITHOUT}",
                    error.message
                ));
            }
            Err(error) => return Err(error),
        };
        if onto != PutOutcome::Exists || self.content(&target).await? != Some("first".into()) {
            return warning(format!(
                "If-None-Match of copies is ignored: a copy onto an object came to {onto:?}: {WITHOUT}"
            ));
        }
        let new = self.key("copied-new");
        let made = self
            .store
            .copy(Copy {
                target: new.clone(),
                ..copy
            })
            .await?
            .value;
        if !matches!(made, PutOutcome::Created { .. })
            || self.content(&new).await? != Some(CONTENT.into())
        {
            return warning(format!(
                "If-None-Match of a copy to a new key came to {made:?}: {WITHOUT}"
            ));
        }
        self.capabilities.conditional_copy = true;
        ok("If-None-Match of copies is obeyed")
    }

    pub(super) async fn multipart(&mut self) -> Checked {
        const WITHOUT: &str = "archives larger than 5 GiB cannot be stored";
        let key = self.key("multipart");
        let abandoned = match self.store.create_multipart(&key, Metadata::new()).await {
            Ok(answer) => answer.value,
            Err(error) if is_refusal(&error) => {
                return warning(format!("refused ({}): {WITHOUT}", error.message));
            }
            Err(error) => return Err(error),
        };
        self.store.abort_multipart(&key, &abandoned).await?;
        let upload = self
            .store
            .create_multipart(&key, Metadata::new())
            .await?
            .value;
        let part = self
            .store
            .upload_part(&key, &upload, 1, CONTENT.into())
            .await?;
        let PartOutcome::Stored(part) = part.value else {
            return warning("the answer to a part was lost, probe again");
        };
        let parts: [Part; 1] = [part];
        let completed = self
            .store
            .complete_multipart(&key, &upload, &parts, Precondition::None)
            .await?;
        if !matches!(completed.value, PutOutcome::Created { .. })
            || self.content(&key).await? != Some(CONTENT.into())
        {
            return warning(format!(
                "an upload came to {:?}: {WITHOUT}",
                completed.value
            ));
        }
        self.capabilities.multipart = true;
        ok("uploads in parts work")
    }

    /// Deletes with a wrong and then with the right tag, alone or beside another key; tells what went wrong.
    async fn delete_with_tag(&mut self, beside: Option<&str>) -> Result<Option<String>, Error> {
        let key = self.key("guarded");
        let etag = self.place(&key, "first").await?;
        let companion = beside.map(|name| self.key(name));
        for (tag, expected) in [
            (ETag::new(WRONG_TAG), DeleteOutcome::PreconditionFailed),
            (etag, DeleteOutcome::Deleted),
        ] {
            let mut requests: Vec<DeleteRequest> = vec![key.clone().into()];
            requests[0].if_match = Some(tag);
            if let Some(companion) = &companion {
                self.place(companion, "x").await?;
                requests.push(companion.clone().into());
            }
            let outcome = self
                .store
                .delete(&requests, None)
                .await?
                .value
                .swap_remove(0);
            let is_there = self.content(&key).await?.is_some();
            if outcome != expected || is_there != (expected != DeleteOutcome::Deleted) {
                return Ok(Some(format!("{outcome:?} instead of {expected:?}")));
            }
        }
        Ok(None)
    }

    pub(super) async fn conditional_delete(&mut self) -> Checked {
        for beside in [None, Some("beside")] {
            let what = match self.delete_with_tag(beside).await {
                Ok(what) => what,
                Err(error) if is_refusal(&error) => Some(error.message),
                Err(error) => return Err(error),
            };
            match (what, beside) {
                (None, None) => self.capabilities.conditional_delete = true,
                (None, Some(_)) => self.capabilities.conditional_batch_delete = true,
                (Some(what), None) => {
                    return warning(format!(
                        "If-Match of deletes does not work ({what}); nothing here relies on it yet"
                    ));
                }
                (Some(what), Some(_)) => {
                    return warning(format!(
                        "If-Match works for single deletes, not in batches ({what}); nothing here relies on it yet"
                    ));
                }
            }
        }
        ok("If-Match of deletes is obeyed, single and in batches")
    }

    pub(super) async fn batch_delete(&mut self) -> Checked {
        let keys = ["batch-1", "batch-2", "odd/batch 3+&"].map(|name| self.key(name));
        for key in &keys {
            self.place(key, "x").await?;
        }
        let requests = keys.clone().map(DeleteRequest::from);
        let outcomes = self.store.delete(&requests, None).await?.value;
        for (key, outcome) in keys.iter().zip(&outcomes) {
            if *outcome != DeleteOutcome::Deleted || self.content(key).await?.is_some() {
                return failed(format!("deleting '{key}' among others came to {outcome:?}"));
            }
        }
        let listed = self
            .store
            .list(&ListRequest::new(self.scratch.clone()))
            .await?
            .value;
        if listed.entries.iter().any(|entry| keys.contains(&entry.key)) {
            return failed("deleted objects are still listed: no datastore is safe here");
        }
        self.capabilities.batch_delete = true;
        ok("several objects can be deleted at once")
    }

    pub(super) async fn settings(&mut self) {
        let settings = match self.store.bucket_settings().await {
            Ok(answer) => answer.value,
            Err(error) => {
                let words = error.to_string();
                for check in [Check::Versioning, Check::Lifecycle, Check::ObjectLock] {
                    self.note(check, warning(format!("not known: {words}")));
                }
                return;
            }
        };
        let versioning = match settings.versioning {
            Setting::Known(Versioning::Off) => ok("off"),
            Setting::Known(state) => {
                self.capabilities.versioned = true;
                warning(format!(
                    "{}: deleted chunks are kept and paid for until a lifecycle rule removes old versions; add one",
                    if state == Versioning::On {
                        "on"
                    } else {
                        "suspended"
                    }
                ))
            }
            Setting::Unsupported => ok("this server has none"),
            Setting::Denied => {
                warning("may not be read: allow s3:GetBucketVersioning, or check it yourself")
            }
        };
        self.note(Check::Versioning, versioning);
        let lifecycle = self.lifecycle(settings.lifecycle);
        self.note(Check::Lifecycle, lifecycle);
        let lock = match settings.object_lock {
            Setting::Known(false) => ok("off"),
            Setting::Known(true) => {
                self.capabilities.object_lock = true;
                warning(
                    "on: locked chunks cannot be deleted, so garbage collection frees nothing until locks end",
                )
            }
            Setting::Unsupported => ok("this server has none"),
            Setting::Denied => warning(
                "may not be read: allow s3:GetBucketObjectLockConfiguration, or check it yourself",
            ),
        };
        self.note(Check::ObjectLock, lock);
    }

    fn lifecycle(&self, lifecycle: Setting<Vec<LifecycleRule>>) -> Checked {
        match lifecycle {
            Setting::Known(rules) => {
                let harmful: Vec<_> = rules
                    .iter()
                    .filter(|rule| rule.expires || !rule.transitions.is_empty())
                    .filter(|rule| {
                        let (scratch, prefix) = (self.scratch.as_str(), rule.prefix.as_str());
                        scratch.starts_with(prefix) || prefix.starts_with(self.store_prefix())
                    })
                    .map(|rule| format!("'{}'", rule.id))
                    .collect();
                if harmful.is_empty() {
                    ok(format!(
                        "{} rules, none touches current objects here",
                        rules.len()
                    ))
                } else {
                    failed(format!(
                        "the rules {} delete or move objects by age, but old chunks are in use: switch them off",
                        harmful.join(", ")
                    ))
                }
            }
            Setting::Unsupported => ok("this server has none"),
            Setting::Denied => {
                warning("may not be read: allow s3:GetLifecycleConfiguration, or check it yourself")
            }
        }
    }

    /// The prefix that is being probed.
    fn store_prefix(&self) -> &str {
        let scratch = self.scratch.as_str();
        let inner = format!(".holdfast/probe/{}/", self.options.id);
        scratch.strip_suffix(&inner).unwrap_or(scratch)
    }

    pub(super) async fn signature_window(&mut self) -> Checked {
        let Some(date) = self.date else {
            return warning("the server sends no Date, so its signature window cannot be probed");
        };
        for minutes in SIGNATURE_AGES {
            let mut put = Put::new(self.key("dated"), "x");
            put.validity = Some(Validity {
                signed_at: date - SignedDuration::from_mins(minutes),
                expires: date + SignedDuration::from_hours(1),
            });
            match self.put(put).await? {
                PutOutcome::Created { .. } => {}
                PutOutcome::Expired => {
                    self.capabilities.signature_window_seconds = u64::try_from(minutes * 60).ok();
                    return ok(format!(
                        "signatures older than {minutes} minutes are refused"
                    ));
                }
                other => return warning(format!("a dated write came to {other:?}, probe again")),
            }
        }
        warning(
            "signatures of any age are accepted: the requests of a daemon that was paused for long are not refused by \
             the server",
        )
    }
}
