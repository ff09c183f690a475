//! Groups and snapshots with the namespace they are in, and what locks and reports call them.

use std::fmt;
use std::str::FromStr;

use crate::layout::{Folder, Place, SnapshotFile};
use crate::safe_id::NameError;
use crate::{ArchiveName, BackupGroup, Namespace, Snapshot};

/// A group in its namespace. Text form `ns/a/ns/b/vm/100`, the folder of the group.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupRef {
    /// Where.
    pub namespace: Namespace,
    /// Which.
    pub group: BackupGroup,
}

impl GroupRef {
    /// The group in a namespace.
    pub fn new(namespace: Namespace, group: BackupGroup) -> Self {
        Self { namespace, group }
    }

    /// One of its snapshots.
    pub fn at(&self, time: crate::BackupTime) -> SnapshotRef {
        SnapshotRef::new(self.namespace.clone(), self.group.at(time))
    }

    pub(crate) fn folder(&self) -> Folder {
        Folder::Group(self.namespace.clone(), self.group.clone())
    }

    pub(crate) fn owner(&self) -> Place {
        Place::GroupOwner(self.namespace.clone(), self.group.clone())
    }

    pub(crate) fn notes(&self) -> Place {
        Place::GroupNotes(self.namespace.clone(), self.group.clone())
    }
}

impl fmt::Display for GroupRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.namespace.path_prefix(), self.group)
    }
}

/// A snapshot in its namespace. Text form `ns/a/ns/b/vm/100/2023-11-14T22:13:20Z`, the folder of the snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SnapshotRef {
    /// Where.
    pub namespace: Namespace,
    /// Which.
    pub snapshot: Snapshot,
}

impl SnapshotRef {
    /// The snapshot in a namespace.
    pub fn new(namespace: Namespace, snapshot: Snapshot) -> Self {
        Self {
            namespace,
            snapshot,
        }
    }

    /// Its group.
    pub fn group(&self) -> GroupRef {
        GroupRef::new(self.namespace.clone(), self.snapshot.group.clone())
    }

    pub(crate) fn folder(&self) -> Folder {
        Folder::Snapshot(self.namespace.clone(), self.snapshot.clone())
    }

    pub(crate) fn file(&self, name: &ArchiveName) -> Place {
        Place::archive(&self.namespace, &self.snapshot, name)
    }

    pub(crate) fn manifest(&self) -> Place {
        self.file(&ArchiveName::manifest())
    }

    pub(crate) fn protected(&self) -> Place {
        let file = SnapshotFile::Protected;
        Place::SnapshotFile(self.namespace.clone(), self.snapshot.clone(), file)
    }
}

impl fmt::Display for SnapshotRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.namespace.path_prefix(), self.snapshot)
    }
}

impl FromStr for SnapshotRef {
    type Err = NameError;

    fn from_str(mut text: &str) -> Result<Self, NameError> {
        let mut namespace = Namespace::root();
        while let Some((name, rest)) = text
            .strip_prefix("ns/")
            .and_then(|rest| rest.split_once('/'))
        {
            namespace = namespace.child(name)?;
            text = rest;
        }
        Ok(Self::new(namespace, text.parse()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_the_folder_and_reads_back() {
        for text in [
            "ns/a/ns/b/vm/100/2023-11-14T22:13:20Z",
            "host/ns/2023-11-14T22:13:20Z",
            "ns/ns/host/ns/2023-11-14T22:13:20Z",
        ] {
            assert_eq!(text.parse::<SnapshotRef>().unwrap().to_string(), text);
        }
        assert!("ns/a/2023-11-14T22:13:20Z".parse::<SnapshotRef>().is_err());
    }
}
