//! `/admin/datastore/{store}/namespace`: list, create, delete; and moves of groups and namespaces.

use std::sync::Arc;

use pbs_datastore::{Datastore, DatastoreName, DeleteOptions, NAMESPACE_DEPTH_MAX, Namespace};
use serde_json::{Value, json};

use super::call::{Call, CallResult, data};
use super::error::ApiError;
use super::groups::statistics;
use super::rule::{MODIFY, SEE_NAMESPACE};
use super::shape::{Shape, always};
use super::target::{Opened, open, take_depth, take_group};
use crate::auth::AclPath;
use crate::daemon::Daemon;
use crate::jobs::moving::{self, Moved};

/// A namespace of the list.
pub(super) const ENTRY: Shape = Shape::Object(&[&[always("ns", Shape::Text)]]);

/// `GET …/namespace`: a namespace and those below it that the caller may see. One that does not exist is listed alone,
/// as clients expect. Refused only if nothing at all may be seen.
pub(crate) async fn list(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let params = &mut call.params;
    let name: DatastoreName = params.required("store")?;
    let parent: Namespace = params.optional("parent")?.unwrap_or_else(Namespace::root);
    let depth = take_depth(params)?;
    let who = call.who()?.clone();
    call.params.finish()?;
    let authority = &daemon.authority;
    let place = |namespace: &Namespace| AclPath::namespace(name.as_str(), &namespace.to_string());
    let below = authority.privileges_below(&who, &place(&parent));
    if !below.intersects(SEE_NAMESPACE) {
        return Err(ApiError::forbidden(format!(
            "permission check failed: nothing at or below {} may be seen",
            place(&parent)
        )));
    }
    let store = daemon.stores.get(name.as_str())?;
    let depth = depth.unwrap_or(NAMESPACE_DEPTH_MAX);
    let found = store.snapshots().namespaces(&parent, depth).await?;
    let visible = found.iter().filter(|namespace| {
        authority
            .privileges_below(&who, &place(namespace))
            .intersects(SEE_NAMESPACE)
    });
    let list: Vec<Value> = visible
        .map(|namespace| json!({ "ns": namespace.to_string() }))
        .collect();
    data(&list)
}

/// `POST …/namespace`: answers the whole path, also of one that exists already.
pub(crate) async fn create(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let name: String = call.params.required("name")?;
    let parent: Option<Namespace> = call.params.optional("parent")?;
    let parent = parent.unwrap_or_else(Namespace::root);
    let Opened { store, .. } = open(&daemon, &mut call, MODIFY, &parent)?;
    call.params.finish()?;
    let namespace = store.snapshots().create_namespace(&parent, &name).await?;
    data(&namespace.to_string())
}

/// `DELETE …/namespace`: it and all below. Without `delete-groups` only empty ones go.
pub(crate) async fn remove(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let params = &mut call.params;
    let namespace: Namespace = params.required("ns")?;
    let delete_groups = params.flag("delete-groups")?.unwrap_or(false);
    let error_on_protected = params.flag("error-on-protected")?.unwrap_or(true);
    let parent = namespace.parent().ok_or_else(|| {
        ApiError::bad_request("the root namespace cannot be removed; name one below it in 'ns'")
    })?;
    let Opened { store, .. } = open(&daemon, &mut call, MODIFY, &parent)?;
    call.params.finish()?;
    // Everything that can go is to go before anything is said about what stays.
    let options = DeleteOptions {
        error_on_protected: false,
    };
    let snapshots = store.snapshots();
    let stats = snapshots
        .delete_namespace(&namespace, delete_groups, options)
        .await?;
    if stats.protected_snapshots > 0 && error_on_protected {
        return Err(ApiError::bad_request(format!(
            "namespace '{namespace}' was only partly deleted: {} snapshots are protected",
            stats.protected_snapshots
        )));
    }
    if stats.left_namespaces > 0 && stats.protected_snapshots == 0 {
        return Err(ApiError::bad_request(format!(
            "namespace '{namespace}' was only partly deleted: there are groups in it; delete-groups removes them too"
        )));
    }
    data(&statistics(&stats))
}

/// `POST …/move-group`: a group into another namespace of the datastore; answers the task's id. Both need the right to change
/// everything in them.
pub(crate) async fn move_group(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let group = take_group(&mut call.params)?;
    let target: Namespace = call.params.optional("target-ns")?.unwrap_or_default();
    let store = open_both(&daemon, &mut call, &group.namespace, &target)?;
    let user = call.who()?.id().clone();
    call.params.finish()?;
    let moved = Moved::Group(group);
    data(&moving::start(&daemon, store, moved, target, user)?)
}

/// `POST …/move-namespace`: a namespace with all that is in it; answers the task's id. It needs the right to remove the one and to make the
/// other.
pub(crate) async fn move_namespace(daemon: Arc<Daemon>, mut call: Call) -> CallResult {
    let namespace: Namespace = call.params.required("ns")?;
    let target: Namespace = call.params.required("target-ns")?;
    let above = |namespace: &Namespace| namespace.parent().unwrap_or_default();
    let store = open_both(&daemon, &mut call, &above(&namespace), &above(&target))?;
    let user = call.who()?.id().clone();
    call.params.finish()?;
    let moved = Moved::Namespace(namespace);
    data(&moving::start(&daemon, store, moved, target, user)?)
}

/// Opens a datastore for changes in two of its namespaces.
fn open_both(
    daemon: &Daemon,
    call: &mut Call,
    one: &Namespace,
    other: &Namespace,
) -> Result<Arc<Datastore>, ApiError> {
    let Opened { store, .. } = open(daemon, call, MODIFY, one)?;
    let (name, who) = (store.name().as_str(), call.who()?);
    MODIFY.check(&daemon.authority, who, name, &other.to_string())?;
    Ok(store)
}
