//! Preconditions of writes, and what a write came to.
//!
//! The result of a conditional operation is an enum that the caller matches exhaustively. *Unknown* is one of its
//! variants and never an error: a request whose answer was lost may have taken effect, or may yet (I8).

use std::fmt;

/// An entity tag without the quotes it travels in. For single-part uploads of most servers it is the MD5 of the body,
/// but nothing may rely on that.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ETag(String);

impl ETag {
    /// Takes a tag as a server sent it, with or without quotes. Blanks within the quotes, which the standard does not
    /// know, go too: a tag that is written down and read again stays the same.
    pub fn new(text: &str) -> Self {
        let around = |c: char| c == '"' || c.is_whitespace();
        Self(text.trim_matches(around).to_owned())
    }

    /// The tag without quotes.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The tag in quotes, as the standard wants it in `If-Match`.
    pub fn quoted(&self) -> String {
        format!("\"{}\"", self.0)
    }

    /// The MD5 this tag is, if it has the shape of one (32 hex digits, no part count).
    pub fn as_md5(&self) -> Option<[u8; 16]> {
        let mut digest = [0; 16];
        hex::decode_to_slice(&self.0, &mut digest).ok()?;
        Some(digest)
    }
}

impl fmt::Debug for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ETag({})", self.0)
    }
}

impl fmt::Display for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The version of an object in a versioned bucket; opaque.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VersionId(pub String);

/// What must hold for a put to take effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Precondition {
    /// Always: creates or replaces.
    None,
    /// `If-None-Match: *`: only if the key has no object.
    Absent,
    /// `If-Match`: only if the key's object has this tag.
    Matches(ETag),
}

/// A random text that a put carries in its metadata, so that its author recognises his own write after a lost answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PutId(pub String);

/// What a put came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PutOutcome {
    /// The object is stored and durable.
    Created {
        /// Tag of the stored object.
        etag: ETag,
        /// Its version, in a versioned bucket.
        version: Option<VersionId>,
    },
    /// 412: the precondition did not hold. For [`Precondition::Absent`] something is there (which says nothing of its
    /// content); for [`Precondition::Matches`] something else, or nothing, is there.
    Exists,
    /// 409: another conditional write of this key is under way. Nothing was written; it says nothing of what will be.
    Conflict,
    /// The answer was lost: the write took effect, or will within the late-request bound, or never will.
    Unknown,
    /// The request came after its [`Validity`](crate::Validity) had ended. It has no effect and will have none.
    Expired,
}

/// What the deletion of one key came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeleteOutcome {
    /// Gone. Servers answer this for absent keys as well.
    Deleted,
    /// There was nothing; only from servers that tell.
    NotFound,
    /// The tag asked for is not the object's.
    PreconditionFailed,
    /// Object lock or legal hold forbids it.
    Locked,
    /// The server refused this key, with its reason; nothing happened and nothing will.
    Refused(String),
    /// The answer was lost: deleted, or will be within the late-request bound, or never will be.
    Unknown,
    /// The request came after its validity had ended; it has no effect.
    Expired,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_lose_their_quotes_and_show_their_md5() {
        let tag = ETag::new("\"d41d8cd98f00b204e9800998ecf8427e\"");
        assert_eq!(tag.as_str(), "d41d8cd98f00b204e9800998ecf8427e");
        assert_eq!(tag.quoted(), "\"d41d8cd98f00b204e9800998ecf8427e\"");
        assert!(tag.as_md5().is_some());
        assert!(
            ETag::new("d41d8cd98f00b204e9800998ecf8427e-2")
                .as_md5()
                .is_none()
        );
    }

    #[test]
    fn a_tag_that_is_read_again_is_the_same() {
        for text in ["\"q \"", " \" \"q\" ", "q\"", "\"", "W/\"q\""] {
            let tag = ETag::new(text);
            assert_eq!(ETag::new(tag.as_str()), tag, "{text:?}");
            assert_eq!(ETag::new(&tag.quoted()), tag, "{text:?}");
        }
    }
}
