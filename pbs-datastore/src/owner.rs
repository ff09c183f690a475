//! Who may write below a bucket prefix: exactly one daemon (A3).
//!
//! The truth is the object `{store}/.in-use`; `.holdfast/owner.json` in the cache directory is what this directory knows
//! of it. Both name the *instance* (the cache directory), the *start* (one run of the process), the *counter* (rises with
//! every start) and the *epoch* (rises before every batch of deletes).
//!
//! Start, in this order, and what a crash after each step leaves
//! 1. Lock the cache directory. Two daemons on one directory: the second is refused. *The lock dies with its process.*
//! 2. Read local record and `.in-use`, read `.holdfast/format`, decide: refuse, go on, or take over.
//!    *Nothing has changed.*
//! 3. If the directory agrees with the bucket, note the new start locally as `starting`; if not, forget locally whatever
//!    could agree. *The next start comes to the same conclusion.*
//! 4. Write `.in-use` with the new start and a counter raised by one, by compare-and-swap. From here on every other
//!    process fails its [`Fence`]. *The next start finds its `starting` in the bucket: the directory agrees.*
//! 5. Write the local record: at once if the directory agreed, otherwise when its markers have been dropped
//!    ([`Owner::markers_dropped`]). *The next start is an unclean one; the directory agrees if this step was done.*
//! 6. Create `.holdfast/format` where it is missing. *The next start creates it.*
//!
//! Epoch: bucket first, then the directory. A crash in between makes them differ, and the next start drops its markers:
//! that costs requests and no chunk. Before either the directory's record is read: it must be there and of this start, or
//! somebody has taken the markers away under us. Clean stop: directory first, then the bucket; both hold the id of the stop, so that
//! an older copy of the directory that is put back is recognised.
//!
//! What a start costs (I3, I8): see [`StartReport`]. A wait that is not over when the process stops, cleanly or not, is
//! in the record as `pending` and begins anew with the next start; as `unanswered` if it began with a directory that was
//! not trusted. That directory agrees by the next start, but what the one before it knew is lost all the same.
//!
//! Not promised: where the server has no conditional overwrite, two daemons that start at the same moment can both
//! believe to be the owner until the next check of the one that wrote first, and a late write of an earlier start's record
//! makes the daemon stop everything until it is restarted.

mod fence;
mod format;
mod record;
mod start;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use s3_client::{ETag, ObjectKey, ObjectStore, Optional as _, Precondition, Put, PutOutcome};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::Env;
use crate::error::{About as _, Error, Result};
use crate::files::{FileLock, optional, replace};
use crate::layout::{BucketLayout, Folder, HoldfastFile, LocalLayout, Place};
use crate::step::Step;

use fence::Held;
pub use fence::{Fence, FencePass};
use format::{Format, Permitted};
use record::{LocalRecord, Record};
use start::Start;

/// How often a write of `.in-use` is tried whose outcome is not known or that met a passing fault.
const WRITE_ATTEMPTS_MAX: u32 = 6;

/// Pause before the second attempt; doubles with each further one.
const WRITE_PAUSE: Duration = Duration::from_millis(200);

/// What the server was found to support (`holdfast s3 check`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Capabilities {
    /// `If-None-Match: *` on puts.
    pub conditional_create: bool,
    /// `If-Match` on puts.
    pub conditional_overwrite: bool,
}

/// How to become the owner of a bucket prefix.
#[derive(Clone, Debug)]
pub struct OwnerConfig {
    /// The datastore's keys.
    pub layout: BucketLayout,
    /// The cache directory; created if missing.
    pub cache_dir: PathBuf,
    /// This machine's name, shown to whoever is refused.
    pub hostname: String,
    /// Id of the installation, of which one process runs at a time: it may go on with an empty cache directory without
    /// taking over, for nobody else can be the owner.
    pub installation: String,
    /// What the server supports.
    pub capabilities: Capabilities,
    /// Take the prefix from another owner.
    pub take_over: bool,
    /// The operator states that the owner before runs no more and will not run again.
    pub previous_owner_is_dead: bool,
    /// T (A1).
    pub late_request_max: Duration,
    /// W: how long the server accepts a signed request.
    pub signature_window: Duration,
}

/// What a start found, and what has to wait because of it.
#[derive(Clone, Debug)]
pub struct StartReport {
    /// Id of the cache directory.
    pub instance: String,
    /// Id of this process start.
    pub start: String,
    /// The ownership counter of this start.
    pub counter: u64,
    /// When the process started, by the wall clock of [`Env`].
    pub started: Timestamp,
    /// Nobody had written below the prefix before.
    pub fresh: bool,
    /// The owner before stopped with no request open or unknown.
    pub clean: bool,
    /// The prefix was taken from somebody else.
    pub taken_over: bool,
    /// The cache directory knows of every delete in the bucket. Otherwise its markers are to be dropped (I3), and
    /// [`Owner::markers_dropped`] called.
    pub markers_trusted: bool,
    /// No insert is answered, no deduplication done and no fill begun before this moment (I3).
    pub not_before: Option<Instant>,
    /// No garbage collection, and no creation or deletion of a snapshot not younger than `started`, before this moment;
    /// requests of the time before may still take effect until then.
    pub gc_not_before: Option<Instant>,
    /// Why the datastore can only be read, if so.
    pub read_only: Option<String>,
    /// Why nothing may be collected, pruned or deleted by namespace, if so.
    pub no_collect: Option<String>,
}

#[derive(Debug)]
struct Written {
    record: Record,
    etag: Option<ETag>,
    /// The directory holds no marker that the bucket does not bear out.
    directory_agrees: bool,
}

#[derive(Debug)]
struct BucketState {
    store: Arc<dyn ObjectStore>,
    key: ObjectKey,
    capabilities: Capabilities,
    cache_dir: PathBuf,
    /// When the waits of the start are over.
    settled_at: Instant,
    written: tokio::sync::Mutex<Written>,
}

/// Ownership of a datastore, for as long as it lives. The directory lock goes with it.
#[derive(Debug)]
pub struct Owner {
    env: Env,
    fence: Fence,
    bucket: Option<BucketState>,
    lock: DirLock,
}

/// The lock of a directory, and who waits until it is given back.
#[derive(Debug)]
struct DirLock {
    _file: Box<dyn FileLock>,
    // After the lock: fields are dropped in their order.
    gone: watch::Sender<()>,
}

/// Tells when the directory of a datastore that was closed is free for the next one.
#[derive(Clone, Debug)]
pub struct Released(watch::Receiver<()>);

impl Released {
    /// Returns when nobody has the datastore in his hands any more, which may be long after it was closed.
    pub async fn wait(mut self) {
        // Nothing is ever sent; the sender goes with the lock.
        while self.0.changed().await.is_ok() {}
    }
}

/// Time mends it: the other process may stop, and whoever still reads a datastore that was closed comes to his end.
fn lock_refused(dir: &Path) -> Error {
    Error::Busy(format!(
        "another process uses the directory '{}'; stop it, or give each datastore a directory of its own",
        dir.display()
    ))
}

/// Creates the directory with its `.holdfast` and locks it.
async fn lock_dir(env: &Env, dir: &Path, lock: PathBuf) -> Result<DirLock> {
    let dir = dir.to_owned();
    let locked = env.io(move |files| {
        let ours = dir.join(LocalLayout::Cache.folder(&Folder::Holdfast));
        files.create_dirs(&ours).about(&ours)?;
        files
            .lock(&lock)
            .about(&lock)?
            .ok_or_else(|| lock_refused(&dir))
    });
    Ok(DirLock {
        _file: locked.await?,
        gone: watch::Sender::new(()),
    })
}

impl Owner {
    /// Becomes the owner of a bucket prefix. Refuses one that somebody else holds, unless told to take it over; refuses
    /// a mode or a format that this release does not know in any case.
    pub async fn open_bucket(
        env: &Env,
        store: Arc<dyn ObjectStore>,
        config: OwnerConfig,
    ) -> Result<(Self, StartReport)> {
        let lock_path = config.cache_dir.join(LocalLayout::Cache.path(&Place::Lock));
        let lock = lock_dir(env, &config.cache_dir, lock_path).await?;
        let start = Start::read(env, store, config).await?;
        let (fence, bucket, report) = start.take().await?;
        let owner = Self {
            env: env.clone(),
            fence,
            bucket: Some(bucket),
            lock,
        };
        Ok((owner, report))
    }

    /// Becomes the owner of a directory datastore: holds its `.lock`. There are no late requests, so nothing waits.
    pub async fn open_directory(env: &Env, root: &Path) -> Result<(Self, StartReport)> {
        let lock_path = root.join(LocalLayout::Directory.path(&Place::Lock));
        let lock = lock_dir(env, root, lock_path).await?;
        let permitted = local_format(env, root).await?;
        let start = env.new_id();
        let fence = Fence::new(env.clone(), Held::Lock, 1, Duration::MAX, None);
        let report = StartReport {
            instance: root.display().to_string(),
            start,
            counter: 1,
            started: env.now(),
            fresh: false,
            clean: true,
            taken_over: false,
            markers_trusted: true,
            not_before: None,
            gc_not_before: None,
            read_only: permitted.read_only,
            no_collect: permitted.no_collect,
        };
        let owner = Self {
            env: env.clone(),
            fence,
            bucket: None,
            lock,
        };
        Ok((owner, report))
    }

    /// Tells when the directory is free again, once this owner is dropped.
    pub fn released(&self) -> Released {
        Released(self.lock.gone.subscribe())
    }

    /// The question whether we are still the owner.
    pub fn fence(&self) -> &Fence {
        &self.fence
    }

    /// Raises the epoch in the bucket and in the cache directory: before every batch of deletes, and after its journal.
    /// Refuses if the directory's record is not that of this start.
    pub async fn raise_epoch(&self, pass: &FencePass) -> Result<()> {
        let Some(bucket) = &self.bucket else {
            return Ok(());
        };
        tracing::debug!(counter = pass.counter(), "raising the epoch");
        let mut written = bucket.written.lock().await;
        bucket.check_local(&self.env, &written).await?;
        let mut record = bucket.next(&self.env, &written);
        record.epoch += 1;
        self.write(bucket, &mut written, record).await?;
        Step::GcEpochInBucket.passed();
        bucket
            .write_local(&self.env, &written, &written.record)
            .await?;
        Step::GcEpochLocal.passed();
        Ok(())
    }

    /// Step 5 for a directory that did not agree: its markers have been removed. Makes that durable first, for a marker
    /// that a power loss brings back would be trusted.
    pub async fn markers_dropped(&self) -> Result<()> {
        let Some(bucket) = &self.bucket else {
            return Ok(());
        };
        let dir = bucket.cache_dir.clone();
        self.env
            .io(move |files| files.sync_file_system(&dir).about(&dir))
            .await?;
        let mut written = bucket.written.lock().await;
        written.directory_agrees = true;
        bucket
            .write_local(&self.env, &written, &written.record)
            .await?;
        Step::MarkersDropped.passed();
        Ok(())
    }

    /// Records that no request is open or unknown, which only the caller can know; the process is the owner no more.
    /// Without it the next start is an unclean one.
    pub async fn stop_clean(&self) -> Result<()> {
        let Some(bucket) = &self.bucket else {
            return Ok(());
        };
        self.fence.check().await?;
        let mut written = bucket.written.lock().await;
        let mut record = bucket.next(&self.env, &written);
        record.clean_stop = true;
        record.stop = Some(self.env.new_id());
        bucket.write_local(&self.env, &written, &record).await?;
        Step::StopNoted.passed();
        self.write(bucket, &mut written, record).await?;
        Step::StopRecorded.passed();
        self.give_up();
        Ok(())
    }

    /// The process is the owner no more, whatever stands in the bucket.
    pub fn give_up(&self) {
        // What it answers is for those who go on.
        let _ = self.fence.lose("it has stopped".to_owned());
    }

    async fn write(
        &self,
        bucket: &BucketState,
        written: &mut Written,
        record: Record,
    ) -> Result<()> {
        let result = bucket.replace(&self.env, written, record).await;
        if let Err(Error::NotOwner(reason)) = result {
            return Err(self.fence.lose(reason));
        }
        result
    }
}

impl BucketState {
    /// Replaces `.in-use`, if it is still what was written or read last. The lock of `written` is held over the requests:
    /// nobody but collection and stop writes, and they must not mix.
    async fn replace(&self, env: &Env, written: &mut Written, record: Record) -> Result<()> {
        let body = serde_json::to_vec_pretty(&record).expect("a record is plain data");
        let mut pause = WRITE_PAUSE;
        for attempt in 1..=WRITE_ATTEMPTS_MAX {
            if attempt > 1 {
                env.sleep(pause).await;
                pause *= 2;
            }
            let condition = match &written.etag {
                None if self.capabilities.conditional_create => Precondition::Absent,
                Some(etag) if self.capabilities.conditional_overwrite => {
                    Precondition::Matches(etag.clone())
                }
                _ => Precondition::None,
            };
            let put = Put::new(self.key.clone(), body.clone()).when(condition);
            match self.store.put(put).await {
                Ok(answer) => {
                    if let PutOutcome::Created { etag, .. } = answer.value {
                        (written.record, written.etag) = (record, Some(etag));
                        return Ok(());
                    }
                }
                Err(error) if error.kind.is_transient() || error.maybe_applied => {
                    tracing::debug!(%error, "writing '{}' failed, trying again", self.key);
                }
                Err(error) => return Err(error.into()),
            }
            // Whatever the answer was: what is there now tells who won.
            let (found, etag) = match read_record(&*self.store, &self.key).await {
                Ok(found) => found,
                Err(Error::Store(error)) if error.kind.is_transient() => continue,
                Err(error) => return Err(error),
            };
            if found.as_ref() == Some(&record) {
                (written.record, written.etag) = (record, etag);
                return Ok(());
            }
            let ours = (&written.record.instance, &written.record.start);
            if let Some(found) = found
                .as_ref()
                .filter(|found| (&found.instance, &found.start) == ours)
            {
                // An earlier write of this very start, whose answer was lost.
                (written.record, written.etag) = (found.clone(), etag);
                continue;
            }
            if etag != written.etag {
                let holder = found.map_or("nobody".to_owned(), |found| found.holder());
                return Err(Error::NotOwner(format!(
                    "'{}' was changed meanwhile and is now that of {holder}",
                    self.key
                )));
            }
        }
        Err(Error::OutcomeUnknown {
            what: format!("'{}'", self.key),
        })
    }

    /// The record as it would be written now.
    fn next(&self, env: &Env, written: &Written) -> Record {
        let mut record = written.record.clone();
        record.time = Some(env.now());
        if env.instant() >= self.settled_at {
            record.pending = None;
            record.unanswered = false;
        }
        record
    }

    /// Fails if the directory's record is not the one of this start: then its markers need not be what they were.
    async fn check_local(&self, env: &Env, written: &Written) -> Result<()> {
        if !written.directory_agrees {
            return Ok(());
        }
        let (record, local) = (&written.record, read_local(env, &self.cache_dir).await?);
        let ours = local.is_some_and(|local| {
            local.counter == record.counter
                && local.start == record.start
                && Some(&local.instance) == record.instance.as_ref()
        });
        if ours {
            return Ok(());
        }
        Err(Error::Refused(format!(
            "the cache directory '{}' is not the one of this start any more; somebody has removed or replaced it: restart the daemon, \
             which forgets what it had cached",
            self.cache_dir.display()
        )))
    }

    async fn write_local(&self, env: &Env, written: &Written, record: &Record) -> Result<()> {
        if !written.directory_agrees {
            return Ok(());
        }
        let local = LocalRecord {
            instance: record.instance.clone().unwrap_or_default(),
            start: record.start.clone(),
            starting: None,
            counter: record.counter,
            epoch: record.epoch,
            stop: record.stop.clone(),
        };
        write_local(env, &self.cache_dir, &local).await
    }
}

async fn read_record(
    store: &dyn ObjectStore,
    key: &ObjectKey,
) -> Result<(Option<Record>, Option<ETag>)> {
    let Some(answer) = store.get(key, None).await.optional()? else {
        return Ok((None, None));
    };
    let bytes = answer.value.body.into_bytes();
    let record = serde_json::from_slice(&bytes).map_err(|error| {
        Error::Refused(format!(
            "'{key}' says who owns the datastore and cannot be read ({error}); if nobody else uses it, remove that object"
        ))
    })?;
    Ok((Some(record), Some(answer.value.meta.etag)))
}

fn local_path(cache_dir: &Path) -> PathBuf {
    cache_dir.join(LocalLayout::Cache.path(&Place::Holdfast(HoldfastFile::Owner)))
}

async fn write_local(env: &Env, cache_dir: &Path, local: &LocalRecord) -> Result<()> {
    let path = local_path(cache_dir);
    let temporary = cache_dir.join(LocalLayout::Cache.folder(&Folder::Temporary));
    let body = serde_json::to_vec_pretty(local).expect("a record is plain data");
    let unique = env.new_id();
    env.io(move |files| replace(files, &temporary, &path, &[body.into()], &unique).about(&path))
        .await
}

/// The local record; one that cannot be read is as good as none, for the directory is disposable (I3).
async fn read_local(env: &Env, cache_dir: &Path) -> Result<Option<LocalRecord>> {
    let path = local_path(cache_dir);
    let bytes = env
        .io(move |files| optional(files.read(&path)).about(&path))
        .await?;
    Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

/// Judges the format file of a directory datastore, creating it where it is missing.
async fn local_format(env: &Env, root: &Path) -> Result<Permitted> {
    let path = root.join(LocalLayout::Directory.path(&Place::Holdfast(HoldfastFile::Format)));
    let temporary = root.join(LocalLayout::Directory.folder(&Folder::Temporary));
    let unique = env.new_id();
    env.io(move |files| {
        if let Some(bytes) = optional(files.read(&path)).about(&path)? {
            return Format::judge(&bytes, &path.display().to_string());
        }
        let body = Format::current().encode().into();
        replace(files, &temporary, &path, &[body], &unique).about(&path)?;
        Ok(Permitted::default())
    })
    .await
}

#[cfg(test)]
mod tests;
