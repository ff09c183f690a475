//! The daemon is asked to stop in the middle of a backup.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use holdfast_tests::daemon::{COMMAND_TIME_MAX, Daemon};
use holdfast_tests::process::{run, wait_for};
use holdfast_tests::s3_server::{EmbeddedS3, S3Server as _};
use s3_client::{Fault, Op};

use super::{ENDPOINT, SETTINGS, STORE, backup, comes_back, image, snapshots};

#[test]
fn a_stop_in_mid_backup_is_bounded_and_loses_nothing() -> Result<()> {
    let server = EmbeddedS3::start()?;
    let daemon = Daemon::set_up(&[])?;
    daemon.edit_config(|text| text.replace("shutdown-seconds = 20", "shutdown-seconds = 2"))?;
    daemon.add_s3(ENDPOINT, &server.access(), &[])?;
    daemon.add_s3_store(ENDPOINT, STORE, &SETTINGS)?;
    let (image, source) = image(&daemon, 1, 8)?;
    daemon.start()?;
    daemon.explain(|| {
        backup(&daemon, &source, "before")?.success()?;
        let (_, other) = super::image(&daemon, 2, 8)?;
        let gate = server
            .plan()
            .stop_before(Fault::on(Op::Put).containing("/.chunks/").nth(2));
        let mut command =
            daemon.client_command(STORE, &["backup", &other, "--backup-id", "during"])?;
        let client = std::thread::spawn(move || run(&mut command, b"", COMMAND_TIME_MAX));
        let arrived = wait_for(Duration::from_mins(1), || {
            (gate.arrived() > 0).then_some(())
        });
        arrived.context("the second chunk never came")?;
        // The chunk stays on its way for as long as the daemon lives.
        daemon.stop()?;
        gate.release();
        server.plan().calm();
        let told = client
            .join()
            .ok()
            .context("the client's thread")??
            .expect_code(1)?;
        ensure!(!told.stderr.trim().is_empty(), "{told}");
        Ok(())
    });
    daemon.start()?;
    daemon.explain(|| {
        ensure!(snapshots(&daemon)? == 1, "only what was finished is listed");
        comes_back(&daemon, "before", &image)?;
        let done = wait_for(Duration::from_secs(10), || {
            match backup(&daemon, &source, "after") {
                Ok(output) if output.stderr.contains("not stopped cleanly") => None,
                other => Some(other),
            }
        });
        done.context("no backup for so long")??.success()?;
        comes_back(&daemon, "after", &image)
    });
    daemon.stop()
}
