//! The encryption key: its file, and the commands `key create` and `key show`.

use std::fs::OpenOptions;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use pbs_datastore::{CryptKey, CryptMode, KEY_FILE_BYTES_MAX, KeyFile, KeyLock};
use serde_json::json;

use super::clock;
use super::output::{Output, OutputArgs};

/// How archives are protected, and with which key.
#[derive(Debug, Clone)]
pub(crate) struct Protection {
    /// Stated in the manifest for every file.
    pub(super) mode: CryptMode,
    /// Present unless `mode` is `none`.
    pub(super) key: Option<Arc<CryptKey>>,
}

impl Protection {
    /// No key: contents and manifest in the clear.
    pub(crate) fn none() -> Self {
        Self {
            mode: CryptMode::None,
            key: None,
        }
    }

    /// With a key, everything is encrypted unless `mode` says otherwise; without one, nothing.
    ///
    /// # Errors
    /// A mode that needs a key without one.
    pub(crate) fn new(mode: Option<CryptMode>, key: Option<CryptKey>) -> anyhow::Result<Self> {
        match (mode, key) {
            (None | Some(CryptMode::None), None) => Ok(Self::none()),
            (Some(_), None) => bail!("this --crypt-mode needs a key: give --keyfile"),
            (Some(CryptMode::None), Some(_)) => {
                bail!("--crypt-mode none makes no use of a key: leave --keyfile out")
            }
            (mode, Some(key)) => Ok(Self {
                mode: mode.unwrap_or(CryptMode::Encrypt),
                key: Some(Arc::new(key)),
            }),
        }
    }

    /// The key, if contents are to be encrypted with it.
    pub(super) fn encrypting_key(&self) -> Option<&CryptKey> {
        self.key
            .as_deref()
            .filter(|_| self.mode == CryptMode::Encrypt)
    }
}

/// `key create|show`
#[derive(Debug, clap::Subcommand)]
pub(crate) enum KeyCommand {
    /// Make a new key and write it to a file that only its owner can read. Without the file nobody can ever read what is
    /// encrypted with it: keep a copy elsewhere.
    Create {
        /// File to create; must not exist.
        path: PathBuf,
        /// Lock the file with the passphrase in the variable PBS_ENCRYPTION_PASSWORD.
        #[arg(long)]
        locked: bool,
        /// Text that reminds of the passphrase; stored in the clear.
        #[arg(long)]
        hint: Option<String>,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Show what a key file says about its key, but not the key.
    Show {
        /// The key file.
        path: PathBuf,
        #[command(flatten)]
        output: OutputArgs,
    },
}

pub(super) fn run(command: &KeyCommand) -> anyhow::Result<()> {
    match command {
        KeyCommand::Create {
            path,
            locked,
            hint,
            output,
        } => {
            let file = create(path, *locked, hint.clone())?;
            show(&file, path, output.output())
        }
        KeyCommand::Show { path, output } => show(&read(path)?, path, output.output()),
    }
}

fn create(path: &Path, locked: bool, hint: Option<String>) -> anyhow::Result<KeyFile> {
    let passphrase = if locked { Some(passphrase()?) } else { None };
    let lock = passphrase.as_deref().map(|passphrase| KeyLock {
        passphrase,
        salt: rand::random(),
        iv: rand::random(),
    });
    let file = KeyFile::new(
        &CryptKey::new(rand::random()),
        lock.as_ref(),
        hint,
        clock::now(),
    )?;
    let mut target = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("the key file {} cannot be created", path.display()))?;
    target
        .write_all(file.to_json().as_bytes())
        .and_then(|()| target.sync_all())?;
    Ok(file)
}

fn show(file: &KeyFile, path: &Path, output: Output) -> anyhow::Result<()> {
    let path = path.display().to_string();
    let fingerprint = file
        .fingerprint()
        .map(|fingerprint| fingerprint.to_string());
    output.object(&[
        ("path", json!(path)),
        ("fingerprint", json!(fingerprint)),
        ("locked", json!(file.is_locked())),
        ("hint", json!(file.hint())),
    ])
}

fn read(path: &Path) -> anyhow::Result<KeyFile> {
    let mut text = Vec::new();
    let file = std::fs::File::open(path)
        .with_context(|| format!("the key file {} cannot be read", path.display()))?;
    file.take(KEY_FILE_BYTES_MAX as u64 + 1)
        .read_to_end(&mut text)?;
    KeyFile::parse(&text).with_context(|| path.display().to_string())
}

/// The key of a file; a locked one takes the passphrase from PBS_ENCRYPTION_PASSWORD.
///
/// # Errors
/// A file that cannot be read or unlocked.
pub(crate) fn load(path: &Path) -> anyhow::Result<CryptKey> {
    let file = read(path)?;
    let passphrase = if file.is_locked() {
        Some(passphrase()?)
    } else {
        None
    };
    file.unlock(passphrase.as_deref())
        .with_context(|| format!("the key file {} cannot be used", path.display()))
}

fn passphrase() -> anyhow::Result<String> {
    let passphrase = std::env::var("PBS_ENCRYPTION_PASSWORD")
        .ok()
        .filter(|text| !text.is_empty());
    passphrase.context("the key needs a passphrase: set PBS_ENCRYPTION_PASSWORD")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_created_key_is_private_never_replaced_and_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key.json");
        let made = create(&path, false, None).unwrap();
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(Some(load(&path).unwrap().fingerprint()), made.fingerprint());
        assert!(
            create(&path, false, None)
                .unwrap_err()
                .to_string()
                .contains("cannot be created")
        );
        assert_eq!(Some(load(&path).unwrap().fingerprint()), made.fingerprint());
    }

    #[test]
    fn modes_and_keys_must_fit() {
        let key = || Some(CryptKey::new([1; 32]));
        assert_eq!(Protection::new(None, None).unwrap().mode, CryptMode::None);
        assert_eq!(
            Protection::new(None, key()).unwrap().mode,
            CryptMode::Encrypt
        );
        let signed = Protection::new(Some(CryptMode::SignOnly), key()).unwrap();
        assert!(signed.encrypting_key().is_none() && signed.key.is_some());
        assert!(Protection::new(Some(CryptMode::Encrypt), None).is_err());
        assert!(Protection::new(Some(CryptMode::SignOnly), None).is_err());
        assert!(Protection::new(Some(CryptMode::None), key()).is_err());
    }
}
