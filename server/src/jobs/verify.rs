//! Verification: of each new snapshot once its session has ended (`verify-new`), of one snapshot, a group or a tree of
//! namespaces when somebody asks, and by jobs (`pbs-interface.md` 1.6, 7.4).
//!
//! At most [`TURNS`] snapshots are read at once; the others wait, and their tasks say so. A stop of the task or of the
//! daemon ends it without a result for the snapshot it is at.

use std::sync::Arc;

use jiff::Timestamp;
use pbs_datastore::{
    BackupGroup, BackupTime, Datastore, Error, GroupRef, JobContext, Namespace, SnapshotInfo,
    SnapshotRef, Verified, Verifier, VerifyFilter, VerifyLimits, VerifyOutcome,
};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::estimate::say_verification;
use super::run::begin;
use super::scope::{Scope, place};
use super::{JobKey, launch, stop_asked, supervise};
use crate::api::ApiError;
use crate::api::rule::VERIFY;
use crate::auth::{AuthId, Principal};
use crate::config::{SAMPLE_MAX, VerifyJob, unless_zero};
use crate::daemon::Daemon;
use crate::protocol::SessionSubject;
use crate::tasks::{Task, TaskLogger, TaskStart, Upid};

/// The worker types.
const KIND: &str = "verify";
const GROUP_KIND: &str = "verify_group";
const SNAPSHOT_KIND: &str = "verify_snapshot";
const JOB_KIND: &str = "verificationjob";
/// Snapshots in a row that cannot be read for an error of S3 or of a disk before a run gives up.
const ERRORS_IN_A_ROW_MAX: u32 = 3;
/// Snapshots that are read at once: more would only slow down each other and the backups.
pub(super) const TURNS: usize = 2;

/// Who may read now.
#[derive(Debug)]
pub(super) struct Turns(Semaphore);

impl Default for Turns {
    fn default() -> Self {
        Self(Semaphore::new(TURNS))
    }
}

/// What is to be verified.
#[derive(Debug, Clone)]
pub(crate) struct VerifyRequest {
    /// Where.
    pub(crate) namespace: Namespace,
    /// Levels below it.
    pub(crate) depth: usize,
    /// Only this group of the namespace.
    pub(crate) group: Option<BackupGroup>,
    /// Only this snapshot of the group.
    pub(crate) time: Option<BackupTime>,
    /// Which of them need it.
    pub(crate) filter: VerifyFilter,
    /// What it may cost.
    pub(crate) limits: VerifyLimits,
    /// How many days a chunk that was found good is not read again; `None` reads every chunk once.
    pub(crate) reread_after: Option<u64>,
    /// How many of 100 chunks are read. With fewer than all, every snapshot is looked at, whatever the filter says.
    pub(crate) sample: u64,
    /// On behalf of whom.
    pub(crate) scope: Scope,
    /// Only say what would be asked of the bucket.
    pub(crate) estimate: bool,
}

impl VerifyRequest {
    /// A configured job's; `who` bounds it.
    fn of_job(job: &VerifyJob, who: Option<&Principal>) -> Self {
        Self {
            namespace: job.target.namespace.clone(),
            depth: job.target.depth(),
            group: None,
            time: None,
            filter: VerifyFilter {
                ignore_verified: job.ignore_verified,
                outdated_after: job.outdated_after,
            },
            limits: VerifyLimits {
                bytes_max: unless_zero(job.bytes_max.get()),
                chunks_max: unless_zero(job.requests_max),
            },
            reread_after: unless_zero(job.reread_after),
            sample: job.sample,
            scope: Scope::of(who, VERIFY),
            estimate: false,
        }
    }

    /// A new snapshot's.
    fn of_snapshot(subject: &SessionSubject) -> Self {
        Self {
            namespace: subject.namespace.clone(),
            depth: 0,
            group: Some(subject.snapshot.group.clone()),
            time: Some(subject.snapshot.time),
            filter: VerifyFilter {
                ignore_verified: false,
                outdated_after: None,
            },
            limits: VerifyLimits::default(),
            reread_after: None,
            sample: SAMPLE_MAX,
            scope: Scope::All,
            estimate: false,
        }
    }

    /// Worker type and id of a run that is no job's.
    fn name(&self, store: &str) -> (&'static str, String) {
        let place = place(store, &self.namespace);
        match (&self.group, self.time) {
            (Some(group), Some(time)) => {
                let time = time.seconds();
                (SNAPSHOT_KIND, format!("{place}:{group}/{time:08X}"))
            }
            (Some(group), None) => (GROUP_KIND, format!("{place}:{group}")),
            (None, _) => (KIND, place),
        }
    }
}

/// Begins to verify the snapshot of a session that has ended, if its datastore is set to `verify-new`.
pub(crate) fn verify_new(daemon: &Arc<Daemon>, subject: &SessionSubject) {
    let name = subject.store.as_str();
    let settings = daemon.config.read();
    let wanted = settings.datastores.get(name);
    if !wanted.is_some_and(|settings| settings.verify_new) {
        return;
    }
    let started = daemon.stores.get_writable(name).and_then(|store| {
        let start = TaskStart {
            kind: KIND,
            worker_id: &subject.worker_id(),
            user: subject.author.clone(),
            store: Some(name),
        };
        let request = VerifyRequest::of_snapshot(subject);
        launch_run(daemon, &start, None, store, request)
    });
    // A daemon that stops leaves the snapshot as it is: not verified.
    if let Err(error) = started
        && !daemon.shutdown.is_requested()
    {
        let snapshot = &subject.snapshot;
        tracing::error!(datastore = name, %snapshot, %error, "the new snapshot cannot be verified");
    }
}

/// Starts a run that somebody asked for.
pub(crate) fn start(
    daemon: &Arc<Daemon>,
    store: Arc<Datastore>,
    request: VerifyRequest,
    user: AuthId,
) -> Result<Upid, ApiError> {
    let name = store.name().as_str().to_owned();
    let (kind, worker_id) = request.name(&name);
    let start = TaskStart {
        kind,
        worker_id: &worker_id,
        user,
        store: Some(&name),
    };
    launch_run(daemon, &start, None, store, request)
}

/// Starts a run of a configured job.
pub(super) fn start_job(
    daemon: &Arc<Daemon>,
    key: &JobKey,
    user: AuthId,
    who: Option<&Principal>,
    estimate: bool,
) -> Result<Upid, ApiError> {
    let config = daemon.config.read();
    let job = config.verify.get(&key.id);
    let job = job.ok_or_else(|| ApiError::bad_request(format!("there is no {key}")))?;
    let name = job.target.store.as_str();
    let store = daemon.stores.get_writable(name)?;
    let start = TaskStart {
        kind: JOB_KIND,
        worker_id: &format!("{name}:{}", key.id),
        user,
        store: Some(name),
    };
    let request = VerifyRequest {
        estimate,
        ..VerifyRequest::of_job(job, who)
    };
    // An estimate is no run of the job.
    let key = (!estimate).then_some(key);
    launch_run(daemon, &start, key, store, request)
}

fn launch_run(
    daemon: &Arc<Daemon>,
    start: &TaskStart<'_>,
    key: Option<&JobKey>,
    store: Arc<Datastore>,
    request: VerifyRequest,
) -> Result<Upid, ApiError> {
    let guard = key.map(|key| begin(daemon, key)).transpose()?;
    let launched = launch(daemon, start, guard, move |daemon, task| {
        Box::pin(async move {
            let work = |job| async move {
                let mut run = Run::new(daemon, task, store, &request, job);
                let verified = run.verify(&request).await;
                if request.estimate {
                    return verified.map_err(|error| error.to_string());
                }
                run.verifier.end(&run.job).await;
                let told = run.end();
                verified.map_err(|error| error.to_string()).and(told)
            };
            supervise(task, &daemon.shutdown, work).await
        })
    })?;
    Ok(launched.upid)
}

/// One run, and what came of it so far.
struct Run<'a> {
    daemon: &'a Daemon,
    task: &'a Task,
    logger: TaskLogger,
    store: Arc<Datastore>,
    verifier: Verifier,
    job: JobContext,
    good: u64,
    /// All there, and not all of it read.
    present: u64,
    /// Removed meanwhile, or being removed.
    gone: u64,
    failed: Vec<SnapshotRef>,
    /// Left as they are, for an error on the way to them.
    errors: u64,
    errors_in_a_row: u32,
}

impl<'a> Run<'a> {
    fn new(
        daemon: &'a Daemon,
        task: &'a Task,
        store: Arc<Datastore>,
        request: &VerifyRequest,
        job: JobContext,
    ) -> Self {
        Self {
            verifier: Verifier::new(Arc::clone(&store))
                .within(request.limits)
                .trusting(request.reread_after)
                .sampling(request.sample),
            logger: task.logger(),
            daemon,
            task,
            store,
            job,
            good: 0,
            present: 0,
            gone: 0,
            failed: Vec::new(),
            errors: 0,
            errors_in_a_row: 0,
        }
    }

    async fn verify(&mut self, request: &VerifyRequest) -> pbs_datastore::Result<()> {
        let all = self.snapshots(request).await?;
        let count = all.len();
        let mut filter = request.filter;
        // What only a part was read of has no result to go by.
        filter.ignore_verified &= request.sample >= SAMPLE_MAX;
        let selected = filter.select(all, self.daemon.clock.now(), verified_at);
        let total = selected.len();
        self.logger.log(format!(
            "{total} of {count} snapshots are to be verified{}{}",
            sample(request.sample),
            limits(request.limits)
        ));
        let bounds = (request.sample, request.limits);
        say_verification(self.daemon, self.task, &self.store, &selected, bounds);
        if request.estimate {
            return Ok(());
        }
        let upid = self.task.upid().to_string();
        for (done, info) in selected.iter().enumerate() {
            self.job.check()?;
            let _turn = self.turn().await?;
            let verified = self.verifier.verify(&info.id, &upid, &self.job).await;
            if let Ok(Verified::Done(_) | Verified::Present) = &verified {
                self.errors_in_a_row = 0;
            }
            match verified {
                Ok(Verified::Done(VerifyOutcome::Ok)) => self.good += 1,
                Ok(Verified::Present) => self.present += 1,
                Ok(Verified::Done(VerifyOutcome::Failed)) => self.failed.push(info.id.clone()),
                Ok(Verified::OutOfLimits) => {
                    self.logger.log(format!(
                        "the limits of this run are used up: {} snapshots are left for the next one",
                        total - done
                    ));
                    return Ok(());
                }
                Err(error @ (Error::NotFound(_) | Error::Busy(_))) => {
                    self.logger
                        .log(format!("{} is passed over: {error}", info.id));
                    self.gone += 1;
                }
                Err(error) => self.note_error(&info.id, error)?,
            }
            self.logger
                .log(format!("{} of {total} snapshots done", done + 1));
        }
        Ok(())
    }

    /// An error on the way to a snapshot says nothing about it; the others may be reached. Not after several in a row, nor
    /// when the run is to end.
    fn note_error(&mut self, id: &SnapshotRef, error: Error) -> pbs_datastore::Result<()> {
        self.errors += 1;
        self.errors_in_a_row += 1;
        if matches!(error, Error::Stopped | Error::Closing)
            || self.errors_in_a_row >= ERRORS_IN_A_ROW_MAX
        {
            return Err(error);
        }
        self.logger.warn(format!(
            "{id} cannot be verified and is left as it is: {error}"
        ));
        Ok(())
    }

    /// All snapshots that are meant.
    async fn snapshots(&self, request: &VerifyRequest) -> pbs_datastore::Result<Vec<SnapshotInfo>> {
        let snapshots = self.store.snapshots();
        let groups: Vec<GroupRef> = if let Some(group) = &request.group {
            // Whoever asks was looked at before.
            vec![GroupRef::new(request.namespace.clone(), group.clone())]
        } else {
            let (authority, depth) = (&self.daemon.authority, request.depth);
            let scope = &request.scope;
            let groups = scope.groups(authority, &self.store, &request.namespace, depth);
            groups.await?.into_iter().map(|group| group.id).collect()
        };
        let mut all = Vec::new();
        for group in groups {
            let infos = snapshots.group_snapshots(&group).await?;
            let meant =
                |info: &SnapshotInfo| request.time.is_none_or(|t| t == info.id.snapshot.time);
            all.extend(infos.into_iter().filter(meant));
        }
        Ok(all)
    }

    /// Waits until few enough read.
    async fn turn(&self) -> pbs_datastore::Result<SemaphorePermit<'a>> {
        let turns = &self.daemon.jobs.turns().0;
        if turns.available_permits() == 0 {
            self.logger.log("waiting for other verifications");
        }
        tokio::select! {
            turn = turns.acquire() => turn.map_err(|_| Error::Stopped),
            () = stop_asked(self.task, &self.daemon.shutdown) => Err(Error::Stopped),
        }
    }

    fn end(self) -> Result<(), String> {
        let counts = self.verifier.counts();
        self.logger.log(format!(
            "good: {}, failed: {}, passed over: {}; chunks read: {}, {} bytes; not read again: {}",
            self.good,
            self.failed.len(),
            self.gone,
            counts.chunks,
            counts.bytes,
            counts.trusted
        ));
        if self.present > 0 || counts.present > 0 {
            self.logger.log(format!(
                "there: {} snapshots; chunks only looked for: {}",
                self.present, counts.present
            ));
        }
        for id in &self.failed {
            self.logger.log(format!("failed: {id}"));
        }
        match self.failed.as_slice() {
            [] if self.errors > 0 => Err(format!(
                "{} snapshots could not be verified; see the task's log",
                self.errors
            )),
            [] => Ok(()),
            [id] => Err(format!("verification of snapshot {id} failed")),
            all => Err(format!(
                "verification of {} snapshots failed; see the task's log",
                all.len()
            )),
        }
    }
}

fn sample(percent: u64) -> String {
    match percent {
        SAMPLE_MAX.. => String::new(),
        0 => ", by the list of what is stored".to_owned(),
        percent => {
            format!(", {percent} % of their chunks; the others by the list of what is stored")
        }
    }
}

fn limits(limits: VerifyLimits) -> String {
    let said = [(limits.bytes_max, "bytes"), (limits.chunks_max, "chunks")];
    let said = said.into_iter();
    said.filter_map(|(max, what)| Some(format!(", at most {} {what}", max?)))
        .collect()
}

/// When a result is from: its task's name says it.
fn verified_at(upid: &str) -> Option<Timestamp> {
    let upid: Upid = upid.parse().ok()?;
    Timestamp::from_second(upid.start_time()).ok()
}
