//! Measures what the daemon promises; `docs/performance.md` says what each figure means.
//!
//! `cargo figures NAME`. Each prints a table and a line of JSON, and ends with 0 if every bound was met, with 1 if one was
//! missed or the measuring failed, and with 124 if it took too long.

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser as _;
use holdfast_tests::measure::copies::CopiesArgs;
use holdfast_tests::measure::endurance::EnduranceArgs;
use holdfast_tests::measure::kill_loop::KillLoopArgs;
use holdfast_tests::measure::latency::LatencyArgs;
use holdfast_tests::measure::streams::StreamsArgs;

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
    /// A large backup while garbage is collected and another client backs up and forgets.
    Endurance(EnduranceArgs),
    /// SIGKILL in the middle of uploads: nothing that was acknowledged is lost.
    KillLoop(KillLoopArgs),
    /// Interleaved uploads and many sessions at once: memory and progress.
    Streams(StreamsArgs),
    /// A pull from a far server against raw GETs.
    Sync(CopiesArgs),
}

fn main() -> Result<ExitCode> {
    match Cli::parse().figure {
        Figure::Latency(args) => args.run(),
        Figure::Endurance(args) => args.run(),
        Figure::KillLoop(args) => args.run(),
        Figure::Streams(args) => args.run(),
        Figure::Sync(args) => args.run(),
    }
}
