//! Everything the daemon is made of, shared by sessions, calls and jobs; and the directory it lives in.
//!
//! The *state directory* is the one with the configuration file: `holdfast.toml`, `secrets.toml` (0600), certificate and
//! key, the id of the instance, task logs, what is kept beside the configuration for each datastore, and the control
//! socket. One process at a time holds it ([`DirectoryLock`]): the daemon, or a management command while the daemon is
//! down.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use pbs_datastore::{Env, MemoryBudget};
use tokio::sync::Semaphore;

use crate::api::{Delays, Endpoint, Router, Strangers, UPLOADS_AT_ONCE, routes};
use crate::atomic_file::{self, FileLock};
use crate::auth::{Authority, Passwords};
use crate::clock::Clock;
use crate::config::{Config, ConfigError, ConfigStore, SecretsStore, open_both};
use crate::instance::{InstanceId, InstanceIdError};
use crate::jobs::Jobs;
use crate::protocol::{ProtocolMemory, SessionTable, UnpackTurns, WINDOWS_BYTES_SET_ASIDE};
use crate::shutdown::Shutdown;
use crate::stores::Stores;
use crate::tasks::{TaskError, TaskRegistry};
use crate::traffic::Traffic;

/// The configuration file that is used when none is named.
pub(crate) const CONFIG_FILE: &str = "/etc/holdfast/holdfast.toml";
/// The name of the configuration file in a directory that `holdfast setup` made.
pub(crate) const CONFIG_NAME: &str = "holdfast.toml";
/// The file with the secrets, beside the configuration file.
const SECRETS_NAME: &str = "secrets.toml";

/// Why the daemon cannot be put together.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DaemonError {
    /// Another process works in the state directory.
    #[error("another process uses '{}'; stop it first, or wait until it has started or stopped", .0.display())]
    InUse(PathBuf),
    /// The state directory cannot be used.
    #[error("cannot use '{}': {source}", .path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// Configuration or secrets.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The id of the instance.
    #[error(transparent)]
    Instance(#[from] InstanceIdError),
    /// The task logs.
    #[error(transparent)]
    Tasks(#[from] TaskError),
}

/// The exclusive right to work in a state directory, as long as this lives.
#[derive(Debug)]
pub(crate) struct DirectoryLock(#[expect(dead_code, reason = "held, never read")] FileLock);

impl DirectoryLock {
    /// Waits up to 10 s for the directory. Blocks.
    pub(crate) fn take(state_dir: &Path) -> Result<Self, DaemonError> {
        match FileLock::of(&state_dir.join("daemon")) {
            Ok(lock) => Ok(Self(lock)),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                Err(DaemonError::InUse(state_dir.to_owned()))
            }
            Err(source) => Err(DaemonError::Directory {
                path: state_dir.to_owned(),
                source,
            }),
        }
    }
}

/// The directory of a configuration file, without links, so that all who name it mean the same.
pub(crate) fn state_dir_of(config_file: &Path) -> Result<PathBuf, DaemonError> {
    let file = std::fs::canonicalize(config_file).map_err(|source| DaemonError::Directory {
        path: config_file.to_owned(),
        source,
    })?;
    Ok(file.parent().unwrap_or(Path::new("/")).to_owned())
}

/// Where the secrets of a state directory are.
pub(crate) fn secrets_file(state_dir: &Path) -> PathBuf {
    state_dir.join(SECRETS_NAME)
}

/// This machine's name in task ids, certificates and ownership records.
pub(crate) fn hostname(config: &Config) -> String {
    let system = || {
        let name = nix::unistd::gethostname().ok()?;
        name.into_string().ok().filter(|name| !name.is_empty())
    };
    let configured = config.server.hostname.clone();
    configured
        .or_else(system)
        .unwrap_or_else(|| "localhost".to_owned())
}

/// The daemon's parts. No datastore is open until [`Stores::open_all`].
#[derive(Debug)]
pub(crate) struct Daemon {
    /// Where everything but the datastores is kept.
    pub(crate) state_dir: PathBuf,
    /// The settings.
    pub(crate) config: Arc<ConfigStore>,
    /// The secrets.
    pub(crate) secrets: Arc<SecretsStore>,
    /// Who is asking, and what they may do.
    pub(crate) authority: Authority,
    /// The datastores.
    pub(crate) stores: Stores,
    /// Running and finished tasks.
    pub(crate) tasks: TaskRegistry,
    /// Who is connected to read or write a snapshot.
    pub(crate) sessions: SessionTable,
    /// Running jobs.
    pub(crate) jobs: Jobs,
    /// The id of this installation.
    pub(crate) instance: InstanceId,
    /// This machine's name.
    pub(crate) hostname: String,
    /// Time, randomness, and the tasks of the runtime.
    pub(crate) env: Env,
    /// The time, as the modules without datastores know it.
    pub(crate) clock: Clock,
    /// Memory for bodies in flight: what is configured, without the windows that are set aside.
    pub(crate) budget: MemoryBudget,
    /// What sessions may take of it.
    pub(crate) memory: Arc<ProtocolMemory>,
    /// Turns of downloads to unpack.
    pub(crate) turns: UnpackTurns,
    /// Places for bodies of calls that are content.
    pub(crate) uploads: Arc<Semaphore>,
    /// The stop.
    pub(crate) shutdown: Shutdown,
    /// How fast clients may be.
    pub(crate) traffic: Traffic,
    /// Who could not prove who it is.
    pub(crate) strangers: Arc<Strangers>,
    /// How long refusals are held back.
    pub(crate) delays: Delays,
    /// The calls.
    pub(crate) routes: Arc<Router<Endpoint>>,
    _lock: DirectoryLock,
}

impl Daemon {
    /// Reads everything in the directory of `config_file`. Blocks on the disk, and for one password hash.
    pub(crate) fn assemble(
        config_file: &Path,
        lock: DirectoryLock,
        env: Env,
    ) -> Result<Arc<Self>, DaemonError> {
        let state_dir = state_dir_of(config_file)?;
        // It costs nothing but room; a directory that cannot be written says so where that matters.
        if let Err(error) = atomic_file::remove_staged(&state_dir) {
            tracing::warn!(%error, "what is left in '{}' cannot be removed", state_dir.display());
        }
        let (config, secrets) = open_both(config_file, &secrets_file(&state_dir))?;
        let (config, secrets) = (Arc::new(config), Arc::new(secrets));
        let now = env.clone();
        let clock = Clock::new(move || now.now());
        let instance = InstanceId::load_or_create(&state_dir)?;
        let settings = config.read();
        let hostname = hostname(&settings);
        for fault in secrets.read().misfits(&settings) {
            tracing::error!("{fault}");
        }
        let jobs = Jobs::open(&state_dir.join("jobs"));
        let tasks = TaskRegistry::open(&state_dir.join("tasks"), &hostname, clock.clone())?;
        let memory = settings.server.memory_budget_bytes.get();
        let budget = MemoryBudget::new(memory.saturating_sub(WINDOWS_BYTES_SET_ASIDE));
        let traffic = Traffic::default();
        traffic.apply(|| config.read());
        let authority = Authority::new(
            config.clone(),
            secrets.clone(),
            clock.clone(),
            Passwords::new(),
        );
        let stores = Stores::new(
            env.clone(),
            config.clone(),
            secrets.clone(),
            state_dir.clone(),
            hostname.clone(),
            instance.to_string(),
            budget.clone(),
        );
        Ok(Arc::new(Self {
            state_dir,
            config,
            secrets,
            authority,
            stores,
            tasks,
            sessions: SessionTable::default(),
            jobs,
            instance,
            hostname,
            env,
            clock,
            memory: ProtocolMemory::new(budget.clone()),
            turns: UnpackTurns::new(&budget),
            budget,
            uploads: Arc::new(Semaphore::new(UPLOADS_AT_ONCE)),
            shutdown: Shutdown::new(),
            traffic,
            strangers: Arc::default(),
            delays: Delays::default(),
            routes: Arc::new(routes()),
            _lock: lock,
        }))
    }

    /// Opens every configured datastore that is not open, if this process serves.
    pub(crate) fn reopen(&self) {
        if !self.shutdown.is_requested() {
            self.stores.open_all();
        }
    }
}
