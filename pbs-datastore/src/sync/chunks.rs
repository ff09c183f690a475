//! The chunks of one index on their way into a datastore.
//!
//! 1. Those that are there are touched under their guards, in batches ([`ChunkStore::adopt_known`](crate::chunk_store)).
//! 2. The others are copied by the S3 server, where it can (decision 0018), or asked for side by side, checked, and inserted like a client's; each
//!    once however often the index names it. Whatever a copy comes to but a chunk that is there, the chunk is asked for.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::{StreamExt as _, stream};

use super::{Copied, InFlight, SnapshotSource};
use crate::chunk_store::adopt::Relied;
use crate::chunk_store::copy::{CopyRequest, ServerCopy};
use crate::chunk_store::marker::Nature;
use crate::chunk_store::{InsertOptions, VerifiedChunk};
use crate::index::fixed::CHUNK_SIZE;
use crate::progress::Progress;
use crate::sabotage::{self, Rule};
use crate::{
    Chunk, CryptMode, Datastore, Digest, Error, Index, IndexChunk, JobContext, ManifestFile,
    Result, WriterSession,
};

/// Entries of an index that are looked at in one go.
const BATCH: usize = 4096;
/// Chunks that are read back at once.
const READS_MAX: usize = 8;
/// How often a chunk is asked for that comes damaged: once more, for it may have been the way.
const ASKED_MAX: usize = 2;

/// Who brings the chunks of a snapshot, from where, and for whom.
pub(super) struct Bringing<'a> {
    pub(super) datastore: &'a Arc<Datastore>,
    pub(super) session: &'a WriterSession,
    pub(super) source: &'a dyn SnapshotSource,
    pub(super) job: &'a JobContext,
    pub(super) in_flight: &'a InFlight,
    /// Chunks that are there are read, and those that are damaged set aside and brought again.
    pub(super) distrust: bool,
    /// Whose chunks the S3 server may copy.
    pub(super) copier: Option<Copier<'a>>,
}

/// A source whose chunks the server of the target can copy.
#[derive(Clone, Copy)]
pub(super) struct Copier<'a> {
    pub(super) source: &'a Datastore,
    /// Set when the server refuses, which it then would for every chunk of the run.
    pub(super) refused: &'a AtomicBool,
}

/// How a chunk came.
struct Brought {
    bytes: u64,
    by_server: bool,
}

/// An archive whose chunks are brought.
struct Archive<'a> {
    file: &'a ManifestFile,
    index: &'a Index,
    nature: Nature,
}

impl Archive<'_> {
    fn entry(&self, number: u32) -> Option<IndexChunk> {
        self.index.chunk(number as usize)
    }

    /// Whether an entry's chunk is as long as the entry; the last of an image may be longer.
    fn is_whole(&self, number: u32) -> bool {
        matches!(self.index, Index::Dynamic(_)) || number as usize + 1 < self.index.len()
    }

    /// How long the chunk of an entry is at most.
    fn longest(&self, entry: &IndexChunk) -> u64 {
        match self.index {
            Index::Fixed(_) => CHUNK_SIZE,
            Index::Dynamic(_) => entry.len(),
        }
    }
}

impl Bringing<'_> {
    /// Makes sure that every chunk of an index is in the datastore and known to the session.
    pub(super) async fn index(
        &self,
        file: &ManifestFile,
        index: &Index,
        copied: &mut Copied,
    ) -> Result<()> {
        let nature = Nature::of(file.crypt_mode == CryptMode::Encrypt);
        let archive = Archive {
            file,
            index,
            nature,
        };
        let missing = self.adopt(&archive, copied).await?;
        // What mends needs no more room than what it mends.
        if !missing.is_empty() && !self.distrust {
            self.datastore.has_room()?;
        }
        self.fetch(&archive, missing, copied).await
    }

    /// Step 1; answers the entries whose chunks are not there, one of each chunk.
    async fn adopt(&self, archive: &Archive<'_>, copied: &mut Copied) -> Result<Vec<u32>> {
        let mut missing: Vec<u32> = Vec::new();
        let mut number: u32 = 0;
        let mut entries = archive.index.chunks();
        loop {
            self.job.check()?;
            let first = number;
            let (mut asked, mut batch) = (HashSet::new(), Vec::new());
            for entry in entries.by_ref().take(BATCH) {
                if !self.session.uses(&entry.digest) && asked.insert(entry.digest) {
                    let length = u32::try_from(entry.len()).unwrap_or(u32::MAX);
                    batch.push((entry.digest, length));
                }
                number += 1;
            }
            if number == first {
                break;
            }
            let chunks = self.datastore.chunks();
            let adopted = chunks.adopt_known(self.session, &batch, archive.nature);
            let mut absent: HashSet<Digest> = adopted.await?.into_iter().collect();
            if self.distrust && !sabotage::is_off(Rule::MendReadsBack) {
                let there = batch.iter().filter(|(digest, _)| !absent.contains(digest));
                let damaged = self.read_back(there.copied().collect(), archive.nature);
                absent.extend(damaged.await?);
            }
            copied.known += (batch.len() - absent.len()) as u64;
            if !absent.is_empty() {
                let is_absent = |n: &u32| {
                    archive
                        .entry(*n)
                        .is_some_and(|e| absent.contains(&e.digest))
                };
                missing.extend((first..number).filter(is_absent));
            }
        }
        missing.sort_by_cached_key(|number| archive.index.digest(*number as usize));
        missing.dedup_by_key(|number| archive.index.digest(*number as usize));
        missing.sort_unstable();
        Ok(missing)
    }

    /// Reads chunks that are said to be there; answers those that are damaged, which have no marker any more.
    async fn read_back(&self, chunks: Vec<Relied>, nature: Nature) -> Result<Vec<Digest>> {
        let mut reads = stream::iter(chunks)
            .map(|chunk| self.is_damaged(chunk, nature))
            .buffer_unordered(READS_MAX);
        let mut damaged = Vec::new();
        while let Some(digest) = reads.next().await {
            self.job.check()?;
            damaged.extend(digest?);
        }
        Ok(damaged)
    }

    async fn is_damaged(&self, chunk: Relied, nature: Nature) -> Result<Option<Digest>> {
        let (digest, length) = chunk;
        let reader = self.datastore.reader();
        let read = reader.read_stored(&digest, Some(u64::from(length))).await;
        let fault = match read {
            Ok(_) => return Ok(None),
            Err(Error::ChunkMissing { .. }) => "it is missing".to_owned(),
            Err(Error::ChunkCorrupt { fault, .. }) => fault,
            Err(error) => return Err(error),
        };
        self.datastore.set_aside(digest).await?;
        let chunks = self.datastore.chunks();
        let gone = chunks.adopt_known(self.session, &[chunk], nature).await?;
        if gone.is_empty() && reader.read_stored(&digest, None).await.is_err() {
            return Err(Error::ChunkCorrupt {
                digest,
                fault: format!("{fault}; it cannot be set aside yet, try again later"),
            });
        }
        Ok(gone.first().copied())
    }

    /// Step 2.
    async fn fetch(
        &self,
        archive: &Archive<'_>,
        missing: Vec<u32>,
        copied: &mut Copied,
    ) -> Result<()> {
        let env = self.datastore.env();
        let progress = Progress::new(env, self.job, "copied", Some(missing.len() as u64));
        let mut fetched = stream::iter(missing)
            .map(|number| self.one(archive, number))
            .buffer_unordered(InFlight::CHUNKS_MAX);
        while let Some(brought) = fetched.next().await {
            let brought = brought?;
            copied.bytes += brought.bytes;
            copied.by_server += u64::from(brought.by_server);
            copied.chunks += 1;
            progress.add(1, 1);
            self.job.check()?;
        }
        Ok(())
    }

    /// Has the server copy the chunk of an entry; `None` if it has to be brought.
    async fn copied(
        &self,
        archive: &Archive<'_>,
        number: u32,
        entry: &IndexChunk,
    ) -> Result<Option<Brought>> {
        let Some(copier) = self.copier else {
            return Ok(None);
        };
        let digest = entry.digest;
        if copier.refused.load(Ordering::Relaxed) || copier.source.verified().distrusts(&digest) {
            return Ok(None);
        }
        let longest = if archive.is_whole(number) {
            entry.len()
        } else {
            archive.longest(entry)
        };
        let request = CopyRequest {
            digest,
            length: entry.len(),
            longest,
            nature: archive.nature,
        };
        let chunks = self.datastore.chunks();
        let source = copier.source.chunks();
        match chunks.insert_copy(self.session, source, request).await? {
            ServerCopy::There(_, bytes) => {
                return Ok(Some(Brought {
                    bytes,
                    by_server: true,
                }));
            }
            ServerCopy::Bring(why) => {
                tracing::debug!(%digest, why, "a chunk is not copied by the server");
            }
            // What was damaged before it was copied would pass for the chunk of its name.
            ServerCopy::Doubtful => {
                self.datastore.set_aside(digest).await?;
            }
            ServerCopy::Refused(why) => {
                if !copier.refused.swap(true, Ordering::Relaxed) {
                    self.job.log(format!(
                        "the S3 server does not copy from there ({why}): chunks are brought through this machine"
                    ));
                }
            }
        }
        Ok(None)
    }

    /// Brings the chunk of one entry.
    async fn one(&self, archive: &Archive<'_>, number: u32) -> Result<Brought> {
        let Some(entry) = archive.entry(number) else {
            return Ok(Brought {
                bytes: 0,
                by_server: false,
            });
        };
        if let Some(copied) = self.copied(archive, number, &entry).await? {
            return Ok(copied);
        }
        let longest = archive.longest(&entry);
        let _room = self.in_flight.room(longest).await?;
        let mut asked = 0;
        let (chunk, verified) = loop {
            asked += 1;
            let chunk = self.source.chunk(&entry.digest, longest).await?;
            match self.check(archive, number, entry, &chunk).await {
                Ok(verified) => break (chunk, verified),
                Err(why) if asked < ASKED_MAX => {
                    tracing::debug!(digest = %entry.digest, why, "a chunk came damaged and is asked for again");
                }
                Err(fault) => {
                    return Err(Error::ChunkCorrupt {
                        digest: entry.digest,
                        fault: format!(
                            "as the source has it for {}: {fault}; verify the snapshot there",
                            archive.file.name
                        ),
                    });
                }
            }
        };
        let bytes = verified.encoded_len() as u64;
        let options = InsertOptions { no_cache: true };
        let chunks = self.datastore.chunks();
        chunks.insert(self.session, verified, options).await?;
        drop(chunk);
        Ok(Brought {
            bytes,
            by_server: false,
        })
    }

    async fn check(
        &self,
        archive: &Archive<'_>,
        number: u32,
        entry: IndexChunk,
        chunk: &Chunk,
    ) -> std::result::Result<VerifiedChunk, String> {
        let (blob, nature) = ((*chunk).clone(), archive.nature);
        let whole = archive.is_whole(number);
        let check = move || VerifiedChunk::check_copy(blob, &entry, whole, nature);
        self.datastore.env().compute(check).await
    }
}
