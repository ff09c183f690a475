//! What the daemon keeps beside the configuration for each datastore: `STATE/datastore/NAME/check.json`, what its bucket
//! was found to be able to do, and `meters.json`, what was asked of it so far.
//!
//! Both can be lost without harm: the next start checks the bucket anew and counts from zero.

use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use s3_client::{Capabilities, IfMatch, MeterSnapshot, Report};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::atomic_file;
use crate::config::{S3Backend, S3Endpoint};

/// A bucket's check, and which place it is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct CheckRecord {
    /// URL of the server.
    pub(crate) endpoint: String,
    /// The bucket.
    pub(crate) bucket: String,
    /// The datastore's prefix in it.
    pub(crate) prefix: String,
    /// When it was checked.
    pub(crate) time: Timestamp,
    /// What was found.
    pub(crate) report: Report,
}

impl CheckRecord {
    /// A record of now.
    pub(crate) fn new(
        endpoint: &S3Endpoint,
        backend: &S3Backend,
        time: Timestamp,
        report: Report,
    ) -> Self {
        Self {
            endpoint: endpoint.endpoint.clone(),
            bucket: backend.bucket.clone(),
            prefix: backend.prefix.clone(),
            time,
            report,
        }
    }

    /// Whether it is about this place.
    pub(crate) fn is_of(&self, endpoint: &S3Endpoint, backend: &S3Backend) -> bool {
        self.endpoint == endpoint.endpoint
            && self.bucket == backend.bucket
            && self.prefix == backend.prefix
    }

    /// What the datastore relies on.
    pub(crate) fn capabilities(&self) -> &Capabilities {
        &self.report.capabilities
    }

    /// Whether tags are sent in quotes.
    pub(crate) fn if_match_quoted(&self) -> bool {
        self.capabilities().conditional_replace != IfMatch::Unquoted
    }
}

/// The files of one datastore.
#[derive(Debug, Clone)]
pub(crate) struct Records(PathBuf);

impl Records {
    /// Those of the datastore `name`; nothing is made yet.
    pub(crate) fn of(state_dir: &Path, name: &str) -> Self {
        Self(state_dir.join("datastore").join(name))
    }

    /// The last check. Blocks.
    pub(crate) fn check(&self) -> Option<CheckRecord> {
        self.read("check.json")
    }

    /// Keeps a check. Blocks.
    pub(crate) fn keep_check(&self, check: &CheckRecord) -> io::Result<()> {
        self.write("check.json", check)
    }

    /// What was counted. Blocks.
    pub(crate) fn meters(&self) -> MeterSnapshot {
        self.read("meters.json").unwrap_or_default()
    }

    /// Keeps what was counted. Blocks.
    pub(crate) fn keep_meters(&self, meters: &MeterSnapshot) -> io::Result<()> {
        self.write("meters.json", meters)
    }

    /// Forgets everything. Blocks.
    pub(crate) fn remove(&self) -> io::Result<()> {
        match std::fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        let path = self.0.join(name);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(path = %path.display(), %error, "cannot be read and is made anew");
                }
                return None;
            }
        };
        serde_json::from_slice(&bytes)
            .inspect_err(
                |error| tracing::warn!(path = %path.display(), %error, "is damaged and made anew"),
            )
            .ok()
    }

    fn write<T: Serialize>(&self, name: &str, content: &T) -> io::Result<()> {
        std::fs::create_dir_all(&self.0)?;
        let bytes = serde_json::to_vec_pretty(content)?;
        atomic_file::replace(&self.0.join(name), &bytes, 0o640)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_survive_and_damage_counts_as_absent() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let records = Records::of(dir.path(), "store1");
        assert_eq!(records.check(), None);
        assert_eq!(records.meters(), MeterSnapshot::default());
        let check = CheckRecord {
            endpoint: "http://localhost:9000".into(),
            bucket: "b".into(),
            prefix: "store1".into(),
            time: Timestamp::UNIX_EPOCH,
            report: Report {
                capabilities: Capabilities::default(),
                findings: Vec::new(),
            },
        };
        records.keep_check(&check).expect("written");
        assert_eq!(records.check(), Some(check));
        std::fs::write(dir.path().join("datastore/store1/check.json"), "{").expect("written");
        assert_eq!(records.check(), None);
        records.remove().expect("removed");
        records.remove().expect("removed already");
    }
}
