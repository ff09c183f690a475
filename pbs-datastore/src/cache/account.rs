//! Start-up accounting: finds out what the cache directory holds, oldest use first, while the daemon already works.
//!
//! Until it has ended inserts create empty markers and reads find what is cached as always. A directory that cannot be
//! listed is tried again until it can: what is not known cannot be bounded. Each chunk costs 48 bytes while it runs.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::Inner;
use crate::Digest;
use crate::error::{About as _, Result};
use crate::files::{Files, optional};

/// Folders listed in one piece of file work: long enough to be worth the way to another thread, short enough that a
/// stop is noticed.
const FOLDERS: usize = 64;
/// Chunks added while the accounting is locked.
const CHUNKS: usize = 4096;
/// How long to wait after a directory could not be listed.
const RETRY: Duration = Duration::from_secs(10);

/// A chunk with content: last use in microseconds, digest, length.
type Found = (i64, Digest, u32);

/// Accounts for everything, then lets inserts cache. Ends early if the cache is stopped.
pub(super) async fn run(inner: Arc<Inner>) {
    let Some(folders) = patiently(&inner, Inner::folders).await else {
        return;
    };
    let mut found = Vec::new();
    for batch in folders.chunks(FOLDERS) {
        let batch = batch.to_vec();
        let find = move |inner: &Inner, files: &dyn Files| inner.find(files, &batch);
        let Some(chunks) = patiently(&inner, find).await else {
            return;
        };
        found.extend(chunks);
    }
    let worker = Arc::clone(&inner);
    let work = inner.env.compute(move || worker.add_found(found));
    work.await;
}

/// Does a piece of file work, again and again until it succeeds; `None` if the cache is stopped.
async fn patiently<T: Send + 'static>(
    inner: &Arc<Inner>,
    work: impl Fn(&Inner, &dyn Files) -> Result<T> + Send + Sync + 'static,
) -> Option<T> {
    let work = Arc::new(work);
    let mut warned = false;
    loop {
        if *inner.stop.borrow() {
            return None;
        }
        let (worker, work) = (Arc::clone(inner), Arc::clone(&work));
        let done = inner.env.io(move |files| work(&worker, files)).await;
        let error = match done {
            Ok(value) => return Some(value),
            Err(error) => error,
        };
        if warned {
            tracing::debug!("still cannot account for the cache: {error}");
        } else {
            warned = true;
            tracing::warn!("cannot account for the cache, so nothing is cached: {error}");
        }
        if !inner.goes_on(inner.env.sleep(RETRY)).await {
            return None;
        }
    }
}

impl Inner {
    /// The folders that are there.
    fn folders(&self, files: &dyn Files) -> Result<Vec<PathBuf>> {
        let chunks = self.markers.chunks();
        let mut folders = files.list(chunks).about(chunks)?;
        folders.retain(|folder| folder.stat.is_dir);
        let paths = folders.into_iter().map(|folder| chunks.join(folder.name));
        Ok(paths.collect())
    }

    fn find(&self, files: &dyn Files, folders: &[PathBuf]) -> Result<Vec<Found>> {
        let mut found = Vec::new();
        for path in folders {
            let Some(entries) = optional(files.list(path)).about(path)? else {
                continue;
            };
            for entry in entries {
                let size = u32::try_from(entry.stat.size).unwrap_or(u32::MAX);
                let Ok(digest) = entry.name.parse::<Digest>() else {
                    continue;
                };
                self.env.raise_clock(entry.stat.atime);
                if size > 0 && !entry.stat.is_dir {
                    found.push((entry.stat.atime.as_microsecond(), digest, size));
                }
            }
        }
        Ok(found)
    }

    fn add_found(&self, mut found: Vec<Found>) {
        found.sort_unstable();
        for chunks in found.chunks(CHUNKS) {
            let chunks: Vec<_> = chunks
                .iter()
                .map(|(_, digest, size)| (*digest, *size))
                .collect();
            self.lru.add_found(&chunks);
        }
        self.lru.end_accounting();
        let oldest = found
            .first()
            .and_then(|(used, ..)| Timestamp::from_microsecond(*used).ok());
        tracing::info!(
            chunks = found.len(),
            bytes = self.lru.used(),
            oldest = oldest.map(tracing::field::display),
            "the cache is accounted for"
        );
    }
}
