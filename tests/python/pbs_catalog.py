"""The catalog of legacy directory backups (`catalog.pcat1.didx`, decoded) and its varints."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

from pbs_format import FormatError

CATALOG_MAGIC = bytes.fromhex("91fd60f9c46758d5")


def encode_varint(value: int) -> bytes:
    """Unsigned, 7 bits per byte, least significant first."""
    if value < 0:
        raise FormatError("unsigned varint below zero")
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode_signed_varint(value: int) -> bytes:
    """As above; negative numbers keep the high bit on the last byte and end in a zero byte."""
    if value >= 0:
        return encode_varint(value)
    out = bytearray(encode_varint(-value))
    out[-1] |= 0x80
    return bytes(out) + b"\0"


def decode_varint(data: bytes, position: int = 0, *, signed: bool = False) -> tuple[int, int]:
    """(value, next position); at most ten bytes."""
    value = 0
    for count in range(11):
        if position + count >= len(data):
            raise FormatError("varint runs past the end")
        byte = data[position + count]
        if signed and byte == 0 and count > 0:
            return -value, position + count + 1
        value |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            return value, position + count + 1
    raise FormatError("varint is longer than ten bytes")


@dataclass(frozen=True)
class CatalogEntry:
    """One directory entry; `children` is set for directories."""

    kind: str
    name: bytes
    size: int = 0
    mtime: int = 0
    children: tuple[CatalogEntry, ...] = ()


def encode_catalog(archives: Iterable[CatalogEntry]) -> bytes:
    """A whole catalog stream; children are written before their parents."""
    out = bytearray(CATALOG_MAGIC)
    root = _write_table(out, tuple(archives))
    return bytes(out) + struct.pack("<Q", root)


def _write_table(out: bytearray, entries: tuple[CatalogEntry, ...]) -> int:
    starts = [_write_table(out, e.children) if e.kind == "d" else 0 for e in entries]
    start = len(out)
    body = bytearray(encode_varint(len(entries)))
    for entry, child in zip(entries, starts):
        body += entry.kind.encode() + encode_varint(len(entry.name)) + entry.name
        if entry.kind == "d":
            body += encode_varint(start - child)
        elif entry.kind == "f":
            body += encode_varint(entry.size) + encode_signed_varint(entry.mtime)
    out += encode_varint(len(body)) + body
    return start


def decode_catalog(data: bytes) -> tuple[CatalogEntry, ...]:
    """The root's entries, read recursively."""
    if data[:8] != CATALOG_MAGIC or len(data) < 18:
        raise FormatError("not a catalog")
    return _read_table(data, struct.unpack("<Q", data[-8:])[0], len(data) - 8)


def _read_table(data: bytes, start: int, end: int) -> tuple[CatalogEntry, ...]:
    if not len(CATALOG_MAGIC) <= start < end:
        raise FormatError(f"catalog table at {start} lies outside of the stream")
    length, pos = decode_varint(data, start)
    if pos + length > end:
        raise FormatError("catalog table runs past the end")
    count, pos = decode_varint(data, pos)
    entries = []
    for _ in range(count):
        kind = chr(data[pos])
        name_bytes, pos = decode_varint(data, pos + 1)
        name, pos = data[pos : pos + name_bytes], pos + name_bytes
        size = mtime = 0
        children: tuple[CatalogEntry, ...] = ()
        if kind == "d":
            back, pos = decode_varint(data, pos)
            children = _read_table(data, start - back, start)
        elif kind == "f":
            size, pos = decode_varint(data, pos)
            mtime, pos = decode_varint(data, pos, signed=True)
        entries.append(CatalogEntry(kind, name, size, mtime, children))
    return tuple(entries)
