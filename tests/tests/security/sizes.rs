//! Requests that are too large, announced too large, without end, or no requests at all: answered or closed at once, with
//! no memory for what was announced.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures_util::future::try_join_all;
use holdfast_tests::attack::http1::{Answer, Connection, Request};
use holdfast_tests::process::say;
use tokio::time::Instant;

use super::accounts::{ADMIN, HONEST, RIVAL, STORE};
use super::world::{BESIDE_BUDGET_BYTES, BUDGET_BYTES, World};

/// What a refusal may take that needs nothing more of the client; refusals of strangers are held back for three seconds.
const AT_ONCE: Duration = Duration::from_secs(12);
/// What is sent of bodies that never end, at most.
const ENDLESS_BYTES_MAX: usize = 64 << 20;

/// Sends bytes and waits for an answer, or for the end of the connection (`None`), which must come at once.
async fn told(world: &World, bytes: &[u8]) -> Result<Option<Answer>> {
    let began = Instant::now();
    let mut connection = Connection::open(&world.peer).await?;
    // It may be closed before all is sent.
    drop(connection.write(bytes).await);
    let answer = connection.answer().await.ok();
    let took = began.elapsed();
    ensure!(took < AT_ONCE, "{took:?} for an answer");
    Ok(answer)
}

/// The status must be one of these; 0 stands for a connection that is closed without an answer.
async fn expect(world: &World, what: &str, bytes: &[u8], statuses: &[u16]) -> Result<()> {
    let answer = told(world, bytes).await.with_context(|| what.to_owned())?;
    let status = answer.as_ref().map_or(0, |answer| answer.status);
    ensure!(
        statuses.contains(&status),
        "{what}: {status} {:?}",
        answer.map(|answer| answer.text())
    );
    Ok(())
}

/// The bound on a head is looked at between two reads, so that a little more may pass.
async fn heads(world: &World) -> Result<usize> {
    let long = |length: usize| "x".repeat(length);
    let get = |target: &str, more: &str| {
        format!("GET {target} HTTP/1.1\r\nHost: store\r\n{more}\r\n").into_bytes()
    };
    let ping = |more: String| get("/api2/json/ping", &more);
    let many = (0..5000).map(|number| format!("x-{number}: y\r\n"));
    let many = many.collect::<Vec<_>>().concat();
    let cookie = format!("Cookie: PBSAuthCookie={}\r\n", long(600));
    let method = format!("{} / HTTP/1.1\r\n\r\n", long(70_000));
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n";
    let closed: &[u16] = &[414, 431, 400, 0];
    let bound: &[u16] = &[200, 404, 431, 400, 0];
    let cases: [(&str, Vec<u8>, &[u16]); 12] = [
        (
            "a path of 4 KiB",
            get(&format!("/api2/json/{}", long(4096)), ""),
            &[414],
        ),
        (
            "a path of 100 KB",
            get(&format!("/{}", long(100_000)), ""),
            closed,
        ),
        (
            "a path without end",
            get(&format!("/{}", long(4 << 20)), ""),
            closed,
        ),
        (
            "a header of 100 KB",
            ping(format!("x: {}\r\n", long(100_000))),
            bound,
        ),
        (
            "a header without end",
            ping(format!("x: {}\r\n", long(4 << 20))),
            closed,
        ),
        ("5000 headers", ping(many), closed),
        (
            "90 cookies",
            get("/api2/json/version", &cookie.repeat(90)),
            &[401, 431, 400, 0],
        ),
        (
            "a header name of 70 KB",
            ping(format!("{}: x\r\n", long(70_000))),
            bound,
        ),
        ("a method of 70 KB", method.into_bytes(), bound),
        ("a line without end", vec![b'a'; 1 << 20], closed),
        ("NUL bytes", vec![0; 1000], closed),
        ("no HTTP", hello.to_vec(), closed),
    ];
    let told = cases.iter();
    let told = told.map(|(what, bytes, statuses)| expect(world, what, bytes, statuses));
    try_join_all(told).await?;
    Ok(cases.len())
}

/// Requests that two parsers could understand in two ways, and protocols that are none here.
async fn shapes(world: &World) -> Result<usize> {
    let hidden = "GET /api2/json/access/domains HTTP/1.1\r\nHost: store\r\n\r\n";
    let post = |headers: &str, body: &str| {
        format!("POST /api2/json/access/ticket HTTP/1.1\r\nHost: store\r\n{headers}\r\n{body}")
            .into_bytes()
    };
    let twice = format!("Content-Length: 0\r\nContent-Length: {}\r\n", hidden.len());
    let both = format!(
        "Content-Length: {}\r\nTransfer-Encoding: chunked\r\n",
        hidden.len()
    );
    let line = |line: &str| format!("{line}\r\nHost: store\r\n\r\n").into_bytes();
    let cases: [(&str, Vec<u8>, &[u16]); 17] = [
        ("two lengths", post(&twice, hidden), &[400, 0]),
        (
            "length and chunks",
            post(&both, &format!("0\r\n\r\n{hidden}")),
            &[400, 0],
        ),
        (
            "a negative length",
            post("Content-Length: -1\r\n", ""),
            &[400, 0],
        ),
        (
            "a length beyond all",
            post("Content-Length: 99999999999999999999999\r\n", ""),
            &[400, 0],
        ),
        (
            "a length with a sign",
            post("Content-Length: +5\r\n", "12345"),
            &[400, 0],
        ),
        (
            "an unknown coding",
            post("Transfer-Encoding: cow\r\n", ""),
            &[400, 501, 0],
        ),
        (
            "chunks twice",
            post("Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n"),
            &[400, 501, 0],
        ),
        (
            "a chunk of no number",
            post("Transfer-Encoding: chunked\r\n", "zz\r\n\r\n"),
            &[400, 0],
        ),
        (
            "a chunk beyond all",
            post(
                "Transfer-Encoding: chunked\r\n",
                "ffffffffffffffffff\r\n\r\n",
            ),
            &[400, 0],
        ),
        (
            "an endless extension",
            post(
                "Transfer-Encoding: chunked\r\n",
                &format!("1;{}", "x".repeat(1 << 20)),
            ),
            &[400, 0],
        ),
        (
            "a folded header",
            line("GET /api2/json/ping HTTP/1.1\r\nx: a\r\n b"),
            &[400, 0, 200],
        ),
        (
            "a blank before the colon",
            line("GET /api2/json/ping HTTP/1.1\r\nx : a"),
            &[400, 0],
        ),
        (
            "HTTP/2 without upgrade",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            &[400, 0],
        ),
        (
            "HTTP/0.9",
            b"GET /api2/json/ping\r\n\r\n".to_vec(),
            &[400, 0],
        ),
        (
            "HTTP/9.9",
            line("GET /api2/json/ping HTTP/9.9"),
            &[400, 505, 0],
        ),
        (
            "a tunnel",
            line("CONNECT 127.0.0.1:22 HTTP/1.1"),
            &[400, 401, 404, 405],
        ),
        (
            "another server's address",
            line("GET http://127.0.0.1:1/etc HTTP/1.1"),
            &[400, 404],
        ),
    ];
    let told = cases.iter();
    let told = told.map(|(what, bytes, statuses)| expect(world, what, bytes, statuses));
    try_join_all(told).await?;
    let methods = ["OPTIONS", "TRACE", "PATCH", "BREW"].map(|method| {
        let request = line(&format!("{method} /api2/json/version HTTP/1.1"));
        async move { expect(world, method, &request, &[400, 401, 404, 405]).await }
    });
    try_join_all(methods).await?;
    Ok(cases.len() + 4)
}

/// Bodies announced too large are refused before a byte of them is sent.
async fn announced(world: &World) -> Result<usize> {
    let log = format!(
        "admin/datastore/{STORE}/upload-backup-log?backup-type=host&backup-id=log&backup-time={}",
        world.snapshot_time("log").await?
    );
    let login = Request::new("POST", "/api2/json/access/ticket");
    let stranger = Request::new("POST", &format!("/api2/json/{log}"));
    let cases = [
        ("a login of a terabyte", login.clone(), 1_u64 << 40, 400),
        ("a login of 20 KB", login, 20 << 10, 400),
        (
            "a call of a terabyte",
            World::request(ADMIN, "POST", "access/users"),
            1 << 40,
            400,
        ),
        (
            "a call of 600 KB",
            World::request(ADMIN, "POST", "access/users"),
            600 << 10,
            400,
        ),
        (
            "a log of a terabyte",
            World::request(RIVAL, "POST", &log),
            1 << 40,
            400,
        ),
        ("a log of a stranger", stranger, 16 << 20, 401),
        (
            "a log for another's backup",
            World::request("owner@pbs!t", "POST", &log),
            16 << 20,
            403,
        ),
    ];
    for (what, request, length, status) in &cases {
        let request = request.clone().with("Content-Length", &length.to_string());
        expect(world, what, request.head().as_bytes(), &[*status]).await?;
    }
    Ok(cases.len())
}

/// Bodies in chunks that go on until somebody stops them.
async fn endless(world: &World) -> Result<usize> {
    let log = format!(
        "admin/datastore/{STORE}/upload-backup-log?backup-type=host&backup-id=log&backup-time={}",
        world.snapshot_time("log").await?
    );
    let requests = [
        Request::new("POST", "/api2/json/access/ticket"),
        World::request(ADMIN, "POST", "access/users"),
        World::request(ADMIN, "PUT", "access/acl").with("Content-Type", "application/json"),
        World::request(RIVAL, "POST", &log),
    ];
    let mut piece = b"10000\r\n".to_vec();
    piece.extend(vec![b'a'; 0x10000]);
    piece.extend(b"\r\n");
    for request in &requests {
        let head = request
            .head()
            .replace("Content-Length: 0", "Transfer-Encoding: chunked");
        let mut connection = Connection::open(&world.peer).await?;
        connection.write(head.as_bytes()).await?;
        let mut sent = 0;
        while sent < ENDLESS_BYTES_MAX && connection.write(&piece).await.is_ok() {
            sent += piece.len();
        }
        ensure!(
            sent < ENDLESS_BYTES_MAX,
            "{} takes {sent} bytes and more",
            request.target
        );
    }
    Ok(requests.len())
}

/// Bodies of the right size that are costly to read.
async fn costly(world: &World) -> Result<usize> {
    let deep = [vec![b'['; 250_000], vec![b']'; 250_000]].concat();
    let wide = format!(
        "{{{}\"z\":1}}",
        (0..30_000)
            .map(|n| format!("\"k{n}\":[],"))
            .collect::<Vec<_>>()
            .concat()
    );
    let list = format!("{{\"delete\":[{}\"x\"]}}", "\"x\",".repeat(100_000));
    let numbers = format!("{{\"enable\":{}}}", "9".repeat(400_000));
    let same = format!("{{{}\"a\":1}}", "\"a\":1,".repeat(60_000));
    let json = [
        ("brackets", deep),
        ("members", wide.into_bytes()),
        ("a long list", list.into_bytes()),
        ("a long number", numbers.into_bytes()),
        ("the same again and again", same.into_bytes()),
    ];
    let request = World::request(ADMIN, "PUT", "access/users/nobody@pbs");
    for (what, body) in &json {
        let request = request
            .clone()
            .with("Content-Type", "application/json")
            .body(body.clone());
        let bytes = [request.head().as_bytes(), body].concat();
        expect(world, what, &bytes, &[400]).await?;
    }
    let forms = [
        ("pairs", "a&".repeat(250_000)),
        ("values", "delete=x&".repeat(50_000)),
        ("a long value", format!("comment={}", "%41".repeat(170_000))),
    ];
    for (what, body) in &forms {
        let request = request.clone().body(body.clone());
        let bytes = [request.head().as_bytes(), body.as_bytes()].concat();
        expect(world, what, &bytes, &[400]).await?;
    }
    Ok(json.len() + forms.len())
}

#[test]
fn what_is_too_large_is_refused_at_once() -> Result<()> {
    let world = World::new()?;
    world.explain(|| {
        world.back_up(RIVAL, "log", "")?;
        world.back_up(HONEST, "quiet", "")?;
        let attack = async {
            let mut made = heads(&world).await?;
            made += shapes(&world).await?;
            made += announced(&world).await?;
            made += endless(&world).await?;
            made += costly(&world).await?;
            anyhow::Ok(made)
        };
        let made = world.beside(
            "oversized requests",
            BUDGET_BYTES + BESIDE_BUDGET_BYTES,
            attack,
        )?;
        say(&format!(
            "security: {made} requests of wrong size or shape, all refused or closed at once"
        ));
        Ok(())
    });
    world.daemon.stop()
}
