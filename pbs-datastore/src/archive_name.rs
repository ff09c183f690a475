//! Names of the files in a snapshot, and what their extension says about them.

use std::fmt;
use std::str::FromStr;

use crate::safe_id::{NameError, is_safe_id, serde_as_text};

/// What a file of a snapshot is, decided by the extension of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ArchiveKind {
    /// `.fidx`: an index of chunks of one size.
    Fixed,
    /// `.didx`: an index of chunks of any size.
    Dynamic,
    /// `.blob`: one encoded blob.
    Blob,
}

impl ArchiveKind {
    /// The kind of a file called `name`, or `None` for any other extension.
    pub fn of(name: &str) -> Option<Self> {
        let (_, extension) = name.rsplit_once('.')?;
        match extension {
            "fidx" => Some(Self::Fixed),
            "didx" => Some(Self::Dynamic),
            "blob" => Some(Self::Blob),
            _ => None,
        }
    }

    /// The extension, without the dot.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Fixed => "fidx",
            Self::Dynamic => "didx",
            Self::Blob => "blob",
        }
    }

    /// Whether the file names chunks.
    pub fn is_index(self) -> bool {
        self != Self::Blob
    }
}

/// The name of a file in a snapshot: a safe id that ends in `.fidx`, `.didx` or `.blob`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ArchiveName {
    text: String,
    kind: ArchiveKind,
}

impl ArchiveName {
    /// `index.json.blob`: the file whose presence makes a snapshot one.
    pub fn manifest() -> Self {
        Self {
            text: "index.json.blob".to_owned(),
            kind: ArchiveKind::Blob,
        }
    }

    /// `client.log.blob`: the client's log, added after the snapshot was sealed and not listed in the manifest.
    pub fn client_log() -> Self {
        Self {
            text: "client.log.blob".to_owned(),
            kind: ArchiveKind::Blob,
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What the file is.
    pub fn kind(&self) -> ArchiveKind {
        self.kind
    }

    /// Whether this is `index.json.blob`.
    pub fn is_manifest(&self) -> bool {
        self.text == "index.json.blob"
    }
}

impl FromStr for ArchiveName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        match ArchiveKind::of(text) {
            Some(kind) if is_safe_id(text) => Ok(Self {
                text: text.to_owned(),
                kind,
            }),
            _ => {
                let rule = "use up to 255 letters, digits, '_', '.' or '-', starting with a letter, a digit or '_' \
                            and ending in '.fidx', '.didx' or '.blob'";
                Err(NameError::new("archive name", rule, text))
            }
        }
    }
}

impl fmt::Display for ArchiveName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

serde_as_text!(ArchiveName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_extension_decides_the_kind() {
        for (text, kind) in [
            ("root.pxar.didx", ArchiveKind::Dynamic),
            ("drive-scsi0.img.fidx", ArchiveKind::Fixed),
            ("qemu-server.conf.blob", ArchiveKind::Blob),
            ("a.fidx.blob", ArchiveKind::Blob),
        ] {
            assert_eq!(text.parse::<ArchiveName>().expect(text).kind(), kind);
        }
        for text in [
            "",
            "didx",
            ".didx",
            "root.pxar",
            "../x.blob",
            "a/b.didx",
            "x.DIDX",
            "x.blob ",
        ] {
            assert!(text.parse::<ArchiveName>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn the_names_we_make_ourselves_are_valid() {
        for name in [ArchiveName::manifest(), ArchiveName::client_log()] {
            assert_eq!(name.as_str().parse(), Ok(name.clone()));
        }
        assert!(ArchiveName::manifest().is_manifest());
        assert!(!ArchiveName::client_log().is_manifest());
    }
}
