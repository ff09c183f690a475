//! Setting a corrupt chunk aside as `<digest>.<n>.bad`, so that the next backup that carries it uploads it again.
//!
//! The caller has read the object twice. For a bucket this is a copy and a delete, and the delete may arrive late; so
//! it takes the condemn path of a delete batch (`condemn.rs`), with the copy between confirming and deleting:
//! 1. condemn under the guard; 2. journal; 3. fence; copy to the first free number; 4. delete; 5. marker and LRU entry;
//! 6. wait if an answer was lost; 7. clear the journal; 8. release.
//!
//! A crash before 4 leaves a copy beside the object, which a collection removes once it has aged; the recovery of the
//! journal drops the marker, so the object is asked for (412) and, being damaged, replaced.
//!
//! Open sessions that rely on the chunk are told first: they fail at `finish` unless it was inserted again.

use std::sync::Arc;

use s3_client::{Copy, Metadata, Optional as _, PutOutcome};

use super::condemn::Condemned;
use super::sweep::Stored;
use super::{Bucket, Collector};
use crate::chunk_store::guard::{Condemnation, Guard};
use crate::chunk_store::location::{ChunkLocation, locate};
use crate::error::About as _;
use crate::files::{Files, optional};
use crate::{BadNumber, Digest, Error, Place, Result};

impl Collector {
    /// Sets a chunk aside; whether it was there. Runs to its end in a task of its own: call it through
    /// [`Env::spawn`](crate::Env::spawn).
    pub(crate) async fn set_aside(self: Arc<Self>, digest: Digest) -> Result<bool> {
        let _batch = self.batch.lock().await;
        self.sessions.announce_lost(&digest);
        let guard = self.table.guard_for_use(digest).await?;
        match self.bucket.clone() {
            Some(bucket) => self.set_object_aside(&bucket, guard).await,
            None => self.set_file_aside(guard).await,
        }
    }

    async fn set_object_aside(&self, bucket: &Bucket, guard: Guard) -> Result<bool> {
        let digest = guard.digest();
        let ChunkLocation::Object(key) = locate(&bucket.layout, &digest);
        let Some(head) = bucket.store.head(&key).await.optional()? else {
            return Ok(false);
        };
        let mut condemnation = Condemnation::default();
        condemnation.add(&guard);
        drop(guard);
        let chunk = Stored {
            digest,
            size: head.value.size,
            written: None,
        };
        let condemned = Condemned {
            chunks: vec![chunk],
            condemnation,
            rescued: 0,
        };
        let confirmed = self.confirm(bucket, condemned.acknowledged()).await?;
        if let Err(error) = self.copy_aside(bucket, digest).await {
            // Without a copy the only copy of the data would go; damaged data may still be worth something.
            self.forget(confirmed.given_up()).await?;
            return Err(error);
        }
        let (deleted, _) = self.delete(bucket, confirmed).await;
        self.forget(deleted).await?;
        Ok(true)
    }

    /// Copies the object to the first free number.
    async fn copy_aside(&self, bucket: &Bucket, digest: Digest) -> Result<()> {
        for number in BadNumber::all() {
            let target = bucket.layout.key(&Place::Bad(digest, number));
            if bucket.store.head(&target).await.optional()?.is_some() {
                continue;
            }
            let ChunkLocation::Object(source) = locate(&bucket.layout, &digest);
            let copy = Copy {
                source,
                target,
                metadata: Metadata::new(),
                validity: None,
            };
            return match bucket.store.copy(copy).await?.value {
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
        let markers = self.markers.clone();
        let work = move |files: &dyn Files| -> Result<bool> {
            let path = markers.path(&guard.digest());
            for number in BadNumber::all() {
                let aside = path.with_file_name(format!("{}.{}.bad", guard.digest(), number.get()));
                if optional(files.stat(&aside)).about(&aside)?.is_none() {
                    return Ok(optional(files.rename(&path, &aside))
                        .about(&path)?
                        .is_some());
                }
            }
            Err(Error::Refused(format!(
                "chunk {} was set aside ten times already",
                guard.digest()
            )))
        };
        self.env.io(work).await
    }
}
