//! Objects of the bucket are corrupt, truncated or missing.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use holdfast_tests::daemon::{COMMAND_TIME_MAX, Daemon};
use holdfast_tests::process::wait_for;
use holdfast_tests::s3_server::{EmbeddedS3, S3Server as _};
use s3_client::{KeyPrefix, ListRequest, ObjectKey, Put};
use serde_json::Value;

use super::{ENDPOINT, SETTINGS, STORE, backup, collect, comes_back, image, restore};

/// What is done to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Damage {
    FlippedBit,
    Truncated,
    Missing,
}

/// Damages one chunk in the bucket; answers its digest.
fn damage(server: &EmbeddedS3, how: Damage) -> Result<String> {
    let store = server.store();
    server.runtime().block_on(async {
        let request = ListRequest {
            prefix: KeyPrefix::new(format!("{STORE}/.chunks/"))?,
            start_after: None,
            keys_max: 1000,
        };
        let listed = store.list(&request).await?.value.entries;
        // A large one, so that it holds data of its own.
        let largest = listed
            .iter()
            .max_by_key(|entry| (entry.size, entry.key.as_str()));
        let key: ObjectKey = largest.context("no chunks")?.key.clone();
        let mut bytes = store
            .get(&key, None)
            .await?
            .value
            .body
            .into_bytes()
            .to_vec();
        match how {
            Damage::FlippedBit => bytes[5000] ^= 1,
            Damage::Truncated => bytes.truncate(5000),
            Damage::Missing => {}
        }
        if how == Damage::Missing {
            store.delete(&[key.clone().into()], None).await?;
        } else {
            store.put(Put::new(key.clone(), Bytes::from(bytes))).await?;
        }
        let digest = key.as_str().rsplit('/').next().context("a digest")?;
        Ok(digest.to_owned())
    })
}

/// A snapshot is read without the cache, after one of its chunks was damaged, and healed by the next backup.
fn is_reported_and_healed(how: Damage) -> Result<()> {
    let server = EmbeddedS3::start()?;
    let daemon = Daemon::set_up(&[])?;
    daemon.add_s3(ENDPOINT, &server.access(), &[])?;
    daemon.add_s3_store(ENDPOINT, STORE, &SETTINGS)?;
    let (image, source) = image(&daemon, 1, 3)?;
    daemon.start()?;
    daemon.explain(|| backup(&daemon, &source, "one")?.success().map(drop));
    daemon.stop()?;
    fs::remove_dir_all(daemon.cache_dir(STORE))?;
    daemon.start()?;
    daemon.explain(|| {
        let digest = damage(&server, how)?;
        let (_, told) = restore(&daemon, "one")?;
        let told = told.expect_code(1)?;
        ensure!(
            told.stderr.contains(&digest[..8]),
            "{digest} is not named: {told}"
        );
        // The collection finds that it is missing, and says which snapshot needs it.
        let (collected, status) = collect(&daemon)?;
        ensure!(status["missing-chunks"] == 1, "{status} {collected}");
        ensure!(
            collected.code == Some(2),
            "it ends with warnings: {collected}"
        );
        ensure!(collected.text().contains("host/one"), "{collected}");
        let listed = daemon.client_json(STORE, &["snapshot", "list"])?;
        ensure!(listed[0]["verification"]["state"] == "failed", "{listed}");
        // A backup by a client that has the content mends it, for both snapshots.
        backup(&daemon, &source, "two")?.success()?;
        comes_back(&daemon, "two", &image)?;
        comes_back(&daemon, "one", &image)?;
        let (collected, status) = collect(&daemon)?;
        collected.success()?;
        ensure!(status["missing-chunks"] == 0, "{status}");
        Ok(())
    });
    daemon.stop()
}

#[test]
fn a_corrupt_object_is_reported_and_healed() -> Result<()> {
    is_reported_and_healed(Damage::FlippedBit)
}

#[test]
fn a_truncated_object_is_reported_and_healed() -> Result<()> {
    is_reported_and_healed(Damage::Truncated)
}

#[test]
fn a_missing_object_is_reported_and_healed() -> Result<()> {
    is_reported_and_healed(Damage::Missing)
}

/// Waits for what the verification of a new snapshot of `host/ID` came to.
fn verified(daemon: &Daemon, id: &str) -> Result<Value> {
    let verified = wait_for(COMMAND_TIME_MAX, || {
        let listed = daemon.client_json(STORE, &["snapshot", "list"]).ok()?;
        let mut all = listed.as_array()?.iter();
        let snapshot = all.find(|snapshot| snapshot["backup-id"] == id)?;
        let verification = snapshot.get("verification")?;
        (!verification.is_null()).then(|| verification.clone())
    });
    verified.with_context(|| format!("'{id}' is not verified"))
}

#[test]
fn new_snapshots_are_verified_and_what_is_found_is_healed() -> Result<()> {
    let server = EmbeddedS3::start()?;
    let daemon = Daemon::set_up(&[])?;
    daemon.add_s3(ENDPOINT, &server.access(), &[])?;
    daemon.add_s3_store(
        ENDPOINT,
        STORE,
        &[&SETTINGS[..], &["--verify-new"]].concat(),
    )?;
    let (image, source) = image(&daemon, 1, 3)?;
    daemon.start()?;
    daemon.explain(|| {
        backup(&daemon, &source, "one")?.success()?;
        let first = verified(&daemon, "one")?;
        ensure!(first["state"] == "ok", "{first}");
        // The daemon knows the chunk, and has it in its cache.
        let digest = damage(&server, Damage::FlippedBit)?;
        backup(&daemon, &source, "two")?.success()?;
        let second = verified(&daemon, "two")?;
        ensure!(second["state"] == "failed", "{second}");
        let upid = second["upid"].as_str().context("a task")?;
        ensure!(upid.contains(":verify:"), "{upid}");
        let log = daemon.client(STORE, &["task", "log", upid])?;
        ensure!(log.text().contains(&digest), "{digest} is not named: {log}");
        let key = ObjectKey::new(format!("{STORE}/.chunks/{}/{digest}", &digest[..4]))?;
        let aside = wait_for(COMMAND_TIME_MAX, || {
            let found = server.runtime().block_on(server.store().head(&key));
            found.is_err().then_some(())
        });
        aside.context("it is not set aside")?;
        backup(&daemon, &source, "three")?.success()?;
        let third = verified(&daemon, "three")?;
        ensure!(third["state"] == "ok", "{third}");
        comes_back(&daemon, "one", &image)
    });
    daemon.stop()
}

#[test]
fn a_damaged_chunk_of_a_directory_is_reported_and_healed() -> Result<()> {
    let daemon = Daemon::set_up(&[])?;
    daemon.add_directory_store(STORE, &SETTINGS[..2])?;
    let (image, source) = image(&daemon, 2, 3)?;
    daemon.start()?;
    daemon.explain(|| {
        backup(&daemon, &source, "one")?.success()?;
        let chunks = walkdir::WalkDir::new(daemon.store_dir(STORE).join(".chunks"));
        let mut files = Vec::new();
        for entry in chunks {
            let entry = entry?;
            if entry.file_type().is_file() {
                files.push((entry.metadata()?.len(), entry.into_path()));
            }
        }
        let (_, largest) = files.into_iter().max().context("no chunks")?;
        let mut bytes = fs::read(&largest)?;
        bytes[5000] ^= 1;
        fs::write(&largest, bytes)?;
        let digest = largest
            .file_name()
            .context("a name")?
            .to_string_lossy()
            .into_owned();
        let (_, told) = restore(&daemon, "one")?;
        let told = told.expect_code(1)?;
        ensure!(
            told.stderr.contains(&digest[..8]),
            "{digest} is not named: {told}"
        );
        backup(&daemon, &source, "two")?.success()?;
        comes_back(&daemon, "two", &image)?;
        comes_back(&daemon, "one", &image)
    });
    daemon.stop()
}
