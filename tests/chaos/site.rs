//! What is put under stress: the daemon, an S3 server in a process of its own, and the proxy between them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use holdfast_tests::account::authorization;
use holdfast_tests::daemon::Daemon;
use holdfast_tests::measure::site::{S3Process, STORE};
use holdfast_tests::s3_server::{Access, BUCKET};
use tokio::sync::watch;

use super::ledger::NAMESPACE;
use super::proxy::Proxy;
use super::second::COPY;
use super::weather::Weather;

/// T. Half of it is what the proxy may use for lateness; the other half is for a busy machine.
pub(crate) const LATE_REQUEST_MAX: Duration = Duration::from_secs(3);
/// The smallest that the configuration takes.
const CACHE_BYTES_MAX: &str = "256 MiB";
const MEMORY_BUDGET: &str = "memory-budget-bytes = \"64 MiB\"";
const TOKEN: &str = "root@pbs!chaos";
const S3_ID: &str = "stormy";

/// How clients enter: where the daemon listens, `None` while it does not run.
#[derive(Debug)]
pub(crate) struct Door(watch::Sender<Option<SocketAddr>>);

impl Door {
    /// Opens it, or closes it with `None`.
    pub(crate) fn set(&self, address: Option<SocketAddr>) {
        self.0.send_replace(address);
    }

    /// The address, at once.
    pub(crate) fn now(&self) -> Option<SocketAddr> {
        *self.0.borrow()
    }

    /// The address, as soon as there is one.
    pub(crate) async fn wait(&self) -> SocketAddr {
        let mut seen = self.0.subscribe();
        loop {
            let address = seen.wait_for(Option::is_some).await;
            // The sender lives as long as this borrow.
            if let Ok(address) = address
                && let Some(address) = *address
            {
                return address;
            }
        }
    }
}

/// Everything that runs.
pub(crate) struct Site {
    pub(crate) daemon: Daemon,
    pub(crate) proxy: Proxy,
    pub(crate) weather: Arc<Weather>,
    pub(crate) door: Door,
    /// Secret of the token that all clients use.
    pub(crate) secret: String,
    s3: Mutex<S3Process>,
    /// To the S3 server past the proxy.
    pub(crate) access: Access,
}

impl Site {
    /// Sets everything up in a temporary directory, in calm weather; the daemon runs.
    pub(crate) fn start(seed: u64) -> Result<Self> {
        let daemon = Daemon::set_up(&[MEMORY_BUDGET])?;
        daemon.edit_config(|text| text.replace("shutdown-seconds = 20", "shutdown-seconds = 5"))?;
        let s3 = S3Process::start_without_log(&daemon.dir().join("bucket"))?;
        let weather = Arc::new(Weather::new(seed, LATE_REQUEST_MAX / 2));
        let proxy = Proxy::start(s3.address(), Arc::clone(&weather))?;
        let access = s3.access().clone();
        let mut site = Self {
            daemon,
            proxy,
            weather,
            door: Door(watch::Sender::new(None)),
            secret: String::new(),
            s3: Mutex::new(s3),
            access,
        };
        site.daemon.start()?;
        site.configure()?;
        site.door.set(Some(site.daemon.address()?));
        Ok(site)
    }

    fn configure(&mut self) -> Result<()> {
        let daemon = &self.daemon;
        let through = Access {
            endpoint: self.proxy.endpoint(),
            ..self.access.clone()
        };
        daemon.add_s3(S3_ID, &through, &[])?;
        let late = LATE_REQUEST_MAX.as_secs().to_string();
        let cache = self.cache_dir();
        let cache = cache.to_str().context("a temporary directory in UTF-8")?;
        let arguments = [
            ["datastore", "create", STORE].as_slice(),
            &["--s3", S3_ID, "--bucket", BUCKET],
            &["--cache-dir", cache, "--cache-bytes-max", CACHE_BYTES_MAX],
            &["--gc-atime-cutoff-minutes", "0", "--verify-new"],
            &["--late-request-max-seconds", &late],
        ]
        .concat();
        daemon.manage(&arguments)?.success()?;
        self.secret = daemon.add_token(TOKEN)?;
        self.daemon.grant("/", TOKEN, "Admin")?;
        let cutoff = ["--gc-atime-cutoff-minutes", "0"];
        self.daemon.add_directory_store(COPY, &cutoff)?;
        self.daemon
            .client(STORE, &["namespace", "create", NAMESPACE])?
            .success()?;
        // Unanswered requests are given up within the run, not within a minute.
        self.daemon.stop()?;
        self.daemon.edit_config(|text| {
            let section = format!("[s3.{S3_ID}]\n");
            let settings = "request-timeout-seconds = 4\nconnect-timeout-seconds = 4\n";
            text.replacen(&section, &format!("{section}{settings}"), 1)
        })?;
        self.daemon.start()
    }

    /// Of the token.
    pub(crate) fn authorization(&self) -> String {
        authorization(TOKEN, &self.secret)
    }

    /// As the client commands want it.
    pub(crate) fn repository(address: SocketAddr) -> String {
        format!("{TOKEN}@{address}:{STORE}")
    }

    /// The datastore's cache directory.
    pub(crate) fn cache_dir(&self) -> PathBuf {
        self.daemon.cache_dir(STORE)
    }

    /// The daemon's own directory.
    pub(crate) fn state_dir(&self) -> &Path {
        self.daemon.config().parent().unwrap_or(Path::new("/"))
    }

    /// Whether the S3 server has ended by itself.
    pub(crate) fn s3_ended(&self) -> bool {
        let mut s3 = self.s3.lock().unwrap_or_else(PoisonError::into_inner);
        s3.ended().is_some()
    }
}

impl Drop for Site {
    /// Nobody writes into the temporary directory any more when it is removed.
    fn drop(&mut self) {
        self.daemon.kill();
    }
}
