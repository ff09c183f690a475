//! Rates: a token bucket for each direction, shared by all connections of one purpose, and a stream that keeps to them.
//!
//! What is sent or received is taken from the bucket afterwards; who finds it overdrawn waits until it is not. So a single call may exceed
//! the burst by one buffer, and the mean is exact.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// A rate in bytes per second, and how much may go at once after a pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rate {
    /// At least 1.
    pub(crate) bytes_per_second: u64,
    /// What is saved up at most, in bytes.
    pub(crate) burst_bytes: u64,
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

    /// Takes what has gone.
    fn take(&self, bytes: usize) {
        self.fill().bytes -= bytes as f64;
    }

    /// How long until something may go; zero if it may now.
    fn wait(&self) -> Duration {
        let overdrawn = -self.fill().bytes;
        Duration::from_secs_f64(overdrawn.max(0.0) / self.rate.bytes_per_second.max(1) as f64)
    }

    fn fill(&self) -> std::sync::MutexGuard<'_, Level> {
        let mut level = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let came = now.duration_since(level.at).as_secs_f64() * self.rate.bytes_per_second as f64;
        level.bytes = (level.bytes + came).min(self.rate.burst_bytes as f64);
        level.at = now;
        level
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
}

impl Pace {
    /// Whether there is a rate.
    pub(super) fn is_limited(&self) -> bool {
        self.receive.is_some() || self.send.is_some()
    }
}

/// One direction of a stream.
#[derive(Debug)]
struct Direction {
    bucket: Option<Arc<Bucket>>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Direction {
    fn new(bucket: Option<Arc<Bucket>>) -> Self {
        let timer = None;
        Self { bucket, timer }
    }

    /// Ready once something may go.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(bucket) = &self.bucket else {
            return Poll::Ready(());
        };
        loop {
            if let Some(timer) = &mut self.timer {
                ready!(timer.as_mut().poll(cx));
                self.timer = None;
            }
            let wait = bucket.wait();
            if wait.is_zero() {
                return Poll::Ready(());
            }
            self.timer = Some(Box::pin(tokio::time::sleep(wait)));
        }
    }

    fn take(&self, bytes: usize) {
        if let Some(bucket) = &self.bucket {
            bucket.take(bytes);
        }
    }
}

/// A stream that keeps to a pace.
#[derive(Debug)]
pub(super) struct Paced<S> {
    stream: S,
    receive: Direction,
    send: Direction,
}

impl<S> Paced<S> {
    /// `stream` at this pace.
    pub(super) fn new(stream: S, pace: &Pace) -> Self {
        Self {
            stream,
            receive: Direction::new(pace.receive.clone()),
            send: Direction::new(pace.send.clone()),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.receive.poll_ready(cx));
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        self.receive.take(buffer.filled().len() - before);
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.send.poll_ready(cx));
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        self.send.take(written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.send.poll_ready(cx));
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
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_mean_is_the_rate_over_all_streams_of_a_pace() {
        let rate = Rate {
            bytes_per_second: 1000,
            burst_bytes: 2000,
        };
        let pace = Pace::new(Some(rate), None);
        let begun = Instant::now();
        let mut streams = Vec::new();
        for _ in 0..2 {
            let (mut near, far) = duplex(100_000);
            // What is sent has no rate.
            near.write_all(&[1; 6000]).await.unwrap();
            streams.push(Paced::new(far, &pace));
        }
        assert_eq!(begun.elapsed(), Duration::ZERO);
        let [one, two] = &mut streams[..] else {
            panic!("there are two");
        };
        let (mut first, mut second) = (Vec::new(), Vec::new());
        let (one, two) = tokio::join!(one.read_to_end(&mut first), two.read_to_end(&mut second));
        assert_eq!((one.unwrap(), two.unwrap()), (6000, 6000));
        let seconds = begun.elapsed().as_secs_f64();
        assert!((9.8..10.2).contains(&seconds), "{seconds} s");
    }
}
