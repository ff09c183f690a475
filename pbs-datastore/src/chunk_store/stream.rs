//! Chunks of an archive in order, without a reader session (design 8 e): for verify, sync and restores on the server.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use super::read::{Chunk, ChunkReader, HEADER_BYTES_MAX};
use crate::cache::AHEAD_CHUNKS_MAX;
use crate::cache::fill::Flight;
use crate::metrics::add;
use crate::{Index, IndexChunk, Result};

/// An entry that was considered, and its fetch if it was worth one.
struct Coming {
    chunk: IndexChunk,
    flight: Option<Flight>,
}

/// Yields the chunks of a range of an index. Fetches ahead within the reader's bound and the memory that is to spare;
/// what is not fetched ahead is read when its turn comes.
pub struct ChunkStream {
    reader: Arc<ChunkReader>,
    index: Index,
    /// Entries not yet considered.
    entries: Range<usize>,
    coming: VecDeque<Coming>,
    bytes_ahead: u64,
}

impl std::fmt::Debug for ChunkStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let left = self.entries.len() + self.coming.len();
        write!(f, "ChunkStream({left} chunks left)")
    }
}

impl Drop for ChunkStream {
    fn drop(&mut self) {
        let flights = self
            .coming
            .iter()
            .filter_map(|coming| coming.flight.as_ref());
        let unused = flights.filter_map(Flight::landed_bytes).sum();
        add(&self.reader.metrics().ahead_bytes_unused, unused);
    }
}

impl ChunkStream {
    pub(crate) fn new(reader: Arc<ChunkReader>, index: Index, range: Range<u64>) -> Self {
        let entries = index.covering(range);
        Self {
            reader,
            index,
            entries,
            coming: VecDeque::new(),
            bytes_ahead: 0,
        }
    }

    /// The next chunk with its place in the archive; `None` at the end of the range. After an error the stream goes on
    /// with the chunk after it; errors as of [`ChunkReader::read`].
    pub async fn next(&mut self) -> Option<(IndexChunk, Result<Arc<Chunk>>)> {
        self.fetch();
        let coming = self.coming.pop_front();
        let (chunk, flight) = match coming {
            Some(coming) => (coming.chunk, coming.flight),
            None => (self.index.chunk(self.entries.next()?)?, None),
        };
        if let Some(flight) = flight {
            self.bytes_ahead -= chunk.len() + HEADER_BYTES_MAX;
            if let Ok(read) = flight.wait().await {
                let used = read.encoded_len() as u64;
                add(&self.reader.metrics().ahead_bytes_used, used);
                return Some((chunk, Ok(read)));
            }
        }
        let read = self.reader.read(&chunk.digest, Some(chunk.len()));
        Some((chunk, read.await))
    }

    fn fetch(&mut self) {
        while self.coming.len() < AHEAD_CHUNKS_MAX {
            let Some(chunk) = self.index.chunk(self.entries.start) else {
                return;
            };
            if self.entries.is_empty() {
                return;
            }
            let bytes = chunk.len() + HEADER_BYTES_MAX;
            let coming = |coming: &Coming| coming.chunk.digest == chunk.digest;
            let mut flight = None;
            if self.reader.gains_from_ahead(&chunk.digest) && !self.coming.iter().any(coming) {
                if self.bytes_ahead + bytes > self.reader.ahead_bytes_max() {
                    return;
                }
                let Some(permit) = self.reader.budget().try_take_spare(bytes) else {
                    return;
                };
                flight = self.reader.start_ahead(chunk.digest, permit);
            }
            if flight.is_some() {
                self.bytes_ahead += bytes;
            }
            self.entries.start += 1;
            self.coming.push_back(Coming { chunk, flight });
        }
    }
}
