//! When a job is due: computed from its schedule and its past, never stored (decision 0012).

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use sha2::{Digest as _, Sha256};

use super::key::{JobKey, PlannedJob};
use super::record::JobRecord;

/// The next time at which the job is due, which may have passed; `None` if it does not run by itself, or has not been seen
/// yet.
pub(crate) fn next_run(job: &PlannedJob, record: &JobRecord, zone: &TimeZone) -> Option<Timestamp> {
    let due = job.schedule.as_ref()?.next(record.counts_from()?, zone)?;
    due.checked_add(jitter(&job.key, due, job.jitter_seconds))
        .ok()
}

/// The delay of one run: the same whenever and wherever it is computed, and another for every job and time.
fn jitter(key: &JobKey, due: Timestamp, seconds_max: u64) -> SignedDuration {
    let mut hash = Sha256::new();
    hash.update(key.kind.name());
    hash.update([0]);
    hash.update(&key.id);
    hash.update(due.as_second().to_le_bytes());
    let digest: [u8; 32] = hash.finalize().into();
    let drawn = digest[..8]
        .iter()
        .fold(0_u64, |drawn, byte| drawn << 8 | u64::from(*byte));
    SignedDuration::from_secs((drawn % seconds_max.saturating_add(1)) as i64)
}
