//! Sync of real daemons: pulled from another, between two datastores of one, pushed to another; over lines that break, and over
//! daemons that are killed. What comes of it is compared file by file with what is at the source.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use holdfast_tests::content;
use holdfast_tests::daemon::Daemon;
use holdfast_tests::process::wait_for;
use holdfast_tests::s3_server::{
    BUCKET, Behind, EmbeddedS3, Requests, S3Server as _, Since, in_real_time,
};
use holdfast_tests::wire::Wire;
use s3_client::ModelStore;
use s3_client::serve::ServeOptions;
use serde_json::Value;

const SOURCE: &str = "alpha";
/// How long a start by the schedule may take.
const BY_ITSELF_MAX: Duration = Duration::from_mins(1);

/// A daemon with a datastore that has snapshots of each kind: of a directory, of an image, encrypted, in a namespace, with notes and a log.
fn filled() -> Result<Daemon> {
    let daemon = Daemon::set_up(&[])?;
    daemon.add_directory_store(SOURCE, &[])?;
    daemon.start()?;
    let dir = daemon.dir();
    let (tree, image) = (dir.join("tree"), dir.join("image"));
    content::write_tree(&tree, 5, 80)?;
    content::write_image(&image, 9, 5)?;
    let key = dir.join("key.json").display().to_string();
    daemon.client(SOURCE, &["key", "create", &key])?.success()?;
    daemon
        .client(SOURCE, &["namespace", "create", "team"])?
        .success()?;
    let tree_from = format!("root.tar:{}", tree.display());
    let image_from = format!("disk.img:{}", image.display());
    let hour = |hour: u32| (1_700_000_000 + hour * 3600).to_string();
    for at in 0..3 {
        fs::write(tree.join("changed"), content::noise(u64::from(at), 300_000))?;
        content::change_image(&image, u64::from(at) + 40, 1)?;
        let (at, next) = (hour(at), hour(at + 10));
        for arguments in [
            vec!["--backup-id", "box", "--backup-time", &at],
            vec!["--backup-id", "box", "--backup-time", &at, "--ns", "team"],
            vec![
                "--backup-id",
                "safe",
                "--backup-time",
                &next,
                "--keyfile",
                &key,
            ],
        ] {
            let both = ["backup", &tree_from, &image_from];
            daemon.client_json(SOURCE, &[&both[..], &arguments[..]].concat())?;
        }
    }
    let log = dir.join("backup.log");
    fs::write(&log, "all is well\n")?;
    let (snapshot, log) = ("host/box/2023-11-14T22:13:20Z", log.display().to_string());
    let add = ["snapshot", "upload-log", snapshot, &log];
    daemon.client(SOURCE, &add)?.success()?;
    let notes = ["snapshot", "notes", snapshot, "the first one"];
    daemon.client(SOURCE, &notes)?.success()?;
    Ok(daemon)
}

fn manage(daemon: &Daemon, arguments: &[&str]) -> Result<String> {
    Ok(daemon.manage(arguments)?.success()?.text())
}

/// Tells `daemon` how `other` is reached, which is at `address`.
fn add_remote(daemon: &Daemon, other: &Daemon, name: &str, address: SocketAddr) -> Result<()> {
    let (host, port) = (address.ip().to_string(), address.port().to_string());
    let arguments = [
        "remote",
        "add",
        name,
        "--host",
        &host,
        "--port",
        &port,
        "--auth-id",
        other.user(),
        "--fingerprint",
        other.fingerprint(),
    ];
    daemon
        .manage_with(&arguments, &format!("{}\n", other.password()))?
        .success()?;
    Ok(())
}

/// How a snapshot came where it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Every file is the same.
    Pulled,
    /// The server has written indexes and manifest anew: only what the indexes name is the same.
    Pushed,
}

/// Bytes before the entries of an index: when it was made, and a name of its own.
const INDEX_HEADER_BYTES: usize = 4096;

/// Every file of every snapshot below the folder of a directory datastore, or of a cache.
fn files(contents: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut open = vec![contents.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            let (name, path) = (
                entry.file_name().to_string_lossy().into_owned(),
                entry.path(),
            );
            if name.starts_with('.') || name == "owner" {
                continue;
            }
            if path.is_dir() {
                open.push(path);
            } else {
                let place = path.strip_prefix(contents)?.display().to_string();
                found.insert(place, fs::read(&path)?);
            }
        }
    }
    Ok(found)
}

/// Fails unless both have the same files.
fn compare(from: &Path, into: &Path, way: Way) -> Result<()> {
    let (from, into) = (files(from)?, files(into)?);
    let only = |one: &BTreeMap<_, _>, other: &BTreeMap<_, _>| {
        let names = one.keys().filter(|name| !other.contains_key(*name));
        names.cloned().collect::<Vec<String>>()
    };
    let (missing, more) = (only(&from, &into), only(&into, &from));
    ensure!(
        missing.is_empty() && more.is_empty(),
        "missing {missing:?}, more {more:?}"
    );
    for (name, content) in &from {
        let copy = &into[name];
        let same = match way {
            Way::Pushed if name.ends_with("index.json.blob") => true,
            Way::Pushed if name.ends_with("idx") => {
                copy[INDEX_HEADER_BYTES..] == content[INDEX_HEADER_BYTES..]
            }
            _ => copy == content,
        };
        ensure!(same, "{name} differs");
    }
    Ok(())
}

fn verified(daemon: &Daemon, store: &str) -> Result<()> {
    let text = daemon
        .client(store, &["verify", "--all"])?
        .success()?
        .text();
    ensure!(text.contains("good: 9, failed: 0"), "{text}");
    Ok(())
}

/// The row of a sync job.
fn job(daemon: &Daemon, id: &str) -> Result<Value> {
    let list = daemon.manage(&["sync-job", "list", "--output-format", "json"])?;
    let list = list.success()?.json()?;
    let rows = list.as_array().context("a list")?;
    let row = rows.iter().find(|row| row["id"] == id);
    row.cloned().with_context(|| format!("'{id}' in {list}"))
}

#[test]
fn snapshots_go_from_daemon_to_daemon_and_back() {
    let source = filled().expect("a datastore with snapshots");
    source.explain(|| {
        let server = EmbeddedS3::start()?;
        let target = Daemon::set_up(&[])?;
        target.add_s3("main", &server.access(), &[])?;
        target.add_directory_store("beta", &[])?;
        target.add_s3_store("main", "gamma", &[])?;
        target.start()?;
        add_remote(&target, &source, "office", source.address()?)?;
        target.explain(|| {
            scanned(&target)?;
            pulled(&source, &target)?;
            between_two_of_one(&target)?;
            pushed(&source, &target)
        });
        Ok(())
    });
}

/// The bytes of chunks that a server has sent, below a prefix.
fn sent_of(seen: &Requests, prefix: &str) -> u64 {
    let chunks = format!("{prefix}/.chunks/");
    let of_chunks = seen.0.iter().filter(|one| one.key.starts_with(&chunks));
    of_chunks.map(|one| one.bytes_out).sum()
}

#[test]
fn chunks_between_buckets_of_one_server_stay_there() {
    const SECOND: &str = "second";
    let mut options = ServeOptions::new(BUCKET);
    let second = Arc::new(ModelStore::new(in_real_time()));
    options.neighbours.insert(SECOND.to_owned(), second);
    let server = EmbeddedS3::start_with(Behind::Memory(in_real_time()), options);
    let server = server.expect("a server with two buckets");
    let daemon = Daemon::set_up(&[]).expect("a daemon");
    daemon.explain(|| {
        daemon.add_s3("main", &server.access(), &[])?;
        daemon.add_s3_store("main", "alpha", &[])?;
        let cache = daemon.cache_dir("beta").display().to_string();
        let create = ["datastore", "create", "beta", "--s3", "main"];
        let place = ["--bucket", SECOND, "--cache-dir", &cache];
        let bound = ["--cache-bytes-max", "1GiB"];
        manage(&daemon, &[&create[..], &place, &bound].concat())?;
        daemon.start()?;
        let image = daemon.dir().join("image");
        content::write_image(&image, 9, 5)?;
        let archive = format!("disk.img:{}", image.display());
        let since = Since::now(&server)?;
        let backup = ["backup", &archive, "--backup-id", "box"];
        daemon.client("alpha", &backup)?.success()?;
        let chunks = since.seen()?.count("PutObject", "alpha/.chunks/");
        ensure!(chunks > 2, "{chunks} chunks");

        let since = Since::now(&server)?;
        let pull = ["pull", "--store", "beta", "--remote-store", "alpha"];
        let log = manage(&daemon, &pull)?;
        let told = format!("{chunks} were copied by the S3 server");
        ensure!(log.contains(&told), "{log}");
        let seen = since.seen()?;
        let copies = seen.count("CopyObject", "beta/.chunks/");
        let puts = seen.count("PutObject", "beta/.chunks/");
        ensure!((copies, puts) == (chunks, 0), "{:?}", seen.by_operation());
        // Of each chunk the first bytes were looked at.
        let (looks, bytes) = (
            seen.count("GetObject", "alpha/.chunks/"),
            sent_of(&seen, "alpha"),
        );
        ensure!(
            looks == chunks && bytes == 8 * chunks as u64,
            "{bytes} bytes of {looks}"
        );

        daemon.client("beta", &["verify", "--all"])?.success()?;
        let back = daemon.dir().join("back");
        let text = back.display().to_string();
        daemon
            .client("beta", &["restore", "host/box", "disk.img", &text])?
            .success()?;
        content::compare_files(&image, &back)
    });
}

fn scanned(target: &Daemon) -> Result<()> {
    let stores = manage(target, &["remote", "scan", "office"])?;
    ensure!(stores.contains(SOURCE), "{stores}");
    let groups = manage(target, &["remote", "scan", "office", SOURCE])?;
    ensure!(
        groups.contains("host/box") && groups.contains("host/safe"),
        "{groups}"
    );
    let namespaces = ["remote", "scan", "office", SOURCE, "--namespaces"];
    let namespaces = manage(target, &namespaces)?;
    ensure!(namespaces.contains("team"), "{namespaces}");
    let shown = manage(target, &["remote", "show", "office"])?;
    ensure!(
        !shown.contains("password") && !shown.contains("secret"),
        "{shown}"
    );
    Ok(())
}

fn pulled(source: &Daemon, target: &Daemon) -> Result<()> {
    let create = [
        "sync-job",
        "create",
        "nightly",
        "--store",
        "beta",
        "--remote",
        "office",
        "--remote-store",
        SOURCE,
        "--worker-threads",
        "3",
        "--owner",
        target.user(),
    ];
    manage(target, &create)?;
    let used = target
        .manage(&["remote", "remove", "office"])?
        .expect_code(1)?;
    ensure!(used.to_string().contains("nightly"), "{used}");
    let log = manage(target, &["sync-job", "run", "nightly"])?;
    ensure!(log.contains("snapshots copied: 9"), "{log}");
    let (from, into) = (source.store_dir(SOURCE), target.store_dir("beta"));
    compare(&from, &into, Way::Pulled)?;
    verified(target, "beta")?;
    // Verification has changed the manifests here and not there, and is not undone.
    let log = manage(target, &["sync-job", "run", "nightly"])?;
    ensure!(
        log.contains("snapshots copied: 0, refreshed: 0, mended: 0; chunks brought: 0"),
        "{log}"
    );
    let wrong = ["sync-job", "update", "nightly", "--group-filter", "regex:("];
    let wrong = target.manage(&wrong)?.expect_code(1)?;
    ensure!(wrong.to_string().contains("group-filter"), "{wrong}");
    // And by itself.
    manage(
        target,
        &["sync-job", "update", "nightly", "--schedule", "*:*:*"],
    )?;
    let before = job(target, "nightly")?["last-run-upid"].clone();
    let ran = || {
        let row = job(target, "nightly").ok()?;
        (row["last-run-upid"] != before && row["last-run-state"] == "OK").then_some(())
    };
    wait_for(BY_ITSELF_MAX, ran).context("the job runs by itself")?;
    manage(target, &["sync-job", "remove", "nightly"])?;
    Ok(())
}

fn between_two_of_one(target: &Daemon) -> Result<()> {
    let pull = ["pull", "--store", "gamma", "--remote-store", "beta"];
    let log = manage(target, &pull)?;
    ensure!(log.contains("snapshots copied: 9"), "{log}");
    let cache = target.cache_dir("gamma").join(".cnt");
    compare(&target.store_dir("beta"), &cache, Way::Pulled)?;
    verified(target, "gamma")?;
    let into_itself = [
        "pull",
        "--store",
        "gamma",
        "--remote-store",
        "gamma",
        "--ns",
        "team",
    ];
    let refused = target.manage(&into_itself)?.expect_code(1)?;
    ensure!(refused.to_string().contains("into itself"), "{refused}");
    Ok(())
}

fn pushed(source: &Daemon, target: &Daemon) -> Result<()> {
    source.add_directory_store("back", &[])?;
    let push = |store, more: &[&str]| {
        let to = ["--remote", "office", "--remote-store", "back"];
        let push = ["push", "--store", store];
        manage(target, &[&push[..], &to[..], more].concat())
    };
    let log = push("gamma", &["--worker-threads", "2"])?;
    ensure!(log.contains("snapshots copied: 9"), "{log}");
    let (from, into) = (source.store_dir(SOURCE), source.store_dir("back"));
    compare(&from, &into, Way::Pushed)?;
    verified(source, "back")?;
    let log = push("gamma", &[])?;
    ensure!(log.contains("snapshots copied: 0"), "{log}");
    // What is gone here goes there, if that is asked for.
    let first = "host/box/2023-11-14T22:13:20Z";
    target
        .client("gamma", &["snapshot", "forget", first])?
        .success()?;
    target
        .client("gamma", &["group", "forget", "host/safe"])?
        .success()?;
    target
        .client("gamma", &["namespace", "delete", "team", "--delete-groups"])?
        .success()?;
    let log = push("gamma", &["--remove-vanished"])?;
    ensure!(
        log.contains("removed: 7 snapshots, 2 groups, 1 namespaces"),
        "{log}"
    );
    let list = source.client_json("back", &["snapshot", "list"])?;
    ensure!(
        list.as_array().is_some_and(|list| list.len() == 2),
        "{list}"
    );
    let pull_back = ["push", "--store", "gamma", "--remote-store", "back"];
    let refused = target.manage(&pull_back)?.expect_code(1)?;
    ensure!(refused.to_string().contains("remote"), "{refused}");
    Ok(())
}

/// Runs a sync until it says that all is done; how many runs it took.
fn until_done(daemon: &Daemon, arguments: &[&str], runs_max: usize) -> Result<usize> {
    for run in 1..=runs_max {
        let output = daemon.manage(arguments)?;
        if output.code == Some(0) {
            return Ok(run);
        }
    }
    anyhow::bail!("not done after {runs_max} runs")
}

#[test]
fn a_line_that_breaks_anywhere_costs_time_only() {
    let source = filled().expect("a datastore with snapshots");
    source.explain(|| {
        let target = Daemon::set_up(&[])?;
        target.start()?;
        let wire = Wire::to(source.address()?)?;
        add_remote(&target, &source, "office", wire.address())?;
        target.explain(|| {
            let other = ["--remote", "office", "--remote-store"];
            let mut cut = 0;
            for step in 0..5 {
                let store = format!("pulled{step}");
                target.add_directory_store(&store, &[])?;
                let pull = [&["pull", "--store", &store], &other[..], &[SOURCE]].concat();
                wire.cut_answers(1, 3000 << (2 * step));
                until_done(&target, &pull, 3)?;
                compare(
                    &source.store_dir(SOURCE),
                    &target.store_dir(&store),
                    Way::Pulled,
                )?;
                let pushed = format!("pushed{step}");
                source.add_directory_store(&pushed, &[])?;
                let push = ["push", "--store", "pulled0"];
                let push = [&push, &other[..], &[&pushed]].concat();
                wire.cut_answers(1, 1500 + 300 * step);
                until_done(&target, &push, 3)?;
                compare(
                    &source.store_dir(SOURCE),
                    &source.store_dir(&pushed),
                    Way::Pushed,
                )?;
                verified(&source, &pushed)?;
                cut = wire.cut();
            }
            ensure!(cut >= 8, "{cut} answers were cut");
            verified(&target, "pulled4")
        });
        Ok(())
    });
}

#[test]
fn daemons_that_are_killed_cost_time_only() {
    let source = filled().expect("a datastore with snapshots");
    source.explain(|| {
        let target = Daemon::set_up(&[])?;
        let server = EmbeddedS3::start()?;
        target.add_s3("main", &server.access(), &[])?;
        target.add_s3_store("main", "pulled", &["--late-request-max-seconds", "1"])?;
        target.start()?;
        add_remote(&target, &source, "office", source.address()?)?;
        target.explain(|| {
            let pull = ["pull", "--store", "pulled", "--remote", "office"];
            let pull = [&pull, &["--remote-store", SOURCE][..]].concat();
            // By the source's own count of what it was asked, so that each death comes a little later than the one before.
            for sessions in (1..9).step_by(2) {
                let begun = source.log().matches("session begins").count();
                manage(&target, &[&pull[..], &["--detach"]].concat())?;
                wait_for(BY_ITSELF_MAX, || {
                    let now = source.log().matches("session begins").count();
                    (now >= begun + sessions || nothing_runs(&target)).then_some(())
                })
                .context("the pull comes so far, or ends")?;
                target.kill();
                target.start()?;
            }
            until_done(&target, &pull, 3)?;
            let cache = target.cache_dir("pulled").join(".cnt");
            compare(&source.store_dir(SOURCE), &cache, Way::Pulled)?;
            verified(&target, "pulled")
        });
        Ok(())
    });
}

fn nothing_runs(daemon: &Daemon) -> bool {
    let tasks = daemon.client_json("pulled", &["task", "list"]);
    let running = |tasks: &Value| {
        let rows = tasks.as_array().into_iter().flatten();
        rows.filter(|row| row["status"].is_null()).count()
    };
    tasks.is_ok_and(|tasks| running(&tasks) == 0)
}
