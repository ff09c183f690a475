//! Crowds of connections that say little or nothing, from one address and from several: others still get in.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures_util::future::join_all;
use holdfast_tests::attack::http1::{Connection, Request};
use holdfast_tests::attack::peer::Peer;
use holdfast_tests::process::say;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::accounts::{HONEST, STORE};
use super::world::{BESIDE_BUDGET_BYTES, World};

/// Connections that the daemon takes.
const CONNECTIONS_MAX: usize = 256;
/// Connections of a crowd at one address.
const CROWD: usize = 400;
/// How long a crowd stays.
const STAY: Duration = Duration::from_secs(3);

/// How a connection of a crowd begins, before it falls silent.
#[derive(Clone, Copy, Debug)]
enum Beginning {
    Nothing,
    HalfAHello,
    Handshake,
    HalfAHead,
    OneRequest,
}

const BEGINNINGS: [Beginning; 5] = [
    Beginning::Nothing,
    Beginning::HalfAHello,
    Beginning::Handshake,
    Beginning::HalfAHead,
    Beginning::OneRequest,
];

/// What is held open.
#[expect(dead_code, reason = "held, never read")]
enum Held {
    Plain(TcpStream),
    Encrypted(Box<Connection>),
}

async fn begin(peer: &Peer, how: Beginning) -> Result<Held> {
    if matches!(how, Beginning::Nothing | Beginning::HalfAHello) {
        let mut stream = peer.tcp().await?;
        if matches!(how, Beginning::HalfAHello) {
            stream
                .write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc")
                .await?;
        }
        return Ok(Held::Plain(stream));
    }
    let mut connection = Connection::open(peer).await?;
    let health = Request::new("GET", "/health/live");
    match how {
        Beginning::HalfAHead => connection.write(b"GET /health/live HT").await?,
        Beginning::OneRequest => drop(connection.ask(&health).await?),
        _ => {}
    }
    Ok(Held::Encrypted(Box::new(connection)))
}

/// As many as are let in of a crowd at one address; nobody waits longer for a place than [`STAY`].
async fn crowd(peer: &Peer) -> Vec<Held> {
    let beginning = (0..CROWD).map(|number| {
        let how = BEGINNINGS[number % BEGINNINGS.len()];
        timeout(STAY, begin(peer, how))
    });
    let begun = join_all(beginning).await;
    begun
        .into_iter()
        .filter_map(|held| held.ok()?.ok())
        .collect()
}

async fn attack(world: &World, addresses: &[u8]) -> Result<usize> {
    let peers: Vec<Peer> = addresses
        .iter()
        .map(|last| world.peer.from(*last))
        .collect();
    let crowds = join_all(peers.iter().map(crowd)).await;
    let held: usize = crowds.iter().map(Vec::len).sum();
    // The crowd is in, and somebody else comes.
    let connection = timeout(STAY, Connection::open(&world.peer)).await;
    let mut connection = connection.context("no connection beside the crowd")??;
    let path = format!("admin/datastore/{STORE}/snapshots");
    let answer = connection
        .ask(&World::request(HONEST, "GET", &path))
        .await?;
    ensure!(answer.status == 200, "{}", answer.text());
    tokio::time::sleep(STAY).await;
    Ok(held)
}

#[test]
fn crowds_that_say_nothing_keep_nobody_out() -> Result<()> {
    let world = World::with(&[&format!("connections-max = {CONNECTIONS_MAX}")])?;
    world.explain(|| {
        let one = world.beside("a crowd at one address", BESIDE_BUDGET_BYTES, attack(&world, &[66]))?;
        let three = [67, 68, 69];
        let several = world.beside("crowds at three addresses", BESIDE_BUDGET_BYTES, attack(&world, &three))?;
        ensure!(one > 0 && several > 0, "nobody of the crowd got in");
        say(&format!(
            "security: crowds of {CROWD} and {} connections, of which {one} and {several} got in for a while; others got in too",
            3 * CROWD
        ));
        Ok(())
    });
    world.daemon.stop()
}
