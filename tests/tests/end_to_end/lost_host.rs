//! The runbook of a lost machine in `docs/operations.md`, done word for word: the host dies in the middle of a backup, its
//! state and cache directories are gone, and another host has the bucket and a copy, a part of the copy, or nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use holdfast_tests::checkout;
use holdfast_tests::content::{self, compare_files};
use holdfast_tests::daemon::{COMMAND_TIME_MAX, Daemon};
use holdfast_tests::process::{Output, once_settled, run, wait_for};
use holdfast_tests::s3_server::{EmbeddedS3, S3Server as _};
use s3_client::{Fault, Op};
use serde_json::Value;
use tempfile::TempDir;

const STORE: &str = "store";
/// A request that was given up has no effect after two seconds, and no chunk is kept because it is young.
const SETTINGS: [&str; 4] = [
    "--gc-atime-cutoff-minutes",
    "0",
    "--late-request-max-seconds",
    "2",
];
/// Pieces of 4 MiB of each image, and chunks that no other image has: every fourth is of zeroes, but a short one comes last.
const PIECES: u64 = 4;

/// The files that the table of the state directory tells to keep a copy of.
fn files_to_keep() -> Result<Vec<String>> {
    let text = fs::read_to_string(checkout::root().join("docs/operations.md"))?;
    let mut files = Vec::new();
    for row in text.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        if cells.len() == 5 && cells[3].starts_with("yes") {
            let names = cells[1].split('`').skip(1).step_by(2);
            files.extend(names.map(ToOwned::to_owned));
        }
    }
    ensure!(files.len() == 5, "the table names {files:?}");
    Ok(files)
}

/// What outlives the host: the bucket, the clients with their data, and the copy.
struct Site {
    server: EmbeddedS3,
    /// What clients back up, by the id of the backup.
    images: BTreeMap<&'static str, PathBuf>,
    token: String,
    copy: PathBuf,
    place: TempDir,
}

impl Site {
    /// A host that has died: one backup is in the copy's past, one came later, one was in its middle.
    fn after_the_loss() -> Result<(Self, Daemon)> {
        let place = TempDir::with_prefix("holdfast-test-")?;
        let mut site = Self {
            server: EmbeddedS3::start()?,
            images: BTreeMap::new(),
            token: String::new(),
            copy: place.path().join("copy"),
            place,
        };
        let host = Daemon::set_up(&[])?;
        host.add_s3("embedded", &site.server.access(), &[])?;
        host.add_s3_store("embedded", STORE, &SETTINGS)?;
        host.start()?;
        host.explain(|| site.live_and_die(&host));
        Ok((site, host))
    }

    fn live_and_die(&mut self, host: &Daemon) -> Result<()> {
        self.add_agent(host)?;
        let job = ["prune-job", "create", "nightly", "--store", STORE];
        manage(
            host,
            &[&job[..], &["--schedule", "yearly", "--keep-last", "9"]].concat(),
        )?;
        self.back_up(host, "before")?.success()?;

        fs::create_dir(&self.copy)?;
        let state_dir = host.config().parent().context("a place")?;
        for file in files_to_keep()? {
            fs::copy(state_dir.join(&file), self.copy.join(&file)).context(file)?;
        }
        self.back_up(host, "after")?.success()?;
        self.back_up(host, "garbage")?.success()?;
        forget(host, "garbage")?;

        let gate = self
            .server
            .plan()
            .stop_before(Fault::on(Op::Put).containing("/.chunks/").nth(2));
        let mut command = self.backup_command(host, "cut-off")?;
        let client = std::thread::spawn(move || run(&mut command, b"", COMMAND_TIME_MAX));
        let arrived = wait_for(COMMAND_TIME_MAX, || (gate.arrived() > 0).then_some(()));
        arrived.context("the second chunk never came")?;
        host.kill();
        gate.release();
        let told = client.join().ok().context("the client's thread")??;
        told.expect_code(1).map(drop)
    }

    /// The account of the clients.
    fn add_agent(&mut self, host: &Daemon) -> Result<()> {
        manage(host, &["user", "add", "agent@pbs"])?;
        self.token = host.add_token("agent@pbs!box")?;
        for who in ["agent@pbs", "agent@pbs!box"] {
            host.grant("/datastore/store", who, "DatastoreBackup")?;
        }
        Ok(())
    }

    /// An image of this id, as a backup names it; made at the first call.
    fn image(&mut self, id: &'static str) -> Result<String> {
        let path = self.place.path().join(id);
        if !self.images.contains_key(id) {
            let seed = self.images.len() as u64 + 1;
            content::write_image(&path, seed, PIECES)?;
            self.images.insert(id, path.clone());
        }
        Ok(format!("disk.img:{}", path.display()))
    }

    /// A backup by the agent's token.
    fn backup_command(&mut self, host: &Daemon, id: &'static str) -> Result<Command> {
        let archive = self.image(id)?;
        let mut command = host.client_command(STORE, &["backup", &archive, "--backup-id", id])?;
        command
            .env(
                "PBS_REPOSITORY",
                format!("agent@pbs!box@{}:{STORE}", host.address()?),
            )
            .env("PBS_PASSWORD", &self.token);
        Ok(command)
    }

    fn back_up(&mut self, host: &Daemon, id: &'static str) -> Result<Output> {
        run(&mut self.backup_command(host, id)?, b"", COMMAND_TIME_MAX)
    }

    /// Restores the newest backup of this id and compares it byte for byte.
    fn comes_back(&self, host: &Daemon, id: &str) -> Result<()> {
        let place = TempDir::new_in(host.dir())?;
        let target = place.path().join("back");
        let group = format!("host/{id}");
        let restore = ["restore", &group, "disk.img", &target.display().to_string()];
        host.client(STORE, &restore)?.success()?;
        compare_files(&self.images[id], &target)
    }

    /// What the bucket was for: everything is restored, backed up, collected, and restored again.
    fn goes_on(&mut self, host: &Daemon) -> Result<()> {
        ensure!(groups(host)? == ["after", "before"], "{:?}", groups(host)?);
        self.comes_back(host, "before")?;
        self.comes_back(host, "after")?;
        // The next one of a group, new data, and data that the lost host had in part.
        once_settled(COMMAND_TIME_MAX, || self.back_up(host, "after"))?.success()?;
        self.back_up(host, "new")?.success()?;
        self.back_up(host, "cut-off")?.success()?;
        forget(host, "before")?;
        collect_until_removed(host, 2 * PIECES)?;
        let verified = host.client(STORE, &["verify"])?.success()?.text();
        ensure!(verified.contains("4 of 4 snapshots"), "{verified}");
        for id in ["after", "new", "cut-off"] {
            self.comes_back(host, id)?;
        }
        Ok(())
    }
}

fn manage(host: &Daemon, arguments: &[&str]) -> Result<String> {
    let told = host.manage_with(arguments, "a password of the tests\n")?;
    Ok(told.success()?.text())
}

/// The ids of all groups.
fn groups(host: &Daemon) -> Result<Vec<String>> {
    let listed = host.client_json(STORE, &["group", "list"])?;
    let ids = listed.as_array().into_iter().flatten();
    let mut ids: Vec<String> = ids
        .filter_map(|group| group["backup-id"].as_str().map(ToOwned::to_owned))
        .collect();
    ids.sort();
    Ok(ids)
}

fn forget(host: &Daemon, id: &str) -> Result<()> {
    let group = format!("host/{id}");
    let forget = || host.client(STORE, &["group", "forget", &group]);
    once_settled(COMMAND_TIME_MAX, forget)?.success().map(drop)
}

/// Collects until so many chunks are gone; those of a second ago are still too young.
fn collect_until_removed(host: &Daemon, chunks: u64) -> Result<()> {
    let mut removed = 0;
    let done = wait_for(Duration::from_mins(1), || {
        let status = host
            .client(STORE, &["gc", "start"])
            .and_then(Output::success)
            .and_then(|_| host.client_json(STORE, &["gc", "status"]));
        match status {
            Ok(status) if status["missing-chunks"] != 0 => {
                Some(Err(anyhow::anyhow!("chunks are missing: {status}")))
            }
            Ok(status) => {
                removed += status["removed-chunks"].as_u64().unwrap_or(0);
                (removed >= chunks).then_some(Ok(()))
            }
            Err(error) => Some(Err(error)),
        }
    });
    done.with_context(|| format!("only {removed} chunks were removed"))?
}

fn fault(host: &Daemon) -> Result<String> {
    let faulty = wait_for(COMMAND_TIME_MAX, || {
        let state = host.store_state(STORE).ok()?;
        let fault = state["fault"].as_str()?.to_owned();
        (state["state"] == "faulty").then_some(fault)
    });
    faulty.context("nothing is wrong with the datastore")
}

fn job_ids(host: &Daemon) -> Result<Vec<Value>> {
    let listed = host.manage(&["prune-job", "list", "--output-format", "json"])?;
    let listed = listed.success()?.json()?;
    let rows = listed.as_array().context("a list")?;
    Ok(rows.iter().map(|row| row["id"].clone()).collect())
}

#[test]
fn a_lost_host_comes_back_from_the_copy() -> Result<()> {
    const WAITS: [&str; 2] = [
        "late-request-max-seconds = 2",
        "late-request-max-seconds = 3000",
    ];
    let (mut site, lost) = Site::after_the_loss()?;
    let host = lost.on_new_host(&site.copy)?;
    drop(lost);
    // As if requests of the lost host could arrive for an hour: restores do not wait for that.
    host.edit_config(|text| text.replace(WAITS[0], WAITS[1]))?;
    host.start()?;
    host.explain(|| {
        ensure!(job_ids(&host)? == ["nightly"], "the jobs came along");
        site.comes_back(&host, "after")?;
        let told = host.client(STORE, &["gc", "start"])?.expect_code(1)?;
        ensure!(
            told.to_string().contains("garbage collection waits"),
            "{told}"
        );
        Ok(())
    });
    host.stop()?;
    host.edit_config(|text| text.replace(WAITS[1], WAITS[0]))?;
    host.start()?;
    host.explain(|| site.goes_on(&host));
    host.stop()
}

#[test]
fn the_lost_host_is_refused_when_it_appears_again() -> Result<()> {
    let (mut site, lost) = Site::after_the_loss()?;
    let host = lost.on_new_host(&site.copy)?;
    host.start()?;
    host.explain(|| site.comes_back(&host, "after"));
    lost.begin()?;
    lost.explain(|| {
        let fault = fault(&lost)?;
        ensure!(fault.contains("belongs to"), "{fault}");
        Ok(())
    });
    lost.kill();
    host.explain(|| site.goes_on(&host));
    host.stop()
}

#[test]
fn without_the_instance_id_the_bucket_is_taken_over() -> Result<()> {
    let (mut site, lost) = Site::after_the_loss()?;
    fs::remove_file(site.copy.join("instance-id"))?;
    let host = lost.on_new_host(&site.copy)?;
    drop(lost);
    host.begin()?;
    host.explain(|| {
        let fault = fault(&host)?;
        ensure!(fault.contains("holdfast datastore take-over"), "{fault}");
        manage(
            &host,
            &["datastore", "take-over", STORE, "--previous-owner-is-dead"],
        )?;
        site.goes_on(&host)
    });
    host.stop()
}

#[test]
fn without_any_copy_the_bucket_is_enough() -> Result<()> {
    let (mut site, lost) = Site::after_the_loss()?;
    drop(lost);
    let host = Daemon::set_up(&[])?;
    host.start()?;
    host.explain(|| {
        host.add_s3("embedded", &site.server.access(), &[])?;
        let dead = ["--take-over", "--previous-owner-is-dead"];
        host.add_s3_store("embedded", STORE, &[&SETTINGS[..], &dead].concat())?;
        // The groups are still those of the agent; accounts have to be made again.
        let refused = site.back_up(&host, "after")?.expect_code(1)?;
        ensure!(
            refused.to_string().contains("authentication failed"),
            "{refused}"
        );
        site.add_agent(&host)?;
        site.goes_on(&host)
    });
    host.stop()
}
