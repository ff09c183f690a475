//! What the measuring programs share: a slow way to S3, made content that can be recognised, and what a process used.

mod framing;
pub mod noise;
pub mod pace;
pub mod proxy;
pub mod report;
pub mod tree;
pub mod usage;
