//! A small server for tests: TLS, login, both upgrades, strict about what a client must keep to.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use pbs_datastore::index::fixed::CHUNK_SIZE;
use pbs_datastore::{
    ArchiveKind, CHUNK_BYTES_MAX, DataBlob, Digest, DynamicIndex, Fingerprint, FixedIndex, Index,
    IndexChecksum,
};
use rustls_pki_types::PrivatePkcs8KeyDer;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::repository::Access;
use super::session::ANSWER_BYTES_MAX;
use crate::pace::Pace;

pub(super) const PASSWORD: &str = "correct horse";
const TICKET: &str = "PBS:me@pbs:66666666::a+b/c";

/// The server; stops when dropped.
pub(super) struct Fake {
    address: SocketAddr,
    fingerprint: Fingerprint,
    pub(super) state: Arc<State>,
    _tasks: JoinSet<()>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) chunks: Mutex<HashMap<Digest, Bytes>>,
    /// Files by snapshot text, then name.
    pub(super) snapshots: Mutex<BTreeMap<String, BTreeMap<String, Bytes>>>,
    /// `METHOD target` of every request, in order of arrival.
    pub(super) log: Mutex<Vec<String>>,
    /// Requests whose log line starts so are refused with 400 and this text.
    pub(super) refuse: Mutex<Option<(&'static str, &'static str)>>,
    /// Chunk uploads are answered only when so many have arrived.
    pub(super) hold_chunks_until: Mutex<usize>,
    arrived: watch::Sender<usize>,
    /// Chunk uploads that arrived and were not answered: now, and at most.
    pub(super) in_flight: Mutex<(usize, usize)>,
    /// Tickets are refused so many times.
    pub(super) expire: Mutex<usize>,
    /// Log pages of the one task, in order of the requests.
    pub(super) task_pages: Mutex<Vec<Value>>,
}

type Answer = Result<Value, (StatusCode, String)>;

fn refused<T>(status: u16, text: impl Into<String>) -> Result<T, (StatusCode, String)> {
    Err((StatusCode::from_u16(status).unwrap(), text.into()))
}

impl Fake {
    pub(super) async fn start() -> Self {
        let certified =
            rcgen::generate_simple_self_signed(vec!["elsewhere.example".to_owned()]).unwrap();
        let certificate = certified.cert.der().clone();
        let key = PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key.into())
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, acceptor, state.clone()));
        Self {
            address,
            fingerprint: Fingerprint(Sha256::digest(&certificate).into()),
            state,
            _tasks: tasks,
        }
    }

    pub(super) fn access(&self) -> Access {
        Access {
            repository: format!("me@pbs@127.0.0.1:{}:store", self.address.port())
                .parse()
                .unwrap(),
            secret: PASSWORD.to_owned(),
            fingerprint: Some(self.fingerprint),
            pace: Pace::default(),
            answer_bytes_max: ANSWER_BYTES_MAX,
        }
    }

    /// Requests whose log line starts with `prefix`.
    pub(super) fn requests(&self, prefix: &str) -> Vec<String> {
        let log = self.state.log.lock().unwrap();
        log.iter()
            .filter(|line| line.starts_with(prefix))
            .cloned()
            .collect()
    }
}

async fn accept(listener: TcpListener, acceptor: tokio_rustls::TlsAcceptor, state: Arc<State>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, state) = (acceptor.clone(), state.clone());
        connections.spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else {
                return;
            };
            let sessions = Arc::new(Mutex::new(JoinSet::new()));
            let service = service_fn(|request| rest(request, state.clone(), sessions.clone()));
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service);
            drop(connection.with_upgrades().await);
            let mut sessions = std::mem::take(&mut *sessions.lock().unwrap());
            while sessions.join_next().await.is_some() {}
        });
    }
}

fn parameters(target: &http::Uri) -> HashMap<String, String> {
    let pairs = target
        .query()
        .unwrap_or_default()
        .split('&')
        .filter_map(|pair| pair.split_once('='));
    let decode = |text: &str| {
        percent_encoding::percent_decode_str(text)
            .decode_utf8()
            .unwrap()
            .into_owned()
    };
    pairs
        .map(|(name, value)| (name.to_owned(), decode(value)))
        .collect()
}

fn answer(result: Answer) -> Response<Full<Bytes>> {
    match result {
        Ok(envelope) => Response::new(Full::new(Bytes::from(envelope.to_string()))),
        Err((status, text)) => Response::builder()
            .status(status)
            .body(Full::new(Bytes::from(text)))
            .unwrap(),
    }
}

impl State {
    fn note(&self, line: String) -> Result<(), (StatusCode, String)> {
        let refuse = self
            .refuse
            .lock()
            .unwrap()
            .filter(|(prefix, _)| line.starts_with(prefix));
        self.log.lock().unwrap().push(line);
        refuse.map_or(Ok(()), |(_, text)| refused(400, text))
    }

    fn is_known(&self, headers: &http::HeaderMap) -> bool {
        if headers
            .get(header::AUTHORIZATION)
            .is_some_and(|value| value == "PBSAPIToken me@pbs!tok:correct%20horse")
        {
            return true;
        }
        let cookie = headers
            .get(header::COOKIE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let cookie = percent_encoding::percent_decode_str(cookie)
            .decode_utf8()
            .unwrap();
        let mut expire = self.expire.lock().unwrap();
        if *expire > 0 {
            *expire -= 1;
            return false;
        }
        cookie == format!("PBSAuthCookie={TICKET}")
    }
}

async fn rest(
    request: Request<Incoming>,
    state: Arc<State>,
    sessions: Arc<Mutex<JoinSet<()>>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(respond(request, state, sessions)
        .await
        .unwrap_or_else(|error| answer(Err(error))))
}

async fn respond(
    mut request: Request<Incoming>,
    state: Arc<State>,
    sessions: Arc<Mutex<JoinSet<()>>>,
) -> Result<Response<Full<Bytes>>, (StatusCode, String)> {
    let path = request
        .uri()
        .path()
        .strip_prefix("/api2/json")
        .unwrap()
        .to_owned();
    let parameters = parameters(request.uri());
    state.note(format!("{} {}", request.method(), request.uri()))?;
    if path == "/access/ticket" {
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap();
        if body != json!({"username": "me@pbs", "password": PASSWORD}) {
            return refused(401, "");
        }
        return Ok(answer(Ok(
            json!({"data": {"ticket": TICKET, "CSRFPreventionToken": "csrf"}}),
        )));
    }
    if !state.is_known(request.headers()) {
        return refused(401, "");
    }
    let upgrade = request.headers().get(header::UPGRADE).cloned();
    if let Some(protocol) = upgrade {
        let snapshot = format!(
            "{}/{}/{}",
            parameters["backup-type"],
            parameters["backup-id"],
            pbs_datastore::BackupTime::new(parameters["backup-time"].parse().unwrap()).unwrap()
        );
        let upgraded = hyper::upgrade::on(&mut request);
        let session = Arc::new(H2Session {
            state,
            snapshot,
            parts: Mutex::default(),
        });
        sessions.lock().unwrap().spawn(async move {
            let service = service_fn(move |request| {
                let session = session.clone();
                async move { Ok::<_, Infallible>(session.respond(request).await) }
            });
            let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .initial_stream_window_size(17 << 20)
                .initial_connection_window_size(64 << 20)
                .serve_connection(upgraded.await.unwrap(), service);
            drop(connection.await);
        });
        let response = Response::builder()
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header(header::CONNECTION, "upgrade")
            .header(header::UPGRADE, protocol);
        return Ok(response.body(Full::default()).unwrap());
    }
    if request.method() != http::Method::GET
        && request.headers().get("CSRFPreventionToken").is_none()
    {
        return refused(401, "no CSRF token");
    }
    Ok(answer(state.call(&path)))
}

impl State {
    fn call(&self, path: &str) -> Answer {
        let snapshots = self.snapshots.lock().unwrap();
        match path {
            "/admin/datastore/store/snapshots" => {
                let rows = snapshots.keys().map(|name| {
                    let snapshot: pbs_datastore::Snapshot = name.parse().unwrap();
                    json!({"backup-type": "host", "backup-id": snapshot.group.id, "backup-time": snapshot.time, "size": 1})
                });
                // One whose backup still runs comes on top; it is newer and must not be chosen.
                let running = json!({"backup-type": "host", "backup-id": "x", "backup-time": 9_999_999_999_i64});
                let rows: Vec<_> = [running].into_iter().chain(rows).collect();
                Ok(json!({"data": rows}))
            }
            path if path.ends_with("/log") => Ok(self.task_pages.lock().unwrap().remove(0)),
            path if path.ends_with("/status") => {
                Ok(json!({"data": {"exitstatus": "WARNINGS: 3", "status": "stopped"}}))
            }
            _ => refused(404, format!("no path {path}")),
        }
    }
}

/// One upgraded connection.
struct H2Session {
    state: Arc<State>,
    snapshot: String,
    parts: Mutex<Parts>,
}

#[derive(Default)]
struct Parts {
    known: HashMap<Digest, u64>,
    writers: HashMap<u64, Writer>,
    files: BTreeMap<String, Bytes>,
}

struct Writer {
    name: String,
    size: Option<u64>,
    entries: Vec<(u64, Digest)>,
}

impl H2Session {
    async fn respond(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let line = format!("{} {}", head.method, head.uri.path_and_query().unwrap());
        let parameters = parameters(&head.uri);
        let Ok(body) = body.collect().await else {
            return answer(refused(400, "broken body"));
        };
        if let Err(refusal) = self.state.note(line) {
            return answer(Err(refusal));
        }
        let method = head.method.as_str();
        let result = match head.uri.path() {
            "/dynamic_chunk" | "/fixed_chunk" => self.chunk(&parameters, body.to_bytes()).await,
            "/dynamic_index" | "/fixed_index" if method == "POST" => Ok(self.create(&parameters)),
            "/dynamic_index" | "/fixed_index" => self.append(&body.to_bytes()),
            "/dynamic_close" | "/fixed_close" => Ok(self.close(&parameters)),
            "/blob" => {
                let blob = body.to_bytes();
                assert_eq!(parameters["encoded-size"], blob.len().to_string());
                DataBlob::parse(blob.clone()).unwrap().verify_crc().unwrap();
                self.parts
                    .lock()
                    .unwrap()
                    .files
                    .insert(parameters["file-name"].clone(), blob);
                Ok(Value::Null)
            }
            "/finish" => {
                let files = std::mem::take(&mut self.parts.lock().unwrap().files);
                assert!(files.contains_key("index.json.blob"));
                self.state
                    .snapshots
                    .lock()
                    .unwrap()
                    .insert(self.snapshot.clone(), files);
                Ok(Value::Null)
            }
            "/previous_backup_time" => Ok(self.previous().map_or(Value::Null, |_| json!(1))),
            "/previous" => return self.previous_file(&parameters["archive-name"]),
            "/download" => {
                let snapshots = self.state.snapshots.lock().unwrap();
                let file = snapshots
                    .get(&self.snapshot)
                    .and_then(|files| files.get(&parameters["file-name"]));
                return file.map_or_else(
                    || answer(refused(404, "no file")),
                    |file| Response::new(Full::new(file.clone())),
                );
            }
            "/chunk" => {
                let chunks = self.state.chunks.lock().unwrap();
                let chunk = chunks.get(&parameters["digest"].parse().unwrap());
                return chunk.map_or_else(
                    || answer(refused(400, "no chunk")),
                    |chunk| Response::new(Full::new(chunk.clone())),
                );
            }
            path => refused(404, format!("no path {path}")),
        };
        answer(result.map(|data| json!({"data": data})))
    }

    fn previous(&self) -> Option<BTreeMap<String, Bytes>> {
        self.state
            .snapshots
            .lock()
            .unwrap()
            .values()
            .next_back()
            .cloned()
    }

    fn previous_file(&self, name: &str) -> Response<Full<Bytes>> {
        let Some(file) = self.previous().and_then(|files| files.get(name).cloned()) else {
            return answer(refused(400, "no previous backup"));
        };
        if let Some(kind) = ArchiveKind::of(name).filter(|kind| kind.is_index()) {
            let index = Index::parse(kind, file.clone()).unwrap();
            let mut parts = self.parts.lock().unwrap();
            parts
                .known
                .extend(index.chunks().map(|chunk| (chunk.digest, chunk.len())));
        }
        Response::new(Full::new(file))
    }

    fn create(&self, parameters: &HashMap<String, String>) -> Value {
        let mut parts = self.parts.lock().unwrap();
        let wid = parts.writers.len() as u64 + 1;
        let size = parameters.get("size").map(|size| size.parse().unwrap());
        parts.writers.insert(
            wid,
            Writer {
                name: parameters["archive-name"].clone(),
                size,
                entries: Vec::new(),
            },
        );
        json!(wid)
    }

    async fn chunk(&self, parameters: &HashMap<String, String>, body: Bytes) -> Answer {
        let digest: Digest = parameters["digest"].parse().unwrap();
        let size: u64 = parameters["size"].parse().unwrap();
        {
            let mut in_flight = self.state.in_flight.lock().unwrap();
            in_flight.0 += 1;
            in_flight.1 = in_flight.1.max(in_flight.0);
        }
        self.state.arrived.send_modify(|arrived| *arrived += 1);
        let until = *self.state.hold_chunks_until.lock().unwrap();
        self.state
            .arrived
            .subscribe()
            .wait_for(|arrived| *arrived >= until)
            .await
            .unwrap();
        let blob = DataBlob::parse(body.clone()).unwrap();
        assert_eq!(parameters["encoded-size"], body.len().to_string());
        if !blob.is_encrypted() {
            blob.verify_chunk(&digest, Some(size)).unwrap();
            assert!(blob.decode(CHUNK_BYTES_MAX, None).is_ok());
        }
        self.state.chunks.lock().unwrap().insert(digest, body);
        self.parts.lock().unwrap().known.insert(digest, size);
        self.state.in_flight.lock().unwrap().0 -= 1;
        Ok(json!(digest))
    }

    fn append(&self, body: &[u8]) -> Answer {
        let body: Value = serde_json::from_slice(body).unwrap();
        let mut parts = self.parts.lock().unwrap();
        let Parts { known, writers, .. } = &mut *parts;
        let writer = writers.get_mut(&body["wid"].as_u64().unwrap()).unwrap();
        let digests = body["digest-list"].as_array().unwrap();
        let offsets = body["offset-list"].as_array().unwrap();
        assert_eq!(digests.len(), offsets.len());
        for (digest, offset) in digests.iter().zip(offsets) {
            let digest: Digest = digest.as_str().unwrap().parse().unwrap();
            let Some(size) = known.get(&digest) else {
                return refused(400, "unknown chunk");
            };
            let end = writer.entries.last().map_or(0, |(end, _)| *end);
            assert_eq!(offset.as_u64(), Some(end), "appended out of order");
            writer.entries.push((end + size, digest));
        }
        Ok(Value::Null)
    }

    fn close(&self, parameters: &HashMap<String, String>) -> Value {
        let mut parts = self.parts.lock().unwrap();
        let writer = parts
            .writers
            .remove(&parameters["wid"].parse().unwrap())
            .unwrap();
        let end = writer.entries.last().map_or(0, |(end, _)| *end);
        assert_eq!(parameters["chunk-count"], writer.entries.len().to_string());
        assert_eq!(parameters["size"], end.to_string());
        let mut csum = IndexChecksum::new();
        let uuid = uuid::Uuid::nil();
        let file = if ArchiveKind::of(&writer.name) == Some(ArchiveKind::Fixed) {
            assert!(writer.size.is_none_or(|size| size == end));
            let digests: Vec<_> = writer.entries.iter().map(|(_, digest)| *digest).collect();
            for digest in &digests {
                csum.push_fixed(digest);
            }
            FixedIndex::encode(&uuid, 1, end, CHUNK_SIZE, &digests).unwrap()
        } else {
            for (end, digest) in &writer.entries {
                csum.push_dynamic(*end, digest);
            }
            DynamicIndex::encode(&uuid, 1, &writer.entries).unwrap()
        };
        assert_eq!(parameters["csum"], csum.finish().to_string());
        parts.files.insert(writer.name, file);
        Value::Null
    }
}
