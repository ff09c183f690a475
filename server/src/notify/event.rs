//! What happened, and in which words it is told.

use jiff::Timestamp;
use minijinja::value::Serde;
use minijinja::{Environment, UndefinedBehavior, Value};
use serde::Serialize;

use super::DeliveryError;
use crate::auth::UserId;
use crate::config::NotifyLevel;
use crate::daemon::Daemon;
use crate::tasks::{Outcome, TaskInfo, Upid};

/// Lines of a log that are told.
const LINES_MAX: u64 = 50;
/// Longest template, in bytes.
const TEMPLATE_BYTES_MAX: usize = 16 << 10;
/// Steps that a template may take; enough for all lines some hundred times over.
const FUEL: u64 = 100_000;
/// Longest text that a template may make.
const TEXT_BYTES_MAX: usize = 1 << 20;

/// Statements that are in no template: with them a short one can make a long text, or hide what does.
const GROWING: &[&str] = &[
    "set", "macro", "call", "filter", "raw", "include", "import", "from", "extends", "block",
];

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
{% if task %}The last lines of its log{% else %}In detail{% endif %}:

{% for line in log %}{{ line }}
{% endfor %}{% endif %}";

/// An event, as templates and webhooks see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Event {
    /// The same for all deliveries of one event.
    pub(crate) id: String,
    /// How bad it is: `info`, `warning`, `error`.
    pub(crate) severity: NotifyLevel,
    /// Nothing has happened.
    #[serde(skip)]
    pub(crate) is_test: bool,
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
    /// The last lines of its log, or what else there is to say.
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
            is_test: false,
            heard_by: severity,
            title,
            host: daemon.hostname.clone(),
            time: daemon.clock.now().to_string(),
            store: None,
            task: None,
            log: Vec::new(),
        }
    }

    /// The end of a task, without its log; `None` if it has not ended.
    pub(super) fn of_task(daemon: &Daemon, task: &TaskInfo) -> Option<Self> {
        let (end, outcome) = task.end.as_ref()?;
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
            ..Self::new(daemon, upid.to_string(), severity, title)
        })
    }

    /// Adds the end of a task's log. One that cannot be read is left out.
    pub(super) async fn read_log(&mut self, daemon: &Daemon, upid: &Upid) {
        let total = daemon.tasks.log_page(upid, 0, 1).await;
        let total = total.map_or(0, |page| page.total);
        let first = total.saturating_sub(LINES_MAX - 1).max(1);
        if let Ok(page) = daemon.tasks.log_page(upid, first, LINES_MAX).await {
            self.log = page.lines;
        }
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

    /// Accounts that were locked after too many failed logins; at least one.
    pub(super) fn of_locks(daemon: &Daemon, users: &[UserId]) -> Self {
        let title = match users {
            [user] => format!("The account {user} is locked after too many failed logins"),
            users => format!(
                "{} accounts are locked after too many failed logins",
                users.len()
            ),
        };
        let names = users.iter().take(LINES_MAX as usize);
        Self {
            log: names.map(UserId::to_string).collect(),
            ..Self::new(daemon, daemon.env.new_id(), NotifyLevel::Warning, title)
        }
    }

    /// A try, with a task that never was. Faults of templates are told.
    pub(crate) fn test(daemon: &Daemon, id: &str) -> Self {
        let title = format!("This is a test of the notification '{id}'");
        let task = EndedTask {
            upid: "UPID:test:".to_owned(),
            kind: "test".to_owned(),
            worker_id: id.to_owned(),
            user: "root@pam".to_owned(),
            status: "OK".to_owned(),
            started: daemon.clock.now().to_string(),
            seconds: 0,
        };
        Self {
            task: Some(task),
            log: vec!["Nothing has happened.".to_owned()],
            is_test: true,
            ..Self::new(daemon, daemon.env.new_id(), NotifyLevel::Info, title)
        }
    }
}

/// What templates are read and filled in with. Nothing that could make a long text of a short one is in it: no functions, one filter, no
/// variables ([`check_template`]).
fn environment() -> Environment<'static> {
    let mut environment = Environment::empty();
    environment.add_filter("tojson", minijinja::filters::tojson);
    environment.set_fuel(Some(FUEL));
    environment
}

/// Refuses what is no template, or could take much memory or time.
pub(crate) fn check_template(text: &str) -> Result<(), String> {
    if text.len() > TEMPLATE_BYTES_MAX {
        return Err(format!("must be at most {TEMPLATE_BYTES_MAX} bytes"));
    }
    let read = environment().template_from_str(text).map(drop);
    read.map_err(|error| format!("is no template: {error}"))?;
    let plain = |tag: &String| {
        let word = tag.trim_start_matches(['-', '+']).split_whitespace().next();
        !tag.contains(['*', '~']) && !word.is_some_and(|word| GROWING.contains(&word))
    };
    if tags(text).is_some_and(|tags| tags.iter().all(plain)) {
        return Ok(());
    }
    Err(format!(
        "must be plain: no {}, '*', '~' or braces within braces",
        GROWING.join(", ")
    ))
}

/// What stands within the braces of a template, without texts in quotes and without comments. `None` if that cannot be told for sure, as with braces
/// within braces.
fn tags(mut text: &str) -> Option<Vec<String>> {
    let mut tags = Vec::new();
    while let Some(at) = text
        .find("{{")
        .into_iter()
        .chain(text.find("{%"))
        .chain(text.find("{#"))
        .min()
    {
        let (open, rest) = text[at..].split_at(2);
        if open == "{#" {
            text = &rest[rest.find("#}")? + 2..];
            continue;
        }
        let close = if open == "{{" { "}}" } else { "%}" };
        let (mut tag, mut rest) = (String::new(), rest);
        while !rest.starts_with(close) {
            let next = rest.chars().next()?;
            rest = &rest[next.len_utf8()..];
            match next {
                '{' => return None,
                '"' | '\'' => rest = after_quote(rest, next)?,
                other => tag.push(other),
            }
        }
        tags.push(tag);
        text = &rest[2..];
    }
    Some(tags)
}

/// What follows the end of a text in quotes.
fn after_quote(text: &str, quote: char) -> Option<&str> {
    let mut escaped = false;
    let end = text.char_indices().find(|(_, c)| {
        let ends = *c == quote && !escaped;
        escaped = *c == '\\' && !escaped;
        ends
    });
    Some(&text[end?.0 + 1..])
}

/// Text up to a bound.
struct Bounded(Vec<u8>);

impl std::io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() + bytes.len() > TEXT_BYTES_MAX {
            return Err(std::io::Error::other(format!(
                "more than {TEXT_BYTES_MAX} bytes"
            )));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What a template, which was checked when it was set, makes of an event.
fn fill_in(template: &str, event: &Event) -> Result<String, String> {
    let mut environment = environment();
    // A test shows what is wrong; of what has happened as much is told as can be.
    environment.set_undefined_behavior(if event.is_test {
        UndefinedBehavior::Strict
    } else {
        UndefinedBehavior::Chainable
    });
    let template = environment.template_from_str(template);
    let template = template.map_err(|error| error.to_string())?;
    let mut text = Bounded(Vec::new());
    let filled = template.render_captured_to(Value::from(Serde(event)), &mut text);
    filled.map(drop).map_err(|error| error.to_string())?;
    String::from_utf8(text.0).map_err(|error| error.to_string())
}

/// What a template makes of an event; if it cannot be filled in, what `otherwise` is, for the event must be told. A test tells the fault.
pub(super) fn render(
    template: &str,
    event: &Event,
    otherwise: impl FnOnce() -> Result<String, DeliveryError>,
) -> Result<String, DeliveryError> {
    match fill_in(template, event) {
        Ok(text) => Ok(text),
        Err(why) if event.is_test => Err(DeliveryError::refused(format!("the template: {why}"))),
        Err(why) => {
            tracing::error!(
                why,
                "a template of a notification cannot be filled in, and is not used"
            );
            otherwise()
        }
    }
}

/// What one of our own templates makes of an event.
pub(super) fn render_default(template: &str, event: &Event) -> Result<String, DeliveryError> {
    fill_in(template, event).map_err(DeliveryError::refused)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("*{{ title }}* ~ {{ host }}", true)]
    #[case("{\"text\": {{ title | tojson }}, \"log\": {{ log | tojson }}}", true)]
    #[case("{# * ' #}{{ '*' }}{% if task %}{{ task.status }}{% endif %}", true)]
    #[case("{{ 'it\\'s *' }}", true)]
    #[case(SUBJECT, true)]
    #[case(BODY, true)]
    #[case("{{ 'x' * 100000000 }}", false)]
    #[case("{{- title ~ title -}}", false)]
    #[case("{{ '}}' * 100000000 }}", false)]
    #[case("{{ {'a': {'b': 1}} ~ title }}", false)]
    #[case("{% raw %}{{ ' {% endraw %}{{ 'x' * 9 }}", false)]
    #[case("{%- set a = 'x' %}{{ a }}", false)]
    #[case("{%+macro a() %}{% endmacro %}", false)]
    #[case("{% if '%}' %}{{ 2 * 3 }}{% endif %}", false)]
    #[case("{{ title", false)]
    fn a_template_is_plain(#[case] template: &str, #[case] expected: bool) {
        let checked = check_template(template);
        assert_eq!(checked.is_ok(), expected, "{checked:?}");
    }
}
