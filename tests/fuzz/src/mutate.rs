//! New inputs from old ones, the same for the same seed.

use crate::targets::Target;

/// Changes made to one input at once, at most.
const CHANGES_MAX: u64 = 6;
const NUMBERS: [u64; 16] = [
    0,
    1,
    2,
    7,
    8,
    127,
    128,
    255,
    256,
    4095,
    4096,
    65_535,
    1 << 31,
    1 << 32,
    1 << 63,
    u64::MAX,
];
const TEXT_NUMBERS: [&[u8]; 8] = [
    b"0",
    b"-1",
    b"1",
    b"65536",
    b"4294967296",
    b"9223372036854775807",
    b"18446744073709551616",
    b"1e400",
];

/// SplitMix64: small, and good enough to choose with.
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    /// The choices of one input: those of a seed, a target and a number.
    pub fn of(seed: u64, target: &str, number: u64) -> Self {
        let name = target
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            });
        let mut chance = Self(seed ^ name);
        let start = chance.next() ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self(start)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is not 0.
    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn of_list<'a, T: ?Sized>(&mut self, list: &[&'a T]) -> &'a T {
        list[self.below(list.len())]
    }

    /// A part of `length` bytes, mostly short.
    fn part(&mut self, length: usize) -> std::ops::Range<usize> {
        if length == 0 {
            return 0..0;
        }
        let start = self.below(length);
        let most = if self.below(4) == 0 {
            length - start
        } else {
            (length - start).min(16)
        };
        start..start + 1 + self.below(most)
    }
}

/// Input `number` of a run.
pub fn input(target: &Target, corpus: &[Vec<u8>], seed: u64, number: u64) -> Vec<u8> {
    let mut chance = Chance::of(seed, target.name, number);
    let mut data = match corpus {
        [] => Vec::new(),
        corpus => corpus[chance.below(corpus.len())].clone(),
    };
    for _ in 0..=chance.next() % CHANGES_MAX {
        change(&mut data, target, corpus, &mut chance);
    }
    data.truncate(target.bytes_max);
    data
}

fn change(data: &mut Vec<u8>, target: &Target, corpus: &[Vec<u8>], chance: &mut Chance) {
    let at = chance.below(data.len() + 1);
    let there = at < data.len();
    match chance.below(14) {
        0 if there => data[at] ^= 1 << chance.below(8),
        1 if there => data[at] = chance.next() as u8,
        2 if there => data[at] = data[at].wrapping_add(if chance.below(2) == 0 { 1 } else { 255 }),
        3 => number(data, at, chance),
        4 | 5 => {
            let word = chance.of_list(target.words);
            data.splice(at..at, word.iter().copied());
        }
        6 => {
            let word = chance.of_list(target.words);
            let end = (at + word.len()).min(data.len());
            data.splice(at..end, word.iter().copied());
        }
        7 => drop(data.drain(chance.part(data.len()))),
        8 => {
            let part = data[chance.part(data.len())].to_vec();
            let times = [1, 1, 1, 2, 8, 64][chance.below(6)];
            let part = part.repeat(times);
            data.splice(at..at, part);
        }
        9 => text_number(data, at, chance),
        10 => {
            let byte = [0, 0xff, b' ', b'0', b'"', b'/', b'\n', b'%'][chance.below(8)];
            let times = [1, 2, 16, 300][chance.below(4)];
            data.splice(at..at, std::iter::repeat_n(byte, times));
        }
        11 if !corpus.is_empty() => {
            let other = &corpus[chance.below(corpus.len())];
            let part = chance.part(other.len());
            data.splice(at..at, other[part].iter().copied());
        }
        12 if !corpus.is_empty() => {
            let other = &corpus[chance.below(corpus.len())];
            data.truncate(at);
            data.extend_from_slice(&other[chance.below(other.len() + 1)..]);
        }
        13 => swap(data, chance),
        _ => data.truncate(at),
    }
}

/// Writes a number over the bytes at a place.
fn number(data: &mut [u8], at: usize, chance: &mut Chance) {
    let number = NUMBERS[chance.below(NUMBERS.len())]
        .wrapping_add(chance.next() % 3)
        .wrapping_sub(1);
    let bytes = if chance.below(2) == 0 {
        number.to_le_bytes().to_vec()
    } else {
        let width = [1, 2, 4, 8][chance.below(4)];
        number.to_be_bytes()[8 - width..].to_vec()
    };
    let width = [1, 2, 4, 8][chance.below(4)];
    for (there, new) in data[at..].iter_mut().zip(bytes.iter().take(width)) {
        *there = *new;
    }
}

/// Replaces the first number in digits behind a place.
fn text_number(data: &mut Vec<u8>, at: usize, chance: &mut Chance) {
    let Some(start) = data[at..].iter().position(u8::is_ascii_digit) else {
        return;
    };
    let start = at + start;
    let digits = data[start..]
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .count();
    let number = chance.of_list(&TEXT_NUMBERS);
    data.splice(start..start + digits, number.iter().copied());
}

/// Exchanges two neighbouring parts.
fn swap(data: &mut [u8], chance: &mut Chance) {
    let part = chance.part(data.len());
    let middle = part.len() / 2;
    data[part].rotate_left(middle);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::targets::ALL;

    #[test]
    fn equal_seeds_make_equal_inputs_and_others_do_not() {
        let corpus = vec![b"{\"a\": 17}".to_vec(), vec![0; 64]];
        let made =
            |seed| -> Vec<_> { (0..200).map(|n| input(&ALL[0], &corpus, seed, n)).collect() };
        assert_eq!(made(1), made(1));
        assert_ne!(made(1), made(2));
        let mut different = made(1);
        different.sort();
        different.dedup();
        assert!(
            different.len() > 150,
            "{} different inputs of 200",
            different.len()
        );
    }

    #[test]
    fn inputs_stay_within_the_bound_of_their_target() {
        let corpus = vec![vec![b'x'; 1 << 20]];
        for target in ALL {
            for number in 0..20 {
                assert!(input(target, &corpus, 3, number).len() <= target.bytes_max);
            }
            assert!(!target.words.is_empty());
        }
    }
}
