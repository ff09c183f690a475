//! Kills the daemon, stops it, pauses it, and takes its cache away; then starts it again. Without end.
//!
//! | what | how |
//! |---|---|
//! | kill | `SIGKILL`: after a while, or as soon as a request of a kind is on its way |
//! | stop | `SIGTERM`, and it must end by itself, cleanly or not |
//! | pause | `SIGSTOP`, a while, `SIGCONT` |
//! | lost cache | killed, and its cache directory is deleted |
//! | old cache | killed, and an older copy of the cache directory is put in place of it |
//! | other machine | killed; cache and the id of the installation are deleted; `take-over` |
//!
//! A prefix belongs to a cache directory. So a copy from before the cache was deleted needs a take-over too.
//!
//! The copy is always of an earlier run of the daemon: one of the same run that was made in the middle of a collection
//! cannot be told from the original (`docs/decisions/0006-ownership.md`, residual risk).
//!
//! Now and then a start is killed before it is ready.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use holdfast_tests::https;
use holdfast_tests::measure::noise::Noise;
use holdfast_tests::measure::site::STORE;
use holdfast_tests::process::{run, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::tally::Violation;
use super::weather::Target;
use super::world::World;

/// How long is waited for a request of a certain kind before the kill comes all the same.
const TRIGGER_TIME_MAX: Duration = Duration::from_secs(6);
/// How long a start may take until the datastore can be used.
const READY_TIME_MAX: Duration = Duration::from_mins(2);
/// Between two looks at a start that takes long.
const TAKE_OVER_PAUSE: Duration = Duration::from_millis(300);
/// What the fault of a datastore says that belongs to somebody else.
const TAKE_OVER: &str = "take it over";
/// How long sessions may take to end before a stop.
const ALONE_TIME_MAX: Duration = Duration::from_secs(5);
const COPY_TIME_MAX: Duration = Duration::from_mins(1);
/// Longest pause.
const PAUSE_MILLIS_MAX: u64 = 5000;

/// What is done to the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Kill(When),
    Stop,
    Pause,
    LoseCache,
    OldCache,
    OtherMachine,
}

/// When a kill comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    Now,
    /// As soon as such a request is on its way.
    Open(Target),
}

impl Act {
    fn draw(noise: &mut Noise) -> Self {
        match noise.below(100) {
            0..=21 => Self::Kill(When::Now),
            22..=47 => Self::Kill(When::Open(Target::DeleteBatch)),
            48..=59 => Self::Kill(When::Open(Target::Delicate)),
            60..=76 => Self::Stop,
            77..=84 => Self::Pause,
            85..=88 => Self::LoseCache,
            89..=95 => Self::OldCache,
            _ => Self::OtherMachine,
        }
    }

    /// In the table.
    fn name(self) -> &'static str {
        match self {
            Self::Kill(When::Now) => "kills at any time",
            Self::Kill(When::Open(Target::DeleteBatch)) => "kills during a batch of deletes",
            Self::Kill(When::Open(_)) => "kills during a seal, removal or start",
            Self::Stop => "clean stops",
            Self::Pause => "pauses",
            Self::LoseCache => "kills with the cache deleted",
            Self::OldCache => "kills with an old cache put back",
            Self::OtherMachine => "kills with a take-over",
        }
    }
}

/// Whoever does all that.
pub(crate) struct Menace<'a> {
    world: &'a World,
    noise: Noise,
    copy: PathBuf,
    /// Starts since the copy was made; `None` if there is none.
    copy_age: Option<u64>,
}

impl<'a> Menace<'a> {
    /// It has done nothing yet.
    pub(crate) fn new(world: &'a World) -> Self {
        Self {
            world,
            noise: world.noise(0xdead),
            copy: world.site.daemon.dir().join("old-cache"),
            copy_age: None,
        }
    }

    /// Goes on until the end; the daemon runs then. A fault of its own is a fault of the run.
    pub(crate) fn run(mut self) {
        while !self.world.is_stopped() {
            if let Err(error) = self.act() {
                let text = format!("{error:#}");
                self.world.tally.violation(Violation::Run, text);
                self.world.stop();
            }
        }
    }

    fn wait(&self, millis: u64) {
        wait_for(Duration::from_millis(millis), || {
            self.world.is_stopped().then_some(())
        });
    }

    fn act(&mut self) -> Result<()> {
        // Now and then it is left alone for long enough to come to rest.
        let alone = self.noise.below(5) == 0;
        let most = if alone { 20_000 } else { 6000 };
        let time = 1500 + self.noise.below(most);
        self.wait(time);
        if self.world.is_stopped() {
            return Ok(());
        }
        let mut act = Act::draw(&mut self.noise);
        if act == Act::OldCache && self.copy_age.is_none_or(|age| age == 0) {
            act = Act::Kill(When::Open(Target::DeleteBatch));
        }
        self.world.tally.count(&format!("menace: {}", act.name()));
        self.world.tally.diary(act.name());
        let site = &self.world.site;
        match act {
            Act::Pause => return self.pause(),
            Act::Stop => self.stop(),
            Act::Kill(when) => self.kill(when),
            Act::LoseCache => {
                self.kill(When::Now);
                remove(&site.cache_dir())?;
            }
            Act::OldCache => {
                self.kill(When::Now);
                remove(&site.cache_dir())?;
                copy(&self.copy, &site.cache_dir())?;
            }
            Act::OtherMachine => {
                self.kill(When::Now);
                remove(&site.cache_dir())?;
                fs::remove_file(site.state_dir().join("instance-id"))?;
            }
        }
        if self.noise.below(5) == 0 {
            remove(&self.copy)?;
            copy(&site.cache_dir(), &self.copy)?;
            self.copy_age = site.cache_dir().exists().then_some(0);
        }
        let verifies = self.noise.below(5) < 2;
        site.daemon.edit_config(|text| {
            text.replace(
                &format!("verify-new = {}", !verifies),
                &format!("verify-new = {verifies}"),
            )
        })?;
        self.start()
    }

    fn pause(&mut self) -> Result<()> {
        let pid = self.world.site.daemon.pid().context("it runs")?;
        let pid = Pid::from_raw(pid.try_into()?);
        let time = 300 + self.noise.below(PAUSE_MILLIS_MAX);
        kill(pid, Signal::SIGSTOP)?;
        sleep(Duration::from_millis(time));
        kill(pid, Signal::SIGCONT)?;
        Ok(())
    }

    fn stop(&mut self) {
        // Half of the daemons are left alone first, so that their stop is a clean one.
        let alone = self.noise.below(2) == 0;
        self.world.gate.set_closed(alone);
        wait_for(ALONE_TIME_MAX, || {
            (!alone || self.world.gate.open_sessions() == 0).then_some(())
        });
        // The door stays open: clients see how a daemon ends.
        let stopped = self.world.site.daemon.stop();
        self.world.site.door.set(None);
        self.world.gate.set_closed(false);
        if let Err(error) = stopped {
            let text = format!("{error:#}");
            self.world.tally.violation(Violation::Crash, text);
        }
    }

    fn kill(&mut self, when: When) {
        let site = &self.world.site;
        if let When::Open(target) = when {
            let met = wait_for(TRIGGER_TIME_MAX, || {
                (site.proxy.has_open(target) || self.world.is_stopped()).then_some(())
            });
            if met.is_some() {
                self.world
                    .tally
                    .count("kills that met what they waited for");
            }
            // Not the same moment of every exchange.
            sleep(Duration::from_millis(self.noise.below(40)));
        }
        site.daemon.kill();
        site.door.set(None);
        self.world.tally.count("kills");
    }

    /// Starts it; maybe it is killed on the way, once or twice.
    fn start(&mut self) -> Result<()> {
        let site = &self.world.site;
        self.copy_age = self.copy_age.map(|age| age + 1);
        while self.noise.below(5) == 0 {
            site.daemon.begin()?;
            sleep(Duration::from_millis(self.noise.below(1200)));
            site.daemon.kill();
            self.world.tally.count("kills");
            self.world.tally.count("menace: kills before it was ready");
        }
        site.daemon.begin()?;
        let address = site.daemon.address()?;
        let ready = wait_for(READY_TIME_MAX, || {
            let answer = https::get(address, site.daemon.fingerprint(), "/health/ready", &[]);
            // Ready is a daemon that can use one of its datastores.
            let ready = answer.is_ok_and(|answer| answer.status == 200);
            if site.daemon.ended().is_some() || (ready && self.is_open()) {
                return Some(());
            }
            // A fault of the S3 server passes; a take-over that did not work out is tried again.
            drop(self.take_over());
            None
        });
        if ready.is_none() {
            let text = "the datastore was not ready in time after a start";
            self.world.tally.violation(Violation::Hang, text);
        }
        site.door.set(Some(address));
        Ok(())
    }

    fn is_open(&self) -> bool {
        let state = self.world.site.daemon.store_state(STORE);
        state.is_ok_and(|state| state["state"] == "open")
    }

    /// If the daemon waits for that.
    fn take_over(&self) -> Result<()> {
        sleep(TAKE_OVER_PAUSE);
        let state = self.world.site.daemon.store_state(STORE)?;
        let fault = state["fault"].as_str().unwrap_or_default();
        if !fault.contains(TAKE_OVER) {
            return Ok(());
        }
        let arguments = ["datastore", "take-over", STORE, "--previous-owner-is-dead"];
        self.world.site.daemon.manage(&arguments)?.success()?;
        self.world.tally.count("take-overs");
        Ok(())
    }
}

fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove '{}'", dir.display()))
        }
        _ => Ok(()),
    }
}

/// A copy with all times.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let mut command = Command::new("cp");
    command.args(["-a", "--"]).arg(from).arg(to);
    if from.exists() {
        run(&mut command, b"", COPY_TIME_MAX)?.success()?;
    }
    ensure!(!from.exists() || to.is_dir(), "the copy is not there");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn everything_is_drawn() {
        let mut noise = Noise::new(1);
        let names: BTreeSet<_> = (0..2000).map(|_| Act::draw(&mut noise).name()).collect();
        assert_eq!(names.len(), 8);
    }

    #[test]
    fn a_copy_keeps_times_and_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        copy(&from, &to).unwrap();
        assert!(!to.exists());
        fs::create_dir(&from).unwrap();
        fs::write(from.join("a"), "x").unwrap();
        copy(&from, &to).unwrap();
        let time = |path: PathBuf| fs::metadata(path).unwrap().modified().unwrap();
        assert_eq!(time(from.join("a")), time(to.join("a")));
        remove(&to).unwrap();
        remove(&to).unwrap();
    }
}
