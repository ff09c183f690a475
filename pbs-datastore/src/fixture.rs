//! An open datastore for tests: in a directory, or in a bucket whose requests can be made to fail.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use s3_client::{FaultPlan, FaultyStore, ModelOptions, ModelStore, ObjectStore};

use crate::files::OsFiles;
use crate::{
    Backend, BackupRequest, BucketAccess, BucketPlace, Capabilities, Datastore, DatastoreConfig,
    Env, MemoryBudget, Namespace, OpenOptions,
};

/// A datastore, and what it stands on.
pub(crate) struct Fixture {
    pub(crate) env: Env,
    /// What the bucket holds.
    pub(crate) model: Arc<ModelStore>,
    /// What happens to requests on their way to it.
    pub(crate) plan: FaultPlan,
    dir: tempfile::TempDir,
    /// Whether it is in a bucket, and the name of that.
    bucket: (bool, Option<&'static str>),
    pub(crate) datastore: Arc<Datastore>,
}

impl Fixture {
    /// A new datastore, whose garbage may go at once.
    pub(crate) async fn new(bucket: bool) -> Self {
        Self::named(bucket, None).await
    }

    /// The same in a bucket of this name, of a server that copies from one to another; without a cache.
    pub(crate) async fn in_bucket(name: &'static str) -> Self {
        Self::named(true, Some(name)).await
    }

    async fn named(bucket: bool, name: Option<&'static str>) -> Self {
        let start = Timestamp::from_second(1_800_000_000).unwrap();
        let env = Env::simulated(start, 1, Arc::new(OsFiles));
        let (dir, plan) = (tempfile::tempdir().unwrap(), FaultPlan::new());
        let model = Arc::new(ModelStore::new(ModelOptions::default()));
        if !bucket {
            std::fs::create_dir(dir.path().join("place")).unwrap();
        }
        let datastore = open(&env, &dir, &model, &plan, (bucket, name)).await;
        Self {
            env,
            model,
            plan,
            dir,
            bucket: (bucket, name),
            datastore,
        }
    }

    /// The same, closed and opened anew.
    pub(crate) async fn reopen(self) -> Self {
        assert!(self.datastore.close(Duration::from_secs(10)).await.unwrap());
        drop(self.datastore);
        let (env, dir) = (&self.env, &self.dir);
        let datastore = open(env, dir, &self.model, &self.plan, self.bucket).await;
        Self { datastore, ..self }
    }

    /// The directory of the datastore, or of its cache.
    pub(crate) fn place(&self) -> std::path::PathBuf {
        self.dir.path().join("place")
    }
}

async fn open(
    env: &Env,
    dir: &tempfile::TempDir,
    model: &Arc<ModelStore>,
    plan: &FaultPlan,
    (bucket, name): (bool, Option<&'static str>),
) -> Arc<Datastore> {
    let place = dir.path().join("place");
    let backend = if bucket {
        Backend::Bucket {
            prefix: "store".to_owned(),
            cache_dir: place,
            // What is copied by its server is not read from here.
            cache_bytes_max: if name.is_some() { 0 } else { 1 << 30 },
        }
    } else {
        Backend::Directory(place)
    };
    let store = FaultyStore::new(Arc::clone(model) as Arc<dyn ObjectStore>, plan.clone());
    let store: Arc<dyn ObjectStore> = Arc::new(store);
    let access = BucketAccess {
        once: Arc::clone(&store),
        store,
        capabilities: Capabilities {
            conditional_create: true,
            conditional_overwrite: true,
        },
        signature_window: Duration::from_mins(15),
        place: name.map(|name| BucketPlace {
            server: "server".to_owned(),
            bucket: name.to_owned(),
            conditional_copy: true,
        }),
    };
    let options = OpenOptions {
        hostname: "host".to_owned(),
        installation: "installation".to_owned(),
        take_over: false,
        previous_owner_is_dead: false,
        budget: MemoryBudget::new(256 << 20),
    };
    let mut config = DatastoreConfig::new("store", backend);
    config.gc_atime_cutoff = Duration::ZERO;
    let access = bucket.then_some(access);
    let opened = Datastore::open(env.clone(), config, access, options).await;
    opened.unwrap()
}

/// Bytes that cannot be compressed, other ones for each length.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut state = length as u64 | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// A backup of `host/a` at this time.
pub(crate) fn request(time: &str) -> BackupRequest {
    BackupRequest {
        namespace: Namespace::root(),
        snapshot: format!("host/a/{time}").parse().unwrap(),
        author: "tester@pbs".parse().unwrap(),
        benchmark: false,
        no_cache: false,
    }
}
