//! `POST /admin/datastore/{store}/verify`: reads snapshots back.

use std::sync::Arc;

use pbs_datastore::{BackupGroup, VerifyFilter, VerifyLimits};
use pbs_datastore::{BackupId, BackupTime, BackupType, GroupRef, NAMESPACE_DEPTH_MAX};

use super::call::{Call, CallResult, data};
use super::error::ApiError;
use super::parameter::{Parameter, count, flag, ignored, integer, size};
use super::rule::VERIFY;
use super::target::{open, take_depth, take_namespace};
use crate::config::{ByteCount, OUTDATED_AFTER_MAX, SAMPLE_MAX, unless_zero};
use crate::daemon::Daemon;
use crate::jobs::Scope;
use crate::jobs::verify::{VerifyRequest, start};

const fn days(name: &'static str, about: &'static str) -> Parameter {
    integer(name, 0, OUTDATED_AFTER_MAX as i64, about)
}

/// What a verification passes over, and how much it reads: of a call and of a job.
pub(super) const LIMITS: &[Parameter] = &[
    flag(
        "ignore-verified",
        "Pass over what was verified and is not outdated",
    ),
    days(
        "outdated-after",
        "After how many days a verification counts no more",
    ),
    days(
        "reread-after",
        "After how many days a chunk that was found good is read again; 0 is always",
    ),
    size(
        "bytes-max",
        "How much of chunks is read at most; 0 for no limit",
    ),
    count(
        "requests-max",
        "How many chunks are read at most; 0 for no limit",
    ),
    integer(
        "sample",
        0,
        SAMPLE_MAX as i64,
        "How many of 100 chunks are read",
    ),
    // How many threads read and compute is this daemon's own matter.
    ignored("read-threads"),
    ignored("verify-threads"),
];

/// `POST …/verify`: one snapshot, one group, or all groups of a namespace and those below it, as far as the caller reaches.
/// Answers the task's id. With `estimate` its log says what would be asked of the bucket, and that is all.
pub(crate) async fn verify(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let params = &mut call.params;
    let namespace = take_namespace(params)?;
    let kind: Option<BackupType> = params.optional("backup-type")?;
    let id: Option<BackupId> = params.optional("backup-id")?;
    let seconds = params.integer("backup-time", 1..=i64::MAX)?;
    let filter = VerifyFilter {
        ignore_verified: params.flag("ignore-verified")?.unwrap_or(true),
        outdated_after: params
            .integer("outdated-after", 0..=OUTDATED_AFTER_MAX as i64)?
            .map(|days| days as u64),
    };
    let reread_after = params.integer("reread-after", 0..=OUTDATED_AFTER_MAX as i64)?;
    let bytes_max: Option<ByteCount> = params.optional("bytes-max")?;
    let requests_max = params.integer("requests-max", 0..=i64::MAX)?;
    let sample = params.integer("sample", 0..=SAMPLE_MAX as i64)?;
    let estimate = params.flag("estimate")?.unwrap_or(false);
    let depth = take_depth(params)?.unwrap_or(NAMESPACE_DEPTH_MAX);
    params.ignore(&["read-threads", "verify-threads"]);
    let opened = open(&daemon, &mut call, VERIFY, &namespace)?;
    let who = call.who()?.clone();
    call.params.finish()?;
    let group = match (kind, id) {
        (Some(kind), Some(id)) => Some(BackupGroup::new(kind, id)),
        (None, None) if seconds.is_none() => None,
        _ => {
            return Err(ApiError::bad_request(
                "parameter verification failed: a group is named by 'backup-type' and 'backup-id', a snapshot by 'backup-time' too",
            ));
        }
    };
    let time = seconds.map(BackupTime::new).transpose();
    let time = time.map_err(|error| {
        ApiError::bad_request(format!(
            "parameter verification failed: 'backup-time': {error}"
        ))
    })?;
    if let Some(group) = &group {
        let group = GroupRef::new(namespace.clone(), group.clone());
        opened.demand_group(&group).await?;
        let snapshots = opened.store.snapshots();
        match time {
            Some(time) => drop(snapshots.snapshot(&group.at(time)).await?),
            None if snapshots.group_info(group.clone()).await?.is_none() => {
                return Err(ApiError::bad_request(format!(
                    "group {group} does not exist"
                )));
            }
            None => {}
        }
    }
    let request = VerifyRequest {
        namespace,
        depth,
        group,
        time,
        filter,
        limits: VerifyLimits {
            bytes_max: bytes_max.and_then(|max| unless_zero(max.get())),
            chunks_max: requests_max.and_then(|max| unless_zero(max as u64)),
        },
        reread_after: reread_after.and_then(|days| unless_zero(days as u64)),
        sample: sample.map_or(SAMPLE_MAX, |percent| percent as u64),
        scope: Scope::Of(who.clone(), VERIFY),
        estimate,
    };
    data(&start(&daemon, opened.store, request, who.id().clone())?)
}
