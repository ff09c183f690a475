//! Jobs: `/config/{prune,verify}`, which are configured; `/admin/{gc,prune,verify}`, how they stand; and their runs.
//!
//! One sees the jobs of datastores that one may audit, and changes and runs those whose work one could ask for by hand: with
//! `Datastore.Modify`, for verification `Datastore.Verify`, on the namespace. What a job is set to do needs that on all of its
//! tree, since the schedule runs it as the superuser; a run by hand goes as far as the caller's rights. All calls of one kind
//! are made from one table.

use std::future::ready;
use std::sync::Arc;

use http::Method;
use jiff::tz::TimeZone;
use pbs_datastore::{DatastoreName, NAMESPACE_DEPTH_MAX, Namespace};
use serde_json::{Value, json};

use super::call::{Access, Call, CallResult, Endpoint, RouteEntry, data, done};
use super::envelope::Reply;
use super::error::ApiError;
use super::respond::blocking;
use super::rule::require;
use super::settings::{Settings, given_and_deleted, take_name};
use crate::auth::{AclPath, Principal, Privilege};
use crate::config::{self, Config, ConfigError, JobTarget};
use crate::daemon::Daemon;
use crate::jobs::verify::unless_zero;
use crate::jobs::{JobKey, JobKind, PlannedJob, next_run, start};

/// A kind of jobs that are sections of the configuration.
struct Section {
    kind: JobKind,
    /// `/config/KIND`, `/config/KIND/{id}`, `/admin/KIND`, `/admin/KIND/{id}/run`.
    paths: [&'static str; 4],
    texts: &'static [&'static str],
    numbers: &'static [&'static str],
    sizes: &'static [&'static str],
    flags: &'static [&'static str],
    /// Known elsewhere, and the daemon's own matter here.
    ignored: &'static [&'static str],
    /// What whoever changes or runs a job needs.
    privilege: Privilege,
}

static PRUNE: Section = Section {
    kind: JobKind::Prune,
    paths: [
        "config/prune",
        "config/prune/{id}",
        "admin/prune",
        "admin/prune/{id}/run",
    ],
    texts: &["store", "ns", "schedule", "comment"],
    numbers: &[
        "max-depth",
        "jitter-seconds",
        "keep-last",
        "keep-hourly",
        "keep-daily",
        "keep-weekly",
        "keep-monthly",
        "keep-yearly",
    ],
    sizes: &[],
    flags: &["disable"],
    ignored: &[],
    privilege: Privilege::DatastoreModify,
};

static VERIFY: Section = Section {
    kind: JobKind::Verify,
    paths: [
        "config/verify",
        "config/verify/{id}",
        "admin/verify",
        "admin/verify/{id}/run",
    ],
    texts: &["store", "ns", "schedule", "comment"],
    numbers: &[
        "max-depth",
        "jitter-seconds",
        "outdated-after",
        "reread-after",
        "requests-max",
    ],
    sizes: &["bytes-max"],
    flags: &["disable", "ignore-verified"],
    ignored: &["read-threads", "verify-threads"],
    privilege: Privilege::DatastoreVerify,
};

/// All calls about jobs.
pub(super) fn rows() -> Vec<RouteEntry> {
    let mut rows = Vec::new();
    for section in [&PRUNE, &VERIFY] {
        let [all, one, state, run_path] = section.paths;
        rows.extend([
            row(Method::GET, all, move |d, c| ready(list(section, &d, c))),
            row(Method::POST, all, move |d, c| create(section, d, c)),
            row(Method::GET, one, move |d, c| ready(show(section, &d, c))),
            row(Method::PUT, one, move |d, c| update(section, d, c)),
            row(Method::DELETE, one, move |d, c| remove(section, d, c)),
            row(Method::GET, state, move |d, c| {
                ready(states(section.kind, &d, c))
            }),
            row(Method::POST, run_path, move |d, c| {
                ready(run(section, &d, c))
            }),
        ]);
    }
    rows.push(row(Method::GET, "admin/gc", |d, c| {
        ready(states(JobKind::Gc, &d, c))
    }));
    rows
}

fn row<F, R>(method: Method, path: &'static str, run: F) -> RouteEntry
where
    F: Fn(Arc<Daemon>, Call) -> R + Send + Sync + 'static,
    R: Future<Output = CallResult> + Send + 'static,
{
    (method, path, Endpoint::new(Access::Known, run))
}

impl Section {
    fn name(&self) -> &'static str {
        self.kind.name()
    }

    fn none(&self, id: &str) -> ApiError {
        ApiError::bad_request(format!("there is no {}", JobKey::new(self.kind, id)))
    }

    /// Every setting that a change may name.
    fn properties(&self) -> impl Iterator<Item = &'static str> {
        [self.texts, self.numbers, self.sizes, self.flags]
            .into_iter()
            .flatten()
            .copied()
    }

    fn take(&self, call: &mut Call) -> Result<Settings, ApiError> {
        let mut settings = Settings::default();
        call.params.ignore(self.ignored);
        settings.take_texts(&mut call.params, self.texts)?;
        settings.take_numbers(&mut call.params, self.numbers)?;
        settings.take_sizes(&mut call.params, self.sizes)?;
        for flag in self.flags {
            settings.take_flag(&mut call.params, flag)?;
        }
        Ok(settings)
    }

    /// The target of a job that the caller may change and run: what is below its namespace does not count, for it may be made
    /// smaller, and run as far as the own rights go. To whoever does not even see it there is no such job.
    fn demand_job<'a>(
        &self,
        daemon: &Daemon,
        who: &Principal,
        config: &'a Config,
        id: &str,
    ) -> Result<&'a JobTarget, ApiError> {
        let target = target(config, self.kind, id).ok_or_else(|| self.none(id))?;
        match self.demand(daemon, who, &target.store, &target.namespace, 0) {
            Ok(()) => Ok(target),
            Err(refusal) if sees(daemon, who, &target.store) => Err(refusal),
            Err(_) => Err(self.none(id)),
        }
    }

    /// Refuses whoever may not do by hand what a job does that works here, `depth` levels deep.
    fn demand(
        &self,
        daemon: &Daemon,
        who: &Principal,
        store: &str,
        namespace: &Namespace,
        depth: usize,
    ) -> Result<(), ApiError> {
        let path = AclPath::namespace(store, &namespace.to_string());
        let authority = &daemon.authority;
        require(authority, who, &path, &[self.privilege])?;
        if depth == 0 || authority.allowed_everywhere(who, &path, self.privilege) {
            return Ok(());
        }
        Err(ApiError::forbidden(format!(
            "permission check failed: {} is needed on all of {path}; or set max-depth to 0",
            self.privilege.name()
        )))
    }
}

/// Where a job works.
fn target<'a>(config: &'a Config, kind: JobKind, id: &str) -> Option<&'a JobTarget> {
    match kind {
        JobKind::Gc => None,
        JobKind::Prune => config.prune.get(id).map(|job| &job.target),
        JobKind::Verify => config.verify.get(id).map(|job| &job.target),
    }
}

/// A job as it is configured; defaults are left out.
fn entry(config: &Config, kind: JobKind, id: &str) -> Value {
    let mut entry = json!({});
    match (kind, target(config, kind, id)) {
        (JobKind::Gc, _) | (_, None) => {
            entry["store"] = json!(id);
            if let Some(datastore) = config.datastores.get(id) {
                set(
                    &mut entry,
                    "schedule",
                    datastore.gc_schedule.as_ref().map(ToString::to_string),
                );
                set(
                    &mut entry,
                    "jitter-seconds",
                    unless_zero(datastore.gc_jitter_seconds),
                );
            }
        }
        (_, Some(target)) => {
            entry["id"] = json!(id);
            entry["store"] = json!(target.store);
            let namespace = (!target.namespace.is_root()).then(|| target.namespace.to_string());
            set(&mut entry, "ns", namespace);
            set(&mut entry, "max-depth", target.max_depth);
            set(
                &mut entry,
                "schedule",
                target.schedule.as_ref().map(ToString::to_string),
            );
            set(
                &mut entry,
                "jitter-seconds",
                unless_zero(target.jitter_seconds),
            );
            set(&mut entry, "disable", target.disable.then_some(true));
            set(&mut entry, "comment", target.comment.as_deref());
        }
    }
    if let (JobKind::Prune, Some(job)) = (kind, config.prune.get(id)) {
        for (name, count) in job.keep.named() {
            set(&mut entry, name, count);
        }
    }
    if let (JobKind::Verify, Some(job)) = (kind, config.verify.get(id)) {
        entry["ignore-verified"] = json!(job.ignore_verified);
        set(&mut entry, "outdated-after", job.outdated_after);
        entry["reread-after"] = json!(job.reread_after);
        set(&mut entry, "bytes-max", unless_zero(job.bytes_max.get()));
        set(&mut entry, "requests-max", unless_zero(job.requests_max));
    }
    entry
}

fn set<T: serde::Serialize>(entry: &mut Value, name: &str, value: Option<T>) {
    if let Some(value) = value {
        entry[name] = json!(value);
    }
}

/// How a job's last run ended, and when the next one is due.
pub(super) fn describe_run(daemon: &Daemon, job: &PlannedJob, entry: &mut Value) {
    let record = daemon.jobs.record(&job.key);
    let next = next_run(job, &record, &TimeZone::system());
    set(entry, "next-run", next.map(jiff::Timestamp::as_second));
    if let Some(run) = record.last_run {
        entry["last-run-upid"] = json!(run.upid);
        set(
            entry,
            "last-run-endtime",
            run.end.map(jiff::Timestamp::as_second),
        );
        set(entry, "last-run-state", run.state);
        let seconds = run
            .end
            .map(|end| end.duration_since(run.start).as_secs().max(0));
        set(entry, "duration", seconds);
    }
}

/// Whether `who` sees the jobs of a datastore.
fn sees(daemon: &Daemon, who: &Principal, store: &str) -> bool {
    let path = AclPath::datastore(store);
    daemon
        .authority
        .allowed(who, &path, Privilege::DatastoreAudit)
}

/// The jobs of one kind that the caller sees, of one datastore if one is named.
fn visible(
    daemon: &Daemon,
    kind: JobKind,
    config: &Config,
    call: &mut Call,
) -> Result<Vec<PlannedJob>, ApiError> {
    let store: Option<DatastoreName> = call.params.optional("store")?;
    let who = call.who()?;
    let meant = |job: &PlannedJob| {
        store
            .as_ref()
            .is_none_or(|store| store.as_str() == job.store)
            && sees(daemon, who, &job.store)
    };
    let jobs = PlannedJob::of_kind(config, kind);
    Ok(jobs.into_iter().filter(meant).collect())
}

/// `GET /config/{kind}`
fn list(section: &Section, daemon: &Arc<Daemon>, mut call: Call) -> CallResult {
    let config = daemon.config.read();
    let jobs = visible(daemon, section.kind, &config, &mut call)?;
    call.params.finish()?;
    let entries: Vec<Value> = jobs
        .iter()
        .map(|job| entry(&config, section.kind, &job.key.id))
        .collect();
    Ok(Reply::new(&entries)?.with("digest", &config.digest)?.into())
}

/// `GET /admin/{kind}`: the same, with how they stand.
fn states(kind: JobKind, daemon: &Arc<Daemon>, mut call: Call) -> CallResult {
    let config = daemon.config.read();
    let jobs = visible(daemon, kind, &config, &mut call)?;
    call.params.finish()?;
    let entries: Vec<Value> = jobs
        .iter()
        .map(|job| {
            let mut entry = entry(&config, kind, &job.key.id);
            describe_run(daemon, job, &mut entry);
            entry
        })
        .collect();
    Ok(Reply::new(&entries)?.with("digest", &config.digest)?.into())
}

/// `GET /config/{kind}/{id}`
fn show(section: &Section, daemon: &Arc<Daemon>, mut call: Call) -> CallResult {
    let id: String = call.params.required("id")?;
    let who = call.who()?.clone();
    call.params.finish()?;
    let config = daemon.config.read();
    let target = target(&config, section.kind, &id);
    let target = target.filter(|target| sees(daemon, &who, &target.store));
    if target.is_none() {
        return Err(section.none(&id));
    }
    let entry = entry(&config, section.kind, &id);
    Ok(Reply::new(&entry)?.with("digest", &config.digest)?.into())
}

/// Takes where a new or changed job is to work.
fn take_target(settings: &Settings) -> Result<(Option<String>, Option<Namespace>), ApiError> {
    let namespace = settings.text("ns").map(str::parse).transpose();
    let namespace = namespace.map_err(|error| {
        ApiError::bad_request(format!("parameter verification failed: 'ns': {error}"))
    })?;
    Ok((settings.text("store").map(str::to_owned), namespace))
}

/// How many levels below its namespace a job is set to work.
fn depth_of(settings: &Settings) -> Option<usize> {
    let depth = settings.number("max-depth")?;
    Some(usize::try_from(depth).unwrap_or(NAMESPACE_DEPTH_MAX))
}

/// The content of the configuration by which rights were looked at, if it is what the caller has seen.
fn seen_by(caller: Option<&str>, known: &Config) -> Result<String, ApiError> {
    if caller.is_some_and(|seen| seen != known.digest) {
        return Err(ConfigError::Changed.into());
    }
    Ok(known.digest.clone())
}

/// `POST /config/{kind}`
async fn create(section: &'static Section, daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let id = take_name(&mut call.params, "id")?;
    let digest: Option<String> = call.params.optional("digest")?;
    let settings = section.take(&mut call)?;
    let (store, namespace) = take_target(&settings)?;
    let store = store.ok_or_else(|| {
        ApiError::bad_request("parameter verification failed: 'store' is missing")
    })?;
    let (namespace, depth) = (namespace.unwrap_or_default(), depth_of(&settings));
    let depth = depth.unwrap_or(NAMESPACE_DEPTH_MAX);
    section.demand(&daemon, call.who()?, &store, &namespace, depth)?;
    call.params.finish()?;
    let config = daemon.config.clone();
    blocking(move || {
        config.edit(digest.as_deref(), |document| {
            let name = section.name();
            if config::has_section(document, name, &id) {
                return Err(format!(
                    "the {} exists already",
                    JobKey::new(section.kind, &id)
                ));
            }
            settings.write(config::section(document, name, &id)?);
            Ok(())
        })
    })
    .await?;
    daemon.jobs.look_again();
    done()
}

/// `PUT /config/{kind}/{id}`: changes the settings that are given, and sets those named in `delete` back to their defaults.
async fn update(section: &'static Section, daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let id: String = call.params.required("id")?;
    let digest: Option<String> = call.params.optional("digest")?;
    let settings = section.take(&mut call)?;
    let unset = call.params.list::<String>("delete", 64)?;
    for name in &unset {
        if !section.properties().any(|known| known == name) || name == "store" {
            return Err(ApiError::bad_request(format!(
                "parameter verification failed: 'delete': '{name}' is no setting that can be taken away"
            )));
        }
    }
    if let Some(twice) = settings
        .names()
        .find(|name| unset.iter().any(|gone| gone == name))
    {
        return Err(given_and_deleted(twice));
    }
    let (store, namespace) = take_target(&settings)?;
    let who = call.who()?.clone();
    call.params.finish()?;
    let known = daemon.config.read();
    let before = section.demand_job(&daemon, &who, &known, &id)?;
    let gone = |name: &str| unset.iter().any(|gone| gone == name);
    let namespace = if gone("ns") {
        Namespace::root()
    } else {
        namespace.unwrap_or_else(|| before.namespace.clone())
    };
    let depth = if gone("max-depth") {
        NAMESPACE_DEPTH_MAX
    } else {
        depth_of(&settings).unwrap_or_else(|| before.depth())
    };
    let store = store.unwrap_or_else(|| before.store.clone());
    section.demand(&daemon, &who, &store, &namespace, depth)?;
    let (config, seen) = (daemon.config.clone(), seen_by(digest.as_deref(), &known)?);
    blocking(move || {
        // Rights were looked at for the job as it was.
        config.edit(Some(&seen), |document| {
            let table = config::section(document, section.name(), &id)?;
            for name in &unset {
                config::set(table, name, None::<toml_edit::Value>);
            }
            settings.write(table);
            Ok(())
        })
    })
    .await?;
    daemon.jobs.look_again();
    done()
}

/// `DELETE /config/{kind}/{id}`. A run that is under way goes on.
async fn remove(section: &'static Section, daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let id: String = call.params.required("id")?;
    let digest: Option<String> = call.params.optional("digest")?;
    let who = call.who()?.clone();
    call.params.finish()?;
    let known = daemon.config.read();
    section.demand_job(&daemon, &who, &known, &id)?;
    let (config, seen) = (daemon.config.clone(), seen_by(digest.as_deref(), &known)?);
    blocking(move || {
        config.edit(Some(&seen), |document| {
            config::remove(document, section.name(), &id);
            Ok(())
        })
    })
    .await?;
    daemon.jobs.look_again();
    done()
}

/// `POST /admin/{kind}/{id}/run`: answers the task's id.
fn run(section: &Section, daemon: &Arc<Daemon>, mut call: Call) -> CallResult {
    let id: String = call.params.required("id")?;
    let who = call.who()?.clone();
    call.params.finish()?;
    let config = daemon.config.read();
    section.demand_job(daemon, &who, &config, &id)?;
    data(&start(daemon, &JobKey::new(section.kind, &id), Some(&who))?)
}
