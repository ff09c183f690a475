//! Tests of fills.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use s3_client::{Action, Body, Effect, ErrorKind, Fault, Metadata, Op};

use super::*;
use crate::CryptKey;
use crate::cache::fixture::{Bounds, Fixture, at, chunk, key, until};
use crate::chunk_store::guard::Condemnation;
use crate::files::FileOp;

const LEN: usize = 1000;

async fn fixture() -> Fixture {
    Fixture::new(Bounds::default()).await
}

fn get() -> Fault {
    Fault::on(Op::Get)
}

/// Collects what the hook is told.
fn damages(fixture: &Fixture) -> Arc<Mutex<Vec<(Digest, Damage)>>> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&seen);
    fixture.fills.on_damage(Box::new(move |digest, damage| {
        told.lock().unwrap().push((digest, damage.clone()));
    }));
    seen
}

async fn read(fixture: &Fixture, digest: &Digest) -> Result<Arc<Chunk>> {
    fixture.reader.read(digest, None).await
}

fn poll_once<T>(future: std::pin::Pin<&mut impl Future<Output = T>>) -> Poll<T> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

#[tokio::test(start_paused = true)]
async fn many_readers_cost_one_get() {
    let fixture = Arc::new(fixture().await);
    let digest = fixture.stored(1, LEN).await;
    let gate = fixture.plan.stop_before(get());
    let readers = (0..64).map(|_| {
        let inner = Arc::clone(&fixture);
        fixture
            .env
            .spawn(async move { inner.fills.start(digest, None, None).wait().await })
    });
    let readers: Vec<_> = readers.collect();
    gate.reached().await;
    gate.release();
    for reader in readers {
        let chunk = reader.await.unwrap().unwrap();
        chunk.verify_chunk(&digest, Some(LEN as u64)).unwrap();
    }
    assert_eq!(fixture.gets(), 1);
    assert_eq!(fixture.counts().fills_joined, 63);
    until(|| fixture.cache.contains(&digest)).await;
    read(&fixture, &digest).await.unwrap();
    assert_eq!((fixture.gets(), fixture.counts().hits), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn who_joins_a_fill_that_missed_the_chunk_asks_himself() {
    let fixture = Arc::new(fixture().await);
    let (digest, blob) = chunk(1, LEN);
    let gate = fixture.plan.stop_after(get());
    let reader = || {
        let inner = Arc::clone(&fixture);
        fixture
            .env
            .spawn(async move { read(&inner, &digest).await })
    };
    let early = reader();
    gate.reached().await;
    // The server has said that there is none; before that answer is here, one is uploaded, and somebody else asks.
    fixture.in_bucket(&digest, &blob);
    let late = reader();
    until(|| fixture.counts().fills_joined == 1).await;
    gate.release();
    assert!(matches!(
        early.await.unwrap(),
        Err(Error::ChunkMissing { .. })
    ));
    late.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_fill_keeps_the_times_of_the_marker_and_makes_one_from_the_time_it_asked() {
    let fixture = fixture().await;
    let marked = fixture.stored(1, LEN).await;
    let (unmarked, blob) = chunk(2, LEN);
    fixture.in_bucket(&unmarked, &blob);
    let asked = fixture.env.now();
    let gate = fixture.plan.stop_after(get().key(key(&unmarked).as_str()));
    let mut reading = pin!(read(&fixture, &unmarked));
    assert!(poll_once(reading.as_mut()).is_pending());
    gate.reached().await;
    tokio::time::advance(std::time::Duration::from_secs(5)).await;
    gate.release();
    reading.await.unwrap();
    read(&fixture, &marked).await.unwrap();
    until(|| fixture.cache.chunks() == 2).await;
    let marker = fixture.marker(&marked).unwrap();
    assert_eq!((marker.used, marker.born), (at(-100), at(-200)));
    let marker = fixture.marker(&unmarked).unwrap();
    assert_eq!((marker.used, marker.born), (asked, asked));
    assert_eq!(marker.size, blob.encoded_len() as u64);
}

#[tokio::test(start_paused = true)]
async fn a_spoiled_fill_is_not_inserted() {
    for released in [false, true] {
        let fixture = fixture().await;
        let digest = fixture.stored(1, LEN).await;
        let gate = fixture.plan.stop_after(get());
        let mut reading = pin!(read(&fixture, &digest));
        assert!(poll_once(reading.as_mut()).is_pending());
        gate.reached().await;
        let mut condemnation = Condemnation::default();
        condemnation.add(fixture.table.try_guard(digest).unwrap());
        let files = crate::files::OsFiles;
        fixture.markers.remove_condemned(&files, &digest).unwrap();
        fixture.model.remove_raw(&key(&digest));
        if released {
            condemnation.release();
        }
        gate.release();
        reading.await.unwrap();
        fixture.quiet().await;
        assert_eq!(fixture.marker(&digest), None, "it vouches for nothing");
        assert_eq!(fixture.counts().fills_spoiled, 1);
        assert_eq!(fixture.cache.bytes_used(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_condemned_while_a_fill_of_it_is_written() {
    let fixture = fixture().await;
    let digest = fixture.stored(1, LEN).await;
    let (table, markers, model) = (
        Arc::clone(&fixture.table),
        fixture.markers.clone(),
        Arc::clone(&fixture.model),
    );
    let met = Arc::new(AtomicBool::new(false));
    let writing = Arc::clone(&met);
    // As a batch does, between two calls of the fill to the file system.
    fixture.watched.set_hook(Some(Box::new(move |seen, _| {
        if seen != FileOp::Write || writing.swap(true, Ordering::AcqRel) {
            return;
        }
        let Some(guard) = table.try_guard(digest) else {
            return;
        };
        let mut condemnation = Condemnation::default();
        condemnation.add(guard);
        let files = crate::files::OsFiles;
        markers.remove_condemned(&files, &digest).unwrap();
        model.remove_raw(&key(&digest));
        condemnation.release();
    })));
    read(&fixture, &digest).await.unwrap();
    fixture.quiet().await;
    assert!(met.load(Ordering::Acquire), "no fill was written");
    assert!(
        fixture.marker(&digest).is_none() || fixture.model.object(&key(&digest)).is_some(),
        "a fill has brought the marker of a deleted chunk back"
    );
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_goes_away_takes_nobody_along() {
    let fixture = fixture().await;
    let digest = fixture.stored(1, LEN).await;
    let gate = fixture.plan.stop_before(get());
    let mut stays = pin!(read(&fixture, &digest));
    {
        let mut leaves = pin!(read(&fixture, &digest));
        assert!(poll_once(leaves.as_mut()).is_pending());
        assert!(poll_once(stays.as_mut()).is_pending());
        gate.reached().await;
    }
    gate.release();
    stays.await.unwrap();
    assert_eq!(fixture.gets(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_missing_is_told_and_asked_for_anew() {
    let fixture = fixture().await;
    let told = damages(&fixture);
    let (digest, blob) = chunk(1, LEN);
    let missing = read(&fixture, &digest).await;
    assert!(matches!(missing, Err(Error::ChunkMissing { .. })));
    assert_eq!(*told.lock().unwrap(), [(digest, Damage::Missing)]);
    fixture.in_bucket(&digest, &blob);
    read(&fixture, &digest).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_failing_way_is_no_corruption() {
    let fixture = fixture().await;
    let told = damages(&fixture);
    let digest = fixture.stored(1, LEN).await;
    for action in [
        Action::Fail(ErrorKind::Unavailable),
        Action::Fail(ErrorKind::Throttled),
        Action::Fail(ErrorKind::Unauthorized),
        Action::Fail(ErrorKind::Other),
        Action::Lose(Effect::Never),
        Action::Truncate(20),
        Action::Truncate(0),
    ] {
        fixture.plan.add(get().then(action.clone()));
        let failed = read(&fixture, &digest).await;
        assert!(matches!(failed, Err(Error::Store(_))), "{action:?}");
    }
    assert!(told.lock().unwrap().is_empty());
    read(&fixture, &digest).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_garbled_answer_is_read_again() {
    let fixture = fixture().await;
    let told = damages(&fixture);
    let digest = fixture.stored(1, LEN).await;
    fixture.plan.add(get().then(Action::Garble));
    read(&fixture, &digest).await.unwrap();
    assert_eq!((fixture.gets(), fixture.counts().corrupt_once), (2, 1));
    assert!(told.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_bad_line_is_no_damage() {
    let fixture = fixture().await;
    let told = damages(&fixture);
    let digest = fixture.stored(1, LEN).await;
    fixture.plan.add(get().times(3).then(Action::Garble));
    read(&fixture, &digest).await.unwrap();
    let digest = fixture.stored(2, LEN).await;
    fixture.plan.add(get().times(4).then(Action::Garble));
    let failed = read(&fixture, &digest).await;
    assert!(
        matches!(&failed, Err(Error::Store(error)) if error.kind == ErrorKind::Corrupt),
        "{failed:?}"
    );
    read(&fixture, &digest).await.unwrap();
    assert!(told.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_way_that_fails_at_the_second_look_leaves_the_question_open() {
    let fixture = fixture().await;
    let told = damages(&fixture);
    let digest = fixture.stored(1, LEN).await;
    fixture.plan.add(get().then(Action::Garble));
    let unavailable = Action::Fail(ErrorKind::Unavailable);
    fixture.plan.add(get().then(unavailable));
    assert!(matches!(
        read(&fixture, &digest).await,
        Err(Error::Store(_))
    ));
    assert!(told.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_corrupt_object_is_confirmed_told_and_not_served() {
    let (_, other) = chunk(2, LEN);
    let mut flipped = chunk(1, LEN).1.encoded().to_vec();
    flipped[100] ^= 1;
    let wrong: [Body; 4] = [
        Body::empty(),
        Body::from(vec![0; CHUNK_ENCODED_BYTES_MAX + 10]),
        Body::from(flipped),
        other.to_body(),
    ];
    for (n, body) in wrong.into_iter().enumerate() {
        let fixture = fixture().await;
        let told = damages(&fixture);
        let digest = fixture.stored(1, LEN).await;
        fixture
            .model
            .insert_raw(key(&digest), body, Metadata::new(), None);
        let corrupt = read(&fixture, &digest).await;
        assert!(matches!(corrupt, Err(Error::ChunkCorrupt { .. })), "{n}");
        let told = told.lock().unwrap().clone();
        assert!(matches!(&told[..], [(d, Damage::Corrupt(_))] if *d == digest));
        fixture.quiet().await;
        assert_eq!(fixture.marker(&digest).unwrap().size, 0, "{n}");
        assert_eq!(fixture.budget.bytes_free(), fixture.budget.bytes_max());
    }
}

fn encrypted(n: u8) -> (Digest, DataBlob) {
    let data = Bytes::from(vec![n; LEN]);
    let key = CryptKey::new([7; 32]);
    let blob = DataBlob::encode(data.clone(), false, Some(&key), [n; 16]).unwrap();
    (Digest::of(&[b"key", &data[..]].concat()), blob)
}

#[tokio::test(start_paused = true)]
async fn tags_that_are_md5s_show_what_was_damaged_on_its_way() {
    let fixture = fixture().await;
    let (first, blob) = encrypted(1);
    fixture.in_bucket(&first, &blob);
    let (second, blob) = encrypted(2);
    fixture.in_bucket(&second, &blob);
    read(&fixture, &first).await.unwrap();
    // A bit of the initialization vector, which the sum does not cover, is wrong in one answer.
    let mut flipped = blob.encoded().to_vec();
    flipped[15] ^= 1;
    let etag = fixture.model.object(&key(&second)).unwrap().meta.etag;
    let verify = |body: Bytes, last| {
        let etag = etag.clone();
        fixture.fills.0.verify(
            &second,
            StoredObject {
                size: body.len() as u64,
                body,
                etag,
            },
            last,
        )
    };
    let wrong = verify(flipped.into(), None).expect_err("its tag differs");
    assert!(verify(blob.encoded(), Some(wrong.sum)).is_ok());
    assert!(fixture.fills.0.tags.are_md5());
}

#[tokio::test(start_paused = true)]
async fn a_tag_alone_makes_no_chunk_corrupt() {
    let fixture = fixture().await;
    let (first, blob) = encrypted(1);
    fixture.in_bucket(&first, &blob);
    read(&fixture, &first).await.unwrap();
    // Tags that look like MD5s and are none, as of a bucket whose encryption was changed.
    for n in 2..5 {
        let (digest, blob) = encrypted(n);
        fixture.in_bucket(&digest, &encrypted(n + 10).1);
        fixture.model.corrupt_raw(&key(&digest), blob.encoded());
        read(&fixture, &digest).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn tags_that_are_something_else_condemn_nothing() {
    let fixture = fixture().await;
    // Good content under a tag that is not its MD5.
    let (plain, blob) = chunk(1, LEN);
    fixture.in_bucket(&plain, &blob);
    let data = blob.decode(LEN, None).unwrap();
    let same = DataBlob::encode(data, true, None, [0; 16]).unwrap();
    fixture.model.corrupt_raw(&key(&plain), same.encoded());
    read(&fixture, &plain).await.unwrap();
    let (digest, blob) = encrypted(2);
    fixture.in_bucket(&digest, &encrypted(3).1);
    fixture.model.corrupt_raw(&key(&digest), blob.encoded());
    read(&fixture, &digest).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn nothing_is_cached_before_it_may_be() {
    let fixture = fixture().await;
    let digest = fixture.stored(1, LEN).await;
    fixture.fills.set_inserting(false);
    read(&fixture, &digest).await.unwrap();
    fixture.quiet().await;
    assert!(!fixture.cache.contains(&digest));
    fixture.fills.set_inserting(true);
    read(&fixture, &digest).await.unwrap();
    until(|| fixture.cache.contains(&digest)).await;
}

#[tokio::test(start_paused = true)]
async fn a_cache_that_does_not_keep_up_keeps_nobody() {
    let fixture = fixture().await;
    let count = INSERTS_QUEUED_MAX as u32 + 5;
    let mut guards = Vec::new();
    for n in 0..count {
        let digest = fixture.stored(n, LEN).await;
        guards.push(fixture.table.guard(digest).await);
        read(&fixture, &digest).await.unwrap();
    }
    until(|| fixture.counts().fills_dropped == 5).await;
    // Who holds a guard for long is not waited for.
    tokio::time::sleep(GUARD_WAIT_MAX * count).await;
    assert_eq!(fixture.counts().fills_dropped, u64::from(count));
    assert_eq!(fixture.budget.bytes_free(), fixture.budget.bytes_max());
}
