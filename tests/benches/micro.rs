//! Small things that everything else is made of, measured with criterion: `cargo bench-micro`, `cargo bench-micro blob` for
//! some of them, `cargo bench-micro --test` to run each once.
//!
//! | group | what is measured |
//! |---|---|
//! | `blob-verify` | what the reader of a bucket checks of a chunk: CRC, SHA-256, and of a compressed one the frame; in bytes of content. 4 MiB, and compressed 64 KiB too |
//! | `index` | a dynamic index of 100,000 entries: parsed from memory with its checksum, its digests read, and written to a file in appends of 1000 |
//! | `guards` | 64 tasks on all processors, each taking and dropping 1000 guards: of digests that nobody else wants, and all of the same 16, held while others run |
//! | `cache-order` | one insert, one touch, and one eviction with the insert that makes it necessary, with 100,000 chunks cached |
//! | `listing` | 100,000 keys of a bucket in memory, listed as a whole and in 8 ranges at the same time |

use std::hint::black_box;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use bytes::Bytes;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use holdfast_tests::measure::noise::Noise;
use pbs_datastore::bench::{CacheOrder, Guards};
use pbs_datastore::files::OsFiles;
use pbs_datastore::index::writer::{DynamicWriter, IndexAppend};
use pbs_datastore::{BucketLayout, DataBlob, Digest, DynamicIndex, Folder, Place};
use s3_client::{KeyPrefix, KeyRange, ModelOptions, ModelStore, ObjectStore as _, Put, list_all};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use uuid::Uuid;

/// Bytes of a chunk.
const CHUNK_BYTES: usize = 4 << 20;
/// Bytes of a small one.
const SMALL_BYTES: usize = 64 << 10;
/// Entries of an index, chunks of a cache, keys of a bucket.
const MANY: u64 = 100_000;
/// Entries that are appended to an index at once.
const APPENDS: usize = 1000;
/// Tasks that take guards.
const TASKS: u64 = 64;
/// Guards that each of them takes.
const TURNS: u64 = 1000;
/// Digests that all tasks want.
const WANTED: u64 = 16;
/// Words of a content that can be compressed.
const WORDS: u64 = 4096;

fn main() -> Result<()> {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(4))
        .sample_size(20)
        .configure_from_args();
    blobs(&mut criterion)?;
    indexes(&mut criterion)?;
    guards(&mut criterion)?;
    cache_order(&mut criterion);
    listings(&mut criterion)?;
    criterion.final_summary();
    Ok(())
}

fn digest(number: u64) -> Digest {
    Digest::of(&number.to_le_bytes())
}

fn runtime() -> Result<Runtime> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    Ok(runtime)
}

/// Words of eight bytes, which repeat.
fn compressible(bytes: usize) -> Vec<u8> {
    let mut noise = Noise::new(1);
    let words: Vec<u64> = (0..WORDS).map(|_| noise.next()).collect();
    let word = |_| words[noise.below(WORDS) as usize].to_le_bytes();
    (0..bytes / 8).flat_map(word).collect()
}

fn blobs(criterion: &mut Criterion) -> Result<()> {
    let mut group = criterion.benchmark_group("blob-verify");
    for (name, content) in [
        ("plain", Noise::new(1).bytes(CHUNK_BYTES)),
        ("zstd", compressible(CHUNK_BYTES)),
        ("zstd, small", compressible(SMALL_BYTES)),
    ] {
        group.throughput(Throughput::Bytes(content.len() as u64));
        let name_of = Digest::of(&content);
        let blob = DataBlob::encode(content.into(), name != "plain", None, Default::default())?;
        ensure!(blob.kind().is_compressed() == (name != "plain"), "{blob:?}");
        let encoded = blob.encoded();
        group.bench_function(name, |bencher| {
            bencher.iter(|| DataBlob::parse_chunk(encoded.clone(), &name_of).is_ok());
        });
    }
    group.finish();
    Ok(())
}

fn indexes(criterion: &mut Criterion) -> Result<()> {
    let mut group = criterion.benchmark_group("index");
    group.throughput(Throughput::Elements(MANY));
    let entries: Vec<_> = (0..MANY)
        .map(|number| ((number + 1) * CHUNK_BYTES as u64, digest(number)))
        .collect();
    let bytes = DynamicIndex::encode(&Uuid::nil(), 0, &entries)?;
    group.bench_function("parse", |bencher| {
        bencher.iter(|| DynamicIndex::parse(bytes.clone()).is_ok());
    });
    let index = pbs_datastore::Index::from(DynamicIndex::parse(bytes)?);
    group.bench_function("digests", |bencher| {
        bencher.iter(|| {
            for chunk in index.chunks() {
                black_box(chunk.digest);
            }
        });
    });
    let appends: Vec<_> = entries
        .iter()
        .map(|(end, digest)| IndexAppend {
            offset: end - CHUNK_BYTES as u64,
            size: CHUNK_BYTES as u64,
            digest: *digest,
        })
        .collect();
    group.bench_function("append", |bencher| {
        bencher.iter_batched(
            tempfile::tempdir,
            |dir| {
                let written = dir.map(|dir| (append(dir.path(), &appends), dir));
                assert!(written.as_ref().is_ok_and(|(append, _)| append.is_ok()));
                written
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
    Ok(())
}

fn append(dir: &Path, appends: &[IndexAppend]) -> Result<DynamicWriter> {
    let mut writer = DynamicWriter::create(&OsFiles, dir.join("index"), Uuid::nil(), 0)?;
    for some in appends.chunks(APPENDS) {
        writer.append(&OsFiles, some)?;
    }
    Ok(writer)
}

fn guards(criterion: &mut Criterion) -> Result<()> {
    let runtime = runtime()?;
    let mut group = criterion.benchmark_group("guards");
    group.throughput(Throughput::Elements(TASKS * TURNS));
    let apart: Vec<_> = (0..TASKS * TURNS).map(digest).collect();
    let wanted: Vec<_> = (0..TASKS * TURNS)
        .map(|number| digest(Noise::branch(1, number).below(WANTED)))
        .collect();
    for (name, digests, hold) in [("apart", apart, false), ("wanted by all", wanted, true)] {
        group.bench_function(name, |bencher| {
            bencher.iter_batched(
                || digests.clone(),
                |digests| runtime.block_on(take_all(digests, hold)),
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
    Ok(())
}

/// Takes the guards of all digests, in many tasks. Returns how many were had.
async fn take_all(digests: Vec<Digest>, hold: bool) -> usize {
    let guards = Guards::default();
    let mut tasks = JoinSet::new();
    for own in digests.chunks(TURNS as usize) {
        let (guards, own) = (guards.clone(), own.to_vec());
        tasks.spawn(async move {
            let mut had = 0;
            for digest in own {
                let guard = guards.take(digest).await;
                if hold {
                    tokio::task::yield_now().await;
                }
                had += usize::from(guard.is_ok());
            }
            had
        });
    }
    tasks.join_all().await.into_iter().sum()
}

fn cache_order(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("cache-order");
    group.throughput(Throughput::Elements(1));
    let digests: Vec<_> = (0..2 * MANY).map(digest).collect();
    let full = || {
        let order = CacheOrder::new(MANY);
        for digest in &digests[..MANY as usize] {
            assert!(order.insert(*digest, 1), "there is room for it");
        }
        order
    };
    // The digests come around again only when they are out of the cache.
    let mut next = digests.iter().copied().cycle();
    let mut another = move || next.next().unwrap_or(Digest::of(b""));
    let unbounded = CacheOrder::new(u64::MAX);
    group.bench_function("insert", |bencher| {
        bencher.iter_batched(
            &mut another,
            |digest| unbounded.insert(digest, 1),
            BatchSize::SmallInput,
        );
    });
    let order = full();
    let mut noise = Noise::new(1);
    group.bench_function("touch", |bencher| {
        bencher.iter_batched(
            || digests[noise.below(MANY) as usize],
            |digest| order.touch(&digest),
            BatchSize::SmallInput,
        );
    });
    let order = full();
    let mut next = digests.iter().copied().cycle().skip(MANY as usize);
    group.bench_function("evict and insert", |bencher| {
        bencher.iter_batched(
            || next.next().unwrap_or(Digest::of(b"")),
            |digest| (order.evict(), order.insert(digest, 1)),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

fn listings(criterion: &mut Criterion) -> Result<()> {
    let runtime = runtime()?;
    let layout = BucketLayout::new(&"main".parse()?);
    let store = ModelStore::new(ModelOptions::default());
    runtime.block_on(async {
        for number in 0..MANY {
            let key = layout.key(&Place::Chunk(digest(number)));
            store.put(Put::new(key, Bytes::from_static(b"x"))).await?;
        }
        anyhow::Ok(())
    })?;
    let prefix = layout.folder(&Folder::Chunks);
    let mut group = criterion.benchmark_group("listing");
    group.throughput(Throughput::Elements(MANY));
    for ranges in [1, 8] {
        ensure!(runtime.block_on(list(&store, &prefix, ranges))? == MANY);
        group.bench_with_input(
            BenchmarkId::new("ranges", ranges),
            &ranges,
            |bencher, ranges| {
                bencher.iter(|| runtime.block_on(list(&store, &prefix, *ranges)));
            },
        );
    }
    group.finish();
    Ok(())
}

/// Lists all keys below a prefix. Returns how many there are.
async fn list(store: &ModelStore, prefix: &KeyPrefix, ranges: usize) -> Result<u64> {
    let all = KeyRange::of_hex_folders(prefix, ranges);
    let listed = list_all(store, prefix, all, ranges, |page| async move {
        black_box(page);
        anyhow::Ok(())
    });
    Ok(listed.await?.keys)
}
