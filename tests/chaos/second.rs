//! Keeps a second copy of everything in a directory of its own by pulling, collects its garbage, and has both looked at by quick
//! verification, beside all the rest.
//!
//! What a pull or a verification says of its end is not judged like a refusal, for each tells of everything that was in its way. But nothing may be
//! missing or damaged at any moment, and at the end the copy is the same as what it was made from.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use holdfast_tests::connection::{Connection, Entrance, Trouble};
use holdfast_tests::measure::site::STORE;
use http::Method;
use pbs_datastore::SnapshotRef;
use tokio::time::{Instant, sleep};

use super::finale::list;
use super::restore::{Part, restore};
use super::sentences;
use super::tally::Violation;
use super::world::World;

/// The datastore of the copy.
pub(crate) const COPY: &str = "copy";
/// How often a task is looked at.
const LOOK: Duration = Duration::from_millis(200);
const GRACE: Duration = Duration::from_secs(20);
/// How long the last pull may be begun anew.
const LAST_TIME_MAX: Duration = Duration::from_mins(1);
/// Parts of the end of a task that say that something is lost.
const LOSS: &[&str] = &[
    "is missing",
    "verification of",
    "other content",
    "known bad",
];

/// Pulls and verifies until the end.
pub(crate) async fn copy_without_end(world: Arc<World>) {
    let mut noise = world.noise(0x5ec0);
    while !world.is_stopped() {
        let run = async {
            match noise.below(6) {
                0 => verify(&world, STORE).await,
                1 => verify(&world, COPY).await,
                2 => collect(&world).await,
                _ => pull(&world).await,
            }
        };
        match world.until_stopped(GRACE, run).await {
            Some(Ok(_)) | None => {}
            Some(Err(trouble)) => world.trouble("second copy", &trouble),
        }
        world.pause(Duration::from_millis(noise.below(3000))).await;
    }
}

/// Brings the copy up to date; how that ended.
async fn pull(world: &World) -> Result<String, Trouble> {
    let parameters = [
        ("store", COPY.to_owned()),
        ("remote-store", STORE.to_owned()),
        ("remove-vanished", "true".to_owned()),
    ];
    run(world, "pull", "pull", &parameters).await
}

/// Removes from the copy what it needs no more, at once.
async fn collect(world: &World) -> Result<String, Trouble> {
    let path = format!("admin/datastore/{COPY}/gc");
    run(world, "collection of the copy", &path, &[]).await
}

/// Looks for everything without reading it.
async fn verify(world: &World, store: &str) -> Result<String, Trouble> {
    let path = format!("admin/datastore/{store}/verify");
    let parameters = [("sample", "0".to_owned())];
    run(world, "quick verification", &path, &parameters).await
}

/// Runs a task to its end, and counts what came of it.
async fn run(
    world: &World,
    what: &str,
    path: &str,
    parameters: &[(&str, String)],
) -> Result<String, Trouble> {
    let entrance = world.entrance().await;
    let mut connection = Connection::open(&entrance).await?;
    let upid = connection.call(Method::POST, path, parameters).await?;
    let task = upid.as_str().unwrap_or_default();
    let path = format!("nodes/localhost/tasks/{task}/status");
    let status = loop {
        let status = connection.call(Method::GET, &path, &[]).await?;
        if status["status"] != "running" {
            break status["exitstatus"].as_str().unwrap_or_default().to_owned();
        }
        sleep(LOOK).await;
    };
    if status == "OK" {
        world.tally.count(&format!("{what}: done"));
        world.tally.progress();
    } else {
        let shape = sentences::shape(&status);
        world.tally.count(&format!("ended: {what}: {shape}"));
    }
    if LOSS.iter().any(|part| status.contains(part)) {
        let text = format!("{what}: {status}");
        world.tally.violation(Violation::Loss, text);
    }
    Ok(status)
}

/// The end: a last pull, after which the copy has what is `listed`, and every byte of it is right.
pub(crate) async fn finale(world: &World, entrance: &Entrance, listed: &BTreeSet<SnapshotRef>) {
    let began = Instant::now();
    let pulled = loop {
        let ended = pull(world).await;
        if began.elapsed() > LAST_TIME_MAX || ended.as_ref().is_ok_and(|status| status == "OK") {
            break ended;
        }
        sleep(LOOK).await;
    };
    if !pulled.as_ref().is_ok_and(|status| status == "OK") {
        let text = format!("the last pull does not end well: {pulled:?}");
        world.tally.violation(Violation::Hang, text);
        return;
    }
    let copied = match list(entrance, COPY).await {
        Ok(copied) => copied,
        Err(trouble) => return world.trouble("second copy", &trouble),
    };
    for id in listed.difference(&copied) {
        let text = format!("{id} is not in the copy");
        world.tally.violation(Violation::Loss, text);
    }
    for id in copied.difference(listed) {
        let text = format!("{id} is in the copy, and gone where it came from");
        world.tally.violation(Violation::Revival, text);
    }
    if let Err(trouble) = collect(world).await {
        world.trouble("second copy", &trouble);
    }
    for (known, _) in world.ledger.expected() {
        if !copied.contains(&known.id) || known.plan.is_ballast() {
            continue;
        }
        match restore(entrance, COPY, &world.pool, &known, Part::Whole).await {
            Ok(bytes) => {
                world.tally.count("final restores of the copy");
                world.tally.add("final bytes of the copy", bytes);
            }
            Err(trouble) => {
                let text = format!("{} cannot be restored from the copy: {trouble:?}", known.id);
                world.tally.violation(Violation::Loss, text);
            }
        }
    }
    if let Err(trouble) = verify(world, COPY).await {
        world.trouble("second copy", &trouble);
    }
}
