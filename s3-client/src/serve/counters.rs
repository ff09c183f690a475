//! What a server was asked: counters by S3 operation, and a line for each request.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// One request, as it was answered. Its display is one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestRecord {
    /// When it arrived.
    pub time: Timestamp,
    /// HTTP method.
    pub method: String,
    /// S3's name of the operation; `Other` for what was refused before it was recognised.
    pub operation: String,
    /// The key in the path; empty for the bucket.
    pub key: String,
    /// HTTP status; `None` if the connection was closed without an answer.
    pub status: Option<u16>,
    /// Bytes of content the client announced.
    pub bytes_in: u64,
    /// Bytes of content of the answer.
    pub bytes_out: u64,
}

impl fmt::Display for RequestRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = self.status.unwrap_or(0);
        write!(
            f,
            "{} {} {} {:?} {status} {} {}",
            self.time, self.method, self.operation, self.key, self.bytes_in, self.bytes_out
        )
    }
}

/// How often one operation was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct OperationCount {
    /// Requests, whatever they came to.
    pub requests: u64,
    /// Of these, by HTTP status; 0 for those whose connection was closed without an answer.
    pub statuses: BTreeMap<u16, u64>,
    /// Bytes of content that clients announced.
    pub bytes_in: u64,
    /// Bytes of content of the answers.
    pub bytes_out: u64,
}

/// Counters by S3 operation (`PutObject`, `ListObjectsV2`, …). Clones are the same counters.
#[derive(Clone, Debug, Default)]
pub struct Counters(Arc<Mutex<BTreeMap<String, OperationCount>>>);

impl Counters {
    /// All operations that were asked for.
    pub fn all(&self) -> BTreeMap<String, OperationCount> {
        self.lock().clone()
    }

    /// One operation by its S3 name.
    pub fn of(&self, operation: &str) -> OperationCount {
        self.lock().get(operation).cloned().unwrap_or_default()
    }

    /// How often one operation was asked for.
    pub fn requests(&self, operation: &str) -> u64 {
        self.of(operation).requests
    }

    /// Starts counting anew.
    pub fn reset(&self) {
        self.lock().clear();
    }

    /// The counters as a JSON object, by operation, each an [`OperationCount`].
    pub fn to_json(&self) -> String {
        serde_json::to_string(&*self.lock()).expect("numbers can be written as JSON")
    }

    pub(super) fn count(&self, record: &RequestRecord) {
        let mut counts = self.lock();
        let count = counts.entry(record.operation.clone()).or_default();
        count.requests += 1;
        let status = record.status.unwrap_or(0);
        *count.statuses.entry(status).or_insert(0) += 1;
        count.bytes_in += record.bytes_in;
        count.bytes_out += record.bytes_out;
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, OperationCount>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
