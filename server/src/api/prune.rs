//! `POST /admin/datastore/{store}/prune` and `prune-datastore`: remove the snapshots that no rule keeps, or show which.

use std::sync::Arc;

use pbs_datastore::{GroupRef, KeepOptions, NAMESPACE_DEPTH_MAX};
use serde_json::{Value, json};

use super::call::{Call, CallResult, data};
use super::error::ApiError;
use super::params::Params;
use super::rule::DELETE;
use super::shape::{Shape, always, maybe};
use super::target::{Opened, open, open_to_look, take_depth, take_group, take_namespace};
use crate::config::KEEP_MAX;
use crate::daemon::Daemon;
use crate::jobs::Scope;
use crate::jobs::prune::{Planned, PruneRequest, plan, start_group, start_tree};

/// What becomes of a snapshot, and why; or the task that does it.
pub(super) const PRUNED: Shape = Shape::Either(&[Shape::Upid, Shape::List(&MARK)]);
const MARK: Shape = Shape::Object(&[&[
    always("backup-type", Shape::Text),
    always("backup-id", Shape::Text),
    always("backup-time", Shape::Integer),
    always("keep", Shape::Flag),
    always("protected", Shape::Flag),
    always("reason", Shape::Text),
    maybe("ns", Shape::Text),
]]);

fn take_keep(params: &mut Params) -> Result<KeepOptions, ApiError> {
    let mut count = |name: &str| -> Result<Option<u64>, ApiError> {
        let count = params.integer(name, 1..=KEEP_MAX as i64)?;
        Ok(count.map(|count| count as u64))
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

/// `POST …/prune`: one group. The answer lists every snapshot of it, oldest first, and why it stays; with `use-task` it is
/// the task's id instead.
pub(crate) async fn prune(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let group = take_group(&mut call.params)?;
    let keep = take_keep(&mut call.params)?;
    let dry_run = call.params.flag("dry-run")?.unwrap_or(false);
    let use_task = call.params.flag("use-task")?.unwrap_or(false);
    let opening = if dry_run { open_to_look } else { open };
    let opened = opening(&daemon, &mut call, DELETE, &group.namespace)?;
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
    let launched = start_group(&daemon, store, &group, planned, user)?;
    if use_task {
        return data(&launched.upid);
    }
    data(&entries(&group, &launched.result().await?))
}

/// `POST …/prune-datastore`: all groups of a namespace and those below it, as far as the caller reaches. Answers the task's
/// id.
pub(crate) async fn prune_datastore(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let namespace = take_namespace(&mut call.params)?;
    let depth = take_depth(&mut call.params)?.unwrap_or(NAMESPACE_DEPTH_MAX);
    let keep = take_keep(&mut call.params)?;
    let dry_run = call.params.flag("dry-run")?.unwrap_or(false);
    let opening = if dry_run { open_to_look } else { open };
    let Opened { store, .. } = opening(&daemon, &mut call, DELETE, &namespace)?;
    let who = call.who()?.clone();
    call.params.finish()?;
    if !dry_run {
        store.snapshots().collectable()?;
    }
    let request = PruneRequest {
        namespace,
        depth,
        keep,
        scope: Scope::Of(who.clone(), DELETE),
        dry_run,
    };
    data(&start_tree(&daemon, store, request, who.id().clone())?)
}

fn entries(group: &GroupRef, planned: &[Planned]) -> Value {
    let entry = |(info, mark): &Planned| {
        let mut entry = json!({
            "backup-type": group.group.kind,
            "backup-id": group.group.id,
            "backup-time": info.id.snapshot.time,
            "keep": mark.keeps(),
            "protected": info.protected,
            "reason": mark.reason(),
        });
        if !group.namespace.is_root() {
            entry["ns"] = json!(group.namespace.to_string());
        }
        entry
    };
    planned.iter().map(entry).collect()
}
