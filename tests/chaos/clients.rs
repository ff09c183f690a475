//! Clients that speak the protocol themselves: they back up, restore and compare without end.

use std::sync::Arc;
use std::time::Duration;

use holdfast_tests::connection::Trouble;
use holdfast_tests::measure::noise::Noise;
use holdfast_tests::measure::site::STORE;
use pbs_datastore::SnapshotRef;

use super::backup::{Backup, Mood};
use super::collector::POPULATION;
use super::content::Shape;
use super::ledger::{Known, State};
use super::restore::{Part, restore};
use super::world::World;

/// How long what was begun may go on when all is to end.
const GRACE: Duration = Duration::from_secs(10);

/// Client number `number`, until the end.
pub(crate) async fn be_client(world: Arc<World>, number: u64) {
    let mut noise = world.noise(number);
    while !world.is_stopped() {
        let step = async {
            // When more is backed up than can be forgotten, there is more to read.
            let crowded = world.ledger.population().acknowledged > 2 * POPULATION;
            if noise.below(12) < if crowded { 8 } else { 3 } {
                read_back(&world, &mut noise).await
            } else {
                back_up(&world, &mut noise).await
            }
        };
        let done = world.until_stopped(GRACE, step).await;
        let pause = if done == Some(true) { 200 } else { 1000 };
        world.pause(Duration::from_millis(noise.below(pause))).await;
    }
}

/// Returns whether it worked out.
async fn back_up(world: &World, noise: &mut Noise) -> bool {
    let entrance = world.entrance().await;
    let _inside = world.gate.enter().await;
    // One in sixteen is an image, whose chunks are long and nearly empty.
    let shape = if noise.below(16) == 0 {
        Shape::Image
    } else {
        Shape::Stream
    };
    let Ok(known) = world
        .ledger
        .begin(noise, &world.pool, shape, world.seconds())
    else {
        return false;
    };
    let backup = Backup {
        pool: &world.pool,
        ledger: &world.ledger,
        gate: &world.gate,
        tally: &world.tally,
        known: &known,
        mood: Mood::draw(noise),
    };
    let done = backup.run(&entrance).await;
    let worked_out = done.is_ok();
    match done {
        Ok(done) => {
            world.tally.progress();
            world.tally.count("acknowledged");
            world.tally.add("chunks sent", done.sent);
            world.tally.add("chunks known", done.known);
            world.tally.add("uploads reset", done.resets);
        }
        Err(trouble) => world.trouble("backup", &trouble),
    }
    worked_out
}

/// Returns whether it worked out.
async fn read_back(world: &World, noise: &mut Noise) -> bool {
    let entrance = world.entrance().await;
    let Some(known) = world.ledger.pick_to_read(noise) else {
        return true;
    };
    let _reading = Reading(world, known.id.clone());
    let part = if known.plan.is_ballast() {
        Part::Some {
            first: noise.below(known.plan.pieces.len() as u64) as usize,
            count: 8 + noise.below(24) as usize,
        }
    } else {
        Part::Whole
    };
    let done = restore(&entrance, STORE, &world.pool, &known, part).await;
    let worked_out = done.is_ok();
    match done {
        Ok(bytes) => {
            world.tally.progress();
            world.tally.count("restores");
            world.tally.add("bytes compared", bytes);
        }
        Err(trouble) => not_read(world, &known, &trouble),
    }
    worked_out
}

/// A snapshot that is deleted while it is read may go at any moment.
pub(crate) fn not_read(world: &World, known: &Known, trouble: &Trouble) {
    let refused = matches!(trouble, Trouble::Refused { .. });
    if refused && world.ledger.state(&known.id) != Some(State::Acknowledged) {
        world.tally.count("failed: restore: deleted meanwhile");
        return;
    }
    let named = match trouble {
        Trouble::Wrong(what) => Trouble::Wrong(format!("{}: {what}", known.id)),
        other => other.clone(),
    };
    world.trouble("restore", &named);
}

/// A snapshot that is being read until this is dropped.
pub(crate) struct Reading<'a>(pub(crate) &'a World, pub(crate) SnapshotRef);

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.0.ledger.read(&self.1);
    }
}
