//! What is secret stays so: in no log, whatever its level, in no answer, in no file that others may read. And nobody writes
//! a line of the log but the daemon.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context as _, Result, ensure};
use futures_util::future::join_all;
use holdfast_tests::attack::http1::{Connection, Request};
use holdfast_tests::attack::http2::Session;
use holdfast_tests::daemon::COMMAND_TIME_MAX;
use holdfast_tests::process::{run, say};

use super::accounts::{ADMIN, HONEST, OTHER_STORE, S3, STORE, secret_of, token_header};
use super::calls;
use super::credentials::{cookie, log_in, now};
use super::world::World;

/// A line that somebody would like to see in a log.
const FORGED: &str = "2001-02-03T04:05:06.000000Z ERROR forged: everything is lost";

/// Sends secrets in every way there is, and answers them all with their names.
async fn use_secrets(world: &World) -> Result<BTreeMap<String, String>> {
    let mut secrets = BTreeMap::new();
    let mut keep = |name: &str, secret: &str| secrets.insert(name.to_owned(), secret.to_owned());
    let password = world.daemon.password().to_owned();
    keep("the password", &password);
    for token in [ADMIN, HONEST] {
        keep(&format!("the secret of {token}"), &secret_of(token));
    }
    let (ticket, csrf) = log_in(world, "nobody@pbs", &password).await?;
    keep("a ticket", ticket.rsplit("::").next().unwrap_or_default());
    keep(
        "a token against forgery",
        csrf.rsplit(':').next().unwrap_or_default(),
    );
    let connection = || Connection::open(&world.peer);
    let login = Request::new("POST", "/api2/json/access/ticket");
    let json = |body: &str| {
        let request = login.clone().with("Content-Type", "application/json");
        request.body(body)
    };
    let wrong = [
        login
            .clone()
            .body("username=nobody@pbs&password=wrong-secret-1"),
        json("{\"username\":\"nobody@pbs\",\"password\":\"wrong-secret-2\"}"),
        json("{\"username\":\"nobody@pbs\",\"password\":[\"wrong-secret-3\"]}"),
        json("{\"username\":\"nobody@pbs\",\"password\":\"wrong-secret-4\""),
        login
            .clone()
            .body("username=nobody@pbs&password=wrong-secret-5&x=y"),
        Request::new(
            "POST",
            "/api2/json/access/ticket?username=nobody@pbs&password=wrong-secret-6",
        ),
        Request::new("GET", "/api2/json/version").with(
            "Authorization",
            &format!("PBSAPIToken {ADMIN}:wrong-secret-7"),
        ),
        Request::new("GET", "/api2/json/version").with_all(&cookie("PBS:wrong-secret-8", None)),
        Request::new("GET", "/api2/json/version").with("Authorization", "Basic wrong-secret-9"),
    ];
    let tried = wrong
        .iter()
        .map(|request| async { connection().await?.ask(request).await });
    for (number, answer) in join_all(tried).await.into_iter().enumerate() {
        let answer = answer?;
        ensure!(answer.status >= 400, "{number}: {}", answer.text());
        let secret = format!("wrong-secret-{}", number + 1);
        keep(&secret, &secret);
    }
    let changes = [
        (
            "POST",
            "access/users",
            "userid=new@pbs&password=secret-of-new",
        ),
        (
            "PUT",
            "access/password",
            "userid=new@pbs&password=next-secret-of-new",
        ),
        (
            "PUT",
            "access/users/new@pbs",
            "password=third-secret-of-new",
        ),
        (
            "PUT",
            "access/password",
            "userid=missing@pbs&password=secret-of-missing",
        ),
        (
            "PUT",
            "access/password",
            "userid=new@pbs&password=odd-secret&unknown=1",
        ),
        (
            "POST",
            "config/s3",
            "id=more&endpoint=http://127.0.0.1:9&access-key=public-id&secret-key=secret-of-s3",
        ),
        (
            "POST",
            "config/s3",
            "id=more&endpoint=http://127.0.0.1:9&access-key=x&secret-key=other-secret-of-s3",
        ),
        (
            "POST",
            "config/s3",
            "id=odd&endpoint=nowhere&access-key=x&secret-key=third-secret-of-s3",
        ),
    ];
    for (method, path, body) in changes {
        let request = World::request(ADMIN, method, path).body(body);
        connection().await?.ask(&request).await?;
        for pair in body.split('&') {
            if let Some((_, secret)) = pair
                .split_once('=')
                .filter(|(_, value)| value.contains("secret"))
            {
                keep(body, secret);
            }
        }
    }
    // Requests are signed with the secret that is kept.
    let path = format!("admin/s3/{S3}/check?bucket=backups");
    let checked = connection()
        .await?
        .ask(&World::request(ADMIN, "PUT", &path))
        .await?;
    ensure!(checked.status == 200, "{}", checked.text());
    let path = "access/users/nobody@pbs/token/fresh";
    let fresh = connection()
        .await?
        .ask(&World::request(ADMIN, "POST", path))
        .await?;
    let fresh = fresh.json()?["data"]["value"]
        .as_str()
        .context("no secret")?
        .to_owned();
    keep("the secret of a new token", &fresh);
    let renewed = World::request(ADMIN, "PUT", &format!("{path}?regenerate=1"));
    let renewed = connection().await?.ask(&renewed).await?;
    keep(
        "a renewed secret",
        renewed.json()?["data"]["secret"]
            .as_str()
            .context("no secret")?,
    );

    let mut session =
        Session::begin_with_room(world.backup_connection(ADMIN, "secrets").await?).await?;
    let (name, value) = token_header(ADMIN, &secret_of(ADMIN));
    let headers = [(&*name.to_lowercase(), &*value)];
    for target in ["/previous", "/nothing", "/previous_backup_time"] {
        let stream = session.open_with("GET", target, &headers, true).await?;
        session.answer(stream).await?;
    }
    Ok(secrets)
}

/// What only the files hold.
fn kept_secrets(world: &World) -> Result<BTreeMap<String, String>> {
    let text = fs::read_to_string(world.daemon.config().with_file_name("secrets.toml"))?;
    let mut secrets = BTreeMap::new();
    for line in text.lines() {
        // The id of a key is no secret.
        if let Some((name, value)) = line.split_once(" = ")
            && name != "access-key"
        {
            let value = value.trim_matches('"').trim_start_matches("hashed:");
            secrets.insert(format!("what is kept as {name}"), value.to_owned());
        }
    }
    ensure!(secrets.len() > 20, "the secrets are elsewhere");
    Ok(secrets)
}

#[test]
fn nothing_secret_is_told() -> Result<()> {
    let world = World::with(&["log-level = \"trace\""])?;
    world.explain(|| {
        let mut secrets = world.runtime.block_on(use_secrets(&world))?;
        world.honest_round()?;
        secrets.append(&mut kept_secrets(&world)?);
        let mut told = vec![("the log".to_owned(), world.daemon.log())];
        let tasks = world.daemon.config().with_file_name("tasks");
        for entry in walkdir::WalkDir::new(tasks) {
            let entry = entry?;
            if entry.file_type().is_file() {
                let text = fs::read(entry.path())?;
                told.push((entry.path().display().to_string(), String::from_utf8_lossy(&text).into_owned()));
            }
        }
        for row in calls::that_tell() {
            let target = row.target(&row.existing.replace("$TIME", "1").replace("$UPID", "x"));
            let path = target.trim_start_matches("/api2/json/");
            let answer = world.runtime.block_on(world.call(ADMIN, "GET", path))?;
            told.push((target, format!("{}{}", answer.head, answer.text())));
        }
        for store in [STORE, OTHER_STORE] {
            for entry in walkdir::WalkDir::new(world.daemon.store_dir(store)).max_depth(2) {
                let entry = entry?;
                if entry.file_type().is_file() {
                    told.push((entry.path().display().to_string(), String::from_utf8_lossy(&fs::read(entry.path())?).into_owned()));
                }
            }
        }
        let lines = told[0].1.lines().count();
        ensure!(lines > 15, "the log has {lines} lines only");
        for (place, text) in &told {
            for (name, secret) in &secrets {
                ensure!(!text.contains(secret.as_str()), "{name} is in {place}");
            }
        }
        say(&format!(
            "security: {} secrets, looked for in {} places (log at level trace, task logs, answers, files): none found",
            secrets.len(),
            told.len()
        ));
        Ok(())
    });
    world.daemon.stop()
}

async fn forge(world: &World) -> Result<usize> {
    let encoded = format!(
        "%{}",
        FORGED
            .as_bytes()
            .iter()
            .map(|byte| hex::encode([*byte]))
            .collect::<Vec<_>>()
            .join("%")
    );
    let (mut all, mut made) = (Vec::new(), 0);
    for line in [
        "%0a",
        "%0d%0a",
        "%0d",
        "%c2%85",
        "%e2%80%a8",
        "%1b%5b1A%1b%5b2K",
        "%0b",
        "%0c",
    ] {
        let text = format!("x{line}{encoded}");
        let login = Request::new("POST", "/api2/json/access/ticket");
        let requests = [
            login.clone().body(format!("username={text}&password=x")),
            login
                .clone()
                .body(format!("username={text}@pbs&password=x")),
            login.body(format!("username=a@pbs&password=x&{text}=x")),
            Request::new("GET", &format!("/api2/json/{text}")),
            Request::new("GET", &format!("/api2/json/version?{text}")),
            Request::new("GET", "/api2/json/version")
                .with("Authorization", &format!("PBSAPIToken {text}@pbs!t:x")),
            Request::new("GET", "/api2/json/version")
                .with("Authorization", &format!("PBSAPIToken a@pbs!{text}:x")),
            World::request(ADMIN, "DELETE", &format!("access/users/{text}")),
            World::request(
                ADMIN,
                "PUT",
                &format!("access/users/nobody@pbs?comment={text}"),
            ),
            World::request(
                ADMIN,
                "POST",
                &format!("config/datastore?name=new&backend={text}&path=/x"),
            ),
            World::request(
                ADMIN,
                "POST",
                &format!("config/datastore?name=new&backend=filesystem&path=/proc/{text}"),
            ),
            World::request(
                ADMIN,
                "PUT",
                &format!(
                    "admin/datastore/{STORE}/group-notes?backup-type=host&backup-id={text}&notes={text}"
                ),
            ),
            World::request(ADMIN, "DELETE", &format!("nodes/localhost/tasks/{text}")),
            World::request(
                ADMIN,
                "GET",
                &format!("backup?store={STORE}&backup-type=host&backup-id={text}&backup-time=1"),
            ),
        ];
        let with_headers = |request: Request| {
            request
                .with("User-Agent", &text)
                .with("X-Forwarded-For", &text)
        };
        all.extend(requests.map(with_headers));
        let id = format!("forge-{made}");
        let mut session = world.backup_session(HONEST, &id).await?;
        for target in [
            format!("/{text}"),
            format!("/blob?file-name={text}&encoded-size=13"),
            format!("/dynamic_index?archive-name={text}.didx"),
            format!("/previous?archive-name={text}"),
        ] {
            session.call("POST", &target, b"").await?;
            made += 1;
        }
    }
    // Refusals are held back, so they are asked for at once.
    let asked = all
        .iter()
        .map(|request| async { Connection::open(&world.peer).await?.ask(request).await });
    made += join_all(asked).await.len();
    // Bytes that a header may hold.
    let raw =
        format!("GET /api2/json/version HTTP/1.1\r\nUser-Agent: \x1b[2J\u{85}{FORGED}\r\n\r\n");
    let mut connection = Connection::open(&world.peer).await?;
    connection.write(raw.as_bytes()).await?;
    drop(connection.answer().await);
    Ok(made + 1)
}

#[test]
fn nobody_but_the_daemon_writes_its_log() -> Result<()> {
    let world = World::with(&["log-format = \"text\"", "log-level = \"debug\""])?;
    world.explain(|| {
        let made = world.runtime.block_on(forge(&world))?;
        world.honest_round()?;
        let log = world.daemon.log();
        let tasks = world.daemon.config().with_file_name("tasks");
        let mut texts = vec![log];
        for entry in walkdir::WalkDir::new(tasks) {
            let entry = entry?;
            if entry.file_type().is_file() {
                texts.push(String::from_utf8_lossy(&fs::read(entry.path())?).into_owned());
            }
        }
        let day = jiff::Timestamp::from_second(now())?.to_string();
        let mut repeated = 0;
        for text in &texts {
            for line in text.lines() {
                ensure!(!line.starts_with("2001-"), "a forged line: {line}");
                let obeyed = |c: char| c.is_control() || c == '\u{2028}';
                ensure!(!line.contains(obeyed), "a line that a terminal obeys: {line:?}");
                repeated += usize::from(line.contains("everything is lost") || line.contains("everything%20is"));
            }
        }
        let first = texts[0].lines().next().unwrap_or_default();
        ensure!(first.starts_with(&day[..8]), "no log in text form: {first}");
        ensure!(repeated > 0, "the log does not show what was tried");
        say(&format!(
            "security: {made} attempts to forge a line in {} logs, {repeated} lines repeat one, none is one",
            texts.len()
        ));
        Ok(())
    });
    world.daemon.stop()
}

/// Files that only their owner may read, whatever the daemon has rewritten since.
#[test]
fn files_with_secrets_are_their_owners_only() -> Result<()> {
    let world = World::new()?;
    let dir = world
        .daemon
        .config()
        .parent()
        .context("a directory")?
        .to_owned();
    let mode = |name: &str| -> Result<u32> {
        let file = fs::metadata(dir.join(name)).with_context(|| name.to_owned())?;
        Ok(file.permissions().mode() & 0o777)
    };
    world.explain(|| {
        world.admin(
            "PUT",
            "access/password?userid=nobody@pbs&password=another-password",
        )?;
        world.admin("POST", "access/users/nobody@pbs/token/more")?;
        for name in ["secrets.toml", "tls-key.pem", "control.sock"] {
            let mode = mode(name)?;
            ensure!(mode == 0o600, "{name} has the mode {mode:o}");
        }
        let directory = fs::metadata(&dir)?.permissions().mode() & 0o777;
        ensure!(
            directory == 0o700,
            "the directory has the mode {directory:o}"
        );
        for entry in walkdir::WalkDir::new(&dir) {
            let entry = entry?;
            let mode = entry.metadata()?.permissions().mode();
            ensure!(
                mode & 0o022 == 0,
                "others may write {}",
                entry.path().display()
            );
        }
        Ok(())
    });
    world.daemon.stop()?;
    for name in ["secrets.toml", "tls-key.pem"] {
        let path = dir.join(name);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
        let told = run(&mut world.daemon.serve_command(), b"", COMMAND_TIME_MAX)?.expect_code(1)?;
        ensure!(
            told.stderr.contains(name) && told.stderr.contains("chmod"),
            "{told}"
        );
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    }
    say("security: files with secrets have the mode 0600 and are refused with any other");
    Ok(())
}
