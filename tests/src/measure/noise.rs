//! Content that no compression makes smaller, that never repeats, and that is known from a seed.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;

/// An endless stream of bytes that a seed determines (SplitMix64). Not for secrets.
#[derive(Clone, Debug)]
pub struct Noise {
    state: u64,
}

impl Noise {
    /// The stream of this seed.
    pub fn new(seed: u64) -> Self {
        let mut noise = Self { state: seed };
        // Seeds that lie close together must not give streams that overlap.
        let state = noise.next() ^ seed.rotate_left(32);
        Self { state }
    }

    /// The stream number `n` of this seed.
    pub fn branch(seed: u64, n: u64) -> Self {
        Self::new(seed ^ Self::new(n ^ 0x5851_f42d_4c95_7f2d).next())
    }

    /// The next number.
    #[expect(
        clippy::should_implement_trait,
        reason = "it does not end, and nobody iterates over it"
    )]
    pub fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// Fills a buffer.
    pub fn fill(&mut self, buffer: &mut [u8]) {
        for part in buffer.chunks_mut(8) {
            let word = self.next().to_le_bytes();
            part.copy_from_slice(&word[..part.len()]);
        }
    }

    /// The next `length` bytes.
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.fill(&mut bytes);
        bytes
    }
}

/// An image of pieces of one size, each a stream of its own, so that each can be made again without the others.
#[derive(Clone, Copy, Debug)]
pub struct Image {
    /// Which image.
    pub seed: u64,
    /// Number of pieces.
    pub pieces: u64,
    /// Bytes of each, a multiple of 8.
    pub piece_bytes: usize,
}

impl Image {
    /// Its size.
    pub fn bytes(&self) -> u64 {
        self.pieces * self.piece_bytes as u64
    }

    /// One piece.
    pub fn piece(&self, number: u64) -> Bytes {
        Noise::branch(self.seed, number)
            .bytes(self.piece_bytes)
            .into()
    }

    /// Writes it to a new file.
    pub fn write(&self, path: &Path) -> Result<()> {
        let file =
            File::create(path).with_context(|| format!("cannot write '{}'", path.display()))?;
        let mut file = BufWriter::with_capacity(1 << 20, file);
        for number in 0..self.pieces {
            file.write_all(&self.piece(number))?;
        }
        file.into_inner().map_err(io::IntoInnerError::into_error)?;
        Ok(())
    }

    /// Whether `source` holds exactly this image; the error says from which piece on it does not.
    pub fn compare(&self, mut source: impl Read) -> Result<()> {
        let mut read = vec![0; self.piece_bytes];
        for number in 0..self.pieces {
            source
                .read_exact(&mut read)
                .with_context(|| format!("it ends in piece {number} of {}", self.pieces))?;
            ensure!(
                read == self.piece(number),
                "piece {number} of {} differs",
                self.pieces
            );
        }
        let further = source.read(&mut read)?;
        ensure!(further == 0, "it goes on after its end");
        Ok(())
    }
}

/// An image whose pieces each begin with a little noise and are empty otherwise: many chunks, few bytes.
#[derive(Clone, Copy, Debug)]
pub struct Sparse {
    /// Which image.
    pub seed: u64,
    /// Number of pieces.
    pub pieces: u64,
    /// Bytes of each.
    pub piece_bytes: usize,
}

/// Noise at the beginning of each piece of a sparse image.
const SPARSE_NOISE_BYTES: usize = 2 << 10;

impl Sparse {
    /// Writes it to a new file.
    pub fn write(&self, path: &Path) -> Result<()> {
        let file =
            File::create(path).with_context(|| format!("cannot write '{}'", path.display()))?;
        file.set_len(self.pieces * self.piece_bytes as u64)?;
        for number in 0..self.pieces {
            let noise = Noise::branch(self.seed, number).bytes(SPARSE_NOISE_BYTES);
            file.write_all_at(&noise, number * self.piece_bytes as u64)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_differ_and_come_again() {
        let image = Image {
            seed: 7,
            pieces: 3,
            piece_bytes: 64,
        };
        let other = Image { seed: 8, ..image };
        assert_eq!(image.piece(1), image.piece(1));
        assert_ne!(image.piece(0), image.piece(1));
        assert_ne!(image.piece(0), other.piece(0));
        let mut noise = Noise::new(1);
        assert_eq!(noise.bytes(5).len(), 5);
        assert!((0..100).all(|_| noise.below(3) < 3));
    }

    #[test]
    fn another_content_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        let image = Image {
            seed: 7,
            pieces: 3,
            piece_bytes: 64,
        };
        image.write(&path).unwrap();
        let mut written = std::fs::read(&path).unwrap();
        image.compare(&written[..]).unwrap();
        assert!(image.compare(&written[..191]).is_err());
        let longer = [&written[..], b"x"].concat();
        assert!(image.compare(&longer[..]).is_err());
        written[130] ^= 1;
        let error = image.compare(&written[..]).unwrap_err();
        assert!(error.to_string().contains("piece 2"), "{error}");
    }
}
