"""The fixture datastore is consistent, and the S3 server of the tests keeps what it promises."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

import fixture_bucket
import fixture_content
import pbs_format as fmt

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def content() -> fixture_content.Content:
    """The fixture."""
    return fixture_content.build()


@pytest.fixture(scope="module")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Path]]:
    """A running server: client and request log."""
    log = tmp_path_factory.mktemp("moto") / "requests.jsonl"
    command = [sys.executable, str(HERE / "moto_locked.py"), "--bucket", "bucket", "--log", str(log), "--seconds", "60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        port = json.loads(process.stdout.readline())["port"]
        yield fixture_bucket.s3_client(f"http://127.0.0.1:{port}", "us-east-1", "test", "test"), log
        process.terminate()


def read_back(files: dict[str, bytes], chunks: dict[str, bytes], snapshot: dict[str, Any]) -> None:
    """Decode every archive of a snapshot from stored bytes and compare with the description."""
    import hashlib

    for entry in snapshot["files"]:
        raw = files[f"{snapshot['path']}/{entry['filename']}"]
        if entry["digests"] is None:
            assert hashlib.sha256(raw).hexdigest() == entry["csum"] and len(raw) == entry["size"]
            data = fmt.decode_blob(raw)
        else:
            index = fmt.decode_index(raw)
            assert (index.csum(), index.size, index.digests) == (entry["csum"], entry["size"], entry["digests"])
            key = fixture_content.KEY if entry["crypt-mode"] == "encrypt" else None
            data = b"".join(fmt.decode_blob(chunks[digest], key=key) for digest in entry["digests"])
        assert hashlib.sha256(data).hexdigest() == entry["content-sha256"]


def test_content_is_consistent_and_repeatable(content: fixture_content.Content) -> None:
    description = content.description()
    assert json.dumps(description) == json.dumps(fixture_content.build().description())
    kinds = {chunk["kind"] for chunk in description["chunks"].values()}
    assert kinds >= {"plain", "zstd", "encrypted", "zstd-encrypted"}
    assert description["garbage"] and all(not description["chunks"][d]["used"] for d in description["garbage"])
    for snapshot in description["snapshots"]:
        read_back(content.files, content.chunks, snapshot)
        manifest_path = f"{snapshot['path']}/{fmt.MANIFEST_NAME}"
        assert (manifest_path in content.files) == snapshot["finished"]


def test_directory_holds_everything(content: fixture_content.Content, tmp_path: Path) -> None:
    fixture_bucket.write_directory(content, tmp_path / "store", age_days=3)
    base = tmp_path / "store"
    files = {str(p.relative_to(base)): p.read_bytes() for p in base.rglob("*") if p.is_file()}
    chunks = {p.rsplit("/", 1)[-1]: data for p, data in files.items() if p.startswith(".chunks/")}
    for snapshot in content.snapshots:
        read_back(files, chunks, snapshot)
    assert (base / "ns/a/ns/b/ct/101/owner").read_text() == "other@pbs\n"
    assert (base / "vm/100").is_dir() and (base / "ns/ab").is_dir()


def test_bucket_holds_everything(content: fixture_content.Content, moto: tuple[Any, Path]) -> None:
    client, log = moto
    fixture_bucket.write_bucket(content, client, "bucket", "fixture", in_use_by="pbs")
    keys = [o["Key"] for o in client.list_objects_v2(Bucket="bucket", Prefix="fixture/")["Contents"]]
    assert sorted(keys) == sorted(fixture_bucket.bucket_objects(content, "fixture", "pbs"))
    assert "fixture/.cnt/ns/a/ns/b/.namespace" in keys
    stored = {key: client.get_object(Bucket="bucket", Key=key)["Body"].read() for key in keys}
    files = {key.removeprefix("fixture/.cnt/"): data for key, data in stored.items()}
    chunks = {key.rsplit("/", 1)[-1]: data for key, data in stored.items() if "/.chunks/" in key}
    for snapshot in content.snapshots:
        read_back(files, chunks, snapshot)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert sum(line["method"] == "PUT" for line in lines) == len(keys)
    assert all(line["status"] == 200 for line in lines)


def test_one_conditional_writer_wins(moto: tuple[Any, Path]) -> None:
    client, _ = moto

    def put(number: int) -> bool:
        try:
            client.put_object(Bucket="bucket", Key="race", Body=b"%d" % number, IfNoneMatch="*")
            return True
        except ClientError as error:
            assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 412
            return False

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(put, range(8))) == 1


def test_server_ends_with_its_time() -> None:
    command = [sys.executable, str(HERE / "moto_locked.py"), "--seconds", "1"]
    assert subprocess.run(command, stdout=subprocess.DEVNULL, timeout=30, check=False).returncode == 0
