//! Bytes as a list of calls.
//!
//! Calls are separated by the byte 0x1e and a line break. Each is one line, then its body:
//!
//! ```text
//! [FLAGS][WHO ]METHOD TARGET[ CONTENT-TYPE]
//! BODY
//! ```
//!
//! `FLAGS` are `&` (the next call does not wait for this one's answer) and `!` (the body breaks off half-way). Bytes that
//! are no method or target are no call: HTTP does not let them through.

use bytes::Bytes;
use http::{Method, Uri};

/// Calls of one input.
const CALLS_MAX: usize = 24;
/// Separates calls, and in other inputs files.
const SEPARATOR: &[u8] = b"\x1e\n";

/// One call.
#[derive(Debug, Clone)]
pub(super) struct Call {
    /// The next call does not wait.
    pub(super) beside: bool,
    /// The body breaks off half-way.
    pub(super) cut: bool,
    /// Who asks, if the input says so.
    pub(super) who: String,
    pub(super) method: Method,
    pub(super) target: Uri,
    /// As it would stand in the header.
    pub(super) content_type: Vec<u8>,
    pub(super) body: Bytes,
}

impl Call {
    /// `base` is put before the target; with `named` the line begins with who asks.
    fn parse(bytes: &[u8], base: &str, named: bool) -> Option<Self> {
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let (line, body) = match end {
            Some(end) => (&bytes[..end], &bytes[end + 1..]),
            None => (bytes, &[][..]),
        };
        let flags = line
            .iter()
            .take_while(|byte| matches!(byte, b'&' | b'!'))
            .count();
        let (flags, line) = line.split_at(flags);
        let mut words = line.splitn(if named { 4 } else { 3 }, |byte| *byte == b' ');
        let who = if named { words.next()? } else { &[] };
        let method = Method::from_bytes(words.next()?).ok()?;
        let target = words.next()?;
        // The base of calls that name people is a path, which they may leave.
        let target = if named && target.starts_with(b"/") {
            target.to_vec()
        } else {
            [base.as_bytes(), target].concat()
        };
        Some(Self {
            beside: flags.contains(&b'&'),
            cut: flags.contains(&b'!'),
            who: String::from_utf8_lossy(who).into_owned(),
            method,
            target: Uri::try_from(&target[..]).ok()?,
            content_type: words.next().unwrap_or_default().to_vec(),
            body: Bytes::copy_from_slice(body),
        })
    }
}

/// The parts of an input.
pub fn records(mut data: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut ended = false;
    std::iter::from_fn(move || {
        if ended {
            return None;
        }
        let at = data
            .windows(SEPARATOR.len())
            .position(|part| part == SEPARATOR);
        let Some(at) = at else {
            ended = true;
            return Some(data);
        };
        let (record, rest) = data.split_at(at);
        data = &rest[SEPARATOR.len()..];
        Some(record)
    })
}

/// The calls of an input.
pub(super) fn calls(data: &[u8], base: &str, named: bool) -> Vec<Call> {
    records(data)
        .filter_map(|bytes| Call::parse(bytes, base, named))
        .take(CALLS_MAX)
        .collect()
}
