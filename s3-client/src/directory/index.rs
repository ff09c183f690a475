//! What is in the bucket, in memory and sorted.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use jiff::Timestamp;

use super::file::Header;
use crate::store::{ListEntry, Metadata, ObjectMeta};
use crate::{ETag, ObjectKey};

/// What the index knows of an object.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) size: u64,
    pub(super) etag: ETag,
    pub(super) last_modified: Timestamp,
    pub(super) metadata: Metadata,
}

impl Entry {
    pub(super) fn meta(&self) -> ObjectMeta {
        ObjectMeta {
            size: self.size,
            etag: self.etag.clone(),
            version: None,
            last_modified: self.last_modified,
            storage_class: None,
            metadata: self.metadata.clone(),
        }
    }

    pub(super) fn listed(&self, key: &ObjectKey) -> ListEntry {
        ListEntry {
            key: key.clone(),
            size: self.size,
            etag: self.etag.clone(),
            last_modified: self.last_modified,
            storage_class: None,
        }
    }
}

/// All objects by key. Its lock is held for moments only, never over file work.
#[derive(Debug)]
pub(super) struct Index(RwLock<BTreeMap<ObjectKey, Entry>>);

impl Index {
    pub(super) fn new(headers: Vec<Header>) -> Self {
        let entries = headers.into_iter().map(entry);
        Self(RwLock::new(entries.collect()))
    }

    pub(super) fn read(&self) -> RwLockReadGuard<'_, BTreeMap<ObjectKey, Entry>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn etag(&self, key: &ObjectKey) -> Option<ETag> {
        self.read().get(key).map(|entry| entry.etag.clone())
    }

    pub(super) fn insert(&self, header: Header) {
        let (key, entry) = entry(header);
        self.write().insert(key, entry);
    }

    pub(super) fn remove(&self, key: &ObjectKey) {
        self.write().remove(key);
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<ObjectKey, Entry>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn entry(header: Header) -> (ObjectKey, Entry) {
    let entry = Entry {
        size: header.size,
        etag: header.etag,
        last_modified: header.last_modified,
        metadata: header.metadata,
    };
    (header.key, entry)
}
