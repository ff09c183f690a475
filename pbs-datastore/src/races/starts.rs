//! Races with a beginning or an end: the start of a life and of a collection, and a caller that goes away.

use s3_client::{Action, DeleteRequest, Effect, Fault, Op};

use super::collect::{deletes, garbage};
use super::*;
use crate::files::ModelDisk;

#[tokio::test(start_paused = true)]
async fn a_session_that_begins_while_a_collection_does_holds_the_cutoff_back() {
    let world = World::new();
    let life = garbage(&world, &["one"]).await;
    let gate = world
        .plan
        .stop_after(Fault::on(Op::Get).containing(".in-use"));
    let session = async {
        gate.reached().await;
        let session = life.sessions.open("a");
        let told = life.insert(&session, "one").await.unwrap();
        assert_eq!(told, Inserted::Duplicate);
        world.env.sleep(Duration::from_secs(10)).await;
        gate.release();
        session
    };
    let (status, _session) = tokio::join!(life.collect(), session);
    status.unwrap();
    assert!(
        world.holds(&life, &digest("one")),
        "a chunk was deleted under a session that began before the collection"
    );
}

#[tokio::test(start_paused = true)]
async fn nothing_is_collected_while_a_seal_of_the_time_before_may_arrive() {
    let mut world = World::new();
    let life = world.start().await;
    let session = life.sessions.open("a");
    life.insert(&session, "one").await.unwrap();
    // The crash: the manifest is on its way.
    drop((session, life));
    world.collects_after = Some(LATE);
    let life = world.start().await;
    world.env.sleep(LATE / 2).await;
    life.collect().await.ok();
    world.snapshot("host/a/1", &[digest("one")]);
    assert!(
        world.holds(&life, &digest("one")),
        "a chunk of a seal that arrived late is gone"
    );
    world.env.sleep(LATE).await;
    assert_eq!(life.collect().await.unwrap().removed_chunks, 0);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_answered_while_deletes_that_a_lost_directory_knew_of_may_arrive() {
    let world = World::new();
    let life = garbage(&world, &["one"]).await;
    // The crash: a delete is on its way, and the journal that names its key is lost with the directory.
    world.plan.add(deletes().then(Action::Lose(Effect::Late)));
    let requests = [DeleteRequest::from(life.key(&digest("one")))];
    world.store().delete(&requests, None).await.unwrap();
    drop(life);
    std::fs::remove_dir_all(world.dir.path().join("cache")).unwrap();
    let life = world.start().await;
    let session = life.sessions.open("a");
    let (inserted, ()) = tokio::join!(life.insert(&session, "one"), async {
        world.env.sleep(LATE / 2).await;
        world.plan.deliver_late().await;
    });
    inserted.unwrap();
    assert!(
        world.holds(&life, &digest("one")),
        "a late delete took a chunk that was told of"
    );
}

#[tokio::test(start_paused = true)]
async fn a_batch_ends_although_whoever_asked_for_the_collection_is_gone() {
    let world = World::new();
    let life = garbage(&world, &["one"]).await;
    let gate = world.plan.stop_before(deletes());
    tokio::select! {
        biased;
        result = life.collect() => panic!("{result:?}"),
        () = gate.reached() => {}
    }
    gate.release();
    let session = life.sessions.open("a");
    assert_eq!(life.insert(&session, "one").await.unwrap(), Inserted::New);
    assert!(world.holds(&life, &digest("one")));
    assert!(!life.collector.is_busy().await, "the journal is cleared");
}

#[tokio::test(start_paused = true)]
async fn a_loss_of_power_brings_no_removed_marker_back() {
    for seed in 0..20 {
        let disk = ModelDisk::new();
        let world = World::on(disk.mount());
        let life = garbage(&world, &["one"]).await;
        let cache = world.dir.path().join("cache");
        world.files.sync_file_system(&cache).unwrap();
        assert_eq!(life.collect().await.unwrap().removed_chunks, 1);
        drop(life);
        disk.lose_power(seed);
        let life = world.start().await;
        let session = life.sessions.open("a");
        life.insert(&session, "one").await.unwrap();
        assert!(
            world.holds(&life, &digest("one")),
            "the marker of a deleted chunk has come back"
        );
    }
}
