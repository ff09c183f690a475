//! A session that writes the snapshot.

use super::{Action, Content, Lock, Rule, SESSIONS, Seal, State};

/// How often the manifest is sent.
const ATTEMPTS_MAX: u8 = 2;

/// How far a session is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Not begun.
    #[default]
    Absent,
    /// Step 1 is done.
    Claimed,
    /// Step 2 is done; the upload was acknowledged.
    Uploaded,
    /// Step 2 is done; the upload's answer was lost.
    Unanswered,
    /// Step 4 is done: it seals.
    Sealing,
    /// Without conditional create: has seen that there is no manifest.
    SealingSeen,
    /// The answer of an attempt was lost; it looks.
    Looking,
    /// It has given up and waits until T.
    Settling,
    /// It has failed and removes its file.
    CleaningUp,
    /// It has ended.
    Over,
}

/// What its client was told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Answer {
    /// Nothing.
    #[default]
    None,
    /// The snapshot is sealed.
    Success,
    /// It is not, and will not be.
    Failure,
}

/// A session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Session {
    /// How far it is.
    pub phase: Phase,
    /// What its client was told.
    pub answer: Answer,
    /// Attempts to seal.
    pub attempts: u8,
    /// It has uploaded its file a second time, with other content.
    pub second: bool,
    /// It has put a file of its own there, perhaps.
    pub own_file: bool,
}

impl Session {
    /// What its manifest says of its file.
    pub fn content(self, by: usize) -> Content {
        Content {
            by: by as u8,
            second: self.second,
        }
    }
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Answered.
    Answered,
    /// It took effect, its answer is lost.
    AnswerLost,
    /// It was given up and may still take effect.
    Lost,
}

/// All outcomes that `lost` answers allow.
pub(super) fn outcomes(lost: u8) -> &'static [Outcome] {
    if lost > 0 {
        &[Outcome::Answered, Outcome::AnswerLost, Outcome::Lost]
    } else {
        &[Outcome::Answered]
    }
}

/// What a session does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionStep {
    /// 1: lock taken, the folder is empty.
    Claim1,
    /// 2: the file is put.
    Put2(Outcome),
    /// 2: the file is put again, with other content.
    Replace2(Outcome),
    /// 4: the file's acknowledgement is there, or is looked for.
    Confirm4,
    /// 5, without conditional create: a look whether there is a manifest.
    Seal5LookFirst,
    /// 5: the manifest is put.
    Seal5(Outcome),
    /// 5: after a lost answer, a look who has sealed.
    Look5,
    /// 5: the look failed, the manifest is put again.
    Look5Fails,
    /// 5: T after the last attempt, a last look.
    Settle5,
    /// The backup is given up before its seal, or a step of it fails.
    GiveUp,
    /// After a failure the session's own file is deleted.
    CleanUp(Outcome),
}

use SessionStep::{
    Claim1, CleanUp, Confirm4, GiveUp, Look5, Look5Fails, Put2, Replace2, Seal5, Seal5LookFirst,
    Settle5,
};

impl State {
    /// Whether the snapshot of a session holds its chunks back from collections.
    pub(super) fn is_open(&self, model: &Seal, session: usize) -> bool {
        match self.sessions[session].phase {
            Phase::Absent | Phase::Over => false,
            Phase::Settling => model.follows(Rule::OpenUntilSettled),
            _ => true,
        }
    }

    /// Whether a request below the folder may still arrive.
    pub(super) fn is_unsettled(&self, model: &Seal) -> bool {
        !self.late.is_empty() && model.follows(Rule::LateWithinT)
    }
}

impl Seal {
    pub(super) fn session_actions(&self, state: &State, index: usize, actions: &mut Vec<Action>) {
        let session = &state.sessions[index];
        let mut push = |step| actions.push(Action::Session(index, step));
        let sent = outcomes(state.lost);
        match session.phase {
            Phase::Absent => {
                let rival = state.lock != Lock::Free && self.follows(Rule::SnapshotLocked);
                let frozen = state.frozen && self.follows(Rule::FrozenAfterCrash);
                let empty = state.folder.is_empty() || !self.follows(Rule::FolderEmpty);
                if !rival && !frozen && empty {
                    push(Claim1);
                }
            }
            Phase::Claimed => {
                for outcome in sent {
                    push(Put2(*outcome));
                }
            }
            Phase::Uploaded | Phase::Unanswered => {
                push(Confirm4);
                push(GiveUp);
                let answered = session.phase == Phase::Uploaded;
                let may = answered || !self.follows(Rule::UnansweredNotReplaced);
                // Without the condition even a first attempt that was repeated with success may arrive again.
                let doubt = state.doubt && !self.follows(Rule::FilesConditional);
                let may = may && !(doubt && self.follows(Rule::DoubtfulNotReplaced));
                if self.replaces && !session.second && may {
                    for outcome in sent {
                        push(Replace2(*outcome));
                    }
                }
            }
            Phase::Sealing | Phase::SealingSeen => {
                let lost = state.told_lost[index] && self.follows(Rule::LossAskedAgain);
                if lost || session.attempts >= ATTEMPTS_MAX {
                    push(GiveUp);
                } else if self.follows(Rule::SealConditional) || session.phase == Phase::SealingSeen
                {
                    for outcome in sent {
                        push(Seal5(*outcome));
                    }
                } else {
                    push(Seal5LookFirst);
                }
            }
            Phase::Looking => {
                push(Look5);
                push(Look5Fails);
            }
            Phase::Settling => {
                if !state.is_unsettled(self) || !self.follows(Rule::LostSealSettled) {
                    push(Settle5);
                }
            }
            Phase::CleaningUp => {
                if !state.is_unsettled(self) || !self.follows(Rule::LostSealSettled) {
                    for outcome in sent {
                        push(CleanUp(*outcome));
                    }
                }
            }
            Phase::Over => {}
        }
    }

    pub(super) fn session_step(&self, state: &mut State, index: usize, step: SessionStep) {
        match step {
            Claim1 => {
                state.sessions[index].phase = Phase::Claimed;
                state.lock = Lock::Session(index as u8);
                state.doubt = false;
                state.chunks[index] = true;
            }
            Put2(outcome) => self.put_file(state, index, outcome),
            Replace2(outcome) => {
                state.sessions[index].second = true;
                self.put_file(state, index, outcome);
            }
            Confirm4 => self.confirm(state, index),
            Seal5LookFirst => match state.folder.manifest {
                None => state.sessions[index].phase = Phase::SealingSeen,
                Some(by) => self.judge(state, index, by),
            },
            Seal5(outcome) => self.seal(state, index, outcome),
            Look5 => match state.folder.manifest {
                Some(by) => self.judge(state, index, by),
                None => state.sessions[index].phase = Phase::Sealing,
            },
            Look5Fails => state.sessions[index].phase = Phase::Sealing,
            Settle5 => match state.folder.manifest {
                Some(by) => self.judge(state, index, by),
                None => state.sessions[index].phase = Phase::CleaningUp,
            },
            GiveUp => {
                let sent = state.sessions[index].attempts > 0;
                let next = if sent {
                    Phase::Settling
                } else {
                    Phase::CleaningUp
                };
                state.sessions[index].phase = next;
            }
            CleanUp(outcome) => self.clean_up(state, index, outcome),
        }
    }

    /// Step 2.
    fn put_file(&self, state: &mut State, index: usize, outcome: Outcome) {
        let content = state.sessions[index].content(index);
        // The first upload needs a free name; a second one of a session that knows its first replaces that one.
        let replaces = content.second && state.sessions[index].phase == Phase::Uploaded;
        let ours = state
            .folder
            .file
            .is_some_and(|there| there.by == content.by);
        let free = state.folder.file.is_none()
            || (replaces && ours)
            || !self.follows(Rule::FilesConditional);
        let session = &mut state.sessions[index];
        session.own_file = true;
        match outcome {
            Outcome::Answered if free => {
                state.folder.file = Some(content);
                session.phase = Phase::Uploaded;
            }
            // 412 of our own first attempt, or of another's object; then nothing is touched any more.
            Outcome::Answered if state.folder.file == Some(content) => {
                session.phase = Phase::Uploaded;
            }
            Outcome::Answered => {
                session.own_file = false;
                session.phase = Phase::CleaningUp;
            }
            Outcome::AnswerLost | Outcome::Lost => {
                state.lost -= 1;
                state.doubt = true;
                session.phase = Phase::Unanswered;
                if outcome == Outcome::Lost {
                    state.late.files[index] = Some(content);
                } else if free {
                    state.folder.file = Some(content);
                }
            }
        }
    }

    /// Step 4.
    fn confirm(&self, state: &mut State, index: usize) {
        let content = state.sessions[index].content(index);
        let acknowledged = state.sessions[index].phase == Phase::Uploaded;
        let session = &mut state.sessions[index];
        session.phase = match state.folder.file {
            _ if acknowledged => Phase::Sealing,
            None => Phase::Claimed,
            Some(there) if there == content => Phase::Sealing,
            Some(_) if !self.follows(Rule::ConfirmComparesContent) => Phase::Sealing,
            Some(there) => {
                if there.by != content.by {
                    session.own_file = false;
                }
                Phase::CleaningUp
            }
        };
    }

    /// Step 5.
    fn seal(&self, state: &mut State, index: usize, outcome: Outcome) {
        let free = state.folder.manifest.is_none() || !self.follows(Rule::SealConditional);
        state.sessions[index].attempts += 1;
        match outcome {
            Outcome::Answered if free => {
                state.folder.manifest = Some(index as u8);
                self.end(state, index, Answer::Success);
            }
            Outcome::Answered => {
                let by = state
                    .folder
                    .manifest
                    .filter(|_| self.follows(Rule::CommitterRead));
                self.judge(state, index, by.unwrap_or(index as u8));
            }
            Outcome::AnswerLost | Outcome::Lost => {
                state.lost -= 1;
                state.doubt = true;
                state.sessions[index].phase = Phase::Looking;
                if outcome == Outcome::Lost {
                    state.late.manifests[index] = true;
                } else if free {
                    state.folder.manifest = Some(index as u8);
                }
            }
        }
    }

    /// Somebody has sealed.
    fn judge(&self, state: &mut State, index: usize, by: u8) {
        if usize::from(by) == index {
            self.end(state, index, Answer::Success);
        } else if self.follows(Rule::HandsOffAfterConflict) {
            self.end(state, index, Answer::Failure);
        } else {
            state.sessions[index].phase = Phase::CleaningUp;
        }
    }

    fn clean_up(&self, state: &mut State, index: usize, outcome: Outcome) {
        if state.sessions[index].own_file {
            match outcome {
                Outcome::Answered => state.folder.file = None,
                Outcome::AnswerLost | Outcome::Lost => {
                    state.lost -= 1;
                    state.doubt = true;
                    if outcome == Outcome::Lost {
                        state.late.file_delete = true;
                    } else {
                        state.folder.file = None;
                    }
                }
            }
        }
        self.end(state, index, Answer::Failure);
    }

    fn end(&self, state: &mut State, index: usize, answer: Answer) {
        let session = &mut state.sessions[index];
        session.phase = Phase::Over;
        session.answer = answer;
        if state.lock == Lock::Session(index as u8) {
            self.unlock(state);
        }
    }

    /// The lock outlives its holder if an answer was lost.
    pub(super) fn unlock(&self, state: &mut State) {
        let kept = state.doubt && self.follows(Rule::LockKept);
        state.lock = if kept { Lock::Kept } else { Lock::Free };
        state.doubt = false;
    }

    /// All sessions die with their process.
    pub(super) fn kill_sessions(state: &mut State) {
        for index in 0..SESSIONS {
            let session = &mut state.sessions[index];
            if session.phase != Phase::Absent {
                session.phase = Phase::Over;
            }
        }
    }
}
