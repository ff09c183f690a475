//! Tests of who is told what, with a web server and a mail server of their own on the loopback.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::http::{HeaderMap, StatusCode as Status};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::*;
use crate::auth::AuthId;
use crate::notify::run_notifier;

/// How long a message is waited for.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// What was posted: the body, and what the header said.
type Posted = (String, Option<String>);

/// A web server that answers each post with the next of `answers`, and then with 200.
async fn webhook(fixture: &Fixture, answers: &[u16]) -> (String, mpsc::UnboundedReceiver<Posted>) {
    let answers: Vec<u16> = answers.iter().rev().copied().collect();
    let answers = Arc::new(Mutex::new(answers));
    let (sender, receiver) = mpsc::unbounded_channel();
    let hook = async move |headers: HeaderMap, body: String| {
        let secret = headers.get("authorization");
        let secret = secret.map(|value| value.to_str().expect("a text").to_owned());
        sender.send((body, secret)).expect("somebody waits");
        let status = answers.lock().expect("not poisoned").pop().unwrap_or(200);
        (Status::from_u16(status).expect("a status"), "as you say")
    };
    let app = axum::Router::new().route("/hook", axum::routing::post(hook));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let serve = async move { axum::serve(listener, app).await };
    drop(fixture.daemon.env.spawn(serve));
    (format!("http://{address}/hook"), receiver)
}

/// A mail server that accepts one mail after the other; what it is told, line by line.
async fn mail_server(fixture: &Fixture) -> (String, mpsc::UnboundedReceiver<Vec<String>>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let serve = async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (read, mut write) = stream.into_split();
            let mut lines = BufReader::new(read).lines();
            let (mut said, mut in_data) = (Vec::new(), false);
            write.write_all(b"220 here\r\n").await.expect("written");
            while let Ok(Some(line)) = lines.next_line().await {
                let answer = match &*line {
                    "." if in_data => "250 taken\r\n",
                    _ if in_data => "",
                    "DATA" => "354 go on\r\n",
                    "QUIT" => "221 bye\r\n",
                    line if line.starts_with("EHLO") => "250-here\r\n250 AUTH PLAIN\r\n",
                    line if line.starts_with("AUTH") => "235 come in\r\n",
                    _ => "250 well\r\n",
                };
                in_data = (in_data || line == "DATA") && line != ".";
                let ended = line == ".";
                said.push(line);
                write.write_all(answer.as_bytes()).await.expect("written");
                if ended {
                    sender
                        .send(std::mem::take(&mut said))
                        .expect("somebody waits");
                }
            }
        }
    };
    drop(fixture.daemon.env.spawn(serve));
    (format!("smtp+plain://{address}"), receiver)
}

async fn next<T>(receiver: &mut mpsc::UnboundedReceiver<T>) -> T {
    let next = tokio::time::timeout(WAIT_MAX, receiver.recv()).await;
    next.expect("in time").expect("something")
}

impl Fixture {
    /// Begins to tell of what ends from now on.
    async fn tell(&self) {
        let run = run_notifier(self.daemon.clone());
        drop(self.daemon.env.spawn(run));
        tokio::task::yield_now().await;
    }

    /// Ends a task with this result, and waits until it is recorded.
    async fn end_task(&self, kind: &str, store: &str, result: Result<(), &str>) {
        let start = crate::tasks::TaskStart {
            kind,
            worker_id: store,
            user: AuthId::root(),
            store: Some(store),
        };
        let task = self.daemon.tasks.start(&start).expect("started");
        task.log("the last line");
        task.finish(result.map_err(str::to_owned)).await;
    }
}

#[tokio::test]
async fn whoever_wants_it_is_told_how_a_task_ended() {
    let fixture = Fixture::new().await;
    let (url, mut posted) = webhook(&fixture, &[]).await;
    let all = "config/notify";
    let hook = json!({"name": "hook", "url": url, "secret": "Bearer hush", "store": ["one"]});
    fixture.done(Method::POST, all, hook).await;
    let (quiet_url, mut quiet) = webhook(&fixture, &[]).await;
    let quiet_hook = json!({"name": "quiet", "url": quiet_url, "level": "error", "tasks": ["syncjob"], "store": ["three"]});
    fixture.done(Method::POST, all, quiet_hook).await;
    fixture.tell().await;

    // Nobody asked for what is well, nor for backups.
    fixture.end_task("prune", "one", Ok(())).await;
    fixture.end_task("backup", "one", Err("cut")).await;
    fixture
        .end_task("garbage_collection", "one", Err("the bucket is gone"))
        .await;
    let (body, secret) = next(&mut posted).await;
    assert_eq!(secret.as_deref(), Some("Bearer hush"));
    let body: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(body["title"], "Garbage collection one failed");
    assert_eq!(body["severity"], "error");
    assert_eq!(body["store"], "one");
    assert_eq!(body["task"]["status"], "the bucket is gone");
    let log = body["log"].as_array().expect("lines");
    let mut log = log.iter().filter_map(Value::as_str);
    assert!(log.any(|line| line.contains("the last line")), "{body}");

    // A template, and another level.
    let change = json!({"level": "info", "body": "{{ task.kind }} took {{ task.seconds }} s", "secret": "Bearer hush"});
    fixture
        .done(Method::PUT, "config/notify/hook", change)
        .await;
    fixture.end_task("prune", "one", Ok(())).await;
    let (body, _) = next(&mut posted).await;
    assert!(body.starts_with("prune took "), "{body}");

    fixture.end_task("syncjob", "three", Err("no line")).await;
    let (body, secret) = next(&mut quiet).await;
    assert_eq!(secret, None);
    assert!(body.contains("no line"), "{body}");
    assert!(posted.try_recv().is_err() && quiet.try_recv().is_err());
}

#[tokio::test]
async fn a_refusal_is_final_and_what_may_pass_is_tried_again() {
    let fixture = Fixture::new().await;
    let (url, mut posted) = webhook(&fixture, &[503, 200, 400]).await;
    let hook = json!({"name": "hook", "url": url, "store": ["one"]});
    fixture.done(Method::POST, "config/notify", hook).await;
    fixture.tell().await;
    fixture.end_task("prune", "one", Err("first")).await;
    let (first, _) = next(&mut posted).await;
    let (again, _) = next(&mut posted).await;
    assert_eq!(first, again, "with the same id");
    fixture.end_task("prune", "one", Err("second")).await;
    next(&mut posted).await;
    // A test says what was answered.
    let (_, body) = fixture
        .own(Method::POST, "config/notify/hook/test", json!({}))
        .await;
    assert!(!body.is_string(), "{body}");
    let (title, _) = next(&mut posted).await;
    assert!(title.contains("This is a test"), "{title}");
    let (url, _posted) = webhook(&fixture, &[403]).await;
    let change = json!({"url": url});
    fixture
        .done(Method::PUT, "config/notify/hook", change)
        .await;
    let test = "config/notify/hook/test";
    fixture
        .refused(Method::POST, test, json!({}), "403 Forbidden: as you say")
        .await;
    let nothing = json!({"url": "http://127.0.0.1:1/"});
    fixture
        .done(Method::PUT, "config/notify/hook", nothing)
        .await;
    fixture
        .refused(Method::POST, test, json!({}), "refused")
        .await;
}

#[tokio::test]
async fn a_mail_is_sent_to_all_recipients() {
    let fixture = Fixture::new().await;
    let (url, mut mails) = mail_server(&fixture).await;
    let mail = json!({
        "name": "mail", "url": url, "user": "robot", "secret": "hush", "from": "Backups <robot@example.org>",
        "to": ["one@example.org", "two@example.org"], "store": ["one"],
    });
    fixture.done(Method::POST, "config/notify", mail).await;
    fixture.tell().await;
    fixture
        .end_task("verificationjob", "one", Err("two snapshots failed"))
        .await;
    let said = next(&mut mails).await;
    let second = next(&mut mails).await;
    assert!(
        second
            .iter()
            .any(|line| line == "RCPT TO:<two@example.org>"),
        "{second:#?}"
    );
    for line in [
        "AUTH PLAIN AHJvYm90AGh1c2g=",
        "MAIL FROM:<robot@example.org>",
        "RCPT TO:<one@example.org>",
        "Verification one failed",
        "Result:     two snapshots failed",
    ] {
        assert!(
            said.iter().any(|said| said.starts_with(line)),
            "{line}: {said:#?}"
        );
    }
    let subject = said.iter().find(|line| line.starts_with("Subject: "));
    assert!(
        subject.is_some_and(|line| line.contains("Verification one failed")),
        "{said:#?}"
    );
    let ids = said.iter().filter(|line| line.starts_with("Message-ID: <"));
    assert_eq!(ids.count(), 1);
}

#[tokio::test]
async fn settings_are_checked_and_secrets_stay() {
    let fixture = Fixture::new().await;
    let all = "config/notify";
    for (more, why) in [
        (json!({}), "notify.hook.url: is required"),
        (json!({"url": "ftp://a.b"}), "must be a URL"),
        (json!({"url": "https://"}), "must be a URL"),
        (json!({"url": "https://a:b@c.d/"}), "must not hold"),
        (
            json!({"url": "https://a.b/", "to": ["a@b.c"]}),
            "belongs to mail",
        ),
        (json!({"url": "smtp://a.b"}), "from"),
        (
            json!({"url": "smtp://a.b/x", "from": "a@b.c", "to": ["a@b.c"]}),
            "must end after",
        ),
        (
            json!({"url": "smtp://a.b", "from": "a@b.c"}),
            "1 to 32 mail addresses",
        ),
        (
            json!({"url": "smtp://a.b", "from": "nobody", "to": ["a@b.c"]}),
            "is no mail address",
        ),
        (
            json!({"url": "https://a.b/", "body": "{% if %}"}),
            "is no template",
        ),
        (json!({"url": "https://a.b/", "level": "loud"}), "level"),
        (
            json!({"url": "https://a.b/", "secret": ""}),
            "1 to 4096 bytes",
        ),
    ] {
        let mut body = more;
        body["name"] = json!("hook");
        fixture.refused(Method::POST, all, body, why).await;
    }
    let hook = json!({"name": "hook", "url": "https://a.b/x", "secret": "hush"});
    fixture.done(Method::POST, all, hook).await;
    let shown = fixture
        .done(Method::GET, "config/notify/hook", json!({}))
        .await;
    assert_eq!(
        shown["data"],
        json!({"name": "hook", "url": "https://a.b/x", "level": "warning", "secret": true})
    );
    let elsewhere = json!({"url": "https://evil.example/"});
    let why = "'secret' is missing";
    fixture
        .refused(Method::PUT, "config/notify/hook", elsewhere, why)
        .await;
    fixture
        .done(Method::DELETE, "config/notify/hook", json!({}))
        .await;
    assert!(fixture.daemon.secrets.read().notify.is_empty());
    let list = fixture.done(Method::GET, all, json!({})).await;
    assert_eq!(list["data"], json!([]));
}

#[tokio::test]
async fn half_of_a_login_at_a_mail_server_is_refused() {
    let fixture = Fixture::new().await;
    let mail = |more: Value| {
        let mut mail = json!({"name": "mail", "url": "smtps://mail.example", "from": "a@b.example", "to": ["c@d.example"]});
        for (name, value) in more.as_object().expect("members") {
            mail[name] = value.clone();
        }
        mail
    };
    let (all, one) = ("config/notify", "config/notify/mail");
    let no_secret = "'user' needs a secret";
    let no_user = "a secret for mail needs 'user'";
    for (more, why) in [
        (json!({"user": "robot"}), no_secret),
        (json!({"secret": "hush"}), no_user),
    ] {
        fixture.refused(Method::POST, all, mail(more), why).await;
    }
    fixture.done(Method::POST, all, mail(json!({}))).await;
    for (change, why) in [
        (json!({"user": "robot"}), no_secret),
        (json!({"secret": "hush"}), no_user),
    ] {
        fixture.refused(Method::PUT, one, change, why).await;
    }
    let both = json!({"user": "robot", "secret": "hush"});
    fixture.done(Method::PUT, one, both).await;
    let no_more = json!({"delete": ["user"], "secret": "hush"});
    fixture.refused(Method::PUT, one, no_more, no_user).await;
    // Without the user its secret goes, too.
    let no_more = json!({"delete": ["user"]});
    fixture.done(Method::PUT, one, no_more).await;
    assert!(fixture.daemon.secrets.read().notify.is_empty());
}

#[tokio::test]
async fn a_template_that_goes_wrong_or_on_and_on_is_refused() {
    let fixture = Fixture::new().await;
    let (url, _posted) = webhook(&fixture, &[]).await;
    let hook = json!({"name": "hook", "url": url});
    fixture.done(Method::POST, "config/notify", hook).await;
    // What is wrong only when it is filled in is shown by the test.
    let test = "config/notify/hook/test";
    let body = json!({"body": "{{ nothing }}"});
    fixture.done(Method::PUT, "config/notify/hook", body).await;
    let why = "the template: undefined";
    fixture.refused(Method::POST, test, json!({}), why).await;
    for body in [
        "{% set a = 'x' %}{{ a }}",
        "{{ 'x' * 100000000 }}",
        "{{- title ~ title }}",
        "{%- macro a() %}{% endmacro %}",
        "{% filter tojson %}x{% endfilter %}",
        "{{ range(99) }}{%",
    ] {
        let (status, text) = fixture
            .own(Method::PUT, "config/notify/hook", json!({"body": body}))
            .await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{body}: {text}");
    }
    let (open, close) = ("{% for a in log[0] %}".repeat(5), "{% endfor %}".repeat(5));
    let endless = format!("{open}{{{{ log }}}}{close}");
    fixture
        .done(Method::PUT, "config/notify/hook", json!({"body": endless}))
        .await;
    fixture
        .refused(Method::POST, test, json!({}), "the template: ")
        .await;
}

#[tokio::test]
async fn an_event_is_told_whatever_its_template_is() {
    let fixture = Fixture::new().await;
    let (url, mut posted) = webhook(&fixture, &[]).await;
    let body = "{{ task.status.no.such }}{{ log[0][0][0] }}{{ 1 / 0 }}";
    let hook = json!({"name": "hook", "url": url, "body": body, "store": ["one"]});
    fixture.done(Method::POST, "config/notify", hook).await;
    fixture.tell().await;
    fixture.end_task("prune", "one", Err("why")).await;
    let (body, _) = next(&mut posted).await;
    let body: Value = serde_json::from_str(&body).expect("all there is");
    assert_eq!(body["task"]["status"], "why");
}

#[tokio::test]
async fn a_secret_is_not_used_with_settings_of_others() {
    let fixture = Fixture::new().await;
    let all = "config/notify";
    let hook = |url: &str, secret: Option<&str>| match secret {
        Some(secret) => json!({"name": "hook", "url": url, "secret": secret}),
        None => json!({"name": "hook", "url": url}),
    };
    let secret = || {
        fixture
            .daemon
            .secrets
            .read()
            .notify
            .get("hook")
            .map(|s| s.reveal().to_owned())
    };
    fixture
        .done(Method::POST, all, hook("https://a.b/", Some("one")))
        .await;
    // Neither a second one of the name, nor a change that is refused, takes it away.
    fixture
        .refused(
            Method::POST,
            all,
            hook("https://c.d/", Some("two")),
            "exists already",
        )
        .await;
    let bad = json!({"url": "ftp://c.d", "secret": "two"});
    fixture
        .refused(Method::PUT, "config/notify/hook", bad, "must be a URL")
        .await;
    assert_eq!(secret().as_deref(), Some("one"));
    // One that is left of an element that is gone is not its successor's.
    let config = fixture.daemon.config.clone();
    config
        .edit(None, |document| {
            crate::config::remove(document, "notify", "hook");
            Ok(())
        })
        .expect("removed");
    fixture
        .done(Method::POST, all, hook("https://c.d/", None))
        .await;
    assert_eq!(secret(), None);
}

#[tokio::test]
async fn a_locked_account_is_told_once() {
    let fixture = Fixture::new().await;
    let (url, mut posted) = webhook(&fixture, &[]).await;
    let hook = json!({"name": "hook", "url": url});
    fixture.done(Method::POST, "config/notify", hook).await;
    fixture.lock_out("backup@pbs").await;
    fixture.tell().await;
    // A second datastore of the fixture cannot be used, which is told first.
    let (body, _) = next(&mut posted).await;
    let (other, _) = next(&mut posted).await;
    let locked: Vec<&String> = [&body, &other]
        .into_iter()
        .filter(|body| body.contains("The account backup@pbs is locked"))
        .collect();
    assert_eq!(locked.len(), 1, "{body} {other}");
    assert!(locked[0].contains("\"severity\":\"warning\""), "{locked:?}");
}
