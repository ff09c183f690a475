//! `/admin/datastore/{store}/sessions`: who is writing backups, for administrators; a session can be broken. This is our
//! own, other servers have no such call.

use std::sync::Arc;

use pbs_datastore::{Namespace, SessionState};
use serde_json::{Value, json};

use super::call::{Call, CallResult, data, done};
use super::error::ApiError;
use super::rule::{AUDIT, MODIFY};
use super::target::{Opened, open};
use crate::daemon::Daemon;

/// `GET …/sessions`
pub(crate) async fn list(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let Opened { store, .. } = open(&daemon, &mut call, AUDIT, &Namespace::root())?;
    call.params.finish()?;
    let list: Vec<Value> = store
        .sessions()
        .list()
        .iter()
        .map(|session| {
            let state = match &session.state {
                SessionState::Open => "open",
                SessionState::Committing => "committing",
                SessionState::Sealed => "finished",
                SessionState::Dead(_) => "ended",
            };
            json!({
                "id": session.id.seq,
                "description": session.label,
                "starttime": session.started.as_second(),
                "state": state,
                "chunks": session.chunks,
            })
        })
        .collect();
    data(&list)
}

/// `DELETE …/sessions/{id}`: the session ends without a snapshot. One that is finishing goes on.
pub(crate) async fn break_off(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let id = call.params.required_integer("id", 0..=i64::MAX)?;
    let Opened { store, .. } = open(&daemon, &mut call, MODIFY, &Namespace::root())?;
    let who = call.who()?.id().clone();
    call.params.finish()?;
    let reason = format!("ended by the administrator {who}");
    if store.sessions().kill(id as u64, &reason) {
        return done();
    }
    Err(ApiError::bad_request(format!(
        "there is no session {id} that could be ended; it has finished, or is about to"
    )))
}
