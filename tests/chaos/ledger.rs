//! The oracle: what each client was told of its snapshots, and what therefore must, may or must not be there.
//!
//! | state | the client | at the end it |
//! |---|---|---|
//! | begun, abandoned | has not asked to finish | must not be there |
//! | asked | has asked and was told nothing, or that it failed | may be there, and then whole |
//! | acknowledged | was told that it exists | **must be there, and whole** |
//! | deleting | asked to delete it and was told nothing, or that it failed | may be there, and then whole |
//! | deleted | was told that it is gone | must not be there |
//!
//! *Whole* means that every byte is that of the plan. A snapshot that nobody began must not be there either.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use holdfast_tests::measure::noise::Noise;
use pbs_datastore::{BackupGroup, BackupTime, BackupType, Namespace, SnapshotRef};
use tokio::time::Instant;

use super::content::{Plan, Pool, Shape};

/// Groups of streams, and of images.
const STREAM_GROUPS: u64 = 30;
const IMAGE_GROUPS: u64 = 10;
/// Every third group lies in this namespace.
pub(crate) const NAMESPACE: &str = "tenant";
/// Group of the snapshot that is never deleted.
const BALLAST_GROUP: &str = "ballast";

/// When a `finish` without an answer has had its effect or has none: all attempts, T, and much more.
const ASKED_SETTLES: Duration = Duration::from_mins(1);

/// What a client was told of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Not asked to finish.
    Begun,
    /// Asked to finish; no success was told.
    Asked,
    /// Told that it exists.
    Acknowledged,
    /// Asked to delete; no success was told.
    Deleting,
    /// Told that it is gone.
    Deleted,
}

/// What must hold of a snapshot at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Duty {
    /// It is there, and whole.
    There,
    /// If it is there, it is whole.
    WholeIfThere,
    /// It is not there.
    Absent,
}

impl State {
    fn duty(self) -> Duty {
        match self {
            Self::Begun | Self::Deleted => Duty::Absent,
            Self::Asked | Self::Deleting => Duty::WholeIfThere,
            Self::Acknowledged => Duty::There,
        }
    }
}

#[derive(Debug)]
struct Entry {
    state: State,
    plan: Arc<Plan>,
    readers: u32,
    /// Whether somebody waits for the answer to its removal.
    is_removed: bool,
    /// When the state was noted.
    since: Instant,
}

impl Entry {
    /// Whether it may be removed. What was asked long ago and never answered is there or is not, and stays so.
    fn is_removable(&self) -> bool {
        match self.state {
            State::Acknowledged | State::Deleting => true,
            State::Asked => self.since.elapsed() > ASKED_SETTLES,
            State::Begun | State::Deleted => false,
        }
    }
}

#[derive(Debug, Default)]
struct Group {
    last_time: i64,
    last_plan: Option<Arc<Plan>>,
}

#[derive(Debug, Default)]
struct Inner {
    entries: BTreeMap<SnapshotRef, Entry>,
    groups: BTreeMap<(Namespace, BackupGroup), Group>,
}

/// A snapshot with its content.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) id: SnapshotRef,
    pub(crate) plan: Arc<Plan>,
}

/// How many snapshots there are in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Population {
    pub(crate) acknowledged: u64,
    pub(crate) unknown: u64,
    pub(crate) deleted: u64,
}

/// The record of everything that was told.
#[derive(Debug, Default)]
pub(crate) struct Ledger(Mutex<Inner>);

impl Ledger {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins the next snapshot of a group drawn from `noise`, at `now` or as soon after as the group has no other.
    pub(crate) fn begin(
        &self,
        noise: &mut Noise,
        pool: &Pool,
        shape: Shape,
        now: i64,
    ) -> Result<Known> {
        let number = match shape {
            Shape::Stream => noise.below(STREAM_GROUPS),
            Shape::Image => STREAM_GROUPS + noise.below(IMAGE_GROUPS),
        };
        let namespace = if number % 3 == 2 { NAMESPACE } else { "" };
        let kind = if number.is_multiple_of(2) {
            BackupType::Host
        } else {
            BackupType::Vm
        };
        let group = BackupGroup::new(kind, format!("g{number}").parse()?);
        let mut inner = self.inner();
        let last = inner
            .groups
            .get(&(namespace.parse()?, group.clone()))
            .and_then(|group| group.last_plan.clone());
        let plan = pool.plan(noise, shape, last.as_deref());
        inner.begin(namespace.parse()?, group, plan, now)
    }

    /// Begins the ballast.
    pub(crate) fn begin_ballast(&self, plan: Plan, now: i64) -> Result<Known> {
        let group = BackupGroup::new(BackupType::Host, BALLAST_GROUP.parse()?);
        self.inner().begin(Namespace::root(), group, plan, now)
    }

    /// Notes what was asked or told. Returns the content so far.
    pub(crate) fn note(&self, id: &SnapshotRef, state: State) -> Option<Arc<Plan>> {
        let mut inner = self.inner();
        let entry = inner.entries.get_mut(id)?;
        entry.state = state;
        entry.is_removed = false;
        entry.since = Instant::now();
        let plan = Arc::clone(&entry.plan);
        if state == State::Deleted {
            // A long run keeps the names of what is gone, and nothing else.
            entry.plan = Arc::new(Plan {
                shape: plan.shape,
                pieces: Vec::new(),
            });
        }
        if state == State::Acknowledged {
            let key = (id.namespace.clone(), id.snapshot.group.clone());
            inner.groups.entry(key).or_default().last_plan = Some(Arc::clone(&plan));
        }
        Some(plan)
    }

    /// The state of a snapshot; `None` if nobody began it.
    pub(crate) fn state(&self, id: &SnapshotRef) -> Option<State> {
        self.inner().entries.get(id).map(|entry| entry.state)
    }

    /// What must hold of it; a snapshot that nobody began must not be there.
    pub(crate) fn duty(&self, id: &SnapshotRef) -> Duty {
        self.state(id).map_or(Duty::Absent, State::duty)
    }

    /// An acknowledged snapshot to read, of the ballast one in ten; it is given back with [`Ledger::read`].
    pub(crate) fn pick_to_read(&self, noise: &mut Noise) -> Option<Known> {
        let heavy = noise.below(10) == 0;
        let mut inner = self.inner();
        let heavy = heavy.then(|| {
            let ballast =
                |entry: &Entry| entry.state == State::Acknowledged && entry.plan.is_ballast();
            pick(&inner, noise, ballast)
        });
        let found = match heavy.flatten() {
            Some(found) => found,
            None => pick(&inner, noise, |entry| entry.state == State::Acknowledged)?,
        };
        let id = inner.entries.get_mut(&found)?;
        id.readers += 1;
        let plan = Arc::clone(&id.plan);
        Some(Known { id: found, plan })
    }

    /// It is not read any more.
    pub(crate) fn read(&self, id: &SnapshotRef) {
        if let Some(entry) = self.inner().entries.get_mut(id) {
            entry.readers -= 1;
        }
    }

    /// A snapshot to delete, not the ballast, with its state so far; from now on it is being deleted. `also_read`: even
    /// if somebody reads it. Nobody else gets it before the outcome was noted.
    pub(crate) fn pick_to_delete(
        &self,
        noise: &mut Noise,
        also_read: bool,
    ) -> Option<(SnapshotRef, State)> {
        let mut inner = self.inner();
        let found = pick(&inner, noise, |entry| {
            // Two at once would not know whose request had which effect.
            entry.is_removable() && !entry.is_removed && (also_read || entry.readers == 0)
        });
        let found = found.filter(|id| id.snapshot.group.id.to_string() != BALLAST_GROUP)?;
        let entry = inner.entries.get_mut(&found)?;
        let before = std::mem::replace(&mut entry.state, State::Deleting);
        entry.is_removed = true;
        Some((found, before))
    }

    /// All that must or may be there.
    pub(crate) fn expected(&self) -> Vec<(Known, Duty)> {
        let inner = self.inner();
        let living = inner
            .entries
            .iter()
            .filter(|(_, entry)| entry.state.duty() != Duty::Absent);
        let known = |(id, entry): (&SnapshotRef, &Entry)| {
            let known = Known {
                id: id.clone(),
                plan: Arc::clone(&entry.plan),
            };
            (known, entry.state.duty())
        };
        living.map(known).collect()
    }

    /// Counts.
    pub(crate) fn population(&self) -> Population {
        let mut counts = Population::default();
        for entry in self.inner().entries.values() {
            match entry.state {
                State::Acknowledged => counts.acknowledged += 1,
                State::Asked | State::Deleting => counts.unknown += 1,
                State::Deleted => counts.deleted += 1,
                State::Begun => {}
            }
        }
        counts
    }
}

/// One that `wanted` accepts, each as likely as the others.
fn pick(inner: &Inner, noise: &mut Noise, wanted: impl Fn(&Entry) -> bool) -> Option<SnapshotRef> {
    let fitting: Vec<&SnapshotRef> = inner
        .entries
        .iter()
        .filter(|(_, entry)| wanted(entry))
        .map(|(id, _)| id)
        .collect();
    let count = fitting.len() as u64;
    (count > 0).then(|| fitting[noise.below(count) as usize].clone())
}

impl Inner {
    fn begin(
        &mut self,
        namespace: Namespace,
        group: BackupGroup,
        plan: Plan,
        now: i64,
    ) -> Result<Known> {
        let record = self
            .groups
            .entry((namespace.clone(), group.clone()))
            .or_default();
        record.last_time = now.max(record.last_time + 1);
        let time = BackupTime::new(record.last_time).context("a time of this century")?;
        let id = SnapshotRef::new(namespace, group.at(time));
        let plan = Arc::new(plan);
        let entry = Entry {
            state: State::Begun,
            plan: Arc::clone(&plan),
            readers: 0,
            is_removed: false,
            since: Instant::now(),
        };
        self.entries.insert(id.clone(), entry);
        Ok(Known { id, plan })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begun(ledger: &Ledger) -> Known {
        let (pool, mut noise) = (Pool::new(1), Noise::new(2));
        ledger
            .begin(&mut noise, &pool, Shape::Stream, 1000)
            .expect("a snapshot")
    }

    #[test]
    fn duties_follow_what_was_told() {
        let ledger = Ledger::default();
        let known = begun(&ledger);
        let mut noise = Noise::new(3);
        assert_eq!(ledger.duty(&known.id), Duty::Absent);
        assert!(ledger.pick_to_read(&mut noise).is_none());
        ledger.note(&known.id, State::Asked);
        assert_eq!(ledger.duty(&known.id), Duty::WholeIfThere);
        ledger.note(&known.id, State::Acknowledged);
        assert_eq!(ledger.duty(&known.id), Duty::There);
        let read = ledger.pick_to_read(&mut noise).expect("it is there");
        assert_eq!(read.plan, known.plan);
        assert!(ledger.pick_to_delete(&mut noise, false).is_none());
        ledger.read(&known.id);
        assert!(ledger.pick_to_delete(&mut noise, false).is_some());
        assert!(ledger.pick_to_delete(&mut noise, true).is_none());
        ledger.note(&known.id, State::Deleting);
        assert!(ledger.pick_to_delete(&mut noise, true).is_some());
        assert_eq!(ledger.duty(&known.id), Duty::WholeIfThere);
        ledger.note(&known.id, State::Deleted);
        assert_eq!(ledger.duty(&known.id), Duty::Absent);
        assert_eq!(ledger.population().deleted, 1);
        assert!(ledger.expected().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_asked_is_removed_when_it_is_settled() {
        let ledger = Ledger::default();
        let known = begun(&ledger);
        let mut noise = Noise::new(3);
        tokio::time::advance(ASKED_SETTLES * 2).await;
        assert!(ledger.pick_to_delete(&mut noise, false).is_none());
        ledger.note(&known.id, State::Asked);
        tokio::time::advance(ASKED_SETTLES).await;
        assert!(ledger.pick_to_delete(&mut noise, false).is_none());
        tokio::time::advance(Duration::from_secs(1)).await;
        let found = ledger.pick_to_delete(&mut noise, false);
        assert_eq!(found, Some((known.id.clone(), State::Asked)));
    }

    #[test]
    fn times_of_a_group_rise() {
        let ledger = Ledger::default();
        let (first, second) = (begun(&ledger), begun(&ledger));
        assert_eq!(first.id.snapshot.group, second.id.snapshot.group);
        assert!(second.id.snapshot.time > first.id.snapshot.time);
    }
}
