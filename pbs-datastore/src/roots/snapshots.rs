//! Sealed snapshots as roots: every index in every folder that has a manifest.
//!
//! The mirror is refreshed first, so snapshots that this process does not know of are seen too. Groups are read one after
//! the other and oldest snapshot first, never in shards within a group: a snapshot that is sealed meanwhile shares
//! chunks with a base that is older, and both can be missed only if the base vanishes before it is read, which is
//! noticed and answered by reading the group's list again.
//!
//! What cannot be read ends the collection (I10). An index whose checksum is not that of the manifest is fetched again
//! before anything is concluded from it, for a damaged local copy would mark the wrong chunks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;

use super::{MarkSink, MarkStats, Needer, RootProvider};
use crate::error::{Error, Result};
use crate::sabotage::{self, Rule};
use crate::snapshots::{GroupRef, SnapshotRef, Snapshots};
use crate::{
    ArchiveName, Digest, Index, NAMESPACE_DEPTH_MAX, Namespace, SnapshotState, VerifyOutcome,
    VerifyState,
};

/// How often a group's list is read again because a snapshot vanished.
const LISTS_MAX: usize = 20;

/// Digests handed over at once.
const BATCH: usize = 4096;

const NAME: &str = "snapshots";

/// The sealed snapshots of a datastore.
#[derive(Debug)]
pub struct SnapshotRoots {
    snapshots: Arc<Snapshots>,
    /// The task that collects.
    task: Mutex<Option<String>>,
}

impl SnapshotRoots {
    /// Of these snapshots.
    pub fn new(snapshots: Arc<Snapshots>) -> Self {
        Self {
            snapshots,
            task: Mutex::default(),
        }
    }

    /// The task (a UPID) that collects from now on: damaged snapshots are marked with it. Clients refuse a whole list in
    /// which one entry holds anything else, so without a task nothing is marked.
    pub fn set_task(&self, upid: impl Into<String>) {
        *self.task.lock().unwrap_or_else(PoisonError::into_inner) = Some(upid.into());
    }

    async fn mark_group(&self, group: &GroupRef, sink: &mut dyn MarkSink) -> Result<MarkStats> {
        let mut stats = MarkStats::default();
        let mut done = BTreeSet::new();
        'lists: for _ in 0..LISTS_MAX {
            for id in self.snapshots.sealed_in(group).await? {
                if done.contains(&id) {
                    continue;
                }
                match self.mark_snapshot(&id, sink).await? {
                    Some(one) => {
                        stats.index_files += one.index_files;
                        stats.index_bytes += one.index_bytes;
                        done.insert(id);
                    }
                    None if sabotage::is_off(Rule::ReadAgainWhenVanished) => {}
                    None => continue 'lists,
                }
            }
            return Ok(stats);
        }
        Err(Error::Busy(format!(
            "snapshots of group {group} keep vanishing while they are read; try again"
        )))
    }

    /// `None` if the snapshot vanished.
    async fn mark_snapshot(
        &self,
        id: &SnapshotRef,
        sink: &mut dyn MarkSink,
    ) -> Result<Option<MarkStats>> {
        let needer = Needer {
            provider: NAME,
            name: id.to_string(),
        };
        let Some((state, names)) = self.snapshots.indexes_of(id).await? else {
            return Ok(None);
        };
        let mut stats = MarkStats::default();
        for name in names {
            let Some(index) = self.read_index(id, &state, &name).await? else {
                if self.snapshots.contents().exists(&id.manifest()).await? {
                    // The complete listing does not have it either: there is nothing left to read.
                    tracing::warn!(snapshot = %id, "the index '{name}' is missing");
                    continue;
                }
                return Ok(None);
            };
            let mut batch = Vec::with_capacity(BATCH.min(index.len()));
            for chunk in index.chunks() {
                batch.push(chunk.digest);
                if batch.len() == BATCH {
                    sink.mark(&needer, &batch).await?;
                    batch.clear();
                }
            }
            sink.mark(&needer, &batch).await?;
            stats.index_files += 1;
            stats.index_bytes += index.size();
        }
        Ok(Some(stats))
    }

    /// An index, fetched again if its local copy is not what the manifest says; `None` if there is none.
    async fn read_index(
        &self,
        id: &SnapshotRef,
        state: &SnapshotState,
        name: &ArchiveName,
    ) -> Result<Option<Index>> {
        let place = id.file(name);
        let contents = self.snapshots.contents();
        let expected = state
            .manifest()
            .and_then(|manifest| manifest.file(name)?.csum);
        let kind = name.kind();
        let judge = move |bytes: Option<Bytes>| {
            let parsed = bytes.map(|bytes| Index::parse(kind, bytes));
            let right = matches!(&parsed, Some(Ok(index)) if expected.is_none_or(|csum| csum == index.csum()));
            ((parsed, right), right)
        };
        let (parsed, right) = contents.read_as(&place, judge).await?;
        match parsed {
            None => Ok(None),
            Some(Ok(index)) => {
                if !right {
                    tracing::warn!(snapshot = %id, "the index '{name}' is not the one its manifest describes");
                }
                Ok(Some(index))
            }
            Some(Err(_)) if sabotage::is_off(Rule::UnreadableAborts) => Ok(None),
            Some(Err(error)) => Err(Error::Invalid(format!(
                "the index '{name}' of snapshot {id} cannot be read ({error}); nothing is collected before it is \
                 restored or its snapshot removed"
            ))),
        }
    }
}

#[async_trait]
impl RootProvider for SnapshotRoots {
    fn name(&self) -> &'static str {
        NAME
    }

    /// A snapshot is visible when it is sealed, and until then its session is open.
    async fn settle(&self) -> Result<()> {
        Ok(())
    }

    fn oldest_open(&self) -> Option<(String, Timestamp)> {
        None
    }

    async fn mark(&self, sink: &mut dyn MarkSink) -> Result<MarkStats> {
        self.snapshots.contents().refresh().await?;
        let mut stats = MarkStats::default();
        let root = Namespace::root();
        for namespace in self
            .snapshots
            .namespaces(&root, NAMESPACE_DEPTH_MAX)
            .await?
        {
            for group in self.snapshots.group_ids(&namespace).await? {
                let group = GroupRef::new(namespace.clone(), group);
                let one = self.mark_group(&group, sink).await?;
                stats.index_files += one.index_files;
                stats.index_bytes += one.index_bytes;
            }
        }
        Ok(stats)
    }

    /// Their verify state becomes *failed*, so that the next backup of the group sends everything again and heals them.
    async fn damaged(&self, missing: &[(Digest, Vec<Needer>)]) -> Result<()> {
        let mut damaged = BTreeMap::new();
        for (digest, needers) in missing {
            for needer in needers.iter().filter(|needer| needer.provider == NAME) {
                damaged.entry(needer.name.as_str()).or_insert(*digest);
            }
        }
        let task = self
            .task
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let state = task.map(|upid| VerifyState {
            upid,
            state: VerifyOutcome::Failed,
        });
        let mut failure = None;
        for (name, digest) in damaged {
            tracing::error!(
                snapshot = name,
                "the snapshot needs chunk {digest}, which is missing"
            );
            let Some(state) = &state else {
                continue;
            };
            let id = name
                .parse::<SnapshotRef>()
                .map_err(|error| Error::Invalid(error.to_string()))?;
            match self.snapshots.set_verify_state(&id, Some(state)).await {
                // It was removed meanwhile, or has no manifest that could be changed.
                Ok(()) | Err(Error::NotFound(_) | Error::Invalid(_)) => {}
                Err(error) => failure = Some(error),
            }
        }
        failure.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests;
