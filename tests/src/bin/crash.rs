//! Kills a daemon again and again with uploads open, and looks for everything that it has acknowledged.
//!
//! `cargo crash [ROUNDS] [SEED]`; 20 rounds and seed 1 if not given. Ends with 1 at the first violation.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use holdfast_tests::crash::{crash_loop, say_report};

fn main() -> Result<ExitCode> {
    let mut numbers = std::env::args().skip(1).map(|text| {
        text.parse::<u64>()
            .with_context(|| format!("'{text}' is no number: cargo crash [ROUNDS] [SEED]"))
    });
    let rounds = numbers.next().transpose()?.unwrap_or(20);
    let seed = numbers.next().transpose()?.unwrap_or(1);
    let report = crash_loop(rounds, seed)?;
    say_report(&report);
    Ok(ExitCode::SUCCESS)
}
