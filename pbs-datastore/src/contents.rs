//! The tree of namespaces, groups and snapshots, in a bucket with its mirror or in a directory.
//!
//! Everything is read locally, but for copies that a full disk kept from being made. What is written goes to the bucket
//! first and into the mirror after that; deletions go manifest first. A write tells the [`Lock`] it is made under when an
//! answer was lost, so that the lock outlasts it (I8).
//!
//! A crash between bucket and mirror leaves the mirror behind; the refresh of the next start, and of every collection,
//! brings it up to date.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use s3_client::{
    Answer, DeleteOutcome, DeleteRequest, ETag, KeyPrefix, ListRequest, ObjectKey, ObjectStore,
    Optional as _, PAGE_KEYS_MAX, Precondition, Put, PutOutcome,
};

use crate::error::{About as _, Error, Result};
use crate::files::{DirEntry, optional, replace};
use crate::layout::{BucketLayout, Folder, HoldfastFile, LocalLayout, Place};
use crate::mirror::{Content, Mirror, MirrorEntry, MirrorFiles, RefreshStats, remove_empty_above};
use crate::snapshots::Lock;
use crate::step::Step;
use crate::{Capabilities, Env, FencePass, SyncLevel};

/// The bucket's side of a tree.
#[derive(Debug)]
pub(crate) struct BucketContents {
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) layout: BucketLayout,
    pub(crate) capabilities: Capabilities,
    prefix: KeyPrefix,
    mirror: Arc<Mirror>,
}

#[derive(Debug)]
enum Backing {
    Bucket(Box<BucketContents>),
    Directory(SyncLevel),
}

/// The tree. See the module page.
#[derive(Debug)]
pub struct Contents {
    env: Env,
    /// The cache directory or the directory datastore.
    base: PathBuf,
    local: LocalLayout,
    backing: Backing,
}

impl Contents {
    /// The tree of a bucket, mirrored in a cache directory. Asks the bucket nothing; [`Contents::refresh`] does.
    pub async fn open_bucket(
        env: &Env,
        store: Arc<dyn ObjectStore>,
        layout: BucketLayout,
        capabilities: Capabilities,
        cache_dir: &Path,
    ) -> Result<Self> {
        let local = LocalLayout::Cache;
        let prefix = layout.folder(&Folder::Contents);
        let ours = {
            let layout = layout.clone();
            Box::new(move |key: &ObjectKey| layout.parse(key).is_some())
        };
        let local_files = MirrorFiles {
            root: cache_dir.join(local.folder(&Folder::Contents)),
            log: cache_dir.join(local.path(&Place::Holdfast(HoldfastFile::ContentsLog))),
            temporary: cache_dir.join(local.folder(&Folder::Temporary)),
        };
        let mirror =
            Mirror::open(env, Arc::clone(&store), prefix.clone(), ours, local_files).await?;
        Ok(Self {
            env: env.clone(),
            base: cache_dir.to_owned(),
            local,
            backing: Backing::Bucket(Box::new(BucketContents {
                store,
                layout,
                capabilities,
                prefix,
                mirror: Arc::new(mirror),
            })),
        })
    }

    /// The tree of a directory datastore.
    pub fn open_directory(env: &Env, root: &Path, sync_level: SyncLevel) -> Self {
        Self {
            env: env.clone(),
            base: root.to_owned(),
            local: LocalLayout::Directory,
            backing: Backing::Directory(sync_level),
        }
    }

    /// Makes the mirror the same as the bucket; nothing to do for a directory.
    pub async fn refresh(&self) -> Result<RefreshStats> {
        match &self.backing {
            Backing::Bucket(bucket) => bucket.mirror.refresh().await,
            Backing::Directory(_) => Ok(RefreshStats::default()),
        }
    }

    pub(crate) fn env(&self) -> &Env {
        &self.env
    }

    pub(crate) fn bucket(&self) -> Option<&BucketContents> {
        match &self.backing {
            Backing::Bucket(bucket) => Some(bucket),
            Backing::Directory(_) => None,
        }
    }

    pub(crate) fn sync_level(&self) -> SyncLevel {
        match &self.backing {
            // The bucket has everything; a file that a power loss takes is fetched again.
            Backing::Bucket(_) => SyncLevel::None,
            Backing::Directory(level) => *level,
        }
    }

    /// The local path of a file.
    pub(crate) fn path(&self, place: &Place) -> PathBuf {
        self.base.join(self.local.path(place))
    }

    /// The local path of a folder.
    pub(crate) fn folder(&self, folder: &Folder) -> PathBuf {
        self.base.join(self.local.folder(folder))
    }

    /// Where files are made before they are moved to their place; on the same file system.
    pub(crate) fn temporary(&self) -> PathBuf {
        self.folder(&Folder::Temporary)
    }

    /// Nothing is fetched any more. See [`Mirror::close`].
    pub(crate) async fn close(&self) {
        if let Backing::Bucket(bucket) = &self.backing {
            bucket.mirror.close().await;
        }
    }

    /// Before anybody looks at the local copy.
    pub(crate) async fn catch_up(&self) {
        if let Backing::Bucket(bucket) = &self.backing {
            bucket.mirror.catch_up().await;
        }
    }

    /// A file's content, from the local copy.
    pub(crate) async fn read(&self, place: &Place) -> Result<Option<Bytes>> {
        self.catch_up().await;
        let path = self.path(place);
        self.env
            .io(move |files| optional(files.read(&path)).about(&path))
            .await
    }

    /// Whether there is such a file.
    pub(crate) async fn exists(&self, place: &Place) -> Result<bool> {
        self.catch_up().await;
        let path = self.path(place);
        self.env
            .io(move |files| Ok(optional(files.stat(&path)).about(&path)?.is_some()))
            .await
    }

    /// How many bytes a file has; `None` if there is none.
    pub(crate) async fn bytes_of(&self, place: &Place) -> Result<Option<u64>> {
        self.catch_up().await;
        let path = self.path(place);
        self.env
            .io(move |files| {
                Ok(optional(files.stat(&path))
                    .about(&path)?
                    .map(|stat| stat.size))
            })
            .await
    }

    /// The entries of a folder, `None` if there is none.
    pub(crate) async fn list(&self, folder: &Folder) -> Result<Option<Vec<DirEntry>>> {
        self.catch_up().await;
        let path = self.folder(folder);
        self.env
            .io(move |files| optional(files.list(&path)).about(&path))
            .await
    }

    /// Creates or replaces a small file.
    pub(crate) async fn put(&self, lock: &Lock, place: &Place, bytes: Bytes) -> Result<()> {
        match &self.backing {
            Backing::Bucket(bucket) => {
                let put = Put::new(bucket.layout.key(place), bytes.clone());
                let etag = bucket.put(lock, put).await?;
                Step::EditPut.passed();
                bucket
                    .keep(
                        place,
                        Content::Bytes(bytes.clone()),
                        etag,
                        bytes.len() as u64,
                    )
                    .await
            }
            Backing::Directory(_) => self.put_local(place, bytes).await,
        }
    }

    async fn put_local(&self, place: &Place, bytes: Bytes) -> Result<()> {
        let (path, temporary) = (self.path(place), self.temporary());
        let unique = self.env.new_id();
        self.env
            .io(move |files| {
                let dir = path.parent().unwrap_or(&path);
                files.create_dirs(dir).about(dir)?;
                replace(files, &temporary, &path, &[bytes], &unique).about(&path)
            })
            .await
    }

    /// Replaces a file whose present content is `before`, by compare-and-swap where the server can. Without it the lock
    /// must keep everybody else away. [`Error::Busy`] if it was changed meanwhile.
    pub(crate) async fn swap(
        &self,
        lock: &Lock,
        place: &Place,
        before: &Bytes,
        after: Bytes,
    ) -> Result<()> {
        let changed = || Error::Busy("it was changed at the same time; try again".to_owned());
        let Backing::Bucket(bucket) = &self.backing else {
            if self.read(place).await?.as_ref() != Some(before) {
                return Err(changed());
            }
            return self.put_local(place, after).await;
        };
        let mut put = Put::new(bucket.layout.key(place), after.clone());
        if bucket.capabilities.conditional_overwrite {
            let entry = bucket.mirror.entry(&bucket.name(place)).await;
            let entry = entry.ok_or_else(changed)?;
            // The tag is the mirror's, so what was read must be the mirror's content.
            if self.read(place).await?.as_ref() != Some(before) {
                return Err(changed());
            }
            put = put.when(Precondition::Matches(entry.etag));
        }
        let etag = match bucket.put(lock, put).await {
            Err(Error::Exists(_)) => {
                // Somebody else changed or removed it: look again. A copy of what is gone goes with the next refresh.
                return Err(if bucket.mirror.fetch(&bucket.name(place)).await? {
                    changed()
                } else {
                    Error::NotFound(format!("'{}'", bucket.layout.key(place)))
                });
            }
            result => result?,
        };
        Step::EditPut.passed();
        let size = after.len() as u64;
        bucket.keep(place, Content::Bytes(after), etag, size).await
    }

    /// Removes files, each group of places wholly before the next one; absent ones are no error. Nobody is told that
    /// anything is gone before the bucket has said so.
    pub(crate) async fn remove(
        &self,
        lock: &Lock,
        pass: &FencePass,
        places: &[Place],
    ) -> Result<()> {
        let Backing::Bucket(bucket) = &self.backing else {
            let paths = places
                .iter()
                .map(|place| (self.path(place), self.folder(&namespace_of(place))))
                .collect::<Vec<_>>();
            return self
                .env
                .io(move |files| {
                    for (path, namespace) in paths {
                        if optional(files.unlink(&path)).about(&path)?.is_some() {
                            let dir = path.parent().unwrap_or(&namespace);
                            files.sync_dir(dir).about(dir)?;
                            Step::DeleteFile.passed();
                        }
                        remove_empty_above(files, &path, &namespace);
                    }
                    Ok(())
                })
                .await;
        };
        for batch in places.chunks(PAGE_KEYS_MAX) {
            bucket.remove(lock, pass, batch).await?;
        }
        Ok(())
    }

    /// Everything below a folder of the bucket, as the bucket has it; nothing for a directory. Bounded by what fits
    /// `limit` names.
    pub(crate) async fn listed(&self, folder: &Folder, limit: usize) -> Result<Vec<Place>> {
        let Backing::Bucket(bucket) = &self.backing else {
            return Ok(Vec::new());
        };
        let mut places = Vec::new();
        let mut request = ListRequest::new(bucket.layout.folder(folder));
        loop {
            let page = bucket.store.list(&request).await?.value;
            let found = page
                .entries
                .iter()
                .filter_map(|e| bucket.layout.parse(&e.key));
            places.extend(found);
            match page.entries.last() {
                Some(last) if page.truncated && places.len() < limit => {
                    request.start_after = Some(last.key.as_str().to_owned());
                }
                _ => return Ok(places),
            }
        }
    }

    /// What `judge` makes of a file, and whether that looks right. If it does not, the local copy is fetched again, once,
    /// and judged anew.
    pub(crate) async fn read_as<T: Send + 'static>(
        &self,
        place: &Place,
        judge: impl Fn(Option<Bytes>) -> (T, bool) + Clone + Send + 'static,
    ) -> Result<T> {
        let mut again = true;
        loop {
            let (bytes, judge) = (self.read(place).await?, judge.clone());
            let (value, right) = self.env.compute(move || judge(bytes)).await;
            if right || !again || !self.fetch_again(place).await? {
                return Ok(value);
            }
            again = false;
        }
    }

    /// A file as it is kept for good; `None` if it is not there, whatever the local copy says.
    pub(crate) async fn stored(&self, place: &Place) -> Result<Option<Bytes>> {
        if self.bucket().is_some() && !self.fetch_again(place).await? {
            return Ok(None);
        }
        self.read(place).await
    }

    /// Fetches a file again whose local copy looks wrong; `false` if there is nothing to fetch it from.
    pub(crate) async fn fetch_again(&self, place: &Place) -> Result<bool> {
        match &self.backing {
            Backing::Bucket(bucket) => bucket.mirror.fetch(&bucket.name(place)).await,
            Backing::Directory(_) => Ok(false),
        }
    }
}

/// The folder that stays when all that is in it goes.
fn namespace_of(place: &Place) -> Folder {
    match place {
        Place::SnapshotFile(namespace, ..)
        | Place::GroupOwner(namespace, _)
        | Place::GroupNotes(namespace, _)
        | Place::NamespaceMarker(namespace) => Folder::Namespace(namespace.clone()),
        _ => Folder::Contents,
    }
}

impl BucketContents {
    /// The name of a place in the mirror.
    pub(crate) fn name(&self, place: &Place) -> String {
        let key = self.layout.key(place);
        self.prefix.strip(&key).unwrap_or(key.as_str()).to_owned()
    }

    /// The second half of a write: the object is there, with this content and tag.
    pub(crate) async fn keep(
        &self,
        place: &Place,
        content: Content,
        etag: ETag,
        size: u64,
    ) -> Result<()> {
        let entry = MirrorEntry { etag, size };
        self.mirror.keep(&self.name(place), content, entry).await
    }

    /// Drops the local copy of an object that is known to be gone.
    pub(crate) async fn forget(&self, place: &Place) -> Result<()> {
        self.mirror.forget(&self.name(place)).await
    }

    /// Puts an object whose outcome must be known: one whose answer was lost is looked up once, and counts as stored if
    /// its content is there. [`Error::Exists`] if the precondition did not hold.
    async fn put(&self, lock: &Lock, put: Put) -> Result<ETag> {
        let (key, body) = (put.key.clone(), put.body.clone());
        let answer = match self.store.put(put).await {
            Ok(answer) => answer,
            Err(error) => {
                lock.note_lost(error.lost_at);
                return Err(error.into());
            }
        };
        let Answer { value, lost_at, .. } = answer;
        lock.note_lost(lost_at);
        match value {
            PutOutcome::Created { etag, .. } => Ok(etag),
            // A lost attempt of our own may be what is there.
            PutOutcome::Exists if lost_at.is_none() => Err(Error::Exists(format!("'{key}'"))),
            PutOutcome::Conflict => Err(Error::Busy(format!(
                "'{key}' is being written by somebody else; try again"
            ))),
            PutOutcome::Expired => Err(Error::Refused(format!(
                "writing '{key}' took longer than its permission to do so; try again"
            ))),
            outcome @ (PutOutcome::Exists | PutOutcome::Unknown) => {
                let found = self.store.get(&key, None).await.optional()?;
                match found.map(|answer| answer.value) {
                    Some(found) if found.body.clone().into_bytes() == body.into_bytes() => {
                        Ok(found.meta.etag)
                    }
                    _ if outcome == PutOutcome::Exists => Err(Error::Exists(format!("'{key}'"))),
                    _ => Err(Error::OutcomeUnknown {
                        what: format!("'{key}'"),
                    }),
                }
            }
        }
    }

    async fn remove(&self, lock: &Lock, pass: &FencePass, places: &[Place]) -> Result<()> {
        let requests = places
            .iter()
            .map(|place| DeleteRequest::from(self.layout.key(place)))
            .collect::<Vec<_>>();
        if requests.is_empty() {
            return Ok(());
        }
        let answer = match self.store.delete(&requests, Some(pass.validity())).await {
            Ok(answer) => answer,
            Err(error) => {
                lock.note_lost(error.lost_at);
                return Err(error.into());
            }
        };
        lock.note_lost(answer.lost_at);
        let mut failure = None;
        for (place, outcome) in places.iter().zip(answer.value) {
            let key = self.layout.key(place);
            let error = match outcome {
                DeleteOutcome::Deleted | DeleteOutcome::NotFound => {
                    self.forget(place).await?;
                    Step::DeleteFile.passed();
                    continue;
                }
                DeleteOutcome::Unknown => Error::OutcomeUnknown {
                    what: format!("the removal of '{key}'"),
                },
                DeleteOutcome::Locked => {
                    Error::Protected(format!("'{key}' is under object lock and"))
                }
                DeleteOutcome::Refused(reason) => {
                    Error::Refused(format!("'{key}' cannot be removed: {reason}"))
                }
                DeleteOutcome::PreconditionFailed | DeleteOutcome::Expired => Error::Refused(
                    format!("removing '{key}' took longer than its permission to do so; try again"),
                ),
            };
            failure = Some(error);
        }
        failure.map_or(Ok(()), Err)
    }
}
