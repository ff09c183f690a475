//! Which questions are put to the model of ownership.

use super::Rule::{
    AsideWaits, BatchRaisesEpoch, CleanMeansIdle, CollectionWaits, DeadIsDead, DropBeforeAgreeing,
    EpochCompared, FenceChecked, FillWaits, InstanceCompared, JournalReplayed, LateWithinT,
    PendingHoldsAnswers, PendingKept, SignedWithPassDate, StartCompared, StartNotedFirst,
    StopCompared, TakeOverWaitsWindow, TakenByCompareAndSwap, UntrustedDropped, UntrustedWaits,
};
use super::{MARKERS_ARE_TRUE, Owner, RELIED_ON_IS_STORED, Rule};
use crate::rules::Without;
use crate::trial::{Expect, Trial, explore};

/// Something is lost.
const LOSS: &[&str] = &[RELIED_ON_IS_STORED];

/// One daemon, whose directory is copied, put back and lost.
fn alone() -> Owner {
    Owner {
        starts: 2,
        crashes: 2,
        batches: 1,
        lost: 1,
        tampering: 2,
        take_over: false,
        without: Without::nothing(),
    }
}

/// Two daemons, one of which takes over.
fn rivals() -> Owner {
    Owner {
        starts: 3,
        tampering: 0,
        take_over: true,
        ..alone()
    }
}

fn trial(model: Owner, off: &[Rule], expect: Expect) -> Trial {
    let scenario = format!(
        "{}, {} starts, {} batches",
        if model.take_over {
            "a take-over"
        } else {
            "one daemon"
        },
        model.starts,
        model.batches
    );
    let without = Without::these(off);
    let model = Owner {
        without: without.clone(),
        ..model
    };
    Trial::new("owner", &scenario, &without, expect, move || {
        explore(model.clone(), expect)
    })
}

/// All of them.
pub fn trials(large: bool) -> Vec<Trial> {
    let holds = |model: Owner, off: &[Rule]| trial(model, off, Expect::Holds);
    let loses = |model: Owner, off: &[Rule]| trial(model, off, Expect::Breaks(LOSS));
    let mut trials = vec![
        trial(
            Owner {
                starts: 3,
                ..alone()
            },
            &[],
            Expect::Holds,
        ),
        trial(rivals(), &[], Expect::Holds),
    ];
    let alone_needed = [
        UntrustedWaits,
        FillWaits,
        PendingKept,
        PendingHoldsAnswers,
        BatchRaisesEpoch,
        EpochCompared,
        UntrustedDropped,
        DropBeforeAgreeing,
        CleanMeansIdle,
        JournalReplayed,
        LateWithinT,
    ];
    trials.extend(alone_needed.map(|rule| loses(alone(), &[rule])));
    let rivals_need = [
        FenceChecked,
        SignedWithPassDate,
        TakeOverWaitsWindow,
        UntrustedWaits,
        PendingKept,
        PendingHoldsAnswers,
        CollectionWaits,
        AsideWaits,
        TakenByCompareAndSwap,
        DeadIsDead,
    ];
    trials.extend(rivals_need.map(|rule| loses(rivals(), &[rule])));
    trials.push(trial(
        alone(),
        &[EpochCompared],
        Expect::Breaks(&[MARKERS_ARE_TRUE]),
    ));
    // The epoch alone tells a directory that may be trusted; who, which start and which stop it is of are second lines …
    let names = [StartCompared, StopCompared, InstanceCompared];
    trials.extend(names.map(|rule| holds(alone(), &[rule])));
    trials.push(holds(alone(), &names));
    trials.push(holds(rivals(), &names));
    // … that hold where a copy is not put back.
    trials.push(holds(rivals(), &[EpochCompared]));
    trials.push(loses(rivals(), &[EpochCompared, StartCompared]));
    trials.push(loses(
        rivals(),
        &[EpochCompared, StartCompared, StopCompared, InstanceCompared],
    ));
    // Alone, what a crash leaves is in the journal.
    trials.push(holds(alone(), &[CollectionWaits]));
    trials.push(holds(alone(), &[AsideWaits]));
    // Saves a directory from being dropped without need.
    trials.push(holds(alone(), &[StartNotedFirst]));
    if large {
        trials.push(trial(
            Owner {
                starts: 3,
                crashes: 3,
                batches: 2,
                ..alone()
            },
            &[],
            Expect::Holds,
        ));
        trials.push(trial(
            Owner {
                batches: 2,
                ..rivals()
            },
            &[],
            Expect::Holds,
        ));
    }
    trials
}
