//! The header blocks of one member: extended header where needed, ustar header, sparse map.

use std::io;

use tar::{EntryType, Header};

use super::{BLOCK, Extent, Kind, Member, Mtime, pax};

/// Largest value of the ustar field `mtime` (11 octal digits).
const OCTAL_11_MAX: i64 = 0o777_7777_7777;
/// Largest value of the ustar fields `uid` and `gid` (7 octal digits).
const OCTAL_7_MAX: u64 = 0o777_7777;

/// All blocks that precede the content of `member`.
///
/// # Errors
/// A device number that does not fit into its field.
pub(super) fn encode(member: &Member) -> io::Result<Vec<u8>> {
    let mut records = Vec::new();
    let mut header = Header::new_ustar();
    header.set_mode(member.mode & 0o7777);
    header.set_uid(member.uid);
    header.set_gid(member.gid);
    for (key, id) in [("uid", member.uid), ("gid", member.gid)] {
        if id > OCTAL_7_MAX {
            pax::push(&mut records, key.as_bytes(), id.to_string().as_bytes());
        }
    }
    header.set_mtime(u64::try_from(member.mtime.seconds.clamp(0, OCTAL_11_MAX)).unwrap_or(0));
    if member.mtime.nanos != 0 || !(0..=OCTAL_11_MAX).contains(&member.mtime.seconds) {
        pax::push(&mut records, b"mtime", decimal(member.mtime).as_bytes());
    }
    let map = fill_kind(member, &mut header, &mut records)?;
    for (name, value) in &member.xattrs {
        pax::push(
            &mut records,
            &[b"SCHILY.xattr.", &pax::escape_attribute(name)[..]].concat(),
            value,
        );
    }
    header.set_cksum();

    let mut blocks = Vec::with_capacity(BLOCK);
    if !records.is_empty() {
        let mut extended = Header::new_ustar();
        fill(&mut extended.as_old_mut().name, b"././@PaxHeader");
        extended.set_entry_type(EntryType::XHeader);
        extended.set_mode(0o644);
        extended.set_size(records.len() as u64);
        extended.set_cksum();
        blocks.extend_from_slice(extended.as_bytes());
        blocks.extend_from_slice(&records);
        pad(&mut blocks);
    }
    blocks.extend_from_slice(header.as_bytes());
    blocks.extend_from_slice(&map);
    Ok(blocks)
}

/// The fields that depend on what the member is; returns the sparse map that follows the header.
fn fill_kind(member: &Member, header: &mut Header, records: &mut Vec<u8>) -> io::Result<Vec<u8>> {
    let mut map = Vec::new();
    let mut path = member.path.clone();
    let mut link: &[u8] = &[];
    let kind = match &member.kind {
        Kind::File {
            size,
            extents: Some(extents),
        } => {
            map = sparse_map(*size, extents);
            pax::push(records, b"GNU.sparse.major", b"1");
            pax::push(records, b"GNU.sparse.minor", b"0");
            pax::push(records, b"GNU.sparse.name", &member.path);
            pax::push(records, b"GNU.sparse.realsize", size.to_string().as_bytes());
            EntryType::Regular
        }
        Kind::File { .. } => EntryType::Regular,
        Kind::Directory => {
            path.push(b'/');
            EntryType::Directory
        }
        Kind::Symlink(text) => {
            link = text;
            EntryType::Symlink
        }
        Kind::HardLink(first) => {
            link = first;
            EntryType::Link
        }
        Kind::Fifo => EntryType::Fifo,
        Kind::Device {
            block,
            major,
            minor,
        } => {
            header.set_device_major(*major)?;
            header.set_device_minor(*minor)?;
            if *block {
                EntryType::Block
            } else {
                EntryType::Char
            }
        }
    };
    header.set_entry_type(kind);
    let stored = member.kind.stored_bytes() + map.len() as u64;
    header.set_size(stored);
    if stored > OCTAL_11_MAX as u64 {
        pax::push(records, b"size", stored.to_string().as_bytes());
    }
    let old = header.as_old_mut();
    if map.is_empty() {
        fill_name(&mut old.name, b"path", &path, records);
    } else {
        // A reader that knows no sparse files then creates a file whose name says so.
        let base = path.rsplit(|&b| b == b'/').next().unwrap_or_default();
        fill(&mut old.name, &[b"GNUSparseFile.0/", base].concat());
    }
    fill_name(&mut old.linkname, b"linkpath", link, records);
    Ok(map)
}

/// Puts a name into its field, and into a record when it does not fit.
fn fill_name(field: &mut [u8; 100], key: &[u8], name: &[u8], records: &mut Vec<u8>) {
    fill(field, name);
    if name.len() > field.len() {
        pax::push(records, key, name);
    }
}

/// Copies as much of `name` as the field holds.
fn fill(field: &mut [u8; 100], name: &[u8]) {
    let length = name.len().min(field.len());
    field.fill(0);
    field[..length].copy_from_slice(&name[..length]);
}

/// The map of PAX sparse format 1.0: number of extents, then offset and length of each, one number to a line, padded to
/// whole blocks. A hole at the end shows as an empty extent there.
fn sparse_map(size: u64, extents: &[Extent]) -> Vec<u8> {
    let end = extents.last().map_or(0, |last| last.offset + last.length);
    let tail = (end < size || extents.is_empty()).then_some(Extent {
        offset: size,
        length: 0,
    });
    let mut map = format!("{}\n", extents.len() + usize::from(tail.is_some())).into_bytes();
    for extent in extents.iter().chain(&tail) {
        map.extend_from_slice(format!("{}\n{}\n", extent.offset, extent.length).as_bytes());
    }
    pad(&mut map);
    map
}

/// Seconds as a decimal number with nine digits after the point; before 1970 the fraction counts away from zero.
fn decimal(mtime: Mtime) -> String {
    let nanos = i128::from(mtime.seconds) * 1_000_000_000 + i128::from(mtime.nanos);
    let sign = if nanos < 0 { "-" } else { "" };
    format!(
        "{sign}{}.{:09}",
        nanos.unsigned_abs() / 1_000_000_000,
        nanos.unsigned_abs() % 1_000_000_000
    )
}

/// Zeros up to a whole block.
fn pad(blocks: &mut Vec<u8>) {
    blocks.resize(blocks.len().next_multiple_of(BLOCK), 0);
}
