//! A proxy before an S3 server that makes it slow, and that knows which requests are open.
//!
//! Each request, also one on a connection that is kept alive, goes through these steps:
//! 1. Its head is read; from here on it is *open*.
//! 2. It is held back for [`ProxyOptions::delay`]. The head of a request with a body is passed on before that, so that the
//!    server too knows of the request while it is held back.
//! 3. It is passed on, and the answer is passed back, both at no more than [`ProxyOptions::bytes_per_second`], which all
//!    connections share, each direction for itself.
//! 4. When the last byte of the answer is on its way it is closed.
//!
//! A client that goes away after it has sent a whole request does not end it: the server still receives it, up to
//! [`ProxyOptions::delay`] and the time of its transfer late. That is what a network does with the request of a process
//! that was killed.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::framing::{Head, Length, Pipe};
use super::pace::Pace;

/// Bytes that are passed on in one piece.
const PIECE_BYTES: usize = 64 << 10;
/// A request that takes longer than this is broken off.
const REQUEST_TIME_MAX: Duration = Duration::from_mins(5);
/// How long the answer to a request is waited for that was not passed on to its end.
const EARLY_ANSWER_TIME_MAX: Duration = Duration::from_secs(1);

/// How slow it is.
#[derive(Clone, Copy, Debug)]
pub struct ProxyOptions {
    /// Where the server is.
    pub upstream: SocketAddr,
    /// Added to every request.
    pub delay: Duration,
    /// Most bytes per second, each way; `None` for no limit.
    pub bytes_per_second: Option<u64>,
}

/// A request on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenRequest {
    /// HTTP method.
    pub method: String,
    /// Path and query.
    pub target: String,
}

impl OpenRequest {
    /// Whether it writes the object of a chunk.
    pub fn is_chunk_put(&self) -> bool {
        self.method == "PUT" && self.target.contains("/.chunks/")
    }
}

/// What has passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// Requests that were answered, whatever the answer.
    pub answered: u64,
    /// Requests that ended without an answer.
    pub broken: u64,
    /// Body bytes of requests.
    pub bytes_in: u64,
    /// Body bytes of answers.
    pub bytes_out: u64,
}

#[derive(Debug, Default)]
struct Record {
    next: u64,
    open: BTreeMap<u64, OpenRequest>,
    passed: Passed,
}

#[derive(Debug)]
struct Shared {
    options: ProxyOptions,
    up: Option<Pace>,
    down: Option<Pace>,
    record: Mutex<Record>,
}

impl Shared {
    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running proxy, on a thread of its own. Dropping it breaks all connections.
#[derive(Debug)]
pub struct Proxy {
    runtime: Option<Runtime>,
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Proxy {
    /// Starts one on a free port of the loopback.
    pub fn start(options: ProxyOptions) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("proxy")
            .enable_all()
            .build()?;
        let listener = runtime
            .block_on(TcpListener::bind("127.0.0.1:0"))
            .context("the proxy cannot listen")?;
        let address = listener.local_addr()?;
        let pace = || options.bytes_per_second.map(Pace::new);
        let shared = Arc::new(Shared {
            options,
            up: pace(),
            down: pace(),
            record: Mutex::default(),
        });
        runtime
            .handle()
            .spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self {
            runtime: Some(runtime),
            address,
            shared,
        })
    }

    /// URL without path.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The requests that are open, by a number that is never given twice.
    pub fn open(&self) -> BTreeMap<u64, OpenRequest> {
        self.shared.record().open.clone()
    }

    /// What has passed so far.
    pub fn passed(&self) -> Passed {
        self.shared.record().passed
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else {
            continue;
        };
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            // A broken connection is what the client and the server see and act on; there is nobody else to tell.
            drop(Connection::serve(client, &shared).await);
        });
        while connections.try_join_next().is_some() {}
    }
}

/// Counts a request as open until it is dropped.
struct Open<'a> {
    shared: &'a Shared,
    number: u64,
    answered: bool,
}

impl<'a> Open<'a> {
    fn new(shared: &'a Shared, request: OpenRequest) -> Self {
        let mut record = shared.record();
        record.next += 1;
        let number = record.next;
        record.open.insert(number, request);
        Self {
            shared,
            number,
            answered: false,
        }
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        let mut record = self.shared.record();
        record.open.remove(&self.number);
        if self.answered {
            record.passed.answered += 1;
        } else {
            record.passed.broken += 1;
        }
    }
}

/// A client's connection, and the one to the server that belongs to it.
struct Connection<'a> {
    shared: &'a Shared,
    client_reader: BufReader<OwnedReadHalf>,
    client_writer: OwnedWriteHalf,
    server_reader: BufReader<OwnedReadHalf>,
    server_writer: OwnedWriteHalf,
}

impl<'a> Connection<'a> {
    async fn serve(client: TcpStream, shared: &'a Shared) -> io::Result<()> {
        let server = TcpStream::connect(shared.options.upstream).await?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let (client_reader, client_writer) = client.into_split();
        let (server_reader, server_writer) = server.into_split();
        let mut connection = Self {
            shared,
            client_reader: BufReader::with_capacity(PIECE_BYTES, client_reader),
            client_writer,
            server_reader: BufReader::with_capacity(PIECE_BYTES, server_reader),
            server_writer,
        };
        while let Some(head) = connection.next_request().await? {
            let (method, target) = head.request()?;
            let request = OpenRequest {
                method: method.to_owned(),
                target: target.to_owned(),
            };
            let mut open = Open::new(shared, request.clone());
            let exchange = connection.exchange(&head, &request.method);
            let last = timeout(REQUEST_TIME_MAX, exchange)
                .await
                .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
            open.answered = true;
            drop(open);
            if last {
                break;
            }
        }
        Ok(())
    }

    /// The next head; `None` when either side has closed the connection.
    async fn next_request(&mut self) -> io::Result<Option<Head>> {
        tokio::select! {
            biased;
            head = Head::read(&mut self.client_reader) => head,
            // Between requests a server sends nothing; that it is readable means that it has closed.
            _ = self.server_reader.fill_buf() => Ok(None),
        }
    }

    /// Passes a request and its answer on. Returns whether the connection is over.
    async fn exchange(&mut self, head: &Head, method: &str) -> io::Result<bool> {
        let delay = self.shared.options.delay;
        let mut up = Pipe {
            from: &mut self.client_reader,
            to: &mut self.server_writer,
            pace: self.shared.up.as_ref(),
        };
        let mut down = Pipe {
            from: &mut self.server_reader,
            to: &mut self.client_writer,
            pace: self.shared.down.as_ref(),
        };
        let request = async {
            let length = head.request_length();
            if length == Length::Known(0) {
                sleep(delay).await;
            }
            up.send(&head.bytes).await?;
            if length != Length::Known(0) {
                sleep(delay).await;
            }
            let bytes = up.body(length).await?;
            self.shared.record().passed.bytes_in += bytes;
            Ok(())
        };
        let (sent, answered) = side_by_side(request, answer(&mut down, method)).await;
        let (answer, bytes_out) = answered?;
        self.shared.record().passed.bytes_out += bytes_out;
        Ok(sent.is_err() || head.closes() || answer.closes() || ends_connection(&answer, method)?)
    }
}

/// A server may answer before it has read everything, or ask for the body first. When the request cannot be passed on,
/// because either side has closed, an answer to what was sent is waited for a moment only.
async fn side_by_side<A, B>(
    request: impl Future<Output = io::Result<A>>,
    answer: impl Future<Output = io::Result<B>>,
) -> (io::Result<A>, io::Result<B>) {
    let (mut request, mut answer) = (pin!(request), pin!(answer));
    let sent = tokio::select! {
        biased;
        sent = &mut request => sent,
        answered = &mut answer => return (request.await, answered),
    };
    if sent.is_ok() {
        return (sent, answer.await);
    }
    let answered = timeout(EARLY_ANSWER_TIME_MAX, answer).await;
    let gone = |_| Err(io::Error::from(io::ErrorKind::ConnectionAborted));
    (sent, answered.unwrap_or_else(gone))
}

fn ends_connection(answer: &Head, method: &str) -> io::Result<bool> {
    Ok(answer.answer_length(method)? == Length::UntilClose)
}

/// Passes the answer back, provisional ones before it included. Returns its head and the bytes of its body.
async fn answer(
    down: &mut Pipe<'_, BufReader<OwnedReadHalf>, OwnedWriteHalf>,
    method: &str,
) -> io::Result<(Head, u64)> {
    loop {
        let head = Head::read(down.from).await?;
        let head = head.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        down.send(&head.bytes).await?;
        if (100..200).contains(&head.status()?) {
            continue;
        }
        let bytes = down.body(head.answer_length(method)?).await?;
        return Ok((head, bytes));
    }
}

#[cfg(test)]
mod tests;
