//! `/admin/datastore/{store}/…` about groups: list, notes, owner, removal.

use std::sync::Arc;

use http::StatusCode;
use pbs_datastore::{
    BackupId, BackupTime, BackupType, DeleteOptions, DeleteStats, GroupInfo, GroupRef,
};
use serde::Serialize;
use serde_json::{Value, json};

use super::call::{Call, CallResult, data, done};
use super::error::ApiError;
use super::rule::{ANNOTATE, CHANGE_OWNER, DELETE, LIST, Reach, Rule};
use super::shape::{Shape, always, maybe};
use super::target::{Opened, open, owner_of, take_group, take_namespace};
use crate::auth::AuthId;
use crate::daemon::Daemon;

/// A group as clients see it.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct GroupEntry<'a> {
    backup_type: BackupType,
    backup_id: &'a BackupId,
    last_backup: BackupTime,
    backup_count: u64,
    files: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    comment: Option<&'a str>,
}

/// The same, of the wire.
pub(super) const ENTRY: Shape = Shape::Object(&[&[
    always("backup-type", Shape::Text),
    always("backup-id", Shape::Text),
    always("last-backup", Shape::Integer),
    always("backup-count", Shape::Integer),
    always("files", Shape::List(&Shape::Text)),
    maybe("owner", Shape::Text),
    maybe("comment", Shape::Text),
]]);
/// What a removal has removed and left.
pub(super) const STATISTICS: Shape = Shape::Object(&[&[
    always("removed-groups", Shape::Integer),
    always("removed-snapshots", Shape::Integer),
    always("protected-snapshots", Shape::Integer),
]]);

impl<'a> From<&'a GroupInfo> for GroupEntry<'a> {
    fn from(info: &'a GroupInfo) -> Self {
        Self {
            backup_type: info.id.group.kind,
            backup_id: &info.id.group.id,
            last_backup: info.last_backup,
            backup_count: info.count,
            files: &info.files,
            owner: info.owner.as_ref().map(ToString::to_string),
            comment: info.notes.lines().next().filter(|line| !line.is_empty()),
        }
    }
}

/// `GET …/groups`
pub(crate) async fn list(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let namespace = take_namespace(&mut call.params)?;
    let Opened { store, reach } = open(&daemon, &mut call, LIST, &namespace)?;
    call.params.finish()?;
    let mut infos = store.snapshots().groups(&namespace).await?;
    infos.retain(|info| reach.covers(owner_of(info.owner.as_ref()).as_ref()));
    let entries: Vec<GroupEntry<'_>> = infos.iter().map(GroupEntry::from).collect();
    data(&entries)
}

async fn open_at(
    daemon: &Daemon,
    mut call: Call,
    rule: Rule,
) -> Result<(Opened, GroupRef), ApiError> {
    let id = take_group(&mut call.params)?;
    let opened = open(daemon, &mut call, rule, &id.namespace)?;
    call.params.finish()?;
    opened.demand_group(&id).await?;
    Ok((opened, id))
}

/// The statistics of a removal as clients know them.
pub(crate) fn statistics(stats: &DeleteStats) -> Value {
    json!({
        "removed-groups": stats.removed_groups,
        "removed-snapshots": stats.removed_snapshots,
        "protected-snapshots": stats.protected_snapshots,
    })
}

/// `DELETE …/groups`: fails if protected snapshots remain, unless `error-on-protected` is off.
pub(crate) async fn remove(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let error_on_protected = call.params.flag("error-on-protected")?.unwrap_or(true);
    let (opened, id) = open_at(&daemon, call, DELETE).await?;
    let options = DeleteOptions { error_on_protected };
    let snapshots = opened.store.snapshots();
    data(&statistics(&snapshots.delete_group(&id, options).await?))
}

/// `POST …/change-owner`: to anybody with Modify; otherwise between a user and the user's own tokens, of what is theirs.
/// Also for a group whose owner cannot be read. A refusal is a 401 here, as clients know it.
pub(crate) async fn change_owner(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let id = take_group(&mut call.params)?;
    let new: AuthId = call.params.required("new-owner")?;
    let who = call.who()?.clone();
    let refused = || {
        ApiError::unauthorized(format!(
            "{} does not have permission to change owner of backup group '{}' to {new}",
            who.id(),
            id.group
        ))
    };
    let opened = match open(&daemon, &mut call, CHANGE_OWNER, &id.namespace) {
        Err(error) if error.status() == StatusCode::FORBIDDEN => return Err(refused()),
        result => result?,
    };
    call.params.finish()?;
    let own = |other: &AuthId| who.owns(other) || *other == AuthId::from(who.id().user().clone());
    if opened.reach != Reach::All && !own(&new) {
        return Err(refused());
    }
    // Before the lock, which shows whether somebody works with the group.
    opened.demand_group(&id).await.map_err(|_| refused())?;
    let snapshots = opened.store.snapshots();
    let group = snapshots.lock_group(&id).await?;
    let owner = snapshots.owner(&id).await?;
    if !opened.reach.covers(owner_of(owner.as_ref()).as_ref()) {
        return Err(refused());
    }
    if owner.is_none() && snapshots.group_info(id.clone()).await?.is_none() {
        return Err(ApiError::bad_request(format!("group {id} does not exist")));
    }
    if !daemon.authority.is_active(&new) {
        let kind = if new.token().is_some() {
            "token"
        } else {
            "user"
        };
        return Err(ApiError::bad_request(format!(
            "{kind} '{new}' is inactive or non-existent"
        )));
    }
    let owner = new.to_string().parse();
    let owner = owner.map_err(|error| ApiError::bad_request(format!("'{new}': {error}")))?;
    snapshots.set_owner(&group, &owner).await?;
    done()
}

/// `GET …/group-notes`
pub(crate) async fn notes(daemon: Arc<Daemon>, call: Call) -> CallResult {
    let (opened, id) = open_at(&daemon, call, LIST).await?;
    data(&opened.store.snapshots().group_notes(&id).await?)
}

/// `PUT …/group-notes`
pub(crate) async fn set_notes(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let notes: String = call.params.required("notes")?;
    let (opened, id) = open_at(&daemon, call, ANNOTATE).await?;
    opened
        .store
        .snapshots()
        .set_group_notes(&id, &notes)
        .await?;
    done()
}
