//! The files of a directory bucket: where they are, how they are written, and how they come to rest.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use sha2::{Digest as _, Sha256};

use super::file::{Header, ObjectFile};
use crate::{Error, ErrorKind, ObjectKey, Op};

/// Content of `bucket.json`.
const FORMAT: &str = "{\"format\":\"holdfast-directory-bucket\",\"version\":1}\n";
const FOLDERS: usize = 256;
/// Reading headers waits for the disk more than for the processor.
const READERS: usize = 8;

/// Where an object's file is: the SHA-256 of its key.
#[derive(Clone, Debug)]
pub(super) struct Slot([u8; 32]);

impl Slot {
    pub(super) fn of(key: &ObjectKey) -> Self {
        Self(Sha256::digest(key.as_str()).into())
    }

    /// The number of its folder.
    pub(super) fn folder(&self) -> u8 {
        self.0[0]
    }
}

/// The error of file work for `key`.
pub(super) fn failed(op: Op, key: &str, error: io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => ErrorKind::Corrupt,
        _ => ErrorKind::Other,
    };
    Error::new(kind, op, key, error.to_string()).with_source(error)
}

/// The directory of an open bucket.
#[derive(Debug)]
pub(super) struct Tree {
    root: PathBuf,
    sync: bool,
    serial: AtomicU64,
    /// One lock for each folder of objects: decisions and renames in it are one step.
    folders: Vec<Mutex<()>>,
    /// Locked as long as the bucket is open.
    _lock: File,
}

impl Tree {
    /// Opens or creates the directory.
    pub(super) fn open(root: &Path, sync: bool) -> Result<Self, Error> {
        let io = |error| {
            let mut error = failed(Op::Bucket, "", error);
            error.message = format!("directory bucket {}: {}", root.display(), error.message);
            error
        };
        fs::create_dir_all(root).map_err(io)?;
        let lock = lock(root)?;
        let tree = Self {
            root: root.to_owned(),
            sync,
            serial: AtomicU64::new(0),
            folders: (0..FOLDERS).map(|_| Mutex::new(())).collect(),
            _lock: lock,
        };
        tree.check_format()?;
        tree.prepare().map_err(io)?;
        Ok(tree)
    }

    fn check_format(&self) -> Result<(), Error> {
        match fs::read_to_string(self.root.join("bucket.json")) {
            Ok(found) if found == FORMAT => Ok(()),
            Ok(_) => Err(Error::new(
                ErrorKind::Unsupported,
                Op::Bucket,
                "",
                format!(
                    "{} is a directory bucket of another version, open it with that version",
                    self.root.display()
                ),
            )),
            // Written last by `prepare`, so its absence means a new directory, or one whose creation was cut short.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(failed(Op::Bucket, "", error)),
        }
    }

    /// Makes what is missing and empties the staging folder.
    fn prepare(&self) -> io::Result<()> {
        match fs::remove_dir_all(self.root.join("staging")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        for name in ["staging", "uploads", "objects"] {
            fs::create_dir_all(self.root.join(name))?;
        }
        for number in 0..FOLDERS {
            fs::create_dir_all(self.folder_path(number as u8))?;
        }
        self.sync_path(&self.root.join("objects"))?;
        if !self.root.join("bucket.json").exists() {
            let mut staged = self.stage()?;
            staged.write(FORMAT.as_bytes())?;
            staged.finish()?.rename_to(&self.root.join("bucket.json"))?;
        }
        self.sync_path(&self.root)
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Whether the directory is still there.
    pub(super) fn is_there(&self) -> io::Result<()> {
        fs::metadata(self.root.join("bucket.json")).map(drop)
    }

    fn folder_path(&self, number: u8) -> PathBuf {
        self.root.join("objects").join(format!("{number:02x}"))
    }

    /// The path of an object's file.
    pub(super) fn path(&self, slot: &Slot) -> PathBuf {
        self.folder_path(slot.folder())
            .join(hex::encode(&slot.0[1..]))
    }

    /// The folder of an upload.
    pub(super) fn upload_path(&self, id: &str) -> PathBuf {
        self.root.join("uploads").join(id)
    }

    /// Takes the lock of an object's folder.
    pub(super) fn lock(&self, slot: &Slot) -> MutexGuard<'_, ()> {
        let folder = &self.folders[usize::from(slot.folder())];
        folder.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes an object's file; the folder is not synced.
    pub(super) fn unlink(&self, slot: &Slot) -> io::Result<()> {
        match fs::remove_file(self.path(slot)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    pub(super) fn sync_folder(&self, slot: &Slot) -> io::Result<()> {
        self.sync_folder_number(slot.folder())
    }

    pub(super) fn sync_folder_number(&self, number: u8) -> io::Result<()> {
        self.sync_path(&self.folder_path(number))
    }

    /// Makes renames and removals in a folder durable.
    pub(super) fn sync_path(&self, folder: &Path) -> io::Result<()> {
        if self.sync {
            File::open(folder)?.sync_all()?;
        }
        Ok(())
    }

    /// A number that was not given out since the bucket was opened.
    pub(super) fn next_serial(&self) -> u64 {
        self.serial.fetch_add(1, Ordering::Relaxed)
    }

    /// A new temporary file.
    pub(super) fn stage(&self) -> io::Result<Staged<'_>> {
        let path = self
            .root
            .join("staging")
            .join(self.next_serial().to_string());
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)?;
        Ok(Staged {
            tree: self,
            file: Some(file),
            path,
        })
    }

    /// The headers of all objects, in no particular order.
    pub(super) fn read_headers(&self) -> Result<Vec<Header>, Error> {
        let read = |first: usize| {
            let mut headers = Vec::new();
            for number in (first..FOLDERS).step_by(READERS) {
                self.read_folder(number as u8, &mut headers)?;
            }
            Ok::<_, Error>(headers)
        };
        thread::scope(|scope| {
            let read = &read;
            let readers: Vec<_> = (0..READERS)
                .map(|first| scope.spawn(move || read(first)))
                .collect();
            let mut all = Vec::new();
            for reader in readers {
                let headers = reader.join().map_err(|_| {
                    Error::new(ErrorKind::Other, Op::Bucket, "", "reading headers panicked")
                })?;
                all.extend(headers?);
            }
            Ok(all)
        })
    }

    fn read_folder(&self, number: u8, headers: &mut Vec<Header>) -> Result<(), Error> {
        let folder = self.folder_path(number);
        let io = |error| failed(Op::Bucket, "", error);
        for entry in fs::read_dir(&folder).map_err(io)? {
            let path = entry.map_err(io)?.path();
            let file = ObjectFile::open(&path).and_then(|file| {
                let place = self.path(&Slot::of(&file.header.key));
                if place == path {
                    Ok(file.header)
                } else {
                    Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "it is not where its key belongs",
                    ))
                }
            });
            match file {
                Ok(header) => headers.push(header),
                Err(error) => {
                    let mut error = failed(Op::Bucket, "", error);
                    error.message = format!(
                        "the file {} is not a sound object ({}); restore it, or move it away and the object is lost",
                        path.display(),
                        error.message
                    );
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}

fn lock(root: &Path) -> Result<File, Error> {
    let path = root.join("lock");
    let io = |error| failed(Op::Bucket, "", error);
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(io)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::new(
            ErrorKind::Other,
            Op::Bucket,
            "",
            format!(
                "the directory bucket {} is in use by another process, stop that first",
                root.display()
            ),
        )),
        Err(TryLockError::Error(error)) => Err(io(error)),
    }
}

/// A file being written; it vanishes unless it is finished and renamed.
#[derive(Debug)]
pub(super) struct Staged<'a> {
    tree: &'a Tree,
    file: Option<File>,
    path: PathBuf,
}

impl<'a> Staged<'a> {
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file()?.write_all(bytes)
    }

    /// Appends exactly `length` bytes of `source`.
    pub(super) fn append(&mut self, source: impl Read, length: u64) -> io::Result<()> {
        let copied = io::copy(&mut source.take(length), self.file()?)?;
        if copied == length {
            Ok(())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }

    fn file(&mut self) -> io::Result<&mut File> {
        self.file
            .as_mut()
            .ok_or_else(|| io::ErrorKind::Other.into())
    }

    /// Syncs the content.
    pub(super) fn finish(mut self) -> io::Result<Finished<'a>> {
        let sync = self.tree.sync;
        let file = self.file()?;
        if sync {
            file.sync_all()?;
        }
        self.file = None;
        Ok(Finished(self))
    }
}

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            // What cannot be removed now is removed at the next open.
            drop(fs::remove_file(&self.path));
        }
    }
}

/// A file that is written and synced, and waits for its name.
#[derive(Debug)]
pub(super) struct Finished<'a>(Staged<'a>);

impl Finished<'_> {
    /// Gives it the name of an object; the folder is not synced.
    pub(super) fn rename(self, slot: &Slot) -> io::Result<()> {
        let target = self.0.tree.path(slot);
        self.rename_to(&target)
    }

    /// Gives it a name; the folder is not synced.
    pub(super) fn rename_to(mut self, target: &Path) -> io::Result<()> {
        fs::rename(&self.0.path, target)?;
        self.0.path = PathBuf::new();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_as_such() {
        const ENOSPC: i32 = 28;
        let error = failed(Op::Put, "a", io::Error::from_raw_os_error(ENOSPC));
        assert_eq!(error.kind, ErrorKind::NoSpace);
        let error = failed(Op::Put, "a", io::ErrorKind::PermissionDenied.into());
        assert_eq!(error.kind, ErrorKind::Other);
    }

    #[test]
    fn a_file_that_is_not_renamed_vanishes() {
        let folder = tempfile::tempdir().expect("a folder");
        let tree = Tree::open(folder.path(), true).expect("a bucket");
        let staging = || {
            let names = fs::read_dir(folder.path().join("staging")).expect("a folder");
            names.count()
        };
        let mut staged = tree.stage().expect("a file");
        staged.write(b"x").expect("room");
        assert_eq!(staging(), 1);
        drop(staged.finish().expect("synced"));
        assert_eq!(staging(), 0);
    }
}
