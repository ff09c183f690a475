//! HTTP/2 as the two protocols use it: settings, and bodies read as they arrive.
//!
//! **Nothing waits for ever.** With a connection window `C` and at most `n` streams the window of each stream is
//! `s = (C − C/8 − 64 KiB) / n`. What has arrived and nobody has read is therefore at most `C − C/8`, even if
//! every stream is full, and at least two thirds of `C/8` stay open for the streams that are being read; those are read as
//! fast as data arrives, because their memory was granted for the whole body ([`super::memory`]). The proof is
//! `docs/decisions/0007-flow-control.md`.
//!
//! Against streams that are opened only to be reset there are two limits, after which the connection ends: 20 streams
//! that the client resets before they are looked at, and 1024 that the server itself has to reset.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper_util::rt::TokioTimer;
use pbs_datastore::Env;

use super::memory::Window;
use super::session::Progress;
use crate::shutdown::Shutdown;

/// Streams a client may have open at once.
pub(crate) const STREAMS_MAX: u32 = 200;
/// Largest body of a call of the reader protocol: a digest or a file name as JSON.
pub(crate) const READER_BODY_BYTES_MAX: usize = 1024;
/// Longest header list, in bytes.
const HEADER_LIST_BYTES_MAX: u32 = 16 * 1024;
/// The smallest frame size that HTTP/2 allows to announce, and the largest that serves a purpose.
const FRAME_BYTES: std::ops::RangeInclusive<u32> = 16 * 1024..=4 * 1024 * 1024;
/// The window that every connection begins with, before the client has seen any setting.
const FIRST_WINDOW_BYTES: u32 = 64 * 1024;
/// The part of the connection window that unread bodies never hold.
const WINDOW_SLACK: u32 = 8;
/// Time between pings, and how long an answer to one may take. A connection that misses two in a row is dead.
const PING_INTERVAL: Duration = Duration::from_mins(1);
/// Streams that a client may reset before they were looked at.
const EARLY_RESETS_MAX: usize = 20;
/// Streams that may have to be reset for errors of the client.
const ERROR_RESETS_MAX: usize = 1024;
/// Bytes of an answer that are queued per stream.
const SEND_BUFFER_BYTES_MAX: usize = 512 * 1024;

/// The window of each of `streams` streams that share a connection window.
pub(crate) fn stream_window_bytes(connection_window_bytes: u32, streams: u32) -> u32 {
    let slack = connection_window_bytes / WINDOW_SLACK + FIRST_WINDOW_BYTES;
    connection_window_bytes.saturating_sub(slack) / streams
}

/// An HTTP/2 server whose connection has this window.
pub(crate) fn http2_server(
    window: &Window,
    executor: StreamExecutor,
) -> http2::Builder<StreamExecutor> {
    let stream = stream_window_bytes(window.bytes(), window.streams());
    let mut builder = http2::Builder::new(executor);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(window.streams())
        .initial_connection_window_size(window.bytes())
        .initial_stream_window_size(stream)
        // No frame can be larger than its stream's window, and a frame is buffered before the windows are checked.
        .max_frame_size(stream.clamp(*FRAME_BYTES.start(), *FRAME_BYTES.end()))
        .max_header_list_size(HEADER_LIST_BYTES_MAX)
        .max_send_buf_size(SEND_BUFFER_BYTES_MAX)
        .max_pending_accept_reset_streams(EARLY_RESETS_MAX)
        .max_local_error_reset_streams(ERROR_RESETS_MAX)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_INTERVAL);
    builder
}

/// Runs the streams of one connection as tasks, and knows when the last has ended.
#[derive(Debug, Clone)]
pub(crate) struct StreamExecutor {
    env: Env,
    running: Shutdown,
}

impl StreamExecutor {
    /// Tasks run on `env`.
    pub(crate) fn new(env: Env) -> Self {
        Self {
            env,
            running: Shutdown::new(),
        }
    }

    /// Waits for the tasks to end, once the connection has.
    pub(crate) async fn drain(&self, limit: Duration) {
        self.running.drain(limit).await;
    }
}

impl<F> Executor<F> for StreamExecutor
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, stream: F) {
        if let Some(running) = self.running.begin_work() {
            drop(self.env.spawn(async move {
                let _running = running;
                stream.await;
            }));
        }
    }
}

/// Why a body was not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BodyFault {
    /// It goes on after its announced end.
    #[error("the body is longer than the {0} bytes that were announced or are allowed")]
    TooLong(usize),
    /// The stream or the connection ended.
    #[error("the body was cut off: {0}")]
    CutOff(String),
}

/// Reads a body of at most `bytes_max` bytes, probably `bytes_likely`, as it arrives; stops at the first byte too many.
/// The memory for all of it must have been granted before.
pub(crate) async fn read_body(
    mut body: Incoming,
    bytes_max: usize,
    bytes_likely: usize,
    progress: &Progress,
) -> Result<Bytes, BodyFault> {
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > bytes_max {
        return Err(BodyFault::TooLong(bytes_max));
    }
    let _wait = progress.wait_for_peer();
    let mut read = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| BodyFault::CutOff(error.to_string()))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        progress.received(data.len());
        if data.len() > bytes_max - read.len() {
            return Err(BodyFault::TooLong(bytes_max));
        }
        if read.is_empty() {
            read.reserve(bytes_likely.max(data.len()).min(bytes_max));
        }
        read.extend_from_slice(&data);
    }
    Ok(read.freeze())
}

/// Reads a body to its end and forgets it.
pub(crate) async fn discard_body(mut body: Incoming, progress: &Progress) -> Result<(), BodyFault> {
    let _wait = progress.wait_for_peer();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| BodyFault::CutOff(error.to_string()))?;
        if let Some(data) = frame.data_ref() {
            progress.received(data.len());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(256 << 10, STREAMS_MAX)]
    #[case(2 << 20, 100)]
    #[case(4 << 20, STREAMS_MAX)]
    #[case(5 << 20, STREAMS_MAX)]
    #[case(32 << 20, STREAMS_MAX)]
    fn unread_bodies_never_fill_the_connection(#[case] connection: u32, #[case] streams: u32) {
        let stream = stream_window_bytes(connection, streams);
        assert!(stream > 0);
        let unread = stream * streams + FIRST_WINDOW_BYTES;
        assert!(unread + connection / WINDOW_SLACK <= connection);
    }
}
