//! Tests of start and stop as a whole.

use jiff::Timestamp;
use s3_client::{Action, Fault, FaultPlan, FaultyStore, ModelStore, Op};

use super::*;
use crate::DataBlob;
use crate::chunk_store::{InsertOptions, VerifiedChunk};
use crate::files::OsFiles;

const LIMIT: Duration = Duration::from_secs(7);

fn env() -> Env {
    let start = Timestamp::from_second(1_800_000_000).unwrap();
    Env::simulated(start, 1, Arc::new(OsFiles))
}

fn options() -> OpenOptions {
    OpenOptions {
        hostname: "host".into(),
        installation: "installation".into(),
        take_over: false,
        previous_owner_is_dead: false,
        budget: MemoryBudget::new(64 << 20),
    }
}

/// A datastore in a bucket under `prefix`.
async fn open(
    dir: &tempfile::TempDir,
    model: &Arc<ModelStore>,
    plan: &FaultPlan,
    prefix: &str,
) -> Result<Arc<Datastore>> {
    let inner = Arc::clone(model) as Arc<dyn ObjectStore>;
    let store = Arc::new(FaultyStore::new(inner, plan.clone())) as Arc<dyn ObjectStore>;
    let backend = Backend::Bucket {
        prefix: prefix.into(),
        cache_dir: dir.path().join("cache"),
        cache_bytes_max: 1 << 20,
    };
    let access = BucketAccess {
        once: Arc::clone(&store),
        store,
        capabilities: Capabilities {
            conditional_create: true,
            conditional_overwrite: true,
        },
        signature_window: Duration::from_mins(15),
        place: None,
    };
    let config = DatastoreConfig::new("store", backend);
    Datastore::open(env(), config, Some(access), options()).await
}

struct World {
    dir: tempfile::TempDir,
    model: Arc<ModelStore>,
    plan: FaultPlan,
}

impl World {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            model: Arc::new(ModelStore::default()),
            plan: FaultPlan::new(),
        }
    }

    async fn open(&self, prefix: &str) -> Result<Arc<Datastore>> {
        open(&self.dir, &self.model, &self.plan, prefix).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_what_runs_and_no_longer_than_it_may() {
    let world = World::new();
    let datastore = world.open("store").await.unwrap();
    let upload = datastore.sessions().open("slow").handle();
    let start = Instant::now();
    assert!(!datastore.close(LIMIT).await.unwrap());
    assert!((LIMIT..LIMIT + IDLE_LOOK).contains(&start.elapsed()));
    drop(upload);
    drop(datastore);
    let datastore = world.open("store").await.unwrap();
    assert!(!datastore.start_report().clean);
    // What the start waits for is over.
    datastore.env().sleep(Duration::from_hours(1)).await;
    assert!(datastore.close(LIMIT).await.unwrap());
    drop(datastore);
    assert!(world.open("store").await.unwrap().start_report().clean);
}

#[tokio::test(start_paused = true)]
async fn a_stop_that_the_bucket_does_not_take_ends_in_time_and_writes_no_more() {
    let world = World::new();
    let datastore = world.open("store").await.unwrap();
    let slow = Action::Delay(Duration::from_hours(1));
    world
        .plan
        .add(Fault::on(Op::Put).containing(".in-use").then(slow));
    let start = Instant::now();
    assert!(!datastore.close(LIMIT).await.unwrap());
    assert_eq!(start.elapsed(), LIMIT);
    let refused = datastore.owner.fence().check().await;
    assert!(matches!(refused, Err(Error::NotOwner(_))), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn a_start_takes_the_time_from_upload_markers_and_leaves_no_temporary_files() {
    let world = World::new();
    drop(world.open("store").await.unwrap());
    let ours = world.dir.path().join("cache/.holdfast");
    let digest = crate::Digest::of(b"one").to_string();
    let (upload, half) = (
        ours.join("uploads").join(&digest),
        ours.join("tmp").join(&digest),
    );
    let tomorrow = env().now() + Duration::from_hours(24);
    for path in [&upload, &half] {
        OsFiles
            .create(path, crate::files::FILE_MODE, &[], false)
            .unwrap();
        OsFiles.set_times(path, tomorrow, tomorrow).unwrap();
    }
    let datastore = world.open("store").await.unwrap();
    // What was used when the clock showed tomorrow must be able to grow old.
    assert!(datastore.env().now() >= tomorrow);
    assert!(upload.exists() && !half.exists());
}

#[tokio::test(start_paused = true)]
async fn a_directory_starts_without_the_temporary_files_of_the_dead() {
    let dir = tempfile::tempdir().unwrap();
    let backend = || Backend::Directory(dir.path().to_owned());
    let open = || {
        Datastore::open(
            env(),
            DatastoreConfig::new("store", backend()),
            None,
            options(),
        )
    };
    drop(open().await.unwrap());
    // A chunk that was renamed by a process whose machine lost power may come back under its first name.
    let half = dir.path().join(".holdfast/tmp/half");
    OsFiles
        .create(&half, crate::files::FILE_MODE, &[], false)
        .unwrap();
    let _datastore = open().await.unwrap();
    assert!(!half.exists());
}

#[tokio::test(start_paused = true)]
async fn a_prefix_may_have_several_components_and_must_be_clean() {
    let world = World::new();
    let datastore = world.open("backups/site1").await.unwrap();
    let session = datastore.sessions().open("test");
    let data = bytes::Bytes::from_static(b"content");
    let (digest, size) = (Digest::of(&data), data.len() as u32);
    let chunk = VerifiedChunk::check(DataBlob::encode_plain(data).unwrap(), digest, size).unwrap();
    let inserted = datastore
        .chunks()
        .insert(&session, chunk, InsertOptions::default());
    inserted.await.unwrap();
    let key = format!("backups/site1/.chunks/{}/{digest}", digest.folder());
    let key = s3_client::ObjectKey::new(key).unwrap();
    assert!(world.model.object(&key).is_some());
    drop(session);
    assert!(datastore.close(LIMIT).await.unwrap());
    let outside = |key: &str| !key.starts_with("backups/site1/");
    assert!(
        !world
            .model
            .objects()
            .keys()
            .any(|key| outside(key.as_str()))
    );
    for wrong in [
        "",
        "/",
        "a/",
        "/a",
        "a//b",
        "a/../b",
        "./a",
        ".a/b",
        "a b",
        &"x".repeat(129),
    ] {
        let refused = world.open(wrong).await;
        assert!(matches!(refused, Err(Error::Invalid(_))), "{wrong:?}");
    }
}
