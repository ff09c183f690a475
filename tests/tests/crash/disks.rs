//! Disks that are full, out of inodes, read-only, slow, or mounted without access times of their own: below the cache of a
//! bucket, below a directory datastore, below the daemon's own state.
//!
//! A cache disk costs cache hits and, where not even a marker can be made, backups; never a restore, never a chunk. As soon
//! as there is room everything works again.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use holdfast_tests::content;
use holdfast_tests::daemon::Daemon;
use holdfast_tests::disk::Disk;
use holdfast_tests::process::{Output, say, wait_for};
use serde_json::json;

use super::oracle;
use super::plan::Side;
use super::site::{STORE, Site, TIME_MAX};
use super::stored::{Stored, files};

/// An image and what its backup is called on a command line.
struct Image {
    path: PathBuf,
    source: String,
}

/// Writes an image of `pieces` of 4 MiB.
fn image(daemon: &Daemon, seed: u64, pieces: u64) -> Result<Image> {
    let path = daemon.dir().join(format!("image-{seed}"));
    content::write_image(&path, seed, pieces)?;
    let source = format!("disk.img:{}", path.display());
    Ok(Image { path, source })
}

fn back_up(daemon: &Daemon, image: &Image, id: &str) -> Result<Output> {
    daemon.client(STORE, &["backup", &image.source, "--backup-id", id])
}

/// After an unclean stop, or in the second of another backup, a backup has to wait a moment.
fn backs_up_again(daemon: &Daemon, image: &Image, id: &str) -> Result<()> {
    let mut told = None;
    let done = wait_for(TIME_MAX, || {
        let output = back_up(daemon, image, id).ok()?;
        let done = output.code == Some(0);
        told = Some(output);
        done.then_some(())
    });
    done.with_context(|| format!("no backup although there is room: {told:?}"))
}

fn comes_back(daemon: &Daemon, id: &str, image: &Image) -> Result<()> {
    let target = tempfile::TempDir::new_in(daemon.dir())?.keep().join("back");
    let group = format!("host/{id}");
    let text = target.display().to_string();
    daemon
        .client(STORE, &["restore", &group, "disk.img", &text])?
        .success()?;
    content::compare_files(&image.path, &target)
}

/// Pauses of the cache until a few chunks, of which there are more than four times as many, were read and written.
const PAUSES_MAX: usize = 5;

/// It failed, for this reason, in one sentence.
fn is_refused(output: Output, why: &str) -> Result<()> {
    let told = output.expect_code(1)?;
    ensure!(told.stderr.contains(why), "'{why}' is not told: {told}");
    let lines = told
        .stderr
        .lines()
        .filter(|line| line.contains(why))
        .count();
    ensure!(lines == 1, "told {lines} times: {told}");
    Ok(())
}

/// How often a line of the log has these words.
fn logged(daemon: &Daemon, words: &str) -> usize {
    daemon
        .log()
        .lines()
        .filter(|line| line.contains(words))
        .count()
}

/// Bytes of cached chunks.
fn cached(site: &Site) -> Result<u64> {
    let chunks = site.local_dir().join(".chunks");
    let mut bytes = 0;
    for path in files(&chunks)? {
        // It may be evicted meanwhile.
        bytes += chunks.join(path).metadata().map_or(0, |meta| meta.len());
    }
    Ok(bytes)
}

/// What was stored and told is there, and what was not is gone in the end.
fn in_the_end(site: &Site) -> Result<()> {
    for name in site.listed()? {
        site.doubt(name);
    }
    oracle::nothing_is_lost(site)?;
    oracle::is_tidy_in_the_end(site)
}

#[test]
fn a_cache_disk_that_is_full_costs_cache_hits_only() -> Result<()> {
    let Some(site) = Site::on_disk(Side::Bucket, "size=20m")? else {
        return Ok(());
    };
    let daemon = &site.daemon;
    let (one, two) = (image(daemon, 1, 12)?, image(daemon, 2, 12)?);
    daemon.start()?;
    daemon.explain(|| {
        back_up(daemon, &one, "one")?.success()?;
        comes_back(daemon, "one", &one)?;
        back_up(daemon, &two, "two")?.success()?;
        comes_back(daemon, "one", &one)?;
        comes_back(daemon, "two", &two)?;
        // On a slow machine a pause may end, and the next begin.
        let said = logged(daemon, "caching pauses");
        ensure!(
            (1..=PAUSES_MAX).contains(&said),
            "a sentence for each pause, and not one for every chunk: {said}"
        );
        ensure!(cached(&site)? < 20 << 20);
        let (told, status) = site.collect()?;
        ensure!(told == "OK", "{told} {status}");
        site.disk()?.remount("size=200m")?;
        // The pause ends, and what is read is cached again.
        let grown = wait_for(TIME_MAX, || {
            comes_back(daemon, "one", &one).ok()?;
            comes_back(daemon, "two", &two).ok()?;
            (cached(&site).ok()? > 60 << 20).then_some(())
        });
        grown.context("nothing is cached although there is room")?;
        in_the_end(&site)
    });
    daemon.stop()
}

#[test]
fn a_cache_disk_out_of_inodes_refuses_backups_and_no_restore() -> Result<()> {
    let Some(site) = Site::on_disk(Side::Bucket, "size=100m,nr_inodes=90")? else {
        return Ok(());
    };
    let daemon = &site.daemon;
    let (one, two) = (image(daemon, 1, 3)?, image(daemon, 2, 40)?);
    daemon.start()?;
    daemon.explain(|| {
        back_up(daemon, &one, "one")?.success()?;
        is_refused(back_up(daemon, &two, "two")?, "No space left on device")?;
        comes_back(daemon, "one", &one)?;
        let (told, status) = site.collect()?;
        ensure!(
            told == "OK" || told.contains("No space left on device"),
            "{told} {status}"
        );
        say(&format!("a collection without inodes: {told}"));
        site.disk()?.remount("nr_inodes=2000")?;
        backs_up_again(daemon, &two, "two")?;
        comes_back(daemon, "two", &two)?;
        comes_back(daemon, "one", &one)?;
        in_the_end(&site)
    });
    daemon.stop()
}

#[test]
fn a_read_only_cache_disk_refuses_backups_and_no_restore() -> Result<()> {
    let site = Site::new(Side::Bucket)?;
    let daemon = &site.daemon;
    // A file system that the kernel makes read-only in the middle of work; remounting cannot do that to open files.
    let switch = daemon.dir().join("read-only");
    let part = format!("{}:{STORE}.cache/", switch.display());
    daemon.set_variable("HOLDFAST_READ_ONLY_FILES", Some(&part));
    let (one, two) = (image(daemon, 1, 3)?, image(daemon, 2, 3)?);
    daemon.start()?;
    daemon.explain(|| {
        back_up(daemon, &one, "one")?.success()?;
        let before = Stored::read(&site)?.chunks;
        std::fs::write(&switch, "")?;
        is_refused(back_up(daemon, &two, "two")?, "Read-only file system")?;
        comes_back(daemon, "one", &one)?;
        let (told, _) = site.collect()?;
        ensure!(told.contains("Read-only file system"), "{told}");
        ensure!(before.is_subset(&Stored::read(&site)?.chunks), "deleted");
        std::fs::remove_file(&switch)?;
        backs_up_again(daemon, &two, "two")?;
        comes_back(daemon, "two", &two)?;
        in_the_end(&site)
    });
    daemon.stop()
}

#[test]
fn a_cache_that_is_slow_costs_time_only() -> Result<()> {
    let site = Site::new(Side::Bucket)?;
    let daemon = &site.daemon;
    daemon.set_variable("HOLDFAST_SLOW_FILES", Some("40:/.chunks/"));
    let one = image(daemon, 1, 12)?;
    daemon.start()?;
    daemon.explain(|| {
        back_up(daemon, &one, "one")?.success()?;
        comes_back(daemon, "one", &one)?;
        back_up(daemon, &one, "two")?.success()?;
        comes_back(daemon, "two", &one)?;
        in_the_end(&site)
    });
    daemon.stop()
}

#[test]
fn a_full_directory_refuses_backups_and_no_restore() -> Result<()> {
    let Some(site) = Site::on_disk(Side::Directory, "size=48m")? else {
        return Ok(());
    };
    let daemon = &site.daemon;
    let (one, two) = (image(daemon, 1, 8)?, image(daemon, 2, 8)?);
    daemon.start()?;
    daemon.explain(|| {
        back_up(daemon, &one, "one")?.success()?;
        is_refused(back_up(daemon, &two, "two")?, "No space left on device")?;
        comes_back(daemon, "one", &one)?;
        ensure!(site.listed()?.len() == 1, "half a snapshot is listed");
        // Garbage of the backup that failed makes room for a smaller one.
        in_the_end(&site)?;
        let three = image(daemon, 3, 4)?;
        backs_up_again(daemon, &three, "three")?;
        comes_back(daemon, "three", &three)?;
        comes_back(daemon, "one", &one)?;
        // Not a byte is left: a snapshot can go all the same, and what it held.
        site.disk()?.fill("ballast")?;
        let three_notes = json!({
            "backup-type": "host", "backup-id": "three", "notes": "no room",
            "backup-time": newest(&site, "three")?,
        });
        let path = format!("admin/datastore/{STORE}/notes");
        let told = daemon.ask("PUT", &path, &three_notes)?;
        ensure!(told.status == 507, "{told:?}");
        is_refused(back_up(daemon, &two, "two")?, "No space left on device")?;
        comes_back(daemon, "three", &three)?;
        for name in site.listed()?.iter().filter(|name| name.0 == "one") {
            let answer = site.forget(name)?;
            ensure!(answer.status == 200, "{answer:?}");
        }
        in_the_end(&site)?;
        site.disk()?.run("rm", &[&site_file(&site, "ballast")])?;
        backs_up_again(daemon, &two, "two")?;
        comes_back(daemon, "two", &two)?;
        in_the_end(&site)
    });
    daemon.stop()
}

/// The time of the newest snapshot of a group.
fn newest(site: &Site, id: &str) -> Result<i64> {
    let listed = site.listed()?.into_iter();
    let times = listed.filter(|name| name.0 == id).map(|name| name.1);
    times.max().context("no snapshot")
}

fn site_file(site: &Site, name: &str) -> String {
    let path: &Path = &site.daemon.store_dir(STORE);
    path.join(name).display().to_string()
}

#[test]
fn a_full_disk_below_the_state_stops_no_backup() -> Result<()> {
    let site = Site::new(Side::Bucket)?;
    let daemon = &site.daemon;
    let state = daemon.config().parent().context("a directory")?.to_owned();
    let copy = daemon.dir().join("copy");
    let text = |path: &Path| path.display().to_string();
    std::fs::rename(&state, &copy)?;
    std::fs::create_dir(&state)?;
    let Some(disk) = Disk::mount(&state, "size=2m")? else {
        return Ok(());
    };
    disk.run("cp", &["-a", &format!("{}/.", text(&copy)), &text(&state)])?;
    daemon.run_by(disk.runner());
    let config = disk.seen_from_outside(daemon.config())?;
    let one = image(daemon, 1, 3)?;
    daemon.start()?;
    daemon.explain(|| {
        back_up(daemon, &one, "one")?.success()?;
        let before = std::fs::read_to_string(&config)?;
        disk.fill("ballast")?;
        back_up(daemon, &one, "two")?.success()?;
        comes_back(daemon, "two", &one)?;
        daemon.client(STORE, &["gc", "start"])?.success()?;
        let acl = ["acl", "set", "/datastore/store", "root@pbs", "Admin"];
        is_refused(daemon.manage(&acl)?, "No space left on device")?;
        let after = std::fs::read_to_string(&config)?;
        ensure!(after == before, "the configuration was changed:\n{after}");
        Ok(())
    });
    daemon.stop()?;
    daemon.start()?;
    daemon.explain(|| {
        comes_back(daemon, "one", &one)?;
        disk.run("rm", &[&text(&state.join("ballast"))])?;
        let acl = ["acl", "set", "/datastore/store", "root@pbs", "Admin"];
        daemon.manage(&acl)?.success()?;
        backs_up_again(daemon, &one, "three")?;
        let tasks = daemon.client(STORE, &["task", "list"])?.success()?;
        ensure!(tasks.text().contains("backup"), "{tasks}");
        Ok(())
    });
    daemon.stop()
}

#[test]
fn a_disk_that_loses_access_times_is_not_collected() -> Result<()> {
    for side in [Side::Bucket, Side::Directory] {
        let site = Site::new(side)?;
        site.daemon.set_variable("HOLDFAST_LOSE_ATIMES", Some("1"));
        site.daemon.start()?;
        site.daemon.explain(|| {
            let gone = site.back_up("gone", site.fresh_number())?;
            let journal = site.back_up_told("kept", site.fresh_number())?;
            ensure!(site.forget(&gone)?.status == 200);
            let before = Stored::read(&site)?.chunks;
            let (told, _) = site.collect()?;
            ensure!(
                told.contains("does not keep the access times it is given"),
                "{told}"
            );
            ensure!(
                before == Stored::read(&site)?.chunks,
                "something was deleted"
            );
            site.verify(&[journal]).map(drop)
        });
        site.daemon.stop()?;
    }
    Ok(())
}

/// Explicit times are kept where the kernel keeps none of its own.
fn collects_on(side: Side, option: &str) -> Result<()> {
    let Some(site) = Site::on_disk(side, "size=100m")? else {
        return Ok(());
    };
    site.disk()?.remount(option)?;
    site.daemon.start()?;
    site.daemon.explain(|| {
        let gone = site.back_up("gone", site.fresh_number())?;
        let journal = site.back_up_told("kept", site.fresh_number())?;
        ensure!(site.forget(&gone)?.status == 200);
        oracle::is_tidy_in_the_end(&site)?;
        site.verify(&[journal]).map(drop)
    });
    site.daemon.stop()
}

#[test]
fn mounts_without_access_times_are_fine() -> Result<()> {
    for side in [Side::Bucket, Side::Directory] {
        collects_on(side, "noatime")?;
        collects_on(side, "relatime")?;
    }
    Ok(())
}
