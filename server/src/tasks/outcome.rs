//! How a task ended, in the words that clients know.

use std::fmt;

/// Longest error text that is kept, in bytes.
const TEXT_BYTES_MAX: usize = 512;

/// How a task ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// `OK`
    Ok,
    /// `WARNINGS: n`
    Warnings(u64),
    /// The error's own text, one line.
    Error(String),
    /// The daemon ended before the task did.
    Unknown,
}

/// What clients filter outcomes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OutcomeKind {
    /// `ok`
    Ok,
    /// `warning`
    Warning,
    /// `error`
    Error,
    /// `unknown`
    Unknown,
}

impl std::str::FromStr for OutcomeKind {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "ok" => Ok(Self::Ok),
            "warning" => Ok(Self::Warning),
            "error" => Ok(Self::Error),
            "unknown" => Ok(Self::Unknown),
            _ => Err("must be one of ok, warning, error, unknown"),
        }
    }
}

/// The status of a task whose end nobody saw.
const UNKNOWN: &str = "unknown: the daemon ended before the task did";

impl Outcome {
    /// An error with `text`, made one line, bounded and unlike a success.
    pub(crate) fn error(text: &str) -> Self {
        let lines: Vec<&str> = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .collect();
        let mut text = lines.join("; ");
        text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
        match Self::read(&text) {
            Self::Error(_) if !text.is_empty() => Self::Error(text),
            _ => Self::Error(format!("error: {text}")),
        }
    }

    /// Reads what [`Display`](fmt::Display) wrote.
    pub(super) fn read(text: &str) -> Self {
        let warnings = text.strip_prefix("WARNINGS: ").map(str::parse);
        match (text, warnings) {
            ("OK", _) => Self::Ok,
            (UNKNOWN, _) => Self::Unknown,
            (_, Some(Ok(count))) => Self::Warnings(count),
            _ => Self::Error(text.to_owned()),
        }
    }

    /// What kind of end it is.
    pub(crate) fn kind(&self) -> OutcomeKind {
        match self {
            Self::Ok => OutcomeKind::Ok,
            Self::Warnings(_) => OutcomeKind::Warning,
            Self::Error(_) => OutcomeKind::Error,
            Self::Unknown => OutcomeKind::Unknown,
        }
    }

    /// The last line of the log.
    pub(super) fn log_line(&self) -> String {
        match self {
            Self::Error(text) => format!("TASK ERROR: {text}"),
            other => format!("TASK {other}"),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ok => f.write_str("OK"),
            Self::Warnings(count) => write!(f, "WARNINGS: {count}"),
            Self::Error(text) => f.write_str(text),
            Self::Unknown => f.write_str(UNKNOWN),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let all = [
            Outcome::Ok,
            Outcome::Warnings(3),
            Outcome::error("connection error"),
            Outcome::Unknown,
            Outcome::error("OK"),
            Outcome::error("WARNINGS: 1"),
            Outcome::error(""),
        ];
        for outcome in all {
            assert_eq!(Outcome::read(&outcome.to_string()), outcome);
        }
        assert_eq!(Outcome::error("OK").kind(), OutcomeKind::Error);
        assert_eq!(Outcome::error("a\n\n b").to_string(), "a; b");
        let long = Outcome::error(&"ä".repeat(TEXT_BYTES_MAX)).to_string();
        assert!(long.len() <= TEXT_BYTES_MAX);
    }
}
