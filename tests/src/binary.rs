//! The program under test: built from this checkout in this run, and named by its hash.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context as _, Result, ensure};
use sha2::{Digest as _, Sha256};

use crate::checkout::{self, SetupLock};
use crate::process::say;

/// The built program.
#[derive(Clone, Debug)]
pub struct Binary {
    path: PathBuf,
    sha256: String,
}

impl Binary {
    /// The program at this place, until the end of this process.
    pub fn at(path: PathBuf) -> Result<&'static Self> {
        Ok(Box::leak(Box::new(found(path)?)))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// SHA-256 of the file, in hex.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// A command that runs it, with no settings inherited from whoever runs the tests.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        if let Some(rule) = RULE_OFF.get() {
            command.env("HOLDFAST_SABOTAGE", rule);
        }
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if name == "HOLDFAST_SABOTAGE" && RULE_OFF.get().is_some() {
                continue;
            }
            if ["PBS_", "HOLDFAST_", "AWS_"]
                .iter()
                .any(|prefix| text.starts_with(prefix))
            {
                command.env_remove(&name);
            }
        }
        command
    }
}

static GIVEN: OnceLock<PathBuf> = OnceLock::new();
static RULE_OFF: OnceLock<String> = OnceLock::new();

/// How the program is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// With the steps at which it can be stopped, and the switches that turn single safety rules off.
    Debug,
    /// With optimisations.
    Release,
}

impl Profile {
    /// With optimisations, or without.
    pub fn of(release: bool) -> Self {
        if release { Self::Release } else { Self::Debug }
    }
}

/// From now on every command runs without the safety rule `rule`, a name of `pbs-datastore/src/sabotage.rs`. Only a
/// program that was built for debugging minds. Once.
pub fn turn_off(rule: &str) -> Result<()> {
    let path = checkout::root().join("pbs-datastore/src/sabotage.rs");
    let source = std::fs::read_to_string(&path)?;
    ensure!(
        source.contains(&format!("Self::{rule},")),
        "there is no rule '{rule}' in '{}'",
        path.display()
    );
    let set = RULE_OFF.set(rule.to_owned());
    ensure!(set.is_ok(), "a rule was turned off already");
    Ok(())
}

/// Uses the program at `path` instead of building one. Only before the first use of [`holdfast`], and once.
pub fn use_program(path: &Path) -> Result<()> {
    let path = path
        .canonicalize()
        .with_context(|| format!("there is no program '{}'", path.display()))?;
    ensure!(GIVEN.set(path).is_ok(), "the program was chosen already");
    Ok(())
}

/// The `holdfast` program. Built at the first call in this process; later calls answer the same.
pub fn holdfast() -> Result<&'static Binary> {
    static BINARY: OnceLock<Result<Binary, String>> = OnceLock::new();
    once(&BINARY, || {
        if let Some(path) = GIVEN.get() {
            return found(path.clone());
        }
        found(build(Profile::of(checkout::is_release()))?)
    })
}

/// The program with the steps and switches of debug builds, for tests that stop it at a step, move its clock or slow its
/// disk down.
pub fn debuggable() -> Result<&'static Binary> {
    static BINARY: OnceLock<Result<Binary, String>> = OnceLock::new();
    if checkout::is_release() {
        once(&BINARY, || found(build(Profile::Debug)?))
    } else {
        holdfast()
    }
}

fn once(
    binary: &'static OnceLock<Result<Binary, String>>,
    find: impl FnOnce() -> Result<Binary>,
) -> Result<&'static Binary> {
    binary
        .get_or_init(|| find().map_err(|error| format!("{error:#}")))
        .as_ref()
        .map_err(|error| anyhow::anyhow!("{error}"))
}

fn found(path: PathBuf) -> Result<Binary> {
    let bytes =
        std::fs::read(&path).with_context(|| format!("cannot read '{}'", path.display()))?;
    let sha256 = hex::encode(Sha256::digest(&bytes));
    say(&format!("testing {} sha256 {sha256}", path.display()));
    Ok(Binary { path, sha256 })
}

/// Builds it, one at a time. The whole workspace is named so that its packages share
/// the dependencies that were built for the tests.
pub fn build(profile: Profile) -> Result<PathBuf> {
    let _lock = SetupLock::take("holdfast-build")?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .current_dir(checkout::root())
        .args(["build", "--quiet", "--workspace", "--bin", "holdfast"])
        .args(["--message-format=json-render-diagnostics", "--target-dir"])
        .arg(checkout::target_dir()?)
        .stderr(Stdio::inherit());
    if profile == Profile::Release {
        command.arg("--release");
    }
    let output = command.output().context("cargo could not be started")?;
    ensure!(
        output.status.success(),
        "the binary `holdfast` does not build"
    );
    let text = String::from_utf8(output.stdout)?;
    text.lines()
        .rev()
        .find_map(|line| {
            let message: serde_json::Value = serde_json::from_str(line).ok()?;
            Some(PathBuf::from(message.get("executable")?.as_str()?))
        })
        .context("cargo named no binary `holdfast`")
}
