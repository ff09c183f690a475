//! What is to be done with a group: a pure function of what both sides list.

use std::collections::BTreeMap;

use super::{SyncOptions, SyncSnapshot};
use crate::{BackupTime, VerifyOutcome};

/// What is to be done with one snapshot of the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncStep {
    /// The target does not have it.
    Add,
    /// The newest that the target has: its log may have come later, its notes may have changed.
    Refresh,
    /// The target has it, and it is damaged there.
    Mend,
}

/// What is to be done with a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct GroupPlan {
    /// Oldest first.
    pub(super) steps: Vec<(BackupTime, SyncStep)>,
    /// Snapshots of the target that the source does not list, oldest first.
    pub(super) vanished: Vec<BackupTime>,
    /// Why others are not copied: how many, of each reason.
    pub(super) skipped: BTreeMap<&'static str, usize>,
}

const UNFINISHED: &str = "not finished yet";
const UNREADABLE: &str = "unreadable at the source";
const UNVERIFIED: &str = "not verified";
const UNENCRYPTED: &str = "not encrypted";
const BEYOND: &str = "older than transfer-last asks for";
const OLDER: &str = "older than the newest of the target";
const THERE: &str = "there already";

/// Plans a group. The lists may be in any order.
pub(super) fn plan(
    source: &[SyncSnapshot],
    target: &[SyncSnapshot],
    options: &SyncOptions,
) -> GroupPlan {
    let mut plan = GroupPlan::default();
    let there: BTreeMap<BackupTime, &SyncSnapshot> = target
        .iter()
        .filter(|snapshot| snapshot.finished)
        .map(|snapshot| (snapshot.time, snapshot))
        .collect();
    let newest = there.keys().next_back().copied();
    let mut wanted: BTreeMap<BackupTime, &SyncSnapshot> = source
        .iter()
        .map(|snapshot| (snapshot.time, snapshot))
        .collect();
    plan.vanished = there
        .keys()
        .filter(|time| !wanted.contains_key(time))
        .copied()
        .collect();
    let mut skip = |why| *plan.skipped.entry(why).or_default() += 1;
    wanted.retain(|_, snapshot| {
        let why = if !snapshot.finished {
            UNFINISHED
        } else if !snapshot.readable {
            UNREADABLE
        } else if options.verified_only && snapshot.verified != Some(VerifyOutcome::Ok) {
            UNVERIFIED
        } else if options.encrypted_only && !snapshot.encrypted {
            UNENCRYPTED
        } else {
            return true;
        };
        skip(why);
        false
    });
    let last = options.transfer_last.unwrap_or(usize::MAX);
    let beyond = wanted.len().saturating_sub(last);
    for (place, (time, original)) in wanted.iter().enumerate() {
        let time = *time;
        let local = there.get(&time);
        let whole = original.verified != Some(VerifyOutcome::Failed);
        let damaged =
            local.is_some_and(|l| !l.readable || l.verified == Some(VerifyOutcome::Failed));
        let step = if damaged && options.resync_corrupt && whole {
            SyncStep::Mend
        } else if local.is_some() && newest == Some(time) {
            SyncStep::Refresh
        } else if local.is_some() {
            skip(THERE);
            continue;
        } else if newest.is_some_and(|newest| time < newest) {
            skip(OLDER);
            continue;
        } else if place < beyond {
            skip(BEYOND);
            continue;
        } else {
            SyncStep::Add
        };
        plan.steps.push((time, step));
    }
    plan
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    /// One letter and sign per snapshot: `a` finished, `a?` running, `a!` unreadable, `a+` verified, `a-` failed, `a*` encrypted.
    fn list(text: &str) -> Vec<SyncSnapshot> {
        let parse = |word: &str| {
            let time = word.as_bytes()[0] - b'a' + 1;
            SyncSnapshot {
                time: BackupTime::new(i64::from(time)).unwrap(),
                finished: !word.contains('?'),
                readable: !word.contains(['?', '!']),
                protected: false,
                verified: match word {
                    word if word.contains('+') => Some(VerifyOutcome::Ok),
                    word if word.contains('-') => Some(VerifyOutcome::Failed),
                    _ => None,
                },
                encrypted: word.contains('*'),
                size: 0,
            }
        };
        text.split_whitespace().map(parse).collect()
    }

    fn letter(time: BackupTime) -> char {
        char::from(b'a' + time.seconds() as u8 - 1)
    }

    fn options(words: &str) -> SyncOptions {
        SyncOptions {
            transfer_last: words.contains("last").then_some(2),
            resync_corrupt: words.contains("corrupt"),
            encrypted_only: words.contains("encrypted"),
            verified_only: words.contains("verified"),
            ..SyncOptions::default()
        }
    }

    // Source, target, options; added in lower case, refreshed with `=`, mended with `#`; vanished.
    #[rstest]
    #[case("a b c", "", "", "a b c", "")]
    #[case("c a b", "a", "", "a= b c", "")]
    #[case("a b c", "c", "", "c=", "")]
    #[case("a b c", "b", "", "b= c", "")]
    #[case("a b c?", "b", "", "b=", "")]
    #[case("a b! c", "a", "", "a= c", "")]
    #[case("b c", "a b", "", "b= c", "a")]
    #[case("", "a b", "", "", "a b")]
    #[case("a b", "a b?", "", "a= b", "")]
    #[case("a b c d", "", "last", "c d", "")]
    #[case("a b c d", "a", "last", "a= c d", "")]
    #[case("a b c d?", "a", "last", "a= b c", "")]
    #[case("a+ b c- d+", "", "verified", "a d", "")]
    #[case("a* b c*", "", "encrypted", "a c", "")]
    #[case("a b c", "a- b c", "", "c=", "")]
    #[case("a b c", "a- b c", "corrupt", "a# c=", "")]
    #[case("a b c", "a b! c-", "corrupt", "b# c#", "")]
    #[case("a b c", "a! b c", "corrupt last", "a# c=", "")]
    #[case("a- b", "a- b", "corrupt", "b=", "")]
    #[case("a b c-", "a- b", "corrupt verified", "", "")]
    #[case("a+ b+ c", "a- b", "corrupt verified", "a# b=", "")]
    fn a_group_is_planned(
        #[case] source: &str,
        #[case] target: &str,
        #[case] words: &str,
        #[case] expected: &str,
        #[case] vanished: &str,
    ) {
        let plan = plan(&list(source), &list(target), &options(words));
        let steps: Vec<String> = plan
            .steps
            .iter()
            .map(|(time, step)| match step {
                SyncStep::Add => letter(*time).to_string(),
                SyncStep::Refresh => format!("{}=", letter(*time)),
                SyncStep::Mend => format!("{}#", letter(*time)),
            })
            .collect();
        assert_eq!(steps.join(" "), expected);
        let gone: Vec<String> = plan
            .vanished
            .iter()
            .map(|t| letter(*t).to_string())
            .collect();
        assert_eq!(gone.join(" "), vanished);
    }
}
