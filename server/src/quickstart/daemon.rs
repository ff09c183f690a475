//! The two programs, set up and started so that the datastore is ready, and stopped in the order that loses nothing.
//!
//! 1. The S3 server, with the keys of the directory.
//! 2. `holdfast setup`, at the first run only.
//! 3. The configuration: where the S3 server is this time, its keys, a port that is free.
//! 4. The daemon.
//! 5. The datastore: made through the daemon at the first run, awaited at later ones.
//!
//! After the backups the daemon is started once more without its cache, so that what is restored then comes from the
//! bucket alone.
//!
//! They stop in the opposite order, so that the daemon can write down in the bucket that it stopped cleanly.

use std::ffi::OsStr;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use http::StatusCode;
use pbs_datastore::{Env, Fingerprint};
use serde::Deserialize;
use serde_json::json;
use tokio::process::Command;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout};
use toml_edit::{DocumentMut, Item, Table};

use super::children::Child;
use super::home::{Home, Keys, free_port, remove_tree};
use crate::client::http::RequestError;
use crate::client::repository::{Access, Repository};
use crate::client::session::{ANSWER_BYTES_MAX, Session};
use crate::config::{self, ConfigStore, SecretsStore};
use crate::daemon::{CONFIG_NAME, secrets_file};
use crate::pace::Pace;
use crate::tls::ServerTls;

/// Names of the datastore, of the S3 server in the configuration, and of the bucket.
const DATASTORE: &str = "quickstart";
const ENDPOINT: &str = "quickstart";
const BUCKET: &str = "quickstart";
/// Who the quick start is to the daemon.
const ADMINISTRATOR: &str = "root@pbs";
/// How long a program may take to start: the S3 server reads the headers of all objects.
const START_MAX: Duration = Duration::from_mins(2);
/// How long the daemon may take to open the datastore, and the pause between two questions.
const OPEN_MAX: Duration = Duration::from_mins(2);
const OPEN_POLL: Duration = Duration::from_millis(100);
/// How long the daemon waits for what runs when it stops, in seconds, and how long is waited for a program to stop.
const SHUTDOWN_SECONDS: i64 = 10;
const STOP_MAX: Duration = Duration::from_secs(45);
/// How long a request that was given up may still take effect: there is no network in between, and the S3 server has
/// nothing to do but write one file.
pub(super) const LATE_REQUEST_MAX: Duration = Duration::from_secs(10);
/// Bound of the cache.
const CACHE_BYTES_MAX: &str = "1 GiB";

/// The running S3 server and daemon.
#[derive(Debug)]
pub(super) struct Programs {
    s3_server: Child,
    daemon: Option<Child>,
    /// URL of the S3 server.
    endpoint: String,
}

/// What the S3 server says when it listens.
#[derive(Debug, Deserialize)]
struct Announcement {
    endpoint: String,
}

/// What `holdfast setup --output-format json` prints, as far as it is needed.
#[derive(Debug, Deserialize)]
struct SetUp {
    password: String,
}

impl Programs {
    /// Starts the S3 server.
    pub(super) async fn start(home: &Home, keys: &Keys) -> anyhow::Result<Self> {
        let bucket = home.bucket();
        let arguments: [&OsStr; 5] = [
            "s3-server".as_ref(),
            "--dir".as_ref(),
            bucket.as_ref(),
            "--bucket".as_ref(),
            BUCKET.as_ref(),
        ];
        let variables = [
            ("HOLDFAST_S3_ACCESS_KEY", keys.access_key.as_str()),
            ("HOLDFAST_S3_SECRET_KEY", keys.secret_key.as_str()),
        ];
        let log = home.log("s3-server");
        let mut s3_server = Child::start("the S3 server", &arguments, &variables, log)?;
        let line = s3_server.first_line(START_MAX).await?;
        let announced: Announcement = serde_json::from_str(&line)
            .with_context(|| format!("the S3 server said '{}'", line.trim()))?;
        Ok(Self {
            s3_server,
            daemon: None,
            endpoint: announced.endpoint,
        })
    }

    /// URL of the S3 server.
    pub(super) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Starts the daemon and waits until the datastore can be used. Completes `keys` and keeps them.
    pub(super) async fn start_daemon(
        &mut self,
        home: &Home,
        keys: &mut Keys,
    ) -> anyhow::Result<Access> {
        let config_file = home.daemon().join(CONFIG_NAME);
        keys.port = free_port(keys.port).context("no port on loopback is free")?;
        if keys.password.is_empty() || !config_file.exists() {
            // Without its password nobody can have used what an interrupted run set up.
            remove_tree(&home.daemon())?;
            keys.password = set_up(&home.daemon(), keys.port).await?;
        }
        home.keep(keys)?;
        configure(&config_file, &self.endpoint, keys)?;
        let access = access(&home.daemon(), keys)?;
        self.serve(home, "daemon", &access).await?;
        Ok(access)
    }

    /// Stops the daemon, removes the cache and starts the daemon again: it knows the bucket for its own, and rebuilds the
    /// cache directory from it.
    pub(super) async fn restart_without_cache(
        &mut self,
        home: &Home,
        access: &Access,
    ) -> anyhow::Result<()> {
        if let Some(daemon) = self.daemon.take() {
            daemon.stop(STOP_MAX).await?;
        }
        let cache = home.cache();
        let removed = spawn_blocking(move || remove_tree(&cache)).await?;
        removed.context("the cache cannot be removed")?;
        self.serve(home, "daemon-restarted", access).await
    }

    /// Starts the daemon and waits until the datastore can be used.
    async fn serve(&mut self, home: &Home, log: &str, access: &Access) -> anyhow::Result<()> {
        let config_file = home.daemon().join(CONFIG_NAME);
        let arguments: [&OsStr; 3] = ["serve".as_ref(), "--config".as_ref(), config_file.as_ref()];
        let variables = [(crate::parent::VARIABLE, "1"), ("NO_COLOR", "1")];
        let daemon = Child::start("the daemon", &arguments, &variables, home.log(log))?;
        self.daemon = Some(daemon);
        let deadline = Instant::now() + OPEN_MAX;
        let mut session = None;
        loop {
            let last = match ask_for_datastore(home, access, &mut session).await {
                Ok(true) => return Ok(()),
                Ok(false) => "the datastore is being opened".to_owned(),
                // It does not listen yet, or takes its time.
                Err(error @ (RequestError::Connection { .. } | RequestError::Timeout { .. })) => {
                    error.to_string()
                }
                Err(error) => return Err(error.into()),
            };
            self.check()?;
            if Instant::now() > deadline {
                let what = format!("was not ready after {} s: {last}", OPEN_MAX.as_secs());
                return Err(match &self.daemon {
                    Some(daemon) => daemon.failure(&what),
                    None => anyhow::anyhow!("the daemon {what}"),
                });
            }
            sleep(OPEN_POLL).await;
        }
    }

    /// Fails if one of them has ended.
    fn check(&mut self) -> anyhow::Result<()> {
        self.s3_server.check()?;
        self.daemon.as_mut().map_or(Ok(()), Child::check)
    }

    /// Waits until one of them ends by itself.
    pub(super) async fn ended(&mut self) -> anyhow::Error {
        let Some(daemon) = &mut self.daemon else {
            return self.s3_server.ended().await;
        };
        tokio::select! {
            error = self.s3_server.ended() => error,
            error = daemon.ended() => error,
        }
    }

    /// Stops both. The S3 server is stopped also if the daemon fails to.
    pub(super) async fn stop(self) -> anyhow::Result<()> {
        let daemon = match self.daemon {
            Some(daemon) => daemon.stop(STOP_MAX).await,
            None => Ok(()),
        };
        let s3_server = self.s3_server.stop(STOP_MAX).await;
        daemon.and(s3_server)
    }
}

/// Runs `holdfast setup`; answers the administrator's password, which is shown only then.
async fn set_up(dir: &Path, port: u16) -> anyhow::Result<String> {
    let program = std::env::current_exe().context("this program's own file is not known")?;
    let running = Command::new(program)
        .args(["setup", "--output-format", "json", "--listen"])
        .arg(address(port).to_string())
        .arg("--dir")
        .arg(dir)
        .kill_on_drop(true)
        .output();
    let output = timeout(START_MAX, running)
        .await
        .with_context(|| format!("setup did not end within {} s", START_MAX.as_secs()))??;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("setup in {} failed: {}", dir.display(), said.trim());
    }
    let set_up: SetUp =
        serde_json::from_slice(&output.stdout).context("what setup printed is not understood")?;
    Ok(set_up.password)
}

/// Where the daemon listens.
fn address(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// Writes what changes from run to run into the configuration of the daemon, which is not running.
fn configure(config_file: &Path, endpoint: &str, keys: &Keys) -> anyhow::Result<()> {
    let state_dir = config_file.parent().unwrap_or(Path::new("/"));
    let store = ConfigStore::open(config_file)?;
    store.edit(None, |document| set_places(document, endpoint, keys.port))?;
    let secrets = SecretsStore::open(&secrets_file(state_dir))?;
    secrets.edit(None, |document| {
        let table = config::section(document, "s3", ENDPOINT)?;
        config::set(table, "access-key", Some(keys.access_key.as_str()));
        config::set(table, "secret-key", Some(keys.secret_key.as_str()));
        Ok(())
    })?;
    Ok(())
}

fn set_places(document: &mut DocumentMut, endpoint: &str, port: u16) -> Result<(), String> {
    let server = document
        .entry("server")
        .or_insert_with(|| Item::Table(Table::new()))
        .as_table_mut()
        .ok_or("[server] must be a table")?;
    let listen = toml_edit::Array::from_iter([address(port).to_string()]);
    config::set(server, "listen", Some(listen));
    config::set(server, "shutdown-seconds", Some(SHUTDOWN_SECONDS));
    let s3 = config::section(document, "s3", ENDPOINT)?;
    config::set(s3, "endpoint", Some(endpoint));
    Ok(())
}

/// How the datastore is reached: the daemon's own certificate is the only one to believe.
fn access(state_dir: &Path, keys: &Keys) -> anyhow::Result<Access> {
    let tls = ServerTls::load_or_create(state_dir, "localhost", Env::system().now())?;
    Ok(Access {
        repository: Repository {
            auth_id: ADMINISTRATOR.parse()?,
            host: Ipv4Addr::LOCALHOST.to_string(),
            port: keys.port,
            datastore: DATASTORE.parse()?,
        },
        secret: keys.password.clone(),
        fingerprint: Some(Fingerprint(*tls.fingerprint().as_bytes())),
        pace: Pace::default(),
        answer_bytes_max: ANSWER_BYTES_MAX,
    })
}

/// Whether the datastore is open; makes it if there is none.
async fn ask_for_datastore(
    home: &Home,
    access: &Access,
    session: &mut Option<Session>,
) -> Result<bool, RequestError> {
    let session = match session {
        Some(session) => session,
        None => session.insert(Session::open(access).await?),
    };
    let list = session.get("/config/datastore", &[]).await?;
    let rows = list["data"].as_array().map_or(&[][..], Vec::as_slice);
    if !rows.iter().any(|row| row["name"] == DATASTORE) {
        let cache: PathBuf = home.cache();
        let settings = json!({
            "name": DATASTORE,
            "backend": "s3",
            "s3": ENDPOINT,
            "bucket": BUCKET,
            "cache-dir": cache.to_string_lossy(),
            "cache-bytes-max": CACHE_BYTES_MAX,
            "late-request-max-seconds": LATE_REQUEST_MAX.as_secs(),
            "gc-atime-cutoff-minutes": 0,
            "comment": "made by holdfast quickstart",
        });
        session.post("/config/datastore", &settings).await?;
    }
    let path = session.datastore("status");
    match session.get(&path, &[]).await {
        Ok(_) => Ok(true),
        Err(RequestError::Refused { status, .. }) if status == StatusCode::SERVICE_UNAVAILABLE => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}
