//! What this crate reads from disks and buckets and shows to nobody, as functions over bytes (`tests/fuzz`).
//!
//! Each panics when what it asserts does not hold; a refusal of the bytes is a result like any other. What each asserts is
//! said with it.

use std::io;
use std::path::Path;

use crate::files::{Files, OsFiles, optional};
use crate::gc::journal::Journal;
use crate::mirror::log;

/// A directory that is empty before and after.
fn place(files: &dyn Files, dir: &Path) -> io::Result<()> {
    optional(files.remove_tree(dir))?;
    files.create_dirs(dir)
}

/// The journal of a delete batch, read from the empty directory `dir`. What is accepted is, written again, the same file:
/// nothing in it was skipped or guessed.
pub fn gc_journal(data: &[u8], dir: &Path) {
    let (files, journal) = (OsFiles, Journal::new(dir, dir));
    place(&files, dir).expect("a directory of ours");
    let path = dir.join("gc-journal");
    std::fs::write(&path, data).expect("written");
    let Ok(digests) = journal.read(&files) else {
        return;
    };
    assert!(digests.len() <= data.len() / 64, "more digests than bytes");
    journal.clear(&files).expect("cleared");
    journal
        .write(&files, &digests, "again")
        .expect("written again");
    let again = std::fs::read(&path).expect("there");
    assert_eq!(again, data, "an accepted journal has one spelling");
}

/// The log of a mirror in the empty directory `dir`. Reading it mends a torn end, so a second reading finds the same and
/// nothing to mend; every entry that was found can be written and is read again.
pub fn mirror_log(data: &[u8], dir: &Path) {
    let files = OsFiles;
    place(&files, dir).expect("a directory of ours");
    let path = dir.join("contents.log");
    std::fs::write(&path, data).expect("written");
    let (entries, bytes, lines) = log::read(&files, &path).expect("damage is skipped");
    assert!(entries.len() <= lines, "an entry needs a line");
    assert_eq!(
        std::fs::metadata(&path).expect("there").len(),
        bytes,
        "the torn end is cut off"
    );
    assert_eq!(
        log::read(&files, &path).expect("read again"),
        (entries.clone(), bytes, lines)
    );
    let mut text = Vec::new();
    for (name, entry) in &entries {
        text.extend(log::line(name, Some(entry)));
    }
    std::fs::write(&path, &text).expect("written");
    let (again, _, _) = log::read(&files, &path).expect("our own lines");
    assert_eq!(again, entries, "our own lines say the same");
}
