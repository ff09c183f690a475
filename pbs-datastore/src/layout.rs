//! Every object key and every local path that is ever written, in one place.
//!
//! A bucket holds one datastore below `{prefix}/`, normally its name; a directory datastore and a cache directory hold one below their root:
//!
//! | what | bucket | cache directory | directory datastore |
//! |---|---|---|---|
//! | chunk, marker | `.chunks/{4 hex}/{digest}` | same | same |
//! | chunk set aside | `.chunks/{4 hex}/{digest}.{0-9}.bad` | – | same as bucket |
//! | files of a snapshot | `.cnt/[ns/a/…]{type}/{id}/{time}/{file}` | same, a mirror | without `.cnt/` |
//! | owner, notes of a group | `.cnt/[ns/a/…]{type}/{id}/owner`, `notes` | same, a mirror | without `.cnt/` |
//! | namespace | `.cnt/ns/a/…/.namespace` | same, a mirror | the folder itself |
//! | who uses it | `.in-use` | `.holdfast/owner.json` | `.lock` |
//! | result of the last GC | – | `.gc-status` | `.gc-status` |
//! | format | `.holdfast/format` | – | same as bucket |
//! | upload markers | – | `.holdfast/uploads/{digest}` | – |
//! | using markers | – | `.holdfast/using/{digest}` | same |
//! | journal of GC | – | `.holdfast/gc-journal` | – |
//! | file that GC tries times on | – | `.holdfast/atime-proof` | same |
//! | tags and sizes of the mirror | – | `.holdfast/contents.log` | – |
//! | temporary files | – | in `.holdfast/tmp/` | same |
//!
//! Temporary files have names of their own in that folder: `{digest}.{id}` a chunk on its way, `{file}.{id}` the successor of
//! a file that is replaced as a whole, `{uuid}/` what one writer of a snapshot has open. A mirrored file has its successor
//! beside it for a moment, `.{id}.tmp`; nothing that begins with a dot and ends so is ever read. What a crash leaves of all
//! that goes when a cache directory is opened, or with the first collection that finds it old.
//!
//! All parts are types that cannot hold a slash or a leading dot, so no key leaves its place. Every listing prefix ends
//! in `/`. [`Place`] is one such thing; what is written from a `Place` is read back as the same `Place`, and whatever is
//! found that nobody of us wrote is `None`.

use std::path::{Path, PathBuf};

use s3_client::{KeyPrefix, ObjectKey};

use crate::{ArchiveName, BackupGroup, BackupType, BucketPrefix, Digest, Namespace, Snapshot};

/// The number of a chunk that was set aside: 0 to 9, so that a chunk can be found damaged ten times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BadNumber(u8);

impl BadNumber {
    /// All numbers, in the order they are used.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..=9).map(Self)
    }

    /// The number.
    pub fn get(self) -> u8 {
        self.0
    }
}

/// One of the files in the folder of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SnapshotFile {
    /// An index or blob, the manifest and the client's log among them.
    Archive(ArchiveName),
    /// `.protected`: empty; while it is there the snapshot is not to be deleted.
    Protected,
}

impl SnapshotFile {
    /// The name of the file.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Archive(name) => name.as_str(),
            Self::Protected => ".protected",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        match text {
            ".protected" => Some(Self::Protected),
            name => name.parse().ok().map(Self::Archive),
        }
    }
}

/// What lies below `.holdfast/`: ours alone, unknown to other servers of the same format.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HoldfastFile {
    /// Version and features of what is stored here.
    Format,
    /// What the cache directory knows of its owner and of how often GC has begun to delete; the bucket's counterpart is
    /// `.in-use`.
    Owner,
    /// The digests of the batch that is being deleted.
    GcJournal,
    /// Shows whether the file system keeps times, for as long as GC tries that.
    AtimeProof,
    /// Tags and sizes of the objects whose copies are in the mirror.
    ContentsLog,
    /// Which chunks were read back and found good.
    Verified,
    /// How much was stored since the last collection.
    Usage,
    /// The digest is being uploaded.
    UploadMarker(Digest),
    /// GC found the digest in an index and no marker for it.
    UsingMarker(Digest),
}

impl HoldfastFile {
    /// The path below `.holdfast/`.
    pub fn name(&self) -> String {
        match self {
            Self::Format => "format".to_owned(),
            Self::Owner => "owner.json".to_owned(),
            Self::GcJournal => "gc-journal".to_owned(),
            Self::AtimeProof => "atime-proof".to_owned(),
            Self::ContentsLog => "contents.log".to_owned(),
            Self::Verified => "verified".to_owned(),
            Self::Usage => "usage".to_owned(),
            Self::UploadMarker(digest) => format!("{UPLOADS}{digest}"),
            Self::UsingMarker(digest) => format!("{USING}{digest}"),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let single = [
            Self::Format,
            Self::Owner,
            Self::GcJournal,
            Self::AtimeProof,
            Self::ContentsLog,
            Self::Verified,
            Self::Usage,
        ];
        if let Some(digest) = text.strip_prefix(UPLOADS) {
            digest.parse().ok().map(Self::UploadMarker)
        } else if let Some(digest) = text.strip_prefix(USING) {
            digest.parse().ok().map(Self::UsingMarker)
        } else {
            single.into_iter().find(|file| file.name() == text)
        }
    }
}

/// Where something is kept, without saying below which root.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// A chunk, or its marker.
    Chunk(Digest),
    /// A chunk that was set aside as damaged.
    Bad(Digest, BadNumber),
    /// A file of a snapshot.
    SnapshotFile(Namespace, Snapshot, SnapshotFile),
    /// Who owns a group.
    GroupOwner(Namespace, BackupGroup),
    /// The notes of a group.
    GroupNotes(Namespace, BackupGroup),
    /// The object that makes an empty namespace visible. Never of the root.
    NamespaceMarker(Namespace),
    /// Who uses the bucket prefix.
    InUse,
    /// The lock of a directory datastore.
    Lock,
    /// The result of the last GC.
    GcStatus,
    /// Something of our own.
    Holdfast(HoldfastFile),
}

const CHUNKS: &str = ".chunks/";
const HOLDFAST: &str = ".holdfast/";
const CONTENTS: &str = ".cnt/";
const UPLOADS: &str = "uploads/";
const USING: &str = "using/";
const TEMPORARY: &str = "tmp/";

impl Place {
    /// The file `name` of a snapshot.
    pub fn archive(namespace: &Namespace, snapshot: &Snapshot, name: &ArchiveName) -> Self {
        let file = SnapshotFile::Archive(name.clone());
        Self::SnapshotFile(namespace.clone(), snapshot.clone(), file)
    }

    /// The text below the root, where namespaces and groups lie below `contents`.
    fn relative(&self, contents: &str) -> String {
        match self {
            Self::Chunk(digest) => format!("{CHUNKS}{}/{digest}", digest.folder()),
            Self::Bad(digest, number) => {
                format!("{CHUNKS}{}/{digest}.{}.bad", digest.folder(), number.0)
            }
            Self::SnapshotFile(namespace, snapshot, file) => {
                let namespace = namespace.path_prefix();
                format!("{contents}{namespace}{snapshot}/{}", file.as_str())
            }
            Self::GroupOwner(namespace, group) => {
                format!("{contents}{}{group}/owner", namespace.path_prefix())
            }
            Self::GroupNotes(namespace, group) => {
                format!("{contents}{}{group}/notes", namespace.path_prefix())
            }
            Self::NamespaceMarker(namespace) => {
                format!("{contents}{}.namespace", namespace.path_prefix())
            }
            Self::InUse => ".in-use".to_owned(),
            Self::Lock => ".lock".to_owned(),
            Self::GcStatus => ".gc-status".to_owned(),
            Self::Holdfast(file) => format!("{HOLDFAST}{}", file.name()),
        }
    }

    /// The opposite of [`relative`](Self::relative); accepts exactly what that writes.
    fn parse(text: &str, contents: &str) -> Option<Self> {
        let place = match text {
            ".in-use" => Self::InUse,
            ".lock" => Self::Lock,
            ".gc-status" => Self::GcStatus,
            _ => {
                if let Some(rest) = text.strip_prefix(CHUNKS) {
                    parse_chunk(rest)?
                } else if let Some(rest) = text.strip_prefix(HOLDFAST) {
                    Self::Holdfast(HoldfastFile::parse(rest)?)
                } else {
                    parse_contents(text.strip_prefix(contents)?)?
                }
            }
        };
        // One spelling only: two keys for one thing would be two things.
        (place.relative(contents) == text).then_some(place)
    }
}

fn parse_chunk(text: &str) -> Option<Place> {
    let (_, name) = text.split_once('/')?;
    let Some(name) = name.strip_suffix(".bad") else {
        return name.parse().ok().map(Place::Chunk);
    };
    let (digest, number) = name.split_once('.')?;
    let number = number.parse().ok().filter(|number| *number <= 9)?;
    Some(Place::Bad(digest.parse().ok()?, BadNumber(number)))
}

fn parse_contents(mut text: &str) -> Option<Place> {
    let mut components = Vec::new();
    while let Some((name, rest)) = text
        .strip_prefix("ns/")
        .and_then(|rest| rest.split_once('/'))
    {
        components.push(name.to_owned());
        text = rest;
    }
    let namespace = Namespace::of(components).ok()?;
    let parts: Vec<_> = text.splitn(5, '/').collect();
    let group = |kind: &str, id: &str| Some(BackupGroup::new(kind.parse().ok()?, id.parse().ok()?));
    match parts[..] {
        [".namespace"] if !namespace.is_root() => Some(Place::NamespaceMarker(namespace)),
        [kind, id, "owner"] => Some(Place::GroupOwner(namespace, group(kind, id)?)),
        [kind, id, "notes"] => Some(Place::GroupNotes(namespace, group(kind, id)?)),
        [kind, id, time, file] => {
            let snapshot = group(kind, id)?.at(time.parse().ok()?);
            Some(Place::SnapshotFile(
                namespace,
                snapshot,
                SnapshotFile::parse(file)?,
            ))
        }
        _ => None,
    }
}

/// Folders below a root, all ending in `/`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Folder {
    /// Everything.
    Root,
    /// All chunks.
    Chunks,
    /// The chunks whose digests begin with these four hex digits.
    ChunksOf(u16),
    /// All namespaces, groups and snapshots.
    Contents,
    /// A namespace with all that lies in it; the root is the same as [`Contents`](Self::Contents).
    Namespace(Namespace),
    /// All groups of one type in a namespace.
    Type(Namespace, BackupType),
    /// A group.
    Group(Namespace, BackupGroup),
    /// A snapshot.
    Snapshot(Namespace, Snapshot),
    /// All that is ours alone.
    Holdfast,
    /// Upload markers.
    Uploads,
    /// Using markers.
    Using,
    /// Temporary files.
    Temporary,
}

impl Folder {
    fn relative(&self, contents: &str) -> String {
        match self {
            Self::Root => String::new(),
            Self::Chunks => CHUNKS.to_owned(),
            Self::ChunksOf(folder) => format!("{CHUNKS}{folder:04x}/"),
            Self::Contents => contents.to_owned(),
            Self::Namespace(namespace) => format!("{contents}{}", namespace.path_prefix()),
            Self::Type(namespace, kind) => format!("{contents}{}{kind}/", namespace.path_prefix()),
            Self::Group(namespace, group) => {
                format!("{contents}{}{group}/", namespace.path_prefix())
            }
            Self::Snapshot(namespace, snapshot) => {
                format!("{contents}{}{snapshot}/", namespace.path_prefix())
            }
            Self::Holdfast => HOLDFAST.to_owned(),
            Self::Uploads => format!("{HOLDFAST}{UPLOADS}"),
            Self::Using => format!("{HOLDFAST}{USING}"),
            Self::Temporary => format!("{HOLDFAST}{TEMPORARY}"),
        }
    }
}

/// The storage areas that housekeeping walks; there is nothing of a datastore outside them but single files at the root.
/// In a directory datastore the contents are the root itself, and hold the other two.
pub const AREAS: [Folder; 3] = [Folder::Chunks, Folder::Contents, Folder::Holdfast];

/// The keys of one datastore in its bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketLayout {
    prefix: KeyPrefix,
}

impl BucketLayout {
    /// The layout below `{prefix}/`.
    pub fn new(prefix: &BucketPrefix) -> Self {
        let prefix = KeyPrefix::new(format!("{prefix}/"));
        let prefix = prefix.expect("it is short, has no control characters, and ends in a slash");
        Self { prefix }
    }

    /// `{prefix}/`.
    pub fn prefix(&self) -> &KeyPrefix {
        &self.prefix
    }

    /// The key of `place`.
    pub fn key(&self, place: &Place) -> ObjectKey {
        let key = self.prefix.key(&place.relative(CONTENTS));
        key.expect("the bounds of all names keep keys below 1024 bytes")
    }

    /// The prefix of all keys in `folder`.
    pub fn folder(&self, folder: &Folder) -> KeyPrefix {
        let prefix = KeyPrefix::new(format!("{}{}", self.prefix, folder.relative(CONTENTS)));
        prefix.expect("folders end in '/', and the bounds of all names keep them below 1024 bytes")
    }

    /// What is under `key`, or `None` if it lies outside the prefix or nobody of us writes such a key.
    pub fn parse(&self, key: &ObjectKey) -> Option<Place> {
        Place::parse(self.prefix.strip(key)?, CONTENTS)
    }
}

/// The paths of one datastore on the local file system, relative to its root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LocalLayout {
    /// The cache directory of a bucket; namespaces, groups and snapshots are mirrored below `.cnt/`.
    Cache,
    /// A directory datastore; namespaces, groups and snapshots lie at its root.
    Directory,
}

impl LocalLayout {
    fn contents(self) -> &'static str {
        match self {
            Self::Cache => CONTENTS,
            Self::Directory => "",
        }
    }

    /// The path of `place`.
    pub fn path(self, place: &Place) -> PathBuf {
        place.relative(self.contents()).into()
    }

    /// The path of `folder`.
    pub fn folder(self, folder: &Folder) -> PathBuf {
        folder.relative(self.contents()).into()
    }

    /// What is at `path`, which is relative to the root, or `None` if nobody of us writes such a path.
    pub fn parse(self, path: &Path) -> Option<Place> {
        Place::parse(path.to_str()?, self.contents())
    }
}

#[cfg(test)]
mod tests;
