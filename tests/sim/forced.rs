//! Rare branches that are forced: every seed has one of them, in turn.
//!
//! A crash or a power loss right after a step of a protocol; a fault of one kind on a request for one kind of object; an
//! error of the disk in one area. The counters of a run tell which of them came about.

use nix::errno::Errno;
use pbs_datastore::Step;
use pbs_datastore::files::{FileFault, FileOp};
use s3_client::{Action, Effect, ErrorKind, Fault, Op};

use crate::scenario::{End, LATE};

/// One rare branch.
#[derive(Clone, Debug)]
pub(crate) enum Forced {
    /// The daemon ends at the `nth` passing of a step.
    AtStep { step: Step, end: End, nth: u64 },
    /// The `nth` request of a kind for a kind of object meets a fault.
    Request {
        op: Op,
        object: Object,
        fault: &'static str,
        nth: u64,
    },
    /// File work of one kind in one area fails, `nth` times.
    File {
        op: FileOp,
        area: &'static str,
        nth: u64,
    },
}

/// Kinds of objects, by key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Object {
    Chunk,
    Index,
    Blob,
    Manifest,
    Owner,
    InUse,
}

impl Object {
    #[expect(
        clippy::case_sensitive_file_extension_comparisons,
        reason = "keys are compared as they are"
    )]
    pub(crate) fn matches(self, key: &str) -> bool {
        match self {
            Self::Chunk => key.contains("/.chunks/"),
            Self::Index => key.ends_with("idx"),
            Self::Manifest => key.ends_with("/index.json.blob"),
            Self::Blob => key.ends_with(".blob") && !Self::Manifest.matches(key),
            Self::Owner => key.ends_with("/owner"),
            Self::InUse => key.ends_with("/.in-use"),
        }
    }
}

/// Requests that the daemon sends, and whether they change something.
pub(crate) const REQUESTS: [(Op, Object); 14] = [
    (Op::Put, Object::Chunk),
    (Op::Put, Object::Index),
    (Op::Put, Object::Blob),
    (Op::Put, Object::Manifest),
    (Op::Put, Object::Owner),
    (Op::Put, Object::InUse),
    (Op::Get, Object::Chunk),
    (Op::Get, Object::Manifest),
    (Op::Get, Object::InUse),
    (Op::Head, Object::Chunk),
    (Op::List, Object::Chunk),
    (Op::Delete, Object::Chunk),
    (Op::Delete, Object::Manifest),
    (Op::Copy, Object::Chunk),
];

const FAULTS_OF_ALL: [&str; 4] = ["fail", "throttle", "lose-request", "delay"];
const FAULTS_OF_MUTATIONS: [&str; 6] = [
    "lose-answer",
    "late",
    "duplicate",
    "fail-after-effect",
    "fail-in-doubt",
    "linger",
];

/// Faults that a request can meet, by name.
pub(crate) fn faults_of(op: Op) -> Vec<&'static str> {
    let mut faults = FAULTS_OF_ALL.to_vec();
    if op.is_mutation() {
        faults.extend(FAULTS_OF_MUTATIONS);
    }
    match op {
        Op::Put => faults.push("conflict"),
        Op::Get => faults.extend(["truncate", "garble"]),
        Op::List => faults.push("truncate"),
        Op::Delete => faults.push("refuse"),
        _ => {}
    }
    faults
}

fn action(fault: &str) -> Action {
    match fault {
        "fail" => Action::Fail(ErrorKind::Unavailable),
        "throttle" => Action::Fail(ErrorKind::Throttled),
        "lose-request" => Action::Lose(Effect::Never),
        "lose-answer" => Action::Lose(Effect::Now),
        "late" => Action::Lose(Effect::After(LATE * 4 / 5)),
        "duplicate" => Action::Duplicate,
        "fail-after-effect" => Action::FailLate { applied: true },
        "fail-in-doubt" => Action::FailLate { applied: false },
        "linger" => Action::Linger(LATE / 2),
        "delay" => Action::Delay(LATE / 2),
        "conflict" => Action::Conflict,
        "truncate" => Action::Truncate(1),
        "garble" => Action::Garble,
        "refuse" => Action::Refuse,
        other => unreachable!("no fault is called {other}"),
    }
}

/// File work that is made to fail, and where.
pub(crate) const FILES: [(FileOp, &str); 20] = [
    (FileOp::Write, "/uploads/"),
    (FileOp::Write, "/tmp/"),
    (FileOp::Write, "gc-journal"),
    (FileOp::Write, "owner.json"),
    (FileOp::Write, "/.cnt/"),
    (FileOp::Write, "/using/"),
    (FileOp::Sync, "/.chunks"),
    (FileOp::Sync, ".holdfast"),
    (FileOp::Rename, "/.chunks/"),
    (FileOp::Rename, "gc-journal"),
    (FileOp::Rename, "owner.json"),
    (FileOp::Unlink, "/.chunks/"),
    (FileOp::Unlink, "/uploads/"),
    (FileOp::Unlink, "gc-journal"),
    (FileOp::Touch, "/.chunks/"),
    (FileOp::Touch, "/uploads/"),
    (FileOp::Stat, "/.chunks/"),
    (FileOp::Stat, "/uploads/"),
    (FileOp::Read, "/.chunks/"),
    (FileOp::Read, "/.cnt/"),
];

/// Steps at which only the directory datastore passes.
const OF_DIRECTORIES: [Step; 3] = [Step::InsertFile, Step::BatchUnlinked, Step::AsideRenamed];

/// Steps of the server's own files, of which there are none here.
const OF_THE_SERVER: [Step; 2] = [Step::CreateWritten, Step::CreateLinked];

/// The steps that a run can pass.
pub(crate) fn steps() -> impl Iterator<Item = Step> {
    Step::ALL
        .into_iter()
        .filter(|step| !OF_THE_SERVER.contains(step))
}

/// All branches, in the order of the seeds.
pub(crate) fn all() -> Vec<Forced> {
    let mut all = Vec::new();
    for nth in [1, 3] {
        for end in [End::Crash, End::PowerLoss] {
            all.extend(steps().map(|step| Forced::AtStep { step, end, nth }));
        }
        for (op, object) in REQUESTS {
            for fault in faults_of(op) {
                all.push(Forced::Request {
                    op,
                    object,
                    fault,
                    nth,
                });
            }
        }
        all.extend(FILES.map(|(op, area)| Forced::File { op, area, nth }));
    }
    all
}

impl Forced {
    /// The branch of a seed; every third seed has none.
    pub(crate) fn of(seed: u64) -> Option<Self> {
        let all = all();
        (seed % 3 != 2).then(|| all[(seed - seed / 3) as usize % all.len()].clone())
    }

    pub(crate) fn wants_directory(&self) -> bool {
        matches!(self, Self::AtStep { step, .. } if OF_DIRECTORIES.contains(step))
    }

    /// Whether it can only come about where chunks are damaged and read.
    pub(crate) fn wants_damage(&self) -> bool {
        match self {
            Self::AtStep { step, .. } => matches!(step, Step::AsideCopied | Step::AsideRenamed),
            Self::Request { op, .. } => matches!(op, Op::Copy | Op::Head),
            Self::File { .. } => false,
        }
    }

    /// The step at which an earlier life must end, so that there is something to recover or to remove.
    pub(crate) fn prelude(&self) -> Option<Step> {
        let Self::AtStep { step, .. } = self else {
            return None;
        };
        match step {
            Step::RecoveryBegun | Step::RecoveryCleared => Some(Step::BatchDeleted),
            Step::UnsealedRemoved => Some(Step::SealStored),
            _ => None,
        }
    }

    /// The rule for the bucket, if the branch is one of requests.
    pub(crate) fn store_fault(&self) -> Option<Fault> {
        let Self::Request {
            op,
            object,
            fault,
            nth,
        } = self
        else {
            return None;
        };
        let object = *object;
        let matches = move |key: &str| match object {
            // A listing has its prefix for a key.
            Object::Chunk if key.ends_with("/.chunks/") => true,
            object => object.matches(key),
        };
        Some(
            Fault::on(*op)
                .key_where(matches)
                .nth(*nth)
                .then(action(fault)),
        )
    }

    /// The rule for the disk, if the branch is one of files.
    pub(crate) fn file_fault(&self) -> Option<FileFault> {
        let Self::File { op, area, nth } = self else {
            return None;
        };
        Some(FileFault {
            op: *op,
            path: (*area).to_owned(),
            times: *nth as usize,
            errno: Errno::EIO as i32,
        })
    }
}
