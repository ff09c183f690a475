//! A daemon of one's own: set up in a temporary directory, started, asked, stopped, killed and started again.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead as _, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ChildStderr, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::binary::{Binary, holdfast};
use crate::control;
use crate::https::{self, Answer};
use crate::process::{Guarded, Output, Watchdog, run, tail, wait_for};
use crate::s3_server::{Access, BUCKET};

/// How long a start may take until the daemon says that it is ready.
const READY_TIME_MAX: Duration = Duration::from_mins(1);
/// How long a stop may take; `shutdown-seconds` of the tests is shorter.
const STOP_TIME_MAX: Duration = Duration::from_mins(1);
/// How long a command may take.
pub const COMMAND_TIME_MAX: Duration = Duration::from_mins(5);
/// How long one read of an open answer may take: a crowd of them that shares little memory waits for its turns.
const OPEN_READ_MAX: Duration = Duration::from_secs(90);

/// What a running process is known by.
struct Running {
    process: Guarded,
    address: SocketAddr,
}

/// What its processes get besides their arguments.
#[derive(Debug, Default)]
struct World {
    /// A program with arguments that runs every command of the installation.
    runner: Vec<OsString>,
    /// Variables of the daemon's process.
    variables: Vec<(String, String)>,
}

/// An installation and, when it was started, its process.
pub struct Daemon {
    binary: &'static Binary,
    dir: PathBuf,
    config: PathBuf,
    user: String,
    password: String,
    fingerprint: String,
    running: Mutex<Option<Running>>,
    log: Arc<Mutex<String>>,
    deaf: Arc<AtomicBool>,
    world: Mutex<World>,
    // Last: the process is gone before its directory goes. The watchdog is for a test process that dies.
    _temporary: TempDir,
    _watchdog: Watchdog,
}

impl Daemon {
    /// Sets one up. `settings` are lines for the section `[server]`; the log is JSON unless they say otherwise.
    pub fn set_up(settings: &[&str]) -> Result<Self> {
        Self::set_up_with(holdfast()?, settings)
    }

    /// Sets one up that runs this program.
    pub fn set_up_with(binary: &'static Binary, settings: &[&str]) -> Result<Self> {
        let nowhere = Self::nowhere(binary)?;
        let mut command = binary.command();
        command
            .args(["setup", "--listen", "127.0.0.1:0", "--hostname", "tests"])
            .args(["--output-format", "json", "--dir"])
            .arg(nowhere.dir.join("daemon"));
        let told = run(&mut command, b"", COMMAND_TIME_MAX)?
            .success()?
            .json()?;
        let text = |name: &str| {
            let text = told[name].as_str().map(ToOwned::to_owned);
            text.with_context(|| format!("setup did not tell '{name}': {told}"))
        };
        let daemon = Self {
            config: PathBuf::from(text("config")?),
            user: text("user")?,
            password: text("password")?,
            fingerprint: text("fingerprint")?,
            ..nowhere
        };
        let given = |line: &str| {
            let name = |line: &str| line.split('=').next().map(|name| name.trim().to_owned());
            settings.iter().any(|setting| name(setting) == name(line))
        };
        let mut lines = vec!["log-format = \"json\"", "shutdown-seconds = 20"];
        lines.retain(|line| !given(line));
        lines.extend(settings);
        daemon.edit_config(|text| {
            text.replacen(
                "[server]\n",
                &format!("[server]\n{}\n", lines.join("\n")),
                1,
            )
        })?;
        Ok(daemon)
    }

    /// A directory without an installation.
    fn nowhere(binary: &'static Binary) -> Result<Self> {
        let temporary = TempDir::with_prefix("holdfast-test-")?;
        Ok(Self {
            binary,
            config: PathBuf::new(),
            user: String::new(),
            password: String::new(),
            fingerprint: String::new(),
            dir: temporary.path().to_owned(),
            running: Mutex::new(None),
            log: Arc::default(),
            deaf: Arc::default(),
            world: Mutex::default(),
            _watchdog: Watchdog::removing(temporary.path())?,
            _temporary: temporary,
        })
    }

    /// A new host whose state directory holds what is in `copy` and nothing else. Accounts and certificate are taken to be
    /// those of this installation, and its datastores to be where the new host has its disks.
    pub fn on_new_host(&self, copy: &Path) -> Result<Self> {
        let nowhere = Self::nowhere(self.binary)?;
        let state_dir = nowhere.dir.join("daemon");
        fs::create_dir(&state_dir)?;
        for file in fs::read_dir(copy)? {
            let file = file?;
            fs::copy(file.path(), state_dir.join(file.file_name()))?;
        }
        let daemon = Self {
            config: state_dir.join("holdfast.toml"),
            user: self.user.clone(),
            password: self.password.clone(),
            fingerprint: self.fingerprint.clone(),
            ..nowhere
        };
        let (old, new) = (self.dir.display(), daemon.dir.display());
        daemon.edit_config(|text| text.replace(&old.to_string(), &new.to_string()))?;
        Ok(daemon)
    }

    /// A directory for whatever the test needs, removed with the daemon.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The configuration file.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// The administrator.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The administrator's password.
    pub fn password(&self) -> &str {
        &self.password
    }

    /// SHA-256 of the certificate, in pairs.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Rewrites the configuration file.
    pub fn edit_config(&self, edit: impl FnOnce(String) -> String) -> Result<()> {
        let text = edit(fs::read_to_string(&self.config)?);
        fs::write(&self.config, text)?;
        Ok(())
    }

    /// From now on `runner` (a program with arguments) runs every command of the installation, the daemon's own and those
    /// that manage it. Clients are on another machine, so to speak.
    pub fn run_by(&self, runner: Vec<OsString>) {
        self.world().runner = runner;
    }

    /// Sets a variable of the daemon's processes that are started from now on; `None` removes it.
    pub fn set_variable(&self, name: &str, value: Option<&str>) {
        let variables = &mut self.world().variables;
        variables.retain(|(known, _)| known != name);
        variables.extend(value.map(|value| (name.to_owned(), value.to_owned())));
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A command of the installation.
    fn command(&self) -> Command {
        let own = self.binary.command();
        let world = self.world();
        let [runner, arguments @ ..] = &world.runner[..] else {
            return own;
        };
        let mut command = Command::new(runner);
        command.args(arguments).arg(own.get_program());
        for (name, _) in own.get_envs() {
            command.env_remove(name);
        }
        command
    }

    /// Makes a call to the API by the control socket, as the superuser.
    pub fn ask(&self, method: &str, path: &str, params: &Value) -> Result<control::Answer> {
        control::ask(
            &self.config.with_file_name("control.sock"),
            method,
            path,
            params,
        )
    }

    /// A management command; the daemon may run or not.
    pub fn manage(&self, arguments: &[&str]) -> Result<Output> {
        self.manage_with(arguments, "")
    }

    /// A management command that reads a secret.
    pub fn manage_with(&self, arguments: &[&str], secret: &str) -> Result<Output> {
        let mut command = self.manage_command(arguments);
        run(&mut command, secret.as_bytes(), COMMAND_TIME_MAX)
    }

    /// The command, to be run in another way.
    pub fn manage_command(&self, arguments: &[&str]) -> Command {
        let mut command = self.command();
        command.args(arguments).arg("--config").arg(&self.config);
        command
    }

    /// Names an S3 server. `settings` are options of the command.
    pub fn add_s3(&self, id: &str, access: &Access, settings: &[&str]) -> Result<()> {
        let mut arguments = vec!["s3", "add", id, "--endpoint", &access.endpoint];
        arguments.extend(["--access-key", access.access_key.as_str()]);
        arguments.extend(settings);
        self.manage_with(&arguments, &format!("{}\n", access.secret_key))?
            .success()?;
        Ok(())
    }

    /// Where the cache of an S3 datastore is.
    pub fn cache_dir(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.cache"))
    }

    /// Where a filesystem datastore is.
    pub fn store_dir(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.store"))
    }

    /// The command that adds a datastore in the bucket of an S3 server, with more options.
    pub fn create_s3_store(&self, id: &str, name: &str, settings: &[&str]) -> Result<Output> {
        let cache = self.cache_dir(name);
        let cache = cache.to_str().context("a path in UTF-8")?;
        let mut arguments = vec!["datastore", "create", name, "--s3", id];
        arguments.extend(["--bucket", BUCKET, "--cache-dir", cache]);
        arguments.extend(["--cache-bytes-max", "1GiB"]);
        arguments.extend(settings);
        self.manage(&arguments)
    }

    /// Adds a datastore in the bucket of an S3 server.
    pub fn add_s3_store(&self, id: &str, name: &str, settings: &[&str]) -> Result<()> {
        self.create_s3_store(id, name, settings)?.success()?;
        Ok(())
    }

    /// Adds a datastore in a directory.
    pub fn add_directory_store(&self, name: &str, settings: &[&str]) -> Result<()> {
        let path = self.store_dir(name);
        let path = path.to_str().context("a path in UTF-8")?;
        let mut arguments = vec!["datastore", "create", name, "--path", path];
        arguments.extend(settings);
        self.manage(&arguments)?.success()?;
        Ok(())
    }

    /// What `datastore list` says of one.
    pub fn store_state(&self, name: &str) -> Result<Value> {
        let listed = self
            .manage(&["datastore", "list", "--output-format", "json"])?
            .success()?
            .json()?;
        let rows = listed.as_array().context("a list")?;
        let row = rows.iter().find(|row| row["name"] == name);
        row.cloned()
            .with_context(|| format!("no datastore '{name}' in {listed}"))
    }

    /// Starts it and waits until it says that it is ready.
    pub fn start(&self) -> Result<()> {
        self.begin()?;
        self.wait_until_ready()
    }

    fn wait_until_ready(&self) -> Result<()> {
        let ready = wait_for(READY_TIME_MAX, || {
            let answer = self.get("/health/ready");
            if answer.as_ref().is_ok_and(|answer| answer.status == 200) {
                return Some(Ok(()));
            }
            let ended = self.ended();
            ended.map(|status| Err(format!("it ended with {status}")))
        });
        match ready {
            Some(Ok(())) => Ok(()),
            Some(Err(how)) => bail!("the daemon did not start, {how}\n{}", self.log_tail()),
            None => bail!(
                "the daemon was not ready in time: {:?}\n{}",
                self.get("/health/ready").map(|answer| answer.text()),
                self.log_tail()
            ),
        }
    }

    /// Starts it with a limit on the size of the files it can write, and waits until it is ready. What it writes beyond
    /// fails as on a full disk.
    pub fn start_with_file_bytes_max(&self, bytes: u64) -> Result<()> {
        // In blocks of 512 bytes; the signal that comes with it is ignored, also by what the shell becomes.
        let script = format!("trap '' XFSZ; ulimit -f {}; exec \"$@\"", bytes / 512);
        let daemon = self.serve_command();
        let mut command = Command::new("sh");
        command
            .args(["-c", &script, "limited"])
            .envs(
                daemon
                    .get_envs()
                    .filter_map(|(name, value)| Some((name, value?))),
            )
            .arg(daemon.get_program());
        command.args(daemon.get_args()).stdin(Stdio::null());
        self.run(command)?;
        self.wait_until_ready()
    }

    /// Starts it and waits only until it listens.
    pub fn begin(&self) -> Result<()> {
        self.run(self.serve_command())
    }

    /// The same for one that may end before; answers how it did.
    pub fn begin_or_end(&self) -> Result<Option<ExitStatus>> {
        self.run_or_end(self.serve_command())
    }

    fn run(&self, command: Command) -> Result<()> {
        match self.run_or_end(command)? {
            None => Ok(()),
            Some(status) => bail!("the daemon does not listen ({status})\n{}", self.log_tail()),
        }
    }

    fn run_or_end(&self, mut command: Command) -> Result<Option<ExitStatus>> {
        let mut running = self.running();
        ensure!(running.is_none(), "the daemon runs already");
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = Guarded::spawn(&mut command)?;
        let stderr = process.child().stderr.take().context("no standard error")?;
        let (told, listening) = std::sync::mpsc::channel();
        let (log, deaf) = (Arc::clone(&self.log), Arc::clone(&self.deaf));
        deaf.store(false, Ordering::Relaxed);
        std::thread::spawn(move || keep_log(stderr, &log, &told, &deaf));
        let Ok(address) = listening.recv_timeout(READY_TIME_MAX) else {
            let status = process.wait(Duration::from_secs(1));
            return status.map(Some).with_context(|| {
                format!(
                    "the daemon does not listen and does not end\n{}",
                    self.log_tail()
                )
            });
        };
        *running = Some(Running { process, address });
        Ok(None)
    }

    /// The command that runs the daemon.
    pub fn serve_command(&self) -> Command {
        let mut command = self.command();
        command
            .arg("serve")
            .arg("--config")
            .arg(&self.config)
            .envs(self.world().variables.iter().cloned())
            .stdin(Stdio::null());
        command
    }

    /// How it ended, if it has.
    pub fn ended(&self) -> Option<ExitStatus> {
        self.running().as_mut()?.process.ended()
    }

    /// Number of the process, if it runs.
    pub fn pid(&self) -> Option<u32> {
        self.running().as_ref().map(|running| running.process.id())
    }

    /// Waits for its end, which comes by itself or has been asked for; `None`, and it runs on, if that takes longer than
    /// `time`. After an end it can be started again.
    pub fn wait_for_end(&self, time: Duration) -> Option<ExitStatus> {
        let status = wait_for(time, || self.ended());
        if status.is_some() {
            self.kill();
        }
        status
    }

    /// Asks it to stop, and does not wait.
    pub fn ask_to_stop(&self) -> Result<()> {
        let mut running = self.running();
        let running = running.as_mut().context("the daemon does not run")?;
        running.process.signal(Signal::SIGTERM)
    }

    /// Stops it in an orderly way; an error if that takes too long or it fails.
    pub fn stop(&self) -> Result<()> {
        let Some(mut running) = self.running().take() else {
            return Ok(());
        };
        running.process.signal(Signal::SIGTERM)?;
        let status = running.process.wait(STOP_TIME_MAX);
        ensure!(
            status.is_some_and(|status| status.success()),
            "the daemon did not stop as it should: {status:?}\n{}",
            self.log_tail()
        );
        Ok(())
    }

    /// Kills it, as a crash would.
    pub fn kill(&self) {
        if let Some(mut running) = self.running().take() {
            running.process.kill();
        }
    }

    /// Where it listens.
    pub fn address(&self) -> Result<SocketAddr> {
        let running = self.running();
        let running = running.as_ref().context("the daemon does not run")?;
        Ok(running.address)
    }

    /// Base URL of the API.
    pub fn url(&self) -> Result<String> {
        Ok(format!("https://{}", self.address()?))
    }

    /// GETs a path without any account.
    pub fn get(&self, path: &str) -> Result<Answer> {
        self.get_with(path, &[])
    }

    /// GETs a path with these lines in the head.
    pub fn get_with(&self, path: &str, headers: &[&str]) -> Result<Answer> {
        https::get(self.address()?, &self.fingerprint, path, headers)
    }

    /// Begins to GET a path with these lines in the head; nothing of the answer is read yet.
    pub fn open_with(&self, path: &str, headers: &[&str]) -> Result<impl Read + use<>> {
        https::open(
            self.address()?,
            &self.fingerprint,
            path,
            headers,
            OPEN_READ_MAX,
        )
    }

    /// A client command of the administrator against one datastore.
    pub fn client_command(&self, store: &str, arguments: &[&str]) -> Result<Command> {
        let mut command = self.binary.command();
        let repository = format!("{}@{}:{store}", self.user, self.address()?);
        command
            .args(arguments)
            .env("PBS_REPOSITORY", repository)
            .env("PBS_PASSWORD", &self.password)
            .env("PBS_FINGERPRINT", &self.fingerprint);
        Ok(command)
    }

    /// Runs a client command of the administrator against one datastore.
    pub fn client(&self, store: &str, arguments: &[&str]) -> Result<Output> {
        let mut command = self.client_command(store, arguments)?;
        run(&mut command, b"", COMMAND_TIME_MAX)
    }

    /// The same with JSON on standard output, which must succeed.
    pub fn client_json(&self, store: &str, arguments: &[&str]) -> Result<Value> {
        let arguments = [arguments, &["--output-format", "json"]].concat();
        self.client(store, &arguments)?.success()?.json()
    }

    /// Everything it has logged.
    pub fn log(&self) -> String {
        self.log
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// What it has logged since this was asked last, up to the last whole line. It is not kept any longer, so that a
    /// daemon may run for as long as one likes.
    pub fn take_log(&self) -> String {
        std::mem::take(&mut self.log.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Closes the log's reading end as soon as the next line arrives, as when a log collector dies.
    pub fn stop_reading_log(&self) {
        self.deaf.store(true, Ordering::Relaxed);
    }

    /// The end of its log, for messages.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        format!("--- log of the daemon\n{}", tail(&log, 8000))
    }

    /// Runs a test's body; when it fails, the end of the log is shown with the error.
    ///
    /// # Panics
    /// When the body fails.
    pub fn explain(&self, body: impl FnOnce() -> Result<()>) {
        struct ShownOnPanic<'a>(&'a Daemon);
        impl Drop for ShownOnPanic<'_> {
            fn drop(&mut self) {
                if std::thread::panicking() {
                    crate::process::say(&self.0.log_tail());
                }
            }
        }
        let _shown = ShownOnPanic(self);
        if let Err(error) = body() {
            panic!("{error:?}");
        }
    }

    fn running(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the log to its end or until nobody listens any more, and tells the address as soon as it is in it.
fn keep_log(
    stderr: ChildStderr,
    log: &Mutex<String>,
    listening: &std::sync::mpsc::Sender<SocketAddr>,
    deaf: &AtomicBool,
) {
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        if let Some(address) = address_in(&line) {
            // Only the start waits for it.
            let _ = listening.send(address);
        }
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        log.push_str(&line);
        log.push('\n');
        if deaf.load(Ordering::Relaxed) {
            return;
        }
    }
}

fn address_in(line: &str) -> Option<SocketAddr> {
    if let Some((_, rest)) = line.split_once(": listening address=") {
        return rest.split(' ').next()?.parse().ok();
    }
    let line: Value = serde_json::from_str(line).ok()?;
    let fields = &line["fields"];
    (fields["message"] == "listening").then(|| fields["address"].as_str()?.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_in_the_log() {
        let line =
            r#"{"level": "INFO", "fields": {"message": "listening", "address": "127.0.0.1:4"}}"#;
        assert_eq!(address_in(line), "127.0.0.1:4".parse().ok());
        let line =
            "2026-01-01T00:00:00Z  INFO holdfast::cli::serve: listening address=127.0.0.1:5 x=y";
        assert_eq!(address_in(line), "127.0.0.1:5".parse().ok());
        assert_eq!(address_in("Error: no disk"), None);
    }
}
