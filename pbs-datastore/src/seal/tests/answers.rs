//! Answers that are lost, late or no help, for the seal and for archives.

use super::*;

fn archives() -> Fault {
    Fault::on(Op::Put).containing("a.didx")
}

async fn new_claim_is_refused(daemon: &Daemon) -> bool {
    matches!(daemon.begin(&id(A1)).await, Err(Error::Busy(_)))
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_to_the_seal_is_found_out() {
    for effect in [Effect::Now, Effect::Never] {
        let world = World::new();
        let daemon = world.start("a", false).await;
        let writer = daemon.write(&id(A1), &["x"]).await;
        world.plan.add(seals().then(Action::Lose(effect)));
        writer.finish(STATS).await.unwrap();
        assert!(is_sealed(&world));
        // What may still arrive delays removal and nothing else.
        assert!(daemon.snapshots.hold(&id(A1)).is_ok());
        assert!(new_backup_begins(&daemon).await);
        assert!(matches!(
            daemon.snapshots.delete(&id(A1)).await,
            Err(Error::Busy(_))
        ));
        drop(writer);
        world.env.sleep(T + Duration::from_mins(1)).await;
        daemon.snapshots.delete(&id(A1)).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_seal_that_arrives_late_is_still_ours() {
    let world = World::new();
    let daemon = world.start("a", false).await;
    let writer = daemon.write(&id(A1), &["x"]).await;
    world
        .plan
        .add(seals().always().then(Action::Lose(Effect::Late)));
    let finish = world.env.spawn(async move {
        let result = writer.finish(STATS).await;
        (result, writer)
    });
    // All attempts have been given up; the session waits for what may still arrive.
    world.env.sleep(T / 2).await;
    assert!(!finish.is_finished());
    assert!(
        daemon.sessions.oldest_open().is_some(),
        "it still counts as open"
    );
    world.plan.deliver_late().await;
    let (result, _writer) = finish.await.unwrap();
    result.unwrap();
    assert!(is_sealed(&world));
    assert_eq!(daemon.listed().await, [A1]);
}

#[tokio::test(start_paused = true)]
async fn a_seal_that_never_arrives_fails_after_the_late_request_bound() {
    let world = World::new();
    let daemon = world.start("a", false).await;
    let writer = daemon.write(&id(A1), &["x"]).await;
    world
        .plan
        .add(seals().always().then(Action::Lose(Effect::Never)));
    let began = world.env.instant();
    assert!(writer.finish(STATS).await.is_err());
    assert!(world.env.instant() >= began + T);
    drop(writer);
    world.quiet().await;
    assert_eq!(world.objects(), ["vm/100/owner"]);
    assert!(daemon.sessions.list().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_archive_without_acknowledgement_is_looked_up_or_sent_again() {
    for effect in [Effect::Now, Effect::Never] {
        let world = World::new();
        let daemon = world.start("a", false).await;
        world.plan.add(archives().then(Action::Lose(effect)));
        daemon.backup(&id(A1), &["x"]).await;
        assert!(is_sealed(&world));
        assert!(
            daemon
                .snapshots
                .file(&id(A1), &name("a.didx"))
                .await
                .is_ok()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_archive_that_cannot_be_confirmed_fails_the_backup_unsealed() {
    let world = World::new();
    let daemon = world.start("a", false).await;
    world
        .plan
        .add(archives().always().then(Action::Lose(Effect::Late)));
    let writer = daemon.write(&id(A1), &["x"]).await;
    let error = writer.finish(STATS).await.unwrap_err();
    assert!(matches!(error, Error::OutcomeUnknown { .. }));
    drop(writer);
    // The upload arrives within T, while cleanup still waits for it.
    world.env.sleep(T / 2).await;
    world.plan.deliver_late().await;
    assert!(world.has(&id(A1).file(&name("a.didx"))));
    assert!(new_claim_is_refused(&daemon).await);
    world.quiet().await;
    assert_eq!(world.objects(), ["vm/100/owner"]);
    world.plan.calm();
    daemon.backup(&id(A1), &["x"]).await;
}

#[tokio::test(start_paused = true)]
async fn without_conditional_create_the_seal_looks_first() {
    let options = ModelOptions {
        conditional_create: Support::Ignored,
        conditional_overwrite: Support::Ignored,
        ..ModelOptions::default()
    };
    let world = World::with(options);
    let daemon = world.start("a", false).await;
    let writer = daemon.write(&id(A1), &["x"]).await;
    world.plan.add(seals().then(Action::Lose(Effect::Now)));
    writer.finish(STATS).await.unwrap();
    let notes = daemon.snapshots.set_notes(&id(A1), "early").await;
    assert!(
        matches!(notes, Err(Error::Busy(_))),
        "a late put could undo it"
    );
    drop(writer);
    let writer = daemon.write(&id(B1), &["x"]).await;
    let key = World::key(&id(B1).manifest());
    world
        .model
        .insert_raw(key.clone(), "foreign", Metadata::new(), None);
    assert!(matches!(
        writer.finish(STATS).await,
        Err(Error::SealConflict(_))
    ));
    assert_eq!(
        world.model.object(&key).unwrap().body.into_bytes(),
        "foreign"
    );
}

#[tokio::test(start_paused = true)]
async fn a_server_without_metadata_is_recognised_by_content() {
    let world = World::with(ModelOptions {
        metadata: Support::Ignored,
        ..ModelOptions::default()
    });
    let daemon = world.start("a", false).await;
    world.plan.add(archives().then(Action::Lose(Effect::Now)));
    world.plan.add(seals().then(Action::Lose(Effect::Now)));
    daemon.backup(&id(A1), &["x"]).await;
    assert_eq!(daemon.listed().await, [A1]);
}

#[tokio::test(start_paused = true)]
async fn passing_faults_are_tried_again() {
    let world = World::new();
    let daemon = world.start("a", false).await;
    let writer = daemon.write(&id(A1), &["x"]).await;
    world
        .plan
        .add(seals().then(Action::Fail(ErrorKind::Throttled)));
    world.plan.add(seals().then(Action::Conflict));
    world
        .plan
        .add(seals().then(Action::FailLate { applied: true }));
    writer.finish(STATS).await.unwrap();
    assert!(is_sealed(&world));
}
