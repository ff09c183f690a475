//! The log of one task: lines with a time, numbered from 1, bounded.

use std::fmt::Display;
use std::io::BufRead as _;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::append::{AppendFile, Snapshot};
use super::outcome::Outcome;

/// Largest log, in bytes; beyond it lines are dropped and counted.
const LOG_BYTES_MAX: u64 = 16 << 20;
/// Longest line, in bytes; the rest is cut off.
const LINE_BYTES_MAX: usize = 4096;

/// Where the last line and the end of the task are one step.
#[derive(Debug, Default)]
struct State {
    lines: u64,
    dropped: u64,
    warnings: u64,
    end: Option<End>,
}

impl State {
    fn outcome(&self, result: &Result<(), String>) -> Outcome {
        match result {
            Ok(()) if self.warnings > 0 => Outcome::Warnings(self.warnings),
            Ok(()) => Outcome::Ok,
            Err(text) => Outcome::error(text),
        }
    }
}

/// How and when a task ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct End {
    pub(super) time: i64,
    pub(super) outcome: Outcome,
}

/// The log of a running task.
#[derive(Debug)]
pub(super) struct TaskLog {
    file: Arc<AppendFile>,
    zone: TimeZone,
    state: Mutex<State>,
}

/// Lines of a log, and what else must be from the same moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogPage {
    /// Number of the first line, from 1.
    pub(crate) first: u64,
    /// The lines, time included.
    pub(crate) lines: Vec<String>,
    /// Lines in the whole log.
    pub(crate) total: u64,
    /// Whether more may come.
    pub(crate) active: bool,
}

impl TaskLog {
    pub(super) fn new(file: Arc<AppendFile>, zone: TimeZone) -> Self {
        Self {
            file,
            zone,
            state: Mutex::default(),
        }
    }

    /// Adds a line, or several if `message` has several. Never waits for the disk.
    pub(super) fn add(&self, now: Timestamp, message: &dyn Display) {
        let mut state = self.lock();
        if state.end.is_none() {
            self.append(&mut state, now, &message.to_string());
        }
    }

    /// Adds a line that counts as a warning.
    pub(super) fn warn(&self, now: Timestamp, message: &dyn Display) {
        let mut state = self.lock();
        if state.end.is_none() {
            state.warnings += 1;
            self.append(&mut state, now, &format!("warning: {message}"));
        }
    }

    /// How the task would end now with `result`.
    pub(super) fn outcome(&self, result: &Result<(), String>) -> Outcome {
        self.lock().outcome(result)
    }

    /// Ends the log with the line that says how: in one step for whoever reads. Later calls change nothing.
    pub(super) fn end(&self, now: Timestamp, result: Result<(), String>) -> End {
        let mut state = self.lock();
        if let Some(end) = &state.end {
            return end.clone();
        }
        if state.dropped > 0 {
            let note = format!("{} lines were dropped, the log is full", state.dropped);
            self.append_always(&mut state, now, &note);
        }
        let outcome = state.outcome(&result);
        self.append_always(&mut state, now, &outcome.log_line());
        let end = End {
            time: now.as_second(),
            outcome,
        };
        state.end = Some(end.clone());
        end
    }

    /// How the task ended, if it has.
    pub(super) fn ended(&self) -> Option<End> {
        self.lock().end.clone()
    }

    /// The bytes of the log and whether more may come, from one moment.
    pub(super) fn snapshot(&self) -> (Snapshot, bool) {
        let state = self.lock();
        (self.file.snapshot(), state.end.is_none())
    }

    /// Writes what is only in memory. Blocks.
    pub(super) fn flush(&self) {
        self.file.flush_logged();
    }

    fn append(&self, state: &mut State, now: Timestamp, message: &str) {
        for line in message.lines() {
            if self.file.length() > LOG_BYTES_MAX {
                state.dropped += 1;
            } else {
                self.append_always(state, now, line);
            }
        }
    }

    fn append_always(&self, state: &mut State, now: Timestamp, line: &str) {
        let mut cut = line.len().min(LINE_BYTES_MAX);
        while !line.is_char_boundary(cut) {
            cut -= 1;
        }
        let text: String = line[..cut]
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        let time = now.to_zoned(self.zone.clone());
        let stamped = format!("{}: {text}\n", time.strftime("%Y-%m-%dT%H:%M:%S%:z"));
        if self.file.append(stamped.as_bytes()) {
            state.lines += 1;
        } else {
            state.dropped += 1;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LogPage {
    /// At most `limit` lines (0 for all) from line `start` on (0 counts as 1) of the log in `snapshot`. Blocks.
    pub(super) fn read(
        snapshot: Snapshot,
        active: bool,
        start: u64,
        limit: u64,
    ) -> std::io::Result<Self> {
        let mut reader = snapshot.reader()?;
        let first = start.max(1);
        let mut total = 0;
        let mut lines = Vec::new();
        let mut line = Vec::new();
        loop {
            line.clear();
            reader.read_until(b'\n', &mut line)?;
            // A crash may leave half a line at the end; it has no number.
            let Some(text) = line.strip_suffix(b"\n") else {
                break;
            };
            total += 1;
            if total >= first && (limit == 0 || (lines.len() as u64) < limit) {
                lines.push(String::from_utf8_lossy(text).into_owned());
            }
        }
        Ok(Self {
            first,
            lines,
            total,
            active,
        })
    }
}
