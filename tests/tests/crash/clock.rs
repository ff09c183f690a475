//! The clock was set back or forward by a day while the daemon was stopped, or some minutes.
//!
//! A daemon takes the time at its start and counts from there, so a clock that is set while it runs changes nothing.
//! Requests to S3 are signed with the system's clock and with what the server's answers say of its error, see the tests of
//! `s3-client`.

use std::fs::{self, File, FileTimes};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use holdfast_tests::process::wait_for;
use holdfast_tests::s3_server::{BUCKET, Behind, EmbeddedS3};
use jiff::SignedDuration;
use s3_client::serve::ServeOptions;
use s3_client::{ModelOptions, wall_clock};
use serde_json::Value;

use super::oracle;
use super::plan::Side;
use super::site::{ENDPOINT, GROUP, SETTINGS, STORE, Site, TIME_MAX};
use super::stored::{Stored, files};

const DAY: i64 = 86_400;

/// Starts the daemon with a clock that is wrong by so many seconds.
fn start_at(site: &Site, offset: i64) -> Result<()> {
    begin_at(site, offset)?;
    let ready = wait_for(TIME_MAX, || {
        let answer = site.daemon.get("/health/ready").ok()?;
        (answer.status == 200).then_some(())
    });
    ready.with_context(|| site.daemon.log_tail())
}

fn begin_at(site: &Site, offset: i64) -> Result<()> {
    let text = offset.to_string();
    site.daemon
        .set_variable("HOLDFAST_CLOCK_OFFSET", Some(&text));
    let begun = site.daemon.begin();
    site.daemon.set_variable("HOLDFAST_CLOCK_OFFSET", None);
    begun
}

/// A backup, an older one that is refused, a collection that loses nothing and ends what is garbage, restores.
fn everything_works(site: &Site) -> Result<()> {
    let before = site.journals();
    let journal = site.back_up_told(GROUP, site.fresh_number())?;
    let last = site.listed()?.into_iter().filter(|name| name.0 == GROUP);
    let last = last.map(|name| name.1).max().context("a snapshot")?;
    let config = format!("a.conf:{}", site.daemon.config().display());
    for time in [last, last - 1] {
        let time = time.to_string();
        let arguments = [
            "backup",
            &config,
            "--backup-id",
            GROUP,
            "--backup-time",
            &time,
        ];
        let told = site.daemon.client(STORE, &arguments)?.expect_code(1)?;
        let clear = ["must be younger than the last one"];
        ensure!(
            clear.iter().any(|words| told.stderr.contains(words)),
            "{told}"
        );
    }
    let (told, status) = site.collect()?;
    ensure!(
        told == "OK" && status["missing-chunks"] == 0,
        "{told} {status}"
    );
    oracle::nothing_is_lost(site)?;
    site.verify(&[before, vec![journal]].concat()).map(drop)
}

/// Makes something that the next collection may remove once it is old.
fn make_garbage(site: &Site) -> Result<()> {
    let name = site.back_up("garbage", site.fresh_number())?;
    ensure!(site.forget(&name)?.status == 200);
    Ok(())
}

#[test]
fn a_day_back_and_forward_loses_nothing_in_a_directory() -> Result<()> {
    let site = Site::new(Side::Directory)?;
    for offset in [0, -DAY, DAY, 0] {
        start_at(&site, offset)?;
        site.daemon.explain(|| {
            make_garbage(&site)?;
            everything_works(&site).with_context(|| format!("{offset} s off"))
        });
        site.daemon.stop()?;
    }
    start_at(&site, DAY)?;
    site.daemon.explain(|| oracle::is_tidy_in_the_end(&site));
    site.daemon.stop()
}

fn works_with_offsets(site: &Site, offsets: &[i64]) -> Result<()> {
    for offset in offsets {
        start_at(site, *offset)?;
        site.daemon.explain(|| {
            make_garbage(site)?;
            everything_works(site).with_context(|| format!("{offset} s off"))?;
            oracle::is_tidy_in_the_end(site).with_context(|| format!("{offset} s off"))
        });
        site.daemon.stop()?;
    }
    Ok(())
}

#[test]
fn a_day_back_and_forward_loses_nothing_in_a_bucket() -> Result<()> {
    works_with_offsets(&Site::new(Side::Bucket)?, &[0, -DAY, DAY, 0])
}

/// The server's own clock is wrong: what it says of the age of its objects is compared with its own time. With such a server
/// no datastore is set up in the first place.
#[test]
fn a_server_that_lives_on_another_day_loses_nothing() -> Result<()> {
    let (real, offset) = (wall_clock(), Arc::new(AtomicI64::new(0)));
    let read = Arc::clone(&offset);
    let model = ModelOptions {
        clock: Arc::new(move || real() + SignedDuration::from_secs(read.load(Ordering::Relaxed))),
        ..ModelOptions::default()
    };
    let mut options = ServeOptions::new(BUCKET);
    // It would refuse a signature of the day that it tells, as that is checked with the time of this machine.
    options.signature_window = Duration::from_hours(72);
    let server = EmbeddedS3::start_with(Behind::Memory(model), options)?;
    let site = Site::on_server(server)?;
    for theirs in [-DAY, DAY, 0] {
        offset.store(theirs, Ordering::Relaxed);
        works_with_offsets(&site, &[0]).with_context(|| format!("the server is {theirs} s off"))?;
    }
    offset.store(DAY, Ordering::Relaxed);
    let told = site
        .daemon
        .create_s3_store(ENDPOINT, "another", &SETTINGS)?
        .expect_code(1)?;
    ensure!(told.stderr.contains("set up NTP"), "{told}");
    Ok(())
}

#[test]
fn a_crash_on_another_day_loses_nothing() -> Result<()> {
    for side in [Side::Bucket, Side::Directory] {
        let site = Site::new(side)?;
        start_at(&site, 0)?;
        site.daemon.explain(|| make_garbage(&site));
        site.daemon.kill();
        for offset in [DAY, -DAY, 0] {
            start_at(&site, offset)?;
            site.daemon.explain(|| {
                // The clients' time is not that of the daemon: what it takes for old has to wait until T is over.
                let over = wait_for(TIME_MAX, || {
                    let collected = site.collect();
                    let waits = |told: &str| told.contains("last stop was not clean");
                    match &collected {
                        Ok((told, _)) if waits(told) => None,
                        _ => Some(collected),
                    }
                });
                let (told, _) = over.context("it waits for ever")??;
                ensure!(told == "OK", "{told}");
                make_garbage(&site)?;
                everything_works(&site).with_context(|| format!("{offset} s off"))
            });
            site.daemon.kill();
        }
        // What was used tomorrow is old when tomorrow is over.
        start_at(&site, DAY)?;
        site.daemon.explain(|| oracle::is_tidy_in_the_end(&site));
        site.daemon.stop()?;
    }
    Ok(())
}

/// The cache directory remembers a time that is yet to come: uses of a daemon whose clock was a day ahead.
#[test]
fn uses_of_tomorrow_neither_lose_nor_stop_anything() -> Result<()> {
    let site = Site::new(Side::Bucket)?;
    start_at(&site, 0)?;
    site.daemon.explain(|| {
        site.back_up_told(GROUP, 0)?;
        make_garbage(&site)
    });
    site.daemon.stop()?;
    let chunks = site.local_dir().join(".chunks");
    for path in files(&chunks)? {
        let path = chunks.join(path);
        let used = fs::metadata(&path)?.accessed()? + Duration::from_secs(DAY as u64);
        File::open(&path)?.set_times(FileTimes::new().set_accessed(used))?;
    }
    start_at(&site, 0)?;
    site.daemon.explain(|| {
        // The clock goes on from there as soon as the cache is accounted for.
        let accounted = wait_for(TIME_MAX, || {
            let log = site.daemon.log();
            (log.matches("the cache is accounted for").count() == 2).then_some(())
        });
        accounted.context("the cache is not accounted for")?;
        everything_works(&site)?;
        let stored = Stored::read(&site)?;
        ensure!(!stored.chunks.is_empty());
        let shown = site.daemon.ask(
            "GET",
            &format!("admin/datastore/{STORE}/status"),
            &Value::Null,
        )?;
        ensure!(shown.status == 200, "{shown:?}");
        Ok(())
    });
    site.daemon.stop()?;
    start_at(&site, 0)?;
    site.daemon.explain(|| everything_works(&site));
    site.daemon.stop()
}
