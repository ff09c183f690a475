//! `holdfast serve`: the daemon's start and end.
//!
//! Start: 1. the lock of the state directory; 2. configuration and secrets, all faults at once; 3. certificate, task logs,
//! accounts; 4. the sockets; 5. the datastores, which are opened in the background. End, on SIGTERM or SIGINT: no new
//! work; sessions, calls and jobs get `shutdown-seconds`; then the datastores are closed, all at once, which records a
//! clean stop where nothing was cut off. All of that has one deadline, `shutdown-seconds` and [`CLOSE_MAX`] after the
//! signal; what is not done by then is left to the next start. A second signal ends the process at once. SIGHUP loads the certificate and the
//! configuration anew.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use pbs_datastore::Env;
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::api::Caller;
use crate::app::{ApiHandler, App, ReadyCheck, bind};
use crate::config::{Config, LogFormat, open_both};
use crate::control::Control;
use crate::daemon::{CONFIG_FILE, Daemon, DirectoryLock, hostname, secrets_file, state_dir_of};
use crate::jobs::run_scheduler;
use crate::jobs::verify::verify_new;
use crate::log_lines::LogLines;
use crate::notify::run_notifier;
use crate::protocol::{Access, Protocol};
use crate::shutdown::{Drained, stop_signal};
use crate::stores::StoreState;
use crate::tls::ServerTls;

/// How often the files are looked at for changes made by hand.
const REFRESH_EVERY: Duration = Duration::from_secs(10);
/// How long a stop may take beyond `shutdown-seconds`: the datastores record how they were left.
const CLOSE_MAX: Duration = Duration::from_secs(10);
/// How long of that the end waits at most for tasks that belong to nobody any more.
const DRAIN_MAX: Duration = Duration::from_secs(2);
/// Libraries whose details help nobody here. The SDK would have its own connections marked as broken, and calls it an
/// error that ours, which look after themselves, are not among them.
const QUIET: &str = "hyper=info,h2=info,rustls=info,aws_config=warn,aws_smithy_runtime=warn,\
                     aws_smithy_runtime::client::http::connection_poisoning=off,aws_sdk_s3=warn";

/// `holdfast serve`
#[derive(Debug, clap::Args)]
pub(crate) struct ServeArgs {
    /// The configuration file.
    #[arg(long, env = "HOLDFAST_CONFIG", default_value = CONFIG_FILE, value_name = "FILE")]
    config: PathBuf,
}

fn begin_logging(config: &Config) {
    let level = config.server.log_level.name();
    let filter = EnvFilter::new(format!("{level},audit=info,{QUIET}"));
    let colours = std::io::stderr().is_terminal();
    let logging = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // A log that nobody reads any more is no reason to stop: the complaint would go the same way, and panic.
        .log_internal_errors(false)
        .with_ansi(colours)
        .with_writer(move || LogLines::new(std::io::stderr(), colours));
    // Fails only if there is a log already.
    let begun = match config.server.log_format {
        LogFormat::Text => logging.try_init(),
        LogFormat::Json => logging.json().try_init(),
    };
    drop(begun);
}

/// The certificate and its key; the pair of the state directory is made if it is missing and `may_make`.
fn load_tls(daemon: &Daemon, may_make: bool) -> anyhow::Result<ServerTls> {
    let config = daemon.config.read();
    let files = (&config.server.certificate_file, &config.server.key_file);
    let (state_dir, now) = (&daemon.state_dir, daemon.clock.now());
    let tls = match files {
        (Some(certificate), Some(key)) => ServerTls::load(certificate, key),
        _ if may_make => ServerTls::load_or_create(state_dir, &hostname(&config), now),
        _ => ServerTls::load_made(state_dir),
    };
    Ok(tls?)
}

fn assemble(config_file: &Path, env: Env) -> anyhow::Result<Arc<Daemon>> {
    let state_dir = state_dir_of(config_file).with_context(|| {
        format!(
            "there is no set-up at '{}'; make one with: holdfast setup --dir DIR, and name its file with --config or HOLDFAST_CONFIG",
            config_file.display()
        )
    })?;
    let lock = DirectoryLock::take(&state_dir)?;
    let (config, _) = open_both(config_file, &secrets_file(&state_dir))?;
    begin_logging(&config.read());
    Ok(Daemon::assemble(config_file, lock, env)?)
}

/// What the two protocols need of the daemon.
pub(crate) fn protocol(daemon: &Arc<Daemon>) -> Protocol {
    let (stores, verifying) = (daemon.stores.clone(), daemon.clone());
    Protocol {
        env: daemon.env.clone(),
        authority: daemon.authority.clone(),
        config: daemon.config.clone(),
        tasks: daemon.tasks.clone(),
        sessions: daemon.sessions.clone(),
        memory: daemon.memory.clone(),
        shutdown: daemon.shutdown.clone(),
        delays: daemon.delays,
        strangers: daemon.strangers.clone(),
        traffic: daemon.traffic.clone(),
        datastore: Arc::new(move |name, access| match access {
            Access::Write => stores.get_writable(name.as_str()),
            Access::Read => stores.get(name.as_str()),
        }),
        finished: Arc::new(move |subject| verify_new(&verifying, subject)),
    }
}

/// Ready once every datastore was tried, unless none of them can be used. Anyone may ask, so no datastore is named.
pub(crate) fn ready_check(daemon: &Arc<Daemon>) -> ReadyCheck {
    let daemon = daemon.clone();
    Arc::new(move || {
        let config = daemon.config.read();
        let mut faulty = 0;
        for name in config.datastores.keys() {
            match daemon.stores.state(name) {
                Some(StoreState::Opening) => {
                    return Err("a datastore is being opened".to_owned());
                }
                Some(StoreState::Open(_)) => {}
                _ => faulty += 1,
            }
        }
        if faulty == 0 || faulty < config.datastores.len() {
            return Ok(());
        }
        Err("no datastore is available; the log says why".to_owned())
    })
}

/// The REST calls, for connections from the network.
pub(crate) fn api_handler(daemon: &Arc<Daemon>) -> ApiHandler {
    let daemon = daemon.clone();
    Arc::new(move |request, peer| {
        let daemon = daemon.clone();
        Box::pin(async move {
            let caller = Caller::Network(peer.ip().to_canonical());
            daemon.respond(request, caller).await
        })
    })
}

/// Loads the certificate anew; what cannot be used changes nothing.
async fn reload_tls(daemon: &Arc<Daemon>, tls: &ServerTls) {
    let loading = Arc::clone(daemon);
    match daemon.env.io(move |_| load_tls(&loading, false)).await {
        Ok(new) => {
            tls.replace_by(&new);
            tracing::info!(fingerprint = %tls.fingerprint(), "the certificate was loaded anew");
        }
        Err(error) => tracing::error!("{error:#}; the certificate from before stays in use"),
    }
}

/// Takes over what was changed by hand, until the daemon stops: the configuration every few seconds, and at once together with the
/// certificate when it is told to (SIGHUP). A faulty file changes nothing and is reported once.
async fn watch_files(daemon: Arc<Daemon>, tls: ServerTls, mut told: Signal) {
    let mut reported = String::new();
    loop {
        let reload = tokio::select! {
            () = daemon.shutdown.requested() => return,
            told = told.recv() => told.is_some(),
            () = tokio::time::sleep(REFRESH_EVERY) => false,
        };
        if reload {
            reported.clear();
        }
        let (config, secrets) = (daemon.config.clone(), daemon.secrets.clone());
        let seen = daemon
            .env
            .io(move |_| {
                Ok::<_, crate::config::ConfigError>((secrets.refresh()?, config.refresh()?))
            })
            .await;
        match seen {
            Ok((false, false)) => {}
            Ok(_) => {
                tracing::info!("the configuration was changed and is in force");
                daemon.stores.apply_settings();
                daemon.traffic.apply(|| daemon.config.read());
                daemon.reopen();
                daemon.jobs.look_again();
                reported.clear();
            }
            Err(error) => {
                let text = error.to_string();
                if text != reported {
                    tracing::error!("{text}; what was read before stays in force");
                    reported = text;
                }
            }
        }
        if reload {
            // Where it is may have been changed just now.
            reload_tls(&daemon, &tls).await;
        }
    }
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager cannot be told");
    }
}

impl ServeArgs {
    /// Runs the daemon until it is asked to stop.
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let env = Env::system();
        let (file, inner) = (self.config.clone(), env.clone());
        let daemon = tokio::task::spawn_blocking(move || assemble(&file, inner)).await??;
        let tls = load_tls(&daemon, true)?;
        let hangups = signal(SignalKind::hangup()).context("signals cannot be received")?;
        let config = daemon.config.read();
        let listeners = bind(&config.server.listen).await?;
        let control =
            Control::bind(&daemon.state_dir).context("the control socket cannot be made")?;
        daemon.stores.open_all();

        let connections_max = config.server.connections_max;
        let app = App::new(
            protocol(&daemon),
            api_handler(&daemon),
            ready_check(&daemon),
            connections_max,
        );
        for listener in listeners {
            let address = listener.local_addr()?;
            tracing::info!(%address, fingerprint = %tls.fingerprint(), "listening");
            let (app, tls) = (app.clone(), tls.config());
            drop(env.spawn(async move { app.listen(listener, tls).await }));
        }
        drop(env.spawn(control.serve(daemon.clone())));
        drop(env.spawn(watch_files(daemon.clone(), tls, hangups)));
        drop(env.spawn(run_notifier(daemon.clone())));
        drop(env.spawn(run_scheduler(daemon.clone())));
        notify(&[NotifyState::Ready]);
        stop_signal().await.context("signals cannot be received")?;
        stop(&daemon).await;
        Ok(())
    }
}

/// The orderly end; a second signal makes it a disorderly one.
async fn stop(daemon: &Arc<Daemon>) {
    let seconds = daemon.config.read().server.shutdown_seconds;
    let (asked, patience) = (daemon.env.instant(), Duration::from_secs(seconds));
    let by = asked + patience + CLOSE_MAX;
    let told = (patience + CLOSE_MAX + Duration::from_secs(5)).as_micros();
    notify(&[
        NotifyState::Stopping,
        // The service manager's own patience may be less.
        NotifyState::ExtendTimeoutUsec(u32::try_from(told).unwrap_or(u32::MAX)),
    ]);
    tracing::info!(seconds, "stopping; what runs gets this long");
    let orderly = async {
        if let Drained::CutOff(count) = daemon.shutdown.drain(patience).await {
            tracing::warn!(count, "the time is up; what still runs is cut off");
            daemon.tasks.abort_all();
        }
        daemon.stores.close_all(by - DRAIN_MAX).await;
        daemon.env.drain(DRAIN_MAX).await;
    };
    tokio::select! {
        biased;
        () = orderly => tracing::info!("stopped"),
        _ = stop_signal() => tracing::warn!("stopped at once, on a second signal"),
    }
}
