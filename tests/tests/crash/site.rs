//! An installation of the program that can be stopped at a step, with a datastore in a bucket or in a directory, the
//! clients that work with it, and what they were told.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use holdfast_tests::binary::debuggable;
use holdfast_tests::daemon::{COMMAND_TIME_MAX, Daemon};
use holdfast_tests::disk::Disk;
use holdfast_tests::process::{Guarded, run, say, wait_for};
use holdfast_tests::python::Python;
use holdfast_tests::s3_server::{EmbeddedS3, S3Server as _};
use pbs_datastore::Digest;
use serde_json::{Value, json};

use super::plan::{Cell, Side};

/// The datastore of the tests.
pub(crate) const STORE: &str = "store";
/// Id of the S3 server in the daemon's configuration.
pub(crate) const ENDPOINT: &str = "s3-server";
/// Given-up requests have no effect after a second, and no chunk is kept because it is young.
pub(crate) const SETTINGS: [&str; 4] = [
    "--gc-atime-cutoff-minutes",
    "0",
    "--late-request-max-seconds",
    "1",
];
/// The group of most backups.
pub(crate) const GROUP: &str = "kill";
/// How long anything may take that a test waits for.
pub(crate) const TIME_MAX: Duration = Duration::from_mins(1);
/// Pieces of a backup, about 120 KiB each and a chunk of its own.
const PIECES: [&str; 2] = ["8", "14"];

/// A snapshot by group and time.
pub(crate) type Name = (String, i64);

/// What one journal of a client says.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) acknowledged: Vec<Digest>,
    pub(crate) begun: BTreeSet<Name>,
    pub(crate) finished: BTreeSet<Name>,
}

/// The installation.
pub(crate) struct Site {
    pub(crate) side: Side,
    pub(crate) daemon: Daemon,
    pub(crate) server: Option<EmbeddedS3>,
    /// Journals of clients, in the order they were begun.
    journals: Mutex<Vec<PathBuf>>,
    /// Snapshots without journal that may be there or not: nobody was told the end of their removal.
    in_doubt: Mutex<BTreeSet<Name>>,
    /// Chunks that were decoded once; they never change.
    pub(crate) decoded: Mutex<BTreeSet<Digest>>,
    /// How the daemon ended before it listened.
    early_end: Mutex<Option<ExitStatus>>,
    next: AtomicU64,
    disk: Option<Disk>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Site {
    /// A new one that does not run yet.
    pub(crate) fn new(side: Side) -> Result<Self> {
        let server = match side {
            Side::Bucket => Some(EmbeddedS3::start()?),
            Side::Directory => None,
        };
        Self::with(Daemon::set_up_with(debuggable()?, &[])?, server, None)
    }

    /// The same with a bucket of this server.
    pub(crate) fn on_server(server: EmbeddedS3) -> Result<Self> {
        Self::with(Daemon::set_up_with(debuggable()?, &[])?, Some(server), None)
    }

    /// The same with the cache directory, or the directory of the datastore, on a disk with these options. `None`, and
    /// said so, where that is not possible.
    pub(crate) fn on_disk(side: Side, options: &str) -> Result<Option<Self>> {
        let daemon = Daemon::set_up_with(debuggable()?, &[])?;
        let place = match side {
            Side::Bucket => daemon.cache_dir(STORE),
            Side::Directory => daemon.store_dir(STORE),
        };
        fs::create_dir(&place)?;
        let Some(disk) = Disk::mount(&place, options)? else {
            say(
                "NOT RUN: this machine permits no mounts in namespaces; tests of pbs-datastore have the same faults",
            );
            return Ok(None);
        };
        daemon.run_by(disk.runner());
        let server = match side {
            Side::Bucket => Some(EmbeddedS3::start()?),
            Side::Directory => None,
        };
        Self::with(daemon, server, Some(disk)).map(Some)
    }

    fn with(daemon: Daemon, server: Option<EmbeddedS3>, disk: Option<Disk>) -> Result<Self> {
        let side = if let Some(server) = &server {
            daemon.add_s3(ENDPOINT, &server.access(), &[])?;
            daemon.add_s3_store(ENDPOINT, STORE, &SETTINGS)?;
            // The least there can be, so that it is soon full.
            daemon.edit_config(|text| text.replace("\"1 GiB\"", "\"256 MiB\""))?;
            Side::Bucket
        } else {
            daemon.add_directory_store(STORE, &SETTINGS)?;
            Side::Directory
        };
        Ok(Self {
            side,
            daemon,
            server,
            journals: Mutex::default(),
            in_doubt: Mutex::default(),
            decoded: Mutex::default(),
            early_end: Mutex::default(),
            next: AtomicU64::new(100),
            disk,
        })
    }

    /// The disk of the local directory.
    pub(crate) fn disk(&self) -> Result<&Disk> {
        self.disk.as_ref().context("it has no disk of its own")
    }

    /// The S3 server of a bucket.
    pub(crate) fn server(&self) -> Result<&EmbeddedS3> {
        self.server.as_ref().context("a bucket has a server")
    }

    /// The directory with markers and cache, or with the chunks themselves.
    pub(crate) fn local_dir(&self) -> PathBuf {
        let dir = match self.side {
            Side::Bucket => self.daemon.cache_dir(STORE),
            Side::Directory => self.daemon.store_dir(STORE),
        };
        match &self.disk {
            Some(disk) => disk.seen_from_outside(&dir).unwrap_or(dir),
            None => dir,
        }
    }

    /// A number for which nothing was backed up yet. Backups share a quarter of their chunks with those of the number before.
    pub(crate) fn fresh_number(&self) -> u64 {
        self.next.fetch_add(100, Ordering::Relaxed)
    }

    /// A new journal.
    pub(crate) fn journal(&self) -> Result<PathBuf> {
        let mut journals = locked(&self.journals);
        let path = self
            .daemon
            .dir()
            .join(format!("journal-{}", journals.len()));
        fs::write(&path, "")?;
        journals.push(path.clone());
        Ok(path)
    }

    pub(crate) fn journals(&self) -> Vec<PathBuf> {
        locked(&self.journals).clone()
    }

    /// From now on the snapshot, which stands in no journal, may be there or not.
    pub(crate) fn doubt(&self, name: Name) {
        locked(&self.in_doubt).insert(name);
    }

    pub(crate) fn in_doubt(&self) -> BTreeSet<Name> {
        locked(&self.in_doubt).clone()
    }

    /// Starts the daemon so that it kills itself at a step.
    pub(crate) fn start_to_die_at(&self, cell: Cell) -> Result<()> {
        self.begin_to_die_at(cell)?;
        // It may die in its start.
        wait_for(TIME_MAX, || {
            let ready = self.daemon.get("/health/ready");
            let is_ready = ready.is_ok_and(|answer| answer.status == 200);
            (is_ready || self.is_dead()).then_some(())
        })
        .context("the daemon is not ready and does not end")
    }

    /// The same without waiting for anything but its listening.
    pub(crate) fn begin_to_die_at(&self, cell: Cell) -> Result<()> {
        let stop_at = format!("{:?}:{}", cell.step, cell.passing);
        self.daemon.set_variable("HOLDFAST_STOP_AT", Some(&stop_at));
        let begun = self.daemon.begin_or_end();
        self.daemon.set_variable("HOLDFAST_STOP_AT", None);
        *locked(&self.early_end) = begun?;
        Ok(())
    }

    /// Whether the daemon that was started to die is dead.
    pub(crate) fn is_dead(&self) -> bool {
        locked(&self.early_end).is_some() || self.daemon.ended().is_some()
    }

    /// Waits for the death that was asked for; any other is an error.
    pub(crate) fn dies(&self) -> Result<()> {
        let early = locked(&self.early_end).take();
        let status = early.or_else(|| self.daemon.wait_for_end(TIME_MAX));
        let status = status.context("the step was never passed")?;
        ensure!(
            status.signal() == Some(9),
            "it was not killed at the step but ended with {status}"
        );
        Ok(())
    }

    /// The Python client.
    pub(crate) fn client(&self, what: &str, group: &str, number: u64) -> Result<Command> {
        let url = self.daemon.url()?;
        let password = format!("--password={}", self.daemon.password());
        let mut command =
            Python::get()?.command(&["kill_client.py", what, "--url", &url, &password]);
        let number = number.to_string();
        command
            .args(["--fingerprint", self.daemon.fingerprint()])
            .args(["--user", self.daemon.user(), "--store", STORE])
            .args(["--group", group, "--seed", "7", "--untold"])
            .args(["--first", &number, "--number", &number, "--pieces"])
            .args(PIECES);
        Ok(command)
    }

    /// Starts a client that backs up without end and writes down what it is told.
    pub(crate) fn start_backups(&self, group: &str, first: u64, journal: &Path) -> Result<Guarded> {
        let mut command = self.client("run", group, first)?;
        command.arg("--journal").arg(journal);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        Guarded::spawn(&mut command)
    }

    /// One backup that no journal knows, restored and compared; answers its name.
    pub(crate) fn back_up(&self, group: &str, number: u64) -> Result<Name> {
        let made = run(
            &mut self.client("backup", group, number)?,
            b"",
            COMMAND_TIME_MAX,
        )?;
        let time = made.success()?.json()?["time"].as_i64();
        Ok((group.to_owned(), time.context("a time")?))
    }

    /// One backup that is written down in a journal of its own.
    pub(crate) fn back_up_told(&self, group: &str, number: u64) -> Result<PathBuf> {
        let journal = self.journal()?;
        let mut command = self.client("backup", group, number)?;
        command.arg("--journal").arg(&journal);
        run(&mut command, b"", COMMAND_TIME_MAX)?.success()?;
        Ok(journal)
    }

    /// Restores everything in a journal until the daemon dies; what the client says to that is its own affair.
    pub(crate) fn reads_until_death(&self, journal: &Path) -> Result<()> {
        let mut command = self.client("verify", GROUP, 0)?;
        command.arg("--journal").arg(journal);
        let output = run(&mut command, b"", COMMAND_TIME_MAX)?;
        self.dies().with_context(|| format!("{output}"))
    }

    /// One backup with the content of `number`, and restores of everything in the journals; the backup is written down in
    /// the last one.
    pub(crate) fn check(&self, group: &str, number: u64, journals: &[PathBuf]) -> Result<Value> {
        let mut command = self.client("check", group, number)?;
        // The first is the one that is written.
        command.arg("--journal").args(journals.iter().rev());
        run(&mut command, b"", COMMAND_TIME_MAX)?.success()?.json()
    }

    /// Restores everything in the journals.
    pub(crate) fn verify(&self, journals: &[PathBuf]) -> Result<Value> {
        let mut command = self.client("verify", GROUP, 0)?;
        command.arg("--journal").args(journals);
        run(&mut command, b"", COMMAND_TIME_MAX)?.success()?.json()
    }

    /// The snapshots as the daemon lists them.
    pub(crate) fn listed(&self) -> Result<BTreeSet<Name>> {
        let path = format!("admin/datastore/{STORE}/snapshots");
        let listed = self.daemon.ask("GET", &path, &Value::Null)?.data()?;
        let rows = listed.as_array().context("a list")?;
        rows.iter()
            .map(|row| {
                let id = row["backup-id"].as_str().context("an id")?;
                Ok((
                    id.to_owned(),
                    row["backup-time"].as_i64().context("a time")?,
                ))
            })
            .collect()
    }

    /// Asks for the removal of a snapshot. An error means that nobody was told what became of it.
    pub(crate) fn forget(&self, name: &Name) -> Result<holdfast_tests::control::Answer> {
        let path = format!(
            "admin/datastore/{STORE}/snapshots?backup-type=host&backup-id={}&backup-time={}",
            name.0, name.1
        );
        self.daemon.ask("DELETE", &path, &Value::Null)
    }

    /// Collects garbage once; answers how the task ended and the status, or an error if the daemon went away.
    pub(crate) fn collect(&self) -> Result<(String, Value)> {
        let path = format!("admin/datastore/{STORE}/gc");
        let upid = self.daemon.ask("POST", &path, &json!({}))?.data()?;
        let upid = upid.as_str().context("a task")?;
        let task = format!("nodes/tests/tasks/{upid}/status");
        let ended = wait_for(TIME_MAX, || {
            let asked = self.daemon.ask("GET", &task, &Value::Null);
            match asked.and_then(|answer| answer.data()) {
                Ok(status) => status["exitstatus"]
                    .as_str()
                    .map(|told| Ok(told.to_owned())),
                Err(error) => Some(Err(error)),
            }
        });
        let told = ended.context("the collection does not end")??;
        Ok((told, self.daemon.ask("GET", &path, &Value::Null)?.data()?))
    }
}

/// What a client wrote down; its last line may be cut.
pub(crate) fn read_journal(journal: &Path) -> Result<Told> {
    let text = fs::read_to_string(journal)?;
    let mut told = Told::default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    for line in whole.lines() {
        let entry: Value = serde_json::from_str(line)?;
        if let Some(digest) = entry["acknowledged"].as_str() {
            told.acknowledged.push(digest.parse()?);
            continue;
        }
        let (Some(group), Some(time)) = (entry["group"].as_str(), entry["time"].as_i64()) else {
            bail!("a journal says '{line}'");
        };
        let name = (group.to_owned(), time);
        if entry["finished"].is_u64() {
            told.finished.insert(name);
        } else {
            told.begun.insert(name);
        }
    }
    Ok(told)
}
