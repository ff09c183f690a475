//! How many requests things cost, counted by the S3 server.

use std::time::Duration;

use anyhow::{Result, ensure};
use holdfast_tests::content;
use holdfast_tests::daemon::Daemon;
use holdfast_tests::process::{say, wait_for};
use holdfast_tests::s3_server::{EmbeddedS3, Requests, S3Server as _, Since};
use s3_client::{ObjectKey, Put};
use serde_json::Value;

const STORE: &str = "budget";
/// Pieces of the image; all but every fourth are different chunks, those are one.
const PIECES: u64 = 16;
/// Of these so many are different: 12 of noise, the empty one, the last short one.
const CHUNKS: usize = 14;
/// Objects that belong to nobody.
const LITTER: usize = 2300;
/// Requests that a listing may need beyond its pages, for ranges.
const RANGES: usize = 8;

fn backup(daemon: &Daemon, server: &EmbeddedS3, source: &str) -> Result<(Value, Requests)> {
    let since = Since::now(server)?;
    // Each an hour after the one before, whatever the time is.
    let listed = daemon.client_json(STORE, &["snapshot", "list"])?;
    let count = listed.as_array().map_or(0, Vec::len) as u64;
    let time = (1_700_000_000 + count * 3600).to_string();
    let arguments = ["backup", source, "--backup-id", "b", "--backup-time", &time];
    let made = daemon.client_json(STORE, &arguments)?;
    Ok((made, since.seen()?))
}

fn collect(daemon: &Daemon, server: &EmbeddedS3) -> Result<(Value, Requests)> {
    let since = Since::now(server)?;
    daemon.client(STORE, &["gc", "start"])?.success()?;
    let requests = since.seen()?;
    Ok((daemon.client_json(STORE, &["gc", "status"])?, requests))
}

/// Puts objects into the bucket that look like chunks and belong to nobody.
fn litter(server: &EmbeddedS3, count: usize) -> Result<()> {
    server.runtime().block_on(async {
        for number in 0..count {
            let digest = format!(
                "{:08x}{number:056x}",
                (number as u32).wrapping_mul(0x9E37_79B9)
            );
            let key = ObjectKey::new(format!("{STORE}/.chunks/{}/{digest}", &digest[..4]))?;
            let body = bytes::Bytes::from_static(b"litter of a size that a chunk may have");
            server.store().put(Put::new(key, body)).await?;
        }
        Ok(())
    })
}

fn uploads(daemon: &Daemon, server: &EmbeddedS3) -> Result<()> {
    let image = daemon.dir().join("image");
    content::write_image(&image, 1, PIECES)?;
    let source = format!("disk.img:{}", image.display());
    let (made, seen) = backup(daemon, server, &source)?;
    say(&format!(
        "first backup, {CHUNKS} chunks: {:?}",
        seen.by_operation()
    ));
    ensure!(
        seen.count("PutObject", "/.chunks/") == CHUNKS,
        "one PUT for a new chunk: {made} {seen:?}"
    );
    ensure!(
        seen.count("HeadObject", "/.chunks/") == 0,
        "no HEAD for a new chunk: {seen:?}"
    );
    ensure!(
        seen.count("GetObject", "/.chunks/") == 0,
        "no GET for a new chunk: {seen:?}"
    );

    let (made, seen) = backup(daemon, server, &source)?;
    say(&format!("the same again: {:?}", seen.by_operation()));
    let of_chunks = seen
        .0
        .iter()
        .filter(|seen| seen.key.contains("/.chunks/"))
        .count();
    ensure!(
        of_chunks == 0,
        "a known chunk costs nothing: {made} {seen:?}"
    );
    // The index and the manifest are objects of the new snapshot; the owner is checked before the seal.
    ensure!(seen.of("PutObject") <= 3, "{seen:?}");
    // The place of the new snapshot is looked at once.
    ensure!(
        seen.of("ListObjectsV2") <= 1 && seen.of("DeleteObjects") == 0,
        "{seen:?}"
    );
    ensure!(
        seen.0.len() <= 8,
        "an unchanged backup costs a handful: {seen:?}"
    );

    content::change_image(&image, 77, 5)?;
    let (made, seen) = backup(daemon, server, &source)?;
    ensure!(
        seen.count("PutObject", "/.chunks/") == 1,
        "one new chunk: {made} {seen:?}"
    );
    ensure!(seen.count("GetObject", "/.chunks/") == 0, "{seen:?}");

    // Other content under the same digest again: forgotten by nobody, sent by a client that knows nothing.
    let arguments = ["backup", &source, "--backup-id", "stranger"];
    let since = Since::now(server)?;
    daemon.client(STORE, &arguments)?.success()?;
    let seen = since.seen()?;
    ensure!(
        seen.count("PutObject", "/.chunks/") == 0,
        "every chunk has its marker: {seen:?}"
    );
    Ok(())
}

fn collections(daemon: &Daemon, server: &EmbeddedS3) -> Result<()> {
    let (status, seen) = collect(daemon, server)?;
    say(&format!(
        "a collection with nothing to delete: {:?}",
        seen.by_operation()
    ));
    ensure!(status["removed-chunks"] == 0, "{status}");
    ensure!(
        seen.of("DeleteObjects") == 0 && seen.of("DeleteObject") == 0,
        "{seen:?}"
    );
    ensure!(
        seen.count("GetObject", "/.cnt/") == 0,
        "its indexes are known: {seen:?}"
    );
    // One page of chunks, one of indexes, and the starts of the ranges.
    ensure!(seen.of("ListObjectsV2") <= 2 + RANGES + 2, "{seen:?}");

    litter(server, LITTER)?;
    // Young objects are kept for a few seconds, and putting them there takes longer than that on a busy machine: so it may
    // take more than one collection, and each is within its budget.
    let pages = (LITTER + CHUNKS + 2).div_ceil(1000);
    let mut removed = 0;
    let done = wait_for(Duration::from_mins(1), || {
        let swept = collect(daemon, server).and_then(|(status, seen)| {
            let swept = status["removed-chunks"].as_u64().unwrap_or(0) as usize;
            let (lists, deletes) = (seen.of("ListObjectsV2"), seen.of("DeleteObjects"));
            say(&format!(
                "a sweep of {swept} chunks: {lists} LIST, {deletes} DeleteObjects"
            ));
            ensure!(lists <= pages + RANGES + 2, "{lists} listings");
            ensure!(deletes <= swept.div_ceil(1000), "{deletes} deletions");
            Ok(swept)
        });
        match swept {
            Ok(swept) => {
                removed += swept;
                (removed >= LITTER).then_some(Ok(()))
            }
            Err(error) => Some(Err(error)),
        }
    });
    done.unwrap_or(Ok(()))?;
    ensure!(
        removed >= LITTER,
        "{removed} of {LITTER} chunks were removed"
    );
    Ok(())
}

#[test]
fn requests_stay_within_their_budgets() -> Result<()> {
    let server = EmbeddedS3::start()?;
    let daemon = Daemon::set_up(&[])?;
    daemon.add_s3("embedded", &server.access(), &[])?;
    daemon.add_s3_store("embedded", STORE, &["--gc-atime-cutoff-minutes", "0"])?;
    daemon.start()?;
    daemon.explain(|| {
        uploads(&daemon, &server)?;
        collections(&daemon, &server)
    });
    let since = Since::now(&server)?;
    daemon.stop()?;
    let seen = since.seen()?;
    say(&format!("a clean stop: {:?}", seen.by_operation()));
    ensure!(seen.0.len() <= 6, "{seen:?}");
    Ok(())
}
