//! A long line: whatever is sent on a connection arrives after a set time, in order, as much at once as anybody likes.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

/// What is read at once.
const PIECE_BYTES: usize = 256 << 10;

/// A forwarded port, until it is dropped.
#[derive(Debug)]
pub struct FarLine {
    address: SocketAddr,
    _runtime: Runtime,
}

impl FarLine {
    /// Forwards a free port of the loopback to `target`; an answer comes `round_trip` after its question at the earliest.
    pub fn to(target: SocketAddr, round_trip: Duration) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .thread_name("far line")
            .worker_threads(1)
            .enable_all()
            .build()?;
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let address = listener.local_addr()?;
        runtime.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(async move {
                    // A connection takes a round trip, too.
                    sleep(round_trip).await;
                    if let Ok(server) = TcpStream::connect(target).await {
                        forward(client, server, round_trip / 2).await;
                    }
                });
            }
        });
        Ok(Self {
            address,
            _runtime: runtime,
        })
    }

    /// Where it is entered.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

async fn forward(client: TcpStream, server: TcpStream, delay: Duration) {
    for stream in [&client, &server] {
        // Without it the delay would be another one.
        drop(stream.set_nodelay(true));
    }
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::join!(
        carry(from_client, to_server, delay),
        carry(from_server, to_client, delay)
    );
}

async fn carry(from: OwnedReadHalf, to: OwnedWriteHalf, delay: Duration) {
    let (send, receive) = mpsc::unbounded_channel();
    tokio::join!(take(from, send, delay), bring(receive, to));
}

async fn take(
    mut from: OwnedReadHalf,
    send: mpsc::UnboundedSender<(Instant, Bytes)>,
    delay: Duration,
) {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(PIECE_BYTES);
        match from.read_buf(&mut buffer).await {
            Ok(1..) => {}
            Ok(0) | Err(_) => return,
        }
        let arrives = Instant::now() + delay;
        if send.send((arrives, buffer.split().freeze())).is_err() {
            return;
        }
    }
}

async fn bring(mut receive: mpsc::UnboundedReceiver<(Instant, Bytes)>, mut to: OwnedWriteHalf) {
    while let Some((arrives, piece)) = receive.recv().await {
        sleep_until(arrives).await;
        if to.write_all(&piece).await.is_err() {
            return;
        }
    }
    // The other side may be gone already.
    drop(to.shutdown().await);
}
