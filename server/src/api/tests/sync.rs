//! Tests of remotes, sync jobs, pull and push by call.

use super::*;

/// What a new remote is made of. Nothing listens at that port.
fn remote() -> Value {
    let pin = ["ab"; 32].join(":");
    json!({"name": "office", "host": "127.0.0.1", "port": 1, "auth-id": "copy@pbs!t",
        "password": "hush", "fingerprint": pin})
}

#[tokio::test]
async fn a_remotes_password_goes_in_and_never_comes_out() {
    let fixture = Fixture::new().await;
    let (all, one) = ("config/remote", "config/remote/office");
    let mut lacking = remote();
    lacking["password"] = Value::Null;
    fixture
        .refused(Method::POST, all, lacking, "'password' is missing")
        .await;
    let mut odd = remote();
    odd["fingerprint"] = json!("ab:cd");
    fixture.refused(Method::POST, all, odd, "fingerprint").await;
    fixture.done(Method::POST, all, remote()).await;
    fixture
        .refused(Method::POST, all, remote(), "exists already")
        .await;
    for path in [all, one] {
        let shown = fixture.done(Method::GET, path, json!({})).await.to_string();
        assert!(
            shown.contains("copy@pbs!t") && !shown.contains("hush"),
            "{shown}"
        );
    }
    let secret = || {
        let secrets = fixture.daemon.secrets.read();
        secrets
            .remotes
            .get("office")
            .map(|secret| secret.reveal().to_owned())
    };
    assert_eq!(secret().as_deref(), Some("hush"));
    let change = json!({"comment": "c"});
    fixture.done(Method::PUT, one, change).await;
    // Whoever may change where it is does not get the password sent there.
    for change in [
        json!({"host": "127.0.0.2"}),
        json!({"delete": ["fingerprint"]}),
    ] {
        let why = "'password' is missing";
        fixture.refused(Method::PUT, one, change, why).await;
    }
    let change = json!({"password": "other", "delete": ["fingerprint"]});
    fixture.done(Method::PUT, one, change).await;
    assert_eq!(secret().as_deref(), Some("other"));
    let shown = fixture.done(Method::GET, one, json!({})).await;
    assert_eq!(shown["data"]["comment"], "c");
    assert!(shown["data"]["fingerprint"].is_null());
    let needed = json!({"delete": ["host"], "password": "other"});
    fixture
        .refused(
            Method::PUT,
            one,
            needed,
            "no setting that can be taken away",
        )
        .await;
    let scan = "config/remote/office/scan";
    fixture
        .refused(Method::GET, scan, json!({}), "127.0.0.1:1 failed")
        .await;
    let job = json!({"id": "copy", "store": "one", "remote": "office", "remote-store": "there"});
    fixture.done(Method::POST, "config/sync", job).await;
    fixture
        .refused(Method::DELETE, one, json!({}), "used by sync job copy")
        .await;
    fixture
        .done(Method::DELETE, "config/sync/copy", json!({}))
        .await;
    fixture.done(Method::DELETE, one, json!({})).await;
    assert_eq!(secret(), None);
}

#[tokio::test]
async fn a_sync_job_is_added_changed_run_and_removed() {
    let fixture = Fixture::new().await;
    let (all, one) = ("config/sync", "config/sync/nightly");
    fixture.done(Method::POST, "config/remote", remote()).await;
    let job = |more: Value| {
        let mut job = json!({"id": "nightly", "store": "one", "remote": "office",
            "remote-store": "there"});
        for (name, value) in more.as_object().expect("an object") {
            job[name] = value.clone();
        }
        job
    };
    for (more, why) in [
        (json!({"store": Value::Null}), "store"),
        (json!({"remote-store": Value::Null}), "remote-store"),
        (json!({"remote": "nowhere"}), "no [remote.nowhere]"),
        (json!({"group-filter": ["type:lxc"]}), "group-filter"),
        (json!({"transfer-last": 0}), "transfer-last"),
        (json!({"worker-threads": 33}), "worker-threads"),
        (json!({"rate-in": "1 KiB"}), "rate-in"),
        (
            json!({"burst-out": "1 MiB"}),
            "does nothing without rate-out",
        ),
        (json!({"sync-direction": "sideways"}), "sync-direction"),
        (
            json!({"sync-direction": "push", "resync-corrupt": true}),
            "for pull only",
        ),
        (
            json!({"remote": Value::Null, "sync-direction": "push"}),
            "sync-direction",
        ),
        (
            json!({"remote": Value::Null, "remote-store": "one", "ns": "a"}),
            "into itself",
        ),
        (json!({"owner": "nobody"}), "owner"),
    ] {
        fixture.refused(Method::POST, all, job(more), why).await;
    }
    let full = job(
        json!({"group-filter": ["type:host", "exclude:regex:^host/x"],
        "transfer-last": 3, "worker-threads": 4, "rate-in": "20 MiB", "remove-vanished": true,
        "schedule": "daily", "remote-ns": "a/b", "max-depth": 2, "owner": "backup@pbs"}),
    );
    fixture.done(Method::POST, all, full).await;
    let shown = fixture.done(Method::GET, one, json!({})).await;
    let expected = json!({"id": "nightly", "store": "one", "remote": "office",
        "remote-store": "there", "remote-ns": "a/b", "max-depth": 2, "schedule": "daily",
        "owner": "backup@pbs", "group-filter": ["type:host", "exclude:regex:^host/x"],
        "transfer-last": 3, "worker-threads": 4, "rate-in": 20 << 20, "remove-vanished": true});
    assert_eq!(shown["data"], expected);
    let change = json!({"delete": ["group-filter", "remove-vanished", "schedule"],
        "encrypted-only": true});
    fixture.done(Method::PUT, one, change).await;
    let shown = fixture.done(Method::GET, one, json!({})).await;
    assert!(shown["data"]["group-filter"].is_null() && shown["data"]["schedule"].is_null());
    assert_eq!(shown["data"]["encrypted-only"], true);
    let run = fixture
        .done(Method::POST, "admin/sync/nightly/run", json!({}))
        .await;
    let outcome = fixture.outcome(&run).await;
    assert!(outcome.contains("127.0.0.1:1 failed"), "{outcome}");
    let listed = fixture.done(Method::GET, "admin/sync", json!({})).await;
    assert_eq!(listed["data"][0]["last-run-state"], outcome);
    fixture.done(Method::DELETE, one, json!({})).await;
    fixture
        .refused(Method::GET, one, json!({}), "there is no sync job")
        .await;
}

#[tokio::test]
async fn snapshots_are_pulled_into_another_namespace_of_the_same_datastore() {
    let fixture = Fixture::new().await;
    fixture.add_snapshot(1_700_000_000);
    fixture.add_snapshot(1_700_003_600);
    let namespace = "admin/datastore/one/namespace";
    fixture
        .done(Method::POST, namespace, json!({"name": "copy"}))
        .await;
    let pull = json!({"store": "one", "ns": "copy", "remote-store": "one", "max-depth": 0});
    let refused = "into itself";
    fixture.refused(Method::POST, "pull", pull, refused).await;
    fixture
        .done(Method::POST, namespace, json!({"name": "from"}))
        .await;
    let pull = json!({"store": "one", "ns": "copy", "remote-store": "one", "remote-ns": "from"});
    let run = fixture.done(Method::POST, "pull", pull).await;
    assert_eq!(fixture.outcome(&run).await, "OK");
    let unknown = json!({"store": "one", "ns": "copy", "remote-store": "one", "remote-ns": "gone"});
    let run = fixture.done(Method::POST, "pull", unknown).await;
    let outcome = fixture.outcome(&run).await;
    assert!(outcome.contains("'gone' does not exist"), "{outcome}");
    let push = json!({"store": "one", "remote-store": "one"});
    fixture
        .refused(Method::POST, "push", push, "sync-direction")
        .await;
}

/// The right to a sync is the right to do it by hand: what is needed, one right at a time.
#[tokio::test]
async fn a_sync_needs_rights_on_both_sides() {
    let fixture = Fixture::new().await;
    fixture.done(Method::POST, "config/remote", remote()).await;
    let token = fixture.token("backup@pbs").await;
    let id = token["PBSAPIToken=".len()..]
        .split_once(':')
        .expect("a token")
        .0;
    let give = async |to: &str, path: &str, role: &str, gone: bool| {
        let right = json!({"path": path, "auth-id": to, "role": role, "delete": gone});
        fixture.done(Method::PUT, "access/acl", right).await;
    };
    let ask = async |path: &str| fixture.with_token(&token, Method::POST, path).await.0;
    let (forbidden, ok) = (StatusCode::FORBIDDEN, StatusCode::OK);
    let pull = "pull?store=one&remote=office&remote-store=there&max-depth=0";
    assert_eq!(ask(pull).await, forbidden);
    // A token has no more rights than its user.
    for who in [id, "backup@pbs"] {
        give(who, "/remote/office/there", "RemoteSyncOperator", false).await;
    }
    assert_eq!(ask(pull).await, ok);
    for beyond in [
        "pull?store=one&remote=office&remote-store=there",
        "pull?store=one&remote=office&remote-store=elsewhere&max-depth=0",
        "pull?store=one&remote=office&remote-store=there&max-depth=0&remove-vanished=1",
        "pull?store=one&remote-store=two&max-depth=0",
        "push?store=one&remote=office&remote-store=there&max-depth=0",
        "config/sync?id=other&store=one&remote=office&remote-store=there&max-depth=0&owner=root@pam",
        "config/remote?name=mine&host=127.0.0.1&auth-id=a@pbs&password=x",
    ] {
        assert_eq!(ask(beyond).await, forbidden, "{beyond}");
    }
    let own = format!(
        "config/sync?id=own&store=one&remote=office&remote-store=there&max-depth=0&owner={}",
        id.replace('!', "%21")
    );
    assert_eq!(ask(&own).await, ok);
    // One that is not the own work is neither changed nor run, and not shown either.
    let wide = json!({"id": "wide", "store": "one", "remote": "office", "remote-store": "there"});
    fixture.done(Method::POST, "config/sync", wide).await;
    let run = "admin/sync/wide/run";
    assert_ne!(ask(run).await, ok);
    for who in [id, "backup@pbs"] {
        give(who, "/remote/office/there", "RemoteSyncPushOperator", false).await;
        give(who, "/datastore/one", "DatastoreReader", false).await;
    }
    let push = "push?store=one&remote=office&remote-store=there&max-depth=0";
    assert_eq!(ask(push).await, ok);
    assert_eq!(
        ask("push?store=one&remote=office&remote-store=there").await,
        forbidden
    );
    let vanished = format!("{push}&remove-vanished=1");
    assert_eq!(ask(&vanished).await, forbidden);
}
