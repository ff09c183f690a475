//! Shows that every safety rule is needed: turns each off in the real code and expects its named test to fail.
//!
//! `cargo sabotage [RULE…]`. Ends with 1 if a rule's test still passes without the rule (the switch or the test is
//! worth nothing), or does not pass with it.
#![expect(clippy::print_stdout, reason = "the table is the program's purpose")]

use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, ensure};

/// Each rule with the test that catches its absence.
const TESTS: [(&str, &str); 20] = [
    (
        "MarkerBeforeUpload",
        "races::insert::the_upload_marker_is_there_before_the_first_byte",
    ),
    (
        "CheckUnderGuard",
        "races::collect::a_use_after_the_sweep_looked_is_seen_when_the_batch_is_condemned",
    ),
    (
        "WaitForRelease",
        "races::collect::a_hit_on_a_condemned_chunk_waits_and_uploads_again",
    ),
    (
        "CheckAfterExists",
        "races::insert::a_damaged_object_is_replaced_by_a_verified_upload",
    ),
    (
        "UnknownDeleteWaits",
        "races::collect::a_delete_without_answer_holds_its_digests_until_it_can_have_no_effect",
    ),
    (
        "JournalReplayed",
        "races::collect::a_journal_left_by_a_crash_holds_its_digests_until_the_delete_can_have_no_effect",
    ),
    (
        "RefusedMarkerRemoved",
        "races::collect::a_refused_key_loses_its_marker",
    ),
    (
        "SessionsInCutoff",
        "races::collect::an_open_session_holds_the_cutoff_back",
    ),
    (
        "EvictionGuarded",
        "cache::evict::tests::eviction_runs_under_the_guard",
    ),
    (
        "FillRegistered",
        "cache::fill::tests::a_spoiled_fill_is_not_inserted",
    ),
    (
        "MarkProvesNothing",
        "races::collect::mark_records_use_and_never_existence",
    ),
    (
        "JoinerTouches",
        "races::insert::a_joiner_touches_the_marker_himself",
    ),
    (
        "KnownChunksTouched",
        "races::collect::known_chunks_of_a_deleted_base_are_in_use",
    ),
    (
        "InsertDetached",
        "races::insert::a_dropped_request_does_not_stop_its_insert",
    ),
    (
        "ListingErrorAborts",
        "races::collect::an_error_in_a_listing_ends_the_collection",
    ),
    (
        "JournalKept",
        "races::collect::the_journal_of_a_failed_batch_is_kept",
    ),
    (
        "AsideReadsAgain",
        "races::collect::what_was_healed_meanwhile_is_not_set_aside",
    ),
    (
        "DamageReadTwice",
        "races::collect::a_fault_of_the_line_sets_nothing_aside",
    ),
    (
        "EpochWithBatch",
        "races::collect::a_copy_of_the_directory_made_during_a_collection_is_not_believed",
    ),
    (
        "UnknownNatureLookedAt",
        "races::collect::what_a_listing_vouches_for_is_looked_at_before_it_makes_a_duplicate",
    ),
];

/// Builds the unit tests of pbs-datastore with the switches and returns the program.
fn build() -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args([
            "test",
            "--no-run",
            "--quiet",
            "--lib",
            "--workspace",
            "--features",
            "pbs-datastore/sabotage",
        ])
        .arg("--message-format=json")
        .stderr(Stdio::inherit())
        .output()
        .context("cargo could not be started")?;
    ensure!(output.status.success(), "the tests do not build");
    let text = String::from_utf8(output.stdout)?;
    let program = text.lines().rev().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        if message.get("target")?.get("name")? != "pbs_datastore" {
            return None;
        }
        Some(PathBuf::from(message.get("executable")?.as_str()?))
    });
    program.context("cargo named no test program")
}

/// Whether the test passes without `rule` (with all rules for `None`).
fn passes(program: &PathBuf, test: &str, rule: Option<&str>) -> Result<bool> {
    let mut command = Command::new(program);
    command
        .args(["--exact", test])
        .env_remove("HOLDFAST_SABOTAGE");
    if let Some(rule) = rule {
        command.env("HOLDFAST_SABOTAGE", rule);
    }
    let output = command
        .output()
        .context("the test program could not be started")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(text.contains("running 1 test"), "there is no test '{test}'");
    Ok(output.status.success())
}

fn main() -> Result<ExitCode> {
    let chosen: Vec<String> = std::env::args().skip(1).collect();
    if let Some(unknown) = chosen
        .iter()
        .find(|rule| TESTS.iter().all(|(name, _)| name != rule))
    {
        println!("there is no rule '{unknown}'");
        return Ok(ExitCode::from(2));
    }
    let program = build()?;
    let mut survived = 0;
    println!(
        "{:<22} {:<9} {:<9} caught by",
        "rule off", "with it", "without"
    );
    for (rule, test) in TESTS
        .iter()
        .filter(|(rule, _)| chosen.is_empty() || chosen.iter().any(|name| name == rule))
    {
        let with = passes(&program, test, None)?;
        let without = passes(&program, test, Some(rule))?;
        let word = |passed| if passed { "passes" } else { "fails" };
        println!("{rule:<22} {:<9} {:<9} {test}", word(with), word(without));
        if !with || without {
            survived += 1;
        }
    }
    println!("{survived} rules survive their absence");
    Ok(if survived == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
