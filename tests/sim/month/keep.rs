//! What a prune keeps, said again in other words: sets of days and weeks, counted from 1970, and no walk over a list.
//!
//! It knows the rules that months use: the newest, one a day, one a week. A rule looks at what no rule has decided. A day of
//! which an earlier rule keeps something is not its business; of each of the newest other days, as many as it has, it keeps
//! the newest and gives up the rest.

use std::collections::{BTreeMap, BTreeSet};

use pbs_datastore::KeepOptions;

const DAY: i64 = 86_400;

/// A snapshot by its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entry {
    pub(crate) time: i64,
    pub(crate) finished: bool,
    pub(crate) protected: bool,
}

fn day(time: i64) -> i64 {
    time.div_euclid(DAY)
}

/// The week that begins on a Monday; the first of January 1970 was a Thursday.
fn week(time: i64) -> i64 {
    (day(time) + 3).div_euclid(7)
}

/// The number of the period that a time is in.
type Period = fn(i64) -> i64;

/// The times of what stays.
pub(crate) fn kept(all: &[Entry], keep: &KeepOptions) -> BTreeSet<i64> {
    let newest = all.iter().map(|entry| entry.time).max();
    let protected = all.iter().filter(|entry| entry.protected);
    let mut stays: BTreeSet<i64> = protected.map(|entry| entry.time).collect();
    // What is being written stays while nothing is newer.
    let writing = all.iter().filter(|entry| !entry.finished);
    stays.extend(writing.map(|e| e.time).filter(|time| Some(*time) == newest));
    let mut undecided: BTreeSet<i64> = all
        .iter()
        .filter(|entry| entry.finished && !entry.protected)
        .map(|entry| entry.time)
        .collect();
    let mut by_rules = BTreeSet::new();
    for _ in 0..keep.last.unwrap_or(0) {
        by_rules.extend(undecided.pop_last());
    }
    let rules = [(keep.daily, day as Period), (keep.weekly, week as Period)];
    for (count, period) in rules {
        let taken: BTreeSet<i64> = by_rules.iter().map(|time| period(*time)).collect();
        let mut free: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
        for time in &undecided {
            free.entry(period(*time)).or_default().push(*time);
        }
        free.retain(|period, _| !taken.contains(period));
        for times in free.values().rev().take(count.unwrap_or(0) as usize) {
            by_rules.extend(times.last());
            undecided.retain(|time| !times.contains(time));
        }
    }
    stays.extend(by_rules);
    stays
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(text: &str) -> Vec<Entry> {
        let parse = |word: &str| {
            let (days, hours) = word.trim_end_matches(['!', '?']).split_once('.').unwrap();
            Entry {
                time: days.parse::<i64>().unwrap() * DAY + hours.parse::<i64>().unwrap() * 3600,
                finished: !word.ends_with('?'),
                protected: word.ends_with('!'),
            }
        };
        text.split_whitespace().map(parse).collect()
    }

    /// Days and hours of snapshots; `!` is protected, `?` is being written.
    #[test]
    fn it_keeps_what_the_rules_say() {
        let table = [
            ((2, 0, 0), "0.1 1.1 2.1 3.1", "2.1 3.1"),
            ((0, 2, 0), "0.1 1.1 1.9 2.1", "1.9 2.1"),
            ((1, 2, 0), "0.1 1.1 2.1 2.9", "0.1 1.1 2.9"),
            ((1, 0, 0), "0.1! 1.1 2.1", "0.1! 2.1"),
            ((1, 0, 0), "0.1 1.1! 2.1!", "0.1 1.1! 2.1!"),
            ((1, 0, 0), "0.1 1.1 2.1?", "1.1 2.1?"),
            ((1, 0, 0), "0.1 1.1? 2.1", "2.1"),
            // Sunday, Monday; the days of a week that is taken are left alone.
            ((1, 0, 2), "3.1 4.1 5.1 10.1 11.1", "3.1 10.1 11.1"),
        ];
        for ((last, daily, weekly), all, expected) in table {
            let some = |count: u64| (count > 0).then_some(count);
            let keep = KeepOptions {
                last: some(last),
                daily: some(daily),
                weekly: some(weekly),
                ..KeepOptions::default()
            };
            let expected: BTreeSet<i64> = entries(expected).iter().map(|e| e.time).collect();
            assert_eq!(kept(&entries(all), &keep), expected, "{keep:?} {all}");
        }
    }
}
