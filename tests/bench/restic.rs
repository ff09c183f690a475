//! restic, as Debian packages it, with its repository in the same S3 server and behind the same proxy as ours.
//!
//! Its settings are its own ones, compression included; the number of connections is chosen, its cache of metadata lies in the
//! temporary directory and is kept between backup and restore.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use holdfast_tests::process::{Output, run};
use holdfast_tests::s3_server::{Access, BUCKET};
use s3_client::{KeyPrefix, KeyRange, delete_all, list_all};

/// How long one command may take.
const COMMAND_TIME_MAX: Duration = Duration::from_mins(30);

/// The first line that `PROGRAM VERSION-ARGUMENT` prints; `None` if there is no such program.
pub(crate) fn version(program: &str, argument: &str) -> Option<String> {
    let output = run(
        Command::new(program).arg(argument),
        b"",
        Duration::from_secs(20),
    );
    let text = output.ok()?.success().ok()?.text();
    // `restic 0.14.0 compiled with …`
    let words: Vec<&str> = text.split_whitespace().take(2).collect();
    Some(words.join(" "))
}

/// One repository.
#[derive(Debug)]
pub(crate) struct Restic {
    repository: String,
    prefix: String,
    access: Access,
    cache: PathBuf,
    connections: u64,
}

impl Restic {
    /// Makes a repository under `prefix` in the bucket, reached as `access` says. Its cache is a directory in `dir`.
    pub(crate) fn init(access: Access, prefix: &str, connections: u64, dir: &Path) -> Result<Self> {
        let restic = Self {
            repository: format!("s3:{}/{BUCKET}/{prefix}", access.endpoint),
            prefix: prefix.to_owned(),
            access,
            cache: dir.join(format!("{prefix}.cache")),
            connections,
        };
        restic.run(&["init"])?;
        Ok(restic)
    }

    /// Backs a directory up; with `force`, every file is read although it looks unchanged.
    pub(crate) fn backup(&self, source: &Path, force: bool) -> Result<()> {
        let source = source.to_str().context("a path in UTF-8")?;
        let mut arguments = vec!["backup", source];
        if force {
            arguments.push("--force");
        }
        self.run(&arguments)?;
        Ok(())
    }

    /// Restores the latest snapshot below `target`. Returns where `source` is then.
    pub(crate) fn restore(&self, source: &Path, target: &Path) -> Result<PathBuf> {
        let below = target.join(source.strip_prefix("/").context("an absolute path")?);
        let target = target.to_str().context("a path in UTF-8")?;
        self.run(&["restore", "latest", "--target", target])?;
        Ok(below)
    }

    /// Removes the repository and all that is in it, through `direct`.
    pub(crate) fn remove(self, direct: &Access) -> Result<()> {
        let runtime = tokio::runtime::Runtime::new()?;
        runtime.block_on(async {
            let store = direct.client().await?;
            let prefix = KeyPrefix::new(format!("{}/", self.prefix))?;
            let mut objects = Vec::new();
            list_all(&store, &prefix, vec![KeyRange::all()], 1, |page| {
                objects.extend(page.entries.into_iter().map(|entry| entry.key.into()));
                async { anyhow::Ok(()) }
            })
            .await?;
            match delete_all(&store, &objects, None).await.error {
                Some(error) => Err(error).context("a repository could not be removed"),
                None => Ok(()),
            }
        })
    }

    fn run(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new("restic");
        command
            .args(["--quiet", "--cache-dir"])
            .arg(&self.cache)
            .args(["-o", &format!("s3.connections={}", self.connections)])
            .args(arguments)
            .env("RESTIC_REPOSITORY", &self.repository)
            .env("RESTIC_PASSWORD", "secret-of-the-figures")
            .env("AWS_ACCESS_KEY_ID", &self.access.access_key)
            .env("AWS_SECRET_ACCESS_KEY", &self.access.secret_key);
        run(&mut command, b"", COMMAND_TIME_MAX)?.success()
    }
}
