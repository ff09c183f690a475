//! The recorded sessions of the stock client, sent again and compared with what the stock server answered.

use std::fmt::Write as _;
use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use holdfast_tests::checkout;
use holdfast_tests::daemon::Daemon;
use holdfast_tests::process::{run, say};
use holdfast_tests::python::Python;
use holdfast_tests::s3_server::{BUCKET, EmbeddedS3, S3Server as _};
use serde_json::Value;

/// How long all recordings may take on one kind of datastore.
const TIME_MAX: Duration = Duration::from_mins(8);
/// Those that must be the same on this server.
const SCENARIOS: [&str; 24] = [
    "login-version-status",
    "backup-legacy",
    "backup-now",
    "backup-many-chunks",
    "backup-data-mode",
    "backup-metadata-mode",
    "backup-image",
    "backup-encrypted",
    "restore-catalog",
    "killed-upload",
    "concurrent-backup",
    "older-time",
    "refused-login",
    "api-token",
    "benchmark",
    "client-3-2",
    "h2-raw",
    "namespaces",
    "snapshot-ops",
    "prune",
    "change-owner",
    "gc-tasks",
    "sync-pull",
    "sync-push",
];

/// Adds an empty datastore for each recording, called `PREFIX-SCENARIO`, to a daemon that does not run yet.
fn add_stores(daemon: &Daemon, prefix: &str, settings: &dyn Fn(&str) -> String) -> Result<()> {
    daemon.edit_config(|mut text| {
        for scenario in SCENARIOS {
            // A few recordings have a second one.
            for name in [
                format!("{prefix}-{scenario}"),
                format!("{prefix}2-{scenario}"),
            ] {
                let _ = write!(text, "\n[datastore.{name}]\n{}\n", settings(&name));
            }
        }
        text
    })
}

/// The recorded accounts; answers the secret of the token.
fn add_accounts(daemon: &Daemon) -> Result<String> {
    let token = "tester@pbs!tok";
    for (user, password) in [("tester@pbs", "peertest123"), ("other@pbs", "otherpass123")] {
        let arguments = ["user", "add", user];
        daemon
            .manage_with(&arguments, &format!("{password}\n"))?
            .success()?;
    }
    let secret = daemon.add_token(token)?;
    for (id, role) in [
        ("tester@pbs", "Admin"),
        (token, "Admin"),
        ("other@pbs", "DatastoreBackup"),
    ] {
        daemon.grant("/", id, role)?;
    }
    Ok(secret)
}

fn replay(daemon: &Daemon, secret: &str, kind: &str, prefix: &str) -> Result<Vec<Value>> {
    let recordings = checkout::transcripts().context("the recordings")?;
    let report = daemon.dir().join(format!("{prefix}.json"));
    let mut python = Python::get()?.command(&["replay.py", "--url", &daemon.url()?]);
    python
        .args(["--fingerprint", daemon.fingerprint()])
        .arg(format!("--token-secret={secret}"))
        .args(["--store", &format!("{prefix}-{{scenario}}")])
        .args(["--store2", &format!("{prefix}2-{{scenario}}"), "--report"])
        .arg(&report)
        .arg("--dir")
        .arg(&recordings)
        .args(SCENARIOS);
    let output = run(&mut python, b"", TIME_MAX)?;
    say(&format!("recorded sessions on {kind}\n{}", output.text()));
    let results: Vec<Value> =
        serde_json::from_slice(&fs::read(&report).with_context(|| output.to_string())?)?;
    say(&reasons(&results));
    ensure!(output.code == Some(0), "{output}");
    let sent: u64 = results
        .iter()
        .filter_map(|result| result["sent"].as_u64())
        .sum();
    ensure!(
        results.len() == SCENARIOS.len() && sent > 500,
        "only {sent} exchanges were sent"
    );
    Ok(results)
}

/// The deliberate differences, each reason once.
fn reasons(results: &[Value]) -> String {
    let mut text = String::from("deliberately different:");
    let mut seen = std::collections::BTreeMap::<&str, u64>::new();
    for finding in results
        .iter()
        .filter_map(|r| r["deliberate"].as_array())
        .flatten()
    {
        *seen
            .entry(finding["reason"].as_str().unwrap_or_default())
            .or_default() += 1;
    }
    for (reason, count) in seen {
        let _ = write!(text, "\n  {count} members: {reason}");
    }
    text
}

#[test]
fn recorded_sessions_are_answered_as_recorded() -> Result<()> {
    if checkout::transcripts().is_none() {
        say(
            "NOT RUN: the recorded sessions are not there; set HOLDFAST_TRANSCRIPTS to their directory",
        );
        return Ok(());
    }
    let server = EmbeddedS3::start()?;
    let daemon = Daemon::set_up(&[])?;
    daemon.add_s3("embedded", &server.access(), &[])?;
    add_stores(&daemon, "dir", &|name| {
        format!(
            "backend = \"filesystem\"\npath = {:?}",
            daemon.store_dir(name)
        )
    })?;
    add_stores(&daemon, "emb", &|name| {
        format!(
            "backend = \"s3\"\ns3 = \"embedded\"\nbucket = \"{BUCKET}\"\ncache-dir = {:?}\ncache-bytes-max = \"1GiB\"",
            daemon.cache_dir(name)
        )
    })?;
    let secret = add_accounts(&daemon)?;
    daemon.start()?;
    daemon.explain(|| {
        let on_directory = replay(&daemon, &secret, "a directory", "dir");
        let on_bucket = replay(&daemon, &secret, "a bucket", "emb");
        on_directory.and(on_bucket).map(drop)
    });
    daemon.stop()
}
