//! Lists of snapshots and of the files in them.
//!
//! A group's folder and its snapshots' folders are read in one batch of file work; manifests are parsed once and then
//! known by size and time of their file, so that a list of thousands costs a directory walk.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::{GroupRef, SnapshotRef, SnapshotState, Snapshots, locked};
use crate::error::{About as _, Error, Result};
use crate::files::{DirEntry, optional};
use crate::index::Index;
use crate::{
    ArchiveKind, ArchiveName, AuthId, BackupGroup, BackupId, BackupTime, BackupType, CryptMode,
    DataBlob, Digest, Fingerprint, Namespace, VerifyState,
};

/// A file of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileInfo {
    /// Its name.
    pub name: String,
    /// How it is protected, where the manifest says so.
    pub crypt_mode: Option<CryptMode>,
    /// Blobs: bytes of the file. Indexes: bytes of the archive. `None` for the client's log.
    pub size: Option<u64>,
}

/// A snapshot as shown to users.
#[derive(Clone, Debug)]
pub struct SnapshotInfo {
    /// Which.
    pub id: SnapshotRef,
    /// Whether it counts.
    pub state: Arc<SnapshotState>,
    /// Files in the order of the manifest, then the manifest, then the client's log. Only names if the manifest cannot
    /// be read; empty while the snapshot is being written.
    pub files: Vec<FileInfo>,
    /// Sum of the sizes of its files, the manifest included; `None` marks a snapshot without readable manifest.
    pub size: Option<u64>,
    /// The user's notes.
    pub notes: String,
    /// The result of the last verification.
    pub verification: Option<VerifyState>,
    /// The key in use, if one was.
    pub fingerprint: Option<Fingerprint>,
    /// Whether it must not be removed.
    pub protected: bool,
    /// Who owns its group.
    pub owner: Option<AuthId>,
}

/// Which snapshots of a namespace are meant; the default is all.
#[derive(Clone, Debug, Default)]
pub struct SnapshotFilter {
    /// Only of this type.
    pub kind: Option<BackupType>,
    /// Only with this id.
    pub id: Option<BackupId>,
}

/// What was found in the folder of one snapshot.
pub(super) struct Folder {
    pub(super) id: SnapshotRef,
    pub(super) files: Vec<DirEntry>,
}

impl Folder {
    fn manifest(&self) -> Option<&DirEntry> {
        self.files
            .iter()
            .find(|entry| entry.name == "index.json.blob")
    }

    fn has(&self, name: &str) -> bool {
        self.files.iter().any(|entry| entry.name == name)
    }
}

impl Snapshots {
    /// All folders of a group's snapshots, oldest first, sealed or not.
    pub(super) async fn folders(&self, group: &GroupRef) -> Result<Vec<Folder>> {
        self.contents.catch_up().await;
        let path = self.contents.folder(&group.folder());
        let group = group.clone();
        self.env()
            .io(move |files| {
                let mut folders = Vec::new();
                for entry in optional(files.list(&path))
                    .about(&path)?
                    .unwrap_or_default()
                {
                    let Ok(time) = entry.name.parse::<BackupTime>() else {
                        continue;
                    };
                    let dir = path.join(&entry.name);
                    // One that vanished between the two looks is not there.
                    if let Some(files) = optional(files.list(&dir)).about(&dir)? {
                        folders.push(Folder {
                            id: group.at(time),
                            files,
                        });
                    }
                }
                Ok::<_, Error>(folders)
            })
            .await
    }

    /// The snapshots of a group whose chunks are to be kept, oldest first.
    pub(crate) async fn sealed_in(&self, group: &GroupRef) -> Result<Vec<SnapshotRef>> {
        let folders = self.folders(group).await?;
        let sealed = folders
            .into_iter()
            .filter(|folder| folder.manifest().is_some());
        Ok(sealed.map(|folder| folder.id).collect())
    }

    /// What a snapshot is, and all indexes in its folder, listed in its manifest or not; `None` if it is no snapshot.
    pub(crate) async fn indexes_of(
        &self,
        id: &SnapshotRef,
    ) -> Result<Option<(Arc<SnapshotState>, Vec<ArchiveName>)>> {
        let folder = self.folder(id).await?;
        let state = self.state_of(&folder).await?;
        if !state.is_root() {
            return Ok(None);
        }
        let found = folder
            .files
            .iter()
            .filter_map(|entry| entry.name.parse().ok());
        let listed = state
            .manifest()
            .into_iter()
            .flat_map(|manifest| manifest.files());
        let mut names = found
            .chain(listed.map(|file| file.name.clone()))
            .filter(|name: &ArchiveName| name.kind().is_index())
            .collect::<Vec<_>>();
        names.sort_unstable();
        names.dedup();
        Ok(Some((state, names)))
    }

    async fn folder(&self, id: &SnapshotRef) -> Result<Folder> {
        let files = self.contents.list(&id.folder()).await?;
        Ok(Folder {
            id: id.clone(),
            files: files.unwrap_or_default(),
        })
    }

    /// What a folder is, from memory if its manifest is the one last read.
    pub(super) async fn state_of(&self, folder: &Folder) -> Result<Arc<SnapshotState>> {
        let Some(manifest) = folder.manifest() else {
            return Ok(Arc::new(SnapshotState::Unsealed));
        };
        let validator = (&manifest.stat).into();
        let era = match locked(&self.summaries).get(&folder.id, validator) {
            Ok(known) => return Ok(known),
            Err(era) => era,
        };
        let state = Arc::new(self.read_state(&folder.id).await?);
        locked(&self.summaries).put(&folder.id, validator, &state, era);
        Ok(state)
    }

    /// The state that the manifest tells.
    async fn read_state(&self, id: &SnapshotRef) -> Result<SnapshotState> {
        let snapshot = id.snapshot.clone();
        let judge = move |bytes| {
            let state = SnapshotState::of(&snapshot, bytes);
            let right = !matches!(state, SnapshotState::Unreadable(_));
            (state, right)
        };
        self.contents.read_as(&id.manifest(), judge).await
    }

    /// Whether a snapshot counts. [`Error::NotFound`] for a folder that is hidden or not there.
    pub async fn state(&self, id: &SnapshotRef) -> Result<Arc<SnapshotState>> {
        let state = self.read_state(id).await?;
        if state.is_root() || self.is_running(id) {
            return Ok(Arc::new(state));
        }
        Err(Error::NotFound(format!("snapshot {id}")))
    }

    /// One snapshot.
    pub async fn snapshot(&self, id: &SnapshotRef) -> Result<SnapshotInfo> {
        let folder = self.folder(id).await?;
        let state = self.state_of(&folder).await?;
        if !state.is_root() && !self.is_running(id) {
            return Err(Error::NotFound(format!("snapshot {id}")));
        }
        let owner = self.owner(&id.group()).await?;
        Ok(info(&folder, state, owner))
    }

    /// The snapshots of a group that count or are being written, oldest first.
    pub async fn group_snapshots(&self, group: &GroupRef) -> Result<Vec<SnapshotInfo>> {
        let owner = self.owner(group).await?;
        let mut infos = BTreeMap::new();
        for id in self.running_in(group) {
            let folder = Folder {
                id: id.clone(),
                files: Vec::new(),
            };
            let state = Arc::new(SnapshotState::Unsealed);
            infos.insert(id, info(&folder, state, owner.clone()));
        }
        for folder in self.folders(group).await? {
            let state = self.state_of(&folder).await?;
            if state.is_root() {
                infos.insert(folder.id.clone(), info(&folder, state, owner.clone()));
            }
        }
        Ok(infos.into_values().collect())
    }

    /// The snapshots of one namespace, without those below it, ordered by group and time.
    pub async fn list(
        &self,
        namespace: &Namespace,
        filter: &SnapshotFilter,
    ) -> Result<Vec<SnapshotInfo>> {
        self.check_namespace(namespace).await?;
        let wanted = |group: &BackupGroup| {
            filter.kind.is_none_or(|kind| group.kind == kind)
                && filter.id.as_ref().is_none_or(|id| group.id == *id)
        };
        let mut infos = Vec::new();
        for group in self.group_ids(namespace).await? {
            if wanted(&group) {
                let group = GroupRef::new(namespace.clone(), group);
                infos.extend(self.group_snapshots(&group).await?);
            }
        }
        Ok(infos)
    }

    /// The newest snapshot of a group that a new backup may build on; `None` if the newest one cannot be read or was
    /// found damaged, which makes the client send everything again.
    pub async fn last_backup(&self, group: &GroupRef) -> Result<Option<SnapshotRef>> {
        for folder in self.folders(group).await?.into_iter().rev() {
            let state = self.state_of(&folder).await?;
            if state.is_root() {
                return Ok(state.is_base().then_some(folder.id));
            }
        }
        Ok(None)
    }

    /// How many bytes [`Self::file`] would read; 0 if there is no such file.
    pub async fn file_bytes(&self, id: &SnapshotRef, name: &ArchiveName) -> Result<u64> {
        let bytes = self.contents.bytes_of(&id.file(name)).await?;
        Ok(bytes.unwrap_or(0))
    }

    /// A file of a sealed snapshot as it is stored. The caller holds the snapshot.
    pub async fn file(&self, id: &SnapshotRef, name: &ArchiveName) -> Result<Bytes> {
        let state = self.state(id).await?;
        let csum = state
            .manifest()
            .and_then(|manifest| manifest.file(name)?.csum);
        let kind = name.kind();
        // Clients ask for files that not every snapshot has: what is not here is not looked for in the bucket.
        let judge = move |bytes: Option<Bytes>| {
            let right = bytes
                .clone()
                .is_none_or(|stored| is_whole(kind, stored, csum));
            (bytes, right)
        };
        let bytes = self.contents.read_as(&id.file(name), judge).await?;
        bytes.ok_or_else(|| Error::NotFound(format!("file '{name}' of snapshot {id}")))
    }
}

/// Whether stored bytes are what they claim to be, and an index that of its manifest.
fn is_whole(kind: ArchiveKind, stored: Bytes, csum: Option<Digest>) -> bool {
    match kind {
        ArchiveKind::Blob => DataBlob::parse(stored).is_ok_and(|blob| blob.verify_crc().is_ok()),
        ArchiveKind::Fixed | ArchiveKind::Dynamic => Index::parse(kind, stored)
            .is_ok_and(|index| csum.is_none_or(|csum| csum == index.csum())),
    }
}

fn info(folder: &Folder, state: Arc<SnapshotState>, owner: Option<AuthId>) -> SnapshotInfo {
    let named = |entry: &DirEntry| FileInfo {
        name: entry.name.clone(),
        crypt_mode: None,
        size: None,
    };
    let files = match &*state {
        SnapshotState::Unsealed => Vec::new(),
        SnapshotState::Unreadable(_) => {
            let visible = folder
                .files
                .iter()
                .filter(|entry| !entry.name.starts_with('.'));
            visible.map(named).collect()
        }
        SnapshotState::Sealed(manifest) => {
            let listed = manifest.files().iter().map(|file| FileInfo {
                name: file.name.to_string(),
                crypt_mode: Some(file.crypt_mode),
                size: Some(file.size),
            });
            let mut files = listed.collect::<Vec<_>>();
            files.push(FileInfo {
                name: ArchiveName::manifest().to_string(),
                crypt_mode: Some(if manifest.is_signed() {
                    CryptMode::SignOnly
                } else {
                    CryptMode::None
                }),
                size: folder.manifest().map(|entry| entry.stat.size),
            });
            let log = ArchiveName::client_log();
            let listed = manifest.file(&log).is_some();
            files.extend(
                folder
                    .files
                    .iter()
                    .filter(|e| e.name == log.as_str() && !listed)
                    .map(named),
            );
            files
        }
    };
    let manifest = state.manifest();
    let sizes = files.iter().filter_map(|file| file.size);
    // A foreign manifest may say anything.
    let size = manifest.map(|_| sizes.fold(0, u64::saturating_add));
    SnapshotInfo {
        id: folder.id.clone(),
        files,
        size,
        notes: manifest.map_or("", |manifest| manifest.notes()).to_owned(),
        verification: manifest.and_then(|manifest| manifest.verify_state()),
        fingerprint: manifest.and_then(|manifest| manifest.key_fingerprint()),
        protected: folder.has(".protected"),
        owner,
        state,
    }
}
