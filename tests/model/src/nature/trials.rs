//! Which questions are put to the model of natures.

use super::Rule::{
    EncryptedStaysConditional, FirstAttemptsConditional, IntactNeverReplaced, LookAfterExists,
    LookAsksNature, LookBeforeLast, NatureInMarker, UnknownLookedAt,
};
use super::{Natures, Rule, TOLD_IS_READABLE};
use crate::rules::Without;
use crate::trial::{Expect, Trial, explore};

fn trial(inserts: u8, off: &[Rule], expect: Expect) -> Trial {
    let without = Without::these(off);
    let model = Natures {
        inserts,
        lost: 2,
        forgotten: 1,
        without: without.clone(),
    };
    let scenario = format!("a chunk and its forgery, {inserts} inserts of each");
    Trial::new("nature", &scenario, &without, expect, move || {
        explore(model.clone(), expect)
    })
}

/// All of them.
pub fn trials(large: bool) -> Vec<Trial> {
    let holds = |off: &[Rule]| trial(3, off, Expect::Holds);
    let breaks = |off: &[Rule]| trial(3, off, Expect::Breaks(&[TOLD_IS_READABLE]));
    let mut trials = vec![
        holds(&[]),
        breaks(&[NatureInMarker]),
        breaks(&[LookAfterExists]),
        breaks(&[LookAsksNature]),
        breaks(&[FirstAttemptsConditional]),
        breaks(&[EncryptedStaysConditional]),
        breaks(&[IntactNeverReplaced]),
        breaks(&[UnknownLookedAt]),
        // A look before an attempt that carries the condition anyway saves an error, no chunk.
        holds(&[LookBeforeLast]),
        breaks(&[LookBeforeLast, EncryptedStaysConditional]),
    ];
    if large {
        trials.push(trial(6, &[], Expect::Holds));
    }
    trials
}
