//! What happened, and in which words it is told.

use jiff::Timestamp;
use minijinja::value::Serde;
use minijinja::{Environment, UndefinedBehavior, Value};
use serde::Serialize;

use super::DeliveryError;
use crate::config::NotifyLevel;
use crate::daemon::Daemon;
use crate::tasks::{Outcome, TaskInfo, Upid};

/// Lines of a log that are told.
const LINES_MAX: u64 = 50;
/// Steps that a template may take; enough for all lines some hundred times over.
const FUEL: u64 = 100_000;
/// Longest text that a template may make.
const TEXT_BYTES_MAX: usize = 1 << 20;

/// What a mail says if nothing else is configured.
pub(super) const SUBJECT: &str = "[{{ host }}] {{ title }}";
/// Likewise.
pub(super) const BODY: &str = "\
{{ title }}

Machine:    {{ host }}
Time:       {{ time }}
{%- if store %}
Datastore:  {{ store }}
{%- endif %}
{%- if task %}
Task:       {{ task.kind }} {{ task.worker_id }}
Started by: {{ task.user }}, {{ task.started }}
Took:       {{ task.seconds }} s
Result:     {{ task.status }}
Task id:    {{ task.upid }}
{%- endif %}
{% if log %}
The last lines of its log:

{% for line in log %}{{ line }}
{% endfor %}{% endif %}";

/// An event, as templates and webhooks see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Event {
    /// The same for all deliveries of one event.
    pub(crate) id: String,
    /// How bad it is: `info`, `warning`, `error`.
    pub(crate) severity: NotifyLevel,
    /// Who is told: those with this level or one below.
    #[serde(skip)]
    pub(crate) heard_by: NotifyLevel,
    /// One line.
    pub(crate) title: String,
    /// The machine.
    pub(crate) host: String,
    /// When, as RFC 3339.
    pub(crate) time: String,
    /// The datastore it is about.
    pub(crate) store: Option<String>,
    /// The task that ended.
    pub(crate) task: Option<EndedTask>,
    /// The last lines of its log.
    pub(crate) log: Vec<String>,
}

/// A task that ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct EndedTask {
    pub(crate) upid: String,
    /// The worker type.
    pub(crate) kind: String,
    pub(crate) worker_id: String,
    pub(crate) user: String,
    /// `OK`, `WARNINGS: n`, or the error.
    pub(crate) status: String,
    /// RFC 3339.
    pub(crate) started: String,
    pub(crate) seconds: i64,
}

/// A worker type in words.
fn in_words(kind: &str) -> &str {
    match kind {
        "garbage_collection" => "Garbage collection",
        "prune" | "prunejob" => "Prune",
        "verify" | "verify_group" | "verify_snapshot" | "verificationjob" => "Verification",
        "sync" | "syncjob" => "Sync",
        "backup" => "Backup",
        "reader" => "Restore",
        other => other,
    }
}

impl Event {
    fn new(daemon: &Daemon, id: String, severity: NotifyLevel, title: String) -> Self {
        Self {
            id,
            severity,
            heard_by: severity,
            title,
            host: daemon.hostname.clone(),
            time: daemon.clock.now().to_string(),
            store: None,
            task: None,
            log: Vec::new(),
        }
    }

    /// The end of a task; `None` if it has not ended.
    pub(super) async fn of_task(daemon: &Daemon, task: &TaskInfo) -> Option<Self> {
        let (end, outcome) = task.end.as_ref()?;
        let log = last_lines(daemon, &task.upid).await;
        let upid = &task.upid;
        let (severity, word) = match outcome {
            Outcome::Ok => (NotifyLevel::Info, "done"),
            Outcome::Warnings(_) => (NotifyLevel::Warning, "done with warnings"),
            Outcome::Error(_) | Outcome::Unknown => (NotifyLevel::Error, "failed"),
        };
        let (what, place) = (in_words(upid.kind()), upid.worker_id());
        let title = if place.is_empty() {
            format!("{what} {word}")
        } else {
            format!("{what} {place} {word}")
        };
        let time = |seconds| {
            Timestamp::from_second(seconds)
                .unwrap_or_default()
                .to_string()
        };
        let ended = EndedTask {
            upid: upid.to_string(),
            kind: upid.kind().to_owned(),
            worker_id: place.to_owned(),
            user: upid.auth_id().to_string(),
            status: outcome.to_string(),
            started: time(upid.start_time()),
            seconds: end - upid.start_time(),
        };
        Some(Self {
            time: time(*end),
            store: task.store.clone(),
            task: Some(ended),
            log,
            ..Self::new(daemon, upid.to_string(), severity, title)
        })
    }

    /// A datastore that cannot be used.
    pub(super) fn of_fault(daemon: &Daemon, store: &str, fault: &str) -> Self {
        let title = format!("Datastore '{store}' cannot be used");
        Self {
            store: Some(store.to_owned()),
            log: vec![fault.to_owned()],
            ..Self::new(daemon, daemon.env.new_id(), NotifyLevel::Error, title)
        }
    }

    /// One that can be used again.
    pub(super) fn of_recovery(daemon: &Daemon, store: &str) -> Self {
        let title = format!("Datastore '{store}' can be used again");
        Self {
            store: Some(store.to_owned()),
            // Whoever heard the bad news hears the good.
            heard_by: NotifyLevel::Error,
            ..Self::new(daemon, daemon.env.new_id(), NotifyLevel::Info, title)
        }
    }

    /// A try.
    pub(crate) fn test(daemon: &Daemon, id: &str) -> Self {
        let title = format!("This is a test of the notification '{id}'");
        Self {
            log: vec!["Nothing has happened.".to_owned()],
            ..Self::new(daemon, daemon.env.new_id(), NotifyLevel::Info, title)
        }
    }
}

/// The end of a log. One that cannot be read is left out.
async fn last_lines(daemon: &Daemon, upid: &Upid) -> Vec<String> {
    let total = daemon.tasks.log_page(upid, 0, 1).await;
    let total = total.map_or(0, |page| page.total);
    let first = total.saturating_sub(LINES_MAX - 1).max(1);
    let page = daemon.tasks.log_page(upid, first, LINES_MAX).await;
    page.map_or_else(|_| Vec::new(), |page| page.lines)
}

/// What a template makes of an event.
pub(super) fn render(template: &str, event: &Event) -> Result<String, DeliveryError> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_fuel(Some(FUEL));
    let text = environment.render_str(template, Value::from(Serde(event)));
    let text = text.map_err(|error| DeliveryError::refused(format!("the template: {error}")))?;
    if text.len() > TEXT_BYTES_MAX {
        return Err(DeliveryError::refused(format!(
            "the template makes a text of more than {TEXT_BYTES_MAX} bytes"
        )));
    }
    Ok(text)
}
