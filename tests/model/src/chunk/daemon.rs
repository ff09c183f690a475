//! Crash, loss of power, start and recovery.

use super::batch::forget_markers;
use super::state::{
    Batch, Collector, DIGESTS, Digests, Disk, Phase, Sentence, State, Tick, Writer,
};
use super::{Action, Chunk, Rule};

/// What happens to the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DaemonStep {
    /// The process dies; its files stay as they are.
    Crash,
    /// The machine loses power: of what was not synced only the files in the mask (bits: marker, upload marker, using marker,
    /// for each digest) are as they were last.
    PowerLoss(u8),
    /// The start: journalled digests are condemned and their markers removed before anybody else acts.
    Start,
    /// T has passed since the start.
    TPasses,
    /// Without its rule: recovery sends the journalled deletes again.
    RecoveryDeletes,
    /// The journal is cleared, then what it named is released.
    RecoveryEnds,
}

use DaemonStep::{Crash, PowerLoss, RecoveryDeletes, RecoveryEnds, Start, TPasses};

impl Chunk {
    pub(super) fn daemon_actions(&self, state: &State, actions: &mut Vec<Action>) {
        let mut push = |step| actions.push(Action::Daemon(step));
        if !state.up {
            push(Start);
            return;
        }
        if state.left.crashes > 0 {
            push(Crash);
            if self.power_loss {
                let changed = changes(&state.disk, &state.synced);
                (0..=changed)
                    .filter(|mask| mask & !changed == 0 && *mask != changed)
                    .for_each(|mask| push(PowerLoss(mask)));
            }
        }
        let over = state.bucket.late_deletes.is_empty() || !self.follows(Rule::LateWithinT);
        if state.settling && over {
            push(TPasses);
        }
        if !state.recovering.is_empty() {
            if !self.follows(Rule::RecoveryDeletesNothing) {
                push(RecoveryDeletes);
            }
            if !state.settling || !self.follows(Rule::RecoveryWaits) {
                push(RecoveryEnds);
            }
        }
    }

    pub(super) fn daemon_step(&self, state: &mut State, step: DaemonStep) {
        match step {
            Crash => Self::die(state),
            PowerLoss(mask) => {
                state.disk = what_is_left(&state.disk, &state.synced, mask);
                state.synced = state.disk;
                Self::die(state);
            }
            Start => self.start(state),
            TPasses => state.settling = false,
            RecoveryDeletes => {
                for digest in state.recovering.iter() {
                    state.delete(digest);
                }
            }
            RecoveryEnds => {
                state.disk.journal = Digests::default();
                self.sync_journal(state);
                for digest in state.recovering.iter() {
                    state.table[digest] = Sentence::Free;
                }
                state.recovering = Digests::default();
            }
        }
    }

    fn die(state: &mut State) {
        state.left.crashes = state.left.crashes.saturating_sub(1);
        state.up = false;
        state.table = [Sentence::Free; DIGESTS];
        state.recovering = Digests::default();
        state.collector = Collector::default();
        state.batch = Batch::default();
        state.reports = 0;
        for writer in &mut state.writers {
            if writer.phase != Phase::Absent {
                *writer = Writer {
                    phase: Phase::Over,
                    ..Writer::default()
                };
            }
        }
    }

    fn start(&self, state: &mut State) {
        state.up = true;
        state.settling = true;
        if !self.follows(Rule::JournalReplayed) {
            return;
        }
        let digests = state.disk.journal;
        for digest in digests.iter() {
            state.table[digest] = Sentence::Condemned;
        }
        state.recovering = digests;
        if self.follows(Rule::RecoveryDropsMarkers) {
            forget_markers(state, digests);
            self.sync_markers(state);
        }
    }
}

/// The three files of a digest.
fn files(disk: &Disk, digest: usize) -> [Option<Tick>; 3] {
    [disk.marker[digest], disk.upload[digest], disk.using[digest]]
}

/// Which files differ.
fn changes(disk: &Disk, synced: &Disk) -> u8 {
    let mut mask = 0;
    for digest in 0..DIGESTS {
        for (kind, (now, then)) in files(disk, digest)
            .into_iter()
            .zip(files(synced, digest))
            .enumerate()
        {
            if now != then {
                mask |= 1 << (3 * digest + kind);
            }
        }
    }
    mask
}

/// The directory with the files in the mask as they are and the others as they were synced.
fn what_is_left(disk: &Disk, synced: &Disk, mask: u8) -> Disk {
    let mut left = *synced;
    for digest in 0..DIGESTS {
        let [marker, upload, using] = files(disk, digest);
        let keeps = |kind: usize| mask & (1 << (3 * digest + kind)) != 0;
        if keeps(0) {
            left.marker[digest] = marker;
        }
        if keeps(1) {
            left.upload[digest] = upload;
        }
        if keeps(2) {
            left.using[digest] = using;
        }
    }
    left
}
