//! Tests of tasks.

use std::path::PathBuf;

use tempfile::TempDir;

use super::*;
use crate::api::{Params, Reply};
use crate::clock::TestClock;

const NOW: i64 = 1_795_184_975;

struct Setup {
    dir: TempDir,
    time: TestClock,
    registry: TaskRegistry,
}

fn open(dir: &TempDir, time: &TestClock) -> TaskRegistry {
    TaskRegistry::open(dir.path(), "pbs.example.net", time.clock()).expect("opened")
}

impl Setup {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let time = TestClock::at(NOW);
        let registry = open(&dir, &time);
        Self {
            dir,
            time,
            registry,
        }
    }

    fn start(&self, kind: &str, worker_id: &str, user: &str, store: Option<&str>) -> Task {
        let start = TaskStart {
            kind,
            worker_id,
            user: user.parse().expect("an id"),
            store,
        };
        self.registry.start(&start).expect("started")
    }

    fn gc(&self) -> Task {
        self.start("garbage_collection", "store1", "tester@pbs", Some("store1"))
    }

    /// A task that ended with `result`, one second later than the one before.
    async fn ended(&self, kind: &str, user: &str, result: Result<(), String>) -> Upid {
        self.time.advance(1);
        let task = self.start(kind, "store1:host/a", user, Some("store1"));
        let upid = task.upid().clone();
        task.finish(result).await;
        upid
    }

    fn restarted(&self) -> TaskRegistry {
        open(&self.dir, &self.time)
    }
}

fn json(reply: Reply) -> serde_json::Value {
    serde_json::from_slice(reply.into_response().body()).expect("JSON")
}

fn filter(query: &str) -> TaskFilter {
    let mut params = Params::gather([], Some(query), None, b"").expect("gathered");
    let filter = TaskFilter::take(&mut params).expect("valid");
    params.finish().expect("nothing left over");
    filter
}

fn kinds(registry: &TaskRegistry, query: &str) -> Vec<String> {
    let (page, _) = registry.list(&filter(query), |_| true);
    page.iter()
        .map(|task| task.upid.kind().to_owned())
        .collect()
}

#[tokio::test]
async fn a_log_is_followed_as_clients_do() {
    let setup = Setup::new();
    let task = setup.gc();
    let upid = task.upid().clone();
    task.log("starting garbage collection on store store1");
    let page = setup.registry.log_page(&upid, 1, 500).await.expect("read");
    assert_eq!((page.total, page.active), (1, true));
    let line = &page.lines[0];
    assert_eq!(&line[25..27], ": ", "{line}");
    assert!(line[..25].parse::<jiff::Timestamp>().is_ok(), "{line}");
    assert!(line.ends_with(": starting garbage collection on store store1"));

    let page = setup.registry.log_page(&upid, 2, 500).await.expect("read");
    let expected = serde_json::json!({"active": true, "data": [], "success": 1, "total": 1});
    assert_eq!(json(log_reply(&page, true).expect("plain")), expected);

    task.log("two\nlines");
    task.finish(Ok(())).await;
    let page = setup.registry.log_page(&upid, 3, 2).await.expect("read");
    assert_eq!((page.total, page.active, page.first), (4, false, 3));
    assert!(page.lines[0].ends_with(": lines"));
    assert!(page.lines[1].ends_with(": TASK OK"));
    let without = json(log_reply(&page, false).expect("plain"));
    assert_eq!(without["data"][1]["n"], 4);
    assert!(without.get("active").is_none());
    let zero = setup.registry.log_page(&upid, 0, 1).await.expect("read");
    assert_eq!((zero.first, zero.lines.len()), (1, 1));
    let text = setup.registry.log_text(&upid).await.expect("read");
    let text = String::from_utf8(text).expect("UTF-8");
    assert_eq!(text.lines().count(), 4);
}

#[tokio::test]
async fn status_and_list_have_the_recorded_members() {
    let setup = Setup::new();
    let task = setup.start(
        "backup",
        "store1:host/tok",
        "tester@pbs!tok",
        Some("store1"),
    );
    let upid = task.upid().clone();
    let status = |info: TaskInfo| json(status_reply(&info).expect("plain"));
    let running = status(setup.registry.find(&upid).expect("found"));
    let expected = serde_json::json!({"data": {
        "upid": upid.to_string(), "node": "pbs", "pid": upid.pid(), "pstart": upid.pstart(),
        "starttime": NOW, "type": "backup", "id": "store1:host/tok", "user": "tester@pbs",
        "tokenid": "tok", "status": "running",
    }});
    assert_eq!(running, expected);
    setup.time.advance(3);
    task.finish(Err("connection error".into())).await;
    let stopped = status(setup.registry.find(&upid).expect("found"));
    assert_eq!(stopped["data"]["status"], "stopped");
    assert_eq!(stopped["data"]["exitstatus"], "connection error");
    assert_eq!(stopped["data"]["endtime"], NOW + 3);

    let (page, total) = setup.registry.list(&TaskFilter::all(), |_| true);
    let list = json(list_reply(&page, total).expect("plain"));
    let expected = serde_json::json!({"total": 1, "data": [{
        "upid": upid.to_string(), "node": "localhost", "pid": upid.pid(), "pstart": upid.pstart(),
        "starttime": NOW, "worker_type": "backup", "worker_id": "store1:host/tok",
        "user": "tester@pbs!tok", "endtime": NOW + 3, "status": "connection error",
    }]});
    assert_eq!(list, expected);
    let name = download_name(&upid);
    assert_eq!(name, "task-pbs-backup-2026-11-20T14:29:35Z.log");
}

#[tokio::test]
async fn lists_are_filtered_and_paged() {
    let setup = Setup::new();
    setup.ended("backup", "tester@pbs", Ok(())).await;
    setup
        .ended("prune", "tester@pbs!tok", Err("bad".into()))
        .await;
    setup.ended("verify", "other@pbs", Ok(())).await;
    setup.time.advance(1);
    let running = setup.start("benchmark", "store1:host/benchmark", "tester@pbs", None);
    let list = |query: &str| kinds(&setup.registry, query);
    assert_eq!(list(""), ["benchmark", "verify", "prune", "backup"]);
    assert_eq!(list("running=1"), ["benchmark"]);
    assert_eq!(list("errors=true"), ["prune"]);
    assert_eq!(list("store=store1"), ["verify", "prune", "backup"]);
    assert_eq!(list("store=store"), Vec::<String>::new());
    assert_eq!(
        list("userfilter=tester%40pbs"),
        ["benchmark", "prune", "backup"]
    );
    assert_eq!(list("userfilter=tester%40pbs%21tok"), ["prune"]);
    assert_eq!(list("userfilter=oth"), ["verify"]);
    assert_eq!(list("typefilter=ver"), ["verify"]);
    assert_eq!(
        list("statusfilter=ok&statusfilter=warning"),
        ["verify", "backup"]
    );
    let since = NOW + 2;
    assert_eq!(list(&format!("since={since}&until={since}")), ["prune"]);
    assert_eq!(list("start=1&limit=2"), ["verify", "prune"]);
    assert_eq!(list("start=9"), Vec::<String>::new());
    let (page, total) = setup
        .registry
        .list(&filter("limit=1"), |task| task.upid.kind() != "benchmark");
    assert_eq!((page.len(), total), (1, 3), "the total counts all pages");
    running.finish(Ok(())).await;
    assert_eq!(list("running=1"), Vec::<String>::new());
}

#[tokio::test]
async fn warnings_show_in_the_outcome() {
    let setup = Setup::new();
    let task = setup.gc();
    let upid = task.upid().clone();
    task.warn("a chunk is missing");
    task.logger().warn("another one");
    let late = task.logger();
    assert_eq!(task.finish(Ok(())).await, Outcome::Warnings(2));
    late.log("after the end");
    let page = setup.registry.log_page(&upid, 1, 0).await.expect("read");
    assert_eq!(page.lines.len(), 3);
    assert!(page.lines[2].ends_with(": TASK WARNINGS: 2"));
}

#[tokio::test]
async fn a_task_can_be_asked_to_stop() {
    let setup = Setup::new();
    let task = setup.gc();
    let upid = task.upid().clone();
    let mut signal = task.abort_signal();
    assert!(!signal.is_aborted());
    setup.registry.abort(&upid).expect("asked");
    signal.aborted().await;
    assert!(task.abort_signal().is_aborted());
    task.finish(Err("aborted".into())).await;
    setup.registry.abort(&upid).expect("ended, left alone");
    let unknown: Upid = "UPID:pbs:00000001:00000001:00000001:60000000:backup:x:root@pam:"
        .parse()
        .expect("a UPID");
    assert!(matches!(
        setup.registry.abort(&unknown),
        Err(TaskError::NotFound(_))
    ));
    assert!(setup.registry.log_page(&unknown, 1, 1).await.is_err());
}

#[tokio::test]
async fn a_dropped_task_ends_with_an_error() {
    let setup = Setup::new();
    let task = setup.gc();
    let upid = task.upid().clone();
    drop(task);
    let info = setup.registry.find(&upid).expect("found");
    let (_, outcome) = info.end.expect("ended at once, for readers");
    assert_eq!(outcome.kind(), OutcomeKind::Error);
}

#[tokio::test]
async fn tasks_survive_a_restart() {
    let setup = Setup::new();
    let ended = setup
        .ended("prune", "tester@pbs", Err("no luck".into()))
        .await;
    let cut_off = setup.gc();
    cut_off.log("half way");
    let name = cut_off.upid().clone();
    // What the next start finds when the process dies here: the start in the index, the log so far.
    setup.registry.flush_now();
    setup.time.advance(100);
    let again = setup.restarted();
    let info = again.find(&ended).expect("found");
    assert_eq!(info.end, Some((NOW + 1, Outcome::error("no luck"))));
    assert_eq!(info.store.as_deref(), Some("store1"));
    let info = again.find(&name).expect("found");
    let (time, outcome) = info.end.expect("ended");
    assert_eq!(outcome, Outcome::Unknown);
    assert!((NOW + 1..=NOW + 101).contains(&time));
    let page = again.log_page(&name, 1, 0).await.expect("read");
    assert_eq!((page.total, page.active), (1, false));
    assert_eq!(kinds(&again, "errors=1").len(), 2);
    assert_eq!(kinds(&again, "running=1").len(), 0);
    // A second restart reads what the first wrote.
    let third = setup.restarted();
    assert_eq!(
        third.find(&name).expect("found").end,
        Some((time, Outcome::Unknown))
    );
    drop(cut_off);
}

#[tokio::test]
async fn a_damaged_index_loses_the_damaged_lines_only() {
    let setup = Setup::new();
    let upid = setup.ended("prune", "tester@pbs", Ok(())).await;
    let path: PathBuf = setup.dir.path().join("index");
    let mut text = std::fs::read(&path).expect("read");
    text.extend_from_slice(b"{\"upid\":\"nonsense\"}\n{\"upi");
    std::fs::write(&path, text).expect("written");
    let again = setup.restarted();
    assert!(again.find(&upid).is_ok());
    assert_eq!(again.list(&TaskFilter::all(), |_| true).1, 1);
}

#[tokio::test]
async fn running_tasks_are_bounded() {
    let setup = Setup::new();
    let tasks: Vec<Task> = (0..ACTIVE_MAX).map(|_| setup.gc()).collect();
    let start = TaskStart {
        kind: "verify",
        worker_id: "",
        user: "root@pam".parse().expect("an id"),
        store: None,
    };
    assert!(matches!(
        setup.registry.start(&start),
        Err(TaskError::TooMany)
    ));
    assert_eq!(setup.registry.active_count(), ACTIVE_MAX);
    setup.registry.abort_all();
    assert!(tasks.iter().all(|task| task.abort_signal().is_aborted()));
}

#[tokio::test]
async fn names_are_checked() {
    let setup = Setup::new();
    let start = TaskStart {
        kind: "two words",
        worker_id: "",
        user: "root@pam".parse().expect("an id"),
        store: None,
    };
    assert!(matches!(
        setup.registry.start(&start),
        Err(TaskError::Name(_))
    ));
}

#[tokio::test]
async fn a_list_that_cannot_be_rewritten_goes_on_behind_what_is_there() {
    let setup = Setup::new();
    let first = setup.ended("backup", "tester@pbs", Ok(())).await;
    // In the way of the successor, as a full disk would be.
    std::fs::create_dir(setup.dir.path().join(".index.new")).expect("made");
    let registry = setup.restarted();
    assert!(registry.find(&first).is_ok());
    setup.time.advance(1);
    let start = TaskStart {
        kind: "backup",
        worker_id: "store1:host/b",
        user: "tester@pbs".parse().expect("an id"),
        store: Some("store1"),
    };
    let task = registry.start(&start).expect("started");
    let second = task.upid().clone();
    task.finish(Ok(())).await;
    let registry = setup.restarted();
    for upid in [first, second] {
        let found = registry.find(&upid).expect("both are remembered");
        assert!(
            found
                .end
                .is_some_and(|(_, outcome)| outcome.to_string() == "OK")
        );
    }
}
