//! `gc`: collections of garbage in a large datastore.
//!
//! Each round fills a new datastore ([`population`](crate::population)) and collects once, with a cutoff of 0. The
//! markers were made a moment before, so the file system's caches are warm. How much of the processors was idle is shown
//! and not judged: but for the delay a collection is work for them. What is measured says
//! [`collection`](crate::collection); with garbage the sweep is held against its ceilings, which are taken before it
//! ([`sweep_ceilings`](crate::sweep_ceilings)).
//!
//! *How fast marking is* has two parts, which one population cannot tell apart. So two more are made, in which nearly
//! everything is one of the two, and nothing is subtracted: 500 snapshots that all name the same 20,000 chunks (the
//! entries of 99.8 % are known), and 20 snapshots that together name each of 400,000 chunks once (every entry is a first
//! touch). Reading, checking and taking apart the indexes counts in both.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use holdfast_tests::measure::arguments::CommonArgs;
use holdfast_tests::measure::report::{Report, median, mib};
use holdfast_tests::process::say;
use serde_json::{Value, json};

use crate::collection::Collection;
use crate::population::{Populated, Population, Way};
use crate::sweep_ceilings::SweepCeilings;

/// What a collection of a million chunks named by 500 snapshots, without garbage and delay, may take.
const SECONDS_MAX: f64 = 60.0;
/// And the whole process that runs it.
const PEAK_BYTES_MAX: u64 = 300 << 20;
/// How much of the slower ceiling's speed a sweep has to reach.
const SWEEP_MIN: f64 = 0.90;
/// Index entries per second whose chunks are known to be touched.
const KNOWN_PER_SECOND_MIN: f64 = 3e6;
/// First touches per second.
const TOUCHES_PER_SECOND_MIN: f64 = 200e3;
/// Entries of an index, where there are enough chunks.
const ENTRIES: u64 = 20_000;

/// Collections of garbage in a datastore with very many chunks.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct GcArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Chunks of the datastore, garbage among them.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    chunks: u64,
    /// Snapshots that share them.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    snapshots: u64,
    /// Chunks that no snapshot names, of a hundred.
    #[arg(long, default_value_t = 0, value_name = "PERCENT", value_parser = clap::value_parser!(u64).range(..=100))]
    garbage: u64,
    /// Entries of each index; more if chunks would be named by nobody otherwise.
    #[arg(long, default_value_t = ENTRIES)]
    entries: u64,
    /// Added to every S3 request.
    #[arg(long, default_value_t = 0, value_name = "MS")]
    delay_ms: u64,
    /// Most megabytes (10^6 bytes) per second, each way; 0 for any number.
    #[arg(long, default_value_t = 0, value_name = "MB")]
    rate_mb: u64,
    /// Rounds, each with a datastore of its own; figures are medians.
    #[arg(long, default_value_t = 1)]
    rounds: u64,
    /// Leave out the two populations that tell how fast marking is.
    #[arg(long)]
    no_mark: bool,
}

/// What is collected, and over which way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GcSizes {
    /// Decides all content.
    pub(crate) seed: u64,
    /// Chunks of the datastore, garbage among them.
    pub(crate) chunks: u64,
    /// Snapshots that share them.
    pub(crate) snapshots: u64,
    /// Chunks that no snapshot names, of a hundred.
    pub(crate) garbage_percent: u64,
    /// Entries of each index.
    pub(crate) entries: u64,
    /// Between daemon and S3 server.
    pub(crate) way: Way,
}

/// What one round gave.
#[derive(Clone, Debug)]
pub(crate) struct GcRound {
    /// The collection.
    pub(crate) collection: Collection,
    /// What bounds its sweep, if there was garbage.
    pub(crate) ceilings: Option<SweepCeilings>,
}

impl GcSizes {
    /// A datastore of so many chunks and snapshots without garbage, with nothing in the way.
    pub(crate) fn clean(seed: u64, chunks: u64, snapshots: u64) -> Self {
        Self {
            seed,
            chunks,
            snapshots,
            garbage_percent: 0,
            entries: ENTRIES,
            way: Way::default(),
        }
    }

    /// Fills a datastore and collects its garbage once.
    pub(crate) fn measure(&self) -> Result<GcRound> {
        let population = Population {
            seed: self.seed,
            chunks: self.chunks,
            garbage_percent: self.garbage_percent,
            snapshots: self.snapshots,
            entries: self.entries,
            stored: true,
            cached: false,
        };
        let garbage = population.garbage();
        let ceilings = match garbage {
            0 => None,
            _ => Some(SweepCeilings::measure(&population, self.way)?),
        };
        let populated = Populated::start(population, self.way)?;
        let collection = Collection::run(&populated)?;
        ensure!(
            collection.removed == garbage && collection.in_use == population.used(),
            "{garbage} chunks are garbage and {} in use, but: {}",
            population.used(),
            collection.to_json()
        );
        Ok(GcRound {
            collection,
            ceilings,
        })
    }

    /// Whether the bounds of a collection are about these sizes.
    fn are_those_of_the_bounds(&self) -> bool {
        self.chunks == 1_000_000
            && self.snapshots == 500
            && self.garbage_percent == 0
            && self.way.delay.is_zero()
            && self.way.bytes_per_second.is_none()
    }
}

impl GcRound {
    /// How much of the slower ceiling's speed the sweep reached.
    pub(crate) fn sweep_ratio(&self) -> Option<f64> {
        let slower = self.ceilings.as_ref()?.slower();
        Some(slower / self.collection.sweep_seconds)
    }

    /// All figures.
    pub(crate) fn to_json(&self) -> Value {
        let mut figures = self.collection.to_json();
        if let Some(ceilings) = &self.ceilings {
            figures["raw-delete-seconds"] = json!(ceilings.side_by_side);
            figures["raw-delete-cpu-seconds"] = json!(ceilings.side_by_side_cpu);
            figures["raw-delete-in-turn-seconds"] = json!(ceilings.in_turn);
            figures["unlink-seconds"] = json!(ceilings.unlink);
            figures["sweep-ratio"] = json!(self.sweep_ratio());
        }
        figures
    }
}

impl GcArgs {
    /// Measures and prints.
    pub(crate) fn run(&self) -> Result<ExitCode> {
        self.common.begin()?;
        let sizes = GcSizes {
            seed: self.common.seed,
            chunks: self.chunks,
            snapshots: self.snapshots,
            garbage_percent: self.garbage,
            entries: self.entries,
            way: Way {
                delay: Duration::from_millis(self.delay_ms),
                bytes_per_second: (self.rate_mb > 0).then_some(self.rate_mb * 1_000_000),
            },
        };
        let rounds = self.each("round", &sizes)?;
        let mut report = Report::new("gc");
        report.detail("chunks", self.chunks);
        report.detail("snapshots", self.snapshots);
        report.detail("garbage-percent", self.garbage);
        report.detail("delay-ms", self.delay_ms);
        report.detail("rate-mb", self.rate_mb);
        report.detail("rounds", to_json(&rounds));
        report_collection(&mut report, &rounds, &sizes);
        report_sweep(&mut report, &rounds);
        if !self.no_mark {
            let known = GcSizes::clean(self.common.seed, ENTRIES, 500);
            let known = self.each("known entries, round", &known)?;
            report.detail("known-entries-rounds", to_json(&known));
            report_speed(
                &mut report,
                "known-entries-per-second",
                middle(&known, |round| Some(round.collection.entries_per_second())),
                "entries whose chunk is known, marked",
                KNOWN_PER_SECOND_MIN,
            );
            let first = GcSizes::clean(self.common.seed, 20 * ENTRIES, 20);
            let first = self.each("first touches, round", &first)?;
            report.detail("first-touches-rounds", to_json(&first));
            report_speed(
                &mut report,
                "first-touches-per-second",
                middle(&first, |round| Some(round.collection.touches_per_second())),
                "first touches",
                TOUCHES_PER_SECOND_MIN,
            );
        }
        Ok(report.print())
    }

    fn each(&self, what: &str, sizes: &GcSizes) -> Result<Vec<GcRound>> {
        (1..=self.rounds.max(1))
            .map(|number| {
                let round = sizes.measure()?;
                let taken = &round.collection;
                say(&format!(
                    "{what} {number}: {:.2} s, mark {:.2} s, sweep {:.2} s",
                    taken.seconds, taken.mark_seconds, taken.sweep_seconds
                ));
                Ok(round)
            })
            .collect()
    }
}

fn to_json(rounds: &[GcRound]) -> Value {
    rounds.iter().map(GcRound::to_json).collect()
}

/// The median of what the rounds say; `None` where they say nothing.
fn middle(rounds: &[GcRound], of: impl Fn(&GcRound) -> Option<f64>) -> Option<f64> {
    let all: Vec<f64> = rounds.iter().filter_map(of).collect();
    (!all.is_empty()).then(|| median(&all))
}

fn report_collection(report: &mut Report, rounds: &[GcRound], sizes: &GcSizes) {
    let seconds = |of: fn(&Collection) -> f64| {
        middle(rounds, |round| Some(of(&round.collection))).unwrap_or_default()
    };
    let most = rounds.iter().map(|round| round.collection.peak_bytes).max();
    let (whole, most) = (seconds(|taken| taken.seconds), most.unwrap_or_default());
    let (key, what) = ("seconds", "collection");
    if sizes.are_those_of_the_bounds() {
        let (shown, wanted) = (format!("{whole:.2} s"), format!("≤ {SECONDS_MAX:.0} s"));
        report.check(key, whole, what, shown, &wanted, whole <= SECONDS_MAX);
        report.bytes_at_most(
            "peak-bytes",
            most,
            "peak memory of the daemon",
            PEAK_BYTES_MAX,
        );
    } else {
        report.note(key, whole, what, format!("{whole:.2} s"));
        report.note("peak-bytes", most, "peak memory of the daemon", mib(most));
    }
    for (key, what, value) in [
        ("mark-seconds", "mark", seconds(|taken| taken.mark_seconds)),
        (
            "sweep-seconds",
            "sweep",
            seconds(|taken| taken.sweep_seconds),
        ),
    ] {
        report.note(key, value, what, format!("{value:.2} s"));
    }
    let Some(last) = rounds.last().map(|round| &round.collection) else {
        return;
    };
    let count = |report: &mut Report, key: &str, what: &str, value: u64| {
        report.note(key, value, what, value.to_string());
    };
    count(report, "index-entries", "index entries", last.entries);
    count(
        report,
        "first-touches",
        "first touches among them",
        last.first_touches,
    );
    count(report, "removed-chunks", "chunks removed", last.removed);
    let requests: u64 = last.requests.values().sum();
    report.note(
        "requests",
        json!(last.requests),
        "S3 requests",
        requests.to_string(),
    );
    let idle = rounds
        .iter()
        .map(|round| round.collection.idle)
        .fold(1.0, f64::min);
    report.note(
        "idle",
        idle,
        "idle, least",
        format!("{:.1} %", 100.0 * idle),
    );
}

fn report_sweep(report: &mut Report, rounds: &[GcRound]) {
    let ceiling =
        |of: fn(&SweepCeilings) -> f64| middle(rounds, |round| round.ceilings.as_ref().map(of));
    for (key, what, value) in [
        (
            "raw-delete-seconds",
            "raw deletes, side by side",
            ceiling(|c| c.side_by_side),
        ),
        (
            "raw-delete-cpu-seconds",
            "processor time of that, both ends",
            ceiling(|c| c.side_by_side_cpu),
        ),
        (
            "raw-delete-in-turn-seconds",
            "raw deletes, one after the other",
            ceiling(|c| c.in_turn),
        ),
        (
            "unlink-seconds",
            "unlinking the markers",
            ceiling(|c| c.unlink),
        ),
    ] {
        if let Some(value) = value {
            report.note(key, value, what, format!("{value:.2} s"));
        }
    }
    if let Some(ratio) = middle(rounds, GcRound::sweep_ratio) {
        report.ratio(
            "sweep",
            ratio,
            "sweep / the slower of deletes and unlinking",
            SWEEP_MIN,
        );
    }
}

fn report_speed(report: &mut Report, key: &str, value: Option<f64>, what: &str, least: f64) {
    let value = value.unwrap_or_default();
    let shown = format!("{:.3} million/s", value / 1e6);
    let wanted = format!("≥ {:.1} million/s", least / 1e6);
    report.check(key, value, what, shown, &wanted, value >= least);
}
