//! Killed while it collects garbage, and while it recovers from that.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use holdfast_tests::content::noise;
use holdfast_tests::process::wait_for;
use pbs_datastore::Step;
use pbs_datastore::{DataBlob, Digest};
use s3_client::{Action, Effect, Fault, ObjectKey, Op, Put};

use super::oracle::Round;
use super::plan::{Cell, Side};
use super::site::{GROUP, STORE, Site, TIME_MAX};
use super::stored::files;

/// One more than a batch of deletes holds.
const STRAYS: u64 = 16_001;
/// Between two collections; what is young is not collected yet.
const PAUSE: Duration = Duration::from_millis(200);

/// Makes chunks that nobody needs; answers the number of the backup that they were made by.
fn make_garbage(site: &Site) -> Result<u64> {
    let number = site.fresh_number();
    let name = site.back_up("garbage", number)?;
    ensure!(site.forget(&name)?.status == 200, "it cannot be forgotten");
    Ok(number)
}

/// Puts small chunks into the bucket or the directory that nobody knows of.
pub(crate) fn put_strays(site: &Site, count: u64) -> Result<()> {
    for number in 0..count {
        let content = Bytes::from(noise(site.fresh_number() + number, 64));
        let digest = Digest::of(&content).to_string();
        let folder = format!(".chunks/{}", &digest[..4]);
        let blob = DataBlob::encode_plain(content)?.encoded();
        if let Some(server) = &site.server {
            let key = ObjectKey::new(format!("{STORE}/{folder}/{digest}"))?;
            let put = server.store().put(Put::new(key, blob));
            server.runtime().block_on(put)?;
        } else {
            let dir = site.local_dir().join(folder);
            fs::create_dir_all(&dir)?;
            fs::write(dir.join(digest), blob)?;
        }
    }
    Ok(())
}

/// Removes some markers of chunks that are in use, as if the cache directory had lost them.
fn lose_markers(site: &Site) -> Result<()> {
    let chunks = site.local_dir().join(".chunks");
    let markers = files(&chunks)?;
    ensure!(markers.len() > 4, "there are no markers");
    for marker in &markers[..4] {
        fs::remove_file(chunks.join(marker))?;
    }
    Ok(())
}

/// Garbage is collected until the step is passed.
pub(crate) fn drive(site: &Site, cell: Cell) -> Result<Round> {
    collect_to_death(site, cell).map(|_| Round::quiet(site))
}

fn collect_to_death(site: &Site, cell: Cell) -> Result<u64> {
    site.daemon.start()?;
    let garbage = make_garbage(site)?;
    site.daemon.stop()?;
    let in_second_batch = format!("{:?}", cell.step).starts_with("Batch") && cell.passing == 2;
    if in_second_batch && site.side == Side::Bucket {
        put_strays(site, STRAYS)?;
    }
    if cell.step == Step::GcReconciled {
        lose_markers(site)?;
    }
    if cell.step == Step::BatchWaited {
        let chunks = Fault::on(Op::Delete).containing("/.chunks/");
        let plan = site.server()?.plan();
        plan.add(chunks.then(Action::Lose(Effect::Now)));
    }
    site.start_to_die_at(cell)?;
    wait_for(TIME_MAX, || {
        if site.is_dead() {
            return Some(());
        }
        // It dies in the middle of one of these.
        let _ = site.collect();
        std::thread::sleep(PAUSE);
        None
    })
    .context("no collection passes the step")?;
    site.dies()?;
    if let Some(server) = &site.server {
        server.plan().calm();
    }
    Ok(garbage)
}

/// Killed again, and again, while it recovers from a crash after the deletes of a batch.
pub(crate) fn recover(site: &Site, cell: Cell) -> Result<Round> {
    let deleted = Cell {
        step: Step::BatchDeleted,
        passing: 1,
    };
    let garbage = collect_to_death(site, deleted)?;
    if cell.step == Step::RecoveryBegun {
        for _ in 0..2 {
            site.begin_to_die_at(cell)?;
            site.dies()?;
        }
        return Ok(Round {
            kills: 2,
            ..Round::quiet(site)
        });
    }
    // Somebody wants what was being deleted, and has to wait for its release.
    let journal = site.journal()?;
    site.start_to_die_at(cell)?;
    let mut client = site.start_backups(GROUP, garbage, &journal)?;
    let died = site.dies();
    let ended = client.wait(TIME_MAX);
    died?;
    ensure!(
        ended.is_some_and(|status| status.success()),
        "the client was refused something: {ended:?}"
    );
    Ok(Round {
        journal: Some(journal),
        number: garbage,
        ..Round::quiet(site)
    })
}
