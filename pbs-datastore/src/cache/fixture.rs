//! A cache and readers over a model bucket, for the tests of this half.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use s3_client::{FaultPlan, FaultyStore, Metadata, ModelStore, ObjectKey, ObjectStore, Op};
use tempfile::TempDir;

use super::Cache;
use super::fill::Fills;
use crate::chunk_store::ChunkReader;
use crate::chunk_store::guard::ChunkTable;
use crate::chunk_store::marker::{Marker, Markers, Nature};
use crate::files::{
    DirEntry, FaultyFiles, FileFault, FileLock, FileOp, FileStat, Files, FreeSpace, OsFiles,
};
use crate::layout::Place;
use crate::{BucketLayout, CacheCounts, CacheMetrics, DataBlob, Digest, Env, MemoryBudget};

/// Called before a file operation; for races in a known order.
pub(crate) type Hook = Box<dyn Fn(FileOp, &Path) + Send + Sync>;

/// Files of the system that count the bytes on disk and call a hook.
#[derive(Default)]
pub(crate) struct WatchedFiles {
    live: AtomicU64,
    peak: AtomicU64,
    hook: Mutex<Option<Arc<Hook>>>,
}

impl std::fmt::Debug for WatchedFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WatchedFiles")
    }
}

impl WatchedFiles {
    /// Most bytes that were on disk at any time.
    pub(crate) fn peak(&self) -> u64 {
        self.peak.load(Ordering::SeqCst)
    }

    pub(crate) fn set_hook(&self, hook: Option<Hook>) {
        *self.hook.lock().unwrap() = hook.map(Arc::new);
    }

    fn before(&self, op: FileOp, path: &Path) {
        let hook = self.hook.lock().unwrap().clone();
        if let Some(hook) = hook {
            hook(op, path);
        }
    }

    fn grow(&self, bytes: u64) {
        let live = self.live.fetch_add(bytes, Ordering::SeqCst) + bytes;
        self.peak.fetch_max(live, Ordering::SeqCst);
    }

    fn size(path: &Path) -> u64 {
        OsFiles.stat(path).map_or(0, |stat| stat.size)
    }
}

impl Files for WatchedFiles {
    fn read(&self, path: &Path) -> io::Result<Bytes> {
        OsFiles.read(path)
    }
    fn read_at(&self, path: &Path, offset: u64, len: usize) -> io::Result<Bytes> {
        OsFiles.read_at(path, offset, len)
    }
    fn create(&self, path: &Path, mode: u32, parts: &[Bytes], sync: bool) -> io::Result<()> {
        self.before(FileOp::Write, path);
        OsFiles.create(path, mode, parts, sync)?;
        self.grow(Self::size(path));
        Ok(())
    }
    fn write_at(&self, path: &Path, offset: u64, data: &[u8]) -> io::Result<()> {
        OsFiles.write_at(path, offset, data)
    }
    fn set_len(&self, path: &Path, len: u64) -> io::Result<()> {
        let before = Self::size(path);
        OsFiles.set_len(path, len)?;
        self.live.fetch_sub(before, Ordering::SeqCst);
        self.grow(len);
        Ok(())
    }
    fn sync(&self, path: &Path) -> io::Result<()> {
        OsFiles.sync(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        OsFiles.sync_dir(path)
    }
    fn sync_file_system(&self, path: &Path) -> io::Result<()> {
        OsFiles.sync_file_system(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.before(FileOp::Rename, to);
        let replaced = Self::size(to);
        OsFiles.rename(from, to)?;
        self.live.fetch_sub(replaced, Ordering::SeqCst);
        Ok(())
    }
    fn unlink(&self, path: &Path) -> io::Result<()> {
        let size = Self::size(path);
        OsFiles.unlink(path)?;
        self.live.fetch_sub(size, Ordering::SeqCst);
        Ok(())
    }
    fn touch(&self, path: &Path, atime: Timestamp) -> io::Result<()> {
        OsFiles.touch(path, atime)
    }
    fn set_times(&self, path: &Path, atime: Timestamp, mtime: Timestamp) -> io::Result<()> {
        OsFiles.set_times(path, atime, mtime)
    }
    fn stat(&self, path: &Path) -> io::Result<FileStat> {
        OsFiles.stat(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        OsFiles.list(path)
    }
    fn names(&self, path: &Path, max: usize) -> io::Result<Option<Vec<String>>> {
        OsFiles.names(path, max)
    }
    fn create_dirs(&self, path: &Path) -> io::Result<()> {
        OsFiles.create_dirs(path)
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        OsFiles.remove_dir(path)
    }
    fn remove_tree(&self, path: &Path) -> io::Result<()> {
        OsFiles.remove_tree(path)
    }
    fn free_space(&self, path: &Path) -> io::Result<FreeSpace> {
        OsFiles.free_space(path)
    }
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn FileLock>>> {
        OsFiles.lock(path)
    }
}

/// Bounds of a fixture.
#[derive(Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) cache: u64,
    pub(crate) memory: u64,
    pub(crate) ahead: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            cache: 1 << 30,
            memory: 256 << 20,
            ahead: 0,
        }
    }
}

/// One datastore's cache and read half.
pub(crate) struct Fixture {
    pub(crate) dir: TempDir,
    pub(crate) env: Env,
    pub(crate) watched: Arc<WatchedFiles>,
    pub(crate) files: Arc<FaultyFiles>,
    pub(crate) model: Arc<ModelStore>,
    pub(crate) plan: FaultPlan,
    pub(crate) table: Arc<ChunkTable>,
    pub(crate) markers: Markers,
    pub(crate) cache: Arc<Cache>,
    pub(crate) budget: MemoryBudget,
    pub(crate) fills: Fills,
    pub(crate) reader: Arc<ChunkReader>,
    pub(crate) metrics: Arc<CacheMetrics>,
    bounds: Bounds,
}

/// When the tests begin.
pub(crate) const START: i64 = 1_700_000_000;

/// A chunk of `len` bytes that is like no other with another `n`.
pub(crate) fn chunk(n: u32, len: usize) -> (Digest, DataBlob) {
    let mut data = n.to_le_bytes().repeat(len.div_ceil(4));
    data.truncate(len);
    let blob = DataBlob::encode_plain(data.clone().into()).unwrap();
    (Digest::of(&data), blob)
}

/// The moment so many seconds after the start.
pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(START + seconds).unwrap()
}

fn layout() -> BucketLayout {
    BucketLayout::new(&"store".parse().unwrap())
}

pub(crate) fn key(digest: &Digest) -> ObjectKey {
    layout().key(&Place::Chunk(*digest))
}

/// How long tests wait for what must happen.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Lets everybody else work until `done`. Time does not pass meanwhile if it is paused.
pub(crate) async fn until(done: impl Fn() -> bool) {
    for _ in 0..100_000 {
        if done() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("it did not happen");
}

impl Fixture {
    /// A fresh directory and bucket; accounting has ended.
    pub(crate) async fn new(bounds: Bounds) -> Self {
        let fixture = Self::starting(tempfile::tempdir().unwrap(), bounds).await;
        fixture.settle().await;
        fixture
    }

    /// A process start in `dir`; accounting is still to run.
    pub(crate) async fn starting(dir: TempDir, bounds: Bounds) -> Self {
        let watched = Arc::new(WatchedFiles::default());
        let inner: Arc<dyn Files> = Arc::<WatchedFiles>::clone(&watched);
        let files = Arc::new(FaultyFiles::new(inner));
        let dynamic: Arc<dyn Files> = Arc::<FaultyFiles>::clone(&files);
        let env = Env::simulated(at(0), 1, dynamic);
        let model = Arc::new(ModelStore::default());
        let plan = FaultPlan::new();
        let inner: Arc<dyn ObjectStore> = Arc::<ModelStore>::clone(&model);
        let store = Arc::new(FaultyStore::new(inner, plan.clone()));
        let (table, markers) = (ChunkTable::new(), Markers::new(dir.path()));
        let metrics = Arc::new(CacheMetrics::default());
        let budget = MemoryBudget::new(bounds.memory);
        let cache = Cache::open(
            env.clone(),
            markers.clone(),
            Arc::clone(&table),
            bounds.cache,
            Arc::clone(&metrics),
        )
        .await
        .unwrap();
        let fills = Fills::new(
            env.clone(),
            store,
            layout(),
            Arc::clone(&table),
            Arc::clone(&cache),
            budget.clone(),
            Arc::clone(&metrics),
        );
        let reader = ChunkReader::bucket(
            env.clone(),
            markers.clone(),
            Arc::clone(&table),
            fills.clone(),
            budget.clone(),
            Arc::clone(&metrics),
            bounds.ahead,
        );
        Self {
            dir,
            env,
            watched,
            files,
            model,
            plan,
            table,
            markers,
            cache,
            budget,
            fills,
            reader,
            metrics,
            bounds,
        }
    }

    /// Ends this process and starts the next one in the same directory, with another bound.
    pub(crate) async fn restart(self, cache: u64) -> Self {
        self.cache.stop();
        assert!(self.env.drain(SOON).await);
        let bounds = Bounds {
            cache,
            ..self.bounds
        };
        Self::starting(self.dir, bounds).await
    }

    /// Waits for the end of accounting.
    pub(crate) async fn settle(&self) {
        let mut accounted = self.cache.accounted();
        accounted.wait_for(|accounted| *accounted).await.unwrap();
    }

    /// Waits until only accounting and eviction are left of all tasks, and these have nothing to do.
    pub(crate) async fn quiet(&self) {
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
    }

    pub(crate) fn counts(&self) -> CacheCounts {
        self.metrics.counts()
    }

    pub(crate) fn gets(&self) -> u64 {
        self.model.count(Op::Get)
    }

    /// Puts a chunk into the bucket, and an empty marker into the directory.
    pub(crate) async fn stored(&self, n: u32, len: usize) -> Digest {
        let (digest, blob) = chunk(n, len);
        self.in_bucket(&digest, &blob);
        let guard = self.table.guard(digest).await;
        let inserted = self
            .cache
            .insert_marker(guard, Nature::Plain, at(-100), at(-200));
        inserted.await.1.unwrap();
        digest
    }

    pub(crate) fn in_bucket(&self, digest: &Digest, blob: &DataBlob) {
        let body = blob.encoded();
        self.model
            .insert_raw(key(digest), body, Metadata::new(), None);
    }

    pub(crate) async fn insert(&self, n: u32, len: usize, used: Timestamp) -> Digest {
        let (digest, blob) = chunk(n, len);
        let (header, payload) = blob.parts();
        let (guard, parts) = (self.table.guard(digest).await, [header, payload]);
        let insert = self
            .cache
            .insert(guard, &parts, Nature::Plain, used, at(-300));
        insert.await.1.unwrap();
        digest
    }

    pub(crate) fn marker(&self, digest: &Digest) -> Option<Marker> {
        self.markers.get(&OsFiles, digest).unwrap()
    }

    pub(crate) fn fail(&self, op: FileOp, path: &str, times: usize, error: nix::errno::Errno) {
        self.files.add(FileFault {
            op,
            path: path.to_owned(),
            times,
            errno: error as i32,
        });
    }
}
