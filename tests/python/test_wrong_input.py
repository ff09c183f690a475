"""Wrong input in the backup and reader protocols and in REST: refused with a status and one clear line.

Every refusal leaves the session usable.  Needs a server, see `conftest.py`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import zstandard

import pbs_format as fmt
from conftest import eventually, listed, refusal
from http2 import StreamReset
from pbs_backup import backup_blob, backup_dynamic, upload_dynamic
from pbs_client import BACKUP_PROTOCOL, READER_PROTOCOL, ApiError, BackupSession, PbsClient, Snapshot, with_query

PLAIN = b"some chunk content " * 100
DIGEST = fmt.chunk_digest(PLAIN)
BLOB = fmt.encode_blob(PLAIN)
ABSENT = "1" * 64


@pytest.fixture
def session(client: PbsClient, store: str, snapshot: Snapshot) -> Iterator[BackupSession]:
    """A backup session that must still work at the end of the test."""
    with client.backup(store, snapshot) as opened:
        yield opened
        assert opened.previous_time() is None, "the session must survive refused requests"


def post_chunk(session: BackupSession, kind: str = "dynamic", **changes: object) -> int:
    """Status of a chunk upload with some values changed; 0 when the server reset the stream."""
    body = changes.pop("body", BLOB)
    query = {"wid": 1, "digest": DIGEST, "size": len(PLAIN), "encoded-size": len(body), **changes}
    try:
        return session.request("POST", f"{kind}_chunk", query, body=body).status
    except StreamReset:
        return 0


CHUNK_FAULTS = {
    "wrong digest": {"digest": ABSENT},
    "digest in upper case": {"digest": DIGEST.upper()},
    "short digest": {"digest": DIGEST[:-2]},
    "wrong plain size": {"size": len(PLAIN) - 1},
    "size zero": {"size": 0},
    "size too large": {"size": fmt.CHUNK_BYTES_MAX + 1},
    "body shorter than announced": {"encoded-size": len(BLOB) + 1},
    "body longer than announced": {"encoded-size": len(BLOB) - 1},
    "announced size too large": {"encoded-size": fmt.CHUNK_BYTES_MAX + 45},
    "announced size too small": {"encoded-size": 11},
    "truncated blob": {"body": BLOB[:-5]},
    "only a header": {"body": BLOB[:12], "size": 1},
    "wrong magic": {"body": b"\0" * 8 + BLOB[8:]},
    "broken zstd frame": {"body": fmt.ZSTD_MAGIC + BLOB[8:]},
    "encrypted without room for the tag": {"body": fmt.ENCRYPTED_MAGIC + bytes(20)},
    "unknown writer": {"wid": 9},
    "writer zero": {"wid": 0},
    "writer out of range": {"wid": 257},
    "writer not a number": {"wid": "one"},
    "unknown parameter": {"bogus": 1},
}


@pytest.mark.parametrize("fault", CHUNK_FAULTS)
def test_chunk_faults(session: BackupSession, fault: str) -> None:
    session.create_dynamic("a.didx")
    assert post_chunk(session, **CHUNK_FAULTS[fault]) in ((400,) if "longer" not in fault else (400, 413, 0))
    assert post_chunk(session) == 200
    session.append("dynamic", 1, [DIGEST], [0])


def test_chunk_with_missing_parameters(session: BackupSession) -> None:
    session.create_dynamic("a.didx")
    for missing in ("wid", "digest", "size", "encoded-size"):
        assert post_chunk(session, **{missing: None}) == 400


def test_oversized_chunk(session: BackupSession) -> None:
    session.create_dynamic("a.didx")
    plain = bytes(fmt.CHUNK_BYTES_MAX + 1)
    blob = fmt.encode_blob(plain)
    assert post_chunk(session, digest=fmt.chunk_digest(plain), size=len(plain), body=blob) in (400, 413, 0)


def test_largest_chunk_is_accepted(session: BackupSession) -> None:
    session.create_dynamic("a.didx")
    plain = bytes(fmt.CHUNK_BYTES_MAX)
    assert post_chunk(session, digest=fmt.chunk_digest(plain), size=len(plain), body=fmt.encode_blob(plain)) == 200


@pytest.mark.parametrize("announced", [fmt.CHUNK_BYTES_MAX, len(PLAIN)])
def test_zstd_bomb(session: BackupSession, announced: int) -> None:
    session.create_dynamic("a.didx")
    compressor = zstandard.ZstdCompressor(level=3).compressobj()
    frame = b"".join(compressor.compress(bytes(1 << 22)) for _ in range(100)) + compressor.flush()
    bomb = fmt.with_right_crc(fmt.ZSTD_MAGIC + bytes(4) + frame)
    assert len(bomb) < 200_000
    assert post_chunk(session, body=bomb, size=announced) == 400


def test_reset_upload_is_not_known(session: BackupSession) -> None:
    session.create_dynamic("a.didx")
    query = {"wid": 1, "digest": DIGEST, "size": len(PLAIN), "encoded-size": len(BLOB)}
    head = [
        (":method", "POST"),
        (":scheme", "https"),
        (":authority", "x"),
        (":path", with_query("/dynamic_chunk", query)),
    ]
    stream = session.h2.open(head, end=False)
    stream.send(BLOB[:20])
    stream.reset()
    assert refusal(session.append, "dynamic", 1, [DIGEST], [0]).status == 400
    session.h2.ping()


APPEND_FAULTS = {
    "unknown digest": {"digest-list": [ABSENT]},
    "offset out of order": {"offset-list": [7]},
    "negative offset": {"offset-list": [-1]},
    "lists of different length": {"offset-list": [0, 1]},
    "no digest": {"digest-list": None},
    "digest in upper case": {"digest-list": [DIGEST.upper()]},
    "digests not a list": {"digest-list": {"a": 1}},
    "unknown writer": {"wid": 9},
    "unknown parameter": {"bogus": 1},
}


@pytest.mark.parametrize("fault", APPEND_FAULTS)
def test_append_faults(session: BackupSession, fault: str) -> None:
    session.create_dynamic("a.didx")
    assert post_chunk(session) == 200
    body = {"wid": 1, "digest-list": [DIGEST], "offset-list": [0], **APPEND_FAULTS[fault]}
    body = {name: value for name, value in body.items() if value is not None}
    assert refusal(session.call, "PUT", "dynamic_index", body_json=body).status == 400
    session.append("dynamic", 1, [DIGEST], [0])


def test_append_body_is_not_json(session: BackupSession) -> None:
    stream = session.h2.start("PUT", "/dynamic_index", b"{wid:", content_type="application/json")
    assert stream.wait().status == 400


def test_close_faults_of_a_dynamic_index(session: BackupSession) -> None:
    wid = session.create_dynamic("a.didx")
    assert post_chunk(session) == 200
    session.append("dynamic", wid, [DIGEST], [0])
    right = fmt.DynamicIndex([(len(PLAIN), DIGEST)]).csum()
    for count, size, csum in ((2, len(PLAIN), right), (1, len(PLAIN) + 1, right), (1, len(PLAIN), right.upper())):
        assert refusal(session.close_index, "dynamic", wid, count, size, csum).status == 400
    assert refusal(session.close_index, "dynamic", 9, 1, len(PLAIN), right).status == 400
    session.close_index("dynamic", wid, 1, len(PLAIN), right)
    assert refusal(session.close_index, "dynamic", wid, 1, len(PLAIN), right).status == 400


def test_close_with_a_wrong_checksum(session: BackupSession) -> None:
    wid = session.create_dynamic("a.didx")
    assert post_chunk(session) == 200
    session.append("dynamic", wid, [DIGEST], [0])
    assert refusal(session.close_index, "dynamic", wid, 1, len(PLAIN), ABSENT).status == 400


def test_empty_dynamic_index_cannot_be_closed(session: BackupSession) -> None:
    wid = session.create_dynamic("a.didx")
    assert refusal(session.close_index, "dynamic", wid, 0, 0, fmt.DynamicIndex().csum()).status == 400


def test_fixed_index_rules(session: BackupSession) -> None:
    image_size = fmt.CHUNK_SIZE + 1000
    wid = session.create_fixed("d.img.fidx", image_size)
    full = session.upload_chunk("fixed", wid, bytes(fmt.CHUNK_SIZE), compress=True)
    short = session.upload_chunk("fixed", wid, b"e" * 1000)
    other = fmt.encode_blob(b"f" * 99)
    assert session.start_chunk("fixed", wid, fmt.chunk_digest(b"f" * 99), 99, other).wait().status == 400, (
        "second short chunk"
    )
    big = bytes(fmt.CHUNK_SIZE + 1)
    assert session.start_chunk("fixed", wid, fmt.chunk_digest(big), len(big), fmt.encode_blob(big)).wait().status == 400
    for digest, offset in ((full, 5), (short, 0), (full, fmt.CHUNK_SIZE), (full, 8 * fmt.CHUNK_SIZE)):
        assert refusal(session.append, "fixed", wid, [digest], [offset]).status == 400
    session.append("fixed", wid, [short, full], [fmt.CHUNK_SIZE, 0])
    csum = fmt.FixedIndex(image_size, [full, short]).csum()
    for count, size, value in ((1, image_size, csum), (2, 1000, csum)):
        assert refusal(session.close_index, "fixed", wid, count, size, value).status == 400
    assert (
        session.request(
            "POST", "dynamic_close", {"wid": wid, "chunk-count": 2, "size": image_size, "csum": csum}
        ).status
        == 400
    )
    session.close_index("fixed", wid, 2, image_size, csum)


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"archive-name": "a.fidx"},
        {"archive-name": "a"},
        {"archive-name": "../a.didx"},
        {"archive-name": "a/b.didx"},
        {"archive-name": ".didx"},
        {"archive-name": "-a.didx"},
        {"archive-name": "a b.didx"},
        {"archive-name": "a\0.didx"},
        {"archive-name": "a.didx", "bogus": 1},
        {"archive-name": "x" * 300 + ".didx"},
    ],
    ids=str,
)
def test_index_names(session: BackupSession, query: dict) -> None:
    answer = session.request("POST", "dynamic_index", query)
    assert answer.status == 400 and answer.text.strip()


def test_reuse_needs_a_previous_backup(session: BackupSession) -> None:
    assert refusal(session.create_fixed, "d.img.fidx", 1000, ABSENT).status == 400
    assert refusal(session.previous, fmt.MANIFEST_NAME).status == 400


def test_blob_faults(session: BackupSession) -> None:
    good = fmt.encode_blob(b"blob")
    faults = [
        ("x.conf.blob", len(good), fmt.encode_blob(b"blob", crc=7)),
        ("x.conf.blob", len(good) + 1, good),
        ("x.conf", len(good), good),
        ("../x.blob", len(good), good),
        ("x.conf.blob", len(good), b"\0" * len(good)),
        ("x.conf.blob", 11, good[:11]),
        ("x.conf.blob", 0, b""),
    ]
    for name, announced, body in faults:
        answer = session.request("POST", "blob", {"file-name": name, "encoded-size": announced}, body=body)
        assert answer.status == 400, f"{name} {announced} {body!r}: {answer.status}"
    assert session.upload_blob("x.conf.blob", good)["size"] == len(good)


def test_finish_needs_files_manifest_and_closed_indexes(client: PbsClient, store: str, snapshot: Snapshot) -> None:
    with client.backup(store, snapshot) as empty:
        assert refusal(empty.finish).status == 400

    def without_manifest() -> bool:
        try:
            opened = client.backup(store, snapshot)
        except ApiError:
            return False
        with opened:
            opened.upload_blob("x.conf.blob", fmt.encode_blob(b"x"))
            assert refusal(opened.finish).status == 400
        return True

    assert eventually(without_manifest)
    later = snapshot.later()
    with client.backup(store, later) as unclosed:
        unclosed.create_dynamic("a.didx")
        unclosed.upload_manifest(later, [unclosed.upload_blob("x.conf.blob", fmt.encode_blob(b"x"))])
        assert refusal(unclosed.finish).status == 400
    assert eventually(lambda: not listed(client, store, snapshot))


def test_damaged_manifest_cannot_be_finished(client: PbsClient, store: str, snapshot: Snapshot) -> None:
    with client.backup(store, snapshot) as session:
        session.upload_blob("x.conf.blob", fmt.encode_blob(b"x"))
        session.upload_blob(fmt.MANIFEST_NAME, fmt.encode_blob(b"not json"))
        assert refusal(session.finish).status == 400
    assert eventually(lambda: not listed(client, store, snapshot))


def test_nothing_changes_after_finish(client: PbsClient, store: str, snapshot: Snapshot) -> None:
    with client.backup(store, snapshot) as session:
        session.upload_manifest(snapshot, [session.upload_blob("x.conf.blob", fmt.encode_blob(b"x"))])
        session.finish()
        assert refusal(session.finish).status == 400
        assert refusal(session.create_dynamic, "late.didx").status == 400


def test_unknown_h2_paths_and_methods(session: BackupSession) -> None:
    for method, path in (("GET", "nosuch"), ("PUT", "finish"), ("GET", "blob"), ("DELETE", "dynamic_index")):
        assert session.request(method, path).status == 404


def test_second_backup_of_a_busy_group(client: PbsClient, store: str, snapshot: Snapshot) -> None:
    with client.backup(store, snapshot) as first:
        assert refusal(client.backup, store, snapshot.later()).status == 400
        first.upload_manifest(snapshot, [first.upload_blob("x.conf.blob", fmt.encode_blob(b"x"))])
        first.finish()
        backup_blob(client, store, snapshot.later())  # the group is free once finish is answered


UPGRADE_FAULTS = {
    "unknown datastore": ({"store": "nostore"}, 400),
    "datastore name with a slash": ({"store": "a/b"}, 400),
    "no datastore": ({"store": None}, 400),
    "unknown namespace": ({"ns": "absent"}, 404),
    "namespace with slashes outside": ({"ns": "/a"}, 400),
    "namespace too deep": ({"ns": "/".join("abcdefgh")}, 400),
    "unknown type": ({"backup-type": "xx"}, 400),
    "malformed id": ({"backup-id": "../x"}, 400),
    "id with a slash": ({"backup-id": "a/b"}, 400),
    "empty id": ({"backup-id": ""}, 400),
    "time zero": ({"backup-time": 0}, 400),
    "time not a number": ({"backup-time": "now"}, 400),
    "benchmark flag elsewhere": ({"benchmark": True}, 400),
    "unknown parameter": ({"bogus": 1}, 400),
}


@pytest.mark.parametrize("fault", UPGRADE_FAULTS)
def test_upgrade_faults(client: PbsClient, store: str, snapshot: Snapshot, fault: str) -> None:
    changes, status = UPGRADE_FAULTS[fault]
    query = {"store": store, **snapshot.query(), **changes}
    assert refusal(client.upgrade, "backup", BACKUP_PROTOCOL, query).status == status
    if "benchmark" not in fault:
        assert refusal(client.upgrade, "reader", READER_PROTOCOL, query).status in (400, 404)
    assert not listed(client, store, snapshot)


def test_upgrade_with_a_wrong_protocol(client: PbsClient, store: str, snapshot: Snapshot) -> None:
    query = {"store": store, **snapshot.query()}
    for protocol in (READER_PROTOCOL, "h2c", ""):
        assert refusal(client.upgrade, "backup", protocol, query).status == 400
    assert client.request("GET", "/backup", query=query).status == 400, "no Upgrade header"


def test_reader_refusals(client: PbsClient, store: str, snapshot: Snapshot) -> None:
    backup_dynamic(client, store, snapshot, "a.didx", PLAIN)
    assert refusal(client.reader, store, snapshot.later()).status == 400
    with client.reader(store, snapshot) as reader:
        assert reader.request("GET", "chunk", {"digest": DIGEST}).status == 401, "index not opened yet"
        reader.download("a.didx")
        for digest, status in ((ABSENT, 401), (DIGEST.upper(), 400), ("xyz", 400), (None, 400)):
            assert reader.request("GET", "chunk", {"digest": digest}).status == status
        for name in ("foo.txt", "../owner", "a/b.blob", "..", "", None):
            assert reader.request("GET", "download", {"file-name": name}).status == 400
        assert reader.request("POST", "download", {"file-name": "a.didx"}).status == 404
        assert reader.request("GET", "nosuch").status == 404
        assert fmt.decode_blob(reader.chunk(DIGEST)) == PLAIN


def test_encrypted_chunk_is_taken_on_trust_and_kept(client: PbsClient, store: str, snapshot: Snapshot) -> None:
    key = fmt.Key(bytes(32))
    with client.backup(store, snapshot) as session:
        entry = upload_dynamic(session, "a.didx", [PLAIN], key=key)
        session.upload_manifest(snapshot, [entry], key)
        session.finish()
    with client.reader(store, snapshot) as reader:
        index = fmt.decode_index(reader.download("a.didx"))
        assert fmt.decode_blob(reader.chunk(index.digests[0]), key=key) == PLAIN
