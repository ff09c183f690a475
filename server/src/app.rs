//! Listening: from a TCP connection to a request, and where the request goes.
//!
//! A connection is TLS with HTTP/1.1 inside; two endpoints upgrade it ([`crate::protocol`]), the rest is REST. What is
//! bounded before anybody is known: connections, and those that have not sent a request yet, in all and per address; the time
//! for the handshake, for a request's head, and without a byte in either direction. Who makes room for whom is the concern of
//! [`crate::places`]. Connections that find none are closed at once: clients notice and try again.
//!
//! How fast a connection may be is known from its first request on ([`crate::traffic`]), not before: a handshake waits for nobody.
//!
//! Plain HTTP on the port is answered with a redirect to `https`.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, HOST, HeaderValue, LOCATION};
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use pbs_datastore::Env;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::api::{ApiError, ApiPath};
use crate::idle_io::IdleIo;
use crate::pace::Paced;
use crate::places::{HalfOpen, Line, Place, Places};
use crate::protocol::{Protocol, ProtocolName};
use crate::shutdown::Shutdown;
use crate::traffic::Lane;

/// How long the first byte and then the TLS handshake may take.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// How long a request's head may take, and how long a connection may wait for its next request.
const HEAD_MAX: Duration = Duration::from_mins(1);
/// How long no byte may move in either direction. An upgraded connection has its pings.
const SILENCE_MAX: Duration = Duration::from_mins(15);
/// Longest head of a request, in bytes.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// How long a connection waits for a place among those without a request.
const PLACE_WAIT_MAX: Duration = Duration::from_mins(1);
/// Pause after the system refused to accept a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// First byte of a TLS handshake.
const TLS_HANDSHAKE: u8 = 0x16;

/// An error while an answer is being sent.
pub(crate) type BodyError = Box<dyn std::error::Error + Send + Sync>;
/// The body of a REST answer: whole, or streamed.
pub(crate) type ApiBody = UnsyncBoxBody<Bytes, BodyError>;
/// A REST answer on its way.
pub(crate) type ApiAnswer = Pin<Box<dyn Future<Output = Response<ApiBody>> + Send>>;
/// Answers REST requests: everything but upgrades and health.
pub(crate) type ApiHandler = Arc<dyn Fn(Request<Incoming>, SocketAddr) -> ApiAnswer + Send + Sync>;
/// Whether the daemon can serve; the error says what is missing, and nothing that a stranger may not know.
pub(crate) type ReadyCheck = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// A whole answer as a REST answer.
pub(crate) fn whole(response: Response<Bytes>) -> Response<ApiBody> {
    response.map(|body| {
        Full::new(body)
            .map_err(|never| match never {})
            .boxed_unsync()
    })
}

/// A REST answer as a whole one; for callers within this process. Parts are copied, as a streamed body waits until those before
/// are given back.
pub(crate) async fn collect(response: Response<ApiBody>) -> Result<Response<Bytes>, BodyError> {
    let (head, mut body) = response.into_parts();
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        whole.extend(frame?.into_data().ok());
    }
    Ok(Response::from_parts(head, whole.freeze()))
}

/// What connections are served with.
#[derive(Clone)]
pub(crate) struct App {
    env: Env,
    shutdown: Shutdown,
    protocol: Protocol,
    api: ApiHandler,
    ready: ReadyCheck,
    places: Arc<Places>,
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("App")
            .field("protocol", &self.protocol)
            .finish_non_exhaustive()
    }
}

impl App {
    /// Serves `api` and `protocol` on at most `connections_max` connections at once.
    pub(crate) fn new(
        protocol: Protocol,
        api: ApiHandler,
        ready: ReadyCheck,
        connections_max: u64,
    ) -> Self {
        Self {
            env: protocol.env.clone(),
            shutdown: protocol.shutdown.clone(),
            protocol,
            api,
            ready,
            places: Arc::new(Places::new(connections_max)),
        }
    }

    /// Accepts connections until a stop is requested. Those that are open then end by themselves: they are work that
    /// [`Shutdown::drain`] waits for.
    pub(crate) async fn listen(&self, listener: TcpListener, tls: Arc<ServerConfig>) {
        let acceptor = TlsAcceptor::from(tls);
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.shutdown.requested() => return,
            };
            match accepted {
                Ok((stream, peer)) => self.admit(stream, peer, &acceptor),
                Err(error) => {
                    tracing::warn!(%error, "a connection cannot be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn admit(&self, stream: TcpStream, peer: SocketAddr, acceptor: &TlsAcceptor) {
        let Some(place) = self.places.take(peer.ip()) else {
            self.tell_closed(peer);
            return;
        };
        let Some(work) = self.shutdown.begin_work() else {
            return;
        };
        let (app, acceptor) = (self.clone(), acceptor.clone());
        drop(self.env.spawn(async move {
            let _work = work;
            let waited = tokio::select! {
                waited = timeout(PLACE_WAIT_MAX, app.places.half_open(&place)) => waited,
                () = place.displaced() => return,
                () = app.shutdown.requested() => return,
            };
            let Ok(half_open) = waited else {
                app.tell_closed(peer);
                return;
            };
            let served = tokio::select! {
                served = app.serve(stream, peer, acceptor, half_open, &place) => served,
                () = place.displaced() => {
                    app.tell_closed(peer);
                    return;
                }
            };
            if let Err(error) = served {
                tracing::debug!(%peer, %error, "connection ended");
            }
        }));
    }

    /// Notes down that a connection was closed for want of a place.
    fn tell_closed(&self, peer: SocketAddr) {
        if let Some(count) = self.places.closed_one() {
            tracing::warn!(last = %peer, count, "connections closed: too many are open (connections-max)");
        }
    }

    async fn serve(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        acceptor: TlsAcceptor,
        half_open: HalfOpen,
        place: &Place,
    ) -> Result<(), BodyError> {
        stream.set_nodelay(true)?;
        let mut first = [0];
        if timeout(HANDSHAKE_MAX, stream.peek(&mut first)).await?? == 0 {
            return Ok(());
        }
        if first[0] != TLS_HANDSHAKE {
            return redirect_connection(stream).await;
        }
        let tls = timeout(HANDSHAKE_MAX, acceptor.accept(stream)).await??;
        self.converse(tls, peer, half_open, place).await
    }

    /// One connection without network and encryption: its bytes come from memory.
    #[cfg(feature = "fuzz")]
    pub(crate) async fn serve_in_memory(
        &self,
        io: tokio::io::DuplexStream,
        peer: SocketAddr,
    ) -> Result<(), BodyError> {
        let place = self.places.take(peer.ip());
        let place = place.ok_or("too many connections are open")?;
        let half_open = self.places.half_open(&place).await;
        self.converse(io, peer, half_open, &place).await
    }

    /// Answers the requests of a connection.
    async fn converse<S>(
        &self,
        stream: S,
        peer: SocketAddr,
        half_open: HalfOpen,
        place: &Place,
    ) -> Result<(), BodyError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let half_open = Mutex::new(Some(half_open));
        let lane = self.protocol.traffic.lane(peer.ip());
        let line = Line::in_lane(lane.clone());
        let service = service_fn(|mut request: Request<Incoming>| {
            drop(
                half_open
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .take(),
            );
            let (app, lane) = (self.clone(), lane.clone());
            let line = line.of(place.busy());
            request.extensions_mut().insert(line.clone());
            async move {
                let answer = app.answer(request, peer, lane).await;
                drop(line);
                Ok::<_, std::convert::Infallible>(answer)
            }
        });
        // What waits for its turn is not silent.
        let stream = Paced::new(IdleIo::new(stream, SILENCE_MAX), lane.clone());
        let io = TokioIo::new(stream);
        let connection = http1_server().serve_connection(io, service).with_upgrades();
        tokio::pin!(connection);
        tokio::select! {
            result = connection.as_mut() => return Ok(result?),
            () = line.hung_up() => return Ok(()),
            () = self.shutdown.requested() => connection.as_mut().graceful_shutdown(),
        }
        tokio::select! {
            result = connection.as_mut() => Ok(result?),
            () = line.hung_up() => Ok(()),
        }
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        peer: SocketAddr,
        lane: Lane,
    ) -> Response<ApiBody> {
        let target = Target::of(&request);
        match target {
            Target::Upgrade(protocol) => {
                whole(self.protocol.upgrade(protocol, request, peer, lane).await)
            }
            Target::Live => whole(text(StatusCode::OK, "ok".to_owned())),
            Target::Ready => whole(self.ready_answer()),
            Target::Api => (self.api)(request, peer).await,
        }
    }

    fn ready_answer(&self) -> Response<Bytes> {
        let ready = if self.shutdown.is_requested() {
            Err("the daemon is stopping".to_owned())
        } else {
            (self.ready)()
        };
        match ready {
            Ok(()) => text(StatusCode::OK, "ok".to_owned()),
            Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, why),
        }
    }
}

/// Where a request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    Upgrade(ProtocolName),
    Live,
    Ready,
    Api,
}

/// What anyone may GET, beside the calls.
const HEALTH: [(&str, Target); 2] = [
    ("health/live", Target::Live),
    ("health/ready", Target::Ready),
];
/// What leaves HTTP/1.1; below the prefix of the calls.
const UPGRADES: [(&str, Target); 2] = [
    ("backup", Target::Upgrade(ProtocolName::Backup)),
    ("reader", Target::Upgrade(ProtocolName::Reader)),
];

/// The paths that are answered beside the calls of the API: those of the upgrades, and those that are open to anyone.
pub(crate) fn paths_beside_calls() -> (Vec<&'static str>, Vec<&'static str>) {
    let paths = |table: &[(&'static str, Target)]| table.iter().map(|(path, _)| *path).collect();
    (paths(&UPGRADES), paths(&HEALTH))
}

impl Target {
    fn of<B>(request: &Request<B>) -> Self {
        if request.method() != Method::GET {
            return Self::Api;
        }
        let find = |table: &[(&str, Self)], path: &str| {
            let row = table.iter().find(|(known, _)| *known == path);
            row.map(|(_, target)| *target)
        };
        let segments = request.uri().path().split('/');
        let whole: Vec<&str> = segments.filter(|segment| !segment.is_empty()).collect();
        if let Some(health) = find(&HEALTH, &whole.join("/")) {
            return health;
        }
        let path = ApiPath::of(request.uri());
        let below = path.map(|path| path.segments().join("/"));
        let upgrade = below.ok().and_then(|below| find(&UPGRADES, &below));
        upgrade.unwrap_or(Self::Api)
    }
}

fn http1_server() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_MAX)
        .max_buf_size(HEAD_BYTES_MAX);
    builder
}

fn text(status: StatusCode, text: String) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(text));
    *response.status_mut() = status;
    response
}

/// Answers one plain HTTP request, and closes.
async fn redirect_connection(stream: TcpStream) -> Result<(), BodyError> {
    let service = service_fn(|request: Request<Incoming>| {
        let response = redirect(&request).map(Full::new);
        async move { Ok::<_, std::convert::Infallible>(response) }
    });
    let io = TokioIo::new(IdleIo::new(stream, HANDSHAKE_MAX));
    let connection = http1_server()
        .keep_alive(false)
        .serve_connection(io, service);
    Ok(timeout(HANDSHAKE_MAX, connection).await??)
}

fn redirect<B>(request: &Request<B>) -> Response<Bytes> {
    let target = request
        .uri()
        .path_and_query()
        .map_or("/", |target| target.as_str());
    let location = request
        .headers()
        .get(HOST)
        .and_then(|host| host.to_str().ok())
        .and_then(|host| {
            HeaderValue::try_from(format!("https://{host}/{}", target.trim_start_matches('/'))).ok()
        });
    let mut response = match location {
        None => ApiError::bad_request("this port speaks HTTPS only").into_response(),
        Some(location) => {
            let status = match *request.method() {
                Method::GET | Method::HEAD => StatusCode::MOVED_PERMANENTLY,
                _ => StatusCode::PERMANENT_REDIRECT,
            };
            let mut response = text(status, String::new());
            response.headers_mut().insert(LOCATION, location);
            response
        }
    };
    response
        .headers_mut()
        .insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// Binds all addresses, or none. An address of all IPv6 addresses takes IPv4 too, as the system has it.
pub(crate) async fn bind(addresses: &[SocketAddr]) -> io::Result<Vec<TcpListener>> {
    let mut listeners = Vec::with_capacity(addresses.len());
    for address in addresses {
        let listener = TcpListener::bind(address).await;
        listeners.push(listener.map_err(|error| {
            io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"))
        })?);
    }
    Ok(listeners)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn request(method: Method, target: &str) -> Request<()> {
        Request::builder()
            .method(method)
            .uri(target)
            .header(HOST, "store.example:8007")
            .body(())
            .expect("a request")
    }

    #[rstest]
    #[case("//api2/json/backup?store=s", Target::Upgrade(ProtocolName::Backup))]
    #[case("/api2/json/reader", Target::Upgrade(ProtocolName::Reader))]
    #[case("/api2/json/reader/x", Target::Api)]
    #[case("/api2/json/version", Target::Api)]
    #[case("/health/live", Target::Live)]
    #[case("//health//ready", Target::Ready)]
    #[case("/", Target::Api)]
    fn targets(#[case] target: &str, #[case] expected: Target) {
        assert_eq!(Target::of(&request(Method::GET, target)), expected);
        assert_eq!(Target::of(&request(Method::POST, target)), Target::Api);
    }

    #[test]
    fn plain_http_is_sent_to_https() {
        let response = redirect(&request(Method::GET, "//api2/json/version?x=1"));
        assert_eq!(response.status(), StatusCode::MOVED_PERMANENTLY);
        assert_eq!(
            response.headers()[LOCATION],
            "https://store.example:8007/api2/json/version?x=1"
        );
        assert_eq!(
            redirect(&request(Method::POST, "/a")).status(),
            StatusCode::PERMANENT_REDIRECT
        );
        let nameless = Request::builder().uri("/a").body(()).expect("a request");
        assert_eq!(redirect(&nameless).status(), StatusCode::BAD_REQUEST);
    }
}
