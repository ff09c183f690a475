//! Mending a finished snapshot that is damaged, from a copy elsewhere: its files one by one, its manifest last.
//!
//! Before a file is replaced it is whole, and every chunk it names is stored. So a crash in between leaves the snapshot as damaged as it
//! was, or less. Each put is made under the exclusive lock, which outlasts an answer that was lost (I8).

use bytes::Bytes;

use super::{SnapshotRef, Snapshots};
use crate::error::{About as _, Error, Result};
use crate::index::Index;
use crate::{ArchiveKind, ArchiveName, Manifest, SyncLevel, WriterSession};

impl Snapshots {
    /// Whether the files that are here can be those of `manifest`: no index that can be read is another one. For snapshots whose own
    /// manifest cannot be read.
    pub(crate) async fn may_be(&self, id: &SnapshotRef, manifest: &Manifest) -> Result<bool> {
        for file in manifest.files() {
            let kind = file.name.kind();
            if kind == ArchiveKind::Blob {
                continue;
            }
            let stored = self.contents.stored(&id.file(&file.name)).await?;
            let csum = file.csum;
            let differs = move |stored: Bytes| {
                Index::parse(kind, stored).is_ok_and(|index| Some(index.csum()) != csum)
            };
            if let Some(stored) = stored
                && self.env().compute(move || differs(stored)).await
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Puts a file in the place of what is there, unless that is the same.
    pub(crate) async fn mend_file(
        &self,
        id: &SnapshotRef,
        name: &ArchiveName,
        bytes: Bytes,
    ) -> Result<()> {
        let place = id.file(name);
        if self.contents.stored(&place).await?.as_ref() == Some(&bytes) {
            return Ok(());
        }
        self.mend(id, name, bytes).await
    }

    /// Puts the manifest in its place, after what `sync-level` asks for, if no chunk was lost that `session` relies on.
    pub(crate) async fn mend_manifest(
        &self,
        id: &SnapshotRef,
        bytes: Bytes,
        session: &WriterSession,
    ) -> Result<()> {
        if self.contents.sync_level() == SyncLevel::Filesystem {
            let path = self.contents.folder(&id.folder());
            self.env()
                .io(move |files| files.sync_file_system(&path).about(&path))
                .await?;
        }
        if let Some(digest) = session.lost(1).first() {
            return Err(Error::ChunkMissing { digest: *digest });
        }
        let result = self.mend(id, &ArchiveName::manifest(), bytes).await;
        self.changed(id);
        result
    }

    async fn mend(&self, id: &SnapshotRef, name: &ArchiveName, bytes: Bytes) -> Result<()> {
        self.writable()?;
        self.thawed(id)?;
        let lock = self.lock_exclusive(id)?;
        let _turn = self.edit_turn(id).await;
        let _edits = self.lock_edits(id)?;
        if !self.contents.exists(&id.manifest()).await? {
            return Err(Error::NotFound(format!("finished snapshot {id}")));
        }
        self.fence.check().await?;
        self.contents.put(&lock, &id.file(name), bytes).await
    }
}
