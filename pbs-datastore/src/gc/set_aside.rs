//! Setting a damaged chunk aside as `<digest>.<n>.bad`, so that the next backup that carries it uploads it again.
//!
//! The caller has read the object, if it is corrupt twice. Meanwhile somebody may have healed it, so it is read again under
//! the guard, until two reads bring the same: what is good stays, and what is missing only loses its marker. One read
//! would not do: the first of the caller's may have met real damage, and ours a fault of the line on what was healed since.
//!
//! For a bucket setting aside is a copy and a delete, and the delete may arrive late; so it takes the condemn path of a
//! delete batch (`condemn.rs`), with the copy between confirming and deleting:
//! 1. read again and condemn, under the guard; 2. journal; 3. fence and epoch; copy to the first free number; 4. delete; 5. marker and LRU entry; 6. wait if an answer was lost; 7. clear the journal; 8. release.
//!
//! A collection that runs meanwhile may have listed the object before it went. Before the release the digest is noted
//! ([`Gone`](super::reconcile::Gone)), so that the old listing does not vouch for it. And nothing is set aside before requests
//! of the time before the start can have no effect any more: a former owner may be healing what we have read.
//!
//! A crash before 4 leaves a copy beside the object, which a collection removes once it has aged; the recovery of the
//! journal drops the marker, so the object is asked for (412). One of another size is replaced then; one that only reads
//! wrong is taken for a duplicate, as always, and set aside by its next reader.
//!
//! Open sessions that rely on the chunk are told under the guard: whoever was told of the chunk before fails at `finish`
//! unless it was inserted again, and whoever wants it afterwards waits for the release.

use std::sync::Arc;

use bytes::Bytes;
use s3_client::{Copy, Optional as _, PutOutcome};

use super::condemn::Condemned;
use super::sweep::Stored;
use super::{Bucket, Collector};
use crate::chunk_store::guard::{Condemnation, Guard};
use crate::chunk_store::location::{ChunkLocation, locate};
use crate::chunk_store::object::{StoredObject, read_object_surely};
use crate::error::About as _;
use crate::files::{Files, optional};
use crate::sabotage::{self, Rule};
use crate::step::Step;
use crate::{BadNumber, DataBlob, Digest, Error, Place, Result};

impl Collector {
    /// Sets a chunk aside that cannot be read; whether there was something to do. Runs to its end in a task of its own:
    /// call it through [`Env::spawn`](crate::Env::spawn).
    pub(crate) async fn set_aside(self: Arc<Self>, digest: Digest) -> Result<bool> {
        let _batch = self.batch.lock().await;
        let guard = self.table.guard_for_use(digest).await?;
        match self.bucket.clone() {
            Some(bucket) => self.set_object_aside(&bucket, guard).await,
            None => self.set_file_aside(guard).await,
        }
    }

    async fn set_object_aside(&self, bucket: &Bucket, guard: Guard) -> Result<bool> {
        let digest = guard.digest();
        let ChunkLocation::Object(key) = locate(&bucket.layout, &digest);
        let Some(stored) = read_object_surely(&*bucket.store, &key).await? else {
            return self.forget_missing(guard).await.map(|()| true);
        };
        let StoredObject { body, size, .. } = stored;
        let body = if sabotage::is_off(Rule::AsideReadsAgain) {
            Bytes::new()
        } else {
            body
        };
        if self.env.compute(move || is_good(&digest, body)).await {
            return Ok(false);
        }
        let not_before = self
            .not_before
            .filter(|_| !sabotage::is_off(Rule::AsideWaits));
        if not_before.is_some_and(|time| self.env.instant() < time) {
            // An owner before us may be healing it still. The next read finds it again.
            tracing::warn!(%digest, "the corrupt chunk is not set aside yet: requests of the time before may arrive");
            return Ok(false);
        }
        if sabotage::is_off(Rule::AsideCondemns) {
            // A rename, as it is made of a bucket's calls.
            self.copy_aside(bucket, digest).await?;
            bucket.store.delete(&[key.into()], None).await?;
            return self.forget_missing(guard).await.map(|()| true);
        }
        let mut condemnation = Condemnation::default();
        self.sessions.announce_lost(&digest);
        condemnation.add(guard);
        let chunk = Stored {
            digest,
            size,
            written: None,
        };
        let condemned = Condemned {
            chunks: vec![chunk],
            condemnation,
            rescued: 0,
        };
        let confirmed = self.confirm(bucket, condemned.acknowledged()).await?;
        // Without a copy the only copy of the data would go; damaged data may still be worth something.
        if let Err(error) = self.copy_aside(bucket, digest).await {
            self.forget(confirmed.given_up()).await?;
            return Err(error);
        }
        Step::AsideCopied.passed();
        let (deleted, _) = self.delete(bucket, confirmed).await;
        let condemnation = self.settle(deleted).await?;
        self.gone.note(digest);
        condemnation.release();
        Ok(true)
    }

    /// Removes the marker of a chunk that is not there: nobody is to be told of it any more.
    async fn forget_missing(&self, guard: Guard) -> Result<()> {
        let digest = guard.digest();
        tracing::error!(%digest, "the chunk is missing; the next backup that carries it uploads it again");
        self.cache_forget(&digest);
        self.sessions.announce_lost(&digest);
        self.gone.note(digest);
        let markers = self.markers.clone();
        let work = move |files: &dyn Files| {
            markers
                .remove(files, &guard)
                .about(markers.path(&guard.digest()))?;
            markers.sync(files).about(markers.chunks())
        };
        self.env.io(work).await
    }

    /// Copies the object to the first free number.
    async fn copy_aside(&self, bucket: &Bucket, digest: Digest) -> Result<()> {
        for number in BadNumber::all() {
            let target = bucket.layout.key(&Place::Bad(digest, number));
            if bucket.store.head(&target).await.optional()?.is_some() {
                continue;
            }
            let ChunkLocation::Object(source) = locate(&bucket.layout, &digest);
            return match bucket.store.copy(Copy::new(source, target)).await?.value {
                PutOutcome::Created { .. } => Ok(()),
                outcome => Err(Error::OutcomeUnknown {
                    what: format!("the copy of corrupt chunk {digest}: {outcome:?}"),
                }),
            };
        }
        Err(Error::Refused(format!(
            "chunk {digest} was set aside ten times already; look for failing hardware"
        )))
    }

    async fn set_file_aside(&self, guard: Guard) -> Result<bool> {
        let (markers, sessions) = (self.markers.clone(), Arc::clone(&self.sessions));
        let work = move |files: &dyn Files| -> Result<bool> {
            let digest = guard.digest();
            let path = markers.path(&digest);
            // One good read of two is enough.
            for _ in 0..2 {
                let stored = optional(files.read(&path)).about(&path)?;
                if stored.is_some_and(|stored| is_good(&digest, stored)) {
                    return Ok(false);
                }
            }
            sessions.announce_lost(&digest);
            for number in BadNumber::all() {
                let aside = path.with_file_name(format!("{digest}.{}.bad", number.get()));
                if optional(files.stat(&aside)).about(&aside)?.is_none() {
                    let renamed = optional(files.rename(&path, &aside)).about(&path)?;
                    Step::AsideRenamed.passed();
                    return Ok(renamed.is_some());
                }
            }
            Err(Error::Refused(format!(
                "chunk {digest} was set aside ten times already; look for failing hardware"
            )))
        };
        self.env.io(work).await
    }
}

/// Whether stored bytes are the chunk, as far as can be told without its key. Not the tag: servers that encrypt make tags
/// that only look like sums of the contents, and a chunk that can be read is not to be moved away for that.
fn is_good(digest: &Digest, stored: Bytes) -> bool {
    DataBlob::parse_chunk(stored, digest).is_ok()
}
