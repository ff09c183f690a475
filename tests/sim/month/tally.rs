//! What happened in a month, in figures.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};

/// The columns of the table: what is counted, and what stands above it.
const COLUMNS: [(&str, &str); 17] = [
    ("days", "days"),
    ("backups", "backups"),
    ("prunes", "prunes"),
    ("removed", "removed"),
    ("syncs", "syncs"),
    ("copied", "copied"),
    ("mended", "mended"),
    ("collections", "gc"),
    ("verifications", "verify"),
    ("crashes", "crash"),
    ("power losses", "power"),
    ("restarts", "stops"),
    ("requests", "requests"),
    ("faults", "faults"),
    ("rotten", "rotten"),
    ("healed", "healed"),
    ("violations", "violated"),
];

/// Counters by name.
#[derive(Debug, Default)]
pub(crate) struct Tally(Mutex<BTreeMap<&'static str, u64>>);

impl Tally {
    pub(crate) fn count(&self, what: &'static str) {
        self.add(what, 1);
    }

    pub(crate) fn add(&self, what: &'static str, count: u64) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(what).or_insert(0) += count;
    }

    pub(super) fn all(&self) -> BTreeMap<&'static str, u64> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.clone()
    }

    /// Adds the counts of another.
    pub(crate) fn merge(&self, other: &Self) {
        for (what, count) in other.all() {
            self.add(what, count);
        }
    }

    /// The line above the figures.
    pub(crate) fn heading() -> String {
        let mut line = format!("{:>9}", "month");
        for (_, heading) in COLUMNS {
            write!(line, " {heading:>8}").ok();
        }
        line
    }

    /// The figures as a line.
    pub(crate) fn line(&self, name: &str) -> String {
        let counts = self.all();
        let mut line = format!("{name:>9}");
        for (what, _) in COLUMNS {
            let count = counts.get(what).copied().unwrap_or(0);
            write!(line, " {count:>8}").ok();
        }
        line
    }
}
