//! Fill, eviction and read.

use super::{Action, Cache, Content, Eviction, Fill, Marker, Reader, Rule, State};

/// What the cache does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheStep {
    /// Fill 2: registered, before the GET.
    Fill2Register,
    /// Fill 3 to 5: read; `true`: the body is damaged, and not noticed where nothing is verified.
    Fill3Read(bool),
    /// Fill 6 without its guard: asked whether it was spoiled.
    Fill6Judge,
    /// Fill 6: into the cache, unless it was spoiled.
    Fill6Insert,
    /// Eviction 1 to 4, in one piece.
    Evict,
    /// Eviction in two pieces: the marker is read.
    EvictRead,
    /// Eviction in two pieces: an empty one takes its place.
    EvictReplace,
    /// A reader opens the cached file.
    ReadOpen,
    /// It reads.
    ReadServe,
    /// The disk damages the cached file.
    Damage,
}

use CacheStep::{
    Damage, Evict, EvictRead, EvictReplace, Fill2Register, Fill3Read, Fill6Insert, Fill6Judge,
    ReadOpen, ReadServe,
};

impl Cache {
    pub(super) fn cache_actions(&self, state: &State, actions: &mut Vec<Action>) {
        let mut push = |step| actions.push(Action::Cache(step));
        let cached = state
            .marker
            .filter(|marker| marker.content != Content::Empty);
        match state.fill {
            Fill::Idle => {
                if state.fills > 0 && cached.is_none() {
                    push(Fill2Register);
                }
            }
            Fill::Registered { .. } => {
                push(Fill3Read(false));
                if state.damages > 0 && state.stored {
                    push(Fill3Read(true));
                }
            }
            Fill::Read { .. } if self.follows(Rule::FillGuarded) => {
                if !self.is_guarded(state) {
                    push(Fill6Insert);
                }
            }
            Fill::Read { .. } => push(Fill6Judge),
            Fill::Judged { .. } => push(Fill6Insert),
        }
        let whole = self.follows(Rule::EvictionGuarded) && self.follows(Rule::ReplaceExcludesTouch);
        match state.eviction {
            Eviction::Idle => {
                let condemned = state.condemned && self.follows(Rule::EvictionLeavesCondemned);
                if cached.is_some() && !condemned {
                    push(if whole { Evict } else { EvictRead });
                }
            }
            Eviction::Saw(_) => push(EvictReplace),
        }
        match state.reader {
            Reader::Idle if cached.is_some() => push(ReadOpen),
            Reader::Open { .. } => push(ReadServe),
            Reader::Idle | Reader::CutShort | Reader::Deceived => {}
        }
        if state.damages > 0 && cached.is_some_and(|marker| marker.content == Content::Chunk) {
            push(Damage);
        }
    }

    pub(super) fn cache_step(&self, state: &mut State, step: CacheStep) {
        match step {
            Fill2Register => {
                state.fills -= 1;
                let era = (!state.condemned).then_some(state.era);
                let asked = state.now;
                state.fill = Fill::Registered { era, asked };
            }
            Fill3Read(damaged) => self.read_object(state, damaged),
            Fill6Judge => {
                if let Fill::Read {
                    era,
                    asked,
                    corrupt,
                } = state.fill
                {
                    let spoiled = self.is_spoiled(state, era);
                    state.fill = if spoiled {
                        Fill::Idle
                    } else {
                        Fill::Judged { asked, corrupt }
                    };
                }
            }
            Fill6Insert => self.fill(state),
            Evict => {
                if let Some(marker) = state.marker {
                    self.empty(state, marker);
                }
            }
            EvictRead => {
                if let Some(marker) = state.marker {
                    state.eviction = Eviction::Saw(marker);
                }
            }
            EvictReplace => {
                if let Eviction::Saw(marker) = state.eviction {
                    // With the guard it is known that the marker is still there.
                    if state.marker.is_some() || !self.follows(Rule::EvictionGuarded) {
                        self.empty(state, marker);
                    }
                    state.eviction = Eviction::Idle;
                }
            }
            ReadOpen => {
                if let Some(marker) = state.marker {
                    state.reader = Reader::Open {
                        content: marker.content,
                    };
                }
            }
            ReadServe => self.serve(state),
            Damage => {
                state.damages -= 1;
                if let Some(marker) = &mut state.marker {
                    marker.content = Content::Corrupt;
                }
            }
        }
    }

    fn read_object(&self, state: &mut State, damaged: bool) {
        let Fill::Registered { era, asked } = state.fill else {
            return;
        };
        if damaged {
            state.damages -= 1;
        }
        // What does not verify is read again, and if it is bad twice it is not inserted.
        let kept = state.stored && !(damaged && self.follows(Rule::FillVerified));
        state.fill = if kept {
            Fill::Read {
                era,
                asked,
                corrupt: damaged,
            }
        } else {
            Fill::Idle
        };
    }

    fn is_spoiled(&self, state: &State, era: Option<u8>) -> bool {
        self.follows(Rule::FillRegistered) && era != Some(state.era)
    }

    fn fill(&self, state: &mut State) {
        let (spoiled, asked, corrupt) = match state.fill {
            Fill::Read {
                era,
                asked,
                corrupt,
            } => (self.is_spoiled(state, era), asked, corrupt),
            Fill::Judged { asked, corrupt } => (false, asked, corrupt),
            Fill::Idle | Fill::Registered { .. } => return,
        };
        state.fill = Fill::Idle;
        if spoiled {
            return;
        }
        let content = if corrupt {
            Content::Corrupt
        } else {
            Content::Chunk
        };
        let used = match state.marker {
            Some(marker) if self.follows(Rule::FillKeepsTimes) => marker.used,
            // A new marker is as young as the question whether the object is there.
            _ => asked,
        };
        state.marker = Some(Marker { used, content });
    }

    /// An empty marker with the times that were read takes the marker's place.
    fn empty(&self, state: &mut State, seen: Marker) {
        let open = matches!(state.reader, Reader::Open { .. });
        if open && !self.follows(Rule::EvictionByRename) {
            state.reader = Reader::CutShort;
        }
        state.marker = Some(Marker {
            content: Content::Empty,
            ..seen
        });
    }

    fn serve(&self, state: &mut State) {
        let Reader::Open { content } = state.reader else {
            return;
        };
        state.reader = match content {
            Content::Corrupt if self.follows(Rule::CachedReadChecked) => {
                // Under the guard, if it is still there and still that; a condemned one goes anyway.
                if let Some(marker) = state
                    .marker
                    .filter(|marker| marker.content == Content::Corrupt)
                    && !state.condemned
                {
                    self.empty(state, marker);
                }
                Reader::Idle
            }
            Content::Corrupt => Reader::Deceived,
            Content::Chunk | Content::Empty => Reader::Idle,
        };
    }
}
