//! The way to the S3 server: each request is read whole, and then meets what the weather has for it.
//!
//! One request
//! 1. Head and body are read. What a client does not send to its end is dropped.
//! 2. The weather draws a fault.
//! 3. The server is asked: never, once, twice, in part, or later, also when the client has gone away meanwhile, as that
//!    is what a network does with the request of a process that was killed.
//! 4. Its answer is passed on: whole, in part, slowly, as another one, or not at all.
//!
//! *Lateness* is the time from the moment the client has given a request up (its connection is closed, or was cut, or a
//! gateway's error was its answer) to the server's answer. Assumption A1 says that it is never more than T. The proxy
//! measures it, and a run in which a busy machine broke A1 says so.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use holdfast_tests::measure::framing::{Head, Length, Pipe};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::weather::{Fault, Target, Weather};

/// A body longer than this is not of this world.
const BODY_BYTES_MAX: u64 = 32 << 20;
/// How long the server may take for one answer.
const ANSWER_TIME_MAX: Duration = Duration::from_mins(1);
/// How long a client that is not answered may wait until its connection is cut.
const SILENCE_MAX: Duration = Duration::from_secs(20);
/// A connection to the server that was idle for longer is not used again.
const IDLE_MAX: Duration = Duration::from_secs(3);
/// Parts of what trickles.
const TRICKLES: u32 = 8;

const SLOW_DOWN: &str =
    "<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>";
const BAD_GATEWAY: &str = "<html><body><h1>502 Bad Gateway</h1></body></html>";

/// A request as it came.
#[derive(Debug)]
struct Request {
    head: Head,
    method: String,
    target: String,
    /// With its framing.
    body: Vec<u8>,
}

/// An answer as it came.
#[derive(Debug)]
struct Answer {
    /// Head and body with its framing.
    bytes: Vec<u8>,
    head_bytes: usize,
    /// Whether the connection ends with it.
    closes: bool,
}

impl Answer {
    fn made(request: &Request, status: &str, kind: &str, body: &str) -> Self {
        let body = if request.method == "HEAD" { "" } else { body };
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        Self {
            head_bytes: head.len(),
            bytes: [head.as_bytes(), body.as_bytes()].concat(),
            closes: false,
        }
    }

    /// The answer to a batch of deletes that says of every other key that it was refused.
    fn refusing(request: &Request) -> Self {
        let text = String::from_utf8_lossy(&request.body);
        let keys = text.split("<Key>").skip(1);
        let keys = keys.filter_map(|rest| rest.split_once("</Key>").map(|(key, _)| key));
        let entries = keys.enumerate().map(|(number, key)| {
            if number % 2 == 0 {
                format!(
                    "<Error><Key>{key}</Key><Code>AccessDenied</Code><Message>no</Message></Error>"
                )
            } else {
                format!("<Deleted><Key>{key}</Key></Deleted>")
            }
        });
        let entries: String = entries.collect();
        let body = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?><DeleteResult \
             xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">{entries}</DeleteResult>"
        );
        Self::made(request, "200 OK", "application/xml", &body)
    }
}

#[derive(Debug, Default)]
struct Record {
    next: u64,
    open: BTreeMap<u64, Target>,
    done: Done,
}

/// What the proxy did.
#[derive(Clone, Debug, Default)]
pub(crate) struct Done {
    /// Requests that came.
    pub(crate) requests: u64,
    /// Faults by their names.
    pub(crate) faults: BTreeMap<&'static str, u64>,
    /// Of these, those of batches of deletes.
    pub(crate) delete_faults: BTreeMap<&'static str, u64>,
    /// Batches of deletes that came.
    pub(crate) delete_batches: u64,
    /// The longest time from the moment a request was given up to its effect.
    pub(crate) latest: Duration,
    /// Requests that the server did not answer although nothing was done to them.
    pub(crate) server_faults: u64,
}

impl Done {
    fn count(&mut self, target: Target, fault: Fault) {
        self.requests += 1;
        let deletes = target == Target::DeleteBatch;
        self.delete_batches += u64::from(deletes);
        if let Some(name) = fault.name() {
            *self.faults.entry(name).or_default() += 1;
            if deletes {
                *self.delete_faults.entry(name).or_default() += 1;
            }
        }
    }
}

#[derive(Debug)]
struct Shared {
    upstream: SocketAddr,
    weather: Arc<Weather>,
    record: Mutex<Record>,
}

impl Shared {
    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn was_late(&self, given_up: Instant) {
        let done = &mut self.record().done;
        done.latest = done.latest.max(given_up.elapsed());
    }
}

/// A request that is known to be open until this is dropped.
struct Open<'a>(&'a Shared, u64);

impl<'a> Open<'a> {
    fn new(shared: &'a Shared, target: Target) -> Self {
        let mut record = shared.record();
        record.next += 1;
        let number = record.next;
        record.open.insert(number, target);
        Self(shared, number)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.record().open.remove(&self.1);
    }
}

/// A running proxy on a thread of its own. Dropping it breaks all connections.
#[derive(Debug)]
pub(crate) struct Proxy {
    runtime: Option<Runtime>,
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Proxy {
    /// Starts one on a free port of the loopback.
    pub(crate) fn start(upstream: SocketAddr, weather: Arc<Weather>) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("proxy")
            .enable_all()
            .build()?;
        let listener = runtime
            .block_on(TcpListener::bind("127.0.0.1:0"))
            .context("the proxy cannot listen")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            upstream,
            weather,
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
    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Whether a request of this kind is on its way.
    pub(crate) fn has_open(&self, target: Target) -> bool {
        self.shared
            .record()
            .open
            .values()
            .any(|open| *open == target)
    }

    /// What it did so far.
    pub(crate) fn done(&self) -> Done {
        self.shared.record().done.clone()
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
            // A broken connection is what client and server see and act on; there is nobody else to tell.
            drop(serve(client, shared).await);
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(client: TcpStream, shared: Arc<Shared>) -> io::Result<()> {
    client.set_nodelay(true)?;
    let (reader, writer) = client.into_split();
    let mut client = Client {
        reader: BufReader::with_capacity(64 << 10, reader),
        writer,
        gone: None,
    };
    let mut late = JoinSet::new();
    let ended = converse(&mut client, &shared, &mut late).await;
    // The connection breaks now; the requests on their way go on.
    drop(client);
    while late.join_next().await.is_some() {}
    ended
}

/// One request after the other.
async fn converse(
    client: &mut Client,
    shared: &Arc<Shared>,
    late: &mut JoinSet<()>,
) -> io::Result<()> {
    let mut server = Server::default();
    while let Some(request) = client.request().await? {
        let request = Arc::new(request);
        let target = Target::of(&request.method, &request.target);
        let fault = shared.weather.draw(target);
        shared.record().done.count(target, fault);
        let open = Open::new(shared, target);
        let goes_on = meet(shared, client, &mut server, late, &request, fault).await;
        drop(open);
        if let Some(gone) = client.gone {
            shared.was_late(gone);
        }
        if !goes_on? {
            break;
        }
    }
    Ok(())
}

/// Steps 3 and 4. Returns whether the connection goes on.
async fn meet(
    shared: &Arc<Shared>,
    client: &mut Client,
    server: &mut Server,
    late: &mut JoinSet<()>,
    request: &Arc<Request>,
    fault: Fault,
) -> io::Result<bool> {
    let mut later = |pause: Duration| {
        late.spawn(deliver_late(
            Arc::clone(shared),
            Arc::clone(request),
            Instant::now(),
            pause,
        ));
    };
    match fault {
        Fault::None(pause) | Fault::Delay(pause) => {
            client.beside(sleep(pause)).await;
            let answer = client.beside(server.ask(shared, request)).await?;
            client.answer(&answer.bytes).await?;
            Ok(!answer.closes && !request.head.closes())
        }
        Fault::Slow(time) => {
            client.beside(sleep(time / 2)).await;
            let answer = client.beside(server.ask(shared, request)).await?;
            let part = answer.bytes.len().div_ceil(TRICKLES as usize).max(1);
            for part in answer.bytes.chunks(part) {
                client.answer(part).await?;
                sleep(time / 2 / TRICKLES).await;
            }
            Ok(!answer.closes && !request.head.closes())
        }
        Fault::Throttle => {
            let kind = "application/xml";
            let answer = Answer::made(request, "503 Slow Down", kind, SLOW_DOWN);
            client.answer(&answer.bytes).await?;
            Ok(!request.head.closes())
        }
        Fault::CutBefore => Ok(false),
        Fault::CutBody => {
            server.half(shared, request).await?;
            Ok(false)
        }
        Fault::CutAfter => {
            client.beside(server.ask(shared, request)).await?;
            Ok(false)
        }
        Fault::CutAnswer => {
            let answer = client.beside(server.ask(shared, request)).await?;
            let body = answer.bytes.len() - answer.head_bytes;
            let part = if body > 0 {
                answer.head_bytes + body / 2
            } else {
                answer.head_bytes / 2
            };
            client.answer(&answer.bytes[..part]).await?;
            Ok(false)
        }
        Fault::Late(pause) => {
            later(pause);
            Ok(false)
        }
        Fault::Gateway(pause) => {
            let answer = Answer::made(request, "502 Bad Gateway", "text/html", BAD_GATEWAY);
            client.answer(&answer.bytes).await?;
            later(pause);
            Ok(!request.head.closes())
        }
        Fault::Twice { second } => {
            let first = client.beside(server.ask(shared, request)).await?;
            let again = client.beside(server.ask(shared, request)).await?;
            let answer = if second { again } else { first };
            client.answer(&answer.bytes).await?;
            Ok(!answer.closes && !request.head.closes())
        }
        Fault::TwiceLate(pause) => {
            client.beside(server.ask(shared, request)).await?;
            later(pause);
            Ok(false)
        }
        Fault::Silent => {
            client.beside(server.ask(shared, request)).await?;
            client.until_gone(SILENCE_MAX).await;
            client.gone = None;
            Ok(false)
        }
        Fault::Refuse => {
            client.beside(server.ask(shared, request)).await?;
            client.answer(&Answer::refusing(request).bytes).await?;
            Ok(!request.head.closes())
        }
    }
}

/// Sends a request that was given up long ago.
async fn deliver_late(
    shared: Arc<Shared>,
    request: Arc<Request>,
    given_up: Instant,
    pause: Duration,
) {
    let _open = Open::new(&shared, Target::of(&request.method, &request.target));
    sleep(pause).await;
    // Whether it has an effect is the server's affair; nobody waits for the answer.
    drop(Server::default().ask(&shared, &request).await);
    shared.was_late(given_up);
}

/// The side of the daemon.
struct Client {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    /// When it was seen to have gone away.
    gone: Option<Instant>,
}

impl Client {
    /// The next request; `None` when the connection has ended.
    async fn request(&mut self) -> io::Result<Option<Request>> {
        if self.gone.is_some() {
            return Ok(None);
        }
        let Some(head) = Head::read(&mut self.reader).await? else {
            return Ok(None);
        };
        let text = String::from_utf8_lossy(&head.bytes).to_ascii_lowercase();
        if text.contains("\r\nexpect: 100-continue") {
            self.writer
                .write_all(b"HTTP/1.1 100 Continue\r\n\r\n")
                .await?;
        }
        let (method, target) = head.request()?;
        let (method, target) = (method.to_owned(), target.to_owned());
        let body = body(&mut self.reader, head.request_length()).await?;
        Ok(Some(Request {
            head,
            method,
            target,
            body,
        }))
    }

    /// Does something, and notices meanwhile whether the client goes away; what is done is done to its end.
    async fn beside<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        if self.gone.is_none() {
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = until_gone(&mut self.reader) => self.gone = Some(Instant::now()),
            }
        }
        work.await
    }

    async fn until_gone(&mut self, time: Duration) {
        drop(timeout(time, until_gone(&mut self.reader)).await);
    }

    async fn answer(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.gone.is_some() {
            return Ok(());
        }
        self.writer.write_all(bytes).await
    }
}

/// Until the other side has closed. Clients of S3 send nothing before they have their answer.
async fn until_gone(reader: &mut BufReader<OwnedReadHalf>) {
    match reader.fill_buf().await {
        Ok([]) | Err(_) => {}
        Ok(_) => std::future::pending().await,
    }
}

/// A body with its framing.
async fn body(reader: &mut BufReader<OwnedReadHalf>, length: Length) -> io::Result<Vec<u8>> {
    if matches!(length, Length::Known(bytes) if bytes > BODY_BYTES_MAX) {
        return Err(io::Error::from(io::ErrorKind::InvalidData));
    }
    let mut body = Vec::new();
    let mut pipe = Pipe {
        from: reader,
        to: &mut body,
        pace: None,
    };
    pipe.body(length).await?;
    Ok(body)
}

/// A connection to the server, made when it is needed.
#[derive(Default)]
struct Server(Option<(BufReader<OwnedReadHalf>, OwnedWriteHalf, Instant)>);

impl Server {
    async fn connect(&mut self, shared: &Shared) -> io::Result<()> {
        let fresh = |since: &Instant| since.elapsed() < IDLE_MAX;
        if self.0.as_ref().is_none_or(|(_, _, since)| !fresh(since)) {
            let stream = TcpStream::connect(shared.upstream).await?;
            stream.set_nodelay(true)?;
            let (reader, writer) = stream.into_split();
            let reader = BufReader::with_capacity(64 << 10, reader);
            self.0 = Some((reader, writer, Instant::now()));
        }
        Ok(())
    }

    /// Sends a request whole and reads its answer whole.
    async fn ask(&mut self, shared: &Shared, request: &Request) -> io::Result<Answer> {
        let exchange = timeout(ANSWER_TIME_MAX, self.exchange(shared, request)).await;
        let answer = exchange.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut)));
        match &answer {
            Ok(answer) if !answer.closes => {}
            Ok(_) => self.0 = None,
            Err(_) => {
                self.0 = None;
                shared.record().done.server_faults += 1;
            }
        }
        answer
    }

    async fn exchange(&mut self, shared: &Shared, request: &Request) -> io::Result<Answer> {
        self.connect(shared).await?;
        let Some((reader, writer, since)) = &mut self.0 else {
            return Err(io::Error::from(io::ErrorKind::NotConnected));
        };
        writer.write_all(&request.head.bytes).await?;
        writer.write_all(&request.body).await?;
        loop {
            let head = Head::read(reader).await?;
            let head = head.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
            if (100..200).contains(&head.status()?) {
                continue;
            }
            let length = head.answer_length(&request.method)?;
            let body = body(reader, length).await?;
            *since = Instant::now();
            return Ok(Answer {
                head_bytes: head.bytes.len(),
                closes: head.closes() || length == Length::UntilClose,
                bytes: [head.bytes, body].concat(),
            });
        }
    }

    /// Sends the head and half of the body, and closes.
    async fn half(&mut self, shared: &Shared, request: &Request) -> io::Result<()> {
        self.0 = None;
        self.connect(shared).await?;
        if let Some((_, writer, _)) = &mut self.0 {
            let head = &request.head.bytes;
            let head_part = if request.body.is_empty() {
                head.len() / 2
            } else {
                head.len()
            };
            writer.write_all(&head[..head_part]).await?;
            writer
                .write_all(&request.body[..request.body.len() / 2])
                .await?;
            writer.flush().await?;
        }
        self.0 = None;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
