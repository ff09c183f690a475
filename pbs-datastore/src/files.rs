//! The one seam to the local file system.
//!
//! Operations are synchronous; [`Env::io`](crate::Env::io) decides where they run, so that a caller does a batch of
//! them in one go. Implementations: [`OsFiles`] for production; for tests [`ModelDisk`] in memory, and [`FaultyFiles`] around
//! any other.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use bytes::Bytes;
use jiff::Timestamp;
use nix::fcntl::{AT_FDCWD, Flock, FlockArg, OFlag};
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;

use crate::step::Step;

mod faulty;
mod model;
pub use faulty::{FaultyFiles, FileFault, FileOp};
pub use model::{DirCopy, ModelDisk, ModelFiles};

/// What is known of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileStat {
    /// Length in bytes.
    pub size: u64,
    /// Last use, as written by [`Files::touch`] and [`Files::set_times`]; microseconds.
    pub atime: Timestamp,
    /// Creation of the content, as written by [`Files::set_times`]; microseconds.
    pub mtime: Timestamp,
    /// Permission bits.
    pub mode: u32,
    /// Whether it is a directory.
    pub is_dir: bool,
}

/// One entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// Its name; entries whose names are no UTF-8 are not listed, as none of ours is.
    pub name: String,
    /// What is known of it.
    pub stat: FileStat,
}

/// Room on a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FreeSpace {
    /// Size of the file system in bytes.
    pub bytes_total: u64,
    /// Bytes that may still be written.
    pub bytes_free: u64,
    /// Files that may still be created.
    pub inodes_free: u64,
}

/// Permissions of files that others than us may read (interface 6.5).
pub const FILE_MODE: u32 = 0o644;

/// A lock on a file, held until it is dropped.
pub trait FileLock: Send + Sync + fmt::Debug {}

/// Local files. Paths are absolute. All errors are plain `io::Error`s; `NotFound` is the one callers look at.
pub trait Files: Send + Sync + fmt::Debug + 'static {
    /// The whole file.
    fn read(&self, path: &Path) -> io::Result<Bytes>;

    /// Up to `len` bytes from `offset`; shorter only at the end of the file.
    fn read_at(&self, path: &Path, offset: u64, len: usize) -> io::Result<Bytes>;

    /// Creates a file that must not exist, with permissions `mode` and `parts` as content, and with `sync` makes the
    /// content durable. On an error nothing is left.
    fn create(&self, path: &Path, mode: u32, parts: &[Bytes], sync: bool) -> io::Result<()>;

    /// Writes `data` at `offset` of an existing file, extending it where needed.
    fn write_at(&self, path: &Path, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Sets the length of an existing file; new bytes are zero.
    fn set_len(&self, path: &Path, len: u64) -> io::Result<()>;

    /// Makes a file's content durable.
    fn sync(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// Makes everything on the file system of `path` durable.
    fn sync_file_system(&self, path: &Path) -> io::Result<()>;

    /// Renames within one file system, replacing the target in one step (A4).
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    fn unlink(&self, path: &Path) -> io::Result<()>;

    /// Sets the time of last use and nothing else. `NotFound` tells in the same step that there is no such file.
    fn touch(&self, path: &Path, atime: Timestamp) -> io::Result<()>;

    /// Sets both times.
    fn set_times(&self, path: &Path, atime: Timestamp, mtime: Timestamp) -> io::Result<()>;

    /// What is known of a file; symbolic links are not followed.
    fn stat(&self, path: &Path) -> io::Result<FileStat>;

    /// The entries of a directory, sorted by name. An entry that cannot be read is an error (I10); one that vanished
    /// meanwhile is left out.
    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>>;

    /// The names in a directory, in no order, without a look at what bears them; `None` if there are more than `max`.
    /// What is there from before the call until after it is among them.
    fn names(&self, path: &Path, max: usize) -> io::Result<Option<Vec<String>>>;

    /// Creates a directory and its parents, mode 0755.
    fn create_dirs(&self, path: &Path) -> io::Result<()>;

    /// Removes an empty directory.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;

    /// Removes a directory and all below it.
    fn remove_tree(&self, path: &Path) -> io::Result<()>;

    /// Room on the file system of `path`.
    fn free_space(&self, path: &Path) -> io::Result<FreeSpace>;

    /// Takes the exclusive lock on a file, creating it; `None` if somebody else has it.
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn FileLock>>>;
}

/// Replaces the file at `path` by one with `parts` as content, durably: file in the directory `temporary` (made if it is
/// missing), sync, rename, sync of the directory. A crash leaves the old file or the new one, and perhaps a temporary
/// file, which goes with what else is old in that directory.
pub fn replace(
    files: &dyn Files,
    temporary: &Path,
    path: &Path,
    parts: &[Bytes],
    unique: &str,
) -> io::Result<()> {
    let dir = path
        .parent()
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or("file");
    let staged = temporary.join(format!("{name}.{unique}"));
    let create = || files.create(&staged, FILE_MODE, parts, true);
    match create() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            files.create_dirs(temporary)?;
            create()?;
        }
        result => result?,
    }
    Step::ReplaceWritten.passed();
    files.rename(&staged, path).inspect_err(|_| {
        files.unlink(&staged).ok();
    })?;
    Step::ReplaceRenamed.passed();
    files.sync_dir(dir)
}

/// Turns `NotFound` into `None`.
pub fn optional<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Files of the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsFiles;

fn time_spec(time: Timestamp) -> TimeSpec {
    let micros = time.as_microsecond();
    TimeSpec::new(
        micros.div_euclid(1_000_000),
        micros.rem_euclid(1_000_000) * 1000,
    )
}

fn timestamp(seconds: i64, nanos: i64) -> Timestamp {
    let micros = seconds
        .saturating_mul(1_000_000)
        .saturating_add(nanos / 1000);
    Timestamp::from_microsecond(micros).unwrap_or(Timestamp::MAX)
}

fn file_stat(meta: &fs::Metadata) -> FileStat {
    FileStat {
        size: meta.len(),
        atime: timestamp(meta.atime(), meta.atime_nsec()),
        mtime: timestamp(meta.mtime(), meta.mtime_nsec()),
        mode: meta.mode() & 0o7777,
        is_dir: meta.is_dir(),
    }
}

/// Opens for reading without leaving a trace: the kernel would otherwise record the read as a use, at the time of its
/// own clock, and thus before a use that was recorded at the time of ours. Files of others are opened all the same.
fn open(path: &Path) -> io::Result<File> {
    let quiet = OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_NOATIME.bits())
        .open(path);
    match quiet {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => File::open(path),
        result => result,
    }
}

#[derive(Debug)]
struct OsLock(#[expect(dead_code, reason = "held for its drop")] Flock<File>);
impl FileLock for OsLock {}

impl Files for OsFiles {
    fn read(&self, path: &Path) -> io::Result<Bytes> {
        let mut file = open(path)?;
        let mut data = Vec::with_capacity(file.metadata()?.len() as usize);
        file.read_to_end(&mut data)?;
        Ok(data.into())
    }

    fn read_at(&self, path: &Path, offset: u64, len: usize) -> io::Result<Bytes> {
        let mut file = open(path)?;
        file.seek(SeekFrom::Start(offset))?;
        let mut data = Vec::with_capacity(len);
        file.take(len as u64).read_to_end(&mut data)?;
        Ok(data.into())
    }

    fn create(&self, path: &Path, mode: u32, parts: &[Bytes], sync: bool) -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(path)?;
        let written = parts.iter().try_for_each(|part| file.write_all(part));
        let written = written.and_then(|()| if sync { file.sync_data() } else { Ok(()) });
        written.inspect_err(|_| {
            fs::remove_file(path).ok();
        })
    }

    fn write_at(&self, path: &Path, offset: u64, data: &[u8]) -> io::Result<()> {
        OpenOptions::new()
            .write(true)
            .open(path)?
            .write_all_at(data, offset)
    }

    fn set_len(&self, path: &Path, len: u64) -> io::Result<()> {
        OpenOptions::new().write(true).open(path)?.set_len(len)
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn sync_file_system(&self, path: &Path) -> io::Result<()> {
        nix::unistd::syncfs(File::open(path)?).map_err(io::Error::from)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn touch(&self, path: &Path, atime: Timestamp) -> io::Result<()> {
        let (atime, omit) = (time_spec(atime), TimeSpec::UTIME_OMIT);
        utimensat(
            AT_FDCWD,
            path,
            &atime,
            &omit,
            UtimensatFlags::NoFollowSymlink,
        )
        .map_err(io::Error::from)
    }

    fn set_times(&self, path: &Path, atime: Timestamp, mtime: Timestamp) -> io::Result<()> {
        let (atime, mtime) = (time_spec(atime), time_spec(mtime));
        utimensat(
            AT_FDCWD,
            path,
            &atime,
            &mtime,
            UtimensatFlags::NoFollowSymlink,
        )
        .map_err(io::Error::from)
    }

    fn stat(&self, path: &Path) -> io::Result<FileStat> {
        fs::symlink_metadata(path).map(|meta| file_stat(&meta))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            if let Some(meta) = optional(entry.metadata())? {
                entries.push(DirEntry {
                    name,
                    stat: file_stat(&meta),
                });
            }
        }
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn names(&self, path: &Path, max: usize) -> io::Result<Option<Vec<String>>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(path)? {
            let Ok(name) = entry?.file_name().into_string() else {
                continue;
            };
            if names.len() == max {
                return Ok(None);
            }
            names.push(name);
        }
        Ok(Some(names))
    }

    fn create_dirs(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn remove_tree(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }

    fn free_space(&self, path: &Path) -> io::Result<FreeSpace> {
        let stat = nix::sys::statvfs::statvfs(path).map_err(io::Error::from)?;
        Ok(FreeSpace {
            bytes_total: stat.blocks() * stat.fragment_size(),
            bytes_free: stat.blocks_available() * stat.fragment_size(),
            inodes_free: stat.files_available(),
        })
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn FileLock>>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .open(path)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Some(Box::new(OsLock(lock)))),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, error)) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn touch_tells_absence_and_keeps_mtime() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let time = Timestamp::from_second(1_700_000_000).unwrap();
        assert_eq!(
            OsFiles.touch(&path, time).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
        OsFiles
            .create(&path, FILE_MODE, &["x".into()], false)
            .unwrap();
        let before = OsFiles.stat(&path).unwrap();
        OsFiles.touch(&path, time).unwrap();
        let after = OsFiles.stat(&path).unwrap();
        assert_eq!((after.atime, after.mtime), (time, before.mtime));
    }

    #[test]
    fn a_read_is_no_use() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        OsFiles
            .create(&path, FILE_MODE, &["x".into()], false)
            .unwrap();
        let time = Timestamp::from_second(1_700_000_000).unwrap();
        OsFiles.set_times(&path, time, time).unwrap();
        OsFiles.read(&path).unwrap();
        OsFiles.read_at(&path, 0, 1).unwrap();
        assert_eq!(OsFiles.stat(&path).unwrap().atime, time);
    }

    #[test]
    fn replace_leaves_no_temporary_file() {
        let dir = tempfile::tempdir().unwrap();
        let (path, temporary) = (dir.path().join("state"), dir.path().join("tmp"));
        replace(&OsFiles, &temporary, &path, &["one".into()], "1").unwrap();
        replace(&OsFiles, &temporary, &path, &["t".into(), "wo".into()], "2").unwrap();
        assert_eq!(OsFiles.read(&path).unwrap(), "two");
        assert!(OsFiles.list(&temporary).unwrap().is_empty());
    }

    #[test]
    fn a_lock_has_one_holder() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".lock");
        let held = OsFiles.lock(&path).unwrap();
        assert!(held.is_some());
        assert!(OsFiles.lock(&path).unwrap().is_none());
        drop(held);
        assert!(OsFiles.lock(&path).unwrap().is_some());
    }
}
