//! A start over a damaged cache directory and a damaged bucket, and a day of work after it.
//!
//! An input is a list of files, separated by the byte 0x1e and a line break: `cache/PATH` or `bucket/KEY` on the first line, then the content;
//! with `-` before it the file is removed, and `!crash` alone means that the daemon before was killed. They are put over
//! a cache directory and a bucket with one snapshot, `host/known`.
//!
//! A start is refused or works. What lies in the cache directory alone never costs anything that is in the bucket (I3): the
//! snapshot is there after two garbage collections days later, and what a client was told is stored is stored.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::fs::{self, FileTimes};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use pbs_datastore::files::OsFiles;
use pbs_datastore::{
    ArchiveName, Backend, Backup, BackupRequest, BucketAccess, Capabilities, CryptMode, DataBlob,
    Datastore, DatastoreConfig, Digest, Env, GcOptions, IndexChecksum, IndexKind, JobContext,
    Manifest, ManifestFile, MemoryBudget, Namespace, OpenOptions, Snapshot,
};
use s3_client::{ModelOptions, ModelStore, Object, ObjectKey, ObjectStore};
use tokio::runtime::{Builder, Runtime};

use super::scratch::room;

/// T of this datastore.
const LATE: Duration = Duration::from_mins(1);
/// A long wait: everything unused is old after it.
const DAYS: Duration = Duration::from_hours(72);
/// Longer than anything takes.
const EVER: Duration = Duration::from_hours(24 * 30);
/// Files of an input.
const FILES_MAX: usize = 32;
const KNOWN: [&[u8]; 2] = [b"the first chunk of a known archive", b"the second one"];
const FRESH: &[u8] = b"what a client sends after the start";

/// Cache directory and bucket after one backup.
struct Base {
    files: BTreeMap<PathBuf, (Vec<u8>, fs::Permissions)>,
    objects: BTreeMap<ObjectKey, Object>,
}

impl Base {
    /// Of a daemon that was stopped, or killed.
    fn made(stopped: bool) -> Self {
        let dir = room();
        runtime().block_on(async {
            let model = Arc::new(ModelStore::new(ModelOptions::default()));
            let store = open(&model, dir.path()).await.expect("a new datastore");
            let content = KNOWN.map(Bytes::from_static);
            let finished = back_up(&store, "host/known/2024-12-01T00:00:00Z", &content).await;
            finished.expect("an honest backup");
            tokio::time::sleep(DAYS).await;
            let status = collect(&store).await.expect("a first collection");
            assert_eq!(status.removed_chunks, 0);
            if stopped {
                assert!(store.close(EVER).await.expect("closed"), "a clean stop");
            }
            let mut files = BTreeMap::new();
            read_tree(dir.path(), Path::new(""), &mut files);
            Self {
                files,
                objects: model.objects(),
            }
        })
    }

    fn put_back(&self, dir: &Path, model: &ModelStore) {
        // Long before the model's clock begins, so that nothing is in use by its age.
        let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_730_000_000);
        for (path, (content, permissions)) in &self.files {
            let path = dir.join(path);
            fs::create_dir_all(path.parent().expect("below dir")).expect("made");
            fs::write(&path, content).expect("written");
            fs::set_permissions(&path, permissions.clone()).expect("set");
            let file = fs::File::options().write(true).open(&path).expect("there");
            let times = FileTimes::new().set_accessed(old).set_modified(old);
            file.set_times(times).expect("set");
        }
        let old = jiff::Timestamp::try_from(old).expect("a time");
        for (key, object) in &self.objects {
            let (body, metadata) = (object.body.clone(), object.meta.metadata.clone());
            model.insert_raw(key.clone(), body, metadata, Some(old));
        }
    }
}

fn read_tree(root: &Path, below: &Path, files: &mut BTreeMap<PathBuf, (Vec<u8>, fs::Permissions)>) {
    for entry in fs::read_dir(root.join(below)).expect("a directory") {
        let entry = entry.expect("read");
        let path = below.join(entry.file_name());
        if entry.file_type().expect("known").is_dir() {
            read_tree(root, &path, files);
        } else {
            let content = fs::read(entry.path()).expect("read");
            let permissions = entry.metadata().expect("there").permissions();
            files.insert(path, (content, permissions));
        }
    }
}

/// What an input does to the base.
#[derive(Default)]
struct Damage {
    crash: bool,
    cache: Vec<(PathBuf, Option<Vec<u8>>)>,
    bucket: Vec<(ObjectKey, Option<Vec<u8>>)>,
    /// Something it names could pass for what the last client sends.
    forges_fresh: bool,
}

impl Damage {
    fn of(data: &[u8]) -> Self {
        let mut damage = Self::default();
        let fresh = Digest::of(FRESH).to_string();
        for file in holdfast::fuzz::records(data).take(FILES_MAX) {
            let end = file.iter().position(|byte| *byte == b'\n');
            let (name, content) = match end {
                Some(end) => (&file[..end], &file[end + 1..]),
                None => (file, &[][..]),
            };
            let name = String::from_utf8_lossy(name);
            let (removed, name) = match name.strip_prefix('-') {
                Some(name) => (true, name),
                None => (false, &*name),
            };
            let content = (!removed).then(|| content.to_vec());
            damage.forges_fresh |= name.contains(&fresh);
            if name == "!crash" {
                damage.crash = true;
            } else if let Some(path) = name.strip_prefix("cache/") {
                let path = PathBuf::from(path);
                let inside = path
                    .components()
                    .all(|part| matches!(part, Component::Normal(_)));
                if inside && !path.as_os_str().is_empty() {
                    damage.cache.push((path, content));
                }
            } else if let Some(key) = name.strip_prefix("bucket/")
                && let Ok(key) = ObjectKey::new(key)
            {
                damage.bucket.push((key, content));
            }
        }
        damage
    }

    fn is_none(&self) -> bool {
        self.cache.is_empty() && self.bucket.is_empty()
    }

    fn do_to(&self, cache: &Path, model: &ModelStore) {
        for (path, content) in &self.cache {
            let path = cache.join(path);
            // What a file system does not let happen has not happened.
            if let Some(content) = content {
                let _ = path.parent().map(fs::create_dir_all);
                let _ = fs::write(&path, content);
            } else if path.is_dir() {
                let _ = fs::remove_dir_all(&path);
            } else {
                let _ = fs::remove_file(&path);
            }
        }
        for (key, content) in &self.bucket {
            if let Some(content) = content {
                let metadata = s3_client::Metadata::new();
                model.insert_raw(key.clone(), Bytes::from(content.clone()), metadata, None);
            } else {
                model.remove_raw(key);
            }
        }
    }
}

/// One start and what follows.
pub(super) fn start(data: &[u8]) {
    thread_local! {
        static STOPPED: OnceCell<Base> = const { OnceCell::new() };
        static KILLED: OnceCell<Base> = const { OnceCell::new() };
    }
    let damage = Damage::of(data);
    let run = |base: &Base| runtime().block_on(lived_through(base, &damage));
    if damage.crash {
        KILLED.with(|base| run(base.get_or_init(|| Base::made(false))));
    } else {
        STOPPED.with(|base| run(base.get_or_init(|| Base::made(true))));
    }
}

async fn lived_through(base: &Base, damage: &Damage) {
    let dir = room();
    let cache = dir.path();
    let model = Arc::new(ModelStore::new(ModelOptions::default()));
    base.put_back(cache, &model);
    damage.do_to(cache, &model);
    let opened = open(&model, cache).await;
    assert!(
        opened.is_ok() || !damage.is_none(),
        "an undamaged start is refused"
    );
    if let Ok(store) = opened {
        let wait = tokio::time::timeout(EVER, a_day_of_work(&store, &model, damage));
        wait.await.expect("work comes to an end");
    }
    if damage.bucket.is_empty() {
        // Owner and status are written anew by every start and collection.
        let lasting = |key: &ObjectKey| {
            key.as_str().contains(".chunks/") || key.as_str().contains("/host/known/")
        };
        for (key, object) in base.objects.iter().filter(|(key, _)| lasting(key)) {
            let now = model.object(key);
            let now = now.unwrap_or_else(|| panic!("'{key}' is gone from the bucket"));
            if !key.as_str().ends_with("index.json.blob") {
                assert_eq!(
                    now.body.into_bytes(),
                    object.body.clone().into_bytes(),
                    "'{key}' was changed"
                );
            }
        }
    }
}

async fn a_day_of_work(store: &Arc<Datastore>, model: &ModelStore, damage: &Damage) {
    let snapshots = store.snapshots();
    let _ = snapshots.namespaces(&Namespace::root(), 7).await;
    let _ = snapshots.groups(&Namespace::root()).await;
    let told = back_up(
        store,
        "host/fresh/2025-06-01T00:00:00Z",
        &[Bytes::from_static(FRESH)],
    )
    .await;
    assert!(
        told.is_ok() || !damage.is_none(),
        "an honest backup is refused: {told:?}"
    );
    if told.is_ok() && damage.bucket.is_empty() && !damage.forges_fresh {
        let digest = Digest::of(FRESH).to_string();
        let stored = model
            .objects()
            .into_iter()
            .find(|(key, _)| key.as_str().ends_with(&digest));
        let (_, object) = stored.expect("what is acknowledged is in the bucket");
        let blob = DataBlob::parse(object.body.into_bytes()).expect("a blob");
        assert_eq!(blob.decode(1 << 20, None).expect("plain"), FRESH);
    }
    for _ in 0..2 {
        tokio::time::sleep(DAYS).await;
        let collected = collect(store).await;
        assert!(
            collected.is_ok() || !damage.is_none(),
            "nothing is collected: {collected:?}"
        );
    }
    let snapshot: Snapshot = "host/known/2024-12-01T00:00:00Z"
        .parse()
        .expect("a snapshot");
    let read = read_back(store, &snapshot).await;
    if damage.bucket.is_empty() {
        let content =
            read.unwrap_or_else(|error| panic!("the known snapshot cannot be read: {error}"));
        assert_eq!(content, KNOWN.concat());
    }
    let _ = store.close(DAYS).await;
}

async fn read_back(store: &Arc<Datastore>, snapshot: &Snapshot) -> pbs_datastore::Result<Vec<u8>> {
    let reader = store.begin_read(&Namespace::root(), snapshot, None).await?;
    let name: ArchiveName = "root.pxar.didx".parse().expect("a name");
    reader.download(&name).await?;
    let mut content = Vec::new();
    for chunk in KNOWN {
        if let Some(chunk) = reader.chunk(&Digest::of(chunk)).await? {
            let (header, payload) = chunk.parts();
            let blob = DataBlob::parse([header, payload].concat().into()).expect("a blob");
            content.extend_from_slice(&blob.decode(1 << 20, None).expect("plain"));
        }
    }
    Ok(content)
}

fn runtime() -> Runtime {
    Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .max_blocking_threads(2)
        .build()
        .expect("a runtime")
}

async fn open(model: &Arc<ModelStore>, cache: &Path) -> pbs_datastore::Result<Arc<Datastore>> {
    let env = Env::simulated(model.now(), 1, Arc::new(OsFiles));
    let backend = Backend::Bucket {
        prefix: "store".to_owned(),
        cache_dir: cache.to_owned(),
        cache_bytes_max: 16 << 20,
    };
    let mut config = DatastoreConfig::new("store", backend);
    config.gc_atime_cutoff = Duration::ZERO;
    config.late_request_max = LATE;
    config.list_ranges = 2;
    let store: Arc<dyn ObjectStore> = model.clone();
    let access = BucketAccess {
        once: Arc::clone(&store),
        store,
        capabilities: Capabilities {
            conditional_create: true,
            conditional_overwrite: true,
        },
        signature_window: Duration::from_mins(15),
        place: None,
    };
    let options = OpenOptions {
        hostname: "here".to_owned(),
        installation: "0123456789abcdef0123456789abcdef".to_owned(),
        take_over: false,
        previous_owner_is_dead: false,
        budget: MemoryBudget::new(64 << 20),
    };
    Datastore::open(env, config, Some(access), options).await
}

async fn collect(store: &Datastore) -> pbs_datastore::Result<pbs_datastore::GcStatus> {
    store
        .collect(
            GcOptions { dry_run: false },
            "UPID:fuzz",
            &JobContext::detached(),
        )
        .await
}

async fn back_up(
    store: &Arc<Datastore>,
    snapshot: &str,
    chunks: &[Bytes],
) -> pbs_datastore::Result<()> {
    let snapshot: Snapshot = snapshot.parse().expect("a snapshot");
    let request = BackupRequest {
        namespace: Namespace::root(),
        snapshot: snapshot.clone(),
        author: "root@pam".parse().expect("an id"),
        benchmark: false,
        no_cache: false,
    };
    let backup = store.begin_backup(request).await?;
    let done = write(&backup, snapshot, chunks).await;
    backup.end("done").await;
    done
}

async fn write(backup: &Backup, snapshot: Snapshot, chunks: &[Bytes]) -> pbs_datastore::Result<()> {
    let (name, kind) = (
        "root.pxar.didx".parse::<ArchiveName>().expect("a name"),
        IndexKind::Dynamic,
    );
    let wid = backup.create_dynamic(&name).await?;
    let (mut sum, mut end, mut listed) = (IndexChecksum::new(), 0, Vec::new());
    for chunk in chunks {
        let (digest, size) = (Digest::of(chunk), chunk.len() as u32);
        let encoded = DataBlob::encode_plain(chunk.clone())
            .expect("short")
            .encoded();
        backup.upload(wid, kind, digest, size, encoded).await?;
        listed.push((digest, end));
        end += u64::from(size);
        sum.push_dynamic(end, &digest);
    }
    backup.append(wid, kind, &listed).await?;
    let csum = sum.finish();
    backup
        .close(wid, kind, listed.len() as u64, end, csum)
        .await?;
    let file = ManifestFile {
        name,
        crypt_mode: CryptMode::None,
        size: end,
        csum: Some(csum),
    };
    let manifest = Manifest::new(snapshot, vec![file]).expect("one file");
    let manifest = manifest.to_blob().expect("short").encoded();
    backup.blob(&ArchiveName::manifest(), manifest).await?;
    backup.finish().await
}
