//! The cache's disk: full, not there, with a damaged file.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use holdfast_tests::daemon::Daemon;
use holdfast_tests::s3_server::{EmbeddedS3, S3Server as _, Since};
use walkdir::WalkDir;

use super::{ENDPOINT, STORE, backup, comes_back, image, set_up};

/// Cached chunks: the files of the cache with content.
fn cached(cache: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in WalkDir::new(cache.join(".chunks")) {
        let entry = entry?;
        if entry.file_type().is_file() && entry.metadata()?.len() > 0 {
            found.push(entry.into_path());
        }
    }
    Ok(found)
}

#[test]
fn a_cache_that_takes_no_chunk_costs_neither_backup_nor_restore() -> Result<()> {
    let (server, daemon) = set_up()?;
    let (image, source) = image(&daemon, 1, 6)?;
    // To the daemon this is a disk on which small files have room and chunks have not.
    daemon.start_with_file_bytes_max(256 << 10)?;
    daemon.explain(|| {
        backup(&daemon, &source, "one")?.success()?;
        comes_back(&daemon, "one", &image)?;
        let cached = cached(&daemon.cache_dir(STORE))?;
        let large = cached
            .iter()
            .filter(|path| path.metadata().is_ok_and(|meta| meta.len() > 256 << 10));
        ensure!(large.count() == 0, "{cached:?}");
        // What it uploaded it knows, although it could not keep it.
        let since = Since::now(&server)?;
        backup(&daemon, &source, "two")?.success()?;
        ensure!(
            since.seen()?.count("PutObject", "/.chunks/") == 0,
            "{:?}",
            since.seen()?
        );
        Ok(())
    });
    daemon.stop()
}

#[test]
fn a_cache_directory_that_cannot_be_made_is_named() -> Result<()> {
    let server = EmbeddedS3::start()?;
    let daemon = Daemon::set_up(&[])?;
    daemon.add_s3(ENDPOINT, &server.access(), &[])?;
    // Nobody, not even root, can make directories in a file, or there.
    let file = daemon.dir().join("file");
    fs::write(&file, b"in the way")?;
    daemon.start()?;
    daemon.explain(|| {
        for place in [file.join("cache"), PathBuf::from("/proc/holdfast-cache")] {
            let place = place.display().to_string();
            let arguments = [
                "datastore",
                "create",
                STORE,
                "--s3",
                ENDPOINT,
                "--bucket",
                "backups",
            ];
            let place_arguments = ["--cache-dir", &place, "--cache-bytes-max", "1GiB"];
            let told = daemon
                .manage(&[&arguments[..], &place_arguments].concat())?
                .expect_code(1)?;
            ensure!(told.stderr.contains(&place), "{told}");
        }
        Ok(())
    });
    daemon.stop()
}

#[test]
fn a_damaged_cached_file_is_fetched_again() -> Result<()> {
    let (server, daemon) = set_up()?;
    let (image, source) = image(&daemon, 2, 6)?;
    daemon.start()?;
    daemon.explain(|| {
        backup(&daemon, &source, "one")?.success()?;
        let cached = cached(&daemon.cache_dir(STORE))?;
        ensure!(cached.len() >= 5, "{cached:?}");
        // A flipped bit, and a truncated file.
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(&cached[0])?;
        let mut byte = [0];
        file.read_exact_at(&mut byte, 1000)?;
        file.write_all_at(&[byte[0] ^ 1], 1000)?;
        fs::OpenOptions::new()
            .write(true)
            .open(&cached[1])?
            .set_len(500)?;
        let since = Since::now(&server)?;
        comes_back(&daemon, "one", &image)?;
        let fetched = since.seen()?.count("GetObject", "/.chunks/");
        ensure!(fetched == 2, "{fetched} chunks were fetched again");
        // They are whole again.
        let since = Since::now(&server)?;
        comes_back(&daemon, "one", &image)?;
        ensure!(
            since.seen()?.count("GetObject", "/.chunks/") == 0,
            "{:?}",
            since.seen()?
        );
        Ok(())
    });
    daemon.stop()
}

#[test]
fn a_deleted_cache_directory_is_rebuilt_from_the_bucket() -> Result<()> {
    let (_server, daemon) = set_up()?;
    let (image, source) = image(&daemon, 3, 4)?;
    daemon.start()?;
    daemon.explain(|| backup(&daemon, &source, "one")?.success().map(drop));
    daemon.stop()?;
    fs::remove_dir_all(daemon.cache_dir(STORE))?;
    daemon.start()?;
    daemon.explain(|| {
        comes_back(&daemon, "one", &image)?;
        backup(&daemon, &source, "two")?.success()?;
        comes_back(&daemon, "two", &image)
    });
    daemon.stop()
}
