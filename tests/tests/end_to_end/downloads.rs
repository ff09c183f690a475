//! Files of a snapshot over REST: by command and by an HTTP client that knows nothing else, from a bucket and from a directory;
//! many at once, slow ones, damaged ones, and one that a stop cuts off.

use std::fs;
use std::io::{BufRead as _, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use holdfast_tests::account::authorization;
use holdfast_tests::content::{self, compare_files};
use holdfast_tests::daemon::Daemon;
use holdfast_tests::measure::usage::Memory;
use holdfast_tests::process::wait_for;
use holdfast_tests::s3_server::{EmbeddedS3, S3Server as _};

const TIME: &str = "1700000000";
/// Downloads at once.
const CROWD: usize = 64;
/// The smallest memory that can be configured.
const BUDGET_BYTES: u64 = 64 << 20;
/// What the process needs beside it: connections, buffers, threads that unpack, the allocator.
const BESIDE_BUDGET_BYTES: u64 = 192 << 20;
/// What a reader sees of a connection that is ended in the middle.
const CUT_OFF: [ErrorKind; 2] = [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset];
/// How long a change may take to be seen.
const SEEN_MAX: Duration = Duration::from_secs(30);

/// Backs up an image of so many chunks; answers where it is.
fn back_up(daemon: &Daemon, chunks: u64, more: &[&str]) -> Result<PathBuf> {
    let (image, conf) = (daemon.dir().join("image"), daemon.dir().join("conf"));
    content::write_image(&image, 5, chunks)?;
    fs::write(&conf, "cores: 2\n".repeat(500))?;
    let sources = [
        format!("disk.img:{}", image.display()),
        format!("guest.conf:{}", conf.display()),
    ];
    let sources: Vec<&str> = sources.iter().map(String::as_str).collect();
    let named = ["--backup-id", "box", "--backup-time", TIME];
    let arguments = [&["backup"], &sources[..], &named, more].concat();
    daemon.client("store", &arguments)?.success()?;
    Ok(image)
}

/// The header of an account that may read.
fn reader(daemon: &Daemon) -> Result<String> {
    let token = "reader@pbs!web";
    let user = ["user", "add", "reader@pbs"];
    let added = daemon.manage_with(&user, "a password of the tests\n")?;
    added.success()?;
    let secret = daemon.add_token(token)?;
    for who in ["reader@pbs", token] {
        daemon.grant("/datastore/store", who, "DatastoreReader")?;
    }
    Ok(format!("Authorization: {}", authorization(token, &secret)))
}

fn path(call: &str, file: &str) -> String {
    format!(
        "/api2/json/admin/datastore/store/{call}?backup-type=host&backup-id=box&backup-time={TIME}&file-name={file}"
    )
}

/// How many read.
fn readers(daemon: &Daemon) -> Result<usize> {
    let list = daemon.manage(&["session", "list", "store", "--output-format", "json"])?;
    let list = list.success()?.json()?;
    Ok(list.as_array().map_or(0, Vec::len))
}

fn wait_for_readers(daemon: &Daemon, count: usize) -> Result<()> {
    let seen = wait_for(SEEN_MAX, || {
        readers(daemon).ok().filter(|seen| *seen == count)
    });
    seen.with_context(|| format!("there are never {count} readers"))?;
    Ok(())
}

/// Everything the commands do with the snapshot of this image.
fn commands(daemon: &Daemon, image: &Path) -> Result<()> {
    let place = tempfile::TempDir::new_in(daemon.dir())?;
    let target = place.path().join("disk.img");
    let text = target.display().to_string();
    let decoded = [
        "snapshot",
        "download",
        "--decoded",
        "host/box",
        "disk.img.fidx",
    ];
    daemon
        .client("store", &[&decoded[..], &[&text]].concat())?
        .success()?;
    compare_files(image, &target)?;
    let again = daemon.client("store", &[&decoded[..], &[&text]].concat())?;
    let again = again.expect_code(1)?.to_string();
    ensure!(again.contains("--overwrite"), "{again}");
    daemon
        .client("store", &[&decoded[..], &[&text, "--overwrite"]].concat())?
        .success()?;
    let to_stdout = ["--decoded", "host/box", "guest.conf.blob", "-"];
    let conf = daemon.client(
        "store",
        &[&["snapshot", "download"], &to_stdout[..]].concat(),
    )?;
    ensure!(conf.success()?.text() == "cores: 2\n".repeat(500));
    let files = daemon.client_json("store", &["snapshot", "files", "host/box"])?;
    for file in files.as_array().context("a list")? {
        let name = file["filename"].as_str().context("a name")?;
        let target = place.path().join(name);
        let text = target.display().to_string();
        let stored = ["snapshot", "download", "host/box", name, &text];
        daemon.client("store", &stored)?.success()?;
        ensure!(fs::metadata(&target)?.len() > 0, "{name}");
    }
    let missing = ["snapshot", "download", "host/box", "client.log.blob", "-"];
    let missing = daemon
        .client("store", &missing)?
        .expect_code(1)?
        .to_string();
    ensure!(missing.contains("does not exist"), "{missing}");
    for command in [
        &["catalog", "list", "host/box"][..],
        &["catalog", "dump", "host/box"],
    ] {
        let none = daemon.client("store", command)?.expect_code(1)?.to_string();
        ensure!(none.contains("catalog"), "{none}");
    }
    Ok(())
}

#[test]
fn files_come_out_of_a_bucket_and_of_a_directory() -> Result<()> {
    let server = EmbeddedS3::start()?;
    let daemon = Daemon::set_up(&[])?;
    daemon.add_s3("embedded", &server.access(), &[])?;
    daemon.add_s3_store("embedded", "store", &[])?;
    daemon.start()?;
    let image = back_up(&daemon, 6, &[])?;
    daemon.stop()?;
    // What is read comes from the bucket.
    fs::remove_dir_all(daemon.cache_dir("store"))?;
    daemon.start()?;
    daemon.explain(|| commands(&daemon, &image));
    daemon.stop()?;
    let daemon = Daemon::set_up(&[])?;
    daemon.add_directory_store("store", &[])?;
    daemon.start()?;
    let image = back_up(&daemon, 6, &[])?;
    daemon.explain(|| commands(&daemon, &image));
    daemon.stop()
}

/// The file of the chunk that is in the middle of the image.
fn a_chunk_of(daemon: &Daemon, image: &Path) -> Result<PathBuf> {
    const CHUNK_BYTES: usize = 4 << 20;
    let image = fs::read(image)?;
    let middle = image.chunks(CHUNK_BYTES).nth(2).context("long enough")?;
    let digest = {
        use sha2::Digest as _;
        hex::encode(sha2::Sha256::digest(middle))
    };
    let chunks = daemon.store_dir("store").join(".chunks");
    Ok(chunks.join(&digest[..4]).join(digest))
}

#[test]
fn a_damaged_chunk_never_ends_a_file() -> Result<()> {
    let daemon = Daemon::set_up(&[])?;
    daemon.add_directory_store("store", &[])?;
    daemon.start()?;
    daemon.explain(|| {
        let image = back_up(&daemon, 6, &[])?;
        let header = reader(&daemon)?;
        fs::write(a_chunk_of(&daemon, &image)?, b"nothing that was there")?;
        let place = tempfile::TempDir::new_in(daemon.dir())?;
        let target = place.path().join("disk.img").display().to_string();
        let download = ["--decoded", "host/box", "disk.img.fidx", &target];
        let refused = daemon.client(
            "store",
            &[&["snapshot", "download"], &download[..]].concat(),
        );
        refused?.expect_code(1)?;
        ensure!(
            fs::read_dir(place.path())?.next().is_none(),
            "something is left of it"
        );
        let answer = daemon.open_with(&path("download-decoded", "disk.img.fidx"), &[&header])?;
        ensure!(!is_whole(answer, &fs::read(&image)?)?, "it looks whole");
        wait_for_readers(&daemon, 0)?;
        let log = daemon.log();
        ensure!(log.contains("download broken off"), "nobody is told");
        Ok(())
    });
    daemon.stop()
}

#[test]
fn what_is_encrypted_stays_so() -> Result<()> {
    let daemon = Daemon::set_up(&[])?;
    daemon.add_directory_store("store", &[])?;
    daemon.start()?;
    daemon.explain(|| {
        let key = daemon.dir().join("key.json").display().to_string();
        daemon
            .client("store", &["key", "create", &key])?
            .success()?;
        back_up(&daemon, 2, &["--keyfile", &key])?;
        for name in ["disk.img.fidx", "guest.conf.blob"] {
            let decoded = ["snapshot", "download", "--decoded", "host/box", name, "-"];
            let refused = daemon
                .client("store", &decoded)?
                .expect_code(1)?
                .to_string();
            ensure!(refused.contains("is encrypted"), "{refused}");
            let stored = ["snapshot", "download", "host/box", name, "-"];
            daemon.client("store", &stored)?.success()?;
        }
        Ok(())
    });
    daemon.stop()
}

/// Reads an answer to its end, holding little of it; whether all of a file of this content was in it.
fn is_whole(answer: impl Read, content: &[u8]) -> Result<bool> {
    let mut answer = BufReader::new(answer);
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        answer.read_line(&mut line)?;
        ensure!(
            !line.starts_with("HTTP/") || line.contains(" 200 "),
            "{line}"
        );
        ensure!(!line.is_empty(), "the head has no end");
    }
    let mut left = content;
    let mut piece = vec![0; 64 << 10];
    loop {
        let bytes = match answer.read(&mut piece) {
            Ok(0) => return Ok(left.is_empty()),
            Ok(bytes) => bytes,
            Err(error) if CUT_OFF.contains(&error.kind()) => return Ok(left.is_empty()),
            Err(error) => return Err(error.into()),
        };
        ensure!(left.starts_with(&piece[..bytes]), "other content");
        left = &left[bytes..];
    }
}

fn crowd(daemon: &Daemon) -> Result<()> {
    let image = back_up(daemon, 5, &[])?;
    let content = fs::read(&image)?;
    let header = reader(daemon)?;
    let call = path("download-decoded", "disk.img.fidx");
    let begin = || daemon.open_with(&call, &[&header]);
    let answers: Vec<_> = (0..CROWD).map(|_| begin()).collect::<Result<_>>()?;
    // None of them is taken: the sockets are full long before the image is through.
    wait_for_readers(daemon, CROWD)?;
    let removed = daemon.client(
        "store",
        &["snapshot", "forget", "host/box/2023-11-14T22:13:20Z"],
    )?;
    let removed = removed.expect_code(1)?.to_string();
    ensure!(removed.contains("is in use"), "{removed}");
    let taken = std::thread::scope(|scope| {
        let taking: Vec<_> = answers
            .into_iter()
            .map(|answer| scope.spawn(|| is_whole(answer, &content)))
            .collect();
        let taken = taking.into_iter().map(|one| one.join().ok());
        taken.collect::<Option<Result<Vec<bool>>>>()
    });
    let taken = taken.context("a reader panicked")??;
    ensure!(taken.iter().all(|whole| *whole), "some are not whole");
    wait_for_readers(daemon, 0)?;
    let peak = Memory::of(daemon.pid().context("it runs")?)?.peak;
    ensure!(
        peak <= BUDGET_BYTES + BESIDE_BUDGET_BYTES,
        "{} MiB were resident",
        peak >> 20
    );
    // One that is never taken: the stop cuts it off, and is a clean one.
    let left = begin()?;
    wait_for_readers(daemon, 1)?;
    daemon.stop()?;
    ensure!(!is_whole(left, &content)?, "it cannot be whole");
    let log = daemon.log();
    ensure!(log.contains("the daemon stops"), "the log does not say why");
    daemon.start()?;
    let forget = ["snapshot", "forget", "host/box/2023-11-14T22:13:20Z"];
    daemon.client("store", &forget)?.success()?;
    Ok(())
}

#[test]
fn many_slow_receivers_share_the_memory_and_a_stop_ends_them() -> Result<()> {
    let daemon = Daemon::set_up(&["memory-budget-bytes = \"64 MiB\"", "shutdown-seconds = 4"])?;
    daemon.add_directory_store("store", &[])?;
    daemon.start()?;
    daemon.explain(|| crowd(&daemon));
    daemon.stop()
}
