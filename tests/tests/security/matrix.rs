//! Every call × every credential, about things that exist and things that do not: refused as it should be, in one sentence,
//! without a word about what there is; and afterwards nothing has changed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use holdfast_tests::attack::http1::{Answer, Connection, Request};
use holdfast_tests::attack::http2::{self, END_HEADERS, END_STREAM, PREFACE, kind};
use holdfast_tests::attack::peer::Peer;
use holdfast_tests::process::say;
use sha2::{Digest as _, Sha256};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::accounts::{ADMIN, OWNER, STORE, secret_of, token_header};
use super::calls::{check_completeness, rows};
use super::credentials::{self, Credential, Standing};
use super::row::{Outcome, Row};
use super::world::World;

/// Refusals are held back for three seconds, so that many connections wait at the same time.
const CONNECTIONS: usize = 1200;
/// How long tasks may take to end when they are told to.
const TASKS_END_MAX: Duration = Duration::from_mins(1);
/// What a stranger is told, whatever was shown.
const STRANGER: &str = "authentication failed";
/// Words that tell what there is to somebody who may not know it.
const WORDS: [&str; 6] = [
    "vault",
    "hers",
    "owner@pbs",
    "whisper",
    "deep",
    "bucket-server",
];
/// Longest refusal, in bytes.
const REFUSAL_BYTES_MAX: usize = 400;

/// What the parameters stand for.
struct Things {
    time: u64,
    upid: String,
    gone: String,
}

impl Things {
    fn of(world: &World) -> Result<Self> {
        let time = world.runtime.block_on(world.snapshot_time("hers"))?;
        let tasks = world.admin("GET", "nodes/localhost/tasks?typefilter=backup")?;
        let upid = tasks[0]["upid"].as_str().context("no task")?.to_owned();
        let mut fields: Vec<&str> = upid.split(':').collect();
        *fields.get_mut(4).context("no UPID")? = "0FFFFFFF";
        Ok(Self {
            time,
            gone: fields.join(":"),
            upid,
        })
    }

    fn target(&self, row: &Row, missing: bool) -> String {
        let parameters = if missing { row.missing } else { row.existing };
        let given = parameters
            .replace("$TIME", &self.time.to_string())
            .replace("$UPID", &self.upid)
            .replace("$GONE", &self.gone);
        row.target(&given)
    }

    /// A refusal as it would be if it were about what exists.
    fn as_if_existing(&self, row: &Row, text: &str) -> String {
        let mut text = text.replace(&self.gone, &self.upid);
        for (missing, existing) in row.missing.split('&').zip(row.existing.split('&')) {
            let value = |pair: &str| pair.split_once('=').map(|(_, value)| value.to_owned());
            if let (Some(missing), Some(existing)) = (value(missing), value(existing))
                && missing != existing
            {
                let existing = existing.replace("$TIME", &self.time.to_string());
                text = text.replace(&missing, &existing);
            }
        }
        text
    }
}

/// One call of the matrix.
struct Job {
    row: &'static Row,
    credential: Credential,
    missing: bool,
    request: Request,
}

/// The protocol that an upgrade asks for.
fn protocol_of(row: &Row) -> Option<&'static str> {
    match (row.kind, row.path) {
        ("backup", _) | ("upgrade", "/api2/json/backup") => Some("proxmox-backup-protocol-v1"),
        ("reader" | "upgrade", _) => Some("proxmox-backup-reader-protocol-v1"),
        _ => None,
    }
}

/// The upgrade that a call of a protocol needs.
fn upgrade_of(row: &'static Row) -> &'static Row {
    let path = match row.kind {
        "backup" => "/api2/json/backup",
        "reader" => "/api2/json/reader",
        _ => return row,
    };
    let found = rows().into_iter().find(|upgrade| upgrade.path == path);
    found.unwrap_or(row)
}

fn jobs(things: &Things, credentials: &[Credential]) -> Vec<Job> {
    let mut jobs = Vec::new();
    for row in rows() {
        for credential in credentials {
            for missing in [false, true] {
                if missing && (row.existing == row.missing) {
                    continue;
                }
                let target = things.target(upgrade_of(row), missing);
                let mut request = Request::new(row.method, &target);
                if let Some(protocol) = protocol_of(row) {
                    request = Request::new("GET", &target)
                        .with("Connection", "upgrade")
                        .with("Upgrade", protocol);
                }
                jobs.push(Job {
                    row,
                    credential: credential.clone(),
                    missing,
                    request: request.with_all(&credential.headers),
                });
            }
        }
    }
    jobs
}

/// Makes all calls, and answers what each was told.
async fn make_calls(peer: &Peer, jobs: Arc<Vec<Job>>) -> Result<Vec<Answer>> {
    let next = Arc::new(AtomicUsize::new(0));
    let answers = Arc::new(Mutex::new(BTreeMap::new()));
    let mut workers = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let (peer, jobs, next) = (peer.clone(), Arc::clone(&jobs), Arc::clone(&next));
        let answers = Arc::clone(&answers);
        workers.spawn(async move {
            let mut connection = None;
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some(job) = jobs.get(at) else {
                    return anyhow::Ok(());
                };
                let answer = make_call(&peer, &mut connection, job).await;
                let answer = answer.with_context(|| name_of(job))?;
                let mut answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
                answers.insert(at, answer);
            }
        });
    }
    while let Some(worker) = workers.join_next().await {
        worker??;
    }
    let mut answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
    ensure!(answers.len() == jobs.len(), "not every call was answered");
    Ok(std::mem::take(&mut *answers).into_values().collect())
}

async fn make_call(peer: &Peer, open: &mut Option<Connection>, job: &Job) -> Result<Answer> {
    let mut connection = match open.take() {
        Some(connection) => connection,
        None => Connection::open(peer).await?,
    };
    let answer = connection.ask(&job.request).await?;
    if job.row.powerless != Outcome::Session {
        *open = Some(connection);
        return Ok(answer);
    }
    // Whoever was refused goes on as if not.
    let mut bytes = bytes::BytesMut::from(PREFACE);
    http2::put_frame(&mut bytes, kind::SETTINGS, 0, 0, &[]);
    let head = http2::head(job.row.method, job.row.path, &[]);
    let flags = END_HEADERS | END_STREAM;
    http2::put_frame(&mut bytes, kind::HEADERS, flags, 1, &head);
    // The other side may have closed already.
    drop(connection.write(&bytes).await);
    let rest = connection.rest(holdfast_tests::attack::WAIT_MAX).await?;
    ensure!(
        rest.is_empty() || rest.starts_with(b"HTTP/1.1 400"),
        "a session that was refused goes on: {rest:?}"
    );
    Ok(answer)
}

fn name_of(job: &Job) -> String {
    let which = if job.missing { "missing" } else { "existing" };
    let Job {
        row, credential, ..
    } = job;
    format!(
        "{} {} {} ({which}) with {}",
        row.kind, row.method, row.path, credential.name
    )
}

/// What a call must be answered.
fn expected(job: &Job) -> (u16, Option<&'static str>) {
    let stranger = match job.credential.standing {
        Standing::Stranger => true,
        Standing::Powerless => false,
        Standing::Unproven => job.request.method != "GET",
    };
    match upgrade_of(job.row).powerless {
        Outcome::Anyone(status) => (status, None),
        _ if stranger => (401, Some(STRANGER)),
        Outcome::Refused(status) => (status, None),
        Outcome::Filtered | Outcome::Known | Outcome::Session => (200, None),
    }
}

fn check_answer(world: &World, job: &Job, answer: &Answer) -> Result<()> {
    let (status, body) = expected(job);
    let text = answer.text();
    ensure!(
        answer.status == status,
        "{} instead of {status}: {text}",
        answer.status
    );
    ensure!(
        body.is_none_or(|body| text == body),
        "told too much: {text}"
    );
    if job.row.powerless == Outcome::Filtered {
        let unknown = |word: &&&str| job.credential.knows != Some(**word);
        let mut secret = WORDS.iter().filter(unknown);
        let told = secret.find(|word| text.contains(**word));
        ensure!(told.is_none(), "'{told:?}' is told: {text}");
    }
    if status >= 400 {
        check_refusal(world, &text)?;
    }
    Ok(())
}

/// A refusal is one sentence, and shows nothing of the inside.
fn check_refusal(world: &World, text: &str) -> Result<()> {
    let inside = world.daemon.dir().display().to_string();
    let plain = !text.is_empty()
        && text.len() <= REFUSAL_BYTES_MAX
        && !text.contains(char::is_control)
        && !text.contains(".rs:")
        && !text.contains(&inside);
    ensure!(plain, "no plain refusal: {text:?}");
    Ok(())
}

/// What there is: the files of the daemon and of its datastores, task logs apart.
fn state(world: &World) -> Result<String> {
    let mut hash = Sha256::new();
    let dir = world.daemon.dir();
    for entry in walkdir::WalkDir::new(dir).sort_by_file_name() {
        let entry = entry?;
        let path = entry.path().strip_prefix(dir)?;
        // When jobs were last looked at is nobody's call.
        let logs = path.starts_with("daemon/tasks") || path.starts_with("daemon/jobs");
        if logs || !entry.file_type().is_file() {
            continue;
        }
        hash.update(path.as_os_str().as_encoded_bytes());
        hash.update(Sha256::digest(std::fs::read(entry.path())?));
    }
    Ok(hex::encode(hash.finalize()))
}

/// Compares what is told of existing and of missing things. The answers are in the order of the jobs.
fn check_equality(things: &Things, jobs: &[Job], answers: &[Answer]) -> Result<usize> {
    let mut compared = 0;
    for (at, job) in jobs.iter().enumerate().filter(|(_, job)| job.missing) {
        if !matches!(job.row.powerless, Outcome::Refused(_)) {
            continue;
        }
        let (existing, missing) = (&answers[at - 1], &answers[at]);
        let as_if = things.as_if_existing(job.row, &missing.text());
        ensure!(
            existing.status == missing.status && existing.text() == as_if,
            "{}: what exists shows: {:?} is not {:?}",
            name_of(job),
            existing.text(),
            missing.text()
        );
        compared += 1;
    }
    Ok(compared)
}

fn fill(world: &World) -> Result<()> {
    world.admin(
        "POST",
        &format!("admin/datastore/{STORE}/namespace?name=deep"),
    )?;
    world.back_up("owner@pbs!t", "hers", "")?;
    let owner = format!(
        "admin/datastore/{STORE}/change-owner?backup-type=host&backup-id=hers&new-owner={OWNER}"
    );
    world.admin("POST", &owner)?;
    let notes = format!(
        "admin/datastore/{STORE}/group-notes?backup-type=host&backup-id=hers&notes=whisper"
    );
    world.admin("PUT", &notes)?;
    let remote = "config/remote?name=office&host=127.0.0.1&port=1&auth-id=a@pbs&password=hush";
    world.admin("POST", remote)?;
    let notify = "config/notify?name=admins&url=http://127.0.0.1:1/hook&secret=hush";
    world.admin("POST", notify)?;
    let jobs = [
        ("prune", "&keep-last=1000"),
        ("verify", ""),
        ("sync", "&remote=office&remote-store=there"),
    ];
    for (kind, more) in jobs {
        let job = format!("config/{kind}?id=nightly-{kind}&store={STORE}{more}");
        world.admin("POST", &job)?;
    }
    Ok(())
}

/// Ends what the calls have started, such as a pull that asks its remote again: no datastore is removed under it.
async fn end_tasks(world: &World) -> Result<()> {
    let began = Instant::now();
    loop {
        let answer = world.call(ADMIN, "GET", "nodes/localhost/tasks?running=1");
        let tasks = answer.await?.json()?["data"].take();
        let tasks = tasks.as_array().context("no list of tasks")?.clone();
        if tasks.is_empty() {
            return Ok(());
        }
        ensure!(began.elapsed() < TASKS_END_MAX, "still running: {tasks:?}");
        for task in tasks {
            let upid = task["upid"].as_str().context("no UPID")?;
            let path = format!("nodes/localhost/tasks/{}", upid.replace('\\', "%5C"));
            world.call(ADMIN, "DELETE", &path).await?;
        }
    }
}

/// Makes every call as the administrator, so that it is sure that the rows are about what they say.
async fn administrator(world: &World, things: &Things) -> Result<usize> {
    let (name, value) = token_header(ADMIN, &secret_of(ADMIN));
    let mut made = 0;
    for row in rows().into_iter().filter(|row| row.admin != 0) {
        let target = things.target(row, false);
        if row.method == "DELETE" && target.starts_with("/api2/json/config/datastore/") {
            end_tasks(world).await?;
        }
        let mut request = Request::new(row.method, &target).with(&name, &value);
        if let Some(protocol) = protocol_of(row) {
            request = request
                .with("Connection", "upgrade")
                .with("Upgrade", protocol);
        }
        let mut connection = Connection::open(&world.peer).await?;
        let answer = connection.ask(&request).await?;
        ensure!(
            answer.status == row.admin,
            "the administrator's {} {target}: {} instead of {}: {}",
            row.method,
            answer.status,
            row.admin,
            answer.text()
        );
        made += 1;
    }
    Ok(made)
}

#[test]
fn every_call_with_every_credential() -> Result<()> {
    check_completeness()?;
    let world = World::new()?;
    world.explain(|| {
        fill(&world)?;
        let things = Things::of(&world)?;
        let credentials = credentials::all(&world)?;
        let jobs = Arc::new(jobs(&things, &credentials));
        let before = state(&world)?;
        let calling = make_calls(&world.peer, Arc::clone(&jobs));
        let answers = world.runtime.block_on(calling)?;
        let mut faults = Vec::new();
        for (job, answer) in jobs.iter().zip(&answers) {
            if let Err(error) = check_answer(&world, job, answer) {
                faults.push(format!("{}: {error}", name_of(job)));
            }
        }
        let count = faults.len();
        faults.truncate(20);
        ensure!(count == 0, "{count} answers are wrong:\n{}", faults.join("\n"));
        let compared = check_equality(&things, &jobs, &answers)?;
        ensure!(state(&world)? == before, "a refused call has changed something");
        let made = world.runtime.block_on(administrator(&world, &things))?;
        say(&format!(
            "security: {} calls x {} credentials: {} requests, all answered as expected; {compared} pairs of existing and \
             missing things told apart by nobody; {made} calls made by the administrator",
            rows().len(),
            credentials.len(),
            jobs.len(),
        ));
        Ok(())
    });
    world.daemon.stop()
}
