//! A crash after each step of an insert and of a sweep, and a client that goes away at each.
//!
//! Steps are counted as changes of files: the first life ends after none, one, two, … of them, until one goes through.

use std::future::poll_fn;
use std::task::Poll;

use rstest::rstest;
use s3_client::{Fault, Op};

use super::*;

/// More changes than an insert or a sweep of one chunk makes.
const CHANGES_MAX: u64 = 100;

fn chunk_puts() -> Fault {
    Fault::on(Op::Put).containing(".chunks/")
}

impl World {
    /// The life after a crash.
    async fn restart(&self, crashed: Life) -> Life {
        drop(crashed);
        self.files.restart();
        self.start().await
    }

    /// The chunk is uploaded again, named by a snapshot, and survives a collection, which leaves nothing lying about.
    async fn is_well(&self, life: &Life) {
        let session = life.sessions.open("after");
        life.insert(&session, "one").await.unwrap();
        assert!(self.holds(life, &digest("one")), "a marker was believed");
        drop(session);
        // What an earlier life has sent can have no effect any more.
        self.env.sleep(LATE).await;
        assert!(self.holds(life, &digest("one")));
        self.snapshot("host/a/1", &[digest("one")]);
        self.age().await;
        let status = life.collect().await.unwrap();
        assert_eq!((status.removed_chunks, status.missing_chunks), (0, 0));
        assert!(self.holds(life, &digest("one")));
        assert_eq!(life.markers.upload(&OsFiles, &digest("one")).unwrap(), None);
        assert!(life.marker(&digest("one")).await.is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn a_crash_after_each_step_of_an_insert_loses_nothing_acknowledged() {
    for changes in 0..CHANGES_MAX {
        let world = World::new();
        let life = world.start().await;
        let session = life.sessions.open("a");
        world.files.crash_after(changes);
        let inserted = life.insert(&session, "one").await;
        let whole = !world.files.has_crashed();
        assert!(inserted.is_ok() || !whole);
        drop(session);
        let life = world.restart(life).await;
        assert!(
            inserted.is_err() || world.holds(&life, &digest("one")),
            "acknowledged and gone after {changes} changes"
        );
        world.is_well(&life).await;
        if whole {
            assert!(changes > 3, "these are no steps");
            return;
        }
    }
    panic!("the insert never ends");
}

#[rstest]
#[case::before_it_is_sent(false)]
#[case::after_it_took_effect(true)]
#[tokio::test(start_paused = true)]
async fn a_crash_with_the_put_under_way_loses_nothing(#[case] sent: bool) {
    let world = World::new();
    let life = world.start().await;
    let gate = if sent {
        world.plan.stop_after(chunk_puts())
    } else {
        world.plan.stop_before(chunk_puts())
    };
    let session = life.sessions.open("a");
    tokio::select! {
        biased;
        result = life.insert(&session, "one") => panic!("{result:?}"),
        () = gate.reached() => {}
    }
    world.files.crash();
    drop(session);
    let life = world.restart(life).await;
    // The request of the first life takes effect, or is answered, beside the second.
    gate.release();
    world.is_well(&life).await;
}

#[tokio::test(start_paused = true)]
async fn a_crash_after_each_step_of_a_sweep_leaves_no_marker_without_chunk() {
    for changes in 0..CHANGES_MAX {
        let world = World::new();
        let life = world.start().await;
        let session = life.sessions.open("gone");
        life.insert(&session, "one").await.unwrap();
        drop(session);
        world.age().await;
        world.files.crash_after(changes);
        let collected = life.collect().await;
        let whole = !world.files.has_crashed();
        assert!(collected.is_ok() || !whole);
        let life = world.restart(life).await;
        world.is_well(&life).await;
        if whole {
            assert_eq!(collected.unwrap().removed_chunks, 1);
            assert!(changes > 5, "these are no steps");
            return;
        }
    }
    panic!("the sweep never ends");
}

#[tokio::test(start_paused = true)]
async fn a_request_dropped_at_each_step_leaves_others_their_turn() {
    for polls in 0..CHANGES_MAX {
        let world = World::new();
        let life = world.start().await;
        let (first, second) = (life.sessions.open("a"), life.sessions.open("b"));
        let mut leader = Box::pin(life.insert(&first, "one"));
        let mut ended = false;
        for _ in 0..polls {
            ended |= poll_fn(|context| Poll::Ready(leader.as_mut().poll(context).is_ready())).await;
            if ended {
                break;
            }
            // Others, and what runs in the background, get their turn.
            tokio::task::yield_now().await;
        }
        drop(leader);
        life.insert(&second, "one").await.unwrap();
        assert!(world.holds(&life, &digest("one")));
        assert!(life.marker(&digest("one")).await.is_some());
        world.env.drain(LATE).await;
        assert_eq!(life.markers.upload(&OsFiles, &digest("one")).unwrap(), None);
        if ended {
            assert!(polls > 1, "these are no steps");
            return;
        }
    }
    panic!("the insert never ends");
}
