//! `cargo hostile`: replays the kept inputs, makes more, keeps what breaks something.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Parser, Subcommand};
use holdfast_fuzz::report::{Row, print, say};
use holdfast_fuzz::targets::{ALL, PROOF, Target, find};
use holdfast_fuzz::worker::{Order, employ, work};
use holdfast_fuzz::{corpus, libfuzzer_run, minimise, seeds};

/// Processes at once.
const WORKERS: usize = 2;
/// Findings of one target after which no more are looked for.
const FINDINGS_MAX: usize = 3;

/// Hostile input for every parser and endpoint.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Read every kept input once.
    Replay { targets: Vec<String> },
    /// Read every kept input, then make new ones for a time.
    Run {
        /// How long in all, in seconds.
        #[arg(long, default_value_t = 180)]
        seconds: u64,
        /// Makes the run the same again, as far as it gets; drawn if not given.
        #[arg(long)]
        seed: Option<u64>,
        targets: Vec<String>,
    },
    /// Let libFuzzer look for code that no input has reached, and keep the inputs that reach it.
    Long(libfuzzer_run::LongArgs),
    /// Read one input, in a process of its own.
    Try { target: String, file: PathBuf },
    /// Show that every kind of fault is found, by targets that are at fault.
    Prove,
    /// Write the inputs that are made by our own encoders and by hand.
    Seeds,
    /// The targets.
    List,
    #[command(hide = true)]
    Work(WorkArgs),
}

#[derive(Debug, Args)]
struct WorkArgs {
    target: String,
    scratch: PathBuf,
    #[arg(long)]
    seed: u64,
    #[arg(long)]
    first: u64,
    #[arg(long)]
    millis: u64,
    #[arg(long)]
    only: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Replay { targets } => campaign(&chosen(&targets)?, 0, Duration::ZERO),
        Command::Run {
            seconds,
            seed,
            targets,
        } => {
            let seed = seed.unwrap_or_else(drawn);
            say(&format!("seed {seed}"));
            campaign(&chosen(&targets)?, seed, Duration::from_secs(seconds))
        }
        Command::Long(args) => libfuzzer_run::long(&args),
        Command::Try { target, file } => try_one(find(&target)?, &file),
        Command::Prove => prove(),
        Command::Seeds => {
            for (target, count, bytes) in seeds::write_all()? {
                say(&format!("{target:<16}{count:>5} inputs{bytes:>9} bytes"));
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::List => {
            for target in ALL {
                say(&format!("{:<16}{}", target.name, target.what));
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Work(args) => {
            let order = Order {
                target: find(&args.target)?,
                only: args.only,
                seed: args.seed,
                first: args.first,
                time: Duration::from_millis(args.millis),
            };
            let code = work(&order, &args.scratch)?;
            // Whatever still runs of what was read ends here.
            std::process::exit(code)
        }
    }
}

fn chosen(names: &[String]) -> Result<Vec<&'static Target>> {
    if names.is_empty() {
        return Ok(ALL.iter().collect());
    }
    names.iter().map(|name| find(name)).collect()
}

/// A seed nobody chose.
fn drawn() -> u64 {
    #[expect(
        clippy::disallowed_methods,
        reason = "a fresh seed for every run is wanted"
    )]
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(1, |now| now.as_nanos() as u64 % 1_000_000_000)
}

/// Reads the kept inputs of all targets, and then new ones until `time` is up.
fn campaign(targets: &[&'static Target], seed: u64, time: Duration) -> Result<ExitCode> {
    #[expect(clippy::disallowed_methods, reason = "the bound is on real time")]
    let start = Instant::now();
    let waiting: Mutex<VecDeque<&'static Target>> = Mutex::new(targets.iter().copied().collect());
    let rows = Mutex::new(Vec::new());
    let failed = Mutex::new(None);
    // What is spent on findings comes on top.
    let parts: u32 = targets.iter().map(|target| target.part).sum();
    let part = time * WORKERS as u32 / parts.max(1);
    let turn = || {
        loop {
            let next = waiting
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop_front();
            let Some(target) = next else { return };
            match one(target, seed, (part * target.part).min(time)) {
                Ok(row) => rows
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(row),
                Err(error) => {
                    *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    return;
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(turn);
        }
    });
    if let Some(error) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    let mut rows = rows.into_inner().unwrap_or_else(PoisonError::into_inner);
    rows.sort_by_key(|row: &Row| targets.iter().position(|target| target.name == row.target));
    print(&rows);
    say(&format!(
        "{:.0} s on the clock",
        start.elapsed().as_secs_f64()
    ));
    Ok(if rows.iter().all(|row| row.findings.is_empty()) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// All for one target.
fn one(target: &'static Target, seed: u64, time: Duration) -> Result<Row> {
    let mut row = Row {
        target: target.name,
        ..Row::default()
    };
    let (mut left, mut first) = (time, 0);
    loop {
        let order = Order {
            target,
            only: None,
            seed,
            first,
            time: left,
        };
        let done = employ(&order)?;
        row.replayed = row.replayed.max(done.replayed);
        row.made += done.made;
        row.seconds += done.seconds;
        first += done.made;
        left = left.saturating_sub(Duration::from_secs_f64(done.seconds));
        let Some(finding) = done.finding else {
            return Ok(row);
        };
        if row
            .findings
            .iter()
            .all(|known| known.place != finding.place)
        {
            tell(target, &finding.place, &finding.what, &done.input)?;
            row.findings.push(finding);
        }
        // A kept input that breaks something stands in the way of all others.
        if done.made == 0 || left.is_zero() || row.findings.len() >= FINDINGS_MAX {
            return Ok(row);
        }
    }
}

/// Cuts a finding down, keeps it, and says so.
fn tell(target: &'static Target, place: &str, what: &str, input: &[u8]) -> Result<()> {
    let what: String = what.chars().take(600).collect();
    say(&format!("\nFOUND {}: {place}: {what}", target.name));
    let small = minimise::minimise(target, input, place)?;
    if small.is_none() {
        say(
            "  (this input alone does not do it: it needs those before it; the run's seed repeats them)",
        );
    }
    let small = small.unwrap_or_else(|| input.to_vec());
    let path = corpus::keep_finding(target.name, &small)?;
    say(&format!(
        "  {} bytes of {}; to see it again:\n  cargo hostile try {} {}\n",
        small.len(),
        input.len(),
        target.name,
        path.display()
    ));
    Ok(())
}

/// Lets each proof do what it does and expects it to be found out.
fn prove() -> Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for (target, place) in PROOF {
        let found = minimise::alone(target, b"x")?;
        let right = found
            .as_ref()
            .is_some_and(|found| found.place.contains(place));
        let what = found.map_or_else(|| "nothing".to_owned(), |found| found.place);
        say(&format!(
            "{:<16}{:<10}{what}",
            target.name,
            if right { "found" } else { "MISSED" }
        ));
        if !right || minimise::alone(target, b"")?.is_some() {
            code = ExitCode::FAILURE;
        }
    }
    Ok(code)
}

fn try_one(target: &'static Target, file: &Path) -> Result<ExitCode> {
    let data = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    if data.len() > target.bytes_max * 4 {
        bail!("that is no input of {}: it is too long", target.name);
    }
    match minimise::alone(target, &data)? {
        None => {
            say("nothing happens");
            Ok(ExitCode::SUCCESS)
        }
        Some(finding) => {
            say(&format!("{}: {}", finding.place, finding.what));
            Ok(ExitCode::FAILURE)
        }
    }
}
