//! The Python environment of `tests/python`, made once under the build directory with pinned versions.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use sha2::{Digest as _, Sha256};

use crate::checkout::{self, SetupLock};
use crate::process::{run, say};

/// What to do when there is no usable Python.
const INSTALL: &str = "the tests need Python 3.11 or later with the modules venv and pip: \
    apt-get install python3 python3-venv";

/// How long the packages may take to arrive.
const INSTALL_TIME_MAX: Duration = Duration::from_mins(10);

/// The interpreter of the environment.
#[derive(Clone, Debug)]
pub struct Python {
    interpreter: PathBuf,
    /// What the interpreter compiles is kept there, and not beside the programs.
    compiled: PathBuf,
}

impl Python {
    /// The environment, made if it is not there yet or if the pinned versions have changed.
    pub fn get() -> Result<&'static Self> {
        static PYTHON: OnceLock<Result<Python, String>> = OnceLock::new();
        PYTHON
            .get_or_init(|| set_up().map_err(|error| format!("{error:#}")))
            .as_ref()
            .map_err(|error| anyhow::anyhow!("{error}"))
    }

    /// A command that runs `arguments` in the directory of the Python programs.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.interpreter);
        command
            .args(arguments)
            .current_dir(checkout::python_dir())
            .env("PYTHONPYCACHEPREFIX", &self.compiled)
            .env_remove("PYTHONDONTWRITEBYTECODE")
            .env("PYTHONUNBUFFERED", "1");
        command
    }
}

fn set_up() -> Result<Python> {
    let _lock = SetupLock::take("python-venv")?;
    let requirements = checkout::python_dir().join("requirements.txt");
    let wanted = hex::encode(Sha256::digest(fs::read(&requirements)?));
    let place = checkout::target_dir()?.join("python-venv");
    let stamp = place.join("requirements.sha256");
    let python = Python {
        interpreter: place.join("bin/python"),
        compiled: place.join("compiled"),
    };
    if fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) && works(&python) {
        return Ok(python);
    }
    say("making the Python environment under target/python-venv");
    if place.exists() {
        fs::remove_dir_all(&place)
            .with_context(|| format!("cannot remove the old '{}'", place.display()))?;
    }
    let system = system_python()?;
    let made = run(
        Command::new(&system).args(["-m", "venv"]).arg(&place),
        b"",
        Duration::from_mins(2),
    )?;
    ensure!(made.code == Some(0), "{INSTALL} ({made})");
    let mut pip = python.command(&["-m", "pip", "install", "--quiet", "--no-input"]);
    pip.arg("--disable-pip-version-check")
        .arg("-r")
        .arg(&requirements);
    let installed = run(&mut pip, b"", INSTALL_TIME_MAX)?;
    ensure!(
        installed.code == Some(0),
        "the pinned Python packages could not be installed, check the network and the package index: {installed}"
    );
    // Last: an environment without it is made anew.
    fs::write(&stamp, wanted)?;
    Ok(python)
}

/// Whether the interpreter that the environment was made with is still there.
fn works(python: &Python) -> bool {
    let tried = run(
        &mut python.command(&["-c", "import h2, moto, pytest"]),
        b"",
        Duration::from_mins(1),
    );
    tried.is_ok_and(|output| output.code == Some(0))
}

fn system_python() -> Result<PathBuf> {
    let check = "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))";
    for name in [
        "python3",
        "python3.11",
        "python3.12",
        "python3.13",
        "python3.14",
    ] {
        let tried = run(
            Command::new(name).args(["-c", check]),
            b"",
            Duration::from_mins(1),
        );
        if tried.is_ok_and(|output| output.code == Some(0)) {
            return Ok(name.into());
        }
    }
    bail!(INSTALL)
}
