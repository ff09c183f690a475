//! The disk as one process sees it; when the process has died, nothing goes through any more.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::MutexGuard;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Bytes, BytesMut};
use jiff::Timestamp;
use nix::errno::Errno;

use super::{Change, INODES, Ino, Inode, ModelDisk, State, error, parent};
use crate::files::{DirEntry, FILE_MODE, FileLock, FileStat, Files, FreeSpace};

/// A disk as one process sees it.
pub struct ModelFiles {
    pub(super) disk: ModelDisk,
    pub(super) process: u64,
    pub(super) dead: AtomicBool,
}

impl fmt::Debug for ModelFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ModelFiles({}, {:?})", self.process, self.disk)
    }
}

impl ModelFiles {
    /// The process has died.
    pub fn die(&self) {
        self.dead.store(true, Ordering::Release);
        let process = self.process;
        self.disk.state().locks.retain(|_, by| *by != process);
    }

    fn alive(&self) -> io::Result<MutexGuard<'_, State>> {
        if self.dead.load(Ordering::Acquire) {
            return Err(io::Error::other("the process has died"));
        }
        Ok(self.disk.state())
    }
}

#[derive(Debug)]
struct ModelLock {
    disk: ModelDisk,
    path: PathBuf,
    process: u64,
}

impl FileLock for ModelLock {}

impl Drop for ModelLock {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        if state.locks.get(&self.path) == Some(&self.process) {
            state.locks.remove(&self.path);
        }
    }
}

impl Files for ModelFiles {
    fn read(&self, path: &Path) -> io::Result<Bytes> {
        Ok(self.alive()?.inode(path)?.content.clone())
    }

    fn read_at(&self, path: &Path, offset: u64, len: usize) -> io::Result<Bytes> {
        let content = self.read(path)?;
        let start = content.len().min(offset as usize);
        let end = content.len().min(start.saturating_add(len));
        Ok(content.slice(start..end))
    }

    fn create(&self, path: &Path, mode: u32, parts: &[Bytes], sync: bool) -> io::Result<()> {
        let mut state = self.alive()?;
        state.has_dir(&parent(path))?;
        if state.names.contains_key(path) || state.dirs.contains(path) {
            return Err(error(Errno::EEXIST));
        }
        let mut content = BytesMut::new();
        for part in parts {
            content.extend_from_slice(part);
        }
        state.room_for(content.len() as u64, 1)?;
        let ino = state.next_ino();
        let clock = state.clock;
        let mut inode = Inode {
            content: content.freeze(),
            atime: clock,
            mtime: clock,
            mode,
            durable: None,
        };
        if sync {
            inode.make_durable();
        }
        state.inodes.insert(ino, inode);
        state.change(Change::Link(path.to_owned(), ino));
        Ok(())
    }

    fn write_at(&self, path: &Path, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.alive()?;
        let old = state.inode(path)?.content.clone();
        if data.is_empty() {
            return Ok(());
        }
        let end = offset as usize + data.len();
        state.room_for(end.saturating_sub(old.len()) as u64, 0)?;
        let mut content = BytesMut::from(&old[..]);
        content.resize(old.len().max(end), 0);
        content[offset as usize..end].copy_from_slice(data);
        state.inode_mut(path)?.content = content.freeze();
        Ok(())
    }

    fn set_len(&self, path: &Path, len: u64) -> io::Result<()> {
        let mut state = self.alive()?;
        let mut content = BytesMut::from(&state.inode(path)?.content[..]);
        state.room_for(len.saturating_sub(content.len() as u64), 0)?;
        content.resize(len as usize, 0);
        state.inode_mut(path)?.content = content.freeze();
        Ok(())
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        self.alive()?.inode_mut(path)?.make_durable();
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.alive()?;
        state.has_dir(path)?;
        let (now, later) = std::mem::take(&mut state.changes)
            .into_iter()
            .partition(|change| change.path().parent() == Some(path));
        state.changes = later;
        let now: Vec<Change> = now;
        for change in now {
            let State {
                durable_names,
                names,
                ..
            } = &mut *state;
            // A file that was created elsewhere and renamed to here may have no durable name there yet.
            if let Change::Rename(from, to) = &change
                && !durable_names.contains_key(from)
                && let Some(ino) = names.get(to)
            {
                durable_names.insert(to.clone(), *ino);
                // A file has one name: with the new one durable, the old one cannot come back.
                let (from, ino) = (from.clone(), *ino);
                state.changes.retain(
                    |later| !matches!(later, Change::Link(path, linked) if *path == from && *linked == ino),
                );
                continue;
            }
            change.apply(durable_names);
        }
        Ok(())
    }

    fn sync_file_system(&self, path: &Path) -> io::Result<()> {
        let mut state = self.alive()?;
        state.has_dir(path)?;
        state.all_durable();
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.alive()?;
        state.inode(from)?;
        state.has_dir(&parent(to))?;
        if state.dirs.contains(to) {
            return Err(error(Errno::EISDIR));
        }
        state.change(Change::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        let mut state = self.alive()?;
        state.inode(path)?;
        state.change(Change::Unlink(path.to_owned()));
        Ok(())
    }

    fn touch(&self, path: &Path, atime: Timestamp) -> io::Result<()> {
        self.alive()?.inode_mut(path)?.atime = atime;
        Ok(())
    }

    fn set_times(&self, path: &Path, atime: Timestamp, mtime: Timestamp) -> io::Result<()> {
        let mut state = self.alive()?;
        let inode = state.inode_mut(path)?;
        (inode.atime, inode.mtime) = (atime, mtime);
        Ok(())
    }

    fn stat(&self, path: &Path) -> io::Result<FileStat> {
        let state = self.alive()?;
        match state.inode(path) {
            Ok(inode) => Ok(inode.stat()),
            Err(_) if state.dirs.contains(path) => Ok(dir_stat(state.clock)),
            Err(error) => Err(error),
        }
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let state = self.alive()?;
        if state.names.contains_key(path) {
            return Err(error(Errno::ENOTDIR));
        }
        state.has_dir(path)?;
        let name = |entry: &Path| {
            let name = entry.file_name()?.to_str()?;
            (entry.parent() == Some(path)).then(|| name.to_owned())
        };
        let below = path.to_owned()..;
        let inside = |entry: &&PathBuf| entry.starts_with(path);
        let files = state
            .names
            .range(below.clone())
            .take_while(|(p, _)| inside(p));
        let files = files.filter_map(|(entry, ino)| {
            Some(DirEntry {
                name: name(entry)?,
                stat: state.inodes[ino].stat(),
            })
        });
        let dirs = state.dirs.range(below).take_while(inside);
        let dirs = dirs.filter_map(|entry| {
            Some(DirEntry {
                name: name(entry)?,
                stat: dir_stat(state.clock),
            })
        });
        let mut entries: Vec<_> = files.chain(dirs).collect();
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn names(&self, path: &Path, max: usize) -> io::Result<Option<Vec<String>>> {
        let names: Vec<_> = self.list(path)?.into_iter().map(|e| e.name).collect();
        Ok((names.len() <= max).then_some(names))
    }

    fn create_dirs(&self, path: &Path) -> io::Result<()> {
        let mut state = self.alive()?;
        for dir in path.ancestors() {
            if state.names.contains_key(dir) {
                return Err(error(Errno::ENOTDIR));
            }
            state.dirs.insert(dir.to_owned());
        }
        Ok(())
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.alive()?;
        if !state.dirs.contains(path) {
            return Err(error(Errno::ENOENT));
        }
        if !state.is_empty_dir(path) {
            return Err(error(Errno::ENOTEMPTY));
        }
        state.dirs.remove(path);
        Ok(())
    }

    fn remove_tree(&self, path: &Path) -> io::Result<()> {
        let mut state = self.alive()?;
        if !state.dirs.contains(path) {
            return Err(error(Errno::ENOENT));
        }
        let inside = |(entry, _): &(&PathBuf, &Ino)| entry.starts_with(path);
        let files: Vec<_> = state
            .names
            .iter()
            .filter(inside)
            .map(|(p, _)| p.clone())
            .collect();
        for file in files {
            state.change(Change::Unlink(file));
        }
        state.dirs.retain(|dir| !dir.starts_with(path));
        Ok(())
    }

    fn free_space(&self, _: &Path) -> io::Result<FreeSpace> {
        let state = self.alive()?;
        let total = state.bytes_max.unwrap_or(1 << 40);
        Ok(FreeSpace {
            bytes_total: total,
            bytes_free: total.saturating_sub(state.bytes_used()),
            inodes_free: state
                .inodes_max
                .unwrap_or(INODES)
                .saturating_sub(state.names.len() as u64),
        })
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn FileLock>>> {
        let there = self.stat(path);
        if there.is_err() {
            self.create(path, FILE_MODE, &[], false)?;
        }
        let mut state = self.alive()?;
        if state.locks.contains_key(path) {
            return Ok(None);
        }
        state.locks.insert(path.to_owned(), self.process);
        Ok(Some(Box::new(ModelLock {
            disk: self.disk.clone(),
            path: path.to_owned(),
            process: self.process,
        })))
    }
}

fn dir_stat(time: Timestamp) -> FileStat {
    FileStat {
        size: 0,
        atime: time,
        mtime: time,
        mode: 0o755,
        is_dir: true,
    }
}
