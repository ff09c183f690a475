//! Where to back up to and as whom: `[[auth-id@]host[:port]:]datastore`, with its password and certificate fingerprint.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use pbs_datastore::{AuthId, DatastoreName, Fingerprint};

use super::session::ANSWER_BYTES_MAX;
use crate::pace::Pace;

/// The port that servers of this protocol listen on.
const PORT: u16 = 8007;
/// Who backs up when nobody is named.
const AUTH_ID: &str = "root@pam";
const HOST: &str = "localhost";

/// A datastore on a server, and who asks. The text `[[auth-id@]host[:port]:]datastore`; the defaults are `root@pam`,
/// `localhost` and 8007. IPv6 addresses stand in brackets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Repository {
    /// A user or one of its tokens.
    pub(crate) auth_id: AuthId,
    /// Name or address, without brackets.
    pub(crate) host: String,
    /// TCP port.
    pub(crate) port: u16,
    /// The datastore.
    pub(crate) datastore: DatastoreName,
}

/// A repository with what it takes to enter it.
#[derive(Clone)]
pub(crate) struct Access {
    /// Where, and as whom.
    pub(crate) repository: Repository,
    /// The password of the user, or the secret of the token.
    pub(crate) secret: String,
    /// SHA-256 of the server's certificate; `None` demands one that a known authority signed.
    pub(crate) fingerprint: Option<Fingerprint>,
    /// How fast.
    pub(crate) pace: Pace,
    /// Most bytes of an answer to a call.
    pub(crate) answer_bytes_max: usize,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Access({})", self.repository)
    }
}

/// What is missing or wrong, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct RepositoryError(String);

impl FromStr for Repository {
    type Err = RepositoryError;

    fn from_str(text: &str) -> Result<Self, RepositoryError> {
        let fault = |what: &dyn fmt::Display| {
            RepositoryError(format!(
                "'{text}' is no repository ([[user@realm[!token]@]host[:port]:]datastore): {what}"
            ))
        };
        let (auth_id, place) = match text.rsplit_once('@') {
            Some((auth_id, place)) => (auth_id, place),
            None => (AUTH_ID, text),
        };
        let (host, port, datastore) = match place.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) = rest
                    .split_once(']')
                    .ok_or_else(|| fault(&"the bracket is not closed"))?;
                let rest = rest
                    .strip_prefix(':')
                    .ok_or_else(|| fault(&"the datastore is missing"))?;
                match rest.split_once(':') {
                    Some((port, datastore)) => (host, Some(port), datastore),
                    None => (host, None, rest),
                }
            }
            None => match place.split(':').collect::<Vec<_>>()[..] {
                [_] if text.contains('@') => return Err(fault(&"host or datastore is missing")),
                [datastore] => (HOST, None, datastore),
                [host, datastore] => (host, None, datastore),
                [host, port, datastore] => (host, Some(port), datastore),
                _ => return Err(fault(&"an IPv6 address needs brackets, like [::1]:store")),
            },
        };
        let host_char =
            |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%');
        if host.is_empty() || !host.chars().all(host_char) {
            return Err(fault(&"the host is no name or address"));
        }
        let port = match port.map(str::parse) {
            None => PORT,
            Some(Ok(port)) if port != 0 => port,
            Some(_) => return Err(fault(&"the port is a number from 1 to 65535")),
        };
        Ok(Self {
            auth_id: auth_id.parse().map_err(|error| fault(&error))?,
            host: host.to_owned(),
            port,
            datastore: datastore.parse().map_err(|error| fault(&error))?,
        })
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}@{}:{}:{}",
            self.auth_id,
            self.shown_host(),
            self.port,
            self.datastore
        )
    }
}

impl Repository {
    /// The host as certificates name it: an IPv6 address without the zone, which means something on this machine only.
    pub(crate) fn certified_host(&self) -> &str {
        match self.host.split_once('%') {
            Some((address, _)) if address.contains(':') => address,
            _ => &self.host,
        }
    }

    /// The host as it stands in addresses: IPv6 in brackets.
    pub(crate) fn shown_host(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        }
    }
}

impl Access {
    /// Takes the repository from the argument or `PBS_REPOSITORY`, the secret from `PBS_PASSWORD` or the first line of
    /// the file `PBS_PASSWORD_FILE`, the fingerprint from `PBS_FINGERPRINT`.
    pub(crate) fn from_environment(repository: Option<&str>) -> Result<Self, RepositoryError> {
        Self::from_variables(repository, &|name| {
            std::env::var(name).ok().filter(|value| !value.is_empty())
        })
    }

    fn from_variables(
        repository: Option<&str>,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, RepositoryError> {
        let repository = repository.map(ToOwned::to_owned).or_else(|| variable("PBS_REPOSITORY")).ok_or_else(|| {
            RepositoryError("no repository is given: use --repository or set PBS_REPOSITORY to user@realm@host:datastore".into())
        })?;
        let secret = match (variable("PBS_PASSWORD"), variable("PBS_PASSWORD_FILE")) {
            (Some(secret), _) => secret,
            (None, Some(path)) => first_line(Path::new(&path))?,
            (None, None) => {
                let what = "no password is given: set PBS_PASSWORD (for a token: its secret) or PBS_PASSWORD_FILE";
                return Err(RepositoryError(what.into()));
            }
        };
        let fingerprint = variable("PBS_FINGERPRINT").map(|text| {
            text.trim().parse().map_err(|_| {
                RepositoryError(format!(
                    "PBS_FINGERPRINT is '{text}', not 32 pairs of hex digits joined by ':'"
                ))
            })
        });
        Ok(Self {
            repository: repository.parse()?,
            secret,
            fingerprint: fingerprint.transpose()?,
            pace: Pace::default(),
            answer_bytes_max: ANSWER_BYTES_MAX,
        })
    }
}

fn first_line(path: &Path) -> Result<String, RepositoryError> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        RepositoryError(format!(
            "the password file {} cannot be read: {error}",
            path.display()
        ))
    })?;
    match text.lines().next() {
        Some(line) if !line.is_empty() => Ok(line.to_owned()),
        _ => Err(RepositoryError(format!(
            "the password file {} is empty",
            path.display()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> (String, String, u16, String) {
        let repository: Repository = text.parse().unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(
            repository.to_string().parse(),
            Ok(repository.clone()),
            "{text} does not survive its own text"
        );
        let Repository {
            auth_id,
            host,
            port,
            datastore,
        } = repository;
        (auth_id.to_string(), host, port, datastore.to_string())
    }

    #[test]
    fn every_part_but_the_datastore_may_be_left_out() {
        for (text, auth_id, host, port) in [
            ("store", "root@pam", "localhost", 8007),
            ("backup.lan:store", "root@pam", "backup.lan", 8007),
            ("10.0.0.1:8008:store", "root@pam", "10.0.0.1", 8008),
            ("me@pbs@backup:store", "me@pbs", "backup", 8007),
            (
                "me@pbs!token-1@backup:9000:store",
                "me@pbs!token-1",
                "backup",
                9000,
            ),
            (
                "me@example.org@ldap@backup:store",
                "me@example.org@ldap",
                "backup",
                8007,
            ),
            ("[::1]:store", "root@pam", "::1", 8007),
            (
                "me@pbs@[fe80::1%eth0]:8008:store",
                "me@pbs",
                "fe80::1%eth0",
                8008,
            ),
        ] {
            assert_eq!(
                parts(text),
                (auth_id.into(), host.into(), port, "store".into()),
                "{text}"
            );
        }
    }

    #[test]
    fn certificates_name_no_zone() {
        for (text, host) in [
            ("[fe80::1%eth0]:store", "fe80::1"),
            ("[::1]:store", "::1"),
            ("backup.lan:store", "backup.lan"),
        ] {
            let repository: Repository = text.parse().expect("a repository");
            assert_eq!(repository.certified_host(), host);
            rustls_pki_types::ServerName::try_from(host).expect("a name for TLS");
        }
    }

    #[test]
    fn faults_are_named() {
        for (text, part) in [
            ("", "datastore"),
            ("me@pbs", "missing"),
            ("::1:store", "brackets"),
            ("[::1:store", "bracket"),
            ("[::1]store", "missing"),
            ("host:0:store", "port"),
            ("host:70000:store", "port"),
            ("host:x:store", "port"),
            (":store", "host"),
            ("ho st:store", "host"),
            ("me@host:store", "me"),
            ("host:../etc", "../etc"),
        ] {
            let error = text.parse::<Repository>().expect_err(text).to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    fn access(variables: &[(&str, &str)]) -> Result<Access, RepositoryError> {
        Access::from_variables(None, &|name| {
            variables
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_environment_says_the_rest() {
        let pin = ["ab"; 32].join(":");
        let found = access(&[
            ("PBS_REPOSITORY", "host:store"),
            ("PBS_PASSWORD", "secret"),
            ("PBS_FINGERPRINT", &pin.to_uppercase()),
        ]);
        let found = found.unwrap();
        assert_eq!(found.secret, "secret");
        assert_eq!(found.fingerprint.unwrap().to_string(), pin);
        assert!(!format!("{found:?}").contains("secret"));

        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "from a file\nsecond line").unwrap();
        let path = file.path().to_str().unwrap();
        let found = access(&[
            ("PBS_REPOSITORY", "host:store"),
            ("PBS_PASSWORD_FILE", path),
        ])
        .unwrap();
        assert_eq!(
            (found.secret.as_str(), found.fingerprint),
            ("from a file", None)
        );
    }

    #[test]
    fn what_is_missing_is_named() {
        let repository = ("PBS_REPOSITORY", "host:store");
        for (variables, part) in [
            (&[][..], "PBS_REPOSITORY"),
            (&[repository], "PBS_PASSWORD"),
            (
                &[
                    repository,
                    ("PBS_PASSWORD", "x"),
                    ("PBS_FINGERPRINT", "ab:cd"),
                ],
                "PBS_FINGERPRINT",
            ),
            (
                &[repository, ("PBS_PASSWORD_FILE", "/nowhere/at/all")],
                "/nowhere/at/all",
            ),
        ] {
            let error = access(variables).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
