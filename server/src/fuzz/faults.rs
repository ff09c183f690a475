//! What the daemon logs at level ERROR: a human must look, so nothing that a client sends may be the cause.
//!
//! Every event is put into words, whatever its level, so that the code which does that sees the hostile text too.

use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::sync::{LazyLock, Mutex, MutexGuard, Once, PoisonError};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

/// Longest log line that an input may cause, in bytes: what a client sends is shown shortened or not at all.
const LINE_BYTES_MAX: usize = 64 << 10;
/// Faults kept of one input.
const FAULTS_MAX: usize = 8;

static FAULTS: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn faults() -> MutexGuard<'static, Vec<String>> {
    FAULTS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether whoever looks into an input wants to see the log.
fn shown() -> bool {
    static SHOWN: LazyLock<bool> = LazyLock::new(|| std::env::var_os("HOSTILE_SHOW").is_some());
    *SHOWN
}

struct Watch;

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a text does not fail.
        let _ = write!(self.0, " {field}={value:?}");
    }
}

impl<S: Subscriber> Layer<S> for Watch {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let meta = event.metadata();
        if *meta.level() > Level::INFO {
            return;
        }
        let mut line = Line(meta.target().to_owned());
        event.record(&mut line);
        if shown() {
            // Nobody may be reading.
            let _ = writeln!(io::stderr(), "{}", line.0);
        }
        let long = line.0.len() > LINE_BYTES_MAX && meta.target() != "hostile";
        if *meta.level() == Level::ERROR || long {
            let mut faults = faults();
            if faults.len() < FAULTS_MAX {
                let start: String = line.0.chars().take(400).collect();
                faults.push(format!("{}: {start}", meta.level()));
            }
        }
    }
}

/// Begins to watch the log of this process, once.
pub(super) fn watch() {
    static BEGUN: Once = Once::new();
    BEGUN.call_once(|| {
        // Whoever has a log of his own sees the faults there.
        let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry().with(Watch));
    });
}

/// What was logged since the last call that is a fault of the daemon, whatever it was sent.
pub fn take_faults() -> Vec<String> {
    std::mem::take(&mut *faults())
}
