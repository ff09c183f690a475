//! The commands against a small server of our own: what goes over the wire, and what comes back.

use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use pbs_datastore::{CryptKey, CryptMode, DataBlob, Namespace};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::backup::{self, BackupOptions, BackupSummary};
use super::fake::Fake;
use super::key::Protection;
use super::output::{OutputArgs, OutputFormat};
use super::progress::Progress;
use super::restore::{self, RestoreOptions, RestoreSummary, RestoreTarget};
use super::session::Session;
use super::source::Source;
use super::tar::ArchiveOptions;
use super::task;
use super::upload::{BackupWriter, CHUNKS_IN_FLIGHT_MAX, Feed};

const MIB: usize = 1 << 20;

/// Bytes that repeat nowhere.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn options(fake: &Fake, hour: u32, sources: &[String], protection: Protection) -> BackupOptions {
    BackupOptions {
        access: fake.access(),
        namespace: Namespace::root(),
        snapshot: format!("host/x/2023-11-14T{hour:02}:13:20Z")
            .parse()
            .unwrap(),
        sources: sources
            .iter()
            .map(|text| Source::parse(OsStr::new(text)).unwrap())
            .collect(),
        archive: ArchiveOptions::default(),
        protection,
    }
}

async fn back_up(fake: &Fake, hour: u32, sources: &[String]) -> anyhow::Result<BackupSummary> {
    let options = options(fake, hour, sources, Protection::none());
    backup::run(&options, &Arc::new(Progress::silent())).await
}

async fn restored(
    fake: &Fake,
    archive: &str,
    target: &Path,
    key: Option<CryptKey>,
) -> anyhow::Result<RestoreSummary> {
    let options = RestoreOptions {
        access: fake.access(),
        namespace: Namespace::root(),
        snapshot: "host/x".parse().unwrap(),
        archive: archive.to_owned(),
        target: RestoreTarget::Path(target.to_owned()),
        overwrite: false,
        key: key.map(Arc::new),
    };
    restore::run(&options, &Arc::new(Progress::silent())).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_an_image_and_a_file_go_there_and_back_and_are_sent_once() {
    let fake = Fake::start().await;
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    std::fs::create_dir_all(at.join("tree/sub")).unwrap();
    std::fs::write(at.join("tree/large"), noise(1, 30 * MIB)).unwrap();
    std::fs::write(at.join("tree/sub/small"), b"small").unwrap();
    let mut image = noise(2, 10 * MIB);
    image.resize(22 * MIB + 5, 0);
    std::fs::write(at.join("disk"), &image).unwrap();
    std::fs::write(at.join("x"), b"a = 1\n").unwrap();
    let shown = at.display();
    let sources = [
        format!("root.tar:{shown}/tree"),
        format!("disk.img:{shown}/disk"),
        format!("x.conf:{shown}/x"),
    ];

    let first = back_up(&fake, 1, &sources).await.unwrap();
    assert_eq!(first.warnings, 0);
    let disk = &first.archives[1];
    // Three chunks with data, two of zeros, one of them the same as the other, and the short end.
    assert_eq!(
        (disk.name.as_str(), disk.bytes, disk.chunks),
        ("disk.img.fidx", image.len() as u64, 6)
    );
    assert_eq!((disk.new, disk.duplicates), (5, 1));
    assert_eq!(first.chunks, first.new + first.duplicates);
    assert!(first.archives[0].bytes > 30 * MIB as u64);
    assert_eq!(
        first.bytes,
        first
            .archives
            .iter()
            .map(|archive| archive.bytes)
            .sum::<u64>()
    );

    image[9 * MIB] ^= 1;
    std::fs::write(at.join("disk"), &image).unwrap();
    std::fs::write(at.join("tree/sub/small"), b"other").unwrap();
    let second = back_up(&fake, 2, &sources).await.unwrap();
    assert_eq!(
        second.archives[1].new, 1,
        "one chunk of the image has changed"
    );
    assert!(second.archives[0].new <= 2, "{:?}", second.archives[0]);
    assert!(second.uploaded_bytes < first.uploaded_bytes);

    let tree = restored(&fake, "root.tar", &at.join("back"), None)
        .await
        .unwrap();
    assert_eq!((tree.warnings, tree.bytes), (0, second.archives[0].bytes));
    assert!(std::fs::read(at.join("back/large")).unwrap() == noise(1, 30 * MIB));
    assert_eq!(std::fs::read(at.join("back/sub/small")).unwrap(), b"other");
    restored(&fake, "disk.img", &at.join("disk back"), None)
        .await
        .unwrap();
    assert!(std::fs::read(at.join("disk back")).unwrap() == image);
    assert!(
        std::fs::metadata(at.join("disk back")).unwrap().blocks() * 512 < 16 * MIB as u64,
        "zeros became data"
    );
    restored(&fake, "x.conf.blob", &at.join("x back"), None)
        .await
        .unwrap();
    assert_eq!(std::fs::read(at.join("x back")).unwrap(), b"a = 1\n");

    let refused = restored(&fake, "x.conf", &at.join("x back"), None)
        .await
        .unwrap_err();
    assert!(
        format!("{refused:#}").contains("--overwrite"),
        "{refused:#}"
    );
    let missing = restored(&fake, "y.conf", &at.join("y"), None)
        .await
        .unwrap_err();
    assert!(missing.to_string().contains("disk.img.fidx"), "{missing}");
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_are_in_flight_side_by_side_and_bounded() {
    let fake = Fake::start().await;
    *fake.state.hold_chunks_until.lock().unwrap() = 10;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), noise(3, 80 * MIB)).unwrap();
    let done = back_up(&fake, 1, &[format!("disk.img:{}", file.path().display())])
        .await
        .unwrap();
    assert_eq!(done.new, 20);
    let most = fake.state.in_flight.lock().unwrap().1;
    // 64 MiB of noise, with headers, leave room for fifteen chunks.
    assert!((10..=15).contains(&most), "{most} at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn appends_are_batches_in_order_and_wait_for_their_uploads() {
    let fake = Fake::start().await;
    let session = Session::open(&fake.access()).await.unwrap();
    let progress = Progress::silent();
    let snapshot = "host/x/2023-11-14T01:13:20Z".parse().unwrap();
    let mut writer = BackupWriter::begin(
        session,
        &Namespace::root(),
        snapshot,
        Protection::none(),
        &progress,
    )
    .await
    .unwrap();
    let (sender, chunks) = mpsc::channel(2);
    let producer = spawn_blocking(move || {
        for number in 0..300u32 {
            // Every third chunk repeats an earlier one.
            let content = if number % 3 == 2 { number - 2 } else { number };
            sender
                .blocking_send(Bytes::from(format!("chunk {content}")))
                .map_err(io::Error::other)?;
        }
        Ok(())
    });
    let name = "many.tar.didx".parse().unwrap();
    let summary = writer
        .upload_index(name, None, Feed { chunks, producer }, &progress)
        .await
        .unwrap();
    assert_eq!(
        (summary.chunks, summary.new, summary.duplicates),
        (300, 200, 100)
    );
    assert_eq!(fake.requests("POST /dynamic_chunk").len(), 200);
    assert_eq!(fake.requests("PUT /dynamic_index").len(), 5);
    assert!(fake.state.in_flight.lock().unwrap().1 <= CHUNKS_IN_FLIGHT_MAX + 1);
    writer.finish().await.unwrap();
    assert_eq!(fake.state.snapshots.lock().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_fails_leaves_no_snapshot() {
    let fake = Fake::start().await;
    let session = Session::open(&fake.access()).await.unwrap();
    let progress = Progress::silent();
    let snapshot = "host/x/2023-11-14T01:13:20Z".parse().unwrap();
    let mut writer = BackupWriter::begin(
        session,
        &Namespace::root(),
        snapshot,
        Protection::none(),
        &progress,
    )
    .await
    .unwrap();
    let (sender, chunks) = mpsc::channel(2);
    let producer = spawn_blocking(move || {
        sender
            .blocking_send(Bytes::from_static(b"a beginning"))
            .map_err(io::Error::other)?;
        Err(io::Error::other("the disk is on fire"))
    });
    let name = "x.img.fidx".parse().unwrap();
    let error = writer
        .upload_index(name, None, Feed { chunks, producer }, &progress)
        .await
        .unwrap_err();
    assert!(format!("{error:#}").contains("on fire"), "{error:#}");
    assert_eq!(fake.requests("POST /fixed_close"), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_reaches_the_person_and_ends_the_backup() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), noise(4, 40 * MIB)).unwrap();
    let source = [format!("disk.img:{}", file.path().display())];
    for at in [
        "POST /fixed_chunk",
        "PUT /fixed_index",
        "POST /fixed_close",
        "POST /finish",
        "GET /api2/json/backup",
    ] {
        let fake = Fake::start().await;
        *fake.state.refuse.lock().unwrap() = Some((at, "no more room here"));
        let error = back_up(&fake, 1, &source).await.expect_err(at);
        assert_eq!(format!("{error:#}"), "no more room here", "{at}");
        assert!(fake.state.snapshots.lock().unwrap().is_empty(), "{at}");
        assert!(
            at == "POST /finish" || fake.requests("POST /finish").is_empty(),
            "{at}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_previous_backup_that_cannot_be_used_costs_time_only() {
    let fake = Fake::start().await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), noise(5, 9 * MIB)).unwrap();
    let source = [format!("disk.img:{}", file.path().display())];
    assert_eq!(back_up(&fake, 1, &source).await.unwrap().new, 3);
    *fake.state.refuse.lock().unwrap() =
        Some(("GET /previous?archive-name=disk", "a chunk is lost"));
    let progress = Arc::new(Progress::silent());
    let summary = backup::run(&options(&fake, 2, &source, Protection::none()), &progress)
        .await
        .unwrap();
    assert_eq!((summary.new, summary.warnings), (3, 0));
    assert!(
        progress.kept()[0].contains("a chunk is lost"),
        "{:?}",
        progress.kept()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_key_the_server_sees_nothing_in_the_clear() {
    let fake = Fake::start().await;
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    std::fs::write(at.join("disk"), vec![7; 5 * MIB]).unwrap();
    let sources = [
        format!("disk.img:{}/disk", at.display()),
        format!("x.conf:{}/disk2", at.display()),
    ];
    std::fs::write(at.join("disk2"), b"secret = 1").unwrap();
    let key = || CryptKey::new([9; 32]);
    let encrypting = || Protection::new(None, Some(key())).unwrap();
    let progress = Arc::new(Progress::silent());
    let first = backup::run(&options(&fake, 1, &sources, encrypting()), &progress)
        .await
        .unwrap();
    assert_eq!(first.new, 2);
    for chunk in fake.state.chunks.lock().unwrap().values() {
        assert!(DataBlob::parse(chunk.clone()).unwrap().is_encrypted());
    }
    let again = backup::run(&options(&fake, 2, &sources, encrypting()), &progress)
        .await
        .unwrap();
    assert_eq!(again.new, 0, "the same key gives the same digests");

    restored(&fake, "disk.img", &at.join("back"), Some(key()))
        .await
        .unwrap();
    assert!(std::fs::read(at.join("back")).unwrap() == vec![7; 5 * MIB]);
    restored(&fake, "x.conf", &at.join("x"), Some(key()))
        .await
        .unwrap();
    assert_eq!(std::fs::read(at.join("x")).unwrap(), b"secret = 1");
    let without = restored(&fake, "disk.img", &at.join("n"), None)
        .await
        .unwrap_err();
    assert!(without.to_string().contains("--keyfile"), "{without}");
    let other = restored(
        &fake,
        "disk.img",
        &at.join("n"),
        Some(CryptKey::new([8; 32])),
    )
    .await
    .unwrap_err();
    assert!(other.to_string().contains("made with the key"), "{other}");

    // Without the key, or for signing only, nothing of it is used again.
    let signing = Protection::new(Some(CryptMode::SignOnly), Some(key())).unwrap();
    assert_eq!(
        backup::run(&options(&fake, 3, &sources, signing), &progress)
            .await
            .unwrap()
            .new,
        2
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_has_changed_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    std::fs::write(at.join("disk"), noise(6, 6 * MIB)).unwrap();
    let source = [format!("disk.img:{}/disk", at.display())];
    let damaged = |fake: &Fake, name: &str, byte: usize| {
        let mut snapshots = fake.state.snapshots.lock().unwrap();
        let file = snapshots
            .values_mut()
            .next()
            .unwrap()
            .get_mut(name)
            .unwrap();
        let mut bytes = file.to_vec();
        bytes[byte] ^= 1;
        *file = bytes.into();
    };

    let fake = Fake::start().await;
    back_up(&fake, 1, &source).await.unwrap();
    for chunk in fake.state.chunks.lock().unwrap().values_mut() {
        *chunk = DataBlob::encode_plain(Bytes::from_static(b"something else"))
            .unwrap()
            .encoded();
    }
    let error = restored(&fake, "disk.img", &at.join("1"), None)
        .await
        .unwrap_err();
    assert!(format!("{error:#}").contains("damaged"), "{error:#}");
    fake.state.chunks.lock().unwrap().clear();
    let error = restored(&fake, "disk.img", &at.join("2"), None)
        .await
        .unwrap_err();
    assert!(format!("{error:#}").contains("no chunk"), "{error:#}");

    damaged(&fake, "disk.img.fidx", 4096);
    let error = restored(&fake, "disk.img", &at.join("3"), None)
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("not what the manifest lists"),
        "{error}"
    );
    damaged(&fake, "index.json.blob", 20);
    let error = restored(&fake, "disk.img", &at.join("4"), None)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("manifest"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_pinned_certificate_is_believed() {
    let fake = Fake::start().await;
    let mut access = fake.access();
    let right = access.fingerprint.unwrap().to_string();
    Session::open(&access).await.expect("the right fingerprint");
    access.fingerprint = Some(["00"; 32].join(":").parse().unwrap());
    let error = Session::open(&access)
        .await
        .err()
        .expect("a wrong fingerprint")
        .to_string();
    assert!(
        error.contains(&right) && error.contains("00:00") && error.contains("PBS_FINGERPRINT"),
        "{error}"
    );
    assert_eq!(
        fake.requests("POST").len(),
        1,
        "the password went to a server that is not trusted"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_sent_as_the_protocol_wants_them() {
    let fake = Fake::start().await;
    let mut access = fake.access();
    access.secret = "wrong".to_owned();
    let error = Session::open(&access)
        .await
        .err()
        .expect("a wrong password")
        .to_string();
    assert_eq!(error, "user name or password is wrong");

    access = fake.access();
    access.repository.auth_id = "me@pbs!tok".parse().unwrap();
    let mut session = Session::open(&access).await.unwrap();
    session
        .get("/admin/datastore/store/snapshots", &[])
        .await
        .expect("a token needs no login");

    let mut session = Session::open(&fake.access()).await.unwrap();
    *fake.state.expire.lock().unwrap() = 1;
    session
        .get("/admin/datastore/store/snapshots", &[])
        .await
        .expect("an expired ticket is replaced");
    *fake.state.expire.lock().unwrap() = 9;
    assert!(
        session
            .get("/admin/datastore/store/snapshots", &[])
            .await
            .is_err()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_followed_to_its_end() {
    let fake = Fake::start().await;
    let line = |n: u64| json!({"n": n, "t": format!("line {n}")});
    *fake.state.task_pages.lock().unwrap() = vec![
        json!({"data": [line(1), line(2)], "total": 2, "active": true}),
        json!({"data": [], "total": 2, "active": true}),
        json!({"data": [line(3)], "total": 3, "active": false}),
    ];
    let mut session = Session::open(&fake.access()).await.unwrap();
    let output = OutputArgs {
        output_format: OutputFormat::Text,
    }
    .output();
    let progress = Progress::silent();
    task::follow(&mut session, "UPID:a:b:", output, &progress)
        .await
        .unwrap();
    assert_eq!(
        progress.kept(),
        ["warning: the task ended with WARNINGS: 3"]
    );
    let starts: Vec<_> = fake.requests("GET /api2/json/nodes/localhost/tasks/UPID%3Aa%3Ab%3A/log");
    let starts: Vec<_> = starts
        .iter()
        .map(|line| line.split("start=").nth(1).unwrap().split('&').next())
        .collect();
    assert_eq!(starts, [Some("1"), Some("3"), Some("3")]);

    *fake.state.task_pages.lock().unwrap() = vec![json!({"data": [], "total": 2, "active": false})];
    let error = task::follow(&mut session, "UPID:a:b:", output, &progress)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("ends before"), "{error}");
}
