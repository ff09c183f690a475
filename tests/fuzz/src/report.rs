//! The table of hostile inputs.

use std::io::Write as _;

use crate::judge::Finding;

/// What was done for one target.
#[derive(Clone, Debug, Default)]
pub struct Row {
    /// The target.
    pub target: &'static str,
    /// Kept inputs read.
    pub replayed: u64,
    /// New inputs read.
    pub made: u64,
    /// Seconds.
    pub seconds: f64,
    /// What was found, each place once.
    pub findings: Vec<Finding>,
}

/// Prints a line for whoever runs the program.
pub fn say(line: &str) {
    // Nobody may be reading any more; the work goes on.
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// Prints the table and its sums.
pub fn print(rows: &[Row]) {
    let line = |target: &str, replayed: u64, made: u64, seconds: f64, findings: usize| {
        let rate = (replayed + made) as f64 / seconds.max(0.001);
        say(&format!(
            "{target:<16}{replayed:>9}{:>13}{seconds:>9.1}{rate:>10.0}{findings:>10}",
            replayed + made
        ));
    };
    say(&format!(
        "{:<16}{:>9}{:>13}{:>9}{:>10}{:>10}",
        "target", "replayed", "executions", "seconds", "per s", "findings"
    ));
    for row in rows {
        line(
            row.target,
            row.replayed,
            row.made,
            row.seconds,
            row.findings.len(),
        );
    }
    let sum = |of: fn(&Row) -> u64| rows.iter().map(of).sum::<u64>();
    line(
        "all",
        sum(|row| row.replayed),
        sum(|row| row.made),
        rows.iter().map(|row| row.seconds).sum(),
        rows.iter().map(|row| row.findings.len()).sum(),
    );
}
