//! `/config/remote`: other servers of the protocol that snapshots are pulled from and pushed to. Passwords go in and never come out.

use std::sync::Arc;

use pbs_datastore::{DatastoreName, Namespace};
use serde_json::{Value, json};

use super::call::{Call, CallResult, data, done};
use super::envelope::Reply;
use super::error::ApiError;
use super::parameter::{Parameter, count, ignored, text};
use super::rule::require;
use super::settings::{Settings, take_name};
use super::shape::{Shape, always};
use super::target::take_namespace;
use super::with_secret::{Change, WithSecret};
use crate::auth::{AclPath, Privilege};
use crate::config::{REMOTE_PASSWORD_BYTES_MAX, Remote};
use crate::daemon::Daemon;
use crate::jobs::sync::{access, no_remote};
use crate::pace::Pace;
use crate::remote::{RemoteStore, Scan};

/// All settings.
pub(super) const SETTINGS: &[Parameter] = &[
    text("host", "Its name or address, IPv6 without brackets"),
    text("auth-id", "A user or an API token of that server"),
    text(
        "fingerprint",
        "The SHA-256 of its certificate; one that a known authority has signed is demanded if it is left out",
    ),
    text("comment", "One line for people"),
    count("port", "The port that it listens on"),
    ignored("use-node-proxy"),
];
pub(super) const NAME: Parameter = text("name", "The name of the remote").required();
pub(super) const PASSWORD: Parameter = text(
    "password",
    "The password, or the secret of the token; it is never shown",
);
/// As it is configured.
pub(super) const ENTRY: Shape = Shape::Section(&[SETTINGS], &[&[always("name", Shape::Text)]]);

static REMOTES: WithSecret = WithSecret {
    section: "remote",
    secrets: "remotes",
    parameter: PASSWORD.name,
    secret: |secrets, id| Some(secrets.remotes.get(id)?.reveal().to_owned()),
    bytes_max: REMOTE_PASSWORD_BYTES_MAX,
    optional: &["port", "fingerprint", "comment"],
};
/// Stands for a datastore where none is meant.
const NO_STORE: &str = "none";

fn place(id: &str) -> AclPath {
    AclPath::of(["remote", id])
}

fn demand(daemon: &Daemon, call: &Call, id: &str, privilege: Privilege) -> Result<(), ApiError> {
    require(&daemon.authority, call.who()?, &place(id), &[privilege])
}

fn entry(id: &str, remote: &Remote) -> Value {
    let mut entry = json!({
        "name": id,
        "host": remote.host,
        "port": remote.port,
        "auth-id": remote.auth_id.to_string(),
    });
    if let Some(fingerprint) = &remote.fingerprint {
        entry["fingerprint"] = json!(fingerprint.to_string());
    }
    if let Some(comment) = &remote.comment {
        entry["comment"] = json!(comment);
    }
    entry
}

/// `GET /config/remote`: those that the caller may audit.
pub(crate) async fn list(daemon: Arc<Daemon>, call: Call) -> CallResult {
    let who = call.who()?.clone();
    call.params.finish()?;
    let config = daemon.config.read();
    let sees = |id: &str| {
        let authority = &daemon.authority;
        authority.allowed(&who, &place(id), Privilege::RemoteAudit)
    };
    let seen = config.remotes.iter().filter(|(id, _)| sees(id));
    let list: Vec<Value> = seen.map(|(id, remote)| entry(id, remote)).collect();
    Ok(Reply::new(&list)?.with("digest", &config.digest)?.into())
}

/// `GET /config/remote/{name}`
pub(crate) async fn show(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let id: String = call.params.required("name")?;
    demand(&daemon, &call, &id, Privilege::RemoteAudit)?;
    call.params.finish()?;
    let config = daemon.config.read();
    let remote = config.remotes.get(&id).ok_or_else(|| no_remote(&id))?;
    let reply = Reply::new(&entry(&id, remote))?;
    Ok(reply.with("digest", &config.digest)?.into())
}

fn take(call: &mut Call) -> Result<Change, ApiError> {
    let settings = Settings::take(&mut call.params, &[SETTINGS])?;
    REMOTES.take(call, settings)
}

/// `POST /config/remote`
pub(crate) async fn create(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let id = take_name(&mut call.params, "name")?;
    demand(&daemon, &call, &id, Privilege::RemoteModify)?;
    let change = take(&mut call)?;
    call.params.finish()?;
    if change.secret.is_none() {
        return Err(ApiError::bad_request(
            "parameter verification failed: 'password' is missing",
        ));
    }
    REMOTES.create(&daemon, id, change).await?;
    done()
}

/// `PUT /config/remote/{name}`: changes the settings that are given, and sets those named in `delete` back to their defaults.
pub(crate) async fn update(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let id: String = call.params.required("name")?;
    demand(&daemon, &call, &id, Privilege::RemoteModify)?;
    let change = take(&mut call)?;
    call.params.finish()?;
    // Whoever may only change where the remote is does not get the password sent there.
    if change.secret.is_none() && change.names().any(|name| name != "comment") {
        return Err(ApiError::bad_request(
            "parameter verification failed: 'password' is missing: it is needed with a change of where the remote is, and as whom it is entered",
        ));
    }
    REMOTES.update(&daemon, id, change).await?;
    done()
}

/// `DELETE /config/remote/{name}`: with its password; refused while a sync job uses it.
pub(crate) async fn remove(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let id: String = call.params.required("name")?;
    demand(&daemon, &call, &id, Privilege::RemoteModify)?;
    let digest: Option<String> = call.params.optional("digest")?;
    let who = call.who()?.clone();
    call.params.finish()?;
    let config = daemon.config.read();
    let users = config.sync.iter();
    let users = users.filter(|(_, job)| job.remote.as_deref() == Some(&*id));
    let users: Vec<&str> = users.map(|(name, _)| name.as_str()).collect();
    if !users.is_empty() {
        let audits = daemon
            .authority
            .allowed(&who, &AclPath::of(["system"]), Privilege::SysAudit);
        let named = if audits {
            format!("sync job {}", users.join(", "))
        } else {
            "a sync job".to_owned()
        };
        return Err(ApiError::bad_request(format!(
            "the remote '{id}' is used by {named}"
        )));
    }
    REMOTES.remove(&daemon, id, digest).await?;
    done()
}

/// `GET /config/remote/{name}/scan`: the datastores that the remote's account may see.
pub(crate) async fn scan(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let id: String = call.params.required("name")?;
    demand(&daemon, &call, &id, Privilege::RemoteAudit)?;
    call.params.finish()?;
    ask(&daemon, &id, NO_STORE, &Scan::Datastores).await
}

/// `GET /config/remote/{name}/scan/{store}/groups`
pub(crate) async fn scan_groups(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let namespace: Namespace = take_namespace(&mut call.params)?;
    let (id, store) = take_place(&daemon, &mut call, &namespace)?;
    call.params.finish()?;
    ask(&daemon, &id, &store, &Scan::Groups(namespace)).await
}

/// `GET /config/remote/{name}/scan/{store}/namespaces`
pub(crate) async fn scan_namespaces(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let (id, store) = take_place(&daemon, &mut call, &Namespace::root())?;
    call.params.finish()?;
    ask(&daemon, &id, &store, &Scan::Namespaces).await
}

fn take_place(
    daemon: &Daemon,
    call: &mut Call,
    namespace: &Namespace,
) -> Result<(String, String), ApiError> {
    let id: String = call.params.required("name")?;
    let store: DatastoreName = call.params.required("store")?;
    let path = AclPath::remote(&id, store.as_str(), &namespace.to_string());
    let needed = [Privilege::RemoteAudit];
    require(&daemon.authority, call.who()?, &path, &needed)?;
    Ok((id, store.to_string()))
}

async fn ask(daemon: &Arc<Daemon>, id: &str, store: &str, scan: &Scan) -> CallResult {
    let config = daemon.config.read();
    let remote = config.remotes.get(id).ok_or_else(|| no_remote(id))?;
    let access = access(daemon, id, remote, store, Pace::default())?;
    let remote = RemoteStore::new(access, daemon.env.clone(), daemon.budget.clone());
    let found = remote
        .scan(scan)
        .await
        .map_err(|error| ApiError::bad_request(format!("remote '{id}': {error}")))?;
    data(&found)
}
