//! `/admin/datastore` and what belongs to a datastore as a whole: status, and who owns its bucket.

use std::collections::BTreeMap;
use std::sync::Arc;

use pbs_datastore::{BackupType, Datastore, DatastoreName, NAMESPACE_DEPTH_MAX, Namespace};
use s3_client::{MeterSnapshot, Op};
use serde_json::{Value, json};

use super::call::{Call, CallResult, data, done};
use super::error::ApiError;
use super::gc;
use super::rule::{MODIFY, SEE_SPACE, require};
use super::shape::{Member, Shape, always, maybe};
use super::target::{Opened, open};
use crate::auth::{AclPath, Principal, Privilege, Privileges};
use crate::daemon::Daemon;
use crate::jobs::refresh;
use crate::price::{Demand, PriceList};
use crate::stores::{StoreState, TakeOver};

/// An entry of the list.
pub(super) const ENTRY: Shape = Shape::Object(&[
    &[
        always("store", Shape::Text),
        always("comment", Shape::Either(&[Shape::Text, Shape::Null])),
        always("mount-status", Shape::Text),
        always("backend-type", Shape::Text),
    ],
    LOSS,
]);
/// Why it is not as it should be.
const LOSS: &[Member] = &[
    maybe("maintenance", Shape::Text),
    maybe("error", Shape::Text),
];
/// Room and what is stored.
pub(super) const STATUS: Shape = Shape::Object(&[
    &[
        always("total", Shape::Integer),
        always("used", Shape::Integer),
        always("avail", Shape::Integer),
        always("backend-type", Shape::Either(&[Shape::Text, Shape::Null])),
        maybe("s3-statistics", STATISTICS),
        maybe("usage", USAGE),
        maybe("cost", COST),
        maybe("gc-status", GC_STATUS),
        maybe("counts", Shape::Map(&Shape::Either(&[Shape::Null, COUNTS]))),
    ],
    LOSS,
]);
const GC_STATUS: Shape = Shape::Object(&[gc::STATUS]);
const COUNTS: Shape = Shape::Object(&[&[
    always("groups", Shape::Integer),
    always("snapshots", Shape::Integer),
]]);
const USAGE: Shape = Shape::Object(&[&[
    always("logical", Shape::Integer),
    always("stored", Shape::Integer),
    always("garbage", Shape::Integer),
    always("added", Shape::Integer),
    always("cached", Shape::Integer),
    maybe("quota", Shape::Integer),
]]);
const COST: Shape = Shape::Object(&[&[
    always("currency", Shape::Text),
    always("requests", Shape::Text),
    always("storage-month", Shape::Text),
]]);
const STATISTICS: Shape = Shape::Object(&[&[
    always("get", Shape::Integer),
    always("put", Shape::Integer),
    always("post", Shape::Integer),
    always("head", Shape::Integer),
    always("delete", Shape::Integer),
    always("uploaded", Shape::Integer),
    always("downloaded", Shape::Integer),
    always("operations", Shape::Map(&Shape::Map(&Shape::Any))),
]]);
/// How full a datastore is.
pub(super) const FULLNESS: Shape = Shape::Object(&[&[
    always("store", Shape::Text),
    always("mount-status", Shape::Text),
    always("backend-type", Shape::Text),
    maybe("total", Shape::Integer),
    maybe("used", Shape::Integer),
    maybe("avail", Shape::Integer),
    maybe("gc-status", GC_STATUS),
    maybe("error", Shape::Text),
]]);

/// Whether `who` sees the datastore in lists: with rights on it, or on any namespace in it.
fn sees(daemon: &Daemon, who: &Principal, store: &str) -> bool {
    let path = AclPath::datastore(store);
    let below = daemon.authority.privileges_below(who, &path);
    below.intersects(SEE_SPACE | Privileges::of(&[Privilege::DatastoreRead]))
}

/// `GET /admin/datastore`: one that is not available is listed too, with the reason.
pub(crate) async fn list(daemon: Arc<Daemon>, call: Call) -> CallResult {
    let who = call.who()?.clone();
    call.params.finish()?;
    let config = daemon.config.read();
    let all = config.datastores.iter();
    let visible = all.filter(|(name, _)| sees(&daemon, &who, name));
    let list: Vec<Value> = visible
        .map(|(name, settings)| {
            let mut entry = json!({
                "store": name,
                "comment": settings.comment,
                "mount-status": "nonremovable",
                "backend-type": settings.backend.name(),
            });
            if let Some(maintenance) = &settings.maintenance {
                entry["maintenance"] = json!(maintenance.to_string());
            }
            match daemon.stores.state(name) {
                Some(StoreState::Lost { fault, .. }) => describe_loss(&mut entry, &fault),
                state => {
                    if let Some((state, fault)) = unavailable(state.as_ref()) {
                        entry["maintenance"] = json!("offline");
                        entry["error"] = json!(fault.unwrap_or(state));
                    }
                }
            }
            entry
        })
        .collect();
    data(&list)
}

/// A datastore that somebody else owns now.
fn describe_loss(entry: &mut Value, fault: &str) {
    entry["maintenance"] = json!("read-only");
    entry["error"] = json!(fault);
}

/// Why a datastore cannot be used as it should: in a word, and the fault in a sentence.
fn unavailable(state: Option<&StoreState>) -> Option<(&str, Option<&str>)> {
    match state? {
        StoreState::Open(_) => None,
        StoreState::Lost { fault, .. } => Some(("lost-ownership", Some(fault))),
        StoreState::Opening => Some(("opening", None)),
        StoreState::Faulty { fault, .. } => Some(("faulty", Some(fault))),
        StoreState::Closed => Some(("closed", None)),
    }
}

/// State and fault of a datastore, for those who administer it.
pub(crate) fn describe_state(daemon: &Daemon, name: &str, entry: &mut Value) {
    let known = daemon.stores.state(name);
    if let Some(
        StoreState::Open(store)
        | StoreState::Lost {
            datastore: store, ..
        },
    ) = &known
    {
        entry["state"] = json!("open");
        entry["cache"] = cache_statistics(store);
    }
    if let Some(StoreState::Faulty { retried, .. }) = &known {
        entry["retried"] = json!(retried);
    }
    if let Some((state, fault)) = unavailable(known.as_ref()) {
        entry["state"] = json!(state);
        if let Some(fault) = fault {
            entry["fault"] = json!(fault);
        }
    }
}

/// What cache and reads have counted since the start, and how many inserts have waited for the end of a deletion.
fn cache_statistics(store: &Datastore) -> Value {
    let mut body = json!(store.cache_counts());
    body["bytes"] = json!(store.cache_bytes());
    body["condemned-waits"] = json!(store.condemned_waits());
    body
}

/// `GET …/status`: room, and with `verbose` counts and the last garbage collection. Room is shown with Audit or Backup.
pub(crate) async fn status(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let name: DatastoreName = call.params.required("store")?;
    let verbose = call.params.flag("verbose")?.unwrap_or(false);
    let who = call.who()?.clone();
    call.params.finish()?;
    let (name, path) = (name.as_str(), AclPath::datastore(name.as_str()));
    if !sees(&daemon, &who, name) {
        let any = [Privilege::DatastoreAudit, Privilege::DatastoreBackup];
        require(&daemon.authority, &who, &path, &any)?;
    }
    let store = daemon.stores.get(name)?;
    let config = daemon.config.read();
    let backend = config.datastores.get(name).map(|d| d.backend.name());
    let granted = daemon.authority.privileges(&who, &path);
    if !granted.intersects(SEE_SPACE) {
        // Clients divide by the total.
        return data(&json!({ "total": 1, "used": 0, "avail": 0, "backend-type": backend }));
    }
    let space = store.space().await?;
    let mut body = json!({
        "total": space.total.max(1),
        "used": space.used,
        "avail": space.avail,
        "backend-type": backend,
    });
    if let Some(StoreState::Lost { fault, .. }) = daemon.stores.state(name) {
        describe_loss(&mut body, &fault);
    }
    let usage = store.usage();
    let (stores, of) = (daemon.stores.clone(), name.to_owned());
    if let Some(meters) = daemon.env.io(move |_| stores.meters(&of)).await {
        body["s3-statistics"] = s3_statistics(&meters);
        if let Some(prices) = config.endpoint_of(name).and_then(PriceList::of) {
            body["cost"] = prices.to_json(&Demand::of(&meters), usage.stored);
        }
    }
    body["usage"] = json!(usage);
    if verbose {
        body["gc-status"] = gc::to_json(&store.gc_status().unwrap_or_default())?;
        body["counts"] = counts(&store).await?;
    }
    data(&body)
}

/// `GET /status/datastore-usage`: how full the datastores are that the caller sees. One that cannot be looked at says why.
pub(crate) async fn usage(daemon: Arc<Daemon>, call: Call) -> CallResult {
    let who = call.who()?.clone();
    call.params.finish()?;
    let config = daemon.config.read();
    let mut list = Vec::new();
    for (name, settings) in &config.datastores {
        if !sees(&daemon, &who, name) {
            continue;
        }
        let mut entry = json!({
            "store": name,
            "mount-status": "nonremovable",
            "backend-type": settings.backend.name(),
        });
        let path = AclPath::datastore(name);
        if daemon
            .authority
            .privileges(&who, &path)
            .intersects(SEE_SPACE)
            && let Err(fault) = describe_usage(&daemon, name, &mut entry).await
        {
            entry["error"] = json!(fault.to_string());
        }
        list.push(entry);
    }
    data(&list)
}

async fn describe_usage(daemon: &Daemon, name: &str, entry: &mut Value) -> Result<(), ApiError> {
    let store = daemon.stores.get(name)?;
    let space = store.space().await?;
    entry["total"] = json!(space.total.max(1));
    entry["used"] = json!(space.used);
    entry["avail"] = json!(space.avail);
    entry["gc-status"] = gc::to_json(&store.gc_status().unwrap_or_default())?;
    Ok(())
}

/// `PUT …/s3-refresh`: answers the task's id.
pub(crate) async fn refresh(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let Opened { store, .. } = open(&daemon, &mut call, MODIFY, &Namespace::root())?;
    let user = call.who()?.id().clone();
    call.params.finish()?;
    data(&refresh::start(&daemon, store.name().as_str(), user)?)
}

/// Groups and snapshots by type, over all namespaces; `null` for a type without any.
async fn counts(store: &Arc<Datastore>) -> Result<Value, ApiError> {
    let mut sums: BTreeMap<BackupType, (u64, u64)> = BTreeMap::new();
    let snapshots = store.snapshots();
    let root = Namespace::root();
    for namespace in snapshots.namespaces(&root, NAMESPACE_DEPTH_MAX).await? {
        for group in snapshots.groups(&namespace).await? {
            let sum = sums.entry(group.id.group.kind).or_default();
            sum.0 += 1;
            sum.1 += group.count;
        }
    }
    let mut counts = json!({ "other": null });
    for kind in BackupType::ALL {
        let sum = sums.get(&kind);
        counts[kind.as_str()] = sum.map_or(
            Value::Null,
            |(groups, snapshots)| json!({ "groups": groups, "snapshots": snapshots }),
        );
    }
    Ok(counts)
}

/// Requests by method and bytes, as clients know them; in full under `operations`.
fn s3_statistics(meters: &MeterSnapshot) -> Value {
    let requests = |ops: &[Op]| ops.iter().map(|op| meters.op(*op).requests).sum::<u64>();
    let total = |of: fn(&s3_client::OpSnapshot) -> u64| meters.0.values().map(of).sum::<u64>();
    json!({
        "get": requests(&[Op::Get, Op::List, Op::Bucket]),
        "put": requests(&[Op::Put, Op::UploadPart, Op::Copy]),
        "post": requests(&[Op::Delete, Op::CreateMultipart, Op::CompleteMultipart]),
        "head": requests(&[Op::Head]),
        "delete": requests(&[Op::AbortMultipart]),
        "uploaded": total(|op| op.bytes_out),
        "downloaded": total(|op| op.bytes_in),
        "operations": meters,
    })
}

async fn is_owner(store: &Datastore) -> Result<bool, ApiError> {
    match store.check_ownership().await {
        Ok(()) => Ok(true),
        Err(pbs_datastore::Error::NotOwner(_)) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// `POST …/take-over`: takes the bucket from its present owner. Our own, other servers have no such call.
pub(crate) async fn take_over(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let name: DatastoreName = call.params.required("store")?;
    let previous_owner_is_dead = call.params.flag("previous-owner-is-dead")?.unwrap_or(false);
    let path = AclPath::datastore(name.as_str());
    let needed = [Privilege::DatastoreAllocate];
    require(&daemon.authority, call.who()?, &path, &needed)?;
    call.params.finish()?;
    if !daemon.config.read().datastores.contains_key(name.as_str()) {
        return Err(ApiError::bad_request(format!("no such datastore '{name}'")));
    }
    if let Ok(store) = daemon.stores.get(name.as_str())
        && is_owner(&store).await?
    {
        return Err(ApiError::bad_request(format!(
            "datastore '{name}' is open here already: there is nothing to take over"
        )));
    }
    let take_over = TakeOver::Yes {
        previous_owner_is_dead,
    };
    daemon.stores.open_now(name.as_str(), take_over).await?;
    done()
}
