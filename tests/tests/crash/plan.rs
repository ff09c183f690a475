//! At which steps the daemon is killed, in which lane of the test, and on which kind of datastore. A step without a
//! cell has a reason.

use pbs_datastore::Step;

/// What the datastore is kept in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    Bucket,
    Directory,
}

/// What the daemon does when it is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Lane {
    /// Takes a backup: inserts chunks.
    Inserts,
    /// Takes a backup: caches chunks, adopts known ones.
    Cache,
    /// Takes a backup: seals the snapshot.
    Seals,
    /// Collects garbage, up to the deletes.
    Collections,
    /// Deletes a batch of chunks.
    Batches,
    /// Recovers from a crash in a collection.
    Recoveries,
    /// Sets a damaged chunk aside.
    Aside,
    /// Removes a snapshot, or what a backup left.
    Removals,
    /// Changes a note.
    Notes,
    /// Reads what is not cached.
    Reads,
    /// Starts.
    Starts,
    /// Stops.
    Stops,
    /// Replaces or creates small files, its configuration among them.
    SmallFiles,
}

impl Lane {
    /// The longest first.
    pub(crate) const ALL: [Self; 13] = [
        Self::SmallFiles,
        Self::Batches,
        Self::Inserts,
        Self::Seals,
        Self::Collections,
        Self::Cache,
        Self::Removals,
        Self::Reads,
        Self::Starts,
        Self::Recoveries,
        Self::Stops,
        Self::Aside,
        Self::Notes,
    ];
}

/// A kill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Cell {
    pub(crate) step: Step,
    /// At which passing of the step.
    pub(crate) passing: u64,
}

/// The passings at which the daemon is killed, or why it never is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kills {
    At(&'static [u64]),
    /// At every passing in the life of a daemon.
    Each,
    Never(&'static str),
}

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) step: Step,
    pub(crate) lane: Lane,
    pub(crate) bucket: Kills,
    pub(crate) directory: Kills,
}

impl Row {
    pub(crate) fn kills(&self, side: Side) -> Kills {
        match side {
            Side::Bucket => self.bucket,
            Side::Directory => self.directory,
        }
    }
}

const fn row(step: Step, lane: Lane, bucket: Kills, directory: Kills) -> Row {
    Row {
        step,
        lane,
        bucket,
        directory,
    }
}

use Kills::{At, Each, Never};

const FIRST: Kills = At(&[1]);
const NO_UPLOAD: Kills = Never("a chunk file is renamed into place, nothing is uploaded");
const NO_CACHE: Kills = Never("no cache");
const NO_JOURNAL: Kills = Never("a chunk file is unlinked in one step, nothing can arrive late");
const NO_RECORD: Kills = Never("owned by a lock, which dies with its process");

/// Every step.
pub(crate) const PLAN: [Row; Step::ALL.len()] = [
    row(Step::InsertGuarded, Lane::Inserts, At(&[15]), At(&[15])),
    row(
        Step::InsertTouched,
        Lane::Inserts,
        At(&[7]),
        Never("the chunk file is the marker, see InsertFile"),
    ),
    row(Step::InsertMarked, Lane::Inserts, At(&[1, 12]), NO_UPLOAD),
    row(Step::InsertPut, Lane::Inserts, At(&[1, 12]), NO_UPLOAD),
    row(Step::InsertCached, Lane::Inserts, At(&[12]), NO_CACHE),
    row(
        Step::InsertTold,
        Lane::Inserts,
        At(&[12]),
        Never("see InsertFile"),
    ),
    row(
        Step::InsertFile,
        Lane::Inserts,
        Never("see InsertPut"),
        At(&[1, 12]),
    ),
    row(Step::Adopted, Lane::Cache, At(&[1, 5]), At(&[1, 5])),
    row(Step::CacheReserved, Lane::Cache, At(&[12]), NO_CACHE),
    row(Step::CacheWritten, Lane::Cache, At(&[1, 12]), At(&[1, 12])),
    row(Step::CacheRenamed, Lane::Cache, At(&[1, 12]), At(&[1, 12])),
    row(Step::FillRegistered, Lane::Reads, At(&[1, 5]), NO_CACHE),
    row(Step::FillFetched, Lane::Reads, At(&[1, 5]), NO_CACHE),
    row(Step::FillInserted, Lane::Reads, At(&[1, 5]), NO_CACHE),
    row(Step::Evicted, Lane::Reads, At(&[1, 5]), NO_CACHE),
    row(Step::GcCutoff, Lane::Collections, FIRST, FIRST),
    row(Step::GcMarked, Lane::Collections, FIRST, FIRST),
    row(Step::GcListed, Lane::Collections, At(&[1, 3]), FIRST),
    row(Step::GcEpochInBucket, Lane::Collections, FIRST, NO_RECORD),
    row(Step::GcEpochLocal, Lane::Collections, FIRST, NO_RECORD),
    row(
        Step::GcReconciled,
        Lane::Collections,
        At(&[1, 2]),
        Never("chunk files are the markers"),
    ),
    row(Step::GcTidied, Lane::Collections, FIRST, FIRST),
    row(Step::BatchCondemned, Lane::Batches, At(&[1, 2]), FIRST),
    row(
        Step::BatchJournalled,
        Lane::Batches,
        At(&[1, 2]),
        NO_JOURNAL,
    ),
    row(Step::BatchConfirmed, Lane::Batches, At(&[1, 2]), NO_JOURNAL),
    row(Step::BatchDeleted, Lane::Batches, At(&[1, 2]), NO_JOURNAL),
    row(Step::BatchForgotten, Lane::Batches, At(&[1, 2]), NO_JOURNAL),
    row(Step::BatchWaited, Lane::Batches, FIRST, NO_JOURNAL),
    row(Step::BatchCleared, Lane::Batches, At(&[1, 2]), NO_JOURNAL),
    row(Step::BatchReleased, Lane::Batches, At(&[1, 2]), NO_JOURNAL),
    row(
        Step::BatchUnlinked,
        Lane::Batches,
        Never("see BatchDeleted"),
        At(&[1, 4]),
    ),
    row(
        Step::AsideCopied,
        Lane::Aside,
        FIRST,
        Never("see AsideRenamed"),
    ),
    row(Step::RecoveryBegun, Lane::Recoveries, At(&[1]), NO_JOURNAL),
    row(
        Step::RecoveryCleared,
        Lane::Recoveries,
        At(&[1]),
        NO_JOURNAL,
    ),
    row(Step::SealClaimed, Lane::Seals, At(&[2]), At(&[2])),
    row(Step::SealStored, Lane::Seals, At(&[1, 2]), At(&[1, 2])),
    row(Step::SealChecked, Lane::Seals, FIRST, FIRST),
    row(Step::SealConfirmed, Lane::Seals, FIRST, FIRST),
    row(Step::SealFenced, Lane::Seals, At(&[1, 2]), NO_RECORD),
    row(Step::SealPut, Lane::Seals, At(&[1, 2]), At(&[1, 2])),
    row(Step::SealVisible, Lane::Seals, At(&[1, 2]), At(&[1, 2])),
    row(Step::DeleteManifest, Lane::Removals, FIRST, FIRST),
    row(Step::DeleteFile, Lane::Removals, At(&[1, 2]), At(&[1, 2])),
    row(Step::DeleteDone, Lane::Removals, FIRST, FIRST),
    row(Step::StartNoted, Lane::Starts, FIRST, NO_RECORD),
    row(Step::StartTaken, Lane::Starts, FIRST, NO_RECORD),
    row(Step::StartRecorded, Lane::Starts, FIRST, NO_RECORD),
    row(Step::MarkersDropped, Lane::Starts, FIRST, NO_RECORD),
    row(Step::StopNoted, Lane::Stops, FIRST, NO_RECORD),
    row(Step::StopRecorded, Lane::Stops, FIRST, NO_RECORD),
    row(Step::ReplaceWritten, Lane::SmallFiles, Each, Each),
    row(Step::ReplaceRenamed, Lane::SmallFiles, Each, Each),
    row(Step::CreateWritten, Lane::SmallFiles, Each, Each),
    row(Step::CreateLinked, Lane::SmallFiles, Each, Each),
    row(
        Step::AsideRenamed,
        Lane::Aside,
        Never("see AsideCopied"),
        FIRST,
    ),
    row(
        Step::EditPut,
        Lane::Notes,
        At(&[1, 2]),
        Never("one rename, see ReplaceRenamed"),
    ),
    row(Step::UnsealedRemoved, Lane::Removals, FIRST, FIRST),
];

/// The kills of a lane.
pub(crate) fn cells(lane: Lane, side: Side) -> Vec<Cell> {
    let rows = PLAN.iter().filter(|row| row.lane == lane);
    let passings = rows.flat_map(|row| {
        let passings: &[u64] = match row.kills(side) {
            At(passings) => passings,
            Each | Never(_) => &[],
        };
        passings.iter().map(|passing| Cell {
            step: row.step,
            passing: *passing,
        })
    });
    passings.collect()
}

#[test]
fn every_step_has_its_row() {
    for (step, row) in Step::ALL.iter().zip(PLAN) {
        assert_eq!(*step, row.step, "the plan has the order of the steps");
        let kills = |kills| matches!(kills, At(_) | Each);
        assert!(
            kills(row.bucket) || kills(row.directory),
            "{step:?} is reached nowhere"
        );
    }
}
