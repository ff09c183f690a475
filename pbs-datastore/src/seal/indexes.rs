//! The indexes of a session, from opening to closing.

use std::sync::Arc;

use super::{Inner, SnapshotWriter, WRITERS_MAX, locked};
use crate::error::{About as _, Error, Result};
use crate::index::fixed;
use crate::index::writer::{ClosedIndex, DynamicWriter, FixedWriter, IndexAppend};
use crate::{ArchiveKind, ArchiveName, Digest, Index};

#[derive(Debug)]
enum Kind {
    Fixed(FixedWriter),
    Dynamic(DynamicWriter),
}

impl Kind {
    fn archive_kind(&self) -> ArchiveKind {
        match self {
            Self::Fixed(_) => ArchiveKind::Fixed,
            Self::Dynamic(_) => ArchiveKind::Dynamic,
        }
    }
}

/// An index in the making.
#[derive(Debug)]
pub(super) struct OpenIndex {
    name: ArchiveName,
    kind: Kind,
    /// A chunk shorter than the chunk size of a fixed index was sent for it.
    short: bool,
}

type Slot = Arc<tokio::sync::Mutex<Option<OpenIndex>>>;

fn closed(wid: u16) -> Error {
    Error::Invalid(format!("there is no open index with the id {wid}"))
}

fn check_kind(name: &ArchiveName, kind: ArchiveKind) -> Result<()> {
    if name.kind() == kind {
        return Ok(());
    }
    let extension = kind.extension();
    Err(Error::Invalid(format!(
        "the name '{name}' must end in '.{extension}'"
    )))
}

impl SnapshotWriter {
    /// Opens a fixed index for an image of `size` bytes, or one that grows. With `reuse` it starts as a copy of the
    /// base's index of the same name, which must have that checksum and as many chunks. Answers its id, from 1 on.
    pub async fn open_fixed(
        &self,
        name: &ArchiveName,
        size: Option<u64>,
        reuse: Option<Digest>,
    ) -> Result<u16> {
        check_kind(name, ArchiveKind::Fixed)?;
        let inner = &self.0;
        let wid = inner.next_wid()?;
        let path = inner.dir.join(wid.to_string());
        let (uuid, ctime) = inner.uuid_and_time();
        let writer = if let Some(csum) = reuse {
            let base = self.base().ok_or_else(|| {
                Error::Invalid("there is no previous backup whose index could be reused".to_owned())
            })?;
            let size = size.ok_or_else(|| {
                Error::Invalid("reusing an index needs the size of the image".to_owned())
            })?;
            let previous = inner.snapshots.contents().path(&base.file(name));
            if !inner.snapshots.contents().exists(&base.file(name)).await? {
                return Err(Error::NotFound(format!(
                    "'{name}' in the previous backup {base}"
                )));
            }
            inner
                .env()
                .io(move |files| {
                    FixedWriter::create_from(files, path, size, &previous, &csum, uuid, ctime)
                })
                .await?
        } else {
            inner
                .env()
                .io(move |files| FixedWriter::create(files, path, size, uuid, ctime))
                .await?
        };
        inner.add_writer(wid, name, Kind::Fixed(writer))
    }

    /// Opens a dynamic index. Answers its id, from 1 on.
    pub async fn open_dynamic(&self, name: &ArchiveName) -> Result<u16> {
        check_kind(name, ArchiveKind::Dynamic)?;
        let inner = &self.0;
        let wid = inner.next_wid()?;
        let path = inner.dir.join(wid.to_string());
        let (uuid, ctime) = inner.uuid_and_time();
        let writer = inner
            .env()
            .io(move |files| DynamicWriter::create(files, path, uuid, ctime))
            .await?;
        inner.add_writer(wid, name, Kind::Dynamic(writer))
    }

    /// Whether an index of `kind` is open under this id; to be asked before a chunk's body is read.
    pub fn check_writer(&self, wid: u16, kind: ArchiveKind) -> Result<()> {
        let slot = self.0.slot(wid)?;
        // One that is busy is open; what it is busy with decides later.
        let Ok(slot) = slot.try_lock() else {
            return Ok(());
        };
        match &*slot {
            Some(index) if index.kind.archive_kind() == kind => Ok(()),
            _ => Err(closed(wid)),
        }
    }

    /// Checks that a chunk of `size` bytes may be sent for an open index of `kind`: those of a fixed one have the chunk
    /// size, but for one.
    pub async fn admit_chunk(&self, wid: u16, kind: ArchiveKind, size: u64) -> Result<()> {
        let slot = self.0.slot(wid)?;
        let mut slot = slot.lock().await;
        let index = slot.as_mut().ok_or_else(|| closed(wid))?;
        if index.kind.archive_kind() != kind {
            return Err(closed(wid));
        }
        if kind == ArchiveKind::Fixed {
            if size > fixed::CHUNK_SIZE {
                return Err(Error::Invalid(format!(
                    "a chunk of '{}' has {size} bytes, more than the {} that are allowed",
                    index.name,
                    fixed::CHUNK_SIZE
                )));
            }
            if size < fixed::CHUNK_SIZE {
                if index.short {
                    return Err(Error::Invalid(format!(
                        "'{}' has a second chunk that is too short; only the last one may be",
                        index.name
                    )));
                }
                index.short = true;
            }
        }
        Ok(())
    }

    /// Enters chunks into an open index: digest and start offset, in the order of the request. Each must have been
    /// uploaded or registered in this session. Fails at the first bad one; those before it are entered.
    pub async fn append(
        &self,
        wid: u16,
        kind: ArchiveKind,
        chunks: &[(Digest, u64)],
    ) -> Result<()> {
        self.0.session.alive()?;
        locked(&self.0.state).active()?;
        let mut appends = Vec::with_capacity(chunks.len());
        let mut unknown = None;
        for (digest, offset) in chunks {
            let Some(told) = self.0.session.told(digest) else {
                unknown = Some(*digest);
                break;
            };
            appends.push(IndexAppend {
                offset: *offset,
                size: u64::from(told.size),
                digest: *digest,
            });
        }
        let mut slot = self.0.slot(wid)?.lock_owned().await;
        self.0
            .env()
            .io(
                move |files| match slot.as_mut().map(|index| &mut index.kind) {
                    Some(Kind::Fixed(writer)) if kind == ArchiveKind::Fixed => {
                        writer.append(files, &appends)
                    }
                    Some(Kind::Dynamic(writer)) if kind == ArchiveKind::Dynamic => {
                        writer.append(files, &appends)
                    }
                    _ => Err(closed(wid)),
                },
            )
            .await?;
        match unknown {
            None => Ok(()),
            Some(digest) => Err(Error::Invalid(format!(
                "chunk {digest} was neither uploaded nor registered in this session"
            ))),
        }
    }

    /// Closes an index and stores it. The counts must be ours, or it stays open; the checksum too, or it is closed
    /// without being stored.
    pub async fn close(
        &self,
        wid: u16,
        kind: ArchiveKind,
        chunk_count: u64,
        size: u64,
        csum: Digest,
    ) -> Result<()> {
        self.0.session.alive()?;
        locked(&self.0.state).active()?;
        let slot = self.0.slot(wid)?;
        let inner = Arc::clone(&self.0);
        self.0
            .run(async move {
                let _arriving = inner.arriving.read().await;
                inner
                    .close_index(wid, slot, kind, chunk_count, size, csum)
                    .await
            })
            .await
    }

    /// Stores a complete index that came from elsewhere (sync). Its chunks are the caller's concern.
    pub async fn put_index(&self, name: &ArchiveName, bytes: bytes::Bytes) -> Result<()> {
        locked(&self.0.state).active()?;
        self.0.session.alive()?;
        let index = Index::parse(name.kind(), bytes.clone())
            .map_err(|error| Error::Invalid(format!("'{name}': {error}")))?;
        let content = ClosedIndex {
            size: index.size(),
            csum: index.csum(),
            file_bytes: bytes.len() as u64,
        };
        drop(index);
        let (inner, name) = (Arc::clone(&self.0), name.clone());
        self.0
            .run(async move {
                let _arriving = inner.arriving.read().await;
                let path = inner.temporary(vec![bytes]).await?;
                inner
                    .store(&name, path, content.file_bytes, content.size, content.csum)
                    .await
            })
            .await
    }
}

impl Inner {
    fn next_wid(&self) -> Result<u16> {
        self.session.alive()?;
        let mut state = locked(&self.state);
        state.active()?;
        if state.last_wid >= WRITERS_MAX {
            return Err(Error::Invalid(format!(
                "a backup has at most {WRITERS_MAX} indexes"
            )));
        }
        state.last_wid += 1;
        Ok(state.last_wid)
    }

    fn uuid_and_time(&self) -> (uuid::Uuid, i64) {
        let uuid = uuid::Builder::from_random_bytes(self.env().random_16()).into_uuid();
        (uuid, self.env().now().as_second())
    }

    fn add_writer(&self, wid: u16, name: &ArchiveName, kind: Kind) -> Result<u16> {
        let index = OpenIndex {
            name: name.clone(),
            kind,
            short: false,
        };
        let mut state = locked(&self.state);
        state.active()?;
        let slot = Arc::new(tokio::sync::Mutex::new(Some(index)));
        state.writers.insert(wid, slot);
        Ok(wid)
    }

    fn slot(&self, wid: u16) -> Result<Slot> {
        let state = locked(&self.state);
        state.writers.get(&wid).cloned().ok_or_else(|| closed(wid))
    }

    async fn close_index(
        &self,
        wid: u16,
        slot: Slot,
        kind: ArchiveKind,
        chunk_count: u64,
        size: u64,
        csum: Digest,
    ) -> Result<()> {
        let mut slot = slot.lock().await;
        let named = |name: &ArchiveName, error: Error| match error {
            Error::Invalid(why) => Error::Invalid(format!("'{name}': {why}")),
            error => error,
        };
        match slot.as_ref().map(|index| (&index.name, &index.kind)) {
            Some((name, Kind::Fixed(writer))) if kind == ArchiveKind::Fixed => writer
                .check_counts(chunk_count, size)
                .map_err(|error| named(name, error))?,
            Some((name, Kind::Dynamic(writer))) if kind == ArchiveKind::Dynamic => writer
                .check_counts(chunk_count, size)
                .map_err(|error| named(name, error))?,
            _ => return Err(closed(wid)),
        }
        // From here on the writer is closed, whatever comes of it.
        let Some(OpenIndex { name, kind, .. }) = slot.take() else {
            return Err(closed(wid));
        };
        locked(&self.state).writers.remove(&wid);
        let path = match &kind {
            Kind::Fixed(writer) => writer.path().to_owned(),
            Kind::Dynamic(writer) => writer.path().to_owned(),
        };
        let finished = self
            .env()
            .io(move |files| match kind {
                Kind::Fixed(writer) => writer.finish(files, &csum),
                Kind::Dynamic(writer) => writer.finish(files, &csum),
            })
            .await;
        let index = finished.map_err(|error| named(&name, error))?;
        self.store(&name, path, index.file_bytes, index.size, index.csum)
            .await
    }

    /// A file of this session with this content.
    pub(super) async fn temporary(&self, parts: Vec<bytes::Bytes>) -> Result<std::path::PathBuf> {
        let path = self.dir.join(self.env().new_id());
        self.env()
            .io(move |files| {
                files
                    .create(&path, crate::files::FILE_MODE, &parts, false)
                    .about(&path)?;
                Ok(path)
            })
            .await
    }
}
