//! `GET /metrics`, also below `/api2/json`: figures for Prometheus, in the OpenMetrics format for who asks for it, as
//! Prometheus does, and in its older text format otherwise. Made anew for each request, from what is counted anyway. Only of
//! datastores that the caller may audit; what concerns the daemon as a whole with `Sys.Audit` on `/system`.

use std::collections::BTreeSet;
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
use crate::price::{Demand, PriceList};
use crate::stores::StoreState;

/// What is asked for, and what the answer then is.
const OPENMETRICS: &str = "application/openmetrics-text";
const OPENMETRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// What it is otherwise.
const TEXT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Both.
pub(super) const CONTENT_TYPES: &[&str] = &[OPENMETRICS_TYPE, TEXT_TYPE];

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
    let (content_type, text) = if call.accept.contains(OPENMETRICS) {
        (OPENMETRICS_TYPE, text)
    } else {
        (TEXT_TYPE, in_text_format(&text))
    };
    Ok(Answer::Plain { content_type, text })
}

/// What is written in the OpenMetrics format in the older one: without units and an end, and counters have the names of their
/// samples.
fn in_text_format(openmetrics: &str) -> String {
    let described = |line: &str| -> Option<(String, String, String)> {
        let mut words = line.strip_prefix("# ")?.splitn(3, ' ').map(str::to_owned);
        Some((words.next()?, words.next()?, words.next()?))
    };
    let counters: BTreeSet<String> = openmetrics
        .lines()
        .filter_map(described)
        .filter(|(what, _, kind)| what == "TYPE" && kind == "counter")
        .map(|(_, name, _)| name)
        .collect();
    let mut text = String::with_capacity(openmetrics.len());
    for line in openmetrics.lines().filter(|line| *line != "# EOF") {
        match described(line) {
            Some((what, ..)) if what == "UNIT" => continue,
            Some((what, name, rest)) if counters.contains(&name) => {
                text.extend(["# ", &what, " ", &name, "_total ", &rest]);
            }
            _ => text += line,
        }
        text.push('\n');
    }
    text
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
    let help = "Price of all requests so far, and of keeping what is stored for a month, by the price list of the S3 server";
    let prices = figures.gauge("s3_price", help, None);
    let config = daemon.config.read();
    for name in names {
        let (stores, of) = (daemon.stores.clone(), name.clone());
        let Some(meters) = daemon.env.io(move |_| stores.meters(&of)).await else {
            continue;
        };
        if let Some(list) = config.endpoint_of(name).and_then(PriceList::of)
            && let Ok(store) = daemon.stores.opened(name)
        {
            let asked = list.price(&Demand::of(&meters));
            let kept = list.month(store.usage().stored);
            for (what, price) in [("requests", asked), ("storage-month", kept)] {
                let labels = [
                    ("datastore", name.as_str()),
                    ("of", what),
                    ("currency", list.currency()),
                ];
                set(&prices, &labels, price.units());
            }
        }
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
        // No label is called `job`: Prometheus has one of that name for every target.
        let labels = [
            ("datastore", job.store.as_str()),
            ("kind", kind),
            ("id", id),
        ];
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
    let help = "Accounts that are locked after too many failed logins";
    let locked = figures.gauge("accounts_locked", help, None);
    set(&locked, &[], daemon.authority.locked_users().len() as f64);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_format_names_counters_as_their_samples() {
        let mut figures = Figures(Registry::with_prefix("holdfast"));
        let labels = [("datastore", "one")];
        let room = figures.gauge("room", "Room", Some(Unit::Bytes));
        set(&room, &labels, 7.0);
        count(&figures.counter("asked", "What was asked"), &labels, 3);
        let mut openmetrics = String::new();
        encode(&mut openmetrics, &figures.0).expect("written");
        assert!(openmetrics.contains("# UNIT holdfast_room_bytes bytes\n"));
        assert_eq!(
            in_text_format(&openmetrics),
            "# HELP holdfast_room_bytes Room.\n\
             # TYPE holdfast_room_bytes gauge\n\
             holdfast_room_bytes{datastore=\"one\"} 7.0\n\
             # HELP holdfast_asked_total What was asked.\n\
             # TYPE holdfast_asked_total counter\n\
             holdfast_asked_total{datastore=\"one\"} 3\n"
        );
    }
}
