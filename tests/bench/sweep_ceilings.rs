//! What a sweep cannot be faster than: the deletes alone, and the removal of the markers alone.
//!
//! Both are taken in the run of the sweep, on as many equal things, before its datastore is filled: objects of the same
//! chunks in a bucket of the same server program, deleted by our own S3 client through an equal proxy, 1000 keys a
//! request, and as many requests at a time as a datastore may have under way (64); and markers of the same names in the
//! same file system, unlinked by one thread in the order of their folders. A tenth of the objects is there once more and
//! deleted one request at a time: a sweep has one batch under way, and this tells how much of the difference is due to
//! that.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::available_parallelism;

use anyhow::{Result, ensure};
use holdfast_tests::measure::site::S3Process;
use holdfast_tests::measure::usage::CpuTime;
use holdfast_tests::process::Watchdog;
use holdfast_tests::s3_server::Access;
use pbs_datastore::{BucketLayout, Digest, Place};
use s3_client::{DeleteOutcome, DeleteRequest, Limited, Limits, ObjectStore as _, PAGE_KEYS_MAX};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::population::{Fill, Population, Way, marker};

/// Prefix of the objects that are deleted by many requests at a time.
const SIDE_BY_SIDE: &str = "raw-side-by-side";
/// Prefix of those that are deleted one request after the other.
const IN_TURN: &str = "raw-in-turn";
/// One of so many objects is deleted in turn.
const IN_TURN_SHARE: usize = 10;

/// Seconds for as many chunks as the sweep removes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SweepCeilings {
    /// `DeleteObjects`, as many at a time as a datastore may have.
    pub(crate) side_by_side: f64,
    /// Processor seconds of the whole machine meanwhile.
    pub(crate) side_by_side_cpu: f64,
    /// `DeleteObjects`, one after the other; from a tenth.
    pub(crate) in_turn: f64,
    /// Unlinking the markers.
    pub(crate) unlink: f64,
}

impl SweepCeilings {
    /// Measures all three for the garbage of a population.
    pub(crate) fn measure(population: &Population, way: Way) -> Result<Self> {
        let dir = TempDir::with_prefix("holdfast-test-")?;
        let _watchdog = Watchdog::removing(dir.path())?;
        let (bucket, markers) = (dir.path().join("bucket"), dir.path().join("markers"));
        let garbage = population.digests().split_off(population.used() as usize);
        let few = garbage.len() / IN_TURN_SHARE;
        {
            let fill = Fill::open(&bucket)?;
            fill.chunks_from(population, population.used(), SIDE_BY_SIDE)?;
            fill.chunks_from(population, population.chunks - few as u64, IN_TURN)?;
            fill.markers(&markers, &garbage, None)?;
        }
        let s3 = S3Process::start_without_log(&bucket)?;
        let proxy = way.before(&s3)?;
        let access = Access {
            endpoint: proxy.endpoint(),
            ..s3.access().clone()
        };
        nix::unistd::sync();
        let concurrency = Limits::default().concurrency_max;
        let machine = CpuTime::now()?;
        let side_by_side = delete(&access, SIDE_BY_SIDE, &garbage, concurrency)?;
        let busy = 1.0 - CpuTime::now()?.idle_since(&machine);
        let in_turn = delete(&access, IN_TURN, &garbage[garbage.len() - few..], 1)?;
        let paths = garbage.iter().map(|digest| marker(&markers, digest));
        Ok(Self {
            side_by_side,
            side_by_side_cpu: busy * side_by_side * available_parallelism()?.get() as f64,
            in_turn: in_turn * garbage.len() as f64 / few.max(1) as f64,
            unlink: unlink(paths.collect())?,
        })
    }

    /// The slower one of those that bound a sweep.
    pub(crate) fn slower(&self) -> f64 {
        self.side_by_side.max(self.unlink)
    }
}

/// Deletes the objects of these chunks, so many requests at a time. Returns how many seconds it took.
fn delete(access: &Access, prefix: &str, chunks: &[Digest], concurrency: usize) -> Result<f64> {
    let layout = BucketLayout::new(&prefix.parse()?);
    // In the order of their names, as a sweep finds them.
    let mut chunks = chunks.to_vec();
    chunks.sort_unstable();
    let batches: Vec<Vec<DeleteRequest>> = chunks
        .chunks(PAGE_KEYS_MAX)
        .map(|batch| {
            let request = |digest: &Digest| layout.key(&Place::Chunk(*digest)).into();
            batch.iter().map(request).collect()
        })
        .collect();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_name("raw deletes")
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let store = Arc::new(access.client().await?);
        let store = Arc::new(Limited::new(store, Limits::default()));
        let (batches, next) = (Arc::new(batches), Arc::new(AtomicUsize::new(0)));
        let began = Instant::now();
        let mut workers = JoinSet::new();
        for _ in 0..concurrency.max(1) {
            let (batches, next) = (Arc::clone(&batches), Arc::clone(&next));
            let store = Arc::clone(&store);
            workers.spawn(async move {
                while let Some(batch) = batches.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcomes = store.delete(batch, None).await?.value;
                    let gone = |outcome: &DeleteOutcome| *outcome == DeleteOutcome::Deleted;
                    ensure!(outcomes.iter().all(gone), "a raw delete deleted nothing");
                }
                Ok(())
            });
        }
        while let Some(ended) = workers.join_next().await {
            ended??;
        }
        Ok(began.elapsed().as_secs_f64())
    })
}

/// Unlinks the files in the order of their paths. Returns how many seconds it took.
fn unlink(mut paths: Vec<PathBuf>) -> Result<f64> {
    paths.sort_unstable();
    let began = Instant::now();
    for path in &paths {
        fs::remove_file(path)?;
    }
    Ok(began.elapsed().as_secs_f64())
}
