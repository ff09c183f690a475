//! A request that is answered with an error: a status and one line of text (`pbs-interface.md` 1.2).

use http::StatusCode;

use crate::auth::AuthError;
use crate::config::ConfigError;

/// Longest message, in bytes: what a client sent is part of many, and goes to the log too.
const MESSAGE_BYTES_MAX: usize = 4096;

/// What the client gets instead of data. Clients show the text and decide by the status.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct ApiError {
    status: StatusCode,
    message: String,
}

impl ApiError {
    /// `status` with `message`; line breaks become `; `, other characters that a terminal would obey are written out, and
    /// an empty text becomes the name of the status.
    pub(crate) fn new(status: StatusCode, message: impl AsRef<str>) -> Self {
        let lines: Vec<&str> = message
            .as_ref()
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .collect();
        let message = if lines.is_empty() {
            let name = status.canonical_reason().unwrap_or("error");
            name.to_lowercase()
        } else {
            plain(&lines.join("; "))
        };
        Self { status, message }
    }

    /// 400: what the client sent, or what it asked for, cannot be done. The status of every ordinary failure.
    pub(crate) fn bad_request(message: impl AsRef<str>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// 401: nobody knows who is asking.
    pub(crate) fn unauthorized(message: impl AsRef<str>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, message)
    }

    /// 403: a privilege is missing.
    pub(crate) fn forbidden(message: impl AsRef<str>) -> Self {
        Self::new(StatusCode::FORBIDDEN, message)
    }

    /// 404: no such path or object.
    pub(crate) fn not_found(message: impl AsRef<str>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    /// 405: the path exists, the method on it does not.
    pub(crate) fn method_not_allowed(message: impl AsRef<str>) -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, message)
    }

    /// 408: the body did not come in time.
    pub(crate) fn timeout(message: impl AsRef<str>) -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, message)
    }

    /// 414: path and query are too long.
    pub(crate) fn uri_too_long(message: impl AsRef<str>) -> Self {
        Self::new(StatusCode::URI_TOO_LONG, message)
    }

    /// 429: too often.
    pub(crate) fn too_many_requests(message: impl AsRef<str>) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, message)
    }

    /// 503: not now.
    pub(crate) fn unavailable(message: impl AsRef<str>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, message)
    }

    /// 507: there is no room.
    pub(crate) fn insufficient_storage(message: impl AsRef<str>) -> Self {
        Self::new(StatusCode::INSUFFICIENT_STORAGE, message)
    }

    /// A file that cannot be used: 507 if its disk is full, 500 otherwise. The caller has logged it.
    pub(crate) fn of_file(fault: &std::io::Error, message: impl AsRef<str>) -> Self {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        match fault.kind() {
            StorageFull | QuotaExceeded => Self::insufficient_storage(message),
            _ => Self::internal(message),
        }
    }

    /// 500: our own fault; the caller has logged why.
    pub(crate) fn internal(message: impl AsRef<str>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    /// The status.
    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    /// The text, one line, never empty.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }
}

/// Whether a character does something else than to be seen: it could forge or hide parts of a line.
fn is_obeyed(c: char) -> bool {
    let reorders = ['\u{200e}', '\u{200f}', '\u{2028}', '\u{2029}'].contains(&c)
        || ('\u{202a}'..='\u{202e}').contains(&c)
        || ('\u{2066}'..='\u{2069}').contains(&c);
    c.is_control() || reorders
}

/// A text that can be shown and logged whoever it is from.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        if plain.len() >= MESSAGE_BYTES_MAX {
            plain.push('…');
            break;
        }
        if is_obeyed(c) {
            plain.extend(c.escape_unicode());
        } else {
            plain.push(c);
        }
    }
    plain
}

impl From<AuthError> for ApiError {
    fn from(error: AuthError) -> Self {
        let text = error.to_string();
        match error {
            AuthError::Unauthenticated | AuthError::WrongPassword => Self::unauthorized(text),
            AuthError::TooMany(_) => Self::too_many_requests(text),
            AuthError::Password(_) => Self::unavailable(text),
        }
    }
}

impl From<ConfigError> for ApiError {
    fn from(error: ConfigError) -> Self {
        let text = error.to_string();
        match error {
            ConfigError::Busy(_) => Self::unavailable(text),
            ConfigError::File { source, .. } => Self::of_file(&source, text),
            ConfigError::TooOpen { .. } => Self::internal(text),
            ConfigError::Faults { .. }
            | ConfigError::Both(..)
            | ConfigError::Changed
            | ConfigError::Refused(_)
            | ConfigError::Exists(_) => Self::bad_request(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_seen_and_not_obeyed() {
        let error = ApiError::bad_request("'\u{1b}[2J\0\r\u{202e}' is no\nname");
        assert_eq!(
            error.message(),
            r"'\u{1b}[2J\u{0}\u{d}\u{202e}' is no; name"
        );
        let long = ApiError::bad_request("é".repeat(1 << 20));
        assert!(long.message().len() <= MESSAGE_BYTES_MAX + '…'.len_utf8());
        assert!(long.message().ends_with('…'));
    }
}
