//! The encryption key of a client, and what is derived from it.
//!
//! The daemon never needs a key to keep backups; the client commands do. All derived values follow from the 32 bytes of
//! the key:
//! - *id key*: PBKDF2-HMAC-SHA256 of the key with the salt `_id_key`, 10 rounds, 32 bytes.
//! - *fingerprint*: SHA-256 of a fixed constant and the id key; says which key it was, in a manifest.
//! - *chunk digest*: SHA-256 of the chunk and the id key, so that nobody without the key can tell what a chunk holds by
//!   its name.
//! - *signature*: HMAC-SHA256 with the id key, over the canonical text of a manifest.
//! - chunks: AES-256-GCM with an IV of 16 bytes and no associated data.

use std::fmt;
use std::str::FromStr;

use aes_gcm::aead::consts::U16;
use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::aes::Aes256;
use aes_gcm::{AesGcm, Nonce, Tag};
use hmac::{Hmac, Mac};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::Digest;
use crate::digest::Digester;
use crate::safe_id::{NameError, serde_as_text};

/// What the fingerprint is computed over, before the id key.
const FINGERPRINT_INPUT: [u8; 32] = [
    0x6e, 0xd0, 0xef, 0x77, 0x47, 0x1f, 0xff, 0x4d, 0x55, 0xc7, 0xa8, 0xfe, 0x4a, 0x9d, 0xb6, 0x21,
    0x61, 0x40, 0x7f, 0x13, 0x4c, 0x72, 0x5d, 0xdf, 0x30, 0x99, 0x2d, 0x25, 0xec, 0x45, 0xed, 0x26,
];

/// Bytes of an initialisation vector.
pub const IV_BYTES: usize = 16;
/// Bytes of an authentication tag.
pub const TAG_BYTES: usize = 16;

type Cipher = AesGcm<Aes256, U16>;

/// How the contents of an archive are protected, in the words of the manifest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CryptMode {
    /// Not at all.
    #[default]
    None,
    /// Every chunk and blob is encrypted.
    Encrypt,
    /// Plain contents in a signed manifest.
    SignOnly,
}

/// Ciphertext that was not made with this key, or was changed since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the data was encrypted with another key, or is damaged")]
pub struct WrongKey;

/// A client's encryption key with all that is derived from it. Its `Debug` form shows nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub struct CryptKey {
    key: [u8; 32],
    id_key: [u8; 32],
}

impl CryptKey {
    /// Derives everything from the key.
    pub fn new(key: [u8; 32]) -> Self {
        let id_key = pbkdf2::pbkdf2_hmac_array::<Sha256, 32>(&key, b"_id_key", 10);
        Self { key, id_key }
    }

    /// The secret itself, for the key file.
    pub(crate) fn secret(&self) -> &[u8; 32] {
        &self.key
    }

    /// Which key this is, without telling it.
    pub fn fingerprint(&self) -> Fingerprint {
        let hash = Sha256::new().chain_update(FINGERPRINT_INPUT);
        Fingerprint(hash.chain_update(self.id_key).finalize().into())
    }

    /// The digest under which an encrypted chunk of these plain contents is kept.
    pub fn chunk_digest(&self, plain: &[u8]) -> Digest {
        let mut hash = Digester::new();
        hash.update(plain);
        hash.update(&self.id_key);
        hash.finish()
    }

    /// The signature of the canonical text of a manifest.
    pub fn sign(&self, text: &[u8]) -> [u8; 32] {
        self.mac(text).finalize().into_bytes().into()
    }

    /// Whether `signature` is this key's for `text`; takes the same time wherever they differ.
    pub fn verify(&self, text: &[u8], signature: &[u8]) -> bool {
        self.mac(text).verify_slice(signature).is_ok()
    }

    fn mac(&self, text: &[u8]) -> Hmac<Sha256> {
        let mac = Hmac::<Sha256>::new_from_slice(&self.id_key);
        mac.expect("HMAC takes keys of any length")
            .chain_update(text)
    }

    fn cipher(&self) -> Cipher {
        Cipher::new(&self.key.into())
    }

    /// Encrypts in place and returns the tag. An IV must not be used twice with one key. `data` is at most 64 GiB.
    pub(crate) fn encrypt(&self, iv: &[u8; IV_BYTES], data: &mut [u8]) -> [u8; TAG_BYTES] {
        let nonce = Nonce::<U16>::from(*iv);
        let tag = self
            .cipher()
            .encrypt_inout_detached(&nonce, b"", data.into());
        tag.expect("blobs are far below the cipher's limit of 64 GiB")
            .into()
    }

    /// Decrypts in place; on failure `data` is unchanged.
    pub(crate) fn decrypt(
        &self,
        iv: &[u8; IV_BYTES],
        tag: &[u8; TAG_BYTES],
        data: &mut [u8],
    ) -> Result<(), WrongKey> {
        let (nonce, tag) = (Nonce::<U16>::from(*iv), Tag::from(*tag));
        let done = self
            .cipher()
            .decrypt_inout_detached(&nonce, b"", data.into(), &tag);
        done.map_err(|_| WrongKey)
    }
}

impl fmt::Debug for CryptKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CryptKey(…)")
    }
}

/// The name of a key: 32 bytes, shown as hex pairs joined by colons.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint(pub [u8; 32]);

impl FromStr for Fingerprint {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let read = || {
            let mut bytes = [0; 32];
            let mut pairs = text.split(':');
            for byte in &mut bytes {
                let pair = pairs.next().filter(|pair| pair.len() == 2)?;
                hex::decode_to_slice(pair, std::slice::from_mut(byte)).ok()?;
            }
            pairs.next().is_none().then_some(Self(bytes))
        };
        let rule = "it is 32 pairs of hex digits joined by ':'";
        read().ok_or_else(|| NameError::new("key fingerprint", rule, text))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            let colon = if i == 0 { "" } else { ":" };
            write!(f, "{colon}{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

serde_as_text!(Fingerprint);

#[cfg(test)]
mod tests {
    use super::*;

    /// The key 00 01 … 1f of the test vectors.
    fn key() -> CryptKey {
        CryptKey::new(std::array::from_fn(|i| i as u8))
    }

    #[test]
    fn vector_id_key() {
        let text = "7c2c013efd07f3b25717a485263343cd4d292a4b65c200bb3b18ea227abe225c";
        assert_eq!(hex::encode(key().id_key), text);
    }

    #[test]
    fn vector_fingerprint() {
        let text = "0e:ab:d4:46:0b:6e:b9:ca:34:50:23:de:e2:b7:78:c7:90:e5:4a:16:83:b9:65:9c:0a:57:ae:19:90:90:15:9b";
        assert_eq!(key().fingerprint().to_string(), text);
        assert_eq!(text.parse(), Ok(key().fingerprint()));
    }

    #[test]
    fn vector_encrypted_chunk_digest() {
        let text = "e34178a27b992c4a218599bf7f43ed50bc464a03d624d9092306fe2ed74d557e";
        assert_eq!(key().chunk_digest(b"hello").to_string(), text);
    }

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(format!("{:?}", key()), "CryptKey(…)");
    }

    #[test]
    fn a_changed_byte_is_noticed() {
        let (iv, mut data) = ([7; IV_BYTES], *b"hello");
        let tag = key().encrypt(&iv, &mut data);
        let mut copy = data;
        assert_eq!(key().decrypt(&iv, &tag, &mut copy), Ok(()));
        assert_eq!(&copy, b"hello");
        data[0] ^= 1;
        assert_eq!(key().decrypt(&iv, &tag, &mut data), Err(WrongKey));
        let mut data = copy;
        assert_eq!(
            CryptKey::new([0; 32]).decrypt(&iv, &tag, &mut data),
            Err(WrongKey)
        );
    }

    #[test]
    fn odd_fingerprints_are_refused() {
        let good = key().fingerprint().to_string();
        for text in [
            "",
            "0e",
            &good[..94],
            &good.replace(':', ""),
            &format!("{good}:00"),
            &good.replacen('0', "é", 1),
        ] {
            assert!(text.parse::<Fingerprint>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn modes_in_json() {
        for (mode, text) in [
            (CryptMode::None, "\"none\""),
            (CryptMode::Encrypt, "\"encrypt\""),
            (CryptMode::SignOnly, "\"sign-only\""),
        ] {
            assert_eq!(serde_json::to_string(&mode).expect("serialises"), text);
            assert_eq!(
                serde_json::from_str::<CryptMode>(text).expect("parses"),
                mode
            );
        }
    }
}
