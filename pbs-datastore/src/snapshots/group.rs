//! Groups: which there are, who owns them, and their notes.

use bytes::Bytes;

use super::{GroupRef, Lock, SnapshotRef, SnapshotState, Snapshots};
use crate::error::{Error, Result};
use crate::layout::Folder;
use crate::{AuthId, BackupGroup, BackupTime, BackupType, Namespace};

/// Longest notes in bytes.
const NOTES_BYTES_MAX: usize = 64 << 10;

/// A group as shown to users.
#[derive(Clone, Debug)]
pub struct GroupInfo {
    /// Which.
    pub id: GroupRef,
    /// Who owns it; `None` if its owner file is missing or cannot be read.
    pub owner: Option<AuthId>,
    /// When its newest finished snapshot was begun, or the newest running one if none is finished.
    pub last_backup: BackupTime,
    /// Snapshots that are finished or running.
    pub count: u64,
    /// Names of the files of the newest finished snapshot.
    pub files: Vec<String>,
    /// The group's notes.
    pub notes: String,
}

/// The exclusive right to add snapshots to a group and to change what belongs to it.
#[derive(Debug)]
pub struct GroupLock {
    pub(super) id: GroupRef,
    pub(super) lock: Lock,
}

impl GroupLock {
    /// The group.
    pub fn id(&self) -> &GroupRef {
        &self.id
    }
}

/// Fails for notes that are too long.
pub(super) fn check_notes(notes: &str) -> Result<()> {
    if notes.len() <= NOTES_BYTES_MAX {
        return Ok(());
    }
    Err(Error::Invalid(format!(
        "notes have at most {NOTES_BYTES_MAX} bytes"
    )))
}

impl Snapshots {
    /// All groups that have a folder or a running backup, in order.
    pub(crate) async fn group_ids(&self, namespace: &Namespace) -> Result<Vec<BackupGroup>> {
        let mut groups = self.running_groups(namespace);
        for kind in BackupType::ALL {
            let folder = Folder::Type(namespace.clone(), kind);
            let entries = self.contents.list(&folder).await?.unwrap_or_default();
            let ids = entries.into_iter().filter(|entry| entry.stat.is_dir);
            groups.extend(ids.filter_map(|e| Some(BackupGroup::new(kind, e.name.parse().ok()?))));
        }
        Ok(groups.into_iter().collect())
    }

    /// The groups of a namespace that have a snapshot, finished or running, in order.
    pub(crate) async fn groups_in_use(&self, namespace: &Namespace) -> Result<Vec<GroupRef>> {
        let running = self.running_groups(namespace);
        let mut groups = Vec::new();
        for group in self.group_ids(namespace).await? {
            let runs = running.contains(&group);
            let id = GroupRef::new(namespace.clone(), group);
            // An owner file alone is no group.
            if runs || !self.sealed_in(&id).await?.is_empty() {
                groups.push(id);
            }
        }
        Ok(groups)
    }

    /// The groups of a namespace that have a snapshot, in order.
    pub async fn groups(&self, namespace: &Namespace) -> Result<Vec<GroupInfo>> {
        self.check_namespace(namespace).await?;
        let mut infos = Vec::new();
        for group in self.group_ids(namespace).await? {
            let id = GroupRef::new(namespace.clone(), group);
            infos.extend(self.group_info(id).await?);
        }
        Ok(infos)
    }

    /// One group; `None` if it has no snapshot.
    pub async fn group_info(&self, id: GroupRef) -> Result<Option<GroupInfo>> {
        let mut running = self.running_in(&id);
        let mut newest = None;
        let mut count = 0;
        for folder in self.folders(&id).await?.into_iter().rev() {
            // Only the newest manifest is looked into.
            let sealed = folder
                .files
                .iter()
                .any(|entry| entry.name == "index.json.blob");
            if sealed {
                count += 1;
                running.retain(|id| *id != folder.id);
                newest.get_or_insert(folder);
            }
        }
        count += running.len() as u64;
        let files = match &newest {
            None => Vec::new(),
            Some(folder) => match &*self.state_of(folder).await? {
                SnapshotState::Sealed(manifest) => {
                    let names = manifest.files().iter().map(|file| file.name.to_string());
                    let own = folder.files.iter().map(|entry| entry.name.clone());
                    let own = own.filter(|n| n == "index.json.blob" || n == "client.log.blob");
                    names.chain(own).collect()
                }
                _ => folder
                    .files
                    .iter()
                    .map(|entry| entry.name.clone())
                    .collect(),
            },
        };
        let newest = newest.map(|folder| folder.id).or_else(|| running.pop());
        let Some(SnapshotRef { snapshot, .. }) = newest else {
            return Ok(None);
        };
        Ok(Some(GroupInfo {
            owner: self.owner(&id).await?,
            notes: self.group_notes(&id).await?,
            last_backup: snapshot.time,
            count,
            files,
            id,
        }))
    }

    /// Who owns a group; `None` if it does not exist, or its owner file cannot be read.
    pub async fn owner(&self, id: &GroupRef) -> Result<Option<AuthId>> {
        let bytes = self.contents.read(&id.owner()).await?;
        let text = bytes.and_then(|bytes| String::from_utf8(bytes.to_vec()).ok());
        Ok(text.and_then(|text| text.trim().parse().ok()))
    }

    /// The exclusive lock of a group, whether it exists or not; its namespace must.
    pub async fn lock_group(&self, id: &GroupRef) -> Result<GroupLock> {
        self.check_namespace(&id.namespace).await?;
        // A slash at the end keeps groups and snapshots apart.
        let busy = format!("group {id} is in use: another backup or sync writes to it");
        let lock = self.locks.exclusive(&format!("{id}/"), &busy)?;
        Ok(GroupLock {
            id: id.clone(),
            lock,
        })
    }

    /// The owner of a group, which is `caller` if it has none yet. Crash after the write: a group without snapshots,
    /// which is not listed.
    pub async fn ensure_owner(&self, group: &GroupLock, caller: &AuthId) -> Result<AuthId> {
        if self.contents.exists(&group.id.owner()).await? {
            return self.owner(&group.id).await?.ok_or_else(|| {
                Error::Refused(format!(
                    "the owner of group {} cannot be read; set it anew with change-owner",
                    group.id
                ))
            });
        }
        self.set_owner(group, caller).await?;
        Ok(caller.clone())
    }

    /// Sets the owner of a group.
    pub async fn set_owner(&self, group: &GroupLock, owner: &AuthId) -> Result<()> {
        self.writable()?;
        self.fence.check().await?;
        let text = Bytes::from(format!("{owner}\n"));
        self.contents
            .put(&group.lock, &group.id.owner(), text)
            .await
    }

    /// A group's notes, empty if there are none.
    pub async fn group_notes(&self, id: &GroupRef) -> Result<String> {
        let bytes = self.contents.read(&id.notes()).await?.unwrap_or_default();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Replaces a group's notes.
    pub async fn set_group_notes(&self, id: &GroupRef, notes: &str) -> Result<()> {
        check_notes(notes)?;
        self.writable()?;
        let group = self.lock_group(id).await?;
        if !self.contents.exists(&id.owner()).await? {
            return Err(Error::NotFound(format!("group {id}")));
        }
        self.fence.check().await?;
        let bytes = Bytes::from(notes.to_owned());
        self.contents.put(&group.lock, &id.notes(), bytes).await
    }
}
