//! One request on its way to an endpoint, and what comes back.

use std::fmt;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE, HeaderValue};
use http::{Method, Response};
use http_body_util::BodyExt as _;
use pbs_datastore::MemoryPermit;
use tokio::sync::OwnedSemaphorePermit;

use super::declared::Declared;
use super::envelope::Reply;
use super::error::ApiError;
use super::params::Params;
use crate::app::{ApiBody, whole};
use crate::auth::{AuthError, Principal};
use crate::daemon::Daemon;
use crate::places::Line;
use crate::protocol::DownloadBody;

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
    /// Which kinds of answers it asks for, as its header `Accept` says; empty if it does not.
    pub(crate) accept: String,
    /// The connection that the answer to a GET goes over.
    pub(crate) line: Line,
    /// The body of an upload; empty elsewhere, where the body holds parameters.
    pub(crate) body: Bytes,
    /// The place and the memory of that body.
    pub(crate) held: Option<UploadPlace>,
}

/// What an upload holds until its call has ended.
#[derive(Debug)]
pub(crate) struct UploadPlace {
    /// One of the few uploads at once.
    pub(crate) _place: OwnedSemaphorePermit,
    /// Memory for its body.
    pub(crate) _memory: MemoryPermit,
}

impl Call {
    /// A call with nothing but parameters.
    pub(crate) fn without_body(
        principal: Option<Principal>,
        caller: Caller,
        params: Params,
    ) -> Self {
        Self {
            principal,
            caller,
            params,
            accept: String::new(),
            line: Line::default(),
            body: Bytes::new(),
            held: None,
        }
    }

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
    /// A text of this type.
    Plain {
        /// As the header has it.
        content_type: &'static str,
        /// The text.
        text: String,
    },
    /// A text to be saved as a file.
    Text {
        /// The file's name.
        name: String,
        /// The text.
        text: Vec<u8>,
    },
    /// A file, as it is read.
    File {
        /// The file's name.
        name: String,
        /// Its bytes.
        body: DownloadBody,
    },
}

impl Answer {
    /// The content type of [`Text`](Self::Text).
    pub(crate) const TEXT: &'static str = "text/plain";
    /// The content type of [`File`](Self::File).
    pub(crate) const OCTETS: &'static str = "application/octet-stream";

    /// The answer.
    pub(crate) fn into_response(self) -> Response<ApiBody> {
        match self {
            Self::Data(reply) => whole(reply.into_response()),
            Self::Plain { content_type, text } => {
                let mut response = whole(Response::new(Bytes::from(text)));
                let value = HeaderValue::from_static(content_type);
                response.headers_mut().insert(CONTENT_TYPE, value);
                response
            }
            Self::Text { name, text } => {
                let response = whole(Response::new(Bytes::from(text)));
                attached(response, &name, Self::TEXT)
            }
            Self::File { name, body } => {
                let response = Response::new(body.map_err(Into::into).boxed_unsync());
                attached(response, &name, Self::OCTETS)
            }
        }
    }
}

/// An answer that is to be saved as a file.
fn attached(
    mut response: Response<ApiBody>,
    name: &str,
    content_type: &'static str,
) -> Response<ApiBody> {
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    // Nothing that could end the quotes, or that is no plain character.
    let plain = |c: &char| matches!(c, ' '..='~') && !matches!(c, '"' | '\\');
    let name: String = name.chars().filter(plain).collect();
    let disposition = format!("attachment; filename=\"{name}\"");
    if let Ok(value) = HeaderValue::try_from(disposition) {
        headers.insert(CONTENT_DISPOSITION, value);
    }
    response
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

type Running<T> = Pin<Box<dyn Future<Output = Result<T, ApiError>> + Send>>;
type Run<T> = dyn Fn(Arc<Daemon>, Call) -> Running<T> + Send + Sync;

/// A method on a path.
pub(crate) struct Endpoint {
    /// Who gets in.
    pub(crate) access: Access,
    /// How the body is read.
    pub(crate) body: BodyKind,
    /// What is said of it.
    pub(crate) declared: Arc<Declared>,
    run: Box<Run<Answer>>,
    /// Whether an upload may be sent at all; asked before anything of its body is taken.
    admit: Option<Box<Run<()>>>,
}

impl Endpoint {
    /// An endpoint that `run` answers; its body holds parameters.
    pub(crate) fn new<F, R>(access: Access, declared: Declared, run: F) -> Self
    where
        F: Fn(Arc<Daemon>, Call) -> R + Send + Sync + 'static,
        R: Future<Output = CallResult> + Send + 'static,
    {
        Self {
            access,
            body: BodyKind::Params,
            declared: Arc::new(declared),
            run: Box::new(move |daemon, call| Box::pin(run(daemon, call))),
            admit: None,
        }
    }

    /// The same with an upload of at most `bytes_max` as its body. Before anything of it is taken, `admit` is asked, with
    /// the parameters and an empty body; it refuses whoever may not send it.
    pub(crate) fn upload<F, R>(mut self, bytes_max: usize, admit: F) -> Self
    where
        F: Fn(Arc<Daemon>, Call) -> R + Send + Sync + 'static,
        R: Future<Output = Result<(), ApiError>> + Send + 'static,
    {
        self.body = BodyKind::Upload(bytes_max);
        self.admit = Some(Box::new(move |daemon, call| Box::pin(admit(daemon, call))));
        self
    }

    /// Refuses an upload that its sender may not send.
    pub(crate) async fn admit(&self, daemon: Arc<Daemon>, call: Call) -> Result<(), ApiError> {
        match &self.admit {
            Some(admit) => admit(daemon, call).await,
            None => Ok(()),
        }
    }

    /// Answers a call.
    pub(crate) async fn run(&self, daemon: Arc<Daemon>, call: Call) -> CallResult {
        let result = (self.run)(daemon, call).await;
        if cfg!(debug_assertions)
            && let Ok(answer) = &result
        {
            self.declared.check(answer);
        }
        result
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({:?}, {:?})", self.access, self.body)
    }
}

/// A row of the routing table.
pub(crate) type RouteEntry = (Method, &'static str, Endpoint);
