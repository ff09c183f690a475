//! Steps 3 to 6 of the seal; the page of [`super`] has the table of answers.

use std::time::Duration;

use bytes::Bytes;
use s3_client::{ETag, ObjectKey, Optional as _, Precondition, Put, PutId, PutOutcome};

use super::{Inner, Phase, locked};
use crate::contents::BucketContents;
use crate::error::{About as _, Error, Result};
use crate::files::replace;
use crate::mirror::Content;
use crate::snapshots::SnapshotState;
use crate::step::Step;
use crate::{ChunkUploadStats, Manifest, SyncLevel};

/// How often the manifest is put.
const ATTEMPTS_MAX: u32 = 5;

/// How often is asked what became of it, at the end.
const LOOKS_MAX: u32 = 10;

/// Pause before the second attempt; doubles with each further one, up to a minute.
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_mins(1);

/// Who sealed the snapshot.
enum Committer {
    Nobody,
    We(ETag),
    Another,
}

/// A commit under way. Dropped without its end it has panicked: nobody knows what it has sent, so the session and all
/// who watch it are told, and the files stay for whatever seal may still arrive (I8).
struct Committing<'a>(&'a Inner);

impl Committing<'_> {
    fn end(self, result: &Result<()>) {
        self.0.end_session(result);
        std::mem::forget(self);
    }
}

impl Drop for Committing<'_> {
    fn drop(&mut self) {
        locked(&self.0.state).hands_off = true;
        if let Ok(lock) = self.0.lock() {
            lock.note_lost(Some(self.0.env().instant()));
        }
        self.0.end_session(&Err(Error::OutcomeUnknown {
            what: format!("the manifest of {}", self.0.id),
        }));
    }
}

/// One attempt's outcome.
enum Attempt {
    Sealed(ETag),
    /// Nothing is decided; this is why.
    Open(Error),
    /// It makes no sense to go on.
    Failed(Error),
}

impl Inner {
    /// Everything from `finish` on.
    pub(super) async fn commit(&self, stats: Option<ChunkUploadStats>) -> Result<()> {
        let _quiet = self.arriving.write().await;
        // 3. A failure here leaves the session as it is; it can only be given up.
        let manifest = self.check(stats).await?;
        Step::SealChecked.passed();
        self.session.begin_commit()?;
        let committing = Committing(self);
        // 4. and 5.
        let result = match self.confirm_files().await {
            Ok(()) => {
                Step::SealConfirmed.passed();
                self.seal(manifest).await
            }
            Err(error) => Err(error),
        };
        if result.is_ok() {
            locked(&self.state).phase = Phase::Sealed;
            self.let_go();
        }
        committing.end(&result);
        result
    }

    /// Step 3; answers the manifest to be sealed, which without `stats` is the one that came.
    async fn check(&self, stats: Option<ChunkUploadStats>) -> Result<Bytes> {
        let invalid = |why: String| Error::Invalid(format!("the backup cannot be finished: {why}"));
        let base = locked(&self.base).as_ref().map(|base| base.id.clone());
        if let Some(base) = base
            && !matches!(
                &*self.snapshots.state(&base).await?,
                SnapshotState::Sealed(_)
            )
        {
            return Err(invalid(format!("the previous backup {base} is gone")));
        }
        let path = locked(&self.state).manifest.clone();
        let path = path.ok_or_else(|| invalid("it has no manifest".to_owned()))?;
        let bytes = self
            .env()
            .io(move |files| files.read(&path).about(&path))
            .await?;
        let mut manifest = match SnapshotState::of(&self.id.snapshot, Some(bytes.clone())) {
            SnapshotState::Sealed(manifest) => (*manifest).clone(),
            SnapshotState::Unreadable(why) => return Err(invalid(why)),
            SnapshotState::Unsealed => return Err(invalid("it has no manifest".to_owned())),
        };
        self.check_names(&manifest).map_err(invalid)?;
        self.nothing_lost()?;
        let Some(stats) = stats else {
            return Ok(bytes);
        };
        manifest.set_chunk_upload_stats(&stats);
        // Whoever writes a snapshot does not say that it was verified.
        manifest.set_verify_state(None);
        let blob = manifest
            .to_blob()
            .map_err(|error| invalid(error.to_string()))?;
        Ok(blob.encoded())
    }

    /// Whether every chunk that the session was told of is still there. Asked again before whatever makes the snapshot
    /// visible: confirming files and repeating the seal can take minutes.
    fn nothing_lost(&self) -> Result<()> {
        match self.session.lost(1).first() {
            Some(digest) => Err(Error::ChunkMissing { digest: *digest }),
            None => Ok(()),
        }
    }

    /// Whether the manifest speaks of the files that are there.
    fn check_names(&self, manifest: &Manifest) -> std::result::Result<(), String> {
        let state = locked(&self.state);
        for file in manifest.files() {
            let name = &file.name;
            let Some(stored) = state.stored.get(name) else {
                return Err(format!(
                    "its manifest names '{name}', which was not uploaded"
                ));
            };
            let same_csum = file.csum.is_none_or(|csum| csum == stored.csum);
            if file.size != stored.size || !same_csum {
                return Err(format!(
                    "its manifest describes another '{name}' than was uploaded"
                ));
            }
        }
        Ok(())
    }

    /// Step 5 and the local half of step 6.
    async fn seal(&self, manifest: Bytes) -> Result<()> {
        let Some(bucket) = self.snapshots.contents().bucket() else {
            return self.seal_locally(manifest).await;
        };
        let etag = self.seal_object(bucket, &manifest).await?;
        Step::SealPut.passed();
        let (place, size) = (self.id.manifest(), manifest.len() as u64);
        if let Err(error) = bucket
            .keep(&place, Content::Bytes(manifest), etag, size)
            .await
        {
            // The bucket has it, and whoever looks next brings it here.
            tracing::error!(snapshot = %self.id, "the finished snapshot is not yet visible here: {error}");
        }
        self.snapshots.changed(&self.id);
        Step::SealVisible.passed();
        Ok(())
    }

    /// Creates the manifest, however many attempts it takes, and finds out whether it was us.
    async fn seal_object(&self, bucket: &BucketContents, manifest: &Bytes) -> Result<ETag> {
        let lock = self.lock()?;
        let key = bucket.layout.key(&self.id.manifest());
        let put_id = PutId(self.env().new_id());
        let mut pause = PAUSE;
        let mut failure = None;
        for attempt in 0..ATTEMPTS_MAX {
            if attempt > 0 {
                self.env().sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
            match self.attempt(bucket, &key, manifest, &put_id).await {
                Attempt::Sealed(etag) => return Ok(etag),
                Attempt::Open(error) => failure = Some(error),
                Attempt::Failed(error @ Error::SealConflict(_)) => return Err(error),
                Attempt::Failed(error) => {
                    failure = Some(error);
                    break;
                }
            }
        }
        // What was given up may still arrive. The session stays open until it cannot any more.
        lock.settle().await;
        for look in 0..LOOKS_MAX {
            if look > 0 {
                self.env().sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
            match self.committer_of(bucket, &key, manifest, &put_id).await {
                Ok(Committer::We(etag)) => return Ok(etag),
                Ok(Committer::Another) => return Err(self.conflict()),
                Ok(Committer::Nobody) => {
                    return Err(failure.unwrap_or_else(|| Error::OutcomeUnknown {
                        what: format!("'{key}'"),
                    }));
                }
                Err(error) => tracing::debug!(%error, "reading the manifest failed"),
            }
        }
        // It may be sealed with our files: they stay. A refresh will tell.
        locked(&self.state).hands_off = true;
        Err(Error::OutcomeUnknown {
            what: format!("'{key}'"),
        })
    }

    async fn attempt(
        &self,
        bucket: &BucketContents,
        key: &ObjectKey,
        manifest: &Bytes,
        put_id: &PutId,
    ) -> Attempt {
        let lock = match self.nothing_lost().and_then(|()| self.lock()) {
            Ok(lock) => lock,
            Err(error) => return Attempt::Failed(error),
        };
        let conditional = bucket.capabilities.conditional_create;
        if !conditional {
            // Under the locks of group and snapshot, and A3, nobody comes between this and the put.
            match self.committer_of(bucket, key, manifest, put_id).await {
                Ok(Committer::Nobody) => {}
                Ok(Committer::We(etag)) => return Attempt::Sealed(etag),
                Ok(Committer::Another) => return Attempt::Failed(self.conflict()),
                Err(error) => return Attempt::Open(error),
            }
        }
        let pass = match self.snapshots.fence().check().await {
            Ok(pass) => pass,
            Err(Error::Store(error)) if error.kind.is_transient() => {
                return Attempt::Open(error.into());
            }
            Err(error) => return Attempt::Failed(error),
        };
        Step::SealFenced.passed();
        let mut put = Put::new(key.clone(), manifest.clone());
        if conditional {
            put = put.when(Precondition::Absent);
        }
        put.put_id = Some(put_id.clone());
        put.metadata = self.committer.clone();
        put.validity = Some(pass.validity());
        let unknown = || Error::OutcomeUnknown {
            what: format!("'{key}'"),
        };
        let error = match bucket.store.put(put).await {
            Ok(answer) => {
                lock.note_lost(answer.lost_at);
                match answer.value {
                    PutOutcome::Created { etag, .. } => return Attempt::Sealed(etag),
                    // Neither had an effect.
                    PutOutcome::Conflict | PutOutcome::Expired => {
                        return Attempt::Open(Error::Busy(format!(
                            "the manifest of {} could not be written in time",
                            self.id
                        )));
                    }
                    PutOutcome::Unknown => {
                        lock.note_lost(Some(self.env().instant()));
                        unknown()
                    }
                    PutOutcome::Exists => unknown(),
                }
            }
            Err(error) => {
                lock.note_lost(error.lost_at);
                let passing = error.kind.is_transient() || error.maybe_applied;
                if !passing && error.lost_at.is_none() {
                    return Attempt::Failed(error.into());
                }
                error.into()
            }
        };
        match self.committer_of(bucket, key, manifest, put_id).await {
            Ok(Committer::We(etag)) => Attempt::Sealed(etag),
            Ok(Committer::Another) => Attempt::Failed(self.conflict()),
            Ok(Committer::Nobody) => Attempt::Open(error),
            Err(failure) => Attempt::Open(failure),
        }
    }

    /// Reads who sealed the snapshot. A server that keeps no metadata leaves the content to tell.
    async fn committer_of(
        &self,
        bucket: &BucketContents,
        key: &ObjectKey,
        manifest: &Bytes,
        put_id: &PutId,
    ) -> Result<Committer> {
        let Some(answer) = bucket.store.get(key, None).await.optional()? else {
            return Ok(Committer::Nobody);
        };
        let object = answer.value;
        let ours = match object.meta.put_id() {
            Some(found) => found == *put_id,
            None => object.body.into_bytes() == *manifest,
        };
        Ok(if ours {
            Committer::We(object.meta.etag)
        } else {
            Committer::Another
        })
    }

    async fn seal_locally(&self, manifest: Bytes) -> Result<()> {
        self.snapshots.fence().check().await?;
        self.nothing_lost()?;
        let contents = self.snapshots.contents();
        let path = contents.path(&self.id.manifest());
        if contents.exists(&self.id.manifest()).await? {
            return Err(self.conflict());
        }
        let (sync, unique) = (contents.sync_level(), self.env().new_id());
        let temporary = contents.temporary();
        self.env()
            .io(move |files| {
                let dir = path.parent().unwrap_or(&path);
                files.create_dirs(dir).about(dir)?;
                match sync {
                    SyncLevel::None => {}
                    SyncLevel::Filesystem => files.sync_file_system(dir).about(dir)?,
                    SyncLevel::File => {
                        // The names of the folders that are new lie above.
                        for above in dir.ancestors().take(4) {
                            files.sync_dir(above).about(above)?;
                        }
                    }
                }
                replace(files, &temporary, &path, &[manifest], &unique).about(&path)
            })
            .await?;
        Step::SealPut.passed();
        self.snapshots.changed(&self.id);
        Step::SealVisible.passed();
        Ok(())
    }

    /// Step 6: the locks go at once, so that the next backup of the group can begin; of what may still arrive only
    /// removal must wait.
    fn let_go(&self) {
        if let Ok(lock) = self.lock() {
            lock.downgrade();
            let conditional = self
                .snapshots
                .contents()
                .bucket()
                .is_none_or(|bucket| bucket.capabilities.conditional_create);
            if !conditional
                && let Err(error) = self.snapshots.keep_from_edits(&self.id, lock.lost())
            {
                tracing::debug!(%error, "the manifest is locked already");
            }
        }
        self.release();
    }
}
