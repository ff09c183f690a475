//! Writing a snapshot: claim, files, seal.
//!
//! [`Snapshots::claim`] is the only way to write into the folder of a snapshot. A snapshot exists when its manifest does:
//! `index.json.blob` is created last and under the condition that there is none.
//!
//! Write order, and what a crash after each step leaves
//! 1. Lock group and snapshot; the folder must be empty here and in the bucket. *Nothing.*
//! 2. Indexes are written to temporary files, blobs and closed indexes are put into the bucket as they come, each under
//!    the condition that the name is free, with a put-id and the committer as metadata. *A folder without manifest: it
//!    is hidden, and removed when nothing can seal it any more ([`Snapshots::remove_unsealed`]).*
//! 3. `finish` checks what it can: no open writer, a manifest that can be read and names only files that are there, the
//!    base still in place, no chunk lost. *As 2.*
//! 4. The session is committing from here on; it counts as open for garbage collection until the outcome is known, and
//!    the work goes on whatever happens to the connection. Files whose acknowledgement is missing are looked up. *As 2.*
//! 5. Fence check, then the manifest is put: `If-None-Match: *`, signed with the date of the check. *Sealed or not; the
//!    bucket tells. Requests on their way arrive within T, and nothing of the folder is touched until then.*
//! 6. The manifest becomes visible locally, the session is sealed, the locks go. *The refresh of the next start sees it.*
//!
//! What the answer to step 5 means
//!
//! | answer | then |
//! |---|---|
//! | created | sealed |
//! | there is one | read who wrote it: we → sealed by an earlier attempt; another → [`Error::SealConflict`] |
//! | another write under way, expired | again, after a new fence check |
//! | lost | read it: we → sealed; another → conflict; none → again; at the end wait T and read once more |
//!
//! A session that fails removes its own files and nothing else, after a conflict none. Requests whose answer was lost
//! keep the snapshot locked until T after the last of them (I8). Where the server has no conditional create, HEAD and PUT
//! under the same locks take its place (A3).
//!
//! In a directory datastore files are renamed into the folder and the manifest is renamed last, after what `sync-level`
//! asks for.
//!
//! Invariants: I1 (step 5 comes after everything is acknowledged), I2 and I8 (step 4), A3 (step 5).

mod commit;
mod files;
mod indexes;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use s3_client::Metadata;
use tokio::sync::RwLock;

use crate::error::{About as _, Error, Result};
use crate::snapshots::{GroupLock, Lock, SnapshotRef, Snapshots};
use crate::step::Step;
use crate::{ArchiveName, AuthId, ChunkUploadStats, DataBlob, Env, SessionState, WriterSession};

use files::Stored;
use indexes::OpenIndex;

/// Most indexes one session opens.
const WRITERS_MAX: u16 = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Files come in.
    Active,
    /// `finish` was asked for; it runs, or has failed.
    Finishing,
    /// The snapshot is sealed.
    Sealed,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    last_wid: u16,
    writers: BTreeMap<u16, Arc<tokio::sync::Mutex<Option<OpenIndex>>>>,
    /// Own files, by name.
    stored: BTreeMap<ArchiveName, Stored>,
    /// Files that came in, those that came again included.
    count: u64,
    /// The manifest, waiting for its seal.
    manifest: Option<PathBuf>,
    /// Somebody else writes the same snapshot, or may have sealed it with our files: nothing is removed.
    hands_off: bool,
}

/// The snapshot that a backup builds on, held for as long.
#[derive(Debug)]
struct Base {
    id: SnapshotRef,
    _held: Lock,
}

#[derive(Debug)]
struct Inner {
    snapshots: Arc<Snapshots>,
    id: SnapshotRef,
    session: Arc<WriterSession>,
    /// Who writes, as metadata of every object.
    committer: Metadata,
    /// Where this session's temporary files are.
    dir: PathBuf,
    state: Mutex<State>,
    /// Held shared by every file on its way, exclusively by seal and cleanup.
    arriving: RwLock<()>,
    base: Mutex<Option<Base>>,
    group: Mutex<Option<GroupLock>>,
    lock: Mutex<Option<Arc<Lock>>>,
    /// Cleanup has begun, for a snapshot is given up once: its id may be another writer's after that.
    given_up: AtomicBool,
}

/// The right to write one snapshot. Dropping it without a seal removes what it wrote.
#[derive(Debug)]
pub struct SnapshotWriter(Arc<Inner>);

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Snapshots {
    /// Admits a backup (interface 3.1, from the group lock on): locks the group, which gets `caller` as owner if it is
    /// new, finds and holds the last backup, and claims the snapshot. Without `check_owner` anybody may write (benchmarks).
    pub async fn begin(
        self: &Arc<Self>,
        id: &SnapshotRef,
        caller: &AuthId,
        check_owner: bool,
        session: Arc<WriterSession>,
    ) -> Result<SnapshotWriter> {
        self.writable()?;
        let group = self.lock_group(&id.group()).await?;
        let owner = self.ensure_owner(&group, caller).await?;
        if check_owner && !caller.owns_as(&owner) {
            return Err(Error::Refused(format!(
                "group {} belongs to {owner}, not to {caller}",
                group.id()
            )));
        }
        let last = self.last_backup(&id.group()).await?;
        if let Some(last) = last
            .as_ref()
            .filter(|last| last.snapshot.time >= id.snapshot.time)
        {
            return Err(Error::Invalid(format!(
                "the backup must be younger than the last one of its group, {last}"
            )));
        }
        self.claim(group, id, last, session).await
    }

    /// Claims a snapshot of a locked group. `base` is held while it is written.
    pub async fn claim(
        self: &Arc<Self>,
        group: GroupLock,
        id: &SnapshotRef,
        base: Option<SnapshotRef>,
        session: Arc<WriterSession>,
    ) -> Result<SnapshotWriter> {
        self.writable()?;
        self.thawed(id)?;
        if *group.id() != id.group() {
            return Err(Error::Invalid(format!(
                "{id} is no snapshot of {}",
                group.id()
            )));
        }
        let base = match base {
            Some(base) => Some(Base {
                _held: self.hold(&base)?,
                id: base,
            }),
            None => None,
        };
        let lock = self.lock_exclusive(id)?;
        let local = self.contents().list(&id.folder()).await?;
        let there = self.contents().listed(&id.folder(), 1).await?;
        if local.is_some_and(|local| !local.is_empty()) || !there.is_empty() {
            return Err(Error::Exists(format!(
                "snapshot {id}, or what is left of it,"
            )));
        }
        let unique = uuid::Uuid::from_bytes(self.env().random_16()).to_string();
        let dir = self.contents().temporary().join(&unique);
        let path = dir.clone();
        // Registered first, so that nobody takes it for one that was left behind.
        self.set_temporary(&unique, true);
        let created = self
            .env()
            .io(move |files| files.create_dirs(&path).about(&path))
            .await;
        if let Err(error) = created {
            self.set_temporary(&unique, false);
            return Err(error);
        }
        let (instance, start) = self.committer();
        let committer = Metadata::from([
            ("holdfast-instance".to_owned(), instance.to_owned()),
            ("holdfast-start".to_owned(), start.to_owned()),
            ("holdfast-session".to_owned(), session.id().to_string()),
        ]);
        self.set_running(id, true);
        Step::SealClaimed.passed();
        Ok(SnapshotWriter(Arc::new(Inner {
            snapshots: Arc::clone(self),
            id: id.clone(),
            session,
            committer,
            dir,
            state: Mutex::new(State {
                phase: Phase::Active,
                last_wid: 0,
                writers: BTreeMap::new(),
                stored: BTreeMap::new(),
                count: 0,
                manifest: None,
                hands_off: false,
            }),
            arriving: RwLock::default(),
            base: Mutex::new(base),
            group: Mutex::new(Some(group)),
            lock: Mutex::new(Some(Arc::new(lock))),
            given_up: AtomicBool::new(false),
        })))
    }
}

impl SnapshotWriter {
    /// The snapshot.
    pub fn id(&self) -> &SnapshotRef {
        &self.0.id
    }

    /// The session it is written in.
    pub fn session(&self) -> &Arc<WriterSession> {
        &self.0.session
    }

    /// The snapshot it builds on, if there is one.
    pub fn base(&self) -> Option<SnapshotRef> {
        locked(&self.0.base).as_ref().map(|base| base.id.clone())
    }

    /// A file of the base as it is stored.
    pub async fn base_file(&self, name: &ArchiveName) -> Result<Bytes> {
        let base = self
            .base()
            .ok_or_else(|| Error::Refused("there is no previous backup to build on".to_owned()))?;
        self.0.snapshots.file(&base, name).await
    }

    /// Stores a blob (any `.blob` file). Its CRC must be right. The manifest is kept back until the seal. After `finish`
    /// was asked for, a blob is checked and dropped, as clients expect.
    pub async fn put_blob(&self, name: &ArchiveName, encoded: Bytes) -> Result<()> {
        if name.kind() != crate::ArchiveKind::Blob {
            return Err(Error::Invalid(format!(
                "'{name}' is not the name of a blob"
            )));
        }
        let checked = DataBlob::parse(encoded.clone()).and_then(|blob| blob.verify_crc());
        checked.map_err(|error| Error::Invalid(format!("'{name}': {error}")))?;
        if locked(&self.0.state).phase != Phase::Active {
            return Ok(());
        }
        self.0.session.alive()?;
        let (inner, name) = (Arc::clone(&self.0), name.clone());
        self.0
            .run(async move { inner.take_blob(name, encoded).await })
            .await
    }

    /// Seals the snapshot. `stats` go into the manifest. Once begun it runs to its end, whether the caller waits or not.
    pub async fn finish(&self, stats: ChunkUploadStats) -> Result<()> {
        self.seal_with(Some(stats)).await
    }

    /// Seals a copy of a snapshot: its manifest stays byte by byte what it is elsewhere, a verification there included.
    pub(crate) async fn finish_copy(&self) -> Result<()> {
        self.seal_with(None).await
    }

    async fn seal_with(&self, stats: Option<ChunkUploadStats>) -> Result<()> {
        {
            let mut state = locked(&self.0.state);
            state.active()?;
            if !state.writers.is_empty() {
                return Err(Error::Invalid(
                    "the backup cannot be finished: an index is still open".to_owned(),
                ));
            }
            if state.count == 0 {
                return Err(Error::Invalid(
                    "the backup cannot be finished: it has no files".to_owned(),
                ));
            }
            state.phase = Phase::Finishing;
        }
        let inner = Arc::clone(&self.0);
        self.0.run(async move { inner.commit(stats).await }).await
    }
}

impl SnapshotWriter {
    /// Gives the snapshot up if it is not sealed, and its locks in any case. Returns when that is done, or after `limit`:
    /// then requests of an unknown outcome are still waited for, and it goes on by itself.
    pub async fn give_up(&self, limit: Duration) {
        let inner = Arc::clone(&self.0);
        let task = self.0.env().spawn(async move { inner.clean_up().await });
        tokio::time::timeout(limit, task).await.ok();
    }
}

impl Drop for SnapshotWriter {
    fn drop(&mut self) {
        let inner = Arc::clone(&self.0);
        self.0.env().spawn(async move { inner.clean_up().await });
    }
}

impl State {
    fn active(&self) -> Result<()> {
        match self.phase {
            Phase::Active => Ok(()),
            Phase::Finishing => Err(Error::Refused(
                "the backup is being finished already".to_owned(),
            )),
            Phase::Sealed => Err(Error::Refused("the backup is finished already".to_owned())),
        }
    }
}

impl Inner {
    fn env(&self) -> &Env {
        self.snapshots.env()
    }

    /// The snapshot's lock, until it has been given up.
    fn lock(&self) -> Result<Arc<Lock>> {
        let lock = locked(&self.lock).clone();
        lock.ok_or_else(|| Error::Refused("the backup has ended".to_owned()))
    }

    /// Runs work on its own, so that a dropped request does not cut a write off in the middle: its outcome would never
    /// be known.
    async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let ended = self.env().spawn(work).await;
        ended.map_err(|error| {
            if error.is_panic() {
                Error::Refused(format!(
                    "writing {} has failed inside of the daemon",
                    self.id
                ))
            } else {
                Error::Stopped
            }
        })?
    }

    /// Removes what an unsealed session wrote, when nothing it sent can take effect any more.
    async fn clean_up(&self) {
        if self.given_up.swap(true, Ordering::AcqRel) {
            return;
        }
        let _quiet = self.arriving.write().await;
        let (sealed, hands_off) = {
            let state = locked(&self.state);
            (state.phase == Phase::Sealed, state.hands_off)
        };
        // Other backups of the group do not wait for what may still happen to this one.
        self.snapshots.set_running(&self.id, false);
        locked(&self.base).take();
        locked(&self.group).take();
        if !sealed {
            self.session.kill("its snapshot was given up");
            if let Ok(lock) = self.lock() {
                lock.settle().await;
                if !hands_off && let Err(error) = self.remove_own(&lock).await {
                    tracing::warn!(
                        snapshot = %self.id,
                        "what an unfinished backup wrote could not be removed, the next start tries again: {error}"
                    );
                }
            }
        }
        self.release();
        let dir = self.dir.clone();
        self.env()
            .io(move |files| files.remove_tree(&dir).ok())
            .await;
        let name = self.dir.file_name().and_then(|name| name.to_str());
        self.snapshots
            .set_temporary(name.unwrap_or_default(), false);
    }

    /// Gives up all locks.
    fn release(&self) {
        self.snapshots.set_running(&self.id, false);
        locked(&self.base).take();
        locked(&self.lock).take();
        locked(&self.group).take();
    }

    /// Ends the commit of the session.
    fn end_session(&self, result: &Result<()>) {
        self.session.end_commit(match result {
            Ok(()) => SessionState::Sealed,
            Err(error) => SessionState::Dead(error.to_string()),
        });
    }
}

#[cfg(test)]
mod tests;
