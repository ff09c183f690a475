//! Tests of the mirror.

use jiff::Timestamp;
use s3_client::{
    Action, ErrorKind, Fault, FaultPlan, FaultyStore, Metadata, ModelOptions, ModelStore, Op, Put,
    PutOutcome,
};

use super::*;
use crate::files::OsFiles;

struct World {
    env: Env,
    model: Arc<ModelStore>,
    plan: FaultPlan,
    dir: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let options = ModelOptions {
            page_keys_max: 3,
            ..ModelOptions::default()
        };
        Self {
            env: Env::simulated(Timestamp::UNIX_EPOCH, 1, Arc::new(OsFiles)),
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

    fn put(&self, name: &str, body: &'static str) {
        let key = KeyPrefix::new("s/.cnt/").unwrap().key(name).unwrap();
        self.model.insert_raw(key, body, Metadata::new(), None);
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
    world
        .model
        .remove_raw(&KeyPrefix::new("s/.cnt/").unwrap().key("vm/2/a").unwrap());
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
    world
        .model
        .remove_raw(&KeyPrefix::new("s/.cnt/").unwrap().key("vm/1/a").unwrap());
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
    let refresh = world.env.spawn({
        let mirror = Arc::clone(&mirror);
        async move { mirror.refresh().await }
    });
    gate.reached().await;
    // A new object that the listing has not seen, and a removed one that it has.
    let key = KeyPrefix::new("s/.cnt/").unwrap().key("vm/1/new").unwrap();
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
    let gate = world.plan.stop_after(Fault::on(Op::Get));
    let fetch = world.env.spawn({
        let mirror = Arc::clone(&mirror);
        async move { mirror.fetch("vm/1/a").await }
    });
    gate.reached().await;
    mirror.forget("vm/1/a").await.unwrap();
    gate.release();
    assert!(!fetch.await.unwrap().unwrap());
    assert_eq!(
        world.local("vm/1/a"),
        None,
        "a deleted snapshot shows again"
    );
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
