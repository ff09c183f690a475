//! Tests of the command line.

mod coverage;

use clap::{CommandFactory as _, Parser as _};
use http::Method;
use rstest::rstest;

use super::*;

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[rstest]
#[case("setup --dir d --listen 127.0.0.1:8007 --output-format json", true)]
#[case("setup", false)]
#[case("setup --dir d --listen 8007", false)]
#[case("serve --config c", true)]
#[case("datastore create one --path /srv/one", true)]
#[case("datastore create one", false)]
#[case("datastore create one --path p --s3 main", false)]
#[case("datastore create one --path p --cache-dir c", false)]
#[case(
    "datastore create one --s3 m --bucket b --cache-dir c --cache-bytes-max 2GiB",
    true
)]
#[case("datastore create one --s3 m --bucket b", false)]
#[case("datastore create one --path p --take-over", false)]
#[case("datastore take-over one --previous-owner-is-dead", true)]
#[case("s3 add main --endpoint http://localhost:9000 --access-key k", true)]
#[case("s3 add main --endpoint http://localhost:9000", false)]
#[case(
    "s3 add main --endpoint http://localhost:9000 --credentials environment",
    true
)]
#[case("s3 add main --endpoint http://l --access-key k --secret-key s", false)]
#[case("s3 check one", true)]
#[case("s3 check --s3 main --bucket b", true)]
#[case("s3 check --s3 main", false)]
#[case("s3 check", false)]
#[case("user add a@pbs --no-password", true)]
#[case("user add a@pbs --password secret", false)]
#[case("user passwd a@pbs", true)]
#[case("token create a@pbs!ci", true)]
#[case("token create a@pbs", false)]
#[case("acl set /datastore/one a@pbs DatastoreBackup --no-propagate", true)]
#[case("acl set /nowhere a@pbs DatastoreBackup", false)]
#[case("acl set / a@pbs Emperor", false)]
#[case("acl remove / a@pbs!ci Admin", true)]
#[case("snapshot list", true)]
#[case("prune host/a --keep-last 1", true)]
#[case("prune --keep-last 1", false)]
#[case("prune --all-groups --max-depth 0 --keep-last 1", true)]
#[case("prune host/a --all-groups --keep-last 1", false)]
#[case("prune host/a --max-depth 0 --keep-last 1", false)]
#[case("prune host/a --detach --keep-last 1", false)]
#[case("prune --max-depth 0 --keep-last 1", false)]
fn commands(#[case] line: &str, #[case] valid: bool) {
    let words = std::iter::once("holdfast").chain(line.split(' '));
    let parsed = Cli::try_parse_from(words);
    assert_eq!(
        parsed.is_ok(),
        valid,
        "{:?}",
        parsed.err().map(|e| e.to_string())
    );
}

fn set_up(dir: &std::path::Path, more: &[&str]) -> anyhow::Result<setup::NewSetup> {
    let dir = dir.to_str().expect("UTF-8");
    let words = ["holdfast", "setup", "--dir", dir]
        .into_iter()
        .chain(more.iter().copied());
    let Command::Setup(args) = Cli::parse_from(words).command else {
        panic!("a set-up");
    };
    args.make(&pbs_datastore::Env::system())
}

#[test]
fn a_set_up_is_complete_private_and_made_once() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().expect("a temporary directory");
    let home = dir.path().join("new/home");
    let made = set_up(&home, &["--listen", "127.0.0.1:0"]).expect("made");
    assert_eq!(made.listen, ["127.0.0.1:0".parse().expect("an address")]);
    assert!(made.password.len() >= 20);
    for name in ["secrets.toml", "tls-key.pem"] {
        let mode = std::fs::metadata(home.join(name))
            .expect("there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let before = std::fs::read(home.join("secrets.toml")).expect("read");
    let again = set_up(&home, &[]).expect_err("refused").to_string();
    assert!(again.contains("is set up already"), "{again}");
    assert_eq!(
        std::fs::read(home.join("secrets.toml")).expect("read"),
        before
    );
}

#[test]
fn a_faulty_option_leaves_nothing_behind() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let error = set_up(dir.path(), &["--hostname", "no host"]).expect_err("refused");
    assert!(error.to_string().contains("hostname"), "{error}");
    assert!(!dir.path().join("secrets.toml").exists());
    set_up(dir.path(), &["--hostname", "host"]).expect("made");
}

/// Runs management calls on a set-up whose daemon is down.
#[tokio::test]
async fn management_works_while_the_daemon_is_down() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let home = dir.path().join("home");
    let made = set_up(&home, &["--listen", "127.0.0.1:0"]).expect("made");
    let link = Link::open(&made.config).await.expect("a link");
    let call =
        async |method: Method, path: &str, params: Value| link.call(method, path, params).await;
    call(
        Method::POST,
        "access/users",
        json!({ "userid": "a@pbs", "password": "longenough" }),
    )
    .await
    .expect("added");
    let short = json!({ "userid": "b@pbs", "password": "short" });
    call(Method::POST, "access/users", short)
        .await
        .expect_err("refused");
    let token = call(Method::POST, "access/users/a@pbs/token/ci", nothing())
        .await
        .expect("added");
    assert_eq!(token["tokenid"], "a@pbs!ci");
    assert_eq!(token["value"].as_str().map(str::len), Some(36));
    let right = json!({ "path": "/datastore/one", "auth-id": "a@pbs", "role": "DatastoreBackup" });
    call(Method::PUT, "access/acl", right).await.expect("given");
    let users = call(Method::GET, "access/users", nothing())
        .await
        .expect("listed");
    let names: Vec<&str> = rows_of(&users, "userid");
    assert_eq!(names, ["a@pbs", "root@pbs"]);

    let s3 = json!({ "id": "main", "endpoint": "nonsense", "access-key": "k", "secret-key": "s" });
    let error = call(Method::POST, "config/s3", s3)
        .await
        .expect_err("refused");
    assert!(error.to_string().contains("http://"), "{error}");
    let secrets = std::fs::read_to_string(home.join("secrets.toml")).expect("read");
    assert!(
        !secrets.contains("secret-key"),
        "a refused endpoint leaves no key"
    );

    let store = json!({ "name": "one", "backend": "filesystem", "path": dir.path().join("one") });
    call(Method::POST, "config/datastore", store.clone())
        .await
        .expect("added");
    call(Method::POST, "config/datastore", store)
        .await
        .expect_err("there already");
    let stores = call(Method::GET, "config/datastore", nothing())
        .await
        .expect("listed");
    assert_eq!(rows_of(&stores, "state"), ["open"]);
    let bad = json!({ "name": "two", "backend": "filesystem", "path": "/proc/nothing/here" });
    call(Method::POST, "config/datastore", bad)
        .await
        .expect_err("cannot be opened");
    let stores = call(Method::GET, "config/datastore", nothing())
        .await
        .expect("listed");
    assert_eq!(
        rows_of(&stores, "name"),
        ["one"],
        "what cannot be opened is not added"
    );
    call(Method::DELETE, "config/datastore/one", nothing())
        .await
        .expect("removed");
    let acl = call(Method::GET, "access/acl", nothing())
        .await
        .expect("listed");
    assert_eq!(
        rows_of(&acl, "path"),
        ["/"],
        "the rights went with the datastore"
    );
    link.close().await;
}

fn rows_of<'a>(data: &'a Value, member: &str) -> Vec<&'a str> {
    let rows = data.as_array().expect("a list").iter();
    rows.filter_map(|row| row[member].as_str()).collect()
}

#[test]
fn a_cause_is_told_once() {
    use anyhow::Context as _;
    let disk = || std::io::Error::other("no room");
    let plain = Err::<(), _>(disk()).context("cannot write 'a'");
    assert_eq!(told(&plain.expect_err("one")), "cannot write 'a': no room");
    let named = crate::config::ConfigError::File {
        what: "write",
        path: "a".into(),
        source: disk(),
    };
    assert_eq!(told(&named.into()), "cannot write 'a': no room");
}
