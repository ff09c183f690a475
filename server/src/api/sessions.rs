//! `/admin/datastore/{store}/sessions`: who is connected to read or write a snapshot, for administrators; a session can
//! be broken. This is our own, other servers have no such call.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use pbs_datastore::Namespace;
use serde_json::{Value, json};

use super::call::{Call, CallResult, data, done};
use super::error::ApiError;
use super::rule::{AUDIT, MODIFY};
use super::shape::{Shape, always};
use super::target::{Opened, open};
use crate::daemon::Daemon;
use crate::protocol::{SessionKind, SessionReport};

/// A session.
pub(super) const ENTRY: Shape = Shape::Object(&[&[
    always("id", Shape::Integer),
    always("type", Shape::Text),
    always("ns", Shape::Text),
    always("backup-type", Shape::Text),
    always("backup-id", Shape::Text),
    always("backup-time", Shape::Integer),
    always("user", Shape::Text),
    always("peer", Shape::Text),
    always("starttime", Shape::Integer),
    always("requests", Shape::Integer),
    always("requests-open", Shape::Integer),
    always("bytes-received", Shape::Integer),
    always("bytes-sent", Shape::Integer),
    always("idle-seconds", Shape::Integer),
    always("holds-cutoff", Shape::Flag),
]]);
/// How many sessions read and write.
pub(super) const OPERATIONS: Shape = Shape::Object(&[&[
    always("read", Shape::Integer),
    always("write", Shape::Integer),
]]);

/// The session that keeps chunks from being collected which are old enough otherwise: the oldest that writes, once it is older than they have to be.
fn holder(sessions: &[&SessionReport], by_age: Timestamp) -> Option<u64> {
    let writers = sessions.iter().map(|one| (one, &one.subject));
    let writers = writers.filter(|(_, subject)| subject.kind != SessionKind::Reader);
    let oldest = writers.min_by_key(|(_, subject)| subject.started)?;
    (oldest.1.started < by_age).then_some(oldest.0.id)
}

fn entry(report: &SessionReport, holder: Option<u64>) -> Value {
    let subject = &report.subject;
    let group = &subject.snapshot.group;
    json!({
        "id": report.id,
        "type": subject.kind.name(),
        "ns": subject.namespace.to_string(),
        "backup-type": group.kind.as_str(),
        "backup-id": group.id.as_str(),
        "backup-time": subject.snapshot.time.seconds(),
        "user": subject.author.to_string(),
        "peer": subject.peer,
        "starttime": subject.started.as_second(),
        "requests": report.requests,
        "requests-open": report.requests_open,
        "bytes-received": report.bytes_received,
        "bytes-sent": report.bytes_sent,
        "idle-seconds": report.idle.as_secs(),
        "holds-cutoff": holder == Some(report.id),
    })
}

/// `GET …/active-operations`: how many write, and how many only read.
pub(crate) async fn active_operations(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let Opened { store, .. } = open(&daemon, &mut call, AUDIT, &Namespace::root())?;
    call.params.finish()?;
    let sessions = daemon.sessions.list();
    let here = sessions.iter().map(|session| &session.subject);
    let here = here.filter(|subject| subject.store == *store.name());
    let (readers, writers): (Vec<_>, Vec<_>) =
        here.partition(|subject| subject.kind == SessionKind::Reader);
    data(&json!({ "read": readers.len(), "write": writers.len() }))
}

/// `GET …/sessions`
pub(crate) async fn list(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let Opened { store, .. } = open(&daemon, &mut call, AUDIT, &Namespace::root())?;
    call.params.finish()?;
    let all = daemon.sessions.list();
    let here = all.iter().filter(|one| one.subject.store == *store.name());
    let here: Vec<&SessionReport> = here.collect();
    let config = daemon.config.read();
    let settings = config.datastores.get(store.name().as_str());
    let minutes = settings.map_or(0, |settings| settings.gc_atime_cutoff_minutes);
    let by_age = daemon
        .env
        .now()
        .saturating_sub(Duration::from_mins(minutes));
    let holder = holder(&here, by_age.unwrap_or(Timestamp::MIN));
    let list: Vec<Value> = here.iter().map(|one| entry(one, holder)).collect();
    data(&list)
}

/// `DELETE …/sessions/{id}`: a backup ends without a snapshot; one that is finishing goes on.
pub(crate) async fn break_off(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let id = call.params.required_integer("id", 0..=i64::MAX)? as u64;
    let Opened { store, .. } = open(&daemon, &mut call, MODIFY, &Namespace::root())?;
    let who = call.who()?.id().clone();
    call.params.finish()?;
    let all = daemon.sessions.list();
    let known = all
        .iter()
        .any(|one| one.id == id && one.subject.store == *store.name());
    let reason = format!("ended by the administrator {who}");
    if known && daemon.sessions.end(id, &reason) {
        return done();
    }
    Err(ApiError::bad_request(format!(
        "there is no session {id} on datastore '{}'",
        store.name()
    )))
}
