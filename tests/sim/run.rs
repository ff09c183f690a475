//! One run: lives one after the other, and what is left when everything is quiet.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use pbs_datastore::files::{DirCopy, FaultyFiles};
use pbs_datastore::{Datastore, Error};
use rand::RngExt as _;
use s3_client::{Action, Fault, FaultId, Op};

use crate::client::{Client, kind_of};
use crate::forced::{Forced, Object};
use crate::life::{Life, Machine};
use crate::operator::Operator;
use crate::quiet;
use crate::reader::Reader;
use crate::scenario::{Between, End, Kind, LATE, LifePlan, Scenario};
use crate::world::{Steps, Way, World};

/// How long actors may take to end once they are asked to: every wait of the daemon is bounded.
const ACTORS_END_MAX: Duration = Duration::from_hours(6);

/// How long a start may take.
const START_MAX: Duration = Duration::from_hours(1);

/// How long a stop may take.
const STOP_MAX: Duration = Duration::from_mins(5);

/// Starts of a daemon that is refused, or whose server does not answer.
const STARTS_MAX: usize = 40;

/// What came of a run.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) violations: Vec<String>,
    pub(crate) history: String,
    pub(crate) steps: Steps,
    pub(crate) injected: BTreeMap<(Op, &'static str), u64>,
    pub(crate) forced: Option<(Forced, bool)>,
    pub(crate) checks: u64,
    pub(crate) lives: u64,
}

/// Runs what `seed` stands for, on this thread, under a clock of its own.
pub(crate) fn run(seed: u64, way: Way, print: bool) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O needs nothing from the system");
    runtime.block_on(async {
        let mut run = Run::new(Scenario::of(seed), way, print);
        run.live().await;
        run.outcome()
    })
}

struct Run {
    world: Arc<World>,
    lives: u64,
    machine: Machine,
    old_copy: DirCopy,
    take_over: bool,
    clock_jump: i64,
    forced_file: Option<Arc<FaultyFiles>>,
    forced_rule: Option<FaultId>,
    forced_request: bool,
    zombie: Option<Life>,
}

/// How a life came to its end.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    InTime,
    Trapped,
    /// With a request on its way.
    CutOff,
}

impl Run {
    fn new(scenario: Scenario, way: Way, print: bool) -> Self {
        let world = World::new(scenario, way, print);
        world.watch_steps();
        world.note(&format!("{:?}", world.scenario));
        let forced = world.scenario.forced.as_ref();
        let forced_rule = forced
            .and_then(Forced::store_fault)
            .map(|fault| world.plan.add(fault));
        if let Some((first, reads)) = world.scenario.bad_line {
            let chunk = |key: &str| Object::Chunk.matches(key);
            let wrong = Fault::on(Op::Get).key_where(chunk);
            let wrong = wrong.skip(first).times(reads);
            world.plan.add(wrong.then(Action::Garble));
        }
        Self {
            world,
            lives: 0,
            machine: Machine(0),
            old_copy: DirCopy::default(),
            take_over: false,
            clock_jump: 0,
            forced_file: None,
            forced_rule,
            forced_request: false,
            zombie: None,
        }
    }

    async fn live(&mut self) {
        let world = Arc::clone(&self.world);
        let plan = world.plan.clone();
        let quiet = async {
            for plan in world.scenario.lives.clone() {
                self.one_life(&plan).await;
                if !world.oracle.violations().is_empty() {
                    return;
                }
            }
            self.clock_jump = 0;
            World::disarm();
            match self.start_quietly().await {
                Some((life, datastore)) => quiet::check(&world, life, datastore).await,
                None => world
                    .oracle
                    .violation("nothing starts when all is quiet".to_owned()),
            }
        };
        tokio::select! {
            biased;
            () = plan.run_late() => {}
            () = quiet => {}
        }
    }

    /// The last life, in which nothing goes wrong any more.
    async fn start_quietly(&mut self) -> Option<(Life, Arc<Datastore>)> {
        self.bury().await;
        self.world.note("all is quiet");
        if let (Some(rule), Some(Forced::Request { nth, .. })) =
            (self.forced_rule, &self.world.scenario.forced)
        {
            self.forced_request = self.world.plan.matched(rule) >= *nth;
        }
        self.world.calm();
        if !self.world.scenario.capabilities.conditional_overwrite {
            // A late write of the record of an earlier start takes the prefix from the next one, until it is restarted.
            tokio::time::sleep(LATE).await;
        }
        self.start().await
    }

    /// The machine that was cut off ends, and whoever filled a disk with it.
    async fn bury(&mut self) {
        if let Some(zombie) = self.zombie.take() {
            zombie.kill().await;
            self.world.disk.set_limits(None, None);
        }
    }

    /// A new process on the current machine.
    fn next_life(&mut self) -> Life {
        self.lives += 1;
        let life = Life::new(&self.world, self.lives, self.machine, self.clock_jump);
        World::bait(&life.mortal);
        let forced = self.world.scenario.forced.as_ref();
        if let Some(fault) = forced.and_then(Forced::file_fault)
            && self.lives == 1
        {
            life.faulty_files.add(fault);
            self.forced_file = Some(Arc::clone(&life.faulty_files));
        }
        life
    }

    /// Starts the daemon, as often as it takes; `None` if it ended at its trap.
    async fn start(&mut self) -> Option<(Life, Arc<Datastore>)> {
        for attempt in 0..STARTS_MAX {
            if attempt == STARTS_MAX / 4 {
                // It may be what keeps the disk full.
                self.bury().await;
            }
            let life = self.next_life();
            let opening = {
                let (world, life, take_over) =
                    (Arc::clone(&self.world), life.clone(), self.take_over);
                life.env()
                    .clone()
                    .spawn(async move { life.open(&world, take_over).await })
            };
            let opened = tokio::select! {
                biased;
                () = self.world.trapped.notified() => None,
                opened = tokio::time::timeout(START_MAX, opening) => Some(opened),
            };
            match opened {
                Some(Ok(Ok(Ok(datastore)))) => {
                    self.take_over = false;
                    self.world.disk_fails(false);
                    self.world.oracle.life_begins(self.lives);
                    self.world.note(&format!(
                        "life {} on machine {}",
                        self.lives, self.machine.0
                    ));
                    return Some((life, datastore));
                }
                Some(Ok(Ok(Err(error)))) => {
                    let overwritable = !self.world.scenario.capabilities.conditional_overwrite;
                    if overwritable && matches!(error, Error::NotOwner(_)) {
                        // A late write of the one before: the operator takes the prefix over once more.
                        self.take_over = true;
                    }
                    self.world
                        .note(&format!("life {} does not start: {error}", self.lives));
                }
                Some(Err(_)) => self
                    .world
                    .oracle
                    .violation("a start did not end".to_owned()),
                Some(Ok(Err(_))) | None => {
                    life.kill().await;
                    self.lose_power_if_forced();
                    return None;
                }
            }
            life.kill().await;
            tokio::time::sleep(Duration::from_mins(1)).await;
            // The disks of two machines are one here, and that of the one that was cut off may be full.
            self.world.disk.set_limits(None, None);
        }
        self.world
            .oracle
            .violation("the daemon does not start any more".to_owned());
        None
    }

    fn lose_power_if_forced(&self) {
        if self.world.counts_power_loss() {
            self.lose_power();
        }
    }

    fn lose_power(&self) {
        self.world.note("the power fails");
        self.world
            .disk
            .lose_power(self.world.scenario.seed ^ self.lives);
    }

    async fn one_life(&mut self, plan: &LifePlan) {
        let Some((life, datastore)) = self.start().await else {
            return;
        };
        self.world.stop.store(false, Ordering::Release);
        let actors = self.actors(&life, &datastore);
        let world = Arc::clone(&self.world);
        let ended = tokio::select! {
            biased;
            () = world.trapped.notified() => Ended::Trapped,
            () = Self::cut_off(Arc::clone(&world), self.forced_rule) => Ended::CutOff,
            () = self.pass(plan.time) => Ended::InTime,
        };
        let at_once = ended == Ended::CutOff;
        self.end_life(plan, ended, life, datastore, actors).await;
        self.between(plan, at_once).await;
    }

    /// Lets time pass; in the middle of it a copy of the cache directory is made, and a zombie of the last life ends when
    /// its successor may work already.
    async fn pass(&mut self, time: Duration) {
        tokio::time::sleep(time / 3).await;
        self.old_copy = self.world.disk.copy_of(&self.machine.dir());
        tokio::time::sleep(time / 2).await;
        self.bury().await;
        tokio::time::sleep(time / 6).await;
    }

    /// Ends with the first request that is forced to dally: its life ends before the answer, and it may arrive in the next.
    async fn cut_off(world: Arc<World>, rule: Option<FaultId>) {
        let (Some(rule), Some(Forced::Request { nth, fault, .. })) = (rule, &world.scenario.forced)
        else {
            return std::future::pending().await;
        };
        if *fault != "delay" || world.plan.matched(rule) >= *nth {
            return std::future::pending().await;
        }
        while world.plan.matched(rule) < *nth {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        world.note("a request is on its way");
    }

    async fn end_life(
        &mut self,
        plan: &LifePlan,
        mut ended: Ended,
        life: Life,
        datastore: Arc<Datastore>,
        actors: Vec<tokio::task::JoinHandle<()>>,
    ) {
        self.bury().await;
        let world = Arc::clone(&self.world);
        if ended == Ended::InTime && plan.end == End::Stop {
            ended = self.stop(&life, datastore, actors).await;
        } else if ended == Ended::InTime && plan.after == (Between::TakeOver { zombie: true }) {
            world.note("the machine is cut off from its operator and goes on");
            self.zombie = Some(life);
            return;
        } else {
            drop(datastore);
            world.note("the process dies");
        }
        if !life.kill().await {
            world
                .oracle
                .violation("a task did not fall with its process".to_owned());
        }
        match (&ended, plan.end) {
            (Ended::Trapped, _) => self.lose_power_if_forced(),
            (Ended::InTime, End::PowerLoss) => self.lose_power(),
            _ => {}
        }
    }

    /// Everybody comes to an end, and the daemon is told to stop; which has steps too.
    async fn stop(
        &self,
        life: &Life,
        datastore: Arc<Datastore>,
        actors: Vec<tokio::task::JoinHandle<()>>,
    ) -> Ended {
        let world = &self.world;
        world.stop.store(true, Ordering::Release);
        world.stopped.notify_waiters();
        let all = async {
            for actor in actors {
                actor.await.ok();
            }
        };
        let done = tokio::select! {
            biased;
            () = world.trapped.notified() => return Ended::Trapped,
            done = tokio::time::timeout(ACTORS_END_MAX, all) => done.is_ok(),
        };
        if !done {
            world.oracle.violation("somebody waits for ever".to_owned());
        }
        let closing = life
            .env()
            .spawn(async move { datastore.close(STOP_MAX).await });
        let closed = tokio::select! {
            biased;
            () = world.trapped.notified() => return Ended::Trapped,
            closed = closing => closed,
        };
        let closed = closed.map(|closed| closed.map_err(|error| kind_of(&error)));
        world.note(&format!("stop: {closed:?}"));
        Ended::InTime
    }

    async fn between(&mut self, plan: &LifePlan, at_once: bool) {
        // Whoever filled the disk is gone.
        self.world.disk.set_limits(None, None);
        self.clock_jump += plan.clock_jump;
        match plan.after {
            Between::Lost => self
                .world
                .disk
                .put_back(&self.machine.dir(), &DirCopy::default()),
            Between::OldCopy => self
                .world
                .disk
                .put_back(&self.machine.dir(), &self.old_copy),
            Between::TakeOver { .. } if self.world.scenario.kind == Kind::Bucket => {
                self.machine = Machine(self.machine.0 + 1);
                self.take_over = true;
            }
            Between::Nothing | Between::TakeOver { .. } => {}
        }
        if plan.after != Between::Nothing {
            self.world.note(&format!("between: {:?}", plan.after));
        }
        let pause = self.world.rng(900 + self.lives).random_range(0..180);
        let pause = if at_once { pause / 20 } else { pause };
        tokio::time::sleep(Duration::from_secs(pause)).await;
    }

    fn actors(&self, life: &Life, datastore: &Arc<Datastore>) -> Vec<tokio::task::JoinHandle<()>> {
        let (world, scenario) = (&self.world, &self.world.scenario);
        let mut actors = Vec::new();
        let rng = |actor: u64| world.rng(self.lives * 100 + actor);
        for number in 0..scenario.clients as u64 {
            let client = Client {
                world: Arc::clone(world),
                life: life.clone(),
                datastore: Arc::clone(datastore),
                number,
                rng: rng(number),
            };
            actors.push(life.env().spawn(client.run()));
        }
        for number in 0..scenario.readers as u64 {
            let reader = Reader {
                world: Arc::clone(world),
                datastore: Arc::clone(datastore),
                number,
                rng: rng(20 + number),
            };
            actors.push(life.env().spawn(reader.run()));
        }
        let operator = |actor| Operator {
            world: Arc::clone(world),
            life: life.clone(),
            datastore: Arc::clone(datastore),
            rng: rng(actor),
        };
        actors.push(life.env().spawn(operator(40).collect()));
        actors.push(life.env().spawn(operator(41).delete()));
        if scenario.rot {
            actors.push(life.env().spawn(operator(42).rot()));
        }
        if scenario.disk_faults {
            actors.push(life.env().spawn(operator(43).disk()));
        }
        if scenario.copier {
            actors.push(life.env().spawn(operator(44).copy()));
        }
        actors
    }

    fn outcome(&self) -> Outcome {
        let steps = World::steps();
        let forced = self.world.scenario.forced.clone().map(|forced| {
            let happened = match &forced {
                Forced::AtStep { step, .. } => {
                    steps.crashed.contains_key(step) || steps.lost_power.contains_key(step)
                }
                Forced::Request { .. } => self.forced_request,
                Forced::File { .. } => self
                    .forced_file
                    .as_ref()
                    .is_some_and(|files| files.injected() > 0),
            };
            (forced, happened)
        });
        Outcome {
            violations: self.world.oracle.violations(),
            history: self.world.history.digest(),
            injected: self.world.plan.injected(),
            checks: self.world.oracle.checks(),
            lives: self.lives,
            steps,
            forced,
        }
    }
}
