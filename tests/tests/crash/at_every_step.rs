//! Runs the lanes and collects the table.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use holdfast_tests::checkout;
use holdfast_tests::process::say;
use pbs_datastore::Step;

use super::plan::{Cell, Kills, Lane, PLAN, Side, cells};
use super::site::{GROUP, Site};
use super::small_files::{SWEEPS, is_creation};
use super::{backups, collections, oracle, reads, removals, small_files, starts};

/// Installations at the same time. Each of them waits most of the time.
const SITES_AT_ONCE: usize = 10;
/// Kills that one installation goes through.
const CELLS_MAX: usize = 6;

/// How many kills of a step were survived, on either side.
type Survived = BTreeMap<(Step, Side), u64>;

/// What one installation goes through.
struct Job {
    lane: Lane,
    side: Side,
    cells: Vec<Cell>,
    /// For small files: the step and the number of the first kill.
    each: Option<(Step, u64)>,
}

fn jobs(wanted: impl Fn(Lane) -> bool) -> Vec<Job> {
    let mut jobs = Vec::new();
    for lane in Lane::ALL.into_iter().filter(|lane| wanted(*lane)) {
        for side in [Side::Bucket, Side::Directory] {
            let job = |cells, each| Job {
                lane,
                side,
                cells,
                each,
            };
            for row in PLAN.iter().filter(|row| row.lane == lane) {
                let sweeps = match row.kills(side) {
                    Kills::Each if is_creation(row.step) => 1,
                    Kills::Each => SWEEPS,
                    Kills::At(_) | Kills::Never(_) => 0,
                };
                jobs.extend((1..=sweeps).map(|first| job(Vec::new(), Some((row.step, first)))));
            }
            let cells = cells(lane, side);
            jobs.extend(cells.chunks(CELLS_MAX).map(|some| job(some.to_vec(), None)));
        }
    }
    jobs
}

impl Job {
    fn run(&self, survived: &dyn Fn(Step, u64)) -> Result<()> {
        let site = Site::new(self.side)?;
        self.go_through(&site, survived)
            .with_context(|| site.daemon.log_tail())
    }

    fn go_through(&self, site: &Site, survived: &dyn Fn(Step, u64)) -> Result<()> {
        let drive = match self.lane {
            Lane::Inserts | Lane::Cache | Lane::Seals => backups::drive,
            Lane::Collections | Lane::Batches => collections::drive,
            Lane::Recoveries => collections::recover,
            Lane::Aside => reads::set_aside,
            Lane::Removals => removals::drive,
            Lane::Notes => removals::change,
            Lane::Reads => reads::drive,
            Lane::Starts => starts::drive,
            Lane::Stops => starts::stop,
            Lane::SmallFiles => {
                let (step, first) = self.each.context("a step")?;
                survived(step, small_files::drive(site, step, first)?);
                return at_the_end(site);
            }
        };
        site.daemon.start()?;
        site.back_up(GROUP, 0).map(|name| site.doubt(name))?;
        site.daemon.stop()?;
        for cell in &self.cells {
            let Cell { step, passing } = *cell;
            let survive = || {
                let round = drive(site, *cell)?;
                oracle::survives(site, &round).map(|()| round.kills)
            };
            let kills = survive().with_context(|| format!("killed at {step:?}, passing {passing}"));
            survived(step, kills?);
        }
        at_the_end(site)
    }
}

/// Everything once more, after a clean stop.
fn at_the_end(site: &Site) -> Result<()> {
    locked(&site.decoded).clear();
    oracle::nothing_is_lost(site)?;
    site.daemon.start()?;
    site.verify(&site.journals())?;
    site.daemon.stop()
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn table(survived: &Survived) -> String {
    let mut text = format!("{:<18}{:<14}{}\n", "killed at", "bucket", "directory");
    let mut kills = 0;
    for row in PLAN {
        let step = format!("{:?}", row.step);
        let mut cell = |side| match (row.kills(side), survived.get(&(row.step, side))) {
            (Kills::Never(_), _) => "-".to_owned(),
            (_, Some(count)) => {
                kills += count;
                format!("survived {count}")
            }
            (_, None) => "NOT REACHED".to_owned(),
        };
        let (bucket, directory) = (cell(Side::Bucket), cell(Side::Directory));
        let why = match (row.bucket, row.directory) {
            (Kills::Never(why), _) | (_, Kills::Never(why)) => why,
            _ => "",
        };
        // Writing into a string cannot fail.
        let _ = writeln!(text, "{step:<18}{bucket:<14}{directory:<14}{why}");
    }
    let _ = writeln!(text, "{kills} kills survived");
    text
}

#[test]
fn a_kill_loses_nothing() -> Result<()> {
    let chosen = std::env::var("CRASH_LANES").ok();
    let mut jobs = jobs(|lane| {
        let name = format!("{lane:?}").to_lowercase();
        let chosen = chosen.as_ref();
        chosen.is_none_or(|chosen| chosen.split(',').any(|one| one == name))
    });
    jobs.reverse();
    let (jobs, survived, failed) = (Mutex::new(jobs), Mutex::new(Survived::new()), Mutex::new(0));
    let work = || {
        loop {
            let Some(job) = locked(&jobs).pop() else {
                return;
            };
            let (lane, side) = (job.lane, job.side);
            let count = |step, kills| {
                *locked(&survived).entry((step, side)).or_default() += kills;
            };
            if let Err(error) = job.run(&count) {
                say(&format!("{lane:?}, {side:?}: {error:?}"));
                *locked(&failed) += 1;
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..SITES_AT_ONCE {
            scope.spawn(work);
        }
    });
    let text = table(&locked(&survived));
    say(&text);
    let place = checkout::target_dir()?.join("tmp");
    std::fs::create_dir_all(&place)?;
    std::fs::write(place.join("crash-steps.txt"), &text)?;
    assert_eq!(*locked(&failed), 0, "installations failed");
    assert!(
        chosen.is_some() || !text.contains("NOT REACHED"),
        "a cell of the table is empty"
    );
    Ok(())
}
