//! What the calls answer when all goes well.

use http::Method;
use pbs_datastore::{Digest, Index, IndexChecksum};
use serde_json::{Value, json};

use super::fixture::{Fixture, snapshot};
use crate::tasks::Outcome;

#[tokio::test]
async fn a_backup_is_written_and_read() {
    let fixture = Fixture::new().await;
    let first = snapshot("a", 0);
    let chunks = [vec![1; 100_000], vec![2; 300_000], vec![3; 5]];
    let session = fixture.backup(&first).await;
    assert_eq!(
        session.get("/previous_backup_time").await.data(),
        Value::Null
    );
    session.put_dynamic("root.pxar.didx", &chunks).await;
    assert_eq!(
        session.put_blob("x.conf.blob", b"text").await.data(),
        Value::Null
    );
    session.finish(&first).await;
    assert!(fixture.has(&first).await, "visible before the answer");
    drop(session);
    fixture.settle().await;
    let task = ("backup".to_owned(), "store1:host/a".to_owned(), Outcome::Ok);
    assert_eq!(fixture.tasks(), [task]);
    assert_eq!(fixture.finished.lock().expect("not poisoned").len(), 1);

    let reader = fixture.reader(&first).await;
    let digest = Digest::of(&chunks[1]);
    let chunk = format!("/chunk?digest={digest}");
    assert_eq!(reader.get(&chunk).await.status, 401, "no index opened yet");
    let index = reader.get("/download?file-name=root.pxar.didx").await;
    assert_eq!((index.status, index.length), (200, None));
    assert_eq!(
        index.content_type.as_deref(),
        Some("application/octet-stream")
    );
    let index = Index::parse(pbs_datastore::ArchiveKind::Dynamic, index.body).expect("an index");
    assert_eq!((index.len(), index.size()), (3, 400_005));
    let (start, _) = chunk.split_at(chunk.len() - 32);
    let similar = format!("{start}{}", "0".repeat(32));
    assert_eq!(
        reader.get(&similar).await.status,
        401,
        "its index names another"
    );
    let answer = reader.get(&chunk).await;
    assert_eq!((answer.status, answer.length), (200, Some(300_012)));
    assert_eq!(&answer.body[12..], &chunks[1]);
    let body = json!({ "digest": digest });
    assert_eq!(
        reader.json(Method::GET, "/chunk", &body).await.body,
        answer.body
    );
    let speed = reader.get("/speedtest").await;
    assert_eq!(speed.body.len(), 1 << 20);
    assert!(speed.body.iter().all(|byte| *byte == b'A'));
    let names = json!([{ "subdir": "chunk" }, { "subdir": "download" }, { "subdir": "speedtest" }]);
    assert_eq!(reader.get("/").await.data(), names);
    drop((reader, answer));
    fixture.settle().await;
    assert_eq!(
        fixture.tasks()[0].1,
        format!("store1:host/a/{:08X}", 1_700_000_000)
    );
    assert_eq!(fixture.tasks()[0].2, Outcome::Ok);
}

#[tokio::test]
async fn an_image_is_continued_from_its_predecessor() {
    let fixture = Fixture::new().await;
    let (zeros, end) = (vec![0; 4 << 20], vec![7; 1000]);
    let size = zeros.len() + end.len();
    let session = fixture.backup(&snapshot("vm", 0)).await;
    let open = json!({ "archive-name": "d.img.fidx", "size": size });
    assert_eq!(
        session
            .json(Method::POST, "/fixed_index", &open)
            .await
            .data(),
        1
    );
    let first = session.put_chunk(1, "fixed", &zeros).await;
    let last = session.put_chunk(1, "fixed", &end).await;
    let append = json!({ "wid": 1, "digest-list": [last, first], "offset-list": [4 << 20, 0] });
    assert_eq!(
        session
            .json(Method::PUT, "/fixed_index", &append)
            .await
            .data(),
        Value::Null
    );
    let mut sum = IndexChecksum::new();
    sum.push_fixed(&first);
    sum.push_fixed(&last);
    let csum = sum.finish();
    let close = json!({ "wid": 1, "chunk-count": 2, "size": size, "csum": csum });
    assert_eq!(
        session
            .json(Method::POST, "/fixed_close", &close)
            .await
            .data(),
        Value::Null
    );
    session.add_file("d.img.fidx", size, csum);
    session.finish(&snapshot("vm", 0)).await;
    drop(session);
    fixture.settle().await;

    let session = fixture.backup(&snapshot("vm", 1)).await;
    assert_eq!(
        session.get("/previous_backup_time").await.data(),
        1_700_000_000
    );
    let previous = session.get("/previous?archive-name=d.img.fidx").await;
    assert_eq!((previous.status, previous.length), (200, None));
    assert_eq!(
        session
            .get("/previous?archive-name=nothere.blob")
            .await
            .status,
        404
    );
    assert_eq!(
        session
            .get("/previous?archive-name=nothere.fidx")
            .await
            .status,
        400
    );
    assert_eq!(
        session.get("/previous?archive-name=foo.txt").await.status,
        400
    );
    let open = format!("/fixed_index?archive-name=d.img.fidx&size={size}&reuse-csum={csum}");
    assert_eq!(session.post(&open).await.data(), 1);
    let close = format!("/fixed_close?wid=1&chunk-count=0&size=0&csum={csum}");
    assert_eq!(session.post(&close).await.data(), Value::Null);
    session.add_file("d.img.fidx", size, csum);
    session.finish(&snapshot("vm", 1)).await;
    drop(session);
    fixture.settle().await;

    // One chunk is missing: the index is not open, and the client backs up in full.
    let name = last.to_string();
    let chunk = fixture.dir.path().join("store1/.chunks").join(&name[..4]);
    std::fs::remove_file(chunk.join(&name)).expect("it was there");
    let session = fixture.backup(&snapshot("vm", 2)).await;
    assert_eq!(session.post(&open).await.status, 400);
    assert_eq!(session.put_blob("x.conf.blob", b"text").await.status, 200);
    session.finish(&snapshot("vm", 2)).await;
    assert!(fixture.has(&snapshot("vm", 2)).await);
    drop(session);
    fixture.settle().await;
}

#[tokio::test]
async fn a_benchmark_leaves_nothing_behind() {
    let fixture = Fixture::new().await;
    let snapshot = snapshot("benchmark", 0);
    let target = format!(
        "{}&benchmark=true&debug=false",
        Fixture::backup_target(&snapshot)
    );
    let request = fixture.upgrade_request(&target, "proxmox-backup-protocol-v1", "backup");
    let session = fixture.session(request).await;
    for _ in 0..8 {
        let form = "application/x-www-form-urlencoded";
        let answer = session
            .send(Method::POST, "/speedtest", form, vec![0; 4 << 20])
            .await;
        assert_eq!(answer.data(), Value::Null);
    }
    drop(session);
    fixture.settle().await;
    assert!(!fixture.has(&snapshot).await);
    let task = (
        "benchmark".to_owned(),
        "store1:host/benchmark".to_owned(),
        Outcome::Ok,
    );
    assert_eq!(fixture.tasks(), [task]);
    assert!(fixture.finished.lock().expect("not poisoned").is_empty());
}
