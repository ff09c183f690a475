//! The calls within upgraded connections: a client with the right to be there and nothing good in mind.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, FuturesUnordered, StreamExt as _};
use http::header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE, HeaderValue, UPGRADE};
use http::{Request, Response, StatusCode, Uri};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::upgrade::Upgraded;
use hyper_util::rt::{TokioExecutor, TokioIo};
use pbs_datastore::{
    DeleteOptions, GroupRef, JobContext, Namespace, SnapshotRef, Verified, Verifier, VerifyOutcome,
};

use super::calls::{Call, calls};
use super::world::{After, KNOWN_TIME, TOKENS, World, in_world};

/// Longer than any call may take.
const ANSWER_MAX: Duration = Duration::from_hours(1);
/// Longest answer, in bytes: a speed test's.
const ANSWER_BYTES_MAX: usize = 2 << 20;
/// The snapshot that hostile clients write.
const WRITTEN: &str = "backup-type=host&backup-id=written";
/// Where the calls of a session go.
const BASE: &str = "https://localhost:8007";

type Body = BoxBody<Bytes, std::io::Error>;

/// A list of calls in a session that writes a snapshot. None is answered with 500; when the session has ended, whatever its
/// calls were, nothing of it is held. A snapshot that was finished is whole: all its files are there, and every chunk that
/// they name.
pub fn backup(data: &[u8]) {
    backup_finished(data);
}

/// The same; whether its client was told that the snapshot is finished.
pub fn backup_finished(data: &[u8]) -> bool {
    let mut told = false;
    in_world(async |world| {
        let target = format!(
            "/api2/json/backup?store=one&{WRITTEN}&backup-time={}",
            KNOWN_TIME + 60
        );
        let io = upgraded(world, &target, "proxmox-backup-protocol-v1").await;
        told = talk(world, io, data).await;
        remove_written(world, told).await;
        After::Unchanged
    });
    told
}

/// A list of calls in a session that reads the known snapshot. None is answered with 500.
pub fn reader(data: &[u8]) {
    in_world(async |world| {
        let target = format!(
            "/api2/json/reader?store=one&backup-type=host&backup-id=known&backup-time={KNOWN_TIME}"
        );
        let io = upgraded(world, &target, "proxmox-backup-reader-protocol-v1").await;
        talk(world, io, data).await;
        After::Unchanged
    });
}

/// An upgraded connection of a person who may have it.
pub(super) async fn upgraded(world: &World, target: &str, protocol: &'static str) -> Upgraded {
    let request = Request::get(target)
        .header(AUTHORIZATION, TOKENS[0].1)
        .header(CONNECTION, "upgrade")
        .header(UPGRADE, protocol);
    let request = request.body(Full::<Bytes>::default()).expect("a request");
    let answer = ask(world, request).await.expect("answered");
    assert_eq!(
        answer.status(),
        StatusCode::SWITCHING_PROTOCOLS,
        "an honest upgrade is refused"
    );
    hyper::upgrade::on(answer).await.expect("upgraded")
}

/// Sends one request on a connection of its own.
pub(super) async fn ask(
    world: &World,
    request: Request<Full<Bytes>>,
) -> Result<Response<Incoming>, hyper::Error> {
    let io = TokioIo::new(world.connect());
    let (mut sender, connection) = http1::handshake(io).await?;
    drop(world.daemon.env.spawn(async move {
        drop(connection.with_upgrades().await);
    }));
    let answer = tokio::time::timeout(ANSWER_MAX, sender.send_request(request)).await;
    answer.expect("a request is answered")
}

/// Makes all calls; whether the session was finished.
async fn talk(world: &World, io: Upgraded, data: &[u8]) -> bool {
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .handshake::<_, Body>(io)
        .await
        .expect("the server speaks HTTP/2");
    drop(world.daemon.env.spawn(async move {
        // However it ends: the calls see that.
        drop(connection.await);
    }));
    let (mut finished, mut beside) = (false, FuturesUnordered::new());
    for call in calls(data, BASE, false) {
        let answer = answered(sender.clone(), call.clone());
        if call.beside {
            beside.push(answer);
        } else {
            finished |= answer.await;
        }
    }
    while let Some(finish) = beside.next().await {
        finished |= finish;
    }
    finished
}

/// Makes one call; whether it finished the session.
async fn answered(mut sender: http2::SendRequest<Body>, call: Call) -> bool {
    let Some(request) = request(&call) else {
        return false;
    };
    let what = format!("{} {}", call.method, call.target.path());
    let answer = tokio::time::timeout(ANSWER_MAX, sender.send_request(request)).await;
    let Ok(answer) = answer.unwrap_or_else(|_| panic!("{what} is never answered")) else {
        // The body broke off, or the connection has ended.
        return false;
    };
    let status = answer.status().as_u16();
    tracing::info!(target: "hostile", what, status, "answered");
    assert!(status < 500 || status == 503, "{what}: {status}");
    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect();
    let body = tokio::time::timeout(ANSWER_MAX, body).await;
    match body.unwrap_or_else(|_| panic!("{what}: the answer never ends")) {
        Ok(body) if status != 200 => {
            let text = String::from_utf8_lossy(&body.to_bytes()).into_owned();
            tracing::info!(target: "hostile", text, "refused");
        }
        Ok(_) => {}
        Err(error) => assert!(
            !error.is::<http_body_util::LengthLimitError>(),
            "{what}: an answer without end"
        ),
    }
    status == 200 && call.target.path().trim_matches('/') == "finish"
}

fn request(call: &Call) -> Option<Request<Body>> {
    let body = if call.cut {
        let half = call.body.slice(..call.body.len() / 2);
        let broken = || Err(std::io::Error::other("the client breaks off"));
        BodyExt::boxed(StreamBody::new(stream::iter([
            Ok(Frame::data(half)),
            broken(),
        ])))
    } else {
        Full::new(call.body.clone())
            .map_err(|never: Infallible| match never {})
            .boxed()
    };
    let uri: Uri = call.target.clone();
    let mut request = Request::builder().method(call.method.clone()).uri(uri);
    if !call.content_type.is_empty() {
        let value = HeaderValue::from_bytes(&call.content_type).ok()?;
        request = request.header(CONTENT_TYPE, value);
    }
    request.body(body).ok()
}

/// Looks whether a finished snapshot is whole, and removes its group.
async fn remove_written(world: &World, finished: bool) {
    let store = world.store();
    let group = GroupRef::new(Namespace::root(), "host/written".parse().expect("a group"));
    let ended = async {
        while !world.daemon.sessions.list().is_empty() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let ended = tokio::time::timeout(ANSWER_MAX, ended).await;
    assert!(ended.is_ok(), "a session outlives its connection");
    let listed = store.snapshots().group_snapshots(&group).await;
    let listed = listed.expect("listed");
    assert_eq!(
        !listed.is_empty(),
        finished,
        "a snapshot is there exactly if its client was told so"
    );
    for info in listed {
        let id = SnapshotRef::new(Namespace::root(), info.id.snapshot.clone());
        let mut verifier = Verifier::new(store.clone());
        let outcome = verifier
            .verify(&id, "UPID:fuzz", &JobContext::detached())
            .await;
        let outcome = outcome.expect("it can be verified");
        assert_eq!(
            outcome,
            Verified::Done(VerifyOutcome::Ok),
            "a finished snapshot is not whole"
        );
    }
    let deleted = store
        .snapshots()
        .delete_group(
            &group,
            DeleteOptions {
                error_on_protected: false,
            },
        )
        .await;
    drop(deleted);
}
