//! A delete batch: steps 1 to 8 of `gc/condemn.rs`, taken by a collection and by whoever sets a chunk aside. Step 3, the fence,
//! is in the model of ownership.

use super::collector::is_unused;
use super::state::{Batch, Collector, DIGESTS, Digests, Run, Sentence, Stage, State};
use super::{Action, Chunk, Rule};

/// What a batch does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchStep {
    /// 1: candidates are checked again and condemned, under their guards.
    Condemn1,
    /// 1 of setting aside: the reported chunk is read again and condemned, under its guard.
    Aside1(usize),
    /// 2: the journal is written, durably.
    Journal2,
    /// 4: deleted, answered.
    Delete4,
    /// 4: refused.
    Delete4Refused,
    /// 4: deleted, the answer is lost.
    Delete4AnswerLost,
    /// 4: given up, and may still take effect.
    Delete4Lost,
    /// 4: a first attempt was given up and may still take effect; the second was answered.
    Delete4LostThenDone,
    /// 5: markers and upload markers removed.
    Forget5,
    /// 5: that is durable.
    Forget5Sync,
    /// 6: nothing can take effect any more.
    Wait6,
    /// 7: journal cleared, durably.
    Clear7,
    /// 8: released.
    Release8,
    /// The local disk fails in step 5 or 7.
    Fail,
    /// Without the rule: the run's task is cancelled, and with it the batch.
    Cancel,
}

use BatchStep::{
    Aside1, Cancel, Clear7, Condemn1, Delete4, Delete4AnswerLost, Delete4Lost, Delete4LostThenDone,
    Delete4Refused, Fail, Forget5, Forget5Sync, Journal2, Release8, Wait6,
};

impl Chunk {
    pub(super) fn batch_actions(&self, state: &State, actions: &mut Vec<Action>) {
        let mut push = |step| actions.push(Action::Batch(step));
        let stage = state.batch.stage;
        match stage {
            Stage::None => {
                if state.collector.run == Run::Acting && !state.collector.candidates.is_empty() {
                    push(Condemn1);
                }
                if state.reports > 0 {
                    let free = |digest: &usize| {
                        !self.is_guarded(state, *digest) && state.table[*digest] == Sentence::Free
                    };
                    (0..1).filter(free).for_each(|digest| push(Aside1(digest)));
                }
            }
            Stage::Condemned => push(Journal2),
            Stage::Journalled => {
                push(Delete4);
                push(Delete4Refused);
                if state.left.lost > 0 {
                    push(Delete4AnswerLost);
                    push(Delete4Lost);
                    push(Delete4LostThenDone);
                }
            }
            Stage::Deleted => push(Forget5),
            Stage::Forgotten => push(Forget5Sync),
            Stage::Durable => {
                let pending = !state
                    .bucket
                    .late_deletes
                    .and(state.batch.digests)
                    .is_empty();
                let waits =
                    self.follows(Rule::UnknownDeleteWaits) && self.follows(Rule::LateWithinT);
                if !pending || !waits {
                    push(Wait6);
                }
            }
            Stage::Waited if self.follows(Rule::ReleaseAfterClear) => push(Clear7),
            Stage::Waited | Stage::Cleared => push(Release8),
            Stage::ReleasedEarly => push(Clear7),
        }
        let fails = matches!(stage, Stage::Deleted | Stage::Waited);
        if fails && state.left.faults > 0 {
            push(Fail);
        }
        if stage != Stage::None && !self.follows(Rule::BatchNotCancelled) && !state.batch.aside {
            push(Cancel);
        }
    }

    pub(super) fn batch_step(&self, state: &mut State, step: BatchStep) {
        match step {
            Condemn1 => self.condemn(state),
            Aside1(digest) => self.condemn_corrupt(state, digest),
            Journal2 => self.write_journal(state),
            Delete4 | Delete4Refused | Delete4AnswerLost | Delete4Lost | Delete4LostThenDone => {
                Self::delete(state, step);
            }
            Forget5 => {
                let kept = if self.follows(Rule::EveryMarkerRemoved) {
                    Digests::default()
                } else {
                    state.batch.doubtful
                };
                forget_markers(state, state.batch.digests.minus(kept));
                state.batch.stage = Stage::Forgotten;
            }
            Forget5Sync => {
                if self.follows(Rule::RemovalSynced) {
                    self.sync_markers(state);
                }
                state.batch.stage = Stage::Durable;
            }
            Wait6 => state.batch.stage = Stage::Waited,
            Clear7 => {
                state.disk.journal = Digests::default();
                self.sync_journal(state);
                if state.batch.stage == Stage::ReleasedEarly {
                    state.batch = Batch::default();
                } else {
                    state.batch.stage = Stage::Cleared;
                }
            }
            Release8 => Self::release(state),
            Fail | Cancel => Self::give_up(state, self.follows(Rule::FailureNeverReleases)),
        }
    }

    /// Step 1. A busy digest is in use; one that is condemned already belongs to who condemned it.
    fn condemn(&self, state: &mut State) {
        let mut batch = Batch {
            stage: Stage::Condemned,
            ..Batch::default()
        };
        for digest in state.collector.candidates.iter() {
            let theirs =
                state.table[digest] != Sentence::Free && self.follows(Rule::CondemnedLeftAlone);
            let checked = is_unused(state, digest) && !self.is_guarded(state, digest);
            if !theirs && (checked || !self.follows(Rule::CheckUnderGuard)) {
                batch.digests.add(digest);
                state.table[digest] = Sentence::Condemned;
            }
        }
        state.collector.candidates = Digests::default();
        if !batch.digests.is_empty() {
            state.batch = batch;
        }
    }

    /// Step 1 of setting aside.
    fn condemn_corrupt(&self, state: &mut State, digest: usize) {
        state.reports -= 1;
        let Some(object) = state.bucket.chunks[digest] else {
            // Missing: nobody is to be told of it any more.
            state.disk.marker[digest] = None;
            self.sync_markers(state);
            state.announce_lost(digest);
            return;
        };
        if object.good && self.follows(Rule::AsideReadsAgain) {
            return;
        }
        if self.follows(Rule::LossAnnounced) {
            state.announce_lost(digest);
        }
        if self.follows(Rule::AsideCondemns) {
            state.table[digest] = Sentence::Condemned;
        }
        state.batch = Batch {
            stage: Stage::Condemned,
            digests: Digests::of(digest),
            aside: true,
            ..Batch::default()
        };
    }

    /// Step 2. Where there is a journal already the batch has failed before it began, and nothing was sent.
    fn write_journal(&self, state: &mut State) {
        if !state.disk.journal.is_empty() && self.follows(Rule::JournalKept) {
            for digest in state.batch.digests.iter() {
                state.table[digest] = Sentence::Free;
            }
            Self::end_batch(state);
            return;
        }
        if self.follows(Rule::JournalBeforeDelete) {
            state.disk.journal = state.batch.digests;
            self.sync_journal(state);
        }
        state.batch.stage = Stage::Journalled;
    }

    /// Step 4.
    fn delete(state: &mut State, step: BatchStep) {
        let takes_effect = matches!(step, Delete4 | Delete4AnswerLost | Delete4LostThenDone);
        let pending = matches!(step, Delete4Lost | Delete4LostThenDone);
        if pending || step == Delete4AnswerLost {
            state.left.lost -= 1;
        }
        for digest in state.batch.digests.iter() {
            if takes_effect {
                state.delete(digest);
            }
            if pending {
                state.bucket.late_deletes.add(digest);
            }
        }
        if !matches!(step, Delete4 | Delete4LostThenDone) {
            state.batch.doubtful = state.batch.digests;
        }
        state.batch.stage = Stage::Deleted;
    }

    /// Step 8.
    fn release(state: &mut State) {
        for digest in state.batch.digests.iter() {
            state.table[digest] = Sentence::Free;
        }
        if state.batch.aside && state.collector.run != Run::Idle {
            state.collector.aside = state.collector.aside.or(state.batch.digests);
        }
        if state.batch.stage == Stage::Waited {
            state.batch.stage = Stage::ReleasedEarly;
        } else {
            state.batch = Batch::default();
        }
    }

    /// The batch ends in the middle. Nobody knows what became of its deletes.
    fn give_up(state: &mut State, abandoned: bool) {
        if state.batch.stage != Stage::Condemned {
            state.left.faults = state.left.faults.saturating_sub(1);
        }
        let sentence = if abandoned {
            Sentence::Abandoned
        } else {
            Sentence::Free
        };
        for digest in state.batch.digests.iter() {
            state.table[digest] = sentence;
        }
        Self::end_batch(state);
    }

    /// A batch that fails ends its collection.
    fn end_batch(state: &mut State) {
        if !state.batch.aside {
            state.collector = Collector::default();
        }
        state.batch = Batch::default();
    }

    /// Everything in the cache directory becomes durable.
    pub(super) fn sync_markers(&self, state: &mut State) {
        if self.power_loss {
            state.synced = state.disk;
        }
    }

    /// The journal, and nothing else, becomes durable.
    pub(super) fn sync_journal(&self, state: &mut State) {
        if self.power_loss {
            state.synced.journal = state.disk.journal;
        }
    }
}

/// Step 5, also of the recovery.
pub(super) fn forget_markers(state: &mut State, digests: Digests) {
    for digest in (0..DIGESTS).filter(|digest| digests.has(*digest)) {
        state.disk.marker[digest] = None;
        state.disk.upload[digest] = None;
    }
}
