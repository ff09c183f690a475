//! An upgraded connection from its first HTTP/2 frame to its last.
//!
//! It ends when the client ends it, when somebody ends the session (an administrator, the task's stop, the datastore),
//! for want of life, or because the daemon stops: then requests under way are answered first, within bounds. However it
//! ends, the tasks of its streams have ended, or were told to, before [`serve`] returns.

use std::convert::Infallible;
use std::future::Future;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::upgrade::Upgraded;
use tokio::time::{Instant, sleep_until, timeout};

use super::answer::AnswerBody;
use super::flow::{StreamExecutor, http2_server};
use super::memory::Window;
use super::session::OpenSession;
use crate::shutdown::Shutdown;

/// How often a session is asked for signs of life.
pub(super) const WATCH_INTERVAL: Duration = Duration::from_secs(15);
/// How long a client is given to hear that its session ends.
const FAREWELL_MAX: Duration = Duration::from_secs(2);
/// How long requests of a connection that is gone may take to notice.
const STREAMS_END_MAX: Duration = Duration::from_secs(30);

/// Why sessions end when the daemon does.
pub(super) const STOPPING: &str = "the daemon stops";

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ConnectionEnd {
    /// The client closed it.
    Closed,
    /// It broke.
    Broken(String),
    /// The session was ended from this side.
    Ended(String),
}

/// Bounds of a connection's life.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// How long nothing may happen.
    pub(crate) idle_max: Option<Duration>,
    /// How long requests under way may take once the daemon stops.
    pub(crate) shutdown_max: Duration,
}

/// What a connection is served with.
pub(crate) struct Surroundings<'a> {
    pub(crate) session: &'a OpenSession,
    pub(crate) shutdown: &'a Shutdown,
    pub(crate) executor: StreamExecutor,
    pub(crate) window: &'a Window,
    pub(crate) bounds: Bounds,
}

/// Serves requests until the connection or the session ends. `ended` returns the reason when the session is ended from
/// within.
pub(crate) async fn serve<A, F>(
    io: Upgraded,
    around: Surroundings<'_>,
    ended: impl Future<Output = String>,
    answer: A,
) -> ConnectionEnd
where
    A: Fn(Request<Incoming>) -> F,
    F: Future<Output = Response<AnswerBody>> + Send + 'static,
{
    let service = service_fn(move |request| {
        let answer = answer(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let server = http2_server(around.window, around.executor.clone());
    let mut connection = Box::pin(server.serve_connection(io, service));
    let mut watch = tokio::time::interval(WATCH_INTERVAL);
    let mut leaving_until: Option<Instant> = None;
    tokio::pin!(ended);
    let end = loop {
        let deadline = leaving_until.unwrap_or_else(|| Instant::now() + WATCH_INTERVAL);
        tokio::select! {
            result = connection.as_mut() => break match result {
                // However the client takes its leave once it was told to.
                _ if leaving_until.is_some() => ConnectionEnd::Ended(STOPPING.to_owned()),
                Ok(()) => ConnectionEnd::Closed,
                Err(error) => ConnectionEnd::Broken(causes(&error)),
            },
            reason = &mut ended => break ConnectionEnd::Ended(reason),
            _ = watch.tick() => {
                if let Some(reason) = around.session.progress().lifeless(around.bounds.idle_max) {
                    break ConnectionEnd::Ended(reason);
                }
            }
            () = around.shutdown.requested(), if leaving_until.is_none() => {
                leaving_until = Some(Instant::now() + around.bounds.shutdown_max);
                connection.as_mut().graceful_shutdown();
            }
            () = sleep_until(deadline), if leaving_until.is_some() => {
                break ConnectionEnd::Ended(STOPPING.to_owned());
            }
        }
    };
    if matches!(end, ConnectionEnd::Ended(_)) {
        connection.as_mut().graceful_shutdown();
        // What the client sends meanwhile is answered by a session that has ended.
        drop(timeout(FAREWELL_MAX, connection.as_mut()).await);
    }
    drop(connection);
    around.executor.drain(STREAMS_END_MAX).await;
    end
}

/// An error and its causes in one line.
fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}
