//! Inserting a chunk: the path on which nothing may be lost (design 4).
//!
//! Steps for a bucket
//! 1. The blob is verified (I7) before the guard is taken; then the guard, waiting while the digest is condemned (I5).
//! 2. Marker there → touch it, answer *duplicate*. No request.
//! 3. Touch the upload marker (I4).
//! 4. `PUT If-None-Match: *`; `upload.rs` has every answer. The last attempt is unconditional for what is verified.
//! 5. Cache insert: the marker appears, with the chunk or empty.
//! 6. Remove the upload marker; record in the session what it was told; answer.
//!
//! A directory has no steps 3, 4 and 6: temporary file, sync by level, rename.
//!
//! From step 3 on the insert runs in a task of the datastore: a request that is dropped only stops waiting. The guard
//! is held to the end of step 6, so whoever wants the same digest waits and then starts over at step 1, finds the
//! marker and touches it in his own right: one PUT for all.
//!
//! | Crash after | left behind | mended by |
//! |---|---|---|
//! | 3 | an upload marker | GC, once it is older than the cutoff |
//! | 4 | an object without marker | the next insert (412), or GC once it has aged |
//! | 5 | an upload marker | GC |
//!
//! A PUT whose answer was lost may take effect late. Its content is right for its key, or it carries the condition that
//! nothing is there (I11), so all it can leave is an object nobody asked for, which GC removes. A failed insert leaves its upload marker behind: another may rely on it.
//!
//! Kept: I1 (answered after step 4), I2, I3, I4, I5, I7, I11 (`upload.rs`).

use std::sync::Arc;

use bytes::Bytes;
use s3_client::ObjectStore;
use tokio::time::Instant;

use super::copy::BucketPlace;
use super::guard::{ChunkTable, Guard};
use super::marker::{Marker, Markers, Nature};
use super::upload::{Upload, Verdict, judge, same_nature};
use crate::cache::Cache;
use crate::error::About as _;
use crate::files::Files;
use crate::sabotage::{self, Rule};
use crate::session::SessionHandle;
use crate::step::Step;
use crate::usage::Added;
use crate::{
    BlobError, BucketLayout, CHUNK_BYTES_MAX, DataBlob, DatastoreConfig, Digest, Env, Error,
    IndexChunk, Result, SyncLevel, WriterSession,
};

/// What an insert came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// The chunk was not there.
    New,
    /// It was there already.
    Duplicate,
}

/// The bucket side of the chunk store.
#[derive(Clone, Debug)]
pub(crate) struct ChunkBucket {
    /// Limits and metering, no retries: insert knows what is safe to repeat.
    pub(crate) once: Arc<dyn ObjectStore>,
    /// With retries, for questions.
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) layout: BucketLayout,
    /// `If-None-Match: *` works.
    pub(crate) conditional_create: bool,
    /// `If-Match` works on puts.
    pub(crate) conditional_overwrite: bool,
    /// Where it is, if the server may copy from one bucket to another.
    pub(crate) place: Option<BucketPlace>,
    pub(crate) cache: Arc<Cache>,
}

/// Inserts chunks.
#[derive(Debug)]
pub(crate) struct ChunkStore {
    pub(crate) env: Env,
    pub(crate) config: Arc<DatastoreConfig>,
    pub(crate) table: Arc<ChunkTable>,
    pub(crate) markers: Markers,
    pub(crate) bucket: Option<ChunkBucket>,
    /// Told of what is stored.
    pub(crate) added: Arc<Added>,
    /// Until then nothing is answered: the markers were dropped, and requests of an earlier life may still arrive (I3).
    pub(crate) not_before: Option<Instant>,
}

/// A chunk whose content was checked as far as the daemon can.
#[derive(Clone, Debug)]
pub struct VerifiedChunk {
    pub(super) blob: DataBlob,
    pub(super) digest: Digest,
    size: u32,
}

impl VerifiedChunk {
    /// Checks an uploaded blob (I7): structure, and for unencrypted ones digest and length. The CRC is computed anew,
    /// as senders may leave it out. Takes milliseconds for a large chunk: call it off the runtime's threads.
    pub fn check(blob: DataBlob, digest: Digest, size: u32) -> Result<Self> {
        let corrupt = |fault: crate::BlobError| Error::ChunkCorrupt {
            digest,
            fault: fault.to_string(),
        };
        blob.verify_chunk(&digest, Some(u64::from(size)))
            .map_err(corrupt)?;
        Ok(Self {
            blob: blob.with_computed_crc(),
            digest,
            size,
        })
    }

    /// Checks a blob that was stored elsewhere, for the entry of an index that names it (I7): its CRC, whether it is
    /// encrypted like the archive, and for unencrypted ones digest and length. `whole` is false for the last chunk of an image, which
    /// may be longer than the image. As [`check`](Self::check), to be called off the runtime's threads.
    pub(crate) fn check_copy(
        blob: DataBlob,
        entry: &IndexChunk,
        whole: bool,
        nature: Nature,
    ) -> std::result::Result<Self, String> {
        blob.verify_crc().map_err(|error| error.to_string())?;
        match (blob.is_encrypted(), nature) {
            (true, Nature::Plain) => return Err("it is encrypted, the archive is not".to_owned()),
            (false, Nature::Encrypted) => {
                return Err("it is not encrypted, the archive is".to_owned());
            }
            _ => {}
        }
        let size = match blob.verify_chunk(&entry.digest, Some(entry.len())) {
            Ok(()) => entry.len(),
            Err(BlobError::SizeMismatch { actual, .. }) if !whole && actual > entry.len() => {
                blob.verify_chunk(&entry.digest, None)
                    .map_err(|error| error.to_string())?;
                actual
            }
            Err(error) => return Err(error.to_string()),
        };
        Ok(Self {
            blob,
            digest: entry.digest,
            size: u32::try_from(size).unwrap_or(u32::MAX),
        })
    }

    /// Bytes as stored.
    pub fn encoded_len(&self) -> usize {
        self.blob.encoded_len()
    }

    /// Its digest.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    pub(super) fn nature(&self) -> Nature {
        Nature::of(self.blob.is_encrypted())
    }

    /// The blob as it would be stored.
    #[cfg(test)]
    pub(crate) fn blob_for_tests(&self) -> &DataBlob {
        &self.blob
    }
}

/// How a session wants its chunks kept.
#[derive(Clone, Copy, Debug, Default)]
pub struct InsertOptions {
    /// Leave no content in the cache.
    pub no_cache: bool,
}

/// What a marker says of a chunk that is to be inserted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// There is none.
    No,
    /// It is stored.
    Yes,
    /// Something is stored under its digest; a listing has shown it, which does not tell its nature.
    OfUnknownNature,
}

pub(super) fn nature_conflict(digest: Digest, ours: Nature) -> Error {
    let fault = match ours {
        Nature::Encrypted => "an encrypted chunk was uploaded where an unencrypted one is stored",
        Nature::Plain | Nature::Unknown => {
            "an unencrypted chunk was uploaded where an encrypted one is stored"
        }
    };
    Error::NatureConflict { digest, fault }
}

impl ChunkStore {
    pub(super) async fn ready(&self) {
        if sabotage::is_off(Rule::UntrustedWaits) {
            return;
        }
        if let Some(time) = self.not_before {
            tokio::time::sleep_until(time).await;
        }
    }

    /// Inserts a chunk for a session. When this returns `Ok`, the chunk is in the backend (I1) and protected from
    /// garbage collection for as long as the session is open (I2).
    pub(crate) async fn insert(
        self: &Arc<Self>,
        session: &WriterSession,
        chunk: VerifiedChunk,
        options: InsertOptions,
    ) -> Result<Inserted> {
        self.ready().await;
        session.alive()?;
        let handle = session.handle();
        let waited =
            sabotage::is_off(Rule::JoinerTouches) && self.table.try_guard(chunk.digest).is_none();
        let guard = self.table.guard_for_use(chunk.digest).await?;
        Step::InsertGuarded.passed();
        if waited && self.marker(chunk.digest).await?.is_some() {
            handle.tell(chunk.digest, chunk.size)?;
            return Ok(Inserted::Duplicate);
        }
        let mut known = Known::No;
        if self.bucket.is_some() {
            known = self.touch(&guard, chunk.nature()).await?;
        }
        if known == Known::Yes {
            Step::InsertTouched.passed();
            handle.tell(chunk.digest, chunk.size)?;
            return Ok(Inserted::Duplicate);
        }
        let this = Arc::clone(self);
        let rest = async move {
            let bytes = chunk.encoded_len() as u64;
            let inserted = match &this.bucket {
                Some(bucket) => {
                    let upload = Upload {
                        store: &this,
                        bucket,
                        chunk: &chunk,
                        look_first: known == Known::OfUnknownNature,
                    };
                    this.insert_into_bucket(upload, guard, handle, options)
                        .await
                }
                None => this.insert_into_directory(guard, chunk, handle).await,
            };
            if let Ok(Inserted::New) = inserted {
                this.added.add(bytes);
            }
            inserted
        };
        if sabotage::is_off(Rule::InsertDetached) {
            return rest.await;
        }
        let task = self.env.spawn(rest);
        task.await
            .map_err(|_| Error::Refused("an insert has panicked".to_owned()))?
    }

    async fn marker(&self, digest: Digest) -> Result<Option<Marker>> {
        let markers = self.markers.clone();
        self.env
            .io(move |files: &dyn Files| markers.get(files, &digest))
            .await
            .about(self.markers.chunks())
    }

    /// Step 2: records a use if there is a marker. Refuses a chunk of the other nature.
    pub(super) async fn touch(&self, guard: &Guard, nature: Nature) -> Result<Known> {
        let (markers, env, digest) = (self.markers.clone(), self.env.clone(), guard.digest());
        let touched = self.env.io(move |files: &dyn Files| {
            let Some(marker) = markers.get(files, &digest)? else {
                return Ok(Some(Known::No));
            };
            if !marker.nature.agrees_with(nature) {
                return Ok(None);
            }
            let known = match marker.nature {
                _ if !markers.touch(files, &digest, env.now())? => Known::No,
                _ if sabotage::is_off(Rule::UnknownNatureLookedAt) => Known::Yes,
                Nature::Unknown => Known::OfUnknownNature,
                Nature::Plain | Nature::Encrypted => Known::Yes,
            };
            Ok(Some(known))
        });
        let known = touched.await.about(self.markers.path(&digest))?;
        known.ok_or_else(|| nature_conflict(digest, nature))
    }

    /// Steps 3 to 6 for a bucket.
    async fn insert_into_bucket(
        &self,
        upload: Upload<'_>,
        guard: Guard,
        session: SessionHandle,
        options: InsertOptions,
    ) -> Result<Inserted> {
        let (bucket, chunk) = (upload.bucket, upload.chunk);
        // 3.
        let marker_first = !sabotage::is_off(Rule::MarkerBeforeUpload);
        let guard = if marker_first {
            self.touch_upload(guard).await?
        } else {
            guard
        };
        Step::InsertMarked.passed();
        // 4.
        let inserted = upload.run().await?;
        Step::InsertPut.passed();
        // 5. and 6. Of a duplicate the backend has accepted other bytes than ours, so only its existence is recorded.
        let (header, payload) = chunk.blob.parts();
        let (content, keep) = (
            [header, payload],
            inserted == Inserted::New && !options.no_cache,
        );
        let content = if keep { &content[..] } else { &[] };
        let kept = (content, chunk.nature());
        self.record_insert(bucket, guard, kept, chunk.size, session)
            .await?;
        Ok(inserted)
    }

    /// Steps 5 and 6 for a bucket: what is kept of a chunk of `size` bytes that the backend has, and what the session is told.
    pub(super) async fn record_insert(
        &self,
        bucket: &ChunkBucket,
        guard: Guard,
        (content, nature): (&[Bytes], Nature),
        size: u32,
        session: SessionHandle,
    ) -> Result<()> {
        // 5.
        let (now, digest) = (self.env.now(), guard.digest());
        let inserted = bucket.cache.insert(guard, content, nature, now, now);
        let (guard, kept) = inserted.await;
        kept?;
        Step::InsertCached.passed();
        // 6.
        let markers = self.markers.clone();
        let removed = self
            .env
            .io(move |files: &dyn Files| markers.remove_upload(files, &digest))
            .await;
        if let Err(error) = removed {
            // It protects longer than it needs to; GC removes it.
            tracing::debug!(%digest, %error, "upload marker not removed");
        }
        session.tell(digest, size)?;
        Step::InsertTold.passed();
        drop(guard);
        Ok(())
    }

    pub(super) async fn touch_upload(&self, guard: Guard) -> Result<Guard> {
        let (markers, env) = (self.markers.clone(), self.env.clone());
        let work = move |files: &dyn Files| {
            markers
                .touch_upload(files, &guard, env.now())
                .map(|()| guard)
        };
        self.env.io(work).await.about(self.markers.uploads())
    }

    /// The whole insert into a directory (interface 6.5).
    async fn insert_into_directory(
        &self,
        guard: Guard,
        chunk: VerifiedChunk,
        session: SessionHandle,
    ) -> Result<Inserted> {
        let (markers, env) = (self.markers.clone(), self.env.clone());
        let (sync, unique) = (self.config.sync_level == SyncLevel::File, self.env.new_id());
        let (digest, size) = (chunk.digest, chunk.size);
        let work = move |files: &dyn Files| {
            let inserted = write_chunk_file(files, &markers, &env, &guard, &chunk, sync, &unique);
            inserted.map(|inserted| (inserted, guard))
        };
        let (inserted, guard) = self.env.io(work).await?;
        Step::InsertFile.passed();
        session.tell(digest, size)?;
        drop(guard);
        Ok(inserted)
    }
}

/// The insert into a directory, as file work under the guard.
fn write_chunk_file(
    files: &dyn Files,
    markers: &Markers,
    env: &Env,
    guard: &Guard,
    chunk: &VerifiedChunk,
    sync: bool,
    unique: &str,
) -> Result<Inserted> {
    let digest = chunk.digest;
    let path = markers.path(&digest);
    if let Some(there) = markers
        .get(files, &digest)
        .about(&path)?
        .filter(|there| there.size > 0)
    {
        let ours = chunk.blob.kind();
        let same = there.size == chunk.encoded_len() as u64
            && same_nature(&files.read_at(&path, 0, 8).about(&path)?, ours);
        let verdict = if same {
            Verdict::Good
        } else {
            let stored = files.read(&path).about(&path)?;
            judge(&stored, &digest, ours)
        };
        match verdict {
            Verdict::Conflict => return Err(nature_conflict(digest, chunk.nature())),
            Verdict::Good => {
                if markers.touch(files, &digest, env.now()).about(&path)? {
                    return Ok(Inserted::Duplicate);
                }
            }
            Verdict::Damaged => {
                tracing::warn!(%digest, "the file of this chunk is damaged and is replaced by a verified upload");
            }
        }
    }
    let (header, payload) = chunk.blob.parts();
    markers
        .put_chunk_file(files, guard, &[header, payload], env.now(), unique, sync)
        .about(&path)?;
    Ok(Inserted::New)
}

/// Largest plain size a session can be told; checked where sizes enter.
const _: () = assert!(CHUNK_BYTES_MAX <= u32::MAX as usize);

#[cfg(test)]
mod tests;
