//! Tests of the S3 server.

use std::sync::Mutex;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::store::{Metadata, Setting};
use crate::{
    Action, Effect, Fault, FaultPlan, FaultyStore, ModelOptions, ModelStore, ObjectKey, Op,
};

mod listings;
mod operations;
mod signed;

const NO_HEADERS: &[(&str, &str)] = &[];

fn key(text: &str) -> ObjectKey {
    ObjectKey::new(text).expect("a plain key")
}

/// A server, the model behind it, and a client.
struct Fixture {
    model: Arc<ModelStore>,
    plan: FaultPlan,
    server: Server,
    client: Client<HttpConnector, Full<Bytes>>,
}

struct Reply {
    status: u16,
    headers: HeaderMap,
    body: Bytes,
}

impl Reply {
    fn text(&self) -> String {
        String::from_utf8(self.body.to_vec()).expect("UTF-8")
    }

    fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name).map(|value| value.to_str());
        value.unwrap_or(Ok("")).expect("ASCII")
    }

    /// What is between `<tag>` and `</tag>`, wherever it occurs.
    fn all(&self, tag: &str) -> Vec<String> {
        let text = self.text();
        let (open, close) = (format!("<{tag}>"), format!("</{tag}>"));
        let parts = text.split(&open).skip(1);
        parts
            .filter_map(|part| part.split_once(&close))
            .map(|(inner, _)| inner.to_owned())
            .collect()
    }
}

impl Fixture {
    async fn new() -> Self {
        Self::with(ModelOptions::default(), ServeOptions::new("bucket")).await
    }

    async fn with(model: ModelOptions, options: ServeOptions) -> Self {
        let model = Arc::new(ModelStore::new(model));
        let plan = FaultPlan::new();
        let store = Arc::new(FaultyStore::new(model.clone(), plan.clone()));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let server = serve(listener, store, options).expect("a server");
        // One connection for each request: a closed one must not be tried again behind the test's back.
        let client = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(0)
            .retry_canceled_requests(false)
            .build_http();
        Self {
            model,
            plan,
            server,
            client,
        }
    }

    async fn try_send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Option<Reply> {
        let uri = format!("{}{path}", self.server.endpoint());
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).expect("a request");
        let response = self.client.request(request).await.ok()?;
        let (parts, body) = response.into_parts();
        Some(Reply {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body: body.collect().await.ok()?.to_bytes(),
        })
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Reply {
        let reply = self.try_send(method, path, headers, body).await;
        reply.expect("an answer")
    }

    async fn get(&self, path: &str) -> Reply {
        self.send("GET", path, NO_HEADERS, "").await
    }

    async fn put(&self, path: &str, headers: &[(&str, &str)], body: &'static str) -> Reply {
        self.send("PUT", path, headers, body).await
    }
}

#[tokio::test]
async fn an_object_comes_back_with_metadata_and_the_stores_dates() {
    let fixture = Fixture::new().await;
    let path = "/bucket/a%20b/%C3%BC+%25";
    let put = fixture
        .put(path, &[("x-amz-meta-note", "one two")], "content")
        .await;
    assert_eq!(put.status, 200, "{}", put.text());
    assert_eq!(put.header("etag"), "\"9a0364b9e99bb480dd25e1f0284c8555\"");
    assert!(put.header("date").starts_with("Wed, 01 Jan 2025 00:00:0"));
    let stored = fixture.model.object(&key("a b/ü+%")).expect("an object");
    assert_eq!(
        stored.meta.metadata,
        Metadata::from([("note".to_owned(), "one two".to_owned())])
    );

    for method in ["GET", "HEAD"] {
        let read = fixture.send(method, path, NO_HEADERS, "").await;
        assert_eq!(read.status, 200);
        assert_eq!(read.header("content-length"), "7");
        assert_eq!(read.header("x-amz-meta-note"), "one two");
        assert_eq!(read.header("etag"), put.header("etag"));
        assert!(
            read.header("last-modified")
                .starts_with("Wed, 01 Jan 2025 00:00:0")
        );
        assert_eq!(
            &read.body[..],
            if method == "GET" {
                &b"content"[..]
            } else {
                b""
            }
        );
    }
    let gone = fixture.send("DELETE", path, NO_HEADERS, "").await;
    assert_eq!(gone.status, 204);
    let absent = fixture.get(path).await;
    assert_eq!(
        (absent.status, absent.all("Code")),
        (404, vec!["NoSuchKey".to_owned()])
    );
    assert_eq!(fixture.send("HEAD", path, NO_HEADERS, "").await.status, 404);
    assert_eq!(
        fixture.send("DELETE", path, NO_HEADERS, "").await.status,
        204
    );
}

#[tokio::test]
async fn conditions_of_writes_and_deletions_are_decided_by_the_store() {
    let fixture = Fixture::new().await;
    let path = "/bucket/a";
    let create = [("if-none-match", "*")];
    let first = fixture.put(path, &create, "one").await;
    assert_eq!(first.status, 200);
    let second = fixture.put(path, &create, "two").await;
    assert_eq!(
        (second.status, second.all("Code")),
        (412, vec!["PreconditionFailed".to_owned()])
    );
    assert!(second.header("date").starts_with("Wed, 01 Jan 2025"));

    let quoted = first.header("etag").to_owned();
    let replaced = fixture.put(path, &[("if-match", &quoted)], "two").await;
    assert_eq!(replaced.status, 200);
    let stale = fixture.put(path, &[("if-match", &quoted)], "three").await;
    assert_eq!(stale.status, 412);
    let bare = replaced.header("etag").trim_matches('"').to_owned();
    assert_eq!(
        fixture
            .put(path, &[("if-match", &bare)], "three")
            .await
            .status,
        200
    );

    let stale = fixture
        .send("DELETE", path, &[("if-match", &quoted)], "")
        .await;
    assert_eq!(stale.status, 412);
    let current = fixture
        .model
        .object(&key("a"))
        .expect("an object")
        .meta
        .etag;
    let gone = fixture
        .send("DELETE", path, &[("if-match", &current.quoted())], "")
        .await;
    assert_eq!(gone.status, 204);
    assert!(fixture.model.objects().is_empty());
    let odd = fixture
        .put(path, &[("if-none-match", "\"x\"")], "one")
        .await;
    assert_eq!(odd.status, 501);
}

#[tokio::test]
async fn a_server_may_know_tags_in_one_form_only() {
    for (form, quoted_status, bare_status) in
        [(TagForm::Quoted, 200, 412), (TagForm::Bare, 412, 200)]
    {
        let mut options = ServeOptions::new("bucket");
        options.tag_form = form;
        let fixture = Fixture::with(ModelOptions::default(), options).await;
        let quoted = fixture.put("/bucket/a", NO_HEADERS, "same").await;
        let quoted = quoted.header("etag");
        let bare = quoted.trim_matches('"');
        for (tag, status) in [(quoted, quoted_status), (bare, bare_status)] {
            let put = fixture.put("/bucket/a", &[("if-match", tag)], "same").await;
            assert_eq!(put.status, status, "{form:?} {tag}");
        }
    }
}

#[tokio::test]
async fn ranges_and_conditions_of_reads() {
    let fixture = Fixture::new().await;
    let tag = fixture.put("/bucket/a", NO_HEADERS, "0123456789").await;
    let tag = tag.header("etag");
    for (range, body, content_range) in [
        ("bytes=0-0", "0", "bytes 0-0/10"),
        ("bytes=3-6", "3456", "bytes 3-6/10"),
        ("bytes=7-", "789", "bytes 7-9/10"),
        ("bytes=7-999", "789", "bytes 7-9/10"),
        ("bytes=-2", "89", "bytes 8-9/10"),
    ] {
        let read = fixture
            .send("GET", "/bucket/a", &[("range", range)], "")
            .await;
        assert_eq!(read.status, 206, "{range}");
        assert_eq!(
            (read.text().as_str(), read.header("content-range")),
            (body, content_range)
        );
    }
    for (header, value, status) in [
        ("range", "bytes=10-", 416),
        ("if-none-match", tag, 304),
        ("if-none-match", "\"other\"", 200),
        ("if-match", tag, 200),
        ("if-match", "\"other\"", 412),
        ("if-modified-since", "Wed, 01 Jan 2026 00:00:00 GMT", 304),
        ("if-unmodified-since", "Wed, 01 Jan 2020 00:00:00 GMT", 412),
    ] {
        let read = fixture
            .send("GET", "/bucket/a", &[(header, value)], "")
            .await;
        assert_eq!(read.status, status, "{header}: {value}");
    }
}

#[tokio::test]
async fn bodies_are_what_their_checksums_say() {
    let fixture = Fixture::new().await;
    // Of "123456789".
    let right = [
        ("content-md5", "JfnnlDI7RTiF9RgfG2JNCw=="),
        ("x-amz-checksum-crc32", "y/Q5Jg=="),
        (
            "x-amz-checksum-sha256",
            "FeKw08M4keuw8e9gnsQZQgwg4yDOlMZfvIwzEkSOsiU=",
        ),
    ];
    for header in right {
        let put = fixture.put("/bucket/right", &[header], "123456789").await;
        assert_eq!(put.status, 200, "{header:?} {}", put.text());
        let put = fixture.put("/bucket/wrong", &[header], "123456780").await;
        assert_eq!(
            (put.status, put.all("Code")),
            (400, vec!["BadDigest".to_owned()]),
            "{header:?}"
        );
    }
    let odd = fixture
        .put("/bucket/wrong", &[("content-md5", "?")], "x")
        .await;
    assert_eq!(odd.status, 400);
    let chunked = [
        ("content-encoding", "aws-chunked"),
        ("x-amz-decoded-content-length", "1"),
    ];
    assert_eq!(
        fixture.put("/bucket/wrong", &chunked, "x").await.status,
        501
    );
    assert_eq!(
        fixture.model.objects().keys().collect::<Vec<_>>(),
        [&key("right")]
    );
}

#[tokio::test]
async fn bounds_and_names_are_checked_before_the_store_is_asked() {
    let mut options = ServeOptions::new("bucket");
    options.body_bytes_max = 8;
    let fixture = Fixture::with(ModelOptions::default(), options).await;
    let big = fixture.put("/bucket/a", NO_HEADERS, "nine bytes").await;
    assert_eq!(
        (big.status, big.all("Code")),
        (400, vec!["EntityTooLarge".to_owned()])
    );
    let elsewhere = fixture.put("/other/a", NO_HEADERS, "x").await;
    assert_eq!(
        (elsewhere.status, elsewhere.all("Code")),
        (404, vec!["NoSuchBucket".to_owned()])
    );
    let control = fixture.put("/bucket/a%07", NO_HEADERS, "x").await;
    assert_eq!(control.status, 400);
    assert!(fixture.model.counts().is_empty());

    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let wrong = serve(
        listener,
        fixture.model.clone(),
        ServeOptions::new("Not A Bucket"),
    );
    assert_eq!(
        wrong.expect_err("a bad name").kind(),
        io::ErrorKind::InvalidInput
    );
}

#[tokio::test]
async fn requests_are_counted_and_logged() {
    let records = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&records);
    let mut options = ServeOptions::new("bucket");
    options.counters_over_http = true;
    options.request_log = Some(Arc::new(move |record: &RequestRecord| {
        sink.lock().expect("a lock").push(record.to_string());
    }));
    let fixture = Fixture::with(ModelOptions::default(), options).await;
    fixture.put("/bucket/a", NO_HEADERS, "12345").await;
    fixture
        .put("/bucket/a", &[("if-none-match", "*")], "1")
        .await;
    fixture.get("/bucket/a").await;
    fixture.get("/bucket?acl").await;
    let told = fixture.get(COUNTERS_PATH).await;
    let told: std::collections::BTreeMap<String, OperationCount> =
        serde_json::from_slice(&told.body).expect("JSON");
    assert_eq!(told, fixture.server.counters().all());
    let puts = &told["PutObject"];
    assert_eq!((puts.requests, puts.bytes_in), (2, 6));
    assert_eq!(puts.statuses, [(200, 1), (412, 1)].into());
    assert_eq!(told["GetObject"].bytes_out, 5);
    assert_eq!(fixture.server.counters().requests("Other"), 1);
    let lines = records.lock().expect("a lock").clone();
    assert_eq!(lines.len(), 4);
    assert!(
        lines[0].ends_with(" PUT PutObject \"a\" 200 5 0"),
        "{}",
        lines[0]
    );

    assert_eq!(
        fixture
            .send("DELETE", COUNTERS_PATH, NO_HEADERS, "")
            .await
            .status,
        204
    );
    assert!(fixture.server.counters().all().is_empty());
    let closed = Fixture::new().await;
    assert_ne!(closed.get(COUNTERS_PATH).await.status, 200);
}

#[tokio::test]
async fn the_access_log_shows_what_is_open() {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&lines);
    let mut options = ServeOptions::new("bucket");
    options.access_log = Some(Arc::new(move |event: &AccessEvent| {
        let line = event.to_string();
        let (_, rest) = line.split_once(' ').expect("a time and more");
        sink.lock().expect("a lock").push(rest.to_owned());
    }));
    let fixture = Fixture::with(ModelOptions::default(), options).await;
    let lines = || lines.lock().expect("a lock").clone();
    fixture.put("/bucket/a", NO_HEADERS, "12345").await;
    assert_eq!(lines(), ["begin 1 PUT \"a\"", "end 1 PutObject 200 5 0"]);
    // A body that never comes to its end.
    let mut stream = tokio::net::TcpStream::connect(fixture.server.address())
        .await
        .expect("listening");
    let head = "PUT /bucket/b HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n12";
    tokio::io::AsyncWriteExt::write_all(&mut stream, head.as_bytes())
        .await
        .expect("sent");
    while lines().len() < 3 {
        tokio::task::yield_now().await;
    }
    assert_eq!(lines()[2], "begin 2 PUT \"b\"");
    drop(stream);
    while lines().len() < 4 {
        tokio::task::yield_now().await;
    }
    assert!(lines()[3].starts_with("end 2 "), "{:?}", lines());
}

#[tokio::test]
async fn a_lost_answer_closes_the_connection() {
    let fixture = Fixture::new().await;
    let plan = &fixture.plan;
    plan.add(
        Fault::on(Op::Put)
            .key("now")
            .then(Action::Lose(Effect::Now)),
    );
    plan.add(
        Fault::on(Op::Put)
            .key("late")
            .then(Action::Lose(Effect::Late)),
    );
    plan.add(Fault::on(Op::Get).then(Action::Lose(Effect::Never)));
    for name in ["now", "late"] {
        let path = format!("/bucket/{name}");
        let reply = fixture.try_send("PUT", &path, NO_HEADERS, "x").await;
        assert!(reply.is_none(), "{name} was answered");
    }
    assert!(
        fixture
            .try_send("GET", "/bucket/now", NO_HEADERS, "")
            .await
            .is_none()
    );
    assert_eq!(fixture.model.objects().len(), 1);
    plan.deliver_late().await;
    assert_eq!(fixture.model.objects().len(), 2);
    let lost = fixture.server.counters().of("PutObject").statuses;
    assert_eq!(lost, [(0, 2)].into());
}

#[tokio::test]
async fn errors_of_the_store_have_s3s_codes() {
    let fixture = Fixture::new().await;
    for (action, status, code) in [
        (Action::Fail(crate::ErrorKind::Throttled), 503, "SlowDown"),
        (
            Action::Fail(crate::ErrorKind::Unavailable),
            503,
            "ServiceUnavailable",
        ),
        (
            Action::Fail(crate::ErrorKind::BucketMissing),
            404,
            "NoSuchBucket",
        ),
        (
            Action::Fail(crate::ErrorKind::Unauthorized),
            403,
            "AccessDenied",
        ),
        (
            Action::Fail(crate::ErrorKind::ClockSkewed),
            403,
            "RequestTimeTooSkewed",
        ),
        (
            Action::Fail(crate::ErrorKind::NoSpace),
            507,
            "InsufficientStorage",
        ),
        (Action::FailLate { applied: true }, 500, "InternalError"),
        (Action::Conflict, 409, "ConditionalRequestConflict"),
    ] {
        fixture.plan.add(Fault::on(Op::Put).then(action));
        let reply = fixture.put("/bucket/a", NO_HEADERS, "x").await;
        assert_eq!(
            (reply.status, reply.all("Code")),
            (status, vec![code.to_owned()])
        );
    }
}

#[tokio::test]
async fn shutdown_waits_for_requests_under_way() {
    let fixture = Fixture::new().await;
    let gate = fixture.plan.stop_after(Fault::on(Op::Put));
    let address = fixture.server.address();
    let Fixture {
        model,
        client,
        server,
        ..
    } = fixture;
    let uri = format!("{}/bucket/a", server.endpoint());
    let request = Request::put(uri).body(Full::new(Bytes::from("x")));
    let mut tasks = JoinSet::new();
    tasks.spawn(client.request(request.expect("a request")));
    gate.reached().await;
    let mut shutdown = std::pin::pin!(server.shutdown());
    assert!(futures_util::poll!(&mut shutdown).is_pending());
    gate.release();
    shutdown.await;
    let answer = tasks.join_next().await.expect("a task").expect("no panic");
    assert_eq!(answer.expect("an answer").status(), 200);
    assert_eq!(model.objects().len(), 1);
    assert!(TcpStream::connect(address).await.is_err());
}
