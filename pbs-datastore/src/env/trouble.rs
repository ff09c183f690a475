//! What the variables of the process say is wrong with the world.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::files::{FaultyFiles, Files};

pub(super) fn applied(now: Timestamp, files: Arc<dyn Files>) -> (Timestamp, Arc<dyn Files>) {
    let offset = std::env::var("HOLDFAST_CLOCK_OFFSET").map_or(0, |text| {
        text.parse()
            .expect("HOLDFAST_CLOCK_OFFSET is a number of seconds")
    });
    let now = now + SignedDuration::from_secs(offset);
    let faulty = FaultyFiles::new(Arc::clone(&files));
    let variable = |name| std::env::var(name).ok();
    let (slow, read_only) = (
        variable("HOLDFAST_SLOW_FILES"),
        variable("HOLDFAST_READ_ONLY_FILES"),
    );
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
    let lose_atimes = variable("HOLDFAST_LOSE_ATIMES").is_some();
    faulty.lose_atimes(lose_atimes);
    if slow.is_none() && read_only.is_none() && !lose_atimes {
        return (now, files);
    }
    (now, Arc::new(faulty))
}
