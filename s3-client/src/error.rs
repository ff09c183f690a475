//! What can go wrong with a request that has no effect in doubt.

use std::fmt;

use crate::ObjectKey;

/// What callers branch on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// No object (or no such version) under the key.
    NotFound,
    /// No such bucket.
    BucketMissing,
    /// The server asks for fewer requests: 429, 503 SlowDown, or a 403 that speaks of a rate.
    Throttled,
    /// No answer to a *read* in time. (A write without an answer is an outcome, not an error.)
    Timeout,
    /// 5xx, or no connection: the request was not carried out, or, if `maybe_applied` says so, may have been.
    Unavailable,
    /// Keys are wrong or a permission is missing.
    Unauthorized,
    /// The server's clock and ours differ by more than it accepts.
    ClockSkewed,
    /// The server does not implement what was asked.
    Unsupported,
    /// The answer was malformed, cut short or failed its checksum.
    Corrupt,
    /// Local storage is full (directory buckets).
    NoSpace,
    /// Anything else; not worth a retry.
    Other,
}

impl ErrorKind {
    /// Whether the same request may succeed a little later.
    pub fn is_transient(self) -> bool {
        matches!(
            self,
            Self::Throttled | Self::Timeout | Self::Unavailable | Self::Corrupt
        )
    }
}

/// The operations of the trait and of an endpoint, for errors, metering and faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Op {
    /// Put of a whole object.
    Put,
    /// Read of an object or range.
    Get,
    /// Metadata of an object.
    Head,
    /// Batch delete.
    Delete,
    /// One page of a listing.
    List,
    /// Server-side copy.
    Copy,
    /// Start of a multipart upload.
    CreateMultipart,
    /// One part.
    UploadPart,
    /// End of a multipart upload.
    CompleteMultipart,
    /// Abandonment of a multipart upload.
    AbortMultipart,
    /// Questions about the bucket itself, and about which there are.
    Bucket,
    /// A new bucket; no store makes one.
    CreateBucket,
}

impl Op {
    /// All operations, in the order they are shown.
    pub const ALL: [Self; 12] = [
        Self::Put,
        Self::Get,
        Self::Head,
        Self::Delete,
        Self::List,
        Self::Copy,
        Self::CreateMultipart,
        Self::UploadPart,
        Self::CompleteMultipart,
        Self::AbortMultipart,
        Self::Bucket,
        Self::CreateBucket,
    ];

    /// Lower-case name for logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
            Self::Head => "head",
            Self::Delete => "delete",
            Self::List => "list",
            Self::Copy => "copy",
            Self::CreateMultipart => "create-multipart",
            Self::UploadPart => "upload-part",
            Self::CompleteMultipart => "complete-multipart",
            Self::AbortMultipart => "abort-multipart",
            Self::Bucket => "bucket",
            Self::CreateBucket => "create-bucket",
        }
    }

    /// Whether the operation changes the bucket.
    pub fn is_mutation(self) -> bool {
        !matches!(self, Self::Get | Self::Head | Self::List | Self::Bucket)
    }
}

/// A request that failed.
#[derive(Debug, thiserror::Error)]
pub struct Error {
    /// What to branch on.
    pub kind: ErrorKind,
    /// What was asked.
    pub op: Op,
    /// Of which key or prefix; empty for the bucket.
    pub key: String,
    /// The server's or the network's own words.
    pub message: String,
    /// A mutation that was answered with 5xx: it will have no *further* effect, but may have had its effect.
    pub maybe_applied: bool,
    /// When the last attempt was given up without an answer, if one was (see [`Answer::lost_at`](crate::Answer)).
    pub lost_at: Option<tokio::time::Instant>,
    /// Cause, if there is one worth keeping.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of `kind` about `key`.
    pub fn new(
        kind: ErrorKind,
        op: Op,
        key: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            op,
            key: key.into(),
            message: message.into(),
            maybe_applied: false,
            lost_at: None,
            source: None,
        }
    }

    /// Nothing under `key`.
    pub fn not_found(op: Op, key: &ObjectKey) -> Self {
        Self::new(ErrorKind::NotFound, op, key.as_str(), "no such object")
    }

    /// Keeps the cause.
    #[must_use]
    pub fn with_source(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        self.source = Some(source.into());
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "S3 {}", self.op.name())?;
        if !self.key.is_empty() {
            write!(f, " of '{}'", self.key)?;
        }
        let what = match self.kind {
            ErrorKind::NotFound => "not found",
            ErrorKind::BucketMissing => "the bucket does not exist",
            ErrorKind::Throttled => "the server asks to slow down",
            ErrorKind::Timeout => "no answer in time",
            ErrorKind::Unavailable => "the server is not available",
            ErrorKind::Unauthorized => "access denied, check the keys and their permissions",
            ErrorKind::ClockSkewed => {
                "the clocks of this machine and of the server differ too much"
            }
            ErrorKind::Unsupported => "not supported by this server",
            ErrorKind::Corrupt => "the answer is damaged",
            ErrorKind::NoSpace => "no space left",
            ErrorKind::Other => "failed",
        };
        write!(f, ": {what}")?;
        if !self.message.is_empty() {
            write!(f, " ({})", self.message)?;
        }
        Ok(())
    }
}

/// Turns *not found* into `None`, for callers to whom absence is an answer.
pub trait Optional<T> {
    /// `Ok(None)` for [`ErrorKind::NotFound`].
    fn optional(self) -> Result<Option<T>, Error>;
}

impl<T> Optional<T> for Result<T, Error> {
    fn optional(self) -> Result<Option<T>, Error> {
        match self {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}
