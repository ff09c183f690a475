//! The journal of the delete batch that is under way: `.holdfast/gc-journal`.
//!
//! It is written and synced before the first delete request of the batch, and cleared and synced before the batch's
//! digests are released. What stands in it after a crash may still be deleted by a request nobody waits for any more,
//! so these digests stay condemned until T after the start (`Recovery`).
//!
//! A journal that is there is never replaced: its batch has not ended, and its digests would be forgotten.
//!
//! Format: one line `holdfast-gc-journal 1`, then one digest a line, then `end`. It is written whole or not at all, so
//! one that is damaged was damaged by the disk: what else lies there is not to be trusted either.

use std::io;
use std::path::{Path, PathBuf};

use crate::files::{Files, optional, replace};
use crate::layout::HoldfastFile;
use crate::{Digest, Error, Result};

const HEADER: &str = "holdfast-gc-journal 1";
const FOOTER: &str = "end";

/// The journal file.
#[derive(Clone, Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    temporary: PathBuf,
}

impl Journal {
    /// The journal below a directory of ours (`.holdfast`), with a directory for temporary files.
    pub(crate) fn new(ours: &Path, temporary: &Path) -> Self {
        Self {
            path: ours.join(HoldfastFile::GcJournal.name()),
            temporary: temporary.to_owned(),
        }
    }

    /// Whether a batch has not ended.
    pub(crate) fn exists(&self, files: &dyn Files) -> io::Result<bool> {
        Ok(optional(files.stat(&self.path))?.is_some())
    }

    /// Writes the digests of a batch, durably, through a temporary file whose name has `unique` in it: one that a crash
    /// left behind must not be in the way of the next. There must be no journal, which the caller has asked.
    pub(crate) fn write(
        &self,
        files: &dyn Files,
        digests: &[Digest],
        unique: &str,
    ) -> io::Result<()> {
        replace(
            files,
            &self.temporary,
            &self.path,
            &[text_of(digests).into()],
            unique,
        )
    }

    /// Removes the journal, durably.
    pub(crate) fn clear(&self, files: &dyn Files) -> io::Result<()> {
        optional(files.unlink(&self.path))?;
        files.sync_dir(self.path.parent().unwrap_or(&self.path))
    }

    /// The digests of a batch that a crash interrupted; empty if there was none. A damaged journal is an error: who
    /// cannot tell which digests are about to be deleted must trust no marker.
    pub(crate) fn read(&self, files: &dyn Files) -> Result<Vec<Digest>> {
        let data = optional(files.read(&self.path)).map_err(|source| Error::File {
            path: self.path.clone(),
            source,
        })?;
        let Some(data) = data else {
            return Ok(Vec::new());
        };
        let damaged = || {
            Error::Invalid(format!(
                "'{}' is damaged, and with it what the cache directory knows; delete the whole cache directory, it is made \
                 again from the bucket",
                self.path.display()
            ))
        };
        let text = std::str::from_utf8(&data).map_err(|_| damaged())?;
        let body = text
            .strip_prefix(HEADER)
            .and_then(|text| text.strip_prefix('\n'))
            .ok_or_else(damaged)?;
        let body = body
            .strip_suffix(&format!("{FOOTER}\n"))
            .ok_or_else(damaged)?;
        let digests: Vec<Digest> = body
            .lines()
            .map(|line| line.parse().map_err(|_| damaged()))
            .collect::<Result<_>>()?;
        // What reads the same but was not written so was damaged all the same.
        if text_of(&digests) == text {
            Ok(digests)
        } else {
            Err(damaged())
        }
    }
}

fn text_of(digests: &[Digest]) -> String {
    let mut text = String::with_capacity(digests.len() * 65 + 32);
    text.push_str(HEADER);
    for digest in digests {
        text.push('\n');
        text.push_str(&digest.to_string());
    }
    text.push('\n');
    text.push_str(FOOTER);
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::files::{FaultyFiles, FileFault, FileOp, OsFiles};

    #[test]
    fn what_was_written_is_read_until_it_is_cleared() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::new(dir.path(), dir.path());
        assert!(journal.read(&OsFiles).unwrap().is_empty());
        let digests = [Digest::of(b"a"), Digest::of(b"b")];
        journal.write(&OsFiles, &digests, "1").unwrap();
        assert_eq!(journal.read(&OsFiles).unwrap(), digests);
        journal.clear(&OsFiles).unwrap();
        assert!(journal.read(&OsFiles).unwrap().is_empty());
    }

    #[test]
    fn what_a_crash_left_of_a_write_is_not_in_the_way() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::new(dir.path(), dir.path());
        let files = FaultyFiles::new(Arc::new(OsFiles));
        // As if the process had ended before the rename: nothing is tidied up.
        for op in [FileOp::Rename, FileOp::Unlink] {
            files.add(FileFault {
                op,
                path: String::new(),
                times: 1,
                errno: nix::errno::Errno::EIO as i32,
            });
        }
        assert!(journal.write(&files, &[Digest::of(b"a")], "1").is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        journal.write(&files, &[Digest::of(b"b")], "2").unwrap();
        assert_eq!(journal.read(&files).unwrap(), [Digest::of(b"b")]);
    }

    #[test]
    fn a_damaged_journal_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::new(dir.path(), dir.path());
        for text in [
            "",
            "holdfast-gc-journal 1\nabc\nend\n",
            "holdfast-gc-journal 1\n",
            "other 1\nend\n",
        ] {
            std::fs::write(dir.path().join("gc-journal"), text).unwrap();
            assert!(journal.read(&OsFiles).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_journal_that_reads_the_same_but_was_not_written_so_is_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::new(dir.path(), dir.path());
        let digest = Digest([0xab; 32]).to_string();
        let whole = format!("holdfast-gc-journal 1\n{digest}\nend\n");
        for text in [
            whole.replace("\nend", "end"),
            whole.replace('\n', "\r\n").replacen("\r\n", "\n", 1),
            whole.replace(&digest, &digest.to_uppercase()),
        ] {
            std::fs::write(dir.path().join("gc-journal"), &text).unwrap();
            assert!(journal.read(&OsFiles).is_err(), "{text:?}");
        }
        std::fs::write(dir.path().join("gc-journal"), whole).unwrap();
        assert_eq!(journal.read(&OsFiles).unwrap(), [Digest([0xab; 32])]);
    }
}
