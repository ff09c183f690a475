//! `figures streams`: many uploads half received on one connection, and many sessions at once, under a memory budget.
//!
//! 1. A daemon with the smallest budget: one backup session keeps 200 uploads open and sends one DATA frame of 16 KiB of
//!    each in turn.
//! 2. A daemon with the budget of the sessions: 64 backup and 64 reader sessions begin at the same moment.
//!
//! The load comes from `tests/python/load.py`, which compares everything it gets back. The budget bounds bodies; what a
//! process takes besides is told apart by what it held before the load.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::arguments::CommonArgs;
use super::report::{Report, mib};
use super::site::{STORE, Site, SiteOptions};
use super::usage::Memory;
use crate::process::{run, say};
use crate::python::Python;

/// The smallest budget that the configuration takes.
const SMALLEST_BUDGET_MIB: u64 = 64;
/// Bound on one load.
const LOAD_TIME_MAX: Duration = Duration::from_mins(15);

/// Interleaved uploads and many sessions at once: memory and progress.
#[derive(Clone, Debug, clap::Args)]
pub struct StreamsArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Uploads open at once on one connection.
    #[arg(long, default_value_t = 200)]
    streams: u64,
    /// Chunks uploaded by that session.
    #[arg(long, default_value_t = 600)]
    chunks: u64,
    /// Bytes of each.
    #[arg(long, default_value_t = 1 << 20)]
    chunk_bytes: u64,
    /// Backup sessions at once, and reader sessions at once.
    #[arg(long, default_value_t = 64)]
    sessions: u64,
    /// Bytes that each session uploads or reads.
    #[arg(long, default_value_t = 8 << 20)]
    session_bytes: u64,
    /// Memory budget for the sessions, in MiB.
    #[arg(long, default_value_t = 256)]
    sessions_budget_mib: u64,
}

/// What a load came to.
struct Load {
    figures: Value,
    before: Memory,
    after: Memory,
}

impl Load {
    /// What the process took at most besides what it held before.
    fn growth(&self) -> u64 {
        self.after.peak.saturating_sub(self.before.resident)
    }
}

impl StreamsArgs {
    /// Measures and prints.
    pub fn run(&self) -> Result<ExitCode> {
        self.common.begin()?;
        let mut report = Report::new("streams");
        let text = ToString::to_string;
        let load = self.load(
            SMALLEST_BUDGET_MIB,
            &[
                "streams".to_owned(),
                "--streams".to_owned(),
                text(&self.streams),
                "--chunks".to_owned(),
                text(&self.chunks),
                "--chunk-bytes".to_owned(),
                text(&self.chunk_bytes),
            ],
        )?;
        let open = load.figures["streams"].as_u64().unwrap_or(0);
        report.at_least(
            "streams",
            open,
            "interleaved uploads open at once",
            self.streams,
        );
        tell(&mut report, "streams", &load);
        let what = format!("streams: VmHWM above that, budget {SMALLEST_BUDGET_MIB} MiB");
        report.note("streams-growth", load.growth(), &what, mib(load.growth()));
        let load = self.load(
            self.sessions_budget_mib,
            &[
                "sessions".to_owned(),
                "--backups".to_owned(),
                text(&self.sessions),
                "--readers".to_owned(),
                text(&self.sessions),
                "--session-bytes".to_owned(),
                text(&self.session_bytes),
            ],
        )?;
        tell(&mut report, "sessions", &load);
        let budget = self.sessions_budget_mib;
        let what = format!("sessions: VmHWM above that, budget {budget} MiB");
        report.bytes_at_most("sessions-growth", load.growth(), &what, budget << 20);
        Ok(report.print())
    }

    fn load(&self, budget_mib: u64, arguments: &[String]) -> Result<Load> {
        let budget = format!("memory-budget-bytes = \"{budget_mib} MiB\"");
        let site = Site::start(&SiteOptions {
            delay: Duration::ZERO,
            bytes_per_second: None,
            cache_bytes_max: "4 GiB",
            server: &[&budget],
            store: &[],
        })?;
        let before = Memory::of(site.daemon_pid()?)?;
        let mut command = Python::get()?.command(&["load.py"]);
        command
            .args(arguments)
            .args(["--url", &site.daemon().url()?])
            .args(["--fingerprint", site.daemon().fingerprint()])
            .args(["--user", site.daemon().user()])
            // It may begin with a hyphen.
            .arg(format!("--password={}", site.daemon().password()))
            .args(["--store", STORE, "--seed", &self.common.seed.to_string()]);
        let output = run(&mut command, b"", LOAD_TIME_MAX)?;
        let line = output.text();
        let figures: Value = serde_json::from_str(line.trim())
            .with_context(|| format!("the load told no figures: {output}"))?;
        ensure!(figures.is_object(), "the load told no figures: {output}");
        say(&format!("{figures}"));
        let after = Memory::of(site.daemon_pid()?)?;
        Ok(Load {
            figures,
            before,
            after,
        })
    }
}

fn tell(report: &mut Report, name: &str, load: &Load) {
    let ok = load.figures["ok"] == true;
    let verdict = if ok { "yes" } else { "no" };
    let what = format!("{name}: all complete and equal");
    report.check(&format!("{name}-ok"), ok, &what, verdict, "yes", ok);
    let speed = load.figures["mb_per_second"].as_f64().unwrap_or(0.0);
    report.note(
        &format!("{name}-mb-per-second"),
        speed,
        &format!("{name}: payload"),
        format!("{speed:.1} MB/s"),
    );
    let (before, peak) = (load.before.resident, load.after.peak);
    report.note(
        &format!("{name}-resident-before"),
        before,
        &format!("{name}: resident before"),
        mib(before),
    );
    report.note(
        &format!("{name}-peak"),
        peak,
        &format!("{name}: VmHWM"),
        mib(peak),
    );
    report.detail(&format!("{name}-load"), load.figures.clone());
}
