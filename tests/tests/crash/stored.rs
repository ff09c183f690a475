//! What a datastore holds, read past the daemon: from the bucket itself, or from the directory.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use holdfast_tests::s3_server::EmbeddedS3;
use pbs_datastore::{
    BucketLayout, DataBlob, Digest, Index, LocalLayout, Manifest, Namespace, Place, Snapshot,
    SnapshotFile,
};
use s3_client::{KeyPrefix, ListRequest, ObjectKey};
use walkdir::WalkDir;

use super::plan::Side;
use super::site::{Name, STORE, Site};

/// The file whose creation makes a snapshot.
const MANIFEST: &str = "index.json.blob";

/// What there is at one moment.
#[derive(Debug, Default)]
pub(crate) struct Stored {
    pub(crate) chunks: BTreeSet<Digest>,
    /// The files of each snapshot's folder.
    folders: BTreeMap<Snapshot, BTreeSet<String>>,
    /// Names that nobody should have left: temporary files.
    pub(crate) litter: Vec<String>,
    /// Chunks that were set aside.
    pub(crate) set_aside: usize,
}

/// The keys of a bucket below a prefix.
pub(crate) fn keys(server: &EmbeddedS3, prefix: &str) -> Result<Vec<ObjectKey>> {
    let mut request = ListRequest::new(KeyPrefix::new(prefix)?);
    let mut keys = Vec::new();
    loop {
        let page = server
            .runtime()
            .block_on(server.store().list(&request))?
            .value;
        keys.extend(page.entries.into_iter().map(|entry| entry.key));
        let Some(last) = keys.last().filter(|_| page.truncated) else {
            return Ok(keys);
        };
        request.start_after = Some(last.to_string());
    }
}

/// Files below `root` by their relative path, without the folders of this name.
pub(crate) fn files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in WalkDir::new(root) {
        let entry = entry?;
        if !entry.file_type().is_dir() {
            files.push(entry.path().strip_prefix(root)?.to_owned());
        }
    }
    Ok(files)
}

fn layout() -> Result<BucketLayout> {
    Ok(BucketLayout::new(&STORE.parse()?))
}

impl Stored {
    /// Looks.
    pub(crate) fn read(site: &Site) -> Result<Self> {
        let mut stored = Self::default();
        match site.side {
            Side::Bucket => {
                let layout = layout()?;
                for key in keys(site.server()?, &format!("{STORE}/"))? {
                    let place = layout.parse(&key);
                    let place = place.with_context(|| format!("'{key}' is nothing of ours"))?;
                    stored.add(place);
                }
            }
            Side::Directory => {
                for path in files(&site.local_dir())? {
                    match LocalLayout::Directory.parse(&path) {
                        Some(place) => stored.add(place),
                        None => stored.litter.push(path.display().to_string()),
                    }
                }
            }
        }
        Ok(stored)
    }

    fn add(&mut self, place: Place) {
        match place {
            Place::Chunk(digest) => {
                self.chunks.insert(digest);
            }
            Place::SnapshotFile(_, snapshot, file) => {
                let files = self.folders.entry(snapshot).or_default();
                files.insert(file.as_str().to_owned());
            }
            Place::Bad(..) => self.set_aside += 1,
            _ => {}
        }
    }

    fn sealed(&self) -> impl Iterator<Item = &Snapshot> {
        let folders = self.folders.iter();
        folders
            .filter(|(_, files)| files.contains(MANIFEST))
            .map(|(snapshot, _)| snapshot)
    }

    /// The snapshots that have a manifest.
    pub(crate) fn sealed_names(&self) -> BTreeSet<Name> {
        let name = |snapshot: &Snapshot| (snapshot.group.id.to_string(), snapshot.time.seconds());
        self.sealed().map(name).collect()
    }

    /// How many folders have no manifest.
    pub(crate) fn unsealed(&self) -> usize {
        self.folders.len() - self.sealed().count()
    }

    /// Looks into every snapshot that has a manifest: all its files are there, and all their chunks, and everything can
    /// be decoded. Answers the chunks.
    pub(crate) fn are_whole(&self, site: &Site) -> Result<BTreeSet<Digest>> {
        let mut needed = BTreeSet::new();
        for snapshot in self.sealed() {
            let read = |name: &str| -> Result<Bytes> {
                let file = SnapshotFile::Archive(name.parse()?);
                get(
                    site,
                    &Place::SnapshotFile(Namespace::root(), snapshot.clone(), file),
                )
            };
            let mut whole = || -> Result<()> {
                let manifest = Manifest::parse(&DataBlob::parse(read(MANIFEST)?)?)?;
                for file in manifest.files() {
                    let bytes = read(file.name.as_str())?;
                    let index = Index::parse(file.name.kind(), bytes)?;
                    ensure!(
                        Some(index.csum()) == file.csum && index.size() == file.size,
                        "{} is not what the manifest says",
                        file.name
                    );
                    needed.extend(index.chunks().map(|chunk| chunk.digest));
                }
                Ok(())
            };
            whole().with_context(|| format!("{snapshot} is not whole"))?;
        }
        for digest in &needed {
            self.has(site, digest)?;
        }
        Ok(needed)
    }

    /// A chunk is there and is what its name says.
    pub(crate) fn has(&self, site: &Site, digest: &Digest) -> Result<()> {
        ensure!(self.chunks.contains(digest), "chunk {digest} is not there");
        let mut decoded = site
            .decoded
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if decoded.insert(*digest) {
            DataBlob::parse(get(site, &Place::Chunk(*digest))?)?
                .verify_chunk(digest, None)
                .with_context(|| format!("chunk {digest}"))?;
        }
        Ok(())
    }
}

/// One thing.
pub(crate) fn get(site: &Site, place: &Place) -> Result<Bytes> {
    match site.side {
        Side::Bucket => {
            let (server, key) = (site.server()?, layout()?.key(place));
            let got = server.runtime().block_on(server.store().get(&key, None))?;
            Ok(got.value.body.into_bytes())
        }
        Side::Directory => {
            let path = site.local_dir().join(LocalLayout::Directory.path(place));
            Ok(fs::read(&path)
                .with_context(|| format!("cannot read '{}'", path.display()))?
                .into())
        }
    }
}

/// Whether everything that a marker vouches for is there.
pub(crate) fn markers_are_true(site: &Site, stored: &Stored) -> Result<usize> {
    let mut markers = 0;
    for path in files(&site.local_dir().join(".chunks"))? {
        let name = path.file_name().and_then(|name| name.to_str());
        let digest: Digest = match name.map(str::parse) {
            Some(Ok(digest)) => digest,
            _ if site.side == Side::Directory => continue,
            _ => bail!("'{}' is no marker", path.display()),
        };
        ensure!(
            stored.chunks.contains(&digest),
            "the marker of {digest} vouches for a chunk that is not there"
        );
        markers += 1;
    }
    Ok(markers)
}

/// What lies in our own directories and is there only for a while: upload and using markers, temporary files, the
/// journal of a collection; and files that were to replace others.
pub(crate) fn remains(site: &Site) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut roots = vec![site.local_dir()];
    roots.extend(site.daemon.config().parent().map(Path::to_owned));
    for root in roots {
        for path in files(&root)? {
            let text = path.display().to_string();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let replaces =
                name.starts_with('.') && (name.ends_with(".tmp") || name.ends_with(".new"));
            let passing = ["uploads/", "using/", "tmp/", "gc-journal"]
                .iter()
                .any(|part| text.starts_with(&format!(".holdfast/{part}")));
            if replaces || passing {
                found.push(text);
            }
        }
    }
    Ok(found)
}
