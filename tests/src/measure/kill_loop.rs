//! `figures kill-loop`: the daemon is killed again and again in the middle of uploads, and nothing that was promised is
//! lost.
//!
//! Each round:
//! 1. An independent client (`tests/python/kill_client.py`) backs up one snapshot after the other and writes down every
//!    digest that is acknowledged and every snapshot that is finished.
//! 2. After a number of acknowledgements drawn from the seed, and as soon as the proxy before the S3 server has an open
//!    PUT, the daemon gets SIGKILL. The round counts if the access log of the *S3 server* has a PUT that had begun before
//!    the kill and had not ended when the process was gone. What was sent whole is still carried out, later.
//! 3. The daemon is started again. Every snapshot of the round that was finished is restored; every digest that was
//!    acknowledged in the round is read from the bucket, decoded and hashed.
//! 4. The backup that was cut off is made once more, restored and compared.
//! 5. In every third round the snapshot of step 4 is forgotten and garbage is collected, so that later rounds meet
//!    chunks that were deleted.
//!
//! At the end garbage is collected past the cutoff: no upload marker, using marker, temporary file or journal entry may
//! be left in the cache directory, and every finished snapshot of all rounds is restored once more.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use jiff::Timestamp;
use pbs_datastore::{BackupTime, CHUNK_BYTES_MAX, DataBlob, Digest};
use s3_client::{AwsStore, ObjectKey, ObjectStore as _, wall_clock};
use serde_json::Value;

use super::access_log::Puts;
use super::arguments::CommonArgs;
use super::noise::Noise;
use super::report::Report;
use super::site::{STORE, Site, SiteOptions};
use crate::process::{Guarded, Output, run, say, wait_for};
use crate::python::Python;

const GROUP: &str = "kill";
/// Bound on each step that waits for the client or an answer.
const STEP_TIME_MAX: Duration = Duration::from_mins(2);
/// Bound on restoring everything.
const VERIFY_TIME_MAX: Duration = Duration::from_mins(15);
/// Acknowledgements after which the kill may come, at most: about three backups.
const ACKNOWLEDGED_MAX: u64 = 150;
/// Rounds whose kill met no open PUT, at most, for each that did.
const MISSES_MAX: u64 = 2;
/// Collections at the end until nothing lingers, at most.
const COLLECTIONS_MAX: u64 = 10;
/// Which rounds collect garbage.
const COLLECT_EVERY: u64 = 3;

/// SIGKILL in the middle of uploads: nothing that was acknowledged is lost.
#[derive(Clone, Debug, clap::Args)]
pub struct KillLoopArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Kills that have to meet an open PUT.
    #[arg(long, default_value_t = 20)]
    kills: u64,
    /// Added to every S3 request, so that some are open at any time.
    #[arg(long, default_value_t = 100, value_name = "MS")]
    delay_ms: u64,
    /// T: within how many seconds the S3 server and the proxy have carried a request out that was sent. The proxy adds
    /// its delay and the server writes one file.
    #[arg(long, default_value_t = 3, value_name = "SECONDS")]
    late_request_max_seconds: u64,
}

/// What all rounds came to.
#[derive(Debug, Default)]
struct Sums {
    kills: u64,
    misses: u64,
    open_puts: Vec<usize>,
    acknowledged: u64,
    unreadable: Vec<String>,
    finished: u64,
    not_restored: Vec<String>,
    next_backups: u64,
    next_failed: Vec<String>,
    collections: u64,
    removed_chunks: u64,
    lingering: Vec<String>,
}

/// One line of a client's journal.
enum Entry {
    Begun(u64),
    Acknowledged(Digest),
    Finished,
}

struct Loop<'a> {
    args: &'a KillLoopArgs,
    site: Site,
    runtime: tokio::runtime::Runtime,
    bucket: AwsStore,
    journals: Vec<PathBuf>,
    noise: Noise,
    next_number: u64,
    sums: Sums,
}

impl KillLoopArgs {
    /// Measures and prints.
    pub fn run(&self) -> Result<ExitCode> {
        self.common.begin()?;
        let late = self.late_request_max_seconds.to_string();
        let site = Site::start(&SiteOptions {
            delay: Duration::from_millis(self.delay_ms),
            bytes_per_second: None,
            cache_bytes_max: "1 GiB",
            server: &[],
            store: &[
                "--late-request-max-seconds",
                &late,
                "--gc-atime-cutoff-minutes",
                "0",
            ],
        })?;
        let runtime = tokio::runtime::Runtime::new()?;
        let bucket = runtime.block_on(site.s3().access().client())?;
        let mut killing = Loop {
            args: self,
            site,
            runtime,
            bucket,
            journals: Vec::new(),
            noise: Noise::new(self.common.seed),
            next_number: 0,
            sums: Sums::default(),
        };
        while killing.sums.kills < self.kills {
            ensure!(
                killing.sums.misses <= MISSES_MAX * self.kills,
                "too many kills met no open PUT: {:?}",
                killing.sums
            );
            killing.round()?;
        }
        killing.end()?;
        Ok(self.report(&killing.sums).print())
    }

    fn report(&self, sums: &Sums) -> Report {
        let mut report = Report::new("kill-loop");
        report.at_least(
            "kills",
            sums.kills,
            "kills with a PUT open, by the S3 server's log",
            self.kills,
        );
        report.detail("open-puts", sums.open_puts.clone());
        report.detail("kills-without-open-put", sums.misses);
        let acknowledged = sums.acknowledged;
        report.at_least("acknowledged", acknowledged, "digests acknowledged", 1);
        report.none(
            "unreadable",
            sums.unreadable.len() as u64,
            "of these not readable",
        );
        report.at_least("finished", sums.finished, "snapshots finished", 1);
        report.none(
            "not-restored",
            sums.not_restored.len() as u64,
            "of these not restored",
        );
        let next = sums.next_backups;
        report.at_least(
            "next-backups",
            next,
            "next backups that succeeded",
            sums.kills,
        );
        report.none(
            "next-failed",
            sums.next_failed.len() as u64,
            "next backups that failed",
        );
        let (runs, removed) = (sums.collections, sums.removed_chunks);
        report.note("collections", runs, "garbage collections", runs.to_string());
        report.note(
            "removed-chunks",
            removed,
            "chunks they removed",
            removed.to_string(),
        );
        report.none(
            "lingering",
            sums.lingering.len() as u64,
            "markers that linger",
        );
        let faults = [
            &sums.unreadable,
            &sums.not_restored,
            &sums.next_failed,
            &sums.lingering,
        ];
        let faults: Vec<String> = faults.into_iter().flatten().take(20).cloned().collect();
        report.detail("faults", faults);
        report
    }
}

impl Loop<'_> {
    fn round(&mut self) -> Result<()> {
        let number = self.sums.kills + self.sums.misses;
        let journal = self
            .site
            .daemon()
            .dir()
            .join(format!("journal-{number}.jsonl"));
        fs::write(&journal, "")?;
        let mut client = self.start_client(&journal)?;
        let (before, after) = self.kill(&journal, &mut client)?;
        let ended = client.wait(STEP_TIME_MAX);
        ensure!(
            ended.is_some_and(|status| status.success()),
            "the client did not end as it should: {ended:?}"
        );
        self.site.daemon().start()?;
        let entries = read(&journal)?;
        let begun = entries.iter().filter_map(|entry| match entry {
            Entry::Begun(number) => Some(*number),
            _ => None,
        });
        let cut_off = begun.max().unwrap_or(self.next_number);
        self.next_number = cut_off + 1;
        self.check_acknowledged(&entries);
        let finished = entries
            .iter()
            .filter(|entry| matches!(entry, Entry::Finished))
            .count() as u64;
        self.sums.finished += finished;
        self.verify(std::slice::from_ref(&journal))?;
        let again = self.back_up_again(cut_off)?;
        self.journals.push(journal);
        let open = Puts::read(self.site.s3().log())?.open(before, after);
        if open == 0 {
            self.sums.misses += 1;
        } else {
            self.sums.kills += 1;
            self.sums.open_puts.push(open);
        }
        say(&format!(
            "round {}: {open} PUTs open at the kill, {finished} snapshots finished, cut off in backup {cut_off}",
            number + 1
        ));
        if number % COLLECT_EVERY == COLLECT_EVERY - 1
            && let Some(time) = again
        {
            let snapshot = format!("host/{GROUP}/{}", BackupTime::new(time)?);
            let arguments = ["snapshot", "forget", &snapshot];
            self.site.daemon().client(STORE, &arguments)?.success()?;
            self.collect()?;
        }
        Ok(())
    }

    fn client_command(&self, arguments: &[&str]) -> Result<std::process::Command> {
        let daemon = self.site.daemon();
        let mut command = Python::get()?.command(&["kill_client.py"]);
        command
            .args(["--url", &daemon.url()?])
            .args(["--fingerprint", daemon.fingerprint()])
            .args(["--user", daemon.user()])
            // It may begin with a hyphen.
            .arg(format!("--password={}", daemon.password()))
            .args(["--store", STORE, "--group", GROUP])
            .args(["--seed", &self.args.common.seed.to_string()])
            .args(arguments);
        Ok(command)
    }

    fn start_client(&self, journal: &Path) -> Result<Guarded> {
        let first = self.next_number.to_string();
        let mut command = self.client_command(&["run", "--first", &first, "--journal"])?;
        command
            .arg(journal)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        Guarded::spawn(&mut command)
    }

    /// Kills the daemon when its time has come. Returns a moment before that, and one when the process was gone.
    fn kill(&mut self, journal: &Path, client: &mut Guarded) -> Result<(Timestamp, Timestamp)> {
        let acknowledgements = 1 + self.noise.below(ACKNOWLEDGED_MAX);
        let reached = wait_for(STEP_TIME_MAX, || {
            if let Some(status) = client.ended() {
                return Some(Err(status));
            }
            let text = fs::read_to_string(journal).unwrap_or_default();
            let seen = text.matches("\"acknowledged\"").count() as u64;
            (seen >= acknowledgements).then_some(Ok(()))
        });
        match reached {
            Some(Ok(())) => {}
            Some(Err(status)) => bail!(
                "the client ended before the kill with {status}\n{}",
                self.site.daemon().log_tail()
            ),
            None => bail!(
                "the client made no progress\n{}",
                self.site.daemon().log_tail()
            ),
        }
        // Not the same moment of every exchange.
        std::thread::sleep(Duration::from_millis(self.noise.below(300)));
        let open = wait_for(STEP_TIME_MAX, || {
            let open = self.site.proxy().open();
            open.values()
                .any(|request| request.method == "PUT")
                .then_some(())
        });
        open.context("no PUT was open for a long time")?;
        let clock = wall_clock();
        let before = clock();
        self.site.daemon().kill();
        Ok((before, clock()))
    }

    fn check_acknowledged(&mut self, entries: &[Entry]) {
        for entry in entries {
            let Entry::Acknowledged(digest) = entry else {
                continue;
            };
            self.sums.acknowledged += 1;
            if let Err(error) = self.read_chunk(digest) {
                self.sums.unreadable.push(format!("{digest}: {error:#}"));
            }
        }
    }

    /// Reads a chunk from the bucket, past the daemon, and checks that it is what its digest says.
    fn read_chunk(&self, digest: &Digest) -> Result<()> {
        let hex = digest.to_string();
        let key = ObjectKey::new(format!("{STORE}/.chunks/{}/{hex}", &hex[..4]))?;
        let got = self.runtime.block_on(self.bucket.get(&key, None))?;
        let encoded: Bytes = got.value.body.into_bytes();
        let content = DataBlob::parse(encoded)?.decode(CHUNK_BYTES_MAX, None)?;
        ensure!(Digest::of(&content) == *digest, "it has another digest");
        Ok(())
    }

    fn verify(&mut self, journals: &[PathBuf]) -> Result<()> {
        let mut command = self.client_command(&["verify", "--journal"])?;
        command.args(journals);
        let output = run(&mut command, b"", VERIFY_TIME_MAX)?;
        let figures = figures(&output)?;
        let failures = figures["failures"].as_array().cloned().unwrap_or_default();
        let told = failures
            .iter()
            .map(|failure| failure.as_str().unwrap_or("?").to_owned());
        self.sums.not_restored.extend(told);
        Ok(())
    }

    /// Makes a backup once more. Returns its time if it succeeded.
    fn back_up_again(&mut self, number: u64) -> Result<Option<i64>> {
        let number = number.to_string();
        let mut command = self.client_command(&["backup", "--number", &number])?;
        let output = run(&mut command, b"", STEP_TIME_MAX)?;
        if output.code == Some(0) {
            let figures = figures(&output)?;
            if figures["ok"] == true {
                self.sums.next_backups += 1;
                return Ok(figures["time"].as_i64());
            }
        }
        self.sums
            .next_failed
            .push(format!("backup {number}: {output}"));
        Ok(None)
    }

    fn collect(&mut self) -> Result<()> {
        let status = self.site.collect_garbage_within(STEP_TIME_MAX)?;
        self.sums.collections += 1;
        self.sums.removed_chunks += status["removed-chunks"].as_u64().unwrap_or(0);
        Ok(())
    }

    /// What a collection past the cutoff must leave, and all snapshots once more.
    fn end(&mut self) -> Result<()> {
        let mut lingering = Vec::new();
        for _ in 0..COLLECTIONS_MAX {
            self.collect()?;
            lingering = self.lingering()?;
            if lingering.is_empty() {
                break;
            }
        }
        self.sums.lingering = lingering;
        let journals = std::mem::take(&mut self.journals);
        self.verify(&journals)
    }

    fn lingering(&self) -> Result<Vec<String>> {
        let ours = self.site.cache_dir().join(".holdfast");
        let mut found = Vec::new();
        for name in ["uploads", "using", "tmp"] {
            let entries = walkdir::WalkDir::new(ours.join(name)).min_depth(1);
            for entry in entries {
                let entry = entry?;
                if entry.file_type().is_file() {
                    found.push(entry.path().display().to_string());
                }
            }
        }
        let journal = ours.join("gc-journal");
        match fs::metadata(&journal) {
            Ok(stat) if stat.len() > 0 => found.push(format!("{} bytes of journal", stat.len())),
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        Ok(found)
    }
}

fn figures(output: &Output) -> Result<Value> {
    let text = output.text();
    serde_json::from_str(text.trim()).with_context(|| format!("no figures: {output}"))
}

/// The journal of a client. Its last line may be incomplete.
fn read(path: &Path) -> Result<Vec<Entry>> {
    let text = fs::read_to_string(path)?;
    let complete = text.rfind('\n').map_or("", |end| &text[..end]);
    complete
        .lines()
        .map(|line| {
            let value: Value = serde_json::from_str(line)?;
            if let Some(number) = value["begun"].as_u64() {
                return Ok(Entry::Begun(number));
            }
            if value["finished"].is_u64() {
                return Ok(Entry::Finished);
            }
            let digest = value["acknowledged"].as_str();
            let digest = digest.with_context(|| format!("a journal says '{line}'"))?;
            Ok(Entry::Acknowledged(digest.parse()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_is_read_up_to_its_last_whole_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let digest = Digest::of(b"x");
        let text = format!(
            "{{\"begun\": 3, \"time\": 9}}\n{{\"acknowledged\": \"{digest}\"}}\n{{\"finished\": 3, \"time\": 9}}\n{{\"ackno"
        );
        fs::write(&path, text).unwrap();
        let entries = read(&path).unwrap();
        assert!(matches!(
            entries[..],
            [Entry::Begun(3), Entry::Acknowledged(found), Entry::Finished] if found == digest
        ));
        fs::write(&path, "{\"ackno").unwrap();
        assert!(read(&path).unwrap().is_empty());
        fs::write(&path, "{}\n").unwrap();
        assert!(read(&path).is_err());
    }
}
