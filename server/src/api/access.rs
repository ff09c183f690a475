//! `/access/ticket`, `/access/password`, `/access/permissions`, `/access/roles`, `/access/domains`.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use serde_json::{Value, json};

use super::call::{Call, CallResult, Caller, data, done};
use super::envelope::Reply;
use super::error::ApiError;
use super::rule::require;
use super::shape::{Shape, always};
use crate::auth::{AclPath, AuthId, Principal, Privilege, Privileges, Role, UserId};
use crate::daemon::Daemon;

/// The answer of a login.
pub(super) const LOGIN: Shape = Shape::Object(&[&[
    always("username", Shape::Text),
    always("ticket", Shape::Text),
    always("CSRFPreventionToken", Shape::Text),
]]);
/// Privileges by path.
pub(super) const PERMISSIONS: Shape = Shape::Map(&Shape::Map(&Shape::Flag));
pub(super) const ROLE: Shape = Shape::Object(&[&[
    always("roleid", Shape::Text),
    always("privs", Shape::List(&Shape::Text)),
]]);
pub(super) const REALM: Shape = Shape::Object(&[&[
    always("realm", Shape::Text),
    always("type", Shape::Text),
    always("default", Shape::Flag),
]]);

/// `POST /access/ticket`: a password, or a ticket that is still good, becomes a new ticket. Sets no cookie: clients
/// then use the ticket of the body.
pub(crate) async fn login(daemon: Arc<Daemon>, call: Call) -> CallResult {
    let address = match call.caller {
        Caller::Network(address) => address,
        Caller::Owner => IpAddr::V4(Ipv4Addr::LOCALHOST),
    };
    let mut params = call.params;
    let username: String = params.required("username")?;
    let password: String = params.required("password")?;
    if params.optional::<String>("tfa-challenge")?.is_some() {
        return Err(ApiError::bad_request(
            "there is no second factor here; send user name and password only",
        ));
    }
    params.ignore(&["new-format"]);
    params.finish()?;
    let login = daemon
        .authority
        .login(&username, &password, address)
        .await?;
    tracing::info!(target: "audit", who = %login.user, from = %call.caller, "logged in");
    let body = json!({
        "username": login.user,
        "ticket": login.ticket,
        "CSRFPreventionToken": login.csrf_token,
    });
    let reply = Reply::new(&body)?
        .with("status", &200)?
        .with("success", &true)?;
    Ok(reply.into())
}

/// `DELETE /access/ticket`: nothing to clear, since no cookie was set; the client forgets its ticket.
pub(crate) async fn logout(_: Arc<Daemon>, call: Call) -> CallResult {
    call.params.finish()?;
    done()
}

/// `PUT /access/password`: one's own password, or anybody's with `Permissions.Modify` on `/access/users`.
pub(crate) async fn set_password(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let user: UserId = call.params.required("userid")?;
    let password: String = call.params.required("password")?;
    let who = call.who()?;
    if who.id() != &AuthId::User(user.clone()) {
        may_administer(&daemon, who, &user)?;
    }
    call.params.finish()?;
    let accounts = daemon.authority.accounts();
    accounts.set_password(&user, &password).await?;
    done()
}

/// Whether `who` may change the account of `user`. The superuser's is the superuser's own affair.
pub(crate) fn may_administer(
    daemon: &Daemon,
    who: &Principal,
    user: &UserId,
) -> Result<(), ApiError> {
    let is_superuser = who.id() == &AuthId::User(UserId::root());
    if user.is_root() && !is_superuser {
        return Err(ApiError::forbidden(format!(
            "permission check failed: only {user} may change the account of {user}"
        )));
    }
    let path = AclPath::of(["access", "users"]);
    require(
        &daemon.authority,
        who,
        &path,
        &[Privilege::PermissionsModify],
    )
}

/// `GET /access/permissions`: what the caller, or with `Sys.Audit` on `/access` anybody, may do; by path.
pub(crate) async fn permissions(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let of: Option<AuthId> = call.params.optional("auth-id")?;
    let path: Option<AclPath> = call.params.optional("path")?;
    let who = call.who()?.clone();
    call.params.finish()?;
    let of = of.unwrap_or_else(|| who.id().clone());
    let own = &of == who.id() || of.is_owned_by(who.id());
    if !own {
        let place = AclPath::of(["access"]);
        require(&daemon.authority, &who, &place, &[Privilege::SysAudit])?;
    }
    let of = Principal::named(of);
    let paths = match path {
        Some(path) => vec![path],
        None => daemon.authority.known_paths(&of),
    };
    let all: BTreeMap<String, BTreeMap<&str, bool>> = paths
        .iter()
        .map(|path| {
            let granted = daemon.authority.privileges(&of, path);
            let below = |privilege: Privilege| (privilege.name(), true);
            (path.to_string(), granted.iter().map(below).collect())
        })
        .collect();
    data(&all)
}

/// `GET /access/roles`
pub(crate) async fn roles(_: Arc<Daemon>, call: Call) -> CallResult {
    call.params.finish()?;
    let names = |privileges: Privileges| privileges.iter().map(Privilege::name).collect::<Vec<_>>();
    let list: Vec<Value> = Role::ALL
        .iter()
        .map(|role| json!({ "roleid": role.name(), "privs": names(role.privileges()) }))
        .collect();
    data(&list)
}

/// `GET /access/domains`: the realms. Anyone may ask, as login forms do. All of them keep their passwords here.
pub(crate) async fn domains(daemon: Arc<Daemon>, call: Call) -> CallResult {
    call.params.finish()?;
    let config = daemon.config.read();
    let mut realms: Vec<&str> = config.users.keys().map(UserId::realm).collect();
    realms.push("pbs");
    realms.sort_unstable();
    realms.dedup();
    let list: Vec<Value> = realms
        .iter()
        .map(|realm| json!({ "realm": realm, "type": "pbs", "default": *realm == "pbs" }))
        .collect();
    data(&list)
}
