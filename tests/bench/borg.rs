//! borg, as Debian packages it, with a repository in a local directory: it has no S3 of its own, so its figures stand beside and
//! are not bounds. No encryption; its other settings are its own ones.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use holdfast_tests::process::run;

/// How long one command may take.
const COMMAND_TIME_MAX: Duration = Duration::from_mins(30);

/// One repository.
#[derive(Debug)]
pub(crate) struct Borg {
    repository: PathBuf,
    base: PathBuf,
}

impl Borg {
    /// Makes a repository in `dir`, with borg's own files beside it.
    pub(crate) fn init(dir: &Path) -> Result<Self> {
        let borg = Self {
            repository: dir.join("repository"),
            base: dir.join("base"),
        };
        std::fs::create_dir_all(&borg.base)?;
        borg.run(&["init", "-e", "none"], &[], dir)?;
        Ok(borg)
    }

    /// Backs a directory up as the archive `name`; without `force`, files that look unchanged are not read.
    pub(crate) fn create(&self, name: &str, source: &Path, force: bool) -> Result<()> {
        let source = source.to_str().context("a path in UTF-8")?;
        let mut arguments = vec!["create"];
        if force {
            arguments.extend(["--files-cache", "disabled"]);
        }
        self.run(&arguments, &[&format!("::{name}"), source], &self.base)
    }

    /// Restores an archive into the directory `target`. Returns where `source` is then.
    pub(crate) fn extract(&self, name: &str, source: &Path, target: &Path) -> Result<PathBuf> {
        self.run(&["extract"], &[&format!("::{name}")], target)?;
        Ok(target.join(source.strip_prefix("/").context("an absolute path")?))
    }

    fn run(&self, arguments: &[&str], rest: &[&str], directory: &Path) -> Result<()> {
        let mut command = Command::new("borg");
        command
            .args(arguments)
            .args(rest)
            .current_dir(directory)
            .env("BORG_REPO", &self.repository)
            .env("BORG_BASE_DIR", &self.base)
            .env("BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK", "yes");
        run(&mut command, b"", COMMAND_TIME_MAX)?.success()?;
        Ok(())
    }
}
