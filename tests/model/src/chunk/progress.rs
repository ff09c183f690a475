//! What helps inserts and collections to their end, and what is left to be done.

use super::batch::BatchStep;
use super::collector::CollectorStep;
use super::daemon::DaemonStep;
use super::state::{DIGESTS, Digests, Run, Sentence, Stage, State, Writer};
use super::writer::WriterStep;
use super::{Action, Chunk};
use crate::settle::Settles;

impl Settles for Chunk {
    fn helpful(&self, state: &State, actions: &mut Vec<Action>) {
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
            actions.push(Action::Daemon(DaemonStep::Start));
            return;
        }
        if state.table.contains(&Sentence::Abandoned) {
            // The operator reads in the log that a restart is needed.
            actions.push(Action::Daemon(DaemonStep::Crash));
        }
        let mut all = Vec::new();
        (0..self.writers).for_each(|writer| self.writer_actions(state, writer, &mut all));
        self.batch_actions(state, &mut all);
        self.daemon_actions(state, &mut all);
        self.collector_actions(state, &mut all);
        actions.extend(all.into_iter().filter(helps));
        if !self.is_quiet(state) || garbage(state).is_empty() {
            return;
        }
        if is_aged(state) {
            actions.push(Action::Collect(CollectorStep::Cutoff1Begin));
        } else {
            actions.push(Action::Tick);
        }
    }

    fn settled(&self, state: &State) -> Result<(), &'static str> {
        let open = state.writers.iter().any(Writer::is_open);
        if open {
            return Err("an insert waits for ever");
        }
        if state.table != [Sentence::Free; DIGESTS] {
            return Err("a digest stays condemned");
        }
        let guarded = |digest| self.is_guarded(state, digest);
        if (0..DIGESTS).any(guarded) {
            return Err("a digest stays guarded");
        }
        if !garbage(state).is_empty() {
            return Err("garbage stays");
        }
        Ok(())
    }
}

impl Chunk {
    /// Nobody writes, nothing runs, nothing waits.
    fn is_quiet(&self, state: &State) -> bool {
        let writing = state.writers.iter().any(Writer::is_open);
        let held = state.table != [Sentence::Free; DIGESTS] || !state.recovering.is_empty();
        let late = !state.bucket.late_deletes.is_empty() || !state.bucket.late_puts.is_empty();
        let running = state.collector.run != Run::Idle || state.batch.stage != Stage::None;
        !writing && !held && !late && !running && self.may_collect(state)
    }
}

/// Stored, and named by nobody.
fn garbage(state: &State) -> Digests {
    let mut garbage = Digests::default();
    for digest in 0..DIGESTS {
        let named = state.snapshots.iter().any(|snapshot| snapshot.has(digest));
        if state.bucket.chunks[digest].is_some() && !named {
            garbage.add(digest);
        }
    }
    garbage
}

/// All marks of all garbage are older than now.
fn is_aged(state: &State) -> bool {
    let aged = |digest: usize| {
        let disk = &state.disk;
        let written = state.bucket.chunks[digest].map(|object| object.written);
        let marks = [
            disk.marker[digest],
            disk.upload[digest],
            disk.using[digest],
            written,
        ];
        marks.into_iter().flatten().all(|time| time < state.now)
    };
    garbage(state).iter().all(aged)
}

/// Whether an action is a step that goes well.
fn helps(action: &Action) -> bool {
    match action {
        Action::Writer(_, step) => matches!(
            step,
            WriterStep::Insert3
                | WriterStep::Insert4Put
                | WriterStep::Insert4Look
                | WriterStep::Insert5
                | WriterStep::Insert6
                | WriterStep::Leave
        ),
        Action::Batch(step) => !matches!(
            step,
            BatchStep::Aside1(_)
                | BatchStep::Delete4Refused
                | BatchStep::Delete4AnswerLost
                | BatchStep::Delete4Lost
                | BatchStep::Delete4LostThenDone
                | BatchStep::Fail
                | BatchStep::Cancel
        ),
        Action::Collect(step) => *step != CollectorStep::Cutoff1Begin,
        Action::Daemon(step) => matches!(step, DaemonStep::TPasses | DaemonStep::RecoveryEnds),
        _ => false,
    }
}
