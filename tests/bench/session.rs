//! A client of the daemon that costs as little as possible: REST calls with an API token, and the sessions they become.
//!
//! Nothing is retried and nothing is shown. Windows are large, bodies are sent from where they lie, and answers are read
//! into one buffer. The same HTTP/2 half speaks to the sink of `bench ingest`, so that both are driven by the same code.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use holdfast_tests::daemon::Daemon;
use holdfast_tests::https::pinned;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

/// How long one answer may take: as long as an upload may take that is tried several times.
const ANSWER_TIME_MAX: Duration = Duration::from_mins(10);
/// More than any chunk, index or list of a run.
const ANSWER_BYTES_MAX: usize = 256 << 20;
/// Windows for what is received: no answer ever waits for them.
const STREAM_WINDOW_BYTES: u32 = 32 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 64 << 20;
/// Name of the administrator's API token.
const TOKEN: &str = "benchmark";

/// Parameters of a call.
pub(crate) type Parameters<'a> = &'a [(&'a str, String)];

/// Where to connect, and as whom.
#[derive(Clone, Debug)]
pub(crate) struct Entrance {
    address: SocketAddr,
    tls: Arc<ClientConfig>,
    authorization: String,
}

impl Entrance {
    /// Into a running daemon, with a new API token that may do everything.
    pub(crate) fn into(daemon: &Daemon) -> Result<Self> {
        let token = format!("{}!{TOKEN}", daemon.user());
        let arguments = ["token", "create", &token, "--output-format", "json"];
        let told = daemon.manage(&arguments)?.success()?.json()?;
        let secret = told["value"].as_str().context("the secret of a token")?;
        daemon
            .manage(&["acl", "set", "/", &token, "Admin"])?
            .success()?;
        let authorization = format!("PBSAPIToken {token}:{secret}");
        Self::new(daemon.address()?, daemon.fingerprint(), authorization)
    }

    /// To a server that asks for nothing.
    pub(crate) fn open(address: SocketAddr, fingerprint: &str) -> Result<Self> {
        Self::new(address, fingerprint, String::new())
    }

    fn new(address: SocketAddr, fingerprint: &str, authorization: String) -> Result<Self> {
        Ok(Self {
            address,
            tls: Arc::new(pinned(fingerprint)?),
            authorization,
        })
    }

    /// The same into the same daemon, which was started again and listens elsewhere.
    pub(crate) fn moved(&self, daemon: &Daemon) -> Result<Self> {
        Ok(Self {
            address: daemon.address()?,
            ..self.clone()
        })
    }

    async fn connect(&self) -> Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::IpAddress(self.address.ip().into());
        let connector = tokio_rustls::TlsConnector::from(Arc::clone(&self.tls));
        Ok(connector.connect(name, stream).await?)
    }

    /// Opens a session of the protocol `protocol` at the path `path`.
    pub(crate) async fn session(
        &self,
        path: &str,
        protocol: &'static str,
        parameters: Parameters<'_>,
    ) -> Result<Session> {
        let stream = self.connect().await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let mut driver = JoinSet::new();
        driver.spawn(async move {
            // Whoever waits for an answer is told of an error.
            drop(connection.with_upgrades().await);
        });
        let request = Request::builder()
            .uri(format!("/api2/json/{path}?{}", query(parameters)))
            .header(header::HOST, self.address.to_string())
            .header(header::AUTHORIZATION, &self.authorization)
            .header(header::CONNECTION, "upgrade")
            .header(header::UPGRADE, protocol)
            .body(Full::<Bytes>::default())?;
        let answer = sender.send_request(request).await?;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            read(answer).await?;
            bail!("the protocol was not changed");
        }
        let upgraded = hyper::upgrade::on(answer).await?;
        Session::over(upgraded, driver).await
    }

    /// Speaks HTTP/2 from the first byte.
    pub(crate) async fn direct(&self) -> Result<Session> {
        let stream = TokioIo::new(self.connect().await?);
        Session::over(stream, JoinSet::new()).await
    }
}

/// An HTTP/2 session; dropping it breaks the connection.
pub(crate) struct Session {
    sender: http2::SendRequest<Full<Bytes>>,
    _driver: JoinSet<()>,
}

impl Session {
    async fn over<T>(stream: T, mut driver: JoinSet<()>) -> Result<Self>
    where
        T: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
        let (sender, connection) = builder.handshake(stream).await?;
        driver.spawn(async move {
            drop(connection.await);
        });
        Ok(Self {
            sender,
            _driver: driver,
        })
    }

    /// Sends a request and reads its answer.
    pub(crate) async fn ask(
        &self,
        method: Method,
        name: &str,
        parameters: Parameters<'_>,
        body: Bytes,
    ) -> Result<Bytes> {
        let kind = match body.first() {
            None => "application/x-www-form-urlencoded",
            Some(b'{') => "application/json",
            Some(_) => "application/octet-stream",
        };
        let request = Request::builder()
            .method(method)
            .uri(format!("https://localhost/{name}?{}", query(parameters)))
            .header(header::CONTENT_TYPE, kind)
            .body(Full::new(body))?;
        let mut sender = self.sender.clone();
        let answer = async {
            sender.ready().await?;
            read(sender.send_request(request).await?).await
        };
        let answer = timeout(ANSWER_TIME_MAX, answer).await;
        answer
            .with_context(|| format!("no answer to '{name}' in time"))?
            .with_context(|| format!("'{name}'"))
    }

    /// The same for answers in JSON: their member `data`.
    pub(crate) async fn call(
        &self,
        method: Method,
        name: &str,
        parameters: Parameters<'_>,
        body: Bytes,
    ) -> Result<Value> {
        let body = self.ask(method, name, parameters, body).await?;
        let mut answer: Value = serde_json::from_slice(&body)?;
        ensure!(answer.is_object(), "'{name}' answered {answer}");
        Ok(answer["data"].take())
    }
}

/// `a=b&c=d`, escaped.
fn query(parameters: Parameters<'_>) -> String {
    let escaped = parameters
        .iter()
        .map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC)));
    escaped.collect::<Vec<_>>().join("&")
}

async fn read(answer: Response<Incoming>) -> Result<Bytes> {
    let status = answer.status();
    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX);
    let body = match body.collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => bail!("an answer broke off: {error}"),
    };
    let text = || String::from_utf8_lossy(&body).trim().to_owned();
    ensure!(status.is_success(), "{}: {}", status.as_u16(), text());
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_escaped() {
        let parameters = [("a", "b c/d".to_owned()), ("e", "1".to_owned())];
        assert_eq!(query(&parameters), "a=b%20c%2Fd&e=1");
        assert_eq!(query(&[]), "");
    }
}
