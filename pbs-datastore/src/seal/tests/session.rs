//! A backup from its claim to its end, in a bucket and in a directory.

use super::*;
use crate::files::{FaultyFiles, FileFault, FileOp};

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
async fn a_file_is_replaced_unconditionally_only_when_nothing_can_arrive_late() {
    for conditional in [Support::Works, Support::Ignored] {
        let world = World::with(ModelOptions {
            conditional_create: conditional,
            conditional_overwrite: conditional,
            ..ModelOptions::default()
        });
        let daemon = world.start("a", false).await;
        let writer = daemon.begin(&id(A1)).await.unwrap();
        let blob = |text: &'static str| {
            crate::DataBlob::encode_plain(text.into())
                .unwrap()
                .encoded()
        };
        let x = name("x.blob");
        let put = |text| writer.put_blob(&x, blob(text));
        put("first").await.unwrap();
        // Its first attempt had no answer, the second one had.
        let lock = writer.0.lock().unwrap();
        lock.note_lost(Some(world.env.instant()));
        let replaced = put("second").await;
        if conditional == Support::Works {
            replaced.unwrap();
        } else {
            assert!(matches!(replaced, Err(Error::Busy(_))), "{replaced:?}");
            world.env.sleep(T).await;
            put("second").await.unwrap();
        }
    }
}

fn no_room_for_manifests(files: &FaultyFiles) {
    files.add(FileFault {
        op: FileOp::Rename,
        path: format!("{A1}/index.json.blob"),
        times: usize::MAX,
        errno: nix::errno::Errno::ENOSPC as i32,
    });
}

#[tokio::test(start_paused = true)]
async fn a_backup_sealed_while_the_disk_was_full_shows_as_soon_as_there_is_room() {
    let (world, files) = World::with_faulty_files();
    let daemon = world.start("a", false).await;
    no_room_for_manifests(&files);
    daemon.backup(&id(A1), &["x"]).await;
    assert!(is_sealed(&world));
    let gets = || world.model.count(Op::Get);
    let before = gets();
    for _ in 0..3 {
        assert!(daemon.listed().await.is_empty(), "there is no room yet");
    }
    assert_eq!(gets() - before, 1, "each look costs a request");
    files.clear();
    world.env.sleep(Duration::from_secs(10)).await;
    assert_eq!(daemon.listed().await, [A1]);
    let after = gets();
    assert_eq!(daemon.listed().await, [A1]);
    assert_eq!(gets(), after);
}

#[tokio::test(start_paused = true)]
async fn an_edit_that_meets_a_fetch_forgets_nothing() {
    let (world, files) = World::with_faulty_files();
    let daemon = world.start("a", false).await;
    daemon.backup(&id(A1), &["x"]).await;
    no_room_for_manifests(&files);
    let noted = daemon.snapshots.set_notes(&id(A1), "one").await;
    noted.expect_err("there is no room for the copy");
    // The first GET of the second edit is a look that fails to write; the other one asks what it lost against.
    let manifests = Fault::on(Op::Get).containing("index.json.blob");
    let gate = world.plan.stop_after(manifests.nth(2));
    let snapshots = Arc::clone(&daemon.snapshots);
    let edit = world
        .env
        .spawn(async move { snapshots.set_notes(&id(A1), "two").await });
    gate.reached().await;
    files.clear();
    world.env.sleep(Duration::from_secs(10)).await;
    assert_eq!(daemon.listed().await, [A1]);
    gate.release();
    drop(edit.await.unwrap());
    assert_eq!(
        daemon.listed().await,
        [A1],
        "a snapshot is forgotten that is there"
    );
    daemon.snapshots.set_notes(&id(A1), "three").await.unwrap();
}
