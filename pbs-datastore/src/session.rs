//! Writer sessions: who is writing, since when, and what he was told.
//!
//! A session knows nothing of snapshots or connections; a backup and a sync job are its callers (design 8 d).
//!
//! What garbage collection relies on (I2)
//! 1. A session's start is read from [`Env`] while the registry is locked, before anything is done in its
//!    name. GC reads its own start first and the registry second, so a session that GC did not see started later.
//! 2. A session counts as open until its last upload has ended, even if its connection is long gone: every upload
//!    holds a [`Lease`].
//!
//! Every positive answer asks whether the session is alive ([`WriterSession::alive`]): a session can be killed from
//! outside at any moment, and after that nobody is told anything in its name.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio::sync::watch;

use crate::sabotage::{self, Rule};
use crate::{Digest, Env, SnapshotRef};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Names a session for all time: process start and sequence number.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId {
    /// Random id of the process start (the owner's start nonce).
    pub start: String,
    /// Counts the sessions of this start.
    pub seq: u64,
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.start, self.seq)
    }
}

/// Where a session is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionState {
    /// Takes chunks.
    Open,
    /// Its snapshot is being sealed; runs to its end whatever happens to the connection.
    Committing,
    /// Its snapshot is sealed.
    Sealed,
    /// Ended without a snapshot, for this reason.
    Dead(String),
}

/// What a session was told of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// Length of the decoded chunk in bytes.
    pub size: u32,
    /// The chunk was set aside as corrupt, or found missing, since.
    pub lost: bool,
}

#[derive(Debug)]
struct Shared {
    id: SessionId,
    label: String,
    started: Timestamp,
    state: watch::Sender<SessionState>,
    told: Mutex<HashMap<Digest, Told>>,
}

/// Keeps its session in the registry, so that GC does not go beyond the session's start.
#[derive(Debug)]
pub struct Lease {
    sessions: Arc<Sessions>,
    shared: Arc<Shared>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        lock(&self.sessions.open).remove(&self.shared.id.seq);
    }
}

/// A session as shown to an administrator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionInfo {
    /// Its id.
    pub id: SessionId,
    /// Who writes what, in words.
    pub label: String,
    /// Since when.
    pub started: Timestamp,
    /// Its state.
    pub state: SessionState,
    /// How many chunks it was told about.
    pub chunks: usize,
}

/// The label of who writes a snapshot: `author`, and for a sync that it is one.
pub fn writer_label(snapshot: &SnapshotRef, author: &impl fmt::Display) -> String {
    format!("{snapshot} by {author}")
}

/// All sessions of one datastore.
#[derive(Debug)]
pub struct Sessions {
    env: Env,
    start: String,
    open: Mutex<BTreeMap<u64, Arc<Shared>>>,
    next: Mutex<u64>,
}

impl Sessions {
    /// No session; `start` is the process's start nonce.
    pub fn new(env: Env, start: String) -> Arc<Self> {
        Arc::new(Self {
            env,
            start,
            open: Mutex::default(),
            next: Mutex::new(1),
        })
    }

    /// Opens a session. `label` tells an administrator who writes what.
    pub fn open(self: &Arc<Self>, label: impl Into<String>) -> WriterSession {
        let seq = {
            let mut next = lock(&self.next);
            *next += 1;
            *next - 1
        };
        let mut open = lock(&self.open);
        let shared = Arc::new(Shared {
            id: SessionId {
                start: self.start.clone(),
                seq,
            },
            label: label.into(),
            started: self.env.now(),
            state: watch::Sender::new(SessionState::Open),
            told: Mutex::default(),
        });
        open.insert(seq, Arc::clone(&shared));
        drop(open);
        let lease = Arc::new(Lease {
            sessions: Arc::clone(self),
            shared: Arc::clone(&shared),
        });
        WriterSession { shared, lease }
    }

    /// The oldest session that is open or has uploads under way: label and start.
    pub fn oldest_open(&self) -> Option<(String, Timestamp)> {
        // Starts rise with sequence numbers only almost, as the number is drawn first.
        let open = lock(&self.open);
        open.values()
            .min_by_key(|shared| shared.started)
            .map(|shared| (shared.label.clone(), shared.started))
    }

    /// All sessions.
    pub fn list(&self) -> Vec<SessionInfo> {
        let info = |shared: &Arc<Shared>| SessionInfo {
            id: shared.id.clone(),
            label: shared.label.clone(),
            started: shared.started,
            state: shared.state.borrow().clone(),
            chunks: lock(&shared.told).len(),
        };
        lock(&self.open).values().map(info).collect()
    }

    /// Kills a session; `false` if there is none, or it is sealing already.
    pub fn kill(&self, seq: u64, reason: &str) -> bool {
        let shared = lock(&self.open).get(&seq).cloned();
        shared.is_some_and(|shared| end(&shared, SessionState::Dead(reason.to_owned())))
    }

    /// Tells all sessions that a chunk is lost (set aside, or found missing).
    pub fn announce_lost(&self, digest: &Digest) {
        if sabotage::is_off(Rule::LossAnnounced) {
            return;
        }
        for shared in lock(&self.open).values() {
            if let Some(told) = lock(&shared.told).get_mut(digest) {
                told.lost = true;
            }
        }
    }
}

/// Ends a session that is open; one that is committing goes on.
fn end(shared: &Shared, with: SessionState) -> bool {
    shared.state.send_if_modified(|state| {
        let open = *state == SessionState::Open;
        if open {
            *state = with;
        }
        open
    })
}

/// The session is not open any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the session has ended: {0}")]
pub struct SessionEnded(pub String);

/// A writer. Dropping it closes it.
#[derive(Debug)]
pub struct WriterSession {
    shared: Arc<Shared>,
    lease: Arc<Lease>,
}

impl Drop for WriterSession {
    fn drop(&mut self) {
        end(&self.shared, SessionState::Dead("closed".to_owned()));
    }
}

impl WriterSession {
    /// Its id.
    pub fn id(&self) -> &SessionId {
        &self.shared.id
    }

    /// When it began.
    pub fn started(&self) -> Timestamp {
        self.shared.started
    }

    /// Its state, to be watched.
    pub fn state(&self) -> watch::Receiver<SessionState> {
        self.shared.state.subscribe()
    }

    /// Handle for a task that works in the session's name and may outlive it.
    pub(crate) fn handle(&self) -> SessionHandle {
        SessionHandle {
            shared: Arc::clone(&self.shared),
            _lease: Arc::clone(&self.lease),
        }
    }

    /// Whether it may still be told anything.
    pub fn alive(&self) -> Result<(), SessionEnded> {
        match &*self.shared.state.borrow() {
            SessionState::Open | SessionState::Committing => Ok(()),
            SessionState::Sealed => Err(SessionEnded("its snapshot is finished".to_owned())),
            SessionState::Dead(reason) => Err(SessionEnded(reason.clone())),
        }
    }

    /// What it was told of a chunk.
    pub fn told(&self, digest: &Digest) -> Option<Told> {
        lock(&self.shared.told).get(digest).copied()
    }

    /// Whether it relies on a chunk (design 8 n).
    pub fn uses(&self, digest: &Digest) -> bool {
        self.told(digest).is_some()
    }

    /// Chunks it relies on that were lost since and not inserted again, at most `limit` of them, in order.
    pub fn lost(&self, limit: usize) -> Vec<Digest> {
        let told = lock(&self.shared.told);
        #[expect(clippy::iter_over_hash_type, reason = "sorted below")]
        let mut lost: Vec<_> = {
            let mut lost = Vec::new();
            for (digest, told) in &*told {
                if told.lost {
                    lost.push(*digest);
                }
            }
            lost
        };
        lost.sort_unstable();
        lost.truncate(limit);
        lost
    }

    /// Begins the commit; from now on it cannot be killed.
    pub fn begin_commit(&self) -> Result<(), SessionEnded> {
        if end(&self.shared, SessionState::Committing) {
            if sabotage::is_off(Rule::OpenUntilSettled) {
                lock(&self.lease.sessions.open).remove(&self.shared.id.seq);
            }
            return Ok(());
        }
        self.alive()
            .and(Err(SessionEnded("it is being finished already".to_owned())))
    }

    /// Ends the commit.
    pub fn end_commit(&self, with: SessionState) {
        self.shared.state.send_if_modified(|state| {
            let committing = *state == SessionState::Committing;
            if committing {
                *state = with;
            }
            committing
        });
    }

    /// Kills it.
    pub fn kill(&self, reason: &str) -> bool {
        end(&self.shared, SessionState::Dead(reason.to_owned()))
    }
}

/// A task's hold on a session: keeps it in the registry.
#[derive(Clone, Debug)]
pub(crate) struct SessionHandle {
    shared: Arc<Shared>,
    _lease: Arc<Lease>,
}

impl SessionHandle {
    /// Records that the session is told that a chunk is there; refuses if it has ended.
    pub(crate) fn tell(&self, digest: Digest, size: u32) -> Result<(), SessionEnded> {
        // The state is held while the chunk is recorded, so that a kill comes before or after.
        match &*self.shared.state.borrow() {
            SessionState::Open | SessionState::Committing => {
                lock(&self.shared.told).insert(digest, Told { size, lost: false });
                Ok(())
            }
            SessionState::Sealed => Err(SessionEnded("its snapshot is finished".to_owned())),
            SessionState::Dead(reason) => Err(SessionEnded(reason.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::OsFiles;

    fn sessions() -> Arc<Sessions> {
        Sessions::new(
            Env::simulated(Timestamp::UNIX_EPOCH, 1, Arc::new(OsFiles)),
            "nonce".into(),
        )
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_counts_as_open_while_an_upload_runs() {
        let sessions = sessions();
        let session = sessions.open("host/a");
        let started = session.started();
        let upload = session.handle();
        drop(session);
        assert_eq!(sessions.oldest_open(), Some(("host/a".to_owned(), started)));
        assert!(
            upload.tell(Digest::of(b"a"), 1).is_err(),
            "nobody is told anything in the name of a closed session"
        );
        drop(upload);
        assert_eq!(sessions.oldest_open(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_committing_session_cannot_be_killed() {
        let sessions = sessions();
        let session = sessions.open("host/a");
        session.begin_commit().unwrap();
        assert!(!sessions.kill(session.id().seq, "administrator"));
        assert!(session.begin_commit().is_err());
        session.end_commit(SessionState::Sealed);
        assert!(session.alive().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_chunk_is_forgiven_when_it_is_inserted_again() {
        let sessions = sessions();
        let session = sessions.open("host/a");
        let digest = Digest::of(b"a");
        session.handle().tell(digest, 1).unwrap();
        sessions.announce_lost(&digest);
        assert_eq!(session.lost(10), [digest]);
        session.handle().tell(digest, 1).unwrap();
        assert!(session.lost(10).is_empty());
    }
}
