//! Inserts against collections: what is told, uploaded, marked, swept, condemned, deleted and released, with crashes at
//! every step and requests that take effect late.
//!
//! Actions carry the step numbers of `chunk_store/insert.rs` ([`writer`]), `gc/mod.rs` ([`collector`]), `gc/condemn.rs` and
//! `gc/set_aside.rs` ([`batch`]); starts and crashes are in [`daemon`]. What may happen is bounded by [`Left`].
//!
//! | real | here | why that is enough |
//! |---|---|---|
//! | times | a small clock that may advance at any moment | protocols only compare times |
//! | `gc-atime-cutoff`, margins | 0 | larger ones only protect more |
//! | a request | one action, with every outcome its answer can have | a request is atomic in S3; what comes late is an action of its own |
//! | T | "no request of that kind is on its way any more" | that is what waiting T is for (A1) |
//! | an insert that is dropped | its session is told nothing, its steps go on | so does the task |
//! | the last, unconditional put | left out | its content is that of the digest; `nature` has what is not |
//! | pages and ranges of a listing | one listing | each digest is in one page, and digests do not depend on each other |

pub mod batch;
pub mod collector;
pub mod daemon;
pub mod progress;
pub mod rule;
pub mod state;
pub mod trials;
pub mod writer;

use stateright::{Model, Property};

use crate::rules::Without;
use batch::BatchStep;
use collector::CollectorStep;
use daemon::DaemonStep;
pub use rule::Rule;
use state::{
    BASE, Batch, Broken, Bucket, Collector, DIGESTS, Digests, Disk, Left, Next, Object, Phase,
    Sentence, Stage, State, WRITERS, Writer,
};
use writer::WriterStep;

/// I1: whoever is told of a chunk has it.
pub const TOLD_IS_STORED: &str = "I1 whoever is told of a chunk has it";
/// I2: nothing that is relied upon is deleted.
pub const NOTHING_IN_USE_DELETED: &str = "I2 nothing in use is deleted";
/// I3: a marker that may be believed tells the truth.
pub const MARKERS_ARE_TRUE: &str = "I3 a marker that may be believed tells the truth";
/// I4: an upload is protected from before its first byte.
pub const UPLOADS_ARE_MARKED: &str = "I4 an upload under way has its marker";
/// I5: nobody is told of a condemned chunk.
pub const CONDEMNED_IS_NOT_TOLD: &str = "I5 nobody is told of a condemned chunk";
/// I8: a digest is free only when no delete of it is on its way.
pub const FREE_MEANS_OVER: &str = "I8 no delete of a free digest is on its way";

/// A chunk is lost.
pub const LOSS: &[&str] = &[TOLD_IS_STORED, NOTHING_IN_USE_DELETED];

/// Where a model begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// Nothing; a sealed snapshot with a chunk; the same with its marker lost.
    Anything,
    /// A sealed snapshot whose chunk is corrupt, with marker and without.
    Corrupt,
}

/// A size and a choice of rules.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// How many digests.
    pub digests: usize,
    /// How many writers.
    pub writers: usize,
    /// Writers may build on the base snapshot.
    pub adopts: bool,
    /// A crash may be a loss of power.
    pub power_loss: bool,
    /// Snapshots may be removed.
    pub removals: bool,
    /// Where it begins.
    pub begin: Begin,
    /// What may happen.
    pub left: Left,
    /// Rules that are off.
    pub without: Without<Rule>,
}

/// Something happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The clock advances.
    Tick,
    /// Somebody sets the clock back.
    ClockSetBack,
    /// A writer takes a step.
    Writer(usize, WriterStep),
    /// The collection takes a step.
    Collect(CollectorStep),
    /// The delete batch takes a step.
    Batch(BatchStep),
    /// The daemon stops, starts or recovers.
    Daemon(DaemonStep),
    /// A put that was given up takes effect, if nothing is there.
    LatePut(usize),
    /// A put that was given up never takes effect.
    LatePutVanishes(usize),
    /// A delete that was given up takes effect.
    LateDelete(usize),
    /// A delete that was given up never takes effect.
    LateDeleteVanishes(usize),
    /// A snapshot is removed.
    RemoveSnapshot(usize),
    /// A reader finds an object corrupt.
    Report(usize),
}

impl Chunk {
    pub(crate) fn follows(&self, rule: Rule) -> bool {
        self.without.follows(rule)
    }

    /// Whether somebody holds the guard of a digest.
    pub(crate) fn is_guarded(&self, state: &State, digest: usize) -> bool {
        let holds = |writer: &Writer| match writer.insert {
            Some((Next::Three | Next::Stuck, of)) => of == digest,
            Some((Next::Join, _)) | None => false,
            Some((_, of)) => of == digest && self.follows(Rule::GuardOverPut),
        };
        state.writers.iter().any(holds)
    }

    fn begin(&self, object: Option<bool>, marked: bool, sealed: bool) -> State {
        let mut state = State {
            now: 1,
            bucket: Bucket::default(),
            disk: Disk::default(),
            synced: Disk::default(),
            up: true,
            settling: false,
            table: [Sentence::Free; DIGESTS],
            recovering: Digests::default(),
            writers: [Writer::default(); WRITERS],
            snapshots: [Digests::default(); state::SNAPSHOTS],
            damaged: Digests::default(),
            collector: Collector::default(),
            batch: Batch::default(),
            reports: 0,
            left: self.left,
            broken: Broken::default(),
        };
        for writer in self.writers..WRITERS {
            state.writers[writer].phase = Phase::Over;
        }
        let stored = |good| Object { written: 0, good };
        state.bucket.chunks[0] = object.map(stored);
        state.disk.marker[0] = marked.then_some(0);
        if sealed {
            state.snapshots[BASE] = Digests::of(0);
        }
        // A second digest is garbage from the beginning.
        for digest in 1..self.digests {
            state.bucket.chunks[digest] = Some(stored(true));
            state.disk.marker[digest] = Some(0);
        }
        if self.power_loss {
            state.synced = state.disk;
        }
        state
    }
}

impl Model for Chunk {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        match self.begin {
            Begin::Anything => vec![
                self.begin(None, false, false),
                self.begin(Some(true), true, true),
                self.begin(Some(true), false, true),
            ],
            Begin::Corrupt => vec![
                self.begin(Some(false), true, true),
                self.begin(Some(false), false, true),
            ],
        }
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.broken.told_falsely || state.broken.deleted_in_use {
            return;
        }
        if state.left.ticks > 0 {
            actions.push(Action::Tick);
            if !self.follows(Rule::ClockOnlyAdvances) && state.now > 1 {
                actions.push(Action::ClockSetBack);
            }
        }
        self.world_actions(state, actions);
        self.daemon_actions(state, actions);
        if !state.up {
            return;
        }
        for writer in 0..self.writers {
            self.writer_actions(state, writer, actions);
        }
        self.collector_actions(state, actions);
        self.batch_actions(state, actions);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = *state;
        match action {
            Action::Tick => {
                next.left.ticks = next.left.ticks.saturating_sub(1);
                next.now += 1;
            }
            Action::ClockSetBack => {
                next.left.ticks -= 1;
                next.now -= 1;
            }
            Action::Writer(writer, step) => self.writer_step(&mut next, writer, step),
            Action::Collect(step) => self.collector_step(&mut next, step),
            Action::Batch(step) => self.batch_step(&mut next, step),
            Action::Daemon(step) => self.daemon_step(&mut next, step),
            Action::LatePut(digest) => {
                next.bucket.late_puts.remove(digest);
                if next.bucket.chunks[digest].is_none() {
                    next.store(digest);
                }
            }
            Action::LatePutVanishes(digest) => next.bucket.late_puts.remove(digest),
            Action::LateDelete(digest) => {
                next.bucket.late_deletes.remove(digest);
                next.delete(digest);
            }
            Action::LateDeleteVanishes(digest) => next.bucket.late_deletes.remove(digest),
            Action::RemoveSnapshot(snapshot) => next.snapshots[snapshot] = Digests::default(),
            Action::Report(_) => {
                next.left.reports -= 1;
                next.reports += 1;
            }
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(TOLD_IS_STORED, |_, state: &State| {
                !state.broken.told_falsely
            }),
            Property::always(NOTHING_IN_USE_DELETED, |_, state: &State| {
                !state.broken.deleted_in_use
            }),
            Property::always(MARKERS_ARE_TRUE, |_, state: &State| {
                !state.up || (0..DIGESTS).all(|digest| marker_is_true(state, digest))
            }),
            Property::always(UPLOADS_ARE_MARKED, |_, state: &State| {
                state
                    .writers
                    .iter()
                    .all(|writer| upload_is_marked(state, writer))
            }),
            Property::always(CONDEMNED_IS_NOT_TOLD, |_, state: &State| {
                !state.broken.told_condemned
            }),
            Property::always(FREE_MEANS_OVER, |_, state: &State| {
                let free = |digest: &usize| state.table[*digest] == Sentence::Free;
                !state.up
                    || !(0..DIGESTS)
                        .filter(free)
                        .any(|digest| state.bucket.late_deletes.has(digest))
            }),
        ];
        if self.without.rules().is_empty() {
            properties.extend(self.reachable());
        }
        properties
    }
}

/// I3 of one digest. Who holds the guard is changing it.
fn marker_is_true(state: &State, digest: usize) -> bool {
    state.disk.marker[digest].is_none()
        || state.table[digest] != Sentence::Free
        || state.bucket.chunks[digest].is_some()
}

/// I4 of one writer.
fn upload_is_marked(state: &State, writer: &Writer) -> bool {
    match writer.insert {
        Some((Next::Four | Next::FourLook | Next::Five, digest)) => {
            state.disk.upload[digest].is_some_and(|touched| touched >= writer.start)
        }
        _ => true,
    }
}

impl Chunk {
    /// What must be reachable, or the model shows nothing.
    fn reachable(&self) -> Vec<Property<Self>> {
        let mut properties = Vec::new();
        if self.left.runs > 0 {
            properties.push(Property::sometimes(
                "a chunk is collected",
                |_, state: &State| {
                    let batch = &state.batch;
                    batch.stage == Stage::Cleared && batch.doubtful.is_empty()
                },
            ));
            properties.push(Property::sometimes(
                "a chunk is uploaded again after its deletion, and sealed",
                |_, state: &State| {
                    state.snapshots[0].has(0)
                        && state.left.runs == 0
                        && state.bucket.chunks[0].is_some_and(|object| {
                            object.written > state.collector.start && state.collector.start > 0
                        })
                },
            ));
            properties.push(Property::sometimes(
                "a session is told of a chunk while a collection looks at it",
                |_, state: &State| {
                    !state
                        .collector
                        .candidates
                        .and(state.writers[0].told)
                        .is_empty()
                },
            ));
        }
        if self.left.lost > 0 && self.left.runs > 0 {
            properties.push(Property::sometimes(
                "a delete is on its way and the digest is held",
                |_, state: &State| {
                    !state.bucket.late_deletes.is_empty() && state.batch.stage == Stage::Durable
                },
            ));
        }
        if self.left.crashes > 0 && self.left.lost > 0 && self.left.runs > 0 {
            properties.push(Property::sometimes(
                "a recovery holds a digest whose delete is on its way",
                |_, state: &State| !state.recovering.and(state.bucket.late_deletes).is_empty(),
            ));
        }
        if self.begin == Begin::Corrupt {
            properties.push(Property::sometimes(
                "a corrupt chunk is set aside",
                |_, state: &State| state.batch.aside && state.batch.stage == Stage::Cleared,
            ));
            properties.push(Property::sometimes(
                "a corrupt chunk is healed",
                |_, state: &State| {
                    state.bucket.chunks[0].is_some_and(|object| object.good)
                        && state.snapshots[BASE].has(0)
                },
            ));
            properties.push(Property::sometimes(
                "an open session learns that its chunk is lost",
                |_, state: &State| {
                    state
                        .writers
                        .iter()
                        .any(|writer| writer.is_open() && !writer.lost.is_empty())
                },
            ));
        }
        properties
    }

    /// What happens to what is stored without the daemon.
    fn world_actions(&self, state: &State, actions: &mut Vec<Action>) {
        for digest in state.bucket.late_puts.iter() {
            actions.extend([Action::LatePut(digest), Action::LatePutVanishes(digest)]);
        }
        for digest in state.bucket.late_deletes.iter() {
            actions.extend([
                Action::LateDelete(digest),
                Action::LateDeleteVanishes(digest),
            ]);
        }
        if !state.up {
            return;
        }
        if self.removals {
            let sealed = |snapshot: &usize| !state.snapshots[*snapshot].is_empty();
            actions.extend(
                (0..state.snapshots.len())
                    .filter(sealed)
                    .map(Action::RemoveSnapshot),
            );
        }
        if state.left.reports > 0 {
            let corrupt =
                |digest: &usize| state.bucket.chunks[*digest].is_some_and(|object| !object.good);
            actions.extend((0..self.digests).filter(corrupt).map(Action::Report));
        }
    }
}
