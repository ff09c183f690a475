//! Reading a tar stream member by member: PAX and GNU extensions, bounded memory, nothing believed.
//!
//! Understood beside what [`super::header`] writes: GNU long names and links, base-256 numbers, old GNU sparse files, global
//! extended headers. Unknown kinds of entries are handed over as faults of that entry, not of the stream.

use std::io::{self, Read};

use tar::{EntryType, Header};

use super::{BLOCK, EXTENTS_MAX, Extent, Kind, Member, Mtime, NAME_BYTES_MAX, PAX_BYTES_MAX, pax};

/// A tar stream. [`Members::next`] gives the next entry; between two calls the packed content is read with [`Read`].
pub(super) struct Members<R> {
    source: R,
    /// Bytes of content not read yet.
    content: u64,
    /// Padding behind the content.
    padding: u64,
    global: Extended,
}

/// What came along with an entry.
#[derive(Debug)]
pub(super) enum Next {
    Member(Member),
    /// An entry that cannot be represented; the stream goes on behind it.
    Unusable(String),
}

/// The values that extended headers override.
#[derive(Debug, Clone, Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<Mtime>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    sparse_name: Option<Vec<u8>>,
    sparse_major: Option<u64>,
    sparse_size: Option<u64>,
    /// A sparse format older than 1.0 was announced.
    sparse_old: bool,
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the archive is damaged: {what}"),
    )
}

impl<R: Read> Members<R> {
    pub(super) fn new(source: R) -> Self {
        Self {
            source,
            content: 0,
            padding: 0,
            global: Extended::default(),
        }
    }

    /// The next entry; what is left of the current content is skipped. `None` at the end of the archive.
    ///
    /// # Errors
    /// Of the source, and a damaged stream (`InvalidData`, `UnexpectedEof`).
    pub(super) fn next(&mut self) -> io::Result<Option<Next>> {
        self.skip_content()?;
        let mut extended = self.global.clone();
        loop {
            let Some(header) = self.header()? else {
                return Ok(None);
            };
            let size = header
                .entry_size()
                .map_err(|_| damaged("a header holds no size"))?;
            match header.entry_type() {
                EntryType::XHeader => self.extended(size, &mut extended)?,
                EntryType::XGlobalHeader => {
                    let mut global = self.global.clone();
                    self.extended(size, &mut global)?;
                    self.global = global.clone();
                    extended = global;
                }
                EntryType::GNULongName => extended.path = Some(self.long_name(size)?),
                EntryType::GNULongLink => extended.link = Some(self.long_name(size)?),
                _ => return self.member(&header, size, extended).map(Some),
            }
        }
    }

    /// The entry of `header`, whose content has `size` bytes unless an extended header says otherwise.
    fn member(&mut self, header: &Header, size: u64, mut extended: Extended) -> io::Result<Next> {
        let path = extended.path.take();
        let mut path = path.unwrap_or_else(|| header.path_bytes().into_owned());
        // Before POSIX a directory was a file whose name ends in a slash.
        let is_file = header.entry_type().is_file();
        let is_directory = header.entry_type().is_dir() || (is_file && path.ends_with(b"/"));
        let kind = self.kind(header, extended.size.unwrap_or(size), &mut extended)?;
        if is_file && extended.sparse_major == Some(1) {
            path = extended.sparse_name.unwrap_or(path);
        }
        while path.len() > 1 && path.ends_with(b"/") {
            path.pop();
        }
        let kind = match kind {
            _ if is_directory => Kind::Directory,
            Ok(kind) => kind,
            Err(what) => return Ok(Next::Unusable(format!("{}: {what}", super::shown(&path)))),
        };
        let whole_seconds = |seconds: u64| Mtime {
            seconds: seconds.cast_signed(),
            nanos: 0,
        };
        let mtime = extended
            .mtime
            .map_or_else(|| header.mtime().map(whole_seconds), Ok);
        let uid = extended.uid.map_or_else(|| header.uid(), Ok);
        let gid = extended.gid.map_or_else(|| header.gid(), Ok);
        Ok(Next::Member(Member {
            path,
            kind,
            mode: header
                .mode()
                .map_err(|_| damaged("a header holds no mode"))?
                & 0o7777,
            uid: uid.map_err(|_| damaged("a header holds no owner"))?,
            gid: gid.map_err(|_| damaged("a header holds no group"))?,
            mtime: mtime.map_err(|_| damaged("a header holds no time"))?,
            xattrs: extended.xattrs,
        }))
    }

    /// What the entry is, or why it cannot be used. Afterwards the packed content comes next in the stream.
    fn kind(
        &mut self,
        header: &Header,
        stored: u64,
        extended: &mut Extended,
    ) -> io::Result<Result<Kind, String>> {
        let entry_type = header.entry_type();
        // Links of other writers may state the size of what they point to, without content.
        self.expect_content(if is_without_content(entry_type) {
            0
        } else {
            stored
        });
        let link = extended.link.take();
        let link = || {
            let link = link.or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned));
            link.unwrap_or_default()
        };
        Ok(Ok(match entry_type {
            EntryType::Directory => Kind::Directory,
            EntryType::Symlink => Kind::Symlink(link()),
            EntryType::Link => Kind::HardLink(link()),
            EntryType::Fifo => Kind::Fifo,
            EntryType::Char | EntryType::Block => Kind::Device {
                block: entry_type.is_block_special(),
                major: header.device_major()?.unwrap_or(0),
                minor: header.device_minor()?.unwrap_or(0),
            },
            EntryType::GNUSparse => self.old_gnu_sparse(header)?,
            EntryType::Regular if extended.sparse_major == Some(1) => {
                let size = extended.sparse_size;
                let size = size.ok_or_else(|| damaged("a sparse file has no size"))?;
                let extents = self.sparse_map()?;
                Kind::File {
                    size,
                    extents: Some(self.checked(size, extents)?),
                }
            }
            EntryType::Regular if extended.sparse_old => {
                return Ok(Err(
                    "the sparse formats 0.0 and 0.1 are not supported".to_owned()
                ));
            }
            EntryType::Regular | EntryType::Continuous => Kind::File {
                size: stored,
                extents: None,
            },
            other => {
                let kind = char::from(other.as_byte());
                return Ok(Err(format!(
                    "entries of the kind '{kind}' are not supported"
                )));
            }
        }))
    }

    /// The next header block, checked; `None` at the first zero block or a clean end of the source.
    fn header(&mut self) -> io::Result<Option<Header>> {
        let mut header = Header::new_old();
        let block = header.as_mut_bytes();
        let mut read = 0;
        while read < BLOCK {
            match self.source.read(&mut block[read..])? {
                0 if read == 0 => return Ok(None),
                0 => {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "the archive ends within a header",
                    ));
                }
                count => read += count,
            }
        }
        if block.iter().all(|&b| b == 0) {
            return Ok(None);
        }
        let sum: u32 = block
            .iter()
            .enumerate()
            .map(|(at, &b)| {
                if (148..156).contains(&at) {
                    32
                } else {
                    u32::from(b)
                }
            })
            .sum();
        if header.cksum().ok() != Some(sum) {
            return Err(damaged("the checksum of a header is wrong"));
        }
        Ok(Some(header))
    }

    fn expect_content(&mut self, bytes: u64) {
        self.content = bytes;
        self.padding = bytes.wrapping_neg() % BLOCK as u64;
    }

    fn skip_content(&mut self) -> io::Result<()> {
        let left = self.content.saturating_add(self.padding);
        (self.content, self.padding) = (0, 0);
        if io::copy(&mut (&mut self.source).take(left), &mut io::sink())? == left {
            Ok(())
        } else {
            Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the archive ends within a file",
            ))
        }
    }

    /// Reads a whole small content into memory.
    fn small(&mut self, size: u64, bytes_max: u64) -> io::Result<Vec<u8>> {
        if size > bytes_max {
            return Err(damaged("an extended header is too large"));
        }
        self.expect_content(size);
        let mut content = vec![0; size as usize];
        self.read_exact(&mut content)?;
        self.skip_content()?;
        Ok(content)
    }

    fn long_name(&mut self, size: u64) -> io::Result<Vec<u8>> {
        let mut name = self.small(size, NAME_BYTES_MAX as u64)?;
        if name.last() == Some(&0) {
            name.pop();
        }
        Ok(name)
    }

    fn extended(&mut self, size: u64, into: &mut Extended) -> io::Result<()> {
        let content = self.small(size, PAX_BYTES_MAX)?;
        for (key, value) in pax::parse(&content).map_err(damaged)? {
            into.set(key, value)?;
        }
        Ok(())
    }

    /// The map at the start of the content in PAX format 1.0.
    fn sparse_map(&mut self) -> io::Result<Vec<Extent>> {
        let mut block = [0; BLOCK];
        let mut at = BLOCK;
        let mut number = || -> io::Result<u64> {
            let mut value: Option<u64> = None;
            loop {
                if at == BLOCK {
                    self.read_exact(&mut block)?;
                    at = 0;
                }
                let byte = block[at];
                at += 1;
                match byte {
                    b'\n' => return value.ok_or_else(|| damaged("a sparse map has an empty line")),
                    b'0'..=b'9' => {
                        let next = value
                            .unwrap_or(0)
                            .checked_mul(10)
                            .and_then(|v| v.checked_add(u64::from(byte - b'0')));
                        value = Some(next.ok_or_else(|| {
                            damaged("a sparse map holds a number that is too large")
                        })?);
                    }
                    _ => return Err(damaged("a sparse map holds no number")),
                }
            }
        };
        let count = number()?;
        // The map of a full list ends in an empty extent.
        if count > EXTENTS_MAX as u64 + 1 {
            return Err(damaged("a sparse map has too many extents"));
        }
        (0..count)
            .map(|_| {
                Ok(Extent {
                    offset: number()?,
                    length: number()?,
                })
            })
            .collect()
    }

    /// The extents of an old GNU sparse entry: four in the header, 21 in each extension block.
    fn old_gnu_sparse(&mut self, header: &Header) -> io::Result<Kind> {
        let gnu = header
            .as_gnu()
            .ok_or_else(|| damaged("a sparse file has no GNU header"))?;
        let size = gnu
            .real_size()
            .map_err(|_| damaged("a sparse file has no size"))?;
        let mut extents = Vec::new();
        let mut take = |fields: &[tar::GnuSparseHeader]| -> io::Result<()> {
            for field in fields.iter().filter(|field| !field.is_empty()) {
                extents.push(Extent {
                    offset: field.offset()?,
                    length: field.length()?,
                });
            }
            if extents.len() > EXTENTS_MAX {
                Err(damaged("a sparse map has too many extents"))
            } else {
                Ok(())
            }
        };
        take(&gnu.sparse)?;
        let mut more = gnu.is_extended();
        while more {
            let mut block = tar::GnuExtSparseHeader::new();
            self.source.read_exact(block.as_mut_bytes())?;
            take(block.sparse())?;
            more = block.is_extended();
        }
        Ok(Kind::File {
            size,
            extents: Some(self.checked(size, extents)?),
        })
    }

    /// Extents that ascend, lie within the file and use up the content exactly.
    fn checked(&self, size: u64, mut extents: Vec<Extent>) -> io::Result<Vec<Extent>> {
        extents.retain(|extent| extent.length > 0);
        let mut end = 0;
        let mut stored = 0u64;
        for extent in &extents {
            let next = extent
                .offset
                .checked_add(extent.length)
                .filter(|&next| extent.offset >= end && next <= size);
            end = next.ok_or_else(|| damaged("the extents of a sparse file do not fit it"))?;
            stored += extent.length;
        }
        if stored == self.content {
            Ok(extents)
        } else {
            Err(damaged("a sparse file has too much or too little data"))
        }
    }
}

impl<R: Read> Read for Members<R> {
    /// Reads the packed content of the current entry: the extents of a sparse file one after the other.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.content)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let read = self.source.read(&mut buffer[..most])?;
        if read == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the archive ends within a file",
            ));
        }
        self.content -= read as u64;
        Ok(read)
    }
}

/// Kinds that never have content, whatever size their header states.
fn is_without_content(entry_type: EntryType) -> bool {
    entry_type.is_symlink()
        || entry_type.is_hard_link()
        || entry_type.is_fifo()
        || entry_type.is_character_special()
        || entry_type.is_block_special()
        || entry_type.is_dir()
}

impl Extended {
    fn set(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        let number = || {
            let text = std::str::from_utf8(value).ok();
            text.and_then(|text| text.parse().ok())
                .ok_or_else(|| damaged("an extended header holds no number"))
        };
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(number()?),
            b"uid" => self.uid = Some(number()?),
            b"gid" => self.gid = Some(number()?),
            b"mtime" => {
                self.mtime =
                    Some(mtime(value).ok_or_else(|| damaged("an extended header holds no time"))?);
            }
            b"GNU.sparse.name" => self.sparse_name = Some(value.to_vec()),
            b"GNU.sparse.major" => self.sparse_major = Some(number()?),
            b"GNU.sparse.realsize" => self.sparse_size = Some(number()?),
            b"GNU.sparse.map" | b"GNU.sparse.numblocks" => self.sparse_old = true,
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    let name = pax::unescape_attribute(name);
                    self.xattrs.retain(|(known, _)| *known != name);
                    self.xattrs.push((name, value.to_vec()));
                }
            }
        }
        Ok(())
    }
}

/// A decimal number of seconds, with a sign and a fraction of any length; digits beyond nanoseconds are dropped.
fn mtime(text: &[u8]) -> Option<Mtime> {
    let text = std::str::from_utf8(text).ok()?;
    let (negative, digits) = text
        .strip_prefix('-')
        .map_or((false, text), |rest| (true, rest));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty()
        || !digits.bytes().all(|b| b.is_ascii_digit() || b == b'.')
        || fraction.contains('.')
    {
        return None;
    }
    let nanos: i128 = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    let total = i128::from(whole.parse::<u64>().ok()?) * 1_000_000_000 + nanos;
    let total = if negative { -total } else { total };
    let seconds = i64::try_from(total.div_euclid(1_000_000_000)).ok()?;
    Some(Mtime {
        seconds,
        nanos: total.rem_euclid(1_000_000_000) as u32,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_exact_on_both_sides_of_1970() {
        for (text, seconds, nanos) in [
            ("0", 0, 0),
            ("1700000000.123456789", 1_700_000_000, 123_456_789),
            ("1.5", 1, 500_000_000),
            ("-0.5", -1, 500_000_000),
            ("-2.000000001", -3, 999_999_999),
            ("9.1234567899999", 9, 123_456_789),
        ] {
            assert_eq!(
                mtime(text.as_bytes()),
                Some(Mtime { seconds, nanos }),
                "{text}"
            );
        }
        for wrong in [
            "",
            "-",
            ".5",
            "1.2.3",
            "+1",
            "1e5",
            "99999999999999999999999",
        ] {
            assert_eq!(mtime(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
