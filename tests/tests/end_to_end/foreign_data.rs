//! Datastores that somebody else wrote: a bucket laid out as a Proxmox Backup Server leaves it, and a directory.
//!
//! The Python program that writes them knows the formats from the interface document only.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use holdfast_tests::content;
use holdfast_tests::daemon::Daemon;
use holdfast_tests::moto::Moto;
use holdfast_tests::process::{run, say};
use holdfast_tests::python::Python;
use holdfast_tests::s3_server::{BUCKET, EmbeddedS3, S3Server};
use serde_json::Value;

const TIME_MAX: Duration = Duration::from_mins(2);
/// Who holds the bucket of the fixture.
const OWNER: &str = "pbs.example";

/// Runs a Python program that must succeed.
fn python(arguments: &[&str]) -> Result<holdfast_tests::process::Output> {
    run(&mut Python::get()?.command(arguments), b"", TIME_MAX)?.success()
}

/// Writes the fixture to the bucket of a server, below the prefix `store`; answers the file with what it holds.
fn write_bucket(daemon: &Daemon, server: &dyn S3Server, store: &str) -> Result<PathBuf> {
    let access = server.access();
    let mut arguments = vec!["fixture_bucket.py", "s3", "--bucket", BUCKET];
    arguments.extend(["--store", store, "--endpoint", access.endpoint.as_str()]);
    arguments.extend(["--access-key", access.access_key.as_str()]);
    arguments.extend(["--secret-key", access.secret_key.as_str()]);
    arguments.extend(["--in-use-by", OWNER]);
    let expected = daemon.dir().join(format!("{store}.expected.json"));
    fs::write(&expected, python(&arguments)?.stdout)?;
    Ok(expected)
}

/// Reads everything through the daemon, with the Python client, and compares.
fn check(daemon: &Daemon, store: &str, expected: &Path) -> Result<()> {
    let url = daemon.url()?;
    let password = format!("--password={}", daemon.password());
    let mut command = Python::get()?.command(&["check_fixture.py", "--url", &url, &password]);
    command
        .args(["--fingerprint", daemon.fingerprint()])
        .args(["--user", daemon.user(), "--store", store, "--expected"])
        .arg(expected);
    let output = run(&mut command, b"", TIME_MAX)?.success()?;
    say(&format!(
        "foreign datastore '{store}': {}",
        output.text().trim_end()
    ));
    Ok(())
}

/// How many objects of the fixture nobody refers to.
fn garbage(expected: &Path) -> Result<u64> {
    let expected: Value = serde_json::from_slice(&fs::read(expected)?)?;
    Ok(expected["garbage"].as_array().map_or(0, Vec::len) as u64)
}

/// A new backup beside the foreign ones, and back.
fn use_it(daemon: &Daemon, store: &str) -> Result<()> {
    let (image, back) = (
        daemon.dir().join("image"),
        daemon.dir().join(format!("{store}.back")),
    );
    content::write_image(&image, 5, 2)?;
    let source = format!("disk.img:{}", image.display());
    let made = daemon.client_json(store, &["backup", &source, "--backup-id", "new"])?;
    ensure!(made["bytes"].as_u64() == Some((8 << 20) + 1000), "{made}");
    let target = back.display().to_string();
    daemon
        .client(store, &["restore", "host/new", "disk.img", &target])?
        .success()?;
    content::compare_files(&image, &back)
}

fn take_over(server: &dyn S3Server) -> Result<()> {
    let daemon = Daemon::set_up(&[])?;
    let expected = write_bucket(&daemon, server, "fixture")?;
    daemon.add_s3("s3-server", &server.access(), &[])?;
    daemon.start()?;
    daemon.explain(|| {
        let settings = [
            "--gc-atime-cutoff-minutes",
            "0",
            "--late-request-max-seconds",
            "0",
        ];
        let refused = daemon
            .create_s3_store("s3-server", "fixture", &settings)?
            .expect_code(1)?;
        ensure!(
            refused.stderr.contains(OWNER),
            "the owner is not named: {refused}"
        );
        let whole = ["--take-over", "--previous-owner-is-dead"];
        let settings = [&settings[..], &whole].concat();
        daemon.add_s3_store("s3-server", "fixture", &settings)?;
        check(&daemon, "fixture", &expected)?;
        use_it(&daemon, "fixture")?;
        // What is left of it after a collection is what is referred to.
        let removed = collect_until(&daemon, "fixture", garbage(&expected)?)?;
        say(&format!(
            "{}: {removed} chunks of the fixture were garbage",
            server.name()
        ));
        check(&daemon, "fixture", &expected)
    });
    daemon.stop()?;
    // The next start needs no permission: it is ours now.
    daemon.start()?;
    daemon.explain(|| check(&daemon, "fixture", &expected));
    daemon.stop()
}

/// Collects until so many chunks were removed; objects must first be older than the cutoff.
fn collect_until(daemon: &Daemon, store: &str, wanted: u64) -> Result<u64> {
    let mut removed = 0;
    let done = holdfast_tests::process::wait_for(Duration::from_mins(1), || {
        let collected = daemon
            .client(store, &["gc", "start"])
            .and_then(holdfast_tests::process::Output::success)
            .and_then(|_| daemon.client_json(store, &["gc", "status"]));
        match collected {
            Ok(status) => {
                removed += status["removed-chunks"].as_u64().unwrap_or(0);
                (removed >= wanted).then_some(Ok(()))
            }
            Err(error) => Some(Err(error)),
        }
    });
    done.unwrap_or(Ok(()))?;
    ensure!(
        removed == wanted,
        "{removed} chunks were removed instead of {wanted}"
    );
    Ok(removed)
}

#[test]
fn a_bucket_of_another_server_is_taken_over_on_our_s3() -> Result<()> {
    take_over(&EmbeddedS3::start()?)
}

#[test]
fn a_bucket_of_another_server_is_taken_over_on_moto() -> Result<()> {
    take_over(&Moto::start()?)
}

#[test]
fn a_directory_of_another_server_is_used_as_it_is() -> Result<()> {
    let daemon = Daemon::set_up(&[])?;
    let place = daemon.store_dir("fixture");
    let path = place.display().to_string();
    let expected = daemon.dir().join("fixture.expected.json");
    let written = python(&[
        "fixture_bucket.py",
        "dir",
        "--path",
        &path,
        "--age-days",
        "3",
    ])?;
    fs::write(&expected, written.stdout)?;
    daemon.start()?;
    daemon.explain(|| {
        daemon.add_directory_store("fixture", &[])?;
        check(&daemon, "fixture", &expected)?;
        use_it(&daemon, "fixture")?;
        // With the ordinary cutoff: what nobody refers to is three days old.
        collect_until(&daemon, "fixture", garbage(&expected)?)?;
        check(&daemon, "fixture", &expected)
    });
    daemon.stop()
}
