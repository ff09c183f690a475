//! Guessing passwords, and what becomes of what a password gave.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use futures_util::future::{join_all, try_join, try_join_all};
use holdfast_tests::attack::http1::{Answer, Connection, Request};
use holdfast_tests::attack::peer::Peer;
use holdfast_tests::process::say;

use super::accounts::{HONEST, STORE};
use super::credentials::{cookie, log_in};
use super::world::World;

/// Failures that an address or a user may have at once.
const FAILURES_MAX: usize = 20;
/// Failures in a row that lock an account.
const LOCK_AFTER: usize = 10;
/// Whose account is locked.
const LOCKED: &str = "reader@pbs";
/// Passwords that are tried of one sort, to compare what they cost.
const TRIES: usize = 8;
/// API tokens that a user may have.
const TOKENS_MAX: usize = 256;
/// How many of them a user of the test may still add.
const TOKENS_LEFT: usize = 4;

async fn try_password(peer: &Peer, user: &str, password: &str) -> Result<Answer> {
    let password = password.replace('+', "%2B");
    let body = format!("username={user}&password={password}");
    let request = Request::new("POST", "/api2/json/access/ticket").body(body);
    Connection::open(peer).await?.ask(&request).await
}

/// Time of processors that a process has used, in ticks.
fn ticks(pid: u32) -> Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name before it may hold anything.
    let (_, rest) = stat.rsplit_once(')').context("no stat")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let field = |at: usize| fields.get(at).and_then(|ticks| ticks.parse::<u64>().ok());
    Ok(field(11).context("no utime")? + field(12).context("no stime")?)
}

/// What it costs the daemon to refuse passwords of this user, and what it says.
fn cost(world: &World, last: u8, user: &str) -> Result<(u64, String)> {
    let pid = world.pid()?;
    let before = ticks(pid)?;
    let peer = world.peer.from(last);
    let tries = (0..TRIES).map(|number| {
        let password = format!("wrong-{number}");
        let peer = peer.clone();
        async move { try_password(&peer, user, &password).await }
    });
    let mut told = Vec::new();
    for answer in world.runtime.block_on(join_all(tries)) {
        let answer = answer?;
        ensure!(answer.status == 401, "{}: {}", answer.status, answer.text());
        told.push(answer.text());
    }
    told.dedup();
    ensure!(told.len() == 1, "{told:?}");
    Ok((ticks(pid)? - before, told.remove(0)))
}

/// Tries as many wrong passwords as lock an account, from the address that ends in `last`.
fn lock(world: &World, last: u8, user: &str) -> Result<()> {
    let peer = world.peer.from(last);
    let tries = (0..LOCK_AFTER).map(|_| try_password(&peer, user, "wrong"));
    for answer in world.runtime.block_on(join_all(tries)) {
        let answer = answer?;
        ensure!(answer.status == 401, "{}: {}", answer.status, answer.text());
    }
    Ok(())
}

/// Whoever there is, a password is hashed, and the same is said.
fn nobody_learns_who_there_is(world: &World) -> Result<()> {
    let (known, told) = cost(world, 80, "owner@pbs")?;
    lock(world, 84, LOCKED)?;
    for (last, user) in [
        (81, "missing@pbs"),
        (82, "off@pbs"),
        (83, "late@pbs"),
        (85, LOCKED),
    ] {
        let (ticks, text) = cost(world, last, user)?;
        ensure!(text == told, "{user}: {text:?} is not {told:?}");
        ensure!(
            ticks * 2 > known && known * 2 > ticks,
            "{user} costs {ticks} ticks, a known user {known}"
        );
        say(&format!(
            "security: {TRIES} wrong passwords cost {known} ticks for a known user, {ticks} for {user}"
        ));
    }
    locked_is_locked_for_passwords_alone(world, &told)
}

/// The right password of a locked account is refused like a wrong one; what was given before and tokens go on, and it is unlocked on the machine.
fn locked_is_locked_for_passwords_alone(world: &World, told: &str) -> Result<()> {
    let password = world.daemon.password();
    let right = || {
        let peer = world.peer.from(86);
        let login = async { try_password(&peer, LOCKED, password).await };
        world.runtime.block_on(login)
    };
    let refused = right()?;
    ensure!(
        refused.status == 401 && refused.text() == told,
        "{}: {}",
        refused.status,
        refused.text()
    );
    let path = format!("admin/datastore/{STORE}/snapshots");
    let token = format!("{LOCKED}!t");
    let answer = world.runtime.block_on(world.call(&token, "GET", &path))?;
    ensure!(answer.status == 200, "its token: {}", answer.status);
    let listed = world.daemon.manage(&["user", "list"])?.text();
    let line = listed.lines().find(|line| line.starts_with(LOCKED));
    ensure!(
        line.is_some_and(|line| line.contains('Z')),
        "no time in {listed}"
    );
    let unlocked = world.daemon.manage(&["user", "unlock", LOCKED])?.text();
    ensure!(unlocked.contains("can log in again"), "{unlocked}");
    ensure!(right()?.status == 200, "it was unlocked");
    let log = world.daemon.log();
    let lines = log.lines().filter(|line| line.contains("account locked"));
    ensure!(lines.count() == 1, "one line about one lock");
    Ok(())
}

/// Guesses beyond a number are not even tried; others are let in meanwhile.
fn guessing_is_bounded(world: &World) -> Result<()> {
    let peer = world.peer.from(90);
    let guesses = (0..3 * FAILURES_MAX).map(|number| {
        let (user, peer) = (format!("guessed-{}@pbs", number % 7), peer.clone());
        async move { try_password(&peer, &user, "guess").await }
    });
    let mut refused = [0_usize; 2];
    for answer in world.runtime.block_on(join_all(guesses)) {
        let answer = answer?;
        match answer.status {
            401 => refused[0] += 1,
            429 => refused[1] += 1,
            status => anyhow::bail!("{status}: {}", answer.text()),
        }
    }
    // One is given back every six seconds.
    let tried = FAILURES_MAX..FAILURES_MAX + 6;
    ensure!(
        tried.contains(&refused[0]),
        "{} passwords were tried",
        refused[0]
    );
    let password = world.daemon.password();
    let more = world
        .runtime
        .block_on(try_password(&peer, "auditor@pbs", password))?;
    ensure!(
        more.status == 429,
        "the right one of somebody else from there: {}",
        more.status
    );
    let elsewhere = world
        .runtime
        .block_on(try_password(&world.peer, "auditor@pbs", password))?;
    ensure!(
        elsewhere.status == 200,
        "the right one from elsewhere: {}",
        elsewhere.status
    );
    let path = format!("admin/datastore/{STORE}/snapshots");
    let token = World::request(HONEST, "GET", &path);
    let answer = async { Connection::open(&peer).await?.ask(&token).await };
    let answer = world.runtime.block_on(answer)?;
    ensure!(
        answer.status == 200,
        "a token from there: {}",
        answer.status
    );
    let log = world.daemon.log();
    let lines = log
        .lines()
        .filter(|line| line.contains("authentication failed"))
        .count();
    ensure!(lines < 40, "{lines} lines about guesses");
    Ok(())
}

/// A ticket is renewed by itself, and ends with the password that gave it.
fn tickets_end_with_the_password(world: &World) -> Result<()> {
    let run = |running| world.runtime.block_on(running);
    let user = "elsewhere@pbs";
    let (ticket, csrf) = run(log_in(world, user, world.daemon.password()))?;
    let (renewed, _) = run(log_in(world, user, &ticket))?;
    let others = world
        .runtime
        .block_on(try_password(&world.peer, "nobody@pbs", &ticket))?;
    ensure!(
        others.status == 401,
        "a ticket renews another's: {}",
        others.status
    );
    let ask = |ticket: &str, method: &str, path: &str| {
        let request = Request::new(method, &format!("/api2/json/{path}"));
        let request = request.with_all(&cookie(ticket, Some(&csrf)));
        world
            .runtime
            .block_on(async { Connection::open(&world.peer).await?.ask(&request).await })
    };
    ensure!(ask(&renewed, "GET", "version")?.status == 200);
    let change = format!("access/password?userid={user}&password=brand-new-password");
    ensure!(
        ask(&ticket, "PUT", &change)?.status == 200,
        "the own password"
    );
    // Refusals are held back, so they are asked for at once.
    let dead = [&ticket, &renewed].map(|ticket| async {
        let request = Request::new("GET", "/api2/json/version").with_all(&cookie(ticket, None));
        let shown = async { Connection::open(&world.peer).await?.ask(&request).await };
        let (shown, again) = try_join(shown, try_password(&world.peer, user, ticket)).await?;
        ensure!(shown.status == 401, "a ticket outlives its password");
        ensure!(
            again.status == 401,
            "a dead ticket is renewed: {}",
            again.status
        );
        Ok(())
    });
    world.runtime.block_on(try_join_all(dead))?;
    Ok(())
}

/// Users add tokens of their own without any right: not without end. Most of them are there already.
fn tokens_are_bounded(world: &World) -> Result<()> {
    let (ticket, csrf) =
        world
            .runtime
            .block_on(log_in(world, "shallow@pbs", world.daemon.password()))?;
    let adding = async {
        let mut connection = Connection::open(&world.peer).await?;
        for number in 0..=TOKENS_LEFT {
            let path = format!("/api2/json/access/users/shallow@pbs/token/n{number}");
            let request = Request::new("POST", &path).with_all(&cookie(&ticket, Some(&csrf)));
            let answer = connection.ask(&request).await?;
            if answer.status != 200 {
                ensure!(answer.status == 400, "{}", answer.text());
                return Ok(number);
            }
        }
        anyhow::bail!("{TOKENS_MAX} tokens and no end")
    };
    let added = world.runtime.block_on(adding)?;
    ensure!(added == TOKENS_LEFT, "{added} were added");
    Ok(())
}

/// The configuration of a user who has nearly all the tokens that one may have; one is in the configuration already.
fn many_tokens() -> String {
    let tokens = 1..TOKENS_MAX - TOKENS_LEFT;
    let tokens = tokens.map(|number| format!("[token.\"shallow@pbs!old-{number}\"]\n"));
    tokens.collect::<Vec<_>>().concat()
}

/// Whatever somebody does who is nobody, it is few lines in the log.
fn strangers_do_not_fill_the_log(world: &World) -> Result<()> {
    const TRIES: usize = 100;
    let lines = || world.daemon.log().lines().count();
    let before = lines();
    let wrong = (
        "Authorization".to_owned(),
        "PBSAPIToken root@pbs!admin:wrong".to_owned(),
    );
    let upgrade = format!(
        "/api2/json/backup?store={STORE}&backup-type=host&backup-id=a&backup-time=1900000000"
    );
    let requests = [
        Request::new("DELETE", "/api2/json/access/ticket"),
        Request::new("POST", "/api2/json/access/ticket").body("username=x"),
        Request::new("GET", &upgrade)
            .with("Connection", "upgrade")
            .with("Upgrade", "proxmox-backup-protocol-v1"),
        Request::new("GET", &upgrade)
            .with("Connection", "upgrade")
            .with("Upgrade", "proxmox-backup-protocol-v1")
            .with(&wrong.0, &wrong.1),
        Request::new("PUT", "/api2/json/access/acl").with(&wrong.0, &wrong.1),
    ];
    let peer = world.peer.from(91);
    let all = (0..TRIES).flat_map(|_| &requests);
    let asked = all.map(|request| async { Connection::open(&peer).await?.ask(request).await });
    for answer in world.runtime.block_on(join_all(asked)) {
        answer?;
    }
    let written = lines() - before;
    ensure!(
        written < 10,
        "{written} lines about {} requests",
        TRIES * requests.len()
    );
    Ok(())
}

#[test]
fn passwords_are_not_guessed_and_end_what_they_gave() -> Result<()> {
    let world = World::with_more(&[], &many_tokens())?;
    world.explain(|| {
        nobody_learns_who_there_is(&world)?;
        guessing_is_bounded(&world)?;
        tickets_end_with_the_password(&world)?;
        tokens_are_bounded(&world)?;
        strangers_do_not_fill_the_log(&world)
    });
    world.daemon.stop()
}
