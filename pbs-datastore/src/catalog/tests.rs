//! Tests of catalogs.

use proptest::prelude::*;

use super::*;

pub(in crate::catalog) fn write_unsigned(mut number: u64, stream: &mut Vec<u8>) {
    while number > 0x7f {
        stream.push(number as u8 | 0x80);
        number >>= 7;
    }
    stream.push(number as u8);
}

pub(in crate::catalog) fn write_signed(number: i64, stream: &mut Vec<u8>) {
    write_unsigned(number.unsigned_abs(), stream);
    if number < 0 {
        *stream.last_mut().expect("a number has a byte") |= 0x80;
        stream.push(0);
    }
}

fn reader(stream: &Bytes) -> Reader {
    Reader {
        stream: stream.clone(),
        at: 0,
        base: 0,
    }
}

/// Writes a table of entries that are complete but for the length in front, and returns where it begins.
pub(in crate::catalog) fn write_table(
    count: u64,
    entries: impl FnOnce(u64) -> Vec<u8>,
    stream: &mut Vec<u8>,
) -> u64 {
    let start = stream.len() as u64;
    let mut rest = Vec::new();
    write_unsigned(count, &mut rest);
    rest.extend(entries(start));
    write_unsigned(rest.len() as u64, stream);
    stream.extend(rest);
    start
}

pub(in crate::catalog) fn write_name(letter: u8, name: &[u8], entry: &mut Vec<u8>) {
    entry.push(letter);
    write_unsigned(name.len() as u64, entry);
    entry.extend(name);
}

/// A catalog of one archive with one entry of each kind but directories.
pub(in crate::catalog) fn sample() -> Vec<u8> {
    let mut stream = CATALOG_MAGIC.to_vec();
    let archive = write_table(
        7,
        |_| {
            let mut entries = Vec::new();
            write_name(b'f', b"file", &mut entries);
            write_unsigned(300, &mut entries);
            write_signed(-300, &mut entries);
            for letter in *b"lhbcps" {
                write_name(letter, &[letter], &mut entries);
            }
            entries
        },
        &mut stream,
    );
    let root = write_table(
        1,
        |start| {
            let mut entries = Vec::new();
            write_name(b'd', b"root.pxar.didx", &mut entries);
            write_unsigned(start - archive, &mut entries);
            entries
        },
        &mut stream,
    );
    stream.extend(root.to_le_bytes());
    stream
}

#[test]
fn vector_numbers() {
    for (bytes, unsigned, signed) in [
        (&[0xac, 0x02][..], Some(300), 300),
        (&[0x81, 0x00], None, -1),
        (&[0xac, 0x82, 0x00], None, -300),
        (&[0x00], Some(0), 0),
    ] {
        let stream = Bytes::from_static(bytes);
        assert_eq!(reader(&stream).unsigned().ok(), unsigned, "{bytes:x?}");
        assert_eq!(reader(&stream).signed(), Ok(signed), "{bytes:x?}");
    }
}

#[test]
fn numbers_that_do_not_fit_are_refused() {
    for bytes in [
        &[0xff; 9][..],
        &[0xff; 11],
        &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02],
        b"",
    ] {
        let stream = Bytes::copy_from_slice(bytes);
        assert!(reader(&stream).unsigned().is_err(), "{bytes:x?}");
    }
}

#[test]
fn a_catalog_is_read_from_its_root() {
    let catalog = Catalog::parse(sample().into()).expect("a catalog");
    let archives = catalog.entries(catalog.root()).expect("a table");
    assert_eq!(archives.len(), 1);
    assert_eq!(&archives[0].name[..], b"root.pxar.didx");
    let CatalogKind::Directory(table) = archives[0].kind else {
        panic!("archives are directories");
    };
    let entries = catalog.entries(table).expect("a table");
    assert_eq!(
        entries[0].kind,
        CatalogKind::File {
            size: 300,
            mtime: -300
        }
    );
    let letters: String = entries.iter().map(|entry| entry.kind.letter()).collect();
    assert_eq!(letters, "flhbcps");
    let found = catalog
        .find(table, b"p")
        .expect("a table")
        .map(|entry| entry.kind);
    assert_eq!(found, Some(CatalogKind::Fifo));
    assert_eq!(catalog.find(table, b"x"), Ok(None));
}

#[test]
fn frames_that_cannot_be_are_refused() {
    let good = sample();
    assert!(matches!(
        Catalog::parse(Bytes::new()),
        Err(CatalogError::WrongMagic)
    ));
    assert!(Catalog::parse(good[..8].to_vec().into()).is_err());
    for root in [0, 7, good.len() as u64 - 8, u64::MAX] {
        let mut bad = good.clone();
        let at = bad.len() - 8;
        bad[at..].copy_from_slice(&root.to_le_bytes());
        assert!(matches!(
            Catalog::parse(bad.into()),
            Err(CatalogError::Damaged(_))
        ));
    }
}

#[test]
fn a_directory_cannot_contain_itself_and_names_cannot_lead_elsewhere() {
    let root = |name: &[u8], distance: u64| {
        let mut stream = CATALOG_MAGIC.to_vec();
        let entry = |_| {
            let mut entry = Vec::new();
            write_name(b'd', name, &mut entry);
            write_unsigned(distance, &mut entry);
            entry
        };
        stream.push(0);
        let root = write_table(1, entry, &mut stream);
        stream.extend(root.to_le_bytes());
        let catalog = Catalog::parse(stream.into()).expect("the frame is right");
        catalog.entries(catalog.root()).map(|entries| entries.len())
    };
    assert_eq!(root(b"a", 1), Ok(1));
    for (name, distance) in [
        (&b"a"[..], 0),
        (b"a", 2),
        (b"a", u64::MAX),
        (b"..", 1),
        (b".", 1),
        (b"", 1),
        (b"a/b", 1),
    ] {
        assert!(root(name, distance).is_err(), "{name:?} {distance}");
    }
}

proptest! {
    #[test]
    fn numbers_come_back(number: u64, signed: i64) {
        let mut stream = Vec::new();
        write_unsigned(number, &mut stream);
        write_signed(signed, &mut stream);
        let stream = Bytes::from(stream);
        let mut reader = reader(&stream);
        prop_assert_eq!(reader.unsigned(), Ok(number));
        prop_assert_eq!(reader.signed(), Ok(signed));
        prop_assert_eq!(reader.at, stream.len());
    }

    #[test]
    fn no_bytes_make_it_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut stream = sample();
        for (at, byte) in changes {
            let at = at.index(stream.len());
            stream[at] = byte;
        }
        if let Ok(catalog) = Catalog::parse(stream.into()) {
            let mut tables = vec![catalog.root()];
            // Every step goes to an earlier table, so this ends.
            while let Some(table) = tables.pop() {
                for entry in catalog.entries(table).unwrap_or_default() {
                    if let CatalogKind::Directory(child) = entry.kind {
                        prop_assert!(child.0 < table.0);
                        tables.push(child);
                    }
                }
            }
        }
    }
}
