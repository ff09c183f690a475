//! A rule of how fast clients may be, under a backup that runs.

use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use holdfast_tests::content::{self, compare_files};
use holdfast_tests::daemon::Daemon;
use holdfast_tests::process::wait_for;
use serde_json::{Value, json};
use tokio::time::Instant;

const STORE: &str = "alpha";
/// Pieces of 4 MiB that are backed up.
const PIECES: u64 = 8;
/// The rate, and what may come at once.
const RATE: u64 = 256 << 10;
/// What is between the rule and what counts as received: a buffer, and a piece that was on its way.
const SLACK: u64 = 1 << 20;
/// How long the backup may take once nothing limits it; with the rule it would take twice as long.
const UNLIMITED_MAX: Duration = Duration::from_mins(1);

/// Bytes that the one session has received; `None` while there is none.
fn received(daemon: &Daemon) -> Option<u64> {
    let path = format!("admin/datastore/{STORE}/sessions");
    let answer = daemon.ask("GET", &path, &json!({})).ok()?;
    answer.data().ok()?[0]["bytes-received"].as_u64()
}

#[test]
fn a_rule_slows_a_backup_down_and_lets_it_go() -> Result<()> {
    let daemon = Daemon::set_up(&[])?;
    daemon.add_directory_store(STORE, &[])?;
    daemon.start()?;
    daemon.explain(|| {
        let image = daemon.dir().join("image");
        content::write_image(&image, 3, PIECES)?;
        let rate = RATE.to_string();
        let user = daemon.user().to_owned();
        let add = [
            "traffic",
            "add",
            "slow",
            "--user",
            &user,
            "--rate-in",
            &rate,
        ];
        daemon.manage(&add)?.success()?;
        let listed = daemon.manage(&["traffic", "list"])?.success()?.text();
        ensure!(
            listed.contains(&user) && listed.contains("256.00 KiB"),
            "{listed}"
        );

        let from = format!("disk.img:{}", image.display());
        let began = Instant::now();
        let arguments = ["backup", &from, "--backup-id", "box"];
        let made = thread::scope(|scope| -> Result<Value> {
            let backup = scope.spawn(|| daemon.client_json(STORE, &arguments));
            let much = 4 * RATE;
            let seen = wait_for(Duration::from_mins(2), || {
                received(&daemon).filter(|bytes| *bytes >= much)
            });
            let seen = seen.context("the backup does not go on")?;
            let most = RATE + (began.elapsed().as_secs_f64() * RATE as f64) as u64 + SLACK;
            ensure!(seen <= most, "{seen} bytes, {most} at most");
            daemon.manage(&["traffic", "remove", "slow"])?.success()?;
            let lifted = Instant::now();
            let made = backup.join().expect("no panic")?;
            let took = lifted.elapsed();
            ensure!(took < UNLIMITED_MAX, "{took:?} after the rule had gone");
            Ok(made)
        })?;
        ensure!(!made.is_null(), "{made}");

        let back = daemon.dir().join("back");
        let restore = [
            "restore",
            "host/box",
            "disk.img",
            &back.display().to_string(),
        ];
        daemon.client(STORE, &restore)?.success()?;
        compare_files(&image, &back)
    });
    daemon.stop()
}
