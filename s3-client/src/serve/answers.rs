//! From the store's outcomes to S3's answers.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use jiff::Timestamp;
use s3s::dto::{self, StreamingBlob, TimestampFormat};
use s3s::stream::{ByteStream, RemainingLength};
use s3s::{S3Error, S3ErrorCode, S3Response, S3Result, StdError};

use super::LOST;
use crate::decide::Code;
use crate::store::{Answer, Body, PartOutcome};
use crate::{DeleteOutcome, ETag, Error, ErrorKind, ObjectKey, Op, PutOutcome, VersionId};

/// What S3 says of an object under lock.
pub(super) const LOCKED: &str = "Access Denied because object protected by object lock.";

/// The key of a request, if it is one.
pub(super) fn key(text: String) -> S3Result<ObjectKey> {
    ObjectKey::new(text).map_err(|error| invalid(error.to_string()))
}

pub(super) fn invalid(message: impl Into<String>) -> S3Error {
    S3Error::with_message(S3ErrorCode::InvalidArgument, message.into())
}

pub(super) fn not_implemented(what: &'static str) -> S3Error {
    S3Error::with_message(S3ErrorCode::NotImplemented, what)
}

/// An error that closes the connection without an answer.
pub(super) fn lost() -> S3Error {
    let mut error = S3Error::new(S3ErrorCode::InternalError);
    let mut headers = HeaderMap::new();
    headers.insert(LOST, HeaderValue::from_static("1"));
    error.set_headers(headers);
    error
}

/// An error that carries the store's date.
pub(super) fn refused(
    code: S3ErrorCode,
    message: &'static str,
    date: Option<Timestamp>,
) -> S3Error {
    let mut error = S3Error::with_message(code, message);
    let mut headers = date_headers(date);
    let xml = HeaderValue::from_static("application/xml");
    headers.insert(header::CONTENT_TYPE, xml);
    error.set_headers(headers);
    error
}

/// An output that carries the store's date.
pub(super) fn dated<T>(output: T, date: Option<Timestamp>) -> S3Response<T> {
    S3Response::with_headers(output, date_headers(date))
}

fn date_headers(date: Option<Timestamp>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Some(date) = date {
        let mut text = Vec::new();
        let formatted = timestamp(date).format(TimestampFormat::HttpDate, &mut text);
        if let (Ok(()), Ok(value)) = (formatted, HeaderValue::from_bytes(&text)) {
            headers.insert(header::DATE, value);
        }
    }
    headers
}

pub(super) fn timestamp(time: Timestamp) -> dto::Timestamp {
    std::time::SystemTime::from(time).into()
}

pub(super) fn tag(etag: &ETag) -> dto::ETag {
    dto::ETag::Strong(etag.as_str().to_owned())
}

pub(super) fn version(version: Option<VersionId>) -> Option<String> {
    version.map(|VersionId(id)| id)
}

/// The store's error as S3's.
pub(super) fn error(error: Error) -> S3Error {
    let code = match error.kind {
        ErrorKind::NotFound => match error.op {
            Op::UploadPart | Op::CompleteMultipart | Op::AbortMultipart => {
                S3ErrorCode::NoSuchUpload
            }
            _ => S3ErrorCode::NoSuchKey,
        },
        ErrorKind::BucketMissing => S3ErrorCode::NoSuchBucket,
        ErrorKind::Throttled => S3ErrorCode::SlowDown,
        ErrorKind::Timeout => return lost(),
        ErrorKind::Unavailable if error.maybe_applied => S3ErrorCode::InternalError,
        ErrorKind::Unavailable => S3ErrorCode::ServiceUnavailable,
        ErrorKind::Unauthorized => S3ErrorCode::AccessDenied,
        ErrorKind::ClockSkewed => S3ErrorCode::RequestTimeTooSkewed,
        ErrorKind::Unsupported => S3ErrorCode::NotImplemented,
        ErrorKind::Corrupt => S3ErrorCode::InternalError,
        ErrorKind::NoSpace => {
            let code = S3ErrorCode::Custom("InsufficientStorage".into());
            let mut full = S3Error::with_message(code, error.message);
            full.set_status_code(StatusCode::INSUFFICIENT_STORAGE);
            return full;
        }
        ErrorKind::Other => named(&error).unwrap_or(S3ErrorCode::InternalError),
    };
    S3Error::with_message(code, error.message)
}

/// The code of an error that has S3's own name with it.
fn named(error: &Error) -> Option<S3ErrorCode> {
    let Code(name) = error.source.as_ref()?.downcast_ref::<Code>()?;
    S3ErrorCode::from_bytes(name.as_bytes())
}

/// Tag and version of a put that was carried out, or what S3 answers instead.
pub(super) fn put(
    answer: Answer<PutOutcome>,
) -> S3Result<(ETag, Option<VersionId>, Option<Timestamp>)> {
    match answer.value {
        PutOutcome::Created { etag, version } => Ok((etag, version, answer.date)),
        PutOutcome::Exists => Err(refused(
            S3ErrorCode::PreconditionFailed,
            "At least one of the preconditions you specified did not hold",
            answer.date,
        )),
        PutOutcome::Conflict => Err(refused(
            S3ErrorCode::ConditionalRequestConflict,
            "A conflicting conditional operation is currently in progress",
            answer.date,
        )),
        PutOutcome::Expired => Err(refused(
            S3ErrorCode::AccessDenied,
            "Request has expired",
            answer.date,
        )),
        PutOutcome::Unknown => Err(lost()),
    }
}

pub(super) fn part(answer: Answer<PartOutcome>) -> S3Result<(ETag, Option<Timestamp>)> {
    match answer.value {
        PartOutcome::Stored(part) => Ok((part.etag, answer.date)),
        PartOutcome::Unknown => Err(lost()),
    }
}

/// S3's code and words for a deletion that was not carried out; `None` for one that was.
pub(super) fn deletion(outcome: DeleteOutcome) -> S3Result<Option<(S3ErrorCode, String)>> {
    let refusal = match outcome {
        DeleteOutcome::Deleted | DeleteOutcome::NotFound => return Ok(None),
        DeleteOutcome::PreconditionFailed => (
            S3ErrorCode::PreconditionFailed,
            "At least one of the preconditions you specified did not hold".to_owned(),
        ),
        DeleteOutcome::Locked => (S3ErrorCode::AccessDenied, LOCKED.to_owned()),
        DeleteOutcome::Refused(why) => (S3ErrorCode::AccessDenied, why),
        DeleteOutcome::Expired => (S3ErrorCode::AccessDenied, "Request has expired".to_owned()),
        DeleteOutcome::Unknown => return Err(lost()),
    };
    Ok(Some(refusal))
}

/// The content of an object as the body of an answer of `promised` bytes; nothing is copied. If there are fewer, the
/// connection is closed after them.
pub(super) fn content(body: Body, promised: u64) -> StreamingBlob {
    let parts = body.parts().to_vec().into();
    let left = promised as usize;
    StreamingBlob::new(Parts { parts, left })
}

/// Parts on their way out, and how many bytes are still to come.
struct Parts {
    parts: VecDeque<Bytes>,
    left: usize,
}

impl Stream for Parts {
    type Item = Result<Bytes, StdError>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(part) = self.parts.pop_front() else {
            let missing = std::mem::take(&mut self.left);
            return Poll::Ready((missing > 0).then(|| Err("the object is cut short".into())));
        };
        self.left = self.left.saturating_sub(part.len());
        Poll::Ready(Some(Ok(part)))
    }
}

impl ByteStream for Parts {
    fn remaining_length(&self) -> RemainingLength {
        RemainingLength::new_exact(self.left)
    }
}
