//! The daemon and the one binary of Holdfast.

#![allow(
    dead_code,
    reason = "the modules are wired together by the daemon's start"
)]

mod api;
mod app;
mod atomic_file;
mod auth;
mod clock;
mod config;
mod entropy;
mod idle_io;
mod instance;
mod protocol;
mod shutdown;
mod tasks;
mod tls;

fn main() {}
