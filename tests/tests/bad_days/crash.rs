//! The daemon is killed with uploads open, and everything that it had promised is looked for. The long version, with a
//! slow S3 server in a process of its own, is `cargo figures kill-loop`.
//!
//! A round: 1. the Python client backs up without end and writes down every digest that is acknowledged and every snapshot
//! that is finished; 2. when a chosen number of chunk uploads has come to the S3 server, the last of them is held there,
//! before or after its effect, so that it is open for certain, and the daemon is killed; 3. the held request goes on;
//! 4. every acknowledged digest is looked for in the bucket and decoded (I1); 5. the daemon starts again, a backup
//! succeeds, and all finished snapshots restore. At the end collections past the cutoff leave no upload marker (I4).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use holdfast_tests::content;
use holdfast_tests::daemon::{COMMAND_TIME_MAX, Daemon};
use holdfast_tests::process::{Guarded, run, say, wait_for};
use holdfast_tests::python::Python;
use holdfast_tests::s3_server::EmbeddedS3;
use pbs_datastore::{DataBlob, Digest};
use s3_client::{Fault, ObjectKey, Op};
use serde_json::Value;

use super::{STORE, set_up};

const ROUNDS: u64 = 3;
/// How long something may take to be seen.
const STEP_TIME_MAX: Duration = Duration::from_mins(1);

/// The Python client with the content of this test.
fn client(daemon: &Daemon, what: &str) -> Result<Command> {
    let url = daemon.url()?;
    let password = format!("--password={}", daemon.password());
    let mut command = Python::get()?.command(&["kill_client.py", what, "--url", &url, &password]);
    command
        .args([
            "--fingerprint",
            daemon.fingerprint(),
            "--user",
            daemon.user(),
        ])
        .args(["--store", STORE, "--group", "kill", "--seed", "7"]);
    Ok(command)
}

/// Digests that a journal calls acknowledged.
fn acknowledged(journal: &Path) -> Result<Vec<Digest>> {
    let text = fs::read_to_string(journal)?;
    let mut digests = Vec::new();
    // The last line may be cut: it was not promised to be whole.
    for line in text
        .split_inclusive('\n')
        .filter(|line| line.ends_with('\n'))
    {
        let entry: Value = serde_json::from_str(line)?;
        if let Some(digest) = entry["acknowledged"].as_str() {
            digests.push(digest.parse()?);
        }
    }
    Ok(digests)
}

/// Looks past the daemon: the object is there and is what it should be.
fn is_readable(server: &EmbeddedS3, digest: &Digest) -> Result<()> {
    let text = digest.to_string();
    let key = ObjectKey::new(format!("{STORE}/.chunks/{}/{text}", &text[..4]))?;
    let object = server.runtime().block_on(server.store().get(&key, None));
    let object = object.with_context(|| format!("{text} was acknowledged"))?;
    let blob = DataBlob::parse(object.value.body.into_bytes())?;
    blob.verify_chunk(digest, None)
        .with_context(|| format!("{text} was acknowledged"))
}

/// Kills the daemon while the chunk upload with this number is held at the S3 server; answers what was acknowledged.
fn kill_in_upload(
    server: &EmbeddedS3,
    daemon: &Daemon,
    round: u64,
    journal: &Path,
) -> Result<Vec<Digest>> {
    let dice = content::noise(round, 2);
    // In later rounds after the end of a backup, which has 90 chunks at most.
    let held = 1 + round * 91 + u64::from(dice[0]) % 80;
    let before = dice[1].is_multiple_of(2);
    let uploads = Fault::on(Op::Put).containing("/.chunks/").nth(held);
    let gate = if before {
        server.plan().stop_before(uploads)
    } else {
        server.plan().stop_after(uploads)
    };
    let first = (round * 1000).to_string();
    let mut command = client(daemon, "run")?;
    command.args(["--first", &first, "--journal"]).arg(journal);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let mut client = Guarded::spawn(&mut command)?;
    let arrived = wait_for(STEP_TIME_MAX, || (gate.arrived() > 0).then_some(()));
    arrived.with_context(|| format!("upload {held} never came to the S3 server"))?;
    daemon.kill();
    let status = client.wait(STEP_TIME_MAX);
    gate.release();
    server.plan().calm();
    ensure!(
        status.is_some_and(|status| status.success()),
        "the client was refused something, or did not notice the kill: {status:?}"
    );
    acknowledged(journal)
}

/// Collects until the upload markers of the killed backups are older than the cutoff and gone.
fn no_marker_lingers(daemon: &Daemon) -> Result<()> {
    let markers = daemon.cache_dir(STORE).join(".holdfast/uploads");
    let gone = wait_for(STEP_TIME_MAX, || {
        let collected = match daemon.client(STORE, &["gc", "start"]) {
            // It waits until late requests cannot matter.
            Ok(output) if output.stderr.contains("last stop was not clean") => return None,
            other => other,
        };
        if let Err(error) = collected.and_then(holdfast_tests::process::Output::success) {
            return Some(Err(error));
        }
        match fs::read_dir(&markers).map(Iterator::count) {
            Ok(0) => Some(Ok(())),
            Ok(_) => None,
            Err(error) => Some(Err(error.into())),
        }
    });
    gone.context("upload markers of the killed backups are still there")?
}

#[test]
fn what_was_acknowledged_survives_a_kill() -> Result<()> {
    let (server, daemon) = set_up()?;
    daemon.start()?;
    daemon.explain(|| {
        let mut journals: Vec<PathBuf> = Vec::new();
        let mut promised = 0;
        for round in 0..ROUNDS {
            let journal = daemon.dir().join(format!("journal-{round}"));
            let digests = kill_in_upload(&server, &daemon, round, &journal)?;
            digests.iter().try_for_each(|digest| is_readable(&server, digest))?;
            promised += digests.len();
            journals.push(journal);
            daemon.start()?;
            let number = (round * 1000 + 500).to_string();
            let mut backup = client(&daemon, "backup")?;
            run(backup.args(["--number", &number]), b"", COMMAND_TIME_MAX)?.success()?;
            let mut verify = client(&daemon, "verify")?;
            run(verify.arg("--journal").args(&journals), b"", COMMAND_TIME_MAX)?.success()?;
        }
        no_marker_lingers(&daemon)?;
        let mut verify = client(&daemon, "verify")?;
        let verified = run(verify.arg("--journal").args(&journals), b"", COMMAND_TIME_MAX)?.success()?;
        let restored = verified.json()?["restored"].as_u64().unwrap_or(0);
        say(&format!(
            "{ROUNDS} kills with a PUT open: {promised} acknowledged digests readable, {restored} finished snapshots restored"
        ));
        ensure!(promised > 0 && restored > 0, "nothing was promised");
        Ok(())
    });
    daemon.stop()
}
