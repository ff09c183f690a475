//! Tests of manifests.

use proptest::prelude::*;
use serde_json::json;

use super::*;

const CSUM: &str = "9c5944aba3379b450612203cafb5bf60c2358103550b7f799d197f4668f169d5";
const CANONICAL: &str = concat!(
    r#"{"backup-id":"t1","backup-time":1700000000,"backup-type":"host","files":[{"crypt-mode":"none","csum":""#,
    "9c5944aba3379b450612203cafb5bf60c2358103550b7f799d197f4668f169d5",
    r#"","filename":"a.blob","size":17}]}"#
);
const SIGNATURE: &str = "30aecffa0f627beb84c950c1886a1ca4af67368587a80a10f2a467042fd89f9b";

/// The key 00 01 … 1f of the test vectors.
fn key() -> CryptKey {
    CryptKey::new(std::array::from_fn(|i| i as u8))
}

fn sample() -> Value {
    json!({
        "backup-type": "host", "backup-id": "t1", "backup-time": 1_700_000_000,
        "files": [{"filename": "a.blob", "crypt-mode": "none", "size": 17, "csum": CSUM}],
        "signature": null,
        "unprotected": {},
    })
}

fn read(value: &Value) -> Result<Manifest, ManifestError> {
    Manifest::from_json(value.to_string().as_bytes())
}

fn file(name: &str, csum: Option<Digest>) -> ManifestFile {
    ManifestFile {
        name: name.parse().expect("an archive name"),
        crypt_mode: CryptMode::None,
        size: 17,
        csum,
    }
}

#[test]
fn vector_canonical_text() {
    let manifest = read(&sample()).expect("a manifest");
    assert_eq!(
        String::from_utf8(manifest.canonical_json()).expect("UTF-8"),
        CANONICAL
    );
}

#[test]
fn vector_signature() {
    let mut manifest = read(&sample()).expect("a manifest");
    assert_eq!(manifest.verify_signature(&key()), SignatureCheck::Absent);
    manifest.sign(&key());
    assert_eq!(manifest.signature(), Some(SIGNATURE));
    assert_eq!(manifest.key_fingerprint(), Some(key().fingerprint()));
    assert_eq!(manifest.verify_signature(&key()), SignatureCheck::Valid);
    assert_eq!(
        manifest.verify_signature(&CryptKey::new([0; 32])),
        SignatureCheck::Invalid
    );
}

#[test]
fn changes_of_what_is_unprotected_leave_the_signature_valid() {
    let mut manifest = read(&sample()).expect("a manifest");
    manifest.sign(&key());
    let stats = ChunkUploadStats {
        count: 3,
        size: 30,
        compressed_size: 20,
        duplicates: 1,
    };
    let state = VerifyState {
        upid: "UPID:x".to_owned(),
        state: VerifyOutcome::Failed,
    };
    manifest.set_notes("first line\nsecond");
    manifest.set_chunk_upload_stats(&stats);
    manifest.set_verify_state(Some(&state));
    let manifest = Manifest::parse(&manifest.to_blob().expect("short")).expect("a manifest");
    assert_eq!(manifest.verify_signature(&key()), SignatureCheck::Valid);
    assert_eq!(manifest.notes(), "first line\nsecond");
    assert_eq!(manifest.chunk_upload_stats(), Some(stats));
    assert_eq!(manifest.verify_state(), Some(state));
    let unprotected = &manifest.members["unprotected"];
    assert_eq!(
        unprotected["verify_state"],
        json!({"upid": "UPID:x", "state": "failed"})
    );
    assert_eq!(
        unprotected["chunk_upload_stats"]["compressed_size"],
        json!(20)
    );
}

#[test]
fn a_changed_size_makes_the_signature_invalid() {
    let mut manifest = read(&sample()).expect("a manifest");
    manifest.sign(&key());
    let mut changed = Value::Object(manifest.members);
    changed["files"][0]["size"] = 18.into();
    let manifest = read(&changed).expect("a manifest");
    assert_eq!(manifest.verify_signature(&key()), SignatureCheck::Invalid);
}

#[test]
fn removed_notes_leave_no_trace() {
    let mut manifest = read(&sample()).expect("a manifest");
    let before = manifest.clone();
    manifest.set_notes("x");
    assert_ne!(manifest, before);
    manifest.set_notes("");
    manifest.set_verify_state(None);
    assert_eq!(manifest, before);
}

#[test]
fn unknown_members_survive() {
    let mut value = sample();
    value["future"] =
        json!({"list": [1, -2, u64::MAX, i64::MIN, "ä\u{1}\"", null, true], "empty": {}});
    value["files"][0]["future"] = json!([[]]);
    value["unprotected"] = json!({"sync-source-signature": "ab", "rate": 0.5});
    let mut manifest = read(&value).expect("a manifest");
    manifest.set_notes("n");
    let manifest = Manifest::parse(&manifest.to_blob().expect("short")).expect("a manifest");
    value["unprotected"]["notes"] = "n".into();
    assert_eq!(Value::Object(manifest.members), value);
}

#[test]
fn a_new_manifest_is_read_back() {
    let snapshot = "host/t1/2023-11-14T22:13:20Z"
        .parse::<Snapshot>()
        .expect("a snapshot");
    let files = vec![
        file("a.blob", Some(CSUM.parse().expect("a digest"))),
        file("r.pxar.didx", Some(Digest::of(b"r"))),
    ];
    let manifest = Manifest::new(snapshot.clone(), files.clone()).expect("all names differ");
    let blob = manifest.to_blob().expect("short");
    assert!(blob.kind().is_compressed());
    let read = Manifest::parse(&blob).expect("a manifest");
    assert_eq!(read, manifest);
    assert_eq!(read.files(), files);
    assert_eq!(read.size(), 34);
    assert_eq!(read.check_snapshot(&snapshot), Ok(()));
    let other = "host/t2/2023-11-14T22:13:20Z"
        .parse::<Snapshot>()
        .expect("a snapshot");
    assert!(read.check_snapshot(&other).is_err());
    let twice = Manifest::new(snapshot, vec![files[0].clone(), files[0].clone()]);
    assert_eq!(twice, Err(ManifestError::Twice(files[0].name.clone())));
}

#[test]
fn an_empty_csum_is_borne_for_blobs_only() {
    let mut value = sample();
    value["files"][0]["csum"] = "".into();
    assert_eq!(read(&value).expect("a manifest").files()[0].csum, None);
    value["files"][0]["filename"] = "a.didx".into();
    let name = "a.didx".parse().expect("an archive name");
    assert_eq!(read(&value), Err(ManifestError::File(name)));
}

#[test]
fn null_or_missing_members_that_may_be_so() {
    let mut value = sample();
    value["unprotected"] = Value::Null;
    value["files"][0]["crypt-mode"] = Value::Null;
    let mut manifest = read(&value).expect("a manifest");
    assert_eq!(manifest.files()[0].crypt_mode, CryptMode::None);
    manifest.set_notes("n");
    assert_eq!(manifest.notes(), "n");
    let members = value.as_object_mut().expect("an object");
    members.remove("signature");
    members.remove("unprotected");
    assert_eq!(read(&value).expect("a manifest").notes(), "");
}

#[test]
fn wrong_manifests_are_refused() {
    let with = |path: &str, new: Value| {
        let mut value = sample();
        *value.pointer_mut(path).expect("there") = new;
        read(&value).expect_err("refused")
    };
    let file = || ManifestError::File("a.blob".parse().expect("an archive name"));
    assert!(matches!(
        with("/backup-type", json!("qemu")),
        ManifestError::Name(_)
    ));
    assert!(matches!(
        with("/backup-id", json!("../x")),
        ManifestError::Name(_)
    ));
    assert!(matches!(
        with("/backup-time", json!(0)),
        ManifestError::Name(_)
    ));
    assert!(matches!(
        with("/files/0/filename", json!("../x.blob")),
        ManifestError::Name(_)
    ));
    assert!(matches!(
        with("/files/0/filename", json!("x.pxar")),
        ManifestError::Name(_)
    ));
    assert_eq!(
        with("/files/0/filename", json!("index.json.blob")),
        ManifestError::ListsItself
    );
    assert_eq!(
        with("/backup-time", json!("1")),
        ManifestError::Member("backup-time")
    );
    assert_eq!(with("/files", json!({})), ManifestError::Member("files"));
    assert_eq!(
        with("/files/0", json!(1)),
        ManifestError::Member("filename")
    );
    assert_eq!(
        with("/unprotected", json!([])),
        ManifestError::Member("unprotected")
    );
    assert_eq!(with("/files/0/crypt-mode", json!("rot13")), file());
    assert_eq!(with("/files/0/size", json!(-1)), file());
    assert_eq!(with("/files/0/csum", json!("AB")), file());
    assert_eq!(
        with("/files/0/size", json!(1.5)),
        ManifestError::NotAnInteger
    );
    assert!(matches!(read(&json!([])), Err(ManifestError::Json(_))));
    assert!(matches!(
        Manifest::from_json(b"{"),
        Err(ManifestError::Json(_))
    ));
    let mut twice = sample();
    twice["files"] = json!([twice["files"][0], twice["files"][0]]);
    assert!(matches!(read(&twice), Err(ManifestError::Twice(_))));
}

#[test]
fn encrypted_damaged_and_boundless_manifests_are_refused() {
    let text = bytes::Bytes::from(sample().to_string());
    let encrypted = DataBlob::encode(text.clone(), true, Some(&key()), [1; 16]).expect("short");
    assert_eq!(Manifest::parse(&encrypted), Err(ManifestError::Encrypted));
    let mut damaged = DataBlob::encode_plain(text)
        .expect("short")
        .encoded()
        .to_vec();
    damaged[20] ^= 1;
    let damaged = DataBlob::parse(damaged.into()).expect("a blob");
    assert!(matches!(
        Manifest::parse(&damaged),
        Err(ManifestError::Blob(BlobError::CrcMismatch { .. }))
    ));
    let long = vec![b' '; MANIFEST_BYTES_MAX + 1].into();
    let long = DataBlob::encode(long, true, None, [0; 16]).expect("short enough for a blob");
    let too_long = ManifestError::Blob(BlobError::ContentsTooLong(MANIFEST_BYTES_MAX));
    assert_eq!(Manifest::parse(&long), Err(too_long.clone()));
    let mut manifest = read(&sample()).expect("a manifest");
    manifest.set_notes(&"n".repeat(MANIFEST_BYTES_MAX));
    assert_eq!(manifest.to_blob().map(|_| ()), Err(too_long));
}

#[test]
fn a_short_manifest_of_very_many_values_is_refused() {
    let with = |one: &str, count: usize| {
        let mut text = sample().to_string();
        text.pop();
        let many = vec![one; count].join(",");
        Manifest::from_json(format!("{text},\"more\":[{many}]}}").as_bytes())
    };
    for one in ["0", "[]", "{\"a\":0}"] {
        assert_eq!(with(one, VALUES_MAX), Err(ManifestError::TooManyValues));
    }
    assert!(with("0", VALUES_MAX - 100).is_ok());
    // Commas and brackets within texts are no values, whatever is escaped there.
    let texts = with(r#"",[{,[{\\\",[{,[{,\\""#, 10_000);
    assert!(texts.is_ok(), "{texts:?}");
}

#[test]
fn what_maps_take_in_memory_is_counted() {
    let memory = |one: &str| {
        let mut text = sample().to_string();
        text.pop();
        let many = vec![one; 1000].join(",");
        let text = format!("{text},\"more\":[{many}]}}");
        let manifest = Manifest::from_json(text.as_bytes()).expect("a manifest");
        manifest.memory_bytes()
    };
    // The smallest node of a map of texts and values has eleven places.
    let node = 11 * (size_of::<String>() + size_of::<Value>());
    assert!(memory("{\"a\":0}") - memory("{}") >= 1000 * node);
}

#[test]
fn deep_nesting_is_an_error() {
    let deep = "[".repeat(100_000);
    assert!(matches!(
        Manifest::from_json(deep.as_bytes()),
        Err(ManifestError::Json(_))
    ));
}

/// Any JSON value of integers.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        let members = prop::collection::btree_map(".{0,4}", inner.clone(), 0..4);
        prop_oneof![
            prop::collection::vec(inner, 0..4).prop_map(Value::from),
            members.prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn whatever_a_client_adds_is_kept_and_signed(extra in any_json(), notes in ".{0,20}") {
        let mut value = sample();
        value["extra"] = extra.clone();
        let mut manifest = read(&value).expect("a manifest");
        manifest.sign(&key());
        manifest.set_notes(&notes);
        let manifest = Manifest::parse(&manifest.to_blob().expect("short")).expect("a manifest");
        prop_assert_eq!(&manifest.members["extra"], &extra);
        prop_assert_eq!(manifest.verify_signature(&key()), SignatureCheck::Valid);
        let canonical: Value = serde_json::from_slice(&manifest.canonical_json()).expect("canonical text is JSON");
        prop_assert_eq!(&canonical["extra"], &extra);
    }

    #[test]
    fn no_text_makes_it_panic(text in ".{0,60}", at in 0..220_usize, byte: u8) {
        let _ = Manifest::from_json(text.as_bytes());
        let mut text = sample().to_string().into_bytes();
        if let Some(place) = text.get_mut(at) {
            *place = byte;
        }
        let _ = Manifest::from_json(&text);
    }
}
