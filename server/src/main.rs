//! The one binary of Holdfast.

mod api;
mod app;
mod atomic_file;
mod auth;
mod cli;
mod client;
mod clock;
mod config;
mod control;
mod daemon;
mod embedded_s3;
mod entropy;
mod idle_io;
mod instance;
mod jobs;
mod log_lines;
mod parent;
mod places;
mod protocol;
mod quickstart;
mod shutdown;
mod stores;
mod tasks;
mod tls;

use std::process::ExitCode;

use clap::Parser as _;
use tikv_jemallocator::Jemalloc;

/// Chunks of megabytes are allocated by one thread and freed by another; an allocator that keeps what each thread freed
/// holds several times the budget (decision 0009).
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    cli::run(cli::Cli::parse())
}
