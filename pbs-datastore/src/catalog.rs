//! `catalog.pcat1.didx`: the names of all files in the archives of a snapshot, so that they can be browsed without
//! reading the archives.
//!
//! The stream behind the index is: magic (8 bytes), then one table for each directory, children before their parents,
//! then the position of the root's table (8 bytes, little-endian).
//!
//! - table: length of the rest, number of entries, entries.
//! - entry: type (1 byte), length of the name, name; then of a directory the distance from the child's table to this one,
//!   of a file its size and its modification time; of anything else nothing.
//! - numbers: 7 bits a byte, least significant first, the high bit saying that more follows. A negative one keeps the high
//!   bit on its last byte and ends in a zero byte.
//!
//! The entries of the root are the archives, as directories. All positions are checked: a directory lies before its
//! parent, so no catalog can send a reader in circles.
//!
//! [`Catalog`] reads the whole stream from memory, [`CatalogReader`] single tables from their chunks.

mod reader;

use bytes::Bytes;

pub use reader::{CatalogDirectory, CatalogReader};

/// The first bytes of a catalog.
pub const CATALOG_MAGIC: [u8; 8] = [0x91, 0xfd, 0x60, 0xf9, 0xc4, 0x67, 0x58, 0xd5];
/// Longest name of an entry in bytes.
pub const CATALOG_NAME_BYTES_MAX: u64 = 4096;

/// Why bytes are no catalog.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CatalogError {
    /// It does not start like one, or is too short.
    #[error("the data is no catalog: its first bytes are wrong, or it is too short")]
    WrongMagic,
    /// A table or entry ends beyond its bounds, or holds what no client writes.
    #[error("the catalog is damaged at byte {0}")]
    Damaged(u64),
}

/// What an entry of a directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CatalogKind {
    /// A directory, whose table [`Catalog::entries`] reads.
    Directory(CatalogTable),
    /// A file.
    File {
        /// Bytes.
        size: u64,
        /// When it was last modified, Unix seconds.
        mtime: i64,
    },
    /// A symbolic link.
    Symlink,
    /// A further name of a file.
    Hardlink,
    /// A block device.
    BlockDevice,
    /// A character device.
    CharDevice,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

impl CatalogKind {
    /// The letter that stands for it in the catalog and in answers.
    pub fn letter(self) -> char {
        match self {
            Self::Directory(_) => 'd',
            Self::File { .. } => 'f',
            Self::Symlink => 'l',
            Self::Hardlink => 'h',
            Self::BlockDevice => 'b',
            Self::CharDevice => 'c',
            Self::Fifo => 'p',
            Self::Socket => 's',
        }
    }
}

/// One entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogEntry {
    /// Its name, in the bytes of the client's file system; not empty, not `.` or `..`, without `/` and zero bytes.
    pub name: Bytes,
    /// What it is.
    pub kind: CatalogKind,
}

/// Where the table of a directory begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CatalogTable(u64);

/// A catalog, over the bytes of its stream.
#[derive(Debug, Clone)]
pub struct Catalog {
    stream: Bytes,
    root: CatalogTable,
}

impl CatalogTable {
    /// The table that the last eight bytes of a stream of `length` bytes point to.
    fn root(last: [u8; 8], length: u64) -> Result<Self, CatalogError> {
        let root = u64::from_le_bytes(last);
        let end = length.saturating_sub(8);
        if (CATALOG_MAGIC.len() as u64..end).contains(&root) {
            return Ok(Self(root));
        }
        Err(CatalogError::Damaged(end))
    }
}

impl Catalog {
    /// Checks the frame of the stream; tables are checked when they are read.
    pub fn parse(stream: Bytes) -> Result<Self, CatalogError> {
        let body = stream
            .strip_prefix(&CATALOG_MAGIC)
            .ok_or(CatalogError::WrongMagic)?;
        let last = *body.last_chunk::<8>().ok_or(CatalogError::WrongMagic)?;
        let root = CatalogTable::root(last, stream.len() as u64)?;
        Ok(Self { stream, root })
    }

    /// The table whose entries are the archives.
    pub fn root(&self) -> CatalogTable {
        self.root
    }

    /// The entries of a directory, in the order of the catalog.
    pub fn entries(&self, table: CatalogTable) -> Result<Vec<CatalogEntry>, CatalogError> {
        let mut reader = Reader {
            stream: self.stream.slice(..self.stream.len() - 8),
            at: table.0 as usize,
            base: 0,
        };
        let length = reader.unsigned()?;
        let rest = reader.bytes(length);
        let rest = rest.map_err(|_| CatalogError::Damaged(table.0))?;
        let base = reader.offset() - length;
        CatalogEntries::new(table, rest, base)?.collect()
    }

    /// The entry called `name` in a directory.
    pub fn find(
        &self,
        table: CatalogTable,
        name: &[u8],
    ) -> Result<Option<CatalogEntry>, CatalogError> {
        let entries = self.entries(table)?;
        Ok(entries.into_iter().find(|entry| entry.name == name))
    }
}

/// The entries of one table, read as they are asked for. After an error there are no more.
#[derive(Debug, Clone)]
pub struct CatalogEntries {
    table: CatalogTable,
    reader: Reader,
    /// What the table claims; entries are read until it or the table is used up.
    left: u64,
    ended: bool,
}

impl CatalogEntries {
    /// Of the table that begins at `table`, whose bytes after its length are `rest`, at `base` in the stream.
    fn new(table: CatalogTable, rest: Bytes, base: u64) -> Result<Self, CatalogError> {
        let mut reader = Reader {
            stream: rest,
            at: 0,
            base,
        };
        Ok(Self {
            table,
            left: reader.unsigned()?,
            reader,
            ended: false,
        })
    }
}

impl Iterator for CatalogEntries {
    type Item = Result<CatalogEntry, CatalogError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        if self.left == 0 {
            self.ended = true;
            let whole = self.reader.at == self.reader.stream.len();
            return (!whole).then(|| Err(self.reader.damaged()));
        }
        self.left -= 1;
        let entry = self.reader.entry(self.table);
        self.ended = entry.is_err();
        Some(entry)
    }
}

/// Takes numbers and names from a part of the stream.
#[derive(Debug, Clone)]
struct Reader {
    stream: Bytes,
    at: usize,
    /// Where the part begins.
    base: u64,
}

impl Reader {
    /// Where it is in the whole stream.
    fn offset(&self) -> u64 {
        self.base + self.at as u64
    }

    fn damaged(&self) -> CatalogError {
        CatalogError::Damaged(self.offset())
    }

    fn bytes(&mut self, length: u64) -> Result<Bytes, CatalogError> {
        let left = self.stream.len().saturating_sub(self.at);
        if length > left as u64 {
            return Err(self.damaged());
        }
        let start = self.at;
        self.at += length as usize;
        Ok(self.stream.slice(start..self.at))
    }

    /// A number, and whether the zero byte of negative ones ended it.
    fn number(&mut self) -> Result<(u64, bool), CatalogError> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.bytes(1)?[0];
            if byte == 0 && shift > 0 {
                return Ok((number, true));
            }
            let part = u64::from(byte & 0x7f);
            if part << shift >> shift != part {
                return Err(self.damaged());
            }
            number |= part << shift;
            if byte & 0x80 == 0 {
                return Ok((number, false));
            }
        }
        // All 64 bits are there and more is announced: only the end of a negative number may follow.
        match self.bytes(1)?[0] {
            0 => Ok((number, true)),
            _ => Err(self.damaged()),
        }
    }

    fn unsigned(&mut self) -> Result<u64, CatalogError> {
        match self.number()? {
            (number, false) => Ok(number),
            (_, true) => Err(self.damaged()),
        }
    }

    fn signed(&mut self) -> Result<i64, CatalogError> {
        let (magnitude, negative) = self.number()?;
        let number = if negative {
            0_i64.checked_sub_unsigned(magnitude)
        } else {
            i64::try_from(magnitude).ok()
        };
        number.ok_or_else(|| self.damaged())
    }

    fn entry(&mut self, table: CatalogTable) -> Result<CatalogEntry, CatalogError> {
        let letter = self.bytes(1)?[0];
        let length = self.unsigned()?;
        if length > CATALOG_NAME_BYTES_MAX {
            return Err(self.damaged());
        }
        let name = self.bytes(length)?;
        if matches!(&name[..], b"" | b"." | b"..")
            || name.iter().any(|byte| matches!(byte, b'/' | 0))
        {
            return Err(self.damaged());
        }
        let kind = match letter {
            b'd' => {
                let distance = self.unsigned()?;
                let child = table
                    .0
                    .checked_sub(distance)
                    .filter(|child| distance > 0 && *child >= 8);
                CatalogKind::Directory(CatalogTable(child.ok_or_else(|| self.damaged())?))
            }
            b'f' => CatalogKind::File {
                size: self.unsigned()?,
                mtime: self.signed()?,
            },
            b'l' => CatalogKind::Symlink,
            b'h' => CatalogKind::Hardlink,
            b'b' => CatalogKind::BlockDevice,
            b'c' => CatalogKind::CharDevice,
            b'p' => CatalogKind::Fifo,
            b's' => CatalogKind::Socket,
            _ => return Err(self.damaged()),
        };
        Ok(CatalogEntry { name, kind })
    }
}

#[cfg(test)]
mod tests;
