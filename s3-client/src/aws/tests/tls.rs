//! Whom the client trusts.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::thread;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use sha2::Sha256;

use super::*;

/// A server with a certificate of its own authority `name`; the authority in PEM, and the certificate's fingerprint.
fn server(name: &str) -> (Server, String, String) {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    let authority = CertifiedIssuer::self_signed(params, key).expect("an authority");
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec!["127.0.0.1".into()]).expect("a valid name");
    let certificate = params.signed_by(&key, &authority).expect("a certificate");
    let fingerprint = hex::encode(Sha256::digest(certificate.der()));
    let key = rustls_pki_types::PrivatePkcs8KeyDer::from(key.serialize_der());
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("known versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key.into())
        .expect("a matching key");
    let script = |_: &server::Seen, _| reply("200 OK", "ETag: \"abc\"\r\n", "");
    (
        Server::start_tls(Arc::new(config), script),
        authority.pem(),
        fingerprint,
    )
}

#[tokio::test]
async fn a_pinned_certificate_is_trusted_and_no_other() {
    let (server, _, fingerprint) = server("ours");
    let pinned = fingerprint.clone();
    let store = store(&server.endpoint, |config| config.fingerprint = Some(pinned)).await;
    for _ in 0..2 {
        store.put(put("a")).await.expect("stored");
    }
    assert_eq!(store.traffic().connections(), 1);

    let other = if fingerprint.starts_with('0') {
        "1"
    } else {
        "0"
    };
    let wrong = format!("{other}{}", &fingerprint[1..]);
    let store = self::store(&server.endpoint, |config| config.fingerprint = Some(wrong)).await;
    let error = store.put(put("a")).await.expect_err("another certificate");
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert!(!error.maybe_applied && error.lost_at.is_none());
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn an_authority_of_a_file_is_trusted_and_unknown_ones_are_not() {
    let (server, authority, _) = server("ours");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("ca.pem");
    std::fs::write(&path, authority).expect("written");
    let trusted = path.clone();
    let store = store(&server.endpoint, |config| config.ca_file = Some(trusted)).await;
    store.put(put("a")).await.expect("stored");

    let (stranger, _, _) = self::server("theirs");
    let other = self::store(&stranger.endpoint, |config| config.ca_file = Some(path)).await;
    let error = other.put(put("a")).await.expect_err("unknown");
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert!(error.message.contains("set its fingerprint"), "{error}");
    assert_eq!(stranger.seen().len(), 0);
    assert_eq!(server.seen().len(), 1);
}

/// A proxy that opens every tunnel; its address.
fn open_proxy() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        let (mut client, _) = listener.accept().expect("a client");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            client.read_exact(&mut byte).expect("a head");
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).expect("text");
        let target = head.split(' ').nth(1).expect("a target");
        let mut server = TcpStream::connect(target).expect("the server");
        client
            .write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
            .expect("an answer");
        let (mut from, mut to) = (
            client.try_clone().expect("a handle"),
            server.try_clone().expect("a handle"),
        );
        thread::spawn(move || io::copy(&mut from, &mut to));
        let _ = io::copy(&mut server, &mut client);
    });
    format!("http://{address}")
}

#[tokio::test]
async fn tls_goes_through_the_tunnel_of_a_proxy() {
    let (server, _, fingerprint) = server("ours");
    let store = store(&server.endpoint, |config| {
        config.fingerprint = Some(fingerprint);
        config.proxy = Some(open_proxy());
    })
    .await;
    store.put(put("a")).await.expect("stored");
    assert!(server.seen()[0].line.starts_with("PUT /bucket/a"));
}

#[tokio::test]
async fn a_file_without_certificates_is_refused_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("empty.pem");
    std::fs::write(&path, "nothing").expect("written");
    let credentials = Credentials::Environment;
    let mut config = AwsConfig::new("https://127.0.0.1:1", "bucket", credentials);
    config.ca_file = Some(path);
    let error = AwsStore::connect(config, Arc::new(now)).await;
    let message = error.expect_err("no certificate").message;
    assert!(message.contains("holds no certificate"), "{message}");
}
