"""Credentials and privileges.  Needs a server, see `conftest.py`."""

from __future__ import annotations

import pytest

from comparison import UPID
from conftest import Server, listed, refusal
from http1 import Http1Connection
from pbs_backup import backup_blob
from pbs_client import PbsClient, Snapshot
from tls_channel import FingerprintMismatch, TlsChannel


def test_login_answer(server: Server) -> None:
    data = server.as_user().login()
    assert data["username"] == server.user
    assert data["CSRFPreventionToken"]
    prefix, stamp, signature = (
        data["ticket"].rsplit(":", 3)[0],
        data["ticket"].split("::")[0][-8:],
        data["ticket"].split("::")[1],
    )
    assert prefix.startswith("PBS:") and int(stamp, 16) > 0 and signature
    assert not set(data["ticket"]) & set("; \t\r\n") and "!tfa!" not in data["ticket"]


def test_login_as_form_and_with_ticket(server: Server) -> None:
    nobody = server.as_nobody()
    form = {"username": server.user, "password": server.password}
    ticket = nobody.call("POST", "/access/ticket", form=form)["ticket"]
    renewed = nobody.call("POST", "/access/ticket", form={"username": server.user, "password": ticket})
    assert renewed["ticket"] and renewed["username"] == server.user


@pytest.mark.parametrize(
    ("user", "password"),
    [(None, "wrong"), ("nobody@pbs", "x"), ("x@norealm", "x"), (None, ""), ("root@pbs' OR 1", "x"), ("no-realm", "x")],
)
def test_wrong_logins(server: Server, user: str | None, password: str) -> None:
    body = {"username": user or server.user, "password": password}
    answer = server.as_nobody().request("POST", "/access/ticket", body_json=body)
    assert answer.status in ((401,) if user is None and password else (400, 401)) and answer.text.strip()


def test_forged_and_expired_tickets(server: Server, client: PbsClient) -> None:
    client.credentials("GET")
    name, signature = client.ticket.split("::")
    forged = [
        f"{name}::AAAA",
        f"{name[:-8]}60000000::{signature}",
        f"{name[:-8]}FFFFFFFF::{signature}",
        client.ticket[:-2],
        client.ticket.replace("PBS:", "PVE:"),
        "",
        "::",
        "PBS:" + "A" * 5000,
        client.ticket.replace(server.user, "root@pam"),
    ]
    for ticket in forged:
        headers = [("cookie", f"PBSAuthCookie={ticket}")]
        answer = server.as_nobody().request("GET", "/version", headers=headers)
        assert answer.status in (400, 401, 431) and answer.text.strip(), ticket[:60]


def test_wrong_tokens(server: Server, token_client: PbsClient) -> None:
    token_id, secret = token_client.token
    for header in (
        f"PBSAPIToken {token_id}:00000000-0000-0000-0000-000000000000",
        f"PBSAPIToken {token_id}x:{secret}",
        f"PBSAPIToken {token_id}",
        f"PBSAPIToken {token_id.split('!')[0]}:{secret}",
        "PBSAPIToken :",
        "Bearer x",
        "PBSAPIToken",
    ):
        assert server.as_nobody().request("GET", "/version", headers=[("authorization", header)]).status == 401, header


def test_nothing_without_credentials(server: Server, store: str, snapshot: Snapshot) -> None:
    nobody = server.as_nobody()
    for path in ("/version", "/admin/datastore", f"/admin/datastore/{store}/snapshots", "/nodes/localhost/tasks"):
        assert nobody.request("GET", path).status == 401
    assert nobody.call("GET", "/ping") == {"pong": True}
    assert refusal(nobody.backup, store, snapshot).status == 401
    assert refusal(nobody.reader, store, snapshot).status == 401


def test_pinned_fingerprint(server: Server) -> None:
    if server.fingerprint is None:
        pytest.skip("HOLDFAST_FINGERPRINT is not set")
    client = server.as_user()
    with pytest.raises(FingerprintMismatch):
        TlsChannel(client.host, client.port, "00:" * 31 + "00")
    channel = TlsChannel(client.host, client.port, server.fingerprint.upper(), alpn=["h2", "http/1.1"])
    assert channel.alpn_protocol in (None, "http/1.1"), "REST and upgrades are HTTP/1.1"
    assert Http1Connection(channel).exchange("GET", "/api2/json/ping", [("host", "x")]).status == 200
    channel.close()


def test_token_may_do_what_it_was_granted(
    token_client: PbsClient, client: PbsClient, store: str, snapshot: Snapshot
) -> None:
    backup_blob(token_client, store, snapshot)
    (entry,) = listed(client, store, snapshot)
    assert entry["owner"] == token_client.token[0]
    backup_blob(client, store, snapshot.later())  # the token's user owns what the token owns


def test_a_token_does_not_own_its_users_groups(
    token_client: PbsClient, client: PbsClient, store: str, snapshot: Snapshot
) -> None:
    backup_blob(client, store, snapshot)
    assert refusal(backup_blob, token_client, store, snapshot.later()).status == 400


def test_missing_privileges(client: PbsClient, other_client: PbsClient, store: str, snapshot: Snapshot) -> None:
    backup_blob(client, store, snapshot)
    base = f"/admin/datastore/{store}"
    assert refusal(other_client.backup, store, snapshot.later()).status == 400, "not the owner"
    assert refusal(other_client.reader, store, snapshot).status == 400, "not the owner"
    assert not listed(other_client, store, snapshot), "lists are filtered, not refused"
    assert listed(client, store, snapshot)
    refused = [
        ("DELETE", "snapshots", snapshot.query()),
        ("PUT", "notes", {**snapshot.query(), "notes": "x"}),
        ("PUT", "protected", {**snapshot.query(), "protected": True}),
    ]
    for method, call, query in refused:
        assert other_client.request(method, f"{base}/{call}", query=query).status in (400, 401, 403), call
    assert other_client.request("POST", f"{base}/gc", body_json={}).status == 403
    assert other_client.request("POST", f"{base}/namespace", body_json={"name": "forbidden"}).status == 403
    assert listed(client, store, snapshot)[0]["protected"] is False


def test_own_group_of_a_backup_user(client: PbsClient, other_client: PbsClient, store: str, snapshot: Snapshot) -> None:
    backup_blob(other_client, store, snapshot)
    assert [e["owner"] for e in listed(other_client, store, snapshot)] == [other_client.user]
    with other_client.reader(store, snapshot) as reader:
        assert reader.download("x.conf.blob")
    tasks = other_client.call("GET", "/nodes/localhost/tasks", query={"limit": 50})
    assert all(UPID.match(task["upid"]) and task["user"] == other_client.user for task in tasks)
