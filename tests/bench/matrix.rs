//! `benchmark matrix NAME`: one benchmark over the sizes of `docs/performance.md`, with its results and charts stored.
//!
//! Every point is one run of the benchmark in a process of its own, by default with one round and smaller amounts than the benchmark
//! has when it is run alone. After each point `NAME.json` is written: command, sizes, figures, machine and date of every point; a point
//! of the same sizes is replaced. From it alone the charts `NAME-*.svg` are drawn, at the end or by `matrix plot NAME`. What is run and drawn is in [`plans`](crate::plans).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use holdfast_tests::checkout;
use holdfast_tests::measure::arguments::CommonArgs;
use holdfast_tests::measure::report::Report;
use holdfast_tests::process::say;
use serde_json::{Map, Value, json};

use crate::plans::{By, Chart, Plan};
use crate::plot::{Axis, Plot, Point, Series};
use crate::runs::{Runs, circumstances, shown};

/// A point that takes longer has failed.
const SECONDS_MAX: u64 = 1800;

/// One benchmark over all sizes, with charts.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct MatrixArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Which one: ingest, uploads, restore or gc; or `plot` and which one, to draw its stored results again.
    #[arg(required = true, num_args = 1..=2, value_name = "NAME")]
    names: Vec<String>,
    /// Where results and charts go; docs/performance of the checkout if not given.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Only points of this size, such as chunks=10000; may be repeated, for another size or for another value of the same.
    #[arg(long, value_name = "SIZE=VALUE", value_parser = size)]
    only: Vec<(String, Value)>,
    /// Do not measure points that are stored already with the same command.
    #[arg(long)]
    keep: bool,
    /// More options for every point, in one argument: "--rounds 5". They come last and so count.
    #[arg(
        long,
        value_name = "OPTIONS",
        default_value = "",
        allow_hyphen_values = true
    )]
    options: String,
}

/// `SIZE=VALUE`, with a value as JSON has it or a word.
fn size(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text.split_once('=').ok_or("SIZE=VALUE, please")?;
    let value = serde_json::from_str(value).unwrap_or_else(|_| json!(value));
    Ok((name.to_owned(), value))
}

impl MatrixArgs {
    /// Measures, stores and draws.
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let (name, measure) = match &self.names[..] {
            [plot, name] if plot == "plot" => (name, false),
            [name] => (name, true),
            _ => anyhow::bail!("NAME, or `plot` NAME"),
        };
        let plan = Plan::of(name)?;
        let default = || checkout::root().join("docs/performance");
        let dir = self.out.clone().unwrap_or_else(default);
        let path = dir.join(format!("{name}.json"));
        if measure {
            self.common.begin()?;
            fs::create_dir_all(&dir)?;
            self.measure(plan, &path)?;
        }
        let text = fs::read_to_string(&path)
            .with_context(|| format!("no results in '{}'", path.display()))?;
        let stored: Value = serde_json::from_str(&text)?;
        let charts = draw(plan, &stored, &dir)?;
        let mut report = Report::new("matrix");
        report.detail("results", path.display().to_string());
        report.at_least("points", points_in(&stored).len() as u64, "points", 1);
        report.at_least("charts", charts, "charts", 1);
        Ok(report.print())
    }

    fn measure(&self, plan: &Plan, path: &Path) -> Result<()> {
        let runs = Runs::new(self.common.seed, SECONDS_MAX)?;
        let kept = if path.exists() {
            serde_json::from_str(&fs::read_to_string(path)?)?
        } else {
            json!({ "points": [] })
        };
        let mut done: Vec<Value> = points_in(&kept).to_vec();
        let points = plan.points();
        let place = |point: &Value| {
            let its = point["sizes"].as_object();
            points.iter().position(|(sizes, _)| its == Some(sizes))
        };
        let mut chosen = 0;
        for (sizes, arguments) in &points {
            let mut arguments = arguments.clone();
            let has = |(name, value): &(String, Value)| sizes.get(name) == Some(value);
            let wanted = |(name, _): &(String, Value)| {
                let mut values = self.only.iter().filter(|(other, _)| other == name);
                values.any(has)
            };
            if !self.only.iter().all(wanted) {
                continue;
            }
            chosen += 1;
            arguments.extend(self.options.split_whitespace().map(ToOwned::to_owned));
            let command = shown(&arguments);
            let is_it = |point: &Value| point["command"] == command.as_str();
            if self.keep && done.iter().any(is_it) {
                say(&format!("stored already: {command}"));
                continue;
            }
            let figures = runs.run(&arguments)?;
            done.retain(|point| point["sizes"].as_object() != Some(sizes));
            done.push(json!({
                "command": command,
                "measured": circumstances()?,
                "sizes": sizes,
                "figures": figures,
            }));
            done.sort_by_key(place);
            let stored = json!({ "benchmark": plan.name, "points": done });
            fs::write(
                path,
                format!("{}\n", serde_json::to_string_pretty(&stored)?),
            )
            .with_context(|| format!("cannot write '{}'", path.display()))?;
        }
        let known: Vec<_> = points[0].0.keys().collect();
        ensure!(chosen > 0, "no point has these sizes; there are {known:?}");
        Ok(())
    }
}

fn points_in(stored: &Value) -> &[Value] {
    stored["points"].as_array().map_or(&[], Vec::as_slice)
}

/// Draws every chart that has a line. Returns how many.
fn draw(plan: &Plan, stored: &Value, dir: &Path) -> Result<u64> {
    let mut drawn = 0;
    for chart in plan.charts {
        let series = series_of(chart, points_in(stored));
        if series.is_empty() {
            continue;
        }
        let plot = Plot {
            title: chart.title.to_owned(),
            x: Axis::new(chart.x.title, chart.x.scale),
            y: Axis::new(chart.y.title, chart.y.scale),
            series,
        };
        let path = dir.join(format!("{}-{}.svg", plan.name, chart.name));
        fs::write(&path, plot.svg())
            .with_context(|| format!("cannot write '{}'", path.display()))?;
        drawn += 1;
    }
    Ok(drawn)
}

/// The lines of a chart: one for each figure and each combination of the sizes that it is split by, in the order of the points.
fn series_of(chart: &Chart, points: &[Value]) -> Vec<Series> {
    let mut lines: Vec<Series> = Vec::new();
    let mut at: BTreeMap<String, usize> = BTreeMap::new();
    for point in points {
        let (sizes, figures) = (&point["sizes"], &point["figures"]);
        let chosen = |(size, value): &(&str, &str)| word(&sizes[size]) == *value;
        if !chart.only.iter().all(chosen) {
            continue;
        }
        for figure in chart.figures {
            let x = sizes[chart.x.key].as_f64();
            let (Some(x), Some(y)) = (x, figures[figure.key].as_f64()) else {
                continue;
            };
            let y = y * figure.factor;
            let mut words: Vec<String> = chart.by.iter().map(|by| by_word(by, sizes)).collect();
            if !figure.name.is_empty() {
                words.insert(0, figure.name.to_owned());
            }
            let name = words.join(", ");
            let line = *at.entry(name.clone()).or_insert_with(|| {
                lines.push(Series {
                    name,
                    points: Vec::new(),
                });
                lines.len() - 1
            });
            lines[line].points.push(Point { x, y });
        }
    }
    for line in &mut lines {
        line.points.sort_by(|a, b| a.x.total_cmp(&b.x));
    }
    lines
}

fn by_word(by: &By, sizes: &Value) -> String {
    format!("{}{}", word(&sizes[by.key]), by.unit)
}

/// A size as it is written, without quotes.
fn word(size: &Value) -> String {
    size.as_str()
        .map_or_else(|| size.to_string(), ToOwned::to_owned)
}

/// Sizes of a point by name.
pub(crate) type Sizes = Map<String, Value>;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plans::{Dimension, Figure};
    use crate::plot::Scale;

    const CHART: Chart = Chart {
        name: "x",
        title: "x",
        x: Dimension {
            key: "chunks",
            title: "chunks",
            scale: Scale::Log,
        },
        y: Dimension {
            key: "",
            title: "MiB",
            scale: Scale::Linear,
        },
        figures: &[Figure {
            key: "bytes",
            name: "",
            factor: 0.5,
        }],
        by: &[By {
            key: "garbage",
            unit: " %",
        }],
        only: &[("kind", "a")],
    };

    #[test]
    fn points_become_lines_in_order_of_size() {
        let point = |kind: &str, chunks: u64, garbage: u64, bytes: f64| {
            json!({
                "sizes": { "kind": kind, "chunks": chunks, "garbage": garbage },
                "figures": { "bytes": bytes },
            })
        };
        let points = [
            point("a", 100, 0, 4.0),
            point("a", 10, 0, 2.0),
            point("a", 10, 90, 6.0),
            point("b", 10, 0, 8.0),
            json!({ "sizes": { "kind": "a", "chunks": 5, "garbage": 0 }, "figures": {} }),
        ];
        let lines = series_of(&CHART, &points);
        let names: Vec<&str> = lines.iter().map(|line| line.name.as_str()).collect();
        assert_eq!(names, ["0 %", "90 %"]);
        let places: Vec<(f64, f64)> = lines[0].points.iter().map(|at| (at.x, at.y)).collect();
        assert_eq!(places, [(10.0, 1.0), (100.0, 2.0)]);
    }

    #[test]
    fn a_size_on_the_command_line_is_a_number_or_a_word() {
        assert_eq!(size("chunks=10"), Ok(("chunks".to_owned(), json!(10))));
        assert_eq!(size("kind=cold"), Ok(("kind".to_owned(), json!("cold"))));
        assert!(size("chunks").is_err());
    }
}
