//! Tests of the proxy.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use tokio::time::Instant;

use super::*;
use crate::process::wait_for;

/// A server on a thread: reads requests of known length and answers each with its body; a target of `/never` is not
/// answered.
fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || while echo_one(&stream).is_some() {});
        }
    });
    address
}

fn echo_one(mut stream: &TcpStream) -> Option<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let text = String::from_utf8(head).ok()?;
    let length = text
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut body).ok()?;
    if text.starts_with("PUT /never") {
        thread::park_timeout(Duration::from_secs(20));
        return None;
    }
    write!(
        stream,
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n",
        body.len()
    )
    .ok()?;
    stream.write_all(&body).ok()
}

fn proxy(delay_ms: u64, bytes_per_second: Option<u64>) -> Proxy {
    Proxy::start(ProxyOptions {
        upstream: echo(),
        delay: Duration::from_millis(delay_ms),
        bytes_per_second,
    })
    .unwrap()
}

fn connect(proxy: &Proxy) -> TcpStream {
    let stream = TcpStream::connect(proxy.address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    stream
}

fn send(mut stream: &TcpStream, target: &str, body: &[u8]) {
    let length = body.len();
    write!(
        stream,
        "PUT {target} HTTP/1.1\r\ncontent-length: {length}\r\n\r\n"
    )
    .unwrap();
    stream.write_all(body).unwrap();
}

fn receive(mut stream: &TcpStream, body: &[u8]) {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
    let mut received = vec![0; head.len() + body.len()];
    stream.read_exact(&mut received).unwrap();
    assert!(received.starts_with(head.as_bytes()) && received.ends_with(body));
}

#[test]
fn every_request_is_delayed_also_on_a_kept_connection() {
    let proxy = proxy(40, None);
    let stream = connect(&proxy);
    let began = Instant::now();
    for n in 0..3_u8 {
        send(&stream, "/a", &[n; 1000]);
        receive(&stream, &[n; 1000]);
    }
    let taken = began.elapsed();
    assert!(taken >= Duration::from_millis(120), "{taken:?}");
    let expected = Passed {
        answered: 3,
        broken: 0,
        bytes_in: 3000,
        bytes_out: 3000,
    };
    assert_eq!(
        wait_for(Duration::from_secs(10), || Some(proxy.passed())
            .filter(|p| p.answered == 3)),
        Some(expected)
    );
}

#[test]
fn connections_share_the_rate_of_each_direction() {
    let proxy = proxy(0, Some(10_000_000));
    let began = Instant::now();
    let body = vec![7; 1_000_000];
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let stream = connect(&proxy);
                send(&stream, "/a", &body);
                receive(&stream, &body);
            });
        }
    });
    // Three megabytes each way, the ways side by side but for the first and last body.
    let taken = began.elapsed();
    assert!(taken >= Duration::from_millis(295), "{taken:?}");
}

#[test]
fn a_request_is_open_until_it_is_answered_or_broken() {
    let proxy = proxy(0, None);
    let stream = connect(&proxy);
    send(&stream, "/never/.chunks/0000/x", b"abc");
    let open = wait_for(Duration::from_secs(10), || {
        let open = proxy.open();
        (!open.is_empty()).then_some(open)
    });
    let open = open.expect("the request is open");
    assert!(open.values().all(OpenRequest::is_chunk_put));
    let passed = proxy.passed();
    assert_eq!((passed.answered, passed.broken), (0, 0));
}

#[test]
fn a_body_that_stops_half_way_breaks_the_request() {
    let proxy = proxy(0, None);
    let mut stream = connect(&proxy);
    stream
        .write_all(b"PUT /a HTTP/1.1\r\ncontent-length: 10\r\n\r\nhalf")
        .unwrap();
    drop(stream);
    let broken = wait_for(Duration::from_secs(10), || {
        (proxy.passed().broken == 1 && proxy.open().is_empty()).then_some(())
    });
    assert!(broken.is_some(), "{:?}", proxy.passed());
}

#[test]
fn a_whole_request_reaches_the_server_without_its_client() {
    let proxy = proxy(200, None);
    let stream = connect(&proxy);
    send(&stream, "/a", b"late");
    drop(stream);
    let arrived = wait_for(Duration::from_secs(10), || {
        (proxy.passed().bytes_in == 4).then_some(())
    });
    assert!(arrived.is_some(), "{:?}", proxy.passed());
}
