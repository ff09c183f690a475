//! The name of a task (`pbs-interface.md` 5.6):
//! `UPID:{node}:{pid}:{pstart}:{task id}:{start time}:{type}:{worker id}:{auth id}:`, numbers in upper-case hex.
//!
//! In the worker id `/` is written as `-`, and every byte outside `[A-Za-z0-9_.]`, as well as a leading `.`, as `\xNN`
//! with lower-case digits; so `:` is escaped too, and the original text can be restored.

use std::fmt;
use std::fmt::Write as _;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::auth::AuthId;

/// Longest UPID that is looked at, in bytes.
const UPID_BYTES_MAX: usize = 2048;
/// Longest worker id, in bytes, before escaping.
const WORKER_ID_BYTES_MAX: usize = 448;

/// A text that is no UPID, or parts that make none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no task id (UPID)")]
pub(crate) struct UpidError(String);

/// What makes a task's name unique: start time first, so that later tasks are greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct TaskKey {
    pub(super) start_time: i64,
    pub(super) task_id: u64,
    pub(super) pid: u32,
    pub(super) pstart: u64,
}

/// A task's name, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Upid {
    node: String,
    key: TaskKey,
    kind: String,
    worker_id: String,
    auth_id: AuthId,
}

impl Upid {
    /// Puts a name together. The node must be a host name label, the kind without `:` and blanks.
    pub(super) fn new(
        node: &str,
        key: TaskKey,
        kind: &str,
        worker_id: &str,
        auth_id: AuthId,
    ) -> Result<Self, UpidError> {
        let upid = Self {
            node: node.to_owned(),
            key,
            kind: kind.to_owned(),
            worker_id: worker_id.to_owned(),
            auth_id,
        };
        let plain = |text: &str| {
            !text.is_empty()
                && !text.contains(|c: char| c == ':' || c.is_whitespace() || c.is_control())
        };
        let valid = is_label(node)
            && plain(kind)
            && worker_id.len() <= WORKER_ID_BYTES_MAX
            && u32::try_from(key.start_time).is_ok();
        if valid {
            Ok(upid)
        } else {
            Err(UpidError(upid.to_string().chars().take(120).collect()))
        }
    }

    /// The host the task ran on.
    pub(crate) fn node(&self) -> &str {
        &self.node
    }

    /// The process.
    pub(crate) fn pid(&self) -> u32 {
        self.key.pid
    }

    /// When the process was started, in clock ticks since boot.
    pub(crate) fn pstart(&self) -> u64 {
        self.key.pstart
    }

    /// When the task was started, in Unix seconds.
    pub(crate) fn start_time(&self) -> i64 {
        self.key.start_time
    }

    /// The worker type, such as `backup`.
    pub(crate) fn kind(&self) -> &str {
        &self.kind
    }

    /// What the task is about, unescaped, such as `store1:host/a`; empty for none.
    pub(crate) fn worker_id(&self) -> &str {
        &self.worker_id
    }

    /// Whose task it is.
    pub(crate) fn auth_id(&self) -> &AuthId {
        &self.auth_id
    }

    pub(super) fn key(&self) -> TaskKey {
        self.key
    }
}

fn is_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

impl fmt::Display for Upid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TaskKey {
            start_time,
            task_id,
            pid,
            pstart,
        } = self.key;
        write!(
            f,
            "UPID:{}:{pid:08X}:{pstart:08X}:{task_id:08X}:{start_time:08X}:{}:{}:{}:",
            self.node,
            self.kind,
            escape(&self.worker_id),
            self.auth_id
        )
    }
}

impl FromStr for Upid {
    type Err = UpidError;

    fn from_str(text: &str) -> Result<Self, UpidError> {
        let fault = || UpidError(text.chars().take(120).collect());
        if text.len() > UPID_BYTES_MAX {
            return Err(fault());
        }
        let inner = text
            .strip_prefix("UPID:")
            .and_then(|rest| rest.strip_suffix(':'))
            .ok_or_else(fault)?;
        let parts: Vec<&str> = inner.splitn(7, ':').collect();
        let [node, pid, pstart, task_id, start_time, kind, rest] = parts[..] else {
            return Err(fault());
        };
        let (worker_id, auth_id) = rest.rsplit_once(':').ok_or_else(fault)?;
        let key = TaskKey {
            pid: u32::try_from(hex(pid, 8..=8).ok_or_else(fault)?).map_err(|_| fault())?,
            pstart: hex(pstart, 8..=9).ok_or_else(fault)?,
            task_id: hex(task_id, 8..=16).ok_or_else(fault)?,
            start_time: i64::try_from(hex(start_time, 8..=8).ok_or_else(fault)?)
                .map_err(|_| fault())?,
        };
        let worker_id = unescape(worker_id).ok_or_else(fault)?;
        let auth_id = auth_id.parse().map_err(|_| fault())?;
        Self::new(node, key, kind, &worker_id, auth_id).map_err(|_| fault())
    }
}

impl Serialize for Upid {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

fn hex(digits: &str, length: std::ops::RangeInclusive<usize>) -> Option<u64> {
    let plain = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    (plain && length.contains(&digits.len()))
        .then(|| u64::from_str_radix(digits, 16).ok())
        .flatten()
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for (i, byte) in text.bytes().enumerate() {
        match byte {
            b'/' => escaped.push('-'),
            b'.' if i > 0 => escaped.push('.'),
            b'_' => escaped.push('_'),
            byte if byte.is_ascii_alphanumeric() => escaped.push(char::from(byte)),
            byte => {
                // Writing to a String cannot fail.
                let _ = write!(escaped, "\\x{byte:02x}");
            }
        }
    }
    escaped
}

fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        match first {
            b'-' => bytes.push(b'/'),
            b'\\' => {
                let (digits, after) = rest.strip_prefix(b"x")?.split_at_checked(2)?;
                let digits = std::str::from_utf8(digits).ok()?;
                bytes.push(u8::try_from(hex(digits, 2..=2)?).ok()?);
                rest = after;
            }
            byte => bytes.push(*byte),
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(
        "UPID:pbs:000056A2:000BF53F:0000003A:6B00594E:backup:store1\\x3ahost-g:tester@pbs:",
        "backup",
        "store1:host/g"
    )]
    #[case(
        "UPID:pbs:000056A2:000BF53F:00000049:6B0059CB:prune:store1\\x3a\\x3ahost-tok:tester@pbs!tok:",
        "prune",
        "store1::host/tok"
    )]
    #[case(
        "UPID:pbs:000056A2:000BF53F:0000007D:6B005A4E:move-group:store1\\x3an1-sub-host-g\\x3an1:tester@pbs:",
        "move-group",
        "store1:n1/sub/host/g:n1"
    )]
    #[case(
        "UPID:pbs:000056A2:000BF53F:0000003B:6B00594F:garbage_collection:store1:tester@pbs:",
        "garbage_collection",
        "store1"
    )]
    #[case(
        "UPID:a:00000001:123456789:1123456789ABCDEF:6B00594F:logrotate::root@pam:",
        "logrotate",
        ""
    )]
    fn recorded_names_read_and_write_the_same(
        #[case] text: &str,
        #[case] kind: &str,
        #[case] worker_id: &str,
    ) {
        let upid: Upid = text.parse().expect("a UPID");
        assert_eq!(upid.kind(), kind);
        assert_eq!(upid.worker_id(), worker_id);
        assert_eq!(upid.to_string(), text);
    }

    #[test]
    fn numbers_are_read() {
        let text = "UPID:pbs:000056A2:000BF53F:0000003B:6B00594F:verify:store1:tester@pbs:";
        let upid: Upid = text.parse().expect("a UPID");
        assert_eq!((upid.pid(), upid.pstart()), (22178, 783_679));
        assert_eq!(upid.start_time(), 1_795_184_975);
        assert_eq!(upid.node(), "pbs");
    }

    #[rstest]
    #[case("store:host/a-b", "store\\x3ahost-a\\x2db")]
    #[case(".hidden", "\\x2ehidden")]
    #[case("a.b_c", "a.b_c")]
    #[case("\u{e4} \\", "\\xc3\\xa4\\x20\\x5c")]
    fn escapes(#[case] plain: &str, #[case] escaped: &str) {
        assert_eq!(escape(plain), escaped);
        assert_eq!(unescape(escaped).as_deref(), Some(plain));
    }

    #[rstest]
    #[case("")]
    #[case("UPID:pbs:000056A2:000BF53F:0000003B:6B00594F:verify:store1:tester@pbs")]
    #[case("UPID:pbs:56A2:000BF53F:0000003B:6B00594F:verify:store1:tester@pbs:")]
    #[case("UPID:p s:000056A2:000BF53F:0000003B:6B00594F:verify:store1:tester@pbs:")]
    #[case("UPID:pbs:000056A2:000BF53F:0000003B:6B00594F::store1:tester@pbs:")]
    #[case("UPID:pbs:000056A2:000BF53F:0000003B:6B00594F:verify:store1:tester:")]
    #[case("UPID:pbs:000056A2:000BF53F:0000003B:6B00594F:verify:\\x3:tester@pbs:")]
    #[case("UPID:pbs:000056A2:000BF53F:0000003B:6B00594F:verify:\\xzz:tester@pbs:")]
    #[case("UPID:pbs:000056A2:000BF53F:0000003B:../..:verify:a:tester@pbs:")]
    fn others_are_refused(#[case] text: &str) {
        assert!(text.parse::<Upid>().is_err());
    }
}
