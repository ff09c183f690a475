//! Takes what the ranges of a sweep find: collects candidates into batches and has them deleted, one batch at a time,
//! and keeps for the end what needs the complete listing.

use std::path::PathBuf;
use std::sync::Arc;

use s3_client::ObjectKey;
use tokio::sync::mpsc;

use super::cutoff::Cutoff;
use super::reconcile::Finding;
use super::sweep::{Found, SetAside, Stored};
use super::{Collector, GcOptions, GcStatus};
use crate::error::About as _;
use crate::files::{Files, optional};
use crate::progress::Pace;
use crate::sabotage::{self, Rule};
use crate::{Error, JobContext, Result};

/// Markers without object that one run looks into; the next run does the rest.
const ABSENT_MAX: usize = 100_000;

/// The batches of one run.
pub(super) struct Batches<'a> {
    collector: &'a Arc<Collector>,
    cutoff: &'a Cutoff,
    options: GcOptions,
    job: &'a JobContext,
    status: &'a mut GcStatus,
    chunks: Vec<Stored>,
    bad_objects: Vec<ObjectKey>,
    bad_files: Vec<PathBuf>,
    told: Pace,
}

impl<'a> Batches<'a> {
    pub(super) fn new(
        collector: &'a Arc<Collector>,
        cutoff: &'a Cutoff,
        options: GcOptions,
        job: &'a JobContext,
        status: &'a mut GcStatus,
    ) -> Self {
        Self {
            told: Pace::new(&collector.env),
            collector,
            cutoff,
            options,
            job,
            status,
            chunks: Vec::new(),
            bad_objects: Vec::new(),
            bad_files: Vec::new(),
        }
    }

    /// Runs until all ranges have ended.
    pub(super) async fn run(mut self, found: &mut mpsc::Receiver<Found>) -> Result<Vec<Finding>> {
        let mut absent = Vec::new();
        while let Some(found) = found.recv().await {
            match found {
                Found::Candidate(chunk) if self.options.dry_run => {
                    self.job.log(format!(
                        "would remove chunk {} ({} bytes)",
                        chunk.digest, chunk.size
                    ));
                    self.status.removed_chunks += 1;
                    self.status.removed_bytes += chunk.size;
                }
                Found::Candidate(chunk) => self.chunks.push(chunk),
                Found::Bad(_) if self.options.dry_run => self.status.removed_bad += 1,
                Found::Bad(SetAside::Object(key)) => self.bad_objects.push(key),
                Found::Bad(SetAside::File(path)) => self.bad_files.push(path),
                Found::Finding(_) if self.options.dry_run => {}
                Found::Finding(finding @ Finding::ObjectWithoutMarker { .. }) => {
                    // The page itself is the evidence; nothing to wait for.
                    if let Some(bucket) = &self.collector.bucket {
                        self.collector
                            .reconcile(bucket, finding, self.cutoff)
                            .await?;
                    }
                }
                Found::Finding(finding) if absent.len() < ABSENT_MAX => absent.push(finding),
                Found::Finding(_) => {}
            }
            let config = &self.collector.config;
            let keys_max = config.delete_request_keys_max;
            // A directory has no requests to share; nobody waits longer for its files than he has to.
            let requests_max = self
                .collector
                .bucket
                .as_ref()
                .map_or(1, |_| config.delete_requests_max);
            let bad = self.bad_objects.len().max(self.bad_files.len());
            if self.chunks.len() >= keys_max * requests_max || bad >= keys_max {
                self.flush().await?;
            }
        }
        self.flush().await?;
        Ok(absent)
    }

    async fn flush(&mut self) -> Result<()> {
        if !self.chunks.is_empty() {
            self.delete_chunks().await?;
        }
        if !self.bad_objects.is_empty() {
            self.delete_bad_objects().await?;
        }
        if !self.bad_files.is_empty() {
            self.delete_bad_files().await?;
        }
        Ok(())
    }

    /// One batch, in a task that outlives whoever asked for the collection.
    async fn delete_chunks(&mut self) -> Result<()> {
        self.job.check()?;
        let batch = std::mem::take(&mut self.chunks);
        let batch = Arc::clone(self.collector).delete_batch(batch, self.cutoff.clone());
        if sabotage::is_off(Rule::BatchNotCancelled) {
            return batch.await.map(|_| ());
        }
        let result = self
            .collector
            .env
            .spawn(batch)
            .await
            .map_err(|_| Error::Refused("a delete batch has panicked".to_owned()))
            .flatten()?;
        let status = &mut *self.status;
        status.removed_chunks += result.removed_chunks;
        status.removed_bytes += result.removed_bytes;
        status.refused_chunks += result.refused;
        status.unknown_chunks += result.unknown;
        status.rescued_chunks += result.rescued;
        if self.told.due().is_some() {
            self.job.log(format!(
                "removed {} chunks ({} bytes) so far",
                status.removed_chunks, status.removed_bytes
            ));
        }
        Ok(())
    }

    async fn delete_bad_objects(&mut self) -> Result<()> {
        self.job.check()?;
        let keys = std::mem::take(&mut self.bad_objects);
        if let Some(bucket) = &self.collector.bucket {
            self.status.removed_bad += self.collector.delete_bad(bucket, keys).await?;
        }
        Ok(())
    }

    async fn delete_bad_files(&mut self) -> Result<()> {
        let paths = std::mem::take(&mut self.bad_files);
        self.status.removed_bad += paths.len() as u64;
        let remove = move |files: &dyn Files| {
            paths
                .iter()
                .try_for_each(|path| optional(files.unlink(path)).about(path).map(|_| ()))
        };
        self.collector.env.io(remove).await
    }
}
