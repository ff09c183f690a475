//! What the tests of the whole need: the real binary, S3 servers of two makes, a Python environment, daemons.
//!
//! Everything is set up by `cargo test --workspace` itself. A test asks for what it needs ([`binary::holdfast`],
//! [`s3_server::EmbeddedS3`], [`moto::Moto`], [`python::Python`], [`daemon::Daemon`]); each is made at first use,
//! lives in a temporary directory or under `target/`, listens on a free port of the loopback, and is ended when its
//! handle is dropped, or by a [`process::Watchdog`] when the test process itself dies.

pub mod account;
pub mod attack;
pub mod binary;
pub mod checkout;
pub mod connection;
pub mod content;
pub mod control;
pub mod daemon;
pub mod disk;
pub mod https;
pub mod measure;
pub mod moto;
pub mod process;
pub mod python;
pub mod s3_server;
pub mod wire;
