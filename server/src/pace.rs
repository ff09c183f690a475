//! Rates: a token bucket for each direction, shared by all connections of one purpose, and a stream that keeps to them.
//!
//! What is sent or received is taken from the bucket afterwards, and whoever took it waits until it is paid off. So a single call may exceed the burst by one
//! buffer, the mean is exact, and of many connections each gets its turn: nobody pays for what was taken after him. A stream that waits holds neither lock nor
//! thread. Its pace may change while it is open ([`Paces`]); who waits then notices within [`LOOK_EVERY`].

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use crate::config::{ByteCount, unless_zero};

/// How long a stream waits at most before it looks whether its pace is another one.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A rate in bytes per second, and how much may go at once after a pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rate {
    /// At least 1.
    pub(crate) bytes_per_second: u64,
    /// What is saved up at most, in bytes.
    pub(crate) burst_bytes: u64,
}

impl Rate {
    /// The rate of two settings, `rate-…` and `burst-…`: 0 is no rate, and as much at once as in a second.
    pub(crate) fn of(bytes_per_second: ByteCount, burst: ByteCount) -> Option<Self> {
        let bytes_per_second = unless_zero(bytes_per_second.get())?;
        let burst_bytes = unless_zero(burst.get()).unwrap_or(bytes_per_second);
        Some(Self {
            bytes_per_second,
            burst_bytes,
        })
    }
}

/// What may still go.
#[derive(Debug)]
struct Bucket {
    rate: Rate,
    state: Mutex<Level>,
}

#[derive(Debug)]
struct Level {
    /// Negative if it is overdrawn.
    bytes: f64,
    at: Instant,
}

impl Bucket {
    fn new(rate: Rate) -> Arc<Self> {
        let state = Mutex::new(Level {
            bytes: rate.burst_bytes as f64,
            at: Instant::now(),
        });
        Arc::new(Self { rate, state })
    }

    /// Takes what has gone; when it is paid off.
    fn take(&self, bytes: usize) -> Instant {
        let mut level = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let per_second = self.rate.bytes_per_second.max(1) as f64;
        let came = now.duration_since(level.at).as_secs_f64() * per_second;
        level.bytes = (level.bytes + came).min(self.rate.burst_bytes as f64) - bytes as f64;
        level.at = now;
        now + Duration::from_secs_f64((-level.bytes).max(0.0) / per_second)
    }
}

/// The rates of both directions; clones share them. The default has none.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pace {
    receive: Option<Arc<Bucket>>,
    send: Option<Arc<Bucket>>,
}

impl Pace {
    /// What is received and what is sent, each at its rate if it has one.
    pub(crate) fn new(receive: Option<Rate>, send: Option<Rate>) -> Self {
        Self {
            receive: receive.map(Bucket::new),
            send: send.map(Bucket::new),
        }
    }

    /// Whether there is a rate.
    pub(crate) fn is_limited(&self) -> bool {
        self.receive.is_some() || self.send.is_some()
    }
}

/// Where a stream learns its pace.
pub(crate) trait Paces {
    /// Another number means that the pace may be another one. Asked for each piece that is read or written.
    fn version(&self) -> u64;
    /// The pace.
    fn pace(&self) -> Pace;
}

/// One that stays as it is.
impl Paces for Pace {
    fn version(&self) -> u64 {
        0
    }

    fn pace(&self) -> Pace {
        self.clone()
    }
}

/// One direction of a stream.
#[derive(Debug)]
struct Direction {
    bucket: Option<Arc<Bucket>>,
    /// Set while what was taken is not paid off.
    until: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Direction {
    fn new(bucket: Option<Arc<Bucket>>) -> Self {
        Self {
            bucket,
            until: None,
            timer: None,
        }
    }

    fn take(&mut self, bytes: usize) {
        if let Some(bucket) = &self.bucket
            && bytes > 0
        {
            self.until = Some(bucket.take(bytes));
        }
    }
}

/// A stream that keeps to a pace.
#[derive(Debug)]
pub(crate) struct Paced<S, P> {
    stream: S,
    paces: P,
    version: u64,
    receive: Direction,
    send: Direction,
}

/// Which direction is meant.
type Way<S, P> = fn(&mut Paced<S, P>) -> &mut Direction;

impl<S, P: Paces> Paced<S, P> {
    /// `stream` at the pace that `paces` tells.
    pub(crate) fn new(stream: S, paces: P) -> Self {
        let (version, pace) = (paces.version(), paces.pace());
        Self {
            stream,
            paces,
            version,
            receive: Direction::new(pace.receive),
            send: Direction::new(pace.send),
        }
    }

    /// Ready once something may go that way.
    fn poll_turn(&mut self, cx: &mut Context<'_>, way: Way<S, P>) -> Poll<()> {
        loop {
            let version = self.paces.version();
            if version != self.version {
                self.version = version;
                let pace = self.paces.pace();
                self.receive = renewed(&self.receive, pace.receive);
                self.send = renewed(&self.send, pace.send);
            }
            let direction = way(self);
            let Some(until) = direction.until else {
                return Poll::Ready(());
            };
            let now = Instant::now();
            if until <= now {
                direction.until = None;
                direction.timer = None;
                return Poll::Ready(());
            }
            let look = until.min(now + LOOK_EVERY);
            let timer = direction
                .timer
                .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(look)));
            ready!(timer.as_mut().poll(cx));
            direction.timer = None;
        }
    }
}

/// A direction under another bucket, or as it is under the same. What another one was owed is forgotten.
fn renewed(before: &Direction, bucket: Option<Arc<Bucket>>) -> Direction {
    let mut direction = Direction::new(bucket);
    let same = match (&before.bucket, &direction.bucket) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        _ => false,
    };
    if same {
        direction.until = before.until;
    }
    direction
}

impl<S: AsyncRead + Unpin, P: Paces + Unpin> AsyncRead for Paced<S, P> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_turn(cx, |paced| &mut paced.receive));
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        self.receive.take(buffer.filled().len() - before);
        polled
    }
}

impl<S: AsyncWrite + Unpin, P: Paces + Unpin> AsyncWrite for Paced<S, P> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_turn(cx, |paced| &mut paced.send));
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        self.send.take(written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_turn(cx, |paced| &mut paced.send));
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, parts))?;
        self.send.take(written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use futures_util::future::join_all;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    const RATE: Rate = Rate {
        bytes_per_second: 1000,
        burst_bytes: 2000,
    };

    /// Reads all of what a stream has got; how long that took from `begun`.
    async fn drained(mut stream: impl AsyncRead + Unpin, begun: Instant) -> f64 {
        let mut read = Vec::new();
        stream.read_to_end(&mut read).await.expect("read");
        assert_eq!(read.len(), 6000);
        begun.elapsed().as_secs_f64()
    }

    #[tokio::test(start_paused = true)]
    async fn the_mean_is_the_rate_over_all_streams_of_a_pace() {
        let pace = Pace::new(Some(RATE), None);
        let begun = Instant::now();
        let mut streams = Vec::new();
        for _ in 0..2 {
            let (mut near, far) = duplex(100_000);
            // What is sent has no rate.
            near.write_all(&[1; 6000]).await.expect("room");
            drop(near);
            streams.push(drained(Paced::new(far, pace.clone()), begun));
        }
        assert_eq!(begun.elapsed(), Duration::ZERO);
        let seconds = join_all(streams).await.into_iter().fold(0.0, f64::max);
        assert!((9.8..10.2).contains(&seconds), "{seconds} s");
    }

    #[tokio::test(start_paused = true)]
    async fn each_gets_its_turn_and_a_newcomer_is_let_in_at_once() {
        let pace = Pace::new(None, Some(RATE));
        let deadline = Instant::now() + Duration::from_secs(40);
        let mut counting = Vec::new();
        for _ in 0..4 {
            let (near, far) = duplex(1 << 20);
            let mut near = Paced::new(near, pace.clone());
            counting.push(async move {
                let mut pieces = 0;
                let piece = [1; 1000];
                while tokio::time::timeout_at(deadline, near.write_all(&piece))
                    .await
                    .is_ok()
                {
                    pieces += 1;
                }
                drop(far);
                pieces
            });
        }
        // 40 s and the burst make 42 pieces, and each may be one ahead.
        let pieces = join_all(counting).await;
        assert!(
            pieces.iter().all(|pieces| (9..=13).contains(pieces)),
            "{pieces:?}"
        );
        assert!(
            (41..=46).contains(&pieces.iter().sum::<u32>()),
            "{pieces:?}"
        );
        let (near, _far) = duplex(1 << 20);
        let mut newcomer = Paced::new(near, pace);
        let asked = Instant::now();
        newcomer.write_all(&[1; 1000]).await.expect("room");
        assert_eq!(asked.elapsed(), Duration::ZERO);
    }

    /// A pace that is lifted.
    struct Lifted<'a>(&'a AtomicU64);

    impl Paces for Lifted<'_> {
        fn version(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }

        fn pace(&self) -> Pace {
            match self.version() {
                0 => Pace::new(Some(RATE), Some(RATE)),
                _ => Pace::default(),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_waits_notices_another_pace() {
        let version = AtomicU64::new(0);
        let (near, _far) = duplex(1 << 20);
        let mut near = Paced::new(near, Lifted(&version));
        let begun = Instant::now();
        let piece = vec![1; 500_000];
        near.write_all(&piece).await.expect("room");
        let mut more = Box::pin(near.write_all(&piece));
        let early = tokio::time::timeout(Duration::from_secs(100), more.as_mut()).await;
        assert!(early.is_err(), "498 s are owed");
        version.store(1, Ordering::Relaxed);
        more.await.expect("room");
        assert!(begun.elapsed() <= Duration::from_secs(101));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_rate_nothing_waits() {
        let (near, mut far) = duplex(1 << 20);
        let mut near = Paced::new(near, Pace::default());
        let begun = Instant::now();
        near.write_all(&vec![1; 1 << 20]).await.expect("room");
        far.read_exact(&mut vec![0; 1 << 20]).await.expect("there");
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }
}
