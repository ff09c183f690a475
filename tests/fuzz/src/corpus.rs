//! The inputs that are kept: `corpus/TARGET/NAME`. `seed-…` are made by our own encoders and by hand ([`crate::seeds`]), `found-…`
//! once broke something, the others reach code that no input before them reached.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

/// The directory of this crate.
pub fn home() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Where a target's inputs are.
pub fn folder(target: &str) -> PathBuf {
    home().join("corpus").join(target)
}

/// Name and content of a target's inputs, by name; none if there is no folder.
pub fn inputs(folder: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let mut inputs = Vec::new();
    if !folder.is_dir() {
        return Ok(inputs);
    }
    for entry in
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?
    {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            let name = entry.file_name().to_string_lossy().into_owned();
            inputs.push((name, fs::read(entry.path())?));
        }
    }
    inputs.sort();
    Ok(inputs)
}

/// A short name for an input.
pub fn name_of(data: &[u8]) -> String {
    let digest = Sha256::digest(data);
    hex::encode(&digest[..6])
}

/// Keeps an input that was found, and tells where.
pub fn keep_finding(target: &str, data: &[u8]) -> Result<PathBuf> {
    let folder = home().join("findings").join(target);
    fs::create_dir_all(&folder)?;
    let path = folder.join(format!("found-{}", name_of(data)));
    fs::write(&path, data).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}
