//! Prune: removes the snapshots that no rule keeps, of one group, or of all groups below a namespace. Not where the datastore
//! forbids it, because a newer version knows of uses that this one does not.

use std::sync::Arc;

use jiff::tz::TimeZone;
use pbs_datastore::{
    Datastore, Error, GroupRef, JobContext, KeepOptions, Namespace, PruneCandidate, PruneMark,
    SnapshotInfo, plan_prune,
};

use super::run::begin;
use super::scope::{Scope, place};
use super::{JobGuard, JobKey, Launched, launch, supervise};
use crate::api::ApiError;
use crate::api::rule::DELETE;
use crate::auth::{AuthId, Principal};
use crate::daemon::Daemon;
use crate::tasks::{TaskLogger, TaskStart, Upid};

/// The worker type of a run that somebody asked for.
const KIND: &str = "prune";
/// The worker type of a job's run.
const JOB_KIND: &str = "prunejob";

/// A snapshot with what is to become of it.
pub(crate) type Planned = (SnapshotInfo, PruneMark);

/// What is to be pruned beyond one group.
#[derive(Debug, Clone)]
pub(crate) struct PruneRequest {
    /// Where.
    pub(crate) namespace: Namespace,
    /// Levels below it.
    pub(crate) depth: usize,
    /// What stays.
    pub(crate) keep: KeepOptions,
    /// On behalf of whom.
    pub(crate) scope: Scope,
    /// Only say what would be removed.
    pub(crate) dry_run: bool,
}

/// The snapshots of a group, oldest first, with what is to become of each.
pub(crate) async fn plan(
    store: &Datastore,
    group: &GroupRef,
    keep: &KeepOptions,
) -> pbs_datastore::Result<Vec<Planned>> {
    let mut infos = store.snapshots().group_snapshots(group).await?;
    infos.sort_by_key(|info| info.id.snapshot.time);
    let candidates: Vec<_> = infos
        .iter()
        .map(|info| PruneCandidate {
            time: info.id.snapshot.time.timestamp(),
            finished: info.state.is_root(),
            protected: info.protected,
        })
        .collect();
    let marks = plan_prune(&candidates, keep, &TimeZone::system());
    Ok(infos.into_iter().zip(marks).collect())
}

/// Removes what was planned for one group, as a task that answers what became of it.
pub(crate) fn start_group(
    daemon: &Arc<Daemon>,
    store: Arc<Datastore>,
    group: &GroupRef,
    mut planned: Vec<Planned>,
    user: AuthId,
) -> Result<Launched<Vec<Planned>>, ApiError> {
    let name = store.name().as_str().to_owned();
    let start = TaskStart {
        kind: KIND,
        worker_id: &format!("{name}:{}:{}", group.namespace, group.group),
        user,
        store: Some(&name),
    };
    launch(daemon, &start, None, move |daemon, task| {
        Box::pin(async move {
            let logger = task.logger();
            let work = |job| async move {
                let mut removal = Removal::new(&store, &logger, false);
                removal.group(&mut planned, &job).await?;
                removal.end().map(|()| planned)
            };
            supervise(task, &daemon.shutdown, work).await
        })
    })
}

/// Prunes all groups below a namespace, as a task.
pub(crate) fn start_tree(
    daemon: &Arc<Daemon>,
    store: Arc<Datastore>,
    request: PruneRequest,
    user: AuthId,
) -> Result<Upid, ApiError> {
    let name = store.name().as_str().to_owned();
    let start = TaskStart {
        kind: KIND,
        worker_id: &place(&name, &request.namespace),
        user,
        store: Some(&name),
    };
    launch_tree(daemon, &start, None, store, request)
}

/// Starts a run of a configured job; `who` bounds it.
pub(super) fn start_job(
    daemon: &Arc<Daemon>,
    key: &JobKey,
    user: AuthId,
    who: Option<&Principal>,
) -> Result<Upid, ApiError> {
    let config = daemon.config.read();
    let job = config.prune.get(&key.id);
    let job = job.ok_or_else(|| ApiError::bad_request(format!("there is no {key}")))?;
    let name = job.target.store.as_str();
    let store = daemon.stores.get_writable(name)?;
    store.snapshots().collectable()?;
    let request = PruneRequest {
        namespace: job.target.namespace.clone(),
        depth: job.target.depth(),
        keep: job.keep,
        scope: Scope::of(who, DELETE),
        dry_run: false,
    };
    let guard = begin(daemon, key)?;
    let start = TaskStart {
        kind: JOB_KIND,
        worker_id: &format!("{name}:{}", key.id),
        user,
        store: Some(name),
    };
    launch_tree(daemon, &start, Some(guard), store, request)
}

fn launch_tree(
    daemon: &Arc<Daemon>,
    start: &TaskStart<'_>,
    job: Option<JobGuard>,
    store: Arc<Datastore>,
    request: PruneRequest,
) -> Result<Upid, ApiError> {
    let launched = launch(daemon, start, job, move |daemon, task| {
        Box::pin(async move {
            let logger = task.logger();
            let work = |job| async move { tree(daemon, &store, &request, &logger, &job).await };
            supervise(task, &daemon.shutdown, work).await
        })
    })?;
    Ok(launched.upid)
}

async fn tree(
    daemon: &Daemon,
    store: &Arc<Datastore>,
    request: &PruneRequest,
    logger: &TaskLogger,
    job: &JobContext,
) -> Result<(), String> {
    let told = |error: Error| error.to_string();
    logger.log(format!("keep: {}", kept(&request.keep)));
    if request.keep.keeps_all() {
        return Ok(());
    }
    let scope = &request.scope;
    let groups = scope.groups(&daemon.authority, store, &request.namespace, request.depth);
    let groups = groups.await.map_err(told)?;
    let mut removal = Removal::new(store, logger, request.dry_run);
    for (done, group) in groups.iter().enumerate() {
        job.check().map_err(told)?;
        logger.log(format!(
            "group {} ({} of {})",
            group.id,
            done + 1,
            groups.len()
        ));
        match plan(store, &group.id, &request.keep).await {
            Ok(mut planned) => removal.group(&mut planned, job).await?,
            Err(error) => {
                logger.warn(format!("group {} is left as it is: {error}", group.id));
                removal.failed += 1;
            }
        }
    }
    removal.end()
}

/// The rules in words.
fn kept(keep: &KeepOptions) -> String {
    let rules = keep.named().into_iter();
    let said: Vec<String> = rules
        .filter_map(|(name, count)| Some(format!("{name} {}", count?)))
        .collect();
    if said.is_empty() {
        "everything, no rule is given".to_owned()
    } else {
        said.join(", ")
    }
}

/// The removal of snapshots, and what came of it so far.
struct Removal<'a> {
    store: &'a Arc<Datastore>,
    logger: &'a TaskLogger,
    dry_run: bool,
    kept: u64,
    removed: u64,
    failed: u64,
}

impl<'a> Removal<'a> {
    fn new(store: &'a Arc<Datastore>, logger: &'a TaskLogger, dry_run: bool) -> Self {
        Self {
            store,
            logger,
            dry_run,
            kept: 0,
            removed: 0,
            failed: 0,
        }
    }

    /// Removes what nothing keeps, oldest first. One that cannot be removed does not hold up the others. One that is in
    /// use stays until the next time, and is marked as kept: that is a warning and no failure.
    async fn group(&mut self, planned: &mut [Planned], job: &JobContext) -> Result<(), String> {
        for (info, mark) in planned.iter_mut() {
            self.logger.log(format!("{}: {}", info.id, mark.reason()));
            if mark.keeps() {
                self.kept += 1;
                continue;
            }
            job.check().map_err(|error| error.to_string())?;
            if self.dry_run {
                self.removed += 1;
                continue;
            }
            if !info.state.is_root() && self.is_finished_by_now(info).await {
                self.logger
                    .log(format!("{} was finished meanwhile and is kept", info.id));
                *mark = PruneMark::Keep("finished meanwhile");
                self.kept += 1;
                continue;
            }
            match self.store.snapshots().delete(&info.id).await {
                // Somebody else was faster.
                Ok(()) | Err(Error::NotFound(_)) => self.removed += 1,
                Err(error @ Error::Busy(_)) => {
                    self.logger
                        .warn(format!("{} is kept this time: {error}", info.id));
                    *mark = PruneMark::Keep("in use");
                    self.kept += 1;
                }
                Err(error) => {
                    self.logger
                        .warn(format!("{} was not removed: {error}", info.id));
                    self.failed += 1;
                }
            }
        }
        Ok(())
    }

    /// Whether a snapshot that was being written when it was planned is finished now.
    async fn is_finished_by_now(&self, info: &SnapshotInfo) -> bool {
        let state = self.store.snapshots().state(&info.id).await;
        state.is_ok_and(|state| state.is_root())
    }

    fn end(self) -> Result<(), String> {
        let removed = if self.dry_run {
            "would be removed"
        } else {
            "removed"
        };
        self.logger.log(format!(
            "snapshots kept: {}, {removed}: {}",
            self.kept, self.removed
        ));
        match self.failed {
            0 => Ok(()),
            count => Err(format!(
                "{count} snapshots or groups could not be dealt with; see the task's log"
            )),
        }
    }
}
