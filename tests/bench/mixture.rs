//! A directory as people have it: many small files and one large one, half of the bytes noise and half of them text.
//!
//! The text consists of made words from a seed, and compresses about 3:1; the noise does not compress. Nothing repeats.

use std::fs::{self, File};
use std::io::{BufWriter, Read as _, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result};
use holdfast_tests::measure::noise::Noise;

/// Regions of the large file, noise and text in turn.
const REGION_BYTES: u64 = 32 << 20;
/// What is made and written at a time.
const PIECE_BYTES: usize = 256 << 10;
/// Small files of one directory.
const DIR_FILES: u64 = 100;
/// Least and most bytes of a small file.
const SMALL_BYTES: (u64, u64) = (1 << 10, 64 << 10);
/// Words that texts are made of.
const WORDS: u64 = 4096;

/// Which directory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mixture {
    /// Decides all content.
    pub(crate) seed: u64,
    /// Number of small files.
    pub(crate) files: u64,
    /// Bytes of the large file.
    pub(crate) large_bytes: u64,
}

impl Mixture {
    /// Makes it in `root`, which must not exist. Returns how many bytes the files have.
    pub(crate) fn make(&self, root: &Path) -> Result<u64> {
        fs::create_dir(root).with_context(|| format!("cannot make '{}'", root.display()))?;
        let mut noise = Noise::branch(self.seed, 0);
        let mut text = Text::new(Noise::branch(self.seed, 1));
        let mut bytes = self.large_bytes;
        for number in 0..self.files {
            let dir = root.join(format!("part-{:04}", number / DIR_FILES));
            if number % DIR_FILES == 0 {
                fs::create_dir(&dir)?;
            }
            let (least, most) = SMALL_BYTES;
            let length = least + noise.below(most - least);
            let content = if number % 2 == 0 {
                noise.bytes(length as usize)
            } else {
                text.bytes(length as usize)
            };
            fs::write(dir.join(format!("file-{number:06}")), content)?;
            bytes += length;
        }
        let mut large = BufWriter::new(File::create(root.join("large"))?);
        let mut written = 0;
        while written < self.large_bytes {
            let length = (self.large_bytes - written).min(PIECE_BYTES as u64);
            let piece = if (written / REGION_BYTES).is_multiple_of(2) {
                noise.bytes(length as usize)
            } else {
                text.bytes(length as usize)
            };
            large.write_all(&piece)?;
            written += length;
        }
        large.flush()?;
        Ok(bytes)
    }
}

/// Reads every file below a directory, so that all of them are in the page cache.
pub(crate) fn read_through(root: &Path) -> Result<()> {
    let mut buffer = vec![0; PIECE_BYTES];
    for entry in walkdir::WalkDir::new(root) {
        let entry = entry?;
        if entry.file_type().is_file() {
            let mut file = File::open(entry.path())?;
            while file.read(&mut buffer)? > 0 {}
        }
    }
    Ok(())
}

/// An endless text.
struct Text {
    noise: Noise,
    words: Vec<Vec<u8>>,
}

impl Text {
    fn new(mut noise: Noise) -> Self {
        let word = |_| {
            let letters = 3 + noise.below(8);
            let mut word: Vec<u8> = (0..letters).map(|_| b'a' + noise.below(26) as u8).collect();
            word.push(b' ');
            word
        };
        let words = (0..WORDS).map(word).collect();
        Self { noise, words }
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut text = Vec::with_capacity(length + 16);
        while text.len() < length {
            // The product of two parts of one: some words come often, most of them seldom.
            let word = self.noise.below(WORDS) * self.noise.below(WORDS) / WORDS;
            text.extend_from_slice(&self.words[word as usize]);
        }
        text.truncate(length);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_compresses_to_about_a_third() {
        let text = Text::new(Noise::new(1)).bytes(1 << 20);
        let ratio = text.len() as f64 / zstd::bulk::compress(&text, 3).unwrap().len() as f64;
        assert!((2.5..3.5).contains(&ratio), "{ratio}");
    }

    #[test]
    fn a_seed_makes_a_directory_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let mixture = Mixture {
            seed: 1,
            files: 120,
            large_bytes: 300_001,
        };
        let (one, same, other) = (
            dir.path().join("1"),
            dir.path().join("2"),
            dir.path().join("3"),
        );
        let bytes = mixture.make(&one).unwrap();
        assert_eq!(mixture.make(&same).unwrap(), bytes);
        let else_seed = Mixture { seed: 2, ..mixture };
        else_seed.make(&other).unwrap();
        let large = |root: &Path| fs::read(root.join("large")).unwrap();
        assert_eq!(large(&one).len(), 300_001);
        assert!(large(&one) == large(&same) && large(&one) != large(&other));
        assert!(one.join("part-0001/file-000119").exists());
        read_through(&one).unwrap();
    }
}
