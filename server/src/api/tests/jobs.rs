//! Tests of jobs, prune and verification by call.

use std::collections::BTreeSet;
use std::time::Duration;

use super::*;
use crate::jobs::PlannedJob;
use crate::tasks::Upid;

impl Fixture {
    /// Waits for the end of the task that a call has started; answers its outcome.
    pub(super) async fn outcome(&self, body: &Value) -> String {
        let upid: Upid = body["data"].as_str().expect("a task").parse().expect("one");
        for _ in 0..3000 {
            let task = self.daemon.tasks.find(&upid).expect("known");
            if let Some((_, outcome)) = task.end {
                return outcome.to_string();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{upid} does not end");
    }

    /// The times of the snapshots of `host/a`.
    pub(super) async fn times(&self) -> Vec<i64> {
        let path = "admin/datastore/one/snapshots";
        let (status, body) = self.own(Method::GET, path, json!({})).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        let rows = body["data"].as_array().expect("a list").iter();
        let mut times: Vec<i64> = rows
            .map(|row| row["backup-time"].as_i64().expect("a time"))
            .collect();
        times.sort_unstable();
        times
    }

    pub(super) async fn refused(&self, method: Method, path: &str, body: Value, why: &str) {
        let (status, text) = self.own(method, path, body).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{text}");
        let text = text.as_str().unwrap_or_default();
        assert!(text.contains(why), "{text}");
    }

    pub(super) async fn done(&self, method: Method, path: &str, body: Value) -> Value {
        let (status, body) = self.own(method, path, body).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        body
    }

    /// What the scheduler does first.
    async fn look(&self) {
        let jobs = PlannedJob::all(&self.daemon.config.read());
        self.daemon.jobs.reconcile(&self.daemon, &jobs).await;
    }
}

#[tokio::test]
async fn a_job_is_added_changed_run_and_removed() {
    let fixture = Fixture::new().await;
    let (all, one) = ("config/prune", "config/prune/nightly");
    for (body, why) in [
        (
            json!({"id": "x", "store": "one", "keep-last": 1}),
            "3 to 32",
        ),
        (
            json!({"id": "nightly", "keep-last": 1}),
            "'store' is missing",
        ),
        (json!({"id": "nightly", "store": "one"}), "keeps everything"),
        (
            json!({"id": "nightly", "store": "one", "keep-last": 0}),
            "between 1 and",
        ),
        (
            json!({"id": "nightly", "store": "none", "keep-last": 1}),
            "there is no [datastore.none]",
        ),
        (
            json!({"id": "nightly", "store": "one", "keep-last": 1, "schedule": "nightly"}),
            "schedule",
        ),
        (
            json!({"id": "nightly", "store": "one", "keep-last": 1, "ns": "a/../b"}),
            "'ns'",
        ),
        (
            json!({"id": "nightly", "store": "one", "keep-last": 1, "keep": 1}),
            "unknown parameter",
        ),
    ] {
        fixture.refused(Method::POST, all, body, why).await;
    }
    let body = json!({"id": "nightly", "store": "one", "keep-last": 2, "schedule": "02:30"});
    fixture.done(Method::POST, all, body.clone()).await;
    fixture
        .refused(Method::POST, all, body, "exists already")
        .await;
    let shown = fixture.done(Method::GET, one, json!({})).await;
    assert_eq!(
        shown["data"],
        json!({"id": "nightly", "store": "one", "keep-last": 2, "schedule": "02:30"})
    );

    let digest = shown["digest"].clone();
    let change = json!({"keep-daily": 7, "delete": ["keep-last"], "digest": digest});
    fixture.done(Method::PUT, one, change.clone()).await;
    fixture
        .refused(Method::PUT, one, change, "has changed")
        .await;
    let nothing_left = json!({"delete": ["keep-daily"]});
    fixture
        .refused(Method::PUT, one, nothing_left, "keeps everything")
        .await;
    let store = json!({"delete": ["store"]});
    fixture
        .refused(Method::PUT, one, store, "is no setting that")
        .await;
    fixture.look().await;
    let listed = fixture.done(Method::GET, "admin/prune", json!({})).await;
    let row = &listed["data"][0];
    assert!(row["next-run"].is_i64(), "{row}");
    assert!(row["last-run-upid"].is_null());
    assert_eq!(
        (&row["keep-last"], &row["keep-daily"]),
        (&Value::Null, &json!(7))
    );

    // Three on one day, one on the day before.
    for seconds in [1_700_000_000, 1_700_040_000, 1_700_050_000, 1_700_060_000] {
        fixture.add_snapshot(seconds);
    }
    let run = fixture
        .done(Method::POST, "admin/prune/nightly/run", json!({}))
        .await;
    assert_eq!(fixture.outcome(&run).await, "OK");
    assert_eq!(fixture.times().await.len(), 2, "one a day");
    let listed = fixture.done(Method::GET, "admin/prune", json!({})).await;
    let row = &listed["data"][0];
    assert_eq!(row["last-run-upid"], run["data"]);
    assert_eq!(row["last-run-state"], "OK");
    assert!(row["last-run-endtime"].is_i64());
    fixture.done(Method::DELETE, one, json!({})).await;
    fixture
        .refused(Method::GET, one, json!({}), "there is no prune job")
        .await;
    fixture
        .refused(
            Method::POST,
            "admin/prune/nightly/run",
            json!({}),
            "there is no",
        )
        .await;
}

#[tokio::test]
async fn a_verification_job_passes_over_what_it_has_verified() {
    let fixture = Fixture::new().await;
    fixture.add_snapshot(1_700_000_000);
    let job = json!({"id": "weekly", "store": "one", "outdated-after": 30, "bytes-max": "1 GiB"});
    fixture.done(Method::POST, "config/verify", job).await;
    let shown = fixture
        .done(Method::GET, "config/verify/weekly", json!({}))
        .await;
    assert_eq!(shown["data"]["bytes-max"], 1 << 30);
    assert_eq!(shown["data"]["reread-after"], 30, "as outdated-after");
    let mut logs = Vec::new();
    for _ in 0..2 {
        let run = fixture
            .done(Method::POST, "admin/verify/weekly/run", json!({}))
            .await;
        assert_eq!(fixture.outcome(&run).await, "OK");
        let upid: Upid = run["data"].as_str().expect("one").parse().expect("one");
        let log = fixture.daemon.tasks.log_text(&upid).await.expect("read");
        logs.push(String::from_utf8(log).expect("text"));
    }
    assert!(
        logs[0].contains("1 of 1 snapshots are to be verified"),
        "{}",
        logs[0]
    );
    assert!(
        logs[1].contains("0 of 1 snapshots are to be verified"),
        "{}",
        logs[1]
    );
    let path = "admin/datastore/one/verify";
    let group = json!({"backup-type": "host", "backup-id": "none"});
    fixture
        .refused(Method::POST, path, group, "does not exist")
        .await;
    let half = json!({"backup-type": "host"});
    fixture
        .refused(Method::POST, path, half, "a group is named by")
        .await;
    let one = json!({"backup-type": "host", "backup-id": "a", "backup-time": 1_700_000_000,
        "ignore-verified": false});
    let run = fixture.done(Method::POST, path, one).await;
    assert_eq!(fixture.outcome(&run).await, "OK");
}

#[tokio::test]
async fn whoever_may_not_do_it_by_hand_has_no_job_for_it() {
    let fixture = Fixture::new().await;
    let job = json!({"id": "nightly", "store": "one", "keep-last": 1});
    fixture.done(Method::POST, "config/prune", job).await;
    let token = fixture.token("backup@pbs").await;
    let ask = async |method, path: &str| fixture.with_token(&token, method, path).await;
    for list in ["config/prune", "admin/prune", "admin/gc"] {
        let (status, body) = ask(Method::GET, list).await;
        assert_eq!(
            (status, &body["data"]),
            (StatusCode::OK, &json!([])),
            "{list}"
        );
    }
    for (method, path) in [
        (Method::GET, "config/prune/nightly"),
        (Method::PUT, "config/prune/nightly?keep-last=9"),
        (Method::DELETE, "config/prune/nightly"),
        (Method::POST, "admin/prune/nightly/run"),
    ] {
        let (status, text) = ask(method, path).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{path}");
        assert_eq!(
            text, "there is no prune job 'nightly'",
            "as if there were none"
        );
    }
    let new = "config/prune?id=mine&store=one&keep-last=1";
    assert_eq!(ask(Method::POST, new).await.0, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_job_reaches_no_further_than_its_maker() {
    let fixture = Fixture::new().await;
    let token = fixture.token("admin@pbs").await;
    let id = token["PBSAPIToken=".len()..]
        .split_once(':')
        .expect("a token")
        .0;
    let right = json!({"path": "/datastore/one/private", "auth-id": id, "role": "NoAccess"});
    fixture.done(Method::PUT, "access/acl", right).await;
    let new = "config/prune?id=nightly&store=one&keep-last=1";
    let (status, text) = fixture.with_token(&token, Method::POST, new).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "{text}");
    let shallow = format!("{new}&max-depth=0");
    let (status, text) = fixture.with_token(&token, Method::POST, &shallow).await;
    assert_eq!(status, StatusCode::OK, "{text}");
    let deeper = "config/prune/nightly?delete=max-depth";
    let (status, text) = fixture.with_token(&token, Method::PUT, deeper).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "{text}");
    let both = "config/prune/nightly?ns=private&delete=ns";
    let (status, text) = fixture.with_token(&token, Method::PUT, both).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{text}");

    // One that root has made is run within the rights of whoever runs it.
    let wide = json!({"id": "wide", "store": "one", "keep-last": 1});
    fixture.done(Method::POST, "config/prune", wide).await;
    let run = "admin/prune/wide/run";
    let (status, task) = fixture.with_token(&token, Method::POST, run).await;
    assert_eq!(status, StatusCode::OK, "{task}");
    assert_eq!(fixture.outcome(&task).await, "OK");
    let smaller = "config/prune/wide?max-depth=0";
    let (status, text) = fixture.with_token(&token, Method::PUT, smaller).await;
    assert_eq!(status, StatusCode::OK, "{text}");
}

#[tokio::test]
async fn a_datastore_that_a_task_works_with_is_not_closed() {
    let fixture = Fixture::new().await;
    let jobs = &fixture.daemon.jobs;
    let task = jobs.use_store("one");
    let change = json!({"sync-level": "file"});
    let path = "config/datastore/one";
    fixture
        .refused(Method::PUT, path, change.clone(), "a task works")
        .await;
    fixture
        .refused(Method::DELETE, path, json!({}), "a task works")
        .await;
    drop(task);
    fixture.done(Method::PUT, path, change).await;
    let verify = "admin/datastore/one/verify";
    let run = fixture.done(Method::POST, verify, json!({})).await;
    assert_eq!(fixture.outcome(&run).await, "OK");
}

#[tokio::test]
async fn prune_of_a_tree_touches_what_the_caller_may_remove() {
    let fixture = Fixture::new().await;
    for seconds in [1_700_000_000, 1_700_040_000] {
        fixture.add_snapshot(seconds);
    }
    let token = fixture.token("backup@pbs").await;
    let path = "admin/datastore/one/prune-datastore?keep-last=1";
    let (status, _) = fixture.with_token(&token, Method::POST, path).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "the token may back up only");
    let keep = json!({"keep-last": 1, "dry-run": true});
    let run = fixture
        .done(Method::POST, "admin/datastore/one/prune-datastore", keep)
        .await;
    assert_eq!(fixture.outcome(&run).await, "OK");
    assert_eq!(fixture.times().await.len(), 2, "a dry run");
    let nothing = json!({});
    let run = fixture
        .done(Method::POST, "admin/datastore/one/prune-datastore", nothing)
        .await;
    assert_eq!(fixture.outcome(&run).await, "OK");
    assert_eq!(fixture.times().await.len(), 2, "no rule keeps everything");
    let keep = json!({"keep-last": 1});
    let run = fixture
        .done(Method::POST, "admin/datastore/one/prune-datastore", keep)
        .await;
    assert_eq!(fixture.outcome(&run).await, "OK");
    assert_eq!(fixture.times().await, [1_700_040_000]);
}

#[tokio::test]
async fn prune_says_why() {
    let fixture = Fixture::new().await;
    for seconds in [1_700_000_000, 1_700_040_000, 1_700_050_000] {
        fixture.add_snapshot(seconds);
    }
    let protect = json!({"backup-type": "host", "backup-id": "a", "backup-time": 1_700_040_000, "protected": true});
    fixture
        .done(Method::PUT, "admin/datastore/one/protected", protect)
        .await;
    let keep = json!({"backup-type": "host", "backup-id": "a", "keep-last": 1, "dry-run": true});
    let marks = fixture
        .done(Method::POST, "admin/datastore/one/prune", keep)
        .await;
    let rows = marks["data"].as_array().expect("a list").iter();
    let reasons: Vec<&str> = rows
        .map(|row| row["reason"].as_str().unwrap_or_default())
        .collect();
    assert_eq!(reasons, ["remove", "protected", "keep-last"]);
}

#[tokio::test]
async fn the_settings_of_a_datastore_are_changed() {
    let fixture = Fixture::new().await;
    let path = "config/datastore/one";
    let change = json!({"gc-schedule": "daily", "comment": "all of it"});
    fixture.done(Method::PUT, path, change).await;
    fixture.look().await;
    let shown = fixture.done(Method::GET, path, json!({})).await;
    assert_eq!(shown["data"]["gc-schedule"], "daily");
    let gc = fixture
        .done(Method::GET, "admin/datastore/one/gc", json!({}))
        .await;
    assert_eq!(gc["data"]["schedule"], "daily");
    assert!(gc["data"]["next-run"].is_i64());
    let wrong = json!({"gc-schedule": "sometimes"});
    fixture
        .refused(Method::PUT, path, wrong, "gc-schedule")
        .await;
    let anew = json!({"gc-atime-cutoff-minutes": 10, "delete": ["comment"]});
    fixture.done(Method::PUT, path, anew).await;
    let shown = fixture.done(Method::GET, path, json!({})).await;
    assert_eq!(shown["data"]["gc-atime-cutoff-minutes"], 10);
    assert_eq!(shown["data"]["comment"], Value::Null);
    let store = fixture.daemon.stores.get("one").expect("open again");
    assert_eq!(store.config().gc_atime_cutoff, Duration::from_mins(10));
    let place = json!({"path": "/elsewhere"});
    fixture
        .refused(Method::PUT, path, place, "unknown parameter")
        .await;
    let jobs = &fixture.daemon.jobs;
    let collection = (
        jobs.begin(&JobKey::new(JobKind::Gc, "one")),
        jobs.use_store("one"),
    );
    let anew = json!({"gc-atime-cutoff-minutes": 20});
    fixture
        .refused(Method::PUT, path, anew, "garbage collection")
        .await;
    drop(collection);
}

#[tokio::test]
async fn maintenance_refuses_what_it_says() {
    let fixture = Fixture::new().await;
    fixture.add_snapshot(1_700_000_000);
    let path = "config/datastore/one";
    let wrong = json!({"maintenance-mode": "closed"});
    fixture
        .refused(Method::PUT, path, wrong, "read-only or offline")
        .await;
    let read_only = json!({"maintenance-mode": "type=read-only,message=new disk"});
    fixture.done(Method::PUT, path, read_only).await;
    let snapshot = json!({"backup-type": "host", "backup-id": "a", "backup-time": 1_700_000_000});
    let gc = "admin/datastore/one/gc";
    let why = "read-only for maintenance: new disk";
    fixture.refused(Method::POST, gc, json!({}), why).await;
    let snapshots = "admin/datastore/one/snapshots";
    fixture
        .refused(Method::DELETE, snapshots, snapshot, why)
        .await;
    let group = json!({"backup-type": "host", "backup-id": "a", "keep-last": 1});
    let prune = "admin/datastore/one/prune";
    fixture
        .refused(Method::POST, prune, group.clone(), why)
        .await;
    let mut look = group;
    look["dry-run"] = json!(true);
    fixture.done(Method::POST, prune, look).await;
    assert_eq!(fixture.times().await, [1_700_000_000]);
    let listed = fixture
        .done(Method::GET, "admin/datastore", json!({}))
        .await;
    assert_eq!(
        listed["data"][0]["maintenance"],
        "type=read-only,message=new disk"
    );

    fixture
        .done(Method::PUT, path, json!({"maintenance-mode": "offline"}))
        .await;
    fixture
        .refused(Method::GET, snapshots, json!({}), "offline for maintenance")
        .await;
    fixture
        .done(Method::PUT, path, json!({"delete": ["maintenance-mode"]}))
        .await;
    assert_eq!(fixture.times().await, [1_700_000_000]);
}

#[tokio::test]
async fn jobs_go_with_their_datastore() {
    let fixture = Fixture::new().await;
    let job = |id: &str, store: &str| json!({"id": id, "store": store, "keep-last": 1});
    fixture
        .done(Method::POST, "config/prune", job("first", "one"))
        .await;
    fixture
        .done(Method::POST, "config/prune", job("second", "two"))
        .await;
    fixture
        .done(Method::DELETE, "config/datastore/one", json!({}))
        .await;
    let left = fixture.done(Method::GET, "config/prune", json!({})).await;
    assert_eq!(left["data"].as_array().map(Vec::len), Some(1));
    assert_eq!(left["data"][0]["id"], "second");
    let run = fixture
        .own(Method::POST, "admin/prune/second/run", json!({}))
        .await;
    assert_eq!(
        run.0,
        StatusCode::BAD_REQUEST,
        "its datastore is not available"
    );
}

/// The names of all samples, with labels.
fn samples(figures: &str) -> BTreeSet<&str> {
    let lines = figures.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| line.rsplit_once(' ').map_or(line, |(name, _)| name))
        .collect()
}

#[tokio::test]
async fn figures_are_told_to_whoever_may_audit() {
    let fixture = Fixture::new().await;
    fixture.look().await;
    let ask = async |caller, token: Option<&str>, accept: &str| {
        let request = Request::get("/metrics")
            .header("authorization", token.unwrap_or("none"))
            .header("accept", accept);
        let request = request.body(Full::<Bytes>::default()).expect("a request");
        let response = fixture.send(request, caller).await;
        let kind = response.headers()["content-type"]
            .to_str()
            .expect("text")
            .to_owned();
        let text = String::from_utf8_lossy(response.body()).into_owned();
        (response.status(), kind, text)
    };
    // What Prometheus sends.
    let openmetrics =
        "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3";
    let (status, kind, text) = ask(Caller::Owner, None, openmetrics).await;
    assert_eq!(status, StatusCode::OK);
    assert!(kind.starts_with("application/openmetrics-text"), "{kind}");
    assert!(text.ends_with("# EOF\n"), "{text}");
    for line in [
        "holdfast_datastore_up{datastore=\"one\"} 1.0",
        "holdfast_datastore_up{datastore=\"two\"} 0.0",
        "holdfast_job_running{datastore=\"one\",kind=\"gc\",id=\"one\"} 0.0",
    ] {
        assert!(text.lines().any(|known| known == line), "{line} in {text}");
    }
    let (status, kind, older) = ask(Caller::Owner, None, "*/*").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(kind, "text/plain; version=0.0.4; charset=utf-8");
    assert!(!older.contains("# EOF"), "{older}");
    assert_eq!(samples(&older), samples(&text));
    let token = fixture.token("backup@pbs").await;
    let (status, _, text) = ask(PEER, Some(&token), openmetrics).await;
    assert_eq!(status, StatusCode::OK);
    assert!(!text.contains("one"), "{text}");
}
