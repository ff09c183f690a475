//! `GET /metrics`, also below `/api2/json`: figures for Prometheus, in the OpenMetrics text format. Made anew for each request, from
//! what is counted anyway. Only of datastores that the caller may audit; what concerns the daemon as a whole with `Sys.Audit`
//! on `/system`.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use serde_json::Value;

use super::call::{Answer, Call, CallResult};
use super::error::ApiError;
use crate::auth::{AclPath, Principal, Privilege};
use crate::daemon::Daemon;
use crate::jobs::{PlannedJob, next_run};
use crate::stores::StoreState;

/// What the answer is.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Labels = Vec<(&'static str, String)>;
type Gauges = Family<Labels, Gauge<f64, AtomicU64>>;
type Counters = Family<Labels, Counter>;

/// The figures of one request.
#[derive(Default)]
struct Figures(Registry);

impl Figures {
    fn gauge(&mut self, name: &str, help: &str, unit: Option<Unit>) -> Gauges {
        let family = Gauges::default();
        match unit {
            None => self.0.register(name, help, family.clone()),
            Some(unit) => self.0.register_with_unit(name, help, unit, family.clone()),
        }
        family
    }

    fn counter(&mut self, name: &str, help: &str) -> Counters {
        let family = Counters::default();
        self.0.register(name, help, family.clone());
        family
    }
}

fn owned(labels: &[(&'static str, &str)]) -> Labels {
    let owned = labels
        .iter()
        .map(|(name, text)| (*name, (*text).to_owned()));
    owned.collect()
}

fn set(family: &Gauges, labels: &[(&'static str, &str)], value: f64) {
    family.get_or_create(&owned(labels)).set(value);
}

fn count(family: &Counters, labels: &[(&'static str, &str)], value: u64) {
    family.get_or_create(&owned(labels)).inc_by(value);
}

/// `GET /metrics`
pub(crate) async fn metrics(daemon: Arc<Daemon>, call: Call) -> CallResult {
    let who = call.who()?.clone();
    call.params.finish()?;
    let mut figures = Figures(Registry::with_prefix("holdfast"));
    let config = daemon.config.read();
    let audits = |name: &str| {
        let path = AclPath::datastore(name);
        let authority = &daemon.authority;
        authority.allowed(&who, &path, Privilege::DatastoreAudit)
    };
    let names: Vec<String> = config
        .datastores
        .keys()
        .filter(|name| audits(name))
        .cloned()
        .collect();
    spaces(&daemon, &mut figures, &names).await;
    collections(&daemon, &mut figures, &names);
    caches(&daemon, &mut figures, &names);
    requests(&daemon, &mut figures, &names).await;
    sessions(&daemon, &mut figures, &names);
    jobs(&daemon, &mut figures, &names);
    system(&daemon, &mut figures, &who);
    let mut text = String::new();
    encode(&mut text, &figures.0).map_err(|error| {
        tracing::error!(%error, "the figures cannot be written");
        ApiError::internal("the figures cannot be written")
    })?;
    let content_type = CONTENT_TYPE;
    Ok(Answer::Plain { content_type, text })
}

async fn spaces(daemon: &Daemon, figures: &mut Figures, names: &[String]) {
    let up = figures.gauge("datastore_up", "Whether the datastore can be used", None);
    let help = "Room of the file system, or of the bucket as it is shown to clients";
    let total = figures.gauge("datastore_total", help, Some(Unit::Bytes));
    let used = figures.gauge("datastore_used", "Room that is taken", Some(Unit::Bytes));
    let help = "Chunks as they are stored, added ones included";
    let stored = figures.gauge("datastore_stored", help, Some(Unit::Bytes));
    let help = "How much may be stored; left out where that is not limited";
    let quota = figures.gauge("datastore_quota", help, Some(Unit::Bytes));
    for name in names {
        let labels = [("datastore", name.as_str())];
        let open = matches!(daemon.stores.state(name), Some(StoreState::Open(_)));
        set(&up, &labels, f64::from(u8::from(open)));
        let Ok(store) = daemon.stores.opened(name) else {
            continue;
        };
        if let Ok(space) = store.space().await {
            set(&total, &labels, space.total as f64);
            set(&used, &labels, space.used as f64);
        }
        let usage = store.usage();
        set(&stored, &labels, usage.stored as f64);
        if let Some(limit) = usage.quota {
            set(&quota, &labels, limit as f64);
        }
    }
}

/// What the last garbage collection of each datastore found.
fn collections(daemon: &Daemon, figures: &mut Figures, names: &[String]) {
    let help = "Chunks as the last garbage collection left them, and those it removed";
    let chunks = figures.gauge("gc_chunks", help, None);
    let help = "The same in bytes, as they are stored";
    let bytes = figures.gauge("gc_chunk", help, Some(Unit::Bytes));
    let help = "Bytes of all archives, repetitions included";
    let logical = figures.gauge("gc_index_data", help, Some(Unit::Bytes));
    for name in names {
        let Some(status) = daemon
            .stores
            .opened(name)
            .ok()
            .and_then(|store| store.gc_status())
        else {
            continue;
        };
        let states = [
            ("used", status.disk_chunks, Some(status.disk_bytes)),
            ("pending", status.pending_chunks, Some(status.pending_bytes)),
            ("removed", status.removed_chunks, Some(status.removed_bytes)),
            ("missing", status.missing_chunks, None),
            ("set-aside", status.still_bad, None),
        ];
        for (state, number, size) in states {
            let labels = [("datastore", name.as_str()), ("state", state)];
            set(&chunks, &labels, number as f64);
            if let Some(size) = size {
                set(&bytes, &labels, size as f64);
            }
        }
        let labels = [("datastore", name.as_str())];
        set(&logical, &labels, status.index_data_bytes as f64);
    }
}

fn caches(daemon: &Daemon, figures: &mut Figures, names: &[String]) {
    let size = figures.gauge("cache", "Chunks in the cache directory", Some(Unit::Bytes));
    let help = "What happened in cache and reads since the start of the daemon";
    let events = figures.counter("cache_events", help);
    for name in names {
        let Ok(store) = daemon.stores.opened(name) else {
            continue;
        };
        set(&size, &[("datastore", name)], store.cache_bytes() as f64);
        let counts = serde_json::to_value(store.cache_counts()).unwrap_or(Value::Null);
        for (event, number) in counts.as_object().into_iter().flatten() {
            let labels = [("datastore", name.as_str()), ("event", event.as_str())];
            count(&events, &labels, number.as_u64().unwrap_or(0));
        }
    }
}

async fn requests(daemon: &Daemon, figures: &mut Figures, names: &[String]) {
    let made = figures.counter("s3_requests", "Attempts of requests to the bucket");
    let help = "Attempts that failed, were slowed down, lost their answer, or repeated another";
    let troubles = figures.counter("s3_request_troubles", help);
    let moved = figures.counter("s3_bytes", "Bytes of objects sent and received");
    for name in names {
        let (stores, of) = (daemon.stores.clone(), name.clone());
        let Some(meters) = daemon.env.io(move |_| stores.meters(&of)).await else {
            continue;
        };
        for (operation, counts) in &meters.0 {
            let of = [
                ("datastore", name.as_str()),
                ("operation", operation.as_str()),
            ];
            let with = |kind, what| [of[0], of[1], (kind, what)];
            count(&made, &of, counts.requests);
            for (trouble, number) in [
                ("error", counts.errors),
                ("throttle", counts.throttles),
                ("lost", counts.lost),
                ("retry", counts.retries),
            ] {
                count(&troubles, &with("trouble", trouble), number);
            }
            for (direction, number) in [("in", counts.bytes_in), ("out", counts.bytes_out)] {
                count(&moved, &with("direction", direction), number);
            }
        }
    }
}

fn sessions(daemon: &Daemon, figures: &mut Figures, names: &[String]) {
    let help = "Backup and reader sessions that are open";
    let open = figures.gauge("sessions", help, None);
    for report in daemon.sessions.list() {
        let subject = report.subject;
        if names.iter().any(|name| name == subject.store.as_str()) {
            let labels: Labels = vec![
                ("datastore", subject.store.to_string()),
                ("type", subject.kind.name().to_owned()),
            ];
            open.get_or_create(&labels).inc();
        }
    }
}

fn jobs(daemon: &Daemon, figures: &mut Figures, names: &[String]) {
    let help = "When the last run of the job ended, in Unix time";
    let ended = figures.gauge("job_last_run_end", help, Some(Unit::Seconds));
    let help = "How the last run of the job ended: 1 well, 0 with an error";
    let good = figures.gauge("job_last_run_ok", help, None);
    let help = "When the job is due, in Unix time";
    let next = figures.gauge("job_next_run", help, Some(Unit::Seconds));
    let running = figures.gauge("job_running", "Whether the job runs", None);
    let zone = jiff::tz::TimeZone::system();
    for job in PlannedJob::all(&daemon.config.read()) {
        if !names.contains(&job.store) {
            continue;
        }
        let (kind, id) = (job.key.kind.name(), job.key.id.as_str());
        let labels = [("kind", kind), ("job", id)];
        let record = daemon.jobs.record(&job.key);
        set(
            &running,
            &labels,
            f64::from(u8::from(daemon.jobs.is_running(&job.key))),
        );
        if let Some(due) = next_run(&job, &record, &zone) {
            set(&next, &labels, due.as_second() as f64);
        }
        let Some(run) = record.last_run else {
            continue;
        };
        if let Some(end) = run.end {
            set(&ended, &labels, end.as_second() as f64);
        }
        if let Some(state) = run.state {
            let well = state == "OK" || state.starts_with("WARNINGS");
            set(&good, &labels, f64::from(u8::from(well)));
        }
    }
}

fn system(daemon: &Daemon, figures: &mut Figures, who: &Principal) {
    let path = AclPath::of(["system"]);
    if !daemon.authority.allowed(who, &path, Privilege::SysAudit) {
        return;
    }
    let build = figures.gauge("build_info", "The version that runs", None);
    set(&build, &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
    let tasks = figures.gauge("tasks_running", "Tasks that run", None);
    set(&tasks, &[], daemon.tasks.active_count() as f64);
}
