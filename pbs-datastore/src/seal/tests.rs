//! Tests of claim and seal.

mod answers;
mod crash;
mod manifest;
mod rivals;
mod session;

use std::time::Duration;

use s3_client::{
    Action, Effect, ErrorKind, Fault, Metadata, ModelOptions, ObjectStore as _, Op, Put, Support,
};

use super::*;
use crate::snapshots::tests::{A1, A2, B1, Daemon, T, World, fill, group, id, name};
use crate::{ArchiveKind, Digest, Error, Manifest, SessionState, SnapshotState, SyncLevel};

const STATS: ChunkUploadStats = ChunkUploadStats {
    count: 3,
    size: 30,
    compressed_size: 20,
    duplicates: 1,
};

fn seals() -> Fault {
    Fault::on(Op::Put).containing("index.json.blob")
}

fn is_sealed(world: &World) -> bool {
    world.has(&id(A1).manifest()) && world.has(&id(A1).file(&name("a.didx")))
}

async fn new_backup_begins(daemon: &Daemon) -> bool {
    let writer = daemon.begin(&id(A2)).await;
    writer.is_ok_and(|writer| writer.base() == Some(id(A1)))
}
