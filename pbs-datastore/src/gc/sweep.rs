//! Sweep: finds the chunks that nothing protects and hands them over in batches.
//!
//! The 65536 chunk folders are split into ranges that are swept in parallel. A range goes through its folders in order
//! and compares what is stored (the listing of the bucket; the chunk files of a directory) with what is believed (the
//! markers). Listings use start-after and a stop key, never a prefix without closing slash. An error in a listing ends
//! the collection: absence from a partial listing means nothing (I10).
//!
//! A **candidate** is a stored chunk whose marker, upload marker and using marker are all absent or older than the
//! cutoff, which was written before the cutoff by the server's own clock, and which no index of this run's mark has named
//! (`named.rs`). Candidates are checked again, under their guards, when their batch is condemned.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use s3_client::{ListEntry, ListRequest, ObjectKey};
use tokio::sync::mpsc;

use super::cutoff::Cutoff;
use super::named::Named;
use super::reconcile::Finding;
use super::{Bucket, Collector};
use crate::chunk_store::marker::Markers;
use crate::chunk_store::protection::Protection;
use crate::error::About as _;
use crate::files::{Files, optional};
use crate::progress::Progress;
use crate::sabotage::{self, Rule};
use crate::step::Step;
use crate::{Digest, Error, JobContext, Place, Result};

/// Number of chunk folders.
pub(crate) const FOLDERS: u32 = 1 << 16;
/// Chunk folders of a directory read in one batch of file work.
const FOLDERS_PER_BATCH: u32 = 64;

/// A stored chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) digest: Digest,
    pub(super) size: u64,
    /// When it was written, by our clock; `None` for a chunk file, whose own times are its marker's.
    pub(super) written: Option<Timestamp>,
}

/// Where a corrupt chunk was set aside.
#[derive(Debug)]
pub(super) enum SetAside {
    Object(ObjectKey),
    File(PathBuf),
}

/// What the sweep of a range sends on.
#[derive(Debug)]
pub(super) enum Found {
    /// Nothing protects it.
    Candidate(Stored),
    /// A corrupt chunk that was set aside and that nothing holds back.
    Bad(SetAside),
    /// Belief and bucket differ.
    Finding(Finding),
}

/// What all ranges of one sweep share.
#[derive(Clone, Debug)]
pub(super) struct Sweep {
    pub(super) cutoff: Cutoff,
    /// What the mark has seen.
    pub(super) named: Arc<Named>,
    /// Chunk folders that exist locally.
    pub(super) present: Arc<BTreeSet<u32>>,
    pub(super) job: JobContext,
    /// In folders.
    pub(super) progress: Arc<Progress>,
    pub(super) found: mpsc::Sender<Found>,
}

/// Counts of one range.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) used_bytes: u64,
    pub(super) used_chunks: u64,
    pub(super) pending_bytes: u64,
    pub(super) pending_chunks: u64,
    pub(super) still_bad: u64,
    /// In use, as the run remembers, and without the mark that it made.
    pub(super) unmarked_chunks: u64,
}

/// One folder's stored chunks and set-aside ones.
#[derive(Debug, Default)]
struct Folder {
    chunks: Vec<Stored>,
    bad: Vec<(Digest, ObjectKey, Timestamp)>,
}

/// A chunk's file or object name: a digest, or a digest with `.<0-9>.bad`.
fn parse_name(name: &str) -> Option<(Digest, bool)> {
    match name.split_once('.') {
        None => name.parse().ok().map(|digest| (digest, false)),
        Some((digest, rest)) => {
            let number = rest.strip_suffix(".bad")?;
            let good = number.len() == 1 && number.as_bytes()[0].is_ascii_digit();
            digest
                .parse()
                .ok()
                .filter(|_| good)
                .map(|digest| (digest, true))
        }
    }
}

/// The chunk folder of a digest.
pub(crate) fn folder_of(digest: &Digest) -> u32 {
    u32::from(u16::from_be_bytes([digest.0[0], digest.0[1]]))
}

impl Collector {
    /// Sweeps one range of folders and sends what it finds; returns its counts.
    pub(super) async fn sweep_range(
        self: Arc<Self>,
        folders: Range<u32>,
        sweep: Sweep,
    ) -> Result<Counts> {
        match self.bucket.clone() {
            Some(bucket) => self.sweep_bucket(&bucket, folders, &sweep).await,
            None => self.sweep_directory(folders, &sweep).await,
        }
    }

    /// The chunk folders that exist. A folder made later holds younger marks only, and its chunks are checked again
    /// before they are condemned.
    pub(super) async fn present_folders(&self) -> Result<BTreeSet<u32>> {
        let chunks = self.markers.chunks().to_owned();
        let list = move |files: &dyn Files| optional(files.list(&chunks)).about(&chunks);
        let entries = self.env.io(list).await?.unwrap_or_default();
        let folder = |name: &str| {
            u32::from_str_radix(name, 16)
                .ok()
                .filter(|_| name.len() == 4)
        };
        Ok(entries
            .iter()
            .filter_map(|entry| folder(&entry.name))
            .collect())
    }

    async fn sweep_bucket(
        &self,
        bucket: &Bucket,
        folders: Range<u32>,
        sweep: &Sweep,
    ) -> Result<Counts> {
        let mut counts = Counts::default();
        let mut next = folders.start;
        let mut pending: BTreeMap<u32, Folder> = BTreeMap::new();
        let chunks = bucket.layout.folder(&crate::Folder::Chunks);
        let mut after = Some(format!("{chunks}{:04x}", folders.start));
        while let Some(start_after) = after.take() {
            sweep.job.check()?;
            let request = ListRequest {
                start_after: Some(start_after),
                ..ListRequest::new(chunks.clone())
            };
            let page = match bucket.store.list(&request).await {
                Ok(page) => page,
                Err(_) if sabotage::is_off(Rule::ListingErrorAborts) => break,
                Err(error) => return Err(error.into()),
            };
            // By how much the server's clock is ahead of ours, at least: it answered before now. So nothing looks older
            // than it is.
            let now = self.env.now();
            let ahead = page
                .date
                .map_or(SignedDuration::ZERO, |date| date.duration_since(now));
            let last = take_page(
                bucket,
                &page.value.entries,
                ahead,
                next..folders.end,
                &mut pending,
            );
            let open = last.filter(|_| page.value.truncated);
            let done = open.is_none();
            let until = open.unwrap_or(folders.end);
            if !done {
                after = page
                    .value
                    .entries
                    .last()
                    .map(|entry| entry.key.as_str().to_owned());
            }
            let rest = pending.split_off(&until);
            let ready = std::mem::replace(&mut pending, rest);
            self.compare(next..until, ready, sweep, &mut counts).await?;
            Step::GcListed.passed();
            next = until;
        }
        Ok(counts)
    }

    async fn sweep_directory(&self, folders: Range<u32>, sweep: &Sweep) -> Result<Counts> {
        let mut counts = Counts::default();
        let mut next = folders.start;
        while next < folders.end {
            sweep.job.check()?;
            let until = (next + FOLDERS_PER_BATCH).min(folders.end);
            self.compare(next..until, BTreeMap::new(), sweep, &mut counts)
                .await?;
            Step::GcListed.passed();
            next = until;
        }
        Ok(counts)
    }

    /// Compares what is stored in some folders with what is believed, and sends what follows from it.
    async fn compare(
        &self,
        folders: Range<u32>,
        stored: BTreeMap<u32, Folder>,
        sweep: &Sweep,
        counts: &mut Counts,
    ) -> Result<()> {
        let (markers, cutoff, listed) = (
            self.markers.clone(),
            sweep.cutoff.clone(),
            self.bucket.is_some(),
        );
        let (present, named) = (Arc::clone(&sweep.present), Arc::clone(&sweep.named));
        let parts = u64::from(folders.end - folders.start);
        let work = move |files: &dyn Files| -> Result<(Counts, Vec<Found>)> {
            let (counts, found) = (Counts::default(), Vec::new());
            let mut comparison = Comparison {
                files,
                markers: &markers,
                protection: Protection::read(files, &markers)?,
                cutoff: &cutoff,
                named: &named,
                listed,
                counts,
                found,
            };
            let mut stored = stored;
            let believed: BTreeSet<u32> = present
                .range(folders)
                .copied()
                .chain(stored.keys().copied())
                .collect();
            for folder in believed {
                comparison.folder(folder as u16, stored.remove(&folder).unwrap_or_default())?;
            }
            Ok((comparison.counts, comparison.found))
        };
        let (more, list) = self.env.io(work).await?;
        counts.used_bytes += more.used_bytes;
        counts.used_chunks += more.used_chunks;
        counts.pending_bytes += more.pending_bytes;
        counts.pending_chunks += more.pending_chunks;
        counts.still_bad += more.still_bad;
        counts.unmarked_chunks += more.unmarked_chunks;
        sweep.progress.add(
            parts,
            more.used_chunks + more.pending_chunks + list.len() as u64,
        );
        for item in list {
            // The receiver goes away only when the collection has failed; its error is the one that is reported.
            sweep.found.send(item).await.map_err(|_| Error::Stopped)?;
        }
        Ok(())
    }
}

/// Sorts a page into folders. Returns the folder of the last entry, which may go on in the next page, or `None` once
/// the range's end has been passed. A page may have no chunk at all: then it is the first of `folders`, which are still
/// to be compared.
fn take_page(
    bucket: &Bucket,
    entries: &[ListEntry],
    ahead: SignedDuration,
    folders: Range<u32>,
    pending: &mut BTreeMap<u32, Folder>,
) -> Option<u32> {
    let mut last = folders.start;
    for entry in entries {
        let (digest, bad) = match bucket.layout.parse(&entry.key) {
            Some(Place::Chunk(digest)) => (digest, false),
            Some(Place::Bad(digest, _)) => (digest, true),
            _ => continue,
        };
        let folder = folder_of(&digest);
        if folder >= folders.end {
            return None;
        }
        last = folder;
        let written = entry
            .last_modified
            .saturating_sub(ahead)
            .unwrap_or(Timestamp::MAX);
        let slot = pending.entry(folder).or_default();
        if bad {
            slot.bad.push((digest, entry.key.clone(), written));
        } else {
            slot.chunks.push(Stored {
                digest,
                size: entry.size,
                written: Some(written),
            });
        }
    }
    Some(last)
}

/// File work of a comparison.
struct Comparison<'a> {
    files: &'a dyn Files,
    markers: &'a Markers,
    protection: Protection<'a>,
    cutoff: &'a Cutoff,
    named: &'a Named,
    listed: bool,
    counts: Counts,
    found: Vec<Found>,
}

impl Comparison<'_> {
    fn folder(&mut self, folder: u16, stored: Folder) -> Result<()> {
        let path = self.markers.folder(folder);
        let entries = optional(self.files.list(&path))
            .about(&path)?
            .unwrap_or_default();
        let mut believed = BTreeMap::new();
        let mut bad_files = Vec::new();
        for entry in entries {
            match parse_name(&entry.name) {
                Some((digest, false)) => {
                    believed.insert(digest, entry.stat);
                }
                Some((digest, true)) => {
                    bad_files.push((digest, path.join(&entry.name), entry.stat.atime));
                }
                None => {}
            }
        }
        if !self.listed {
            for (digest, stat) in believed {
                self.stored(
                    Stored {
                        digest,
                        size: stat.size,
                        written: None,
                    },
                    Some(stat.atime),
                )?;
            }
            for (digest, path, used) in bad_files {
                self.bad(&digest, SetAside::File(path), used)?;
            }
            return Ok(());
        }
        for chunk in stored.chunks {
            let marker = believed.remove(&chunk.digest).map(|stat| stat.atime);
            self.stored(chunk, marker)?;
        }
        // What is believed and not stored: markers that must go, and chunks that are missed if somebody needs them.
        for (digest, stat) in believed {
            self.found
                .push(Found::Finding(Finding::MarkerWithoutObject {
                    digest,
                    born: stat.mtime,
                    used: stat.atime,
                }));
        }
        for (digest, key, written) in stored.bad {
            self.bad(&digest, SetAside::Object(key), written)?;
        }
        Ok(())
    }

    /// Classifies one stored chunk.
    fn stored(&mut self, chunk: Stored, marker: Option<Timestamp>) -> Result<()> {
        let mut newest = marker;
        if self.listed && newest.is_none_or(|used| used < self.cutoff.time) {
            let upload = self.protection.upload(&chunk.digest)?;
            let using = self.protection.using_since(&chunk.digest)?;
            if marker.is_none() && using.is_some_and(|since| since >= self.cutoff.start) {
                self.found
                    .push(Found::Finding(Finding::ObjectWithoutMarker {
                        digest: chunk.digest,
                        size: chunk.size,
                    }));
            }
            newest = newest.max(upload).max(using).max(chunk.written);
        }
        if newest.is_some_and(|used| used >= self.cutoff.time) {
            // Used by an index, or since the collection began; or merely too young to tell.
            if newest.is_some_and(|used| used >= self.cutoff.start) {
                self.counts.used_bytes += chunk.size;
                self.counts.used_chunks += 1;
            } else {
                self.counts.pending_bytes += chunk.size;
                self.counts.pending_chunks += 1;
            }
        } else if self.named.contains(&chunk.digest) {
            self.counts.used_bytes += chunk.size;
            self.counts.used_chunks += 1;
            self.counts.unmarked_chunks += 1;
        } else {
            self.found.push(Found::Candidate(chunk));
        }
        Ok(())
    }

    /// A chunk that was set aside is kept while it is young, and while an index names its digest and has no good chunk.
    fn bad(&mut self, digest: &Digest, place: SetAside, written: Timestamp) -> Result<()> {
        let wanted = self.protection.using_since(digest)?;
        if written >= self.cutoff.time || wanted.is_some_and(|since| since >= self.cutoff.start) {
            self.counts.still_bad += 1;
        } else {
            self.found.push(Found::Bad(place));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_chunks_and_of_what_was_set_aside() {
        let digest = Digest::of(b"a");
        assert_eq!(parse_name(&digest.to_string()), Some((digest, false)));
        assert_eq!(parse_name(&format!("{digest}.3.bad")), Some((digest, true)));
        for name in [
            "x",
            ".tmp",
            &format!("{digest}.bad"),
            &format!("{digest}.10.bad"),
            &format!("{digest}.tmp"),
        ] {
            assert_eq!(parse_name(name), None, "{name}");
        }
    }
}
