//! Others that write below the same prefix.

use super::*;

/// A foreign manifest in the bucket, as another daemon would have sealed it.
async fn foreign_seal(world: &World) {
    let mut put = Put::new(World::key(&id(A1).manifest()), "foreign");
    put.put_id = Some(s3_client::PutId("another".into()));
    world.model.put(put).await.unwrap();
}

fn foreign_is_untouched(world: &World) -> bool {
    let object = world.model.object(&World::key(&id(A1).manifest()));
    object.is_some_and(|object| object.body.into_bytes() == "foreign")
}

#[tokio::test(start_paused = true)]
async fn of_two_committers_the_second_loses_and_touches_nothing() {
    let world = World::new();
    let daemon = world.start("a", false).await;
    let writer = daemon.write(&id(A1), &["x"]).await;
    let gate = world.plan.stop_before(seals());
    let finish = world.env.spawn(async move {
        let result = writer.finish(STATS).await;
        (result, writer)
    });
    gate.reached().await;
    foreign_seal(&world).await;
    gate.release();
    let (result, writer) = finish.await.unwrap();
    assert!(matches!(result, Err(Error::SealConflict(_))));
    drop(writer);
    world.quiet().await;
    assert!(foreign_is_untouched(&world));
    assert!(
        world.has(&id(A1).file(&name("a.didx"))),
        "the winner may use it"
    );
}

#[tokio::test(start_paused = true)]
async fn a_foreign_seal_behind_a_lost_answer_is_left_alone() {
    let world = World::new();
    let daemon = world.start("a", false).await;
    let writer = daemon.write(&id(A1), &["x"]).await;
    world
        .plan
        .add(seals().always().then(Action::Lose(Effect::Never)));
    let finish = world
        .env
        .spawn(async move { (writer.finish(STATS).await, writer) });
    world.env.sleep(T / 2).await;
    foreign_seal(&world).await;
    let (result, writer) = finish.await.unwrap();
    assert!(matches!(result, Err(Error::SealConflict(_))));
    drop(writer);
    world.quiet().await;
    assert!(foreign_is_untouched(&world));
}

#[tokio::test(start_paused = true)]
async fn an_archive_of_another_writer_is_not_overwritten() {
    let world = World::new();
    let daemon = world.start("a", false).await;
    let writer = daemon.begin(&id(A1)).await.unwrap();
    let key = World::key(&id(A1).file(&name("a.didx")));
    world
        .model
        .insert_raw(key.clone(), "foreign", Metadata::new(), None);
    assert!(matches!(
        fill(&writer, &["x"]).await,
        Err(Error::SealConflict(_))
    ));
    drop(writer);
    world.quiet().await;
    assert_eq!(
        world.model.object(&key).unwrap().body.into_bytes(),
        "foreign"
    );
}

#[tokio::test(start_paused = true)]
async fn a_seal_after_a_take_over_is_refused() {
    let world = World::new();
    let old = world.start("a", false).await;
    let writer = old.write(&id(A1), &["x"]).await;
    let new = world.start("b", true).await;
    let error = writer.finish(STATS).await.unwrap_err();
    assert!(matches!(error, Error::NotOwner(_)), "{error}");
    assert!(!world.has(&id(A1).manifest()));
    drop(writer);
    world.quiet().await;
    assert!(new.listed().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_process_paused_between_check_and_seal_is_refused_by_the_server() {
    let world = World::new();
    let old = world.start("a", false).await;
    let writer = old.write(&id(A1), &["x"]).await;
    let gate = world.plan.stop_before(seals());
    let finish = world
        .env
        .spawn(async move { (writer.finish(STATS).await, writer) });
    gate.reached().await;
    world.env.sleep(T + T).await;
    let _new = world.start("b", true).await;
    gate.release();
    let (result, _writer) = finish.await.unwrap();
    assert!(matches!(result, Err(Error::NotOwner(_))), "{result:?}");
    assert!(!world.has(&id(A1).manifest()));
}
