//! The entries of a mirror on disk: one line of JSON for each change, the last one for a name counts.
//!
//! Torn or garbled lines are skipped: what they said is fetched again.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use s3_client::ETag;
use serde::{Deserialize, Serialize};

use super::MirrorEntry;
use crate::files::{Files, optional};

#[derive(Serialize, Deserialize)]
struct Line<'a> {
    name: std::borrow::Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    etag: Option<std::borrow::Cow<'a, str>>,
    #[serde(default)]
    size: u64,
}

/// The line for one change, with its line break.
pub(crate) fn line(name: &str, entry: Option<&MirrorEntry>) -> Vec<u8> {
    let line = Line {
        name: name.into(),
        etag: entry.map(|entry| entry.etag.as_str().into()),
        size: entry.map_or(0, |entry| entry.size),
    };
    let mut bytes = serde_json::to_vec(&line).expect("a line is plain data");
    bytes.push(b'\n');
    bytes
}

/// All entries, and the length of the log in bytes and lines.
pub(crate) fn read(
    files: &dyn Files,
    path: &Path,
) -> io::Result<(BTreeMap<String, MirrorEntry>, u64, usize)> {
    let bytes = optional(files.read(path))?.unwrap_or_default();
    let mut entries = BTreeMap::new();
    let mut count = 0;
    // What follows the last line break is torn; it is written over.
    let whole = bytes
        .iter()
        .rposition(|b| *b == b'\n')
        .map_or(0, |at| at + 1);
    for line in bytes[..whole]
        .split(|b| *b == b'\n')
        .filter(|l| !l.is_empty())
    {
        count += 1;
        let Ok(line) = serde_json::from_slice::<Line<'_>>(line) else {
            continue;
        };
        let name = line.name.into_owned();
        match line.etag {
            Some(etag) => {
                let entry = MirrorEntry {
                    etag: ETag::new(&etag),
                    size: line.size,
                };
                entries.insert(name, entry);
            }
            None => {
                entries.remove(&name);
            }
        }
    }
    if whole as u64 != bytes.len() as u64 {
        files.set_len(path, whole as u64)?;
    }
    Ok((entries, whole as u64, count))
}
