"""Writes the fixture datastore to an S3 bucket or to a directory and prints what it holds.

    python fixture_bucket.py s3 --endpoint http://127.0.0.1:9000 --bucket backups --store fixture
    python fixture_bucket.py dir --path /tmp/fixture

The bucket has the layout of Proxmox Backup Server 4.x, the directory that of its file system
datastores.  Output: JSON with namespaces, groups, snapshots (files, digests, SHA-256 of the decoded
content), chunks and garbage; see `fixture_content.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

import fixture_content
from fixture_content import Content, namespace_path

DAY = 86_400


def bucket_objects(content: Content, store: str, in_use_by: str | None = None) -> dict[str, bytes]:
    """Every object by key."""
    objects = {f"{store}/.chunks/{digest[:4]}/{digest}": blob for digest, blob in content.chunks.items()}
    objects.update({f"{store}/.cnt/{path}": data for path, data in content.files.items()})
    for ns in content.namespaces:
        objects[f"{store}/.cnt/{namespace_path(ns)}.namespace"] = b""
    if in_use_by is not None:
        objects[f"{store}/.in-use"] = json.dumps({"hostname": in_use_by}).encode()
    return objects


def write_bucket(content: Content, client: Any, bucket: str, store: str, in_use_by: str | None = None) -> None:
    """Put all objects; the bucket must exist."""
    for key, data in bucket_objects(content, store, in_use_by).items():
        client.put_object(Bucket=bucket, Key=key, Body=data)


def write_directory(content: Content, base: Path, *, age_days: float = 0.0) -> None:
    """Create the datastore directory; `age_days` sets back the access time of every chunk."""
    base.mkdir(mode=0o755, parents=True, exist_ok=True)
    (base / ".lock").touch()
    (base / ".chunks").mkdir(mode=0o750, exist_ok=True)
    for digest, blob in content.chunks.items():
        directory = base / ".chunks" / digest[:4]
        directory.mkdir(mode=0o750, exist_ok=True)
        path = directory / digest
        path.write_bytes(blob)
        seen = path.stat().st_mtime - age_days * DAY
        os.utime(path, (seen, seen))
    for ns in content.namespaces:
        (base / namespace_path(ns)).mkdir(parents=True, exist_ok=True)
    for name, data in content.files.items():
        path = base / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def s3_client(endpoint: str, region: str, access_key: str, secret_key: str) -> Any:
    """A path-style client without optional checksums."""
    config = Config(
        s3={"addressing_style": "path"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name=region,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        config=config,
    )


def main() -> int:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    s3 = kinds.add_parser("s3", help="write to a bucket")
    s3.add_argument("--endpoint", required=True, help="URL of the S3 server")
    s3.add_argument("--bucket", required=True, help="bucket; created when missing")
    s3.add_argument("--store", default="fixture", help="datastore name, the key prefix")
    s3.add_argument("--region", default="us-east-1", help="region")
    s3.add_argument("--access-key", default="test", help="access key")
    s3.add_argument("--secret-key", default="test", help="secret key")
    s3.add_argument("--in-use-by", help="host name for an `.in-use` object as PBS leaves it")
    directory = kinds.add_parser("dir", help="write to a directory")
    directory.add_argument("--path", type=Path, required=True, help="datastore directory")
    directory.add_argument("--age-days", type=float, default=0.0, help="age of the chunks' access times")
    args = parser.parse_args()
    content = fixture_content.build()
    if args.kind == "s3":
        client = s3_client(args.endpoint, args.region, args.access_key, args.secret_key)
        if args.bucket not in [b["Name"] for b in client.list_buckets()["Buckets"]]:
            client.create_bucket(Bucket=args.bucket)
        write_bucket(content, client, args.bucket, args.store, args.in_use_by)
    else:
        write_directory(content, args.path, age_days=args.age_days)
    json.dump(content.description(), sys.stdout, indent=1)
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
