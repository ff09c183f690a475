//! `POST /admin/datastore/{store}/prune`: removes the snapshots of one group that no rule keeps, or shows which. Not where
//! the datastore forbids it, because a newer version knows of uses that this one does not.

use std::sync::Arc;

use jiff::tz::TimeZone;
use pbs_datastore::{
    Datastore, GroupRef, KeepOptions, PruneCandidate, PruneMark, SnapshotInfo, plan_prune,
};
use serde_json::{Value, json};

use super::call::{Call, CallResult, data};
use super::error::ApiError;
use super::rule::DELETE;
use super::target::{Opened, open, take_group};
use crate::daemon::Daemon;
use crate::tasks::{Task, TaskStart};

/// More would keep everything.
const KEEP_MAX: i64 = 1 << 31;

/// A snapshot with what is to become of it.
type Planned = (SnapshotInfo, PruneMark);

fn take_keep(call: &mut Call) -> Result<KeepOptions, ApiError> {
    let mut count = |name: &str| -> Result<Option<u64>, ApiError> {
        Ok(call
            .params
            .integer(name, 1..=KEEP_MAX)?
            .map(|count| count as u64))
    };
    Ok(KeepOptions {
        last: count("keep-last")?,
        hourly: count("keep-hourly")?,
        daily: count("keep-daily")?,
        weekly: count("keep-weekly")?,
        monthly: count("keep-monthly")?,
        yearly: count("keep-yearly")?,
    })
}

/// The answer lists every snapshot of the group, oldest first. With `use-task` it is the task's id instead.
pub(crate) async fn prune(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let group = take_group(&mut call.params)?;
    let keep = take_keep(&mut call)?;
    let dry_run = call.params.flag("dry-run")?.unwrap_or(false);
    let use_task = call.params.flag("use-task")?.unwrap_or(false);
    let opened = open(&daemon, &mut call, DELETE, &group.namespace)?;
    let user = call.who()?.id().clone();
    call.params.finish()?;
    opened.demand_group(&group).await?;
    let Opened { store, .. } = opened;
    let planned = plan(&store, &group, &keep).await?;
    if planned.is_empty() && store.snapshots().owner(&group).await?.is_none() {
        return Err(ApiError::bad_request(format!(
            "group {group} does not exist"
        )));
    }
    if dry_run {
        return data(&entries(&group, &planned));
    }
    store.snapshots().collectable()?;
    let name = store.name().as_str().to_owned();
    let work = daemon.shutdown.begin_work();
    let work = work.ok_or_else(|| ApiError::unavailable("the daemon is stopping"))?;
    let task = daemon.tasks.start(&TaskStart {
        kind: "prune",
        worker_id: &format!(
            "{name}:{}:{}/{}",
            group.namespace, group.group.kind, group.group.id
        ),
        user,
        store: Some(&name),
    })?;
    let upid = task.upid().to_string();
    let mut planned = planned;
    let running = daemon.env.spawn(async move {
        let _work = work;
        let result = remove(&store, &mut planned, &task).await;
        task.finish(result.clone()).await;
        result.map(|()| entries(&group, &planned))
    });
    if use_task {
        return data(&upid);
    }
    match running.await {
        Ok(Ok(answer)) => data(&answer),
        Ok(Err(fault)) => Err(ApiError::bad_request(fault)),
        Err(_) => Err(ApiError::bad_request("the prune task was cut off")),
    }
}

async fn plan(
    store: &Arc<Datastore>,
    group: &GroupRef,
    keep: &KeepOptions,
) -> Result<Vec<Planned>, ApiError> {
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

fn entries(group: &GroupRef, planned: &[Planned]) -> Value {
    let entry = |(info, mark): &Planned| {
        let mut entry = json!({
            "backup-type": group.group.kind,
            "backup-id": group.group.id,
            "backup-time": info.id.snapshot.time,
            "keep": mark.keeps(),
            "protected": info.protected,
        });
        if !group.namespace.is_root() {
            entry["ns"] = json!(group.namespace.to_string());
        }
        entry
    };
    planned.iter().map(entry).collect()
}

/// Removes what nothing keeps, oldest first. One that cannot be removed does not hold up the others. One that is in use
/// stays until the next time, and is marked as kept: that is a warning and no failure.
async fn remove(
    store: &Arc<Datastore>,
    planned: &mut [Planned],
    task: &Task,
) -> Result<(), String> {
    let mut failed = 0;
    for (info, mark) in planned.iter_mut() {
        let what = match mark {
            PruneMark::Keep(reason) => (*reason).to_owned(),
            PruneMark::Protected => "protected".to_owned(),
            PruneMark::KeepPartial => "keep, not finished".to_owned(),
            PruneMark::Remove => "remove".to_owned(),
        };
        task.log(format!("{}: {what}", info.id));
        if mark.keeps() {
            continue;
        }
        match store.snapshots().delete(&info.id).await {
            Ok(()) => {}
            Err(error @ pbs_datastore::Error::Busy(_)) => {
                task.warn(format!("{} is kept this time: {error}", info.id));
                *mark = PruneMark::Keep("in use");
            }
            Err(error) => {
                failed += 1;
                task.warn(format!("{} was not removed: {error}", info.id));
            }
        }
    }
    match failed {
        0 => Ok(()),
        count => Err(format!(
            "{count} snapshots could not be removed; see the task's log"
        )),
    }
}
