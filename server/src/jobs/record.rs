//! What is known of each job's past: `jobs/KIND-ID.json` in the state directory, replaced as a whole.
//!
//! Written when a schedule is first seen, before a run begins, and after it has ended. A crash between the last two leaves a
//! run without an end: the next start makes it an unknown one, and the schedule counts from then, so that a job that brings the
//! daemon down does not do so in a loop. A record that is lost or damaged is a job that is seen for the first time. Times that
//! are still to come, of a clock that was wrong, become now.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::key::{JobKey, JobKind, PlannedJob};
use crate::atomic_file;
use crate::tasks::{Outcome, Upid};

/// How far ahead a time may be without being from a clock that was wrong.
const CLOCK_STEP_MAX: SignedDuration = SignedDuration::from_mins(1);

/// The last run of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct LastRun {
    /// Its task.
    pub(crate) upid: String,
    /// When it began.
    pub(crate) start: Timestamp,
    /// When it ended; `None` if it runs, or nobody saw the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) end: Option<Timestamp>,
    /// How it ended, in the words of its task; `None` while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) state: Option<String>,
}

/// One job's past.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub(crate) struct JobRecord {
    /// The schedule as it was last seen; `None` for not by itself.
    schedule: Option<String>,
    /// Since when the job has it.
    since: Option<Timestamp>,
    /// The last run, if there was one.
    pub(crate) last_run: Option<LastRun>,
}

impl JobRecord {
    /// From when on the schedule counts: its own beginning, or the start or end of a later run. `None` for a job that has not
    /// been seen yet.
    pub(crate) fn counts_from(&self) -> Option<Timestamp> {
        let run = self.last_run.as_ref();
        self.since
            .max(run.map(|run| run.start))
            .max(run.and_then(|run| run.end))
    }

    /// Nothing of this job runs: a run without an end has an unknown one, and nothing has happened yet that is still to come.
    fn settle(&mut self, now: Timestamp) {
        if let Some(run) = &mut self.last_run {
            if run.state.is_none() {
                run.state = Some(Outcome::Unknown.to_string());
                self.since = Some(now);
            }
            run.start = not_to_come(run.start, now);
            run.end = run.end.map(|end| not_to_come(end, now));
        }
        self.since = self.since.map(|since| not_to_come(since, now));
    }
}

/// A time of a clock that was wrong is now; one that was set back a little is nothing to speak of.
fn not_to_come(time: Timestamp, now: Timestamp) -> Timestamp {
    if time.duration_since(now) > CLOCK_STEP_MAX {
        now
    } else {
        time
    }
}

/// The records of all jobs. All methods but [`get`](Self::get) block on the disk.
#[derive(Debug)]
pub(crate) struct JobRecords {
    dir: PathBuf,
    records: Mutex<BTreeMap<JobKey, JobRecord>>,
    /// Held over the disk.
    writing: Mutex<()>,
}

impl JobRecords {
    /// Reads what is kept in `dir`, which need not be there.
    pub(crate) fn open(dir: &Path) -> Self {
        let mut records = BTreeMap::new();
        match std::fs::read_dir(dir) {
            Ok(entries) => {
                for entry in entries.flatten() {
                    let Some(key) = key_of(&entry.file_name().to_string_lossy()) else {
                        continue;
                    };
                    if let Some(record) = read(&entry.path()) {
                        records.insert(key, record);
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::error!(dir = %dir.display(), %error, "the past of the jobs cannot be read; their schedules count from now");
            }
        }
        Self {
            dir: dir.to_owned(),
            records: Mutex::new(records),
            writing: Mutex::default(),
        }
    }

    /// What is known of a job.
    pub(crate) fn get(&self, key: &JobKey) -> JobRecord {
        self.lock().get(key).cloned().unwrap_or_default()
    }

    /// Takes note of the jobs that there are: a new schedule counts from `now`, and what is known of a job that is gone is
    /// forgotten. Runs that began before this process did and have no end get an unknown one.
    ///
    /// `running` is asked once the records stand still, for what runs is registered there before it is here.
    pub(crate) fn reconcile(
        &self,
        jobs: &[PlannedJob],
        running: impl FnOnce() -> BTreeSet<JobKey>,
        now: Timestamp,
    ) {
        let mut changed = Vec::new();
        let mut records = self.lock();
        let running = running();
        let known: BTreeSet<&JobKey> = jobs.iter().map(|job| &job.key).collect();
        records.retain(|key, _| {
            let stays = known.contains(key) || running.contains(key);
            if !stays {
                changed.push(key.clone());
            }
            stays
        });
        for job in jobs {
            let schedule = job.schedule.as_ref().map(ToString::to_string);
            let record = records.entry(job.key.clone()).or_default();
            let before = record.clone();
            if record.since.is_none() || record.schedule != schedule {
                (record.schedule, record.since) = (schedule, Some(now));
            }
            if !running.contains(&job.key) {
                record.settle(now);
            }
            if *record != before {
                changed.push(job.key.clone());
            }
        }
        drop(records);
        for key in &changed {
            self.save(key);
        }
    }

    /// A run is about to begin.
    pub(crate) fn begin(&self, key: &JobKey, upid: &Upid, start: Timestamp) {
        let mut records = self.lock();
        let record = records.entry(key.clone()).or_default();
        record.last_run = Some(LastRun {
            upid: upid.to_string(),
            start,
            end: None,
            state: None,
        });
        drop(records);
        self.save(key);
    }

    /// The run has ended.
    pub(crate) fn end(&self, key: &JobKey, upid: &Upid, end: Timestamp, outcome: &Outcome) {
        let mut records = self.lock();
        let record = records.entry(key.clone()).or_default();
        if let Some(run) = &mut record.last_run
            && run.upid == upid.to_string()
        {
            run.end = Some(end);
            run.state = Some(outcome.to_string());
        }
        drop(records);
        self.save(key);
    }

    fn path(&self, key: &JobKey) -> PathBuf {
        self.dir
            .join(format!("{}-{}.json", key.kind.name(), key.id))
    }

    /// Brings the file of a job up to date. A record that cannot be written is known until the process ends.
    fn save(&self, key: &JobKey) {
        // What is known now is written, whoever comes first; nobody waits for the disk to learn what is known.
        let _turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let (path, record) = (self.path(key), self.lock().get(key).cloned());
        let written = match record {
            None => match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
            Some(record) => std::fs::create_dir_all(&self.dir)
                .and_then(|()| serde_json::to_vec(&record).map_err(io::Error::other))
                .and_then(|content| atomic_file::replace(&path, &content, 0o640)),
        };
        if let Err(error) = written {
            tracing::error!(path = %path.display(), %error, "the record of a job cannot be written; after a restart its schedule counts from then");
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<JobKey, JobRecord>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key_of(name: &str) -> Option<JobKey> {
    let stem = name.strip_suffix(".json")?;
    let (kind, id) = stem.split_once('-')?;
    let kind = JobKind::ALL
        .into_iter()
        .find(|known| known.name() == kind)?;
    crate::auth::is_safe_id(id).then(|| JobKey::new(kind, id))
}

fn read(path: &Path) -> Option<JobRecord> {
    let read = std::fs::read(path)
        .and_then(|content| serde_json::from_slice(&content).map_err(io::Error::other));
    match read {
        Ok(record) => Some(record),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "the record of a job cannot be read; its schedule counts from now");
            None
        }
    }
}
