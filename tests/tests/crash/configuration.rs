//! Management commands that change the files themselves, since no daemon runs, are killed at every replacement of a file.
//!
//! Afterwards each file is the old one or the new one, whole, with the comments that somebody wrote into it; and the command
//! can be given again: it does what it should, or says that it is done. (A daemon that changes the files is killed in
//! `small_files.rs`.)

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail, ensure};
use holdfast_tests::daemon::COMMAND_TIME_MAX;
use holdfast_tests::process::{Output, run};
use pbs_datastore::Step;

use super::plan::Side;
use super::site::Site;
use super::small_files::{comment, configuration_is_whole};

/// No command replaces more files.
const FILES_MAX: u64 = 10;

/// Content of both files.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Both {
    config: String,
    secrets: String,
}

fn secrets(site: &Site) -> PathBuf {
    site.daemon.config().with_file_name("secrets.toml")
}

impl Both {
    fn read(site: &Site) -> Result<Self> {
        Ok(Self {
            config: fs::read_to_string(site.daemon.config())?,
            secrets: fs::read_to_string(secrets(site))?,
        })
    }

    fn put_back(&self, site: &Site) -> Result<()> {
        fs::write(site.daemon.config(), &self.config)?;
        fs::write(secrets(site), &self.secrets)?;
        Ok(())
    }
}

fn give(site: &Site, arguments: &[&str], stop_at: Option<String>) -> Result<Output> {
    let mut command = site.daemon.manage_command(arguments);
    command.envs(stop_at.map(|at| ("HOLDFAST_STOP_AT", at)));
    run(&mut command, b"long enough\n", COMMAND_TIME_MAX)
}

/// Kills a command at every passing of a step; answers how often, and leaves it done.
fn kill(site: &Site, arguments: &[&str], step: Step) -> Result<u64> {
    let before = Both::read(site)?;
    let mut between = Vec::new();
    for passing in 1..FILES_MAX {
        let output = give(site, arguments, Some(format!("{step:?}:{passing}")))?;
        if output.code == Some(0) {
            let after = Both::read(site)?;
            ensure!(after != before, "nothing was changed");
            let lines = |text: &str| text.lines().count();
            for Both { config, secrets } in between {
                ensure!(
                    [&before.config, &after.config].contains(&&config),
                    "neither old nor new:\n{config}"
                );
                // New secrets are others every time.
                ensure!(
                    secrets == before.secrets || lines(&secrets) == lines(&after.secrets),
                    "neither old nor new: {} lines",
                    lines(&secrets)
                );
            }
            return Ok(passing - 1);
        }
        ensure!(output.code.is_none(), "{output}");
        let killed = || format!("killed at {step:?}, passing {passing}");
        between.push(Both::read(site)?);
        let mode = fs::metadata(secrets(site))?.permissions().mode() & 0o777;
        ensure!(mode == 0o600, "{}: mode {mode:o}", killed());
        configuration_is_whole(site).with_context(killed)?;
        let again = give(site, arguments, None)?;
        let is_done = ["exist", "no such", "there is no"]
            .iter()
            .any(|words| again.stderr.contains(words));
        ensure!(again.code == Some(0) || is_done, "{}: {again}", killed());
        configuration_is_whole(site).with_context(killed)?;
        before.put_back(site)?;
    }
    bail!("more than {FILES_MAX} files")
}

#[test]
fn a_command_that_is_killed_leaves_the_old_files_or_the_new_ones() -> Result<()> {
    let site = Site::new(Side::Directory)?;
    comment(&site)?;
    let path = site.daemon.store_dir("another").display().to_string();
    let mut kills = 0;
    for command in [
        "user add a@pbs",
        "token create a@pbs!one",
        "acl set /datastore/store a@pbs DatastoreBackup",
        "s3 add one --endpoint http://127.0.0.1:9 --access-key k",
        &format!("datastore create another --path {path}"),
        "datastore remove another",
        "s3 remove one",
        "user remove a@pbs",
    ] {
        let arguments: Vec<&str> = command.split(' ').collect();
        let before = Both::read(&site)?;
        let first =
            kill(&site, &arguments, Step::ReplaceWritten).with_context(|| command.to_owned())?;
        before.put_back(&site)?;
        let second =
            kill(&site, &arguments, Step::ReplaceRenamed).with_context(|| command.to_owned())?;
        ensure!(
            first > 0 && second == first,
            "{command}: {first} and {second} files"
        );
        kills += first + second;
    }
    holdfast_tests::process::say(&format!("{kills} kills of commands survived"));
    site.daemon.start()?;
    site.daemon.explain(|| site.back_up("host", 0).map(drop));
    site.daemon.stop()
}
