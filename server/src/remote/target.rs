//! A datastore of another server as the target of a sync: lists and removals over REST, snapshots over the backup protocol.
//!
//! One snapshot is one backup session of its type, id and time
//! 1. The session. Nothing of the snapshot is visible yet.
//! 2. What the last snapshot there has of the archives of the same name: those chunks need not be sent.
//! 3. Each file: blobs in one request; of an index the chunks that are not known, as they are stored here, then their places in order, then its end.
//! 4. The client's log, if there is one, and the manifest as it is here.
//! 5. `finish`. Only its answer says that the snapshot exists; whoever drives the sync looks at the list when there is none.
//!
//! A connection that breaks before 5 leaves no snapshot.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use http::Method;
use pbs_datastore::index::INDEX_BYTES_MAX;
use pbs_datastore::index::fixed::CHUNK_SIZE;
use pbs_datastore::{
    ArchiveKind, ArchiveName, AuthId, BackupTime, CHUNK_BYTES_MAX, Copied, DataBlob, DeleteStats,
    Digest, Error, GroupRef, InFlight, Index, IndexChunk, JobContext, Manifest, ManifestFile,
    Namespace, Result, SnapshotRef, SnapshotSource, SyncGroup, SyncSnapshot, SyncStep, SyncTarget,
};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{NAMESPACES_SINCE, RemoteStore};
use crate::client::http::{H2, Parts, query};
use crate::client::session::{
    Upgrade, group_parameters, namespace_parameters, snapshot_parameters,
};

/// Chunks named in one append.
const APPEND_CHUNKS: usize = 128;
/// Most bytes of an answer that holds a number or a digest.
const SMALL_ANSWER_BYTES_MAX: usize = 4 << 10;
/// The first version that counts what a removal removed, and knows `error-on-protected`.
const COUNTS_SINCE: [u32; 3] = [3, 2, 11];

/// See the module page.
#[derive(Debug)]
pub(crate) struct RemoteTarget {
    store: Arc<RemoteStore>,
    in_flight: InFlight,
    /// It counts what a removal removed.
    counts: bool,
}

impl RemoteTarget {
    /// Asks the server what it is. Refused for one that is too old.
    pub(crate) async fn connect(store: Arc<RemoteStore>) -> Result<Self> {
        let version = store.version().await?;
        if version < NAMESPACES_SINCE {
            return Err(Error::Remote {
                why: format!(
                    "{} has version {}.{}; a server to push to needs at least 2.2",
                    store.name(),
                    version[0],
                    version[1]
                ),
                transient: false,
            });
        }
        Ok(Self {
            in_flight: InFlight::within(&store.budget),
            counts: version >= COUNTS_SINCE,
            store,
        })
    }

    async fn delete(
        &self,
        what: &str,
        mut parameters: Vec<(&'static str, String)>,
    ) -> Result<Value> {
        if self.counts && what != "snapshots" {
            parameters.push(("error-on-protected", "false".to_owned()));
        }
        let path = self.store.datastore(what);
        let call = self
            .store
            .rest(async |session| session.delete(&path, &parameters).await);
        Ok(call.await?)
    }
}

/// The statistics of a removal; a server that does not count says nothing.
fn stats_of(data: &Value) -> DeleteStats {
    let number = |name: &str| data[name].as_u64().unwrap_or(0);
    DeleteStats {
        removed_groups: number("removed-groups"),
        removed_snapshots: number("removed-snapshots"),
        protected_snapshots: number("protected-snapshots"),
        ..DeleteStats::default()
    }
}

#[async_trait]
impl SyncTarget for RemoteTarget {
    fn name(&self) -> String {
        self.store.name()
    }

    async fn namespaces(&self, below: &Namespace, depth: usize) -> Result<Vec<Namespace>> {
        // A namespace that is not there is no error here, so the list of all is asked.
        let root = Namespace::root();
        let mut all = self.store.namespaces(&root, usize::MAX).await?;
        let deepest = below.depth().saturating_add(depth);
        all.retain(|found| found.is_within(below) && found.depth() <= deepest);
        Ok(all)
    }

    async fn create_namespace(&self, namespace: &Namespace) -> Result<()> {
        let (Some(parent), Some(name)) = (namespace.parent(), namespace.name()) else {
            return Ok(());
        };
        let mut body = json!({"name": name});
        if !parent.is_root() {
            body["parent"] = json!(parent.to_string());
        }
        let path = self.store.datastore("namespace");
        let call = self
            .store
            .rest(async |session| session.post(&path, &body).await);
        call.await?;
        Ok(())
    }

    async fn groups(&self, namespace: &Namespace) -> Result<Vec<SyncGroup>> {
        self.store.groups(namespace).await
    }

    fn is_ours(&self, owner: &AuthId) -> bool {
        self.store.auth_id().owns_as(owner)
    }

    async fn snapshots(&self, group: &GroupRef) -> Result<Vec<SyncSnapshot>> {
        self.store.snapshots(group).await
    }

    async fn copy(
        &self,
        source: &dyn SnapshotSource,
        id: &SnapshotRef,
        step: SyncStep,
        job: &JobContext,
    ) -> Result<Copied> {
        // A finished snapshot of another server is not ours to change.
        if step != SyncStep::Add {
            return Ok(Copied {
                unchanged: true,
                ..Copied::default()
            });
        }
        let Some(stored) = source.file(&ArchiveName::manifest()).await? else {
            return Ok(Copied {
                gone: true,
                ..Copied::default()
            });
        };
        let manifest = DataBlob::parse(stored.bytes.clone())
            .map_err(|error| error.to_string())
            .and_then(|blob| Manifest::parse(&blob).map_err(|error| error.to_string()));
        let manifest = manifest.map_err(Error::Invalid)?;
        let session = self.store.connect().await?;
        let backup = Upgrade::Backup { benchmark: false };
        let h2 = session.upgrade(backup, &id.namespace, &id.snapshot).await?;
        let upload = Upload {
            store: &self.store,
            in_flight: &self.in_flight,
            h2: &h2,
            source,
            job,
            known: Mutex::default(),
            copied: Mutex::default(),
        };
        upload.learn(&manifest).await?;
        for file in manifest.files() {
            job.check()?;
            upload.file(file).await?;
        }
        let log = ArchiveName::client_log();
        if manifest.file(&log).is_none()
            && let Some(stored) = source.file(&log).await?
        {
            upload.blob(&log, stored.bytes).await?;
        }
        upload.blob(&ArchiveName::manifest(), stored.bytes).await?;
        h2.call(Method::POST, "/finish", Parts::empty()).await?;
        let copied = *locked(&upload.copied);
        Ok(copied)
    }

    async fn remove_snapshot(&self, id: &SnapshotRef) -> Result<()> {
        let parameters = snapshot_parameters(&id.namespace, &id.snapshot);
        self.delete("snapshots", parameters).await.map(drop)
    }

    async fn remove_group(&self, group: &GroupRef, seen: &[BackupTime]) -> Result<DeleteStats> {
        let there = self.store.snapshots(group).await?;
        if there.iter().all(|snapshot| seen.contains(&snapshot.time)) {
            let parameters = group_parameters(&group.namespace, &group.group);
            return Ok(stats_of(&self.delete("groups", parameters).await?));
        }
        let mut stats = DeleteStats::default();
        for snapshot in there.iter().filter(|there| seen.contains(&there.time)) {
            if snapshot.protected {
                stats.protected_snapshots += 1;
            } else {
                self.remove_snapshot(&group.at(snapshot.time)).await?;
                stats.removed_snapshots += 1;
            }
        }
        Ok(stats)
    }

    async fn remove_namespace(&self, namespace: &Namespace) -> Result<bool> {
        // Without its groups: what is ours of them is gone by now.
        let parameters = namespace_parameters(namespace);
        let refused = self.delete("namespace", parameters).await.err();
        // A server that keeps it because of what is left in it refuses.
        if self.namespaces(namespace, 0).await?.is_empty() {
            return Ok(true);
        }
        match refused {
            Some(error) if error.to_string().contains("permission") => Err(error),
            _ => Ok(false),
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One snapshot on its way.
struct Upload<'a> {
    store: &'a RemoteStore,
    in_flight: &'a InFlight,
    h2: &'a H2,
    source: &'a dyn SnapshotSource,
    job: &'a JobContext,
    /// Digests that the server knows in this session.
    known: Mutex<HashSet<Digest>>,
    copied: Mutex<Copied>,
}

impl Upload<'_> {
    /// Step 2. A previous backup that cannot be used costs time, never the copy.
    async fn learn(&self, manifest: &Manifest) -> Result<()> {
        let time = self
            .h2
            .call(Method::GET, "/previous_backup_time", Parts::empty())
            .await;
        if time.is_ok_and(|time| time.is_null()) {
            return Ok(());
        }
        for file in manifest.files() {
            if !file.name.kind().is_index() {
                continue;
            }
            let parameters = query(&[("archive-name", file.name.to_string())]);
            let target = format!("/previous?{parameters}");
            let fetched = self.h2.fetch(&target, INDEX_BYTES_MAX, &self.store.budget);
            match fetched.await {
                Ok((bytes, _permit)) => {
                    if let Ok(index) = self.parse(&file.name, bytes).await {
                        let digests = index.chunks().map(|chunk| chunk.digest);
                        locked(&self.known).extend(digests);
                    }
                }
                Err(error) if error.status().is_some() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Step 3.
    async fn file(&self, file: &ManifestFile) -> Result<()> {
        let damaged =
            |why: String| Error::Invalid(format!("{}: {why}; verify the snapshot here", file.name));
        let stored = self.source.file(&file.name).await?;
        let stored = stored.ok_or_else(|| damaged("the file is missing".to_owned()))?;
        if file.name.kind() == ArchiveKind::Blob {
            return self.blob(&file.name, stored.bytes).await;
        }
        let index = self.parse(&file.name, stored.bytes.clone()).await;
        let index = index.map_err(damaged)?;
        if file.csum.is_some_and(|csum| csum != index.csum()) {
            return Err(damaged(
                "its checksum is not the one in the manifest".to_owned(),
            ));
        }
        self.index(file, &index).await
    }

    async fn parse(&self, name: &ArchiveName, bytes: Bytes) -> std::result::Result<Index, String> {
        let kind = name.kind();
        let parse = move || Index::parse(kind, bytes).map_err(|error| error.to_string());
        self.store.env.compute(parse).await
    }

    async fn blob(&self, name: &ArchiveName, bytes: Bytes) -> Result<()> {
        let parameters = query(&[
            ("file-name", name.to_string()),
            ("encoded-size", bytes.len().to_string()),
        ]);
        let target = format!("/blob?{parameters}");
        self.h2
            .call(Method::POST, &target, Parts::raw([bytes]))
            .await?;
        Ok(())
    }

    async fn index(&self, file: &ManifestFile, index: &Index) -> Result<()> {
        let kind = match index {
            Index::Fixed(_) => "fixed",
            Index::Dynamic(_) => "dynamic",
        };
        let mut parameters = vec![("archive-name", file.name.to_string())];
        if let Index::Fixed(_) = index {
            parameters.push(("size", index.size().to_string()));
        }
        let target = format!("/{kind}_index?{}", query(&parameters));
        let wid = self.h2.call(Method::POST, &target, Parts::empty()).await?;
        let wid = wid
            .as_u64()
            .ok_or_else(|| self.h2.misunderstood("the writer id is no number"))?;
        let archive = Archive {
            upload: self,
            index,
            kind,
            wid,
        };
        let (queue, appends) = mpsc::channel(InFlight::CHUNKS_MAX);
        tokio::try_join!(archive.send(queue), archive.append(appends))?;
        let parameters = query(&[
            ("wid", wid.to_string()),
            ("chunk-count", index.len().to_string()),
            ("size", index.size().to_string()),
            ("csum", index.csum().to_string()),
        ]);
        let target = format!("/{kind}_close?{parameters}");
        self.h2.call(Method::POST, &target, Parts::empty()).await?;
        Ok(())
    }
}

/// An index whose chunks are on their way.
struct Archive<'a> {
    upload: &'a Upload<'a>,
    index: &'a Index,
    kind: &'static str,
    wid: u64,
}

impl Archive<'_> {
    /// Sends what is not known, and hands each chunk over in order once it is there.
    async fn send(&self, queue: mpsc::Sender<IndexChunk>) -> Result<()> {
        let mut sent = stream::iter(self.index.chunks().enumerate())
            .map(|(number, entry)| {
                let known = !locked(&self.upload.known).insert(entry.digest);
                self.one(number, entry, known)
            })
            .buffered(InFlight::CHUNKS_MAX);
        while let Some(entry) = sent.try_next().await? {
            self.upload.job.check()?;
            if queue.send(entry).await.is_err() {
                // Whoever appends has failed, and says why.
                return Ok(());
            }
        }
        Ok(())
    }

    async fn one(&self, number: usize, entry: IndexChunk, known: bool) -> Result<IndexChunk> {
        if known {
            locked(&self.upload.copied).known += 1;
            return Ok(entry);
        }
        let (longest, last) = match self.index {
            Index::Fixed(_) => (CHUNK_SIZE, number + 1 == self.index.len()),
            Index::Dynamic(_) => (entry.len(), false),
        };
        let _room = self.upload.in_flight.room(longest).await?;
        let chunk = self.upload.source.chunk(&entry.digest, longest).await?;
        let mut size = entry.len();
        if last && !chunk.is_encrypted() {
            // The short end of an image may be stored as a full chunk.
            let blob = Arc::clone(&chunk);
            let decode = move || blob.decode(CHUNK_BYTES_MAX, None).ok();
            let decoded = self.upload.store.env.compute(decode).await;
            size = decoded.map_or(size, |decoded| decoded.len() as u64);
        }
        let bytes = chunk.encoded_len() as u64;
        let parameters = query(&[
            ("wid", self.wid.to_string()),
            ("digest", entry.digest.to_string()),
            ("size", size.to_string()),
            ("encoded-size", bytes.to_string()),
        ]);
        let target = format!("/{}_chunk?{parameters}", self.kind);
        let (header, payload) = chunk.parts();
        let h2 = self.upload.h2;
        let body = Parts::raw([header, payload]);
        let answer = h2.send(Method::POST, &target, body, SMALL_ANSWER_BYTES_MAX);
        let stored = h2.data(&answer.await?)?;
        if stored.as_str() != Some(&*entry.digest.to_string()) {
            let reason = "it stored another chunk than the one sent";
            return Err(h2.misunderstood(reason).into());
        }
        let mut copied = locked(&self.upload.copied);
        copied.chunks += 1;
        copied.bytes += bytes;
        Ok(entry)
    }

    async fn append(&self, mut queue: mpsc::Receiver<IndexChunk>) -> Result<()> {
        let mut entries = Vec::with_capacity(APPEND_CHUNKS);
        while queue.recv_many(&mut entries, APPEND_CHUNKS).await > 0 {
            let digests: Vec<_> = entries.iter().map(|entry| entry.digest).collect();
            let offsets: Vec<_> = entries.iter().map(|entry| entry.start).collect();
            let body = json!({
                "wid": self.wid,
                "digest-list": digests,
                "offset-list": offsets,
            });
            let target = format!("/{}_index", self.kind);
            let h2 = self.upload.h2;
            h2.call(Method::PUT, &target, Parts::json(&body)).await?;
            entries.clear();
        }
        Ok(())
    }
}
