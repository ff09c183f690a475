//! Ownership of a prefix: two daemons, their cache directories, copies of those, crashes, take-overs, late requests.
//!
//! Daemon 0 is the first owner, daemon 1 has a cache directory of its own and may take over. One chunk. Starts carry the step
//! numbers of `owner.rs` (reading and deciding, 1 and 2, are part of 3), batches those of `gc/condemn.rs`.
//!
//! | real | here | why that is enough |
//! |---|---|---|
//! | compare-and-swap of `.in-use` | one action | that is what it is |
//! | W and the date of a pass | a pass may expire at any moment; who waits W waits until all have | a request signed with it has no effect after W |
//! | T | "until nothing is on its way" (A1) | that is what waiting T is for |
//! | what a taken-over daemon tells its sessions | not counted until it is sealed | it cannot seal without a pass |
//! | uploads | take effect at once | their content is right; `chunk` has late ones |

mod daemon;
mod start;
pub mod trials;
mod work;

use stateright::{Model, Property};

use crate::rules::{self, Without};
pub use daemon::{Daemon, Directory, Record, Settled, Stage, Starting, Wait};
pub use start::StartStep;
pub use work::WorkStep;

/// I2: what is relied upon is stored.
pub const RELIED_ON_IS_STORED: &str = "I2 what is relied upon is stored";
/// I3: the markers of a directory that may be trusted are true.
pub const MARKERS_ARE_TRUE: &str = "I3 the markers of an owner tell the truth";

/// A rule of ownership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Before deletes and seals the owner asks whether it still is one.
    FenceChecked,
    /// Requests are signed with the date of that check, so they have no effect after W.
    SignedWithPassDate,
    /// After a take-over from one that may be alive nothing is answered before W + T.
    TakeOverWaitsWindow,
    /// With a directory that is not trusted nothing is answered before T after an unclean stop.
    UntrustedWaits,
    /// Nor does anything read enter the cache.
    FillWaits,
    /// No collection before the wait is over.
    CollectionWaits,
    /// A wait that is not over when the process stops begins anew.
    PendingKept,
    /// … and until it is over nothing is answered, if it began with a directory that was not trusted.
    PendingHoldsAnswers,
    /// Nothing is set aside before the wait is over.
    AsideWaits,
    /// Every batch of deletes, of a collection or of one chunk that is set aside, raises the epoch after its journal: in the
    /// bucket, then in the directory.
    BatchRaisesEpoch,
    /// A directory is trusted only with the epoch of the bucket.
    EpochCompared,
    /// … with the start that the bucket names.
    StartCompared,
    /// … with the bucket's last clean stop.
    StopCompared,
    /// … as the instance that the bucket names.
    InstanceCompared,
    /// The markers of a directory that is not trusted are dropped.
    UntrustedDropped,
    /// A directory agrees with the bucket only after its markers have been dropped.
    DropBeforeAgreeing,
    /// Step 4: the record is written only over the one that was read.
    TakenByCompareAndSwap,
    /// Step 3: a start is noted in the directory before the bucket knows it.
    StartNotedFirst,
    /// A clean stop is recorded only if nothing is open or unknown.
    CleanMeansIdle,
    /// What the journal names is condemned again.
    JournalReplayed,
    /// A1: a request takes effect within T or never.
    LateWithinT,
    /// An owner that is declared dead is dead.
    DeadIsDead,
}

impl rules::Rule for Rule {
    const ALL: &'static [Self] = &[
        Self::FenceChecked,
        Self::SignedWithPassDate,
        Self::TakeOverWaitsWindow,
        Self::UntrustedWaits,
        Self::FillWaits,
        Self::CollectionWaits,
        Self::PendingKept,
        Self::PendingHoldsAnswers,
        Self::AsideWaits,
        Self::BatchRaisesEpoch,
        Self::EpochCompared,
        Self::StartCompared,
        Self::StopCompared,
        Self::InstanceCompared,
        Self::UntrustedDropped,
        Self::DropBeforeAgreeing,
        Self::TakenByCompareAndSwap,
        Self::StartNotedFirst,
        Self::CleanMeansIdle,
        Self::JournalReplayed,
        Self::LateWithinT,
        Self::DeadIsDead,
    ];
}

/// A size and a choice of rules.
#[derive(Clone, Debug)]
pub struct Owner {
    /// Starts, of both daemons together.
    pub starts: u8,
    /// Crashes.
    pub crashes: u8,
    /// Batches of deletes.
    pub batches: u8,
    /// Lost answers of deletes.
    pub lost: u8,
    /// Copies and losses of directories.
    pub tampering: u8,
    /// Daemon 1 takes part.
    pub take_over: bool,
    /// Rules that are off.
    pub without: Without<Rule>,
}

/// What may still happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Left {
    /// Starts.
    pub starts: u8,
    /// Crashes.
    pub crashes: u8,
    /// Batches.
    pub batches: u8,
    /// Lost answers.
    pub lost: u8,
    /// Copies and losses.
    pub tampering: u8,
}

/// Everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// `.in-use`.
    pub record: Record,
    /// The chunk is in the bucket.
    pub stored: bool,
    /// A sealed snapshot names it.
    pub sealed: bool,
    /// A delete that was given up may still take effect.
    pub late_delete: bool,
    /// The daemons.
    pub daemons: [Daemon; 2],
    /// Their cache directories.
    pub directories: [Directory; 2],
    /// A copy of the first one's, made earlier.
    pub copy: Option<Directory>,
    /// The next id of a start or stop.
    pub next_id: u8,
    /// What may still happen.
    pub left: Left,
}

impl State {
    /// Whether a daemon is what the bucket says the owner is.
    pub fn owns(&self, daemon: usize) -> bool {
        let this = &self.daemons[daemon];
        this.is_up() && self.record.holder == daemon as u8 && self.record.start == this.start
    }

    /// Whether somebody relies on the chunk.
    pub fn is_relied_on(&self) -> bool {
        self.sealed || (0..2).any(|daemon| self.daemons[daemon].told && self.owns(daemon))
    }
}

/// Something happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A daemon starts, step by step, crashes or stops.
    Start(usize, StartStep),
    /// A daemon works.
    Work(usize, WorkStep),
    /// The late delete takes effect, or not.
    LateDelete(bool),
    /// The first daemon's directory is copied.
    Copy,
    /// The copy is put back.
    PutBack,
    /// A directory is lost.
    Lose(usize),
}

impl Owner {
    fn follows(&self, rule: Rule) -> bool {
        self.without.follows(rule)
    }
}

impl Model for Owner {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut directory = Directory {
            exists: true,
            start: 1,
            marker: true,
            ..Directory::default()
        };
        let mut state = State {
            record: Record {
                holder: 0,
                start: 1,
                epoch: 0,
                stop: 0,
                clean: false,
                pending: Settled::Settled,
                unanswered: false,
            },
            stored: true,
            sealed: false,
            late_delete: false,
            daemons: [Daemon::default(); 2],
            directories: [directory, Directory::default()],
            copy: None,
            next_id: 2,
            left: Left {
                starts: self.starts,
                crashes: self.crashes,
                batches: self.batches,
                lost: self.lost,
                tampering: self.tampering,
            },
        };
        state.daemons[0].starting = Starting::Up;
        state.daemons[0].start = 1;
        let marked = state;
        directory.marker = false;
        state.directories[0] = directory;
        vec![marked, state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let daemons = if self.take_over { 2 } else { 1 };
        for daemon in 0..daemons {
            self.start_actions(state, daemon, actions);
            self.work_actions(state, daemon, actions);
            let down = state.daemons[daemon].starting == Starting::Down;
            if state.left.tampering > 0 && down && state.directories[daemon].exists {
                actions.push(Action::Lose(daemon));
            }
        }
        if state.late_delete {
            actions.extend([Action::LateDelete(true), Action::LateDelete(false)]);
        }
        if state.left.tampering > 0 && state.copy.is_none() {
            actions.push(Action::Copy);
        }
        if state.copy.is_some() && state.daemons[0].starting == Starting::Down {
            actions.push(Action::PutBack);
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = *state;
        match action {
            Action::Start(daemon, step) => self.start_step(&mut next, daemon, step),
            Action::Work(daemon, step) => self.work_step(&mut next, daemon, step),
            Action::LateDelete(happens) => {
                next.late_delete = false;
                next.stored &= !happens;
            }
            Action::Copy => {
                next.left.tampering -= 1;
                next.copy = Some(next.directories[0]);
            }
            Action::PutBack => {
                if let Some(copy) = next.copy.take() {
                    next.directories[0] = copy;
                }
            }
            Action::Lose(daemon) => {
                next.left.tampering -= 1;
                next.directories[daemon] = Directory::default();
            }
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(RELIED_ON_IS_STORED, |_, state: &State| {
                state.stored || !state.is_relied_on()
            }),
            Property::always(MARKERS_ARE_TRUE, |_, state: &State| {
                (0..2).all(|daemon| {
                    let this = &state.daemons[daemon];
                    let believed = state.directories[daemon].marker && state.owns(daemon);
                    state.stored || !believed || this.is_condemned() || this.holds_back()
                })
            }),
        ];
        if self.without.rules().is_empty() {
            properties.extend(self.reachable());
        }
        properties
    }
}

impl Owner {
    fn reachable(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::sometimes("the chunk is collected", |_, state: &State| !state.stored),
            Property::sometimes("a copy is not trusted", |_, state: &State| {
                let this = &state.daemons[0];
                state.copy.is_none() && this.starting == Starting::Dropping
            }),
            Property::sometimes(
                "a delete is on its way after a start",
                |_, state: &State| state.late_delete && state.daemons[0].wait != Wait::Over,
            ),
        ];
        if self.take_over {
            properties.extend([
                Property::sometimes(
                    "a paused owner holds a pass after the take-over",
                    |_, state: &State| state.daemons[0].pass && state.owns(1),
                ),
                Property::sometimes("the new owner seals", |_, state: &State| {
                    state.sealed && state.owns(1) && state.directories[1].marker
                }),
            ]);
        }
        properties
    }
}
