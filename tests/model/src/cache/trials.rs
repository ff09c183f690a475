//! Which questions are put to the model of the cache.

use super::Rule::{
    CachedReadChecked, EvictionByRename, EvictionGuarded, EvictionLeavesCondemned, FillGuarded,
    FillKeepsTimes, FillRegistered, FillVerified, ReplaceExcludesTouch,
};
use super::{
    Cache, MARKER_IS_TRUE, NOTHING_CORRUPT_SERVED, READERS_ARE_LEFT_ALONE, RELIED_ON_IS_STORED,
    Rule,
};
use crate::rules::Without;
use crate::trial::{Expect, Trial, explore};

/// How much may happen.
#[derive(Clone, Copy)]
enum Size {
    Small,
    Usual,
    Large,
}

fn trial(size: Size, off: &[Rule], expect: Expect) -> Trial {
    let (ticks, runs, fills) = match size {
        Size::Small => (2, 1, 1),
        Size::Usual => (3, 2, 2),
        Size::Large => (5, 3, 3),
    };
    let without = Without::these(off);
    let model = Cache {
        ticks,
        runs,
        fills,
        damages: 1,
        without: without.clone(),
    };
    let scenario = format!("one chunk, {runs} runs, {fills} fills");
    Trial::new("cache", &scenario, &without, expect, move || {
        explore(model.clone(), expect)
    })
}

/// All of them.
pub fn trials(large: bool) -> Vec<Trial> {
    let holds = |off: &[Rule]| trial(Size::Small, off, Expect::Holds);
    let breaks = |off: &[Rule], property: &'static [&'static str]| {
        trial(Size::Small, off, Expect::Breaks(property))
    };
    let lost: &[&str] = &[RELIED_ON_IS_STORED];
    let mut trials = vec![
        trial(Size::Usual, &[], Expect::Holds),
        breaks(&[FillRegistered], &[MARKER_IS_TRUE]),
        breaks(&[FillRegistered], lost),
        breaks(&[FillGuarded], lost),
        breaks(&[FillKeepsTimes], lost),
        breaks(&[EvictionGuarded], lost),
        breaks(&[ReplaceExcludesTouch], lost),
        breaks(&[EvictionByRename], &[READERS_ARE_LEFT_ALONE]),
        breaks(&[CachedReadChecked], &[NOTHING_CORRUPT_SERVED]),
        // A cached chunk is checked again whenever it is read.
        holds(&[FillVerified]),
        breaks(
            &[FillVerified, CachedReadChecked],
            &[NOTHING_CORRUPT_SERVED],
        ),
        // Without its marker nothing of a condemned digest is evicted, and its marker goes anyway.
        holds(&[EvictionLeavesCondemned]),
        breaks(
            &[EvictionLeavesCondemned, EvictionGuarded],
            &[MARKER_IS_TRUE],
        ),
    ];
    if large {
        trials.push(trial(Size::Large, &[], Expect::Holds));
    }
    trials
}
