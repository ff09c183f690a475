//! The counters of many runs, as tables: steps × ends, requests × faults, and what of the forced branches came about.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use pbs_datastore::Step;
use s3_client::Op;

use crate::forced::{Forced, all, steps};
use crate::run::Outcome;
use crate::scenario::End;
use crate::world::Steps;

/// Sums over runs.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    pub(crate) runs: u64,
    pub(crate) lives: u64,
    pub(crate) checks: u64,
    steps: Steps,
    injected: BTreeMap<(Op, &'static str), u64>,
    forced: BTreeMap<String, u64>,
}

fn merge<K: Ord + Copy>(into: &mut BTreeMap<K, u64>, from: &BTreeMap<K, u64>) {
    for (key, count) in from {
        *into.entry(*key).or_insert(0) += count;
    }
}

/// The row and column of a forced branch.
fn cell(forced: &Forced) -> String {
    match forced {
        Forced::AtStep { step, end, .. } => format!("{step:?}/{end:?}"),
        Forced::Request {
            op, object, fault, ..
        } => format!("{op:?} {object:?}/{fault}"),
        Forced::File { op, area, .. } => format!("{op:?} {area}/EIO"),
    }
}

impl Totals {
    pub(crate) fn add(&mut self, outcome: &Outcome) {
        self.runs += 1;
        self.lives += outcome.lives;
        self.checks += outcome.checks;
        merge(&mut self.steps.passed, &outcome.steps.passed);
        merge(&mut self.steps.crashed, &outcome.steps.crashed);
        merge(&mut self.steps.lost_power, &outcome.steps.lost_power);
        merge(&mut self.injected, &outcome.injected);
        if let Some((forced, happened)) = &outcome.forced {
            *self.forced.entry(cell(forced)).or_insert(0) += u64::from(*happened);
        }
    }

    /// Adds the sums of another thread.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.runs += other.runs;
        self.lives += other.lives;
        self.checks += other.checks;
        merge(&mut self.steps.passed, &other.steps.passed);
        merge(&mut self.steps.crashed, &other.steps.crashed);
        merge(&mut self.steps.lost_power, &other.steps.lost_power);
        merge(&mut self.injected, &other.injected);
        for (cell, count) in &other.forced {
            *self.forced.entry(cell.clone()).or_insert(0) += count;
        }
    }

    /// The forced branches that no run has met.
    pub(crate) fn empty_cells(&self) -> Vec<String> {
        let mut cells: Vec<_> = all().iter().map(cell).collect();
        cells.sort_unstable();
        cells.dedup();
        cells.retain(|cell| self.forced.get(cell).is_none_or(|count| *count == 0));
        cells
    }

    /// All tables as text.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        writeln!(
            text,
            "{:<18} {:>10} {:>8} {:>8}",
            "step", "passed", "crash", "power"
        )
        .ok();
        for step in steps() {
            let of = |counts: &BTreeMap<Step, u64>| counts.get(&step).copied().unwrap_or(0);
            let Steps {
                passed,
                crashed,
                lost_power,
            } = &self.steps;
            writeln!(
                text,
                "{:<18} {:>10} {:>8} {:>8}",
                format!("{step:?}"),
                of(passed),
                of(crashed),
                of(lost_power)
            )
            .ok();
        }
        writeln!(text, "\nfaults of requests, by chance and forced").ok();
        let mut by_op: BTreeMap<Op, Vec<String>> = BTreeMap::new();
        for ((op, fault), count) in &self.injected {
            by_op
                .entry(*op)
                .or_default()
                .push(format!("{fault} {count}"));
        }
        for (op, faults) in by_op {
            writeln!(text, "{:<8} {}", format!("{op:?}"), faults.join(", ")).ok();
        }
        writeln!(text, "\nforced on requests and files").ok();
        let mut rows: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for (name, count) in &self.forced {
            let (row, column) = name.rsplit_once('/').unwrap_or((name, ""));
            if column != format!("{:?}", End::Crash) && column != format!("{:?}", End::PowerLoss) {
                rows.entry(row)
                    .or_default()
                    .push(format!("{column} {count}"));
            }
        }
        for (row, columns) in rows {
            writeln!(text, "{row:<20} {}", columns.join(", ")).ok();
        }
        text
    }
}
