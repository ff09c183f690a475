//! Groups and namespaces moved within a datastore, as tasks.

use std::sync::Arc;

use pbs_datastore::{Datastore, GroupRef, JobContext, Mover, Namespace};

use super::{launch, supervise};
use crate::api::ApiError;
use crate::auth::AuthId;
use crate::daemon::Daemon;
use crate::tasks::{TaskStart, Upid};

/// The worker types.
const GROUP_KIND: &str = "move-group";
const NAMESPACE_KIND: &str = "move-namespace";

/// What is moved.
#[derive(Debug, Clone)]
pub(crate) enum Moved {
    /// One group.
    Group(GroupRef),
    /// A namespace and all that is in it.
    Namespace(Namespace),
}

/// Starts to move something to a namespace of its datastore.
pub(crate) fn start(
    daemon: &Arc<Daemon>,
    store: Arc<Datastore>,
    moved: Moved,
    target: Namespace,
    user: AuthId,
) -> Result<Upid, ApiError> {
    let name = store.name().as_str().to_owned();
    let (kind, worker_id) = match &moved {
        Moved::Group(group) => {
            let place = if group.namespace.is_root() {
                group.group.to_string()
            } else {
                format!("{}/{}", group.namespace, group.group)
            };
            (GROUP_KIND, format!("{name}:{place}:{target}"))
        }
        Moved::Namespace(namespace) => (NAMESPACE_KIND, format!("{name}:{namespace}:{target}")),
    };
    let start = TaskStart {
        kind,
        worker_id: &worker_id,
        user,
        store: Some(&name),
    };
    let launched = launch(daemon, &start, None, move |daemon, task| {
        Box::pin(async move {
            let mover = Mover::new(store, &*daemon.hostname);
            let work = |job: JobContext| async move {
                let result = match &moved {
                    Moved::Group(group) => mover.group(group, &target, &job).await,
                    Moved::Namespace(namespace) => mover.namespace(namespace, &target, &job).await,
                };
                result.map(drop).map_err(|error| error.to_string())
            };
            supervise(task, &daemon.shutdown, work).await
        })
    })?;
    Ok(launched.upid)
}
