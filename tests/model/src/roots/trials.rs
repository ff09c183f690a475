//! Which questions are put to the model of roots.

use super::Rule::{
    BaseHeld, GroupLocked, KnownChunksTouched, OldestFirst, OneShard, ReadAgainWhenVanished,
    SessionsInCutoff, StartBeforeSessions, UnreadableAborts,
};
use super::{RELIED_ON_IS_STORED, Roots, Rule};
use crate::rules::Without;
use crate::trial::{Expect, Trial, explore};

/// How a group is listed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Listing {
    AtOnce,
    InPages,
}
use Listing::{AtOnce, InPages};

fn trial(listing: Listing, runs: u8, off: &[Rule], expect: Expect) -> Trial {
    let without = Without::these(off);
    let model = Roots {
        ticks: 1 + runs,
        runs,
        unreadable: 1,
        listed_at_once: listing == AtOnce,
        without: without.clone(),
    };
    let scenario = match listing {
        AtOnce => "a group listed at once",
        InPages => "a group listed in pages",
    };
    let scenario = format!("{scenario}, {runs} runs");
    Trial::new("roots", &scenario, &without, expect, move || {
        explore(model.clone(), expect)
    })
}

/// All of them.
pub fn trials(large: bool) -> Vec<Trial> {
    let holds = |listing, off: &[Rule]| trial(listing, 1, off, Expect::Holds);
    let loses =
        |listing, off: &[Rule]| trial(listing, 1, off, Expect::Breaks(&[RELIED_ON_IS_STORED]));
    let mut trials = vec![
        trial(AtOnce, 2, &[], Expect::Holds),
        trial(InPages, 2, &[], Expect::Holds),
        loses(AtOnce, &[UnreadableAborts]),
    ];
    // Once known chunks are touched, how a group is locked and read is a second line, piece by piece and as a whole.
    let reading = [
        BaseHeld,
        GroupLocked,
        OldestFirst,
        OneShard,
        ReadAgainWhenVanished,
    ];
    for listing in [AtOnce, InPages] {
        trials.extend(reading.map(|rule| holds(listing, &[rule])));
        trials.push(holds(listing, &reading));
    }
    // The other way round, with groups locked and read as they are, known chunks need no touch; without one of these they do.
    trials.extend([
        holds(AtOnce, &[KnownChunksTouched]),
        holds(InPages, &[KnownChunksTouched]),
        loses(AtOnce, &[KnownChunksTouched, BaseHeld]),
        loses(AtOnce, &[KnownChunksTouched, ReadAgainWhenVanished]),
        loses(InPages, &[KnownChunksTouched, OldestFirst]),
        loses(InPages, &[KnownChunksTouched, OneShard]),
        holds(AtOnce, &[GroupLocked, KnownChunksTouched]),
    ]);
    // For chunks of a base that is held the cutoff's sessions are a second line; uploads need them (model `chunk`).
    trials.extend([
        holds(AtOnce, &[SessionsInCutoff]),
        holds(AtOnce, &[StartBeforeSessions]),
        loses(AtOnce, &[SessionsInCutoff, BaseHeld]),
        loses(AtOnce, &[StartBeforeSessions, BaseHeld]),
    ]);
    if large {
        trials.push(trial(AtOnce, 3, &[], Expect::Holds));
        trials.push(trial(InPages, 3, &[], Expect::Holds));
    }
    trials
}
