//! Where a file holds data.

use std::fs::File;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use super::{EXTENTS_MAX, Extent};

/// The data extents of `file`, whose size is `size` and whose allocated bytes are `allocated`; `None` when it has no hole
/// worth recording or the file system does not tell.
pub(super) fn extents(file: &File, size: u64, allocated: u64) -> Option<Vec<Extent>> {
    if allocated >= size {
        return None;
    }
    let mut found: Vec<Extent> = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match seek(file, at, Whence::SeekData) {
            Ok(start) => start,
            // No data from here to the end.
            Err(Errno::ENXIO) => break,
            Err(_) => return None,
        };
        if start >= size {
            break;
        }
        let end = if found.len() + 1 == EXTENTS_MAX {
            size
        } else {
            seek(file, start, Whence::SeekHole).ok()?.min(size)
        };
        if end <= start {
            return None;
        }
        found.push(Extent {
            offset: start,
            length: end - start,
        });
        at = end;
    }
    let whole = found.len() == 1
        && found[0]
            == Extent {
                offset: 0,
                length: size,
            };
    (!whole).then_some(found)
}

fn seek(file: &File, from: u64, whence: Whence) -> Result<u64, Errno> {
    let from = i64::try_from(from).map_err(|_| Errno::EOVERFLOW)?;
    lseek(file, from, whence).map(i64::unsigned_abs)
}
