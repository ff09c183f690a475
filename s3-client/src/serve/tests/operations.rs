//! Batches, copies, multipart uploads and questions about the bucket.

use super::*;
use crate::store::{LifecycleRule, Versioning};

#[tokio::test]
async fn copies_keep_or_replace_metadata() {
    let fixture = Fixture::new().await;
    fixture
        .put("/bucket/a%2B%25", &[("x-amz-meta-k", "old")], "x")
        .await;
    let source = ("x-amz-copy-source", "/bucket/a%2B%25");
    let kept = fixture.put("/bucket/kept", &[source], "").await;
    assert_eq!(kept.status, 200, "{}", kept.text());
    assert_eq!(kept.all("ETag"), ["\"9dd4e461268c8034f5c8564e155c67a6\""]);
    let replace = [
        source,
        ("x-amz-metadata-directive", "REPLACE"),
        ("x-amz-meta-k", "new"),
    ];
    assert_eq!(
        fixture.put("/bucket/replaced", &replace, "").await.status,
        200
    );
    for (name, value) in [("kept", "old"), ("replaced", "new")] {
        let object = fixture.model.object(&key(name)).expect("an object");
        assert_eq!(object.meta.metadata["k"], value);
    }
    let missing = [("x-amz-copy-source", "bucket/missing")];
    assert_eq!(fixture.put("/bucket/x", &missing, "").await.status, 404);
}

#[tokio::test]
async fn parts_become_an_object() {
    let fixture = Fixture::new().await;
    let begun = fixture
        .send("POST", "/bucket/a?uploads", NO_HEADERS, "")
        .await;
    let id = begun.all("UploadId").remove(0);
    let big = Bytes::from(vec![b'x'; 5 << 20]);
    let path = |number| format!("/bucket/a?partNumber={number}&uploadId={id}");
    let one = fixture.send("PUT", &path(1), NO_HEADERS, big).await;
    let two = fixture.send("PUT", &path(2), NO_HEADERS, "end").await;
    assert_eq!((one.status, two.status), (200, 200));
    let parts = |tags: &[&str]| {
        let parts = tags.iter().enumerate().map(|(index, tag)| {
            let number = index + 1;
            format!("<Part><PartNumber>{number}</PartNumber><ETag>{tag}</ETag></Part>")
        });
        let parts: String = parts.collect();
        format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>")
    };
    let finish = format!("/bucket/a?uploadId={id}");
    let wrong = parts(&[one.header("etag"), one.header("etag")]);
    let reply = fixture.send("POST", &finish, NO_HEADERS, wrong).await;
    assert_eq!(
        (reply.status, reply.all("Code")),
        (400, vec!["InvalidPart".to_owned()])
    );
    let right = parts(&[one.header("etag"), two.header("etag")]);
    let reply = fixture
        .send("POST", &finish, NO_HEADERS, right.clone())
        .await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let object = fixture.model.object(&key("a")).expect("an object");
    assert_eq!(object.meta.size, (5 << 20) + 3);
    assert!(object.meta.etag.as_str().ends_with("-2"));
    let again = fixture.send("POST", &finish, NO_HEADERS, right).await;
    assert_eq!(
        (again.status, again.all("Code")),
        (404, vec!["NoSuchUpload".to_owned()])
    );

    let begun = fixture
        .send("POST", "/bucket/b?uploads", NO_HEADERS, "")
        .await;
    let abort = format!("/bucket/b?uploadId={}", begun.all("UploadId")[0]);
    assert_eq!(
        fixture.send("DELETE", &abort, NO_HEADERS, "").await.status,
        204
    );
    assert!(fixture.model.open_uploads().is_empty());
}

#[tokio::test]
async fn the_bucket_tells_its_settings() {
    let fixture = Fixture::new().await;
    assert_eq!(
        fixture.send("HEAD", "/bucket", NO_HEADERS, "").await.status,
        200
    );
    assert_eq!(
        fixture.send("HEAD", "/other", NO_HEADERS, "").await.status,
        404
    );
    assert_eq!(fixture.get("/").await.all("Name"), ["bucket"]);
    assert_eq!(fixture.get("/bucket?location").await.status, 200);
    assert!(
        fixture
            .get("/bucket?versioning")
            .await
            .all("Status")
            .is_empty()
    );
    for (question, code) in [
        ("lifecycle", "NoSuchLifecycleConfiguration"),
        ("object-lock", "ObjectLockConfigurationNotFoundError"),
    ] {
        let reply = fixture.get(&format!("/bucket?{question}")).await;
        assert_eq!(
            (reply.status, reply.all("Code")),
            (404, vec![code.to_owned()])
        );
    }

    let mut model = ModelOptions::default();
    model.settings.versioning = Setting::Known(Versioning::On);
    model.settings.object_lock = Setting::Denied;
    model.settings.lifecycle = Setting::Known(vec![LifecycleRule {
        id: "clean".to_owned(),
        prefix: "tmp/".to_owned(),
        expires: true,
        transitions: vec!["GLACIER".to_owned()],
        expires_old_versions: true,
        aborts_uploads: true,
    }]);
    let fixture = Fixture::with(model, ServeOptions::new("bucket")).await;
    assert_eq!(
        fixture.get("/bucket?versioning").await.all("Status"),
        ["Enabled"]
    );
    assert_eq!(fixture.get("/bucket?object-lock").await.status, 403);
    let rules = fixture.get("/bucket?lifecycle").await;
    assert_eq!(rules.all("Prefix"), ["tmp/"]);
    assert_eq!(rules.all("StorageClass"), ["GLACIER"]);
    assert_eq!(
        rules.all("NoncurrentDays").len() + rules.all("DaysAfterInitiation").len(),
        2
    );
}

#[tokio::test]
async fn a_batch_tells_about_each_key() {
    let fixture = Fixture::new().await;
    for name in ["a", "b&<", "c"] {
        fixture
            .model
            .insert_raw(key(name), "x", Metadata::new(), None);
    }
    fixture.model.set_locked(&key("c"), true);
    let xml = "<Delete><Object><Key>a</Key></Object><Object><Key>b&amp;&lt;</Key></Object>\
               <Object><Key>c</Key></Object><Object><Key>absent</Key></Object></Delete>";
    let reply = fixture
        .send("POST", "/bucket?delete", NO_HEADERS, xml)
        .await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.all("Key"), ["a", "b&amp;&lt;", "absent", "c"]);
    assert_eq!(reply.all("Code"), ["AccessDenied"]);
    assert_eq!(reply.all("Message"), [answers::LOCKED]);
    assert_eq!(fixture.model.objects().len(), 1);

    fixture.model.set_locked(&key("c"), false);
    let quiet = "<Delete><Quiet>true</Quiet><Object><Key>c</Key></Object></Delete>";
    let reply = fixture
        .send("POST", "/bucket?delete", NO_HEADERS, quiet)
        .await;
    assert_eq!((reply.status, reply.all("Key").len()), (200, 0));
    assert!(fixture.model.objects().is_empty());

    let mut options = ServeOptions::new("bucket");
    options.batch_delete = false;
    let fixture = Fixture::with(ModelOptions::default(), options).await;
    let reply = fixture
        .send("POST", "/bucket?delete", NO_HEADERS, quiet)
        .await;
    assert_eq!(
        (reply.status, reply.all("Code")),
        (501, vec!["NotImplemented".to_owned()])
    );
}

#[tokio::test]
async fn an_object_that_is_cut_short_is_not_taken_for_a_whole_one() {
    let fixture = Fixture::new().await;
    fixture.put("/bucket/a", NO_HEADERS, "0123456789").await;
    let ranged: &[(&str, &str)] = &[("range", "bytes=2-7")];
    for headers in [NO_HEADERS, ranged] {
        let cut = Fault::on(Op::Get).then(Action::Truncate(3));
        fixture.plan.add(cut);
        let reply = fixture.try_send("GET", "/bucket/a", headers, "").await;
        assert!(reply.is_none(), "an answer of three bytes looked complete");
        let reply = fixture.send("GET", "/bucket/a", headers, "").await;
        assert!("0123456789".contains(&reply.text()), "{}", reply.text());
        assert!(reply.body.len() >= 6);
    }
}
