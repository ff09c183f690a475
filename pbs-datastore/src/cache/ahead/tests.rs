//! Tests of reading ahead.

use std::time::Duration;

use s3_client::{Action, ErrorKind, Fault, Op};
use tokio::time::Instant;

use super::*;
use crate::cache::fixture::{Bounds, Fixture, chunk};
use crate::index::FixedIndex;

const LEN: usize = 4096;
/// Chunks that fit into the window of these tests.
const WINDOW: u64 = 8;
const LATENCY: Duration = Duration::from_millis(50);

/// A bucket with slow requests and nothing cached on disk.
async fn slow() -> Fixture {
    let fixture = Fixture::new(Bounds {
        cache: 0,
        memory: 64 << 20,
        ahead: WINDOW * (LEN as u64 + HEADER_BYTES_MAX),
    })
    .await;
    let delay = Fault::on(Op::Get).always().then(Action::Delay(LATENCY));
    fixture.plan.add(delay);
    fixture
}

fn index(numbers: impl Iterator<Item = u32>, fixture: &Fixture) -> Index {
    let digests: Vec<_> = numbers
        .map(|n| {
            let (digest, blob) = chunk(n, LEN);
            fixture.in_bucket(&digest, &blob);
            digest
        })
        .collect();
    let size = (digests.len() * LEN) as u64;
    let bytes = FixedIndex::encode(&uuid::Uuid::nil(), 0, size, LEN as u64, &digests).unwrap();
    Index::Fixed(FixedIndex::parse(bytes).unwrap())
}

async fn read(ahead: &ReadAhead, index: &Index, entry: usize) {
    let digest = index.digest(entry).unwrap();
    let chunk = ahead.read(&digest).await.unwrap();
    chunk.verify_chunk(&digest, Some(LEN as u64)).unwrap();
}

#[tokio::test(start_paused = true)]
async fn reading_in_order_is_as_fast_as_the_window_is_wide() {
    let fixture = slow().await;
    let index = index(0..200, &fixture);
    let ahead = ReadAhead::new(Arc::clone(&fixture.reader));
    ahead.open(index.clone()).await;
    let start = Instant::now();
    for entry in 0..200 {
        read(&ahead, &index, entry).await;
    }
    let rounds = 200 / WINDOW as u32 + 3;
    assert!(start.elapsed() <= LATENCY * rounds, "{:?}", start.elapsed());
    assert_eq!(fixture.gets(), 200, "each once");
    drop(ahead);
    assert_eq!(fixture.counts().ahead_bytes_unused, 0);
    assert_eq!(fixture.budget.bytes_free(), fixture.budget.bytes_max());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_read_ahead_of_random_access() {
    let fixture = slow().await;
    let index = index(0..1000, &fixture);
    let ahead = ReadAhead::new(Arc::clone(&fixture.reader));
    ahead.open(index.clone()).await;
    for n in 0..100 {
        read(&ahead, &index, (n * 617 + 300) % 1000).await;
    }
    assert_eq!(fixture.gets(), 100);
    assert_eq!(fixture.counts().ahead_bytes_used, 0);
}

#[tokio::test(start_paused = true)]
async fn several_archives_are_read_in_turn() {
    let fixture = slow().await;
    let indexes = [0, 1, 2].map(|n| index(n * 1000..n * 1000 + 100, &fixture));
    let ahead = ReadAhead::new(Arc::clone(&fixture.reader));
    for index in &indexes {
        ahead.open(index.clone()).await;
    }
    let start = Instant::now();
    for entry in 0..100 {
        for index in &indexes {
            read(&ahead, index, entry).await;
        }
    }
    // The window is shared, and the last to be read may fill it, so less than all of it is gained.
    assert!(start.elapsed() < LATENCY * 120, "{:?}", start.elapsed());
    assert_eq!(fixture.gets(), 300);
}

#[tokio::test(start_paused = true)]
async fn parts_of_an_image_are_read_at_the_same_time() {
    let fixture = slow().await;
    let index = index(0..400, &fixture);
    let ahead = ReadAhead::new(Arc::clone(&fixture.reader));
    ahead.open(index.clone()).await;
    let start = Instant::now();
    let part = async |first: usize| {
        for entry in first..first + 100 {
            read(&ahead, &index, entry).await;
        }
    };
    tokio::join!(part(0), part(200));
    assert!(start.elapsed() < LATENCY * 60, "{:?}", start.elapsed());
    assert_eq!(fixture.gets(), 200 + outstanding(&ahead));
}

fn outstanding(ahead: &ReadAhead) -> u64 {
    let state = ahead.state();
    state.cursors.iter().map(|c| c.ahead.len() as u64).sum()
}

#[tokio::test(start_paused = true)]
async fn runs_of_zeros_and_skipped_chunks_do_not_break_the_order() {
    let fixture = slow().await;
    // Chunk 0 stands for zeros, in runs long and short.
    let numbers: Vec<u32> = (0..200)
        .flat_map(|n| match n % 10 {
            0 => vec![0; 500],
            5 => vec![0],
            _ => vec![n],
        })
        .collect();
    let index = index(numbers.iter().copied(), &fixture);
    let ahead = ReadAhead::new(Arc::clone(&fixture.reader));
    ahead.open(index.clone()).await;
    let start = Instant::now();
    let mut asked = 0;
    for (entry, n) in numbers.iter().enumerate() {
        if *n != 0 {
            read(&ahead, &index, entry).await;
            asked += 1;
        }
    }
    assert!(
        start.elapsed() <= LATENCY * (asked / 8 + 6),
        "{:?}",
        start.elapsed()
    );
    drop(ahead);
    let unused = fixture.counts().ahead_bytes_unused;
    assert!(
        unused <= LEN as u64 + HEADER_BYTES_MAX,
        "zeros at most once"
    );
}

#[tokio::test(start_paused = true)]
async fn small_disorder_is_order() {
    let fixture = slow().await;
    let index = index(0..200, &fixture);
    let ahead = ReadAhead::new(Arc::clone(&fixture.reader));
    ahead.open(index.clone()).await;
    let start = Instant::now();
    for entry in (0..200).step_by(4) {
        for entry in [entry + 1, entry, entry + 3, entry + 2] {
            read(&ahead, &index, entry).await;
        }
    }
    assert!(start.elapsed() <= LATENCY * 40, "{:?}", start.elapsed());
    assert_eq!(fixture.gets(), 200, "each once");
}

#[tokio::test(start_paused = true)]
async fn waste_is_bounded_whatever_the_pattern() {
    for burst in [4, 7, 20] {
        let fixture = slow().await;
        let index = index(0..2400, &fixture);
        let ahead = ReadAhead::new(Arc::clone(&fixture.reader));
        ahead.open(index.clone()).await;
        let mut asked = 0;
        for start in (0..2400).step_by(60) {
            for entry in start..start + burst {
                read(&ahead, &index, entry).await;
                asked += 1;
            }
        }
        drop(ahead);
        let unused = fixture.counts().ahead_bytes_unused;
        let chunk = LEN as u64 + HEADER_BYTES_MAX;
        let allowed = asked * LEN as u64 / WASTE_SHARE + WINDOW * chunk;
        assert!(unused <= allowed, "{unused} of {allowed} after {burst}");
        assert!(unused > 0, "the pattern is not one that wastes");
        assert_eq!(fixture.budget.bytes_free(), fixture.budget.bytes_max());
    }
}

#[tokio::test(start_paused = true)]
async fn what_fails_ahead_is_asked_for_again() {
    let fixture = slow().await;
    let index = index(0..50, &fixture);
    let ahead = ReadAhead::new(Arc::clone(&fixture.reader));
    ahead.open(index.clone()).await;
    let fails = Action::Fail(ErrorKind::Unavailable);
    fixture
        .plan
        .add(Fault::on(Op::Get).skip(10).times(3).then(fails));
    for entry in 0..50 {
        read(&ahead, &index, entry).await;
    }
}

#[tokio::test(start_paused = true)]
async fn reading_ahead_leaves_half_of_the_memory_alone() {
    let fixture = Fixture::new(Bounds {
        cache: 0,
        memory: 64 << 10,
        ahead: 1 << 20,
    })
    .await;
    let index = index(0..50, &fixture);
    let ahead = ReadAhead::new(Arc::clone(&fixture.reader));
    ahead.open(index.clone()).await;
    for entry in 0..50 {
        read(&ahead, &index, entry).await;
        assert!(fixture.budget.bytes_free() >= 32 << 10);
    }
    assert!(fixture.counts().ahead_bytes_used > 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_cached_is_not_fetched() {
    let fixture = Fixture::new(Bounds {
        ahead: WINDOW * 8192,
        ..Bounds::default()
    })
    .await;
    let index = index(0..100, &fixture);
    for n in 0..100 {
        fixture.insert(n, LEN, crate::cache::fixture::at(0)).await;
    }
    let ahead = ReadAhead::new(Arc::clone(&fixture.reader));
    ahead.open(index.clone()).await;
    for entry in 0..100 {
        read(&ahead, &index, entry).await;
    }
    assert_eq!((fixture.gets(), fixture.counts().hits), (0, 100));
}

#[test]
fn places_are_found_from_anywhere() {
    let (digest, _) = chunk(1, LEN);
    let (zero, _) = chunk(0, LEN);
    let mut digests = vec![zero; 1000];
    digests[500] = digest;
    let size = (digests.len() * LEN) as u64;
    let bytes = FixedIndex::encode(&uuid::Uuid::nil(), 0, size, LEN as u64, &digests).unwrap();
    let index = Index::Fixed(FixedIndex::parse(bytes).unwrap());
    let memory = crate::MemoryBudget::new(1 << 20).try_take(1).unwrap();
    let opened = Opened::new(index, memory);
    assert_eq!(opened.find(&digest, 0), Some(500));
    assert_eq!(opened.find(&digest, 501), None);
    assert_eq!(opened.find(&zero, 500), Some(501));
    assert!(opened.is_near(0, 500));
    assert!(!opened.is_near(0, WALK_MAX + 1));
}
