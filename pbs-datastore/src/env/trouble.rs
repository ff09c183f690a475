//! What the variables of the process say is wrong with the world, in debug builds.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::files::{FaultyFiles, Files};

fn variable(name: &str) -> Option<String> {
    if cfg!(debug_assertions) {
        std::env::var(name).ok()
    } else {
        None
    }
}

/// What the clock shows.
pub(super) fn clock(now: Timestamp) -> Timestamp {
    let offset = variable("HOLDFAST_CLOCK_OFFSET").map_or(0, |text| {
        text.parse()
            .expect("HOLDFAST_CLOCK_OFFSET is a number of seconds")
    });
    now + SignedDuration::from_secs(offset)
}

/// How the disk behaves.
pub(super) fn files(files: Arc<dyn Files>) -> Arc<dyn Files> {
    let (slow, read_only) = (
        variable("HOLDFAST_SLOW_FILES"),
        variable("HOLDFAST_READ_ONLY_FILES"),
    );
    let lose_atimes = variable("HOLDFAST_LOSE_ATIMES").is_some();
    if slow.is_none() && read_only.is_none() && !lose_atimes {
        return files;
    }
    let faulty = FaultyFiles::new(files);
    if let Some(slow) = &slow {
        let (milliseconds, part) = slow
            .split_once(':')
            .expect("HOLDFAST_SLOW_FILES is <milliseconds>:<part of the path>");
        let pause = milliseconds.parse().expect("a number of milliseconds");
        faulty.slow_down(part, Duration::from_millis(pause));
    }
    if let Some(read_only) = &read_only {
        let (switch, part) = read_only
            .split_once(':')
            .expect("HOLDFAST_READ_ONLY_FILES is <switch>:<part of the path>");
        faulty.read_only_while(part, switch.into());
    }
    faulty.lose_atimes(lose_atimes);
    Arc::new(faulty)
}
