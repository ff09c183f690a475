//! Mark: records the use of every digest that a root names.
//!
//! A marker is touched. A digest without marker gets a *using marker*, which insert ignores: mark records use, never
//! existence, for an index says nothing about whether the bucket has the chunk.

use std::collections::HashSet;

use async_trait::async_trait;

use super::Collector;
use super::named::Named;
use super::status::TouchCounts;
use crate::error::About as _;
use crate::files::Files;
use crate::progress::Progress;
use crate::roots::{MarkSink, MarkStats, Needer};
use crate::sabotage::{self, Rule};
use crate::{Digest, JobContext, Result};

/// Digests touched in one batch of file work.
const BATCH: usize = 512;

/// Remembers which digests this run has touched, within a bound: two generations, the older one is forgotten when the
/// younger one is full.
#[derive(Debug, Default)]
struct Touched {
    young: HashSet<Digest>,
    old: HashSet<Digest>,
    generation_max: usize,
}

impl Touched {
    /// Whether the digest is new, as far as remembered.
    fn insert(&mut self, digest: Digest) -> bool {
        if self.old.contains(&digest) || !self.young.insert(digest) {
            return false;
        }
        if self.young.len() >= self.generation_max {
            self.old = std::mem::take(&mut self.young);
        }
        true
    }
}

/// The sink of a collection's mark phase.
struct Toucher<'a> {
    collector: &'a Collector,
    job: &'a JobContext,
    touched: Touched,
    named: Named,
    progress: Progress,
    cache: TouchCounts,
    batch: Vec<Digest>,
}

impl Toucher<'_> {
    async fn flush(&mut self) -> Result<()> {
        if self.batch.is_empty() {
            return Ok(());
        }
        self.job.check()?;
        let batch = std::mem::take(&mut self.batch);
        let (markers, env) = (self.collector.markers.clone(), self.collector.env.clone());
        let proves_nothing = !sabotage::is_off(Rule::MarkProvesNothing);
        self.collector
            .env
            .io(move |files: &dyn Files| {
                for digest in &batch {
                    // The time is read right before each touch; see the cutoff's margin.
                    if markers
                        .touch(files, digest, env.now())
                        .about_file(|| markers.path(digest))?
                    {
                        continue;
                    }
                    if proves_nothing {
                        markers
                            .touch_using(files, digest, env.now())
                            .about(markers.using())?;
                    } else {
                        markers
                            .create_unproven(files, digest, env.now())
                            .about(markers.path(digest))?;
                    }
                }
                Ok(())
            })
            .await
    }
}

#[async_trait]
impl MarkSink for Toucher<'_> {
    async fn mark(&mut self, _needer: &Needer, digests: &[Digest]) -> Result<()> {
        self.progress.add(1, digests.len() as u64);
        for digest in digests {
            if self.touched.insert(*digest) {
                self.cache.misses += 1;
                self.named.insert(digest);
                self.batch.push(*digest);
            } else {
                self.cache.hits += 1;
            }
            if self.batch.len() >= BATCH {
                self.flush().await?;
            }
        }
        Ok(())
    }
}

/// All roots have been marked.
#[derive(Debug)]
pub(super) struct Marked {
    /// Counts of all roots.
    pub(super) stats: MarkStats,
    /// How often a digest was known to be touched already.
    pub(super) cache: TouchCounts,
    /// The chunks that were named.
    pub(super) named: Named,
}

impl Collector {
    /// Runs the mark phase.
    pub(super) async fn mark(&self, job: &JobContext) -> Result<Marked> {
        let touched = Touched {
            generation_max: self.config.gc_touched_max.div_ceil(2).max(1),
            ..Touched::default()
        };
        let mut toucher = Toucher {
            collector: self,
            job,
            touched,
            named: Named::new(self.config.gc_named_max),
            progress: Progress::new(&self.env, job, "marked", None),
            cache: TouchCounts::default(),
            batch: Vec::with_capacity(BATCH),
        };
        let mut stats = MarkStats::default();
        for root in &self.roots {
            root.settle().await?;
            let marked = root.mark(&mut toucher).await?;
            stats.index_files += marked.index_files;
            stats.index_bytes += marked.index_bytes;
        }
        toucher.flush().await?;
        let Toucher { cache, named, .. } = toucher;
        Ok(Marked {
            stats,
            cache,
            named,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_touched_set_is_bounded_and_forgets_the_oldest() {
        let mut touched = Touched {
            generation_max: 2,
            ..Touched::default()
        };
        let digests: Vec<_> = (0..6u8).map(|i| Digest::of(&[i])).collect();
        assert!(digests.iter().all(|digest| touched.insert(*digest)));
        assert!(touched.young.len() + touched.old.len() <= 4);
        assert!(!touched.insert(digests[5]));
        assert!(
            touched.insert(digests[0]),
            "forgotten ones are touched again"
        );
    }
}
