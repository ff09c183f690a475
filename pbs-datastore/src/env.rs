//! Everything from outside that a run depends on: time, randomness, ids, tasks and files.
//!
//! Production and simulation differ only in the `Env` they are given, so a simulated run can be replayed from its
//! seed. Nothing else in this crate reads a clock, draws a random number, spawns a task or opens a file.
//!
//! **The wall clock** is the wall time at process start plus the monotonic time since, put forward to the newest time seen
//! in the datastore ([`Env::raise_clock`]): a system clock that is set back or forward while the daemon runs
//! changes nothing, and one that was set back before it started cannot make new marks look old.
//!
//! **Blocking work** runs on the runtime's pool, bounded by permits (I9): computation by the number of cores, file work by
//! a few times as many. A job is a plain function that cannot await, so none that holds a permit waits for another, and
//! jobs that found no permit are started in the order they came. Every datastore has its own permits for file work
//! ([`Env::with_own_io`]): a disk that does not answer holds up nobody else's.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::{AbortHandle, JoinError, JoinHandle};
use tokio::time::Instant;

use crate::files::{Files, OsFiles};
use crate::sabotage::{self, Rule};

/// File jobs of one datastore at a time, for each core: they wait for the disk more than they compute.
const IO_JOBS_PER_CORE: usize = 4;

/// File jobs of one datastore at a time, at least.
const IO_JOBS_MIN: usize = 8;

/// Where blocking work runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blocking {
    /// On the runtime's blocking pool.
    Pool,
    /// On the calling thread, as a task: simulation. It starts after up to so long, drawn anew for each job.
    Inline(Duration),
}

/// The tasks of a simulated world, which can end like a process: all at once.
#[derive(Debug, Default)]
struct Tasks {
    killed: bool,
    serial: u64,
    running: BTreeMap<u64, AbortHandle>,
}

struct Inner {
    wall_start: Timestamp,
    monotonic_start: Instant,
    /// Microseconds by which the clock is put forward, because a later time was seen in the datastore.
    ahead: AtomicI64,
    rng: Mutex<StdRng>,
    files: Arc<dyn Files>,
    blocking: Blocking,
    computing: Arc<Semaphore>,
    tasks: AtomicUsize,
    idle: Notify,
    /// In a simulation only.
    mortal: Option<Mutex<Tasks>>,
}

impl Inner {
    /// Wall time at the start and monotonic time since, in microseconds since the epoch.
    fn wall_micros(&self) -> i64 {
        let elapsed = SignedDuration::try_from(self.monotonic_start.elapsed())
            .unwrap_or(SignedDuration::ZERO);
        self.wall_start
            .saturating_add(elapsed)
            .unwrap_or(Timestamp::MAX)
            .as_microsecond()
    }
}

/// The outside world; cheap to clone.
#[derive(Clone)]
pub struct Env {
    inner: Arc<Inner>,
    io: Arc<Semaphore>,
}

impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Env")
            .field("tasks", &self.inner.tasks.load(Ordering::Relaxed))
            .finish_non_exhaustive()
    }
}

impl Env {
    /// The real world: system clock at this moment, random seed from the system, files of the system. In a debug
    /// build the clock is wrong by `HOLDFAST_CLOCK_OFFSET` seconds, the disk as slow as `HOLDFAST_SLOW_FILES`
    /// says, read-only when `HOLDFAST_READ_ONLY_FILES` says so, and forgetful of times with `HOLDFAST_LOSE_ATIMES` ([`FaultyFiles`](crate::files::FaultyFiles)).
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place where time and randomness enter"
    )]
    pub fn system() -> Self {
        let now = trouble::clock(Timestamp::now());
        let files = trouble::files(Arc::new(OsFiles));
        Self::new(now, rand::rng().random(), files, Blocking::Pool)
    }

    /// A simulated world: starts at `start`, draws from `seed`, runs file work inline on `files`. Under a paused tokio
    /// clock it is deterministic.
    pub fn simulated(start: Timestamp, seed: u64, files: Arc<dyn Files>) -> Self {
        Self::simulated_with_pauses(start, seed, files, Duration::ZERO)
    }

    /// As [`Env::simulated`], with a pause of up to `pause_max` before each piece of blocking work: what else is ready
    /// comes first, in an order that the seed decides.
    pub fn simulated_with_pauses(
        start: Timestamp,
        seed: u64,
        files: Arc<dyn Files>,
        pause_max: Duration,
    ) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        Self::new(start, bytes, files, Blocking::Inline(pause_max))
    }

    /// Ends a simulated world as a crash ends a process: no task of it runs any further, and none is started. What they
    /// had in memory goes when they are dropped, which [`Env::drain`] waits for. Nothing in the real world.
    pub fn kill(&self) {
        let Some(mortal) = &self.inner.mortal else {
            return;
        };
        let running = {
            let mut tasks = mortal.lock().unwrap_or_else(PoisonError::into_inner);
            tasks.killed = true;
            std::mem::take(&mut tasks.running)
        };
        for task in running.values() {
            task.abort();
        }
    }

    fn new(
        wall_start: Timestamp,
        seed: [u8; 32],
        files: Arc<dyn Files>,
        blocking: Blocking,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                wall_start,
                monotonic_start: Instant::now(),
                ahead: AtomicI64::new(0),
                rng: Mutex::new(StdRng::from_seed(seed)),
                files,
                blocking,
                computing: Arc::new(Semaphore::new(cores())),
                mortal: matches!(blocking, Blocking::Inline(_)).then(Mutex::default),
                tasks: AtomicUsize::new(0),
                idle: Notify::new(),
            }),
            io: io_permits(),
        }
    }

    /// The same world with permits of its own for file work: for a datastore, whose disk may hang.
    #[must_use]
    pub fn with_own_io(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
            io: io_permits(),
        }
    }

    /// Wall-clock time; never goes back.
    pub fn now(&self) -> Timestamp {
        let ahead = self.inner.ahead.load(Ordering::Acquire);
        let now = self.inner.wall_micros().saturating_add(ahead);
        Timestamp::from_microsecond(now).unwrap_or(Timestamp::MAX)
    }

    /// The wall clock as it is now, for schedules: unlike [`now`](Self::now) it follows the machine's, also back, and over a
    /// suspend. In a simulation the same as that.
    #[expect(clippy::disallowed_methods, reason = "the one place where time enters")]
    pub fn wall(&self) -> Timestamp {
        match self.inner.blocking {
            Blocking::Inline(_) => self.now(),
            Blocking::Pool => trouble::clock(Timestamp::now()),
        }
    }

    /// Makes sure that the clock never shows a time before `seen` (the newest time found in the datastore). It goes on
    /// from there: a clock that stood still until real time has caught up would let nothing age.
    pub fn raise_clock(&self, seen: Timestamp) {
        if sabotage::is_off(Rule::ClockOnlyAdvances) {
            return;
        }
        let ahead = seen.as_microsecond() - self.inner.wall_micros();
        self.inner.ahead.fetch_max(ahead, Ordering::AcqRel);
    }

    /// Monotonic time, for waits and bounds.
    pub fn instant(&self) -> Instant {
        Instant::now()
    }

    /// Waits for `time`.
    pub async fn sleep(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    /// A seed for a component that draws its own random numbers.
    pub fn seed(&self) -> u64 {
        self.inner
            .rng
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .random()
    }

    /// A pause of up to `longest`, in microseconds; none half of the time.
    fn pause(&self, longest: Duration) -> Duration {
        if longest.is_zero() {
            return longest;
        }
        let drawn = self.seed();
        let longest = u64::try_from(longest.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(if drawn & 1 == 0 {
            0
        } else {
            (drawn >> 1) % longest.max(1)
        })
    }

    /// 16 random bytes.
    pub fn random_16(&self) -> [u8; 16] {
        self.inner
            .rng
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .random()
    }

    /// A new id: 32 hex digits.
    pub fn new_id(&self) -> String {
        hex::encode(self.random_16())
    }

    /// Runs `task` on its own; [`Env::drain`] waits for it. A task that must not be cancelled with the request that
    /// started it is started here.
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place where tasks start; drain() waits for them"
    )]
    pub fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        struct Running(Env, Option<u64>);
        impl Drop for Running {
            fn drop(&mut self) {
                self.0.forget_task(self.1);
                if self.0.inner.tasks.fetch_sub(1, Ordering::AcqRel) == 1 {
                    self.0.inner.idle.notify_waiters();
                }
            }
        }
        self.inner.tasks.fetch_add(1, Ordering::AcqRel);
        let serial = self.next_task();
        let running = Running(self.clone(), serial);
        // What it asks of a bucket is asked in the course of the running task.
        let task = s3_client::carried(task);
        let task = tokio::spawn(async move {
            let _running = running;
            task.await
        });
        self.note_task(serial, task.abort_handle());
        task
    }

    /// Waits for a task, which runs to its end even if the caller goes away.
    pub async fn to_the_end<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> T {
        result_of(self.spawn(task).await).await
    }

    fn next_task(&self) -> Option<u64> {
        let mortal = self.inner.mortal.as_ref()?;
        let mut tasks = mortal.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.serial += 1;
        Some(tasks.serial)
    }

    fn note_task(&self, serial: Option<u64>, task: AbortHandle) {
        if let (Some(mortal), Some(serial)) = (&self.inner.mortal, serial) {
            let mut tasks = mortal.lock().unwrap_or_else(PoisonError::into_inner);
            if tasks.killed {
                task.abort();
            } else {
                tasks.running.insert(serial, task);
            }
        }
    }

    fn forget_task(&self, serial: Option<u64>) {
        if let (Some(mortal), Some(serial)) = (&self.inner.mortal, serial) {
            let mut tasks = mortal.lock().unwrap_or_else(PoisonError::into_inner);
            tasks.running.remove(&serial);
        }
    }

    /// Waits until no task runs, at most `limit`; returns whether all had ended.
    pub async fn drain(&self, limit: Duration) -> bool {
        let idle = async {
            loop {
                let notified = self.inner.idle.notified();
                if self.inner.tasks.load(Ordering::Acquire) == 0 {
                    return;
                }
                notified.await;
            }
        };
        tokio::time::timeout(limit, idle).await.is_ok()
    }

    /// Runs a batch of file work where it may block. Once this was polled, the work runs to its end even if the caller
    /// goes away.
    pub async fn io<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Files) -> T + Send + 'static,
    ) -> T {
        let files = Arc::clone(&self.inner.files);
        self.blocking(&self.io, move || work(&*files)).await
    }

    /// Runs computation that takes long (compression, hashing of megabytes) off the runtime's threads; like
    /// [`io`](Self::io) it runs to its end.
    pub async fn compute<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.blocking(&self.inner.computing, work).await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        permits: &Arc<Semaphore>,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        let permits = Arc::clone(permits);
        let done = if let Blocking::Inline(longest) = self.inner.blocking {
            let pause = self.pause(longest);
            if pause.is_zero() {
                return work();
            }
            let later = async move {
                tokio::time::sleep(pause).await;
                work()
            };
            self.spawn(later).await
        } else if let Ok(permit) = Arc::clone(&permits).try_acquire_owned() {
            on_pool(permit, work).await
        } else {
            // A task of its own keeps the promise to run the work whether or not the caller waits for it.
            let queued = self.spawn(async move {
                let permit = permits.acquire_owned().await;
                on_pool(permit.expect("the permits are never closed"), work).await
            });
            queued.await.and_then(std::convert::identity)
        };
        result_of(done).await
    }
}

/// What a task came to; its panic is the caller's.
async fn result_of<T>(done: Result<T, JoinError>) -> T {
    match done.map_err(JoinError::try_into_panic) {
        Ok(value) => value,
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        // The runtime is shutting down and never ended the work; nobody will ask for its result.
        Err(Err(_)) => std::future::pending().await,
    }
}

async fn on_pool<T: Send + 'static>(
    permit: OwnedSemaphorePermit,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    let job = move || {
        let _permit = permit;
        work()
    };
    tokio::task::spawn_blocking(job).await
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn io_permits() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(
        (cores() * IO_JOBS_PER_CORE).max(IO_JOBS_MIN),
    ))
}

mod trouble;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_clock_never_falls_below_what_was_seen() {
        let start = Timestamp::from_second(1_700_000_000).unwrap();
        let env = Env::simulated(start, 1, Arc::new(OsFiles));
        assert_eq!(env.now(), start);
        let seen = start + SignedDuration::from_hours(24);
        env.raise_clock(seen);
        assert_eq!(env.now(), seen);
        env.sleep(Duration::from_mins(1)).await;
        assert_eq!(env.now(), seen + SignedDuration::from_mins(1));
    }

    #[tokio::test(start_paused = true)]
    async fn drain_waits_for_tasks() {
        let env = Env::simulated(Timestamp::UNIX_EPOCH, 1, Arc::new(OsFiles));
        let task = env.spawn({
            let env = env.clone();
            async move { env.sleep(Duration::from_secs(5)).await }
        });
        assert!(!env.drain(Duration::from_secs(1)).await);
        assert!(env.drain(Duration::from_mins(1)).await);
        task.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_killed_world_runs_nothing_further() {
        let env = Env::simulated(Timestamp::UNIX_EPOCH, 1, Arc::new(OsFiles));
        let (told, heard) = std::sync::mpsc::channel();
        let say = |what: &'static str, after| {
            let (told, clock) = (told.clone(), env.clone());
            async move {
                clock.sleep(after).await;
                told.send(what).unwrap();
            }
        };
        let before = env.spawn(say("before", Duration::from_secs(1)));
        env.spawn(say("after", Duration::from_secs(3)));
        before.await.unwrap();
        env.kill();
        let started = env.spawn(say("started by the dead", Duration::ZERO));
        assert!(env.drain(Duration::from_secs(1)).await);
        assert!(started.await.unwrap_err().is_cancelled());
        drop(told);
        assert_eq!(heard.into_iter().collect::<Vec<_>>(), ["before"]);
    }

    #[test]
    fn equal_seeds_give_equal_ids() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(async {
            let make =
                |seed| Env::simulated(Timestamp::UNIX_EPOCH, seed, Arc::new(OsFiles)).new_id();
            assert_eq!(make(7), make(7));
            assert_ne!(make(7), make(8));
        });
    }

    /// Keeps all jobs waiting until the sender is dropped; each says when it has begun.
    fn gate() -> (std::sync::mpsc::Sender<()>, impl Fn() + Clone + Send) {
        let (open, opened) = std::sync::mpsc::channel();
        let opened = Arc::new(Mutex::new(opened));
        let wait = move || {
            let opened = opened.lock().unwrap();
            opened.recv().unwrap_err();
        };
        (open, wait)
    }

    #[tokio::test]
    async fn blocking_work_is_bounded_each_kind_for_itself() {
        let env = Env::system();
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (open, wait) = gate();
        let jobs: Vec<_> = (0..cores() * 3)
            .map(|_| {
                let (running, most, wait) = (Arc::clone(&running), Arc::clone(&most), wait.clone());
                let work = move || {
                    let now = running.fetch_add(1, Ordering::SeqCst) + 1;
                    most.fetch_max(now, Ordering::SeqCst);
                    wait();
                    running.fetch_sub(1, Ordering::SeqCst);
                };
                let env = env.clone();
                env.clone().spawn(async move { env.compute(work).await })
            })
            .collect();
        while env.inner.computing.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        // Computation that is stuck keeps no file work from running.
        assert_eq!(env.io(|_| 5).await, 5);
        drop(open);
        for job in jobs {
            job.await.unwrap();
        }
        assert_eq!(env.compute(|| 7).await, 7);
        assert!((1..=cores()).contains(&most.load(Ordering::SeqCst)));
    }

    #[tokio::test]
    async fn a_disk_that_hangs_holds_up_its_own_datastore_only() {
        let env = Env::system();
        let other = env.with_own_io();
        let (open, wait) = gate();
        let bound = env.io.available_permits();
        let done = Arc::new(AtomicUsize::new(0));
        for _ in 0..bound + 3 {
            let (wait, done) = (wait.clone(), Arc::clone(&done));
            let job = env.io(move |_| {
                wait();
                done.fetch_add(1, Ordering::SeqCst);
            });
            // Polled once and dropped: it runs all the same, now or when its turn has come.
            assert!(futures_util::FutureExt::now_or_never(job).is_none());
        }
        assert_eq!(env.io.available_permits(), 0);
        assert_eq!(other.io(|_| 5).await, 5);
        drop(open);
        env.io(|_| ()).await;
        assert!(env.drain(Duration::from_mins(1)).await);
        while env.io.available_permits() < bound {
            tokio::task::yield_now().await;
        }
        assert_eq!(done.load(Ordering::SeqCst), bound + 3);
    }

    #[tokio::test]
    async fn a_panic_reaches_the_caller_and_costs_no_permit() {
        let env = Env::system();
        for _ in 0..=cores() {
            let env = env.clone();
            let failed = env
                .clone()
                .spawn(async move { env.compute(|| panic!("on purpose")).await });
            assert!(failed.await.is_err_and(|error| error.is_panic()));
        }
        assert_eq!(env.compute(|| 7).await, 7);
    }
}
