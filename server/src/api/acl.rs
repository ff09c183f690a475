//! `/access/acl`: the entries that give rights.
//!
//! With `Sys.Audit` or `Permissions.Modify` on `/access/acl` one sees all entries, otherwise those of oneself and one's
//! tokens. An entry is changed with `Permissions.Modify` on its path.

use std::sync::Arc;

use serde_json::{Value, json};

use super::call::{Call, CallResult, done};
use super::envelope::Reply;
use super::error::ApiError;
use super::parameter::{Parameter, flag, text, word};
use super::respond::blocking;
use super::rule::require;
use super::shape::{Shape, always};
use crate::auth::{AclEntry, AclPath, AuthId, Privilege, Privileges, Role};
use crate::daemon::Daemon;

/// An entry.
pub(super) const ENTRY: Shape = Shape::Object(&[&[
    always("path", Shape::Text),
    always("ugid", Shape::Text),
    always("ugid_type", Shape::Text),
    always("roleid", Shape::Text),
    always("propagate", Shape::Flag),
]]);
/// What changes an entry.
pub(super) const CHANGE: &[Parameter] = &[
    text("path", "To what the entry gives rights").required(),
    text("auth-id", "The user or API token that gets them").required(),
    word("role", roles, "Which rights").required(),
    flag(
        "propagate",
        "They hold for what is below the path too; so if it is left out",
    ),
    flag("delete", "The entry is taken away"),
    text("group", "Refused: there are no groups of users"),
];

fn roles() -> Vec<&'static str> {
    Role::ALL.iter().map(|role| role.name()).collect()
}

/// `GET /access/acl`; `path` restricts to a path and what is below, with `exact` to the path.
pub(crate) async fn list(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let path: Option<AclPath> = call.params.optional("path")?;
    let exact = call.params.flag("exact")?.unwrap_or(false);
    let who = call.who()?.clone();
    call.params.finish()?;
    let place = AclPath::of(["access", "acl"]);
    let any = Privileges::of(&[Privilege::SysAudit, Privilege::PermissionsModify]);
    let all = daemon.authority.privileges(&who, &place).intersects(any);
    let config = daemon.config.read();
    let wanted = |entry: &&AclEntry| {
        let at = path
            .as_ref()
            .is_none_or(|path| entry.path == *path || (!exact && entry.path.is_within(path)));
        at && (all || entry.id.is_owned_by(who.id()))
    };
    let list: Vec<Value> = config
        .acl_entries
        .iter()
        .filter(wanted)
        .map(|entry| {
            json!({
                "path": entry.path,
                "ugid": entry.id,
                "ugid_type": "user",
                "roleid": entry.role.name(),
                "propagate": entry.propagate,
            })
        })
        .collect();
    Ok(Reply::new(&list)?.with("digest", &config.digest)?.into())
}

/// `PUT /access/acl`: gives a role, or with `delete` takes it away.
pub(crate) async fn update(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let params = &mut call.params;
    let entry = AclEntry {
        path: params.required::<AclPath>("path")?,
        id: params.required::<AuthId>("auth-id")?,
        role: params.required::<Role>("role")?,
        propagate: params.flag("propagate")?.unwrap_or(true),
    };
    let delete = params.flag("delete")?.unwrap_or(false);
    let digest: Option<String> = params.optional("digest")?;
    if params.optional::<String>("group")?.is_some() {
        return Err(ApiError::bad_request(
            "there are no groups of users; name a user or token",
        ));
    }
    let needed = [Privilege::PermissionsModify];
    require(&daemon.authority, call.who()?, &entry.path, &needed)?;
    call.params.finish()?;
    let accounts = daemon.authority.accounts();
    blocking(move || {
        if delete {
            accounts.revoke(digest.as_deref(), &entry)
        } else {
            accounts.grant(digest.as_deref(), &entry)
        }
    })
    .await?;
    done()
}
