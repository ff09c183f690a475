//! Inserts into a directory: what is there already decides.

use std::path::PathBuf;

use bytes::Bytes;
use rstest::rstest;

use super::*;
use crate::files::OsFiles;
use crate::session::Sessions;
use crate::{Backend, CryptKey};

struct Directory {
    dir: tempfile::TempDir,
    chunks: Arc<ChunkStore>,
    session: WriterSession,
}

impl Directory {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let env = Env::simulated(now, 1, Arc::new(OsFiles));
        let markers = Markers::new(dir.path());
        markers.prepare(&env, &OsFiles).unwrap();
        let backend = Backend::Directory(dir.path().to_owned());
        let session = Sessions::new(env.clone(), "start".into()).open("a");
        let chunks = Arc::new(ChunkStore {
            added: Arc::new(Added::new(&env, dir.path())),
            env,
            config: Arc::new(DatastoreConfig::new("store", backend)),
            table: ChunkTable::new(),
            markers,
            bucket: None,
            not_before: None,
        });
        Self {
            dir,
            chunks,
            session,
        }
    }

    fn path(&self, chunk: &VerifiedChunk) -> PathBuf {
        Markers::new(self.dir.path()).path(&chunk.digest)
    }

    fn stored(&self, chunk: &VerifiedChunk) -> Vec<u8> {
        std::fs::read(self.path(chunk)).unwrap()
    }

    async fn insert(&self, chunk: &VerifiedChunk) -> Result<Inserted> {
        self.chunks
            .insert(&self.session, chunk.clone(), InsertOptions::default())
            .await
    }
}

fn encoded(chunk: &VerifiedChunk) -> Vec<u8> {
    chunk.blob.to_body().into_bytes().to_vec()
}

fn plain(text: &str) -> VerifiedChunk {
    let data = Bytes::copy_from_slice(text.as_bytes());
    let blob = DataBlob::encode_plain(data.clone()).unwrap();
    VerifiedChunk::check(blob, Digest::of(&data), data.len() as u32).unwrap()
}

/// An encrypted blob of `len` bytes of contents under the digest of `text`.
fn encrypted(text: &str, len: usize) -> VerifiedChunk {
    let data = Bytes::from(vec![b'x'; len]);
    let blob = DataBlob::encode(data, false, Some(&CryptKey::new([7; 32])), [1; 16]).unwrap();
    VerifiedChunk::check(blob, Digest::of(text.as_bytes()), len as u32).unwrap()
}

/// 40 bytes; a blob of it is as long as an encrypted one of 8.
const TEXT: &str = "forty bytes, as long as eight, encrypted";

#[rstest]
#[case::of_the_same_size(8)]
#[case::of_another_size(9)]
#[tokio::test]
async fn natures_do_not_mix(#[case] len: usize) {
    let (ours, forged) = (plain(TEXT), encrypted(TEXT, len));
    for (first, second) in [(&ours, &forged), (&forged, &ours)] {
        let directory = Directory::new();
        assert_eq!(directory.insert(first).await.unwrap(), Inserted::New);
        let error = directory.insert(second).await;
        assert!(
            matches!(error, Err(Error::NatureConflict { .. })),
            "{error:?}"
        );
        assert_eq!(directory.stored(first), encoded(first));
    }
}

#[tokio::test]
async fn the_second_is_a_duplicate() {
    let directory = Directory::new();
    let chunk = plain(TEXT);
    assert_eq!(directory.insert(&chunk).await.unwrap(), Inserted::New);
    assert_eq!(directory.insert(&chunk).await.unwrap(), Inserted::Duplicate);
}

#[rstest]
#[case::empty(Vec::new())]
#[case::short(b"cut".to_vec())]
#[case::no_blob(vec![0; encoded(&plain(TEXT)).len()])]
#[tokio::test]
async fn what_is_damaged_is_replaced(#[case] there: Vec<u8>) {
    let directory = Directory::new();
    let chunk = plain(TEXT);
    let path = directory.path(&chunk);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, there).unwrap();
    assert_eq!(directory.insert(&chunk).await.unwrap(), Inserted::New);
    assert_eq!(directory.stored(&chunk), encoded(&chunk));
}
