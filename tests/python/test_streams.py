"""Many HTTP/2 streams at once on one connection: flow control, duplicates, resets, frame sizes.

Needs a server, see `conftest.py`.
"""

from __future__ import annotations

import random
import threading

import pytest

import pbs_format as fmt
from http2 import AUTHORITY
from load import interleave
from pbs_backup import backup_dynamic, restore, upload_dynamic
from pbs_client import PbsClient, Snapshot, encode_query

RNG = random.Random(28)


def test_09_28_a_stalled_stream_blocks_no_other(client: PbsClient, store: str, snapshot: Snapshot) -> None:
    plain = RNG.randbytes(fmt.CHUNK_SIZE)
    blob = fmt.encode_blob(plain)
    with client.backup(store, snapshot) as session:
        wid = session.create_dynamic("a.didx")
        stalled = []
        for _ in range(16):
            query = {"wid": wid, "digest": fmt.chunk_digest(plain), "size": len(plain), "encoded-size": len(blob)}
            head = [
                (":method", "POST"),
                (":scheme", "https"),
                (":authority", AUTHORITY),
                (":path", "/dynamic_chunk?" + encode_query(query)),
            ]
            stalled.append(session.h2.open(head, end=False))
            stalled[-1].send(blob[:30_000])
        for _ in range(8):
            session.upload_chunk("dynamic", wid, RNG.randbytes(1 << 20))
        for stream in stalled[1:]:
            stream.reset()
        session.upload_chunk("dynamic", wid, RNG.randbytes(1 << 20))
        stalled[0].send(blob[30_000:], end=True)
        assert stalled[0].wait().status == 200


def test_09_29_the_same_chunk_at_once(client: PbsClient, store: str, snapshot: Snapshot) -> None:
    plain = RNG.randbytes(300_000)
    other = Snapshot(snapshot.backup_type, snapshot.backup_id + "-b", snapshot.backup_time)
    with client.backup(store, snapshot) as one, client.backup(store, other) as two:
        streams = []
        for session in (one, two):
            for wid in (session.create_dynamic("a.didx"), session.create_dynamic("b.didx")):
                for _ in range(4):
                    streams.append(
                        session.start_chunk("dynamic", wid, fmt.chunk_digest(plain), len(plain), fmt.encode_blob(plain))
                    )
        assert [stream.wait().status for stream in streams] == [200] * len(streams)
    client.request("DELETE", f"/admin/datastore/{store}/groups", query=other.group())


def test_two_archives_at_once_from_threads(client: PbsClient, store: str, snapshot: Snapshot) -> None:
    """Section 3.6: two writers on one connection, their chunks and appends interleaved."""
    data = {f"part{i}.didx": RNG.randbytes(600_000) for i in range(2)}
    entries: dict[str, dict] = {}
    with client.backup(store, snapshot) as session:

        def write(name: str) -> None:
            pieces = [data[name][i : i + 20_000] for i in range(0, len(data[name]), 20_000)]
            entries[name] = upload_dynamic(session, name, pieces)

        threads = [threading.Thread(target=write, args=(name,)) for name in data]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        session.upload_manifest(snapshot, [entries[name] for name in data])
        session.finish()
    assert restore(client, store, snapshot) == data


@pytest.mark.parametrize("frame_bytes", [1, 13, 1000, 16_384, 1 << 20])
def test_any_frame_size(client: PbsClient, store: str, snapshot: Snapshot, frame_bytes: int) -> None:
    plain = RNG.randbytes(min(200_000, frame_bytes * 500))
    with client.backup(store, snapshot) as session:
        wid = session.create_dynamic("a.didx")
        stream = session.start_chunk(
            "dynamic", wid, fmt.chunk_digest(plain), len(plain), fmt.encode_blob(plain), frame_bytes=frame_bytes
        )
        assert stream.wait().status == 200


def test_many_interleaved_uploads(client: PbsClient, store: str, snapshot: Snapshot) -> None:
    """More half-received bodies than fit into a connection window of 2 MiB, in small frames."""
    pieces = [RNG.randbytes(100_000) for _ in range(60)]
    with client.backup(store, snapshot) as session:
        wid = session.create_dynamic("a.didx")
        allowed = min(len(pieces), session.h2.streams_max())
        uploads, _, _ = interleave(session, wid, pieces, allowed, 4096)
        session.append("dynamic", wid, [u.digest for u in uploads], [i * 100_000 for i in range(len(pieces))])


def test_a_reader_with_small_windows(client: PbsClient, store: str, snapshot: Snapshot) -> None:
    """The server keeps to the client's window, and other streams go on beside a stalled one."""
    data = RNG.randbytes(300_000)
    manifest = backup_dynamic(client, store, snapshot, "a.didx", data, chunk_bytes=150_000)
    assert restore(client, store, snapshot) == {"a.didx": data}
    with client.reader(store, snapshot, stream_window=20_000, frame_bytes_max=16_384, acknowledge=False) as reader:
        index = fmt.decode_index(reader.download("a.didx"))
        assert index.csum() == manifest["files"][0]["csum"]
        stalled = reader.start("GET", "chunk", {"digest": index.digests[0]})
        reader.h2.wait_for(lambda: stalled.unacknowledged >= 20_000, 10, "a full window of data")
        assert stalled.unacknowledged == 20_000 and not stalled.done
        assert reader.fetch("download", {"file-name": fmt.MANIFEST_NAME})
        reader.h2.ping()


def test_abandoned_downloads(client: PbsClient, store: str, snapshot: Snapshot) -> None:
    """Resetting a download in the middle leaves the session usable."""
    data = RNG.randbytes(3 << 20)
    backup_dynamic(client, store, snapshot, "a.didx", data, chunk_bytes=1 << 20)
    with client.reader(store, snapshot) as reader:
        digests = fmt.decode_index(reader.download("a.didx")).digests
        for digest in digests * 3:
            reader.start("GET", "chunk", {"digest": digest}).reset()
        assert [fmt.chunk_digest(fmt.decode_blob(reader.chunk(digest))) for digest in digests] == digests
