//! Tests of snapshots as roots.

use std::pin::Pin;

use async_trait::async_trait;
use s3_client::{Action, ErrorKind, Fault, Op};

use super::*;
use crate::snapshots::tests::{A1, A2, B1, Daemon, World, group, id, name};

type Meanwhile<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// Collects what is marked, and lets something happen after the first digests.
#[derive(Default)]
struct Sink<'a> {
    marked: BTreeSet<Digest>,
    needers: BTreeSet<String>,
    meanwhile: Option<Meanwhile<'a>>,
}

#[async_trait]
impl MarkSink for Sink<'_> {
    async fn mark(&mut self, needer: &Needer, digests: &[Digest]) -> Result<()> {
        self.marked.extend(digests);
        self.needers.insert(needer.name.clone());
        if let Some(meanwhile) = self.meanwhile.take() {
            meanwhile.await;
        }
        Ok(())
    }
}

fn roots(daemon: &Daemon) -> SnapshotRoots {
    SnapshotRoots::new(Arc::clone(&daemon.snapshots))
}

fn digests(chunks: &[&str]) -> BTreeSet<Digest> {
    chunks
        .iter()
        .map(|chunk| Digest::of(chunk.as_bytes()))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn every_index_of_every_sealed_snapshot_is_marked() {
    let world = World::new();
    let daemon = world.start("a", false).await;
    let snapshots = &daemon.snapshots;
    snapshots
        .create_namespace(&Namespace::root(), "n")
        .await
        .unwrap();
    daemon.backup(&id(A1), &["a", "b"]).await;
    daemon
        .backup(&id("ns/n/host/h/2023-11-14T22:13:20Z"), &["c"])
        .await;
    let _running = daemon.write(&id(B1), &["d"]).await;
    let mut sink = Sink::default();
    let stats = roots(&daemon).mark(&mut sink).await.unwrap();
    assert_eq!(sink.marked, digests(&["a", "b", "c"]));
    assert_eq!((stats.index_files, stats.index_bytes), (2, 30));
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_of_another_writer_and_a_damaged_copy_are_fetched() {
    let world = World::new();
    let daemon = world.start("a", false).await;
    daemon.backup(&id(A1), &["a"]).await;
    let index = daemon
        .snapshots
        .contents()
        .path(&id(A1).file(&name("a.didx")));
    let mut bytes = std::fs::read(&index).unwrap();
    bytes[4096 + 20] ^= 1;
    std::fs::write(&index, bytes).unwrap();
    let mut sink = Sink::default();
    roots(&daemon).mark(&mut sink).await.unwrap();
    assert_eq!(
        sink.marked,
        digests(&["a"]),
        "the flipped bit would lose the chunk"
    );
    std::fs::remove_dir_all(world.cache("a").join(".cnt")).unwrap();
    let mut sink = Sink::default();
    roots(&daemon).mark(&mut sink).await.unwrap();
    assert_eq!(sink.marked, digests(&["a"]));
}

#[tokio::test(start_paused = true)]
async fn a_base_that_vanishes_while_a_newer_one_is_sealed_costs_no_chunk() {
    const A3: &str = "vm/100/2023-11-16T22:13:20Z";
    let world = World::new();
    let daemon = world.start("a", false).await;
    daemon.backup(&id(A1), &["a"]).await;
    daemon.backup(&id(A2), &["base"]).await;
    // After the group was listed and its first snapshot read, the second one vanishes, and a third one that shares its
    // chunk is sealed.
    let meanwhile = async {
        daemon.backup(&id(A3), &["base"]).await;
        world.quiet().await;
        daemon.snapshots.delete(&id(A2)).await.unwrap();
    };
    let mut sink = Sink {
        meanwhile: Some(Box::pin(meanwhile)),
        ..Sink::default()
    };
    roots(&daemon).mark(&mut sink).await.unwrap();
    assert_eq!(sink.marked, digests(&["a", "base"]));
    assert_eq!(sink.needers, BTreeSet::from([A1.to_owned(), A3.to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn an_index_that_cannot_be_read_or_listed_ends_the_mark() {
    let world = World::new();
    let daemon = world.start("a", false).await;
    daemon.backup(&id(A1), &["a"]).await;
    let key = World::key(&id(A1).file(&name("a.didx")));
    let list = world.plan.add(
        Fault::on(Op::List)
            .always()
            .then(Action::Fail(ErrorKind::Timeout)),
    );
    assert!(roots(&daemon).mark(&mut Sink::default()).await.is_err());
    world.plan.remove(list);
    world
        .model
        .insert_raw(key, "rubbish", s3_client::Metadata::new(), None);
    let error = roots(&daemon).mark(&mut Sink::default()).await.unwrap_err();
    assert!(error.to_string().contains("a.didx"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_missing_chunk_makes_its_snapshots_fail_verification() {
    let world = World::new();
    let daemon = world.start("a", false).await;
    daemon.backup(&id(A1), &["a"]).await;
    let roots = roots(&daemon);
    roots.set_task("UPID:now");
    let needer = |text: &str| Needer {
        provider: NAME,
        name: text.into(),
    };
    let missing = [(Digest::of(b"a"), vec![needer(A1), needer(B1)])];
    roots.damaged(&missing).await.unwrap();
    let state = daemon
        .snapshots
        .sealed(&id(A1))
        .await
        .unwrap()
        .verify_state()
        .unwrap();
    assert_eq!(
        (state.upid.as_str(), state.state),
        ("UPID:now", VerifyOutcome::Failed)
    );
    assert_eq!(
        daemon
            .snapshots
            .last_backup(&group("vm/100"))
            .await
            .unwrap(),
        None
    );
}
