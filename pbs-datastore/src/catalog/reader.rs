//! One directory of a catalog, read from the chunks that hold it: the whole of a catalog may be larger than the memory there is.
//!
//! From the last bytes of the stream to the table of the root, and from there to the table of each directory of the path. Only
//! the bytes of these tables are read. A catalog is whatever its client sent, so all of it is bounded: a table by
//! [`TABLE_BYTES_MAX`], and the chunks that are read by [`CHUNKS_MAX`], however small they are and wherever tables lie.
//!
//! It only reads. What fails fails the one request; a crash leaves nothing.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::{CATALOG_MAGIC, CatalogEntries, CatalogError, CatalogKind, CatalogTable, Reader};
use crate::chunk_store::ChunkReader;
use crate::{Error, Index, Result};

/// Longest table that is read, in bytes: about a hundred thousand files in one directory.
const TABLE_BYTES_MAX: u64 = 8 << 20;
/// Chunks that are read for one directory.
const CHUNKS_MAX: usize = 4096;
/// Longest encoding of a number, in bytes.
const NUMBER_BYTES_MAX: u64 = 11;

/// A directory of a catalog, in memory.
#[derive(Debug, Clone)]
pub struct CatalogDirectory {
    table: CatalogTable,
    rest: Bytes,
    base: u64,
}

impl CatalogDirectory {
    /// Its entries, in the order of the catalog.
    pub fn entries(&self) -> Result<CatalogEntries> {
        Ok(CatalogEntries::new(
            self.table,
            self.rest.clone(),
            self.base,
        )?)
    }
}

/// Finds directories in a catalog that is kept in chunks.
#[derive(Debug)]
pub struct CatalogReader {
    chunks: Arc<ChunkReader>,
    index: Index,
    chunks_read: usize,
    /// The entry of the index that was read last, and its contents.
    last: Option<(usize, Bytes)>,
}

impl CatalogReader {
    /// Reads the unencrypted catalog of `index`. It takes memory for one chunk and one table beside that of `chunks`.
    pub fn new(chunks: Arc<ChunkReader>, index: Index) -> Self {
        Self {
            chunks,
            index,
            chunks_read: 0,
            last: None,
        }
    }

    /// The directory at `path`, whose first name is that of an archive; without names it is the root, whose entries are the
    /// archives. [`Error::NotFound`] if there is no such entry.
    pub async fn directory(&mut self, path: &[&[u8]]) -> Result<CatalogDirectory> {
        let mut directory = self.root().await?;
        for (depth, name) in path.iter().enumerate() {
            let shown = || {
                let path = path[..=depth].join(&b'/');
                String::from_utf8_lossy(&path).into_owned()
            };
            let mut entries = directory.entries()?;
            let found = entries.find(|entry| {
                let other = entry.as_ref().is_ok_and(|entry| entry.name != *name);
                !other
            });
            let found = found.ok_or_else(|| {
                Error::NotFound(format!("'{}' in the catalog of the snapshot", shown()))
            })?;
            let CatalogKind::Directory(table) = found?.kind else {
                return Err(Error::Invalid(format!("'{}' is no directory", shown())));
            };
            directory = self.table(table).await?;
        }
        Ok(directory)
    }

    async fn root(&mut self) -> Result<CatalogDirectory> {
        let (length, magic) = (self.index.size(), CATALOG_MAGIC.len() as u64);
        if length < magic + 8 || self.bytes(0..magic).await? != CATALOG_MAGIC[..] {
            return Err(CatalogError::WrongMagic.into());
        }
        let last = self.bytes(length - 8..length).await?;
        let last = *last.first_chunk::<8>().expect("eight bytes were asked for");
        let root = CatalogTable::root(last, length)?;
        self.table(root).await
    }

    async fn table(&mut self, table: CatalogTable) -> Result<CatalogDirectory> {
        // `CatalogTable` checks that positions lie within the stream.
        let end = self.index.size().saturating_sub(8);
        let head = table.0..end.min(table.0.saturating_add(NUMBER_BYTES_MAX));
        let mut reader = Reader {
            stream: self.bytes(head).await?,
            at: 0,
            base: table.0,
        };
        let length = reader.unsigned()?;
        let base = reader.offset();
        let rest_end = base.checked_add(length).filter(|rest| *rest <= end);
        let rest_end = rest_end.ok_or(CatalogError::Damaged(table.0))?;
        if length > TABLE_BYTES_MAX {
            return Err(Error::Invalid(format!(
                "the directory is too large to be listed: its table in the catalog has {length} bytes, at most {TABLE_BYTES_MAX} are read; download the catalog instead"
            )));
        }
        let rest = self.bytes(base..rest_end).await?;
        Ok(CatalogDirectory { table, rest, base })
    }

    /// A part of the stream; `range` lies within it.
    async fn bytes(&mut self, range: Range<u64>) -> Result<Bytes> {
        let mut bytes = BytesMut::with_capacity((range.end - range.start) as usize);
        for number in self.index.covering(range.clone()) {
            let contents = self.chunk(number).await?;
            let start = self.index.range(number).map_or(0, |chunk| chunk.start);
            let from = range.start.saturating_sub(start) as usize;
            let to = contents.len().min((range.end - start) as usize);
            bytes.extend_from_slice(&contents[from.min(to)..to]);
        }
        Ok(bytes.freeze())
    }

    async fn chunk(&mut self, number: usize) -> Result<Bytes> {
        if let Some((known, contents)) = &self.last
            && *known == number
        {
            return Ok(contents.clone());
        }
        let entry = self.index.chunk(number);
        let entry = entry.ok_or_else(|| CatalogError::Damaged(self.index.size()))?;
        self.chunks_read += 1;
        if self.chunks_read > CHUNKS_MAX {
            return Err(Error::Invalid(format!(
                "the catalog is spread over too many chunks: more than {CHUNKS_MAX} would have to be read for one directory"
            )));
        }
        self.last = None;
        let bytes_max = self.index.content_bytes_max(&entry);
        let chunk = self.chunks.read(&entry.digest, Some(bytes_max)).await?;
        let unpack = move || chunk.contents(&entry, bytes_max);
        let contents = self.chunks.env().compute(unpack).await?;
        self.last = Some((number, contents.clone()));
        Ok(contents)
    }
}

impl From<CatalogError> for Error {
    fn from(error: CatalogError) -> Self {
        Self::Invalid(error.to_string())
    }
}

#[cfg(test)]
mod tests;
