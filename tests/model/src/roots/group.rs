//! Sessions of a group, and removals from it.

use super::{Action, Roots, Rule, SESSIONS, SNAPSHOTS, State};

/// A snapshot of the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Snapshot {
    /// Not written yet.
    Absent,
    /// It counts.
    Sealed,
    /// It was removed; ids do not come back.
    Removed,
}

/// A session that builds on the newest sealed snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Session {
    /// Not begun.
    Absent,
    /// Open since a moment, on a base.
    Open {
        /// When it began.
        start: u8,
        /// The snapshot it builds on.
        base: u8,
        /// It has registered the chunk.
        told: bool,
    },
    /// Has ended.
    Over,
}

impl Session {
    /// Whether it relies on the chunk.
    pub fn is_told(self) -> bool {
        matches!(self, Self::Open { told: true, .. })
    }
}

/// What happens in the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupStep {
    /// A session begins.
    Begin(usize),
    /// It reads the base's index and registers the chunk.
    Previous(usize),
    /// Its snapshot is sealed.
    Seal(usize),
    /// It ends without a snapshot.
    GiveUp(usize),
    /// A snapshot is removed.
    Remove(usize),
}

impl State {
    /// Start of the oldest open session.
    pub(super) fn oldest_session(&self) -> Option<u8> {
        let starts = self.sessions.iter().filter_map(|session| match session {
            Session::Open { start, .. } => Some(*start),
            Session::Absent | Session::Over => None,
        });
        starts.min()
    }

    fn newest_sealed(&self) -> Option<usize> {
        (0..SNAPSHOTS)
            .rev()
            .find(|index| self.snapshots[*index] == Snapshot::Sealed)
    }

    fn is_held(&self, snapshot: usize) -> bool {
        self.sessions.iter().any(|session| {
            matches!(session, Session::Open { base, .. } if usize::from(*base) == snapshot)
        })
    }
}

impl Roots {
    pub(super) fn group_actions(&self, state: &State, actions: &mut Vec<Action>) {
        let mut push = |step| actions.push(Action::Group(step));
        let locked = state.oldest_session().is_some() && self.follows(Rule::GroupLocked);
        for session in 0..SESSIONS {
            match state.sessions[session] {
                Session::Absent => {
                    // A session writes a younger snapshot than those that are there.
                    let base = state.newest_sealed();
                    if !locked && base.is_some_and(|base| base <= session) {
                        push(GroupStep::Begin(session));
                    }
                }
                Session::Open { base, told, .. } => {
                    let there = state.snapshots[usize::from(base)] == Snapshot::Sealed;
                    let marked = state.chunk.is_some() || !self.follows(Rule::KnownChunksTouched);
                    if !told && there && marked {
                        push(GroupStep::Previous(session));
                    }
                    if told {
                        push(GroupStep::Seal(session));
                    }
                    push(GroupStep::GiveUp(session));
                }
                Session::Over => {}
            }
        }
        for snapshot in 0..SNAPSHOTS {
            let held = state.is_held(snapshot) && self.follows(Rule::BaseHeld);
            if state.snapshots[snapshot] == Snapshot::Sealed && !held {
                push(GroupStep::Remove(snapshot));
            }
        }
    }

    pub(super) fn group_step(&self, state: &mut State, step: GroupStep) {
        match step {
            GroupStep::Begin(session) => {
                let base = state.newest_sealed().unwrap_or_default() as u8;
                state.sessions[session] = Session::Open {
                    start: state.now,
                    base,
                    told: false,
                };
            }
            GroupStep::Previous(session) => {
                if self.follows(Rule::KnownChunksTouched) {
                    state.chunk = Some(state.now);
                }
                if let Session::Open { told, .. } = &mut state.sessions[session] {
                    *told = true;
                }
            }
            GroupStep::Seal(session) => {
                state.snapshots[session + 1] = Snapshot::Sealed;
                state.sessions[session] = Session::Over;
            }
            GroupStep::GiveUp(session) => state.sessions[session] = Session::Over,
            GroupStep::Remove(snapshot) => state.snapshots[snapshot] = Snapshot::Removed,
        }
    }
}
