//! Names, keys and paths: what is accepted has one spelling, and leads nowhere but where it says.

use std::fmt::Display;
use std::path::{Component, Path};
use std::str::FromStr;

use pbs_datastore::{
    ArchiveName, AuthId, BackupGroup, BackupId, BackupTime, BackupType, BucketLayout, BucketPrefix,
    DatastoreName, Digest, Fingerprint, LocalLayout, Namespace, Snapshot, SnapshotRef, TokenId,
    UserId,
};
use s3_client::ObjectKey;

/// Longest name of anything that is part of a path, in bytes.
const PATH_BYTES_MAX: usize = 1024;

/// What `text` is read as, said again, is `text`.
fn once<T: FromStr + Display>(text: &str) -> Option<T> {
    let read: T = text.parse().ok()?;
    let said = read.to_string();
    assert_eq!(
        said,
        text,
        "a name of {} has two spellings",
        std::any::type_name::<T>()
    );
    Some(read)
}

/// What is read from `text`, said and read again, says the same; `text` may be another spelling.
fn settled<T: FromStr + Display>(text: &str) -> Option<T>
where
    T::Err: Display,
{
    let read: T = text.parse().ok()?;
    let said = read.to_string();
    match said.parse::<T>() {
        Ok(again) => assert_eq!(again.to_string(), said),
        Err(error) => panic!("'{said}' is not read again: {error}"),
    }
    Some(read)
}

fn inside(text: &str) {
    let plain = Path::new(text)
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    assert!(plain && !text.contains('\0'), "'{text}' leads elsewhere");
}

/// All names that clients send.
pub(super) fn names(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Some(name) = once::<ArchiveName>(text) {
        inside(text);
        assert!(!name.as_str().contains('/'));
    }
    for found in [
        once::<BackupId>(text).is_some(),
        once::<DatastoreName>(text).is_some(),
        once::<BackupType>(text).is_some(),
        once::<BackupGroup>(text).is_some(),
        once::<Snapshot>(text).is_some(),
        once::<BackupTime>(text).is_some(),
    ] {
        if found {
            inside(text);
            assert!(text.len() <= PATH_BYTES_MAX);
        }
    }
    once::<BucketPrefix>(text);
    settled::<SnapshotRef>(text);
    settled::<Digest>(text);
    settled::<Fingerprint>(text);
    if let Some(namespace) = settled::<Namespace>(text) {
        inside_namespace(&namespace);
    }
    if let Some(id) = once::<AuthId>(text) {
        assert!(!id.to_string().contains(['\n', '\0', '/']));
    }
    once::<UserId>(text);
    once::<TokenId>(text);
}

fn inside_namespace(namespace: &Namespace) {
    let text = namespace.to_string();
    if !text.is_empty() {
        inside(&text);
    }
}

/// Keys and paths of somebody else: what is recognised is written with exactly that key or path again.
pub(super) fn layout(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let prefix: BucketPrefix = "store".parse().expect("a prefix");
    let layout = BucketLayout::new(&prefix);
    for key in [text.to_owned(), format!("store/{text}")] {
        let Ok(key) = ObjectKey::new(key) else {
            continue;
        };
        if let Some(place) = layout.parse(&key) {
            assert_eq!(layout.key(&place), key);
        }
    }
    for local in [LocalLayout::Cache, LocalLayout::Directory] {
        if let Some(place) = local.parse(Path::new(text)) {
            let path = local.path(&place);
            assert_eq!(path, Path::new(text));
            inside(path.to_str().expect("it was a text"));
        }
    }
}
