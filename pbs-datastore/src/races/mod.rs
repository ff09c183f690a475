//! Races between insert and garbage collection, forced through gates, each proved by switching its rule off.
//!
//! With `HOLDFAST_SABOTAGE=<Rule>` in the environment the test named in
//! `tests/src/bin/sabotage/rules.rs` fails for each rule.

mod aside;
mod collect;
mod crash;
mod insert;
mod marks;
mod starts;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use s3_client::{FaultPlan, FaultyStore, ModelOptions, ModelStore, ObjectKey, ObjectStore};

use crate::cache::Cache;
use crate::chunk_store::guard::ChunkTable;
use crate::chunk_store::insert::{ChunkBucket, ChunkStore, InsertOptions, VerifiedChunk};
use crate::chunk_store::marker::{Marker, Markers};
use crate::files::{FaultyFiles, Files, OsFiles};
use crate::gc::{Bucket, Collector, CollectorParts, GcOptions, GcStatus, Recovery};
use crate::layout::Place;
use crate::metrics::CacheMetrics;
use crate::owner::{Capabilities, Owner, OwnerConfig, StartReport};
use crate::{
    Backend, BucketLayout, CryptKey, DataBlob, DatastoreConfig, Digest, Env, Inserted, JobContext,
    MarkSink, MarkStats, Needer, Result, RootProvider, Sessions, WriterSession,
};

/// T of these tests.
const LATE: Duration = Duration::from_mins(1);

/// Snapshots as lists of digests.
#[derive(Debug, Default)]
struct Snapshots {
    named: Mutex<BTreeMap<String, Vec<Digest>>>,
    damaged: Mutex<Vec<Digest>>,
    sessions: Mutex<Option<Arc<Sessions>>>,
}

#[async_trait]
impl RootProvider for Snapshots {
    fn name(&self) -> &'static str {
        "snapshots"
    }

    async fn settle(&self) -> Result<()> {
        Ok(())
    }

    fn oldest_open(&self) -> Option<(String, Timestamp)> {
        self.sessions
            .lock()
            .unwrap()
            .as_ref()
            .and_then(|sessions| sessions.oldest_open())
    }

    async fn mark(&self, sink: &mut dyn MarkSink) -> Result<MarkStats> {
        let named = self.named.lock().unwrap().clone();
        for (name, digests) in &named {
            sink.mark(
                &Needer {
                    provider: self.name(),
                    name: name.clone(),
                },
                digests,
            )
            .await?;
        }
        Ok(MarkStats {
            index_files: named.len() as u64,
            index_bytes: 0,
        })
    }

    async fn damaged(&self, missing: &[(Digest, Vec<Needer>)]) -> Result<()> {
        self.damaged
            .lock()
            .unwrap()
            .extend(missing.iter().map(|(digest, _)| *digest));
        Ok(())
    }
}

/// What outlives a crash of the daemon: the bucket, the disk, requests on their way, time.
struct World {
    env: Env,
    model: Arc<ModelStore>,
    plan: FaultPlan,
    files: Arc<FaultyFiles>,
    dir: tempfile::TempDir,
    config: DatastoreConfig,
    snapshots: Arc<Snapshots>,
    /// How long after a start nothing is collected.
    collects_after: Option<Duration>,
}

/// One life of the daemon.
struct Life {
    owner: Arc<Owner>,
    table: Arc<ChunkTable>,
    markers: Markers,
    sessions: Arc<Sessions>,
    chunks: Arc<ChunkStore>,
    collector: Arc<Collector>,
    layout: BucketLayout,
}

impl World {
    fn new() -> Self {
        Self::on(Arc::new(OsFiles))
    }

    fn on(disk: Arc<dyn Files>) -> Self {
        let model = Arc::new(ModelStore::new(ModelOptions::default()));
        let files = Arc::new(FaultyFiles::new(disk));
        let env = Env::simulated(model.now(), 1, Arc::clone(&files) as Arc<dyn Files>);
        let dir = tempfile::tempdir().unwrap();
        let cache_dir = dir.path().join("cache");
        let backend = Backend::Bucket {
            prefix: "store".into(),
            cache_dir,
            cache_bytes_max: 64 << 20,
        };
        let mut config = DatastoreConfig::new("store", backend);
        config.gc_atime_cutoff = Duration::ZERO;
        config.late_request_max = LATE;
        config.list_ranges = 2;
        Self {
            env,
            model,
            plan: FaultPlan::new(),
            files,
            dir,
            config,
            snapshots: Arc::default(),
            collects_after: None,
        }
    }

    fn store(&self) -> Arc<dyn ObjectStore> {
        let inner: Arc<dyn ObjectStore> = self.model.clone();
        Arc::new(FaultyStore::new(inner, self.plan.clone()))
    }

    async fn start_owner(&self) -> (Owner, StartReport) {
        let capabilities = Capabilities {
            conditional_create: true,
            conditional_overwrite: true,
        };
        let owner_config = OwnerConfig {
            layout: BucketLayout::new(&"store".parse().unwrap()),
            cache_dir: self.dir.path().join("cache"),
            hostname: "test".into(),
            installation: "installation".into(),
            capabilities,
            take_over: false,
            previous_owner_is_dead: false,
            late_request_max: LATE,
            signature_window: Duration::from_mins(15),
        };
        Owner::open_bucket(&self.env, self.store(), owner_config)
            .await
            .unwrap()
    }

    async fn start(&self) -> Life {
        let cache_dir = self.dir.path().join("cache");
        let layout = BucketLayout::new(&"store".parse().unwrap());
        let (owner, report) = self.start_owner().await;
        let markers = Markers::new(&cache_dir);
        if !report.markers_trusted {
            let dropped = markers.clone();
            let dropping = self.env.io(move |files| dropped.drop_all(files));
            dropping.await.unwrap();
            owner.markers_dropped().await.unwrap();
        }
        let owner = Arc::new(owner);
        let table = ChunkTable::new();
        let cache = Cache::open(
            self.env.clone(),
            markers.clone(),
            Arc::clone(&table),
            64 << 20,
            Arc::new(CacheMetrics::default()),
        )
        .await
        .unwrap();
        let mut accounted = cache.accounted();
        accounted.wait_for(|done| *done).await.unwrap();
        let sessions = Sessions::new(self.env.clone(), report.start.clone());
        *self.snapshots.sessions.lock().unwrap() = Some(Arc::clone(&sessions));
        let config = Arc::new(self.config.clone());
        let chunks = Arc::new(ChunkStore {
            added: Arc::new(crate::usage::Added::new(&self.env, self.dir.path())),
            env: self.env.clone(),
            config: Arc::clone(&config),
            table: Arc::clone(&table),
            markers: markers.clone(),
            bucket: Some(ChunkBucket {
                once: self.store(),
                store: self.store(),
                layout: layout.clone(),
                conditional_create: true,
                conditional_overwrite: true,
                place: None,
                cache: Arc::clone(&cache),
            }),
            not_before: report.not_before,
        });
        let collector = Collector::new(CollectorParts {
            env: self.env.clone(),
            config,
            table: Arc::clone(&table),
            markers: markers.clone(),
            ours: cache_dir.join(".holdfast"),
            bucket: Some(Bucket {
                store: self.store(),
                layout: layout.clone(),
                owner: Arc::clone(&owner),
            }),
            roots: vec![self.snapshots.clone()],
            sessions: Arc::clone(&sessions),
            cache: Some(cache),
            not_before: self.collects_after.map(|wait| self.env.instant() + wait),
        });
        let recovery = Recovery::begin(&collector).await.unwrap();
        if recovery.len() > 0 {
            let (env, collector) = (self.env.clone(), Arc::clone(&collector));
            self.env.spawn(async move {
                env.sleep(LATE).await;
                recovery.end(&collector).await.unwrap();
            });
        }
        Life {
            owner,
            table,
            markers,
            sessions,
            chunks,
            collector,
            layout,
        }
    }

    /// Whether the bucket holds the chunk, intact.
    fn holds(&self, life: &Life, digest: &Digest) -> bool {
        let object = self.model.object(&life.layout.key(&Place::Chunk(*digest)));
        object.is_some_and(|object| DataBlob::parse_chunk(object.body.into_bytes(), digest).is_ok())
    }

    /// Makes all marks of now older than the next collection's cutoff.
    async fn age(&self) {
        self.env.sleep(Duration::from_hours(1)).await;
    }

    fn snapshot(&self, name: &str, digests: &[Digest]) {
        self.snapshots
            .named
            .lock()
            .unwrap()
            .insert(name.into(), digests.to_vec());
    }
}

impl Life {
    fn key(&self, digest: &Digest) -> ObjectKey {
        self.layout.key(&Place::Chunk(*digest))
    }

    async fn insert(&self, session: &WriterSession, text: &str) -> Result<Inserted> {
        self.chunks
            .insert(session, plain(text), InsertOptions::default())
            .await
    }

    async fn collect(&self) -> Result<GcStatus> {
        self.collector
            .run(GcOptions::default(), &JobContext::detached())
            .await
    }

    async fn marker(&self, digest: &Digest) -> Option<Marker> {
        let (markers, digest) = (self.markers.clone(), *digest);
        self.chunks
            .env
            .io(move |files| markers.get(files, &digest))
            .await
            .unwrap()
    }
}

fn plain(text: &str) -> VerifiedChunk {
    let data = Bytes::copy_from_slice(text.as_bytes());
    let blob = DataBlob::encode_plain(data.clone()).unwrap();
    VerifiedChunk::check(blob, Digest::of(&data), data.len() as u32).unwrap()
}

/// An encrypted blob under somebody else's digest.
fn forged(digest: Digest, text: &str) -> VerifiedChunk {
    let key = CryptKey::new([7; 32]);
    let blob = DataBlob::encode(
        Bytes::copy_from_slice(text.as_bytes()),
        false,
        Some(&key),
        [1; 16],
    )
    .unwrap();
    VerifiedChunk::check(blob, digest, text.len() as u32).unwrap()
}

fn digest(text: &str) -> Digest {
    Digest::of(text.as_bytes())
}
