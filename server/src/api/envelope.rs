//! How answers look (`pbs-interface.md` 1.2), and the delay of refusals.
//!
//! Success is `{"data": …}` with maybe more members beside it; clients insist on `data`, so it is always there. An error
//! is its bare text.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, SET_COOKIE};
use http::{Response, StatusCode};
use serde::Serialize;
use serde_json::Value;

use super::error::ApiError;

/// The content type of every answer but downloads; errors too.
const JSON: HeaderValue = HeaderValue::from_static("application/json;charset=UTF-8");
/// Makes a browser forget a ticket that is no good.
const FORGET_TICKET: HeaderValue = HeaderValue::from_static(
    "__Host-PBSAuthCookie=; Expires=Thu, 01 Jan 1970 00:00:00 GMT; Secure; SameSite=Lax; HttpOnly; Path=/;",
);

/// A successful answer: `data`, and members beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    /// The body up to, but without, the closing brace.
    open: Vec<u8>,
}

impl Reply {
    /// `data` as the answer's data.
    pub(crate) fn new<T: Serialize + ?Sized>(data: &T) -> Result<Self, ApiError> {
        let mut open = br#"{"data":"#.to_vec();
        append(&mut open, data)?;
        Ok(Self { open })
    }

    /// `{"data": null}`, for calls without a result.
    pub(crate) fn null() -> Self {
        Self {
            open: br#"{"data":null"#.to_vec(),
        }
    }

    /// Adds a member beside `data`, such as `total` or `digest`.
    pub(crate) fn with<T: Serialize + ?Sized>(
        mut self,
        name: &str,
        value: &T,
    ) -> Result<Self, ApiError> {
        self.open.push(b',');
        append(&mut self.open, name)?;
        self.open.push(b':');
        append(&mut self.open, value)?;
        Ok(self)
    }

    /// The whole of it, read back.
    pub(crate) fn to_json(&self) -> Result<Value, serde_json::Error> {
        serde_json::from_slice(&[&self.open[..], b"}"].concat())
    }

    /// The answer.
    pub(crate) fn into_response(mut self) -> Response<Bytes> {
        self.open.push(b'}');
        answer(StatusCode::OK, Bytes::from(self.open))
    }
}

fn append<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) -> Result<(), ApiError> {
    serde_json::to_writer(out, value).map_err(|error| {
        tracing::error!(%error, "an answer cannot be written as JSON");
        ApiError::internal("the answer cannot be written as JSON")
    })
}

fn answer(status: StatusCode, body: Bytes) -> Response<Bytes> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

impl ApiError {
    /// The answer, at once. Over HTTP/1.1 use [`Delays::refuse`].
    pub(crate) fn into_response(self) -> Response<Bytes> {
        let status = self.status();
        let mut response = answer(status, Bytes::from(self.message().to_owned()));
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(SET_COOKIE, FORGET_TICKET);
        }
        response
    }
}

/// How long refusals are held back, so that guessing is slow. The one place that does it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Delays {
    /// Before a 401.
    pub(crate) unauthorized: Duration,
    /// Before a 403.
    pub(crate) forbidden: Duration,
}

impl Default for Delays {
    /// Those of the original server.
    fn default() -> Self {
        Self {
            unauthorized: Duration::from_secs(3),
            forbidden: Duration::from_millis(500),
        }
    }
}

impl Delays {
    /// No delay.
    #[cfg(any(test, feature = "fuzz"))]
    pub(crate) const NONE: Self = Self {
        unauthorized: Duration::ZERO,
        forbidden: Duration::ZERO,
    };

    /// The answer to a request that ended with `error`, after the delay its status asks for. Holds no thread.
    pub(crate) async fn refuse(self, error: ApiError) -> Response<Bytes> {
        let delay = match error.status() {
            StatusCode::UNAUTHORIZED => self.unauthorized,
            StatusCode::FORBIDDEN => self.forbidden,
            _ => Duration::ZERO,
        };
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        error.into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(response: &Response<Bytes>) -> &str {
        std::str::from_utf8(response.body()).expect("UTF-8")
    }

    #[test]
    fn data_is_always_there() {
        let plain = Reply::null().into_response();
        assert_eq!(text(&plain), r#"{"data":null}"#);
        assert_eq!(
            plain.headers()[CONTENT_TYPE],
            "application/json;charset=UTF-8"
        );
        let full = Reply::new(&[1, 2])
            .and_then(|reply| reply.with("total", &7))
            .and_then(|reply| reply.with("active", &true))
            .expect("plain values")
            .into_response();
        assert_eq!(text(&full), r#"{"data":[1,2],"total":7,"active":true}"#);
    }

    #[test]
    fn an_error_is_one_line_of_text() {
        let response = ApiError::bad_request("first\n  second\n\n").into_response();
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
        assert_eq!(text(&response), "first; second");
        assert!(response.headers().get(SET_COOKIE).is_none());
        let response = ApiError::unauthorized("").into_response();
        assert_eq!(text(&response), "unauthorized");
        assert!(response.headers().contains_key(SET_COOKIE));
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_are_delayed_by_their_status() {
        let delays = Delays::default();
        let cases = [
            (ApiError::unauthorized("no"), 3000),
            (ApiError::forbidden("no"), 500),
            (ApiError::bad_request("no"), 0),
        ];
        for (error, expected) in cases {
            let start = tokio::time::Instant::now();
            delays.refuse(error).await;
            assert_eq!(start.elapsed().as_millis(), expected);
        }
    }
}
