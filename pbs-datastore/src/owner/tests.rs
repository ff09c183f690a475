//! Tests of ownership.

use s3_client::{
    Action, Effect, Fault, FaultPlan, FaultyStore, KeyPrefix, Metadata, ModelStore, Op,
};
use serde_json::{Value, json};

use super::*;
use crate::files::OsFiles;

const T: Duration = Duration::from_mins(15);
const W: Duration = Duration::from_mins(30);

struct World {
    env: Env,
    model: Arc<ModelStore>,
    plan: FaultPlan,
    dir: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let start = Timestamp::from_second(1_700_000_000).unwrap();
        Self {
            env: Env::simulated(start, 1, Arc::new(OsFiles)),
            model: Arc::default(),
            plan: FaultPlan::new(),
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn store(&self) -> Arc<dyn ObjectStore> {
        Arc::new(FaultyStore::new(
            Arc::clone(&self.model) as Arc<dyn ObjectStore>,
            self.plan.clone(),
        ))
    }

    fn config(&self, dir: &str) -> OwnerConfig {
        OwnerConfig {
            layout: BucketLayout::new(&"store".parse().unwrap()),
            cache_dir: self.dir.path().join(dir),
            hostname: "host".into(),
            installation: format!("installation {dir}"),
            capabilities: Capabilities {
                conditional_create: true,
                conditional_overwrite: true,
            },
            take_over: false,
            previous_owner_is_dead: false,
            late_request_max: T,
            signature_window: W,
        }
    }

    async fn open(&self, dir: &str) -> Result<(Owner, StartReport)> {
        Owner::open_bucket(&self.env, self.store(), self.config(dir)).await
    }

    async fn take_over(&self, dir: &str) -> Result<(Owner, StartReport)> {
        let config = OwnerConfig {
            take_over: true,
            ..self.config(dir)
        };
        Owner::open_bucket(&self.env, self.store(), config).await
    }

    fn in_use(&self) -> Value {
        let key = KeyPrefix::root().key("store/.in-use").unwrap();
        let object = self.model.object(&key).unwrap();
        serde_json::from_slice(&object.body.into_bytes()).unwrap()
    }

    fn put(&self, key: &str, value: &Value) {
        let key = KeyPrefix::root().key(key).unwrap();
        let body = value.to_string().into_bytes();
        self.model.insert_raw(key, body, Metadata::new(), None);
    }

    /// A first start, whose directory is taken as agreeing, and then whatever ends it.
    async fn first(&self) -> Owner {
        let (owner, report) = self.open("a").await.unwrap();
        assert!(report.fresh && report.not_before.is_none() && report.gc_not_before.is_none());
        owner.markers_dropped().await.unwrap();
        owner
    }
}

#[tokio::test(start_paused = true)]
async fn a_crash_costs_the_collection_a_wait_and_inserts_none() {
    let world = World::new();
    drop(world.first().await);
    let (owner, report) = world.open("a").await.unwrap();
    assert!(!report.clean && report.markers_trusted && !report.taken_over);
    assert_eq!(report.not_before, None);
    assert_eq!(report.gc_not_before, Some(world.env.instant() + T));
    assert_eq!(report.counter, 2);
    assert!(owner.fence().check().await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_clean_stop_costs_nothing_and_ends_ownership() {
    let world = World::new();
    let owner = world.first().await;
    owner.stop_clean().await.unwrap();
    assert!(matches!(owner.fence().cheap(), Err(Error::NotOwner(_))));
    drop(owner);
    let (_, report) = world.open("a").await.unwrap();
    assert!(report.clean && report.markers_trusted);
    assert_eq!(report.gc_not_before, None);
}

#[tokio::test(start_paused = true)]
async fn a_wait_is_not_shortened_by_a_clean_stop() {
    let world = World::new();
    drop(world.first().await);
    let (owner, _) = world.open("a").await.unwrap();
    world.env.sleep(T / 2).await;
    owner.stop_clean().await.unwrap();
    drop(owner);
    let (owner, report) = world.open("a").await.unwrap();
    assert_eq!(report.gc_not_before, Some(world.env.instant() + T));
    world.env.sleep(T).await;
    owner.stop_clean().await.unwrap();
    drop(owner);
    let (_, report) = world.open("a").await.unwrap();
    assert!(report.clean);
}

#[tokio::test(start_paused = true)]
async fn the_second_daemon_on_a_directory_is_refused() {
    let world = World::new();
    let _owner = world.first().await;
    let error = world.open("a").await.unwrap_err();
    assert!(
        error.to_string().contains("another process uses"),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn another_directory_is_refused_and_may_take_over_after_the_waits() {
    let world = World::new();
    let old = world.first().await;
    let error = world.open("b").await.unwrap_err();
    assert!(matches!(error, Error::NotOwner(ref text) if text.contains("take-over")));
    assert!(
        old.fence().check().await.is_ok(),
        "a refused start changes nothing"
    );
    let (new, report) = world.take_over("b").await.unwrap();
    assert!(report.taken_over && !report.markers_trusted);
    assert_eq!(report.not_before, Some(world.env.instant() + W + T));
    assert!(matches!(old.fence().check().await, Err(Error::NotOwner(_))));
    assert!(old.fence().cheap().is_err(), "what is lost stays lost");
    assert!(matches!(old.stop_clean().await, Err(Error::NotOwner(_))));
    assert!(new.fence().check().await.is_ok());
    drop(new);
    let (_, report) = world.open("b").await.unwrap();
    assert_eq!(
        report.gc_not_before,
        Some(world.env.instant() + W + T),
        "a restart does not shorten the wait"
    );
}

#[tokio::test(start_paused = true)]
async fn a_dead_owner_leaves_only_late_requests_behind() {
    let world = World::new();
    drop(world.first().await);
    let config = OwnerConfig {
        take_over: true,
        previous_owner_is_dead: true,
        ..world.config("b")
    };
    let (_, report) = Owner::open_bucket(&world.env, world.store(), config)
        .await
        .unwrap();
    assert_eq!(report.not_before, Some(world.env.instant() + T));
}

#[tokio::test(start_paused = true)]
async fn a_prefix_of_another_server_is_refused_until_taken_over() {
    let world = World::new();
    world.put("store/.in-use", &json!({"hostname": "pbs1"}));
    let error = world.open("a").await.unwrap_err();
    assert!(error.to_string().contains("host 'pbs1'"), "{error}");
    let (_, report) = world.take_over("a").await.unwrap();
    assert!(report.taken_over && report.not_before.is_some());
    assert_ne!(world.in_use()["hostname"], "host");
}

#[tokio::test(start_paused = true)]
async fn an_unknown_mode_is_refused_even_with_take_over_and_unknown_members_are_kept() {
    let world = World::new();
    drop(world.first().await);
    let mut record = world.in_use();
    record["later"] = json!([1]);
    world.put("store/.in-use", &record);
    drop(world.open("a").await.unwrap());
    assert_eq!(world.in_use()["later"], json!([1]));
    record["mode"] = json!("several");
    world.put("store/.in-use", &record);
    assert!(matches!(world.take_over("a").await, Err(Error::Refused(_))));
}

#[tokio::test(start_paused = true)]
async fn an_epoch_that_the_directory_missed_drops_its_markers() {
    let world = World::new();
    let owner = world.first().await;
    let local = local_path(&world.dir.path().join("a"));
    let before = std::fs::read(&local).unwrap();
    let pass = owner.fence().check().await.unwrap();
    owner.raise_epoch(&pass).await.unwrap();
    drop(owner);
    let (owner, report) = world.open("a").await.unwrap();
    assert!(report.markers_trusted);
    drop(owner);
    std::fs::write(&local, before).unwrap();
    let (owner, report) = world.open("a").await.unwrap();
    assert!(!report.markers_trusted && report.not_before.is_some());
    drop(owner);
    let (_, report) = world.open("a").await.unwrap();
    assert!(!report.markers_trusted, "they were not dropped yet");
}

#[tokio::test(start_paused = true)]
async fn an_older_copy_of_the_directory_is_recognised_after_a_clean_stop() {
    let world = World::new();
    let owner = world.first().await;
    let local = local_path(&world.dir.path().join("a"));
    let before = std::fs::read(&local).unwrap();
    owner.stop_clean().await.unwrap();
    drop(owner);
    std::fs::write(&local, before).unwrap();
    let (owner, report) = world.open("a").await.unwrap();
    assert!(report.clean && !report.markers_trusted && report.not_before.is_none());
    drop(owner);
    let (_, report) = world.open("a").await.unwrap();
    assert!(!report.markers_trusted, "they were not dropped yet");
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_to_the_take_over_is_found_out() {
    for effect in [Effect::Now, Effect::Never] {
        let world = World::new();
        drop(world.first().await);
        world.plan.add(
            Fault::on(Op::Put)
                .containing(".in-use")
                .then(Action::Lose(effect)),
        );
        let (owner, report) = world.open("a").await.unwrap();
        assert_eq!(report.counter, 2);
        assert!(owner.fence().check().await.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn of_two_that_take_over_at_once_one_wins() {
    let world = World::new();
    drop(world.first().await);
    let gate = world
        .plan
        .stop_before(Fault::on(Op::Put).containing(".in-use"));
    let (env, store) = (world.env.clone(), world.store());
    let mut config = world.config("b");
    config.take_over = true;
    let slow = world
        .env
        .spawn(async move { Owner::open_bucket(&env, store, config).await });
    gate.reached().await;
    let (_winner, report) = world.take_over("c").await.unwrap();
    assert_eq!(report.counter, 2);
    gate.release();
    assert!(matches!(slow.await.unwrap(), Err(Error::NotOwner(_))));
}

#[tokio::test(start_paused = true)]
async fn a_bucket_that_lost_its_record_makes_everybody_wait() {
    let world = World::new();
    drop(world.first().await);
    world
        .model
        .remove_raw(&KeyPrefix::root().key("store/.in-use").unwrap());
    let (_, report) = world.open("a").await.unwrap();
    assert!(!report.fresh && !report.clean && !report.markers_trusted);
    assert_eq!(report.not_before, Some(world.env.instant() + T));
    assert_eq!(report.counter, 2);
}

#[tokio::test(start_paused = true)]
async fn a_pass_is_signed_with_the_servers_date() {
    let world = World::new();
    let owner = world.first().await;
    world.env.sleep(Duration::from_hours(1)).await;
    let pass = owner.fence().check().await.unwrap();
    let validity = pass.validity();
    assert!(
        world
            .model
            .now()
            .duration_since(validity.signed_at)
            .as_secs()
            <= 1
    );
    assert_eq!(
        validity
            .expires
            .duration_since(validity.signed_at)
            .as_secs(),
        W.as_secs() as i64
    );
}

#[tokio::test(start_paused = true)]
async fn a_directory_datastore_is_locked_and_gets_a_format() {
    let world = World::new();
    let root = world.dir.path().join("d");
    let (owner, report) = Owner::open_directory(&world.env, &root).await.unwrap();
    assert!(report.markers_trusted && report.gc_not_before.is_none());
    assert!(owner.fence().check().await.is_ok());
    assert!(Owner::open_directory(&world.env, &root).await.is_err());
    drop(owner);
    let format = root.join(".holdfast/format");
    std::fs::write(
        &format,
        r#"{"version":2,"minimum-reader":1,"features":{"collect":["x"]}}"#,
    )
    .unwrap();
    let (_, report) = Owner::open_directory(&world.env, &root).await.unwrap();
    assert!(report.no_collect.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_deleted_cache_directory_is_rebuilt_without_taking_over() {
    let world = World::new();
    drop(world.first().await);
    std::fs::remove_dir_all(world.dir.path().join("a")).unwrap();
    let (owner, report) = world.open("a").await.unwrap();
    assert!(!report.markers_trusted && !report.clean);
    // What was on its way when the directory went must be over before anything is believed (I3).
    assert_eq!(report.not_before, Some(world.env.instant() + T));
    assert!(owner.fence().check().await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_rebuild_that_was_cut_off_goes_on_at_the_next_start() {
    let world = World::new();
    drop(world.first().await);
    std::fs::remove_dir_all(world.dir.path().join("a")).unwrap();
    // The start is noted in the new directory and never comes to the bucket.
    let refused = Action::Fail(s3_client::ErrorKind::Unauthorized);
    let rule = world
        .plan
        .add(Fault::on(Op::Put).containing(".in-use").then(refused));
    assert!(world.open("a").await.is_err());
    world.plan.remove(rule);
    let (_, report) = world.open("a").await.unwrap();
    assert!(!report.markers_trusted && !report.clean);
    assert_eq!(report.not_before, Some(world.env.instant() + T));
    // Another installation cannot do the same.
    let mut config = world.config("b");
    config.installation = "another".into();
    let refused = Owner::open_bucket(&world.env, world.store(), config).await;
    assert!(matches!(refused, Err(Error::NotOwner(_))));
}

#[tokio::test(start_paused = true)]
async fn what_a_lost_directory_knew_is_waited_for_by_the_next_start_too() {
    for clean in [false, true] {
        let world = World::new();
        drop(world.first().await);
        std::fs::remove_dir_all(world.dir.path().join("a")).unwrap();
        let (owner, _) = world.open("a").await.unwrap();
        owner.markers_dropped().await.unwrap();
        world.env.sleep(T / 2).await;
        if clean {
            owner.stop_clean().await.unwrap();
        }
        drop(owner);
        // The directory agrees, but the journal that was lost with the one before is still lost.
        let (owner, report) = world.open("a").await.unwrap();
        assert!(report.markers_trusted);
        assert_eq!(
            report.not_before,
            Some(world.env.instant() + T),
            "a delete of the life before the loss may still arrive"
        );
        // Once the wait is over, a crash costs no more than any other.
        world.env.sleep(T).await;
        owner
            .raise_epoch(&owner.fence().check().await.unwrap())
            .await
            .unwrap();
        drop(owner);
        let (_, report) = world.open("a").await.unwrap();
        assert_eq!(report.not_before, None);
    }
}
