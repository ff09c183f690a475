//! The seal of a snapshot: two sessions that want the same folder, lost answers, crashes, removals.
//!
//! Steps are those of `seal.rs` (1 claim, 2 files, 4 confirm, 5 seal, 6 visible), removal is that of `snapshots.rs`.
//! Session B stands for whoever comes second: a later backup of the same id or, with the lock off, a rival.
//!
//! | real | here | why that is enough |
//! |---|---|---|
//! | archives and blobs | one archive, with a content | each has a key of its own |
//! | put-id, size and ETag | whose content lies there | that is what they tell |
//! | chunks of the snapshot | there or not; a collection takes what no open session and no sealed snapshot holds | the model of chunks has the rest |
//! | "until T" | until nothing is on its way (A1) | that is what waiting T is for |

mod folder;
mod session;
pub mod trials;

use stateright::{Model, Property};

use crate::rules::{self, Without};
pub use folder::{Content, Folder, FolderStep, Late};
pub use session::{Answer, Phase, Session, SessionStep};

/// How many sessions.
pub const SESSIONS: usize = 2;

/// I1: a sealed snapshot has its files and its chunks.
pub const SEALED_IS_COMPLETE: &str = "I1 a sealed snapshot is complete";
/// I1: who was told of success has a snapshot.
pub const SUCCESS_IS_TRUE: &str = "I1 who was told of success has his snapshot";
/// I8: who was told of failure has none, now or later.
pub const FAILURE_IS_TRUE: &str = "I8 who was told of failure has no snapshot";

/// Something is lost.
pub const LOSS: &[&str] = &[SEALED_IS_COMPLETE, SUCCESS_IS_TRUE];

/// A rule of the seal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Step 1: a snapshot has one writer at a time.
    SnapshotLocked,
    /// Step 1: the folder must be empty.
    FolderEmpty,
    /// The lock is kept until T after the last request whose answer was lost.
    LockKept,
    /// Step 2: files are put under the condition that the name is free.
    FilesConditional,
    /// Step 2: a file whose upload has no answer is not replaced by another content.
    UnansweredNotReplaced,
    /// Step 2: nor, where there is no such condition, any file of a session that has had an answer lost.
    DoubtfulNotReplaced,
    /// Step 4: a file without acknowledgement is compared by content.
    ConfirmComparesContent,
    /// Step 5: before every attempt the session asks whether a chunk of its was lost.
    LossAskedAgain,
    /// Step 5: the manifest is created under the condition that there is none.
    SealConditional,
    /// Step 5: after a 412 the committer is read.
    CommitterRead,
    /// Step 5: a lost answer is followed by a look, and at the end by a wait until T.
    LostSealSettled,
    /// The session counts as open until the outcome of its seal is known.
    OpenUntilSettled,
    /// After a conflict, or with the outcome unknown, nothing is removed.
    HandsOffAfterConflict,
    /// Removal takes the manifest first.
    ManifestRemovedFirst,
    /// After an unclean stop a snapshot of the time before is neither created nor removed before T.
    FrozenAfterCrash,
    /// Unsealed folders are removed only T after an unclean stop.
    UnsealedRemovedLate,
    /// No collection before T after an unclean stop.
    CollectionWaitsAfterCrash,
    /// A1: a request takes effect within T or never.
    LateWithinT,
}

impl rules::Rule for Rule {
    const ALL: &'static [Self] = &[
        Self::SnapshotLocked,
        Self::FolderEmpty,
        Self::LockKept,
        Self::FilesConditional,
        Self::UnansweredNotReplaced,
        Self::DoubtfulNotReplaced,
        Self::ConfirmComparesContent,
        Self::LossAskedAgain,
        Self::SealConditional,
        Self::CommitterRead,
        Self::LostSealSettled,
        Self::OpenUntilSettled,
        Self::HandsOffAfterConflict,
        Self::ManifestRemovedFirst,
        Self::FrozenAfterCrash,
        Self::UnsealedRemovedLate,
        Self::CollectionWaitsAfterCrash,
        Self::LateWithinT,
    ];
}

/// A size and a choice of rules.
#[derive(Clone, Debug)]
pub struct Seal {
    /// Lost answers.
    pub lost: u8,
    /// Crashes.
    pub crashes: u8,
    /// Chunks that turn out to be corrupt while a session seals.
    pub corrupt: u8,
    /// A session may upload its file a second time, with other content.
    pub replaces: bool,
    /// Snapshots may be removed.
    pub removals: bool,
    /// Rules that are off.
    pub without: Without<Rule>,
}

/// Who holds the lock of the snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Lock {
    /// Nobody.
    #[default]
    Free,
    /// Nobody, but a request of the last holder may still arrive.
    Kept,
    /// A session.
    Session(u8),
    /// Who removes the snapshot; the first half is done.
    Removal,
}

/// Everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// The snapshot's folder in the bucket.
    pub folder: Folder,
    /// Requests that were given up.
    pub late: Late,
    /// Whether the chunks of each session's snapshot are there.
    pub chunks: [bool; SESSIONS],
    /// Those that were lost after the manifest was sent, which no protocol can help.
    pub excused: [bool; SESSIONS],
    /// Sessions that were told that a chunk of theirs is lost.
    pub told_lost: [bool; SESSIONS],
    /// The sessions.
    pub sessions: [Session; SESSIONS],
    /// The lock.
    pub lock: Lock,
    /// The holder of the lock has had an answer lost.
    pub doubt: bool,
    /// Snapshots whose removal was asked for.
    pub removed: [bool; SESSIONS],
    /// Started after a crash, T has not passed.
    pub frozen: bool,
    /// Lost answers left.
    pub lost: u8,
    /// Crashes left.
    pub crashes: u8,
    /// Corrupt chunks left.
    pub corrupt: u8,
}

/// Something happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A session takes a step.
    Session(usize, SessionStep),
    /// The folder is changed by somebody else.
    Folder(FolderStep),
}

impl Seal {
    fn follows(&self, rule: Rule) -> bool {
        self.without.follows(rule)
    }
}

impl Model for Seal {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            folder: Folder::default(),
            late: Late::default(),
            chunks: [false; SESSIONS],
            excused: [false; SESSIONS],
            told_lost: [false; SESSIONS],
            sessions: [Session::default(); SESSIONS],
            lock: Lock::Free,
            doubt: false,
            removed: [false; SESSIONS],
            frozen: false,
            lost: self.lost,
            crashes: self.crashes,
            corrupt: self.corrupt,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for session in 0..SESSIONS {
            self.session_actions(state, session, actions);
        }
        self.folder_actions(state, actions);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = *state;
        match action {
            Action::Session(session, step) => self.session_step(&mut next, session, step),
            Action::Folder(step) => self.folder_step(&mut next, step),
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(SEALED_IS_COMPLETE, |_, state: &State| {
                state.folder.manifest.is_none_or(|by| {
                    let by = usize::from(by);
                    let file = state.folder.file == Some(state.sessions[by].content(by));
                    file && (state.chunks[by] || state.excused[by])
                })
            }),
            Property::always(SUCCESS_IS_TRUE, |_, state: &State| {
                (0..SESSIONS).all(|session| {
                    state.sessions[session].answer != Answer::Success
                        || state.removed[session]
                        || state.folder.manifest == Some(session as u8)
                })
            }),
            Property::always(FAILURE_IS_TRUE, |_, state: &State| {
                (0..SESSIONS).all(|session| {
                    state.sessions[session].answer != Answer::Failure
                        || state.folder.manifest != Some(session as u8)
                })
            }),
        ];
        if self.without.rules().is_empty() {
            properties.extend(self.reachable());
        }
        properties
    }
}

impl Seal {
    fn reachable(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::sometimes(
                "both sessions seal, one after the removal of the other",
                |_, state: &State| {
                    state
                        .sessions
                        .iter()
                        .all(|session| session.answer == Answer::Success)
                },
            ),
            Property::sometimes("a seal arrives late and is found", |_, state: &State| {
                state.folder.manifest == Some(0) && state.sessions[0].phase == Phase::Settling
            }),
            Property::sometimes(
                "a session's own retry meets its own seal",
                |_, state: &State| {
                    let session = state.sessions[0];
                    session.answer == Answer::Success
                        && session.attempts == 2
                        && !state.late.manifests[0]
                },
            ),
            Property::sometimes(
                "a removal is kept waiting by a request on its way",
                |_, state: &State| state.lock == Lock::Kept && state.folder.manifest.is_some(),
            ),
        ];
        if self.crashes > 0 {
            properties.push(Property::sometimes(
                "a seal arrives after a crash",
                |_, state: &State| state.frozen && state.folder.manifest.is_some(),
            ));
            properties.push(Property::sometimes(
                "what a crash left is removed and the id is used again",
                |_, state: &State| state.crashes == 0 && state.folder.manifest == Some(1),
            ));
        }
        properties
    }
}
