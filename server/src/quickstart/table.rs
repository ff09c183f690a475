//! The table at the end: one row per step.

use super::requests::Requests;

/// Titles of the columns.
const TITLES: [&str; 7] = [
    "step",
    "bytes",
    "chunks",
    "new",
    "duplicates",
    "S3 requests",
    "seconds",
];

/// One step, as it went. What a step does not have is empty.
#[derive(Debug, Clone, Default)]
pub(super) struct Row {
    /// What was done.
    pub(super) step: String,
    /// Logical bytes.
    pub(super) bytes: Option<u64>,
    /// Chunks, repetitions counted.
    pub(super) chunks: Option<u64>,
    /// Chunks that were sent.
    pub(super) new: Option<u64>,
    /// Chunks that were not sent, since the server had them.
    pub(super) duplicates: Option<u64>,
    /// Requests that the S3 server counted.
    pub(super) requests: Option<Requests>,
    /// How long it took.
    pub(super) seconds: f64,
}

impl Row {
    fn cells(&self) -> [String; TITLES.len()] {
        let number = |count: Option<u64>| count.map(|count| count.to_string()).unwrap_or_default();
        let bytes = self
            .bytes
            .map(|count| indicatif::BinaryBytes(count).to_string());
        [
            self.step.clone(),
            bytes.unwrap_or_default(),
            number(self.chunks),
            number(self.new),
            number(self.duplicates),
            number(self.requests.as_ref().map(Requests::total)),
            format!("{:.2}", self.seconds),
        ]
    }
}

/// The lines of the table, titles first. The first column is aligned to the left, the others to the right.
pub(super) fn lines(rows: &[Row]) -> Vec<String> {
    let titles = TITLES.map(ToOwned::to_owned);
    let all: Vec<_> = std::iter::once(titles)
        .chain(rows.iter().map(Row::cells))
        .collect();
    let width = |column: usize| {
        let widths = all.iter().map(|cells| cells[column].chars().count());
        widths.max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..TITLES.len()).map(width).collect();
    let line = |cells: &[String; TITLES.len()]| {
        let mut text = format!("{:width$}", cells[0], width = widths[0]);
        for (cell, width) in cells.iter().zip(&widths).skip(1) {
            text = format!("{text}  {cell:>width$}");
        }
        text.trim_end().to_owned()
    };
    all.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_what_is_not_known_is_empty() {
        let rows = [
            Row {
                step: "backup".to_owned(),
                bytes: Some(3 << 20),
                chunks: Some(7),
                new: Some(5),
                duplicates: Some(2),
                requests: Some(Requests::default()),
                seconds: 1.234,
            },
            Row {
                step: "a longer step".to_owned(),
                seconds: 10.0,
                ..Row::default()
            },
        ];
        let lines = lines(&rows);
        assert_eq!(
            lines,
            [
                "step              bytes  chunks  new  duplicates  S3 requests  seconds",
                "backup         3.00 MiB       7    5           2            0     1.23",
                "a longer step                                                    10.00",
            ]
        );
    }
}
