//! The measuring programs of `cargo figures`, and what they share: a slow way to S3, made content that can be recognised,
//! and what a process used.

mod access_log;
pub mod arguments;
pub mod copies;
pub mod endurance;
pub mod far;
pub mod framing;
pub mod kill_loop;
pub mod latency;
pub mod noise;
pub mod pace;
pub mod proxy;
pub mod raw;
pub mod report;
pub mod site;
pub mod streams;
pub mod tree;
pub mod usage;
