//! More than one daemon: on one installation, on one cache directory, on one prefix.

use anyhow::{Context as _, Result, ensure};
use holdfast_tests::daemon::{COMMAND_TIME_MAX, Daemon};
use holdfast_tests::process::{run, wait_for};
use holdfast_tests::s3_server::{EmbeddedS3, S3Server as _};
use s3_client::{Fault, KeyPrefix, ListRequest, Op};
use serde_json::Value;

use super::{ENDPOINT, SETTINGS, STORE, backup, collect, comes_back, image, snapshots};

#[test]
fn one_installation_runs_once() -> Result<()> {
    let daemon = Daemon::set_up(&[])?;
    daemon.start()?;
    daemon.explain(|| {
        let told = run(&mut daemon.serve_command(), b"", COMMAND_TIME_MAX)?.expect_code(1)?;
        let place = daemon
            .config()
            .parent()
            .map(|dir| dir.display().to_string());
        ensure!(told.stderr.contains(&place.unwrap_or_default()), "{told}");
        ensure!(
            daemon.get("/health/live")?.status == 200,
            "the first is not disturbed"
        );
        Ok(())
    });
    daemon.stop()
}

#[test]
fn one_cache_directory_belongs_to_one_daemon() -> Result<()> {
    let server = EmbeddedS3::start()?;
    let (first, second) = (Daemon::set_up(&[])?, Daemon::set_up(&[])?);
    for daemon in [&first, &second] {
        daemon.add_s3(ENDPOINT, &server.access(), &[])?;
        daemon.start()?;
    }
    first.explain(|| {
        first.add_s3_store(ENDPOINT, STORE, &SETTINGS)?;
        let cache = first.cache_dir(STORE).display().to_string();
        for (prefix, more) in [
            ("days", &[][..]),
            ("days", &["--take-over"]),
            ("others", &[]),
        ] {
            let arguments = [
                "datastore",
                "create",
                STORE,
                "--s3",
                ENDPOINT,
                "--bucket",
                "backups",
            ];
            let place = [
                "--prefix",
                prefix,
                "--cache-dir",
                &cache,
                "--cache-bytes-max",
                "1GiB",
            ];
            let told = second
                .manage(&[&arguments[..], &place, more].concat())?
                .expect_code(1)?;
            ensure!(told.stderr.contains(&cache), "{prefix} {more:?}: {told}");
        }
        let (image, source) = image(&first, 1, 2)?;
        backup(&first, &source, "one")?.success()?;
        comes_back(&first, "one", &image)
    });
    second.stop()?;
    first.stop()
}

fn count_chunks(server: &EmbeddedS3) -> Result<usize> {
    let request = ListRequest {
        prefix: KeyPrefix::new(format!("{STORE}/.chunks/"))?,
        start_after: None,
        keys_max: 1000,
    };
    let listed = server.runtime().block_on(server.store().list(&request))?;
    Ok(listed.value.entries.len())
}

#[test]
fn a_prefix_is_taken_over_only_explicitly_and_the_first_owner_then_changes_nothing() -> Result<()> {
    let server = EmbeddedS3::start()?;
    let (first, second) = (Daemon::set_up(&[])?, Daemon::set_up(&[])?);
    first.edit_config(|text| text.replace("hostname = \"tests\"", "hostname = \"first\""))?;
    for daemon in [&first, &second] {
        daemon.add_s3(ENDPOINT, &server.access(), &[])?;
        daemon.start()?;
    }
    second.explain(|| {
        first.add_s3_store(ENDPOINT, STORE, &SETTINGS)?;
        let (image_one, source_one) = image(&first, 1, 3)?;
        backup(&first, &source_one, "one")?.success()?;

        let told = second
            .create_s3_store(ENDPOINT, STORE, &SETTINGS)?
            .expect_code(1)?;
        ensure!(
            told.stderr.contains("first"),
            "the owner is not named: {told}"
        );
        ensure!(
            told.stderr.contains("take-over"),
            "the way out is not named: {told}"
        );
        backup(&first, &source_one, "again")?.success()?;

        // Garbage for the first to sweep, and a backup that is in its middle.
        let (_, source_gone) = image(&first, 9, 2)?;
        let gone = backup(&first, &source_gone, "gone")?.success()?.json()?;
        let gone = gone["snapshot"].as_str().context("a name")?.to_owned();
        first
            .client(STORE, &["snapshot", "forget", &gone])?
            .success()?;
        let (_, source_two) = image(&first, 2, 3)?;
        let gate = server
            .plan()
            .stop_before(Fault::on(Op::Put).containing("/.chunks/").nth(2));
        let mut command =
            first.client_command(STORE, &["backup", &source_two, "--backup-id", "two"])?;
        let client = std::thread::spawn(move || run(&mut command, b"", COMMAND_TIME_MAX));
        let arrived = wait_for(COMMAND_TIME_MAX, || (gate.arrived() > 0).then_some(()));
        arrived.context("the second chunk never came")?;

        // The operator says so, although it is not true: the first still runs.
        let force = ["--take-over", "--previous-owner-is-dead"];
        second.add_s3_store(ENDPOINT, STORE, &[&SETTINGS[..], &force].concat())?;
        ensure!(snapshots(&second)? == 2, "the snapshots came along");
        comes_back(&second, "one", &image_one)?;

        gate.release();
        let told = client
            .join()
            .ok()
            .context("the client's thread")??
            .expect_code(1)?;
        ensure!(told.stderr.contains("own"), "why it cannot seal: {told}");
        let told = backup(&first, &source_two, "two")?.expect_code(1)?;
        ensure!(told.stderr.contains("own"), "why it cannot begin: {told}");
        shows_the_loss(&first)?;
        let chunks = count_chunks(&server)?;
        // What it could sweep must first be older than the cutoff.
        let told = wait_for(COMMAND_TIME_MAX, || {
            match first.client(STORE, &["gc", "start"]) {
                Ok(output) if output.code == Some(0) => None,
                other => Some(other),
            }
        });
        let told = told.context("it goes on collecting")??.expect_code(1)?;
        ensure!(told.stderr.contains("own"), "why it cannot sweep: {told}");
        ensure!(
            count_chunks(&server)? == chunks,
            "the first has deleted something"
        );

        ensure!(snapshots(&second)? == 2, "the first has sealed nothing");
        let (image_three, source_three) = image(&second, 3, 3)?;
        // A backup of the very second of the take-over is refused.
        let made = wait_for(COMMAND_TIME_MAX, || {
            let output = backup(&second, &source_three, "three").ok()?;
            (output.code == Some(0)).then_some(())
        });
        made.context("the second never takes a backup")?;
        comes_back(&second, "three", &image_three)?;
        collect(&second)?.0.success()?;
        comes_back(&second, "one", &image_one)?;
        comes_back(&second, "again", &image_one)
    });
    second.stop()?;
    // The way back, while the first daemon runs: the second has left cleanly, so nothing waits.
    first.explain(|| {
        let back = ["datastore", "take-over", STORE];
        first.manage(&back)?.success()?;
        ensure!(first.store_state(STORE)?["state"] == "open");
        let told = first.manage(&back)?.expect_code(1)?;
        ensure!(told.stderr.contains("nothing to take over"), "{told}");
        let (image_four, source_four) = image(&first, 4, 2)?;
        backup(&first, &source_four, "four")?.success()?;
        comes_back(&first, "four", &image_four)?;
        ensure!(snapshots(&first)? == 4, "those of the second came along");
        Ok(())
    });
    first.stop()
}

/// The operator and clients are told that somebody else owns the bucket now.
fn shows_the_loss(daemon: &Daemon) -> Result<()> {
    let state = daemon.store_state(STORE)?;
    ensure!(state["state"] == "lost-ownership", "{state}");
    let fault = state["fault"].as_str().unwrap_or_default();
    ensure!(fault.contains("taken it over"), "{state}");
    for path in [
        "admin/datastore",
        &format!("admin/datastore/{STORE}/status"),
    ] {
        let mut told = daemon.ask("GET", path, &Value::Null)?.data()?;
        let entry = if told.is_array() {
            told[0].take()
        } else {
            told
        };
        ensure!(entry["maintenance"] == "read-only", "{path}: {entry}");
        ensure!(entry["error"] == state["fault"], "{path}: {entry}");
    }
    let ready = daemon.get("/health/ready")?;
    ensure!(
        ready.status == 503 && !ready.text().contains(STORE),
        "{ready:?}"
    );
    Ok(())
}
