//! What bounds an upload, each part by itself: SHA-256, CRC-32, unpacking, and writing.
//!
//! Each runs on the calling thread, over the same chunks as the daemon gets, with the functions the daemon uses.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use holdfast_tests::measure::usage::ThreadCpu;
use pbs_datastore::files::{FILE_MODE, Files as _, OsFiles};
use pbs_datastore::{CHUNK_BYTES_MAX, DataBlob, Digest};
use tokio::time::Instant;

use super::load::{Backup, chunks};

/// What one part took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cost {
    /// Time on the clock.
    pub(crate) seconds: f64,
    /// Processor time of the thread.
    pub(crate) cpu_seconds: f64,
}

impl Cost {
    fn of(work: impl FnOnce() -> Result<()>) -> Result<Self> {
        let (began, cpu) = (Instant::now(), ThreadCpu::now()?);
        work()?;
        Ok(Self {
            seconds: began.elapsed().as_secs_f64(),
            cpu_seconds: ThreadCpu::now()?.seconds_since(&cpu),
        })
    }
}

/// All parts.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ceilings {
    /// SHA-256 of the contents, by one core.
    pub(crate) sha256: Cost,
    /// CRC-32 of what is stored.
    pub(crate) crc32: Cost,
    /// Unpacking of what is compressed; 0 if nothing is.
    pub(crate) decode: Cost,
    /// The chunks as files, see [`write()`].
    pub(crate) disk: Cost,
}

impl Ceilings {
    /// Measures them, with the files below `dir`, which must not exist and is not removed.
    pub(crate) fn measure(backups: &[Backup], dir: &Path) -> Result<Self> {
        let blobs: Vec<_> = chunks(backups)
            .map(|chunk| DataBlob::parse(chunk.encoded.clone()))
            .collect::<Result<_, _>>()?;
        let sha256 = Cost::of(|| {
            let mut all = chunks(backups);
            let same = all.all(|chunk| Digest::of(&chunk.plain) == chunk.digest);
            ensure!(same, "a chunk has another digest");
            Ok(())
        })?;
        let crc32 = Cost::of(|| Ok(blobs.iter().try_for_each(DataBlob::verify_crc)?))?;
        let mut decode = Cost::default();
        if blobs.iter().any(|blob| blob.kind().is_compressed()) {
            decode = Cost::of(|| {
                for blob in &blobs {
                    blob.decode(CHUNK_BYTES_MAX, None)?;
                }
                Ok(())
            })?;
        }
        drop(blobs);
        Ok(Self {
            sha256,
            crc32,
            decode,
            disk: write(backups, dir)?,
        })
    }
}

/// Writes the chunks as a datastore in a directory does by default: each a new file in a directory for temporary ones, then
/// renamed to its name in one of 65,536 directories, nothing synced but the whole file system once, at the end. The
/// directories lie ready.
fn write(backups: &[Backup], dir: &Path) -> Result<Cost> {
    let files = OsFiles;
    let path = |digest: &Digest| {
        let digest = digest.to_string();
        dir.join(&digest[..4]).join(digest)
    };
    let temporary = dir.join("temporary");
    files.create_dirs(&temporary)?;
    for chunk in chunks(backups) {
        let path = path(&chunk.digest);
        files.create_dirs(path.parent().context("a path in a directory")?)?;
    }
    nix::unistd::sync();
    Cost::of(|| {
        for chunk in chunks(backups) {
            let path = path(&chunk.digest);
            let staged = temporary.join(chunk.digest.to_string());
            let parts: [Bytes; 1] = [chunk.encoded.clone()];
            files.create(&staged, FILE_MODE, &parts, false)?;
            files.rename(&staged, &path)?;
        }
        Ok(files.sync_file_system(dir)?)
    })
}
