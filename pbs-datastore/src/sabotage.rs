//! Switches that turn single safety rules off, so that tests can show that each of them is needed.
//!
//! Debug builds have them, releases do not: there no rule is ever off, and the compiler knows it. The rule is chosen by the
//! environment variable `HOLDFAST_SABOTAGE`, so that every test of a switch is a process of its own.

use std::sync::OnceLock;

/// A rule of insert, garbage collection, cache, ownership or seal; those that the models have too are called the same there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The upload marker is touched before the upload starts (I4).
    MarkerBeforeUpload,
    /// The guard is held from the check of the markers to the condemnation (I5).
    CheckUnderGuard,
    /// A use of a condemned digest waits for the release (I5).
    WaitForRelease,
    /// A 412 is followed by a HEAD (design 4, step 4).
    CheckAfterExists,
    /// A digest whose delete may still come is released only after the late-request bound (I8).
    UnknownDeleteWaits,
    /// Journalled digests stay condemned after a restart (I8).
    JournalReplayed,
    /// The marker of a key that the server refused to delete is removed as well.
    RefusedMarkerRemoved,
    /// The start of the oldest session bounds the cutoff (I2).
    SessionsInCutoff,
    /// Eviction runs under the digest's guard (I6).
    EvictionGuarded,
    /// A fill is registered before its GET, and a spoiled one is dropped.
    FillRegistered,
    /// Mark records use, never existence.
    MarkProvesNothing,
    /// Who waited for another's upload touches the marker himself.
    JoinerTouches,
    /// Known chunks of a previous snapshot are touched when they are registered.
    KnownChunksTouched,
    /// An insert runs to its end although its request was dropped.
    InsertDetached,
    /// An error in a listing aborts the collection (I10).
    ListingErrorAborts,
    /// The journal of a batch that has not ended is not replaced by that of another (I8).
    JournalKept,
    /// A corrupt chunk is read again under the guard before it is set aside.
    AsideReadsAgain,
    /// Damage is believed only when two reads in a row bring it.
    DamageReadTwice,
    /// The epoch is raised with every batch of deletes (I3).
    EpochWithBatch,
    /// What a marker of unknown nature stands for is looked at before it makes a chunk a duplicate (I11).
    UnknownNatureLookedAt,
    /// The markers of a directory that does not agree with the bucket are dropped (I3).
    UntrustedDropped,
    /// A directory agrees only with the epoch of the bucket (I3).
    EpochCompared,
    /// With a directory that is not trusted nothing is answered before T after the start (I3).
    UntrustedWaits,
    /// No collection before T after an unclean stop (I8).
    CollectionWaitsAfterCrash,
    /// After a take-over from one that may be alive, all that waits waits for the signature window as well (A3).
    TakeOverWaitsWindow,
    /// Before deletes and seals the owner asks whether it still is one (A3).
    FenceChecked,
    /// The clock of a start is put forward to the newest use that was recorded.
    ClockOnlyAdvances,
    /// The removal of markers is durable before anything relies on it.
    RemovalSynced,
    /// The markers of journalled digests are removed after a restart (I8).
    RecoveryDropsMarkers,
    /// What is condemned already is left to who condemned it (I8).
    CondemnedLeftAlone,
    /// What a failed batch condemned stays condemned (I8).
    FailureNeverReleases,
    /// A batch of deletes runs to its end although whoever asked for the collection is gone.
    BatchNotCancelled,
    /// A collection reads its start before it reads the open sessions (I2).
    StartBeforeSessions,
    /// A digest that an index names without there being a marker is protected as well (I2).
    UsingMarkerProtects,
    /// What an index named in this run is not removed by it, whatever has become of the mark (I2).
    NamedRemembered,
    /// What was set aside since it was listed gets no marker from the listing (I3).
    AdoptOnlyUnreleased,
    /// The list of a group is read again when a snapshot has vanished from it.
    ReadAgainWhenVanished,
    /// An index that cannot be read aborts the collection (I10).
    UnreadableAborts,
    /// Open sessions are told of chunks that are set aside or missing.
    LossAnnounced,
    /// Setting aside takes the condemn path (I8).
    AsideCondemns,
    /// Nothing is set aside while requests of the time before the start may take effect (I8).
    AsideWaits,
    /// A fill is inserted under the digest's guard (I6).
    FillGuarded,
    /// While a marker is replaced it is not touched, so that no use is undone.
    ReplaceExcludesTouch,
    /// What cannot be verified is put under the condition that nothing is there, the last time as well (I11).
    EncryptedStaysConditional,
    /// A session counts as open until the outcome of its seal is known (I2, I8).
    OpenUntilSettled,
    /// A file whose upload got no answer is looked up before the seal (I1).
    UnansweredConfirmed,
    /// That a file is there is not enough: it must be the one that was sent (I1).
    ConfirmComparesContent,
    /// After a seal without answer nothing is concluded or removed before T (I8).
    LostSealSettled,
    /// The lock of a snapshot is kept until T after the last request whose answer was lost (I8).
    LockKept,
    /// After an unclean stop nothing of a snapshot of the time before is created or removed before T (I8).
    FrozenAfterCrash,
    /// Chunks that an index from elsewhere names are touched before they are relied on (I2).
    CopiedChunksTouched,
    /// What a marker stands for is of the nature of the archive that names it (I11).
    CopiedNatureChecked,
    /// Before a damaged snapshot is called whole its chunks are read, whatever their markers say.
    MendReadsBack,
    /// What changes a target runs to its end although the sync was stopped (I8).
    SyncChangesDetached,
    /// A copy by the server replaces nothing (I7, I11).
    CopyConditional,
    /// A chunk that is condemned at the source while it is copied is not believed.
    CopySourceWatched,
}

impl Rule {
    /// All rules.
    pub const ALL: [Self; 56] = [
        Self::MarkerBeforeUpload,
        Self::CheckUnderGuard,
        Self::WaitForRelease,
        Self::CheckAfterExists,
        Self::UnknownDeleteWaits,
        Self::JournalReplayed,
        Self::RefusedMarkerRemoved,
        Self::SessionsInCutoff,
        Self::EvictionGuarded,
        Self::FillRegistered,
        Self::MarkProvesNothing,
        Self::JoinerTouches,
        Self::KnownChunksTouched,
        Self::InsertDetached,
        Self::ListingErrorAborts,
        Self::JournalKept,
        Self::AsideReadsAgain,
        Self::DamageReadTwice,
        Self::EpochWithBatch,
        Self::UnknownNatureLookedAt,
        Self::UntrustedDropped,
        Self::EpochCompared,
        Self::UntrustedWaits,
        Self::CollectionWaitsAfterCrash,
        Self::TakeOverWaitsWindow,
        Self::FenceChecked,
        Self::ClockOnlyAdvances,
        Self::RemovalSynced,
        Self::RecoveryDropsMarkers,
        Self::CondemnedLeftAlone,
        Self::FailureNeverReleases,
        Self::BatchNotCancelled,
        Self::StartBeforeSessions,
        Self::UsingMarkerProtects,
        Self::NamedRemembered,
        Self::AdoptOnlyUnreleased,
        Self::ReadAgainWhenVanished,
        Self::UnreadableAborts,
        Self::LossAnnounced,
        Self::AsideCondemns,
        Self::AsideWaits,
        Self::FillGuarded,
        Self::ReplaceExcludesTouch,
        Self::EncryptedStaysConditional,
        Self::OpenUntilSettled,
        Self::UnansweredConfirmed,
        Self::ConfirmComparesContent,
        Self::LostSealSettled,
        Self::LockKept,
        Self::FrozenAfterCrash,
        Self::CopiedChunksTouched,
        Self::CopiedNatureChecked,
        Self::MendReadsBack,
        Self::SyncChangesDetached,
        Self::CopyConditional,
        Self::CopySourceWatched,
    ];
}

/// The rule that is off in this process.
static OFF: OnceLock<Option<Rule>> = OnceLock::new();

/// The rule that this process runs without, named by `HOLDFAST_SABOTAGE` as in `Debug`; in a release always `None`.
pub fn rule_off() -> Option<Rule> {
    if !cfg!(debug_assertions) {
        return None;
    }
    *OFF.get_or_init(|| {
        let name = std::env::var("HOLDFAST_SABOTAGE").ok()?;
        Rule::ALL
            .into_iter()
            .find(|rule| format!("{rule:?}") == name)
    })
}

/// Whether the rule is turned off.
#[inline]
pub(crate) fn is_off(rule: Rule) -> bool {
    rule_off() == Some(rule)
}
