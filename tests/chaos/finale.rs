//! The end: calm, a last kill, a last start, and then everything that was promised is asked for.
//!
//! 1. The daemon is killed and started again; the way to the S3 server is calm from here on.
//! 2. Garbage is collected until nothing is left that no snapshot needs.
//! 3. The list of snapshots is compared with the ledger.
//! 4. Every snapshot in the list is restored and compared, byte for byte, through the daemon.
//! 5. The copy is brought up to date and must be the same.
//! 6. Every chunk that a sealed snapshot needs is read from the bucket, past the daemon, and hashed.
//! 7. Nothing lingers in the cache directory, and the daemon stops cleanly.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures_util::stream::{self, StreamExt as _};
use holdfast_tests::connection::{Connection, Entrance, Trouble};
use holdfast_tests::measure::site::STORE;
use http::Method;
use pbs_datastore::{BackupTime, BackupType, Namespace, Snapshot, SnapshotRef};
use serde_json::Value;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use super::audit::Audit;
use super::collector::collect;
use super::ledger::{Duty, NAMESPACE};
use super::restore::{Part, restore};
use super::second;
use super::tally::Violation;
use super::world::World;

/// How long collections may be refused, and how long until nothing is left to collect.
const COLLECT_TIME_MAX: Duration = Duration::from_mins(1);
const RETRY: Duration = Duration::from_millis(300);
/// Restores at once.
const RESTORES_MAX: usize = 6;

/// Everything above.
pub(crate) async fn finale(world: &Arc<World>) -> Result<()> {
    world.site.weather.set_calm(true);
    start_again(world).await?;
    let mut audit = Audit::connect(&world.site.access).await?;
    clean_up(world, &mut audit).await?;
    let entrance = world.entrance().await;
    let listed = list(&entrance, STORE).await;
    let listed = listed.map_err(|trouble| anyhow::anyhow!("the list of snapshots: {trouble:?}"))?;
    compare_lists(world, &listed);
    restore_all(world, &entrance, &listed).await;
    second::finale(world, &entrance, &listed).await;
    let contents = audit.contents(world).await?;
    for id in contents.sealed.keys().filter(|id| !listed.contains(id)) {
        let text = format!("{id} is sealed in the bucket and not in the list");
        world.tally.violation(Violation::Loss, text);
    }
    let needed: BTreeSet<_> = contents
        .sealed
        .values()
        .flat_map(|needed| needed.iter().copied())
        .collect();
    world.tally.add("final chunks", needed.len() as u64);
    let bytes = audit.verify(world, needed).await;
    world.tally.add("final bytes in the bucket", bytes);
    let lingering = lingering(world)?;
    if !lingering.is_empty() {
        let text = format!("left in the cache directory: {}", lingering.join(", "));
        world.tally.violation(Violation::Garbage, text);
    }
    let stopping = Arc::clone(world);
    let stopped = spawn_blocking(move || stopping.site.daemon.stop()).await?;
    if let Err(error) = stopped {
        let text = format!("the last stop: {error:#}");
        world.tally.violation(Violation::Crash, text);
    }
    Ok(())
}

/// Step 1.
async fn start_again(world: &Arc<World>) -> Result<()> {
    let world = Arc::clone(world);
    let done = spawn_blocking(move || {
        let site = &world.site;
        site.daemon.kill();
        world.tally.diary("last kill");
        site.door.set(None);
        world.tally.count("kills");
        site.daemon.start()?;
        site.door.set(Some(site.daemon.address()?));
        Ok(())
    });
    done.await?
}

/// Step 2.
async fn clean_up(world: &World, audit: &mut Audit) -> Result<()> {
    let began = Instant::now();
    let mut left = Vec::new();
    while began.elapsed() < COLLECT_TIME_MAX {
        match collect(world, true, false).await {
            Ok(status) => {
                world.tally.count("collections");
                if status["missing-chunks"].as_u64() != Some(0) {
                    let text = format!("the last collection: {status}");
                    world.tally.violation(Violation::Loss, text);
                }
                let removed = status["removed-chunks"].as_u64().unwrap_or(0);
                world.tally.add("removed-chunks", removed);
            }
            Err(Trouble::Refused { sentence, .. }) if sentence.contains("waits") => {
                sleep(RETRY).await;
                continue;
            }
            Err(trouble) => world.trouble("collection", &trouble),
        }
        let contents = audit.contents(world).await?;
        let needed: BTreeSet<_> = contents.sealed.values().flat_map(|n| n.iter()).collect();
        left = contents
            .chunks
            .iter()
            .filter(|digest| !needed.contains(digest))
            .map(ToString::to_string)
            .chain(contents.bad)
            .collect();
        if left.is_empty() {
            return Ok(());
        }
        sleep(RETRY).await;
    }
    let some: Vec<_> = left.iter().take(3).cloned().collect();
    let text = format!(
        "{} chunks that nobody needs, such as {}",
        left.len(),
        some.join(", ")
    );
    world.tally.violation(Violation::Garbage, text);
    Ok(())
}

/// All snapshots in the list of a datastore.
pub(crate) async fn list(
    entrance: &Entrance,
    store: &str,
) -> Result<BTreeSet<SnapshotRef>, Trouble> {
    let mut listed = BTreeSet::new();
    for namespace in ["", NAMESPACE] {
        let mut connection = Connection::open(entrance).await?;
        let path = format!("admin/datastore/{store}/snapshots");
        let parameters = match namespace {
            "" => vec![],
            name => vec![("ns", name.to_owned())],
        };
        let rows = connection.call(Method::GET, &path, &parameters).await?;
        for row in rows.as_array().into_iter().flatten() {
            let id = snapshot(namespace, row);
            listed.insert(id.map_err(|error| Trouble::Wrong(format!("{error:#} in {row}")))?);
        }
    }
    Ok(listed)
}

fn snapshot(namespace: &str, row: &Value) -> Result<SnapshotRef> {
    let text = |name: &str| row[name].as_str().context("a text");
    let kind: BackupType = text("backup-type")?.parse()?;
    let group = pbs_datastore::BackupGroup::new(kind, text("backup-id")?.parse()?);
    let time = BackupTime::new(row["backup-time"].as_i64().context("a time")?)?;
    let namespace: Namespace = namespace.parse()?;
    let snapshot: Snapshot = group.at(time);
    Ok(SnapshotRef::new(namespace, snapshot))
}

/// Step 3.
fn compare_lists(world: &World, listed: &BTreeSet<SnapshotRef>) {
    for id in listed {
        if world.ledger.duty(id) == Duty::Absent {
            let text = format!("{id} is listed: {:?}", world.ledger.state(id));
            world.tally.violation(Violation::Revival, text);
        }
    }
    for (known, duty) in world.ledger.expected() {
        let there = listed.contains(&known.id);
        match (duty, there) {
            (Duty::There, false) => {
                let text = format!("{} was acknowledged and is not listed", known.id);
                world.tally.violation(Violation::Loss, text);
            }
            (Duty::There, true) => world.tally.count("final acknowledged"),
            (_, true) => world.tally.count("final not acknowledged, but there"),
            (_, false) => world.tally.count("final not acknowledged, and not there"),
        }
    }
}

/// Step 4.
async fn restore_all(world: &World, entrance: &Entrance, listed: &BTreeSet<SnapshotRef>) {
    let expected = world.ledger.expected();
    let there = expected
        .iter()
        .filter(|(known, _)| listed.contains(&known.id));
    let restores = stream::iter(there).map(|(known, _)| async move {
        match restore(entrance, STORE, &world.pool, known, Part::Whole).await {
            Ok(bytes) => {
                world.tally.count("final restores");
                world.tally.add("final bytes compared", bytes);
            }
            Err(trouble) => {
                let text = format!("{} cannot be restored: {trouble:?}", known.id);
                world.tally.violation(Violation::Loss, text);
            }
        }
    });
    restores
        .buffer_unordered(RESTORES_MAX)
        .collect::<()>()
        .await;
}

/// What a collection must not leave in the cache directory.
fn lingering(world: &World) -> Result<Vec<String>> {
    let ours = world.site.cache_dir().join(".holdfast");
    let mut found = Vec::new();
    for name in ["uploads", "using", "tmp"] {
        for entry in walkdir::WalkDir::new(ours.join(name)).min_depth(1) {
            let entry = entry?;
            if entry.file_type().is_file() {
                found.push(entry.path().display().to_string());
            }
        }
    }
    let journal = std::fs::metadata(ours.join("gc-journal"));
    if journal.is_ok_and(|stat| stat.len() > 0) {
        found.push("a journal".to_owned());
    }
    Ok(found)
}
