//! The datastores of the configuration: opened, kept open, closed.
//!
//! A datastore that cannot be opened does not stop the daemon. It is listed with its fault, calls on it answer one
//! sentence, and where time can mend the fault (a server that is down, a bucket that is missing, keys that are wrong) it
//! is tried again, ever more rarely.
//!
//! Each datastore has one keeper, a task that opens it, keeps its counters, and closes it. Only the keeper changes what
//! is listed under the name, so a datastore is never open twice. Who asks it to close says by when; an attempt to open that
//! is under way then is not cut off, but nobody waits longer for it.

mod bucket;
mod open;
mod record;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pbs_datastore::{Datastore, Env, Error, MemoryBudget, Released};
use s3_client::{AwsEndpoint, Meter, MeterSnapshot, Report, Tally};
use tokio::sync::watch;
use tokio::time::Instant;

pub(crate) use self::open::TakeOver;
use self::open::{OpenFault, Opening};
use self::record::{CheckRecord, Records};
use crate::api::ApiError;
use crate::config::{Backend, ConfigStore, MaintenanceMode, SecretsStore, unless_zero};

/// Waits between attempts to open a datastore: the first, and the longest; each is twice the one before.
const RETRY_FIRST: Duration = Duration::from_secs(2);
const RETRY_LONGEST: Duration = Duration::from_mins(5);
/// How long the end of one datastore may take, when only that one ends.
const CLOSE_MAX: Duration = Duration::from_secs(30);
/// What a keeper leaves of its time to write the counters down.
const COUNTERS_TIME: Duration = Duration::from_secs(1);
/// How often the counters of a bucket are written down, and its owner is looked at.
const LOOK_EVERY: Duration = Duration::from_mins(5);

/// What a stop that was not clean costs.
const UNCLEAN: &str = "the next start waits until late requests cannot matter";

/// What is listed under a name.
#[derive(Debug, Clone)]
pub(crate) enum StoreState {
    /// The first attempt has not ended yet.
    Opening,
    /// In use.
    Open(Arc<Datastore>),
    /// Open, but somebody else owns the bucket now: it can be read at most.
    Lost {
        /// The datastore.
        datastore: Arc<Datastore>,
        /// One sentence.
        fault: String,
    },
    /// Cannot be opened.
    Faulty {
        /// One sentence.
        fault: String,
        /// Whether it is tried again by itself.
        retried: bool,
    },
    /// Closed, for good.
    Closed,
}

/// What a keeper is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Keep,
    /// Close, cleanly if that can be done by then.
    Close {
        by: Instant,
    },
}

impl Wish {
    /// By when to close, if it is to be closed.
    fn close_by(self) -> Option<Instant> {
        match self {
            Self::Keep => None,
            Self::Close { by } => Some(by),
        }
    }
}

/// One datastore and its keeper.
#[derive(Debug)]
struct Entry {
    state: watch::Sender<StoreState>,
    wish: watch::Sender<Wish>,
    meter: Mutex<Option<Arc<Meter>>>,
    /// Of the datastore, once it was opened.
    released: Mutex<Option<Released>>,
}

#[derive(Debug)]
struct Inner {
    env: Env,
    config: Arc<ConfigStore>,
    secrets: Arc<SecretsStore>,
    state_dir: PathBuf,
    hostname: String,
    installation: String,
    budget: MemoryBudget,
    entries: Mutex<BTreeMap<String, Arc<Entry>>>,
}

/// All datastores; clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Stores(Arc<Inner>);

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Stores {
    /// None open yet. `state_dir` holds what is kept beside the configuration.
    pub(crate) fn new(
        env: Env,
        config: Arc<ConfigStore>,
        secrets: Arc<SecretsStore>,
        state_dir: PathBuf,
        hostname: String,
        installation: String,
        budget: MemoryBudget,
    ) -> Self {
        Self(Arc::new(Inner {
            env,
            config,
            secrets,
            state_dir,
            hostname,
            installation,
            budget,
            entries: Mutex::default(),
        }))
    }

    /// Begins to open every configured datastore that has no keeper yet. Waits for none of them.
    pub(crate) fn open_all(&self) {
        for name in self.0.config.read().datastores.keys() {
            self.keep(name, TakeOver::No);
        }
    }

    /// Takes over those settings of open datastores that hold at once.
    pub(crate) fn apply_settings(&self) {
        for (name, settings) in &self.0.config.read().datastores {
            if let Ok(datastore) = self.opened(name) {
                datastore.set_quota(unless_zero(settings.quota.get()));
            }
        }
    }

    /// The datastore `name`, ready to be written to.
    pub(crate) fn get_writable(&self, name: &str) -> Result<Arc<Datastore>, ApiError> {
        self.admit(name, &[MaintenanceMode::ReadOnly, MaintenanceMode::Offline])?;
        let datastore = self.opened(name)?;
        match datastore.writable() {
            Ok(()) => Ok(datastore),
            Err(error) => Err(ApiError::bad_request(format!(
                "datastore '{name}' can only be read: {error}"
            ))),
        }
    }

    /// The datastore `name`, ready to be read.
    pub(crate) fn get(&self, name: &str) -> Result<Arc<Datastore>, ApiError> {
        self.admit(name, &[MaintenanceMode::Offline])?;
        self.opened(name)
    }

    /// Refuses what is not done in these modes.
    fn admit(&self, name: &str, modes: &[MaintenanceMode]) -> Result<(), ApiError> {
        let config = self.0.config.read();
        let maintenance = config
            .datastores
            .get(name)
            .and_then(|d| d.maintenance.as_ref());
        match maintenance.filter(|maintenance| modes.contains(&maintenance.mode)) {
            None => Ok(()),
            Some(maintenance) => Err(ApiError::bad_request(maintenance.refusal(name))),
        }
    }

    /// The datastore `name`, whether somebody works on it or not.
    pub(crate) fn opened(&self, name: &str) -> Result<Arc<Datastore>, ApiError> {
        match self.state(name) {
            Some(StoreState::Open(datastore) | StoreState::Lost { datastore, .. }) => Ok(datastore),
            Some(StoreState::Opening) => Err(ApiError::unavailable(format!(
                "datastore '{name}' is being opened; try again in a moment"
            ))),
            Some(StoreState::Faulty { fault, .. }) => Err(ApiError::bad_request(format!(
                "datastore '{name}' is not available: {fault}"
            ))),
            Some(StoreState::Closed) => Err(ApiError::unavailable(format!(
                "datastore '{name}' is closed"
            ))),
            None => Err(ApiError::bad_request(format!("no such datastore '{name}'"))),
        }
    }

    /// What is listed under `name`; `None` if it is not configured. Without a keeper it counts as closed.
    pub(crate) fn state(&self, name: &str) -> Option<StoreState> {
        let entry = locked(&self.0.entries).get(name).cloned();
        match entry {
            Some(entry) => Some(entry.shown()),
            None => self
                .0
                .config
                .read()
                .datastores
                .contains_key(name)
                .then_some(StoreState::Closed),
        }
    }

    /// What was asked of the datastore's bucket so far, over all starts; `None` for one without a bucket. Blocks.
    pub(crate) fn meters(&self, name: &str) -> Option<MeterSnapshot> {
        let entry = locked(&self.0.entries).get(name).cloned();
        let running = entry.and_then(|entry| {
            let meter = locked(&entry.meter).clone();
            meter.map(|meter| meter.snapshot())
        });
        let kept = || {
            let config = self.0.config.read();
            let datastore = config.datastores.get(name)?;
            matches!(datastore.backend, Backend::S3(_)).then(|| self.records(name).meters())
        };
        running.or_else(kept)
    }

    /// What some work has asked of each bucket.
    pub(crate) fn asked(&self, tally: &Tally) -> Vec<(String, MeterSnapshot)> {
        let entries = locked(&self.0.entries);
        let asked = entries.iter().filter_map(|(name, entry)| {
            let meter = locked(&entry.meter).clone()?;
            Some((name.clone(), tally.of(&meter)))
        });
        asked.collect()
    }

    /// The last check of the datastore's bucket. Blocks.
    pub(crate) fn last_check(&self, name: &str) -> Option<CheckRecord> {
        self.records(name).check()
    }

    fn records(&self, name: &str) -> Records {
        Records::of(&self.0.state_dir, name)
    }

    /// Opens a datastore and waits for the outcome of the first attempt: the fault if it failed. It is then listed with
    /// the fault and tried again like any other, but `take_over` was for the first attempt only.
    pub(crate) async fn open_now(&self, name: &str, take_over: TakeOver) -> Result<(), ApiError> {
        self.close(name).await?;
        let entry = self.keep(name, take_over);
        let mut state = entry.state.subscribe();
        let opened = state
            .wait_for(|state| !matches!(state, StoreState::Opening))
            .await;
        let fault = match opened.as_deref() {
            Ok(StoreState::Open(_)) => return Ok(()),
            Ok(StoreState::Faulty { fault, .. }) => fault.clone(),
            _ => "it was closed meanwhile".to_owned(),
        };
        drop(opened);
        Err(ApiError::bad_request(format!(
            "datastore '{name}' cannot be opened: {fault}"
        )))
    }

    /// Closes a datastore, if it has a keeper, and waits for it, and until nobody has it in his hands, within bounds. One that
    /// is not closed by then is closed later, by itself.
    pub(crate) async fn close(&self, name: &str) -> Result<(), ApiError> {
        let entry = locked(&self.0.entries).get(name).cloned();
        let Some(entry) = entry else {
            return Ok(());
        };
        let by = self.0.env.instant() + CLOSE_MAX;
        if !entry.end(by).await {
            return Err(ApiError::unavailable(format!(
                "datastore '{name}' is still busy with being opened or closed; try again in a moment"
            )));
        }
        locked(&self.0.entries).remove(name);
        if !entry.released(by).await {
            tracing::warn!(
                datastore = name,
                "is closed and still being read; its directory stays locked until that has ended"
            );
        }
        Ok(())
    }

    /// Closes all datastores at once and waits for them until `by`.
    pub(crate) async fn close_all(&self, by: Instant) {
        let entries = locked(&self.0.entries).clone();
        let ends = entries.iter().map(|(name, entry)| async move {
            if !entry.end(by).await {
                tracing::warn!(datastore = name, "was not closed in time: {UNCLEAN}");
            }
        });
        futures_util::future::join_all(ends).await;
    }

    /// Forgets what is kept beside the configuration for a datastore that is no more. Blocks.
    pub(crate) fn forget(&self, name: &str) {
        if let Err(error) = self.records(name).remove() {
            tracing::warn!(datastore = name, %error, "what was kept for the datastore cannot be removed");
        }
    }

    /// Checks the bucket of an S3 datastore, whether it is open or not, and keeps the result with it.
    pub(crate) async fn check(&self, name: &str) -> Result<Report, ApiError> {
        let opening = self
            .opening(name, TakeOver::No)
            .map_err(ApiError::bad_request)?;
        opening.check().await.map_err(ApiError::bad_request)
    }

    /// Checks any bucket of a configured endpoint; nothing is kept.
    pub(crate) async fn check_bucket(
        &self,
        endpoint: &str,
        bucket: &str,
        prefix: &str,
    ) -> Result<Report, ApiError> {
        let (config, secrets) = (self.0.config.read(), self.0.secrets.read());
        let connected =
            bucket::Bucket::connect(&self.0.env, &config, &secrets, endpoint, bucket).await;
        let connected = connected.map_err(ApiError::bad_request)?;
        connected.probe(prefix).await.map_err(ApiError::bad_request)
    }

    /// A configured endpoint, for what concerns none of its buckets.
    pub(crate) fn endpoint(&self, id: &str) -> Result<AwsEndpoint, ApiError> {
        let (config, secrets) = (self.0.config.read(), self.0.secrets.read());
        let endpoint = bucket::endpoint(&self.0.env, &config, &secrets, id);
        endpoint.map_err(ApiError::bad_request)
    }

    fn opening(&self, name: &str, take_over: TakeOver) -> Result<Opening, String> {
        let config = self.0.config.read();
        if !config.datastores.contains_key(name) {
            return Err(format!("no such datastore '{name}'"));
        }
        Ok(Opening {
            env: self.0.env.clone(),
            config,
            secrets: self.0.secrets.read(),
            records: self.records(name),
            hostname: self.0.hostname.clone(),
            installation: self.0.installation.clone(),
            budget: self.0.budget.clone(),
            name: name.to_owned(),
            take_over,
        })
    }

    /// The keeper of `name`, started if there is none.
    fn keep(&self, name: &str, take_over: TakeOver) -> Arc<Entry> {
        let mut entries = locked(&self.0.entries);
        if let Some(entry) = entries.get(name)
            && !matches!(*entry.state.borrow(), StoreState::Closed)
        {
            return entry.clone();
        }
        let entry = Arc::new(Entry {
            state: watch::Sender::new(StoreState::Opening),
            wish: watch::Sender::new(Wish::Keep),
            meter: Mutex::default(),
            released: Mutex::default(),
        });
        entries.insert(name.to_owned(), entry.clone());
        let (stores, kept, name) = (self.clone(), entry.clone(), name.to_owned());
        drop(
            self.0
                .env
                .spawn(async move { stores.run_keeper(&name, &kept, take_over).await }),
        );
        entry
    }

    /// The life of a keeper: open, hold, close.
    async fn run_keeper(&self, name: &str, entry: &Entry, take_over: TakeOver) {
        let mut wish = entry.wish.subscribe();
        let (mut wait, mut take_over) = (RETRY_FIRST, take_over);
        let opened = loop {
            let attempt = self.attempt(name, take_over).await;
            // Who is to be overruled is decided once, by a person.
            take_over = TakeOver::No;
            match attempt {
                Ok(opened) => break opened,
                Err(fault) => {
                    tracing::error!(datastore = name, fault = %fault.text, retried = fault.passing, "cannot be opened");
                    entry.state.send_replace(StoreState::Faulty {
                        fault: fault.text,
                        retried: fault.passing,
                    });
                    let pause = if fault.passing { wait } else { Duration::MAX };
                    let closing = wish.wait_for(|wish| wish.close_by().is_some());
                    if tokio::time::timeout(pause, closing).await.is_ok() {
                        entry.state.send_replace(StoreState::Closed);
                        return;
                    }
                    wait = (wait * 2).min(RETRY_LONGEST);
                }
            }
        };
        (*locked(&entry.meter)).clone_from(&opened.meter);
        *locked(&entry.released) = Some(opened.datastore.released());
        tracing::info!(datastore = name, "open");
        entry
            .state
            .send_replace(StoreState::Open(opened.datastore.clone()));
        // They may have been changed while it was opened.
        self.apply_settings();
        let by = loop {
            let closing = wish.wait_for(|wish| wish.close_by().is_some());
            drop(tokio::time::timeout(LOOK_EVERY, closing).await);
            if let Some(by) = wish.borrow().close_by() {
                break by;
            }
            self.keep_meters(name, opened.meter.as_ref()).await;
            look_at_ownership(name, &opened.datastore).await;
        };
        self.close_opened(name, &opened.datastore, by).await;
        self.keep_meters(name, opened.meter.as_ref()).await;
        drop(opened);
        entry.state.send_replace(StoreState::Closed);
    }

    /// Closes what a keeper holds. What is cut off at `by` counts as a stop that was not clean.
    async fn close_opened(&self, name: &str, datastore: &Datastore, by: Instant) {
        let left = by.saturating_duration_since(self.0.env.instant());
        let left = left.saturating_sub(COUNTERS_TIME);
        match datastore.close(left).await {
            Ok(true) => tracing::info!(datastore = name, "closed"),
            Ok(false) => tracing::warn!(datastore = name, "was not closed cleanly: {UNCLEAN}"),
            Err(error) => {
                tracing::warn!(datastore = name, %error, "was not closed cleanly: {UNCLEAN}");
            }
        }
    }

    async fn attempt(&self, name: &str, take_over: TakeOver) -> Result<open::Opened, OpenFault> {
        let opening = self.opening(name, take_over).map_err(OpenFault::lasting)?;
        opening.run().await
    }

    async fn keep_meters(&self, name: &str, meter: Option<&Arc<Meter>>) {
        let Some(snapshot) = meter.map(|meter| meter.snapshot()) else {
            return;
        };
        let records = self.records(name);
        let kept = self.0.env.io(move |_| records.keep_meters(&snapshot)).await;
        if let Err(error) = kept {
            tracing::warn!(datastore = name, %error, "the counters cannot be kept");
        }
    }
}

/// An idle datastore would not notice that it was taken over.
async fn look_at_ownership(name: &str, datastore: &Datastore) {
    if datastore.ownership_lost().is_some() {
        return;
    }
    match datastore.check_ownership().await {
        Ok(()) => {}
        Err(error @ Error::NotOwner(_)) => {
            tracing::error!(datastore = name, %error, "can only be read from now on");
        }
        Err(error) => tracing::debug!(datastore = name, %error, "who owns the bucket is not known"),
    }
}

impl Entry {
    /// What is listed. Ownership gets lost between two looks of the keeper too.
    fn shown(&self) -> StoreState {
        let state = self.state.borrow().clone();
        match state {
            StoreState::Open(datastore) => match datastore.writable() {
                Err(error @ Error::NotOwner(_)) => StoreState::Lost {
                    datastore,
                    fault: error.to_string(),
                },
                _ => StoreState::Open(datastore),
            },
            other => other,
        }
    }

    /// Asks the keeper to close, and waits until it has; `false` if it has not by then.
    async fn end(&self, by: Instant) -> bool {
        self.wish.send_replace(Wish::Close { by });
        let mut state = self.state.subscribe();
        let closed = state.wait_for(|state| matches!(state, StoreState::Closed));
        // The sender lives in `self`, so the wait ends by the state or by the time only.
        tokio::time::timeout_at(by, closed).await.is_ok()
    }

    /// Waits until nobody has the closed datastore in his hands; `false` if somebody has by then.
    async fn released(&self, by: Instant) -> bool {
        let released = locked(&self.released).clone();
        match released {
            Some(released) => tokio::time::timeout_at(by, released.wait()).await.is_ok(),
            None => true,
        }
    }
}
