//! Which chunks were read and found good, and when, so that a chunk is not read again for every snapshot that shares it, and a
//! run whose limits are smaller than a snapshot gets to the end of it sooner or later.
//!
//! The record is in memory as long as a run is under way, shared by all that are, and in `.holdfast/verified` otherwise,
//! replaced as a whole at the end of a run and every few minutes of it; a crash leaves the old one or the new one. It is a hint
//! that saves reads: a lost or damaged one costs nothing else, and what it says of a chunk is believed only if the chunk has a
//! marker that is older. Whoever finds a chunk missing or damaged takes the marker away, and one that is made from a mere
//! listing is younger. As damage cannot always be set aside at once, the record is told of it too
//! ([`VerifiedChunks::distrust`]), for as long as the process runs or until it is written.
//!
//! A digest is remembered by 64 bits of its SHA-256 under a key of the record's own, so that nobody can make up a digest
//! that passes for another.
//!
//! The file: [`MAGIC`], the key of 16 bytes, then for each chunk in ascending order 8 bytes of the hash, 4 bytes with the
//! hour since 1970 times two, plus one if the chunk is encrypted, and 4 bytes with the length of its content; at the end the
//! SHA-256 of all that. Little-endian.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use crate::chunk_store::marker::{Markers, Nature};
use crate::error::{About as _, Result};
use crate::files::{self, FileStat, Files, optional};
use crate::layout::{HoldfastFile, LocalLayout, Place};
use crate::{Digest, Env};

/// Begins the file.
const MAGIC: &[u8; 20] = b"holdfast verified 2\n";
const KEY_BYTES: usize = 16;
const ENTRY_BYTES: usize = 16;
const SUM_BYTES: usize = 32;
/// Damaged chunks that are kept in mind.
const DISTRUSTED_MAX: usize = 1 << 16;
/// Chunks that are remembered, some 32 bytes of memory each; 16 TiB of chunks of 4 MiB. Beyond them the oldest entries go.
const CHUNKS_MAX: usize = 4 << 20;

/// When a chunk was read, whether it is encrypted, and how long its content is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// Hours since 1970, times two; plus one if it is encrypted.
    hour_and_kind: u32,
    /// Bytes of its content.
    length: u32,
}

fn hour_of(time: Timestamp) -> u32 {
    u32::try_from(time.as_second().max(0) / 3600).unwrap_or(u32::MAX >> 1)
}

impl Seen {
    fn new(at: Timestamp, encrypted: bool, length: u64) -> Self {
        Self {
            hour_and_kind: hour_of(at) << 1 | u32::from(encrypted),
            length: u32::try_from(length).unwrap_or(u32::MAX),
        }
    }

    fn hour(self) -> u32 {
        self.hour_and_kind >> 1
    }

    /// Whether the chunk is encrypted.
    pub(super) fn encrypted(self) -> bool {
        self.hour_and_kind & 1 == 1
    }

    /// Bytes of its content.
    pub(super) fn length(self) -> u64 {
        self.length.into()
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

    /// The file but for the sum at its end.
    fn write(&self) -> Vec<u8> {
        let length = MAGIC.len() + KEY_BYTES + self.seen.len() * ENTRY_BYTES + SUM_BYTES;
        let mut bytes = Vec::with_capacity(length);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&self.key);
        for (hash, seen) in &self.seen {
            bytes.extend_from_slice(&hash.to_le_bytes());
            bytes.extend_from_slice(&seen.hour_and_kind.to_le_bytes());
            bytes.extend_from_slice(&seen.length.to_le_bytes());
        }
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
            let (hour_and_kind, length) = seen.split_first_chunk::<4>()?;
            let seen = Seen {
                hour_and_kind: u32::from_le_bytes(*hour_and_kind),
                length: u32::from_le_bytes(*length.first_chunk::<4>()?),
            };
            Some((u64::from_le_bytes(*hash), seen))
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
pub(super) struct Loaded {
    table: Mutex<Table>,
    changed: AtomicBool,
}

impl Loaded {
    fn new(table: Table) -> Self {
        Self {
            table: Mutex::new(table),
            changed: AtomicBool::new(false),
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Of `digests` those that were found good at `since` or later, and not after `now`.
    fn good(
        &self,
        digests: Vec<Digest>,
        since: Timestamp,
        now: Timestamp,
    ) -> BTreeMap<Digest, Seen> {
        let (since, now) = (hour_of(since), hour_of(now));
        let mut good = BTreeMap::new();
        let table = self.table();
        for digest in digests {
            let seen = table.seen.get(&table.hash(&digest)).copied();
            let seen = seen.filter(|seen| seen.hour() > since && seen.hour() <= now);
            good.extend(seen.map(|seen| (digest, seen)));
        }
        good
    }

    /// A chunk was read and is good.
    pub(super) fn note(&self, digest: &Digest, encrypted: bool, length: u64, now: Timestamp) {
        let mut table = self.table();
        let hash = table.hash(digest);
        if table.seen.len() < CHUNKS_MAX + CHUNKS_MAX / 8 {
            table.seen.insert(hash, Seen::new(now, encrypted, length));
            self.changed.store(true, Ordering::Relaxed);
        }
    }

    /// A chunk was read and is not good.
    pub(super) fn forget(&self, digest: &Digest) {
        let mut table = self.table();
        let hash = table.hash(digest);
        if table.seen.remove(&hash).is_some() {
            self.changed.store(true, Ordering::Relaxed);
        }
    }
}

/// The record of a datastore.
#[derive(Debug)]
pub(crate) struct VerifiedChunks {
    env: Env,
    markers: Markers,
    /// Chunk files are their own markers: one without content is none.
    directory: bool,
    path: PathBuf,
    loaded: tokio::sync::Mutex<Weak<Loaded>>,
    distrusted: Mutex<BTreeSet<Digest>>,
}

impl VerifiedChunks {
    /// That of the datastore whose local directory is `root`.
    pub(crate) fn new(env: Env, markers: Markers, root: &Path, directory: bool) -> Self {
        let place = Place::Holdfast(HoldfastFile::Verified);
        Self {
            path: root.join(LocalLayout::Cache.path(&place)),
            env,
            markers,
            directory,
            loaded: tokio::sync::Mutex::default(),
            distrusted: Mutex::default(),
        }
    }

    fn distrusted(&self) -> MutexGuard<'_, BTreeSet<Digest>> {
        self.distrusted
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// A chunk was seen damaged.
    pub(crate) fn distrust(&self, digest: Digest) {
        let mut distrusted = self.distrusted();
        // So many damaged chunks at once are a broken disk, which verification finds without this.
        if distrusted.len() < DISTRUSTED_MAX {
            distrusted.insert(digest);
        }
    }

    /// Whether a chunk was seen damaged, and the record does not know it yet.
    pub(crate) fn distrusts(&self, digest: &Digest) -> bool {
        self.distrusted().contains(digest)
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
        let loaded = Arc::new(Loaded::new(self.env.io(read).await));
        *shared = Arc::downgrade(&loaded);
        loaded
    }

    /// Writes the record, if there is something new in it.
    pub(super) async fn save(&self, loaded: &Arc<Loaded>) -> Result<()> {
        // One at a time, or an older one could be written over a newer.
        let _shared = self.loaded.lock().await;
        let distrusted = std::mem::take(&mut *self.distrusted());
        for digest in &distrusted {
            loaded.forget(digest);
        }
        if !loaded.changed.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        let shared = Arc::clone(loaded);
        let encode = move || {
            let mut bytes = {
                let mut table = shared.table();
                table.bound(CHUNKS_MAX);
                table.write()
            };
            let sum: [u8; SUM_BYTES] = Sha256::digest(&bytes).into();
            bytes.extend_from_slice(&sum);
            bytes
        };
        let bytes = self.env.compute(encode).await;
        let (path, temporary) = (self.path.clone(), self.markers.temporary().to_owned());
        let unique = self.env.new_id();
        let write = move |files: &dyn Files| {
            files::replace(files, &temporary, &path, &[Bytes::from(bytes)], &unique).about(&path)
        };
        let written = self.env.io(write).await;
        if written.is_err() {
            loaded.changed.store(true, Ordering::Relaxed);
            self.distrusted().extend(distrusted);
        }
        written
    }

    /// Of `digests` those that were found good at `since` or later and whose marker is older than that.
    pub(super) async fn trusted(
        &self,
        loaded: &Arc<Loaded>,
        digests: Vec<Digest>,
        since: Timestamp,
    ) -> Result<BTreeMap<Digest, Seen>> {
        let (shared, now) = (Arc::clone(loaded), self.env.now());
        let look = self.env.compute(move || shared.good(digests, since, now));
        let mut good = look.await;
        {
            let distrusted = self.distrusted();
            good.retain(|digest, _| !distrusted.contains(digest));
        }
        let (markers, directory) = (self.markers.clone(), self.directory);
        let look = move |files: &dyn Files| {
            let mut trusted = BTreeMap::new();
            for (digest, seen) in good {
                let path = markers.path(&digest);
                let marker = optional(files.stat(&path)).about(&path)?;
                if marker.is_some_and(|marker| is_older(&marker, seen, directory)) {
                    trusted.insert(digest, seen);
                }
            }
            Ok(trusted)
        };
        self.env.io(look).await
    }
}

/// Whether a marker is older than the read of its chunk. In the same hour it is not if it is known from a listing only.
fn is_older(marker: &FileStat, seen: Seen, directory: bool) -> bool {
    let (born, read) = (hour_of(marker.mtime), seen.hour());
    let listed = marker.mode & 0o777 == Nature::Unknown.mode();
    (marker.size > 0 || !directory) && (born < read || born == read && !listed)
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

    fn file_of(loaded: &Loaded) -> Vec<u8> {
        let mut bytes = loaded.table().write();
        let sum: [u8; SUM_BYTES] = Sha256::digest(&bytes).into();
        bytes.extend_from_slice(&sum);
        bytes
    }

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let loaded = Loaded::new(Table::new([7; 16]));
        for i in 0..100 {
            loaded.note(&digest(i), i % 3 == 0, i.into(), hours(i.into()));
        }
        let bytes = file_of(&loaded);
        let read = Loaded::new(Table::read(&bytes).expect("our own"));
        let good = |i: u32, since, now| {
            let found = read.good(vec![digest(i)], hours(since), hours(now));
            let seen = found.get(&digest(i)).copied();
            seen.map(|seen| (seen.encrypted(), seen.length()))
        };
        for i in 0..100 {
            let then = i64::from(i);
            assert_eq!(good(i, then - 1, 200), Some((i % 3 == 0, i.into())));
            assert_eq!(good(i, then, 200), None, "not later than that");
            assert_eq!(good(i, -1, then - 1), None, "from a clock that was ahead");
        }
        assert_eq!(good(100, -1, 200), None);
        for i in (0..bytes.len()).step_by(7) {
            let mut broken = bytes.clone();
            broken[i] ^= 1;
            assert!(Table::read(&broken).is_none(), "byte {i}");
            assert!(Table::read(&bytes[..i]).is_none(), "{i} bytes");
        }
    }

    #[test]
    fn a_marker_vouches_for_what_was_read_after_it() {
        let marker = |hour: i64, mode: u32, size| FileStat {
            size,
            atime: hours(0),
            mtime: hours(hour),
            mode,
            is_dir: false,
        };
        let seen = Seen::new(hours(5), false, 1);
        for (marker, directory, expected) in [
            (marker(4, 0o600, 0), false, true),
            (marker(5, 0o644, 0), false, true),
            (marker(5, 0o600, 0), false, false),
            (marker(6, 0o644, 0), false, false),
            (marker(4, 0o644, 0), true, false),
            (marker(4, 0o644, 9), true, true),
        ] {
            assert_eq!(is_older(&marker, seen, directory), expected, "{marker:?}");
        }
    }

    #[test]
    fn the_oldest_go_first() {
        let mut table = Table::new([7; 16]);
        for i in 0..80 {
            let seen = Seen::new(hours(i.into()), false, 1);
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
