//! What a command tells the person while it works: bars on a terminal, warnings always, both on standard error.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Where a command reports its advance. Shared between its threads.
#[derive(Debug)]
pub(crate) struct Progress {
    /// Present on a terminal only.
    bar: Option<ProgressBar>,
    /// Whether warnings and notes are printed, or only counted and kept.
    printing: bool,
    warnings: AtomicU64,
    /// The first warnings and notes of a silent run, in order.
    kept: Mutex<Vec<String>>,
}

/// The most messages that a silent run keeps.
const KEPT_MAX: usize = 1000;

impl Progress {
    /// A bar when standard error is a terminal; messages on standard error.
    pub(crate) fn terminal() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Self {
            bar,
            printing: true,
            warnings: AtomicU64::new(0),
            kept: Mutex::default(),
        }
    }

    /// No output; messages are kept for [`Progress::kept`].
    #[cfg(any(test, feature = "fuzz"))]
    pub(crate) fn silent() -> Self {
        Self {
            bar: None,
            printing: false,
            warnings: AtomicU64::new(0),
            kept: Mutex::default(),
        }
    }

    /// Starts the bar for one piece of work of `bytes`, if that is known.
    pub(crate) fn begin(&self, what: &str, bytes: Option<u64>) {
        let Some(bar) = &self.bar else { return };
        let template = match bytes {
            Some(_) => "{msg} [{bar:30}] {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}",
            None => "{msg} {spinner} {bytes} {binary_bytes_per_sec}",
        };
        bar.set_style(
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        bar.reset();
        bar.set_length(bytes.unwrap_or(0));
        bar.set_message(what.to_owned());
    }

    /// Counts bytes that were read or restored.
    pub(crate) fn advance(&self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.inc(bytes);
        }
    }

    /// Removes the bar.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    /// Something is missing or wrong, and the command goes on: it will exit with 2.
    pub(crate) fn warn(&self, text: &str) {
        self.warnings.fetch_add(1, Ordering::Relaxed);
        self.say(&format!("warning: {text}"));
    }

    /// Something worth knowing that does not count as a warning.
    pub(crate) fn note(&self, text: &str) {
        self.say(text);
    }

    /// Warnings so far.
    pub(crate) fn warnings(&self) -> u64 {
        self.warnings.load(Ordering::Relaxed)
    }

    /// The first messages of a silent run.
    #[cfg(test)]
    pub(crate) fn kept(&self) -> Vec<String> {
        self.kept
            .lock()
            .map(|kept| kept.clone())
            .unwrap_or_default()
    }

    #[expect(
        clippy::print_stderr,
        reason = "messages of a command go to standard error"
    )]
    fn say(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.suspend(|| eprintln!("{text}"));
        } else if self.printing {
            eprintln!("{text}");
        } else if let Ok(mut kept) = self.kept.lock()
            && kept.len() < KEPT_MAX
        {
            kept.push(text.to_owned());
        }
    }
}
