//! A daemon full of other people's things, and an honest client that must not notice anything.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use holdfast_tests::attack::http1::{Answer, Connection, Request};
use holdfast_tests::attack::http2::Session;
use holdfast_tests::attack::peer::Peer;
use holdfast_tests::content;
use holdfast_tests::daemon::Daemon;
use holdfast_tests::process::{Output, run, say};
use holdfast_tests::s3_server::{EmbeddedS3, S3Server as _};
use serde_json::Value;
use tokio::runtime::Runtime;

use super::accounts::{self, ADMIN, HONEST, STORE, secret_of, token_header};
use super::usage::Usage;

/// What the daemon may take for windows and bodies, all together.
pub(crate) const BUDGET_BYTES: u64 = 64 << 20;
/// What it may take besides under any attack: connections, their buffers, tables, and what the allocator keeps.
pub(crate) const BESIDE_BUDGET_BYTES: u64 = 96 << 20;
/// How long an honest client may take for one backup and one restore of some megabytes, whatever goes on beside it.
const HONEST_TIME_MAX: Duration = Duration::from_secs(30);
/// How long what a client that has gone left behind may take to go.
pub(crate) const SETTLE_MAX: Duration = Duration::from_secs(15);
/// Pieces of 4 MiB that the honest client backs up.
const HONEST_PIECES: u64 = 2;
/// Settings of the daemon.
const SETTINGS: [&str; 2] = ["memory-budget-bytes = \"64 MiB\"", "connections-max = 4096"];

/// A daemon, who is known to it, and how to reach it.
pub(crate) struct World {
    /// The daemon.
    pub(crate) daemon: Daemon,
    /// Where attacks run.
    pub(crate) runtime: Runtime,
    /// How to reach it.
    pub(crate) peer: Peer,
    rounds: AtomicU64,
    image: PathBuf,
    // Its bucket is asked by one call only.
    _s3: EmbeddedS3,
}

impl World {
    /// Sets it up with the two datastores and all accounts, and starts it.
    pub(crate) fn new() -> Result<Self> {
        Self::with(&[])
    }

    /// The same with more settings for `[server]`; those given twice count as given here.
    pub(crate) fn with(settings: &[&str]) -> Result<Self> {
        Self::with_more(settings, "")
    }

    /// The same with more of a configuration.
    pub(crate) fn with_more(settings: &[&str], config: &str) -> Result<Self> {
        let s3 = EmbeddedS3::start()?;
        let name = |setting: &str| setting.split('=').next().unwrap_or_default().to_owned();
        let given: Vec<String> = settings.iter().map(|setting| name(setting)).collect();
        let mut all: Vec<&str> = SETTINGS.to_vec();
        all.retain(|setting| !given.contains(&name(setting)));
        all.extend(settings);
        let daemon = Daemon::set_up(&all)?;
        accounts::write(&daemon, &s3.access())?;
        daemon.edit_config(|text| format!("{text}\n{config}"))?;
        let image = daemon.dir().join("honest-image");
        content::write_image(&image, 7, HONEST_PIECES)?;
        daemon.start()?;
        let peer = Peer::new(daemon.address()?, daemon.fingerprint())?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        Ok(Self {
            daemon,
            runtime,
            peer,
            rounds: AtomicU64::new(0),
            image,
            _s3: s3,
        })
    }

    /// What honest clients back up.
    pub(crate) fn image(&self) -> PathBuf {
        self.image.clone()
    }

    /// Number of the daemon's process.
    pub(crate) fn pid(&self) -> Result<u32> {
        self.daemon.pid().context("the daemon does not run")
    }

    /// A request of a token.
    pub(crate) fn request(token: &str, method: &str, path: &str) -> Request {
        let (name, value) = token_header(token, &secret_of(token));
        Request::new(method, &format!("/api2/json/{path}")).with(&name, &value)
    }

    /// A call of a token on a connection of its own.
    pub(crate) async fn call(&self, token: &str, method: &str, path: &str) -> Result<Answer> {
        let mut connection = Connection::open(&self.peer).await?;
        connection.ask(&Self::request(token, method, path)).await
    }

    /// A call of the administrator that must succeed; its data.
    pub(crate) fn admin(&self, method: &str, path: &str) -> Result<Value> {
        let answer = self.runtime.block_on(self.call(ADMIN, method, path))?;
        let told = || format!("{method} {path}: {} {}", answer.status, answer.text());
        ensure!(answer.status == 200, told());
        Ok(answer.json()?["data"].take())
    }

    /// Opens a session of a protocol; the answer that refuses it, if it is refused.
    pub(crate) async fn upgrade(
        &self,
        token: &str,
        protocol: &str,
        query: &str,
    ) -> Result<Result<Connection, Answer>> {
        let mut connection = Connection::open(&self.peer).await?;
        let name = match protocol {
            "backup" => "proxmox-backup-protocol-v1",
            _ => "proxmox-backup-reader-protocol-v1",
        };
        let request = World::request(token, "GET", &format!("{protocol}?{query}"))
            .with("Connection", "upgrade")
            .with("Upgrade", name);
        let answer = connection.ask(&request).await?;
        Ok(match answer.status {
            101 => Ok(connection),
            _ => Err(answer),
        })
    }

    /// A connection upgraded for a backup of a token into `host/ID`, on which nothing was said yet.
    pub(crate) async fn backup_connection(&self, token: &str, id: &str) -> Result<Connection> {
        let time = 1_700_000_000 + self.rounds.fetch_add(1, Ordering::Relaxed);
        let query = format!("store={STORE}&backup-type=host&backup-id={id}&backup-time={time}");
        let upgraded = self.upgrade(token, "backup", &query).await?;
        upgraded.map_err(|answer| anyhow::anyhow!("{}: {}", answer.status, answer.text()))
    }

    /// A session that backs up into `host/ID` of a token.
    pub(crate) async fn backup_session(&self, token: &str, id: &str) -> Result<Session> {
        Session::begin_with_room(self.backup_connection(token, id).await?).await
    }

    /// A connection upgraded to read the only snapshot in `host/ID`, on which nothing was said yet.
    pub(crate) async fn reader_connection(&self, token: &str, id: &str) -> Result<Connection> {
        let time = self.snapshot_time(id).await?;
        let query = format!("store={STORE}&backup-type=host&backup-id={id}&backup-time={time}");
        let upgraded = self.upgrade(token, "reader", &query).await?;
        upgraded.map_err(|answer| anyhow::anyhow!("{}: {}", answer.status, answer.text()))
    }

    /// When the newest snapshot in `host/ID` was made.
    pub(crate) async fn snapshot_time(&self, id: &str) -> Result<u64> {
        let path = format!("admin/datastore/{STORE}/snapshots?backup-type=host&backup-id={id}");
        let answer = self.call(ADMIN, "GET", &path).await?;
        let time = answer.json()?["data"][0]["backup-time"].as_u64();
        time.with_context(|| format!("no snapshot in host/{id}: {}", answer.text()))
    }

    /// Runs a client command of a token.
    pub(crate) fn client(&self, token: &str, arguments: &[&str]) -> Result<Output> {
        let mut command = self.daemon.client_command(STORE, arguments)?;
        let repository = format!("{token}@{}:{STORE}", self.daemon.address()?);
        command
            .env("PBS_REPOSITORY", repository)
            .env("PBS_PASSWORD", secret_of(token));
        run(&mut command, b"", HONEST_TIME_MAX)
    }

    /// Backs up the image of the honest client as a token into `host/ID`, maybe in a namespace.
    pub(crate) fn back_up(&self, token: &str, id: &str, namespace: &str) -> Result<()> {
        let source = format!("disk.img:{}", self.image.display());
        let arguments = ["backup", &source, "--backup-id", id, "--ns", namespace];
        let count = if namespace.is_empty() { 4 } else { 6 };
        self.client(token, &arguments[..count])?.success()?;
        Ok(())
    }

    /// One round of the honest client: backup, restore, comparison.
    pub(crate) fn honest_round(&self) -> Result<()> {
        let id = format!("honest-{}", self.rounds.fetch_add(1, Ordering::Relaxed));
        self.back_up(HONEST, &id, "")?;
        let target = self.daemon.dir().join(format!("{id}-back"));
        let text = target.to_str().context("a path in UTF-8")?;
        self.client(
            HONEST,
            &["restore", &format!("host/{id}"), "disk.img", text],
        )?
        .success()?;
        content::compare_files(&self.image, &target)?;
        std::fs::remove_file(&target)?;
        Ok(())
    }

    /// Runs an attack with an honest client beside it, at least one whole round, and one after it. Nothing that the
    /// attack took may stay taken, and at its height the daemon may hold `bytes_max` more than before.
    pub(crate) fn beside<T: Send>(
        &self,
        name: &str,
        bytes_max: u64,
        attack: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        // What is made at first use is no growth.
        self.honest_round()?;
        let pid = self.pid()?;
        let before = Usage::of(pid)?;
        Usage::forget_peak(pid)?;
        let (outcome, rounds) = std::thread::scope(|scope| {
            let attacking = scope.spawn(|| self.runtime.block_on(attack));
            let mut rounds = 0_u64;
            let honest = loop {
                if let Err(error) = self.honest_round() {
                    break Err(error);
                }
                rounds += 1;
                if attacking.is_finished() {
                    break Ok(());
                }
            };
            let outcome = attacking.join().ok().context("the attack panicked");
            (honest.and(outcome), rounds)
        });
        let outcome = outcome
            .context("beside the attack")?
            .context("the attack")?;
        let held = Usage::of(pid)?;
        self.honest_round().context("after the attack")?;
        let after = before.comes_back(pid)?;
        before.peak_at_most(&held, bytes_max)?;
        self.no_session_is_left()?;
        say(&format!(
            "security: {name}: {rounds} rounds of an honest client beside it; at most {} MiB more, {} MiB more after it, \
             files {} -> {}, threads {} -> {}",
            held.peak.saturating_sub(before.resident) >> 20,
            after.resident.saturating_sub(before.resident) >> 20,
            before.files,
            after.files,
            before.threads,
            after.threads
        ));
        Ok(outcome)
    }

    fn no_session_is_left(&self) -> Result<()> {
        let path = format!("admin/datastore/{STORE}/sessions");
        let sessions = holdfast_tests::process::wait_for(SETTLE_MAX, || {
            let sessions = self.admin("GET", &path);
            match &sessions {
                Ok(Value::Array(list)) if !list.is_empty() => None,
                _ => Some(sessions),
            }
        });
        sessions.context("sessions of the attack are still open")??;
        Ok(())
    }

    /// Runs a test's body; when it fails, the end of the daemon's log is shown with the error.
    pub(crate) fn explain(&self, body: impl FnOnce() -> Result<()>) {
        self.daemon.explain(body);
    }
}
