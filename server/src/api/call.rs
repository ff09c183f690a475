//! One request on its way to an endpoint, and what comes back.

use std::fmt;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE, HeaderValue};
use http::{Method, Response};
use pbs_datastore::MemoryPermit;

use super::envelope::Reply;
use super::error::ApiError;
use super::params::Params;
use crate::auth::{AuthError, Principal};
use crate::daemon::Daemon;

/// Where a request comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Caller {
    /// Over TLS from this address; its credentials are in its headers.
    Network(IpAddr),
    /// Through the control socket, which only the owner of the daemon's files can open. No credentials are needed.
    Owner,
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(address) => address.fmt(f),
            Self::Owner => f.write_str("control socket"),
        }
    }
}

/// A request whose sender is known, with its parameters.
#[derive(Debug)]
pub(crate) struct Call {
    /// Who asks; `None` only at endpoints that are open to anyone.
    pub(crate) principal: Option<Principal>,
    /// From where.
    pub(crate) caller: Caller,
    /// Parameters that nobody has taken yet.
    pub(crate) params: Params,
    /// The body of an upload; empty elsewhere, where the body holds parameters.
    pub(crate) body: Bytes,
    /// The memory of that body.
    #[expect(dead_code, reason = "held, never read")]
    pub(crate) memory: Option<MemoryPermit>,
}

impl Call {
    /// Who asks.
    pub(crate) fn who(&self) -> Result<&Principal, ApiError> {
        let who = self.principal.as_ref();
        who.ok_or_else(|| AuthError::Unauthenticated.into())
    }
}

/// What an endpoint answers.
#[derive(Debug)]
pub(crate) enum Answer {
    /// JSON with `data`.
    Data(Reply),
    /// A text to be saved as a file.
    Text {
        /// The file's name.
        name: String,
        /// The text.
        text: Vec<u8>,
    },
}

impl Answer {
    /// The answer.
    pub(crate) fn into_response(self) -> Response<Bytes> {
        match self {
            Self::Data(reply) => reply.into_response(),
            Self::Text { name, text } => {
                let mut response = Response::new(Bytes::from(text));
                let headers = response.headers_mut();
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
                let disposition = format!("attachment; filename=\"{}\"", name.replace('"', ""));
                if let Ok(value) = HeaderValue::try_from(disposition) {
                    headers.insert(CONTENT_DISPOSITION, value);
                }
                response
            }
        }
    }
}

impl From<Reply> for Answer {
    fn from(reply: Reply) -> Self {
        Self::Data(reply)
    }
}

/// What every endpoint's function returns.
pub(crate) type CallResult = Result<Answer, ApiError>;

/// `data` as an answer.
pub(crate) fn data<T: serde::Serialize + ?Sized>(data: &T) -> CallResult {
    Ok(Reply::new(data)?.into())
}

/// The answer of calls without a result.
#[expect(
    clippy::unnecessary_wraps,
    reason = "it is the last expression of calls that can fail"
)]
pub(crate) fn done() -> CallResult {
    Ok(Reply::null().into())
}

/// What an endpoint demands before it is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Nothing.
    Anyone,
    /// Proof of who asks; the endpoint checks what it may do.
    Known,
}

/// What the body of a request to an endpoint is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyKind {
    /// Parameters, if anything.
    Params,
    /// Content of at most so many bytes; parameters are in the query only.
    Upload(usize),
}

type Run =
    dyn Fn(Arc<Daemon>, Call) -> Pin<Box<dyn Future<Output = CallResult> + Send>> + Send + Sync;

/// A method on a path.
pub(crate) struct Endpoint {
    /// Who gets in.
    pub(crate) access: Access,
    /// How the body is read.
    pub(crate) body: BodyKind,
    run: Box<Run>,
}

impl Endpoint {
    /// An endpoint that `run` answers; its body holds parameters.
    pub(crate) fn new<F, R>(access: Access, run: F) -> Self
    where
        F: Fn(Arc<Daemon>, Call) -> R + Send + Sync + 'static,
        R: Future<Output = CallResult> + Send + 'static,
    {
        Self {
            access,
            body: BodyKind::Params,
            run: Box::new(move |daemon, call| Box::pin(run(daemon, call))),
        }
    }

    /// The same with an upload of at most `bytes_max` as its body.
    pub(crate) fn upload(mut self, bytes_max: usize) -> Self {
        self.body = BodyKind::Upload(bytes_max);
        self
    }

    /// Answers a call.
    pub(crate) async fn run(&self, daemon: Arc<Daemon>, call: Call) -> CallResult {
        (self.run)(daemon, call).await
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({:?}, {:?})", self.access, self.body)
    }
}

/// A row of the routing table.
pub(crate) type RouteEntry = (Method, &'static str, Endpoint);
