//! What a seed stands for: how both datastores are kept, who backs up what, and how hard the times are.

use std::time::Duration;

use pbs_datastore::{BackupGroup, Capabilities, GroupRef, KeepOptions, Namespace};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use s3_client::Odds;

use crate::content::Pool;
use crate::scenario::{Kind, LATE, Scenario};

/// Days of a month.
pub(super) const DAYS: u64 = 30;

/// Contents of all groups together.
const CHUNKS: usize = 64;

/// Who backs up, and what of the pool is theirs.
#[derive(Clone, Debug)]
pub(super) struct Group {
    pub(super) id: BackupGroup,
    /// What may be in its archives; some of it may be in others too.
    pub(super) own: Vec<usize>,
    /// What is in its archive now, in order.
    pub(super) now: Vec<usize>,
    /// What was in it on the days before.
    pub(super) before: Vec<Vec<usize>>,
}

impl Group {
    pub(super) fn place(&self) -> GroupRef {
        GroupRef::new(Namespace::root(), self.id.clone())
    }

    /// A day passes: something is changed, added, or deleted; or all is again as it was some days ago.
    pub(super) fn age(&mut self, rng: &mut StdRng) {
        self.before.push(self.now.clone());
        let days = rng.random_range(2..5);
        if self.before.len() > days && rng.random_bool(0.3) {
            self.now = self.before[self.before.len() - 1 - days].clone();
            return;
        }
        for _ in 0..rng.random_range(0..5) {
            let new = self.own[rng.random_range(0..self.own.len())];
            let place = rng.random_range(0..=self.now.len());
            match rng.random_range(0..4) {
                0 if self.now.len() < 14 => self.now.insert(place, new),
                1 if self.now.len() > 3 => drop(self.now.remove(place % self.now.len())),
                _ => {
                    let place = place % self.now.len();
                    self.now[place] = new;
                }
            }
        }
    }
}

/// See the page of this module.
#[derive(Clone, Debug)]
pub(super) struct MonthPlan {
    pub(super) seed: u64,
    pub(super) keep: KeepOptions,
    /// What the second store keeps; `None` if it has what the first has.
    pub(super) keep_far: Option<KeepOptions>,
    /// After how many days a verification counts no more.
    pub(super) outdated_after: u64,
    /// The chance that a life of a daemon ends in a night.
    pub(super) end_odds: f64,
    /// The chance that something rots on a day.
    pub(super) rot_odds: f64,
    /// The worst of the nights.
    pub(super) fault_odds: f64,
    /// Minutes in which everything of a night begins.
    pub(super) minutes: u64,
}

fn keep(rng: &mut StdRng) -> KeepOptions {
    let some = |count: u64| (count > 0).then_some(count);
    KeepOptions {
        last: Some(rng.random_range(1..=4)),
        daily: some([0, 0, 2, 5][rng.random_range(0..4)]),
        weekly: some([0, 0, 1, 3][rng.random_range(0..4)]),
        ..KeepOptions::default()
    }
}

impl MonthPlan {
    pub(super) fn of(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed ^ 0x3030);
        let rng = &mut rng;
        Self {
            seed,
            keep: keep(rng),
            keep_far: rng.random_bool(0.3).then(|| keep(rng)),
            outdated_after: rng.random_range(1..=10),
            end_odds: [0.0, 0.15, 0.4][rng.random_range(0..3)],
            rot_odds: [0.0, 0.1, 0.3][rng.random_range(0..3)],
            fault_odds: [0.0, 0.005, 0.03][rng.random_range(0..3)],
            minutes: [3, 10, 40][rng.random_range(0..3)],
        }
    }

    /// A source of chance for one purpose.
    pub(super) fn rng(&self, purpose: u64) -> StdRng {
        StdRng::seed_from_u64(self.seed.wrapping_mul(6151).wrapping_add(purpose))
    }

    pub(super) fn pool(&self) -> Pool {
        Pool::new(&mut self.rng(1), CHUNKS)
    }

    /// Those who back up: archives are encrypted or not as a whole.
    pub(super) fn groups(&self, pool: &Pool) -> Vec<Group> {
        let mut rng = self.rng(2);
        let count = rng.random_range(2..=4);
        let (encrypted, plain): (Vec<usize>, Vec<usize>) =
            (0..CHUNKS).partition(|n| pool.contents[*n].is_encrypted());
        let group = |number: u64| {
            let from = if number == 1 { &encrypted } else { &plain };
            let mut own: Vec<usize> = (0..rng.random_range(8..24))
                .map(|_| from[rng.random_range(0..from.len())])
                .collect();
            own.sort_unstable();
            own.dedup();
            let length = rng.random_range(4..10);
            let now = (0..length)
                .map(|_| own[rng.random_range(0..own.len())])
                .collect();
            let id = format!("host/group-{number}");
            let id = id.parse().expect("a valid group");
            let before = Vec::new();
            Group {
                id,
                own,
                now,
                before,
            }
        };
        (0..count).map(group).collect()
    }

    /// How one of the two datastores is kept.
    pub(super) fn scenario(&self, side: u64) -> Scenario {
        let mut rng = self.rng(10 + side);
        let rng = &mut rng;
        Scenario {
            seed: self.seed.wrapping_mul(2).wrapping_add(side),
            kind: Kind::Bucket,
            lives: Vec::new(),
            clients: 1,
            readers: 1,
            groups: 1,
            chunks: CHUNKS,
            cache_bytes_max: [0, 600, 2000, 1 << 20][rng.random_range(0..4)],
            capabilities: Capabilities {
                conditional_create: rng.random_bool(0.9),
                conditional_overwrite: true,
            },
            keeps_metadata: rng.random_bool(0.9),
            page_keys_max: [5, 30, 1000][rng.random_range(0..3)],
            odds: odds(0.0, Duration::ZERO),
            io_pause_max: [0, 3, 40].map(Duration::from_millis)[rng.random_range(0..3)],
            gc_cutoff: [1445, 1445, 1600, 2880].map(Duration::from_mins)[rng.random_range(0..4)],
            gc_pause_max: Duration::ZERO,
            delete_batch: [1, 3, 1000][rng.random_range(0..3)],
            list_ranges: rng.random_range(1..=3),
            upload_attempts: rng.random_range(3..=5),
            delete_pause_max: Duration::ZERO,
            rot: true,
            disk_faults: false,
            forger: false,
            bad_line: None,
            copier: true,
            forced: None,
        }
    }
}

/// What goes wrong with requests: each thing with this chance, and answers take up to so long.
pub(super) fn odds(chance: f64, slow: Duration) -> Odds {
    Odds {
        truncate: chance / 4.0,
        delay: 0.5,
        linger: 0.2,
        orphan: 0.5,
        delay_max: slow,
        ..Odds::evenly(chance, LATE.saturating_sub(Duration::from_secs(5)))
    }
}
