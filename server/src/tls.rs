//! The certificate of the daemon and what TLS is spoken with it.
//!
//! Clients pin the fingerprint of the leaf, so the certificate made at the first start lives for decades and is never
//! renewed by itself. Write order: 1. the key, mode 0600; 2. the certificate. A crash after 1 leaves a key without
//! certificate, which nobody has seen yet; the next start makes the certificate for it. A certificate without its key is
//! an error, because making another would break every pin.

use std::fmt;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, PoisonError, RwLock};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use crate::atomic_file;

/// Names of the two files in the state directory.
const CERTIFICATE_NAME: &str = "tls-certificate.pem";
const KEY_NAME: &str = "tls-key.pem";
/// How long a certificate made here is valid, in years.
const VALID_YEARS: i16 = 30;

/// SHA-256 of a certificate's DER, 32 lower-case hex pairs joined by `:` in every text.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Fingerprint([u8; 32]);

/// A text that is no fingerprint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a fingerprint is 32 pairs of hex digits joined by ':'")]
pub(crate) struct FingerprintError;

impl Fingerprint {
    /// The fingerprint of a certificate.
    pub(crate) fn of(certificate: &CertificateDer<'_>) -> Self {
        Self(Sha256::digest(certificate).into())
    }

    /// The bytes.
    pub(crate) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl FromStr for Fingerprint {
    type Err = FingerprintError;

    /// Digits of either case.
    fn from_str(text: &str) -> Result<Self, FingerprintError> {
        let mut bytes = [0; 32];
        let mut pairs = text.split(':');
        for byte in &mut bytes {
            let pair = pairs.next().ok_or(FingerprintError)?;
            hex::decode_to_slice(pair, std::slice::from_mut(byte)).map_err(|_| FingerprintError)?;
        }
        match pairs.next() {
            None => Ok(Self(bytes)),
            Some(_) => Err(FingerprintError),
        }
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
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Fingerprint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Fingerprint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Why TLS cannot be spoken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    /// A file cannot be read or written.
    #[error("cannot {what} '{}': {source}", .path.display())]
    File {
        /// `read` or `write`.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// The certificate is there and the key is not.
    #[error(
        "the certificate '{}' is there but its key '{}' is not; restore the key, or delete the certificate to have a \
         new pair made, whose fingerprint all clients must then be told", .certificate.display(), .key.display()
    )]
    KeyMissing {
        /// The certificate.
        certificate: PathBuf,
        /// The key.
        key: PathBuf,
    },
    /// Others may read the key.
    #[error("the key '{}' has mode {mode:04o}, so others may read it; set it with: chmod 600 '{}'", .path.display(), .path.display())]
    KeyTooOpen {
        /// The key.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// No PEM, or not of the right kind.
    #[error("'{}' does not hold {what} in PEM form", .path.display())]
    Malformed {
        /// What it should hold.
        what: &'static str,
        /// Which file.
        path: PathBuf,
    },
    /// The pair is refused: it does not fit together or uses something unsupported.
    #[error("the certificate '{}' and its key cannot be used: {source}", .path.display())]
    Unusable {
        /// The certificate.
        path: PathBuf,
        /// Cause.
        source: rustls::Error,
    },
    /// A certificate cannot be made.
    #[error("cannot make a certificate for '{hostname}': {source}")]
    Generate {
        /// The host name in it.
        hostname: String,
        /// Cause.
        source: rcgen::Error,
    },
}

/// The pair that is shown to whoever connects now.
#[derive(Debug)]
struct Shown(RwLock<Arc<CertifiedKey>>);

impl Shown {
    fn get(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.get())
    }
}

/// The daemon's certificate chain and key, ready to serve. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct ServerTls {
    config: Arc<ServerConfig>,
    shown: Arc<Shown>,
    #[cfg(test)]
    certificate_path: PathBuf,
}

impl ServerTls {
    /// The pair in `state_dir`, made at the first call for `hostname`, `localhost` and the loopback addresses. Blocks on
    /// the disk.
    pub(crate) fn load_or_create(
        state_dir: &Path,
        hostname: &str,
        now: Timestamp,
    ) -> Result<Self, TlsError> {
        let certificate = state_dir.join(CERTIFICATE_NAME);
        let key = state_dir.join(KEY_NAME);
        match (exists(&certificate)?, exists(&key)?) {
            (true, true) => {}
            (true, false) => return Err(TlsError::KeyMissing { certificate, key }),
            (false, _) => generate(&certificate, &key, hostname, now)?,
        }
        Self::load(&certificate, &key)
    }

    /// The pair in `state_dir`, which is there. Blocks on the disk.
    pub(crate) fn load_made(state_dir: &Path) -> Result<Self, TlsError> {
        Self::load(&state_dir.join(CERTIFICATE_NAME), &state_dir.join(KEY_NAME))
    }

    /// A pair that somebody else provides. Blocks on the disk.
    pub(crate) fn load(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let chain = read_chain(certificate)?;
        if chain.is_empty() {
            return Err(TlsError::Malformed {
                what: "a certificate",
                path: certificate.to_owned(),
            });
        }
        let unusable = |source| TlsError::Unusable {
            path: certificate.to_owned(),
            source,
        };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let pair = CertifiedKey::from_der(chain, read_key(key)?, &provider).map_err(unusable)?;
        let shown = Arc::new(Shown(RwLock::new(Arc::new(pair))));
        let config = server_config(provider, Arc::clone(&shown)).map_err(unusable)?;
        Ok(Self {
            config: Arc::new(config),
            shown,
            #[cfg(test)]
            certificate_path: certificate.to_owned(),
        })
    }

    /// What a TLS acceptor needs.
    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        self.config.clone()
    }

    /// What clients pin.
    pub(crate) fn fingerprint(&self) -> Fingerprint {
        let pair = self.shown.get();
        // Without a leaf it would not have been loaded.
        pair.cert
            .first()
            .map_or(Fingerprint([0; 32]), Fingerprint::of)
    }

    /// Shows the other's certificate from the next connection on.
    pub(crate) fn replace_by(&self, other: &Self) {
        *self.shown.0.write().unwrap_or_else(PoisonError::into_inner) = other.shown.get();
    }

    /// Where the certificate is, for those who copy it.
    #[cfg(test)]
    pub(crate) fn certificate_path(&self) -> &Path {
        &self.certificate_path
    }
}

/// TLS 1.2 and 1.3 without client certificates and without ALPN: clients speak HTTP/1.1 and upgrade within it.
fn server_config(
    provider: Arc<CryptoProvider>,
    shown: Arc<Shown>,
) -> Result<ServerConfig, rustls::Error> {
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(shown);
    Ok(config)
}

fn exists(path: &Path) -> Result<bool, TlsError> {
    path.try_exists()
        .map_err(|source| file("read", path, source))
}

fn file(what: &'static str, path: &Path, source: io::Error) -> TlsError {
    TlsError::File {
        what,
        path: path.to_owned(),
        source,
    }
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = fs::read(path).map_err(|source| file("read", path, source))?;
    CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| TlsError::Malformed {
            what: "certificates",
            path: path.to_owned(),
        })
}

fn check_key_mode(path: &Path) -> Result<(), TlsError> {
    let meta = fs::metadata(path).map_err(|source| file("read", path, source))?;
    let mode = meta.mode() & 0o7777;
    if mode & 0o077 != 0 {
        let path = path.to_owned();
        return Err(TlsError::KeyTooOpen { path, mode });
    }
    Ok(())
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    check_key_mode(path)?;
    let pem = fs::read(path).map_err(|source| file("read", path, source))?;
    PrivateKeyDer::from_pem_slice(&pem).map_err(|_| TlsError::Malformed {
        what: "a private key",
        path: path.to_owned(),
    })
}

fn generate(
    certificate: &Path,
    key_path: &Path,
    hostname: &str,
    now: Timestamp,
) -> Result<(), TlsError> {
    let fault = |source| TlsError::Generate {
        hostname: hostname.to_owned(),
        source,
    };
    let fresh = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(fault)?;
    let made = atomic_file::create(key_path, fresh.serialize_pem().as_bytes(), 0o600)
        .map_err(|source| file("write", key_path, source))?;
    let key = if made {
        fresh
    } else {
        // Left by a start that ended before its certificate was written.
        check_key_mode(key_path)?;
        let pem = fs::read_to_string(key_path).map_err(|source| file("read", key_path, source))?;
        KeyPair::from_pem(&pem).map_err(fault)?
    };
    let pem = self_signed(&key, hostname, now).map_err(fault)?;
    atomic_file::create(certificate, pem.as_bytes(), 0o644)
        .map(|_| ())
        .map_err(|source| file("write", certificate, source))
}

fn self_signed(key: &KeyPair, hostname: &str, now: Timestamp) -> Result<String, rcgen::Error> {
    let mut names = vec![hostname.to_owned(), "localhost".to_owned()];
    names.dedup();
    let mut params = CertificateParams::new(names)?;
    for address in [
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::LOCALHOST),
    ] {
        params.subject_alt_names.push(SanType::IpAddress(address));
    }
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, hostname);
    // From the first of January: a client whose clock is behind accepts it too.
    let year = now.to_zoned(TimeZone::UTC).year();
    params.not_before = rcgen::date_time_ymd(i32::from(year), 1, 1);
    params.not_after = rcgen::date_time_ymd(i32::from(year + VALID_YEARS), 1, 1);
    Ok(params.self_signed(key)?.pem())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn now() -> Timestamp {
        Timestamp::from_second(1_795_184_975).expect("in range")
    }

    #[test]
    fn the_pair_is_made_once_and_kept() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let first = ServerTls::load_or_create(dir.path(), "backup1", now()).expect("made");
        let key = dir.path().join(KEY_NAME);
        let mode = fs::metadata(&key).expect("stat").mode() & 0o7777;
        assert_eq!(mode, 0o600);
        let again = ServerTls::load_or_create(dir.path(), "other-name", now()).expect("loaded");
        assert_eq!(first.fingerprint(), again.fingerprint());
        assert!(first.config().alpn_protocols.is_empty());
        let text = first.fingerprint().to_string();
        assert_eq!(text.len(), 95);
        assert_eq!(text.to_uppercase().parse(), Ok(first.fingerprint()));
        assert!(text[3..].parse::<Fingerprint>().is_err());
        assert!(format!("{text}:00").parse::<Fingerprint>().is_err());
    }

    #[test]
    fn a_crash_between_key_and_certificate_is_repaired() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        ServerTls::load_or_create(dir.path(), "backup1", now()).expect("made");
        let key = fs::read(dir.path().join(KEY_NAME)).expect("read");
        fs::remove_file(dir.path().join(CERTIFICATE_NAME)).expect("removed");
        ServerTls::load_or_create(dir.path(), "backup1", now()).expect("made for the same key");
        assert_eq!(fs::read(dir.path().join(KEY_NAME)).expect("read"), key);
    }

    #[test]
    fn what_is_wrong_is_said_in_one_sentence() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let load = || ServerTls::load_or_create(dir.path(), "backup1", now());
        load().expect("made");
        let key = dir.path().join(KEY_NAME);
        let certificate = dir.path().join(CERTIFICATE_NAME);
        fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).expect("chmod");
        assert!(matches!(
            load(),
            Err(TlsError::KeyTooOpen { mode: 0o640, .. })
        ));
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("chmod");
        let good = fs::read(&certificate).expect("read");
        fs::write(&certificate, "nonsense").expect("written");
        assert!(matches!(load(), Err(TlsError::Malformed { .. })));
        fs::write(&certificate, &good).expect("written");
        let other = KeyPair::generate().expect("a key");
        fs::write(&key, other.serialize_pem()).expect("written");
        let error = load().expect_err("another key");
        assert!(matches!(error, TlsError::Unusable { .. }), "{error}");
        fs::remove_file(&key).expect("removed");
        let error = load().expect_err("no key").to_string();
        assert!(error.contains("restore the key"), "{error}");
    }
}
