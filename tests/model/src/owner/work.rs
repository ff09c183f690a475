//! What a daemon does while it believes to be the owner.

use super::{Action, Daemon, Owner, Rule, Stage, State, Wait};

/// What a daemon does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkStep {
    /// A session is told of the chunk: by its marker, or after an upload.
    Insert,
    /// The session ends without a snapshot.
    EndSession,
    /// The fence is asked for a seal.
    SealFence,
    /// The manifest is put.
    Seal,
    /// The snapshot is removed.
    RemoveSnapshot,
    /// A reader's GET brings the chunk into the cache.
    Fill,
    /// Batch 1 and 2, of a collection: condemned, journalled.
    Condemn1And2,
    /// The same for a chunk that is set aside.
    Aside1And2,
    /// Batch 3: the fence is asked.
    Fence3,
    /// Batch 3: the epoch is raised in the bucket.
    Epoch3InBucket,
    /// Batch 3: and in the directory.
    Epoch3InDirectory,
    /// Batch 4: deleted.
    Delete4,
    /// Batch 4: given up, and may still take effect.
    Delete4Lost,
    /// Batch 5: the marker is removed.
    Forget5,
    /// Batch 6 to 8: nothing can take effect any more, the journal is cleared, the digest released.
    Release6To8,
    /// The pass is too old.
    PassExpires,
}

use WorkStep::{
    Aside1And2, Condemn1And2, Delete4, Delete4Lost, EndSession, Epoch3InBucket, Epoch3InDirectory,
    Fence3, Fill, Forget5, Insert, PassExpires, Release6To8, RemoveSnapshot, Seal, SealFence,
};

impl Owner {
    pub(super) fn work_actions(&self, state: &State, index: usize, actions: &mut Vec<Action>) {
        let daemon = &state.daemons[index];
        if !daemon.is_up() {
            return;
        }
        let mut push = |step| actions.push(Action::Work(index, step));
        let marker = state.directories[index].marker;
        let holds_back = daemon.holds_back();
        if !daemon.told
            && !daemon.is_condemned()
            && (!holds_back || !self.follows(Rule::UntrustedWaits))
        {
            push(Insert);
        }
        if daemon.told {
            push(EndSession);
            push(if daemon.seal_pass { Seal } else { SealFence });
        }
        let settled = daemon.wait == Wait::Over;
        if state.sealed && state.owns(index) && settled {
            push(RemoveSnapshot);
        }
        let may_fill = !holds_back || !self.follows(Rule::FillWaits);
        if state.stored && !marker && !daemon.is_condemned() && may_fill {
            push(Fill);
        }
        if (daemon.pass || daemon.seal_pass) && self.follows(Rule::SignedWithPassDate) {
            push(PassExpires);
        }
        self.batch_actions(state, index, &mut push);
    }

    fn batch_actions(&self, state: &State, index: usize, push: &mut impl FnMut(WorkStep)) {
        let daemon = &state.daemons[index];
        match daemon.stage {
            Stage::None => {
                let settled = daemon.wait == Wait::Over || !self.follows(Rule::CollectionWaits);
                if state.left.batches > 0 && !state.directories[index].journal {
                    if settled {
                        push(Condemn1And2);
                    }
                    if daemon.wait == Wait::Over || !self.follows(Rule::AsideWaits) {
                        push(Aside1And2);
                    }
                }
            }
            Stage::Condemned => push(Fence3),
            Stage::Fenced => push(Epoch3InBucket),
            Stage::EpochInBucket => push(Epoch3InDirectory),
            Stage::Confirmed => {
                if daemon.pass || !self.follows(Rule::FenceChecked) {
                    push(Delete4);
                    if state.left.lost > 0 {
                        push(Delete4Lost);
                    }
                }
            }
            Stage::Deleted => push(Forget5),
            Stage::Forgotten => {
                if !state.late_delete || !self.follows(Rule::LateWithinT) {
                    push(Release6To8);
                }
            }
        }
    }

    pub(super) fn work_step(&self, state: &mut State, index: usize, step: WorkStep) {
        let owns = state.owns(index);
        let daemon = &mut state.daemons[index];
        let directory = &mut state.directories[index];
        match step {
            Insert => {
                if !directory.marker {
                    state.stored = true;
                    directory.marker = true;
                }
                daemon.told = true;
            }
            EndSession => {
                daemon.told = false;
                daemon.seal_pass = false;
            }
            SealFence if owns || !self.follows(Rule::FenceChecked) => daemon.seal_pass = true,
            Seal => {
                state.sealed = true;
                daemon.told = false;
                daemon.seal_pass = false;
            }
            RemoveSnapshot => state.sealed = false,
            Fill => directory.marker = true,
            Condemn1And2 | Aside1And2 => {
                state.left.batches -= 1;
                // What a snapshot names or a session was told is in use; so is what a new owner's sessions were told, but
                // of those this daemon does not know.
                let in_use = state.sealed || daemon.told || daemon.is_condemned();
                if !in_use && state.stored {
                    directory.journal = true;
                    daemon.stage = Stage::Condemned;
                }
            }
            Epoch3InBucket => self.raise_epoch(state, index),
            Epoch3InDirectory => {
                directory.epoch = state.record.epoch;
                daemon.stage = Stage::Confirmed;
            }
            Fence3 if owns || !self.follows(Rule::FenceChecked) => {
                daemon.pass = true;
                daemon.stage = Stage::Fenced;
            }
            Delete4 | Delete4Lost => {
                daemon.pass = false;
                daemon.stage = Stage::Deleted;
                if step == Delete4 {
                    state.stored = false;
                } else {
                    state.left.lost -= 1;
                    state.late_delete = true;
                }
            }
            Forget5 => {
                directory.marker = false;
                daemon.stage = Stage::Forgotten;
            }
            Release6To8 => {
                directory.journal = false;
                daemon.stage = Stage::None;
            }
            PassExpires => {
                daemon.pass = false;
                daemon.seal_pass = false;
                if matches!(
                    daemon.stage,
                    Stage::Fenced | Stage::EpochInBucket | Stage::Confirmed
                ) {
                    // S3 refuses the request; nothing was deleted, and the marker goes all the same.
                    daemon.stage = Stage::Deleted;
                }
            }
            // Not the owner any more: this process does nothing from now on.
            SealFence | Fence3 => *daemon = Daemon::default(),
        }
    }

    /// The epoch is raised by compare-and-swap, which fails for who is not the owner any more.
    fn raise_epoch(&self, state: &mut State, index: usize) {
        if !self.follows(Rule::BatchRaisesEpoch) {
            state.daemons[index].stage = Stage::Confirmed;
        } else if state.owns(index) {
            state.record.epoch += 1;
            state.daemons[index].stage = Stage::EpochInBucket;
        } else {
            state.daemons[index] = Daemon::default();
        }
    }
}
