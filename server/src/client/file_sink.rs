//! A download into a file: what is not whole never has the file's name.
//!
//! 1. A temporary file beside it is written. 2. It is made durable. 3. It is renamed. A crash leaves the temporary file, and an
//!    error removes it. Of two commands that write the same file the later rename counts; without leave to replace a file, the
//!    earlier one.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use tempfile::NamedTempFile;

use super::http::BodyParts;
use super::progress::Progress;

/// Where a download goes.
#[derive(Debug)]
pub(super) enum FileSink {
    /// Standard output.
    Stdout,
    /// A file that appears when it is whole.
    File {
        /// Its content until then.
        part: NamedTempFile,
        /// Its name.
        target: PathBuf,
        /// Whether it may replace another one.
        overwrite: bool,
    },
}

impl FileSink {
    /// `-` is standard output. An existing file is replaced only with `overwrite`.
    pub(super) fn open(target: &Path, overwrite: bool) -> anyhow::Result<Self> {
        if target.as_os_str() == "-" {
            return Ok(Self::Stdout);
        }
        let shown = target.display();
        if target.is_dir() {
            bail!("'{shown}' is a directory; name the file to write");
        }
        if !overwrite && target.symlink_metadata().is_ok() {
            bail!("'{shown}' exists; give --overwrite to replace it");
        }
        let directory = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let part = tempfile::Builder::new()
            .suffix(".part")
            .tempfile_in(directory);
        Ok(Self::File {
            part: part.with_context(|| format!("'{shown}' cannot be written"))?,
            target: target.to_owned(),
            overwrite,
        })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Stdout => io::stdout().lock().write_all(bytes),
            Self::File { part, .. } => part.write_all(bytes),
        }
    }

    /// All is there.
    fn finish(self) -> io::Result<()> {
        match self {
            Self::Stdout => io::stdout().lock().flush(),
            Self::File {
                part,
                target,
                overwrite,
            } => {
                part.as_file().sync_all()?;
                let kept = if overwrite {
                    part.persist(target)
                } else {
                    part.persist_noclobber(target)
                };
                kept.map(drop).map_err(|error| error.error)
            }
        }
    }

    /// Takes all of `body`, and answers how many bytes that were.
    pub(super) async fn take(
        mut self,
        mut body: BodyParts,
        progress: &Progress,
        name: &str,
    ) -> anyhow::Result<u64> {
        const CANNOT: &str = "what was downloaded cannot be written";
        progress.begin(name, body.bytes());
        let mut bytes = 0;
        while let Some(part) = body.next().await? {
            bytes += part.len() as u64;
            progress.advance(part.len() as u64);
            self.write(&part).context(CANNOT)?;
        }
        progress.finish();
        self.finish().context(CANNOT)?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_is_not_whole_has_another_name() {
        let dir = tempfile::tempdir().expect("a directory");
        let target = dir.path().join("file");
        let names = || fs::read_dir(dir.path()).expect("a directory").count();
        let mut broken = FileSink::open(&target, false).expect("nothing is there");
        broken.write(b"half").expect("written");
        assert!(!target.exists());
        drop(broken);
        assert_eq!(names(), 0, "nothing is left");
        let mut whole = FileSink::open(&target, false).expect("nothing is there");
        let late = FileSink::open(&target, false).expect("nothing is there");
        whole.write(b"whole").expect("written");
        whole.finish().expect("renamed");
        assert_eq!(fs::read(&target).expect("there"), b"whole");
        late.finish().expect_err("somebody was faster");
        FileSink::open(&target, false).expect_err("it exists");
        let replacing = FileSink::open(&target, true).expect("it may be replaced");
        assert_eq!(fs::read(&target).expect("there"), b"whole");
        replacing.finish().expect("renamed");
        assert_eq!((fs::read(&target).expect("there").len(), names()), (0, 1));
    }
}
