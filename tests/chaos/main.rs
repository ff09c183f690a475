//! `cargo chaos`: the real daemon in bad company, for as long as one likes, and nothing that was acknowledged is lost.
//!
//! Sixteen clients back up, restore and compare; garbage is collected in a loop with the smallest cutoff and snapshots are
//! forgotten beside it; a proxy delays, cuts, throttles, duplicates and half-delivers what the daemon asks of its S3
//! server; and the daemon is killed every few seconds. An oracle keeps what each client was told, an auditor looks into the
//! bucket all the time, a second datastore is kept as a copy of the first, and at the end all that was acknowledged is restored from both and compared.
//!
//! Faults, content and the clients' choices come from the seed. When a request arrives, a disk is slow or a process is
//! killed does not: two runs of a seed are alike, not equal.
//!
//! The exit code is 0 if nothing was violated, 1 if something was, 124 if the run did not end in time.

mod audit;
mod backup;
mod clients;
mod collector;
mod commands;
mod content;
mod finale;
mod gate;
mod ledger;
mod menace;
mod outcome;
mod proxy;
mod restore;
mod second;
mod sentences;
mod site;
mod tally;
mod watch;
mod weather;
mod world;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Parser as _;
use holdfast_tests::binary::{self, Profile};
use holdfast_tests::checkout;
use holdfast_tests::process::say;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use self::backup::{Backup, Mood};
use self::content::Pool;
use self::menace::Menace;
use self::outcome::Outcome;
use self::site::Site;
use self::tally::Violation;
use self::watch::Watch;
use self::world::World;

/// What the end takes of the time, about.
const FINALE: Duration = Duration::from_secs(35);
/// The shortest time between beginning and end.
const CHAOS_MIN: Duration = Duration::from_secs(20);
/// More than this beyond its time, and the run is broken off.
const OVERTIME_MAX: Duration = Duration::from_mins(8);
/// How long the actors may take to end.
const ACTORS_TIME_MAX: Duration = Duration::from_mins(4);
/// How many forget snapshots.
const FORGETTERS: u64 = 4;
/// One client in four is the real command.
const COMMANDS_PART: u64 = 4;

/// The real daemon under faults, kills and many clients; nothing that was acknowledged may be lost.
#[derive(Debug, clap::Parser)]
#[command(name = "chaos", max_term_width = 100)]
struct Args {
    /// How long all of it takes, about, with the check at the end.
    #[arg(long, default_value_t = 4.0)]
    minutes: f64,
    /// Decides faults, content and what clients do; drawn from the clock if not given.
    #[arg(long)]
    seed: Option<u64>,
    /// Clients at once.
    #[arg(long, default_value_t = 16)]
    clients: u64,
    /// MiB that lie in the cache, so that it is full and always evicts.
    #[arg(long, default_value_t = 230, value_name = "MIB")]
    ballast: u64,
    /// Go on to the end of the time when something was violated.
    #[arg(long)]
    go_on: bool,
    /// Use an optimised daemon.
    #[arg(long)]
    release: bool,
    /// Use this program instead of building one.
    #[arg(long, value_name = "PATH", conflicts_with = "release")]
    holdfast: Option<PathBuf>,
    /// Run without one safety rule of pbs-datastore/src/sabotage.rs, to see that its absence is found.
    #[arg(long, value_name = "RULE", conflicts_with = "release")]
    sabotage: Option<String>,
}

impl Args {
    /// Which program is put under stress.
    fn choose_program(&self) -> Result<()> {
        if let Some(rule) = &self.sabotage {
            binary::turn_off(rule)?;
        }
        let program = match &self.holdfast {
            Some(path) => path.clone(),
            None => binary::build(Profile::of(self.release))?,
        };
        binary::use_program(&program)
    }
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let time = Duration::from_secs_f64(args.minutes * 60.0);
    let began = Instant::now();
    std::thread::spawn(move || {
        std::thread::sleep(time + OVERTIME_MAX);
        say("the run does not end");
        std::process::exit(124);
    });
    args.choose_program()?;
    let clock = s3_client::wall_clock();
    let seed = args.seed.unwrap_or(clock().as_second() as u64);
    say(&format!(
        "chaos: seed {seed}, {} minutes; again with: cargo chaos --minutes {} --seed {seed}",
        args.minutes, args.minutes
    ));
    let evidence = checkout::target_dir()?.join(format!("chaos/seed-{seed}"));
    std::fs::create_dir_all(&evidence)
        .with_context(|| format!("cannot make '{}'", evidence.display()))?;
    let world = Arc::new(World::new(seed, Site::start(seed)?)?);
    let warnings = go(&args, &world, &evidence, began + time)?;
    let outcome = Outcome::new(&world, warnings, evidence, began.elapsed());
    outcome.print()
}

/// Runs everything. Returns what the daemon's log warned of.
fn go(
    args: &Args,
    world: &Arc<World>,
    evidence: &Path,
    until: Instant,
) -> Result<BTreeMap<String, u64>> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let over = AtomicBool::new(false);
    let watch = Watch::new(world, evidence)?;
    let result = std::thread::scope(|scope| {
        let watching = scope.spawn(|| watch.run(|| over.load(Ordering::Acquire)));
        let done = act(args, world, &runtime, until);
        over.store(true, Ordering::Release);
        watching.thread().unpark();
        let watched = watching.join();
        done?;
        watched.map_err(|_| anyhow::anyhow!("the watch has panicked"))?
    });
    runtime.shutdown_timeout(Duration::from_secs(5));
    result
}

/// Beginning, chaos, end.
fn act(args: &Args, world: &Arc<World>, runtime: &Runtime, until: Instant) -> Result<()> {
    runtime.block_on(ballast(world, args.ballast))?;
    world.tally.progress();
    world.site.weather.set_calm(false);
    say(&format!("{:.0} s: chaos", world.tally.seconds()));
    let chaos_until = (until - FINALE).max(Instant::now() + CHAOS_MIN);
    std::thread::scope(|scope| {
        let menace = scope.spawn(|| Menace::new(world).run());
        let ended = runtime.block_on(actors(args, world, chaos_until));
        world.stop();
        let menaced = menace.join();
        ended?;
        menaced.map_err(|_| anyhow::anyhow!("the menace has panicked"))
    })?;
    say(&format!("{:.0} s: the end", world.tally.seconds()));
    runtime.block_on(finale::finale(world))
}

/// Fills the cache with a snapshot that stays.
async fn ballast(world: &Arc<World>, pieces: u64) -> Result<()> {
    let known = world
        .ledger
        .begin_ballast(Pool::ballast(pieces), world.seconds())?;
    let backup = Backup {
        pool: &world.pool,
        ledger: &world.ledger,
        gate: &world.gate,
        tally: &world.tally,
        known: &known,
        mood: Mood::default(),
    };
    let done = backup.run(&world.entrance().await).await;
    done.map_err(|trouble| anyhow::anyhow!("the first backup failed: {trouble:?}"))?;
    world.tally.count("acknowledged");
    Ok(())
}

/// All actors, until their time is over or something was violated.
async fn actors(args: &Args, world: &Arc<World>, until: Instant) -> Result<()> {
    let mut actors = JoinSet::new();
    for number in 0..args.clients {
        let world = Arc::clone(world);
        if number % COMMANDS_PART == COMMANDS_PART - 1 {
            actors.spawn(commands::be_command(world, number));
        } else {
            actors.spawn(clients::be_client(world, number));
        }
    }
    actors.spawn(collector::collect_without_end(Arc::clone(world)));
    for number in 0..FORGETTERS {
        actors.spawn(collector::forget_without_end(Arc::clone(world), number));
    }
    actors.spawn(second::copy_without_end(Arc::clone(world)));
    actors.spawn(audit::audit_without_end(Arc::clone(world)));
    actors.spawn(watch::gauge(Arc::clone(world)));
    let mut told = Instant::now();
    let goes_on = || args.go_on || !world.tally.is_violated();
    while Instant::now() < until && !world.is_stopped() && goes_on() {
        world.pause(Duration::from_millis(200)).await;
        if told.elapsed() > Duration::from_secs(30) {
            told = Instant::now();
            say(&Outcome::line(world));
        }
    }
    world.stop();
    let all = async {
        while let Some(ended) = actors.join_next().await {
            ended.context("an actor has panicked")?;
        }
        Ok(())
    };
    if let Ok(ended) = timeout(ACTORS_TIME_MAX, all).await {
        return ended;
    }
    let text = "clients do not end";
    world.tally.violation(Violation::Hang, text);
    Ok(())
}
