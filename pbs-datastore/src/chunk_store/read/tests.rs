//! Tests of reads.

use std::path::Path;
use std::sync::Mutex;

use nix::errno::Errno;
use s3_client::{Action, ErrorKind, Fault, Op};
use tokio::time::Instant;

use super::*;
use crate::CryptKey;
use crate::cache::fixture::{Bounds, Fixture, at, chunk, until};
use crate::files::{FILE_MODE, FileOp, Files, OsFiles};
use crate::index::FixedIndex;

const LEN: usize = 1000;

#[test]
fn contents_are_those_of_the_index() {
    let data = Bytes::from(vec![7; LEN]);
    let digest = Digest::of(&data);
    let entry = |bytes: usize| IndexChunk {
        digest,
        start: 10,
        end: 10 + bytes as u64,
    };
    for compress in [false, true] {
        let encode = |key| DataBlob::encode(data.clone(), compress, key, [1; 16]).unwrap();
        let chunk = Chunk::new(encode(None), None);
        let contents = |bytes: usize, bytes_max| chunk.contents(&entry(bytes), bytes_max);
        assert_eq!(contents(LEN, LEN as u64).unwrap(), data);
        // The last chunk of an image is longer than the image.
        assert_eq!(contents(300, LEN as u64).unwrap(), data[..300]);
        for (bytes, bytes_max) in [(300, 300), (LEN + 1, 2000)] {
            let error = contents(bytes, bytes_max).unwrap_err();
            assert!(matches!(error, Error::ChunkCorrupt { .. }), "{error}");
        }
        let mut other = entry(LEN);
        other.digest = Digest::of(b"another");
        let error = chunk.contents(&other, LEN as u64).unwrap_err();
        assert!(matches!(error, Error::ChunkCorrupt { .. }), "{error}");
        let hidden = Chunk::new(encode(Some(&CryptKey::new([1; 32]))), None);
        let error = hidden.contents(&entry(LEN), LEN as u64).unwrap_err();
        assert!(error.to_string().contains("is encrypted"), "{error}");
    }
}

fn damage_on_disk(fixture: &Fixture, digest: &Digest) {
    let path = fixture.markers.path(digest);
    let before = OsFiles.stat(&path).unwrap();
    OsFiles.write_at(&path, 500, b"not what was there").unwrap();
    OsFiles
        .set_times(&path, before.atime, before.mtime)
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_is_cached_costs_no_request() {
    let fixture = Fixture::new(Bounds::default()).await;
    let digest = fixture.insert(1, LEN, at(1)).await;
    let chunk = fixture.reader.read(&digest, None).await.unwrap();
    chunk.verify_chunk(&digest, Some(LEN as u64)).unwrap();
    assert_eq!((fixture.gets(), fixture.counts().hits), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_damaged_cached_chunk_is_dropped_and_fetched() {
    let fixture = Fixture::new(Bounds::default()).await;
    let digest = fixture.insert(1, LEN, at(1)).await;
    let before = fixture.marker(&digest).unwrap();
    fixture.in_bucket(&digest, &chunk(1, LEN).1);
    damage_on_disk(&fixture, &digest);
    let read = fixture.reader.read(&digest, None).await.unwrap();
    read.verify_chunk(&digest, Some(LEN as u64)).unwrap();
    assert_eq!((fixture.gets(), fixture.counts().cached_corrupt), (1, 1));
    until(|| fixture.cache.contains(&digest)).await;
    assert_eq!(fixture.marker(&digest).unwrap(), before);
    fixture.reader.read(&digest, None).await.unwrap();
    assert_eq!(fixture.gets(), 1, "it is cached again");
}

#[tokio::test(start_paused = true)]
async fn whatever_becomes_of_a_cached_file_the_chunk_is_fetched_and_cached_again() {
    type Change = fn(&dyn Files, &Path) -> io::Result<()>;
    let changes: [(&str, Change); 5] = [
        ("emptied", |files, path| files.set_len(path, 0)),
        ("half a header", |files, path| files.set_len(path, 7)),
        ("cut short", |files, path| files.set_len(path, 600)),
        ("longer", |files, path| files.set_len(path, 2000)),
        ("removed", |files, path| files.unlink(path)),
    ];
    for (what, change) in changes {
        let fixture = Fixture::new(Bounds::default()).await;
        let digest = fixture.insert(1, LEN, at(1)).await;
        let bytes = fixture.cache.bytes_used();
        fixture.in_bucket(&digest, &chunk(1, LEN).1);
        change(&*fixture.watched, &fixture.markers.path(&digest)).unwrap();
        let read = fixture.reader.read(&digest, None).await.unwrap();
        read.verify_chunk(&digest, Some(LEN as u64)).expect(what);
        assert_eq!(fixture.counts().cached_corrupt, 1, "{what}");
        until(|| fixture.cache.contains(&digest)).await;
        fixture.quiet().await;
        assert_eq!(fixture.cache.bytes_used(), bytes, "{what}");
        let read = fixture.reader.read(&digest, None).await.unwrap();
        read.verify_chunk(&digest, Some(LEN as u64)).expect(what);
        assert_eq!((fixture.gets(), fixture.counts().hits), (1, 1), "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_failing_disk_costs_a_hit_and_no_read() {
    let fixture = Fixture::new(Bounds::default()).await;
    let digest = fixture.insert(1, LEN, at(1)).await;
    fixture.in_bucket(&digest, &chunk(1, LEN).1);
    fixture.fail(FileOp::Read, ".chunks", usize::MAX, Errno::EIO);
    fixture.fail(FileOp::Write, "", usize::MAX, Errno::EIO);
    fixture.reader.read(&digest, None).await.unwrap();
    assert_eq!(fixture.gets(), 1);
}

#[tokio::test(start_paused = true)]
async fn memory_is_held_as_long_as_the_chunk_and_waited_for_in_bounds() {
    let bounds = Bounds {
        memory: 4 << 10,
        ..Bounds::default()
    };
    let fixture = Fixture::new(bounds).await;
    let (first, second) = (fixture.stored(1, 3000).await, fixture.stored(2, 3000).await);
    let held = fixture.reader.read(&first, Some(3000)).await.unwrap();
    until(|| fixture.cache.contains(&first)).await;
    fixture.quiet().await;
    assert_eq!(fixture.budget.bytes_free(), 1 << 10);
    let start = Instant::now();
    let refused = fixture.reader.read(&second, Some(3000)).await;
    assert!(matches!(refused, Err(Error::Busy(_))));
    assert_eq!(start.elapsed(), MEMORY_WAIT_MAX);
    drop(held);
    fixture.reader.read(&second, Some(3000)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_directory_is_read_and_its_damage_told() {
    let dir = tempfile::tempdir().unwrap();
    let env = Env::simulated(at(0), 1, Arc::new(OsFiles));
    let markers = Markers::new(dir.path());
    let budget = MemoryBudget::new(64 << 20);
    let metrics = Arc::<CacheMetrics>::default();
    let reader = ChunkReader::directory(env, markers.clone(), budget, metrics, 0);
    let told = Arc::new(Mutex::new(Vec::new()));
    let hook = Arc::clone(&told);
    reader.on_damage(Box::new(move |digest, damage| {
        hook.lock().unwrap().push((digest, damage.clone()));
    }));
    let put = |n: u32, change: &dyn Fn(&mut Vec<u8>)| {
        let (digest, blob) = chunk(n, LEN);
        let mut data = blob.encoded().to_vec();
        change(&mut data);
        let path = markers.path(&digest);
        OsFiles.create_dirs(path.parent().unwrap()).unwrap();
        OsFiles
            .create(&path, FILE_MODE, &[data.into()], false)
            .unwrap();
        digest
    };
    let good = put(1, &|_| {});
    let damaged = put(2, &|data| data[200] ^= 1);
    let empty = put(3, &Vec::clear);
    let absent = chunk(4, LEN).0;
    reader.read(&good, None).await.unwrap();
    let read = reader.read(&damaged, None).await;
    assert!(matches!(read, Err(Error::ChunkCorrupt { .. })));
    for digest in [empty, absent] {
        let read = reader.read(&digest, None).await;
        assert!(matches!(read, Err(Error::ChunkMissing { .. })));
    }
    let told = told.lock().unwrap();
    assert!(matches!(&told[..], [
        (first, Damage::Corrupt(_)), (second, Damage::Missing), (third, Damage::Missing),
    ] if [*first, *second, *third] == [damaged, empty, absent]));
}

fn index(digests: &[Digest]) -> Index {
    let size = (digests.len() * 4096) as u64;
    let bytes = FixedIndex::encode(&uuid::Uuid::nil(), 0, size, 4096, digests).unwrap();
    Index::Fixed(FixedIndex::parse(bytes).unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_stream_yields_a_range_in_order_and_hides_latency() {
    let bounds = Bounds {
        ahead: 8 * (4096 + HEADER_BYTES_MAX),
        ..Bounds::default()
    };
    let fixture = Fixture::new(bounds).await;
    let mut digests = Vec::new();
    for n in 0..100 {
        digests.push(fixture.stored(n / 2, 4096).await);
    }
    let latency = Duration::from_millis(50);
    let delay = Fault::on(Op::Get).always().then(Action::Delay(latency));
    fixture.plan.add(delay);
    let fails = Action::Fail(ErrorKind::Unavailable);
    fixture.plan.add(Fault::on(Op::Get).nth(3).then(fails));
    let start = Instant::now();
    let mut stream = fixture
        .reader
        .stream(index(&digests), 10 * 4096 + 1..90 * 4096);
    let mut entry = 10;
    while let Some((place, chunk)) = stream.next().await {
        assert_eq!(
            (place.start, place.digest),
            (entry * 4096, digests[entry as usize])
        );
        chunk
            .unwrap()
            .verify_chunk(&place.digest, Some(4096))
            .unwrap();
        entry += 1;
    }
    assert_eq!(entry, 90);
    assert_eq!(
        fixture.gets(),
        40,
        "each chunk once, and the failed one again"
    );
    assert!(start.elapsed() <= latency * 8, "{:?}", start.elapsed());
}
