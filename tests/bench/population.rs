//! A datastore of a size that nobody wants to wait for: a bucket and a cache directory that are filled with files, while
//! neither the S3 server nor the daemon runs.
//!
//! 1. S3 server and daemon start; the daemon makes the datastore, with its records in bucket and cache directory, and
//!    stops cleanly. Nothing is there yet, and the two agree.
//! 2. The bucket is filled with the library that the S3 server keeps its objects with: chunks of 64 bytes of noise, and
//!    snapshots (a dynamic index and a manifest each). All objects are two days old.
//! 3. The cache directory gets a marker for each chunk, two days old as well.
//! 4. S3 server and daemon start again. The daemon trusts the markers, for nothing was deleted meanwhile, and fetches the
//!    indexes for its mirror. It is stopped and started once more, so that its peak of memory is not that of the
//!    fetching.
//!
//! The snapshots name the chunks that are in use in windows: number *i* of *s* begins at chunk *used · i / s* and names
//! `entries` chunks in order, at the end from the first one on; fewer if there are not as many, more where chunks would
//! be named by nobody otherwise. With 500 snapshots of a million chunks and 20,000 entries each chunk is named 10 times,
//! and all indexes together are 400 MB long.

use std::collections::BTreeSet;
use std::fs::{self, File, FileTimes};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use holdfast_tests::daemon::Daemon;
use holdfast_tests::measure::noise::Noise;
use holdfast_tests::measure::proxy::{Proxy, ProxyOptions};
use holdfast_tests::measure::site::S3Process;
use holdfast_tests::process::wait_for;
use pbs_datastore::{
    ArchiveName, BackupTime, BucketLayout, CryptMode, DataBlob, Digest, DynamicIndex, LocalLayout,
    Manifest, ManifestFile, Namespace, Place, Snapshot,
};
use s3_client::{
    Body, DirectoryOptions, DirectoryStore, ObjectKey, ObjectStore as _, Put, PutOutcome,
    wall_clock,
};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use uuid::Uuid;

/// Name of the datastore, and its prefix in the bucket.
pub(crate) const STORE: &str = "main";
/// Name of the S3 server in the configuration.
const S3_ID: &str = "measured";
/// Bytes of a chunk before it is encoded.
const CHUNK_BYTES: usize = 64;
/// How long ago everything was written and used.
const AGE: Duration = Duration::from_hours(48);
/// Seconds since 1970 of the first snapshot; each further one is an hour younger.
const FIRST_SNAPSHOT: i64 = 1_700_000_000;
/// Objects that are written at the same time.
const WRITERS: usize = 8;
/// How long the daemon may look through its cache directory.
const ACCOUNTING_TIME_MAX: Duration = Duration::from_mins(5);
/// What the daemon's log says when it has.
const ACCOUNTED: &str = "the cache is accounted for";

/// How much there is of what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Population {
    /// Decides all content.
    pub(crate) seed: u64,
    /// Chunks, garbage among them.
    pub(crate) chunks: u64,
    /// Of a hundred chunks so many are named by no snapshot.
    pub(crate) garbage_percent: u64,
    /// Snapshots of one group.
    pub(crate) snapshots: u64,
    /// Entries of each index; see the page of this file.
    pub(crate) entries: u64,
    /// Whether the bucket has the chunks.
    pub(crate) stored: bool,
    /// Whether the markers hold them.
    pub(crate) cached: bool,
}

impl Population {
    /// Chunks that no snapshot names.
    pub(crate) fn garbage(&self) -> u64 {
        self.chunks * self.garbage_percent.min(100) / 100
    }

    /// Chunks that are named by snapshots.
    pub(crate) fn used(&self) -> u64 {
        if self.snapshots == 0 {
            return 0;
        }
        self.chunks - self.garbage()
    }

    /// Entries of each index.
    pub(crate) fn entries_each(&self) -> u64 {
        let used = self.used();
        let least = used.div_ceil(self.snapshots.max(1));
        self.entries.max(least).min(used)
    }

    /// The chunks that a snapshot names, in order.
    fn window(&self, snapshot: u64) -> impl Iterator<Item = usize> + use<> {
        let used = self.used();
        let first = used * snapshot / self.snapshots.max(1);
        (first..first + self.entries_each()).map(move |number| (number % used) as usize)
    }

    fn chunk(&self, number: u64) -> Result<(Digest, DataBlob)> {
        let content = Noise::branch(self.seed, number).bytes(CHUNK_BYTES);
        let digest = Digest::of(&content);
        Ok((digest, DataBlob::encode_plain(content.into())?))
    }

    /// The names of all chunks; those that are in use come first.
    pub(crate) fn digests(&self) -> Vec<Digest> {
        let digest = |number| Digest::of(&Noise::branch(self.seed, number).bytes(CHUNK_BYTES));
        (0..self.chunks).map(digest).collect()
    }
}

/// Where the proxy before the S3 server is slow.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Way {
    /// Added to every S3 request.
    pub(crate) delay: Duration,
    /// Most bytes per second, each way.
    pub(crate) bytes_per_second: Option<u64>,
}

impl Way {
    /// Begins in front of this S3 server.
    pub(crate) fn before(self, s3: &S3Process) -> Result<Proxy> {
        Proxy::start(ProxyOptions {
            upstream: s3.address(),
            delay: self.delay,
            bytes_per_second: self.bytes_per_second,
        })
    }
}

/// A daemon over what was filled in, and all that it needs. The daemon runs.
pub(crate) struct Populated {
    // Before the daemon, with which the temporary directory goes.
    s3: S3Process,
    _proxy: Proxy,
    daemon: Daemon,
}

impl Populated {
    /// Sets everything up in a temporary directory.
    pub(crate) fn start(population: Population, way: Way) -> Result<Self> {
        let daemon = Daemon::set_up(&[])?;
        let bucket = daemon.dir().join("bucket");
        let direct = {
            let s3 = S3Process::start_without_log(&bucket)?;
            daemon.start()?;
            daemon.add_s3(S3_ID, s3.access(), &[])?;
            daemon.add_s3_store(S3_ID, STORE, &["--gc-atime-cutoff-minutes", "0"])?;
            daemon.stop()?;
            s3.access().endpoint.clone()
        };
        let digests = population.digests();
        {
            let fill = Fill::open(&bucket)?;
            if population.stored {
                fill.chunks_from(&population, 0, STORE)?;
            }
            fill.snapshots(&population, &digests)?;
            let content = population.cached.then_some(&population);
            fill.markers(&daemon.cache_dir(STORE), &digests, content)?;
        }
        let s3 = S3Process::start_without_log(&bucket)?;
        let proxy = way.before(&s3)?;
        daemon.edit_config(|text| text.replace(&direct, &proxy.endpoint()))?;
        daemon.start()?;
        let populated = Self {
            s3,
            _proxy: proxy,
            daemon,
        };
        populated.daemon.stop()?;
        populated.daemon.take_log();
        populated.daemon.start()?;
        populated.wait_until_accounted()?;
        Ok(populated)
    }

    /// The daemon.
    pub(crate) fn daemon(&self) -> &Daemon {
        &self.daemon
    }

    /// The S3 server.
    pub(crate) fn s3(&self) -> &S3Process {
        &self.s3
    }

    /// Number of the daemon's process.
    pub(crate) fn pid(&self) -> Result<u32> {
        self.daemon.pid().context("the daemon does not run")
    }

    /// Waits until the daemon knows all of its cache directory. Its log must have been taken before it was started.
    pub(crate) fn wait_until_accounted(&self) -> Result<()> {
        let accounted = wait_for(ACCOUNTING_TIME_MAX, || {
            self.daemon.log().contains(ACCOUNTED).then_some(())
        });
        accounted.with_context(|| format!("the cache is not known\n{}", self.daemon.log_tail()))
    }
}

impl Drop for Populated {
    /// Nobody asks an S3 server that is gone.
    fn drop(&mut self) {
        self.daemon.kill();
    }
}

/// Bucket and directories while they are filled.
pub(crate) struct Fill {
    runtime: Runtime,
    bucket: DirectoryStore,
    then: SystemTime,
}

impl Fill {
    /// Of a bucket that nobody else has open.
    pub(crate) fn open(bucket: &Path) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .thread_name("fill")
            .enable_all()
            .build()?;
        let then = wall_clock()() - jiff::SignedDuration::try_from(AGE)?;
        let options = DirectoryOptions {
            clock: Arc::new(move || then),
            sync: false,
        };
        let bucket = runtime.block_on(DirectoryStore::open_with(bucket, options))?;
        Ok(Self {
            runtime,
            bucket,
            then: then.into(),
        })
    }

    /// Puts the chunks from number `first` on below a prefix of the bucket.
    pub(crate) fn chunks_from(
        &self,
        population: &Population,
        first: u64,
        prefix: &str,
    ) -> Result<()> {
        let layout = BucketLayout::new(&prefix.parse()?);
        let (next, population) = (Arc::new(AtomicU64::new(first)), *population);
        self.runtime.block_on(async {
            let mut writers = JoinSet::new();
            for _ in 0..WRITERS {
                let (next, layout) = (Arc::clone(&next), layout.clone());
                let bucket = self.bucket.clone();
                writers.spawn(async move {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= population.chunks {
                            return anyhow::Ok(());
                        }
                        let (digest, blob) = population.chunk(number)?;
                        let key = layout.key(&Place::Chunk(digest));
                        put(&bucket, key, blob.to_body()).await?;
                    }
                });
            }
            while let Some(ended) = writers.join_next().await {
                ended??;
            }
            Ok(())
        })
    }

    /// Makes the marker of each digest below a directory, with its chunk as content if `content` is given.
    pub(crate) fn markers(
        &self,
        dir: &Path,
        digests: &[Digest],
        content: Option<&Population>,
    ) -> Result<()> {
        let times = FileTimes::new()
            .set_accessed(self.then)
            .set_modified(self.then);
        let mut folders = BTreeSet::new();
        for (number, digest) in digests.iter().enumerate() {
            let path = marker(dir, digest);
            let folder = path.parent().context("a marker lies in a folder")?;
            if folders.insert(digest.folder()) {
                fs::create_dir_all(folder)?;
            }
            let mut file = File::options()
                .write(true)
                .create_new(true)
                .mode(0o644)
                .open(&path)
                .with_context(|| format!("cannot create '{}'", path.display()))?;
            if let Some(population) = content {
                file.write_all(&population.chunk(number as u64)?.1.encoded())?;
            }
            file.set_times(times)?;
        }
        Ok(())
    }

    fn snapshots(&self, population: &Population, digests: &[Digest]) -> Result<()> {
        let layout = BucketLayout::new(&STORE.parse()?);
        let name: ArchiveName = "root.tar.didx".parse()?;
        let root = Namespace::root();
        for number in 0..population.snapshots {
            let time = BackupTime::new(FIRST_SNAPSHOT + 3600 * number as i64)?;
            let snapshot: Snapshot = format!("host/crowd/{time}").parse()?;
            if number == 0 {
                let place = Place::GroupOwner(root.clone(), snapshot.group.clone());
                self.put(layout.key(&place), Bytes::from_static(b"root@pam\n"))?;
            }
            let entries: Vec<_> = (1..)
                .zip(population.window(number))
                .map(|(count, chunk): (u64, usize)| (count * CHUNK_BYTES as u64, digests[chunk]))
                .collect();
            let bytes = DynamicIndex::encode(&Uuid::nil(), time.seconds(), &entries)?;
            let index = DynamicIndex::parse(bytes.clone())?;
            let file = ManifestFile {
                name: name.clone(),
                crypt_mode: CryptMode::None,
                size: index.size(),
                csum: Some(index.csum()),
            };
            let manifest = Manifest::new(snapshot.clone(), vec![file])?.to_blob()?;
            self.put(layout.key(&Place::archive(&root, &snapshot, &name)), bytes)?;
            let place = Place::archive(&root, &snapshot, &ArchiveName::manifest());
            self.put(layout.key(&place), manifest.encoded())?;
        }
        Ok(())
    }

    fn put(&self, key: ObjectKey, body: Bytes) -> Result<()> {
        self.runtime.block_on(put(&self.bucket, key, body.into()))
    }
}

async fn put(bucket: &DirectoryStore, key: ObjectKey, body: Body) -> Result<()> {
    let outcome = bucket.put(Put::new(key, body)).await?.value;
    ensure!(
        matches!(outcome, PutOutcome::Created { .. }),
        "an object was not written: {outcome:?}"
    );
    Ok(())
}

/// Where the marker of a chunk lies below a cache directory.
pub(crate) fn marker(dir: &Path, digest: &Digest) -> PathBuf {
    dir.join(LocalLayout::Cache.path(&Place::Chunk(*digest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn population(chunks: u64, garbage_percent: u64, snapshots: u64) -> Population {
        Population {
            seed: 1,
            chunks,
            garbage_percent,
            snapshots,
            entries: 20,
            stored: true,
            cached: false,
        }
    }

    #[test]
    fn every_chunk_in_use_is_named_and_no_garbage() {
        for (chunks, garbage, snapshots, entries) in [
            (100, 0, 10, 20),
            (1000, 10, 3, 300),
            (10, 0, 7, 10),
            (1000, 90, 50, 20),
            (101, 33, 4, 20),
        ] {
            let crowd = population(chunks, garbage, snapshots);
            assert_eq!(crowd.entries_each(), entries);
            let named: BTreeSet<_> = (0..snapshots).flat_map(|i| crowd.window(i)).collect();
            assert_eq!(named.len() as u64, crowd.used());
            assert_eq!(
                named.last().map(|last| *last as u64),
                Some(crowd.used() - 1)
            );
        }
    }

    #[test]
    fn without_snapshots_all_is_unused() {
        let crowd = population(100, 0, 0);
        assert_eq!((crowd.used(), crowd.entries_each()), (0, 0));
    }
}
