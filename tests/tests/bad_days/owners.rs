//! More than one daemon: on one installation, on one cache directory, on one prefix.

use anyhow::{Result, ensure};
use holdfast_tests::daemon::{COMMAND_TIME_MAX, Daemon};
use holdfast_tests::process::run;
use holdfast_tests::s3_server::{EmbeddedS3, S3Server as _};

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

        // The operator says so, although it is not true: the first still runs.
        let force = ["--take-over", "--previous-owner-is-dead"];
        second.add_s3_store(ENDPOINT, STORE, &[&SETTINGS[..], &force].concat())?;
        ensure!(snapshots(&second)? == 2, "the snapshots came along");
        comes_back(&second, "one", &image_one)?;

        let (_, source_two) = image(&first, 2, 3)?;
        let told = backup(&first, &source_two, "two")?.expect_code(1)?;
        ensure!(told.stderr.contains("own"), "why it cannot seal: {told}");
        let told = first.client(STORE, &["gc", "start"])?;
        let told = told.expect_code(1)?;
        ensure!(told.stderr.contains("own"), "why it cannot sweep: {told}");

        ensure!(snapshots(&second)? == 2, "the first has sealed nothing");
        let (image_three, source_three) = image(&second, 3, 3)?;
        backup(&second, &source_three, "three")?.success()?;
        comes_back(&second, "three", &image_three)?;
        collect(&second)?.0.success()?;
        comes_back(&second, "one", &image_one)?;
        comes_back(&second, "again", &image_one)
    });
    first.kill();
    second.stop()
}
