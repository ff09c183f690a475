//! The state of the model's bucket: current objects, kept versions, unfinished uploads.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::clock::whole_seconds;
use crate::decide::no_such_upload;
use crate::store::{Body, ListEntry, Metadata, Object, ObjectMeta, UploadId};
use crate::{ETag, Error, ObjectKey, Op, VersionId};

/// An object as it is kept.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) body: Body,
    pub(super) etag: ETag,
    pub(super) metadata: Metadata,
    /// When it was written, by the server's clock, to the nanosecond.
    pub(super) written: Timestamp,
    pub(super) version: Option<VersionId>,
}

impl Stored {
    pub(super) fn new(body: Body, etag: ETag, metadata: Metadata, written: Timestamp) -> Self {
        Self {
            body,
            etag,
            metadata,
            written,
            version: None,
        }
    }

    pub(super) fn meta(&self) -> ObjectMeta {
        ObjectMeta {
            size: self.body.len(),
            etag: self.etag.clone(),
            version: self.version.clone(),
            last_modified: whole_seconds(self.written),
            storage_class: None,
            metadata: self.metadata.clone(),
        }
    }

    pub(super) fn entry(&self, key: &ObjectKey) -> ListEntry {
        ListEntry {
            key: key.clone(),
            size: self.body.len(),
            etag: self.etag.clone(),
            last_modified: whole_seconds(self.written),
            storage_class: None,
        }
    }

    pub(super) fn object(&self) -> Object {
        Object {
            meta: self.meta(),
            body: self.body.clone(),
        }
    }
}

/// One version of a key.
#[derive(Clone, Debug)]
pub(super) struct Version {
    number: u64,
    /// `None` for a delete marker.
    pub(super) stored: Option<Stored>,
}

impl Version {
    pub(super) fn id(&self) -> VersionId {
        VersionId(format!("v{:08}", self.number))
    }
}

/// A multipart upload under way.
#[derive(Debug)]
pub(super) struct Upload {
    pub(super) key: ObjectKey,
    pub(super) metadata: Metadata,
    pub(super) parts: Parts,
}

/// Parts by number, each with its tag.
pub(super) type Parts = BTreeMap<u16, (ETag, Body)>;

/// Everything behind the model's lock.
#[derive(Debug)]
pub(super) struct Bucket {
    versioned: bool,
    serial: u64,
    pub(super) current: BTreeMap<ObjectKey, Stored>,
    /// All versions of each key, oldest first; the last one is what `current` shows.
    pub(super) versions: BTreeMap<ObjectKey, Vec<Version>>,
    pub(super) uploads: BTreeMap<String, Upload>,
    pub(super) locked: BTreeSet<ObjectKey>,
    pub(super) counts: BTreeMap<Op, u64>,
}

impl Bucket {
    pub(super) fn new(versioned: bool) -> Self {
        Self {
            versioned,
            serial: 0,
            current: BTreeMap::new(),
            versions: BTreeMap::new(),
            uploads: BTreeMap::new(),
            locked: BTreeSet::new(),
            counts: BTreeMap::new(),
        }
    }

    fn next(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    /// Makes `stored` the current object and answers its version.
    pub(super) fn insert(&mut self, key: ObjectKey, mut stored: Stored) -> Option<VersionId> {
        if self.versioned {
            let number = self.next();
            let mut version = Version {
                number,
                stored: None,
            };
            stored.version = Some(version.id());
            version.stored = Some(stored.clone());
            self.versions.entry(key.clone()).or_default().push(version);
        }
        let version = stored.version.clone();
        self.current.insert(key, stored);
        version
    }

    /// Deletes without a version: the object is gone, or hidden behind a delete marker. Tells whether there was one.
    pub(super) fn remove(&mut self, key: &ObjectKey) -> bool {
        let existed = self.current.remove(key).is_some();
        if self.versioned {
            let number = self.next();
            let marker = Version {
                number,
                stored: None,
            };
            self.versions.entry(key.clone()).or_default().push(marker);
        }
        existed
    }

    /// Removes one version; the newest of those left becomes current. Tells whether there was such a version.
    pub(super) fn remove_version(&mut self, key: &ObjectKey, id: &VersionId) -> bool {
        let Some(versions) = self.versions.get_mut(key) else {
            return false;
        };
        let before = versions.len();
        versions.retain(|version| version.id() != *id);
        let removed = versions.len() < before;
        match versions.last().and_then(|version| version.stored.clone()) {
            Some(stored) => self.current.insert(key.clone(), stored),
            None => self.current.remove(key),
        };
        if versions.is_empty() {
            self.versions.remove(key);
        }
        removed
    }

    /// Removes a key with all its versions.
    pub(super) fn purge(&mut self, key: &ObjectKey) -> bool {
        let versions = self.versions.remove(key);
        self.current.remove(key).is_some() || versions.is_some()
    }

    pub(super) fn begin_upload(&mut self, key: ObjectKey, metadata: Metadata) -> UploadId {
        let id = format!("upload-{:08}", self.next());
        let upload = Upload {
            key,
            metadata,
            parts: Parts::new(),
        };
        self.uploads.insert(id.clone(), upload);
        UploadId(id)
    }

    /// The parts of an upload of `key`.
    pub(super) fn parts(
        &mut self,
        op: Op,
        key: &ObjectKey,
        upload: &UploadId,
    ) -> Result<&mut Parts, Error> {
        match self.uploads.get_mut(&upload.0) {
            Some(found) if found.key == *key => Ok(&mut found.parts),
            _ => Err(no_such_upload(op, key)),
        }
    }
}
