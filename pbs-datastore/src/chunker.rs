//! Cutting a stream into chunks.
//!
//! *By content*: FastCDC. Where a chunk ends depends on the bytes around the end only, so that an insertion changes the
//! chunks around it and no others. A quarter of the average is the least length, four times the average the greatest.
//! Any server of the format accepts any cuts; data that other clients have cut in other places is stored again.
//!
//! *By size*: for images, whose blocks stay where they are.
//!
//! The hash runs on from one piece of input to the next, so no more is buffered than the chunk that is being cut.

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};
use fastcdc::v2020::{Normalization, get_gear_with_seed, select_masks};

use crate::index::fixed;

/// The usual average length of a chunk cut by content: 4 MiB.
pub const AVERAGE_BYTES: usize = 4 << 20;
/// The least average that can be chosen: 64 KiB.
pub const AVERAGE_BYTES_MIN: usize = 64 << 10;

/// An average that is no power of two between [`AVERAGE_BYTES_MIN`] and [`AVERAGE_BYTES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is no average chunk size: use a power of two from 65536 to 4194304")]
pub struct AverageError(pub usize);

/// The rolling hash and the lengths between which it may cut.
#[derive(Debug)]
struct Gear {
    table: Cow<'static, [u64]>,
    hash: u64,
    /// Bits that are to be zero for a cut before the average length, and after.
    masks: (u64, u64),
    average: usize,
}

impl Gear {
    /// Looks for a cut in `input`, which continues a chunk of `before` bytes. Returns how many bytes of it belong to the
    /// chunk and whether it ends there.
    fn scan(&mut self, before: usize, input: &[u8]) -> (usize, bool) {
        let at = |length: usize| length.saturating_sub(before).min(input.len());
        let greatest = self.average * 4;
        let (first, middle, last) = (at(self.average / 4), at(self.average), at(greatest));
        let (before_average, after) = self.masks;
        let cut = self
            .find(&input[first..middle], before_average)
            .map(|i| first + i)
            .or_else(|| Some(middle + self.find(&input[middle..last], after)?));
        match cut {
            Some(cut) => (cut, true),
            None => (last, before + last == greatest),
        }
    }

    /// Rolls over `bytes` up to the one that completes the pattern, which is the first of the next chunk.
    fn find(&mut self, bytes: &[u8], mask: u64) -> Option<usize> {
        let (table, mut hash, mut found) = (&*self.table, self.hash, None);
        let mut i = 0;
        while i < bytes.len() {
            hash = (hash << 1).wrapping_add(table[usize::from(bytes[i])]);
            if hash & mask == 0 {
                found = Some(i);
                break;
            }
            i += 1;
        }
        self.hash = hash;
        found
    }
}

#[derive(Debug)]
enum Rule {
    Content(Gear),
    Size(usize),
}

/// Cuts a stream, given in pieces of any length, into chunks. Buffers less than one chunk.
#[derive(Debug)]
pub struct Chunker {
    rule: Rule,
    /// The beginning of the chunk that is being cut.
    begun: BytesMut,
}

impl Chunker {
    /// Cuts by content, into chunks of `average` bytes on average and at most four times that.
    pub fn by_content(average: usize) -> Result<Self, AverageError> {
        if !average.is_power_of_two() || !(AVERAGE_BYTES_MIN..=AVERAGE_BYTES).contains(&average) {
            return Err(AverageError(average));
        }
        let (table, _) = get_gear_with_seed(0);
        let masks = select_masks(average, Normalization::Level1);
        Ok(Self::with(Rule::Content(Gear {
            table,
            hash: 0,
            masks,
            average,
        })))
    }

    /// Cuts into chunks of 4 MiB, the only size for images.
    pub fn by_size() -> Self {
        Self::with(Rule::Size(fixed::CHUNK_SIZE as usize))
    }

    fn with(rule: Rule) -> Self {
        Self {
            rule,
            begun: BytesMut::new(),
        }
    }

    /// Takes from the front of `input` what belongs to the current chunk and returns the chunk if that completes it.
    /// `None` means that `input` is empty now and more is needed. A chunk that lies in one piece of input is not copied; it
    /// keeps that piece in memory.
    pub fn next_chunk(&mut self, input: &mut Bytes) -> Option<Bytes> {
        let before = self.begun.len();
        let (taken, complete) = match &mut self.rule {
            Rule::Content(gear) => gear.scan(before, input),
            Rule::Size(size) => {
                let taken = input.len().min(*size - before);
                (taken, before + taken == *size)
            }
        };
        let piece = input.split_to(taken);
        if !complete {
            self.begun.extend_from_slice(&piece);
            return None;
        }
        if let Rule::Content(gear) = &mut self.rule {
            gear.hash = 0;
        }
        if before == 0 {
            return Some(piece);
        }
        self.begun.extend_from_slice(&piece);
        Some(std::mem::take(&mut self.begun).freeze())
    }

    /// The last chunk, of any length, or `None` if the stream ended with a complete one.
    pub fn finish(self) -> Option<Bytes> {
        (!self.begun.is_empty()).then(|| self.begun.freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fastcdc::v2020::FastCDC;
    use proptest::prelude::*;

    /// Bytes that look random and are the same for the same seed.
    fn noise(seed: u64, length: usize) -> Vec<u8> {
        let mut state = seed;
        let next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        std::iter::repeat_with(next).take(length).collect()
    }

    /// The lengths of the chunks of `data`, given in pieces of `piece` bytes.
    fn cut(mut chunker: Chunker, data: &[u8], piece: usize) -> Vec<usize> {
        let (mut lengths, mut whole) = (Vec::new(), Vec::new());
        for piece in data.chunks(piece) {
            let mut input = Bytes::copy_from_slice(piece);
            while let Some(chunk) = chunker.next_chunk(&mut input) {
                lengths.push(chunk.len());
                whole.extend_from_slice(&chunk);
            }
            assert!(input.is_empty());
        }
        if let Some(chunk) = chunker.finish() {
            lengths.push(chunk.len());
            whole.extend_from_slice(&chunk);
        }
        assert!(whole == data, "the chunks make up the data");
        lengths
    }

    fn by_content(data: &[u8], piece: usize) -> Vec<usize> {
        cut(
            Chunker::by_content(AVERAGE_BYTES_MIN).expect("valid"),
            data,
            piece,
        )
    }

    #[test]
    fn cuts_are_those_of_fastcdc() {
        let data = noise(1, 3 << 20);
        let (least, average, greatest) = (
            AVERAGE_BYTES_MIN / 4,
            AVERAGE_BYTES_MIN,
            AVERAGE_BYTES_MIN * 4,
        );
        let wanted: Vec<_> = FastCDC::new(&data, least, average, greatest)
            .map(|chunk| chunk.length)
            .collect();
        assert!(wanted.len() > 20, "{wanted:?}");
        assert_eq!(by_content(&data, data.len()), wanted);
        assert_eq!(by_content(&data, 4097), wanted);
    }

    #[test]
    fn data_without_a_cut_gets_the_greatest_length() {
        let greatest = AVERAGE_BYTES_MIN * 4;
        for piece in [1000, greatest, 3 * greatest] {
            let lengths = by_content(&vec![0; 2 * greatest + 5], piece);
            assert_eq!(lengths, [greatest, greatest, 5], "pieces of {piece}");
        }
        assert_eq!(by_content(&[], 1), [0; 0]);
    }

    #[test]
    fn an_insertion_leaves_the_cuts_behind_it() {
        let data = noise(2, 3 << 20);
        let mut changed = data.clone();
        changed.splice(100_000..100_000, *b"something");
        let (before, after) = (by_content(&data, 1 << 20), by_content(&changed, 1 << 20));
        let same = before
            .iter()
            .rev()
            .zip(after.iter().rev())
            .take_while(|(a, b)| a == b)
            .count();
        assert!(
            same + 10 > before.len(),
            "{same} of {} chunks are the same",
            before.len()
        );
    }

    #[test]
    fn images_are_cut_by_size() {
        let data = vec![1; (9 << 20) + 1];
        for piece in [1 << 20, (3 << 20) + 7, 10 << 20] {
            let lengths = cut(Chunker::by_size(), &data, piece);
            assert_eq!(lengths, [4 << 20, 4 << 20, (1 << 20) + 1]);
        }
        let even = cut(Chunker::by_size(), &data[..8 << 20], 1 << 20);
        assert_eq!(even, [4 << 20, 4 << 20]);
    }

    #[test]
    fn a_chunk_within_one_piece_is_not_copied() {
        let mut input = Bytes::from(vec![1; 5 << 20]);
        let start = input.as_ptr();
        let chunk = Chunker::by_size()
            .next_chunk(&mut input)
            .expect("a whole chunk");
        assert_eq!(chunk.as_ptr(), start);
    }

    #[test]
    fn odd_averages_are_refused() {
        for average in [0, 1, 65_535, 100_000, 8 << 20] {
            assert_eq!(
                Chunker::by_content(average).map(|_| ()),
                Err(AverageError(average))
            );
        }
        assert!(Chunker::by_content(AVERAGE_BYTES).is_ok());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn pieces_do_not_matter(seed: u64, length in 0..1_000_000_usize, piece in 100..300_000_usize) {
            let data = noise(seed, length);
            let lengths = by_content(&data, piece);
            prop_assert_eq!(&lengths, &by_content(&data, length.max(1)));
            for inner in lengths.iter().rev().skip(1) {
                prop_assert!((AVERAGE_BYTES_MIN / 4..=AVERAGE_BYTES_MIN * 4).contains(inner));
            }
        }
    }
}
