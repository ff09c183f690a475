//! Backup groups and snapshots: `vm/100` and `vm/100/2023-11-14T22:13:20Z`.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::safe_id::{BackupId, NameError, serde_as_text};

/// What was backed up. The order is that of the names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BackupType {
    /// A container.
    Ct,
    /// A machine or a file tree.
    Host,
    /// A virtual machine.
    Vm,
}

impl BackupType {
    /// All types, in order.
    pub const ALL: [Self; 3] = [Self::Ct, Self::Host, Self::Vm];

    /// `ct`, `host` or `vm`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ct => "ct",
            Self::Host => "host",
            Self::Vm => "vm",
        }
    }
}

impl FromStr for BackupType {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let known = Self::ALL.into_iter().find(|kind| kind.as_str() == text);
        known.ok_or_else(|| NameError::new("backup type", "it is 'vm', 'ct' or 'host'", text))
    }
}

impl fmt::Display for BackupType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// All snapshots of one thing. Text form `type/id`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackupGroup {
    /// What is backed up.
    pub kind: BackupType,
    /// Which one.
    pub id: BackupId,
}

impl BackupGroup {
    /// The group of `kind` and `id`.
    pub fn new(kind: BackupType, id: BackupId) -> Self {
        Self { kind, id }
    }

    /// The snapshot of this group at `time`.
    pub fn at(&self, time: BackupTime) -> Snapshot {
        Snapshot {
            group: self.clone(),
            time,
        }
    }
}

impl FromStr for BackupGroup {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let Some((kind, id)) = text.split_once('/') else {
            let rule = "write 'vm/ID', 'ct/ID' or 'host/ID'";
            return Err(NameError::new("backup group", rule, text));
        };
        Ok(Self::new(kind.parse()?, id.parse()?))
    }
}

impl fmt::Display for BackupGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind, self.id)
    }
}

/// When a snapshot was begun: Unix seconds, from 1 to the last day of the year 9999. Its text is the folder name of the
/// snapshot, `2023-11-14T22:13:20Z`, always 20 bytes; its serde form is the integer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackupTime(i64);

impl BackupTime {
    /// The latest time, `9999-12-30T22:00:00Z`: the last that a timestamp can hold in every time zone.
    pub const MAX: Self = Self(253_402_207_200);

    /// Checks Unix seconds.
    pub fn new(seconds: i64) -> Result<Self, NameError> {
        if (1..=Self::MAX.0).contains(&seconds) {
            return Ok(Self(seconds));
        }
        let rule = "it is a number of seconds since 1970, at least 1, before the year 10000";
        Err(NameError::new("backup time", rule, &seconds.to_string()))
    }

    /// Unix seconds.
    pub fn seconds(self) -> i64 {
        self.0
    }

    /// The same as a timestamp.
    pub fn timestamp(self) -> Timestamp {
        Timestamp::constant(self.0, 0)
    }
}

impl FromStr for BackupTime {
    type Err = NameError;

    /// Reads the folder name, in exactly the form that is written.
    fn from_str(text: &str) -> Result<Self, NameError> {
        let strict = |text: &str| {
            // Cheap refusal of everything else keeps the date parser away from odd texts.
            if text.len() != 20 || !text.ends_with('Z') {
                return None;
            }
            let time = Self::new(text.parse::<Timestamp>().ok()?.as_second()).ok()?;
            (time.to_string() == text).then_some(time)
        };
        strict(text).ok_or_else(|| {
            let rule = "write it in UTC to the second, like '2023-11-14T22:13:20Z'";
            NameError::new("backup time", rule, text)
        })
    }
}

impl fmt::Display for BackupTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.timestamp(), f)
    }
}

impl Serialize for BackupTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_i64(self.0)
    }
}

impl<'de> Deserialize<'de> for BackupTime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(i64::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// The id of a snapshot within its namespace. Text form `type/id/time`; ordered by group, then time.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Snapshot {
    /// The group it belongs to.
    pub group: BackupGroup,
    /// When it was begun.
    pub time: BackupTime,
}

impl FromStr for Snapshot {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let Some((group, time)) = text.rsplit_once('/') else {
            let rule = "write 'TYPE/ID/TIME', like 'vm/100/2023-11-14T22:13:20Z'";
            return Err(NameError::new("snapshot", rule, text));
        };
        Ok(group.parse::<BackupGroup>()?.at(time.parse()?))
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.group, self.time)
    }
}

serde_as_text!(BackupType, BackupGroup, Snapshot);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn texts_and_back() {
        let text = "vm/100/2023-11-14T22:13:20Z";
        let snapshot = text.parse::<Snapshot>().expect("a valid snapshot");
        assert_eq!(snapshot.time.seconds(), 1_700_000_000);
        assert_eq!(snapshot.to_string(), text);
        assert_eq!(snapshot.group.to_string(), "vm/100");
    }

    #[test]
    fn other_spellings_of_a_time_are_refused() {
        for text in [
            "2023-11-14T22:13:20+00:00",
            "2023-11-14t22:13:20Z",
            "2023-11-14 22:13:20Z",
            "2023-11-14T22:13:20.0Z",
            "2023-11-14T22:13Z",
            "20231114T22:13:20.0Z",
            "1970-01-01T00:00:00Z",
            "2023-02-30T00:00:00Z",
            "2023-11-14T22:13:60Z",
            "",
        ] {
            assert!(text.parse::<BackupTime>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn odd_groups_and_snapshots_are_refused() {
        for text in ["vm", "vm/", "VM/1", "qemu/1", "vm/1/2", "vm/..", "/1"] {
            assert!(text.parse::<BackupGroup>().is_err(), "{text:?}");
        }
        for text in [
            "vm/1",
            "2023-11-14T22:13:20Z",
            "vm/1/2/2023-11-14T22:13:20Z",
        ] {
            assert!(text.parse::<Snapshot>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn the_order_of_types_is_that_of_their_names() {
        let names = BackupType::ALL.map(BackupType::as_str);
        assert!(names.is_sorted());
        assert!(BackupType::ALL.is_sorted());
    }

    #[test]
    fn a_time_is_an_integer_in_json() {
        let time = BackupTime::new(1_700_000_000).expect("a valid time");
        assert_eq!(
            serde_json::to_string(&time).expect("serialises"),
            "1700000000"
        );
        assert!(serde_json::from_str::<BackupTime>("0").is_err());
        assert!(serde_json::from_str::<BackupTime>("\"1\"").is_err());
    }

    #[test]
    fn the_first_and_the_last_time() {
        for (time, text) in [
            (BackupTime(1), "1970-01-01T00:00:01Z"),
            (BackupTime::MAX, "9999-12-30T22:00:00Z"),
        ] {
            assert_eq!(time.to_string(), text);
            assert_eq!(text.parse(), Ok(time));
        }
        assert!(BackupTime::new(BackupTime::MAX.0 + 1).is_err());
        assert!("9999-12-31T00:00:00Z".parse::<BackupTime>().is_err());
    }

    proptest! {
        #[test]
        fn the_folder_name_sorts_like_the_time(a in 1..=BackupTime::MAX.0, b in 1..=BackupTime::MAX.0) {
            let (a, b) = (BackupTime(a), BackupTime(b));
            prop_assert_eq!(a.to_string().len(), 20);
            prop_assert_eq!(a.to_string().cmp(&b.to_string()), a.cmp(&b));
            prop_assert_eq!(a.to_string().parse(), Ok(a));
        }

        #[test]
        fn no_text_makes_the_parsers_panic(text in "\\PC{0,40}") {
            let _ = text.parse::<Snapshot>();
            let _ = text.parse::<BackupTime>();
        }
    }
}
