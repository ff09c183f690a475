//! Collects garbage in a loop, with the smallest cutoff, and forgets snapshots beside it.

use std::sync::Arc;
use std::time::Duration;

use holdfast_tests::connection::{Connection, Entrance, Trouble};
use holdfast_tests::measure::noise::Noise;
use holdfast_tests::measure::site::STORE;
use http::Method;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::backup::snapshot_parameters;
use super::gate::Closed;
use super::ledger::State;
use super::sentences;
use super::tally::Violation;
use super::world::World;

/// How long open sessions may take until the collection begins all the same.
const GATE_TIME_MAX: Duration = Duration::from_secs(8);
/// How often the task is looked at.
const LOOK: Duration = Duration::from_millis(60);
const GRACE: Duration = Duration::from_secs(20);
/// What the log of a collection says as soon as the cutoff has been read.
const CUTOFF_READ: &str = "starting garbage collection";
/// Snapshots that are kept: more are forgotten.
pub(crate) const POPULATION: u64 = 45;

/// Collects until the end.
pub(crate) async fn collect_without_end(world: Arc<World>) {
    let mut noise = world.noise(0xc011);
    while !world.is_stopped() {
        // Alone, so that it removes what is there; or among open sessions, whose chunks it must spare.
        let alone = noise.below(4) > 0;
        let run = collect(&world, alone, noise.below(12) == 0);
        match world.until_stopped(GRACE, run).await {
            Some(Ok(status)) => note(&world, &status),
            Some(Err(Trouble::Refused { sentence, .. })) if sentence.contains("waits") => {
                world.tally.count("collections that had to wait");
                world.pause(Duration::from_millis(500)).await;
            }
            Some(Err(trouble)) => world.trouble("collection", &trouble),
            None => {}
        }
        let pause = Duration::from_millis(noise.below(600));
        world.pause(pause).await;
    }
}

fn note(world: &World, status: &Value) {
    let count = |name: &str| status[name].as_u64().unwrap_or(0);
    world.tally.count("collections");
    world.tally.progress();
    for name in [
        "removed-chunks",
        "refused-chunks",
        "unknown-chunks",
        "rescued-chunks",
    ] {
        world.tally.add(name, count(name));
    }
    if count("missing-chunks") > 0 {
        let text = format!("a collection misses {} chunks", count("missing-chunks"));
        world.tally.violation(Violation::Loss, text);
    }
    if count("still-bad") + count("removed-bad") > 0 {
        let text = "a chunk was set aside as damaged, and nobody damages any";
        world.tally.violation(Violation::Loss, text);
    }
}

/// One collection, to its end.
pub(crate) async fn collect(world: &World, alone: bool, stopped: bool) -> Result<Value, Trouble> {
    let entrance = world.entrance().await;
    let mut connection = Connection::open(&entrance).await?;
    let began = Instant::now();
    let closed = if alone {
        Some(world.gate.close(GATE_TIME_MAX).await)
    } else {
        None
    };
    let millis = |since: Instant| since.elapsed().as_millis() as u64;
    world
        .tally
        .add("collections: ms for the gate", millis(began));
    let path = format!("admin/datastore/{STORE}/gc");
    let upid = connection.call(Method::POST, &path, &[]).await?;
    let upid = upid.as_str().unwrap_or_default().to_owned();
    let began = Instant::now();
    follow(&mut connection, &upid, closed, stopped).await?;
    world.tally.add("collections: ms to run", millis(began));
    let status = connection.call(Method::GET, &path, &[]).await?;
    if status["upid"] == upid.as_str() {
        return Ok(status);
    }
    // It failed; its own words are at the end of its log.
    let (_, last) = log(&mut connection, &upid).await?;
    Err(Trouble::Refused {
        status: 0,
        sentence: last,
    })
}

/// Until the task has ended. The gate opens when the cutoff has been read.
async fn follow(
    connection: &mut Connection,
    upid: &str,
    mut closed: Option<Closed<'_>>,
    stopped: bool,
) -> Result<(), Trouble> {
    let task = format!("nodes/localhost/tasks/{upid}");
    loop {
        if closed.is_some() {
            let (first, _) = log(connection, upid).await?;
            if first.contains(CUTOFF_READ) {
                closed = None;
                if stopped {
                    connection.call(Method::DELETE, &task, &[]).await?;
                }
            }
        }
        let path = format!("{task}/status");
        let status = connection.call(Method::GET, &path, &[]).await?;
        if status["status"] != "running" {
            return Ok(());
        }
        sleep(LOOK).await;
    }
}

/// All lines of a task's log, and its last one.
async fn log(connection: &mut Connection, upid: &str) -> Result<(String, String), Trouble> {
    let path = format!("nodes/localhost/tasks/{upid}/log");
    let lines = connection.call(Method::GET, &path, &[]).await?;
    let lines = lines.as_array().cloned().unwrap_or_default();
    let texts = lines.iter().filter_map(|line| line["t"].as_str());
    let texts: Vec<&str> = texts.collect();
    let last = texts.last().copied().unwrap_or_default().to_owned();
    Ok((texts.join("\n"), last))
}

/// Forgets snapshots until the end, as soon as there are many.
pub(crate) async fn forget_without_end(world: Arc<World>, number: u64) {
    let mut noise = world.noise(0xf0f0 + number);
    while !world.is_stopped() {
        if world.ledger.population().acknowledged <= POPULATION {
            world.pause(Duration::from_millis(100)).await;
            continue;
        }
        let step = async {
            let entrance = world.entrance().await;
            forget(&world, &entrance, &mut noise).await;
        };
        world.until_stopped(GRACE, step).await;
        world.pause(Duration::from_millis(noise.below(150))).await;
    }
}

async fn forget(world: &World, entrance: &Entrance, noise: &mut Noise) {
    let also_read = noise.below(4) == 0;
    let Some((id, before)) = world.ledger.pick_to_delete(noise, also_read) else {
        return;
    };
    let asked = async {
        let mut connection = Connection::open(entrance).await?;
        let path = format!("admin/datastore/{STORE}/snapshots");
        let parameters = snapshot_parameters(&id);
        connection.call(Method::DELETE, &path, &parameters).await
    };
    match asked.await {
        Ok(_) => {
            if let Some(plan) = world.ledger.note(&id, State::Deleted) {
                world.pool.is_gone(&plan);
            }
            world.tally.count("deleted");
        }
        Err(Trouble::Refused { sentence, .. }) if sentence.contains("does not exist") => {
            if before == State::Acknowledged {
                let text = format!("{id} was acknowledged, and to delete it: {sentence}");
                world.tally.violation(Violation::Loss, text);
            }
            // An earlier request had its effect, and no answer.
            world.ledger.note(&id, State::Deleted);
            world.tally.count("deleted before");
        }
        Err(trouble) => {
            let nothing = matches!(&trouble, Trouble::Refused { sentence, .. } if sentences::nothing_removed(sentence));
            let now = if nothing { before } else { State::Deleting };
            world.ledger.note(&id, now);
            world.trouble("forget", &trouble);
            if is_to_wait(&trouble) {
                world.pause(Duration::from_millis(500)).await;
            }
        }
    }
}

/// Whether there is no point in trying again at once.
fn is_to_wait(trouble: &Trouble) -> bool {
    match trouble {
        Trouble::Refused { sentence, .. } => sentence.contains("not stopped cleanly"),
        Trouble::Broken(_) => true,
        _ => false,
    }
}
