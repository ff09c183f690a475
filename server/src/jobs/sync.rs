//! Sync: snapshots pulled from another datastore of this daemon or of another server, and pushed to another server (`pbs-interface.md` 8).
//!
//! A run does what its settings say: whoever may start it was looked at before.

use std::sync::Arc;

use pbs_datastore::{
    Datastore, DatastoreSource, DatastoreTarget, JobContext, SyncCounts, SyncOptions, SyncSource,
    SyncTarget, sync,
};

use super::estimate::say_copy;
use super::run::begin;
use super::{JobGuard, JobKey, StoreUser, launch, supervise};
use crate::api::ApiError;
use crate::auth::AuthId;
use crate::client::repository::{Access, Repository};
use crate::config::{Remote, SyncDirection, SyncJob};
use crate::daemon::Daemon;
use crate::pace::{Pace, Rate};
use crate::remote::{LIST_BYTES_MAX, RemoteSource, RemoteStore, RemoteTarget};
use crate::tasks::{Task, TaskStart, Upid};

/// The worker type of a run that somebody asked for.
const KIND: &str = "sync";
/// The worker type of a job's run.
const JOB_KIND: &str = "syncjob";

/// Starts a run that is no job's. An `estimate` only says what it would copy, and ask of buckets.
pub(crate) fn start(
    daemon: &Arc<Daemon>,
    job: &SyncJob,
    user: AuthId,
    estimate: bool,
) -> Result<Upid, ApiError> {
    let name = (KIND, place(job));
    launch_run(daemon, job, user, name, None, estimate)
}

/// Starts a run of a configured job.
pub(super) fn start_job(
    daemon: &Arc<Daemon>,
    key: &JobKey,
    user: AuthId,
    estimate: bool,
) -> Result<Upid, ApiError> {
    let config = daemon.config.read();
    let job = config.sync.get(&key.id);
    let job = job.ok_or_else(|| ApiError::bad_request(format!("there is no {key}")))?;
    let name = (JOB_KIND, format!("{}:{}", place(job), key.id));
    // An estimate is no run of the job.
    let key = (!estimate).then_some(key);
    launch_run(daemon, job, user, name, key, estimate)
}

/// Both ends, as the task's id has them.
fn place(job: &SyncJob) -> String {
    let remote = job.remote.as_deref().unwrap_or("-");
    format!(
        "{remote}:{}:{}:{}",
        job.remote_store, job.target.store, job.target.namespace
    )
}

fn launch_run(
    daemon: &Arc<Daemon>,
    job: &SyncJob,
    user: AuthId,
    (kind, worker_id): (&str, String),
    key: Option<&JobKey>,
    estimate: bool,
) -> Result<Upid, ApiError> {
    let ends = Ends::of(daemon, job)?;
    let guard: Option<JobGuard> = key.map(|key| begin(daemon, key)).transpose()?;
    let start = TaskStart {
        kind,
        worker_id: &worker_id,
        user,
        store: Some(&job.target.store),
    };
    let options = SyncOptions {
        estimate,
        ..options(job)
    };
    let owner = job.owner.clone();
    let launched = launch(daemon, &start, guard, move |daemon, task| {
        Box::pin(async move {
            let (ends, options) = (&ends, &options);
            let work = |job: JobContext| async move {
                let counts = ends.run(options, owner, daemon, &job).await;
                counts.map_err(|error| error.to_string())
            };
            let counts = supervise(task, &daemon.shutdown, work).await?;
            if estimate {
                ends.say(daemon, task, &counts);
            } else {
                say_counts(task, &counts);
            }
            end(task, &counts)
        })
    })?;
    Ok(launched.upid)
}

fn options(job: &SyncJob) -> SyncOptions {
    let (here, there) = (job.target.namespace.clone(), job.remote_namespace.clone());
    let (source, target) = match job.direction {
        SyncDirection::Pull => (there, here),
        SyncDirection::Push => (here, there),
    };
    SyncOptions {
        source,
        target,
        depth: job.target.depth(),
        groups: job.groups.clone(),
        transfer_last: job.transfer_last.map(|last| last as usize),
        resync_corrupt: job.resync_corrupt,
        encrypted_only: job.encrypted_only,
        verified_only: job.verified_only,
        remove_vanished: job.remove_vanished,
        workers: job.worker_threads as usize,
        estimate: false,
    }
}

/// The two ends of a run.
struct Ends {
    source: Box<dyn SyncSource>,
    target: TargetEnd,
    /// The source, if it is a datastore of this daemon.
    local: Option<Arc<Datastore>>,
    /// Keeps a local source open; the datastore of the task is kept by that.
    _used: Option<StoreUser>,
}

enum TargetEnd {
    Here(Arc<Datastore>),
    There(Arc<RemoteStore>),
}

impl Ends {
    fn of(daemon: &Arc<Daemon>, job: &SyncJob) -> Result<Self, ApiError> {
        let here = job.target.store.as_str();
        let Some(id) = &job.remote else {
            let there = job.remote_store.as_str();
            let used = daemon.jobs.use_store(there).ok_or_else(|| {
                ApiError::unavailable(format!(
                    "datastore '{there}' is being closed; try again in a moment"
                ))
            })?;
            let local = daemon.stores.get(there)?;
            return Ok(Self {
                source: Box::new(DatastoreSource::new(Arc::clone(&local))),
                target: TargetEnd::Here(writable(daemon, job, here)?),
                local: Some(local),
                _used: Some(used),
            });
        };
        let config = daemon.config.read();
        let remote = config.remotes.get(id).ok_or_else(|| no_remote(id))?;
        let pace = Pace::new(
            Rate::of(job.rate_in, job.burst_in),
            Rate::of(job.rate_out, job.burst_out),
        );
        let access = access(daemon, id, remote, &job.remote_store, pace)?;
        let store = RemoteStore::new(access, daemon.env.clone(), daemon.budget.clone());
        Ok(match job.direction {
            SyncDirection::Pull => Self {
                source: Box::new(RemoteSource(store)),
                target: TargetEnd::Here(writable(daemon, job, here)?),
                local: None,
                _used: None,
            },
            SyncDirection::Push => {
                let local = daemon.stores.get(here)?;
                Self {
                    source: Box::new(DatastoreSource::new(Arc::clone(&local))),
                    target: TargetEnd::There(store),
                    local: Some(local),
                    _used: None,
                }
            }
        })
    }

    /// Says what was found to be copied.
    fn say(&self, daemon: &Daemon, task: &Task, counts: &SyncCounts) {
        task.log(format!(
            "to be copied, at most: {} snapshots that are new and {} that are damaged, {} bytes",
            counts.added, counts.mended, counts.bytes
        ));
        let target = match &self.target {
            TargetEnd::Here(store) => Some(&**store),
            TargetEnd::There(_) => None,
        };
        let sides = (self.local.as_deref(), target);
        say_copy(daemon, task, sides, counts.bytes);
    }

    async fn run(
        &self,
        options: &SyncOptions,
        owner: pbs_datastore::AuthId,
        daemon: &Daemon,
        job: &JobContext,
    ) -> pbs_datastore::Result<SyncCounts> {
        let target: Box<dyn SyncTarget> = match &self.target {
            TargetEnd::Here(store) => {
                let (store, node) = (Arc::clone(store), &*daemon.hostname);
                Box::new(DatastoreTarget::new(store, owner, node))
            }
            TargetEnd::There(store) => tokio::select! {
                biased;
                target = RemoteTarget::connect(Arc::clone(store)) => Box::new(target?),
                () = job.stopped() => return Err(pbs_datastore::Error::Stopped),
            },
        };
        sync(&*self.source, &*target, options, &daemon.env, job).await
    }
}

/// The datastore to write to. Where something may be removed, also one whose snapshots may be.
fn writable(daemon: &Daemon, job: &SyncJob, name: &str) -> Result<Arc<Datastore>, ApiError> {
    let store = daemon.stores.get_writable(name)?;
    if job.remove_vanished {
        store.snapshots().collectable()?;
    }
    Ok(store)
}

/// The refusal of a remote that is not configured.
pub(crate) fn no_remote(id: &str) -> ApiError {
    ApiError::bad_request(format!("there is no remote '{id}'"))
}

/// How a datastore of a remote is entered.
pub(crate) fn access(
    daemon: &Daemon,
    id: &str,
    remote: &Remote,
    store: &str,
    pace: Pace,
) -> Result<Access, ApiError> {
    let secrets = daemon.secrets.read();
    let secret = secrets.remotes.get(id).ok_or_else(|| {
        ApiError::bad_request(format!(
            "the secrets file has no password for remote '{id}'; set one with: holdfast remote update {id} --password"
        ))
    })?;
    let datastore = store.parse();
    Ok(Access {
        repository: Repository {
            auth_id: remote.auth_id.clone(),
            host: remote.host.clone(),
            port: remote.port,
            datastore: datastore.map_err(|error| ApiError::bad_request(format!("{error}")))?,
        },
        secret: secret.reveal().to_owned(),
        fingerprint: remote.fingerprint,
        pace,
        answer_bytes_max: LIST_BYTES_MAX,
    })
}

/// What came of a run.
fn say_counts(task: &Task, counts: &SyncCounts) {
    task.log(format!(
        "groups: {}; snapshots copied: {}, refreshed: {}, mended: {}; chunks brought: {}, {} bytes, {} were there",
        counts.groups,
        counts.added,
        counts.refreshed,
        counts.mended,
        counts.chunks,
        counts.bytes,
        counts.known
    ));
    if counts.by_server > 0 {
        task.log(format!(
            "of the chunks brought, {} were copied by the S3 server, past this machine",
            counts.by_server
        ));
    }
    let removed = counts.removed_snapshots + counts.removed_groups + counts.removed_namespaces;
    if removed + counts.protected > 0 {
        task.log(format!(
            "gone at the source, removed: {} snapshots, {} groups, {} namespaces; kept because they are protected: {}",
            counts.removed_snapshots,
            counts.removed_groups,
            counts.removed_namespaces,
            counts.protected
        ));
    }
}

/// What somebody should know of a run, and whether it is an error.
fn end(task: &Task, counts: &SyncCounts) -> Result<(), String> {
    for warning in &counts.warnings {
        task.warn(warning);
    }
    match counts.failures.as_slice() {
        [] => Ok(()),
        [one] => Err(one.clone()),
        [first, rest @ ..] => Err(format!(
            "{first}; and {} more, see the task's log",
            rest.len()
        )),
    }
}
