//! Any [`ObjectStore`] over HTTP, as an S3 bucket, alone or with others beside it: the server of the tests, the embedded one of a quick start.
//!
//! What a request goes through:
//! 1. A connection is accepted if fewer than [`ServeOptions::connections_max`] are open; otherwise it waits.
//! 2. `GET /-/counters` (if allowed) is answered here. No bucket can be named `-`.
//! 3. The s3s crate checks the signature and its date, parses path, query and XML, and decodes `aws-chunked` bodies.
//! 4. A body is read whole, within [`ServeOptions::body_bytes_max`] and a budget shared by all requests, and compared
//!    with every checksum it came with, those in trailers included. Nothing reaches the store before that.
//! 5. The store decides conditions and carries the request out, as one step of its own.
//! 6. The answer carries the store's date. An outcome that is *unknown*, or a read that timed out, is answered like
//!    a lost answer: the connection is closed without one (I8). An object that came in part breaks it in the
//!    middle.
//!
//! A client that goes away takes its request with it: up to step 4 nothing has happened, in step 5 it is up to the store
//! whether what it has begun is carried out, which is what *unknown* means to that client.
//!
//! Not promised: object headers other than user metadata (content types and the like are dropped), lists of parts and of
//! uploads, versions other than what the store tells, virtual-hosted bucket names, TLS.

mod access;
mod answers;
mod bucket;
mod conditions;
mod counters;
mod listener;
mod listing;
mod payload;
mod settings;
#[cfg(test)]
mod tests;
mod uploads;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use percent_encoding::percent_decode_str;
use s3s::auth::{S3Auth, SecretKey};
use s3s::config::{S3Config, StaticConfigProvider};
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{HttpError, S3Error, S3ErrorCode, S3Result};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::Stream;
use crate::clock::{Clock, wall_clock};
use crate::store::{ObjectStore, PAGE_KEYS_MAX};

pub use access::{Access, AccessEvent, AccessLog};
pub use counters::{Counters, OperationCount, RequestRecord};
pub use listener::Listener;

use access::Accesses;
use bucket::Bucket;

/// Path of the counters, for tests in other processes.
pub const COUNTERS_PATH: &str = "/-/counters";

/// How long a client may take to send the head of a request.
const HEAD_TIME_MAX: Duration = Duration::from_secs(30);

/// The keys a client has to sign with.
#[derive(Clone)]
pub struct Credentials {
    /// Access key id.
    pub access_key: String,
    /// Secret access key.
    pub secret_key: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("access_key", &self.access_key)
            .finish_non_exhaustive()
    }
}

/// Which form of tag a server understands in `If-Match`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TagForm {
    /// With and without quotes.
    Any,
    /// Only in quotes; without them no tag matches.
    Quoted,
    /// Only without quotes; in them no tag matches.
    Bare,
}

/// Stores by the names of their buckets.
pub type Stores = BTreeMap<String, Arc<dyn ObjectStore>>;

/// Receives one record for each request that was answered.
pub type RequestLog = Arc<dyn Fn(&RequestRecord) + Send + Sync>;

/// How a store is served.
#[derive(Clone)]
pub struct ServeOptions {
    /// Name of the bucket; 3 to 63 lower-case letters, digits, dots and hyphens.
    pub bucket: String,
    /// Further buckets by name. What else is said here holds for each, and objects can be copied from one to another.
    pub neighbours: Stores,
    /// Keys of the clients. `None` serves everybody, and refuses signed requests as not implemented.
    pub credentials: Option<Credentials>,
    /// The region the bucket says it is in. Signatures for any region are accepted.
    pub region: String,
    /// Longest body of a put or part, in bytes. The default, 64 MiB, is several times the largest chunk and index; S3 itself
    /// takes 5 GiB, which would have to fit into memory here.
    pub body_bytes_max: u64,
    /// Bytes of all bodies being received or stored at one time; requests wait for their share. Not less than
    /// `body_bytes_max`. Default 512 MiB.
    pub bodies_bytes_max: u64,
    /// Most connections at one time. Default 1024.
    pub connections_max: usize,
    /// By how much the date of a signature may differ from the time of this machine. Default 15 minutes.
    pub signature_window: Duration,
    /// How long [`Server::shutdown`] waits for requests under way. Default 10 s.
    pub grace: Duration,
    /// Which tags are understood in `If-Match` of writes and deletions. Default any.
    pub tag_form: TagForm,
    /// Whether `DeleteObjects` is implemented. Default yes.
    pub batch_delete: bool,
    /// Most keys of a page of a listing, 1 to 1000. Default 1000.
    pub page_keys_max: usize,
    /// Whether the counters can be read ([`COUNTERS_PATH`], GET) and set to zero (DELETE) over HTTP, by anybody. Default
    /// no.
    pub counters_over_http: bool,
    /// Receives a record of each request that was answered.
    pub request_log: Option<RequestLog>,
    /// Receives the begin and the end of each request.
    pub access_log: Option<AccessLog>,
    /// Times of the logs. Default this machine's.
    pub clock: Clock,
}

impl ServeOptions {
    /// The defaults for a bucket of this name.
    pub fn new(bucket: impl Into<String>) -> Self {
        Self {
            bucket: bucket.into(),
            neighbours: Stores::new(),
            credentials: None,
            region: "us-east-1".to_owned(),
            body_bytes_max: 64 << 20,
            bodies_bytes_max: 512 << 20,
            connections_max: 1024,
            signature_window: Duration::from_mins(15),
            grace: Duration::from_secs(10),
            tag_form: TagForm::Any,
            batch_delete: true,
            page_keys_max: PAGE_KEYS_MAX,
            counters_over_http: false,
            request_log: None,
            access_log: None,
            clock: wall_clock(),
        }
    }
}

impl fmt::Debug for ServeOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServeOptions")
            .field("bucket", &self.bucket)
            .field("credentials", &self.credentials)
            .field("region", &self.region)
            .field("body_bytes_max", &self.body_bytes_max)
            .finish_non_exhaustive()
    }
}

/// Marks the answer of a request that is to be lost.
const LOST: &str = "x-holdfast-lost";

/// Travels with a request so that whoever recognises its operation can say so.
#[derive(Clone, Debug, Default)]
struct OperationName(Arc<OnceLock<&'static str>>);

impl OperationName {
    fn set(&self, name: &'static str) {
        self.0.get_or_init(|| name);
    }

    fn get(&self) -> &'static str {
        self.0.get().copied().unwrap_or("Other")
    }
}

/// The keys of [`Credentials`], as s3s asks for them.
struct Keys(Credentials);

#[async_trait::async_trait]
impl S3Auth for Keys {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        if access_key == self.0.access_key {
            Ok(SecretKey::from(self.0.secret_key.clone()))
        } else {
            Err(S3Error::with_message(
                S3ErrorCode::InvalidAccessKeyId,
                "there is no such access key",
            ))
        }
    }
}

/// What all connections share.
struct Shared {
    /// One for each bucket.
    services: BTreeMap<String, S3Service>,
    /// The bucket whose service answers what is about none.
    bucket: String,
    counters: Counters,
    counters_over_http: bool,
    log: Option<RequestLog>,
    accesses: Accesses,
    clock: Clock,
}

/// A running server. Dropping it ends it at once; [`shutdown`](Self::shutdown) lets requests finish.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    counters: Counters,
    stop: watch::Sender<bool>,
    accepting: JoinSet<()>,
}

impl Server {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL to give to clients; the bucket is the first element of the path.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What it was asked so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Accepts nothing more, waits for the requests under way within the grace period, and ends the others.
    pub async fn shutdown(mut self) {
        self.stop.send_replace(true);
        while self.accepting.join_next().await.is_some() {}
    }
}

/// Serves `store` on `listener`, in tasks that belong to the answered [`Server`].
///
/// Errors: the listener has no address, or the options are not valid ([`io::ErrorKind::InvalidInput`]).
pub fn serve(
    listener: impl Listener,
    store: Arc<dyn ObjectStore>,
    options: ServeOptions,
) -> io::Result<Server> {
    check(&options)?;
    let address = listener.address()?;
    let counters = Counters::default();
    let (stop, stopped) = watch::channel(false);
    let shared = Arc::new(Shared {
        services: services(store, &options),
        bucket: options.bucket.clone(),
        counters: counters.clone(),
        counters_over_http: options.counters_over_http,
        log: options.request_log.clone(),
        accesses: Accesses::new(options.access_log.clone(), options.clock.clone()),
        clock: options.clock.clone(),
    });
    let mut accepting = JoinSet::new();
    accepting.spawn(accept(
        listener,
        shared,
        stopped,
        options.connections_max,
        options.grace,
    ));
    Ok(Server {
        address,
        counters,
        stop,
        accepting,
    })
}

fn check(options: &ServeOptions) -> io::Result<()> {
    let invalid = |what: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    let mut names = options.neighbours.keys().chain([&options.bucket]);
    if !names.all(|name| s3s::path::check_bucket_name(name)) {
        return invalid("a bucket name has 3 to 63 lower-case letters, digits, dots and hyphens");
    }
    if options.bodies_bytes_max < options.body_bytes_max {
        return invalid("the budget for all bodies must not be less than that for one");
    }
    if options.page_keys_max == 0 {
        return invalid("a page of a listing has at least one key");
    }
    if options.connections_max == 0 {
        return invalid("at least one connection must be allowed");
    }
    Ok(())
}

fn services(store: Arc<dyn ObjectStore>, options: &ServeOptions) -> BTreeMap<String, S3Service> {
    let mut stores = options.neighbours.clone();
    stores.insert(options.bucket.clone(), store);
    let stores = Arc::new(stores);
    let serve = |(name, store): (&String, &Arc<dyn ObjectStore>)| {
        let bucket = Bucket::new(
            name.clone(),
            Arc::clone(store),
            Arc::clone(&stores),
            options,
        );
        (name.clone(), service(bucket, options))
    };
    stores.iter().map(serve).collect()
}

fn service(bucket: Bucket, options: &ServeOptions) -> S3Service {
    let mut builder = S3ServiceBuilder::new(bucket);
    let mut config = S3Config::default();
    let window = options.signature_window.as_secs();
    config.presigned_url_max_skew_time_secs = u32::try_from(window).unwrap_or(u32::MAX);
    builder.set_config(Arc::new(StaticConfigProvider::new(Arc::new(config))));
    if let Some(credentials) = &options.credentials {
        builder.set_auth(Keys(credentials.clone()));
    }
    builder.build()
}

async fn accept(
    mut listener: impl Listener,
    shared: Arc<Shared>,
    mut stopped: watch::Receiver<bool>,
    connections_max: usize,
    grace: Duration,
) {
    let room = Arc::new(Semaphore::new(connections_max.min(Semaphore::MAX_PERMITS)));
    let mut connections = JoinSet::new();
    loop {
        let next = async {
            let place = Arc::clone(&room).acquire_owned().await;
            (listener.accept().await, place)
        };
        tokio::select! {
            biased;
            () = told_to_stop(&mut stopped) => break,
            // Connections that have ended are forgotten as they end.
            Some(_) = connections.join_next() => {}
            (accepted, place) = next => match accepted {
                Ok(stream) => {
                    let connection = connection(stream, Arc::clone(&shared), stopped.clone());
                    connections.spawn(async move {
                        connection.await;
                        drop(place);
                    });
                }
                // Out of file descriptors, most likely: wait for others to end instead of spinning.
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
    drop(listener);
    let drained = timeout(grace, async {
        while connections.join_next().await.is_some() {}
    })
    .await;
    if drained.is_err() {
        connections.shutdown().await;
    }
}

/// Waits until the server is shut down or dropped.
async fn told_to_stop(stopped: &mut watch::Receiver<bool>) {
    drop(stopped.wait_for(|stopped| *stopped).await);
}

async fn connection(
    stream: Box<dyn Stream>,
    shared: Arc<Shared>,
    mut stopped: watch::Receiver<bool>,
) {
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move { answer(&shared, request).await }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        biased;
        ended = connection.as_mut() => ended,
        () = told_to_stop(&mut stopped) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

async fn answer(
    shared: &Shared,
    request: Request<Incoming>,
) -> Result<Response<s3s::Body>, HttpError> {
    if shared.counters_over_http && request.uri().path() == COUNTERS_PATH {
        return Ok(answer_counters(&shared.counters, request.method()));
    }
    let operation = OperationName::default();
    let (bucket, mut record) = record(shared, &request);
    let open = shared.accesses.begin(&record);
    let mut request = request.map(s3s::Body::from);
    request.extensions_mut().insert(operation.clone());
    let Some(service) = shared.services.get(&bucket) else {
        return Err(HttpError::new("the service of a bucket is missing".into()));
    };
    let result = service.call(request).await;
    operation.get().clone_into(&mut record.operation);
    let lost = match &result {
        Ok(response) => response.headers().contains_key(LOST),
        Err(_) => true,
    };
    if let Ok(response) = &result
        && !lost
    {
        record.status = Some(response.status().as_u16());
        record.bytes_out = response.body().size_hint().lower();
    }
    open.end(&record);
    shared.counters.count(&record);
    if let Some(log) = &shared.log {
        log(&record);
    }
    if lost && result.is_ok() {
        let lost = io::Error::new(io::ErrorKind::ConnectionAborted, "the answer is lost");
        return Err(HttpError::new(Box::new(lost)));
    }
    result
}

/// What is known of a request before it is answered, and the bucket whose service answers it.
fn record(shared: &Shared, request: &Request<Incoming>) -> (String, RequestRecord) {
    let path = percent_decode_str(request.uri().path()).decode_utf8_lossy();
    let path = path.strip_prefix('/').unwrap_or(&path);
    let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
    let (bucket, key) = if shared.services.contains_key(bucket) {
        (bucket, key)
    } else {
        (shared.bucket.as_str(), "")
    };
    let record = RequestRecord {
        time: (shared.clock)(),
        method: request.method().to_string(),
        operation: String::new(),
        key: key.to_owned(),
        status: None,
        bytes_in: body_length(request.headers()),
        bytes_out: 0,
    };
    (bucket.to_owned(), record)
}

/// The length of a request's content as the client declares it.
fn body_length(headers: &HeaderMap) -> u64 {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.parse().ok();
    number("x-amz-decoded-content-length")
        .or_else(|| number(header::CONTENT_LENGTH.as_str()))
        .unwrap_or(0)
}

fn answer_counters(counters: &Counters, method: &Method) -> Response<s3s::Body> {
    let (status, body) = match *method {
        Method::GET => (StatusCode::OK, counters.to_json()),
        Method::DELETE => {
            counters.reset();
            (StatusCode::NO_CONTENT, String::new())
        }
        _ => (StatusCode::METHOD_NOT_ALLOWED, String::new()),
    };
    let mut response = Response::new(s3s::Body::from(body));
    *response.status_mut() = status;
    let json = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}
