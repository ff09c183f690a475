//! What calls about a datastore's contents name: the datastore, a namespace, a group, a snapshot; and how the
//! datastore's failures are answered.

use std::sync::Arc;

use pbs_datastore::{
    BackupGroup, BackupId, BackupTime, BackupType, Datastore, DatastoreName, GroupRef,
    NAMESPACE_DEPTH_MAX, Namespace, SnapshotRef,
};

use super::call::Call;
use super::error::ApiError;
use super::params::Params;
use super::rule::{Reach, Rule};
use crate::auth::AuthId;
use crate::daemon::Daemon;

/// A datastore that the caller may use, and how far.
#[derive(Debug)]
pub(crate) struct Opened {
    /// The datastore.
    pub(crate) store: Arc<Datastore>,
    /// On what.
    pub(crate) reach: Reach,
}

impl Opened {
    /// Refuses a group that is out of reach.
    pub(crate) async fn demand_group(&self, group: &GroupRef) -> Result<(), ApiError> {
        if self.reach == Reach::All {
            return Ok(());
        }
        let owner = self.store.snapshots().owner(group).await?;
        self.reach.demand(owner_of(owner.as_ref()).as_ref())
    }
}

/// Takes the datastore's name, and opens it for an operation in `namespace` that `rule` allows. Rights come first, so
/// that strangers do not learn which datastores there are; then whether the datastore can be written to, if the operation
/// writes.
pub(crate) fn open(
    daemon: &Daemon,
    call: &mut Call,
    rule: Rule,
    namespace: &Namespace,
) -> Result<Opened, ApiError> {
    let opened = open_to_look(daemon, call, rule, namespace)?;
    if !rule.only_reads() {
        daemon.stores.get_writable(opened.store.name().as_str())?;
    }
    Ok(opened)
}

/// The same for a look at what an operation would do.
pub(crate) fn open_to_look(
    daemon: &Daemon,
    call: &mut Call,
    rule: Rule,
    namespace: &Namespace,
) -> Result<Opened, ApiError> {
    let name: DatastoreName = call.params.required("store")?;
    let who = call.who()?;
    let reach = rule.check(
        &daemon.authority,
        who,
        name.as_str(),
        &namespace.to_string(),
    )?;
    let store = daemon.stores.get(name.as_str())?;
    Ok(Opened { store, reach })
}

/// Takes the namespace; absent is the root.
pub(crate) fn take_namespace(params: &mut Params) -> Result<Namespace, ApiError> {
    Ok(params.optional("ns")?.unwrap_or_else(Namespace::root))
}

/// Takes how many levels of namespaces below the named one are meant too.
pub(crate) fn take_depth(params: &mut Params) -> Result<Option<usize>, ApiError> {
    let depth = params.integer("max-depth", 0..=NAMESPACE_DEPTH_MAX as i64)?;
    Ok(depth.map(|depth| depth as usize))
}

/// Takes a group.
pub(crate) fn take_group(params: &mut Params) -> Result<GroupRef, ApiError> {
    let namespace = take_namespace(params)?;
    let kind: BackupType = params.required("backup-type")?;
    let id: BackupId = params.required("backup-id")?;
    Ok(GroupRef::new(namespace, BackupGroup::new(kind, id)))
}

/// Takes a snapshot.
pub(crate) fn take_snapshot(params: &mut Params) -> Result<SnapshotRef, ApiError> {
    let group = take_group(params)?;
    let seconds = params.required_integer("backup-time", 1..=i64::MAX)?;
    let time = BackupTime::new(seconds).map_err(|error| {
        ApiError::bad_request(format!(
            "parameter verification failed: 'backup-time': {error}"
        ))
    })?;
    Ok(group.at(time))
}

/// The owner of a group, in the words of the rights.
pub(crate) fn owner_of(owner: Option<&pbs_datastore::AuthId>) -> Option<AuthId> {
    owner.and_then(|owner| owner.to_string().parse().ok())
}

impl From<pbs_datastore::Error> for ApiError {
    /// Clients tell failures apart by nothing but their texts, so an ordinary one is a 400, also where something does
    /// not exist.
    fn from(error: pbs_datastore::Error) -> Self {
        use pbs_datastore::Error as E;
        let text = error.to_string();
        match error {
            E::File { source, .. } => {
                tracing::error!(error = %text, "a file of a datastore cannot be used");
                Self::of_file(&source, text)
            }
            E::Full(_) => Self::insufficient_storage(text),
            E::Store(error) if error.kind.is_transient() => Self::unavailable(text),
            _ => Self::bad_request(text),
        }
    }
}
