//! What one seed stands for: everything that is chosen before a run begins.

use std::time::Duration;

use pbs_datastore::{Capabilities, Step, SyncLevel};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use s3_client::{Odds, Op};

use crate::forced::{Forced, Object};

/// T of all runs. What is late arrives earlier.
pub(crate) const LATE: Duration = Duration::from_mins(1);

/// W of all runs.
pub(crate) const WINDOW: Duration = Duration::from_mins(15);

/// How the store is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Bucket,
    Directory(SyncLevel),
}

/// How a life of the daemon ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It is told to stop.
    Stop,
    /// The process dies.
    Crash,
    /// The machine loses power.
    PowerLoss,
}

/// What happens to the cache directory between two lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Between {
    Nothing,
    /// It is deleted.
    Lost,
    /// An older copy is put in its place.
    OldCopy,
    /// Another machine takes the prefix over; the first one goes on for a while if it still runs.
    TakeOver {
        zombie: bool,
    },
}

/// One life of the daemon.
#[derive(Clone, Debug)]
pub(crate) struct LifePlan {
    /// Until it ends by itself.
    pub(crate) time: Duration,
    pub(crate) end: End,
    pub(crate) after: Between,
    /// By how much the clock is set differently in the next life.
    pub(crate) clock_jump: i64,
}

/// Everything about a run.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) seed: u64,
    pub(crate) kind: Kind,
    pub(crate) lives: Vec<LifePlan>,
    pub(crate) clients: usize,
    pub(crate) readers: usize,
    pub(crate) groups: usize,
    pub(crate) chunks: usize,
    pub(crate) cache_bytes_max: u64,
    pub(crate) capabilities: Capabilities,
    pub(crate) keeps_metadata: bool,
    pub(crate) page_keys_max: usize,
    pub(crate) odds: Odds,
    pub(crate) io_pause_max: Duration,
    pub(crate) gc_cutoff: Duration,
    pub(crate) gc_pause_max: Duration,
    pub(crate) delete_batch: usize,
    pub(crate) list_ranges: usize,
    pub(crate) upload_attempts: u32,
    pub(crate) delete_pause_max: Duration,
    /// Chunks are damaged where they are stored.
    pub(crate) rot: bool,
    /// The disk is full now and then, and fails.
    pub(crate) disk_faults: bool,
    /// Somebody uploads encrypted chunks under the digests of others.
    pub(crate) forger: bool,
    /// From which of the reads of chunks on some bring wrong bytes, and how many; each brings others.
    pub(crate) bad_line: Option<(u64, u64)>,
    /// Snapshots are copied into another namespace, verified and mended.
    pub(crate) copier: bool,
    pub(crate) forced: Option<Forced>,
}

fn up_to(rng: &mut StdRng, longest: Duration) -> Duration {
    Duration::from_millis(rng.random_range(0..=longest.as_millis() as u64))
}

impl Scenario {
    /// What `seed` stands for. Every seed forces one rare branch, so that a row of seeds leaves none out.
    pub(crate) fn of(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let rng = &mut rng;
        let forced = Forced::of(seed);
        let directory = forced
            .as_ref()
            .map_or_else(|| rng.random_bool(0.1), Forced::wants_directory);
        let kind = match (directory, rng.random_bool(0.5)) {
            (false, _) => Kind::Bucket,
            (true, false) => Kind::Directory(SyncLevel::File),
            (true, true) => Kind::Directory(SyncLevel::Filesystem),
        };
        let mut scenario = Self {
            seed,
            kind,
            lives: (0..rng.random_range(1..=4))
                .map(|_| LifePlan::of(rng, kind))
                .collect(),
            clients: rng.random_range(1..=4),
            readers: rng.random_range(0..=2),
            groups: rng.random_range(1..=3),
            chunks: rng.random_range(3..=16),
            cache_bytes_max: [0, 600, 2000, 1 << 20][rng.random_range(0..4)],
            capabilities: capabilities(rng),
            keeps_metadata: rng.random_bool(0.9),
            page_keys_max: [2, 5, 1000][rng.random_range(0..3)],
            odds: odds(rng),
            io_pause_max: [0, 3, 40, 2000].map(Duration::from_millis)[rng.random_range(0..4)],
            gc_cutoff: [0, 0, 0, 10].map(Duration::from_mins)[rng.random_range(0..4)],
            gc_pause_max: [20, 180, 900].map(Duration::from_secs)[rng.random_range(0..3)],
            delete_batch: [1, 3, 1000][rng.random_range(0..3)],
            list_ranges: rng.random_range(1..=3),
            upload_attempts: rng.random_range(2..=4),
            delete_pause_max: [60, 600].map(Duration::from_secs)[rng.random_range(0..2)],
            rot: rng.random_bool(0.15),
            disk_faults: rng.random_bool(0.2),
            forger: rng.random_bool(0.15),
            bad_line: rng
                .random_bool(0.2)
                .then(|| (rng.random_range(0..12), rng.random_range(1..=6))),
            copier: rng.random_bool(0.4),
            forced,
        };
        scenario.make_room_for_what_is_forced();
        // Without conditional writes a forgery that arrives late replaces what is there: I11 then rests on the writers.
        scenario.forger &= scenario.capabilities.conditional_create;
        let zombie = Between::TakeOver { zombie: true };
        // The disks of two machines are one here: that of the one that was cut off may not be full.
        scenario.disk_faults &= scenario.lives.iter().all(|life| life.after != zombie);
        scenario
    }

    /// Whether a sealed snapshot may be hidden until the next collection reads the bucket's list again: an owner who lost
    /// the prefix sealed it with his last permission.
    pub(crate) fn may_hide(&self) -> bool {
        let zombie = Between::TakeOver { zombie: true };
        self.lives.iter().any(|life| life.after == zombie)
    }

    /// What is forced must be able to happen.
    fn make_room_for_what_is_forced(&mut self) {
        let Some(forced) = self.forced.clone() else {
            return;
        };
        self.lives[0].time = self.lives[0].time.max(Duration::from_mins(30));
        self.gc_cutoff = Duration::ZERO;
        self.gc_pause_max = self.gc_pause_max.min(Duration::from_mins(3));
        match &forced {
            Forced::AtStep { step, .. } => match step {
                Step::Evicted => self.cache_bytes_max = 600,
                Step::FillRegistered | Step::FillFetched | Step::FillInserted => {
                    self.readers = self.readers.max(1);
                    self.cache_bytes_max = 2000;
                }
                Step::CacheReserved | Step::CacheWritten | Step::CacheRenamed => {
                    self.cache_bytes_max = self.cache_bytes_max.max(2000);
                }
                Step::BatchWaited => self.odds.lose_answer = self.odds.lose_answer.max(0.05),
                Step::StopNoted | Step::StopRecorded => {
                    self.lives[0].end = End::Stop;
                    self.odds = Odds::default();
                }
                Step::MarkersDropped => {
                    self.lives[0].after = Between::Lost;
                }
                _ => {}
            },
            Forced::Request {
                op: Op::Delete,
                object: Object::Chunk,
                fault: "delay",
                nth,
            } => {
                // The delete may arrive in the next life, and somebody should want the chunk then.
                (self.clients, self.chunks) = (4, 3);
                if *nth > 1 {
                    self.lives[0].after = Between::Lost;
                }
            }
            Forced::Request { .. } => {}
            Forced::File { .. } => self.cache_bytes_max = self.cache_bytes_max.max(2000),
        }
        if forced.wants_damage() {
            self.rot = true;
            // Whoever reads past the cache meets the damage.
            self.cache_bytes_max = 0;
            self.readers = 2;
        }
        if forced.prelude().is_some() {
            self.gc_pause_max = Duration::from_secs(20);
            self.delete_pause_max = Duration::from_mins(1);
        }
        if self.lives.len() < 2 {
            let again = self.lives[0].clone();
            self.lives.push(again);
        }
        if forced.prelude().is_some() {
            self.lives[1].time = self.lives[1].time.max(Duration::from_mins(30));
        }
    }
}

impl LifePlan {
    fn of(rng: &mut StdRng, kind: Kind) -> Self {
        let end = match rng.random_range(0..10) {
            0..4 => End::Stop,
            4..8 => End::Crash,
            _ => End::PowerLoss,
        };
        let after = match rng.random_range(0..20) {
            0 | 1 => Between::Lost,
            2 | 19 => Between::OldCopy,
            3 => Between::TakeOver { zombie: false },
            4 => Between::TakeOver { zombie: true },
            _ => Between::Nothing,
        };
        Self {
            time: Duration::from_mins(2) + up_to(rng, Duration::from_mins(40)),
            end,
            after: if kind == Kind::Bucket {
                after
            } else {
                Between::Nothing
            },
            clock_jump: match rng.random_range(0..8) {
                0 => -86_400,
                1 => 86_400,
                2 => -30,
                _ => 0,
            },
        }
    }
}

fn capabilities(rng: &mut StdRng) -> Capabilities {
    let lesser = rng.random_range(0..12);
    Capabilities {
        conditional_create: lesser != 0,
        conditional_overwrite: lesser > 1,
    }
}

fn odds(rng: &mut StdRng) -> Odds {
    let chance = [0.0, 0.003, 0.02, 0.07][rng.random_range(0..4)];
    let late_max = LATE.saturating_sub(Duration::from_secs(5));
    Odds {
        truncate: chance / 4.0,
        delay: [0.0, 0.3, 1.0][rng.random_range(0..3)],
        linger: [0.0, 0.3][rng.random_range(0..2)],
        orphan: 0.5,
        delay_max: [20, 2000, 30_000].map(Duration::from_millis)[rng.random_range(0..3)],
        ..Odds::evenly(chance, late_max)
    }
}
