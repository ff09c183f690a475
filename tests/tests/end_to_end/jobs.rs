//! Jobs of the real daemon: on their schedules, by hand, over a restart; and what verification costs a bucket, as its server
//! counted it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use holdfast_tests::content;
use holdfast_tests::daemon::Daemon;
use holdfast_tests::process::wait_for;
use holdfast_tests::s3_server::{EmbeddedS3, S3Server as _, Since};
use serde_json::Value;

/// How long a job that is due every second may take to run by itself.
const BY_ITSELF_MAX: Duration = Duration::from_mins(1);

fn source(dir: &Path) -> Result<PathBuf> {
    let tree = dir.join("tree");
    content::write_tree(&tree, 11, 60)?;
    Ok(tree)
}

/// Snapshots of one tree, an hour apart; they share nearly all chunks.
fn back_up(daemon: &Daemon, store: &str, tree: &Path, count: u32) -> Result<()> {
    for hour in 0..count {
        fs::write(tree.join("changed"), content::noise(u64::from(hour), 5000))?;
        let time = (1_700_000_000 + hour * 3600).to_string();
        let archive = format!("root.tar:{}", tree.display());
        let arguments = [
            "backup",
            &archive,
            "--backup-id",
            "box",
            "--backup-time",
            &time,
        ];
        daemon.client_json(store, &arguments)?;
    }
    Ok(())
}

fn snapshots(daemon: &Daemon, store: &str) -> Result<usize> {
    let list = daemon.client_json(store, &["snapshot", "list"])?;
    Ok(list.as_array().map_or(0, Vec::len))
}

/// The row of a job in the list of its kind.
fn job(daemon: &Daemon, kind: &str, id: &str) -> Result<Value> {
    let list = daemon.manage(&[kind, "list", "--output-format", "json"])?;
    let list = list.success()?.json()?;
    let rows = list.as_array().context("a list")?;
    let row = rows.iter().find(|row| row["id"] == id);
    row.cloned().with_context(|| format!("'{id}' in {list}"))
}

fn manage(daemon: &Daemon, arguments: &[&str]) -> Result<String> {
    Ok(daemon.manage(arguments)?.success()?.text())
}

fn by_hand(daemon: &Daemon, store: &str) -> Result<()> {
    let marks = daemon.client_json(
        store,
        &["prune", "host/box", "--keep-last", "3", "--dry-run"],
    )?;
    let reasons: Vec<&str> = marks
        .as_array()
        .context("a list")?
        .iter()
        .filter_map(|row| row["reason"].as_str())
        .collect();
    ensure!(
        reasons == ["remove", "keep-last", "keep-last", "keep-last"],
        "{marks}"
    );
    ensure!(snapshots(daemon, store)? == 4, "a dry run removes nothing");
    let text = daemon.client(store, &["verify"])?.success()?.text();
    ensure!(
        text.contains("4 of 4 snapshots are to be verified"),
        "{text}"
    );
    let text = daemon.client(store, &["verify"])?.success()?.text();
    ensure!(
        text.contains("0 of 4 snapshots are to be verified"),
        "{text}"
    );
    let status = daemon.client_json(store, &["status"])?;
    ensure!(status["counts"]["host"]["snapshots"] == 4, "{status}");
    let version = daemon.client_json(store, &["version"])?;
    ensure!(version["version"].is_string(), "{version}");

    daemon
        .client(store, &["group", "notes", "host/box", "the cellar"])?
        .success()?;
    let notes = daemon
        .client(store, &["group", "notes", "host/box"])?
        .success()?
        .text();
    ensure!(notes.trim_end() == "the cellar", "{notes}");
    let log = daemon.dir().join("backup.log");
    fs::write(&log, "all is well\n")?;
    let log = log.display().to_string();
    let add = [
        "snapshot",
        "upload-log",
        "host/box/2023-11-14T22:13:20Z",
        &log,
    ];
    daemon.client(store, &add)?.success()?;
    let again = daemon.client(store, &add)?.expect_code(1)?;
    ensure!(again.to_string().contains("log"), "{again}");
    let owner = ["change-owner", "host/box", "nobody@pbs"];
    daemon.client(store, &owner)?.expect_code(1)?;
    Ok(())
}

fn on_schedule(daemon: &Daemon, store: &str) -> Result<()> {
    let target = ["--store", store, "--schedule", "*:*:*"];
    let prune = [
        &["prune-job", "create", "often", "--keep-last", "2"],
        &target[..],
    ]
    .concat();
    manage(daemon, &prune)?;
    let wrong = [
        "prune-job",
        "create",
        "never",
        "--keep-last",
        "2",
        "--store",
        store,
        "--schedule",
        "at times",
    ];
    let refused = daemon.manage(&wrong)?.expect_code(1)?;
    ensure!(refused.to_string().contains("schedule"), "{refused}");
    let ran = || {
        let row = job(daemon, "prune-job", "often").ok()?;
        (row["last-run-state"] == "OK").then_some(row)
    };
    let row = wait_for(BY_ITSELF_MAX, ran).context("the prune job does not run by itself")?;
    ensure!(row["next-run"].is_i64(), "{row}");
    ensure!(snapshots(daemon, store)? == 2, "two are kept");
    manage(daemon, &["prune-job", "update", "often", "--disable"])?;
    let row = job(daemon, "prune-job", "often")?;
    ensure!(row["next-run"].is_null() && row["disable"] == true, "{row}");

    let schedule = ["datastore", "update", store, "--gc-schedule", "*:*:*"];
    manage(daemon, &schedule)?;
    let collected = || {
        let status = daemon.client_json(store, &["gc", "status"]).ok()?;
        (status["last-run-state"] == "OK").then_some(status)
    };
    let status = wait_for(BY_ITSELF_MAX, collected).context("garbage is not collected")?;
    ensure!(status["next-run"].is_i64(), "{status}");
    manage(
        daemon,
        &["datastore", "update", store, "--delete", "gc-schedule"],
    )?;
    Ok(())
}

/// What is known of a job's past is known after a kill, and a run that was cut off is not repeated.
fn over_a_restart(daemon: &Daemon) -> Result<()> {
    let before = job(daemon, "prune-job", "often")?;
    daemon.kill();
    let down = daemon
        .manage(&["prune-job", "run", "often"])?
        .expect_code(1)?;
    ensure!(down.to_string().contains("does not run"), "{down}");
    daemon.start()?;
    let after = job(daemon, "prune-job", "often")?;
    ensure!(before == after, "{before} became {after}");
    Ok(())
}

fn everything(daemon: &Daemon, store: &str) -> Result<()> {
    let dir = tempfile::TempDir::new_in(daemon.dir())?;
    let tree = source(dir.path())?;
    back_up(daemon, store, &tree, 4)?;
    by_hand(daemon, store)?;
    on_schedule(daemon, store)?;
    over_a_restart(daemon)
}

#[test]
fn jobs_run_by_themselves_on_a_directory() -> Result<()> {
    let daemon = Daemon::set_up(&[])?;
    daemon.add_directory_store("store", &[])?;
    daemon.start()?;
    daemon.explain(|| {
        everything(&daemon, "store")?;
        let refused = daemon.manage(&["datastore", "refresh", "store"])?;
        ensure!(refused.expect_code(1)?.to_string().contains("no bucket"));
        Ok(())
    });
    daemon.stop()
}

#[test]
fn jobs_run_by_themselves_on_a_bucket() -> Result<()> {
    let server = EmbeddedS3::start()?;
    let daemon = Daemon::set_up(&[])?;
    daemon.add_s3("embedded", &server.access(), &[])?;
    // A daemon that was killed waits so long before it removes anything.
    let settings = ["--late-request-max-seconds", "0"];
    daemon.add_s3_store("embedded", "store", &settings)?;
    daemon.start()?;
    daemon.explain(|| {
        everything(&daemon, "store")?;
        let text = manage(&daemon, &["datastore", "refresh", "store"])?;
        ensure!(text.contains("objects in the bucket"), "{text}");
        Ok(())
    });
    daemon.stop()
}

/// Requests for chunks that `work` causes.
fn requests(
    server: &EmbeddedS3,
    operation: &str,
    work: impl FnOnce() -> Result<()>,
) -> Result<usize> {
    let since = Since::now(server)?;
    work()?;
    Ok(since.seen()?.count(operation, ".chunks/"))
}

#[test]
fn fifty_snapshots_that_share_their_chunks_cost_one_read_of_each() -> Result<()> {
    let server = EmbeddedS3::start()?;
    let daemon = Daemon::set_up(&[])?;
    daemon.add_s3("embedded", &server.access(), &[])?;
    daemon.add_s3_store("embedded", "store", &[])?;
    daemon.start()?;
    daemon.explain(|| {
        let dir = tempfile::TempDir::new_in(daemon.dir())?;
        let tree = source(dir.path())?;
        let sent = || back_up(&daemon, "store", &tree, 50);
        let chunks = requests(&server, "PutObject", sent)?;
        ensure!(chunks > 50, "only {chunks} chunks");
        let job = [
            "verify-job",
            "create",
            "all",
            "--store",
            "store",
            "--ignore-verified",
            "false",
        ];
        manage(&daemon, &job)?;
        let run = || manage(&daemon, &["verify-job", "run", "all"]).map(drop);
        let first = requests(&server, "GetObject", run)?;
        ensure!(first == chunks, "{first} reads of {chunks} chunks");
        let second = requests(&server, "GetObject", run)?;
        ensure!(second == 0, "{second} chunks were read again");
        manage(
            &daemon,
            &["verify-job", "update", "all", "--reread-after", "0"],
        )?;
        let third = requests(&server, "GetObject", run)?;
        ensure!(third == chunks, "{third} reads of {chunks} chunks");
        let limits = ["verify-job", "update", "all", "--requests-max", "10"];
        let refused = daemon.manage(&limits)?.expect_code(1)?;
        ensure!(refused.to_string().contains("reread-after"), "{refused}");
        let by_hand = || {
            let verify = ["verify", "--all", "--requests-max", "10"];
            let text = daemon.client("store", &verify)?.success()?.text();
            ensure!(text.contains("limits of this run are used up"), "{text}");
            Ok(())
        };
        let quick = || {
            let text = daemon.client("store", &["verify", "--quick"])?.success()?;
            ensure!(text.text().contains("there: 50 snapshots"), "{text}");
            Ok(())
        };
        let read = requests(&server, "GetObject", quick)?;
        ensure!(read == 0, "a quick run has read {read} chunks");
        let sample = || {
            let verify = ["verify", "--sample", "20"];
            daemon.client("store", &verify)?.success().map(drop)
        };
        let read = requests(&server, "GetObject", sample)?;
        ensure!(
            read < chunks / 2,
            "{read} of {chunks} are more than 20 of 100"
        );
        let bounded = requests(&server, "GetObject", by_hand)?;
        ensure!(
            (10..=16).contains(&bounded),
            "{bounded} reads of at most 10"
        );
        Ok(())
    });
    daemon.stop()
}
