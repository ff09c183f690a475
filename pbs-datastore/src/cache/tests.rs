//! Tests of the cache.

use std::sync::mpsc;
use std::time::Duration;

use nix::errno::Errno;

use super::fixture::{Bounds, Fixture, at, chunk, until};
use super::*;
use crate::chunk_store::guard::Condemnation;
use crate::files::FileOp;

/// Length of the encoded chunks of these tests.
const ENCODED: u64 = 112;
const LEN: usize = 100;

fn bound(chunks: u64) -> Bounds {
    Bounds {
        cache: chunks * ENCODED,
        ..Bounds::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn cached_and_temporary_bytes_stay_within_the_bound() {
    let fixture = Arc::new(Fixture::new(bound(10)).await);
    let tasks = (0..8_u32).map(|worker| {
        let fixture = Arc::clone(&fixture);
        let env = fixture.env.clone();
        env.spawn(async move {
            for n in 0..40 {
                let n = worker * 40 + n;
                if n % 2 == 0 {
                    fixture.insert(n, LEN, at(i64::from(n))).await;
                } else {
                    let digest = fixture.stored(n, LEN).await;
                    fixture.reader.read(&digest, None).await.unwrap();
                }
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    assert!(fixture.watched.peak() <= 10 * ENCODED);
    assert!(
        fixture.watched.peak() > 5 * ENCODED,
        "the cache was not used"
    );
    assert!(fixture.counts().evictions > 0);
}

#[tokio::test(start_paused = true)]
async fn the_oldest_are_evicted_and_keep_times_and_nature() {
    let fixture = Fixture::new(bound(32)).await;
    let mut digests = Vec::new();
    for n in 0..32 {
        digests.push(fixture.insert(n, LEN, at(i64::from(n))).await);
    }
    until(|| fixture.counts().evictions > 0).await;
    fixture.quiet().await;
    let oldest = fixture.marker(&digests[0]).unwrap();
    let expected = Marker {
        size: 0,
        used: at(0),
        born: at(-300),
        nature: Nature::Plain,
    };
    assert_eq!(oldest, expected);
    assert_eq!(fixture.marker(&digests[31]).unwrap().size, ENCODED);
    assert!(fixture.cache.bytes_used() <= 30 * ENCODED, "there is room");
    assert!(fixture.cache.bytes_used() >= 26 * ENCODED, "not too much");
}

#[tokio::test(start_paused = true)]
async fn a_touch_during_an_eviction_is_not_lost() {
    for op in [FileOp::Write, FileOp::Rename] {
        let fixture = Fixture::new(bound(1000)).await;
        let digest = fixture.insert(1, LEN, at(1)).await;
        let (markers, touched) = (fixture.markers.clone(), at(500));
        let (sender, threads) = mpsc::channel();
        let armed = Mutex::new(Some(sender));
        fixture.watched.set_hook(Some(Box::new(move |seen, _| {
            let Some(sender) = armed.lock().unwrap().take_if(|_| seen == op) else {
                return;
            };
            // As marking does: from another thread, without the guard.
            let (markers, (done, wait)) = (markers.clone(), mpsc::channel());
            let touch = std::thread::spawn(move || {
                let there = markers.touch(&crate::files::OsFiles, &digest, touched);
                done.send(()).ok();
                there.unwrap()
            });
            // If nothing keeps the touch from the old file, it has come by now and would be lost.
            wait.recv_timeout(Duration::from_millis(300)).ok();
            sender.send(touch).unwrap();
        })));
        let guard = fixture.table.guard(digest).await;
        fixture.cache.drop_content(guard).await.1.unwrap();
        assert!(threads.recv().unwrap().join().unwrap());
        let marker = fixture.marker(&digest).unwrap();
        assert_eq!((marker.size, marker.used), (0, touched), "{op:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_in_use_or_condemned_is_not_evicted() {
    let fixture = Fixture::new(bound(8)).await;
    let busy = fixture.insert(0, LEN, at(0)).await;
    let condemned = fixture.insert(1, LEN, at(1)).await;
    let guard = fixture.table.guard(busy).await;
    let mut condemnation = Condemnation::default();
    condemnation.add(fixture.table.try_guard(condemned).unwrap());
    for n in 2..30 {
        fixture.insert(n, LEN, at(i64::from(n))).await;
        fixture.quiet().await;
    }
    assert!(fixture.counts().evictions_skipped >= 2);
    assert_eq!(fixture.marker(&busy).unwrap().size, ENCODED);
    assert_eq!(fixture.marker(&condemned).unwrap().size, ENCODED);
    drop(guard);
    condemnation.release();
    for n in 30..60 {
        fixture.insert(n, LEN, at(i64::from(n))).await;
        fixture.quiet().await;
    }
    assert_eq!(fixture.marker(&busy).unwrap().size, 0, "it came back to it");
}

#[tokio::test(start_paused = true)]
async fn a_removed_marker_does_not_come_back() {
    let fixture = Fixture::new(bound(4)).await;
    let digest = fixture.insert(0, LEN, at(0)).await;
    let files = crate::files::OsFiles;
    fixture.markers.remove_condemned(&files, &digest).unwrap();
    for n in 1..10 {
        fixture.insert(n, LEN, at(i64::from(n))).await;
        fixture.quiet().await;
    }
    assert_eq!(fixture.marker(&digest), None);
    assert!(!fixture.cache.contains(&digest));
}

#[tokio::test(start_paused = true)]
async fn accounting_finds_what_is_there_in_the_order_of_use() {
    let fixture = Fixture::new(bound(100)).await;
    let mut digests = Vec::new();
    for n in [7, 3, 9, 1, 5] {
        digests.push(fixture.insert(n, LEN, at(i64::from(n))).await);
    }
    let empty = fixture.stored(20, LEN).await;
    let fixture = fixture.restart(4 * ENCODED).await;
    let (digest, blob) = chunk(30, LEN);
    let (guard, parts) = (fixture.table.guard(digest).await, [blob.encoded()]);
    let early = fixture
        .cache
        .insert(guard, &parts, Nature::Plain, at(50), at(50));
    assert_eq!(early.await.1.unwrap(), Kept::Marker, "nothing is known yet");
    fixture.settle().await;
    until(|| fixture.counts().evictions >= 2).await;
    fixture.quiet().await;
    let sizes = digests.map_sizes(&fixture);
    assert_eq!(sizes, [ENCODED, 0, ENCODED, 0, ENCODED]);
    assert_eq!(fixture.marker(&empty).unwrap().size, 0);
    assert_eq!(fixture.cache.bytes_used(), 3 * ENCODED);
    assert!(fixture.env.now() >= at(9));
}

/// Shorter reading for lists of digests.
trait Sizes {
    fn map_sizes(&self, fixture: &Fixture) -> Vec<u64>;
}

impl Sizes for Vec<Digest> {
    fn map_sizes(&self, fixture: &Fixture) -> Vec<u64> {
        self.iter()
            .map(|digest| fixture.marker(digest).unwrap().size)
            .collect()
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_costs_hits_and_no_insert() {
    let fixture = Fixture::new(bound(1000)).await;
    let kept = fixture.insert(0, LEN, at(0)).await;
    fixture.fail(FileOp::Write, ".holdfast/tmp", 1, Errno::ENOSPC);
    let first = fixture.insert(1, LEN, at(1)).await;
    let second = fixture.insert(2, LEN, at(2)).await;
    assert_eq!(
        vec![kept, first, second].map_sizes(&fixture),
        [ENCODED, 0, 0]
    );
    assert_eq!(fixture.counts().disk_errors, 1, "a pause tries nothing");
    let read = fixture.reader.read(&kept, None).await.unwrap();
    assert_eq!(read.encoded_len() as u64, ENCODED, "reads go on");
    tokio::time::advance(PAUSE_MIN).await;
    let third = fixture.insert(3, LEN, at(3)).await;
    assert_eq!(fixture.marker(&third).unwrap().size, ENCODED);
    assert_eq!(fixture.files_in_tmp(), 0);
}

#[tokio::test(start_paused = true)]
async fn pauses_grow_and_a_full_disk_makes_room() {
    let fixture = Fixture::new(bound(64)).await;
    for n in 0..32 {
        fixture.insert(n, LEN, at(i64::from(n))).await;
    }
    fixture.fail(FileOp::Write, ".holdfast/tmp", 1, Errno::ENOSPC);
    fixture.insert(100, LEN, at(100)).await;
    until(|| fixture.counts().evictions > 0).await;
    tokio::time::advance(PAUSE_MIN).await;
    fixture.fail(FileOp::Write, ".holdfast/tmp", 1, Errno::EROFS);
    fixture.insert(101, LEN, at(101)).await;
    tokio::time::advance(PAUSE_MIN).await;
    assert!(fixture.cache.0.is_paused(), "the second pause is longer");
    tokio::time::advance(PAUSE_MIN).await;
    assert!(!fixture.cache.0.is_paused());
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_is_too_small_is_told_of_once() {
    let fixture = Fixture::new(bound(1000)).await;
    let mut told = Vec::new();
    for n in 0..3 {
        fixture.fail(FileOp::Write, ".holdfast/tmp", 1, Errno::ENOSPC);
        fixture.insert(3 * n, LEN, at(0)).await;
        told.extend(fixture.cache.0.pause().warned);
        // Each pause makes some room.
        tokio::time::advance(PAUSE_MIN).await;
        fixture.insert(3 * n + 1, LEN, at(0)).await;
        assert!(!fixture.cache.0.is_paused());
    }
    assert_eq!(told, [told[0]; 3]);
    tokio::time::advance(WORKS_FOR).await;
    fixture.insert(100, LEN, at(0)).await;
    assert_eq!(fixture.cache.0.pause().warned, None);
}

#[tokio::test(start_paused = true)]
async fn an_insert_fails_only_if_no_marker_can_be_created() {
    let fixture = Fixture::new(bound(1000)).await;
    fixture.fail(FileOp::Write, ".holdfast/tmp", 2, Errno::ENOSPC);
    let (digest, blob) = chunk(1, LEN);
    let (guard, parts) = (fixture.table.guard(digest).await, [blob.encoded()]);
    let insert = fixture
        .cache
        .insert(guard, &parts, Nature::Plain, at(0), at(0));
    assert!(insert.await.1.is_err());
    assert_eq!(fixture.marker(&digest), None);
}

#[tokio::test(start_paused = true)]
async fn a_temporary_file_that_stays_keeps_its_room_until_the_next_start() {
    let fixture = Fixture::new(bound(100)).await;
    fixture.fail(FileOp::Rename, ".chunks", 1, Errno::EIO);
    fixture.fail(FileOp::Unlink, ".holdfast/tmp", 1, Errno::EIO);
    let digest = fixture.insert(1, LEN, at(0)).await;
    assert_eq!(fixture.marker(&digest).unwrap().size, 0);
    assert_eq!(fixture.cache.bytes_used(), ENCODED);
    assert_eq!(fixture.files_in_tmp(), 1);
    let fixture = fixture.restart(1000).await;
    assert_eq!(fixture.files_in_tmp(), 0);
    assert_eq!(fixture.cache.bytes_used(), 0);
}

impl Fixture {
    fn files_in_tmp(&self) -> usize {
        let files = crate::files::OsFiles;
        files.list(self.markers.temporary()).unwrap().len()
    }
}

#[tokio::test(start_paused = true)]
async fn who_has_no_room_in_time_gets_a_marker() {
    let fixture = Fixture::new(bound(1)).await;
    let first = fixture.insert(0, LEN, at(0)).await;
    let guard = fixture.table.guard(first).await;
    let second = fixture.insert(1, LEN, at(1)).await;
    assert_eq!(fixture.marker(&second).unwrap().size, 0);
    assert_eq!(fixture.counts().inserts_without_room, 1);
    drop(guard);
    let third = fixture.insert(2, LEN, at(2)).await;
    assert_eq!(fixture.marker(&third).unwrap().size, ENCODED);
    let large = fixture.insert(3, 2 * LEN, at(3)).await;
    assert_eq!(fixture.marker(&large).unwrap().size, 0);
}

#[tokio::test(start_paused = true)]
async fn a_cache_of_no_bytes_keeps_markers_only() {
    let fixture = Fixture::new(bound(10)).await;
    let old = fixture.insert(0, LEN, at(0)).await;
    let fixture = fixture.restart(0).await;
    fixture.settle().await;
    until(|| fixture.cache.bytes_used() == 0).await;
    let new = fixture.insert(1, LEN, at(1)).await;
    assert_eq!(vec![old, new].map_sizes(&fixture), [0, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_stopped_cache_leaves_no_task() {
    let fixture = Fixture::new(bound(10)).await;
    fixture.cache.stop();
    assert!(fixture.env.drain(Duration::from_secs(1)).await);
    let fixture = Fixture::new(bound(10)).await;
    let Fixture {
        env,
        cache,
        fills,
        reader,
        dir: _dir,
        ..
    } = fixture;
    drop((cache, fills, reader));
    assert!(env.drain(Duration::from_secs(1)).await, "by dropping it");
}
