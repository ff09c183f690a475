//! The file in which a client keeps its encryption key: JSON, plain or locked with a passphrase.
//!
//! | member | holds |
//! |---|---|
//! | `kdf` | `null`, `{"Scrypt": {n, r, p, salt}}` or `{"PBKDF2": {iter, salt}}`; salts in base64 |
//! | `created`, `modified` | RFC 3339 |
//! | `data` | base64: the 32 bytes of the key; if locked, IV (16), tag (16) and the encrypted key (32) |
//! | `fingerprint` | of the key; optional |
//! | `hint` | reminds of the passphrase; optional |
//!
//! A locked key is encrypted with AES-256-GCM under what the passphrase derives to, in the order that blobs have. The
//! cipher's tag and the fingerprint decide whether the key that comes out is the right one, so a file that was locked in
//! another way is refused, never misread.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Sha256;

use crate::crypt::{CryptKey, Fingerprint, IV_BYTES, TAG_BYTES};

/// Longest key file that is read.
pub const KEY_FILE_BYTES_MAX: usize = 64 << 10;
/// Shortest passphrase that a new file is locked with, in bytes.
pub const PASSPHRASE_BYTES_MIN: usize = 5;

/// Memory that deriving a key may take.
const SCRYPT_BYTES_MAX: u64 = 256 << 20;
/// `n · r · p` of scrypt: 16 times what we use ourselves.
const SCRYPT_WORK_MAX: u64 = 1 << 23;
/// Rounds of PBKDF2: a few seconds.
const PBKDF2_ROUNDS_MAX: u32 = 10_000_000;

/// Why a key file gives no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyFileError {
    /// Not of the form of a key file.
    #[error("this is no key file: {0}")]
    Malformed(String),
    /// A passphrase is needed.
    #[error("the key is locked: give its passphrase")]
    Locked,
    /// The passphrase is wrong, or the key was locked in a way that we do not know.
    #[error(
        "the passphrase does not unlock the key; if it is right, unlock the key with the program that made it"
    )]
    WrongPassphrase,
    /// The fingerprint in the file is that of another key.
    #[error("the key file is damaged: its fingerprint is {expected}, that of its key {actual}")]
    OtherFingerprint {
        /// What the file says.
        expected: Fingerprint,
        /// What the key has.
        actual: Fingerprint,
    },
    /// The file asks for more work than is reasonable.
    #[error("the key file asks for more memory or time than is allowed to unlock it")]
    TooCostly,
    /// Too short to protect anything.
    #[error("the passphrase is too short: use at least {PASSPHRASE_BYTES_MIN} characters")]
    ShortPassphrase,
}

/// Bytes that are base64 in JSON.
#[derive(Clone, PartialEq, Eq)]
struct Base64(Vec<u8>);

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD
            .decode(text)
            .map(Self)
            .map_err(serde::de::Error::custom)
    }
}

/// How a passphrase becomes a key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Derivation {
    Scrypt {
        n: u64,
        r: u64,
        p: u64,
        salt: Base64,
    },
    #[serde(rename = "PBKDF2")]
    Pbkdf2 { iter: u32, salt: Base64 },
}

impl Derivation {
    fn derive(&self, passphrase: &[u8]) -> Result<CryptKey, KeyFileError> {
        let mut key = [0; 32];
        match self {
            Self::Scrypt { n, r, p, salt } => {
                let params = scrypt_params(*n, *r, *p)?;
                let done = scrypt::scrypt(passphrase, &salt.0, &params, &mut key);
                done.expect("32 bytes are a length that scrypt gives");
            }
            Self::Pbkdf2 { iter, .. } if *iter == 0 => {
                return Err(KeyFileError::Malformed(
                    "PBKDF2 takes at least one round".to_owned(),
                ));
            }
            Self::Pbkdf2 { iter, .. } if *iter > PBKDF2_ROUNDS_MAX => {
                return Err(KeyFileError::TooCostly);
            }
            Self::Pbkdf2 { iter, salt } => {
                pbkdf2::pbkdf2_hmac::<Sha256>(passphrase, &salt.0, *iter, &mut key);
            }
        }
        Ok(CryptKey::new(key))
    }
}

fn scrypt_params(n: u64, r: u64, p: u64) -> Result<scrypt::Params, KeyFileError> {
    let product = |factors: [u64; 3]| factors.into_iter().try_fold(1, u64::checked_mul);
    let fits = |product: Option<u64>, bound| product.is_some_and(|product| product <= bound);
    if !fits(product([128, n, r]), SCRYPT_BYTES_MAX) || !fits(product([n, r, p]), SCRYPT_WORK_MAX) {
        return Err(KeyFileError::TooCostly);
    }
    let malformed = || KeyFileError::Malformed("its scrypt parameters are impossible".to_owned());
    if n < 2 || !n.is_power_of_two() {
        return Err(malformed());
    }
    scrypt::Params::new(n.ilog2() as u8, r as u32, p as u32).map_err(|_| malformed())
}

/// What locks a new key file.
pub struct KeyLock<'a> {
    /// At least [`PASSPHRASE_BYTES_MIN`] bytes.
    pub passphrase: &'a str,
    /// Random.
    pub salt: [u8; 32],
    /// Random.
    pub iv: [u8; IV_BYTES],
}

/// A key file as it is written and read. Its `Debug` form shows nothing of the key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyFile {
    kdf: Option<Derivation>,
    created: Timestamp,
    modified: Timestamp,
    data: Base64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fingerprint: Option<Fingerprint>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

impl KeyFile {
    /// A file for `key`, made `now`, locked if there is a `lock`. Unlocked files hold the key in the clear.
    pub fn new(
        key: &CryptKey,
        lock: Option<&KeyLock<'_>>,
        hint: Option<String>,
        now: Timestamp,
    ) -> Result<Self, KeyFileError> {
        let (mut kdf, mut data) = (None, key.secret().to_vec());
        if let Some(lock) = lock {
            if lock.passphrase.len() < PASSPHRASE_BYTES_MIN {
                return Err(KeyFileError::ShortPassphrase);
            }
            let salt = Base64(lock.salt.to_vec());
            let derivation = Derivation::Scrypt {
                n: 65_536,
                r: 8,
                p: 1,
                salt,
            };
            let tag = derivation
                .derive(lock.passphrase.as_bytes())?
                .encrypt(&lock.iv, &mut data);
            data = [&lock.iv[..], &tag, &data].concat();
            kdf = Some(derivation);
        }
        Ok(Self {
            kdf,
            created: now,
            modified: now,
            data: Base64(data),
            fingerprint: Some(key.fingerprint()),
            hint,
        })
    }

    /// Reads a file of at most [`KEY_FILE_BYTES_MAX`] bytes.
    pub fn parse(text: &[u8]) -> Result<Self, KeyFileError> {
        if text.len() > KEY_FILE_BYTES_MAX {
            return Err(KeyFileError::Malformed("it is too long".to_owned()));
        }
        serde_json::from_slice(text).map_err(|error| KeyFileError::Malformed(error.to_string()))
    }

    /// The text of the file.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a key file always has a JSON form")
    }

    /// Whether a passphrase is needed.
    pub fn is_locked(&self) -> bool {
        self.kdf.is_some()
    }

    /// What reminds of the passphrase.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The fingerprint that the file claims; [`unlock`](Self::unlock) checks it.
    pub fn fingerprint(&self) -> Option<Fingerprint> {
        self.fingerprint
    }

    /// The key. Takes the memory and time that the file's derivation asks for, within bounds.
    pub fn unlock(&self, passphrase: Option<&str>) -> Result<CryptKey, KeyFileError> {
        let mut data = &self.data.0[..];
        let mut unlocked: [u8; 32];
        if let Some(derivation) = &self.kdf {
            let passphrase = passphrase.ok_or(KeyFileError::Locked)?;
            let (iv, rest) = data
                .split_first_chunk::<IV_BYTES>()
                .ok_or_else(wrong_length)?;
            let (tag, key) = rest
                .split_first_chunk::<TAG_BYTES>()
                .ok_or_else(wrong_length)?;
            unlocked = key.try_into().map_err(|_| wrong_length())?;
            let done = derivation
                .derive(passphrase.as_bytes())?
                .decrypt(iv, tag, &mut unlocked);
            done.map_err(|_| KeyFileError::WrongPassphrase)?;
            data = &unlocked;
        }
        let key = CryptKey::new(data.try_into().map_err(|_| wrong_length())?);
        match (self.fingerprint, key.fingerprint()) {
            (Some(expected), actual) if expected != actual => {
                Err(KeyFileError::OtherFingerprint { expected, actual })
            }
            _ => Ok(key),
        }
    }
}

fn wrong_length() -> KeyFileError {
    KeyFileError::Malformed("its key has the wrong length".to_owned())
}

impl fmt::Debug for KeyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fingerprint = self.fingerprint.map(|fingerprint| fingerprint.to_string());
        write!(f, "KeyFile({})", fingerprint.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A file of the kind that other clients write without a passphrase.
    const UNLOCKED: &str = concat!(
        r#"{"kdf":null,"created":"2026-11-20T14:26:28+00:00","modified":"2026-11-20T14:26:28+00:00","#,
        r#""data":"gTM8Bg6BojFMzSevV/ZTNVOpyZxELnPbvxct41V4byA=","#,
        r#""fingerprint":"a5:1f:4b:9d:88:7e:9f:61:d4:6b:83:e2:a0:21:9b:7f:78:48:c9:5d:0e:79:6e:d3:46:58:1d:ae:43:f8:90:ca"}"#,
    );

    fn key() -> CryptKey {
        CryptKey::new(std::array::from_fn(|i| i as u8))
    }

    fn lock(passphrase: &str) -> KeyLock<'_> {
        KeyLock {
            passphrase,
            salt: [1; 32],
            iv: [2; 16],
        }
    }

    /// A file locked by `kdf`, given as JSON, with the passphrase `secret`.
    fn locked(kdf: &str) -> Result<KeyFile, KeyFileError> {
        let derivation: Derivation = serde_json::from_str(kdf).expect("a derivation");
        let mut data = key().secret().to_vec();
        let tag = derivation.derive(b"secret")?.encrypt(&[2; 16], &mut data);
        let file = KeyFile::new(&key(), None, None, Timestamp::UNIX_EPOCH)?;
        let data = Base64([&[2; 16][..], &tag, &data].concat());
        Ok(KeyFile {
            kdf: Some(derivation),
            data,
            ..file
        })
    }

    #[test]
    fn an_unlocked_file_of_another_client_is_read() {
        let file = KeyFile::parse(UNLOCKED.as_bytes()).expect("a key file");
        assert!(!file.is_locked());
        let key = file
            .unlock(None)
            .expect("its fingerprint is that of its key");
        assert_eq!(Some(key.fingerprint()), file.fingerprint());
        let again = KeyFile::parse(file.to_json().as_bytes()).expect("a key file");
        assert_eq!(again, file);
    }

    #[test]
    fn a_damaged_key_is_noticed() {
        let file = KeyFile::parse(UNLOCKED.replace("gTM8", "gTM9").as_bytes()).expect("a key file");
        assert!(matches!(
            file.unlock(None),
            Err(KeyFileError::OtherFingerprint { .. })
        ));
        let short = KeyFile::parse(UNLOCKED.replace("gTM8", "").as_bytes()).expect("a key file");
        assert_eq!(short.unlock(None), Err(wrong_length()));
    }

    #[test]
    fn a_locked_key_needs_its_passphrase() {
        let file = KeyFile::new(
            &key(),
            Some(&lock("secret")),
            Some("h".to_owned()),
            Timestamp::UNIX_EPOCH,
        );
        let text = file.expect("long enough").to_json();
        assert!(
            text.contains(r#""kdf":{"Scrypt":{"n":65536,"r":8,"p":1,"salt":"AQEB"#),
            "{text}"
        );
        let file = KeyFile::parse(text.as_bytes()).expect("a key file");
        assert!(file.is_locked());
        assert_eq!(file.hint(), Some("h"));
        assert_eq!(file.unlock(None), Err(KeyFileError::Locked));
        assert_eq!(
            file.unlock(Some("Secret")),
            Err(KeyFileError::WrongPassphrase)
        );
        assert_eq!(file.unlock(Some("secret")), Ok(key()));
        let short = KeyFile::new(&key(), Some(&lock("abcd")), None, Timestamp::UNIX_EPOCH);
        assert_eq!(short, Err(KeyFileError::ShortPassphrase));
    }

    #[test]
    fn every_derivation_unlocks_what_it_locked() {
        for kdf in [
            r#"{"Scrypt": {"n": 16, "r": 1, "p": 2, "salt": "AQID"}}"#,
            r#"{"PBKDF2": {"iter": 7, "salt": ""}}"#,
        ] {
            let file = locked(kdf).expect("affordable");
            let file = KeyFile::parse(file.to_json().as_bytes()).expect("a key file");
            assert_eq!(file.unlock(Some("secret")), Ok(key()), "{kdf}");
            assert_eq!(
                file.unlock(Some("other")),
                Err(KeyFileError::WrongPassphrase),
                "{kdf}"
            );
        }
    }

    #[test]
    fn scrypt_gives_the_values_of_its_specification() {
        let (params, mut key) = (scrypt_params(16, 1, 1).expect("affordable"), [0; 32]);
        scrypt::scrypt(b"", b"", &params, &mut key).expect("a length that scrypt gives");
        let text = "77d6576238657b203b19ca42c18a0497f16b4844e3074ae8dfdffa3fede21442";
        assert_eq!(hex::encode(key), text);
    }

    #[test]
    fn unreasonable_costs_are_refused() {
        let huge = u64::MAX;
        for (n, r, p) in [
            (1 << 22, 8, 1),
            (huge, huge, huge),
            (2, 1, 1 << 40),
            (1 << 18, 8, 5),
        ] {
            assert_eq!(scrypt_params(n, r, p), Err(KeyFileError::TooCostly));
        }
        for (n, r, p) in [(0, 1, 1), (1, 1, 1), (3, 1, 1), (2, 0, 1), (2, 1, 0)] {
            assert!(matches!(
                scrypt_params(n, r, p),
                Err(KeyFileError::Malformed(_))
            ));
        }
        let many = locked(r#"{"PBKDF2": {"iter": 4000000000, "salt": ""}}"#);
        assert_eq!(many, Err(KeyFileError::TooCostly));
        let none = locked(r#"{"PBKDF2": {"iter": 0, "salt": ""}}"#);
        assert!(matches!(none, Err(KeyFileError::Malformed(_))));
    }

    #[test]
    fn debug_shows_nothing() {
        let file = KeyFile::parse(UNLOCKED.as_bytes()).expect("a key file");
        assert!(!format!("{file:?}").contains("gTM8"));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,60}", at in 0..UNLOCKED.len(), byte: u8) {
            let _ = KeyFile::parse(text.as_bytes());
            let mut text = UNLOCKED.as_bytes().to_vec();
            text[at] = byte;
            if let Ok(file) = KeyFile::parse(&text) {
                let _ = file.unlock(None);
            }
        }
    }
}
