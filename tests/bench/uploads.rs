//! `bench uploads`: new chunks into an S3 datastore over a slow way, beside raw PUTs.
//!
//! Each pair has new content, made before the clock starts. In turn:
//! 1. *raw*: our S3 client puts the same bodies through the same proxy, under the condition that chunks are put under, with a
//!    datastore's number of requests in flight (`--raw-requests`), or as many as the clients have, if these are fewer.
//! 2. *daemon*: backups of these chunks, one session each, from the creation of the index to the answer to `finish`.
//! 3. *known*: the same chunks again in other groups, by clients that do not know that the daemon has them. `known-puts` is
//!    what the S3 server counts meanwhile: indexes, manifests and what else a backup writes, but no chunk.
//!
//! `ratio` is the time of raw by that of the daemon. Memory is the peak of the daemon's process in the whole run.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use holdfast_tests::connection::Entrance;
use holdfast_tests::measure::arguments::CommonArgs;
use holdfast_tests::measure::raw::{Objects, Raw};
use holdfast_tests::measure::report::{Report, median};
use holdfast_tests::measure::site::{STORE, Site, SiteOptions};
use holdfast_tests::measure::usage::Memory;
use holdfast_tests::process::say;
use serde_json::json;

use super::load::{
    Backup, Clients, Figure, GIB, IDLE_MIN, LoadArgs, Run, chunks, figure, plain_bytes, remove,
};

/// What backups have to reach of raw PUTs.
const RATIO_MIN: f64 = 0.90;
/// Most memory of the daemon's process.
const MEMORY_BYTES_MAX: u64 = 512 << 20;

/// New chunks into an S3 datastore over a slow way, beside raw PUTs.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct UploadsArgs {
    #[command(flatten)]
    common: CommonArgs,
    #[command(flatten)]
    way: WayArgs,
    #[command(flatten)]
    load: LoadArgs,
    /// Backups at once.
    #[arg(long, default_value_t = 16)]
    sessions: u64,
    /// Raw requests at a time; a datastore has 64 unless it is told otherwise.
    #[arg(long, default_value_t = 64, value_name = "COUNT")]
    raw_requests: usize,
    /// Pairs of runs.
    #[arg(long, default_value_t = 5)]
    pairs: u64,
}

/// The way to S3.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct WayArgs {
    /// Added to every S3 request.
    #[arg(long, default_value_t = 50, value_name = "MS")]
    pub(crate) delay_ms: u64,
    /// Most megabytes (10^6 bytes) per second, each way; 0 for no limit.
    #[arg(long, default_value_t = 60, value_name = "MB")]
    pub(crate) rate_mb: u64,
    /// One more option of `holdfast s3 add`, such as --s3-option=--requests-in-flight-max=32; may be repeated.
    #[arg(long, value_name = "OPTION")]
    pub(crate) s3_option: Vec<String>,
}

impl WayArgs {
    /// Daemon, proxy and S3 server. Chunks that nobody needs may be collected at once.
    pub(crate) fn site(&self) -> Result<Site> {
        let options: Vec<_> = self.s3_option.iter().map(String::as_str).collect();
        Site::start_with_s3(
            &SiteOptions {
                delay: Duration::from_millis(self.delay_ms),
                bytes_per_second: Some(self.rate_mb * 1_000_000).filter(|rate| *rate > 0),
                cache_bytes_max: "8 GiB",
                server: &[],
                store: &["--gc-atime-cutoff-minutes", "0"],
            },
            &options,
        )
    }

    /// Into the JSON.
    pub(crate) fn tell(&self, report: &mut Report) {
        report.detail("delay-ms", self.delay_ms);
        report.detail("bytes-per-second-max", self.rate_mb * 1_000_000);
        report.detail("s3-options", json!(self.s3_option));
    }
}

/// What one pair gave.
#[derive(Clone, Copy, Debug, Default)]
struct Pair {
    bytes: u64,
    raw: Run,
    daemon: Run,
    known: Run,
    /// PUTs of the S3 server while known chunks were sent: of indexes and manifests, and none of chunks.
    known_puts: u64,
}

impl UploadsArgs {
    /// Measures and prints.
    pub(crate) fn run(&self) -> Result<ExitCode> {
        self.common.begin()?;
        let site = self.way.site()?;
        let entrance = site.daemon().entrance()?;
        let clients = Clients::new(self.load.in_flight)?;
        let raw = Raw::connect(&site.slow_access(), site.s3().access(), self.raw_requests())?;
        let mut pairs = Vec::new();
        for number in 0..self.pairs.max(1) {
            let made = self.load.backups(self.common.seed, number, self.sessions)?;
            let pair = pair(&site, &raw, &clients, &entrance, &made)
                .with_context(|| format!("pair {}", number + 1))?;
            say(&format!(
                "pair {}: raw {:.2} s, daemon {:.2} s, known {:.2} s",
                number + 1,
                pair.raw.seconds,
                pair.daemon.seconds,
                pair.known.seconds
            ));
            pairs.push(pair);
        }
        let memory = Memory::of(site.daemon_pid()?)?.peak;
        Ok(self.report(&pairs, memory).print())
    }

    /// Raw requests at a time.
    fn raw_requests(&self) -> usize {
        let clients = self.load.in_flight.saturating_mul(self.sessions as usize);
        self.raw_requests.min(clients).max(1)
    }

    fn report(&self, pairs: &[Pair], memory: u64) -> Report {
        let bytes = pairs.first().map_or(0, |pair| pair.bytes) as f64;
        let mut report = Report::new("uploads");
        self.way.tell(&mut report);
        report.detail("pairs", pairs.len());
        report.detail("sessions", self.sessions);
        self.load.tell(&mut report);
        report.detail("bytes-per-run", bytes as u64);
        report.detail("raw-requests", self.raw_requests());
        for Figure { key, what, of } in RUNS {
            let seconds: Vec<_> = pairs.iter().map(|pair| of(pair).seconds).collect();
            let speed = bytes / median(&seconds) / 1e6;
            report.detail(&format!("{key}-seconds"), json!(seconds));
            let shown = format!("{:.2} s, {speed:.1} MB/s", median(&seconds));
            report.note(&format!("{key}-mb-per-second"), speed, what, shown);
        }
        let ratios = pairs
            .iter()
            .map(|pair| pair.raw.seconds / pair.daemon.seconds);
        let ratios: Vec<_> = ratios.collect();
        report.ratio("ratio", median(&ratios), "daemon / raw PUTs", RATIO_MIN);
        report.detail("each-ratio", json!(ratios));
        for Figure { key, what, of } in &RUNS[1..] {
            let costs = pairs.iter().map(|pair| of(pair).cpu_seconds / bytes * GIB);
            let cost = median(&costs.collect::<Vec<_>>());
            let key = format!("{key}-cpu-seconds-per-gib");
            let what = format!("processor time, {what}");
            report.note(&key, cost, &what, format!("{cost:.3} s/GiB"));
        }
        let puts = pairs.iter().map(|pair| pair.known_puts).max().unwrap_or(0);
        report.note(
            "known-puts",
            puts,
            "PUTs for known chunks, indexes and manifests",
            puts.to_string(),
        );
        let idles = pairs
            .iter()
            .flat_map(|pair| [pair.raw.idle, pair.daemon.idle]);
        idle(&mut report, &self.way, idles);
        report.bytes_at_most("vm-hwm", memory, "daemon's peak memory", MEMORY_BYTES_MAX);
        report
    }
}

fn pair(
    site: &Site,
    raw: &Raw,
    clients: &Clients,
    entrance: &Entrance,
    made: &[Backup],
) -> Result<Pair> {
    let pid = site.daemon_pid()?;
    let bodies = chunks(made).map(|chunk| chunk.encoded.clone());
    let objects = Objects::from_bodies(bodies, "raw/")?;
    let raw_run = Run::watch(pid, || raw.put(&objects))?;
    raw.remove(&objects)?;
    let send = |backups: &[Backup]| Run::watch(pid, || clients.back_up(entrance, STORE, backups));
    let daemon = send(made)?;
    let again: Vec<_> = made.iter().map(|backup| backup.renamed("known-")).collect();
    let before = puts(site)?;
    let known = send(&again)?;
    let known_puts = puts(site)? - before;
    remove(site.daemon(), STORE, &[made, &again].concat())?;
    Ok(Pair {
        bytes: plain_bytes(made),
        raw: raw_run,
        daemon,
        known,
        known_puts,
    })
}

/// PUTs that the S3 server has counted.
fn puts(site: &Site) -> Result<u64> {
    let counters = site.s3().counters()?;
    Ok(counters["PutObject"]["requests"].as_u64().unwrap_or(0))
}

const RUNS: [Figure<Pair, Run>; 3] = [
    figure("raw", "raw PUTs", |pair| pair.raw),
    figure("daemon", "daemon, new chunks", |pair| pair.daemon),
    figure("known", "daemon, known chunks sent again", |pair| {
        pair.known
    }),
];

/// The least of the idle parts. Where the way is what bounds a run, enough has to be left; where it is not limited, the
/// processors are what is measured.
pub(crate) fn idle(report: &mut Report, way: &WayArgs, idles: impl Iterator<Item = f64>) {
    let least = idles.fold(1.0, f64::min);
    let percent = |part: f64| format!("{:.1} %", 100.0 * part);
    let (key, shown) = ("idle", percent(least));
    if way.rate_mb == 0 {
        report.note(key, least, "idle, least of all runs", shown);
        return;
    }
    report.check(
        key,
        least,
        "idle, least of all runs (else repeat with a lower --rate-mb)",
        shown,
        &format!("≥ {}", percent(IDLE_MIN)),
        least >= IDLE_MIN,
    );
}
