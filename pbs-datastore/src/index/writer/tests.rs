//! Tests of index writers.

use super::*;
use crate::files::OsFiles;
use crate::{ArchiveKind, Index};

const MIB: u64 = 1 << 20;

fn append(offset: u64, size: u64) -> IndexAppend {
    let digest = Digest::of(&offset.to_le_bytes());
    IndexAppend {
        offset,
        size,
        digest,
    }
}

fn csum(chunks: &[IndexAppend]) -> Digest {
    let mut csum = IndexChecksum::new();
    for chunk in chunks {
        csum.push_fixed(&chunk.digest);
    }
    csum.finish()
}

fn fixed(dir: &Path, name: &str, size: Option<u64>) -> FixedWriter {
    FixedWriter::create(&OsFiles, dir.join(name), size, Uuid::nil(), 1).unwrap()
}

#[test]
fn fixed_slots_come_in_any_order_and_again() {
    let dir = tempfile::tempdir().unwrap();
    let chunks = [
        append(0, 4 * MIB),
        append(4 * MIB, 4 * MIB),
        append(8 * MIB, MIB),
    ];
    let mut writer = fixed(dir.path(), "a", Some(9 * MIB));
    writer.append(&OsFiles, &[chunks[2], chunks[0]]).unwrap();
    assert!(writer.check_counts(2, 9 * MIB).is_err());
    writer.append(&OsFiles, &[chunks[1]]).unwrap();
    writer.check_counts(3, 9 * MIB).unwrap();
    assert!(writer.check_counts(3, 8 * MIB).is_err());
    let path = writer.path().to_owned();
    let closed = writer.finish(&OsFiles, &csum(&chunks)).unwrap();
    let bytes = OsFiles.read(&path).unwrap();
    assert_eq!(bytes.len() as u64, closed.file_bytes);
    let index = Index::parse(ArchiveKind::Fixed, bytes).unwrap();
    assert_eq!((index.size(), index.csum()), (9 * MIB, closed.csum));
    assert_eq!(index.digest(1), Some(chunks[1].digest));
}

#[test]
fn fixed_chunks_that_do_not_fit_are_refused_and_those_before_stay() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = fixed(dir.path(), "a", Some(9 * MIB));
    for bad in [
        append(1, 4 * MIB),
        append(8 * MIB, 4 * MIB),
        append(0, MIB),
        append(12 * MIB, MIB),
        append(0, 0),
        append(u64::MAX - (4 * MIB - 1), 4 * MIB),
    ] {
        assert!(writer.append(&OsFiles, &[bad]).is_err(), "{bad:?}");
    }
    let error = writer.append(&OsFiles, &[append(0, 4 * MIB), append(1, 1)]);
    assert!(error.is_err());
    writer
        .append(&OsFiles, &[append(4 * MIB, 4 * MIB)])
        .unwrap();
    assert_eq!(writer.appends, 2);
    let error = writer.finish(&OsFiles, &Digest::of(b"")).unwrap_err();
    assert!(error.to_string().contains("chunk 2"), "{error}");
}

#[test]
fn a_growing_image_ends_with_its_short_chunk() {
    let dir = tempfile::tempdir().unwrap();
    let chunks = [append(0, 4 * MIB), append(4 * MIB, MIB)];
    let mut writer = fixed(dir.path(), "a", None);
    writer.append(&OsFiles, &chunks).unwrap();
    assert!(writer.append(&OsFiles, &[append(8 * MIB, MIB)]).is_err());
    assert!(writer.append(&OsFiles, &[append(0, MIB)]).is_err());
    writer.check_counts(2, 5 * MIB).unwrap();
    assert_eq!(
        writer.finish(&OsFiles, &csum(&chunks)).unwrap().size,
        5 * MIB
    );
}

#[test]
fn an_incremental_index_starts_as_a_copy() {
    let dir = tempfile::tempdir().unwrap();
    let mut chunks = [
        append(0, 4 * MIB),
        append(4 * MIB, 4 * MIB),
        append(8 * MIB, MIB),
    ];
    let mut writer = fixed(dir.path(), "a", Some(9 * MIB));
    writer.append(&OsFiles, &chunks).unwrap();
    let previous = writer.path().to_owned();
    writer.finish(&OsFiles, &csum(&chunks)).unwrap();
    let open = |name: &str, size, csum: &Digest| {
        let path = dir.path().join(name);
        FixedWriter::create_from(&OsFiles, path, size, &previous, csum, Uuid::nil(), 2)
    };
    assert!(open("x", 9 * MIB, &Digest::of(b"")).is_err());
    assert!(open("y", 14 * MIB, &csum(&chunks)).is_err());
    let mut writer = open("b", 9 * MIB, &csum(&chunks)).unwrap();
    chunks[1].digest = Digest::of(b"new");
    writer.append(&OsFiles, &[chunks[1]]).unwrap();
    writer.check_counts(1, 4 * MIB).unwrap();
    let path = writer.path().to_owned();
    writer.finish(&OsFiles, &csum(&chunks)).unwrap();
    let index = Index::parse(ArchiveKind::Fixed, OsFiles.read(&path).unwrap()).unwrap();
    assert_eq!(index.csum(), csum(&chunks));
}

#[test]
fn a_dynamic_index_is_appended_to() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    let mut writer = DynamicWriter::create(&OsFiles, path.clone(), Uuid::nil(), 1).unwrap();
    assert!(writer.check_counts(0, 0).is_err(), "nothing to close");
    assert!(
        writer
            .append(&OsFiles, &[append(0, 5), append(7, 1)])
            .is_err()
    );
    writer.append(&OsFiles, &[append(5, 3)]).unwrap();
    writer.check_counts(2, 8).unwrap();
    let mut csum = IndexChecksum::new();
    csum.push_dynamic(5, &append(0, 5).digest);
    csum.push_dynamic(8, &append(5, 3).digest);
    let closed = writer.finish(&OsFiles, &csum.finish()).unwrap();
    let index = Index::parse(ArchiveKind::Dynamic, OsFiles.read(&path).unwrap()).unwrap();
    assert_eq!(
        (index.size(), index.csum(), index.len()),
        (8, closed.csum, 2)
    );
}

#[test]
fn a_wrong_checksum_spends_the_writer() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    let mut writer = DynamicWriter::create(&OsFiles, path.clone(), Uuid::nil(), 1).unwrap();
    writer.append(&OsFiles, &[append(0, 5)]).unwrap();
    assert!(writer.finish(&OsFiles, &Digest::of(b"")).is_err());
    let bytes = OsFiles.read(&path).unwrap();
    assert!(
        Index::parse(ArchiveKind::Dynamic, bytes).is_err(),
        "no header yet"
    );
}
