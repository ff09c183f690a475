//! Which server certificates are believed.
//!
//! With a pinned fingerprint only the certificate itself counts: neither its name, nor its dates, nor who signed it. The
//! handshake's signature is checked in both cases, so that showing a certificate is not enough, its key is needed.

use std::sync::{Arc, Mutex};

use pbs_datastore::Fingerprint;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature,
    verify_tls13_signature,
};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::{Digest as _, Sha256};

/// Settings for TLS with the pinned certificate, or with the authorities that the system trusts.
///
/// # Errors
/// A sentence when nothing is pinned and the system trusts nobody.
pub(super) fn client_config(
    pin: Option<Fingerprint>,
) -> Result<(ClientConfig, Arc<Verifier>), String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let authorities = match pin {
        Some(_) => None,
        None => Some(authorities(provider.clone())?),
    };
    let algorithms = provider.signature_verification_algorithms;
    let verifier = Arc::new(Verifier {
        pin,
        authorities,
        algorithms,
        seen: Mutex::default(),
    });
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS cannot be set up: {error}"))?
        .dangerous()
        .with_custom_certificate_verifier(verifier.clone())
        .with_no_client_auth();
    // One connection or two to one server: nothing to resume.
    config.resumption = rustls::client::Resumption::disabled();
    Ok((config, verifier))
}

fn authorities(provider: Arc<CryptoProvider>) -> Result<Arc<WebPkiServerVerifier>, String> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        return Err("the system trusts no certificate authority: set PBS_FINGERPRINT to the fingerprint of the server's \
                    certificate"
            .to_owned());
    }
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|error| format!("the system's certificate authorities cannot be used: {error}"))
}

/// Decides about one server's certificate and remembers which one it showed.
#[derive(Debug)]
pub(super) struct Verifier {
    pin: Option<Fingerprint>,
    authorities: Option<Arc<WebPkiServerVerifier>>,
    algorithms: WebPkiSupportedAlgorithms,
    seen: Mutex<Option<Fingerprint>>,
}

impl Verifier {
    /// What to tell when the certificate was refused; `None` when it never came to that.
    pub(super) fn refusal(&self) -> Option<String> {
        let seen = (*self.seen.lock().ok()?)?;
        Some(match self.pin {
            Some(pin) => format!(
                "the server's certificate has the fingerprint {seen}, not {pin} as PBS_FINGERPRINT says"
            ),
            None => format!(
                "the server's certificate is not signed by an authority that this system trusts; if its fingerprint {seen} \
                 is the one that the server's administrator names, set PBS_FINGERPRINT to it"
            ),
        })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let shown = Fingerprint(Sha256::digest(end_entity).into());
        if let Ok(mut seen) = self.seen.lock() {
            *seen = Some(shown);
        }
        match (&self.authorities, self.pin) {
            (Some(authorities), _) => authorities.verify_server_cert(
                end_entity,
                intermediates,
                server_name,
                ocsp_response,
                now,
            ),
            (None, Some(pin)) if pin == shown => Ok(ServerCertVerified::assertion()),
            (None, _) => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
