//! How to reach a bucket.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use http::Uri;
use http::uri::Authority;
use serde::Deserialize;

use crate::connector::{Fingerprint, TransportConfig};

const BUCKET_TEMPLATE: &str = "{{bucket}}";
const REGION_TEMPLATE: &str = "{{region}}";

/// A text that neither logs nor debug output show.
#[derive(Clone, Deserialize, PartialEq, Eq)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for whoever must sign or store it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Where the keys come from.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(
    rename_all = "kebab-case",
    rename_all_fields = "kebab-case",
    deny_unknown_fields
)]
pub enum Credentials {
    /// Keys of the configuration. Nothing else is looked at: neither environment, nor files, nor the network.
    Static {
        /// Access key id.
        access_key: String,
        /// Secret access key.
        secret_key: Secret,
        /// Token of temporary keys. Default: none.
        #[serde(default)]
        session_token: Option<Secret>,
    },
    /// What the machine offers, in this order: environment variables (`AWS_ACCESS_KEY_ID`, ...), the default profile
    /// of `~/.aws`, web identity, container and instance roles.
    Environment,
    /// A named profile of `~/.aws/credentials` and `~/.aws/config`.
    Profile {
        /// Its name.
        name: String,
    },
}

/// A bucket and how to talk to it. Field names are in kebab case.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct AwsConfig {
    /// URL of the server, `http` or `https`, without path. `{{bucket}}` and `{{region}}` are replaced; a host that
    /// begins with `{{bucket}}.` asks for virtual-hosted addresses whatever `path-style` says.
    pub endpoint: String,
    /// Region that requests are signed for; any text the server accepts. Default: `us-east-1`.
    #[serde(default = "default_region")]
    pub region: String,
    /// Name of the bucket: 1 to 255 letters, digits, `.`, `-` and `_`.
    pub bucket: String,
    /// Whether the bucket is part of the path (`https://host/bucket/key`) instead of the host name
    /// (`https://bucket.host/key`). Default: true, which nearly every server understands.
    #[serde(default = "default_true")]
    pub path_style: bool,
    /// Where the keys come from.
    pub credentials: Credentials,
    /// PEM file with the certificate authorities to trust *instead of* those of the system. Default: none.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// SHA-256 of the server's certificate, 64 hexadecimal digits with or without colons. When set, this certificate
    /// and no other is trusted; name, issuer and age are not looked at. Default: none.
    #[serde(default)]
    pub fingerprint: Option<String>,
    /// HTTP proxy as `http://host:port`, without user and password. Default: none; the environment is not consulted.
    #[serde(default)]
    pub proxy: Option<String>,
    /// Whether `If-Match` carries the tag in quotes, as the standard wants. Some servers compare it without; the probe
    /// finds out. Default: true.
    #[serde(default = "default_true")]
    pub if_match_quoted: bool,
    /// Whether the SHA-256 of every body is computed and signed. Without it nothing but TLS guards what is uploaded. Default: true.
    #[serde(default = "default_true")]
    pub sign_payloads: bool,
    /// Milliseconds to open a connection, TLS included: 100 to 60,000. Default: 10,000.
    #[serde(default = "default_connect_timeout_ms")]
    pub connect_timeout_ms: u64,
    /// Milliseconds to wait for an answer to an empty request: 1000 to 600,000. Default: 30,000.
    #[serde(default = "default_answer_timeout_ms")]
    pub answer_timeout_ms: u64,
    /// Bytes per second that are expected at least: each `bytes-per-second-min` bytes of a request or an answer add one
    /// second to `answer-timeout-ms`. 1024 to 1 GiB. Default: 131,072.
    #[serde(default = "default_bytes_per_second_min")]
    pub bytes_per_second_min: u64,
    /// Largest answer that is read into memory, in bytes: 16 MiB to 5 GiB. Default: 512 MiB.
    #[serde(default = "default_answer_bytes_max")]
    pub answer_bytes_max: u64,
    /// Most connections at a time: 1 to 1024. Default: 128.
    #[serde(default = "default_connections_max")]
    pub connections_max: usize,
    /// Milliseconds after which an unused connection is not used again: 1000 to 600,000. Default: 20,000.
    #[serde(default = "default_connection_idle_ms")]
    pub connection_idle_ms: u64,
}

fn default_region() -> String {
    "us-east-1".into()
}

fn default_true() -> bool {
    true
}

fn default_connect_timeout_ms() -> u64 {
    10_000
}

fn default_answer_timeout_ms() -> u64 {
    30_000
}

fn default_bytes_per_second_min() -> u64 {
    128 << 10
}

fn default_answer_bytes_max() -> u64 {
    1 << 30
}

fn default_connections_max() -> usize {
    128
}

fn default_connection_idle_ms() -> u64 {
    20_000
}

/// Where requests go, after the templates of the endpoint have been filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    /// URL that the object's key is appended to, without a closing slash.
    pub(super) base: String,
    pub(super) https: bool,
}

impl AwsConfig {
    /// A configuration with defaults for everything that has one.
    pub fn new(
        endpoint: impl Into<String>,
        bucket: impl Into<String>,
        credentials: Credentials,
    ) -> Self {
        Self {
            endpoint: endpoint.into(),
            region: default_region(),
            bucket: bucket.into(),
            path_style: true,
            credentials,
            ca_file: None,
            fingerprint: None,
            proxy: None,
            if_match_quoted: true,
            sign_payloads: true,
            connect_timeout_ms: default_connect_timeout_ms(),
            answer_timeout_ms: default_answer_timeout_ms(),
            bytes_per_second_min: default_bytes_per_second_min(),
            answer_bytes_max: default_answer_bytes_max(),
            connections_max: default_connections_max(),
            connection_idle_ms: default_connection_idle_ms(),
        }
    }

    /// Everything that is wrong with it, one sentence each; empty if it can be used.
    pub fn validate(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.bucket.is_empty()
            || self.bucket.len() > 255
            || !self
                .bucket
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b))
        {
            faults.push(format!(
                "bucket must be 1 to 255 letters, digits, '.', '-' and '_', not '{}'",
                self.bucket
            ));
        }
        if let Err(fault) = self.address() {
            faults.push(fault);
        }
        faults.extend(self.faults_of_server());
        faults
    }

    /// What is wrong with all but the bucket.
    pub(super) fn faults_of_server(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.region.is_empty() || !self.region.bytes().all(|b| b.is_ascii_graphic()) {
            faults.push("region must be printable ASCII without spaces and not empty".into());
        }
        if let Err(fault) = self.proxy_uri() {
            faults.push(fault);
        }
        if let Err(fault) = self.pinned() {
            faults.push(fault);
        }
        if self.fingerprint.is_some() && self.ca_file.is_some() {
            faults.push("set either ca-file or fingerprint, not both".into());
        }
        match &self.credentials {
            Credentials::Static {
                access_key,
                secret_key,
                ..
            } => {
                if access_key.is_empty() || !access_key.bytes().all(|b| b.is_ascii_graphic()) {
                    faults.push("access-key must be printable ASCII and not empty".into());
                }
                if secret_key.expose().is_empty() {
                    faults.push("secret-key must not be empty".into());
                }
            }
            Credentials::Profile { name } if name.is_empty() => {
                faults.push("the profile's name must not be empty".into());
            }
            Credentials::Profile { .. } | Credentials::Environment => {}
        }
        for (name, value, least, most) in [
            ("connect-timeout-ms", self.connect_timeout_ms, 100, 60_000),
            ("answer-timeout-ms", self.answer_timeout_ms, 1000, 600_000),
            (
                "bytes-per-second-min",
                self.bytes_per_second_min,
                1024,
                1 << 30,
            ),
            ("answer-bytes-max", self.answer_bytes_max, 16 << 20, 5 << 30),
            ("connections-max", self.connections_max as u64, 1, 1024),
            ("connection-idle-ms", self.connection_idle_ms, 1000, 600_000),
        ] {
            if value < least || value > most {
                faults.push(format!("{name} must be {least} to {most}, not {value}"));
            }
        }
        faults
    }

    /// Fills in the endpoint's templates and adds the bucket.
    pub(super) fn address(&self) -> Result<Address, String> {
        let template = self.endpoint.trim_end_matches('/');
        let (https, authority) = self.located(&template.replace(BUCKET_TEMPLATE, &self.bucket))?;
        let scheme = if https { "https" } else { "http" };
        let base = if template.contains(BUCKET_TEMPLATE) {
            format!("{scheme}://{authority}")
        } else if self.path_style {
            format!("{scheme}://{authority}/{}", self.bucket)
        } else {
            format!("{scheme}://{}.{authority}", self.bucket)
        };
        if base.parse::<Uri>().is_err() {
            return Err(self.wrong("does not make a valid URL together with the bucket"));
        }
        Ok(Address { base, https })
    }

    /// The same without a bucket.
    pub(super) fn server(&self) -> Result<Address, String> {
        let template = self.endpoint.trim_end_matches('/');
        let (https, authority) =
            self.located(&template.replace(&format!("{BUCKET_TEMPLATE}."), ""))?;
        let scheme = if https { "https" } else { "http" };
        Ok(Address {
            base: format!("{scheme}://{authority}"),
            https,
        })
    }

    fn wrong(&self, what: &str) -> String {
        format!("endpoint '{}': {what}", self.endpoint)
    }

    /// Whether TLS is spoken, and with whom, once the region has been filled in.
    fn located(&self, template: &str) -> Result<(bool, Authority), String> {
        let url = template.replace(REGION_TEMPLATE, &self.region);
        let uri: Uri = url
            .parse()
            .map_err(|error| self.wrong(&format!("not a URL ({error})")))?;
        let https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(self.wrong("must begin with https:// or http://")),
        };
        let authority = uri
            .authority()
            .filter(|authority| !authority.host().is_empty())
            .ok_or_else(|| self.wrong("names no host"))?;
        if authority.as_str().contains('@') {
            return Err(self.wrong("must not hold a user or password"));
        }
        if uri.query().is_some() || uri.path() != "/" {
            return Err(self.wrong("must have neither path nor query"));
        }
        Ok((https, authority.clone()))
    }

    fn proxy_uri(&self) -> Result<Option<Uri>, String> {
        let Some(text) = &self.proxy else {
            return Ok(None);
        };
        let wrong = "proxy must be http://host:port without user, password and path";
        let uri: Uri = text.parse().map_err(|_| wrong.to_owned())?;
        let plain = uri.scheme_str() == Some("http")
            && uri.authority().is_some_and(|authority| {
                !authority.as_str().contains('@') && authority.port().is_some()
            })
            && uri.path().trim_end_matches('/').is_empty();
        if plain {
            Ok(Some(uri))
        } else {
            Err(wrong.into())
        }
    }

    fn pinned(&self) -> Result<Option<Fingerprint>, String> {
        self.fingerprint.as_deref().map(str::parse).transpose()
    }

    pub(super) fn transport(&self) -> Result<TransportConfig, String> {
        Ok(TransportConfig {
            connect_timeout: Duration::from_millis(self.connect_timeout_ms),
            answer_timeout: Duration::from_millis(self.answer_timeout_ms),
            bytes_per_second_min: self.bytes_per_second_min,
            answer_bytes_max: self.answer_bytes_max,
            connections_max: self.connections_max,
            connection_idle: Duration::from_millis(self.connection_idle_ms),
            ca_file: self.ca_file.clone(),
            fingerprint: self.pinned()?,
            proxy: self.proxy_uri()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(endpoint: &str) -> AwsConfig {
        let credentials = Credentials::Static {
            access_key: "key".into(),
            secret_key: Secret::new("hush"),
            session_token: None,
        };
        AwsConfig::new(endpoint, "backups", credentials)
    }

    #[test]
    fn secrets_do_not_show() {
        let shown = format!("{:?}", config("https://s3.example"));
        assert!(!shown.contains("hush"), "{shown}");
    }

    #[test]
    fn the_endpoint_becomes_an_address() {
        let base = |config: &AwsConfig| config.address().map(|address| address.base);
        let mut it = config("https://s3.example:9000/");
        assert_eq!(base(&it), Ok("https://s3.example:9000/backups".into()));
        it.path_style = false;
        assert_eq!(base(&it), Ok("https://backups.s3.example:9000".into()));
        let it = config("https://{{bucket}}.s3.{{region}}.example");
        assert_eq!(base(&it), Ok("https://backups.s3.us-east-1.example".into()));
        let server = |config: &AwsConfig| config.server().map(|address| address.base);
        assert_eq!(server(&it), Ok("https://s3.us-east-1.example".into()));
        let it = config("http://s3.example:9000/");
        assert_eq!(server(&it), Ok("http://s3.example:9000".into()));
        assert!(base(&config("s3.example")).is_err());
        assert!(base(&config("https://s3.example/path")).is_err());
        assert!(base(&config("https://user:pass@s3.example")).is_err());
    }

    #[test]
    fn all_faults_are_told_at_once() {
        let mut it = config("ftp://s3.example");
        it.bucket = "a/b".into();
        it.region = String::new();
        it.fingerprint = Some("12".into());
        it.proxy = Some("https://user@proxy".into());
        it.connections_max = 0;
        it.answer_timeout_ms = 1;
        assert_eq!(it.validate().len(), 7, "{:#?}", it.validate());
        assert!(config("http://127.0.0.1:9000").validate().is_empty());
    }

    #[test]
    fn unknown_fields_are_refused_and_the_rest_has_defaults() {
        let text = r#"{"endpoint": "https://s3.example", "bucket": "backups",
            "credentials": {"static": {"access-key": "a", "secret-key": "s"}}}"#;
        let read: AwsConfig = serde_json::from_str(text).expect("valid");
        assert_eq!(read.region, "us-east-1");
        assert!(read.path_style);
        assert_eq!(read.validate(), Vec::<String>::new());
        let wrong = text.replacen('{', r#"{"regoin": "x","#, 1);
        assert!(serde_json::from_str::<AwsConfig>(&wrong).is_err());
        let environment = text.replace(
            r#"{"static": {"access-key": "a", "secret-key": "s"}}"#,
            r#""environment""#,
        );
        let read: AwsConfig = serde_json::from_str(&environment).expect("valid");
        assert_eq!(read.credentials, Credentials::Environment);
    }
}
