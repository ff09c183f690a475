//! A seed is everything: the simulation of the same seeds, in two processes, has the same histories. A release has no steps
//! to crash at.
#![cfg(debug_assertions)]

use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// Each takes a second in both processes.
const SEEDS: usize = 30;

/// One line for each of so many seeds, or months: its number, and a digest of all that happened.
fn histories(what: &str, seeds: usize, way: &[&str]) -> Result<Vec<String>> {
    let output = Command::new(env!("CARGO_BIN_EXE_sim"))
        .args(["--histories", what, &seeds.to_string()])
        .args(way)
        .env_remove("SIM_SEED")
        .env_remove("SIM_MONTH")
        .env_remove("HOLDFAST_SABOTAGE")
        .output()
        .context("the simulation could not be started")?;
    let text = String::from_utf8(output.stdout)?;
    ensure!(output.status.success(), "{text}");
    let of_seed = |line: &&str| line.starts_with(|first: char| first.is_ascii_digit());
    let mut lines: Vec<_> = text.lines().filter(of_seed).map(str::to_owned).collect();
    // Two threads share the seeds.
    lines.sort();
    Ok(lines)
}

/// Runs so many seeds, or months, in two processes.
fn compare(what: &str, seeds: usize, way: &[&str]) -> Result<()> {
    let histories = || histories(what, seeds, way);
    let (first, second) = (histories()?, histories()?);
    ensure!(
        first.len() >= seeds,
        "{} seeds of {seeds} have a history",
        first.len()
    );
    for (first, second) in first.iter().zip(&second) {
        ensure!(first == second, "'{first}' and '{second}'");
    }
    let mut digests: Vec<_> = first
        .iter()
        .filter_map(|line| line.split(' ').nth(1))
        .collect();
    digests.sort_unstable();
    digests.dedup();
    ensure!(
        digests.len() >= seeds,
        "different seeds have the same history"
    );
    Ok(())
}

#[test]
fn equal_seeds_have_equal_histories_in_two_processes() -> Result<()> {
    compare("--seeds", SEEDS, &[])
}

#[test]
fn so_they_have_through_the_sdk() -> Result<()> {
    compare("--seeds", SEEDS / 3, &["--sdk"])
}

#[test]
fn so_have_months_of_two_daemons() -> Result<()> {
    compare("--months", 2, &[])
}
