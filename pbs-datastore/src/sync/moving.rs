//! Groups and namespaces moved within a datastore: copied as by a sync, then removed where they were. No chunk moves.
//!
//! One group, whose lock is held all the time, so that no backup comes into it
//! 1. What the target has of it must be what an earlier attempt left: a part of ours; or what is ours and was ours, of which we may have got
//!    newer ones since.
//! 2. Each snapshot is copied, oldest first; then protections and notes.
//! 3. The target is listed: only if every finished snapshot is there, those of the source go, and the group with them.
//!
//! A crash or a stop before 3 leaves the group where it was, and maybe a part of it where it was to go. In 3 each snapshot is in both places
//! or in the new one. The next attempt goes on in either case.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::plan::plan;
use super::{DatastoreSource, DatastoreTarget, SyncOptions, SyncSource as _, SyncTarget as _};
use crate::snapshots::GroupLock;
use crate::{
    AuthId, BackupTime, Datastore, DeleteOptions, Error, GroupRef, JobContext, NAMESPACE_DEPTH_MAX,
    Namespace, Result, SnapshotInfo, SnapshotState,
};

/// Moves things within one datastore.
#[derive(Debug)]
pub struct Mover {
    datastore: Arc<Datastore>,
    source: DatastoreSource,
    node: String,
}

impl Mover {
    /// `node` as of [`DatastoreTarget::new`].
    pub fn new(datastore: Arc<Datastore>, node: impl Into<String>) -> Self {
        Self {
            source: DatastoreSource::new(Arc::clone(&datastore)),
            datastore,
            node: node.into(),
        }
    }

    /// Moves a group into another namespace, which must be there; how many snapshots went. May be dropped at any moment.
    pub async fn group(
        &self,
        group: &GroupRef,
        target: &Namespace,
        job: &JobContext,
    ) -> Result<usize> {
        tokio::select! {
            biased;
            moved = self.move_group(group, target, job) => moved,
            () = job.stopped() => Err(Error::Stopped),
        }
    }

    /// Moves a namespace with all that is in it: what was `namespace` is `target` then. That is made if it is missing; what is above it
    /// must be there. How many groups went.
    pub async fn namespace(
        &self,
        namespace: &Namespace,
        target: &Namespace,
        job: &JobContext,
    ) -> Result<usize> {
        if namespace.is_root() || target.is_within(namespace) {
            return Err(Error::Invalid(format!(
                "namespace '{namespace}' cannot be moved to '{target}': the root stays, and nothing is moved into itself"
            )));
        }
        let snapshots = Arc::clone(self.datastore.snapshots());
        snapshots.collectable()?;
        let mut moved = 0;
        let all = self
            .source
            .namespaces(namespace, NAMESPACE_DEPTH_MAX)
            .await?;
        let mut places = Vec::with_capacity(all.len());
        for from in all {
            let inner = from.strip(namespace).unwrap_or_default();
            let to = target.join(&inner);
            places.push((from, to.map_err(|error| Error::Invalid(error.to_string()))?));
        }
        for (from, to) in &places {
            job.check()?;
            if let (Some(parent), Some(name)) = (to.parent(), to.name()) {
                let (snapshots, name) = (Arc::clone(&snapshots), name.to_owned());
                let create = async move { snapshots.create_namespace(&parent, &name).await };
                self.datastore.env().to_the_end(create).await?;
            }
            for group in snapshots.groups_in_use(from).await? {
                self.group(&group, to, job).await?;
                moved += 1;
            }
        }
        let options = DeleteOptions {
            error_on_protected: false,
        };
        let (removing, namespace) = (Arc::clone(&snapshots), namespace.clone());
        let gone = async move {
            let stats = removing.delete_namespace(&namespace, false, options);
            stats.await
        };
        let stats = self.datastore.env().to_the_end(gone).await?;
        if !stats.complete() {
            return Err(Error::Busy(
                "something came into the namespace while it was moved; move it again".to_owned(),
            ));
        }
        Ok(moved)
    }

    async fn move_group(
        &self,
        group: &GroupRef,
        target: &Namespace,
        job: &JobContext,
    ) -> Result<usize> {
        let snapshots = self.datastore.snapshots();
        snapshots.collectable()?;
        let to = GroupRef::new(target.clone(), group.group.clone());
        if to == *group {
            return Err(Error::Invalid(format!("group {group} is there already")));
        }
        let lock = snapshots.lock_group(group).await?;
        let infos = snapshots.group_snapshots(group).await?;
        if infos.is_empty() {
            return Err(Error::NotFound(format!("group {group}")));
        }
        let owner = snapshots.owner(group).await?.ok_or_else(|| {
            Error::Refused(format!(
                "the owner of group {group} cannot be read; set it anew with change-owner"
            ))
        })?;
        self.check_rest(&infos, &owner, &to).await?;
        self.copy(group, &to, owner, job).await?;
        self.annotate(group, &to, &infos).await?;
        let there = snapshots.group_snapshots(&to).await?;
        let arrived = |time: BackupTime| {
            let mut there = there.iter();
            there.any(|info| info.id.snapshot.time == time && info.state.is_root())
        };
        if let Some(missing) = infos.iter().find(|info| !arrived(info.id.snapshot.time)) {
            return Err(Error::Refused(format!(
                "{} did not arrive in '{target}'; the group stays where it is",
                missing.id
            )));
        }
        let count = infos.len();
        // From here on to the end: the locks are kept whoever waits.
        let snapshots = Arc::clone(snapshots);
        let remove = async move { remove(&snapshots, lock, infos).await };
        self.datastore.env().to_the_end(remove).await?;
        job.log(format!("group {group} is {to} now: {count} snapshots"));
        Ok(count)
    }

    /// Step 1.
    async fn check_rest(&self, ours: &[SnapshotInfo], owner: &AuthId, to: &GroupRef) -> Result<()> {
        let snapshots = self.datastore.snapshots();
        let mut missing: BTreeMap<BackupTime, &SnapshotInfo> = ours
            .iter()
            .map(|info| (info.id.snapshot.time, info))
            .collect();
        let (mut others, mut common, mut newest) = (None, 0, None);
        for there in snapshots.group_snapshots(to).await? {
            let time = there.id.snapshot.time;
            let ours = missing.get(&time).map(|info| &*info.state);
            newest = newest.max(Some(time));
            match (ours, &*there.state) {
                (Some(SnapshotState::Sealed(one)), SnapshotState::Sealed(other))
                    if one.is_same_backup(other) =>
                {
                    missing.remove(&time);
                    common += 1;
                }
                (None, SnapshotState::Sealed(_)) => others = Some(time),
                _ => return Err(is_another(to, time)),
            }
        }
        let first = missing.first_key_value().map(|(time, _)| *time);
        // What was moved has gone from here, and what came since is newer than all of that.
        let goes_on = first.is_none() || (common > 0 && first > newest);
        if let Some(other) = others.filter(|_| !goes_on) {
            return Err(is_another(to, other));
        }
        match snapshots.owner(to).await? {
            Some(there) if there != *owner => Err(Error::Refused(format!(
                "group {to} is there already and belongs to {there}, not to {owner}; change the owner of one of the two"
            ))),
            _ => Ok(()),
        }
    }

    /// Step 2, the snapshots.
    async fn copy(
        &self,
        from: &GroupRef,
        to: &GroupRef,
        owner: AuthId,
        job: &JobContext,
    ) -> Result<()> {
        let target = DatastoreTarget::new(Arc::clone(&self.datastore), owner, self.node.as_str());
        let there = target.snapshots(to).await?;
        let plan = plan(
            &self.source.snapshots(from).await?,
            &there,
            &SyncOptions::default(),
        );
        for (time, step) in plan.steps {
            job.check()?;
            let id = from.at(time);
            let Some(snapshot) = self.source.open(&id).await? else {
                continue;
            };
            target.copy(&*snapshot, &to.at(time), step, job).await?;
            job.log(format!("{id}: copied to '{}'", to.namespace));
        }
        Ok(())
    }

    /// Step 2, protections and notes.
    async fn annotate(&self, from: &GroupRef, to: &GroupRef, ours: &[SnapshotInfo]) -> Result<()> {
        let snapshots = Arc::clone(self.datastore.snapshots());
        let notes = snapshots.group_notes(from).await?;
        let protected: Vec<BackupTime> = ours
            .iter()
            .filter(|info| info.protected)
            .map(|info| info.id.snapshot.time)
            .collect();
        let to = to.clone();
        let annotate = async move {
            for time in protected {
                snapshots.set_protected(&to.at(time), true).await?;
            }
            if notes.is_empty() {
                return Ok(());
            }
            snapshots.set_group_notes(&to, &notes).await
        };
        self.datastore.env().to_the_end(annotate).await
    }
}

fn is_another(to: &GroupRef, time: BackupTime) -> Error {
    Error::Refused(format!(
        "group {to} is there already, with another snapshot of {time}: nothing was moved; look at both, and move that one out of the way if it is another group"
    ))
}

/// Step 3: everything of the source goes.
async fn remove(
    snapshots: &crate::Snapshots,
    group: GroupLock,
    infos: Vec<SnapshotInfo>,
) -> Result<()> {
    for info in infos {
        if info.protected {
            snapshots.set_protected(&info.id, false).await?;
        }
        match snapshots.delete(&info.id).await {
            Ok(()) | Err(Error::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
    }
    snapshots.remove_group_folder(&group).await
}
