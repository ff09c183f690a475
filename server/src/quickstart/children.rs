//! The two programs of a quick start: the S3 server and the daemon, each a process of its own.
//!
//! Both hold the other end of a pipe as standard input and stop when it is closed ([`crate::parent`]), so they end with
//! this process however it ends. They are in process groups of their own: Ctrl-C reaches this process only, which stops
//! the daemon first, while the S3 server still answers it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

/// Bytes of a log's end that are searched for its last lines, and how many of these are shown.
const LOG_TAIL_BYTES: usize = 16 << 10;
const LOG_TAIL_LINES: usize = 5;

/// A program that ends with this one.
#[derive(Debug)]
pub(super) struct Child {
    /// For messages.
    name: &'static str,
    process: tokio::process::Child,
    /// Closing it asks the program to stop.
    input: Option<ChildStdin>,
    output: Option<BufReader<ChildStdout>>,
    /// Its standard error.
    log: PathBuf,
}

impl Child {
    /// Starts `holdfast ARGUMENTS`, this very binary, with more `variables` in its environment, where other users do not
    /// see them. What an earlier run left in `log` is replaced.
    pub(super) fn start(
        name: &'static str,
        arguments: &[&std::ffi::OsStr],
        variables: &[(&str, &str)],
        log: PathBuf,
    ) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("this program's own file is not known")?;
        let errors = File::create(&log)
            .with_context(|| format!("the log {} cannot be written", log.display()))?;
        let mut process = Command::new(program)
            .args(arguments)
            .envs(variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{name} cannot be started"))?;
        Ok(Self {
            name,
            input: process.stdin.take(),
            output: process.stdout.take().map(BufReader::new),
            process,
            log,
        })
    }

    /// The first line of its output.
    ///
    /// # Errors
    /// It ended, or said nothing within `limit`.
    pub(super) async fn first_line(&mut self, limit: Duration) -> anyhow::Result<String> {
        let mut line = String::new();
        let read = match &mut self.output {
            Some(output) => timeout(limit, output.read_line(&mut line)).await,
            None => Ok(Ok(0)),
        };
        match read {
            Ok(Ok(bytes)) if bytes > 0 => Ok(line),
            Ok(Ok(_)) => Err(self.failure("ended at once")),
            Ok(Err(error)) => Err(self.failure(&format!("cannot be heard: {error}"))),
            Err(_) => {
                let what = format!("did not start within {} s", limit.as_secs());
                Err(self.failure(&what))
            }
        }
    }

    /// Fails if it has ended.
    pub(super) fn check(&mut self) -> anyhow::Result<()> {
        match self.process.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(self.failure(&format!("has ended: {status}"))),
            Err(error) => Err(self.failure(&format!("cannot be asked how it is: {error}"))),
        }
    }

    /// Waits until it ends by itself.
    pub(super) async fn ended(&mut self) -> anyhow::Error {
        match self.process.wait().await {
            Ok(status) => self.failure(&format!("has ended: {status}")),
            Err(error) => self.failure(&format!("cannot be waited for: {error}")),
        }
    }

    /// An error about it, with the end of its log.
    pub(super) fn failure(&self, what: &str) -> anyhow::Error {
        let text = format!("{} {what}", self.name);
        match last_lines(&self.log) {
            Some(lines) => anyhow::anyhow!("{text}; the end of {}:\n{lines}", self.log.display()),
            None => anyhow::anyhow!("{text}"),
        }
    }

    /// Asks it to stop, and ends it if it has not after `limit`.
    ///
    /// # Errors
    /// It had to be ended, or its own report of a failure.
    pub(super) async fn stop(mut self, limit: Duration) -> anyhow::Result<()> {
        drop(self.input.take());
        let Ok(ended) = timeout(limit, self.process.wait()).await else {
            self.process.kill().await?;
            let what = format!("did not stop within {} s and was ended", limit.as_secs());
            return Err(self.failure(&what));
        };
        let status: ExitStatus = ended?;
        if !status.success() {
            bail!(self.failure(&format!("failed while it stopped: {status}")));
        }
        Ok(())
    }
}

/// The last lines of a log; `None` if it is empty or cannot be read.
fn last_lines(path: &Path) -> Option<String> {
    let content = std::fs::read(path).ok()?;
    let tail = &content[content.len().saturating_sub(LOG_TAIL_BYTES)..];
    let text = String::from_utf8_lossy(tail);
    let lines: Vec<_> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    let last = &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..];
    (!last.is_empty()).then(|| format!("  {}", last.join("\n  ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_log_is_shown() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let log = dir.path().join("log");
        assert_eq!(last_lines(&log), None);
        std::fs::write(&log, "\n\n").expect("written");
        assert_eq!(last_lines(&log), None);
        let lines: Vec<_> = (0..5000).map(|n| format!("line {n}")).collect();
        std::fs::write(&log, lines.join("\n")).expect("written");
        let shown = last_lines(&log).expect("lines");
        assert_eq!(shown.lines().count(), LOG_TAIL_LINES);
        assert!(shown.starts_with("  line 4995"), "{shown}");
        assert!(shown.ends_with("  line 4999"), "{shown}");
    }
}
