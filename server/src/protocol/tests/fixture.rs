//! A listening daemon around a datastore in memory, and a client for its sessions.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use pbs_datastore::{
    ArchiveName, Backend, CryptMode, DataBlob, Datastore, DatastoreConfig, Digest, Env,
    IndexChecksum, Manifest, ManifestFile, MemoryBudget, Namespace, OpenOptions, Snapshot,
    SnapshotRef,
};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::client::TlsStream;

use crate::api::{ApiError, Delays};
use crate::app::{App, whole};
use crate::auth::{AccountChange, Authority, Passwords};
use crate::clock::Clock;
use crate::config::{ConfigStore, Secrets, SecretsStore};
use crate::protocol::session::SessionSubject;
use crate::protocol::{Protocol, ProtocolMemory, SessionTable, WINDOWS_BYTES_SET_ASIDE};
use crate::shutdown::{Drained, Shutdown};
use crate::tasks::{Outcome, TaskFilter, TaskRegistry};
use crate::tls::ServerTls;

const CONFIG: &str = r#"
[server]
backup-sessions-max = 3
reader-sessions-max = 2
connections-max = 16
[user."tester@pbs"]
[token."tester@pbs!full"]
[token."tester@pbs!backup"]
[token."tester@pbs!audit"]
[[acl]]
path = "/"
id = "tester@pbs"
role = "Admin"
[[acl]]
path = "/datastore"
id = "tester@pbs!full"
role = "DatastoreAdmin"
[[acl]]
path = "/datastore"
id = "tester@pbs!backup"
role = "DatastoreBackup"
[[acl]]
path = "/datastore"
id = "tester@pbs!audit"
role = "DatastoreAudit"
"#;

/// Long enough for anything that happens at all.
pub(super) const SOON: Duration = Duration::from_mins(1);

pub(super) struct Fixture {
    pub(super) dir: TempDir,
    pub(super) env: Env,
    pub(super) address: SocketAddr,
    pub(super) datastore: Arc<Datastore>,
    pub(super) protocol: Protocol,
    pub(super) finished: Arc<Mutex<Vec<SessionSubject>>>,
    pub(super) budget: MemoryBudget,
    budget_bytes: u64,
    tokens: Vec<(&'static str, String)>,
    tls: Arc<rustls::ClientConfig>,
    /// Ends with the fixture.
    listeners: JoinSet<()>,
}

impl Fixture {
    /// With the smallest budget that the configuration admits.
    pub(super) async fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let env = Env::system();
        let config = Arc::new(
            ConfigStore::create(&dir.path().join("holdfast.toml"), CONFIG).expect("valid"),
        );
        let secrets = SecretsStore::create(&dir.path().join("secrets.toml"), &Secrets::new_text())
            .expect("valid");
        let clock = Clock::new({
            let env = env.clone();
            move || env.now()
        });
        let passwords = tokio::task::spawn_blocking(Passwords::new)
            .await
            .expect("made");
        let authority = Authority::new(
            Arc::clone(&config),
            Arc::new(secrets),
            clock.clone(),
            passwords,
        );
        let mut tokens = Vec::new();
        for name in ["full", "backup", "audit"] {
            let id = format!("tester@pbs!{name}").parse().expect("an id");
            let secret = authority.accounts().renew_token_secret(&id).expect("made");
            tokens.push((
                name,
                format!("PBSAPIToken=tester@pbs!{name}:{}", secret.reveal()),
            ));
        }
        let tasks = TaskRegistry::open(&dir.path().join("tasks"), "pbs", clock).expect("opened");
        let tls = ServerTls::load_or_create(dir.path(), "localhost", env.now()).expect("made");
        let (budget_bytes, finished) = (
            (64 << 20) - WINDOWS_BYTES_SET_ASIDE,
            Arc::new(Mutex::new(Vec::new())),
        );
        let budget = MemoryBudget::new(budget_bytes);
        let datastore = open_datastore(&env, dir.path().join("store1"), budget.clone()).await;
        let protocol = Protocol {
            env: env.clone(),
            authority,
            config,
            tasks,
            sessions: SessionTable::default(),
            memory: ProtocolMemory::new(budget.clone()),
            shutdown: Shutdown::new(),
            delays: Delays::NONE,
            strangers: Arc::default(),
            traffic: crate::traffic::Traffic::default(),
            datastore: Arc::new({
                let datastore = Arc::clone(&datastore);
                move |name, _| {
                    let found = (name == datastore.name()).then(|| Arc::clone(&datastore));
                    found
                        .ok_or_else(|| ApiError::bad_request(format!("no such datastore '{name}'")))
                }
            }),
            finished: Arc::new({
                let finished = Arc::clone(&finished);
                move |subject| finished.lock().expect("not poisoned").push(subject.clone())
            }),
        };
        let api = Arc::new(
            |request: Request<hyper::body::Incoming>, _| -> crate::app::ApiAnswer {
                let path = request.uri().path().to_owned();
                Box::pin(async move { whole(ApiError::not_found(path).into_response()) })
            },
        );
        let app = App::new(protocol.clone(), api, Arc::new(|| Ok(())), 16);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("bound");
        let mut listeners = JoinSet::new();
        let server_tls = tls.config();
        listeners.spawn(async move { app.listen(listener, server_tls).await });
        let tls = client_tls(&tls);
        Self {
            dir,
            env,
            address,
            datastore,
            protocol,
            finished,
            budget,
            budget_bytes,
            tokens,
            tls,
            listeners,
        }
    }

    pub(super) fn token(&self, name: &str) -> &str {
        let found = self.tokens.iter().find(|(known, _)| *known == name);
        &found.expect("a token of the fixture").1
    }

    pub(super) fn add_token(&mut self, user: &str) {
        let accounts = self.protocol.authority.accounts();
        let id = user.parse().expect("an id");
        accounts
            .create_user(None, &id, &AccountChange::default())
            .expect("made");
        let token = id.as_str().to_owned() + "!t";
        let secret = accounts
            .create_token(
                None,
                &token.parse().expect("an id"),
                &AccountChange::default(),
            )
            .expect("made");
        for id in [user, &token] {
            let entry = crate::auth::AclEntry {
                path: "/datastore".parse().expect("a path"),
                id: id.parse().expect("an id"),
                role: "DatastoreBackup".parse().expect("a role"),
                propagate: true,
            };
            accounts.grant(None, &entry).expect("granted");
        }
        self.tokens
            .push(("other", format!("PBSAPIToken={token}:{}", secret.reveal())));
    }

    pub(super) async fn connect(&self) -> TlsStream<TcpStream> {
        let stream = TcpStream::connect(self.address).await.expect("listening");
        stream.set_nodelay(true).expect("connected");
        let name = ServerName::try_from("localhost").expect("a name");
        let connector = tokio_rustls::TlsConnector::from(Arc::clone(&self.tls));
        connector.connect(name, stream).await.expect("TLS")
    }

    /// Sends one request on a connection of its own.
    pub(super) async fn http1(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Response<hyper::body::Incoming> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(self.connect().await))
            .await
            .expect("HTTP/1.1");
        drop(TASKS.spawn(async move { drop(connection.with_upgrades().await) }));
        sender.send_request(request).await.expect("answered")
    }

    pub(super) fn upgrade_request(
        &self,
        target: &str,
        protocol: &str,
        token: &str,
    ) -> Request<Full<Bytes>> {
        Request::builder()
            .uri(target)
            .header("authorization", self.token(token))
            .header("connection", "Upgrade")
            .header("upgrade", protocol)
            .body(Full::default())
            .expect("a request")
    }

    /// Status and text of an upgrade that is refused.
    pub(super) async fn refused(&self, request: Request<Full<Bytes>>) -> (StatusCode, String) {
        let answer = self.http1(request).await;
        let status = answer.status();
        assert_ne!(status, StatusCode::SWITCHING_PROTOCOLS);
        let body = answer
            .into_body()
            .collect()
            .await
            .expect("a body")
            .to_bytes();
        let text = String::from_utf8(body.to_vec()).expect("UTF-8");
        assert!(!text.is_empty());
        (status, text)
    }

    pub(super) async fn upgraded(
        &self,
        request: Request<Full<Bytes>>,
    ) -> TokioIo<hyper::upgrade::Upgraded> {
        let answer = self.http1(request).await;
        assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
        TokioIo::new(hyper::upgrade::on(answer).await.expect("upgraded"))
    }

    pub(super) async fn session(&self, request: Request<Full<Bytes>>) -> Session {
        let io = self.upgraded(request).await;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(1 << 30)
            .initial_connection_window_size(1 << 30)
            .handshake(io.into_inner())
            .await
            .expect("HTTP/2");
        let mut driver = JoinSet::new();
        driver.spawn(async move { connection.await.map_err(|error| error.to_string()) });
        Session {
            sender,
            driver,
            files: Mutex::default(),
        }
    }

    pub(super) fn backup_target(snapshot: &Snapshot) -> String {
        format!(
            "//api2/json/backup?store=store1&{}",
            snapshot_query(snapshot)
        )
    }

    pub(super) async fn backup(&self, snapshot: &Snapshot) -> Session {
        let target = Self::backup_target(snapshot);
        self.session(self.upgrade_request(&target, "proxmox-backup-protocol-v1", "backup"))
            .await
    }

    pub(super) async fn reader(&self, snapshot: &Snapshot) -> Session {
        let target = format!(
            "/api2/json/reader?store=store1&debug=1&{}",
            snapshot_query(snapshot)
        );
        self.session(self.upgrade_request(&target, "proxmox-backup-reader-protocol-v1", "full"))
            .await
    }

    /// Waits until no connection and no session is left, and checks that nothing is held by them.
    pub(super) async fn settle(&self) {
        assert!(
            self.env.drain(SOON).await,
            "connections or sessions do not end"
        );
        assert!(self.datastore.snapshots().is_idle(), "a lock is held");
        assert_eq!(self.datastore.sessions().oldest_open(), None);
        assert!(self.protocol.sessions.list().is_empty());
        assert_eq!(self.budget.bytes_free(), self.budget_bytes);
    }

    pub(super) async fn stop(mut self) -> Drained {
        let drained = self.protocol.shutdown.drain(SOON).await;
        while self.listeners.join_next().await.is_some() {}
        drained
    }

    /// Whether a snapshot counts.
    pub(super) async fn has(&self, snapshot: &Snapshot) -> bool {
        let id = SnapshotRef::new(Namespace::root(), snapshot.clone());
        let state = self.datastore.snapshots().state(&id).await;
        state.is_ok_and(|state| state.is_root())
    }

    /// Type, id and outcome of the tasks that have ended, newest first.
    pub(super) fn tasks(&self) -> Vec<(String, String, Outcome)> {
        let (tasks, _) = self.protocol.tasks.list(&TaskFilter::all(), |_| true);
        let ended = tasks
            .into_iter()
            .filter_map(|task| Some((task.upid, task.end?.1)));
        ended
            .map(|(upid, outcome)| (upid.kind().to_owned(), upid.worker_id().to_owned(), outcome))
            .collect()
    }
}

/// Tasks of clients: they end with their connections.
pub(super) struct Tasks;
pub(super) static TASKS: Tasks = Tasks;

impl Tasks {
    #[expect(
        clippy::disallowed_methods,
        clippy::unused_self,
        reason = "the clients of a test are no part of the daemon"
    )]
    pub(super) fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        tokio::spawn(task)
    }
}

async fn open_datastore(
    env: &Env,
    path: std::path::PathBuf,
    budget: MemoryBudget,
) -> Arc<Datastore> {
    std::fs::create_dir(&path).expect("made");
    let config = DatastoreConfig::new("store1", Backend::Directory(path));
    let options = OpenOptions {
        hostname: "pbs".to_owned(),
        installation: "0123456789abcdef0123456789abcdef".to_owned(),
        take_over: false,
        previous_owner_is_dead: false,
        budget,
    };
    Datastore::open(env.clone(), config, None, options)
        .await
        .expect("opened")
}

fn client_tls(tls: &ServerTls) -> Arc<rustls::ClientConfig> {
    let pem = std::fs::read(tls.certificate_path()).expect("there");
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(&pem).expect("a certificate"))
        .expect("accepted");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

pub(super) fn snapshot(id: &str, hour: i64) -> Snapshot {
    let group: pbs_datastore::BackupGroup = format!("host/{id}").parse().expect("a group");
    group.at(pbs_datastore::BackupTime::new(1_700_000_000 + hour * 3600).expect("a time"))
}

pub(super) fn snapshot_query(snapshot: &Snapshot) -> String {
    let (kind, id) = (snapshot.group.kind, &snapshot.group.id);
    format!(
        "backup-type={kind}&backup-id={id}&backup-time={}",
        snapshot.time.seconds()
    )
}

/// An answer within a session.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) content_type: Option<String>,
    pub(super) length: Option<u64>,
    pub(super) body: Bytes,
}

impl Answer {
    pub(super) fn data(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text());
        assert_eq!(
            self.content_type.as_deref(),
            Some("application/json;charset=UTF-8")
        );
        let mut envelope: Value = serde_json::from_slice(&self.body).expect("JSON");
        envelope.get_mut("data").expect("the member 'data'").take()
    }

    pub(super) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("UTF-8")
    }
}

/// The client's side of a session. Dropping it cuts the connection off.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) sender: http2::SendRequest<Full<Bytes>>,
    driver: JoinSet<Result<(), String>>,
    /// What was written, for the manifest.
    files: Mutex<Vec<ManifestFile>>,
}

impl Session {
    pub(super) async fn send(
        &self,
        method: Method,
        target: &str,
        content_type: &str,
        body: impl Into<Bytes>,
    ) -> Answer {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("https://localhost:8007{target}"));
        if !content_type.is_empty() {
            request = request.header("content-type", content_type);
        }
        let request = request.body(Full::new(body.into())).expect("a request");
        let mut sender = self.sender.clone();
        let answer = sender.send_request(request).await.expect("answered");
        let header = |name: &str| {
            answer
                .headers()
                .get(name)
                .map(|value| value.to_str().expect("text").to_owned())
        };
        Answer {
            status: answer.status().as_u16(),
            content_type: header("content-type"),
            length: header("content-length").map(|text| text.parse().expect("a number")),
            body: answer
                .into_body()
                .collect()
                .await
                .expect("a body")
                .to_bytes(),
        }
    }

    pub(super) async fn get(&self, target: &str) -> Answer {
        self.send(Method::GET, target, "", Bytes::new()).await
    }

    pub(super) async fn post(&self, target: &str) -> Answer {
        self.send(Method::POST, target, "", Bytes::new()).await
    }

    pub(super) async fn json(&self, method: Method, target: &str, body: &Value) -> Answer {
        self.send(method, target, "application/json", body.to_string())
            .await
    }

    pub(super) async fn put_chunk(&self, wid: u64, kind: &str, content: &[u8]) -> Digest {
        let digest = Digest::of(content);
        let blob = plain(content);
        let target = chunk_target(wid, kind, &digest, content.len(), blob.len());
        let answer = self
            .send(Method::POST, &target, "application/octet-stream", blob)
            .await;
        assert_eq!(answer.data(), digest.to_string());
        digest
    }

    pub(super) async fn put_blob(&self, name: &str, content: &[u8]) -> Answer {
        let blob = plain(content);
        self.add_file(name, blob.len(), Digest::of(&blob));
        self.put_encoded(name, blob).await
    }

    async fn put_encoded(&self, name: &str, blob: Bytes) -> Answer {
        let target = format!("/blob?file-name={name}&encoded-size={}", blob.len());
        self.send(Method::POST, &target, "application/octet-stream", blob)
            .await
    }

    pub(super) fn add_file(&self, name: &str, size: usize, csum: Digest) {
        self.files.lock().expect("not poisoned").push(ManifestFile {
            name: name.parse().expect("a name"),
            crypt_mode: CryptMode::None,
            size: size as u64,
            csum: Some(csum),
        });
    }

    /// Writes the chunks as one dynamic archive.
    pub(super) async fn put_dynamic(&self, name: &str, chunks: &[Vec<u8>]) {
        let wid = self
            .post(&format!("/dynamic_index?archive-name={name}"))
            .await
            .data()
            .as_u64()
            .expect("a number");
        let (mut sum, mut end) = (IndexChecksum::new(), 0);
        let (mut digests, mut offsets) = (Vec::new(), Vec::new());
        for chunk in chunks {
            let digest = self.put_chunk(wid, "dynamic", chunk).await;
            digests.push(digest.to_string());
            offsets.push(end);
            end += chunk.len() as u64;
            sum.push_dynamic(end, &digest);
        }
        let body =
            serde_json::json!({ "wid": wid, "digest-list": digests, "offset-list": offsets });
        assert_eq!(
            self.json(Method::PUT, "/dynamic_index", &body).await.data(),
            Value::Null
        );
        let (count, csum) = (chunks.len(), sum.finish());
        self.add_file(name, end as usize, csum);
        let close = format!("/dynamic_close?wid={wid}&chunk-count={count}&size={end}&csum={csum}");
        assert_eq!(self.post(&close).await.data(), Value::Null);
    }

    /// Stores the manifest, and finishes.
    pub(super) async fn finish(&self, snapshot: &Snapshot) {
        self.put_manifest(snapshot).await;
        assert_eq!(self.post("/finish").await.data(), Value::Null);
    }

    pub(super) async fn put_manifest(&self, snapshot: &Snapshot) {
        let files = self.files.lock().expect("not poisoned").clone();
        let manifest = Manifest::new(snapshot.clone(), files).expect("no name comes twice");
        let blob = manifest.to_blob().expect("short").encoded();
        assert_eq!(
            self.put_encoded(ArchiveName::manifest().as_str(), blob)
                .await
                .data(),
            Value::Null
        );
    }

    /// Waits for the server to end the connection.
    pub(super) async fn ended(mut self) -> Result<(), String> {
        let ended = tokio::time::timeout(SOON, self.driver.join_next()).await;
        ended
            .expect("the server ends the connection")
            .expect("one task")
            .expect("no panic")
    }
}

pub(super) fn plain(content: &[u8]) -> Bytes {
    DataBlob::encode_plain(Bytes::copy_from_slice(content))
        .expect("short")
        .encoded()
}

pub(super) fn chunk_target(
    wid: u64,
    kind: &str,
    digest: &Digest,
    size: usize,
    encoded: usize,
) -> String {
    format!("/{kind}_chunk?wid={wid}&digest={digest}&size={size}&encoded-size={encoded}")
}
