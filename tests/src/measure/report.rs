//! What a measuring program prints: a small table for a person, one line of JSON for a program.

use std::process::ExitCode;

use serde_json::{Map, Value, json};

/// The figures of one program, in the order they are shown.
#[derive(Debug, Default)]
pub struct Report {
    name: String,
    rows: Vec<Row>,
    figures: Map<String, Value>,
    failed: u64,
}

#[derive(Debug)]
struct Row {
    what: String,
    figure: String,
    wanted: String,
    verdict: &'static str,
}

impl Report {
    /// An empty report of the program `name`.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ..Self::default()
        }
    }

    /// A figure without a bound: `key` in the JSON.
    pub fn note(
        &mut self,
        key: &str,
        value: impl Into<Value>,
        what: &str,
        shown: impl Into<String>,
    ) {
        self.figures.insert(key.to_owned(), value.into());
        self.row(what, shown.into(), String::new(), "");
    }

    /// A figure that has to be `wanted`; `met` says whether it is.
    pub fn check(
        &mut self,
        key: &str,
        value: impl Into<Value>,
        what: &str,
        shown: impl Into<String>,
        wanted: &str,
        met: bool,
    ) {
        self.figures.insert(key.to_owned(), value.into());
        if !met {
            self.failed += 1;
        }
        let verdict = if met { "met" } else { "MISSED" };
        self.row(what, shown.into(), wanted.to_owned(), verdict);
    }

    /// A ratio that has to be at least `wanted`: the better, the larger. Ratios are what `cargo bench-check` compares with those of
    /// earlier commits, under the name `key`.
    pub fn ratio(&mut self, key: &str, value: f64, what: &str, least: f64) {
        self.keep_ratio(key, value);
        let (shown, wanted) = (format!("{value:.3}"), format!("≥ {least:.2}"));
        self.check(key, value, what, shown, &wanted, value >= least);
    }

    /// The same without a bound.
    pub fn plain_ratio(&mut self, key: &str, value: f64, what: &str) {
        self.keep_ratio(key, value);
        self.note(key, value, what, format!("{value:.3}"));
    }

    fn keep_ratio(&mut self, key: &str, value: f64) {
        let ratios = self.figures.entry("ratios");
        let ratios = ratios.or_insert_with(|| json!({}));
        ratios[key] = json!(value);
    }

    /// A count that has to be `least` or more.
    pub fn at_least(&mut self, key: &str, count: u64, what: &str, least: u64) {
        let wanted = format!("≥ {least}");
        self.check(key, count, what, count.to_string(), &wanted, count >= least);
    }

    /// A count that has to be zero.
    pub fn none(&mut self, key: &str, count: u64, what: &str) {
        self.check(key, count, what, count.to_string(), "0", count == 0);
    }

    /// A number of bytes that must not be more than `most`.
    pub fn bytes_at_most(&mut self, key: &str, bytes: u64, what: &str, most: u64) {
        let wanted = format!("≤ {}", mib(most));
        self.check(key, bytes, what, mib(bytes), &wanted, bytes <= most);
    }

    /// A value of the JSON that the table does not show.
    pub fn detail(&mut self, key: &str, value: impl Into<Value>) {
        self.figures.insert(key.to_owned(), value.into());
    }

    fn row(&mut self, what: &str, figure: String, wanted: String, verdict: &'static str) {
        self.rows.push(Row {
            what: what.to_owned(),
            figure,
            wanted,
            verdict,
        });
    }

    /// The table.
    pub fn table(&self) -> String {
        let width = |of: fn(&Row) -> &str| {
            let widths = self.rows.iter().map(|row| of(row).chars().count());
            widths.max().unwrap_or(0)
        };
        let (what, figure, wanted) = (
            width(|row| &row.what),
            width(|row| &row.figure),
            width(|row| &row.wanted),
        );
        let mut table = String::new();
        for row in &self.rows {
            let line = format!(
                "{:<what$}  {:>figure$}  {:<wanted$}  {}",
                row.what, row.figure, row.wanted, row.verdict
            );
            table.push_str(line.trim_end());
            table.push('\n');
        }
        table
    }

    /// All figures, with the program's name and whether every bound was met.
    pub fn json(&self) -> Value {
        let mut value = json!({ "program": self.name, "met": self.failed == 0 });
        if let Some(members) = value.as_object_mut() {
            members.extend(self.figures.clone());
        }
        value
    }

    /// Prints table and JSON; the exit code is 0 if every bound was met and 1 otherwise.
    #[expect(clippy::print_stdout, reason = "the figures are the program's purpose")]
    pub fn print(&self) -> ExitCode {
        println!("{}\n{}", self.table(), self.json());
        if self.failed == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}

/// Bytes in MiB, for people.
pub fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// The middle of the values, of an even number the mean of the two in the middle; 0 if there are none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => 0.0,
        odd if odd % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missed_bound_shows_in_table_and_json() {
        let mut report = Report::new("x");
        report.note("seconds", 1.5, "time", "1.5 s");
        report.at_least("runs", 10, "runs", 10);
        assert_eq!(report.json()["met"], true);
        report.ratio("speed", 0.9, "speed of the disk's", 0.85);
        assert_eq!(report.json()["met"], true);
        assert_eq!(report.json()["ratios"]["speed"], 0.9);
        report.bytes_at_most("peak", 3 << 20, "peak memory", 2 << 20);
        report.none("lost", 0, "lost");
        assert_eq!(report.json()["met"], false);
        assert_eq!(report.json()["peak"], 3 << 20);
        let table = report.table();
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(lines[0], "time                   1.5 s");
        assert!(lines[1].ends_with("≥ 10       met"), "{table}");
        assert!(lines[2].ends_with("≥ 0.85     met"), "{table}");
        assert!(lines[3].ends_with("MISSED"), "{table}");
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(&[4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
        assert!(median(&[]).abs() < 1e-9);
    }
}
