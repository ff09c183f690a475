//! What the task directory remembers: the index of all tasks, and where their logs are.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::TaskInfo;
use super::outcome::Outcome;
use super::upid::{TaskKey, Upid};

/// Most finished tasks that are remembered.
pub(crate) const FINISHED_MAX: usize = 10_000;

/// A line of the index: without an end the task has started, with one it has ended.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct IndexLine {
    upid: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    store: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    endtime: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    status: Option<String>,
}

impl IndexLine {
    pub(super) fn of(task: &TaskInfo) -> Vec<u8> {
        let line = Self {
            upid: task.upid.to_string(),
            store: task.store.clone(),
            endtime: task.end.as_ref().map(|(time, _)| *time),
            status: task.end.as_ref().map(|(_, outcome)| outcome.to_string()),
        };
        let mut bytes = serde_json::to_vec(&line).expect("texts and numbers are valid JSON");
        bytes.push(b'\n');
        bytes
    }
}

/// `log/XX/NAME.log`: the name is all hex, XX the last two digits of the start time, so no folder grows large.
pub(super) fn log_path(dir: &Path, key: TaskKey) -> PathBuf {
    let TaskKey {
        start_time,
        task_id,
        pid,
        pstart,
    } = key;
    dir.join("log")
        .join(format!("{:02X}", start_time & 0xff))
        .join(format!(
            "{start_time:08X}-{task_id:X}-{pid:X}-{pstart:X}.log"
        ))
}

/// The remembered tasks of an index; those without an end get an unknown one, at the time of their last log line, or
/// `now`, and are answered once more by themselves.
pub(crate) fn read_index(
    text: &[u8],
    dir: &Path,
    now: i64,
) -> (BTreeMap<TaskKey, TaskInfo>, Vec<TaskInfo>) {
    let mut found: BTreeMap<TaskKey, TaskInfo> = BTreeMap::new();
    let mut damaged = 0;
    for line in text
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
    {
        let line = serde_json::from_slice::<IndexLine>(line).ok();
        let Some((line, upid)) = line.and_then(|line| {
            let upid: Upid = line.upid.parse().ok()?;
            Some((line, upid))
        }) else {
            damaged += 1;
            continue;
        };
        let end = line.endtime.map(|time| {
            (
                time,
                Outcome::read(line.status.as_deref().unwrap_or_default()),
            )
        });
        let key = upid.key();
        // An end is never undone by a start that was written later.
        if end.is_some() || !found.contains_key(&key) {
            let task = TaskInfo {
                upid: Arc::new(upid),
                store: line.store,
                end,
            };
            found.insert(key, task);
        }
    }
    if damaged > 0 {
        tracing::warn!(
            damaged,
            "lines of the index of tasks are damaged and left out"
        );
    }
    let mut cut_off = Vec::new();
    for (key, task) in &mut found {
        if task.end.is_none() {
            let last = last_written(&log_path(dir, *key)).unwrap_or(now);
            let time = last.clamp(key.start_time, now.max(key.start_time));
            task.end = Some((time, Outcome::Unknown));
            cut_off.push(task.clone());
        }
    }
    (found, cut_off)
}

fn last_written(path: &Path) -> Option<i64> {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata(path).ok().map(|meta| meta.mtime())
}

pub(super) fn forget_oldest(finished: &mut BTreeMap<TaskKey, TaskInfo>) -> Vec<TaskKey> {
    let mut dropped = Vec::new();
    while finished.len() > FINISHED_MAX
        && let Some((key, _)) = finished.pop_first()
    {
        dropped.push(key);
    }
    dropped
}
