//! Tests of the body of a download; those of whole downloads are with the calls.

use http_body_util::BodyExt as _;
use pbs_datastore::DatastoreName;

use super::*;
use crate::protocol::SessionTable;

fn body(length: u64, parts: &[&'static [u8]]) -> DownloadBody {
    let store: DatastoreName = "store1".parse().expect("a name");
    let subject = SessionSubject {
        kind: SessionKind::Reader,
        store,
        namespace: pbs_datastore::Namespace::root(),
        snapshot: "host/a/2023-11-14T22:13:20Z".parse().expect("a snapshot"),
        author: "a@pbs".parse().expect("an id"),
        peer: "127.0.0.1".to_owned(),
        started: jiff::Timestamp::UNIX_EPOCH,
    };
    let session = SessionTable::default().open(subject, 1).expect("the first");
    let (sink, receiver) = mpsc::channel(parts.len().max(1));
    for part in parts {
        sink.try_send(Bytes::from_static(part)).expect("room");
    }
    DownloadBody {
        parts: receiver,
        part: Bytes::new(),
        bytes_left: length,
        progress: session.progress().clone(),
    }
}

#[tokio::test]
async fn a_body_is_as_long_as_it_was_announced_or_broken() {
    let whole = body(5, &[b"ab", b"", b"cde"]).collect().await;
    assert_eq!(whole.expect("whole").to_bytes(), "abcde");
    body(0, &[]).collect().await.expect("nothing is whole");
    body(5, &[b"ab"]).collect().await.expect_err("too short");
    body(1, &[b"ab"]).collect().await.expect_err("too long");
}

#[tokio::test]
async fn parts_are_handed_on_in_pieces() {
    static LONG: [u8; PIECE_BYTES + 1] = [1; PIECE_BYTES + 1];
    let mut body = body(LONG.len() as u64, &[&LONG]);
    for expected in [PIECE_BYTES, 1] {
        let piece = body.frame().await.expect("a piece").expect("data");
        assert_eq!(piece.into_data().expect("data").len(), expected);
    }
    assert!(body.is_end_stream());
    assert_eq!(body.progress.bytes_sent(), LONG.len() as u64);
}

#[test]
fn there_is_always_a_turn_to_unpack() {
    for (mib, turns) in [(1, 1), (44, 1), (236, 7), (1 << 20, 64)] {
        let budget = MemoryBudget::new(mib << 20);
        assert_eq!(UnpackTurns::new(&budget).0.available_permits(), turns);
    }
}
