//! The driver: what is to be copied from a source to a target, and in which order.
//!
//! 1. Namespaces are listed and mapped; those that the target lacks are made, but for the outermost, which must be there.
//! 2. The groups of each are planned and copied, a few side by side; a snapshot that fails ends its group.
//! 3. With `remove_vanished`: of each group that was copied without a fault, the snapshots that the source does not list any more;
//!    at the end groups and namespaces.
//!
//! The target is always listed before the source, so that what appears on both sides meanwhile is not taken for vanished; before a group goes
//! both are asked again, and only the snapshots go that were there at the first look. A source that answers with an error, or that has no
//! finished snapshot to show, is never taken for an empty one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{StreamExt as _, stream};

use super::plan::plan;
use super::vanish::Vanished;
use super::{Copied, GroupFilter, SyncGroup, SyncOptions, SyncSource, SyncStep, SyncTarget};
use crate::{BackupGroup, BackupTime, Env, Error, GroupRef, JobContext, Namespace, Result};

/// How often a transfer is begun that fails for the way there.
const ATTEMPTS_MAX: u32 = 3;
/// Pause before the second attempt; ten times as long before each further one.
const PAUSE: Duration = Duration::from_secs(2);
/// Groups in a row that fail for the way there before a run gives up.
const FAILURES_IN_A_ROW_MAX: u32 = 3;

/// What came of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SyncCounts {
    /// Groups that were looked at.
    pub groups: u64,
    /// Snapshots that were not there before.
    pub added: u64,
    /// Snapshots that were there and have a later log or other notes now.
    pub refreshed: u64,
    /// Damaged snapshots that are whole again.
    pub mended: u64,
    /// Chunks that were brought.
    pub chunks: u64,
    /// Their bytes, as stored. With an estimate, what the snapshots hold that would be added or mended.
    pub bytes: u64,
    /// Of these chunks, those that the S3 server has copied, past this machine.
    pub by_server: u64,
    /// Chunks of these snapshots that the target had.
    pub known: u64,
    /// Snapshots that are gone from the target because they are from the source.
    pub removed_snapshots: u64,
    /// Groups likewise.
    pub removed_groups: u64,
    /// Namespaces likewise.
    pub removed_namespaces: u64,
    /// Snapshots and groups, of the ones that are gone at the source, that stay because a snapshot is protected.
    pub protected: u64,
    /// What could not be done, one sentence each.
    pub failures: Vec<String>,
    /// What somebody should know although nothing failed.
    pub warnings: Vec<String>,
}

/// Brings the target up to date. What fails for a single group or namespace is in the counts; an error ends the run.
pub async fn sync(
    source: &dyn SyncSource,
    target: &dyn SyncTarget,
    options: &SyncOptions,
    env: &Env,
    job: &JobContext,
) -> Result<SyncCounts> {
    let run = Run {
        source,
        target,
        options,
        env,
        job,
        state: Mutex::default(),
    };
    let finished = tokio::select! {
        biased;
        result = run.whole() => result,
        () = job.stopped() => Err(Error::Stopped),
    };
    finished.map(|()| {
        run.state
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
            .counts
    })
}

#[derive(Debug, Default)]
pub(super) struct State {
    counts: SyncCounts,
    failures_in_a_row: u32,
    /// Finished snapshots that the source has listed.
    pub(super) seen: usize,
}

pub(super) struct Run<'a> {
    pub(super) source: &'a dyn SyncSource,
    pub(super) target: &'a dyn SyncTarget,
    pub(super) options: &'a SyncOptions,
    env: &'a Env,
    pub(super) job: &'a JobContext,
    state: Mutex<State>,
}

/// A namespace on both sides.
#[derive(Clone, Debug)]
pub(super) struct Pair {
    source: Namespace,
    pub(super) target: Namespace,
}

impl Run<'_> {
    pub(super) fn count(&self, change: impl FnOnce(&mut SyncCounts)) {
        change(&mut self.state().counts);
    }

    pub(super) fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the target's group is ours to write to.
    pub(super) fn is_ours(&self, group: &SyncGroup) -> bool {
        let owner = group.owner.as_ref();
        owner.is_some_and(|owner| self.target.is_ours(owner))
    }

    pub(super) fn fail(&self, why: String) {
        self.job.log(why.clone());
        self.count(|counts| counts.failures.push(why));
    }

    async fn whole(&self) -> Result<()> {
        let (source, target) = (self.source.name(), self.target.name());
        self.job.log(format!("from {source} to {target}"));
        let there = self
            .read(|| {
                self.target
                    .namespaces(&self.options.target, self.options.depth)
            })
            .await?;
        let anchor = &self.options.target;
        if !there.contains(anchor) {
            return Err(Error::NotFound(format!(
                "{} of {target}, which has to be created first,",
                anchor.in_words()
            )));
        }
        let pairs = self.pairs().await?;
        let mut known: BTreeSet<Namespace> = there.iter().cloned().collect();
        let mut vanished = Vec::new();
        let mut mapped = BTreeSet::new();
        for pair in &pairs {
            self.job.check()?;
            mapped.insert(pair.target.clone());
            match self.namespace(pair, &mut known).await {
                Ok(gone) => vanished.extend(gone),
                Err(error) => {
                    fatal(&error)?;
                    self.fail(format!("{}: {error}", pair.source.in_words()));
                }
            }
        }
        if self.removes() {
            let mut gone = there;
            gone.retain(|namespace| !mapped.contains(namespace) && namespace != anchor);
            self.remove_vanished(vanished, gone).await?;
        }
        Ok(())
    }

    /// Whether what vanished is removed.
    fn removes(&self) -> bool {
        self.options.remove_vanished && !self.options.estimate
    }

    /// Steps 1 and 2 for one namespace; answers the target's groups that the source does not have.
    async fn namespace(
        &self,
        pair: &Pair,
        known: &mut BTreeSet<Namespace>,
    ) -> Result<Vec<Vanished>> {
        let there = if self.options.estimate && !known.contains(&pair.target) {
            Vec::new()
        } else {
            self.ensure(&pair.target, known).await?;
            self.read(|| self.target.groups(&pair.target)).await?
        };
        let groups = self.read(|| self.source.groups(&pair.source)).await?;
        self.groups(pair, there, groups).await
    }

    /// Asks for something that may be asked again.
    pub(super) async fn read<'a, T>(
        &self,
        ask: impl Fn() -> BoxFuture<'a, Result<T>>,
    ) -> Result<T> {
        let mut pause = PAUSE;
        for _ in 1..ATTEMPTS_MAX {
            match ask().await {
                Err(error) if error.is_transient() => {
                    self.job
                        .log(format!("{error}; asked again in {} s", pause.as_secs()));
                    self.env.sleep(pause).await;
                    pause *= 10;
                }
                result => return result,
            }
        }
        ask().await
    }

    /// Step 1: the namespaces of the source, and where each belongs.
    pub(super) async fn pairs(&self) -> Result<Vec<Pair>> {
        let (below, depth) = (&self.options.source, self.options.depth);
        let mut pairs = Vec::new();
        let found = self.read(|| self.source.namespaces(below, depth));
        for namespace in found.await? {
            let Some(inner) = namespace.strip(below) else {
                continue;
            };
            match self.options.target.join(&inner) {
                Ok(target) => pairs.push(Pair {
                    source: namespace,
                    target,
                }),
                Err(error) => self.fail(format!(
                    "{} has no place in {}: {error}",
                    namespace.in_words(),
                    self.options.target.in_words()
                )),
            }
        }
        Ok(pairs)
    }

    /// Makes a namespace of the target, and those above it, if they are not `known`; the outermost one is.
    async fn ensure(&self, namespace: &Namespace, known: &mut BTreeSet<Namespace>) -> Result<()> {
        let mut missing = Vec::new();
        let mut next = Some(namespace.clone());
        while let Some(namespace) = next.filter(|namespace| !known.contains(namespace)) {
            next = namespace.parent();
            missing.push(namespace);
        }
        for namespace in missing.into_iter().rev() {
            self.target.create_namespace(&namespace).await?;
            known.insert(namespace);
        }
        Ok(())
    }

    /// Step 2 for one namespace.
    async fn groups(
        &self,
        pair: &Pair,
        there: Vec<SyncGroup>,
        groups: Vec<BackupGroup>,
    ) -> Result<Vec<Vanished>> {
        let meant = |group: &BackupGroup| GroupFilter::select(&self.options.groups, group);
        let there: BTreeMap<BackupGroup, SyncGroup> = there
            .into_iter()
            .map(|group| (group.group.clone(), group))
            .collect();
        let known: BTreeSet<BackupGroup> = groups.iter().cloned().collect();
        let mut vanished = Vec::new();
        if self.removes() {
            for there in there.values() {
                if meant(&there.group) && !known.contains(&there.group) && self.is_ours(there) {
                    let group = GroupRef::new(pair.target.clone(), there.group.clone());
                    vanished.push(self.vanished(Some(pair.source.clone()), group).await?);
                }
            }
        }
        let (total, all) = (groups.len(), known);
        let meant: Vec<BackupGroup> = all.into_iter().filter(meant).collect();
        self.job.log(format!(
            "{}: {} of {total} groups",
            pair.source.in_words(),
            meant.len()
        ));
        let work = meant.into_iter().map(|group| {
            let there = there.get(&group).cloned();
            self.group(pair, group, there)
        });
        let mut done = stream::iter(work).buffer_unordered(self.options.workers.max(1));
        while let Some(result) = done.next().await {
            result?;
        }
        Ok(vanished)
    }

    /// One group. An error ends the run.
    async fn group(&self, pair: &Pair, group: BackupGroup, there: Option<SyncGroup>) -> Result<()> {
        self.count(|counts| counts.groups += 1);
        let from = GroupRef::new(pair.source.clone(), group.clone());
        let to = GroupRef::new(pair.target.clone(), group);
        let is_new = there.is_none();
        if let Some(foreign) = there.filter(|there| !self.is_ours(there)) {
            let owner = foreign.owner;
            let whose = owner.map_or_else(|| "nobody known".to_owned(), |owner| owner.to_string());
            self.fail(format!("group {to} belongs to {whose} at the target"));
            return Ok(());
        }
        let copied = if self.options.estimate {
            self.estimate(&from, &to, is_new).await
        } else {
            self.snapshots(&from, &to).await
        };
        let error = match copied {
            Ok(()) => {
                self.state().failures_in_a_row = 0;
                return Ok(());
            }
            Err(error) => error,
        };
        fatal(&error)?;
        self.fail(format!("group {from}: {error}"));
        let mut state = self.state();
        if error.is_transient() {
            state.failures_in_a_row += 1;
            if state.failures_in_a_row >= FAILURES_IN_A_ROW_MAX {
                return Err(error);
            }
        }
        Ok(())
    }

    /// Counts what would be copied of a group.
    async fn estimate(&self, from: &GroupRef, to: &GroupRef, is_new: bool) -> Result<()> {
        let there = if is_new {
            Vec::new()
        } else {
            self.read(|| self.target.snapshots(to)).await?
        };
        let listed = self.read(|| self.source.snapshots(from)).await?;
        for (time, step) in plan(&listed, &there, self.options).steps {
            let meant = listed.iter().filter(|snapshot| snapshot.time == time);
            let size = meant.map(|snapshot| snapshot.size).sum::<u64>();
            self.count(|counts| match step {
                SyncStep::Add => {
                    counts.added += 1;
                    counts.bytes = counts.bytes.saturating_add(size);
                }
                SyncStep::Mend => {
                    counts.mended += 1;
                    counts.bytes = counts.bytes.saturating_add(size);
                }
                SyncStep::Refresh => counts.refreshed += 1,
            });
        }
        Ok(())
    }

    async fn snapshots(&self, from: &GroupRef, to: &GroupRef) -> Result<()> {
        let there = self.read(|| self.target.snapshots(to)).await?;
        let listed = self.read(|| self.source.snapshots(from)).await?;
        let finished = listed.iter().filter(|snapshot| snapshot.finished).count();
        self.state().seen += finished;
        let plan = plan(&listed, &there, self.options);
        for (why, count) in &plan.skipped {
            self.job
                .log(format!("group {from}: {count} passed over, {why}"));
        }
        let total = plan.steps.len();
        for (done, (time, step)) in plan.steps.iter().enumerate() {
            self.snapshot(from, to, *time, *step, (done + 1, total))
                .await?;
        }
        if !self.options.remove_vanished || finished == 0 {
            return Ok(());
        }
        for time in plan.vanished {
            self.job.check()?;
            let id = to.at(time);
            let protected = there.iter().any(|s| s.time == time && s.protected);
            let removed = if protected {
                Err(Error::Protected(format!("snapshot {id}")))
            } else {
                self.target.remove_snapshot(&id).await
            };
            match removed {
                Ok(()) => {
                    self.job
                        .log(format!("{id}: removed, it is gone at the source"));
                    self.count(|counts| counts.removed_snapshots += 1);
                }
                Err(Error::NotFound(_)) => {}
                Err(Error::Protected(_)) => {
                    self.job.log(format!(
                        "{id}: gone at the source, and kept: it is protected"
                    ));
                    self.count(|counts| counts.protected += 1);
                }
                Err(error) => {
                    fatal(&error)?;
                    self.fail(format!("{id} was not removed: {error}"));
                }
            }
        }
        Ok(())
    }

    /// One snapshot, begun anew if the way there fails.
    async fn snapshot(
        &self,
        from: &GroupRef,
        to: &GroupRef,
        time: BackupTime,
        step: SyncStep,
        (number, total): (usize, usize),
    ) -> Result<()> {
        let (from, to) = (from.at(time), to.at(time));
        let mut pause = PAUSE;
        let mut attempt = 1;
        let mut first = None;
        let copied = loop {
            self.job.check()?;
            let begun = self.env.instant();
            let error = match self.transfer(&from, &to, step).await {
                Ok(copied) => break (copied, self.env.instant().duration_since(begun)),
                Err(error) => error,
            };
            if !error.is_transient() || attempt == ATTEMPTS_MAX {
                // What an attempt left behind may refuse the next for a while; the cause is what came first.
                return Err(first.unwrap_or(error));
            }
            self.job.log(format!(
                "{from}: {error}; begun anew in {} s",
                pause.as_secs()
            ));
            self.env.sleep(pause).await;
            pause *= 10;
            attempt += 1;
            first.get_or_insert(error);
            if step == SyncStep::Add && self.is_there(&to).await {
                break (Copied::default(), self.env.instant().duration_since(begun));
            }
        };
        let (copied, taken) = copied;
        self.told(&from, step, &copied, taken);
        self.job.log(format!(
            "group {}: {number} of {total} snapshots done",
            from.group()
        ));
        Ok(())
    }

    /// Whether an attempt whose answer was lost has made the snapshot.
    async fn is_there(&self, id: &crate::SnapshotRef) -> bool {
        let listed = self.target.snapshots(&id.group()).await.unwrap_or_default();
        let time = id.snapshot.time;
        listed
            .iter()
            .any(|there| there.time == time && there.finished)
    }

    async fn transfer(
        &self,
        from: &crate::SnapshotRef,
        to: &crate::SnapshotRef,
        step: SyncStep,
    ) -> Result<Copied> {
        match self.source.open(from).await? {
            Some(source) => self.target.copy(&*source, to, step, self.job).await,
            None => Ok(Copied {
                gone: true,
                ..Copied::default()
            }),
        }
    }

    fn told(&self, from: &crate::SnapshotRef, step: SyncStep, copied: &Copied, taken: Duration) {
        let figures = || {
            let rate = copied.bytes as f64 / taken.as_secs_f64().max(0.001) / 1e6;
            format!(
                "{} of {} chunks, {:.1} MB in {:.1} s ({rate:.1} MB/s)",
                copied.chunks,
                copied.chunks + copied.known,
                copied.bytes as f64 / 1e6,
                taken.as_secs_f64()
            )
        };
        let line = match step {
            _ if copied.gone => "gone at the source meanwhile".to_owned(),
            SyncStep::Refresh if copied.unchanged => "unchanged".to_owned(),
            SyncStep::Refresh if copied.chunks + copied.known == 0 => "refreshed".to_owned(),
            SyncStep::Add => format!("copied: {}", figures()),
            SyncStep::Refresh | SyncStep::Mend => format!("mended: {}", figures()),
        };
        self.job.log(format!("{from}: {line}"));
        self.count(|counts| {
            counts.chunks += copied.chunks;
            counts.bytes += copied.bytes;
            counts.by_server += copied.by_server;
            counts.known += copied.known;
            match step {
                _ if copied.gone || copied.unchanged => {}
                SyncStep::Add => counts.added += 1,
                SyncStep::Refresh => counts.refreshed += 1,
                SyncStep::Mend => counts.mended += 1,
            }
        });
    }
}

/// Whether an error ends the run, whatever it is about.
pub(super) fn fatal(error: &Error) -> Result<()> {
    match error {
        Error::Stopped => Err(Error::Stopped),
        Error::Closing => Err(Error::Closing),
        Error::NotOwner(why) => Err(Error::NotOwner(why.clone())),
        _ => Ok(()),
    }
}
