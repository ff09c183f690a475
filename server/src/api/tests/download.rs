//! Tests of downloads and of catalogs.

use std::time::Duration;

use futures_util::future::join_all;
use http_body_util::BodyExt as _;
use pbs_datastore::{
    ArchiveName, BackupRequest, CATALOG_MAGIC, CryptKey, CryptMode, DataBlob, Digest,
    IndexChecksum, IndexKind, ManifestFile,
};

use super::*;
use crate::app::{ApiBody, collect};
use crate::pace::Paces as _;
use crate::places::Line;

const TIME: i64 = 1_700_000_000;
/// Longer than anything here takes.
const EVER: Duration = Duration::from_mins(2);

/// A chunk as it is uploaded: name, contents' length, encoded form.
type Sent = (Digest, u32, Bytes);

fn sent(contents: &[u8], key: Option<&CryptKey>) -> Sent {
    let data = Bytes::copy_from_slice(contents);
    let digest = key.map_or_else(|| Digest::of(&data), |key| key.chunk_digest(&data));
    let blob = DataBlob::encode(data, true, key, [7; 16]).expect("short");
    (digest, contents.len() as u32, blob.encoded())
}

/// Contents that do not compress, and others that do.
fn contents(number: u8, bytes: usize) -> Vec<u8> {
    let mut state = u32::from(number) + 1;
    let noise = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        if number.is_multiple_of(2) {
            (state >> 24) as u8
        } else {
            number
        }
    };
    (0..bytes).map(noise).collect()
}

/// A file of a snapshot to be made.
enum Made {
    Stream(&'static str, CryptMode, Vec<Sent>),
    /// One chunk.
    Image(&'static str, Sent),
    Blob(&'static str, CryptMode, Bytes),
}

impl Fixture {
    /// Backs up `host/a`, as `backup@pbs`.
    async fn back_up(&self, made: Vec<Made>) {
        let store = self.daemon.stores.get("one").expect("open");
        let time = BackupTime::new(TIME).expect("a time");
        let group: BackupGroup = "host/a".parse().expect("a group");
        let request = BackupRequest {
            namespace: Namespace::root(),
            snapshot: Snapshot { group, time },
            author: "backup@pbs".parse().expect("an id"),
            benchmark: false,
            no_cache: false,
        };
        let snapshot = request.snapshot.clone();
        let backup = store.begin_backup(request).await.expect("begun");
        let mut files = Vec::new();
        for file in made {
            let (name, crypt_mode, size, csum) = match file {
                Made::Stream(name, mode, chunks) => {
                    let name: ArchiveName = name.parse().expect("a name");
                    let wid = backup.create_dynamic(&name).await.expect("created");
                    let (mut sum, mut end, mut entries) = (IndexChecksum::new(), 0, Vec::new());
                    for (digest, size, encoded) in chunks {
                        let kind = IndexKind::Dynamic;
                        let stored = backup.upload(wid, kind, digest, size, encoded);
                        stored.await.expect("stored");
                        entries.push((digest, end));
                        end += u64::from(size);
                        sum.push_dynamic(end, &digest);
                    }
                    let (count, csum) = (entries.len() as u64, sum.finish());
                    let kind = IndexKind::Dynamic;
                    backup.append(wid, kind, &entries).await.expect("appended");
                    let closed = backup.close(wid, kind, count, end, csum).await;
                    closed.expect("closed");
                    (name, mode, end, csum)
                }
                Made::Image(name, (digest, size, encoded)) => {
                    let bytes = u64::from(size);
                    let name: ArchiveName = name.parse().expect("a name");
                    let kind = IndexKind::Fixed;
                    let wid = backup.create_fixed(&name, Some(bytes), None).await;
                    let wid = wid.expect("created");
                    let stored = backup.upload(wid, kind, digest, size, encoded);
                    stored.await.expect("stored");
                    let appended = backup.append(wid, kind, &[(digest, 0)]).await;
                    appended.expect("appended");
                    let mut sum = IndexChecksum::new();
                    sum.push_fixed(&digest);
                    let csum = sum.finish();
                    let closed = backup.close(wid, kind, 1, bytes, csum).await;
                    closed.expect("closed");
                    (name, CryptMode::None, bytes, csum)
                }
                Made::Blob(name, mode, encoded) => {
                    let name: ArchiveName = name.parse().expect("a name");
                    let (size, csum) = (encoded.len() as u64, Digest::of(&encoded));
                    backup.blob(&name, encoded).await.expect("stored");
                    (name, mode, size, csum)
                }
            };
            files.push(ManifestFile {
                name,
                crypt_mode,
                size,
                csum: Some(csum),
            });
        }
        let manifest = Manifest::new(snapshot, files).expect("no name comes twice");
        let manifest = manifest.to_blob().expect("short").encoded();
        let stored = backup.blob(&ArchiveName::manifest(), manifest).await;
        stored.expect("stored");
        backup.finish().await.expect("finished");
        backup.end("done").await;
    }

    fn stored(&self, name: &str) -> Vec<u8> {
        let dir = self.dir.path().join("store/host/a/2023-11-14T22:13:20Z");
        std::fs::read(dir.join(name)).expect("a file of the snapshot")
    }

    /// Writes over the chunk on the disk.
    fn damage(&self, (digest, ..): &Sent) {
        let name = digest.to_string();
        let path = self.dir.path().join("store/.chunks").join(&name[..4]);
        std::fs::write(path.join(name), b"nothing that was there").expect("written");
    }

    /// The answer to a call about the snapshot, by the owner of the daemon's files.
    async fn ask(&self, call: &str, more: &str) -> Response<ApiBody> {
        let request = Request::get(about(call, more)).body(Full::<Bytes>::default());
        let request = request.expect("a request");
        self.daemon.respond(request, Caller::Owner).await
    }

    async fn take(&self, call: &str, more: &str) -> (StatusCode, Bytes) {
        let response = self.ask(call, more).await;
        let status = response.status();
        let whole = collect(response).await.expect("to its end");
        (status, whole.into_body())
    }

    async fn refusal(&self, call: &str, more: &str) -> (u16, String) {
        let (status, body) = self.take(call, more).await;
        (status.as_u16(), String::from_utf8_lossy(&body).into_owned())
    }

    /// Waits until nobody reads, and asserts that nothing is held any more.
    async fn settle(&self) {
        let settled = async {
            let budget = &self.daemon.budget;
            while !self.daemon.sessions.list().is_empty()
                || budget.bytes_free() < budget.bytes_max()
            {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(EVER, settled)
            .await
            .expect("all is given back");
    }
}

fn about(call: &str, more: &str) -> String {
    let place = format!("backup-type=host&backup-id=a&backup-time={TIME}");
    format!("/api2/json/admin/datastore/one/{call}?{place}&{more}")
}

fn stream(chunks: &[Sent]) -> Made {
    Made::Stream("root.pxar.didx", CryptMode::None, chunks.to_vec())
}

/// An archive of so many chunks, and what is in it.
fn archive(chunks: u8, bytes: usize) -> (Vec<Sent>, Vec<u8>) {
    let all: Vec<_> = (0..chunks).map(|number| contents(number, bytes)).collect();
    let sent = all.iter().map(|contents| sent(contents, None)).collect();
    (sent, all.concat())
}

#[tokio::test]
async fn who_downloads_has_his_own_rate_on_the_connection() {
    let fixture = Fixture::new().await;
    let (.., blob) = sent(b"configuration", None);
    let blob = Made::Blob("box.conf.blob", CryptMode::None, blob);
    fixture.back_up(vec![blob]).await;
    let lane = fixture.daemon.traffic.lane(IpAddr::from([192, 0, 2, 1]));
    let rule = json!({ "name": "slow", "user": ["root@pam"], "rate-out": "1 MiB" });
    let rules = "config/traffic-control";
    let (status, body) = fixture.own(Method::POST, rules, rule).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    assert!(!lane.pace().is_limited(), "it is nobody's yet");

    let request = Request::get(about("download", "file-name=box.conf.blob"));
    let request = request.extension(Line::in_lane(lane.clone()));
    let request = request.body(Full::<Bytes>::default()).expect("a request");
    let answer = fixture.daemon.respond(request, Caller::Owner).await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert!(lane.pace().is_limited());
    drop(collect(answer).await.expect("to its end"));
    lane.belongs_to(&"anna@pbs".parse().expect("an id"));
    assert!(!lane.pace().is_limited(), "it is somebody else's now");
    fixture.settle().await;
}

#[tokio::test]
async fn files_are_answered_as_they_are_stored() {
    let fixture = Fixture::new().await;
    let (chunks, _) = archive(3, 1000);
    let (.., blob) = sent(b"configuration", None);
    let made = vec![
        stream(&chunks),
        Made::Blob("box.conf.blob", CryptMode::None, blob),
    ];
    fixture.back_up(made).await;
    for name in ["root.pxar.didx", "box.conf.blob", "index.json.blob"] {
        let file = fixture.stored(name);
        let answer = fixture.ask("download", &format!("file-name={name}")).await;
        assert_eq!(answer.status(), StatusCode::OK, "{name}");
        let header = |name: &str| answer.headers()[name].to_str().expect("plain").to_owned();
        assert_eq!(header("content-type"), "application/octet-stream");
        let disposition = format!("attachment; filename=\"{name}\"");
        assert_eq!(header("content-disposition"), disposition);
        let announced = http_body::Body::size_hint(answer.body()).exact();
        assert_eq!(announced, Some(file.len() as u64));
        let whole = collect(answer).await.expect("to its end");
        assert_eq!(whole.into_body(), file, "{name}");
    }
    for (name, status) in [
        ("client.log.blob", 404),
        ("none.img.fidx", 404),
        ("none.pxar.didx", 404),
        ("owner", 400),
        ("../owner", 400),
        ("..%2findex.json.blob", 400),
        ("../2023-11-14T22:13:20Z/index.json.blob", 400),
        (".blob", 400),
        ("", 400),
    ] {
        for call in ["download", "download-decoded"] {
            let (got, text) = fixture.refusal(call, &format!("file-name={name}")).await;
            assert_eq!(got, status, "{call} '{name}': {text}");
        }
    }
    fixture.settle().await;
}

#[tokio::test]
async fn contents_are_answered_unpacked() {
    let fixture = Fixture::new().await;
    let (chunks, whole) = archive(7, 70_000);
    let image = contents(1, 1000);
    let (.., blob) = sent(&contents(3, 5000), None);
    let made = vec![
        stream(&chunks),
        Made::Image("disk.img.fidx", sent(&image, None)),
        Made::Blob("box.conf.blob", CryptMode::SignOnly, blob),
    ];
    fixture.back_up(made).await;
    for (name, saved, expected) in [
        ("root.pxar.didx", "root.pxar", &whole[..]),
        ("disk.img.fidx", "disk.img", &image[..]),
        ("box.conf.blob", "box.conf", &contents(3, 5000)[..]),
    ] {
        let more = format!("file-name={name}");
        let answer = fixture.ask("download-decoded", &more).await;
        assert_eq!(answer.status(), StatusCode::OK, "{name}");
        let disposition = format!("attachment; filename=\"{saved}\"");
        assert_eq!(answer.headers()["content-disposition"], disposition);
        let announced = http_body::Body::size_hint(answer.body()).exact();
        assert_eq!(announced, Some(expected.len() as u64));
        let whole = collect(answer).await.expect("to its end");
        assert!(whole.into_body() == expected, "{name} has other contents");
    }
    fixture.settle().await;
}

#[tokio::test]
async fn damage_is_never_an_end() {
    let fixture = Fixture::new().await;
    let (chunks, whole) = archive(9, 2000);
    fixture.back_up(vec![stream(&chunks)]).await;
    let more = "file-name=root.pxar.didx";
    fixture.damage(&chunks[6]);
    let answer = fixture.ask("download-decoded", more).await;
    assert_eq!(answer.status(), StatusCode::OK, "the beginning is fine");
    let mut body = answer.into_body();
    let mut taken = Vec::new();
    let broken = loop {
        match body.frame().await {
            Some(Ok(frame)) => taken.extend(frame.into_data().expect("data")),
            Some(Err(error)) => break error.to_string(),
            None => panic!("it ends as if it were whole"),
        }
    };
    assert!(broken.contains("broken off"), "{broken}");
    assert!(taken == whole[..6 * 2000], "what came was right");
    fixture.damage(&chunks[0]);
    let (status, text) = fixture.refusal("download-decoded", more).await;
    assert_eq!(status, 400);
    assert!(text.contains(&chunks[0].0.to_string()), "{text}");
    fixture.settle().await;
}

#[tokio::test]
async fn what_is_encrypted_is_refused_before_the_first_byte() {
    let fixture = Fixture::new().await;
    let key = CryptKey::new([3; 32]);
    let hidden = sent(b"hidden", Some(&key));
    let made = vec![
        Made::Stream("root.pxar.didx", CryptMode::Encrypt, vec![hidden.clone()]),
        // The manifest does not tell.
        Made::Stream("liar.pxar.didx", CryptMode::None, vec![hidden.clone()]),
        Made::Blob("box.conf.blob", CryptMode::None, hidden.2.clone()),
    ];
    fixture.back_up(made).await;
    for name in ["root.pxar.didx", "liar.pxar.didx", "box.conf.blob"] {
        let more = format!("file-name={name}");
        let (status, text) = fixture.refusal("download-decoded", &more).await;
        assert_eq!(status, 400, "{name}");
        assert!(text.contains("is encrypted: only a client"), "{text}");
        let (status, file) = fixture.take("download", &more).await;
        assert!(status == 200 && file == fixture.stored(name), "{name}");
    }
    fixture.settle().await;
}

#[tokio::test]
async fn a_snapshot_stays_while_it_is_downloaded() {
    let fixture = Fixture::new().await;
    let (chunks, whole) = archive(12, 3000);
    fixture.back_up(vec![stream(&chunks)]).await;
    let answer = fixture
        .ask("download-decoded", "file-name=root.pxar.didx")
        .await;
    let remove = async || {
        let snapshot = json!({ "backup-type": "host", "backup-id": "a", "backup-time": TIME });
        let path = "admin/datastore/one/snapshots";
        fixture.own(Method::DELETE, path, snapshot).await
    };
    let (status, text) = remove().await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(text.to_string().contains("is in use"), "{text}");
    let listed = fixture.daemon.sessions.list();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].subject.peer, "control socket");
    let taken = collect(answer).await.expect("to its end");
    assert!(taken.into_body() == whole);
    fixture.settle().await;
    // Somebody who goes away in the middle.
    let mut answer = fixture
        .ask("download-decoded", "file-name=root.pxar.didx")
        .await;
    answer
        .body_mut()
        .frame()
        .await
        .expect("a part")
        .expect("data");
    assert_eq!(remove().await.0, StatusCode::BAD_REQUEST);
    drop(answer);
    fixture.settle().await;
    assert_eq!(remove().await.0, StatusCode::OK);
}

#[tokio::test]
async fn an_administrator_and_a_stop_end_downloads() {
    let fixture = Fixture::new().await;
    let (chunks, _) = archive(12, 3000);
    fixture.back_up(vec![stream(&chunks)]).await;
    // Though nobody takes anything.
    let nobody_reads = async || {
        let ended = async {
            while !fixture.daemon.sessions.list().is_empty() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(EVER, ended).await.expect("it ends");
    };
    let broken = async |answer: Response<ApiBody>| {
        let taken = tokio::time::timeout(EVER, collect(answer)).await;
        let taken = taken.expect("it ends");
        taken.expect_err("not as if it were whole").to_string()
    };
    let answer = fixture
        .ask("download-decoded", "file-name=root.pxar.didx")
        .await;
    let id = fixture.daemon.sessions.list()[0].id;
    let path = format!("admin/datastore/one/sessions/{id}");
    let (status, _) = fixture.own(Method::DELETE, &path, json!({})).await;
    assert_eq!(status, StatusCode::OK);
    nobody_reads().await;
    assert!(broken(answer).await.contains("broken off"));
    fixture.settle().await;

    let file = fixture.dir.path().join("holdfast.toml");
    let config = std::fs::read_to_string(&file).expect("there");
    let config = format!("[server]\nshutdown-seconds = 1\n{config}");
    std::fs::write(&file, config).expect("written");
    assert!(fixture.daemon.config.refresh().expect("valid"));
    let answer = fixture
        .ask("download-decoded", "file-name=root.pxar.didx")
        .await;
    let drained = fixture.daemon.shutdown.drain(EVER).await;
    assert_eq!(drained, crate::shutdown::Drained::Clean);
    nobody_reads().await;
    assert!(broken(answer).await.contains("broken off"));
    fixture.settle().await;
    let (status, _) = fixture
        .refusal("download", "file-name=index.json.blob")
        .await;
    assert_eq!(status, 503);
}

#[tokio::test]
async fn many_downloads_share_little_memory() {
    const BYTES: usize = 200_000;
    let fixture = Fixture::new().await;
    let (chunks, whole) = archive(6, BYTES);
    let long = vec![sent(b"x", None); 4200];
    let long = Made::Stream("long.pxar.didx", CryptMode::None, long);
    fixture.back_up(vec![stream(&chunks), long]).await;
    let budget = &fixture.daemon.budget;
    let rest = budget.bytes_free() - (1 << 20);
    let busy = budget.take(rest, Duration::ZERO).await.expect("free");
    // A long index takes only what is to spare, and now nothing is; a short one is held in what the session has.
    let (status, _) = fixture
        .refusal("download-decoded", "file-name=long.pxar.didx")
        .await;
    assert_eq!(status, 503);
    let (status, body) = fixture
        .take("download-decoded", "file-name=root.pxar.didx")
        .await;
    assert!(status == 200 && body == whole);
    drop(busy);
    let answers = (0..64).map(|_| fixture.ask("download-decoded", "file-name=root.pxar.didx"));
    let answers = tokio::time::timeout(EVER, join_all(answers)).await;
    let answers = answers.expect("all begin");
    // Whoever takes nothing holds a few parts, not the archive.
    let parts = 3 * (BYTES as u64 + 2048) * answers.len() as u64;
    assert!(budget.bytes_max() - budget.bytes_free() <= parts);
    let rest = budget.bytes_free().saturating_sub(1 << 20);
    let busy = budget.take(rest, Duration::ZERO).await;
    let taken = join_all(answers.into_iter().map(collect));
    let taken = tokio::time::timeout(EVER, taken).await;
    for answer in taken.expect("none waits for ever") {
        assert!(answer.expect("to its end").into_body() == whole);
    }
    drop(busy);
    fixture.settle().await;
}

#[tokio::test]
async fn only_who_may_read_a_snapshot_downloads_it() {
    let fixture = Fixture::new().await;
    let (.., blob) = sent(b"configuration", None);
    let made = vec![Made::Blob("box.conf.blob", CryptMode::None, blob)];
    fixture.back_up(made).await;
    let own = fixture.token("backup@pbs").await;
    let paths = [
        about("download", "file-name=box.conf.blob"),
        about("download-decoded", "file-name=box.conf.blob"),
        about("catalog", "filepath=root"),
    ];
    let statuses = async |token: &str| {
        let mut statuses = Vec::new();
        for path in &paths {
            let request = Request::get(path).header("authorization", token);
            let request = request.body(Full::default()).expect("a request");
            statuses.push(fixture.send(request, PEER).await.status().as_u16());
        }
        statuses
    };
    // A token does not own what is its user's.
    assert_eq!(statuses(&own).await, [403, 403, 403]);
    let id = own.trim_start_matches("PBSAPIToken=");
    let id = id.rsplit_once(':').expect("a secret").0.to_owned();
    let owner = fixture.dir.path().join("store/host/a/owner");
    std::fs::write(owner, format!("{id}\n")).expect("written");
    assert_eq!(statuses(&own).await, [200, 200, 404]);
    for (role, expected) in [
        ("DatastoreAudit", [403, 403, 403]),
        ("DatastoreReader", [200, 200, 404]),
    ] {
        let other = fixture.token("admin@pbs").await;
        let id = other.trim_start_matches("PBSAPIToken=");
        let id = id.rsplit_once(':').expect("a secret").0;
        for (path, role) in [("/", "NoAccess"), ("/datastore/one", role)] {
            let right = json!({ "path": path, "auth-id": id, "role": role });
            let given = fixture.own(Method::PUT, "access/acl", right).await;
            assert_eq!(given.0, StatusCode::OK);
        }
        assert_eq!(statuses(&other).await, expected, "{role}");
    }
    fixture.settle().await;
}

/// A catalog of `root.pxar.didx` with a pipe `p` and a directory `etc`, which has the file `motd` of 300 bytes.
fn catalog() -> Vec<u8> {
    let mut stream = CATALOG_MAGIC.to_vec();
    let mut table = |count: u8, entries: &[u8]| {
        let start = stream.len();
        stream.extend([entries.len() as u8 + 1, count]);
        stream.extend(entries);
        start
    };
    let etc = table(1, b"f\x04motd\xac\x02\xac\x82\x00");
    let archive = table(2, b"p\x01pd\x03etc\x0d");
    assert_eq!(archive - etc, 13);
    let root = table(1, b"d\x0eroot.pxar.didx\x0b");
    assert_eq!(root - archive, 11);
    stream.extend((root as u64).to_le_bytes());
    stream
}

#[tokio::test]
async fn a_catalog_is_listed_one_directory_at_a_time() {
    let fixture = Fixture::new().await;
    let catalog = catalog();
    // However it is cut.
    let chunks: Vec<Sent> = catalog.chunks(7).map(|part| sent(part, None)).collect();
    let made = vec![Made::Stream("catalog.pcat1.didx", CryptMode::None, chunks)];
    fixture.back_up(made).await;
    let list = async |path: &str| {
        let more = format!("filepath={path}");
        let (status, body) = fixture.take("catalog", &more).await;
        let body = serde_json::from_slice::<Value>(&body)
            .unwrap_or_else(|_| json!({ "data": String::from_utf8_lossy(&body) }));
        (status.as_u16(), body["data"].clone())
    };
    let archives = json!([{
        "filepath": "L3Jvb3QucHhhci5kaWR4", "text": "root.pxar.didx", "type": "v", "leaf": false,
    }]);
    for root in ["root", "/", "%2F", "Lw=="] {
        assert_eq!(list(root).await, (200, archives.clone()), "{root}");
    }
    let in_archive = json!([
        { "filepath": "L3Jvb3QucHhhci5kaWR4L3A=", "text": "p", "type": "p", "leaf": true },
        { "filepath": "L3Jvb3QucHhhci5kaWR4L2V0Yw==", "text": "etc", "type": "d", "leaf": false },
    ]);
    // With a slash in front and without.
    for path in ["L3Jvb3QucHhhci5kaWR4", "cm9vdC5weGFyLmRpZHg="] {
        assert_eq!(list(path).await, (200, in_archive.clone()), "{path}");
    }
    let in_etc = json!([{
        "filepath": "L3Jvb3QucHhhci5kaWR4L2V0Yy9tb3Rk", "text": "motd", "type": "f", "leaf": true,
        "size": 300, "mtime": -300,
    }]);
    let etc = "L3Jvb3QucHhhci5kaWR4L2V0Yw==";
    assert_eq!(list(etc).await, (200, in_etc));
    for (path, status, why) in [
        ("L3Jvb3QucHhhci5kaWR4L3A=", 400, "is no directory"),
        (
            "L25vbmU=",
            404,
            "'none' in the catalog of the snapshot does not exist",
        ),
        ("!", 400, "'filepath' is neither"),
    ] {
        let (got, text) = list(path).await;
        assert_eq!(got, status, "{path}");
        assert!(text.to_string().contains(why), "{text}");
    }
    let (status, text) = fixture
        .refusal("catalog", "filepath=root&archive-name=root.mpxar.didx")
        .await;
    assert!(status == 400 && text.contains("is no catalog"), "{text}");
    fixture.settle().await;
}
