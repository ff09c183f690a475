//! What Holdfast needs of S3 and nothing else.
//!
//! [`ObjectStore`] is the one trait. Its implementations are the AWS SDK, an in-memory model and a directory used as a
//! bucket; retries, limits, metering and injected faults are decorators around any of them.

mod aws;
mod batch;
mod clock;
pub mod conformance;
mod connector;
mod decide;
mod directory;
mod error;
mod fault;
mod key;
mod limit;
mod listing;
mod meter;
mod model;
mod precondition;
mod probe;
mod retry;
#[cfg(test)]
mod scripted;
pub mod serve;
mod store;

pub use aws::{AwsConfig, AwsEndpoint, AwsStore, BucketOutcome, Credentials, Secret, WallClock};
pub use batch::{Deleted, delete_all};
pub use clock::{Clock, virtual_clock, wall_clock};
pub use connector::{Network, Stream, Traffic};
pub use decide::{Decision, Page, clip, decide, decide_delete, page};
pub use directory::{DirectoryOptions, DirectoryStore};
pub use error::{Error, ErrorKind, Op, Optional};
pub use fault::{
    Action, Delivery, Effect, Fault, FaultId, FaultPlan, FaultyStore, Gate, Odds, Reply, Strays,
};
pub use key::{KEY_BYTES_MAX, KeyError, KeyPrefix, ObjectKey};
pub use limit::{Limited, Limits};
pub use listing::{KeyRange, Listed, ListedPage, list_all};
pub use meter::{
    LATENCY_BOUNDS_MS, Meter, MeterSnapshot, Metered, OpSnapshot, Tally, attributed, carried,
};
pub use model::{ModelOptions, ModelStore, Support};
pub use precondition::{DeleteOutcome, ETag, Precondition, PutId, PutOutcome, VersionId};
pub use probe::{Capabilities, Check, Finding, IfMatch, ProbeOptions, Report, State, probe};
pub use retry::{InsistOutcome, Overwrite, Retry, RetryPolicy};
pub use store::{
    Answer, Body, BucketSettings, ByteRange, Copy, DeleteRequest, LifecycleRule, ListEntry,
    ListPage, ListRequest, Metadata, Object, ObjectMeta, ObjectStore, PAGE_KEYS_MAX,
    PUT_ID_METADATA, Part, PartOutcome, Put, Setting, UploadId, Validity, Versioning,
};
