//! `[s3.ID]`: an S3 server and how to talk to it. The ID is a safe id of 3 to 32 characters. Its keys are in the section `[s3.ID]` of the
//! secrets file.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::Deserialize;

use super::fault::{Faults, Section};
use super::model::Config;
use super::parse::{absolute, check_comment, check_name};
use super::size::ByteCount;
use crate::price::Price;
use crate::tls::Fingerprint;

/// Longest name of a currency.
const CURRENCY_BYTES_MAX: usize = 8;

/// An S3 server, how to talk to it, and what that costs.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct S3Endpoint {
    /// `http://` or `https://`, host and maybe port. Required.
    pub(crate) endpoint: String,
    /// Region to sign for. Default: `us-east-1`.
    pub(crate) region: String,
    /// Whether the bucket is part of the path rather than of the host name. Default: true.
    pub(crate) path_style: bool,
    /// Whether bodies are hashed and the hash is signed. Without, only TLS guards an upload on its way, so it may be off only with
    /// `https://`, or on the machine itself. Default: true.
    pub(crate) sign_payloads: bool,
    /// `static` (keys in the secrets file), `environment` or `profile`. Default: `static`.
    pub(crate) credentials: CredentialsKind,
    /// Which profile of the AWS configuration files. Required with `credentials = "profile"`.
    pub(crate) profile: Option<String>,
    /// Certificates to trust instead of the system's, PEM, absolute path. Default: none.
    pub(crate) ca_file: Option<PathBuf>,
    /// SHA-256 of the only certificate to accept, 32 hex pairs joined by `:`. Default: none.
    pub(crate) fingerprint: Option<Fingerprint>,
    /// Requests in flight, 1 to 1024. Default: 64.
    pub(crate) requests_in_flight_max: u64,
    /// Requests per second, all methods, 0 for no limit, up to 100000. Default: 0.
    pub(crate) requests_per_second_max: u64,
    /// Bytes sent per second, 0 for no limit, otherwise 64 KiB to 90 GiB. Default: 0.
    pub(crate) upload_bytes_per_second_max: ByteCount,
    /// Bytes received per second, 0 for no limit, otherwise 64 KiB to 90 GiB. Default: 0.
    pub(crate) download_bytes_per_second_max: ByteCount,
    /// Time to connect, 1 to 300 s. Default: 10.
    pub(crate) connect_timeout_seconds: u64,
    /// Time without progress after which a request is given up, 1 to 900 s. Default: 60.
    pub(crate) request_timeout_seconds: u64,
    /// Attempts of one request, 1 to 20. Default: 8.
    pub(crate) attempts_max: u64,
    /// `price-currency`: what prices are in, such as `EUR`, 1 to 8 letters. Without it there are none. Default: none.
    pub(crate) price_currency: Option<String>,
    /// Price of a million requests that store, copy or list. Default: 0.
    pub(crate) price_writes: Price,
    /// Price of a million requests that read. Default: 0.
    pub(crate) price_reads: Price,
    /// Price of a GiB that leaves the bucket. Default: 0.
    pub(crate) price_gib_out: Price,
    /// Price of a GiB that is kept for a month. Default: 0.
    pub(crate) price_gib_month: Price,
    /// One line of at most 256 bytes. Default: none.
    pub(crate) comment: Option<String>,
}

impl Default for S3Endpoint {
    fn default() -> Self {
        Self {
            endpoint: String::new(),
            region: "us-east-1".into(),
            path_style: true,
            sign_payloads: true,
            credentials: CredentialsKind::Static,
            profile: None,
            ca_file: None,
            fingerprint: None,
            requests_in_flight_max: 64,
            requests_per_second_max: 0,
            upload_bytes_per_second_max: ByteCount(0),
            download_bytes_per_second_max: ByteCount(0),
            connect_timeout_seconds: 10,
            request_timeout_seconds: 60,
            attempts_max: 8,
            price_currency: None,
            price_writes: Price::default(),
            price_reads: Price::default(),
            price_gib_out: Price::default(),
            price_gib_month: Price::default(),
            comment: None,
        }
    }
}

/// Where the keys for an S3 server come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum CredentialsKind {
    /// `[s3.ID]` of the secrets file.
    Static,
    /// Environment variables.
    Environment,
    /// A profile of the AWS configuration files.
    Profile,
}

/// Reads `[s3.ID]` and notes what is wrong with it.
pub(super) fn read_s3(
    faults: &mut Faults<'_>,
    config: &mut Config,
    name: String,
    section: &mut Section,
) {
    check_name(faults, section, &name);
    let Some(s3) = section.read::<S3Endpoint>(faults) else {
        return;
    };
    let given = (!s3.endpoint.is_empty()).then_some(&s3.endpoint);
    if let Some(endpoint) = section.required(faults, "endpoint", given) {
        let valid = endpoint.parse::<http::Uri>().is_ok_and(|uri| {
            matches!(uri.scheme_str(), Some("http" | "https"))
                && uri.host().is_some_and(|host| !host.is_empty())
                && matches!(
                    uri.path_and_query().map(http::uri::PathAndQuery::as_str),
                    None | Some("/")
                )
        });
        if !valid {
            let message = "must be http:// or https://, a host and maybe a port, without a path";
            section.fault(faults, "endpoint", message);
        }
    }
    if !s3.sign_payloads && !is_guarded(&s3.endpoint) {
        let message = "may be off only with https://: over http:// nothing else would notice that an upload was damaged on its way";
        section.fault(faults, "sign-payloads", message);
    }
    if s3.credentials == CredentialsKind::Profile {
        section.required(faults, "profile", s3.profile.as_ref());
    } else if s3.profile.is_some() {
        section.fault(
            faults,
            "profile",
            "belongs to credentials = \"profile\" and does nothing here",
        );
    }
    if s3.ca_file.is_some() && s3.fingerprint.is_some() {
        section.fault(
            faults,
            "ca-file",
            "has no effect besides a fingerprint; set one of them",
        );
    }
    absolute(faults, section, "ca-file", s3.ca_file.as_deref());
    check_comment(faults, section, s3.comment.as_deref());
    check_prices(faults, section, &s3);
    for (key, value, bounds) in [
        (
            "requests-in-flight-max",
            s3.requests_in_flight_max,
            1..=1024,
        ),
        (
            "requests-per-second-max",
            s3.requests_per_second_max,
            0..=100_000,
        ),
        (
            "connect-timeout-seconds",
            s3.connect_timeout_seconds,
            1..=300,
        ),
        (
            "request-timeout-seconds",
            s3.request_timeout_seconds,
            1..=900,
        ),
        ("attempts-max", s3.attempts_max, 1..=20),
    ] {
        section.bounded(faults, key, &value, &bounds);
    }
    for (key, pace) in [
        (
            "upload-bytes-per-second-max",
            s3.upload_bytes_per_second_max,
        ),
        (
            "download-bytes-per-second-max",
            s3.download_bytes_per_second_max,
        ),
    ] {
        if pace.get() > 0 {
            section.bounded(
                faults,
                key,
                &pace,
                &(ByteCount(64 << 10)..=ByteCount::gib(90)),
            );
        }
    }
    config.s3.insert(name, s3);
}

/// Whether uploads arrive as they were sent without a hash of ours: by TLS, or because they do not leave the machine.
fn is_guarded(endpoint: &str) -> bool {
    let Ok(uri) = endpoint.parse::<http::Uri>() else {
        return false;
    };
    let host = uri.host().unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    uri.scheme_str() == Some("https")
        || host == "localhost"
        || address.is_ok_and(|address| address.is_loopback())
}

/// Prices are in something.
fn check_prices(faults: &mut Faults<'_>, section: &mut Section, s3: &S3Endpoint) {
    let prices = [
        s3.price_writes,
        s3.price_reads,
        s3.price_gib_out,
        s3.price_gib_month,
    ];
    match &s3.price_currency {
        None if prices.iter().any(|price| *price != Price::default()) => {
            let message = "is missing; say what the prices are in, such as \"EUR\"";
            section.fault(faults, "price-currency", message);
        }
        Some(currency)
            if currency.is_empty()
                || currency.len() > CURRENCY_BYTES_MAX
                || !currency.bytes().all(|byte| byte.is_ascii_alphabetic()) =>
        {
            section.fault(
                faults,
                "price-currency",
                "must be 1 to 8 letters, such as \"EUR\"",
            );
        }
        _ => {}
    }
}
