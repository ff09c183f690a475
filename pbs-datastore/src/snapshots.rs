//! Namespaces, groups and snapshots: what there is, who uses it, and how it changes and goes.
//!
//! Everything is read from the local tree ([`Contents`]); [`SnapshotState::of`] is the one function that decides whether a
//! snapshot counts. A folder without a manifest is no snapshot: it is shown while its writer lives, hidden afterwards,
//! and removed by [`Snapshots::remove_unsealed`].
//!
//! Removal of a snapshot: manifest first, then everything else, under the exclusive lock and a fence pass. A crash after
//! the manifest leaves a folder that counts as unsealed and is removed after the next start. A request whose answer was
//! lost keeps the lock until it can have no effect any more (I8).
//!
//! After an unclean stop, snapshots that are not younger than the start, or than the newest that their group had at the start (for the clock
//! may have been set back), are neither created nor removed until requests of the time before can have no effect any more.

mod delete;
mod edit;
mod group;
mod id;
mod list;
mod lock;
mod mend;
mod namespace;
mod state;
mod summaries;
mod unsealed;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::contents::Contents;
use crate::error::{Error, Result};
use crate::sabotage::{self, Rule};
use crate::{BackupTime, Env, Fence, NAMESPACE_DEPTH_MAX, Namespace, StartReport};

pub use delete::{DeleteOptions, DeleteStats};
pub use group::{GroupInfo, GroupLock};
pub use id::{GroupRef, SnapshotRef};
pub use list::{FileInfo, SnapshotFilter, SnapshotInfo};
pub use lock::Lock;
pub(crate) use lock::Locks;
pub use state::SnapshotState;
use summaries::Summaries;
pub use unsealed::UnsealedStats;

/// Stripes of the lock that orders changes of one manifest within this process.
const EDIT_STRIPES: usize = 64;

/// All snapshots of a datastore. See the module page.
#[derive(Debug)]
pub struct Snapshots {
    contents: Arc<Contents>,
    locks: Arc<Locks>,
    fence: Fence,
    instance: String,
    start: String,
    started: Timestamp,
    frozen_until: Option<Instant>,
    /// The newest of each group at the start, sealed or not, if that was after an unclean stop.
    known: OnceLock<BTreeMap<GroupRef, BackupTime>>,
    read_only: Option<String>,
    no_collect: Option<String>,
    summaries: Mutex<Summaries>,
    /// Snapshots that are being written.
    running: Mutex<BTreeSet<SnapshotRef>>,
    /// Names of the directories of temporary files that live sessions have.
    temporary: Mutex<BTreeSet<String>>,
    edits: Vec<tokio::sync::Mutex<()>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Snapshots {
    /// The snapshots of a tree. `late_request_max` is T; it is not used for a directory, whose requests are never late.
    pub fn new(
        contents: Arc<Contents>,
        fence: Fence,
        report: &StartReport,
        late_request_max: Duration,
    ) -> Arc<Self> {
        let env = contents.env().clone();
        let frozen_until = report
            .gc_not_before
            .filter(|_| !sabotage::is_off(Rule::FrozenAfterCrash));
        let late = match contents.bucket() {
            Some(_) => late_request_max,
            None => Duration::ZERO,
        };
        Arc::new(Self {
            locks: Locks::new(&env, late),
            contents,
            fence,
            instance: report.instance.clone(),
            start: report.start.clone(),
            started: report.started,
            frozen_until,
            known: OnceLock::new(),
            read_only: report.read_only.clone(),
            no_collect: report.no_collect.clone(),
            summaries: Mutex::new(Summaries::new()),
            running: Mutex::default(),
            temporary: Mutex::default(),
            edits: (0..EDIT_STRIPES)
                .map(|_| tokio::sync::Mutex::default())
                .collect(),
        })
    }

    /// The tree.
    pub fn contents(&self) -> &Arc<Contents> {
        &self.contents
    }

    pub(crate) fn env(&self) -> &Env {
        self.contents.env()
    }

    pub(crate) fn fence(&self) -> &Fence {
        &self.fence
    }

    /// Instance and start, for the metadata of what is written.
    pub(crate) fn committer(&self) -> (&str, &str) {
        (&self.instance, &self.start)
    }

    /// Fails where nothing may be written.
    pub(crate) fn writable(&self) -> Result<()> {
        self.read_only
            .clone()
            .map_or(Ok(()), |why| Err(Error::Refused(why)))
    }

    /// Fails where snapshots must not be collected, pruned or removed with their namespace.
    pub fn collectable(&self) -> Result<()> {
        self.no_collect
            .clone()
            .map_or(Ok(()), |why| Err(Error::Refused(why)))
    }

    /// Takes note of what there is at the start, if that is one after an unclean stop. To be called once, before anybody writes.
    pub(crate) async fn freeze_known(&self) -> Result<()> {
        if self.frozen_until.is_none() {
            return Ok(());
        }
        let mut known = BTreeMap::new();
        for namespace in self
            .namespaces(&Namespace::root(), NAMESPACE_DEPTH_MAX)
            .await?
        {
            for group in self.group_ids(&namespace).await? {
                let group = GroupRef::new(namespace.clone(), group);
                if let Some(newest) = self.folders(&group).await?.pop() {
                    known.insert(group, newest.id.snapshot.time);
                }
            }
        }
        self.known.set(known).ok();
        Ok(())
    }

    /// Until when requests of the time before the start may still concern this snapshot; `None` if they cannot.
    pub(crate) fn frozen_until(&self, id: &SnapshotRef) -> Option<Instant> {
        let now = self.env().instant();
        let until = self.frozen_until.filter(|until| *until > now);
        let time = id.snapshot.time;
        let newest = self.known.get().and_then(|known| known.get(&id.group()));
        until.filter(|_| {
            time.timestamp() <= self.started || newest.is_some_and(|newest| time <= *newest)
        })
    }

    /// Fails while requests of the time before the start may still concern this snapshot.
    pub(crate) fn thawed(&self, id: &SnapshotRef) -> Result<()> {
        match self.frozen_until(id) {
            Some(until) => Err(Error::Busy(format!(
                "the daemon was not stopped cleanly: snapshots that are not younger than its start can be created or removed in {} s",
                until
                    .saturating_duration_since(self.env().instant())
                    .as_secs()
                    + 1
            ))),
            None => Ok(()),
        }
    }

    /// Whether nothing is read, written or removed, and no request whose answer was lost can take effect any more:
    /// what a clean stop asks for.
    pub fn is_idle(&self) -> bool {
        locked(&self.temporary).is_empty() && self.locks.is_empty()
    }

    /// If it is idle, nobody reads, writes or removes anything from here on.
    pub(crate) fn close_if_idle(&self) -> bool {
        locked(&self.temporary).is_empty() && self.locks.close_if_empty()
    }

    /// Registers the directory of a session's temporary files, or gives it up.
    pub(crate) fn set_temporary(&self, name: &str, used: bool) {
        let mut set = locked(&self.temporary);
        if used {
            set.insert(name.to_owned());
        } else {
            set.remove(name);
        }
    }

    /// A shared lock: while it is held the snapshot is not removed. For readers, and for a backup that builds on it.
    pub fn hold(&self, id: &SnapshotRef) -> Result<Lock> {
        let busy = format!("snapshot {id} is being written or removed");
        self.locks.shared(&id.to_string(), &busy)
    }

    /// Waits until nobody reads, writes or removes the snapshot.
    pub async fn wait_unheld(&self, id: &SnapshotRef) {
        self.locks.wait_unheld(&id.to_string()).await;
    }

    pub(crate) fn lock_exclusive(&self, id: &SnapshotRef) -> Result<Lock> {
        let busy = format!(
            "snapshot {id} is in use: it is being written, read or removed, or a backup builds on it"
        );
        self.locks.exclusive(&id.to_string(), &busy)
    }

    /// Marks a snapshot as being written, or as no longer so.
    pub(crate) fn set_running(&self, id: &SnapshotRef, running: bool) {
        let mut set = locked(&self.running);
        if running {
            set.insert(id.clone());
        } else {
            set.remove(id);
        }
    }

    pub(crate) fn is_running(&self, id: &SnapshotRef) -> bool {
        locked(&self.running).contains(id)
    }

    fn running_in(&self, group: &GroupRef) -> Vec<SnapshotRef> {
        let running = locked(&self.running);
        let of =
            |id: &&SnapshotRef| id.namespace == group.namespace && id.snapshot.group == group.group;
        running.iter().filter(of).cloned().collect()
    }

    fn running_groups(&self, namespace: &Namespace) -> BTreeSet<crate::BackupGroup> {
        let running = locked(&self.running);
        let within = running.iter().filter(|id| id.namespace == *namespace);
        within.map(|id| id.snapshot.group.clone()).collect()
    }

    /// What was known of the snapshot's manifest is not to be believed any more.
    pub(crate) fn changed(&self, id: &SnapshotRef) {
        locked(&self.summaries).forget(id);
    }
}

#[cfg(test)]
pub(crate) mod tests;
