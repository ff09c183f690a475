//! Child processes that never outlive the test, and whose waits are bounded.

use std::ffi::OsStr;
use std::io::{self, Read, Write as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

/// How often a condition of another process is looked at.
const POLL: Duration = Duration::from_millis(20);

/// A moment to wait for.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(std::time::Instant);

impl Deadline {
    /// So long from now.
    #[expect(
        clippy::disallowed_methods,
        reason = "other processes are waited for in real time"
    )]
    pub fn after(time: Duration) -> Self {
        Self(std::time::Instant::now() + time)
    }

    /// Whether it has passed.
    #[expect(
        clippy::disallowed_methods,
        reason = "other processes are waited for in real time"
    )]
    pub fn has_passed(self) -> bool {
        std::time::Instant::now() >= self.0
    }
}

/// Asks until there is an answer; `None` when there was none within `time`.
pub fn wait_for<T>(time: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Deadline::after(time);
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if deadline.has_passed() {
            return None;
        }
        std::thread::sleep(POLL);
    }
}

/// Asks until the daemon does not ask to wait any more: for requests whose answers were lost, or, after an unclean stop,
/// for those of the time before, as which a snapshot of the second of the start counts.
pub fn once_settled(time: Duration, mut ask: impl FnMut() -> Result<Output>) -> Result<Output> {
    let settled = wait_for(time, || match ask() {
        Ok(output) if output.asks_to_wait() => None,
        other => Some(other),
    });
    settled.context("nothing was settled for so long")?
}

/// Kills a process, and removes a directory, when the process that made the watchdog is gone. (A dropped handle does
/// so itself; this is for a test process that is killed, and for what statics hold.)
#[derive(Debug)]
pub struct Watchdog {
    shell: Child,
}

impl Watchdog {
    /// Watches over the process `pid`, which must be a child of this one and not yet waited for.
    pub fn over(pid: u32) -> Result<Self> {
        Self::run(
            "cat >/dev/null; kill -9 \"$1\"",
            &[pid.to_string().as_ref()],
        )
    }

    /// Removes `dir` at the end of this process.
    pub fn removing(dir: &Path) -> Result<Self> {
        let script = "cat >/dev/null; i=0
            while [ -e \"$1\" ] && [ $i -lt 20 ]; do rm -rf -- \"$1\" 2>/dev/null || sleep 0.1; i=$((i+1)); done";
        Self::run(script, &[dir.as_os_str()])
    }

    fn run(script: &str, arguments: &[&OsStr]) -> Result<Self> {
        // The pipe closes with this process, however it ends.
        let shell = Command::new("sh")
            .args(["-c", script, "watchdog"])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start sh")?;
        Ok(Self { shell })
    }
}

impl Drop for Watchdog {
    /// Calls the dog off.
    fn drop(&mut self) {
        drop(self.shell.kill());
        drop(self.shell.wait());
    }
}

/// A child that is killed with its handle and with this process.
#[derive(Debug)]
pub struct Guarded {
    // Called off before the process is waited for, so that it never bites a stranger with the same number.
    watchdog: Option<Watchdog>,
    child: Child,
}

impl Guarded {
    /// Starts it.
    pub fn spawn(command: &mut Command) -> Result<Self> {
        let program = command.get_program().to_owned();
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start '{}'", program.display()))?;
        match Watchdog::over(child.id()) {
            Ok(watchdog) => Ok(Self {
                watchdog: Some(watchdog),
                child,
            }),
            Err(error) => {
                drop(child.kill());
                drop(child.wait());
                Err(error)
            }
        }
    }

    /// The process itself, for its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended, and how.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Sends a signal, if it still runs.
    pub fn signal(&mut self, signal: nix::sys::signal::Signal) -> Result<()> {
        if self.ended().is_none() {
            let pid = nix::unistd::Pid::from_raw(self.child.id().try_into()?);
            nix::sys::signal::kill(pid, signal)?;
        }
        Ok(())
    }

    /// Kills it and waits for its end.
    pub fn kill(&mut self) {
        self.watchdog = None;
        drop(self.child.kill());
        drop(self.child.wait());
    }

    /// Waits for its end, and kills it if that takes longer than `time`.
    pub fn wait(&mut self, time: Duration) -> Option<ExitStatus> {
        let status = wait_for(time, || self.ended());
        self.kill();
        status
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What a finished program left.
#[derive(Clone, Debug)]
pub struct Output {
    /// The command line, for messages.
    pub command: String,
    /// Exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// What it wrote to standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error, as text.
    pub stderr: String,
}

impl Output {
    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard output as JSON.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_slice(&self.stdout)
            .with_context(|| format!("no JSON on standard output: {self}"))
    }

    /// Whether the daemon said that it has to wait for requests whose answers were lost.
    fn asks_to_wait(&self) -> bool {
        let told = |part| self.stderr.contains(part);
        self.code != Some(0) && (told("not stopped cleanly") || told("may still take effect"))
    }

    /// Itself, if the program ended with `code`.
    pub fn expect_code(self, code: i32) -> Result<Self> {
        ensure!(self.code == Some(code), "expected exit code {code}: {self}");
        Ok(self)
    }

    /// Itself, if the program ended with 0.
    pub fn success(self) -> Result<Self> {
        self.expect_code(0)
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let code = self
            .code
            .map_or("a signal".to_owned(), |code| code.to_string());
        write!(f, "{} ended with {code}", self.command)?;
        for (name, text) in [("stdout", self.text()), ("stderr", self.stderr.clone())] {
            if !text.trim().is_empty() {
                write!(f, "\n--- {name}\n{}", tail(text.trim_end(), 6000))?;
            }
        }
        Ok(())
    }
}

/// The last `bytes_max` bytes of a text, cut at a character.
pub fn tail(text: &str, bytes_max: usize) -> &str {
    let mut start = text.len().saturating_sub(bytes_max);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    &text[start..]
}

fn collect(source: Option<impl Read + Send + 'static>) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut source) = source {
            drop(source.read_to_end(&mut bytes));
        }
        bytes
    })
}

/// Runs a program to its end with `input` on its standard input. One that takes longer than `time` is killed, and that
/// is an error.
pub fn run(command: &mut Command, input: &[u8], time: Duration) -> Result<Output> {
    let shown = shown(command);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut process = Guarded::spawn(command)?;
    let (stdout, stderr) = (process.child().stdout.take(), process.child().stderr.take());
    let (stdout, stderr) = (collect(stdout), collect(stderr));
    if let Some(mut stdin) = process.child().stdin.take() {
        let input = input.to_vec();
        // A program that reads nothing must not stop us; it ends the pipe when it ends.
        std::thread::spawn(move || drop(stdin.write_all(&input)));
    }
    let status = process.wait(time);
    let join = |reader: JoinHandle<Vec<u8>>| reader.join().unwrap_or_default();
    let output = Output {
        command: shown,
        code: status.and_then(|status| status.code()),
        stdout: join(stdout),
        stderr: String::from_utf8_lossy(&join(stderr)).into_owned(),
    };
    ensure!(
        status.is_some(),
        "it did not end within {} s: {output}",
        time.as_secs()
    );
    Ok(output)
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(OsStr::to_string_lossy).collect();
    words.join(" ")
}

/// Says something on standard error, also when the output of tests is captured.
pub fn say(text: &str) {
    drop(writeln!(io::stderr().lock(), "{text}"));
}
