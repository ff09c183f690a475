//! What is there of the chunks, and how long each is, without reading any: for a bucket by its list, for a directory by a look at each file.
//!
//! A list comes in the order of the digests. It is written down as it comes, one file of [`ENTRY_BYTES`] per chunk for each of the ranges that are
//! listed side by side, and looked up there, folder by folder. In memory is only where each folder begins, so a bucket of any size costs a
//! megabyte of memory and 36 bytes of disk per chunk. The files are temporary ones that garbage collection leaves alone: they go with the value, and after
//! a crash at the next start.
//!
//! A list is older than whoever asks. So only what must have been there when it was begun may be looked up: chunks of snapshots that were finished
//! before; and one that is not in it is *doubtful*, not missing, until somebody has tried to read it.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use s3_client::{ListEntry, ListRequest};

use crate::contents::BucketContents;
use crate::error::About as _;
use crate::files::{Files, optional};
use crate::gc::{FOLDERS, folder_of};
use crate::progress::Progress;
use crate::{
    BlobKind, Datastore, Digest, Env, Error, Folder, IndexChunk, JobContext, Place, Result,
};

/// A digest, and its length in four bytes.
const ENTRY_BYTES: usize = 36;
/// What the names of its files begin with.
pub(crate) const INVENTORY: &str = "inventory.";
/// Bytes of the list that are kept until they are written.
const WRITE_BYTES: usize = 256 << 10;

/// See the module page.
#[derive(Debug)]
pub(super) struct Inventory {
    /// None for a directory.
    ranges: Arc<[Listed]>,
    _files: ListFiles,
}

/// The files of an inventory, which go with this.
#[derive(Debug)]
struct ListFiles {
    env: Env,
    paths: Vec<PathBuf>,
}

impl Drop for ListFiles {
    fn drop(&mut self) {
        let (env, paths) = (self.env.clone(), std::mem::take(&mut self.paths));
        let remove = async move {
            let removed = env.io(move |files: &dyn Files| {
                for path in paths {
                    optional(files.unlink(&path)).about(&path)?;
                }
                Ok::<_, Error>(())
            });
            if let Err(error) = removed.await {
                tracing::warn!(%error, "the list of a verification is left behind until the next start");
            }
        };
        drop(self.env.spawn(remove));
    }
}

/// The list of a range of chunk folders.
#[derive(Debug)]
struct Listed {
    path: PathBuf,
    folders: Range<u32>,
    /// How many chunks are in front of each folder, and at the end how many there are.
    starts: Vec<u64>,
    /// Their bytes.
    bytes: u64,
}

impl Inventory {
    /// Lists all chunks of a bucket, page by page; of a directory nothing.
    pub(super) async fn take(datastore: &Datastore, job: &JobContext) -> Result<Self> {
        let contents = datastore.snapshots().contents();
        let env = datastore.env();
        let mut files = ListFiles {
            env: env.clone(),
            paths: Vec::new(),
        };
        let Some(bucket) = contents.bucket() else {
            return Ok(Self {
                ranges: Arc::default(),
                _files: files,
            });
        };
        let id = env.new_id();
        let progress = Progress::new(env, job, "listed", Some(FOLDERS.into()));
        let count = datastore.config().list_ranges as u32;
        let lists: Vec<Listed> = (0..count)
            .map(|range| Listed {
                path: contents
                    .temporary()
                    .join(format!("{INVENTORY}{id}.{range}")),
                folders: range * FOLDERS / count..(range + 1) * FOLDERS / count,
                starts: vec![0],
                bytes: 0,
            })
            .collect();
        files.paths = lists.iter().map(|list| list.path.clone()).collect();
        let lists = lists
            .into_iter()
            .map(|list| list.take(env, bucket, &progress, job));
        let inventory = Self {
            ranges: futures_util::future::try_join_all(lists).await?.into(),
            _files: files,
        };
        let (chunks, bytes) = inventory.totals();
        job.log(format!("the bucket lists {chunks} chunks, {bytes} bytes"));
        Ok(inventory)
    }

    /// Chunks that are listed, and their bytes.
    fn totals(&self) -> (u64, u64) {
        let ranges = self.ranges.iter();
        ranges.fold((0, 0), |(chunks, bytes), range| {
            (chunks + range.chunks(), bytes + range.bytes)
        })
    }

    /// How long each of these chunks is as it is stored; `None` if it is not there, or is not as long as its cached copy. Quickest in the
    /// order of the digests.
    pub(super) async fn lengths(
        &self,
        datastore: &Datastore,
        digests: Vec<Digest>,
    ) -> Result<Vec<Option<u64>>> {
        let markers = datastore.chunks().markers.clone();
        let in_directory = datastore.snapshots().contents().bucket().is_none();
        let mut lookup = Lookup {
            ranges: Arc::clone(&self.ranges),
            folder: None,
            entries: Bytes::new(),
        };
        let look = move |files: &dyn Files| {
            let mut lengths = Vec::with_capacity(digests.len());
            for digest in &digests {
                let marker = markers.get(files, digest).about(markers.path(digest))?;
                let local = marker.map(|marker| marker.size);
                lengths.push(if in_directory {
                    local
                } else {
                    // What is cached is as long as what was uploaded.
                    let cached = local.filter(|length| *length > 0);
                    let listed = lookup.find(files, digest)?;
                    listed.filter(|listed| cached.is_none_or(|cached| cached == *listed))
                });
            }
            Ok(lengths)
        };
        datastore.env().io(look).await
    }
}

/// Whether a stored chunk of so many bytes can be the one of an entry. Nothing is stored that is longer than its content and a header.
pub(super) fn fits(entry: &IndexChunk, whole: bool, encrypted: bool, length: u64) -> bool {
    let kind = if encrypted {
        BlobKind::Encrypted
    } else {
        BlobKind::Plain
    };
    let header = kind.header_len() as u64;
    length > header && (!whole || length <= header + entry.len())
}

impl Listed {
    fn chunks(&self) -> u64 {
        self.starts.last().copied().unwrap_or(0)
    }

    /// Lists the range.
    async fn take(
        mut self,
        env: &Env,
        bucket: &BucketContents,
        progress: &Progress,
        job: &JobContext,
    ) -> Result<Self> {
        let path = self.path.clone();
        env.io(move |files| files.create(&path, 0o600, &[], false).about(&path))
            .await?;
        let chunks = bucket.layout.folder(&Folder::Chunks);
        let mut after = Some(format!("{chunks}{:04x}", self.folders.start));
        let (mut unwritten, mut written) = (Vec::new(), 0);
        while let Some(start_after) = after.take() {
            job.check()?;
            let request = ListRequest {
                start_after: Some(start_after),
                ..ListRequest::new(chunks.clone())
            };
            let page = bucket.store.list(&request).await?.value;
            let before = (self.starts.len(), self.chunks());
            let open = self.take_page(bucket, &page.entries, &mut unwritten)?;
            let last = page.entries.last();
            after = last
                .filter(|_| open && page.truncated)
                .map(|last| last.key.as_str().to_owned());
            progress.add(
                (self.starts.len() - before.0) as u64,
                self.chunks() - before.1,
            );
            if unwritten.len() >= WRITE_BYTES || after.is_none() {
                let (path, data) = (self.path.clone(), std::mem::take(&mut unwritten));
                let length = data.len() as u64;
                env.io(move |files| files.write_at(&path, written, &data).about(&path))
                    .await?;
                written += length;
            }
        }
        let chunks = self.chunks();
        self.starts.resize(self.folders.len() + 1, chunks);
        Ok(self)
    }

    /// Takes what is of this range; answers whether there may be more.
    fn take_page(
        &mut self,
        bucket: &BucketContents,
        entries: &[ListEntry],
        unwritten: &mut Vec<u8>,
    ) -> Result<bool> {
        for entry in entries {
            let Some(Place::Chunk(digest)) = bucket.layout.parse(&entry.key) else {
                continue;
            };
            let folder = folder_of(&digest);
            if folder >= self.folders.end {
                return Ok(false);
            }
            // The chunks of a folder follow each other, and so do the folders.
            let at = folder.checked_sub(self.folders.start);
            let at = at.filter(|at| *at as usize + 2 >= self.starts.len());
            let at = at.ok_or_else(|| {
                Error::Refused("the bucket does not list its keys in their order, so nothing can be said of what is missing in it".to_owned())
            })?;
            let before = self.chunks();
            self.starts.resize(at as usize + 2, before);
            if let Some(end) = self.starts.last_mut() {
                *end += 1;
            }
            self.bytes += entry.size;
            unwritten.extend_from_slice(digest.as_bytes());
            let length = u32::try_from(entry.size).unwrap_or(u32::MAX);
            unwritten.extend_from_slice(&length.to_le_bytes());
        }
        Ok(true)
    }
}

/// File work: finds digests in an inventory, with the folder at hand that was looked at last.
struct Lookup {
    ranges: Arc<[Listed]>,
    folder: Option<u32>,
    entries: Bytes,
}

impl Lookup {
    /// The length of a chunk; `None` if it is not listed.
    fn find(&mut self, files: &dyn Files, digest: &Digest) -> Result<Option<u64>> {
        let folder = folder_of(digest);
        if self.folder != Some(folder) {
            let mut ranges = self.ranges.iter();
            let Some(range) = ranges.find(|range| range.folders.contains(&folder)) else {
                return Ok(None);
            };
            let at = (folder - range.folders.start) as usize;
            let (start, end) = (range.starts[at], range.starts[at + 1]);
            let bytes = |chunks: u64| chunks * ENTRY_BYTES as u64;
            let length = bytes(end - start) as usize;
            let read = files.read_at(&range.path, bytes(start), length);
            self.entries = read.about(&range.path)?;
            self.folder = Some(folder);
        }
        let (entries, _) = self.entries.as_chunks::<ENTRY_BYTES>();
        let found = entries.binary_search_by(|entry| entry[..32].cmp(digest.as_bytes()));
        Ok(found.ok().map(|at| {
            let length = entries[at].last_chunk::<4>().copied().unwrap_or_default();
            u32::from_le_bytes(length).into()
        }))
    }
}
