//! The files of a session on their way into the snapshot's folder.
//!
//! An object is put under the condition that its name is free; one that this session wrote before is replaced under the
//! condition that it is still that one. A put whose answer was lost stays *unacknowledged*: it is looked up at the seal,
//! and put again if it is not there. Our own objects are known by their put-id, or by content where the server keeps no
//! metadata.

use std::path::PathBuf;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use md5::{Digest as _, Md5};
use s3_client::{ETag, ObjectMeta, Optional as _, Precondition, Put, PutId, PutOutcome};

use super::{Inner, locked};
use crate::contents::BucketContents;
use crate::error::{About as _, Error, Result};
use crate::layout::Place;
use crate::mirror::Content;
use crate::sabotage::{self, Rule};
use crate::snapshots::Lock;
use crate::step::Step;
use crate::{ArchiveName, Digest, SyncLevel};

/// Questions about unacknowledged files at the same time.
const CHECKS_MAX: usize = 8;

/// A file this session wrote.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    /// Bytes of the file.
    bytes: u64,
    /// What the manifest calls its size.
    pub(super) size: u64,
    /// What the manifest calls its checksum.
    pub(super) csum: Digest,
    /// Tag of the object; `None` while its put is not acknowledged.
    etag: Option<ETag>,
    put_id: PutId,
    md5: [u8; 16],
    /// The content, while the put is not acknowledged.
    file: Option<PathBuf>,
}

impl Stored {
    /// Whether this is the object we put.
    fn is(&self, meta: &ObjectMeta) -> bool {
        if sabotage::is_off(Rule::ConfirmComparesContent) {
            return true;
        }
        let ours = match meta.put_id() {
            Some(found) => found == self.put_id,
            None => meta.etag.as_md5() == Some(self.md5),
        };
        ours && meta.size == self.bytes
    }
}

impl Inner {
    /// A blob that came in.
    pub(super) async fn take_blob(&self, name: ArchiveName, encoded: Bytes) -> Result<()> {
        let _arriving = self.arriving.read().await;
        let (size, csum) = (encoded.len() as u64, {
            let encoded = encoded.clone();
            self.env().compute(move || Digest::of(&encoded)).await
        });
        let path = self.temporary(vec![encoded]).await?;
        if name.is_manifest() {
            let mut state = locked(&self.state);
            state.active()?;
            state.manifest = Some(path);
            state.count += 1;
            return Ok(());
        }
        self.store(&name, path, size, size, csum).await
    }

    /// Stores a complete temporary file under its name.
    pub(super) async fn store(
        &self,
        name: &ArchiveName,
        path: PathBuf,
        bytes: u64,
        size: u64,
        csum: Digest,
    ) -> Result<()> {
        locked(&self.state).active()?;
        let place = self.id.file(name);
        let Some(bucket) = self.snapshots.contents().bucket() else {
            self.store_locally(&place, path).await?;
            Step::SealStored.passed();
            let stored = Stored {
                bytes,
                size,
                csum,
                etag: None,
                put_id: PutId(String::new()),
                md5: [0; 16],
                file: None,
            };
            let mut state = locked(&self.state);
            state.stored.insert(name.clone(), stored);
            state.count += 1;
            return Ok(());
        };
        let from = path.clone();
        let body = self
            .env()
            .io(move |files| files.read(&from).about(&from))
            .await?;
        let hashed = body.clone();
        let stored = Stored {
            bytes,
            size,
            csum,
            etag: None,
            put_id: PutId(self.env().new_id()),
            md5: self
                .env()
                .compute(move || Md5::digest(&hashed).into())
                .await,
            file: Some(path),
        };
        let capabilities = bucket.capabilities;
        let conditional = capabilities.conditional_create && capabilities.conditional_overwrite;
        // Without conditions an attempt that was repeated with success may still arrive over what replaces it.
        let doubtful = !conditional
            && self
                .lock()?
                .settles_at()
                .is_some_and(|until| self.env().instant() < until);
        let before = {
            let mut state = locked(&self.state);
            let before = state.stored.get(name).cloned();
            if before
                .as_ref()
                .is_some_and(|before| doubtful || before.etag.is_none())
            {
                return Err(Error::Busy(format!(
                    "an earlier upload of '{name}' got no answer from S3 and may still arrive; run the backup again"
                )));
            }
            state.stored.insert(name.clone(), stored.clone());
            before
        };
        self.put_object(bucket, name, &stored, body, before).await?;
        Step::SealStored.passed();
        locked(&self.state).count += 1;
        Ok(())
    }

    /// Puts an object and records what came of it.
    async fn put_object(
        &self,
        bucket: &BucketContents,
        name: &ArchiveName,
        stored: &Stored,
        body: Bytes,
        before: Option<Stored>,
    ) -> Result<()> {
        let lock = self.lock()?;
        let place = self.id.file(name);
        let condition = match before.as_ref().and_then(|before| before.etag.clone()) {
            None if bucket.capabilities.conditional_create => Precondition::Absent,
            Some(etag) if bucket.capabilities.conditional_overwrite => Precondition::Matches(etag),
            _ => Precondition::None,
        };
        let mut put = Put::new(bucket.layout.key(&place), body).when(condition);
        put.put_id = Some(stored.put_id.clone());
        put.metadata = self.committer.clone();
        let key = put.key.clone();
        let answer = match bucket.store.put(put).await {
            Ok(answer) => answer,
            Err(error) => {
                lock.note_lost(error.lost_at);
                if !error.maybe_applied && error.lost_at.is_none() {
                    self.restore(name, before);
                }
                return Err(error.into());
            }
        };
        lock.note_lost(answer.lost_at);
        let etag = match answer.value {
            PutOutcome::Created { etag, .. } => etag,
            PutOutcome::Exists => {
                let found = bucket.store.head(&key).await.optional()?;
                match found.map(|answer| answer.value) {
                    Some(meta) if stored.is(&meta) => meta.etag,
                    Some(_) => {
                        self.restore(name, before);
                        return Err(self.conflict());
                    }
                    None => {
                        return Err(Error::Refused(format!(
                            "'{key}' was removed by somebody else while it was written"
                        )));
                    }
                }
            }
            PutOutcome::Unknown => {
                lock.note_lost(Some(self.env().instant()).filter(|_| answer.lost_at.is_none()));
                tracing::debug!(%key, "no answer to an upload; it is looked up before the seal");
                return Ok(());
            }
            PutOutcome::Conflict | PutOutcome::Expired => {
                self.restore(name, before);
                return Err(Error::Busy(format!(
                    "'{key}' is being written by somebody else at the same time"
                )));
            }
        };
        self.acknowledge(bucket, name, stored, etag).await
    }

    /// The object is stored under this tag.
    async fn acknowledge(
        &self,
        bucket: &BucketContents,
        name: &ArchiveName,
        stored: &Stored,
        etag: ETag,
    ) -> Result<()> {
        if let Some(entry) = locked(&self.state).stored.get_mut(name) {
            entry.etag = Some(etag.clone());
            entry.file = None;
        }
        let Some(file) = stored.file.clone() else {
            return Ok(());
        };
        let (place, content) = (self.id.file(name), Content::File(file));
        bucket.keep(&place, content, etag, stored.bytes).await
    }

    /// A put that had no effect: what was there before is there still.
    fn restore(&self, name: &ArchiveName, before: Option<Stored>) {
        let mut state = locked(&self.state);
        match before {
            Some(before) => state.stored.insert(name.clone(), before),
            None => state.stored.remove(name),
        };
    }

    /// Somebody else writes the same snapshot: nothing of it is touched from now on.
    pub(super) fn conflict(&self) -> Error {
        locked(&self.state).hands_off = true;
        Error::SealConflict(self.id.to_string())
    }

    async fn store_locally(&self, place: &Place, from: PathBuf) -> Result<()> {
        let path = self.snapshots.contents().path(place);
        let sync = self.snapshots.contents().sync_level();
        self.env()
            .io(move |files| {
                let dir = path.parent().unwrap_or(&path);
                files.create_dirs(dir).about(dir)?;
                if sync == SyncLevel::File {
                    files.sync(&from).about(&from)?;
                }
                files.rename(&from, &path).about(&path)?;
                if sync == SyncLevel::File {
                    files.sync_dir(dir).about(dir)?;
                }
                Ok(())
            })
            .await
    }

    /// Step 4 of the seal: every file is in the bucket, with the content we gave it.
    pub(super) async fn confirm_files(&self) -> Result<()> {
        if sabotage::is_off(Rule::UnansweredConfirmed) {
            return Ok(());
        }
        let Some(bucket) = self.snapshots.contents().bucket() else {
            return Ok(());
        };
        let open = {
            let state = locked(&self.state);
            let open = state
                .stored
                .iter()
                .filter(|(_, stored)| stored.etag.is_none());
            open.map(|(name, stored)| (name.clone(), stored.clone()))
                .collect::<Vec<_>>()
        };
        stream::iter(open)
            .map(|(name, stored)| async move { self.confirm(bucket, &name, &stored).await })
            .buffer_unordered(CHECKS_MAX)
            .try_collect::<()>()
            .await
    }

    async fn confirm(
        &self,
        bucket: &BucketContents,
        name: &ArchiveName,
        stored: &Stored,
    ) -> Result<()> {
        let key = bucket.layout.key(&self.id.file(name));
        let found = bucket.store.head(&key).await.optional()?;
        match found.map(|answer| answer.value) {
            Some(meta) if stored.is(&meta) => {
                self.acknowledge(bucket, name, stored, meta.etag).await
            }
            Some(_) => Err(self.conflict()),
            None => {
                let Some(path) = stored.file.clone() else {
                    return Err(Error::OutcomeUnknown {
                        what: format!("'{key}'"),
                    });
                };
                let body = self
                    .env()
                    .io(move |files| files.read(&path).about(&path))
                    .await?;
                self.put_object(bucket, name, stored, body, None).await?;
                let acknowledged = locked(&self.state)
                    .stored
                    .get(name)
                    .is_some_and(|stored| stored.etag.is_some());
                if acknowledged {
                    return Ok(());
                }
                Err(Error::OutcomeUnknown {
                    what: format!("'{key}'"),
                })
            }
        }
    }

    /// Removes what this session wrote, and nothing else.
    pub(super) async fn remove_own(&self, lock: &Lock) -> Result<()> {
        let names = locked(&self.state)
            .stored
            .keys()
            .cloned()
            .collect::<Vec<_>>();
        if names.is_empty() {
            return Ok(());
        }
        let pass = self.snapshots.fence().check().await?;
        let places = names
            .iter()
            .map(|name| self.id.file(name))
            .collect::<Vec<_>>();
        self.snapshots.contents().remove(lock, &pass, &places).await
    }
}
