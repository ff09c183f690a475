//! `/nodes/{node}/tasks`: list, status, log, stop.
//!
//! A task is visible to its user (a user also owns the tasks of the own tokens), to whoever has `Sys.Audit` on
//! `/system/tasks`, and to those who could have started it. It is stopped by its user, or with `Sys.Modify`.

use std::sync::Arc;

use super::call::{Answer, Call, CallResult, done};
use super::error::ApiError;
use super::parameter::{NODE, Parameter, count, flag, text};
use super::params::Params;
use super::rule::{AUDIT, require};
use crate::auth::{AclPath, AuthId, Principal, Privilege};
use crate::daemon::Daemon;
use crate::tasks::{
    TaskFilter, TaskInfo, Upid, download_name, list_reply, log_reply, status_reply,
};

/// What names a task.
pub(super) const ONE: &[Parameter] = &[NODE, text("upid", "The id of the task").required()];
/// Which lines of a log are asked for, and how.
pub(super) const LINES: &[Parameter] = &[
    count("start", "How many lines to skip"),
    count(
        "limit",
        "How many lines at most, 0 for all; 50 if it is left out",
    ),
    flag("test-status", "Tell beside the lines whether the task runs"),
    flag("download", "The whole log, as a file"),
];

/// Whether `who` may see every task of `owner`.
fn sees_all_of(daemon: &Daemon, who: &Principal, owner: &AuthId) -> bool {
    let tasks = AclPath::tasks();
    who.owns(owner) || daemon.authority.allowed(who, &tasks, Privilege::SysAudit)
}

/// Whether `who` may see `task`.
fn sees(daemon: &Daemon, who: &Principal, task: &TaskInfo) -> bool {
    let authority = &daemon.authority;
    if sees_all_of(daemon, who, task.upid.auth_id()) {
        return true;
    }
    let starter = match task.upid.kind() {
        "garbage_collection" | "prune" | "prunejob" | "s3-refresh" | "sync" | "syncjob"
        | "move-group" | "move-namespace" => Privilege::DatastoreModify,
        "verify" | "verify_group" | "verify_snapshot" | "verificationjob" => {
            Privilege::DatastoreVerify
        }
        _ => return false,
    };
    let store = task.store.as_deref();
    store.is_some_and(|store| authority.allowed(who, &AclPath::datastore(store), starter))
}

fn take_upid(params: &mut Params) -> Result<Upid, ApiError> {
    params.ignore(&["node"]);
    params.required("upid")
}

/// A task that `who` may see; others do not learn whether it exists.
fn visible(daemon: &Daemon, who: &Principal, upid: &Upid) -> Result<TaskInfo, ApiError> {
    match daemon.tasks.find(upid) {
        Ok(task) if sees(daemon, who, &task) => Ok(task),
        Err(error) if sees_all_of(daemon, who, upid.auth_id()) => Err(error.into()),
        _ => Err(ApiError::forbidden(
            "permission check failed: there is no such task, or it belongs to somebody else",
        )),
    }
}

/// `GET /nodes/{node}/tasks`
pub(crate) async fn list(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    call.params.ignore(&["node"]);
    let filter = TaskFilter::take(&mut call.params)?;
    let who = call.who()?.clone();
    call.params.finish()?;
    // Whoever may audit a datastore may see all that was done to it.
    let audits = filter
        .store
        .as_deref()
        .is_some_and(|store| AUDIT.check(&daemon.authority, &who, store, "").is_ok());
    let (page, total) = daemon
        .tasks
        .list(&filter, |task| audits || sees(&daemon, &who, task));
    Ok(list_reply(&page, total)?.into())
}

/// `GET /nodes/{node}/tasks/{upid}/status`
pub(crate) async fn status(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let upid = take_upid(&mut call.params)?;
    let task = visible(&daemon, call.who()?, &upid)?;
    call.params.finish()?;
    Ok(status_reply(&task)?.into())
}

/// `GET /nodes/{node}/tasks/{upid}/log`
pub(crate) async fn log(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let upid = take_upid(&mut call.params)?;
    let task = visible(&daemon, call.who()?, &upid)?;
    let params = &mut call.params;
    let start = params.integer("start", 0..=i64::MAX)?.unwrap_or(0);
    let limit = params.integer("limit", 0..=i64::MAX)?.unwrap_or(50);
    let test_status = params.flag("test-status")?.unwrap_or(false);
    let download = params.flag("download")?.unwrap_or(false);
    call.params.finish()?;
    if download {
        return Ok(Answer::Text {
            name: download_name(&task.upid),
            text: daemon.tasks.log_text(&upid).await?,
        });
    }
    let page = daemon
        .tasks
        .log_page(&upid, start as u64, limit as u64)
        .await?;
    Ok(log_reply(&page, test_status)?.into())
}

/// `DELETE /nodes/{node}/tasks/{upid}`: asks it to stop; one that has ended is left alone.
pub(crate) async fn stop(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let upid = take_upid(&mut call.params)?;
    let who = call.who()?;
    if !who.owns(upid.auth_id()) {
        let (path, needed) = (AclPath::tasks(), [Privilege::SysModify]);
        require(&daemon.authority, who, &path, &needed)?;
    }
    call.params.finish()?;
    daemon.tasks.abort(&upid)?;
    done()
}
