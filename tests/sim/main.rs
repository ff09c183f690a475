//! `cargo sim`: the real store under everything that can go wrong, thousands of times, each time the same for its seed.
//!
//! Each seed is a small world: a bucket or a disk, one daemon after the other, clients, readers, garbage collection,
//! deletions, crashes, losses of power, lost and late answers, full and failing disks. One thread, paused time, no request
//! leaves the process. An oracle holds what everybody was told.
//!
//! `cargo sim --months 20` runs months of two daemons that are synced, pruned, collected and verified ([`month`]).
//!
//! `SIM_SEED=17 cargo sim` replays one seed and prints its history; `cargo sim --seeds 20000` runs many.
#![expect(clippy::print_stdout, reason = "the tables are the program's purpose")]

mod client;
mod content;
mod copier;
mod forced;
mod life;
mod line;
mod month;
mod months;
mod network;
mod operator;
mod oracle;
mod quiet;
mod reader;
mod run;
mod scenario;
mod table;
mod told;
mod world;

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use clap::Parser;
use rand::RngExt as _;

use table::Totals;
use world::Way;

/// Threads, each with worlds of its own.
const THREADS: usize = 2;

/// Violations of one seed that are shown.
const SHOWN_MAX: usize = 5;

/// Runs the store in simulated worlds and checks that nothing is lost.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many seeds to run.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// After the seeds, go on with fresh ones for so many seconds.
    #[arg(long, default_value_t = 0)]
    seconds: u64,
    /// End as soon as so many seeds have shown violations.
    #[arg(long, default_value_t = 5)]
    violations_max: usize,
    /// Fail if one of the branches that are forced in turn never came about.
    #[arg(long)]
    no_empty_cell: bool,
    /// Send requests through the AWS SDK, the connector and HTTP, over connections that break: four times slower.
    #[arg(long)]
    sdk: bool,
    /// Run so many months of two daemons instead, from the first on.
    #[arg(long, default_value_t = 0)]
    months: u64,
    /// Run this month alone and print its history.
    #[arg(long, env = "SIM_MONTH")]
    month: Option<u64>,
    /// Print only the digest of each seed's history.
    #[arg(long)]
    histories: bool,
    /// Run this seed alone and print its history.
    #[arg(long, env = "SIM_SEED")]
    seed: Option<u64>,
}

impl Arguments {
    fn way(&self) -> Way {
        if self.sdk { Way::Sdk } else { Way::Call }
    }
}

/// What several threads work through.
struct Work {
    next: AtomicU64,
    stop: AtomicBool,
    found: Mutex<Vec<(u64, Vec<String>)>>,
    totals: Mutex<Totals>,
}

impl Work {
    fn one(&self, seed: u64, arguments: &Arguments, totals: &mut Totals) {
        let outcome = run::run(seed, arguments.way(), false);
        totals.add(&outcome);
        if arguments.histories {
            println!("{seed} {}", outcome.history);
        }
        if !outcome.violations.is_empty() {
            let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
            found.push((seed, outcome.violations));
            if found.len() >= arguments.violations_max {
                self.stop.store(true, Ordering::Release);
            }
        }
    }

    fn seeds(&self, end: u64, arguments: &Arguments) {
        let mut totals = Totals::default();
        while !self.stop.load(Ordering::Acquire) {
            let seed = self.next.fetch_add(1, Ordering::AcqRel);
            if seed >= end {
                break;
            }
            self.one(seed, arguments, &mut totals);
        }
        self.totals
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .merge(&totals);
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a bound on how long the program runs, not part of any world"
)]
fn now() -> std::time::Instant {
    std::time::Instant::now()
}

#[expect(
    clippy::disallowed_methods,
    reason = "fresh seeds are meant to be others each time"
)]
fn fresh_seed() -> u64 {
    // Well above the fixed ones, and short enough to type.
    rand::rng().random_range(1_000_000..1_000_000_000)
}

fn replay(seed: u64, way: Way) -> ExitCode {
    let outcome = run::run(seed, way, true);
    println!("seed {seed}: history {}", outcome.history);
    for violation in &outcome.violations {
        println!("VIOLATION {violation}");
    }
    ExitCode::from(u8::from(!outcome.violations.is_empty()))
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if !cfg!(debug_assertions) {
        println!("a release has no steps to look at: run this without --release");
        return ExitCode::from(2);
    }
    if let Ok(name) = std::env::var("HOLDFAST_SABOTAGE")
        && pbs_datastore::sabotage::rule_off().is_none()
    {
        println!("there is no rule '{name}' that could be turned off");
        return ExitCode::from(2);
    }
    if let Some(month) = arguments.month {
        return months::replay(month);
    }
    if arguments.months > 0 {
        return months::all(&arguments, now());
    }
    if let Some(seed) = arguments.seed {
        return replay(seed, arguments.way());
    }
    let work = Work {
        next: AtomicU64::new(arguments.first),
        stop: AtomicBool::new(false),
        found: Mutex::default(),
        totals: Mutex::default(),
    };
    let began = now();
    let in_parallel = |end: u64| {
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| work.seeds(end, &arguments));
            }
        });
    };
    in_parallel(arguments.first + arguments.seeds);
    let (fixed_done, longest) = (now(), Duration::from_secs(arguments.seconds));
    while fixed_done.elapsed() < longest && !work.stop.load(Ordering::Acquire) {
        let first = fresh_seed();
        work.next.store(first, Ordering::Release);
        in_parallel(first + 50);
    }
    report(&arguments, &work, began.elapsed())
}

fn report(arguments: &Arguments, work: &Work, took: Duration) -> ExitCode {
    let totals = work.totals.lock().unwrap_or_else(PoisonError::into_inner);
    let mut found = work.found.lock().unwrap_or_else(PoisonError::into_inner);
    found.sort_unstable();
    if !arguments.histories {
        println!("{}", totals.text());
        println!(
            "{} seeds, {} lives, {} comparisons with the truth, {:.0} s",
            totals.runs,
            totals.lives,
            totals.checks,
            took.as_secs_f64()
        );
    }
    for (seed, violations) in found.iter() {
        for violation in violations.iter().take(SHOWN_MAX) {
            println!("SIM_SEED={seed}: {violation}");
        }
    }
    let empty = if arguments.no_empty_cell {
        totals.empty_cells()
    } else {
        Vec::new()
    };
    for cell in &empty {
        println!("never came about: {cell}");
    }
    println!("{} seeds with violations", found.len());
    ExitCode::from(u8::from(!found.is_empty() || !empty.is_empty()))
}
