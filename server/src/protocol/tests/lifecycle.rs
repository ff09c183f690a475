//! How sessions and connections end.

use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::fixture::{Fixture, SOON, plain, snapshot, snapshot_query};
use super::raw::RawClient;
use crate::shutdown::Drained;
use crate::tasks::Outcome;

#[tokio::test]
async fn a_connection_that_is_cut_off_leaves_no_snapshot() {
    let fixture = Fixture::new().await;
    let snapshot = snapshot("a", 0);
    let target = Fixture::backup_target(&snapshot);
    let request = fixture.upgrade_request(&target, "proxmox-backup-protocol-v1", "backup");
    let mut client = RawClient::begin(fixture.upgraded(request).await).await;
    client
        .post(1, "/blob?file-name=x.conf.blob&encoded-size=1000")
        .await;
    assert!(client.try_data(1, &plain(b"text"), false).await);
    drop(client);
    fixture.settle().await;
    assert!(!fixture.has(&snapshot).await);
    assert!(matches!(
        fixture.tasks().as_slice(),
        [(_, _, Outcome::Error(_))]
    ));
    let again = fixture.backup(&snapshot).await;
    again.finish(&snapshot).await;
    drop(again);
    fixture.settle().await;
    assert_eq!(
        fixture.tasks()[0].2,
        Outcome::Ok,
        "cut off after finish is success"
    );
}

#[tokio::test]
async fn a_clean_end_without_finish_is_a_failure() {
    let fixture = Fixture::new().await;
    let session = fixture.backup(&snapshot("a", 0)).await;
    assert_eq!(session.get("/").await.status, 200);
    let super::fixture::Session { sender, .. } = &session;
    assert!(sender.is_ready());
    drop(session);
    fixture.settle().await;
    assert!(matches!(&fixture.tasks()[0].2, Outcome::Error(text) if !text.is_empty()));
    assert!(fixture.finished.lock().expect("not poisoned").is_empty());
}

#[tokio::test]
async fn an_administrator_sees_and_ends_a_session() {
    let fixture = Fixture::new().await;
    let session = fixture.backup(&snapshot("a", 0)).await;
    assert_eq!(session.put_blob("x.conf.blob", b"text").await.status, 200);
    let list = fixture.protocol.sessions.list();
    let [report] = list.as_slice() else {
        panic!("{list:?}")
    };
    assert_eq!(report.subject.snapshot, snapshot("a", 0));
    assert_eq!(report.subject.author.to_string(), "tester@pbs!backup");
    assert_eq!(
        (report.requests, report.requests_open, report.bytes_received),
        (1, 0, 16)
    );
    assert!(
        fixture
            .protocol
            .sessions
            .end(report.id, "ended by an administrator")
    );
    drop(session.ended().await);
    fixture.settle().await;
    let outcome = Outcome::Error("ended by an administrator".to_owned());
    assert_eq!(fixture.tasks()[0].2, outcome);
}

#[tokio::test]
async fn stopping_its_task_ends_a_session() {
    let fixture = Fixture::new().await;
    let session = fixture.backup(&snapshot("a", 0)).await;
    let (tasks, _) = fixture
        .protocol
        .tasks
        .list(&crate::tasks::TaskFilter::all(), |_| true);
    fixture
        .protocol
        .tasks
        .abort(&tasks[0].upid)
        .expect("it runs");
    drop(session.ended().await);
    fixture.settle().await;
    assert_eq!(
        fixture.tasks()[0].2,
        Outcome::Error("received abort request".to_owned())
    );
}

#[tokio::test]
async fn a_stop_ends_sessions_and_connections() {
    let fixture = Fixture::new().await;
    let (env, tasks) = (fixture.env.clone(), fixture.protocol.tasks.clone());
    let session = fixture.backup(&snapshot("a", 0)).await;
    assert_eq!(session.get("/").await.status, 200);
    let idle = fixture.connect().await;
    assert_eq!(fixture.stop().await, Drained::Clean);
    assert!(env.drain(SOON).await);
    drop((session, idle));
    let (tasks, _) = tasks.list(&crate::tasks::TaskFilter::all(), |_| true);
    let outcome = &tasks[0].end.as_ref().expect("ended").1;
    assert_eq!(*outcome, Outcome::Error("the daemon stops".to_owned()));
}

#[tokio::test]
async fn half_open_connections_are_bounded() {
    let fixture = Fixture::new().await;
    let mut silent = Vec::new();
    for _ in 0..4 {
        silent.push(
            TcpStream::connect(fixture.address)
                .await
                .expect("listening"),
        );
    }
    let mut one_more = TcpStream::connect(fixture.address)
        .await
        .expect("listening");
    let read = timeout(SOON, one_more.read(&mut [0; 1]))
        .await
        .expect("closed at once");
    assert!(matches!(read, Ok(0) | Err(_)));
    drop(silent);
    fixture.settle().await;
    let health = Request::builder()
        .uri("/health/ready")
        .body(Full::default())
        .expect("a request");
    let answer = fixture.http1(health).await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(
        answer
            .into_body()
            .collect()
            .await
            .expect("a body")
            .to_bytes(),
        "ok"
    );
}

#[tokio::test]
async fn plain_http_is_redirected() {
    let fixture = Fixture::new().await;
    let mut stream = TcpStream::connect(fixture.address)
        .await
        .expect("listening");
    stream
        .write_all(b"GET /x?y HTTP/1.1\r\nHost: store.example:8007\r\n\r\n")
        .await
        .expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("closed");
    assert!(answer.starts_with("HTTP/1.1 301 "), "{answer}");
    assert!(
        answer.contains("location: https://store.example:8007/x?y\r\n"),
        "{answer}"
    );
    fixture.settle().await;
}

#[tokio::test]
async fn other_requests_go_to_the_api() {
    let fixture = Fixture::new().await;
    let target = format!(
        "/api2/json/backup?store=store1&{}",
        snapshot_query(&snapshot("a", 0))
    );
    for (method, target, status) in [
        (Method::GET, "//api2/json/version", 404),
        (Method::POST, target.as_str(), 404),
        (Method::GET, "/health/live", 200),
    ] {
        let request = Request::builder()
            .method(method)
            .uri(target)
            .body(Full::default())
            .expect("a request");
        assert_eq!(
            fixture.http1(request).await.status().as_u16(),
            status,
            "{target}"
        );
    }
    fixture.settle().await;
}
