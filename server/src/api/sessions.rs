//! `/admin/datastore/{store}/sessions`: who is connected to read or write a snapshot, and who else writes into the
//! datastore, for administrators; a session of a connection can be broken. This is our own, other servers have no such call.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use pbs_datastore::{Namespace, SessionInfo, SnapshotRef, writer_label};
use serde_json::{Value, json};

use super::call::{Call, CallResult, data, done};
use super::error::ApiError;
use super::rule::{AUDIT, MODIFY};
use super::shape::{Shape, always, maybe};
use super::target::{Opened, open};
use crate::daemon::Daemon;
use crate::protocol::{SessionKind, SessionReport, SessionSubject};

/// A session. Of a connection it has all members but `writer`, of another writer only that and the first three.
pub(super) const ENTRY: Shape = Shape::Object(&[&[
    always("type", Shape::Text),
    always("starttime", Shape::Integer),
    always("holds-cutoff", Shape::Flag),
    maybe("writer", Shape::Text),
    maybe("id", Shape::Integer),
    maybe("ns", Shape::Text),
    maybe("backup-type", Shape::Text),
    maybe("backup-id", Shape::Text),
    maybe("backup-time", Shape::Integer),
    maybe("user", Shape::Text),
    maybe("peer", Shape::Text),
    maybe("requests", Shape::Integer),
    maybe("requests-open", Shape::Integer),
    maybe("bytes-received", Shape::Integer),
    maybe("bytes-sent", Shape::Integer),
    maybe("idle-seconds", Shape::Integer),
]]);
/// How many sessions read and write.
pub(super) const OPERATIONS: Shape = Shape::Object(&[&[
    always("read", Shape::Integer),
    always("write", Shape::Integer),
]]);

/// The writer that keeps chunks from being collected which are old enough otherwise: the oldest, once it is older than they
/// have to be.
fn holder(writers: &[SessionInfo], by_age: Timestamp) -> Option<&str> {
    let oldest = writers.iter().min_by_key(|writer| writer.started)?;
    (oldest.started < by_age).then_some(&oldest.label)
}

/// What the writer of a connection is called in the datastore; `None` of one that reads.
fn label(subject: &SessionSubject) -> Option<String> {
    let snapshot = SnapshotRef::new(subject.namespace.clone(), subject.snapshot.clone());
    (subject.kind != SessionKind::Reader).then(|| writer_label(&snapshot, &subject.author))
}

/// A writer without a connection: a sync into the datastore, or the uploads of one that has gone away.
fn writer_entry(writer: &SessionInfo, holder: Option<&str>) -> Value {
    json!({
        "type": "writer",
        "writer": writer.label,
        "starttime": writer.started.as_second(),
        "holds-cutoff": holder == Some(&writer.label),
    })
}

fn entry(report: &SessionReport, holds_cutoff: bool) -> Value {
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
        "holds-cutoff": holds_cutoff,
    })
}

/// `GET …/active-operations`: how many write, and how many only read.
pub(crate) async fn active_operations(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let Opened { store, .. } = open(&daemon, &mut call, AUDIT, &Namespace::root())?;
    call.params.finish()?;
    let sessions = daemon.sessions.list();
    let here = sessions.iter().map(|session| &session.subject);
    let readers = here.filter(|subject| subject.store == *store.name());
    let readers = readers.filter(|subject| subject.kind == SessionKind::Reader);
    let writers = store.sessions().list().len();
    data(&json!({ "read": readers.count(), "write": writers }))
}

/// `GET …/sessions`
pub(crate) async fn list(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let Opened { store, .. } = open(&daemon, &mut call, AUDIT, &Namespace::root())?;
    call.params.finish()?;
    let all = daemon.sessions.list();
    let here = all.iter().filter(|one| one.subject.store == *store.name());
    let config = daemon.config.read();
    let settings = config.datastores.get(store.name().as_str());
    let minutes = settings.map_or(0, |settings| settings.gc_atime_cutoff_minutes);
    let by_age = daemon
        .env
        .now()
        .saturating_sub(Duration::from_mins(minutes));
    let mut writers = store.sessions().list();
    let holder = holder(&writers, by_age.unwrap_or(Timestamp::MIN)).map(str::to_owned);
    let holder = holder.as_deref();
    let mut list = Vec::new();
    for one in here {
        let label = label(&one.subject);
        writers.retain(|writer| Some(&writer.label) != label.as_ref());
        let holds = label.is_some() && label.as_deref() == holder;
        list.push(entry(one, holds));
    }
    list.extend(writers.iter().map(|writer| writer_entry(writer, holder)));
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
