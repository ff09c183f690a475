//! Named: the chunks that this run's mark has seen in an index, kept in memory beside their markers.
//!
//! A mark is the time of a file, and while a run lasts other programs reach files too: somebody empties the cache directory
//! because it is disposable, or a backup of it puts the access times back that it found. What a run has read in an index it does
//! not remove, whatever has become of the mark since (I2). Chunks that only an open session knows have their marks alone.
//!
//! Of a digest the first 48 bits are kept, four to eight bytes for each chunk in use. Two digests that agree in these keep each other,
//! which costs space and no chunk: among 64 million chunks in use one of four million others is kept so.

use crate::Digest;
use crate::gc::{FOLDERS, folder_of};
use crate::sabotage::{self, Rule};

/// The chunks that were named.
#[derive(Debug)]
pub(super) struct Named {
    /// For each chunk folder the four bytes that follow.
    folders: Vec<Vec<u32>>,
    /// How many more fit.
    left: usize,
    forgets: bool,
}

fn rest_of(digest: &Digest) -> u32 {
    u32::from_be_bytes([digest.0[2], digest.0[3], digest.0[4], digest.0[5]])
}

impl Named {
    /// None yet, and at most `most`.
    pub(super) fn new(most: usize) -> Self {
        Self {
            folders: vec![Vec::new(); FOLDERS as usize],
            left: most,
            forgets: false,
        }
    }

    /// Remembers a chunk, unless there are too many.
    pub(super) fn insert(&mut self, digest: &Digest) {
        let (names, rest) = (
            &mut self.folders[folder_of(digest) as usize],
            rest_of(digest),
        );
        if names.contains(&rest) {
            return;
        }
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                names.push(rest);
            }
            None => self.forgets = true,
        }
    }

    /// Whether the chunk was named, as far as remembered.
    pub(super) fn contains(&self, digest: &Digest) -> bool {
        // What the one protects the other would hide.
        if sabotage::is_off(Rule::NamedRemembered) || sabotage::is_off(Rule::UsingMarkerProtects) {
            return false;
        }
        self.folders[folder_of(digest) as usize].contains(&rest_of(digest))
    }

    /// Whether there were more than fit: of these the marks alone tell.
    pub(super) fn forgets(&self) -> bool {
        self.forgets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_is_remembered_and_the_rest_is_told() {
        let mut named = Named::new(2);
        let digests: Vec<_> = (0..3u8).map(|i| Digest::of(&[i])).collect();
        for digest in [&digests[0], &digests[1], &digests[0]] {
            named.insert(digest);
        }
        assert!(!named.forgets());
        named.insert(&digests[2]);
        assert!(named.forgets());
        let contained = digests.iter().map(|digest| named.contains(digest));
        assert_eq!(contained.collect::<Vec<_>>(), [true, true, false]);
    }
}
