//! `holdfast completions` and `holdfast man`: what shells and `man` know of the commands, made from their definitions.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::CommandFactory as _;
use clap_complete::Shell;

use super::Cli;

/// `holdfast completions`
#[derive(Debug, clap::Args)]
pub(crate) struct CompletionsArgs {
    /// For which shell.
    shell: Shell,
}

/// `holdfast man`
#[derive(Debug, clap::Args)]
pub(crate) struct ManArgs {
    /// Where to write the pages; made if it is missing.
    dir: PathBuf,
}

impl CompletionsArgs {
    /// Prints the completions.
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let mut text = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "holdfast", &mut text);
        std::io::stdout()
            .write_all(&text)
            .context("the completions cannot be printed")
    }
}

impl ManArgs {
    /// Writes a page for each command.
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let dir = &self.dir;
        std::fs::create_dir_all(dir)
            .with_context(|| format!("'{}' cannot be made", dir.display()))?;
        clap_mangen::generate_to(Cli::command(), dir)
            .with_context(|| format!("the pages cannot be written to '{}'", dir.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page() {
        let dir = tempfile::tempdir().expect("a directory");
        let pages = dir.path().join("man1");
        ManArgs { dir: pages.clone() }.run().expect("written");
        for page in ["holdfast", "holdfast-serve", "holdfast-prune-job-create"] {
            let text = std::fs::read_to_string(pages.join(format!("{page}.1"))).expect(page);
            assert!(text.contains(".SH SYNOPSIS"), "{page}");
        }
        let hidden = pages.join("holdfast-calls.1");
        assert!(!hidden.exists());
        let text = std::fs::read_to_string(pages.join("holdfast-prune-job-create.1"));
        assert!(text.expect("there").contains("keep\\-daily"));
    }
}
