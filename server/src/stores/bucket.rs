//! From an `[s3.ID]` table and its keys to something that talks to a bucket.
//!
//! Order of the layers, from the wire up: the adapter, counters, limits; that is `once`, which tries a request once.
//! `store` is the same with retries around it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use pbs_datastore::Env;
use s3_client::{
    AwsConfig, AwsEndpoint, AwsStore, Credentials, KeyPrefix, Limited, Limits, ListRequest, Meter,
    Metered, ObjectStore, ProbeOptions, Report, Retry, RetryPolicy, Secret, WallClock, probe,
};

use crate::config::{Config, CredentialsKind, S3Endpoint, Secrets};

/// Attempts and time of a first contact.
const QUICK_ATTEMPTS_MAX: u32 = 3;
const QUICK_DEADLINE_MS: u64 = 20_000;
/// Connections are kept for that many requests at least.
const CONNECTIONS_MIN: u64 = 128;

/// A bucket and the ways to it.
#[derive(Clone)]
pub(crate) struct Bucket {
    /// Tries each request once.
    pub(crate) once: Arc<dyn ObjectStore>,
    /// Tries again what may be tried again.
    pub(crate) store: Arc<dyn ObjectStore>,
    /// Gives up soon: for first contacts, whose fault somebody waits to hear.
    quick: Arc<dyn ObjectStore>,
    /// Counts what is asked.
    pub(crate) meter: Arc<Meter>,
    /// Whether tags are sent in quotes; the probe finds out.
    if_match_quoted: Arc<AtomicBool>,
    clock: WallClock,
    probe_id: String,
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bucket").finish_non_exhaustive()
    }
}

/// The bounds for one datastore's requests.
fn limits(endpoint: &S3Endpoint) -> Limits {
    let bound = |value: u64| (value > 0).then_some(value);
    Limits {
        concurrency_max: endpoint.requests_in_flight_max as usize,
        requests_per_second_max: bound(endpoint.requests_per_second_max),
        upload_bytes_per_second_max: bound(endpoint.upload_bytes_per_second_max.get()),
        download_bytes_per_second_max: bound(endpoint.download_bytes_per_second_max.get()),
        ..Limits::default()
    }
}

/// The adapter's settings, or what is missing.
fn adapter(
    id: &str,
    endpoint: &S3Endpoint,
    secrets: &Secrets,
    bucket: &str,
) -> Result<AwsConfig, String> {
    let credentials = match endpoint.credentials {
        CredentialsKind::Static => {
            let keys = secrets.s3.get(id).ok_or_else(|| {
                format!("the secrets file has no keys for the S3 endpoint '{id}'; add them with: holdfast s3 add")
            })?;
            Credentials::Static {
                access_key: keys.access_key.clone(),
                secret_key: Secret::new(keys.secret_key.reveal()),
                session_token: None,
            }
        }
        CredentialsKind::Environment => Credentials::Environment,
        CredentialsKind::Profile => Credentials::Profile {
            name: endpoint.profile.clone().unwrap_or_default(),
        },
    };
    let mut config = AwsConfig::new(&endpoint.endpoint, bucket, credentials);
    config.region.clone_from(&endpoint.region);
    config.path_style = endpoint.path_style;
    config.sign_payloads = endpoint.sign_payloads;
    config.ca_file.clone_from(&endpoint.ca_file);
    config.fingerprint = endpoint.fingerprint.map(|print| print.to_string());
    config.connect_timeout_ms = (endpoint.connect_timeout_seconds * 1000).min(60_000);
    config.answer_timeout_ms = (endpoint.request_timeout_seconds * 1000).min(600_000);
    config.connections_max = endpoint.requests_in_flight_max.max(CONNECTIONS_MIN) as usize;
    Ok(config)
}

/// The S3 server of the endpoint `id`, whichever bucket. Asks it nothing yet.
pub(super) fn endpoint(
    env: &Env,
    config: &Config,
    secrets: &Secrets,
    id: &str,
) -> Result<AwsEndpoint, String> {
    let settings = adapter(id, configured(config, id)?, secrets, "")?;
    Ok(AwsEndpoint::new(settings, wall_clock(env)))
}

fn configured<'a>(config: &'a Config, id: &str) -> Result<&'a S3Endpoint, String> {
    let endpoint = config.s3.get(id);
    endpoint.ok_or_else(|| format!("there is no S3 endpoint '{id}'; add it with: holdfast s3 add"))
}

fn wall_clock(env: &Env) -> WallClock {
    let now = env.clone();
    Arc::new(move || now.now())
}

fn folder(prefix: &str) -> Result<KeyPrefix, String> {
    KeyPrefix::new(format!("{prefix}/")).map_err(|error| error.to_string())
}

impl Bucket {
    /// The ways to `bucket` of the endpoint `id`. Asks the server nothing yet.
    pub(crate) async fn connect(
        env: &Env,
        config: &Config,
        secrets: &Secrets,
        id: &str,
        bucket: &str,
    ) -> Result<Self, String> {
        let endpoint = configured(config, id)?;
        let settings = adapter(id, endpoint, secrets, bucket)?;
        let clock = wall_clock(env);
        let adapter = AwsStore::connect(settings, clock.clone())
            .await
            .map_err(|error| error.to_string())?;
        let if_match_quoted = adapter.if_match_quoted();
        let meter = Arc::new(Meter::default());
        let metered = Metered::new(Arc::new(adapter), meter.clone());
        let once = Arc::new(Limited::new(Arc::new(metered), limits(endpoint)));
        let policy = RetryPolicy {
            attempts_max: endpoint.attempts_max as u32,
            ..RetryPolicy::default()
        };
        let store = Retry::new(once.clone(), policy, env.seed()).metered(meter.clone());
        let quick = RetryPolicy {
            attempts_max: QUICK_ATTEMPTS_MAX,
            deadline_ms: QUICK_DEADLINE_MS,
            ..policy
        };
        let quick = Retry::new(once.clone(), quick, env.seed()).metered(meter.clone());
        Ok(Self {
            once,
            store: Arc::new(store),
            quick: Arc::new(quick),
            meter,
            if_match_quoted,
            clock,
            probe_id: env.new_id(),
        })
    }

    /// Sets how tags are sent in conditions.
    pub(crate) fn set_if_match_quoted(&self, quoted: bool) {
        self.if_match_quoted
            .store(quoted, std::sync::atomic::Ordering::Relaxed);
    }

    /// Whether the bucket can be reached and listed below `prefix` now.
    pub(crate) async fn contact(&self, prefix: &str) -> Result<(), String> {
        let request = ListRequest {
            keys_max: 1,
            ..ListRequest::new(folder(prefix)?)
        };
        let listed = self.quick.list(&request).await;
        listed.map(|_| ()).map_err(|error| error.to_string())
    }

    /// Finds out what the bucket can do below `prefix`. What fails is in the report.
    pub(crate) async fn probe(&self, prefix: &str) -> Result<Report, String> {
        let prefix = folder(prefix)?;
        let options = ProbeOptions {
            id: self.probe_id.clone(),
            clock: self.clock.clone(),
            if_match_quoted: Some(self.if_match_quoted.clone()),
            signature_window: true,
        };
        Ok(probe(&*self.quick, &prefix, &options).await)
    }
}
