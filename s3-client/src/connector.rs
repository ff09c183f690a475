//! The HTTP client below the SDK.
//!
//! It is our own for one question that a ready-made one does not answer: *was the request sent?* A request that never
//! left (no address, no connection, no TLS, no free connection in time) has no effect and is reported as
//! [`TransportFailure::NotSent`]. From the moment a connection has taken it over, a missing answer is a lost answer
//! (I8): [`TransportFailure::NoAnswer`], [`TransportFailure::Broken`] or [`TransportFailure::Cut`].
//!
//! Connections speak HTTP/1.1 and are driven by the request that uses them, so there are no background tasks: dropping a
//! request closes its connection. Answers are read whole, bounded by `answer_bytes_max`. Bounds (I9): `connections_max`
//! connections, a time to connect, and a time for the answer that grows with the bytes to be moved.

mod dial;
mod network;
mod tls;

use std::fmt;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use http::{HeaderValue, Request, Response, Uri, header};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use self::dial::{Dialer, Target, Wire};
pub(crate) use self::network::Tcp;
pub use self::network::{Network, Stream};
pub(crate) use self::tls::Fingerprint;

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TransportFailure {
    /// The request never left: it has no effect and will have none.
    #[error("{0}")]
    NotSent(String),
    /// Sent, and no answer in time.
    #[error("no answer within {} seconds", .0.as_secs())]
    NoAnswer(Duration),
    /// Sent, and the connection broke before the answer began.
    #[error("the connection broke before the answer: {0}")]
    Broken(String),
    /// The answer began and did not end.
    #[error("the answer was cut short: {0}")]
    Cut(String),
    /// The answer is larger than this client reads into memory.
    #[error(
        "the answer is larger than the bound of {0} bytes, ask for ranges or raise answer-bytes-max"
    )]
    TooLarge(u64),
}

/// Bytes on the wire, TLS included, and connections made; shared by all connections of a client.
#[derive(Debug, Default)]
pub struct Traffic {
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    connections: AtomicU64,
}

impl Traffic {
    /// Bytes received.
    pub fn bytes_in(&self) -> u64 {
        self.bytes_in.load(Ordering::Relaxed)
    }

    /// Bytes sent.
    pub fn bytes_out(&self) -> u64 {
        self.bytes_out.load(Ordering::Relaxed)
    }

    /// Connections that were opened.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }
}

/// What the transport needs to know; `AwsConfig` documents units and bounds.
#[derive(Clone, Debug)]
pub(crate) struct TransportConfig {
    pub(crate) connect_timeout: Duration,
    pub(crate) answer_timeout: Duration,
    pub(crate) bytes_per_second_min: u64,
    pub(crate) answer_bytes_max: u64,
    pub(crate) connections_max: usize,
    pub(crate) connection_idle: Duration,
    pub(crate) ca_file: Option<std::path::PathBuf>,
    pub(crate) fingerprint: Option<Fingerprint>,
    pub(crate) proxy: Option<Uri>,
}

type Driver = Pin<Box<http1::Connection<TokioIo<Wire>, SdkBody>>>;

/// One connection. The driver does its I/O and is polled by whoever waits on it.
struct Link {
    sender: http1::SendRequest<SdkBody>,
    driver: Option<Driver>,
}

impl Link {
    /// Waits for `wanted` while the connection does its I/O.
    async fn drive<F: Future>(driver: &mut Option<Driver>, wanted: F) -> F::Output {
        let mut wanted = pin!(wanted);
        std::future::poll_fn(|context| {
            if let Some(connection) = driver
                && connection.as_mut().poll(context).is_ready()
            {
                *driver = None;
            }
            match wanted.as_mut().poll(context) {
                Poll::Ready(output) => Poll::Ready(output),
                // A connection that has ended has told its waiters, who are ready at the next poll at the latest.
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }

    /// Whether another request can be sent at once. Notices a close by the server that happened meanwhile.
    fn is_usable(&mut self) -> bool {
        let ready = Self::drive(&mut self.driver, self.sender.ready()).now_or_never();
        matches!(ready, Some(Ok(()))) && self.driver.is_some()
    }
}

struct Idle {
    link: Link,
    target: Target,
    since: Instant,
}

struct Shared {
    config: TransportConfig,
    dialer: Dialer,
    connections: Semaphore,
    idle: Mutex<Vec<Idle>>,
}

/// The client; cheap to clone, all clones share connections.
#[derive(Clone)]
pub(crate) struct Connector(Arc<Shared>);

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").finish_non_exhaustive()
    }
}

impl Connector {
    /// Reads the certificates it will need; fails with a sentence for the user.
    pub(crate) fn new(
        config: TransportConfig,
        https: bool,
        network: Arc<dyn Network>,
        traffic: Arc<Traffic>,
    ) -> Result<Self, String> {
        let tls = if https {
            Some(tls::client_config(
                config.ca_file.as_deref(),
                config.fingerprint,
            )?)
        } else {
            None
        };
        Ok(Self(Arc::new(Shared {
            dialer: Dialer::new(tls, config.proxy.as_ref(), network, traffic)?,
            connections: Semaphore::new(config.connections_max),
            idle: Mutex::new(Vec::new()),
            config,
        })))
    }

    /// Sends one request and reads its answer whole.
    async fn exchange(
        &self,
        mut request: Request<SdkBody>,
    ) -> Result<Response<Bytes>, TransportFailure> {
        let config = &self.0.config;
        let target = Target::of(request.uri()).map_err(TransportFailure::NotSent)?;
        self.address(&mut request, &target)?;
        let sent_bytes = request.body().content_length().unwrap_or(0);
        let patience = self.patience(sent_bytes);

        let _permit = match timeout(patience, self.0.connections.acquire()).await {
            Ok(Ok(permit)) => permit,
            Ok(Err(_)) => {
                return Err(TransportFailure::NotSent(
                    "the client is shutting down".into(),
                ));
            }
            Err(_) => {
                return Err(TransportFailure::NotSent(format!(
                    "all {} connections were busy for {} seconds",
                    config.connections_max,
                    patience.as_secs()
                )));
            }
        };

        // A pooled connection may have been closed by the server; the request is handed back then and tries the next.
        let (mut link, response) = loop {
            let (mut link, reused) = match self.take_idle(&target) {
                Some(link) => (link, true),
                None => (self.connect(&target).await?, false),
            };
            let send = link.sender.try_send_request(request);
            match timeout(patience, Link::drive(&mut link.driver, send)).await {
                Ok(Ok(response)) => break (link, response),
                Ok(Err(mut error)) => match error.take_message() {
                    Some(message) if reused => request = message,
                    Some(_) => {
                        return Err(TransportFailure::NotSent(format!(
                            "{target} closed the connection at once: {}",
                            error.error()
                        )));
                    }
                    None => return Err(TransportFailure::Broken(error.error().to_string())),
                },
                Err(_) => return Err(TransportFailure::NoAnswer(patience)),
            }
        };

        let (head, body) = response.into_parts();
        let body = self.read(&mut link, body).await?;
        self.put_idle(link, target);
        Ok(Response::from_parts(head, body))
    }

    /// How long an answer may take when `bytes` have to be moved for it.
    fn patience(&self, bytes: u64) -> Duration {
        let config = &self.0.config;
        config.answer_timeout + Duration::from_secs(bytes / config.bytes_per_second_min)
    }

    /// Names the host in a header and reduces the address to what an HTTP/1.1 request line carries.
    fn address(
        &self,
        request: &mut Request<SdkBody>,
        target: &Target,
    ) -> Result<(), TransportFailure> {
        let host = HeaderValue::try_from(target.host_header())
            .map_err(|error| TransportFailure::NotSent(error.to_string()))?;
        request.headers_mut().entry(header::HOST).or_insert(host);
        if !self.0.dialer.wants_absolute_form(target) {
            let path = request
                .uri()
                .path_and_query()
                .map_or("/", http::uri::PathAndQuery::as_str);
            let origin_form = path.parse().map_err(|error: http::uri::InvalidUri| {
                TransportFailure::NotSent(error.to_string())
            })?;
            *request.uri_mut() = origin_form;
        }
        Ok(())
    }

    async fn connect(&self, target: &Target) -> Result<Link, TransportFailure> {
        let limit = self.0.config.connect_timeout;
        let opening = async {
            let wire = self.0.dialer.dial(target).await?;
            http1::handshake(TokioIo::new(wire))
                .await
                .map_err(|error| error.to_string())
        };
        match timeout(limit, opening).await {
            Ok(Ok((sender, connection))) => Ok(Link {
                sender,
                driver: Some(Box::pin(connection)),
            }),
            Ok(Err(reason)) => Err(TransportFailure::NotSent(format!(
                "no connection to {target}: {reason}"
            ))),
            Err(_) => Err(TransportFailure::NotSent(format!(
                "no connection to {target} within {} ms",
                limit.as_millis()
            ))),
        }
    }

    async fn read(&self, link: &mut Link, mut body: Incoming) -> Result<Bytes, TransportFailure> {
        let bytes_max = self.0.config.answer_bytes_max;
        let expected = body.size_hint().lower();
        if expected > bytes_max {
            return Err(TransportFailure::TooLarge(bytes_max));
        }
        let exact = body.size_hint().exact();
        let patience = self.patience(exact.unwrap_or(bytes_max));
        let reading = async {
            let mut first = Bytes::new();
            let mut rest = BytesMut::new();
            while let Some(frame) = Link::drive(&mut link.driver, body.frame()).await {
                let frame = frame.map_err(|error| TransportFailure::Cut(error.to_string()))?;
                let Ok(data) = frame.into_data() else {
                    continue;
                };
                if (first.len() + rest.len() + data.len()) as u64 > bytes_max {
                    return Err(TransportFailure::TooLarge(bytes_max));
                }
                // Most answers come in one piece, which then need not be copied.
                if first.is_empty() && rest.is_empty() {
                    first = data;
                } else {
                    if rest.is_empty() {
                        rest.reserve((expected as usize).max(first.len() + data.len()));
                        rest.extend_from_slice(&std::mem::take(&mut first));
                    }
                    rest.extend_from_slice(&data);
                }
            }
            Ok(if rest.is_empty() {
                first
            } else {
                rest.freeze()
            })
        };
        match timeout(patience, reading).await {
            Ok(read) => read,
            Err(_) => Err(TransportFailure::Cut(format!(
                "it did not end within {} seconds",
                patience.as_secs()
            ))),
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.0.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection that was used last, if it still works.
    fn take_idle(&self, target: &Target) -> Option<Link> {
        let now = Instant::now();
        let mut idle = self.idle();
        idle.retain(|entry| now.duration_since(entry.since) < self.0.config.connection_idle);
        while let Some(mut entry) = idle.pop() {
            if entry.target == *target && entry.link.is_usable() {
                return Some(entry.link);
            }
        }
        None
    }

    fn put_idle(&self, mut link: Link, target: Target) {
        if !link.is_usable() {
            return;
        }
        self.idle().push(Idle {
            link,
            target,
            since: Instant::now(),
        });
    }
}

impl HttpConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let connector = self.clone();
        HttpConnectorFuture::new(async move {
            let request = request
                .try_into_http1x()
                .map_err(|error| ConnectorError::user(error.into()))?;
            let response = match connector.exchange(request).await {
                Ok(response) => response,
                Err(failure @ TransportFailure::NoAnswer(_)) => {
                    return Err(ConnectorError::timeout(failure.into()));
                }
                Err(failure) => return Err(ConnectorError::io(failure.into())),
            };
            HttpResponse::try_from(response.map(SdkBody::from))
                .map_err(|error| ConnectorError::other(error.into(), None))
        })
    }
}

impl HttpClient for Connector {
    fn http_connector(
        &self,
        _settings: &HttpConnectorSettings,
        _components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}
