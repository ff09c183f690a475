//! A directory as a tar stream, and back.
//!
//! The stream is POSIX (PAX) tar: ustar headers, and an extended header wherever ustar is too small. GNU tar, bsdtar and
//! Python read it. What goes where:
//!
//! | what | how |
//! |---|---|
//! | names | raw bytes, as GNU tar does it; `path` and `linkpath` records beyond 100 bytes |
//! | owner | numbers only; base-256 beyond the octal fields |
//! | mtime | `mtime` record with nanoseconds |
//! | holes | PAX sparse format 1.0; holes are found with `SEEK_DATA`, and neither read nor stored |
//! | extended attributes | `SCHILY.xattr.NAME` records, `%` and `=` in the name written `%25` and `%3D` |
//! | POSIX ACLs | the attributes `system.posix_acl_access` and `system.posix_acl_default`, byte for byte |
//! | hard links | the first name carries the content, the others are link entries |
//!
//! The directory itself is the first entry, `./`; every other name is relative to it. Entries come in byte order of their
//! names, a directory before what it holds, so that an unchanged tree gives an unchanged stream. Sockets are left out.

mod archive;
mod exclude;
mod extract;
mod header;
mod pax;
mod sparse;
mod stream;
mod target;
#[cfg(test)]
mod tests;

pub(crate) use archive::{ArchiveOptions, archive};
pub(crate) use exclude::Excludes;
pub(crate) use extract::{ExtractOptions, extract};

/// The unit of the format: headers and the padding of contents.
const BLOCK: usize = 512;

/// The longest file or link name accepted from a stream, in bytes: far beyond `PATH_MAX`, and a bound on memory.
const NAME_BYTES_MAX: usize = 1 << 20;

/// The largest extended header accepted from a stream, in bytes: room for a hundred attributes of the largest size that
/// Linux allows (64 KiB), and a bound on memory.
const PAX_BYTES_MAX: u64 = 16 << 20;

/// The most data extents kept of one sparse file; what lies behind the last one counts as data.
const EXTENTS_MAX: usize = 1 << 20;

/// One entry of the stream, without its content.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Member {
    /// Name as stored, relative, without a trailing slash; `.` for the directory itself.
    path: Vec<u8>,
    /// What it is.
    kind: Kind,
    /// Permission bits, with set-id and sticky: 12 bits.
    mode: u32,
    /// Numeric owner.
    uid: u64,
    /// Numeric group.
    gid: u64,
    /// Time of the last change of the content.
    mtime: Mtime,
    /// Extended attributes, ACLs among them, by name.
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    /// A regular file of this logical size in bytes.
    File {
        /// Logical size in bytes, holes included.
        size: u64,
        /// The extents that hold data, ascending and disjoint; `None` when all of it does.
        extents: Option<Vec<Extent>>,
    },
    Directory,
    /// A symbolic link with its text.
    Symlink(Vec<u8>),
    /// Another name of an earlier entry.
    HardLink(Vec<u8>),
    Fifo,
    /// A character or block device.
    Device {
        block: bool,
        major: u32,
        minor: u32,
    },
}

/// A stretch of a file that holds data, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Extent {
    offset: u64,
    length: u64,
}

/// Seconds since 1970 (negative before), and 0..10⁹ nanoseconds after that second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mtime {
    seconds: i64,
    nanos: u32,
}

impl Kind {
    /// Bytes of content in the stream, without the sparse map and padding.
    fn stored_bytes(&self) -> u64 {
        match self {
            Self::File {
                extents: Some(extents),
                ..
            } => extents.iter().map(|extent| extent.length).sum(),
            Self::File {
                size,
                extents: None,
            } => *size,
            _ => 0,
        }
    }
}

/// A name for a message: readable whatever its bytes, on one line.
fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path)
        .chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}
