//! Prune: decides which snapshots of a group go, by the rules of interface 7.1. Planning is pure; removal is the
//! caller's, oldest first, through [`Snapshots::delete`](crate::Snapshots::delete).
//!
//! Rules are applied in the order last, hourly, daily, weekly, monthly, yearly. A rule walks from the newest snapshot to the
//! oldest over those that no rule has decided yet:
//! - one whose period an earlier rule has kept is left to coarser rules;
//! - one whose period this rule has kept already is removed;
//! - one of a new period is kept, until the rule's count is used up.
//!
//! Protected snapshots are never removed and never counted. Of snapshots without manifest only the newest is kept, and only
//! while nothing newer is finished.

use std::collections::BTreeSet;

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// How many snapshots each rule keeps; a rule without a count does not apply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeepOptions {
    /// The newest.
    pub last: Option<u64>,
    /// One an hour.
    pub hourly: Option<u64>,
    /// One a day.
    pub daily: Option<u64>,
    /// One an ISO week.
    pub weekly: Option<u64>,
    /// One a month.
    pub monthly: Option<u64>,
    /// One a year.
    pub yearly: Option<u64>,
}

impl KeepOptions {
    /// Whether no rule applies: then everything is kept.
    pub fn keeps_all(&self) -> bool {
        *self == Self::default()
    }

    /// The counts with the names by which users know the rules, such as `keep-last`, in the order in which they apply.
    pub fn named(&self) -> [(&'static str, Option<u64>); 6] {
        self.rules().map(|(rule, count)| (rule.reason(), count))
    }

    fn rules(&self) -> [(Rule, Option<u64>); 6] {
        [
            (Rule::Last, self.last),
            (Rule::Hourly, self.hourly),
            (Rule::Daily, self.daily),
            (Rule::Weekly, self.weekly),
            (Rule::Monthly, self.monthly),
            (Rule::Yearly, self.yearly),
        ]
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    Last,
    Hourly,
    Daily,
    Weekly,
    Monthly,
    Yearly,
}

/// A period as numbers that differ where the periods do.
type Period = (i64, i64, i64, i64);

impl Rule {
    fn period(self, time: Timestamp, zone: &TimeZone) -> Period {
        let local = time.to_zoned(zone.clone());
        let (year, month, day) = (
            i64::from(local.year()),
            i64::from(local.month()),
            i64::from(local.day()),
        );
        match self {
            Self::Last => (time.as_second(), 0, 0, 0),
            Self::Hourly => (year, month, day, i64::from(local.hour())),
            Self::Daily => (year, month, day, 0),
            Self::Weekly => {
                let week = local.date().iso_week_date();
                (i64::from(week.year()), i64::from(week.week()), 0, 0)
            }
            Self::Monthly => (year, month, 0, 0),
            Self::Yearly => (year, 0, 0, 0),
        }
    }

    fn reason(self) -> &'static str {
        match self {
            Self::Last => "keep-last",
            Self::Hourly => "keep-hourly",
            Self::Daily => "keep-daily",
            Self::Weekly => "keep-weekly",
            Self::Monthly => "keep-monthly",
            Self::Yearly => "keep-yearly",
        }
    }
}

/// What is to become of a snapshot, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PruneMark {
    /// Kept by this rule.
    Keep(&'static str),
    /// Protected.
    Protected,
    /// Not finished, and nothing newer is.
    KeepPartial,
    /// To be removed.
    Remove,
}

impl PruneMark {
    /// Whether it stays.
    pub fn keeps(self) -> bool {
        self != Self::Remove
    }

    /// Why it stays, in a word or two, or that it goes.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Keep(rule) => rule,
            Self::Protected => "protected",
            Self::KeepPartial => "keep, not finished",
            Self::Remove => "remove",
        }
    }
}

/// What planning needs to know of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PruneCandidate {
    /// Its time.
    pub time: Timestamp,
    /// It has a manifest.
    pub finished: bool,
    /// It must not be removed.
    pub protected: bool,
}

/// Plans for one group; answers one mark per candidate, in the order given. Periods are those of `zone`.
pub fn plan(candidates: &[PruneCandidate], keep: &KeepOptions, zone: &TimeZone) -> Vec<PruneMark> {
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    order.sort_by_key(|index| std::cmp::Reverse(candidates[*index].time));
    let mut marks: Vec<Option<PruneMark>> = vec![None; candidates.len()];
    let mut newer = false;
    for index in &order {
        let candidate = candidates[*index];
        if !candidate.finished {
            marks[*index] = Some(if newer {
                PruneMark::Remove
            } else {
                PruneMark::KeepPartial
            });
        }
        newer = true;
    }
    for (rule, count) in keep.rules() {
        if let Some(count) = count {
            apply(rule, count, candidates, &order, &mut marks, zone);
        }
    }
    let decided = |(candidate, mark): (&PruneCandidate, Option<PruneMark>)| match mark {
        _ if candidate.protected => PruneMark::Protected,
        _ if keep.keeps_all() => PruneMark::Keep("all"),
        mark => mark.unwrap_or(PruneMark::Remove),
    };
    candidates.iter().zip(marks).map(decided).collect()
}

fn apply(
    rule: Rule,
    count: u64,
    candidates: &[PruneCandidate],
    order: &[usize],
    marks: &mut [Option<PruneMark>],
    zone: &TimeZone,
) {
    let period = |index: usize| rule.period(candidates[index].time, zone);
    let kept = |index: &&usize| matches!(marks[**index], Some(PruneMark::Keep(_)));
    let earlier: BTreeSet<Period> = order
        .iter()
        .filter(kept)
        .map(|index| period(*index))
        .collect();
    let mut taken = BTreeSet::new();
    for index in order {
        if marks[*index].is_some() {
            continue;
        }
        if candidates[*index].protected {
            marks[*index] = Some(PruneMark::Protected);
            continue;
        }
        let period = period(*index);
        if earlier.contains(&period) {
            continue;
        }
        if taken.contains(&period) {
            marks[*index] = Some(PruneMark::Remove);
            continue;
        }
        if taken.len() as u64 >= count {
            return;
        }
        taken.insert(period);
        marks[*index] = Some(PruneMark::Keep(rule.reason()));
    }
}

#[cfg(test)]
mod tests;
