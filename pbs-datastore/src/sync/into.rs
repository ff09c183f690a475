//! An open datastore as the target of a sync. See the page of [`super`] for the order of a snapshot's steps.
//!
//! A run may be dropped at any moment, for a stop must not wait for the network. So whatever changes something runs to its end in a task of its
//! own, with the locks that keep others away until the outcome is known (I8); only the copying of chunks is cut off, and that of a seal not begun.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::chunks::{Bringing, Copier};
use super::{
    Copied, InFlight, SnapshotSource, SyncFile, SyncGroup, SyncSnapshot, SyncStep, SyncTarget,
};
use crate::sabotage::{self, Rule};
use crate::seal::SnapshotWriter;
use crate::{
    ArchiveKind, ArchiveName, AuthId, BackupTime, DataBlob, Datastore, DeleteOptions, DeleteStats,
    Error, GroupRef, Index, JobContext, Manifest, ManifestFile, Namespace, Result, SnapshotRef,
    SnapshotState, VerifyOutcome, VerifyState, WriterSession, writer_label,
};

/// How long the end of a copy that failed is waited for, so that the next attempt finds its place free.
const GIVE_UP_MAX: Duration = Duration::from_secs(10);

/// Writes into an open datastore.
#[derive(Debug)]
pub struct DatastoreTarget {
    datastore: Arc<Datastore>,
    owner: AuthId,
    node: String,
    in_flight: InFlight,
    /// The S3 server does not copy chunks from the source.
    copies_refused: AtomicBool,
}

impl DatastoreTarget {
    /// Writes groups of `owner`, who gets the new ones. `node` is this machine's name in the names of its tasks: by it the
    /// verifications of this daemon are known.
    pub fn new(datastore: Arc<Datastore>, owner: AuthId, node: impl Into<String>) -> Self {
        Self {
            in_flight: InFlight::within(datastore.reader().budget()),
            datastore,
            owner,
            node: node.into(),
            copies_refused: AtomicBool::new(false),
        }
    }

    /// Changes something, whether the caller waits for it or not.
    async fn change<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        if sabotage::is_off(Rule::SyncChangesDetached) {
            return work.await;
        }
        self.datastore.env().to_the_end(work).await
    }

    /// Whether a verification was this daemon's own.
    fn is_own(&self, state: &VerifyState) -> bool {
        state.upid.split(':').nth(1) == Some(&self.node)
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

    /// The manifest without the result of a verification, which has read other objects than those that the server has copied.
    fn unverified(&self) -> Result<Bytes> {
        if self.manifest.verify_state().is_none() {
            return Ok(self.bytes.clone());
        }
        let mut manifest = self.manifest.clone();
        manifest.set_verify_state(None);
        let blob = manifest.to_blob();
        let blob = blob.map_err(|error| Error::Invalid(format!("the manifest: {error}")))?;
        Ok(blob.encoded())
    }

    /// The client's log, unless it is a file of the manifest. One that is damaged is nothing to fail for.
    async fn client_log(&self, job: &JobContext) -> Result<Option<Bytes>> {
        let log = ArchiveName::client_log();
        if self.manifest.file(&log).is_some() {
            return Ok(None);
        }
        let Some(file) = self.source.file(&log).await? else {
            return Ok(None);
        };
        let checked = DataBlob::parse(file.bytes.clone()).and_then(|blob| blob.verify_crc());
        if let Err(fault) = checked {
            job.log(format!("{log} is left out: at the source {fault}"));
            return Ok(None);
        }
        Ok(Some(file.bytes))
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
        let snapshots = Arc::clone(self.datastore.snapshots());
        let (at, owner) = (id.clone(), self.owner.clone());
        let begin = async move { snapshots.begin(&at, &owner, true, session).await };
        let writer = self.change(begin).await?;
        let result = self.fill(original, &writer, job).await;
        if result.is_err() {
            writer.give_up(GIVE_UP_MAX).await;
        }
        self.datastore.save_usage().await;
        result
    }

    async fn fill(
        &self,
        original: &Original<'_>,
        writer: &SnapshotWriter,
        job: &JobContext,
    ) -> Result<Copied> {
        let mut copied = Copied::default();
        let bringing = self.bringing(original, writer.session(), job, false);
        for file in original.manifest.files() {
            job.check()?;
            let stored = self.file(original, file, &bringing, &mut copied).await?;
            match file.name.kind() {
                ArchiveKind::Blob => writer.put_blob(&file.name, stored.bytes).await?,
                _ => writer.put_index(&file.name, stored.bytes).await?,
            }
        }
        if let Some(log) = original.client_log(job).await? {
            writer.put_blob(&ArchiveName::client_log(), log).await?;
        }
        let manifest = match self.copier(original) {
            Some(_) => original.unverified()?,
            None => original.bytes.clone(),
        };
        writer.put_blob(&ArchiveName::manifest(), manifest).await?;
        writer.finish_copy().await?;
        Ok(copied)
    }

    fn bringing<'a>(
        &'a self,
        original: &'a Original<'a>,
        session: &'a WriterSession,
        job: &'a JobContext,
        distrust: bool,
    ) -> Bringing<'a> {
        // What is damaged at the source has to be found on its way.
        let verified = original.manifest.verify_state();
        let failed = verified.is_some_and(|state| state.state != VerifyOutcome::Ok);
        Bringing {
            datastore: &self.datastore,
            session,
            source: original.source,
            job,
            in_flight: &self.in_flight,
            distrust,
            copier: self.copier(original).filter(|_| !distrust && !failed),
        }
    }

    /// The source, if its chunks can be copied by the S3 server.
    fn copier<'a>(&'a self, original: &'a Original<'_>) -> Option<Copier<'a>> {
        let source = original.source.local()?;
        self.datastore.copies_from(source).then_some(Copier {
            source,
            refused: &self.copies_refused,
        })
    }

    /// Step 3 for one file: fetched and checked, with the chunks of an index in the datastore.
    async fn file(
        &self,
        original: &Original<'_>,
        file: &ManifestFile,
        bringing: &Bringing<'_>,
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
        if before.as_ref() != Some(&original.bytes) {
            match &*snapshots.state(id).await? {
                SnapshotState::Sealed(ours) if ours.is_same_backup(&original.manifest) => {
                    let mut theirs = original.manifest.clone();
                    let own = ours.verify_state();
                    if self.copier(original).is_some() {
                        theirs.set_verify_state(own.as_ref());
                    } else if let Some(own) = own.filter(|state| self.is_own(state)) {
                        theirs.set_verify_state(Some(&own));
                    }
                    let (snapshots, at) = (Arc::clone(snapshots), id.clone());
                    self.change(async move { snapshots.take_unprotected(&at, &theirs).await })
                        .await?;
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
            && let Some(bytes) = original.client_log(job).await?
        {
            let (snapshots, at) = (Arc::clone(snapshots), id.clone());
            self.change(async move { snapshots.add_client_log(&at, bytes).await })
                .await?;
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
        let same = match &*snapshots.state(id).await? {
            SnapshotState::Sealed(ours) => ours.is_same_backup(&original.manifest),
            _ => snapshots.may_be(id, &original.manifest).await?,
        };
        if !same {
            return Err(Error::Refused(format!(
                "{id} is damaged here, and another backup than at the source; remove it"
            )));
        }
        let session = self.session(id);
        let mut copied = Copied::default();
        let bringing = self.bringing(original, &session, job, true);
        for file in original.manifest.files() {
            job.check()?;
            let stored = self.file(original, file, &bringing, &mut copied).await?;
            let (snapshots, at) = (Arc::clone(snapshots), id.clone());
            let (name, bytes) = (file.name.clone(), stored.bytes.clone());
            self.change(async move { snapshots.mend_file(&at, &name, bytes).await })
                .await?;
        }
        let (snapshots, at) = (Arc::clone(snapshots), id.clone());
        let (manifest, session) = (original.bytes.clone(), Arc::clone(&session));
        self.change(async move { snapshots.mend_manifest(&at, manifest, &session).await })
            .await?;
        Ok(copied)
    }

    fn session(&self, id: &SnapshotRef) -> Arc<WriterSession> {
        let sessions = self.datastore.sessions();
        let author = format_args!("a sync for {}", self.owner);
        Arc::new(sessions.open(writer_label(id, &author)))
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
            // What the interrupted copy left goes at this moment; whoever is first removes it.
            let (snapshots, group) = (Arc::clone(snapshots), id.group());
            let removed = async move { snapshots.remove_unsealed_of(&group).await };
            self.change(removed).await?;
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
        let Some(parent) = namespace.parent() else {
            return Ok(());
        };
        let (snapshots, namespace) = (Arc::clone(self.datastore.snapshots()), namespace.clone());
        let create = async move {
            let name = namespace.name().unwrap_or_default();
            snapshots.create_namespace(&parent, name).await
        };
        self.change(create).await.map(drop)
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
        let (snapshots, id) = (Arc::clone(self.datastore.snapshots()), id.clone());
        snapshots.collectable()?;
        self.change(async move { snapshots.delete(&id).await })
            .await
    }

    async fn remove_group(&self, group: &GroupRef, seen: &[BackupTime]) -> Result<DeleteStats> {
        let mut stats = DeleteStats::default();
        for time in seen {
            match self.remove_snapshot(&group.at(*time)).await {
                Ok(()) => stats.removed_snapshots += 1,
                Err(Error::Protected(_)) => stats.protected_snapshots += 1,
                Err(Error::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let (snapshots, group) = (Arc::clone(self.datastore.snapshots()), group.clone());
        let removed = async move { snapshots.remove_empty_group(&group).await };
        stats.removed_groups = u64::from(self.change(removed).await?);
        Ok(stats)
    }

    async fn remove_namespace(&self, namespace: &Namespace) -> Result<bool> {
        let options = DeleteOptions {
            error_on_protected: false,
        };
        let (snapshots, namespace) = (Arc::clone(self.datastore.snapshots()), namespace.clone());
        let removed = async move {
            let stats = snapshots.delete_namespace(&namespace, false, options);
            stats.await
        };
        Ok(self.change(removed).await?.complete())
    }
}
