//! What must hold when everybody has stopped, nothing goes wrong any more, and garbage has been collected.
//!
//! - Every acknowledged snapshot that nobody has given up is there and can be restored, through the daemon and from what is
//!   stored alone. Every snapshot that is there at all is complete.
//! - What no snapshot needs is gone: chunks, parts of snapshots that were never sealed, upload markers, using markers,
//!   temporary files, the journal.
//! - The daemon believes in no chunk that is not stored.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pbs_datastore::files::Files as _;
use pbs_datastore::{
    ArchiveKind, DataBlob, Datastore, Digest, Index, Manifest, Place, SnapshotFile, SnapshotRef,
};

use crate::life::Life;
use crate::operator::collect;
use crate::oracle::{Truth, all_files};
use crate::reader::{judge, restore};
use crate::scenario::{Kind, LATE, WINDOW};
use crate::world::World;

/// How long a stop may take.
const STOP_MAX: Duration = Duration::from_mins(5);

/// Collections until nothing more is collected: what the first finds may be too young, and condemned by the second.
const COLLECTIONS: usize = 3;

pub(crate) async fn check(world: &Arc<World>, life: Life, datastore: Arc<Datastore>) {
    settle(world, &datastore).await;
    for (id, digests) in world.oracle.acknowledged() {
        let result = restore(world, &datastore, &id, &digests, true).await;
        judge(world, &id, &digests, result);
    }
    // What the restores found damaged is being set aside.
    tokio::time::sleep(LATE * 4).await;
    let stored = Stored::read(world);
    stored.check_snapshots(world);
    stored.check_garbage(world);
    stored.check_local(world, &life);
    let closed = datastore.close(STOP_MAX).await;
    if !matches!(closed, Ok(true)) {
        world
            .oracle
            .violation("a quiet daemon does not stop cleanly".to_owned());
    }
    drop(datastore);
    life.kill().await;
}

async fn settle(world: &World, datastore: &Datastore) {
    // Longer than any late request, and than what a take-over waits for.
    tokio::time::sleep((LATE + WINDOW) * 4).await;
    if matches!(world.scenario.kind, Kind::Directory(_)) {
        // Uses that were recorded while the clock was days ahead.
        tokio::time::sleep(Duration::from_hours(120)).await;
    }
    for _ in 0..COLLECTIONS {
        if !collect(world, datastore).await {
            world
                .oracle
                .violation("a collection is refused although all is quiet".to_owned());
        }
        tokio::time::sleep(world.scenario.gc_cutoff + Duration::from_hours(1)).await;
    }
}

/// All files by their place, wherever they are kept.
struct Stored {
    chunks: BTreeSet<Digest>,
    snapshots: BTreeMap<SnapshotRef, BTreeMap<String, Bytes>>,
}

impl Stored {
    fn read(world: &World) -> Self {
        let mut stored = Self {
            chunks: BTreeSet::new(),
            snapshots: BTreeMap::new(),
        };
        match world.oracle.truth() {
            Truth::Bucket(model, layout) => {
                for (key, object) in model.objects() {
                    if let Some(place) = layout.parse(&key) {
                        stored.take(place, || object.body.into_bytes());
                    }
                }
            }
            Truth::Directory(disk, root) => {
                let files = disk.mount();
                for path in all_files(&*files, root) {
                    let inside = path.strip_prefix(root).expect("it was found there");
                    if let Some(place) = pbs_datastore::LocalLayout::Directory.parse(inside) {
                        stored.take(place, || files.read(&path).expect("it was found there"));
                    }
                }
            }
        }
        stored
    }

    fn take(&mut self, place: Place, content: impl FnOnce() -> Bytes) {
        match place {
            Place::Chunk(digest) => {
                self.chunks.insert(digest);
            }
            Place::SnapshotFile(namespace, snapshot, SnapshotFile::Archive(name)) => {
                let id = SnapshotRef::new(namespace, snapshot);
                let files = self.snapshots.entry(id).or_default();
                files.insert(name.to_string(), content());
            }
            _ => {}
        }
    }

    /// The digests of all indexes of a snapshot, or what is wrong with it.
    fn digests(files: &BTreeMap<String, Bytes>) -> Result<BTreeSet<Digest>, String> {
        let manifest = files.get("index.json.blob").ok_or("it was never sealed")?;
        let manifest = DataBlob::parse(manifest.clone()).map_err(|error| error.to_string())?;
        let manifest = Manifest::parse(&manifest).map_err(|error| error.to_string())?;
        let mut digests = BTreeSet::new();
        for file in manifest.files() {
            let name = file.name.to_string();
            let content = files.get(&name).ok_or(format!("'{name}' is missing"))?;
            if file.name.kind() == ArchiveKind::Dynamic {
                let index = Index::parse(ArchiveKind::Dynamic, content.clone())
                    .map_err(|error| format!("'{name}': {error}"))?;
                if Some(index.csum()) != file.csum {
                    return Err(format!("'{name}' is another than its manifest says"));
                }
                digests.extend(index.chunks().map(|chunk| chunk.digest));
            }
        }
        Ok(digests)
    }

    fn check_snapshots(&self, world: &World) {
        let oracle = &world.oracle;
        for (snapshot, files) in &self.snapshots {
            match Self::digests(files) {
                Err(why) => oracle.violation(format!("snapshot {snapshot}: {why}")),
                Ok(digests) => {
                    let lost = digests
                        .iter()
                        .find(|digest| !oracle.is_damaged(digest) && !oracle.holds(digest));
                    if let Some(digest) = lost {
                        oracle.violation(format!("LOST: chunk {digest} of snapshot {snapshot}"));
                    }
                }
            }
        }
        for (id, _) in oracle.acknowledged() {
            if !self.snapshots.contains_key(&id) {
                oracle.violation(format!("LOST: snapshot {id}"));
            }
        }
    }

    fn check_garbage(&self, world: &World) {
        let needed: BTreeSet<_> = self
            .snapshots
            .values()
            .filter_map(|files| Self::digests(files).ok())
            .flatten()
            .collect();
        let garbage = self.chunks.difference(&needed).count();
        if garbage > 0 {
            world
                .oracle
                .violation(format!("{garbage} chunks that nobody needs are kept"));
        }
    }

    /// What lies in the cache directory, or in the directory's own folder.
    fn check_local(&self, world: &World, life: &Life) {
        let files = world.disk.mount();
        let root = life.machine.dir();
        let oracle = &world.oracle;
        for folder in ["uploads", "using", "tmp"] {
            let mut left = all_files(&*files, &root.join(".holdfast").join(folder));
            // What was damaged and not healed is in use and missing, which is what a using marker says.
            left.retain(|path| !digest_of(path).is_some_and(|digest| oracle.is_damaged(&digest)));
            if let Some(file) = left.first() {
                oracle.violation(format!(
                    "{} files are left in {folder}: {}",
                    left.len(),
                    file.display()
                ));
            }
        }
        if files.stat(&root.join(".holdfast/gc-journal")).is_ok() {
            oracle.violation("the journal of deletes is left".to_owned());
        }
        let believed = all_files(&*files, &root.join(".chunks"));
        let unproven = believed.iter().filter_map(|path| {
            let digest = digest_of(path)?;
            (!self.chunks.contains(&digest)).then_some(digest)
        });
        for digest in unproven {
            oracle.violation(format!(
                "I3: the marker of chunk {digest} is there and the chunk is not"
            ));
        }
    }
}

fn digest_of(path: &Path) -> Option<Digest> {
    path.file_name()?.to_str()?.parse().ok()
}
