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
mod parent;
mod protocol;
mod quickstart;
mod shutdown;
mod stores;
mod tasks;
mod tls;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    cli::run(cli::Cli::parse())
}
