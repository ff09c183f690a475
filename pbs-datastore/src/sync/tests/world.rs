//! Two datastores, and a source whose line can be cut.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{Notify, watch};

use crate::fixture::Fixture;
use crate::index::IndexChecksum;
use crate::sync::*;
use crate::{
    ArchiveName, AuthId, BackupGroup, BackupRequest, Chunk, CryptKey, CryptMode, DataBlob,
    Datastore, Digest, Error, GroupRef, IndexKind, JobContext, Manifest, ManifestFile, Namespace,
    Result, SnapshotRef,
};

pub(super) const OWNER: &str = "sync@pbs";

pub(super) fn id(text: &str) -> SnapshotRef {
    text.parse().unwrap()
}

pub(super) fn name(text: &str) -> ArchiveName {
    text.parse().unwrap()
}

/// One datastore.
pub(super) struct Side(Fixture);

impl std::ops::Deref for Side {
    type Target = Fixture;

    fn deref(&self) -> &Fixture {
        &self.0
    }
}

impl Side {
    pub(super) async fn new(bucket: bool) -> Self {
        Self(Fixture::new(bucket).await)
    }

    /// Two in buckets of one server, which copies from the first to the second.
    pub(super) async fn neighbours() -> (Self, Self) {
        let source = Self(Fixture::in_bucket("first").await);
        let target = Self(Fixture::in_bucket("second").await);
        let model = Arc::clone(&source.model);
        target.model.add_neighbour("first", model);
        (source, target)
    }

    /// A backup of one archive with these chunks, a fixed one if its name says so, and a blob.
    pub(super) async fn backup(&self, text: &str, archive: &str, chunks: &[&str]) {
        self.backup_with(text, archive, chunks, None).await;
    }

    /// Makes namespaces, with those above them.
    pub(super) async fn namespaces(&self, texts: &[&str]) {
        for text in texts {
            let namespace: Namespace = text.parse().unwrap();
            for (depth, name) in namespace.components().iter().enumerate() {
                let outer = namespace.components()[..depth].join("/");
                let made = self.datastore.snapshots();
                let made = made.create_namespace(&outer.parse().unwrap(), name).await;
                made.unwrap();
            }
        }
    }

    pub(super) async fn backup_with(
        &self,
        text: &str,
        archive: &str,
        chunks: &[&str],
        key: Option<&CryptKey>,
    ) {
        let (at, archive) = (id(text), name(archive));
        self.namespaces(&[&at.namespace.to_string()]).await;
        let request = BackupRequest {
            namespace: at.namespace.clone(),
            snapshot: at.snapshot.clone(),
            author: OWNER.parse().unwrap(),
            benchmark: false,
            no_cache: false,
        };
        let backup = self.datastore.begin_backup(request).await.unwrap();
        let wid = backup.create_dynamic(&archive).await.unwrap();
        let (mut csum, mut offset, mut entries) = (IndexChecksum::new(), 0, Vec::new());
        let kind = IndexKind::Dynamic;
        for (i, text) in chunks.iter().enumerate() {
            let data = Bytes::copy_from_slice(text.as_bytes());
            let digest = key.map_or_else(|| Digest::of(&data), |key| key.chunk_digest(&data));
            let blob = DataBlob::encode(data, true, key, [i as u8; 16]).unwrap();
            let size = text.len() as u32;
            let sent = backup.upload(wid, kind, digest, size, blob.encoded()).await;
            sent.unwrap();
            entries.push((digest, offset));
            offset += text.len() as u64;
            csum.push_dynamic(offset, &digest);
        }
        let csum = csum.finish();
        backup.append(wid, kind, &entries).await.unwrap();
        let closed = backup.close(wid, kind, entries.len() as u64, offset, csum);
        closed.await.unwrap();
        let blob = DataBlob::encode_plain(Bytes::from_static(b"settings")).unwrap();
        let blob = blob.encoded();
        backup.blob(&name("b.blob"), blob.clone()).await.unwrap();
        let crypt_mode = key.map_or(CryptMode::None, |_| CryptMode::Encrypt);
        let file = |name, size, csum| ManifestFile {
            name,
            crypt_mode,
            size,
            csum: Some(csum),
        };
        let files = vec![
            file(archive, offset, csum),
            file(name("b.blob"), blob.len() as u64, Digest::of(&blob)),
        ];
        let manifest = Manifest::new(at.snapshot, files).unwrap();
        let manifest = manifest.to_blob().unwrap().encoded();
        let name = ArchiveName::manifest();
        backup.blob(&name, manifest).await.unwrap();
        backup.finish().await.unwrap();
        backup.end("done").await;
    }

    /// All finished snapshots of all namespaces, and each file of them.
    pub(super) async fn contents(&self) -> Vec<(String, Vec<(String, Bytes)>)> {
        let snapshots = self.datastore.snapshots();
        let mut all = Vec::new();
        let root = Namespace::root();
        for namespace in snapshots.namespaces(&root, 7).await.unwrap() {
            for group in snapshots.group_ids(&namespace).await.unwrap() {
                let group = GroupRef::new(namespace.clone(), group);
                for info in snapshots.group_snapshots(&group).await.unwrap() {
                    let mut files = Vec::new();
                    for file in &info.files {
                        let stored = snapshots.file(&info.id, &name(&file.name)).await;
                        files.push((file.name.clone(), stored.unwrap()));
                    }
                    all.push((info.id.to_string(), files));
                }
            }
        }
        all
    }

    pub(super) async fn listed(&self) -> Vec<String> {
        self.contents()
            .await
            .into_iter()
            .map(|(id, _)| id)
            .collect()
    }

    /// Whether every chunk of every snapshot is there and right.
    pub(super) async fn is_whole(&self) -> bool {
        for text in self.listed().await {
            if !self.verifies(&text).await {
                return false;
            }
        }
        true
    }

    pub(super) async fn verifies(&self, text: &str) -> bool {
        const UPID: &str = "UPID:here:00000001:00000002:00000003:6A000000:verify:store:tester@pbs:";
        let mut verifier = crate::Verifier::new(Arc::clone(&self.datastore));
        let (id, job) = (id(text), JobContext::detached());
        let verified = verifier.verify(&id, UPID, &job).await;
        verified.unwrap() == crate::Verified::Done(crate::VerifyOutcome::Ok)
    }

    pub(super) fn source(&self) -> Line {
        Line::new(Arc::new(DatastoreSource::new(Arc::clone(&self.datastore))))
    }

    /// Brings everything of `source` here, as `options` say.
    pub(super) async fn pull(&self, source: &Line, options: &SyncOptions) -> Result<SyncCounts> {
        let (_stop, stopped) = watch::channel(false);
        self.pull_until(source, options, stopped).await
    }

    pub(super) async fn pull_until(
        &self,
        source: &Line,
        options: &SyncOptions,
        stopped: watch::Receiver<bool>,
    ) -> Result<SyncCounts> {
        let owner: AuthId = OWNER.parse().unwrap();
        let target = DatastoreTarget::new(Arc::clone(&self.datastore), owner, "here");
        let job = JobContext::new(Arc::new(|line| tracing::info!("{line}")), stopped);
        sync(source, &target, options, &self.env, &job).await
    }
}

/// What a line does to the requests on it.
#[derive(Debug, Default)]
struct State {
    /// Requests so far.
    asked: AtomicU64,
    /// Chunks that were asked for.
    chunks: AtomicU64,
    /// From which request on it is cut, and until which.
    cut: Mutex<Option<(u64, u64)>>,
    /// Chunks wait here until they are let go.
    held: Mutex<Option<Arc<Notify>>>,
    waiting: Notify,
    /// Chunks come with a flipped bit, so many times.
    garbled: AtomicU64,
}

/// A source behind a line.
#[derive(Clone, Debug)]
pub(super) struct Line {
    inner: Arc<dyn SyncSource>,
    state: Arc<State>,
}

impl Line {
    fn new(inner: Arc<dyn SyncSource>) -> Self {
        Self {
            inner,
            state: Arc::default(),
        }
    }

    pub(super) fn asked(&self) -> u64 {
        self.state.asked.load(Ordering::SeqCst)
    }

    pub(super) fn chunks(&self) -> u64 {
        self.state.chunks.load(Ordering::SeqCst)
    }

    /// Cuts the line for `count` requests, beginning with the one after `after` more.
    pub(super) fn cut(&self, after: u64, count: u64) {
        let first = self.asked() + after;
        *self.state.cut.lock().unwrap() = Some((first, first + count));
    }

    pub(super) fn garble(&self, times: u64) {
        self.state.garbled.store(times, Ordering::SeqCst);
    }

    /// Holds every chunk back from now on; the answer lets them go.
    pub(super) fn hold(&self) -> Arc<Notify> {
        let gate = Arc::new(Notify::new());
        *self.state.held.lock().unwrap() = Some(Arc::clone(&gate));
        gate
    }

    /// Returns when a chunk is held back.
    pub(super) async fn wait_held(&self) {
        self.state.waiting.notified().await;
    }

    pub(super) fn let_go(&self) {
        let gate = self.state.held.lock().unwrap().take();
        gate.unwrap().notify_waiters();
    }

    fn ask(&self) -> Result<()> {
        let number = self.state.asked.fetch_add(1, Ordering::SeqCst);
        let cut = *self.state.cut.lock().unwrap();
        if cut.is_some_and(|(first, end)| (first..end).contains(&number)) {
            return Err(Error::Remote {
                why: format!("request {number}: the line is cut"),
                transient: true,
            });
        }
        Ok(())
    }
}

#[async_trait]
impl SyncSource for Line {
    fn name(&self) -> String {
        self.inner.name()
    }

    async fn namespaces(&self, below: &Namespace, depth: usize) -> Result<Vec<Namespace>> {
        self.ask()?;
        self.inner.namespaces(below, depth).await
    }

    async fn groups(&self, namespace: &Namespace) -> Result<Vec<BackupGroup>> {
        self.ask()?;
        self.inner.groups(namespace).await
    }

    async fn snapshots(&self, group: &GroupRef) -> Result<Vec<SyncSnapshot>> {
        self.ask()?;
        self.inner.snapshots(group).await
    }

    async fn open(&self, id: &SnapshotRef) -> Result<Option<Arc<dyn SnapshotSource>>> {
        self.ask()?;
        let Some(inner) = self.inner.open(id).await? else {
            return Ok(None);
        };
        let line = self.clone();
        Ok(Some(Arc::new(Reader { inner, line })))
    }
}

#[derive(Debug)]
struct Reader {
    inner: Arc<dyn SnapshotSource>,
    line: Line,
}

#[async_trait]
impl SnapshotSource for Reader {
    async fn file(&self, name: &ArchiveName) -> Result<Option<SyncFile>> {
        self.line.ask()?;
        self.inner.file(name).await
    }

    async fn chunk(&self, digest: &Digest, bytes: u64) -> Result<Arc<Chunk>> {
        let state = &self.line.state;
        state.chunks.fetch_add(1, Ordering::SeqCst);
        let gate = state.held.lock().unwrap().clone();
        if let Some(gate) = gate {
            let opened = gate.notified();
            state.waiting.notify_one();
            opened.await;
        }
        self.line.ask()?;
        let chunk = self.inner.chunk(digest, bytes).await?;
        let garbled = state.garbled.load(Ordering::SeqCst);
        if garbled == 0 {
            return Ok(chunk);
        }
        state.garbled.store(garbled - 1, Ordering::SeqCst);
        let mut bytes = chunk.encoded().to_vec();
        *bytes.last_mut().unwrap() ^= 1;
        let blob = DataBlob::parse(bytes.into()).unwrap();
        Ok(Arc::new(Chunk::new(blob, None)))
    }

    fn local(&self) -> Option<&Arc<Datastore>> {
        self.inner.local()
    }
}
