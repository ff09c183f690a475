//! The id of this installation: 32 hex digits, made once, stable for good. Clients remember it, and the ownership record
//! in each bucket names it, so a damaged file is an error and never a reason for a new id.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::atomic_file;
use crate::entropy::random_bytes;

/// Name of the file in the state directory.
const FILE_NAME: &str = "instance-id";

/// 128 random bits; 32 lower-case hex digits in every text.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct InstanceId([u8; 16]);

/// Why there is no instance id.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InstanceIdError {
    /// The text is not 32 lower-case hex digits.
    #[error("an instance id is 32 lower-case hex digits")]
    Malformed,
    /// The file holds something else.
    #[error(
        "'{0}' does not hold an instance id of 32 lower-case hex digits; restore it from a backup, or delete it to \
         become a new instance, which then must take over its buckets"
    )]
    Damaged(PathBuf),
    /// The file cannot be read or made.
    #[error("cannot read or create the instance id '{0}': {1}")]
    File(PathBuf, #[source] io::Error),
}

impl InstanceId {
    /// The id kept in `state_dir`, made at the first call. Blocks on the disk.
    pub(crate) fn load_or_create(state_dir: &Path) -> Result<Self, InstanceIdError> {
        let path = state_dir.join(FILE_NAME);
        match std::fs::read_to_string(&path) {
            Ok(text) => Self::parse_file(&path, &text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::create(&path),
            Err(error) => Err(InstanceIdError::File(path, error)),
        }
    }

    fn create(path: &Path) -> Result<Self, InstanceIdError> {
        let fault = |error| InstanceIdError::File(path.to_owned(), error);
        let id = Self(random_bytes());
        if atomic_file::create(path, format!("{id}\n").as_bytes(), 0o644).map_err(fault)? {
            return Ok(id);
        }
        // Another process was first; its id counts.
        let text = std::fs::read_to_string(path).map_err(fault)?;
        Self::parse_file(path, &text)
    }

    fn parse_file(path: &Path, text: &str) -> Result<Self, InstanceIdError> {
        text.trim_end()
            .parse()
            .map_err(|_| InstanceIdError::Damaged(path.to_owned()))
    }
}

impl FromStr for InstanceId {
    type Err = InstanceIdError;

    fn from_str(text: &str) -> Result<Self, InstanceIdError> {
        let mut bytes = [0; 16];
        let lower = !text.bytes().any(|byte| byte.is_ascii_uppercase());
        if lower && hex::decode_to_slice(text, &mut bytes).is_ok() {
            Ok(Self(bytes))
        } else {
            Err(InstanceIdError::Malformed)
        }
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InstanceId({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_is_stable_and_damage_is_reported() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let first = InstanceId::load_or_create(dir.path()).expect("made");
        let again = InstanceId::load_or_create(dir.path()).expect("read");
        assert_eq!(first, again);
        assert_eq!(first.to_string().len(), 32);
        std::fs::write(dir.path().join(FILE_NAME), "0123\n").expect("written");
        let error = InstanceId::load_or_create(dir.path()).expect_err("damaged");
        assert!(error.to_string().contains("32 lower-case hex digits"));
    }
}
