//! What a server decides, as pure functions: whether a condition holds, what a page of a listing contains, which bytes a
//! range means, what tag a content gets. The model, the directory bucket and the HTTP adapter share them, so that they
//! cannot come to different answers.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::Bound;

use md5::{Digest as _, Md5};

use crate::store::{
    Body, ByteRange, DeleteRequest, Metadata, PAGE_KEYS_MAX, PUT_ID_METADATA, Part,
};
use crate::{ETag, Error, ErrorKind, ObjectKey, Op, Precondition, PutId};

/// Whether a write may go ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The precondition holds.
    Apply,
    /// It does not (412).
    Refuse,
}

/// Decides a write against the tag of the object that is there, if one is.
pub fn decide(precondition: &Precondition, current: Option<&ETag>) -> Decision {
    let holds = match precondition {
        Precondition::None => true,
        Precondition::Absent => current.is_none(),
        Precondition::Matches(wanted) => current == Some(wanted),
    };
    if holds {
        Decision::Apply
    } else {
        Decision::Refuse
    }
}

/// Decides a deletion. Absence satisfies every condition, as it does on S3: the object is not there afterwards.
pub fn decide_delete(if_match: Option<&ETag>, current: Option<&ETag>) -> Decision {
    match (if_match, current) {
        (Some(wanted), Some(there)) if wanted != there => Decision::Refuse,
        _ => Decision::Apply,
    }
}

/// One page of a sorted map.
#[derive(Debug)]
pub struct Page<'a, V> {
    /// In byte order.
    pub entries: Vec<(&'a ObjectKey, &'a V)>,
    /// Whether more follow.
    pub truncated: bool,
}

/// The first `keys_max` entries (at least 1, at most [`PAGE_KEYS_MAX`]) below `prefix` and behind `start_after`. Costs
/// what the page costs, however many keys come before it.
pub fn page<'a, V>(
    objects: &'a BTreeMap<ObjectKey, V>,
    prefix: &str,
    start_after: Option<&str>,
    keys_max: usize,
) -> Page<'a, V> {
    let keys_max = keys_max.clamp(1, PAGE_KEYS_MAX);
    let from = match start_after {
        Some(after) if after >= prefix => Bound::Excluded(after),
        _ => Bound::Included(prefix),
    };
    let mut rest = objects
        .range::<str, _>((from, Bound::Unbounded))
        .take_while(|(key, _)| key.as_str().starts_with(prefix));
    let entries: Vec<_> = rest.by_ref().take(keys_max).collect();
    Page {
        entries,
        truncated: rest.next().is_some(),
    }
}

/// The bytes `start..end` that `range` means in an object of `size` bytes; `None` for the whole object.
pub fn clip(range: Option<ByteRange>, size: u64) -> Option<(u64, u64)> {
    match range {
        None => Some((0, size)),
        Some(range) if range.start >= size || range.end <= range.start => None,
        Some(range) => Some((range.start, range.end.min(size))),
    }
}

/// The name S3 has for an error of kind [`ErrorKind::Other`]; kept as its source for whoever serves the store.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Code(pub(crate) &'static str);

/// An error that S3 has a name for and callers need not tell apart.
pub(crate) fn coded(code: &'static str, op: Op, key: &ObjectKey, message: impl Display) -> Error {
    let message = format!("{code}: {message}");
    Error::new(ErrorKind::Other, op, key.as_str(), message).with_source(Code(code))
}

/// The error for a range that lies behind the end of the object.
pub(crate) fn range_error(key: &ObjectKey, range: ByteRange, size: u64) -> Error {
    let message = format!(
        "bytes {}..{} are not in an object of {size} bytes",
        range.start, range.end
    );
    coded("InvalidRange", Op::Get, key, message)
}

/// The bytes `start..end` of a body, without copying any.
pub(crate) fn slice(body: &Body, start: u64, end: u64) -> Body {
    let mut offset = 0;
    let mut cut = Body::empty();
    for part in body.parts() {
        let length = part.len() as u64;
        let from = start.clamp(offset, offset + length) - offset;
        let to = end.clamp(offset, offset + length) - offset;
        if from < to {
            cut.push(part.slice(from as usize..to as usize));
        }
        offset += length;
    }
    cut
}

/// The tag of an object that was written in one piece: the MD5 of its content.
pub(crate) fn etag_of(body: &Body) -> ETag {
    let mut hasher = Md5::new();
    body.parts().iter().for_each(|part| hasher.update(part));
    ETag::new(&hex::encode(hasher.finalize()))
}

/// The tag of an object that was written in parts: the MD5 of their MD5s, and how many they were.
pub(crate) fn etag_of_parts<'a>(parts: impl ExactSizeIterator<Item = &'a ETag>) -> ETag {
    let count = parts.len();
    let mut hasher = Md5::new();
    for tag in parts {
        match tag.as_md5() {
            Some(digest) => hasher.update(digest),
            None => hasher.update(tag.as_str()),
        }
    }
    ETag::new(&format!("{}-{count}", hex::encode(hasher.finalize())))
}

/// The metadata an object is stored with, or why it cannot be.
pub(crate) fn stored_metadata(
    op: Op,
    key: &ObjectKey,
    mut metadata: Metadata,
    put_id: Option<PutId>,
) -> Result<Metadata, Error> {
    if let Some(PutId(id)) = put_id {
        metadata.insert(PUT_ID_METADATA.to_owned(), id);
    }
    let name_is_fine = |name: &str| {
        !name.is_empty()
            && name
                .bytes()
                .all(|b| b.is_ascii_graphic() && !b.is_ascii_uppercase())
    };
    let value_is_fine = |value: &str| value.bytes().all(|b| b == b' ' || b.is_ascii_graphic());
    let bytes: usize = metadata
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    if bytes > METADATA_BYTES_MAX {
        let message = format!("metadata has {bytes} bytes, at most {METADATA_BYTES_MAX} are kept");
        return Err(coded("MetadataTooLarge", op, key, message));
    }
    let faulty = metadata
        .iter()
        .find(|(name, value)| !name_is_fine(name) || !value_is_fine(value));
    match faulty {
        None => Ok(metadata),
        Some((name, _)) => {
            let message =
                format!("metadata '{name}' must be a lower-case name with a printable ASCII value");
            Err(coded("InvalidArgument", op, key, message))
        }
    }
}

/// Most bytes of user metadata, names and values together, that S3 keeps with an object.
pub(crate) const METADATA_BYTES_MAX: usize = 2048;

/// Checks the list of parts that is to become an object: not empty, numbers from 1 to 10,000 and rising.
pub(crate) fn check_parts(key: &ObjectKey, parts: &[Part]) -> Result<(), Error> {
    let rising = parts.windows(2).all(|pair| pair[0].number < pair[1].number);
    let bounded = parts
        .iter()
        .all(|part| (1..=PART_NUMBER_MAX).contains(&part.number));
    if parts.is_empty() || !rising || !bounded {
        return Err(coded(
            "InvalidPartOrder",
            Op::CompleteMultipart,
            key,
            "the parts must be numbered from 1 to 10,000 in rising order",
        ));
    }
    Ok(())
}

/// A batch holds 1 to [`PAGE_KEYS_MAX`] requests.
pub(crate) fn check_batch(requests: &[DeleteRequest]) -> Result<(), Error> {
    if requests.is_empty() || requests.len() > PAGE_KEYS_MAX {
        return Err(Error::new(
            ErrorKind::Other,
            Op::Delete,
            "",
            format!("a batch deletes 1 to {PAGE_KEYS_MAX} keys"),
        ));
    }
    Ok(())
}

/// The error for a part that is too small to be followed by another.
pub(crate) fn part_too_small(key: &ObjectKey, number: u16) -> Error {
    let message = format!("part {number} is smaller than 5 MiB and is not the last one");
    coded("EntityTooSmall", Op::CompleteMultipart, key, message)
}

/// Highest number of a part.
const PART_NUMBER_MAX: u16 = 10_000;

/// Least length of a part that is not the last one.
pub(crate) const PART_BYTES_MIN: u64 = 5 << 20;

/// The error for a part that is missing or has another tag.
pub(crate) fn invalid_part(key: &ObjectKey, number: u16) -> Error {
    let message = format!("part {number} was not uploaded, or has another tag");
    coded("InvalidPart", Op::CompleteMultipart, key, message)
}

/// Checks the number of a part.
pub(crate) fn check_part_number(key: &ObjectKey, number: u16) -> Result<(), Error> {
    if (1..=PART_NUMBER_MAX).contains(&number) {
        return Ok(());
    }
    let message = "a part number is from 1 to 10,000";
    Err(coded("InvalidArgument", Op::UploadPart, key, message))
}

/// The error for an upload nobody knows.
pub(crate) fn no_such_upload(op: Op, key: &ObjectKey) -> Error {
    Error::new(
        ErrorKind::NotFound,
        op,
        key.as_str(),
        "there is no such multipart upload of this key",
    )
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    fn key(text: &str) -> ObjectKey {
        ObjectKey::new(text).expect("a plain key")
    }

    #[test]
    fn conditions_are_decided_by_the_tag_that_is_there() {
        let (a, b) = (ETag::new("a"), ETag::new("b"));
        assert_eq!(decide(&Precondition::None, Some(&a)), Decision::Apply);
        assert_eq!(decide(&Precondition::Absent, None), Decision::Apply);
        assert_eq!(decide(&Precondition::Absent, Some(&a)), Decision::Refuse);
        let matches = Precondition::Matches(a.clone());
        assert_eq!(decide(&matches, Some(&a)), Decision::Apply);
        assert_eq!(decide(&matches, Some(&b)), Decision::Refuse);
        assert_eq!(decide(&matches, None), Decision::Refuse);
        assert_eq!(decide_delete(Some(&a), Some(&b)), Decision::Refuse);
        assert_eq!(decide_delete(Some(&a), None), Decision::Apply);
        assert_eq!(decide_delete(None, Some(&b)), Decision::Apply);
    }

    #[test]
    fn a_page_keeps_to_its_prefix() {
        let objects: BTreeMap<_, _> = ["a", "a.b", "a/b", "a/c", "a0", "b"]
            .into_iter()
            .map(|text| (key(text), 0))
            .collect();
        let names = |prefix, after, max| {
            let page = page(&objects, prefix, after, max);
            let names: Vec<_> = page.entries.iter().map(|(key, _)| key.as_str()).collect();
            (names.join(" "), page.truncated)
        };
        assert_eq!(names("", None, 1000), ("a a.b a/b a/c a0 b".into(), false));
        assert_eq!(names("a/", None, 1), ("a/b".into(), true));
        assert_eq!(names("a/", Some("a/b"), 1), ("a/c".into(), false));
        assert_eq!(names("a/", Some("a"), 9), ("a/b a/c".into(), false));
        assert_eq!(names("a/", Some("b"), 9), (String::new(), false));
        assert_eq!(names("", Some("a/"), 2), ("a/b a/c".into(), true));
    }

    #[test]
    fn the_tag_of_parts_counts_them() {
        let tags = [
            etag_of(&Body::from("hello ")),
            etag_of(&Body::from("world")),
        ];
        let tag = etag_of_parts(tags.iter());
        assert!(tag.as_str().ends_with("-2"), "{tag}");
        assert!(tag.as_md5().is_none());
        assert_eq!(
            etag_of(&Body::empty()).as_str(),
            "d41d8cd98f00b204e9800998ecf8427e"
        );
    }

    proptest! {
        #[test]
        fn paging_sees_every_key_once(
            keys in proptest::collection::btree_set("[a-c/]{1,4}", 0..40), keys_max in 1usize..7, prefix in "([a-c]/)?"
        ) {
            let objects: BTreeMap<_, _> = keys.iter().map(|text| (key(text), 0)).collect();
            let mut seen = Vec::new();
            loop {
                let after = seen.last().cloned();
                let page = page(&objects, &prefix, after.as_deref(), keys_max);
                prop_assert!(page.entries.len() <= keys_max);
                prop_assert!(!page.truncated || !page.entries.is_empty());
                seen.extend(page.entries.iter().map(|(key, _)| key.as_str().to_owned()));
                if !page.truncated {
                    break;
                }
            }
            let wanted: Vec<_> = keys.iter().filter(|key| key.starts_with(&prefix)).cloned().collect();
            prop_assert_eq!(seen, wanted);
        }

        #[test]
        fn slices_are_those_of_the_joined_content(
            parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..9), 0..6), a in 0u64..60, b in 0u64..60
        ) {
            let body: Body = parts.iter().cloned().map(Bytes::from).collect();
            let joined = parts.concat();
            let range = ByteRange { start: a, end: b };
            match clip(Some(range), body.len()) {
                None => prop_assert!(a >= body.len() || b <= a),
                Some((start, end)) => {
                    let cut = slice(&body, start, end).into_bytes();
                    prop_assert_eq!(&cut[..], &joined[a as usize..joined.len().min(b as usize)]);
                }
            }
        }
    }
}
