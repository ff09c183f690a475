"""REST through proxmoxer, a client that others wrote.  Needs a server, see `conftest.py`."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from proxmoxer import ProxmoxAPI
from proxmoxer.backends.https import AuthenticationError
from proxmoxer.core import ResourceException

from conftest import Server, eventually
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


@pytest.mark.parametrize(
    ("kind", "settings", "changed"),
    [
        ("prune", {"keep-last": 2, "schedule": "daily"}, {"keep-last": 3}),
        ("verify", {"ignore-verified": 0, "outdated-after": 30}, {"outdated-after": 60}),
        ("sync", {"remote-ns": "elsewhere", "max-depth": 0}, {"transfer-last": 1}),
    ],
)
def test_job_life(api: ProxmoxAPI, store: str, kind: str, settings: dict[str, object], changed: dict[str, int]) -> None:
    """A job of each kind: made, listed, changed, run to its end, removed."""
    jobs, runs, name = api.config(kind), api.admin(kind), f"prox-{kind}"
    sources = {"remote-store": store, "ns": "prox-copy"} if kind == "sync" else {}
    jobs.post(id=name, store=store, comment="from proxmoxer", **sources, **settings)
    try:
        (job,) = [job for job in jobs.get() if job["id"] == name]
        assert job["store"] == store and job["comment"] == "from proxmoxer"
        jobs(name).put(**changed, delete="comment")
        job = jobs(name).get()
        assert "comment" not in job and changed.items() <= job.items()
        upid = runs(name).run.post()
        task = api.nodes("localhost").tasks(upid)
        assert eventually(lambda: task.status.get()["status"] == "stopped", 60)
        (state,) = [job for job in runs.get(store=store) if job["id"] == name]
        assert state["last-run-upid"] == upid and state["last-run-state"] == task.status.get()["exitstatus"]
        assert (state["next-run"] > 0) if "schedule" in settings else "next-run" not in state
    finally:
        jobs(name).delete()
    assert name not in [job["id"] for job in jobs.get()]
