//! An HTTP server that answers with the bytes it is told to.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// A request as it came over the wire.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) line: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Seen {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// What the server does with a request.
pub(super) enum Reply {
    /// These bytes, and the connection stays open.
    Say(String),
    /// These bytes, then the connection is closed.
    SayAndClose(String),
    /// Nothing; the connection is closed.
    Close,
}

pub(super) struct Server {
    pub(super) endpoint: String,
    pub(super) seen: Arc<Mutex<Vec<Seen>>>,
    /// Connections that the server has closed.
    pub(super) closed: Arc<AtomicUsize>,
}

impl Server {
    /// Answers each request with what `script` makes of it and of the number of requests before it.
    pub(super) fn start(script: impl Fn(&Seen, usize) -> Reply + Send + Sync + 'static) -> Self {
        Self::run(None, script)
    }

    /// The same behind TLS.
    pub(super) fn start_tls(
        config: Arc<ServerConfig>,
        script: impl Fn(&Seen, usize) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::run(Some(config), script)
    }

    fn run(
        tls: Option<Arc<ServerConfig>>,
        script: impl Fn(&Seen, usize) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let scheme = if tls.is_some() { "https" } else { "http" };
        let address = listener.local_addr().expect("an address");
        let endpoint = format!("{scheme}://{address}");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let closed = Arc::new(AtomicUsize::new(0));
        let script = Arc::new(script);
        let (log, closes) = (Arc::clone(&seen), Arc::clone(&closed));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else {
                    return;
                };
                let (script, log, closes) =
                    (Arc::clone(&script), Arc::clone(&log), Arc::clone(&closes));
                let tls = tls.clone();
                thread::spawn(move || {
                    if let Some(config) = tls {
                        let session = ServerConnection::new(config).expect("a valid configuration");
                        serve(StreamOwned::new(session, stream), &*script, &log);
                    } else {
                        serve(stream, &*script, &log);
                    }
                    closes.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        Self {
            endpoint,
            seen,
            closed,
        }
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("not poisoned").clone()
    }
}

fn serve(
    mut stream: impl Read + Write,
    script: &dyn Fn(&Seen, usize) -> Reply,
    log: &Mutex<Vec<Seen>>,
) {
    while let Some(seen) = read_request(&mut stream) {
        let before = {
            let mut log = log.lock().expect("not poisoned");
            log.push(seen.clone());
            log.len() - 1
        };
        match script(&seen, before) {
            Reply::Say(text) => {
                if stream.write_all(text.as_bytes()).is_err() {
                    return;
                }
            }
            Reply::SayAndClose(text) => {
                let _ = stream.write_all(text.as_bytes());
                return;
            }
            Reply::Close => return,
        }
    }
}

fn read_request(stream: &mut impl Read) -> Option<Seen> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).ok()?;
    let mut lines = head.lines();
    let line = lines.next()?.to_owned();
    let headers: Vec<_> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
        .collect();
    let mut seen = Seen {
        line,
        headers,
        body: Vec::new(),
    };
    let length = seen.header("content-length").unwrap_or("0").parse().ok()?;
    seen.body.resize(length, 0);
    stream.read_exact(&mut seen.body).ok()?;
    Some(seen)
}
