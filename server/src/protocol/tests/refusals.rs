//! What is refused, with which status, before and after the upgrade.

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use pbs_datastore::{Digest, IndexChecksum};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::fixture::{Fixture, Session, chunk_target, plain, snapshot, snapshot_query};

const BACKUP: &str = "proxmox-backup-protocol-v1";
const READER: &str = "proxmox-backup-reader-protocol-v1";

#[tokio::test]
async fn an_upgrade_is_refused_before_anything_is_made() {
    let fixture = Fixture::new().await;
    let good = format!(
        "/api2/json/backup?store=store1&{}",
        snapshot_query(&snapshot("a", 0))
    );
    let cases = [
        (
            good.replace("store1", "nostore"),
            BACKUP,
            "full",
            400,
            "no such datastore",
        ),
        (good.clone(), BACKUP, "audit", 403, "permission"),
        (
            good.replace("store1", "nostore"),
            BACKUP,
            "audit",
            403,
            "permission",
        ),
        (good.clone(), READER, "full", 400, "protocol name"),
        (
            good.clone(),
            "Proxmox-Backup-Protocol-v1",
            "full",
            400,
            "protocol name",
        ),
        (format!("{good}&ns=none"), BACKUP, "full", 404, "namespace"),
        (format!("{good}&ns=/a"), BACKUP, "full", 400, "'ns'"),
        (
            format!("{good}&benchmark=1"),
            BACKUP,
            "full",
            400,
            "host/benchmark",
        ),
        (
            good.replace("backup-id=a", "backup-id=benchmark"),
            BACKUP,
            "full",
            400,
            "for benchmarks only",
        ),
        (format!("{good}&bogus=1"), BACKUP, "full", 400, "bogus"),
        (
            good.replace("1700000000", "0"),
            BACKUP,
            "full",
            400,
            "backup-time",
        ),
        (
            good.replace("backup-id=a", "backup-id=../a"),
            BACKUP,
            "full",
            400,
            "backup-id",
        ),
        (
            good.replace("backup-type=host&", ""),
            BACKUP,
            "full",
            400,
            "backup-type",
        ),
        (
            good.replace("backup?", "reader?"),
            READER,
            "full",
            400,
            "host/a",
        ),
        (
            good.replace("backup?", "reader?"),
            READER,
            "audit",
            400,
            "permission",
        ),
        (
            good.replace("backup?", "reader?") + "&benchmark=1",
            READER,
            "full",
            400,
            "benchmark",
        ),
        (
            format!("{good}&x={}", "y".repeat(3072)),
            BACKUP,
            "full",
            404,
            "backup",
        ),
    ];
    for (target, protocol, token, status, text) in cases {
        let (got, message) = fixture
            .refused(fixture.upgrade_request(&target, protocol, token))
            .await;
        assert_eq!(got.as_u16(), status, "{target}: {message}");
        assert!(message.contains(text), "{target}: {message}");
    }
    let nobody = Request::builder()
        .uri(&good)
        .header("upgrade", BACKUP)
        .body(Full::default())
        .expect("a request");
    assert_eq!(fixture.refused(nobody).await.0, 401);
    let bare = Request::builder()
        .uri(&good)
        .header("authorization", fixture.token("full"));
    let (status, text) = fixture
        .refused(bare.body(Full::default()).expect("a request"))
        .await;
    assert_eq!(
        (status.as_u16(), text.as_str()),
        (400, "missing Upgrade header")
    );
    fixture.settle().await;
    assert!(fixture.tasks().is_empty());
}

#[tokio::test]
async fn groups_times_owners_and_numbers_are_checked() {
    let mut fixture = Fixture::new().await;
    fixture.add_token("other@pbs");
    let backup = |fixture: &Fixture, id: &str, hour, token: &str| {
        fixture.upgrade_request(&Fixture::backup_target(&snapshot(id, hour)), BACKUP, token)
    };
    let session = fixture.backup(&snapshot("a", 1)).await;
    assert_eq!(
        fixture.refused(backup(&fixture, "a", 2, "backup")).await.0,
        400,
        "one backup per group"
    );
    let reader = format!(
        "/api2/json/reader?store=store1&{}",
        snapshot_query(&snapshot("a", 1))
    );
    let read = |token| fixture.upgrade_request(&reader, READER, token);
    assert_eq!(
        fixture.refused(read("full")).await.0,
        400,
        "it is being written"
    );
    let more = [
        fixture.backup(&snapshot("b", 0)).await,
        fixture.backup(&snapshot("c", 0)).await,
    ];
    let (status, text) = fixture.refused(backup(&fixture, "d", 0, "backup")).await;
    assert_eq!(status, 503);
    assert!(text.contains("backup-sessions-max"), "{text}");
    session.put_blob("x.conf.blob", b"text").await;
    session.finish(&snapshot("a", 1)).await;
    drop((session, more));
    fixture.settle().await;
    assert_eq!(
        fixture.refused(backup(&fixture, "a", 1, "backup")).await.0,
        400,
        "the same time"
    );
    assert_eq!(
        fixture.refused(backup(&fixture, "a", 0, "backup")).await.0,
        400,
        "an older time"
    );
    let (status, text) = fixture.refused(backup(&fixture, "a", 2, "other")).await;
    assert_eq!(status, 400);
    assert!(text.contains("belongs to"), "{text}");
    let read = |token| fixture.upgrade_request(&reader, READER, token);
    assert_eq!(
        fixture.refused(read("other")).await.0,
        400,
        "not the owner, and no privilege to read all"
    );
    drop(fixture.session(read("backup")).await);
    fixture.settle().await;
}

#[tokio::test]
async fn the_answer_to_an_upgrade_has_no_byte_too_many() {
    let fixture = Fixture::new().await;
    let mut stream = fixture.connect().await;
    let (target, token) = (
        Fixture::backup_target(&snapshot("a", 0)),
        fixture.token("backup"),
    );
    // Some clients send no Host header.
    let head = format!(
        "GET {target}&ns= HTTP/1.1\r\nAuthorization: {token}\r\nConnection: keep-alive, Upgrade\r\nUpgrade: {BACKUP}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.expect("an answer"));
    }
    let answer = String::from_utf8(answer).expect("UTF-8");
    let mut lines: Vec<&str> = answer
        .trim_end()
        .lines()
        .filter(|line| !line.starts_with("date: "))
        .collect();
    lines[1..].sort_unstable();
    assert_eq!(
        lines,
        [
            "HTTP/1.1 101 Switching Protocols",
            "connection: upgrade",
            "upgrade: proxmox-backup-protocol-v1"
        ]
    );
    let mut frame = [0; 9];
    stream.read_exact(&mut frame).await.expect("HTTP/2");
    assert_eq!(frame[3], 4, "the server begins with its settings");
    drop(stream);
    fixture.settle().await;
}

/// Sends a request that must be refused. `checked` says whether the call itself refuses it, rather than the check of its
/// parameters: only then the answer has a content type.
async fn refuse(
    session: &Session,
    method: Method,
    target: &str,
    body: &Bytes,
    status: u16,
    checked: bool,
) {
    let content_type = match (body.is_empty(), body.starts_with(b"{")) {
        (true, _) => "",
        (_, true) => "application/json",
        _ => "application/octet-stream",
    };
    let answer = session
        .send(method, target, content_type, body.clone())
        .await;
    assert_eq!(answer.status, status, "{target}: {}", answer.text());
    assert_eq!(
        answer.content_type.is_some(),
        checked,
        "{target}: {}",
        answer.text()
    );
    assert!(!answer.text().is_empty() && !answer.text().contains('\n'));
}

/// Refuses each: method and target, body, status, and whether the call itself refuses.
async fn refuse_all(session: &Session, cases: &[(&str, &Bytes, u16, bool)]) {
    for (line, body, status, checked) in cases {
        let (method, target) = line.split_once(' ').expect("a method and a target");
        let method = method.parse().expect("a method");
        refuse(session, method, target, body, *status, *checked).await;
    }
}

#[tokio::test]
async fn errors_of_calls_without_a_body() {
    let fixture = Fixture::new().await;
    let session = fixture.backup(&snapshot("raw", 0)).await;
    let none = &Bytes::new();
    refuse_all(
        &session,
        &[
            ("GET /nosuch", none, 404, true),
            ("GET /finish/now", none, 404, true),
            ("PUT /finish", none, 404, true),
            (
                "GET /previous?archive-name=index.json.blob",
                none,
                400,
                true,
            ),
            ("GET /previous", none, 400, false),
            ("POST /dynamic_index", none, 400, false),
            ("POST /dynamic_index?archive-name=a.fidx", none, 400, true),
            (
                "POST /dynamic_index?archive-name=a.didx&bogus=1",
                none,
                400,
                false,
            ),
            (
                "POST /dynamic_index?archive-name=../a.didx",
                none,
                400,
                false,
            ),
            (
                "POST /fixed_index?archive-name=d.img.fidx&size=0",
                none,
                400,
                false,
            ),
            ("POST /finish?x=1", none, 400, false),
            ("POST /finish", none, 400, true),
        ],
    )
    .await;
    drop(session);
    fixture.settle().await;
}

#[tokio::test]
async fn errors_of_chunks_and_blobs() {
    let fixture = Fixture::new().await;
    let session = fixture.backup(&snapshot("raw", 0)).await;
    let content = vec![1; 12_000];
    let (digest, blob) = (Digest::of(&content), &plain(&content));
    let garbage = &Bytes::from(vec![b'x'; 12_012]);
    for wid in [1, 2] {
        let opened = session.post("/dynamic_index?archive-name=a.didx").await;
        assert_eq!(opened.data(), wid, "the same name twice is fine");
    }
    let chunk = |wid, size, encoded| {
        let target = chunk_target(wid, "dynamic", &digest, size, encoded);
        format!("POST {target}")
    };
    let good = chunk(1, 12_000, 12_012);
    let other = good.replace(&digest.to_string(), &"0".repeat(64));
    let upper = good.replace(&digest.to_string(), &digest.to_string().to_uppercase());
    let fixed = good.replace("dynamic", "fixed");
    refuse_all(
        &session,
        &[
            (&other, blob, 400, true),
            (&upper, blob, 400, false),
            (&fixed, blob, 400, true),
            (&chunk(1, 12_000, 12_011), blob, 400, true),
            (&chunk(1, 12_000, 12_013), blob, 400, true),
            (&chunk(1, 11_999, 12_012), blob, 400, true),
            (&chunk(9, 12_000, 12_012), blob, 400, true),
            (&chunk(0, 12_000, 12_012), blob, 400, false),
            (&chunk(257, 12_000, 12_012), blob, 400, false),
            (&chunk(1, 12_000, 16_777_261), blob, 400, false),
            (&chunk(1, 16_777_217, 12_012), blob, 400, false),
            (&good, garbage, 400, true),
        ],
    )
    .await;
    let mut damaged = plain(b"text").to_vec();
    damaged[8] ^= 1;
    let (text, damaged) = (&plain(b"text"), &Bytes::from(damaged));
    refuse_all(
        &session,
        &[
            (
                "POST /blob?file-name=x.conf&encoded-size=16",
                text,
                400,
                true,
            ),
            (
                "POST /blob?file-name=x.conf.blob&encoded-size=99",
                text,
                400,
                true,
            ),
            (
                "POST /blob?file-name=x.conf.blob&encoded-size=16",
                damaged,
                400,
                true,
            ),
            (
                "POST /blob?file-name=x.conf.blob&encoded-size=11",
                text,
                400,
                false,
            ),
        ],
    )
    .await;
    assert_eq!(session.put_chunk(1, "dynamic", &content).await, digest);
    assert_eq!(
        session.put_chunk(1, "dynamic", &content).await,
        digest,
        "twice is fine"
    );
    drop(session);
    fixture.settle().await;
}

#[tokio::test]
async fn errors_of_indexes() {
    let fixture = Fixture::new().await;
    let session = fixture.backup(&snapshot("raw", 0)).await;
    let none = &Bytes::new();
    assert_eq!(
        session
            .post("/dynamic_index?archive-name=a.didx")
            .await
            .data(),
        1
    );
    let content = vec![1; 12_000];
    let digest = session.put_chunk(1, "dynamic", &content).await;
    let unknown = Digest([17; 32]);
    for (body, checked) in [
        (
            format!("{{'wid': 1, 'digest-list': ['{unknown}'], 'offset-list': [0]}}"),
            true,
        ),
        (
            format!("{{'wid': 1, 'digest-list': ['{digest}'], 'offset-list': [0, 5]}}"),
            true,
        ),
        (
            format!("{{'wid': 1, 'digest-list': ['{digest}'], 'offset-list': [7]}}"),
            true,
        ),
        (
            format!("{{'wid': 9, 'digest-list': ['{digest}'], 'offset-list': [0]}}"),
            true,
        ),
        (
            format!("{{'wid': 1, 'digest-list': ['{digest}'], 'offset-list': [-1]}}"),
            false,
        ),
        ("{'wid': 1}".to_owned(), false),
        ("{'wid': 1".to_owned(), false),
    ] {
        let body = &Bytes::from(body.replace('\'', "\""));
        refuse_all(&session, &[("PUT /dynamic_index", body, 400, checked)]).await;
    }
    let append = format!("/dynamic_index?wid=1&digest-list={digest}&offset-list=0");
    let answer = session.send(Method::PUT, &append, "", none.clone()).await;
    assert_eq!(answer.status, 200, "in the query too");
    let mut sum = IndexChecksum::new();
    sum.push_dynamic(12_000, &digest);
    let csum = sum.finish();
    let close = |count, size, csum| {
        format!("POST /dynamic_close?wid=1&chunk-count={count}&size={size}&csum={csum}")
    };
    let target = chunk_target(1, "dynamic", &digest, 12_000, 12_012);
    refuse_all(
        &session,
        &[
            (&close(2, 12_000, csum), none, 400, true),
            (&close(1, 5, csum), none, 400, true),
            (&close(0, 0, csum), none, 400, false),
            ("POST /finish", none, 400, true),
            (&close(1, 12_000, Digest([0; 32])), none, 400, true),
            (&close(1, 12_000, csum), none, 400, true),
            (&format!("POST {target}"), &plain(&content), 400, true),
        ],
    )
    .await;
    drop(session);
    fixture.settle().await;
}

#[tokio::test]
async fn errors_of_the_reader_protocol_and_after_a_finish() {
    let fixture = Fixture::new().await;
    let snapshot = snapshot("raw", 0);
    let session = fixture.backup(&snapshot).await;
    let (get, post, none) = (Method::GET, Method::POST, Bytes::new());
    session.put_blob("x.conf.blob", b"text").await;
    session.finish(&snapshot).await;
    refuse(&session, post.clone(), "/finish", &none, 400, true).await;
    refuse(
        &session,
        post.clone(),
        "/dynamic_index?archive-name=late.didx",
        &none,
        400,
        true,
    )
    .await;
    assert_eq!(session.put_blob("y.conf.blob", b"late").await.status, 200);
    drop(session);
    fixture.settle().await;
    let reader = fixture.reader(&snapshot).await;
    let digest = Digest::of(b"x").to_string();
    for (target, status, checked) in [
        ("/download?file-name=nothere.blob", 404, true),
        ("/download?file-name=client.log.blob", 404, true),
        ("/download?file-name=nothere.didx", 400, true),
        ("/download?file-name=foo.txt", 400, true),
        ("/download?file-name=a/b.blob", 400, false),
        ("/download", 400, false),
        ("/chunk", 400, false),
        (&format!("/chunk?digest={digest}"), 401, true),
        (
            &format!("/chunk?digest={}", digest.to_uppercase()),
            400,
            false,
        ),
        ("/nosuch", 404, true),
    ] {
        refuse(&reader, get.clone(), target, &none, status, checked).await;
    }
    refuse(
        &reader,
        post,
        "/download?file-name=index.json.blob",
        &none,
        404,
        true,
    )
    .await;
    let long = Bytes::from(format!("{{\"digest\": \"{}\"}}", "0".repeat(2000)));
    refuse(&reader, get, "/chunk", &long, 400, true).await;
    drop(reader);
    fixture.settle().await;
}
