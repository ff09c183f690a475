//! What was found when the protocols were designed, and which trial shows it now.
//!
//! Each line is a defect: what loses something, or a line that may go because another holds. The tests look every trial up
//! and run it.

/// One finding.
#[derive(Clone, Copy, Debug)]
pub struct Item {
    /// In words.
    pub what: &'static str,
    /// The model.
    pub model: &'static str,
    /// The rules that are off in the trial, as in `Debug`.
    pub off: &'static [&'static str],
}

const fn item(what: &'static str, model: &'static str, off: &'static [&'static str]) -> Item {
    Item { what, model, off }
}

/// Each of these loses a chunk or a snapshot.
pub const LOSES: &[Item] = &[
    item(
        "a digest is released whose delete has no answer",
        "chunk",
        &["UnknownDeleteWaits"],
    ),
    item(
        "a digest is released before the journal is cleared, and recovery deletes again",
        "chunk",
        &["ReleaseAfterClear", "RecoveryDeletesNothing"],
    ),
    item(
        "the marker of a key without a positive answer is left behind",
        "chunk",
        &["EveryMarkerRemoved"],
    ),
    item(
        "the marker of a recovered key is left behind",
        "chunk",
        &["RecoveryDropsMarkers"],
    ),
    item("a cache fill without guard", "cache", &["FillGuarded"]),
    item(
        "a cache fill without registration",
        "cache",
        &["FillRegistered"],
    ),
    item(
        "an eviction restores an old atime",
        "cache",
        &["ReplaceExcludesTouch"],
    ),
    item(
        "an eviction restores a removed marker",
        "cache",
        &["EvictionGuarded"],
    ),
    item(
        "mark creates a trusted marker",
        "chunk",
        &["MarkProvesNothing"],
    ),
    item(
        "a lost cache directory is trusted to know what is on its way",
        "owner",
        &["UntrustedWaits"],
    ),
    item(
        "an old copy of the cache directory is trusted",
        "owner",
        &["EpochCompared"],
    ),
    item(
        "an old copy's markers are kept",
        "owner",
        &["UntrustedDropped"],
    ),
    item(
        "a seal arrives late with its session closed already",
        "seal",
        &["OpenUntilSettled"],
    ),
    item(
        "known chunks are not touched, and their base is removed",
        "roots",
        &["KnownChunksTouched", "BaseHeld"],
    ),
    item(
        "known chunks are not touched, and nothing holds their base",
        "chunk",
        &["KnownChunksTouched"],
    ),
    item(
        "indexes are listed newest first",
        "roots",
        &["KnownChunksTouched", "OldestFirst"],
    ),
    item(
        "a group is listed in shards",
        "roots",
        &["KnownChunksTouched", "OneShard"],
    ),
    item(
        "who joined an upload is answered without a touch of his own",
        "chunk",
        &["JoinerTouches"],
    ),
    item(
        "a batch is cancelled, and what it condemned released",
        "chunk",
        &["BatchNotCancelled", "FailureNeverReleases"],
    ),
    item(
        "a collection runs during recovery, and replaces its journal",
        "chunk",
        &["CollectionWaitsAfterCrash", "JournalKept"],
    ),
    item(
        "a collection runs while a seal of the time before may arrive",
        "seal",
        &["CollectionWaitsAfterCrash"],
    ),
    item(
        "a collection runs while an owner that was taken over may seal",
        "owner",
        &["CollectionWaits"],
    ),
    item("the clock is set back", "chunk", &["ClockOnlyAdvances"]),
    item(
        "a loss of power undoes the removal of a marker",
        "chunk",
        &["RemovalSynced"],
    ),
    item(
        "a chunk is set aside outside of the condemn path",
        "chunk",
        &["AsideCondemns"],
    ),
    item(
        "sessions are read before the collection's start",
        "chunk",
        &["StartBeforeSessions"],
    ),
    item(
        "a snapshot is sealed on the existence of its files alone",
        "seal",
        &["ConfirmComparesContent"],
    ),
    item(
        "files are removed while their seal may still arrive",
        "seal",
        &["LostSealSettled"],
    ),
    item("the same after a crash", "seal", &["UnsealedRemovedLate"]),
];

/// Each of these is a second line on one daemon: without it nothing is lost.
pub const REDUNDANT: &[Item] = &[
    item(
        "the upload marker, while the guard is held over the put",
        "chunk",
        &["UploadMarker"],
    ),
    item(
        "the guard over the put, while there is the upload marker",
        "chunk",
        &["GuardOverPut"],
    ),
    item(
        "the check of LastModified",
        "chunk",
        &["LastModifiedChecked"],
    ),
    item(
        "the lock on the base, once known chunks are touched",
        "roots",
        &["BaseHeld"],
    ),
    item(
        "listing again, once known chunks are touched",
        "roots",
        &["ReadAgainWhenVanished"],
    ),
    item(
        "the order of listing, once known chunks are touched",
        "roots",
        &["OldestFirst"],
    ),
    item(
        "listing without shards, once known chunks are touched",
        "roots",
        &["OneShard"],
    ),
    item(
        "the committer's metadata under the snapshot lock",
        "seal",
        &["CommitterRead"],
    ),
    item(
        "the conditional seal under the snapshot lock",
        "seal",
        &["SealConditional"],
    ),
    item(
        "the task of a batch, while a failed batch releases nothing",
        "chunk",
        &["BatchNotCancelled"],
    ),
    item(
        "releasing after the journal is cleared, while recovery deletes nothing",
        "chunk",
        &["ReleaseAfterClear"],
    ),
];

/// Where two lines hold the same, both off lose.
pub const TOGETHER: &[Item] = &[
    item(
        "upload marker and guard",
        "chunk",
        &["UploadMarker", "GuardOverPut"],
    ),
    item(
        "upload marker, guard and LastModified",
        "chunk",
        &["UploadMarker", "GuardOverPut", "LastModifiedChecked"],
    ),
    item(
        "touches and the lock on the base",
        "roots",
        &["KnownChunksTouched", "BaseHeld"],
    ),
    item(
        "touches and listing again",
        "roots",
        &["KnownChunksTouched", "ReadAgainWhenVanished"],
    ),
    item(
        "locks and the committer's metadata",
        "seal",
        &["SnapshotLocked", "FilesConditional", "CommitterRead"],
    ),
    item(
        "locks and the conditional seal",
        "seal",
        &["SnapshotLocked", "FilesConditional", "SealConditional"],
    ),
];
