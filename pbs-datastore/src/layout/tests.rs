//! Tests of the layout.

use std::path::Component;

use proptest::prelude::*;

use super::*;
use crate::BUCKET_PREFIX_BYTES_MAX;

fn bucket() -> BucketLayout {
    BucketLayout::new(&"store1".parse().expect("a datastore name"))
}

fn digest() -> Digest {
    "bb9f8df61474d25e71fa00722318cd387396ca1736605e1248821cc0de3d3af8"
        .parse()
        .expect("a digest")
}

fn snapshot() -> Snapshot {
    "vm/100/2023-11-14T22:13:20Z".parse().expect("a snapshot")
}

fn ns(text: &str) -> Namespace {
    text.parse().expect("a namespace")
}

#[test]
fn keys_are_those_of_the_format() {
    let digest_text = "bb9f8df61474d25e71fa00722318cd387396ca1736605e1248821cc0de3d3af8";
    let manifest = Place::archive(&ns("a/b"), &snapshot(), &ArchiveName::manifest());
    let protected = Place::SnapshotFile(ns(""), snapshot(), SnapshotFile::Protected);
    for (place, key) in [
        (
            Place::Chunk(digest()),
            format!("store1/.chunks/bb9f/{digest_text}"),
        ),
        (
            Place::Bad(digest(), BadNumber(3)),
            format!("store1/.chunks/bb9f/{digest_text}.3.bad"),
        ),
        (
            manifest,
            "store1/.cnt/ns/a/ns/b/vm/100/2023-11-14T22:13:20Z/index.json.blob".to_owned(),
        ),
        (
            protected,
            "store1/.cnt/vm/100/2023-11-14T22:13:20Z/.protected".to_owned(),
        ),
        (
            Place::GroupOwner(ns("a"), snapshot().group),
            "store1/.cnt/ns/a/vm/100/owner".to_owned(),
        ),
        (
            Place::GroupNotes(ns(""), snapshot().group),
            "store1/.cnt/vm/100/notes".to_owned(),
        ),
        (
            Place::NamespaceMarker(ns("a/b")),
            "store1/.cnt/ns/a/ns/b/.namespace".to_owned(),
        ),
        (Place::InUse, "store1/.in-use".to_owned()),
        (
            Place::Holdfast(HoldfastFile::Format),
            "store1/.holdfast/format".to_owned(),
        ),
    ] {
        assert_eq!(bucket().key(&place).as_str(), key);
        assert_eq!(
            bucket().parse(&ObjectKey::new(key).expect("a key")),
            Some(place)
        );
    }
}

#[test]
fn a_directory_has_its_contents_at_the_root_and_a_cache_in_a_folder() {
    let place = Place::GroupOwner(ns("a"), snapshot().group);
    assert_eq!(
        LocalLayout::Directory.path(&place),
        Path::new("ns/a/vm/100/owner")
    );
    assert_eq!(
        LocalLayout::Cache.path(&place),
        Path::new(".cnt/ns/a/vm/100/owner")
    );
    let marker = Place::Holdfast(HoldfastFile::UploadMarker(digest()));
    let path = LocalLayout::Cache.path(&marker);
    assert_eq!(
        path,
        Path::new(".holdfast/uploads").join(digest().to_string())
    );
    assert_eq!(
        LocalLayout::Directory.path(&Place::Chunk(digest())),
        LocalLayout::Cache.path(&Place::Chunk(digest()))
    );
}

#[test]
fn what_nobody_writes_is_foreign() {
    let digest_text = digest().to_string();
    for text in [
        "store1/".to_owned(),
        "store2/.in-use".to_owned(),
        format!("store1/.chunks/bb9e/{digest_text}"),
        format!("store1/.chunks/{digest_text}"),
        format!("store1/.chunks/bb9f/x/{digest_text}"),
        format!("store1/.chunks/bb9f/{}", digest_text.to_uppercase()),
        format!("store1/.chunks/bb9f/{digest_text}.10.bad"),
        format!("store1/.chunks/bb9f/{digest_text}.+3.bad"),
        format!("store1/.chunks/bb9f/{digest_text}.using"),
        format!("store1/.chunks/bb9f/{digest_text}/"),
        "store1/.cnt/.namespace".to_owned(),
        "store1/.cnt/ns/a/ns/.namespace".to_owned(),
        "store1/.cnt/ns/../vm/100/owner".to_owned(),
        "store1/.cnt/vm/100/owner/".to_owned(),
        "store1/.cnt/vm//owner".to_owned(),
        "store1/.cnt/vm/100/2023-11-14T22:13:20Z/../x.blob".to_owned(),
        "store1/.cnt/vm/100/2023-11-14T22:13:20Z/x.tmp".to_owned(),
        "store1/.cnt/vm/100/2023-11-14T22:13:20.0Z/x.blob".to_owned(),
        "store1/.holdfast/uploads/x".to_owned(),
        "store1/.holdfast/tmp/05050505050505050505050505050505".to_owned(),
        "store1/vm/100/owner".to_owned(),
    ] {
        let key = ObjectKey::new(text).expect("a key");
        assert_eq!(bucket().parse(&key), None, "{key}");
    }
}

#[test]
fn every_prefix_ends_in_a_slash() {
    let group = snapshot().group;
    let folders = [
        Folder::Root,
        Folder::Chunks,
        Folder::ChunksOf(0xab),
        Folder::Contents,
        Folder::Namespace(ns("a")),
        Folder::Type(ns("a"), BackupType::Vm),
        Folder::Group(ns(""), group),
        Folder::Snapshot(ns(""), snapshot()),
        Folder::Holdfast,
        Folder::Uploads,
        Folder::Using,
        Folder::Temporary,
    ];
    for folder in folders {
        let prefix = bucket().folder(&folder);
        assert!(prefix.as_str().starts_with("store1/"), "{prefix}");
        assert!(prefix.as_str().ends_with('/'), "{prefix}");
        assert!(!LocalLayout::Directory.folder(&folder).is_absolute());
    }
    assert_eq!(
        bucket().folder(&Folder::ChunksOf(0xab)).as_str(),
        "store1/.chunks/00ab/"
    );
    let group = bucket().folder(&Folder::Group(ns(""), snapshot().group));
    let neighbour = Place::GroupOwner(ns(""), "vm/1000".parse().expect("a group"));
    assert_eq!(group.strip(&bucket().key(&neighbour)), None);
}

#[test]
fn the_longest_names_make_a_valid_key() {
    let prefix = "p".repeat(BUCKET_PREFIX_BYTES_MAX);
    let prefix = prefix.parse().expect("a prefix");
    let part = "n".repeat(35);
    let deepest = format!("{0}/{0}/{0}/{0}/{0}/{0}/{1}", part, "n".repeat(40));
    let snapshot = format!("host/{}/2023-11-14T22:13:20Z", "i".repeat(255));
    let name = format!("{}.didx", "a".repeat(250))
        .parse()
        .expect("an archive name");
    let place = Place::archive(&ns(&deepest), &snapshot.parse().expect("a snapshot"), &name);
    let layout = BucketLayout::new(&prefix);
    assert_eq!(deepest.len(), 256);
    assert_eq!(layout.parse(&layout.key(&place)), Some(place));
}

fn any_digest() -> impl Strategy<Value = Digest> {
    any::<[u8; 32]>().prop_map(Digest)
}

fn any_namespace() -> impl Strategy<Value = Namespace> {
    let name = prop_oneof!["ns", "vm", "ct", "owner", "[A-Za-z0-9_][A-Za-z0-9._-]{0,5}"];
    prop::collection::vec(name, 0..=7).prop_map(|names| ns(&names.join("/")))
}

fn any_snapshot() -> impl Strategy<Value = Snapshot> {
    let id = prop_oneof!["ns", "owner", "[A-Za-z0-9_][A-Za-z0-9._-]{0,8}"];
    (
        prop::sample::select(&BackupType::ALL),
        id,
        1..4_000_000_000_i64,
    )
        .prop_map(|(kind, id, time)| {
            let time = crate::BackupTime::new(time).expect("in range");
            BackupGroup::new(kind, id.parse().expect("a safe id")).at(time)
        })
}

fn any_place() -> impl Strategy<Value = Place> {
    let file = prop_oneof![
        Just(SnapshotFile::Protected),
        (
            "[A-Za-z0-9_][A-Za-z0-9._-]{0,8}",
            prop::sample::select(&["blob", "fidx", "didx"])
        )
            .prop_map(|(stem, extension)| SnapshotFile::Archive(
                format!("{stem}.{extension}").parse().expect("a name")
            )),
    ];
    let holdfast = prop_oneof![
        Just(HoldfastFile::Format),
        Just(HoldfastFile::AtimeProof),
        Just(HoldfastFile::ContentsLog),
        Just(HoldfastFile::Verified),
        Just(HoldfastFile::Usage),
        Just(HoldfastFile::Owner),
        Just(HoldfastFile::GcJournal),
        any_digest().prop_map(HoldfastFile::UploadMarker),
        any_digest().prop_map(HoldfastFile::UsingMarker),
    ];
    prop_oneof![
        any_digest().prop_map(Place::Chunk),
        (any_digest(), 0..=9_u8).prop_map(|(digest, number)| Place::Bad(digest, BadNumber(number))),
        (any_namespace(), any_snapshot(), file)
            .prop_map(|(ns, snapshot, file)| Place::SnapshotFile(ns, snapshot, file)),
        (any_namespace(), any_snapshot())
            .prop_map(|(ns, snapshot)| Place::GroupOwner(ns, snapshot.group)),
        (any_namespace(), any_snapshot())
            .prop_map(|(ns, snapshot)| Place::GroupNotes(ns, snapshot.group)),
        any_namespace()
            .prop_filter("not the root", |ns| !ns.is_root())
            .prop_map(Place::NamespaceMarker),
        Just(Place::InUse),
        Just(Place::Lock),
        Just(Place::GcStatus),
        holdfast.prop_map(Place::Holdfast),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(place in any_place()) {
        prop_assert_eq!(bucket().parse(&bucket().key(&place)), Some(place.clone()));
        for layout in [LocalLayout::Cache, LocalLayout::Directory] {
            let path = layout.path(&place);
            prop_assert_eq!(layout.parse(&path), Some(place.clone()));
            let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
            prop_assert!(plain, "{} leaves its root", path.display());
        }
    }

    #[test]
    fn two_places_never_share_a_key(a in any_place(), b in any_place()) {
        prop_assert_eq!(bucket().key(&a) == bucket().key(&b), a == b);
        for layout in [LocalLayout::Cache, LocalLayout::Directory] {
            prop_assert_eq!(layout.path(&a) == layout.path(&b), a == b);
        }
    }

    #[test]
    fn whatever_is_recognised_is_written_the_same_way(
        text in "(\\.chunks/|\\.cnt/|\\.holdfast/)?((ns|vm|a|\\.\\.|owner|tmp)/){0,5}[a-z.]{0,8}",
    ) {
        let path = Path::new(&text);
        for layout in [LocalLayout::Cache, LocalLayout::Directory] {
            if let Some(place) = layout.parse(path) {
                prop_assert_eq!(layout.path(&place), path);
            }
        }
    }
}
