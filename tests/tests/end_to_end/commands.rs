//! The commands of `holdfast`, as a person or a script uses them, on a directory and on a bucket.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use holdfast_tests::content::{self, compare_files, compare_trees};
use holdfast_tests::daemon::{COMMAND_TIME_MAX, Daemon};
use holdfast_tests::process::{run, wait_for};
use holdfast_tests::s3_server::{EmbeddedS3, S3Server as _};
use serde_json::Value;

/// No chunk is kept because it is young.
const NO_CUTOFF: [&str; 2] = ["--gc-atime-cutoff-minutes", "0"];

/// What is backed up.
struct Sources {
    tree: PathBuf,
    image: PathBuf,
    conf: PathBuf,
}

impl Sources {
    fn write(dir: &Path) -> Result<Self> {
        let sources = Self {
            tree: dir.join("tree"),
            image: dir.join("image"),
            conf: dir.join("conf"),
        };
        content::write_tree(&sources.tree, 7, 300)?;
        content::write_image(&sources.image, 8, 8)?;
        fs::write(&sources.conf, b"cores: 2\n")?;
        Ok(sources)
    }

    fn arguments(&self) -> [String; 3] {
        [
            format!("root.tar:{}", self.tree.display()),
            format!("disk.img:{}", self.image.display()),
            format!("guest.conf:{}", self.conf.display()),
        ]
    }
}

fn backup(daemon: &Daemon, store: &str, sources: &Sources, more: &[&str]) -> Result<Value> {
    let sources = sources.arguments();
    let mut arguments = vec!["backup"];
    arguments.extend(sources.iter().map(String::as_str));
    arguments.extend(["--backup-id", "box"]);
    arguments.extend(more);
    daemon.client_json(store, &arguments)
}

/// Restores all three and compares.
fn compare(
    daemon: &Daemon,
    store: &str,
    snapshot: &str,
    sources: &Sources,
    more: &[&str],
) -> Result<()> {
    let place = tempfile::TempDir::new_in(daemon.dir())?;
    for (archive, source) in [
        ("root.tar", &sources.tree),
        ("disk.img", &sources.image),
        ("guest.conf", &sources.conf),
    ] {
        let target = place.path().join(archive);
        let text = target.display().to_string();
        let arguments = [&["restore", snapshot, archive, &text], more].concat();
        let told = daemon.client_json(store, &arguments)?;
        ensure!(told["warnings"] == 0, "{told}");
        if archive == "root.tar" {
            compare_trees(source, &target)?;
        } else {
            compare_files(source, &target)?;
        }
    }
    Ok(())
}

fn count(list: &Value) -> usize {
    list.as_array().map_or(0, Vec::len)
}

fn number(value: &Value, name: &str) -> Result<u64> {
    value[name]
        .as_u64()
        .with_context(|| format!("no number '{name}' in {value}"))
}

/// The name of a snapshot in a list.
fn name_of(row: &Value) -> String {
    let seconds = row["backup-time"].as_i64().unwrap_or_default();
    let time = jiff::Timestamp::from_second(seconds).unwrap_or_default();
    format!(
        "{}/{}/{time}",
        row["backup-type"].as_str().unwrap_or_default(),
        row["backup-id"].as_str().unwrap_or_default()
    )
}

/// A first backup, an incremental one, restores of both.
fn backups_come_back(daemon: &Daemon, store: &str, dir: &Path) -> Result<Sources> {
    let sources = Sources::write(dir)?;
    let first = backup(daemon, store, &sources, &["--backup-time", "1700000000"])?;
    ensure!(first["warnings"] == 0, "{first}");
    ensure!(number(&first, "new")? > 8, "{first}");
    compare(daemon, store, "host/box", &sources, &[])?;

    let before = tempfile::TempDir::new_in(daemon.dir())?;
    fs::copy(&sources.image, before.path().join("image"))?;
    content::change_image(&sources.image, 99, 2)?;
    fs::write(sources.tree.join("d000/file-0"), content::noise(1234, 3000))?;
    let second = backup(daemon, store, &sources, &["--backup-time", "1700003600"])?;
    let is_image = |one: &&Value| {
        one["name"]
            .as_str()
            .is_some_and(|name| name.starts_with("disk.img"))
    };
    let image = second["archives"]
        .as_array()
        .and_then(|all| all.iter().find(is_image))
        .with_context(|| format!("no image in {second}"))?;
    ensure!(
        number(image, "new")? == 1,
        "only one piece of the image has changed: {image}"
    );
    ensure!(number(&second, "new")? <= 5, "little has changed: {second}");
    ensure!(number(&second, "duplicates")? >= 7, "{second}");
    compare(daemon, store, "host/box", &sources, &[])?;
    // The older one is as it was.
    let older = before.path().join("older").display().to_string();
    let arguments = [
        "restore",
        "host/box/2023-11-14T22:13:20Z",
        "disk.img",
        &older,
    ];
    daemon.client(store, &arguments)?.success()?;
    compare_files(&before.path().join("image"), Path::new(&older))?;
    Ok(sources)
}

fn lists_and_attributes(daemon: &Daemon, store: &str) -> Result<()> {
    let listed = daemon.client_json(store, &["snapshot", "list", "host/box"])?;
    ensure!(count(&listed) == 2, "{listed}");
    let newest = "host/box/2023-11-14T23:13:20Z";
    ensure!(name_of(&listed[1]) == newest, "{listed}");
    let files = daemon.client_json(store, &["snapshot", "files", newest])?;
    ensure!(count(&files) == 4, "{files}");
    let groups = daemon.client_json(store, &["group", "list"])?;
    ensure!(
        count(&groups) == 1 && groups[0]["backup-count"] == 2,
        "{groups}"
    );
    ensure!(groups[0]["owner"] == daemon.user(), "{groups}");
    let table = daemon
        .client(store, &["snapshot", "list"])?
        .success()?
        .text();
    ensure!(
        table.contains(newest) && table.contains("root.tar disk.img"),
        "{table}"
    );

    daemon
        .client(store, &["snapshot", "notes", newest, "first\nsecond ü"])?
        .success()?;
    let notes = daemon.client_json(store, &["snapshot", "notes", newest])?;
    ensure!(notes == "first\nsecond ü", "{notes}");
    daemon
        .client(store, &["snapshot", "protected", newest, "true"])?
        .success()?;
    let refused = daemon
        .client(store, &["snapshot", "forget", newest])?
        .expect_code(1)?;
    ensure!(refused.stderr.contains("protected"), "{refused}");
    daemon
        .client(store, &["snapshot", "protected", newest, "false"])?
        .success()?;
    let tasks = daemon.client_json(store, &["task", "list"])?;
    let finished = |row: &Value| row["worker_type"] == "backup" && row["status"] == "OK";
    ensure!(
        tasks
            .as_array()
            .is_some_and(|rows| rows.iter().filter(|row| finished(row)).count() >= 2),
        "{tasks}"
    );
    let upid = tasks[0]["upid"].as_str().context("a task id")?;
    let log = daemon
        .client(store, &["task", "log", upid])?
        .success()?
        .text();
    ensure!(!log.trim().is_empty(), "the log of {upid} is empty");
    Ok(())
}

/// What an administrator asks, and what an account is.
fn questions(daemon: &Daemon, store: &str) -> Result<()> {
    let user = daemon.user();
    let told =
        |arguments: &[&str]| -> Result<String> { Ok(daemon.manage(arguments)?.success()?.text()) };
    let asked: [(&[&str], &str); 8] = [
        (&["acl", "permissions", user], "Datastore.Modify"),
        (&["acl", "roles"], "DatastoreBackup"),
        (&["user", "show", user], user),
        (&["user", "realms"], "pbs"),
        (&["datastore", "list"], store),
        (&["datastore", "usage"], store),
        (&["datastore", "active-operations", store], "write: 0"),
        (&["metrics"], "holdfast_datastore_up"),
    ];
    for (arguments, expected) in asked {
        let text = told(arguments)?;
        ensure!(text.contains(expected), "{arguments:?}: {text}");
    }
    let path = format!("/datastore/{store}");
    let may = ["acl", "permissions", user, "--path", &path];
    let may = [&may[..], &["--output-format", "json"]].concat();
    let may = daemon.manage(&may)?.success()?.json()?;
    ensure!(may[&path]["Datastore.Backup"] == true, "{may}");

    told(&["user", "update", user, "--comment", "keeps it running"])?;
    let shown = told(&["user", "show", user])?;
    ensure!(shown.contains("keeps it running"), "{shown}");
    told(&["user", "update", user, "--delete", "comment"])?;
    let shown = told(&["user", "show", user])?;
    ensure!(!shown.contains("keeps it running"), "{shown}");

    let asked: [(&[&str], &str); 4] = [
        (&["openapi"], "/admin/gc"),
        (&["gc", "list"], store),
        (&["version"], "instance: "),
        (
            &["prune", "--all-groups", "--keep-last", "1", "--dry-run"],
            "host/box",
        ),
    ];
    for (arguments, expected) in asked {
        let text = daemon.client(store, arguments)?.success()?.text();
        ensure!(text.contains(expected), "{arguments:?}: {text}");
    }
    let listed = daemon.client_json(store, &["snapshot", "list", "host/box"])?;
    ensure!(count(&listed) == 2, "a dry run removes nothing: {listed}");
    Ok(())
}

fn namespaces(daemon: &Daemon, store: &str, sources: &Sources) -> Result<()> {
    daemon
        .client(store, &["namespace", "create", "team"])?
        .success()?;
    daemon
        .client(store, &["namespace", "create", "team/inner"])?
        .success()?;
    let listed = daemon.client_json(store, &["namespace", "list"])?;
    ensure!(count(&listed) == 3, "{listed}");
    let made = backup(daemon, store, sources, &["--ns", "team/inner"])?;
    ensure!(number(&made, "bytes")? > 32 << 20, "{made}");
    compare(daemon, store, "host/box", sources, &["--ns", "team/inner"])?;
    let refused = daemon.client(store, &["namespace", "delete", "team/inner"])?;
    refused.expect_code(1)?;
    daemon
        .client(store, &["namespace", "delete", "team", "--delete-groups"])?
        .success()?;
    let listed = daemon.client_json(store, &["namespace", "list"])?;
    ensure!(count(&listed) == 1, "{listed}");
    Ok(())
}

fn encryption(daemon: &Daemon, store: &str, sources: &Sources, dir: &Path) -> Result<()> {
    let key = dir.join("key.json").display().to_string();
    daemon.client(store, &["key", "create", &key])?.success()?;
    let shown = daemon.client_json(store, &["key", "show", &key])?;
    ensure!(shown["locked"] == false, "{shown}");
    let made = backup(daemon, store, sources, &["--keyfile", &key, "--ns", ""])?;
    ensure!(
        number(&made, "new")? > 8,
        "encrypted chunks are others: {made}"
    );
    compare(daemon, store, "host/box", sources, &["--keyfile", &key])?;
    let target = dir.join("without-key").display().to_string();
    let refused = daemon.client(store, &["restore", "host/box", "disk.img", &target])?;
    let refused = refused.expect_code(1)?;
    ensure!(refused.stderr.contains("key"), "{refused}");
    Ok(())
}

fn streams(daemon: &Daemon, store: &str) -> Result<()> {
    let data = content::noise(4711, 5_000_001);
    let arguments = ["backup", "pipe.img:-", "--backup-id", "stream"];
    let mut command = daemon.client_command(store, &arguments)?;
    run(&mut command, &data, COMMAND_TIME_MAX)?.success()?;
    let back = daemon
        .client(store, &["restore", "host/stream", "pipe.img", "-"])?
        .success()?;
    ensure!(
        back.stdout == data,
        "a stream of {} bytes came back",
        back.stdout.len()
    );
    Ok(())
}

/// A token that may back up and nothing else.
fn tokens(daemon: &Daemon, store: &str) -> Result<()> {
    let token = format!("{}!{store}", daemon.user());
    let secret = daemon.add_token(&token)?;
    let with_token = |arguments: &[&str]| -> Result<_> {
        let repository = format!("{token}@{}:{store}", daemon.address()?);
        let mut command = daemon.client_command(store, arguments)?;
        command
            .env("PBS_REPOSITORY", repository)
            .env("PBS_PASSWORD", &secret);
        run(&mut command, b"some settings", COMMAND_TIME_MAX)
    };
    let backup = ["backup", "x.conf:-", "--backup-id", "by-token"];
    with_token(&backup)?.expect_code(1)?;
    let path = format!("/datastore/{store}");
    daemon.grant(&path, &token, "DatastoreBackup")?;
    with_token(&backup)?.success()?;
    let back = with_token(&["restore", "host/by-token", "x.conf", "-"])?.success()?;
    ensure!(back.stdout == b"some settings", "{back}");
    // It neither owns the administrator's group nor may it collect.
    with_token(&["snapshot", "forget", "host/box/2023-11-14T23:13:20Z"])?.expect_code(1)?;
    with_token(&["gc", "start"])?.expect_code(1)?;
    let list = ["snapshot", "list"];
    let changes: [(&[&str], bool); 5] = [
        (&["token", "disable", &token], false),
        (&["token", "enable", &token], true),
        (
            &["token", "update", &token, "--expire", "2001-01-01"],
            false,
        ),
        (&["token", "update", &token, "--expire", "never"], true),
        (&["token", "update", &token, "--regenerate"], false),
    ];
    for (change, let_in) in changes {
        daemon.manage(change)?.success()?;
        with_token(&list)?.expect_code(i32::from(!let_in))?;
    }
    let shown = daemon.manage(&["token", "show", &token])?;
    let shown = shown.success()?.text();
    ensure!(shown.contains(&token), "{shown}");
    daemon.manage(&["token", "remove", &token])?.success()?;
    with_token(&list)?.expect_code(1)?;
    Ok(())
}

/// Forgets everything and collects until the chunks are gone.
fn forget_and_collect(daemon: &Daemon, store: &str) -> Result<()> {
    let listed = daemon.client_json(store, &["snapshot", "list"])?;
    ensure!(count(&listed) >= 3, "{listed}");
    for row in listed.as_array().into_iter().flatten() {
        daemon
            .client(store, &["snapshot", "forget", &name_of(row)])?
            .success()?;
    }
    let mut removed = 0;
    let empty = wait_for(Duration::from_mins(1), || {
        let status = daemon
            .client(store, &["gc", "start"])
            .and_then(holdfast_tests::process::Output::success)
            .and_then(|_| daemon.client_json(store, &["gc", "status"]));
        match status {
            Ok(status) => {
                removed += status["removed-chunks"].as_u64().unwrap_or(0);
                let left = status["disk-chunks"].as_u64()? + status["pending-chunks"].as_u64()?;
                (left == 0).then_some(Ok(()))
            }
            Err(error) => Some(Err(error)),
        }
    });
    empty.context("chunks are left after a minute of collections")??;
    ensure!(removed > 16, "only {removed} chunks were removed");
    Ok(())
}

fn everything(daemon: &Daemon, store: &str) -> Result<()> {
    let dir = daemon.dir().join(format!("{store}.sources"));
    fs::create_dir(&dir)?;
    let sources = backups_come_back(daemon, store, &dir).context("backups")?;
    lists_and_attributes(daemon, store).context("lists")?;
    questions(daemon, store).context("questions")?;
    namespaces(daemon, store, &sources).context("namespaces")?;
    encryption(daemon, store, &sources, &dir).context("encryption")?;
    streams(daemon, store).context("streams")?;
    tokens(daemon, store).context("tokens")?;
    forget_and_collect(daemon, store).context("forget and collect")
}

#[test]
fn a_directory_is_used_by_commands() -> Result<()> {
    let daemon = Daemon::set_up(&[])?;
    // While the daemon is down: the same commands.
    daemon.add_directory_store("dir", &NO_CUTOFF)?;
    daemon.start()?;
    daemon.explain(|| {
        everything(&daemon, "dir")?;
        let speeds = daemon.client_json("dir", &["benchmark", "--local"])?;
        ensure!(speeds.is_object(), "{speeds}");
        Ok(())
    });
    daemon.stop()
}

#[test]
fn a_bucket_is_used_by_commands() -> Result<()> {
    let server = EmbeddedS3::start()?;
    let daemon = Daemon::set_up(&[])?;
    daemon.start()?;
    daemon.explain(|| {
        daemon.add_s3("embedded", &server.access(), &[])?;
        let checked = daemon.manage(&["s3", "check", "--s3", "embedded", "--bucket", "backups"])?;
        ensure!(
            checked.success()?.text().contains("can be used"),
            "the check says so"
        );
        daemon.add_s3_store("embedded", "emb", &NO_CUTOFF)?;
        everything(&daemon, "emb")?;
        let shown = daemon.manage(&["datastore", "show", "emb", "--output-format", "json"])?;
        ensure!(
            shown.success()?.json()?["backend"] == "s3",
            "it is in a bucket"
        );
        daemon.manage(&["datastore", "remove", "emb"])?.success()?;
        daemon
            .client("emb", &["snapshot", "list"])?
            .expect_code(1)?;
        Ok(())
    });
    daemon.stop()
}
