//! Races between a collection and everybody else.

use rstest::rstest;
use s3_client::{Action, DeleteRequest, Effect, ErrorKind, Fault, Metadata, Op};

use super::*;
use crate::Error;
use crate::files::{FileFault, FileOp};

/// A life with one chunk per text that nobody uses any more.
pub(super) async fn garbage(world: &World, texts: &[&str]) -> Life {
    let life = world.start().await;
    let session = life.sessions.open("gone");
    for text in texts {
        life.insert(&session, text).await.unwrap();
    }
    drop(session);
    world.age().await;
    life
}

pub(super) fn deletes() -> Fault {
    Fault::on(Op::Delete).key_where(|key| key.contains(".chunks/"))
}

#[tokio::test(start_paused = true)]
async fn garbage_goes_and_what_is_used_stays() {
    let world = World::new();
    let life = garbage(&world, &["used", "unused"]).await;
    world.snapshot("host/a/1", &[digest("used")]);
    let status = life.collect().await.unwrap();
    assert_eq!(
        (
            status.removed_chunks,
            status.disk_chunks,
            status.index_file_count
        ),
        (1, 1, 1)
    );
    assert!(world.holds(&life, &digest("used")));
    assert!(!world.holds(&life, &digest("unused")));
    assert!(life.marker(&digest("unused")).await.is_none());
    // Uploaded again, it is there again.
    let session = life.sessions.open("a");
    assert_eq!(
        life.insert(&session, "unused").await.unwrap(),
        Inserted::New
    );
}

#[tokio::test(start_paused = true)]
async fn an_open_session_holds_the_cutoff_back() {
    let world = World::new();
    let life = world.start().await;
    let session = life.sessions.open("slow");
    life.insert(&session, "one").await.unwrap();
    world.age().await;
    let status = life.collect().await.unwrap();
    assert!(
        world.holds(&life, &digest("one")),
        "a chunk of an open session was deleted"
    );
    assert_eq!(status.held_back_by.as_deref(), Some("slow"));
    let since = session.started().as_second();
    assert_eq!(status.held_back_since, Some(since));
    assert_eq!(status.pending_chunks, 1);
}

#[tokio::test(start_paused = true)]
async fn an_upload_between_put_and_cache_insert_is_in_use() {
    let world = World::new();
    let life = world.start().await;
    let gate = world
        .plan
        .stop_after(Fault::on(Op::Put).containing(".chunks/"));
    let session = life.sessions.open("a");
    let (inserted, status) = tokio::join!(life.insert(&session, "one"), async {
        gate.reached().await;
        world.age().await;
        let status = life.collect().await;
        gate.release();
        status
    });
    inserted.unwrap();
    assert_eq!(status.unwrap().removed_chunks, 0);
    assert!(world.holds(&life, &digest("one")));
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Insert,
    FailedUpload,
    NamedByAnIndex,
}

#[rstest]
#[tokio::test(start_paused = true)]
async fn a_use_after_the_sweep_looked_is_seen_when_the_batch_is_condemned(
    #[values(Use::Insert, Use::FailedUpload, Use::NamedByAnIndex)] by: Use,
) {
    let mut world = World::new();
    world.config.delete_request_keys_max = 1;
    world.config.delete_requests_max = 1;
    world.config.list_ranges = 1;
    let life = garbage(&world, &["one", "two"]).await;
    let mut names = ["one", "two"];
    names.sort_by_key(|name| digest(name));
    let (second, used) = (names[1], digest(names[1]));
    let gate = world.plan.stop_before(deletes());
    let (status, ()) = tokio::join!(life.collect(), async {
        gate.reached().await;
        let (now, guard) = (world.env.now(), life.table.guard(used).await);
        match by {
            Use::Insert => {
                drop(guard);
                let inserted = life.insert(&life.sessions.open("a"), second).await;
                assert_eq!(inserted.unwrap(), Inserted::Duplicate);
            }
            Use::FailedUpload => life.markers.touch_upload(&OsFiles, &guard, now).unwrap(),
            Use::NamedByAnIndex => life.markers.touch_using(&OsFiles, &used, now).unwrap(),
        }
        gate.release();
    });
    let status = status.unwrap();
    assert!(
        world.holds(&life, &used),
        "a chunk was deleted after its use was recorded"
    );
    assert_eq!((status.removed_chunks, status.rescued_chunks), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn an_insert_that_meets_412_is_seen_when_the_batch_is_condemned() {
    let mut world = World::new();
    world.config.delete_request_keys_max = 1;
    world.config.delete_requests_max = 1;
    world.config.list_ranges = 1;
    let life = garbage(&world, &["one", "two"]).await;
    // Objects that no marker speaks for, as after a lost cache directory.
    for folder in std::fs::read_dir(world.dir.path().join("cache/.chunks")).unwrap() {
        std::fs::remove_dir_all(folder.unwrap().path()).unwrap();
    }
    let second = if digest("one") < digest("two") {
        "two"
    } else {
        "one"
    };
    let gate = world.plan.stop_before(deletes());
    let session = life.sessions.open("a");
    let (status, ()) = tokio::join!(life.collect(), async {
        gate.reached().await;
        let met = life.insert(&session, second).await.unwrap();
        assert_eq!(met, Inserted::Duplicate, "the object is there");
        gate.release();
    });
    assert_eq!(status.unwrap().rescued_chunks, 1);
    assert!(world.holds(&life, &digest(second)));
}

#[tokio::test(start_paused = true)]
async fn a_hit_on_a_condemned_chunk_waits_and_uploads_again() {
    let world = World::new();
    let life = garbage(&world, &["one"]).await;
    let gate = world.plan.stop_before(deletes());
    let session = life.sessions.open("a");
    let (status, inserted) = tokio::join!(life.collect(), async {
        gate.reached().await;
        let insert = life.insert(&session, "one");
        tokio::pin!(insert);
        let early = tokio::select! {
            biased;
            early = &mut insert => Some(early),
            () = world.env.sleep(Duration::from_secs(5)) => None,
        };
        gate.release();
        match early {
            Some(early) => early,
            None => insert.await,
        }
    });
    inserted.unwrap();
    status.unwrap();
    assert!(
        world.holds(&life, &digest("one")),
        "a chunk on its way out was called a duplicate"
    );
    assert!(life.table.waits() > 0);
}

#[tokio::test(start_paused = true)]
async fn a_delete_without_answer_holds_its_digests_until_it_can_have_no_effect() {
    let world = World::new();
    let life = garbage(&world, &["one"]).await;
    world.plan.add(deletes().then(Action::Lose(Effect::Late)));
    let session = life.sessions.open("a");
    let (status, inserted) = tokio::join!(life.collect(), async {
        world.env.sleep(Duration::from_secs(5)).await;
        let insert = life.insert(&session, "one");
        let late = async {
            world.env.sleep(LATE / 2).await;
            world.plan.deliver_late().await;
        };
        tokio::join!(insert, late).0
    });
    inserted.unwrap();
    assert_eq!(status.unwrap().unknown_chunks, 1);
    assert!(
        world.holds(&life, &digest("one")),
        "a late delete took a chunk that was uploaded again"
    );
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_several_requests_and_a_lost_answer_to_one_holds_all_its_digests() {
    let mut world = World::new();
    world.config.delete_request_keys_max = 1;
    let life = garbage(&world, &["one", "two"]).await;
    let (first, second) = if digest("one") < digest("two") {
        ("one", "two")
    } else {
        ("two", "one")
    };
    let of = |text| Fault::on(Op::Delete).containing(digest(text).to_string());
    let gate = world.plan.stop_before(of(first));
    world.plan.add(of(first).then(Action::Lose(Effect::Late)));
    let session = life.sessions.open("a");
    let began = world.env.instant();
    let (status, inserted) = tokio::join!(life.collect(), async {
        gate.reached().await;
        while world.holds(&life, &digest(second)) {
            assert!(began.elapsed() < LATE, "the second waits for the first");
            world.env.sleep(Duration::from_millis(1)).await;
        }
        gate.release();
        let late = async {
            world.env.sleep(LATE / 2).await;
            world.plan.deliver_late().await;
        };
        tokio::join!(
            life.insert(&session, first),
            life.insert(&session, second),
            late
        )
    });
    inserted.0.unwrap();
    inserted.1.unwrap();
    let status = status.unwrap();
    assert_eq!((status.unknown_chunks, status.removed_chunks), (1, 1));
    assert!(
        began.elapsed() >= LATE,
        "a digest of the batch was released early"
    );
    assert!(world.holds(&life, &digest(first)) && world.holds(&life, &digest(second)));
}

#[tokio::test(start_paused = true)]
async fn a_journal_left_by_a_crash_holds_its_digests_until_the_delete_can_have_no_effect() {
    let world = World::new();
    let life = garbage(&world, &["one"]).await;
    // The crash: the journal is written, the delete is on its way, the process is gone.
    world.plan.add(deletes().then(Action::Lose(Effect::Late)));
    let journal = format!("holdfast-gc-journal 1\n{}\nend\n", digest("one"));
    std::fs::write(world.dir.path().join("cache/.holdfast/gc-journal"), journal).unwrap();
    world
        .store()
        .delete(&[DeleteRequest::from(life.key(&digest("one")))], None)
        .await
        .unwrap();
    drop(life);
    let life = world.start().await;
    assert!(life.marker(&digest("one")).await.is_none());
    let session = life.sessions.open("a");
    let (inserted, ()) = tokio::join!(life.insert(&session, "one"), async {
        world.env.sleep(LATE / 2).await;
        world.plan.deliver_late().await;
    });
    inserted.unwrap();
    assert!(
        world.holds(&life, &digest("one")),
        "a delete of an earlier life took a chunk that was uploaded again"
    );
}

#[tokio::test(start_paused = true)]
async fn a_refused_key_loses_its_marker() {
    let world = World::new();
    let life = garbage(&world, &["one"]).await;
    world.plan.add(deletes().then(Action::Refuse));
    let status = life.collect().await.unwrap();
    assert_eq!((status.refused_chunks, status.removed_chunks), (1, 0));
    // The server deletes it after all, or somebody does by hand.
    world.model.remove_raw(&life.key(&digest("one")));
    let session = life.sessions.open("a");
    life.insert(&session, "one").await.unwrap();
    assert!(
        world.holds(&life, &digest("one")),
        "the marker of a refused key was believed"
    );
}

#[tokio::test(start_paused = true)]
async fn an_object_deleted_by_hand_is_reported_and_uploaded_again() {
    let world = World::new();
    let life = garbage(&world, &["one"]).await;
    world.snapshot("host/a/1", &[digest("one")]);
    world.model.remove_raw(&life.key(&digest("one")));
    let status = life.collect().await.unwrap();
    assert_eq!(status.missing_chunks, 1);
    assert_eq!(*world.snapshots.damaged.lock().unwrap(), [digest("one")]);
    let session = life.sessions.open("a");
    assert_eq!(life.insert(&session, "one").await.unwrap(), Inserted::New);
    assert!(world.holds(&life, &digest("one")));
}

#[tokio::test(start_paused = true)]
async fn mark_records_use_and_never_existence() {
    let world = World::new();
    let life = world.start().await;
    world.snapshot("host/a/1", &[digest("never uploaded")]);
    let status = life.collect().await.unwrap();
    assert_eq!(status.missing_chunks, 1);
    let session = life.sessions.open("a");
    life.insert(&session, "never uploaded").await.unwrap();
    assert!(
        world.holds(&life, &digest("never uploaded")),
        "an index was taken for evidence"
    );
}

#[tokio::test(start_paused = true)]
async fn after_a_lost_cache_directory_what_is_used_is_known_again() {
    let world = World::new();
    let life = garbage(&world, &["used", "unused"]).await;
    world.snapshot("host/a/1", &[digest("used")]);
    for folder in std::fs::read_dir(world.dir.path().join("cache/.chunks")).unwrap() {
        std::fs::remove_dir_all(folder.unwrap().path()).unwrap();
    }
    let status = life.collect().await.unwrap();
    assert_eq!((status.removed_chunks, status.missing_chunks), (1, 0));
    assert!(world.holds(&life, &digest("used")));
    assert!(life.marker(&digest("used")).await.is_some());
}

#[tokio::test(start_paused = true)]
async fn what_a_listing_vouches_for_is_looked_at_before_it_makes_a_duplicate() {
    let world = World::new();
    let life = garbage(&world, &["good"]).await;
    let session = life.sessions.open("hostile");
    let forgery = forged(digest("bad"), "evil");
    let uploaded = life
        .chunks
        .insert(&session, forgery, InsertOptions::default());
    uploaded.await.unwrap();
    drop(session);
    world.snapshot("host/a/1", &[digest("good"), digest("bad")]);
    for folder in std::fs::read_dir(world.dir.path().join("cache/.chunks")).unwrap() {
        std::fs::remove_dir_all(folder.unwrap().path()).unwrap();
    }
    life.collect().await.unwrap();
    world.model.reset_counts();
    let session = life.sessions.open("honest");
    let told = life.insert(&session, "bad").await;
    assert!(
        matches!(told, Err(Error::NatureConflict { .. })),
        "a forgery was taken for the chunk: {told:?}"
    );
    for _ in 0..2 {
        let told = life.insert(&session, "good").await.unwrap();
        assert_eq!(told, Inserted::Duplicate);
    }
    let counts = world.model.counts();
    assert_eq!(counts.get(&Op::Put), None, "{counts:?}");
    // Whoever is refused is refused for sure; of the chunk the nature is known from the first look on.
    assert_eq!(counts[&Op::Get], 4 + 1, "{counts:?}");
}

/// Copies a directory as it is, times included, and leaves no trace in it.
fn copy_dir(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            let stat = OsFiles.stat(&entry.path()).unwrap();
            std::fs::copy(entry.path(), &target).unwrap();
            for path in [&entry.path(), &target] {
                OsFiles.set_times(path, stat.atime, stat.mtime).unwrap();
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_copy_of_the_directory_made_during_a_collection_is_not_believed() {
    let mut world = World::new();
    world.config.delete_request_keys_max = 1;
    world.config.delete_requests_max = 1;
    world.config.list_ranges = 1;
    let life = garbage(&world, &["one", "two", "three"]).await;
    let cache = world.dir.path().join("cache");
    let copy = world.dir.path().join("copy");
    // Copied when the first batch is under way; the others are deleted after it.
    let gate = world.plan.stop_before(deletes());
    let (status, ()) = tokio::join!(life.collect(), async {
        gate.reached().await;
        copy_dir(&cache, &copy);
        gate.release();
    });
    assert_eq!(status.unwrap().removed_chunks, 3);
    drop(life);
    std::fs::remove_dir_all(&cache).unwrap();
    std::fs::rename(&copy, &cache).unwrap();
    let life = world.start().await;
    let session = life.sessions.open("a");
    for text in ["one", "two", "three"] {
        life.insert(&session, text).await.unwrap();
        assert!(
            world.holds(&life, &digest(text)),
            "a marker of an older copy was believed: {text}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn keys_of_others_between_the_chunks_are_passed_over() {
    let mut world = World::new();
    world.model = std::sync::Arc::new(ModelStore::new(ModelOptions {
        page_keys_max: 2,
        ..ModelOptions::default()
    }));
    let life = garbage(&world, &["one", "two", "three", "four"]).await;
    // Whole pages of them, in both ranges.
    for folder in ["0000", "8000", "ffff"] {
        for name in ["", "a", "b", "c", "d"] {
            let key = s3_client::ObjectKey::new(format!("store/.chunks/{folder}/{name}")).unwrap();
            world.model.insert_raw(key, "x", Metadata::new(), None);
        }
    }
    assert_eq!(life.collect().await.unwrap().removed_chunks, 4);
    assert_eq!(
        world
            .model
            .objects()
            .keys()
            .filter(|key| key.as_str().contains(".chunks/"))
            .count(),
        15
    );
}

#[tokio::test(start_paused = true)]
async fn an_error_in_a_listing_ends_the_collection() {
    let world = World::new();
    let life = garbage(&world, &["one", "two"]).await;
    world.snapshot("host/a/1", &[digest("one"), digest("two")]);
    world.plan.add(
        Fault::on(Op::List)
            .containing(".chunks/")
            .always()
            .then(Action::Fail(ErrorKind::Unavailable)),
    );
    // Were the failed listing taken for an empty one, every marker would be dropped and every chunk called missing.
    world.plan.add(
        Fault::on(Op::Head)
            .containing(".chunks/")
            .always()
            .then(Action::Fail(ErrorKind::NotFound)),
    );
    let result = life.collect().await;
    assert!(matches!(result, Err(Error::Store(_))), "{result:?}");
    assert!(life.marker(&digest("one")).await.is_some());
    assert!(world.snapshots.damaged.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn known_chunks_of_a_deleted_base_are_in_use() {
    let world = World::new();
    let life = garbage(&world, &["base"]).await;
    let session = life.sessions.open("a");
    life.chunks
        .adopt(&session, &[(digest("base"), 4)])
        .await
        .unwrap();
    // The base snapshot is gone, nothing names the chunk.
    world.age().await;
    life.collect().await.unwrap();
    assert!(
        world.holds(&life, &digest("base")),
        "a known chunk was deleted with its base"
    );
}

#[tokio::test(start_paused = true)]
async fn a_former_owner_deletes_nothing() {
    let world = World::new();
    let life = garbage(&world, &["one"]).await;
    let gate = world
        .plan
        .stop_before(Fault::on(Op::List).containing(".chunks/"));
    let (status, ()) = tokio::join!(life.collect(), async {
        gate.reached().await;
        let key = s3_client::ObjectKey::new("store/.in-use").unwrap();
        let object = world.model.object(&key).unwrap();
        let mut record: serde_json::Value =
            serde_json::from_slice(&object.body.into_bytes()).unwrap();
        record["counter"] = 99.into();
        record["start"] = "somebody-else".into();
        world.model.insert_raw(
            key,
            record.to_string().into_bytes(),
            s3_client::Metadata::new(),
            None,
        );
        gate.release();
    });
    assert!(matches!(status, Err(Error::NotOwner(_))), "{status:?}");
    assert!(world.holds(&life, &digest("one")));
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_deletes_nothing_and_a_second_run_is_refused() {
    let world = World::new();
    let life = garbage(&world, &["one"]).await;
    let dry = GcOptions { dry_run: true };
    let status = life
        .collector
        .run(dry, &JobContext::detached())
        .await
        .unwrap();
    assert_eq!(status.removed_chunks, 1);
    assert!(world.holds(&life, &digest("one")));
    let gate = world.plan.stop_before(deletes());
    let (first, second) = tokio::join!(life.collect(), async {
        gate.reached().await;
        let second = life.collect().await;
        gate.release();
        second
    });
    first.unwrap();
    assert!(matches!(second, Err(Error::Busy(_))));
}

#[tokio::test(start_paused = true)]
async fn the_journal_of_a_failed_batch_is_kept() {
    let world = World::new();
    let life = garbage(&world, &["one"]).await;
    // The chunk is deleted and its marker cannot be removed.
    world.files.add(FileFault {
        op: FileOp::Unlink,
        path: digest("one").to_string(),
        times: 1,
        errno: nix::errno::Errno::EIO as i32,
    });
    life.collect().await.unwrap_err();
    assert!(!world.holds(&life, &digest("one")));
    assert!(life.marker(&digest("one")).await.is_some());
    assert!(life.collector.is_busy().await, "this is no clean stop");
    // Another chunk becomes garbage, and the next collection deletes it, or would.
    let session = life.sessions.open("a");
    life.insert(&session, "two").await.unwrap();
    drop(session);
    world.age().await;
    life.collect().await.ok();
    drop(life);
    let life = world.start().await;
    let session = life.sessions.open("b");
    life.insert(&session, "one").await.unwrap();
    assert!(
        world.holds(&life, &digest("one")),
        "the marker of a deleted chunk was believed"
    );
}

#[tokio::test(start_paused = true)]
async fn a_failed_batch_holds_its_digests_through_the_next_collection() {
    let world = World::new();
    let life = garbage(&world, &["one"]).await;
    // The delete got no answer and may still arrive; then the marker cannot be removed.
    world.plan.add(deletes().then(Action::Lose(Effect::Late)));
    world.files.add(FileFault {
        op: FileOp::Unlink,
        path: digest("one").to_string(),
        times: 1,
        errno: nix::errno::Errno::EIO as i32,
    });
    life.collect().await.unwrap_err();
    // The next collection finds the chunk again, and a journal that is not its own.
    let next = life.collect().await;
    let session = life.sessions.open("a");
    let inserted = life.insert(&session, "one").await;
    world.plan.deliver_late().await;
    assert!(
        inserted.is_err() || world.holds(&life, &digest("one")),
        "a chunk was vouched for while its delete was on its way"
    );
    assert_eq!(next.unwrap().rescued_chunks, 1, "it is left alone");
}
