//! Tests of claim and seal.

use std::time::Duration;

use s3_client::{
    Action, Effect, ErrorKind, Fault, Metadata, ModelOptions, ObjectStore as _, Op, Put, Support,
};

use super::*;
use crate::snapshots::tests::{A1, A2, B1, Daemon, T, World, fill, group, id, name};
use crate::{ArchiveKind, Digest, Error, Manifest, SessionState, SnapshotState, SyncLevel};

const STATS: ChunkUploadStats = ChunkUploadStats {
    count: 3,
    size: 30,
    compressed_size: 20,
    duplicates: 1,
};

fn seals() -> Fault {
    Fault::on(Op::Put).containing("index.json.blob")
}

fn archives() -> Fault {
    Fault::on(Op::Put).containing("a.didx")
}

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

fn is_sealed(world: &World) -> bool {
    world.has(&id(A1).manifest()) && world.has(&id(A1).file(&name("a.didx")))
}

async fn new_backup_begins(daemon: &Daemon) -> bool {
    let writer = daemon.begin(&id(A2)).await;
    writer.is_ok_and(|writer| writer.base() == Some(id(A1)))
}

#[tokio::test(start_paused = true)]
async fn a_sealed_snapshot_carries_statistics_and_committer_and_frees_its_locks() {
    let world = World::new();
    let daemon = world.start("a", false).await;
    let writer = daemon.write(&id(A1), &["x", "y"]).await;
    assert!(!world.has(&id(A1).manifest()), "kept back until the seal");
    assert!(
        daemon
            .snapshots
            .file(&id(A1), &ArchiveName::manifest())
            .await
            .is_err()
    );
    writer.finish(STATS).await.unwrap();
    let manifest = daemon.snapshots.sealed(&id(A1)).await.unwrap();
    assert_eq!(manifest.chunk_upload_stats(), Some(STATS));
    let object = world.model.object(&World::key(&id(A1).manifest())).unwrap();
    let committer = |name: &str| object.meta.metadata.get(name).cloned();
    assert_eq!(
        committer("holdfast-instance"),
        Some(daemon.report.instance.clone())
    );
    assert_eq!(
        committer("holdfast-start"),
        Some(daemon.report.start.clone())
    );
    assert_eq!(
        committer("holdfast-session"),
        Some(writer.session().id().to_string())
    );
    assert!(object.meta.put_id().is_some());
    assert_eq!(*writer.session().state().borrow(), SessionState::Sealed);
    assert!(
        new_backup_begins(&daemon).await,
        "while the old connection is still open"
    );
    assert!(writer.finish(STATS).await.is_err(), "only once");
    let blob = crate::DataBlob::encode_plain("late".into())
        .unwrap()
        .encoded();
    writer.put_blob(&name("late.blob"), blob).await.unwrap();
    drop(writer);
    world.quiet().await;
    assert!(is_sealed(&world));
    assert!(!world.has(&id(A1).file(&name("late.blob"))));
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_ends_leaves_nothing() {
    let world = World::new();
    let daemon = world.start("a", false).await;
    let writer = daemon.write(&id(A1), &["x"]).await;
    assert!(world.has(&id(A1).file(&name("a.didx"))));
    drop(writer);
    world.quiet().await;
    assert_eq!(world.objects(), ["vm/100/owner"]);
    assert!(daemon.sessions.list().is_empty());
    assert!(daemon.snapshots.is_idle());
    daemon.backup(&id(A1), &["x"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_request_that_ends_does_not_end_the_commit() {
    let world = World::new();
    let daemon = world.start("a", false).await;
    let writer = daemon.write(&id(A1), &["x"]).await;
    let gate = world.plan.stop_before(seals());
    {
        let finish = std::pin::pin!(writer.finish(STATS));
        let reached = std::pin::pin!(gate.reached());
        futures_util::future::select(finish, reached).await;
    }
    let mut state = writer.session().state();
    drop(writer);
    gate.release();
    state
        .wait_for(|state| *state == SessionState::Sealed)
        .await
        .unwrap();
    world.quiet().await;
    assert!(is_sealed(&world));
    assert_eq!(daemon.listed().await, [A1]);
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

async fn new_claim_is_refused(daemon: &Daemon) -> bool {
    matches!(daemon.begin(&id(A1)).await, Err(Error::Busy(_)))
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

#[tokio::test(start_paused = true)]
async fn finish_names_what_is_missing() {
    let world = World::new();
    let daemon = world.start("a", false).await;
    let writer = daemon.begin(&id(A1)).await.unwrap();
    assert!(writer.finish(STATS).await.is_err(), "no files");
    let wid = writer.open_dynamic(&name("b.didx")).await.unwrap();
    assert!(writer.finish(STATS).await.is_err(), "an open index");
    let digest = Digest::of(b"b");
    let (kind, entry) = (ArchiveKind::Dynamic, [(digest, 0)]);
    let unknown = writer.append(wid, kind, &entry).await.unwrap_err();
    assert!(unknown.to_string().contains(&digest.to_string()));
    writer.session().handle().tell(digest, 10).unwrap();
    writer.append(wid, kind, &entry).await.unwrap();
    assert!(writer.close(wid, kind, 2, 10, digest).await.is_err());
    assert!(
        writer.close(wid, kind, 1, 10, digest).await.is_err(),
        "a wrong checksum"
    );
    let again = writer.close(wid, kind, 1, 10, digest).await;
    assert!(again.unwrap_err().to_string().contains("no open index"));
    fill(&writer, &["x"]).await.unwrap();
    daemon.sessions.announce_lost(&Digest::of(b"x"));
    let error = writer.finish(STATS).await.unwrap_err();
    assert!(matches!(error, Error::ChunkMissing { digest } if digest == Digest::of(b"x")));
    assert!(!world.has(&id(A1).manifest()));
}

#[tokio::test(start_paused = true)]
async fn a_manifest_that_names_what_is_not_there_is_refused() {
    let world = World::new();
    let daemon = world.start("a", false).await;
    let writer = daemon.begin(&id(A1)).await.unwrap();
    let file = crate::ManifestFile {
        name: name("gone.didx"),
        crypt_mode: crate::CryptMode::None,
        size: 1,
        csum: Some(Digest::of(b"")),
    };
    let manifest = Manifest::new(id(A1).snapshot, vec![file]).unwrap();
    let blob = manifest.to_blob().unwrap().encoded();
    writer
        .put_blob(&ArchiveName::manifest(), blob)
        .await
        .unwrap();
    let error = writer.finish(STATS).await.unwrap_err();
    assert!(error.to_string().contains("gone.didx"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_blob_may_come_again_with_other_content() {
    let world = World::new();
    let daemon = world.start("a", false).await;
    let writer = daemon.begin(&id(A1)).await.unwrap();
    let blob = |text: &'static str| {
        crate::DataBlob::encode_plain(text.into())
            .unwrap()
            .encoded()
    };
    for text in ["one", "two"] {
        writer.put_blob(&name("x.blob"), blob(text)).await.unwrap();
    }
    let mut broken = blob("three").to_vec();
    broken[13] ^= 1;
    assert!(
        writer
            .put_blob(&name("x.blob"), broken.into())
            .await
            .is_err()
    );
    let object = world
        .model
        .object(&World::key(&id(A1).file(&name("x.blob"))))
        .unwrap();
    assert_eq!(object.body.into_bytes(), blob("two"));
}

#[tokio::test(start_paused = true)]
async fn a_crash_before_the_seal_is_cleaned_after_the_next_start() {
    let world = World::new();
    let daemon = world.start("a", false).await;
    let writer = daemon.write(&id(A1), &["x"]).await;
    std::mem::forget(writer);
    drop(daemon);
    let daemon = world.start("a", false).await;
    assert!(daemon.listed().await.is_empty());
    let temporary = world.cache("a").join(".holdfast/tmp");
    assert_eq!(std::fs::read_dir(&temporary).unwrap().count(), 1);
    let _running = daemon
        .begin(&id("vm/1/2030-01-01T00:00:00Z"))
        .await
        .unwrap();
    assert!(!daemon.snapshots.is_idle());
    assert_eq!(daemon.snapshots.remove_unsealed().await.unwrap().removed, 1);
    assert_eq!(world.objects(), ["vm/1/owner", "vm/100/owner"]);
    assert_eq!(
        std::fs::read_dir(&temporary).unwrap().count(),
        1,
        "that of the running one"
    );
}

#[tokio::test(start_paused = true)]
async fn a_crash_with_the_seal_under_way_is_decided_by_the_bucket() {
    let world = World::new();
    let daemon = world.start("a", false).await;
    let writer = daemon.write(&id(A1), &["x"]).await;
    world
        .plan
        .add(seals().always().then(Action::Lose(Effect::Late)));
    let finish = world.env.spawn(async move { writer.finish(STATS).await });
    world.env.sleep(Duration::from_mins(1)).await;
    finish.abort();
    drop(daemon);
    world.plan.calm();
    let daemon = world.start("a", false).await;
    let cleaning = world.env.spawn({
        let snapshots = Arc::clone(&daemon.snapshots);
        async move { snapshots.remove_unsealed().await }
    });
    world.env.sleep(T / 2).await;
    assert!(is_archive_there(&world), "nothing is removed before T");
    world.plan.deliver_late().await;
    let stats = cleaning.await.unwrap().unwrap();
    assert_eq!(stats.removed, 0);
    assert_eq!(daemon.listed().await, [A1]);
}

fn is_archive_there(world: &World) -> bool {
    world.has(&id(A1).file(&name("a.didx")))
}

#[tokio::test(start_paused = true)]
async fn an_index_of_the_base_is_reused() {
    let world = World::new();
    let daemon = world.start("a", false).await;
    let writer = daemon.begin(&id(A1)).await.unwrap();
    let (archive, kind, chunk) = (name("d.fidx"), ArchiveKind::Fixed, 4_u32 << 20);
    let digests = [Digest::of(b"1"), Digest::of(b"2")];
    for digest in digests {
        writer.session().handle().tell(digest, chunk).unwrap();
    }
    let size = u64::from(chunk) * 2;
    let wid = writer.open_fixed(&archive, Some(size), None).await.unwrap();
    let entries = [(digests[1], u64::from(chunk)), (digests[0], 0)];
    writer.append(wid, kind, &entries).await.unwrap();
    let mut csum = crate::IndexChecksum::new();
    for digest in &digests {
        csum.push_fixed(digest);
    }
    let csum = csum.finish();
    writer.close(wid, kind, 2, size, csum).await.unwrap();
    fill(&writer, &["x"]).await.unwrap();
    writer.finish(STATS).await.unwrap();
    let writer = daemon.begin(&id(A2)).await.unwrap();
    assert!(
        writer
            .open_fixed(&archive, Some(size), Some(digests[0]))
            .await
            .is_err()
    );
    let wid = writer
        .open_fixed(&archive, Some(size), Some(csum))
        .await
        .unwrap();
    assert!(writer.admit_chunk(wid, kind, 5 << 20).await.is_err());
    writer.admit_chunk(wid, kind, 1).await.unwrap();
    assert!(writer.admit_chunk(wid, kind, 1).await.is_err());
    assert!(
        writer
            .admit_chunk(wid, ArchiveKind::Dynamic, 1)
            .await
            .is_err()
    );
    writer.close(wid, kind, 0, 0, csum).await.unwrap();
    assert_eq!(writer.base_file(&archive).await.unwrap().len(), 4096 + 64);
}

#[tokio::test(start_paused = true)]
async fn a_directory_datastore_seals_by_renaming_the_manifest_last() {
    for sync in [SyncLevel::None, SyncLevel::File, SyncLevel::Filesystem] {
        let world = World::new();
        let daemon = world.start_directory(sync).await;
        let writer = daemon.write(&id(A1), &["x"]).await;
        let dir = world.cache("store").join(A1);
        assert!(dir.join("a.didx").exists() && !dir.join("index.json.blob").exists());
        writer.finish(STATS).await.unwrap();
        assert!(dir.join("index.json.blob").exists());
        drop(writer);
        drop(daemon.write(&id(A2), &["y"]).await);
        world.quiet().await;
        assert!(!world.cache("store").join(A2).exists());
        assert!(matches!(
            &*daemon.snapshots.state(&id(A1)).await.unwrap(),
            SnapshotState::Sealed(_)
        ));
        let temporary = std::fs::read_dir(world.cache("store").join(".holdfast/tmp")).unwrap();
        assert_eq!(temporary.count(), 0);
        daemon.snapshots.delete(&id(A1)).await.unwrap();
        assert!(daemon.listed().await.is_empty());
        assert!(
            daemon
                .snapshots
                .group_info(group("vm/100"))
                .await
                .unwrap()
                .is_none()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_seal_that_panics_ends_its_session_and_leaves_what_may_be_sealed_yet() {
    let world = World::new();
    let daemon = world.start("a", false).await;
    let writer = daemon.write(&id(A1), &["x"]).await;
    world.plan.add(Fault::on(Op::Put).key_where(|key| {
        assert!(!key.contains("index.json.blob"), "on purpose");
        false
    }));
    let mut state = writer.session().state();
    let refused = writer.finish(STATS).await;
    assert!(matches!(refused, Err(Error::Refused(_))), "{refused:?}");
    let dead = |state: &SessionState| matches!(state, SessionState::Dead(_));
    assert!(dead(&state.wait_for(dead).await.unwrap()));
    drop(writer);
    assert!(daemon.sessions.oldest_open().is_some(), "until T");
    world.quiet().await;
    assert!(daemon.sessions.oldest_open().is_none());
    assert!(world.has(&id(A1).file(&name("a.didx"))));
}
