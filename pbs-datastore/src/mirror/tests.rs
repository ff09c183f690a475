//! Tests of the mirror.

use std::time::Duration;

use jiff::Timestamp;
use s3_client::{
    Action, ErrorKind, Fault, FaultPlan, FaultyStore, Metadata, ModelOptions, ModelStore, Op, Put,
    PutOutcome,
};

use tokio::task::JoinHandle;

use super::*;
use crate::files::{FaultyFiles, FileFault, FileOp, OsFiles};

struct World {
    env: Env,
    files: Arc<FaultyFiles>,
    model: Arc<ModelStore>,
    plan: FaultPlan,
    dir: tempfile::TempDir,
}

fn fetching(world: &World, mirror: &Arc<Mirror>, name: &'static str) -> JoinHandle<Result<bool>> {
    let mirror = Arc::clone(mirror);
    world.env.spawn(async move { mirror.fetch(name).await })
}

fn refreshing(world: &World, mirror: &Arc<Mirror>) -> JoinHandle<Result<RefreshStats>> {
    let mirror = Arc::clone(mirror);
    world.env.spawn(async move { mirror.refresh().await })
}

fn gets() -> Fault {
    Fault::on(Op::Get)
}

impl World {
    fn new() -> Self {
        Self::with_pauses(0, Duration::ZERO)
    }

    /// File work takes up to `pause_max`.
    fn with_pauses(seed: u64, pause_max: Duration) -> Self {
        let files = Arc::new(FaultyFiles::new(Arc::new(OsFiles)));
        let start = Timestamp::UNIX_EPOCH;
        let shared = Arc::clone(&files) as Arc<dyn Files>;
        let options = ModelOptions {
            page_keys_max: 3,
            ..ModelOptions::default()
        };
        Self {
            env: Env::simulated_with_pauses(start, seed, shared, pause_max),
            files,
            model: Arc::new(ModelStore::new(options)),
            plan: FaultPlan::new(),
            dir: tempfile::tempdir().unwrap(),
        }
    }

    async fn open(&self) -> Arc<Mirror> {
        let store = FaultyStore::new(
            Arc::clone(&self.model) as Arc<dyn ObjectStore>,
            self.plan.clone(),
        );
        let mirror = Mirror::open(
            &self.env,
            Arc::new(store),
            KeyPrefix::new("s/.cnt/").unwrap(),
            Box::new(|key| !key.as_str().contains("//") && !key.as_str().contains("..")),
            MirrorFiles {
                root: self.dir.path().join(".cnt"),
                log: self.dir.path().join("log"),
                temporary: self.dir.path().join("tmp"),
            },
        );
        Arc::new(mirror.await.unwrap())
    }

    fn key(name: &str) -> ObjectKey {
        KeyPrefix::new("s/.cnt/").unwrap().key(name).unwrap()
    }

    fn put(&self, name: &str, body: &'static str) {
        let key = Self::key(name);
        self.model.insert_raw(key, body, Metadata::new(), None);
    }

    /// So many copies of an object cannot be written.
    fn no_room(&self, name: &str, times: usize) {
        self.files.add(FileFault {
            op: FileOp::Rename,
            path: name.to_owned(),
            times,
            errno: nix::errno::Errno::ENOSPC as i32,
        });
    }

    /// Tells the mirror that an object was put while there is no room for its copy.
    async fn keep_without_room(&self, mirror: &Arc<Mirror>, name: &str, body: &'static str) {
        self.put(name, body);
        self.no_room(name, 1);
        let entry = MirrorEntry {
            etag: ETag::new("new"),
            size: body.len() as u64,
        };
        let kept = mirror.keep(name, Content::Bytes(body.into()), entry).await;
        kept.expect_err("there is no room");
    }

    fn local(&self, name: &str) -> Option<String> {
        std::fs::read_to_string(self.dir.path().join(".cnt").join(name)).ok()
    }
}

#[tokio::test(start_paused = true)]
async fn a_refresh_makes_the_copy_from_nothing_and_then_fetches_only_what_differs() {
    let world = World::new();
    for name in ["vm/1/a", "vm/1/b", "vm/10/a", "vm/100/a", "ns/x/.namespace"] {
        world.put(name, "one");
    }
    let mirror = world.open().await;
    let stats = mirror.refresh().await.unwrap();
    assert_eq!((stats.objects, stats.fetched, stats.dropped), (5, 5, 0));
    assert_eq!(world.local("vm/100/a").as_deref(), Some("one"));
    world.put("vm/1/b", "two");
    let mirror = world.open().await;
    world.model.reset_counts();
    let stats = mirror.refresh().await.unwrap();
    assert_eq!((stats.fetched, stats.dropped), (1, 0));
    assert_eq!(
        (world.model.count(Op::Get), world.model.count(Op::List)),
        (1, 2)
    );
    assert_eq!(world.local("vm/1/b").as_deref(), Some("two"));
}

#[tokio::test(start_paused = true)]
async fn what_the_bucket_does_not_have_goes_with_its_empty_directories() {
    let world = World::new();
    for name in ["vm/1/a", "vm/2/a", "vm/3/a", "vm/4/a"] {
        world.put(name, "one");
    }
    let mirror = world.open().await;
    mirror.refresh().await.unwrap();
    world.model.remove_raw(&World::key("vm/2/a"));
    std::fs::create_dir_all(world.dir.path().join(".cnt/ct/9")).unwrap();
    std::fs::write(world.dir.path().join(".cnt/ct/9/stray"), "x").unwrap();
    std::fs::write(world.dir.path().join(".cnt/vm/1/a"), "damaged").unwrap();
    let stats = mirror.refresh().await.unwrap();
    assert_eq!((stats.fetched, stats.dropped), (1, 2));
    assert!(!world.dir.path().join(".cnt/vm/2").exists());
    assert!(!world.dir.path().join(".cnt/ct").exists());
    assert_eq!(world.local("vm/1/a").as_deref(), Some("one"));
}

#[tokio::test(start_paused = true)]
async fn a_failed_page_drops_nothing() {
    let world = World::new();
    for name in ["vm/1/a", "vm/2/a", "vm/3/a", "vm/4/a", "vm/5/a"] {
        world.put(name, "one");
    }
    let mirror = world.open().await;
    mirror.refresh().await.unwrap();
    world.model.remove_raw(&World::key("vm/1/a"));
    world.plan.add(
        Fault::on(Op::List)
            .nth(2)
            .then(Action::Fail(ErrorKind::Unavailable)),
    );
    assert!(mirror.refresh().await.is_err());
    assert!(world.local("vm/1/a").is_some());
}

#[tokio::test(start_paused = true)]
async fn what_changes_during_a_refresh_is_newer_than_its_listing() {
    let world = World::new();
    world.put("vm/1/a", "one");
    world.put("vm/1/b", "one");
    let mirror = world.open().await;
    mirror.refresh().await.unwrap();
    let gate = world.plan.stop_after(Fault::on(Op::List));
    let refresh = refreshing(&world, &mirror);
    gate.reached().await;
    // A new object that the listing has not seen, and a removed one that it has.
    let key = World::key("vm/1/new");
    let put = world.model.put(Put::new(key, "new")).await.unwrap().value;
    let PutOutcome::Created { etag, .. } = put else {
        panic!("{put:?}")
    };
    let entry = MirrorEntry { etag, size: 3 };
    mirror
        .keep("vm/1/new", Content::Bytes("new".into()), entry)
        .await
        .unwrap();
    mirror.forget("vm/1/b").await.unwrap();
    gate.release();
    refresh.await.unwrap().unwrap();
    assert_eq!(world.local("vm/1/new").as_deref(), Some("new"));
    assert_eq!(world.local("vm/1/b"), None);
}

#[tokio::test(start_paused = true)]
async fn what_is_forgotten_while_it_is_fetched_does_not_come_back() {
    let world = World::new();
    world.put("vm/1/a", "one");
    let mirror = world.open().await;
    mirror.refresh().await.unwrap();
    let gate = world.plan.stop_after(gets());
    let fetch = fetching(&world, &mirror, "vm/1/a");
    gate.reached().await;
    mirror.forget("vm/1/a").await.unwrap();
    gate.release();
    fetch.await.unwrap().unwrap();
    assert_eq!(
        world.local("vm/1/a"),
        None,
        "a deleted snapshot shows again"
    );
}

#[tokio::test(start_paused = true)]
async fn what_was_put_while_something_older_was_fetched_is_fetched_again() {
    let world = World::new();
    world.put("vm/1/a", "one");
    let mirror = world.open().await;
    mirror.refresh().await.unwrap();
    let gate = world.plan.stop_after(gets());
    let fetch = fetching(&world, &mirror, "vm/1/a");
    gate.reached().await;
    world.keep_without_room(&mirror, "vm/1/a", "two").await;
    gate.release();
    assert!(fetch.await.unwrap().unwrap(), "the object is there");
    mirror.catch_up().await;
    assert_eq!(world.local("vm/1/a").as_deref(), Some("two"));
}

#[tokio::test(start_paused = true)]
async fn who_goes_away_leaves_no_write_behind() {
    for seed in 0..50 {
        let world = World::with_pauses(seed, Duration::from_millis(100));
        world.put("vm/1/a", "one");
        let mirror = world.open().await;
        let look = fetching(&world, &mirror, "vm/1/a");
        world.env.sleep(Duration::from_millis(seed * 4)).await;
        look.abort();
        mirror.forget("vm/1/a").await.unwrap();
        assert!(world.env.drain(Duration::from_mins(1)).await);
        assert_eq!(world.local("vm/1/a"), None, "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_round_at_a_time_brings_what_is_missing() {
    let world = World::new();
    let mirror = world.open().await;
    world.keep_without_room(&mirror, "vm/1/a", "one").await;
    let gate = world.plan.stop_after(gets());
    let before = world.env.instant();
    mirror.catch_up().await;
    let waited = world.env.instant() - before;
    assert!(waited <= Duration::from_secs(2), "a look waits {waited:?}");
    world.env.sleep(Duration::from_secs(11)).await;
    mirror.catch_up().await;
    assert_eq!(world.model.count(Op::Get), 1, "it is fetched twice");
    gate.release();
    assert!(world.env.drain(Duration::from_mins(1)).await);
    assert_eq!(world.local("vm/1/a").as_deref(), Some("one"));
}

#[tokio::test(start_paused = true)]
async fn one_that_cannot_be_fetched_keeps_no_other_away() {
    let world = World::new();
    let mirror = world.open().await;
    for name in ["vm/1/a", "vm/1/b"] {
        world.keep_without_room(&mirror, name, "one").await;
    }
    let fails = Action::Fail(ErrorKind::Unavailable);
    world.plan.add(gets().containing("/a").always().then(fails));
    mirror.catch_up().await;
    assert_eq!(world.local("vm/1/a"), None);
    assert_eq!(world.local("vm/1/b").as_deref(), Some("one"));
}

#[tokio::test(start_paused = true)]
async fn without_room_for_one_the_next_round_begins_with_the_next() {
    let world = World::new();
    let mirror = world.open().await;
    for name in ["vm/1/a", "vm/1/b"] {
        world.keep_without_room(&mirror, name, "one").await;
    }
    world.no_room("vm/1/a", usize::MAX);
    mirror.catch_up().await;
    assert_eq!(world.local("vm/1/b"), None);
    world.env.sleep(Duration::from_secs(10)).await;
    mirror.catch_up().await;
    assert_eq!(world.local("vm/1/b").as_deref(), Some("one"));
}

#[tokio::test(start_paused = true)]
async fn a_closed_mirror_writes_nothing() {
    let world = World::new();
    world.put("vm/1/a", "one");
    let mirror = world.open().await;
    let gate = world.plan.stop_after(gets());
    let fetch = fetching(&world, &mirror, "vm/1/a");
    gate.reached().await;
    mirror.close().await;
    gate.release();
    assert!(matches!(fetch.await.unwrap(), Err(Error::Closing)));
    assert_eq!(world.local("vm/1/a"), None);
}

#[tokio::test(start_paused = true)]
async fn what_is_listed_and_not_found_ends_a_refresh() {
    let world = World::new();
    world.put("vm/1/a", "one");
    let mirror = world.open().await;
    let not_found = Action::Fail(ErrorKind::NotFound);
    world.plan.add(gets().then(not_found));
    mirror.refresh().await.expect_err("it is there");
    assert_eq!(mirror.refresh().await.unwrap().fetched, 1);
    // One that was deleted in between is no reason to fail.
    world.put("vm/1/b", "one");
    let gate = world.plan.stop_after(Fault::on(Op::List));
    let refresh = refreshing(&world, &mirror);
    gate.reached().await;
    world.model.remove_raw(&World::key("vm/1/b"));
    gate.release();
    refresh.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_fails_leaves_no_write_behind() {
    for seed in 0..50 {
        let world = World::with_pauses(seed, Duration::from_millis(100));
        world.put("vm/1/a", "one");
        world.put("vm/1/b", "one");
        let mirror = world.open().await;
        let fails = Action::Fail(ErrorKind::Unavailable);
        world.plan.add(gets().containing("/b").then(fails));
        mirror.refresh().await.expect_err("a GET fails");
        mirror.forget("vm/1/a").await.unwrap();
        assert!(world.env.drain(Duration::from_mins(1)).await);
        assert_eq!(world.local("vm/1/a"), None, "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_outlives_its_datastore_drops_nothing_of_the_next() {
    let world = World::new();
    let mirror = world.open().await;
    let gate = world.plan.stop_after(Fault::on(Op::List));
    let refresh = refreshing(&world, &mirror);
    gate.reached().await;
    mirror.close().await;
    world.put("vm/1/new", "one");
    world.open().await.refresh().await.unwrap();
    gate.release();
    assert!(matches!(refresh.await.unwrap(), Err(Error::Closing)));
    assert_eq!(world.local("vm/1/new").as_deref(), Some("one"));
}

#[tokio::test(start_paused = true)]
async fn a_torn_log_costs_a_fetch() {
    let world = World::new();
    world.put("vm/1/a", "one");
    world.put("vm/1/b", "one");
    world.open().await.refresh().await.unwrap();
    let log = world.dir.path().join("log");
    let text = std::fs::read(&log).unwrap();
    std::fs::write(&log, &text[..text.len() - 5]).unwrap();
    let mirror = world.open().await;
    let stats = mirror.refresh().await.unwrap();
    assert_eq!((stats.fetched, stats.dropped), (1, 0));
    let mirror = world.open().await;
    assert_eq!(mirror.refresh().await.unwrap().fetched, 0);
}

#[tokio::test(start_paused = true)]
async fn odd_keys_are_left_alone() {
    let world = World::new();
    world.put("vm//", "");
    world.put("vm//a", "x");
    world.put("../../etc/a", "x");
    world.put("vm/1/a", "one");
    let stats = world.open().await.refresh().await.unwrap();
    assert_eq!((stats.objects, stats.fetched), (1, 1));
}
