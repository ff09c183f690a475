//! Removal of snapshots and groups. See the page of [`super`] for the order and what a crash leaves.

use super::{GroupLock, GroupRef, SnapshotRef, Snapshots};
use crate::FencePass;
use crate::error::{Error, Result};
use crate::layout::{Folder, Place};
use crate::step::Step;

/// What to do with what cannot go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeleteOptions {
    /// Fail if a protected snapshot remains, after everything else is gone. Otherwise count it.
    pub error_on_protected: bool,
}

/// What a removal came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeleteStats {
    /// Groups that are gone.
    pub removed_groups: u64,
    /// Snapshots that are gone.
    pub removed_snapshots: u64,
    /// Snapshots that stay because they are protected.
    pub protected_snapshots: u64,
    /// Namespaces that are gone.
    pub removed_namespaces: u64,
    /// Namespaces that stay because something is left in them.
    pub left_namespaces: u64,
}

impl DeleteStats {
    /// Whether everything went.
    pub fn complete(&self) -> bool {
        self.protected_snapshots == 0 && self.left_namespaces == 0
    }

    pub(super) fn add(&mut self, other: Self) {
        self.removed_groups += other.removed_groups;
        self.removed_snapshots += other.removed_snapshots;
        self.protected_snapshots += other.protected_snapshots;
        self.removed_namespaces += other.removed_namespaces;
        self.left_namespaces += other.left_namespaces;
    }
}

impl Snapshots {
    /// Removes a snapshot: manifest first, then the rest. [`Error::Protected`], [`Error::Busy`] or [`Error::NotFound`] if
    /// it cannot be.
    pub async fn delete(&self, id: &SnapshotRef) -> Result<()> {
        self.writable()?;
        self.thawed(id)?;
        let lock = self.lock_exclusive(id)?;
        if !self.state(id).await?.is_root() {
            return Err(Error::NotFound(format!("snapshot {id}")));
        }
        if self.contents.exists(&id.protected()).await? {
            return Err(Error::Protected(format!("snapshot {id}")));
        }
        let pass = self.fence.check().await?;
        let result = self.contents.remove(&lock, &pass, &[id.manifest()]).await;
        self.changed(id);
        result?;
        Step::DeleteManifest.passed();
        let rest = self.contents.listed(&id.folder(), usize::MAX).await?;
        self.remove_rest(&lock, &pass, id, rest).await?;
        Step::DeleteDone.passed();
        Ok(())
    }

    /// Removes what is left of a snapshot without manifest: what is known locally, and `places`, which the bucket has.
    pub(super) async fn remove_rest(
        &self,
        lock: &super::Lock,
        pass: &FencePass,
        id: &SnapshotRef,
        mut places: Vec<Place>,
    ) -> Result<()> {
        let local = self.contents.list(&id.folder()).await?.unwrap_or_default();
        places.extend(local.iter().filter_map(|entry| match entry.name.as_str() {
            ".protected" => Some(id.protected()),
            name => name.parse().ok().map(|name| id.file(&name)),
        }));
        places.sort_unstable();
        places.dedup();
        self.contents.remove(lock, pass, &places).await?;
        if self.contents.bucket().is_none() {
            // What is left is temporary files of a copy that ended.
            let path = self.contents.folder(&id.folder());
            self.env()
                .io(move |files| files.remove_tree(&path).ok())
                .await;
        }
        Ok(())
    }

    /// Removes a group with all its snapshots, oldest first. Protected snapshots stay, and the group with them. Fails
    /// with [`Error::Busy`] if a backup or sync writes to it, or a snapshot is in use.
    pub async fn delete_group(&self, id: &GroupRef, options: DeleteOptions) -> Result<DeleteStats> {
        self.writable()?;
        let group = self.lock_group(id).await?;
        let folders = self.folders(id).await?;
        if folders.is_empty() && !self.contents.exists(&id.owner()).await? {
            return Err(Error::NotFound(format!("group {id}")));
        }
        let mut stats = DeleteStats::default();
        for folder in folders {
            if !self.state_of(&folder).await?.is_root() {
                continue;
            }
            match self.delete(&folder.id).await {
                Ok(()) => stats.removed_snapshots += 1,
                Err(Error::Protected(_)) => stats.protected_snapshots += 1,
                // Another removal was faster.
                Err(Error::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        if stats.protected_snapshots > 0 {
            if options.error_on_protected {
                return Err(Error::Protected(format!(
                    "group {id} has {} protected snapshots; what",
                    stats.protected_snapshots
                )));
            }
            return Ok(stats);
        }
        self.remove_group_folder(&group).await?;
        stats.removed_groups = 1;
        Ok(stats)
    }

    /// Removes a group that has no finished snapshot any more; whether it went.
    pub(crate) async fn remove_empty_group(&self, id: &GroupRef) -> Result<bool> {
        self.writable()?;
        let group = self.lock_group(id).await?;
        if !self.sealed_in(id).await?.is_empty() || !self.contents.exists(&id.owner()).await? {
            return Ok(false);
        }
        self.remove_group_folder(&group).await?;
        Ok(true)
    }

    /// The end of a group whose finished snapshots are gone.
    pub(crate) async fn remove_group_folder(&self, group: &GroupLock) -> Result<()> {
        let id = &group.id;
        self.remove_unsealed_of(id).await?;
        let pass = self.fence.check().await?;
        let rest = self.contents.listed(&id.folder(), usize::MAX).await?;
        if rest
            .iter()
            .any(|place| matches!(place, Place::SnapshotFile(..)))
        {
            return Err(Error::Busy(format!(
                "a snapshot appeared in group {id} meanwhile; try again"
            )));
        }
        let places = [id.notes(), id.owner()];
        self.contents.remove(&group.lock, &pass, &places).await?;
        if self.contents.bucket().is_none() {
            let path = self
                .contents
                .folder(&Folder::Group(id.namespace.clone(), id.group.clone()));
            self.env()
                .io(move |files| files.remove_dir(&path).ok())
                .await;
        }
        Ok(())
    }
}
