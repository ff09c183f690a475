//! One attempt to open a datastore.
//!
//! 1. For a bucket: the ways to it. Its capabilities are those of the last check; where none is on record, or the place
//!    was another, the bucket is checked first, and one that cannot hold a datastore is refused.
//! 2. The datastore itself, which takes ownership and repairs what a crash left.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use pbs_datastore::{
    BucketAccess, BucketPlace, Datastore, DatastoreConfig, Env, Error, MemoryBudget, OpenOptions,
};
use s3_client::{Capabilities, IfMatch, Meter, Report, State};

use super::bucket::Bucket;
use super::record::{CheckRecord, Records};
use crate::config::{self, Backend, Config, S3Backend, Secrets, unless_zero};

/// How long a signed request may be accepted where the check did not find out: what S3 itself allows.
const SIGNATURE_WINDOW: Duration = Duration::from_mins(15);

/// Whether a bucket is taken from its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TakeOver {
    /// Only if it is ours or nobody's.
    No,
    /// Also from somebody else.
    Yes {
        /// The operator states that the owner before runs no more and will not run again.
        previous_owner_is_dead: bool,
    },
}

/// Why an attempt failed.
#[derive(Debug)]
pub(crate) struct OpenFault {
    /// One sentence.
    pub(super) text: String,
    /// Whether time alone, or a change outside of the daemon, can mend it.
    pub(super) passing: bool,
}

impl OpenFault {
    pub(super) fn lasting(text: impl fmt::Display) -> Self {
        Self {
            text: text.to_string(),
            passing: false,
        }
    }

    fn passing(text: impl fmt::Display) -> Self {
        Self {
            text: text.to_string(),
            passing: true,
        }
    }
}

impl From<Error> for OpenFault {
    fn from(error: Error) -> Self {
        match error {
            // A missing bucket and wrong keys are mended on the other side.
            Error::Store(_)
            | Error::File { .. }
            | Error::OutcomeUnknown { .. }
            | Error::Busy(_) => Self::passing(error),
            _ => Self::lasting(error),
        }
    }
}

/// What an attempt works with.
pub(super) struct Opening {
    pub(super) env: Env,
    pub(super) config: Arc<Config>,
    pub(super) secrets: Arc<Secrets>,
    pub(super) records: Records,
    pub(super) hostname: String,
    pub(super) installation: String,
    pub(super) budget: MemoryBudget,
    pub(super) name: String,
    pub(super) take_over: TakeOver,
}

/// What came of it.
pub(super) struct Opened {
    pub(super) datastore: Arc<Datastore>,
    /// Counts what is asked of the bucket, if there is one.
    pub(super) meter: Option<Arc<Meter>>,
}

impl Opening {
    fn settings(&self) -> Result<&config::Datastore, String> {
        let name = &self.name;
        let found = self.config.datastores.get(name);
        found.ok_or_else(|| format!("no such datastore '{name}'"))
    }

    fn bucket_settings(&self) -> Result<&S3Backend, String> {
        match &self.settings()?.backend {
            Backend::S3(backend) => Ok(backend),
            Backend::Filesystem { .. } => Err(format!(
                "datastore '{}' is a directory and has no bucket to check",
                self.name
            )),
        }
    }

    async fn connect(&self, backend: &S3Backend) -> Result<Bucket, String> {
        Bucket::connect(
            &self.env,
            &self.config,
            &self.secrets,
            &backend.endpoint,
            &backend.bucket,
        )
        .await
    }

    /// Checks the bucket and keeps the result.
    pub(super) async fn check(&self) -> Result<Report, String> {
        let backend = self.bucket_settings()?;
        let bucket = self.connect(backend).await?;
        self.check_with(backend, &bucket).await
    }

    async fn check_with(&self, backend: &S3Backend, bucket: &Bucket) -> Result<Report, String> {
        let report = bucket.probe(&backend.prefix).await?;
        let Some(endpoint) = self.config.s3.get(&backend.endpoint) else {
            return Err(format!("there is no S3 endpoint '{}'", backend.endpoint));
        };
        // A check that was cut short by a fault says nothing about what the bucket can do.
        if report.is_usable() {
            let check = CheckRecord::new(endpoint, backend, self.env.now(), report.clone());
            let records = self.records.clone();
            let kept = self.env.io(move |_| records.keep_check(&check)).await;
            kept.map_err(|error| format!("the result of the check cannot be kept: {error}"))?;
        }
        Ok(report)
    }

    /// What the bucket can do, by the last check or by a new one.
    async fn capabilities(
        &self,
        backend: &S3Backend,
        bucket: &Bucket,
    ) -> Result<Capabilities, OpenFault> {
        let endpoint = self.config.s3.get(&backend.endpoint);
        let records = self.records.clone();
        let known = self.env.io(move |_| records.check()).await;
        if let (Some(check), Some(endpoint)) = (known, endpoint)
            && check.is_of(endpoint, backend)
        {
            bucket.set_if_match_quoted(check.if_match_quoted());
            let contact = bucket.contact(&backend.prefix).await;
            contact.map_err(OpenFault::passing)?;
            return Ok(check.report.capabilities);
        }
        tracing::info!(datastore = %self.name, bucket = %backend.bucket, "checking what the bucket can do");
        let report = self.check_with(backend, bucket).await;
        let report = report.map_err(OpenFault::lasting)?;
        if report.is_usable() {
            return Ok(report.capabilities);
        }
        let failed: Vec<String> = report
            .findings
            .iter()
            .filter(|finding| finding.state == State::Failed)
            .map(|finding| format!("{}: {}", finding.check.name(), finding.detail))
            .collect();
        Err(OpenFault::passing(format!(
            "the bucket '{}' cannot be used: {}",
            backend.bucket,
            failed.join("; ")
        )))
    }

    /// The whole attempt.
    pub(super) async fn run(self) -> Result<Opened, OpenFault> {
        let settings = self.settings().map_err(OpenFault::lasting)?;
        match &settings.backend {
            Backend::Filesystem { path } => {
                let backend = pbs_datastore::Backend::Directory(path.clone());
                let config = self.datastore_config(settings, backend, None);
                let datastore =
                    Datastore::open(self.env.clone(), config, None, self.options()).await?;
                Ok(Opened {
                    datastore,
                    meter: None,
                })
            }
            Backend::S3(backend) => self.open_bucket(settings, backend).await,
        }
    }

    async fn open_bucket(
        &self,
        settings: &config::Datastore,
        backend: &S3Backend,
    ) -> Result<Opened, OpenFault> {
        let bucket = self.connect(backend).await.map_err(OpenFault::lasting)?;
        let records = self.records.clone();
        let meters = self.env.io(move |_| records.meters()).await;
        bucket.meter.load(&meters);
        let capabilities = self.capabilities(backend, &bucket).await?;
        let endpoint = self.config.s3.get(&backend.endpoint);
        let place = pbs_datastore::Backend::Bucket {
            prefix: backend.prefix.clone(),
            cache_dir: backend.cache_dir.clone(),
            cache_bytes_max: backend.cache_bytes_max.get(),
        };
        let attempts = endpoint.map(|endpoint| endpoint.attempts_max);
        let config = self.datastore_config(settings, place, attempts);
        let window = capabilities.signature_window_seconds;
        let access = BucketAccess {
            once: bucket.once.clone(),
            store: bucket.store.clone(),
            capabilities: pbs_datastore::Capabilities {
                conditional_create: capabilities.conditional_create,
                conditional_overwrite: capabilities.conditional_replace != IfMatch::Unsupported,
            },
            signature_window: window.map_or(SIGNATURE_WINDOW, Duration::from_secs),
            place: Some(BucketPlace {
                server: backend.endpoint.clone(),
                bucket: backend.bucket.clone(),
                conditional_copy: capabilities.conditional_copy,
            }),
        };
        let (env, options) = (self.env.clone(), self.options());
        let datastore = Datastore::open(env, config, Some(access), options).await?;
        Ok(Opened {
            datastore,
            meter: Some(bucket.meter),
        })
    }

    fn options(&self) -> OpenOptions {
        let dead = TakeOver::Yes {
            previous_owner_is_dead: true,
        };
        OpenOptions {
            hostname: self.hostname.clone(),
            installation: self.installation.clone(),
            take_over: self.take_over != TakeOver::No,
            previous_owner_is_dead: self.take_over == dead,
            budget: self.budget.clone(),
        }
    }

    fn datastore_config(
        &self,
        settings: &config::Datastore,
        backend: pbs_datastore::Backend,
        attempts: Option<u64>,
    ) -> DatastoreConfig {
        let mut config = DatastoreConfig::new(&self.name, backend);
        config.sync_level = match settings.sync_level {
            config::SyncLevel::None => pbs_datastore::SyncLevel::None,
            config::SyncLevel::File => pbs_datastore::SyncLevel::File,
            config::SyncLevel::Filesystem => pbs_datastore::SyncLevel::Filesystem,
        };
        config.gc_atime_cutoff = Duration::from_mins(settings.gc_atime_cutoff_minutes);
        config.quota_bytes = unless_zero(settings.quota.get());
        config.late_request_max = Duration::from_secs(settings.late_request_max_seconds);
        if let Some(attempts) = attempts {
            config.upload_attempts_max = (attempts as u32).clamp(2, 20);
        }
        config
    }
}
