//! What retries make of every kind of answer. Time is paused, so waits cost nothing and can be measured.

use super::*;
use crate::scripted::{Scripted, Step, key};
use crate::{Action, Fault, FaultPlan, FaultyStore, ModelStore, PutId};

fn retrying(attempts_max: u32) -> (Arc<Scripted>, Retry<Scripted>) {
    let store = Arc::new(Scripted::new());
    let policy = RetryPolicy {
        attempts_max,
        ..RetryPolicy::default()
    };
    (Arc::clone(&store), Retry::new(store, policy, 7))
}

fn absent(name: &str) -> Put {
    Put::new(key(name), "ours").when(Precondition::Absent)
}

fn identified(name: &str) -> Put {
    let mut put = absent(name);
    put.put_id = Some(PutId("us".into()));
    put
}

fn is_created(answer: &Answer<PutOutcome>) -> bool {
    matches!(answer.value, PutOutcome::Created { .. })
}

#[tokio::test(start_paused = true)]
async fn transient_failures_are_tried_again_and_others_are_not() {
    let (store, retry) = retrying(4);
    store.then([
        Step::Fail(ErrorKind::Unavailable),
        Step::Fail(ErrorKind::Throttled),
        Step::Fail(ErrorKind::Corrupt),
    ]);
    assert!(is_created(&retry.put(absent("a")).await.expect("stored")));
    store.then([Step::Fail(ErrorKind::Unauthorized)]);
    let error = retry.put(absent("b")).await.expect_err("denied");
    assert_eq!(error.kind, ErrorKind::Unauthorized);
    store.then([const { Step::Fail(ErrorKind::Timeout) }; 4]);
    let error = retry.get(&key("a"), None).await.expect_err("too often");
    assert_eq!(error.kind, ErrorKind::Timeout);
    assert_eq!(store.log().len(), 4 + 1 + 4);
}

#[tokio::test(start_paused = true)]
async fn an_object_that_was_cut_short_is_read_again() {
    let plan = FaultPlan::new();
    let faulty = FaultyStore::new(Arc::new(ModelStore::default()), plan.clone());
    let retry = Retry::new(Arc::new(faulty), RetryPolicy::default(), 7);
    retry.put(absent("a")).await.expect("stored");
    let part = ByteRange { start: 1, end: 99 };
    for (range, content) in [(None, &b"ours"[..]), (Some(part), b"urs")] {
        plan.add(Fault::on(Op::Get).times(1).then(Action::Truncate(2)));
        let read = retry.get(&key("a"), range).await.expect("read");
        assert_eq!(read.value.body.into_bytes(), content);
    }
}

#[tokio::test(start_paused = true)]
async fn a_conflict_is_tried_again_and_told_in_the_end() {
    let (store, retry) = retrying(3);
    store.then([Step::Conflict, Step::Conflict]);
    assert!(is_created(&retry.put(absent("a")).await.expect("stored")));
    store.then([Step::Conflict, Step::Conflict, Step::Conflict]);
    let answer = retry.put(absent("b")).await.expect("an outcome");
    assert_eq!((answer.value, answer.lost_at), (PutOutcome::Conflict, None));
}

#[tokio::test(start_paused = true)]
async fn a_lost_attempt_is_remembered_whatever_comes_later() {
    let (store, retry) = retrying(4);
    store.then([Step::Lose]);
    let answer = retry.put(absent("a")).await.expect("stored");
    assert!(is_created(&answer));
    assert!(answer.lost_at.is_some());

    // A conflict or a passing error at the end says nothing of the attempt that was lost.
    store.then([Step::Lose, Step::Conflict, Step::Conflict, Step::Conflict]);
    let answer = retry.put(absent("b")).await.expect("an outcome");
    assert_eq!(answer.value, PutOutcome::Unknown);
    assert!(answer.lost_at.is_some());
    store.then([Step::Lose, Step::Expire]);
    let answer = retry.put(absent("c")).await.expect("an outcome");
    assert_eq!(answer.value, PutOutcome::Unknown);
    store.then([
        Step::Lose,
        Step::Fail(ErrorKind::Unavailable),
        Step::Fail(ErrorKind::Unavailable),
        Step::Fail(ErrorKind::Unavailable),
    ]);
    let answer = retry.put(absent("d")).await.expect("an outcome");
    assert_eq!(answer.value, PutOutcome::Unknown);
    store.then([Step::Lose, Step::Fail(ErrorKind::Unauthorized)]);
    let error = retry.put(absent("e")).await.expect_err("denied");
    assert!(error.maybe_applied && error.lost_at.is_some());
}

#[tokio::test(start_paused = true)]
async fn our_own_earlier_success_is_recognised_by_its_put_id() {
    let (store, retry) = retrying(4);
    for (name, step) in [("a", Step::LoseApplied), ("b", Step::FailApplied)] {
        store.then([step]);
        let answer = retry.put(identified(name)).await.expect("an outcome");
        assert!(is_created(&answer), "{name}: {answer:?}");
        assert_eq!(answer.lost_at.is_some(), name == "a");
    }
    // A stranger was faster: our lost attempt did nothing.
    store.then([Step::Lose]);
    store.place("c", "theirs");
    let answer = retry.put(identified("c")).await.expect("an outcome");
    assert_eq!(answer.value, PutOutcome::Exists);
    // Without doubt nobody asks.
    let before = store.log().len();
    let answer = retry.put(identified("c")).await.expect("an outcome");
    assert_eq!(answer.value, PutOutcome::Exists);
    assert_eq!(store.log().len(), before + 1);
    // The question itself fails.
    store.then([
        Step::LoseApplied,
        Step::Pass,
        Step::Fail(ErrorKind::Unauthorized),
    ]);
    let answer = retry.put(identified("d")).await.expect("an outcome");
    assert_eq!(answer.value, PutOutcome::Unknown);
}

#[tokio::test(start_paused = true)]
async fn without_put_id_exists_stays_exists_and_a_lost_swap_stays_unknown() {
    let (store, retry) = retrying(4);
    store.then([Step::LoseApplied]);
    let answer = retry.put(absent("a")).await.expect("an outcome");
    assert_eq!(answer.value, PutOutcome::Exists);
    assert!(answer.lost_at.is_some());

    let etag = store.head(&key("a")).await.expect("there").value.etag;
    let swap = Put::new(key("a"), "next").when(Precondition::Matches(etag));
    store.then([Step::LoseApplied]);
    let answer = retry.put(swap).await.expect("an outcome");
    assert_eq!(answer.value, PutOutcome::Unknown);
}

#[tokio::test(start_paused = true)]
async fn waits_are_jittered_bounded_and_replayable() {
    let mut totals = Vec::new();
    for seed in [1, 1, 2] {
        let store = Arc::new(Scripted::new());
        store.then([const { Step::Fail(ErrorKind::Unavailable) }; 7]);
        let retry = Retry::new(store, RetryPolicy::default(), seed);
        let began = Instant::now();
        retry.head_bucket().await.expect("there at last");
        totals.push(began.elapsed());
    }
    assert_eq!(totals[0], totals[1]);
    assert_ne!(totals[0], totals[2]);
    // 0.2 + 0.4 + ... + 12.8 seconds at most.
    assert!(
        totals
            .iter()
            .all(|total| *total <= Duration::from_millis(25_400))
    );
    let policy = RetryPolicy::default();
    assert_eq!(policy.wait_max(2, false), Duration::from_millis(200));
    assert_eq!(policy.wait_max(2, true), Duration::from_secs(2));
    assert_eq!(policy.wait_max(90, true), Duration::from_secs(20));
}

#[tokio::test(start_paused = true)]
async fn no_attempt_begins_after_the_deadline() {
    let store = Arc::new(Scripted::new());
    store.then([const { Step::Delay(Duration::from_secs(4), ErrorKind::Unavailable) }; 50]);
    let policy = RetryPolicy {
        attempts_max: 50,
        deadline_ms: 10_000,
        ..RetryPolicy::default()
    };
    let began = Instant::now();
    let retry = Retry::new(store, policy, 3);
    retry.head_bucket().await.expect_err("never there");
    assert!(began.elapsed() < Duration::from_secs(14));
}

#[tokio::test(start_paused = true)]
async fn only_open_keys_are_deleted_again() {
    let (store, retry) = retrying(4);
    for name in ["a", "b", "c"] {
        store.place(name, "x");
    }
    let mut requests: Vec<DeleteRequest> = ["a", "b", "c"].map(|name| key(name).into()).into();
    requests[1].if_match = Some(ETag::new("other"));
    store.then([Step::RefuseKeys("InternalError: again"), Step::Pass]);
    let answer = retry.delete(&requests, None).await.expect("outcomes");
    assert_eq!(
        answer.value,
        [
            DeleteOutcome::Deleted,
            DeleteOutcome::PreconditionFailed,
            DeleteOutcome::Deleted
        ]
    );
    assert_eq!(answer.lost_at, None);
    store.then([Step::RefuseKeys("AccessDenied: no")]);
    let answer = retry.delete(&requests, None).await.expect("outcomes");
    assert!(matches!(answer.value[0], DeleteOutcome::Refused(_)));
    assert_eq!(store.log().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_lost_delete_that_had_its_effect_is_deleted() {
    let (store, retry) = retrying(4);
    store.place("a", "x");
    store.place("b", "x");
    let etag = store.head(&key("b")).await.expect("there").value.etag;
    let mut requests: Vec<DeleteRequest> = ["a", "b"].map(|name| key(name).into()).into();
    requests[1].if_match = Some(etag);
    store.then([Step::LoseApplied]);
    let answer = retry.delete(&requests, None).await.expect("outcomes");
    assert_eq!(answer.value, vec![DeleteOutcome::Deleted; 2]);
    assert!(answer.lost_at.is_some());

    store.then([Step::Lose, Step::Expire]);
    let answer = retry.delete(&requests, None).await.expect("outcomes");
    assert_eq!(answer.value, vec![DeleteOutcome::Unknown; 2]);
    store.then([const { Step::Fail(ErrorKind::Unavailable) }; 4]);
    let error = retry.delete(&requests, None).await.expect_err("down");
    assert!(!error.maybe_applied);
    store.then([Step::Lose, Step::Fail(ErrorKind::Unauthorized)]);
    let answer = retry.delete(&requests, None).await.expect("outcomes");
    assert_eq!(answer.value, vec![DeleteOutcome::Unknown; 2]);
    assert!(answer.lost_at.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_lost_completion_is_recognised_by_its_tag() {
    let (store, retry) = retrying(4);
    let upload = retry
        .create_multipart(&key("a"), Metadata::new())
        .await
        .expect("an upload")
        .value;
    store.then([Step::Lose]);
    let part = retry
        .upload_part(&key("a"), &upload, 1, "hello".into())
        .await
        .expect("stored");
    assert!(part.lost_at.is_some());
    let PartOutcome::Stored(part) = part.value else {
        panic!("{part:?}");
    };
    let parts = [part];
    store.then([Step::LoseApplied]);
    let answer = retry
        .complete_multipart(&key("a"), &upload, &parts, Precondition::Absent)
        .await
        .expect("an outcome");
    assert!(is_created(&answer), "{answer:?}");
    assert!(answer.lost_at.is_some());
    let error = retry
        .complete_multipart(&key("a"), &upload, &parts, Precondition::Absent)
        .await
        .expect_err("no such upload, and no doubt");
    assert_eq!(error.kind, ErrorKind::NotFound);
}

#[tokio::test(start_paused = true)]
async fn an_insisting_put_ends_without_condition() {
    let (store, retry) = retrying(3);
    store.then([Step::Conflict, Step::Conflict]);
    let answer = retry
        .put_insisting(absent("a"), Overwrite::Harmless)
        .await
        .expect("an outcome");
    assert!(
        matches!(
            answer.value,
            InsistOutcome::Created {
                unconditional: true,
                ..
            }
        ),
        "{answer:?}"
    );
    assert_eq!(store.log().len(), 3);
    let answer = retry
        .put_insisting(absent("a"), Overwrite::Harmless)
        .await
        .expect("an outcome");
    assert_eq!(answer.value, InsistOutcome::Exists);
    store.then([Step::Lose, Step::Conflict, Step::Lose]);
    let answer = retry
        .put_insisting(absent("b"), Overwrite::Harmless)
        .await
        .expect("an outcome");
    let unconditional = true;
    assert_eq!(answer.value, InsistOutcome::Unknown { unconditional });
    assert!(answer.lost_at.is_some());
}

#[tokio::test(start_paused = true)]
async fn content_that_cannot_be_verified_is_not_overwritten() {
    let (store, retry) = retrying(3);
    store.place("a", "theirs");
    store.then([Step::Conflict, Step::Conflict]);
    let answer = retry
        .put_insisting(absent("a"), Overwrite::OnlyIfAbsent)
        .await
        .expect("an outcome");
    assert!(
        matches!(&answer.value, InsistOutcome::Occupied(meta) if meta.size == 6),
        "{answer:?}"
    );
    store.then([Step::Conflict, Step::Conflict]);
    let answer = retry
        .put_insisting(absent("b"), Overwrite::OnlyIfAbsent)
        .await
        .expect("an outcome");
    assert!(matches!(answer.value, InsistOutcome::Created { .. }));
    // The HEAD fails: nothing is overwritten, and nothing is claimed.
    store.then([
        Step::Conflict,
        Step::Conflict,
        Step::Fail(ErrorKind::Unauthorized),
    ]);
    let error = retry
        .put_insisting(absent("c"), Overwrite::OnlyIfAbsent)
        .await
        .expect_err("denied");
    assert_eq!(error.kind, ErrorKind::Unauthorized);
    assert!(!store.keys().contains(&"c".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn retries_are_counted() {
    let (store, retry) = retrying(4);
    let meter = Arc::new(Meter::default());
    let retry = retry.metered(Arc::clone(&meter));
    store.then([Step::Conflict, Step::Fail(ErrorKind::Throttled)]);
    retry.put(absent("a")).await.expect("stored");
    assert_eq!(meter.snapshot().op(Op::Put).retries, 2);
}

#[test]
fn requests_can_be_made_from_any_thread() {
    fn is_send<T: Send>(_: &T) {}
    let (store, retry) = retrying(1);
    is_send(&retry.put_insisting(absent("a"), Overwrite::Harmless));
    let prefix = crate::KeyPrefix::root();
    let store: Arc<dyn ObjectStore> = store;
    let ranges = vec![crate::KeyRange::all()];
    is_send(&crate::list_all(&*store, &prefix, ranges, 1, |_| {
        std::future::ready(Ok::<_, Error>(()))
    }));
    is_send(&crate::delete_all(&*store, &[], None));
    let erased: Retry<dyn ObjectStore> = Retry::new(store, RetryPolicy::default(), 1);
    is_send(&erased.head_bucket());
}

#[test]
fn all_faults_are_told() {
    assert!(RetryPolicy::default().validate().is_empty());
    let policy = RetryPolicy {
        attempts_max: 0,
        backoff_base_ms: 0,
        throttle_base_ms: 100_000,
        backoff_max_ms: 1,
        deadline_ms: 0,
    };
    assert_eq!(policy.validate().len(), 5);
}
