//! What the SDK's errors mean.
//!
//! Three things decide: whether the request was sent at all, whether it was answered, and by whom. A gateway's 502 and
//! 504 say that *it* has lost the answer, which for a mutation is the same as losing it ourselves (I8).

use std::error::Error as StdError;

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use jiff::Timestamp;
use tokio::time::Instant;

use crate::connector::TransportFailure;
use crate::{Error, ErrorKind, Op};

/// Why an operation did not succeed.
#[derive(Debug)]
pub(super) enum Failure {
    /// Answered, or never sent: no further effect.
    Answered(Error),
    /// Sent, and the answer was lost.
    Lost {
        reason: String,
        kind: ErrorKind,
        at: Instant,
    },
    /// 412, or 404 to a conditional write.
    PreconditionFailed,
    /// 409.
    Conflict(String),
}

/// The request as far as errors are concerned.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    pub(super) op: Op,
    pub(super) key: &'a str,
    /// `If-Match` was sent: an absent object then fails the condition.
    pub(super) if_match: bool,
}

impl<'a> Asked<'a> {
    pub(super) fn new(op: Op, key: &'a str) -> Self {
        Self {
            op,
            key,
            if_match: false,
        }
    }

    pub(super) fn error(&self, kind: ErrorKind, message: impl Into<String>) -> Error {
        Error::new(kind, self.op, self.key, message)
    }
}

impl Failure {
    /// As an error, for operations whose trait method has no outcome for it.
    pub(super) fn into_error(self, asked: Asked<'_>) -> Error {
        match self {
            Self::Answered(error) => error,
            Self::Lost { reason, kind, at } => {
                let mut error = asked.error(kind, reason);
                if asked.op.is_mutation() {
                    error.maybe_applied = true;
                    error.lost_at = Some(at);
                }
                error
            }
            Self::PreconditionFailed => {
                asked.error(ErrorKind::Other, "412: a precondition did not hold")
            }
            Self::Conflict(message) => asked.error(ErrorKind::Unavailable, message),
        }
    }
}

/// Sorts an SDK error.
pub(super) fn failure<E>(error: &SdkError<E, HttpResponse>, asked: Asked<'_>) -> Failure
where
    E: StdError + ProvideErrorMetadata + Send + Sync + 'static,
{
    if let Some(transport) = transport_failure(error) {
        return unsent_or_lost(transport, asked);
    }
    match error {
        SdkError::ServiceError(answer) => {
            let raw = answer.raw();
            let words = match answer.err().message() {
                Some(message) => message.to_owned(),
                // The SDK files an answer that it cannot parse under errors of the service.
                None if raw.status().is_success() => chain(error),
                None => String::new(),
            };
            let told = Told {
                status: raw.status().as_u16(),
                code: answer.err().code().unwrap_or_default(),
                message: &words,
                region: raw.headers().get("x-amz-bucket-region"),
            };
            sort(&told, asked)
        }
        SdkError::ResponseError(answer) => {
            let status = answer.raw().status().as_u16();
            if status >= 300 {
                let told = Told {
                    status,
                    code: "",
                    message: "",
                    region: None,
                };
                return sort(&told, asked);
            }
            Failure::Lost {
                reason: format!(
                    "{status} with an answer that makes no sense: {}",
                    chain(error)
                ),
                kind: ErrorKind::Corrupt,
                at: Instant::now(),
            }
        }
        SdkError::TimeoutError(_) => Failure::Lost {
            reason: chain(error),
            kind: ErrorKind::Timeout,
            at: Instant::now(),
        },
        // Neither our transport nor the server had a part in it: building, credentials, signing.
        _ => {
            let message = chain(error);
            let kind = if message.contains("credential") || message.contains("identity") {
                ErrorKind::Unauthorized
            } else {
                ErrorKind::Other
            };
            Failure::Answered(asked.error(kind, message))
        }
    }
}

fn transport_failure<'e>(error: &'e (dyn StdError + 'static)) -> Option<&'e TransportFailure> {
    let mut cause = Some(error);
    while let Some(at) = cause {
        if let Some(found) = at.downcast_ref::<TransportFailure>() {
            return Some(found);
        }
        cause = at.source();
    }
    None
}

fn unsent_or_lost(transport: &TransportFailure, asked: Asked<'_>) -> Failure {
    let reason = transport.to_string();
    let kind = match transport {
        TransportFailure::NotSent(_) => {
            return Failure::Answered(asked.error(ErrorKind::Unavailable, reason));
        }
        TransportFailure::TooLarge(_) if !asked.op.is_mutation() => {
            return Failure::Answered(asked.error(ErrorKind::Other, reason));
        }
        TransportFailure::NoAnswer(_) => ErrorKind::Timeout,
        TransportFailure::Broken(_) => ErrorKind::Unavailable,
        TransportFailure::Cut(_) | TransportFailure::TooLarge(_) => ErrorKind::Corrupt,
    };
    Failure::Lost {
        reason,
        kind,
        at: Instant::now(),
    }
}

/// An error with its causes, innermost last, without repetitions.
fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(at) = cause {
        let words = at.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = at.source();
    }
    text
}

struct Told<'a> {
    status: u16,
    code: &'a str,
    message: &'a str,
    region: Option<&'a str>,
}

impl Told<'_> {
    fn words(&self) -> String {
        let mut words = self.status.to_string();
        if !self.code.is_empty() {
            words = format!("{words} {}", self.code);
        }
        if !self.message.is_empty() {
            words = format!("{words}: {}", self.message);
        }
        words
    }

    /// Some providers limit requests and say so with 403, in their own words.
    fn speaks_of_a_rate(&self) -> bool {
        const SIGNS: [&str; 8] = [
            "slowdown",
            "slow down",
            "rate limit",
            "ratelimit",
            "request rate",
            "too many requests",
            "toomanyrequests",
            "throttl",
        ];
        let words = format!("{} {}", self.code, self.message).to_lowercase();
        SIGNS.iter().any(|sign| words.contains(sign))
    }
}

fn sort(told: &Told<'_>, asked: Asked<'_>) -> Failure {
    let mutation = asked.op.is_mutation();
    let kind = match (told.status, told.code) {
        (412, _) | (_, "PreconditionFailed") => return Failure::PreconditionFailed,
        (404, "NoSuchBucket") => ErrorKind::BucketMissing,
        // The answer to a HEAD has no code.
        (404, "" | "NotFound") if asked.op == Op::Bucket => ErrorKind::BucketMissing,
        (404, _) if asked.if_match => return Failure::PreconditionFailed,
        (404, _) => ErrorKind::NotFound,
        (409, _) => return Failure::Conflict(told.words()),
        (_, "RequestTimeTooSkewed" | "RequestExpired") => ErrorKind::ClockSkewed,
        (429, _) => ErrorKind::Throttled,
        (403 | 503 | 200, _) if told.speaks_of_a_rate() => ErrorKind::Throttled,
        (401 | 403, _) | (400, "ExpiredToken" | "InvalidToken" | "InvalidAccessKeyId") => {
            ErrorKind::Unauthorized
        }
        (501 | 405, _) | (_, "NotImplemented" | "MethodNotAllowed") => ErrorKind::Unsupported,
        // The server waited in vain for our bytes.
        (408, _) | (_, "RequestTimeout") => ErrorKind::Unavailable,
        (507, _) => ErrorKind::NoSpace,
        // Our bytes did not arrive as they were signed; or what came back is no answer to this request.
        (400, "BadDigest" | "IncompleteBody" | "XAmzContentSHA256Mismatch") | (200, "") => {
            ErrorKind::Corrupt
        }
        // A gateway's own words, not the server's: what it has passed on may still take effect. Also the numbers that
        // only gateways use, and errors without a code of S3.
        (502 | 504 | 520.., _) | (500.., "") if mutation => {
            return Failure::Lost {
                reason: format!("a gateway lost the answer: {}", told.words()),
                kind: ErrorKind::Timeout,
                at: Instant::now(),
            };
        }
        (200 | 500.., _) => ErrorKind::Unavailable,
        _ => ErrorKind::Other,
    };
    let mut message = told.words();
    if matches!(told.status, 301 | 307) || told.code == "AuthorizationHeaderMalformed" {
        message = match told.region {
            Some(region) => format!("{message}; the bucket's region is '{region}', set it"),
            None => format!("{message}; check endpoint and region"),
        };
    }
    let mut error = asked.error(kind, message);
    // 200 is an answer that began well and then reported an error (CompleteMultipartUpload, CopyObject).
    error.maybe_applied = mutation
        && matches!(told.status, 200 | 500..)
        && !matches!(kind, ErrorKind::Unsupported | ErrorKind::NoSpace);
    Failure::Answered(error)
}

/// The text of a refused key, beginning with the server's code.
pub(super) fn refusal(code: Option<&str>, message: Option<&str>) -> String {
    format!(
        "{}: {}",
        code.unwrap_or("Unknown"),
        message.unwrap_or("no reason given")
    )
}

/// How far the server's clock may be ahead of ours, at most, learnt from one answer: the server read its clock after we
/// had sent the request. The header has whole seconds.
pub(super) fn server_ahead_ms_max(date: Timestamp, asked_at: Timestamp) -> i64 {
    date.as_millisecond() - asked_at.as_millisecond() + 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted(status: u16, code: &str, message: &str, op: Op) -> Failure {
        let told = Told {
            status,
            code,
            message,
            region: None,
        };
        sort(&told, Asked::new(op, "k"))
    }

    fn kind(status: u16, code: &str, message: &str, op: Op) -> (ErrorKind, bool) {
        match sorted(status, code, message, op) {
            Failure::Answered(error) => (error.kind, error.maybe_applied),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn answers_are_sorted() {
        use ErrorKind as K;
        for (status, code, message, op, expected) in [
            (404, "NoSuchKey", "", Op::Get, (K::NotFound, false)),
            (404, "", "", Op::Head, (K::NotFound, false)),
            (404, "NoSuchBucket", "", Op::Put, (K::BucketMissing, false)),
            (404, "", "", Op::Bucket, (K::BucketMissing, false)),
            (
                403,
                "AccessDenied",
                "Access Denied",
                Op::Put,
                (K::Unauthorized, false),
            ),
            (
                403,
                "Forbidden",
                "Rate limit exceeded",
                Op::Put,
                (K::Throttled, false),
            ),
            (
                403,
                "RequestTimeTooSkewed",
                "",
                Op::Put,
                (K::ClockSkewed, false),
            ),
            (429, "", "", Op::Get, (K::Throttled, false)),
            (
                503,
                "SlowDown",
                "Please reduce your request rate.",
                Op::Put,
                (K::Throttled, true),
            ),
            (
                503,
                "ServiceUnavailable",
                "",
                Op::Put,
                (K::Unavailable, true),
            ),
            (500, "InternalError", "", Op::Put, (K::Unavailable, true)),
            (500, "InternalError", "", Op::Get, (K::Unavailable, false)),
            (502, "", "", Op::Get, (K::Unavailable, false)),
            (
                200,
                "InternalError",
                "",
                Op::CompleteMultipart,
                (K::Unavailable, true),
            ),
            (200, "", "", Op::List, (K::Corrupt, false)),
            (200, "", "", Op::CompleteMultipart, (K::Corrupt, true)),
            (400, "RequestTimeout", "", Op::Put, (K::Unavailable, false)),
            (
                501,
                "NotImplemented",
                "",
                Op::Delete,
                (K::Unsupported, false),
            ),
            (400, "NotImplemented", "", Op::Put, (K::Unsupported, false)),
            (400, "InvalidArgument", "", Op::Put, (K::Other, false)),
            (400, "BadDigest", "", Op::Put, (K::Corrupt, false)),
        ] {
            assert_eq!(kind(status, code, message, op), expected, "{status} {code}");
        }
    }

    #[test]
    fn a_gateway_that_lost_the_answer_leaves_a_write_unknown() {
        for (status, code) in [(502, ""), (504, ""), (524, "timeout"), (503, ""), (500, "")] {
            assert!(matches!(
                sorted(status, code, "", Op::Put),
                Failure::Lost { .. }
            ));
        }
        // The server's own word is the last.
        assert_eq!(
            kind(503, "ServiceUnavailable", "", Op::Delete),
            (ErrorKind::Unavailable, true)
        );
    }

    #[test]
    fn conditions_are_no_errors() {
        assert!(matches!(
            sorted(412, "", "", Op::Put),
            Failure::PreconditionFailed
        ));
        assert!(matches!(
            sorted(409, "ConditionalRequestConflict", "", Op::Put),
            Failure::Conflict(_)
        ));
        let told = Told {
            status: 404,
            code: "NoSuchKey",
            message: "",
            region: None,
        };
        let mut asked = Asked::new(Op::Put, "k");
        asked.if_match = true;
        assert!(matches!(sort(&told, asked), Failure::PreconditionFailed));
    }
}
