//! Tests of verification.

use std::time::Duration;

use bytes::Bytes;
use rstest::rstest;
use s3_client::{Action, ErrorKind, Fault, Op};
use std::sync::Arc;

use super::*;
use crate::fixture::Fixture;
use crate::index::IndexChecksum;
use crate::layout::{BucketLayout, LocalLayout, Place};
use crate::{
    ArchiveName, BackupRequest, CryptKey, CryptMode, DataBlob, Error, IndexKind, Manifest,
    ManifestFile, Namespace,
};

const UPID: &str = "UPID:tests:00000001:00000002:00000003:6A000000:verify:store:tester@pbs:";
const SNAPSHOT: &str = "host/a/2026-11-14T22:13:20Z";
const CHUNKS: [&str; 3] = ["the first chunk", "the second one", "the first chunk"];

/// A datastore with one finished snapshot: an index of [`CHUNKS`] and a blob.
struct World(Fixture);

impl std::ops::Deref for World {
    type Target = Fixture;

    fn deref(&self) -> &Fixture {
        &self.0
    }
}

fn id() -> SnapshotRef {
    SNAPSHOT.parse().unwrap()
}

fn name(text: &str) -> ArchiveName {
    text.parse().unwrap()
}

impl World {
    async fn new(bucket: bool, key: Option<&CryptKey>) -> Self {
        let world = Self(Fixture::new(bucket).await);
        world.backup(key).await;
        world
    }

    /// What a run finds that reads so many of 100 chunks.
    async fn sample(&self, percent: u64) -> (Verified, VerifyCounts) {
        let verifier = Verifier::new(Arc::clone(&self.datastore));
        let mut verifier = verifier.sampling(percent);
        let job = JobContext::detached();
        let verified = verifier.verify(&id(), UPID, &job).await.unwrap();
        verifier.end(&job).await;
        let counts = verifier.counts();
        drop(verifier);
        self.env.drain(Duration::from_secs(10)).await;
        let left = std::fs::read_dir(self.place().join(".holdfast/tmp"));
        assert_eq!(left.map_or(0, Iterator::count), 0, "its list is removed");
        (verified, counts)
    }

    /// With a key the chunks are encrypted, although the manifest does not say so.
    async fn backup(&self, key: Option<&CryptKey>) {
        let snapshot = id().snapshot;
        let request = BackupRequest {
            namespace: Namespace::root(),
            snapshot: snapshot.clone(),
            author: "tester@pbs".parse().unwrap(),
            benchmark: false,
            no_cache: false,
        };
        let backup = self.datastore.begin_backup(request).await.unwrap();
        let wid = backup.create_dynamic(&name("a.didx")).await.unwrap();
        let (mut csum, mut offset, mut entries) = (IndexChecksum::new(), 0, Vec::new());
        for (i, text) in CHUNKS.into_iter().enumerate() {
            let data = Bytes::from_static(text.as_bytes());
            let digest = Digest::of(&data);
            let blob = DataBlob::encode(data, true, key, [i as u8; 16]).unwrap();
            let size = text.len() as u32;
            let kind = IndexKind::Dynamic;
            let sent = backup.upload(wid, kind, digest, size, blob.encoded()).await;
            sent.unwrap();
            entries.push((digest, offset));
            offset += text.len() as u64;
            csum.push_dynamic(offset, &digest);
        }
        let (kind, csum) = (IndexKind::Dynamic, csum.finish());
        backup.append(wid, kind, &entries).await.unwrap();
        let closed = backup.close(wid, kind, entries.len() as u64, offset, csum);
        closed.await.unwrap();
        let blob = DataBlob::encode_plain(Bytes::from_static(b"settings")).unwrap();
        let blob = blob.encoded();
        backup.blob(&name("b.blob"), blob.clone()).await.unwrap();
        let file = |name, size, csum| ManifestFile {
            name,
            crypt_mode: CryptMode::None,
            size,
            csum: Some(csum),
        };
        let files = vec![
            file(name("a.didx"), offset, csum),
            file(name("b.blob"), blob.len() as u64, Digest::of(&blob)),
        ];
        let mut manifest = Manifest::new(snapshot, files).unwrap();
        // A client's own word for it counts for nothing: see `what_is_whole_is_ok`.
        manifest.set_verify_state(Some(&state(VerifyOutcome::Ok)));
        let manifest = manifest.to_blob().unwrap().encoded();
        backup
            .blob(&ArchiveName::manifest(), manifest)
            .await
            .unwrap();
        backup.finish().await.unwrap();
        backup.end("done").await;
    }

    async fn verify(&self) -> Result<VerifyOutcome> {
        let mut verifier = Verifier::new(Arc::clone(&self.datastore));
        match verifier
            .verify(&id(), UPID, &JobContext::detached())
            .await?
        {
            Verified::Done(outcome) => Ok(outcome),
            other => panic!("{other:?}"),
        }
    }

    async fn state(&self) -> Option<VerifyState> {
        let manifest = self.datastore.snapshots().sealed(&id()).await.unwrap();
        manifest.verify_state()
    }

    fn key(place: &Place) -> s3_client::ObjectKey {
        BucketLayout::new(&"store".parse().unwrap()).key(place)
    }

    fn chunk() -> Place {
        Place::Chunk(Digest::of(CHUNKS[1].as_bytes()))
    }
}

fn state(outcome: VerifyOutcome) -> VerifyState {
    VerifyState {
        upid: UPID.to_owned(),
        state: outcome,
    }
}

#[rstest]
#[tokio::test(start_paused = true)]
async fn what_is_whole_is_ok(#[values(true, false)] bucket: bool) {
    let world = World::new(bucket, None).await;
    assert_eq!(world.state().await, None);
    assert_eq!(world.verify().await.unwrap(), VerifyOutcome::Ok);
    assert_eq!(world.state().await, Some(state(VerifyOutcome::Ok)));
}

#[tokio::test(start_paused = true)]
async fn each_chunk_is_read_once_and_from_the_bucket() {
    let world = World::new(true, None).await;
    world.model.reset_counts();
    let mut verifier = Verifier::new(Arc::clone(&world.datastore));
    for _ in 0..2 {
        let outcome = verifier.verify(&id(), UPID, &JobContext::detached()).await;
        assert_eq!(outcome.unwrap(), Verified::Done(VerifyOutcome::Ok));
    }
    // Manifest, index and blob twice, two chunks once.
    assert_eq!(world.model.count(Op::Get), 2 * 3 + 2);
}

#[tokio::test(start_paused = true)]
async fn a_run_ends_at_its_limits_and_leaves_the_snapshot_as_it_was() {
    let world = World::new(true, None).await;
    let limits = |bytes_max, chunks_max| VerifyLimits {
        bytes_max,
        chunks_max,
    };
    for (limits, outcome) in [
        (limits(Some(1), None), Verified::OutOfLimits),
        (limits(None, Some(0)), Verified::OutOfLimits),
        (limits(None, Some(1)), Verified::OutOfLimits),
        (limits(None, Some(2)), Verified::Done(VerifyOutcome::Ok)),
    ] {
        assert_eq!(world.state().await, None);
        let mut verifier = Verifier::new(Arc::clone(&world.datastore)).within(limits);
        let verified = verifier.verify(&id(), UPID, &JobContext::detached()).await;
        assert_eq!(verified.unwrap(), outcome, "{limits:?}");
    }
    assert_eq!(world.state().await, Some(state(VerifyOutcome::Ok)));
}

#[tokio::test(start_paused = true)]
async fn runs_go_on_where_the_one_before_stopped() {
    let world = World::new(true, None).await;
    let run = async |trust, chunks_max| {
        let limits = VerifyLimits {
            chunks_max,
            bytes_max: None,
        };
        let verifier = Verifier::new(Arc::clone(&world.datastore));
        let mut verifier = verifier.within(limits).trusting(trust);
        let job = JobContext::detached();
        let verified = verifier.verify(&id(), UPID, &job).await.unwrap();
        verifier.end(&job).await;
        (
            verified,
            verifier.counts().chunks,
            verifier.counts().trusted,
        )
    };
    let good = Verified::Done(VerifyOutcome::Ok);
    assert_eq!(run(Some(30), Some(1)).await, (Verified::OutOfLimits, 1, 0));
    assert_eq!(run(Some(30), Some(1)).await, (good, 1, 1), "the other one");
    assert_eq!(run(Some(30), None).await, (good, 0, 2));
    assert_eq!(run(Some(0), None).await, (good, 2, 0), "too long ago");
    assert_eq!(run(None, None).await, (good, 2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_chunk_that_lost_its_marker_is_read_again_whatever_is_remembered() {
    let world = World::new(true, None).await;
    assert_eq!(world.verify().await.unwrap(), VerifyOutcome::Ok);
    let job = JobContext::detached();
    let trusting = || Verifier::new(Arc::clone(&world.datastore)).trusting(Some(30));
    let mut first = trusting();
    first.verify(&id(), UPID, &job).await.unwrap();
    first.end(&job).await;
    assert!(world.model.remove_raw(&World::key(&World::chunk())));
    let marker = LocalLayout::Cache.path(&World::chunk());
    std::fs::remove_file(world.place().join(marker)).unwrap();
    let mut second = trusting();
    let verified = second.verify(&id(), UPID, &job).await.unwrap();
    assert_eq!(verified, Verified::Done(VerifyOutcome::Failed));
    assert_eq!(second.counts().trusted, 1, "the other chunk");
}

/// What is done to the bucket behind the daemon's back.
#[derive(Clone, Copy, Debug)]
enum Harm {
    Remove,
    Replace,
}

#[rstest]
#[tokio::test(start_paused = true)]
async fn what_the_bucket_has_lost_fails_although_there_is_a_local_copy(
    #[values("chunk", "a.didx", "b.blob")] what: &str,
    #[values(Harm::Remove, Harm::Replace)] harm: Harm,
) {
    let world = World::new(true, None).await;
    let place = match what {
        "chunk" => World::chunk(),
        file => id().file(&name(file)),
    };
    let key = World::key(&place);
    assert!(match harm {
        Harm::Remove => world.model.remove_raw(&key),
        Harm::Replace => world.model.corrupt_raw(&key, "rubbish"),
    });
    assert_eq!(world.verify().await.unwrap(), VerifyOutcome::Failed);
    assert_eq!(world.state().await, Some(state(VerifyOutcome::Failed)));
    let group = id().group();
    let last = world.datastore.snapshots().last_backup(&group).await;
    assert_eq!(last.unwrap(), None, "the next backup does not build on it");
}

#[tokio::test(start_paused = true)]
async fn a_damaged_file_of_a_directory_fails_and_is_set_aside() {
    let world = World::new(false, None).await;
    let root = world.place();
    let path = root.join(LocalLayout::Directory.path(&World::chunk()));
    let other = DataBlob::encode_plain(Bytes::from_static(b"another chunk")).unwrap();
    std::fs::write(&path, other.encoded()).unwrap();
    assert_eq!(world.verify().await.unwrap(), VerifyOutcome::Failed);
    assert!(world.datastore.env().drain(Duration::from_hours(1)).await);
    assert!(!path.exists(), "the next backup stores it anew");
}

#[tokio::test(start_paused = true)]
async fn encrypted_chunks_in_a_file_that_is_not_fail() {
    let key = CryptKey::new([7; 32]);
    let world = World::new(true, Some(&key)).await;
    assert_eq!(world.verify().await.unwrap(), VerifyOutcome::Failed);
}

#[tokio::test(start_paused = true)]
async fn a_fault_on_the_way_says_nothing_about_the_data() {
    let world = World::new(true, None).await;
    let chunks = Fault::on(Op::Get).containing(".chunks/").always();
    world
        .plan
        .add(chunks.then(Action::Fail(ErrorKind::Unavailable)));
    assert!(matches!(world.verify().await, Err(Error::Store(_))));
    assert_eq!(world.state().await, None);
    world.plan.calm();
    let (stop, stopped) = tokio::sync::watch::channel(true);
    let job = JobContext::new(Arc::new(|_| {}), stopped);
    let mut verifier = Verifier::new(Arc::clone(&world.datastore));
    let result = verifier.verify(&id(), UPID, &job).await;
    assert!(matches!(result, Err(Error::Stopped)));
    drop(stop);
    assert_eq!(world.state().await, None);
}

#[rstest]
#[tokio::test(start_paused = true)]
async fn a_quick_run_reads_nothing_and_calls_nothing_verified(#[values(true, false)] bucket: bool) {
    let world = World::new(bucket, None).await;
    world.model.reset_counts();
    let (verified, counts) = world.sample(0).await;
    assert_eq!(verified, Verified::Present);
    assert_eq!((counts.chunks, counts.present), (0, 2));
    assert_eq!(world.model.count(Op::Get), 0);
    assert_eq!(world.state().await, None);
    // All of them is no sample.
    let (verified, counts) = world.sample(100).await;
    assert_eq!(verified, Verified::Done(VerifyOutcome::Ok));
    assert_eq!((counts.chunks, counts.present), (2, 0));
}

#[rstest]
#[tokio::test(start_paused = true)]
async fn a_quick_run_finds_what_is_gone_or_has_another_length(
    #[values(true, false)] bucket: bool,
    #[values(
        "",
        "short",
        "a text of another length, which no chunk of so few bytes can have"
    )]
    content: &'static str,
    #[values(true, false)] gone: bool,
) {
    let world = World::new(bucket, None).await;
    let (key, place) = (World::key(&World::chunk()), World::chunk());
    let path = world.place().join(LocalLayout::Directory.path(&place));
    match (bucket, gone) {
        (true, true) => assert!(world.model.remove_raw(&key)),
        (true, false) => assert!(world.model.corrupt_raw(&key, content)),
        (false, true) => std::fs::remove_file(path).unwrap(),
        (false, false) => std::fs::write(path, content).unwrap(),
    }
    let (verified, counts) = world.sample(0).await;
    assert_eq!(verified, Verified::Done(VerifyOutcome::Failed));
    assert_eq!(counts.present, 1, "the other one");
    assert_eq!(world.state().await, Some(state(VerifyOutcome::Failed)));
}

#[tokio::test(start_paused = true)]
async fn a_quick_run_finds_that_a_file_is_gone() {
    let world = World::new(true, None).await;
    let key = World::key(&id().file(&name("b.blob")));
    assert!(world.model.remove_raw(&key));
    let (verified, _) = world.sample(0).await;
    assert_eq!(verified, Verified::Done(VerifyOutcome::Failed));
}

#[tokio::test(start_paused = true)]
async fn a_damaged_local_copy_of_a_file_is_no_fault() {
    let world = World::new(true, None).await;
    for file in ["a.didx", "b.blob"] {
        let path = LocalLayout::Cache.path(&id().file(&name(file)));
        std::fs::write(world.place().join(path), "rubbish").unwrap();
    }
    assert_eq!(world.sample(0).await.0, Verified::Present);
}

#[tokio::test(start_paused = true)]
async fn what_the_list_does_not_show_is_read_before_it_is_called_missing() {
    let world = World::new(true, None).await;
    let job = JobContext::detached();
    let mut verifier = Verifier::new(Arc::clone(&world.datastore)).sampling(0);
    // The list is made while the chunk is away.
    let key = World::key(&World::chunk());
    let object = world.model.object(&key).unwrap();
    assert!(world.model.remove_raw(&key));
    verifier
        .sample
        .as_mut()
        .unwrap()
        .begin(&world.datastore, &job)
        .await
        .unwrap();
    let metadata = s3_client::Metadata::default();
    world.model.insert_raw(key, object.body, metadata, None);
    let verified = verifier.verify(&id(), UPID, &job).await.unwrap();
    assert_eq!(verified, Verified::Present);
    assert_eq!(
        (verifier.counts().chunks, verifier.counts().present),
        (1, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn limits_end_the_sample_and_not_the_look() {
    let world = World::new(true, None).await;
    let limits = VerifyLimits {
        chunks_max: Some(1),
        bytes_max: None,
    };
    let verifier = Verifier::new(Arc::clone(&world.datastore));
    let mut verifier = verifier.within(limits).sampling(99);
    let job = JobContext::detached();
    for _ in 0..2 {
        let verified = verifier.verify(&id(), UPID, &job).await.unwrap();
        assert_eq!(verified, Verified::Present);
    }
    assert!(verifier.counts().chunks <= 1);
    // What is not in the list is read, whatever the limits.
    assert!(world.model.remove_raw(&World::key(&World::chunk())));
    let mut verifier = Verifier::new(Arc::clone(&world.datastore))
        .within(limits)
        .sampling(0);
    let verified = verifier.verify(&id(), UPID, &job).await.unwrap();
    assert_eq!(verified, Verified::Done(VerifyOutcome::Failed));
}

#[tokio::test(start_paused = true)]
async fn a_collection_leaves_the_list_of_a_run_alone() {
    let world = World::new(true, None).await;
    let job = JobContext::detached();
    let mut verifier = Verifier::new(Arc::clone(&world.datastore)).sampling(0);
    let mut sample = verifier.sample.take().unwrap();
    sample.begin(&world.datastore, &job).await.unwrap();
    verifier.sample = Some(sample);
    tokio::time::sleep(Duration::from_hours(100)).await;
    let options = crate::GcOptions::default();
    world.datastore.collect(options, UPID, &job).await.unwrap();
    let verified = verifier.verify(&id(), UPID, &job).await.unwrap();
    assert_eq!(verified, Verified::Present);
}
