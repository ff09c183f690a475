//! Things to back up, made from a seed, and the comparison of what came back, in content and metadata.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File, FileTimes, OpenOptions};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use sha2::{Digest as _, Sha256};
use walkdir::WalkDir;

/// Bytes that do not compress, the same for the same seed.
pub fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut noise = Vec::with_capacity(bytes + 8);
    while noise.len() < bytes {
        // xorshift64*
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        let word = state.wrapping_mul(0x2545_F491_4F6C_DD1D);
        noise.extend_from_slice(&word.to_le_bytes());
    }
    noise.truncate(bytes);
    noise
}

/// Writes a disk image of `chunks` pieces of 4 MiB and a last one of 1000 bytes: noise, with zeroes in every fourth.
pub fn write_image(path: &Path, seed: u64, chunks: u64) -> Result<()> {
    const PIECE: u64 = 4 << 20;
    // Images of different seeds have nothing in common.
    let of_piece = |piece: u64| seed.wrapping_mul(1 << 20).wrapping_add(piece);
    let mut file = File::create(path)?;
    for piece in (0..chunks).filter(|piece| piece % 4 != 3) {
        file.seek(SeekFrom::Start(piece * PIECE))?;
        file.write_all(&noise(of_piece(piece), PIECE as usize))?;
    }
    file.seek(SeekFrom::Start(chunks * PIECE))?;
    file.write_all(&noise(of_piece(chunks), 1000))?;
    Ok(())
}

/// Overwrites a little of an image, in the piece of 4 MiB with this number.
pub fn change_image(path: &Path, seed: u64, piece: u64) -> Result<()> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    file.seek(SeekFrom::Start((piece << 22) + 12_345))?;
    file.write_all(&noise(seed, 5000))?;
    Ok(())
}

fn set_times(path: &Path, seconds: u64, nanoseconds: u32) -> Result<()> {
    let time = SystemTime::UNIX_EPOCH + Duration::new(seconds, nanoseconds);
    let times = FileTimes::new().set_modified(time).set_accessed(time);
    File::open(path)?.set_times(times)?;
    Ok(())
}

/// Makes a tree with everything that a file system has and a backup may lose: long and odd names, empty and sparse files,
/// hard and symbolic links, a pipe, modes, times in nanoseconds, extended attributes (where the file system has them),
/// and `files` files of noise, 100 to a directory.
pub fn write_tree(root: &Path, seed: u64, files: u64) -> Result<()> {
    fs::create_dir_all(root)?;
    for number in 0..files {
        let dir = root.join(format!("d{:03}", number / 100));
        fs::create_dir_all(&dir)?;
        let bytes = (seed.wrapping_mul(31).wrapping_add(number * 7919) % 20_000) as usize;
        let path = dir.join(format!("file-{number}"));
        fs::write(&path, noise(seed.wrapping_add(number), bytes))?;
        set_times(
            &path,
            1_600_000_000 + number,
            (number as u32 * 7) % 1_000_000_000,
        )?;
    }
    let odd = root.join("odd");
    fs::create_dir(&odd)?;
    fs::write(odd.join("empty"), b"")?;
    fs::write(odd.join("ümläut & <tag> \"quote\" 'x' $HOME *"), b"odd")?;
    fs::write(odd.join(OsStr::from_bytes(b"not-utf8-\xff\xfe")), b"bytes")?;
    fs::write(odd.join("n".repeat(255)), b"long")?;
    fs::write(odd.join("large"), noise(seed ^ 0xFACE, 9 << 20))?;
    let mut sparse = File::create(odd.join("sparse"))?;
    sparse.set_len(8 << 20)?;
    sparse.seek(SeekFrom::Start(3 << 20))?;
    sparse.write_all(&noise(seed ^ 0xBEEF, 10_000))?;
    drop(sparse);
    fs::hard_link(odd.join("large"), odd.join("large-again"))?;
    symlink("empty", odd.join("link"))?;
    symlink("/nowhere/at all", odd.join("dangling"))?;
    mkfifo(&odd.join("pipe"), Mode::from_bits_truncate(0o640))?;
    fs::set_permissions(odd.join("empty"), fs::Permissions::from_mode(0o4751))?;
    let attribute = xattr::set(odd.join("empty"), "user.holdfast", b"a value\0with zero");
    if attribute.is_err() {
        crate::process::say("this file system has no extended attributes, they are not tested");
    }
    let deep = (0..12).fold(root.join("deep"), |path, level| {
        path.join(format!("l{level}"))
    });
    fs::create_dir_all(&deep)?;
    fs::write(deep.join("leaf"), b"leaf")?;
    fs::create_dir(root.join("empty-dir"))?;
    fs::set_permissions(root.join("empty-dir"), fs::Permissions::from_mode(0o2755))?;
    set_times(&root.join("empty-dir"), 1_500_000_000, 123_456_789)?;
    set_times(&odd, 1_500_000_001, 999_999_999)?;
    Ok(())
}

/// What is compared of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    mode: u32,
    owner: (u32, u32),
    modified: (i64, i64),
    size: u64,
    content: String,
    /// The first name of the same file, if it has several.
    same_as: Option<PathBuf>,
    attributes: BTreeMap<Vec<u8>, Vec<u8>>,
}

fn entries(root: &Path) -> Result<BTreeMap<PathBuf, Entry>> {
    let mut all = BTreeMap::new();
    let mut names: BTreeMap<u64, PathBuf> = BTreeMap::new();
    for found in WalkDir::new(root).sort_by_file_name() {
        let found = found?;
        let path = found.path().strip_prefix(root)?.to_owned();
        let meta = found.path().symlink_metadata()?;
        let kind = meta.file_type();
        let content = if kind.is_symlink() {
            fs::read_link(found.path())?.display().to_string()
        } else if kind.is_file() {
            hex::encode(Sha256::digest(fs::read(found.path())?))
        } else {
            String::new()
        };
        let mut attributes = BTreeMap::new();
        if kind.is_file() || kind.is_dir() {
            for name in xattr::list(found.path()).into_iter().flatten() {
                let value = xattr::get(found.path(), &name)?.unwrap_or_default();
                attributes.insert(name.as_bytes().to_vec(), value);
            }
        }
        let mut same_as = None;
        if kind.is_file() && meta.nlink() > 1 {
            let first = names.entry(meta.ino()).or_insert_with(|| path.clone());
            same_as = Some(first.clone());
        }
        all.insert(
            path,
            Entry {
                mode: meta.mode(),
                owner: (meta.uid(), meta.gid()),
                modified: (meta.mtime(), meta.mtime_nsec()),
                size: if kind.is_dir() { 0 } else { meta.size() },
                content,
                same_as,
                attributes,
            },
        );
    }
    Ok(all)
}

/// Fails with the differences unless both trees are equal in content and metadata.
pub fn compare_trees(wanted: &Path, found: &Path) -> Result<()> {
    let (wanted, found) = (entries(wanted)?, entries(found)?);
    let mut differences = Vec::new();
    for (path, entry) in &wanted {
        match found.get(path) {
            None => differences.push(format!("{} is missing", path.display())),
            Some(other) if other != entry => differences.push(format!(
                "{}: {other:?} instead of {entry:?}",
                path.display()
            )),
            Some(_) => {}
        }
    }
    let more = found.keys().filter(|path| !wanted.contains_key(*path));
    differences.extend(more.map(|path| format!("{} is too much", path.display())));
    let count = differences.len();
    differences.truncate(10);
    ensure!(
        count == 0,
        "{count} of {} entries differ:\n{}",
        wanted.len(),
        differences.join("\n")
    );
    Ok(())
}

/// Fails unless both files have the same bytes.
pub fn compare_files(wanted: &Path, found: &Path) -> Result<()> {
    let read =
        |path: &Path| fs::read(path).with_context(|| format!("cannot read '{}'", path.display()));
    let (wanted, other) = (read(wanted)?, read(found)?);
    ensure!(
        wanted.len() == other.len(),
        "{} has {} bytes instead of {}",
        found.display(),
        other.len(),
        wanted.len()
    );
    if wanted == other {
        return Ok(());
    }
    let differ = wanted.iter().zip(&other).position(|(one, two)| one != two);
    bail!("{} differs from byte {differ:?} on", found.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_seen() -> Result<()> {
        let dir = tempfile::TempDir::new()?;
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        write_tree(&one, 1, 3)?;
        write_tree(&two, 1, 3)?;
        for root in [&one, &two] {
            for entry in WalkDir::new(root).contents_first(true) {
                let entry = entry?;
                if entry.file_type().is_dir() || entry.file_type().is_file() {
                    set_times(entry.path(), 1_600_000_000, 5)?;
                }
            }
        }
        // Links and the pipe keep the time at which they were made.
        for name in ["odd/link", "odd/dangling", "odd/pipe"] {
            fs::remove_file(one.join(name))?;
            fs::remove_file(two.join(name))?;
        }
        set_times(&one.join("odd"), 1_600_000_000, 5)?;
        set_times(&two.join("odd"), 1_600_000_000, 5)?;
        compare_trees(&one, &two)?;
        set_times(&two.join("odd/empty"), 1_600_000_000, 6)?;
        let difference = compare_trees(&one, &two).expect_err("a nanosecond");
        assert!(difference.to_string().starts_with("1 of"), "{difference}");
        set_times(&two.join("odd/empty"), 1_600_000_000, 5)?;
        fs::remove_file(two.join("odd/large-again"))?;
        set_times(&two.join("odd"), 1_600_000_000, 5)?;
        let difference = compare_trees(&one, &two).expect_err("a missing link");
        assert!(
            difference.to_string().contains("large-again is missing"),
            "{difference}"
        );
        Ok(())
    }

    #[test]
    fn noise_is_repeatable() {
        assert_eq!(noise(3, 1001), noise(3, 1001));
        assert_ne!(noise(3, 16), noise(4, 16));
        assert_eq!(noise(3, 1001).len(), 1001);
    }
}
