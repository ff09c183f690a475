//! What is measured: a daemon, an S3 server in a process of its own, and the proxy between them.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use pbs_datastore::BackupTime;
use serde_json::Value;
use tokio::time::Instant;

use super::noise::Image;
use super::proxy::{Proxy, ProxyOptions};
use crate::binary::holdfast;
use crate::daemon::Daemon;
use crate::process::Guarded;
use crate::s3_server::{Access, BUCKET};

/// Name of the datastore.
pub const STORE: &str = "main";
/// Name of the S3 server in the configuration.
const S3_ID: &str = "measured";
/// How long an answer of the S3 server's counters may take.
const COUNTERS_TIME_MAX: Duration = Duration::from_secs(20);

/// `holdfast s3-server` over a directory.
#[derive(Debug)]
pub struct S3Process {
    process: Guarded,
    address: SocketAddr,
    access: Access,
    log: PathBuf,
}

impl S3Process {
    /// Starts one over `dir`, with its access log beside it. Writes are answered before they are on the disk: what is measured is the daemon.
    pub fn start(dir: &Path) -> Result<Self> {
        let log = dir.with_extension("log");
        Self::run(
            dir,
            log.clone(),
            &[OsStr::new("--access-log"), log.as_os_str()],
        )
    }

    /// The same without an access log, which would grow for as long as it runs.
    pub fn start_without_log(dir: &Path) -> Result<Self> {
        Self::run(dir, PathBuf::new(), &[])
    }

    fn run(dir: &Path, log: PathBuf, arguments: &[&OsStr]) -> Result<Self> {
        let (access_key, secret_key) = ("HOLDFASTFIGURES", "secret-of-the-figures");
        let mut command = holdfast()?.command();
        command
            .arg("s3-server")
            .args(arguments)
            .args(["--no-sync", "--bucket", BUCKET, "--dir"])
            .arg(dir)
            .env("HOLDFAST_S3_ACCESS_KEY", access_key)
            .env("HOLDFAST_S3_SECRET_KEY", secret_key)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        let mut process = Guarded::spawn(&mut command)?;
        let stdout = process
            .child()
            .stdout
            .take()
            .context("no standard output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let told: Value = serde_json::from_str(&line)
            .with_context(|| format!("the S3 server did not start: '{}'", line.trim()))?;
        let text = |name: &str| -> Result<String> {
            let text = told[name].as_str().map(ToOwned::to_owned);
            text.with_context(|| format!("the S3 server did not tell its {name}: {told}"))
        };
        Ok(Self {
            process,
            address: text("address")?.parse()?,
            access: Access {
                endpoint: text("endpoint")?,
                access_key: access_key.to_owned(),
                secret_key: secret_key.to_owned(),
            },
            log,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether it has ended, and how.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.process.ended()
    }

    /// Its access log.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// How to reach it without the proxy.
    pub fn access(&self) -> &Access {
        &self.access
    }

    /// What it was asked so far, by S3's names of the operations.
    pub fn counters(&self) -> Result<Value> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(COUNTERS_TIME_MAX))?;
        let path = s3_client::serve::COUNTERS_PATH;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n",
            self.address
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body);
        let body = body.filter(|_| answer.starts_with("HTTP/1.1 200"));
        let body = body.with_context(|| format!("the S3 server's counters: {answer}"))?;
        Ok(serde_json::from_str(body)?)
    }
}

/// How a site is set up.
#[derive(Clone, Debug)]
pub struct SiteOptions<'a> {
    /// Added to every S3 request.
    pub delay: Duration,
    /// Most bytes per second between daemon and S3 server, each way.
    pub bytes_per_second: Option<u64>,
    /// Bound of the cache, as the configuration writes it.
    pub cache_bytes_max: &'a str,
    /// Lines for the daemon's section `[server]`.
    pub server: &'a [&'a str],
    /// More options of `holdfast datastore create`.
    pub store: &'a [&'a str],
}

/// Daemon, proxy and S3 server with one datastore, [`STORE`]; the daemon runs.
pub struct Site {
    daemon: Daemon,
    proxy: Proxy,
    s3: S3Process,
}

impl Site {
    /// Sets everything up in a temporary directory (`TMPDIR` says where) and starts it.
    pub fn start(options: &SiteOptions<'_>) -> Result<Self> {
        Self::start_with_s3(options, &[])
    }

    /// The same with more options of `holdfast s3 add`.
    pub fn start_with_s3(options: &SiteOptions<'_>, settings: &[&str]) -> Result<Self> {
        let daemon = Daemon::set_up(options.server)?;
        let s3 = S3Process::start(&daemon.dir().join("bucket"))?;
        let proxy = Proxy::start(ProxyOptions {
            upstream: s3.address,
            delay: options.delay,
            bytes_per_second: options.bytes_per_second,
        })?;
        let access = Access {
            endpoint: proxy.endpoint(),
            ..s3.access.clone()
        };
        let site = Self { daemon, proxy, s3 };
        site.daemon.start()?;
        site.daemon.add_s3(S3_ID, &access, settings)?;
        let cache = site.cache_dir();
        let cache = cache.to_str().context("a temporary directory in UTF-8")?;
        let mut arguments = vec!["datastore", "create", STORE, "--s3", S3_ID];
        arguments.extend(["--bucket", BUCKET, "--cache-dir", cache]);
        arguments.extend(["--cache-bytes-max", options.cache_bytes_max]);
        arguments.extend(options.store);
        site.daemon.manage(&arguments)?.success()?;
        Ok(site)
    }

    /// The daemon.
    pub fn daemon(&self) -> &Daemon {
        &self.daemon
    }

    /// What lies between daemon and S3 server.
    pub fn proxy(&self) -> &Proxy {
        &self.proxy
    }

    /// The S3 server.
    pub fn s3(&self) -> &S3Process {
        &self.s3
    }

    /// How to reach the S3 server through the proxy, as the daemon does.
    pub fn slow_access(&self) -> Access {
        Access {
            endpoint: self.proxy.endpoint(),
            ..self.s3.access.clone()
        }
    }

    /// Number of the daemon's process.
    pub fn daemon_pid(&self) -> Result<u32> {
        self.daemon.pid().context("the daemon does not run")
    }

    /// The datastore's cache directory.
    pub fn cache_dir(&self) -> PathBuf {
        self.daemon.cache_dir(STORE)
    }

    /// Where chunks and temporary files lie in the cache directory: what the bound of the cache is about.
    pub fn cached_dirs(&self) -> Vec<PathBuf> {
        let cache = self.cache_dir();
        vec![cache.join(".chunks"), cache.join(".holdfast/tmp")]
    }

    /// Stops the daemon in an orderly way, removes its cache directory, and starts it again: everything that is read
    /// after that comes from the bucket.
    pub fn empty_cache(&self) -> Result<()> {
        self.daemon.stop()?;
        let cache = self.cache_dir();
        std::fs::remove_dir_all(&cache)
            .with_context(|| format!("cannot remove '{}'", cache.display()))?;
        self.daemon.start()
    }

    /// Restores `disk.img` of a snapshot to a pipe and compares every byte. Returns how long the command took.
    pub fn restore_image(
        &self,
        snapshot: &str,
        image: &Image,
        limit: Duration,
    ) -> Result<Duration> {
        let arguments = ["restore", snapshot, "disk.img", "-"];
        let mut command = self.daemon.client_command(STORE, &arguments)?;
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let began = Instant::now();
        let mut process = Guarded::spawn(&mut command)?;
        let stdout = process.child().stdout.take();
        image
            .compare(stdout.context("no standard output")?)
            .context("the restored image is not the one that was backed up")?;
        let status = process.wait(limit);
        let taken = began.elapsed();
        ensure!(
            status.is_some_and(|status| status.success()),
            "the restore failed: {status:?}"
        );
        Ok(taken)
    }

    /// Counters of the datastore's cache, since the daemon's start.
    pub fn cache_counters(&self) -> Result<Value> {
        let arguments = ["datastore", "show", STORE, "--output-format", "json"];
        let shown = self.daemon.manage(&arguments)?.success()?.json()?;
        let counters = shown["cache"].clone();
        ensure!(counters.is_object(), "no counters of the cache in {shown}");
        Ok(counters)
    }

    /// Forgets every snapshot of a group. Returns how many there were.
    pub fn forget_group(&self, group: &str) -> Result<u64> {
        let listed = self
            .daemon
            .client_json(STORE, &["snapshot", "list", group])?;
        let rows = listed.as_array().context("a list of snapshots")?;
        for row in rows {
            let time = row["backup-time"].as_i64().context("a time")?;
            let snapshot = format!("{group}/{}", BackupTime::new(time)?);
            self.daemon
                .client(STORE, &["snapshot", "forget", &snapshot])?
                .success()?;
        }
        Ok(rows.len() as u64)
    }

    /// Collects garbage once and returns the status.
    pub fn collect_garbage(&self) -> Result<Value> {
        self.daemon.client(STORE, &["gc", "start"])?.success()?;
        self.daemon.client_json(STORE, &["gc", "status"])
    }
}

/// How long is waited between two tries of what a daemon refuses for a while.
const TRY_AGAIN: Duration = Duration::from_millis(500);

impl Site {
    /// The same after a kill, when collections have to wait until no request of the time before can take effect. The
    /// error is that of the last try within `limit`.
    pub fn collect_garbage_within(&self, limit: Duration) -> Result<Value> {
        let began = Instant::now();
        loop {
            let tried = self.collect_garbage();
            if tried.is_ok() || began.elapsed() > limit {
                return tried;
            }
            std::thread::sleep(TRY_AGAIN);
        }
    }
}

impl Drop for Site {
    /// Nobody writes into the temporary directory any more when it is removed.
    fn drop(&mut self) {
        self.daemon.kill();
        self.s3.process.kill();
    }
}
