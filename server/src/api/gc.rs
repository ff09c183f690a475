//! `/admin/datastore/{store}/gc`: start garbage collection, and see what the last one did.

use std::sync::Arc;

use pbs_datastore::{GcStatus, Namespace};
use serde_json::{Value, json};

use super::call::{Call, CallResult, data};
use super::error::ApiError;
use super::jobs::{RUN, describe_run};
use super::rule::{AUDIT, MODIFY};
use super::shape::{Member, Shape, always, maybe};
use super::target::{Opened, open};
use crate::daemon::Daemon;
use crate::jobs::gc::{self, GcKind};
use crate::jobs::{JobKind, PlannedJob};

/// The status as clients know it.
pub(super) const STATUS: &[Member] = &[
    maybe("upid", Shape::Upid),
    always("index-file-count", Shape::Integer),
    always("index-data-bytes", Shape::Integer),
    always("disk-bytes", Shape::Integer),
    always("disk-chunks", Shape::Integer),
    always("removed-bytes", Shape::Integer),
    always("removed-chunks", Shape::Integer),
    always("pending-bytes", Shape::Integer),
    always("pending-chunks", Shape::Integer),
    always("removed-bad", Shape::Integer),
    always("still-bad", Shape::Integer),
    always("missing-chunks", Shape::Integer),
    always("refused-chunks", Shape::Integer),
    always("unknown-chunks", Shape::Integer),
    always("rescued-chunks", Shape::Integer),
    maybe(
        "cache-stats",
        Shape::Object(&[&[
            always("hits", Shape::Integer),
            always("misses", Shape::Integer),
        ]]),
    ),
    maybe("held-back-by", Shape::Text),
    maybe("held-back-since", Shape::Integer),
    maybe("requests", Shape::Map(&Shape::Integer)),
];
/// The same, with the collection as a job.
pub(super) const JOB: Shape = Shape::Object(&[
    STATUS,
    &[always("store", Shape::Text), maybe("schedule", Shape::Text)],
    RUN,
]);

/// `POST …/gc`: answers the task's id; the collection goes on in the background. With `dry-run` nothing is deleted; with
/// `estimate` its log says what the collection would ask of the bucket, and that is all.
pub(crate) async fn start(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let dry_run = call.params.flag("dry-run")?.unwrap_or(false);
    let kind = match call.params.flag("estimate")?.unwrap_or(false) {
        true => GcKind::Estimate,
        false if dry_run => GcKind::Dry,
        false => GcKind::Whole,
    };
    let Opened { store, .. } = open(&daemon, &mut call, MODIFY, &Namespace::root())?;
    let user = call.who()?.id().clone();
    call.params.finish()?;
    data(&gc::start(&daemon, store.name().as_str(), &user, kind)?)
}

/// `GET …/gc`: the last status, with how its task ended beside it.
pub(crate) async fn status(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let Opened { store, .. } = open(&daemon, &mut call, AUDIT, &Namespace::root())?;
    call.params.finish()?;
    let status = store.gc_status().unwrap_or_default();
    let mut body = to_json(&status)?;
    body["store"] = json!(store.name().as_str());
    let config = daemon.config.read();
    let jobs = PlannedJob::of_kind(&config, JobKind::Gc);
    if let Some(job) = jobs.iter().find(|job| job.store == store.name().as_str()) {
        let schedule = job.schedule.as_ref();
        if let Some(schedule) = schedule {
            body["schedule"] = json!(schedule.to_string());
        }
        describe_run(&daemon, job, &mut body);
    }
    data(&body)
}

/// The status as clients know it.
pub(crate) fn to_json(status: &GcStatus) -> Result<Value, ApiError> {
    serde_json::to_value(status).map_err(|error| {
        tracing::error!(%error, "a status cannot be written as JSON");
        ApiError::internal("the status cannot be written as JSON")
    })
}
