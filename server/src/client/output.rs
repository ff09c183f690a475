//! Results on standard output: tables for a person, JSON for a program.

use std::io::{self, Write};

use serde_json::{Map, Value};

/// `--output-format`
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct OutputArgs {
    /// How results are printed.
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) output_format: OutputFormat,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum OutputFormat {
    /// For a person.
    #[default]
    Text,
    /// For a program: one JSON value.
    Json,
}

impl OutputArgs {
    /// Standard output in the chosen format.
    pub(crate) fn output(&self) -> Output {
        Output {
            format: self.output_format,
        }
    }
}

/// Where results go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    format: OutputFormat,
}

/// A column of a table: its title, the member of the row it shows, and how.
pub(crate) type Column = (&'static str, fn(&Value) -> String);

impl Output {
    /// One value with members, in this order.
    pub(crate) fn object(self, members: &[(&str, Value)]) -> anyhow::Result<()> {
        let members = members.iter().filter(|(_, value)| !value.is_null());
        match self.format {
            OutputFormat::Json => {
                let object: Map<_, _> = members
                    .map(|(name, value)| ((*name).to_owned(), value.clone()))
                    .collect();
                print(&Value::from(object).to_string())
            }
            OutputFormat::Text => {
                for (name, value) in members {
                    print(&format!("{name}: {}", plain(value)))?;
                }
                Ok(())
            }
        }
    }

    /// A list of rows: as it came in JSON, as a table otherwise.
    pub(crate) fn table(self, rows: &[Value], columns: &[Column]) -> anyhow::Result<()> {
        match self.format {
            OutputFormat::Json => print(&Value::from(rows.to_vec()).to_string()),
            OutputFormat::Text => print_table(rows, columns),
        }
    }

    /// One row of such a table: as it came in JSON, a line for each cell that says something otherwise.
    pub(crate) fn row(self, row: &Value, columns: &[Column]) -> anyhow::Result<()> {
        let cells = columns.iter().map(|(title, cell)| (title, cell(row)));
        let said = cells.filter(|(_, cell)| !cell.is_empty());
        let lines = said.map(|(title, cell)| format!("{title}: {cell}"));
        self.value(row, &lines.collect::<Vec<_>>().join("\n"))
    }

    /// A line for a person; nothing in JSON.
    pub(crate) fn text(self, line: &str) -> anyhow::Result<()> {
        if self.format == OutputFormat::Text {
            print(line)
        } else {
            Ok(())
        }
    }

    /// Whether a program reads it.
    pub(crate) fn is_json(self) -> bool {
        self.format == OutputFormat::Json
    }

    /// A value for a program; nothing in text.
    pub(crate) fn json(self, value: &Value) -> anyhow::Result<()> {
        if self.format == OutputFormat::Json {
            print(&value.to_string())
        } else {
            Ok(())
        }
    }

    /// One value with whatever members it has.
    pub(crate) fn members(self, value: &Value) -> anyhow::Result<()> {
        let members = value.as_object().into_iter().flatten();
        let lines = members.map(|(name, value)| format!("{name}: {}", plain(value)));
        self.value(value, &lines.collect::<Vec<_>>().join("\n"))
    }

    /// A value that stands for itself: as JSON, or as `text`.
    pub(crate) fn value(self, value: &Value, text: &str) -> anyhow::Result<()> {
        match self.format {
            OutputFormat::Json => print(&value.to_string()),
            OutputFormat::Text if text.is_empty() => Ok(()),
            OutputFormat::Text => print(text),
        }
    }
}

fn print_table(rows: &[Value], columns: &[Column]) -> anyhow::Result<()> {
    let lines: Vec<Vec<String>> = rows
        .iter()
        .map(|row| columns.iter().map(|(_, cell)| cell(row)).collect())
        .collect();
    let titles: Vec<String> = columns
        .iter()
        .map(|(title, _)| (*title).to_owned())
        .collect();
    let widths: Vec<usize> = (0..columns.len())
        .map(|at| {
            std::iter::once(&titles)
                .chain(&lines)
                .map(|line| line[at].chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    for line in std::iter::once(&titles).chain(&lines) {
        let cells: Vec<_> = line
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        print(cells.join("  ").trim_end())?;
    }
    Ok(())
}

/// One line on standard output. A reader that has gone away is no fault of ours.
pub(crate) fn print(line: &str) -> anyhow::Result<()> {
    match writeln!(io::stdout(), "{line}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// A value for a person: texts without quotes, lists joined.
pub(crate) fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.replace(|c: char| c.is_control(), " "),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

/// Bytes with a unit of 1024.
pub(crate) fn bytes(count: u64) -> String {
    indicatif::BinaryBytes(count).to_string()
}

/// A number of bytes in a row, or nothing.
pub(crate) fn bytes_of(value: &Value) -> String {
    value.as_u64().map(bytes).unwrap_or_default()
}

/// Unix seconds in a row as a UTC time, or nothing.
pub(crate) fn time_of(value: &Value) -> String {
    let time = value
        .as_i64()
        .and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    time.map(|time| time.to_string()).unwrap_or_default()
}
