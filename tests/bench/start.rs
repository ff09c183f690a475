//! `start`: how long a daemon takes to begin with very many markers, and what an idle one needs.
//!
//! 1. *Idle*: a new installation with an empty datastore in a bucket; its resident memory (`VmRSS`) after 20 s in which
//!    nothing happened: the allocator keeps what a start needed for more than ten seconds. Beside it the part that is no
//!    file (`RssAnon`); the rest is mostly the program itself, as much of it as was used.
//! 2. *Start*: a datastore whose cache directory has a million markers with their chunks in them
//!    ([`population`](crate::population); the bucket does not have the chunks, for no start asks it). The daemon is
//!    stopped cleanly and started, several times. *Serving*: from the start of its process until `/health/ready` says so,
//!    over TLS as anybody would ask, every 20 ms. *Full*: until its log says that the cache is accounted for. The caches
//!    of the file system are warm.
//! 3. The resident memory of that daemon when it is idle.

use std::fs;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use holdfast_tests::measure::arguments::CommonArgs;
use holdfast_tests::measure::report::{Report, median, mib};
use holdfast_tests::measure::usage::Memory;
use holdfast_tests::process::say;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::population::{Populated, Population, Way};

/// Until requests are answered.
const SERVING_SECONDS_MAX: f64 = 2.0;
/// Until the cache is known.
const FULL_SECONDS_MAX: f64 = 20.0;
/// What a daemon without work may have resident.
const IDLE_BYTES_MAX: u64 = 40 << 20;

/// The start of a daemon with very many markers, and the memory of an idle one.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct StartArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Markers in the cache directory.
    #[arg(long, default_value_t = 1_000_000)]
    markers: u64,
    /// The markers are those of evicted chunks: nothing is in them.
    #[arg(long)]
    evicted: bool,
    /// Starts.
    #[arg(long, default_value_t = 5)]
    rounds: u64,
    /// Nothing happens for so long before memory is looked at.
    #[arg(long, default_value_t = 20, value_name = "SECONDS")]
    rest_seconds: u64,
}

/// What is started, and how often.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StartSizes {
    /// Decides all content.
    pub(crate) seed: u64,
    /// Markers in the cache directory.
    pub(crate) markers: u64,
    /// Whether they hold their chunks.
    pub(crate) cached: bool,
    /// Starts.
    pub(crate) rounds: u64,
    /// Before memory is looked at.
    pub(crate) rest: Duration,
}

/// What was measured.
#[derive(Clone, Debug)]
pub(crate) struct Starts {
    /// Seconds until requests are answered, of each start.
    pub(crate) serving: Vec<f64>,
    /// Seconds until the cache is known, of each start.
    pub(crate) full: Vec<f64>,
    /// Memory of an idle daemon with an empty datastore.
    pub(crate) empty: Resident,
    /// Memory of the daemon with the markers, idle.
    pub(crate) idle: Resident,
}

/// Resident memory in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Resident {
    /// All of it.
    pub(crate) all: u64,
    /// What is no page of a file.
    pub(crate) anonymous: u64,
}

impl Resident {
    /// Of a process.
    fn of(pid: u32) -> Result<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        Ok(Self {
            all: Memory::of(pid)?.resident,
            anonymous: anonymous(&status).context("the kernel tells no RssAnon")?,
        })
    }
}

fn anonymous(status: &str) -> Option<u64> {
    let mut lines = status.lines();
    let rest = lines.find_map(|line| line.strip_prefix("RssAnon:"))?;
    let kib: u64 = rest.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib << 10)
}

impl StartSizes {
    /// Measures all of it.
    pub(crate) fn measure(&self) -> Result<Starts> {
        let mut population = Population {
            seed: self.seed,
            chunks: 0,
            garbage_percent: 0,
            snapshots: 0,
            entries: 0,
            stored: false,
            cached: self.cached,
        };
        let idle = |populated: &Populated| {
            thread::sleep(self.rest);
            Resident::of(populated.pid()?)
        };
        let empty = idle(&Populated::start(population, Way::default())?)?;
        population.chunks = self.markers;
        let populated = Populated::start(population, Way::default())?;
        let (mut serving, mut full) = (Vec::new(), Vec::new());
        for number in 1..=self.rounds.max(1) {
            populated.daemon().stop()?;
            populated.daemon().take_log();
            let began = Instant::now();
            populated.daemon().start()?;
            serving.push(began.elapsed().as_secs_f64());
            populated.wait_until_accounted()?;
            let all = began.elapsed().as_secs_f64();
            say(&format!("start {number}: full after {all:.2} s"));
            full.push(all);
        }
        Ok(Starts {
            serving,
            full,
            empty,
            idle: idle(&populated)?,
        })
    }
}

impl Starts {
    /// All figures.
    pub(crate) fn to_json(&self) -> Value {
        json!({
            "serving-seconds": self.serving,
            "full-seconds": self.full,
            "empty-bytes": self.empty.all,
            "empty-anonymous-bytes": self.empty.anonymous,
            "idle-bytes": self.idle.all,
            "idle-anonymous-bytes": self.idle.anonymous,
        })
    }
}

impl StartArgs {
    /// Measures and prints.
    pub(crate) fn run(&self) -> Result<ExitCode> {
        self.common.begin()?;
        let sizes = StartSizes {
            seed: self.common.seed,
            markers: self.markers,
            cached: !self.evicted,
            rounds: self.rounds,
            rest: Duration::from_secs(self.rest_seconds),
        };
        let starts = sizes.measure()?;
        let mut report = Report::new("start");
        report.detail("markers", self.markers);
        report.detail("cached", !self.evicted);
        report.detail("starts", starts.to_json());
        for (key, what, all, most) in [
            (
                "serving-seconds",
                "until it serves, median",
                &starts.serving,
                SERVING_SECONDS_MAX,
            ),
            (
                "full-seconds",
                "until the cache is known, median",
                &starts.full,
                FULL_SECONDS_MAX,
            ),
        ] {
            let middle = median(all);
            let (shown, wanted) = (format!("{middle:.2} s"), format!("≤ {most:.0} s"));
            report.check(key, middle, what, shown, &wanted, middle <= most);
        }
        let (key, what) = ("empty-bytes", "idle, empty datastore");
        report.bytes_at_most(key, starts.empty.all, what, IDLE_BYTES_MAX);
        for (key, what, bytes) in [
            (
                "empty-anonymous-bytes",
                "not of files among it",
                starts.empty.anonymous,
            ),
            ("idle-bytes", "idle, with the markers", starts.idle.all),
            (
                "idle-anonymous-bytes",
                "not of files among it",
                starts.idle.anonymous,
            ),
        ] {
            report.note(key, bytes, what, mib(bytes));
        }
        Ok(report.print())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_what_is_no_file() {
        let status =
            "Name:\tx\nVmRSS:\t   41968 kB\nRssAnon:\t    4496 kB\nRssFile:\t   37472 kB\n";
        assert_eq!(anonymous(status), Some(4496 << 10));
        assert_eq!(anonymous("VmRSS:\t 1 kB"), None);
    }
}
