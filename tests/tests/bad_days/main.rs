//! What may go wrong around a daemon: each gets a clear sentence and the right exit code, and loses nothing.

mod answers;
mod bucket;
mod cache;
mod configuration;
mod crash;
mod damage;
mod lesser_servers;
mod owners;
mod stop;

use std::path::PathBuf;

use anyhow::Result;
use holdfast_tests::content;
use holdfast_tests::daemon::Daemon;
use holdfast_tests::process::Output;
use holdfast_tests::s3_server::{EmbeddedS3, S3Server as _};
use serde_json::Value;

/// The datastore of the tests.
const STORE: &str = "days";
/// Id of the S3 server in the daemon's configuration.
const ENDPOINT: &str = "s3-server";
/// Given-up requests have no effect after a second, and no chunk is kept because it is young.
const SETTINGS: [&str; 4] = [
    "--gc-atime-cutoff-minutes",
    "0",
    "--late-request-max-seconds",
    "1",
];

/// An S3 server of our own, and a daemon that does not run yet with the datastore [`STORE`] in the server's bucket.
fn set_up() -> Result<(EmbeddedS3, Daemon)> {
    let server = EmbeddedS3::start()?;
    let daemon = Daemon::set_up(&[])?;
    daemon.add_s3(ENDPOINT, &server.access(), &[])?;
    daemon.add_s3_store(ENDPOINT, STORE, &SETTINGS)?;
    Ok((server, daemon))
}

/// Writes an image of `pieces` of 4 MiB from a seed; answers its place and how a backup names it.
fn image(daemon: &Daemon, seed: u64, pieces: u64) -> Result<(PathBuf, String)> {
    let path = daemon.dir().join(format!("image-{seed}"));
    content::write_image(&path, seed, pieces)?;
    let source = format!("disk.img:{}", path.display());
    Ok((path, source))
}

/// Backs up into the group `host/ID`.
fn backup(daemon: &Daemon, source: &str, id: &str) -> Result<Output> {
    let arguments = [
        "backup",
        source,
        "--backup-id",
        id,
        "--output-format",
        "json",
    ];
    daemon.client(STORE, &arguments)
}

/// Restores the newest snapshot of the group `host/ID` to a new file.
fn restore(daemon: &Daemon, id: &str) -> Result<(PathBuf, Output)> {
    let place = tempfile::TempDir::new_in(daemon.dir())?.keep();
    let target = place.join("back");
    let text = target.display().to_string();
    let group = format!("host/{id}");
    let output = daemon.client(STORE, &["restore", &group, "disk.img", &text])?;
    Ok((target, output))
}

/// Restores and compares.
fn comes_back(daemon: &Daemon, id: &str, image: &std::path::Path) -> Result<()> {
    let (target, output) = restore(daemon, id)?;
    output.success()?;
    content::compare_files(image, &target)
}

/// How many snapshots are listed.
fn snapshots(daemon: &Daemon) -> Result<usize> {
    let listed = daemon.client_json(STORE, &["snapshot", "list"])?;
    Ok(listed.as_array().map_or(0, Vec::len))
}

/// Collects garbage; answers the status.
fn collect(daemon: &Daemon) -> Result<(Output, Value)> {
    let output = daemon.client(STORE, &["gc", "start"])?;
    let status = daemon.client_json(STORE, &["gc", "status"])?;
    Ok((output, status))
}
