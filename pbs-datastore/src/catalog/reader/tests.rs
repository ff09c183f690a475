//! Tests of directories read from chunks.

use proptest::prelude::*;
use uuid::Uuid;

use super::super::tests::{sample, write_name, write_signed, write_table, write_unsigned};
use super::*;
use crate::cache::fixture::{Bounds, Fixture};
use crate::{Catalog, CatalogEntry, DataBlob, Digest, DynamicIndex};

/// The stream as the bucket of `fixture` keeps it, in chunks of `chunk_bytes`.
fn stored(fixture: &Fixture, stream: &[u8], chunk_bytes: usize) -> CatalogReader {
    let mut entries = Vec::new();
    let mut end = 0;
    for part in stream.chunks(chunk_bytes) {
        end += part.len() as u64;
        let digest = Digest::of(part);
        let blob = DataBlob::encode_plain(Bytes::copy_from_slice(part)).expect("short");
        fixture.in_bucket(&digest, &blob);
        entries.push((end, digest));
    }
    let index = DynamicIndex::encode(&Uuid::nil(), 0, &entries).expect("ascending");
    let index = DynamicIndex::parse(index).expect("an index");
    CatalogReader::new(Arc::clone(&fixture.reader), index.into())
}

fn listed(directory: &CatalogDirectory) -> Vec<CatalogEntry> {
    let entries = directory.entries().expect("a table");
    entries.map(|entry| entry.expect("an entry")).collect()
}

/// A catalog of one directory within another within a third, and so on.
fn nested(depth: usize) -> Vec<u8> {
    let mut stream = CATALOG_MAGIC.to_vec();
    let mut table = write_table(0, |_| Vec::new(), &mut stream);
    for _ in 0..depth {
        let entry = |start: u64| {
            let mut entry = Vec::new();
            write_name(b'd', b"x", &mut entry);
            write_unsigned(start - table, &mut entry);
            entry
        };
        table = write_table(1, entry, &mut stream);
    }
    stream.extend(table.to_le_bytes());
    stream
}

#[tokio::test(start_paused = true)]
async fn directories_are_those_of_the_whole_stream() {
    let fixture = Fixture::new(Bounds::default()).await;
    let stream = sample();
    let catalog = Catalog::parse(stream.clone().into()).expect("a catalog");
    for chunk_bytes in [1, 5, 1000] {
        let mut reader = stored(&fixture, &stream, chunk_bytes);
        let root = reader.directory(&[]).await.expect("the root");
        let archives = catalog.entries(catalog.root()).expect("a table");
        assert_eq!(listed(&root), archives);
        let archive = reader.directory(&[b"root.pxar.didx"]).await;
        let CatalogKind::Directory(table) = archives[0].kind else {
            panic!("archives are directories");
        };
        let expected = catalog.entries(table).expect("a table");
        assert_eq!(listed(&archive.expect("an archive")), expected);
        let none = reader.directory(&[b"root.pxar.didx", b"x"]).await;
        assert!(matches!(none, Err(Error::NotFound(_))), "{none:?}");
        let file = reader.directory(&[b"root.pxar.didx", b"file"]).await;
        assert!(matches!(file, Err(Error::Invalid(_))), "{file:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn hostile_catalogs_have_bounds() {
    let fixture = Fixture::new(Bounds::default()).await;
    let refused = async |stream: &[u8], chunk_bytes: usize, path: &[&[u8]]| {
        let mut reader = stored(&fixture, stream, chunk_bytes);
        let refused = reader.directory(path).await;
        let refused = refused.expect_err("it cannot be read");
        assert!(reader.chunks_read <= CHUNKS_MAX + 1, "{refused}");
        refused.to_string()
    };
    let why = refused(b"no catalog at all", 100, &[]).await;
    assert!(why.contains("no catalog"), "{why}");
    let why = refused(&CATALOG_MAGIC, 100, &[]).await;
    assert!(why.contains("no catalog"), "{why}");
    // The root lies beyond the end, or in the magic.
    for root in [0, 7, 8, u64::MAX] {
        let stream = [&CATALOG_MAGIC[..], &root.to_le_bytes()].concat();
        let why = refused(&stream, 100, &[]).await;
        assert!(why.contains("damaged"), "{why}");
    }
    // A table that reaches beyond the end.
    let stream = [&CATALOG_MAGIC[..], &[0x70, 0], &8_u64.to_le_bytes()].concat();
    let why = refused(&stream, 100, &[]).await;
    assert!(why.contains("damaged at byte 8"), "{why}");
    // One that is longer than what is read.
    let mut stream = CATALOG_MAGIC.to_vec();
    write_unsigned(TABLE_BYTES_MAX + 1, &mut stream);
    stream.resize(stream.len() + TABLE_BYTES_MAX as usize + 1, 0);
    stream.extend(8_u64.to_le_bytes());
    let why = refused(&stream, 1 << 20, &[]).await;
    assert!(why.contains("too large to be listed"), "{why}");
    // A path that leads through chunk after chunk.
    let path = vec![&b"x"[..]; CHUNKS_MAX];
    let why = refused(&nested(CHUNKS_MAX), 3, &path).await;
    assert!(why.contains("too many chunks"), "{why}");
}

#[derive(Debug, Clone)]
enum Node {
    File(u64, i64),
    Pipe,
    Directory(Vec<Node>),
}

fn node() -> impl Strategy<Value = Node> {
    let leaf = prop_oneof![
        (any::<u64>(), any::<i64>()).prop_map(|(size, mtime)| Node::File(size, mtime)),
        Just(Node::Pipe),
    ];
    leaf.prop_recursive(4, 32, 5, |inner| {
        prop::collection::vec(inner, 0..5).prop_map(Node::Directory)
    })
}

/// Writes a directory after those in it. Entries are named by their number.
fn write(nodes: &[Node], stream: &mut Vec<u8>) -> u64 {
    let below: Vec<Option<u64>> = nodes
        .iter()
        .map(|node| match node {
            Node::Directory(nodes) => Some(write(nodes, stream)),
            _ => None,
        })
        .collect();
    let entries = |start: u64| {
        let mut entries = Vec::new();
        for (number, (node, below)) in nodes.iter().zip(&below).enumerate() {
            let name = number.to_string();
            match (node, below) {
                (Node::File(size, mtime), _) => {
                    write_name(b'f', name.as_bytes(), &mut entries);
                    write_unsigned(*size, &mut entries);
                    write_signed(*mtime, &mut entries);
                }
                (_, Some(table)) => {
                    write_name(b'd', name.as_bytes(), &mut entries);
                    write_unsigned(start - table, &mut entries);
                }
                _ => write_name(b'p', name.as_bytes(), &mut entries),
            }
        }
        entries
    };
    write_table(nodes.len() as u64, entries, stream)
}

fn check(catalog: &Catalog, table: CatalogTable, nodes: &[Node]) {
    let entries = catalog.entries(table).expect("a table");
    assert_eq!(entries.len(), nodes.len());
    for (number, (entry, node)) in entries.iter().zip(nodes).enumerate() {
        assert_eq!(entry.name, number.to_string());
        match (entry.kind, node) {
            (CatalogKind::Directory(table), Node::Directory(nodes)) => check(catalog, table, nodes),
            (kind, Node::File(size, mtime)) => {
                let (size, mtime) = (*size, *mtime);
                assert_eq!(kind, CatalogKind::File { size, mtime });
            }
            (kind, node) => assert!(
                kind == CatalogKind::Fifo && matches!(node, Node::Pipe),
                "{kind:?} {node:?}"
            ),
        }
    }
}

proptest! {
    #[test]
    fn trees_come_back(nodes in prop::collection::vec(node(), 0..6)) {
        let mut stream = CATALOG_MAGIC.to_vec();
        let root = write(&nodes, &mut stream);
        stream.extend(root.to_le_bytes());
        let catalog = Catalog::parse(stream.into()).expect("a catalog");
        check(&catalog, catalog.root(), &nodes);
    }
}
