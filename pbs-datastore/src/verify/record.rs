//! Which chunks were read and found good, and when, so that a chunk is not read again for every snapshot that shares it, and a
//! run whose limits are smaller than a snapshot gets to the end of it sooner or later.
//!
//! The record is in memory as long as a run is under way, and in `.holdfast/verified` otherwise, replaced as a whole at the
//! end of a run and every few minutes of it. It is a hint that saves reads: a lost or damaged one costs nothing else, and
//! what it says of a chunk is believed only while the chunk has its marker. Whoever finds a chunk missing or damaged takes
//! the marker away.
//!
//! A digest is remembered by 64 bits of its SHA-256 under a key of the record's own, so that nobody can make up a digest
//! that passes for another.
//!
//! The file: [`MAGIC`], the key of 16 bytes, then for each chunk in ascending order 8 bytes of the hash and 4 bytes with the
//! hour since 1970 times two, plus one if the chunk is encrypted; at the end the SHA-256 of all that. Little-endian.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use crate::chunk_store::marker::Markers;
use crate::error::{About as _, Result};
use crate::files::{self, Files, optional};
use crate::layout::{HoldfastFile, LocalLayout, Place};
use crate::{Digest, Env};

/// Begins the file.
const MAGIC: &[u8; 20] = b"holdfast verified 1\n";
const KEY_BYTES: usize = 16;
const ENTRY_BYTES: usize = 12;
const SUM_BYTES: usize = 32;
/// Chunks that are remembered, some 32 bytes of memory each; 16 TiB of chunks of 4 MiB. Beyond them the oldest entries go.
const CHUNKS_MAX: usize = 4 << 20;

/// When a chunk was read, and whether it is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen(u32);

impl Seen {
    fn new(at: Timestamp, encrypted: bool) -> Self {
        let hours = u32::try_from(at.as_second().max(0) / 3600).unwrap_or(u32::MAX >> 1);
        Self(hours << 1 | u32::from(encrypted))
    }

    fn hour(self) -> u32 {
        self.0 >> 1
    }

    fn encrypted(self) -> bool {
        self.0 & 1 == 1
    }
}

/// The record while it is in memory.
#[derive(Debug)]
struct Table {
    key: [u8; KEY_BYTES],
    seen: BTreeMap<u64, Seen>,
}

impl Table {
    fn new(key: [u8; KEY_BYTES]) -> Self {
        let seen = BTreeMap::new();
        Self { key, seen }
    }

    fn hash(&self, digest: &Digest) -> u64 {
        let hash = Sha256::new().chain_update(self.key);
        let hash: [u8; SUM_BYTES] = hash.chain_update(digest.as_bytes()).finalize().into();
        hash[..8]
            .iter()
            .fold(0, |bits, byte| bits << 8 | u64::from(*byte))
    }

    fn write(&self) -> Vec<u8> {
        let length = MAGIC.len() + KEY_BYTES + self.seen.len() * ENTRY_BYTES + SUM_BYTES;
        let mut bytes = Vec::with_capacity(length);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&self.key);
        for (hash, seen) in &self.seen {
            bytes.extend_from_slice(&hash.to_le_bytes());
            bytes.extend_from_slice(&seen.0.to_le_bytes());
        }
        let sum: [u8; SUM_BYTES] = Sha256::digest(&bytes).into();
        bytes.extend_from_slice(&sum);
        bytes
    }

    /// `None` if the bytes are not what was written.
    fn read(bytes: &[u8]) -> Option<Self> {
        let (content, sum) = bytes.split_last_chunk::<SUM_BYTES>()?;
        if <[u8; SUM_BYTES]>::from(Sha256::digest(content)) != *sum {
            return None;
        }
        let (key, entries) = content.strip_prefix(MAGIC)?.split_first_chunk()?;
        let (entries, []) = entries.as_chunks::<ENTRY_BYTES>() else {
            return None;
        };
        let seen = entries.iter().filter_map(|entry| {
            let (hash, seen) = entry.split_first_chunk::<8>()?;
            let seen = seen.first_chunk::<4>()?;
            Some((u64::from_le_bytes(*hash), Seen(u32::from_le_bytes(*seen))))
        });
        Some(Self {
            key: *key,
            seen: seen.collect(),
        })
    }

    /// Forgets the oldest once there are too many.
    fn bound(&mut self, chunks_max: usize) {
        if self.seen.len() <= chunks_max {
            return;
        }
        let mut hours: Vec<u32> = self.seen.values().map(|seen| seen.hour()).collect();
        let kept = chunks_max / 8 * 7;
        let from = hours.len() - kept;
        let (_, oldest, _) = hours.select_nth_unstable(from);
        let oldest = *oldest;
        self.seen.retain(|_, seen| seen.hour() > oldest);
    }
}

/// The record in the hands of a run.
#[derive(Debug)]
pub(super) struct Loaded(Mutex<Table>);

impl Loaded {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the chunk is encrypted, if it was found good at `since` or later.
    pub(super) fn good(&self, digest: &Digest, since: Timestamp) -> Option<bool> {
        let table = self.table();
        let seen = table.seen.get(&table.hash(digest))?;
        (seen.hour() > Seen::new(since, false).hour()).then(|| seen.encrypted())
    }

    /// A chunk was read and is good.
    pub(super) fn note(&self, digest: &Digest, encrypted: bool, now: Timestamp) {
        let mut table = self.table();
        let hash = table.hash(digest);
        table.seen.insert(hash, Seen::new(now, encrypted));
        table.bound(CHUNKS_MAX);
    }

    /// A chunk was read and is not good.
    pub(super) fn forget(&self, digest: &Digest) {
        let mut table = self.table();
        let hash = table.hash(digest);
        table.seen.remove(&hash);
    }
}

/// The record of a datastore.
#[derive(Debug)]
pub(crate) struct VerifiedChunks {
    env: Env,
    markers: Markers,
    path: PathBuf,
    loaded: tokio::sync::Mutex<Weak<Loaded>>,
}

impl VerifiedChunks {
    /// That of the datastore whose local directory is `root`.
    pub(crate) fn new(env: Env, markers: Markers, root: &Path) -> Self {
        let place = Place::Holdfast(HoldfastFile::Verified);
        Self {
            path: root.join(LocalLayout::Cache.path(&place)),
            env,
            markers,
            loaded: tokio::sync::Mutex::default(),
        }
    }

    /// The record; the runs that are under way share it.
    pub(super) async fn open(&self) -> Arc<Loaded> {
        let mut shared = self.loaded.lock().await;
        if let Some(loaded) = shared.upgrade() {
            return loaded;
        }
        let (path, key) = (self.path.clone(), self.env.random_16());
        let read = move |files: &dyn Files| {
            let bytes = optional(files.read(&path));
            let bytes = bytes.inspect_err(|error| {
                tracing::warn!(path = %path.display(), %error, "the record of verified chunks cannot be read");
            });
            let table = bytes.ok().flatten().and_then(|bytes| Table::read(&bytes));
            table.unwrap_or_else(|| Table::new(key))
        };
        let loaded = Arc::new(Loaded(Mutex::new(self.env.io(read).await)));
        *shared = Arc::downgrade(&loaded);
        loaded
    }

    /// Writes the record.
    pub(super) async fn save(&self, loaded: &Arc<Loaded>) -> Result<()> {
        // One at a time, or an older one could be written over a newer.
        let _shared = self.loaded.lock().await;
        let table = Arc::clone(loaded);
        let bytes = self.env.compute(move || table.table().write()).await;
        let (path, temporary) = (self.path.clone(), self.markers.temporary().to_owned());
        let unique = self.env.new_id();
        let write = move |files: &dyn Files| {
            files::replace(files, &temporary, &path, &[Bytes::from(bytes)], &unique).about(&path)
        };
        self.env.io(write).await
    }

    /// Those of `digests` that have a marker.
    pub(super) async fn with_marker(&self, digests: Vec<Digest>) -> Result<Vec<Digest>> {
        let markers = self.markers.clone();
        let look = move |files: &dyn Files| {
            let mut there = Vec::with_capacity(digests.len());
            for digest in digests {
                let path = markers.path(&digest);
                if optional(files.stat(&path)).about(&path)?.is_some() {
                    there.push(digest);
                }
            }
            Ok(there)
        };
        self.env.io(look).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(i: u32) -> Digest {
        Digest::of(&i.to_le_bytes())
    }

    fn hours(hours: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + hours * 3600).unwrap()
    }

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let loaded = Loaded(Mutex::new(Table::new([7; 16])));
        for i in 0..100 {
            loaded.note(&digest(i), i % 3 == 0, hours(i.into()));
        }
        let bytes = loaded.table().write();
        let read = Loaded(Mutex::new(Table::read(&bytes).expect("our own")));
        for i in 0..100 {
            let (before, then) = (hours(i64::from(i) - 1), hours(i.into()));
            assert_eq!(read.good(&digest(i), before), Some(i % 3 == 0));
            assert_eq!(read.good(&digest(i), then), None, "not later than that");
        }
        assert_eq!(read.good(&digest(100), hours(-1)), None);
        for i in (0..bytes.len()).step_by(7) {
            let mut broken = bytes.clone();
            broken[i] ^= 1;
            assert!(Table::read(&broken).is_none(), "byte {i}");
            assert!(Table::read(&bytes[..i]).is_none(), "{i} bytes");
        }
    }

    #[test]
    fn the_oldest_go_first() {
        let mut table = Table::new([7; 16]);
        for i in 0..80 {
            let seen = Seen::new(hours(i.into()), false);
            table.seen.insert(table.hash(&digest(i)), seen);
        }
        table.bound(80);
        assert_eq!(table.seen.len(), 80);
        table.bound(79);
        assert!(table.seen.len() < 70);
        let hash = table.hash(&digest(79));
        assert!(table.seen.contains_key(&hash), "the newest stays");
        let hash = table.hash(&digest(0));
        assert!(!table.seen.contains_key(&hash));
    }
}
