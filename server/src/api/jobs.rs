//! Jobs: `/config/{prune,verify,sync}`, which are configured; `/admin/{gc,prune,verify,sync}`, how they stand; and their runs. All
//! calls of one kind are made from one table.

mod entry;
mod rights;
mod section;

use std::future::ready;
use std::sync::Arc;

use http::Method;
use jiff::tz::TimeZone;
use pbs_datastore::DatastoreName;
use serde_json::{Value, json};

use self::entry::{entry, set};
pub(super) use self::rights::{Extent, demand};
use self::section::Section;
pub(super) use self::section::{COPY, HERE};
use super::call::{Access, Call, CallResult, Endpoint, RouteEntry, data, done};
use super::declared::{Declared, NOTHING, TASK, configured};
use super::envelope::Reply;
use super::error::ApiError;
use super::parameter::{DIGEST, ESTIMATE, OF_STORE, Parameter, delete, text};
use super::respond::blocking;
use super::settings::{check_unset, names, take_name};
use super::shape::{Member, Shape, always, maybe};
use crate::config::{self, Config, ConfigError};
use crate::daemon::Daemon;
use crate::jobs::{JobKey, JobKind, PlannedJob, next_run, start};

/// How a job stands.
pub(super) const RUN: &[Member] = &[
    maybe("next-run", Shape::Integer),
    maybe("last-run-upid", Shape::Upid),
    maybe("last-run-endtime", Shape::Integer),
    maybe("last-run-state", Shape::Text),
    maybe("duration", Shape::Integer),
];
/// The collection of a datastore as a job.
const COLLECTION: Shape = Shape::Object(&[
    &[
        always("store", Shape::Text),
        maybe("schedule", Shape::Text),
        maybe("jitter-seconds", Shape::Integer),
    ],
    RUN,
]);
const ID: Parameter = text("id", "The id of the job").required();
/// Most names that a change may take away.
const DELETE_MAX: usize = 64;

/// All calls about jobs.
pub(super) fn rows() -> Vec<RouteEntry> {
    let mut rows: Vec<RouteEntry> = section::ALL.iter().flat_map(rows_of).collect();
    let declared = Declared::new(
        "Lists the collections of datastores, and how they stand",
        &[&[OF_STORE]],
        configured(Shape::List(&COLLECTION)),
    );
    rows.push(row(Method::GET, "admin/gc", declared, |d, c| {
        ready(states(JobKind::Gc, &d, c))
    }));
    rows
}

fn rows_of(section: &'static Section) -> [RouteEntry; 7] {
    let [all, one, state, run_path] = section.paths;
    let says = |what: &str, parameters: &[&[Parameter]], returns| {
        let summary = what.replace("KIND", section.name());
        Declared::new(summary, parameters, returns)
    };
    let with_settings = |own: &[Parameter]| [&[own], section.settings].concat().concat();
    let created = with_settings(&[ID, DIGEST]);
    let changed = with_settings(&[ID, DIGEST, delete(DELETE_MAX)]);
    [
        row(
            Method::GET,
            all,
            says(
                "Lists the KIND jobs that the caller sees",
                &[&[OF_STORE]],
                configured(Shape::List(&section.entry)),
            ),
            move |d, c| ready(list(section, &d, c)),
        ),
        row(
            Method::POST,
            all,
            says("Adds a KIND job", &[&created], NOTHING).requiring(&["store"]),
            move |d, c| create(section, d, c),
        ),
        row(
            Method::GET,
            one,
            says("Shows a KIND job", &[&[ID]], configured(section.entry)),
            move |d, c| ready(show(section, &d, c)),
        ),
        row(
            Method::PUT,
            one,
            says("Changes a KIND job", &[&changed], NOTHING),
            move |d, c| update(section, d, c),
        ),
        row(
            Method::DELETE,
            one,
            says(
                "Removes a KIND job; a run of it goes on",
                &[&[ID, DIGEST]],
                NOTHING,
            ),
            move |d, c| remove(section, d, c),
        ),
        row(
            Method::GET,
            state,
            says(
                "Lists the KIND jobs that the caller sees, and how they stand",
                &[&[OF_STORE]],
                configured(Shape::List(&section.state)),
            ),
            move |d, c| ready(states(section.kind, &d, c)),
        ),
        row(
            Method::POST,
            run_path,
            says("Runs a KIND job now", &[&[ID, ESTIMATE]], TASK),
            move |d, c| ready(run(section, &d, c)),
        ),
    ]
}

fn row<F, R>(method: Method, path: &'static str, declared: Declared, run: F) -> RouteEntry
where
    F: Fn(Arc<Daemon>, Call) -> R + Send + Sync + 'static,
    R: Future<Output = CallResult> + Send + 'static,
{
    (method, path, Endpoint::new(Access::Known, declared, run))
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
            && rights::sees(daemon, who, &entry(config, kind, &job.key.id))
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
    let entry = section.find(&config, &id)?;
    if !rights::sees(daemon, &who, &entry) {
        return Err(section.none(&id));
    }
    Ok(Reply::new(&entry)?.with("digest", &config.digest)?.into())
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
    let job = settings.over(json!({}), &[]);
    if job["store"].is_null() {
        return Err(ApiError::bad_request(
            "parameter verification failed: 'store' is missing",
        ));
    }
    rights::demand(&daemon, call.who()?, section.kind, &job, Extent::Whole)?;
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
    let unset = call.params.list::<String>("delete", DELETE_MAX)?;
    let mut optional = names(section.settings);
    optional.retain(|name| *name != "store");
    check_unset(&settings, &unset, &optional)?;
    let who = call.who()?.clone();
    call.params.finish()?;
    let known = daemon.config.read();
    let before = section.demand_job(&daemon, &who, &known, &id)?;
    let job = settings.over(before, &unset);
    rights::demand(&daemon, &who, section.kind, &job, Extent::Whole)?;
    let (config, seen) = (daemon.config.clone(), seen_by(digest.as_deref(), &known)?);
    blocking(move || {
        // Rights were looked at for the job as it was.
        config.edit(Some(&seen), |document| {
            let table = config::section(document, section.name(), &id)?;
            settings.change(table, &unset);
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

/// `POST /admin/{kind}/{id}/run`: answers the task's id. With `estimate` its log says what the run would ask of buckets, and that is all.
fn run(section: &Section, daemon: &Arc<Daemon>, mut call: Call) -> CallResult {
    let id: String = call.params.required("id")?;
    let estimate = call.params.flag("estimate")?.unwrap_or(false);
    if estimate && section.kind == JobKind::Prune {
        return Err(ApiError::bad_request(
            "parameter verification failed: 'estimate': a prune asks for next to nothing",
        ));
    }
    let who = call.who()?.clone();
    call.params.finish()?;
    let config = daemon.config.read();
    let job = section.demand_job(daemon, &who, &config, &id)?;
    if section.kind == JobKind::Sync {
        // A run of it knows no bounds but its settings.
        rights::demand(daemon, &who, section.kind, &job, Extent::Whole)?;
    }
    let key = JobKey::new(section.kind, &id);
    data(&start(daemon, &key, Some(&who), estimate)?)
}
