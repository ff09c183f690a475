//! Readers: what was acknowledged can be read, at any time, whatever else goes on.

use std::sync::Arc;
use std::time::Duration;

use pbs_datastore::{
    ArchiveKind, ArchiveName, Datastore, Digest, Error, Index, Result, SnapshotRef,
};
use rand::RngExt as _;
use rand::rngs::StdRng;

use crate::client::kind_of;
use crate::content::CHUNK_MAX;
use crate::oracle::Fate;
use crate::world::World;

/// Longest time between two restores.
const THINK_MAX: Duration = Duration::from_mins(3);

/// One reader in one life.
pub(crate) struct Reader {
    pub(crate) world: Arc<World>,
    pub(crate) datastore: Arc<Datastore>,
    pub(crate) number: u64,
    pub(crate) rng: StdRng,
}

impl Reader {
    /// Restores until the world stops.
    pub(crate) async fn run(mut self) {
        while !self.world.is_stopping() {
            let world = Arc::clone(&self.world);
            world.think(&mut self.rng, THINK_MAX).await;
            if !world.is_stopping() {
                self.read_one().await;
            }
        }
    }

    /// Restores one of the snapshots that must be there.
    pub(crate) async fn read_one(&mut self) {
        let world = Arc::clone(&self.world);
        let acknowledged = world.oracle.acknowledged();
        if acknowledged.is_empty() {
            return;
        }
        let (id, digests) = &acknowledged[self.rng.random_range(0..acknowledged.len())];
        let whole = self.rng.random_bool(0.7);
        // What is damaged may be healed before the reader tells of it.
        let damaged = digests.iter().any(|digest| world.oracle.is_damaged(digest));
        let result = restore(&world, &self.datastore, id, digests, whole).await;
        let came = result.as_ref().map_or_else(kind_of, |()| "read".to_owned());
        world.note(&format!("reader {}: {id}: {came}", self.number));
        let may_hide = world.scenario.may_hide() || world.disk_failed_lately();
        let hidden = may_hide && matches!(result, Err(Error::NotFound(_)));
        if !damaged && !hidden {
            judge(&world, id, digests, result);
        }
    }
}

/// Reads a snapshot and compares; `whole` or only its beginning.
pub(crate) async fn restore(
    world: &World,
    datastore: &Arc<Datastore>,
    id: &SnapshotRef,
    digests: &[Digest],
    whole: bool,
) -> Result<()> {
    let reader = datastore
        .begin_read(&id.namespace, &id.snapshot, None)
        .await?;
    let name: ArchiveName = "root.pxar.didx".parse().expect("a valid name");
    let bytes = reader.download(&name).await?;
    let index = Index::parse(ArchiveKind::Dynamic, bytes)
        .map_err(|error| Error::Invalid(format!("index: {error}")))?;
    let found: Vec<_> = index.chunks().map(|chunk| chunk.digest).collect();
    if found != digests {
        world
            .oracle
            .violation(format!("{id} names other chunks than were backed up"));
    }
    let count = if whole {
        digests.len()
    } else {
        digests.len().div_ceil(2)
    };
    for digest in &digests[..count] {
        let was_damaged = world.oracle.is_damaged(digest);
        let Some(chunk) = reader.chunk(digest).await? else {
            world
                .oracle
                .violation(format!("{id}: its own chunk {digest} was refused"));
            continue;
        };
        let content = world
            .pool
            .find(digest)
            .expect("only contents of the pool are backed up");
        let decoded = chunk.decode(CHUNK_MAX, Some(&world.pool.key));
        // A forgery may have taken the place of what was damaged and set aside: nobody can tell without the key.
        let spoiled = was_damaged || world.oracle.is_damaged(digest);
        if decoded.ok().as_ref() != Some(&content.data) && !spoiled {
            world.oracle.violation(format!(
                "I7: {id}: chunk {digest} was served with other content"
            ));
        }
    }
    Ok(())
}

/// Which failures a reader has to accept.
pub(crate) fn judge(world: &World, id: &SnapshotRef, digests: &[Digest], result: Result<()>) {
    let Err(error) = result else {
        return;
    };
    let oracle = &world.oracle;
    let given_up = oracle.fate(id) != Some(Fate::Acknowledged);
    let damaged = digests.iter().any(|digest| oracle.is_damaged(digest));
    match error {
        Error::Store(_)
        | Error::Busy(_)
        | Error::File { .. }
        | Error::NotOwner(_)
        | Error::OutcomeUnknown { .. }
        | Error::Stopped => {}
        _ if given_up || damaged => {}
        error => oracle.violation(format!("{id} was acknowledged and cannot be read: {error}")),
    }
}
