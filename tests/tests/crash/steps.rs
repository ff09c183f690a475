//! Runs the lanes and collects the table.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result};
use holdfast_tests::process::say;
use pbs_datastore::step::Step;

use super::plan::{Cell, Kills, Lane, PLAN, Side, cells};
use super::site::{GROUP, Site};
use super::{backups, collections, oracle, reads, removals, starts};

/// Lanes at the same time. Most of them wait most of the time.
const LANES_AT_ONCE: usize = 6;

/// How many kills of a step were survived, on either side.
type Survived = BTreeMap<(Step, Side), u64>;

fn lane_of(lane: Lane, site: &Site, survived: &dyn Fn(Step, u64)) -> Result<()> {
    let drive = match lane {
        Lane::Inserts | Lane::Cache | Lane::Seals => backups::drive,
        Lane::Collections | Lane::Batches => collections::drive,
        Lane::Recoveries => collections::recover,
        Lane::Aside => reads::set_aside,
        Lane::Removals => removals::drive,
        Lane::Notes => removals::change,
        Lane::Reads => reads::drive,
        Lane::Starts => starts::drive,
        Lane::Stops => starts::stop,
        Lane::SmallFiles => return Ok(()),
    };
    let cells = cells(lane, site.side);
    if cells.is_empty() {
        return Ok(());
    }
    site.daemon.start()?;
    site.back_up(GROUP, 0).map(|name| site.doubt(name))?;
    site.daemon.stop()?;
    for cell in cells {
        if !format!("{cell:?}").contains(&std::env::var("CRASH_CELL").unwrap_or_default()) { continue; }
        let Cell { step, passing } = cell;
        let survive = || {
            let round = drive(site, cell)?;
            oracle::survives(site, &round).map(|()| round.kills)
        };
        let kills = survive();
        survived(step, kills.with_context(|| format!("killed at {step:?}, passing {passing}"))?);
    }
    at_the_end(site)
}

/// Everything once more, after a clean stop.
fn at_the_end(site: &Site) -> Result<()> {
    site.decoded
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clear();
    oracle::nothing_is_lost(site)?;
    site.daemon.start()?;
    site.verify(&site.journals())?;
    site.daemon.stop()
}

fn run_lane(lane: Lane, side: Side, survived: &dyn Fn(Step, u64)) -> Result<()> {
    let site = Site::new(side)?;
    lane_of(lane, &site, survived)
        .with_context(|| format!("{lane:?}, {side:?}\n{}", site.daemon.log_tail()))
}

fn table(survived: &Survived) -> String {
    let mut text = format!("{:<18}{:<14}{}\n", "killed at", "bucket", "directory");
    for row in PLAN {
        let step = format!("{:?}", row.step);
        let cell = |side| match (row.kills(side), survived.get(&(row.step, side))) {
            (Kills::Never(_), _) => "-".to_owned(),
            (_, Some(count)) => format!("survived {count}"),
            (_, None) => "NOT REACHED".to_owned(),
        };
        let (bucket, directory) = (cell(Side::Bucket), cell(Side::Directory));
        // Writing into a string cannot fail.
        let _ = writeln!(text, "{step:<18}{bucket:<14}{directory}");
    }
    text
}

#[test]
fn a_kill_at_every_step_loses_nothing() {
    let chosen = std::env::var("CRASH_LANES").ok();
    let wanted = |lane: Lane| {
        let name = format!("{lane:?}").to_lowercase();
        chosen
            .as_ref()
            .is_none_or(|chosen| chosen.split(',').any(|one| one == name))
    };
    let jobs: Vec<_> = Lane::ALL
        .into_iter()
        .filter(|lane| wanted(*lane))
        .flat_map(|lane| [(lane, Side::Bucket), (lane, Side::Directory)])
        .rev()
        .collect();
    let (jobs, survived, faults) = (
        Mutex::new(jobs),
        Mutex::new(Survived::new()),
        Mutex::new(Vec::new()),
    );
    let work = || {
        loop {
            let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some((lane, side)) = job else { return };
            let count = |step, kills| {
                let mut survived = survived.lock().unwrap_or_else(PoisonError::into_inner);
                *survived.entry((step, side)).or_default() += kills;
            };
            match run_lane(lane, side, &count) {
                Ok(()) => say(&format!("{lane:?}, {side:?}: survived")),
                Err(error) => {
                    say(&format!("{lane:?}, {side:?}: {error:?}"));
                    let mut faults = faults.lock().unwrap_or_else(PoisonError::into_inner);
                    faults.push(format!("{lane:?}, {side:?}: {error:#}"));
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..LANES_AT_ONCE {
            scope.spawn(work);
        }
    });
    let survived = survived.into_inner().unwrap_or_else(PoisonError::into_inner);
    let text = table(&survived);
    say(&text);
    let faults = faults.into_inner().unwrap_or_else(PoisonError::into_inner);
    assert!(faults.is_empty(), "{} lanes failed", faults.len());
    assert!(
        chosen.is_some() || !text.contains("NOT REACHED"),
        "a cell of the table is empty"
    );
}
