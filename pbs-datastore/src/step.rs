//! The numbered steps of the protocols, as points at which a test can look or strike.
//!
//! The code says [`Step::passed`] right *after* a step has ended. In a release that is nothing. In a debug
//! build whoever watches this thread (`watch`) is called, which is how a simulation counts steps and
//! crashes at them; and a process ends itself, as `kill -9` would, at the step that `HOLDFAST_STOP_AT=<Step>[:<n>]` names:
//! at its `n`th passing, the first one without a number.

/// A step that has just ended. The number in each name's comment is that of its module's page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// Insert 1: the guard is held.
    InsertGuarded,
    /// Insert 2: the marker was there and is touched.
    InsertTouched,
    /// Insert 3: the upload marker is there.
    InsertMarked,
    /// Insert 4: the backend has accepted the chunk.
    InsertPut,
    /// Insert 5: the marker is there, with the chunk or empty.
    InsertCached,
    /// Insert 6: the upload marker is gone, and the session was told.
    InsertTold,
    /// Insert into a directory: the chunk file is in place.
    InsertFile,
    /// A known chunk was touched and its session told.
    Adopted,
    /// Cache insert 1: room is reserved.
    CacheReserved,
    /// Cache insert 2: the temporary file is written.
    CacheWritten,
    /// Cache insert 2: it is renamed to the marker.
    CacheRenamed,
    /// Fill 2: the fill is registered.
    FillRegistered,
    /// Fill 4: the chunk is here and verified.
    FillFetched,
    /// Fill 6: it is in the cache.
    FillInserted,
    /// Eviction 3: an empty marker is in the place of the chunk.
    Evicted,
    /// Collection 1: the cutoff is read.
    GcCutoff,
    /// Collection 2: everything in use is marked.
    GcMarked,
    /// Collection 3: a page of the listing, or some folders of a directory, have been compared.
    GcListed,
    /// Collection 4: the epoch is raised in the bucket.
    GcEpochInBucket,
    /// Collection 4: the epoch is raised in the cache directory.
    GcEpochLocal,
    /// Collection 5: a finding is reconciled.
    GcReconciled,
    /// Collection 6: what was stale is gone.
    GcTidied,
    /// Delete batch 1: condemned.
    BatchCondemned,
    /// Delete batch 2: the journal is written.
    BatchJournalled,
    /// Delete batch 3: the fence has confirmed.
    BatchConfirmed,
    /// Delete batch 4: the delete was answered, or given up.
    BatchDeleted,
    /// Delete batch 5: the markers are gone.
    BatchForgotten,
    /// Delete batch 6: what was lost has no effect any more.
    BatchWaited,
    /// Delete batch 7: the journal is cleared.
    BatchCleared,
    /// Delete batch 8: released.
    BatchReleased,
    /// A directory's delete batch: a chunk file is unlinked.
    BatchUnlinked,
    /// Setting aside 3: the copy is made.
    AsideCopied,
    /// Recovery: the journal's digests are condemned and their markers gone.
    RecoveryBegun,
    /// Recovery: the journal is cleared.
    RecoveryCleared,
    /// Seal 1: group and snapshot are locked.
    SealClaimed,
    /// Seal 2: a file of the snapshot is in the bucket, or in the folder of a directory.
    SealStored,
    /// Seal 3: what can be checked is checked.
    SealChecked,
    /// Seal 4: all files are acknowledged.
    SealConfirmed,
    /// Seal 5: the fence has passed the manifest.
    SealFenced,
    /// Seal 5: the manifest is in the bucket, or in the folder of a directory.
    SealPut,
    /// Seal 6: the snapshot is visible here.
    SealVisible,
    /// Deletion of a snapshot: the manifest is gone from the bucket, or from a directory.
    DeleteManifest,
    /// Deletion of a snapshot: a file of it is gone.
    DeleteFile,
    /// Deletion of a snapshot: nothing is left.
    DeleteDone,
    /// Start 3: the start is noted in the cache directory.
    StartNoted,
    /// Start 4: the bucket knows of the start.
    StartTaken,
    /// Start 5: the cache directory's record is written.
    StartRecorded,
    /// Start: markers that may not be trusted are dropped.
    MarkersDropped,
    /// Clean stop: recorded in the cache directory.
    StopNoted,
    /// Clean stop: recorded in the bucket.
    StopRecorded,
    /// A small file's replacement is written beside it.
    ReplaceWritten,
    /// A small file's replacement is renamed over it.
    ReplaceRenamed,
    /// A small file that must not exist yet is written beside its place.
    CreateWritten,
    /// It has its name.
    CreateLinked,
    /// A directory's chunk file is set aside.
    AsideRenamed,
    /// A changed manifest, an owner or a note is in the bucket, and not yet in the mirror.
    EditPut,
    /// Start: the remains of an unfinished backup are removed.
    UnsealedRemoved,
}

impl Step {
    /// All steps.
    pub const ALL: [Self; 57] = [
        Self::InsertGuarded,
        Self::InsertTouched,
        Self::InsertMarked,
        Self::InsertPut,
        Self::InsertCached,
        Self::InsertTold,
        Self::InsertFile,
        Self::Adopted,
        Self::CacheReserved,
        Self::CacheWritten,
        Self::CacheRenamed,
        Self::FillRegistered,
        Self::FillFetched,
        Self::FillInserted,
        Self::Evicted,
        Self::GcCutoff,
        Self::GcMarked,
        Self::GcListed,
        Self::GcEpochInBucket,
        Self::GcEpochLocal,
        Self::GcReconciled,
        Self::GcTidied,
        Self::BatchCondemned,
        Self::BatchJournalled,
        Self::BatchConfirmed,
        Self::BatchDeleted,
        Self::BatchForgotten,
        Self::BatchWaited,
        Self::BatchCleared,
        Self::BatchReleased,
        Self::BatchUnlinked,
        Self::AsideCopied,
        Self::RecoveryBegun,
        Self::RecoveryCleared,
        Self::SealClaimed,
        Self::SealStored,
        Self::SealChecked,
        Self::SealConfirmed,
        Self::SealFenced,
        Self::SealPut,
        Self::SealVisible,
        Self::DeleteManifest,
        Self::DeleteFile,
        Self::DeleteDone,
        Self::StartNoted,
        Self::StartTaken,
        Self::StartRecorded,
        Self::MarkersDropped,
        Self::StopNoted,
        Self::StopRecorded,
        Self::ReplaceWritten,
        Self::ReplaceRenamed,
        Self::CreateWritten,
        Self::CreateLinked,
        Self::AsideRenamed,
        Self::EditPut,
        Self::UnsealedRemoved,
    ];

    /// The step has just ended.
    #[inline]
    pub fn passed(self) {
        if cfg!(debug_assertions) {
            watched::passed(self);
            stop::passed(self);
        }
    }
}

pub use watched::watch;

mod watched {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::Step;

    type Watcher = Rc<dyn Fn(Step)>;

    thread_local! {
        static WATCHER: RefCell<Option<Watcher>> = const { RefCell::new(None) };
    }

    /// Calls `watcher` at each step that this thread passes from now on, instead of any before it.
    pub fn watch(watcher: impl Fn(Step) + 'static) {
        WATCHER.with(|current| *current.borrow_mut() = Some(Rc::new(watcher)));
    }

    pub(super) fn passed(step: Step) {
        let watcher = WATCHER.with(|current| current.borrow().clone());
        if let Some(watcher) = watcher {
            watcher(step);
        }
    }
}

mod stop {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    use super::Step;

    /// Where this process stops, and how many passings are left.
    static STOP_AT: OnceLock<Option<(Step, AtomicU64)>> = OnceLock::new();

    fn parse(text: &str) -> Option<(Step, AtomicU64)> {
        let (name, count) = text.split_once(':').unwrap_or((text, "1"));
        let step = Step::ALL
            .into_iter()
            .find(|step| format!("{step:?}") == name)?;
        Some((step, AtomicU64::new(count.parse().ok()?)))
    }

    pub(super) fn passed(step: Step) {
        let stop_at = STOP_AT.get_or_init(|| {
            let text = std::env::var("HOLDFAST_STOP_AT").ok()?;
            Some(parse(&text).expect("HOLDFAST_STOP_AT is <Step> or <Step>:<n>"))
        });
        if let Some((at, left)) = stop_at
            && *at == step
            && left.fetch_sub(1, Ordering::AcqRel) == 1
        {
            kill(Pid::this(), Signal::SIGKILL).expect("a process may end itself");
            // The signal takes this thread with it before anything else happens.
            std::thread::park();
        }
    }
}
