//! Every rule with the test that catches its absence, and what the simulation can see of it.

/// Whether the simulation is asked for the rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Simulation {
    /// It is to find the absence.
    Looks,
    /// It cannot, for this reason: the test alone finds it.
    Blind(&'static str),
}

/// A rule that can be turned off.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    /// As in `pbs-datastore/src/sabotage.rs`.
    pub(crate) rule: &'static str,
    /// The unit test of pbs-datastore that fails without it.
    pub(crate) test: &'static str,
    pub(crate) simulation: Simulation,
}

const fn case(rule: &'static str, test: &'static str) -> Case {
    Case {
        rule,
        test,
        simulation: Simulation::Looks,
    }
}

impl Case {
    const fn blind(self, why: &'static str) -> Self {
        let simulation = Simulation::Blind(why);
        Self { simulation, ..self }
    }
}

/// Another rule holds the same line there.
const SECOND_LINE: &str = "a second line there";

/// All rules, in the order of `pbs-datastore/src/sabotage.rs`.
pub(crate) const CASES: &[Case] = &[
    case(
        "MarkerBeforeUpload",
        "races::insert::the_upload_marker_is_there_before_the_first_byte",
    )
    .blind(SECOND_LINE),
    case(
        "CheckUnderGuard",
        "races::collect::a_use_after_the_sweep_looked_is_seen_when_the_batch_is_condemned::by_1_Use__Insert",
    ),
    case(
        "WaitForRelease",
        "races::collect::a_hit_on_a_condemned_chunk_waits_and_uploads_again",
    ),
    case(
        "CheckAfterExists",
        "races::insert::a_damaged_object_is_replaced_by_a_verified_upload",
    ),
    case(
        "UnknownDeleteWaits",
        "races::collect::a_delete_without_answer_holds_its_digests_until_it_can_have_no_effect",
    ),
    case(
        "JournalReplayed",
        "races::collect::a_journal_left_by_a_crash_holds_its_digests_until_the_delete_can_have_no_effect",
    ),
    case(
        "RefusedMarkerRemoved",
        "races::collect::a_refused_key_loses_its_marker",
    ),
    case(
        "SessionsInCutoff",
        "races::collect::an_open_session_holds_the_cutoff_back",
    ),
    case(
        "EvictionGuarded",
        "cache::evict::tests::eviction_runs_under_the_guard",
    ),
    case(
        "FillRegistered",
        "cache::fill::tests::a_spoiled_fill_is_not_inserted",
    ),
    case(
        "MarkProvesNothing",
        "races::collect::mark_records_use_and_never_existence",
    ),
    case(
        "JoinerTouches",
        "races::insert::a_joiner_touches_the_marker_himself",
    )
    .blind(SECOND_LINE),
    case(
        "KnownChunksTouched",
        "races::collect::known_chunks_of_a_deleted_base_are_in_use",
    ),
    case(
        "InsertDetached",
        "races::insert::a_dropped_request_does_not_stop_its_insert",
    )
    .blind(SECOND_LINE),
    case(
        "ListingErrorAborts",
        "races::collect::an_error_in_a_listing_ends_the_collection",
    )
    .blind(SECOND_LINE),
    case(
        "JournalKept",
        "races::collect::the_journal_of_a_failed_batch_is_kept",
    ),
    case(
        "AsideReadsAgain",
        "races::aside::what_was_healed_meanwhile_is_not_set_aside",
    ),
    case(
        "DamageReadTwice",
        "races::aside::a_fault_of_the_line_sets_nothing_aside",
    )
    .blind("whoever calls for it has read twice"),
    case(
        "EpochWithBatch",
        "races::collect::a_copy_of_the_directory_made_during_a_collection_is_not_believed",
    ),
    case(
        "UnknownNatureLookedAt",
        "races::collect::what_a_listing_vouches_for_is_looked_at_before_it_makes_a_duplicate",
    ),
    case(
        "UntrustedDropped",
        "races::collect::a_copy_of_the_directory_made_during_a_collection_is_not_believed",
    ),
    case(
        "EpochCompared",
        "races::collect::a_copy_of_the_directory_made_during_a_collection_is_not_believed",
    ),
    case(
        "UntrustedWaits",
        "races::starts::nothing_is_answered_while_deletes_that_a_lost_directory_knew_of_may_arrive",
    ),
    case(
        "CollectionWaitsAfterCrash",
        "races::starts::nothing_is_collected_while_a_seal_of_the_time_before_may_arrive",
    ),
    case(
        "TakeOverWaitsWindow",
        "owner::tests::another_directory_is_refused_and_may_take_over_after_the_waits",
    )
    .blind("no process sleeps with a signed request in hand"),
    case(
        "FenceChecked",
        "seal::tests::rivals::a_seal_after_a_take_over_is_refused",
    )
    .blind("the last permission of a former owner runs out"),
    case(
        "ClockOnlyAdvances",
        "datastore::tests::a_start_takes_the_time_from_upload_markers_and_leaves_no_temporary_files",
    ),
    case(
        "RemovalSynced",
        "races::starts::a_loss_of_power_brings_no_removed_marker_back",
    ),
    case(
        "RecoveryDropsMarkers",
        "races::collect::a_journal_left_by_a_crash_holds_its_digests_until_the_delete_can_have_no_effect",
    ),
    case(
        "CondemnedLeftAlone",
        "races::collect::a_failed_batch_holds_its_digests_through_the_next_collection",
    ),
    case(
        "FailureNeverReleases",
        "races::collect::a_failed_batch_holds_its_digests_through_the_next_collection",
    ),
    case(
        "BatchNotCancelled",
        "races::starts::a_batch_ends_although_whoever_asked_for_the_collection_is_gone",
    )
    .blind(SECOND_LINE),
    case(
        "StartBeforeSessions",
        "races::starts::a_session_that_begins_while_a_collection_does_holds_the_cutoff_back",
    ),
    case(
        "UsingMarkerProtects",
        "races::collect::after_a_lost_cache_directory_what_is_used_is_known_again",
    ),
    case(
        "NamedRemembered",
        "races::marks::what_an_index_names_stays_although_its_mark_is_gone::harm_1_Harm__FoldersRemoved",
    )
    .blind("nobody else reaches its files"),
    case(
        "AdoptOnlyUnreleased",
        "races::aside::a_chunk_set_aside_since_it_was_listed_gets_no_marker_from_the_listing",
    ),
    case(
        "ReadAgainWhenVanished",
        "roots::snapshots::tests::a_base_that_vanishes_while_a_newer_one_is_sealed_costs_no_chunk",
    )
    .blind(SECOND_LINE),
    case(
        "UnreadableAborts",
        "roots::snapshots::tests::an_index_that_cannot_be_read_or_listed_ends_the_mark",
    )
    .blind("no index is ever damaged"),
    case(
        "LossAnnounced",
        "races::aside::a_corrupt_chunk_is_set_aside_and_healed_by_the_next_upload",
    ),
    case(
        "AsideCondemns",
        "races::aside::a_late_delete_of_a_chunk_set_aside_takes_no_new_one",
    ),
    case(
        "AsideWaits",
        "races::aside::nothing_is_set_aside_while_requests_of_the_time_before_may_arrive",
    ),
    case(
        "FillGuarded",
        "cache::fill::tests::nothing_is_condemned_while_a_fill_of_it_is_written",
    ),
    case(
        "ReplaceExcludesTouch",
        "cache::tests::a_touch_during_an_eviction_is_not_lost",
    )
    .blind("one thread: nothing comes between two calls to the disk"),
    case(
        "EncryptedStaysConditional",
        "races::insert::what_cannot_be_verified_never_arrives_late_over_a_good_chunk",
    ),
    case(
        "OpenUntilSettled",
        "seal::tests::answers::a_seal_that_arrives_late_is_still_ours",
    ),
    case(
        "UnansweredConfirmed",
        "seal::tests::answers::an_archive_without_acknowledgement_is_looked_up_or_sent_again",
    ),
    case(
        "ConfirmComparesContent",
        "seal::tests::rivals::an_archive_of_another_writer_is_not_overwritten",
    )
    .blind("nobody else writes the same snapshot"),
    case(
        "LostSealSettled",
        "seal::tests::answers::a_seal_that_never_arrives_fails_after_the_late_request_bound",
    ),
    case(
        "LockKept",
        "snapshots::tests::a_lost_removal_keeps_the_snapshot_and_its_lock",
    )
    .blind("no snapshot is ever written twice"),
    case(
        "FrozenAfterCrash",
        "seal::tests::crash::a_crash_with_the_seal_under_way_is_decided_by_the_bucket",
    ),
    case(
        "CopiedChunksTouched",
        "sync::tests::a_collection_meanwhile_takes_nothing::into_1_true",
    ),
    case(
        "CopiedNatureChecked",
        "sync::tests::a_forged_chunk_is_not_taken_for_the_one_of_its_name::into_1_true",
    )
    .blind("source and target of its copies are one datastore"),
    case(
        "MendReadsBack",
        "sync::tests::what_is_mended_was_read_whatever_its_marker_says::into_1_true",
    )
    .blind("source and target of its copies are one datastore"),
    case(
        "SyncChangesDetached",
        "sync::tests::a_stop_cuts_no_write_off_in_the_middle",
    ),
    case(
        "CopyConditional",
        "sync::tests::copying::a_late_copy_of_a_damaged_chunk_replaces_nothing",
    )
    .blind("source and target of its copies are one datastore"),
    case(
        "CopySourceWatched",
        "sync::tests::copying::what_is_found_damaged_while_it_is_copied_is_not_believed",
    )
    .blind("source and target of its copies are one datastore"),
];
