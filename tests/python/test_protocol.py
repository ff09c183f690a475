"""Section 9 of the interface document: behaviours that break stock clients if done differently.

One test per item, named by its number; 28 and 29 are in `test_streams.py`, those about REST in
`test_rest.py`.  Needs a server, see `conftest.py`.
"""

from __future__ import annotations

import hashlib
import random
import re
import time

import pytest

import pbs_format as fmt
from comparison import LOG_LINE, UPID
from conftest import eventually, listed, refusal
from pbs_backup import backup_blob, backup_dynamic, backup_image, restore, upload_dynamic, upload_image
from pbs_client import BACKUP_PROTOCOL, ApiError, BackupSession, PbsClient, Snapshot

RNG = random.Random(9)


def admin(store: str, call: str) -> str:
    """Path of a datastore call."""
    return f"/admin/datastore/{store}/{call}"


def finish(session: BackupSession, snapshot: Snapshot, files: list, **members: object) -> dict:
    """Upload the manifest, finish, drop."""
    manifest = session.upload_manifest(snapshot, files, **members)
    session.finish()
    session.drop()
    return manifest


def test_09_02_writer_ids_are_small_numbers(client: PbsClient, store: str, snapshot: Snapshot) -> None:
    with client.backup(store, snapshot) as session:
        wids = [session.create_dynamic("a.didx"), session.create_fixed("b.fidx", 1), session.create_dynamic("c.didx")]
        assert wids == [1, 2, 3] and all(type(wid) is int for wid in wids)


def test_09_03_paths_have_no_prefix_and_any_authority(client: PbsClient, store: str, snapshot: Snapshot) -> None:
    with client.backup(store, snapshot) as session:
        assert session.previous_time() is None
        assert session.request("GET", "api2/json/previous_backup_time").status == 404
        head = [
            (":method", "GET"),
            (":scheme", "https"),
            (":authority", "elsewhere:1"),
            (":path", "/previous_backup_time"),
        ]
        assert session.h2.open(head, end=True).wait().status == 200


def test_09_04_parameters_in_query_or_body(client: PbsClient, store: str, snapshot: Snapshot) -> None:
    data = b"content of both archives"
    digest = fmt.chunk_digest(data)
    with client.backup(store, snapshot) as session:
        files = []
        for name, place in (("q.didx", "query"), ("j.didx", "body_json")):

            def send(method: str, endpoint: str, values: dict) -> object:
                return session.call(method, endpoint, **{place: values})

            wid = send("POST", "dynamic_index", {"archive-name": name})
            session.upload_chunk("dynamic", wid, data)
            send("PUT", "dynamic_index", {"wid": wid, "digest-list": [digest], "offset-list": [0]})
            index = fmt.DynamicIndex([(len(data), digest)])
            send("POST", "dynamic_close", {"wid": wid, "chunk-count": 1, "size": len(data), "csum": index.csum()})
            files.append(fmt.manifest_file(name, len(data), index.csum()))
        finish(session, snapshot, files)
    assert restore(client, store, snapshot) == {"q.didx": data, "j.didx": data}
    for options in ({"query": snapshot.query()}, {"form": snapshot.query()}, {"body_json": snapshot.query()}):
        method = "GET" if "query" in options else "PUT"
        if method == "PUT":
            values = {k: v for k, v in next(iter(options.values())).items() if v is not None} | {"notes": "x"}
            options = {next(iter(options)): values}
        client.call(method, admin(store, "notes"), **options)


def test_09_05_append_bodies_of_64_kib(client: PbsClient, store: str, snapshot: Snapshot) -> None:
    with client.backup(store, snapshot) as session:
        wid = session.create_dynamic("a.didx")
        digest = session.upload_chunk("dynamic", wid, b"x")
        count = 850
        body = {"wid": wid, "digest-list": [digest] * count, "offset-list": list(range(count))}
        assert 60_000 < len(str(body)) < 65_536
        session.call("PUT", "dynamic_index", body_json=body)


def test_09_06_chunk_crc_is_recomputed_and_blob_crc_checked(client: PbsClient, store: str, snapshot: Snapshot) -> None:
    plain = RNG.randbytes(5000)
    with client.backup(store, snapshot) as session:
        wid = session.create_dynamic("a.didx")
        digest = fmt.chunk_digest(plain)
        stream = session.start_chunk("dynamic", wid, digest, len(plain), fmt.encode_blob(plain, crc=0))
        assert stream.wait().status == 200
        session.append("dynamic", wid, [digest], [0])
        index = fmt.DynamicIndex([(len(plain), digest)])
        session.close_index("dynamic", wid, 1, len(plain), index.csum())
        assert refusal(session.upload_blob, "x.conf.blob", fmt.encode_blob(b"x", crc=1)).status == 400
        finish(session, snapshot, [fmt.manifest_file("a.didx", len(plain), index.csum())])
    with client.reader(store, snapshot) as reader:
        reader.download("a.didx")
        assert reader.chunk(digest) == fmt.encode_blob(plain)


def test_09_07_zero_chunk_of_full_size_for_a_small_disk(client: PbsClient, store: str, snapshot: Snapshot) -> None:
    image = RNG.randbytes(1 << 20)
    with client.backup(store, snapshot) as session:
        wid = session.create_fixed("drive-scsi0.img.fidx", len(image))
        assert session.upload_chunk("fixed", wid, bytes(fmt.CHUNK_SIZE), compress=True) == fmt.ZERO_CHUNK_DIGEST
        digest = session.upload_chunk("fixed", wid, image)
        session.append("fixed", wid, [digest], [0])
        index = fmt.FixedIndex(len(image), [digest])
        session.close_index("fixed", wid, 1, len(image), index.csum())
        finish(session, snapshot, [fmt.manifest_file("drive-scsi0.img.fidx", len(image), index.csum())])
    assert restore(client, store, snapshot) == {"drive-scsi0.img.fidx": image}


def test_09_08_incremental_close_counts_written_bytes(client: PbsClient, store: str, snapshot: Snapshot) -> None:
    name, tail = "drive-scsi0.img.fidx", RNG.randbytes(1000)
    image = bytes(2 * fmt.CHUNK_SIZE) + tail
    first = backup_image(client, store, snapshot, name, image)
    later, new_tail = snapshot.later(), RNG.randbytes(1000)
    with client.backup(store, later) as session:
        session.previous(fmt.MANIFEST_NAME)
        wid = session.create_fixed(name, len(image), first["files"][0]["csum"])
        digest = session.upload_chunk("fixed", wid, new_tail)
        session.append("fixed", wid, [digest], [2 * fmt.CHUNK_SIZE])
        index = fmt.FixedIndex(len(image), [fmt.ZERO_CHUNK_DIGEST] * 2 + [digest])
        session.close_index("fixed", wid, 1, len(new_tail), index.csum())
        finish(session, later, [fmt.manifest_file(name, len(image), index.csum())])
    assert restore(client, store, later) == {name: image[: 2 * fmt.CHUNK_SIZE] + new_tail}
    assert restore(client, store, snapshot) == {name: image}


def test_09_09_previous_registers_chunks(client: PbsClient, store: str, snapshot: Snapshot) -> None:
    data = RNG.randbytes(100_000)
    backup_dynamic(client, store, snapshot, "root.pxar.didx", data)
    later = snapshot.later()
    with client.backup(store, later) as session:
        wid = session.create_dynamic("root.pxar.didx")
        old = fmt.decode_index(session.previous("root.pxar.didx"))
        offsets = [start for start, _, _ in old.chunks()]
        session.append("dynamic", wid, old.digests, offsets)
        session.close_index("dynamic", wid, len(offsets), old.size, old.csum())
        finish(session, later, [fmt.manifest_file("root.pxar.didx", old.size, old.csum())])
    assert restore(client, store, later) == {"root.pxar.didx": data}
    with client.backup(store, later.later()) as session:
        wid = session.create_dynamic("root.pxar.didx")
        unread = refusal(session.append, "dynamic", wid, old.digests[:1], [0])
        assert unread.status == 400, "a chunk is known only after `previous` or an upload"


def test_09_10_previous_stays_the_same_during_a_session(client: PbsClient, store: str, snapshot: Snapshot) -> None:
    backup_dynamic(client, store, snapshot, "root.pxar.didx", b"base")
    with client.backup(store, snapshot.later()) as session:
        before = session.previous("root.pxar.didx")
        forget = client.request("DELETE", admin(store, "snapshots"), query=snapshot.query())
        assert forget.status == 400, "the base of a running backup must not be removable"
        assert session.previous("root.pxar.didx") == before
        assert session.previous_time() == snapshot.backup_time


def test_09_11_time_must_be_newer(client: PbsClient, store: str, snapshot: Snapshot) -> None:
    backup_blob(client, store, snapshot)
    for refused in (snapshot, snapshot.later(-1)):
        assert refusal(client.backup, store, refused).status == 400
    backup_blob(client, store, snapshot.later(1))
    assert [entry["backup-time"] for entry in listed(client, store, snapshot)] == [
        snapshot.backup_time,
        snapshot.backup_time + 1,
    ]


def test_09_12_visible_before_finish_is_answered(client: PbsClient, store: str, snapshot: Snapshot) -> None:
    with client.backup(store, snapshot) as session:
        files = [session.upload_blob("x.conf.blob", fmt.encode_blob(b"x"))]
        session.upload_manifest(snapshot, files)
        session.finish()
        assert [entry["backup-time"] for entry in listed(client, store, snapshot)] == [snapshot.backup_time]
        assert restore(client, store, snapshot) == {"x.conf.blob": b"x"}, "readable while the session is still open"
        session.h2.abort()
    backup_blob(client, store, snapshot.later())
    assert restore(client, store, snapshot) == {"x.conf.blob": b"x"}


@pytest.mark.parametrize("end", ["drop", "reset", "goaway"])
def test_09_13_aborted_session_leaves_nothing(client: PbsClient, store: str, snapshot: Snapshot, end: str) -> None:
    session = client.backup(store, snapshot)
    upload_dynamic(session, "a.didx", [b"one", b"two"])
    session.upload_blob("x.conf.blob", fmt.encode_blob(b"x"))
    {
        "drop": session.drop,
        "reset": session.h2.abort,
        "goaway": lambda: session.h2.close(goaway=True, close_notify=True),
    }[end]()
    assert eventually(lambda: not listed(client, store, snapshot)), "the partial snapshot must go"

    def same_time_again() -> bool:
        try:
            backup_blob(client, store, snapshot)
            return True
        except ApiError:
            return False

    assert eventually(same_time_again), "the same time must be usable again"


def test_09_14_running_backup_has_no_size(client: PbsClient, store: str, snapshot: Snapshot) -> None:
    with client.backup(store, snapshot) as session:
        session.upload_blob("x.conf.blob", fmt.encode_blob(b"x"))
        (entry,) = listed(client, store, snapshot)
        assert "size" not in entry
        assert isinstance(entry["files"], list) and all("filename" in item for item in entry["files"])


def test_09_15_to_17_list_members(client: PbsClient, store: str, snapshot: Snapshot) -> None:
    key = fmt.Key(bytes(range(32)))
    backup_dynamic(client, store, snapshot, "root.pxar.didx", b"secret", key=key)
    (entry,) = listed(client, store, snapshot)
    assert type(entry["size"]) is int and type(entry["backup-time"]) is int
    assert entry["protected"] is False
    assert [item["filename"] for item in entry["files"]] == ["root.pxar.didx", fmt.MANIFEST_NAME]
    assert [item["crypt-mode"] for item in entry["files"]] == ["encrypt", "sign-only"]
    assert entry["fingerprint"] == key.fingerprint
    groups = client.call("GET", admin(store, "groups"))
    (group,) = [g for g in groups if g["backup-id"] == snapshot.backup_id]
    assert type(group["backup-count"]) is int and type(group["last-backup"]) is int
    for item in client.call("GET", admin(store, "snapshots")):
        assert re.fullmatch(r"[^:/\s]+@[A-Za-z0-9_][A-Za-z0-9._-]*(![A-Za-z0-9_][A-Za-z0-9._-]*)?", item["owner"])
        if item.get("verification"):
            assert item["verification"]["state"] in ("ok", "failed")
            assert UPID.match(item["verification"]["upid"])


def test_09_18_task_log_pages(client: PbsClient, store: str, snapshot: Snapshot) -> None:
    backup_blob(client, store, snapshot)
    task = client.call("POST", admin(store, "gc"), body_json={})
    assert UPID.match(task)
    path, start, deadline = f"/nodes/localhost/tasks/{task.replace(':', '%3A')}", 1, time.monotonic() + 30
    while True:
        page = client.request("GET", path + "/log", query={"start": start, "limit": 2, "test-status": True}).json()
        assert [line["n"] for line in page["data"]] == list(range(start, start + len(page["data"])))
        assert len(page["data"]) == max(0, min(2, page["total"] - start + 1))
        assert type(page["active"]) is bool and page["success"] == 1
        assert all(LOG_LINE.match(line["t"]) for line in page["data"])
        start += len(page["data"])
        if start > page["total"] and not page["active"]:
            break
        assert time.monotonic() < deadline
    assert start > 1
    status = client.call("GET", path + "/status")
    assert (status["status"], status["exitstatus"]) == ("stopped", "OK")


def test_09_23_namespace_forms(client: PbsClient, store: str, snapshot: Snapshot) -> None:
    backup_blob(client, store, Snapshot("host", snapshot.backup_id, snapshot.backup_time, ""))
    assert client.call("GET", admin(store, "snapshots"), query={**snapshot.group(), "ns": ""}) == listed(
        client, store, snapshot
    )
    for bad in ("/a", "a/", "a//b", "/"):
        assert client.request("GET", admin(store, "snapshots"), query={"ns": bad}).status == 400


def test_09_24_upgrade_without_host_header(client: PbsClient, store: str, snapshot: Snapshot) -> None:
    session = BackupSession(
        client.upgrade("backup", BACKUP_PROTOCOL, {"store": store, **snapshot.query(), "ns": ""}, headers=[])
    )
    assert session.previous_time() is None
    session.drop()


def test_09_25_missing_files(client: PbsClient, store: str, snapshot: Snapshot) -> None:
    backup_blob(client, store, snapshot)
    with client.reader(store, snapshot) as reader:
        assert reader.request("GET", "download", {"file-name": "absent.blob"}).status == 404
        assert reader.request("GET", "download", {"file-name": "client.log.blob"}).status >= 400
        assert reader.request("GET", "download", {"file-name": "absent.didx"}).status == 400
    assert client.request("GET", admin(store, "namespace")).status == 200


def test_09_26_reading_beside_a_running_backup(client: PbsClient, store: str, snapshot: Snapshot) -> None:
    data = RNG.randbytes(50_000)
    backup_dynamic(client, store, snapshot, "root.mpxar.didx", data)
    with client.backup(store, snapshot.later()) as session:
        session.previous("root.mpxar.didx")
        with client.reader(store, snapshot) as one, client.reader(store, snapshot) as two:
            assert one.download("root.mpxar.didx") == two.download("root.mpxar.didx")
        assert restore(client, store, snapshot) == {"root.mpxar.didx": data}
        assert refusal(client.reader, store, snapshot.later()).status == 400, "still being written"


def test_09_30_protected_part_of_a_manifest_is_kept(client: PbsClient, store: str, snapshot: Snapshot) -> None:
    key = fmt.Key(hashlib.sha256(b"manifest").digest())
    with client.backup(store, snapshot) as session:
        files = [upload_image(session, "disk.img.fidx", RNG.randbytes(1000), key=key)]
        sent = finish(session, snapshot, files, key=key, later_member={"z": [1, {"y": None}], "a": "\u00e4"})
    client.call("PUT", admin(store, "notes"), query={**snapshot.query(), "notes": "line one\nline two"})
    with client.reader(store, snapshot) as reader:
        stored = fmt.decode_manifest(reader.download(fmt.MANIFEST_NAME))
    assert fmt.canonical_manifest(stored) == fmt.canonical_manifest(sent)
    assert stored["signature"] == fmt.manifest_signature(stored, key) == sent["signature"]
    assert stored["unprotected"]["notes"] == "line one\nline two"
    assert stored["unprotected"]["key-fingerprint"] == key.fingerprint
    assert set(stored["unprotected"]["chunk_upload_stats"]) == {"count", "size", "compressed_size", "duplicates"}
    assert client.call("GET", admin(store, "notes"), query=snapshot.query()) == "line one\nline two"
    assert listed(client, store, snapshot)[0]["comment"] == "line one"


def test_09_34_upper_case_digests_are_refused(client: PbsClient, store: str, snapshot: Snapshot) -> None:
    with client.backup(store, snapshot) as session:
        wid = session.create_dynamic("a.didx")
        blob, digest = fmt.encode_blob(b"x"), fmt.chunk_digest(b"x")
        assert session.start_chunk("dynamic", wid, digest.upper(), 1, blob).wait().status == 400


def test_09_36_unknown_snapshot_is_400(client: PbsClient, store: str, snapshot: Snapshot) -> None:
    for call, value in (("protected", {"protected": True}), ("notes", {"notes": "x"})):
        answer = client.request("PUT", admin(store, call), query={**snapshot.query(), **value})
        assert answer.status == 400 and answer.text.strip()
