//! All tasks, running and finished.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use jiff::tz::TimeZone;
use tokio::sync::watch;

use super::TaskInfo;
use super::append::{AppendFile, Snapshot};
use super::handle::Task;
use super::index::{FINISHED_MAX, IndexLine, forget_oldest, log_path, read_index};
use super::list::TaskFilter;
use super::log::{End, LogPage, TaskLog};
use super::upid::{TaskKey, Upid};
use crate::api::ApiError;
use crate::auth::AuthId;
use crate::clock::Clock;

/// Most tasks that run at once.
pub(crate) const ACTIVE_MAX: usize = 1024;
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
pub(super) struct ActiveTask {
    pub(super) upid: Arc<Upid>,
    store: Option<String>,
    pub(super) log: TaskLog,
    pub(super) abort: watch::Sender<bool>,
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
    /// Those of `finished` whose end nobody saw, until somebody listens.
    cut_off: Vec<TaskInfo>,
}

/// Who is told of each task that has ended.
struct Listener(Box<dyn Fn(TaskInfo) + Send + Sync>);

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Listener")
    }
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
    listener: OnceLock<Listener>,
    tasks: Mutex<Tasks>,
    index: Arc<AppendFile>,
    index_lines: AtomicUsize,
}

/// All tasks; clones share them.
#[derive(Debug, Clone)]
pub(crate) struct TaskRegistry(Arc<Inner>);

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
        let (finished, cut_off) = read_index(&text, dir, clock.unix_seconds());
        let mut tasks = Tasks {
            finished,
            cut_off,
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
            listener: OnceLock::new(),
            tasks: Mutex::new(tasks),
            // Behind what is there already, should it not be replaced now.
            index: Arc::new(AppendFile::new(index.clone(), text.len() as u64)),
            index_lines: AtomicUsize::new(0),
            dir: dir.to_owned(),
        }));
        registry.remove_logs(&dropped);
        if let Err(error) = registry.write_index() {
            // Backups and restores need no list of tasks.
            tracing::error!(path = %index.display(), %error, "the list of tasks cannot be written; it goes on growing");
        }
        Ok(registry)
    }

    /// From now on `told` is called with each task that has ended, and at once with those that the last process left without an end.
    /// The first caller stays the only one.
    pub(crate) fn listen(&self, told: Box<dyn Fn(TaskInfo) + Send + Sync>) {
        drop(self.0.listener.set(Listener(told)));
        let cut_off = std::mem::take(&mut self.lock().cut_off);
        if let Some(Listener(told)) = self.0.listener.get() {
            cut_off.into_iter().for_each(told);
        }
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
        Ok(Task::new(active, self.clone()))
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
    pub(super) fn retire(&self, active: &ActiveTask, end: End) {
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
        self.0.index.flush_logged();
        if self.0.index_lines.load(Ordering::Relaxed) > INDEX_LINES_MAX
            && let Err(error) = self.write_index()
        {
            tracing::error!(%error, "cannot write the index of tasks");
        }
        if let Some(Listener(told)) = self.0.listener.get() {
            told(info);
        }
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// Writes what waits, as the blocking pool would.
    #[cfg(test)]
    pub(super) fn flush_now(&self) {
        for task in self.lock().active.values() {
            task.log.flush();
        }
        self.0.index.flush_logged();
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
