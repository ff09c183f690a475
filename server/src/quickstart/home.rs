//! The directory of a quick start. It stays, and the next run goes on with it:
//!
//! - `lock`: held while a quick start uses the directory;
//! - `keys.json`, mode 0600: the administrator's password, the keys of the bucket, the port of the last run;
//! - `bucket/`: the S3 server's bucket;
//! - `daemon/`: what `holdfast setup` makes, and the daemon's state;
//! - `cache/`: the datastore's cache;
//! - `work/`: trees that are restored, compared and removed;
//! - `s3-server.log`, `daemon.log`: of the last run.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::statvfs::statvfs;
use serde::{Deserialize, Serialize};

use crate::atomic_file;
use crate::daemon::{DaemonError, DirectoryLock};
use crate::entropy::random_bytes;

/// The directory's name where none is given.
const NAME: &str = "holdfast-quickstart";
/// Room that the trees are no part of: indexes, logs, what is generated.
const ROOM_BYTES_MIN: u64 = 256 << 20;
/// How often the original lies below the directory at the same time: bucket, cache, copy and one restored tree.
const COPIES_MAX: u64 = 4;

/// The file in the bucket that is locked while it is open, and how often and how far apart it is asked for: 30 s in all.
const BUCKET_LOCK: &str = "lock";
const LOCK_ATTEMPTS: u32 = 300;
const LOCK_PAUSE: Duration = Duration::from_millis(100);
/// How often the daemon's directory is asked for, 10 s each time.
const DIRECTORY_ATTEMPTS: u32 = 6;

/// The directory, in use by nobody else.
#[derive(Debug)]
pub(super) struct Home {
    dir: PathBuf,
    _lock: Flock<File>,
}

/// `keys.json`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Keys {
    /// Of `root@pbs`; empty until the daemon is set up.
    pub(super) password: String,
    /// Id of the key of the bucket.
    pub(super) access_key: String,
    /// The key itself.
    pub(super) secret_key: String,
    /// Where the daemon listened last, so that clients find it again.
    pub(super) port: u16,
}

/// `XDG_DATA_HOME` or `~/.local/share`, or else the directory for temporary files.
pub(super) fn default_dir(variable: impl Fn(&str) -> Option<PathBuf>) -> PathBuf {
    let absolute = |name: &str| variable(name).filter(|path| path.is_absolute());
    absolute("XDG_DATA_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/share")))
        .unwrap_or_else(std::env::temp_dir)
        .join(NAME)
}

impl Home {
    /// Takes the directory, making it if needed, and clears away what an interrupted run left. Blocks on the disk.
    ///
    /// # Errors
    /// Another quick start uses it, or it cannot be written.
    pub(super) fn open(dir: &Path) -> anyhow::Result<Self> {
        let fault = || format!("{} cannot be used", dir.display());
        make_private(dir).with_context(fault)?;
        let dir = dir.canonicalize().with_context(fault)?;
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(dir.join("lock"))
            .with_context(fault)?;
        let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((_, Errno::EWOULDBLOCK)) => bail!(
                "another quickstart is running in {}: end it, or give --dir",
                dir.display()
            ),
            Err((_, errno)) => return Err(io::Error::from(errno)).with_context(fault),
        };
        let home = Self { dir, _lock: lock };
        for path in [home.daemon(), home.cache()] {
            make_private(&path).with_context(fault)?;
        }
        home.clear_work()?;
        Ok(home)
    }

    /// The directory itself.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The bucket of the S3 server.
    pub(super) fn bucket(&self) -> PathBuf {
        self.dir.join("bucket")
    }

    /// The directory of `holdfast setup`.
    pub(super) fn daemon(&self) -> PathBuf {
        self.dir.join("daemon")
    }

    /// The datastore's cache.
    pub(super) fn cache(&self) -> PathBuf {
        self.dir.join("cache")
    }

    /// A tree that is removed at the end.
    pub(super) fn work(&self, name: &str) -> PathBuf {
        self.dir.join("work").join(name)
    }

    /// The log of a program.
    pub(super) fn log(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.log"))
    }

    /// Waits until the programs of an earlier run have ended, which they do by themselves a while after it was killed.
    /// Blocks.
    ///
    /// # Errors
    /// One of them has not ended.
    pub(super) fn await_earlier_programs(&self) -> anyhow::Result<()> {
        let bucket = self.bucket();
        for _ in 0..LOCK_ATTEMPTS {
            match File::open(bucket.join(BUCKET_LOCK)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                file => match Flock::lock(file?, FlockArg::LockExclusiveNonblock) {
                    Err((_, Errno::EWOULDBLOCK)) => thread::sleep(LOCK_PAUSE),
                    // Whatever else is wrong with the bucket, the S3 server will say.
                    _ => break,
                },
            }
        }
        // Each attempt waits for some seconds by itself.
        for _ in 0..DIRECTORY_ATTEMPTS {
            match DirectoryLock::take(&self.daemon()) {
                Err(DaemonError::InUse(_)) => {}
                taken => return Ok(taken.map(drop)?),
            }
        }
        bail!(
            "the daemon of an earlier quickstart still runs in {}: stop it first",
            self.daemon().display()
        )
    }

    /// Removes the trees of a run, also what its owner may not write. Blocks on the disk.
    pub(super) fn clear_work(&self) -> anyhow::Result<()> {
        let work = self.dir.join("work");
        remove_tree(&work).with_context(|| format!("{} cannot be removed", work.display()))?;
        make_private(&work).with_context(|| format!("{} cannot be made", work.display()))
    }

    /// Fails if the disk has no room for what a run with an original of this size needs. Blocks on the disk.
    pub(super) fn check_room(&self, bytes: u64) -> anyhow::Result<()> {
        let stat = statvfs(&self.dir)
            .with_context(|| format!("the room in {} is not known", self.dir.display()))?;
        let free = stat.blocks_available().saturating_mul(stat.fragment_size());
        let needed = bytes
            .saturating_mul(COPIES_MAX)
            .saturating_add(ROOM_BYTES_MIN);
        if free < needed {
            let shown = indicatif::BinaryBytes;
            bail!(
                "{} has room for {}, but up to {} may be needed: back up less, or give a --dir on a larger disk",
                self.dir.display(),
                shown(free),
                shown(needed)
            );
        }
        Ok(())
    }

    /// The keys, made at the first run. Blocks on the disk.
    pub(super) fn keys(&self) -> anyhow::Result<Keys> {
        let path = self.dir.join("keys.json");
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).with_context(|| {
                format!(
                    "{} is damaged: remove the directory {} to start over",
                    path.display(),
                    self.dir.display()
                )
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Keys {
                password: String::new(),
                access_key: format!("QUICKSTART{}", hex::encode_upper(random_bytes::<5>())),
                secret_key: hex::encode(random_bytes::<20>()),
                port: 0,
            }),
            Err(error) => Err(error).with_context(|| format!("{} cannot be read", path.display())),
        }
    }

    /// Keeps the keys. Blocks on the disk.
    pub(super) fn keep(&self, keys: &Keys) -> anyhow::Result<()> {
        let path = self.dir.join("keys.json");
        let text = serde_json::to_vec_pretty(keys)?;
        atomic_file::replace(&path, &text, 0o600)
            .with_context(|| format!("{} cannot be written", path.display()))
    }
}

/// A directory for its owner only; one that exists stays as it is.
fn make_private(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
}

/// Removes a tree whatever the modes in it.
pub(super) fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        result => return result,
    }
    // Each directory is made writable before the walk looks into it.
    for entry in walkdir::WalkDir::new(path) {
        let entry = entry?;
        if entry.file_type().is_dir() {
            fs::set_permissions(entry.path(), Permissions::from_mode(0o700))?;
        }
    }
    fs::remove_dir_all(path)
}

/// A free port on loopback: `wanted` if that is free. Somebody else may take it before it is used; the daemon says so then.
pub(super) fn free_port(wanted: u16) -> io::Result<u16> {
    let bind = |port| TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let listener = bind(wanted).or_else(|_| bind(0))?;
    Ok(listener.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn the_default_is_where_the_user_keeps_data() {
        let dir = |known: &[(&str, &str)]| {
            let known: Vec<_> = known
                .iter()
                .map(|(name, value)| ((*name).to_owned(), PathBuf::from(value)))
                .collect();
            default_dir(move |name| {
                let found = known.iter().find(|(known, _)| known == name);
                found.map(|(_, value)| value.clone())
            })
        };
        let both = dir(&[("XDG_DATA_HOME", "/data"), ("HOME", "/home/me")]);
        assert_eq!(both, Path::new("/data/holdfast-quickstart"));
        let relative = dir(&[("XDG_DATA_HOME", "data"), ("HOME", "/home/me")]);
        let share = Path::new("/home/me/.local/share/holdfast-quickstart");
        assert_eq!(relative, share);
        assert_eq!(dir(&[]), std::env::temp_dir().join("holdfast-quickstart"));
    }

    #[test]
    fn a_directory_is_used_by_one_and_keeps_its_keys() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("a/b");
        let home = Home::open(&path).expect("a home");
        let busy = Home::open(&path).expect_err("in use").to_string();
        assert!(busy.contains("another quickstart"), "{busy}");
        let mut keys = home.keys().expect("new keys");
        assert_ne!(home.keys().expect("others").secret_key, keys.secret_key);
        keys.password = "secret".to_owned();
        home.keep(&keys).expect("kept");
        let stat = fs::metadata(path.join("keys.json")).expect("there");
        assert_eq!(stat.mode() & 0o7777, 0o600);
        drop(home);
        let home = Home::open(&path).expect("free again");
        assert_eq!(home.keys().expect("the same"), keys);
        fs::write(path.join("keys.json"), "{").expect("written");
        let damaged = home.keys().expect_err("damaged").to_string();
        assert!(damaged.contains("start over"), "{damaged}");
    }

    #[test]
    fn programs_of_an_earlier_run_are_awaited() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let home = Home::open(dir.path()).expect("a home");
        home.await_earlier_programs().expect("a new directory");
        fs::create_dir(home.bucket()).expect("made");
        let file = File::create(home.bucket().join(BUCKET_LOCK)).expect("made");
        let lock = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno);
        let (done, ended) = std::sync::mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(|| {
                home.await_earlier_programs().expect("free at last");
                done.send(()).expect("somebody waits");
            });
            assert!(
                ended.recv_timeout(2 * LOCK_PAUSE).is_err(),
                "the bucket is open"
            );
            drop(lock);
            ended
                .recv_timeout(Duration::from_secs(20))
                .expect("the bucket is closed");
        });
    }

    #[test]
    fn trees_that_forbid_it_are_removed() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let home = Home::open(dir.path()).expect("a home");
        let tree = home.work("tree/inner");
        fs::create_dir_all(&tree).expect("made");
        fs::write(tree.join("file"), "x").expect("written");
        for path in [tree.clone(), home.work("tree")] {
            fs::set_permissions(path, Permissions::from_mode(0o500)).expect("a mode");
        }
        home.clear_work().expect("cleared");
        assert!(!home.work("tree").exists() && home.dir().join("work").exists());
    }

    #[test]
    fn too_little_room_is_said_before_anything_is_done() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let home = Home::open(dir.path()).expect("a home");
        let fault = home.check_room(u64::MAX).expect_err("too much").to_string();
        assert!(fault.contains("--dir"), "{fault}");
    }

    #[test]
    fn a_port_is_kept_while_it_is_free() {
        let first = free_port(0).expect("a port");
        assert_eq!(free_port(first).expect("a port"), first);
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, first)).expect("bound");
        assert_ne!(free_port(first).expect("a port"), first);
        drop(taken);
    }
}
