//! What an administrator lives with: a full datastore, new keys for a bucket, and being told.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use holdfast_tests::content;
use holdfast_tests::daemon::Daemon;
use holdfast_tests::process::{Output, wait_for};
use holdfast_tests::s3_server::{EmbeddedS3, S3Server as _, Since};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// How long a message may take.
const POST_TIME_MAX: Duration = Duration::from_secs(30);

fn manage(daemon: &Daemon, arguments: &[&str]) -> Result<String> {
    Ok(daemon.manage(arguments)?.success()?.text())
}

/// A backup of `bytes` bytes that nobody has seen before.
fn back_up(daemon: &Daemon, seed: u64, bytes: usize) -> Result<Output> {
    let dir = tempfile::TempDir::new_in(daemon.dir())?;
    std::fs::write(dir.path().join("file"), content::noise(seed, bytes))?;
    let archive = format!("root.tar:{}", dir.path().display());
    let time = (1_700_000_000 + seed * 3600).to_string();
    let arguments = [
        "backup",
        &archive,
        "--backup-id",
        "box",
        "--backup-time",
        &time,
    ];
    daemon.client("store", &arguments)
}

fn status(daemon: &Daemon) -> Result<Value> {
    daemon.client_json("store", &["status"])
}

fn a_full_datastore(daemon: &Daemon) -> Result<()> {
    back_up(daemon, 1, 3 << 20)?.success()?;
    let usage = status(daemon)?["usage"].clone();
    let stored = usage["stored"].as_u64().context("a number")?;
    ensure!((3 << 20..4 << 20).contains(&stored), "{usage}");
    manage(
        daemon,
        &["datastore", "update", "store", "--quota", "2 MiB"],
    )?;
    let full = status(daemon)?;
    ensure!(full["total"] == 2 << 20 && full["avail"] == 0, "{full}");
    let refused = back_up(daemon, 2, 1000)?.expect_code(1)?;
    ensure!(refused.to_string().contains("is full"), "{refused}");
    manage(
        daemon,
        &["datastore", "update", "store", "--quota", "8 MiB"],
    )?;
    back_up(daemon, 2, 1000)?.success()?;
    manage(
        daemon,
        &["datastore", "update", "store", "--delete", "quota"],
    )?;
    ensure!(status(daemon)?["usage"]["quota"].is_null());
    // What is stored is known after a restart, too.
    let before = status(daemon)?["usage"].clone();
    daemon.stop()?;
    daemon.start()?;
    ensure!(status(daemon)?["usage"] == before);
    Ok(())
}

#[test]
fn a_full_datastore_takes_no_backup() -> Result<()> {
    let server = EmbeddedS3::start()?;
    let daemon = Daemon::set_up(&[])?;
    daemon.add_s3("embedded", &server.access(), &[])?;
    daemon.add_s3_store("embedded", "store", &[])?;
    daemon.start()?;
    daemon.explain(|| a_full_datastore(&daemon));
    daemon.stop()
}

#[test]
fn keys_of_a_bucket_are_changed_while_the_daemon_runs() -> Result<()> {
    let server = EmbeddedS3::start()?;
    let daemon = Daemon::set_up(&[])?;
    daemon.add_s3("embedded", &server.access(), &[])?;
    daemon.add_s3_store("embedded", "store", &[])?;
    daemon.start()?;
    daemon.explain(|| {
        back_up(&daemon, 1, 1000)?.success()?;
        let access = server.access();
        let update = ["s3", "update", "embedded", "--access-key"];
        let right = [&update[..], &[&access.access_key]].concat();
        daemon.manage_with(&right, &access.secret_key)?.success()?;
        let wrong = [&update[..], &["nobody"]].concat();
        let refused = daemon.manage_with(&wrong, "wrong")?.expect_code(1)?;
        let text = refused.to_string();
        ensure!(text.contains("the settings were changed"), "{text}");
        ensure!(!text.contains("another process"), "{text}");
        daemon.manage_with(&right, &access.secret_key)?.success()?;
        back_up(&daemon, 2, 1000)?.success()?;
        let bad = daemon.manage(&["s3", "update", "embedded", "--delete", "endpoint"])?;
        ensure!(
            bad.expect_code(1)?
                .to_string()
                .contains("no setting that can be taken away")
        );
        Ok(())
    });
    daemon.stop()
}

/// The number before `what` in the line of a task's log that begins, after its time, with `begin`.
fn told(log: &str, begin: &str, what: &str) -> Result<usize> {
    let line = log.lines().find(|line| line.contains(begin));
    let line = line.with_context(|| format!("no '{begin}' in {log}"))?;
    let before = line.split(what).next().context("the number")?;
    let number = before.split_whitespace().next_back().context("a number")?;
    number.parse().with_context(|| line.to_owned())
}

fn priced_tasks(daemon: &Daemon, server: &EmbeddedS3) -> Result<()> {
    back_up(daemon, 1, 5 << 20)?.success()?;
    manage(
        daemon,
        &[
            "s3",
            "update",
            "embedded",
            "--price-currency",
            "EUR",
            "--price-reads",
            "1000000",
            "--price-gib-month",
            "1024",
        ],
    )?;
    let begin = "to be asked of the bucket of 'store'";
    let client = |arguments: &[&str]| -> Result<String> {
        Ok(daemon.client("store", arguments)?.success()?.text())
    };
    let since = Since::now(server)?;
    let estimate = client(&["verify", "--all", "--estimate"])?;
    let seen = since.seen()?;
    let asked = seen.of("GetObject") + seen.of("ListObjectsV2");
    ensure!(asked == 0, "an estimate costs nothing");
    let most = told(&estimate, begin, " that read")?;

    let verified = client(&["verify", "--all"])?;
    let seen = since.seen()?;
    let read = seen.of("GetObject") + seen.of("HeadObject");
    ensure!(read > 0, "{:?}", seen.by_operation());
    ensure!(read <= most, "{estimate}: {:?}", seen.by_operation());
    ensure!(told(&verified, "asked of the bucket of 'store': ", " that read")? == read);
    // A read costs one.
    ensure!(verified.contains(&format!("; {read}.00 EUR")), "{verified}");

    let estimate = client(&["gc", "start", "--estimate"])?;
    ensure!(
        told(&estimate, begin, " requests that store or list")? > 0,
        "{estimate}"
    );
    ensure!(!estimate.contains("marked"), "{estimate}");
    let cost = &status(daemon)?["cost"];
    ensure!(cost["currency"] == "EUR", "{cost}");
    let month = cost["storage-month"].as_str().context("a price")?;
    ensure!(month.starts_with("5."), "{cost}");
    let bad = daemon.manage(&["s3", "update", "embedded", "--price-reads", "cheap"])?;
    ensure!(bad.expect_code(1)?.to_string().contains("is no price"));
    Ok(())
}

#[test]
fn tasks_say_what_they_will_ask_for_and_what_they_did() -> Result<()> {
    let server = EmbeddedS3::start()?;
    let daemon = Daemon::set_up(&[])?;
    daemon.add_s3("embedded", &server.access(), &[])?;
    daemon.add_s3_store("embedded", "store", &[])?;
    daemon.start()?;
    daemon.explain(|| priced_tasks(&daemon, &server));
    daemon.stop()
}

/// Answers one POST; what was posted.
fn one_post(listener: TcpListener) -> JoinHandle<Result<String>> {
    std::thread::spawn(move || {
        listener.set_nonblocking(true)?;
        let accepted = wait_for(POST_TIME_MAX, || listener.accept().ok());
        let (stream, _) = accepted.context("nothing was posted in time")?;
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(POST_TIME_MAX))?;
        let mut reader = BufReader::new(stream);
        let mut length = 0;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let line = line.trim().to_ascii_lowercase();
            if let Some(bytes) = line.strip_prefix("content-length:") {
                length = bytes.trim().parse()?;
            }
            if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let mut stream = reader.into_inner();
        stream.write_all(b"HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n")?;
        Ok(String::from_utf8(body)?)
    })
}

#[test]
fn a_job_that_fails_is_told_of() -> Result<()> {
    let daemon = Daemon::set_up(&[])?;
    daemon.add_directory_store("store", &[])?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}/hook", listener.local_addr()?);
    // Before the daemon runs, too.
    manage(&daemon, &["notify", "add", "hook", "--url", &url])?;
    daemon.start()?;
    daemon.explain(|| {
        back_up(&daemon, 1, 1000)?.success()?;
        for file in walkdir::WalkDir::new(daemon.store_dir("store").join(".chunks")) {
            let file = file?;
            if file.file_type().is_file() {
                std::fs::remove_file(file.path())?;
            }
        }
        let posted = one_post(listener);
        daemon
            .client("store", &["verify", "--quick"])?
            .expect_code(1)?;
        let posted = posted.join().map_err(|_| anyhow::anyhow!("a panic"))??;
        let posted: Value = serde_json::from_str(&posted)?;
        ensure!(posted["title"] == "Verification store failed", "{posted}");
        let status = &posted["task"]["status"];
        ensure!(
            status.as_str().is_some_and(|s| s.contains("failed")),
            "{posted}"
        );
        Ok(())
    });
    daemon.stop()
}

/// Tells the daemon to look at its files anew, and waits until its log says what came of that.
fn reload(daemon: &Daemon, said: &str) -> Result<()> {
    let pid = i32::try_from(daemon.pid().context("it runs")?)?;
    daemon.take_log();
    kill(Pid::from_raw(pid), Signal::SIGHUP)?;
    let seen = || daemon.log().contains(said).then_some(());
    wait_for(Duration::from_secs(30), seen).with_context(|| format!("no '{said}'"))
}

#[test]
fn a_certificate_is_changed_while_the_daemon_runs() -> Result<()> {
    const FILES: [&str; 2] = ["tls-certificate.pem", "tls-key.pem"];
    let (daemon, other) = (Daemon::set_up(&[])?, Daemon::set_up(&[])?);
    daemon.add_directory_store("store", &[])?;
    daemon.start()?;
    daemon.explain(|| {
        let state = |of: &Daemon| of.config().parent().map(ToOwned::to_owned);
        let (ours, theirs) = (
            state(&daemon).context("a place")?,
            state(&other).context("a place")?,
        );
        status(&daemon)?;
        let first: Vec<Vec<u8>> = FILES
            .iter()
            .map(|name| std::fs::read(ours.join(name)))
            .collect::<Result<_, _>>()?;
        for name in FILES {
            std::fs::copy(theirs.join(name), ours.join(name))?;
        }
        reload(&daemon, other.fingerprint())?;
        let refused = daemon.client("store", &["status"])?.expect_code(1)?;
        ensure!(
            refused.to_string().contains(other.fingerprint()),
            "{refused}"
        );
        // A key that belongs to another certificate changes nothing.
        std::fs::write(ours.join(FILES[0]), &first[0])?;
        reload(&daemon, "the certificate from before stays in use")?;
        daemon.client("store", &["status"])?.expect_code(1)?;
        std::fs::write(ours.join(FILES[1]), &first[1])?;
        reload(&daemon, daemon.fingerprint())?;
        status(&daemon).map(drop)
    });
    daemon.stop()
}
