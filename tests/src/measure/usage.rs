//! What processes and directories take, as the kernel tells it.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::process::wait_for;

/// Bytes of a block in `stat`.
const BLOCK_BYTES: u64 = 512;

/// Time of all processors since the start of the machine, in ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuTime {
    idle: u64,
    all: u64,
}

impl CpuTime {
    /// Until now.
    pub fn now() -> Result<Self> {
        Self::parse(&fs::read_to_string("/proc/stat")?)
    }

    fn parse(stat: &str) -> Result<Self> {
        let line = stat.lines().next().unwrap_or_default();
        let ticks: Result<Vec<u64>, _> = line.split_whitespace().skip(1).map(str::parse).collect();
        let ticks = ticks.context("/proc/stat is not understood")?;
        ensure!(ticks.len() >= 8, "/proc/stat is not understood");
        Ok(Self {
            // Idle, and idle while a disk is waited for.
            idle: ticks[3] + ticks[4],
            // The time of guests, which follows, is contained in that of users.
            all: ticks[..8].iter().sum(),
        })
    }

    /// Which part of the time since `earlier` all processors together were idle: 0 to 1.
    pub fn idle_since(&self, earlier: &Self) -> f64 {
        let all = self.all.saturating_sub(earlier.all);
        let idle = self.idle.saturating_sub(earlier.idle);
        if all == 0 {
            return 0.0;
        }
        idle as f64 / all as f64
    }
}

/// Ticks of a second in `stat`; the kernel shows it in these whatever its own are.
const TICKS_PER_SECOND: f64 = 100.0;

/// Processor time of one process since its start, all its threads together, its children not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessCpu {
    ticks: u64,
}

impl ProcessCpu {
    /// Of the process `pid`, in steps of a hundredth of a second.
    pub fn of(pid: u32) -> Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))
            .with_context(|| format!("process {pid} runs no more"))?;
        Self::parse(&stat)
    }

    fn parse(stat: &str) -> Result<Self> {
        // The name before it may hold anything.
        let rest = stat.rsplit_once(')').map(|(_, rest)| rest);
        let mut fields = rest
            .context("/proc/PID/stat is not understood")?
            .split_whitespace();
        let mut field = |n| -> Result<u64> {
            let field = fields.nth(n).context("/proc/PID/stat is too short")?;
            Ok(field.parse()?)
        };
        // Fields 14 and 15 of all; the first after the name is the third.
        let (user, system) = (field(11)?, field(0)?);
        Ok(Self {
            ticks: user + system,
        })
    }

    /// Seconds between the two.
    pub fn seconds_since(&self, earlier: &Self) -> f64 {
        self.ticks.saturating_sub(earlier.ticks) as f64 / TICKS_PER_SECOND
    }
}

/// Processor time of the thread that asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadCpu {
    nanoseconds: u64,
}

impl ThreadCpu {
    /// Until now.
    pub fn now() -> Result<Self> {
        let stat = fs::read_to_string("/proc/thread-self/schedstat")?;
        let first = stat.split_whitespace().next();
        let first = first.context("/proc/thread-self/schedstat is not understood")?;
        Ok(Self {
            nanoseconds: first.parse()?,
        })
    }

    /// Seconds between the two.
    pub fn seconds_since(&self, earlier: &Self) -> f64 {
        self.nanoseconds.saturating_sub(earlier.nanoseconds) as f64 / 1e9
    }
}

/// Memory of one process in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// What is resident now (`VmRSS`).
    pub resident: u64,
    /// The most that ever was resident (`VmHWM`).
    pub peak: u64,
}

impl Memory {
    /// Of the process `pid`.
    pub fn of(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/status");
        let text =
            fs::read_to_string(&path).with_context(|| format!("process {pid} runs no more"))?;
        Self::parse(&text)
    }

    fn parse(status: &str) -> Result<Self> {
        let field = |name: &str| -> Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kib: Option<u64> = line.and_then(|rest| {
                let rest = rest.trim_start_matches(':').trim();
                rest.strip_suffix(" kB")?.trim().parse().ok()
            });
            Ok(kib.with_context(|| format!("the kernel tells no {name}"))? << 10)
        };
        Ok(Self {
            resident: field("VmRSS")?,
            peak: field("VmHWM")?,
        })
    }
}

/// Bytes of the files below a directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DirBytes {
    /// Content.
    pub content: u64,
    /// Blocks on the disk.
    pub blocks: u64,
    /// Number of files with content.
    pub files: u64,
}

impl DirBytes {
    /// Of all regular files below `dir`. Files that vanish meanwhile do not count.
    pub fn below(dir: &Path) -> Result<Self> {
        let mut sum = Self::default();
        for entry in walkdir::WalkDir::new(dir) {
            let stat = entry.and_then(|entry| entry.metadata());
            let stat = match stat {
                Ok(stat) => stat,
                Err(error)
                    if error.io_error().map(std::io::Error::kind) == Some(ErrorKind::NotFound) =>
                {
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            if stat.is_file() && stat.len() > 0 {
                sum.content += stat.len();
                sum.blocks += stat.blocks() * BLOCK_BYTES;
                sum.files += 1;
            }
        }
        Ok(sum)
    }
}

/// A process that does nothing until this is dropped.
///
/// Files move while a directory is walked, and would be counted twice or not at all.
#[derive(Debug)]
struct Stopped(Pid);

/// How long the threads of a process may take to stop, at most.
const STOP_TIME_MAX: Duration = Duration::from_secs(5);

impl Stopped {
    fn new(pid: u32) -> Result<Self> {
        let process = Pid::from_raw(pid.try_into()?);
        kill(process, Signal::SIGSTOP)?;
        let stopped = Self(process);
        let all = || -> Result<bool> {
            for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
                let stat = fs::read_to_string(thread?.path().join("stat"))?;
                // The name before it may hold anything.
                let state = stat.rsplit_once(')').map(|(_, rest)| rest.trim_start());
                if !state.is_some_and(|state| state.starts_with('T')) {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        let done = wait_for(STOP_TIME_MAX, || match all() {
            Ok(false) => None,
            done => Some(done),
        });
        done.context("the process does not stop")??;
        Ok(stopped)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // It fails if the process is gone, which is none of our business.
        kill(self.0, Signal::SIGCONT).ok();
    }
}

/// Looks again and again how large a directory is, on a thread of its own.
#[derive(Debug)]
pub struct Sampler {
    stop: Arc<AtomicBool>,
    largest: Arc<Mutex<Samples>>,
    thread: Option<JoinHandle<()>>,
}

/// The samples so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Samples {
    /// How often it looked.
    pub count: u64,
    /// The most content there was.
    pub content_max: u64,
    /// What went wrong, if anything did.
    pub fault: Option<String>,
}

impl Sampler {
    /// Looks at the sum of the directories, with `pause` between two looks. The process `writer` is stopped during each.
    pub fn start(dirs: Vec<PathBuf>, writer: Option<u32>, pause: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let largest = Arc::new(Mutex::new(Samples::default()));
        let (stopped, samples) = (Arc::clone(&stop), Arc::clone(&largest));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let sum = sum(&dirs, writer);
                let mut samples = samples.lock().unwrap_or_else(PoisonError::into_inner);
                samples.count += 1;
                match sum {
                    Ok(content) => samples.content_max = samples.content_max.max(content),
                    Err(error) => samples.fault = Some(format!("{error:#}")),
                }
                drop(samples);
                std::thread::park_timeout(pause);
            }
        });
        Self {
            stop,
            largest,
            thread: Some(thread),
        }
    }

    /// Ends it and returns what it saw.
    pub fn stop(mut self) -> Samples {
        self.end();
        self.largest
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            drop(thread.join());
        }
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.end();
    }
}

fn sum(dirs: &[PathBuf], writer: Option<u32>) -> Result<u64> {
    let _stopped = writer.map(Stopped::new).transpose()?;
    let contents = dirs.iter().map(|dir| Ok(DirBytes::below(dir)?.content));
    contents.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_time_is_a_part_of_all_time() {
        let earlier = CpuTime::parse("cpu  10 0 10 70 10 0 0 0 5 0\ncpu0 1").unwrap();
        let later = CpuTime::parse("cpu  50 0 30 90 30 0 0 0 9 0\ncpu0 1").unwrap();
        assert!((later.idle_since(&earlier) - 0.4).abs() < 1e-9);
        assert!(CpuTime::parse("cpu 1 2").is_err());
        assert!(CpuTime::now().unwrap().all > 0);
    }

    #[test]
    fn processor_time_of_a_process_is_user_and_system() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 9 0 0 0 150 25 99 99 20 0 1 0 5 6 7";
        let later = ProcessCpu::parse(stat).unwrap();
        let earlier = ProcessCpu { ticks: 75 };
        assert!((later.seconds_since(&earlier) - 1.0).abs() < 1e-9);
        assert!(ProcessCpu::parse("7 (a) S 1 2").is_err());
        let own = ProcessCpu::of(std::process::id()).unwrap();
        assert!(own.seconds_since(&own).abs() < 1e-9);
        let (before, mut sum) = (ThreadCpu::now().unwrap(), 0_u64);
        while ThreadCpu::now().unwrap().seconds_since(&before) <= 0.0 {
            sum = std::hint::black_box(sum + 1);
        }
    }

    #[test]
    fn memory_is_read_in_bytes() {
        let memory = Memory::parse("Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t 1024 kB\n").unwrap();
        assert_eq!(
            memory,
            Memory {
                resident: 1 << 20,
                peak: 2 << 20
            }
        );
        let own = Memory::of(std::process::id()).unwrap();
        assert!(own.peak >= own.resident && own.resident > 0);
        assert!(Memory::parse("VmHWM: many").is_err());
    }

    #[test]
    fn a_stopped_process_goes_on_afterwards() {
        let mut command = std::process::Command::new("sleep");
        let mut process = crate::process::Guarded::spawn(command.arg("0.2")).unwrap();
        let stopped = Stopped::new(process.id()).unwrap();
        let ended = wait_for(Duration::from_millis(400), || process.ended());
        assert_eq!(ended, None);
        drop(stopped);
        assert!(process.wait(Duration::from_secs(20)).unwrap().success());
    }

    #[test]
    fn a_sampler_keeps_the_largest() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), [1; 1000]).unwrap();
        let sampler = Sampler::start(vec![dir.path().to_owned()], None, Duration::from_millis(5));
        let seen = |count| {
            wait_for(Duration::from_secs(10), || {
                let samples = sampler.largest.lock().unwrap().clone();
                (samples.count >= count).then_some(samples)
            })
        };
        assert_eq!(seen(1).unwrap().content_max, 1000);
        fs::remove_file(dir.path().join("a")).unwrap();
        let count = seen(1).unwrap().count;
        assert_eq!(seen(count + 2).unwrap().content_max, 1000);
        assert_eq!(sampler.stop().fault, None);
    }
}
