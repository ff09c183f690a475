//! `/config/datastore`: which datastores are configured, added and removed. Everything goes through the one file, which
//! is checked as a whole before it is replaced.

use std::sync::Arc;

use pbs_datastore::DatastoreName;
use serde_json::{Value, json};

use super::call::{Call, CallResult, data, done};
use super::datastore::describe_state;
use super::envelope::Reply;
use super::error::ApiError;
use super::parameter::{Parameter, count, flag, size, text, word};
use super::respond::blocking;
use super::rule::require;
use super::s3::REPORT;
use super::settings::{Settings, check_unset, take_name};
use super::shape::{Shape, always, maybe};
use crate::auth::{AclEntry, AclPath, Privilege};
use crate::config::{self, Backend, ConfigError, ConfigStore, Datastore, SyncLevel, unless_zero};
use crate::daemon::Daemon;
use crate::jobs::{JobKey, JobKind, PlannedJob, StoreUser};
use crate::protocol::SessionKind;
use crate::stores::TakeOver;

/// Where a datastore is; this is not changed later.
pub(super) const PLACE: &[Parameter] = &[
    word("backend", backends, "What it is kept in"),
    text("path", "The directory of a filesystem datastore"),
    text("s3", "The id of the S3 endpoint"),
    text("bucket", "The bucket"),
    text("prefix", "The prefix of its objects in the bucket"),
    text("cache-dir", "The directory of the local cache"),
];
/// All other settings of one that is made.
pub(super) const SETTINGS: &[Parameter] = &[
    word(
        "sync-level",
        sync_levels,
        "What is flushed to disk before a backup counts as finished",
    ),
    text(
        "gc-schedule",
        "When garbage is collected, a calendar event; never if it is left out",
    ),
    text("comment", "One line for people"),
    count(
        "gc-atime-cutoff-minutes",
        "How long what nobody uses is kept",
    ),
    count(
        "gc-jitter-seconds",
        "How many seconds later a collection may begin",
    ),
    count(
        "late-request-max-seconds",
        "How long a request that was given up may still take effect",
    ),
    size("cache-bytes-max", "The size of the local cache"),
    size("quota", "How much may be stored; 0 for no limit"),
    flag(
        "verify-new",
        "Every backup is read back when it is finished",
    ),
];
/// What only one that is there has.
pub(super) const MAINTENANCE: &[Parameter] = &[text(
    "maintenance-mode",
    "`read-only` or `offline`, and maybe a message",
)];
/// How the bucket of somebody else is taken.
pub(super) const TAKE_OVER: &[Parameter] = &[
    flag("take-over", "Take the bucket from its present owner"),
    PREVIOUS_OWNER_IS_DEAD,
];
pub(super) const PREVIOUS_OWNER_IS_DEAD: Parameter = flag(
    "previous-owner-is-dead",
    "The present owner runs nowhere any more, and need not be waited for",
);
pub(super) const NAME: Parameter = text("name", "The name of the datastore").required();
/// Most names that a change may take away.
pub(super) const DELETE_MAX: usize = 16;
/// As it is configured, and how it stands.
pub(super) const ENTRY: Shape = Shape::Section(
    &[PLACE, SETTINGS, MAINTENANCE],
    &[&[
        always("name", Shape::Text),
        maybe("state", Shape::Text),
        maybe("fault", Shape::Text),
        maybe("retried", Shape::Flag),
        maybe("cache", Shape::Map(&Shape::Integer)),
        maybe("check", CHECK),
    ]],
);
const CHECK: Shape = Shape::Object(&[&[always("time", Shape::Integer), always("report", REPORT)]]);

fn backends() -> Vec<&'static str> {
    vec!["filesystem", "s3"]
}

fn sync_levels() -> Vec<&'static str> {
    [SyncLevel::None, SyncLevel::File, SyncLevel::Filesystem]
        .map(name_of)
        .to_vec()
}

fn name_of(level: SyncLevel) -> &'static str {
    match level {
        SyncLevel::None => "none",
        SyncLevel::File => "file",
        SyncLevel::Filesystem => "filesystem",
    }
}

fn entry(daemon: &Daemon, name: &str, settings: &Datastore) -> Value {
    let mut entry = json!({
        "name": name,
        "backend": settings.backend.name(),
        "gc-atime-cutoff-minutes": settings.gc_atime_cutoff_minutes,
        "late-request-max-seconds": settings.late_request_max_seconds,
        "sync-level": name_of(settings.sync_level),
        "verify-new": settings.verify_new,
    });
    if let Some(quota) = unless_zero(settings.quota.get()) {
        entry["quota"] = json!(quota);
    }
    if let Some(maintenance) = &settings.maintenance {
        entry["maintenance-mode"] = json!(maintenance.to_string());
    }
    if let Some(schedule) = &settings.gc_schedule {
        entry["gc-schedule"] = json!(schedule.to_string());
    }
    if settings.gc_jitter_seconds > 0 {
        entry["gc-jitter-seconds"] = json!(settings.gc_jitter_seconds);
    }
    if let Some(comment) = &settings.comment {
        entry["comment"] = json!(comment);
    }
    match &settings.backend {
        Backend::Filesystem { path } => entry["path"] = json!(path),
        Backend::S3(s3) => {
            entry["s3"] = json!(s3.endpoint);
            entry["bucket"] = json!(s3.bucket);
            entry["prefix"] = json!(s3.prefix);
            entry["cache-dir"] = json!(s3.cache_dir);
            entry["cache-bytes-max"] = json!(s3.cache_bytes_max.get());
        }
    }
    describe_state(daemon, name, &mut entry);
    entry
}

fn none(name: &str) -> ApiError {
    ApiError::bad_request(format!("no such datastore '{name}'"))
}

/// `GET /config/datastore`: those that the caller may audit.
pub(crate) async fn list(daemon: Arc<Daemon>, call: Call) -> CallResult {
    let who = call.who()?.clone();
    call.params.finish()?;
    let config = daemon.config.read();
    let audits = |name: &str| {
        let path = AclPath::datastore(name);
        daemon
            .authority
            .allowed(&who, &path, Privilege::DatastoreAudit)
    };
    let visible = config.datastores.iter().filter(|(name, _)| audits(name));
    let list: Vec<Value> = visible
        .map(|(name, settings)| entry(&daemon, name, settings))
        .collect();
    Ok(Reply::new(&list)?.with("digest", &config.digest)?.into())
}

/// `GET /config/datastore/{name}`, with the last check of its bucket.
pub(crate) async fn show(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let name: DatastoreName = call.params.required("name")?;
    let path = AclPath::datastore(name.as_str());
    let needed = [Privilege::DatastoreAudit];
    require(&daemon.authority, call.who()?, &path, &needed)?;
    call.params.finish()?;
    let name = name.as_str();
    let config = daemon.config.read();
    let settings = config.datastores.get(name).ok_or_else(|| none(name))?;
    let mut entry = entry(&daemon, name, settings);
    let (stores, of) = (daemon.stores.clone(), name.to_owned());
    if let Some(check) = daemon.env.io(move |_| stores.last_check(&of)).await {
        entry["check"] = json!({ "time": check.time.as_second(), "report": check.report });
    }
    Ok(Reply::new(&entry)?.with("digest", &config.digest)?.into())
}

/// `POST /config/datastore`: adds it and opens it. One that cannot be opened is not added.
pub(crate) async fn create(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let params = &mut call.params;
    let name = take_name(params, "name")?;
    let take_over = params.flag("take-over")?.unwrap_or(false);
    let previous_owner_is_dead = params.flag("previous-owner-is-dead")?.unwrap_or(false);
    let digest: Option<String> = params.optional("digest")?;
    let settings = Settings::take(params, &[PLACE, SETTINGS])?;
    let path = AclPath::of(["datastore"]);
    let needed = [Privilege::DatastoreAllocate];
    require(&daemon.authority, call.who()?, &path, &needed)?;
    call.params.finish()?;
    let (store, id) = (daemon.config.clone(), name.clone());
    blocking(move || {
        store.edit(digest.as_deref(), |document| {
            if config::has_section(document, "datastore", &id) {
                return Err(format!("the datastore '{id}' exists already"));
            }
            settings.write(config::section(document, "datastore", &id)?);
            Ok(())
        })
    })
    .await?;
    let take_over = if take_over {
        TakeOver::Yes {
            previous_owner_is_dead,
        }
    } else {
        TakeOver::No
    };
    if let Err(fault) = daemon.stores.open_now(&name, take_over).await {
        // One that is not closed by now closes by itself.
        drop(daemon.stores.close(&name).await);
        let store = daemon.config.clone();
        // Rights on it may have been there before.
        blocking(move || remove_section(&store, None, &name, None)).await?;
        return Err(fault);
    }
    done()
}

/// What can be changed while a datastore is open, and what only when it is opened.
const LIVE: [&str; 6] = [
    "comment",
    "gc-schedule",
    "gc-jitter-seconds",
    "maintenance-mode",
    "quota",
    "verify-new",
];
const AT_OPENING: [&str; 4] = [
    "cache-bytes-max",
    "gc-atime-cutoff-minutes",
    "late-request-max-seconds",
    "sync-level",
];

/// `PUT /config/datastore/{name}`: changes the settings that are given, and sets those named in `delete` back to their
/// defaults. Some take effect only when the datastore is opened; it is then closed and opened, unless somebody works with it.
pub(crate) async fn update(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let params = &mut call.params;
    let name: DatastoreName = params.required("name")?;
    let digest: Option<String> = params.optional("digest")?;
    let settings = Settings::take(params, &[SETTINGS, MAINTENANCE])?;
    let unset = params.list::<String>("delete", DELETE_MAX)?;
    let optional = LIVE.iter().chain(&AT_OPENING).copied();
    let optional: Vec<&str> = optional.filter(|name| *name != "cache-bytes-max").collect();
    check_unset(&settings, &unset, &optional)?;
    let name = name.as_str().to_owned();
    let path = AclPath::datastore(&name);
    let needed = [Privilege::DatastoreModify];
    require(&daemon.authority, call.who()?, &path, &needed)?;
    call.params.finish()?;
    if !daemon.config.read().datastores.contains_key(&name) {
        return Err(none(&name));
    }
    let anew = |setting: &str| AT_OPENING.contains(&setting);
    let reopens = settings.names().any(anew) || unset.iter().any(|setting| anew(setting));
    let unused = reopens.then(|| refuse_in_use(&daemon, &name)).transpose()?;
    let (store, id) = (daemon.config.clone(), name.clone());
    blocking(move || {
        store.edit(digest.as_deref(), |document| {
            let table = config::section(document, "datastore", &id)?;
            settings.change(table, &unset);
            Ok(())
        })
    })
    .await?;
    daemon.jobs.look_again();
    daemon.stores.apply_settings();
    // One that is not open takes the settings when it is.
    if unused.is_some() && daemon.stores.opened(&name).is_ok() {
        daemon.stores.open_now(&name, TakeOver::No).await?;
    }
    done()
}

/// `DELETE /config/datastore/{name}`: closes it and forgets it, with its jobs and the rights on it. What is stored stays as it is.
pub(crate) async fn remove(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let name: DatastoreName = call.params.required("name")?;
    let digest: Option<String> = call.params.optional("digest")?;
    let name = name.as_str().to_owned();
    let path = AclPath::datastore(&name);
    let needed = [Privilege::DatastoreAllocate];
    require(&daemon.authority, call.who()?, &path, &needed)?;
    call.params.finish()?;
    if !daemon.config.read().datastores.contains_key(&name) {
        return Err(none(&name));
    }
    let _unused = refuse_in_use(&daemon, &name)?;
    daemon.stores.close(&name).await?;
    let (store, id) = (daemon.config.clone(), name.clone());
    let removed =
        blocking(move || remove_section(&store, digest.as_deref(), &id, Some(&path))).await;
    if let Err(error) = removed {
        daemon.reopen();
        return Err(error);
    }
    let stores = daemon.stores.clone();
    daemon.env.io(move |_| stores.forget(&name)).await;
    done()
}

/// Refuses to close a datastore that somebody works with; keeps tasks from starting meanwhile.
pub(super) fn refuse_in_use(daemon: &Daemon, name: &str) -> Result<StoreUser, ApiError> {
    let refuse = |what: &str| ApiError::bad_request(format!("{what}; wait for the end, or end it"));
    let writers = daemon
        .stores
        .opened(name)
        .is_ok_and(|store| !store.sessions().list().is_empty());
    let sessions = daemon.sessions.list();
    let here = || {
        sessions
            .iter()
            .filter(|session| session.subject.store.as_str() == name)
    };
    if writers || here().any(|session| session.subject.kind != SessionKind::Reader) {
        return Err(refuse(&format!(
            "a backup into datastore '{name}' is running"
        )));
    }
    if here().next().is_some() {
        return Err(refuse(&format!("a client reads from datastore '{name}'")));
    }
    daemon.jobs.keep_free(name).ok_or_else(|| {
        if daemon.jobs.is_running(&JobKey::new(JobKind::Gc, name)) {
            refuse(&format!(
                "garbage collection of datastore '{name}' is running"
            ))
        } else {
            refuse(&format!("a task works with datastore '{name}'"))
        }
    })
}

/// Removes a datastore from the configuration, with its jobs and the rights at and below `rights`.
fn remove_section(
    store: &ConfigStore,
    seen: Option<&str>,
    name: &str,
    rights: Option<&AclPath>,
) -> Result<(), ConfigError> {
    let known = store.read();
    store.edit(seen, |document| {
        if !config::remove(document, "datastore", name) {
            return Err(format!("no such datastore '{name}'"));
        }
        for job in PlannedJob::all(&known) {
            if job.key.kind != JobKind::Gc && job.store == name {
                config::remove(document, job.key.kind.name(), &job.key.id);
            }
        }
        for (id, job) in &known.sync {
            if job.remote.is_none() && job.remote_store == name {
                config::remove(document, JobKind::Sync.name(), id);
            }
        }
        let gone = |entry: &&AclEntry| rights.is_some_and(|path| entry.path.is_within(path));
        for entry in known.acl_entries.iter().filter(gone) {
            config::remove_acl(document, entry)?;
        }
        Ok(())
    })
}

/// `PUT /admin/datastore/{store}/s3-check`: tries out what the datastore's bucket can do, and keeps the result for the
/// next start. Our own, other servers have no such call.
pub(crate) async fn check(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let name: DatastoreName = call.params.required("store")?;
    let path = AclPath::datastore(name.as_str());
    let needed = [Privilege::DatastoreModify];
    require(&daemon.authority, call.who()?, &path, &needed)?;
    call.params.finish()?;
    data(&daemon.stores.check(name.as_str()).await?)
}
