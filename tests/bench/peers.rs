//! `benchmark peers`: what people use today, on the same data, the same S3 server and the same line.
//!
//! Each round makes a directory of fresh content ([`Mixture`]), an empty repository of restic in the S3 server behind the proxy, a
//! new group in our datastore in the same bucket behind the same proxy, and an empty local repository of borg. Then, step by step,
//! each program in turn, in the next round in the opposite order:
//! 1. *first*: the first backup.
//! 2. *unchanged*: the same again, every file read: `holdfast backup`, `restic backup --force`, `borg create --files-cache disabled`.
//! 3. *skipping*: the same for programs that skip files which look unchanged: `restic backup`, `borg create`.
//! 4. *restore*: into an empty directory; our cache and the peers' caches are as the backups left them.
//! 5. *restore-cold*: ours only, the daemon started again without its cache.
//!
//! A time is that of the whole command. Before each, the source is read once and nothing is left to be written. Every restored
//! directory is compared with the source, outside of the clock. Processor time is that of the commands and, for ours, of the daemon
//! beside.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use holdfast_tests::measure::arguments::CommonArgs;
use holdfast_tests::measure::report::{Report, median};
use holdfast_tests::measure::site::{STORE, Site, SiteOptions};
use holdfast_tests::measure::tree;
use holdfast_tests::measure::usage::{CpuTime, ProcessCpu};
use holdfast_tests::process::{run, say};
use serde_json::json;
use tokio::time::Instant;

use crate::borg::Borg;
use crate::load::IDLE_MIN;
use crate::mixture::{Mixture, read_through};
use crate::restic::{Restic, version};

/// How long one of our commands may take.
const COMMAND_TIME_MAX: Duration = Duration::from_mins(30);
/// Two snapshots of one group are never of the same second.
const NEXT_SECOND: Duration = Duration::from_millis(1100);
/// Our archive of a directory.
const ARCHIVE: &str = "root.tar";

/// Backups and restores beside those of restic (S3) and borg (local).
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct PeersArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Rounds, each with fresh content.
    #[arg(long, default_value_t = 5)]
    rounds: u64,
    /// Added to every S3 request.
    #[arg(long, default_value_t = 50, value_name = "MS")]
    delay_ms: u64,
    /// Most megabytes (10^6 bytes) per second, each way.
    #[arg(long, default_value_t = 60, value_name = "MB")]
    rate_mb: u64,
    /// S3 connections of restic (`-o s3.connections`); our own client keeps 16 chunks of 4 MiB in flight.
    #[arg(long, default_value_t = 16)]
    connections: u64,
    /// Small files, of 1 to 64 KiB.
    #[arg(long, default_value_t = 5000)]
    files: u64,
    /// Size of the large file.
    #[arg(long, default_value_t = 1024, value_name = "MIB")]
    large_mib: u64,
}

/// Whose figure it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Who {
    Holdfast,
    Restic,
    Borg,
}

impl Who {
    fn name(self) -> &'static str {
        match self {
            Self::Holdfast => "holdfast",
            Self::Restic => "restic",
            Self::Borg => "borg",
        }
    }
}

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    First,
    Unchanged,
    Skipping,
    Restore,
    RestoreCold,
}

impl Step {
    const ALL: [Self; 5] = [
        Self::First,
        Self::Unchanged,
        Self::Skipping,
        Self::Restore,
        Self::RestoreCold,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Unchanged => "unchanged",
            Self::Skipping => "skipping",
            Self::Restore => "restore",
            Self::RestoreCold => "restore-cold",
        }
    }

    /// Whether this program has such a step.
    fn is_of(self, who: Who) -> bool {
        match self {
            Self::Skipping => who != Who::Holdfast,
            Self::RestoreCold => who == Who::Holdfast,
            _ => true,
        }
    }
}

/// One command.
#[derive(Clone, Copy, Debug)]
struct Taken {
    seconds: f64,
    /// Processor seconds of the command, and of our daemon meanwhile.
    cpu: f64,
    daemon_cpu: f64,
    /// Part of all processor time that nobody used.
    idle: f64,
    /// Bytes of bodies that went over the line to the S3 server, in the direction that had more.
    line_bytes: f64,
}

/// All commands of one step, by program.
type Figures = BTreeMap<(Step, Who), Vec<Taken>>;

/// The programs of one round, with what they back up.
struct Round<'a> {
    site: &'a Site,
    restic: Restic,
    borg: Option<Borg>,
    /// Of our snapshots.
    id: String,
    source: PathBuf,
    dir: PathBuf,
}

impl PeersArgs {
    /// Measures and prints.
    pub(crate) fn run(&self) -> Result<ExitCode> {
        self.common.begin()?;
        let Some(restic) = version("restic", "version") else {
            say("restic is not installed: apt-get install restic borgbackup");
            return Ok(ExitCode::FAILURE);
        };
        let borg = version("borg", "--version");
        if borg.is_none() {
            say("borg is not installed and left out: apt-get install borgbackup");
        }
        let site = Site::start(&SiteOptions {
            delay: Duration::from_millis(self.delay_ms),
            bytes_per_second: Some(self.rate_mb * 1_000_000),
            cache_bytes_max: "16 GiB",
            server: &[],
            store: &["--gc-atime-cutoff-minutes", "0"],
        })?;
        let mut figures = Figures::new();
        let mut bytes = Vec::new();
        for number in 0..self.rounds.max(1) {
            bytes.push(self.round(&site, number, borg.is_some(), &mut figures)? as f64);
        }
        let mut report = Report::new("peers");
        report.detail("rounds", bytes.len());
        report.detail("delay-ms", self.delay_ms);
        report.detail("bytes-per-second-max", self.rate_mb * 1_000_000);
        report.detail("files", self.files);
        report.detail("bytes", median(&bytes));
        let shown = format!("-o s3.connections={}", self.connections);
        report.note("restic", restic.clone(), &restic, shown);
        if let Some(borg) = borg {
            report.note("borg", borg.clone(), &borg, "local");
        }
        tell(&mut report, &figures, median(&bytes));
        Ok(report.print())
    }

    fn round(&self, site: &Site, number: u64, borg: bool, figures: &mut Figures) -> Result<u64> {
        let dir = site.daemon().dir().join("round");
        fs::create_dir(&dir)?;
        let source = dir.join("source");
        let mixture = Mixture {
            seed: self.common.seed.wrapping_add(number << 32),
            files: self.files,
            large_bytes: self.large_mib << 20,
        };
        let bytes = mixture.make(&source)?;
        let prefix = format!("restic-{number}");
        let round = Round {
            site,
            restic: Restic::init(site.slow_access(), &prefix, self.connections, &dir)?,
            borg: borg.then(|| Borg::init(&dir)).transpose()?,
            id: format!("round-{number}"),
            source,
            dir: dir.clone(),
        };
        let mut order = vec![Who::Holdfast, Who::Restic];
        order.extend(borg.then_some(Who::Borg));
        if number % 2 == 1 {
            order.reverse();
        }
        for step in Step::ALL {
            for who in order.iter().copied().filter(|who| step.is_of(*who)) {
                let taken = round.step(step, who)?;
                say(&format!(
                    "round {}: {} {} {:.2} s",
                    number + 1,
                    who.name(),
                    step.name(),
                    taken.seconds
                ));
                figures.entry((step, who)).or_default().push(taken);
            }
        }
        // The disk need not hold all rounds.
        fs::remove_dir_all(&dir)?;
        site.forget_group(&format!("host/{}", round.id))?;
        round.restic.remove(site.s3().access())?;
        site.collect_garbage()?;
        Ok(bytes)
    }
}

impl Round<'_> {
    fn step(&self, step: Step, who: Who) -> Result<Taken> {
        match step {
            Step::First | Step::Unchanged | Step::Skipping => self.backup(step, who),
            Step::Restore | Step::RestoreCold => self.restore(step, who),
        }
    }

    fn backup(&self, step: Step, who: Who) -> Result<Taken> {
        read_through(&self.source)?;
        let force = step == Step::Unchanged;
        match who {
            Who::Holdfast => {
                std::thread::sleep(NEXT_SECOND);
                let source = format!("{ARCHIVE}:{}", self.source.display());
                self.timed(|| self.ours(&["backup", &source, "--backup-id", &self.id]))
            }
            Who::Restic => self.timed(|| self.restic.backup(&self.source, force)),
            Who::Borg => self.timed(|| self.borg()?.create(step.name(), &self.source, force)),
        }
    }

    fn restore(&self, step: Step, who: Who) -> Result<Taken> {
        let target = self.dir.join("restored");
        fs::create_dir(&target)?;
        if step == Step::RestoreCold {
            self.site.empty_cache()?;
        }
        let mut restored = target.clone();
        let taken = match who {
            Who::Holdfast => {
                let snapshot = format!("host/{}", self.id);
                let into = target.to_str().context("a path in UTF-8")?;
                self.timed(|| self.ours(&["restore", &snapshot, ARCHIVE, into]))
            }
            Who::Restic => self.timed(|| {
                restored = self.restic.restore(&self.source, &target)?;
                Ok(())
            }),
            Who::Borg => self.timed(|| {
                let name = Step::Unchanged.name();
                restored = self.borg()?.extract(name, &self.source, &target)?;
                Ok(())
            }),
        }?;
        tree::compare(&self.source, &restored)
            .with_context(|| format!("{} restored something else", who.name()))?;
        fs::remove_dir_all(&target)?;
        Ok(taken)
    }

    fn ours(&self, arguments: &[&str]) -> Result<()> {
        let mut command = self.site.daemon().client_command(STORE, arguments)?;
        run(&mut command, b"", COMMAND_TIME_MAX)?.success()?;
        Ok(())
    }

    fn borg(&self) -> Result<&Borg> {
        self.borg.as_ref().context("borg is not installed")
    }

    /// Runs a command with no writes left over from before.
    fn timed(&self, action: impl FnOnce() -> Result<()>) -> Result<Taken> {
        nix::unistd::sync();
        let pid = self.site.daemon_pid()?;
        let (daemon, children) = (ProcessCpu::of(pid)?, ended_cpu()?);
        let passed = self.site.proxy().passed();
        let (machine, began) = (CpuTime::now()?, Instant::now());
        action()?;
        let now = self.site.proxy().passed();
        let line = (now.bytes_in - passed.bytes_in).max(now.bytes_out - passed.bytes_out);
        Ok(Taken {
            line_bytes: line as f64,
            seconds: began.elapsed().as_secs_f64(),
            idle: CpuTime::now()?.idle_since(&machine),
            cpu: ended_cpu()? - children,
            daemon_cpu: ProcessCpu::of(pid)?.seconds_since(&daemon),
        })
    }
}

/// Ticks of the kernel per second, as it tells them to programs.
const TICKS_PER_SECOND: f64 = 100.0;

/// Processor seconds of all processes that this one has started and that have ended.
fn ended_cpu() -> Result<f64> {
    ended_cpu_in(&fs::read_to_string("/proc/self/stat")?)
}

fn ended_cpu_in(stat: &str) -> Result<f64> {
    // The name before the state may hold anything.
    let (_, rest) = stat.rsplit_once(") ").context("no line about a process")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    let ticks = |at: usize| -> Result<f64> { Ok(fields.get(at).context("too short")?.parse()?) };
    Ok((ticks(13)? + ticks(14)?) / TICKS_PER_SECOND)
}

fn tell(report: &mut Report, figures: &Figures, bytes: f64) {
    tell_times(report, figures, bytes);
    tell_ratios(report, figures);
    let idles = figures.iter().filter(|((_, who), _)| *who != Who::Borg);
    let idles = idles.flat_map(|(_, taken)| taken.iter().map(|taken| taken.idle));
    let least = idles.fold(1.0, f64::min);
    report.check(
        "idle",
        least,
        "idle processors, least, borg's commands aside",
        format!("{:.1} %", 100.0 * least),
        &format!("≥ {:.0} %; if not, --rate-mb lower", 100.0 * IDLE_MIN),
        least >= IDLE_MIN,
    );
}

/// One figure of each round.
fn each(figures: &Figures, step: Step, who: Who, value: fn(&Taken) -> f64) -> Vec<f64> {
    let taken = figures.get(&(step, who)).map(Vec::as_slice);
    taken.unwrap_or_default().iter().map(value).collect()
}

fn tell_times(report: &mut Report, figures: &Figures, bytes: f64) {
    for (step, who) in figures.keys().copied() {
        let of = |value| each(figures, step, who, value);
        let seconds = of(|taken| taken.seconds);
        let cpu = median(&of(|taken| taken.cpu));
        let daemon = median(&of(|taken| taken.daemon_cpu));
        let (key, middle) = (format!("{}-{}", step.name(), who.name()), median(&seconds));
        let speed = bytes / middle / 1e6;
        let line = median(&of(|taken| taken.line_bytes));
        let mut shown = format!(
            "{middle:.2} s, {speed:.1} MB/s, {:.0} MB over the line, CPU {cpu:.1} s",
            line / 1e6
        );
        report.detail(&format!("{key}-line-bytes"), line);
        if who == Who::Holdfast {
            shown = format!("{shown} + daemon {daemon:.1} s");
            report.detail(&format!("{key}-daemon-cpu-seconds"), daemon);
        }
        report.detail(&format!("{key}-cpu-seconds"), cpu);
        report.detail(&format!("{key}-idle"), json!(of(|taken| taken.idle)));
        let what = format!("{}, {}, median", step.name(), who.name());
        report.note(&format!("{key}-seconds"), json!(seconds), &what, shown);
    }
}

/// Medians of a peer's time by ours of the same round.
fn tell_ratios(report: &mut Report, figures: &Figures) {
    let times = |theirs: (Step, Who), ours: Step| {
        let theirs = each(figures, theirs.0, theirs.1, |taken| taken.seconds);
        let ours = each(figures, ours, Who::Holdfast, |taken| taken.seconds);
        let ratios = theirs.iter().zip(&ours).map(|(theirs, ours)| theirs / ours);
        median(&ratios.collect::<Vec<_>>())
    };
    for (step, what, least) in [
        (Step::First, "restic's time of a first backup / ours", 1.5),
        (Step::Unchanged, "restic --force, unchanged / ours", 2.0),
        (
            Step::Restore,
            "restic's time of a restore / ours, warm",
            2.0,
        ),
    ] {
        report.ratio(step.name(), times((step, Who::Restic), step), what, least);
    }
    let more = [
        (
            "unchanged-skipping",
            (Step::Skipping, Who::Restic),
            Step::Unchanged,
        ),
        (
            "restore-cold",
            (Step::Restore, Who::Restic),
            Step::RestoreCold,
        ),
        ("borg-first", (Step::First, Who::Borg), Step::First),
        (
            "borg-unchanged",
            (Step::Unchanged, Who::Borg),
            Step::Unchanged,
        ),
        (
            "borg-skipping",
            (Step::Skipping, Who::Borg),
            Step::Unchanged,
        ),
        ("borg-restore", (Step::Restore, Who::Borg), Step::Restore),
    ];
    for (key, theirs, ours) in more {
        if figures.contains_key(&theirs) {
            let what = format!(
                "{}'s time, {} / ours, {}",
                theirs.1.name(),
                theirs.0.name(),
                ours.name()
            );
            report.plain_ratio(key, times(theirs, ours), &what);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_of_ended_processes_is_in_the_kernels_line() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4 5 6 7 8 100 200 250 50 20 0 1 0";
        assert!((ended_cpu_in(stat).unwrap() - 3.0).abs() < 1e-9);
        assert!(ended_cpu_in("7 (a) S 1").is_err());
        assert!(ended_cpu().unwrap() >= 0.0);
    }

    #[test]
    fn ratios_are_of_one_round_and_their_median_counts() {
        let taken = |seconds| Taken {
            seconds,
            cpu: 1.0,
            daemon_cpu: 1.0,
            line_bytes: 0.0,
            idle: 0.5,
        };
        let all = |seconds: [f64; 3]| seconds.map(taken).to_vec();
        let mut figures = Figures::new();
        for step in [Step::First, Step::Unchanged, Step::Restore] {
            figures.insert((step, Who::Holdfast), all([1.0, 2.0, 1.0]));
            figures.insert((step, Who::Restic), all([2.0, 10.0, 1.8]));
        }
        let mut report = Report::new("peers");
        tell(&mut report, &figures, 1e6);
        let told = report.json();
        assert_eq!(told["ratios"]["first"], 2.0);
        assert_eq!(told["met"], true);
        assert_eq!(told["ratios"]["borg-first"], serde_json::Value::Null);
    }
}
