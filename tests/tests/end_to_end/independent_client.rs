//! The Python client, which shares no code with the daemon, on a directory, on our S3 server and on moto.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use holdfast_tests::checkout;
use holdfast_tests::daemon::Daemon;
use holdfast_tests::moto::Moto;
use holdfast_tests::process::{run, say};
use holdfast_tests::python::Python;
use holdfast_tests::s3_server::{EmbeddedS3, S3Server as _};

/// How long all its tests together may take, on three datastores.
const TIME_MAX: Duration = Duration::from_mins(10);
/// The files with tests that need a server.
const FILES: [&str; 6] = [
    "test_protocol.py",
    "test_rest.py",
    "test_wrong_input.py",
    "test_access.py",
    "test_streams.py",
    "test_proxmoxer.py",
];
const OTHER: &str = "other@pbs";
const OTHER_PASSWORD: &str = "otherpass123";

/// Makes the accounts that the Python tests want, and tells them by their variables.
fn accounts(daemon: &Daemon, python: &mut Command) -> Result<()> {
    let token = format!("{}!python", daemon.user());
    let secret = daemon.add_token(&token)?;
    daemon
        .manage_with(&["user", "add", OTHER], &format!("{OTHER_PASSWORD}\n"))?
        .success()?;
    for (id, role) in [(token.as_str(), "Admin"), (OTHER, "DatastoreBackup")] {
        daemon.grant("/", id, role)?;
    }
    python
        .env("HOLDFAST_URL", daemon.url()?)
        .env("HOLDFAST_FINGERPRINT", daemon.fingerprint())
        .env("HOLDFAST_USER", daemon.user())
        .env("HOLDFAST_PASSWORD", daemon.password())
        .env("HOLDFAST_TOKEN_ID", &token)
        .env("HOLDFAST_TOKEN_SECRET", secret)
        .env("HOLDFAST_OTHER_USER", OTHER)
        .env("HOLDFAST_OTHER_PASSWORD", OTHER_PASSWORD);
    Ok(())
}

/// Runs the tests of these files on these datastores; all must pass, and none be skipped.
fn run_tests(daemon: &Daemon, files: &[&str], stores: &str) -> Result<()> {
    let mut python = Python::get()?.command(&["-m", "pytest", "-q", "--tb=short"]);
    python.args(["-p", "no:cacheprovider", "--strict-markers"]);
    python.args(files);
    accounts(daemon, &mut python)?;
    python.env("HOLDFAST_STORE", stores);
    let output = run(&mut python, b"", TIME_MAX)?;
    let text = output.text();
    let summary = text.lines().last().unwrap_or_default().to_owned();
    ensure!(output.code == Some(0), "{output}");
    ensure!(!summary.contains("skipped"), "{summary}: {text}");
    say(&format!("independent client: {summary}"));
    Ok(())
}

#[test]
fn the_independent_client_agrees_with_itself_and_with_the_recordings() -> Result<()> {
    let mut python = Python::get()?.command(&["-m", "pytest", "-q", "--tb=short"]);
    python
        .args(["-p", "no:cacheprovider", "--strict-markers"])
        .args([
            "test_formats.py",
            "test_fixture.py",
            "test_replay_selfcheck.py",
        ]);
    match checkout::transcripts() {
        Some(recordings) => {
            python.env("HOLDFAST_TRANSCRIPTS", recordings);
        }
        None => say("NOT RUN: the replayer's check of itself, the recorded sessions are not there"),
    }
    let output = run(&mut python, b"", TIME_MAX)?.success()?;
    let text = output.text();
    say(&format!(
        "Python alone: {}",
        text.lines().last().unwrap_or_default()
    ));
    Ok(())
}

#[test]
fn the_independent_client_passes_on_every_kind_of_datastore() -> Result<()> {
    let (embedded, moto) = (EmbeddedS3::start()?, Moto::start()?);
    let daemon = Daemon::set_up(&[])?;
    daemon.add_s3("embedded", &embedded.access(), &[])?;
    daemon.add_s3("moto", &moto.access(), &[])?;
    daemon.start()?;
    daemon.explain(|| {
        daemon.add_directory_store("dir", &[])?;
        daemon.add_s3_store("embedded", "emb", &[])?;
        daemon.add_s3_store("moto", "moto", &[])?;
        run_tests(&daemon, &FILES, "dir,emb,moto")
    });
    daemon.stop()
}

#[test]
fn every_call_is_as_the_openapi_document_has_it() -> Result<()> {
    let daemon = Daemon::set_up(&[])?;
    daemon.start()?;
    // It makes a datastore of its own.
    daemon.explain(|| run_tests(&daemon, &["test_contract.py"], ""));
    daemon.stop()
}
