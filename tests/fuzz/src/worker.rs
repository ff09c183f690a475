//! A process that reads inputs and may die of them.
//!
//! It writes each input to a file before it reads it, with the number of those before, so that whoever started it knows
//! what killed it. Once it is warm its address space may grow by [`MEMORY_BYTES_MAX`] and no more (`prlimit`), so that a
//! large reservation ends it; an input that never ends is ended by a thread that watches.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::corpus;
use crate::judge::{Finding, MEMORY_BYTES_MAX, WALL_MAX, judge, warm_up};
use crate::mutate;
use crate::targets::Target;

/// Exit code of a process whose input never ended.
const ENDLESS: i32 = 86;
/// Exit code of a process that has found something and said so.
const FOUND: i32 = 87;

/// What a process is to do.
#[derive(Clone, Debug)]
pub struct Order {
    /// Whose inputs.
    pub target: &'static Target,
    /// This input and no other.
    pub only: Option<PathBuf>,
    /// The seed of new inputs.
    pub seed: u64,
    /// The number of the first new input.
    pub first: u64,
    /// How long new inputs are made; none at all for zero.
    pub time: Duration,
}

/// What a process has done.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Done {
    /// Kept inputs that it read.
    pub replayed: u64,
    /// New inputs that it read.
    pub made: u64,
    /// Seconds on the clock.
    pub seconds: f64,
    /// What it found, and then it ended.
    pub finding: Option<Finding>,
    /// The input that did it.
    #[serde(skip)]
    pub input: Vec<u8>,
}

#[expect(clippy::disallowed_methods, reason = "a worker's time is real time")]
fn now() -> Instant {
    Instant::now()
}

/// The file with the input that is being read.
struct Current {
    file: File,
    /// Milliseconds from the start to the input's beginning; 0 between inputs.
    began: Arc<AtomicU64>,
    start: Instant,
}

impl Current {
    fn new(path: &Path) -> Result<Self> {
        let current = Self {
            file: File::create(path)?,
            began: Arc::default(),
            start: now(),
        };
        let (began, start) = (Arc::clone(&current.began), current.start);
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(Duration::from_millis(500));
                let at = began.load(Ordering::Relaxed);
                let longest = u64::try_from(WALL_MAX.as_millis()).unwrap_or(u64::MAX);
                if at != 0 && (start.elapsed().as_millis() as u64).saturating_sub(at) > longest {
                    std::process::exit(ENDLESS);
                }
            }
        });
        Ok(current)
    }

    fn read(&self, target: &Target, number: u64, data: &[u8]) -> Result<Result<(), Finding>> {
        let mut record = number.to_le_bytes().to_vec();
        record.extend_from_slice(&(data.len() as u64).to_le_bytes());
        record.extend_from_slice(data);
        self.file.write_all_at(&record, 0)?;
        let at = self.start.elapsed().as_millis() as u64;
        self.began.store(at.max(1), Ordering::Relaxed);
        let judged = judge(target, data);
        self.began.store(0, Ordering::Relaxed);
        Ok(judged)
    }
}

/// Number and bytes of the input that was being read.
fn current(path: &Path) -> Option<(u64, Vec<u8>)> {
    let record = std::fs::read(path).ok()?;
    let number = |at: usize| Some(u64::from_le_bytes(*record[at..].first_chunk::<8>()?));
    let (count, length) = (number(0)?, number(8)?);
    let data = record.get(16..16 + usize::try_from(length).ok()?)?;
    Some((count, data.to_vec()))
}

/// Does what is ordered, in this process. `scratch` is the file for the current input; the result goes to standard output.
pub fn work(order: &Order, scratch: &Path) -> Result<i32> {
    let current = Current::new(scratch)?;
    warm_up(order.target);
    bound_memory()?;
    let start = now();
    let mut done = Done::default();
    let mut kept = Vec::new();
    let inputs = match &order.only {
        Some(path) => vec![(String::new(), std::fs::read(path)?)],
        None => corpus::inputs(&corpus::folder(order.target.name))?,
    };
    for (_, data) in inputs {
        done.finding = current.read(order.target, done.replayed, &data)?.err();
        done.replayed += 1;
        if done.finding.is_some() {
            break;
        }
        kept.push(data);
    }
    while done.finding.is_none() && start.elapsed() < order.time {
        let number = order.first + done.made;
        let data = mutate::input(order.target, &kept, order.seed, number);
        done.made += 1;
        done.finding = current
            .read(order.target, done.replayed + done.made, &data)?
            .err();
    }
    done.seconds = start.elapsed().as_secs_f64();
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, &done)?;
    out.flush()?;
    Ok(if done.finding.is_some() { FOUND } else { 0 })
}

/// Lets the addresses of this process grow by [`MEMORY_BYTES_MAX`] at most.
fn bound_memory() -> Result<()> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmSize:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB"));
    let kib: u64 = kib
        .context("/proc/self/status says nothing of memory")?
        .trim()
        .parse()?;
    let bytes = (kib << 10) + MEMORY_BYTES_MAX;
    let bounded = Command::new("prlimit")
        .args(["--pid", &std::process::id().to_string()])
        .arg(format!("--as={bytes}:{bytes}"))
        .status();
    let bounded = bounded.context("prlimit (util-linux) is needed to bound memory")?;
    anyhow::ensure!(
        bounded.success(),
        "the memory of a worker cannot be bounded"
    );
    Ok(())
}

/// Has an order done by a process of its own.
pub fn employ(order: &Order) -> Result<Done> {
    let start = now();
    let scratch = tempfile::NamedTempFile::new()?;
    let program = std::env::current_exe().context("where is this program?")?;
    let mut command = Command::new(program);
    command
        .args(["work", order.target.name])
        .arg(scratch.path())
        .args([
            "--seed",
            &order.seed.to_string(),
            "--first",
            &order.first.to_string(),
        ])
        .args(["--millis", &order.time.as_millis().to_string()])
        // One arena: each further one reserves 64 MiB of addresses.
        .env("MALLOC_ARENA_MAX", "1")
        .stdin(Stdio::null())
        .stderr(if std::env::var_os("HOSTILE_SHOW").is_some() {
            Stdio::inherit()
        } else {
            Stdio::piped()
        });
    if let Some(path) = &order.only {
        command.arg("--only").arg(path);
    }
    let output = command.output().context("cannot start a worker")?;
    let (at, input) = current(scratch.path()).unwrap_or_default();
    if let Ok(mut done) = serde_json::from_slice::<Done>(&output.stdout) {
        done.input = input;
        return Ok(done);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.trim();
    anyhow::ensure!(
        !input.is_empty() || at > 0,
        "a worker did not begin: {} {said}",
        output.status
    );
    let kept = corpus::inputs(&corpus::folder(order.target.name))?.len() as u64;
    let replayed = if order.only.is_some() {
        1
    } else {
        at.min(kept)
    };
    Ok(Done {
        replayed,
        made: at.saturating_sub(replayed),
        seconds: start.elapsed().as_secs_f64(),
        finding: Some(died(output.status, said)),
        input,
    })
}

fn died(status: ExitStatus, said: &str) -> Finding {
    let last = said.lines().last().unwrap_or_default();
    if status.code() == Some(ENDLESS) {
        return Finding {
            place: "endless".to_owned(),
            what: format!("it does not end within {} s", WALL_MAX.as_secs()),
        };
    }
    let how = match status.signal() {
        Some(signal) => format!("signal {signal}"),
        None => format!("{status}"),
    };
    Finding {
        place: format!("died of {how}"),
        what: format!("the process died of {how}: {last}"),
    }
}
