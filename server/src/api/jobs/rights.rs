//! What whoever configures or runs a job needs: the rights to its work by hand.
//!
//! One sees the jobs of datastores that one may audit, and of remotes likewise. What a job is set to do needs rights on all of its tree, since the
//! schedule runs it as the superuser; a run of prune or verification by hand goes as far as the caller's rights.
//!
//! | job | on its namespace here | elsewhere |
//! |---|---|---|
//! | prune | `Datastore.Modify` | |
//! | verify | `Datastore.Verify` | |
//! | sync, pull | `Datastore.Backup`; `Datastore.Modify` if it reaches below its namespace, whose namespaces it makes, or writes for another owner; with remove-vanished also `Datastore.Prune` | `Remote.Read` on `/remote/{remote}/{store}/{ns…}`, or `Datastore.Read` on the local source |
//! | sync, push | `Datastore.Read` | on `/remote/{remote}/{store}/{ns…}`: `Remote.DatastoreBackup`, `Remote.DatastoreModify` if it reaches below, `Remote.DatastorePrune` with remove-vanished |

use pbs_datastore::{NAMESPACE_DEPTH_MAX, Namespace};
use serde_json::Value;

use crate::api::error::ApiError;
use crate::api::rule::require;
use crate::auth::{AclPath, AuthId, Principal, Privilege};
use crate::daemon::Daemon;
use crate::jobs::JobKind;

/// How much of a job's tree is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::api) enum Extent {
    /// Its namespace alone.
    Top,
    /// What is below it, too.
    Whole,
}

/// Whether `who` sees a job that is set to this.
pub(super) fn sees(daemon: &Daemon, who: &Principal, job: &Value) -> bool {
    let authority = &daemon.authority;
    let store = AclPath::datastore(job["store"].as_str().unwrap_or_default());
    let remote = job["remote"].as_str();
    let elsewhere = match (remote, job["remote-store"].as_str()) {
        (Some(remote), _) => {
            let path = AclPath::of(["remote", remote]);
            authority.allowed(who, &path, Privilege::RemoteAudit)
        }
        (None, Some(source)) => {
            let path = AclPath::datastore(source);
            authority.allowed(who, &path, Privilege::DatastoreAudit)
        }
        (None, None) => true,
    };
    elsewhere && authority.allowed(who, &store, Privilege::DatastoreAudit)
}

/// Refuses whoever may not do by hand what a job does that is set to this.
pub(in crate::api) fn demand(
    daemon: &Daemon,
    who: &Principal,
    kind: JobKind,
    job: &Value,
    extent: Extent,
) -> Result<(), ApiError> {
    let asked = Asked {
        daemon,
        who,
        deep: extent == Extent::Whole && job["max-depth"].as_u64() != Some(0),
    };
    let here = namespace_of(job, "store", "ns")?;
    match kind {
        JobKind::Gc | JobKind::Prune => asked.demand(&here, Privilege::DatastoreModify),
        JobKind::Verify => asked.demand(&here, Privilege::DatastoreVerify),
        JobKind::Sync => asked.demand_sync(&here, job),
    }
}

/// A namespace of a datastore, as these settings name it.
fn namespace_of(job: &Value, store: &str, namespace: &str) -> Result<AclPath, ApiError> {
    let text = job[namespace].as_str().unwrap_or_default();
    let parsed = text.parse::<Namespace>().map_err(|error| {
        ApiError::bad_request(format!(
            "parameter verification failed: '{namespace}': {error}"
        ))
    })?;
    let store = job[store].as_str().unwrap_or_default();
    Ok(AclPath::namespace(store, &parsed.to_string()))
}

/// Whose rights are asked about, and how deep.
struct Asked<'a> {
    daemon: &'a Daemon,
    who: &'a Principal,
    deep: bool,
}

impl Asked<'_> {
    fn demand(&self, path: &AclPath, privilege: Privilege) -> Result<(), ApiError> {
        let authority = &self.daemon.authority;
        require(authority, self.who, path, &[privilege])?;
        if !self.deep || authority.allowed_everywhere(self.who, path, privilege) {
            return Ok(());
        }
        Err(ApiError::forbidden(format!(
            "permission check failed: {} is needed on all of {path}; or set max-depth to 0",
            privilege.name()
        )))
    }

    fn demand_sync(&self, here: &AclPath, job: &Value) -> Result<(), ApiError> {
        let vanished = job["remove-vanished"] == true;
        let reaches = job["max-depth"]
            .as_u64()
            .is_none_or(|depth| depth > 0 && depth <= NAMESPACE_DEPTH_MAX as u64);
        let there = namespace_of(job, "remote-store", "remote-ns")?;
        let remote = job["remote"].as_str().map(|remote| {
            // `/datastore/{store}/{ns…}` is `/remote/{remote}/{store}/{ns…}` elsewhere.
            let below = there.segments()[1..].iter().map(String::as_str);
            AclPath::of(["remote", remote].into_iter().chain(below))
        });
        if job["sync-direction"] == "push" {
            self.demand(here, Privilege::DatastoreRead)?;
            let Some(remote) = &remote else {
                return Ok(());
            };
            self.demand(remote, Privilege::RemoteDatastoreBackup)?;
            if reaches {
                self.demand(remote, Privilege::RemoteDatastoreModify)?;
            }
            if vanished {
                self.demand(remote, Privilege::RemoteDatastorePrune)?;
            }
            return Ok(());
        }
        self.demand(here, Privilege::DatastoreBackup)?;
        if reaches || !self.owns(job) {
            self.demand(here, Privilege::DatastoreModify)?;
        }
        if vanished {
            self.demand(here, Privilege::DatastorePrune)?;
        }
        match &remote {
            Some(remote) => self.demand(remote, Privilege::RemoteRead),
            None => self.demand(&there, Privilege::DatastoreRead),
        }
    }

    /// Whether the job writes groups that are the caller's own.
    fn owns(&self, job: &Value) -> bool {
        let owner = job["owner"].as_str().unwrap_or("root@pam");
        let owner = owner.parse::<AuthId>();
        owner.is_ok_and(|owner| self.who.owns(&owner))
    }
}
