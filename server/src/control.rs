//! The control socket: how management commands on this machine talk to the running daemon.
//!
//! `STATE/control.sock`, mode 0600, takes HTTP/1.1 with the same calls as the network does. Whoever can open it owns the
//! daemon's files anyway, so no credentials are asked for and every call is the superuser's. The user at the other end is
//! checked besides: only the daemon's own and root.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use crate::api::Caller;
use crate::daemon::Daemon;
use crate::places::Line;

const SOCKET_NAME: &str = "control.sock";
/// The longest path that a socket's address holds, in bytes.
const ADDRESS_BYTES_MAX: usize = 107;
/// Commands at the same time.
const CONNECTIONS_MAX: usize = 16;
/// Pause after a failed accept, such as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// Largest answer a command reads, in bytes.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// A path to the socket that fits an address. A long one goes by way of the open directory; the file keeps it open.
#[derive(Debug)]
struct Address {
    path: PathBuf,
    _directory: Option<std::fs::File>,
}

impl Address {
    fn of(state_dir: &Path) -> io::Result<Self> {
        use std::os::fd::AsRawFd as _;
        let path = state_dir.join(SOCKET_NAME);
        if path.as_os_str().len() <= ADDRESS_BYTES_MAX {
            return Ok(Self {
                path,
                _directory: None,
            });
        }
        let directory = std::fs::File::open(state_dir)?;
        let path = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
        Ok(Self {
            path: path.join(SOCKET_NAME),
            _directory: Some(directory),
        })
    }
}

/// The daemon's end of the socket.
#[derive(Debug)]
pub(crate) struct Control {
    listener: UnixListener,
    path: PathBuf,
}

impl Control {
    /// Listens. What an earlier process left is replaced; the caller holds the directory, so nobody else listens.
    pub(crate) fn bind(state_dir: &Path) -> io::Result<Self> {
        let address = Address::of(state_dir)?;
        match std::fs::remove_file(&address.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&address.path)?;
        // Between these two lines others may connect where the umask lets them, which the check of the user refuses.
        std::fs::set_permissions(&address.path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self {
            listener,
            path: state_dir.join(SOCKET_NAME),
        })
    }

    /// Answers until the daemon stops.
    pub(crate) async fn serve(self, daemon: Arc<Daemon>) {
        let turns = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let accepted = tokio::select! {
                biased;
                () = daemon.shutdown.requested() => break,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let Ok(turn) = turns.clone().try_acquire_owned() else {
                        continue;
                    };
                    let served = daemon.clone();
                    drop(daemon.env.spawn(async move {
                        let _turn = turn;
                        serve_one(stream, served).await;
                    }));
                }
                Err(error) => {
                    tracing::warn!(%error, "the control socket cannot accept");
                    daemon.env.sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(%error, "the control socket was removed already");
        }
    }
}

/// Whether the user at the other end is the daemon's own, or root.
fn is_trusted(stream: &UnixStream) -> bool {
    let own = nix::unistd::geteuid().as_raw();
    let peer = stream.peer_cred().map(|peer| peer.uid());
    peer.is_ok_and(|uid| uid == own || uid == 0)
}

async fn serve_one(stream: UnixStream, daemon: Arc<Daemon>) {
    if !is_trusted(&stream) {
        tracing::warn!(target: "audit", "another user tried to use the control socket");
        return;
    }
    let stopping = daemon.shutdown.clone();
    let line = Line::default();
    let service = service_fn(|mut request: Request<Incoming>| {
        let daemon = daemon.clone();
        request.extensions_mut().insert(line.clone());
        async move {
            let response = daemon.respond(request, Caller::Owner).await;
            Ok::<_, std::convert::Infallible>(response)
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        biased;
        ended = &mut connection => ended,
        () = line.hung_up() => return,
        () = stopping.requested() => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                ended = &mut connection => ended,
                () = line.hung_up() => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection to the control socket ended early");
    }
}

/// A command's end: sends one request to the daemon of `state_dir`. `None` if no daemon listens there.
pub(crate) async fn ask(
    state_dir: &Path,
    env: &pbs_datastore::Env,
    request: Request<Full<Bytes>>,
) -> anyhow::Result<Option<Response<Bytes>>> {
    use anyhow::Context as _;
    let address = Address::of(state_dir).context("cannot use the control socket")?;
    let stream = match UnixStream::connect(&address.path).await {
        Ok(stream) => stream,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Ok(None);
        }
        Err(error) => {
            let path = state_dir.join(SOCKET_NAME);
            return Err(error).with_context(|| {
                format!(
                    "cannot talk to the daemon through '{}'; run this command as the daemon's user or as root",
                    path.display()
                )
            });
        }
    };
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .context("the daemon does not answer")?;
    let running = env.spawn(connection);
    let response = sender.send_request(request).await;
    let response = response.context("the daemon ended before it answered")?;
    let (head, body) = response.into_parts();
    let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
    let body = body.map_err(|error| anyhow::anyhow!("the daemon's answer broke off: {error}"))?;
    drop(sender);
    running.abort();
    Ok(Some(Response::from_parts(head, body.to_bytes())))
}
