//! Protection: which chunks have an upload marker or a using marker, asked about many chunks at a time.
//!
//! A collection looks at every candidate twice, and nearly none has either. So both directories are listed once for
//! many candidates, and only of those that are in a list the marker itself is looked at. A directory with very many
//! names is not listed: then each marker is looked for. Both directories are made at every start, so one that is not there was
//! taken away, with all the marks that were in it: an error, and not an empty directory.
//!
//! **An absence is as old as [`Protection::read`].** Upload markers come and go under their digests' guards, so under a
//! guard that was held before the read the answer is that of the moment. Only a mark makes using markers, and a collection
//! marks before it looks.

use std::collections::HashSet;
use std::path::Path;

use jiff::Timestamp;

use super::marker::Markers;
use crate::error::About as _;
use crate::files::{Files, optional};
use crate::{Digest, Error, Result};

/// A longer directory is not listed: to read it would cost more than the looks at a thousand chunks that it saves.
const NAMES_MAX: usize = 1000;

/// The upload markers and using markers that there are.
pub(crate) struct Protection<'a> {
    files: &'a dyn Files,
    markers: &'a Markers,
    uploads: Names,
    using: Names,
}

/// The digests that a directory names.
enum Names {
    Listed(HashSet<Digest>),
    TooMany,
}

impl Names {
    fn read(files: &dyn Files, dir: &Path) -> Result<Self> {
        let Some(names) = optional(files.names(dir, NAMES_MAX)).about(dir)? else {
            return Err(Error::Refused(format!(
                "'{}' is gone; somebody has removed it while the daemon runs: restart the daemon, and see that nobody does",
                dir.display()
            )));
        };
        Ok(match names {
            None => Self::TooMany,
            Some(names) => {
                let digests = names.iter().filter_map(|name| name.parse().ok());
                Self::Listed(digests.collect())
            }
        })
    }

    /// Whether a look could find a file.
    fn may_have(&self, digest: &Digest) -> bool {
        match self {
            Self::Listed(digests) => digests.contains(digest),
            Self::TooMany => true,
        }
    }
}

impl<'a> Protection<'a> {
    /// Lists both directories.
    pub(crate) fn read(files: &'a dyn Files, markers: &'a Markers) -> Result<Self> {
        Ok(Self {
            files,
            markers,
            uploads: Names::read(files, markers.uploads())?,
            using: Names::read(files, markers.using())?,
        })
    }

    /// As [`Markers::upload`].
    pub(crate) fn upload(&self, digest: &Digest) -> Result<Option<Timestamp>> {
        if !self.uploads.may_have(digest) {
            return Ok(None);
        }
        let upload = self.markers.upload(self.files, digest);
        upload.about(self.markers.uploads())
    }

    /// As [`Markers::using_since`].
    pub(crate) fn using_since(&self, digest: &Digest) -> Result<Option<Timestamp>> {
        if !self.using.may_have(digest) {
            return Ok(None);
        }
        let using = self.markers.using_since(self.files, digest);
        using.about(self.markers.using())
    }
}

/// The upload markers that there are, for who removes those of many chunks.
pub(crate) struct Uploads<'a> {
    files: &'a dyn Files,
    markers: &'a Markers,
    names: Names,
}

impl<'a> Uploads<'a> {
    /// Lists the directory. If that fails each marker is tried: to list it only saves work.
    pub(crate) fn read(files: &'a dyn Files, markers: &'a Markers) -> Self {
        Self {
            files,
            markers,
            names: Names::read(files, markers.uploads()).unwrap_or(Names::TooMany),
        }
    }

    /// As [`Markers::remove_upload`].
    pub(crate) fn remove(&self, digest: &Digest) -> Result<()> {
        if !self.names.may_have(digest) {
            return Ok(());
        }
        let removed = self.markers.remove_upload(self.files, digest);
        removed.about(self.markers.uploads())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Env;
    use crate::chunk_store::guard::ChunkTable;
    use crate::files::{FaultyFiles, FileFault, FileOp, OsFiles};

    const NOW: Timestamp = Timestamp::constant(1_700_000_000, 0);

    fn numbered(number: usize) -> Digest {
        Digest::of(&number.to_le_bytes())
    }

    async fn upload(markers: &Markers, digest: Digest) {
        let guard = ChunkTable::new().guard(digest).await;
        markers.touch_upload(&OsFiles, &guard, NOW).unwrap();
    }

    #[tokio::test]
    async fn what_has_a_marker_is_found_in_short_directories_and_in_long_ones() {
        let dir = tempfile::tempdir().unwrap();
        let markers = Markers::new(dir.path());
        markers.prepare(&Env::system(), &OsFiles).unwrap();
        for there in [0, 1, NAMES_MAX, NAMES_MAX + 1] {
            for number in 0..there {
                upload(&markers, numbered(number)).await;
                markers
                    .touch_using(&OsFiles, &numbered(number), NOW)
                    .unwrap();
            }
            let protection = Protection::read(&OsFiles, &markers).unwrap();
            for number in [0, 1, there.saturating_sub(1), there, there + 1] {
                let (digest, time) = (numbered(number), (number < there).then_some(NOW));
                assert_eq!(
                    protection.upload(&digest).unwrap(),
                    time,
                    "{number} of {there}"
                );
                assert_eq!(
                    protection.using_since(&digest).unwrap(),
                    time,
                    "{number} of {there}"
                );
            }
        }
    }

    #[tokio::test]
    async fn an_upload_marker_is_removed_whatever_the_length_of_its_directory() {
        let dir = tempfile::tempdir().unwrap();
        let markers = Markers::new(dir.path());
        for there in [1, NAMES_MAX + 1] {
            for number in 0..there {
                upload(&markers, numbered(number)).await;
            }
            let uploads = Uploads::read(&OsFiles, &markers);
            uploads.remove(&numbered(0)).unwrap();
            uploads.remove(&numbered(there)).unwrap();
            assert_eq!(markers.upload(&OsFiles, &numbered(0)).unwrap(), None);
        }
    }

    #[test]
    fn a_directory_that_cannot_be_read_is_an_error_and_not_an_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        let markers = Markers::new(dir.path());
        markers.prepare(&Env::system(), &OsFiles).unwrap();
        for unreadable in [markers.uploads(), markers.using()] {
            let files = FaultyFiles::new(std::sync::Arc::new(OsFiles));
            files.add(FileFault {
                op: FileOp::Stat,
                path: unreadable.display().to_string(),
                times: 1,
                errno: 5,
            });
            assert!(Protection::read(&files, &markers).is_err());
        }
    }
}
