//! One night: what begins when, and what befalls whom meanwhile. Everything begins within some minutes, so that it overlaps.

use std::sync::Arc;
use std::time::Duration;

use pbs_datastore::{Namespace, Result, Step};
use rand::RngExt as _;
use rand::rngs::StdRng;

use super::jobs::{self, Copies, Look, back};
use super::plan::{Group, MonthPlan, odds};
use super::side::{Order, Side, Up};
use crate::client::kind_of;
use crate::content::Content;
use crate::forced::steps;
use crate::operator::{collect, spoiled};
use crate::reader::Reader;

/// How often a job is tried again that failed, or whose daemon ended.
const ATTEMPTS_MAX: usize = 4;
/// Pause before that, in seconds.
const PAUSE_SECONDS: std::ops::Range<u64> = 20..240;

/// Something that begins in a night.
#[derive(Clone, Debug)]
enum Task {
    BackUp(usize),
    Prune(usize),
    Collect(usize),
    Verify(usize, Look),
    Read(usize),
    Protect(usize),
    /// Into which side.
    Sync(usize, Copies),
    End(usize, Order),
    /// An end that waits at a step.
    Trap(usize, Step, u64, Order),
    Rot(usize),
}

/// The two daemons, and what there is to back up.
pub(super) struct Pair {
    pub(super) plan: MonthPlan,
    pub(super) sides: [Arc<Side>; 2],
    pub(super) groups: Vec<Group>,
}

impl Pair {
    /// What is backed up of a group.
    pub(super) fn contents(&self, group: usize) -> Vec<Content> {
        let pool = &self.sides[0].world.pool;
        let now = self.groups[group].now.iter();
        now.map(|n| pool.contents[*n].clone()).collect()
    }

    /// What the second store takes from the first.
    pub(super) fn pull(&self, rng: &mut StdRng) -> Copies {
        Copies {
            origin: Namespace::root(),
            target: Namespace::root(),
            resync_corrupt: rng.random_bool(0.6),
            remove_vanished: self.plan.keep_far.is_none(),
            workers: rng.random_range(1..=3),
            break_odds: 0.0,
            patience: None,
        }
    }

    /// What the first takes back where it is damaged.
    pub(super) fn mend(&self, rng: &mut StdRng) -> Copies {
        Copies {
            resync_corrupt: true,
            remove_vanished: false,
            ..self.pull(rng)
        }
    }

    fn order(rng: &mut StdRng) -> Order {
        match rng.random_range(0..20) {
            0 => Order::LoseCache,
            1..=3 => Order::PowerLoss,
            4..=8 => Order::Restart,
            _ => Order::Crash,
        }
    }

    /// What this night has, and when it begins.
    fn tasks(&self, day: u64, rng: &mut StdRng) -> Vec<Task> {
        let plan = &self.plan;
        let mut tasks = Vec::new();
        for group in 0..self.groups.len() {
            let times = [0, 1, 1, 1, 1, 1, 2][rng.random_range(0..7)];
            tasks.extend((0..times).map(|_| Task::BackUp(group)));
        }
        tasks.push(Task::Prune(0));
        if plan.keep_far.is_some() {
            tasks.push(Task::Prune(1));
        }
        let bad_line = [0.0, 0.0, 0.02][rng.random_range(0..3)];
        let patience = rng
            .random_bool(0.15)
            .then(|| Duration::from_secs(rng.random_range(1..200)));
        for _ in 0..rng.random_range(1..=2) {
            tasks.push(Task::Sync(
                1,
                Copies {
                    break_odds: bad_line,
                    patience,
                    ..self.pull(rng)
                },
            ));
        }
        if day % 4 == 3 {
            tasks.push(Task::Sync(
                0,
                Copies {
                    target: back(),
                    remove_vanished: true,
                    ..self.pull(rng)
                },
            ));
        }
        if day % 3 == 2 {
            tasks.push(Task::Sync(0, self.mend(rng)));
        }
        for side in 0..2 {
            tasks.push(Task::Collect(side));
            tasks.push(Task::Verify(side, self.look(day, rng)));
            tasks.extend((0..rng.random_range(0..3)).map(|_| Task::Read(side)));
            if rng.random_bool(0.15) {
                tasks.push(Task::Protect(side));
            }
            if rng.random_bool(plan.rot_odds) {
                tasks.push(Task::Rot(side));
            }
            if rng.random_bool(plan.end_odds) {
                let order = Self::order(rng);
                let steps: Vec<Step> = steps().collect();
                let step = steps[rng.random_range(0..steps.len())];
                let nth = [1, 2, 5, 12][rng.random_range(0..4)];
                tasks.push(match order {
                    Order::Crash | Order::PowerLoss if rng.random_bool(0.6) => {
                        Task::Trap(side, step, nth, order)
                    }
                    order => Task::End(side, order),
                });
            }
        }
        tasks
    }

    fn look(&self, day: u64, rng: &mut StdRng) -> Look {
        match day % 7 {
            6 => Look::All,
            1 | 4 => Look::Sample(rng.random_range(0..60)),
            _ => Look::Outdated(self.plan.outdated_after),
        }
    }

    /// When each task begins. A collection often does just after a writer has begun.
    fn begins(&self, tasks: &[Task], rng: &mut StdRng) -> Vec<Duration> {
        let span = self.plan.minutes * 60_000;
        let mut begins: Vec<u64> = tasks
            .iter()
            .map(|task| match task {
                Task::Trap(..) => 0,
                _ => rng.random_range(0..span),
            })
            .collect();
        for n in 0..tasks.len() {
            let Task::Collect(side) = tasks[n] else {
                continue;
            };
            let writers: Vec<u64> = tasks
                .iter()
                .zip(&begins)
                .filter(|(task, _)| match task {
                    Task::BackUp(_) => side == 0,
                    Task::Sync(into, _) => *into == side,
                    _ => false,
                })
                .map(|(_, begins)| *begins)
                .collect();
            if !writers.is_empty() && rng.random_bool(0.7) {
                let writer = writers[rng.random_range(0..writers.len())];
                let longest = [300, 5000, 90_000][rng.random_range(0..3)];
                begins[n] = writer + rng.random_range(0..longest);
            }
        }
        begins.into_iter().map(Duration::from_millis).collect()
    }

    /// Everything of a night, side by side.
    pub(super) async fn night(&mut self, day: u64) {
        let mut rng = self.plan.rng(1000 + day);
        for group in &mut self.groups {
            group.age(&mut rng);
        }
        let hard = rng.random_bool(0.6);
        for side in &self.sides {
            let chance = if hard { self.plan.fault_odds } else { 0.0 };
            let slow = [20, 2000, 30_000].map(Duration::from_millis)[rng.random_range(0..3)];
            side.world.plan.set_odds(odds(chance, slow));
        }
        let tasks = self.tasks(day, &mut rng);
        let begins = self.begins(&tasks, &mut rng);
        let this = &*self;
        let work = tasks.into_iter().zip(begins).enumerate();
        let work = work.map(|(n, (task, begins))| {
            let rng = this.plan.rng(100_000 + day * 100 + n as u64);
            async move {
                tokio::time::sleep(begins).await;
                this.begin(task, rng).await;
            }
        });
        futures_util::future::join_all(work).await;
    }

    async fn begin(&self, task: Task, mut rng: StdRng) {
        let rng = &mut rng;
        match task {
            Task::BackUp(group) => {
                let (place, contents) = (self.groups[group].place(), self.contents(group));
                self.again(0, rng, |side, up, rng| {
                    jobs::back_up(side, up, place.clone(), contents.clone(), rng)
                })
                .await;
            }
            Task::Prune(side) => {
                self.prune(side, rng).await;
            }
            Task::Collect(side) => {
                self.again(side, rng, |side, up, _| async move {
                    if collect(&side.world, &up.datastore).await {
                        side.tally.count("collections");
                        return Ok(());
                    }
                    Err(pbs_datastore::Error::Stopped)
                })
                .await;
            }
            Task::Verify(side, look) => {
                self.again(side, rng, |side, up, _| jobs::verify(side, up, look))
                    .await;
            }
            Task::Read(side) => {
                let side = Arc::clone(&self.sides[side]);
                let (world, rng) = (Arc::clone(&side.world), self.plan.rng(rng.random()));
                let read = |up: Up| async move {
                    let (datastore, number) = (up.datastore, 1);
                    let mut reader = Reader {
                        world,
                        datastore,
                        number,
                        rng,
                    };
                    reader.read_one().await;
                };
                side.job(read).await;
            }
            Task::Protect(side) => self.protect(side, rng).await,
            Task::Sync(side, copies) => {
                self.sync(side, &copies, rng).await;
            }
            Task::End(side, order) => self.sides[side].order(order),
            Task::Trap(side, step, nth, order) => self.sides[side].trap(step, nth, order),
            Task::Rot(side) => self.rot(side, rng),
        }
    }

    /// Does something until it succeeds, a few times at most; whether it did.
    pub(super) async fn again<T, W>(
        &self,
        side: usize,
        rng: &mut StdRng,
        work: impl Fn(Arc<Side>, Up, StdRng) -> W,
    ) -> Option<T>
    where
        T: Send + 'static,
        W: Future<Output = Result<T>> + Send + 'static,
    {
        let side = &self.sides[side];
        for _ in 0..ATTEMPTS_MAX {
            let chance = self.plan.rng(rng.random());
            let came = side.job(|up| work(Arc::clone(side), up, chance)).await;
            match came {
                Some(Ok(value)) => return Some(value),
                Some(Err(error)) => side
                    .world
                    .note(&format!("a job fails: {}", kind_of(&error))),
                None => side.world.note("a job falls with its daemon"),
            }
            let pause = Duration::from_secs(rng.random_range(PAUSE_SECONDS));
            tokio::time::sleep(pause).await;
        }
        None
    }

    /// Prunes all groups of a side; whether all were.
    pub(super) async fn prune(&self, side: usize, rng: &mut StdRng) -> bool {
        let keep = match (side, self.plan.keep_far) {
            (1, Some(keep)) => keep,
            _ => self.plan.keep,
        };
        let mut all = true;
        for group in &self.groups {
            let place = group.place();
            let pruned = self.again(side, rng, |side, up, _| {
                jobs::prune(side, up, place.clone(), keep)
            });
            all &= pruned.await.is_some();
        }
        all
    }

    /// Syncs into a side; whether nothing failed.
    pub(super) async fn sync(&self, side: usize, copies: &Copies, rng: &mut StdRng) -> bool {
        let other = &self.sides[1 - side];
        let done = self.again(side, rng, |side, up, rng| {
            jobs::sync(side, up, Arc::clone(other), copies.clone(), rng)
        });
        done.await.unwrap_or(false)
    }

    async fn protect(&self, side: usize, rng: &mut StdRng) {
        let oracle = &self.sides[side].world.oracle;
        let protected: Vec<_> = oracle.protected().into_iter().collect();
        let (from, protect) = if protected.is_empty() || rng.random_bool(0.4) {
            let all = oracle.acknowledged().into_iter();
            (all.map(|(id, _)| id).collect(), true)
        } else {
            (protected, false)
        };
        if from.is_empty() {
            return;
        }
        let id = from[rng.random_range(0..from.len())].clone();
        self.sides[side]
            .job(|up| jobs::protect(Arc::clone(&self.sides[side]), up, id, protect))
            .await;
    }

    /// A chunk is damaged where it is stored, of which the other side has a good one.
    fn rot(&self, side: usize, rng: &mut StdRng) {
        let (world, other) = (&self.sides[side].world, &self.sides[1 - side].world);
        let mut chunks = world.oracle.truth().chunks();
        chunks.retain(|(digest, _)| {
            other.oracle.holds(digest)
                && world.oracle.holds(digest)
                && !world.oracle.is_damaged(digest)
        });
        if chunks.is_empty() {
            return;
        }
        let (digest, body) = &chunks[rng.random_range(0..chunks.len())];
        world.oracle.damage(*digest);
        world.oracle.truth().overwrite(digest, spoiled(rng, body));
        self.sides[side].tally.count("rotten");
        world.note(&format!("damage: {}", &digest.to_string()[..8]));
    }
}
