//! Tests of directory buckets.

use std::fs;
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::clock::virtual_clock;
use crate::conformance::{Claims, all};
use crate::{ETag, KeyPrefix};

fn key(text: &str) -> ObjectKey {
    ObjectKey::new(text).expect("a plain key")
}

async fn open(folder: &TempDir) -> DirectoryStore {
    DirectoryStore::open(folder.path()).await.expect("a bucket")
}

async fn list(store: &DirectoryStore) -> Vec<String> {
    let request = ListRequest::new(KeyPrefix::root());
    let page = store.list(&request).await.expect("a page").value;
    let entries = page.entries.into_iter();
    entries.map(|entry| entry.key.as_str().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_keeps_every_promise_also_when_opened_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let prefix = KeyPrefix::new("first/").expect("a prefix");
    let options = || DirectoryOptions {
        sync: false,
        ..DirectoryOptions::default()
    };
    let store = DirectoryStore::open_with(folder.path(), options()).await;
    let store = store.expect("a bucket");
    for finding in all(&store, &prefix, Claims::ALL).await {
        assert_eq!(finding.verdict, Ok(()), "{}", finding.property);
    }
    let before = snapshot(&store).await;
    assert!(before.len() > 20);
    drop(store);

    let store = DirectoryStore::open_with(folder.path(), options()).await;
    let store = store.expect("a bucket");
    assert_eq!(snapshot(&store).await, before);
    let prefix = KeyPrefix::new("second/").expect("a prefix");
    for finding in all(&store, &prefix, Claims::ALL).await {
        assert_eq!(finding.verdict, Ok(()), "{}", finding.property);
    }
}

async fn snapshot(store: &DirectoryStore) -> Vec<(String, ObjectMeta, Body)> {
    let mut objects = Vec::new();
    for name in list(store).await {
        let object = store.get(&key(&name), None).await.expect("an object").value;
        let head = store.head(&key(&name)).await.expect("an object").value;
        assert_eq!(head, object.meta);
        objects.push((name, head, object.body));
    }
    objects
}

#[tokio::test]
async fn a_bucket_is_opened_by_one_at_a_time() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(&folder).await;
    let second = DirectoryStore::open(folder.path()).await;
    let error = second.expect_err("in use").to_string();
    assert!(error.contains("in use by another process"), "{error}");
    drop(store);
    open(&folder).await;
}

#[tokio::test]
async fn what_a_crash_leaves_in_staging_is_removed() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(&folder).await;
    store.put(Put::new(key("a"), "1")).await.expect("a put");
    drop(store);
    let left = folder.path().join("staging/7");
    fs::write(&left, "half an obj").expect("a file");
    let store = open(&folder).await;
    assert!(!left.exists());
    assert_eq!(list(&store).await, ["a"]);
}

#[tokio::test]
async fn a_damaged_object_makes_open_fail_and_names_the_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(&folder).await;
    store.put(Put::new(key("a"), "1")).await.expect("a put");
    let path = store.0.tree.path(&Slot::of(&key("a")));
    drop(store);
    let mut bytes = fs::read(&path).expect("a file");
    bytes.pop();
    fs::write(&path, &bytes).expect("a file");
    let error = DirectoryStore::open(folder.path()).await;
    let error = error.expect_err("damaged").to_string();
    assert!(error.contains(&path.display().to_string()), "{error}");
    fs::rename(&path, folder.path().join("moved away")).expect("a rename");
    assert!(list(&open(&folder).await).await.is_empty());
}

#[tokio::test]
async fn another_format_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    drop(open(&folder).await);
    fs::write(folder.path().join("bucket.json"), "{\"version\":2}").expect("a file");
    let error = DirectoryStore::open(folder.path()).await;
    assert_eq!(error.expect_err("later").kind, ErrorKind::Unsupported);
}

#[tokio::test]
async fn content_that_is_gone_is_an_error_and_no_absence() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(&folder).await;
    store.put(Put::new(key("a"), "123")).await.expect("a put");
    let path = store.0.tree.path(&Slot::of(&key("a")));
    let bytes = fs::read(&path).expect("a file");
    fs::write(&path, &bytes[..bytes.len() - 1]).expect("a file");
    let error = store.get(&key("a"), None).await.expect_err("cut short");
    assert_eq!(error.kind, ErrorKind::Corrupt);
}

#[tokio::test(start_paused = true)]
async fn a_request_past_its_validity_has_no_effect() {
    let folder = tempfile::tempdir().expect("a folder");
    let clock = virtual_clock();
    let options = DirectoryOptions {
        clock: clock.clone(),
        sync: true,
    };
    let store = DirectoryStore::open_with(folder.path(), options).await;
    let store = store.expect("a bucket");
    store.put(Put::new(key("a"), "1")).await.expect("a put");
    let validity = Some(Validity {
        signed_at: clock(),
        expires: clock() + jiff::SignedDuration::from_secs(5),
    });
    tokio::time::advance(Duration::from_secs(5)).await;
    let mut put = Put::new(key("b"), "2");
    put.validity = validity;
    let outcome = store.put(put).await.expect("an outcome").value;
    assert_eq!(outcome, PutOutcome::Expired);
    let outcomes = store.delete(&[key("a").into()], validity).await;
    assert_eq!(outcomes.expect("outcomes").value, [DeleteOutcome::Expired]);
    assert_eq!(list(&store).await, ["a"]);
}

#[tokio::test]
async fn uploads_survive_a_restart_and_strange_ids_lead_nowhere() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(&folder).await;
    let upload = store.create_multipart(&key("a"), Metadata::new()).await;
    let upload = upload.expect("an upload").value;
    let part = store
        .upload_part(&key("a"), &upload, 1, Body::from("x"))
        .await;
    let PartOutcome::Stored(part) = part.expect("a part").value else {
        panic!("stored");
    };
    drop(store);
    let store = open(&folder).await;
    for (name, id) in [
        ("b", upload.0.as_str()),
        ("a", "../objects"),
        ("a", ""),
        ("a", "0-ff"),
    ] {
        let upload = UploadId(id.to_owned());
        let error = store
            .upload_part(&key(name), &upload, 2, Body::from("y"))
            .await;
        assert_eq!(error.expect_err("unknown").kind, ErrorKind::NotFound);
    }
    let wrong = Part {
        number: 1,
        etag: ETag::new("00000000000000000000000000000000"),
    };
    let error = store
        .complete_multipart(&key("a"), &upload, &[wrong], Precondition::None)
        .await;
    assert!(
        error
            .expect_err("wrong tag")
            .message
            .contains("InvalidPart")
    );
    let done = store
        .complete_multipart(&key("a"), &upload, &[part], Precondition::None)
        .await;
    assert!(matches!(
        done.expect("an outcome").value,
        PutOutcome::Created { .. }
    ));
    let uploads = fs::read_dir(folder.path().join("uploads")).expect("a folder");
    assert_eq!(uploads.count(), 0);
}

const KEYS: usize = 200_000;

/// Not a benchmark: it fails if listing reads files, or walks over what comes before a page.
#[tokio::test]
async fn listing_is_fast() {
    let folder = tempfile::tempdir().expect("a folder");
    let options = DirectoryOptions {
        sync: false,
        ..DirectoryOptions::default()
    };
    let store = DirectoryStore::open_with(folder.path(), options).await;
    let store = store.expect("a bucket");
    for n in 0..KEYS {
        store.0.index.insert(Header {
            key: key(&format!(".chunks/{:04x}/{n:064x}", n % 65_536)),
            size: 1,
            etag: ETag::new("d41d8cd98f00b204e9800998ecf8427e"),
            last_modified: (store.0.clock)(),
            metadata: Metadata::new(),
        });
    }
    let begun = tokio::time::Instant::now();
    let mut request = ListRequest::new(KeyPrefix::new(".chunks/").expect("a prefix"));
    let mut seen = 0;
    loop {
        let page = store.list(&request).await.expect("a page").value;
        seen += page.entries.len();
        if !page.truncated {
            break;
        }
        let last = page.entries.last().expect("a truncated page has entries");
        request.start_after = Some(last.key.as_str().to_owned());
    }
    assert_eq!(seen, KEYS);
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
}
