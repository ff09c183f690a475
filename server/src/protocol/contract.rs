//! A datastore in memory with the interface that the protocols use, for their tests.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use pbs_datastore::{
    ArchiveName, AuthId, BackupGroup, BackupTime, DataBlob, DatastoreName, Digest, DynamicIndex,
    Error, FixedIndex, Index, IndexChecksum, Inserted, Namespace, Result, SessionId, SessionState,
    Snapshot,
};
use tokio::sync::watch;

const FIXED_CHUNK: u64 = 4 << 20;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn invalid(text: impl Into<String>) -> Error {
    Error::Invalid(text.into())
}

/// Which kind of index a writer makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IndexKind {
    /// `.didx`
    Dynamic,
    /// `.fidx`
    Fixed,
}

/// What a backup session is opened with.
#[derive(Debug, Clone)]
pub(crate) struct BackupRequest {
    pub(crate) namespace: Namespace,
    pub(crate) snapshot: Snapshot,
    pub(crate) author: AuthId,
    pub(crate) benchmark: bool,
    pub(crate) no_cache: bool,
}

type Key = (Namespace, Snapshot);
type Files = BTreeMap<String, Bytes>;

#[derive(Debug, Default)]
struct Contents {
    snapshots: BTreeMap<Key, Files>,
    owners: HashMap<(Namespace, BackupGroup), AuthId>,
    busy: HashSet<(Namespace, BackupGroup)>,
    writing: HashSet<Key>,
    chunks: HashMap<Digest, DataBlob>,
    sessions: u64,
}

/// A datastore.
#[derive(Debug)]
pub(crate) struct Datastore {
    name: DatastoreName,
    contents: Mutex<Contents>,
}

impl Datastore {
    pub(crate) fn new(name: &str) -> Arc<Self> {
        Arc::new(Self {
            name: name.parse().expect("a name"),
            contents: Mutex::default(),
        })
    }

    pub(crate) fn name(&self) -> &DatastoreName {
        &self.name
    }

    #[expect(clippy::unused_async, reason = "the real one asks the disk")]
    pub(crate) async fn namespace_exists(&self, namespace: &Namespace) -> Result<bool> {
        Ok(namespace.is_root())
    }

    #[expect(clippy::unused_async, reason = "the real one asks the disk")]
    pub(crate) async fn begin_backup(
        self: &Arc<Self>,
        request: BackupRequest,
    ) -> Result<Arc<Backup>> {
        let mut contents = lock(&self.contents);
        let key = (request.namespace.clone(), request.snapshot.clone());
        let group = (request.namespace.clone(), request.snapshot.group.clone());
        if contents.busy.contains(&group) {
            return Err(Error::Busy(format!(
                "group {} is locked by another backup",
                group.1
            )));
        }
        let owner = contents
            .owners
            .entry(group.clone())
            .or_insert_with(|| request.author.clone())
            .clone();
        if !request.author.owns_as(&owner) && !request.benchmark {
            return Err(Error::Refused(format!(
                "backup owner check failed ({} != {owner})",
                request.author
            )));
        }
        let last = contents
            .snapshots
            .keys()
            .filter(|(ns, s)| *ns == group.0 && s.group == group.1)
            .map(|(_, s)| s.time)
            .max();
        if last.is_some_and(|last| request.snapshot.time <= last) {
            return Err(invalid("backup timestamp is older than last backup."));
        }
        contents.busy.insert(group.clone());
        contents.writing.insert(key.clone());
        contents.sessions += 1;
        let base = last.map(|time| (group.0.clone(), group.1.at(time)));
        Ok(Arc::new(Backup {
            datastore: Arc::clone(self),
            id: SessionId {
                start: "memory".into(),
                seq: contents.sessions,
            },
            state: watch::Sender::new(SessionState::Open),
            key,
            group,
            base,
            benchmark: request.benchmark,
            inner: Mutex::default(),
        }))
    }

    #[expect(clippy::unused_async, reason = "the real one asks the disk")]
    pub(crate) async fn begin_read(
        self: &Arc<Self>,
        namespace: &Namespace,
        snapshot: &Snapshot,
        who: Option<&AuthId>,
    ) -> Result<Arc<SnapshotReader>> {
        let contents = lock(&self.contents);
        let key = (namespace.clone(), snapshot.clone());
        if contents.writing.contains(&key) {
            return Err(Error::Busy(format!("snapshot {snapshot} is being written")));
        }
        let files = contents
            .snapshots
            .get(&key)
            .ok_or_else(|| Error::NotFound(format!("snapshot {snapshot}")))?;
        let owner = contents
            .owners
            .get(&(namespace.clone(), snapshot.group.clone()));
        if let (Some(who), Some(owner)) = (who, owner)
            && !who.owns_as(owner)
        {
            return Err(Error::Refused(format!(
                "{who} does not own {}",
                snapshot.group
            )));
        }
        Ok(Arc::new(SnapshotReader {
            datastore: Arc::clone(self),
            files: files.clone(),
            known: Mutex::default(),
        }))
    }

    /// The files of a finished snapshot, for tests.
    pub(crate) fn files(&self, snapshot: &Snapshot) -> Option<Files> {
        lock(&self.contents)
            .snapshots
            .get(&(Namespace::root(), snapshot.clone()))
            .cloned()
    }

    /// Whether no session holds anything, for tests.
    pub(crate) fn is_idle(&self) -> bool {
        let contents = lock(&self.contents);
        contents.busy.is_empty() && contents.writing.is_empty()
    }
}

#[derive(Debug)]
struct Writer {
    name: ArchiveName,
    kind: IndexKind,
    closed: bool,
    size: Option<u64>,
    incremental: bool,
    small: bool,
    appended: u64,
    end: u64,
    slots: Vec<Digest>,
    ends: Vec<u64>,
}

#[derive(Debug, Default)]
struct Session {
    writers: Vec<Writer>,
    known: HashMap<Digest, u64>,
    files: Files,
    finishing: bool,
    ended: bool,
}

/// A backup session.
#[derive(Debug)]
pub(crate) struct Backup {
    datastore: Arc<Datastore>,
    id: SessionId,
    state: watch::Sender<SessionState>,
    key: Key,
    group: (Namespace, BackupGroup),
    base: Option<Key>,
    benchmark: bool,
    inner: Mutex<Session>,
}

#[expect(clippy::unused_async, reason = "the real ones ask the disk")]
impl Backup {
    pub(crate) fn state(&self) -> watch::Receiver<SessionState> {
        self.state.subscribe()
    }

    pub(crate) fn id(&self) -> &SessionId {
        &self.id
    }

    pub(crate) fn kill(&self, reason: &str) {
        self.state.send_if_modified(|state| {
            let open = *state == SessionState::Open;
            if open {
                *state = SessionState::Dead(reason.to_owned());
            }
            open
        });
    }

    pub(crate) fn previous_time(&self) -> Option<BackupTime> {
        self.base.as_ref().map(|(_, snapshot)| snapshot.time)
    }

    fn base_file(&self, name: &ArchiveName) -> Result<Bytes> {
        let base = self
            .base
            .as_ref()
            .ok_or_else(|| invalid("no valid previous backup"))?;
        let contents = lock(&self.datastore.contents);
        let files = contents
            .snapshots
            .get(base)
            .ok_or_else(|| Error::NotFound("the base".into()))?;
        files
            .get(name.as_str())
            .cloned()
            .ok_or_else(|| Error::NotFound(format!("file {name}")))
    }

    pub(crate) async fn previous(&self, name: &ArchiveName) -> Result<Bytes> {
        let bytes = self.base_file(name)?;
        if name.kind().is_index() {
            let index =
                Index::parse(name.kind(), bytes.clone()).map_err(|e| invalid(e.to_string()))?;
            let mut inner = lock(&self.inner);
            inner.known.extend(
                index
                    .chunks()
                    .map(|chunk| (chunk.digest, chunk.end - chunk.start)),
            );
        }
        Ok(bytes)
    }

    fn add_writer(&self, writer: Writer) -> Result<u16> {
        let mut inner = lock(&self.inner);
        self.writable(&inner)?;
        inner.writers.push(writer);
        Ok(inner.writers.len() as u16)
    }

    fn writable(&self, inner: &Session) -> Result<()> {
        if let SessionState::Dead(reason) = &*self.state.borrow() {
            return Err(Error::Refused(reason.clone()));
        }
        match (
            inner.finishing,
            *self.state.borrow() == SessionState::Sealed,
        ) {
            (_, true) => Err(Error::Refused("backup already marked as finished.".into())),
            (true, _) => Err(Error::Refused(
                "backup is already in the process of finishing.".into(),
            )),
            _ => Ok(()),
        }
    }

    pub(crate) async fn create_dynamic(&self, name: &ArchiveName) -> Result<u16> {
        self.add_writer(Writer {
            name: name.clone(),
            kind: IndexKind::Dynamic,
            closed: false,
            size: None,
            incremental: false,
            small: false,
            appended: 0,
            end: 0,
            slots: Vec::new(),
            ends: Vec::new(),
        })
    }

    pub(crate) async fn create_fixed(
        &self,
        name: &ArchiveName,
        size: Option<u64>,
        reuse: Option<Digest>,
    ) -> Result<u16> {
        let mut slots = vec![Digest([0; 32]); size.unwrap_or(0).div_ceil(FIXED_CHUNK) as usize];
        if let Some(csum) = reuse {
            let bytes = self
                .base_file(name)
                .map_err(|error| invalid(format!("cannot reuse index - {error}")))?;
            let index = FixedIndex::parse(bytes).map_err(|e| invalid(e.to_string()))?;
            if index.csum() != csum || index.len() != slots.len() {
                return Err(invalid("cannot reuse index - it differs"));
            }
            slots = (0..index.len())
                .filter_map(|i| index.chunk(i))
                .map(|chunk| chunk.digest)
                .collect();
        }
        self.add_writer(Writer {
            name: name.clone(),
            kind: IndexKind::Fixed,
            closed: false,
            size,
            incremental: reuse.is_some(),
            small: false,
            appended: 0,
            end: 0,
            slots,
            ends: Vec::new(),
        })
    }

    fn writer<'a>(inner: &'a mut Session, wid: u16, kind: IndexKind) -> Result<&'a mut Writer> {
        let writer = inner
            .writers
            .get_mut(usize::from(wid) - 1)
            .filter(|writer| writer.kind == kind);
        let writer =
            writer.ok_or_else(|| invalid(format!("{kind:?} writer '{wid}' not registered")))?;
        if writer.closed {
            Err(invalid(format!("writer '{}': already closed", writer.name)))
        } else {
            Ok(writer)
        }
    }

    pub(crate) fn check_writer(&self, wid: u16, kind: IndexKind) -> Result<()> {
        Self::writer(&mut lock(&self.inner), wid, kind).map(|_| ())
    }

    pub(crate) async fn upload(
        &self,
        wid: u16,
        kind: IndexKind,
        digest: Digest,
        size: u32,
        encoded: Bytes,
    ) -> Result<Inserted> {
        let blob = DataBlob::parse(encoded)
            .map_err(|e| invalid(e.to_string()))?
            .with_computed_crc();
        blob.verify_chunk(&digest, Some(u64::from(size)))
            .map_err(|e| invalid(e.to_string()))?;
        let mut inner = lock(&self.inner);
        self.writable(&inner)?;
        let writer = Self::writer(&mut inner, wid, kind)?;
        if kind == IndexKind::Fixed && u64::from(size) != FIXED_CHUNK {
            if u64::from(size) > FIXED_CHUNK || writer.small {
                return Err(invalid(
                    "detected multiple end chunks (chunk size too small)",
                ));
            }
            writer.small = true;
        }
        inner.known.insert(digest, u64::from(size));
        // A copy, as the claim of the body ends with the upload.
        let blob = DataBlob::parse(Bytes::copy_from_slice(&blob.encoded()))
            .map_err(|e| invalid(e.to_string()))?;
        let before = lock(&self.datastore.contents).chunks.insert(digest, blob);
        Ok(before.map_or(Inserted::New, |_| Inserted::Duplicate))
    }

    pub(crate) async fn append(
        &self,
        wid: u16,
        kind: IndexKind,
        chunks: &[(Digest, u64)],
    ) -> Result<()> {
        let mut inner = lock(&self.inner);
        self.writable(&inner)?;
        for (digest, offset) in chunks {
            let size = inner.known.get(digest).copied();
            let writer = Self::writer(&mut inner, wid, kind)?;
            let size = size.ok_or_else(|| invalid(format!("no such chunk {digest}")))?;
            match kind {
                IndexKind::Dynamic if *offset != writer.end => {
                    return Err(invalid(format!(
                        "got strange chunk offset ({} != {offset})",
                        writer.end
                    )));
                }
                IndexKind::Dynamic => {
                    writer.end += size;
                    writer.ends.push(writer.end);
                    writer.slots.push(*digest);
                }
                IndexKind::Fixed => {
                    let end = offset + size;
                    let total = writer.size.unwrap_or(end);
                    if offset % FIXED_CHUNK != 0
                        || end > total
                        || (size != FIXED_CHUNK && end != total)
                    {
                        return Err(invalid(format!("chunk does not fit at {offset}")));
                    }
                    writer.slots[(offset / FIXED_CHUNK) as usize] = *digest;
                    writer.end = writer.end.max(end);
                }
            }
            writer.appended += 1;
        }
        Ok(())
    }

    pub(crate) async fn close(
        &self,
        wid: u16,
        kind: IndexKind,
        chunk_count: u64,
        size: u64,
        csum: Digest,
    ) -> Result<()> {
        let mut inner = lock(&self.inner);
        self.writable(&inner)?;
        let writer = Self::writer(&mut inner, wid, kind)?;
        if writer.appended != chunk_count {
            return Err(invalid(format!(
                "unexpected chunk count ({} != {chunk_count})",
                writer.appended
            )));
        }
        let total = writer.size.unwrap_or(writer.end);
        if total != size && !writer.incremental {
            return Err(invalid(format!("unexpected file size ({total} != {size})")));
        }
        writer.closed = true;
        let mut sum = IndexChecksum::new();
        let uuid = uuid::Uuid::nil();
        let bytes = match kind {
            IndexKind::Dynamic => {
                let entries: Vec<_> = writer
                    .ends
                    .iter()
                    .copied()
                    .zip(writer.slots.iter().copied())
                    .collect();
                entries
                    .iter()
                    .for_each(|(end, digest)| sum.push_dynamic(*end, digest));
                DynamicIndex::encode(&uuid, 0, &entries)
            }
            IndexKind::Fixed => {
                writer
                    .slots
                    .iter()
                    .for_each(|digest| sum.push_fixed(digest));
                FixedIndex::encode(&uuid, 0, total, FIXED_CHUNK, &writer.slots)
            }
        };
        if sum.finish() != csum {
            return Err(invalid("got unexpected checksum"));
        }
        let name = writer.name.to_string();
        inner
            .files
            .insert(name, bytes.map_err(|e| invalid(e.to_string()))?);
        Ok(())
    }

    pub(crate) async fn blob(&self, name: &ArchiveName, encoded: Bytes) -> Result<()> {
        let encoded = Bytes::copy_from_slice(&encoded);
        let blob = DataBlob::parse(encoded.clone()).map_err(|e| invalid(e.to_string()))?;
        blob.verify_crc().map_err(|e| invalid(e.to_string()))?;
        lock(&self.inner).files.insert(name.to_string(), encoded);
        Ok(())
    }

    pub(crate) async fn finish(self: &Arc<Self>) -> Result<()> {
        let mut inner = lock(&self.inner);
        self.writable(&inner)?;
        if inner.writers.iter().any(|writer| !writer.closed) {
            return Err(invalid("found open index writer - unable to finish backup"));
        }
        if inner.files.is_empty() {
            return Err(invalid(
                "backup does not contain valid files (file count == 0)",
            ));
        }
        inner.finishing = true;
        if !inner.files.contains_key("index.json.blob") {
            return Err(invalid("unable to update manifest blob"));
        }
        self.state.send_replace(SessionState::Sealed);
        let mut contents = lock(&self.datastore.contents);
        contents
            .snapshots
            .insert(self.key.clone(), inner.files.clone());
        contents.busy.remove(&self.group);
        contents.writing.remove(&self.key);
        Ok(())
    }

    pub(crate) async fn end(self: &Arc<Self>, reason: &str) -> bool {
        assert!(
            !std::mem::replace(&mut lock(&self.inner).ended, true),
            "a session ends once"
        );
        self.kill(reason);
        let sealed = *self.state.borrow() == SessionState::Sealed;
        let mut contents = lock(&self.datastore.contents);
        if !sealed {
            contents.busy.remove(&self.group);
            contents.writing.remove(&self.key);
        }
        if self.benchmark {
            contents.snapshots.remove(&self.key);
        }
        sealed
    }
}

/// A chunk that is being answered.
#[derive(Debug)]
pub(crate) struct Chunk(DataBlob);

impl Deref for Chunk {
    type Target = DataBlob;

    fn deref(&self) -> &DataBlob {
        &self.0
    }
}

/// A reader session.
#[derive(Debug)]
pub(crate) struct SnapshotReader {
    datastore: Arc<Datastore>,
    files: Files,
    known: Mutex<HashSet<Digest>>,
}

#[expect(clippy::unused_async, reason = "the real ones ask the disk")]
impl SnapshotReader {
    pub(crate) async fn download(&self, name: &ArchiveName) -> Result<Bytes> {
        let bytes = self
            .files
            .get(name.as_str())
            .cloned()
            .ok_or_else(|| Error::NotFound(format!("file {name}")))?;
        if name.kind().is_index() {
            let index =
                Index::parse(name.kind(), bytes.clone()).map_err(|e| invalid(e.to_string()))?;
            lock(&self.known).extend(index.chunks().map(|chunk| chunk.digest));
        }
        Ok(bytes)
    }

    pub(crate) async fn chunk(&self, digest: &Digest) -> Result<Option<Chunk>> {
        if !lock(&self.known).contains(digest) {
            return Ok(None);
        }
        let chunk = lock(&self.datastore.contents).chunks.get(digest).cloned();
        chunk
            .map(Chunk)
            .map(Some)
            .ok_or(Error::ChunkMissing { digest: *digest })
    }
}
