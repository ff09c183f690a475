//! A tar stream as a directory again.
//!
//! 1. The target is made, or must be empty unless `overwrite` is given.
//! 2. Each entry is created inside the target (see [`super::target`]); files get content and metadata at once. What
//!    stands at its name is replaced: in a fresh target that is an earlier entry of the same name.
//! 3. At the end directories get their metadata, the deepest first: a mode may forbid to write into them, and every new
//!    entry changes their time.
//!
//! An entry that cannot be restored is a warning, and so is metadata that cannot be applied. A damaged stream or a full
//! disk ends the restore. After an interruption the target holds the entries so far, directories with mode 0700.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::errno::Errno;

use super::stream::{Members, Next};
use super::target::{Inside, Target};
use super::{Extent, Kind, Member, shown};
use crate::client::progress::Progress;

/// What is copied at once.
const COPY_BYTES: usize = 1 << 20;

/// How a directory is restored.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ExtractOptions {
    /// Whether a directory that is not empty is accepted as target, and files in it are replaced.
    pub(crate) overwrite: bool,
}

/// Restores the tar stream `source` into the directory `path`.
///
/// # Errors
/// A target that must not be used, a damaged stream, an error of `source`, a full or failing disk.
pub(crate) fn extract<R: Read>(
    source: R,
    path: &Path,
    options: ExtractOptions,
    progress: &Progress,
) -> io::Result<()> {
    prepare(path, options)?;
    let mut restore = Restore {
        members: Members::new(source),
        target: Target::open(path)?,
        directories: BTreeMap::new(),
        buffer: vec![0; COPY_BYTES],
        progress,
    };
    while let Some(next) = restore.members.next()? {
        match next {
            Next::Member(member) => restore.member(member)?,
            Next::Unusable(what) => progress.warn(&what),
        }
    }
    restore.finish_directories();
    Ok(())
}

fn prepare(path: &Path, options: ExtractOptions) -> io::Result<()> {
    match std::fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => std::fs::create_dir_all(path),
        Err(error) => Err(error),
        Ok(mut entries) => {
            if options.overwrite || entries.next().is_none() {
                return Ok(());
            }
            let text = format!(
                "{} is not empty: restore into a new directory, or give --overwrite to replace files in it",
                path.display()
            );
            Err(io::Error::new(io::ErrorKind::AlreadyExists, text))
        }
    }
}

struct Restore<'a, R> {
    members: Members<R>,
    target: Target,
    /// Metadata to apply at the end, by path.
    directories: BTreeMap<Vec<u8>, (Inside, Member)>,
    buffer: Vec<u8>,
    progress: &'a Progress,
}

impl<R: Read> Restore<'_, R> {
    fn member(&mut self, member: Member) -> io::Result<()> {
        let at = match Inside::parse(&member.path) {
            Ok(at) => at,
            Err(fault) => {
                self.warn(&member.path, &format!("left out: {fault}"));
                return Ok(());
            }
        };
        let result = match &member.kind {
            Kind::File { size, extents } => {
                return self.file(&at, &member, *size, extents.as_deref());
            }
            Kind::Directory => self.target.create_directory(&at),
            Kind::HardLink(first) => match Inside::parse(first) {
                Ok(first) => self.target.link(&at, &first),
                Err(fault) => Err(io::Error::other(fault)),
            },
            kind => self.target.create_special(&at, kind),
        };
        match result {
            Err(error) => self.left_out(&member.path, error),
            Ok(()) => match &member.kind {
                Kind::Directory => {
                    self.directories.insert(at.joined(), (at, member));
                    Ok(())
                }
                Kind::HardLink(_) => Ok(()),
                _ => {
                    let faults = self.target.apply(&at, &member);
                    self.applied(&member.path, faults);
                    Ok(())
                }
            },
        }
    }

    fn file(
        &mut self,
        at: &Inside,
        member: &Member,
        size: u64,
        extents: Option<&[Extent]>,
    ) -> io::Result<()> {
        let file = match self.target.create_file(at) {
            Ok(file) => file,
            Err(error) => return self.left_out(&member.path, error),
        };
        let whole = [Extent {
            offset: 0,
            length: size,
        }];
        for extent in extents.unwrap_or(&whole) {
            self.copy(&file, *extent, &member.path)?;
        }
        if extents.is_some() {
            file.set_len(size)
                .map_err(|error| within(&member.path, &error))?;
        }
        let faults = self.target.apply_to(&file.into(), member);
        self.applied(&member.path, Ok(faults));
        Ok(())
    }

    fn copy(&mut self, file: &File, extent: Extent, path: &[u8]) -> io::Result<()> {
        let mut done = 0;
        while done < extent.length {
            let most = (extent.length - done).min(COPY_BYTES as u64) as usize;
            let read = self.members.read(&mut self.buffer[..most])?;
            file.write_all_at(&self.buffer[..read], extent.offset + done)
                .map_err(|error| within(path, &error))?;
            done += read as u64;
        }
        Ok(())
    }

    fn finish_directories(&mut self) {
        // Backwards, what a directory holds comes before it.
        for (path, (at, member)) in std::mem::take(&mut self.directories).into_iter().rev() {
            let faults = self.target.apply(&at, &member);
            let path = if path.is_empty() {
                b"."
            } else {
                path.as_slice()
            };
            self.applied(path, faults);
        }
    }

    /// An entry that cannot be created is left out, unless no other could be created either.
    fn left_out(&self, path: &[u8], error: io::Error) -> io::Result<()> {
        let code = error.raw_os_error().map(Errno::from_raw);
        if matches!(
            code,
            Some(Errno::ENOSPC | Errno::EDQUOT | Errno::EROFS | Errno::EIO | Errno::EMFILE)
        ) {
            return Err(within(path, &error));
        }
        let what = match code {
            Some(Errno::ELOOP | Errno::ENOTDIR) => {
                "its directory is a link or no directory".to_owned()
            }
            _ => error.to_string(),
        };
        self.warn(path, &format!("left out: {what}"));
        Ok(())
    }

    fn applied(&self, path: &[u8], faults: io::Result<Vec<String>>) {
        let faults =
            faults.unwrap_or_else(|error| vec![format!("its metadata cannot be set: {error}")]);
        for fault in faults {
            self.warn(path, &fault);
        }
    }

    fn warn(&self, path: &[u8], what: &str) {
        self.progress.warn(&format!("{}: {what}", shown(path)));
    }
}

fn within(path: &[u8], error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", shown(path)))
}
