//! Tests of indexes.

use proptest::prelude::*;
use uuid::Uuid;

use super::*;

const UUID: Uuid = Uuid::from_bytes([5; 16]);
const A: &[u8] = b"a";
const B: &[u8] = b"b";

fn fixed(size: u64, chunk_size: u64, n: usize) -> Result<Bytes, IndexError> {
    let digests: Vec<_> = (0..n).map(|i| Digest::of(&i.to_le_bytes())).collect();
    FixedIndex::encode(&UUID, 1, size, chunk_size, &digests)
}

fn dynamic(lengths: &[u64]) -> Result<Bytes, IndexError> {
    let mut end = 0;
    let entries = lengths.iter().map(|length| {
        end += length;
        (end, Digest::of(&end.to_le_bytes()))
    });
    DynamicIndex::encode(&UUID, 1, &entries.collect::<Vec<_>>())
}

#[test]
fn vector_fixed_csum() {
    let digests = [Digest::of(A), Digest::of(B)];
    let bytes = FixedIndex::encode(&UUID, 1_700_000_000, 6 << 20, 4 << 20, &digests).expect("fits");
    let index = FixedIndex::parse(bytes).expect("what we encode is an index");
    let csum = "e5a01fee14e0ed5c48714f22180f25ad8365b53f9779f79dc4a3d7e93963f94a";
    assert_eq!(index.csum().to_string(), csum);
    assert_eq!(index.header_csum(), index.csum());
    assert_eq!((index.uuid(), index.ctime()), (UUID, 1_700_000_000));
    assert_eq!(
        (index.size(), index.chunk_size(), index.len()),
        (6 << 20, 4 << 20, 2)
    );
    let last = IndexChunk {
        digest: digests[1],
        start: 4 << 20,
        end: 6 << 20,
    };
    assert_eq!(index.chunk(1), Some(last));
    assert_eq!(index.chunk(2), None);
}

#[test]
fn vector_dynamic_csum() {
    let entries = [(5, Digest::of(A)), (12, Digest::of(B))];
    let bytes = DynamicIndex::encode(&UUID, 1_700_000_000, &entries).expect("ascending");
    let index = DynamicIndex::parse(bytes).expect("what we encode is an index");
    let csum = "fbf97e1975a88fb8d0623ec722b6ea22dbda34feee1cc536c10c2e71e8f73724";
    assert_eq!(index.csum().to_string(), csum);
    assert_eq!(index.header_csum(), index.csum());
    assert_eq!((index.uuid(), index.ctime()), (UUID, 1_700_000_000));
    assert_eq!((index.size(), index.len()), (12, 2));
    let last = IndexChunk {
        digest: entries[1].1,
        start: 5,
        end: 12,
    };
    assert_eq!(index.chunk(1), Some(last));
    assert_eq!(index.chunk(2), None);
}

#[test]
fn the_first_bytes_are_where_they_belong() {
    let bytes = fixed(5, 4, 2).expect("fits");
    assert_eq!(bytes.len(), 4096 + 64);
    assert_eq!(bytes[..8], fixed::MAGIC);
    assert_eq!(bytes[8..24], [5; 16]);
    assert_eq!(bytes[24..32], 1_i64.to_le_bytes());
    assert_eq!(
        bytes[64..80],
        [5, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0]
    );
    assert!(bytes[80..4096].iter().all(|byte| *byte == 0));
    let bytes = dynamic(&[258]).expect("ascending");
    assert_eq!(bytes.len(), 4096 + 40);
    assert_eq!(bytes[..8], dynamic::MAGIC);
    assert!(bytes[64..4096].iter().all(|byte| *byte == 0));
    assert_eq!(bytes[4096..4104], [2, 1, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn a_fixed_index_must_be_as_long_as_its_size_says() {
    assert!(fixed(8, 4, 2).is_ok());
    assert!(matches!(
        fixed(9, 4, 2),
        Err(IndexError::WrongLength { .. })
    ));
    let good = fixed(8, 4, 2).expect("fits");
    for length in [good.len() - 1, good.len() - 32] {
        let error = FixedIndex::parse(good.slice(..length)).map(|_| ());
        assert_eq!(
            error,
            Err(IndexError::WrongLength {
                expected: 4160,
                actual: length as u64
            })
        );
    }
    assert_eq!(
        FixedIndex::parse(good.slice(..4095)).map(|_| ()),
        Err(IndexError::TooShort(4095))
    );
}

#[test]
fn impossible_sizes_are_refused() {
    let with = |size: u64, chunk_size: u64| {
        let header = fixed::header(&UUID, 1, &Digest::of(A), size, chunk_size);
        FixedIndex::parse(Bytes::copy_from_slice(&header)).map(|_| ())
    };
    for chunk_size in [0, 3, (16 << 20) + 1, 32 << 20, u64::MAX] {
        assert_eq!(with(0, chunk_size), Err(IndexError::ChunkSize(chunk_size)));
    }
    assert_eq!(with(0, 4 << 20), Ok(()));
    assert_eq!(
        with(u64::MAX, 4 << 20),
        Err(IndexError::ImageSize(u64::MAX))
    );
    assert!(matches!(
        with(u64::MAX, 1),
        Err(IndexError::WrongLength { .. })
    ));
}

#[test]
fn dynamic_ends_must_ascend() {
    let digest = Digest::of(A);
    let encode = |ends: &[u64]| {
        let entries: Vec<_> = ends.iter().map(|end| (*end, digest)).collect();
        DynamicIndex::encode(&UUID, 1, &entries).map(|_| ())
    };
    let parse = |ends: &[u64]| {
        let mut bytes = dynamic::header(&UUID, 1, &digest).to_vec();
        for end in ends {
            bytes.extend(dynamic::entry(*end, &digest));
        }
        DynamicIndex::parse(bytes.into()).map(|_| ())
    };
    let (long, far) = (16 << 20, u64::MAX);
    for (ends, result) in [
        (&[][..], Ok(())),
        (&[long, 2 * long], Ok(())),
        (&[0], Err(IndexError::NotAscending(0))),
        (&[5, 5], Err(IndexError::NotAscending(1))),
        (&[5, 4], Err(IndexError::NotAscending(1))),
        (&[5, 6 + long], Err(IndexError::ChunkTooLong(1))),
        (&[far], Err(IndexError::ChunkTooLong(0))),
    ] {
        assert_eq!(encode(ends), result, "{ends:?}");
        assert_eq!(parse(ends), result, "{ends:?}");
    }
    let bytes = dynamic(&[1, 2]).expect("ascending");
    let cut = DynamicIndex::parse(bytes.slice(..bytes.len() - 1)).map(|_| ());
    assert_eq!(
        cut,
        Err(IndexError::WrongLength {
            expected: 4176,
            actual: 4175
        })
    );
}

#[test]
fn the_kinds_are_not_confused() {
    let (fixed, dynamic) = (
        fixed(8, 4, 2).expect("fits"),
        dynamic(&[3]).expect("ascending"),
    );
    let parse = |kind, bytes: &Bytes| Index::parse(kind, bytes.clone()).map(|index| index.size());
    assert_eq!(parse(ArchiveKind::Fixed, &fixed), Ok(8));
    assert_eq!(parse(ArchiveKind::Dynamic, &dynamic), Ok(3));
    assert_eq!(
        parse(ArchiveKind::Fixed, &dynamic),
        Err(IndexError::WrongMagic)
    );
    assert_eq!(
        parse(ArchiveKind::Dynamic, &fixed),
        Err(IndexError::WrongMagic)
    );
    assert_eq!(
        parse(ArchiveKind::Blob, &fixed),
        Err(IndexError::NotAnIndex)
    );
}

/// Any index of either kind, with at least no entries.
fn any_index() -> impl Strategy<Value = Index> {
    let fixed = (0..200_u64, 0..6_u32).prop_map(|(size, log)| {
        let chunk_size = 1 << log;
        let bytes = fixed(size, chunk_size, size.div_ceil(chunk_size) as usize);
        Index::parse(ArchiveKind::Fixed, bytes.expect("fits")).expect("what we encode is an index")
    });
    let dynamic = prop::collection::vec(1..40_u64, 0..40).prop_map(|lengths| {
        let bytes = dynamic(&lengths).expect("ascending");
        Index::parse(ArchiveKind::Dynamic, bytes).expect("what we encode is an index")
    });
    prop_oneof![fixed, dynamic]
}

proptest! {
    #[test]
    fn chunks_cover_the_archive_without_gaps(index in any_index()) {
        let mut end = 0;
        for (i, chunk) in index.chunks().enumerate() {
            prop_assert_eq!(chunk.start, end);
            prop_assert!(chunk.len() > 0);
            prop_assert_eq!(index.digest(i), Some(chunk.digest));
            prop_assert_eq!(index.range(i), Some(chunk.start..chunk.end));
            end = chunk.end;
        }
        prop_assert_eq!(index.size(), end);
        prop_assert_eq!(index.chunks().len(), index.len());
        prop_assert_eq!(index.chunk(index.len()), None);
        prop_assert_eq!(index.chunk(usize::MAX), None);
    }

    #[test]
    fn chunk_at_is_what_a_linear_scan_finds(index in any_index(), offset in 0..2000_u64) {
        let scan = |offset| index.chunks().position(|chunk| chunk.start <= offset && offset < chunk.end);
        prop_assert_eq!(index.chunk_at(offset), scan(offset));
        for chunk in index.chunks() {
            prop_assert_eq!(index.chunk_at(chunk.start), scan(chunk.start));
            prop_assert_eq!(index.chunk_at(chunk.end), scan(chunk.end));
        }
        prop_assert_eq!(index.chunk_at(u64::MAX), None);
    }

    #[test]
    fn covering_is_what_a_linear_scan_finds(index in any_index(), start in 0..300_u64, length in 0..300_u64) {
        let end = start + length;
        let mut wanted = (0..index.len()).filter(|i| {
            let range = index.range(*i).expect("below the number of entries");
            range.start < end && range.end > start && length > 0
        });
        let covering = index.covering(start..end);
        prop_assert!(covering.clone().eq(wanted.by_ref()), "{:?}", covering);
    }

    #[test]
    fn no_bytes_make_it_panic(
        dynamic: bool, fields in prop::collection::vec(any::<u8>(), 16), tail in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let kind = if dynamic { ArchiveKind::Dynamic } else { ArchiveKind::Fixed };
        let mut bytes = if dynamic { dynamic::MAGIC } else { fixed::MAGIC }.to_vec();
        bytes.resize(64, 1);
        bytes.extend(fields);
        bytes.resize(4096, 0);
        bytes.extend(&tail);
        for bytes in [bytes, tail] {
            if let Ok(index) = Index::parse(kind, bytes.into()) {
                prop_assert_eq!(index.chunks().map(|chunk| chunk.len()).sum::<u64>(), index.size());
            }
        }
    }
}
