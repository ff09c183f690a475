//! What a run came to: a table, a line of JSON, and the exit code.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use holdfast_tests::measure::report::{Report, mib};
use holdfast_tests::process::say;
use serde_json::json;

use super::site::LATE_REQUEST_MAX;
use super::tally::Violation;
use super::watch::MEMORY_BYTES_MAX;
use super::world::World;

/// A finished run.
pub(crate) struct Outcome<'a> {
    world: &'a World,
    warnings: BTreeMap<String, u64>,
    evidence: PathBuf,
    took: Duration,
}

impl<'a> Outcome<'a> {
    /// What there is to tell.
    pub(crate) fn new(
        world: &'a World,
        warnings: BTreeMap<String, u64>,
        evidence: PathBuf,
        took: Duration,
    ) -> Self {
        Self {
            world,
            warnings,
            evidence,
            took,
        }
    }

    /// How it goes, in a line.
    pub(crate) fn line(world: &World) -> String {
        let of = |what| world.tally.of(what);
        format!(
            "{:.0} s: {} acknowledged, {} deleted, {} restores, {} kills, {} collections removed {} chunks, {} faults",
            world.tally.seconds(),
            of("acknowledged"),
            of("deleted"),
            of("restores"),
            of("kills"),
            of("collections"),
            of("removed-chunks"),
            world.site.proxy.done().faults.values().sum::<u64>(),
        )
    }

    /// Prints it, keeps it beside the log, and says whether all went well.
    pub(crate) fn print(self) -> Result<ExitCode> {
        let (tally, proxied) = (&self.world.tally, self.world.site.proxy.done());
        if proxied.latest > LATE_REQUEST_MAX {
            let text = format!(
                "a request took effect {} ms after it was given up: this machine is too busy for A1",
                proxied.latest.as_millis()
            );
            tally.violation(Violation::Run, text);
        }
        let mut report = Report::new("chaos");
        self.promises(&mut report);
        self.company(&mut report);
        let faults: u64 = proxied.faults.values().sum();
        count(&mut report, "requests to S3", proxied.requests);
        count(&mut report, "faults injected", faults);
        for (name, number) in &proxied.faults {
            count(&mut report, &format!("  {name}"), *number);
        }
        count(
            &mut report,
            "batches of deletes sent",
            proxied.delete_batches,
        );
        for (name, number) in &proxied.delete_faults {
            count(&mut report, &format!("  {name} (deletes)"), *number);
        }
        count(
            &mut report,
            "requests the S3 server itself did not answer",
            proxied.server_faults,
        );
        let latest = format!("{:.1} s", proxied.latest.as_secs_f64());
        report.note(
            "latest",
            latest.clone(),
            "latest effect of a request",
            latest,
        );
        let what = "memory of the daemon, at most";
        report.bytes_at_most("memory", tally.of("memory"), what, MEMORY_BYTES_MAX);
        let seconds = self.took.as_secs_f64();
        report.note("seconds", seconds, "time", format!("{seconds:.0} s"));
        for violation in Violation::ALL {
            let name = violation.name();
            report.none(name, tally.violations(violation), name);
        }
        report.detail("seed", self.world.seed);
        report.detail("tally", tally.json());
        report.detail("warnings", json!(self.warnings));
        let all = serde_json::to_string_pretty(&report.json())?;
        std::fs::write(self.evidence.join("report.json"), all)?;
        for text in tally.texts() {
            say(&format!("VIOLATION at {text}"));
        }
        say(&format!(
            "seed {}; log and report: {}",
            self.world.seed,
            self.evidence.display()
        ));
        Ok(report.print())
    }

    /// What was promised and what became of it.
    fn promises(&self, report: &mut Report) {
        let tally = &self.world.tally;
        report.at_least(
            "acknowledged",
            tally.of("acknowledged"),
            "snapshots acknowledged",
            1,
        );
        for (what, name) in [
            ("  to the real command", "acknowledged to commands"),
            ("deleted on purpose", "deleted"),
            ("restores beside", "restores"),
            ("restored at the end: acknowledged", "final acknowledged"),
            (
                "restored at the end: answer was lost",
                "final not acknowledged, but there",
            ),
            ("chunks hashed in the bucket at the end", "final chunks"),
            ("pulls into the second copy", "pull: done"),
            ("collections of the copy", "collection of the copy: done"),
            ("quick verifications", "quick verification: done"),
            (
                "restored from the copy at the end",
                "final restores of the copy",
            ),
        ] {
            count(report, what, tally.of(name));
        }
        for (what, name) in [
            ("bytes compared beside", "bytes compared"),
            ("bytes compared at the end", "final bytes compared"),
            ("bytes hashed at the end", "final bytes in the bucket"),
        ] {
            report.note(name, tally.of(name), what, mib(tally.of(name)));
        }
        for (what, number) in tally.below("ended: ") {
            count(report, &format!("  ended {what}"), number);
        }
        for (what, number) in tally.below("failed: ") {
            count(report, &format!("  failed {what}"), number);
        }
    }

    /// What was done to the daemon, and what it did.
    fn company(&self, report: &mut Report) {
        let tally = &self.world.tally;
        report.at_least("kills", tally.of("kills"), "kills", 1);
        for (what, number) in tally.below("menace: ") {
            count(report, &format!("  {what}"), number);
        }
        let what = "garbage collections";
        report.at_least("collections", tally.of("collections"), what, 1);
        let removed = tally.of("removed-chunks");
        report.at_least("removed-chunks", removed, "  chunks removed", 1);
        for (what, name) in [
            ("  chunks with unknown fate", "unknown-chunks"),
            ("  chunks refused", "refused-chunks"),
            ("  chunks saved at the last moment", "rescued-chunks"),
            ("uploads that waited for a delete", "cache: condemned-waits"),
            ("uploads reset by clients", "uploads reset"),
            ("cache: hits", "cache: hits"),
            ("cache: misses", "cache: misses"),
            ("looks into the bucket", "looks into the bucket"),
        ] {
            count(report, what, tally.of(name));
        }
        let evictions = tally.of("cache: evictions");
        report.at_least("evictions", evictions, "cache: evictions", 1);
    }
}

fn count(report: &mut Report, what: &str, number: u64) {
    report.note(what.trim(), number, what, number.to_string());
}
