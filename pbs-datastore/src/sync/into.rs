//! An open datastore as the target of a sync. See the page of [`super`] for the order of a snapshot's steps.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::chunks::Bringing;
use super::{Copied, SnapshotSource, SyncFile, SyncGroup, SyncSnapshot, SyncStep, SyncTarget};
use crate::seal::SnapshotWriter;
use crate::{
    ArchiveKind, ArchiveName, AuthId, Datastore, DeleteOptions, DeleteStats, Error, GroupRef,
    Index, JobContext, Manifest, ManifestFile, Namespace, Result, SnapshotRef, SnapshotState,
    WriterSession,
};

/// How long the end of a copy that failed is waited for, so that the next attempt finds its place free.
const GIVE_UP_MAX: Duration = Duration::from_secs(10);

/// Writes into an open datastore.
#[derive(Debug)]
pub struct DatastoreTarget {
    datastore: Arc<Datastore>,
    owner: AuthId,
}

impl DatastoreTarget {
    /// Writes groups of `owner`, who gets the new ones.
    pub fn new(datastore: Arc<Datastore>, owner: AuthId) -> Self {
        Self { datastore, owner }
    }
}

/// What the source has of a snapshot.
struct Original<'a> {
    source: &'a dyn SnapshotSource,
    bytes: Bytes,
    manifest: Manifest,
}

impl Original<'_> {
    /// Reads a file that the manifest names.
    async fn file(&self, file: &ManifestFile) -> Result<SyncFile> {
        let found = self.source.file(&file.name).await?;
        found.ok_or_else(|| damaged(file, "the source does not have it"))
    }

    /// The client's log, unless it is a file of the manifest.
    async fn client_log(&self) -> Result<Option<Bytes>> {
        let log = ArchiveName::client_log();
        if self.manifest.file(&log).is_some() {
            return Ok(None);
        }
        Ok(self.source.file(&log).await?.map(|file| file.bytes))
    }
}

fn damaged(file: &ManifestFile, why: impl std::fmt::Display) -> Error {
    Error::Invalid(format!(
        "{}: {why}; verify the snapshot at the source",
        file.name
    ))
}

impl DatastoreTarget {
    /// The manifest at the source; `None` if there is none any more.
    async fn original<'a>(
        &self,
        source: &'a dyn SnapshotSource,
        id: &SnapshotRef,
    ) -> Result<Option<Original<'a>>> {
        let Some(file) = source.file(&ArchiveName::manifest()).await? else {
            return Ok(None);
        };
        let (bytes, snapshot) = (file.bytes, id.snapshot.clone());
        let parsing = bytes.clone();
        let parse = move || SnapshotState::of(&snapshot, Some(parsing));
        match self.datastore.env().compute(parse).await {
            SnapshotState::Sealed(manifest) => Ok(Some(Original {
                source,
                bytes,
                manifest: (*manifest).clone(),
            })),
            SnapshotState::Unreadable(why) => Err(Error::Invalid(format!("at the source: {why}"))),
            SnapshotState::Unsealed => Ok(None),
        }
    }

    /// Steps 2 to 4 for a snapshot that is not here.
    async fn add(
        &self,
        original: &Original<'_>,
        id: &SnapshotRef,
        job: &JobContext,
    ) -> Result<Copied> {
        self.thaw(id, job).await?;
        let session = self.session(id);
        let snapshots = self.datastore.snapshots();
        let begun = snapshots.begin(id, &self.owner, true, Arc::clone(&session));
        let writer = begun.await?;
        let result = self.fill(original, &writer, job).await;
        if result.is_err() {
            writer.give_up(GIVE_UP_MAX).await;
        }
        result
    }

    async fn fill(
        &self,
        original: &Original<'_>,
        writer: &SnapshotWriter,
        job: &JobContext,
    ) -> Result<Copied> {
        let mut copied = Copied::default();
        for file in original.manifest.files() {
            job.check()?;
            let session = writer.session();
            let stored = self.file(original, session, file, job, &mut copied).await?;
            match file.name.kind() {
                ArchiveKind::Blob => writer.put_blob(&file.name, stored.bytes).await?,
                _ => writer.put_index(&file.name, stored.bytes).await?,
            }
        }
        if let Some(log) = original.client_log().await? {
            writer.put_blob(&ArchiveName::client_log(), log).await?;
        }
        let manifest = original.bytes.clone();
        writer.put_blob(&ArchiveName::manifest(), manifest).await?;
        writer.finish_copy().await?;
        Ok(copied)
    }

    /// Step 3 for one file: fetched and checked, with the chunks of an index in the datastore.
    async fn file(
        &self,
        original: &Original<'_>,
        session: &WriterSession,
        file: &ManifestFile,
        job: &JobContext,
        copied: &mut Copied,
    ) -> Result<SyncFile> {
        let stored = original.file(file).await?;
        let (bytes, checked) = (stored.bytes.clone(), file.clone());
        if file.name.kind() == ArchiveKind::Blob {
            let check = move || checked.check_blob(&bytes);
            let result = self.datastore.env().compute(check).await;
            result.map_err(|why| damaged(file, why))?;
            return Ok(stored);
        }
        let parse = move || {
            let index = Index::parse(checked.name.kind(), bytes);
            let index = index.map_err(|error| error.to_string())?;
            checked.check_index(&index).map(|()| index)
        };
        let index = self.datastore.env().compute(parse).await;
        let index = index.map_err(|why| damaged(file, why))?;
        let bringing = Bringing {
            datastore: &self.datastore,
            session,
            source: original.source,
            job,
        };
        bringing.index(file, &index, copied).await?;
        Ok(stored)
    }

    /// A snapshot that is here: what may have changed since.
    async fn refresh(
        &self,
        original: &Original<'_>,
        id: &SnapshotRef,
        job: &JobContext,
    ) -> Result<Copied> {
        let snapshots = self.datastore.snapshots();
        let before = snapshots.contents().read(&id.manifest()).await?;
        let mut copied = Copied::default();
        let same = before.as_ref() == Some(&original.bytes);
        if !same {
            match &*snapshots.state(id).await? {
                SnapshotState::Sealed(ours) if ours.is_same_backup(&original.manifest) => {
                    snapshots.take_unprotected(id, &original.manifest).await?;
                }
                SnapshotState::Sealed(_) => {
                    return Err(Error::Refused(format!(
                        "{id} is another backup here than at the source; remove one of the two"
                    )));
                }
                _ => return self.mend(original, id, job).await,
            }
        }
        copied.unchanged = snapshots.contents().read(&id.manifest()).await? == before;
        let log = ArchiveName::client_log();
        if !snapshots.contents().exists(&id.file(&log)).await?
            && let Some(bytes) = original.client_log().await?
        {
            snapshots.add_client_log(id, bytes).await?;
            copied.unchanged = false;
        }
        Ok(copied)
    }

    /// A snapshot that is here and damaged: its chunks first, then its files, then the manifest.
    async fn mend(
        &self,
        original: &Original<'_>,
        id: &SnapshotRef,
        job: &JobContext,
    ) -> Result<Copied> {
        self.thaw(id, job).await?;
        let snapshots = self.datastore.snapshots();
        if let SnapshotState::Sealed(ours) = &*snapshots.state(id).await?
            && !ours.is_same_backup(&original.manifest)
        {
            return Err(Error::Refused(format!(
                "{id} is damaged here, and another backup than at the source; remove it"
            )));
        }
        let session = self.session(id);
        let (mut copied, mut files) = (Copied::default(), Vec::new());
        for file in original.manifest.files() {
            job.check()?;
            let stored = self
                .file(original, &session, file, job, &mut copied)
                .await?;
            let ours = snapshots.contents().stored(&id.file(&file.name)).await?;
            if ours.as_ref() != Some(&stored.bytes) {
                files.push((file.name.clone(), stored));
            }
        }
        if let Some(digest) = session.lost(1).first() {
            return Err(Error::ChunkMissing { digest: *digest });
        }
        let whole = files.iter();
        let whole = whole.map(|(name, file)| (name.clone(), file.bytes.clone()));
        snapshots
            .mend(id, whole.collect(), original.bytes.clone())
            .await?;
        Ok(copied)
    }

    fn session(&self, id: &SnapshotRef) -> Arc<WriterSession> {
        let sessions = self.datastore.sessions();
        Arc::new(sessions.open(format!("{id} by a sync for {}", self.owner)))
    }

    /// After an unclean stop, waits until snapshots of this age may be written again.
    async fn thaw(&self, id: &SnapshotRef, job: &JobContext) -> Result<()> {
        let snapshots = self.datastore.snapshots();
        if let Some(until) = snapshots.frozen_until(id) {
            let left = until.saturating_duration_since(self.datastore.env().instant());
            job.log(format!(
                "the daemon was not stopped cleanly: {id} can be written in {} s",
                left.as_secs() + 1
            ));
            tokio::time::sleep_until(until).await;
        }
        job.check()
    }
}

#[async_trait]
impl SyncTarget for DatastoreTarget {
    fn name(&self) -> String {
        format!("datastore '{}'", self.datastore.name())
    }

    async fn namespaces(&self, below: &Namespace, depth: usize) -> Result<Vec<Namespace>> {
        let snapshots = self.datastore.snapshots();
        if !snapshots.has_namespace(below).await? {
            return Ok(Vec::new());
        }
        snapshots.namespaces(below, depth).await
    }

    async fn create_namespace(&self, namespace: &Namespace) -> Result<()> {
        let (Some(parent), Some(name)) = (namespace.parent(), namespace.name()) else {
            return Ok(());
        };
        let snapshots = self.datastore.snapshots();
        snapshots.create_namespace(&parent, name).await.map(drop)
    }

    async fn groups(&self, namespace: &Namespace) -> Result<Vec<SyncGroup>> {
        let snapshots = self.datastore.snapshots();
        let mut groups = Vec::new();
        for id in snapshots.groups_in_use(namespace).await? {
            let owner = snapshots.owner(&id).await?;
            let group = id.group;
            groups.push(SyncGroup { group, owner });
        }
        Ok(groups)
    }

    fn is_ours(&self, owner: &AuthId) -> bool {
        self.owner.owns_as(owner)
    }

    async fn snapshots(&self, group: &GroupRef) -> Result<Vec<SyncSnapshot>> {
        let infos = self.datastore.snapshots().group_snapshots(group).await?;
        Ok(infos.iter().map(SyncSnapshot::from).collect())
    }

    async fn copy(
        &self,
        source: &dyn SnapshotSource,
        id: &SnapshotRef,
        step: SyncStep,
        job: &JobContext,
    ) -> Result<Copied> {
        let Some(original) = self.original(source, id).await? else {
            return Ok(Copied {
                gone: true,
                ..Copied::default()
            });
        };
        match step {
            SyncStep::Add => self.add(&original, id, job).await,
            SyncStep::Refresh => self.refresh(&original, id, job).await,
            SyncStep::Mend => self.mend(&original, id, job).await,
        }
    }

    async fn remove_snapshot(&self, id: &SnapshotRef) -> Result<()> {
        let snapshots = self.datastore.snapshots();
        snapshots.collectable()?;
        snapshots.delete(id).await
    }

    async fn remove_group(&self, group: &GroupRef) -> Result<DeleteStats> {
        let snapshots = self.datastore.snapshots();
        snapshots.collectable()?;
        let options = DeleteOptions {
            error_on_protected: false,
        };
        snapshots.delete_group(group, options).await
    }

    async fn remove_namespace(&self, namespace: &Namespace) -> Result<bool> {
        let options = DeleteOptions {
            error_on_protected: false,
        };
        let snapshots = self.datastore.snapshots();
        let stats = snapshots.delete_namespace(namespace, false, options);
        Ok(stats.await?.complete())
    }
}
