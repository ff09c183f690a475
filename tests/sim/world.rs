//! What outlives every life: the bucket, the disk, requests on their way, time, the oracle, and the history of a run.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pbs_datastore::files::ModelDisk;
use pbs_datastore::{BucketLayout, Env, Step};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use s3_client::{
    FaultPlan, FaultyStore, ModelOptions, ModelStore, ObjectStore, PAGE_KEYS_MAX, Support,
};
use sha2::{Digest as _, Sha256};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::content::Pool;
use crate::forced::Forced;
use crate::life::{Machine, Mortal};
use crate::line::Watched;
use crate::network::Service;
use crate::oracle::{Oracle, Truth};
use crate::scenario::{End, Kind, Scenario};

/// How long after the disk is well again what it did not take may be missing: several attempts, each of which may fail.
const CATCH_UP_MAX: Duration = Duration::from_mins(5);

/// What happened, in order: a digest of it, and the lines themselves if somebody wants to read them. Clones are the same
/// history.
#[derive(Clone)]
pub(crate) struct History {
    began: Instant,
    hash: Arc<Mutex<Sha256>>,
    print: bool,
    /// What its own lines begin with.
    label: &'static str,
}

impl History {
    pub(crate) fn new(print: bool) -> Self {
        Self {
            began: Instant::now(),
            hash: Arc::default(),
            print,
            label: "",
        }
    }

    /// The same, whose lines begin with `label`.
    pub(crate) fn labelled(&self, label: &'static str) -> Self {
        let history = self.clone();
        Self { label, ..history }
    }

    pub(crate) fn note(&self, what: &str) {
        let (time, label) = (self.began.elapsed().as_secs_f64(), self.label);
        let line = format!("{time:>9.3} {label}{what}\n");
        if self.print {
            eprint_line(&line);
        }
        self.hash
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .update(line.as_bytes());
    }

    pub(crate) fn digest(&self) -> String {
        let hash = self
            .hash
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        hex::encode(&hash.finalize()[..8])
    }
}

#[expect(
    clippy::print_stderr,
    reason = "the history is asked for on the command line"
)]
fn eprint_line(line: &str) {
    eprint!("{line}");
}

/// Counts of steps, and of the ends that came at them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Steps {
    pub(crate) passed: BTreeMap<Step, u64>,
    pub(crate) crashed: BTreeMap<Step, u64>,
    pub(crate) lost_power: BTreeMap<Step, u64>,
}

/// The end that waits at a step.
struct Trap {
    /// Where an earlier life ends first.
    prelude: Option<Step>,
    step: Step,
    left: u64,
    victim: Option<Mortal>,
}

/// How the daemon's disk has been.
#[derive(Clone, Copy, Debug)]
enum DiskTrouble {
    Never,
    Now,
    EndedAt(Instant),
}

/// How requests reach the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// By a call.
    Call,
    /// Through the AWS SDK, our connector and HTTP.
    Sdk,
}

/// The world of one run.
pub(crate) struct World {
    pub(crate) scenario: Scenario,
    pub(crate) model: Arc<ModelStore>,
    watched: Arc<dyn ObjectStore>,
    /// Where requests go that pass through the AWS SDK.
    service: Option<Service>,
    pub(crate) plan: FaultPlan,
    pub(crate) disk: ModelDisk,
    pub(crate) oracle: Arc<Oracle>,
    pub(crate) layout: BucketLayout,
    pub(crate) history: Arc<History>,
    pub(crate) pool: Pool,
    /// The actors are to end.
    pub(crate) stop: AtomicBool,
    pub(crate) stopped: Notify,
    /// A life ended at its trap.
    pub(crate) trapped: Notify,
    pub(crate) last_time: AtomicU64,
    disk_trouble: Mutex<DiskTrouble>,
}

thread_local! {
    static STEPS: RefCell<Steps> = RefCell::default();
    static TRAP: RefCell<Option<Trap>> = const { RefCell::new(None) };
}

impl World {
    pub(crate) fn new(scenario: Scenario, way: Way, print: bool) -> Arc<Self> {
        let mut rng = StdRng::seed_from_u64(scenario.seed ^ 0xc0de);
        let pool = Pool::new(&mut rng, scenario.chunks);
        Self::with(scenario, way, pool, History::new(print))
    }

    /// A world with these contents, whose lines go into this history.
    pub(crate) fn with(scenario: Scenario, way: Way, pool: Pool, history: History) -> Arc<Self> {
        let support = |works| {
            if works {
                Support::Works
            } else {
                Support::Ignored
            }
        };
        let model = Arc::new(ModelStore::new(ModelOptions {
            conditional_create: support(scenario.capabilities.conditional_create),
            conditional_overwrite: support(scenario.capabilities.conditional_overwrite),
            metadata: support(scenario.keeps_metadata),
            page_keys_max: match way {
                Way::Call => scenario.page_keys_max,
                // The server cuts what it gets into pages itself.
                Way::Sdk => PAGE_KEYS_MAX,
            },
            ..ModelOptions::default()
        }));
        let layout = BucketLayout::new(&"store".parse().expect("a valid prefix"));
        let disk = ModelDisk::new();
        let truth = match scenario.kind {
            Kind::Bucket => Truth::Bucket(Arc::clone(&model), layout.clone()),
            Kind::Directory(_) => Truth::Directory(disk.clone(), Machine(0).dir()),
        };
        let oracle = Arc::new(Oracle::new(truth, pool.clone()));
        let history = Arc::new(history);
        let watched = Watched::over(
            Arc::clone(&model),
            layout.clone(),
            Arc::clone(&oracle),
            Arc::clone(&history),
        );
        let plan = FaultPlan::random(scenario.seed ^ 0x5eed, scenario.odds);
        let service = (way == Way::Sdk).then(|| {
            let mut rng = StdRng::seed_from_u64(scenario.seed ^ 0x317e);
            let break_odds = [0.0, 0.1, 0.3][rng.random_range(0..3)];
            let faulty = FaultyStore::new(Arc::clone(&watched), plan.clone());
            Service::over(Arc::new(faulty), scenario.page_keys_max, rng, break_odds)
        });
        Arc::new(Self {
            history,
            scenario,
            model,
            watched,
            service,
            plan,
            disk,
            oracle,
            layout,
            pool,
            stop: AtomicBool::new(false),
            stopped: Notify::new(),
            trapped: Notify::new(),
            last_time: AtomicU64::new(0),
            disk_trouble: Mutex::new(DiskTrouble::Never),
        })
    }

    /// A new process's way to the server.
    pub(crate) async fn client(&self, env: &Env) -> Arc<dyn ObjectStore> {
        if let Some(service) = &self.service {
            let client = service.client(env).await;
            return Arc::new(client.expect("a configuration that is valid"));
        }
        let watched = Arc::clone(&self.watched);
        Arc::new(FaultyStore::new(watched, self.plan.clone()))
    }

    /// Nothing goes wrong any more.
    pub(crate) fn calm(&self) {
        self.plan.calm();
        if let Some(service) = &self.service {
            service.calm();
        }
    }

    /// The disk gets full or fails, or no longer does.
    pub(crate) fn disk_fails(&self, fails: bool) {
        let mut trouble = self
            .disk_trouble
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *trouble = match (fails, *trouble) {
            (true, _) => DiskTrouble::Now,
            (false, DiskTrouble::Now) => DiskTrouble::EndedAt(Instant::now()),
            (false, trouble) => trouble,
        };
    }

    /// Whether copies that could not be written may still be missing.
    pub(crate) fn disk_failed_lately(&self) -> bool {
        let trouble = self
            .disk_trouble
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match *trouble {
            DiskTrouble::Never => false,
            DiskTrouble::Now => true,
            DiskTrouble::EndedAt(end) => end.elapsed() < CATCH_UP_MAX,
        }
    }

    /// A source of chance for an actor, different for each.
    pub(crate) fn rng(&self, actor: u64) -> StdRng {
        StdRng::seed_from_u64(self.scenario.seed.wrapping_mul(7919).wrapping_add(actor))
    }

    pub(crate) fn note(&self, what: &str) {
        self.history.note(what);
    }

    /// A backup time that nobody had before.
    pub(crate) fn next_time(&self) -> i64 {
        let now = self.model.now().as_second() as u64;
        let last = self
            .last_time
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |last| {
                Some(now.max(last + 1))
            })
            .expect("there is always a next one");
        now.max(last + 1) as i64
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Waits until the actors are to end.
    pub(crate) async fn wait_stopping(&self) {
        let stopped = self.stopped.notified();
        if !self.is_stopping() {
            stopped.await;
        }
    }

    /// Waits for up to `longest`, or until the actors are to end.
    pub(crate) async fn think(&self, rng: &mut StdRng, longest: std::time::Duration) {
        let millis = rng.random_range(0..=longest.as_millis() as u64);
        let stopped = self.stopped.notified();
        if self.is_stopping() {
            return;
        }
        let _ = tokio::time::timeout(std::time::Duration::from_millis(millis), stopped).await;
    }

    /// Begins to count steps on this thread, and sets the trap of the scenario.
    pub(crate) fn watch_steps(self: &Arc<Self>) {
        STEPS.with(|steps| *steps.borrow_mut() = Steps::default());
        TRAP.with(|trap| {
            *trap.borrow_mut() = match &self.scenario.forced {
                Some(forced @ Forced::AtStep { step, nth, .. }) => Some(Trap {
                    prelude: forced.prelude(),
                    step: *step,
                    // A start has one recovery, and removes once what was not sealed.
                    left: if forced.prelude().is_some() { 1 } else { *nth },
                    victim: None,
                }),
                _ => None,
            };
        });
        let world = Rc::new(Arc::downgrade(self));
        pbs_datastore::watch_steps(move |step| {
            if let Some(world) = world.upgrade() {
                world.passed(step);
            }
        });
    }

    /// The trap closes on this life.
    pub(crate) fn bait(victim: &Mortal) {
        TRAP.with(|trap| {
            if let Some(trap) = &mut *trap.borrow_mut() {
                trap.victim = Some(victim.clone());
            }
        });
    }

    fn passed(&self, step: Step) {
        STEPS.with(|steps| *steps.borrow_mut().passed.entry(step).or_insert(0) += 1);
        let victim = TRAP.with(|trap| {
            let mut trap = trap.borrow_mut();
            let armed = trap.as_mut()?;
            let due = armed.prelude.unwrap_or(armed.step);
            if due != step || armed.victim.as_ref().is_none_or(Mortal::is_dead) {
                return None;
            }
            if armed.prelude.take().is_some() {
                return armed.victim.take();
            }
            armed.left = armed.left.saturating_sub(1);
            if armed.left > 0 {
                return None;
            }
            trap.take()?.victim
        });
        let Some(victim) = victim else {
            return;
        };
        victim.kill();
        self.note(&format!("the daemon ends at {step:?}"));
        let power = matches!(
            self.scenario.forced,
            Some(Forced::AtStep {
                end: End::PowerLoss,
                ..
            })
        );
        STEPS.with(|steps| {
            let mut steps = steps.borrow_mut();
            let ends = if power {
                &mut steps.lost_power
            } else {
                &mut steps.crashed
            };
            *ends.entry(step).or_insert(0) += 1;
        });
        self.trapped.notify_one();
    }

    /// The counts of this thread's run.
    pub(crate) fn steps() -> Steps {
        STEPS.with(|steps| steps.borrow().clone())
    }

    /// Takes the trap away.
    pub(crate) fn disarm() {
        TRAP.with(|trap| *trap.borrow_mut() = None);
    }

    /// Whether the end that is forced is a loss of power.
    pub(crate) fn counts_power_loss(&self) -> bool {
        matches!(
            self.scenario.forced,
            Some(Forced::AtStep {
                end: End::PowerLoss,
                ..
            })
        )
    }
}
