//! Each fault, as client and server see it.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use super::*;

const WAIT: Duration = Duration::from_secs(20);
const LATE: Duration = Duration::from_millis(300);
const BODY: &str = "0123456789";

/// What reached the server: the body of each request, or the part of it that came.
fn server() -> (SocketAddr, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (seen, told) = channel();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let seen = seen.clone();
            thread::spawn(move || while serve_one(&stream, &seen).is_some() {});
        }
    });
    (address, told)
}

/// Answers `ok` to a request with [`BODY`]; `None` when the connection has ended.
fn serve_one(mut stream: &TcpStream, seen: &Sender<String>) -> Option<()> {
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
    let length: usize = length?.parse().ok()?;
    let mut body = Vec::new();
    while body.len() < length && stream.read_exact(&mut byte).is_ok() {
        body.push(byte[0]);
    }
    let whole = body.len() == length;
    seen.send(String::from_utf8(body).ok()?).ok()?;
    if !whole {
        return None;
    }
    stream
        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        .ok()
}

struct Scene {
    proxy: Proxy,
    weather: Arc<Weather>,
    seen: Receiver<String>,
}

impl Scene {
    fn new() -> Self {
        let (address, seen) = server();
        let weather = Arc::new(Weather::new(1, LATE));
        Self {
            proxy: Proxy::start(address, Arc::clone(&weather)).unwrap(),
            weather,
            seen,
        }
    }

    fn send(&self, fault: Fault, body: &str) -> TcpStream {
        self.weather.force(fault);
        let mut stream = TcpStream::connect(self.proxy.address).unwrap();
        stream.set_read_timeout(Some(WAIT)).unwrap();
        let length = body.len();
        write!(
            stream,
            "POST /b?delete HTTP/1.1\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
        )
        .unwrap();
        stream
    }

    /// Sends a request; everything that came back.
    fn ask(&self, fault: Fault, body: &str) -> String {
        let mut stream = self.send(fault, body);
        let mut answer = Vec::new();
        // A connection that is cut may end in an error.
        drop(stream.read_to_end(&mut answer));
        String::from_utf8(answer).unwrap()
    }

    fn reached(&self) -> String {
        self.seen.recv_timeout(WAIT).unwrap()
    }

    fn nothing_reached(&self) {
        assert!(self.seen.try_recv().is_err());
    }
}

#[test]
fn what_is_not_hurt_passes() {
    let scene = Scene::new();
    for fault in [
        Fault::None(Duration::ZERO),
        Fault::Delay(LATE),
        Fault::Slow(LATE),
    ] {
        assert!(scene.ask(fault, BODY).ends_with("\r\n\r\nok"), "{fault:?}");
        assert_eq!(scene.reached(), BODY);
    }
}

#[test]
fn what_is_refused_or_cut_before_never_reaches_the_server() {
    let scene = Scene::new();
    let answer = scene.ask(Fault::Throttle, BODY);
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("SlowDown"));
    assert_eq!(scene.ask(Fault::CutBefore, BODY), "");
    scene.nothing_reached();
}

#[test]
fn half_a_body_is_half_delivered() {
    let scene = Scene::new();
    assert_eq!(scene.ask(Fault::CutBody, BODY), "");
    assert_eq!(scene.reached(), "01234");
}

#[test]
fn answers_are_cut_before_and_in_their_middle() {
    let scene = Scene::new();
    assert_eq!(scene.ask(Fault::CutAfter, BODY), "");
    assert_eq!(scene.reached(), BODY);
    assert!(scene.ask(Fault::CutAnswer, BODY).ends_with("\r\n\r\no"));
    assert_eq!(scene.reached(), BODY);
}

#[test]
fn requests_arrive_twice() {
    let scene = Scene::new();
    let answer = scene.ask(Fault::Twice { second: true }, BODY);
    assert_eq!(answer.matches("HTTP/1.1").count(), 1);
    assert_eq!([scene.reached(), scene.reached()], [BODY, BODY]);
}

#[test]
fn what_was_given_up_arrives_late_and_the_lateness_is_measured() {
    let scene = Scene::new();
    assert_eq!(scene.ask(Fault::Late(LATE), BODY), "");
    scene.nothing_reached();
    assert_eq!(scene.reached(), BODY);
    let answer = scene.ask(Fault::Gateway(LATE), BODY);
    assert!(answer.starts_with("HTTP/1.1 502"));
    assert_eq!(scene.reached(), BODY);
    assert_eq!(scene.ask(Fault::TwiceLate(LATE), BODY), "");
    assert_eq!([scene.reached(), scene.reached()], [BODY, BODY]);
    let latest = || Some(scene.proxy.done().latest).filter(|latest| *latest >= LATE);
    assert!(holdfast_tests::process::wait_for(WAIT, latest).is_some());
}

#[test]
fn a_client_that_goes_away_does_not_take_its_request_with_it() {
    let scene = Scene::new();
    drop(scene.send(Fault::Delay(LATE), BODY));
    assert_eq!(scene.reached(), BODY);
    let done = || Some(scene.proxy.done()).filter(|done| done.latest > Duration::ZERO);
    let done = holdfast_tests::process::wait_for(WAIT, done).unwrap();
    assert_eq!((done.requests, done.faults["delayed"]), (1, 1));
    assert!(!scene.proxy.has_open(Target::DeleteBatch));
}

#[test]
fn deletes_are_carried_out_and_told_as_refused() {
    let scene = Scene::new();
    let body = "<Delete><Object><Key>a</Key></Object><Object><Key>b</Key></Object></Delete>";
    let answer = scene.ask(Fault::Refuse, body);
    assert_eq!(scene.reached(), body);
    assert!(answer.contains("<Error><Key>a</Key><Code>AccessDenied</Code>"));
    assert!(answer.contains("<Deleted><Key>b</Key></Deleted>"));
}
