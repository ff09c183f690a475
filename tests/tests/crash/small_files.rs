//! Killed at every replacement and every creation of a small file in the life of a daemon: its configuration, its secrets,
//! ownership, journal, manifests, task lists. Here the n-th passing is whatever file comes n-th; the sweep ends when a whole
//! life passes without the n-th.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use holdfast_tests::daemon::COMMAND_TIME_MAX;
use holdfast_tests::process::{run, wait_for};
use pbs_datastore::Step;
use serde_json::{Value, json};

use super::collections::put_strays;
use super::oracle::{Round, goes_on, nothing_is_lost};
use super::plan::Cell;
use super::site::{STORE, Site, TIME_MAX};
use super::stored::markers_are_true;

/// Sweeps that share the kills of a step, to be done at the same time.
pub(crate) const SWEEPS: u64 = 3;
/// Between two collections.
const PAUSE: Duration = Duration::from_millis(200);
/// More small files than a life has.
const FILES_MAX: u64 = 80;
/// What an administrator has written into the configuration file.
const COMMENTS: [&str; 3] = [
    "# the first line",
    "# about the server",
    "# the last line, about nothing",
];

/// Whether the step is one of the set-up.
pub(crate) fn is_creation(step: Step) -> bool {
    matches!(step, Step::CreateWritten | Step::CreateLinked)
}

/// Writes comments into the configuration file: at its begin, in a section, at its end.
pub(crate) fn comment(site: &Site) -> Result<()> {
    let [first, server, last] = COMMENTS;
    site.daemon.edit_config(|text| {
        let text = text.replacen("[server]\n", &format!("[server]\n{server}\n"), 1);
        format!("{first}\n{text}\n{last}\n")
    })
}

/// The configuration is complete, and nobody's comment was lost.
pub(crate) fn configuration_is_whole(site: &Site) -> Result<()> {
    let text = fs::read_to_string(site.daemon.config())?;
    for part in COMMENTS
        .iter()
        .chain(&["[user.\"root@pbs\"]", "[datastore.store]"])
    {
        ensure!(
            text.contains(part),
            "'{part}' is not in the file any more:\n{text}"
        );
    }
    let listed = site.daemon.manage(&["user", "list"])?.success()?;
    ensure!(listed.text().contains("root@pbs"), "{listed}");
    Ok(())
}

/// A life with everything that replaces small files. Ends early when the daemon is killed.
fn live(site: &Site, number: u64) -> Result<()> {
    let ask = |method: &str, path: &str, params: Value| -> Result<()> {
        let answer = site.daemon.ask(method, path, &params)?;
        ensure!(answer.status == 200, "{method} {path}: {answer:?}");
        Ok(())
    };
    let group = format!("life-{number}");
    site.back_up_told(&group, number)?;
    let user = format!("u{number}@pbs");
    ask(
        "POST",
        "access/users",
        json!({"userid": user, "password": "long enough"}),
    )?;
    ask("POST", &format!("access/users/{user}/token/one"), json!({}))?;
    let acl =
        json!({"path": format!("/datastore/{STORE}"), "auth-id": user, "role": "DatastoreBackup"});
    ask("PUT", "access/acl", acl)?;
    ask("DELETE", &format!("access/users/{user}"), Value::Null)?;
    // After a kill nothing is collected before late requests cannot matter.
    let collected = wait_for(TIME_MAX, || match site.collect() {
        Ok((told, _)) if told.contains("last stop was not clean") => {
            std::thread::sleep(PAUSE);
            None
        }
        other => Some(other),
    });
    let (told, status) = collected.context("it is never collected")??;
    ensure!(told == "OK", "{told} {status}");
    Ok(())
}

/// Kills the daemon at the `first` passing of a step and every [`SWEEPS`]th that follows.
fn sweep(site: &Site, step: Step, first: u64) -> Result<u64> {
    let passings = (first..FILES_MAX).step_by(SWEEPS as usize);
    for (kills, passing) in passings.enumerate() {
        // Garbage for the next life, in which it is old enough.
        put_strays(site, 3)?;
        site.start_to_die_at(Cell { step, passing })?;
        let lived = live(site, site.fresh_number());
        let is_over = if !site.is_dead() && lived.is_ok() {
            site.daemon.ask_to_stop()?;
            let status = site
                .daemon
                .wait_for_end(TIME_MAX)
                .context("it does not stop")?;
            status.success()
        } else {
            // A call may be answered although the step that it passed is the last.
            site.dies().with_context(|| format!("{lived:?}"))?;
            false
        };
        check(site).with_context(|| format!("killed at {step:?}, passing {passing}"))?;
        if is_over {
            return Ok(kills as u64);
        }
    }
    bail!("more than {FILES_MAX} small files")
}

/// What must be true after each of them.
fn check(site: &Site) -> Result<()> {
    let text = fs::read_to_string(site.daemon.config())?;
    ensure!(
        text.ends_with(&format!("{}\n", COMMENTS[2])),
        "cut off:\n{text}"
    );
    nothing_is_lost(site).context("while the daemon is down")?;
    site.daemon.start()?;
    configuration_is_whole(site)?;
    let stored = nothing_is_lost(site)?;
    markers_are_true(site, &stored)?;
    ensure!(site.listed()? == stored.sealed_names(), "the list is wrong");
    site.daemon.stop()
}

/// Kills `setup` in the same way; the next attempt says what is in its way, or succeeds.
fn set_up(site: &Site, step: Step) -> Result<u64> {
    for passing in 1..FILES_MAX {
        let dir = site.daemon.dir().join(format!("setup-{step:?}-{passing}"));
        let set_up = |stop_at: Option<String>| {
            let mut command = holdfast_tests::binary::debuggable()?.command();
            command.args([
                "setup",
                "--listen",
                "127.0.0.1:0",
                "--output-format",
                "json",
                "--dir",
            ]);
            command.arg(&dir);
            command.envs(stop_at.map(|at| ("HOLDFAST_STOP_AT", at)));
            run(&mut command, b"", COMMAND_TIME_MAX)
        };
        let made = set_up(Some(format!("{step:?}:{passing}")))?;
        if made.code == Some(0) {
            return Ok(passing - 1);
        }
        ensure!(made.code.is_none(), "{made}");
        let config = dir.join("holdfast.toml");
        if config.exists() {
            // It was the last: the set-up is there, but nobody was told the password.
            let again = set_up(None)?.expect_code(1)?;
            ensure!(again.stderr.contains("remove the directory"), "{again}");
            continue;
        }
        let mut again = set_up(None)?;
        if again.code == Some(1) {
            let named = dir.join("secrets.toml");
            ensure!(
                again.stderr.contains(&format!("'{}'", named.display())),
                "it does not say what is in its way: {again}"
            );
            fs::remove_file(named)?;
            again = set_up(None)?;
        }
        again.success()?;
        // Whatever uses the set-up tidies it.
        let mut list = holdfast_tests::binary::debuggable()?.command();
        list.args(["user", "list", "--config"]).arg(&config);
        run(&mut list, b"", COMMAND_TIME_MAX)?.success()?;
        for entry in fs::read_dir(&dir)? {
            let name = entry?.file_name();
            let name = name.to_string_lossy();
            ensure!(!name.ends_with(".new"), "'{name}' is left");
        }
    }
    bail!("more than {FILES_MAX} small files")
}

/// One of the sweeps of a step, by the number of its first kill.
pub(crate) fn drive(site: &Site, step: Step, first: u64) -> Result<u64> {
    let kills = if is_creation(step) {
        set_up(site, step)?
    } else {
        comment(site)?;
        sweep(site, step, first)?
    };
    ensure!(kills > 2, "only {kills} small files");
    site.daemon.start()?;
    goes_on(site, &Round::quiet(site))?;
    site.daemon.stop()?;
    Ok(kills)
}
