//! Files with faults, for tests: full disks, slow ones, read-only disks, lost atimes, single failures and crashes.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;

use super::{DirEntry, FileLock, FileStat, Files, FreeSpace};

/// The operations a fault can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileOp {
    /// Any read of content.
    Read,
    /// Any write of content, creation and truncation included.
    Write,
    /// Any sync.
    Sync,
    /// Rename.
    Rename,
    /// Removal of files and directories.
    Unlink,
    /// Setting of times.
    Touch,
    /// Questions about files and directories.
    Stat,
}

/// A fault: operations of kind `op` whose path contains `path` fail with `errno`, `times` times.
#[derive(Clone, Debug)]
pub struct FileFault {
    /// Which operation.
    pub op: FileOp,
    /// Part of the path; empty for every path.
    pub path: String,
    /// How often before the fault is used up.
    pub times: usize,
    /// The error, as an `errno`.
    pub errno: i32,
}

/// Any files with faults.
#[derive(Debug)]
pub struct FaultyFiles {
    inner: Arc<dyn Files>,
    faults: Mutex<Vec<FileFault>>,
    lose_atimes: AtomicBool,
    /// Part of the path, and how long each operation there takes.
    slow: Mutex<Option<(String, Duration)>>,
    /// Part of the path, and the file that makes what lies there read-only.
    read_only: Mutex<Option<(String, PathBuf)>>,
    crashed: AtomicBool,
    injected: AtomicU64,
    /// Changes left before the crash that was asked for.
    changes_left: AtomicU64,
}

impl FaultyFiles {
    /// `inner` without any fault yet.
    pub fn new(inner: Arc<dyn Files>) -> Self {
        Self {
            inner,
            faults: Mutex::new(Vec::new()),
            lose_atimes: AtomicBool::new(false),
            slow: Mutex::default(),
            read_only: Mutex::default(),
            crashed: AtomicBool::new(false),
            injected: AtomicU64::new(0),
            changes_left: AtomicU64::new(u64::MAX),
        }
    }

    /// Adds a fault.
    pub fn add(&self, fault: FileFault) {
        self.faults
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(fault);
    }

    /// Removes all faults.
    pub fn clear(&self) {
        self.faults
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    /// How many operations have failed on purpose.
    pub fn injected(&self) -> u64 {
        self.injected.load(Ordering::Relaxed)
    }

    /// Makes the file system forget explicit atimes.
    pub fn lose_atimes(&self, lose: bool) {
        self.lose_atimes.store(lose, Ordering::Release);
    }

    /// From now on every operation on a path that contains `part` takes `pause` longer, on the thread that asks for it.
    pub fn slow_down(&self, part: &str, pause: Duration) {
        let mut slow = self.slow.lock().unwrap_or_else(PoisonError::into_inner);
        *slow = Some((part.to_owned(), pause));
    }

    /// From now on no change is possible on a path that contains `part`, as long as the file `switch` exists.
    pub fn read_only_while(&self, part: &str, switch: PathBuf) {
        let mut read_only = self
            .read_only
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *read_only = Some((part.to_owned(), switch));
    }

    /// From now on every change fails and changes nothing, as if the process had died: what is on disk stays as it is.
    pub fn crash(&self) {
        self.crashed.store(true, Ordering::Release);
    }

    /// Crashes after so many more changes.
    pub fn crash_after(&self, changes: u64) {
        self.changes_left.store(changes, Ordering::Release);
    }

    /// Whether it has crashed.
    pub fn has_crashed(&self) -> bool {
        self.crashed.load(Ordering::Acquire)
    }

    /// The next life of the process begins: no crash is under way or asked for.
    pub fn restart(&self) {
        self.crash_after(u64::MAX);
        self.crashed.store(false, Ordering::Release);
    }

    fn check(&self, op: FileOp, path: &Path) -> io::Result<()> {
        let changes = !matches!(op, FileOp::Read | FileOp::Stat);
        let one_less = |left: u64| match left {
            u64::MAX => Some(left),
            left => left.checked_sub(1),
        };
        if changes
            && self
                .changes_left
                .fetch_update(Ordering::AcqRel, Ordering::Acquire, one_less)
                .is_err()
        {
            self.crash();
        }
        if changes && self.has_crashed() {
            return Err(io::Error::other("the process has crashed"));
        }
        let text = path.to_string_lossy();
        let slow = self.slow.lock().unwrap_or_else(PoisonError::into_inner);
        let pause = slow
            .as_ref()
            .filter(|(part, _)| text.contains(part))
            .map(|(_, pause)| *pause);
        drop(slow);
        if let Some(pause) = pause {
            std::thread::sleep(pause);
        }
        let read_only = self
            .read_only
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let refused = read_only
            .as_ref()
            .is_some_and(|(part, switch)| changes && text.contains(part) && switch.exists());
        drop(read_only);
        if refused {
            return Err(io::Error::from_raw_os_error(
                nix::errno::Errno::EROFS as i32,
            ));
        }
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        for fault in faults.iter_mut() {
            if fault.op == op && fault.times > 0 && text.contains(&fault.path) {
                fault.times -= 1;
                self.injected.fetch_add(1, Ordering::Relaxed);
                return Err(io::Error::from_raw_os_error(fault.errno));
            }
        }
        Ok(())
    }
}

impl Files for FaultyFiles {
    fn read(&self, path: &Path) -> io::Result<Bytes> {
        self.check(FileOp::Read, path)?;
        self.inner.read(path)
    }

    fn read_at(&self, path: &Path, offset: u64, len: usize) -> io::Result<Bytes> {
        self.check(FileOp::Read, path)?;
        self.inner.read_at(path, offset, len)
    }

    fn create(&self, path: &Path, mode: u32, parts: &[Bytes], sync: bool) -> io::Result<()> {
        self.check(FileOp::Write, path)?;
        self.inner.create(path, mode, parts, sync)
    }

    fn write_at(&self, path: &Path, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check(FileOp::Write, path)?;
        self.inner.write_at(path, offset, data)
    }

    fn set_len(&self, path: &Path, len: u64) -> io::Result<()> {
        self.check(FileOp::Write, path)?;
        self.inner.set_len(path, len)
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        self.check(FileOp::Sync, path)?;
        self.inner.sync(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.check(FileOp::Sync, path)?;
        self.inner.sync_dir(path)
    }

    fn sync_file_system(&self, path: &Path) -> io::Result<()> {
        self.check(FileOp::Sync, path)?;
        self.inner.sync_file_system(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.check(FileOp::Rename, to)?;
        self.inner.rename(from, to)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.check(FileOp::Unlink, path)?;
        self.inner.unlink(path)
    }

    fn touch(&self, path: &Path, atime: Timestamp) -> io::Result<()> {
        self.check(FileOp::Touch, path)?;
        if self.lose_atimes.load(Ordering::Acquire) {
            return self.inner.stat(path).map(|_| ());
        }
        self.inner.touch(path, atime)
    }

    fn set_times(&self, path: &Path, atime: Timestamp, mtime: Timestamp) -> io::Result<()> {
        self.check(FileOp::Touch, path)?;
        if self.lose_atimes.load(Ordering::Acquire) {
            return self.inner.stat(path).map(|_| ());
        }
        self.inner.set_times(path, atime, mtime)
    }

    fn stat(&self, path: &Path) -> io::Result<FileStat> {
        self.check(FileOp::Stat, path)?;
        self.inner.stat(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.check(FileOp::Stat, path)?;
        self.inner.list(path)
    }

    fn names(&self, path: &Path, max: usize) -> io::Result<Option<Vec<String>>> {
        self.check(FileOp::Stat, path)?;
        self.inner.names(path, max)
    }

    fn create_dirs(&self, path: &Path) -> io::Result<()> {
        self.check(FileOp::Write, path)?;
        self.inner.create_dirs(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.check(FileOp::Unlink, path)?;
        self.inner.remove_dir(path)
    }

    fn remove_tree(&self, path: &Path) -> io::Result<()> {
        self.check(FileOp::Unlink, path)?;
        self.inner.remove_tree(path)
    }

    fn free_space(&self, path: &Path) -> io::Result<FreeSpace> {
        self.check(FileOp::Stat, path)?;
        self.inner.free_space(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn FileLock>>> {
        self.check(FileOp::Write, path)?;
        self.inner.lock(path)
    }
}
