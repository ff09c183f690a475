//! Tests of the model.

use std::time::Duration;

use jiff::SignedDuration;

use super::*;

fn key(text: &str) -> ObjectKey {
    ObjectKey::new(text).expect("a plain key")
}

#[tokio::test(start_paused = true)]
async fn a_request_past_its_validity_has_no_effect() {
    let store = ModelStore::default();
    let validity = Validity {
        signed_at: store.now(),
        expires: store.now() + SignedDuration::from_secs(60),
    };
    let mut put = Put::new(key("a"), "1");
    put.validity = Some(validity);
    let copy = Copy {
        validity: Some(validity),
        ..Copy::new(key("a"), key("b"))
    };
    tokio::time::advance(Duration::from_secs(59)).await;
    let outcome = store.put(put.clone()).await.expect("a put").value;
    assert!(matches!(outcome, PutOutcome::Created { .. }));

    tokio::time::advance(Duration::from_secs(1)).await;
    let outcome = store.put(put).await.expect("a put").value;
    assert_eq!(outcome, PutOutcome::Expired);
    let outcome = store.copy(copy).await.expect("a copy").value;
    assert_eq!(outcome, PutOutcome::Expired);
    let outcomes = store.delete(&[key("a").into()], Some(validity)).await;
    assert_eq!(
        outcomes.expect("a deletion").value,
        [DeleteOutcome::Expired]
    );
    assert_eq!(store.objects().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn times_are_whole_seconds_of_the_given_clock() {
    let store = ModelStore::default();
    tokio::time::advance(Duration::from_millis(1999)).await;
    let answer = store.put(Put::new(key("a"), "1")).await.expect("a put");
    let meta = store.head(&key("a")).await.expect("a head").value;
    assert_eq!(meta.last_modified.to_string(), "2025-01-01T00:00:01Z");
    assert_eq!(answer.date, Some(meta.last_modified));
}

#[tokio::test]
async fn versions_outlive_deletion_and_overwriting() {
    let mut options = ModelOptions::default();
    options.settings.versioning = Setting::Known(Versioning::On);
    let store = ModelStore::new(options);
    store.put(Put::new(key("a"), "1")).await.expect("a put");
    let second = store.put(Put::new(key("a"), "2")).await.expect("a put");
    let PutOutcome::Created {
        version: Some(second),
        ..
    } = second.value
    else {
        panic!("{second:?} has no version");
    };
    store
        .delete(&[key("a").into()], None)
        .await
        .expect("a deletion");
    assert!(store.head(&key("a")).await.is_err());
    let contents: Vec<_> = store
        .versions(&key("a"))
        .into_iter()
        .map(|(_, object)| object.map(|object| object.body.into_bytes()))
        .collect();
    assert_eq!(contents, [Some("1".into()), Some("2".into()), None]);

    let marker = store.versions(&key("a"))[2].0.clone();
    for version in [marker, second] {
        let request = DeleteRequest {
            key: key("a"),
            if_match: None,
            version: Some(version),
        };
        let outcomes = store.delete(&[request], None).await.expect("a deletion");
        assert_eq!(outcomes.value, [DeleteOutcome::Deleted]);
    }
    let left = store.get(&key("a"), None).await.expect("a get").value;
    assert_eq!(left.body, Body::from("1"));
}

#[tokio::test]
async fn locked_keys_are_not_deleted() {
    let store = ModelStore::default();
    store.insert_raw(key("a"), "1", Metadata::new(), None);
    store.insert_raw(key("b"), "2", Metadata::new(), None);
    store.set_locked(&key("a"), true);
    let requests = [key("a").into(), key("b").into()];
    let outcomes = store.delete(&requests, None).await.expect("a deletion");
    assert_eq!(
        outcomes.value,
        [DeleteOutcome::Locked, DeleteOutcome::Deleted]
    );
    assert_eq!(store.objects().keys().collect::<Vec<_>>(), [&key("a")]);
}

#[tokio::test]
async fn requests_are_counted_and_raw_access_is_not() {
    let store = ModelStore::default();
    store.insert_raw(key("a"), "1", Metadata::new(), None);
    assert!(store.remove_raw(&key("a")));
    assert!(!store.remove_raw(&key("a")));
    assert!(store.counts().is_empty());
    assert!(store.head(&key("a")).await.is_err());
    assert_eq!(store.count(Op::Head), 1);
    store.reset_counts();
    assert_eq!(store.count(Op::Head), 0);
}

#[tokio::test]
async fn faulty_arguments_are_refused() {
    let store = ModelStore::default();
    assert!(store.delete(&[], None).await.is_err());
    let mut put = Put::new(key("a"), "1");
    put.metadata.insert("Upper".to_owned(), "x".to_owned());
    assert!(store.put(put).await.is_err());
    let upload = store
        .create_multipart(&key("a"), Metadata::new())
        .await
        .expect("an upload")
        .value;
    let (here, elsewhere) = (key("a"), key("b"));
    let unnumbered = store.upload_part(&here, &upload, 0, Body::empty()).await;
    assert_eq!(unnumbered.expect_err("number 0").kind, ErrorKind::Other);
    let stray = store
        .upload_part(&elsewhere, &upload, 1, Body::empty())
        .await;
    assert_eq!(stray.expect_err("other key").kind, ErrorKind::NotFound);
    assert_eq!(store.open_uploads(), [(key("a"), upload)]);
    assert!(store.objects().is_empty());
}
