//! What `finish` checks, and what it takes.

use super::*;

#[tokio::test(start_paused = true)]
async fn finish_names_what_is_missing() {
    let world = World::new();
    let daemon = world.start("a", false).await;
    let writer = daemon.begin(&id(A1)).await.unwrap();
    assert!(writer.finish(STATS).await.is_err(), "no files");
    let wid = writer.open_dynamic(&name("b.didx")).await.unwrap();
    assert!(writer.finish(STATS).await.is_err(), "an open index");
    let digest = Digest::of(b"b");
    let (kind, entry) = (ArchiveKind::Dynamic, [(digest, 0)]);
    let unknown = writer.append(wid, kind, &entry).await.unwrap_err();
    assert!(unknown.to_string().contains(&digest.to_string()));
    writer.session().handle().tell(digest, 10).unwrap();
    writer.append(wid, kind, &entry).await.unwrap();
    assert!(writer.close(wid, kind, 2, 10, digest).await.is_err());
    assert!(
        writer.close(wid, kind, 1, 10, digest).await.is_err(),
        "a wrong checksum"
    );
    let again = writer.close(wid, kind, 1, 10, digest).await;
    assert!(again.unwrap_err().to_string().contains("no open index"));
    fill(&writer, &["x"]).await.unwrap();
    daemon.sessions.announce_lost(&Digest::of(b"x"));
    let error = writer.finish(STATS).await.unwrap_err();
    assert!(matches!(error, Error::ChunkMissing { digest } if digest == Digest::of(b"x")));
    assert!(!world.has(&id(A1).manifest()));
}

#[tokio::test(start_paused = true)]
async fn a_manifest_that_names_what_is_not_there_is_refused() {
    let world = World::new();
    let daemon = world.start("a", false).await;
    let writer = daemon.begin(&id(A1)).await.unwrap();
    let file = crate::ManifestFile {
        name: name("gone.didx"),
        crypt_mode: crate::CryptMode::None,
        size: 1,
        csum: Some(Digest::of(b"")),
    };
    let manifest = Manifest::new(id(A1).snapshot, vec![file]).unwrap();
    let blob = manifest.to_blob().unwrap().encoded();
    writer
        .put_blob(&ArchiveName::manifest(), blob)
        .await
        .unwrap();
    let error = writer.finish(STATS).await.unwrap_err();
    assert!(error.to_string().contains("gone.didx"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_blob_may_come_again_with_other_content() {
    let world = World::new();
    let daemon = world.start("a", false).await;
    let writer = daemon.begin(&id(A1)).await.unwrap();
    let blob = |text: &'static str| {
        crate::DataBlob::encode_plain(text.into())
            .unwrap()
            .encoded()
    };
    for text in ["one", "two"] {
        writer.put_blob(&name("x.blob"), blob(text)).await.unwrap();
    }
    let mut broken = blob("three").to_vec();
    broken[13] ^= 1;
    assert!(
        writer
            .put_blob(&name("x.blob"), broken.into())
            .await
            .is_err()
    );
    let object = world
        .model
        .object(&World::key(&id(A1).file(&name("x.blob"))))
        .unwrap();
    assert_eq!(object.body.into_bytes(), blob("two"));
}
