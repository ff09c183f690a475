//! Many bodies at once with little memory: nothing may wait for ever.

use bytes::{BufMut as _, Bytes, BytesMut};
use pbs_datastore::{BlobKind, CHUNK_BYTES_MAX, CHUNK_ENCODED_BYTES_MAX, Digest};

use super::fixture::{Fixture, chunk_target, snapshot};
use super::raw::RawClient;
use crate::protocol::flow::STREAMS_MAX;

/// An encrypted chunk, which nobody can look into, of this size.
fn encrypted(size: usize) -> Bytes {
    let mut blob = BytesMut::zeroed(BlobKind::Encrypted.header_len());
    blob[..8].copy_from_slice(&BlobKind::Encrypted.magic());
    blob.put_bytes(0x5a, size);
    blob.freeze()
}

async fn begin(fixture: &Fixture) -> RawClient {
    let target = Fixture::backup_target(&snapshot("raw", 0));
    let request = fixture.upgrade_request(&target, "proxmox-backup-protocol-v1", "backup");
    let mut client = RawClient::begin(fixture.upgraded(request).await).await;
    client.post(1, "/dynamic_index?archive-name=a.didx").await;
    assert!(client.try_data(1, b"", true).await);
    while client.answers.is_empty() {
        client.receive().await;
    }
    assert!(client.answers[&1]);
    client
}

async fn open_chunks(
    client: &mut RawClient,
    first: u32,
    count: u32,
    size: usize,
    encoded: usize,
) -> Vec<u32> {
    let streams: Vec<u32> = (0..count).map(|i| first + 2 * i).collect();
    for stream in &streams {
        let digest = Digest::of(&stream.to_be_bytes());
        client
            .post(*stream, &chunk_target(1, "dynamic", &digest, size, encoded))
            .await;
    }
    streams
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_streams_interleaved_in_small_frames() {
    let fixture = Fixture::new().await;
    let mut client = begin(&fixture).await;
    let body = encrypted(256 << 10);
    assert!(
        body.len() as u64 * u64::from(STREAMS_MAX) > fixture.budget.bytes_free() / 2,
        "more bodies than a session may hold"
    );
    let streams = open_chunks(&mut client, 3, STREAMS_MAX, 256 << 10, body.len()).await;
    client.interleave(&streams, &body, 16 << 10).await;
    assert!(streams.iter().all(|stream| client.answers[stream]));
    drop(client);
    fixture.settle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_longest_chunks_interleaved() {
    let fixture = Fixture::new().await;
    let mut client = begin(&fixture).await;
    let body = encrypted(CHUNK_BYTES_MAX);
    assert_eq!(body.len(), CHUNK_ENCODED_BYTES_MAX);
    let streams = open_chunks(&mut client, 3, 4, CHUNK_BYTES_MAX, body.len()).await;
    client.interleave(&streams, &body, 16 << 10).await;
    assert!(streams.iter().all(|stream| client.answers[stream]));
    drop(client);
    fixture.settle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_stall_hold_up_no_others_and_come_back_when_reset() {
    let fixture = Fixture::new().await;
    let mut client = begin(&fixture).await;
    let body = encrypted(1 << 20);
    let stalled = open_chunks(&mut client, 3, 16, 1 << 20, body.len()).await;
    for stream in &stalled {
        assert!(client.try_data(*stream, &body[..10_000], false).await);
    }
    let others = open_chunks(&mut client, 101, 20, 1 << 20, body.len()).await;
    client.interleave(&others, &body, 16 << 10).await;
    let (kept, given_up) = stalled.split_at(1);
    for stream in given_up {
        client.reset(*stream).await;
    }
    let more = open_chunks(&mut client, 201, 40, 1 << 20, body.len()).await;
    client.interleave(&more, &body, 16 << 10).await;
    client
        .interleave(kept, &body.slice(10_000..), 16 << 10)
        .await;
    assert!(
        kept.iter()
            .chain(&others)
            .chain(&more)
            .all(|stream| client.answers[stream])
    );
    drop(client);
    fixture.settle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_goes_on_too_long_is_refused_before_its_end() {
    let fixture = Fixture::new().await;
    let mut client = begin(&fixture).await;
    let streams = open_chunks(&mut client, 3, 1, 500, 512).await;
    assert!(client.try_data(streams[0], &encrypted(1000), false).await);
    while !client.answers.contains_key(&streams[0]) {
        client.receive().await;
    }
    assert!(!client.answers[&streams[0]]);
    drop(client);
    fixture.settle().await;
}
