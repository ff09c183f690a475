//! `bench restore`: chunks read back from an S3 datastore over a slow way, beside raw GETs.
//!
//! One reader session, as clients have it: it downloads the index before the clock starts, then asks for one chunk after the
//! other (`--in-flight`), in the order of the index or in one drawn by lot. Every chunk is compared with what was sent. The cache
//! is cold (the daemon is stopped, its cache directory removed, the daemon started), or warm (read once before).
//!
//! 1. In pairs, in turn: *raw*, our S3 client gets the same bodies through the same proxy, as many at a time as fit into the
//!    datastore's read-ahead; and *daemon*, the reader. `ratio` is the time of raw by that of the daemon.
//! 2. What read-ahead brings, for small chunks (`--gain-chunk-kib`), cold: in turn the reader with the index's order, and with the
//!    opposite one, where nothing can be read ahead (the daemon's own counter of bytes read ahead must not move; there is no
//!    setting that switches it off). `gain` is the speed of the first by that of the second. With large chunks the rate
//!    of the way bounds the gain: a chunk of 4 MiB takes longer than a delay of 50 ms at 60 MB/s.

use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use holdfast_tests::connection::Entrance;
use holdfast_tests::measure::arguments::CommonArgs;
use holdfast_tests::measure::noise::Noise;
use holdfast_tests::measure::raw::{Objects, Raw};
use holdfast_tests::measure::report::{Report, median};
use holdfast_tests::measure::site::{STORE, Site};
use holdfast_tests::process::say;
use serde_json::json;

use super::load::{Backup, Clients, Figure, GIB, Run, Shape, backups, chunks, figure, plain_bytes};
use super::uploads::{WayArgs, idle};

/// What the reader has to reach of raw GETs.
const RATIO_MIN: f64 = 0.90;
/// How much faster read-ahead has to make the reader.
const GAIN_MIN: f64 = 10.0;
/// What a datastore reads ahead of one reader: bytes and chunks.
const AHEAD_BYTES_MAX: u64 = 32 << 20;
const AHEAD_CHUNKS_MAX: u64 = 64;
/// Numbers of the rounds whose content the two parts read.
const MAIN: u64 = 0;
const GAIN: u64 = 1;

/// Chunks read back from an S3 datastore over a slow way, beside raw GETs.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct RestoreArgs {
    #[command(flatten)]
    common: CommonArgs,
    #[command(flatten)]
    way: WayArgs,
    #[command(flatten)]
    load: RestoreLoad,
}

/// What is read, and how.
#[derive(Clone, Debug, clap::Args)]
struct RestoreLoad {
    /// KiB of a chunk, at most 16384.
    #[arg(long, default_value_t = 4096, value_name = "KIB")]
    chunk_kib: u64,
    /// MiB that are read in each run.
    #[arg(long, default_value_t = 512)]
    mib: u64,
    /// The order in which chunks are asked for.
    #[arg(long, value_enum, default_value_t = Order::Sequential)]
    order: Order,
    /// From a cache that holds everything.
    #[arg(long)]
    warm: bool,
    /// Chunks asked for at once.
    #[arg(long, default_value_t = 1, value_name = "COUNT")]
    in_flight: usize,
    /// Raw requests at a time, instead of as many as fit into the datastore's read-ahead.
    #[arg(long, value_name = "COUNT")]
    raw_requests: Option<u64>,
    /// Pairs of runs.
    #[arg(long, default_value_t = 5)]
    pairs: u64,
    /// KiB of a chunk where the gain of read-ahead is measured; 0 leaves that part out.
    #[arg(long, default_value_t = 128, value_name = "KIB")]
    gain_chunk_kib: u64,
    /// MiB that are read for it with read-ahead. A part of it is read without.
    #[arg(long, default_value_t = 128)]
    gain_mib: u64,
    /// Which part, in percent.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=100))]
    gain_percent: u64,
}

/// The order in which chunks are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Order {
    /// As in the index.
    Sequential,
    /// By lot, the same in each run.
    Random,
}

impl Order {
    fn places(self, count: usize, seed: u64) -> Vec<usize> {
        let mut places: Vec<usize> = (0..count).collect();
        if self == Self::Random {
            let mut noise = Noise::new(seed);
            for end in (1..count).rev() {
                places.swap(end, noise.below(end as u64 + 1) as usize);
            }
        }
        places
    }
}

impl RestoreLoad {
    fn raw_requests(&self) -> u64 {
        let ahead = AHEAD_BYTES_MAX / (self.chunk_kib << 10).max(1);
        let requests = self.raw_requests.unwrap_or(ahead.min(AHEAD_CHUNKS_MAX));
        requests.max(1)
    }
}

/// One pair of the first part.
#[derive(Clone, Copy, Debug, Default)]
struct Pair {
    raw: Run,
    daemon: Run,
}

/// One pair of the second: speeds in bytes per second, and the idle part in each.
#[derive(Clone, Copy, Debug, Default)]
struct Gain {
    ahead: f64,
    alone: f64,
    ahead_idle: f64,
    alone_idle: f64,
}

impl RestoreArgs {
    /// Measures and prints.
    pub(crate) fn run(&self) -> Result<ExitCode> {
        self.common.begin()?;
        let Self { common, way, load } = self;
        let bench = Bench::start(way, load)?;
        let mut report = Report::new("restore");
        way.tell(&mut report);
        let mut idles = bench.against_raw(load, common.seed, &mut report)?;
        if load.gain_chunk_kib > 0 {
            idles.extend(bench.gain(load, common.seed, &mut report)?);
        }
        idle(&mut report, way, idles.into_iter());
        Ok(report.print())
    }
}

/// Daemon and clients.
struct Bench {
    site: Site,
    entrance: Entrance,
    writers: Clients,
    readers: Clients,
}

impl Bench {
    fn start(way: &WayArgs, load: &RestoreLoad) -> Result<Self> {
        let site = way.site()?;
        Ok(Self {
            entrance: site.daemon().entrance()?,
            writers: Clients::new(64)?,
            readers: Clients::new(load.in_flight)?,
            site,
        })
    }

    /// The way into the daemon, which listens elsewhere after each start.
    fn entrance(&self) -> Result<Entrance> {
        Ok(Entrance {
            address: self.site.daemon().address()?,
            ..self.entrance.clone()
        })
    }

    /// Makes a backup of new content.
    fn backup(&self, chunk_kib: u64, mib: u64, seed: u64, round: u64) -> Result<Backup> {
        let shape = Shape {
            chunk_bytes: (chunk_kib << 10) as usize,
            compressible: false,
        };
        let made = backups(shape, seed, round, 1, mib << 20)?;
        let entrance = self.entrance()?;
        self.writers.back_up(&entrance, STORE, &made)?;
        made.into_iter().next().context("one backup")
    }

    /// Reads places of a backup.
    fn read(&self, backup: &Backup, places: &[usize], cold: bool) -> Result<Run> {
        if cold {
            self.site.empty_cache()?;
        }
        let entrance = self.entrance()?;
        Run::watch(self.site.daemon_pid()?, || {
            self.readers.read(&entrance, STORE, backup, places)
        })
    }

    /// Bytes that were read ahead and used since the daemon's start.
    fn ahead_bytes(&self) -> Result<u64> {
        let counters = self.site.cache_counters()?;
        let bytes = counters["ahead-bytes-used"].as_u64();
        bytes.with_context(|| format!("no bytes read ahead in {counters}"))
    }

    /// The first part. Returns the idle parts of the processors.
    fn against_raw(&self, load: &RestoreLoad, seed: u64, report: &mut Report) -> Result<Vec<f64>> {
        let (site, requests) = (&self.site, load.raw_requests());
        let raw = Raw::connect(&site.slow_access(), site.s3().access(), requests as usize)?;
        let backup = self.backup(load.chunk_kib, load.mib, seed, MAIN)?;
        let made = std::slice::from_ref(&backup);
        let bodies = chunks(made).map(|chunk| chunk.encoded.clone());
        let objects = Objects::from_bodies(bodies, "raw/")?;
        raw.put(&objects)?;
        let places = load.order.places(backup.chunks.len(), seed);
        if load.warm {
            self.read(&backup, &places, false)?;
        }
        let mut pairs = Vec::new();
        for number in 0..load.pairs.max(1) {
            let pair = Pair {
                raw: Run::watch(site.daemon_pid()?, || raw.get(&objects))?,
                daemon: self.read(&backup, &places, !load.warm)?,
            };
            say(&format!(
                "pair {}: raw {:.2} s, daemon {:.2} s",
                number + 1,
                pair.raw.seconds,
                pair.daemon.seconds
            ));
            pairs.push(pair);
        }
        raw.remove(&objects)?;
        tell_pairs(load, &pairs, plain_bytes(made) as f64, report);
        let idles = pairs
            .iter()
            .flat_map(|pair| [pair.raw.idle, pair.daemon.idle]);
        Ok(idles.collect())
    }

    /// The second part. Returns the idle parts of the processors.
    fn gain(&self, load: &RestoreLoad, seed: u64, report: &mut Report) -> Result<Vec<f64>> {
        let backup = self.backup(load.gain_chunk_kib, load.gain_mib, seed, GAIN)?;
        let places: Vec<usize> = (0..backup.chunks.len()).collect();
        let few = (places.len() * load.gain_percent as usize / 100).max(1);
        let backwards: Vec<usize> = places.iter().rev().copied().take(few).collect();
        let bytes = |places: &[usize]| places.len() as f64 * (load.gain_chunk_kib << 10) as f64;
        let mut gains = Vec::new();
        for number in 0..load.pairs.max(1) {
            let ahead = self.read(&backup, &places, true)?;
            ensure!(self.ahead_bytes()? > 0, "nothing was read ahead");
            let alone = self.read(&backup, &backwards, true)?;
            let unwanted = self.ahead_bytes()?;
            ensure!(unwanted == 0, "{unwanted} bytes were read ahead backwards");
            let gain = Gain {
                ahead: bytes(&places) / ahead.seconds,
                alone: bytes(&backwards) / alone.seconds,
                ahead_idle: ahead.idle,
                alone_idle: alone.idle,
            };
            say(&format!(
                "gain {}: {:.1} MB/s with read-ahead, {:.1} MB/s without",
                number + 1,
                gain.ahead / 1e6,
                gain.alone / 1e6
            ));
            gains.push(gain);
        }
        tell_gains(load, &gains, report);
        let idles = gains
            .iter()
            .flat_map(|gain| [gain.ahead_idle, gain.alone_idle]);
        Ok(idles.collect())
    }
}

fn tell_pairs(load: &RestoreLoad, pairs: &[Pair], bytes: f64, report: &mut Report) {
    report.detail("pairs", pairs.len());
    report.detail("chunk-bytes", load.chunk_kib << 10);
    report.detail("bytes-per-run", bytes as u64);
    report.detail("sequential", load.order == Order::Sequential);
    report.detail("warm", load.warm);
    report.detail("in-flight", load.in_flight);
    report.detail("raw-requests", load.raw_requests());
    let runs: [Figure<Pair, Run>; 2] = [
        figure("raw", "raw GETs", |pair| pair.raw),
        figure("daemon", "one reader", |pair| pair.daemon),
    ];
    for Figure { key, what, of } in runs {
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
    let (ratio, words) = (median(&ratios), "one reader / raw GETs");
    // Out of order each chunk waits for itself, and nothing is promised.
    if load.order == Order::Sequential {
        report.ratio("ratio", ratio, words, RATIO_MIN);
    } else {
        report.plain_ratio("ratio", ratio, words);
    }
    report.detail("each-ratio", json!(ratios));
    let costs = pairs
        .iter()
        .map(|pair| pair.daemon.cpu_seconds / bytes * GIB);
    let cost = median(&costs.collect::<Vec<_>>());
    report.note(
        "daemon-cpu-seconds-per-gib",
        cost,
        "processor time of the daemon",
        format!("{cost:.3} s/GiB"),
    );
}

fn tell_gains(load: &RestoreLoad, gains: &[Gain], report: &mut Report) {
    report.detail("gain-chunk-bytes", load.gain_chunk_kib << 10);
    let speeds: [Figure<Gain>; 2] = [
        figure("ahead", "small chunks, with read-ahead", |gain| gain.ahead),
        figure("alone", "small chunks, without", |gain| gain.alone),
    ];
    for Figure { key, what, of } in speeds {
        let speed = median(&gains.iter().map(of).collect::<Vec<_>>()) / 1e6;
        let shown = format!("{speed:.1} MB/s");
        report.note(&format!("{key}-mb-per-second"), speed, what, shown);
    }
    let each: Vec<_> = gains.iter().map(|gain| gain.ahead / gain.alone).collect();
    report.ratio("gain", median(&each), "with read-ahead / without", GAIN_MIN);
    report.detail("each-gain", json!(each));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_by_lot_has_every_place_once() {
        assert_eq!(Order::Sequential.places(3, 1), [0, 1, 2]);
        let mut places = Order::Random.places(100, 1);
        assert_eq!(places, Order::Random.places(100, 1));
        assert_ne!(places, Order::Sequential.places(100, 1));
        places.sort_unstable();
        assert_eq!(places, Order::Sequential.places(100, 1));
        assert!(Order::Random.places(0, 1).is_empty());
    }
}
