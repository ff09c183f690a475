//! The collection beside the cache, as far as it changes trust.

use super::{Action, Cache, Marker, Stage, State};

/// What a collection does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CollectionStep {
    /// 1: start and sessions are read.
    Cutoff1,
    /// 2: what the snapshot names is touched, without a guard.
    Mark2,
    /// Batch 1: checked and condemned, under the guard.
    Condemn1,
    /// Batch 4: deleted.
    Delete4,
    /// Batch 5: the marker is removed.
    Forget5,
    /// Batch 8: released.
    Release8,
}

use CollectionStep::{Condemn1, Cutoff1, Delete4, Forget5, Mark2, Release8};

impl Cache {
    pub(super) fn collection_actions(state: &State, actions: &mut Vec<Action>) {
        let step = match state.stage {
            Stage::Idle if state.runs > 0 => Cutoff1,
            Stage::Idle => return,
            Stage::Begun => Mark2,
            Stage::Marked => Condemn1,
            Stage::Condemned => Delete4,
            Stage::Deleted => Forget5,
            Stage::Forgotten => Release8,
        };
        actions.push(Action::Collect(step));
    }

    pub(super) fn collection_step(&self, state: &mut State, step: CollectionStep) {
        match step {
            Cutoff1 => {
                state.runs -= 1;
                let oldest = state.session.map_or(u8::MAX, |(start, _)| start);
                state.cutoff = oldest.min(state.now);
                state.stage = Stage::Begun;
            }
            Mark2 => {
                // Without marker a using marker protects it for this run.
                let named_without_marker = state.sealed && state.marker.is_none();
                if state.sealed {
                    let used = state.now;
                    state.marker = state.marker.map(|marker| Marker { used, ..marker });
                }
                state.stage = if named_without_marker {
                    Stage::Idle
                } else {
                    Stage::Marked
                };
            }
            Condemn1 => {
                let young = state
                    .marker
                    .is_some_and(|marker| marker.used >= state.cutoff);
                if young || !state.stored || self.is_guarded(state) {
                    state.stage = Stage::Idle;
                } else {
                    state.condemned = true;
                    state.era += 1;
                    state.stage = Stage::Condemned;
                }
            }
            Delete4 => {
                state.stored = false;
                state.stage = Stage::Deleted;
            }
            Forget5 => {
                state.marker = None;
                state.stage = Stage::Forgotten;
            }
            Release8 => {
                state.condemned = false;
                state.era += 1;
                state.stage = Stage::Idle;
            }
        }
    }
}
