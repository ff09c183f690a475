//! The daemon, the client and the commands of Holdfast.
//!
//! A library only so that a program of the tests can reach what no other crate may (the feature `fuzz`): the binary is
//! [`main`] and an allocator.

mod api;
mod app;
mod atomic_file;
mod auth;
mod calendar;
mod cli;
mod client;
mod clock;
mod config;
mod control;
mod daemon;
mod embedded_s3;
mod entropy;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod idle_io;
mod instance;
mod jobs;
mod log_lines;
mod notify;
mod pace;
mod parent;
mod places;
mod price;
mod protocol;
mod quickstart;
mod remote;
mod shutdown;
mod stores;
mod tasks;
mod tls;
mod traffic;

use std::process::ExitCode;

use clap::Parser as _;

/// Runs the command line of this process to its end.
pub fn main() -> ExitCode {
    cli::run(cli::Cli::parse())
}
