//! Answers within an upgraded connection: JSON like everywhere, raw bytes for downloads, and refusals.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, SET_COOKIE};
use http::{Response, StatusCode};
use hyper::body::{Body, Frame, SizeHint};

use super::session::Progress;
use crate::api::{ApiError, Reply};

/// Largest piece of an answer that is handed on at once: between pieces it shows whether the client takes them.
pub(super) const PIECE_BYTES: usize = 256 * 1024;
const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// The body of an answer: parts that are sent one after the other without being copied.
#[derive(Debug)]
pub(crate) struct AnswerBody {
    parts: VecDeque<Bytes>,
    bytes_left: u64,
    /// Whether the length is announced. Downloads go without, and end with an empty frame.
    sized: bool,
    progress: Option<Progress>,
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        while let Some(part) = self.parts.front_mut() {
            if part.is_empty() {
                self.parts.pop_front();
                continue;
            }
            let piece = part.split_to(part.len().min(PIECE_BYTES));
            self.bytes_left -= piece.len() as u64;
            if let Some(progress) = &self.progress {
                progress.sent(piece.len());
            }
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        self.sized && self.bytes_left == 0
    }

    fn size_hint(&self) -> SizeHint {
        if self.sized {
            SizeHint::with_exact(self.bytes_left)
        } else {
            SizeHint::default()
        }
    }
}

/// Bytes that keep something alive until nobody sends them any more.
struct Kept<T> {
    bytes: Bytes,
    _keep: Arc<T>,
}

impl<T> AsRef<[u8]> for Kept<T> {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// `bytes` that hold on to `keep` (such as the memory they were granted) as long as any part of them is about.
pub(crate) fn keeping<T: Send + Sync + 'static>(bytes: Bytes, keep: Arc<T>) -> Bytes {
    Bytes::from_owner(Kept { bytes, _keep: keep })
}

/// Raw bytes as an answer. `keep` lives until the client has taken everything.
pub(crate) fn raw<T: Send + Sync + 'static>(
    parts: impl IntoIterator<Item = Bytes>,
    sized: bool,
    keep: T,
    progress: &Progress,
) -> Response<AnswerBody> {
    let keep = Arc::new((keep, progress.wait_for_peer()));
    let parts: VecDeque<Bytes> = parts
        .into_iter()
        .map(|part| keeping(part, Arc::clone(&keep)))
        .collect();
    let mut response = Response::new(AnswerBody {
        bytes_left: parts.iter().map(|part| part.len() as u64).sum(),
        parts,
        sized,
        progress: Some(progress.clone()),
    });
    response.headers_mut().insert(CONTENT_TYPE, OCTETS);
    response
}

/// The answer of an ordinary call.
pub(crate) fn json(reply: Reply) -> Response<AnswerBody> {
    reply.into_response().map(whole)
}

fn whole(body: Bytes) -> AnswerBody {
    AnswerBody {
        bytes_left: body.len() as u64,
        parts: VecDeque::from([body]),
        sized: true,
        progress: None,
    }
}

/// A call that is answered with an error.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub(crate) struct Refusal {
    error: ApiError,
    /// Refused before the call began, by the check of its parameters; such answers have no content type.
    unchecked: bool,
}

impl Refusal {
    /// The parameters are wrong.
    pub(crate) fn parameters(error: ApiError) -> Self {
        Self {
            error,
            unchecked: true,
        }
    }

    /// The path, or the method on it, does not exist.
    pub(crate) fn path(path: &str) -> Self {
        ApiError::not_found(format!("Path '{path}' not found.")).into()
    }

    /// The status.
    pub(crate) fn status(&self) -> StatusCode {
        self.error.status()
    }

    /// The answer.
    pub(crate) fn into_response(self) -> Response<AnswerBody> {
        let mut response = self.error.into_response().map(whole);
        let headers = response.headers_mut();
        headers.remove(SET_COOKIE);
        if self.unchecked {
            headers.remove(CONTENT_TYPE);
        }
        response
    }
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Self {
            error,
            unchecked: false,
        }
    }
}

impl From<pbs_datastore::Error> for Refusal {
    /// Clients tell failures apart by nothing but their texts, so every one is a 400, but for a disk or a datastore that is full; where
    /// the status matters the endpoint decides.
    fn from(error: pbs_datastore::Error) -> Self {
        let text = error.to_string();
        if let pbs_datastore::Error::File { source, .. } = &error {
            let told = ApiError::of_file(source, &text);
            if told.status() == StatusCode::INSUFFICIENT_STORAGE {
                return told.into();
            }
        }
        if let pbs_datastore::Error::Full(_) = error {
            return ApiError::insufficient_storage(text).into();
        }
        ApiError::bad_request(text).into()
    }
}
