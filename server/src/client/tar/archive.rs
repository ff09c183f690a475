//! Walking a directory into a tar stream.
//!
//! Every file is opened relative to its directory's descriptor, without following links, and checked again once it is
//! open: a tree that changes under the walk gives warnings, never a file from elsewhere. A file that shrinks is filled up
//! with zeros to the size its header announced, one that grows is cut there; both are warnings, as is whatever cannot be
//! read. Only a failing output ends the walk.
//!
//! A further name of a file is written as a link only while the file has several names and is as it was at the first of
//! them; otherwise it is written as a file of its own.
//!
//! Memory: the names of the directories from the root to the current one, and one entry for each file with several
//! names until all of them have been seen. Descriptors: at most [`OPEN_DIRECTORIES_MAX`] and one file.

use std::collections::HashMap;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt as _, MetadataExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat, major, minor};
use xattr::FileExt as _;

use super::{BLOCK, Excludes, Extent, Kind, Member, Mtime, header, shown, sparse};
use crate::client::progress::Progress;

/// Directories kept open at once; the outermost beyond that are opened again, through `..`, on the way back.
const OPEN_DIRECTORIES_MAX: usize = 64;

/// What is read from a file at once.
const READ_BYTES: usize = 1 << 20;

/// What to leave out.
#[derive(Debug, Clone, Default)]
pub(crate) struct ArchiveOptions {
    /// Names to leave out.
    pub(crate) excludes: Excludes,
    /// Whether mounted file systems are left out; their mount points are kept as empty directories.
    pub(crate) one_file_system: bool,
}

/// Writes the directory `root` as a tar stream. Whatever cannot be read is told to `progress` as a warning and left out.
///
/// # Errors
/// When `root` cannot be read at all, and when `output` fails.
pub(crate) fn archive(
    root: &Path,
    options: &ArchiveOptions,
    output: &mut dyn Write,
    progress: &Progress,
) -> io::Result<()> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let directory = nix::fcntl::open(root, flags, Mode::empty())?;
    let stat = fstat(&directory)?;
    let mut walk = Walk {
        output,
        options,
        progress,
        device: stat.st_dev,
        links: HashMap::new(),
        frames: Vec::new(),
        buffer: vec![0; READ_BYTES],
    };
    walk.enter(directory, &stat, Vec::new())?;
    while let Some(frame) = walk.frames.last_mut() {
        match frame.names.next() {
            Some(name) => walk.visit(&name)?,
            None => walk.leave(),
        }
    }
    walk.output.write_all(&[0; 2 * BLOCK])?;
    walk.output.flush()
}

struct Walk<'a> {
    output: &'a mut dyn Write,
    options: &'a ArchiveOptions,
    progress: &'a Progress,
    /// The file system of the root.
    device: u64,
    /// First names of files with several, by device and inode.
    links: HashMap<(u64, u64), Link>,
    /// The directories from the root to the current one.
    frames: Vec<Frame>,
    buffer: Vec<u8>,
}

struct Frame {
    /// Closed when too many deeper ones are open.
    directory: Option<OwnedFd>,
    identity: (u64, u64),
    /// Relative to the root; empty for the root.
    path: Vec<u8>,
    names: std::vec::IntoIter<CString>,
}

struct Link {
    first: Vec<u8>,
    /// Names not seen yet.
    left: u64,
    state: LinkState,
}

/// What tells whether a file is still the one whose first name was written: inodes are used again, and a file may be
/// written to between two of its names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct LinkState {
    size: i64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

impl LinkState {
    fn of(stat: &FileStat) -> Self {
        Self {
            size: stat.st_size,
            mtime: (stat.st_mtime, stat.st_mtime_nsec),
            ctime: (stat.st_ctime, stat.st_ctime_nsec),
        }
    }
}

impl Walk<'_> {
    /// Writes the entry of a directory and makes it the current one.
    fn enter(&mut self, directory: OwnedFd, stat: &FileStat, path: Vec<u8>) -> io::Result<()> {
        let file = File::from(directory);
        let xattrs = self.attributes(&path, &Attributed::Open(&file));
        let shown_path = if path.is_empty() {
            b".".to_vec()
        } else {
            path.clone()
        };
        self.put(&member(shown_path, Kind::Directory, stat, xattrs))?;
        let directory = OwnedFd::from(file);
        let names = match names(&directory) {
            Ok(names) => names,
            Err(error) => {
                self.warn(
                    &path,
                    &format!("the directory cannot be listed: {}", error.desc()),
                );
                Vec::new()
            }
        };
        if let Some(outer) = (self.frames.len() + 1).checked_sub(OPEN_DIRECTORIES_MAX) {
            self.frames[outer].directory = None;
        }
        let identity = (stat.st_dev, stat.st_ino);
        self.frames.push(Frame {
            directory: Some(directory),
            identity,
            path,
            names: names.into_iter(),
        });
        Ok(())
    }

    /// Goes back to the directory above, opening it again when it had to be closed.
    fn leave(&mut self) {
        let left = self.frames.pop();
        let (Some(left), Some(outer)) = (left, self.frames.last_mut()) else {
            return;
        };
        if outer.directory.is_some() {
            return;
        }
        let reopened = left
            .directory
            .and_then(|inner| open(&inner, c"..", OFlag::O_DIRECTORY).ok());
        let same =
            |fd: &OwnedFd| fstat(fd).is_ok_and(|stat| (stat.st_dev, stat.st_ino) == outer.identity);
        outer.directory = reopened.filter(same);
        if outer.directory.is_none() {
            outer.names = Vec::new().into_iter();
            let path = outer.path.clone();
            self.warn(
                &path,
                "the directory was moved while it was read; the rest of it is left out",
            );
        }
    }

    /// One name in the current directory.
    fn visit(&mut self, name: &CString) -> io::Result<()> {
        let Some(Frame {
            directory: Some(directory),
            path: parent,
            ..
        }) = self.frames.last()
        else {
            return Ok(());
        };
        let mut path = parent.clone();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name.as_bytes());
        let stat = match fstatat(directory, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(error) => {
                self.skip(&path, error);
                return Ok(());
            }
        };
        let format = SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits());
        let is_directory = format == SFlag::S_IFDIR;
        if self.options.excludes.excludes(&path, is_directory) {
            return Ok(());
        }
        if is_directory {
            return self.visit_directory(name, &stat, path);
        }
        if self.put_link(&path, &stat)? {
            return Ok(());
        }
        let written = match format {
            SFlag::S_IFREG => self.visit_file(name, &stat, &path)?,
            SFlag::S_IFSOCK => {
                self.progress
                    .note(&format!("{}: a socket, left out", shown(&path)));
                false
            }
            _ => self.visit_special(name, &stat, &path, format)?,
        };
        if written && names_of(&stat) > 1 {
            self.links.insert(
                (stat.st_dev, stat.st_ino),
                Link {
                    first: path,
                    left: names_of(&stat) - 1,
                    state: LinkState::of(&stat),
                },
            );
        }
        Ok(())
    }

    /// Writes a link entry when another name of the same file, unchanged since, was written before. What only looks
    /// like one is left to be archived as a file of its own.
    fn put_link(&mut self, path: &[u8], stat: &FileStat) -> io::Result<bool> {
        let identity = (stat.st_dev, stat.st_ino);
        let Some(link) = self.links.get_mut(&identity) else {
            return Ok(false);
        };
        if names_of(stat) < 2 || link.state != LinkState::of(stat) {
            self.links.remove(&identity);
            return Ok(false);
        }
        let first = link.first.clone();
        link.left -= 1;
        if link.left == 0 {
            self.links.remove(&identity);
        }
        self.put(&member(
            path.to_vec(),
            Kind::HardLink(first),
            stat,
            Vec::new(),
        ))?;
        Ok(true)
    }

    fn visit_directory(
        &mut self,
        name: &CString,
        stat: &FileStat,
        path: Vec<u8>,
    ) -> io::Result<()> {
        let foreign = self.options.one_file_system && stat.st_dev != self.device;
        let opened = self
            .current()
            .map(|directory| open(directory, name, OFlag::O_DIRECTORY));
        let directory = match opened {
            Some(Ok(directory)) => directory,
            Some(Err(error)) => {
                self.warn(
                    &path,
                    &format!("the directory cannot be read: {}", error.desc()),
                );
                return self.put(&member(path, Kind::Directory, stat, Vec::new()));
            }
            None => return Ok(()),
        };
        if foreign {
            let xattrs = self.attributes(&path, &Attributed::Open(&File::from(directory)));
            return self.put(&member(path, Kind::Directory, stat, xattrs));
        }
        match fstat(&directory) {
            Ok(now) if now.st_ino == stat.st_ino && now.st_dev == stat.st_dev => {
                self.enter(directory, &now, path)
            }
            _ => {
                self.warn(
                    &path,
                    "the directory was replaced while it was read, left out",
                );
                Ok(())
            }
        }
    }

    fn visit_file(&mut self, name: &CString, stat: &FileStat, path: &[u8]) -> io::Result<bool> {
        let opened = self
            .current()
            .map(|directory| open(directory, name, OFlag::O_NONBLOCK));
        let file = match opened {
            Some(Ok(fd)) => File::from(fd),
            Some(Err(error)) => {
                self.skip(path, error);
                return Ok(false);
            }
            None => return Ok(false),
        };
        let now = match fstat(&file) {
            Ok(now) if now.st_ino == stat.st_ino && now.st_dev == stat.st_dev => now,
            Ok(_) => {
                self.warn(path, "replaced while it was read, left out");
                return Ok(false);
            }
            Err(error) => {
                self.skip(path, error);
                return Ok(false);
            }
        };
        let size = now.st_size.unsigned_abs();
        let extents = sparse::extents(
            &file,
            size,
            now.st_blocks.unsigned_abs().saturating_mul(512),
        );
        let xattrs = self.attributes(path, &Attributed::Open(&file));
        let kind = Kind::File { size, extents };
        let stored = kind.stored_bytes();
        let whole = [Extent {
            offset: 0,
            length: size,
        }];
        let member = member(path.to_vec(), kind, &now, xattrs);
        self.put(&member)?;
        let extents = match &member.kind {
            Kind::File {
                extents: Some(extents),
                ..
            } => extents.as_slice(),
            _ => &whole,
        };
        let mut complete = true;
        for extent in extents {
            complete &= self.copy(&file, *extent, path, complete)?;
        }
        self.output
            .write_all(&[0; BLOCK][..(stored.wrapping_neg() % BLOCK as u64) as usize])?;
        let changed = file.metadata().map_or(true, |after| {
            (after.size(), after.mtime(), after.mtime_nsec())
                != (size, now.st_mtime, now.st_mtime_nsec)
        });
        if complete && changed {
            self.warn(path, "changed while it was read");
        }
        Ok(true)
    }

    /// Copies one extent; zeros from where the file ends or cannot be read, and nothing but zeros unless `readable`.
    /// Whether everything was read.
    fn copy(
        &mut self,
        file: &File,
        extent: Extent,
        path: &[u8],
        mut readable: bool,
    ) -> io::Result<bool> {
        let mut done = 0;
        while done < extent.length {
            let most = (extent.length - done).min(READ_BYTES as u64) as usize;
            let mut count = most;
            if readable {
                match file.read_at(&mut self.buffer[..most], extent.offset + done) {
                    Ok(read) if read > 0 => count = read,
                    Ok(_) => {
                        readable = false;
                        self.warn(path, "shrank while it was read; filled up with zeros");
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => {
                        readable = false;
                        self.warn(
                            path,
                            &format!("cannot be read ({error}); filled up with zeros"),
                        );
                    }
                }
            }
            if !readable {
                self.buffer[..count].fill(0);
            }
            self.output.write_all(&self.buffer[..count])?;
            done += count as u64;
        }
        Ok(readable)
    }

    /// Links, pipes and devices: what cannot be opened without an effect.
    fn visit_special(
        &mut self,
        name: &CString,
        stat: &FileStat,
        path: &[u8],
        format: SFlag,
    ) -> io::Result<bool> {
        let Some(directory) = self.current() else {
            return Ok(false);
        };
        let place = format!("/proc/self/fd/{}/", directory.as_raw_fd());
        let kind = match format {
            SFlag::S_IFLNK => match readlinkat(directory, name.as_c_str()) {
                Ok(text) => Kind::Symlink(text.into_vec()),
                Err(error) => {
                    self.skip(path, error);
                    return Ok(false);
                }
            },
            SFlag::S_IFIFO => Kind::Fifo,
            SFlag::S_IFCHR | SFlag::S_IFBLK => Kind::Device {
                block: format == SFlag::S_IFBLK,
                major: major(stat.st_rdev) as u32,
                minor: minor(stat.st_rdev) as u32,
            },
            _ => {
                self.warn(path, "of a kind that is not known, left out");
                return Ok(false);
            }
        };
        let place = [place.as_bytes(), name.as_bytes()].concat();
        let xattrs = self.attributes(
            path,
            &Attributed::Name(Path::new(std::ffi::OsStr::from_bytes(&place))),
        );
        self.put(&member(path.to_vec(), kind, stat, xattrs))?;
        Ok(true)
    }

    /// The extended attributes in order of their names. A file system without any has none; a fault is a warning.
    fn attributes(&self, path: &[u8], of: &Attributed) -> Vec<(Vec<u8>, Vec<u8>)> {
        let names = match of.list() {
            Ok(names) => names,
            Err(error) if none_there(&error) => return Vec::new(),
            Err(error) => {
                self.warn(
                    path,
                    &format!("its extended attributes cannot be listed: {error}"),
                );
                return Vec::new();
            }
        };
        let mut found = Vec::new();
        for name in names {
            match of.get(&name) {
                Ok(Some(value)) => found.push((name.into_vec(), value)),
                // Removed since it was listed.
                Ok(None) => {}
                Err(error) => {
                    let name = name.to_string_lossy();
                    self.warn(
                        path,
                        &format!("its extended attribute {name} cannot be read: {error}"),
                    );
                }
            }
        }
        found.sort();
        found
    }

    fn current(&self) -> Option<&OwnedFd> {
        self.frames
            .last()
            .and_then(|frame| frame.directory.as_ref())
    }

    fn put(&mut self, member: &Member) -> io::Result<()> {
        self.output.write_all(&header::encode(member)?)
    }

    fn skip(&self, path: &[u8], error: Errno) {
        self.warn(path, &format!("left out: {}", error.desc()));
    }

    fn warn(&self, path: &[u8], what: &str) {
        let path = if path.is_empty() { b"." } else { path };
        self.progress.warn(&format!("{}: {what}", shown(path)));
    }
}

/// What attributes are asked of.
enum Attributed<'a> {
    Open(&'a File),
    /// A name that must not be followed.
    Name(&'a Path),
}

impl Attributed<'_> {
    fn list(&self) -> io::Result<xattr::XAttrs> {
        match self {
            Self::Open(file) => file.list_xattr(),
            Self::Name(path) => xattr::list(path),
        }
    }

    fn get(&self, name: &std::ffi::OsStr) -> io::Result<Option<Vec<u8>>> {
        match self {
            Self::Open(file) => file.get_xattr(name),
            Self::Name(path) => xattr::get(path, name),
        }
    }
}

/// Errors that say that there is nothing to read, or (without `/proc`) no way to ask.
fn none_there(error: &io::Error) -> bool {
    let code = error.raw_os_error().map(Errno::from_raw);
    matches!(
        code,
        Some(Errno::EOPNOTSUPP | Errno::ENODATA | Errno::ENOENT | Errno::EPERM | Errno::ENOSYS)
    )
}

/// Opens a name in a directory for reading, never through a link; without touching its access time where that is allowed.
fn open(directory: &OwnedFd, name: &std::ffi::CStr, extra: OFlag) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NOCTTY | extra;
    match openat(directory, name, flags | OFlag::O_NOATIME, Mode::empty()) {
        Err(Errno::EPERM) => openat(directory, name, flags, Mode::empty()),
        result => result,
    }
}

/// The names in a directory, in byte order.
fn names(directory: &OwnedFd) -> Result<Vec<CString>, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut listing = nix::dir::Dir::openat(directory, c".", flags, Mode::empty())?;
    let mut names = Vec::new();
    for entry in listing.iter() {
        let name = entry?.file_name().to_owned();
        if name.as_c_str() != c"." && name.as_c_str() != c".." {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// How many names a file has.
#[allow(
    clippy::unnecessary_cast,
    reason = "the field has 32 bits on some architectures"
)]
fn names_of(stat: &FileStat) -> u64 {
    stat.st_nlink as u64
}

fn member(path: Vec<u8>, kind: Kind, stat: &FileStat, xattrs: Vec<(Vec<u8>, Vec<u8>)>) -> Member {
    Member {
        path,
        kind,
        mode: stat.st_mode & 0o7777,
        uid: u64::from(stat.st_uid),
        gid: u64::from(stat.st_gid),
        mtime: Mtime {
            seconds: stat.st_mtime,
            nanos: stat.st_mtime_nsec as u32,
        },
        xattrs,
    }
}
