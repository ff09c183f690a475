//! Reconcile: makes belief agree with a complete listing of the bucket.
//!
//! - A digest with a using marker whose object the listing shows becomes a marker. The evidence is the listing's page;
//!   it was asked for in this run, and the run's own batches release digests each after its page (design 8 l). What is set
//!   aside meanwhile is released as well, and noted ([`Gone`]): of that the page says nothing any more.
//! - A marker that the listing does not show goes, unless its evidence is newer than the listing's start. One HEAD
//!   confirms: dropping trust costs a request, trusting wrongly costs a chunk.
//! - If such a digest was marked in this run, the chunk is **missing**: open sessions that rely on it are told, the
//!   snapshots that need it are named and marked as failed, and the next backup that carries it heals them.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use jiff::Timestamp;
use s3_client::Optional as _;

use super::cutoff::Cutoff;
use super::{Bucket, Collector};
use crate::chunk_store::location::{ChunkLocation, locate};
use crate::chunk_store::marker::{Marker, Nature};
use crate::error::About as _;
use crate::files::{Files, optional};
use crate::roots::{MarkSink, Needer};
use crate::sabotage::{self, Rule};
use crate::step::Step;
use crate::verify::inventory::INVENTORY;
use crate::{Digest, JobContext, Result};

/// A smaller object cannot be a chunk: header of an empty blob.
const CHUNK_BYTES_MIN: u64 = 12;
/// Missing chunks that are named with those who need them; more are only counted.
const MISSING_NAMED_MAX: usize = 100_000;
/// Digests noted as gone during one run; beyond, the next run adopts.
const GONE_MAX: usize = 10_000;

/// A difference between belief and bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// The listing shows an object that an index names; no marker.
    ObjectWithoutMarker { digest: Digest, size: u64 },
    /// A marker vouches for an object that the listing does not show.
    MarkerWithoutObject {
        digest: Digest,
        born: Timestamp,
        used: Timestamp,
    },
}

/// Digests that turned out to be gone, or were set aside, since the running collection began: its listing may be older.
#[derive(Debug, Default)]
pub(super) struct Gone(Mutex<GoneSince>);

#[derive(Debug, Default)]
struct GoneSince {
    digests: HashSet<Digest>,
    /// More than are kept: of every digest the listing may be older.
    all: bool,
}

impl Gone {
    fn lock(&self) -> MutexGuard<'_, GoneSince> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A collection begins; nothing has been listed yet.
    pub(super) fn begin(&self) {
        *self.lock() = GoneSince::default();
    }

    /// To be called before the digest is released.
    pub(super) fn note(&self, digest: Digest) {
        let mut gone = self.lock();
        if gone.digests.len() < GONE_MAX {
            gone.digests.insert(digest);
        } else {
            gone.all = true;
        }
    }

    /// Whether the listing of this run says nothing of the digest any more. To be asked under the guard.
    fn outdates(&self, digest: &Digest) -> bool {
        if sabotage::is_off(Rule::AdoptOnlyUnreleased) {
            return false;
        }
        let gone = self.lock();
        gone.all || gone.digests.contains(digest)
    }
}

/// Collects who needs the missing chunks.
struct Needers<'a> {
    missing: &'a mut BTreeMap<Digest, Vec<Needer>>,
}

#[async_trait]
impl MarkSink for Needers<'_> {
    async fn mark(&mut self, needer: &Needer, digests: &[Digest]) -> Result<()> {
        for digest in digests {
            if let Some(needers) = self.missing.get_mut(digest)
                && needers.last() != Some(needer)
            {
                needers.push(needer.clone());
            }
        }
        Ok(())
    }
}

impl Collector {
    /// Acts on one finding; returns the digest if a root needs it and it is missing.
    pub(super) async fn reconcile(
        &self,
        bucket: &Bucket,
        finding: Finding,
        cutoff: &Cutoff,
    ) -> Result<Option<Digest>> {
        let missing = self.act_on(bucket, finding, cutoff).await?;
        Step::GcReconciled.passed();
        Ok(missing)
    }

    async fn act_on(
        &self,
        bucket: &Bucket,
        finding: Finding,
        cutoff: &Cutoff,
    ) -> Result<Option<Digest>> {
        match finding {
            Finding::ObjectWithoutMarker { digest, size } => {
                if size >= CHUNK_BYTES_MIN {
                    self.adopt(digest, cutoff).await?;
                }
                Ok(None)
            }
            Finding::MarkerWithoutObject { digest, born, used } => {
                if born >= cutoff.start {
                    return Ok(None);
                }
                let gone = self.drop_marker(bucket, digest, cutoff).await?;
                Ok((gone && used >= cutoff.start).then_some(digest))
            }
        }
    }

    /// A using marker becomes a marker.
    async fn adopt(&self, digest: Digest, cutoff: &Cutoff) -> Result<()> {
        let Some(guard) = self.table.try_guard(digest) else {
            return Ok(());
        };
        if guard.is_condemned() || self.gone.outdates(&digest) {
            return Ok(());
        }
        let (markers, env, born) = (self.markers.clone(), self.env.clone(), cutoff.start);
        let work = move |files: &dyn Files| {
            let path = markers.path(&digest);
            if markers.get(files, &digest).about(&path)?.is_none() {
                let marker = Marker {
                    size: 0,
                    used: env.now(),
                    born,
                    nature: Nature::Unknown,
                };
                markers
                    .put(files, &guard, &[], marker, "adopt")
                    .about(&path)?;
            }
            markers.remove_using(files, &digest).about(markers.using())
        };
        self.env.io(work).await
    }

    /// Drops a marker whose object is not there; `false` if it is there after all, or was inserted since.
    async fn drop_marker(&self, bucket: &Bucket, digest: Digest, cutoff: &Cutoff) -> Result<bool> {
        let Some(guard) = self.table.try_guard(digest) else {
            return Ok(false);
        };
        let ChunkLocation::Object(key) = locate(&bucket.layout, &digest);
        if guard.is_condemned() || bucket.store.head(&key).await.optional()?.is_some() {
            return Ok(false);
        }
        let (markers, start) = (self.markers.clone(), cutoff.start);
        let work = move |files: &dyn Files| -> Result<_> {
            let path = markers.path(&digest);
            match markers.get(files, &digest).about(&path)? {
                Some(marker) if marker.born < start => {
                    markers.remove(files, &guard).about(&path)?;
                    Ok(Some(guard))
                }
                _ => Ok(None),
            }
        };
        let removed = self.env.io(work).await?;
        if removed.is_some() {
            self.cache_forget(&digest);
            self.sessions.announce_lost(&digest);
        }
        Ok(removed.is_some())
    }

    /// Makes the removals durable: a marker that a power loss brings back would vouch for a chunk that is not there.
    pub(super) async fn sync_markers(&self) -> Result<()> {
        let markers = self.markers.clone();
        self.env
            .io(move |files: &dyn Files| markers.sync(files))
            .await
            .about(self.markers.chunks())
    }

    /// Names the missing chunks with those who need them.
    pub(super) async fn report_missing(
        &self,
        missing: Vec<Digest>,
        job: &JobContext,
    ) -> Result<()> {
        if missing.is_empty() {
            return Ok(());
        }
        let mut named: BTreeMap<_, _> = missing
            .iter()
            .take(MISSING_NAMED_MAX)
            .map(|digest| (*digest, Vec::new()))
            .collect();
        for root in &self.roots {
            root.mark(&mut Needers {
                missing: &mut named,
            })
            .await?;
        }
        let named: Vec<_> = named.into_iter().collect();
        for (digest, needers) in &named {
            let names: Vec<_> = needers.iter().map(|needer| needer.name.as_str()).collect();
            job.log(format!(
                "missing chunk {digest}, needed by {}",
                names.join(", ")
            ));
        }
        for root in &self.roots {
            let mine =
                |needers: &Vec<Needer>| needers.iter().any(|needer| needer.provider == root.name());
            let damaged: Vec<_> = named
                .iter()
                .filter(|(_, needers)| mine(needers))
                .cloned()
                .collect();
            if !damaged.is_empty() {
                root.damaged(&damaged).await?;
            }
        }
        Ok(())
    }

    /// Chunks that an index names and that have neither marker nor object: their using markers are fresh and were not
    /// turned into markers by the listing.
    pub(super) async fn marked_without_chunk(
        &self,
        cutoff: &Cutoff,
        job: &JobContext,
    ) -> Result<Vec<Digest>> {
        let (markers, start) = (self.markers.clone(), cutoff.start);
        let fresh = move |files: &dyn Files| -> Result<_> {
            let entries = optional(files.list(markers.using()))
                .about(markers.using())?
                .unwrap_or_default();
            let fresh = entries
                .into_iter()
                .filter(|entry| entry.stat.atime >= start);
            Ok(fresh
                .filter_map(|entry| entry.name.parse::<Digest>().ok())
                .collect::<Vec<_>>())
        };
        let mut missing = Vec::new();
        for digest in self.env.io(fresh).await? {
            job.check()?;
            // Busy: it is being inserted.
            let Some(guard) = self.table.try_guard(digest) else {
                continue;
            };
            let markers = self.markers.clone();
            let known = self
                .env
                .io(move |files: &dyn Files| markers.get(files, &digest))
                .await;
            let mut there = known.about(self.markers.path(&digest))?.is_some();
            if let Some(bucket) = self.bucket.as_ref().filter(|_| !there) {
                let ChunkLocation::Object(key) = locate(&bucket.layout, &digest);
                there = bucket.store.head(&key).await.optional()?.is_some();
            }
            if !there {
                // Under the guard, or a session that uploads it meanwhile would be told that it is lost.
                self.sessions.announce_lost(&digest);
                missing.push(digest);
            }
            drop(guard);
        }
        Ok(missing)
    }

    /// Removes upload markers, using markers and temporary files that are older than the cutoff.
    pub(super) async fn tidy(&self, cutoff: &Cutoff) -> Result<()> {
        let (markers, time) = (self.markers.clone(), cutoff.time);
        let stale = move |files: &dyn Files| -> Result<_> {
            let mut stale = Vec::new();
            for dir in [markers.uploads(), markers.using(), markers.temporary()] {
                for entry in optional(files.list(dir)).about(dir)?.unwrap_or_default() {
                    // A temporary file may carry the times of the marker it is about to replace; a marker's atime says all.
                    let used = if dir == markers.temporary() {
                        entry.stat.atime.max(entry.stat.mtime)
                    } else {
                        entry.stat.atime
                    };
                    if !entry.stat.is_dir && used < time {
                        stale.push(dir.join(&entry.name));
                    }
                }
            }
            Ok(stale)
        };
        for path in self.env.io(stale).await? {
            // Whoever works with a digest's files holds its guard.
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            if name.starts_with(INVENTORY) {
                continue;
            }
            let digest = name
                .split('.')
                .next()
                .and_then(|name| name.parse::<Digest>().ok());
            let guard = digest.map(|digest| self.table.try_guard(digest));
            if matches!(guard, Some(None)) {
                continue;
            }
            let remove = move |files: &dyn Files| -> Result<_> {
                // It may have been renewed since it was listed.
                let stat = optional(files.stat(&path)).about(&path)?;
                if stat.is_some_and(|stat| stat.atime < time) {
                    optional(files.unlink(&path)).about(&path)?;
                }
                drop(guard);
                Ok(())
            };
            self.env.io(remove).await?;
        }
        Ok(())
    }
}
