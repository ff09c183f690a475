//! The daemon is asked to stop in the middle of a backup, or of opening a datastore.

use std::net::TcpListener;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use holdfast_tests::daemon::{COMMAND_TIME_MAX, Daemon};
use holdfast_tests::process::{Deadline, once_settled, run, wait_for};
use holdfast_tests::s3_server::{EmbeddedS3, S3Server as _};
use s3_client::{Fault, Op};

use super::{ENDPOINT, SETTINGS, STORE, backup, comes_back, image, set_up, snapshots};

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
        once_settled(Duration::from_secs(10), || {
            backup(&daemon, &source, "after")
        })?
        .success()?;
        comes_back(&daemon, "after", &image)
    });
    daemon.stop()
}

#[test]
fn a_stop_has_one_deadline_for_all_datastores() -> Result<()> {
    const SECOND_STORE: &str = "more-days";
    let server = EmbeddedS3::start()?;
    let daemon = Daemon::set_up(&[])?;
    daemon.edit_config(|text| text.replace("shutdown-seconds = 20", "shutdown-seconds = 2"))?;
    daemon.add_s3(ENDPOINT, &server.access(), &[])?;
    for store in [STORE, SECOND_STORE] {
        daemon.add_s3_store(ENDPOINT, store, &SETTINGS)?;
    }
    // A third one never finishes opening: its server takes connections and says nothing.
    let silent = TcpListener::bind(("127.0.0.1", 0))?;
    let mut access = server.access();
    access.endpoint = format!("http://{}", silent.local_addr()?);
    daemon.add_s3("silent", &access, &[])?;
    let cache = daemon.cache_dir("away");
    daemon.edit_config(|text| {
        format!(
            "{text}\n[datastore.away]\nbackend = \"s3\"\ns3 = \"silent\"\nbucket = \"backups\"\n\
             cache-dir = {cache:?}\ncache-bytes-max = \"1 GiB\"\n"
        )
    })?;
    let (_, source) = image(&daemon, 1, 4)?;
    daemon.begin()?;
    daemon.explain(|| {
        let mut held = Vec::new();
        for store in [STORE, SECOND_STORE] {
            let open = wait_for(Duration::from_mins(1), || {
                let state = daemon.store_state(store).ok()?;
                (state["state"] == "open").then_some(())
            });
            open.with_context(|| format!("'{store}' does not open"))?;
            let chunks = format!("{store}/.chunks/");
            let first = Fault::on(Op::Put).containing(&chunks).nth(1);
            let gate = server.plan().stop_before(first);
            let arguments = ["backup", &source, "--backup-id", "held"];
            let mut command = daemon.client_command(store, &arguments)?;
            let client = std::thread::spawn(move || run(&mut command, b"", COMMAND_TIME_MAX));
            let arrived = wait_for(Duration::from_mins(1), || {
                (gate.arrived() > 0).then_some(())
            });
            arrived.context("no chunk came")?;
            held.push((gate, client));
        }
        ensure!(daemon.store_state("away")?["state"] == "opening");
        // Its two seconds, the ten of the datastores, and some for a slow machine.
        let deadline = Deadline::after(Duration::from_secs(2 + 10 + 4));
        daemon.stop()?;
        ensure!(!deadline.has_passed(), "it took longer than it may");
        server.plan().calm();
        for (gate, client) in held {
            gate.release();
            let told = client.join().ok().context("the client's thread")??;
            told.expect_code(1)?;
        }
        Ok(())
    });
    Ok(())
}

#[test]
fn a_daemon_whose_log_nobody_reads_goes_on_and_stops() -> Result<()> {
    let (_server, daemon) = set_up()?;
    let (image, source) = image(&daemon, 1, 2)?;
    daemon.start()?;
    daemon.explain(|| {
        daemon.stop_reading_log();
        // Each of these is logged.
        for id in ["one", "two", "three"] {
            backup(&daemon, &source, id)?.success()?;
        }
        comes_back(&daemon, "two", &image)
    });
    daemon.stop()
}
