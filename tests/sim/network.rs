//! The network between a life and the server when requests go through the AWS SDK: pipes in memory, some of which break.
//!
//! The server is the one of `s3_client::serve`, over the same faulty store that lives call themselves otherwise. What one
//! end writes the other may read at once, so time passes only where somebody waits for it, as in the rest of a world. A
//! connection that breaks does so after some number of bytes: a request is delivered in part, or its answer.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use pbs_datastore::Env;
use rand::RngExt as _;
use rand::rngs::StdRng;
use s3_client::serve::{self, Listener, ServeOptions, Server};
use s3_client::{AwsConfig, AwsStore, Credentials, Error, Network, ObjectStore, Secret, Stream};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::sync::mpsc;

/// What fits into a connection before somebody reads.
const PIPE_BYTES: usize = 16 << 10;

/// After how many bytes at most a connection that is to break does so.
const WHOLE_BYTES_MAX: u64 = 30_000;

/// Where the server is said to listen.
const ADDRESS: ([u8; 4], u16) = ([127, 0, 0, 1], 9000);

const BUCKET: &str = "bucket";

/// The time of a world is far from that of the machine, by which signatures are judged.
const SIGNATURE_WINDOW: Duration = Duration::from_secs(u32::MAX as u64);

/// How long the SDK waits for an answer: some of the slowest come later.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(40);

/// The server and the way to it.
pub(crate) struct Service {
    wires: Arc<Wires>,
    server: Server,
    keys: serve::Credentials,
}

impl Service {
    /// Serves `store`, so many keys a page; connections break with a chance of `break_odds`.
    pub(crate) fn over(
        store: Arc<dyn ObjectStore>,
        page_keys_max: usize,
        rng: StdRng,
        break_odds: f64,
    ) -> Self {
        let (server, port) = mpsc::unbounded_channel();
        let wires = Arc::new(Wires {
            server,
            rng: Mutex::new(rng),
            break_odds,
            calm: Arc::default(),
        });
        let keys = serve::Credentials {
            access_key: "key".to_owned(),
            secret_key: "secret".to_owned(),
        };
        let mut options = ServeOptions::new(BUCKET);
        options.credentials = Some(keys.clone());
        options.signature_window = SIGNATURE_WINDOW;
        options.page_keys_max = page_keys_max;
        let server = serve::serve(Port(port), store, options).expect("options that are valid");
        Self {
            wires,
            server,
            keys,
        }
    }

    /// The SDK of a new process.
    pub(crate) async fn client(&self, env: &Env) -> Result<AwsStore, Error> {
        let keys = Credentials::Static {
            access_key: self.keys.access_key.clone(),
            secret_key: Secret::new(&self.keys.secret_key),
            session_token: None,
        };
        let mut config = AwsConfig::new(self.server.endpoint(), BUCKET, keys);
        config.answer_timeout_ms = ANSWER_TIME_MAX.as_millis() as u64;
        let clock = env.clone();
        let clock = Arc::new(move || clock.now());
        AwsStore::connect_over(self.wires.clone(), config, clock).await
    }

    /// From now on no connection breaks.
    pub(crate) fn calm(&self) {
        self.wires.calm.store(true, Ordering::Release);
    }
}

/// The clients' side.
struct Wires {
    server: mpsc::UnboundedSender<DuplexStream>,
    rng: Mutex<StdRng>,
    break_odds: f64,
    calm: Arc<AtomicBool>,
}

/// The server's side.
struct Port(mpsc::UnboundedReceiver<DuplexStream>);

impl std::fmt::Debug for Wires {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Wires")
    }
}

impl Wires {
    fn whole_bytes(&self) -> Option<u64> {
        let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
        rng.random_bool(self.break_odds)
            .then(|| rng.random_range(0..WHOLE_BYTES_MAX))
    }
}

#[async_trait]
impl Network for Wires {
    async fn connect(&self, _host: &str, _port: u16) -> Result<Box<dyn Stream>, String> {
        let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
        self.server
            .send(theirs)
            .map_err(|_| "nobody listens".to_owned())?;
        Ok(match self.whole_bytes() {
            None => Box::new(ours),
            Some(left) => Box::new(Breaking {
                stream: ours,
                left,
                calm: Arc::clone(&self.calm),
            }),
        })
    }
}

#[async_trait]
impl Listener for Port {
    async fn accept(&mut self) -> io::Result<Box<dyn Stream>> {
        match self.0.recv().await {
            Some(stream) => Ok(Box::new(stream)),
            None => std::future::pending().await,
        }
    }

    fn address(&self) -> io::Result<SocketAddr> {
        Ok(SocketAddr::from(ADDRESS))
    }
}

/// A connection that carries so many bytes more.
struct Breaking {
    stream: DuplexStream,
    left: u64,
    calm: Arc<AtomicBool>,
}

impl Breaking {
    fn part(&self, wanted: usize) -> io::Result<usize> {
        if self.calm.load(Ordering::Acquire) {
            return Ok(wanted);
        }
        if self.left == 0 {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok(wanted.min(usize::try_from(self.left).unwrap_or(usize::MAX)))
    }
}

impl AsyncRead for Breaking {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let part = self.part(buffer.remaining())?;
        let mut piece = vec![0; part];
        let mut piece = ReadBuf::new(&mut piece);
        ready!(Pin::new(&mut self.stream).poll_read(context, &mut piece))?;
        self.left = self.left.saturating_sub(piece.filled().len() as u64);
        buffer.put_slice(piece.filled());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Breaking {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let part = self.part(bytes.len())?;
        let written = ready!(Pin::new(&mut self.stream).poll_write(context, &bytes[..part]))?;
        self.left = self.left.saturating_sub(written as u64);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
