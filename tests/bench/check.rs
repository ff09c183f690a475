//! `benchmark check` (`cargo bench-check`): whether any ratio has become worse than the stored one by more than 15 %.
//!
//! Short runs of the other benchmarks, without peers; of each, the `ratios` of its JSON are compared with those in
//! `tests/bench/ratios.json`. Only ratios: machines differ, and both sides of a ratio are of this machine and this run. A benchmark with
//! a ratio that is too small is run once more, and the better of both counts. A ratio that is missing on either side is a fault.
//! `--save` stores the ratios of this run instead; where `TMPDIR` lies should be the same in both, and is told.
//!
//! A speed that has nothing beside it in its own run is held against a core of this machine: `-by-core` is that speed by the megabytes
//! per second of which one thread makes SHA-256 just before.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use holdfast_tests::checkout;
use holdfast_tests::measure::arguments::CommonArgs;
use holdfast_tests::measure::noise::Noise;
use holdfast_tests::measure::report::Report;
use holdfast_tests::measure::usage::ThreadCpu;
use holdfast_tests::process::say;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::runs::{Runs, circumstances, shown, words};

/// What is left of a stored ratio, at least.
const PART_MIN: f64 = 0.85;
/// A minute or two each. A change of these needs `--save`.
const MEASURED: [Measured; 6] = [
    Measured {
        name: "ingest",
        line: "ingest --rounds 5 --mib 512",
        by_core: &[],
    },
    Measured {
        name: "ingest-small",
        line: "ingest --rounds 5 --mib 256 --chunk-kib 64 --sessions 4 --compressible",
        by_core: &[],
    },
    Measured {
        name: "uploads",
        line: "uploads --pairs 3 --mib 512",
        by_core: &[],
    },
    Measured {
        name: "restore",
        line: "restore --pairs 3 --mib 256 --gain-mib 64",
        by_core: &[],
    },
    Measured {
        name: "known",
        line: "known --rounds 3",
        by_core: &["references-per-cpu-second"],
    },
    Measured {
        name: "gc",
        line: "gc --chunks 100000 --garbage 50 --rounds 3",
        by_core: &["known-entries-per-second", "first-touches-per-second"],
    },
];
/// What one thread makes SHA-256 of, over and over.
const HASHED_BYTES: usize = 4 << 20;
/// How often.
const HASHED_TIMES: u64 = 64;
/// A benchmark that takes longer has failed.
const SECONDS_MAX: u64 = 600;

/// Fails if a ratio is more than 15 % worse than the stored one.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Store the ratios of this run; nothing is compared.
    #[arg(long)]
    save: bool,
}

/// One benchmark.
#[derive(Debug)]
struct Measured {
    name: &'static str,
    line: &'static str,
    /// Speeds to be held against a core.
    by_core: &'static [&'static str],
}

/// Ratios by `BENCHMARK.KEY`.
type Ratios = BTreeMap<String, f64>;

/// One ratio, stored and now.
#[derive(Clone, Debug, PartialEq)]
struct Compared {
    key: String,
    stored: Option<f64>,
    now: Option<f64>,
}

impl Compared {
    fn holds(&self) -> bool {
        matches!((self.stored, self.now), (Some(stored), Some(now)) if now >= stored * PART_MIN)
    }

    /// There on both sides, and too small.
    fn is_worse(&self) -> bool {
        self.stored.is_some() && self.now.is_some() && !self.holds()
    }

    /// The benchmark it is of.
    fn benchmark(&self) -> &str {
        self.key.split('.').next().unwrap_or_default()
    }
}

impl CheckArgs {
    /// Measures and prints.
    pub(crate) fn run(&self) -> Result<ExitCode> {
        self.common.begin()?;
        let stored = if self.save { Ratios::new() } else { stored()? };
        let runs = Runs::new(self.common.seed, SECONDS_MAX)?;
        let mut now = Ratios::new();
        for one in &MEASURED {
            now.extend(one.run(&runs)?);
        }
        if self.save {
            return save(&now);
        }
        let worse: Vec<String> = compare(&stored, &now)
            .iter()
            .filter(|one| one.is_worse())
            .map(|one| one.benchmark().to_owned())
            .collect();
        for one in &MEASURED {
            if worse.iter().any(|name| name == one.name) {
                say(&format!("{} is measured once more", one.name));
                keep_better(&mut now, one.run(&runs)?);
            }
        }
        Ok(report(&compare(&stored, &now)).print())
    }
}

impl Measured {
    fn run(&self, runs: &Runs) -> Result<Ratios> {
        let core = if self.by_core.is_empty() {
            0.0
        } else {
            core_speed()?
        };
        Ok(self.ratios(&runs.run(&words(self.line))?, core))
    }

    /// The ratios of a report, and those of its speeds by that of a core.
    fn ratios(&self, told: &Value, core: f64) -> Ratios {
        let mut ratios = ratios_of(self.name, told);
        for key in self.by_core {
            if let Some(speed) = told[key].as_f64() {
                ratios.insert(format!("{}.{key}-by-core", self.name), speed / core);
            }
        }
        ratios
    }
}

/// Megabytes per second of its own processor time of which one thread makes SHA-256.
fn core_speed() -> Result<f64> {
    let content = Noise::new(1).bytes(HASHED_BYTES);
    let before = ThreadCpu::now()?;
    for _ in 0..HASHED_TIMES {
        std::hint::black_box(Sha256::digest(std::hint::black_box(&content)));
    }
    let seconds = ThreadCpu::now()?.seconds_since(&before);
    Ok((HASHED_BYTES as u64 * HASHED_TIMES) as f64 / seconds / 1e6)
}

/// The ratios of a report, with the benchmark's name before each.
fn ratios_of(name: &str, told: &Value) -> Ratios {
    let ratios = told["ratios"].as_object().into_iter().flatten();
    let ratio = |(key, value): (&String, &Value)| Some((format!("{name}.{key}"), value.as_f64()?));
    ratios.filter_map(ratio).collect()
}

fn keep_better(ratios: &mut Ratios, again: Ratios) {
    for (key, value) in again {
        let best = ratios.entry(key).or_insert(value);
        *best = best.max(value);
    }
}

/// All that either side has.
fn compare(stored: &Ratios, now: &Ratios) -> Vec<Compared> {
    let mut keys: Vec<&String> = stored.keys().chain(now.keys()).collect();
    keys.sort();
    keys.dedup();
    let one = |key: &String| Compared {
        key: key.clone(),
        stored: stored.get(key).copied(),
        now: now.get(key).copied(),
    };
    keys.into_iter().map(one).collect()
}

fn report(compared: &[Compared]) -> Report {
    let mut report = Report::new("check");
    for one in compared {
        let figure = |figure: Option<f64>| figure.map_or("none".to_owned(), |f| format!("{f:.3}"));
        let wanted = match one.stored {
            Some(stored) => format!("≥ {:.3}, stored {stored:.3}", stored * PART_MIN),
            None => "is not stored: --save".to_owned(),
        };
        let (key, shown) = (&one.key, figure(one.now));
        report.check(key, json!(one.now), key, shown, &wanted, one.holds());
    }
    report.at_least("compared", compared.len() as u64, "ratios", 1);
    report
}

fn path() -> PathBuf {
    checkout::root().join("tests/bench/ratios.json")
}

fn stored() -> Result<Ratios> {
    let path = path();
    let told = || format!("no ratios in '{}'; --save stores them", path.display());
    let text = fs::read_to_string(&path).with_context(told)?;
    let value: Value = serde_json::from_str(&text).with_context(told)?;
    say(&format!("stored: {}", value["measured"]));
    say(&format!("now: {}", circumstances()?));
    let ratios: Ratios = serde_json::from_value(value["ratios"].clone()).with_context(told)?;
    Ok(ratios)
}

fn save(now: &Ratios) -> Result<ExitCode> {
    let rounded: Ratios = now
        .iter()
        .map(|(key, value)| (key.clone(), (value * 1e4).round() / 1e4))
        .collect();
    let commands = MEASURED
        .iter()
        .map(|one| (one.name, shown(&words(one.line))));
    let commands: BTreeMap<&str, String> = commands.collect();
    let kept = json!({
        "measured": circumstances()?,
        "commands": commands,
        "ratios": rounded,
    });
    let text = format!("{}\n", serde_json::to_string_pretty(&kept)?);
    let path = path();
    fs::write(&path, text).with_context(|| format!("cannot write '{}'", path.display()))?;
    let mut report = Report::new("check");
    for (key, value) in &rounded {
        report.plain_ratio(key, *value, key);
    }
    report.at_least("stored", rounded.len() as u64, "ratios stored", 1);
    Ok(report.print())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ratios(all: &[(&str, f64)]) -> Ratios {
        let owned = |(key, value): &(&str, f64)| ((*key).to_owned(), *value);
        all.iter().map(owned).collect()
    }

    #[test]
    fn a_loss_of_more_than_fifteen_of_a_hundred_is_a_fault() {
        let stored = ratios(&[("a.x", 1.0), ("a.y", 2.0), ("b.x", 0.9)]);
        let now = ratios(&[("a.x", 0.851), ("a.y", 1.69), ("b.x", 1.4)]);
        let compared = compare(&stored, &now);
        let held: Vec<bool> = compared.iter().map(Compared::holds).collect();
        assert_eq!(held, [true, false, true]);
        assert_eq!(compared[1].benchmark(), "a");
        let told = report(&compared);
        assert_eq!(told.json()["met"], false);
        assert!(
            told.table().contains("≥ 1.700, stored 2.000"),
            "{}",
            told.table()
        );
    }

    #[test]
    fn what_is_missing_on_either_side_is_a_fault() {
        let worse = |one: &Compared| one.is_worse();
        let (one, both) = (
            ratios(&[("a.x", 1.0)]),
            ratios(&[("a.x", 1.0), ("a.y", 1.0)]),
        );
        assert_eq!(report(&compare(&both, &one)).json()["met"], false);
        assert_eq!(report(&compare(&one, &both)).json()["met"], false);
        assert_eq!(report(&compare(&both, &both)).json()["met"], true);
        assert!(!compare(&one, &both).iter().any(worse));
        let none = Ratios::new();
        assert_eq!(report(&compare(&none, &none)).json()["met"], false);
    }

    #[test]
    fn the_better_of_two_runs_counts() {
        let mut now = ratios(&[("a.x", 1.0), ("a.y", 2.0)]);
        keep_better(
            &mut now,
            ratios(&[("a.x", 1.5), ("a.y", 1.0), ("a.z", 3.0)]),
        );
        assert_eq!(now, ratios(&[("a.x", 1.5), ("a.y", 2.0), ("a.z", 3.0)]));
    }

    #[test]
    fn ratios_are_found_in_a_report() {
        let mut told = Report::new("gc");
        told.ratio("sweep", 0.5, "sweep", 0.9);
        assert_eq!(ratios_of("gc", &told.json()), ratios(&[("gc.sweep", 0.5)]));
        assert_eq!(ratios_of("gc", &json!({})), Ratios::new());
        let measured = Measured {
            name: "gc",
            line: "gc",
            by_core: &["speed", "other"],
        };
        told.note("speed", 300.0, "speed", "300");
        let expected = ratios(&[("gc.sweep", 0.5), ("gc.speed-by-core", 0.25)]);
        assert_eq!(measured.ratios(&told.json(), 1200.0), expected);
        assert!(core_speed().unwrap() > 0.0);
    }
}
