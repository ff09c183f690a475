"""A small PBS-shaped datastore in memory: what `fixture_bucket.py` writes to a bucket or a directory.

It is made to catch known mistakes: groups vm/10 and vm/100 (and namespaces `a` and `ab`), whose
prefixes only differ behind a slash; nested namespaces; a protected snapshot; plain, compressed and
encrypted chunks; chunks shared between snapshots; an unreferenced chunk; an unfinished snapshot.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pbs_format as fmt

KEY = fmt.Key(bytes(range(32)))
FIRST_TIME = 1_700_000_000
HOUR = 3600
VERIFY_UPID = "UPID:pbs:000056A2:000BF53F:0000003B:6B00594F:verify:fixture:root@pam:"


def rfc3339(seconds: int) -> str:
    """Directory name of a snapshot."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def namespace_path(ns: str) -> str:
    """`a/b` becomes `ns/a/ns/b/`."""
    return "".join(f"ns/{part}/" for part in ns.split("/") if part)


@dataclass
class Content:
    """Files by path relative to the datastore, and what a correct reader must see in them."""

    files: dict[str, bytes] = field(default_factory=dict)
    chunks: dict[str, bytes] = field(default_factory=dict)
    namespaces: list[str] = field(default_factory=list)
    snapshots: list[dict[str, Any]] = field(default_factory=list)
    groups: dict[str, dict[str, Any]] = field(default_factory=dict)
    garbage: list[str] = field(default_factory=list)

    def add_chunk(self, plain: bytes, *, compress: bool = False, encrypt: bool = False) -> str:
        """Store a chunk once; encryption uses an IV derived from the content so that runs are equal."""
        key = KEY if encrypt else None
        digest = fmt.chunk_digest(plain, key)
        iv = hashlib.sha256(plain).digest()[:16] if encrypt else None
        self.chunks.setdefault(digest, fmt.encode_blob(plain, compress=compress, key=key, iv=iv))
        return digest

    def add_namespace(self, ns: str) -> None:
        """A namespace and, implicitly, its parents."""
        self.namespaces.append(ns)

    def add_group(self, ns: str, group: str, owner: str, notes: str | None = None) -> str:
        """Owner and notes of a group; returns its path."""
        path = namespace_path(ns) + group
        self.files[f"{path}/owner"] = owner.encode() + b"\n"
        if notes is not None:
            self.files[f"{path}/notes"] = notes.encode()
        self.groups[f"{ns}:{group}"] = {"ns": ns, "group": group, "owner": owner, "notes": notes}
        return path

    def add_snapshot(
        self,
        ns: str,
        group: str,
        seconds: int,
        archives: list[Archive],
        *,
        protected: bool = False,
        notes: str | None = None,
        verified: bool = False,
        log: bytes | None = None,
        finished: bool = True,
    ) -> None:
        """Files of a snapshot; an unfinished one has no manifest."""
        path = f"{namespace_path(ns)}{group}/{rfc3339(seconds)}"
        backup_type, backup_id = group.split("/")
        encrypted = any(archive.crypt_mode != "none" for archive in archives)
        unprotected: dict[str, Any] = {}
        if notes is not None:
            unprotected["notes"] = notes
        if verified:
            unprotected["verify_state"] = {"upid": VERIFY_UPID, "state": "ok"}
        manifest = fmt.build_manifest(
            backup_type,
            backup_id,
            seconds,
            [a.entry() for a in archives],
            key=KEY if encrypted else None,
            unprotected=unprotected,
        )
        for archive in archives:
            self.files[f"{path}/{archive.name}"] = archive.raw
        if finished:
            self.files[f"{path}/{fmt.MANIFEST_NAME}"] = fmt.encode_manifest(manifest)
        if log is not None:
            self.files[f"{path}/client.log.blob"] = fmt.encode_blob(log, compress=True)
        if protected:
            self.files[f"{path}/.protected"] = b""
        self.snapshots.append(
            {
                "ns": ns,
                "backup-type": backup_type,
                "backup-id": backup_id,
                "backup-time": seconds,
                "path": path,
                "finished": finished,
                "protected": protected,
                "notes": notes,
                "verified": verified,
                "fingerprint": KEY.fingerprint if encrypted else None,
                "log": log is not None,
                "size": sum(len(a.raw) if a.digests is None else a.size for a in archives),
                "files": [
                    {**a.entry(), "digests": a.digests, "content-sha256": hashlib.sha256(a.content).hexdigest()}
                    for a in archives
                ],
            }
        )

    def description(self) -> dict[str, Any]:
        """The expected contents as JSON."""
        used = {d for s in self.snapshots if s["finished"] for f in s["files"] for d in f["digests"] or []}
        return {
            "key": KEY.secret.hex(),
            "namespaces": ["", *self.namespaces],
            "groups": list(self.groups.values()),
            "snapshots": self.snapshots,
            "chunks": {
                digest: {"kind": fmt.blob_header(blob).kind, "encoded-size": len(blob), "used": digest in used}
                for digest, blob in sorted(self.chunks.items())
            },
            "garbage": sorted(self.garbage),
        }


@dataclass
class Archive:
    """One file of a snapshot: its bytes and what they decode to."""

    name: str
    raw: bytes
    content: bytes
    size: int
    csum: str
    digests: list[str] | None
    crypt_mode: str = "none"

    def entry(self) -> dict[str, Any]:
        """Manifest entry."""
        return fmt.manifest_file(self.name, self.size, self.csum, self.crypt_mode)


def blob(name: str, content: bytes) -> Archive:
    """A configuration blob."""
    raw = fmt.encode_blob(content, compress=True)
    return Archive(name, raw, content, len(raw), hashlib.sha256(raw).hexdigest(), None)


def image(content: Content, name: str, data: bytes, *, compress: bool = False) -> Archive:
    """A fixed index over 4 MiB chunks."""
    pieces = [data[i : i + fmt.CHUNK_SIZE] for i in range(0, len(data), fmt.CHUNK_SIZE)]
    digests = [content.add_chunk(piece, compress=compress) for piece in pieces]
    index = fmt.FixedIndex(len(data), digests, uuid=hashlib.sha256(name.encode()).digest()[:16], ctime=FIRST_TIME)
    return Archive(name, index.encode(), data, len(data), index.csum(), digests)


def stream(content: Content, name: str, data: bytes, sizes: list[int], *, encrypt: bool = False) -> Archive:
    """A dynamic index; `sizes` are repeated as chunk sizes until the data is used up."""
    entries, at, turn = [], 0, 0
    while at < len(data):
        piece = data[at : at + sizes[turn % len(sizes)]]
        at, turn = at + len(piece), turn + 1
        entries.append((at, content.add_chunk(piece, compress=True, encrypt=encrypt)))
    index = fmt.DynamicIndex(entries, uuid=hashlib.sha256(name.encode()).digest()[:16], ctime=FIRST_TIME)
    mode = "encrypt" if encrypt else "none"
    return Archive(name, index.encode(), data, index.size, index.csum(), index.digests, mode)


def build() -> Content:
    """The whole fixture, equal on every run."""
    content, rng = Content(), random.Random(20)
    for ns in ("a", "a/b", "ab"):
        content.add_namespace(ns)
    half = fmt.CHUNK_SIZE // 2
    block = rng.randbytes(half) + bytes(half)
    disk = block + bytes(fmt.CHUNK_SIZE) + rng.randbytes(1000)
    changed = disk[: 2 * fmt.CHUNK_SIZE] + rng.randbytes(1000)
    conf = blob("qemu-server.conf.blob", b"name: fixture\ncores: 2\n")
    content.add_group("", "vm/10", "tester@pbs", "group notes\nsecond line")
    content.add_snapshot("", "vm/10", FIRST_TIME, [conf, image(content, "drive-scsi0.img.fidx", disk, compress=True)])
    content.add_snapshot(
        "",
        "vm/10",
        FIRST_TIME + HOUR,
        [conf, image(content, "drive-scsi0.img.fidx", changed)],
        notes="first line\nsecond: \u00e4\u00f6",
        verified=True,
        log=b"log of the second run\n",
    )
    content.add_group("", "vm/100", "tester@pbs!tok")
    small = image(content, "drive-scsi0.img.fidx", rng.randbytes(70_000))
    content.add_snapshot("", "vm/100", FIRST_TIME, [conf, small], protected=True)
    text = b"".join(b"line %d of a text that compresses\n" % i for i in range(20_000))
    content.add_group("a", "host/files", "tester@pbs")
    content.add_snapshot("a", "host/files", FIRST_TIME, [stream(content, "root.pxar.didx", text, [65536, 30000])])
    content.add_snapshot(
        "a", "host/files", FIRST_TIME + HOUR, [stream(content, "root.pxar.didx", text + b"more\n", [65536, 30000])]
    )
    content.add_snapshot(
        "a",
        "host/files",
        FIRST_TIME + 2 * HOUR,
        [stream(content, "root.pxar.didx", text[:90_000], [65536])],
        finished=False,
    )
    secret = rng.randbytes(150_000) + text[:100_000]
    content.add_group("a/b", "ct/101", "other@pbs")
    content.add_snapshot(
        "a/b", "ct/101", FIRST_TIME, [stream(content, "root.pxar.didx", secret, [100_000], encrypt=True)]
    )
    content.add_group("ab", "host/files", "tester@pbs")
    content.add_snapshot("ab", "host/files", FIRST_TIME, [stream(content, "root.pxar.didx", text[:120_000], [50_000])])
    content.garbage.append(content.add_chunk(b"nobody refers to this chunk" * 100, compress=True))
    used = {d for s in content.snapshots if s["finished"] for f in s["files"] for d in f["digests"] or []}
    content.garbage += [d for d in content.chunks if d not in used and d not in content.garbage]
    return content
