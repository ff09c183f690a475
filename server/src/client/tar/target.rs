//! A directory that restored files cannot leave.
//!
//! Every name is resolved here component by component, each relative to the descriptor of the one before and never
//! through a link, so that neither `..`, nor an absolute name, nor a link that the archive or somebody else puts in the
//! way leads outside. Whatever stands where an entry goes is removed first, never written into.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, fstatat, makedev, mkdirat, mknodat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, linkat, mkfifoat, symlinkat, unlinkat};

use super::{Kind, Member};

/// The directory that is restored into.
pub(super) struct Target {
    root: OwnedFd,
    /// The directory used last, by its path: entries come directory by directory.
    parent: Option<(Vec<u8>, OwnedFd)>,
    /// Whether owners are restored: only root may.
    owners: bool,
}

/// A name inside the target, in components without `.` and empty ones; empty for the target itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Inside(Vec<CString>);

impl Inside {
    /// Splits a name as it stands in an archive. A leading slash is dropped.
    ///
    /// # Errors
    /// A sentence for a name with `..` or a zero byte.
    pub(super) fn parse(path: &[u8]) -> Result<Self, &'static str> {
        let mut components = Vec::new();
        for name in path.split(|&b| b == b'/') {
            match name {
                b"" | b"." => {}
                b".." => return Err("a name with '..' could lead out of the target"),
                name => components.push(
                    CString::new(name).map_err(|_| "a name with a zero byte cannot be a file")?,
                ),
            }
        }
        Ok(Self(components))
    }

    /// The components joined by slashes.
    pub(super) fn joined(&self) -> Vec<u8> {
        self.0
            .iter()
            .map(CString::as_bytes)
            .collect::<Vec<_>>()
            .join(&b'/')
    }

    fn split(&self) -> io::Result<(&[CString], &CStr)> {
        let (name, parents) = self
            .0
            .split_last()
            .ok_or_else(|| io::Error::other("only a directory can be the target itself"))?;
        Ok((parents, name))
    }
}

impl Target {
    /// Opens an existing directory.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = nix::fcntl::open(path, flags, Mode::empty())?;
        Ok(Self {
            root,
            parent: None,
            owners: nix::unistd::geteuid().is_root(),
        })
    }

    /// A new file, open for writing, readable by its owner only until its metadata is applied.
    pub(super) fn create_file(&mut self, at: &Inside) -> io::Result<File> {
        let (parent, name) = self.cleared(at, false)?;
        let flags =
            OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        Ok(File::from(openat(
            parent,
            name,
            flags,
            Mode::S_IRUSR | Mode::S_IWUSR,
        )?))
    }

    /// A directory, kept if it is there; a new one is for its owner only until its metadata is applied.
    pub(super) fn create_directory(&mut self, at: &Inside) -> io::Result<()> {
        if at.0.is_empty() {
            return Ok(());
        }
        let (parent, name) = self.cleared(at, true)?;
        match mkdirat(parent, name, Mode::S_IRWXU) {
            Ok(()) | Err(Errno::EEXIST) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// A link, pipe or device.
    pub(super) fn create_special(&mut self, at: &Inside, kind: &Kind) -> io::Result<()> {
        let (parent, name) = self.cleared(at, false)?;
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        match kind {
            Kind::Symlink(text) => symlinkat(std::ffi::OsStr::from_bytes(text), parent, name)?,
            Kind::Fifo => mkfifoat(parent, name, mode)?,
            Kind::Device {
                block,
                major,
                minor,
            } => {
                let format = if *block {
                    SFlag::S_IFBLK
                } else {
                    SFlag::S_IFCHR
                };
                mknodat(
                    parent,
                    name,
                    format,
                    mode,
                    makedev(u64::from(*major), u64::from(*minor)),
                )?;
            }
            Kind::File { .. } | Kind::Directory | Kind::HardLink(_) => {
                return Err(io::Error::other(
                    "files, directories and hard links are no special files",
                ));
            }
        }
        Ok(())
    }

    /// A further name of a file that was restored before.
    pub(super) fn link(&mut self, at: &Inside, first: &Inside) -> io::Result<()> {
        if at == first {
            return Ok(());
        }
        let (parents, first_name) = first.split()?;
        let first_parent = self.parent(parents, false)?.try_clone()?;
        let (parent, name) = self.cleared(at, false)?;
        Ok(linkat(
            &first_parent,
            first_name,
            parent,
            name,
            AtFlags::empty(),
        )?)
    }

    /// Applies owner, mode, attributes and time, in the order in which none undoes another: a change of owner clears
    /// set-id bits and capabilities, and every change but that of the time is no change of the content.
    /// Returns what could not be applied.
    pub(super) fn apply(&mut self, at: &Inside, member: &Member) -> io::Result<Vec<String>> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = if at.0.is_empty() {
            self.root.try_clone()?
        } else {
            let (parents, name) = at.split()?;
            openat(self.parent(parents, false)?, name, flags, Mode::empty())?
        };
        Ok(self.apply_to(&fd, member))
    }

    /// [`Target::apply`] for a file that is still open.
    pub(super) fn apply_to(&self, fd: &OwnedFd, member: &Member) -> Vec<String> {
        let mut faults = Vec::new();
        // Descriptors opened with O_PATH refuse fchmod and fsetxattr, but their names below /proc do not, and lead to the
        // file itself (to a link, not to what it points at), whatever stands at its name by now.
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let path = Path::new(&path);
        let is_link = matches!(member.kind, Kind::Symlink(_));
        let mut mode = member.mode;
        if self.owners {
            let ids = u32::try_from(member.uid)
                .ok()
                .zip(u32::try_from(member.gid).ok());
            let changed = ids.ok_or(Errno::EOVERFLOW).and_then(|(uid, gid)| {
                fchownat(
                    fd,
                    c"",
                    Some(Uid::from_raw(uid)),
                    Some(Gid::from_raw(gid)),
                    AtFlags::AT_EMPTY_PATH,
                )
            });
            if let Err(error) = changed {
                faults.push(format!(
                    "its owner {}:{} cannot be set: {}",
                    member.uid,
                    member.gid,
                    error.desc()
                ));
                mode &= 0o1777;
            }
        } else if member.uid != u64::from(nix::unistd::geteuid().as_raw()) {
            // Set-id bits would now lend the rights of somebody else.
            mode &= 0o1777;
        }
        // Those of users are refused where the mode lets nobody write, so they come before it. Access lists are a part of the
        // mode, and capabilities go with a change of owner, so the others come after both.
        let set = |name: &[u8], value: &[u8]| {
            let name = std::ffi::OsStr::from_bytes(name);
            let result = xattr::set_deref(path, name, value);
            result.err().map(|error| {
                let name = name.to_string_lossy();
                format!("its extended attribute {name} cannot be set: {error}")
            })
        };
        let (of_users, of_system): (Vec<_>, Vec<_>) = member
            .xattrs
            .iter()
            .partition(|(name, _)| name.starts_with(b"user."));
        faults.extend(
            of_users
                .into_iter()
                .filter_map(|(name, value)| set(name, value)),
        );
        // Links have no mode of their own.
        if !is_link
            && let Err(error) = std::fs::set_permissions(path, PermissionsExt::from_mode(mode))
        {
            faults.push(format!("its mode {mode:o} cannot be set: {error}"));
        }
        faults.extend(
            of_system
                .into_iter()
                .filter_map(|(name, value)| set(name, value)),
        );
        let time = TimeSpec::new(member.mtime.seconds, i64::from(member.mtime.nanos));
        let follow = UtimensatFlags::FollowSymlink;
        if let Err(error) = utimensat(AT_FDCWD, path, &TimeSpec::UTIME_OMIT, &time, follow) {
            faults.push(format!("its time cannot be set: {}", error.desc()));
        }
        faults
    }

    /// The parent directory of `at`, made if needed, with nothing left at its name but, if `keep_directory`, a directory.
    fn cleared<'a>(
        &'a mut self,
        at: &'a Inside,
        keep_directory: bool,
    ) -> io::Result<(&'a OwnedFd, &'a CStr)> {
        let (parents, name) = at.split()?;
        let parent = self.parent(parents, true)?;
        match fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Err(Errno::ENOENT) => {}
            Err(error) => return Err(error.into()),
            Ok(stat) if stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits() => {
                if !keep_directory {
                    unlinkat(parent, name, UnlinkatFlags::RemoveDir)?;
                }
            }
            Ok(_) => unlinkat(parent, name, UnlinkatFlags::NoRemoveDir)?,
        }
        Ok((parent, name))
    }

    /// Opens a directory inside the target, component by component; makes the missing ones if `create`.
    fn parent(&mut self, components: &[CString], create: bool) -> io::Result<&OwnedFd> {
        if components.is_empty() {
            return Ok(&self.root);
        }
        let path = components
            .iter()
            .map(CString::as_bytes)
            .collect::<Vec<_>>()
            .join(&b'/');
        if self.parent.as_ref().is_none_or(|(known, _)| *known != path) {
            let opened = self.descend(components, create)?;
            self.parent = Some((path, opened));
        }
        self.parent
            .as_ref()
            .map(|(_, fd)| fd)
            .ok_or_else(|| io::Error::other("no directory is open"))
    }

    fn descend(&self, components: &[CString], create: bool) -> io::Result<OwnedFd> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mut directory = self.root.try_clone()?;
        for name in components {
            let opened = match openat(&directory, name.as_c_str(), flags, Mode::empty()) {
                Err(Errno::ENOENT) if create => {
                    mkdirat(
                        &directory,
                        name.as_c_str(),
                        Mode::S_IRWXU | Mode::S_IRWXG | Mode::S_IRWXO,
                    )?;
                    openat(&directory, name.as_c_str(), flags, Mode::empty())
                }
                result => result,
            };
            directory = opened?;
        }
        Ok(directory)
    }
}

#[cfg(test)]
mod tests {
    use nix::unistd::{chown, geteuid, setfsuid};

    use super::super::Mtime;
    use super::*;

    #[test]
    fn attributes_of_users_survive_a_mode_without_write() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        std::fs::write(&path, "x").expect("written");
        let user = if geteuid().is_root() {
            Uid::from_raw(65_534)
        } else {
            geteuid()
        };
        chown(&path, Some(user), None).expect("given away");
        let target = Target {
            owners: false,
            ..Target::open(dir.path()).expect("opened")
        };
        let member = Member {
            path: b"file".to_vec(),
            kind: Kind::File {
                size: 1,
                extents: None,
            },
            mode: 0o444,
            uid: 0,
            gid: 0,
            mtime: Mtime {
                seconds: 1,
                nanos: 0,
            },
            xattrs: vec![(b"user.a".to_vec(), b"b".to_vec())],
        };
        let fd = File::open(&path).expect("opened").into();
        let apply = || {
            // For this thread only; it has no rights to every file any more.
            setfsuid(user);
            target.apply_to(&fd, &member)
        };
        let faults = std::thread::scope(|scope| scope.spawn(apply).join().expect("ran"));
        assert_eq!(faults, Vec::<String>::new());
        let value = xattr::get(&path, "user.a").expect("readable");
        assert_eq!(value.as_deref(), Some(&b"b"[..]));
        let mode = std::fs::metadata(&path)
            .expect("there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o7777, 0o444);
    }
}
