//! Measures how fast the daemon is, beside what bounds it and what people use today; `docs/performance.md` says what each
//! figure means and has the results.
//!
//! `cargo benchmark NAME`. Each prints a table and a line of JSON, and ends with 0 if every bound was met, with 1 if one was
//! missed or the measuring failed, and with 124 if it took too long. Speeds are compared within one run only: what is measured
//! and what it is measured against take turns, and the figure is the median of the ratios of the pairs.

mod borg;
mod ceilings;
mod check;
mod collection;
mod gc;
mod ingest;
mod known;
mod load;
mod matrix;
mod mixture;
mod peers;
mod plans;
mod plot;
mod population;
mod restic;
mod restore;
mod runs;
mod sink;
mod start;
mod sweep_ceilings;
mod uploads;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser as _;

#[derive(Debug, clap::Parser)]
// The last of an option that is given twice counts: `matrix --options` changes what a plan has chosen.
#[command(name = "benchmark", max_term_width = 100, args_override_self = true)]
struct Cli {
    #[command(subcommand)]
    benchmark: Benchmark,
}

#[derive(Debug, clap::Subcommand)]
enum Benchmark {
    /// New chunks into a datastore in a directory, beside SHA-256, the disk and a bare HTTP/2 server.
    Ingest(ingest::IngestArgs),
    /// References to known chunks, over one session.
    Known(known::KnownArgs),
    /// New chunks into an S3 datastore over a slow way, beside raw PUTs.
    Uploads(uploads::UploadsArgs),
    /// Chunks read back from an S3 datastore over a slow way, beside raw GETs.
    Restore(restore::RestoreArgs),
    #[command(hide = true)]
    Sink(sink::SinkArgs),
    /// Collections of garbage in a datastore with very many chunks.
    Gc(gc::GcArgs),
    /// Backups and restores beside those of restic (S3) and borg (local).
    Peers(peers::PeersArgs),
    /// One benchmark over all sizes, with its results and charts stored.
    Matrix(matrix::MatrixArgs),
    /// Fails if a ratio is more than 15 % worse than the stored one.
    Check(check::CheckArgs),
    /// The start of a daemon with very many markers, and the memory of an idle one.
    Start(start::StartArgs),
}

fn main() -> Result<ExitCode> {
    match Cli::parse().benchmark {
        Benchmark::Ingest(args) => args.run(),
        Benchmark::Known(args) => args.run(),
        Benchmark::Uploads(args) => args.run(),
        Benchmark::Restore(args) => args.run(),
        Benchmark::Sink(args) => args.run(),
        Benchmark::Gc(args) => args.run(),
        Benchmark::Peers(args) => args.run(),
        Benchmark::Matrix(args) => args.run(),
        Benchmark::Check(args) => args.run(),
        Benchmark::Start(args) => args.run(),
    }
}
