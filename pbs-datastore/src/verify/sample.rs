//! Which chunks a run reads that does not read all of them.

use super::inventory::Inventory;
use crate::{Datastore, Digest, Env, IndexChunk, JobContext, Result};

/// Entries of indexes that are looked up at once.
const BATCH: usize = 4096;

/// A share of all chunks, another one in each run.
#[derive(Debug)]
pub(super) struct Sample {
    percent: u64,
    /// Odd.
    seed: u64,
    inventory: Option<Inventory>,
}

/// The chunks of a file, sorted by what is to be done with them.
#[derive(Debug, Default)]
pub(super) struct Sorted {
    /// To be read, whatever was found earlier.
    pub(super) doubtful: Vec<(IndexChunk, bool)>,
    /// To be read.
    pub(super) chosen: Vec<(IndexChunk, bool)>,
    /// They are there.
    pub(super) present: Vec<Digest>,
}

impl Sample {
    /// So many of 100 chunks.
    pub(super) fn new(percent: u64, env: &Env) -> Self {
        let seed = env.random_16().first_chunk().copied().unwrap_or_default();
        Self {
            percent,
            seed: u64::from_le_bytes(seed) | 1,
            inventory: None,
        }
    }

    /// Whether a chunk is read. Nobody can tell beforehand, so nobody can make chunks that are never read.
    fn chooses(&self, digest: &Digest) -> bool {
        let bits = digest.0.last_chunk().copied().unwrap_or_default();
        let mixed = u64::from_le_bytes(bits).wrapping_mul(self.seed);
        (mixed >> 32) * 100 < self.percent << 32
    }

    /// Makes the mirror what the bucket is, and lists the chunks; once.
    pub(super) async fn begin(&mut self, datastore: &Datastore, job: &JobContext) -> Result<()> {
        if self.inventory.is_none() {
            datastore.snapshots().contents().refresh().await?;
            self.inventory = Some(Inventory::take(datastore, job).await?);
        }
        Ok(())
    }

    pub(super) async fn sort(
        &self,
        datastore: &Datastore,
        encrypted: bool,
        entries: &[(IndexChunk, bool)],
        job: &JobContext,
    ) -> Result<Sorted> {
        let mut sorted = Sorted::default();
        let Some(inventory) = &self.inventory else {
            sorted.chosen = entries.to_vec();
            return Ok(sorted);
        };
        for batch in entries.chunks(BATCH) {
            job.check()?;
            let doubtful = inventory.doubtful(datastore, encrypted, batch.to_vec());
            let mut doubtful = doubtful.await?.into_iter().peekable();
            for (chunk, whole) in batch {
                if let Some(found) = doubtful.next_if(|(other, _)| other.digest == chunk.digest) {
                    sorted.doubtful.push(found);
                } else if self.chooses(&chunk.digest) {
                    sorted.chosen.push((*chunk, *whole));
                } else {
                    sorted.present.push(chunk.digest);
                }
            }
        }
        Ok(sorted)
    }

    /// Forgets the list.
    pub(super) async fn end(&mut self, datastore: &Datastore) -> Result<()> {
        match self.inventory.take() {
            Some(inventory) => inventory.end(datastore.env()).await,
            None => Ok(()),
        }
    }
}
