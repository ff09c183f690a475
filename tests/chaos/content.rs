//! What is backed up: content that a seed determines, made of pieces that many snapshots share.
//!
//! Most pieces come from a pool that is a few times larger than what all living snapshots need. So at any time part of the
//! pool is garbage, and sooner or later somebody backs up a piece again that was deleted, or is being deleted, a moment ago.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use holdfast_tests::measure::noise::Noise;

/// Pieces of the pool of streams.
const POOL_PIECES: u64 = 1200;
/// Pieces of the pool of images.
const IMAGE_POOL_PIECES: u64 = 60;
/// Pieces that occur once carry numbers from here on.
const FRESH: u64 = 1 << 32;
/// Pieces of the ballast carry numbers from here on.
const BALLAST: u64 = 1 << 48;
/// Pieces of removed snapshots that are remembered: those of the last dozen or two.
const GONE_PIECES: usize = 300;
/// One piece of a stream has 1 to this many units.
const UNITS_MAX: u64 = 10;
const UNIT_BYTES: usize = 16 << 10;
const BALLAST_PIECE_BYTES: usize = 1 << 20;
/// A piece of an image: one chunk of a fixed index, nearly empty.
const IMAGE_PIECE_BYTES: usize = 4 << 20;
const IMAGE_NOISE_BYTES: usize = 4 << 10;
/// How many pieces a stream and an image have.
const STREAM_PIECES: (u64, u64) = (8, 28);
const IMAGE_PIECES: (u64, u64) = (1, 3);

/// Kind of archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// `data.didx`
    Stream,
    /// `disk.img.fidx`
    Image,
}

impl Shape {
    /// Name of the archive on the server.
    pub(crate) fn archive(self) -> &'static str {
        match self {
            Self::Stream => "data.didx",
            Self::Image => "disk.img.fidx",
        }
    }
}

/// The content of one snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Kind of its one archive.
    pub(crate) shape: Shape,
    /// Numbers of its pieces in order.
    pub(crate) pieces: Vec<u64>,
}

impl Plan {
    /// Whether it is [`Pool::ballast`].
    pub(crate) fn is_ballast(&self) -> bool {
        self.pieces.first().is_some_and(|first| *first >= BALLAST)
    }
}

/// Makes plans and pieces.
#[derive(Debug)]
pub(crate) struct Pool {
    seed: u64,
    next_fresh: AtomicU64,
    gone_streams: Mutex<VecDeque<u64>>,
    gone_images: Mutex<VecDeque<u64>>,
}

impl Pool {
    /// The content of this seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            seed,
            next_fresh: AtomicU64::new(FRESH),
            gone_streams: Mutex::default(),
            gone_images: Mutex::default(),
        }
    }

    /// A snapshot that is large and never goes: it fills the cache, so that all else is evicted.
    pub(crate) fn ballast(pieces: u64) -> Plan {
        Plan {
            shape: Shape::Stream,
            pieces: (BALLAST..BALLAST + pieces).collect(),
        }
    }

    /// Content for the next snapshot of a group whose last one is `base`: three quarters of it, changed here and there.
    pub(crate) fn plan(&self, noise: &mut Noise, shape: Shape, base: Option<&Plan>) -> Plan {
        let (least, most) = match shape {
            Shape::Stream => STREAM_PIECES,
            Shape::Image => IMAGE_PIECES,
        };
        let count = least + noise.below(most - least + 1);
        let base = base.filter(|base| base.shape == shape);
        let pieces = (0..count).map(|place| {
            let old = base.and_then(|base| base.pieces.get(place as usize));
            match old {
                Some(old) if noise.below(4) > 0 => *old,
                _ => self.pick(noise, shape),
            }
        });
        Plan {
            shape,
            pieces: pieces.collect(),
        }
    }

    fn pick(&self, noise: &mut Noise, shape: Shape) -> u64 {
        if noise.below(8) == 0 {
            return self.next_fresh.fetch_add(1, Ordering::Relaxed);
        }
        let gone = self.gone(shape);
        if !gone.is_empty() && noise.below(3) == 0 {
            return gone[noise.below(gone.len() as u64) as usize];
        }
        drop(gone);
        match shape {
            Shape::Stream => noise.below(POOL_PIECES),
            Shape::Image => noise.below(IMAGE_POOL_PIECES),
        }
    }

    fn gone(&self, shape: Shape) -> MutexGuard<'_, VecDeque<u64>> {
        let gone = match shape {
            Shape::Stream => &self.gone_streams,
            Shape::Image => &self.gone_images,
        };
        gone.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A snapshot with this content is gone: its pieces are likely to be garbage, and more likely than others to be backed
    /// up again.
    pub(crate) fn is_gone(&self, plan: &Plan) {
        let mut gone = self.gone(plan.shape);
        gone.extend(&plan.pieces);
        let surplus = gone.len().saturating_sub(GONE_PIECES);
        gone.drain(..surplus);
    }

    /// The bytes of a piece.
    pub(crate) fn piece(&self, shape: Shape, number: u64) -> Bytes {
        match shape {
            Shape::Stream if number >= BALLAST => Noise::branch(self.seed, number)
                .bytes(BALLAST_PIECE_BYTES)
                .into(),
            Shape::Stream => {
                let mut noise = Noise::branch(self.seed, number);
                let units = 1 + noise.below(UNITS_MAX) as usize;
                noise.bytes(units * UNIT_BYTES).into()
            }
            Shape::Image => {
                let mut noise = Noise::branch(!self.seed, number);
                let mut bytes = vec![0; IMAGE_PIECE_BYTES];
                noise.fill(&mut bytes[..IMAGE_NOISE_BYTES]);
                bytes.into()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_snapshot_shares_most_of_the_last() {
        let pool = Pool::new(3);
        let mut noise = Noise::new(5);
        let first = pool.plan(&mut noise, Shape::Stream, None);
        let shared: usize = (0..40)
            .map(|_| {
                let next = pool.plan(&mut noise, Shape::Stream, Some(&first));
                let pairs = next.pieces.iter().zip(&first.pieces);
                pairs.filter(|(new, old)| new == old).count() * 100 / next.pieces.len()
            })
            .sum();
        assert!((30..=90).contains(&(shared / 40)), "{}", shared / 40);
        let image = pool.plan(&mut noise, Shape::Image, Some(&first));
        assert!(image.pieces.len() <= 3);
    }

    #[test]
    fn what_is_gone_is_backed_up_again() {
        let pool = Pool::new(3);
        let mut noise = Noise::new(5);
        let plan = |pieces| Plan {
            shape: Shape::Stream,
            pieces,
        };
        pool.is_gone(&plan((0..GONE_PIECES as u64).collect()));
        pool.is_gone(&plan(vec![FRESH - 1; GONE_PIECES]));
        let next = (0..20).map(|_| pool.plan(&mut noise, Shape::Stream, None));
        let again = next
            .flat_map(|plan| plan.pieces)
            .filter(|n| *n == FRESH - 1);
        assert!(again.count() > 40);
        assert_eq!(pool.gone(Shape::Stream).len(), GONE_PIECES);
    }

    #[test]
    fn pieces_come_again_and_differ() {
        let pool = Pool::new(3);
        assert_eq!(pool.piece(Shape::Stream, 7), pool.piece(Shape::Stream, 7));
        assert_ne!(pool.piece(Shape::Stream, 7), pool.piece(Shape::Stream, 8));
        assert_eq!(pool.piece(Shape::Image, 7).len(), IMAGE_PIECE_BYTES);
        let ballast = Pool::ballast(2);
        assert_eq!(
            pool.piece(Shape::Stream, ballast.pieces[1]).len(),
            BALLAST_PIECE_BYTES
        );
    }
}
