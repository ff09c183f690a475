//! Measures what the daemon promises; `docs/performance.md` says what each figure means.
//!
//! `cargo figures NAME`. Each prints a table and a line of JSON, and ends with 0 if every bound was met, with 1 if one was
//! missed or the measuring failed, and with 124 if it took too long.

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser as _;
use holdfast_tests::measure::latency::LatencyArgs;

#[derive(Debug, clap::Parser)]
#[command(name = "figures", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    figure: Figure,
}

#[derive(Debug, clap::Subcommand)]
enum Figure {
    /// Backup and restore against raw PUTs and GETs, over a slow way to S3.
    Latency(LatencyArgs),
}

fn main() -> Result<ExitCode> {
    match Cli::parse().figure {
        Figure::Latency(args) => args.run(),
    }
}
