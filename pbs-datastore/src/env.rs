//! Everything from outside that a run depends on: time, randomness, ids, tasks and files.
//!
//! Production and simulation differ only in the `Env` they are given, so a simulated run can be replayed from its
//! seed. Nothing else in this crate reads a clock, draws a random number, spawns a task or opens a file.
//!
//! **The wall clock** is the wall time at process start plus the monotonic time since, and never below the newest time
//! seen in the datastore ([`Env::raise_clock`]): a system clock that is set back or forward while the daemon runs
//! changes nothing, and one that was set back before it started cannot make new marks look old.

use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::files::{Files, OsFiles};

/// Where blocking file work runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blocking {
    /// On the runtime's blocking pool.
    Pool,
    /// At once, on the calling thread: simulation.
    Inline,
}

struct Inner {
    wall_start: Timestamp,
    monotonic_start: Instant,
    /// Microseconds since the epoch that the clock must not fall below, and the last value given out.
    floor: AtomicI64,
    rng: Mutex<StdRng>,
    files: Arc<dyn Files>,
    blocking: Blocking,
    tasks: AtomicUsize,
    idle: Notify,
}

/// The outside world; cheap to clone.
#[derive(Clone)]
pub struct Env(Arc<Inner>);

impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Env")
            .field("tasks", &self.0.tasks.load(Ordering::Relaxed))
            .finish_non_exhaustive()
    }
}

impl Env {
    /// The real world: system clock at this moment, random seed from the system, files of the system.
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place where time and randomness enter"
    )]
    pub fn system() -> Self {
        Self::new(
            Timestamp::now(),
            rand::rng().random(),
            Arc::new(OsFiles),
            Blocking::Pool,
        )
    }

    /// A simulated world: starts at `start`, draws from `seed`, runs file work inline on `files`. Under a paused tokio
    /// clock it is deterministic.
    pub fn simulated(start: Timestamp, seed: u64, files: Arc<dyn Files>) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        Self::new(start, bytes, files, Blocking::Inline)
    }

    fn new(
        wall_start: Timestamp,
        seed: [u8; 32],
        files: Arc<dyn Files>,
        blocking: Blocking,
    ) -> Self {
        Self(Arc::new(Inner {
            wall_start,
            monotonic_start: Instant::now(),
            floor: AtomicI64::new(wall_start.as_microsecond()),
            rng: Mutex::new(StdRng::from_seed(seed)),
            files,
            blocking,
            tasks: AtomicUsize::new(0),
            idle: Notify::new(),
        }))
    }

    /// Wall-clock time; never goes back.
    pub fn now(&self) -> Timestamp {
        let elapsed = SignedDuration::try_from(self.0.monotonic_start.elapsed())
            .unwrap_or(SignedDuration::ZERO);
        let now = self
            .0
            .wall_start
            .saturating_add(elapsed)
            .unwrap_or(Timestamp::MAX)
            .as_microsecond();
        let floor = self.0.floor.fetch_max(now, Ordering::AcqRel).max(now);
        Timestamp::from_microsecond(floor).unwrap_or(Timestamp::MAX)
    }

    /// Makes sure that the clock never shows a time before `seen` (the newest time found in the datastore).
    pub fn raise_clock(&self, seen: Timestamp) {
        self.0
            .floor
            .fetch_max(seen.as_microsecond(), Ordering::AcqRel);
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
        self.0
            .rng
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .random()
    }

    /// 16 random bytes.
    pub fn random_16(&self) -> [u8; 16] {
        self.0
            .rng
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
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
        struct Running(Env);
        impl Drop for Running {
            fn drop(&mut self) {
                if self.0.0.tasks.fetch_sub(1, Ordering::AcqRel) == 1 {
                    self.0.0.idle.notify_waiters();
                }
            }
        }
        self.0.tasks.fetch_add(1, Ordering::AcqRel);
        let running = Running(self.clone());
        tokio::spawn(async move {
            let _running = running;
            task.await
        })
    }

    /// Waits until no task runs, at most `limit`; returns whether all had ended.
    pub async fn drain(&self, limit: Duration) -> bool {
        let idle = async {
            loop {
                let notified = self.0.idle.notified();
                if self.0.tasks.load(Ordering::Acquire) == 0 {
                    return;
                }
                notified.await;
            }
        };
        tokio::time::timeout(limit, idle).await.is_ok()
    }

    /// Runs a batch of file work where it may block. The work runs to its end even if the caller goes away.
    pub async fn io<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Files) -> T + Send + 'static,
    ) -> T {
        match self.0.blocking {
            Blocking::Inline => work(&*self.0.files),
            Blocking::Pool => {
                let files = Arc::clone(&self.0.files);
                match tokio::task::spawn_blocking(move || work(&*files)).await {
                    Ok(value) => value,
                    Err(error) => match error.try_into_panic() {
                        Ok(panic) => std::panic::resume_unwind(panic),
                        // The runtime is shutting down and never started the work; nobody will ask for its result.
                        Err(_) => std::future::pending().await,
                    },
                }
            }
        }
    }

    /// Runs computation that takes long (compression, hashing of megabytes) off the runtime's threads.
    pub async fn compute<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.io(move |_| work()).await
    }
}

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
        env.sleep(Duration::from_secs(60)).await;
        assert!(env.now() >= seen);
    }

    #[tokio::test(start_paused = true)]
    async fn drain_waits_for_tasks() {
        let env = Env::simulated(Timestamp::UNIX_EPOCH, 1, Arc::new(OsFiles));
        let task = env.spawn({
            let env = env.clone();
            async move { env.sleep(Duration::from_secs(5)).await }
        });
        assert!(!env.drain(Duration::from_secs(1)).await);
        assert!(env.drain(Duration::from_secs(60)).await);
        task.await.unwrap();
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
}
