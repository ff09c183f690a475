//! The grammar that all names share, and the plain names: datastore, prefix in a bucket and backup id.
//!
//! A *safe id* starts with an ASCII letter, a digit or `_` and goes on with these or `.` and `-`. It is therefore never
//! `.`, `..`, hidden, empty, or more than one path component: whatever is built of safe ids stays below its root.

use std::fmt;
use std::str::FromStr;

/// Longest safe id in bytes: what one path component may have on every file system in use.
pub const SAFE_ID_BYTES_MAX: usize = 255;

/// A text that is no name of the wanted kind. Its message is one sentence that says what the rule is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is no {kind}: {rule}")]
pub struct NameError {
    kind: &'static str,
    rule: &'static str,
    text: String,
}

impl NameError {
    /// An error about `text`, shortened and without control characters, so that it fits a log line.
    pub(crate) fn new(kind: &'static str, rule: &'static str, text: &str) -> Self {
        let text = text.chars().take(80).flat_map(char::escape_debug).collect();
        Self { kind, rule, text }
    }

    /// What the text was to be, in words.
    pub fn kind(&self) -> &'static str {
        self.kind
    }
}

/// Whether `text` is a safe id of at most [`SAFE_ID_BYTES_MAX`] bytes.
pub(crate) fn is_safe_id(text: &str) -> bool {
    let mut bytes = text.bytes();
    text.len() <= SAFE_ID_BYTES_MAX
        && bytes
            .next()
            .is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

/// Serialises a type as its `Display` text and deserialises it through `FromStr`.
macro_rules! serde_as_text {
    ($($name:ty),+) => {$(
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )+};
}
pub(crate) use serde_as_text;

/// The name of a datastore: a safe id of 3 to 32 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DatastoreName(String);

impl DatastoreName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DatastoreName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if is_safe_id(text) && (3..=32).contains(&text.len()) {
            return Ok(Self(text.to_owned()));
        }
        let rule =
            "use 3 to 32 letters, digits, '_', '.' or '-', starting with a letter, a digit or '_'";
        Err(NameError::new("datastore name", rule, text))
    }
}

impl fmt::Display for DatastoreName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Longest prefix of a datastore in its bucket, in bytes: with the longest names below it keys stay within 1024 bytes.
pub const BUCKET_PREFIX_BYTES_MAX: usize = 128;

/// Where a datastore lies in its bucket: safe ids joined by `/`, without slash at the ends, at most
/// [`BUCKET_PREFIX_BYTES_MAX`] bytes. Stock servers use the name of the datastore and nothing else, so only such a prefix
/// can change hands with them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BucketPrefix(String);

impl BucketPrefix {
    /// The prefix as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for BucketPrefix {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.len() <= BUCKET_PREFIX_BYTES_MAX && text.split('/').all(is_safe_id) {
            return Ok(Self(text.to_owned()));
        }
        let rule = "use at most 128 bytes of names joined by '/', each of letters, digits, '_', '.' or '-' and starting \
                    with a letter, a digit or '_'";
        Err(NameError::new("prefix in a bucket", rule, text))
    }
}

impl fmt::Display for BucketPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The id of a backup group within its type: a safe id.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackupId(String);

impl BackupId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for BackupId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if is_safe_id(text) {
            return Ok(Self(text.to_owned()));
        }
        let rule = "use up to 255 letters, digits, '_', '.' or '-', starting with a letter, a digit or '_'";
        Err(NameError::new("backup id", rule, text))
    }
}

impl fmt::Display for BackupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

serde_as_text!(DatastoreName, BackupId);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nothing_that_leaves_its_folder_is_a_safe_id() {
        for text in [
            "", ".", "..", "-a", ".a", "a/b", "a\\b", "a\0", "a b", "é", "/",
        ] {
            assert!(text.parse::<BackupId>().is_err(), "{text:?}");
        }
        for text in ["a", "_", "0", "a..b", "vm-1.x_y", "A-"] {
            assert_eq!(text.parse::<BackupId>().expect(text).as_str(), text);
        }
        assert!("a".repeat(255).parse::<BackupId>().is_ok());
        assert!("a".repeat(256).parse::<BackupId>().is_err());
    }

    #[test]
    fn datastore_names_are_bounded() {
        assert!("ab".parse::<DatastoreName>().is_err());
        assert!("abc".parse::<DatastoreName>().is_ok());
        assert!("a".repeat(33).parse::<DatastoreName>().is_err());
    }

    #[test]
    fn errors_fit_one_line() {
        let error = "a\nb"
            .parse::<BackupId>()
            .expect_err("a line break")
            .to_string();
        assert!(error.starts_with("'a\\nb' is no backup id: "), "{error}");
        assert!(!error.contains('\n'));
    }

    proptest! {
        #[test]
        fn any_accepted_id_is_one_plain_path_component(text in "\\PC{0,12}") {
            if let Ok(id) = text.parse::<BackupId>() {
                let path = std::path::Path::new(id.as_str());
                prop_assert_eq!(path.components().count(), 1);
                prop_assert!(matches!(path.components().next(), Some(std::path::Component::Normal(_))));
            }
        }
    }
}
