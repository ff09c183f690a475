//! `/config/s3` and `/admin/s3`: the S3 servers that datastores use. Keys go in and never come out.

use std::sync::Arc;

use s3_client::BucketOutcome;
use serde_json::{Value, json};

use super::call::{Call, CallResult, data, done};
use super::envelope::Reply;
use super::error::ApiError;
use super::parameter::{Parameter, count, flag, size, text, word};
use super::respond::blocking;
use super::rule::require;
use super::settings::{Settings, check_unset, names, take_name};
use super::shape::{Shape, always};
use super::stores::refuse_in_use;
use crate::auth::{AclPath, Privilege};
use crate::config::{
    self, Backend, Config, ConfigError, CredentialsKind, S3Endpoint, SecretsStore,
};
use crate::daemon::Daemon;
use crate::stores::{StoreState, TakeOver};

/// The one setting that is always there.
pub(super) const ENDPOINT: &[Parameter] = &[text("endpoint", "The URL of the server")];
/// The others.
pub(super) const OPTIONAL: &[Parameter] = &[
    text("region", "The region that requests are signed for"),
    word("credentials", credentials, "Where the keys come from"),
    text("profile", "The profile of the file with keys"),
    text(
        "ca-file",
        "A file with the authority that has signed the server's certificate",
    ),
    text("fingerprint", "The SHA-256 of the server's certificate"),
    size(
        "upload-bytes-per-second-max",
        "Bytes per second to the server; 0 for no limit",
    ),
    size(
        "download-bytes-per-second-max",
        "Bytes per second from the server; 0 for no limit",
    ),
    count("requests-in-flight-max", "Requests at once"),
    count(
        "requests-per-second-max",
        "Requests per second; 0 for no limit",
    ),
    count("connect-timeout-seconds", "How long a connection may take"),
    count("request-timeout-seconds", "How long a request may take"),
    count("attempts-max", "How often a request is tried"),
    flag(
        "path-style",
        "The bucket stands in the path and not in the host name",
    ),
    flag(
        "sign-payloads",
        "Bodies are hashed and the hash is signed; off only over TLS",
    ),
];
/// What says nothing about how the server is reached.
pub(super) const REMARKS: &[Parameter] = &[
    text("price-currency", "What prices are in, such as EUR"),
    text(
        "price-writes",
        "Price of a million requests that store, copy or list",
    ),
    text("price-reads", "Price of a million requests that read"),
    text("price-gib-out", "Price of a GiB that leaves the bucket"),
    text("price-gib-month", "Price of a GiB that is kept for a month"),
    text("comment", "One line for people"),
];
/// The keys; they are never shown.
pub(super) const KEYS: &[Parameter] = &[
    text(
        "access-key",
        "The access key; only together with the secret key",
    ),
    text("secret-key", "The secret key; it is never shown"),
];
pub(super) const ID: Parameter = text("id", "The id of the S3 endpoint").required();
/// Most names that a change may take away.
pub(super) const DELETE_MAX: usize = 32;
/// As it is configured.
pub(super) const ENTRY: Shape = Shape::Section(
    &[ENDPOINT, OPTIONAL, REMARKS],
    &[&[always("id", Shape::Text)]],
);
/// What a bucket was found to be able to do.
pub(super) const REPORT: Shape = Shape::Object(&[&[
    always("capabilities", Shape::Map(&Shape::Any)),
    always("findings", Shape::List(&FINDING)),
]]);
/// A bucket of a server.
pub(super) const BUCKET: Shape = Shape::Object(&[&[always("name", Shape::Text)]]);
/// Whether a bucket was made, or was there.
pub(super) const NEW_BUCKET: Shape = Shape::Object(&[&[always("created", Shape::Flag)]]);
const FINDING: Shape = Shape::Object(&[&[
    always("check", Shape::Text),
    always("state", Shape::Text),
    always("detail", Shape::Text),
]]);

fn credentials() -> Vec<&'static str> {
    let all = [
        CredentialsKind::Static,
        CredentialsKind::Environment,
        CredentialsKind::Profile,
    ];
    all.map(name_of).to_vec()
}

fn name_of(credentials: CredentialsKind) -> &'static str {
    match credentials {
        CredentialsKind::Static => "static",
        CredentialsKind::Environment => "environment",
        CredentialsKind::Profile => "profile",
    }
}

/// Where a check writes if nobody says where.
const CHECK_PREFIX: &str = "holdfast-check";

fn place() -> AclPath {
    AclPath::of(["system", "s3"])
}

fn demand(daemon: &Daemon, call: &Call, privilege: Privilege) -> Result<(), ApiError> {
    require(&daemon.authority, call.who()?, &place(), &[privilege])
}

fn entry(id: &str, s3: &S3Endpoint) -> Value {
    let mut entry = json!({
        "id": id,
        "endpoint": s3.endpoint,
        "region": s3.region,
        "path-style": s3.path_style,
        "sign-payloads": s3.sign_payloads,
        "credentials": name_of(s3.credentials),
        "requests-in-flight-max": s3.requests_in_flight_max,
        "requests-per-second-max": s3.requests_per_second_max,
        "upload-bytes-per-second-max": s3.upload_bytes_per_second_max.get(),
        "download-bytes-per-second-max": s3.download_bytes_per_second_max.get(),
        "connect-timeout-seconds": s3.connect_timeout_seconds,
        "request-timeout-seconds": s3.request_timeout_seconds,
        "attempts-max": s3.attempts_max,
    });
    let ca_file = s3.ca_file.as_ref().map(|path| path.display().to_string());
    let fingerprint = s3.fingerprint.map(|print| print.to_string());
    if let Some(currency) = &s3.price_currency {
        entry["price-currency"] = json!(currency);
        entry["price-writes"] = json!(s3.price_writes);
        entry["price-reads"] = json!(s3.price_reads);
        entry["price-gib-out"] = json!(s3.price_gib_out);
        entry["price-gib-month"] = json!(s3.price_gib_month);
    }
    let optional = [
        ("profile", s3.profile.clone()),
        ("comment", s3.comment.clone()),
        ("ca-file", ca_file),
        ("fingerprint", fingerprint),
    ];
    for (name, value) in optional {
        if let Some(value) = value {
            entry[name] = json!(value);
        }
    }
    entry
}

/// `GET /config/s3`
pub(crate) async fn list(daemon: Arc<Daemon>, call: Call) -> CallResult {
    demand(&daemon, &call, Privilege::SysAudit)?;
    call.params.finish()?;
    let config = daemon.config.read();
    let list: Vec<Value> = config.s3.iter().map(|(id, s3)| entry(id, s3)).collect();
    Ok(Reply::new(&list)?.with("digest", &config.digest)?.into())
}

/// `GET /config/s3/{id}`
pub(crate) async fn show(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let id: String = call.params.required("id")?;
    demand(&daemon, &call, Privilege::SysAudit)?;
    call.params.finish()?;
    let config = daemon.config.read();
    let s3 = config.s3.get(&id);
    let s3 = s3.ok_or_else(|| ApiError::bad_request(format!("there is no S3 endpoint '{id}'")))?;
    let reply = Reply::new(&entry(&id, s3))?;
    Ok(reply.with("digest", &config.digest)?.into())
}

/// An access key, and the secret one that belongs to it.
type Keys = Option<(String, String)>;

/// Takes the settings and keys of a call, and the digest.
fn take(call: &mut Call) -> Result<(Option<String>, Settings, Keys), ApiError> {
    let params = &mut call.params;
    let digest: Option<String> = params.optional("digest")?;
    let access_key: Option<String> = params.optional("access-key")?;
    let secret_key: Option<String> = params.optional("secret-key")?;
    let settings = Settings::take(params, &[ENDPOINT, OPTIONAL, REMARKS])?;
    match (access_key, secret_key) {
        (Some(access), Some(secret)) => Ok((digest, settings, Some((access, secret)))),
        (None, None) => Ok((digest, settings, None)),
        _ => Err(ApiError::bad_request(
            "access-key and secret-key are given together or not at all",
        )),
    }
}

/// Keeps the keys of an endpoint that is there.
fn write_keys(secrets: &SecretsStore, id: &str, keys: Keys) -> Result<(), ConfigError> {
    let Some((access, secret)) = keys else {
        return Ok(());
    };
    secrets.edit(None, |document| {
        let table = config::section(document, "s3", id)?;
        config::set(table, "access-key", Some(access));
        config::set(table, "secret-key", Some(secret));
        Ok(())
    })
}

/// `POST /config/s3`: the keys go into the secrets file, after the endpoint is there.
pub(crate) async fn create(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    demand(&daemon, &call, Privilege::SysModify)?;
    let id = take_name(&mut call.params, "id")?;
    let (digest, settings, keys) = take(&mut call)?;
    call.params.finish()?;
    let (store, secrets) = (daemon.config.clone(), daemon.secrets.clone());
    blocking(move || {
        store.edit(digest.as_deref(), |document| {
            if config::has_section(document, "s3", &id) {
                return Err(format!("the S3 endpoint '{id}' exists already"));
            }
            settings.write(config::section(document, "s3", &id)?);
            Ok(())
        })?;
        write_keys(&secrets, &id, keys)
    })
    .await?;
    done()
}

/// `PUT /config/s3/{id}`: changes the settings that are given, and sets those named in `delete` back to their defaults. The datastores that use it
/// are closed and opened, unless somebody works with one of them; not for prices and a comment.
pub(crate) async fn update(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    demand(&daemon, &call, Privilege::SysModify)?;
    let id: String = call.params.required("id")?;
    let (digest, settings, keys) = take(&mut call)?;
    let unset = call.params.list::<String>("delete", DELETE_MAX)?;
    call.params.finish()?;
    check_unset(&settings, &unset, &names(&[OPTIONAL, REMARKS]))?;
    let mut changed: Vec<&str> = settings.names().collect();
    changed.extend(unset.iter().map(String::as_str));
    let remarks = names(&[REMARKS]);
    let remarks_only = keys.is_none() && changed.iter().all(|name| remarks.contains(name));
    let users = if remarks_only {
        Vec::new()
    } else {
        users(&daemon.config.read(), &id)
    };
    let kept = users.iter().map(|name| refuse_in_use(&daemon, name));
    let kept = kept.collect::<Result<Vec<_>, _>>()?;
    let (store, secrets) = (daemon.config.clone(), daemon.secrets.clone());
    blocking(move || {
        store.edit(digest.as_deref(), |document| {
            if !config::has_section(document, "s3", &id) {
                return Err(format!("there is no S3 endpoint '{id}'"));
            }
            let table = config::section(document, "s3", &id)?;
            settings.change(table, &unset);
            Ok(())
        })?;
        write_keys(&secrets, &id, keys)
    })
    .await?;
    let mut faults = Vec::new();
    for name in users {
        // What another daemon has taken over stays as it is, and so does what is nobody's now. The state is not kept: it has
        // the datastore, whose directory stays locked as long as anybody does.
        let holds = matches!(
            daemon.stores.state(&name),
            Some(StoreState::Open(_) | StoreState::Faulty { .. } | StoreState::Opening)
        );
        if holds && let Err(error) = daemon.stores.open_now(&name, TakeOver::No).await {
            faults.push(error.message().to_owned());
        }
    }
    drop(kept);
    // What could not be closed in time is opened when it is.
    daemon.reopen();
    match faults.as_slice() {
        [] => done(),
        faults => Err(ApiError::bad_request(format!(
            "the settings were changed, but with them {}",
            faults.join("; ")
        ))),
    }
}

/// The datastores that use an endpoint.
fn users(config: &Config, id: &str) -> Vec<String> {
    let uses = |backend: &Backend| matches!(backend, Backend::S3(s3) if s3.endpoint == id);
    let users = config.datastores.iter();
    let users = users.filter(|(_, datastore)| uses(&datastore.backend));
    users.map(|(name, _)| name.clone()).collect()
}

/// `DELETE /config/s3/{id}`: with its keys; refused while a datastore uses it.
pub(crate) async fn remove(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    demand(&daemon, &call, Privilege::SysModify)?;
    let id: String = call.params.required("id")?;
    let digest: Option<String> = call.params.optional("digest")?;
    call.params.finish()?;
    let users = users(&daemon.config.read(), &id);
    if !users.is_empty() {
        return Err(ApiError::bad_request(format!(
            "the S3 endpoint '{id}' is used by datastore {}",
            users.join(", ")
        )));
    }
    let (store, secrets) = (daemon.config.clone(), daemon.secrets.clone());
    blocking(move || {
        // The file's own check makes sure that no datastore has come to use it meanwhile.
        store.edit(digest.as_deref(), |document| {
            if config::remove(document, "s3", &id) {
                Ok(())
            } else {
                Err(format!("there is no S3 endpoint '{id}'"))
            }
        })?;
        secrets.edit(None, |document| {
            config::remove(document, "s3", &id);
            Ok(())
        })
    })
    .await?;
    done()
}

/// `PUT /admin/s3/{id}/check`: tries out what a bucket can do. Nothing is kept.
pub(crate) async fn check(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    demand(&daemon, &call, Privilege::SysModify)?;
    let id: String = call.params.required("id")?;
    let bucket: String = call.params.required("bucket")?;
    let prefix: Option<String> = call.params.optional("store-prefix")?;
    call.params.finish()?;
    let prefix = prefix.as_deref().unwrap_or(CHECK_PREFIX).trim_matches('/');
    data(&daemon.stores.check_bucket(&id, &bucket, prefix).await?)
}

/// `GET /config/s3/{id}/list-buckets`: the buckets of the owner of the keys.
pub(crate) async fn list_buckets(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let id: String = call.params.required("id")?;
    demand(&daemon, &call, Privilege::SysAudit)?;
    call.params.finish()?;
    let names = daemon.stores.endpoint(&id)?.list_buckets().await;
    let names =
        names.map_err(|error| ApiError::bad_request(format!("S3 endpoint '{id}': {error}")))?;
    let list: Vec<Value> = names.iter().map(|name| json!({ "name": name })).collect();
    data(&list)
}

/// `POST /admin/s3/{id}/create-bucket`: makes a bucket unless it is there. One that belongs to the owner of the keys is left as it is.
pub(crate) async fn create_bucket(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    demand(&daemon, &call, Privilege::SysModify)?;
    let id: String = call.params.required("id")?;
    let bucket: String = call.params.required("bucket")?;
    call.params.finish()?;
    let outcome = daemon.stores.endpoint(&id)?.create_bucket(&bucket).await;
    let outcome =
        outcome.map_err(|error| ApiError::bad_request(format!("S3 endpoint '{id}': {error}")))?;
    match outcome {
        BucketOutcome::Created => data(&json!({ "created": true })),
        BucketOutcome::Ours => data(&json!({ "created": false })),
        BucketOutcome::Theirs => Err(ApiError::bad_request(format!(
            "somebody else has a bucket '{bucket}'; choose another name"
        ))),
        BucketOutcome::Somebodys => Err(ApiError::bad_request(format!(
            "there is a bucket '{bucket}' already, and whose it is cannot be told, since the keys may not list buckets; use it if it is yours, or choose another name"
        ))),
        BucketOutcome::Unknown => Err(ApiError::unavailable(format!(
            "the answer was lost, so nobody knows whether the bucket '{bucket}' was made; look again later with: holdfast s3 list-buckets {id}"
        ))),
    }
}
