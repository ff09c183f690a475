//! What claims to be small and is huge: compressed chunks, blobs and manifests, and indexes of images that nobody has.

use std::io::Write as _;

use anyhow::{Context as _, Result, ensure};
use bytes::{BufMut as _, Bytes, BytesMut};
use holdfast_tests::attack::http2::{Answer, Session};
use holdfast_tests::measure::usage::DirBytes;
use holdfast_tests::process::say;
use pbs_datastore::{BlobKind, CHUNK_BYTES_MAX, CHUNK_ENCODED_BYTES_MAX, DataBlob, Digest};
use serde_json::json;

use super::accounts::{RIVAL, STORE};
use super::world::{BESIDE_BUDGET_BYTES, BUDGET_BYTES, World};

/// What a bomb would unpack to: more than all memory that the daemon may take.
const UNPACKED_BYTES: u64 = 2 << 30;
/// Disk that refused indexes may leave behind while their session is open: files without content.
const DISK_BYTES_MAX: u64 = 16 << 20;

/// The digest and the encoding of a chunk without compression.
pub(crate) fn plain_chunk(data: &[u8]) -> (String, Vec<u8>) {
    let blob = DataBlob::encode_plain(Bytes::copy_from_slice(data)).expect("short enough");
    (Digest::of(data).to_string(), blob.encoded().to_vec())
}

/// Where a chunk is sent to.
pub(crate) fn chunk_target(wid: u32, digest: &str, size: usize, encoded: usize) -> String {
    format!("/dynamic_chunk?wid={wid}&digest={digest}&size={size}&encoded-size={encoded}")
}

/// A blob of this kind with this payload, and a right checksum.
fn blob(kind: BlobKind, payload: &[u8]) -> Vec<u8> {
    let mut blob = BytesMut::new();
    blob.put_slice(&kind.magic());
    blob.put_u32_le(crc32(payload));
    blob.put_slice(payload);
    let parsed = DataBlob::parse(blob.freeze()).expect("a blob");
    parsed.with_computed_crc().encoded().to_vec()
}

/// Put right by [`DataBlob::with_computed_crc`].
fn crc32(_: &[u8]) -> u32 {
    0
}

/// `bytes` of `byte`, compressed, without a word about how many they are.
fn compressed(byte: u8, bytes: u64) -> Result<Vec<u8>> {
    let mut encoder = zstd::stream::Encoder::new(Vec::new(), 1)?;
    encoder.include_contentsize(false)?;
    let piece = vec![byte; 1 << 20];
    for _ in 0..bytes >> 20 {
        encoder.write_all(&piece)?;
    }
    Ok(encoder.finish()?)
}

/// A frame that claims to hold `bytes`, in one segment, and then nothing.
fn claim(bytes: u64) -> Vec<u8> {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0xe0];
    frame.extend(bytes.to_le_bytes());
    // The last block, raw and empty.
    frame.extend([1, 0, 0]);
    frame
}

/// A frame with the largest window that there is.
fn wide_window() -> Vec<u8> {
    vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xff, 1, 0, 0]
}

fn refused(what: &str, answer: &Answer) -> Result<()> {
    ensure!(
        answer.status == 400 && !answer.body.is_empty() && answer.body.len() < 400,
        "{what}: {} {:?}",
        answer.status,
        answer.text()
    );
    Ok(())
}

/// One call that must be refused; its body may go on after the refusal.
async fn refuse(session: &mut Session, what: &str, target: &str, body: &[u8]) -> Result<()> {
    let answer = session.call("POST", target, body).await;
    refused(what, &answer.context(what.to_owned())?)
}

async fn chunk_bombs(world: &World) -> Result<usize> {
    let mut session = world.backup_session(RIVAL, "bombs").await?;
    let opened = session
        .call("POST", "/dynamic_index?archive-name=a.didx", b"")
        .await?;
    ensure!(opened.status == 200, "{}", opened.text());
    let zeros = compressed(0, UNPACKED_BYTES)?;
    let twice = [compressed(0, 1 << 20)?, compressed(0, 1 << 20)?].concat();
    let skippable = [
        &[0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4],
        &claim(0)[..],
    ]
    .concat();
    let bombs: [(&str, Vec<u8>); 7] = [
        ("two gigabytes of nothing", zeros),
        ("a claim of a terabyte", claim(1 << 40)),
        ("a claim of all there is", claim(u64::MAX)),
        ("a claim that is kept by nothing", claim(1 << 24)),
        ("the widest window", wide_window()),
        ("two frames", twice),
        ("a frame to be skipped", skippable),
    ];
    let mut made = 0;
    for (what, payload) in &bombs {
        let body = blob(BlobKind::Zstd, payload);
        for size in [1, CHUNK_BYTES_MAX] {
            let digest = Digest::of(payload).to_string();
            let target = chunk_target(1, &digest, size, body.len());
            refuse(&mut session, what, &target, &body).await?;
            made += 1;
        }
    }
    let (digest, body) = plain_chunk(b"honest");
    for (what, size, encoded) in [
        ("a wrong size", 7, body.len()),
        ("more than announced", 6, body.len() - 1),
        ("less than announced", 6, body.len() + 1),
        ("a chunk without end", 6, CHUNK_ENCODED_BYTES_MAX + 1),
        ("a chunk of no size", 0, body.len()),
        ("a size beyond all", CHUNK_BYTES_MAX + 1, body.len()),
    ] {
        let target = chunk_target(1, &digest, size, encoded);
        refuse(&mut session, what, &target, &body).await?;
        made += 1;
    }
    let target = chunk_target(1, &digest, 6, body.len());
    let taken = session.call("POST", &target, &body).await?;
    ensure!(
        taken.status == 200,
        "an honest chunk after them: {}",
        taken.text()
    );
    Ok(made)
}

/// A manifest is the one blob that the daemon unpacks.
async fn manifest_bombs(world: &World) -> Result<usize> {
    let deep = [vec![b'['; 1 << 20], vec![b']'; 1 << 20]].concat();
    let names = json!({
        "backup-type": "host", "backup-id": "manifests", "backup-time": 1,
        "files": [{ "filename": "../../escape.didx", "crypt-mode": "none", "size": u64::MAX, "csum": "00" }],
        "signature": null, "unprotected": {},
    });
    let manifests: [(&str, Vec<u8>); 6] = [
        (
            "two gigabytes of blanks",
            blob(BlobKind::Zstd, &compressed(b' ', UNPACKED_BYTES)?),
        ),
        (
            "a claim of a terabyte",
            blob(BlobKind::Zstd, &claim(1 << 40)),
        ),
        ("a million brackets", blob(BlobKind::Plain, &deep)),
        (
            "names that lead away",
            blob(BlobKind::Plain, names.to_string().as_bytes()),
        ),
        ("no JSON", blob(BlobKind::Plain, &[0xff; 1000])),
        (
            "sixteen megabytes",
            blob(BlobKind::Plain, &vec![b' '; CHUNK_BYTES_MAX]),
        ),
    ];
    let mut made = 0;
    for (what, body) in &manifests {
        let mut session = world
            .backup_session(RIVAL, &format!("manifest-{made}"))
            .await?;
        let target = format!(
            "/blob?file-name=index.json.blob&encoded-size={}",
            body.len()
        );
        let stored = session.call("POST", &target, body).await?;
        // It may be refused at once, or when it is read.
        if stored.status == 200 {
            refuse(&mut session, what, "/finish", b"").await?;
        } else {
            refused(what, &stored)?;
        }
        made += 1;
    }
    Ok(made)
}

async fn index_bombs(world: &World) -> Result<usize> {
    let mut session = world.backup_session(RIVAL, "indexes").await?;
    let mut made = 0;
    for size in [
        "9223372036854775807",
        "4611686018427387904",
        "0",
        "-1",
        "18446744073709551616",
    ] {
        let target = format!("/fixed_index?archive-name=a.fidx&size={size}");
        refuse(
            &mut session,
            &format!("an image of {size} bytes"),
            &target,
            b"",
        )
        .await?;
        made += 1;
    }
    // As many as there may be of the largest there may be: names of files, and nothing in them.
    let largest = (1_u64 << 30) / 32 * (4 << 20) - (1 << 30);
    let mut opened = 0;
    let refusal = loop {
        let target = format!("/fixed_index?archive-name=i{opened}.fidx&size={largest}");
        let answer = session.call("POST", &target, b"").await?;
        if answer.status != 200 {
            break answer;
        }
        opened += 1;
        ensure!(opened <= 256, "indexes without number");
    };
    refused("one index more", &refusal)?;
    ensure!(opened > 200, "only {opened} indexes: {}", refusal.text());
    let disk = DirBytes::below(&world.daemon.store_dir(STORE))?.blocks;
    ensure!(disk <= DISK_BYTES_MAX, "they take {disk} bytes of the disk");
    let csum = "0".repeat(64);
    for (what, target) in [
        (
            "a close without chunks",
            format!("/fixed_close?wid=1&chunk-count=0&size={largest}&csum={csum}"),
        ),
        (
            "a close that claims all",
            format!("/fixed_close?wid=1&chunk-count=33554432&size={largest}&csum={csum}"),
        ),
        (
            "a writer beyond all",
            format!("/fixed_close?wid=99999&chunk-count=0&size=0&csum={csum}"),
        ),
    ] {
        refuse(&mut session, what, &target, b"").await?;
        made += 1;
    }
    Ok(made + opened)
}

/// Lists of chunks: too long, of different lengths, beyond the end, of what was never sent.
async fn list_bombs(world: &World) -> Result<usize> {
    let mut session = world.backup_session(RIVAL, "lists").await?;
    for target in [
        "/dynamic_index?archive-name=a.didx",
        "/fixed_index?archive-name=b.fidx",
    ] {
        let opened = session.call("POST", target, b"").await?;
        ensure!(opened.status == 200, "{}", opened.text());
    }
    let (digest, body) = plain_chunk(&[7; 4096]);
    let target = chunk_target(1, &digest, 4096, body.len());
    let taken = session.call("POST", &target, &body).await?;
    ensure!(taken.status == 200, "{}", taken.text());
    let list = |count: usize| vec![digest.clone(); count];
    let offsets = |count: usize| (0..count as u64).map(|at| at * 4096).collect::<Vec<_>>();
    let cases = [
        (
            "too long",
            "dynamic",
            json!({ "wid": 1, "digest-list": list(4097), "offset-list": offsets(4097) }),
        ),
        (
            "of two lengths",
            "dynamic",
            json!({ "wid": 1, "digest-list": list(3), "offset-list": offsets(2) }),
        ),
        (
            "out of order",
            "dynamic",
            json!({ "wid": 1, "digest-list": list(1), "offset-list": [1_u64 << 40] }),
        ),
        (
            "beyond all",
            "fixed",
            json!({ "wid": 2, "digest-list": list(1), "offset-list": [i64::MAX] }),
        ),
        (
            "far away",
            "fixed",
            json!({ "wid": 2, "digest-list": list(1), "offset-list": [(1_u64 << 62)] }),
        ),
        (
            "of nothing",
            "dynamic",
            json!({ "wid": 1, "digest-list": ["00".repeat(32)], "offset-list": [0] }),
        ),
        (
            "of numbers",
            "dynamic",
            json!({ "wid": 1, "digest-list": [1, 2], "offset-list": ["a", {}] }),
        ),
    ];
    for (what, kind, list) in &cases {
        let target = format!("/{kind}_index");
        let headers = [("content-type", "application/json")];
        let stream = session.open_with("PUT", &target, &headers, false).await?;
        session
            .data(stream, list.to_string().as_bytes(), true)
            .await?;
        refused(what, &session.answer(stream).await?)?;
    }
    Ok(cases.len())
}

#[test]
fn what_unpacks_to_gigabytes_takes_none_of_them() -> Result<()> {
    let world = World::new()?;
    world.explain(|| {
        let attack = async {
            let mut made = chunk_bombs(&world).await?;
            made += manifest_bombs(&world).await?;
            made += index_bombs(&world).await?;
            made += list_bombs(&world).await?;
            anyhow::Ok(made)
        };
        let made = world.beside("bombs", BUDGET_BYTES + BESIDE_BUDGET_BYTES, attack)?;
        let left = DirBytes::below(&world.daemon.store_dir(STORE))?;
        say(&format!(
            "security: {made} bombs, all refused; {} MiB in the datastore after them",
            left.blocks >> 20
        ));
        Ok(())
    });
    world.daemon.stop()
}
