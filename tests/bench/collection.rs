//! One collection of garbage, watched: what it took, and when it went from one phase to the next.
//!
//! It is started by the control socket, without log-in. Its task's log is asked for every 20 ms; the moments are those at
//! which a line was seen, so each may be that much late. *Mark* goes from the line that tells the cutoff to the one that
//! tells how many indexes were marked (listing of the snapshots included), *sweep* from there to the summary, and the
//! whole from the request that starts the task to the task's end.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use holdfast_tests::daemon::Daemon;
use holdfast_tests::measure::site::S3Process;
use holdfast_tests::measure::usage::{CpuTime, Memory};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::population::{Populated, STORE};

/// How often the log is asked for.
const LOOK: Duration = Duration::from_millis(20);
/// A collection that takes longer has failed.
const TIME_MAX: Duration = Duration::from_mins(30);

/// S3 requests by operation.
pub(crate) type Requests = BTreeMap<String, u64>;

/// What one collection took.
#[derive(Clone, Debug)]
pub(crate) struct Collection {
    /// From its start to its end.
    pub(crate) seconds: f64,
    /// Marking alone.
    pub(crate) mark_seconds: f64,
    /// Sweeping alone.
    pub(crate) sweep_seconds: f64,
    /// Entries of indexes that were read.
    pub(crate) entries: u64,
    /// Those among them whose chunks were touched: all others were known to be.
    pub(crate) first_touches: u64,
    /// Chunks removed.
    pub(crate) removed: u64,
    /// Chunks in use.
    pub(crate) in_use: u64,
    /// What the S3 server was asked meanwhile.
    pub(crate) requests: Requests,
    /// The most memory that the daemon's process ever had, its start included.
    pub(crate) peak_bytes: u64,
    /// Which part of the processors was idle.
    pub(crate) idle: f64,
}

impl Collection {
    /// Runs one.
    pub(crate) fn run(populated: &Populated) -> Result<Self> {
        nix::unistd::sync();
        let requests = requests(populated.s3())?;
        let cpu = CpuTime::now()?;
        let phases = watch(populated.daemon())?;
        let idle = CpuTime::now()?.idle_since(&cpu);
        let status = populated
            .daemon()
            .ask("GET", &format!("admin/datastore/{STORE}/gc"), &json!({}))?
            .data()?;
        let count = |pointer: &str| {
            let value = status.pointer(pointer).and_then(Value::as_u64);
            value.with_context(|| format!("no '{pointer}' in {status}"))
        };
        let (known, first_touches) = (count("/cache-stats/hits")?, count("/cache-stats/misses")?);
        ensure!(
            count("/missing-chunks")? == 0,
            "chunks are missing: {status}"
        );
        Ok(Self {
            seconds: phases.ended,
            mark_seconds: phases.marked - phases.begun,
            sweep_seconds: phases.swept - phases.marked,
            entries: known + first_touches,
            first_touches,
            removed: count("/removed-chunks")?,
            in_use: count("/disk-chunks")?,
            requests: since(&requests, self::requests(populated.s3())?),
            peak_bytes: Memory::of(populated.pid()?)?.peak,
            idle,
        })
    }

    /// Entries marked per second.
    pub(crate) fn entries_per_second(&self) -> f64 {
        self.entries as f64 / self.mark_seconds
    }

    /// Chunks touched per second of marking.
    pub(crate) fn touches_per_second(&self) -> f64 {
        self.first_touches as f64 / self.mark_seconds
    }

    /// All figures.
    pub(crate) fn to_json(&self) -> Value {
        json!({
            "seconds": self.seconds,
            "mark-seconds": self.mark_seconds,
            "sweep-seconds": self.sweep_seconds,
            "index-entries": self.entries,
            "first-touches": self.first_touches,
            "removed-chunks": self.removed,
            "chunks-in-use": self.in_use,
            "requests": self.requests,
            "peak-bytes": self.peak_bytes,
            "idle": self.idle,
        })
    }
}

/// What the S3 server was asked so far.
fn requests(s3: &S3Process) -> Result<Requests> {
    let counters = s3.counters()?;
    let operations = counters.as_object().context("counters by operation")?;
    let count =
        |(name, count): (&String, &Value)| Some((name.clone(), count["requests"].as_u64()?));
    Ok(operations.iter().filter_map(count).collect())
}

/// What was asked after `before`.
fn since(before: &Requests, now: Requests) -> Requests {
    now.into_iter()
        .map(|(name, count)| {
            let earlier = before.get(&name).copied().unwrap_or(0);
            (name, count - earlier)
        })
        .filter(|(_, count)| *count > 0)
        .collect()
}

/// Seconds from the request to when each was seen.
struct Phases {
    begun: f64,
    marked: f64,
    swept: f64,
    ended: f64,
}

/// A line of the log that tells of a new phase.
#[derive(Debug, PartialEq, Eq)]
enum Turn {
    Begun,
    Marked,
    Swept,
    Ended,
}

impl Turn {
    fn of(line: &str) -> Result<Option<Self>> {
        let Some((_, text)) = line.split_once(": ") else {
            bail!("the task's log says '{line}'");
        };
        Ok(match text {
            "TASK OK" => Some(Self::Ended),
            _ if text.starts_with("TASK ") => bail!("the collection ended so: {text}"),
            _ if text.starts_with("starting garbage collection") => Some(Self::Begun),
            _ if text.starts_with("marked the chunks of ") => Some(Self::Marked),
            _ if text.starts_with("removed ") && text.contains(" in use, ") => Some(Self::Swept),
            _ => None,
        })
    }
}

fn watch(daemon: &Daemon) -> Result<Phases> {
    let began = Instant::now();
    let upid = daemon
        .ask("POST", &format!("admin/datastore/{STORE}/gc"), &json!({}))?
        .data()?;
    let upid = upid.as_str().context("the id of a task")?.to_owned();
    let path = format!("nodes/localhost/tasks/{upid}/log");
    let (mut begun, mut marked, mut swept) = (None, None, None);
    let mut next = 1;
    while began.elapsed() < TIME_MAX {
        let answer = daemon.ask("GET", &path, &json!({ "start": next, "limit": 0 }))?;
        let (now, lines) = (began.elapsed().as_secs_f64(), answer.data()?);
        for line in lines.as_array().context("lines of a log")? {
            next += 1;
            match Turn::of(line["t"].as_str().context("the text of a line")?)? {
                Some(Turn::Begun) => begun = Some(now),
                Some(Turn::Marked) => marked = Some(now),
                Some(Turn::Swept) => swept = Some(now),
                Some(Turn::Ended) => {
                    let seen = begun.zip(marked).zip(swept);
                    let ((begun, marked), swept) = seen.context("the log misses a phase")?;
                    return Ok(Phases {
                        begun,
                        marked,
                        swept,
                        ended: now,
                    });
                }
                None => {}
            }
        }
        thread::sleep(LOOK);
    }
    bail!("the collection did not end\n{}", daemon.log_tail())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_tells_the_phases() {
        let turn = |text: &str| Turn::of(&format!("2026-01-01T00:00:00+00:00: {text}"));
        let is = |text, expected| assert_eq!(turn(text).unwrap(), expected, "{text}");
        is(
            "starting garbage collection; unused chunks",
            Some(Turn::Begun),
        );
        is("marked the chunks of 500 indexes", Some(Turn::Marked));
        is("marked 17 parts", None);
        is("removed 1000 chunks (64 bytes) so far", None);
        is(
            "removed 1000 chunks (64 bytes); 5 chunks (6 bytes) in use, 0 pending; 0 missing",
            Some(Turn::Swept),
        );
        is("TASK OK", Some(Turn::Ended));
        assert!(turn("TASK ERROR: no").is_err());
        assert!(turn("TASK WARNINGS: 1").is_err());
    }

    #[test]
    fn requests_are_those_since() {
        let before = Requests::from([("a".to_owned(), 3), ("b".to_owned(), 1)]);
        let now = Requests::from([
            ("a".to_owned(), 5),
            ("b".to_owned(), 1),
            ("c".to_owned(), 1),
        ]);
        let expected = Requests::from([("a".to_owned(), 2), ("c".to_owned(), 1)]);
        assert_eq!(since(&before, now), expected);
    }
}
