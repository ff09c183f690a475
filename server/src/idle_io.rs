//! A stream that fails when no byte moves for a time: whoever has stopped reading or writing does not keep a connection.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// A stream with a bound on its silence.
#[derive(Debug)]
pub(crate) struct IdleIo<S> {
    stream: S,
    silence_max: Duration,
    timer: Pin<Box<Sleep>>,
}

impl<S> IdleIo<S> {
    /// `stream`, which fails once it has to wait and nothing has moved for `silence_max`.
    pub(crate) fn new(stream: S, silence_max: Duration) -> Self {
        Self {
            stream,
            silence_max,
            timer: Box::pin(tokio::time::sleep(silence_max)),
        }
    }

    fn bounded<T>(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            let deadline = Instant::now() + self.silence_max;
            self.timer.as_mut().reset(deadline);
            return polled;
        }
        self.timer
            .as_mut()
            .poll(cx)
            .map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for IdleIo<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        self.bounded(cx, polled)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for IdleIo<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.bounded(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.bounded(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_flush(cx) {
            // A flush of nothing is no sign of life.
            Poll::Ready(flushed) => Poll::Ready(flushed),
            Poll::Pending => self.bounded(cx, Poll::Pending),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_shutdown(cx) {
            Poll::Ready(closed) => Poll::Ready(closed),
            Poll::Pending => self.bounded(cx, Poll::Pending),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn silence_ends_a_stream_and_bytes_in_either_direction_break_it() {
        let limit = Duration::from_mins(1);
        let (mut far, near) = tokio::io::duplex(16);
        let mut near = IdleIo::new(near, limit);
        tokio::time::advance(limit / 2).await;
        near.write_all(b"x").await.expect("room");
        tokio::time::advance(limit / 2).await;
        far.write_all(b"y").await.expect("room");
        assert_eq!(near.read_u8().await.expect("there"), b'y');
        let error = near.read_u8().await.expect_err("silence");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
