//! A collection: cutoff, mark, list, compare, act. The numbers are those of `gc/mod.rs`; batches are in [`super::batch`].

use super::state::{DIGESTS, Digests, Run, SNAPSHOTS, Sentence, Stage, State};
use super::{Action, Chunk, Rule};

/// What a collection does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CollectorStep {
    /// 1: the first of start and open sessions is read.
    Cutoff1Begin,
    /// 1: the other one; the cutoff is known.
    Cutoff1End,
    /// 2: the next snapshot's digests are touched, if it is there.
    Mark2,
    /// 3: the bucket is listed.
    Sweep3List,
    /// 3: the listing is compared with the marks.
    Sweep3Compare,
    /// 5: a digest that an index names, that is stored and has no marker, gets one.
    Reconcile5Adopt(usize),
    /// 6: stale upload and using markers go; the run ends.
    Tidy6,
}

use CollectorStep::{
    Cutoff1Begin, Cutoff1End, Mark2, Reconcile5Adopt, Sweep3Compare, Sweep3List, Tidy6,
};

impl Chunk {
    pub(super) fn collector_actions(&self, state: &State, actions: &mut Vec<Action>) {
        let collector = &state.collector;
        match collector.run {
            Run::Idle => {
                if state.left.runs > 0 && self.may_collect(state) {
                    actions.push(Action::Collect(Cutoff1Begin));
                }
            }
            Run::Started => actions.push(Action::Collect(Cutoff1End)),
            Run::Marking(_) => actions.push(Action::Collect(Mark2)),
            Run::Marked => actions.push(Action::Collect(Sweep3List)),
            Run::Listed => actions.push(Action::Collect(Sweep3Compare)),
            Run::Acting => {
                for digest in collector.findings.iter() {
                    actions.push(Action::Collect(Reconcile5Adopt(digest)));
                }
                if collector.findings.is_empty()
                    && collector.candidates.is_empty()
                    && state.batch.stage == Stage::None
                {
                    actions.push(Action::Collect(Tidy6));
                }
            }
        }
    }

    /// Whether a run may begin: not before T after an unclean stop.
    pub(super) fn may_collect(&self, state: &State) -> bool {
        !state.settling || !self.follows(Rule::CollectionWaitsAfterCrash)
    }

    pub(super) fn collector_step(&self, state: &mut State, step: CollectorStep) {
        match step {
            Cutoff1Begin => {
                state.left.runs = state.left.runs.saturating_sub(1);
                state.collector.run = Run::Started;
                if self.follows(Rule::StartBeforeSessions) {
                    state.collector.start = state.now;
                } else {
                    state.collector.oldest = self.oldest_session(state);
                }
            }
            Cutoff1End => {
                if self.follows(Rule::StartBeforeSessions) {
                    state.collector.oldest = self.oldest_session(state);
                } else {
                    state.collector.start = state.now;
                }
                let collector = &mut state.collector;
                collector.cutoff = collector
                    .oldest
                    .take()
                    .map_or(collector.start, |oldest| oldest.min(collector.start));
                collector.run = Run::Marking(0);
            }
            Mark2 => self.mark(state),
            Sweep3List => {
                state.collector.listed = state
                    .bucket
                    .chunks
                    .map(|object| object.map(|object| object.written));
                state.collector.run = Run::Listed;
            }
            Sweep3Compare => self.compare(state),
            Reconcile5Adopt(digest) => self.adopt_finding(state, digest),
            Tidy6 => self.tidy(state),
        }
    }

    fn oldest_session(&self, state: &State) -> Option<u8> {
        let counts = |writer: &&super::Writer| {
            if self.follows(Rule::LeaseUntilUploadEnds) {
                writer.is_open()
            } else {
                writer.phase == super::Phase::Open
            }
        };
        let open = state
            .writers
            .iter()
            .filter(counts)
            .map(|writer| writer.start);
        open.min().filter(|_| self.follows(Rule::SessionsInCutoff))
    }

    fn mark(&self, state: &mut State) {
        let Run::Marking(snapshot) = state.collector.run else {
            return;
        };
        for digest in state.snapshots[usize::from(snapshot)].iter() {
            let now = Some(state.now);
            if state.disk.marker[digest].is_some() || !self.follows(Rule::MarkProvesNothing) {
                state.disk.marker[digest] = now;
            } else if self.follows(Rule::UsingMarkerProtects) {
                state.disk.using[digest] = now;
            }
        }
        let next = usize::from(snapshot) + 1;
        state.collector.run = if next == SNAPSHOTS {
            Run::Marked
        } else {
            Run::Marking(next as u8)
        };
    }

    fn compare(&self, state: &mut State) {
        let collector = &state.collector;
        let (mut candidates, mut findings) = (Digests::default(), Digests::default());
        for digest in 0..DIGESTS {
            let Some(written) = collector.listed[digest] else {
                continue;
            };
            let adopted = state.disk.using[digest].is_some_and(|since| since >= collector.start);
            if state.disk.marker[digest].is_none() && adopted {
                findings.add(digest);
            }
            let old = written < collector.cutoff || !self.follows(Rule::LastModifiedChecked);
            let seen = state.disk.marker[digest].is_some() || self.follows(Rule::SweepListsBucket);
            if old && seen && is_unused(state, digest) {
                candidates.add(digest);
            }
        }
        let collector = &mut state.collector;
        (collector.candidates, collector.findings) = (candidates, findings);
        collector.listed = Default::default();
        collector.run = Run::Acting;
    }

    /// A busy or condemned digest is left; the next run finds it again.
    fn adopt_finding(&self, state: &mut State, digest: usize) {
        state.collector.findings.remove(digest);
        let released = state.collector.aside.has(digest) && self.follows(Rule::AdoptOnlyUnreleased);
        let busy = self.is_guarded(state, digest) || state.table[digest] != Sentence::Free;
        if busy || released {
            return;
        }
        let marker = &mut state.disk.marker[digest];
        *marker = marker.or(Some(state.now));
        state.disk.using[digest] = None;
    }

    fn tidy(&self, state: &mut State) {
        let cutoff = state.collector.cutoff;
        for digest in 0..DIGESTS {
            if !self.is_guarded(state, digest) {
                let stale = |time: &u8| *time >= cutoff;
                state.disk.upload[digest] = state.disk.upload[digest].filter(stale);
                state.disk.using[digest] = state.disk.using[digest].filter(stale);
            }
        }
        // The start stays, for those who look at when a chunk came back.
        let start = state.collector.start;
        state.collector = super::Collector {
            start,
            ..Default::default()
        };
    }
}

/// Whether all marks of a digest are older than the cutoff.
pub(super) fn is_unused(state: &State, digest: usize) -> bool {
    let disk = &state.disk;
    let marks = [disk.marker[digest], disk.upload[digest], disk.using[digest]];
    marks
        .into_iter()
        .flatten()
        .all(|used| used < state.collector.cutoff)
}
