//! Indexes while they are written: files, so that memory does not grow with the archive.
//!
//! The header is written last. What is in the file before is nobody's index: it has no magic.
//!
//! The checks are those of the backup protocol: a fixed index takes its slots in any order and again, a dynamic one is
//! appended to; closing compares the number of appends, the size and the checksum with the client's.

use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::{INDEX_BYTES_MAX, INDEX_HEADER_BYTES, IndexChecksum, dynamic, fixed};
use crate::Digest;
use crate::blob::CHUNK_BYTES_MAX;
use crate::error::{About as _, Error, Result};
use crate::files::{FILE_MODE, Files};

/// Bytes of an index that are read or copied at once; a multiple of both entry sizes is not needed.
const PIECE_BYTES: usize = 1 << 20;

/// One chunk of an archive, as a client appends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexAppend {
    /// Where it starts in the archive.
    pub offset: u64,
    /// Its length before encoding.
    pub size: u64,
    /// Its name.
    pub digest: Digest,
}

/// What a closed index is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClosedIndex {
    /// Bytes of the archive.
    pub size: u64,
    /// Checksum over the entries.
    pub csum: Digest,
    /// Bytes of the file.
    pub file_bytes: u64,
}

fn invalid(text: String) -> Error {
    Error::Invalid(text)
}

/// Hands the entries of an index file to `each`, piece by piece, each piece a whole number of `entry_bytes`.
fn read_entries(
    files: &dyn Files,
    path: &Path,
    entry_bytes: usize,
    mut each: impl FnMut(u64, &[u8]) -> Result<()>,
) -> Result<()> {
    let piece = PIECE_BYTES / entry_bytes * entry_bytes;
    let mut at = INDEX_HEADER_BYTES as u64;
    loop {
        let bytes = files.read_at(path, at, piece).about(path)?;
        if bytes.is_empty() {
            return Ok(());
        }
        each(at, &bytes)?;
        at += bytes.len() as u64;
    }
}

fn checksum(files: &dyn Files, path: &Path, entry_bytes: usize) -> Result<Digest> {
    let mut csum = IndexChecksum::new();
    read_entries(files, path, entry_bytes, |_, bytes| {
        csum.push_raw(bytes);
        Ok(())
    })?;
    Ok(csum.finish())
}

fn check_count(what: &str, announced: u64, actual: u64) -> Result<()> {
    if announced == actual {
        return Ok(());
    }
    Err(invalid(format!(
        "the client announced {announced} {what}, the server has {actual}"
    )))
}

/// A fixed index in the making.
#[derive(Debug)]
pub struct FixedWriter {
    path: PathBuf,
    uuid: Uuid,
    ctime: i64,
    /// Size of the image; while it grows, the end of what was appended.
    size: u64,
    growing: bool,
    /// A growing image has got its short last chunk.
    ended: bool,
    incremental: bool,
    appends: u64,
}

impl FixedWriter {
    /// Creates the file for an image of `size` bytes, or of one that grows with what is appended.
    pub fn create(
        files: &dyn Files,
        path: PathBuf,
        size: Option<u64>,
        uuid: Uuid,
        ctime: i64,
    ) -> Result<Self> {
        if size == Some(0) {
            return Err(invalid("an image has at least one byte".to_owned()));
        }
        let file_bytes = file_bytes(size.unwrap_or(0))?;
        files.create(&path, FILE_MODE, &[], false).about(&path)?;
        files.set_len(&path, file_bytes).about(&path)?;
        Ok(Self {
            path,
            uuid,
            ctime,
            size: size.unwrap_or(0),
            growing: size.is_none(),
            ended: false,
            incremental: false,
            appends: 0,
        })
    }

    /// Creates the file as a copy of the index at `previous`, which must have the checksum `csum` and as many slots.
    pub fn create_from(
        files: &dyn Files,
        path: PathBuf,
        size: u64,
        previous: &Path,
        csum: &Digest,
        uuid: Uuid,
        ctime: i64,
    ) -> Result<Self> {
        let header = files
            .read_at(previous, 0, INDEX_HEADER_BYTES)
            .about(previous)?;
        let field = |at: usize| {
            let bytes = header.get(at..).and_then(|rest| rest.first_chunk::<8>());
            bytes.map(|bytes| u64::from_le_bytes(*bytes))
        };
        let is_fixed = header.starts_with(&fixed::MAGIC) && field(72) == Some(fixed::CHUNK_SIZE);
        let slots = field(64).map(|size| size.div_ceil(fixed::CHUNK_SIZE));
        if !is_fixed || slots != Some(size.div_ceil(fixed::CHUNK_SIZE)) {
            return Err(invalid(
                "the previous index cannot be reused: it has another number of chunks".to_owned(),
            ));
        }
        let found = checksum(files, previous, fixed::ENTRY_BYTES)?;
        if found != *csum {
            return Err(invalid(format!(
                "the previous index cannot be reused: its checksum is {found}, not {csum}"
            )));
        }
        let mut writer = Self::create(files, path, Some(size), uuid, ctime)?;
        writer.incremental = true;
        let expected = file_bytes(size)?;
        read_entries(files, previous, fixed::ENTRY_BYTES, |at, bytes| {
            if at + bytes.len() as u64 > expected {
                return Err(invalid("the previous index has a wrong length".to_owned()));
            }
            files.write_at(&writer.path, at, bytes).about(&writer.path)
        })?;
        Ok(writer)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the slots of `chunks`, in any order and again. Fails at the first bad one; those before it are written.
    pub fn append(&mut self, files: &dyn Files, chunks: &[IndexAppend]) -> Result<()> {
        let mut run = Vec::new();
        let mut run_at = 0;
        for chunk in chunks {
            let slot = match self.check(chunk) {
                Ok(slot) => slot,
                Err(error) => {
                    self.flush(files, run_at, &run)?;
                    return Err(error);
                }
            };
            let end = run_at + (run.len() / fixed::ENTRY_BYTES) as u64;
            if slot != end || run.len() >= PIECE_BYTES {
                self.flush(files, run_at, &run)?;
                run.clear();
                run_at = slot;
            }
            run.extend_from_slice(chunk.digest.as_bytes());
            self.appends += 1;
            if self.growing {
                self.size = self.size.max(chunk.offset + chunk.size);
                self.ended |= chunk.size < fixed::CHUNK_SIZE;
            }
        }
        self.flush(files, run_at, &run)
    }

    fn flush(&self, files: &dyn Files, slot: u64, run: &[u8]) -> Result<()> {
        if run.is_empty() {
            return Ok(());
        }
        let at = INDEX_HEADER_BYTES as u64 + slot * fixed::ENTRY_BYTES as u64;
        files.write_at(&self.path, at, run).about(&self.path)
    }

    fn check(&self, chunk: &IndexAppend) -> Result<u64> {
        let IndexAppend { offset, size, .. } = *chunk;
        let wrong = |why: &str| {
            invalid(format!(
                "a chunk of {size} bytes at {offset} cannot be in this image: {why}"
            ))
        };
        if !offset.is_multiple_of(fixed::CHUNK_SIZE) {
            return Err(wrong("the offset is no multiple of the chunk size"));
        }
        let end = offset
            .checked_add(size)
            .filter(|_| (1..=fixed::CHUNK_SIZE).contains(&size));
        let end = end.ok_or_else(|| wrong("its length is wrong"))?;
        if self.growing {
            file_bytes(end)?;
            if self.ended && end > self.size {
                return Err(wrong("the image has ended before"));
            }
            if size < fixed::CHUNK_SIZE && end < self.size {
                return Err(wrong("only the last chunk may be short"));
            }
        } else {
            if end > self.size {
                return Err(wrong("it lies after the end"));
            }
            if size < fixed::CHUNK_SIZE && end != self.size {
                return Err(wrong("only the last chunk may be short"));
            }
        }
        Ok(offset / fixed::CHUNK_SIZE)
    }

    /// Fails unless the client counts as we do; the writer stays usable. An incremental one tells its size as the bytes
    /// it wrote this time, so only the appends are compared.
    pub fn check_counts(&self, chunk_count: u64, size: u64) -> Result<()> {
        check_count("chunks", chunk_count, self.appends)?;
        if !self.incremental {
            check_count("chunks", chunk_count, self.size.div_ceil(fixed::CHUNK_SIZE))?;
            check_count("bytes", size, self.size)?;
        }
        Ok(())
    }

    /// Writes the header, if every slot is there and the checksum is the client's. After a failure the writer is spent.
    pub fn finish(self, files: &dyn Files, csum: &Digest) -> Result<ClosedIndex> {
        let mut empty = None;
        read_entries(files, &self.path, fixed::ENTRY_BYTES, |at, bytes| {
            let slot = bytes
                .chunks_exact(fixed::ENTRY_BYTES)
                .position(|digest| digest.iter().all(|b| *b == 0));
            let first = (at - INDEX_HEADER_BYTES as u64) / fixed::ENTRY_BYTES as u64;
            empty = empty.or(slot.map(|slot| first + slot as u64));
            Ok(())
        })?;
        if let Some(slot) = empty {
            return Err(invalid(format!(
                "chunk {slot} of the image was never written"
            )));
        }
        let actual = checksum(files, &self.path, fixed::ENTRY_BYTES)?;
        check_csum(csum, &actual)?;
        let (size, chunk) = (self.size, fixed::CHUNK_SIZE);
        let header = fixed::header(&self.uuid, self.ctime, &actual, size, chunk);
        files.write_at(&self.path, 0, &header).about(&self.path)?;
        Ok(ClosedIndex {
            size,
            csum: actual,
            file_bytes: file_bytes(size)?,
        })
    }
}

fn check_csum(announced: &Digest, actual: &Digest) -> Result<()> {
    if announced == actual {
        return Ok(());
    }
    Err(invalid(format!(
        "the index has the checksum {actual}, the client announced {announced}"
    )))
}

/// Bytes of the file of an image of `size` bytes.
fn file_bytes(size: u64) -> Result<u64> {
    let slots = fixed::entries(size, fixed::CHUNK_SIZE).map_err(|e| invalid(e.to_string()))?;
    let bytes = slots
        .saturating_mul(fixed::ENTRY_BYTES as u64)
        .saturating_add(INDEX_HEADER_BYTES as u64);
    if bytes > INDEX_BYTES_MAX as u64 {
        return Err(invalid(format!("an image of {size} bytes is too large")));
    }
    Ok(bytes)
}

/// A dynamic index in the making.
#[derive(Debug)]
pub struct DynamicWriter {
    path: PathBuf,
    uuid: Uuid,
    ctime: i64,
    size: u64,
    appends: u64,
    csum: IndexChecksum,
}

impl std::fmt::Debug for IndexChecksum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("IndexChecksum")
    }
}

impl DynamicWriter {
    /// Creates the file.
    pub fn create(files: &dyn Files, path: PathBuf, uuid: Uuid, ctime: i64) -> Result<Self> {
        files.create(&path, FILE_MODE, &[], false).about(&path)?;
        let header_bytes = INDEX_HEADER_BYTES as u64;
        files.set_len(&path, header_bytes).about(&path)?;
        Ok(Self {
            path,
            uuid,
            ctime,
            size: 0,
            appends: 0,
            csum: IndexChecksum::new(),
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends chunks, each of which must start where the one before ended. Fails at the first bad one; those before it
    /// are appended.
    pub fn append(&mut self, files: &dyn Files, chunks: &[IndexAppend]) -> Result<()> {
        let mut run = Vec::new();
        let mut at = self.file_bytes();
        let mut failure = None;
        for chunk in chunks {
            let end = self.size.saturating_add(chunk.size);
            let fits = (1..=CHUNK_BYTES_MAX as u64).contains(&chunk.size)
                && self.file_bytes() + dynamic::ENTRY_BYTES as u64 <= INDEX_BYTES_MAX as u64;
            if chunk.offset != self.size || !fits {
                failure = Some(invalid(format!(
                    "a chunk of {} bytes at {} cannot follow: the archive ends at {}",
                    chunk.size, chunk.offset, self.size
                )));
                break;
            }
            if run.len() >= PIECE_BYTES {
                files.write_at(&self.path, at, &run).about(&self.path)?;
                at += run.len() as u64;
                run.clear();
            }
            let entry = dynamic::entry(end, &chunk.digest);
            self.csum.push_raw(&entry);
            run.extend_from_slice(&entry);
            self.size = end;
            self.appends += 1;
        }
        if !run.is_empty() {
            files.write_at(&self.path, at, &run).about(&self.path)?;
        }
        failure.map_or(Ok(()), Err)
    }

    fn file_bytes(&self) -> u64 {
        INDEX_HEADER_BYTES as u64 + self.appends * dynamic::ENTRY_BYTES as u64
    }

    /// Fails unless the client counts as we do; the writer stays usable.
    pub fn check_counts(&self, chunk_count: u64, size: u64) -> Result<()> {
        check_count("chunks", chunk_count, self.appends)?;
        check_count("bytes", size, self.size)?;
        if self.appends == 0 {
            return Err(invalid(
                "an archive without chunks cannot be closed".to_owned(),
            ));
        }
        Ok(())
    }

    /// Writes the header, if the checksum is the client's. After a failure the writer is spent.
    pub fn finish(self, files: &dyn Files, csum: &Digest) -> Result<ClosedIndex> {
        let file_bytes = self.file_bytes();
        let actual = self.csum.finish();
        check_csum(csum, &actual)?;
        let header = dynamic::header(&self.uuid, self.ctime, &actual);
        files.write_at(&self.path, 0, &header).about(&self.path)?;
        Ok(ClosedIndex {
            size: self.size,
            csum: actual,
            file_bytes,
        })
    }
}

#[cfg(test)]
mod tests;
