//! One of the two daemons: it is started again whatever ends it, and its jobs are tasks of the life that runs.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pbs_datastore::files::DirCopy;
use pbs_datastore::{Datastore, Step};
use rand::RngExt as _;
use rand::rngs::StdRng;
use s3_client::MeterSnapshot;
use tokio::sync::{mpsc, watch};

use super::tally::Tally;
use crate::life::{Life, Machine, Mortal};
use crate::world::World;

/// How long a start may take.
const START_MAX: Duration = Duration::from_hours(1);
/// How long a stop may take.
const STOP_MAX: Duration = Duration::from_mins(5);
/// Starts in a row that may fail.
const STARTS_MAX: usize = 60;
/// How long it takes at most until somebody starts the daemon again, in seconds.
const DOWN_SECONDS_MAX: u64 = 400;

const MACHINE: Machine = Machine(0);

/// A life that runs.
#[derive(Clone)]
pub(crate) struct Up {
    pub(crate) life: Life,
    pub(crate) datastore: Arc<Datastore>,
}

/// What ends a life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// The process dies.
    Crash,
    /// The machine loses power.
    PowerLoss,
    /// It is stopped, and started again at once.
    Restart,
    /// The process dies, and the cache directory is lost.
    LoseCache,
}

/// An end that waits at a step.
struct Trap {
    side: &'static str,
    step: Step,
    left: u64,
    order: Order,
}

/// The ends that wait, and whom they befall.
#[derive(Default)]
struct Traps {
    set: Vec<Trap>,
    lives: Vec<(&'static str, Mortal, mpsc::UnboundedSender<Order>)>,
}

thread_local! {
    static TRAPS: RefCell<Traps> = RefCell::default();
}

/// Begins to watch the steps of this thread.
pub(super) fn watch_steps() {
    TRAPS.with(|traps| *traps.borrow_mut() = Traps::default());
    pbs_datastore::watch_steps(|step| {
        let sprung = TRAPS.with(|traps| {
            let traps = &mut *traps.borrow_mut();
            let due = traps.set.iter_mut().position(|trap| {
                trap.left -= u64::from(trap.step == step);
                trap.left == 0
            });
            let trap = traps.set.swap_remove(due?);
            let life = traps.lives.iter().find(|(side, ..)| *side == trap.side);
            let (_, life, orders) = life.filter(|(_, life, _)| !life.is_dead())?;
            Some((life.clone(), orders.clone(), trap.order))
        });
        if let Some((life, orders, order)) = sprung {
            life.kill();
            orders.send(order).ok();
        }
    });
}

/// Takes all traps away.
pub(super) fn disarm() {
    TRAPS.with(|traps| traps.borrow_mut().set.clear());
}

/// See the page of this module.
pub(crate) struct Side {
    pub(crate) world: Arc<World>,
    pub(crate) name: &'static str,
    pub(crate) tally: Arc<Tally>,
    up: watch::Sender<Option<Up>>,
    orders: mpsc::UnboundedSender<Order>,
    lives: AtomicU64,
    /// What all lives before the one that runs have counted of their requests.
    counted: Mutex<MeterSnapshot>,
}

impl Side {
    /// A daemon that does not run yet, and what [`Side::keep_running`] takes its orders from.
    pub(super) fn new(
        name: &'static str,
        world: Arc<World>,
        tally: Arc<Tally>,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<Order>) {
        let (orders, taken) = mpsc::unbounded_channel();
        let side = Self {
            world,
            name,
            tally,
            up: watch::Sender::new(None),
            orders,
            lives: AtomicU64::new(0),
            counted: Mutex::default(),
        };
        (Arc::new(side), taken)
    }

    /// The life that runs, if one does.
    pub(crate) fn up_now(&self) -> Option<Up> {
        self.up.borrow().clone()
    }

    /// Waits for a life that runs.
    pub(crate) async fn up(&self) -> Up {
        let mut up = self.up.subscribe();
        let running = up.wait_for(Option::is_some).await;
        let running = running.expect("it lives as long as this");
        running.clone().expect("it was waited for")
    }

    /// Work of the life that runs; `None` if that ends first.
    pub(crate) async fn job<T, W>(&self, work: impl FnOnce(Up) -> W) -> Option<T>
    where
        T: Send + 'static,
        W: Future<Output = T> + Send + 'static,
    {
        let up = self.up().await;
        up.life.env().spawn(work(up.clone())).await.ok()
    }

    /// Ends the life that runs.
    pub(super) fn order(&self, order: Order) {
        self.orders.send(order).expect("somebody takes them");
    }

    /// Ends a life at a passing of a step, by whichever daemon.
    pub(super) fn trap(&self, step: Step, nth: u64, order: Order) {
        let (side, left) = (self.name, nth);
        let trap = Trap {
            side,
            step,
            left,
            order,
        };
        TRAPS.with(|traps| traps.borrow_mut().set.push(trap));
    }

    /// What all lives have counted of their requests.
    pub(super) fn requests(&self) -> MeterSnapshot {
        let mut all = self.counted().clone();
        if let Some(up) = self.up_now() {
            all.merge(&up.life.meter.snapshot());
        }
        all
    }

    pub(super) fn lives(&self) -> u64 {
        self.lives.load(Ordering::Acquire)
    }

    fn counted(&self) -> std::sync::MutexGuard<'_, MeterSnapshot> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn violation(&self, what: &str) {
        self.world.oracle.violation(what.to_owned());
    }

    /// Starts the daemon whenever it does not run, and carries orders out.
    pub(super) async fn keep_running(
        self: Arc<Self>,
        mut orders: mpsc::UnboundedReceiver<Order>,
        mut rng: StdRng,
    ) {
        loop {
            let up = self.start(&mut orders).await;
            self.up.send_replace(Some(up.clone()));
            // Meant for the life before.
            while let Ok(late) = orders.try_recv() {
                self.world.note(&format!("too late to end: {late:?}"));
            }
            let order = orders.recv().await.expect("it lives as long as this");
            self.up.send_replace(None);
            self.end(up, order).await;
            let down = rng.random_range(0..DOWN_SECONDS_MAX);
            tokio::time::sleep(Duration::from_secs(down)).await;
        }
    }

    /// Starts the daemon, as often as it takes.
    async fn start(&self, orders: &mut mpsc::UnboundedReceiver<Order>) -> Up {
        for _ in 0..STARTS_MAX {
            let number = self.lives.fetch_add(1, Ordering::AcqRel) + 1;
            let life = Life::new(&self.world, number, MACHINE, 0);
            self.bait(&life);
            let opening = {
                let (world, life) = (Arc::clone(&self.world), life.clone());
                life.env()
                    .clone()
                    .spawn(async move { life.open(&world, false).await })
            };
            let why = match tokio::time::timeout(START_MAX, opening).await {
                Ok(Ok(Ok(datastore))) if !life.mortal.is_dead() => {
                    self.world.oracle.life_begins(number);
                    self.world.note(&format!("life {number}"));
                    return Up { life, datastore };
                }
                Ok(Ok(Err(error))) => error.to_string(),
                Ok(_) => "it was ended".to_owned(),
                Err(_) => {
                    self.violation("a start did not end");
                    "it takes too long".to_owned()
                }
            };
            self.world
                .note(&format!("life {number} does not start: {why}"));
            self.bury(&life).await;
            while let Ok(order) = orders.try_recv() {
                self.after(order);
            }
            tokio::time::sleep(Duration::from_mins(1)).await;
        }
        self.violation("the daemon does not start any more");
        std::future::pending().await
    }

    fn bait(&self, life: &Life) {
        TRAPS.with(|traps| {
            let lives = &mut traps.borrow_mut().lives;
            lives.retain(|(side, ..)| *side != self.name);
            lives.push((self.name, life.mortal.clone(), self.orders.clone()));
        });
    }

    async fn end(&self, up: Up, order: Order) {
        let Up { life, datastore } = up;
        self.world.note(&format!("ends: {order:?}"));
        if order == Order::Restart {
            let closing = life
                .env()
                .spawn(async move { datastore.close(STOP_MAX).await.is_ok_and(|clean| clean) });
            let clean = closing.await.is_ok_and(|clean| clean);
            self.world.note(&format!("stopped cleanly: {clean}"));
        } else {
            drop(datastore);
        }
        self.bury(&life).await;
        self.after(order);
    }

    /// The end of a process, after which its requests are counted.
    async fn bury(&self, life: &Life) {
        if !life.kill().await {
            self.violation("a task did not fall with its process");
        }
        self.counted().merge(&life.meter.snapshot());
    }

    /// What befalls the machine.
    fn after(&self, order: Order) {
        self.tally.count(match order {
            Order::Restart => "restarts",
            Order::PowerLoss => "power losses",
            Order::Crash | Order::LoseCache => "crashes",
        });
        match order {
            Order::PowerLoss => {
                let seed = self.world.scenario.seed ^ self.lives();
                self.world.disk.lose_power(seed);
            }
            Order::LoseCache => {
                let nothing = DirCopy::default();
                self.world.disk.put_back(&MACHINE.dir(), &nothing);
            }
            Order::Crash | Order::Restart => {}
        }
    }
}
