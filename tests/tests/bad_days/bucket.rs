//! The bucket is missing, the keys are wrong, the server is away.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use holdfast_tests::daemon::Daemon;
use holdfast_tests::process::{run, wait_for};
use holdfast_tests::s3_server::{EmbeddedS3, S3Server as _};
use s3_client::{Fault, Op};

use super::{ENDPOINT, STORE, backup, comes_back, image, set_up, snapshots};

/// The first retry of a datastore that cannot be opened comes after 2 s, the next ones ever later.
const OPEN_TIME_MAX: Duration = Duration::from_mins(1);

fn opens(daemon: &Daemon) -> Result<()> {
    let open = wait_for(OPEN_TIME_MAX, || {
        let state = daemon.store_state(STORE).ok()?;
        (state["state"] == "open").then_some(())
    });
    open.with_context(|| format!("it stays {:?}", daemon.store_state(STORE)))
}

#[test]
fn a_missing_bucket_and_wrong_keys_are_named() -> Result<()> {
    let server = EmbeddedS3::start()?;
    let daemon = Daemon::set_up(&[])?;
    daemon.start()?;
    daemon.explain(|| {
        let mut access = server.access();
        daemon.add_s3(ENDPOINT, &access, &[])?;
        access.secret_key.push('x');
        daemon.add_s3("wrong-keys", &access, &[])?;
        let missing = ["s3", "check", "--s3", ENDPOINT, "--bucket", "nowhere"];
        let told = daemon.manage(&missing)?.expect_code(1)?;
        ensure!(told.text().contains("create the bucket"), "{told}");
        let wrong = ["s3", "check", "--s3", "wrong-keys", "--bucket", "backups"];
        let told = daemon.manage(&wrong)?.expect_code(1)?;
        ensure!(told.text().contains("keys"), "{told}");
        // A datastore there is refused with the same words.
        let told = daemon
            .create_s3_store("wrong-keys", STORE, &[])?
            .expect_code(1)?;
        ensure!(told.stderr.contains("keys"), "{told}");
        let seen = server.seen()?;
        let written = seen
            .iter()
            .find(|seen| seen.key.starts_with(STORE) && seen.status == Some(200));
        ensure!(written.is_none(), "{written:?}");
        Ok(())
    });
    daemon.stop()
}

#[test]
fn a_server_that_is_away_at_the_start_is_waited_for() -> Result<()> {
    let (server, daemon) = set_up()?;
    let (image, source) = image(&daemon, 1, 2)?;
    daemon.start()?;
    daemon.explain(|| backup(&daemon, &source, "before")?.success().map(drop));
    daemon.stop()?;

    server.stop();
    daemon.begin()?;
    daemon.explain(|| {
        let fault = wait_for(OPEN_TIME_MAX, || {
            let state = daemon.store_state(STORE).ok()?;
            state["fault"].as_str().map(ToOwned::to_owned)
        });
        let fault = fault.context("no fault is shown")?;
        ensure!(!fault.is_empty() && !fault.contains('\n'), "{fault:?}");
        ensure!(daemon.get("/health/live")?.status == 200, "it lives");
        let ready = daemon.get("/health/ready")?;
        ensure!(
            ready.status == 503 && !ready.text().contains(STORE),
            "{ready:?}"
        );
        let told = backup(&daemon, &source, "during")?.expect_code(1)?;
        ensure!(told.stderr.contains(STORE), "{told}");
        server.start_again()?;
        opens(&daemon)?;
        comes_back(&daemon, "before", &image)?;
        backup(&daemon, &source, "after")?.success()?;
        ensure!(snapshots(&daemon)? == 2, "the failed one is not there");
        Ok(())
    });
    daemon.stop()
}

/// Takes the server away when the third chunk has arrived there, for as long as the backup lasts or less.
fn away_in_mid_backup(attempts: &str, back_soon: bool) -> Result<()> {
    let (server, daemon) = set_up()?;
    let head = format!("[s3.{ENDPOINT}]\n");
    daemon
        .edit_config(|text| text.replace(&head, &format!("{head}attempts-max = {attempts}\n")))?;
    let (image, source) = image(&daemon, 2, 12)?;
    daemon.start()?;
    daemon.explain(|| {
        let third = Fault::on(Op::Put).containing("/.chunks/").nth(3);
        let gate = server.plan().stop_before(third);
        let arguments = ["backup", &source, "--backup-id", "one"];
        let mut command = daemon.client_command(STORE, &arguments)?;
        let client = std::thread::spawn(move || run(&mut command, b"", Duration::from_mins(3)));
        let arrived = wait_for(OPEN_TIME_MAX, || (gate.arrived() > 0).then_some(()));
        arrived.context("the third chunk never came")?;
        server.stop();
        gate.release();
        if back_soon {
            server.start_again()?;
        }
        let output = client.join().ok().context("the client's thread")??;
        if back_soon {
            output.success()?;
        } else {
            let told = output.expect_code(1)?;
            ensure!(!told.stderr.trim().is_empty(), "{told}");
            server.start_again()?;
            ensure!(snapshots(&daemon)? == 0, "nothing of it is listed");
            backup(&daemon, &source, "one")?.success()?;
        }
        comes_back(&daemon, "one", &image)
    });
    daemon.stop()
}

#[test]
fn a_server_that_is_away_for_a_moment_in_mid_backup_is_not_noticed() -> Result<()> {
    away_in_mid_backup("8", true)
}

#[test]
fn a_server_that_is_away_for_good_in_mid_backup_fails_it() -> Result<()> {
    away_in_mid_backup("2", false)
}
