//! `maintenance-mode` of a datastore: what is refused while somebody works on it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer};

/// Longest message, in bytes.
const MESSAGE_BYTES_MAX: usize = 256;

/// What is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MaintenanceMode {
    /// Whatever changes something.
    ReadOnly,
    /// Everything.
    Offline,
}

/// A datastore's maintenance: `read-only`, `offline`, or with a message `type=read-only,message=new disk` (interface 5.7).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Maintenance {
    /// What is refused.
    pub(crate) mode: MaintenanceMode,
    /// Why, for whoever is refused.
    pub(crate) message: Option<String>,
}

impl MaintenanceMode {
    fn name(self) -> &'static str {
        match self {
            Self::ReadOnly => "read-only",
            Self::Offline => "offline",
        }
    }
}

impl FromStr for Maintenance {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (first, rest) = text.split_once(',').unwrap_or((text, ""));
        let mode = match first.strip_prefix("type=").unwrap_or(first) {
            "read-only" => MaintenanceMode::ReadOnly,
            "offline" => MaintenanceMode::Offline,
            _ => return Err("must be read-only or offline".to_owned()),
        };
        if rest.is_empty() {
            let message = None;
            return Ok(Self { mode, message });
        }
        let message = rest.strip_prefix("message=");
        let message = message.ok_or("must be like type=read-only,message=TEXT")?;
        let quoted = message.strip_prefix('"').and_then(|m| m.strip_suffix('"'));
        let message = quoted.unwrap_or(message);
        if message.len() > MESSAGE_BYTES_MAX || message.chars().any(char::is_control) {
            return Err("the message must be a single line of at most 256 bytes".to_owned());
        }
        Ok(Self {
            mode,
            message: Some(message.to_owned()),
        })
    }
}

impl fmt::Display for Maintenance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.message {
            None => f.write_str(self.mode.name()),
            Some(message) => write!(f, "type={},message={message}", self.mode.name()),
        }
    }
}

impl<'de> Deserialize<'de> for Maintenance {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl Maintenance {
    /// The sentence for whoever is refused.
    pub(crate) fn refusal(&self, store: &str) -> String {
        let state = match self.mode {
            MaintenanceMode::ReadOnly => "is read-only for maintenance",
            MaintenanceMode::Offline => "is not available: it is offline for maintenance",
        };
        match &self.message {
            None => format!("datastore '{store}' {state}"),
            Some(message) => format!("datastore '{store}' {state}: {message}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_read_as_they_are_written() {
        for (text, shown) in [
            ("read-only", "read-only"),
            ("type=offline", "offline"),
            ("offline,message=new disk", "type=offline,message=new disk"),
            (
                "type=read-only,message=\"a, b\"",
                "type=read-only,message=a, b",
            ),
        ] {
            let read: Maintenance = text.parse().expect(text);
            assert_eq!(read.to_string(), shown);
            assert_eq!(read.to_string().parse(), Ok(read));
        }
        for wrong in [
            "",
            "delete",
            "type=",
            "read-only,why=x",
            "offline,message=a\nb",
        ] {
            assert!(wrong.parse::<Maintenance>().is_err(), "{wrong}");
        }
    }
}
