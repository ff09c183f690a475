//! Everybody but clients and readers: garbage collection, deletion of snapshots, damage, and what befalls the disk.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nix::errno::Errno;
use pbs_datastore::files::{FileFault, FileOp};
use pbs_datastore::{Datastore, Error, GcOptions, JobContext};
use rand::RngExt as _;
use rand::rngs::StdRng;

use crate::client::kind_of;
use crate::forced::FILES;
use crate::life::Life;
use crate::world::World;

/// The operator of one life.
pub(crate) struct Operator {
    pub(crate) world: Arc<World>,
    pub(crate) life: Life,
    pub(crate) datastore: Arc<Datastore>,
    pub(crate) rng: StdRng,
}

impl Operator {
    /// Collects garbage again and again.
    pub(crate) async fn collect(mut self) {
        while !self.world.is_stopping() {
            let world = Arc::clone(&self.world);
            world
                .think(&mut self.rng, world.scenario.gc_pause_max)
                .await;
            if !world.is_stopping() {
                collect(&world, &self.datastore).await;
            }
        }
    }

    /// Deletes snapshots now and then.
    pub(crate) async fn delete(mut self) {
        while !self.world.is_stopping() {
            let world = Arc::clone(&self.world);
            world
                .think(&mut self.rng, world.scenario.delete_pause_max)
                .await;
            let acknowledged = world.oracle.acknowledged();
            if world.is_stopping() || acknowledged.is_empty() {
                continue;
            }
            let (id, _) = &acknowledged[self.rng.random_range(0..acknowledged.len())];
            world.oracle.deletion_begins(id);
            let result = self.datastore.snapshots().delete(id).await;
            let came = result
                .as_ref()
                .map_or_else(kind_of, |()| "deleted".to_owned());
            world.note(&format!("operator: {id}: {came}"));
        }
    }

    /// Damages what is stored.
    pub(crate) async fn rot(mut self) {
        while !self.world.is_stopping() {
            let world = Arc::clone(&self.world);
            world.think(&mut self.rng, Duration::from_mins(10)).await;
            // To damage one twice could be to mend it.
            let mut chunks = world.oracle.truth().chunks();
            chunks.retain(|(digest, _)| !world.oracle.is_damaged(digest));
            if world.is_stopping() || chunks.is_empty() {
                continue;
            }
            let (digest, body) = &chunks[self.rng.random_range(0..chunks.len())];
            world.oracle.damage(*digest);
            let spoiled = spoiled(&mut self.rng, body);
            world.oracle.truth().overwrite(digest, spoiled);
            world.note(&format!("damage: {}", &digest.to_string()[..8]));
        }
    }

    /// Fills the disk, or lets it fail, for a while.
    pub(crate) async fn disk(mut self) {
        while !self.world.is_stopping() {
            let world = Arc::clone(&self.world);
            world.think(&mut self.rng, Duration::from_mins(8)).await;
            if world.is_stopping() {
                break;
            }
            world.disk_fails(true);
            if self.rng.random_bool(0.5) {
                let bytes = self.rng.random_bool(0.6);
                let used = world.disk.bytes_used();
                world.note("the disk is full");
                world.disk.set_limits(Some(used), (!bytes).then_some(1));
                world.think(&mut self.rng, Duration::from_mins(5)).await;
                world.disk.set_limits(None, None);
            } else {
                let (op, area) = FILES[self.rng.random_range(0..FILES.len())];
                world.note(&format!("the disk fails: {op:?} {area}"));
                self.life
                    .faulty_files
                    .add(fault(op, area, self.rng.random_range(1..4)));
                world.think(&mut self.rng, Duration::from_mins(2)).await;
                self.life.faulty_files.clear();
            }
            world.disk_fails(false);
        }
        self.world.disk.set_limits(None, None);
    }
}

/// What a disk that rots makes of a chunk.
pub(crate) fn spoiled(rng: &mut StdRng, body: &Bytes) -> Bytes {
    let mut body = body.to_vec();
    if rng.random_bool(0.3) {
        body.truncate(body.len() / 2);
    } else if let Some(last) = body.last_mut() {
        *last ^= 0x40;
    }
    body.into()
}

fn fault(op: FileOp, area: &str, times: usize) -> FileFault {
    FileFault {
        op,
        path: area.to_owned(),
        times,
        errno: Errno::EIO as i32,
    }
}

/// One collection. It may be refused or fail; what it may not do is find something missing that nobody damaged.
pub(crate) async fn collect(world: &World, datastore: &Datastore) -> bool {
    let result = datastore
        .collect(GcOptions::default(), "UPID:sim", &JobContext::detached())
        .await;
    match result {
        Ok(status) => {
            world.note(&format!(
                "collection: removed {}, kept {}, pending {}, rescued {}, missing {}, refused {}, unknown {}",
                status.removed_chunks,
                status.disk_chunks,
                status.pending_chunks,
                status.rescued_chunks,
                status.missing_chunks,
                status.refused_chunks,
                status.unknown_chunks,
            ));
            if status.missing_chunks > 0 && !world.oracle.was_damaged() {
                let count = status.missing_chunks;
                world
                    .oracle
                    .violation(format!("I10: a collection misses {count} chunks"));
            }
            true
        }
        Err(error) => {
            world.note(&format!("collection: {}", kind_of(&error)));
            if let Error::Invalid(why) = &error {
                world
                    .oracle
                    .violation(format!("a collection was refused for its input: {why}"));
            }
            false
        }
    }
}
