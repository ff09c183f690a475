//! Switches that turn single safety rules off, so that tests can show that each of them is needed.
//!
//! Built only with the feature `sabotage`, never into a release. The rule is chosen by the environment variable
//! `HOLDFAST_SABOTAGE`, so that every test of a switch is a process of its own.

use std::sync::OnceLock;

/// A rule of insert, garbage collection, cache or seal.
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
}

impl Rule {
    /// All rules.
    pub const ALL: [Self; 20] = [
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
    ];
}

/// The rule that is off in this process.
static OFF: OnceLock<Option<Rule>> = OnceLock::new();

/// The rule that this process runs without, named by `HOLDFAST_SABOTAGE` as in `Debug`.
pub fn rule_off() -> Option<Rule> {
    *OFF.get_or_init(|| {
        let name = std::env::var("HOLDFAST_SABOTAGE").ok()?;
        Rule::ALL
            .into_iter()
            .find(|rule| format!("{rule:?}") == name)
    })
}

/// Whether the rule is turned off.
pub(crate) fn is_off(rule: Rule) -> bool {
    rule_off() == Some(rule)
}
