//! Two directory trees compared by reading both: no chunk, index or archive is asked what it thinks.
//!
//! Equal means: the same names; the same kinds; byte for byte the same contents, link texts and device numbers; the same
//! modes, times to the nanosecond, extended attributes (ACLs among them), and the same names that are one file. Owners
//! count only when this process may give files away. Left aside are what the patterns exclude, sockets, and times of
//! access.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::client::tar::Excludes;

/// What is read of each file at once, in bytes.
const BLOCK_BYTES: usize = 256 << 10;
/// Differences that are described; all are counted.
const DESCRIBED_MAX: usize = 10;
/// Permission bits with set-id and sticky, and without set-id.
const MODE: u32 = 0o7777;
const MODE_WITHOUT_SET_ID: u32 = 0o1777;

/// What a tree holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct TreeSize {
    /// Files, directories, links and the like; the root too.
    pub(super) entries: u64,
    /// Logical bytes of regular files, each file once.
    pub(super) bytes: u64,
}

/// What a comparison came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Comparison {
    /// Entries found on both sides.
    pub(super) compared: u64,
    /// Bytes of content read on each side.
    pub(super) bytes: u64,
    /// Entries that differ or are on one side only.
    pub(super) different: u64,
    /// The first of them, a sentence each.
    pub(super) described: Vec<String>,
}

impl Comparison {
    /// Whether nothing differs.
    pub(super) fn is_equal(&self) -> bool {
        self.different == 0
    }

    /// Adds another one.
    pub(super) fn add(&mut self, other: Self) {
        self.compared += other.compared;
        self.bytes += other.bytes;
        self.different += other.different;
        self.described.extend(other.described);
        self.described.truncate(DESCRIBED_MAX);
    }

    fn differs(&mut self, path: &Path, what: impl fmt::Display) {
        self.different += 1;
        if self.described.len() < DESCRIBED_MAX {
            let path = if path.as_os_str().is_empty() {
                Path::new(".")
            } else {
                path
            };
            self.described.push(format!("{}: {what}", path.display()));
        }
    }
}

/// Entries and bytes of the tree at `root` without what is excluded. Blocks on the disk.
///
/// # Errors
/// The root cannot be read. Below it, what cannot be read is left to the backup to tell.
pub(super) fn measure(root: &Path, excludes: &Excludes) -> io::Result<TreeSize> {
    fs::read_dir(root)?;
    let mut size = TreeSize::default();
    let mut linked = BTreeSet::new();
    let walk = walkdir::WalkDir::new(root).into_iter();
    let kept = walk.filter_entry(|entry| {
        let path = entry.path().strip_prefix(root).unwrap_or(entry.path());
        let is_directory = entry.file_type().is_dir();
        entry.depth() == 0 || !excludes.excludes(path.as_os_str().as_bytes(), is_directory)
    });
    for entry in kept.filter_map(Result::ok) {
        size.entries += 1;
        if let Ok(stat) = entry.metadata()
            && stat.is_file()
            && (stat.nlink() == 1 || linked.insert((stat.dev(), stat.ino())))
        {
            size.bytes += stat.len();
        }
    }
    Ok(size)
}

/// Compares the tree at `right` with that at `left`; neither is a link. Blocks on the disk.
///
/// # Errors
/// Something cannot be read; the text names it.
pub(super) fn compare(
    left: &Path,
    right: &Path,
    excludes: &Excludes,
) -> anyhow::Result<Comparison> {
    let mut walk = Walk {
        left: Side::new(left),
        right: Side::new(right),
        excludes,
        owners: nix::unistd::geteuid().is_root(),
        result: Comparison::default(),
        directories: vec![PathBuf::new()],
    };
    walk.entry(PathBuf::new())?;
    while let Some(directory) = walk.directories.pop() {
        walk.directory(&directory)?;
    }
    Ok(walk.result)
}

/// One of the two trees.
struct Side<'a> {
    root: &'a Path,
    /// The first name of each file that has several, by device and inode.
    first_names: BTreeMap<(u64, u64), PathBuf>,
}

impl<'a> Side<'a> {
    fn new(root: &'a Path) -> Self {
        Self {
            root,
            first_names: BTreeMap::new(),
        }
    }

    fn at(&self, path: &Path) -> PathBuf {
        // Joining an empty path would add a slash, which follows links.
        if path.as_os_str().is_empty() {
            self.root.to_owned()
        } else {
            self.root.join(path)
        }
    }

    fn stat(&self, path: &Path) -> anyhow::Result<Metadata> {
        let at = self.at(path);
        fs::symlink_metadata(&at).with_context(|| format!("{} cannot be read", at.display()))
    }

    fn names(&self, path: &Path, excludes: &Excludes) -> anyhow::Result<BTreeSet<OsString>> {
        let at = self.at(path);
        let fault = || format!("the directory {} cannot be read", at.display());
        let mut names = BTreeSet::new();
        for entry in fs::read_dir(&at).with_context(fault)? {
            let entry = entry.with_context(fault)?;
            let kind = entry.file_type().with_context(fault)?;
            let inside = path.join(entry.file_name());
            if !kind.is_socket() && !excludes.excludes(inside.as_os_str().as_bytes(), kind.is_dir())
            {
                names.insert(entry.file_name());
            }
        }
        Ok(names)
    }

    /// The first name under which this file was met.
    fn first_name(&mut self, path: &Path, stat: &Metadata) -> PathBuf {
        if stat.is_dir() || stat.nlink() == 1 {
            return path.to_owned();
        }
        let first = self.first_names.entry((stat.dev(), stat.ino()));
        first.or_insert_with(|| path.to_owned()).clone()
    }

    fn xattrs(&self, path: &Path) -> anyhow::Result<BTreeMap<OsString, Vec<u8>>> {
        let at = self.at(path);
        let fault = || format!("the extended attributes of {} cannot be read", at.display());
        let names = match xattr::list(&at) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => return Ok(BTreeMap::new()),
            names => names.with_context(fault)?,
        };
        let mut found = BTreeMap::new();
        for name in names {
            if let Some(value) = xattr::get(&at, &name).with_context(fault)? {
                found.insert(name, value);
            }
        }
        Ok(found)
    }

    fn open(&self, path: &Path) -> anyhow::Result<File> {
        let at = self.at(path);
        File::open(&at).with_context(|| format!("{} cannot be read", at.display()))
    }

    fn link_text(&self, path: &Path) -> anyhow::Result<PathBuf> {
        let at = self.at(path);
        fs::read_link(&at).with_context(|| format!("{} cannot be read", at.display()))
    }
}

struct Walk<'a> {
    left: Side<'a>,
    right: Side<'a>,
    excludes: &'a Excludes,
    /// Whether owners were restored.
    owners: bool,
    result: Comparison,
    /// Found on both sides and not looked into yet.
    directories: Vec<PathBuf>,
}

impl Walk<'_> {
    fn directory(&mut self, path: &Path) -> anyhow::Result<()> {
        let left = self.left.names(path, self.excludes)?;
        let right = self.right.names(path, self.excludes)?;
        for name in left.difference(&right) {
            let missing = "is missing from what was restored";
            self.result.differs(&path.join(name), missing);
        }
        for name in right.difference(&left) {
            let extra = "was restored, but is not in the original";
            self.result.differs(&path.join(name), extra);
        }
        // Backwards onto the stack, so that directories are looked into in the order of their names.
        let first = self.directories.len();
        for name in left.intersection(&right) {
            let path = path.join(name);
            if self.entry(path.clone())? {
                self.directories.push(path);
            }
        }
        self.directories[first..].reverse();
        Ok(())
    }

    /// Compares one entry; answers whether it is a directory on both sides.
    fn entry(&mut self, path: PathBuf) -> anyhow::Result<bool> {
        let (left, right) = (self.left.stat(&path)?, self.right.stat(&path)?);
        self.result.compared += 1;
        let what = match self.first_difference(&path, &left, &right)? {
            None => self.content_difference(&path, &left)?,
            found => found,
        };
        if let Some(what) = what {
            self.result.differs(&path, what);
        }
        Ok(left.is_dir() && right.is_dir())
    }

    fn first_difference(
        &mut self,
        path: &Path,
        left: &Metadata,
        right: &Metadata,
    ) -> anyhow::Result<Option<String>> {
        let kinds = (left.file_type(), right.file_type());
        if kinds.0 != kinds.1 {
            return Ok(Some("is another kind of file".to_owned()));
        }
        let same_owner = left.uid() == right.uid() && left.gid() == right.gid();
        if self.owners && !same_owner {
            let owner = |stat: &Metadata| format!("{}:{}", stat.uid(), stat.gid());
            return Ok(Some(different("owner", owner(left), owner(right))));
        }
        let bits = if self.owners || left.uid() == right.uid() {
            MODE
        } else {
            // The rights of somebody else are not lent out.
            MODE_WITHOUT_SET_ID
        };
        let mode = |stat: &Metadata| format!("{:o}", stat.mode() & bits);
        // Links have no mode of their own.
        if !left.is_symlink() && mode(left) != mode(right) {
            return Ok(Some(different("mode", mode(left), mode(right))));
        }
        let time = |stat: &Metadata| format!("{}.{:09}", stat.mtime(), stat.mtime_nsec());
        if time(left) != time(right) {
            return Ok(Some(different("time", time(left), time(right))));
        }
        if left.rdev() != right.rdev() {
            return Ok(Some(different("device number", left.rdev(), right.rdev())));
        }
        if left.is_file() && left.len() != right.len() {
            return Ok(Some(different("size", left.len(), right.len())));
        }
        if self.left.xattrs(path)? != self.right.xattrs(path)? {
            return Ok(Some("has other extended attributes".to_owned()));
        }
        let first = (
            self.left.first_name(path, left),
            self.right.first_name(path, right),
        );
        if first.0 != first.1 {
            return Ok(Some("is another name of another file".to_owned()));
        }
        Ok(None)
    }

    fn content_difference(
        &mut self,
        path: &Path,
        left: &Metadata,
    ) -> anyhow::Result<Option<String>> {
        if left.is_symlink() {
            let (left, right) = (self.left.link_text(path)?, self.right.link_text(path)?);
            return Ok((left != right).then(|| "points somewhere else".to_owned()));
        }
        if !left.is_file() {
            return Ok(None);
        }
        let (left, right) = (self.left.open(path)?, self.right.open(path)?);
        let (bytes, at) = first_different_byte(left, right)
            .with_context(|| format!("{} cannot be read", path.display()))?;
        self.result.bytes += bytes;
        Ok(at.map(|at| format!("its content differs from byte {at} on")))
    }
}

fn different(what: &str, left: impl fmt::Display, right: impl fmt::Display) -> String {
    format!("its {what} was {left} and is {right}")
}

/// Reads both to the first difference, which may be the end of one; answers the bytes that are equal.
pub(super) fn first_different_byte(
    mut left: impl Read,
    mut right: impl Read,
) -> io::Result<(u64, Option<u64>)> {
    let (mut one, mut other) = (vec![0; BLOCK_BYTES], vec![0; BLOCK_BYTES]);
    let mut equal = 0;
    loop {
        let (one, other) = (fill(&mut left, &mut one)?, fill(&mut right, &mut other)?);
        let same = one.iter().zip(other).take_while(|(a, b)| a == b).count();
        equal += same as u64;
        if one.len() != other.len() || same < one.len() {
            return Ok((equal, Some(equal)));
        }
        if one.is_empty() {
            return Ok((equal, None));
        }
    }
}

/// Reads until the buffer is full or the end is reached.
fn fill<'a>(input: &mut impl Read, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(&buffer[..filled])
}

#[cfg(test)]
mod tests;
