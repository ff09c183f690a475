//! The cache beside a collection: fills, eviction, reads, and what they must not undo.
//!
//! One chunk, one session that is told of it, one snapshot that may name it. Steps are those of `cache/fill.rs`,
//! `cache/evict.rs` and `cache/mod.rs`; the collection is cut down to what changes trust: mark, condemn, delete, forget, release
//! (2 and 1, 4, 5, 8 of `gc`).
//!
//! | real | here | why that is enough |
//! |---|---|---|
//! | bytes, LRU order | any cached chunk may be evicted at any moment | the order only picks which |
//! | file work under a guard | one action | nobody else with the guard comes between |
//! | touches without a guard (mark) | actions of their own | they come between everything |
//! | a reader | opens the file, reads it later | what happens between is what matters |

mod collection;
mod steps;
pub mod trials;

use stateright::{Model, Property};

use crate::rules::{self, Without};
pub use collection::CollectionStep;
pub use steps::CacheStep;

/// I1/I2: whoever relies on the chunk has it.
pub const RELIED_ON_IS_STORED: &str = "I2 what is relied upon is stored";
/// I3: a marker that may be believed tells the truth.
pub const MARKER_IS_TRUE: &str = "I3 a marker that may be believed tells the truth";
/// I6: readers never pay for housekeeping.
pub const READERS_ARE_LEFT_ALONE: &str = "I6 a read in progress is not cut short";
/// I7: nothing corrupt is served.
pub const NOTHING_CORRUPT_SERVED: &str = "I7 nothing corrupt is served";

/// A rule of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Fill, steps 2 and 6: registered before the GET, dropped if condemned or released since.
    FillRegistered,
    /// Fill, step 6: the registration is asked and the marker made under the guard, in one piece.
    FillGuarded,
    /// Fill, step 6: a marker that is there keeps its times.
    FillKeepsTimes,
    /// Fill, step 4: what was read is verified.
    FillVerified,
    /// Eviction, steps 1 and 3: under the guard, and only where a marker is.
    EvictionGuarded,
    /// Eviction, step 2: a condemned digest is left alone.
    EvictionLeavesCondemned,
    /// Eviction, step 3: no touch comes between reading a marker's times and replacing it.
    ReplaceExcludesTouch,
    /// Eviction, step 3: by rename, never in place.
    EvictionByRename,
    /// A cached chunk's CRC is checked when it is read.
    CachedReadChecked,
}

impl rules::Rule for Rule {
    const ALL: &'static [Self] = &[
        Self::FillRegistered,
        Self::FillGuarded,
        Self::FillKeepsTimes,
        Self::FillVerified,
        Self::EvictionGuarded,
        Self::EvictionLeavesCondemned,
        Self::ReplaceExcludesTouch,
        Self::EvictionByRename,
        Self::CachedReadChecked,
    ];
}

/// What a marker holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Content {
    /// Nothing: evicted.
    Empty,
    /// The chunk.
    Chunk,
    /// Something else: the disk has damaged it, or an unverified GET.
    Corrupt,
}

/// A marker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Marker {
    /// Last use.
    pub used: u8,
    /// Cached or not.
    pub content: Content,
}

/// A fill.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Fill {
    /// None runs.
    #[default]
    Idle,
    /// Step 2 is done.
    Registered {
        /// The digest's era then; `None`: it was condemned.
        era: Option<u8>,
        /// When.
        asked: u8,
    },
    /// Steps 3 to 5 are done: it has the content.
    Read {
        /// As above.
        era: Option<u8>,
        /// As above.
        asked: u8,
        /// The body was damaged on its way.
        corrupt: bool,
    },
    /// Without its guard: has seen that nothing has spoiled it.
    Judged {
        /// As above.
        asked: u8,
        /// As above.
        corrupt: bool,
    },
}

/// An eviction that was not done in one piece.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Eviction {
    /// None is in the middle.
    #[default]
    Idle,
    /// Has read the marker.
    Saw(Marker),
}

/// A reader of the cached file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Reader {
    /// Does nothing.
    #[default]
    Idle,
    /// Has the file open.
    Open {
        /// What it will read.
        content: Content,
    },
    /// Was given something it should not have been given.
    CutShort,
    /// Was given something corrupt.
    Deceived,
}

/// Where the collection is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Stage {
    /// None runs.
    #[default]
    Idle,
    /// The cutoff is known.
    Begun,
    /// Everything is marked.
    Marked,
    /// The digest is condemned.
    Condemned,
    /// The object is deleted.
    Deleted,
    /// The marker is removed.
    Forgotten,
}

/// Everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// The clock.
    pub now: u8,
    /// The object is there.
    pub stored: bool,
    /// The marker.
    pub marker: Option<Marker>,
    /// Condemned, until released.
    pub condemned: bool,
    /// Raised by every condemnation and release.
    pub era: u8,
    /// The session: when it began, and whether it was told.
    pub session: Option<(u8, bool)>,
    /// A snapshot names the chunk.
    pub sealed: bool,
    /// The fill.
    pub fill: Fill,
    /// The eviction.
    pub eviction: Eviction,
    /// The reader.
    pub reader: Reader,
    /// The collection.
    pub stage: Stage,
    /// Its cutoff.
    pub cutoff: u8,
    /// Times the clock may advance.
    pub ticks: u8,
    /// Collections left.
    pub runs: u8,
    /// Sessions left.
    pub sessions: u8,
    /// Fills left.
    pub fills: u8,
    /// Damages left: of the disk, of a transfer.
    pub damages: u8,
}

/// A size and a choice of rules.
#[derive(Clone, Debug)]
pub struct Cache {
    /// How often the clock advances.
    pub ticks: u8,
    /// Collections.
    pub runs: u8,
    /// Fills.
    pub fills: u8,
    /// Damages.
    pub damages: u8,
    /// Rules that are off.
    pub without: Without<Rule>,
}

/// Something happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The clock advances.
    Tick,
    /// The session begins.
    Begin,
    /// The session inserts the chunk: marker there → touched and told; otherwise put, marker, told.
    Insert,
    /// The session ends; `true`: its snapshot is sealed.
    End(bool),
    /// The snapshot is removed.
    Remove,
    /// Of the cache.
    Cache(CacheStep),
    /// Of the collection.
    Collect(CollectionStep),
}

impl Cache {
    fn follows(&self, rule: Rule) -> bool {
        self.without.follows(rule)
    }

    /// Whether an eviction in two pieces holds the guard. Every other piece of file work is one action.
    fn is_guarded(&self, state: &State) -> bool {
        state.eviction != Eviction::Idle && self.follows(Rule::EvictionGuarded)
    }
}

impl Model for Cache {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let state = State {
            now: 1,
            stored: true,
            marker: None,
            condemned: false,
            era: 0,
            session: None,
            sealed: true,
            fill: Fill::Idle,
            eviction: Eviction::Idle,
            reader: Reader::Idle,
            stage: Stage::Idle,
            cutoff: 0,
            ticks: self.ticks,
            runs: self.runs,
            sessions: 2,
            fills: self.fills,
            damages: self.damages,
        };
        let with = |content| State {
            marker: Some(Marker { used: 0, content }),
            ..state
        };
        vec![state, with(Content::Empty), with(Content::Chunk)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.ticks > 0 {
            actions.push(Action::Tick);
        }
        match state.session {
            None if state.sessions > 0 => actions.push(Action::Begin),
            None => {}
            Some((_, told)) => {
                actions.push(Action::End(false));
                if told {
                    actions.push(Action::End(true));
                } else if !state.condemned && !self.is_guarded(state) {
                    actions.push(Action::Insert);
                }
            }
        }
        if state.sealed {
            actions.push(Action::Remove);
        }
        self.cache_actions(state, actions);
        Self::collection_actions(state, actions);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = *state;
        match action {
            Action::Tick => {
                next.ticks -= 1;
                next.now += 1;
            }
            Action::Begin => {
                next.sessions -= 1;
                next.session = Some((next.now, false));
            }
            Action::Insert => {
                let content = if let Some(marker) = next.marker {
                    marker.content
                } else {
                    next.stored = true;
                    Content::Chunk
                };
                let used = next.now;
                next.marker = Some(Marker { used, content });
                next.session = next.session.map(|(start, _)| (start, true));
            }
            Action::End(sealed) => {
                next.session = None;
                next.sealed |= sealed;
            }
            Action::Remove => next.sealed = false,
            Action::Cache(step) => self.cache_step(&mut next, step),
            Action::Collect(step) => self.collection_step(&mut next, step),
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(RELIED_ON_IS_STORED, |_, state: &State| {
                let told = state.session.is_some_and(|(_, told)| told);
                state.stored || !(told || state.sealed)
            }),
            Property::always(MARKER_IS_TRUE, |_, state: &State| {
                state.marker.is_none() || state.condemned || state.stored
            }),
            Property::always(READERS_ARE_LEFT_ALONE, |_, state: &State| {
                state.reader != Reader::CutShort
            }),
            Property::always(NOTHING_CORRUPT_SERVED, |_, state: &State| {
                state.reader != Reader::Deceived
            }),
        ];
        if self.without.rules().is_empty() {
            properties.extend(reachable());
        }
        properties
    }
}

/// What must be reachable.
fn reachable() -> Vec<Property<Cache>> {
    vec![
        Property::sometimes("a fill is overtaken by a deletion", |_, state: &State| {
            matches!(state.fill, Fill::Read { era: Some(era), .. } if era < state.era)
                && !state.stored
        }),
        Property::sometimes("a fill creates a marker", |_, state: &State| {
            state.fills == 0
                && state.fill == Fill::Idle
                && state.sessions == 2
                && state
                    .marker
                    .is_some_and(|marker| marker.content == Content::Chunk && marker.used == 1)
        }),
        Property::sometimes(
            "a marker is evicted while its file is read",
            |_, state: &State| {
                let open = matches!(
                    state.reader,
                    Reader::Open {
                        content: Content::Chunk
                    }
                );
                open && state
                    .marker
                    .is_some_and(|marker| marker.content == Content::Empty)
            },
        ),
        Property::sometimes("a damaged file is read", |_, state: &State| {
            matches!(
                state.reader,
                Reader::Open {
                    content: Content::Corrupt
                }
            )
        }),
        Property::sometimes(
            "the chunk is collected and uploaded again",
            |_, state: &State| {
                state.runs == 0 && state.stage == Stage::Idle && state.era > 0 && state.stored
            },
        ),
    ]
}
