//! Races between whoever sets a damaged chunk aside and everybody else.

use s3_client::{Action, Effect, Fault, Op};

use super::collect::{deletes, garbage};
use super::*;
use crate::Error;

#[tokio::test(start_paused = true)]
async fn a_corrupt_chunk_is_set_aside_and_healed_by_the_next_upload() {
    let world = World::new();
    let life = world.start().await;
    let session = life.sessions.open("a");
    life.insert(&session, "one").await.unwrap();
    assert!(world.model.corrupt_raw(&life.key(&digest("one")), "rotten"));
    let copied = world.plan.stop_after(Fault::on(Op::Copy));
    let (aside, inserted) = tokio::join!(
        std::sync::Arc::clone(&life.collector).set_aside(digest("one")),
        async {
            copied.reached().await;
            assert_eq!(
                session.lost(1),
                [digest("one")],
                "who relies on the chunk is told"
            );
            copied.release();
            life.insert(&session, "one").await
        }
    );
    assert!(aside.unwrap());
    inserted.unwrap();
    assert!(session.lost(1).is_empty());
    assert!(world.holds(&life, &digest("one")));
    let bad = s3_client::ObjectKey::new(format!("{}.0.bad", life.key(&digest("one")))).unwrap();
    assert_eq!(
        world.model.object(&bad).unwrap().body.into_bytes(),
        "rotten"
    );
    // It goes once it has aged.
    drop(session);
    world.snapshot("host/a/1", &[digest("one")]);
    world.age().await;
    assert_eq!(life.collect().await.unwrap().removed_bad, 1);
    assert!(world.holds(&life, &digest("one")));
}

#[tokio::test(start_paused = true)]
async fn what_was_healed_meanwhile_is_not_set_aside() {
    let world = World::new();
    let life = world.start().await;
    let session = life.sessions.open("a");
    life.insert(&session, "one").await.unwrap();
    // Two readers have found the chunk corrupt; between the two reports a session uploads it again.
    world.model.corrupt_raw(&life.key(&digest("one")), "rotten");
    let aside = || std::sync::Arc::clone(&life.collector).set_aside(digest("one"));
    assert!(aside().await.unwrap());
    assert_eq!(life.insert(&session, "one").await.unwrap(), Inserted::New);
    let done = aside().await.unwrap();
    assert!(
        world.holds(&life, &digest("one")),
        "a chunk that was acknowledged is gone"
    );
    assert!(!done && session.lost(1).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_fault_of_the_line_sets_nothing_aside() {
    let world = World::new();
    let life = world.start().await;
    let session = life.sessions.open("a");
    life.insert(&session, "one").await.unwrap();
    // A reader met real damage, which was healed since. The read that is to confirm it is spoiled on its way.
    for spoil in [Action::Garble, Action::Truncate(3)] {
        let read = Fault::on(Op::Get).containing(".chunks/").times(1);
        world.plan.add(read.then(spoil));
        let aside = std::sync::Arc::clone(&life.collector).set_aside(digest("one"));
        assert!(!matches!(aside.await, Ok(true)));
        assert!(
            world.holds(&life, &digest("one")),
            "a good chunk was set aside for a bad read"
        );
        assert!(session.lost(1).is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_chunk_that_a_read_misses_is_not_vouched_for() {
    let world = World::new();
    let life = world.start().await;
    let session = life.sessions.open("a");
    life.insert(&session, "one").await.unwrap();
    world.model.remove_raw(&life.key(&digest("one")));
    std::sync::Arc::clone(&life.collector)
        .set_aside(digest("one"))
        .await
        .unwrap();
    assert_eq!(session.lost(1), [digest("one")]);
    assert_eq!(life.insert(&session, "one").await.unwrap(), Inserted::New);
    assert!(session.lost(1).is_empty());
    assert!(world.holds(&life, &digest("one")));
}

#[tokio::test(start_paused = true)]
async fn a_late_delete_of_a_chunk_set_aside_takes_no_new_one() {
    let world = World::new();
    let life = world.start().await;
    let session = life.sessions.open("a");
    life.insert(&session, "one").await.unwrap();
    world.model.corrupt_raw(&life.key(&digest("one")), "rotten");
    world.plan.add(deletes().then(Action::Lose(Effect::Late)));
    let (aside, inserted) = tokio::join!(
        std::sync::Arc::clone(&life.collector).set_aside(digest("one")),
        async {
            world.env.sleep(Duration::from_secs(1)).await;
            let late = async {
                world.env.sleep(LATE / 2).await;
                world.plan.deliver_late().await;
            };
            tokio::join!(life.insert(&session, "one"), late).0
        }
    );
    aside.unwrap();
    inserted.unwrap();
    assert!(world.holds(&life, &digest("one")));
}

#[tokio::test(start_paused = true)]
async fn a_chunk_set_aside_since_it_was_listed_gets_no_marker_from_the_listing() {
    let mut world = World::new();
    world.config.list_ranges = 1;
    let life = garbage(&world, &["one"]).await;
    world.snapshot("host/a/1", &[digest("one")]);
    // The cache directory was lost, and the chunk is corrupt.
    for folder in std::fs::read_dir(world.dir.path().join("cache/.chunks")).unwrap() {
        std::fs::remove_dir_all(folder.unwrap().path()).unwrap();
    }
    world
        .model
        .corrupt_raw(&life.key(&digest("one")), "rotten, and as long as a chunk");
    let gate = world
        .plan
        .stop_after(Fault::on(Op::List).containing(".chunks/"));
    let (status, aside) = tokio::join!(life.collect(), async {
        gate.reached().await;
        let aside = std::sync::Arc::clone(&life.collector)
            .set_aside(digest("one"))
            .await;
        gate.release();
        aside
    });
    assert!(aside.unwrap());
    status.unwrap();
    let session = life.sessions.open("a");
    let known = life.chunks.adopt(&session, &[(digest("one"), 3)]).await;
    assert!(
        matches!(known, Err(Error::ChunkMissing { .. })),
        "it was promised as a known chunk: {known:?}"
    );
    life.insert(&session, "one").await.unwrap();
    assert!(
        world.holds(&life, &digest("one")),
        "a listing vouched for a chunk that was set aside after it"
    );
}

#[tokio::test(start_paused = true)]
async fn setting_aside_raises_the_epoch_before_it_deletes() {
    let world = World::new();
    let life = world.start().await;
    let session = life.sessions.open("a");
    life.insert(&session, "one").await.unwrap();
    // A copy of the cache directory, which knows of the chunk and of the owner of today.
    let owner = world.dir.path().join("cache/.holdfast/owner.json");
    let copy = std::fs::read(&owner).unwrap();
    world.model.corrupt_raw(&life.key(&digest("one")), "rotten");
    std::sync::Arc::clone(&life.collector)
        .set_aside(digest("one"))
        .await
        .unwrap();
    drop((session, life));
    std::fs::write(&owner, copy).unwrap();
    assert!(
        !world.start_owner().await.1.markers_trusted,
        "a directory was trusted that does not know of a delete"
    );
}

#[tokio::test(start_paused = true)]
async fn nothing_is_set_aside_while_requests_of_the_time_before_may_arrive() {
    let mut world = World::new();
    world.collects_after = Some(LATE);
    let life = world.start().await;
    let session = life.sessions.open("a");
    life.insert(&session, "one").await.unwrap();
    world.model.corrupt_raw(&life.key(&digest("one")), "rotten");
    let aside = || std::sync::Arc::clone(&life.collector).set_aside(digest("one"));
    assert!(!aside().await.unwrap());
    assert!(
        world.model.object(&life.key(&digest("one"))).is_some(),
        "an owner before may have healed it since it was read"
    );
    world.env.sleep(LATE).await;
    assert!(aside().await.unwrap());
    assert!(world.model.object(&life.key(&digest("one"))).is_none());
}
