//! Tasks as clients see them: filters of the list, and the JSON of list, status and log (`pbs-interface.md` 5.6).

use serde::Serialize;
use serde_json::json;

use super::log::LogPage;
use super::outcome::OutcomeKind;
use super::{TaskInfo, Upid};
use crate::api::parameter::{OF_STORE, Parameter, flag, integer, text, texts};
use crate::api::shape::{Member, Shape, always, maybe};
use crate::api::{ApiError, Params, Reply};
use crate::auth::AuthId;

/// Which tasks are asked for, newest first.
#[derive(Debug, Clone, Default)]
pub(crate) struct TaskFilter {
    /// Only tasks that run.
    pub(crate) running: bool,
    /// Only tasks that have failed.
    pub(crate) errors: bool,
    /// Only tasks of this datastore.
    pub(crate) store: Option<String>,
    /// Only tasks of this user and the user's tokens, of this token, or with this text in the id.
    pub(crate) user: Option<String>,
    /// Only tasks started at this time or later, in Unix seconds.
    pub(crate) since: Option<i64>,
    /// Only tasks started at this time or earlier, in Unix seconds.
    pub(crate) until: Option<i64>,
    /// Only tasks with this text in the worker type.
    pub(crate) kind: Option<String>,
    /// Only tasks that ended like one of these; empty for all.
    pub(crate) outcomes: Vec<OutcomeKind>,
    /// How many to skip.
    pub(crate) start: usize,
    /// How many to list at most, 0 for all. Clients that do not say get 50.
    pub(crate) limit: usize,
}

/// Most tasks that can be skipped or listed.
const COUNT_MAX: i64 = i32::MAX as i64;
/// Most outcomes of one filter.
const OUTCOMES_MAX: usize = 16;

/// The parameters that say which tasks are asked for.
pub(crate) const TASK_FILTER: &[Parameter] = &[
    flag("running", "Only tasks that run"),
    flag("errors", "Only tasks that have failed"),
    OF_STORE,
    text(
        "userfilter",
        "Only tasks of this user or API token, or with this text in their id",
    ),
    integer(
        "since",
        i64::MIN,
        i64::MAX,
        "Only tasks started at this time or later, in Unix seconds",
    ),
    integer(
        "until",
        i64::MIN,
        i64::MAX,
        "Only tasks started at this time or earlier, in Unix seconds",
    ),
    text("typefilter", "Only tasks with this text in their type"),
    texts(
        "statusfilter",
        OUTCOMES_MAX,
        "Only tasks that ended so: `ok`, `warning`, `error`, `unknown`",
    ),
    integer("start", 0, COUNT_MAX, "How many to skip"),
    integer(
        "limit",
        0,
        COUNT_MAX,
        "How many to list at most, 0 for all; 50 if it is left out",
    ),
];
/// A task of the list.
pub(crate) const LISTED_TASK: Shape = Shape::Object(&[&[
    always("upid", Shape::Upid),
    always("node", Shape::Text),
    always("pid", Shape::Integer),
    always("pstart", Shape::Integer),
    always("starttime", Shape::Integer),
    always("worker_type", Shape::Text),
    maybe("worker_id", Shape::Text),
    always("user", Shape::Text),
    maybe("endtime", Shape::Integer),
    maybe("status", Shape::Text),
]]);
/// How a task stands.
pub(crate) const TASK_STATUS: Shape = Shape::Object(&[&[
    always("upid", Shape::Upid),
    always("node", Shape::Text),
    always("pid", Shape::Integer),
    always("pstart", Shape::Integer),
    always("starttime", Shape::Integer),
    always("type", Shape::Text),
    always("id", Shape::Text),
    always("user", Shape::Text),
    always("status", Shape::Text),
    maybe("tokenid", Shape::Text),
    maybe("endtime", Shape::Integer),
    maybe("exitstatus", Shape::Text),
]]);
/// A line of a log.
pub(crate) const LOG_LINE: Shape =
    Shape::Object(&[&[always("n", Shape::Integer), always("t", Shape::Text)]]);
/// What stands beside the lines.
pub(crate) const BESIDE_LOG: &[Member] = &[
    always("success", Shape::Integer),
    always("total", Shape::Integer),
    maybe("active", Shape::Flag),
];

impl TaskFilter {
    /// Everything.
    #[cfg(test)]
    pub(crate) fn all() -> Self {
        Self::default()
    }

    /// Takes the filter out of a request's parameters.
    pub(crate) fn take(params: &mut Params) -> Result<Self, ApiError> {
        let count = |value: Option<i64>, default| value.map_or(default, |value| value as usize);
        let bounds = 0..=COUNT_MAX;
        Ok(Self {
            running: params.flag("running")?.unwrap_or(false),
            errors: params.flag("errors")?.unwrap_or(false),
            store: params.optional("store")?,
            user: params.optional("userfilter")?,
            since: params.integer("since", i64::MIN..=i64::MAX)?,
            until: params.integer("until", i64::MIN..=i64::MAX)?,
            kind: params.optional("typefilter")?,
            outcomes: params.list("statusfilter", OUTCOMES_MAX)?,
            start: count(params.integer("start", bounds.clone())?, 0),
            limit: count(params.integer("limit", bounds)?, 50),
        })
    }

    /// Whether `task` is asked for.
    pub(super) fn admits(&self, task: &TaskInfo) -> bool {
        let upid = &*task.upid;
        let ended = task.end.as_ref().map(|(_, outcome)| outcome.kind());
        let failed = matches!(ended, Some(OutcomeKind::Error | OutcomeKind::Unknown));
        (!self.running || ended.is_none())
            && (!self.errors || failed)
            && (self.outcomes.is_empty() || ended.is_some_and(|kind| self.outcomes.contains(&kind)))
            && (self.store.is_none() || self.store == task.store)
            && self
                .user
                .as_deref()
                .is_none_or(|text| admits_user(text, upid))
            && self.since.is_none_or(|since| upid.start_time() >= since)
            && self.until.is_none_or(|until| upid.start_time() <= until)
            && self
                .kind
                .as_deref()
                .is_none_or(|text| upid.kind().contains(text))
    }
}

fn admits_user(text: &str, upid: &Upid) -> bool {
    match text.parse::<AuthId>() {
        Ok(wanted) => upid.auth_id().is_owned_by(&wanted),
        Err(_) => upid.auth_id().to_string().contains(text),
    }
}

/// One element of the list.
#[derive(Serialize)]
struct ListEntry<'a> {
    upid: &'a Upid,
    node: &'static str,
    pid: u32,
    pstart: u64,
    starttime: i64,
    worker_type: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    worker_id: &'a str,
    user: &'a AuthId,
    #[serde(skip_serializing_if = "Option::is_none")]
    endtime: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<String>,
}

/// The answer of the list call: one page, and how many tasks there are in all.
pub(crate) fn list_reply(page: &[TaskInfo], total: usize) -> Result<Reply, ApiError> {
    let entries: Vec<ListEntry<'_>> = page
        .iter()
        .map(|task| ListEntry {
            upid: &task.upid,
            node: "localhost",
            pid: task.upid.pid(),
            pstart: task.upid.pstart(),
            starttime: task.upid.start_time(),
            worker_type: task.upid.kind(),
            worker_id: task.upid.worker_id(),
            user: task.upid.auth_id(),
            endtime: task.end.as_ref().map(|(time, _)| *time),
            status: task.end.as_ref().map(|(_, outcome)| outcome.to_string()),
        })
        .collect();
    Reply::new(&entries)?.with("total", &total)
}

/// The answer of the status call.
pub(crate) fn status_reply(task: &TaskInfo) -> Result<Reply, ApiError> {
    let upid = &*task.upid;
    let mut data = json!({
        "upid": upid,
        "node": upid.node(),
        "pid": upid.pid(),
        "pstart": upid.pstart(),
        "starttime": upid.start_time(),
        "type": upid.kind(),
        "id": upid.worker_id(),
        "user": upid.auth_id().user(),
        "status": if task.end.is_none() { "running" } else { "stopped" },
    });
    if let Some(token) = upid.auth_id().token() {
        data["tokenid"] = json!(token.name());
    }
    if let Some((time, outcome)) = &task.end {
        data["endtime"] = json!(time);
        data["exitstatus"] = json!(outcome.to_string());
    }
    Reply::new(&data)
}

/// The answer of the log call; `active` only if it was asked for with `test-status`.
pub(crate) fn log_reply(page: &LogPage, test_status: bool) -> Result<Reply, ApiError> {
    let lines: Vec<_> = (page.first..)
        .zip(&page.lines)
        .map(|(n, t)| json!({ "n": n, "t": t }))
        .collect();
    let reply = Reply::new(&lines)?
        .with("success", &1)?
        .with("total", &page.total)?;
    if test_status {
        reply.with("active", &page.active)
    } else {
        Ok(reply)
    }
}

/// The file name of a downloaded log.
pub(crate) fn download_name(upid: &Upid) -> String {
    let time = jiff::Timestamp::from_second(upid.start_time())
        .map_or_else(|_| String::new(), |time| time.to_string());
    format!("task-{}-{}-{time}.log", upid.node(), upid.kind())
}
