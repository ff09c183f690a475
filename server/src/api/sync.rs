//! `/pull` and `/push`: a sync that no job is configured for.

use std::sync::Arc;

use serde_json::json;

use super::call::{Call, CallResult, data};
use super::error::ApiError;
use super::jobs::{COPY, Extent, HERE, demand};
use super::settings::Settings;
use crate::config::{SyncDirection, SyncJob};
use crate::daemon::Daemon;
use crate::jobs::{JobKind, sync};

/// `POST /pull`: answers the task's id. New groups become the caller's.
pub(crate) async fn pull(daemon: Arc<Daemon>, call: Call) -> CallResult {
    run(&daemon, call, SyncDirection::Pull)
}

/// `POST /push`: answers the task's id.
pub(crate) async fn push(daemon: Arc<Daemon>, call: Call) -> CallResult {
    run(&daemon, call, SyncDirection::Push)
}

fn run(daemon: &Arc<Daemon>, mut call: Call, direction: SyncDirection) -> CallResult {
    let estimate = call.params.flag("estimate")?.unwrap_or(false);
    let mut settings = Settings::take(&mut call.params, &[HERE, COPY])?;
    let who = call.who()?.clone();
    settings.add("owner", who.id().to_string());
    settings.add("sync-direction", direction.name());
    call.params.finish()?;
    let asked = settings.over(json!({}), &[]);
    demand(daemon, &who, JobKind::Sync, &asked, Extent::Whole)?;
    let job = SyncJob::of(settings.table()).map_err(|fault| {
        ApiError::bad_request(format!("parameter verification failed: {fault}"))
    })?;
    data(&sync::start(daemon, &job, who.id().clone(), estimate)?)
}
