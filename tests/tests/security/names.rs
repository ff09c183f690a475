//! Names that lead elsewhere, in every place where a name is taken: refused with a plain sentence, and nothing is made
//! anywhere. The caller is the administrator, who may do everything else.

use anyhow::{Context as _, Result, ensure};
use holdfast_tests::attack::http1::Connection;
use holdfast_tests::attack::http2::Session;
use holdfast_tests::process::say;

use super::accounts::{ADMIN, HONEST, STORE};
use super::world::World;

/// Names as they stand in a URL. None of them is one.
const NAMES: [&str; 33] = [
    "..",
    ".",
    "%2e%2e",
    "%2E.",
    "%252e%252e",
    "../../etc/passwd",
    "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "..%2f..%2f..%2f",
    "a%2f..%2f..%2fb",
    "%2fetc%2fpasswd",
    "..%5c..%5cetc",
    "a%5cb",
    "%00",
    "a%00b",
    "a%00.didx",
    "a%0a",
    "a%0d%0ab",
    "a%1b%5b2J",
    "a%7f",
    ".hidden",
    "-rf",
    "%20",
    "a%20b",
    "a%09b",
    "%ff%fe",
    "%c0%ae%c0%ae",
    "%ed%a0%80",
    "%c3%a9",
    "%e2%80%ae",
    "%ef%bc%8e%ef%bc%8e",
    "%24(id)",
    "$OVERLONG",
    "$LONGEST",
];

/// Calls with a name somewhere, `$N`.
const CALLS: [(&str, &str); 39] = [
    ("GET", "admin/datastore/$N/status"),
    ("GET", "admin/datastore/$N/groups"),
    ("POST", "admin/datastore/$N/gc"),
    ("POST", "admin/datastore/$N/take-over"),
    ("PUT", "admin/datastore/$N/s3-check"),
    ("GET", "admin/datastore/vault/groups?ns=$N"),
    ("GET", "admin/datastore/vault/groups?ns=a/$N"),
    ("GET", "admin/datastore/vault/snapshots?backup-id=$N"),
    ("GET", "admin/datastore/vault/snapshots?backup-type=$N"),
    (
        "DELETE",
        "admin/datastore/vault/groups?backup-type=host&backup-id=$N",
    ),
    (
        "DELETE",
        "admin/datastore/vault/groups?backup-type=$N&backup-id=a",
    ),
    (
        "DELETE",
        "admin/datastore/vault/groups?ns=$N&backup-type=host&backup-id=a",
    ),
    (
        "PUT",
        "admin/datastore/vault/group-notes?backup-type=host&backup-id=$N&notes=x",
    ),
    (
        "POST",
        "admin/datastore/vault/prune?backup-type=host&backup-id=$N&keep-last=1",
    ),
    (
        "POST",
        "admin/datastore/vault/change-owner?backup-type=host&backup-id=$N&new-owner=root@pbs",
    ),
    (
        "POST",
        "admin/datastore/vault/change-owner?backup-type=host&backup-id=a&new-owner=$N",
    ),
    (
        "DELETE",
        "admin/datastore/vault/snapshots?backup-type=host&backup-id=$N&backup-time=1",
    ),
    (
        "DELETE",
        "admin/datastore/vault/snapshots?backup-type=host&backup-id=a&backup-time=$N",
    ),
    (
        "GET",
        "admin/datastore/vault/files?backup-type=host&backup-id=$N&backup-time=1",
    ),
    (
        "GET",
        "admin/datastore/vault/download?backup-type=host&backup-id=a&backup-time=1&file-name=$N",
    ),
    (
        "GET",
        "admin/datastore/vault/download-decoded?backup-type=host&backup-id=a&backup-time=1&file-name=$N",
    ),
    (
        "GET",
        "admin/datastore/vault/catalog?backup-type=host&backup-id=a&backup-time=1&filepath=$N",
    ),
    (
        "POST",
        "admin/datastore/vault/upload-backup-log?backup-type=host&backup-id=$N&backup-time=1",
    ),
    ("POST", "admin/datastore/vault/namespace?name=$N"),
    ("POST", "admin/datastore/vault/namespace?name=x&parent=$N"),
    (
        "DELETE",
        "admin/datastore/vault/namespace?ns=$N&delete-groups=1",
    ),
    ("DELETE", "admin/datastore/vault/sessions/$N"),
    ("GET", "config/datastore/$N"),
    ("DELETE", "config/datastore/$N"),
    (
        "POST",
        "config/datastore?name=$N&backend=filesystem&path=/nowhere",
    ),
    ("GET", "config/s3/$N"),
    ("DELETE", "config/s3/$N"),
    ("POST", "config/s3?id=$N&endpoint=http://127.0.0.1:9"),
    ("POST", "access/users?userid=$N"),
    ("DELETE", "access/users/$N"),
    ("POST", "access/users/root@pbs/token/$N"),
    ("PUT", "access/acl?path=/&auth-id=$N&role=Admin"),
    ("PUT", "access/acl?path=/&auth-id=root@pbs&role=$N"),
    ("GET", "nodes/localhost/tasks/$N/log"),
];

/// Upgrades with a name somewhere.
const UPGRADES: [&str; 5] = [
    "store=$N&backup-type=host&backup-id=a&backup-time=1900000000",
    "store=vault&ns=$N&backup-type=host&backup-id=a&backup-time=1900000000",
    "store=vault&backup-type=$N&backup-id=a&backup-time=1900000000",
    "store=vault&backup-type=host&backup-id=$N&backup-time=1900000000",
    "store=vault&backup-type=host&backup-id=a&backup-time=$N",
];

/// Calls within a backup.
const IN_A_BACKUP: [(&str, &str); 10] = [
    ("POST", "/dynamic_index?archive-name=$N"),
    ("POST", "/dynamic_index?archive-name=$N.didx"),
    ("POST", "/fixed_index?archive-name=$N.fidx&size=1"),
    ("POST", "/fixed_index?archive-name=a/$N.fidx&size=1"),
    ("POST", "/blob?file-name=$N.blob&encoded-size=13"),
    ("GET", "/previous?archive-name=$N.blob"),
    (
        "POST",
        "/dynamic_chunk?wid=1&digest=$N&size=1&encoded-size=13",
    ),
    (
        "POST",
        "/dynamic_chunk?wid=$N&digest=00&size=1&encoded-size=13",
    ),
    ("POST", "/dynamic_close?wid=1&chunk-count=1&size=1&csum=$N"),
    ("POST", "/$N"),
];

/// Calls within a reader's session.
const IN_A_READER: [(&str, &str); 5] = [
    ("GET", "/download?file-name=$N"),
    ("GET", "/download?file-name=$N.blob"),
    ("GET", "/download?file-name=a/$N.fidx"),
    ("GET", "/chunk?digest=$N"),
    ("GET", "/$N/$N"),
];

fn filled(template: &str, name: &str) -> String {
    let name = name
        .replace("$OVERLONG", &"a".repeat(300))
        .replace("$LONGEST", &"a".repeat(2500));
    template.replace("$N", &name)
}

/// A refusal of a name: the client's fault, and one plain sentence that repeats nothing that a terminal would obey.
fn check(what: &str, status: u16, text: &str) -> Result<()> {
    ensure!(
        (400..500).contains(&status),
        "{what} is answered with {status}: {text:?}"
    );
    ensure!(
        !text.contains(char::is_control) && text.len() < 4000 && !text.contains("/tmp/"),
        "{what} is refused with {text:?}"
    );
    Ok(())
}

/// Every file and directory of the daemon and beside it, task logs apart.
fn tree(world: &World) -> Result<Vec<String>> {
    let mut tree = Vec::new();
    for entry in walkdir::WalkDir::new(world.daemon.dir()).sort_by_file_name() {
        let entry = entry?;
        let path = entry.path().display().to_string();
        if !path.contains("/daemon/tasks") && !path.contains("/.holdfast/") {
            tree.push(path);
        }
    }
    for entry in std::fs::read_dir(std::env::temp_dir())? {
        let name = entry?.file_name().display().to_string();
        if ["escape", "passwd", "hidden", "a"]
            .iter()
            .any(|part| name == *part)
        {
            tree.push(name);
        }
    }
    Ok(tree)
}

async fn over_rest(world: &World) -> Result<usize> {
    let mut made = 0;
    let mut connection = Connection::open(&world.peer).await?;
    for name in NAMES {
        for (method, template) in CALLS {
            let target = filled(template, name);
            let mut request = World::request(ADMIN, method, &target);
            // A path of nothing but dots is another path.
            request.target = format!("/api2/json/{target}");
            let answer = connection.ask(&request).await;
            let answer = answer.with_context(|| format!("{method} {target}"))?;
            check(&format!("{method} {target}"), answer.status, &answer.text())?;
            made += 1;
        }
        for template in UPGRADES {
            for protocol in ["backup", "reader"] {
                let query = filled(template, name);
                match world.upgrade(ADMIN, protocol, &query).await? {
                    Ok(_) => anyhow::bail!("{protocol}?{query} is admitted"),
                    Err(answer) => check(&query, answer.status, &answer.text())?,
                }
                made += 1;
            }
        }
    }
    Ok(made)
}

/// Names within JSON, where every character can stand.
async fn in_json(world: &World) -> Result<usize> {
    let names = [
        "..",
        "../x",
        "a/b",
        "a\\u0000b",
        "a\\nb",
        "a\\u001b[2J",
        "\\ud800",
        "\\u202e",
        "",
    ];
    let mut made = 0;
    for name in names {
        for (method, path, template) in [
            (
                "POST",
                "admin/datastore/vault/namespace",
                "{\"name\":\"$N\"}",
            ),
            ("POST", "access/users", "{\"userid\":\"$N\"}"),
            (
                "POST",
                "config/datastore",
                "{\"name\":\"$N\",\"backend\":\"filesystem\",\"path\":\"/nowhere\"}",
            ),
            (
                "DELETE",
                "admin/datastore/vault/groups",
                "{\"backup-type\":\"host\",\"backup-id\":\"$N\"}",
            ),
            (
                "POST",
                "access/users",
                "{\"userid\":\"new@pbs\",\"$N\":\"x\"}",
            ),
            (
                "PUT",
                "access/acl",
                "{\"path\":\"/$N\",\"auth-id\":\"x\",\"role\":\"Admin\"}",
            ),
        ] {
            let body = template.replace("$N", name);
            let request = World::request(ADMIN, method, path)
                .with("Content-Type", "application/json")
                .body(body.clone());
            let answer = Connection::open(&world.peer).await?.ask(&request).await?;
            check(&format!("{path} {body}"), answer.status, &answer.text())?;
            made += 1;
        }
    }
    Ok(made)
}

async fn in_sessions(world: &World) -> Result<usize> {
    let mut made = 0;
    let mut writing = world.backup_session(HONEST, "names").await?;
    let connection = world.reader_connection(HONEST, "read").await?;
    let mut reading = Session::begin_with_room(connection).await?;
    for name in NAMES {
        for (calls, session) in [
            (&IN_A_BACKUP[..], &mut writing),
            (&IN_A_READER[..], &mut reading),
        ] {
            for (method, template) in calls {
                let target = filled(template, name);
                let body: &[u8] = if target.contains("encoded-size") {
                    b"0123456789abc"
                } else {
                    b""
                };
                let answer = session.call(method, &target, body).await;
                let answer = answer.with_context(|| format!("{method} {target}"))?;
                check(&format!("{method} {target}"), answer.status, &answer.text())?;
                made += 1;
            }
        }
    }
    Ok(made)
}

#[test]
fn names_that_lead_elsewhere_lead_nowhere() -> Result<()> {
    let world = World::new()?;
    world.explain(|| {
        world.back_up(HONEST, "read", "")?;
        let made = world.runtime.block_on(in_sessions(&world))?;
        // What the sessions had open goes with them.
        let none = || {
            let sessions = world.admin("GET", &format!("admin/datastore/{STORE}/sessions"));
            let none = sessions.is_ok_and(|list| list.as_array().is_some_and(Vec::is_empty));
            none.then_some(())
        };
        let ended = holdfast_tests::process::wait_for(super::world::SETTLE_MAX, none);
        ended.context("the sessions go on")?;
        let before = tree(&world)?;
        let made = made + world.runtime.block_on(over_rest(&world))?;
        let made = made + world.runtime.block_on(in_json(&world))?;
        let after = tree(&world)?;
        ensure!(before == after, "something was made or removed: {after:?}");
        let log = world.daemon.log();
        ensure!(!log.contains("panicked"), "the daemon panicked");
        say(&format!(
            "security: {} odd names, {made} calls with one of them, all refused; no file was made",
            NAMES.len()
        ));
        Ok(())
    });
    world.daemon.stop()
}
