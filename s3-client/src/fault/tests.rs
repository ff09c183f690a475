//! Tests of faults.

use std::future::Future;
use std::pin::pin;

use futures_util::poll;

use super::*;
use crate::conformance::{Claims, all};
use crate::store::{Body, ListRequest, Metadata, ObjectStore, Put, Validity};
use crate::{
    DeleteOutcome, KeyPrefix, Meter, Metered, ModelStore, ObjectKey, Optional, Precondition,
    PutOutcome,
};

fn key(text: &str) -> ObjectKey {
    ObjectKey::new(text).expect("a plain key")
}

fn faulty() -> (Arc<ModelStore>, FaultPlan, FaultyStore) {
    let model = Arc::new(ModelStore::default());
    let plan = FaultPlan::new();
    let store = FaultyStore::new(model.clone(), plan.clone());
    (model, plan, store)
}

fn create(name: &str) -> Put {
    Put::new(key(name), "content").when(Precondition::Absent)
}

async fn put(store: &FaultyStore, put: Put) -> PutOutcome {
    store.put(put).await.expect("an outcome").value
}

#[tokio::test]
async fn a_plan_without_rules_changes_nothing() {
    let (model, plan, store) = faulty();
    let prefix = KeyPrefix::new("p/").expect("a prefix");
    for finding in all(&store, &prefix, Claims::ALL).await {
        assert_eq!(finding.verdict, Ok(()), "{}", finding.property);
    }
    assert!(!model.objects().is_empty());
    assert!(plan.injected().is_empty());
}

#[tokio::test]
async fn rules_choose_by_kind_key_and_number() {
    let (_, plan, store) = faulty();
    let rule = Fault::on(Op::Head).prefix("a/").nth(2).times(2);
    let id = plan.add(rule.then(Action::Fail(ErrorKind::Unavailable)));
    let mut failed = Vec::new();
    for name in ["a/1", "b/1", "a/2", "a/3", "a/4"] {
        let result = store.head(&key(name)).await;
        if result.expect_err("nothing is there").kind == ErrorKind::Unavailable {
            failed.push(name);
        }
    }
    assert_eq!(failed, ["a/2", "a/3"]);
    assert_eq!(plan.matched(id), 4);
    assert_eq!(plan.injected()[&(Op::Head, "fail")], 2);
    plan.remove(id);
    assert_eq!(plan.matched(id), 0);
}

#[tokio::test]
async fn a_failure_before_has_no_effect_and_one_after_has() {
    let (model, plan, store) = faulty();
    plan.add(Fault::on(Op::Put).then(Action::Fail(ErrorKind::Throttled)));
    plan.add(Fault::on(Op::Put).then(Action::FailLate { applied: false }));
    plan.add(Fault::on(Op::Put).then(Action::FailLate { applied: true }));
    let error = store.put(create("a")).await.expect_err("throttled");
    assert_eq!(
        (error.kind, error.maybe_applied),
        (ErrorKind::Throttled, false)
    );
    let error = store.put(create("a")).await.expect_err("in doubt");
    assert_eq!(
        (error.kind, error.maybe_applied),
        (ErrorKind::Unavailable, true)
    );
    assert!(model.object(&key("a")).is_none());
    let error = store.put(create("a")).await.expect_err("in doubt");
    assert!(error.maybe_applied);
    assert!(model.object(&key("a")).is_some());
}

#[tokio::test]
async fn a_lost_answer_is_unknown_whatever_became_of_the_request() {
    let (model, plan, store) = faulty();
    plan.add(Fault::on(Op::Put).then(Action::Lose(Effect::Now)));
    plan.add(Fault::on(Op::Put).then(Action::Lose(Effect::Never)));
    let answer = store.put(create("now")).await.expect("an outcome");
    assert_eq!(answer.value, PutOutcome::Unknown);
    assert!(answer.lost_at.is_some());
    assert_eq!(put(&store, create("never")).await, PutOutcome::Unknown);
    assert_eq!(model.objects().keys().collect::<Vec<_>>(), [&key("now")]);

    plan.add(Fault::on_each(&[]).always().then(Action::Lose(Effect::Now)));
    let error = store.get(&key("now"), None).await.expect_err("lost");
    assert_eq!(error.kind, ErrorKind::Timeout);
    let outcomes = store.delete(&[key("now").into()], None).await;
    assert_eq!(outcomes.expect("outcomes").value, [DeleteOutcome::Unknown]);
    assert!(model.objects().is_empty());
    let error = store
        .create_multipart(&key("m"), Metadata::new())
        .await
        .expect_err("no such outcome");
    assert!(error.maybe_applied && error.lost_at.is_some());
}

#[tokio::test]
async fn a_late_request_takes_effect_when_its_sender_is_gone() {
    let (model, plan, store) = faulty();
    plan.add(Fault::on(Op::Put).times(2).then(Action::Lose(Effect::Late)));
    assert_eq!(put(&store, create("a")).await, PutOutcome::Unknown);
    assert_eq!(put(&store, create("b")).await, PutOutcome::Unknown);
    drop(store);
    assert!(model.objects().is_empty());
    assert_eq!(plan.late(), 2);
    let delivered = plan.deliver_late_matching(|_, key| key == "b").await;
    assert_eq!(delivered.len(), 1);
    assert_eq!(delivered[0].keys, ["b"]);
    assert!(matches!(
        delivered[0].reply,
        Ok(Reply::Put(PutOutcome::Created { .. }))
    ));
    assert_eq!(model.objects().keys().collect::<Vec<_>>(), [&key("b")]);
    assert_eq!(plan.drop_late(), 1);
    assert!(plan.deliver_late().await.is_empty());
    assert_eq!(model.objects().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_request_on_its_way_may_arrive_without_its_sender() {
    let odds = Odds {
        delay: 1.0,
        orphan: 0.5,
        delay_max: Duration::from_secs(20),
        late_max: Duration::from_secs(20),
        ..Odds::default()
    };
    let model = Arc::new(ModelStore::default());
    let plan = FaultPlan::random(7, odds);
    let store = FaultyStore::new(model.clone(), plan.clone());
    for name in 0..40 {
        let put = store.put(create(&format!("k/{name}")));
        // The sender goes away at once.
        let gone = tokio::time::timeout(Duration::from_millis(1), put).await;
        assert!(gone.is_err());
    }
    assert!(model.objects().is_empty());
    plan.deliver_late().await;
    let arrived = model.objects().len();
    assert!((5..35).contains(&arrived), "{arrived} of 40 arrived");
    assert_eq!(plan.injected()[&(Op::Put, "orphan")], arrived as u64);
}

#[tokio::test(start_paused = true)]
async fn a_late_request_arrives_by_the_clock() {
    let (model, plan, store) = faulty();
    let late = Action::Lose(Effect::After(Duration::from_secs(10)));
    plan.add(Fault::on(Op::Put).times(2).then(late));
    put(&store, create("a")).await;
    tokio::time::advance(Duration::from_secs(9)).await;
    assert!(
        store
            .head(&key("a"))
            .await
            .optional()
            .expect("a head")
            .is_none()
    );
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(
        store
            .head(&key("a"))
            .await
            .optional()
            .expect("a head")
            .is_some()
    );

    let begun = tokio::time::Instant::now();
    put(&store, create("b")).await;
    let mut run = pin!(plan.run_late());
    assert!(poll!(&mut run).is_pending());
    tokio::select! {
        biased;
        () = &mut run => unreachable!("it runs for ever"),
        () = tokio::time::sleep(Duration::from_secs(11)) => {}
    }
    assert_eq!(begun.elapsed().as_secs(), 11);
    assert!(model.object(&key("b")).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_late_request_past_its_validity_has_no_effect() {
    let (model, plan, store) = faulty();
    plan.add(Fault::on(Op::Put).then(Action::Lose(Effect::Late)));
    let mut late = create("a");
    late.validity = Some(Validity {
        signed_at: model.now(),
        expires: model.now() + jiff::SignedDuration::from_secs(5),
    });
    put(&store, late).await;
    tokio::time::advance(Duration::from_secs(5)).await;
    let delivered = plan.deliver_late().await;
    assert_eq!(
        delivered[0].reply.as_ref().expect("a reply"),
        &Reply::Put(PutOutcome::Expired)
    );
    assert!(model.objects().is_empty());
}

#[tokio::test]
async fn a_duplicate_meets_its_own_effect() {
    let (model, plan, store) = faulty();
    plan.add(Fault::on(Op::Put).then(Action::Duplicate));
    plan.add(Fault::on(Op::Put).nth(2).then(Action::Conflict));
    let answer = store.put(create("a")).await.expect("an outcome");
    assert_eq!(answer.value, PutOutcome::Exists);
    assert!(answer.lost_at.is_some());
    assert_eq!(model.count(Op::Put), 2);
    plan.calm();
    plan.add(Fault::on(Op::Put).then(Action::Conflict));
    assert_eq!(put(&store, create("b")).await, PutOutcome::Conflict);
    assert_eq!(model.objects().len(), 1);
}

#[tokio::test]
async fn reads_bring_too_few_or_wrong_bytes() {
    let (model, plan, store) = faulty();
    model.insert_raw(key("a"), "0123456789", Metadata::new(), None);
    plan.add(Fault::on(Op::Get).then(Action::Truncate(4)));
    plan.add(Fault::on(Op::Get).then(Action::Garble));
    let short = store.get(&key("a"), None).await.expect("an object").value;
    assert_eq!(short.body, Body::from("0123"));
    assert_eq!(short.meta.size, 10);
    let wrong = store.get(&key("a"), None).await.expect("an object").value;
    assert_eq!(wrong.body.len(), 10);
    assert_ne!(wrong.body, Body::from("0123456789"));
    plan.add(Fault::on(Op::Get).then(Action::Garble));
    let again = store.get(&key("a"), None).await.expect("an object").value;
    assert_ne!(again.body, Body::from("0123456789"));
    assert_ne!(again.body, wrong.body, "damage looks like this");
    let right = store.get(&key("a"), None).await.expect("an object").value;
    assert_eq!(right.body, Body::from("0123456789"));
}

#[tokio::test]
async fn a_listing_fails_in_the_middle_or_has_short_pages() {
    let (model, plan, store) = faulty();
    for name in ["a/1", "a/2", "a/3"] {
        model.insert_raw(key(name), "x", Metadata::new(), None);
    }
    plan.add(Fault::on(Op::List).prefix("a/").then(Action::Truncate(1)));
    plan.add(
        Fault::on(Op::List)
            .prefix("a/")
            .then(Action::Fail(ErrorKind::Unavailable)),
    );
    let mut request = ListRequest::new(KeyPrefix::new("a/").expect("a prefix"));
    let page = store.list(&request).await.expect("a page").value;
    assert_eq!((page.entries.len(), page.truncated), (1, true));
    request.start_after = Some("a/1".to_owned());
    assert!(store.list(&request).await.is_err());
    let page = store.list(&request).await.expect("a page").value;
    assert_eq!((page.entries.len(), page.truncated), (2, false));
}

#[tokio::test]
async fn single_keys_of_a_deletion_are_refused() {
    let (model, plan, store) = faulty();
    for name in ["a", "b", "c"] {
        model.insert_raw(key(name), "x", Metadata::new(), None);
    }
    plan.add(Fault::on(Op::Delete).key("b").then(Action::Refuse));
    let requests = [key("a").into(), key("b").into(), key("c").into()];
    let outcomes = store.delete(&requests, None).await.expect("outcomes").value;
    assert!(matches!(
        &outcomes[..],
        [
            DeleteOutcome::Deleted,
            DeleteOutcome::Refused(_),
            DeleteOutcome::Deleted
        ]
    ));
    plan.add(Fault::on(Op::Delete).key("b").then(Action::Lock));
    let outcomes = store.delete(&requests[1..2], None).await.expect("outcomes");
    assert_eq!(outcomes.value, [DeleteOutcome::Locked]);
    assert_eq!(model.objects().keys().collect::<Vec<_>>(), [&key("b")]);
}

#[tokio::test]
async fn a_gate_stops_a_request_before_or_after_its_effect() {
    let (model, plan, store) = faulty();
    let before = plan.stop_before(Fault::on(Op::Put).key("a"));
    let after = plan.stop_after(Fault::on(Op::Put).key("b"));
    let mut first = pin!(store.put(create("a")));
    let mut second = pin!(store.put(create("b")));
    assert!(poll!(&mut first).is_pending());
    assert!(poll!(&mut second).is_pending());
    before.reached().await;
    after.reached().await;
    assert_eq!(model.objects().keys().collect::<Vec<_>>(), [&key("b")]);

    // The race that the gate is for: somebody else is faster.
    assert!(matches!(
        put(&store, create("a")).await,
        PutOutcome::Created { .. }
    ));
    before.release();
    after.release();
    assert_eq!(first.await.expect("an outcome").value, PutOutcome::Exists);
    let second = second.await.expect("an outcome").value;
    assert!(matches!(second, PutOutcome::Created { .. }));
    assert_eq!((before.arrived(), after.arrived()), (1, 1));
}

#[tokio::test]
async fn a_gate_and_a_fault_meet_in_one_request() {
    let (model, plan, store) = faulty();
    let gate = plan.stop_before(Fault::on(Op::Put));
    plan.add(Fault::on(Op::Put).then(Action::Lose(Effect::Now)));
    let mut request = pin!(store.put(create("a")));
    assert!(poll!(&mut request).is_pending());
    assert!(model.objects().is_empty());
    gate.release();
    let outcome = request.await.expect("an outcome").value;
    assert_eq!(outcome, PutOutcome::Unknown);
    assert_eq!(model.objects().len(), 1);
}

async fn storm(seed: u64) -> (Vec<String>, usize, BTreeMap<(Op, &'static str), u64>) {
    let model = Arc::new(ModelStore::default());
    let odds = Odds {
        truncate: 0.1,
        garble: 0.1,
        delay: 0.2,
        delay_max: Duration::from_secs(3),
        ..Odds::evenly(0.05, Duration::from_mins(1))
    };
    let plan = FaultPlan::random(seed, odds);
    let store = FaultyStore::new(model.clone(), plan.clone());
    let mut seen = Vec::new();
    for n in 0..300 {
        let name = format!("k/{}", n % 17);
        seen.push(match n % 4 {
            0 | 1 => format!("{:?}", store.put(create(&name)).await.map(|a| a.value)),
            2 => format!(
                "{:?}",
                store.get(&key(&name), None).await.map(|a| a.value.body)
            ),
            _ => format!(
                "{:?}",
                store
                    .delete(&[key(&name).into()], None)
                    .await
                    .map(|a| a.value)
            ),
        });
    }
    plan.calm();
    plan.deliver_late().await;
    (seen, model.objects().len(), plan.injected())
}

fn same_twice<T: PartialEq + std::fmt::Debug>(one: T, other: T) -> T {
    assert_eq!(one, other);
    one
}

#[tokio::test(start_paused = true)]
async fn a_seed_gives_the_same_faults_again() {
    let first = same_twice(storm(1).await, storm(1).await);
    assert_ne!(first.0, storm(2).await.0);
    let kinds: std::collections::BTreeSet<_> = first.2.keys().map(|(_, name)| *name).collect();
    for name in [
        "fail",
        "throttle",
        "fail-after-effect",
        "lose-answer",
        "lose-request",
        "late",
        "duplicate",
    ] {
        assert!(kinds.contains(name), "{name} never happened");
    }
}

#[tokio::test]
async fn a_shielded_request_meets_no_dice() {
    let odds = Odds {
        fail: 1.0,
        ..Odds::default()
    };
    let plan = FaultPlan::random(7, odds);
    let store = FaultyStore::new(Arc::new(ModelStore::default()), plan.clone());
    assert!(store.put(create("a")).await.is_err());
    plan.add(Fault::on(Op::Put).key("a").always().then(Action::Pass));
    assert!(store.put(create("a")).await.is_ok());
    plan.set_odds(Odds::default());
    assert!(store.put(create("b")).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_sender_and_the_store_count_the_same_but_for_strays() {
    let model = Arc::new(ModelStore::default());
    let odds = Odds {
        truncate: 0.1,
        delay: 0.3,
        orphan: 0.5,
        delay_max: Duration::from_secs(3),
        ..Odds::evenly(0.06, Duration::from_mins(1))
    };
    let plan = FaultPlan::random(5, odds);
    let meter = Arc::new(Meter::default());
    let faulty = FaultyStore::new(model.clone(), plan.clone());
    let store = Metered::new(Arc::new(faulty), Arc::clone(&meter));
    for n in 0..600 {
        let name = format!("k/{}", n % 17);
        let requests = [key(&name).into(), key("k/0").into()];
        // Some are given up on their way.
        let patience = Duration::from_millis(1500);
        match n % 3 {
            0 => drop(tokio::time::timeout(patience, store.put(create(&name))).await),
            1 => drop(tokio::time::timeout(patience, store.get(&key(&name), None)).await),
            _ => drop(tokio::time::timeout(patience, store.delete(&requests, None)).await),
        }
    }
    assert!(plan.late() > 0);
    plan.deliver_late().await;
    let (counted, strays) = (meter.snapshot(), plan.strays());
    for op in [Op::Put, Op::Get, Op::Delete] {
        let Strays { unsent, doubled } = strays[&op];
        assert!(unsent > 0, "{op:?}");
        assert_eq!(doubled > 0, op.is_mutation(), "{op:?}");
        let arrived = counted.op(op).requests + doubled - unsent;
        assert_eq!(arrived, model.count(op), "{op:?}");
    }
}

/// Keeps the futures of the store usable on a multi-threaded runtime.
#[test]
fn futures_can_be_sent() {
    fn sendable<F: Future + Send>(_: &F) {}
    let (_, plan, store) = faulty();
    sendable(&store.put(create("a")));
    sendable(&plan.run_late());
}
