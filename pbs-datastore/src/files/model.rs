//! A file system in memory, for simulations: it knows what a power loss would leave, can be full, and forgets nothing else.
//!
//! What is durable, as POSIX promises it and no more
//! - [`Files::sync`](crate::files::Files::sync) makes the content and the times of one file durable, and not its name.
//! - [`Files::sync_dir`](crate::files::Files::sync_dir) makes the names in one directory durable, as they are; a rename is one change.
//! - [`Files::sync_file_system`](crate::files::Files::sync_file_system) makes everything durable.
//! - Directories themselves are durable when they are created: every journalling file system commits them with the first
//!   name in them that is synced.
//!
//! [`ModelDisk::lose_power`] keeps of the changes that are not durable a beginning of each directory's own, drawn from a
//! seed, as file systems write their journals in order; content that was not synced is there, cut, or empty.
//!
//! A process sees the disk through a [`ModelFiles`]. When the process has died, all calls through it fail and change
//! nothing, and its locks are gone.

mod mounted;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use jiff::Timestamp;
use nix::errno::Errno;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

pub use self::mounted::ModelFiles;
use super::FileStat;

/// Files a disk can have, unless it is told that it is full.
const INODES: u64 = 1 << 20;

type Ino = u64;

#[derive(Clone, Debug)]
struct Inode {
    content: Bytes,
    atime: Timestamp,
    mtime: Timestamp,
    mode: u32,
    /// Content and times as of the last sync.
    durable: Option<(Bytes, Timestamp, Timestamp)>,
}

/// A change of names that is not durable yet.
#[derive(Clone, Debug)]
enum Change {
    Link(PathBuf, Ino),
    Unlink(PathBuf),
    Rename(PathBuf, PathBuf),
}

impl Change {
    /// The path whose directory decides when it is durable.
    fn path(&self) -> &Path {
        match self {
            Self::Link(path, _) | Self::Unlink(path) | Self::Rename(_, path) => path,
        }
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, Ino>) {
        match self {
            Self::Link(path, ino) => {
                names.insert(path.clone(), *ino);
            }
            Self::Unlink(path) => {
                names.remove(path);
            }
            Self::Rename(from, to) => {
                if let Some(ino) = names.remove(from) {
                    names.insert(to.clone(), ino);
                }
            }
        }
    }
}

#[derive(Default)]
struct State {
    inodes: BTreeMap<Ino, Inode>,
    last_ino: Ino,
    names: BTreeMap<PathBuf, Ino>,
    dirs: BTreeSet<PathBuf>,
    durable_names: BTreeMap<PathBuf, Ino>,
    changes: Vec<Change>,
    locks: BTreeMap<PathBuf, u64>,
    bytes_max: Option<u64>,
    inodes_max: Option<u64>,
    clock: Timestamp,
}

/// The disk, which outlives the processes.
#[derive(Clone, Default)]
pub struct ModelDisk(Arc<Mutex<State>>);

impl fmt::Debug for ModelDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ModelDisk({} files)", self.state().names.len())
    }
}

impl ModelDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// The disk as a process that is starting sees it.
    pub fn mount(&self) -> Arc<ModelFiles> {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Arc::new(ModelFiles {
            disk: self.clone(),
            process: LAST.fetch_add(1, Ordering::Relaxed),
            dead: AtomicBool::new(false),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bounds of content bytes and of files; `None` for practically none.
    pub fn set_limits(&self, bytes_max: Option<u64>, inodes_max: Option<u64>) {
        let mut state = self.state();
        (state.bytes_max, state.inodes_max) = (bytes_max, inodes_max);
    }

    /// Bytes of content.
    pub fn bytes_used(&self) -> u64 {
        self.state().bytes_used()
    }

    /// The power fails: what was not durable is lost in part, as `seed` decides.
    pub fn lose_power(&self, seed: u64) {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut state = self.state();
        let changes = std::mem::take(&mut state.changes);
        let mut of_dir: BTreeMap<PathBuf, usize> = BTreeMap::new();
        for change in &changes {
            *of_dir.entry(parent(change.path())).or_default() += 1;
        }
        // How many of each directory's changes survive: often all or none.
        for count in of_dir.values_mut() {
            *count = match rng.random_range(0..4) {
                0 => 0,
                1 => *count,
                _ => rng.random_range(0..=*count),
            };
        }
        let mut names = std::mem::take(&mut state.durable_names);
        for change in &changes {
            let left = of_dir
                .get_mut(&parent(change.path()))
                .expect("every change was counted");
            if *left > 0 {
                *left -= 1;
                change.apply(&mut names);
            }
        }
        for inode in state.inodes.values_mut() {
            inode.lose_power(&mut rng);
        }
        let State { dirs, .. } = &*state;
        names.retain(|path, _| dirs.contains(&parent(path)));
        state.names = names;
        state.locks.clear();
        state.all_durable();
    }

    /// A copy of everything below `dir`, as a backup program would make it.
    pub fn copy_of(&self, dir: &Path) -> DirCopy {
        let state = self.state();
        let below = |path: &&PathBuf| path.starts_with(dir);
        DirCopy {
            dirs: state.dirs.iter().filter(below).cloned().collect(),
            files: state
                .names
                .iter()
                .filter(|(path, _)| path.starts_with(dir))
                .map(|(path, ino)| (path.clone(), state.inodes[ino].clone()))
                .collect(),
        }
    }

    /// Puts a copy back, in the place of whatever is below `dir` now, durably. An empty copy deletes the directory.
    pub fn put_back(&self, dir: &Path, copy: &DirCopy) {
        let mut state = self.state();
        state.names.retain(|path, _| !path.starts_with(dir));
        state.dirs.retain(|path| !path.starts_with(dir));
        state.dirs.extend(copy.dirs.iter().cloned());
        for (path, inode) in &copy.files {
            let ino = state.next_ino();
            state.inodes.insert(ino, inode.clone());
            state.names.insert(path.clone(), ino);
        }
        state.all_durable();
    }
}

/// A copy of a directory; the default is that of a directory that is not there.
#[derive(Clone, Debug, Default)]
pub struct DirCopy {
    dirs: Vec<PathBuf>,
    files: Vec<(PathBuf, Inode)>,
}

impl Inode {
    fn lose_power(&mut self, rng: &mut StdRng) {
        match &self.durable {
            Some((content, atime, mtime)) => {
                let times_survive = rng.random_bool(0.5);
                if *content != self.content {
                    self.content = content.clone();
                }
                if !times_survive {
                    (self.atime, self.mtime) = (*atime, *mtime);
                }
            }
            None => match rng.random_range(0..3) {
                0 => {}
                1 => self.content = self.content.slice(..self.content.len() / 2),
                _ => self.content = Bytes::new(),
            },
        }
    }

    fn stat(&self) -> FileStat {
        FileStat {
            size: self.content.len() as u64,
            atime: self.atime,
            mtime: self.mtime,
            mode: self.mode,
            is_dir: false,
        }
    }

    fn make_durable(&mut self) {
        self.durable = Some((self.content.clone(), self.atime, self.mtime));
    }
}

fn parent(path: &Path) -> PathBuf {
    path.parent().unwrap_or(path).to_owned()
}

fn error(errno: Errno) -> io::Error {
    io::Error::from(errno)
}

impl State {
    fn next_ino(&mut self) -> Ino {
        self.last_ino += 1;
        self.last_ino
    }

    fn inode(&self, path: &Path) -> io::Result<&Inode> {
        match self.names.get(path) {
            Some(ino) => Ok(&self.inodes[ino]),
            None if self.dirs.contains(path) => Err(error(Errno::EISDIR)),
            None => Err(error(Errno::ENOENT)),
        }
    }

    fn inode_mut(&mut self, path: &Path) -> io::Result<&mut Inode> {
        self.inode(path)?;
        let ino = self.names[path];
        Ok(self.inodes.get_mut(&ino).expect("every name has an inode"))
    }

    fn has_dir(&self, path: &Path) -> io::Result<()> {
        if self.dirs.contains(path) || path.parent().is_none() {
            Ok(())
        } else {
            Err(error(Errno::ENOENT))
        }
    }

    fn bytes_used(&self) -> u64 {
        let size = |ino| self.inodes[ino].content.len() as u64;
        self.names.values().map(size).sum()
    }

    /// Whether `bytes` more and `inodes` more files fit.
    fn room_for(&self, bytes: u64, inodes: u64) -> io::Result<()> {
        let too_long = |max: u64| bytes > 0 && self.bytes_used() + bytes > max;
        let too_many = |max: u64| inodes > 0 && self.names.len() as u64 + inodes > max;
        if self.bytes_max.is_some_and(too_long) || self.inodes_max.is_some_and(too_many) {
            return Err(error(Errno::ENOSPC));
        }
        Ok(())
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.names);
        self.changes.push(change);
    }

    fn all_durable(&mut self) {
        self.changes.clear();
        self.durable_names.clone_from(&self.names);
        let used: BTreeSet<Ino> = self.names.values().copied().collect();
        self.inodes.retain(|ino, _| used.contains(ino));
        self.inodes.values_mut().for_each(Inode::make_durable);
    }

    fn is_empty_dir(&self, dir: &Path) -> bool {
        let inside = |path: &PathBuf| path.parent() == Some(dir);
        !self.names.keys().any(inside) && !self.dirs.iter().any(inside)
    }
}

#[cfg(test)]
mod tests;
