//! Garbage collection: mark by touching, sweep by age, beside running backups.
//!
//! One run, in this order
//! 1. *Cutoff*: the atime proof, then the start, then the open writers (`cutoff.rs`).
//! 2. *Mark*: every digest of every root is touched (`mark.rs`). Any error ends the run: nothing has been deleted.
//! 3. *Sweep*: stored chunks are compared with marks (`sweep.rs`), in parallel ranges; candidates are deleted in
//!    batches (`condemn.rs`), one batch at a time.
//! 4. *Epoch*: before its first delete a run raises the epoch in the bucket and in the cache directory, so that an old
//!    copy of the cache directory is recognised (I3).
//! 5. *Reconcile*: belief is made to agree with the complete listing (`reconcile.rs`), missing chunks are reported.
//! 6. Stale upload markers, using markers and temporary files go.
//!
//! Phases are states that are moved on. For a run: *marked* (nothing is swept without), then each range is *listed* while
//! the batches of others are deleted already. For a batch: condemned → acknowledged → confirmed → deleted → released, see
//! `condemn.rs`; deletes take only what was confirmed. Acknowledgement and confirmation are where several writers on one
//! prefix would be asked and the roots read again; with one writer the local condemnation acknowledges, and the fence
//! confirms.
//!
//! A run may be stopped between batches and loses nothing: what was not deleted is found again. A crash inside a batch
//! is repaired at the next start ([`Recovery`]); no collection starts before that has ended.
//!
//! Kept: I2 (cutoff, mark), I4 (upload markers count as use), I5 and I8 (`condemn.rs`), I10 (errors end the run).

mod batches;
mod condemn;
mod cutoff;
pub(crate) mod journal;
mod mark;
mod named;
mod reconcile;
mod set_aside;
mod status;
mod sweep;

use std::path::PathBuf;
use std::sync::Arc;

use s3_client::ObjectStore;
use tokio::sync::mpsc;
use tokio::time::Instant;

use self::batches::Batches;
pub(crate) use self::condemn::Recovery;
use self::cutoff::{Cutoff, prove_atimes};
use self::journal::Journal;
use self::mark::Marked;
pub use self::status::{GcStatus, TouchCounts};
use self::sweep::{Counts, Sweep};
pub(crate) use self::sweep::{FOLDERS, folder_of};
use crate::chunk_store::guard::ChunkTable;
use crate::chunk_store::marker::Markers;
use crate::error::About as _;
use crate::files::Files;
use crate::layout::{LocalLayout, Place};
use crate::owner::Owner;
use crate::progress::Progress;
use crate::roots::RootProvider;
use crate::sabotage::{self, Rule};
use crate::step::Step;
use crate::{BucketLayout, DatastoreConfig, Digest, Env, Error, JobContext, Result, Sessions};

/// Findings and candidates on their way from the ranges to the batches; bounds memory. Enough for a batch, so that the
/// listing goes on while one is deleted.
const FOUND_QUEUE: usize = 16 << 10;

/// The bucket side of a collector.
#[derive(Clone, Debug)]
pub(crate) struct Bucket {
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) layout: BucketLayout,
    pub(crate) owner: Arc<Owner>,
}

/// What a run is asked to do.
#[derive(Clone, Copy, Debug, Default)]
pub struct GcOptions {
    /// Do everything but delete, and log what would be deleted.
    pub dry_run: bool,
}

/// Collects the garbage of one datastore.
#[derive(Debug)]
pub(crate) struct Collector {
    pub(crate) env: Env,
    pub(crate) config: Arc<DatastoreConfig>,
    pub(crate) table: Arc<ChunkTable>,
    pub(crate) markers: Markers,
    /// Our own directory, `.holdfast` in the cache directory or the store.
    pub(crate) ours: PathBuf,
    pub(crate) bucket: Option<Bucket>,
    pub(crate) roots: Vec<Arc<dyn RootProvider>>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) cache: Option<Arc<crate::cache::Cache>>,
    journal: Journal,
    running: tokio::sync::Mutex<()>,
    /// Nothing is collected or set aside before this: recovery, or T after an unclean stop.
    not_before: Option<Instant>,
    gone: reconcile::Gone,
    /// Held by whoever has digests in the journal: one batch, or one chunk that is set aside.
    batch: tokio::sync::Mutex<()>,
}

/// The parts a collector is made of.
pub(crate) struct CollectorParts {
    pub(crate) env: Env,
    pub(crate) config: Arc<DatastoreConfig>,
    pub(crate) table: Arc<ChunkTable>,
    pub(crate) markers: Markers,
    pub(crate) ours: PathBuf,
    pub(crate) bucket: Option<Bucket>,
    pub(crate) roots: Vec<Arc<dyn RootProvider>>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) cache: Option<Arc<crate::cache::Cache>>,
    /// No run before this: recovery, or T after an unclean stop.
    pub(crate) not_before: Option<Instant>,
}

impl Collector {
    /// A collector that has not run yet.
    pub(crate) fn new(parts: CollectorParts) -> Arc<Self> {
        let journal = Journal::new(&parts.ours, parts.markers.temporary());
        let CollectorParts {
            env,
            config,
            table,
            markers,
            ours,
            bucket,
            roots,
            sessions,
            cache,
            not_before,
        } = parts;
        let running = tokio::sync::Mutex::default();
        let batch = tokio::sync::Mutex::default();
        Arc::new(Self {
            env,
            config,
            table,
            markers,
            ours,
            bucket,
            roots,
            sessions,
            cache,
            journal,
            running,
            not_before,
            gone: reconcile::Gone::default(),
            batch,
        })
    }

    /// Whether a run is under way, a chunk is being set aside, or deletes may still take effect.
    pub(crate) async fn is_busy(&self) -> bool {
        self.running.try_lock().is_err()
            || self.batch.try_lock().is_err()
            || self.no_journal().await.is_err()
    }

    fn cache_forget(&self, digest: &Digest) {
        if let Some(cache) = &self.cache {
            cache.forget_condemned(digest);
        }
    }

    /// Collects once. A second run at the same time is refused.
    pub(crate) async fn run(
        self: &Arc<Self>,
        options: GcOptions,
        job: &JobContext,
    ) -> Result<GcStatus> {
        let Ok(_running) = self.running.try_lock() else {
            return Err(Error::Busy(
                "garbage collection is running already".to_owned(),
            ));
        };
        let not_before = self.not_before.filter(|_| {
            !sabotage::is_off(Rule::JournalReplayed)
                && !sabotage::is_off(Rule::CollectionWaitsAfterCrash)
        });
        if let Some(wait) =
            not_before.and_then(|time| time.checked_duration_since(self.env.instant()))
        {
            return Err(Error::Refused(format!(
                "garbage collection waits {} s more: the last stop was not clean, and requests of that time may still \
                 take effect",
                wait.as_secs() + 1
            )));
        }
        let early = cutoff::oldest_open(&self.roots);
        if let Some(bucket) = &self.bucket {
            // Who is not the owner any more learns it now, and not after hours of marking.
            bucket.owner.fence().check().await?;
        }
        let (ours, now) = (self.ours.clone(), self.env.now());
        let granularity = self
            .env
            .io(move |files: &dyn Files| prove_atimes(files, &ours, now))
            .await?;
        let cutoff = Cutoff::read(
            &self.env,
            &self.roots,
            self.config.gc_atime_cutoff,
            granularity,
        );
        let cutoff = if sabotage::is_off(Rule::StartBeforeSessions) {
            let (start, keep) = (self.env.now(), self.config.gc_atime_cutoff);
            Cutoff::of(start, early, keep, granularity)
        } else {
            cutoff
        };
        Step::GcCutoff.passed();
        job.log(format!(
            "starting garbage collection; unused chunks older than {} are removed",
            cutoff.time
        ));
        let held_back_by = cutoff.held_back_by.clone();
        if let Some((label, since)) = &held_back_by {
            job.log(format!(
                "the session {label}, which runs since {since}, holds that time back"
            ));
        }
        let marked = self.mark(job).await?;
        Step::GcMarked.passed();
        self.gone.begin();
        job.log(format!(
            "marked the chunks of {} indexes",
            marked.stats.index_files
        ));
        let mut status = GcStatus {
            index_file_count: marked.stats.index_files,
            cache_stats: Some(marked.cache),
            index_data_bytes: marked.stats.index_bytes,
            held_back_since: held_back_by.as_ref().map(|(_, since)| since.as_second()),
            held_back_by: held_back_by.map(|(label, _)| label),
            ..GcStatus::default()
        };
        let missing = self
            .sweep(marked, &cutoff, options, job, &mut status)
            .await?;
        status.missing_chunks = missing.len() as u64;
        self.report_missing(missing, job).await?;
        if !options.dry_run {
            self.tidy(&cutoff).await?;
            Step::GcTidied.passed();
        }
        job.log(summary(&status));
        Ok(status)
    }

    /// Phases 3 to 5; returns the missing chunks. Takes the proof that everything in use is marked.
    async fn sweep(
        self: &Arc<Self>,
        marked: Marked,
        cutoff: &Cutoff,
        options: GcOptions,
        job: &JobContext,
        status: &mut GcStatus,
    ) -> Result<Vec<Digest>> {
        let (sender, mut receiver) = mpsc::channel(FOUND_QUEUE);
        let ranges = if self.bucket.is_some() {
            self.config.list_ranges as u32
        } else {
            1
        };
        let mut sweeps = Vec::new();
        let present = Arc::new(self.present_folders().await?);
        if marked.named.forgets() {
            job.log("the indexes name more chunks than are remembered; of the others their marks alone tell");
        }
        let shared = Sweep {
            cutoff: cutoff.clone(),
            named: Arc::new(marked.named),
            present,
            job: job.clone(),
            progress: Arc::new(Progress::new(&self.env, job, "swept", Some(FOLDERS.into()))),
            found: sender,
        };
        for range in 0..ranges {
            let folders = range * FOLDERS / ranges..(range + 1) * FOLDERS / ranges;
            sweeps.push(
                self.env
                    .spawn(Arc::clone(self).sweep_range(folders, shared.clone())),
            );
        }
        drop(shared);
        let acted = Batches::new(self, cutoff, options, job, status)
            .run(&mut receiver)
            .await;
        // A failed batch ends the ranges too: their sends fail once the receiver is gone.
        drop(receiver);
        let mut total = Counts::default();
        let mut swept = Ok(());
        for sweep in sweeps {
            match sweep
                .await
                .map_err(|_| Error::Refused("a sweep has panicked".to_owned()))
                .flatten()
            {
                Ok(counts) => {
                    total.used_bytes += counts.used_bytes;
                    total.used_chunks += counts.used_chunks;
                    total.pending_bytes += counts.pending_bytes;
                    total.pending_chunks += counts.pending_chunks;
                    total.still_bad += counts.still_bad;
                    total.unmarked_chunks += counts.unmarked_chunks;
                }
                Err(error) => swept = Err(error),
            }
        }
        if total.unmarked_chunks > 0 {
            job.log(format!(
                "{} chunks that indexes name had lost their marks since this collection marked them, and stay: another program \
                 changes files or access times below '{}'",
                total.unmarked_chunks,
                self.markers.chunks().display()
            ));
        }
        let findings = acted?;
        swept?;
        status.disk_bytes = total.used_bytes;
        status.disk_chunks = total.used_chunks;
        status.pending_bytes += total.pending_bytes;
        status.pending_chunks += total.pending_chunks;
        status.still_bad += total.still_bad;
        // Only now is the listing known to be complete.
        let mut missing = Vec::new();
        if let Some(bucket) = self
            .bucket
            .as_ref()
            .filter(|_| !options.dry_run && !findings.is_empty())
        {
            for finding in findings {
                job.check()?;
                missing.extend(self.reconcile(bucket, finding, cutoff).await?);
            }
            self.sync_markers().await?;
        }
        // Without the step above a chunk whose marker is lost would look missing, and be asked for.
        if !options.dry_run {
            missing.extend(self.marked_without_chunk(cutoff, job).await?);
        }
        missing.sort_unstable();
        missing.dedup();
        Ok(missing)
    }

    /// Keeps the result for the next start and for other programs.
    pub(crate) async fn save_status(&self, root: PathBuf, status: &GcStatus) -> Result<()> {
        let text = serde_json::to_vec(status).map_err(|error| Error::Invalid(error.to_string()))?;
        let path = root.join(LocalLayout::Cache.path(&Place::GcStatus));
        let unique = self.env.new_id();
        let write = {
            let (path, markers) = (path.clone(), self.markers.clone());
            move |files: &dyn Files| {
                let temporary = markers.temporary();
                crate::files::replace(files, temporary, &path, &[text.into()], &unique)
            }
        };
        self.env.io(write).await.about(path)
    }
}

/// The last line of the log.
fn summary(status: &GcStatus) -> String {
    format!(
        "removed {} chunks ({} bytes); {} chunks ({} bytes) in use, {} pending; {} missing, {} refused, {} unknown",
        status.removed_chunks,
        status.removed_bytes,
        status.disk_chunks,
        status.disk_bytes,
        status.pending_chunks,
        status.missing_chunks,
        status.refused_chunks,
        status.unknown_chunks
    )
}
