//! Markers: what this process believes about the existence and use of chunks, as files.
//!
//! | file | means | atime | mtime |
//! |---|---|---|---|
//! | `.chunks/<4 hex>/<digest>` | the object exists; content = cached chunk, empty = evicted | last use | when the evidence was had |
//! | `.holdfast/uploads/<digest>` | an upload is under way, or was and failed | start of the last upload | – |
//! | `.holdfast/using/<digest>` | an index names the digest, but it has no marker | when GC saw it | – |
//!
//! An upload marker and a using marker protect a chunk and prove nothing. A marker's permission bits tell the nature of
//! the chunk (I11) even when it is empty: 0644 unencrypted, 0640 encrypted, 0600 not known (found by a listing).
//!
//! **A use is never undone.** Marking touches without the guard, so a touch can come between the moment at which somebody
//! reads a marker's times and the moment at which he puts a new file with these times in place. [`Markers::replace`] and
//! [`Markers::touch`] therefore exclude each other, by a lock that is held for two or three calls to the file system.
//!
//! All functions are file work for [`Env::io`](crate::Env::io); those that create or remove belief take the guard.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use jiff::Timestamp;

use super::guard::Guard;
use crate::error::About as _;
use crate::files::{Files, optional};
use crate::layout::{Folder, LocalLayout};
use crate::sabotage::{self, Rule};
use crate::step::Step;
use crate::{Digest, Env, Result};

/// Whether a chunk is encrypted, as far as known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nature {
    /// Its digest is the hash of its content.
    Plain,
    /// Only its owner can verify it.
    Encrypted,
    /// Known from a listing only.
    Unknown,
}

impl Nature {
    /// The nature of a blob.
    pub(crate) fn of(encrypted: bool) -> Self {
        if encrypted {
            Self::Encrypted
        } else {
            Self::Plain
        }
    }

    pub(crate) fn mode(self) -> u32 {
        match self {
            Self::Plain => 0o644,
            Self::Encrypted => 0o640,
            Self::Unknown => 0o600,
        }
    }

    fn from_mode(mode: u32) -> Self {
        match mode & 0o777 {
            0o644 => Self::Plain,
            0o640 => Self::Encrypted,
            _ => Self::Unknown,
        }
    }

    /// Whether a chunk of nature `self` may stand for one of nature `other`.
    pub(crate) fn agrees_with(self, other: Self) -> bool {
        self == other || self == Self::Unknown || other == Self::Unknown
    }
}

/// What a marker says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Marker {
    /// Length of the cached chunk, 0 if only its existence is recorded.
    pub(crate) size: u64,
    /// Last use.
    pub(crate) used: Timestamp,
    /// When the evidence of its existence was had.
    pub(crate) born: Timestamp,
    /// Encrypted or not.
    pub(crate) nature: Nature,
}

/// Locks for touches against replacements; enough that two digests rarely share one.
const TOUCH_LOCKS: usize = 64;

/// The marker files of one cache directory; clones share the locks.
#[derive(Clone, Debug)]
pub(crate) struct Markers {
    chunks: PathBuf,
    uploads: PathBuf,
    using: PathBuf,
    temporary: PathBuf,
    touching: Arc<[Mutex<()>]>,
}

/// Runs `create`, and again after creating the directory if that was missing.
fn creating_dir(
    files: &dyn Files,
    path: &Path,
    create: impl Fn() -> io::Result<()>,
) -> io::Result<()> {
    match create() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            files.create_dirs(path.parent().unwrap_or(path))?;
            create()
        }
        result => result,
    }
}

impl Markers {
    /// The markers below a cache directory.
    pub(crate) fn new(cache_dir: &Path) -> Self {
        // The same in a cache directory and in a directory datastore.
        let folder = |folder| cache_dir.join(LocalLayout::Cache.folder(&folder));
        Self {
            chunks: folder(Folder::Chunks),
            uploads: folder(Folder::Uploads),
            using: folder(Folder::Using),
            temporary: folder(Folder::Temporary),
            touching: (0..TOUCH_LOCKS).map(|_| Mutex::default()).collect(),
        }
    }

    fn touching(&self, digest: &Digest) -> MutexGuard<'_, ()> {
        self.touching[usize::from(digest.0[30]) % TOUCH_LOCKS]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets everything: what a directory says that does not agree with the bucket is not believed (I3).
    pub(crate) fn drop_all(&self, files: &dyn Files) -> Result<()> {
        if sabotage::is_off(Rule::UntrustedDropped) {
            return Ok(());
        }
        for dir in [&self.chunks, &self.using, &self.uploads] {
            optional(files.remove_tree(dir)).about(dir)?;
        }
        Ok(())
    }

    /// What a start does, before anything else uses the directories: creates them, removes the temporary files of
    /// processes that died, and puts the clock forward to the newest use that was recorded of uploads and of what a mark
    /// found ([`Env::raise_clock`]). Answers the bytes of temporary files that cannot be removed.
    pub(crate) fn prepare(&self, env: &Env, files: &dyn Files) -> Result<u64> {
        for dir in [&self.chunks, &self.uploads, &self.using, &self.temporary] {
            files.create_dirs(dir).about(dir)?;
        }
        for dir in [&self.uploads, &self.using] {
            for entry in files.list(dir).about(dir)? {
                env.raise_clock(entry.stat.atime);
            }
        }
        let mut stranded = 0;
        for file in files.list(&self.temporary).about(&self.temporary)? {
            // Directories belong to writers of snapshots.
            if file.stat.is_dir {
                continue;
            }
            if let Err(error) = optional(files.unlink(&self.temporary.join(&file.name))) {
                tracing::warn!("cannot remove the temporary file {}: {error}", file.name);
                stranded += file.stat.size;
            }
        }
        Ok(stranded)
    }

    /// The directory of one of the 65536 chunk folders.
    pub(crate) fn folder(&self, folder: u16) -> PathBuf {
        self.chunks.join(format!("{folder:04x}"))
    }

    /// The directory of all chunk folders.
    pub(crate) fn chunks(&self) -> &Path {
        &self.chunks
    }

    /// The directory of upload markers.
    pub(crate) fn uploads(&self) -> &Path {
        &self.uploads
    }

    /// The directory of using markers.
    pub(crate) fn using(&self) -> &Path {
        &self.using
    }

    /// The directory of temporary files.
    pub(crate) fn temporary(&self) -> &Path {
        &self.temporary
    }

    /// The path of a chunk's marker.
    pub(crate) fn path(&self, digest: &Digest) -> PathBuf {
        // With room for all of it: a collection makes several million paths.
        let mut path = PathBuf::with_capacity(self.chunks.as_os_str().len() + 1 + 4 + 1 + 64);
        path.push(&self.chunks);
        path.push(digest.folder());
        path.push(digest.to_string());
        path
    }

    fn upload_path(&self, digest: &Digest) -> PathBuf {
        self.uploads.join(digest.to_string())
    }

    fn using_path(&self, digest: &Digest) -> PathBuf {
        self.using.join(digest.to_string())
    }

    /// What the marker says, if there is one.
    pub(crate) fn get(&self, files: &dyn Files, digest: &Digest) -> io::Result<Option<Marker>> {
        let stat = optional(files.stat(&self.path(digest)))?;
        Ok(stat.map(|stat| Marker {
            size: stat.size,
            used: stat.atime,
            born: stat.mtime,
            nature: Nature::from_mode(stat.mode),
        }))
    }

    /// Records a use; `false` if there is no marker. `now` is to be read right before, in the same batch of file work:
    /// two uses may be recorded in the other order than they were timed, and the margin of the cutoff covers only that.
    pub(crate) fn touch(
        &self,
        files: &dyn Files,
        digest: &Digest,
        now: Timestamp,
    ) -> io::Result<bool> {
        let _touching = self.touching(digest);
        Ok(optional(files.touch(&self.path(digest), now))?.is_some())
    }

    /// The chunk cached in the marker; `None` if there is no marker or it is empty.
    pub(crate) fn read(&self, files: &dyn Files, digest: &Digest) -> io::Result<Option<Bytes>> {
        Ok(optional(files.read(&self.path(digest)))?.filter(|data| !data.is_empty()))
    }

    /// Where [`Markers::put`] and [`Markers::replace`] write before they rename.
    pub(crate) fn temporary_path(&self, digest: &Digest, unique: &str) -> PathBuf {
        self.temporary.join(format!("{digest}.{unique}"))
    }

    /// Puts a marker with `parts` (perhaps none) as content in place, replacing any, through a temporary file and
    /// rename, so that who reads the old one is not disturbed. Times are given; who wants to keep those of the marker
    /// that is there calls [`Markers::replace`].
    pub(crate) fn put(
        &self,
        files: &dyn Files,
        guard: &Guard,
        parts: &[Bytes],
        marker: Marker,
        unique: &str,
    ) -> io::Result<()> {
        self.place(files, guard, parts, marker, unique, false)
    }

    /// Puts a chunk file of a directory datastore in place; with `sync` durably.
    pub(crate) fn put_chunk_file(
        &self,
        files: &dyn Files,
        guard: &Guard,
        parts: &[Bytes],
        now: Timestamp,
        unique: &str,
        sync: bool,
    ) -> io::Result<()> {
        // Its content tells its nature; other programs expect the usual permissions.
        let marker = Marker {
            size: 0,
            used: now,
            born: now,
            nature: Nature::Plain,
        };
        self.place(files, guard, parts, marker, unique, sync)?;
        if sync {
            files.sync_dir(&self.chunks.join(guard.digest().folder()))
        } else {
            Ok(())
        }
    }

    fn place(
        &self,
        files: &dyn Files,
        guard: &Guard,
        parts: &[Bytes],
        marker: Marker,
        unique: &str,
        sync: bool,
    ) -> io::Result<()> {
        let digest = guard.digest();
        let temporary = self.temporary_path(&digest, unique);
        creating_dir(files, &temporary, || {
            files.create(&temporary, marker.nature.mode(), parts, sync)
        })?;
        Step::CacheWritten.passed();
        let target = self.path(&digest);
        files
            .set_times(&temporary, marker.used, marker.born)
            .and_then(|()| creating_dir(files, &target, || files.rename(&temporary, &target)))
            .inspect_err(|_| {
                files.unlink(&temporary).ok();
            })?;
        Step::CacheRenamed.passed();
        Ok(())
    }

    /// Gives the marker that is there other content (none evicts it), keeping its times and, unless it was not known, its
    /// nature. Tells what the marker says now; `None`, and nothing done, if there is none. No touch is lost.
    pub(crate) fn replace(
        &self,
        files: &dyn Files,
        guard: &Guard,
        parts: &[Bytes],
        nature: Nature,
        unique: &str,
    ) -> io::Result<Option<Marker>> {
        let digest = guard.digest();
        let Some(old) = self.get(files, &digest)? else {
            return Ok(None);
        };
        let nature = match old.nature {
            Nature::Unknown => nature,
            known => known,
        };
        let temporary = self.temporary_path(&digest, unique);
        creating_dir(files, &temporary, || {
            files.create(&temporary, nature.mode(), parts, false)
        })?;
        let discard = || {
            files.unlink(&temporary).ok();
        };
        let seen = sabotage::is_off(Rule::ReplaceExcludesTouch).then_some(old);
        let _touching = self.touching(&digest);
        let Some(old) = self.get(files, &digest).inspect_err(|_| discard())? else {
            discard();
            return Ok(None);
        };
        let old = seen.unwrap_or(old);
        files
            .set_times(&temporary, old.used, old.born)
            .and_then(|()| files.rename(&temporary, &self.path(&digest)))
            .inspect_err(|_| discard())?;
        let size = parts.iter().map(|part| part.len() as u64).sum();
        Ok(Some(Marker {
            size,
            nature,
            ..old
        }))
    }

    /// Removes the marker; not durable before [`Markers::sync`].
    pub(crate) fn remove(&self, files: &dyn Files, guard: &Guard) -> io::Result<bool> {
        Ok(optional(files.unlink(&self.path(&guard.digest())))?.is_some())
    }

    /// Removes the marker of a digest that the caller has condemned.
    pub(crate) fn remove_condemned(&self, files: &dyn Files, digest: &Digest) -> io::Result<()> {
        optional(files.unlink(&self.path(digest))).map(|_| ())
    }

    /// Step 3 of an insert: creates or renews the upload marker.
    pub(crate) fn touch_upload(
        &self,
        files: &dyn Files,
        guard: &Guard,
        now: Timestamp,
    ) -> io::Result<()> {
        touch_or_create(files, &self.upload_path(&guard.digest()), now)
    }

    /// When the last upload of the digest started, if its marker is there.
    pub(crate) fn upload(
        &self,
        files: &dyn Files,
        digest: &Digest,
    ) -> io::Result<Option<Timestamp>> {
        Ok(optional(files.stat(&self.upload_path(digest)))?.map(|stat| stat.atime))
    }

    /// Removes the upload marker, under the guard or for a condemned digest.
    pub(crate) fn remove_upload(&self, files: &dyn Files, digest: &Digest) -> io::Result<()> {
        optional(files.unlink(&self.upload_path(digest))).map(|_| ())
    }

    /// Records that an index names a digest that has no marker.
    pub(crate) fn touch_using(
        &self,
        files: &dyn Files,
        digest: &Digest,
        now: Timestamp,
    ) -> io::Result<()> {
        touch_or_create(files, &self.using_path(digest), now)
    }

    /// When GC last saw the digest in an index without finding a marker.
    pub(crate) fn using_since(
        &self,
        files: &dyn Files,
        digest: &Digest,
    ) -> io::Result<Option<Timestamp>> {
        if sabotage::is_off(Rule::UsingMarkerProtects) {
            return Ok(None);
        }
        Ok(optional(files.stat(&self.using_path(digest)))?.map(|stat| stat.atime))
    }

    /// Removes the using marker.
    pub(crate) fn remove_using(&self, files: &dyn Files, digest: &Digest) -> io::Result<()> {
        optional(files.unlink(&self.using_path(digest))).map(|_| ())
    }

    /// What mark would do if it took an index for evidence.
    pub(crate) fn create_unproven(
        &self,
        files: &dyn Files,
        digest: &Digest,
        now: Timestamp,
    ) -> io::Result<()> {
        touch_or_create(files, &self.path(digest), now)
    }

    /// Makes removals durable: a marker that a power loss brings back would vouch for a deleted chunk.
    pub(crate) fn sync(&self, files: &dyn Files) -> io::Result<()> {
        if sabotage::is_off(Rule::RemovalSynced) {
            return Ok(());
        }
        files.sync_file_system(&self.chunks)
    }
}

fn touch_or_create(files: &dyn Files, path: &Path, now: Timestamp) -> io::Result<()> {
    if optional(files.touch(path, now))?.is_some() {
        return Ok(());
    }
    creating_dir(files, path, || {
        match files.create(path, crate::files::FILE_MODE, &[], false) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            result => result,
        }
    })?;
    // The kernel's clock lags behind ours, so the time is written explicitly.
    optional(files.touch(path, now)).map(|_| ())
}
