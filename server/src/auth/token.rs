//! Secrets of API tokens, and how secrets are kept.
//!
//! A token's secret has 128 random bits, so a plain SHA-256 of it cannot be reversed and is cheap enough for every
//! request. Text form: `hashed:<64 hex>` or `recoverable:<secret>`; the second kind is for whatever must sign requests,
//! which needs the clear secret.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use uuid::Uuid;

use crate::entropy::random_bytes;

/// A secret in clear; shown to its owner once, never logged.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct ClearSecret(String);

impl ClearSecret {
    /// A new secret: 128 random bits in the shape of a UUID, which clients pass on unencoded.
    pub(crate) fn generate() -> Self {
        Self(Uuid::from_bytes(random_bytes()).hyphenated().to_string())
    }

    /// The text itself.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<String> for ClearSecret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for ClearSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClearSecret(…)")
    }
}

/// A secret as it is kept.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum StoredSecret {
    /// Only comparison is possible: the SHA-256.
    Hashed([u8; 32]),
    /// The secret itself, for uses that compute with it.
    Recoverable(ClearSecret),
}

impl StoredSecret {
    /// Keeps the SHA-256 only.
    pub(crate) fn hashed(secret: &ClearSecret) -> Self {
        Self::Hashed(Sha256::digest(secret.reveal()).into())
    }

    /// Whether `presented` is the secret; takes as long for any text of the same length.
    pub(crate) fn matches(&self, presented: &str) -> bool {
        let presented: [u8; 32] = Sha256::digest(presented).into();
        let kept = match self {
            Self::Hashed(digest) => *digest,
            Self::Recoverable(secret) => Sha256::digest(secret.reveal()).into(),
        };
        kept.ct_eq(&presented).into()
    }
}

impl fmt::Debug for StoredSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hashed(_) => "Hashed(…)",
            Self::Recoverable(_) => "Recoverable(…)",
        })
    }
}

/// A text that is no stored secret. The text itself is not repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a stored secret is 'hashed:' and 64 hex digits, or 'recoverable:' and the secret")]
pub(crate) struct StoredSecretError;

impl FromStr for StoredSecret {
    type Err = StoredSecretError;

    fn from_str(text: &str) -> Result<Self, StoredSecretError> {
        if let Some(digits) = text.strip_prefix("hashed:") {
            let mut digest = [0; 32];
            hex::decode_to_slice(digits, &mut digest).map_err(|_| StoredSecretError)?;
            return Ok(Self::Hashed(digest));
        }
        match text.strip_prefix("recoverable:") {
            Some(secret) if !secret.is_empty() => {
                Ok(Self::Recoverable(ClearSecret(secret.to_owned())))
            }
            _ => Err(StoredSecretError),
        }
    }
}

impl StoredSecret {
    /// The text kept in the secrets file.
    pub(crate) fn to_text(&self) -> String {
        match self {
            Self::Hashed(digest) => format!("hashed:{}", hex::encode(digest)),
            Self::Recoverable(secret) => format!("recoverable:{}", secret.reveal()),
        }
    }
}

impl<'de> Deserialize<'de> for StoredSecret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_looks_like_a_uuid_and_never_repeats() {
        let secret = ClearSecret::generate();
        let parts: Vec<usize> = secret.reveal().split('-').map(str::len).collect();
        assert_eq!(parts, [8, 4, 4, 4, 12]);
        assert_ne!(secret, ClearSecret::generate());
        assert_eq!(format!("{secret:?}"), "ClearSecret(…)");
    }

    #[test]
    fn both_kinds_match_their_secret_only() {
        let secret = ClearSecret::generate();
        let kinds = [
            StoredSecret::hashed(&secret),
            StoredSecret::Recoverable(secret.clone()),
        ];
        for kept in kinds {
            let again: StoredSecret = kept.to_text().parse().expect("its own text");
            assert!(again.matches(secret.reveal()));
            assert!(!again.matches(&secret.reveal().to_uppercase().replace('-', "")));
            assert!(!again.matches(""));
            assert!(!format!("{again:?}").contains(secret.reveal()));
        }
        assert!("hashed:00".parse::<StoredSecret>().is_err());
        assert!("recoverable:".parse::<StoredSecret>().is_err());
        assert!("plain".parse::<StoredSecret>().is_err());
    }
}
