//! What becomes of one input: fine, or a finding.
//!
//! A finding is a panic anywhere in the process (also one that a task swallows), a line that the daemon logs as its own
//! fault, or more than [`CPU_MAX`] of processor time. What takes longer than [`WALL_MAX`] on the clock, or ends the
//! process, is found by whoever started it ([`crate::worker`]); memory is bounded there too.

use std::panic::{self, AssertUnwindSafe};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::targets::Target;

/// Processor time of one input. Not the clock: the machine has other things to do.
pub const CPU_MAX: Duration = Duration::from_secs(2);
/// Time of one input on the clock; only an endless wait takes that long.
pub const WALL_MAX: Duration = Duration::from_secs(20);
/// Memory that an input may take on top of what the process has when it is warm, in bytes; reserved counts as taken.
pub const MEMORY_BYTES_MAX: u64 = 512 << 20;

/// Why an input is a finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Tells findings apart: the place of the panic, or the kind of another.
    pub place: String,
    /// What happened.
    pub what: String,
}

static PANICS: Mutex<Vec<Finding>> = Mutex::new(Vec::new());

fn panics() -> MutexGuard<'static, Vec<Finding>> {
    PANICS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Notes down panics instead of printing them, from now on.
pub fn watch() {
    static BEGUN: Once = Once::new();
    BEGUN.call_once(|| {
        panic::set_hook(Box::new(|info| {
            let place = info.location().map_or_else(
                || "unknown".to_owned(),
                |at| format!("{}:{}", at.file(), at.line()),
            );
            let payload = info.payload();
            let what = payload
                .downcast_ref::<&str>()
                .map(|text| (*text).to_owned())
                .or_else(|| payload.downcast_ref::<String>().cloned())
                .unwrap_or_default();
            panics().push(Finding { place, what });
        }));
    });
}

/// Reads nothing, so that what the first input builds for all the others is not its fault.
pub fn warm_up(target: &Target) {
    watch();
    // Whether it likes nothing is not asked here.
    let _ = panic::catch_unwind(|| (target.run)(b""));
    panics().clear();
    drop(holdfast::fuzz::take_faults());
}

/// Reads one input.
pub fn judge(target: &Target, data: &[u8]) -> Result<(), Finding> {
    watch();
    let before = cpu_time();
    let run = panic::catch_unwind(AssertUnwindSafe(|| (target.run)(data)));
    let taken = cpu_time().saturating_sub(before);
    let noted = std::mem::take(&mut *panics());
    let faults = holdfast::fuzz::take_faults();
    if let Some(finding) = noted.into_iter().next() {
        return Err(finding);
    }
    assert!(run.is_ok(), "a panic that the hook does not see");
    if let Some(fault) = faults.first() {
        return Err(Finding {
            place: "log".to_owned(),
            what: format!("the daemon logs a fault of its own: {fault}"),
        });
    }
    if taken > CPU_MAX {
        return Err(Finding {
            place: "time".to_owned(),
            what: format!("it takes {:.1} s of processor time", taken.as_secs_f64()),
        });
    }
    Ok(())
}

/// Processor time of this process.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}
