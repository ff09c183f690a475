//! The two programs that look for the absence of a rule: the unit tests of pbs-datastore, and the simulation.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use holdfast_tests::process::{Output, run};
use tempfile::TempDir;

/// The variable that names the rule to do without.
const VARIABLE: &str = "HOLDFAST_SABOTAGE";

/// How long a test may take, and a thousand seeds or a few months. Without a rule somebody may wait for ever.
const TEST_MAX: Duration = Duration::from_mins(1);
const SIMULATION_MAX: Duration = Duration::from_mins(15);

/// Builds a program, for debugging and so with the switches, and answers where it is.
fn build(arguments: &[&str], target: &str) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(arguments)
        .args(["--quiet", "--workspace"])
        .arg("--message-format=json")
        .stderr(Stdio::inherit())
        .output()
        .context("cargo could not be started")?;
    ensure!(output.status.success(), "'{target}' does not build");
    let text = String::from_utf8(output.stdout)?;
    let program = text.lines().rev().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        if message.get("target")?.get("name")? != target {
            return None;
        }
        Some(PathBuf::from(message.get("executable")?.as_str()?))
    });
    program.with_context(|| format!("cargo named no program for '{target}'"))
}

/// What is simulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum World {
    /// A few hours of one datastore.
    Seed,
    /// Thirty days of two daemons.
    Month,
}

impl World {
    /// The argument that says how many.
    fn argument(self) -> &'static str {
        match self {
            Self::Seed => "--seeds",
            Self::Month => "--months",
        }
    }

    /// What a line about a bad one begins with; in the environment it replays that one.
    pub(crate) fn variable(self) -> &'static str {
        match self {
            Self::Seed => "SIM_SEED",
            Self::Month => "SIM_MONTH",
        }
    }
}

/// What the simulation found.
#[derive(Debug)]
pub(crate) struct Found {
    /// In which of them.
    pub(crate) world: World,
    /// The first seed that ends badly.
    pub(crate) seed: u64,
    /// What it says of it.
    pub(crate) what: String,
}

/// Copies of both programs, which whoever builds meanwhile does not change.
#[derive(Debug)]
pub(crate) struct Programs {
    tests: PathBuf,
    simulation: PathBuf,
    _dir: TempDir,
}

impl Programs {
    /// Builds them.
    pub(crate) fn build() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let copy = |program: PathBuf, name: &str| {
            let to = dir.path().join(name);
            fs::copy(&program, &to).map(|_| to)
        };
        let tests = build(&["test", "--no-run", "--lib"], "pbs_datastore")?;
        let simulation = build(&["build", "--bin", "sim"], "sim")?;
        Ok(Self {
            tests: copy(tests, "tests")?,
            simulation: copy(simulation, "sim")?,
            _dir: dir,
        })
    }

    /// Whether a test passes without `rule` (with all rules for `None`).
    pub(crate) fn passes(&self, test: &str, rule: Option<&str>) -> Result<bool> {
        let mut command = Command::new(&self.tests);
        command.args(["--exact", test]);
        let output = without(command, rule, TEST_MAX)?;
        let text = output.text();
        ensure!(text.contains("running 1 test"), "there is no test '{test}'");
        Ok(output.code == Some(0))
    }

    /// The first of `count` worlds that ends badly without `rule` (with all rules for `None`).
    pub(crate) fn first(
        &self,
        world: World,
        count: u64,
        rule: Option<&str>,
    ) -> Result<Option<Found>> {
        let mut command = Command::new(&self.simulation);
        command.args([
            "--violations-max",
            "1",
            world.argument(),
            &count.to_string(),
        ]);
        for world in [World::Seed, World::Month] {
            command.env_remove(world.variable());
        }
        let output = without(command, rule, SIMULATION_MAX)?;
        let text = output.text();
        // In the order of the seeds: all before the first have ended well.
        let first = text.lines().find_map(|line| {
            let named = line.strip_prefix(world.variable())?.strip_prefix('=')?;
            let (seed, what) = named.split_once(": ")?;
            let (seed, what) = (seed.parse().ok()?, what.to_owned());
            Some(Found { world, seed, what })
        });
        match (output.code, first) {
            (Some(0), None) => Ok(None),
            (Some(1), Some(found)) => Ok(Some(found)),
            (code, _) => bail!(
                "the simulation ended with {code:?}: {}",
                output.stderr.trim()
            ),
        }
    }
}

fn without(mut command: Command, rule: Option<&str>, time: Duration) -> Result<Output> {
    match rule {
        Some(rule) => command.env(VARIABLE, rule),
        None => command.env_remove(VARIABLE),
    };
    run(&mut command, &[], time)
}
