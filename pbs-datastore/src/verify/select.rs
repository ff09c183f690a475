//! Which snapshots a run looks at, and in which order (interface 7.4).

use jiff::{SignedDuration, Timestamp};

use crate::{BackupType, SnapshotInfo, SnapshotRef};

/// The group of speed measurements, whose snapshots are never verified.
const BENCHMARK: &str = "benchmark";

/// Which snapshots need to be verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifyFilter {
    /// Pass over snapshots that have a result, good or bad, and are not outdated.
    pub ignore_verified: bool,
    /// After how many days a result counts no more; `None` is never.
    pub outdated_after: Option<u64>,
}

/// Whether a snapshot comes from a measurement of speed.
pub fn is_benchmark(id: &SnapshotRef) -> bool {
    let group = &id.snapshot.group;
    group.kind == BackupType::Host && group.id.as_str() == BENCHMARK
}

impl VerifyFilter {
    /// Those of `all` that need it, in the order in which they are looked at: what was never verified comes first, the newest
    /// of that before the others; then what was verified longest ago. `verified_at` tells when a result is from by the name of
    /// its task; a result from nobody knows when is outdated.
    pub fn select(
        &self,
        all: Vec<SnapshotInfo>,
        now: Timestamp,
        verified_at: impl Fn(&str) -> Option<Timestamp>,
    ) -> Vec<SnapshotInfo> {
        let mut selected: Vec<(Option<Timestamp>, SnapshotInfo)> = all
            .into_iter()
            .filter(|info| info.state.is_root() && !is_benchmark(&info.id))
            .map(|info| {
                let state = info.verification.as_ref();
                let verified = state.map(|s| verified_at(&s.upid).unwrap_or(Timestamp::MIN));
                (verified, info)
            })
            .filter(|(verified, _)| self.needs(*verified, now))
            .collect();
        selected.sort_by(|(left_verified, left), (right_verified, right)| {
            let newer = right.id.snapshot.time.cmp(&left.id.snapshot.time);
            let order = left_verified.cmp(right_verified).then(newer);
            order.then_with(|| left.id.cmp(&right.id))
        });
        selected.into_iter().map(|(_, info)| info).collect()
    }

    /// Whether a snapshot with a result of this moment needs to be looked at again.
    fn needs(&self, verified: Option<Timestamp>, now: Timestamp) -> bool {
        let (true, Some(verified)) = (self.ignore_verified, verified) else {
            return true;
        };
        // A result from the future is from a clock that was wrong, or made up.
        verified > now
            || self
                .outdated_after
                .is_some_and(|after| now.duration_since(verified) > days(after))
    }
}

/// So many days; at most a thousand centuries.
pub(super) fn days(days: u64) -> SignedDuration {
    let days = i64::try_from(days).unwrap_or(i64::MAX);
    SignedDuration::from_hours(24 * days.min(36_500_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_looked_at_again_when_it_is_outdated() {
        let now: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
        let days_ago = |count: i64| Some(now - SignedDuration::from_hours(24 * count + 1));
        let filter = |ignore_verified, outdated_after| VerifyFilter {
            ignore_verified,
            outdated_after,
        };
        let table = [
            (filter(true, None), None, true),
            (filter(true, None), days_ago(4000), false),
            (filter(true, Some(30)), days_ago(29), false),
            (filter(true, Some(30)), days_ago(30), true),
            (filter(true, Some(u64::MAX)), days_ago(30), false),
            (filter(true, Some(30)), Some(Timestamp::MIN), true),
            (filter(false, Some(30)), days_ago(0), true),
            (filter(true, None), days_ago(-2), true),
        ];
        for (filter, verified, expected) in table {
            assert_eq!(
                filter.needs(verified, now),
                expected,
                "{filter:?} {verified:?}"
            );
        }
    }
}
