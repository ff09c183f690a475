//! Tests of schedules and records: years of simulated time, changes of the clocks, restarts.

use std::collections::BTreeSet;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use tempfile::TempDir;

use super::record::JobRecords;
use super::*;
use crate::auth::AuthId;
use crate::tasks::{Outcome, TaskRegistry, TaskStart, Upid};

fn time(text: &str) -> Timestamp {
    text.parse().expect("a time")
}

fn zone() -> TimeZone {
    TimeZone::get("Europe/Berlin").expect("a zone")
}

fn planned(schedule: Option<&str>, jitter_seconds: u64) -> PlannedJob {
    PlannedJob {
        key: JobKey::new(JobKind::Prune, "nightly"),
        store: "store1".to_owned(),
        schedule: schedule.map(|text| text.parse().expect("an event")),
        jitter_seconds,
    }
}

/// A job, its records on disk, and a clock.
struct World {
    dir: TempDir,
    records: JobRecords,
    job: PlannedJob,
    now: Timestamp,
    serial: u64,
}

impl World {
    fn new(schedule: &str, jitter_seconds: u64, now: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let mut world = Self {
            records: JobRecords::open(dir.path()),
            dir,
            job: planned(Some(schedule), jitter_seconds),
            now: time(now),
            serial: 0,
        };
        world.look();
        world
    }

    fn look(&mut self) {
        let jobs = std::slice::from_ref(&self.job);
        self.records.reconcile(jobs, BTreeSet::new, self.now);
    }

    /// The daemon ends and starts again.
    fn restart(&mut self) {
        self.records = JobRecords::open(self.dir.path());
        self.look();
    }

    fn next(&self) -> Option<Timestamp> {
        next_run(&self.job, &self.records.get(&self.job.key), &zone())
    }

    fn is_due(&self) -> bool {
        self.next().is_some_and(|next| next <= self.now)
    }

    fn begin(&mut self) -> Upid {
        self.serial += 1;
        let upid = format!(
            "UPID:store:00000001:00000002:{:08X}:6A000000:prunejob:store1:root@pam:",
            self.serial
        );
        let upid: Upid = upid.parse().expect("a task id");
        self.records.begin(&self.job.key, &upid, self.now);
        upid
    }

    /// Runs the job for so long, if it is due.
    fn run(&mut self, seconds: i64) -> bool {
        if !self.is_due() {
            return false;
        }
        let upid = self.begin();
        self.now += SignedDuration::from_secs(seconds);
        let (key, now) = (self.job.key.clone(), self.now);
        self.records.end(&key, &upid, now, &Outcome::Ok);
        true
    }
}

#[test]
fn ten_years_of_nights_miss_none_and_repeat_none() {
    let mut world = World::new("daily", 0, "2026-11-21T12:00:00Z");
    let mut days = BTreeSet::new();
    for night in 0..3653 {
        world.now = world.next().expect("always due again");
        let local = world.now.to_zoned(zone());
        assert!(days.insert(local.date()), "twice on {}", local.date());
        assert_eq!((local.hour(), local.minute()), (0, 0), "{local}");
        assert!(world.run(600));
        assert!(!world.is_due());
        if night % 100 == 0 {
            world.restart();
        }
    }
    let (first, last) = (days.first(), days.last());
    let (first, last) = (first.expect("some"), last.expect("some"));
    let span = first.until(*last).expect("in order").get_days();
    assert_eq!(span + 1, 3653, "no day without a run");
}

#[test]
fn where_the_clocks_change_a_job_runs_once() {
    for (schedule, day, local) in [
        // The hour from 2 to 3 is skipped.
        ("*-*-* 02:30", "2027-03-27T12:00:00Z", "2027-03-28T03:00:00"),
        // It comes twice.
        ("*-*-* 02:30", "2027-10-30T12:00:00Z", "2027-10-31T02:30:00"),
    ] {
        let mut world = World::new(schedule, 0, day);
        world.now = world.next().expect("due");
        let seen = world.now.to_zoned(zone());
        assert_eq!(seen.strftime("%FT%T").to_string(), local);
        assert!(world.run(60));
        let next = world.next().expect("due").to_zoned(zone());
        assert_eq!(next.date(), seen.date().tomorrow().expect("a day"));
    }
}

#[test]
fn missed_runs_are_caught_up_once() {
    let mut world = World::new("hourly", 0, "2026-11-21T12:10:00Z");
    assert!(!world.is_due(), "it counts from when it was first seen");
    world.now = time("2026-11-25T09:10:00Z");
    world.restart();
    assert!(world.run(60));
    assert!(!world.is_due(), "and not for each hour that was missed");
    assert_eq!(world.next(), Some(time("2026-11-25T10:00:00Z")));
}

#[test]
fn a_run_longer_than_its_interval_has_no_queue_behind_it() {
    let mut world = World::new("*:0/5", 0, "2026-11-21T12:00:00Z");
    world.now = time("2026-11-21T12:05:00Z");
    assert!(world.run(3600));
    assert!(!world.is_due());
    assert_eq!(world.next(), Some(time("2026-11-21T13:10:00Z")));
}

#[test]
fn a_run_that_was_cut_off_is_not_repeated_before_its_time() {
    let mut world = World::new("hourly", 0, "2026-11-21T12:10:00Z");
    world.now = time("2026-11-21T13:00:00Z");
    assert!(world.is_due());
    world.begin();
    // It ran for longer than its interval, and took the daemon with it.
    world.now = time("2026-11-21T14:30:00Z");
    world.restart();
    let last = world.records.get(&world.job.key).last_run.expect("a run");
    assert_eq!(last.state, Some(Outcome::Unknown.to_string()));
    assert_eq!(last.end, None);
    assert!(!world.is_due());
    world.now = time("2026-11-21T15:00:00Z");
    assert!(world.is_due());
}

#[test]
fn times_of_a_clock_that_was_ahead_keep_no_job_from_running() {
    let mut world = World::new("hourly", 0, "2099-11-21T12:10:00Z");
    world.now = time("2099-11-21T13:00:00Z");
    assert!(world.run(60));
    world.now = time("2026-11-21T12:10:00Z");
    world.restart();
    assert_eq!(world.next(), Some(time("2026-11-21T13:00:00Z")));
}

#[test]
fn a_changed_schedule_counts_from_the_change() {
    let mut world = World::new("monthly", 0, "2026-11-21T12:10:00Z");
    world.now = time("2026-12-20T12:00:00Z");
    world.job = planned(Some("daily"), 0);
    world.look();
    assert!(!world.is_due(), "nothing was missed");
    world.job = planned(None, 0);
    world.look();
    assert_eq!(world.next(), None);
    world.now = time("2027-03-01T12:00:00Z");
    world.job = planned(Some("daily"), 0);
    world.look();
    assert!(!world.is_due(), "it was not to run meanwhile");
}

#[test]
fn jitter_is_bounded_and_the_same_after_a_restart() {
    let mut world = World::new("hourly", 600, "2026-11-21T12:10:00Z");
    let mut delays = BTreeSet::new();
    for _ in 0..200 {
        let next = world.next().expect("due");
        world.restart();
        assert_eq!(world.next(), Some(next));
        let hour = next.as_second().rem_euclid(3600);
        assert!(hour <= 600, "{hour}");
        delays.insert(hour);
        world.now = next;
        assert!(world.run(1));
    }
    assert!(delays.len() > 100, "they differ: {}", delays.len());
}

#[test]
fn what_is_gone_is_forgotten() {
    let mut world = World::new("hourly", 0, "2026-11-21T12:10:00Z");
    world.now = time("2026-11-21T13:00:00Z");
    assert!(world.run(60));
    assert_eq!(
        std::fs::read_dir(world.dir.path()).expect("there").count(),
        1
    );
    let running = BTreeSet::from([world.job.key.clone()]);
    world.records.reconcile(&[], || running, world.now);
    assert!(world.records.get(&world.job.key).last_run.is_some());
    world.records.reconcile(&[], BTreeSet::new, world.now);
    assert!(world.records.get(&world.job.key).last_run.is_none());
    assert_eq!(
        std::fs::read_dir(world.dir.path()).expect("there").count(),
        0
    );
}

#[test]
fn a_damaged_record_is_a_job_that_is_new() {
    let mut world = World::new("hourly", 0, "2026-11-21T12:10:00Z");
    let file = world.dir.path().join("prune-nightly.json");
    std::fs::write(&file, "{\"since\": \"yesterd").expect("written");
    world.now = time("2026-11-21T15:10:00Z");
    world.restart();
    assert_eq!(world.next(), Some(time("2026-11-21T16:00:00Z")));
}

#[test]
fn a_job_runs_once_at_a_time() {
    let dir = tempfile::tempdir().expect("a directory");
    let jobs = Jobs::open(dir.path());
    let key = |id| JobKey::new(JobKind::Gc, id);
    let first = jobs.begin(&key("a")).expect("none runs");
    assert!(jobs.begin(&key("a")).is_none());
    assert!(jobs.begin(&JobKey::new(JobKind::Prune, "a")).is_some());
    assert!(jobs.begin(&key("b")).is_some());
    drop(first);
    assert!(jobs.begin(&key("a")).is_some());
}

#[test]
fn a_datastore_is_closed_only_when_no_task_works_with_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let jobs = Jobs::open(dir.path());
    let tasks = [jobs.use_store("a"), jobs.use_store("a")];
    assert!(tasks.iter().all(Option::is_some));
    assert!(jobs.keep_free("a").is_none());
    let other = jobs.keep_free("b").expect("nobody works with it");
    assert!(jobs.use_store("b").is_none());
    assert!(jobs.keep_free("b").is_none());
    drop((tasks, other));
    assert!(jobs.use_store("b").is_some());
    assert!(jobs.keep_free("a").is_some());
}

#[tokio::test]
async fn the_outcome_is_known_before_the_task_ends() {
    let dir = tempfile::tempdir().expect("a directory");
    let clock = crate::clock::TestClock::at(1_800_000_000).clock();
    let tasks = TaskRegistry::open(dir.path(), "host", clock).expect("opened");
    let start = TaskStart {
        kind: "prunejob",
        worker_id: "store1:nightly",
        user: AuthId::root(),
        store: None,
    };
    let task = tasks.start(&start).expect("started");
    task.warn("one");
    assert_eq!(task.outcome(&Ok(())), Outcome::Warnings(1));
    assert_eq!(task.outcome(&Err("no".to_owned())), Outcome::error("no"));
    let outcome = task.outcome(&Ok(()));
    assert_eq!(task.finish(Ok(())).await, outcome);
}
