//! Chunks that the S3 server copies from one bucket to another (decision 0018).

use s3_client::{Body, Effect, ErrorKind, FaultId, ObjectKey};

use super::*;
use crate::BlobKind;

/// A source whose snapshots are plain and encrypted, and an empty target beside it.
async fn filled_neighbours() -> (Side, Line, Side) {
    let (source, target) = Side::neighbours().await;
    source.backup(A1, "a.didx", &["one", "two", "one"]).await;
    source.backup(A2, "a.didx", &["one", "three"]).await;
    let key = CryptKey::new([7; 32]);
    let chunks = ["five", "six"];
    source.backup_with(B1, "a.didx", &chunks, Some(&key)).await;
    let line = source.source();
    (source, line, target)
}

/// Chunks of it.
const CHUNKS: u64 = 5;

fn key(text: &str) -> ObjectKey {
    let layout = BucketLayout::new(&"store".parse().unwrap());
    layout.key(&Place::Chunk(Digest::of(text.as_bytes())))
}

/// Counts requests for chunks.
fn counted(side: &Side, op: Op) -> FaultId {
    let all = Fault::on(op).containing(".chunks").always();
    side.plan.add(all.then(Action::Delay(Duration::ZERO)))
}

/// Changes a bit of a chunk in the bucket, behind everybody's back.
fn rot(side: &Side, text: &str) {
    let object = side.model.object(&key(text)).unwrap();
    let mut body = object.body.into_bytes().to_vec();
    *body.last_mut().unwrap() ^= 1;
    assert!(side.model.corrupt_raw(&key(text), body));
}

#[tokio::test(start_paused = true)]
async fn no_chunk_passes_through_the_daemon() {
    let (source, line, target) = filled_neighbours().await;
    let (gets, copies) = (counted(&source, Op::Get), counted(&target, Op::Copy));
    let (puts, looks) = (counted(&target, Op::Put), counted(&target, Op::Get));
    let counts = target.pull(&line, &all()).await.unwrap();
    done(&counts);
    assert_eq!((counts.chunks, counts.by_server), (CHUNKS, CHUNKS));
    assert_eq!(line.chunks(), 0);
    assert_eq!(target.plan.matched(copies), CHUNKS);
    assert_eq!(source.plan.matched(gets), CHUNKS, "only their first bytes");
    assert_eq!(
        (target.plan.matched(puts), target.plan.matched(looks)),
        (0, 0)
    );
    assert_eq!(target.contents().await, source.contents().await);
    assert!(target.is_whole().await);
    // What is there is not copied again, and what is stored was counted.
    let again = target.pull(&line, &all()).await.unwrap();
    assert_eq!((again.chunks, target.plan.matched(copies)), (0, CHUNKS));
    let bytes = |side: &Side| side.datastore.usage().stored;
    assert_eq!(bytes(&target), bytes(&source));
}

#[rstest]
#[case::lost(Action::Lose(Effect::Now), 5)]
#[case::never(Action::Lose(Effect::Never), 0)]
#[case::late(Action::Lose(Effect::Late), 0)]
#[case::unavailable(Action::Fail(ErrorKind::Unavailable), 0)]
#[case::throttled(Action::Fail(ErrorKind::Throttled), 0)]
#[case::applied(Action::FailLate { applied: true }, 5)]
#[case::not_applied(Action::FailLate { applied: false }, 0)]
#[case::conflict(Action::Conflict, 0)]
#[case::duplicated(Action::Duplicate, 5)]
#[case::denied(Action::Fail(ErrorKind::Unauthorized), 0)]
#[case::unknown(Action::Fail(ErrorKind::Unsupported), 0)]
#[tokio::test(start_paused = true)]
async fn whatever_becomes_of_a_copy_the_chunk_comes(
    #[case] action: Action,
    #[case] by_server: u64,
    #[values(1, u64::MAX)] times: u64,
) {
    let (_source, line, target) = filled_neighbours().await;
    let copies = counted(&target, Op::Copy);
    let fault = Fault::on(Op::Copy).times(times).then(action.clone());
    target.plan.add(fault);
    let counts = target.pull(&line, &all()).await.unwrap();
    done(&counts);
    assert_eq!((counts.added, counts.chunks), (3, CHUNKS));
    let refused = matches!(
        action,
        Action::Fail(ErrorKind::Unauthorized | ErrorKind::Unsupported)
    );
    match times {
        1 if refused => assert!(counts.by_server < CHUNKS, "{counts:?}"),
        1 => assert_eq!(counts.by_server, CHUNKS, "tried again"),
        _ => assert_eq!(counts.by_server, by_server, "{counts:?}"),
    }
    // A refusal is asked for once, by those that were on their way.
    assert!(!refused || target.plan.matched(copies) <= 3);
    assert!(target.is_whole().await);
    target.plan.deliver_late().await;
    assert!(target.is_whole().await);
}

#[tokio::test(start_paused = true)]
async fn a_late_copy_of_a_damaged_chunk_replaces_nothing() {
    let (source, line, target) = filled_neighbours().await;
    rot(&source, "two");
    let late = Fault::on(Op::Copy).key(key("two").as_str()).always();
    target.plan.add(late.then(Action::Lose(Effect::Late)));
    let counts = target.pull(&line, &all()).await.unwrap();
    assert_eq!(counts.failures.len(), 1, "{counts:?}");
    let digest = Digest::of(b"two").to_string();
    assert!(counts.failures[0].contains(&digest), "{counts:?}");
    // A client brings the true chunk before the copies arrive.
    target.backup(A3, "a.didx", &["two"]).await;
    assert!(target.plan.late() > 0);
    target.plan.deliver_late().await;
    assert!(target.is_whole().await);
}

#[tokio::test(start_paused = true)]
async fn what_is_found_damaged_while_it_is_copied_is_not_believed() {
    let (source, line, target) = filled_neighbours().await;
    rot(&source, "two");
    let options = all();
    let copied = Fault::on(Op::Copy).key(key("two").as_str());
    let gate = target.plan.stop_after(copied);
    let finding = async {
        gate.reached().await;
        let digest = Digest::of(b"two");
        assert!(source.datastore.set_aside(digest).await.unwrap());
        gate.release();
    };
    let (counts, ()) = tokio::join!(target.pull(&line, &options), finding);
    let counts = counts.unwrap();
    assert_eq!(counts.failures.len(), 1, "{counts:?}");
    assert!(target.model.object(&key("two")).is_none());
    assert!(target.is_whole().await);
    // Whoever has the chunk brings it.
    target.backup(A3, "a.didx", &["two"]).await;
    assert!(target.is_whole().await);
}

#[tokio::test(start_paused = true)]
async fn what_is_known_to_be_damaged_is_not_spread() {
    let (source, line, target) = filled_neighbours().await;
    rot(&source, "two");
    // It cannot be set aside: these keys may not copy there.
    let denied = Fault::on(Op::Copy).always();
    source
        .plan
        .add(denied.then(Action::Fail(ErrorKind::Unauthorized)));
    let read = source.datastore.reader();
    let read = read.read_stored(&Digest::of(b"two"), None).await;
    assert!(matches!(read, Err(Error::ChunkCorrupt { .. })), "{read:?}");
    let counts = target.pull(&line, &all()).await.unwrap();
    assert_eq!(counts.failures.len(), 1, "{counts:?}");
    assert!(target.model.object(&key("two")).is_none());
    assert!(target.is_whole().await);
}

#[rstest]
#[case::shorter(Some(&b"too short"[..]))]
#[case::empty(Some(&b""[..]))]
#[case::gone(None)]
#[tokio::test(start_paused = true)]
async fn a_source_that_cannot_be_the_chunk_fails_its_snapshot(#[case] body: Option<&'static [u8]>) {
    let (source, line, target) = filled_neighbours().await;
    match body {
        Some(body) => source.model.insert_raw(
            key("two"),
            Body::from(Bytes::from_static(body)),
            s3_client::Metadata::new(),
            None,
        ),
        None => assert!(source.model.remove_raw(&key("two"))),
    }
    let counts = target.pull(&line, &all()).await.unwrap();
    assert_eq!(counts.failures.len(), 1, "{counts:?}");
    assert!(target.model.object(&key("two")).is_none());
    assert_eq!(target.listed().await, [B1]);
    assert!(target.is_whole().await);
}

#[rstest]
#[tokio::test(start_paused = true)]
async fn a_stranger_who_stores_the_same_chunk_is_no_failure(
    #[values("the same", "longer", "damaged", "empty")] theirs: &str,
) {
    let (source, line, target) = filled_neighbours().await;
    let gate = target
        .plan
        .stop_before(Fault::on(Op::Copy).key(key("two").as_str()));
    let options = all();
    let storing = async {
        gate.reached().await;
        let good = source.model.object(&key("two")).unwrap().body.into_bytes();
        let body = match theirs {
            "the same" => good,
            // As one who always compresses stores it.
            "longer" => {
                let packed = zstd::encode_all(&b"two"[..], 1).unwrap();
                let bytes = [&BlobKind::Zstd.magic()[..], &[0; 4], &packed].concat();
                let blob = DataBlob::parse(bytes.into()).unwrap();
                blob.with_computed_crc().encoded()
            }
            "damaged" => good.slice(..good.len() - 1),
            _ => Bytes::new(),
        };
        let none = s3_client::Metadata::new();
        target.model.insert_raw(key("two"), body, none, None);
        gate.release();
    };
    let (counts, ()) = tokio::join!(target.pull(&line, &options), storing);
    done(&counts.unwrap());
    assert_eq!(target.listed().await.len(), 3);
    assert!(target.is_whole().await, "{theirs}");
}

#[rstest]
#[tokio::test(start_paused = true)]
async fn collections_at_both_ends_take_nothing(#[values(true, false)] copied: bool) {
    let (source, line, target) = filled_neighbours().await;
    for side in [&source, &target] {
        side.env.sleep(Duration::from_hours(48)).await;
    }
    let at = Fault::on(Op::Copy).key(key("two").as_str());
    let gate = if copied {
        target.plan.stop_after(at)
    } else {
        target.plan.stop_before(at)
    };
    let options = all();
    let collecting = async {
        gate.reached().await;
        for side in [&source, &target] {
            let (options, job) = (GcOptions { dry_run: false }, JobContext::detached());
            let status = side.datastore.collect(options, "UPID", &job).await.unwrap();
            assert_eq!(status.removed_chunks, 0, "{status:?}");
        }
        gate.release();
    };
    let (counts, ()) = tokio::join!(target.pull(&line, &options), collecting);
    done(&counts.unwrap());
    assert!(target.is_whole().await && source.is_whole().await);
}

#[tokio::test(start_paused = true)]
async fn the_copies_count_as_unverified_until_they_are_read() {
    let (source, line, target) = filled_neighbours().await;
    let (here, there) = (target.datastore.snapshots(), source.datastore.snapshots());
    let theirs = verified(VerifyOutcome::Ok, "here");
    for text in [A1, A2] {
        there
            .set_verify_state(&id(text), Some(&theirs))
            .await
            .unwrap();
    }
    // What rots unseen is copied as it is.
    rot(&source, "three");
    done(&target.pull(&line, &all()).await.unwrap());
    for _ in 0..2 {
        for text in [A1, A2, B1] {
            let state = here.sealed(&id(text)).await.unwrap().verify_state();
            assert_eq!(state, None, "{text}");
        }
        // The newest is refreshed, with notes and without that.
        there.set_notes(&id(A2), "keep this one").await.unwrap();
        done(&target.pull(&line, &all()).await.unwrap());
    }
    let newest = here.sealed(&id(A2)).await.unwrap();
    assert_eq!(newest.notes(), "keep this one");
    assert!(target.verifies(A1).await && !target.verifies(A2).await);
    let state = |manifest: std::sync::Arc<crate::Manifest>| manifest.verify_state().unwrap().state;
    done(&target.pull(&line, &all()).await.unwrap());
    let newest = here.sealed(&id(A2)).await.unwrap();
    assert_eq!(state(newest), VerifyOutcome::Failed);
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_failed_its_verification_is_read() {
    let (source, line, target) = filled_neighbours().await;
    let failed = verified(VerifyOutcome::Failed, "here");
    let there = source.datastore.snapshots();
    there
        .set_verify_state(&id(A1), Some(&failed))
        .await
        .unwrap();
    let counts = target.pull(&line, &all()).await.unwrap();
    done(&counts);
    assert_eq!((line.chunks(), counts.by_server), (2, 3));
    // So is what mends.
    rot(&target, "one");
    let ours = verified(VerifyOutcome::Failed, "here");
    let here = target.datastore.snapshots();
    here.set_verify_state(&id(A2), Some(&ours)).await.unwrap();
    let counts = target.pull(&line, &mending()).await.unwrap();
    done(&counts);
    assert_eq!((counts.mended, counts.chunks, counts.by_server), (1, 1, 0));
    assert!(target.is_whole().await);
}

#[tokio::test(start_paused = true)]
async fn a_copy_without_a_bucket_that_can_be_copied_from_is_none() {
    let ((_other, line), (source, target)) = (filled(true).await, Side::neighbours().await);
    assert!(target.datastore.copies_from(&source.datastore));
    assert!(!target.datastore.copies_from(&target.datastore));
    let counts = target.pull(&line, &all()).await.unwrap();
    done(&counts);
    assert_eq!((counts.chunks, counts.by_server), (7, 0));
}
