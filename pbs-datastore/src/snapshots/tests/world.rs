//! A bucket or directory, the processes that use it, and backups in short.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use s3_client::{
    FaultPlan, FaultyStore, KeyPrefix, ModelOptions, ModelStore, ObjectKey, ObjectStore, Support,
};

use crate::files::{FaultyFiles, OsFiles};
use crate::index::IndexChecksum;
use crate::layout::{BucketLayout, Place};
use crate::snapshots::{GroupRef, SnapshotFilter, SnapshotRef, Snapshots};
use crate::{
    ArchiveKind, ArchiveName, AuthId, Capabilities, ChunkUploadStats, Contents, CryptMode, Digest,
    Env, Manifest, ManifestFile, Namespace, Owner, OwnerConfig, Result, Sessions, SnapshotWriter,
    StartReport, SyncLevel, WriterSession,
};

pub(crate) const T: Duration = Duration::from_mins(15);

/// A bucket, or a directory, with what may go wrong, and the processes that use it.
pub(crate) struct World {
    pub(crate) env: Env,
    pub(crate) model: Arc<ModelStore>,
    pub(crate) plan: FaultPlan,
    pub(crate) capabilities: Capabilities,
    pub(crate) dir: tempfile::TempDir,
}

/// One process.
pub(crate) struct Daemon {
    pub(crate) owner: Owner,
    pub(crate) report: StartReport,
    pub(crate) snapshots: Arc<Snapshots>,
    pub(crate) sessions: Arc<Sessions>,
}

pub(crate) fn id(text: &str) -> SnapshotRef {
    text.parse().unwrap()
}

pub(crate) fn group(text: &str) -> GroupRef {
    GroupRef::new(Namespace::root(), text.parse().unwrap())
}

pub(crate) fn name(text: &str) -> ArchiveName {
    text.parse().unwrap()
}

pub(crate) fn caller() -> AuthId {
    "tester@pbs".parse().unwrap()
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(ModelOptions::default())
    }

    pub(crate) fn with(options: ModelOptions) -> Self {
        let works = |support| support == Support::Works;
        Self {
            env: Env::simulated(
                Timestamp::from_second(1_800_000_000).unwrap(),
                1,
                Arc::new(OsFiles),
            ),
            capabilities: Capabilities {
                conditional_create: works(options.conditional_create),
                conditional_overwrite: works(options.conditional_overwrite),
            },
            model: Arc::new(ModelStore::new(options)),
            plan: FaultPlan::new(),
            dir: tempfile::tempdir().unwrap(),
        }
    }

    /// With files that can fail.
    pub(crate) fn with_faulty_files() -> (Self, Arc<FaultyFiles>) {
        let files = Arc::new(FaultyFiles::new(Arc::new(OsFiles)));
        let mut world = Self::new();
        let start = world.env.now();
        world.env = Env::simulated(start, 1, Arc::clone(&files) as _);
        (world, files)
    }

    fn layout() -> BucketLayout {
        BucketLayout::new(&"store".parse().unwrap())
    }

    pub(crate) fn cache(&self, dir: &str) -> PathBuf {
        self.dir.path().join(dir)
    }

    pub(crate) async fn start(&self, dir: &str, take_over: bool) -> Daemon {
        let model = Arc::clone(&self.model) as Arc<dyn ObjectStore>;
        let store = Arc::new(FaultyStore::new(model, self.plan.clone()));
        let config = OwnerConfig {
            layout: Self::layout(),
            cache_dir: self.cache(dir),
            hostname: "host".into(),
            installation: "installation".into(),
            capabilities: self.capabilities,
            take_over,
            previous_owner_is_dead: false,
            late_request_max: T,
            signature_window: T,
        };
        let opened = Owner::open_bucket(&self.env, Arc::clone(&store) as _, config).await;
        let (owner, report) = opened.unwrap();
        owner.markers_dropped().await.unwrap();
        let cache = self.cache(dir);
        let contents =
            Contents::open_bucket(&self.env, store, Self::layout(), self.capabilities, &cache)
                .await;
        let contents = Arc::new(contents.unwrap());
        contents.refresh().await.unwrap();
        let daemon = self.daemon(owner, report, contents);
        daemon.snapshots.freeze_known().await.unwrap();
        daemon
    }

    fn daemon(&self, owner: Owner, report: StartReport, contents: Arc<Contents>) -> Daemon {
        let fence = owner.fence().clone();
        Daemon {
            snapshots: Snapshots::new(contents, fence, &report, T),
            sessions: Sessions::new(self.env.clone(), report.start.clone()),
            owner,
            report,
        }
    }

    pub(crate) async fn start_directory(&self, sync: SyncLevel) -> Daemon {
        let root = self.cache("store");
        let (owner, report) = Owner::open_directory(&self.env, &root).await.unwrap();
        let contents = Arc::new(Contents::open_directory(&self.env, &root, sync));
        self.daemon(owner, report, contents)
    }

    pub(crate) fn key(place: &Place) -> ObjectKey {
        Self::layout().key(place)
    }

    pub(crate) fn has(&self, place: &Place) -> bool {
        self.model.object(&Self::key(place)).is_some()
    }

    /// Names of all objects of groups and snapshots.
    pub(crate) fn objects(&self) -> Vec<String> {
        let prefix = KeyPrefix::new("store/.cnt/").unwrap();
        let objects = self.model.objects();
        objects
            .keys()
            .filter_map(|key| prefix.strip(key).map(str::to_owned))
            .collect()
    }

    /// Waits until nothing runs in the background.
    pub(crate) async fn quiet(&self) {
        assert!(self.env.drain(Duration::from_secs(100_000)).await);
    }
}

impl Daemon {
    pub(crate) fn session(&self) -> Arc<WriterSession> {
        Arc::new(self.sessions.open("test"))
    }

    pub(crate) async fn begin(&self, id: &SnapshotRef) -> Result<SnapshotWriter> {
        self.snapshots
            .begin(id, &caller(), true, self.session())
            .await
    }

    /// Writes everything but the seal: one index `a.didx` of the chunks, each of 10 bytes.
    pub(crate) async fn write(&self, id: &SnapshotRef, chunks: &[&str]) -> SnapshotWriter {
        let writer = self.begin(id).await.unwrap();
        fill(&writer, chunks).await.unwrap();
        writer
    }

    pub(crate) async fn backup(&self, id: &SnapshotRef, chunks: &[&str]) {
        let writer = self.write(id, chunks).await;
        writer.finish(ChunkUploadStats::default()).await.unwrap();
    }

    pub(crate) async fn listed(&self) -> Vec<String> {
        let (root, filter) = (Namespace::root(), SnapshotFilter::default());
        let infos = self.snapshots.list(&root, &filter).await.unwrap();
        infos.iter().map(|info| info.id.to_string()).collect()
    }
}

pub(crate) async fn fill(writer: &SnapshotWriter, chunks: &[&str]) -> Result<()> {
    let mut csum = IndexChecksum::new();
    let mut entries = Vec::new();
    for (i, chunk) in chunks.iter().enumerate() {
        let digest = Digest::of(chunk.as_bytes());
        writer.session().handle().tell(digest, 10).unwrap();
        csum.push_dynamic(10 * (i as u64 + 1), &digest);
        entries.push((digest, 10 * i as u64));
    }
    let (archive, kind) = (name("a.didx"), ArchiveKind::Dynamic);
    let (csum, size) = (csum.finish(), 10 * chunks.len() as u64);
    let wid = writer.open_dynamic(&archive).await?;
    writer.append(wid, kind, &entries).await?;
    writer
        .close(wid, kind, chunks.len() as u64, size, csum)
        .await?;
    let file = ManifestFile {
        name: archive,
        crypt_mode: CryptMode::None,
        size,
        csum: Some(csum),
    };
    let manifest = Manifest::new(writer.id().snapshot.clone(), vec![file]).unwrap();
    let blob = manifest.to_blob().unwrap().encoded();
    writer.put_blob(&ArchiveName::manifest(), blob).await
}

pub(crate) const A1: &str = "vm/100/2023-11-14T22:13:20Z";
pub(crate) const A2: &str = "vm/100/2023-11-15T22:13:20Z";
pub(crate) const B1: &str = "vm/10/2023-11-14T22:13:20Z";
