//! Small files that are replaced as a whole, or not at all.
//!
//! Write order of [`replace`]:
//! 1. `.NAME.new` in the same directory, with mode and owner of the file it will replace, then fsync of its content;
//! 2. rename over `NAME`;
//! 3. fsync of the directory.
//!
//! A crash before 2 leaves the old file and a `.NAME.new`, which the next write removes, and in the state directory the next
//! process that holds it ([`remove_staged`]). A crash between 2 and 3 leaves the old or the new file, each complete. Two
//! writers of one file must hold its [`FileLock`].

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use pbs_datastore::Step;

/// How often a taken lock is asked for before the attempt is given up, and the pause between: 10 s in all.
const LOCK_ATTEMPTS: u32 = 400;
const LOCK_PAUSE: Duration = Duration::from_millis(25);

/// Replaces `path` by a file with `content`. An existing file keeps its mode and owner; a new one gets `mode` and, if
/// the process may give files away, the owner of its directory. Blocks on the disk.
pub(crate) fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let directory = parent(path)?;
    let staged = beside(path, "new")?;
    stage(path, directory, &staged, content, mode)?;
    Step::ReplaceWritten.passed();
    fs::rename(&staged, path)?;
    Step::ReplaceRenamed.passed();
    sync_directory(directory)
}

/// Creates `path` with `content` unless it exists, in which case the answer is `false`. Blocks on the disk.
pub(crate) fn create(path: &Path, content: &[u8], mode: u32) -> io::Result<bool> {
    let directory = parent(path)?;
    let staged = beside(path, "new")?;
    stage(path, directory, &staged, content, mode)?;
    Step::CreateWritten.passed();
    let linked = fs::hard_link(&staged, path);
    Step::CreateLinked.passed();
    fs::remove_file(&staged)?;
    match linked {
        Ok(()) => sync_directory(directory).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes what writes that were cut off have left in `directory`. Nobody else may write there meanwhile.
pub(crate) fn remove_staged(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        let text = name.to_string_lossy();
        if text.starts_with('.') && text.ends_with(".new") {
            fs::remove_file(directory.join(&name))?;
        }
    }
    Ok(())
}

/// Step 1: the complete new content under its temporary name.
fn stage(
    path: &Path,
    directory: &Path,
    staged: &Path,
    content: &[u8],
    mode: u32,
) -> io::Result<()> {
    match fs::remove_file(staged) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let (mode, like) = match fs::metadata(path) {
        Ok(old) => (old.mode() & 0o7777, old),
        Err(error) if error.kind() == io::ErrorKind::NotFound => (mode, fs::metadata(directory)?),
        Err(error) => return Err(error),
    };
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(staged)?;
    let ours = file.metadata()?;
    if (ours.uid(), ours.gid()) != (like.uid(), like.gid()) {
        // Only root may give a file away; others keep it, and can read it.
        match std::os::unix::fs::fchown(&file, Some(like.uid()), Some(like.gid())) {
            Err(error) if error.kind() != io::ErrorKind::PermissionDenied => return Err(error),
            _ => {}
        }
    }
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(content)?;
    file.sync_all()
}

/// Makes renames and removals in `directory` durable.
pub(crate) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// The sibling `.NAME.SUFFIX` of `path`.
fn beside(path: &Path, suffix: &str) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(".");
    hidden.push(suffix);
    Ok(path.with_file_name(hidden))
}

fn parent(path: &Path) -> io::Result<&Path> {
    match path.parent() {
        Some(directory) if directory.as_os_str().is_empty() => Ok(Path::new(".")),
        Some(directory) => Ok(directory),
        None => Err(io::ErrorKind::InvalidInput.into()),
    }
}

/// The lock between all processes that replace one file; released on drop. It lies on the sibling `.NAME.lock`, since
/// the file itself is another one after each write.
#[derive(Debug)]
pub(crate) struct FileLock(#[expect(dead_code, reason = "held, never read")] Flock<File>);

impl FileLock {
    /// Waits up to 10 s for the lock of `path`; [`io::ErrorKind::WouldBlock`] after that. Blocks the thread.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(beside(path, "lock")?)?;
        for _ in 0..LOCK_ATTEMPTS {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => return Ok(Self(lock)),
                Err((again, Errno::EWOULDBLOCK)) => file = again,
                Err((_, errno)) => return Err(errno.into()),
            }
            thread::sleep(LOCK_PAUSE);
        }
        Err(io::ErrorKind::WouldBlock.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replacing_keeps_the_mode_and_ignores_what_a_crash_left() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("settings");
        replace(&path, b"one", 0o600).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("chmod");
        // A crash after step 1 leaves the new content under the temporary name.
        fs::write(dir.path().join(".settings.new"), b"half").expect("written");
        assert_eq!(fs::read(&path).expect("read"), b"one");
        replace(&path, b"two", 0o600).expect("written");
        assert_eq!(fs::read(&path).expect("read"), b"two");
        assert_eq!(
            fs::metadata(&path).expect("stat").mode() & 0o7777,
            0o640,
            "an existing file keeps its mode"
        );
        assert!(!dir.path().join(".settings.new").exists());
    }

    #[test]
    fn what_crashes_left_is_removed_and_nothing_else() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        for name in [".key.new", ".key.lock", "key", "key.new"] {
            fs::write(dir.path().join(name), b"x").expect("written");
        }
        remove_staged(dir.path()).expect("removed");
        let left = fs::read_dir(dir.path()).expect("read");
        let mut left: Vec<_> = left.map(|entry| entry.expect("read").file_name()).collect();
        left.sort();
        assert_eq!(left, [".key.lock", "key", "key.new"]);
    }

    #[test]
    fn creating_never_replaces() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("id");
        assert!(create(&path, b"first", 0o600).expect("created"));
        assert!(!create(&path, b"second", 0o600).expect("left alone"));
        assert_eq!(fs::read(&path).expect("read"), b"first");
        assert_eq!(fs::metadata(&path).expect("stat").mode() & 0o7777, 0o600);
    }
}
