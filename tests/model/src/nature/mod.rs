//! The nature of a chunk (I11): a forged encrypted chunk under the digest of a plain one, beside the plain one's owner.
//!
//! The daemon cannot verify what is encrypted, so a hostile writer can upload anything encrypted under any digest. Steps are
//! those of `chunk_store/insert.rs` and `upload.rs`. The guard is held over each insert, so inserts follow each other; what
//! mixes them is what arrives late, and a marker that knows less than the bucket.
//!
//! | real | here | why that is enough |
//! |---|---|---|
//! | attempts with pauses | two: a first one, and the last one | the ones between are like the first |
//! | HEAD, then the first bytes, then the whole object | one look | nobody else of this daemon writes between; late puts do |
//! | a lost cache directory | the marker vanishes, or is made again from a listing, of unknown nature | that is all that differs |

pub mod trials;

use stateright::{Model, Property};

use crate::rules::{self, Without};

/// I1 and I11: whoever was told of his chunk can read it.
pub const TOLD_IS_READABLE: &str = "I11 whoever was told of his chunk finds his chunk";

/// A rule that keeps natures apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// A marker remembers the nature of its chunk, and an insert of another is refused.
    NatureInMarker,
    /// After a 412 one looks at what is there.
    LookAfterExists,
    /// That look asks for the nature, not only for the size.
    LookAsksNature,
    /// The first attempts carry the condition that nothing is there.
    FirstAttemptsConditional,
    /// The last attempt for encrypted content comes after a look.
    LookBeforeLast,
    /// The last attempt for encrypted content carries the condition as well.
    EncryptedStaysConditional,
    /// What is intact and of another nature is never replaced.
    IntactNeverReplaced,
    /// Where a marker was made from a listing, which does not tell the nature, one looks first.
    UnknownLookedAt,
}

impl rules::Rule for Rule {
    const ALL: &'static [Self] = &[
        Self::NatureInMarker,
        Self::LookAfterExists,
        Self::LookAsksNature,
        Self::FirstAttemptsConditional,
        Self::LookBeforeLast,
        Self::EncryptedStaysConditional,
        Self::IntactNeverReplaced,
        Self::UnknownLookedAt,
    ];
}

/// What an object or a marker is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Nature {
    /// The chunk of the honest writer, verified.
    Plain,
    /// The forgery.
    Forged,
    /// Of a marker: known from a listing only.
    Unknown,
}

/// A put.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Put {
    /// Of what.
    pub nature: Nature,
    /// Only if nothing is there.
    pub conditional: bool,
}

/// Where the insert under way is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Next {
    /// The first attempt.
    First,
    /// The first attempt has met an object: a look.
    Look,
    /// A look before the last attempt.
    LookBeforeLast,
    /// The last attempt.
    Last,
}

/// A size and a choice of rules.
#[derive(Clone, Debug)]
pub struct Natures {
    /// Inserts of each writer.
    pub inserts: u8,
    /// Lost answers.
    pub lost: u8,
    /// Times a marker is lost or made again from a listing.
    pub forgotten: u8,
    /// Rules that are off.
    pub without: Without<Rule>,
}

/// Everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// What is stored.
    pub object: Option<Nature>,
    /// What the marker says.
    pub marker: Option<Nature>,
    /// A put that was given up.
    pub late: Option<Put>,
    /// The insert under way: whose, and its next step.
    pub insert: Option<(Nature, Next)>,
    /// The honest writer was told that his chunk is there.
    pub told: bool,
    /// Inserts left: honest, hostile.
    pub inserts: [u8; 2],
    /// Lost answers left.
    pub lost: u8,
    /// Times left.
    pub forgotten: u8,
}

/// Something happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// 1 and 2: an insert begins, or is answered by the marker.
    Insert1And2(Nature),
    /// 4: an attempt is answered.
    Put4,
    /// 4: an attempt is refused with 409 or 503: no effect.
    Put4Busy,
    /// 4: an attempt took effect, its answer is lost.
    Put4AnswerLost,
    /// 4: an attempt is given up and may still take effect.
    Put4Lost,
    /// 4: a look at what is there.
    Look4,
    /// A late put takes effect, or not.
    LatePut(bool),
    /// The marker is lost with the cache directory; `true`: and made again from a listing.
    Forget(bool),
    /// The object is collected, marker and all: nobody relies on it.
    Collect,
}

impl Natures {
    fn follows(&self, rule: Rule) -> bool {
        self.without.follows(rule)
    }

    /// The put of the next step.
    fn put(&self, nature: Nature, next: Next) -> Put {
        let conditional = match next {
            Next::First | Next::Look => self.follows(Rule::FirstAttemptsConditional),
            Next::LookBeforeLast | Next::Last => {
                nature == Nature::Forged && self.follows(Rule::EncryptedStaysConditional)
            }
        };
        Put {
            nature,
            conditional,
        }
    }

    /// What follows from what is there.
    fn look(&self, state: &mut State, nature: Nature, next: Next) {
        let Some(there) = state.object else {
            let again = if next == Next::Look {
                Next::First
            } else {
                Next::Last
            };
            state.insert = Some((nature, again));
            return;
        };
        if there == nature || !self.follows(Rule::LookAsksNature) {
            Self::answer(state, nature);
        } else if !self.follows(Rule::IntactNeverReplaced) {
            state.object = Some(nature);
            Self::answer(state, nature);
        } else {
            // Of another nature, and intact: refused.
            state.insert = None;
        }
    }

    /// 5 and 6: marker, answer.
    fn answer(state: &mut State, nature: Nature) {
        state.marker = Some(nature);
        state.told |= nature == Nature::Plain;
        state.insert = None;
    }

    fn put_answered(&self, state: &mut State, nature: Nature, next: Next) {
        let put = self.put(nature, next);
        if state.object.is_some() && put.conditional {
            if self.follows(Rule::LookAfterExists) {
                state.insert = Some((nature, Next::Look));
            } else {
                Self::answer(state, nature);
            }
            return;
        }
        state.object = Some(nature);
        Self::answer(state, nature);
    }

    /// The attempt had no answer, or had no effect: on to the last, or the end.
    fn put_failed(&self, state: &mut State, nature: Nature, next: Next) {
        state.insert = match next {
            Next::First | Next::Look => {
                let looks = nature == Nature::Forged && self.follows(Rule::LookBeforeLast);
                Some((
                    nature,
                    if looks {
                        Next::LookBeforeLast
                    } else {
                        Next::Last
                    },
                ))
            }
            Next::LookBeforeLast | Next::Last => None,
        };
    }

    fn apply(state: &mut State, put: Put) {
        if state.object.is_none() || !put.conditional {
            state.object = Some(put.nature);
        }
    }
}

impl Model for Natures {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            object: None,
            marker: None,
            late: None,
            insert: None,
            told: false,
            inserts: [self.inserts; 2],
            lost: self.lost,
            forgotten: self.forgotten,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.late.is_some() {
            actions.extend([Action::LatePut(true), Action::LatePut(false)]);
        }
        match state.insert {
            None => {
                let writers = [Nature::Plain, Nature::Forged]
                    .into_iter()
                    .zip(state.inserts);
                let begins = writers.filter(|(_, left)| *left > 0);
                actions.extend(begins.map(|(nature, _)| Action::Insert1And2(nature)));
            }
            Some((_, Next::Look | Next::LookBeforeLast)) => actions.push(Action::Look4),
            Some((_, Next::First | Next::Last)) => {
                actions.extend([Action::Put4, Action::Put4Busy]);
                if state.lost > 0 && state.late.is_none() {
                    actions.extend([Action::Put4AnswerLost, Action::Put4Lost]);
                }
            }
        }
        if state.forgotten > 0 && state.marker.is_some() {
            actions.push(Action::Forget(false));
            if state.object.is_some() {
                actions.push(Action::Forget(true));
            }
        }
        if state.object.is_some() && state.insert.is_none() && !state.told {
            actions.push(Action::Collect);
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = *state;
        match (action, state.insert) {
            (Action::Insert1And2(nature), _) => {
                next.inserts[usize::from(nature == Nature::Forged)] -= 1;
                match state.marker {
                    None => next.insert = Some((nature, Next::First)),
                    Some(Nature::Unknown) if self.follows(Rule::UnknownLookedAt) => {
                        next.insert = Some((nature, Next::Look));
                    }
                    Some(marker) => {
                        let agrees = marker == nature || marker == Nature::Unknown;
                        if agrees || !self.follows(Rule::NatureInMarker) {
                            next.told |= nature == Nature::Plain;
                        }
                    }
                }
            }
            (Action::Put4, Some((nature, step))) => self.put_answered(&mut next, nature, step),
            (Action::Put4Busy, Some((nature, step))) => self.put_failed(&mut next, nature, step),
            (Action::Put4AnswerLost, Some((nature, step))) => {
                next.lost -= 1;
                Self::apply(&mut next, self.put(nature, step));
                self.put_failed(&mut next, nature, step);
            }
            (Action::Put4Lost, Some((nature, step))) => {
                next.lost -= 1;
                next.late = Some(self.put(nature, step));
                self.put_failed(&mut next, nature, step);
            }
            (Action::Look4, Some((nature, step))) => self.look(&mut next, nature, step),
            (Action::LatePut(happens), _) => {
                if let Some(put) = next.late.take().filter(|_| happens) {
                    Self::apply(&mut next, put);
                }
            }
            (Action::Forget(listed), _) => {
                next.forgotten -= 1;
                next.marker = listed.then_some(Nature::Unknown);
            }
            (Action::Collect, _) => (next.object, next.marker) = (None, None),
            (_, None) => return None,
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![Property::always(TOLD_IS_READABLE, |_, state: &State| {
            !state.told || state.object == Some(Nature::Plain)
        })];
        if self.without.rules().is_empty() {
            properties.extend([
                Property::sometimes("the honest writer is told", |_, state: &State| state.told),
                Property::sometimes("the forgery is there first", |_, state: &State| {
                    state.object == Some(Nature::Forged) && state.marker == Some(Nature::Forged)
                }),
                Property::sometimes(
                    "a forgery is on its way after the honest writer was told",
                    |_, state: &State| {
                        let late = state.late.is_some_and(|put| put.nature == Nature::Forged);
                        late && state.told
                    },
                ),
            ]);
        }
        properties
    }
}
