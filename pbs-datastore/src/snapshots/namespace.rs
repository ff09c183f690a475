//! Namespaces: which there are, creation and removal.
//!
//! In a bucket an empty marker object makes a namespace visible; in a directory datastore the folder itself does.

use bytes::Bytes;

use super::{DeleteOptions, DeleteStats, GroupRef, Snapshots};
use crate::error::{About as _, Error, Result};
use crate::files::optional;
use crate::layout::{Folder, Place};
use crate::{NAMESPACE_DEPTH_MAX, Namespace};

impl Snapshots {
    /// Whether a namespace exists; the root always does.
    pub async fn has_namespace(&self, namespace: &Namespace) -> Result<bool> {
        if namespace.is_root() {
            return Ok(true);
        }
        let folder = Folder::Namespace(namespace.clone());
        Ok(self.contents.list(&folder).await?.is_some())
    }

    /// Fails with [`Error::NotFound`] for a namespace that does not exist.
    pub(super) async fn check_namespace(&self, namespace: &Namespace) -> Result<()> {
        if self.has_namespace(namespace).await? {
            return Ok(());
        }
        Err(Error::NotFound(format!("namespace '{namespace}'")))
    }

    /// The namespaces directly within one.
    async fn children(&self, namespace: &Namespace) -> Result<Vec<Namespace>> {
        let path = self
            .contents
            .folder(&Folder::Namespace(namespace.clone()))
            .join("ns");
        let entries = self
            .env()
            .io(move |files| optional(files.list(&path)).about(&path))
            .await?;
        let dirs = entries
            .unwrap_or_default()
            .into_iter()
            .filter(|e| e.stat.is_dir);
        Ok(dirs
            .filter_map(|entry| namespace.child(&entry.name).ok())
            .collect())
    }

    /// A namespace and those below it, at most `depth` levels down, each before what lies within it.
    pub async fn namespaces(&self, parent: &Namespace, depth: usize) -> Result<Vec<Namespace>> {
        let limit = parent.depth() + depth.min(NAMESPACE_DEPTH_MAX);
        let mut found = Vec::new();
        let mut open = vec![parent.clone()];
        while let Some(namespace) = open.pop() {
            if namespace.depth() < limit {
                let mut children = self.children(&namespace).await?;
                children.reverse();
                open.extend(children);
            }
            found.push(namespace);
        }
        Ok(found)
    }

    /// Creates a namespace within an existing one. One that exists already is left as it is.
    pub async fn create_namespace(&self, parent: &Namespace, name: &str) -> Result<Namespace> {
        self.writable()?;
        let namespace = parent
            .new_child(name)
            .map_err(|error| Error::Invalid(error.to_string()))?;
        self.check_namespace(parent).await?;
        if self.has_namespace(&namespace).await? {
            return Ok(namespace);
        }
        let lock = self.lock_namespace(&namespace)?;
        if self.contents.bucket().is_some() {
            self.fence.check().await?;
            let marker = Place::NamespaceMarker(namespace.clone());
            self.contents.put(&lock, &marker, Bytes::new()).await?;
        } else {
            let path = self.contents.folder(&Folder::Namespace(namespace.clone()));
            self.env()
                .io(move |files| files.create_dirs(&path).about(&path))
                .await?;
        }
        Ok(namespace)
    }

    fn lock_namespace(&self, namespace: &Namespace) -> Result<super::Lock> {
        let busy = format!("namespace '{namespace}' is being created or removed");
        self.locks.exclusive(&namespace.path_prefix(), &busy)
    }

    /// Removes a namespace and all below it, deepest first. Without `delete_groups` only empty namespaces go. What is
    /// protected or in use stays, with the namespaces around it; [`DeleteStats::complete`] says whether all went.
    pub async fn delete_namespace(
        &self,
        namespace: &Namespace,
        delete_groups: bool,
        options: DeleteOptions,
    ) -> Result<DeleteStats> {
        self.writable()?;
        self.collectable()?;
        if namespace.is_root() {
            return Err(Error::Invalid(
                "the root namespace cannot be removed".to_owned(),
            ));
        }
        let mut stats = DeleteStats::default();
        if !self.has_namespace(namespace).await? {
            return Ok(stats);
        }
        let mut all = self.namespaces(namespace, NAMESPACE_DEPTH_MAX).await?;
        while let Some(namespace) = all.pop() {
            let mut empty = true;
            for group in self.group_ids(&namespace).await? {
                let group = GroupRef::new(namespace.clone(), group);
                if delete_groups {
                    let one = self.delete_group(&group, options).await?;
                    empty &= one.removed_groups == 1;
                    stats.add(one);
                } else {
                    empty &= self.group_info(group).await?.is_none();
                }
            }
            empty &= self.children(&namespace).await?.is_empty();
            if empty {
                self.remove_namespace(&namespace).await?;
                stats.removed_namespaces += 1;
            } else {
                stats.left_namespaces += 1;
            }
        }
        Ok(stats)
    }

    async fn remove_namespace(&self, namespace: &Namespace) -> Result<()> {
        let lock = self.lock_namespace(namespace)?;
        let folder = Folder::Namespace(namespace.clone());
        if self.contents.bucket().is_some() {
            let pass = self.fence.check().await?;
            // Groups without snapshots may have left their owner behind, and others may have added something since.
            let mut rest = self.contents.listed(&folder, usize::MAX).await?;
            let foreign = rest
                .iter()
                .any(|place| matches!(place, Place::SnapshotFile(..)));
            if foreign {
                return Err(Error::Busy(format!(
                    "a snapshot appeared in namespace '{namespace}' meanwhile; try again"
                )));
            }
            rest.push(Place::NamespaceMarker(namespace.clone()));
            rest.sort_unstable();
            rest.dedup();
            return self.contents.remove(&lock, &pass, &rest).await;
        }
        for group in self.group_ids(namespace).await? {
            let group = GroupRef::new(namespace.clone(), group);
            let pass = self.fence.check().await?;
            let places = [group.notes(), group.owner()];
            self.contents.remove(&lock, &pass, &places).await?;
        }
        let path = self.contents.folder(&folder);
        self.env()
            .io(move |files| {
                // Empty folders of types and of namespaces that went before.
                for name in ["ns", "ct", "host", "vm"] {
                    files.remove_dir(&path.join(name)).ok();
                }
                optional(files.remove_dir(&path)).about(&path).map(|_| ())
            })
            .await
    }
}
