//! How much a datastore stores, and how much it may.

use std::sync::atomic::Ordering;

use super::Datastore;
use crate::error::About as _;
use crate::files::Files;
use crate::usage::DatastoreUsage;
use crate::{Error, Result};

/// Room, as clients are shown it; bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatastoreSpace {
    /// Never 0.
    pub total: u64,
    /// Taken.
    pub used: u64,
    /// Left.
    pub avail: u64,
}

/// A bucket has no size; clients divide by a total, so they are shown this much room above what is used.
const BUCKET_ROOM: u64 = 1 << 50;

impl Datastore {
    /// What is stored.
    pub fn usage(&self) -> DatastoreUsage {
        let collected = self.gc_status().unwrap_or_default();
        let added = self.added.bytes();
        DatastoreUsage {
            logical: collected.index_data_bytes,
            // The file may say anything.
            stored: collected
                .disk_bytes
                .saturating_add(collected.pending_bytes)
                .saturating_add(added),
            garbage: collected.pending_bytes,
            added,
            cached: self.cache_bytes(),
            quota: Some(self.quota_bytes.load(Ordering::Relaxed)).filter(|quota| *quota > 0),
        }
    }

    /// Changes how many bytes of chunks may be stored, from the next backup on.
    pub fn set_quota(&self, bytes: Option<u64>) {
        self.quota_bytes
            .store(bytes.unwrap_or(0), Ordering::Relaxed);
    }

    /// [`Error::Full`] if nothing more may be stored.
    pub(crate) fn has_room(&self) -> Result<()> {
        let usage = self.usage();
        let Some(quota) = usage.quota.filter(|_| usage.is_full()) else {
            return Ok(());
        };
        Err(Error::Full(format!(
            "datastore {} is full: {} bytes are stored and its quota is {quota}; prune and collect garbage, or raise the quota",
            self.name, usage.stored
        )))
    }

    /// Writes down how much was added; what a crash takes of that is found by the next collection.
    pub(crate) async fn save_usage(&self) {
        if let Err(error) = self.added.save().await {
            tracing::warn!(datastore = %self.name, %error, "how much is stored was not written down");
        }
    }

    /// Room: of the quota, if there is one; otherwise of the file system, and in a bucket as much as anybody needs.
    pub async fn space(&self) -> Result<DatastoreSpace> {
        let usage = self.usage();
        let within = |quota: u64, avail: u64| DatastoreSpace {
            total: quota.max(1),
            used: usage.stored,
            avail: quota.saturating_sub(usage.stored).min(avail),
        };
        if self.cache.is_some() {
            let used = usage.stored;
            return Ok(match usage.quota {
                Some(quota) => within(quota, u64::MAX),
                None => DatastoreSpace {
                    total: used.saturating_add(BUCKET_ROOM),
                    used,
                    avail: BUCKET_ROOM,
                },
            });
        }
        let root = self.root.clone();
        let free = self
            .env
            .io(move |files: &dyn Files| files.free_space(&root))
            .await
            .about(&self.root)?;
        if let Some(quota) = usage.quota {
            return Ok(within(quota, free.bytes_free));
        }
        let used = free.bytes_total.saturating_sub(free.bytes_free);
        Ok(DatastoreSpace {
            total: free.bytes_total.max(1),
            used,
            avail: free.bytes_free,
        })
    }
}
