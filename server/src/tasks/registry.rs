//! All tasks, running and finished, and the handles of those that run.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::TaskInfo;
use super::append::{AppendFile, Snapshot, run_blocking};
use super::list::TaskFilter;
use super::log::{End, LogPage, TaskLog};
use super::outcome::Outcome;
use super::upid::{TaskKey, Upid};
use crate::api::ApiError;
use crate::auth::AuthId;
use crate::clock::Clock;

/// Most tasks that run at once.
pub(crate) const ACTIVE_MAX: usize = 1024;
/// Most finished tasks that are remembered.
pub(crate) const FINISHED_MAX: usize = 10_000;
/// Lines added to the index before it is written anew.
const INDEX_LINES_MAX: usize = 4 * FINISHED_MAX;

/// Why a task cannot be started or found.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TaskError {
    /// [`ACTIVE_MAX`] tasks run already.
    #[error("too many tasks are running, try again later")]
    TooMany,
    /// The parts make no task id.
    #[error(transparent)]
    Name(#[from] super::UpidError),
    /// No such task, or not any more.
    #[error("there is no task '{0}'")]
    NotFound(String),
    /// A file of the task directory cannot be read or written.
    #[error("cannot read or write '{}': {source}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
}

impl From<TaskError> for ApiError {
    fn from(error: TaskError) -> Self {
        let text = error.to_string();
        match error {
            TaskError::TooMany => Self::unavailable(text),
            TaskError::Name(_) | TaskError::NotFound(_) => Self::bad_request(text),
            TaskError::File { .. } => Self::internal(text),
        }
    }
}

/// What is started.
#[derive(Debug, Clone)]
pub(crate) struct TaskStart<'a> {
    /// The worker type, such as `backup`.
    pub(crate) kind: &'a str,
    /// What it is about, such as `store1:host/a`; empty for none.
    pub(crate) worker_id: &'a str,
    /// Who started it.
    pub(crate) user: AuthId,
    /// The datastore to list it under, if any.
    pub(crate) store: Option<&'a str>,
}

#[derive(Debug)]
struct ActiveTask {
    upid: Arc<Upid>,
    store: Option<String>,
    log: TaskLog,
    abort: watch::Sender<bool>,
}

impl ActiveTask {
    fn info(&self) -> TaskInfo {
        TaskInfo {
            upid: self.upid.clone(),
            store: self.store.clone(),
            end: self.log.ended().map(|end| (end.time, end.outcome)),
        }
    }
}

#[derive(Debug, Default)]
struct Tasks {
    active: BTreeMap<TaskKey, Arc<ActiveTask>>,
    finished: BTreeMap<TaskKey, TaskInfo>,
}

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    node: String,
    pid: u32,
    pstart: u64,
    clock: Clock,
    zone: TimeZone,
    next_id: AtomicU64,
    tasks: Mutex<Tasks>,
    index: Arc<AppendFile>,
    index_lines: AtomicUsize,
}

/// All tasks; clones share them.
#[derive(Debug, Clone)]
pub(crate) struct TaskRegistry(Arc<Inner>);

/// A line of the index: without an end the task has started, with one it has ended.
#[derive(Debug, Serialize, Deserialize)]
struct IndexLine {
    upid: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    store: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    endtime: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    status: Option<String>,
}

impl IndexLine {
    fn of(task: &TaskInfo) -> Vec<u8> {
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

impl TaskRegistry {
    /// The tasks kept in `dir`, which is made if it is missing. Tasks without an end get an unknown one. `hostname` goes
    /// into the names of new tasks. Blocks.
    pub(crate) fn open(dir: &Path, hostname: &str, clock: Clock) -> Result<Self, TaskError> {
        let fault = |path: &Path, source| TaskError::File {
            path: path.to_owned(),
            source,
        };
        std::fs::create_dir_all(dir).map_err(|source| fault(dir, source))?;
        let index = dir.join("index");
        let text = match std::fs::read(&index) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(source) => return Err(fault(&index, source)),
        };
        let mut tasks = Tasks {
            finished: read_index(&text, dir, clock.unix_seconds()),
            active: BTreeMap::new(),
        };
        let dropped = forget_oldest(&mut tasks.finished);
        let registry = Self(Arc::new(Inner {
            node: node_label(hostname),
            pid: std::process::id(),
            pstart: process_start(),
            clock,
            zone: TimeZone::system(),
            next_id: AtomicU64::new(1),
            tasks: Mutex::new(tasks),
            index: Arc::new(AppendFile::new(index.clone(), 0)),
            index_lines: AtomicUsize::new(0),
            dir: dir.to_owned(),
        }));
        registry.remove_logs(&dropped);
        registry
            .write_index()
            .map_err(|source| fault(&index, source))?;
        Ok(registry)
    }

    /// Starts a task. Does not wait for the disk.
    pub(crate) fn start(&self, start: &TaskStart<'_>) -> Result<Task, TaskError> {
        let inner = &self.0;
        let key = TaskKey {
            start_time: inner.clock.unix_seconds(),
            task_id: inner.next_id.fetch_add(1, Ordering::Relaxed),
            pid: inner.pid,
            pstart: inner.pstart,
        };
        let user = start.user.clone();
        let upid = Upid::new(&inner.node, key, start.kind, start.worker_id, user)?;
        let file = AppendFile::new(log_path(&inner.dir, key), 0);
        let active = Arc::new(ActiveTask {
            upid: Arc::new(upid),
            store: start.store.map(str::to_owned),
            log: TaskLog::new(Arc::new(file), inner.zone.clone()),
            abort: watch::Sender::new(false),
        });
        {
            let mut tasks = self.lock();
            if tasks.active.len() >= ACTIVE_MAX {
                return Err(TaskError::TooMany);
            }
            tasks.active.insert(key, active.clone());
        }
        self.append_index(&active.info());
        Ok(Task {
            active,
            registry: self.clone(),
            ended: false,
        })
    }

    /// The tasks that `filter` asks for and `visible` admits, newest first: the page, and the number of all of them.
    pub(crate) fn list(
        &self,
        filter: &TaskFilter,
        visible: impl Fn(&TaskInfo) -> bool,
    ) -> (Vec<TaskInfo>, usize) {
        let mut all: BTreeMap<TaskKey, TaskInfo> = BTreeMap::new();
        {
            let tasks = self.lock();
            let finished = tasks
                .finished
                .iter()
                .filter(|(_, task)| filter.admits(task));
            all.extend(finished.map(|(key, task)| (*key, task.clone())));
            let active = tasks.active.iter().map(|(key, task)| (*key, task.info()));
            all.extend(active.filter(|(_, task)| filter.admits(task)));
        }
        let mut all: Vec<TaskInfo> = all.into_values().rev().filter(visible).collect();
        let total = all.len();
        let end = if filter.limit == 0 {
            total
        } else {
            filter.start.saturating_add(filter.limit).min(total)
        };
        let page = all.drain(filter.start.min(end)..end).collect();
        (page, total)
    }

    /// One task as it is now.
    pub(crate) fn find(&self, upid: &Upid) -> Result<TaskInfo, TaskError> {
        let tasks = self.lock();
        let active = tasks.active.get(&upid.key()).map(|task| task.info());
        active
            .or_else(|| tasks.finished.get(&upid.key()).cloned())
            .filter(|task| *task.upid == *upid)
            .ok_or_else(|| TaskError::NotFound(upid.to_string()))
    }

    /// At most `limit` lines (0 for all) of a task's log from line `start` on; 0 counts as 1. Lines, total and whether
    /// the task is active are from one moment.
    pub(crate) async fn log_page(
        &self,
        upid: &Upid,
        start: u64,
        limit: u64,
    ) -> Result<LogPage, TaskError> {
        let (snapshot, active) = self.snapshot(upid)?;
        let read = move || LogPage::read(snapshot, active, start, limit);
        self.blocking_read(upid, read).await
    }

    /// The whole log as text, at most 17 MiB.
    pub(crate) async fn log_text(&self, upid: &Upid) -> Result<Vec<u8>, TaskError> {
        let (snapshot, _) = self.snapshot(upid)?;
        self.blocking_read(upid, move || snapshot.read()).await
    }

    fn snapshot(&self, upid: &Upid) -> Result<(Snapshot, bool), TaskError> {
        self.find(upid)?;
        let active = self.lock().active.get(&upid.key()).cloned();
        Ok(active.map_or_else(
            || {
                let path = log_path(&self.0.dir, upid.key());
                (Snapshot::of_file(&path), false)
            },
            |active| active.log.snapshot(),
        ))
    }

    async fn blocking_read<T: Send + 'static>(
        &self,
        upid: &Upid,
        read: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Result<T, TaskError> {
        let fault = |source| TaskError::File {
            path: log_path(&self.0.dir, upid.key()),
            source,
        };
        tokio::task::spawn_blocking(read)
            .await
            .map_err(|error| fault(io::Error::other(error)))?
            .map_err(fault)
    }

    /// Asks a task to stop; one that has ended is left alone.
    pub(crate) fn abort(&self, upid: &Upid) -> Result<(), TaskError> {
        self.find(upid)?;
        if let Some(task) = self.lock().active.get(&upid.key()) {
            task.abort.send_replace(true);
        }
        Ok(())
    }

    /// Asks all tasks to stop.
    pub(crate) fn abort_all(&self) {
        for task in self.lock().active.values() {
            task.abort.send_replace(true);
        }
    }

    /// How many tasks run.
    pub(crate) fn active_count(&self) -> usize {
        self.lock().active.len()
    }

    /// Steps 2 to 4 of an end. Blocks.
    fn retire(&self, active: &ActiveTask, end: End) {
        active.log.flush();
        let info = TaskInfo {
            upid: active.upid.clone(),
            store: active.store.clone(),
            end: Some((end.time, end.outcome)),
        };
        let key = info.upid.key();
        let dropped = {
            let mut tasks = self.lock();
            tasks.finished.insert(key, info.clone());
            tasks.active.remove(&key);
            forget_oldest(&mut tasks.finished)
        };
        self.remove_logs(&dropped);
        self.append_index(&info);
        if self.0.index_lines.load(Ordering::Relaxed) > INDEX_LINES_MAX
            && let Err(error) = self.write_index()
        {
            tracing::error!(%error, "cannot write the index of tasks");
        }
    }

    fn append_index(&self, task: &TaskInfo) {
        self.0.index_lines.fetch_add(1, Ordering::Relaxed);
        if !self.0.index.append(&IndexLine::of(task)) {
            tracing::error!(upid = %task.upid, "the index of tasks cannot be written, a task is not recorded");
        }
    }

    /// Writes the index anew with what is remembered. Blocks.
    fn write_index(&self) -> io::Result<()> {
        self.0.index_lines.store(0, Ordering::Relaxed);
        self.0.index.replace(|| {
            let tasks = self.lock();
            let active = tasks.active.values().map(|task| task.info());
            let all = tasks.finished.values().cloned().chain(active);
            all.flat_map(|task| IndexLine::of(&task)).collect()
        })
    }

    fn remove_logs(&self, keys: &[TaskKey]) {
        for key in keys {
            let path = log_path(&self.0.dir, *key);
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(path = %path.display(), %error, "cannot remove an old task log");
                }
                _ => {}
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Tasks> {
        self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running task. Dropped without [`finish`](Self::finish) it ends with an error.
#[derive(Debug)]
#[must_use = "a task that is dropped ends with an error"]
pub(crate) struct Task {
    active: Arc<ActiveTask>,
    registry: TaskRegistry,
    ended: bool,
}

impl Task {
    /// The task's name.
    pub(crate) fn upid(&self) -> &Upid {
        &self.active.upid
    }

    /// A handle that writes to the log.
    pub(crate) fn logger(&self) -> TaskLogger {
        TaskLogger {
            active: self.active.clone(),
            clock: self.registry.0.clock.clone(),
        }
    }

    /// Adds a line to the log.
    pub(crate) fn log(&self, message: impl Display) {
        self.logger().log(message);
    }

    /// Adds a line to the log that counts as a warning.
    pub(crate) fn warn(&self, message: impl Display) {
        self.logger().warn(message);
    }

    /// The request to stop.
    pub(crate) fn abort_signal(&self) -> AbortSignal {
        AbortSignal(self.active.abort.subscribe())
    }

    /// Ends the task: `OK`, `WARNINGS: n` if there were any, or the error. Returns when log and index are written.
    pub(crate) async fn finish(mut self, result: Result<(), String>) -> Outcome {
        self.ended = true;
        let end = self.active.log.end(self.registry.0.clock.now(), result);
        let (registry, active) = (self.registry.clone(), self.active.clone());
        let outcome = end.outcome.clone();
        let written = tokio::task::spawn_blocking(move || registry.retire(&active, end)).await;
        if let Err(error) = written {
            tracing::error!(%error, upid = %self.active.upid, "a task could not be recorded");
        }
        outcome
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let result = Err("the task was cut off".to_owned());
        let end = self.active.log.end(self.registry.0.clock.now(), result);
        let (registry, active) = (self.registry.clone(), self.active.clone());
        run_blocking(move || registry.retire(&active, end));
    }
}

/// Writes to the log of a task; lines after its end are dropped.
#[derive(Debug, Clone)]
pub(crate) struct TaskLogger {
    active: Arc<ActiveTask>,
    clock: Clock,
}

impl TaskLogger {
    /// Adds a line, or several if the message has several. Never waits for the disk.
    pub(crate) fn log(&self, message: impl Display) {
        self.active.log.add(self.clock.now(), &message);
    }

    /// Adds a line that counts as a warning.
    pub(crate) fn warn(&self, message: impl Display) {
        self.active.log.warn(self.clock.now(), &message);
    }
}

#[cfg(test)]
impl TaskLogger {
    /// Writes log and index as the blocking pool would have.
    pub(super) fn active_flush(&self, registry: &TaskRegistry) {
        self.active.log.flush();
        registry.0.index.flush_logged();
    }
}

/// The request to stop a task, for those who do its work.
#[derive(Debug, Clone)]
pub(crate) struct AbortSignal(watch::Receiver<bool>);

impl AbortSignal {
    /// Whether the task was asked to stop.
    pub(crate) fn is_aborted(&self) -> bool {
        *self.0.borrow()
    }

    /// Returns once the task is asked to stop; never if it ends without.
    pub(crate) async fn aborted(&mut self) {
        if self.0.wait_for(|aborted| *aborted).await.is_err() {
            // The task is gone, so nobody can ask any more.
            std::future::pending::<()>().await;
        }
    }
}

/// `log/XX/NAME.log`: the name is all hex, XX the last two digits of the start time, so no folder grows large.
fn log_path(dir: &Path, key: TaskKey) -> PathBuf {
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
/// `now`.
fn read_index(text: &[u8], dir: &Path, now: i64) -> BTreeMap<TaskKey, TaskInfo> {
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
    for (key, task) in &mut found {
        if task.end.is_none() {
            let last = last_written(&log_path(dir, *key)).unwrap_or(now);
            let time = last.clamp(key.start_time, now.max(key.start_time));
            task.end = Some((time, Outcome::Unknown));
        }
    }
    found
}

fn last_written(path: &Path) -> Option<i64> {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata(path).ok().map(|meta| meta.mtime())
}

fn forget_oldest(finished: &mut BTreeMap<TaskKey, TaskInfo>) -> Vec<TaskKey> {
    let mut dropped = Vec::new();
    while finished.len() > FINISHED_MAX
        && let Some((key, _)) = finished.pop_first()
    {
        dropped.push(key);
    }
    dropped
}

/// The first label of a host name, as far as it is one.
fn node_label(hostname: &str) -> String {
    let label: String = hostname
        .split('.')
        .next()
        .unwrap_or_default()
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || *c == '-')
        .take(63)
        .collect();
    if label.is_empty() {
        "localhost".into()
    } else {
        label
    }
}

/// When this process was started, in clock ticks since boot; 0 where the system does not say.
fn process_start() -> u64 {
    // Field 22; the second field is the program's name in parentheses and may contain anything.
    std::fs::read_to_string("/proc/self/stat")
        .ok()
        .and_then(|text| {
            let (_, fields) = text.rsplit_once(')')?;
            fields.split_whitespace().nth(19)?.parse().ok()
        })
        // Nine hex digits are what clients accept.
        .map_or(0, |ticks: u64| ticks & 0xf_ffff_ffff)
}
