//! Shows that every safety rule is needed: turns each off in the real code and expects that this is found.
//!
//! `cargo sabotage [RULE…]`. Each rule has a unit test that must pass with it and fail without it, and the simulation is
//! run without it until a seed ends badly, a thousand at most, and then until a month does, twenty at most. Ends with 1 if a rule is found by neither (the switch is
//! worth nothing, or those who look are blind), if a test does not pass with all rules, or if the simulation finds
//! anything with all rules.
#![expect(clippy::print_stdout, reason = "the table is the program's purpose")]

mod programs;
mod rules;

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;
use holdfast_tests::checkout;

use programs::{Found, Programs, World};
use rules::{CASES, Case, Simulation};

/// Turns safety rules off, one at a time, and shows who finds it.
#[derive(Debug, Parser)]
struct Arguments {
    /// Rules, as they are called in pbs-datastore/src/sabotage.rs; without any all of them.
    rules: Vec<String>,
    /// The most seeds for one rule.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The most months for one rule that no seed finds.
    #[arg(long, default_value_t = 20)]
    months: u64,
    /// Seeds with all rules, which must find nothing.
    #[arg(long, default_value_t = 200)]
    control: u64,
    /// Ask the simulation for those rules too whose absence it cannot see.
    #[arg(long)]
    all: bool,
}

impl Arguments {
    fn chosen(&self) -> Result<Vec<&'static Case>> {
        if self.rules.is_empty() {
            return Ok(CASES.iter().collect());
        }
        let named = |name: &String| match CASES.iter().find(|case| case.rule == name) {
            Some(case) => Ok(case),
            None => bail!("there is no rule '{name}'"),
        };
        self.rules.iter().map(named).collect()
    }

    /// Seeds first, which are fast, and then months.
    fn simulate(&self, programs: &Programs, rule: &str) -> Result<Simulated> {
        for (world, count) in [(World::Seed, self.seeds), (World::Month, self.months)] {
            if count > 0
                && let Some(found) = programs.first(world, count, Some(rule))?
            {
                return Ok(Simulated::Found(found));
            }
        }
        Ok(Simulated::NotFound)
    }
}

/// Every switch of the code has its case here, and the other way round.
fn check_names() -> Result<()> {
    let path = checkout::root().join("pbs-datastore/src/sabotage.rs");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let switches: Vec<_> = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Self::")?.strip_suffix(','))
        .collect();
    let cases: Vec<_> = CASES.iter().map(|case| case.rule).collect();
    ensure!(
        switches == cases,
        "the rules of '{}' are others than those of the table",
        path.display()
    );
    Ok(())
}

/// What the simulation says without a rule.
#[derive(Debug)]
enum Simulated {
    NotAsked(&'static str),
    NotFound,
    Found(Found),
}

/// What became of one rule.
#[derive(Debug)]
struct Verdict {
    /// Whether its test passes with it and without it.
    with: bool,
    without: bool,
    simulated: Simulated,
}

impl Verdict {
    fn of(case: &Case, programs: &Programs, arguments: &Arguments) -> Result<Self> {
        let with = programs.passes(case.test, None)?;
        let without = programs.passes(case.test, Some(case.rule))?;
        let simulated = match case.simulation {
            Simulation::Blind(why) if !arguments.all => Simulated::NotAsked(why),
            _ => arguments.simulate(programs, case.rule)?,
        };
        Ok(Self {
            with,
            without,
            simulated,
        })
    }

    fn found_by_test(&self) -> bool {
        self.with && !self.without
    }

    fn found_by_simulation(&self) -> bool {
        matches!(self.simulated, Simulated::Found(_))
    }

    fn survived(&self) -> bool {
        !self.with || !(self.found_by_test() || self.found_by_simulation())
    }

    /// The columns of the table after the rule's name.
    fn columns(&self) -> [String; 4] {
        let word = |passed| if passed { "passes" } else { "fails" };
        let test = format!("{} / {}", word(self.with), word(self.without));
        let nothing = |what: String| ["-".to_owned(), "-".to_owned(), what];
        let [seed, needed, what] = match &self.simulated {
            Simulated::Found(found) => {
                let (seed, needed) = (found.seed, found.seed + 1);
                let needed = match found.world {
                    World::Seed => needed.to_string(),
                    World::Month => format!("{needed} mo"),
                };
                [seed.to_string(), needed, shortened(&found.what)]
            }
            Simulated::NotFound => nothing("(not found)".to_owned()),
            Simulated::NotAsked(why) => nothing(format!("(not asked: {why})")),
        };
        [test, seed, needed, what]
    }
}

/// Without the digests, ids and times of one run.
fn shortened(what: &str) -> String {
    let short = |word: &str| {
        let bare = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
        let hex = bare.len() == 64 && bare.bytes().all(|byte| byte.is_ascii_hexdigit());
        if hex {
            word.replace(bare, &bare[..8])
        } else if bare.starts_with("host/") {
            "a snapshot".to_owned()
        } else {
            word.to_owned()
        }
    };
    let words: Vec<_> = what.split(' ').map(short).collect();
    words.join(" ")
}

/// A line of the table.
fn line(rule: &str, columns: [&str; 4]) {
    let [test, seed, needed, what] = columns;
    println!("{rule:<26} {test:<15} {seed:>6} {needed:>6}  {what}");
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    check_names()?;
    let chosen = arguments.chosen()?;
    let programs = Programs::build()?;
    let mut failures = 0;
    line(
        "rule off",
        ["test with / without", "seed", "needed", "what was violated"],
    );
    let (mut by_test, mut by_simulation) = (0, 0);
    for case in &chosen {
        let verdict = Verdict::of(case, &programs, &arguments)?;
        line(case.rule, verdict.columns().each_ref().map(String::as_str));
        by_test += u32::from(verdict.found_by_test());
        by_simulation += u32::from(verdict.found_by_simulation());
        if verdict.survived() {
            println!("  survives; its test is {}", case.test);
            failures += 1;
        }
    }
    println!(
        "{} rules: found by a test {by_test}, by the simulation {by_simulation}, survivors {failures}",
        chosen.len()
    );
    if arguments.control > 0 {
        match programs.first(World::Seed, arguments.control, None)? {
            None => println!(
                "with all rules {} seeds end well, as they must",
                arguments.control
            ),
            Some(found) => {
                let (name, seed) = (found.world.variable(), found.seed);
                println!("with all rules {name}={seed}: {}", found.what);
                failures += 1;
            }
        }
    }
    Ok(ExitCode::from(u8::from(failures > 0)))
}
