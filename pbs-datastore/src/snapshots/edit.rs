//! Changes of a sealed snapshot: notes, verify state, protection, the client's log.
//!
//! A manifest is changed by compare-and-swap on its tag where the server can. Where it cannot, changes of one manifest
//! exclude each other, and after one whose answer was lost nobody changes it until that one can have no effect any more.
//! The snapshot is held shared meanwhile, so it is not removed under the change and brought back by it.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use bytes::Bytes;

use super::group::check_notes;
use super::{Lock, SnapshotRef, SnapshotState, Snapshots};
use crate::error::{Error, Result};
use crate::{ArchiveName, DataBlob, Manifest, VerifyState};

/// How often a change is made again because somebody else changed the manifest at the same time.
const ATTEMPTS_MAX: usize = 5;

impl Snapshots {
    /// The user's notes.
    pub async fn notes(&self, id: &SnapshotRef) -> Result<String> {
        Ok(self.sealed(id).await?.notes().to_owned())
    }

    /// Replaces the user's notes.
    pub async fn set_notes(&self, id: &SnapshotRef, notes: &str) -> Result<()> {
        check_notes(notes)?;
        self.edit(id, |manifest| manifest.set_notes(notes)).await
    }

    /// Notes down, or forgets, what a verification came to.
    pub async fn set_verify_state(
        &self,
        id: &SnapshotRef,
        state: Option<&VerifyState>,
    ) -> Result<()> {
        self.edit(id, |manifest| manifest.set_verify_state(state))
            .await
    }

    /// Takes over what is unprotected from another manifest of the same backup.
    pub(crate) async fn take_unprotected(&self, id: &SnapshotRef, other: &Manifest) -> Result<()> {
        self.edit(id, |manifest| manifest.take_unprotected(other))
            .await
    }

    /// The manifest of a snapshot; [`Error::NotFound`] if there is none.
    pub async fn sealed(&self, id: &SnapshotRef) -> Result<std::sync::Arc<Manifest>> {
        match &*self.state(id).await? {
            SnapshotState::Sealed(manifest) => Ok(manifest.clone()),
            SnapshotState::Unsealed => Err(Error::NotFound(format!("finished snapshot {id}"))),
            SnapshotState::Unreadable(why) => Err(Error::Invalid(format!("snapshot {id}: {why}"))),
        }
    }

    /// Orders changes of one manifest within this process. Held over the requests of the change.
    pub(super) async fn edit_turn(&self, id: &SnapshotRef) -> tokio::sync::MutexGuard<'_, ()> {
        let mut hasher = DefaultHasher::new();
        id.hash(&mut hasher);
        let stripe = hasher.finish() as usize % self.edits.len();
        self.edits[stripe].lock().await
    }

    pub(super) fn lock_edits(&self, id: &SnapshotRef) -> Result<Lock> {
        let busy = format!("snapshot {id} is being changed");
        self.locks.exclusive(&format!("{id} edit"), &busy)
    }

    /// Keeps the manifest unchanged until a write of it that was given up at `lost_at` can have no effect any more.
    /// Needed only where nothing but the lock keeps such a write from undoing a later one.
    pub(crate) fn keep_from_edits(
        &self,
        id: &SnapshotRef,
        lost_at: Option<tokio::time::Instant>,
    ) -> Result<()> {
        self.lock_edits(id)?.note_lost(lost_at);
        Ok(())
    }

    async fn edit(&self, id: &SnapshotRef, change: impl Fn(&mut Manifest)) -> Result<()> {
        self.writable()?;
        let held = self.hold(id)?;
        let _turn = self.edit_turn(id).await;
        let edits = self.lock_edits(id)?;
        let conditional = self
            .contents
            .bucket()
            .is_none_or(|bucket| bucket.capabilities.conditional_overwrite);
        let mut attempts = 0;
        loop {
            attempts += 1;
            let place = id.manifest();
            let before = self.contents.read(&place).await?;
            let before = before.ok_or_else(|| Error::NotFound(format!("snapshot {id}")))?;
            let invalid = |why: String| Error::Invalid(format!("snapshot {id}: {why}"));
            let state = SnapshotState::of(&id.snapshot, Some(before.clone()));
            let mut manifest = match state {
                SnapshotState::Sealed(manifest) => (*manifest).clone(),
                SnapshotState::Unreadable(why) => return Err(invalid(why)),
                SnapshotState::Unsealed => return Err(Error::NotFound(format!("snapshot {id}"))),
            };
            let unchanged = manifest.clone();
            change(&mut manifest);
            if manifest == unchanged {
                return Ok(());
            }
            let after = manifest
                .to_blob()
                .map_err(|e| invalid(e.to_string()))?
                .encoded();
            // A condition protects the write by itself; without one the ownership must be certain.
            if conditional {
                self.fence.cheap()?;
            } else {
                self.fence.check().await?;
            }
            let result = self.contents.swap(&held, &place, &before, after).await;
            if !conditional {
                edits.note_lost(held.lost());
            }
            self.changed(id);
            match result {
                Err(Error::Busy(_)) if attempts < ATTEMPTS_MAX => {}
                result => return result,
            }
        }
    }

    /// Whether a snapshot must not be removed.
    pub async fn protected(&self, id: &SnapshotRef) -> Result<bool> {
        self.state(id).await?;
        self.contents.exists(&id.protected()).await
    }

    /// Says whether a snapshot may be removed.
    pub async fn set_protected(&self, id: &SnapshotRef, protected: bool) -> Result<()> {
        self.writable()?;
        let held = self.hold(id)?;
        let _turn = self.edit_turn(id).await;
        let edits = self.lock_edits(id)?;
        if !self.state(id).await?.is_root() {
            return Err(Error::NotFound(format!("finished snapshot {id}")));
        }
        let place = id.protected();
        if self.contents.exists(&place).await? == protected {
            return Ok(());
        }
        let pass = self.fence.check().await?;
        let result = if protected {
            self.contents.put(&held, &place, Bytes::new()).await
        } else {
            self.contents.remove(&held, &pass, &[place]).await
        };
        // Put and removal have no condition, so a late one could undo the next.
        edits.note_lost(held.lost());
        result
    }

    /// Adds the client's log to a sealed snapshot, once. `blob` is stored as it is, with its CRC checked.
    pub async fn add_client_log(&self, id: &SnapshotRef, blob: Bytes) -> Result<()> {
        self.writable()?;
        let checked = DataBlob::parse(blob.clone()).and_then(|blob| blob.verify_crc());
        checked.map_err(|error| Error::Invalid(error.to_string()))?;
        let held = self.hold(id)?;
        let _turn = self.edit_turn(id).await;
        if !self.state(id).await?.is_root() {
            return Err(Error::NotFound(format!("finished snapshot {id}")));
        }
        let place = id.file(&ArchiveName::client_log());
        if self.contents.exists(&place).await? {
            return Err(Error::Exists(format!("the client's log of snapshot {id}")));
        }
        self.fence.check().await?;
        self.contents.put(&held, &place, blob).await
    }
}
