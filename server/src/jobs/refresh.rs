//! `s3-refresh`: makes the local copies of indexes and manifests the same as the bucket, beside everything else. Only needed when
//! somebody else has changed the bucket, as every start and every garbage collection does the same.

use std::sync::Arc;

use super::{launch, stop_asked};
use crate::api::ApiError;
use crate::auth::AuthId;
use crate::daemon::Daemon;
use crate::tasks::{TaskStart, Upid};

/// The worker type of the task.
const KIND: &str = "s3-refresh";

/// Starts the task.
pub(crate) fn start(daemon: &Arc<Daemon>, name: &str, user: AuthId) -> Result<Upid, ApiError> {
    let store = daemon.stores.get_writable(name)?;
    let start = TaskStart {
        kind: KIND,
        worker_id: name,
        user,
        store: Some(name),
    };
    let launched = launch(daemon, &start, None, move |daemon, task| {
        Box::pin(async move {
            // Whoever stops the task ends the wait; what is being fetched is fetched.
            let stats = tokio::select! {
                biased;
                stats = store.refresh() => stats.map_err(|error| error.to_string())?,
                () = stop_asked(task, &daemon.shutdown) => return Err("stopped on request".to_owned()),
            };
            task.log(format!(
                "{} objects in the bucket; fetched: {} with {} bytes; dropped here: {}",
                stats.objects, stats.fetched, stats.fetched_bytes, stats.dropped
            ));
            Ok(())
        })
    })?;
    Ok(launched.upid)
}
