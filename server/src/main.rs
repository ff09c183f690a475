//! The one binary of Holdfast.

#![allow(
    dead_code,
    reason = "the modules are wired together by the command line"
)]

mod api;
mod app;
mod atomic_file;
mod auth;
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
mod parent;
mod protocol;
mod quickstart;
mod shutdown;
mod stores;
mod tasks;
mod tls;

use std::process::ExitCode;

use clap::Parser;

/// Backup chunk store that speaks the Proxmox Backup protocol.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: client::ClientCommand,
}

fn main() -> anyhow::Result<ExitCode> {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Runtime::new()?;
    let code = runtime.block_on(client::run(cli.command));
    // A failed backup may have left a thread behind that waits for standard input.
    runtime.shutdown_background();
    Ok(code)
}
