//! Condemn: deletes a batch of candidates so that nobody is told a chunk is there that is on its way out (I5, I8).
//!
//! Runs in a task of its own that nobody cancels. The steps of a batch, each a state that is moved on:
//! 1. *Condemned*: under each guard (busy = in use: skipped) all marks are checked again and the digest is condemned,
//!    in one step. With that it is *acknowledged* as well: this process is the only writer (A3), so nobody else has to be
//!    asked to condemn it too.
//! 2. The digests are written to the journal, synced.
//! 3. *Confirmed*: the fence says that this process still owns the prefix, the cache directory's record that it is still that of
//!    this start, and the epoch is raised, in the bucket and then in the cache directory (I3). With every batch, and after its journal: a copy of the directory that is put back later has
//!    either another epoch than the bucket, or the journal of the last batch.
//! 4. *Deleted*: the delete requests are sent, a few side by side, signed with the fence's date.
//! 5. Marker, upload marker and LRU entry of **every** key are removed whatever its result, and the removal is synced:
//!    of a refused or unknown key nobody knows what is there, so nobody may vouch for it.
//! 6. If the answer of any attempt was lost: wait until T after it.
//! 7. The journal is cleared, synced.
//! 8. *Released*: who waited starts over.
//!
//! | Crash or error after | left behind | mended by |
//! |---|---|---|
//! | 1 | nothing (condemnation is in memory) | – |
//! | 2, 3 | a journal whose requests were never sent | recovery: treated as if they had been |
//! | 4 | objects gone or not, markers vouch for them | recovery removes the markers, holds the digests until T |
//! | 5, 6 | objects gone or not, no markers | recovery as above; the next collection deletes what is left |
//! | 7, 8 | nothing | – |
//!
//! An *error* in 5 or 7, or a panic, leaves the digests condemned until a restart: releasing them could vouch for a deleted
//! chunk. Nobody waits for a release that does not come; whoever needs such a digest is refused.
//! Nothing is deleted a second time: somebody may have uploaded it again since.

use std::sync::Arc;

use futures_util::future::join_all;
use futures_util::{StreamExt as _, stream};
use jiff::Timestamp;
use s3_client::{DeleteOutcome, DeleteRequest, ObjectKey};
use tokio::time::Instant;

use super::cutoff::Cutoff;
use super::sweep::Stored;
use super::{Bucket, Collector};
use crate::chunk_store::guard::{Condemnation, Guard};
use crate::chunk_store::location::{ChunkLocation, locate};
use crate::chunk_store::marker::Markers;
use crate::chunk_store::protection::{Protection, Uploads};
use crate::error::About as _;
use crate::files::Files;
use crate::owner::FencePass;
use crate::sabotage::{self, Rule};
use crate::step::Step;
use crate::{Digest, Error, Result};

/// Digests that are looked at, or removed, in one piece of file work; the pieces of a batch run side by side.
const PIECE_KEYS: usize = 1000;

/// What became of one batch.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct BatchResult {
    pub(super) removed_chunks: u64,
    pub(super) removed_bytes: u64,
    pub(super) refused: u64,
    pub(super) unknown: u64,
    pub(super) rescued: u64,
}

/// Step 1 is done.
#[derive(Debug)]
pub(super) struct Condemned {
    pub(super) chunks: Vec<Stored>,
    pub(super) condemnation: Condemnation,
    pub(super) rescued: u64,
}

impl Condemned {
    /// Every writer of the prefix has condemned the digests: here that is this process alone.
    pub(super) fn acknowledged(self) -> Acknowledged {
        Acknowledged {
            chunks: self.chunks,
            condemnation: self.condemnation,
        }
    }
}

/// No writer says of these digests that they are there; only that can be confirmed.
#[derive(Debug)]
pub(super) struct Acknowledged {
    chunks: Vec<Stored>,
    condemnation: Condemnation,
}

/// Steps 2 and 3 are done; deletes take nothing else.
#[derive(Debug)]
pub(super) struct Confirmed {
    chunks: Vec<Stored>,
    condemnation: Condemnation,
    pass: FencePass,
}

impl Confirmed {
    /// No delete is sent after all; the markers go all the same, and the digests are released.
    pub(super) fn given_up(self) -> Deleted {
        Deleted {
            condemnation: self.condemnation,
            lost_at: None,
            refused: Vec::new(),
        }
    }
}

/// Step 4 is done.
#[derive(Debug)]
pub(super) struct Deleted {
    condemnation: Condemnation,
    lost_at: Option<Instant>,
    refused: Vec<Digest>,
}

/// What one request of step 4 came to, or all of them.
#[derive(Debug, Default)]
struct DeletedPart {
    result: BatchResult,
    refused: Vec<Digest>,
    /// When the last attempt without an answer was given up.
    lost_at: Option<Instant>,
}

impl DeletedPart {
    fn note(&mut self, chunk: &Stored, outcome: &DeleteOutcome) {
        match outcome {
            DeleteOutcome::Deleted | DeleteOutcome::NotFound => {
                self.result.removed_chunks += 1;
                self.result.removed_bytes += chunk.size;
            }
            DeleteOutcome::Unknown => self.result.unknown += 1,
            DeleteOutcome::PreconditionFailed
            | DeleteOutcome::Locked
            | DeleteOutcome::Expired
            | DeleteOutcome::Refused(_) => {
                tracing::debug!(digest = %chunk.digest, ?outcome, "chunk not deleted");
                self.refused.push(chunk.digest);
                self.result.refused += 1;
            }
        }
    }

    fn add(&mut self, part: Self) {
        self.result.removed_chunks += part.result.removed_chunks;
        self.result.removed_bytes += part.result.removed_bytes;
        self.result.refused += part.result.refused;
        self.result.unknown += part.result.unknown;
        self.refused.extend(part.refused);
        self.lost_at = self.lost_at.max(part.lost_at);
    }
}

/// Whether all marks of a candidate are older than the cutoff; file work under its guard.
fn is_unused(
    files: &dyn Files,
    markers: &Markers,
    protection: &Protection<'_>,
    digest: &Digest,
    cutoff: Timestamp,
) -> Result<bool> {
    let marker = markers
        .get(files, digest)
        .about_file(|| markers.path(digest))?
        .map(|marker| marker.used);
    let upload = protection.upload(digest)?;
    let using = protection.using_since(digest)?;
    Ok([marker, upload, using]
        .into_iter()
        .flatten()
        .all(|used| used < cutoff))
}

/// File work of step 1 for a piece of a batch: what was condemned, and an error of whatever could not be looked at.
fn condemn_piece(
    files: &dyn Files,
    markers: &Markers,
    piece: Vec<(Stored, Guard)>,
    cutoff: Timestamp,
) -> (Vec<Stored>, Condemnation, Option<Error>) {
    let (mut chunks, mut condemnation) = (Vec::new(), Condemnation::default());
    let mut fault = None;
    // All guards are held by now, so nobody can begin an upload of these chunks after the directory was listed.
    let protection = match Protection::read(files, markers) {
        Ok(protection) => protection,
        Err(error) => return (chunks, condemnation, Some(error)),
    };
    for (chunk, guard) in piece {
        match is_unused(files, markers, &protection, &chunk.digest, cutoff) {
            Ok(false) => {}
            Ok(true) => {
                condemnation.add(guard);
                chunks.push(chunk);
            }
            Err(error) => fault = Some(error),
        }
    }
    (chunks, condemnation, fault)
}

impl Collector {
    /// Deletes a batch; see the module page.
    pub(super) async fn delete_batch(
        self: Arc<Self>,
        batch: Vec<Stored>,
        cutoff: Cutoff,
    ) -> Result<BatchResult> {
        let _batch = self.batch.lock().await;
        let condemned = self.condemn(batch, cutoff.time).await?;
        Step::BatchCondemned.passed();
        let rescued = condemned.rescued;
        if condemned.chunks.is_empty() {
            return Ok(BatchResult {
                rescued,
                ..BatchResult::default()
            });
        }
        let Some(bucket) = self.bucket.clone() else {
            return self.unlink(condemned).await;
        };
        let confirmed = self.confirm(&bucket, condemned.acknowledged()).await?;
        let (deleted, mut result) = self.delete(&bucket, confirmed).await;
        result.rescued = rescued;
        self.forget(deleted).await?;
        Ok(result)
    }

    /// Step 1. What is condemned already belongs to a batch that has failed, or to the recovery: to condemn it again would be
    /// to release it with this batch, while deletes of that one may be on their way (I8).
    async fn condemn(&self, batch: Vec<Stored>, cutoff: Timestamp) -> Result<Condemned> {
        let before = batch.len();
        if sabotage::is_off(Rule::CheckUnderGuard) {
            let mut condemnation = Condemnation::default();
            for chunk in &batch {
                condemnation.add(self.table.guard(chunk.digest).await);
            }
            return Ok(Condemned {
                chunks: batch,
                condemnation,
                rescued: 0,
            });
        }
        let mut guarded: Vec<(Stored, Guard)> = batch
            .into_iter()
            .filter_map(|chunk| Some((chunk, self.table.try_guard(chunk.digest)?)))
            .filter(|(_, guard)| {
                if sabotage::is_off(Rule::CondemnedLeftAlone) {
                    return true;
                }
                !guard.is_condemned()
            })
            .collect();
        let mut checks = Vec::new();
        while !guarded.is_empty() {
            let rest = guarded.split_off(guarded.len().min(PIECE_KEYS));
            let piece = std::mem::replace(&mut guarded, rest);
            let markers = self.markers.clone();
            let check = move |files: &dyn Files| condemn_piece(files, &markers, piece, cutoff);
            checks.push(self.env.io(check));
        }
        let mut condemned = Condemned {
            chunks: Vec::new(),
            condemnation: Condemnation::default(),
            rescued: 0,
        };
        let mut fault = None;
        for (chunks, condemnation, error) in join_all(checks).await {
            condemned.chunks.extend(chunks);
            condemned.condemnation.join(condemnation);
            fault = fault.or(error);
        }
        condemned.rescued = (before - condemned.chunks.len()) as u64;
        match fault {
            None => Ok(condemned),
            Some(error) => {
                condemned.condemnation.release();
                Err(error)
            }
        }
    }

    /// Steps 2 and 3. No delete has been sent before they end, so an error releases the digests. The roots are not read
    /// again: the fence says that nobody else could have made one, and whatever this process makes a root of was touched
    /// or told to a session, which step 1 has seen.
    pub(super) async fn confirm(
        &self,
        bucket: &Bucket,
        acknowledged: Acknowledged,
    ) -> Result<Confirmed> {
        let Acknowledged {
            chunks,
            condemnation,
        } = acknowledged;
        if let Err(error) = self.no_journal().await {
            condemnation.release();
            return Err(error);
        }
        let digests: Vec<_> = condemnation.digests().collect();
        let (journal, unique) = (self.journal.clone(), self.env.new_id());
        let written = self
            .env
            .io(move |files: &dyn Files| journal.write(files, &digests, &unique))
            .await
            .about(&self.ours);
        Step::BatchJournalled.passed();
        let pass = match written {
            Ok(()) => permission(bucket).await,
            Err(error) => Err(error),
        };
        match pass {
            Ok(pass) => {
                Step::BatchConfirmed.passed();
                Ok(Confirmed {
                    chunks,
                    condemnation,
                    pass,
                })
            }
            Err(error) => {
                let journal = self.journal.clone();
                // A journal that cannot be cleared keeps its digests condemned after the next start: safe.
                self.env
                    .io(move |files: &dyn Files| journal.clear(files).ok())
                    .await;
                condemnation.release();
                Err(error)
            }
        }
    }

    /// Refuses while the journal of another batch is there: of one that failed, or that a crash interrupted and whose
    /// requests may still take effect. Its digests must not be forgotten for those of this batch.
    pub(super) async fn no_journal(&self) -> Result<()> {
        if sabotage::is_off(Rule::JournalReplayed) || sabotage::is_off(Rule::JournalKept) {
            return Ok(());
        }
        let journal = self.journal.clone();
        let exists = self
            .env
            .io(move |files: &dyn Files| journal.exists(files))
            .await
            .about(&self.ours)?;
        if exists {
            return Err(Error::Busy(
                "an earlier batch of deletes has not ended yet; if this persists, restart the daemon".to_owned(),
            ));
        }
        Ok(())
    }

    /// Step 4.
    pub(super) async fn delete(
        &self,
        bucket: &Bucket,
        confirmed: Confirmed,
    ) -> (Deleted, BatchResult) {
        let Confirmed {
            chunks,
            condemnation,
            pass,
        } = confirmed;
        let keys_max = self.config.delete_request_keys_max;
        let parts = chunks
            .chunks(keys_max)
            .map(|part| self.delete_part(bucket, part, &pass));
        let parts: Vec<_> = parts.collect();
        let mut parts = stream::iter(parts).buffered(self.config.delete_requests_max);
        let mut all = DeletedPart::default();
        while let Some(part) = parts.next().await {
            all.add(part);
        }
        drop(parts);
        Step::BatchDeleted.passed();
        (
            Deleted {
                condemnation,
                lost_at: all.lost_at,
                refused: all.refused,
            },
            all.result,
        )
    }

    /// One request of step 4.
    async fn delete_part(
        &self,
        bucket: &Bucket,
        chunks: &[Stored],
        pass: &FencePass,
    ) -> DeletedPart {
        let requests: Vec<DeleteRequest> = chunks
            .iter()
            .map(|chunk| {
                let ChunkLocation::Object(key) = locate(&bucket.layout, &chunk.digest);
                DeleteRequest::from(key)
            })
            .collect();
        let mut part = DeletedPart::default();
        match bucket.store.delete(&requests, Some(pass.validity())).await {
            Ok(answer) => {
                for (chunk, outcome) in chunks.iter().zip(&answer.value) {
                    part.note(chunk, outcome);
                }
                let unknown = part.result.unknown > 0;
                let lost_at = answer.lost_at;
                part.lost_at = lost_at.or_else(|| unknown.then(|| self.env.instant()));
            }
            Err(error) => {
                tracing::warn!(%error, keys = requests.len(), "a batch of deletes was refused");
                part.refused.extend(chunks.iter().map(|chunk| chunk.digest));
                part.result.refused += chunks.len() as u64;
                part.lost_at = error.lost_at;
            }
        }
        part
    }

    /// Steps 5 to 8. On an error the condemnation is dropped, which never releases it.
    pub(super) async fn forget(&self, deleted: Deleted) -> Result<()> {
        self.settle(deleted).await?.release();
        Step::BatchReleased.passed();
        Ok(())
    }

    /// Steps 5 to 7; the caller releases.
    pub(super) async fn settle(&self, deleted: Deleted) -> Result<Condemnation> {
        let Deleted {
            condemnation,
            lost_at,
            refused,
        } = deleted;
        let digests: Vec<_> = condemnation.digests().collect();
        let digests = if sabotage::is_off(Rule::RefusedMarkerRemoved) {
            digests
                .into_iter()
                .filter(|digest| !refused.contains(digest))
                .collect()
        } else {
            digests
        };
        remove_markers(self, digests).await?;
        Step::BatchForgotten.passed();
        let lost_at = lost_at.filter(|_| !sabotage::is_off(Rule::UnknownDeleteWaits));
        if let Some(lost_at) = lost_at {
            tokio::time::sleep_until(lost_at + self.config.late_request_max).await;
            Step::BatchWaited.passed();
        }
        let journal = self.journal.clone();
        self.env
            .io(move |files: &dyn Files| journal.clear(files))
            .await
            .about(&self.ours)?;
        Step::BatchCleared.passed();
        Ok(condemnation)
    }

    /// A directory's batch: the chunk files are the markers and the chunks.
    async fn unlink(&self, condemned: Condemned) -> Result<BatchResult> {
        let Condemned {
            chunks,
            condemnation,
            rescued,
        } = condemned;
        let markers = self.markers.clone();
        let work = move |files: &dyn Files| {
            let mut result = BatchResult {
                rescued,
                ..BatchResult::default()
            };
            for chunk in chunks {
                markers
                    .remove_condemned(files, &chunk.digest)
                    .about_file(|| markers.path(&chunk.digest))?;
                Step::BatchUnlinked.passed();
                result.removed_chunks += 1;
                result.removed_bytes += chunk.size;
            }
            Ok(result)
        };
        let result = self.env.io(work).await;
        // A file that could not be removed is simply still there.
        condemnation.release();
        result
    }

    /// Deletes chunks that were set aside; nobody reads them, so nothing is condemned.
    pub(super) async fn delete_bad(&self, bucket: &Bucket, keys: Vec<ObjectKey>) -> Result<u64> {
        let pass = bucket.owner.fence().check().await?;
        let requests: Vec<_> = keys.into_iter().map(DeleteRequest::from).collect();
        let answer = bucket
            .store
            .delete(&requests, Some(pass.validity()))
            .await?;
        let gone = |outcome: &&DeleteOutcome| {
            matches!(outcome, DeleteOutcome::Deleted | DeleteOutcome::NotFound)
        };
        Ok(answer.value.iter().filter(gone).count() as u64)
    }
}

/// Step 3.
async fn permission(bucket: &Bucket) -> Result<FencePass> {
    let pass = bucket.owner.fence().check().await?;
    if sabotage::is_off(Rule::EpochWithBatch) {
        return Ok(pass);
    }
    bucket.owner.raise_epoch(&pass).await?;
    Ok(pass)
}

/// Step 5, also of the recovery.
async fn remove_markers(collector: &Collector, digests: Vec<Digest>) -> Result<()> {
    for digest in &digests {
        collector.cache_forget(digest);
    }
    let pieces = digests.chunks(PIECE_KEYS).map(|piece| {
        let (markers, piece) = (collector.markers.clone(), piece.to_vec());
        collector.env.io(move |files: &dyn Files| {
            let uploads = Uploads::read(files, &markers);
            piece.iter().try_for_each(|digest| {
                markers
                    .remove_condemned(files, digest)
                    .about_file(|| markers.path(digest))?;
                uploads.remove(digest)
            })
        })
    });
    let removed: Result<()> = join_all(pieces).await.into_iter().collect();
    removed?;
    let markers = collector.markers.clone();
    let sync = move |files: &dyn Files| markers.sync(files).about(markers.chunks());
    collector.env.io(sync).await
}

/// What a crash in the middle of a batch left: digests that a request on its way may still delete.
#[derive(Debug)]
pub(crate) struct Recovery {
    condemnation: Condemnation,
}

impl Recovery {
    /// Reads the journal and condemns what stands in it. Called before anybody but the evictor can use the datastore.
    pub(crate) async fn begin(collector: &Collector) -> Result<Self> {
        let journal = collector.journal.clone();
        let digests = collector
            .env
            .io(move |files: &dyn Files| journal.read(files))
            .await?;
        let digests = if sabotage::is_off(Rule::JournalReplayed) {
            Vec::new()
        } else {
            digests
        };
        let mut condemnation = Condemnation::default();
        for digest in &digests {
            condemnation.add(collector.table.guard(*digest).await);
        }
        let found = !digests.is_empty();
        let digests = if sabotage::is_off(Rule::RecoveryDropsMarkers) {
            Vec::new()
        } else {
            digests
        };
        remove_markers(collector, digests).await?;
        if found {
            Step::RecoveryBegun.passed();
        }
        Ok(Self { condemnation })
    }

    /// How many digests are held.
    pub(crate) fn len(&self) -> usize {
        self.condemnation.len()
    }

    /// Clears the journal and releases the digests; to be called T after the start.
    pub(crate) async fn end(self, collector: &Collector) -> Result<()> {
        let journal = collector.journal.clone();
        collector
            .env
            .io(move |files: &dyn Files| journal.clear(files))
            .await
            .about(&collector.ours)?;
        Step::RecoveryCleared.passed();
        self.condemnation.release();
        Ok(())
    }
}
