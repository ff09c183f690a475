//! From the upgrade request to the end of the session (`pbs-interface.md` 1.4, 3.1, 4.1).
//!
//! Everything is checked before the 101, in this order: identity, parameters, privilege, datastore, upgrade header,
//! namespace, benchmark flag, a place among the open sessions, memory, and then what the datastore checks itself (group
//! lock, owner, last backup, time). A refusal leaves nothing behind but perhaps a new group.
//!
//! The whole life of a session is one task that nobody cancels, so its end is reached exactly once, however the
//! connection ends:
//! 1. the connection and its streams end; 2. the datastore is told, and removes an unfinished snapshot; 3. the task
//!    ends; 4. memory and place are given back.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HeaderValue, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use pbs_datastore::{
    Backup, BackupGroup, BackupId, BackupRequest, BackupTime, BackupType, Datastore, DatastoreName,
    Env, Namespace, SessionState, Snapshot, SnapshotReader,
};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::backup::BackupSession;
use super::connection::{Bounds, ConnectionEnd, Surroundings, serve};
use super::flow::StreamExecutor;
use super::memory::{ProtocolMemory, ReaderMemory, WriterMemory};
use super::reader::ReaderSession;
use super::served::{Calls, Served};
use super::session::{OpenSession, SessionKind, SessionSubject, SessionTable};
use crate::api::{ApiError, Delays, Params, Strangers};
use crate::auth::{AclPath, Authority, Principal, Privilege};
use crate::config::ConfigStore;
use crate::shutdown::Shutdown;
use crate::tasks::{Task, TaskRegistry, TaskStart};
use crate::traffic::{Lane, Traffic};

/// How long a client may take to go on after the 101.
const UPGRADE_MAX: Duration = Duration::from_secs(30);

/// Which protocol is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProtocolName {
    /// `proxmox-backup-protocol-v1`
    Backup,
    /// `proxmox-backup-reader-protocol-v1`
    Reader,
}

impl ProtocolName {
    fn token(self) -> &'static str {
        match self {
            Self::Backup => "proxmox-backup-protocol-v1",
            Self::Reader => "proxmox-backup-reader-protocol-v1",
        }
    }
}

/// What a session does with its datastore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Only reads.
    Read,
    /// Writes too.
    Write,
}

/// Finds an open datastore by its name; the error is what the client is told: unknown, not available, or only to be read
/// where it is to be written.
pub(crate) type FindDatastore =
    Arc<dyn Fn(&DatastoreName, Access) -> Result<Arc<Datastore>, ApiError> + Send + Sync>;
/// Told of each snapshot that was finished, after its session has ended; starts the verification of new snapshots.
pub(crate) type OnFinished = Arc<dyn Fn(&SessionSubject) + Send + Sync>;

/// What the two protocols need of the daemon.
#[derive(Clone)]
pub(crate) struct Protocol {
    pub(crate) env: Env,
    pub(crate) authority: Authority,
    pub(crate) config: Arc<ConfigStore>,
    pub(crate) tasks: TaskRegistry,
    pub(crate) sessions: SessionTable,
    pub(crate) memory: Arc<ProtocolMemory>,
    pub(crate) shutdown: Shutdown,
    pub(crate) delays: Delays,
    pub(crate) strangers: Arc<Strangers>,
    pub(crate) traffic: Traffic,
    pub(crate) datastore: FindDatastore,
    pub(crate) finished: OnFinished,
}

impl fmt::Debug for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Protocol")
            .field("sessions", &self.sessions)
            .finish_non_exhaustive()
    }
}

/// The parameters of an upgrade.
struct UpgradeParams {
    store: DatastoreName,
    namespace: Namespace,
    snapshot: Snapshot,
    benchmark: bool,
    no_cache: bool,
}

impl UpgradeParams {
    fn of(protocol: ProtocolName, head: &Parts) -> Result<Self, ApiError> {
        let mut params = Params::gather([], head.uri.query(), None, &[])?;
        let store = params.required("store")?;
        let namespace = params.optional("ns")?.unwrap_or_else(Namespace::root);
        let group = BackupGroup::new(
            params.required::<BackupType>("backup-type")?,
            params.required::<BackupId>("backup-id")?,
        );
        let time = params.required_integer("backup-time", 1..=i64::MAX)?;
        let time = BackupTime::new(time).map_err(|error| {
            ApiError::bad_request(format!(
                "parameter verification failed: 'backup-time': {error}"
            ))
        })?;
        params.flag("debug")?;
        let (mut benchmark, mut no_cache) = (false, false);
        if protocol == ProtocolName::Backup {
            benchmark = params.flag("benchmark")?.unwrap_or(false);
            no_cache = params.flag("no-cache")?.unwrap_or(false);
        }
        params.finish()?;
        Ok(Self {
            store,
            namespace,
            snapshot: group.at(time),
            benchmark,
            no_cache,
        })
    }
}

/// What an admitted session works on, and with which memory.
enum Work {
    Backup(Arc<Backup>, WriterMemory),
    Reader(Arc<SnapshotReader>, ReaderMemory),
}

/// A session whose checks are done.
struct Admitted {
    work: Work,
    subject: SessionSubject,
    session: OpenSession,
    task: Task,
}

impl Protocol {
    /// Answers an upgrade request. After a 101 the session goes on by itself.
    pub(crate) async fn upgrade(
        &self,
        protocol: ProtocolName,
        mut request: Request<Incoming>,
        peer: SocketAddr,
        lane: Lane,
    ) -> Response<Bytes> {
        let Some(work) = self.shutdown.begin_work() else {
            return ApiError::unavailable("the daemon is stopping").into_response();
        };
        let upgraded = hyper::upgrade::on(&mut request);
        let (head, _) = request.into_parts();
        let (answer, answered) = oneshot::channel();
        let this = self.clone();
        drop(self.env.spawn(async move {
            let _work = work;
            this.run(protocol, &head, (peer, lane), upgraded, answer)
                .await;
        }));
        match answered.await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => self.delays.refuse(error).await,
            Err(_) => ApiError::internal("the session could not be opened").into_response(),
        }
    }

    async fn run(
        &self,
        protocol: ProtocolName,
        head: &Parts,
        (peer, lane): (SocketAddr, Lane),
        upgraded: OnUpgrade,
        answer: oneshot::Sender<Result<Response<Bytes>, ApiError>>,
    ) {
        let admitted = match self.admit(protocol, head, peer).await {
            Ok(admitted) => admitted,
            Err(error) => {
                // Strangers have lines of their own, which are few however often they try.
                if error.status() != StatusCode::UNAUTHORIZED {
                    tracing::info!(%peer, ?protocol, %error, "session refused");
                }
                // A client that has gone needs no answer.
                drop(answer.send(Err(error)));
                return;
            }
        };
        lane.belongs_to(&admitted.subject.author);
        let end = if answer.send(Ok(switching_protocols(protocol))).is_err() {
            ConnectionEnd::Broken("the client went away before the session began".to_owned())
        } else {
            match timeout(UPGRADE_MAX, upgraded).await {
                Ok(Ok(io)) => self.serve(io, &admitted).await,
                Ok(Err(error)) => {
                    ConnectionEnd::Broken(format!("the connection ended with the upgrade: {error}"))
                }
                Err(_) => {
                    ConnectionEnd::Broken("the client did not go on after the upgrade".to_owned())
                }
            }
        };
        self.end(admitted, end).await;
    }

    async fn admit(
        &self,
        protocol: ProtocolName,
        head: &Parts,
        peer: SocketAddr,
    ) -> Result<Admitted, ApiError> {
        let address = peer.ip().to_canonical();
        let now = self.env.now().as_second();
        let who = self
            .strangers
            .identify(&self.authority, head, address, now)?;
        let params = UpgradeParams::of(protocol, head)?;
        let owner_needed = self.check_privilege(protocol, &who, &params)?;
        let access = match protocol {
            ProtocolName::Backup => Access::Write,
            ProtocolName::Reader => Access::Read,
        };
        let datastore = (self.datastore)(&params.store, access)?;
        check_upgrade_header(protocol, &head.headers)?;
        if !datastore
            .namespace_exists(&params.namespace)
            .await
            .map_err(refused)?
        {
            return Err(match protocol {
                ProtocolName::Backup => {
                    ApiError::not_found(format!("namespace '{}' not found", params.namespace))
                }
                ProtocolName::Reader => {
                    ApiError::bad_request(format!("namespace '{}' not found", params.namespace))
                }
            });
        }
        if protocol == ProtocolName::Backup {
            check_benchmark(&params)?;
        }
        let subject = SessionSubject {
            kind: match protocol {
                ProtocolName::Reader => SessionKind::Reader,
                ProtocolName::Backup if params.benchmark => SessionKind::Benchmark,
                ProtocolName::Backup => SessionKind::Backup,
            },
            store: params.store.clone(),
            namespace: params.namespace.clone(),
            snapshot: params.snapshot.clone(),
            author: who.id().clone(),
            peer: peer.to_string(),
            started: self.env.now(),
        };
        let config = self.config.read();
        let sessions_max = match protocol {
            ProtocolName::Backup => config.server.backup_sessions_max,
            ProtocolName::Reader => config.server.reader_sessions_max,
        };
        let session = self.sessions.open(subject.clone(), sessions_max)?;
        let work = match protocol {
            ProtocolName::Backup => self.begin_backup(&datastore, params, &who).await?,
            ProtocolName::Reader => {
                self.begin_read(&datastore, &params, &who, owner_needed)
                    .await?
            }
        };
        let task = match self.start_task(&subject) {
            Ok(task) => task,
            Err(error) => {
                if let Work::Backup(backup, _) = &work {
                    backup.end("its task could not be started").await;
                }
                return Err(error);
            }
        };
        Ok(Admitted {
            work,
            subject,
            session,
            task,
        })
    }

    /// Whether only the owner of the group may do it, or why nobody may.
    fn check_privilege(
        &self,
        protocol: ProtocolName,
        who: &Principal,
        params: &UpgradeParams,
    ) -> Result<bool, ApiError> {
        let path = AclPath::namespace(params.store.as_str(), &params.namespace.to_string());
        let held = self.authority.privileges(who, &path);
        let (reads, backs_up) = (
            held.contains(Privilege::DatastoreRead),
            held.contains(Privilege::DatastoreBackup),
        );
        let (owner_needed, missing) = match protocol {
            ProtocolName::Backup => (backs_up.then_some(true), Privilege::DatastoreBackup),
            ProtocolName::Reader if reads => (Some(false), Privilege::DatastoreRead),
            ProtocolName::Reader => (backs_up.then_some(true), Privilege::DatastoreRead),
        };
        owner_needed.ok_or_else(|| {
            let text = format!("permission check failed: no {missing} on {path}");
            match protocol {
                ProtocolName::Backup => ApiError::forbidden(text),
                // Readers are told everything with this status.
                ProtocolName::Reader => ApiError::bad_request(text),
            }
        })
    }

    async fn begin_backup(
        &self,
        datastore: &Arc<Datastore>,
        params: UpgradeParams,
        who: &Principal,
    ) -> Result<Work, ApiError> {
        let memory = self
            .memory
            .open_writer(who.id().user())
            .await
            .ok_or_else(no_window)?;
        let request = BackupRequest {
            namespace: params.namespace,
            snapshot: params.snapshot,
            author: datastore_id(who)?,
            benchmark: params.benchmark,
            no_cache: params.no_cache,
        };
        let backup = datastore.begin_backup(request).await.map_err(refused)?;
        Ok(Work::Backup(backup, memory))
    }

    async fn begin_read(
        &self,
        datastore: &Arc<Datastore>,
        params: &UpgradeParams,
        who: &Principal,
        owner_needed: bool,
    ) -> Result<Work, ApiError> {
        let memory = self
            .memory
            .open_reader(who.id().user())
            .await
            .ok_or_else(no_window)?;
        let owner = if owner_needed {
            Some(datastore_id(who)?)
        } else {
            None
        };
        let reader = datastore
            .begin_read(&params.namespace, &params.snapshot, owner.as_ref())
            .await;
        Ok(Work::Reader(reader.map_err(refused)?, memory))
    }

    fn start_task(&self, subject: &SessionSubject) -> Result<Task, ApiError> {
        let SessionSubject {
            store, snapshot, ..
        } = subject;
        let worker_id = match subject.kind {
            SessionKind::Reader => subject.worker_id(),
            SessionKind::Backup | SessionKind::Benchmark => format!("{store}:{}", snapshot.group),
        };
        let task = self.tasks.start(&TaskStart {
            kind: subject.kind.name(),
            worker_id: &worker_id,
            user: subject.author.clone(),
            // Clients that list the tasks of a datastore expect those that write to it.
            store: (subject.kind == SessionKind::Backup).then_some(store.as_str()),
        })?;
        let namespace = &subject.namespace;
        let place = if namespace.is_root() {
            String::new()
        } else {
            format!(" in namespace '{namespace}'")
        };
        let (kind, author, peer) = (subject.kind.name(), &subject.author, &subject.peer);
        task.log(format_args!(
            "starting new {kind} session on '{store}': {snapshot}{place}, {author} from {peer}"
        ));
        tracing::info!(%peer, %author, %store, %namespace, %snapshot, kind, "session begins");
        Ok(task)
    }

    async fn serve(&self, io: Upgraded, admitted: &Admitted) -> ConnectionEnd {
        let Admitted {
            work,
            session,
            task,
            ..
        } = admitted;
        let server = &self.config.read().server;
        let bounds = Bounds {
            idle_max: matches!(work, Work::Backup(..))
                .then(|| Duration::from_secs(server.session_idle_seconds)),
            shutdown_max: Duration::from_secs(server.shutdown_seconds) / 2,
        };
        let (progress, log) = (session.progress().clone(), task.logger());
        let (window, calls) = match work {
            Work::Backup(backup, memory) => {
                let backup = Arc::clone(backup);
                let session = BackupSession::new(backup, memory, progress.clone(), log.clone());
                (&memory.window, Calls::Backup(session))
            }
            Work::Reader(reader, memory) => {
                let reader = Arc::clone(reader);
                let session = ReaderSession::new(reader, memory, progress.clone(), log.clone());
                (&memory.window, Calls::Reader(session))
            }
        };
        let around = Surroundings {
            session,
            shutdown: &self.shutdown,
            executor: StreamExecutor::new(self.env.clone()),
            window,
            bounds,
        };
        let served = Arc::new(Served {
            calls,
            progress,
            log,
        });
        let answer = move |request| {
            let served = Arc::clone(&served);
            async move { served.answer(request).await }
        };
        serve(io, around, ended(admitted), answer).await
    }

    async fn end(&self, admitted: Admitted, end: ConnectionEnd) {
        let Admitted {
            work,
            subject,
            session,
            task,
        } = admitted;
        let reason = match &end {
            ConnectionEnd::Closed => None,
            ConnectionEnd::Broken(error) => Some(format!("connection error: {error}")),
            ConnectionEnd::Ended(reason) => Some(reason.clone()),
        };
        if let Some(reason) = &reason {
            task.log(format_args!("the connection has ended: {reason}"));
        }
        let (mut finished, mut result) = (false, Ok(()));
        if let Work::Backup(backup, _) = &work {
            let reason =
                reason.unwrap_or_else(|| "backup ended but finished state is not set.".to_owned());
            // A seal that has begun goes on without its client; only its outcome says how the session ended.
            let mut state = backup.state();
            drop(
                state
                    .wait_for(|state| *state != SessionState::Committing)
                    .await,
            );
            finished = backup.end(&reason).await;
            if !finished && subject.kind == SessionKind::Backup {
                result = Err(reason);
            }
        }
        // What was not finished is removed from here on, and its locks are given up.
        drop(work);
        tracing::info!(peer = %subject.peer, author = %subject.author, store = %subject.store,
            namespace = %subject.namespace, snapshot = %subject.snapshot, ?end, ?result, "session ends");
        task.finish(result).await;
        drop(session);
        if finished && subject.kind == SessionKind::Backup {
            (self.finished)(&subject);
        }
    }
}

/// Returns the reason when anybody but the client ends the session. A snapshot that is being finished goes on.
async fn ended(admitted: &Admitted) -> String {
    let mut aborted = admitted.task.abort_signal();
    let asked = async {
        tokio::select! {
            reason = admitted.session.end_requested() => reason,
            () = aborted.aborted() => "received abort request".to_owned(),
        }
    };
    let Work::Backup(backup, _) = &admitted.work else {
        return asked.await;
    };
    let mut state = backup.state();
    let died = async {
        loop {
            if let SessionState::Dead(reason) = &*state.borrow_and_update() {
                return reason.clone();
            }
            if state.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        reason = asked => {
            backup.kill(&reason);
            reason
        }
        reason = died => reason,
    }
}

fn switching_protocols(protocol: ProtocolName) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(protocol.token()));
    response
}

fn check_upgrade_header(protocol: ProtocolName, headers: &HeaderMap) -> Result<(), ApiError> {
    match headers.get(UPGRADE) {
        None => Err(ApiError::bad_request("missing Upgrade header")),
        Some(value) if value == protocol.token() => Ok(()),
        Some(_) => Err(ApiError::bad_request(format!(
            "invalid protocol name, expected '{}'",
            protocol.token()
        ))),
    }
}

/// The group of benchmarks holds nothing else: whatever is written into it is thrown away.
fn check_benchmark(params: &UpgradeParams) -> Result<(), ApiError> {
    match (
        params.benchmark,
        params.snapshot.group.to_string() == "host/benchmark",
    ) {
        (true, false) => Err(ApiError::bad_request(
            "the benchmark flag is only allowed on 'host/benchmark'",
        )),
        (false, true) => Err(ApiError::bad_request(
            "the group 'host/benchmark' is for benchmarks only; choose another backup id",
        )),
        _ => Ok(()),
    }
}

fn no_window() -> ApiError {
    ApiError::unavailable(
        "no memory is left for another session; try again later, or raise memory-budget-bytes",
    )
}

/// The identity as the datastore knows it.
fn datastore_id(who: &Principal) -> Result<pbs_datastore::AuthId, ApiError> {
    let id = who.id().to_string();
    id.parse()
        .map_err(|error: pbs_datastore::NameError| ApiError::bad_request(error.to_string()))
}

/// Every refusal of the datastore is a 400 here.
fn refused(error: pbs_datastore::Error) -> ApiError {
    ApiError::bad_request(error.to_string())
}
