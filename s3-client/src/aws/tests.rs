//! The adapter against a server that says what the test wants, byte by byte.

mod endpoint;
mod server;
mod skew;
mod tls;

use std::net::TcpListener;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use md5::{Digest as _, Md5};

use self::server::{Reply, Server};
use super::*;

impl Server {
    async fn store(&self) -> AwsStore {
        store(&self.endpoint, |_| {}).await
    }
}

async fn store(endpoint: &str, change: impl FnOnce(&mut AwsConfig)) -> AwsStore {
    let credentials = Credentials::Static {
        access_key: "AKIDEXAMPLE".into(),
        secret_key: Secret::new("hush"),
        session_token: None,
    };
    let mut config = AwsConfig::new(endpoint, "bucket", credentials);
    change(&mut config);
    AwsStore::connect(config, Arc::new(now))
        .await
        .expect("a valid configuration")
}

/// The test's wall clock.
fn now() -> Timestamp {
    "2026-11-20T12:00:00Z".parse().expect("a timestamp")
}

const DATE: &str = "Fri, 20 Nov 2026 12:00:03 GMT";

fn reply(status: &str, headers: &str, body: &str) -> Reply {
    Reply::Say(format!(
        "HTTP/1.1 {status}\r\nDate: {DATE}\r\nContent-Length: {}\r\n{headers}\r\n{body}",
        body.len()
    ))
}

fn refusal(status: &str, code: &str, message: &str) -> Reply {
    let body = format!("<Error><Code>{code}</Code><Message>{message}</Message></Error>");
    reply(status, "Content-Type: application/xml\r\n", &body)
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new(name).expect("a valid key")
}

fn put(name: &str) -> Put {
    Put::new(key(name), "hello").when(Precondition::Absent)
}

#[tokio::test]
async fn a_put_carries_its_real_hash_condition_and_metadata() {
    let server = Server::start(|_, _| reply("200 OK", "ETag: \"abc\"\r\n", ""));
    let store = server.store().await;
    let mut request = put("dir/a b+ü");
    request.body = Body::from_iter([Bytes::from_static(b"he"), Bytes::from_static(b"llo")]);
    request.put_id = Some(crate::PutId("mine".into()));
    let answer = store.put(request).await.expect("an answer");
    let etag = ETag::new("abc");
    assert_eq!(
        answer.value,
        PutOutcome::Created {
            etag,
            version: None
        }
    );
    let date: Timestamp = "2026-11-20T12:00:03Z".parse().expect("a timestamp");
    assert_eq!(answer.date, Some(date));

    let seen = &server.seen()[0];
    assert!(
        seen.line.starts_with("PUT /bucket/dir/a%20b%2B%C3%BC?"),
        "{}",
        seen.line
    );
    assert_eq!(seen.body, b"hello");
    assert_eq!(seen.header("content-length"), Some("5"));
    assert_eq!(seen.header("if-none-match"), Some("*"));
    assert_eq!(seen.header("x-amz-meta-holdfast-put-id"), Some("mine"));
    assert_eq!(
        seen.header("x-amz-content-sha256"),
        Some("2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824")
    );
    for name in [
        "transfer-encoding",
        "content-encoding",
        "x-amz-trailer",
        "x-amz-checksum-crc32",
        "expect",
    ] {
        assert_eq!(seen.header(name), None, "{name}");
    }
    assert_eq!(
        seen.header("host").map(|host| format!("http://{host}")),
        Some(server.endpoint.clone())
    );
}

#[tokio::test]
async fn a_put_need_not_be_hashed() {
    let server = Server::start(|_, _| reply("200 OK", "ETag: \"abc\"\r\n", ""));
    let unsigned = |config: &mut AwsConfig| config.sign_payloads = false;
    let store = store(&server.endpoint, unsigned).await;
    for body in [
        Body::from("hello"),
        Body::from_iter([Bytes::from_static(b"he"), Bytes::from_static(b"llo")]),
    ] {
        let request = Put::new(key("a"), body).when(Precondition::Absent);
        let outcome = store.put(request).await.expect("an answer").value;
        assert!(matches!(outcome, PutOutcome::Created { .. }));
    }
    for seen in server.seen() {
        assert_eq!(seen.body, b"hello");
        let header = |name| seen.header(name);
        assert_eq!(header("x-amz-content-sha256"), Some("UNSIGNED-PAYLOAD"));
        assert_eq!(header("content-length"), Some("5"));
        assert!(header("authorization").is_some());
    }
}

#[tokio::test]
async fn a_dated_put_is_signed_with_its_date_even_if_the_clocks_differ() {
    // The first answer teaches the SDK that our clock is wrong; the second request must not be corrected by it.
    let server = Server::start(|_, _| reply("200 OK", "ETag: \"abc\"\r\n", ""));
    let store = server.store().await;
    store.put(put("first")).await.expect("an answer");
    let signed_at = "2026-11-20T11:59:00Z".parse().expect("a timestamp");
    let mut request = put("second");
    request.validity = Some(Validity {
        signed_at,
        expires: "2026-11-20T12:10:00Z".parse().expect("a timestamp"),
    });
    let answer = store.put(request.clone()).await.expect("an answer");
    assert!(matches!(answer.value, PutOutcome::Created { .. }));
    assert_eq!(
        server.seen()[1].header("x-amz-date"),
        Some("20261120T115900Z")
    );
    assert!(
        server.seen()[1]
            .header("authorization")
            .is_some_and(|text| text.contains("/20261120/us-east-1/s3/"))
    );

    // By the server's clock (three seconds ahead of ours) this one has ended: it is not even sent.
    request.validity = Some(Validity {
        signed_at,
        expires: "2026-11-20T12:00:02Z".parse().expect("a timestamp"),
    });
    let answer = store.put(request).await.expect("an answer");
    assert_eq!(answer.value, PutOutcome::Expired);
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn a_server_that_finds_a_dated_request_too_old_makes_it_expired() {
    let server = Server::start(|_, _| refusal("403 Forbidden", "RequestTimeTooSkewed", "old"));
    let store = server.store().await;
    let mut request = put("a");
    let error = store.put(request.clone()).await.expect_err("an error");
    assert_eq!(error.kind, ErrorKind::ClockSkewed);
    request.validity = Some(Validity {
        signed_at: now(),
        expires: "2026-11-20T13:00:00Z".parse().expect("a timestamp"),
    });
    let answer = store.put(request.clone()).await.expect("an answer");
    assert_eq!(answer.value, PutOutcome::Expired);
    for batch in [vec![key("a")], vec![key("a"), key("b")]] {
        let requests: Vec<_> = batch.into_iter().map(DeleteRequest::from).collect();
        let answer = store.delete(&requests, request.validity).await;
        let outcomes = answer.expect("an answer").value;
        assert_eq!(outcomes, vec![DeleteOutcome::Expired; requests.len()]);
    }
}

#[tokio::test]
async fn a_lost_answer_is_unknown_and_a_refused_connection_is_not() {
    let server = Server::start(|_, _| Reply::Close);
    let store = server.store().await;
    let answer = store.put(put("a")).await.expect("an outcome");
    assert_eq!(answer.value, PutOutcome::Unknown);
    assert!(answer.lost_at.is_some());
    let requests = [key("a").into(), key("b").into()];
    let answer = store.delete(&requests, None).await.expect("an outcome");
    assert_eq!(answer.value, vec![DeleteOutcome::Unknown; 2]);
    assert!(answer.lost_at.is_some());
    let error = store.get(&key("a"), None).await.expect_err("no answer");
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert!(!error.maybe_applied);

    let nobody = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let endpoint = format!("http://{}", nobody.local_addr().expect("an address"));
    drop(nobody);
    let store = self::store(&endpoint, |_| {}).await;
    let error = store.put(put("a")).await.expect_err("never sent");
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert!(!error.maybe_applied && error.lost_at.is_none());
}

#[tokio::test]
async fn an_answer_that_does_not_come_in_time_is_unknown() {
    let server = Server::start(|_, _| Reply::Say(String::new()));
    let store = store(&server.endpoint, |config| config.answer_timeout_ms = 1000).await;
    let answer = store.put(put("a")).await.expect("an outcome");
    assert_eq!(answer.value, PutOutcome::Unknown);
    let error = store.head(&key("a")).await.expect_err("no answer");
    assert_eq!(error.kind, ErrorKind::Timeout);
}

#[tokio::test]
async fn a_connection_closed_while_idle_costs_nothing() {
    let server = Server::start(|_, _| {
        Reply::SayAndClose(format!(
            "HTTP/1.1 200 OK\r\nDate: {DATE}\r\nETag: \"abc\"\r\nContent-Length: 0\r\n\r\n"
        ))
    });
    let store = server.store().await;
    for number in 1..=5 {
        let answer = store.put(put("k")).await.expect("an answer");
        assert!(matches!(answer.value, PutOutcome::Created { .. }));
        // The close is on its way once the server has done it; two turns of the runtime notice it.
        while server.closed.load(Ordering::SeqCst) < number {
            tokio::task::yield_now().await;
        }
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
    }
    assert_eq!(server.seen().len(), 5);
    assert_eq!(store.traffic().connections(), 5);
}

#[tokio::test]
async fn connections_are_reused_and_counted() {
    let server = Server::start(|_, _| reply("200 OK", "ETag: \"abc\"\r\n", ""));
    let store = server.store().await;
    for _ in 0..5 {
        store.put(put("a")).await.expect("an answer");
    }
    let traffic = store.traffic();
    assert_eq!(traffic.connections(), 1);
    assert!(traffic.bytes_out() > 1000 && traffic.bytes_in() > 100);
}

#[tokio::test]
async fn refusals_of_a_put_are_outcomes_and_errors() {
    let server = Server::start(|seen, _| match seen.line.split(['/', '?']).nth(2) {
        Some("exists") => refusal("412 Precondition Failed", "PreconditionFailed", "x"),
        Some("conflict") => refusal("409 Conflict", "ConditionalRequestConflict", "x"),
        Some("rate") => refusal("403 Forbidden", "AccessDenied", "rate limit exceeded"),
        Some("slow") => refusal("503 Slow Down", "SlowDown", "reduce your request rate"),
        Some("broken") => refusal("500 Internal Server Error", "InternalError", "x"),
        Some("html") => reply(
            "503 Service Unavailable",
            "Content-Type: text/html\r\n",
            "<html>",
        ),
        Some("denied") => refusal("403 Forbidden", "AccessDenied", "Access Denied"),
        Some("gateway") => reply("504 Gateway Timeout", "", ""),
        _ => refusal("501 Not Implemented", "NotImplemented", "x"),
    });
    let store = server.store().await;
    for (name, expected) in [
        ("exists", PutOutcome::Exists),
        ("conflict", PutOutcome::Conflict),
        ("gateway", PutOutcome::Unknown),
        ("html", PutOutcome::Unknown),
    ] {
        let answer = store.put(put(name)).await.expect("an outcome");
        assert_eq!(answer.value, expected, "{name}");
        assert_eq!(answer.lost_at.is_some(), expected == PutOutcome::Unknown);
        assert!(answer.date.is_some());
    }
    for (name, kind, maybe_applied) in [
        ("rate", ErrorKind::Throttled, false),
        ("slow", ErrorKind::Throttled, true),
        ("broken", ErrorKind::Unavailable, true),
        ("denied", ErrorKind::Unauthorized, false),
        ("other", ErrorKind::Unsupported, false),
    ] {
        let error = store.put(put(name)).await.expect_err(name);
        assert_eq!(
            (error.kind, error.maybe_applied),
            (kind, maybe_applied),
            "{error}"
        );
    }
    // Nothing is retried below us.
    assert_eq!(server.seen().len(), 9);
}

#[tokio::test]
async fn tags_are_sent_with_and_without_quotes() {
    let server = Server::start(|_, _| refusal("404 Not Found", "NoSuchKey", "x"));
    let store = server.store().await;
    let request = put("a").when(Precondition::Matches(ETag::new("\"abc\"")));
    let answer = store.put(request.clone()).await.expect("an outcome");
    assert_eq!(answer.value, PutOutcome::Exists);
    store.if_match_quoted().store(false, Ordering::Relaxed);
    store.put(request).await.expect("an outcome");
    let seen = server.seen();
    assert_eq!(seen[0].header("if-match"), Some("\"abc\""));
    assert_eq!(seen[1].header("if-match"), Some("abc"));
}

#[tokio::test]
async fn a_short_body_is_corrupt() {
    let server = Server::start(|seen, _| {
        if seen.line.contains("cut") {
            return Reply::SayAndClose("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello".into());
        }
        reply("206 Partial", "Content-Range: bytes 0-9/100\r\n", "hello")
    });
    let store = server.store().await;
    let error = store.get(&key("cut"), None).await.expect_err("cut");
    assert_eq!(error.kind, ErrorKind::Corrupt);
    let range = Some(ByteRange { start: 0, end: 10 });
    let error = store.get(&key("range"), range).await.expect_err("short");
    assert_eq!(error.kind, ErrorKind::Corrupt);
}

#[tokio::test]
async fn gets_live_without_the_usual_headers_and_without_ranges() {
    let server = Server::start(|_, _| reply("200 OK", "", "0123456789"));
    let store = server.store().await;
    let range = Some(ByteRange { start: 8, end: 20 });
    let answer = store.get(&key("a"), range).await.expect("an object");
    assert_eq!(answer.value.body.into_bytes(), "89");
    assert_eq!(answer.value.meta.size, 10);
    assert_eq!(Some(answer.value.meta.last_modified), answer.date);
    assert_eq!(answer.value.meta.etag.as_str(), "");
    assert_eq!(server.seen()[0].header("range"), Some("bytes=8-19"));
}

#[tokio::test]
async fn metadata_and_ranges_come_with_the_body() {
    let server = Server::start(|_, _| {
        let headers = "ETag: \"t\"\r\nContent-Range: bytes 2-4/10\r\nx-amz-meta-Who: me\r\n\
            x-amz-storage-class: GLACIER\r\nLast-Modified: Fri, 20 Nov 2026 11:00:00 GMT\r\n";
        reply("206 Partial Content", headers, "234")
    });
    let store = server.store().await;
    let range = Some(ByteRange { start: 2, end: 5 });
    let object = store.get(&key("a"), range).await.expect("an object").value;
    assert_eq!(object.meta.size, 10);
    assert_eq!(
        object.meta.metadata.get("who").map(String::as_str),
        Some("me")
    );
    assert_eq!(object.meta.storage_class.as_deref(), Some("GLACIER"));
    assert_eq!(object.body.into_bytes(), "234");
}

#[tokio::test]
async fn batches_carry_md5_and_answer_per_key() {
    let server = Server::start(|_, _| {
        let body = "<DeleteResult><Deleted><Key>a</Key></Deleted>\
            <Error><Key>b</Key><Code>InternalError</Code><Message>again</Message></Error>\
            <Error><Key>c</Key><Code>PreconditionFailed</Code><Message>x</Message></Error>\
            </DeleteResult>";
        reply("200 OK", "", body)
    });
    let store = server.store().await;
    let mut requests: Vec<DeleteRequest> = ["a", "b", "c", "d"].map(|name| key(name).into()).into();
    requests[2].if_match = Some(ETag::new("tag"));
    let answer = store.delete(&requests, None).await.expect("outcomes");
    assert_eq!(
        answer.value,
        [
            DeleteOutcome::Deleted,
            DeleteOutcome::Refused("InternalError: again".into()),
            DeleteOutcome::PreconditionFailed,
            DeleteOutcome::Unknown,
        ]
    );
    let seen = &server.seen()[0];
    let digest = STANDARD.encode(Md5::digest(&seen.body));
    assert_eq!(seen.header("content-md5"), Some(digest.as_str()));
    assert_eq!(seen.header("x-amz-checksum-crc32"), None);
    assert!(
        seen.header("authorization")
            .is_some_and(|text| text.contains("content-md5") && !text.contains("checksum"))
    );
    let body = String::from_utf8_lossy(&seen.body);
    assert!(body.contains("tag"), "{body}");
}

#[tokio::test]
async fn batches_fall_back_to_single_deletes_and_remember_it() {
    let server = Server::start(|seen, _| match seen.line.split(' ').next() {
        Some("POST") => refusal("501 Not Implemented", "NotImplemented", "x"),
        _ if seen.line.contains("/gone") => refusal("404 Not Found", "NoSuchKey", "x"),
        _ if seen.line.contains("/ok200") => reply("200 OK", "", ""),
        _ => Reply::Say(format!("HTTP/1.1 204 No Content\r\nDate: {DATE}\r\n\r\n")),
    });
    let store = server.store().await;
    let requests = ["a", "gone", "ok200"].map(|name| DeleteRequest::from(key(name)));
    for expected in [4, 7] {
        let answer = store.delete(&requests, None).await.expect("outcomes");
        assert_eq!(
            answer.value,
            [
                DeleteOutcome::Deleted,
                DeleteOutcome::NotFound,
                DeleteOutcome::Deleted
            ]
        );
        assert_eq!(server.seen().len(), expected);
    }
}

#[tokio::test]
async fn listings_are_decoded_and_asked_for_by_start_after() {
    let server = Server::start(|_, _| {
        let body = "<ListBucketResult><IsTruncated>true</IsTruncated><EncodingType>url</EncodingType>\
            <Contents><Key>p/a+b%2B</Key><Size>3</Size><ETag>&quot;e&quot;</ETag>\
            <StorageClass>STANDARD</StorageClass></Contents></ListBucketResult>";
        reply("200 OK", "", body)
    });
    let store = server.store().await;
    let mut request = ListRequest::new(crate::KeyPrefix::new("p/").expect("a prefix"));
    request.start_after = Some("p/A".into());
    let page = store.list(&request).await.expect("a page").value;
    assert!(page.truncated);
    assert_eq!(page.entries[0].key.as_str(), "p/a b+");
    assert_eq!(page.entries[0].storage_class, None);
    let line = &server.seen()[0].line;
    for part in [
        "list-type=2",
        "start-after=p%2FA",
        "encoding-type=url",
        "prefix=p%2F",
    ] {
        assert!(line.contains(part), "{line}");
    }
}

#[tokio::test]
async fn an_error_in_a_good_answer_is_an_error() {
    let server = Server::start(|seen, _| {
        if seen.line.contains("copy") {
            return refusal("200 OK", "SlowDown", "x");
        }
        refusal(
            "200 OK",
            "InternalError",
            "We encountered an internal error.",
        )
    });
    let store = server.store().await;
    let upload = UploadId("u".into());
    let parts = [Part {
        number: 1,
        etag: ETag::new("e"),
    }];
    let error = store
        .complete_multipart(&key("a"), &upload, &parts, Precondition::Absent)
        .await
        .expect_err("an error");
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert!(error.maybe_applied);
    let copy = Copy::new(key("a b"), key("copy"));
    let error = store.copy(copy.clone()).await.expect_err("an error");
    assert_eq!(error.kind, ErrorKind::Throttled);
    let other = copy.out_of("other").when(Precondition::Absent);
    assert!(store.copy(other).await.is_err());
    let sent = |number: usize, name| server.seen()[number].header(name).map(str::to_owned);
    assert_eq!(
        sent(1, "x-amz-copy-source").as_deref(),
        Some("bucket/a%20b")
    );
    assert_eq!(sent(1, "if-none-match"), None);
    assert_eq!(sent(2, "x-amz-copy-source").as_deref(), Some("other/a%20b"));
    assert_eq!(sent(2, "if-none-match").as_deref(), Some("*"));
}

#[tokio::test]
async fn white_space_before_an_answer_is_overlooked_and_nonsense_is_corrupt() {
    let server = Server::start(|seen, _| {
        if seen.line.contains("list-type") {
            return reply("200 OK", "", "it works!");
        }
        let body = "\n  <?xml version=\"1.0\"?><CompleteMultipartUploadResult><ETag>t-1</ETag>\
            </CompleteMultipartUploadResult>";
        reply("200 OK", "", body)
    });
    let store = server.store().await;
    let upload = UploadId("u".into());
    let answer = store
        .complete_multipart(&key("a"), &upload, &[], Precondition::Absent)
        .await
        .expect("an outcome");
    let etag = ETag::new("t-1");
    let version = None;
    assert_eq!(answer.value, PutOutcome::Created { etag, version });
    let request = ListRequest::new(crate::KeyPrefix::root());
    let error = store.list(&request).await.expect_err("nonsense");
    assert_eq!(error.kind, ErrorKind::Corrupt);
}

#[tokio::test]
async fn settings_tell_unknown_from_denied() {
    let server = Server::start(|seen, _| {
        if seen.line.contains("versioning") {
            let body =
                "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
            reply("200 OK", "", body)
        } else if seen.line.contains("lifecycle") {
            let body = "<LifecycleConfiguration><Rule><ID>cold</ID><Filter><Prefix>x/</Prefix></Filter>\
                <Status>Enabled</Status><Transition><Days>3</Days><StorageClass>GLACIER</StorageClass>\
                </Transition></Rule></LifecycleConfiguration>";
            reply("200 OK", "", body)
        } else {
            refusal("403 Forbidden", "AccessDenied", "Access Denied")
        }
    });
    let store = server.store().await;
    let settings = store.bucket_settings().await.expect("settings").value;
    assert_eq!(
        settings.versioning,
        crate::Setting::Known(crate::Versioning::On)
    );
    assert_eq!(settings.object_lock, crate::Setting::Denied);
    let crate::Setting::Known(rules) = settings.lifecycle else {
        panic!("{:?}", settings.lifecycle);
    };
    assert_eq!(rules[0].transitions, ["GLACIER"]);
    assert_eq!(rules[0].prefix, "x/");
}

#[tokio::test]
async fn a_plain_proxy_gets_the_whole_address() {
    let server = Server::start(|_, _| reply("200 OK", "ETag: \"abc\"\r\n", ""));
    let proxy = server.endpoint.clone();
    let store = store("http://s3.invalid:9000", |config| {
        config.proxy = Some(proxy);
    })
    .await;
    store.put(put("a")).await.expect("an answer");
    let seen = &server.seen()[0];
    assert!(
        seen.line.starts_with("PUT http://s3.invalid:9000/bucket/a"),
        "{}",
        seen.line
    );
    assert_eq!(seen.header("host"), Some("s3.invalid:9000"));
}

#[tokio::test]
async fn a_profile_without_keys_sends_nothing() {
    let server = Server::start(|_, _| reply("200 OK", "", ""));
    let name = "holdfast-test-without-keys".to_owned();
    let store = store(&server.endpoint, |config| {
        config.credentials = Credentials::Profile { name };
    })
    .await;
    let error = store.put(put("a")).await.expect_err("no keys");
    assert_eq!(error.kind, ErrorKind::Unauthorized, "{error}");
    assert!(!error.maybe_applied && server.seen().is_empty());
}

#[tokio::test]
async fn a_proxy_that_refuses_the_tunnel_is_told() {
    let server = Server::start(|_, _| Reply::Say("HTTP/1.1 407 Who are you\r\n\r\n".into()));
    let proxy = server.endpoint.clone();
    let store = store("https://s3.invalid", |config| config.proxy = Some(proxy)).await;
    let error = store.put(put("a")).await.expect_err("never sent");
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert!(error.message.contains("407 Who are you"), "{error}");
    assert_eq!(server.seen()[0].line, "CONNECT s3.invalid:443 HTTP/1.1");
}
