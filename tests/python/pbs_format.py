"""File and wire formats of the Proxmox Backup protocol, written from the interface document alone.

Covers DataBlobs (four kinds), keys and digests, fixed and dynamic indexes, the manifest with its
signature; the catalog is in `pbs_catalog.py`.  Nothing here shares code with the Rust side: a misunderstanding has to
be made twice to stay hidden.  All integers on disk are little-endian.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

PLAIN_MAGIC = bytes.fromhex("42ab3807be8370a1")
ZSTD_MAGIC = bytes.fromhex("31b958426fb6a37f")
ENCRYPTED_MAGIC = bytes.fromhex("7b6785be222d4cf0")
ZSTD_ENCRYPTED_MAGIC = bytes.fromhex("e6591bbf0bbfd80b")
FIXED_INDEX_MAGIC = bytes.fromhex("2f7f41ed91fd0fcd")
DYNAMIC_INDEX_MAGIC = bytes.fromhex("1c914ea519bab3cd")

FINGERPRINT_INPUT = bytes.fromhex("6ed0ef77471fff4d55c7a8fe4a9db62161407f134c725ddf30992d25ec45ed26")

CHUNK_SIZE = 4 * 1024 * 1024
INDEX_HEADER_BYTES = 4096
CHUNK_BYTES_MAX = 16 * 1024 * 1024
BLOB_BYTES_MAX = 128 * 1024 * 1024
MANIFEST_NAME = "index.json.blob"

# Digest of 4 MiB of zero bytes, the chunk that QEMU always uploads.
ZERO_CHUNK_DIGEST = "bb9f8df61474d25e71fa00722318cd387396ca1736605e1248821cc0de3d3af8"


class FormatError(ValueError):
    """Bytes that do not follow the format."""


# --- keys and digests -------------------------------------------------------------------------


@dataclass(frozen=True)
class Key:
    """A 32-byte encryption key with the values derived from it."""

    secret: bytes

    @property
    def id_key(self) -> bytes:
        """Key of chunk digests and manifest signatures."""
        return hashlib.pbkdf2_hmac("sha256", self.secret, b"_id_key", 10, 32)

    @property
    def fingerprint(self) -> str:
        """Colon-separated hex, as the manifest holds it."""
        raw = hashlib.sha256(FINGERPRINT_INPUT + self.id_key).hexdigest()
        return ":".join(raw[i : i + 2] for i in range(0, 64, 2))


def chunk_digest(plain: bytes, key: Key | None = None) -> str:
    """Digest of a chunk: plain SHA-256, or salted with the id key when the content is encrypted."""
    salt = key.id_key if key else b""
    return hashlib.sha256(plain + salt).hexdigest()


# --- DataBlob ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class BlobHeader:
    """What the first bytes of a DataBlob say."""

    kind: str
    encrypted: bool
    compressed: bool
    header_bytes: int
    crc: int


_KINDS = {
    PLAIN_MAGIC: ("plain", False, False),
    ZSTD_MAGIC: ("zstd", False, True),
    ENCRYPTED_MAGIC: ("encrypted", True, False),
    ZSTD_ENCRYPTED_MAGIC: ("zstd-encrypted", True, True),
}


def blob_header(blob: bytes) -> BlobHeader:
    """Parse the header; raises FormatError for short data or an unknown magic."""
    if len(blob) < 12:
        raise FormatError(f"a blob of {len(blob)} bytes is shorter than any header")
    if blob[:8] not in _KINDS:
        raise FormatError(f"unknown blob magic {blob[:8].hex()}")
    kind, encrypted, compressed = _KINDS[blob[:8]]
    header_bytes = 44 if encrypted else 12
    if len(blob) < header_bytes:
        raise FormatError(f"an encrypted blob of {len(blob)} bytes has no room for IV and tag")
    return BlobHeader(kind, encrypted, compressed, header_bytes, struct.unpack_from("<I", blob, 8)[0])


def blob_crc(blob: bytes) -> int:
    """CRC-32 over everything after the full header."""
    return zlib.crc32(blob[blob_header(blob).header_bytes :])


def with_right_crc(blob: bytes) -> bytes:
    """The same blob with the CRC field a server would store."""
    return blob[:8] + struct.pack("<I", blob_crc(blob)) + blob[12:]


def encode_blob(
    plain: bytes,
    *,
    compress: bool = False,
    key: Key | None = None,
    iv: bytes | None = None,
    crc: int | None = None,
) -> bytes:
    """Encode a DataBlob.

    Compression is dropped when it does not make the data smaller.  `iv` and `crc` are for tests
    that need fixed or wrong values.
    """
    payload, compressed = plain, False
    if compress:
        packed = zstandard.ZstdCompressor(level=1).compress(plain)
        if len(packed) < len(plain):
            payload, compressed = packed, True
    if key is None:
        magic, extra = (ZSTD_MAGIC if compressed else PLAIN_MAGIC), b""
    else:
        iv = os.urandom(16) if iv is None else iv
        encryptor = Cipher(algorithms.AES(key.secret), modes.GCM(iv)).encryptor()
        payload = encryptor.update(payload) + encryptor.finalize()
        magic, extra = (ZSTD_ENCRYPTED_MAGIC if compressed else ENCRYPTED_MAGIC), iv + encryptor.tag
    stored = zlib.crc32(payload) if crc is None else crc
    return magic + struct.pack("<I", stored) + extra + payload


def decode_blob(blob: bytes, *, key: Key | None = None, limit: int = BLOB_BYTES_MAX, check_crc: bool = True) -> bytes:
    """Decode a DataBlob, checking CRC, authentication tag and the output limit."""
    header = blob_header(blob)
    payload = blob[header.header_bytes :]
    if check_crc and zlib.crc32(payload) != header.crc:
        raise FormatError("blob CRC does not match its content")
    if header.encrypted:
        if key is None:
            raise FormatError("blob is encrypted and no key was given")
        decryptor = Cipher(algorithms.AES(key.secret), modes.GCM(blob[12:28], blob[28:44])).decryptor()
        try:
            payload = decryptor.update(payload) + decryptor.finalize()
        except InvalidTag as error:
            raise FormatError("blob does not authenticate under this key") from error
    if header.compressed:
        payload = _decompress(payload, limit)
    if len(payload) > limit:
        raise FormatError(f"blob holds more than {limit} bytes")
    return payload


def _decompress(frame: bytes, limit: int) -> bytes:
    try:
        with zstandard.ZstdDecompressor().stream_reader(frame) as reader:
            return reader.read(limit + 1)
    except zstandard.ZstdError as error:
        raise FormatError(f"blob holds a broken zstd frame: {error}") from error


# --- indexes ----------------------------------------------------------------------------------


@dataclass
class FixedIndex:
    """Content of a `.fidx` file: one digest per slot of `chunk_size` bytes."""

    size: int
    digests: list[str]
    chunk_size: int = CHUNK_SIZE
    uuid: bytes = b"\0" * 16
    ctime: int = 0

    def csum(self) -> str:
        """SHA-256 over the digest area, the `csum` of the manifest."""
        return hashlib.sha256(b"".join(map(bytes.fromhex, self.digests))).hexdigest()

    def chunks(self) -> list[tuple[int, int, str]]:
        """(start, end, digest) of every slot."""
        return [
            (i * self.chunk_size, min((i + 1) * self.chunk_size, self.size), digest)
            for i, digest in enumerate(self.digests)
        ]

    def encode(self) -> bytes:
        """The file's bytes."""
        head = FIXED_INDEX_MAGIC + self.uuid + struct.pack("<q", self.ctime)
        head += bytes.fromhex(self.csum()) + struct.pack("<QQ", self.size, self.chunk_size)
        return head.ljust(INDEX_HEADER_BYTES, b"\0") + b"".join(map(bytes.fromhex, self.digests))


@dataclass
class DynamicIndex:
    """Content of a `.didx` file: (end offset, digest) of every chunk."""

    entries: list[tuple[int, str]] = field(default_factory=list)
    uuid: bytes = b"\0" * 16
    ctime: int = 0

    @property
    def size(self) -> int:
        """Logical archive size."""
        return self.entries[-1][0] if self.entries else 0

    @property
    def digests(self) -> list[str]:
        """All digests in stream order."""
        return [digest for _, digest in self.entries]

    def _area(self) -> bytes:
        return b"".join(struct.pack("<Q", end) + bytes.fromhex(digest) for end, digest in self.entries)

    def csum(self) -> str:
        """SHA-256 over the entry area."""
        return hashlib.sha256(self._area()).hexdigest()

    def chunks(self) -> list[tuple[int, int, str]]:
        """(start, end, digest) of every chunk."""
        starts = [0] + [end for end, _ in self.entries]
        return [(start, end, digest) for start, (end, digest) in zip(starts, self.entries)]

    def encode(self) -> bytes:
        """The file's bytes."""
        head = DYNAMIC_INDEX_MAGIC + self.uuid + struct.pack("<q", self.ctime) + bytes.fromhex(self.csum())
        return head.ljust(INDEX_HEADER_BYTES, b"\0") + self._area()


def decode_index(raw: bytes) -> FixedIndex | DynamicIndex:
    """Parse either index kind, checking magic, length, csum and order."""
    if len(raw) < INDEX_HEADER_BYTES:
        raise FormatError(f"an index of {len(raw)} bytes is shorter than its header")
    uuid, (ctime,) = raw[8:24], struct.unpack_from("<q", raw, 24)
    area = raw[INDEX_HEADER_BYTES:]
    if raw[:8] == FIXED_INDEX_MAGIC:
        size, chunk_size = struct.unpack_from("<QQ", raw, 64)
        if chunk_size == 0 or chunk_size & (chunk_size - 1):
            raise FormatError(f"chunk size {chunk_size} is not a power of two")
        if len(area) != 32 * -(-size // chunk_size):
            raise FormatError("fixed index has the wrong length for its image size")
        digests = [area[i : i + 32].hex() for i in range(0, len(area), 32)]
        index: FixedIndex | DynamicIndex = FixedIndex(size, digests, chunk_size, uuid, ctime)
    elif raw[:8] == DYNAMIC_INDEX_MAGIC:
        if len(area) % 40:
            raise FormatError("dynamic index ends inside an entry")
        entries = [(struct.unpack_from("<Q", area, i)[0], area[i + 8 : i + 40].hex()) for i in range(0, len(area), 40)]
        ends = [0] + [end for end, _ in entries]
        if any(a >= b for a, b in zip(ends, ends[1:])):
            raise FormatError("dynamic index offsets do not increase")
        index = DynamicIndex(entries, uuid, ctime)
    else:
        raise FormatError(f"unknown index magic {raw[:8].hex()}")
    if raw[32:64].hex() != index.csum():
        raise FormatError("index csum does not match its entries")
    return index


# --- manifest ---------------------------------------------------------------------------------


def canonical_json(value: Any) -> bytes:
    """JSON without whitespace, keys sorted bytewise, integers only: the input of the signature."""
    if isinstance(value, dict):
        items = sorted(value.items(), key=lambda item: item[0].encode())
        return b"{" + b",".join(canonical_json(k) + b":" + canonical_json(v) for k, v in items) + b"}"
    if isinstance(value, list):
        return b"[" + b",".join(map(canonical_json, value)) + b"]"
    if isinstance(value, float):
        raise FormatError("canonical JSON has no fractions")
    return json.dumps(value, ensure_ascii=False).encode()


def canonical_manifest(manifest: dict[str, Any]) -> bytes:
    """The signed part of a manifest."""
    return canonical_json({k: v for k, v in manifest.items() if k not in ("signature", "unprotected")})


def manifest_signature(manifest: dict[str, Any], key: Key) -> str:
    """HMAC-SHA256 of the canonical manifest under the id key."""
    return hmac.new(key.id_key, canonical_manifest(manifest), hashlib.sha256).hexdigest()


def manifest_file(filename: str, size: int, csum: str, crypt_mode: str = "none") -> dict[str, Any]:
    """One entry of the manifest's file list."""
    return {"filename": filename, "crypt-mode": crypt_mode, "size": size, "csum": csum}


def build_manifest(
    backup_type: str,
    backup_id: str,
    backup_time: int,
    files: Sequence[dict[str, Any]],
    *,
    key: Key | None = None,
    unprotected: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """A manifest, signed and with the key's fingerprint when a key is given."""
    manifest: dict[str, Any] = {
        "backup-type": backup_type,
        "backup-id": backup_id,
        "backup-time": backup_time,
        "files": list(files),
        "signature": None,
        "unprotected": dict(unprotected or {}),
    }
    if key is not None:
        manifest["signature"] = manifest_signature(manifest, key)
        manifest["unprotected"].setdefault("key-fingerprint", key.fingerprint)
    return manifest


def encode_manifest(manifest: dict[str, Any]) -> bytes:
    """The manifest as the blob that goes over the wire."""
    return encode_blob(json.dumps(manifest, indent=2).encode(), compress=True)


def decode_manifest(blob: bytes) -> dict[str, Any]:
    """Parse a manifest blob."""
    manifest = json.loads(decode_blob(blob))
    if not isinstance(manifest, dict):
        raise FormatError("manifest is not a JSON object")
    return manifest
