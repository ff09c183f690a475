//! Crashes and panics before and during the seal.

use rstest::rstest;

use super::*;

fn is_archive_there(world: &World) -> bool {
    world.has(&id(A1).file(&name("a.didx")))
}

#[tokio::test(start_paused = true)]
async fn a_crash_before_the_seal_is_cleaned_after_the_next_start() {
    let world = World::new();
    let daemon = world.start("a", false).await;
    let writer = daemon.write(&id(A1), &["x"]).await;
    std::mem::forget(writer);
    drop(daemon);
    let daemon = world.start("a", false).await;
    assert!(daemon.listed().await.is_empty());
    let temporary = world.cache("a").join(".holdfast/tmp");
    assert_eq!(std::fs::read_dir(&temporary).unwrap().count(), 1);
    let _running = daemon
        .begin(&id("vm/1/2030-01-01T00:00:00Z"))
        .await
        .unwrap();
    assert!(!daemon.snapshots.is_idle());
    assert_eq!(daemon.snapshots.remove_unsealed().await.unwrap().removed, 1);
    assert_eq!(world.objects(), ["vm/1/owner", "vm/100/owner"]);
    assert_eq!(
        std::fs::read_dir(&temporary).unwrap().count(),
        1,
        "that of the running one"
    );
}

#[tokio::test(start_paused = true)]
async fn a_crash_with_the_seal_under_way_is_decided_by_the_bucket() {
    let world = World::new();
    let daemon = world.start("a", false).await;
    let writer = daemon.write(&id(A1), &["x"]).await;
    world
        .plan
        .add(seals().always().then(Action::Lose(Effect::Late)));
    let finish = world.env.spawn(async move { writer.finish(STATS).await });
    world.env.sleep(Duration::from_mins(1)).await;
    finish.abort();
    drop(daemon);
    world.plan.calm();
    let daemon = world.start("a", false).await;
    let cleaning = world.env.spawn({
        let snapshots = Arc::clone(&daemon.snapshots);
        async move { snapshots.remove_unsealed().await }
    });
    world.env.sleep(T / 2).await;
    assert!(is_archive_there(&world), "nothing is removed before T");
    world.plan.deliver_late().await;
    let stats = cleaning.await.unwrap().unwrap();
    assert_eq!(stats.removed, 0);
    assert_eq!(daemon.listed().await, [A1]);
}

/// A life that ends with its nth PUT not yet sent, or without the answer to it; whether there were so many.
async fn cut_off(world: &World, nth: u64, sent: bool) -> bool {
    let daemon = world.start("a", false).await;
    let puts = Fault::on(Op::Put).containing("vm/100").nth(nth);
    let gate = if sent {
        world.plan.stop_after(puts)
    } else {
        world.plan.stop_before(puts)
    };
    let backup = async {
        let writer = daemon.write(&id(A1), &["x"]).await;
        writer.finish(STATS).await.unwrap();
    };
    tokio::select! {
        biased;
        () = backup => false,
        () = gate.reached() => true,
    }
}

#[rstest]
#[tokio::test(start_paused = true)]
async fn a_crash_at_each_put_leaves_a_whole_snapshot_or_none(#[values(false, true)] sent: bool) {
    for nth in 1..20 {
        let world = World::new();
        let cut = cut_off(&world, nth, sent).await;
        world.plan.calm();
        let daemon = world.start("a", false).await;
        let removed = daemon.snapshots.remove_unsealed().await.unwrap().removed;
        let sealed = world.has(&id(A1).manifest());
        assert!(sealed || cut, "a finished backup is gone");
        assert_eq!(
            daemon.listed().await,
            if sealed { vec![A1] } else { vec![] }
        );
        assert_eq!(
            is_archive_there(&world),
            sealed,
            "put {nth}, removed {removed}"
        );
        if sealed {
            let index = daemon.snapshots.file(&id(A1), &name("a.didx")).await;
            index.unwrap();
        }
        if !cut {
            assert!(nth > 2, "these are no steps");
            return;
        }
    }
    panic!("the backup never ends");
}

#[tokio::test(start_paused = true)]
async fn a_seal_that_panics_ends_its_session_and_leaves_what_may_be_sealed_yet() {
    let world = World::new();
    let daemon = world.start("a", false).await;
    let writer = daemon.write(&id(A1), &["x"]).await;
    world.plan.add(Fault::on(Op::Put).key_where(|key| {
        assert!(!key.contains("index.json.blob"), "on purpose");
        false
    }));
    let mut state = writer.session().state();
    let refused = writer.finish(STATS).await;
    assert!(matches!(refused, Err(Error::Refused(_))), "{refused:?}");
    let dead = |state: &SessionState| matches!(state, SessionState::Dead(_));
    assert!(dead(&state.wait_for(dead).await.unwrap()));
    drop(writer);
    assert!(daemon.sessions.oldest_open().is_some(), "until T");
    world.quiet().await;
    assert!(daemon.sessions.oldest_open().is_none());
    assert!(world.has(&id(A1).file(&name("a.didx"))));
}
