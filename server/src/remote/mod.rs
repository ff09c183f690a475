//! Another server of the protocol, as one side of a sync: where snapshots are pulled from ([`source`]) or pushed to ([`target`]).
//!
//! One connection is kept for REST calls, whose caller is logged in once; each snapshot that is read or written has a connection of its own,
//! as the protocol wants it. A connection that broke is made anew by the next call; calls are not repeated here, since whoever drives a sync
//! knows what is safe to repeat.

mod source;
mod target;

use std::sync::Arc;
use std::time::Duration;

use pbs_datastore::{
    AuthId, BackupGroup, BackupTime, Env, Error, FileInfo, GroupRef, MemoryBudget,
    NAMESPACE_DEPTH_MAX, Namespace, Result, SyncGroup, SyncSnapshot, VerifyOutcome,
};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::Mutex;
use tokio::time::Instant;

pub(crate) use self::source::RemoteSource;
pub(crate) use self::target::RemoteTarget;
use crate::client::http::RequestError;
use crate::client::repository::Access;
use crate::client::session::{Session, group_parameters, namespace_parameters};

/// Most bytes of a list: of some ten thousand snapshots. It takes several times as much memory while it is read.
pub(crate) const LIST_BYTES_MAX: usize = 16 << 20;
/// How long a list waits for memory.
const MEMORY_WAIT_MAX: Duration = Duration::from_mins(1);
/// A login is good for two hours; after this long there is a new one.
const LOGIN_MAX: Duration = Duration::from_hours(1);

impl From<RequestError> for Error {
    fn from(error: RequestError) -> Self {
        if let RequestError::NoMemory = error {
            return Self::Busy(error.to_string());
        }
        let why = if error.status().is_some() {
            format!("the other server refuses: {error}")
        } else {
            error.to_string()
        };
        Self::Remote {
            transient: error.is_transient(),
            why,
        }
    }
}

/// The session for REST calls, and since when.
#[derive(Default)]
struct Rest(Option<(Session, Instant)>);

/// A datastore of another server.
pub(crate) struct RemoteStore {
    access: Access,
    env: Env,
    budget: MemoryBudget,
    rest: Mutex<Rest>,
}

impl std::fmt::Debug for RemoteStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RemoteStore({})", self.access.repository)
    }
}

/// A group, as the wire has it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct WireGroup {
    backup_type: pbs_datastore::BackupType,
    backup_id: pbs_datastore::BackupId,
    #[serde(default)]
    owner: Option<String>,
}

impl WireGroup {
    fn group(&self) -> BackupGroup {
        BackupGroup::new(self.backup_type, self.backup_id.clone())
    }
}

/// A snapshot, as the wire has it; of what is not known here nothing is said.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct WireSnapshot {
    backup_time: BackupTime,
    #[serde(default)]
    size: Option<u64>,
    #[serde(default)]
    protected: bool,
    #[serde(default)]
    verification: Option<WireVerification>,
    #[serde(default)]
    files: Vec<WireFile>,
}

#[derive(Debug, Deserialize)]
struct WireVerification {
    state: VerifyOutcome,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct WireFile {
    filename: String,
    #[serde(default)]
    crypt_mode: Option<pbs_datastore::CryptMode>,
}

impl From<WireSnapshot> for SyncSnapshot {
    fn from(wire: WireSnapshot) -> Self {
        let files = wire.files.into_iter().map(|file| FileInfo {
            name: file.filename,
            crypt_mode: file.crypt_mode,
            size: None,
        });
        let files: Vec<FileInfo> = files.collect();
        // A running backup has no size, nor has one whose manifest cannot be read.
        let finished = wire.size.is_some();
        Self {
            time: wire.backup_time,
            finished,
            readable: finished,
            protected: wire.protected,
            verified: wire.verification.map(|found| found.state),
            encrypted: Self::all_encrypted(&files),
            size: wire.size.unwrap_or(0),
        }
    }
}

#[derive(Debug, Deserialize)]
struct WireNamespace {
    ns: Namespace,
}

impl RemoteStore {
    /// The datastore that `access` names; nothing is asked yet. What is read takes its memory from `budget`.
    pub(crate) fn new(access: Access, env: Env, budget: MemoryBudget) -> Arc<Self> {
        Arc::new(Self {
            access,
            env,
            budget,
            rest: Mutex::default(),
        })
    }

    fn name(&self) -> String {
        let repository = &self.access.repository;
        format!(
            "datastore '{}' of {}:{}",
            repository.datastore,
            repository.shown_host(),
            repository.port
        )
    }

    fn auth_id(&self) -> &AuthId {
        &self.access.repository.auth_id
    }

    /// Makes a REST call with the session that is kept for them.
    async fn rest<T>(
        &self,
        call: impl AsyncFnOnce(&mut Session) -> std::result::Result<T, RequestError>,
    ) -> std::result::Result<T, RequestError> {
        if cfg!(feature = "fuzz") {
            // Whatever an input names is not called.
            return Err(RequestError::Connection {
                server: self.name(),
                reason: "there is no network".to_owned(),
            });
        }
        let mut rest = self.rest.lock().await;
        let now = Instant::now();
        let kept = rest.0.take();
        let (mut session, since) = match kept {
            Some((session, since)) if now.duration_since(since) < LOGIN_MAX => (session, since),
            _ => (Session::open(&self.access).await?, now),
        };
        let result = call(&mut session).await;
        // After a refusal it is good as before; after anything else nobody knows.
        if result.is_ok() || result.as_ref().is_err_and(|error| error.status().is_some()) {
            rest.0 = Some((session, since));
        }
        result
    }

    /// A connection of its own, for a snapshot.
    async fn connect(&self) -> std::result::Result<Session, RequestError> {
        self.rest(async |session| session.another().await).await
    }

    /// Reads a list of this datastore.
    async fn list<T: DeserializeOwned + Send + 'static>(
        &self,
        what: &str,
        parameters: &[(&str, String)],
    ) -> std::result::Result<Vec<T>, RequestError> {
        self.list_at(&self.datastore(what), parameters).await
    }

    /// Reads a list, with as much memory set aside as it may have bytes.
    async fn list_at<T: DeserializeOwned + Send + 'static>(
        &self,
        path: &str,
        parameters: &[(&str, String)],
    ) -> std::result::Result<Vec<T>, RequestError> {
        let bytes = LIST_BYTES_MAX as u64;
        let permit = self.budget.take(bytes, MEMORY_WAIT_MAX).await;
        let _permit = permit.ok_or(RequestError::NoMemory)?;
        let answer = self.rest(async |session| session.get(path, parameters).await);
        let (mut answer, server) = (answer.await?, self.name());
        let understand = move || {
            let list = serde_json::from_value(answer["data"].take());
            list.map_err(|error| RequestError::Answer {
                server,
                reason: error.to_string(),
            })
        };
        self.env.compute(understand).await
    }

    async fn groups(&self, namespace: &Namespace) -> Result<Vec<SyncGroup>> {
        let groups: Vec<WireGroup> = self
            .list("groups", &namespace_parameters(namespace))
            .await?;
        let groups = groups.iter().map(|group| SyncGroup {
            group: group.group(),
            owner: group.owner.as_ref().and_then(|owner| owner.parse().ok()),
        });
        Ok(groups.collect())
    }

    async fn snapshots(&self, group: &GroupRef) -> Result<Vec<SyncSnapshot>> {
        let parameters = group_parameters(&group.namespace, &group.group);
        let snapshots: Vec<WireSnapshot> = self.list("snapshots", &parameters).await?;
        Ok(snapshots.into_iter().map(SyncSnapshot::from).collect())
    }

    /// A namespace and those below it, outer ones first.
    async fn namespaces(
        &self,
        below: &Namespace,
        depth: usize,
    ) -> std::result::Result<Vec<Namespace>, RequestError> {
        let mut parameters = Vec::new();
        if !below.is_root() {
            parameters.push(("parent", below.to_string()));
        }
        if depth < NAMESPACE_DEPTH_MAX {
            parameters.push(("max-depth", depth.to_string()));
        }
        let found: Vec<WireNamespace> = self.list("namespace", &parameters).await?;
        let mut found: Vec<Namespace> = found.into_iter().map(|found| found.ns).collect();
        found.retain(|namespace| namespace.is_within(below));
        found.sort_unstable();
        Ok(found)
    }
}

/// The first version with namespaces.
const NAMESPACES_SINCE: [u32; 3] = [2, 2, 0];

/// `version` and `release` as three numbers.
fn version_of(data: &Value) -> Option<[u32; 3]> {
    let (major, minor) = data["version"].as_str()?.split_once('.')?;
    let release = data["release"].as_str()?;
    let release: String = release.chars().take_while(char::is_ascii_digit).collect();
    Some([
        major.parse().ok()?,
        minor.parse().ok()?,
        release.parse().unwrap_or(0),
    ])
}

impl RemoteStore {
    /// Which version of the protocol it speaks.
    async fn version(&self) -> std::result::Result<[u32; 3], RequestError> {
        let answer = self.rest(async |session| session.get("/version", &[]).await);
        version_of(&answer.await?["data"]).ok_or_else(|| RequestError::Answer {
            server: self.name(),
            reason: "its version cannot be read".to_owned(),
        })
    }
}

/// What a server has, for whoever configures a sync: its datastores, or the groups or namespaces of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Scan {
    /// Those that the account may see.
    Datastores,
    /// Of one namespace.
    Groups(Namespace),
    /// All of them.
    Namespaces,
}

impl RemoteStore {
    /// Asks the server; the entries as it lists them. Where the datastores are asked for, it does not matter which one this is.
    pub(crate) async fn scan(&self, scan: &Scan) -> Result<Vec<Value>> {
        let (path, parameters) = match scan {
            Scan::Datastores => ("/admin/datastore".to_owned(), Vec::new()),
            Scan::Groups(namespace) => (self.datastore("groups"), namespace_parameters(namespace)),
            Scan::Namespaces => (self.datastore("namespace"), Vec::new()),
        };
        Ok(self.list_at(&path, &parameters).await?)
    }

    fn datastore(&self, what: &str) -> String {
        format!(
            "/admin/datastore/{}/{what}",
            self.access.repository.datastore
        )
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        let version = |version: &str, release: &str| {
            version_of(&json!({"version": version, "release": release}))
        };
        assert_eq!(version("4.2", "3"), Some([4, 2, 3]));
        assert_eq!(version("3.2", "11~1"), Some([3, 2, 11]));
        assert_eq!(version("4", "1"), None);
        assert!(version("3.10", "1") > Some([3, 2, 11]));
        assert!(version("2.1", "99") < Some(NAMESPACES_SINCE));
    }
}
