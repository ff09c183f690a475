//! What the configuration says, checked. Every setting is documented with its default, unit and bounds; the names in the
//! file are those of the fields, in kebab-case.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer};

use super::job::{PruneJob, VerifyJob};
use super::maintenance::Maintenance;
use super::notify::Notify;
use super::s3::S3Endpoint;
use super::size::ByteCount;
use super::sync::{Remote, SyncJob};
use super::traffic::TrafficRule;
use crate::auth::{Acl, AclEntry, TokenId, UserId};
use crate::calendar::CalendarEvent;

/// The whole configuration at one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Config {
    /// SHA-256 of the file's bytes, 64 hex digits: whoever edits says which content was seen.
    pub(crate) digest: String,
    /// `[server]`
    pub(crate) server: Server,
    /// `[datastore.NAME]`
    pub(crate) datastores: BTreeMap<String, Datastore>,
    /// `[s3.ID]`
    pub(crate) s3: BTreeMap<String, S3Endpoint>,
    /// `[prune.ID]`
    pub(crate) prune: BTreeMap<String, PruneJob>,
    /// `[verify.ID]`
    pub(crate) verify: BTreeMap<String, VerifyJob>,
    /// `[sync.ID]`
    pub(crate) sync: BTreeMap<String, SyncJob>,
    /// `[notify.ID]`
    pub(crate) notify: BTreeMap<String, Notify>,
    /// `[remote.ID]`
    pub(crate) remotes: BTreeMap<String, Remote>,
    /// `[traffic-control.NAME]`
    pub(crate) traffic: BTreeMap<String, TrafficRule>,
    /// `[user."NAME@REALM"]`
    pub(crate) users: BTreeMap<UserId, Account>,
    /// `[token."NAME@REALM!TOKEN"]`
    pub(crate) tokens: BTreeMap<TokenId, Account>,
    /// `[[acl]]`, in the order of the file.
    pub(crate) acl_entries: Vec<AclEntry>,
    /// The same, arranged for lookups.
    pub(crate) acl: Acl,
}

impl Config {
    /// The S3 server of a datastore in a bucket.
    pub(crate) fn endpoint_of(&self, store: &str) -> Option<&S3Endpoint> {
        match &self.datastores.get(store)?.backend {
            Backend::Filesystem { .. } => None,
            Backend::S3(backend) => self.s3.get(&backend.endpoint),
        }
    }
}

/// `[server]`: the daemon as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Server {
    /// Addresses and ports to listen on, 1 to 16. Default: `["[::]:8007"]`, all addresses of both kinds.
    pub(crate) listen: Vec<SocketAddr>,
    /// The name in the certificate made at the first start and in task ids. Default: the machine's host name.
    pub(crate) hostname: Option<String>,
    /// Certificate chain in PEM, absolute path; with `key-file`. Default: a self-signed one made at the first start.
    pub(crate) certificate_file: Option<PathBuf>,
    /// Private key in PEM, absolute path, readable by its owner only; with `certificate-file`.
    pub(crate) key_file: Option<PathBuf>,
    /// `error`, `warn`, `info`, `debug` or `trace`. Default: `info`.
    pub(crate) log_level: LogLevel,
    /// `text` or `json`. Default: `text`.
    pub(crate) log_format: LogFormat,
    /// How long a stop waits for running sessions and jobs, 1 to 3600 s. Default: 60.
    pub(crate) shutdown_seconds: u64,
    /// Memory for windows and bodies in flight, all sessions together, 64 MiB to 64 GiB. Default: 256 MiB.
    pub(crate) memory_budget_bytes: ByteCount,
    /// Open connections, 8 to 65536. Default: 512.
    pub(crate) connections_max: u64,
    /// Backup sessions at once, 1 to 4096. Default: 64.
    pub(crate) backup_sessions_max: u64,
    /// Reader sessions at once, 1 to 4096. Default: 128.
    pub(crate) reader_sessions_max: u64,
    /// How long a backup may be silent before it is ended and its locks are freed, 60 to 86400 s. Readers may be silent
    /// as long as they answer pings. Default: 3600.
    pub(crate) session_idle_seconds: u64,
    /// Failed logins in a row after which an account is locked, 0 for never, up to 1000. Default: 10.
    pub(crate) login_failures_max: u64,
    /// How long, 10 to 86400 s. Default: 600.
    pub(crate) login_lock_seconds: u64,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::from(([0_u16; 8], 8007))],
            hostname: None,
            certificate_file: None,
            key_file: None,
            log_level: LogLevel::Info,
            log_format: LogFormat::Text,
            shutdown_seconds: 60,
            memory_budget_bytes: ByteCount::mib(256),
            connections_max: 512,
            backup_sessions_max: 64,
            reader_sessions_max: 128,
            session_idle_seconds: 3600,
            login_failures_max: 10,
            login_lock_seconds: 600,
        }
    }
}

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum LogLevel {
    /// A human must look.
    Error,
    /// Something is not as it should be.
    Warn,
    /// What happens.
    Info,
    /// Retries and decisions.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// The name, as log filters know it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// `[datastore.NAME]`, the name a safe id of 3 to 32 characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Datastore {
    /// Where the chunks are: `backend` and the settings that belong to it.
    pub(crate) backend: Backend,
    /// One line of at most 256 bytes. Default: none.
    pub(crate) comment: Option<String>,
    /// `gc-atime-cutoff-minutes`: how long an unused chunk is kept at least, 0 to 2880 min. Default: 1445 (24 h 5 min).
    pub(crate) gc_atime_cutoff_minutes: u64,
    /// `late-request-max-seconds`: how long a request that was given up may still take effect in the network or the
    /// server, 0 to 86400 s. Default: 900.
    pub(crate) late_request_max_seconds: u64,
    /// `sync-level`: `none`, `file` or `filesystem`. Default: `filesystem`.
    pub(crate) sync_level: SyncLevel,
    /// `verify-new`: verify each snapshot right after its backup; reads all of it back. Default: false.
    pub(crate) verify_new: bool,
    /// `quota`: how many bytes of chunks may be stored, at least 1 MiB, or 0 for any number. Default: 0.
    pub(crate) quota: ByteCount,
    /// `gc-schedule`: when garbage is collected, a calendar event. Default: never by itself.
    pub(crate) gc_schedule: Option<CalendarEvent>,
    /// `gc-jitter-seconds`: how much later at most, 0 to 86400 s. Default: 0.
    pub(crate) gc_jitter_seconds: u64,
    /// `maintenance-mode`: `read-only` or `offline`, with or without a message. Default: none.
    pub(crate) maintenance: Option<Maintenance>,
}

/// Where a datastore's chunks are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Backend {
    /// `backend = "filesystem"`
    Filesystem {
        /// The datastore's directory, an absolute path. Required.
        path: PathBuf,
    },
    /// `backend = "s3"`
    S3(S3Backend),
}

impl Backend {
    /// The name on the wire.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Filesystem { .. } => "filesystem",
            Self::S3(_) => "s3",
        }
    }
}

/// The settings of `backend = "s3"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct S3Backend {
    /// `s3`: which `[s3.ID]`. Required.
    pub(crate) endpoint: String,
    /// `bucket`, 3 to 63 characters. Required.
    pub(crate) bucket: String,
    /// `prefix`: where in the bucket, without slashes at the ends. Default: the datastore's name.
    pub(crate) prefix: String,
    /// `cache-dir`: directory of the cache, an absolute path of this datastore alone. Required.
    pub(crate) cache_dir: PathBuf,
    /// `cache-bytes-max`: bound of the cache, at least 256 MiB. Required.
    pub(crate) cache_bytes_max: ByteCount,
}

/// What is flushed to disk before a backup counts as finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum SyncLevel {
    /// Nothing.
    None,
    /// Each chunk file.
    File,
    /// The whole file system, once at the end.
    #[default]
    Filesystem,
}

/// A user or an API token.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Account {
    /// Whether it may do anything at all. Default: true.
    pub(crate) enable: bool,
    /// From when on it may not: Unix seconds or an RFC 3339 text; 0 is never. Default: 0.
    pub(crate) expire: Expiry,
    /// One line of at most 256 bytes. Default: none.
    pub(crate) comment: Option<String>,
}

impl Default for Account {
    fn default() -> Self {
        Self {
            enable: true,
            expire: Expiry::NEVER,
            comment: None,
        }
    }
}

impl Account {
    /// Whether it may act at `now` (Unix seconds).
    pub(crate) fn is_active(&self, now: i64) -> bool {
        self.enable && (self.expire == Expiry::NEVER || now < self.expire.0)
    }
}

/// A moment in Unix seconds; 0 is never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Expiry(pub(crate) i64);

impl Expiry {
    /// Does not expire.
    pub(crate) const NEVER: Self = Self(0);
}

struct ExpiryVisitor;

impl serde::de::Visitor<'_> for ExpiryVisitor {
    type Value = Expiry;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Unix seconds, or a time such as \"2030-01-01T00:00:00Z\"")
    }

    fn visit_i64<E: serde::de::Error>(self, seconds: i64) -> Result<Expiry, E> {
        if seconds < 0 {
            return Err(E::custom("a time is not negative"));
        }
        Ok(Expiry(seconds))
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Expiry, E> {
        let time: Timestamp = text.parse().map_err(|_| {
            E::custom("write the time in Unix seconds, or as \"2030-01-01T00:00:00Z\"")
        })?;
        self.visit_i64(time.as_second())
    }
}

impl<'de> Deserialize<'de> for Expiry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ExpiryVisitor)
    }
}
