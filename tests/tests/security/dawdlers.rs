//! Clients that are slow on purpose, at every step from the first byte to the last: each is ended in its time, and
//! meanwhile holds nothing that others need.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures_util::future::{join_all, try_join_all};
use holdfast_tests::attack::http1::{Connection, Request};
use holdfast_tests::process::say;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, interval, timeout};

use super::accounts::{ADMIN, HONEST, RIVAL, STORE};
use super::bombs::chunk_target;
use super::world::{BESIDE_BUDGET_BYTES, BUDGET_BYTES, World};

/// How many of each sort.
const CROWD: usize = 25;
/// Between two bytes.
const PACE: Duration = Duration::from_millis(500);
/// What the daemon gives for a handshake, the first byte and the rest each; for a head, for a body, and for an upload.
const HANDSHAKE_MAX: Duration = Duration::from_secs(20);
const HEAD_MAX: Duration = Duration::from_mins(1);
const UPLOAD_MAX: Duration = Duration::from_secs(30);
/// What a loaded machine may take longer.
const GRACE: Duration = Duration::from_secs(12);

/// Sends a byte at a time until the other side ends it, which must be within `time`; what it said.
async fn trickle(
    what: &str,
    mut connection: Connection,
    bytes: &[u8],
    time: Duration,
) -> Result<Vec<u8>> {
    let began = Instant::now();
    let mut pace = interval(PACE);
    for byte in bytes.iter().cycle() {
        pace.tick().await;
        let elapsed = began.elapsed();
        ensure!(elapsed < time + GRACE, "{what} may go on after {elapsed:?}");
        if connection.write(&[*byte]).await.is_err() {
            break;
        }
        if connection.is_over().await? {
            break;
        }
    }
    connection.rest(GRACE).await
}

/// The same without encryption: half a handshake.
async fn trickle_hello(mut stream: TcpStream) -> Result<()> {
    let began = Instant::now();
    let hello = [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        &[7; 400],
    ]
    .concat();
    let mut pace = interval(PACE);
    for byte in hello {
        pace.tick().await;
        let elapsed = began.elapsed();
        ensure!(
            elapsed < HANDSHAKE_MAX + GRACE,
            "half a handshake goes on after {elapsed:?}"
        );
        let gone = stream.write_all(&[byte]).await.is_err();
        let read = timeout(Duration::from_millis(1), stream.read(&mut [0; 64])).await;
        if gone || matches!(read, Ok(Ok(0) | Err(_))) {
            return Ok(());
        }
    }
    anyhow::bail!("a whole hello was taken")
}

/// Says nothing until the other side ends it.
async fn silence(mut stream: impl tokio::io::AsyncRead + Unpin, time: Duration) -> Result<()> {
    let reading = async {
        let mut buffer = [0; 1024];
        while matches!(stream.read(&mut buffer).await, Ok(1..)) {}
    };
    timeout(time + GRACE, reading)
        .await
        .context("silence is suffered")
}

async fn before_a_request(world: &World) -> Result<usize> {
    // From elsewhere, so that the honest client is somebody else.
    let peer = world.peer.from(70);
    let silent = (0..CROWD).map(|_| async { silence(peer.tcp().await?, HANDSHAKE_MAX).await });
    let hello = (0..CROWD).map(|_| async { trickle_hello(peer.tcp().await?).await });
    let handshake = (0..CROWD).map(|_| async { silence(peer.tls().await?, HEAD_MAX).await });
    let heads = (0..CROWD).map(|_| async {
        let head = b"GET /api2/json/version HTTP/1.1\r\nx-header: a\r\nx-header: b\r\nx-header: ";
        let connection = Connection::open(&peer).await?;
        trickle("a head", connection, head, HEAD_MAX)
            .await
            .map(drop)
    });
    let (a, b, c, d) = tokio::join!(
        try_join_all(silent),
        try_join_all(hello),
        try_join_all(handshake),
        try_join_all(heads)
    );
    let ended = [a?, b?, c?, d?];
    Ok(ended.iter().map(Vec::len).sum())
}

async fn in_a_body(world: &World) -> Result<usize> {
    let peer = world.peer.from(71);
    let log = format!(
        "admin/datastore/{STORE}/upload-backup-log?backup-type=host&backup-id=log&backup-time={}",
        world.snapshot_time("log").await?
    );
    let login = Request::new("POST", "/api2/json/access/ticket");
    let cases = [
        ("a login", login, HEAD_MAX, "408"),
        (
            "a call",
            World::request(ADMIN, "POST", "access/users"),
            HEAD_MAX,
            "408",
        ),
        (
            "a log",
            World::request(RIVAL, "POST", &log),
            UPLOAD_MAX,
            "408",
        ),
    ];
    let all = cases.iter().map(|(what, request, time, status)| {
        let peer = peer.clone();
        async move {
            let request = request.clone().with("Content-Length", "10000");
            let mut connection = Connection::open(&peer).await?;
            connection.write(request.head().as_bytes()).await?;
            let told = trickle(what, connection, b"a", *time).await?;
            let told = String::from_utf8_lossy(&told).into_owned();
            ensure!(
                told.is_empty() || told.starts_with(&format!("HTTP/1.1 {status}")),
                "{what}: {told}"
            );
            anyhow::Ok(())
        }
    });
    // Two logs are read at once: as many as it takes to be in the way of another.
    let repeated = all.clone().chain(all.clone()).chain(all.take(2));
    Ok(try_join_all(repeated).await?.len())
}

/// Answers that nobody takes, and uploads of a session a byte at a time.
async fn within_sessions(world: &World) -> Result<usize> {
    let mut pace = interval(PACE);
    let mut writing = world.backup_session(RIVAL, "slow").await?;
    let opened = writing
        .call("POST", "/dynamic_index?archive-name=a.didx", b"")
        .await?;
    ensure!(opened.status == 200, "{}", opened.text());
    let mut streams = Vec::new();
    for _ in 0..10 {
        let target = chunk_target(1, &"ef".repeat(32), 1 << 20, 1 << 20);
        streams.push(writing.open("POST", &target, false).await?);
    }
    // Upgraded, and then not a word of HTTP/2.
    let mute = world.backup_connection(RIVAL, "mute").await?;
    // Answers that are asked for and not read.
    let deaf = join_all((0..CROWD).map(|_| async {
        let mut connection = Connection::open(&world.peer.from(72)).await?;
        let request = World::request(ADMIN, "GET", "access/users");
        connection
            .write(request.head().repeat(50).as_bytes())
            .await?;
        anyhow::Ok(connection)
    }));
    let deaf: Vec<_> = deaf.await.into_iter().collect::<Result<_>>()?;
    let until = Instant::now() + HEAD_MAX;
    while Instant::now() < until {
        pace.tick().await;
        for stream in &streams {
            writing.data(*stream, b"a", false).await?;
        }
    }
    let alive = writing.call("GET", "/previous_backup_time", b"").await?;
    ensure!(alive.status == 200, "{}", alive.text());
    drop(mute);
    Ok(streams.len() + 1 + deaf.len())
}

/// A log of an honest client beside the slow ones.
async fn honest_log(world: &World) -> Result<()> {
    let time = world.snapshot_time("quiet").await?;
    let path = format!(
        "admin/datastore/{STORE}/upload-backup-log?backup-type=host&backup-id=quiet&backup-time={time}"
    );
    let (_, blob) = super::bombs::plain_chunk(b"all went well");
    let request = World::request(HONEST, "POST", &path).body(blob);
    let mut connection = Connection::open(&world.peer).await?;
    // Its turn comes when the slow ones have had their time.
    let answer = match connection.ask(&request).await {
        Err(_) => connection.answer().await?,
        Ok(answer) => answer,
    };
    ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
    Ok(())
}

#[test]
fn the_slow_are_ended_and_hold_up_nobody() -> Result<()> {
    let world = World::new()?;
    world.explain(|| {
        world.back_up(RIVAL, "log", "")?;
        world.back_up(HONEST, "quiet", "")?;
        let attack = async {
            let (a, b, c, log) = tokio::join!(
                before_a_request(&world),
                in_a_body(&world),
                within_sessions(&world),
                honest_log(&world)
            );
            log.context("an honest log")?;
            anyhow::Ok(a? + b? + c?)
        };
        let made = world.beside("slow clients", BUDGET_BYTES + BESIDE_BUDGET_BYTES, attack)?;
        say(&format!(
            "security: {made} slow clients, each ended in its time"
        ));
        Ok(())
    });
    world.daemon.stop()
}
