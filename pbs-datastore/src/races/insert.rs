//! Races and lost answers of an insert.

use std::sync::Arc;

use futures_util::future::join_all;
use s3_client::{Action, Effect, ErrorKind, Fault, Metadata, Op};

use super::*;
use crate::CHUNK_ENCODED_BYTES_MAX;
use crate::Error;

#[tokio::test(start_paused = true)]
async fn the_upload_marker_is_there_before_the_first_byte() {
    let world = World::new();
    let life = world.start().await;
    let gate = world
        .plan
        .stop_before(Fault::on(Op::Put).containing(".chunks/"));
    let session = life.sessions.open("a");
    let (inserted, ()) = tokio::join!(life.insert(&session, "one"), async {
        gate.reached().await;
        let upload = life.markers.upload(&OsFiles, &digest("one")).unwrap();
        assert!(
            upload.is_some(),
            "an upload is under way without its marker"
        );
        gate.release();
    });
    assert_eq!(inserted.unwrap(), Inserted::New);
    assert_eq!(life.markers.upload(&OsFiles, &digest("one")).unwrap(), None);
    assert!(life.marker(&digest("one")).await.unwrap().size > 0);
}

#[tokio::test(start_paused = true)]
async fn one_put_serves_all_who_upload_the_same_chunk() {
    let world = World::new();
    let life = world.start().await;
    world.model.reset_counts();
    let sessions: Vec<_> = (0..16)
        .map(|i| life.sessions.open(format!("{i}")))
        .collect();
    let results = join_all(sessions.iter().map(|session| life.insert(session, "one"))).await;
    let new = results
        .iter()
        .filter(|result| matches!(result, Ok(Inserted::New)))
        .count();
    assert!(results.iter().all(Result::is_ok));
    assert_eq!((new, world.model.count(Op::Put)), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_known_chunk_costs_no_request() {
    let world = World::new();
    let life = world.start().await;
    let session = life.sessions.open("a");
    life.insert(&session, "one").await.unwrap();
    world.model.reset_counts();
    assert_eq!(
        life.insert(&session, "one").await.unwrap(),
        Inserted::Duplicate
    );
    life.chunks
        .adopt(&session, &[(digest("one"), 3)])
        .await
        .unwrap();
    assert!(
        world.model.counts().values().all(|count| *count == 0),
        "{:?}",
        world.model.counts()
    );
}

#[tokio::test(start_paused = true)]
async fn of_two_uploads_one_may_fail_and_the_other_uploads_itself() {
    let world = World::new();
    let life = world.start().await;
    world.plan.add(
        Fault::on(Op::Put)
            .containing(".chunks/")
            .then(Action::Fail(ErrorKind::Unauthorized)),
    );
    let (a, b) = (life.sessions.open("a"), life.sessions.open("b"));
    let (first, second) = tokio::join!(life.insert(&a, "one"), life.insert(&b, "one"));
    assert!(matches!(first, Err(Error::Store(_))));
    assert_eq!(second.unwrap(), Inserted::New);
    assert!(world.holds(&life, &digest("one")));
}

#[tokio::test(start_paused = true)]
async fn a_joiner_touches_the_marker_himself() {
    let world = World::new();
    let life = world.start().await;
    let (a, b) = (life.sessions.open("a"), life.sessions.open("b"));
    life.insert(&a, "one").await.unwrap();
    let busy = life.table.guard(digest("one")).await;
    let (joined, asked) = tokio::join!(life.insert(&b, "one"), async {
        world.age().await;
        drop(busy);
        world.env.now()
    });
    assert_eq!(joined.unwrap(), Inserted::Duplicate);
    assert!(
        life.marker(&digest("one")).await.unwrap().used >= asked,
        "the joiner's use was not recorded"
    );
}

#[tokio::test(start_paused = true)]
async fn a_dropped_request_does_not_stop_its_insert() {
    let world = World::new();
    let life = world.start().await;
    let gate = world
        .plan
        .stop_after(Fault::on(Op::Put).containing(".chunks/"));
    let session = life.sessions.open("a");
    {
        let insert = life.insert(&session, "one");
        tokio::select! {
            biased;
            result = insert => panic!("{result:?}"),
            () = gate.reached() => {}
        }
    }
    drop(session);
    assert!(
        life.sessions.oldest_open().is_some(),
        "the session counts as open until its upload has ended"
    );
    gate.release();
    while life.sessions.oldest_open().is_some() {
        tokio::task::yield_now().await;
    }
    assert!(
        life.marker(&digest("one")).await.is_some(),
        "the insert was cancelled with its request"
    );
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_was_lost_is_asked_for() {
    let world = World::new();
    let life = world.start().await;
    for effect in [Effect::Now, Effect::Never] {
        world.plan.add(
            Fault::on(Op::Put)
                .containing(".chunks/")
                .then(Action::Lose(effect)),
        );
        let text = format!("{effect:?}");
        let session = life.sessions.open("a");
        let inserted = life.insert(&session, &text).await.unwrap();
        let expected = if matches!(effect, Effect::Now) {
            Inserted::Duplicate
        } else {
            Inserted::New
        };
        assert_eq!(inserted, expected);
        assert!(world.holds(&life, &digest(&text)));
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_attempt_is_unconditional_for_what_is_verified() {
    let world = World::new();
    let life = world.start().await;
    let attempts = u64::from(world.config.upload_attempts_max);
    world.plan.add(
        Fault::on(Op::Put)
            .containing(".chunks/")
            .times(attempts - 1)
            .then(Action::Conflict),
    );
    let session = life.sessions.open("a");
    assert_eq!(life.insert(&session, "one").await.unwrap(), Inserted::New);
    // A stranger's plain chunk is not overwritten by what nobody can verify, on the last attempt either.
    world.plan.add(
        Fault::on(Op::Put)
            .containing(".chunks/")
            .times(attempts - 1)
            .then(Action::Conflict),
    );
    let target = plain("two");
    world.model.insert_raw(
        life.key(&digest("two")),
        target.blob_for_tests().to_body(),
        Metadata::new(),
        None,
    );
    let error = life
        .chunks
        .insert(
            &session,
            forged(digest("two"), "evil!"),
            InsertOptions::default(),
        )
        .await;
    assert!(
        matches!(error, Err(Error::NatureConflict { .. })),
        "{error:?}"
    );
    assert!(world.holds(&life, &digest("two")));
}

#[tokio::test(start_paused = true)]
async fn the_last_attempt_looks_at_what_it_would_replace() {
    let world = World::new();
    let life = world.start().await;
    let attempts = u64::from(world.config.upload_attempts_max);
    let stored = forged(digest("one"), "somebody else's");
    let stored = stored.blob_for_tests();
    world.model.insert_raw(
        life.key(&digest("one")),
        stored.to_body(),
        Metadata::new(),
        None,
    );
    world.plan.add(
        Fault::on(Op::Put)
            .containing(".chunks/")
            .times(attempts - 1)
            .then(Action::Conflict),
    );
    let session = life.sessions.open("a");
    let error = life.insert(&session, "one").await;
    assert!(
        matches!(error, Err(Error::NatureConflict { .. })),
        "{error:?}"
    );
    let left = world.model.object(&life.key(&digest("one"))).unwrap();
    assert_eq!(left.body.into_bytes(), stored.encoded());
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_verified_never_arrives_late_over_a_good_chunk() {
    let world = World::new();
    let life = world.start().await;
    let attempts = u64::from(world.config.upload_attempts_max);
    let puts = || Fault::on(Op::Put).containing(".chunks/");
    // All attempts of a forgery meet a busy key, and the last one is given up and still on its way.
    world
        .plan
        .add(puts().times(attempts - 1).then(Action::Conflict));
    world.plan.add(puts().then(Action::Lose(Effect::Late)));
    let session = life.sessions.open("hostile");
    let forgery = forged(digest("one"), "evil");
    let failed = life
        .chunks
        .insert(&session, forgery, InsertOptions::default())
        .await;
    assert!(failed.is_err(), "{failed:?}");
    let session = life.sessions.open("honest");
    life.insert(&session, "one").await.unwrap();
    assert_eq!(world.plan.deliver_late().await.len(), 1);
    let stored = world.model.object(&life.key(&digest("one"))).unwrap();
    assert_eq!(
        stored.body.into_bytes(),
        plain("one").blob_for_tests().encoded(),
        "a chunk was replaced by what nobody can verify"
    );
}

#[tokio::test(start_paused = true)]
async fn a_damaged_object_is_replaced_by_a_verified_upload() {
    let world = World::new();
    let life = world.start().await;
    let session = life.sessions.open("a");
    let endless = vec![0; CHUNK_ENCODED_BYTES_MAX + 2];
    for (text, body) in [
        ("cut", b"cut".to_vec()),
        ("empty", vec![]),
        ("long", endless),
    ] {
        let digest = digest(text);
        let key = life.key(&digest);
        world.model.insert_raw(key, body, Metadata::new(), None);
        life.insert(&session, text).await.unwrap();
        assert!(world.holds(&life, &digest), "a 412 was believed: {text}");
    }
}

#[tokio::test(start_paused = true)]
async fn natures_do_not_mix_by_marker_or_by_412() {
    let world = World::new();
    let life = world.start().await;
    let session = life.sessions.open("a");
    life.insert(&session, "one").await.unwrap();
    // By marker.
    let error = life
        .chunks
        .insert(
            &session,
            forged(digest("one"), "x"),
            InsertOptions::default(),
        )
        .await;
    assert!(
        matches!(error, Err(Error::NatureConflict { .. })),
        "{error:?}"
    );
    // The reverse, by marker: a forged chunk came first.
    life.chunks
        .insert(
            &session,
            forged(digest("two"), "evil"),
            InsertOptions::default(),
        )
        .await
        .unwrap();
    let error = life.insert(&session, "two").await;
    assert!(
        matches!(error, Err(Error::NatureConflict { .. })),
        "{error:?}"
    );
    // And by 412, without a marker.
    let stored = forged(digest("three"), "a forged one of another size");
    world.model.insert_raw(
        life.key(&digest("three")),
        stored.blob_for_tests().to_body(),
        Metadata::new(),
        None,
    );
    let error = life.insert(&session, "three").await;
    assert!(
        matches!(error, Err(Error::NatureConflict { .. })),
        "{error:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn natures_do_not_mix_by_a_412_of_the_same_size() {
    let world = World::new();
    let life = world.start().await;
    let session = life.sessions.open("a");
    let text = "forty bytes, as long as eight, encrypted";
    let (ours, theirs) = (plain(text), forged(digest(text), "eight..."));
    assert_eq!(ours.encoded_len(), theirs.encoded_len());
    world.model.insert_raw(
        life.key(&digest(text)),
        theirs.blob_for_tests().to_body(),
        Metadata::new(),
        None,
    );
    let error = life.insert(&session, text).await;
    assert!(
        matches!(error, Err(Error::NatureConflict { .. })),
        "{error:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_killed_session_is_told_nothing() {
    let world = World::new();
    let life = world.start().await;
    let gate = world
        .plan
        .stop_after(Fault::on(Op::Put).containing(".chunks/"));
    let session = life.sessions.open("a");
    let (inserted, ()) = tokio::join!(life.insert(&session, "one"), async {
        gate.reached().await;
        assert!(life.sessions.kill(session.id().seq, "administrator"));
        gate.release();
    });
    assert!(
        matches!(inserted, Err(Error::SessionEnded(_))),
        "{inserted:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_full_cache_disk_costs_the_cache_and_not_the_backup() {
    let world = World::new();
    let life = world.start().await;
    let fault = crate::files::FileFault {
        op: crate::files::FileOp::Write,
        path: ".holdfast/tmp/".into(),
        times: 1,
        errno: nix::errno::Errno::ENOSPC as i32,
    };
    world.files.add(fault);
    let session = life.sessions.open("a");
    assert_eq!(life.insert(&session, "one").await.unwrap(), Inserted::New);
    assert_eq!(life.marker(&digest("one")).await.unwrap().size, 0);
}

#[tokio::test(start_paused = true)]
async fn a_missing_known_chunk_fails_the_request() {
    let world = World::new();
    let life = world.start().await;
    let session = life.sessions.open("a");
    let error = life.chunks.adopt(&session, &[(digest("never"), 5)]).await;
    assert!(matches!(error, Err(Error::ChunkMissing { .. })));
    let _ = Arc::strong_count(&life.owner);
}
