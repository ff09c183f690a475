//! How old a mark must be before it stops protecting: the cutoff, and the proof that the file system keeps marks.

use std::path::Path;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::error::About as _;
use crate::files::{FILE_MODE, Files, optional};
use crate::layout::HoldfastFile;
use crate::roots::RootProvider;
use crate::sabotage::{self, Rule};
use crate::{Env, Error, Result};

/// Added to the session's start when sessions are open: two touches may be recorded in the other order than they were
/// timed, and a slow disk may delay one of them.
const OPEN_SESSION_MARGIN: SignedDuration = SignedDuration::from_mins(5);
/// Smallest margin without sessions: times of servers come in whole seconds.
const MARGIN_MIN: SignedDuration = SignedDuration::from_secs(2);

/// What a collection may treat as unused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cutoff {
    /// When the collection began.
    pub(crate) start: Timestamp,
    /// Marks older than this protect nothing.
    pub(crate) time: Timestamp,
    /// The oldest open writer, if it decided: label and start.
    pub(crate) held_back_by: Option<(String, Timestamp)>,
}

impl Cutoff {
    /// Reads the start first and the open writers second, so that a writer that is not seen began later.
    pub(crate) fn read(
        env: &Env,
        roots: &[std::sync::Arc<dyn RootProvider>],
        keep: Duration,
        granularity: SignedDuration,
    ) -> Self {
        let start = env.now();
        Self::of(start, oldest_open(roots), keep, granularity)
    }

    /// The cutoff of a collection that began at `start` and saw `oldest` among the open writers.
    pub(super) fn of(
        start: Timestamp,
        oldest: Option<(String, Timestamp)>,
        keep: Duration,
        granularity: SignedDuration,
    ) -> Self {
        let oldest = oldest.filter(|_| !sabotage::is_off(Rule::SessionsInCutoff));
        let keep = SignedDuration::try_from(keep).unwrap_or(SignedDuration::MAX);
        let by_age = start.saturating_sub(keep).unwrap_or(Timestamp::MIN);
        let margin = if oldest.is_some() {
            OPEN_SESSION_MARGIN
        } else {
            granularity.max(MARGIN_MIN)
        };
        let (bound, held_back_by) = match oldest {
            Some(oldest) if oldest.1 < by_age => (oldest.1, Some(oldest)),
            _ => (by_age, None),
        };
        Self {
            start,
            time: bound.saturating_sub(margin).unwrap_or(Timestamp::MIN),
            held_back_by,
        }
    }
}

/// The oldest open writer: label and start.
pub(super) fn oldest_open(
    roots: &[std::sync::Arc<dyn RootProvider>],
) -> Option<(String, Timestamp)> {
    roots
        .iter()
        .filter_map(|root| root.oldest_open())
        .min_by_key(|(_, since)| *since)
}

/// Proves that the file system below `dir` keeps the times it is given, and returns by how much it rounds them.
/// Without such times nothing protects a chunk, so a file system that loses them is refused.
pub(crate) fn prove_atimes(
    files: &dyn Files,
    dir: &Path,
    now: Timestamp,
) -> Result<SignedDuration> {
    let path = dir.join(HoldfastFile::AtimeProof.name());
    optional(files.unlink(&path)).about(&path)?;
    files.create(&path, FILE_MODE, &[], false).about(&path)?;
    let mut granularity = SignedDuration::ZERO;
    for age in [
        SignedDuration::from_hours(50),
        SignedDuration::from_hours(1),
        SignedDuration::ZERO,
    ] {
        let written = now.saturating_sub(age).unwrap_or(Timestamp::MIN);
        files.touch(&path, written).about(&path)?;
        let seen = files.stat(&path).about(&path)?.atime;
        let difference = written.duration_since(seen).abs();
        if difference > SignedDuration::from_secs(2) {
            return Err(Error::Refused(format!(
                "garbage collection does not run: the file system of {} does not keep the access times it is given; \
                 mount one that does",
                dir.display()
            )));
        }
        granularity = granularity.max(difference);
    }
    optional(files.unlink(&path)).about(&path)?;
    Ok(granularity)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::files::{FaultyFiles, OsFiles};

    #[test]
    fn a_file_system_that_loses_atimes_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let now = Timestamp::from_second(1_700_000_000).unwrap();
        assert!(prove_atimes(&OsFiles, dir.path(), now).unwrap() <= SignedDuration::from_secs(2));
        let files = FaultyFiles::new(Arc::new(OsFiles));
        files.lose_atimes(true);
        let error = prove_atimes(&files, dir.path(), now).unwrap_err();
        assert!(
            error.to_string().contains("does not keep the access times"),
            "{error}"
        );
    }
}
