//! What counts as use: the snapshots of a group and the sessions that add to it, while a collection reads them.
//!
//! One chunk, shared by a base snapshot and by those that build on it. A collection goes through the group as
//! `roots/snapshots.rs` does: it finds the next snapshot, then reads its index; both can be overtaken by a seal or a removal.
//! Steps are those of `gc/mod.rs` (1 cutoff, 2 mark, 3 sweep).
//!
//! | real | here | why that is enough |
//! |---|---|---|
//! | a list of the group, then indexes one by one | the same; or snapshot after snapshot, each found and read at a moment of its own | a listing of the bucket has pages |
//! | condemn, journal, delete | one action that deletes what is old | the model of chunks has them |
//! | groups | one | groups share chunks only through inserts, which touch them |

mod group;
pub mod trials;

use stateright::{Model, Property};

use crate::rules::{self, Without};
pub use group::{GroupStep, Session, Snapshot};

/// Snapshots of the group, oldest first: the base, and one of each session.
pub const SNAPSHOTS: usize = 3;
/// Sessions; session `i` writes snapshot `i + 1`.
pub const SESSIONS: usize = SNAPSHOTS - 1;

/// I2: the chunk is there for whoever relies on it.
pub const RELIED_ON_IS_STORED: &str = "I2 what a snapshot or a session relies on is stored";

/// A rule of roots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Known chunks are touched when they are registered.
    KnownChunksTouched,
    /// A session holds its base: it is not removed meanwhile.
    BaseHeld,
    /// One session writes into a group at a time.
    GroupLocked,
    /// A group is read oldest snapshot first.
    OldestFirst,
    /// A group is read in one piece, not in shards.
    OneShard,
    /// When a snapshot has vanished, the group is read again.
    ReadAgainWhenVanished,
    /// I10: an index that cannot be read ends the collection.
    UnreadableAborts,
    /// The start is read before the sessions.
    StartBeforeSessions,
    /// The start of the oldest session bounds the cutoff.
    SessionsInCutoff,
}

impl rules::Rule for Rule {
    const ALL: &'static [Self] = &[
        Self::KnownChunksTouched,
        Self::BaseHeld,
        Self::GroupLocked,
        Self::OldestFirst,
        Self::OneShard,
        Self::ReadAgainWhenVanished,
        Self::UnreadableAborts,
        Self::StartBeforeSessions,
        Self::SessionsInCutoff,
    ];
}

/// A size and a choice of rules.
#[derive(Clone, Debug)]
pub struct Roots {
    /// How often the clock advances.
    pub ticks: u8,
    /// How many collections.
    pub runs: u8,
    /// How often an index cannot be read.
    pub unreadable: u8,
    /// The group is listed at once, as it is locally; otherwise snapshot by snapshot, as in pages of the bucket's listing.
    pub listed_at_once: bool,
    /// Rules that are off.
    pub without: Without<Rule>,
}

/// How far a collection is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Run {
    /// None runs.
    #[default]
    Idle,
    /// Has read the first of start and sessions.
    Started,
    /// Goes through the group.
    Marking,
    /// Has marked everything.
    Marked,
}

/// A collection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Collector {
    /// How far.
    pub run: Run,
    /// When it began.
    pub start: u8,
    /// Start of the oldest session.
    pub oldest: Option<u8>,
    /// Marks older than this protect nothing.
    pub cutoff: u8,
    /// Which snapshots it has looked for.
    pub looked: [bool; SNAPSHOTS],
    /// What the group's list showed, where it is read at once.
    pub listed: [bool; SNAPSHOTS],
    /// The one it has found and not yet read.
    pub found: Option<u8>,
}

/// Everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// The clock.
    pub now: u8,
    /// The chunk's last use; `None`: it is gone, and its marker with it.
    pub chunk: Option<u8>,
    /// The group.
    pub snapshots: [Snapshot; SNAPSHOTS],
    /// Its writers.
    pub sessions: [Session; SESSIONS],
    /// The collection.
    pub collector: Collector,
    /// Times the clock may advance.
    pub ticks: u8,
    /// Collections that may begin.
    pub runs: u8,
    /// Indexes that may be unreadable.
    pub unreadable: u8,
}

/// Something happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The clock advances.
    Tick,
    /// A session or a removal.
    Group(GroupStep),
    /// 1: the first of start and open sessions is read.
    Cutoff1Begin,
    /// 1: the other one.
    Cutoff1End,
    /// 2: the next snapshot in the order of reading is looked for.
    Mark2Find(u8),
    /// 2: the index of the snapshot that was found is read, its digest touched; or it has vanished.
    Mark2Read,
    /// 2: the index cannot be read.
    Mark2Unreadable,
    /// 2: every snapshot has been looked for.
    Mark2End,
    /// 3: what is older than the cutoff is deleted.
    Sweep3,
}

impl Roots {
    fn follows(&self, rule: Rule) -> bool {
        self.without.follows(rule)
    }

    /// Which snapshots may be looked for next.
    fn next_to_find(&self, state: &State) -> Vec<u8> {
        let open = |snapshot: &u8| !state.collector.looked[usize::from(*snapshot)];
        let mut left: Vec<u8> = (0..SNAPSHOTS as u8).filter(open).collect();
        if !self.follows(Rule::OneShard) {
            return left;
        }
        if !self.follows(Rule::OldestFirst) {
            left.reverse();
        }
        left.truncate(1);
        left
    }

    fn read_index(&self, state: &mut State) {
        let Some(found) = state.collector.found.take() else {
            return;
        };
        if state.snapshots[usize::from(found)] == Snapshot::Sealed {
            state.chunk = state.chunk.map(|_| state.now);
        } else if self.follows(Rule::ReadAgainWhenVanished) {
            self.list_group(state);
        }
    }

    fn list_group(&self, state: &mut State) {
        state.collector.looked = [false; SNAPSHOTS];
        if self.listed_at_once {
            state.collector.listed = state.snapshots.map(|one| one == Snapshot::Sealed);
        }
    }
}

impl Model for Roots {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut snapshots = [Snapshot::Absent; SNAPSHOTS];
        snapshots[0] = Snapshot::Sealed;
        vec![State {
            now: 1,
            chunk: Some(0),
            snapshots,
            sessions: [Session::Absent; SESSIONS],
            collector: Collector::default(),
            ticks: self.ticks,
            runs: self.runs,
            unreadable: self.unreadable,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.ticks > 0 {
            actions.push(Action::Tick);
        }
        self.group_actions(state, actions);
        match (state.collector.run, state.collector.found) {
            (Run::Idle, _) if state.runs > 0 => actions.push(Action::Cutoff1Begin),
            (Run::Idle, _) => {}
            (Run::Started, _) => actions.push(Action::Cutoff1End),
            (Run::Marking, Some(_)) => {
                actions.push(Action::Mark2Read);
                if state.unreadable > 0 {
                    actions.push(Action::Mark2Unreadable);
                }
            }
            (Run::Marking, None) => {
                let next = self.next_to_find(state);
                if next.is_empty() {
                    actions.push(Action::Mark2End);
                }
                actions.extend(next.into_iter().map(Action::Mark2Find));
            }
            (Run::Marked, _) => actions.push(Action::Sweep3),
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = *state;
        let start_first = self.follows(Rule::StartBeforeSessions);
        let oldest = next
            .oldest_session()
            .filter(|_| self.follows(Rule::SessionsInCutoff));
        let collector = &mut next.collector;
        match action {
            Action::Tick => {
                next.ticks -= 1;
                next.now += 1;
            }
            Action::Group(step) => self.group_step(&mut next, step),
            Action::Cutoff1Begin => {
                next.runs -= 1;
                collector.run = Run::Started;
                if start_first {
                    collector.start = next.now;
                } else {
                    collector.oldest = oldest;
                }
            }
            Action::Cutoff1End => {
                if start_first {
                    collector.oldest = oldest;
                } else {
                    collector.start = next.now;
                }
                let bound = collector.oldest.unwrap_or(u8::MAX);
                collector.cutoff = bound.min(collector.start);
                collector.run = Run::Marking;
                self.list_group(&mut next);
            }
            Action::Mark2Find(snapshot) => {
                let index = usize::from(snapshot);
                collector.looked[index] = true;
                let seen = if self.listed_at_once {
                    collector.listed[index]
                } else {
                    next.snapshots[index] == Snapshot::Sealed
                };
                collector.found = seen.then_some(snapshot);
            }
            Action::Mark2Read => self.read_index(&mut next),
            Action::Mark2Unreadable => {
                next.unreadable -= 1;
                collector.found = None;
                if self.follows(Rule::UnreadableAborts) {
                    *collector = Collector::default();
                }
            }
            Action::Mark2End => collector.run = Run::Marked,
            Action::Sweep3 => {
                next.chunk = next.chunk.filter(|used| *used >= collector.cutoff);
                *collector = Collector::default();
            }
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![Property::always(RELIED_ON_IS_STORED, |_, state: &State| {
            let sealed = state.snapshots.contains(&Snapshot::Sealed);
            let told = state.sessions.iter().any(|session| session.is_told());
            state.chunk.is_some() || !(sealed || told)
        })];
        if self.without.rules().is_empty() {
            properties.extend([
                Property::sometimes("the chunk is collected", |_, state: &State| {
                    state.chunk.is_none()
                }),
                Property::sometimes(
                    "a snapshot vanishes while it is read",
                    |_, state: &State| {
                        let found = state.collector.found.map(usize::from);
                        found.is_some_and(|found| state.snapshots[found] == Snapshot::Removed)
                    },
                ),
                Property::sometimes(
                    "a snapshot is sealed and its base removed behind the reader's back",
                    |_, state: &State| {
                        let passed = state.collector.looked[0] && !state.collector.looked[1];
                        passed
                            && state.snapshots[0] == Snapshot::Removed
                            && state.snapshots[1] == Snapshot::Sealed
                    },
                ),
                Property::sometimes("a session holds the cutoff back", |_, state: &State| {
                    state.collector.cutoff < state.collector.start
                        && state.collector.run == Run::Marked
                }),
            ]);
        }
        properties
    }
}
