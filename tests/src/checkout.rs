//! Where the checkout and its build directory are, and the lock under which test processes set things up once.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// The directory of the workspace.
pub fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests).to_owned()
}

/// The directory of the Python programs.
pub fn python_dir() -> PathBuf {
    root().join("tests/python")
}

/// The build directory that this test process was built into.
pub fn target_dir() -> Result<PathBuf> {
    let program = std::env::current_exe().context("the test program does not know where it is")?;
    // <target>/<profile>/deps/<test>, or <target>/<profile>/<program>. Cargo notes there what it knows of its compiler;
    // its CACHEDIR.TAG it writes only into a directory that it made itself.
    let target = program
        .ancestors()
        .find(|dir| dir.join(".rustc_info.json").is_file())
        .with_context(|| {
            format!(
                "'{}' does not lie in a build directory of cargo",
                program.display()
            )
        })?;
    Ok(target.to_owned())
}

/// Whether this test process was built in release mode.
pub fn is_release() -> bool {
    !cfg!(debug_assertions)
}

/// Held while something under the build directory is made, by one of all test processes.
#[derive(Debug)]
pub struct SetupLock(#[expect(dead_code, reason = "holds the lock while it is open")] File);

impl SetupLock {
    /// Waits for the lock of this name. It is freed when it is dropped, and when the process dies.
    pub fn take(name: &str) -> Result<Self> {
        let target = target_dir()?;
        fs::create_dir_all(&target)?;
        let path = target.join(format!(".{name}.lock"));
        let file =
            File::create(&path).with_context(|| format!("cannot write '{}'", path.display()))?;
        file.lock()
            .with_context(|| format!("cannot lock '{}'", path.display()))?;
        Ok(Self(file))
    }
}

/// The recorded sessions: `HOLDFAST_TRANSCRIPTS`, or `../shared/transcripts` beside the checkout or one of its parents.
/// `None` when they are not there; they are no part of the repository.
pub fn transcripts() -> Option<PathBuf> {
    let found = |dir: &Path| dir.join("README.md").is_file();
    if let Some(named) = std::env::var_os("HOLDFAST_TRANSCRIPTS") {
        return Some(PathBuf::from(named)).filter(|dir| found(dir));
    }
    let root = root();
    root.ancestors()
        .skip(1)
        .map(|dir| dir.join("shared/transcripts"))
        .find(|dir| found(dir))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Name and version of each package of a lock file.
    fn locked(path: &str) -> BTreeSet<(String, String)> {
        let text = fs::read_to_string(root().join(path)).expect("a lock file");
        let value = |line: Option<&str>, key: &str| {
            let value = line?.strip_prefix(key)?.strip_prefix(" = ")?;
            Some(value.trim_matches('"').to_owned())
        };
        let mut packages = BTreeSet::new();
        for package in text.split("[[package]]").skip(1) {
            let mut lines = package.lines().skip(1);
            let name = value(lines.next(), "name").expect("a name");
            let version = value(lines.next(), "version").expect("a version");
            packages.insert((name, version));
        }
        packages
    }

    #[test]
    fn the_programs_with_hostile_input_are_built_from_the_same_packages() {
        let only_there = ["holdfast-fuzz", "libfuzzer-sys", "arbitrary"];
        let ours = locked("Cargo.lock");
        let strange: Vec<_> = locked("tests/fuzz/Cargo.lock")
            .into_iter()
            .filter(|package| !ours.contains(package) && !only_there.contains(&&*package.0))
            .collect();
        assert!(
            strange.is_empty(),
            "copy Cargo.lock over tests/fuzz/Cargo.lock, then run: cargo metadata --manifest-path tests/fuzz/Cargo.toml; \
             otherwise these are built a second time: {strange:?}"
        );
    }
}
