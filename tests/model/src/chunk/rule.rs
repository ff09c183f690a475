//! The rules of insert, collection and recovery, each of them a switch.

use crate::rules;

/// A rule of inserts and collections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    // Insert.
    /// Step 3: the upload marker is touched before the upload starts.
    UploadMarker,
    /// Steps 3 to 6: the guard is held over the put.
    GuardOverPut,
    /// Step 1: a use of a condemned digest waits for its release.
    WaitForRelease,
    /// Who waited for another's upload touches the marker himself.
    JoinerTouches,
    /// Known chunks are touched when they are registered.
    KnownChunksTouched,
    /// A session counts as open until its last upload has ended.
    LeaseUntilUploadEnds,
    /// An insert that fails gives its guard up.
    FailureFreesGuard,
    // Collection.
    /// The start is read before the sessions.
    StartBeforeSessions,
    /// The start of the oldest session bounds the cutoff.
    SessionsInCutoff,
    /// Mark records use, never existence.
    MarkProvesNothing,
    /// An index's digest without marker gets a using marker, which protects.
    UsingMarkerProtects,
    /// The sweep goes through what is stored, not through what is believed.
    SweepListsBucket,
    /// What was written after the cutoff is no candidate.
    LastModifiedChecked,
    /// Step 1: marks are checked again under the guard.
    CheckUnderGuard,
    /// Step 1: what is condemned already is left to who condemned it.
    CondemnedLeftAlone,
    /// Step 2: the journal is written before the deletes.
    JournalBeforeDelete,
    /// A journal is never replaced by another batch's.
    JournalKept,
    /// Step 5: markers of every key go, whatever its result.
    EveryMarkerRemoved,
    /// Step 5: their removal is durable before the journal is cleared.
    RemovalSynced,
    /// Step 6: with an answer lost, wait until T.
    UnknownDeleteWaits,
    /// Step 8 comes after step 7.
    ReleaseAfterClear,
    /// A batch runs to its end, whoever goes away.
    BatchNotCancelled,
    /// What a failed batch condemned stays condemned.
    FailureNeverReleases,
    /// What was set aside since the listing is not adopted from it.
    AdoptOnlyUnreleased,
    // Setting aside.
    /// A corrupt chunk is read again under the guard.
    AsideReadsAgain,
    /// Setting aside takes the condemn path.
    AsideCondemns,
    /// Open sessions are told of what is set aside.
    LossAnnounced,
    // Start.
    /// Journalled digests are condemned again.
    JournalReplayed,
    /// Their markers are removed.
    RecoveryDropsMarkers,
    /// They are released only T after the start.
    RecoveryWaits,
    /// Recovery deletes nothing.
    RecoveryDeletesNothing,
    /// No collection before T after an unclean stop.
    CollectionWaitsAfterCrash,
    /// The clock never goes back.
    ClockOnlyAdvances,
    // Assumptions.
    /// A1: a request takes effect within T or never.
    LateWithinT,
}

impl rules::Rule for Rule {
    const ALL: &'static [Self] = &[
        Self::UploadMarker,
        Self::GuardOverPut,
        Self::WaitForRelease,
        Self::JoinerTouches,
        Self::KnownChunksTouched,
        Self::LeaseUntilUploadEnds,
        Self::FailureFreesGuard,
        Self::StartBeforeSessions,
        Self::SessionsInCutoff,
        Self::MarkProvesNothing,
        Self::UsingMarkerProtects,
        Self::SweepListsBucket,
        Self::LastModifiedChecked,
        Self::CheckUnderGuard,
        Self::CondemnedLeftAlone,
        Self::JournalBeforeDelete,
        Self::JournalKept,
        Self::EveryMarkerRemoved,
        Self::RemovalSynced,
        Self::UnknownDeleteWaits,
        Self::ReleaseAfterClear,
        Self::BatchNotCancelled,
        Self::FailureNeverReleases,
        Self::AdoptOnlyUnreleased,
        Self::AsideReadsAgain,
        Self::AsideCondemns,
        Self::LossAnnounced,
        Self::JournalReplayed,
        Self::RecoveryDropsMarkers,
        Self::RecoveryWaits,
        Self::RecoveryDeletesNothing,
        Self::CollectionWaitsAfterCrash,
        Self::ClockOnlyAdvances,
        Self::LateWithinT,
    ];
}
