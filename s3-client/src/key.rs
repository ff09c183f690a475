//! Object keys and listing prefixes.
//!
//! A prefix is empty or ends in `/`. Without the closing slash a listing of `vm/10` would also return `vm/100`, and
//! whoever deletes what it lists would delete a stranger's objects.

use std::borrow::Borrow;
use std::fmt;

/// Longest key S3 accepts, in bytes of UTF-8.
pub const KEY_BYTES_MAX: usize = 1024;

/// Why a text is no object key or prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Empty key.
    #[error("an object key must not be empty")]
    Empty,
    /// Longer than [`KEY_BYTES_MAX`].
    #[error("an object key must not be longer than {KEY_BYTES_MAX} bytes, this one has {0}")]
    TooLong(usize),
    /// Control characters break XML listings.
    #[error("an object key must not contain control characters")]
    ControlCharacter,
    /// A prefix that does not end in a slash.
    #[error("the prefix '{0}' must be empty or end in '/'")]
    OpenPrefix(String),
}

fn check(text: &str) -> Result<(), KeyError> {
    if text.len() > KEY_BYTES_MAX {
        return Err(KeyError::TooLong(text.len()));
    }
    if text.chars().any(char::is_control) {
        return Err(KeyError::ControlCharacter);
    }
    Ok(())
}

/// The key of one object: 1 to 1024 bytes of UTF-8 without control characters.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey(String);

impl ObjectKey {
    /// Checks and wraps a key.
    pub fn new(text: impl Into<String>) -> Result<Self, KeyError> {
        let text = text.into();
        if text.is_empty() {
            return Err(KeyError::Empty);
        }
        check(&text)?;
        Ok(Self(text))
    }

    /// The key as S3 sees it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for ObjectKey {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// Sorted maps of keys can be searched by any text, such as a prefix.
impl Borrow<str> for ObjectKey {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// A listing prefix: empty (the whole bucket) or ending in `/`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyPrefix(String);

impl KeyPrefix {
    /// The prefix that every key has.
    pub const fn root() -> Self {
        Self(String::new())
    }

    /// Checks and wraps a prefix.
    pub fn new(text: impl Into<String>) -> Result<Self, KeyError> {
        let text = text.into();
        check(&text)?;
        if !text.is_empty() && !text.ends_with('/') {
            return Err(KeyError::OpenPrefix(text));
        }
        Ok(Self(text))
    }

    /// The prefix as S3 sees it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The key of `name` below this prefix.
    pub fn key(&self, name: &str) -> Result<ObjectKey, KeyError> {
        ObjectKey::new(format!("{}{name}", self.0))
    }

    /// The prefix of the folder `name` below this prefix; `name` has no closing slash.
    pub fn child(&self, name: &str) -> Result<Self, KeyError> {
        Self::new(format!("{}{name}/", self.0))
    }

    /// The part of `key` after this prefix, or `None` if the key lies elsewhere.
    pub fn strip<'a>(&self, key: &'a ObjectKey) -> Option<&'a str> {
        key.0.strip_prefix(&self.0)
    }
}

impl fmt::Debug for KeyPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for KeyPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_without_closing_slash_is_refused() {
        assert_eq!(
            KeyPrefix::new("store/vm/10"),
            Err(KeyError::OpenPrefix("store/vm/10".into()))
        );
        let prefix = KeyPrefix::new("store/vm/10/").expect("ends in a slash");
        let other = ObjectKey::new("store/vm/100/owner").expect("a plain key");
        assert_eq!(prefix.strip(&other), None);
    }

    #[test]
    fn keys_are_bounded() {
        assert_eq!(ObjectKey::new(""), Err(KeyError::Empty));
        assert_eq!(
            ObjectKey::new("a".repeat(1025)),
            Err(KeyError::TooLong(1025))
        );
        assert_eq!(ObjectKey::new("a\nb"), Err(KeyError::ControlCharacter));
        assert!(ObjectKey::new("a".repeat(1024)).is_ok());
    }
}
