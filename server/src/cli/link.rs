//! How a management command reaches the configuration: through the daemon if it runs, otherwise by doing itself what the
//! daemon would have done, under the lock that keeps the daemon from starting meanwhile. Both ways are the same calls.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use pbs_datastore::Env;
use serde_json::Value;

use crate::api::Caller;
use crate::client::task::TaskSource;
use crate::control;
use crate::daemon::{Daemon, DaemonError, DirectoryLock, state_dir_of};

/// How long the datastores that a command has opened may take to close.
const CLOSE_MAX: Duration = Duration::from_secs(30);
/// How long the end of a command waits for what it started; some of it only waits for time to pass.
const DRAIN_MAX: Duration = Duration::from_secs(2);

/// The way to the configuration.
#[derive(Debug)]
pub(super) struct Link {
    env: Env,
    way: Way,
}

#[derive(Debug)]
enum Way {
    /// The daemon with this state directory runs.
    Running(PathBuf),
    /// It does not, and cannot start as long as this lives.
    Down(Arc<Daemon>),
}

fn request(method: Method, path: &str, params: &Value) -> anyhow::Result<Request<Full<Bytes>>> {
    let body = serde_json::to_vec(params)?;
    Request::builder()
        .method(method)
        .uri(format!("/api2/json/{path}"))
        .header(http::header::HOST, "localhost")
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))
        .with_context(|| format!("'{path}' holds characters that no name has"))
}

async fn is_running(env: &Env, state_dir: &Path) -> anyhow::Result<bool> {
    let ping = request(Method::GET, "ping", &Value::Object(serde_json::Map::new()))?;
    Ok(control::ask(state_dir, env, ping).await?.is_some())
}

impl Link {
    /// Finds the way.
    pub(super) async fn open(config: &Path) -> anyhow::Result<Self> {
        let state_dir = state_dir_of(config).with_context(|| {
            format!(
                "there is no set-up at '{}'; make one with: holdfast setup --dir DIR, and name its file with --config or HOLDFAST_CONFIG",
                config.display()
            )
        })?;
        let env = Env::system();
        if is_running(&env, &state_dir).await? {
            let way = Way::Running(state_dir);
            return Ok(Self { env, way });
        }
        demand_owner(&state_dir)?;
        let (dir, file, inner) = (state_dir.clone(), config.to_owned(), env.clone());
        let assembled = tokio::task::spawn_blocking(move || {
            Daemon::assemble(&file, DirectoryLock::take(&dir)?, inner)
        })
        .await?;
        match assembled {
            Ok(daemon) => Ok(Self {
                env,
                way: Way::Down(daemon),
            }),
            // It has started meanwhile.
            Err(DaemonError::InUse(_)) if is_running(&env, &state_dir).await? => Ok(Self {
                env,
                way: Way::Running(state_dir),
            }),
            Err(error) => Err(error.into()),
        }
    }

    /// GETs what is no JSON. A refusal is an error with the sentence of the daemon.
    pub(super) async fn text(&self, path: &str) -> anyhow::Result<String> {
        let nothing = Value::Object(serde_json::Map::new());
        let response = self.respond(request(Method::GET, path, &nothing)?).await?;
        let body = body_of(&response)?;
        Ok(String::from_utf8_lossy(body).into_owned())
    }

    /// Makes a call below `/api2/json` and answers its data. A refusal is an error with the sentence of the daemon.
    pub(super) async fn call(
        &self,
        method: Method,
        path: &str,
        params: Value,
    ) -> anyhow::Result<Value> {
        Ok(self.envelope(method, path, params).await?["data"].take())
    }

    /// The same with everything beside the data.
    async fn envelope(&self, method: Method, path: &str, params: Value) -> anyhow::Result<Value> {
        let response = self.respond(request(method, path, &params)?).await?;
        serde_json::from_slice(body_of(&response)?).context("the daemon's answer is no JSON")
    }

    async fn respond(&self, request: Request<Full<Bytes>>) -> anyhow::Result<Response<Bytes>> {
        match &self.way {
            Way::Running(state_dir) => control::ask(state_dir, &self.env, request)
                .await?
                .context("the daemon has just stopped; repeat the command"),
            Way::Down(daemon) => Ok(daemon.respond_whole(request, Caller::Owner).await),
        }
    }

    /// Refuses what only a daemon that runs can do.
    pub(super) fn demand_running(&self) -> anyhow::Result<()> {
        match &self.way {
            Way::Running(_) => Ok(()),
            Way::Down(_) => bail!("the daemon does not run; start it with: holdfast serve"),
        }
    }

    /// Ends what the command itself has started.
    pub(super) async fn close(self) {
        if let Way::Down(daemon) = &self.way {
            daemon
                .stores
                .close_all(self.env.instant() + CLOSE_MAX)
                .await;
        }
        self.env.drain(DRAIN_MAX).await;
    }
}

/// Files made by another user could not be read by the daemon afterwards.
fn demand_owner(state_dir: &Path) -> anyhow::Result<()> {
    let owner = std::fs::metadata(state_dir)?.uid();
    let own = nix::unistd::geteuid().as_raw();
    if owner == own {
        return Ok(());
    }
    let name = nix::unistd::User::from_uid(owner.into()).ok().flatten();
    let name = name.map_or_else(|| format!("#{owner}"), |user| user.name);
    bail!(
        "'{}' belongs to the user {name}; run the command as that user: sudo -u {name} holdfast …",
        state_dir.display()
    );
}

impl TaskSource for Link {
    async fn ask(&mut self, path: &str, parameters: &[(&str, String)]) -> anyhow::Result<Value> {
        let given = parameters.iter();
        let given = given.map(|(name, value)| ((*name).to_owned(), Value::from(value.clone())));
        let path = path.trim_start_matches('/');
        self.envelope(Method::GET, path, Value::Object(given.collect()))
            .await
    }
}

/// The body of a call that was carried out.
fn body_of(response: &Response<Bytes>) -> anyhow::Result<&Bytes> {
    let body = response.body();
    if response.status() != StatusCode::OK {
        bail!("{}", String::from_utf8_lossy(body).trim());
    }
    Ok(body)
}
