"""Formats against the vectors of the interface document and against the recorded sessions."""

from __future__ import annotations

import hashlib
import json
import random

import pytest
import zstandard

import pbs_catalog as catalog
import pbs_format as fmt
import transcript

KEY = fmt.Key(bytes(range(32)))
CANONICAL = (
    b'{"backup-id":"t1","backup-time":1700000000,"backup-type":"host","files":[{"crypt-mode":"none",'
    b'"csum":"9c5944aba3379b450612203cafb5bf60c2358103550b7f799d197f4668f169d5","filename":"a.blob","size":17}]}'
)


def test_zero_chunk_digest() -> None:
    assert fmt.chunk_digest(bytes(fmt.CHUNK_SIZE)) == fmt.ZERO_CHUNK_DIGEST


def test_plain_blob_vector() -> None:
    blob = fmt.encode_blob(b"hello")
    assert blob.hex() == "42ab3807be8370a186a6103668656c6c6f"
    assert hashlib.sha256(blob).hexdigest() == "9c5944aba3379b450612203cafb5bf60c2358103550b7f799d197f4668f169d5"
    assert fmt.decode_blob(blob) == b"hello"


def test_key_vectors() -> None:
    assert KEY.id_key.hex() == "7c2c013efd07f3b25717a485263343cd4d292a4b65c200bb3b18ea227abe225c"
    assert KEY.fingerprint == (
        "0e:ab:d4:46:0b:6e:b9:ca:34:50:23:de:e2:b7:78:c7:90:e5:4a:16:83:b9:65:9c:0a:57:ae:19:90:90:15:9b"
    )
    assert fmt.chunk_digest(b"hello", KEY) == "e34178a27b992c4a218599bf7f43ed50bc464a03d624d9092306fe2ed74d557e"


def test_encrypted_blob_vector() -> None:
    blob = fmt.encode_blob(b"hello", key=KEY, iv=bytes(range(16)))
    assert blob.hex() == (
        "7b6785be222d4cf0784eea93000102030405060708090a0b0c0d0e0f0c84c431837297c0b19e77e5608162ea0f09cc1a56"
    )
    assert fmt.decode_blob(blob, key=KEY) == b"hello"


def test_index_csum_vectors() -> None:
    a, b = hashlib.sha256(b"a").hexdigest(), hashlib.sha256(b"b").hexdigest()
    fixed = fmt.FixedIndex(size=fmt.CHUNK_SIZE + 1, digests=[a, b])
    assert fixed.csum() == "e5a01fee14e0ed5c48714f22180f25ad8365b53f9779f79dc4a3d7e93963f94a"
    dynamic = fmt.DynamicIndex(entries=[(5, a), (12, b)])
    assert dynamic.csum() == "fbf97e1975a88fb8d0623ec722b6ea22dbda34feee1cc536c10c2e71e8f73724"


def test_manifest_vectors() -> None:
    csum = "9c5944aba3379b450612203cafb5bf60c2358103550b7f799d197f4668f169d5"
    manifest = fmt.build_manifest("host", "t1", 1700000000, [fmt.manifest_file("a.blob", 17, csum)], key=KEY)
    assert fmt.canonical_manifest(manifest) == CANONICAL
    assert manifest["signature"] == "30aecffa0f627beb84c950c1886a1ca4af67368587a80a10f2a467042fd89f9b"
    assert fmt.decode_manifest(fmt.encode_manifest(manifest)) == manifest


@pytest.mark.parametrize(
    ("value", "signed", "expected"),
    [(300, False, "ac02"), (300, True, "ac02"), (-1, True, "8100"), (-300, True, "ac8200"), (0, True, "00")],
)
def test_varint_vectors(value: int, signed: bool, expected: str) -> None:
    encoded = catalog.encode_signed_varint(value) if signed else catalog.encode_varint(value)
    assert encoded.hex() == expected
    assert catalog.decode_varint(encoded, signed=signed) == (value, len(encoded))


@pytest.mark.parametrize("key", [None, KEY], ids=["unencrypted", "encrypted"])
@pytest.mark.parametrize("compress", [False, True], ids=["raw", "zstd"])
@pytest.mark.parametrize("plain", [b"", b"x", b"abc" * 5000, random.Random(1).randbytes(70000)], ids=len)
def test_blob_round_trip(plain: bytes, compress: bool, key: fmt.Key | None) -> None:
    blob = fmt.encode_blob(plain, compress=compress, key=key)
    assert fmt.blob_header(blob).encrypted == (key is not None)
    assert len(blob) <= len(plain) + 44
    assert fmt.decode_blob(blob, key=key) == plain
    assert fmt.with_right_crc(blob[:8] + b"\0\0\0\0" + blob[12:]) == blob


def test_damaged_blobs_are_refused() -> None:
    blob = fmt.encode_blob(b"content" * 100, compress=True)
    for broken in (b"", blob[:11], b"\0" + blob[1:], blob[:-1], blob[:20] + b"\xff" + blob[21:]):
        with pytest.raises(fmt.FormatError):
            fmt.decode_blob(broken)
    secret = fmt.encode_blob(b"secret", key=KEY)
    with pytest.raises(fmt.FormatError):
        fmt.decode_blob(secret)
    with pytest.raises(fmt.FormatError):
        fmt.decode_blob(secret, key=fmt.Key(bytes(32)))
    with pytest.raises(fmt.FormatError):
        fmt.decode_blob(secret[:12] + b"\xff" * 16 + secret[28:], key=KEY)


def test_zstd_bomb_stops_at_the_limit() -> None:
    frame = zstandard.ZstdCompressor(level=1).compress(bytes(8 << 20))
    bomb = fmt.with_right_crc(fmt.ZSTD_MAGIC + bytes(4) + frame)
    assert len(bomb) < 2000
    with pytest.raises(fmt.FormatError, match="more than"):
        fmt.decode_blob(bomb, limit=1 << 20)


def test_index_round_trip_and_damage() -> None:
    digests = [hashlib.sha256(bytes([i])).hexdigest() for i in range(3)]
    fixed = fmt.FixedIndex(2 * fmt.CHUNK_SIZE + 5, digests, uuid=b"u" * 16, ctime=7)
    assert fmt.decode_index(fixed.encode()) == fixed
    assert fixed.chunks()[-1] == (2 * fmt.CHUNK_SIZE, 2 * fmt.CHUNK_SIZE + 5, digests[2])
    dynamic = fmt.DynamicIndex([(10, digests[0]), (11, digests[1])], uuid=b"u" * 16, ctime=7)
    assert fmt.decode_index(dynamic.encode()) == dynamic
    assert dynamic.chunks() == [(0, 10, digests[0]), (10, 11, digests[1])]
    unordered = fmt.DynamicIndex([(10, digests[0]), (10, digests[1])])
    for raw in (
        b"",
        fixed.encode()[:-1],
        dynamic.encode()[:-1],
        unordered.encode(),
        fixed.encode()[:-1] + b"\0",
        b"\0" * 8 + fixed.encode()[8:],
    ):
        with pytest.raises(fmt.FormatError):
            fmt.decode_index(raw)


def test_canonical_json_sorts_and_escapes() -> None:
    value = {"b": [2, {"z": None, "a": True}], "a": 'q"\\\n\u00e4'}
    assert fmt.canonical_json(value) == '{"a":"q\\"\\\\\\n\u00e4","b":[2,{"a":true,"z":null}]}'.encode()
    with pytest.raises(fmt.FormatError):
        fmt.canonical_json({"a": 0.5})


def test_catalog_round_trip() -> None:
    files = (catalog.CatalogEntry("f", b"x.txt", 300, -300), catalog.CatalogEntry("l", b"link"))
    root = (
        catalog.CatalogEntry("d", b"root.pxar.didx", children=(catalog.CatalogEntry("d", b"sub", children=files),)),
    )
    data = catalog.encode_catalog(root)
    assert catalog.decode_catalog(data) == root
    for broken in (b"", data[:-9], data[:-8] + b"\xff" * 8):
        with pytest.raises((fmt.FormatError, IndexError)):
            catalog.decode_catalog(broken)


def test_recorded_bodies_follow_the_formats(transcript_files: list) -> None:
    """Stock clients and a stock server are the second witness for every format."""
    seen = {"blob": 0, "index": 0, "manifest": 0, "chunk": 0, "catalog": 0}
    for path in transcript_files:
        for exchange in transcript.load(path).exchanges:
            body = exchange.response_body
            if exchange.status != 200 or body is None or exchange.response_is_json:
                continue
            name = exchange.file_name
            if "download-decoded" in exchange.path or "pxar-file" in exchange.path or name is None:
                if exchange.path == "/chunk" and not fmt.blob_header(body).encrypted:
                    assert fmt.chunk_digest(fmt.decode_blob(body)) == exchange.query["digest"]
                    seen["chunk"] += 1
                continue
            if name.endswith((".didx", ".fidx")):
                assert fmt.decode_index(body).encode() == body
                seen["index"] += 1
            elif name == fmt.MANIFEST_NAME:
                assert json.loads(fmt.canonical_manifest(fmt.decode_manifest(body)))["files"] is not None
                seen["manifest"] += 1
            elif name.endswith(".blob"):
                assert fmt.blob_crc(body) == fmt.blob_header(body).crc
                seen["blob"] += 1
        for exchange in transcript.load(path).exchanges:
            if exchange.path == "/dynamic_chunk" and exchange.status == 200:
                body = exchange.request_body or b""
                if not fmt.blob_header(body).encrypted:
                    plain = fmt.decode_blob(body, check_crc=False)
                    if plain.startswith(catalog.CATALOG_MAGIC):
                        assert catalog.encode_catalog(catalog.decode_catalog(plain)) == plain
                        seen["catalog"] += 1
    assert all(seen.values()), seen
