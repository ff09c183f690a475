//! One HTTPS request at a time, to ask a daemon how it is without any code of its own.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme,
    StreamOwned,
};
use sha2::{Digest as _, Sha256};

/// How long one read or write may take.
const TIME_MAX: Duration = Duration::from_secs(20);

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Believes one certificate.
#[derive(Debug)]
struct Pinned {
    sha256: Vec<u8>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if Sha256::digest(certificate).as_slice() == self.sha256 {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// TLS that believes the certificate with this fingerprint and no other.
pub fn pinned(fingerprint: &str) -> Result<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = Pinned {
        sha256: hex::decode(fingerprint.replace(':', ""))?,
        provider: Arc::clone(&provider),
    };
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth())
}

/// GETs `path` from the daemon at `address`, which must show the certificate with this fingerprint. `headers` are whole lines.
pub fn get(address: SocketAddr, fingerprint: &str, path: &str, headers: &[&str]) -> Result<Answer> {
    let mut stream = open(address, fingerprint, path, headers, TIME_MAX)?;
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(error) if error.kind() != std::io::ErrorKind::UnexpectedEof => Err(error)?,
        _ => {}
    }
    parse(&answer)
}

/// The same, and nothing of the answer is read yet; each read may take so long.
pub fn open(
    address: SocketAddr,
    fingerprint: &str,
    path: &str,
    headers: &[&str],
    read_max: Duration,
) -> Result<StreamOwned<ClientConnection, TcpStream>> {
    let config = Arc::new(pinned(fingerprint)?);
    let socket = TcpStream::connect_timeout(&address, TIME_MAX)?;
    socket.set_read_timeout(Some(read_max))?;
    socket.set_write_timeout(Some(TIME_MAX))?;
    let name = ServerName::IpAddress(address.ip().into());
    let connection = ClientConnection::new(config, name)?;
    let mut stream = StreamOwned::new(connection, socket);
    // Version 1.0: the answer ends with the connection and has no chunks.
    let mut head = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n");
    for line in headers {
        head.extend([line, "\r\n"]);
    }
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    Ok(stream)
}

fn parse(answer: &[u8]) -> Result<Answer> {
    let end = answer
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .context("the answer has no end of its head")?;
    let head = std::str::from_utf8(&answer[..end])?;
    let status = head.split(' ').nth(1).context("no status line")?;
    ensure!(head.starts_with("HTTP/1."), "no HTTP answer: {head}");
    Ok(Answer {
        status: status.parse()?,
        body: answer[end + 4..].to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_parsed() {
        let answer =
            parse(b"HTTP/1.0 503 Service Unavailable\r\nx: y\r\n\r\nno disk").expect("one");
        assert_eq!(answer.status, 503);
        assert_eq!(answer.text(), "no disk");
        assert!(parse(b"HTTP/1.0 200 OK\r\n").is_err());
    }
}
