//! The real binary, with S3 servers of two makes and with a directory, driven by the independent Python client, by the
//! recorded sessions of the stock client, and by its own commands.

mod buckets;
mod budgets;
mod commands;
mod downloads;
mod figures;
mod foreign_data;
mod independent_client;
mod instance_keys;
mod jobs;
mod lost_host;
mod operations;
mod package;
mod quickstart;
mod sync;
mod traffic;
mod transcripts;
