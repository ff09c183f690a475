//! Which questions are put to the model of inserts and collections.

use super::rule::Rule::{
    AdoptOnlyUnreleased, AsideCondemns, AsideReadsAgain, BatchNotCancelled, CheckUnderGuard,
    ClockOnlyAdvances, CollectionWaitsAfterCrash, CondemnedLeftAlone, EveryMarkerRemoved,
    FailureFreesGuard, FailureNeverReleases, GuardOverPut, JoinerTouches, JournalBeforeDelete,
    JournalKept, JournalReplayed, KnownChunksTouched, LastModifiedChecked, LateWithinT,
    LeaseUntilUploadEnds, LossAnnounced, MarkProvesNothing, RecoveryDeletesNothing,
    RecoveryDropsMarkers, RecoveryWaits, ReleaseAfterClear, RemovalSynced, SessionsInCutoff,
    StartBeforeSessions, SweepListsBucket, UnknownDeleteWaits, UploadMarker, UsingMarkerProtects,
    WaitForRelease,
};
use super::state::Left;
use super::{
    Begin, CONDEMNED_IS_NOT_TOLD, Chunk, FREE_MEANS_OVER, LOSS, MARKERS_ARE_TRUE, Rule,
    UPLOADS_ARE_MARKED,
};
use crate::rules::Without;
use crate::settle::{SETTLES, settle};
use crate::trial::{Expect, Trial, explore};

const NOTHING: Left = Left {
    ticks: 0,
    runs: 0,
    crashes: 0,
    lost: 0,
    faults: 0,
    reports: 0,
};

/// Two writers of one digest beside a collection; one crash, one lost answer.
fn writers() -> Chunk {
    Chunk {
        digests: 1,
        writers: 2,
        adopts: true,
        power_loss: false,
        removals: true,
        begin: Begin::Anything,
        left: Left {
            ticks: 2,
            runs: 1,
            crashes: 1,
            lost: 1,
            ..NOTHING
        },
        without: Without::nothing(),
    }
}

/// The same with one advance of the clock.
fn hasty() -> Chunk {
    let mut model = writers();
    model.left.ticks = 1;
    model
}

/// The crash may be a loss of power.
fn power() -> Chunk {
    Chunk {
        power_loss: true,
        ..hasty()
    }
}

/// Two digests, two collections, a batch that may fail.
fn batches() -> Chunk {
    let mut model = hasty();
    (model.digests, model.writers) = (2, 1);
    (model.left.runs, model.left.faults) = (2, 1);
    model
}

/// A corrupt chunk, found by two readers.
fn corrupt() -> Chunk {
    let mut model = hasty();
    model.begin = Begin::Corrupt;
    (model.left.crashes, model.left.lost, model.left.reports) = (0, 0, 2);
    model
}

/// A corrupt chunk, one reader, one writer, a crash and a lost answer.
fn crashing_aside() -> Chunk {
    let mut model = hasty();
    model.begin = Begin::Corrupt;
    (model.writers, model.left.reports) = (1, 1);
    model
}

fn trial(scenario: &str, model: Chunk, off: &[Rule], expect: Expect) -> Trial {
    let without = Without::these(off);
    let model = Chunk {
        without: without.clone(),
        ..model
    };
    Trial::new("chunk", scenario, &without, expect, move || {
        explore(model.clone(), expect)
    })
}

fn settling(scenario: &str, model: Chunk, off: &[Rule], expect: Expect) -> Trial {
    let without = Without::these(off);
    let model = Chunk {
        without: without.clone(),
        ..model
    };
    Trial::new("chunk", scenario, &without, expect, move || settle(&model))
}

/// All of them; with `large` more crashes, runs and lost answers where all rules are on.
pub fn trials(large: bool) -> Vec<Trial> {
    let mut trials = vec![
        trial("two writers, more time", writers(), &[], Expect::Holds),
        trial("loss of power", power(), &[], Expect::Holds),
        trial("two digests", batches(), &[], Expect::Holds),
        trial("corrupt chunk", corrupt(), &[], Expect::Holds),
        trial("corrupt chunk, crash", crashing_aside(), &[], Expect::Holds),
    ];
    if large {
        trials.extend(self::large());
    }
    trials.extend(needed());
    trials.extend(redundant());
    trials.extend(progress());
    trials
}

/// What takes minutes.
fn large() -> Vec<Trial> {
    let with = |model: Chunk, left: Left| Chunk { left, ..model };
    let (mut two_runs, mut two_crashes) = (writers().left, writers().left);
    two_runs.runs = 2;
    (two_crashes.crashes, two_crashes.lost) = (2, 2);
    let mut batches_left = batches().left;
    batches_left.ticks = 2;
    let (mut aside, mut aside_crashes) = (corrupt().left, crashing_aside().left);
    (aside.lost, aside.ticks) = (1, 2);
    (
        aside_crashes.crashes,
        aside_crashes.lost,
        aside_crashes.reports,
    ) = (2, 2, 2);
    let mut powerless = power().left;
    (powerless.ticks, powerless.crashes) = (2, 2);
    vec![
        trial(
            "two writers, two runs",
            with(writers(), two_runs),
            &[],
            Expect::Holds,
        ),
        trial(
            "two writers, two crashes",
            with(writers(), two_crashes),
            &[],
            Expect::Holds,
        ),
        trial(
            "two losses of power",
            with(power(), powerless),
            &[],
            Expect::Holds,
        ),
        trial(
            "two digests, more time",
            with(batches(), batches_left),
            &[],
            Expect::Holds,
        ),
        trial(
            "corrupt chunk, lost answer",
            with(corrupt(), aside),
            &[],
            Expect::Holds,
        ),
        trial(
            "corrupt chunk, two crashes",
            with(crashing_aside(), aside_crashes),
            &[],
            Expect::Holds,
        ),
    ]
}

/// Rules without which a chunk is lost, or an invariant breaks.
fn needed() -> Vec<Trial> {
    let lost = Expect::Breaks(LOSS);
    let loses = |scenario: &str, model: Chunk, off: Rule| trial(scenario, model, &[off], lost);
    let breaks = |scenario: &str, model: Chunk, off: Rule, property: &'static [&'static str]| {
        trial(scenario, model, &[off], Expect::Breaks(property))
    };
    vec![
        loses("two writers", hasty(), WaitForRelease),
        breaks(
            "two writers",
            hasty(),
            WaitForRelease,
            &[CONDEMNED_IS_NOT_TOLD],
        ),
        breaks("two writers", hasty(), UploadMarker, &[UPLOADS_ARE_MARKED]),
        loses("corrupt chunk, crash", crashing_aside(), UploadMarker),
        loses("corrupt chunk", corrupt(), GuardOverPut),
        loses("two writers, more time", writers(), JoinerTouches),
        loses("two writers", hasty(), KnownChunksTouched),
        loses("two writers", hasty(), StartBeforeSessions),
        loses("two writers", hasty(), SessionsInCutoff),
        loses("corrupt chunk", corrupt(), MarkProvesNothing),
        loses("two writers", hasty(), UsingMarkerProtects),
        loses("two writers", hasty(), CheckUnderGuard),
        loses("two digests", batches(), CondemnedLeftAlone),
        loses("two writers", hasty(), JournalBeforeDelete),
        loses("two digests", batches(), JournalKept),
        loses("two writers", hasty(), EveryMarkerRemoved),
        breaks(
            "two writers",
            hasty(),
            EveryMarkerRemoved,
            &[MARKERS_ARE_TRUE],
        ),
        loses("loss of power", power(), RemovalSynced),
        loses("two writers", hasty(), UnknownDeleteWaits),
        breaks(
            "two writers",
            hasty(),
            UnknownDeleteWaits,
            &[FREE_MEANS_OVER],
        ),
        loses("two digests", batches(), FailureNeverReleases),
        loses("corrupt chunk", corrupt(), AdoptOnlyUnreleased),
        loses("corrupt chunk", corrupt(), AsideReadsAgain),
        loses("corrupt chunk", corrupt(), AsideCondemns),
        loses("corrupt chunk", corrupt(), LossAnnounced),
        loses("two writers", hasty(), JournalReplayed),
        loses("two writers", hasty(), RecoveryDropsMarkers),
        loses("two writers", hasty(), RecoveryWaits),
        loses("two writers, more time", writers(), ClockOnlyAdvances),
        loses("two writers", hasty(), LateWithinT),
    ]
}

/// Second lines: each alone may go in these scenarios, and which of them together may not.
fn redundant() -> Vec<Trial> {
    let holds = |off: &[Rule]| trial("two writers", hasty(), off, Expect::Holds);
    // I4 itself is broken without the upload marker, or with two uploads at a time; no chunk is lost.
    let keeps = |off: Rule| trial("two writers", hasty(), &[off], Expect::Keeps(LOSS));
    let loses = |scenario: &str, model: Chunk, off: &[Rule]| {
        trial(scenario, model, off, Expect::Breaks(LOSS))
    };
    vec![
        keeps(UploadMarker),
        keeps(GuardOverPut),
        loses("two writers", hasty(), &[UploadMarker, GuardOverPut]),
        holds(&[LastModifiedChecked]),
        loses(
            "two writers",
            hasty(),
            &[UploadMarker, GuardOverPut, LastModifiedChecked],
        ),
        holds(&[LeaseUntilUploadEnds]),
        holds(&[ReleaseAfterClear]),
        holds(&[RecoveryDeletesNothing]),
        loses(
            "two writers",
            hasty(),
            &[ReleaseAfterClear, RecoveryDeletesNothing],
        ),
        holds(&[BatchNotCancelled]),
        loses(
            "two writers",
            hasty(),
            &[BatchNotCancelled, FailureNeverReleases],
        ),
        holds(&[CollectionWaitsAfterCrash]),
        loses(
            "corrupt chunk, crash",
            crashing_aside(),
            &[CollectionWaitsAfterCrash, JournalKept],
        ),
        loses(
            "corrupt chunk, crash",
            crashing_aside(),
            &[CollectionWaitsAfterCrash, CondemnedLeftAlone],
        ),
    ]
}

/// Everything comes to an end.
fn progress() -> Vec<Trial> {
    let stuck = Expect::Breaks(&[SETTLES]);
    vec![
        settling("two writers, to the end", hasty(), &[], Expect::Holds),
        settling(
            "corrupt chunk, to the end",
            crashing_aside(),
            &[],
            Expect::Holds,
        ),
        settling(
            "two writers, to the end",
            hasty(),
            &[FailureFreesGuard],
            stuck,
        ),
        settling(
            "two writers, to the end",
            hasty(),
            &[SweepListsBucket],
            stuck,
        ),
    ]
}
