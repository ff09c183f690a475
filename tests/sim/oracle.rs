//! What everybody was told, and whether it holds.
//!
//! The rules, by invariant
//! - I1: when an upload is answered, its chunk is stored. When a backup is, all its chunks are.
//! - I2: no chunk is deleted that a sealed snapshot needs, or that an open session was told of.
//! - I7, I11: what is served is what was uploaded; what can be read is never replaced by something else.
//! - I10: a collection reports nothing missing that is not.
//! - Whoever deletes a snapshot has given up its chunks from the moment he asks.
//!
//! Two things excuse a missing chunk: it was damaged where it was stored, which is no fault of the daemon, and its session
//! belongs to a life that is over or has lost the prefix.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use pbs_datastore::files::{Files, ModelDisk};
use pbs_datastore::{
    BucketLayout, DataBlob, Digest, LocalLayout, Place, SessionState, SnapshotRef,
};
use s3_client::ModelStore;
use tokio::sync::watch;

use crate::content::{CHUNK_MAX, Pool};

/// Where the chunks really are.
#[derive(Clone, Debug)]
pub(crate) enum Truth {
    Bucket(Arc<ModelStore>, BucketLayout),
    Directory(ModelDisk, PathBuf),
}

impl Truth {
    /// The chunk as it is stored.
    fn chunk(&self, digest: &Digest) -> Option<Bytes> {
        match self {
            Self::Bucket(model, layout) => {
                let object = model.object(&layout.key(&Place::Chunk(*digest)))?;
                Some(object.body.into_bytes())
            }
            Self::Directory(disk, root) => disk.mount().read(&file_of(root, digest)).ok(),
        }
    }

    /// All chunks.
    pub(crate) fn chunks(&self) -> Vec<(Digest, Bytes)> {
        match self {
            Self::Bucket(model, layout) => {
                let objects = model.objects().into_iter();
                let chunks = objects.filter_map(|(key, object)| match layout.parse(&key)? {
                    Place::Chunk(digest) => Some((digest, object.body.into_bytes())),
                    _ => None,
                });
                chunks.collect()
            }
            Self::Directory(disk, root) => {
                let files = disk.mount();
                let paths = all_files(&*files, &root.join(".chunks")).into_iter();
                let chunks = paths.filter_map(|path| {
                    let digest = path.file_name()?.to_str()?.parse().ok()?;
                    Some((digest, files.read(&path).ok()?))
                });
                chunks.collect()
            }
        }
    }

    /// Something befalls a chunk where it is stored.
    pub(crate) fn overwrite(&self, digest: &Digest, content: Bytes) {
        match self {
            Self::Bucket(model, layout) => {
                model.corrupt_raw(&layout.key(&Place::Chunk(*digest)), content);
            }
            Self::Directory(disk, root) => {
                let (files, path) = (disk.mount(), file_of(root, digest));
                let written = files
                    .write_at(&path, 0, &content)
                    .and_then(|()| files.set_len(&path, content.len() as u64));
                written.expect("it is there, and no larger than before");
            }
        }
    }
}

fn file_of(root: &Path, digest: &Digest) -> PathBuf {
    root.join(LocalLayout::Directory.path(&Place::Chunk(*digest)))
}

/// The files below a directory.
pub(crate) fn all_files(files: &dyn Files, dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in files.list(dir).unwrap_or_default() {
        let path = dir.join(&entry.name);
        if entry.stat.is_dir {
            found.extend(all_files(files, &path));
        } else {
            found.push(path);
        }
    }
    found
}

/// What becomes of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Its `finish` was begun and not answered.
    Unknown,
    /// Its `finish` was answered: it must stay.
    Acknowledged,
    /// Its deletion was asked for: it may be there or not.
    Given,
}

#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) fate: Fate,
    pub(crate) digests: Vec<Digest>,
}

struct Session {
    life: u64,
    state: watch::Receiver<SessionState>,
    told: BTreeSet<Digest>,
    /// Chunks that were set aside before its `finish` began, and not brought back.
    relied_on_gone: BTreeSet<Digest>,
}

#[derive(Default)]
struct State {
    last: u64,
    /// The life that owns the prefix.
    owner: u64,
    sessions: BTreeMap<u64, Session>,
    snapshots: BTreeMap<SnapshotRef, Snapshot>,
    /// Damaged where they are stored, by nobody's fault. On a disk for good: a loss of power may bring the damage back.
    damaged: BTreeSet<Digest>,
    /// Set aside since, or found missing.
    gone: BTreeSet<Digest>,
    /// Chunks that a life without the prefix sent anew while they were damaged: the owner's deletion of the damaged one
    /// may come late, and he knows of no other.
    brought_by_strangers: BTreeSet<Digest>,
    was_damaged: bool,
    healed: u64,
    /// Marked as protected: whoever asks for their deletion has not given them up.
    protected: BTreeSet<SnapshotRef>,
    violations: Vec<String>,
    checks: u64,
}

/// Knows everything.
pub(crate) struct Oracle {
    truth: Truth,
    pool: Pool,
    state: Mutex<State>,
}

impl Oracle {
    pub(crate) fn new(truth: Truth, pool: Pool) -> Self {
        Self {
            truth,
            pool,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn truth(&self) -> &Truth {
        &self.truth
    }

    /// Whether the chunk is stored with the right content. A forgery that nobody can tell without the key is not.
    pub(crate) fn holds(&self, digest: &Digest) -> bool {
        self.truth
            .chunk(digest)
            .is_some_and(|stored| self.is_right(digest, stored))
    }

    fn is_right(&self, digest: &Digest, stored: Bytes) -> bool {
        let content = self.pool.find(digest);
        DataBlob::parse_chunk(stored, digest)
            .ok()
            .and_then(|blob| blob.decode(CHUNK_MAX, Some(&self.pool.key)).ok())
            .is_some_and(|data| content.is_some_and(|content| content.data == data))
    }

    pub(crate) fn violation(&self, what: String) {
        self.state().violations.push(what);
    }

    pub(crate) fn violations(&self) -> Vec<String> {
        self.state().violations.clone()
    }

    /// How often something was compared with the truth.
    pub(crate) fn checks(&self) -> u64 {
        self.state().checks
    }

    /// A life owns the prefix from now on; nobody else's sessions count.
    pub(crate) fn life_begins(&self, life: u64) {
        let mut state = self.state();
        state.owner = life;
        state.sessions.retain(|_, session| session.life == life);
    }

    pub(crate) fn session_begins(&self, life: u64, session: watch::Receiver<SessionState>) -> u64 {
        let mut state = self.state();
        state.last += 1;
        let id = state.last;
        state.sessions.insert(
            id,
            Session {
                life,
                state: session,
                told: BTreeSet::new(),
                relied_on_gone: BTreeSet::new(),
            },
        );
        id
    }

    pub(crate) fn session_ends(&self, id: u64) {
        self.state().sessions.remove(&id);
    }

    /// The session was told that the chunk is there (I1).
    pub(crate) fn told(&self, id: u64, digest: Digest) {
        let mut state = self.state();
        state.checks += 1;
        let Some(session) = state.sessions.get_mut(&id) else {
            return;
        };
        let alive = !matches!(&*session.state.borrow(), SessionState::Dead(_));
        if !alive {
            return;
        }
        session.told.insert(digest);
        session.relied_on_gone.remove(&digest);
        // Whoever has lost the prefix learns it when he seals.
        let owns = session.life == state.owner;
        if owns && !self.holds(&digest) && !state.damaged.contains(&digest) {
            state.violations.push(format!(
                "I1: session {id} was told of chunk {digest}, which is not stored"
            ));
        }
    }

    /// The session asks to be sealed.
    pub(crate) fn finish_begins(&self, id: u64, snapshot: &SnapshotRef, digests: Vec<Digest>) {
        let mut state = self.state();
        let fate = Fate::Unknown;
        state
            .snapshots
            .insert(snapshot.clone(), Snapshot { fate, digests });
        let gone = state.gone.clone();
        if let Some(session) = state.sessions.get_mut(&id) {
            session.relied_on_gone = session.told.intersection(&gone).copied().collect();
        }
    }

    /// The chunks of a snapshot that was sealed, or was to be.
    pub(crate) fn digests_of(&self, snapshot: &SnapshotRef) -> Option<Vec<Digest>> {
        let state = self.state();
        let known = state.snapshots.get(snapshot);
        known.map(|known| known.digests.clone())
    }

    /// A copy of a snapshot with these chunks is about to be made. One that is there already stays what it is.
    pub(crate) fn copy_begins(&self, copy: &SnapshotRef, digests: Vec<Digest>) {
        let mut state = self.state();
        let fate = Fate::Unknown;
        let copy = state.snapshots.entry(copy.clone());
        let copy = copy.or_insert(Snapshot { fate, digests });
        if copy.fate == Fate::Given {
            copy.fate = fate;
        }
    }

    /// The session was told that its snapshot is sealed (I1).
    pub(crate) fn finished(&self, id: u64, snapshot: &SnapshotRef) {
        let mut state = self.state();
        state.checks += 1;
        let relied: Vec<_> = match state.sessions.remove(&id) {
            Some(session) => session.relied_on_gone.into_iter().collect(),
            None => Vec::new(),
        };
        let Some(known) = state.snapshots.get_mut(snapshot) else {
            return;
        };
        known.fate = Fate::Acknowledged;
        let digests = known.digests.clone();
        for digest in digests {
            if state.damaged.contains(&digest) {
                if relied.contains(&digest) && state.gone.contains(&digest) {
                    let text = format!(
                        "{snapshot} was sealed on chunk {digest}, which had been set aside before"
                    );
                    state.violations.push(text);
                }
            } else if !self.holds(&digest) {
                state
                    .violations
                    .push(format!("I1: {snapshot} was sealed without chunk {digest}"));
            }
        }
    }

    pub(crate) fn deletion_begins(&self, snapshot: &SnapshotRef) {
        let mut state = self.state();
        if state.protected.contains(snapshot) {
            return;
        }
        if let Some(known) = state.snapshots.get_mut(snapshot) {
            known.fate = Fate::Given;
        }
    }

    /// A snapshot is protected from now on, or soon not any more.
    pub(crate) fn protect(&self, snapshot: &SnapshotRef, protected: bool) {
        let mut state = self.state();
        if protected {
            state.protected.insert(snapshot.clone());
        } else {
            state.protected.remove(snapshot);
        }
    }

    /// The snapshots that are protected.
    pub(crate) fn protected(&self) -> BTreeSet<SnapshotRef> {
        self.state().protected.clone()
    }

    /// The snapshots that must be there.
    pub(crate) fn acknowledged(&self) -> Vec<(SnapshotRef, Vec<Digest>)> {
        let state = self.state();
        let acknowledged = state
            .snapshots
            .iter()
            .filter(|(_, snapshot)| snapshot.fate == Fate::Acknowledged);
        acknowledged
            .map(|(id, snapshot)| (id.clone(), snapshot.digests.clone()))
            .collect()
    }

    pub(crate) fn fate(&self, snapshot: &SnapshotRef) -> Option<Fate> {
        self.state().snapshots.get(snapshot).map(|known| known.fate)
    }

    /// Something was damaged where it is stored.
    pub(crate) fn damage(&self, digest: Digest) {
        let mut state = self.state();
        state.damaged.insert(digest);
        state.was_damaged = true;
    }

    /// All that is damaged now.
    pub(crate) fn damaged(&self) -> BTreeSet<Digest> {
        self.state().damaged.clone()
    }

    /// How many damaged chunks are whole again.
    pub(crate) fn healed(&self) -> u64 {
        self.state().healed
    }

    pub(crate) fn is_damaged(&self, digest: &Digest) -> bool {
        self.state().damaged.contains(digest)
    }

    /// Whether anything was ever damaged, healed since or not.
    pub(crate) fn was_damaged(&self) -> bool {
        self.state().was_damaged
    }

    /// A life sends a chunk to the bucket.
    pub(crate) fn chunk_sent(&self, life: u64, digest: Digest) {
        let mut state = self.state();
        if life != state.owner && state.damaged.contains(&digest) {
            state.brought_by_strangers.insert(digest);
        }
    }

    /// An object of a chunk was written: `before` is what was there.
    pub(crate) fn chunk_written(&self, digest: Digest, before: Option<Bytes>, after: &Bytes) {
        let readable = |bytes: &Bytes| DataBlob::parse_chunk(bytes.clone(), &digest).ok();
        let new = readable(after);
        let mut state = self.state();
        state.checks += 1;
        if let Some(old) = before.as_ref().and_then(readable) {
            // Plain content that is right for the digest proves what was encrypted under it a forgery: an upload that
            // was given up may arrive over it.
            let allowed = new
                .as_ref()
                .is_some_and(|new| !new.is_encrypted() || old.is_encrypted());
            if !allowed {
                state.violations.push(format!(
                    "I11: chunk {digest} was replaced by one of another nature"
                ));
            }
        }
        if new.is_some() {
            // The daemon believes in it again, and it may be a forgery in the place of what was damaged.
            state.gone.remove(&digest);
        }
        let ours = !state.brought_by_strangers.contains(&digest);
        if ours && self.is_right(&digest, after.clone()) {
            state.healed += u64::from(state.damaged.remove(&digest));
        }
    }

    /// The object of a chunk was deleted; `before` is what was there (I2).
    pub(crate) fn chunk_deleted(&self, digest: Digest, before: &Bytes) {
        let intact = DataBlob::parse_chunk(before.clone(), &digest).is_ok();
        let mut state = self.state();
        state.checks += 1;
        if state.damaged.contains(&digest) {
            state.gone.insert(digest);
            if !intact || state.brought_by_strangers.contains(&digest) {
                return;
            }
        }
        let owner = state.owner;
        let holder = state.sessions.iter().find(|(_, session)| {
            session.life == owner
                && session.told.contains(&digest)
                && !matches!(&*session.state.borrow(), SessionState::Dead(_))
        });
        let needer = state.snapshots.iter().find(|(_, snapshot)| {
            snapshot.fate == Fate::Acknowledged && snapshot.digests.contains(&digest)
        });
        let violation = match (holder, needer) {
            (Some((id, _)), _) => {
                format!("I2: chunk {digest} was deleted under session {id}, which was told of it")
            }
            (None, Some((id, _))) => {
                format!("I2: chunk {digest} was deleted, which snapshot {id} needs")
            }
            (None, None) => return,
        };
        state.violations.push(violation);
    }
}
