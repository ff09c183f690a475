//! The crash loop: a daemon is killed with requests open, again and again, and what it has promised is looked for.
//!
//! A round: 1. the Python client uploads chunks and writes down every digest that is acknowledged; 2. when a chosen number
//! of chunk uploads has reached the S3 server, one of them is held there, before or after its effect, so that it is open
//! for certain, and the daemon is killed; 3. the held request goes on; 4. every digest that was acknowledged is looked for
//! in the bucket and decoded (I1); 5. the daemon starts again; a backup succeeds and is restored, and so are all the
//! finished snapshots of the rounds before. At the end a collection past the cutoff leaves no upload marker behind (I4).

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use pbs_datastore::{DataBlob, Digest};
use s3_client::{Fault, Gate, ObjectKey, Op};

use crate::content;
use crate::daemon::Daemon;
use crate::process::{Guarded, say, wait_for};
use crate::python::Python;
use crate::s3_server::{EmbeddedS3, S3Server as _};

/// Name of the datastore.
const STORE: &str = "crash";
/// Chunks that the Python client uploads in a round.
const CHUNKS: u64 = 60;
/// How long a held request may take to arrive.
const ARRIVAL_TIME_MAX: Duration = Duration::from_mins(1);

/// How long a new snapshot may take to be later than the start.
const SECOND_TIME_MAX: Duration = Duration::from_secs(10);

/// What the rounds came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CrashReport {
    /// Kills with at least one PUT open.
    pub kills: u64,
    /// Digests that were acknowledged and found again.
    pub acknowledged: u64,
    /// Snapshots that were finished and restored at the end.
    pub snapshots: u64,
}

/// A finished snapshot and what it was made of.
struct Finished {
    snapshot: String,
    seed: u64,
}

/// Runs `rounds` rounds; chance comes from `seed`. The first violation ends it.
pub fn crash_loop(rounds: u64, seed: u64) -> Result<CrashReport> {
    let server = EmbeddedS3::start()?;
    let daemon = Daemon::set_up(&[])?;
    daemon.add_s3("s3-server", &server.access(), &[])?;
    // The server of this process answers or is gone: nothing takes effect a second after its connection broke.
    let settings = [
        "--gc-atime-cutoff-minutes",
        "0",
        "--late-request-max-seconds",
        "1",
    ];
    daemon.add_s3_store("s3-server", STORE, &settings)?;
    daemon.start()?;
    let mut report = CrashReport::default();
    let mut finished = Vec::new();
    let result = (0..rounds).try_for_each(|round| {
        let dice = content::noise(seed.wrapping_add(round), 2);
        let held = 1 + u64::from(dice[0]) % (CHUNKS - 10);
        one_round(
            &server,
            &daemon,
            round,
            held,
            dice[1].is_multiple_of(2),
            &mut report,
        )
        .and_then(|()| after_the_crash(&daemon, seed.wrapping_add(round), &mut finished))
        .with_context(|| format!("round {round} of seed {seed}, killed at upload {held}"))
    });
    let result = result.and_then(|()| {
        for one in &finished {
            restore(&daemon, one)?;
        }
        no_marker_lingers(&daemon)
    });
    result.with_context(|| daemon.log_tail())?;
    report.snapshots = finished.len() as u64;
    daemon.stop()?;
    Ok(report)
}

fn one_round(
    server: &EmbeddedS3,
    daemon: &Daemon,
    round: u64,
    held: u64,
    before: bool,
    report: &mut CrashReport,
) -> Result<()> {
    let uploads = Fault::on(Op::Put).containing("/.chunks/").nth(held);
    let gate = if before {
        server.plan().stop_before(uploads)
    } else {
        server.plan().stop_after(uploads)
    };
    let url = daemon.url()?;
    let password = format!("--password={}", daemon.password());
    let (seed, chunks) = (round.to_string(), CHUNKS.to_string());
    let mut command = Python::get()?.command(&["acknowledged.py", "--url", &url, &password]);
    command
        .args([
            "--fingerprint",
            daemon.fingerprint(),
            "--user",
            daemon.user(),
        ])
        .args(["--store", STORE, "--seed", &seed, "--chunks", &chunks])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut client = Guarded::spawn(&mut command)?;
    let output = client.child().stdout.take().context("no output")?;
    let reader = std::thread::spawn(move || {
        let lines = BufReader::new(output).lines();
        lines.map_while(Result::ok).collect::<Vec<String>>()
    });
    let arrived = wait_for(ARRIVAL_TIME_MAX, || (gate.arrived() > 0).then_some(()));
    ensure!(
        arrived.is_some(),
        "upload {held} never came to the S3 server"
    );
    daemon.kill();
    let told = told(&mut client, reader)?;
    report.kills += 1;
    go_on(server, &gate);
    ensure!(
        !told.iter().any(|line| line == "finished"),
        "an upload was held"
    );
    for digest in &told {
        is_readable(server, digest)?;
    }
    report.acknowledged += told.len() as u64;
    daemon.start()
}

fn told(client: &mut Guarded, reader: std::thread::JoinHandle<Vec<String>>) -> Result<Vec<String>> {
    let status = client.wait(ARRIVAL_TIME_MAX);
    ensure!(
        status.is_some_and(|status| status.success()),
        "the client was refused something, or did not notice: {status:?}"
    );
    match reader.join() {
        Ok(told) => Ok(told),
        Err(_) => bail!("the client's output could not be read"),
    }
}

fn go_on(server: &EmbeddedS3, gate: &Gate) {
    gate.release();
    server.plan().calm();
}

/// Looks past the daemon: the object of an acknowledged digest is there and is what it should be.
fn is_readable(server: &EmbeddedS3, digest: &str) -> Result<()> {
    let key = ObjectKey::new(format!("{STORE}/.chunks/{}/{digest}", &digest[..4]))?;
    let object = server
        .runtime()
        .block_on(server.store().get(&key, None))
        .with_context(|| format!("{digest} was acknowledged"))?;
    let blob = DataBlob::parse(object.value.body.into_bytes())?;
    let digest: Digest = digest.parse()?;
    blob.verify_chunk(&digest, None)
        .with_context(|| format!("{digest} was acknowledged"))
}

/// The daemon works again: a backup, and its restore.
fn after_the_crash(daemon: &Daemon, seed: u64, finished: &mut Vec<Finished>) -> Result<()> {
    let image = daemon.dir().join("crash.image");
    content::write_image(&image, seed, 2)?;
    let source = format!("disk.img:{}", image.display());
    let id = format!("after-{}", finished.len());
    // In the very second of its start a daemon that was killed cannot tell the new snapshot from older ones.
    let made = wait_for(SECOND_TIME_MAX, || {
        let arguments = [
            "backup",
            &source,
            "--backup-id",
            &id,
            "--output-format",
            "json",
        ];
        match daemon.client(STORE, &arguments) {
            Ok(output) if output.stderr.contains("not stopped cleanly") => None,
            other => Some(other),
        }
    });
    let made = made.context("no backup for so long")??.success()?.json()?;
    let snapshot = made["snapshot"].as_str().context("a name")?.to_owned();
    finished.push(Finished { snapshot, seed });
    restore(daemon, finished.last().context("just added")?)
}

fn restore(daemon: &Daemon, one: &Finished) -> Result<()> {
    let (image, back) = (
        daemon.dir().join("crash.image"),
        daemon.dir().join("crash.back"),
    );
    content::write_image(&image, one.seed, 2)?;
    let target = back.display().to_string();
    let arguments = ["restore", &one.snapshot, "disk.img", &target, "--overwrite"];
    daemon.client(STORE, &arguments)?.success()?;
    content::compare_files(&image, &back)
}

/// Collects until the upload markers of the crashed rounds are older than the cutoff and gone.
fn no_marker_lingers(daemon: &Daemon) -> Result<()> {
    let markers = daemon.cache_dir(STORE).join(".holdfast/uploads");
    let gone = wait_for(Duration::from_mins(1), || {
        let collected = daemon.client(STORE, &["gc", "start"]);
        if let Err(error) = collected.and_then(crate::process::Output::success) {
            return Some(Err(error));
        }
        match count(&markers) {
            Ok(0) => Some(Ok(())),
            Ok(_) => None,
            Err(error) => Some(Err(error)),
        }
    });
    gone.context("upload markers of the crashed backups are still there after a minute")?
}

fn count(dir: &Path) -> Result<usize> {
    let entries =
        std::fs::read_dir(dir).with_context(|| format!("cannot read '{}'", dir.display()))?;
    Ok(entries.count())
}

/// Says what the rounds came to.
pub fn say_report(report: &CrashReport) {
    say(&format!(
        "crash loop: {} kills with a PUT open, {} acknowledged digests readable, {} snapshots restored",
        report.kills, report.acknowledged, report.snapshots
    ));
}
