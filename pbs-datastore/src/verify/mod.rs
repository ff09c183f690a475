//! Verification: a snapshot is read back from where it is kept for good, and its manifest told what came of it.
//!
//! One snapshot, which nobody can remove meanwhile
//! 1. The manifest, fetched again from the bucket.
//! 2. Each file, fetched again: of a blob size, checksum and CRC; of an index the size and the checksum of its entries.
//! 3. Each chunk of each index, from the bucket and not from the cache: there at all, CRC, encrypted or not as the file,
//!    and where that can be told digest and length. One digest is read once per [`Verifier`], and not at all if it was
//!    found good not long ago and has had its marker since ([`record`]).
//! 4. The result becomes `verify_state` of the manifest. A *failed* snapshot is no base for the next backup of its group,
//!    which therefore sends everything again and heals what it finds missing.
//!
//! A crash before 4 leaves nothing behind.
//!
//! What is wrong with stored data makes the snapshot failed, and is one line of the job's log. What is wrong with the way
//! to it (an error of S3, of a disk, no memory, a stop) ends the run with an error and changes nothing: it says nothing
//! about the data. A corrupt chunk was read twice before it is called so, and is set aside by whoever the reader tells.
//!
//! A run may read a *sample* of the chunks, or none ([`Verifier::sampling`]). Then what is wanted of the others is that they are there and not too short
//! or too long, as a list says that is made when the run begins ([`inventory`]); a chunk of which it does not say so is read like one of the
//! sample. Files are read from the mirror, which is refreshed before. What is found to be wrong counts as above; what is not says nothing
//! about the rest, so the manifest is told of faults only.
//!
//! A run may be given limits. Once they are used up no chunk is read any more; a snapshot that is not finished by then keeps
//! the state it had, unless a fault was found already. Of a run with a sample they end the sample; the rest is looked for all the same.

pub(crate) mod inventory;
mod progress;
mod record;
mod sample;
mod select;
mod snapshot;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use tokio::time::Instant;

use self::progress::Progress;
use self::record::Loaded;
pub(crate) use self::record::VerifiedChunks;
use self::sample::Sample;
pub use self::select::{VerifyFilter, is_benchmark};

use crate::{
    Datastore, Digest, Error, JobContext, Result, SnapshotRef, VerifyOutcome, VerifyState,
};

/// Chunks read at once.
const READS_MAX: usize = 4;
/// Digests that a run remembers, about 50 bytes each; a chunk beyond them is read once per snapshot that needs it.
const REMEMBERED_MAX: usize = 4 << 20;
/// How often a long run writes down which chunks it has found good.
const SAVE_EVERY: Duration = Duration::from_mins(5);
/// Faults of one snapshot that are logged.
const FAULTS_LOGGED_MAX: u64 = 100;

/// What is known of a chunk that this run has read.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Known {
    Good {
        encrypted: bool,
        /// Of its content; if that is encrypted, as the index that it was read for has it.
        length: u64,
    },
    Bad,
    /// It was not read, and is there.
    Present {
        /// As it is stored.
        length: u64,
    },
}

/// What a run may cost; what is `None` is not limited. The chunks that are being read when a limit is reached come on top.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VerifyLimits {
    /// Bytes of chunks, as they are stored.
    pub bytes_max: Option<u64>,
    /// Chunks. Each is one request to the bucket; the few files of each snapshot are not counted.
    pub chunks_max: Option<u64>,
}

/// What a run has read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VerifyCounts {
    /// Chunks.
    pub chunks: u64,
    /// Their bytes, as they are stored.
    pub bytes: u64,
    /// Chunks that were not read, because they were found good not long ago.
    pub trusted: u64,
    /// Chunks that were not read, and are there.
    pub present: u64,
}

impl VerifyLimits {
    fn is_used_up(&self, counts: VerifyCounts) -> bool {
        self.bytes_max.is_some_and(|max| counts.bytes >= max)
            || self.chunks_max.is_some_and(|max| counts.chunks >= max)
    }
}

/// What came of one snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verified {
    /// All of it was looked at, or enough to know that it is not whole; its manifest says so.
    Done(VerifyOutcome),
    /// All of it is there, and what was read is good.
    Present,
    /// The run's limits are used up, and no fault was found so far.
    OutOfLimits,
}

/// One run of verification over any number of snapshots.
#[derive(Debug)]
pub struct Verifier {
    datastore: Arc<Datastore>,
    known: HashMap<Digest, Known>,
    limits: VerifyLimits,
    /// How long ago a chunk may have been found good and need not be read again.
    trust: Option<SignedDuration>,
    record: Option<Arc<Loaded>>,
    /// What is read if that is not everything.
    sample: Option<Sample>,
    saved: Instant,
    progress: Progress,
}

impl Verifier {
    /// Nothing verified yet.
    pub fn new(datastore: Arc<Datastore>) -> Self {
        Self {
            progress: Progress::new(datastore.env()),
            saved: datastore.env().instant(),
            datastore,
            known: HashMap::new(),
            limits: VerifyLimits::default(),
            trust: None,
            record: None,
            sample: None,
        }
    }

    /// The same, which does not read chunks that were found good less than so many days ago and have been there since.
    #[must_use]
    pub fn trusting(mut self, days: Option<u64>) -> Self {
        self.trust = days.map(select::days);
        self
    }

    /// The same, which reads so many of 100 chunks, chosen anew by each run, and of the others sees to it that they are there. 100 or more is
    /// all of them. Verify only snapshots that were finished before the first call of [`Verifier::verify`].
    #[must_use]
    pub fn sampling(mut self, percent: u64) -> Self {
        self.sample = (percent < 100).then(|| Sample::new(percent, self.datastore.env()));
        self
    }

    /// The same within limits.
    #[must_use]
    pub fn within(mut self, limits: VerifyLimits) -> Self {
        self.limits = limits;
        self
    }

    /// What it has read so far.
    pub fn counts(&self) -> VerifyCounts {
        self.progress.counts()
    }

    /// Verifies a finished snapshot and notes the result down under the task `upid`. Errors are those of the way to the
    /// data, and [`Error::NotFound`] or [`Error::Busy`] if the snapshot is not there or is being removed.
    pub async fn verify(
        &mut self,
        id: &SnapshotRef,
        upid: &str,
        job: &JobContext,
    ) -> Result<Verified> {
        let snapshots = Arc::clone(self.datastore.snapshots());
        if let Some(sample) = &mut self.sample {
            sample.begin(&self.datastore, job).await?;
        }
        let _held = snapshots.hold(id)?;
        job.log(format!("verify snapshot {id}"));
        if self.record.is_none() {
            self.record = Some(self.datastore.verified().open().await);
        }
        let before = self.noted(id).await?;
        let examined = match self.examine(id, job).await {
            Ok(examined) => examined,
            // No memory, say: other than a snapshot that is being removed this is an error.
            Err(Error::Busy(why)) => return Err(Error::Refused(why)),
            Err(error) => return Err(error),
        };
        let faults = examined.faults;
        let state = if faults == 0 && !examined.complete {
            return Ok(Verified::OutOfLimits);
        } else if faults == 0 && self.sample.is_some() {
            return Ok(Verified::Present);
        } else if faults == 0 {
            VerifyOutcome::Ok
        } else {
            job.log(format!("snapshot {id}: {faults} faults"));
            VerifyOutcome::Failed
        };
        let now = self.noted(id).await?;
        let failed_since = now != before && now.is_some_and(|s| s.state == VerifyOutcome::Failed);
        if faults == 0 && failed_since {
            job.log(format!(
                "snapshot {id}: a chunk was found missing meanwhile"
            ));
            return Ok(Verified::Done(VerifyOutcome::Failed));
        }
        let noted = VerifyState {
            upid: upid.to_owned(),
            state,
        };
        match snapshots.set_verify_state(id, Some(&noted)).await {
            Ok(()) => {}
            // What was found is not lost for that.
            Err(error) if faults > 0 => job.log(format!(
                "snapshot {id}: that it is not whole cannot be written down: {error}"
            )),
            Err(error) => return Err(error),
        }
        Ok(Verified::Done(state))
    }

    /// What the manifest says of the last verification.
    async fn noted(&self, id: &SnapshotRef) -> Result<Option<VerifyState>> {
        let state = self.datastore.snapshots().state(id).await?;
        Ok(state
            .manifest()
            .and_then(|manifest| manifest.verify_state()))
    }

    /// Writes the record down if that was long ago.
    async fn save_sometimes(&mut self, job: &JobContext) {
        let now = self.datastore.env().instant();
        if now.duration_since(self.saved) >= SAVE_EVERY {
            self.saved = now;
            self.end(job).await;
        }
    }

    /// Writes down which chunks were found good. A run that is dropped without only has to read them again.
    pub async fn end(&self, job: &JobContext) {
        if let Some(record) = &self.record
            && let Err(error) = self.datastore.verified().save(record).await
        {
            job.log(format!(
                "what was verified cannot be written down, and will be read again: {error}"
            ));
        }
    }

    fn remember(&mut self, digest: Digest, known: Known) {
        if self.known.len() < REMEMBERED_MAX {
            self.known.insert(digest, known);
        }
    }
}

#[cfg(test)]
mod tests;
