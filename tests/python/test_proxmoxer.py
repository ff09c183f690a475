"""REST through proxmoxer, a client that others wrote.  Needs a server, see `conftest.py`."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from proxmoxer import ProxmoxAPI
from proxmoxer.backends.https import AuthenticationError
from proxmoxer.core import ResourceException

from conftest import Server
from pbs_backup import backup_blob
from pbs_client import PbsClient, Snapshot

pytestmark = pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")


def connect(server: Server, **credentials: str) -> ProxmoxAPI:
    """A proxmoxer session."""
    url = urlsplit(server.url)
    return ProxmoxAPI(url.hostname, port=url.port, service="PBS", verify_ssl=False, timeout=30, **credentials)


@pytest.fixture
def api(server: Server) -> ProxmoxAPI:
    """With user and password."""
    return connect(server, user=server.user, password=server.password)


def test_version_and_datastores(api: ProxmoxAPI, store: str) -> None:
    assert api.version.get()["version"].count(".") == 1
    assert store in [entry["store"] for entry in api.admin.datastore.get()]
    status = api.admin.datastore(store).status.get()
    assert status["total"] > 0


def test_token_login(server: Server, token_client: PbsClient, store: str) -> None:
    token_id, secret = token_client.token
    user, name = token_id.split("!")
    token_api = connect(server, user=user, token_name=name, token_value=secret)
    assert isinstance(token_api.admin.datastore(store).groups.get(), list)


def test_wrong_password(server: Server) -> None:
    with pytest.raises(AuthenticationError):
        connect(server, user=server.user, password="wrong")


def test_snapshot_life(api: ProxmoxAPI, client: PbsClient, store: str, snapshot: Snapshot) -> None:
    backup_blob(client, store, snapshot)
    datastore = api.admin.datastore(store)
    name = {k: v for k, v in snapshot.query().items() if v is not None}
    group = {k: v for k, v in snapshot.group().items() if v is not None}
    (entry,) = datastore.snapshots.get(**group)
    assert entry["backup-time"] == snapshot.backup_time
    assert [f["filename"] for f in datastore("files").get(**name)] == ["x.conf.blob", "index.json.blob"]
    datastore.notes.put(**name, notes="from proxmoxer\nsecond line \u00e4")
    assert datastore.notes.get(**name) == "from proxmoxer\nsecond line \u00e4"
    datastore.protected.put(**name, protected=1)
    assert datastore.protected.get(**name) is True
    with pytest.raises(ResourceException) as refused:
        datastore.snapshots.delete(**name)
    assert refused.value.status_code == 400
    datastore.protected.put(**name, protected=0)
    datastore.snapshots.delete(**name)
    assert datastore.snapshots.get(**group) == []


def test_prune_marks(api: ProxmoxAPI, client: PbsClient, store: str, snapshot: Snapshot) -> None:
    for hours in range(3):
        backup_blob(client, store, snapshot.later(hours * 3600))
    name = {"backup-type": snapshot.backup_type, "backup-id": snapshot.backup_id}
    prune = api.admin.datastore(store).prune
    marks = prune.post(**name, **{"keep-last": 1, "dry-run": 1})
    assert [mark["keep"] for mark in marks] == [False, False, True]
    prune.post(**name, **{"keep-last": 1})
    assert len(api.admin.datastore(store).snapshots.get(**name)) == 1


def test_namespaces(api: ProxmoxAPI, store: str) -> None:
    namespace = api.admin.datastore(store).namespace
    assert namespace.post(name="prox") == "prox"
    assert namespace.post(name="inner", parent="prox") == "prox/inner"
    assert {entry["ns"] for entry in namespace.get(parent="prox")} == {"prox", "prox/inner"}
    namespace.delete(ns="prox", **{"delete-groups": 1})
    assert "prox" not in {entry["ns"] for entry in namespace.get()}


def test_tasks(api: ProxmoxAPI, client: PbsClient, store: str, snapshot: Snapshot) -> None:
    backup_blob(client, store, snapshot)
    tasks = api.nodes("localhost").tasks.get(limit=10, store=store)
    mine = [t for t in tasks if t["worker_type"] == "backup" and t["worker_id"] == f"{store}:host/{snapshot.backup_id}"]
    assert len(mine) == 1
    status = api.nodes("localhost").tasks(mine[0]["upid"]).status.get()
    assert status["upid"] == mine[0]["upid"] and status["type"] == "backup"
