//! Programs that must not outlive whoever started them.
//!
//! The one that starts them keeps a pipe to their standard input and never writes to it. However it ends, the pipe is
//! closed then, and the program asks itself to stop, the way the system would: with SIGTERM.

use std::io;
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The environment variable that makes any command follow its parent, when it is `1`.
pub(crate) const VARIABLE: &str = "HOLDFAST_FOLLOW_PARENT";

/// Does what [`VARIABLE`] says. The error is that of [`follow`].
pub(crate) fn follow_if_told() -> io::Result<()> {
    match std::env::var_os(VARIABLE) {
        Some(value) if value == "1" => follow(),
        _ => Ok(()),
    }
}

/// Sends SIGTERM to this process once standard input ends. The error is the system's refusal to start a thread.
pub(crate) fn follow() -> io::Result<()> {
    let waiting = thread::Builder::new().name("parent".to_owned());
    waiting.spawn(|| {
        let ended = io::copy(&mut io::stdin().lock(), &mut io::sink());
        if let Err(error) = ended {
            tracing::warn!(%error, "standard input cannot be read; stopping");
        }
        if let Err(errno) = kill(Pid::this(), Signal::SIGTERM) {
            tracing::error!(%errno, "this process cannot stop itself");
        }
    })?;
    Ok(())
}
