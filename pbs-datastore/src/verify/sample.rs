//! Which chunks a run reads that does not read all of them.

use sha2::{Digest as _, Sha256};

use super::inventory::{Inventory, fits};
use super::snapshot::BATCH;
use crate::{Datastore, Digest, Env, IndexChunk, JobContext, Result};

/// A share of all chunks, another one in each run.
#[derive(Debug)]
pub(super) struct Sample {
    percent: u64,
    seed: [u8; 16],
    inventory: Option<Inventory>,
}

/// The chunks of a file, sorted by what is to be done with them.
#[derive(Debug, Default)]
pub(super) struct Sorted {
    /// To be read, whatever was found earlier.
    pub(super) doubtful: Vec<(IndexChunk, bool)>,
    /// To be read.
    pub(super) chosen: Vec<(IndexChunk, bool)>,
    /// They are there, and so long.
    pub(super) present: Vec<(Digest, u64)>,
}

impl Sample {
    /// So many of 100 chunks.
    pub(super) fn new(percent: u64, env: &Env) -> Self {
        Self {
            percent,
            seed: env.random_16(),
            inventory: None,
        }
    }

    /// Whether a chunk is read. Nobody can tell beforehand, so nobody can make chunks that are never read.
    fn chooses(&self, digest: &Digest) -> bool {
        let hash = Sha256::new().chain_update(self.seed);
        let hash: [u8; 32] = hash.chain_update(digest.as_bytes()).finalize().into();
        let drawn = u64::from(u32::from_le_bytes([hash[0], hash[1], hash[2], hash[3]]));
        drawn * 100 < self.percent << 32
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
        let mut entries = entries.to_vec();
        entries.sort_unstable_by_key(|(chunk, _)| chunk.digest);
        for batch in entries.chunks(BATCH) {
            job.check()?;
            let digests = batch.iter().map(|(chunk, _)| chunk.digest).collect();
            let lengths = inventory.lengths(datastore, digests).await?;
            for ((chunk, whole), length) in batch.iter().zip(lengths) {
                let length = length.filter(|length| fits(chunk, *whole, encrypted, *length));
                match length {
                    None => sorted.doubtful.push((*chunk, *whole)),
                    Some(_) if self.chooses(&chunk.digest) => sorted.chosen.push((*chunk, *whole)),
                    Some(length) => sorted.present.push((chunk.digest, length)),
                }
            }
        }
        Ok(sorted)
    }
}
