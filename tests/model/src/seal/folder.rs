//! The folder in the bucket, and what others do to it: late requests, removal, collection, crash and start.

use super::session::{Outcome, Phase, outcomes};
use super::{Action, Lock, Rule, SESSIONS, Seal, State};

/// Whose file, and which of his two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Content {
    /// The session.
    pub by: u8,
    /// Its second upload.
    pub second: bool,
}

/// The objects of the snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Folder {
    /// The archive.
    pub file: Option<Content>,
    /// The manifest, and who committed it.
    pub manifest: Option<u8>,
}

impl Folder {
    /// Nothing is there.
    pub fn is_empty(self) -> bool {
        self.file.is_none() && self.manifest.is_none()
    }
}

/// Requests that were given up and may still take effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Late {
    /// Puts of the file.
    pub files: [Option<Content>; SESSIONS],
    /// Puts of the manifest.
    pub manifests: [bool; SESSIONS],
    /// A delete of the file.
    pub file_delete: bool,
    /// A delete of the manifest.
    pub manifest_delete: bool,
}

impl Late {
    /// Nothing is on its way.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }
}

/// What happens to the folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FolderStep {
    /// A late put of the file takes effect, or not.
    LateFile(usize, bool),
    /// A late put of the manifest takes effect, or not.
    LateManifest(usize, bool),
    /// A late delete of the file takes effect, or not.
    LateFileDelete(bool),
    /// A late delete of the manifest takes effect, or not.
    LateManifestDelete(bool),
    /// Nothing of the lock's last holder can arrive any more.
    LockExpires,
    /// Removal: the manifest.
    RemoveManifest(Outcome),
    /// Removal: the rest.
    RemoveRest(Outcome),
    /// A folder without manifest that nobody writes is removed.
    RemoveUnsealed(Outcome),
    /// Chunks that nothing holds back are collected.
    Collect,
    /// A chunk of a session that is sealing turns out to be corrupt, is set aside and announced.
    ChunkLost(usize),
    /// The process dies and starts again.
    CrashAndStart,
    /// T has passed since the start.
    TPasses,
}

use FolderStep::{
    ChunkLost, Collect, CrashAndStart, LateFile, LateFileDelete, LateManifest, LateManifestDelete,
    LockExpires, RemoveManifest, RemoveRest, RemoveUnsealed, TPasses,
};

impl Seal {
    pub(super) fn folder_actions(&self, state: &State, actions: &mut Vec<Action>) {
        let mut push = |step| actions.push(Action::Folder(step));
        for happens in [true, false] {
            for session in 0..SESSIONS {
                if state.late.files[session].is_some() {
                    push(LateFile(session, happens));
                }
                if state.late.manifests[session] {
                    push(LateManifest(session, happens));
                }
            }
            if state.late.file_delete {
                push(LateFileDelete(happens));
            }
            if state.late.manifest_delete {
                push(LateManifestDelete(happens));
            }
        }
        if state.lock == Lock::Kept && !state.is_unsettled(self) {
            push(LockExpires);
        }
        if state.frozen && !state.is_unsettled(self) {
            push(TPasses);
        }
        if state.crashes > 0 {
            push(CrashAndStart);
        }
        self.removal_actions(state, &mut push);
        let may_collect = !state.frozen || !self.follows(Rule::CollectionWaitsAfterCrash);
        if may_collect && self.collectable(state).contains(&true) {
            push(Collect);
        }
        for session in 0..SESSIONS {
            let phase = state.sessions[session].phase;
            let sealing = matches!(phase, Phase::Sealing | Phase::SealingSeen | Phase::Looking);
            if state.corrupt > 0 && sealing && state.chunks[session] {
                push(ChunkLost(session));
            }
        }
    }

    fn removal_actions(&self, state: &State, push: &mut impl FnMut(FolderStep)) {
        let sent = outcomes(state.lost);
        if state.lock == Lock::Removal {
            for outcome in sent {
                push(RemoveRest(*outcome));
            }
        }
        if state.lock != Lock::Free {
            return;
        }
        let frozen = state.frozen && self.follows(Rule::FrozenAfterCrash);
        if self.removals && state.folder.manifest.is_some() && !frozen {
            for outcome in sent {
                push(RemoveManifest(*outcome));
            }
        }
        let waits = state.frozen && self.follows(Rule::UnsealedRemovedLate);
        let left = state.folder.manifest.is_none() && state.folder.file.is_some();
        // With the lock off a rival may be writing without holding it.
        let written = (0..SESSIONS)
            .any(|session| !matches!(state.sessions[session].phase, Phase::Absent | Phase::Over));
        if left && !waits && !written {
            for outcome in sent {
                push(RemoveUnsealed(*outcome));
            }
        }
    }

    /// Whose chunks nothing holds back.
    fn collectable(&self, state: &State) -> [bool; SESSIONS] {
        std::array::from_fn(|session| {
            let sealed = state.folder.manifest == Some(session as u8);
            state.chunks[session] && !sealed && !state.is_open(self, session)
        })
    }

    pub(super) fn folder_step(&self, state: &mut State, step: FolderStep) {
        match step {
            LateFile(session, happens) => {
                let content = state.late.files[session].take();
                let free = state.folder.file.is_none() || !self.follows(Rule::FilesConditional);
                if happens && free {
                    state.folder.file = content;
                }
            }
            LateManifest(session, happens) => {
                state.late.manifests[session] = false;
                let free = state.folder.manifest.is_none() || !self.follows(Rule::SealConditional);
                if happens && free {
                    state.folder.manifest = Some(session as u8);
                }
            }
            LateFileDelete(happens) => {
                state.late.file_delete = false;
                state.folder.file = state.folder.file.filter(|_| !happens);
            }
            LateManifestDelete(happens) => {
                state.late.manifest_delete = false;
                state.folder.manifest = state.folder.manifest.filter(|_| !happens);
            }
            LockExpires => state.lock = Lock::Free,
            RemoveManifest(outcome) => self.remove_manifest(state, outcome),
            RemoveRest(outcome) => {
                Self::delete_file(state, outcome);
                if !self.follows(Rule::ManifestRemovedFirst) {
                    state.folder.manifest = None;
                }
                self.unlock(state);
            }
            RemoveUnsealed(outcome) => {
                Self::delete_file(state, outcome);
                self.unlock(state);
            }
            Collect => {
                let gone = self.collectable(state);
                for (chunk, gone) in state.chunks.iter_mut().zip(gone) {
                    *chunk &= !gone;
                }
            }
            ChunkLost(session) => {
                state.corrupt -= 1;
                state.chunks[session] = false;
                state.told_lost[session] = true;
                state.excused[session] = state.sessions[session].attempts > 0;
            }
            CrashAndStart => {
                state.crashes -= 1;
                Self::kill_sessions(state);
                state.lock = Lock::Free;
                state.doubt = false;
                state.frozen = true;
            }
            TPasses => state.frozen = false,
        }
    }

    /// The first half of a removal. Where the manifest does not go first, the file does.
    fn remove_manifest(&self, state: &mut State, outcome: Outcome) {
        if let Some(by) = state.folder.manifest {
            state.removed[usize::from(by)] = true;
        }
        state.lock = Lock::Removal;
        if !self.follows(Rule::ManifestRemovedFirst) {
            Self::delete_file(state, outcome);
            return;
        }
        match outcome {
            Outcome::Answered => state.folder.manifest = None,
            Outcome::AnswerLost | Outcome::Lost => {
                state.lost -= 1;
                state.doubt = true;
                if outcome == Outcome::Lost {
                    state.late.manifest_delete = true;
                } else {
                    state.folder.manifest = None;
                }
                // The removal fails, and its lock stays.
                self.unlock(state);
            }
        }
    }

    fn delete_file(state: &mut State, outcome: Outcome) {
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
}
