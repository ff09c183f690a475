//! What calls about a datastore's contents name: the datastore, a namespace, a group, a snapshot; and how the
//! datastore's failures are answered.

use pbs_datastore::{BackupGroup, BackupId, BackupTime, BackupType, GroupRef, Namespace, Snapshot, SnapshotRef};

use super::error::ApiError;
use super::params::Params;
use crate::auth::AuthId;

/// Takes the namespace; absent is the root.
pub(crate) fn take_namespace(params: &mut Params) -> Result<Namespace, ApiError> {
    Ok(params.optional("ns")?.unwrap_or_else(Namespace::root))
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
    let time = BackupTime::from_unix(seconds)
        .map_err(|error| ApiError::bad_request(format!("parameter verification failed: 'backup-time': {error}")))?;
    let snapshot: Snapshot = group.group.at(time);
    Ok(SnapshotRef::new(group.namespace, snapshot))
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
            E::File { .. } => {
                tracing::error!(error = %text, "a file of a datastore cannot be used");
                Self::internal(text)
            }
            E::Store(error) if error.kind.is_transient() => Self::unavailable(text),
            _ => Self::bad_request(text),
        }
    }
}
