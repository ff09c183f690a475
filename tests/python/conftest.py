"""Shared fixtures: recordings, and the server under test described by environment variables.

HOLDFAST_URL             https://HOST:PORT                  required by all tests that need a server
HOLDFAST_FINGERPRINT     SHA-256 of its certificate         absent: not checked
HOLDFAST_USER/_PASSWORD  an administrator (Admin on /)      required
HOLDFAST_STORE           datastore, or several with commas  required; tests run once for each
HOLDFAST_TOKEN_ID/_TOKEN_SECRET                             token of HOLDFAST_USER, Admin on /
HOLDFAST_OTHER_USER/_OTHER_PASSWORD                         a user with DatastoreBackup on /
HOLDFAST_TRANSCRIPTS     directory of the recordings
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import transcript
from pbs_client import ApiError, PbsClient, Snapshot

FIRST_TIME = 1_700_000_000


@pytest.fixture(scope="session")
def transcript_files() -> list[Path]:
    """All recordings; skips when there are none."""
    found = transcript.files()
    if not found:
        pytest.skip(f"no recordings in {transcript.directory()}; set HOLDFAST_TRANSCRIPTS")
    return found


@dataclass(frozen=True)
class Server:
    """Where the server is and how to speak to it."""

    url: str
    fingerprint: str | None
    user: str
    password: str

    def as_user(self, user: str | None = None, password: str | None = None) -> PbsClient:
        """A client with a ticket; by default the administrator's."""
        return PbsClient(self.url, self.fingerprint, user=user or self.user, password=password or self.password)

    def as_token(self, token_id: str, secret: str) -> PbsClient:
        """A client with an API token."""
        return PbsClient(self.url, self.fingerprint, token=(token_id, secret))

    def as_nobody(self) -> PbsClient:
        """A client without any identity."""
        return PbsClient(self.url, self.fingerprint)


def needed(*names: str) -> list[str]:
    """Values of environment variables; skips the test when one is missing."""
    missing = [name for name in names if not os.environ.get(name)]
    if missing:
        pytest.skip(f"needs a server: set {', '.join(missing)} (see conftest.py)")
    return [os.environ[name] for name in names]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run every test that takes `store` once for each datastore."""
    if "store" in metafunc.fixturenames:
        stores = [s for s in os.environ.get("HOLDFAST_STORE", "").split(",") if s]
        metafunc.parametrize("store", stores or [pytest.param("", marks=pytest.mark.skip("set HOLDFAST_STORE"))])


@pytest.fixture(scope="session")
def server() -> Server:
    """The server under test."""
    url, user, password = needed("HOLDFAST_URL", "HOLDFAST_USER", "HOLDFAST_PASSWORD")
    return Server(url, os.environ.get("HOLDFAST_FINGERPRINT"), user, password)


@pytest.fixture(scope="session")
def client(server: Server) -> PbsClient:
    """The administrator."""
    return server.as_user()


@pytest.fixture(scope="session")
def token_client(server: Server) -> PbsClient:
    """The administrator's token."""
    token_id, secret = needed("HOLDFAST_TOKEN_ID", "HOLDFAST_TOKEN_SECRET")
    return server.as_token(token_id, secret)


@pytest.fixture(scope="session")
def other_client(server: Server) -> PbsClient:
    """A user who may back up and nothing else."""
    user, password = needed("HOLDFAST_OTHER_USER", "HOLDFAST_OTHER_PASSWORD")
    return server.as_user(user, password)


@pytest.fixture
def snapshot(client: PbsClient, store: str) -> Iterator[Snapshot]:
    """A snapshot id in a group of its own, removed after the test."""
    wanted = Snapshot("host", f"t-{uuid.uuid4().hex[:10]}", FIRST_TIME)
    yield wanted
    query = {**wanted.group(), "error-on-protected": False}
    client.request("DELETE", f"/admin/datastore/{store}/groups", query=query)


def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Ask until it is true; for effects that a server brings about after a connection has ended."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def refusal(action: Callable[..., object], *arguments: object, **named: object) -> ApiError:
    """The refusal that the call must meet: an error status and a text of one line."""
    with pytest.raises(ApiError) as caught:
        action(*arguments, **named)
    error = caught.value
    assert error.status >= 400, f"expected a refusal, got {error}"
    assert error.answer.text.strip(), "a refusal needs a text"
    assert "\n" not in error.answer.text.strip(), f"refusal text has several lines: {error.answer.text!r}"
    return error


def listed(client: PbsClient, store: str, snapshot: Snapshot) -> list[dict]:
    """The snapshots of a group, oldest first."""
    found = client.call("GET", f"/admin/datastore/{store}/snapshots", query=snapshot.group())
    return sorted(found, key=lambda entry: entry["backup-time"])
