//! The sessions that are open: how many, whose, how lively, and how to end one from outside.
//!
//! A session ends for want of life in three ways. No request within [`FIRST_REQUEST_MAX`] of the admission. If it writes:
//! nothing at all for the configured time while no request is being worked on, since others cannot write to its group
//! meanwhile. A reader may be silent as long as its connection answers pings: snapshots stay mounted for days. And, while
//! somebody waits for the *client* (a body that has begun, an answer that is not taken), nothing for [`STALL_MAX`]: such
//! a session holds memory that others wait for.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use pbs_datastore::{DatastoreName, Namespace, Snapshot};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::api::ApiError;
use crate::auth::AuthId;

/// How long a client may take from its admission to its first request.
pub(crate) const FIRST_REQUEST_MAX: Duration = Duration::from_mins(2);
/// How long nothing may arrive or be taken while the server waits for the client.
pub(crate) const STALL_MAX: Duration = Duration::from_mins(5);

/// What a session is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SessionKind {
    /// Writes a snapshot.
    Backup,
    /// Measures; leaves nothing behind.
    Benchmark,
    /// Reads a snapshot.
    Reader,
}

impl SessionKind {
    /// The type of its task.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Backup => "backup",
            Self::Benchmark => "benchmark",
            Self::Reader => "reader",
        }
    }

    /// Whether it counts among the sessions that write.
    fn writes(self) -> bool {
        self != Self::Reader
    }
}

/// Whose session it is and what it is about.
#[derive(Debug, Clone)]
pub(crate) struct SessionSubject {
    /// What it is for.
    pub(crate) kind: SessionKind,
    /// The datastore.
    pub(crate) store: DatastoreName,
    /// The namespace in it.
    pub(crate) namespace: Namespace,
    /// The snapshot that is written or read.
    pub(crate) snapshot: Snapshot,
    /// Who opened it.
    pub(crate) author: AuthId,
    /// From where, as it is shown.
    pub(crate) peer: String,
    /// When.
    pub(crate) started: Timestamp,
}

impl SessionSubject {
    /// The snapshot as tasks about it are named.
    pub(crate) fn worker_id(&self) -> String {
        let Snapshot { group, time } = &self.snapshot;
        format!("{}:{group}/{:08X}", self.store, time.seconds())
    }
}

/// A session as shown to an administrator.
#[derive(Debug, Clone)]
pub(crate) struct SessionReport {
    /// Names it for [`SessionTable::end`], as long as the daemon runs.
    pub(crate) id: u64,
    /// Whose it is and what it is about.
    pub(crate) subject: SessionSubject,
    /// Requests so far.
    pub(crate) requests: u64,
    /// Requests that are being worked on.
    pub(crate) requests_open: usize,
    /// Body bytes received.
    pub(crate) bytes_received: u64,
    /// Body bytes of downloads sent.
    pub(crate) bytes_sent: u64,
    /// Time since anything happened.
    pub(crate) idle: Duration,
}

#[derive(Debug)]
struct Entry {
    subject: SessionSubject,
    progress: Progress,
    end: watch::Sender<Option<String>>,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    open: BTreeMap<u64, Entry>,
}

/// All open sessions; clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct SessionTable(Arc<Mutex<Table>>);

impl SessionTable {
    /// Adds a session, unless `sessions_max` of its sort are open.
    pub(crate) fn open(
        &self,
        subject: SessionSubject,
        sessions_max: u64,
    ) -> Result<OpenSession, ApiError> {
        let mut table = self.lock();
        let writes = subject.kind.writes();
        let open = table
            .open
            .values()
            .filter(|entry| entry.subject.kind.writes() == writes)
            .count();
        if open as u64 >= sessions_max {
            let (sort, setting) = if writes {
                ("backup", "backup-sessions-max")
            } else {
                ("reader", "reader-sessions-max")
            };
            return Err(ApiError::unavailable(format!(
                "{open} {sort} sessions are open already; try again later, or raise {setting}"
            )));
        }
        let (end, ended) = watch::channel(None);
        let progress = Progress::new();
        let id = table.next;
        table.next += 1;
        table.open.insert(
            id,
            Entry {
                subject,
                progress: progress.clone(),
                end,
            },
        );
        Ok(OpenSession {
            table: self.clone(),
            id,
            progress,
            ended,
        })
    }

    /// All sessions, oldest first.
    pub(crate) fn list(&self) -> Vec<SessionReport> {
        let table = self.lock();
        let report = |(id, entry): (&u64, &Entry)| {
            let state = &entry.progress.0;
            SessionReport {
                id: *id,
                subject: entry.subject.clone(),
                requests: state.requests.load(Ordering::Relaxed),
                requests_open: state.requests_open.load(Ordering::Relaxed),
                bytes_received: state.bytes_received.load(Ordering::Relaxed),
                bytes_sent: state.bytes_sent.load(Ordering::Relaxed),
                idle: entry.progress.idle(),
            }
        };
        table.open.iter().map(report).collect()
    }

    /// Asks a session to end, for `reason`; `false` if there is none. One that is finishing its snapshot does so.
    pub(crate) fn end(&self, id: u64, reason: &str) -> bool {
        let table = self.lock();
        let entry = table.open.get(&id);
        entry.is_some_and(|entry| entry.end.send(Some(reason.to_owned())).is_ok())
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A session in the table; dropping it takes it out.
#[derive(Debug)]
pub(crate) struct OpenSession {
    table: SessionTable,
    id: u64,
    progress: Progress,
    ended: watch::Receiver<Option<String>>,
}

impl OpenSession {
    /// Its liveliness.
    pub(crate) fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Returns the reason once somebody asks the session to end.
    pub(crate) fn end_requested(&self) -> impl Future<Output = String> + use<> {
        let mut ended = self.ended.clone();
        async move {
            loop {
                if let Some(reason) = &*ended.borrow_and_update() {
                    return reason.clone();
                }
                if ended.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        }
    }
}

impl Drop for OpenSession {
    fn drop(&mut self) {
        self.table.lock().open.remove(&self.id);
    }
}

#[derive(Debug)]
struct ProgressState {
    opened: Instant,
    /// Milliseconds from `opened` to the last sign of life.
    last_ms: AtomicU64,
    requests: AtomicU64,
    requests_open: AtomicUsize,
    /// Bodies and answers that wait for the client.
    peer_waits: AtomicUsize,
    bytes_received: AtomicU64,
    bytes_sent: AtomicU64,
}

/// What a session has done and when it last did something; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Progress(Arc<ProgressState>);

impl Progress {
    fn new() -> Self {
        Self(Arc::new(ProgressState {
            opened: Instant::now(),
            last_ms: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            requests_open: AtomicUsize::new(0),
            peer_waits: AtomicUsize::new(0),
            bytes_received: AtomicU64::new(0),
            bytes_sent: AtomicU64::new(0),
        }))
    }

    fn touch(&self) {
        let ms = u64::try_from(self.0.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.last_ms.fetch_max(ms, Ordering::Relaxed);
    }

    fn idle(&self) -> Duration {
        let last = Duration::from_millis(self.0.last_ms.load(Ordering::Relaxed));
        self.0.opened.elapsed().saturating_sub(last)
    }

    /// A part of a body has arrived.
    pub(crate) fn received(&self, bytes: usize) {
        self.0
            .bytes_received
            .fetch_add(bytes as u64, Ordering::Relaxed);
        self.touch();
    }

    /// A part of an answer was taken.
    pub(crate) fn sent(&self, bytes: usize) {
        self.0.bytes_sent.fetch_add(bytes as u64, Ordering::Relaxed);
        self.touch();
    }

    /// Body bytes of downloads sent so far.
    pub(crate) fn bytes_sent(&self) -> u64 {
        self.0.bytes_sent.load(Ordering::Relaxed)
    }

    /// A request has arrived; it is open until the guard is dropped.
    pub(crate) fn request(&self) -> OpenRequest {
        self.0.requests.fetch_add(1, Ordering::Relaxed);
        self.0.requests_open.fetch_add(1, Ordering::Relaxed);
        self.touch();
        OpenRequest(self.clone())
    }

    /// The server waits for the client until the guard is dropped.
    pub(crate) fn wait_for_peer(&self) -> PeerWait {
        if self.0.peer_waits.fetch_add(1, Ordering::Relaxed) == 0 {
            self.touch();
        }
        PeerWait(self.clone())
    }

    /// Why the session is to be ended for want of life, if it is. Without `idle_max` it may be silent between requests.
    pub(crate) fn lifeless(&self, idle_max: Option<Duration>) -> Option<String> {
        let state = &self.0;
        let idle = self.idle();
        if state.requests.load(Ordering::Relaxed) == 0 && idle >= FIRST_REQUEST_MAX {
            let seconds = FIRST_REQUEST_MAX.as_secs();
            return Some(format!("the client sent no request within {seconds} s"));
        }
        if state.peer_waits.load(Ordering::Relaxed) > 0 && idle >= STALL_MAX {
            let seconds = STALL_MAX.as_secs();
            return Some(format!(
                "the client neither sent nor took anything for {seconds} s"
            ));
        }
        let idle_max = idle_max?;
        let seconds = idle_max.as_secs();
        (state.requests_open.load(Ordering::Relaxed) == 0 && idle >= idle_max)
            .then(|| format!("the session was idle for {seconds} s (session-idle-seconds)"))
    }
}

/// A request that is being worked on.
#[derive(Debug)]
pub(crate) struct OpenRequest(Progress);

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.0.0.requests_open.fetch_sub(1, Ordering::Relaxed);
        self.0.touch();
    }
}

/// A wait for the client.
#[derive(Debug)]
pub(crate) struct PeerWait(Progress);

impl Drop for PeerWait {
    fn drop(&mut self) {
        self.0.0.peer_waits.fetch_sub(1, Ordering::Relaxed);
        self.0.touch();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(kind: SessionKind) -> SessionSubject {
        SessionSubject {
            kind,
            store: "store1".parse().expect("a name"),
            namespace: Namespace::root(),
            snapshot: "host/a/2023-11-14T22:13:20Z".parse().expect("a snapshot"),
            author: "a@pbs".parse().expect("an id"),
            peer: "127.0.0.1:1".to_owned(),
            started: Timestamp::UNIX_EPOCH,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn sorts_are_counted_apart_and_places_come_back() {
        let table = SessionTable::default();
        let backup = table
            .open(subject(SessionKind::Backup), 1)
            .expect("the first");
        let refused = table
            .open(subject(SessionKind::Benchmark), 1)
            .expect_err("the second");
        assert!(
            refused.message().contains("backup-sessions-max"),
            "{refused}"
        );
        let reader = table
            .open(subject(SessionKind::Reader), 1)
            .expect("another sort");
        assert_eq!(table.list().len(), 2);
        drop(backup);
        table
            .open(subject(SessionKind::Backup), 1)
            .expect("a place is free");
        assert!(table.end(reader.id, "enough"));
        assert_eq!(reader.end_requested().await, "enough");
        assert!(!table.end(99, "nobody"));
    }

    #[tokio::test(start_paused = true)]
    async fn want_of_life_has_three_reasons() {
        let hour = Duration::from_hours(1);
        let idle_max = Some(hour);
        let progress = Progress::new();
        tokio::time::advance(FIRST_REQUEST_MAX).await;
        assert!(
            progress
                .lifeless(idle_max)
                .is_some_and(|why| why.contains("no request"))
        );
        let request = progress.request();
        tokio::time::advance(hour * 2).await;
        assert_eq!(progress.lifeless(idle_max), None, "it is being worked on");
        let wait = progress.wait_for_peer();
        tokio::time::advance(STALL_MAX / 2).await;
        progress.received(1);
        tokio::time::advance(STALL_MAX / 2).await;
        assert_eq!(
            progress.lifeless(idle_max),
            None,
            "something came meanwhile"
        );
        tokio::time::advance(STALL_MAX / 2).await;
        assert!(
            progress
                .lifeless(idle_max)
                .is_some_and(|why| why.contains("nor took"))
        );
        drop(wait);
        assert_eq!(progress.lifeless(idle_max), None, "nobody waits any more");
        drop(request);
        tokio::time::advance(hour).await;
        assert!(
            progress
                .lifeless(idle_max)
                .is_some_and(|why| why.contains("idle"))
        );
        assert_eq!(progress.lifeless(None), None, "a reader may be silent");
    }
}
