//! One start of the owner: reads, decides, and takes the prefix. The page of [`super`] numbers the steps.

use std::sync::Arc;

use jiff::Timestamp;
use s3_client::{
    ETag, ErrorKind, ListRequest, ObjectKey, ObjectStore, Optional as _, Precondition, Put,
    PutOutcome,
};

use super::fence::Held;
use super::format::{Format, Permitted};
use super::record::{Before, LocalRecord, MODE_SINGLE, Record};
use super::{
    BucketState, Fence, OwnerConfig, StartReport, Written, read_local, read_record, write_local,
};
use crate::Env;
use crate::error::{Error, Result};
use crate::layout::{HoldfastFile, Place};
use crate::step::Step;

/// A start after its reading and before its first write.
pub(super) struct Start {
    env: Env,
    store: Arc<dyn ObjectStore>,
    config: OwnerConfig,
    key: ObjectKey,
    local: Option<LocalRecord>,
    found: Option<Record>,
    etag: Option<ETag>,
    /// The format object; `None` where there is none yet.
    permitted: Option<Permitted>,
    fresh: bool,
}

impl Start {
    /// Step 2: reads everything.
    pub(super) async fn read(
        env: &Env,
        store: Arc<dyn ObjectStore>,
        config: OwnerConfig,
    ) -> Result<Self> {
        let key = config.layout.key(&Place::InUse);
        let local = read_local(env, &config.cache_dir).await?;
        let (found, etag) = read_record(&*store, &key).await?;
        let format_key = config.layout.key(&Place::Holdfast(HoldfastFile::Format));
        let permitted = match store.get(&format_key, None).await.optional()? {
            None => None,
            Some(answer) => {
                let bytes = answer.value.body.into_bytes();
                Some(Format::judge(&bytes, &format!("'{format_key}'"))?)
            }
        };
        let mut fresh = found.is_none() && permitted.is_none() && local.is_none();
        if fresh {
            let mut request = ListRequest::new(config.layout.prefix().clone());
            request.keys_max = 1;
            fresh = store.list(&request).await?.value.entries.is_empty();
        }
        Ok(Self {
            env: env.clone(),
            store,
            key,
            local,
            found,
            etag,
            permitted,
            fresh,
            config,
        })
    }

    /// Whose prefix it was, or why it is refused.
    fn judge(&self) -> Result<Before> {
        let Some(found) = &self.found else {
            return Ok(if self.fresh {
                Before::Settled
            } else {
                Before::Unclean
            });
        };
        if let Some(mode) = found.mode.as_deref().filter(|mode| *mode != MODE_SINGLE) {
            return Err(Error::Refused(format!(
                "'{}' is used in the mode '{mode}', which this release does not know; use the release that wrote it",
                self.key
            )));
        }
        let ours = self.local.as_ref().map(|local| local.instance.as_str());
        // A deleted cache directory has taken the instance with it; the installation is the same, and it runs once. So is
        // the directory that was made instead and has never got further than step 3.
        let is_new = self.local.as_ref().is_none_or(LocalRecord::is_new);
        let is_rebuilt = is_new && found.installation.as_ref() == Some(&self.config.installation);
        let is_ours = found.instance.is_some() && (found.instance.as_deref() == ours || is_rebuilt);
        if !is_ours && !self.config.take_over {
            return Err(Error::NotOwner(format!(
                "the prefix '{}' belongs to {}; make sure that nobody else writes there, then take it over \
                 ('holdfast datastore take-over')",
                self.config.layout.prefix(),
                found.holder()
            )));
        }
        let before = if found.clean_stop && found.instance.is_some() {
            Before::Settled
        } else if is_ours || self.config.previous_owner_is_dead {
            Before::Unclean
        } else {
            Before::TakenOver
        };
        let pending = found.pending.unwrap_or(Before::Settled);
        Ok(if self.config.previous_owner_is_dead {
            before.max(pending).min(Before::Unclean)
        } else {
            before.max(pending)
        })
    }

    /// Steps 3 to 6.
    pub(super) async fn take(self) -> Result<(Fence, BucketState, StartReport)> {
        let before = self.judge()?;
        let trusted = match (&self.local, &self.found) {
            (Some(local), Some(found)) => local.agrees_with(found),
            _ => false,
        };
        let instance = match &self.local {
            Some(local) => local.instance.clone(),
            None => self.env.new_id(),
        };
        let taken_over = self
            .found
            .as_ref()
            .is_some_and(|f| f.instance.as_deref() != Some(&instance));
        let start = self.env.new_id();
        let started = self.env.now();
        let began = self.env.instant();

        // 3. The start is noted locally before the bucket knows it.
        let mut local = self.local.clone().unwrap_or_default();
        local.instance.clone_from(&instance);
        if trusted {
            local.starting = Some(start.clone());
        } else {
            (local.start, local.starting) = (None, None);
        }
        write_local(&self.env, &self.config.cache_dir, &local).await?;
        Step::StartNoted.passed();

        // 4. The bucket.
        let mut record = self.next_record(&local, &instance, &start, started);
        record.pending = Some(before).filter(|before| *before != Before::Settled);
        let inherited = self
            .found
            .as_ref()
            .is_some_and(|f| f.pending.is_some() && f.unanswered);
        record.unanswered = record.pending.is_some() && (!trusted || inherited);
        let unanswered = record.unanswered;
        let wait = before.wait(self.config.late_request_max, self.config.signature_window);
        if self.found.is_some() && !self.config.capabilities.conditional_overwrite {
            tracing::warn!(
                "the S3 server has no conditional overwrite: ownership of '{}' is taken by a plain write, so make sure \
                 that no other daemon starts on this prefix at the same time",
                self.config.layout.prefix()
            );
        }
        let bucket = BucketState {
            store: Arc::clone(&self.store),
            key: self.key.clone(),
            capabilities: self.config.capabilities,
            cache_dir: self.config.cache_dir.clone(),
            settled_at: began + wait,
            written: tokio::sync::Mutex::new(Written {
                record: self.found.clone().unwrap_or_default(),
                etag: self.etag.clone(),
                directory_agrees: trusted,
            }),
        };
        let counter = record.counter;
        {
            let mut written = bucket.written.lock().await;
            bucket.replace(&self.env, &mut written, record).await?;
            Step::StartTaken.passed();

            // 5. The cache directory, if it agreed.
            bucket
                .write_local(&self.env, &written, &written.record)
                .await?;
            Step::StartRecorded.passed();
        }

        // 6. The format object.
        let permitted = if let Some(permitted) = &self.permitted {
            permitted.clone()
        } else {
            self.create_format().await?;
            Permitted::default()
        };

        let held = Held::Record {
            store: Arc::clone(&self.store),
            key: self.key.clone(),
            instance: instance.clone(),
            start: start.clone(),
        };
        let window = self.config.signature_window;
        let fence = Fence::new(self.env.clone(), held, counter, window, None);
        fence.check().await?;
        let until = (!wait.is_zero()).then(|| began + wait);
        let report = StartReport {
            instance,
            start,
            counter,
            started,
            fresh: self.fresh,
            clean: before == Before::Settled,
            taken_over,
            markers_trusted: trusted,
            not_before: until.filter(|_| unanswered),
            gc_not_before: until,
            read_only: permitted.read_only,
            no_collect: permitted.no_collect,
        };
        Ok((fence, bucket, report))
    }

    fn next_record(
        &self,
        local: &LocalRecord,
        instance: &str,
        start: &str,
        started: Timestamp,
    ) -> Record {
        let found = self.found.clone().unwrap_or_default();
        Record {
            // Never a plain host name, so that no Proxmox Backup Server takes the prefix for its own.
            hostname: format!("{} (holdfast)", self.config.hostname),
            mode: Some(MODE_SINGLE.to_owned()),
            instance: Some(instance.to_owned()),
            installation: Some(self.config.installation.clone()),
            start: Some(start.to_owned()),
            counter: found.counter.max(local.counter) + 1,
            // Where the record was lost, or is another's, no directory may agree with it by chance.
            epoch: found.epoch.max(local.epoch),
            clean_stop: false,
            stop: None,
            pending: None,
            unanswered: false,
            time: Some(started),
            capabilities: Some(self.config.capabilities),
            other: found.other,
        }
    }

    async fn create_format(&self) -> Result<()> {
        let key = self
            .config
            .layout
            .key(&Place::Holdfast(HoldfastFile::Format));
        let mut put = Put::new(key.clone(), Format::current().encode());
        if self.config.capabilities.conditional_create {
            put = put.when(Precondition::Absent);
        }
        match self.store.put(put).await {
            Ok(answer) if matches!(answer.value, PutOutcome::Created { .. }) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.maybe_applied || error.kind == ErrorKind::Unavailable => {}
            Err(error) => return Err(error.into()),
        }
        // Somebody else's, or ours with a lost answer: both are judged like any other.
        let answer = self.store.get(&key, None).await?;
        Format::judge(&answer.value.body.into_bytes(), &format!("'{key}'")).map(|_| ())
    }
}
