//! One life of the daemon: its view of the disk, its line to the server, its tasks; and how it ends.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jiff::SignedDuration;
use pbs_datastore::files::{FaultyFiles, Files, ModelFiles};
use pbs_datastore::{
    Backend, BucketAccess, Datastore, DatastoreConfig, Env, MemoryBudget, OpenOptions, Result,
};
use s3_client::{Meter, Metered, Retry, RetryPolicy};

use crate::line::Line;
use crate::scenario::{Kind, LATE, WINDOW};
use crate::world::World;

/// How long the tasks of a killed life may take to fall; they wait for nothing.
const FALL_MAX: Duration = Duration::from_secs(1);

/// Which machine, and so which cache directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Machine(pub(crate) u64);

impl Machine {
    pub(crate) fn dir(self) -> PathBuf {
        PathBuf::from(format!("/machine-{}/store", self.0))
    }
}

/// What of a life can be ended from anywhere.
#[derive(Clone)]
pub(crate) struct Mortal {
    pub(crate) env: Env,
    files: Arc<ModelFiles>,
    dead: Arc<AtomicBool>,
}

impl Mortal {
    /// At once: nothing reaches the disk or the server any more, and no task runs on.
    pub(crate) fn kill(&self) {
        self.dead.store(true, Ordering::Release);
        self.files.die();
        self.env.kill();
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }
}

/// A life.
#[derive(Clone)]
pub(crate) struct Life {
    pub(crate) number: u64,
    pub(crate) machine: Machine,
    pub(crate) mortal: Mortal,
    pub(crate) faulty_files: Arc<FaultyFiles>,
    /// What it has asked of the server.
    pub(crate) meter: Arc<Meter>,
}

impl Life {
    /// A process that has not opened its datastore yet.
    pub(crate) fn new(world: &World, number: u64, machine: Machine, clock_jump: i64) -> Self {
        let files = world.disk.mount();
        let faulty_files = Arc::new(FaultyFiles::new(files.clone() as Arc<dyn Files>));
        let start = world.model.now() + SignedDuration::from_secs(clock_jump);
        let env = Env::simulated_with_pauses(
            start,
            world.scenario.seed.wrapping_mul(1000) + number,
            faulty_files.clone() as Arc<dyn Files>,
            world.scenario.io_pause_max,
        );
        let dead = Arc::new(AtomicBool::new(false));
        Self {
            number,
            machine,
            mortal: Mortal { env, files, dead },
            faulty_files,
            meter: Arc::default(),
        }
    }

    pub(crate) fn env(&self) -> &Env {
        &self.mortal.env
    }

    /// Opens the datastore.
    pub(crate) async fn open(&self, world: &World, take_over: bool) -> Result<Arc<Datastore>> {
        let scenario = &world.scenario;
        let backend = match scenario.kind {
            Kind::Bucket => Backend::Bucket {
                prefix: "store".into(),
                cache_dir: self.machine.dir(),
                cache_bytes_max: scenario.cache_bytes_max,
            },
            Kind::Directory(_) => Backend::Directory(self.machine.dir()),
        };
        let mut config = DatastoreConfig::new("store", backend);
        if let Kind::Directory(level) = scenario.kind {
            config.sync_level = level;
        }
        config.gc_atime_cutoff = scenario.gc_cutoff;
        config.late_request_max = LATE;
        config.upload_attempts_max = scenario.upload_attempts;
        config.delete_request_keys_max = scenario.delete_batch;
        // A batch of one request, or of several.
        config.delete_requests_max = 1 + scenario.delete_batch % 2;
        config.list_ranges = scenario.list_ranges;
        config.read_ahead_bytes_max = 2000;
        let metered = Metered::new(world.client(self.env()).await, Arc::clone(&self.meter));
        let line = Line::over(
            Arc::new(metered),
            self.mortal.dead.clone(),
            self.number,
            world.layout.clone(),
            Arc::clone(&world.oracle),
        );
        let policy = RetryPolicy {
            attempts_max: 4,
            ..RetryPolicy::default()
        };
        let retrying = Retry::new(Arc::clone(&line), policy, self.env().seed());
        let retrying = retrying.metered(Arc::clone(&self.meter));
        let access = BucketAccess {
            once: line,
            store: Arc::new(retrying),
            capabilities: scenario.capabilities,
            signature_window: WINDOW,
            place: None,
        };
        let options = OpenOptions {
            hostname: format!("machine-{}", self.machine.0),
            installation: format!("installation-{}", self.machine.0),
            take_over,
            previous_owner_is_dead: false,
            budget: MemoryBudget::new(64 << 20),
        };
        Datastore::open(self.env().clone(), config, Some(access), options).await
    }

    /// The end of a process.
    pub(crate) async fn kill(&self) -> bool {
        self.mortal.kill();
        self.env().drain(FALL_MAX).await
    }
}
