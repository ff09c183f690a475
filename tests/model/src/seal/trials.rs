//! Which questions are put to the model of the seal.

use super::Rule::{
    CollectionWaitsAfterCrash, CommitterRead, ConfirmComparesContent, DoubtfulNotReplaced,
    FilesConditional, FolderEmpty, FrozenAfterCrash, HandsOffAfterConflict, LateWithinT, LockKept,
    LossAskedAgain, LostSealSettled, ManifestRemovedFirst, OpenUntilSettled, SealConditional,
    SnapshotLocked, UnansweredNotReplaced, UnsealedRemovedLate,
};
use super::{FAILURE_IS_TRUE, LOSS, Rule, SUCCESS_IS_TRUE, Seal};
use crate::rules::Without;
use crate::trial::{Expect, Trial, explore};

const TOLD_THE_TRUTH: &[&str] = &[SUCCESS_IS_TRUE];

fn trial(lost: u8, crashes: u8, off: &[Rule], expect: Expect) -> Trial {
    let without = Without::these(off);
    let model = Seal {
        lost,
        crashes,
        corrupt: 1,
        replaces: true,
        removals: true,
        without: without.clone(),
    };
    let scenario = format!("two sessions, {lost} lost answers, {crashes} crashes");
    Trial::new("seal", &scenario, &without, expect, move || {
        explore(model.clone(), expect)
    })
}

/// All of them.
pub fn trials(large: bool) -> Vec<Trial> {
    let holds = |off: &[Rule]| trial(2, 1, off, Expect::Holds);
    let loses = |off: &[Rule]| trial(2, 1, off, Expect::Breaks(LOSS));
    // Two that write the same folder, up to the seal.
    let rivals = |off: &[Rule], expect| {
        let off = [&[SnapshotLocked, FilesConditional], off].concat();
        trial(2, 1, &off, expect)
    };
    let mut trials = vec![trial(3, 2, &[], Expect::Holds)];
    let needed = [
        SnapshotLocked,
        FolderEmpty,
        LockKept,
        ConfirmComparesContent,
        LossAskedAgain,
        LostSealSettled,
        OpenUntilSettled,
        ManifestRemovedFirst,
        FrozenAfterCrash,
        UnsealedRemovedLate,
        CollectionWaitsAfterCrash,
        LateWithinT,
    ];
    trials.extend(needed.map(|rule| loses(&[rule])));
    trials.extend([
        trial(2, 1, &[LostSealSettled], Expect::Breaks(&[FAILURE_IS_TRUE])),
        // Under the lock nobody else seals, so what tells us from others is a second line, but for the lock.
        holds(&[SealConditional]),
        holds(&[CommitterRead]),
        holds(&[HandsOffAfterConflict]),
        holds(&[SealConditional, CommitterRead, HandsOffAfterConflict]),
        rivals(&[], Expect::Keeps(TOLD_THE_TRUTH)),
        rivals(&[SealConditional], Expect::Breaks(TOLD_THE_TRUTH)),
        rivals(&[CommitterRead], Expect::Breaks(TOLD_THE_TRUTH)),
        loses(&[SnapshotLocked, HandsOffAfterConflict]),
        // Without the lock the condition on files is what keeps rivals apart, while no answer is lost.
        trial(0, 0, &[SnapshotLocked], Expect::Keeps(LOSS)),
        trial(
            0,
            0,
            &[SnapshotLocked, FilesConditional],
            Expect::Breaks(LOSS),
        ),
        // A file is replaced only if nothing of it can arrive, or it arrives under a condition.
        holds(&[UnansweredNotReplaced]),
        loses(&[UnansweredNotReplaced, FilesConditional, DoubtfulNotReplaced]),
        holds(&[FilesConditional]),
        holds(&[DoubtfulNotReplaced]),
        loses(&[FilesConditional, DoubtfulNotReplaced]),
    ]);
    if large {
        trials.push(trial(5, 3, &[], Expect::Holds));
    }
    trials
}
