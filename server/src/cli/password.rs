//! Passwords and keys for commands: from a variable, from the terminal without echo, or from standard input; never from
//! the command line, which other users can read.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use anyhow::{Context as _, bail};
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};

/// Longest line that is read, in bytes.
const LINE_BYTES_MAX: u64 = 4096;

/// The variable with the password of a user.
pub(super) const PASSWORD_VARIABLE: &str = "HOLDFAST_PASSWORD";
/// The variable with the password or token secret for a remote.
pub(super) const REMOTE_PASSWORD_VARIABLE: &str = "HOLDFAST_REMOTE_PASSWORD";
/// The variable with the secret of a notification.
pub(super) const NOTIFY_SECRET_VARIABLE: &str = "HOLDFAST_NOTIFY_SECRET";
/// The variable with the secret key for an S3 server.
pub(super) const SECRET_KEY_VARIABLE: &str = "HOLDFAST_S3_SECRET_KEY";

/// Reads what `what` names. A person is asked twice if `confirm` is set.
pub(super) fn read(variable: &str, what: &str, confirm: bool) -> anyhow::Result<String> {
    if let Ok(value) = std::env::var(variable) {
        return checked(value, what);
    }
    if !io::stdin().is_terminal() {
        return checked(line()?, what);
    }
    let first = checked(prompt(&format!("{what}: "))?, what)?;
    if confirm && prompt(&format!("{what} again: "))? != first {
        bail!("the two are not the same; nothing was changed");
    }
    Ok(first)
}

fn checked(value: String, what: &str) -> anyhow::Result<String> {
    if value.is_empty() {
        bail!("the {what} is empty; nothing was changed");
    }
    Ok(value)
}

/// One line of standard input without its end.
fn line() -> anyhow::Result<String> {
    use std::io::Read as _;
    let mut line = String::new();
    let input = io::stdin().lock().take(LINE_BYTES_MAX);
    io::BufReader::new(input)
        .read_line(&mut line)
        .context("standard input cannot be read")?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// Switches the echo of the terminal off until it is dropped.
struct Silence(Termios);

impl Silence {
    fn begin() -> anyhow::Result<Self> {
        let before = tcgetattr(io::stdin()).context("the terminal cannot be used")?;
        let mut silent = before.clone();
        silent.local_flags.remove(LocalFlags::ECHO);
        silent.local_flags.insert(LocalFlags::ECHONL);
        tcsetattr(io::stdin(), SetArg::TCSAFLUSH, &silent)
            .context("the terminal's echo cannot be switched off")?;
        Ok(Self(before))
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        // Nothing better can be done about a terminal that has gone away.
        let _ = tcsetattr(io::stdin(), SetArg::TCSAFLUSH, &self.0);
    }
}

fn prompt(text: &str) -> anyhow::Result<String> {
    let mut terminal = io::stderr();
    terminal.write_all(text.as_bytes())?;
    terminal.flush()?;
    let _silence = Silence::begin()?;
    line()
}
