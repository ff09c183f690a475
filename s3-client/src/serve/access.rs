//! The access log: one event when the head of a request has arrived, one when the request has ended, however it ends. So
//! it shows what was open at any moment, also of clients that went away.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;

use super::RequestRecord;
use crate::clock::Clock;

/// Receives each event, in order for one request.
pub type AccessLog = Arc<dyn Fn(&AccessEvent) + Send + Sync>;

/// An event of the access log. Its display is one line: time, `begin` or `end`, number of the request, and then method and
/// key, or operation, status (0: no answer), bytes in and bytes out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessEvent {
    /// When.
    pub time: Timestamp,
    /// The request: one number each, from 1 in the order of arrival.
    pub number: u64,
    /// What has happened.
    pub what: Access,
}

/// What happens to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Its head has arrived.
    Begin {
        /// HTTP method.
        method: String,
        /// The key in the path; empty for the bucket.
        key: String,
    },
    /// It has ended. `None` if its client went away.
    End(Option<RequestRecord>),
}

impl fmt::Display for AccessEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { time, number, what } = self;
        match what {
            Access::Begin { method, key } => write!(f, "{time} begin {number} {method} {key:?}"),
            Access::End(None) => write!(f, "{time} end {number} Other 0 0 0"),
            Access::End(Some(record)) => {
                let (status, operation) = (record.status.unwrap_or(0), &record.operation);
                let (bytes_in, bytes_out) = (record.bytes_in, record.bytes_out);
                write!(
                    f,
                    "{time} end {number} {operation} {status} {bytes_in} {bytes_out}"
                )
            }
        }
    }
}

/// Where events go, if anywhere.
pub(super) struct Accesses {
    log: Option<AccessLog>,
    clock: Clock,
    last: AtomicU64,
}

impl Accesses {
    pub(super) fn new(log: Option<AccessLog>, clock: Clock) -> Self {
        Self {
            log,
            clock,
            last: AtomicU64::new(0),
        }
    }

    /// Logs the begin of a request; its end is logged when the answer is dropped or ended.
    pub(super) fn begin(&self, record: &RequestRecord) -> OpenAccess<'_> {
        let open = OpenAccess {
            accesses: self,
            number: self.last.fetch_add(1, Ordering::Relaxed) + 1,
            ended: false,
        };
        open.tell(|| Access::Begin {
            method: record.method.clone(),
            key: record.key.clone(),
        });
        open
    }
}

/// A request under way.
pub(super) struct OpenAccess<'a> {
    accesses: &'a Accesses,
    number: u64,
    ended: bool,
}

impl OpenAccess<'_> {
    fn tell(&self, what: impl FnOnce() -> Access) {
        if let Some(log) = &self.accesses.log {
            log(&AccessEvent {
                time: (self.accesses.clock)(),
                number: self.number,
                what: what(),
            });
        }
    }

    /// Logs how it was answered.
    pub(super) fn end(mut self, record: &RequestRecord) {
        self.ended = true;
        self.tell(|| Access::End(Some(record.clone())));
    }
}

impl Drop for OpenAccess<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.tell(|| Access::End(None));
        }
    }
}
