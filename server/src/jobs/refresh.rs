//! `s3-refresh`: makes the local copies of indexes and manifests the same as the bucket, beside everything else. Only needed when
//! somebody else has changed the bucket, as every start and every garbage collection does the same.

use std::sync::Arc;

use super::launch;
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
    let launched = launch(daemon, &start, None, move |_, task| {
        Box::pin(async move {
            let stats = store.refresh().await.map_err(|error| error.to_string())?;
            task.log(format!(
                "{} objects in the bucket; fetched: {} with {} bytes; dropped here: {}",
                stats.objects, stats.fetched, stats.fetched_bytes, stats.dropped
            ));
            Ok(())
        })
    })?;
    Ok(launched.upid)
}
