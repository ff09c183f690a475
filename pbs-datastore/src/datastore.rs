//! One datastore: everything of it, put together in the order a start demands.
//!
//! Start of a bucket datastore
//! 1. *Owner*: lock, records, counter. Says what may be trusted and what has to wait.
//! 2. *Markers*: dropped if the cache directory does not agree with the bucket (I3).
//! 3. *Journal*: what a crash left condemned is condemned again before anybody can ask (I8).
//! 4. *Mirror* of `.cnt/`: fetched where it differs; a cache directory that was deleted is rebuilt here.
//! 5. In the background, T after an unclean stop: the journal is cleared and its digests released, unsealed snapshot
//!    folders are removed.
//!
//! A directory datastore has its lock for 1, and neither 2 nor 4.
//!
//! Stop: sessions are ended, tasks awaited; only if nothing is open or unknown the stop is recorded as clean. All of that
//! takes no longer than whoever stops it allows.

use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use s3_client::ObjectStore;
use tokio::sync::Semaphore;
use tokio::time::Instant;

mod open;
mod room;

use self::open::{Parts, open_bucket, open_directory};
pub use self::room::DatastoreSpace;
use crate::backup::{Backup, BackupRequest, SnapshotReader};
use crate::cache::Cache;
use crate::cache::fill::Damage;
use crate::chunk_store::BucketPlace;
use crate::chunk_store::guard::ChunkTable;
use crate::chunk_store::insert::{ChunkBucket, ChunkStore};
use crate::files::{Files, optional};
use crate::gc::{Bucket, Collector, CollectorParts, Recovery};
use crate::layout::{Folder, LocalLayout, Place};
use crate::metrics::CacheMetrics;
use crate::owner::{Capabilities, Owner, Released, StartReport};
use crate::roots::{SessionRoots, SnapshotRoots};
use crate::usage::Added;
use crate::verify::VerifiedChunks;
use crate::{
    AuthId, Backend, BucketLayout, BucketPrefix, CacheCounts, ChunkReader, DatastoreConfig,
    DatastoreName, Digest, Env, Error, GcOptions, GcStatus, JobContext, MemoryBudget, Namespace,
    RefreshStats, Result, Sessions, Snapshot, Snapshots,
};

/// How often a stop looks whether everything has ended.
const IDLE_LOOK: Duration = Duration::from_millis(20);

/// A bucket as the datastore uses it.
#[derive(Clone, Debug)]
pub struct BucketAccess {
    /// With limits and metering, without retries: for chunk uploads, which know themselves what is safe to repeat.
    pub once: Arc<dyn ObjectStore>,
    /// The same with retries.
    pub store: Arc<dyn ObjectStore>,
    /// What the server was found to support.
    pub capabilities: Capabilities,
    /// W: how long the server accepts a signed request.
    pub signature_window: Duration,
    /// Where it is, if its server may copy from one bucket to another.
    pub place: Option<BucketPlace>,
}

/// How a datastore is opened.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// This machine's name, shown to whoever is refused.
    pub hostname: String,
    /// Id of the installation, of which one process runs at a time.
    pub installation: String,
    /// Take the prefix from another owner.
    pub take_over: bool,
    /// The operator states that the owner before runs no more and will not run again.
    pub previous_owner_is_dead: bool,
    /// Memory that reads take from.
    pub budget: MemoryBudget,
}

/// How long the uploads of a backup may wait after a start; beyond it the backup is refused.
const UPLOAD_WAIT_MAX: Duration = Duration::from_hours(1);
/// Corrupt chunks waiting to be set aside; more are found again by the next read.
const SETTING_ASIDE_MAX: usize = 16;

/// An open datastore.
#[derive(Debug)]
pub struct Datastore {
    name: DatastoreName,
    env: Env,
    config: Arc<DatastoreConfig>,
    root: PathBuf,
    owner: Arc<Owner>,
    report: StartReport,
    table: Arc<ChunkTable>,
    sessions: Arc<Sessions>,
    snapshots: Arc<Snapshots>,
    snapshot_roots: Arc<SnapshotRoots>,
    chunks: Arc<ChunkStore>,
    reader: Arc<ChunkReader>,
    cache: Option<Arc<Cache>>,
    metrics: Arc<CacheMetrics>,
    collector: Arc<Collector>,
    gc_status: Mutex<Option<GcStatus>>,
    added: Arc<Added>,
    /// 0 is none.
    quota_bytes: AtomicU64,
    setting_aside: Arc<Semaphore>,
    verified: VerifiedChunks,
}

impl Datastore {
    /// Opens a datastore. `access` is needed for a bucket.
    pub async fn open(
        env: Env,
        config: DatastoreConfig,
        access: Option<BucketAccess>,
        options: OpenOptions,
    ) -> Result<Arc<Self>> {
        let name: DatastoreName = config
            .name
            .parse()
            .map_err(|error| Error::Invalid(format!("{error}")))?;
        if let Some(fault) = config.faults().first() {
            return Err(Error::Invalid(format!("datastore {name}: {fault}")));
        }
        let (env, config) = (env.with_own_io(), Arc::new(config));
        let parts = match (&config.backend, access) {
            (Backend::Directory(root), _) => {
                open_directory(&env, &config, root.clone(), &options).await?
            }
            (
                Backend::Bucket {
                    prefix,
                    cache_dir,
                    cache_bytes_max,
                },
                Some(access),
            ) => {
                let prefix: BucketPrefix = prefix
                    .parse()
                    .map_err(|error| Error::Invalid(format!("{error}")))?;
                let layout = BucketLayout::new(&prefix);
                open_bucket(
                    &env,
                    &config,
                    layout,
                    cache_dir.clone(),
                    *cache_bytes_max,
                    access,
                    &options,
                )
                .await?
            }
            (Backend::Bucket { .. }, None) => {
                return Err(Error::Invalid(format!(
                    "datastore {name} names no S3 endpoint"
                )));
            }
        };
        Self::assemble(env, name, config, parts).await
    }

    async fn assemble(
        env: Env,
        name: DatastoreName,
        config: Arc<DatastoreConfig>,
        parts: Parts,
    ) -> Result<Arc<Self>> {
        let Parts {
            root,
            owner,
            report,
            contents,
            bucket,
            cache,
            reader,
            table,
            markers,
            metrics,
        } = parts;
        contents.refresh().await?;
        let late = config.late_request_max;
        let snapshots = Snapshots::new(Arc::new(contents), owner.fence().clone(), &report, late);
        snapshots.freeze_known().await?;
        let sessions = Sessions::new(env.clone(), report.start.clone());
        let snapshot_roots = Arc::new(SnapshotRoots::new(Arc::clone(&snapshots)));
        let ours = root.join(LocalLayout::Cache.folder(&Folder::Holdfast));
        let collector_bucket = bucket.as_ref().map(|(access, layout)| Bucket {
            store: Arc::clone(&access.store),
            layout: layout.clone(),
            owner: Arc::clone(&owner),
        });
        let waits = [report.gc_not_before, report.not_before]
            .into_iter()
            .flatten()
            .max();
        let collector = Collector::new(CollectorParts {
            env: env.clone(),
            config: Arc::clone(&config),
            table: Arc::clone(&table),
            markers: markers.clone(),
            ours,
            bucket: collector_bucket,
            roots: vec![
                snapshot_roots.clone(),
                Arc::new(SessionRoots::new(Arc::clone(&sessions))),
            ],
            sessions: Arc::clone(&sessions),
            cache: cache.clone(),
            not_before: waits,
        });
        let recovery = Recovery::begin(&collector).await?;
        let chunk_bucket = bucket
            .zip(cache.clone())
            .map(|((access, layout), cache)| ChunkBucket {
                once: access.once,
                store: access.store,
                layout,
                conditional_create: access.capabilities.conditional_create,
                conditional_overwrite: access.capabilities.conditional_overwrite,
                place: access.place,
                cache,
            });
        let verified = VerifiedChunks::new(env.clone(), markers.clone(), &root, cache.is_none());
        let added = Arc::new(Added::open(&env, &root).await);
        let chunks = Arc::new(ChunkStore {
            env: env.clone(),
            config: Arc::clone(&config),
            table: Arc::clone(&table),
            markers,
            bucket: chunk_bucket,
            added: Arc::clone(&added),
            not_before: report.not_before,
        });
        let this = Arc::new(Self {
            gc_status: Mutex::new(
                load_status(&env, root.join(LocalLayout::Cache.path(&Place::GcStatus))).await,
            ),
            added,
            quota_bytes: AtomicU64::new(config.quota_bytes.unwrap_or(0)),
            name,
            env,
            config,
            root,
            owner,
            report,
            table,
            sessions,
            snapshots,
            snapshot_roots,
            chunks,
            reader,
            cache,
            metrics,
            collector,
            setting_aside: Arc::new(Semaphore::new(SETTING_ASIDE_MAX)),
            verified,
        });
        this.clone().settle(recovery, waits);
        let weak = Arc::downgrade(&this);
        this.reader.on_damage(Box::new(move |digest, damage| {
            report_damage(&weak, digest, damage);
        }));
        Ok(this)
    }

    /// Step 5 of the start.
    fn settle(self: Arc<Self>, recovery: Recovery, waits: Option<Instant>) {
        let env = self.env.clone();
        if recovery.len() > 0 {
            let (collector, late) = (Arc::clone(&self.collector), self.config.late_request_max);
            let until = waits.unwrap_or_else(|| env.instant() + late);
            tracing::info!(
                digests = recovery.len(),
                "deletes of an earlier life are waited for"
            );
            env.spawn(async move {
                tokio::time::sleep_until(until).await;
                if let Err(error) = recovery.end(&collector).await {
                    tracing::error!(%error, "the journal of deletes could not be cleared; its chunks stay locked");
                }
            });
        }
        let weak = Arc::downgrade(&self);
        let snapshots = Arc::clone(&self.snapshots);
        env.spawn(async move {
            if let Err(error) = snapshots.remove_unsealed().await
                && weak.strong_count() > 0
            {
                tracing::warn!(%error, "unfinished backups could not be removed; the next start tries again");
            }
        });
    }

    /// Its name.
    pub fn name(&self) -> &DatastoreName {
        &self.name
    }

    /// Its settings.
    pub fn config(&self) -> &DatastoreConfig {
        &self.config
    }

    /// The world it runs in.
    pub fn env(&self) -> &Env {
        &self.env
    }

    /// What its start found.
    pub fn start_report(&self) -> &StartReport {
        &self.report
    }

    /// Why this process is not the owner any more, as far as it knows by now. What is stored can still be read.
    pub fn ownership_lost(&self) -> Option<String> {
        self.owner.fence().lost()
    }

    /// Tells when its directory is free for the next one: a datastore that was closed keeps it locked until nobody has it in
    /// his hands any more.
    pub fn released(&self) -> Released {
        self.owner.released()
    }

    /// Asks the bucket whether this process is still the owner; [`Error::NotOwner`] is final.
    pub async fn check_ownership(&self) -> Result<()> {
        self.owner.fence().check().await.map(drop)
    }

    /// Fails where nothing may be written: for want of ownership, or because a newer release has written something that
    /// this one does not know.
    pub fn writable(&self) -> Result<()> {
        self.snapshots.writable()?;
        self.owner.fence().cheap().map(drop)
    }

    /// Namespaces, groups and snapshots.
    pub fn snapshots(&self) -> &Arc<Snapshots> {
        &self.snapshots
    }

    /// Writers.
    pub fn sessions(&self) -> &Arc<Sessions> {
        &self.sessions
    }

    /// Sets a chunk aside that was found damaged, and waits for it; whether there was something to do.
    pub(crate) async fn set_aside(&self, digest: Digest) -> Result<bool> {
        let collector = Arc::clone(&self.collector);
        self.env
            .to_the_end(async move { collector.set_aside(digest).await })
            .await
    }

    /// Chunks.
    pub fn reader(&self) -> &Arc<ChunkReader> {
        &self.reader
    }

    /// Which chunks were verified.
    pub(crate) fn verified(&self) -> &VerifiedChunks {
        &self.verified
    }

    /// Whether the S3 server can copy chunks of `source` here, past this machine.
    pub fn copies_from(&self, source: &Self) -> bool {
        self.chunks.copies_from(&source.chunks)
    }

    pub(crate) fn chunks(&self) -> &Arc<ChunkStore> {
        &self.chunks
    }

    /// Counters of cache and reads.
    pub fn cache_counts(&self) -> CacheCounts {
        self.metrics.counts()
    }

    /// Bytes in the cache, temporary files included; 0 for a directory.
    pub fn cache_bytes(&self) -> u64 {
        self.cache.as_ref().map_or(0, |cache| cache.bytes_used())
    }

    /// How many inserts have waited for the release of a chunk that was being deleted.
    pub fn condemned_waits(&self) -> u64 {
        self.table.waits()
    }

    /// Begins a backup; see [`Backup`]. Its first uploads may have to wait for requests of an earlier life (I3), which a
    /// client bears for some minutes; [`Error::Busy`] if it would take more than an hour, [`Error::Full`] if the quota is used up.
    pub async fn begin_backup(self: &Arc<Self>, request: BackupRequest) -> Result<Arc<Backup>> {
        self.has_room()?;
        let wait = self
            .report
            .not_before
            .and_then(|time| time.checked_duration_since(self.env.instant()))
            .unwrap_or_default();
        if wait > UPLOAD_WAIT_MAX {
            return Err(Error::Busy(format!(
                "datastore {} takes backups in {} s: until then requests of its former owner may still take effect",
                self.name,
                wait.as_secs() + 1
            )));
        }
        Backup::begin(Arc::clone(self), request).await
    }

    /// Opens a snapshot for reading. With `who` the group must be his.
    pub async fn begin_read(
        self: &Arc<Self>,
        namespace: &Namespace,
        snapshot: &Snapshot,
        who: Option<&AuthId>,
    ) -> Result<Arc<SnapshotReader>> {
        SnapshotReader::begin(self, namespace, snapshot, who).await
    }

    /// Whether a namespace exists.
    pub async fn namespace_exists(&self, namespace: &Namespace) -> Result<bool> {
        self.snapshots.has_namespace(namespace).await
    }

    /// Collects garbage. `upid` names the task in the status and in snapshots that turn out to be damaged.
    pub async fn collect(
        &self,
        options: GcOptions,
        upid: &str,
        job: &JobContext,
    ) -> Result<GcStatus> {
        self.snapshots.collectable()?;
        self.snapshot_roots.set_task(upid);
        let added = self.added.bytes();
        let mut status = self.collector.run(options, job).await?;
        status.upid = Some(upid.to_owned());
        if !options.dry_run {
            self.collector
                .save_status(self.root.clone(), &status)
                .await?;
            *self
                .gc_status
                .lock()
                .unwrap_or_else(PoisonError::into_inner) = Some(status.clone());
            self.added.collected(added);
            self.save_usage().await;
        }
        Ok(status)
    }

    /// Makes the local copies of indexes and manifests the same as the bucket, as every start and every collection does.
    /// Refused where there is no bucket.
    pub async fn refresh(&self) -> Result<RefreshStats> {
        let contents = self.snapshots.contents();
        if contents.bucket().is_none() {
            let why = "the datastore is in a directory: there is no bucket to look at";
            return Err(Error::Refused(why.to_owned()));
        }
        contents.refresh().await
    }

    /// What the last collection did.
    pub fn gc_status(&self) -> Option<GcStatus> {
        self.gc_status
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Ends all sessions, waits for what runs, and records a clean stop if nothing is open or unknown. Returns whether
    /// it did, after `limit` at the latest. Either way no object is fetched into the mirror any more; after a clean stop
    /// nobody gets a lock either.
    pub async fn close(&self, limit: Duration) -> Result<bool> {
        let deadline = self.env.instant() + limit;
        for session in self.sessions.list() {
            self.sessions
                .kill(session.id.seq, "the server is shutting down");
        }
        if let Some(cache) = &self.cache {
            cache.stop();
        }
        while (self.sessions.oldest_open().is_some() || !self.snapshots.is_idle())
            && self.env.instant() < deadline
        {
            self.env.sleep(IDLE_LOOK).await;
        }
        self.save_usage().await;
        let idle = self.sessions.oldest_open().is_none()
            && !self.collector.is_busy().await
            && self.snapshots.close_if_idle();
        self.snapshots.contents().close().await;
        if !idle {
            return Ok(false);
        }
        let stopping = tokio::time::timeout_at(deadline, self.owner.stop_clean());
        if let Ok(stopped) = stopping.await {
            return stopped.map(|()| true);
        }
        // The record of the stop may still arrive, so nothing may be written from here on.
        self.owner.give_up();
        Ok(false)
    }
}

async fn load_status(env: &Env, path: PathBuf) -> Option<GcStatus> {
    let data = env
        .io(move |files: &dyn Files| optional(files.read(&path)))
        .await
        .ok()
        .flatten()?;
    serde_json::from_slice(&data).ok()
}

/// Acts on a chunk that turned out to be damaged: it is announced to open sessions; what is missing is not vouched for any
/// more, and what is corrupt (read twice) is set aside, so that the next backup that carries the chunk heals it.
fn report_damage(datastore: &Weak<Datastore>, digest: Digest, damage: &Damage) {
    let Some(datastore) = datastore.upgrade() else {
        return;
    };
    tracing::error!(datastore = %datastore.name, %digest, ?damage, "a stored chunk cannot be read");
    datastore.sessions.announce_lost(&digest);
    datastore.verified.distrust(digest);
    let Ok(permit) = Arc::clone(&datastore.setting_aside).try_acquire_owned() else {
        return;
    };
    let collector = Arc::clone(&datastore.collector);
    datastore.env.spawn(async move {
        if let Err(error) = collector.set_aside(digest).await {
            tracing::error!(%digest, %error, "the damaged chunk could not be set aside");
        }
        drop(permit);
    });
}

#[cfg(test)]
mod tests;
