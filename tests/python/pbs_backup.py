"""Whole backups and restores in one call, in the request order of the stock client."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable
from typing import Any

import pbs_format as fmt
from http2 import Stream
from pbs_client import BackupSession, PbsClient, ReaderSession, Snapshot, answer_data

UNANSWERED_MAX = 64


def split_stream(data: bytes, chunk_bytes: int) -> list[bytes]:
    """Cut into pieces of one size; the server accepts any boundaries."""
    return [data[i : i + chunk_bytes] for i in range(0, len(data), chunk_bytes)]


def _upload(
    session: BackupSession,
    kind: str,
    wid: int,
    pieces: Iterable[bytes],
    key: fmt.Key | None,
    known: set[str],
    compress: bool,
) -> list[tuple[str, int]]:
    """Upload unknown pieces, at most 64 unanswered at once; returns (digest, size) in order."""
    waiting: deque[Stream] = deque()
    placed = []
    for piece in pieces:
        digest = fmt.chunk_digest(piece, key)
        placed.append((digest, len(piece)))
        if digest not in known:
            known.add(digest)
            blob = fmt.encode_blob(piece, compress=compress, key=key)
            waiting.append(session.start_chunk(kind, wid, digest, len(piece), blob))
        if len(waiting) >= UNANSWERED_MAX:
            answer_data("chunk", waiting.popleft().wait())
    for stream in waiting:
        answer_data("chunk", stream.wait())
    return placed


def upload_dynamic(
    session: BackupSession,
    name: str,
    pieces: Iterable[bytes],
    *,
    key: fmt.Key | None = None,
    known: set[str] | None = None,
    compress: bool = True,
) -> dict[str, Any]:
    """Write a dynamic archive; returns its manifest entry."""
    wid = session.create_dynamic(name)
    placed = _upload(session, "dynamic", wid, pieces, key, set() if known is None else known, compress)
    offsets, entries, end = [], [], 0
    for digest, size in placed:
        offsets.append(end)
        end += size
        entries.append((end, digest))
    index = fmt.DynamicIndex(entries)
    session.append("dynamic", wid, index.digests, offsets)
    session.close_index("dynamic", wid, len(entries), index.size, index.csum())
    return fmt.manifest_file(name, index.size, index.csum(), "encrypt" if key else "none")


def upload_image(
    session: BackupSession,
    name: str,
    image: bytes,
    *,
    key: fmt.Key | None = None,
    known: set[str] | None = None,
    compress: bool = True,
) -> dict[str, Any]:
    """Write a fixed archive; returns its manifest entry."""
    wid = session.create_fixed(name, len(image))
    pieces = split_stream(image, fmt.CHUNK_SIZE)
    placed = _upload(session, "fixed", wid, pieces, key, set() if known is None else known, compress)
    index = fmt.FixedIndex(len(image), [digest for digest, _ in placed])
    session.append("fixed", wid, index.digests, [i * fmt.CHUNK_SIZE for i in range(len(placed))])
    session.close_index("fixed", wid, len(placed), len(image), index.csum())
    return fmt.manifest_file(name, len(image), index.csum(), "encrypt" if key else "none")


def _begin(client: PbsClient, store: str, snapshot: Snapshot, name: str) -> tuple[BackupSession, set[str]]:
    """Open the session and learn the known chunks of the last backup, as stock clients do."""
    session = client.backup(store, snapshot)
    known: set[str] = set()
    if session.previous_time() is not None:
        manifest = fmt.decode_manifest(session.previous(fmt.MANIFEST_NAME))
        if any(entry["filename"] == name for entry in manifest["files"]):
            known.update(fmt.decode_index(session.previous(name)).digests)
    return session, known


def _complete(
    session: BackupSession, snapshot: Snapshot, files: list[dict[str, Any]], key: fmt.Key | None
) -> dict[str, Any]:
    manifest = session.upload_manifest(snapshot, files, key)
    session.finish()
    session.drop()
    return manifest


def backup_image(
    client: PbsClient,
    store: str,
    snapshot: Snapshot,
    name: str,
    image: bytes,
    *,
    key: fmt.Key | None = None,
    blobs: dict[str, bytes] | None = None,
) -> dict[str, Any]:
    """A finished snapshot with one image and optional blobs; returns the manifest."""
    session, known = _begin(client, store, snapshot, name)
    files = [session.upload_blob(blob, fmt.encode_blob(content)) for blob, content in (blobs or {}).items()]
    files.append(upload_image(session, name, image, key=key, known=known))
    return _complete(session, snapshot, files, key)


def backup_dynamic(
    client: PbsClient,
    store: str,
    snapshot: Snapshot,
    name: str,
    data: bytes,
    *,
    key: fmt.Key | None = None,
    chunk_bytes: int = 64 * 1024,
) -> dict[str, Any]:
    """A finished snapshot with one dynamic archive; returns the manifest."""
    session, known = _begin(client, store, snapshot, name)
    pieces = split_stream(data, chunk_bytes)
    return _complete(session, snapshot, [upload_dynamic(session, name, pieces, key=key, known=known)], key)


def backup_blob(
    client: PbsClient, store: str, snapshot: Snapshot, name: str = "x.conf.blob", content: bytes = b"x"
) -> dict[str, Any]:
    """The smallest finished snapshot; returns the manifest."""
    session = client.backup(store, snapshot)
    return _complete(session, snapshot, [session.upload_blob(name, fmt.encode_blob(content))], None)


def read_archive(session: ReaderSession, entry: dict[str, Any], key: fmt.Key | None = None) -> bytes:
    """Read and verify one file of a manifest; archives are decoded, blobs too."""
    raw = session.download(entry["filename"])
    encrypted_with = key if entry["crypt-mode"] == "encrypt" else None
    if entry["filename"].endswith(".blob"):
        if len(raw) != entry["size"] or hashlib.sha256(raw).hexdigest() != entry["csum"]:
            raise AssertionError(f"{entry['filename']} is not what the manifest says")
        return fmt.decode_blob(raw, key=encrypted_with)
    index = fmt.decode_index(raw)
    if index.csum() != entry["csum"] or index.size != entry["size"]:
        raise AssertionError(f"{entry['filename']} is not what the manifest says")
    plain: dict[str, bytes] = {}
    parts = []
    for start, end, digest in index.chunks():
        if digest not in plain:
            plain[digest] = fmt.decode_blob(session.chunk(digest), key=encrypted_with, limit=fmt.CHUNK_BYTES_MAX)
            if fmt.chunk_digest(plain[digest], encrypted_with) != digest:
                raise AssertionError(f"chunk {digest} does not have this digest")
        if len(plain[digest]) < end - start:
            raise AssertionError(f"chunk {digest} is shorter than its place in the index")
        parts.append(plain[digest][: end - start])
    return b"".join(parts)


def restore(client: PbsClient, store: str, snapshot: Snapshot, *, key: fmt.Key | None = None) -> dict[str, bytes]:
    """Every file of a snapshot by name, verified against the manifest (and its signature)."""
    with client.reader(store, snapshot) as session:
        manifest = fmt.decode_manifest(session.download(fmt.MANIFEST_NAME))
        if key is not None and manifest["signature"] != fmt.manifest_signature(manifest, key):
            raise AssertionError("manifest signature does not match")
        return {entry["filename"]: read_archive(session, entry, key) for entry in manifest["files"]}
