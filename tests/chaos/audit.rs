//! Looks into the bucket past daemon and proxy: whatever a sealed snapshot names must be there, at any moment.
//!
//! A look
//! 1. lists the contents and reads manifest and indexes of every sealed snapshot (once for each ETag);
//! 2. lists the chunks;
//! 3. asks again for each chunk that an index names and the list lacks, and then for the manifest. If the chunk is not
//!    there and the manifest still is, something is lost: a removal takes the manifest away first, and nothing else may
//!    take a chunk from under it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures_util::stream::{self, StreamExt as _};
use holdfast_tests::measure::site::STORE;
use holdfast_tests::s3_server::Access;
use pbs_datastore::{
    ArchiveName, BucketLayout, CHUNK_BYTES_MAX, DataBlob, Digest, Folder, Index, Manifest, Place,
    SnapshotFile, SnapshotRef,
};
use s3_client::{AwsStore, ETag, ErrorKind, ListEntry, ListRequest, ObjectKey, ObjectStore as _};

use super::tally::Violation;
use super::world::World;

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(4);
/// Chunks that are read at once at the end.
const READS_MAX: usize = 8;

/// The bucket as it is, with what was read of it before.
pub(crate) struct Audit {
    store: AwsStore,
    layout: BucketLayout,
    read: BTreeMap<SnapshotRef, (ETag, Arc<BTreeSet<Digest>>)>,
}

/// What is in the bucket.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    /// Sealed snapshots with the digests that they need.
    pub(crate) sealed: BTreeMap<SnapshotRef, Arc<BTreeSet<Digest>>>,
    pub(crate) chunks: BTreeSet<Digest>,
    /// Keys of chunks that were set aside as damaged.
    pub(crate) bad: Vec<String>,
}

impl Audit {
    /// Connects past the proxy.
    pub(crate) async fn connect(access: &Access) -> Result<Self> {
        Ok(Self {
            store: access.client().await?,
            layout: BucketLayout::new(&STORE.parse()?),
            read: BTreeMap::new(),
        })
    }

    async fn list(&self, folder: &Folder) -> Result<Vec<ListEntry>> {
        let mut request = ListRequest::new(self.layout.folder(folder));
        let mut all = Vec::new();
        loop {
            let page = self.store.list(&request).await?.value;
            all.extend(page.entries);
            let Some(last) = all.last().filter(|_| page.truncated) else {
                return Ok(all);
            };
            request.start_after = Some(last.key.as_str().to_owned());
        }
    }

    async fn exists(&self, key: &ObjectKey) -> Result<bool> {
        match self.store.head(key).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn manifest_key(&self, id: &SnapshotRef) -> ObjectKey {
        self.file_key(id, &ArchiveName::manifest())
    }

    fn file_key(&self, id: &SnapshotRef, name: &ArchiveName) -> ObjectKey {
        let place = Place::archive(&id.namespace, &id.snapshot, name);
        self.layout.key(&place)
    }

    async fn blob(&self, key: &ObjectKey) -> Result<bytes::Bytes> {
        Ok(self.store.get(key, None).await?.value.body.into_bytes())
    }

    /// The digests that a sealed snapshot needs.
    async fn needs(&self, id: &SnapshotRef) -> Result<BTreeSet<Digest>> {
        let manifest = self.blob(&self.manifest_key(id)).await?;
        let manifest = DataBlob::parse(manifest)?;
        manifest.verify_crc()?;
        let manifest = Manifest::parse(&manifest)?;
        manifest.check_snapshot(&id.snapshot)?;
        let mut needed = BTreeSet::new();
        for file in manifest.files() {
            let bytes = self.blob(&self.file_key(id, &file.name)).await;
            let bytes = bytes.with_context(|| format!("its file {}", file.name))?;
            let index = Index::parse(file.name.kind(), bytes)?;
            ensure!(file.csum == Some(index.csum()), "an index is another");
            needed.extend(index.chunks().map(|chunk| chunk.digest));
        }
        Ok(needed)
    }

    /// Steps 1 and 2. What cannot be read of a snapshot that is still there is a loss.
    pub(crate) async fn contents(&mut self, world: &World) -> Result<Contents> {
        let mut contents = Contents::default();
        for entry in self.list(&Folder::Contents).await? {
            let Some(Place::SnapshotFile(namespace, snapshot, SnapshotFile::Archive(name))) =
                self.layout.parse(&entry.key)
            else {
                continue;
            };
            if !name.is_manifest() {
                continue;
            }
            let id = SnapshotRef::new(namespace, snapshot);
            let known = self.read.get(&id).filter(|(etag, _)| *etag == entry.etag);
            let needed = if let Some((_, needed)) = known {
                Arc::clone(needed)
            } else {
                match self.needs(&id).await {
                    Ok(needed) => Arc::new(needed),
                    Err(error) => {
                        if self.exists(&entry.key).await? {
                            let text = format!("sealed snapshot {id} in the bucket: {error:#}");
                            world.tally.violation(Violation::Loss, text);
                        }
                        continue;
                    }
                }
            };
            let kept = (entry.etag.clone(), Arc::clone(&needed));
            self.read.insert(id.clone(), kept);
            contents.sealed.insert(id, needed);
        }
        self.read.retain(|id, _| contents.sealed.contains_key(id));
        for entry in self.list(&Folder::Chunks).await? {
            match self.layout.parse(&entry.key) {
                Some(Place::Chunk(digest)) => {
                    contents.chunks.insert(digest);
                }
                _ => contents.bad.push(entry.key.as_str().to_owned()),
            }
        }
        Ok(contents)
    }

    /// All steps.
    async fn look(&mut self, world: &World) -> Result<()> {
        let contents = self.contents(world).await?;
        for key in &contents.bad {
            let text = format!("'{key}' was set aside as damaged, and nobody damages any");
            world.tally.violation(Violation::Loss, text);
        }
        for (id, needed) in &contents.sealed {
            for digest in needed.difference(&contents.chunks) {
                let key = self.layout.key(&Place::Chunk(*digest));
                if !self.exists(&key).await? && self.exists(&self.manifest_key(id)).await? {
                    let text = format!("sealed snapshot {id} needs chunk {digest}, and it is gone");
                    world.tally.violation(Violation::Loss, text);
                }
            }
        }
        world.tally.count("looks into the bucket");
        world
            .tally
            .at_least("chunks in the bucket", contents.chunks.len() as u64);
        Ok(())
    }

    /// Reads each of the chunks and checks that it is what its digest says. Returns how many bytes they have.
    pub(crate) async fn verify(&self, world: &World, digests: BTreeSet<Digest>) -> u64 {
        let reads = stream::iter(digests).map(|digest| async move {
            let key = self.layout.key(&Place::Chunk(digest));
            let read = async {
                let content = DataBlob::parse(self.blob(&key).await?)?;
                let content = content.decode(CHUNK_BYTES_MAX, None)?;
                ensure!(Digest::of(&content) == digest, "it has another digest");
                Ok(content.len() as u64)
            };
            read.await.unwrap_or_else(|error| {
                let text = format!("chunk {digest} in the bucket: {error:#}");
                world.tally.violation(Violation::Loss, text);
                0
            })
        });
        let reads = reads.buffer_unordered(READS_MAX);
        reads.fold(0, async |sum, bytes| sum + bytes).await
    }
}

/// Looks again and again until the end.
pub(crate) async fn audit_without_end(world: Arc<World>) {
    let mut audit = match Audit::connect(&world.site.access).await {
        Ok(audit) => audit,
        Err(error) => {
            let text = format!("the bucket cannot be looked at: {error:#}");
            world.tally.violation(Violation::Run, text);
            return;
        }
    };
    while !world.is_stopped() {
        if let Err(error) = audit.look(&world).await {
            let text = format!("a look into the bucket: {error:#}");
            world.tally.violation(Violation::Run, text);
        }
        world.pause(PAUSE).await;
    }
}
