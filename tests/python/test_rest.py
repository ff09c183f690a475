"""REST conventions: section 9 items about HTTP/1.1, credentials in headers, and wrong REST input.

Needs a server, see `conftest.py`.
"""

from __future__ import annotations

import re
import time

import pytest
from h2.exceptions import ProtocolError

import pbs_format as fmt
from conftest import Server, eventually, listed, refusal
from http1 import Http1Connection
from pbs_backup import backup_blob
from pbs_client import ApiError, PbsClient, Snapshot


def admin(store: str, call: str) -> str:
    """Path of a datastore call."""
    return f"/admin/datastore/{store}/{call}"


def test_09_01_success_has_data_and_json_type(client: PbsClient, store: str, snapshot: Snapshot) -> None:
    backup_blob(client, store, snapshot)
    calls = [
        ("GET", "/version", None),
        ("GET", "/admin/datastore", None),
        ("GET", admin(store, "status"), None),
        ("GET", admin(store, "snapshots"), None),
        ("GET", admin(store, "groups"), None),
        ("GET", admin(store, "notes"), snapshot.query()),
        ("PUT", admin(store, "protected"), {**snapshot.query(), "protected": False}),
    ]
    for method, path, query in calls:
        answer = client.request(method, path, query=query)
        assert answer.status == 200, f"{method} {path}: {answer.text}"
        assert answer.headers["content-type"].lower().startswith("application/json")
        assert "data" in answer.json()


def test_09_19_version_is_parsable(client: PbsClient) -> None:
    version = client.call("GET", "/version")
    assert re.fullmatch(r"\d+\.\d+", version["version"]) and re.fullmatch(r"\d+", version["release"])
    parts = [int(part) for part in (version["version"] + "." + version["release"]).split(".")]
    assert parts >= [2, 2, 0]


def test_09_20_both_token_header_forms(server: Server, token_client: PbsClient) -> None:
    token_id, secret = token_client.token
    for header in (
        f"PBSAPIToken {token_id}:{secret}",
        f"PBSAPIToken={token_id}:{secret}",
        f"PBSAPIToken={token_id}:{secret.replace('-', '%2D')}",
    ):
        assert server.as_nobody().request("GET", "/version", headers=[("authorization", header)]).status == 200


def test_09_21_cookie_raw_or_encoded(server: Server, client: PbsClient) -> None:
    client.credentials("GET")
    for value in (
        client.ticket,
        client.ticket.replace(":", "%3A"),
        client.ticket.replace("@", "%40").replace("/", "%2F"),
    ):
        for name in ("PBSAuthCookie", "__Host-PBSAuthCookie"):
            headers = [("cookie", f"other=1; {name}={value}")]
            assert server.as_nobody().request("GET", "/version", headers=headers).status == 200


def test_09_22_csrf_only_for_changes_with_tickets(
    client: PbsClient, token_client: PbsClient, store: str, snapshot: Snapshot
) -> None:
    backup_blob(client, store, snapshot)
    cookie = [("cookie", f"PBSAuthCookie={client.ticket}")]
    change = {"query": {**snapshot.query(), "notes": "changed"}}
    assert client.request("GET", "/version", headers=cookie).status == 200
    assert client.request("PUT", admin(store, "notes"), headers=cookie, **change).status == 401
    assert (
        client.request("PUT", admin(store, "notes"), headers=[*cookie, ("csrfpreventiontoken", "0")], **change).status
        == 401
    )
    assert token_client.request("PUT", admin(store, "notes"), **change).status == 200


def test_09_27_datastore_check_is_quick(client: PbsClient, store: str) -> None:
    started = time.monotonic()
    assert store in [entry["store"] for entry in client.call("GET", "/admin/datastore")]
    assert time.monotonic() - started < 7


def test_09_32_no_redirects_for_double_slashes(client: PbsClient) -> None:
    connection: Http1Connection = client.connect()
    answer = connection.exchange("GET", "//api2//json/version", [("host", "x"), *client.credentials("GET")])
    assert answer.status == 200
    connection.channel.close()


def test_09_35_status_numbers_are_plausible(client: PbsClient, store: str) -> None:
    status = client.call("GET", admin(store, "status"))
    assert all(type(status[name]) is int for name in ("total", "used", "avail"))
    assert status["total"] > 0 and 0 <= status["used"] <= status["total"]


REST_FAULTS = [
    ("GET", "snapshots", {"bogus": 1}, 400),
    ("GET", "snapshots", {"ns": "absent"}, 400),
    ("GET", "files", {"backup-type": "host"}, 400),
    ("GET", "files", {"backup-type": "xx", "backup-id": "a", "backup-time": 1}, 400),
    ("GET", "files", {"backup-type": "host", "backup-id": "../a", "backup-time": 1}, 400),
    ("GET", "files", {"backup-type": "host", "backup-id": "a", "backup-time": "x"}, 400),
    ("GET", "nosuch", {}, 404),
    ("DELETE", "snapshots", {}, 400),
    ("DELETE", "snapshots", {"backup-type": "host", "backup-id": "absent", "backup-time": 5}, 400),
    ("GET", "groups", {"ns": "absent"}, 400),
    ("POST", "prune", {"keep-last": 0}, 400),
]


@pytest.mark.parametrize(("method", "call", "query", "status"), REST_FAULTS, ids=str)
def test_rest_faults(client: PbsClient, store: str, method: str, call: str, query: dict, status: int) -> None:
    options = {"body_json": query} if method == "POST" else {"query": query}
    answer = client.request(method, f"/admin/datastore/{store}/{call}", **options)
    assert answer.status == status and answer.text.strip()


def test_rest_limits(client: PbsClient, store: str) -> None:
    assert client.request("GET", "/admin/datastore/nostore/snapshots").status == 400
    assert client.request("GET", "/nosuch").status == 404
    assert client.request("GET", f"/admin/datastore/{store}/snapshots", query={"_dc": "x" * 3100}).status == 414
    path = f"/admin/datastore/{store}/notes"
    assert client.request("PUT", path, body_json={"notes": "x" * (600 * 1024)}).status in (400, 413)
    assert (
        client.request(
            "PUT", path, body=b"{", headers=[*client.credentials("PUT"), ("content-type", "application/json")]
        ).status
        == 400
    )


def test_protected_snapshot_is_not_removed(client: PbsClient, store: str, snapshot: Snapshot) -> None:
    backup_blob(client, store, snapshot)
    path = f"/admin/datastore/{store}/protected"
    client.call("PUT", path, query={**snapshot.query(), "protected": True})
    assert client.call("GET", path, query=snapshot.query()) is True
    assert client.request("DELETE", f"/admin/datastore/{store}/snapshots", query=snapshot.query()).status == 400
    client.call("PUT", path, query={**snapshot.query(), "protected": False})
    client.call("DELETE", f"/admin/datastore/{store}/snapshots", query=snapshot.query())
    assert not listed(client, store, snapshot)


def test_backup_log_is_written_once_and_checked(client: PbsClient, store: str, snapshot: Snapshot) -> None:
    backup_blob(client, store, snapshot)
    path, log = f"/admin/datastore/{store}/upload-backup-log", fmt.encode_blob(b"log", compress=True)
    bad = client.request("POST", path, query=snapshot.query(), body=fmt.encode_blob(b"log", crc=1))
    assert bad.status == 400
    client.call("POST", path, query=snapshot.query(), body=log)
    assert client.request("POST", path, query=snapshot.query(), body=log).status == 400
    with client.reader(store, snapshot) as reader:
        assert reader.download("client.log.blob") == log


def test_sessions_are_listed_and_broken(client: PbsClient, other_client: PbsClient, store: str, snapshot: Snapshot) -> None:
    session = client.backup(store, snapshot)
    session.create_dynamic("a.didx")
    mine = [s for s in client.call("GET", admin(store, "sessions")) if s["backup-id"] == snapshot.backup_id]
    assert [(s["type"], s["user"]) for s in mine] == [("backup", client.user)]
    path = admin(store, f"sessions/{mine[0]['id']}")
    assert refusal(other_client.call, "DELETE", path).status in (401, 403)
    client.call("DELETE", path)
    # A GOAWAY may be followed by pings, which the h2 package does not like.
    with pytest.raises((OSError, ApiError, ProtocolError)):
        session.create_dynamic("b.didx")
    session.drop()
    assert eventually(lambda: not listed(client, store, snapshot))

    def is_gone() -> bool:
        try:
            client.call("DELETE", path)
        except ApiError as error:
            return error.status == 400
        return False

    # It is listed until its cleanup has ended.
    assert eventually(is_gone)
