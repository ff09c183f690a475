//! Numbers of bytes, written as `"512 MiB"` or as an integer.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A number of bytes. A text is a whole number and a unit: B, KiB, MiB, GiB, TiB, or the decimal KB, MB, GB, TB.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub(crate) struct ByteCount(pub(crate) u64);

/// A text that is no size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is no size; write a whole number of bytes, or a number and a unit such as \"512 MiB\""
)]
pub(crate) struct ByteCountError(String);

const UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1000),
    ("B", 1),
];

impl ByteCount {
    /// `count` mebibytes.
    pub(crate) const fn mib(count: u64) -> Self {
        Self(count << 20)
    }

    /// `count` gibibytes.
    pub(crate) const fn gib(count: u64) -> Self {
        Self(count << 30)
    }

    /// The number.
    pub(crate) const fn get(self) -> u64 {
        self.0
    }
}

impl FromStr for ByteCount {
    type Err = ByteCountError;

    fn from_str(text: &str) -> Result<Self, ByteCountError> {
        let fault = || ByteCountError(text.chars().take(40).collect());
        let trimmed = text.trim();
        let digits = trimmed
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(digits);
        let number: u64 = number.parse().map_err(|_| fault())?;
        let unit = unit.trim_start();
        let factor = if unit.is_empty() {
            1
        } else {
            UNITS
                .iter()
                .find(|(name, _)| name.eq_ignore_ascii_case(unit))
                .map(|(_, factor)| *factor)
                .ok_or_else(fault)?
        };
        number.checked_mul(factor).map(Self).ok_or_else(fault)
    }
}

impl fmt::Display for ByteCount {
    /// In the largest binary unit that divides it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fitting = UNITS[..4]
            .iter()
            .find(|(_, factor)| self.0 >= *factor && self.0.is_multiple_of(*factor));
        match fitting {
            Some((name, factor)) => write!(f, "{} {name}", self.0 / factor),
            None => write!(f, "{}", self.0),
        }
    }
}

impl fmt::Debug for ByteCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for ByteCount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

struct Visitor;

impl serde::de::Visitor<'_> for Visitor {
    type Value = ByteCount;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number of bytes or a text such as \"512 MiB\"")
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<ByteCount, E> {
        Ok(ByteCount(value))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<ByteCount, E> {
        let value = u64::try_from(value);
        value
            .map(ByteCount)
            .map_err(|_| E::custom("a size is not negative"))
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<ByteCount, E> {
        text.parse().map_err(E::custom)
    }
}

impl<'de> Deserialize<'de> for ByteCount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Visitor)
    }
}

/// A setting of which 0 is none.
pub(crate) fn unless_zero(number: u64) -> Option<u64> {
    (number > 0).then_some(number)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("512 MiB", Some(512 << 20))]
    #[case("512MiB", Some(512 << 20))]
    #[case(" 1 gib ", Some(1 << 30))]
    #[case("3 GB", Some(3_000_000_000))]
    #[case("17", Some(17))]
    #[case("17 B", Some(17))]
    #[case("", None)]
    #[case("MiB", None)]
    #[case("-1 MiB", None)]
    #[case("1.5 MiB", None)]
    #[case("1 MiBs", None)]
    #[case("99999999999 TiB", None)]
    fn texts(#[case] text: &str, #[case] expected: Option<u64>) {
        assert_eq!(text.parse().ok(), expected.map(ByteCount));
    }

    #[test]
    fn the_shown_text_reads_back() {
        for bytes in [0, 1, 1023, 1 << 10, 5 << 20, (1 << 40) + 1, 3 << 40] {
            let size = ByteCount(bytes);
            assert_eq!(size.to_string().parse(), Ok(size));
        }
    }
}
