//! What can be wrong with a datastore or a request to it; facts, no texts to match.

use std::io;
use std::path::{Path, PathBuf};

use crate::Digest;
use crate::session::SessionEnded;

/// A failure of the datastore.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A request to the bucket.
    #[error(transparent)]
    Store(#[from] s3_client::Error),
    /// A local file.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// The writer was closed, killed, or is finishing.
    #[error(transparent)]
    SessionEnded(#[from] SessionEnded),
    /// Uploaded or stored content does not belong under its digest.
    #[error("chunk {digest}: {fault}")]
    ChunkCorrupt {
        /// Which.
        digest: Digest,
        /// What is wrong.
        fault: String,
    },
    /// Neither cached nor in the bucket.
    #[error("chunk {digest} is missing")]
    ChunkMissing {
        /// Which.
        digest: Digest,
    },
    /// I11: an encrypted chunk would replace an unencrypted one or the other way round.
    #[error("chunk {digest}: {fault}; it was not stored, as one of the two must be forged")]
    NatureConflict {
        /// Which.
        digest: Digest,
        /// Which way round.
        fault: &'static str,
    },
    /// Nobody knows whether a write took effect, and no attempt is left.
    #[error("no answer from S3 about {what}; whether it took effect is not known")]
    OutcomeUnknown {
        /// Which write.
        what: String,
    },
    /// Another instance owns the prefix, or took it over.
    #[error("{0}")]
    NotOwner(String),
    /// Somebody else sealed the snapshot.
    #[error("snapshot {0} was finished by another writer")]
    SealConflict(String),
    /// No such thing: namespace, group, snapshot, file.
    #[error("{0} does not exist")]
    NotFound(String),
    /// It is there already.
    #[error("{0} exists already")]
    Exists(String),
    /// Somebody works with it.
    #[error("{0}")]
    Busy(String),
    /// It is marked as protected.
    #[error("{0} is protected")]
    Protected(String),
    /// Content, name or parameter that breaks a rule.
    #[error("{0}")]
    Invalid(String),
    /// Something that is not possible in the datastore's present state.
    #[error("{0}")]
    Refused(String),
    /// The quota of the datastore is used up.
    #[error("{0}")]
    Full(String),
    /// Another server refused something, or could not be reached.
    #[error("{why}")]
    Remote {
        /// What it said, or what became of the connection.
        why: String,
        /// It may be otherwise in a moment.
        transient: bool,
    },
    /// The job was stopped by its user.
    #[error("stopped on request")]
    Stopped,
    /// The datastore takes nothing on any more.
    #[error("the datastore is being closed; try again when it is open")]
    Closing,
}

impl Error {
    /// Whether it was the way there, and the same may succeed in a moment.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Remote { transient, .. } => *transient,
            Self::Store(error) => error.kind.is_transient(),
            _ => false,
        }
    }
}

/// The result of everything here.
pub type Result<T> = std::result::Result<T, Error>;

/// Says which file an `io::Error` is about.
pub(crate) trait About<T> {
    /// Attaches the path.
    fn about(self, path: impl AsRef<Path>) -> Result<T>;
    /// The same for a path that has to be made.
    fn about_file(self, path: impl FnOnce() -> PathBuf) -> Result<T>;
}

impl<T> About<T> for io::Result<T> {
    fn about(self, path: impl AsRef<Path>) -> Result<T> {
        self.map_err(|source| Error::File {
            path: path.as_ref().to_owned(),
            source,
        })
    }

    fn about_file(self, path: impl FnOnce() -> PathBuf) -> Result<T> {
        self.map_err(|source| Error::File {
            path: path(),
            source,
        })
    }
}
