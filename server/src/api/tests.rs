//! Tests of the calls, in process.

mod download;
mod jobs;
mod notify;
mod sync;
mod traffic;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use pbs_datastore::{BackupGroup, BackupTime, Env, Manifest, Namespace, Snapshot};
use rstest::rstest;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Caller, Delays};
use crate::auth::AclPath;
use crate::config::{ConfigStore, Secrets, SecretsStore};
use crate::daemon::{Daemon, DirectoryLock};
use crate::jobs::{JobKey, JobKind};
use crate::protocol::{SessionKind, SessionSubject};

const PEER: Caller = Caller::Network(IpAddr::V4(Ipv4Addr::LOCALHOST));

/// A daemon without network, with one datastore that is open, and users with a password each.
struct Fixture {
    daemon: Arc<Daemon>,
    dir: TempDir,
}

impl Fixture {
    async fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store = dir.path().join("store");
        let config = format!(
            "[datastore.one]\nbackend = \"filesystem\"\npath = {store:?}\n\
             [datastore.two]\nbackend = \"filesystem\"\npath = \"/proc/nothing/here\"\n\
             [user.\"admin@pbs\"]\n[user.\"backup@pbs\"]\n[user.\"off@pbs\"]\nenable = false\n\
             [[acl]]\npath = \"/\"\nid = \"admin@pbs\"\nrole = \"Admin\"\n\
             [[acl]]\npath = \"/datastore/one\"\nid = \"backup@pbs\"\nrole = \"DatastoreBackup\"\n"
        );
        let file = dir.path().join("holdfast.toml");
        ConfigStore::create(&file, &config).expect("valid");
        SecretsStore::create(&dir.path().join("secrets.toml"), &Secrets::new_text())
            .expect("valid");
        let lock = DirectoryLock::take(dir.path()).expect("free");
        let daemon =
            tokio::task::spawn_blocking(move || Daemon::assemble(&file, lock, Env::system()));
        let mut daemon = daemon.await.expect("ran").expect("assembled");
        Arc::get_mut(&mut daemon).expect("not shared yet").delays = Delays::NONE;
        let one = daemon.stores.open_now("one", crate::stores::TakeOver::No);
        one.await.expect("opened");
        let two = daemon.stores.open_now("two", crate::stores::TakeOver::No);
        two.await.expect_err("there is no such place");
        Self { daemon, dir }
    }

    async fn send(&self, request: Request<Full<Bytes>>, caller: Caller) -> Response<Bytes> {
        self.daemon.respond_whole(request, caller).await
    }

    /// A call by the owner of the files.
    async fn own(&self, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
        let request = json_request(method, path, &body);
        answer(&self.send(request, Caller::Owner).await)
    }

    /// Puts a finished backup of `host/a` without files into the datastore, as root's.
    fn add_snapshot(&self, seconds: i64) -> Snapshot {
        let time = BackupTime::new(seconds).expect("a time");
        let group: BackupGroup = "host/a".parse().expect("a group");
        let snapshot = Snapshot { group, time };
        let dir = self.dir.path().join("store/host/a");
        let place = dir.join(time.to_string());
        std::fs::create_dir_all(&place).expect("a directory");
        std::fs::write(dir.join("owner"), "root@pam\n").expect("written");
        let manifest = Manifest::new(snapshot.clone(), Vec::new()).expect("a manifest");
        let blob = manifest.to_blob().expect("a blob").encoded();
        std::fs::write(place.join("index.json.blob"), blob).expect("written");
        snapshot
    }

    /// A new API token of a user.
    async fn token(&self, user: &str) -> String {
        let path = format!("access/users/{user}/token/t{}", self.daemon.env.new_id());
        let (status, data) = self.own(Method::POST, &path, json!({})).await;
        assert_eq!(status, StatusCode::OK);
        let id = data["data"]["tokenid"].as_str().expect("an id").to_owned();
        let right = |path: &str, role: &str| json!({ "path": path, "auth-id": id, "role": role });
        let right = if user == "admin@pbs" {
            right("/", "Admin")
        } else {
            right("/datastore/one", "DatastoreBackup")
        };
        let (status, _) = self.own(Method::PUT, "access/acl", right).await;
        assert_eq!(status, StatusCode::OK);
        let secret = data["data"]["value"].as_str().expect("a secret");
        format!("PBSAPIToken={id}:{secret}")
    }

    /// A call with an API token.
    async fn with_token(&self, token: &str, method: Method, path: &str) -> (StatusCode, Value) {
        let request = Request::builder()
            .method(method)
            .uri(format!("/api2/json/{path}"))
            .header("authorization", token)
            .body(Full::default())
            .expect("a request");
        answer(&self.send(request, PEER).await)
    }
}

fn json_request(method: Method, path: &str, body: &Value) -> Request<Full<Bytes>> {
    let request = Request::builder()
        .method(method)
        .uri(format!("/api2/json/{path}"))
        .header("content-type", "application/json");
    let body = Full::new(Bytes::from(body.to_string()));
    request.body(body).expect("a request")
}

/// Status, and the JSON or the text of an answer.
fn answer(response: &Response<Bytes>) -> (StatusCode, Value) {
    let body = response.body();
    let value = serde_json::from_slice(body)
        .unwrap_or_else(|_| json!(String::from_utf8_lossy(body).into_owned()));
    (response.status(), value)
}

impl Fixture {
    /// Gives a user a password, and locks the account by wrong ones.
    async fn lock_out(&self, user: &str) {
        let password = json!({ "userid": user, "password": "correct horse" });
        let (status, _) = self.own(Method::PUT, "access/password", password).await;
        assert_eq!(status, StatusCode::OK);
        for _ in 0..10 {
            let wrong = json!({ "username": user, "password": "wrong" });
            let request = json_request(Method::POST, "access/ticket", &wrong);
            let (status, _) = answer(&self.send(request, PEER).await);
            assert_eq!(status, StatusCode::UNAUTHORIZED);
        }
    }
}

#[tokio::test]
async fn a_datastore_is_opened_anew_once_nobody_has_it_in_his_hands() {
    let fixture = Fixture::new().await;
    let stores = &fixture.daemon.stores;
    let held = stores.get("one").expect("open");
    let opened = stores.open_now("one", crate::stores::TakeOver::No);
    let given_back = async {
        while stores.opened("one").is_ok() {
            tokio::task::yield_now().await;
        }
        drop(held);
    };
    let both = async { tokio::join!(opened, given_back).0 };
    let opened = tokio::time::timeout(std::time::Duration::from_mins(1), both).await;
    opened
        .expect("it is closed, and opened")
        .expect("its directory is free");
    stores.get("one").expect("open again");
}

#[tokio::test]
async fn a_locked_account_is_seen_and_unlocked_by_who_administers_it() {
    let fixture = Fixture::new().await;
    fixture.lock_out("backup@pbs").await;
    let (admin, user) = (
        fixture.token("admin@pbs").await,
        fixture.token("backup@pbs").await,
    );
    let one = "access/users/backup@pbs";
    let (_, shown) = fixture.with_token(&admin, Method::GET, one).await;
    let until = shown["data"]["locked-until"].as_i64().expect("a time");
    assert!(until > fixture.daemon.clock.unix_seconds());
    let (_, list) = fixture.own(Method::GET, "access/users", json!({})).await;
    let locked = list["data"].as_array().expect("a list").iter();
    let locked = locked.filter(|user| !user["locked-until"].is_null());
    assert_eq!(locked.count(), 1);
    let (_, figures) = fixture.with_token(&admin, Method::GET, "metrics").await;
    let figures = figures.as_str().expect("a text");
    let is_locked =
        |line: &str| line.starts_with("holdfast_accounts_locked") && line.ends_with(" 1.0");
    assert!(figures.lines().any(is_locked), "{figures}");
    let unlock = format!("{one}/unlock");
    let (status, _) = fixture.with_token(&user, Method::PUT, &unlock).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "its own token may not");
    for was_locked in [true, false] {
        let (status, answer) = fixture.with_token(&admin, Method::PUT, &unlock).await;
        assert_eq!(
            (status, &answer["data"]),
            (StatusCode::OK, &json!(was_locked))
        );
    }
    let unknown = "access/users/unknown@pbs/unlock";
    let (status, _) = fixture.with_token(&admin, Method::PUT, unknown).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_login_opens_the_door_and_changes_need_the_csrf_token() {
    let fixture = Fixture::new().await;
    let password = json!({ "userid": "admin@pbs", "password": "correct horse" });
    let (status, _) = fixture.own(Method::PUT, "access/password", password).await;
    assert_eq!(status, StatusCode::OK);
    let login = Request::post("//api2/json/access/ticket")
        .body(Full::from("username=admin%40pbs&password=correct+horse"))
        .expect("a request");
    let (status, body) = answer(&fixture.send(login, PEER).await);
    assert_eq!(status, StatusCode::OK);
    assert_eq!(
        (&body["status"], &body["success"]),
        (&json!(200), &json!(true))
    );
    assert_eq!(body["data"]["username"], "admin@pbs");
    let ticket = body["data"]["ticket"].as_str().expect("a ticket");
    let csrf = body["data"]["CSRFPreventionToken"]
        .as_str()
        .expect("a token");
    let namespace = |csrf: Option<&str>| {
        let path = "admin/datastore/one/namespace";
        let mut request = json_request(Method::POST, path, &json!({ "name": "n1" }));
        let cookie = format!("PBSAuthCookie={ticket}").parse().expect("a header");
        request.headers_mut().insert("cookie", cookie);
        if let Some(csrf) = csrf {
            let csrf = csrf.parse().expect("a header");
            request.headers_mut().insert("CSRFPreventionToken", csrf);
        }
        request
    };
    let (status, _) = answer(&fixture.send(namespace(None), PEER).await);
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    let (status, body) = answer(&fixture.send(namespace(Some(csrf)), PEER).await);
    assert_eq!((status, body), (StatusCode::OK, json!({ "data": "n1" })));
}

#[rstest]
#[case(Method::GET, "ping", 200)]
#[case(Method::GET, "version", 401)]
#[case(Method::GET, "nosuchpath", 401)]
#[case(Method::GET, "admin/datastore", 401)]
#[case(Method::POST, "admin/datastore/one/gc", 401)]
#[tokio::test]
async fn strangers_get_in_nowhere(#[case] method: Method, #[case] path: &str, #[case] status: u16) {
    let fixture = Fixture::new().await;
    let request = json_request(method, path, &json!({}));
    assert_eq!(fixture.send(request, PEER).await.status(), status);
}

#[tokio::test]
async fn a_backup_user_sees_and_does_what_the_role_allows() {
    let fixture = Fixture::new().await;
    let token = fixture.token("backup@pbs").await;
    let call = async |method, path| fixture.with_token(&token, method, path).await;
    let (status, body) = call(Method::GET, "admin/datastore").await;
    assert_eq!(status, StatusCode::OK);
    let entry = json!([{
        "store": "one", "comment": null, "mount-status": "nonremovable", "backend-type": "filesystem",
    }]);
    assert_eq!(body["data"], entry, "the other datastore is not listed");
    for (method, path, status) in [
        (Method::GET, "admin/datastore/one/snapshots", 200),
        (Method::GET, "admin/datastore/one/snapshots?bogus=1", 400),
        (Method::GET, "admin/datastore/two/snapshots", 403),
        (Method::GET, "admin/datastore/none/snapshots", 403),
        (Method::POST, "admin/datastore/one/gc", 403),
        (Method::GET, "admin/datastore/one/gc", 403),
        (Method::GET, "admin/datastore/one/sessions", 403),
        (Method::DELETE, "admin/datastore/one/namespace?ns=a", 403),
        (Method::DELETE, "admin/datastore/one/namespace?ns=", 400),
        (Method::GET, "config/s3", 403),
        (Method::DELETE, "access/users/admin@pbs", 403),
        (Method::GET, "access/permissions?auth-id=admin@pbs", 403),
        (Method::GET, "access/permissions", 200),
    ] {
        let (got, body) = call(method, path).await;
        assert_eq!(got, status, "{path}: {body}");
    }
    let (_, users) = call(Method::GET, "access/users").await;
    assert_eq!(users["data"], json!([{ "userid": "backup@pbs" }]));
}

#[tokio::test]
async fn an_administrator_meets_clear_answers() {
    let fixture = Fixture::new().await;
    let token = fixture.token("admin@pbs").await;
    let call = async |method, path| fixture.with_token(&token, method, path).await;
    let (_, root) = call(Method::GET, "").await;
    let names = [
        "access", "admin", "config", "metrics", "nodes", "openapi", "ping", "pull", "push",
        "status", "version",
    ];
    let names: Vec<Value> = names.iter().map(|name| json!({ "subdir": name })).collect();
    assert_eq!(root["data"], json!(names));
    assert_eq!(call(Method::GET, "nosuchpath").await.0, 404);
    assert_eq!(call(Method::POST, "version").await.0, 405);
    let (status, text) = call(Method::GET, "admin/datastore/none/status").await;
    assert_eq!(
        (status.as_u16(), text),
        (400, json!("no such datastore 'none'"))
    );
    let (status, text) = call(Method::GET, "admin/datastore/two/snapshots").await;
    assert_eq!(status, 400);
    let text = text.as_str().expect("a sentence");
    assert!(
        text.starts_with("datastore 'two' is not available: "),
        "{text}"
    );
    let (_, version) = call(Method::GET, "version").await;
    assert_eq!(version["data"]["version"], "4.2");
    let (_, status) = call(Method::GET, "admin/datastore/one/status").await;
    assert_eq!(status["data"]["backend-type"], "filesystem");
    assert!(status["data"]["total"].as_u64().expect("a number") > 0);
    let (_, identity) = call(Method::GET, "nodes/localhost/identity").await;
    let id = identity["data"]["pbs-instance-id"].as_str();
    assert_eq!(id.map(str::len), Some(32));
}

#[tokio::test]
async fn garbage_collection_is_a_task_that_can_be_followed() {
    let fixture = Fixture::new().await;
    let token = fixture.token("admin@pbs").await;
    let call = async |method, path: &str| fixture.with_token(&token, method, path).await;
    let (status, body) = call(Method::POST, "admin/datastore/one/gc").await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let upid = body["data"]
        .as_str()
        .expect("a task id")
        .replace(':', "%3A");
    let task = format!("nodes/localhost/tasks/{upid}");
    let ended = async {
        let status = format!("{task}/status");
        while call(Method::GET, &status).await.1["data"]["status"] != "stopped" {
            tokio::task::yield_now().await;
        }
    };
    let limit = std::time::Duration::from_mins(1);
    tokio::time::timeout(limit, ended).await.expect("it ends");
    let (_, status) = call(Method::GET, &format!("{task}/status")).await;
    assert_eq!(status["data"]["exitstatus"], "OK", "{status}");
    let (_, log) = call(Method::GET, &format!("{task}/log")).await;
    assert!(log["total"].as_u64().expect("a number") >= 3);
    assert_eq!(log["data"][0]["n"], 1);
    let (_, gc) = call(Method::GET, "admin/datastore/one/gc").await;
    assert_eq!(gc["data"]["last-run-state"], "OK");
    assert_eq!(gc["data"]["store"], "one");
}

/// A request to add a log to a snapshot that does not exist, by `token`.
fn log_request<B>(token: &str, store: &str, body: B) -> Request<B> {
    let place = "backup-type=host&backup-id=a&backup-time=1700000000";
    Request::post(format!(
        "/api2/json/admin/datastore/{store}/upload-backup-log?{place}"
    ))
    .header("authorization", token)
    .body(body)
    .expect("a request")
}

#[tokio::test]
async fn nothing_of_an_upload_is_awaited_from_who_may_not_send_it() {
    let fixture = Fixture::new().await;
    let token = fixture.token("backup@pbs").await;
    for store in ["one", "two"] {
        type Frames =
            futures_util::stream::Pending<Result<http_body::Frame<Bytes>, std::io::Error>>;
        let never: Frames = futures_util::stream::pending();
        let request = log_request(&token, store, http_body_util::StreamBody::new(never));
        let answer = fixture.daemon.respond(request, PEER);
        let limit = std::time::Duration::from_secs(20);
        let response = tokio::time::timeout(limit, answer).await.expect("at once");
        assert_eq!(response.status(), StatusCode::FORBIDDEN, "{store}");
    }
    let budget = &fixture.daemon.budget;
    assert_eq!(budget.bytes_free(), budget.bytes_max());
}

#[tokio::test]
async fn a_short_upload_needs_little_memory() {
    let fixture = Fixture::new().await;
    let store = fixture.daemon.stores.get("one").expect("open");
    let group = pbs_datastore::GroupRef::new(Namespace::root(), "host/a".parse().expect("a group"));
    let held = store.snapshots().lock_group(&group).await.expect("free");
    let owner = "backup@pbs".parse().expect("an id");
    let set = store.snapshots().set_owner(&held, &owner).await;
    set.expect("owned");
    drop(held);
    let password = json!({ "userid": "backup@pbs", "password": "correct horse" });
    fixture.own(Method::PUT, "access/password", password).await;
    let login =
        fixture
            .daemon
            .authority
            .login("backup@pbs", "correct horse", Ipv4Addr::LOCALHOST.into());
    let login = login.await.expect("in");
    let budget = &fixture.daemon.budget;
    let rest = budget.bytes_free() - 4096;
    let busy = budget.take(rest, std::time::Duration::ZERO).await;
    assert!(busy.is_some());
    let mut request = log_request("", "one", Full::from("no blob at all"));
    let headers = request.headers_mut();
    headers.remove("authorization");
    let cookie = format!("PBSAuthCookie={}", login.ticket);
    headers.insert("cookie", cookie.parse().expect("a header"));
    let csrf = login.csrf_token.parse().expect("a header");
    headers.insert("CSRFPreventionToken", csrf);
    let limit = std::time::Duration::from_secs(20);
    let answer = tokio::time::timeout(limit, fixture.send(request, PEER)).await;
    let status = answer.expect("does not wait for memory").status();
    assert_eq!(status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_snapshot_in_use_does_not_fail_a_prune() {
    let fixture = Fixture::new().await;
    let times = [1_700_000_000, 1_700_000_100, 1_700_000_200];
    let snapshots = times.map(|time| fixture.add_snapshot(time));
    let store = fixture.daemon.stores.get("one").expect("open");
    let root = Namespace::root();
    let reader = store.begin_read(&root, &snapshots[0], None);
    let reader = reader.await.expect("open");
    let prune = async || {
        let path = "admin/datastore/one/prune";
        let group = json!({ "backup-type": "host", "backup-id": "a", "keep-last": 1 });
        fixture.own(Method::POST, path, group).await
    };
    let keeps = |answer: &Value| -> Vec<bool> {
        let list = answer["data"].as_array().expect("a list");
        list.iter().map(|entry| entry["keep"] == true).collect()
    };
    let (status, body) = prune().await;
    assert_eq!(status, StatusCode::OK, "{body}");
    assert_eq!(keeps(&body), [true, false, true]);
    let (_, tasks) = fixture
        .own(Method::GET, "nodes/localhost/tasks", json!({}))
        .await;
    assert_eq!(tasks["data"][0]["status"], "WARNINGS: 1", "{tasks}");
    drop(reader);
    let (_, body) = prune().await;
    assert_eq!(keeps(&body), [false, true]);
    for group in ["none", "a&ns=none"] {
        let path = format!(
            "admin/datastore/one/prune?backup-type=host&dry-run=1&keep-last=1&backup-id={group}"
        );
        let request = Request::post(format!("/api2/json/{path}"))
            .body(Full::default())
            .expect("a request");
        let (status, body) = answer(&fixture.send(request, Caller::Owner).await);
        assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
        let text = body.as_str().expect("a sentence");
        assert!(text.contains("does not exist"), "{text}");
    }
}

#[tokio::test]
async fn who_may_prune_sees_the_tasks_of_it() {
    let fixture = Fixture::new().await;
    fixture.add_snapshot(1_700_000_000);
    let path = "admin/datastore/one/prune";
    let group = json!({ "backup-type": "host", "backup-id": "a", "keep-last": 1 });
    let (status, _) = fixture.own(Method::POST, path, group).await;
    assert_eq!(status, StatusCode::OK);
    let token = fixture.token("backup@pbs").await;
    let seen = async || {
        let tasks = fixture.with_token(&token, Method::GET, "nodes/localhost/tasks");
        tasks.await.1["data"].as_array().map(Vec::len)
    };
    assert_eq!(seen().await, Some(0));
    let id = token.trim_start_matches("PBSAPIToken=");
    let id = id.rsplit_once(':').expect("a secret").0;
    for id in [id, "backup@pbs"] {
        let path = "/datastore/one";
        let right = json!({ "path": path, "auth-id": id, "role": "DatastoreAdmin" });
        fixture.own(Method::PUT, "access/acl", right).await;
    }
    assert_eq!(seen().await, Some(1));
}

#[tokio::test]
async fn a_datastore_that_cannot_be_opened_leaves_the_rights_alone() {
    let fixture = Fixture::new().await;
    let right =
        json!({ "path": "/datastore/three", "auth-id": "backup@pbs", "role": "DatastoreBackup" });
    fixture.own(Method::PUT, "access/acl", right).await;
    let rights = || fixture.daemon.config.read().acl_entries.clone();
    let before = rights();
    assert!(
        before
            .iter()
            .any(|entry| entry.path == AclPath::datastore("three"))
    );
    let place = json!({ "name": "three", "backend": "filesystem", "path": "/proc/nothing/three" });
    let (status, body) = fixture.own(Method::POST, "config/datastore", place).await;
    assert_ne!(status, StatusCode::OK, "{body}");
    assert_eq!(rights(), before);
    assert!(
        !fixture
            .daemon
            .config
            .read()
            .datastores
            .contains_key("three")
    );
}

#[tokio::test]
async fn a_datastore_in_use_is_not_removed() {
    let fixture = Fixture::new().await;
    let remove = async || {
        let path = "config/datastore/one";
        fixture.own(Method::DELETE, path, json!({})).await
    };
    let refused = async |why: &str| {
        let (status, text) = remove().await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert!(
            text.as_str().is_some_and(|text| text.contains(why)),
            "{text}"
        );
        assert!(fixture.daemon.stores.get("one").is_ok());
    };
    let jobs = &fixture.daemon.jobs;
    let collection = (
        jobs.begin(&JobKey::new(JobKind::Gc, "one")),
        jobs.use_store("one"),
    );
    refused("garbage collection").await;
    drop(collection);
    let reader = fixture.daemon.sessions.open(
        SessionSubject {
            kind: SessionKind::Reader,
            store: "one".parse().expect("a name"),
            namespace: Namespace::root(),
            snapshot: "host/a/2023-11-14T22:13:20Z".parse().expect("a snapshot"),
            author: "backup@pbs".parse().expect("an id"),
            peer: "127.0.0.1".to_owned(),
            started: fixture.daemon.clock.now(),
        },
        1,
    );
    refused("reads from").await;
    drop(reader);
    let (status, body) = remove().await;
    assert_eq!(status, StatusCode::OK, "{body}");
}

#[tokio::test]
async fn a_group_changes_hands_within_a_user_or_by_modify() {
    let fixture = Fixture::new().await;
    fixture.add_snapshot(1_700_000_000);
    let owner_file = fixture.dir.path().join("store/host/a/owner");
    let owner = || std::fs::read_to_string(&owner_file).expect("an owner");
    let path = "admin/datastore/one/change-owner";
    let to =
        |id: &str, new: &str| json!({ "backup-type": "host", "backup-id": id, "new-owner": new });
    let token = fixture.token("backup@pbs").await;
    let name = token.trim_start_matches("PBSAPIToken=");
    let name = name.rsplit_once(':').expect("a secret").0;
    let by_token = async |id: &str, new: &str| {
        let mut request = json_request(Method::POST, path, &to(id, new));
        let value = token.parse().expect("a header");
        request.headers_mut().insert("authorization", value);
        fixture.send(request, PEER).await.status().as_u16()
    };
    let by_root = async |id: &str, new: &str| {
        let answer = fixture.own(Method::POST, path, to(id, new)).await;
        answer.0.as_u16()
    };
    assert_eq!(by_token("a", name).await, 401, "of somebody else");
    assert_eq!(by_token("none", name).await, 401, "of nobody");
    assert_eq!(by_root("a", "nobody@pbs").await, 400);
    assert_eq!(by_root("a", "off@pbs").await, 400, "not enabled");
    assert_eq!(by_root("none", "backup@pbs").await, 400);
    assert_eq!(owner(), "root@pam\n");
    assert_eq!(by_root("a", name).await, 200);
    assert_eq!(by_token("a", "admin@pbs").await, 401, "to somebody else");
    assert_eq!(owner(), format!("{name}\n"));
    assert_eq!(
        by_token("a", "backup@pbs").await,
        200,
        "to the user of the token"
    );
    assert_eq!(owner(), "backup@pbs\n");
    assert_eq!(
        by_token("a", name).await,
        401,
        "a token does not own what is the user's"
    );
    std::fs::write(&owner_file, "?").expect("written");
    assert_eq!(by_root("a", "backup@pbs").await, 200, "mends the file");
    assert_eq!(owner(), "backup@pbs\n");
}
