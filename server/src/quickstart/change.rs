//! What is changed between the backups: never the original, only a tree that was restored from it.

use std::fs::{self, File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::entropy::random_bytes;

/// A file that is added.
const ADDED: &str = "added-by-quickstart";
/// Largest file that is changed, in bytes: it is read as a whole.
const CHANGED_BYTES_MAX: u64 = 64 << 20;
/// Written at once.
const BLOCK_BYTES: usize = 64 << 10;

/// Inserts `text` in the middle of the largest file of at most 64 MiB, and adds a file with it. Blocks on the disk.
pub(super) fn change_tree(root: &Path, text: &str) -> anyhow::Result<()> {
    let change = || -> io::Result<()> {
        if let Some(path) = largest_file(root)? {
            let old = fs::read(&path)?;
            let (before, behind) = old.split_at(old.len() / 2);
            allow_writing(&path)?;
            fs::write(&path, [before, text.as_bytes(), behind].concat())?;
        }
        allow_writing(root)?;
        let added = root.join(ADDED);
        if added.exists() {
            allow_writing(&added)?;
        }
        fs::write(added, text)
    };
    change().with_context(|| format!("the copy {} cannot be changed", root.display()))
}

/// A new file of bytes that occur nowhere else. Blocks on the disk.
pub(super) fn write_noise(path: &Path, bytes: u64) -> anyhow::Result<()> {
    let write = || -> io::Result<()> {
        let mut file = File::create_new(path)?;
        let mut left = bytes;
        while left > 0 {
            let block = random_bytes::<BLOCK_BYTES>();
            let most = left.min(BLOCK_BYTES as u64);
            file.write_all(&block[..most as usize])?;
            left -= most;
        }
        Ok(())
    };
    write().with_context(|| format!("{} cannot be written", path.display()))
}

/// The largest regular file that is not too large; among equals the first by name.
fn largest_file(root: &Path) -> io::Result<Option<PathBuf>> {
    let mut found: Option<(u64, PathBuf)> = None;
    for entry in walkdir::WalkDir::new(root).sort_by_file_name() {
        let entry = entry?;
        let stat = entry.metadata()?;
        let largest = found.as_ref().map_or(0, |(bytes, _)| *bytes);
        if stat.is_file() && stat.len() > largest && stat.len() <= CHANGED_BYTES_MAX {
            found = Some((stat.len(), entry.into_path()));
        }
    }
    Ok(found.map(|(_, path)| path))
}

/// Lets the owner write.
fn allow_writing(path: &Path) -> io::Result<()> {
    let mode = fs::metadata(path)?.mode() & 0o7777;
    if mode & 0o200 == 0 {
        fs::set_permissions(path, Permissions::from_mode(mode | 0o200))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_file_grows_in_the_middle_and_one_is_added() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let root = dir.path();
        fs::create_dir(root.join("a")).expect("made");
        fs::write(root.join("a/large"), b"0123456789").expect("written");
        fs::write(root.join("small"), b"01234").expect("written");
        let read_only = Permissions::from_mode(0o444);
        fs::set_permissions(root.join("a/large"), read_only).expect("a mode");
        change_tree(root, "-x-").expect("changed");
        assert_eq!(
            fs::read(root.join("a/large")).expect("read"),
            b"01234-x-56789"
        );
        assert_eq!(fs::read(root.join("small")).expect("read"), b"01234");
        assert_eq!(fs::read(root.join(ADDED)).expect("read"), b"-x-");
        change_tree(root, "-y-").expect("changed again");
        assert_eq!(fs::read(root.join(ADDED)).expect("read"), b"-y-");
    }

    #[test]
    fn an_empty_tree_gets_a_file() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        change_tree(dir.path(), "text").expect("changed");
        assert!(dir.path().join(ADDED).exists());
    }

    #[test]
    fn noise_has_its_length_and_differs() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (one, other) = (dir.path().join("one"), dir.path().join("other"));
        write_noise(&one, 100_000).expect("written");
        write_noise(&other, 100_000).expect("written");
        let (one, other) = (fs::read(one).expect("read"), fs::read(other).expect("read"));
        assert_eq!((one.len(), other.len()), (100_000, 100_000));
        assert_ne!(one, other);
    }
}
