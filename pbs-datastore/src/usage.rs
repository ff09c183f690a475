//! How many bytes of chunks are stored: what the last collection counted, and what was added since.
//!
//! What is uploaded is counted when the backend has accepted it, and the count is written to `.holdfast/usage` when a backup ends and at a stop. So
//! what a crash cuts off is not counted, nor is an upload of which nobody knows the outcome; what is uploaded while a collection lists may
//! count twice, and so does all of it after a crash at the very end of a collection. The next collection puts all that right. Indexes and manifests are not counted.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;
use tokio::sync::Mutex;

use crate::Env;
use crate::error::{About as _, Result};
use crate::files::{Files, optional, replace};
use crate::layout::{Folder, HoldfastFile, LocalLayout, Place};

/// What is stored; bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct DatastoreUsage {
    /// What all snapshots hold together, each chunk counted as often as it is named; as of the last collection.
    pub logical: u64,
    /// Chunks, as they are stored: as of the last collection, and what was added since.
    pub stored: u64,
    /// Of them what no snapshot needs any more, as of the last collection: the next ones remove it.
    pub garbage: u64,
    /// Of them what was added since.
    pub added: u64,
    /// Chunks in the local cache.
    pub cached: u64,
    /// How much may be stored; `None` is not limited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quota: Option<u64>,
}

impl DatastoreUsage {
    /// Whether nothing more may be stored.
    pub fn is_full(&self) -> bool {
        self.quota.is_some_and(|quota| self.stored >= quota)
    }
}

/// Counts what is added.
#[derive(Debug)]
pub(crate) struct Added {
    env: Env,
    path: PathBuf,
    temporary: PathBuf,
    bytes: AtomicU64,
    /// What the file says; held while it is written.
    saved: Mutex<u64>,
}

impl Added {
    /// Nothing yet, in a cache directory or the directory of a datastore.
    pub(crate) fn new(env: &Env, root: &Path) -> Self {
        let local = LocalLayout::Cache;
        Self {
            env: env.clone(),
            path: root.join(local.path(&Place::Holdfast(HoldfastFile::Usage))),
            temporary: root.join(local.folder(&Folder::Temporary)),
            bytes: AtomicU64::new(0),
            saved: Mutex::new(0),
        }
    }

    /// Reads what was counted before; what cannot be read counts nothing.
    pub(crate) async fn open(env: &Env, root: &Path) -> Self {
        let added = Self::new(env, root);
        let path = added.path.clone();
        let read = env.io(move |files: &dyn Files| optional(files.read(&path)));
        let text = read.await.ok().flatten().unwrap_or_default();
        let text = std::str::from_utf8(&text).unwrap_or_default();
        if let Ok(bytes) = text.trim_end().parse() {
            added.bytes.store(bytes, Ordering::Relaxed);
            *added.saved.lock().await = bytes;
        }
        added
    }

    /// So many bytes were accepted.
    pub(crate) fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes since the last collection.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// A collection has counted what was there when these were all.
    pub(crate) fn collected(&self, before: u64) {
        self.bytes.fetch_sub(before, Ordering::Relaxed);
    }

    /// Writes it down, unless that is done.
    pub(crate) async fn save(&self) -> Result<()> {
        let mut saved = self.saved.lock().await;
        let bytes = self.bytes();
        if *saved == bytes {
            return Ok(());
        }
        let (path, temporary) = (self.path.clone(), self.temporary.clone());
        let unique = self.env.new_id();
        let write = move |files: &dyn Files| {
            let text = format!("{bytes}\n");
            replace(files, &temporary, &path, &[text.into()], &unique).about(&path)
        };
        self.env.io(write).await?;
        *saved = bytes;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use rstest::rstest;

    use crate::fixture::Fixture;
    use crate::{DataBlob, Digest, Error, GcOptions, InsertOptions, JobContext, VerifiedChunk};

    /// Stores a chunk of so many bytes that cannot be compressed; how many bytes that takes.
    async fn store(fixture: &Fixture, length: usize) -> u64 {
        let data = Bytes::from(crate::fixture::noise(length));
        let digest = Digest::of(&data);
        let blob = DataBlob::encode_plain(data).unwrap();
        let chunk = VerifiedChunk::check(blob, digest, length as u32).unwrap();
        let bytes = chunk.encoded_len() as u64;
        let session = fixture.datastore.sessions().open("a test");
        let chunks = fixture.datastore.chunks();
        for _ in 0..2 {
            let options = InsertOptions::default();
            chunks
                .insert(&session, chunk.clone(), options)
                .await
                .unwrap();
        }
        bytes
    }

    #[rstest]
    #[tokio::test(start_paused = true)]
    async fn what_is_added_counts_once_and_until_it_is_collected(
        #[values(true, false)] bucket: bool,
    ) {
        let fixture = Fixture::new(bucket).await;
        let first = store(&fixture, 1000).await;
        let second = store(&fixture, 3000).await;
        let usage = fixture.datastore.usage();
        assert_eq!(
            (usage.stored, usage.added),
            (first + second, first + second)
        );
        assert_eq!(usage.quota, None);
        // Nobody needs either.
        let job = JobContext::detached();
        tokio::time::sleep(std::time::Duration::from_hours(1)).await;
        let collected = fixture
            .datastore
            .collect(GcOptions::default(), "UPID", &job)
            .await;
        assert_eq!(collected.unwrap().removed_bytes, first + second);
        let usage = fixture.datastore.usage();
        assert_eq!((usage.stored, usage.added), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_written_down_is_there_at_the_next_start() {
        let fixture = Fixture::new(true).await;
        let first = store(&fixture, 1000).await;
        let fixture = fixture.reopen().await;
        assert_eq!(fixture.datastore.usage().stored, first);
    }

    #[rstest]
    #[tokio::test(start_paused = true)]
    async fn a_full_datastore_takes_no_backup(#[values(true, false)] bucket: bool) {
        let fixture = Fixture::new(bucket).await;
        let stored = store(&fixture, 1000).await;
        let datastore = &fixture.datastore;
        for (quota, full) in [(stored + 1, false), (stored, true)] {
            datastore.set_quota(Some(quota));
            let space = datastore.space().await.unwrap();
            assert_eq!((space.total, space.used), (quota, stored));
            assert_eq!(space.avail, quota - stored);
            let request = crate::fixture::request("2026-11-14T22:13:20Z");
            let begun = datastore.begin_backup(request).await;
            assert_eq!(matches!(begun, Err(Error::Full(_))), full, "{begun:?}");
            if let Ok(backup) = begun {
                backup.end("done").await;
            }
        }
        datastore.set_quota(None);
        let request = crate::fixture::request("2026-11-15T22:13:20Z");
        assert!(datastore.begin_backup(request).await.is_ok());
    }
}
