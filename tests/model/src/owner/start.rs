//! Start, stop and crash.

use super::{Action, Daemon, Owner, Record, Rule, Settled, Stage, Starting, State, Wait};

/// What happens to a daemon as a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartStep {
    /// 3: decided, and noted in the directory.
    Note3,
    /// 4: the record is in the bucket. `true`: the operator has declared the owner before dead.
    Take4(bool),
    /// 5: the markers of a directory that is not trusted are dropped.
    Drop5,
    /// 5: the directory agrees with the bucket.
    Agree5,
    /// The wait is over.
    WaitEnds,
    /// The process dies.
    Crash,
    /// It stops cleanly. `false`: it dies between directory and bucket.
    Stop(bool),
}

use StartStep::{Agree5, Crash, Drop5, Note3, Stop, Take4, WaitEnds};

impl Owner {
    pub(super) fn start_actions(&self, state: &State, index: usize, actions: &mut Vec<Action>) {
        let daemon = &state.daemons[index];
        let mut push = |step| actions.push(Action::Start(index, step));
        match daemon.starting {
            Starting::Down => {
                if state.left.starts > 0 {
                    push(Note3);
                }
                return;
            }
            Starting::Noted => {
                push(Take4(false));
                let other = &state.daemons[1 - index];
                let dead = other.starting == Starting::Down || !self.follows(Rule::DeadIsDead);
                if state.record.holder != index as u8 && dead {
                    push(Take4(true));
                }
            }
            Starting::Dropping => push(Drop5),
            Starting::Agreeing => push(Agree5),
            Starting::Up => {
                if daemon.wait != Wait::Over && self.wait_may_end(state, index) {
                    push(WaitEnds);
                }
                let idle = daemon.stage == Stage::None && !daemon.told && !daemon.recovering;
                let known = idle && !state.late_delete && !state.directories[index].journal;
                if state.owns(index) && (known || !self.follows(Rule::CleanMeansIdle)) {
                    push(Stop(true));
                    if state.left.crashes > 0 {
                        push(Stop(false));
                    }
                }
            }
        }
        if state.left.crashes > 0 {
            push(Crash);
        }
    }

    /// T has passed when nothing is on its way; W when nobody holds a pass any more.
    fn wait_may_end(&self, state: &State, index: usize) -> bool {
        let late = state.late_delete && self.follows(Rule::LateWithinT);
        let other = &state.daemons[1 - index];
        let window = state.daemons[index].wait == Wait::LateAndWindow
            && self.follows(Rule::TakeOverWaitsWindow)
            && self.follows(Rule::SignedWithPassDate);
        !late && !(window && (other.pass || other.seal_pass))
    }

    pub(super) fn start_step(&self, state: &mut State, index: usize, step: StartStep) {
        match step {
            Note3 => self.note(state, index),
            Take4(dead) => self.take(state, index, dead),
            Drop5 => {
                state.directories[index].marker = false;
                let starting = if self.follows(Rule::DropBeforeAgreeing) {
                    Starting::Agreeing
                } else {
                    Starting::Up
                };
                state.daemons[index].starting = starting;
                self.recover(state, index);
            }
            Agree5 => {
                Self::agree(state, index);
                let trusted = state.daemons[index].trusted;
                let drop_next = !self.follows(Rule::DropBeforeAgreeing) && !trusted;
                let starting = if drop_next {
                    Starting::Dropping
                } else {
                    Starting::Up
                };
                state.daemons[index].starting = starting;
                self.recover(state, index);
            }
            WaitEnds => {
                state.daemons[index].wait = Wait::Over;
                if state.daemons[index].recovering {
                    state.daemons[index].recovering = false;
                    state.directories[index].journal = false;
                }
            }
            Crash => {
                state.left.crashes -= 1;
                state.daemons[index] = Daemon::default();
            }
            Stop(completes) => Self::stop(state, index, completes),
        }
    }

    /// Whether the directory knows of everything that was deleted.
    fn is_trusted(&self, state: &State, index: usize) -> bool {
        let (directory, record) = (&state.directories[index], &state.record);
        let off = |rule| !self.follows(rule);
        let named = directory.start == record.start || directory.starting == record.start;
        directory.exists
            && (record.holder == index as u8 || off(Rule::InstanceCompared))
            && (named || off(Rule::StartCompared))
            && (record.stop == 0 || record.stop == directory.stop || off(Rule::StopCompared))
            && (record.epoch == directory.epoch || off(Rule::EpochCompared))
    }

    fn note(&self, state: &mut State, index: usize) {
        state.left.starts -= 1;
        let start = state.next_id;
        state.next_id += 1;
        let trusted = self.is_trusted(state, index);
        let directory = &mut state.directories[index];
        directory.exists = true;
        if trusted && self.follows(Rule::StartNotedFirst) {
            directory.starting = start;
        } else if !trusted {
            (directory.start, directory.starting) = (0, 0);
        }
        state.daemons[index] = Daemon {
            starting: Starting::Noted,
            start,
            found: Some(state.record),
            trusted,
            ..Daemon::default()
        };
    }

    fn take(&self, state: &mut State, index: usize, dead: bool) {
        let Some(found) = state.daemons[index].found.take() else {
            return;
        };
        if found != state.record && self.follows(Rule::TakenByCompareAndSwap) {
            // Somebody was faster; this start fails.
            state.daemons[index] = Daemon::default();
            return;
        }
        let ours = found.holder == index as u8;
        let before = match found.clean {
            true => Settled::Settled,
            false if ours || dead => Settled::Unclean,
            false => Settled::TakenOver,
        };
        let pending = if self.follows(Rule::PendingKept) {
            found.pending
        } else {
            Settled::Settled
        };
        let before = before.max(pending);
        let before = if dead {
            before.min(Settled::Unclean)
        } else {
            before
        };
        let inherited = found.unanswered
            && pending != Settled::Settled
            && self.follows(Rule::PendingHoldsAnswers);
        let unanswered = !state.daemons[index].trusted || inherited;
        state.record = Record {
            holder: index as u8,
            start: state.daemons[index].start,
            epoch: found.epoch.max(state.directories[index].epoch),
            stop: 0,
            clean: false,
            pending: before,
            unanswered: unanswered && before != Settled::Settled,
        };
        let daemon = &mut state.daemons[index];
        daemon.wait = match before {
            Settled::Settled => Wait::Over,
            Settled::Unclean => Wait::Late,
            Settled::TakenOver => Wait::LateAndWindow,
        };
        daemon.unanswered = unanswered;
        let drops = !daemon.trusted && self.follows(Rule::UntrustedDropped);
        daemon.starting = if drops && self.follows(Rule::DropBeforeAgreeing) {
            Starting::Dropping
        } else {
            Starting::Agreeing
        };
    }

    fn agree(state: &mut State, index: usize) {
        let record = state.record;
        let directory = &mut state.directories[index];
        directory.start = state.daemons[index].start;
        directory.starting = 0;
        if record.holder == index as u8 {
            directory.epoch = record.epoch;
            directory.stop = record.stop;
        }
    }

    /// The journal, when the daemon begins to work.
    fn recover(&self, state: &mut State, index: usize) {
        let daemon = &mut state.daemons[index];
        let directory = &mut state.directories[index];
        if daemon.starting == Starting::Up
            && directory.journal
            && self.follows(Rule::JournalReplayed)
        {
            daemon.recovering = true;
            directory.marker = false;
            // A journal means that the stop was not clean, whatever the record says.
            if daemon.wait == Wait::Over {
                daemon.wait = Wait::Late;
            }
        }
    }

    fn stop(state: &mut State, index: usize, completes: bool) {
        let id = state.next_id;
        state.next_id += 1;
        state.directories[index].stop = id;
        if completes {
            if state.daemons[index].wait == Wait::Over {
                state.record.pending = Settled::Settled;
                state.record.unanswered = false;
            }
            state.record.stop = id;
            state.record.clean = true;
        } else {
            state.left.crashes -= 1;
        }
        state.daemons[index] = Daemon::default();
    }
}
