//! Whether a snapshot counts: one answer for lists, roots, sync, verify, prune, `previous` and restore.

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;

use crate::files::FileStat;
use crate::{DataBlob, Manifest, Snapshot, VerifyOutcome};

/// What tells two contents of one path apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Validator {
    size: u64,
    mtime: Timestamp,
}

impl From<&FileStat> for Validator {
    fn from(stat: &FileStat) -> Self {
        Self {
            size: stat.size,
            mtime: stat.mtime,
        }
    }
}

/// What a folder of a snapshot is, by its manifest.
#[derive(Clone, Debug)]
pub enum SnapshotState {
    /// No manifest: being written, or left behind by a writer that ended. It is no snapshot.
    Unsealed,
    /// There is a manifest that cannot be read, for this reason. Its chunks are kept; nothing else can be done with it
    /// but removing it.
    Unreadable(String),
    /// A snapshot.
    Sealed(Arc<Manifest>),
}

impl SnapshotState {
    /// Decides. `manifest` is the content of `index.json.blob`, if there is one.
    pub fn of(snapshot: &Snapshot, manifest: Option<Bytes>) -> Self {
        let Some(bytes) = manifest else {
            return Self::Unsealed;
        };
        match parse(snapshot, bytes) {
            Ok(manifest) => Self::Sealed(Arc::new(manifest)),
            Err(reason) => Self::Unreadable(reason),
        }
    }

    /// The manifest of a snapshot.
    pub fn manifest(&self) -> Option<&Arc<Manifest>> {
        match self {
            Self::Sealed(manifest) => Some(manifest),
            Self::Unsealed | Self::Unreadable(_) => None,
        }
    }

    /// About how many bytes of memory it takes.
    pub(super) fn memory_bytes(&self) -> usize {
        match self {
            Self::Unsealed => 0,
            Self::Unreadable(reason) => reason.len(),
            Self::Sealed(manifest) => size_of::<Manifest>() + manifest.memory_bytes(),
        }
    }

    /// Whether its chunks must be kept.
    pub fn is_root(&self) -> bool {
        !matches!(self, Self::Unsealed)
    }

    /// Whether a backup may build on it: it can be read, and no verification has found it damaged.
    pub fn is_base(&self) -> bool {
        self.manifest().is_some_and(|manifest| {
            let state = manifest.verify_state().map(|verified| verified.state);
            state != Some(VerifyOutcome::Failed)
        })
    }
}

fn parse(snapshot: &Snapshot, bytes: Bytes) -> Result<Manifest, String> {
    let blob = DataBlob::parse(bytes).map_err(|error| error.to_string())?;
    let manifest = Manifest::parse(&blob).map_err(|error| error.to_string())?;
    manifest
        .check_snapshot(snapshot)
        .map_err(|error| error.to_string())?;
    Ok(manifest)
}
