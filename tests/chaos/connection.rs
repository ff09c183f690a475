//! A client's connection to the daemon: REST calls over HTTP/1.1, and its upgrade to the HTTP/2 of a session.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
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

/// How long a connection, an upgrade or a small REST answer may take. The daemon may be stopped for a while, and answers
/// to some calls only when the bucket has answered.
const STEP_TIME_MAX: Duration = Duration::from_secs(90);
/// More than any chunk, index or list of this run.
const ANSWER_BYTES_MAX: usize = 24 << 20;

/// Why something did not work out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The daemon said no.
    Refused {
        /// HTTP status.
        status: u16,
        /// Its words.
        sentence: String,
    },
    /// The connection could not be made, or broke.
    Broken(String),
    /// There was no answer in time.
    Silent(&'static str),
    /// The daemon did, or gave back, something else than it should.
    Wrong(String),
    /// The client gave up because it wanted to.
    Chosen(&'static str),
}

fn broken(error: impl std::fmt::Display) -> Trouble {
    Trouble::Broken(error.to_string())
}

/// An answer in time, or [`Trouble::Silent`].
async fn in_time<T>(
    doing: &'static str,
    work: impl Future<Output = Result<T, Trouble>>,
) -> Result<T, Trouble> {
    match timeout(STEP_TIME_MAX, work).await {
        Ok(done) => done,
        Err(_) => Err(Trouble::Silent(doing)),
    }
}

/// `a=b&c=d`, escaped.
pub(crate) fn query(parameters: &[(&str, String)]) -> String {
    let escaped = parameters
        .iter()
        .map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC)));
    escaped.collect::<Vec<_>>().join("&")
}

/// Where to connect, and as whom.
#[derive(Clone, Debug)]
pub(crate) struct Entrance {
    pub(crate) address: SocketAddr,
    pub(crate) tls: Arc<ClientConfig>,
    pub(crate) authorization: String,
}

/// A connection for REST calls.
pub(crate) struct Connection {
    entrance: Entrance,
    sender: http1::SendRequest<Full<Bytes>>,
    driver: JoinSet<()>,
}

impl Connection {
    /// Connects.
    pub(crate) async fn open(entrance: &Entrance) -> Result<Self, Trouble> {
        in_time("connect", async {
            let stream = TcpStream::connect(entrance.address).await.map_err(broken)?;
            stream.set_nodelay(true).map_err(broken)?;
            let name = ServerName::IpAddress(entrance.address.ip().into());
            let connector = tokio_rustls::TlsConnector::from(Arc::clone(&entrance.tls));
            let stream = connector.connect(name, stream).await.map_err(broken)?;
            let handshake = http1::handshake(TokioIo::new(stream)).await;
            let (sender, connection) = handshake.map_err(broken)?;
            let mut driver = JoinSet::new();
            driver.spawn(async move {
                // Whoever waits for an answer is told of an error.
                drop(connection.with_upgrades().await);
            });
            Ok(Self {
                entrance: entrance.clone(),
                sender,
                driver,
            })
        })
        .await
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        parameters: &[(&str, String)],
    ) -> http::request::Builder {
        let query = query(parameters);
        let separator = if query.is_empty() { "" } else { "?" };
        Request::builder()
            .method(method)
            .uri(format!("/api2/json/{path}{separator}{query}"))
            .header(header::HOST, self.entrance.address.to_string())
            .header(header::AUTHORIZATION, &self.entrance.authorization)
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Trouble> {
        self.sender.ready().await.map_err(broken)?;
        self.sender.send_request(request).await.map_err(broken)
    }

    /// A call; the member `data` of its answer.
    pub(crate) async fn call(
        &mut self,
        method: Method,
        path: &str,
        parameters: &[(&str, String)],
    ) -> Result<Value, Trouble> {
        let request = self.request(method, path, parameters).body(Full::default());
        let request = request.map_err(broken)?;
        in_time("a call", async {
            let answer = self.send(request).await?;
            data(&read(answer).await?)
        })
        .await
    }

    /// Becomes a session of the protocol `name`.
    pub(crate) async fn upgrade(
        mut self,
        path: &str,
        name: &'static str,
        parameters: &[(&str, String)],
    ) -> Result<Session, Trouble> {
        let request = self
            .request(Method::GET, path, parameters)
            .header(header::CONNECTION, "upgrade")
            .header(header::UPGRADE, name)
            .body(Full::default());
        let request = request.map_err(broken)?;
        in_time("an upgrade", async {
            let answer = self.send(request).await?;
            if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
                read(answer).await?;
                return Err(Trouble::Wrong("the protocol was not changed".to_owned()));
            }
            let upgraded = hyper::upgrade::on(answer).await.map_err(broken)?;
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder
                .initial_stream_window_size(8 << 20)
                .initial_connection_window_size(16 << 20);
            let (sender, connection) = builder.handshake(upgraded).await.map_err(broken)?;
            self.driver.spawn(async move {
                drop(connection.await);
            });
            Ok(Session {
                sender,
                _driver: self.driver,
            })
        })
        .await
    }
}

/// An HTTP/2 session; dropping it breaks the connection, which abandons it.
pub(crate) struct Session {
    sender: http2::SendRequest<Full<Bytes>>,
    _driver: JoinSet<()>,
}

impl Session {
    /// Sends a request and reads its answer. Dropping the future resets the stream.
    pub(crate) async fn ask(
        &self,
        method: Method,
        name: &str,
        parameters: &[(&str, String)],
        body: Bytes,
    ) -> Result<Bytes, Trouble> {
        let query = query(parameters);
        let separator = if query.is_empty() { "" } else { "?" };
        let kind = match body.first() {
            None => "application/x-www-form-urlencoded",
            Some(b'{') => "application/json",
            Some(_) => "application/octet-stream",
        };
        let request = Request::builder()
            .method(method)
            .uri(format!("https://localhost/{name}{separator}{query}"))
            .header(header::CONTENT_TYPE, kind)
            .body(Full::new(body))
            .map_err(broken)?;
        let mut sender = self.sender.clone();
        sender.ready().await.map_err(broken)?;
        let answer = sender.send_request(request).await.map_err(broken)?;
        read(answer).await
    }

    /// The same for answers in JSON.
    pub(crate) async fn call(
        &self,
        method: Method,
        name: &str,
        parameters: &[(&str, String)],
        body: Bytes,
    ) -> Result<Value, Trouble> {
        data(&self.ask(method, name, parameters, body).await?)
    }
}

async fn read(answer: Response<Incoming>) -> Result<Bytes, Trouble> {
    let status = answer.status();
    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX);
    let body = body.collect().await.map_err(broken)?.to_bytes();
    if status.is_success() {
        return Ok(body);
    }
    Err(Trouble::Refused {
        status: status.as_u16(),
        sentence: String::from_utf8_lossy(&body).trim().to_owned(),
    })
}

fn data(body: &[u8]) -> Result<Value, Trouble> {
    let envelope: Result<BTreeMap<String, Value>, _> = serde_json::from_slice(body);
    let data = envelope
        .ok()
        .and_then(|mut envelope| envelope.remove("data"));
    data.ok_or_else(|| {
        let text = String::from_utf8_lossy(body);
        Trouble::Wrong(format!("an answer without data: '{text}'"))
    })
}
