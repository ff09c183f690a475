"""Client of the Proxmox Backup protocol: REST, backup sessions, reader sessions.

Every session method has a raw form (`request`, answers with any status) and a checked form (`call`,
returns `data` or raises ApiError), so that tests of refusals read like tests of success.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import pbs_format as fmt
from http1 import Answer, Http1Connection
from http2 import Http2Connection, Stream
from tls_channel import TlsChannel

BACKUP_PROTOCOL = "proxmox-backup-protocol-v1"
READER_PROTOCOL = "proxmox-backup-reader-protocol-v1"
APPEND_MAX = 127


class ApiError(Exception):
    """An answer that is not the expected success."""

    def __init__(self, what: str, answer: Answer) -> None:
        super().__init__(f"{what}: {answer.status} {answer.text[:300]}")
        self.status = answer.status
        self.answer = answer


def encode_query(query: dict[str, Any] | None) -> str:
    """Query or form text: arrays repeat their key, booleans are `true`/`false`, None is left out."""
    pairs: list[tuple[str, str]] = []
    for name, value in (query or {}).items():
        for item in value if isinstance(value, list) else [value]:
            if item is not None:
                pairs.append((name, str(item).lower() if isinstance(item, bool) else str(item)))
    return urlencode(pairs, quote_via=quote)


def with_query(path: str, query: dict[str, Any] | None) -> str:
    """Path plus query text."""
    text = encode_query(query)
    return f"{path}?{text}" if text else path


def answer_data(what: str, answer: Answer) -> Any:
    """The `data` member of a success; raises ApiError for everything else."""
    if answer.status != 200:
        raise ApiError(what, answer)
    document = answer.json()
    if not isinstance(document, dict) or "data" not in document:
        raise ApiError(f"{what}: success without `data`", answer)
    return document["data"]


@dataclass(frozen=True)
class Snapshot:
    """Names one snapshot."""

    backup_type: str
    backup_id: str
    backup_time: int
    ns: str | None = None

    def group(self) -> dict[str, Any]:
        """Parameters naming the group (None is left out when encoding)."""
        return {"backup-type": self.backup_type, "backup-id": self.backup_id, "ns": self.ns}

    def query(self) -> dict[str, Any]:
        """Parameters naming the snapshot."""
        return {**self.group(), "backup-time": self.backup_time}

    def later(self, seconds: int = 3600) -> Snapshot:
        """The same group at a later time."""
        return Snapshot(self.backup_type, self.backup_id, self.backup_time + seconds, self.ns)


class PbsClient:
    """One identity at one server.  Safe for use from several threads."""

    def __init__(
        self,
        url: str,
        fingerprint: str | None,
        *,
        user: str | None = None,
        password: str | None = None,
        token: tuple[str, str] | None = None,
        timeout: float = 120.0,
    ) -> None:
        """`token` is (token id, secret); otherwise `user` and `password` are used to log in on demand."""
        parts = urlsplit(url)
        self.host, self.port = parts.hostname or "127.0.0.1", parts.port or 8007
        self.fingerprint, self.timeout = fingerprint, timeout
        self.user, self.password, self.token = user, password, token
        self.ticket: str | None = None
        self.csrf: str | None = None
        self._lock = threading.Lock()
        self._kept: Http1Connection | None = None

    def connect(self) -> Http1Connection:
        """A fresh connection."""
        return Http1Connection(TlsChannel(self.host, self.port, self.fingerprint, timeout=self.timeout))

    def login(self) -> dict[str, Any]:
        """Fetch a ticket."""
        body = json.dumps({"username": self.user, "password": self.password}).encode()
        headers = [("content-type", "application/json"), ("host", f"{self.host}:{self.port}")]
        data = answer_data("login", self._exchange("POST", "/api2/json/access/ticket", headers, body))
        self.ticket, self.csrf = data["ticket"], data["CSRFPreventionToken"]
        return data

    def credentials(self, method: str) -> list[tuple[str, str]]:
        """Headers that carry the identity; no identity at all when neither user nor token is set."""
        if self.token:
            return [("authorization", f"PBSAPIToken {self.token[0]}:{self.token[1]}")]
        if self.user is None:
            return []
        if self.ticket is None:
            self.login()
        headers = [("cookie", f"PBSAuthCookie={quote(self.ticket or '', safe='')}")]
        if method != "GET":
            headers.append(("csrfpreventiontoken", self.csrf or ""))
        return headers

    def request(
        self,
        method: str,
        path: str,
        *,
        query: dict[str, Any] | None = None,
        form: dict[str, Any] | None = None,
        body_json: Any = None,
        body: bytes | None = None,
        headers: Sequence[tuple[str, str]] | None = None,
    ) -> Answer:
        """One REST call below `/api2/json`; `headers` replaces the credentials."""
        sent = [("host", f"{self.host}:{self.port}"), ("user-agent", "holdfast-tests/1.0")]
        sent += self.credentials(method) if headers is None else list(headers)
        if body_json is not None:
            body = json.dumps(body_json).encode()
            sent.append(("content-type", "application/json"))
        elif form is not None:
            body = encode_query(form).encode()
            sent.append(("content-type", "application/x-www-form-urlencoded"))
        elif body is not None:
            sent.append(("content-type", "application/octet-stream"))
        elif method != "GET":
            body = b""
        return self._exchange(method, with_query("/api2/json" + path, query), sent, body)

    def call(self, method: str, path: str, **options: Any) -> Any:
        """One REST call that must succeed; returns `data`."""
        return answer_data(f"{method} {path}", self.request(method, path, **options))

    def _exchange(self, method: str, target: str, headers: list[tuple[str, str]], body: bytes | None) -> Answer:
        with self._lock:
            for fresh in (False, True):
                if self._kept is None:
                    self._kept, fresh = self.connect(), True
                try:
                    answer = self._kept.exchange(method, target, headers, body)
                except (ConnectionError, OSError):
                    self._kept.channel.close()
                    self._kept = None
                    if fresh:
                        raise
                    continue  # a kept-alive connection may have gone stale
                if answer.headers.get("connection", "").lower() == "close":
                    self._kept.channel.close()
                    self._kept = None
                return answer
        raise AssertionError("the second attempt returns or raises")

    def upgrade(
        self,
        endpoint: str,
        protocol: str,
        query: dict[str, Any],
        *,
        headers: Sequence[tuple[str, str]] | None = None,
        **h2_options: Any,
    ) -> Http2Connection:
        """Upgrade a fresh connection; raises ApiError when the server refuses."""
        connection = self.connect()
        sent = [("host", f"{self.host}:{self.port}")] if headers is None else list(headers)
        sent += [*self.credentials("GET"), ("connection", "upgrade"), ("upgrade", protocol)]
        try:
            answer = connection.exchange("GET", with_query(f"//api2/json/{endpoint}", query), sent)
            if answer.status != 101:
                raise ApiError(f"upgrade to {endpoint}", answer)
        except BaseException:
            connection.channel.close()
            raise
        if answer.headers.get("upgrade") != protocol:
            raise ApiError("the 101 answer names another protocol", answer)
        return Http2Connection(connection.channel, connection.buffer, **h2_options)

    def backup(
        self, store: str, snapshot: Snapshot, *, params: dict[str, Any] | None = None, **options: Any
    ) -> BackupSession:
        """Start a backup session; `params` adds query parameters such as `benchmark`."""
        query = {"store": store, **snapshot.query(), **(params or {})}
        return BackupSession(self.upgrade("backup", BACKUP_PROTOCOL, query, **options))

    def reader(
        self, store: str, snapshot: Snapshot, *, params: dict[str, Any] | None = None, **options: Any
    ) -> ReaderSession:
        """Start a reader session."""
        query = {"store": store, **snapshot.query(), **(params or {})}
        return ReaderSession(self.upgrade("reader", READER_PROTOCOL, query, **options))


class Session:
    """What both session kinds share; as a context manager it drops the connection at the end."""

    def __init__(self, connection: Http2Connection) -> None:
        self.h2 = connection

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.drop()

    def drop(self) -> None:
        """End the connection as stock clients do: no GOAWAY, no close_notify."""
        self.h2.close()

    def start(
        self,
        method: str,
        endpoint: str,
        query: dict[str, Any] | None = None,
        *,
        body: bytes | None = None,
        body_json: Any = None,
        frame_bytes: int | None = None,
    ) -> Stream:
        """Send a request without waiting."""
        content_type = None
        if body_json is not None:
            body, content_type = json.dumps(body_json).encode(), "application/json"
        path = with_query("/" + endpoint, query)
        return self.h2.start(method, path, body, content_type=content_type, frame_bytes=frame_bytes)

    def request(self, method: str, endpoint: str, query: dict[str, Any] | None = None, **options: Any) -> Answer:
        """Send a request and return whatever the answer is."""
        return self.start(method, endpoint, query, **options).wait()

    def call(self, method: str, endpoint: str, query: dict[str, Any] | None = None, **options: Any) -> Any:
        """Send a request that must succeed; returns `data`."""
        return answer_data(f"{method} {endpoint}", self.request(method, endpoint, query, **options))

    def fetch(self, endpoint: str, query: dict[str, Any]) -> bytes:
        """A download that must succeed."""
        answer = self.request("GET", endpoint, query)
        if answer.status != 200 or answer.content_type != "application/octet-stream":
            raise ApiError(f"GET {endpoint} {query}", answer)
        return answer.body


class BackupSession(Session):
    """An admitted backup; dropping it without `finish` abandons the snapshot."""

    def previous_time(self) -> int | None:
        """Time of the last backup."""
        return self.call("GET", "previous_backup_time")

    def previous(self, name: str) -> bytes:
        """A file of the last backup; an index also registers its chunks as known."""
        return self.fetch("previous", {"archive-name": name})

    def create_dynamic(self, name: str) -> int:
        """Open a dynamic index; returns its writer id."""
        return self.call("POST", "dynamic_index", {"archive-name": name})

    def create_fixed(self, name: str, size: int, reuse_csum: str | None = None) -> int:
        """Open a fixed index; returns its writer id."""
        return self.call("POST", "fixed_index", {"archive-name": name, "size": size, "reuse-csum": reuse_csum})

    def start_chunk(
        self, kind: str, wid: int, digest: str, size: int, blob: bytes, *, frame_bytes: int | None = None
    ) -> Stream:
        """Send a chunk (`kind` is `dynamic` or `fixed`) without waiting."""
        query = {"wid": wid, "digest": digest, "size": size, "encoded-size": len(blob)}
        return self.start("POST", f"{kind}_chunk", query, body=blob, frame_bytes=frame_bytes)

    def upload_chunk(
        self, kind: str, wid: int, plain: bytes, *, compress: bool = False, key: fmt.Key | None = None
    ) -> str:
        """Upload one chunk; returns its digest."""
        digest, blob = fmt.chunk_digest(plain, key), fmt.encode_blob(plain, compress=compress, key=key)
        data = answer_data("chunk", self.start_chunk(kind, wid, digest, len(plain), blob).wait())
        if data != digest:
            raise AssertionError(f"server answered digest {data} for chunk {digest}")
        return digest

    def append(self, kind: str, wid: int, digests: list[str], offsets: list[int]) -> None:
        """Add chunks to an index, in batches."""
        for first in range(0, len(digests), APPEND_MAX):
            batch = slice(first, first + APPEND_MAX)
            body = {"wid": wid, "digest-list": digests[batch], "offset-list": offsets[batch]}
            self.call("PUT", f"{kind}_index", body_json=body)

    def close_index(self, kind: str, wid: int, chunk_count: int, size: int, csum: str) -> None:
        """Close an index."""
        self.call("POST", f"{kind}_close", {"wid": wid, "chunk-count": chunk_count, "size": size, "csum": csum})

    def upload_blob(self, name: str, blob: bytes, crypt_mode: str = "none") -> dict[str, Any]:
        """Upload an encoded blob; returns its manifest entry."""
        self.call("POST", "blob", {"file-name": name, "encoded-size": len(blob)}, body=blob)
        return fmt.manifest_file(name, len(blob), hashlib.sha256(blob).hexdigest(), crypt_mode)

    def finish(self) -> None:
        """Commit the snapshot."""
        self.call("POST", "finish")

    def upload_manifest(
        self, snapshot: Snapshot, files: list[dict[str, Any]], key: fmt.Key | None = None, **members: Any
    ) -> dict[str, Any]:
        """Build and upload the manifest; `members` adds unknown top-level members."""
        manifest = fmt.build_manifest(snapshot.backup_type, snapshot.backup_id, snapshot.backup_time, files, key=key)
        manifest.update(members)
        if key is not None:
            manifest["signature"] = fmt.manifest_signature(manifest, key)
        self.upload_blob(fmt.MANIFEST_NAME, fmt.encode_manifest(manifest))
        return manifest


class ReaderSession(Session):
    """An admitted reader."""

    def download(self, name: str) -> bytes:
        """A file of the snapshot; an index also opens its chunks for reading."""
        return self.fetch("download", {"file-name": name})

    def chunk(self, digest: str) -> bytes:
        """A chunk as stored."""
        return self.fetch("chunk", {"digest": digest})
