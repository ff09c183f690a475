//! Tests of sync between two datastores of one process.

mod copying;
mod moving;
mod world;

use std::time::Duration;

use bytes::Bytes;
use rstest::rstest;
use s3_client::{Action, Fault, Op};
use tokio::sync::watch;

use super::*;
use crate::layout::{BucketLayout, LocalLayout, Place};
use crate::{
    ArchiveName, CryptKey, DataBlob, Digest, Error, GcOptions, JobContext, Namespace,
    VerifyOutcome, VerifyState,
};
use world::{Line, OWNER, Side, id, name};

const A1: &str = "host/a/2026-11-14T22:13:20Z";
const A2: &str = "host/a/2026-11-15T22:13:20Z";
const A3: &str = "host/a/2026-11-16T22:13:20Z";
const B1: &str = "vm/100/2026-11-14T22:13:20Z";
const DEEP: &str = "ns/x/ns/y/ct/7/2026-11-14T22:13:20Z";

fn all() -> SyncOptions {
    SyncOptions::default()
}

/// Three groups, five snapshots, one of them two namespaces down.
async fn filled(bucket: bool) -> (Side, Line) {
    let side = Side::new(bucket).await;
    side.backup(A1, "a.didx", &["one", "two", "one"]).await;
    side.backup(A2, "a.didx", &["one", "three", "four"]).await;
    side.backup(A3, "a.didx", &["four", "five"]).await;
    side.backup(B1, "a.didx", &["five", "six"]).await;
    side.backup(DEEP, "a.didx", &["seven"]).await;
    let line = side.source();
    (side, line)
}

fn done(counts: &SyncCounts) {
    assert_eq!((&counts.failures, &counts.warnings), (&vec![], &vec![]));
}

#[rstest]
#[tokio::test(start_paused = true)]
async fn everything_is_copied_once(
    #[values(true, false)] from: bool,
    #[values(true, false)] into: bool,
) {
    let ((source, line), target) = (filled(from).await, Side::new(into).await);
    let log = DataBlob::encode_plain(Bytes::from_static(b"log")).unwrap();
    let (snapshots, log) = (source.datastore.snapshots(), log.encoded());
    snapshots.add_client_log(&id(A2), log).await.unwrap();
    let counts = target.pull(&line, &all()).await.unwrap();
    done(&counts);
    assert_eq!((counts.groups, counts.added, counts.chunks), (3, 5, 7));
    assert_eq!(target.contents().await, source.contents().await);
    assert!(target.is_whole().await);
    let owner = target.datastore.snapshots().owner(&id(DEEP).group()).await;
    assert_eq!(owner.unwrap().unwrap().to_string(), OWNER);
    // A second run looks at the newest of each group, and asks for no chunk.
    let before = line.asked();
    let again = target.pull(&line, &all()).await.unwrap();
    assert_eq!((again.added, again.chunks, again.refreshed), (0, 0, 0));
    // Namespaces, groups of three, snapshots of three groups; of each newest one: open, manifest, log.
    assert_eq!(line.asked() - before, 1 + 3 + 3 + 3 * 3);
}

#[tokio::test(start_paused = true)]
async fn namespaces_are_mapped() {
    let ((_source, line), target) = (filled(true).await, Side::new(false).await);
    target
        .namespaces(&["copies/of", "flat", "1/2/3/4/5/6"])
        .await;
    let options = |source: &str, target: &str, depth| SyncOptions {
        source: source.parse().unwrap(),
        target: target.parse().unwrap(),
        depth,
        ..all()
    };
    let counts = target.pull(&line, &options("x", "copies/of", 7)).await;
    done(&counts.unwrap());
    assert_eq!(
        target.listed().await,
        ["ns/copies/ns/of/ns/y/ct/7/2026-11-14T22:13:20Z"]
    );
    let counts = target.pull(&line, &options("", "flat", 0)).await.unwrap();
    assert_eq!((counts.added, target.listed().await.len()), (4, 5));
    let deep = options("", "1/2/3/4/5/6", 7);
    let counts = target.pull(&line, &deep).await.unwrap();
    // x fits below six levels, x/y does not.
    assert_eq!((counts.added, counts.failures.len()), (4, 1), "{counts:?}");
    for (from, into) in [("nowhere", ""), ("", "nowhere")] {
        let nowhere = target.pull(&line, &options(from, into, 7)).await;
        assert!(matches!(nowhere, Err(Error::NotFound(_))), "{nowhere:?}");
    }
}

#[rstest]
#[tokio::test(start_paused = true)]
async fn a_line_that_is_cut_at_any_request_loses_nothing(#[values(true, false)] into: bool) {
    let (source, line) = filled(true).await;
    let whole = {
        let target = Side::new(into).await;
        target.pull(&line, &all()).await.unwrap();
        line.asked()
    };
    let expected = source.contents().await;
    for at in 0..whole {
        let target = Side::new(into).await;
        // For good, so that no attempt of this run gets through.
        line.cut(at, u64::MAX / 2);
        let cut = target.pull(&line, &all()).await;
        let failed = cut
            .as_ref()
            .map_or(true, |counts| !counts.failures.is_empty());
        assert!(failed, "request {at} of {whole}: {cut:?}");
        let there = target.contents().await;
        assert!(there.iter().all(|one| expected.contains(one)), "{at}");
        assert!(target.is_whole().await, "{at}");
        line.cut(0, 0);
        let counts = target.pull(&line, &all()).await.unwrap();
        done(&counts);
        assert_eq!(
            target.contents().await.len(),
            expected.len(),
            "request {at} of {whole}"
        );
        assert!(target.is_whole().await, "{at}");
        // And a line that is cut for a moment is mended within the run.
        let target = Side::new(into).await;
        line.cut(at.max(8), 2);
        let counts = target.pull(&line, &all()).await;
        assert!(target.is_whole().await, "{at}");
        drop(counts);
    }
}

#[tokio::test(start_paused = true)]
async fn a_chunk_that_comes_damaged_is_asked_for_again_and_never_stored() {
    let ((_source, line), target) = (filled(true).await, Side::new(true).await);
    line.garble(1);
    let counts = target.pull(&line, &all()).await.unwrap();
    done(&counts);
    assert_eq!((counts.added, line.chunks()), (5, 8));
    let target = Side::new(true).await;
    line.garble(u64::MAX / 2);
    let counts = target.pull(&line, &all()).await.unwrap();
    assert_eq!((counts.added, counts.failures.len()), (0, 3));
    assert_eq!(target.listed().await, Vec::<String>::new());
    let chunks = target.model.objects();
    let chunks = chunks.keys().filter(|key| key.as_str().contains(".chunks"));
    assert_eq!(chunks.count(), 0);
}

#[rstest]
#[tokio::test(start_paused = true)]
async fn a_forged_chunk_is_not_taken_for_the_one_of_its_name(#[values(true, false)] into: bool) {
    let ((_source, line), target) = (filled(true).await, Side::new(into).await);
    let key = CryptKey::new([7; 32]);
    // An encrypted blob under the digest of a plain chunk.
    let digest = Digest::of(b"three");
    let blob = DataBlob::encode(Bytes::from_static(b"forge"), true, Some(&key), [1; 16]).unwrap();
    let forger = target.datastore.sessions().open("forger");
    let forged = crate::chunk_store::VerifiedChunk::check(blob, digest, 5).unwrap();
    let chunks = target.datastore.chunks();
    let options = crate::chunk_store::InsertOptions::default();
    chunks.insert(&forger, forged, options).await.unwrap();
    let counts = target.pull(&line, &all()).await.unwrap();
    assert_eq!(counts.failures.len(), 1, "{counts:?}");
    assert!(counts.failures[0].contains("forged"), "{counts:?}");
    let listed = target.listed().await;
    assert!(listed.contains(&A1.to_owned()) && !listed.contains(&A2.to_owned()));
    assert!(target.is_whole().await);
}

#[tokio::test(start_paused = true)]
async fn what_a_listing_has_shown_is_looked_at_and_not_fetched() {
    let ((source, line), target) = (filled(true).await, Side::new(true).await);
    target.backup(A1, "a.didx", &["one", "two", "one"]).await;
    let root = target.place();
    for text in ["one", "two"] {
        // As a marker that was made from a listing.
        let place = Place::Chunk(Digest::of(text.as_bytes()));
        let path = root.join(LocalLayout::Cache.path(&place));
        std::fs::write(&path, b"").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&path, mode).unwrap();
    }
    let gets = Fault::on(Op::Get).containing(".chunks").always();
    let gets = target.plan.add(gets.then(Action::Delay(Duration::ZERO)));
    let before = line.chunks();
    let (a2, snapshots) = (id(A2), target.datastore.snapshots());
    target.pull(&line, &all()).await.unwrap();
    // "one" is there; three to seven are not.
    assert_eq!(line.chunks() - before, 5);
    assert_eq!(target.plan.matched(gets), 1);
    assert!(snapshots.state(&a2).await.unwrap().is_root());
    assert!(target.is_whole().await && source.is_whole().await);
}

#[rstest]
#[tokio::test(start_paused = true)]
async fn a_collection_meanwhile_takes_nothing(#[values(true, false)] into: bool) {
    let ((_source, line), target) = (filled(true).await, Side::new(into).await);
    // "one" is there from before and belongs to nothing any more.
    target.backup(A1, "a.didx", &["one"]).await;
    target.datastore.snapshots().delete(&id(A1)).await.unwrap();
    target.env.sleep(Duration::from_hours(48)).await;
    line.hold();
    let options = all();
    let pulling = target.pull(&line, &options);
    let collecting = async {
        line.wait_held().await;
        let (options, job) = (GcOptions { dry_run: false }, JobContext::detached());
        let collected = target.datastore.collect(options, "UPID", &job);
        let status = collected.await.unwrap();
        line.let_go();
        status
    };
    let (counts, status) = tokio::join!(pulling, collecting);
    done(&counts.unwrap());
    assert_eq!(status.removed_chunks, 0, "{status:?}");
    assert_eq!(target.listed().await.len(), 5);
    assert!(target.is_whole().await);
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_it_at_once_and_leaves_nothing_unfinished() {
    let ((_source, line), target) = (filled(true).await, Side::new(true).await);
    line.hold();
    let (stop, stopped) = watch::channel(false);
    let options = all();
    let pulling = target.pull_until(&line, &options, stopped);
    let stopping = async {
        line.wait_held().await;
        stop.send_replace(true);
    };
    let (result, ()) = tokio::join!(pulling, stopping);
    assert!(matches!(result, Err(Error::Stopped)));
    line.let_go();
    target.env.drain(Duration::from_hours(1)).await;
    assert_eq!(target.listed().await, Vec::<String>::new());
    let keys = target.model.objects();
    let left: Vec<_> = keys
        .keys()
        .filter(|k| k.as_str().contains("host/a/2"))
        .collect();
    assert_eq!(left, Vec::<&s3_client::ObjectKey>::new());
    done(&target.pull(&line, &options).await.unwrap());
    assert_eq!(target.listed().await.len(), 5);
}

fn verified(state: VerifyOutcome, who: &str) -> VerifyState {
    VerifyState {
        upid: format!("UPID:{who}:00000001:00000002:00000003:6A000000:verify:s:t@pbs:"),
        state,
    }
}

#[tokio::test(start_paused = true)]
async fn the_newest_is_refreshed_and_keeps_its_own_verification() {
    let ((source, line), target) = (filled(true).await, Side::new(true).await);
    let theirs = verified(VerifyOutcome::Ok, "there");
    let (here, there) = (target.datastore.snapshots(), source.datastore.snapshots());
    there
        .set_verify_state(&id(A2), Some(&theirs))
        .await
        .unwrap();
    target.pull(&line, &all()).await.unwrap();
    let state = here.sealed(&id(A2)).await.unwrap().verify_state();
    assert_eq!(state, Some(theirs.clone()));
    // Verified here, then verified and annotated there; a log comes late.
    let ours = verified(VerifyOutcome::Ok, "here");
    here.set_verify_state(&id(A3), Some(&ours)).await.unwrap();
    there
        .set_verify_state(&id(A3), Some(&theirs))
        .await
        .unwrap();
    there.set_notes(&id(A3), "keep this one").await.unwrap();
    let log = DataBlob::encode_plain(Bytes::from_static(b"log")).unwrap();
    there.add_client_log(&id(A3), log.encoded()).await.unwrap();
    let counts = target.pull(&line, &all()).await.unwrap();
    done(&counts);
    assert_eq!((counts.refreshed, counts.chunks), (1, 0));
    let manifest = here.sealed(&id(A3)).await.unwrap();
    assert_eq!(manifest.verify_state(), Some(ours));
    assert_eq!(manifest.notes(), "keep this one");
    let log = here.file(&id(A3), &ArchiveName::client_log()).await;
    assert!(log.is_ok());
    let again = target.pull(&line, &all()).await.unwrap();
    assert_eq!(again.refreshed, 0);
}

#[tokio::test(start_paused = true)]
async fn another_backup_of_the_same_name_is_left_alone() {
    let ((_source, line), target) = (filled(true).await, Side::new(true).await);
    target.backup(A3, "a.didx", &["something else"]).await;
    let before = target.contents().await;
    let counts = target.pull(&line, &all()).await.unwrap();
    assert_eq!(counts.failures.len(), 1, "{counts:?}");
    assert!(counts.failures[0].contains("another backup"), "{counts:?}");
    assert!(target.contents().await.contains(&before[0]));
}

#[rstest]
#[tokio::test(start_paused = true)]
async fn what_is_damaged_here_is_mended(#[values(true, false)] into: bool) {
    let ((source, line), target) = (filled(true).await, Side::new(into).await);
    target.pull(&line, &all()).await.unwrap();
    // A flipped bit in a chunk of the oldest, the index of the second gone.
    let place = Place::Chunk(Digest::of(b"two"));
    let index = id(A2).file(&name("a.didx"));
    let root = target.place();
    if into {
        let layout = BucketLayout::new(&"store".parse().unwrap());
        let mut bytes = target.model.object(&layout.key(&place)).unwrap();
        let mut body = std::mem::take(&mut bytes.body).into_bytes().to_vec();
        *body.last_mut().unwrap() ^= 1;
        target.model.corrupt_raw(&layout.key(&place), body);
        target.model.remove_raw(&layout.key(&index));
    } else {
        let path = root.join(LocalLayout::Directory.path(&place));
        let mut body = std::fs::read(&path).unwrap();
        *body.last_mut().unwrap() ^= 1;
        std::fs::write(&path, body).unwrap();
        std::fs::remove_file(root.join(LocalLayout::Directory.path(&index))).unwrap();
    }
    assert!(!target.verifies(A1).await && !target.verifies(A2).await);
    target.env.drain(Duration::from_hours(1)).await;
    // Without being asked for it, nothing older than the newest is touched.
    let counts = target.pull(&line, &all()).await.unwrap();
    assert_eq!((counts.mended, counts.chunks), (0, 0));
    let estimate = SyncOptions {
        resync_corrupt: true,
        estimate: true,
        ..all()
    };
    let counts = target.pull(&line, &estimate).await.unwrap();
    assert_eq!((counts.mended, counts.chunks), (2, 0));
    assert!(counts.bytes > 0);
    assert!(!target.verifies(A1).await, "an estimate changes nothing");
    let options = SyncOptions {
        resync_corrupt: true,
        ..all()
    };
    let counts = target.pull(&line, &options).await.unwrap();
    done(&counts);
    assert_eq!((counts.mended, counts.chunks), (2, 1));
    assert_eq!(target.contents().await, source.contents().await);
    assert!(target.is_whole().await);
}

/// Marks a snapshot as failed, and flips a bit of a chunk that nobody has read: its marker still vouches for it.
async fn damage_behind_the_marker(target: &Side, into: bool) {
    let place = Place::Chunk(Digest::of(b"two"));
    if into {
        let key = BucketLayout::new(&"store".parse().unwrap()).key(&place);
        let mut body = target
            .model
            .object(&key)
            .unwrap()
            .body
            .into_bytes()
            .to_vec();
        *body.last_mut().unwrap() ^= 1;
        target.model.corrupt_raw(&key, body);
    } else {
        let root = target.place();
        let path = root.join(LocalLayout::Directory.path(&place));
        let mut body = std::fs::read(&path).unwrap();
        *body.last_mut().unwrap() ^= 1;
        std::fs::write(&path, body).unwrap();
    }
    let failed = verified(VerifyOutcome::Failed, "here");
    let snapshots = target.datastore.snapshots();
    snapshots
        .set_verify_state(&id(A1), Some(&failed))
        .await
        .unwrap();
}

fn mending() -> SyncOptions {
    SyncOptions {
        resync_corrupt: true,
        ..all()
    }
}

#[rstest]
#[tokio::test(start_paused = true)]
async fn what_is_mended_was_read_whatever_its_marker_says(#[values(true, false)] into: bool) {
    let ((_source, line), target) = (filled(true).await, Side::new(into).await);
    target.pull(&line, &all()).await.unwrap();
    damage_behind_the_marker(&target, into).await;
    let counts = target.pull(&line, &mending()).await.unwrap();
    done(&counts);
    assert_eq!((counts.mended, counts.chunks), (1, 1));
    assert!(target.is_whole().await);
}

#[tokio::test(start_paused = true)]
async fn a_stop_cuts_no_write_off_in_the_middle() {
    let ((_source, line), target) = (filled(true).await, Side::new(true).await);
    target.pull(&line, &all()).await.unwrap();
    damage_behind_the_marker(&target, true).await;
    let manifest = Fault::on(Op::Put).containing("14T22:13:20Z/index.json.blob");
    let gate = target.plan.stop_before(manifest);
    let (stop, stopped) = watch::channel(false);
    let options = mending();
    let pulling = target.pull_until(&line, &options, stopped);
    let stopping = async {
        gate.reached().await;
        stop.send_replace(true);
    };
    let (result, ()) = tokio::join!(pulling, stopping);
    assert!(matches!(result, Err(Error::Stopped)));
    // The put is under way, and with it the lock: nobody removes the snapshot under it.
    let snapshots = target.datastore.snapshots();
    assert!(matches!(
        snapshots.delete(&id(A1)).await,
        Err(Error::Busy(_))
    ));
    gate.release();
    target.env.drain(Duration::from_hours(1)).await;
    snapshots.delete(&id(A1)).await.unwrap();
    assert!(target.is_whole().await);
}

#[tokio::test(start_paused = true)]
async fn what_comes_back_while_a_run_lasts_is_not_removed() {
    let ((source, line), target) = (filled(true).await, Side::new(true).await);
    let (first, later) = ("vm/200/2026-11-14T22:13:20Z", "vm/200/2026-11-20T22:13:20Z");
    source.backup(first, "a.didx", &["eight"]).await;
    target.pull(&line, &all()).await.unwrap();
    let there = source.datastore.snapshots();
    for gone in [B1, first] {
        there.delete(&id(gone)).await.unwrap();
    }
    let new = "host/a/2026-11-17T22:13:20Z";
    source.backup(new, "a.didx", &["new"]).await;
    line.hold();
    let options = SyncOptions {
        remove_vanished: true,
        ..all()
    };
    let pulling = target.pull(&line, &options);
    let meanwhile = async {
        line.wait_held().await;
        // One group comes back; another gets a snapshot here.
        source.backup(B1, "a.didx", &["five", "six"]).await;
        target.backup(later, "a.didx", &["later"]).await;
        line.let_go();
    };
    let (counts, ()) = tokio::join!(pulling, meanwhile);
    let counts = counts.unwrap();
    done(&counts);
    assert_eq!((counts.removed_snapshots, counts.removed_groups), (1, 0));
    assert_eq!(target.listed().await, [A1, A2, A3, new, B1, later, DEEP]);
}

#[tokio::test(start_paused = true)]
async fn what_vanished_is_removed_if_asked_for() {
    let ((source, line), target) = (filled(true).await, Side::new(true).await);
    target.pull(&line, &all()).await.unwrap();
    let (here, there) = (target.datastore.snapshots(), source.datastore.snapshots());
    there.delete(&id(A1)).await.unwrap();
    there.delete(&id(A2)).await.unwrap();
    there.delete(&id(B1)).await.unwrap();
    let x: Namespace = "x".parse().unwrap();
    let keep = crate::DeleteOptions {
        error_on_protected: false,
    };
    there.delete_namespace(&x, true, keep).await.unwrap();
    here.set_protected(&id(A2), true).await.unwrap();
    // Somebody else's group stays, whatever the source has.
    let counts = target.pull(&line, &all()).await.unwrap();
    assert_eq!(
        (counts.removed_snapshots, target.listed().await.len()),
        (0, 5)
    );
    let options = SyncOptions {
        remove_vanished: true,
        ..all()
    };
    let counts = target.pull(&line, &options).await.unwrap();
    done(&counts);
    assert_eq!(target.listed().await, [A2, A3]);
    assert_eq!((counts.removed_snapshots, counts.removed_groups), (3, 2));
    assert_eq!((counts.protected, counts.removed_namespaces), (1, 2));
    // An empty source is no reason to empty the target.
    there.delete(&id(A3)).await.unwrap();
    let counts = target.pull(&line, &options).await.unwrap();
    assert_eq!(counts.warnings.len(), 1, "{counts:?}");
    assert_eq!(target.listed().await, [A2, A3]);
}

#[tokio::test(start_paused = true)]
async fn groups_of_others_are_not_written_to() {
    let ((_source, line), target) = (filled(true).await, Side::new(true).await);
    target.backup(A1, "a.didx", &["one", "two", "one"]).await;
    let snapshots = target.datastore.snapshots();
    let group = snapshots.lock_group(&id(A1).group()).await.unwrap();
    let other = "other@pbs".parse().unwrap();
    snapshots.set_owner(&group, &other).await.unwrap();
    drop(group);
    let counts = target.pull(&line, &all()).await.unwrap();
    assert_eq!(counts.failures.len(), 1);
    assert!(counts.failures[0].contains("other@pbs"), "{counts:?}");
    assert_eq!(target.listed().await.len(), 3);
}

#[rstest]
#[tokio::test(start_paused = true)]
async fn a_full_target_takes_no_chunk_and_loses_nothing(#[values(true, false)] into: bool) {
    let ((source, line), target) = (filled(true).await, Side::new(into).await);
    target.datastore.set_quota(Some(1));
    let counts = target.pull(&line, &all()).await.unwrap();
    // What is begun with room ends well.
    assert!(counts.added > 0, "{counts:?}");
    assert!(counts.failures.iter().all(|why| why.contains("is full")));
    assert_eq!(counts.failures.len(), 3, "{counts:?}");
    target.datastore.set_quota(None);
    done(&target.pull(&line, &all()).await.unwrap());
    assert_eq!(target.listed().await, source.listed().await);
    // What needs no chunk needs no room.
    target.datastore.set_quota(Some(1));
    target.datastore.snapshots().delete(&id(A3)).await.unwrap();
    done(&target.pull(&line, &all()).await.unwrap());
    assert_eq!(target.listed().await, source.listed().await);
    assert!(target.is_whole().await);
}
