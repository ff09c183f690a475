//! A directory tree that a seed determines, with everything that is easily lost on the way, and the comparison of two
//! trees by reading both.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{self, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;

use super::noise::Noise;

/// Files of one directory.
const DIR_FILES: u64 = 200;
/// Most bytes of nearly all files.
const FILE_BYTES_MAX: u64 = 6 << 10;
/// Bytes of the few large ones.
const LARGE_BYTES: u64 = 300 << 10;
/// Size of the files that consist of a hole and little else.
const SPARSE_BYTES: u64 = 8 << 20;
/// Owner of some files, if this process may give files away.
const OTHER_OWNER: u32 = 12_345;
/// Differences that are told.
const TOLD_MAX: usize = 10;

/// What was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TreeSize {
    /// Names of regular files.
    pub files: u64,
    /// Bytes of content, each file once, holes included.
    pub bytes: u64,
    /// Directories below the root.
    pub dirs: u64,
    /// Names that are another file's.
    pub hard_links: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Files with extended attributes.
    pub with_attributes: u64,
}

/// Makes a tree of at least `files` names of regular files in `root`, which must not exist.
pub fn make(root: &Path, seed: u64, files: u64) -> Result<TreeSize> {
    fs::create_dir(root).with_context(|| format!("cannot make '{}'", root.display()))?;
    let mut maker = Maker {
        noise: Noise::new(seed),
        size: TreeSize::default(),
        attributes: true,
        root: nix::unistd::geteuid().is_root(),
    };
    let mut dirs = Vec::new();
    let mut number = 0;
    while maker.size.files < files {
        let dir = root
            .join(format!("part {}", number / 16))
            .join(format!("größe-{number:04}"));
        fs::create_dir_all(&dir)?;
        maker.fill(&dir, DIR_FILES.min(files - maker.size.files))?;
        dirs.push(dir);
        number += 1;
    }
    let empty = root.join("empty");
    fs::create_dir(&empty)?;
    dirs.push(empty);
    // Last, and from the leaves up: making an entry changes the time of its directory.
    for dir in dirs.iter().rev() {
        maker.size.dirs += 1;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o751))?;
        maker.set_time(dir)?;
    }
    let parts = names(root)?.into_iter().filter(|name| name != "empty");
    for part in parts {
        maker.size.dirs += 1;
        maker.set_time(&root.join(part))?;
    }
    Ok(maker.size)
}

struct Maker {
    noise: Noise,
    size: TreeSize,
    /// Whether the file system takes extended attributes.
    attributes: bool,
    root: bool,
}

impl Maker {
    fn fill(&mut self, dir: &Path, names: u64) -> Result<()> {
        let mut first = None;
        for number in 0..names {
            let path = dir.join(format!("file-{number:03}.dat"));
            self.size.files += 1;
            match (number % 40, &first) {
                (7, Some(first)) => {
                    fs::hard_link(first, &path)?;
                    self.size.hard_links += 1;
                    continue;
                }
                (11, _) => {
                    let link = dir.join(format!("link-{number}"));
                    symlink(format!("file-{:03}.dat", number - 1), &link)?;
                    self.set_time(&link)?;
                    self.size.symlinks += 1;
                }
                _ => {}
            }
            self.file(&path, number)?;
            first.get_or_insert(path);
        }
        Ok(())
    }

    fn file(&mut self, path: &Path, number: u64) -> Result<()> {
        let mut file = File::create_new(path)?;
        let length = match number {
            0 => LARGE_BYTES,
            1 => SPARSE_BYTES,
            _ => self.noise.below(FILE_BYTES_MAX),
        };
        if length == SPARSE_BYTES && self.size.files % (5 * DIR_FILES) == 2 {
            file.set_len(length)?;
            let at = self.noise.below(length - 8);
            file.write_all_at(&self.noise.next().to_le_bytes(), at)?;
            self.size.bytes += length;
        } else {
            let length = length.min(LARGE_BYTES);
            // Half of it repeats, so that compression has something to do.
            let half = self.noise.bytes(length as usize / 2);
            file.write_all(&half)?;
            file.write_all(&half)?;
            self.size.bytes += 2 * half.len() as u64;
        }
        drop(file);
        if number % 25 == 3 && self.attributes {
            let value = self.noise.bytes(20);
            match xattr::set(path, "user.holdfast", &value) {
                Ok(()) => self.size.with_attributes += 1,
                Err(error) if error.kind() == io::ErrorKind::Unsupported => self.attributes = false,
                Err(error) => return Err(error.into()),
            }
        }
        if number % 50 == 9 && self.root {
            std::os::unix::fs::lchown(path, Some(OTHER_OWNER), Some(OTHER_OWNER + 1))?;
        }
        let mode = [0o644, 0o600, 0o755, 0o440][self.noise.below(4) as usize];
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        self.set_time(path)
    }

    fn set_time(&mut self, path: &Path) -> Result<()> {
        let seconds = 1_000_000_000 + self.noise.below(700_000_000);
        let time = TimeSpec::new(seconds as i64, self.noise.below(1_000_000_000) as i64);
        utimensat(
            AT_FDCWD,
            path,
            &time,
            &time,
            UtimensatFlags::NoFollowSymlink,
        )
        .with_context(|| format!("cannot set the time of '{}'", path.display()))
    }
}

/// Whether two trees hold the same names, kinds, contents, modes, owners, times of modification to the nanosecond, links
/// and extended attributes. The roots' own metadata count, access times do not. Returns how many entries were compared;
/// the error tells the first differences.
pub fn compare(left: &Path, right: &Path) -> Result<u64> {
    let mut walk = Walk::default();
    walk.entries(left, right)?;
    if walk.differences.is_empty() {
        return Ok(walk.compared);
    }
    bail!(
        "{} of {} entries differ: {}",
        walk.different,
        walk.compared,
        walk.differences.join("; ")
    )
}

#[derive(Default)]
struct Walk {
    compared: u64,
    different: u64,
    differences: Vec<String>,
    /// Which file of the right is which of the left, of those with several names.
    links: BTreeMap<u64, u64>,
}

impl Walk {
    fn entries(&mut self, left: &Path, right: &Path) -> Result<()> {
        let mut waiting = vec![PathBuf::new()];
        while let Some(path) = waiting.pop() {
            let (a, b) = (left.join(&path), right.join(&path));
            self.compared += 1;
            match self.entry(&a, &b)? {
                Some(difference) => {
                    self.different += 1;
                    if self.differences.len() < TOLD_MAX {
                        self.differences
                            .push(format!("'{}': {difference}", path.display()));
                    }
                }
                None if fs::symlink_metadata(&a)?.is_dir() => {
                    waiting.extend(names(&a)?.into_iter().map(|name| path.join(name)));
                }
                None => {}
            }
        }
        Ok(())
    }

    /// What differs.
    fn entry(&mut self, a: &Path, b: &Path) -> Result<Option<String>> {
        let told = |path: &Path| format!("cannot look at '{}'", path.display());
        let left = fs::symlink_metadata(a).with_context(|| told(a))?;
        let right = match fs::symlink_metadata(b) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Some("it is missing".to_owned()));
            }
            other => other.with_context(|| told(b))?,
        };
        if let Some(difference) = metadata(&left, &right) {
            return Ok(Some(difference));
        }
        if left.is_file() && left.nlink() > 1 {
            let seen = self.links.entry(left.ino()).or_insert(right.ino());
            if *seen != right.ino() {
                return Ok(Some("it is a file of its own".to_owned()));
            }
        }
        if attributes(a)? != attributes(b)? {
            return Ok(Some("its extended attributes differ".to_owned()));
        }
        let same = if left.is_dir() {
            names(a)? == names(b)?
        } else if left.is_symlink() {
            fs::read_link(a)? == fs::read_link(b)?
        } else if left.is_file() {
            contents_equal(a, b)?
        } else {
            ensure!(left.rdev() == right.rdev(), "{}: other device", b.display());
            true
        };
        Ok((!same).then(|| "its contents differ".to_owned()))
    }
}

/// A number of an entry, by name.
type Field = (&'static str, fn(&Metadata) -> i64);

fn metadata(left: &Metadata, right: &Metadata) -> Option<String> {
    let fields: [Field; 6] = [
        ("mode", |m| i64::from(m.mode())),
        ("owner", |m| i64::from(m.uid())),
        ("group", |m| i64::from(m.gid())),
        ("time", |m| m.mtime()),
        ("nanoseconds", |m| m.mtime_nsec()),
        ("names", |m| if m.is_dir() { 0 } else { m.nlink() as i64 }),
    ];
    let differs = |field: &&Field| field.1(left) != field.1(right);
    fields
        .iter()
        .find(differs)
        .map(|(name, of)| format!("{name} {} became {}", of(left), of(right)))
}

fn names(dir: &Path) -> Result<Vec<OsString>> {
    let entries = fs::read_dir(dir).with_context(|| format!("cannot list '{}'", dir.display()))?;
    let mut names: Vec<_> = entries
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<io::Result<_>>()?;
    names.sort_unstable_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
    Ok(names)
}

fn attributes(path: &Path) -> Result<BTreeMap<OsString, Option<Vec<u8>>>> {
    let list = match xattr::list(path) {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => return Ok(BTreeMap::new()),
        other => other?,
    };
    list.map(|name| {
        let value = xattr::get(path, &name)?;
        Ok((name, value))
    })
    .collect()
}

fn contents_equal(a: &Path, b: &Path) -> Result<bool> {
    let (mut left, mut right) = (File::open(a)?, File::open(b)?);
    if left.metadata()?.len() != right.metadata()?.len() {
        return Ok(false);
    }
    let (mut here, mut there) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    loop {
        let read = left.read(&mut here)?;
        if read == 0 {
            return Ok(right.read(&mut there)? == 0);
        }
        if let Err(error) = right.read_exact(&mut there[..read]) {
            return match error.kind() {
                io::ErrorKind::UnexpectedEof => Ok(false),
                _ => Err(error.into()),
            };
        }
        if here[..read] != there[..read] {
            return Ok(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const FILES: u64 = 250;

    fn two() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let (left, right) = (dir.path().join("left"), dir.path().join("right"));
        let size = make(&left, 5, FILES).unwrap();
        assert_eq!(make(&right, 5, FILES).unwrap(), size);
        assert_eq!(size.files, FILES);
        assert!(size.hard_links > 0 && size.symlinks > 0, "{size:?}");
        let time = fs::metadata(&left).unwrap().modified().unwrap();
        File::open(&right).unwrap().set_modified(time).unwrap();
        (dir, left, right)
    }

    #[test]
    fn the_same_seed_makes_the_same_tree() {
        let (_dir, left, right) = two();
        assert!(compare(&left, &right).unwrap() > FILES);
    }

    #[test]
    fn every_kind_of_difference_is_told() {
        let (_dir, left, right) = two();
        let there = right.join("part 0").join("größe-0000");
        let told = |part: &str| {
            let error = compare(&left, &right).unwrap_err().to_string();
            assert!(error.contains(part), "{part}: {error}");
        };
        let victim = there.join("file-002.dat");
        let time = fs::metadata(&victim).unwrap().modified().unwrap();
        fs::set_permissions(&victim, fs::Permissions::from_mode(0o604)).unwrap();
        told("mode");
        let mode = fs::metadata(left.join("part 0/größe-0000/file-002.dat")).unwrap();
        fs::set_permissions(&victim, mode.permissions()).unwrap();
        File::open(&victim)
            .unwrap()
            .set_modified(time + Duration::from_nanos(1))
            .unwrap();
        told("nanoseconds");
        let file = File::options().write(true).open(&victim).unwrap();
        file.write_all_at(b"another", 0).unwrap();
        file.set_modified(time).unwrap();
        told("contents");
        let linked = there.join("file-007.dat");
        let there_time = fs::metadata(&there).unwrap().modified().unwrap();
        fs::remove_file(&linked).unwrap();
        File::open(&there)
            .unwrap()
            .set_modified(there_time)
            .unwrap();
        told("contents differ");
    }
}
