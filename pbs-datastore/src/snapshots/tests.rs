//! Tests of snapshots.

mod world;

use std::path::Path;

use bytes::Bytes;
use s3_client::{Action, Effect, Fault, Metadata, ModelOptions, Op, Support};

use super::*;
use crate::files::{FileFault, FileOp};
use crate::{AuthId, DataBlob, Manifest, SyncLevel, VerifyOutcome, VerifyState};

use world::caller;
pub(crate) use world::{A1, A2, B1, Daemon, T, World, fill, group, id, name};

fn failed() -> VerifyState {
    VerifyState {
        upid: "UPID:x".into(),
        state: VerifyOutcome::Failed,
    }
}

#[tokio::test(start_paused = true)]
async fn lists_tell_files_sizes_owners_and_running_backups() {
    let world = World::new();
    let daemon = world.start("a", false).await;
    daemon.backup(&id(A1), &["x"]).await;
    let writer = daemon.write(&id(A2), &["x", "y"]).await;
    let snapshots = &daemon.snapshots;
    let infos = snapshots.group_snapshots(&group("vm/100")).await.unwrap();
    assert_eq!(infos.len(), 2);
    // The index describes 10 bytes; the manifest counts as it is stored.
    let sizes = infos[0].files.iter().filter_map(|file| file.size);
    assert_eq!(infos[0].files[0].size, Some(10));
    assert_eq!((infos[0].size, infos[1].size), (Some(sizes.sum()), None));
    assert_eq!(infos[0].owner, Some(caller()));
    let names = infos[0].files.iter().map(|file| file.name.as_str());
    assert_eq!(names.collect::<Vec<_>>(), ["a.didx", "index.json.blob"]);
    assert!(infos[1].files.is_empty());
    let groups = snapshots.groups(&Namespace::root()).await.unwrap();
    assert_eq!((groups.len(), groups[0].count), (1, 2));
    assert_eq!(groups[0].last_backup, id(A1).snapshot.time);
    drop(writer);
    world.quiet().await;
    assert_eq!(daemon.listed().await, [A1]);
}

#[tokio::test(start_paused = true)]
async fn a_second_list_parses_nothing() {
    let world = World::new();
    let daemon = world.start("a", false).await;
    daemon.backup(&id(A1), &["x"]).await;
    let first = daemon.snapshots.snapshot(&id(A1)).await.unwrap();
    let second = daemon.snapshots.snapshot(&id(A1)).await.unwrap();
    assert!(Arc::ptr_eq(&first.state, &second.state));
    daemon.snapshots.set_notes(&id(A1), "new").await.unwrap();
    let third = daemon.snapshots.snapshot(&id(A1)).await.unwrap();
    assert_eq!(third.notes, "new");
}

#[tokio::test(start_paused = true)]
async fn deleting_a_group_leaves_the_one_whose_name_it_begins() {
    let world = World::new();
    let daemon = world.start("a", false).await;
    daemon.backup(&id(A1), &["x"]).await;
    daemon.backup(&id(B1), &["x"]).await;
    let options = DeleteOptions {
        error_on_protected: true,
    };
    let stats = daemon
        .snapshots
        .delete_group(&group("vm/10"), options)
        .await
        .unwrap();
    assert_eq!((stats.removed_groups, stats.removed_snapshots), (1, 1));
    assert_eq!(
        world.objects(),
        [
            format!("{A1}/a.didx"),
            format!("{A1}/index.json.blob"),
            "vm/100/owner".into()
        ]
    );
    assert_eq!(daemon.listed().await, [A1]);
    assert!(!world.cache("a").join(".cnt/vm/10").exists());
}

#[tokio::test(start_paused = true)]
async fn protected_and_used_snapshots_stay() {
    let world = World::new();
    let daemon = world.start("a", false).await;
    let snapshots = &daemon.snapshots;
    daemon.backup(&id(A1), &["x"]).await;
    snapshots.set_protected(&id(A1), true).await.unwrap();
    assert!(snapshots.protected(&id(A1)).await.unwrap());
    assert!(matches!(
        snapshots.delete(&id(A1)).await,
        Err(Error::Protected(_))
    ));
    let keep = DeleteOptions {
        error_on_protected: false,
    };
    let stats = snapshots
        .delete_group(&group("vm/100"), keep)
        .await
        .unwrap();
    assert_eq!((stats.removed_groups, stats.protected_snapshots), (0, 1));
    snapshots.set_protected(&id(A1), false).await.unwrap();
    let reader = snapshots.hold(&id(A1)).unwrap();
    assert!(matches!(
        snapshots.delete(&id(A1)).await,
        Err(Error::Busy(_))
    ));
    drop(reader);
    let writer = daemon.write(&id(A2), &["x"]).await;
    assert_eq!(writer.base(), Some(id(A1)));
    assert!(
        matches!(snapshots.delete(&id(A1)).await, Err(Error::Busy(_))),
        "a base"
    );
    assert!(
        matches!(snapshots.delete(&id(A2)).await, Err(Error::Busy(_))),
        "running"
    );
    drop(writer);
    world.quiet().await;
    snapshots.delete(&id(A1)).await.unwrap();
    assert!(matches!(
        snapshots.delete(&id(A1)).await,
        Err(Error::NotFound(_))
    ));
    assert_eq!(world.objects(), ["vm/100/owner"]);
}

#[tokio::test(start_paused = true)]
async fn a_crash_after_the_manifest_is_removed_leaves_nothing_that_is_shown() {
    let world = World::new();
    let daemon = world.start("a", false).await;
    daemon.backup(&id(A1), &["x"]).await;
    world.plan.add(
        Fault::on(Op::Delete)
            .skip(1)
            .then(Action::Fail(s3_client::ErrorKind::Unauthorized)),
    );
    assert!(daemon.snapshots.delete(&id(A1)).await.is_err());
    assert!(daemon.listed().await.is_empty());
    drop(daemon);
    let daemon = world.start("a", false).await;
    assert!(daemon.listed().await.is_empty());
    assert!(world.has(&id(A1).file(&name("a.didx"))));
    let began = world.env.instant();
    let stats = daemon.snapshots.remove_unsealed().await.unwrap();
    assert_eq!((stats.removed, stats.left), (1, 0));
    assert!(
        world.env.instant() >= began + T,
        "the stop was not a clean one"
    );
    assert_eq!(world.objects(), ["vm/100/owner"]);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_ends_meanwhile_does_not_stop_the_removal_of_what_is_unsealed() {
    let (world, files) = World::with_faulty_files();
    let daemon = world.start("a", false).await;
    daemon.backup(&id(A1), &["x"]).await;
    world.plan.add(
        Fault::on(Op::Delete)
            .skip(1)
            .then(Action::Fail(s3_client::ErrorKind::Unauthorized)),
    );
    assert!(daemon.snapshots.delete(&id(A1)).await.is_err());
    // In the list, and gone when it is its turn.
    let temporary = world.cache("a").join(".holdfast/tmp/ended");
    std::fs::create_dir_all(&temporary).unwrap();
    files.add(FileFault {
        op: FileOp::Unlink,
        path: "tmp/ended".to_owned(),
        times: 1,
        errno: nix::errno::Errno::ENOENT as i32,
    });
    let stats = daemon.snapshots.remove_unsealed().await.unwrap();
    assert_eq!(stats.removed, 1);
}

#[tokio::test(start_paused = true)]
async fn what_was_sealed_since_it_was_listed_is_not_locked_by_the_removal_of_what_is_unsealed() {
    let world = World::new();
    let daemon = world.start("a", false).await;
    let id = id("vm/100/2030-01-01T00:00:00Z");
    let writer = daemon.write(&id, &["x"]).await;
    let listed = daemon.snapshots.folders(&id.group()).await.unwrap();
    assert_eq!(listed.len(), 1);
    writer
        .finish(crate::ChunkUploadStats::default())
        .await
        .unwrap();
    drop(writer);
    // A removal that took the lock of the snapshot would find it in use.
    let _read = daemon.snapshots.hold(&id).unwrap();
    let stats = daemon.snapshots.remove_unsealed_in(listed).await.unwrap();
    assert_eq!((stats.removed, stats.sealed, stats.left), (0, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn what_was_there_is_frozen_though_the_clock_was_set_back() {
    let world = World::new();
    let daemon = world.start("a", false).await;
    let (newest, next) = (
        id("vm/100/2030-01-01T00:00:00Z"),
        id("vm/100/2030-01-02T00:00:00Z"),
    );
    daemon.backup(&newest, &["x"]).await;
    drop(daemon);
    // It is later than this start, by the clock.
    let daemon = world.start("a", false).await;
    let refused = daemon.snapshots.delete(&newest).await;
    assert!(matches!(refused, Err(Error::Busy(_))), "{refused:?}");
    daemon.backup(&next, &["x"]).await;
    daemon.snapshots.delete(&next).await.unwrap();
    world.env.sleep(T).await;
    daemon.snapshots.delete(&newest).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn old_ids_are_frozen_after_an_unclean_stop_and_new_ones_are_not() {
    let world = World::new();
    let daemon = world.start("a", false).await;
    daemon.backup(&id(A1), &["x"]).await;
    drop(daemon);
    let daemon = world.start("a", false).await;
    assert!(matches!(
        daemon.snapshots.delete(&id(A1)).await,
        Err(Error::Busy(_))
    ));
    assert!(matches!(daemon.begin(&id(A2)).await, Err(Error::Busy(_))));
    let new = id("vm/100/2030-01-01T00:00:00Z");
    daemon.backup(&new, &["x"]).await;
    world.env.sleep(T).await;
    daemon.snapshots.delete(&id(A1)).await.unwrap();
    daemon.owner.stop_clean().await.unwrap();
    drop(daemon);
    let daemon = world.start("a", false).await;
    assert!(daemon.report.clean);
    daemon.snapshots.delete(&new).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_lost_removal_keeps_the_snapshot_and_its_lock() {
    let world = World::new();
    let daemon = world.start("a", false).await;
    daemon.backup(&id(A1), &["x"]).await;
    world
        .plan
        .add(Fault::on(Op::Delete).then(Action::Lose(Effect::Late)));
    let error = daemon.snapshots.delete(&id(A1)).await.unwrap_err();
    assert!(matches!(error, Error::OutcomeUnknown { .. }));
    assert_eq!(daemon.listed().await, [A1], "it may be there still");
    assert!(matches!(
        daemon.snapshots.hold(&id(A1)),
        Err(Error::Busy(_))
    ));
    world.plan.deliver_late().await;
    world.env.sleep(T + Duration::from_secs(1)).await;
    assert!(daemon.snapshots.hold(&id(A1)).is_ok());
    daemon.snapshots.contents().refresh().await.unwrap();
    assert!(daemon.listed().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn two_changes_of_notes_at_once_both_have_their_turn() {
    let world = World::new();
    let daemon = world.start("a", false).await;
    daemon.backup(&id(A1), &["x"]).await;
    let gate = world
        .plan
        .stop_before(Fault::on(Op::Put).containing("index.json.blob"));
    let change = |notes: &'static str| {
        let snapshots = Arc::clone(&daemon.snapshots);
        world
            .env
            .spawn(async move { snapshots.set_notes(&id(A1), notes).await })
    };
    let first = change("first");
    gate.reached().await;
    let second = change("second");
    gate.release();
    first.await.unwrap().unwrap();
    second.await.unwrap().unwrap();
    assert_eq!(daemon.snapshots.notes(&id(A1)).await.unwrap(), "second");
}

#[tokio::test(start_paused = true)]
async fn a_manifest_that_somebody_else_changed_is_read_again() {
    let world = World::new();
    let daemon = world.start("a", false).await;
    daemon.backup(&id(A1), &["x"]).await;
    // Another tool writes the manifest behind our back, verified and with other notes.
    let mut manifest = (*daemon.snapshots.sealed(&id(A1)).await.unwrap()).clone();
    manifest.set_verify_state(Some(&failed()));
    let body = manifest.to_blob().unwrap().encoded();
    let key = World::key(&id(A1).manifest());
    world.model.insert_raw(key, body, Metadata::new(), None);
    daemon.snapshots.set_notes(&id(A1), "ours").await.unwrap();
    let object = world.model.object(&World::key(&id(A1).manifest())).unwrap();
    let blob = DataBlob::parse(object.body.into_bytes()).unwrap();
    let manifest = Manifest::parse(&blob).unwrap();
    assert_eq!(manifest.notes(), "ours");
    assert_eq!(manifest.verify_state(), Some(failed()));
    // A change after somebody else removed it does not bring it back.
    world.model.remove_raw(&World::key(&id(A1).manifest()));
    let error = daemon
        .snapshots
        .set_notes(&id(A1), "again")
        .await
        .unwrap_err();
    assert!(matches!(error, Error::NotFound(_)), "{error}");
    assert!(!world.has(&id(A1).manifest()));
}

#[tokio::test(start_paused = true)]
async fn without_conditions_a_lost_change_blocks_the_next_until_it_cannot_arrive() {
    let world = World::with(ModelOptions {
        conditional_overwrite: Support::Ignored,
        ..ModelOptions::default()
    });
    let daemon = world.start("a", false).await;
    daemon.backup(&id(A1), &["x"]).await;
    let put = Fault::on(Op::Put).containing("index.json.blob");
    world.plan.add(put.then(Action::Lose(Effect::Late)));
    assert!(daemon.snapshots.set_notes(&id(A1), "lost").await.is_err());
    let error = daemon
        .snapshots
        .set_notes(&id(A1), "next")
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Busy(_)));
    world.plan.deliver_late().await;
    world.env.sleep(T + Duration::from_secs(1)).await;
    daemon.snapshots.contents().refresh().await.unwrap();
    daemon.snapshots.set_notes(&id(A1), "next").await.unwrap();
    assert_eq!(daemon.snapshots.notes(&id(A1)).await.unwrap(), "next");
}

#[tokio::test(start_paused = true)]
async fn a_damaged_newest_snapshot_is_no_base() {
    let world = World::new();
    let daemon = world.start("a", false).await;
    daemon.backup(&id(A1), &["x"]).await;
    assert_eq!(
        daemon
            .snapshots
            .last_backup(&group("vm/100"))
            .await
            .unwrap(),
        Some(id(A1))
    );
    daemon
        .snapshots
        .set_verify_state(&id(A1), Some(&failed()))
        .await
        .unwrap();
    assert_eq!(
        daemon
            .snapshots
            .last_backup(&group("vm/100"))
            .await
            .unwrap(),
        None
    );
    let writer = daemon
        .begin(&id("vm/100/2023-11-01T00:00:00Z"))
        .await
        .unwrap();
    assert_eq!(writer.base(), None, "and an older time is admitted");
}

#[tokio::test(start_paused = true)]
async fn admission_refuses_other_owners_older_times_and_second_writers() {
    let world = World::new();
    let daemon = world.start("a", false).await;
    daemon.backup(&id(A2), &["x"]).await;
    assert!(matches!(
        daemon.begin(&id(A1)).await,
        Err(Error::Invalid(_))
    ));
    assert!(matches!(
        daemon.begin(&id(A2)).await,
        Err(Error::Invalid(_))
    ));
    let other: AuthId = "other@pbs".parse().unwrap();
    let later = id("vm/100/2023-11-16T22:13:20Z");
    let refused = daemon
        .snapshots
        .begin(&later, &other, true, daemon.session())
        .await;
    assert!(matches!(refused, Err(Error::Refused(_))));
    let _writer = daemon.begin(&later).await.unwrap();
    let even_later = id("vm/100/2023-11-17T22:13:20Z");
    assert!(matches!(
        daemon.begin(&even_later).await,
        Err(Error::Busy(_))
    ));
    assert!(daemon.begin(&id(B1)).await.is_ok(), "another group");
    let nowhere = id("ns/no/vm/1/2023-11-17T22:13:20Z");
    assert!(matches!(
        daemon.begin(&nowhere).await,
        Err(Error::NotFound(_))
    ));
}

#[tokio::test(start_paused = true)]
async fn a_deleted_cache_directory_is_made_again_from_the_bucket() {
    let world = World::new();
    let daemon = world.start("a", false).await;
    daemon
        .snapshots
        .create_namespace(&Namespace::root(), "n")
        .await
        .unwrap();
    daemon.backup(&id(A1), &["x"]).await;
    daemon
        .backup(&id("ns/n/host/h/2023-11-14T22:13:20Z"), &["y"])
        .await;
    daemon.owner.stop_clean().await.unwrap();
    drop(daemon);
    let daemon = world.start("b", true).await;
    assert!(!daemon.report.markers_trusted && daemon.report.not_before.is_none());
    assert_eq!(daemon.listed().await, [A1]);
    let inner = daemon
        .snapshots
        .list(&"n".parse().unwrap(), &SnapshotFilter::default())
        .await
        .unwrap();
    assert_eq!((inner.len(), inner[0].files[0].size), (1, Some(10)));
    let index = daemon
        .snapshots
        .file(&id(A1), &name("a.didx"))
        .await
        .unwrap();
    let object = world
        .model
        .object(&World::key(&id(A1).file(&name("a.didx"))))
        .unwrap();
    assert_eq!(index, object.body.into_bytes());
}

#[tokio::test(start_paused = true)]
async fn namespaces_go_when_they_are_empty_or_with_their_groups() {
    for bucket in [true, false] {
        let world = World::new();
        let daemon = if bucket {
            world.start("a", false).await
        } else {
            world.start_directory(SyncLevel::None).await
        };
        let snapshots = &daemon.snapshots;
        let root = Namespace::root();
        let n = snapshots.create_namespace(&root, "n").await.unwrap();
        snapshots.create_namespace(&n, "m").await.unwrap();
        snapshots.create_namespace(&root, "nn").await.unwrap();
        let all = snapshots.namespaces(&root, 7).await.unwrap();
        let texts = all.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(texts, ["", "n", "n/m", "nn"]);
        assert_eq!(snapshots.namespaces(&root, 0).await.unwrap().len(), 1);
        let inner = id("ns/n/ns/m/vm/1/2023-11-14T22:13:20Z");
        daemon.backup(&inner, &["x"]).await;
        snapshots.set_protected(&inner, true).await.unwrap();
        let keep = DeleteOptions {
            error_on_protected: false,
        };
        let stats = snapshots.delete_namespace(&n, false, keep).await.unwrap();
        assert_eq!((stats.removed_namespaces, stats.left_namespaces), (0, 2));
        let stats = snapshots.delete_namespace(&n, true, keep).await.unwrap();
        assert_eq!((stats.protected_snapshots, stats.complete()), (1, false));
        snapshots.set_protected(&inner, false).await.unwrap();
        let stats = snapshots.delete_namespace(&n, true, keep).await.unwrap();
        assert_eq!((stats.removed_namespaces, stats.removed_snapshots), (2, 1));
        assert!(!snapshots.has_namespace(&n).await.unwrap());
        assert!(
            snapshots
                .has_namespace(&"nn".parse().unwrap())
                .await
                .unwrap()
        );
        if bucket {
            assert_eq!(world.objects(), ["ns/nn/.namespace"]);
        }
        let again = snapshots.delete_namespace(&n, true, keep).await.unwrap();
        assert_eq!(again, DeleteStats::default());
    }
}

#[tokio::test(start_paused = true)]
async fn notes_owner_and_log_of_a_group_and_snapshot() {
    let world = World::new();
    let daemon = world.start("a", false).await;
    let snapshots = &daemon.snapshots;
    daemon.backup(&id(A1), &["x"]).await;
    let group = group("vm/100");
    snapshots
        .set_group_notes(&group, "first\nsecond")
        .await
        .unwrap();
    assert_eq!(
        snapshots.group_notes(&group).await.unwrap(),
        "first\nsecond"
    );
    let other: AuthId = "other@pbs!token".parse().unwrap();
    let lock = snapshots.lock_group(&group).await.unwrap();
    snapshots.set_owner(&lock, &other).await.unwrap();
    drop(lock);
    assert_eq!(snapshots.owner(&group).await.unwrap(), Some(other));
    let log = DataBlob::encode_plain(Bytes::from_static(b"log"))
        .unwrap()
        .encoded();
    assert!(
        snapshots
            .add_client_log(&id(A1), "rubbish".into())
            .await
            .is_err()
    );
    snapshots
        .add_client_log(&id(A1), log.clone())
        .await
        .unwrap();
    assert!(matches!(
        snapshots.add_client_log(&id(A1), log).await,
        Err(Error::Exists(_))
    ));
    let info = snapshots.snapshot(&id(A1)).await.unwrap();
    let last = info.files.last().unwrap();
    assert_eq!((last.name.as_str(), last.size), ("client.log.blob", None));
}

#[tokio::test(start_paused = true)]
async fn a_thousand_snapshots_are_listed_without_a_request() {
    let world = World::new();
    let daemon = world.start("a", false).await;
    daemon.backup(&id(A1), &["x"]).await;
    let source = world.cache("a").join(".cnt").join(A1);
    for i in 0..1000 {
        let time = crate::BackupTime::new(1_500_000_000 + i).unwrap();
        let snapshot = group("vm/100").at(time);
        let dir = world.cache("a").join(".cnt").join(snapshot.to_string());
        std::fs::create_dir_all(&dir).unwrap();
        copy_manifest(&source, &dir, &snapshot);
    }
    world.model.reset_counts();
    assert_eq!(daemon.listed().await.len(), 1001);
    assert!(world.model.counts().is_empty());
}

fn copy_manifest(from: &Path, to: &Path, id: &SnapshotRef) {
    let bytes = Bytes::from(std::fs::read(from.join("index.json.blob")).unwrap());
    let manifest = Manifest::parse(&DataBlob::parse(bytes).unwrap()).unwrap();
    let manifest = Manifest::new(id.snapshot.clone(), manifest.files().to_vec()).unwrap();
    std::fs::write(
        to.join("index.json.blob"),
        manifest.to_blob().unwrap().encoded(),
    )
    .unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_damaged_local_copy_is_fetched_again() {
    let world = World::new();
    let daemon = world.start("a", false).await;
    daemon.backup(&id(A1), &["x"]).await;
    let info = daemon.snapshots.snapshot(&id(A1)).await.unwrap();
    let index = name(&info.files[0].name);
    let whole = daemon.snapshots.file(&id(A1), &index).await.unwrap();
    let contents = daemon.snapshots.contents();
    for place in [id(A1).file(&index), id(A1).manifest()] {
        // As after a power loss: of the right length, and nothing in it.
        let path = contents.path(&place);
        let len = std::fs::metadata(&path).unwrap().len();
        std::fs::write(&path, vec![0; len as usize]).unwrap();
    }
    assert!(daemon.snapshots.state(&id(A1)).await.unwrap().is_root());
    assert_eq!(daemon.snapshots.file(&id(A1), &index).await.unwrap(), whole);
}
