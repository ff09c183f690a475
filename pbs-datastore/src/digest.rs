//! Chunk digests and index checksums: SHA-256, 64 lower-case hex digits in every text.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest::{self, Context, SHA256};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A SHA-256: the name of a chunk, or the checksum of an index or blob.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of `data`.
    pub fn of(data: &[u8]) -> Self {
        Self::from_sha256(&digest::digest(&SHA256, data))
    }

    fn from_sha256(hash: &digest::Digest) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(hash.as_ref());
        Self(bytes)
    }

    /// The raw bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first four hex digits: the folder of the chunk.
    pub fn folder(&self) -> String {
        hex::encode(&self.0[..2])
    }
}

/// A digest on the way: of data that comes in pieces.
#[derive(Clone)]
pub(crate) struct Digester(Context);

impl Digester {
    /// Of nothing yet.
    pub(crate) fn new() -> Self {
        Self(Context::new(&SHA256))
    }

    /// Adds the next piece.
    pub(crate) fn update(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    /// The digest of all pieces.
    pub(crate) fn finish(self) -> Digest {
        Digest::from_sha256(&self.0.finish())
    }
}

/// A text that is no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no digest, which is 64 lower-case hex digits")]
pub struct DigestError(String);

impl FromStr for Digest {
    type Err = DigestError;

    /// Upper-case digits are refused: two spellings of one digest would be two keys.
    fn from_str(text: &str) -> Result<Self, DigestError> {
        let mut bytes = [0; 32];
        let lower = !text.bytes().any(|b| b.is_ascii_uppercase());
        if lower && hex::decode_to_slice(text, &mut bytes).is_ok() {
            Ok(Self(bytes))
        } else {
            Err(DigestError(text.chars().take(80).collect()))
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A path or key is made of it for every look at a chunk.
        let mut text = [0; 64];
        hex::encode_to_slice(self.0, &mut text).map_err(|_| fmt::Error)?;
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({}…)", hex::encode(&self.0[..6]))
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upper_case_is_refused() {
        let digest = Digest::of(b"hello");
        assert_eq!(digest.to_string().parse::<Digest>(), Ok(digest));
        assert!(digest.to_string().to_uppercase().parse::<Digest>().is_err());
        assert!("abcd".parse::<Digest>().is_err());
    }

    #[test]
    fn four_mebibytes_of_zero() {
        let text = "bb9f8df61474d25e71fa00722318cd387396ca1736605e1248821cc0de3d3af8";
        assert_eq!(Digest::of(&vec![0; 4 << 20]).to_string(), text);
    }
}
