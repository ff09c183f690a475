//! `figures latency`: backup and restore beside raw PUTs and GETs, over a slow way to S3.
//!
//! Each pair of runs has an image of its own, noise in pieces of 4 MiB:
//! 1. *raw*: our S3 client puts the chunks of the image, as a client encodes them, and gets them again.
//! 2. *daemon*: `holdfast backup` of the image; then the daemon is stopped, its cache removed, the daemon started; then
//!    `holdfast restore` to a pipe, where every byte is compared.
//!
//! Times of the daemon are those of whole commands, log-in included. The raw bodies are ready before the clock starts.

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use serde_json::json;
use tokio::time::Instant;

use super::arguments::CommonArgs;
use super::noise::Image;
use super::raw::{Objects, Raw};
use super::report::{Report, median};
use super::site::{STORE, Site, SiteOptions};
use super::usage::CpuTime;
use crate::process::{run, say};

/// Bytes of a chunk of an image.
const PIECE_BYTES: usize = 4 << 20;
/// A run that takes longer has failed.
const RUN_TIME_MAX: Duration = Duration::from_mins(5);
/// What backup and restore have to reach of the raw speed.
const RATIO_MIN: f64 = 0.80;
/// What has to be left of the processors, or the machine was measured and not the daemon.
const IDLE_MIN: f64 = 0.15;

/// Backup and restore against raw PUTs and GETs through a proxy that adds a delay and caps the rate.
#[derive(Clone, Debug, clap::Args)]
pub struct LatencyArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Pairs of runs.
    #[arg(long, default_value_t = 5)]
    pairs: u64,
    /// Pieces of 4 MiB of each image; 288 take about 20 s at 60 MB/s.
    #[arg(long, default_value_t = 288)]
    pieces: u64,
    /// Added to every S3 request.
    #[arg(long, default_value_t = 50, value_name = "MS")]
    delay_ms: u64,
    /// Most megabytes (10^6 bytes) per second, each way.
    #[arg(long, default_value_t = 60, value_name = "MB")]
    rate_mb: u64,
    /// Raw requests at a time; the daemon's own client keeps 16 chunks of 4 MiB in flight.
    #[arg(long, default_value_t = 16)]
    concurrency: usize,
}

/// Seconds of one pair, and the idle part of the processors in each.
#[derive(Clone, Copy, Debug, Default)]
struct Pair {
    put: f64,
    get: f64,
    backup: f64,
    restore: f64,
    put_idle: f64,
    get_idle: f64,
    backup_idle: f64,
    restore_idle: f64,
}

/// Key in the JSON, words in the table, and the value.
type Figure = (&'static str, &'static str, fn(&Pair) -> f64);

impl LatencyArgs {
    /// Measures and prints.
    pub fn run(&self) -> Result<ExitCode> {
        self.common.begin()?;
        let site = Site::start(&SiteOptions {
            delay: Duration::from_millis(self.delay_ms),
            bytes_per_second: Some(self.rate_mb * 1_000_000),
            cache_bytes_max: "8 GiB",
            server: &[],
            store: &["--gc-atime-cutoff-minutes", "0"],
        })?;
        let raw = Raw::connect(&site.slow_access(), site.s3().access(), self.concurrency)?;
        let mut pairs = Vec::new();
        for number in 0..self.pairs.max(1) {
            let pair = self.pair(&site, &raw, number)?;
            say(&format!(
                "pair {}: put {:.2} s, get {:.2} s, backup {:.2} s, restore {:.2} s",
                number + 1,
                pair.put,
                pair.get,
                pair.backup,
                pair.restore
            ));
            pairs.push(pair);
        }
        Ok(self.report(&pairs).print())
    }

    fn pair(&self, site: &Site, raw: &Raw, number: u64) -> Result<Pair> {
        let image = Image {
            seed: self.common.seed.wrapping_add(number << 32),
            pieces: self.pieces,
            piece_bytes: PIECE_BYTES,
        };
        let mut pair = Pair::default();
        {
            let objects = Objects::of(&image, &format!("raw-{number}/"))?;
            let (put, put_idle) = timed(|| raw.put(&objects))?;
            let (get, get_idle) = timed(|| raw.get(&objects))?;
            raw.remove(&objects)?;
            (pair.put, pair.get) = (put.as_secs_f64(), get.as_secs_f64());
            (pair.put_idle, pair.get_idle) = (put_idle, get_idle);
        }
        let path = site.daemon().dir().join("image");
        image.write(&path)?;
        let id = format!("pair-{number}");
        let (backup, backup_idle) = timed(|| backup(site, &path, &id))?;
        fs::remove_file(&path)?;
        site.empty_cache()?;
        let (restore, restore_idle) =
            timed(|| site.restore_image(&format!("host/{id}"), &image, RUN_TIME_MAX))?;
        (pair.backup, pair.restore) = (backup.as_secs_f64(), restore.as_secs_f64());
        (pair.backup_idle, pair.restore_idle) = (backup_idle, restore_idle);
        // The disk need not hold all pairs.
        site.forget_group(&format!("host/{id}"))?;
        site.collect_garbage()?;
        Ok(pair)
    }

    fn report(&self, pairs: &[Pair]) -> Report {
        let bytes = self.pieces * PIECE_BYTES as u64;
        let each = |of: fn(&Pair) -> f64| pairs.iter().map(of).collect::<Vec<_>>();
        let mut report = Report::new("latency");
        report.detail("pairs", pairs.len());
        report.detail("bytes-per-run", bytes);
        report.detail("delay-ms", self.delay_ms);
        report.detail("bytes-per-second-max", self.rate_mb * 1_000_000);
        report.detail("concurrency", self.concurrency);
        let speeds: [Figure; 4] = [
            ("put", "raw PUT, median", |pair| pair.put),
            ("backup", "backup, median", |pair| pair.backup),
            ("get", "raw GET, median", |pair| pair.get),
            ("restore", "restore, median", |pair| pair.restore),
        ];
        for (key, what, of) in speeds {
            let seconds = each(of);
            let speed = bytes as f64 / median(&seconds) / 1e6;
            let shown = format!("{:.2} s, {speed:.1} MB/s", median(&seconds));
            report.note(&format!("{key}-seconds"), json!(seconds), what, shown);
        }
        let ratios: [Figure; 2] = [
            ("backup-ratio", "backup / raw PUT", |pair| {
                pair.put / pair.backup
            }),
            ("restore-ratio", "restore / raw GET", |pair| {
                pair.get / pair.restore
            }),
        ];
        for (key, what, of) in ratios {
            let all = each(of);
            let middle = median(&all);
            report.detail(&format!("{key}s"), json!(all));
            let (shown, wanted) = (format!("{middle:.3}"), format!("≥ {RATIO_MIN:.2}"));
            report.check(key, middle, what, shown, &wanted, middle >= RATIO_MIN);
        }
        let percent = |part: f64| format!("{:.1} %", 100.0 * part);
        let idles: [Figure; 4] = [
            ("put-idle", "idle in raw PUTs, least", |pair| pair.put_idle),
            ("get-idle", "idle in raw GETs, least", |pair| pair.get_idle),
            ("backup-idle", "idle in backups, least", |pair| {
                pair.backup_idle
            }),
            ("restore-idle", "idle in restores, least", |pair| {
                pair.restore_idle
            }),
        ];
        for (key, what, of) in idles {
            let all = each(of);
            let least = all.iter().copied().fold(1.0, f64::min);
            report.detail(&format!("{key}s"), json!(all));
            let wanted = format!("≥ {}", percent(IDLE_MIN));
            report.check(key, least, what, percent(least), &wanted, least >= IDLE_MIN);
        }
        report
    }
}

/// Runs something with no writes left over from before. Returns what it says its time was, and the idle part of the
/// processors.
fn timed(action: impl FnOnce() -> Result<Duration>) -> Result<(Duration, f64)> {
    nix::unistd::sync();
    let before = CpuTime::now()?;
    let taken = action()?;
    Ok((taken, CpuTime::now()?.idle_since(&before)))
}

fn backup(site: &Site, image: &Path, id: &str) -> Result<Duration> {
    let source = format!("disk.img:{}", image.display());
    let mut command = site
        .daemon()
        .client_command(STORE, &["backup", &source, "--backup-id", id])?;
    let began = Instant::now();
    let output = run(&mut command, b"", RUN_TIME_MAX)?;
    let taken = began.elapsed();
    output.success()?;
    Ok(taken)
}
