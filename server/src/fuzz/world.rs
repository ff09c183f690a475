//! A daemon with one datastore and a few people, for hostile input.
//!
//! Everything in it is known beforehand (secrets, the content of the one snapshot), so that seeds can be written by hand.
//! Its runtime is one thread with a clock that moves only when nothing else can: waits cost nothing and happen alike in
//! every run.

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use jiff::Timestamp;
use pbs_datastore::files::OsFiles;
use pbs_datastore::{
    ArchiveName, BackupRequest, CryptMode, DataBlob, Datastore, Digest, Env, IndexChecksum,
    IndexKind, Manifest, ManifestFile, Namespace, Snapshot, SnapshotRef,
};
use tempfile::TempDir;
use tokio::io::DuplexStream;
use tokio::runtime::{Builder, Runtime};

use super::faults;
use crate::api::{Caller, Delays};
use crate::app::App;
use crate::cli::serve::{api_handler, protocol, ready_check};
use crate::config::{ConfigStore, SecretsStore};
use crate::daemon::{Daemon, DirectoryLock};
use crate::stores::TakeOver;

/// The tokens of the people: name in an input, header.
pub const TOKENS: [(&str, &str); 3] = [
    (
        "admin",
        "PBSAPIToken=admin@pbs!t:11111111-1111-4111-8111-111111111111",
    ),
    (
        "backup",
        "PBSAPIToken=backup@pbs!t:22222222-2222-4222-8222-222222222222",
    ),
    (
        "nobody",
        "PBSAPIToken=nobody@pbs!t:33333333-3333-4333-8333-333333333333",
    ),
];
/// When the world begins, and when its one snapshot was made: Unix seconds.
pub const KNOWN_TIME: i64 = 1_790_000_000;
/// The content of the two chunks of `root.pxar.didx` in `host/known`, which is a snapshot of the world; in
/// `disk.img.fidx` is the first alone.
const KNOWN_CHUNKS: [&[u8]; 2] = [
    b"the first known chunk",
    b"the second known chunk, a little longer",
];
/// Their digests in hex.
pub const KNOWN_DIGESTS: [&str; 2] = [
    "77e4b9b645664af72c6800eacf4c30e24e9b5ce816e2d4023bb487b97f7a9348",
    "92072e0f07e7b7b56fd4769c63ebb34c97c3402c908b7fb92fafac2c78ad4988",
];

/// Where a request comes from.
pub(super) const PEER: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 4711);
/// Longer than anything that the daemon waits for.
const EVER: Duration = Duration::from_hours(2);
/// How often the wait for the end of all sessions looks.
const LOOK: Duration = Duration::from_millis(200);
/// Inputs before the world is made anew, so that task logs and chunks do not pile up.
const INPUTS_MAX: u32 = 2000;

/// A directory for one world or input; in memory where the system has such a place.
pub(super) fn room() -> TempDir {
    let memory = Path::new("/dev/shm");
    let made = tempfile::Builder::new()
        .prefix("holdfast-fuzz-")
        .tempdir_in(memory)
        .or_else(|_| tempfile::tempdir());
    made.expect("a temporary directory")
}

/// The daemon and what surrounds it.
pub(super) struct World {
    pub(super) daemon: Arc<Daemon>,
    pub(super) app: App,
    pub(super) known: SnapshotRef,
    pub(super) dir: TempDir,
    config: String,
    secrets: String,
    inputs: u32,
}

/// Whether a world can serve the next input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// Nobody had the right to change anything: all must be as it was.
    Unchanged,
    /// Somebody with the right to may have changed what others rely on.
    Changed,
}

thread_local! {
    // Fields are dropped in order: the world before its runtime.
    static WORLD: RefCell<Option<(World, Runtime)>> = const { RefCell::new(None) };
}

/// Runs one input in the world of this thread, and then looks whether the daemon goes on. A world in which something
/// panicked is not used again.
pub(super) fn in_world(input: impl AsyncFnOnce(&World) -> After) {
    let (mut world, runtime) = WORLD.take().unwrap_or_else(|| {
        let runtime = runtime();
        let world = runtime.block_on(World::new());
        (world, runtime)
    });
    let after = runtime.block_on(async {
        let after = input(&world).await;
        world.settle().await;
        if after == After::Unchanged {
            world.check_unchanged().await;
        }
        world.check_alive().await;
        after
    });
    world.inputs += 1;
    if after == After::Unchanged && world.inputs < INPUTS_MAX {
        WORLD.set(Some((world, runtime)));
    }
}

fn runtime() -> Runtime {
    Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .max_blocking_threads(4)
        .build()
        .expect("a runtime")
}

fn config_text(store: &Path) -> String {
    let people = ["admin", "backup", "nobody"]
        .map(|name| format!("[user.\"{name}@pbs\"]\n[token.\"{name}@pbs!t\"]\n"));
    let right = |path: &str, id: &str, role: &str| {
        format!("[[acl]]\npath = \"{path}\"\nid = \"{id}\"\nrole = \"{role}\"\n")
    };
    let rights = ["admin@pbs", "admin@pbs!t"].map(|id| right("/", id, "Admin"));
    let backup =
        ["backup@pbs", "backup@pbs!t"].map(|id| right("/datastore/one", id, "DatastoreBackup"));
    format!(
        "[datastore.one]\nbackend = \"filesystem\"\npath = \"{}\"\nsync-level = \"none\"\n{}{}{}",
        store.display(),
        people.concat(),
        rights.concat(),
        backup.concat()
    )
}

fn secrets_text() -> String {
    let secrets = TOKENS.map(|(_, header)| {
        let (id, secret) = header
            .trim_start_matches("PBSAPIToken=")
            .split_once(':')
            .expect("written above");
        format!("\"{id}\" = \"recoverable:{secret}\"\n")
    });
    format!(
        "[keys]\nticket = \"{}\"\ncsrf = \"{}\"\n[tokens]\n{}",
        "a1".repeat(32),
        "b2".repeat(32),
        secrets.concat()
    )
}

impl World {
    async fn new() -> Self {
        faults::watch();
        let dir = room();
        let start = Timestamp::from_second(KNOWN_TIME).expect("a time");
        let env = Env::simulated(start, 1, Arc::new(OsFiles));
        let (config, secrets) = (config_text(&dir.path().join("store")), secrets_text());
        let file = dir.path().join("holdfast.toml");
        ConfigStore::create(&file, &config).expect("valid");
        SecretsStore::create(&dir.path().join("secrets.toml"), &secrets).expect("valid");
        let lock = DirectoryLock::take(dir.path()).expect("free");
        let mut daemon = Daemon::assemble(&file, lock, env).expect("assembled");
        Arc::get_mut(&mut daemon).expect("not shared yet").delays = Delays::NONE;
        let opened = daemon.stores.open_now("one", TakeOver::No);
        opened.await.expect("opened");
        let store = daemon.stores.get("one").expect("open");
        let known = add_known(&store).await;
        let connections_max = daemon.config.read().server.connections_max;
        let app = App::new(
            protocol(&daemon),
            api_handler(&daemon),
            ready_check(&daemon),
            connections_max,
        );
        let world = Self {
            daemon,
            app,
            known,
            config,
            secrets,
            dir,
            inputs: 0,
        };
        world.check_unchanged().await;
        world.check_alive().await;
        world
    }

    /// The client's end of a new connection.
    pub(super) fn connect(&self) -> DuplexStream {
        let (near, far) = tokio::io::duplex(64 << 10);
        let app = self.app.clone();
        drop(self.daemon.env.spawn(async move {
            // However it ends: the other end sees that.
            drop(app.serve_in_memory(far, PEER).await);
        }));
        near
    }

    /// The datastore.
    pub(super) fn store(&self) -> Arc<Datastore> {
        self.daemon.stores.get("one").expect("it stays open")
    }

    /// Waits until no session is left, and with it none of its memory and locks.
    async fn settle(&self) {
        let daemon = &self.daemon;
        let settled = async {
            loop {
                let budget = &daemon.budget;
                let idle = daemon.sessions.list().is_empty()
                    && budget.bytes_free() == budget.bytes_max()
                    && daemon
                        .stores
                        .get("one")
                        .is_ok_and(|store| store.snapshots().is_idle());
                if idle || daemon.stores.get("one").is_err() {
                    return;
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        let settled = tokio::time::timeout(EVER, settled).await;
        let (open, free) = (daemon.sessions.list().len(), daemon.budget.bytes_free());
        assert!(
            settled.is_ok(),
            "something of a session is held for ever: {open} sessions, {free} bytes of the budget free"
        );
    }

    /// Configuration, secrets and the known snapshot are as they were made.
    async fn check_unchanged(&self) {
        let read = |name: &str| std::fs::read_to_string(self.dir.path().join(name)).expect("there");
        assert_eq!(
            read("holdfast.toml"),
            self.config,
            "the configuration was changed"
        );
        assert_eq!(
            read("secrets.toml"),
            self.secrets,
            "the secrets were changed"
        );
        let store = self.store();
        let reader = store
            .begin_read(&self.known.namespace, &self.known.snapshot, None)
            .await
            .expect("the known snapshot is there");
        for name in ["root.pxar.didx", "disk.img.fidx", "notes.conf.blob"] {
            let name: ArchiveName = name.parse().expect("a name");
            reader.download(&name).await.expect("a file of it is there");
        }
        for content in KNOWN_CHUNKS {
            let digest = Digest::of(content);
            let chunk = reader.chunk(&digest).await.expect("it can be read");
            let chunk = chunk.expect("an index names it");
            let (header, payload) = chunk.parts();
            let blob = DataBlob::parse([header, payload].concat().into()).expect("a blob");
            let read = blob.decode(1 << 20, None).expect("plain");
            assert_eq!(read, content, "a chunk was changed");
        }
    }

    /// An honest call of the owner is answered.
    async fn check_alive(&self) {
        let request = http::Request::get("/api2/json/version");
        let request = request.body(Full::<Bytes>::default()).expect("a request");
        let answer = self.daemon.respond_whole(request, Caller::Owner);
        let answer = tokio::time::timeout(EVER, answer).await;
        let status = answer.expect("an honest call is answered").status();
        assert_eq!(status, 200, "an honest call is refused");
    }
}

fn plain(content: &[u8]) -> Bytes {
    DataBlob::encode_plain(Bytes::copy_from_slice(content))
        .expect("short")
        .encoded()
}

/// Backs up `host/known`, as an honest client does.
async fn add_known(store: &Arc<Datastore>) -> SnapshotRef {
    let time = Timestamp::from_second(KNOWN_TIME).expect("a time");
    let snapshot: Snapshot = format!("host/known/{time}").parse().expect("a snapshot");
    let request = BackupRequest {
        namespace: Namespace::root(),
        snapshot: snapshot.clone(),
        author: "backup@pbs!t".parse().expect("an id"),
        benchmark: false,
        no_cache: false,
    };
    let backup = store.begin_backup(request).await.expect("begun");
    let mut files = Vec::new();
    let mut add = |name: &ArchiveName, size: usize, csum: Digest| {
        files.push(ManifestFile {
            name: name.clone(),
            crypt_mode: CryptMode::None,
            size: size as u64,
            csum: Some(csum),
        });
    };
    let name: ArchiveName = "root.pxar.didx".parse().expect("a name");
    let wid = backup.create_dynamic(&name).await.expect("created");
    let (mut sum, mut end, mut chunks) = (IndexChecksum::new(), 0, Vec::new());
    for content in KNOWN_CHUNKS {
        let digest = Digest::of(content);
        let (kind, size) = (IndexKind::Dynamic, content.len() as u32);
        let sent = backup.upload(wid, kind, digest, size, plain(content)).await;
        sent.expect("stored");
        chunks.push((digest, end));
        end += u64::from(size);
        sum.push_dynamic(end, &digest);
    }
    let appended = backup.append(wid, IndexKind::Dynamic, &chunks).await;
    appended.expect("appended");
    let (csum, count) = (sum.finish(), chunks.len() as u64);
    let closed = backup
        .close(wid, IndexKind::Dynamic, count, end, csum)
        .await;
    closed.expect("closed");
    add(&name, end as usize, csum);

    let name: ArchiveName = "disk.img.fidx".parse().expect("a name");
    let (digest, size) = (Digest::of(KNOWN_CHUNKS[0]), KNOWN_CHUNKS[0].len() as u64);
    let wid = backup.create_fixed(&name, Some(size), None).await;
    let wid = wid.expect("created");
    let kind = IndexKind::Fixed;
    let sent = backup
        .upload(wid, kind, digest, size as u32, plain(KNOWN_CHUNKS[0]))
        .await;
    sent.expect("stored");
    let appended = backup.append(wid, kind, &[(digest, 0)]).await;
    appended.expect("appended");
    let mut sum = IndexChecksum::new();
    sum.push_fixed(&digest);
    let csum = sum.finish();
    let closed = backup.close(wid, kind, 1, size, csum).await;
    closed.expect("closed");
    add(&name, size as usize, csum);

    let name: ArchiveName = "notes.conf.blob".parse().expect("a name");
    let blob = plain(b"a known blob");
    add(&name, blob.len(), Digest::of(&blob));
    backup.blob(&name, blob).await.expect("stored");
    let manifest = Manifest::new(snapshot.clone(), files).expect("no name comes twice");
    let manifest = manifest.to_blob().expect("short").encoded();
    let stored = backup.blob(&ArchiveName::manifest(), manifest).await;
    stored.expect("stored");
    backup.finish().await.expect("finished");
    backup.end("done").await;
    SnapshotRef::new(Namespace::root(), snapshot)
}
