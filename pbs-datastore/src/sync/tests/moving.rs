//! Tests of moves within a datastore.

use std::time::Duration;

use bytes::Bytes;
use rstest::rstest;
use tokio::sync::watch;

use super::*;

const A4: &str = "host/a/2026-11-17T22:13:20Z";

#[rstest]
#[tokio::test(start_paused = true)]
async fn a_group_is_moved_with_all_that_belongs_to_it(#[values(true, false)] bucket: bool) {
    let (side, _) = filled(bucket).await;
    let snapshots = side.datastore.snapshots();
    snapshots.set_protected(&id(A2), true).await.unwrap();
    let (from, to) = (id(A1).group(), "x/y".parse::<Namespace>().unwrap());
    snapshots
        .set_group_notes(&from, "the cellar")
        .await
        .unwrap();
    let before = side.contents().await;
    let mover = Mover::new(side.datastore.clone(), "here");
    let job = JobContext::detached();
    assert_eq!(mover.group(&from, &to, &job).await.unwrap(), 3);
    let moved = |text: &str| format!("ns/x/ns/y/{text}");
    let listed = side.listed().await;
    assert_eq!(listed, [B1, DEEP, &moved(A1), &moved(A2), &moved(A3)]);
    let after = side.contents().await;
    for (name, files) in before.iter().filter(|(name, _)| name.starts_with("host")) {
        assert!(after.contains(&(moved(name), files.clone())), "{name}");
    }
    assert!(snapshots.protected(&id(&moved(A2))).await.unwrap());
    let group = id(&moved(A1)).group();
    assert_eq!(snapshots.group_notes(&group).await.unwrap(), "the cellar");
    let owner = snapshots.owner(&group).await.unwrap();
    assert_eq!(owner.unwrap().to_string(), OWNER);
    assert!(side.is_whole().await);
    // Where another group of the name is, nothing is moved.
    side.backup(A1, "a.didx", &["other"]).await;
    let refused = mover.group(&from, &to, &job).await;
    assert!(matches!(refused, Err(Error::Refused(_))), "{refused:?}");
    assert_eq!(side.listed().await.len(), 6);
}

#[rstest]
#[tokio::test(start_paused = true)]
async fn a_move_that_is_cut_off_goes_on(#[values(true, false)] bucket: bool) {
    let (side, _) = filled(bucket).await;
    let (x, z): (Namespace, Namespace) = ("x".parse().unwrap(), "z".parse().unwrap());
    let to_x = id(A1).group();
    let mover = Mover::new(side.datastore.clone(), "here");
    // One snapshot is copied before the stop.
    let (stop, stopped) = watch::channel(false);
    let log = move |line: String| {
        if line.contains("copied") {
            stop.send_replace(true);
        }
    };
    let job = JobContext::new(std::sync::Arc::new(log), stopped);
    let cut = mover.group(&to_x, &x, &job).await;
    assert!(matches!(cut, Err(Error::Stopped)), "{cut:?}");
    side.env.drain(Duration::from_hours(1)).await;
    assert_eq!(side.listed().await.len(), 6);
    let job = JobContext::detached();
    assert_eq!(mover.group(&to_x, &x, &job).await.unwrap(), 3);
    assert_eq!(side.listed().await.len(), 5);
    // The namespace with both groups.
    assert_eq!(mover.namespace(&x, &z, &job).await.unwrap(), 2);
    let listed = side.listed().await;
    let within = listed
        .iter()
        .filter(|name| name.starts_with("ns/z/"))
        .count();
    assert_eq!((within, listed.len()), (4, 5), "{listed:?}");
    assert!(!side.datastore.snapshots().has_namespace(&x).await.unwrap());
    assert!(side.is_whole().await);
    let inner = "z/y".parse().unwrap();
    let into_itself = mover.namespace(&z, &inner, &job).await;
    assert!(matches!(into_itself, Err(Error::Invalid(_))));
}

#[rstest]
#[tokio::test(start_paused = true)]
async fn a_move_that_was_cut_off_in_its_removals_goes_on(#[values(true, false)] bucket: bool) {
    let (side, _) = filled(bucket).await;
    let snapshots = side.datastore.snapshots();
    let (x, job) = ("x".parse::<Namespace>().unwrap(), JobContext::detached());
    let mover = Mover::new(side.datastore.clone(), "here");
    // All has arrived, and the oldest was removed where it was.
    let options = SyncOptions {
        target: x.clone(),
        depth: 0,
        ..all()
    };
    done(&side.pull(&side.source(), &options).await.unwrap());
    let contents = side.contents().await;
    snapshots.delete(&id(A1)).await.unwrap();
    // A backup came in between.
    side.backup(A4, "a.didx", &["five"]).await;
    assert_eq!(mover.group(&id(A2).group(), &x, &job).await.unwrap(), 3);
    assert!(side.listed().await.contains(&format!("ns/x/{A4}")));
    snapshots.delete(&id(&format!("ns/x/{A4}"))).await.unwrap();
    let moved = |(name, _): &(String, Vec<(String, Bytes)>)| !name.starts_with("host/");
    let after = side.contents().await;
    let expected: Vec<_> = contents.into_iter().filter(moved).collect();
    assert_eq!(after, expected);
    assert!(side.is_whole().await);
}

#[rstest]
#[tokio::test(start_paused = true)]
async fn a_group_is_not_moved_into_another(#[values(true, false)] bucket: bool) {
    let (side, _) = filled(bucket).await;
    let snapshots = side.datastore.snapshots();
    let (x, job) = ("x".parse::<Namespace>().unwrap(), JobContext::detached());
    let mover = Mover::new(side.datastore.clone(), "here");
    let (from, there) = (id(A1).group(), format!("ns/x/{A1}"));
    // It has what is here no more, and lacks what is.
    side.backup(&there, "a.didx", &["one", "two", "one"]).await;
    snapshots.delete(&id(A1)).await.unwrap();
    let refused = mover.group(&from, &x, &job).await;
    assert!(matches!(refused, Err(Error::Refused(_))), "{refused:?}");
    // Nobody else's group either, whatever is in it.
    snapshots.delete(&id(&there)).await.unwrap();
    side.backup(&format!("ns/x/{A2}"), "a.didx", &["one", "three", "four"])
        .await;
    let lock = snapshots.lock_group(&id(&there).group()).await.unwrap();
    let other = "other@pbs".parse().unwrap();
    snapshots.set_owner(&lock, &other).await.unwrap();
    drop(lock);
    let refused = mover.group(&from, &x, &job).await;
    let Err(Error::Refused(why)) = refused else {
        panic!("{refused:?}");
    };
    assert!(why.contains("other@pbs"), "{why}");
    assert_eq!(side.listed().await.len(), 5);
}
