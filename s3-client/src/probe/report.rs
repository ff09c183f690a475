//! What a probe found, for people and for programs.

use std::fmt::{self, Write};

use serde::{Deserialize, Serialize};

use super::Capabilities;

/// What was looked at, in the order of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Check {
    /// The bucket is there.
    Bucket,
    /// Objects can be written, with metadata.
    Write,
    /// They are read back as they were written.
    Read,
    /// Both clocks agree.
    Clock,
    /// Parts of objects can be read.
    Ranges,
    /// `If-None-Match: *`.
    ConditionalCreate,
    /// `If-Match` of writes.
    ConditionalReplace,
    /// What was written is listed at once, in order, from any key on.
    Listing,
    /// Copies within the bucket.
    Copy,
    /// `If-None-Match: *` of copies.
    ConditionalCopy,
    /// Multipart uploads.
    Multipart,
    /// `If-Match` of deletes.
    ConditionalDelete,
    /// Several keys in one request.
    BatchDelete,
    /// Old versions.
    Versioning,
    /// Rules that delete or move objects.
    Lifecycle,
    /// Object lock.
    ObjectLock,
    /// The class objects are stored in.
    StorageClass,
    /// How old a signature may be.
    SignatureWindow,
    /// What the probe wrote is gone.
    CleanUp,
    /// What the keys may do.
    Permissions,
}

impl Check {
    /// All checks.
    pub const ALL: [Self; 20] = [
        Self::Bucket,
        Self::Write,
        Self::Read,
        Self::Clock,
        Self::Ranges,
        Self::ConditionalCreate,
        Self::ConditionalReplace,
        Self::Listing,
        Self::Copy,
        Self::ConditionalCopy,
        Self::Multipart,
        Self::ConditionalDelete,
        Self::BatchDelete,
        Self::Versioning,
        Self::Lifecycle,
        Self::ObjectLock,
        Self::StorageClass,
        Self::SignatureWindow,
        Self::CleanUp,
        Self::Permissions,
    ];

    /// Name for people and programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bucket => "bucket",
            Self::Write => "write",
            Self::Read => "read",
            Self::Clock => "clock",
            Self::Ranges => "ranges",
            Self::ConditionalCreate => "conditional-create",
            Self::ConditionalReplace => "conditional-replace",
            Self::Listing => "listing",
            Self::Copy => "copy",
            Self::ConditionalCopy => "conditional-copy",
            Self::Multipart => "multipart",
            Self::ConditionalDelete => "conditional-delete",
            Self::BatchDelete => "batch-delete",
            Self::Versioning => "versioning",
            Self::Lifecycle => "lifecycle",
            Self::ObjectLock => "object-lock",
            Self::StorageClass => "storage-class",
            Self::SignatureWindow => "signature-window",
            Self::CleanUp => "clean-up",
            Self::Permissions => "permissions",
        }
    }
}

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// As it should.
    Ok,
    /// The bucket can be used, with what the detail says.
    Warning,
    /// The bucket cannot be used until this is put right.
    Failed,
    /// Not looked at.
    Skipped,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failed => "FAILED",
            Self::Skipped => "skipped",
        }
    }
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What was looked at.
    pub check: Check,
    /// How it went.
    pub state: State,
    /// What was seen, and what to do about it.
    pub detail: String,
}

impl Finding {
    pub(super) fn new(check: Check, state: State, detail: String) -> Self {
        Self {
            check,
            state,
            detail,
        }
    }
}

/// All that a probe found. `Display` shows it as a table; serialized it is JSON for programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// To be stored with the datastore.
    pub capabilities: Capabilities,
    /// One per check.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Whether the bucket can hold a datastore: nothing failed.
    pub fn is_usable(&self) -> bool {
        self.findings
            .iter()
            .all(|finding| finding.state != State::Failed)
    }

    /// How a check went; `None` if it was never reached.
    pub fn state(&self, check: Check) -> Option<State> {
        let found = self.findings.iter().find(|finding| finding.check == check);
        found.map(|finding| finding.state)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            let (state, check) = (finding.state.name(), finding.check.name());
            writeln!(f, "{state:<8} {check:<20} {}", finding.detail)?;
        }
        f.write_str(if self.is_usable() {
            "This bucket can be used."
        } else {
            "This bucket cannot be used as it is."
        })?;
        f.write_char('\n')
    }
}
