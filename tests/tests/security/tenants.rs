//! Two users with the same rights on one datastore: neither sees, reads, changes or deletes what is the other's, and
//! neither learns what there is. The same for two tokens of one user.

use anyhow::{Result, ensure};
use futures_util::future::{try_join, try_join_all};
use holdfast_tests::attack::http2::Session;
use holdfast_tests::content;
use holdfast_tests::process::say;
use serde_json::{Value, json};

use super::accounts::{ADMIN, RIVAL, STORE};
use super::world::World;

/// Owns the group `host/hers`, in the root and in the namespace `deep`.
const OWNER_TOKEN: &str = "owner@pbs!t";
/// A token of the same user.
const SIBLING: &str = "owner@pbs!second";
const GROUP: &str = "backup-type=host&backup-id=hers";

/// An attempt on a group: method, call, further parameters, the status it must get.
type Attempt = (&'static str, &'static str, &'static str, u16);

const ON_A_GROUP: [Attempt; 6] = [
    ("DELETE", "groups", "", 403),
    ("GET", "group-notes", "", 403),
    ("PUT", "group-notes", "&notes=mine", 403),
    ("POST", "prune", "&keep-last=1", 403),
    ("POST", "prune", "&keep-last=1&dry-run=1", 403),
    ("POST", "change-owner", "&new-owner=$SELF", 401),
];

const ON_A_SNAPSHOT: [Attempt; 10] = [
    ("DELETE", "snapshots", "", 403),
    ("GET", "files", "", 403),
    ("GET", "download", "&file-name=index.json.blob", 403),
    ("GET", "download-decoded", "&file-name=index.json.blob", 403),
    ("GET", "catalog", "&filepath=root", 403),
    ("GET", "notes", "", 403),
    ("PUT", "notes", "&notes=mine", 403),
    ("GET", "protected", "", 403),
    ("PUT", "protected", "&protected=1", 403),
    ("POST", "upload-backup-log", "", 403),
];

fn fill(world: &World) -> Result<()> {
    world.admin(
        "POST",
        &format!("admin/datastore/{STORE}/namespace?name=deep"),
    )?;
    world.back_up(OWNER_TOKEN, "hers", "")?;
    world.back_up(OWNER_TOKEN, "hers", "deep")?;
    world.back_up(RIVAL, "his", "")
}

/// What there is of the owner's.
fn seen_by_administrator(world: &World) -> Result<Vec<Value>> {
    let mut seen = Vec::new();
    for namespace in ["", "deep"] {
        for what in ["groups", "snapshots"] {
            let path = format!("admin/datastore/{STORE}/{what}?ns={namespace}");
            let mut list = world.admin("GET", &path)?;
            if let Some(list) = list.as_array_mut() {
                list.retain(|entry| entry["backup-id"] == "hers");
            }
            seen.push(list);
        }
    }
    Ok(seen)
}

/// Tries everything on a group and a snapshot of another, and on ones that do not exist: what is told must be the same.
async fn attempts(world: &World, who: &str, namespace: &str) -> Result<usize> {
    let time = world.snapshot_time("hers").await?;
    let all = ON_A_GROUP.iter().map(|attempt| (attempt, String::new()));
    let on_snapshots = ON_A_SNAPSHOT.iter();
    let all = all.chain(on_snapshots.map(|attempt| (attempt, format!("&backup-time={time}"))));
    // Each refusal is held back, so they are made at once.
    let made = all.map(|((method, call, more, status), time)| async move {
        let more = more.replace("$SELF", who);
        let path = format!("admin/datastore/{STORE}/{call}?ns={namespace}&{GROUP}{time}{more}");
        let absent = path.replace("hers", "none");
        let existing = world.call(who, method, &path);
        let (existing, missing) = try_join(existing, world.call(who, method, &absent)).await?;
        let told = format!(
            "{who}: {method} {path}: {} {} / {} {}",
            existing.status,
            existing.text(),
            missing.status,
            missing.text()
        );
        ensure!(
            existing.status == *status && missing.status == *status,
            "{told}"
        );
        ensure!(
            existing.text() == missing.text().replace("none", "hers"),
            "{told}"
        );
        ensure!(!existing.text().contains(OWNER_TOKEN), "{told}");
        anyhow::Ok(2)
    });
    Ok(try_join_all(made).await?.into_iter().sum())
}

/// Lists show nothing of another's.
async fn lists(world: &World, who: &str) -> Result<usize> {
    let paths = [
        format!("admin/datastore/{STORE}/groups"),
        format!("admin/datastore/{STORE}/snapshots"),
        format!("admin/datastore/{STORE}/snapshots?backup-type=host&backup-id=hers"),
        format!("admin/datastore/{STORE}/namespace"),
        "nodes/localhost/tasks?limit=0".to_owned(),
        "access/acl".to_owned(),
        "access/users?include_tokens=1".to_owned(),
    ];
    for path in &paths {
        let answer = world.call(who, "GET", path).await?;
        let text = answer.text();
        ensure!(
            answer.status == 200,
            "{who}: {path}: {} {text}",
            answer.status
        );
        let user = OWNER_TOKEN.split('!').next().unwrap_or_default();
        let told = text.contains("hers") || (!who.starts_with(user) && text.contains(user));
        ensure!(!told, "{who}: {path}: {text}");
    }
    Ok(paths.len())
}

/// Sessions of both protocols on another's group.
async fn sessions(world: &World, who: &str) -> Result<usize> {
    let time = world.snapshot_time("hers").await?;
    let base = format!("store={STORE}&{GROUP}");
    let cases = [
        ("reader", format!("{base}&backup-time={time}"), 400),
        ("backup", format!("{base}&backup-time={}", time + 1000), 400),
        ("backup", format!("{base}&backup-time={time}"), 400),
    ];
    for (protocol, query, status) in &cases {
        match world.upgrade(who, protocol, query).await? {
            Ok(_) => anyhow::bail!("{who} got a {protocol} session on another's group"),
            Err(answer) => {
                ensure!(
                    answer.status == *status,
                    "{} {}",
                    answer.status,
                    answer.text()
                );
            }
        }
    }
    // Readers are told the same of a group that does not exist.
    let told = |query: String| async move {
        let refused = world.upgrade(who, "reader", &query).await?;
        anyhow::Ok(refused.err().map(|answer| answer.text()))
    };
    let existing = told(format!("{base}&backup-time={time}")).await?;
    let missing = told(format!("{base}&backup-time={time}").replace("hers", "none")).await?;
    let as_if = missing.clone().map(|text| text.replace("none", "hers"));
    ensure!(existing == as_if, "{existing:?} is not {missing:?}");
    Ok(cases.len() + 2)
}

/// Chunks of another, asked for or named in sessions of the own.
async fn chunks(world: &World) -> Result<usize> {
    // A chunk that only the owner has.
    let secret = b"only hers".as_slice();
    let (digest, body) = super::bombs::plain_chunk(secret);
    let mut hers = world.backup_session(OWNER_TOKEN, "chunks").await?;
    let wid = hers
        .call("POST", "/dynamic_index?archive-name=a.didx", b"")
        .await?;
    ensure!(wid.status == 200, "{}", wid.text());
    let target = super::bombs::chunk_target(1, &digest, secret.len(), body.len());
    let uploaded = hers.call("POST", &target, &body).await?;
    ensure!(uploaded.status == 200, "{}", uploaded.text());

    let reading = world.reader_connection(RIVAL, "his").await?;
    let mut reading = Session::begin_with_room(reading).await?;
    let target = format!("/chunk?digest={digest}");
    let refused = reading.call("GET", &target, b"").await?;
    ensure!(
        refused.status == 401,
        "{} {}",
        refused.status,
        refused.text()
    );
    let unknown = format!("/chunk?digest={}", digest.chars().rev().collect::<String>());
    let missing = reading.call("GET", &unknown, b"").await?;
    let as_if = missing.text().replace(&unknown[14..], &digest);
    ensure!(
        missing.status == 401 && as_if == refused.text(),
        "{missing:?}"
    );
    // Credentials within a session are nobody's.
    let (name, value) = super::accounts::token_header(ADMIN, &super::accounts::secret_of(ADMIN));
    let name = name.to_lowercase();
    let headers = [(name.as_str(), value.as_str())];
    let stream = reading.open_with("GET", &target, &headers, true).await?;
    let refused = reading.answer(stream).await?;
    ensure!(
        refused.status == 401,
        "{} {}",
        refused.status,
        refused.text()
    );

    let mut his = world.backup_session(RIVAL, "thief").await?;
    let wid = his
        .call("POST", "/dynamic_index?archive-name=a.didx", b"")
        .await?;
    ensure!(wid.status == 200, "{}", wid.text());
    let body = json!({ "wid": 1, "digest-list": [digest], "offset-list": [0] }).to_string();
    let headers = [("content-type", "application/json")];
    let stream = his
        .open_with("PUT", "/dynamic_index", &headers, false)
        .await?;
    his.data(stream, body.as_bytes(), true).await?;
    let refused = his.answer(stream).await?;
    ensure!(
        refused.status == 400,
        "another's chunk is taken for the own: {}",
        refused.text()
    );
    Ok(4)
}

/// Calls of one protocol in a session of the other, and methods that no call has.
async fn wrong_calls(world: &World) -> Result<usize> {
    let mut reading =
        Session::begin_with_room(world.reader_connection(RIVAL, "his").await?).await?;
    let mut writing = world.backup_session(RIVAL, "wrong-calls").await?;
    let mut made = 0;
    for row in super::calls::rows() {
        for method in ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "CONNECTX"] {
            let same = super::calls::rows().into_iter();
            let mut same = same.filter(|other| other.method == method && other.path == row.path);
            let session = match row.kind {
                "backup" => &mut reading,
                "reader" => &mut writing,
                _ => continue,
            };
            let other = if row.kind == "backup" {
                "reader"
            } else {
                "backup"
            };
            if same.any(|call| call.kind == other) {
                continue;
            }
            let answer = session.call(method, row.path, b"").await?;
            ensure!(
                answer.status == 404,
                "{method} {} in a session of the other protocol: {} {}",
                row.path,
                answer.status,
                answer.text()
            );
            made += 1;
        }
    }
    Ok(made)
}

/// A namespace that is denied is as one that does not exist.
async fn denied_namespace(world: &World) -> Result<usize> {
    let paths = [
        ("GET", format!("admin/datastore/{STORE}/groups?ns=deep")),
        ("GET", format!("admin/datastore/{STORE}/snapshots?ns=deep")),
        (
            "GET",
            format!("admin/datastore/{STORE}/namespace?parent=deep"),
        ),
        (
            "POST",
            format!("admin/datastore/{STORE}/namespace?parent=deep&name=x"),
        ),
        (
            "DELETE",
            format!("admin/datastore/{STORE}/namespace?ns=deep"),
        ),
        (
            "DELETE",
            format!("admin/datastore/{STORE}/namespace?ns=deep/x&delete-groups=1"),
        ),
    ];
    let refusals = paths.iter().map(|(method, path)| async move {
        let refused = world.call(RIVAL, method, path).await?;
        ensure!(refused.status == 403, "{path}: {}", refused.text());
        ensure!(!refused.text().contains("hers"), "{}", refused.text());
        anyhow::Ok(())
    });
    let mut made = try_join_all(refusals).await?.len();
    for protocol in ["backup", "reader"] {
        let query =
            format!("store={STORE}&ns=deep&backup-type=host&backup-id=x&backup-time=1900000000");
        let refused = world.upgrade(RIVAL, protocol, &query).await?.err();
        ensure!(
            refused
                .as_ref()
                .is_some_and(|answer| [400, 403].contains(&answer.status)),
            "{refused:?}"
        );
        made += 1;
    }
    Ok(made)
}

/// Rights that suffice to look do not suffice to change, and those to read not to write.
async fn lesser_roles(world: &World) -> Result<usize> {
    let time = world.snapshot_time("hers").await?;
    let mut made = 0;
    for who in ["auditor@pbs!t", "reader@pbs!t"] {
        let all = ON_A_GROUP.iter().map(|attempt| (attempt, String::new()));
        let on_snapshots = ON_A_SNAPSHOT.iter();
        let all = all.chain(on_snapshots.map(|attempt| (attempt, format!("&backup-time={time}"))));
        let answers = all.map(|((method, call, more, _), time)| async move {
            let more = more.replace("$SELF", who);
            let path = format!("admin/datastore/{STORE}/{call}?{GROUP}{time}{more}");
            // What is in a backup is more than what there is; and an image has no catalog.
            let expected: &[u16] = match (*method, *call) {
                ("GET", "download" | "download-decoded" | "catalog")
                    if who.starts_with("auditor") =>
                {
                    &[403]
                }
                ("GET", "catalog") => &[404],
                ("GET", _) => &[200],
                _ => &[401, 403],
            };
            let answer = world.call(who, method, &path).await?;
            ensure!(
                expected.contains(&answer.status),
                "{who}: {method} {path}: {} {}",
                answer.status,
                answer.text()
            );
            anyhow::Ok(())
        });
        made += try_join_all(answers).await?.len();
        let query = format!("store={STORE}&{GROUP}&backup-time={}", time + 1000);
        let refused = world.upgrade(who, "backup", &query).await?.err();
        ensure!(
            refused.is_some_and(|answer| answer.status == 403),
            "{who} writes"
        );
        made += 1;
    }
    let query = format!("store={STORE}&{GROUP}&backup-time={time}");
    let refused = world
        .upgrade("auditor@pbs!t", "reader", &query)
        .await?
        .err();
    ensure!(
        refused.is_some_and(|answer| answer.status == 400),
        "an auditor reads"
    );
    let admitted = world.upgrade("reader@pbs!t", "reader", &query).await?;
    ensure!(admitted.is_ok(), "a reader does not read");
    Ok(made + 2)
}

#[test]
fn what_is_anothers_is_neither_seen_nor_touched() -> Result<()> {
    let world = World::new()?;
    world.explain(|| {
        fill(&world)?;
        let before = seen_by_administrator(&world)?;
        let all = async {
            let mut made = 0;
            for who in [RIVAL, SIBLING] {
                made += attempts(&world, who, "").await?;
                made += lists(&world, who).await?;
                made += sessions(&world, who).await?;
            }
            made += attempts(&world, SIBLING, "deep").await?;
            made += denied_namespace(&world).await?;
            made += chunks(&world).await?;
            made += wrong_calls(&world).await?;
            made += lesser_roles(&world).await?;
            let own = "backup-type=host&backup-id=his&new-owner=owner@pbs";
            let path = format!("admin/datastore/{STORE}/change-owner?{own}");
            let given_away = world.call(RIVAL, "POST", &path).await?;
            ensure!(given_away.status == 401, "{}", given_away.text());
            anyhow::Ok(made + 1)
        };
        let made = world.runtime.block_on(all)?;
        ensure!(seen_by_administrator(&world)? == before, "something has changed");
        let target = world.daemon.dir().join("hers-back");
        let text = target.display().to_string();
        world
            .client(OWNER_TOKEN, &["restore", "host/hers", "disk.img", &text])?
            .success()?;
        content::compare_files(&world.image(), &target)?;
        say(&format!(
            "security: {made} attempts on what belongs to another user or token, all refused; nothing has changed"
        ));
        Ok(())
    });
    world.daemon.stop()
}
