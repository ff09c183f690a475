//! The daemon and the one binary of Holdfast.

#![allow(
    dead_code,
    reason = "the modules are wired together by the daemon's start"
)]

mod api;
mod atomic_file;
mod auth;
mod clock;
mod config;
mod control;
mod daemon;
mod entropy;
mod instance;
mod jobs;
mod shutdown;
mod stores;
mod tasks;
mod tls;

fn main() {}
