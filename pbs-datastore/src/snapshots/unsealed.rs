//! Folders without a manifest that no writer owns: hidden everywhere, and removed when nothing can seal them any more.

use super::list::Folder;
use super::locked;
use super::{GroupRef, SnapshotRef, Snapshots};
use crate::NAMESPACE_DEPTH_MAX;
use crate::Namespace;
use crate::error::{About as _, Error, Result};
use crate::files::optional;
use crate::step::Step;

/// What became of unsealed folders.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnsealedStats {
    /// Removed.
    pub removed: u64,
    /// Found to be sealed after all.
    pub sealed: u64,
    /// Left alone: in use, or not to be removed for now.
    pub left: u64,
}

impl Snapshots {
    /// Removes all unsealed folders, here and in the bucket, once requests of the time before the start can have no
    /// effect any more: waits for that. A seal that arrived late makes its folder a snapshot.
    pub async fn remove_unsealed(&self) -> Result<UnsealedStats> {
        if let Some(until) = self.frozen_until {
            let now = self.env().instant();
            self.env().sleep(until.saturating_duration_since(now)).await;
        }
        self.contents.refresh().await?;
        self.remove_temporary().await?;
        let mut stats = UnsealedStats::default();
        for namespace in self
            .namespaces(&Namespace::root(), NAMESPACE_DEPTH_MAX)
            .await?
        {
            for group in self.group_ids(&namespace).await? {
                let group = GroupRef::new(namespace.clone(), group);
                let one = self.remove_unsealed_of(&group).await?;
                stats.removed += one.removed;
                stats.sealed += one.sealed;
                stats.left += one.left;
            }
        }
        Ok(stats)
    }

    /// Removes directories of temporary files that no session has: those of processes that died.
    async fn remove_temporary(&self) -> Result<()> {
        let dir = self.contents.temporary();
        let path = dir.clone();
        let entries = self
            .env()
            .io(move |files| optional(files.list(&path)).about(&path))
            .await?;
        for entry in entries.unwrap_or_default() {
            let dead = entry.stat.is_dir && !locked(&self.temporary).contains(&entry.name);
            if dead {
                let path = dir.join(&entry.name);
                // A session that has ended since the list was made has removed it itself.
                self.env()
                    .io(move |files| optional(files.remove_tree(&path)).about(&path))
                    .await?;
            }
        }
        Ok(())
    }

    pub(crate) async fn remove_unsealed_of(&self, group: &GroupRef) -> Result<UnsealedStats> {
        if self.read_only.is_some() {
            return Ok(UnsealedStats::default());
        }
        self.remove_unsealed_in(self.folders(group).await?).await
    }

    /// Removes those of the folders that have no manifest and get none any more.
    pub(super) async fn remove_unsealed_in(&self, folders: Vec<Folder>) -> Result<UnsealedStats> {
        let mut stats = UnsealedStats::default();
        for folder in folders {
            let sealed = folder
                .files
                .iter()
                .any(|entry| entry.name == "index.json.blob");
            if sealed || self.is_running(&folder.id) || self.thawed(&folder.id).is_err() {
                stats.left += u64::from(!sealed);
                continue;
            }
            // Its backup may have ended since the list was made; whoever restores it now is not to find it locked.
            if self.contents.exists(&folder.id.manifest()).await? {
                stats.sealed += 1;
                continue;
            }
            match self.remove_unsealed_one(&folder.id).await {
                Ok(true) => stats.removed += 1,
                Ok(false) => stats.sealed += 1,
                Err(Error::Busy(_)) => stats.left += 1,
                Err(error) => return Err(error),
            }
        }
        Ok(stats)
    }

    /// `false` if it turned out to be sealed.
    async fn remove_unsealed_one(&self, id: &SnapshotRef) -> Result<bool> {
        let lock = self.lock_exclusive(id)?;
        let pass = self.fence.check().await?;
        if self.contents.fetch_again(&id.manifest()).await?
            || self.contents.exists(&id.manifest()).await?
        {
            self.changed(id);
            return Ok(false);
        }
        let rest = self.contents.listed(&id.folder(), usize::MAX).await?;
        if rest.contains(&id.manifest()) {
            return Err(Error::Busy(format!(
                "the manifest of {id} is listed and was not found; what it is will be looked at again"
            )));
        }
        tracing::info!("removing what an unfinished backup left of {id}");
        self.remove_rest(&lock, &pass, id, rest).await?;
        Step::UnsealedRemoved.passed();
        Ok(true)
    }
}
