//! The two transports of the protocol: HTTP/1.1 over TLS for REST, and HTTP/2 on the same connection after its upgrade.
//!
//! Waits: 10 s for a connection, 120 s for the head of a REST or upgrade answer, none for an HTTP/2 answer (a chunk may
//! wait for S3); a server that is gone is noticed by unanswered pings. Answers are read up to a bound that the caller
//! names.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use pbs_datastore::{CHUNK_ENCODED_BYTES_MAX, MemoryBudget, MemoryPermit};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::repository::Access;
use super::trust;
use crate::pace::Paced;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const ANSWER_TIMEOUT: Duration = Duration::from_mins(2);
/// The same between two parts of its body.
const SILENCE_MAX: Duration = Duration::from_mins(10);
/// Time between pings, and how long one may stay unanswered.
const PING: Duration = Duration::from_mins(1);
/// Receive window of a stream: more than the largest chunk, so that none waits for a round trip.
const STREAM_WINDOW_BYTES: u32 = 18 << 20;
/// Receive window of the connection: what parallel chunk reads may have on the way.
const CONNECTION_WINDOW_BYTES: u32 = 64 << 20;
const FRAME_BYTES_MAX: u32 = 4 << 20;
/// The same on a connection that is kept to a rate: a ping waits behind a frame.
const PACED_FRAME_BYTES_MAX: u32 = 64 << 10;
/// How long an answer of unknown length waits for memory.
const MEMORY_WAIT_MAX: Duration = Duration::from_mins(1);
/// Most bytes of an error text that are read.
const ERROR_BYTES_MAX: usize = 64 << 10;

/// Why a request got no useful answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    /// The server said no, in its own words.
    #[error("{message}")]
    Refused {
        /// What kind of no.
        status: StatusCode,
        /// The server's text, or the status when there is none.
        message: String,
    },
    /// The certificate is not the right one.
    #[error("{0}")]
    Untrusted(String),
    /// No connection, or it broke.
    #[error("the connection to {server} failed: {reason}")]
    Connection {
        /// Host and port.
        server: String,
        /// What went wrong, down to the cause.
        reason: String,
    },
    /// Silence.
    #[error("{server} did not answer within {seconds} s")]
    Timeout {
        /// Host and port.
        server: String,
        /// How long was waited.
        seconds: u64,
    },
    /// This side has none for the answer.
    #[error("no memory for an answer was free in time: too much is being read and written at once")]
    NoMemory,
    /// An answer that makes no sense.
    #[error("{server} gave an answer that is not understood: {reason}")]
    Answer {
        /// Host and port.
        server: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl RequestError {
    /// The status of a refusal.
    pub(crate) fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Whether the same may succeed in a moment.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Refused { status, .. } => {
                (status.is_server_error() && *status != StatusCode::INSUFFICIENT_STORAGE)
                    || *status == StatusCode::TOO_MANY_REQUESTS
            }
            Self::Connection { .. } | Self::Timeout { .. } => true,
            Self::Untrusted(_) | Self::NoMemory | Self::Answer { .. } => false,
        }
    }
}

/// An error with all its causes, each once.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

/// `a=b&c=d` with everything but letters and digits escaped, sorted by name; empty without parameters.
pub(crate) fn query(parameters: &[(&str, String)]) -> String {
    let mut parts: Vec<_> = parameters
        .iter()
        .map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC)))
        .collect();
    parts.sort();
    parts.join("&")
}

/// An HTTP/1.1 connection over TLS.
pub(super) struct Http1 {
    server: String,
    sender: http1::SendRequest<Full<Bytes>>,
    /// Runs the connection until this value is dropped.
    driver: JoinSet<()>,
    /// It is kept to a rate.
    paced: bool,
}

impl Http1 {
    /// Connects to the server of `access` and checks its certificate.
    pub(super) async fn connect(access: &Access) -> Result<Self, RequestError> {
        let repository = &access.repository;
        let server = format!("{}:{}", repository.shown_host(), repository.port);
        let failed = |reason: String| RequestError::Connection {
            server: server.clone(),
            reason,
        };
        let (config, verifier) =
            trust::client_config(access.fingerprint).map_err(RequestError::Untrusted)?;
        let name = repository.certified_host().to_owned();
        let name = ServerName::try_from(name)
            .map_err(|_| failed(format!("'{}' is no host name", repository.host)))?;
        let connect = async {
            let address = (repository.host.as_str(), repository.port);
            let stream = TcpStream::connect(address)
                .await
                .map_err(|error| failed(error.to_string()))?;
            stream
                .set_nodelay(true)
                .map_err(|error| failed(error.to_string()))?;
            let stream = Paced::new(stream, access.pace.clone());
            let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
            connector
                .connect(name, stream)
                .await
                .map_err(|error| match verifier.refusal() {
                    Some(refusal) if is_about_certificate(&error) => {
                        RequestError::Untrusted(refusal)
                    }
                    _ => failed(causes(&error)),
                })
        };
        let waited = timeout(CONNECT_TIMEOUT, connect).await;
        let seconds = CONNECT_TIMEOUT.as_secs();
        let stream = waited.map_err(|_| RequestError::Timeout {
            server: server.clone(),
            seconds,
        })??;
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| failed(causes(&error)))?;
        let mut driver = JoinSet::new();
        driver.spawn(async move {
            // Whoever waits for an answer is told of an error; nobody else needs to know.
            drop(connection.with_upgrades().await);
        });
        Ok(Self {
            server,
            sender,
            driver,
            paced: access.pace.is_limited(),
        })
    }

    /// Whether the server has closed the connection.
    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Sends one request and waits for the head of its answer.
    pub(super) async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, RequestError> {
        let failed = |error: hyper::Error| RequestError::Connection {
            server: self.server.clone(),
            reason: causes(&error),
        };
        let exchange = async {
            self.sender.ready().await?;
            self.sender.send_request(request).await
        };
        let seconds = ANSWER_TIMEOUT.as_secs();
        let answer = timeout(ANSWER_TIMEOUT, exchange).await;
        answer
            .map_err(|_| RequestError::Timeout {
                server: self.server.clone(),
                seconds,
            })?
            .map_err(failed)
    }

    /// The body of a successful answer, or the server's refusal.
    pub(super) async fn body(
        &self,
        answer: Response<Incoming>,
        bytes_max: usize,
    ) -> Result<Bytes, RequestError> {
        read(&self.server, answer, bytes_max).await
    }

    /// The body of a successful answer part by part, or the server's refusal.
    pub(super) async fn stream(
        &self,
        answer: Response<Incoming>,
    ) -> Result<BodyParts, RequestError> {
        if !answer.status().is_success() {
            read(&self.server, answer, ERROR_BYTES_MAX).await?;
            return Err(RequestError::Answer {
                server: self.server.clone(),
                reason: "it is no file".to_owned(),
            });
        }
        Ok(BodyParts {
            server: self.server.clone(),
            body: answer.into_body(),
        })
    }

    /// Turns the connection into HTTP/2, after an upgrade that was answered with 101.
    pub(super) async fn into_h2(self, answer: Response<Incoming>) -> Result<H2, RequestError> {
        let Self {
            server,
            driver,
            paced,
            ..
        } = self;
        let frame_bytes_max = if paced {
            PACED_FRAME_BYTES_MAX
        } else {
            FRAME_BYTES_MAX
        };
        let failed = |error: hyper::Error| RequestError::Connection {
            server: server.clone(),
            reason: causes(&error),
        };
        let upgraded = hyper::upgrade::on(answer).await.map_err(failed)?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_frame_size(frame_bytes_max)
            .keep_alive_interval(PING)
            .keep_alive_timeout(PING)
            .keep_alive_while_idle(true)
            .handshake(upgraded)
            .await
            .map_err(failed)?;
        let mut driver = driver;
        driver.spawn(async move {
            drop(connection.await);
        });
        Ok(H2 {
            server,
            sender,
            _driver: driver,
        })
    }
}

/// A body that is taken as it arrives.
pub(crate) struct BodyParts {
    server: String,
    body: Incoming,
}

impl BodyParts {
    /// How long it is, if the server has said so.
    pub(crate) fn bytes(&self) -> Option<u64> {
        self.body.size_hint().exact()
    }

    /// The next part; `None` at its end. One that ends before its announced length is an error.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, RequestError> {
        let part = next_part(&mut self.body).await;
        part.map_err(|reason| RequestError::Connection {
            server: self.server.clone(),
            reason,
        })
    }
}

fn is_about_certificate(error: &std::io::Error) -> bool {
    let inner = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(inner, Some(rustls::Error::InvalidCertificate(_)))
}

/// An HTTP/2 session. Dropping it drops the connection, which is how this protocol abandons a session.
pub(crate) struct H2 {
    server: String,
    sender: http2::SendRequest<Parts>,
    _driver: JoinSet<()>,
}

/// An answer that is still to come; holds what it needs, so that many can be awaited in any order.
pub(crate) type Answer = Pin<Box<dyn Future<Output = Result<Bytes, RequestError>> + Send>>;

impl H2 {
    /// Sends a request at once, without waiting for earlier ones; the answer is awaited separately and holds at most
    /// `bytes_max` bytes. `json` bodies are announced as such.
    pub(crate) fn send(
        &self,
        method: Method,
        target: &str,
        body: Parts,
        bytes_max: usize,
    ) -> Answer {
        let (server, head) = (self.server.clone(), self.head(method, target, body));
        Box::pin(async move { read(&server, head.await?, bytes_max).await })
    }

    /// Reads something of which nobody knows how long it is, `bytes_max` at most, with memory for a body of the longest kind: for a longer
    /// one more may never be free at once.
    pub(crate) async fn fetch(
        &self,
        target: &str,
        bytes_max: usize,
        budget: &MemoryBudget,
    ) -> Result<(Bytes, MemoryPermit), RequestError> {
        let bytes = CHUNK_ENCODED_BYTES_MAX.min(bytes_max) as u64;
        let permit = budget.take(bytes, MEMORY_WAIT_MAX).await;
        let mut permit = permit.ok_or(RequestError::NoMemory)?;
        let answer = self.send(Method::GET, target, Parts::empty(), bytes_max);
        let bytes = answer.await?;
        permit.shrink_to(bytes.len() as u64);
        Ok((bytes, permit))
    }

    /// Sends a request at once; its answer is awaited separately.
    fn head(
        &self,
        method: Method,
        target: &str,
        body: Parts,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Incoming>, RequestError>> + Send>> {
        let content_type = match body.kind {
            BodyKind::Json => "application/json",
            BodyKind::Raw => "application/octet-stream",
            BodyKind::Empty => "application/x-www-form-urlencoded",
        };
        let server = self.server.clone();
        let request = Request::builder()
            .method(method)
            .uri(format!("https://localhost:8007{target}"))
            .header(header::CONTENT_TYPE, HeaderValue::from_static(content_type))
            .header(header::USER_AGENT, USER_AGENT)
            .body(body);
        // The request is on its way when this returns; only the answer is waited for below.
        let sent = request.map(|request| self.sender.clone().send_request(request));
        Box::pin(async move {
            let answer = match sent {
                Ok(sent) => sent.await.map_err(|error| causes(&error)),
                Err(error) => Err(error.to_string()),
            };
            answer.map_err(|reason| RequestError::Connection { server, reason })
        })
    }

    /// Like [`H2::send`] for calls that answer with JSON: its member `data`.
    pub(crate) async fn call(
        &self,
        method: Method,
        target: &str,
        body: Parts,
    ) -> Result<serde_json::Value, RequestError> {
        let answer = self.send(method, target, body, ERROR_BYTES_MAX).await?;
        self.data(&answer)
    }

    /// The member `data` of an answer.
    pub(crate) fn data(&self, answer: &[u8]) -> Result<serde_json::Value, RequestError> {
        let mut envelope = json(&self.server, answer)?;
        envelope
            .get_mut("data")
            .map(serde_json::Value::take)
            .ok_or_else(|| self.misunderstood("it has no member 'data'"))
    }

    /// An answer that makes no sense.
    pub(crate) fn misunderstood(&self, reason: &str) -> RequestError {
        RequestError::Answer {
            server: self.server.clone(),
            reason: reason.to_owned(),
        }
    }
}

/// How we name ourselves.
pub(super) const USER_AGENT: HeaderValue =
    HeaderValue::from_static(concat!("holdfast/", env!("CARGO_PKG_VERSION")));

/// Reads JSON.
pub(super) fn json(server: &str, text: &[u8]) -> Result<serde_json::Value, RequestError> {
    serde_json::from_slice(text).map_err(|error| RequestError::Answer {
        server: server.to_owned(),
        reason: error.to_string(),
    })
}

/// The body of a successful answer of at most `bytes_max` bytes; anything else is a refusal with the server's text.
async fn read(
    server: &str,
    answer: Response<Incoming>,
    bytes_max: usize,
) -> Result<Bytes, RequestError> {
    let status = answer.status();
    let bytes_max = if status.is_success() {
        bytes_max
    } else {
        ERROR_BYTES_MAX
    };
    let body = collect(Limited::new(answer.into_body(), bytes_max)).await;
    let body = body.map_err(|reason| RequestError::Connection {
        server: server.to_owned(),
        reason,
    });
    if status.is_success() {
        return body;
    }
    let text = String::from_utf8_lossy(&body.unwrap_or_default()).replace(char::is_control, " ");
    let message = match text.trim() {
        "" if status == StatusCode::UNAUTHORIZED => "user name or password is wrong".to_owned(),
        "" => format!("the server answered {status}"),
        text => text.to_owned(),
    };
    Err(RequestError::Refused { status, message })
}

/// The next part of a body. A server that falls silent in its middle is given up: HTTP/1.1 has no pings.
async fn next_part<B>(body: &mut B) -> Result<Option<Bytes>, String>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    loop {
        let frame = timeout(SILENCE_MAX, body.frame()).await;
        let frame = frame.map_err(|_| format!("silence for {} s", SILENCE_MAX.as_secs()))?;
        match frame {
            Some(Ok(frame)) => {
                if let Ok(part) = frame.into_data() {
                    return Ok(Some(part));
                }
            }
            Some(Err(error)) => return Err(causes(&*error.into())),
            None => return Ok(None),
        }
    }
}

/// The whole of a body.
async fn collect(mut body: Limited<Incoming>) -> Result<Bytes, String> {
    let mut parts = Vec::new();
    while let Some(part) = next_part(&mut body).await? {
        parts.push(part);
    }
    Ok(match parts.len() {
        1 => parts.swap_remove(0),
        _ => parts.concat().into(),
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BodyKind {
    Empty,
    Json,
    Raw,
}

/// A request body of a few buffers, sent without joining them.
#[derive(Debug)]
pub(crate) struct Parts {
    kind: BodyKind,
    parts: VecDeque<Bytes>,
}

impl Parts {
    /// No body.
    pub(crate) fn empty() -> Self {
        Self {
            kind: BodyKind::Empty,
            parts: VecDeque::new(),
        }
    }

    /// JSON.
    pub(crate) fn json(value: &serde_json::Value) -> Self {
        Self {
            kind: BodyKind::Json,
            parts: VecDeque::from([Bytes::from(value.to_string())]),
        }
    }

    /// Bytes as they are.
    pub(crate) fn raw(parts: impl IntoIterator<Item = Bytes>) -> Self {
        Self {
            kind: BodyKind::Raw,
            parts: parts.into_iter().filter(|part| !part.is_empty()).collect(),
        }
    }
}

impl Body for Parts {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.parts.pop_front().map(|part| Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.parts.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.parts.iter().map(|part| part.len() as u64).sum())
    }
}
