//! A settings file that the daemon, the command line and an editor all change, without losing comments or each other's
//! changes.
//!
//! Write order of [`FileStore::edit`]:
//! 1. lock `.NAME.lock` against other processes and threads;
//! 2. read the file as it is now; refuse if the caller has seen another content (`digest`);
//! 3. change the document, then read the new text as the daemon would: faults end the edit here;
//! 4. replace the file as a whole ([`crate::atomic_file`]);
//! 5. publish the new content to this process; other processes see it at their next [`FileStore::refresh`].
//!
//! A crash before 4 changes nothing; after 4 the new content is there, complete and checked.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use toml_edit::DocumentMut;

use super::fault::Fault;
use super::model::Config;
use super::parse::{digest_of, parse};
use super::secrets::Secrets;
use crate::atomic_file::{self, FileLock};

/// Why a settings file cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// The content is wrong; all that is wrong.
    #[error("{}: {}", .path.display(), list(.faults))]
    Faults {
        /// The file.
        path: PathBuf,
        /// At least one.
        faults: Vec<Fault>,
    },
    /// Somebody else changed the file since the caller looked.
    #[error("the configuration has changed meanwhile; look at it again, then repeat the change")]
    Changed,
    /// The change itself was refused, for the reason given.
    #[error("{0}")]
    Refused(String),
    /// Others may read what is secret.
    #[error(
        "'{}' holds secrets but its mode is {mode:04o}, so others may read it; set it with: chmod 600 '{}'",
        .path.display(), .path.display()
    )]
    TooOpen {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Another process keeps the lock.
    #[error("another process is changing '{}'; try again", .0.display())]
    Busy(PathBuf),
    /// The file exists already.
    #[error("'{}' exists already; it is left as it is", .0.display())]
    Exists(PathBuf),
    /// Both files have something wrong with them.
    #[error("{0}\n{1}")]
    Both(Box<Self>, Box<Self>),
    /// The disk.
    #[error("cannot {what} '{}': {source}", .path.display())]
    File {
        /// `read` or `write`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
}

fn list(faults: &[Fault]) -> String {
    let lines: Vec<String> = faults.iter().map(Fault::to_string).collect();
    lines.join("\n  ")
}

/// What a settings file holds.
pub(crate) trait Content: Sized {
    /// Permission bits of a new file.
    const MODE: u32;
    /// Permission bits that must not be set, or the file is refused.
    const FORBIDDEN_MODE: u32;
    /// Reads and checks the text.
    fn parse(text: &str) -> Result<Self, Vec<Fault>>;
}

impl Content for Config {
    const MODE: u32 = 0o640;
    const FORBIDDEN_MODE: u32 = 0;

    fn parse(text: &str) -> Result<Self, Vec<Fault>> {
        parse(text)
    }
}

impl Content for Secrets {
    const MODE: u32 = 0o600;
    const FORBIDDEN_MODE: u32 = 0o077;

    fn parse(text: &str) -> Result<Self, Vec<Fault>> {
        Self::parse_text(text)
    }
}

/// The file with everything but secrets.
pub(crate) type ConfigStore = FileStore<Config>;
/// The file with the secrets, mode 0600.
pub(crate) type SecretsStore = FileStore<Secrets>;

/// Reads and checks both files; what is wrong with one does not hide what is wrong with the other.
pub(crate) fn open_both(
    config: &Path,
    secrets: &Path,
) -> Result<(ConfigStore, SecretsStore), ConfigError> {
    match (ConfigStore::open(config), SecretsStore::open(secrets)) {
        (Ok(config), Ok(secrets)) => Ok((config, secrets)),
        (Err(one), Err(other)) => Err(ConfigError::Both(Box::new(one), Box::new(other))),
        (Err(error), _) | (_, Err(error)) => Err(error),
    }
}

/// How a file looked when it was read; another look means other content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Look {
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

/// One settings file. All methods but [`read`](Self::read) block on the disk.
#[derive(Debug)]
pub(crate) struct FileStore<T> {
    path: PathBuf,
    current: RwLock<(Look, Arc<T>)>,
}

impl<T: Content> FileStore<T> {
    /// Reads and checks an existing file.
    pub(crate) fn open(path: &Path) -> Result<Self, ConfigError> {
        // A symbolic link stays one: what it points to is replaced.
        let path = fs::canonicalize(path).map_err(|source| read_error(path, source))?;
        let (look, text) = load::<T>(&path)?;
        let content = check::<T>(&path, &text)?;
        Ok(Self {
            path,
            current: RwLock::new((look, Arc::new(content))),
        })
    }

    /// Makes a new file with `text`; one that exists is left alone and reported.
    pub(crate) fn create(path: &Path, text: &str) -> Result<Self, ConfigError> {
        check::<T>(path, text)?;
        let _lock = lock(path)?;
        if atomic_file::create(path, text.as_bytes(), T::MODE)
            .map_err(|source| write_error(path, source))?
        {
            Self::open(path)
        } else {
            Err(ConfigError::Exists(path.to_owned()))
        }
    }

    /// Where the file is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The content as this process knows it; no disk access.
    pub(crate) fn read(&self) -> Arc<T> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current.1.clone()
    }

    /// Looks whether another process or an editor changed the file, and reads it if so. A faulty file is an error, and
    /// the content known so far stays in force. Answers whether the content is a new one.
    pub(crate) fn refresh(&self) -> Result<bool, ConfigError> {
        let known = self
            .current
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .0;
        if look_at(&self.path)? == known {
            return Ok(false);
        }
        // Under the lock, or an older content could be published over a newer one.
        let _lock = lock(&self.path)?;
        let (look, text) = load::<T>(&self.path)?;
        let content = check::<T>(&self.path, &text)?;
        self.publish(look, content);
        Ok(true)
    }

    /// Changes the file. `seen` is the digest of the content that the caller has seen, if it matters. `change` gets the
    /// document with its comments, and may refuse with a sentence.
    pub(crate) fn edit<R>(
        &self,
        seen: Option<&str>,
        change: impl FnOnce(&mut DocumentMut) -> Result<R, String>,
    ) -> Result<R, ConfigError> {
        let _lock = lock(&self.path)?;
        let (_, text) = load::<T>(&self.path)?;
        if seen.is_some_and(|seen| seen != digest_of(&text)) {
            return Err(ConfigError::Changed);
        }
        let Ok(mut document) = text.parse::<DocumentMut>() else {
            // The same text by the way that knows lines and says it in words.
            check::<T>(&self.path, &text)?;
            return Err(ConfigError::Refused("the file is no TOML".into()));
        };
        let result = change(&mut document).map_err(ConfigError::Refused)?;
        let text = document.to_string();
        let content = check::<T>(&self.path, &text)?;
        atomic_file::replace(&self.path, text.as_bytes(), T::MODE)
            .map_err(|source| write_error(&self.path, source))?;
        self.publish(look_at(&self.path)?, content);
        Ok(result)
    }

    fn publish(&self, look: Look, content: T) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        *current = (look, Arc::new(content));
    }
}

fn lock(path: &Path) -> Result<FileLock, ConfigError> {
    FileLock::of(path).map_err(|source| {
        if source.kind() == io::ErrorKind::WouldBlock {
            ConfigError::Busy(path.to_owned())
        } else {
            write_error(path, source)
        }
    })
}

fn load<T: Content>(path: &Path) -> Result<(Look, String), ConfigError> {
    // The look is taken first: a change in between is then found at the next refresh.
    let look = look_at(path)?;
    let mode = fs::metadata(path)
        .map_err(|source| read_error(path, source))?
        .mode()
        & 0o7777;
    if mode & T::FORBIDDEN_MODE != 0 {
        let path = path.to_owned();
        return Err(ConfigError::TooOpen { path, mode });
    }
    let text = fs::read_to_string(path).map_err(|source| read_error(path, source))?;
    Ok((look, text))
}

fn look_at(path: &Path) -> Result<Look, ConfigError> {
    let meta = fs::metadata(path).map_err(|source| read_error(path, source))?;
    Ok(Look {
        inode: meta.ino(),
        size: meta.size(),
        modified: (meta.mtime(), meta.mtime_nsec()),
    })
}

fn check<T: Content>(path: &Path, text: &str) -> Result<T, ConfigError> {
    T::parse(text).map_err(|faults| ConfigError::Faults {
        path: path.to_owned(),
        faults,
    })
}

fn read_error(path: &Path, source: io::Error) -> ConfigError {
    ConfigError::File {
        what: "read",
        path: path.to_owned(),
        source,
    }
}

fn write_error(path: &Path, source: io::Error) -> ConfigError {
    ConfigError::File {
        what: "write",
        path: path.to_owned(),
        source,
    }
}
